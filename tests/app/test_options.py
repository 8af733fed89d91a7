"""The options of the page: what is refused before anything is served."""

import pytest

from support.tiny_models import tiny_config
from transformers_ila.app.options import DEMO_MODEL, MEBIBYTE, AppOptions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"megabytes": 0}, "megabytes must be a number above 0, got 0"),
        ({"seconds": float("nan")}, "seconds must be a number above 0, got nan"),
        ({"job_seconds": float("inf")}, "job_seconds must be a number above 0"),
        ({"pixels": 0}, "pixels must be a whole number of 1 or more, got 0"),
        ({"jobs": 0}, "jobs must be"),
        ({"queue": True}, "queue must be"),
        ({"users": 10**6}, "users must be at most"),
        ({"models_in_memory": 0}, "models_in_memory must be"),
        ({"disk_megabytes": 50.0}, "disk_megabytes must hold one video of 100 megabytes, got 50"),
        ({"port": 65536}, "port must be at most 65535"),
        ({"host": ""}, "host must be a name or an address"),
        ({"host": "http://localhost"}, "host must be a name or an address"),
        ({"dtype": "float8"}, "dtype must be one of"),
        ({"device": "tpu9"}, "device must be one such as cpu"),
        ({"models": ["no such folder"]}, "There is no folder 'no such folder'"),
        ({"folders": ["no/such"]}, "folders: there is no folder 'no/such'"),
        ({"folders": ["/"]}, "the whole machine"),
        ({"examples": ["no.mp4"]}, "examples: there is no file 'no.mp4'"),
        ({"fixed_models": True}, "fixed_models needs models"),
        ({"index": "no_index"}, "no_index"),
    ],
)
def test_what_is_refused(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        AppOptions(**options)


def test_the_demos_model_and_videos_are_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert AppOptions().chosen_models == [] and AppOptions().chosen_examples == []
    tiny_config().save_pretrained(DEMO_MODEL)
    held_out = tmp_path / "demo_output" / "videos" / "held_out"
    for name in ("left/2.mp4", "left/1.mp4", "right/3.mp4", "empty/notes.txt"):
        (held_out / name).parent.mkdir(parents=True, exist_ok=True)
        (held_out / name).touch()
    options = AppOptions()
    assert options.chosen_models == [DEMO_MODEL]
    offered = [f"demo_output/videos/held_out/{name}" for name in ("left/1.mp4", "right/3.mp4")]
    assert options.chosen_examples == offered
    assert AppOptions(models=["user/name"]).chosen_examples == []


def test_readers_limits_are_those_of_the_page():
    limits = AppOptions(megabytes=3, pixels=1000, job_seconds=7).read_limits()
    assert (limits.max_download_bytes, limits.max_pixels, limits.max_seconds) == (3 * MEBIBYTE, 1000, 7)
    assert not limits.allow_private_addresses


def test_nothing_is_open_by_default():
    options = AppOptions()
    assert (options.host, options.share, options.urls, options.folders) == ("127.0.0.1", False, False, [])

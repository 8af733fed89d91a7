"""Options of `ila index`: what would have no effect is an error, before anything is loaded."""

import pytest

from transformers_ila.cli import index
from transformers_ila.cli.main import run_verb


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output s3://me:secret@bucket/index a.mp4", "'s3://***@bucket/index' is an address, and an index lies in"),
        ("--output here --readers 2 a.mp4", "--readers would have no effect; allowed: beside --engine ray"),
        ("--output here --engine ray", "there is nothing to index"),
        ("--output here --engine ray --workers 2 a.mp4", "workers is 2 and would have no effect on Ray"),
        ("--output here --engine ray --device cuda:1 a.mp4", "device must be cpu or cuda on Ray"),
        ("--output here --engine ray --stride 1 a.mp4", "stride is 1.0 and would have no effect"),
        ("--output here --engine ray --video_timeout 0 a.mp4", "video_timeout must be a number of seconds"),
        ("--output here --engine ray --missing", "--drop and --missing take videos out and go without --engine"),
        ("--output here --engine ray a.mp4 --model here", "There is no folder 'here'"),
    ],
)
def test_options_without_effect(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run_verb(index, words.split()) == 2
    error = capsys.readouterr().err
    assert message in error and "secret" not in error and error.count("\n") == 1


def test_ray_shares_the_videos_itself(monkeypatch, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_verb(index, "--output here --engine ray a.mp4 --model model".split()) == 2
    assert "--engine ray shares the videos itself: start it once, not as 2 processes" in capsys.readouterr().err

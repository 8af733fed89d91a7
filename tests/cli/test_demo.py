"""`scripts/demo.py` on small numbers, in both forms; what it reaches in full length is run by `make demo`."""

import subprocess
import sys

import pytest
from PIL import Image

from support.paths import SCRIPTS
from support.tiny_models import save_clip
from transformers_ila.cli import demo
from transformers_ila.cli.main import run_verb
from transformers_ila.motionbench.tasks import write_folder


DEMO = SCRIPTS / "demo.py"


def run(*arguments: object) -> str:
    command = [sys.executable, str(DEMO), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip", "nope"], "There is no folder 'nope', and it is no Hub id (`user/name`) either."),
        (["--clip", "nobody/nope"], "'nobody/nope'"),
        (["--videos", "few"], "No class has two videos"),
        (["--num_videos", "99999999999999999999"], "--num_videos must be 1 or more, at most 1000000"),
        (["--learning_rate", "nan"], "--learning_rate must be above 0, and finite, got nan"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_written(tmp_path, monkeypatch, capsys, options, message):
    for name in ("a", "b"):
        (tmp_path / "few" / name).mkdir(parents=True)
        (tmp_path / "few" / name / "0.mp4").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run_verb(demo, [*options, "--output", "out"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_only_the_demos_own_videos_are_deleted(tmp_path, capsys):
    own = tmp_path / "videos" / "own.mp4"
    own.parent.mkdir()
    own.touch()
    assert run_verb(demo, ["--output", str(tmp_path)]) == 2 and own.is_file()
    assert "was not written by `ila demo`: remove it, or name another --output." in capsys.readouterr().err
    own.unlink()
    options = demo.DemoOptions(output=str(tmp_path), num_videos=8, num_held_out=8)
    for _ in range(2):  # an earlier run's are replaced
        labels, training, held_out = demo.prepare_videos(options)
        assert (len(labels), len(training), len(held_out)) == (8, 8, 8)


@pytest.mark.slow
def test_generated_videos(tmp_path):
    printed = run("--output", tmp_path, "--num_videos", 48, "--num_held_out", 16, "--steps", 4)
    assert "on 16 videos; chance 12.5%" in printed and "truth: approaching" in printed and "  5. " in printed
    with Image.open(tmp_path / "alignment.png") as picture:
        assert picture.width > 1000 and picture.height > 500
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_clip_weights_and_own_videos(tmp_path):
    clip = save_clip(tmp_path / "clip")
    write_folder(tmp_path / "videos", 48, seed=0)
    options = ["--clip", clip, "--videos", tmp_path / "videos", "--output", tmp_path / "out", "--steps", 2]
    printed = run(*options, "--batch_size", 4)
    assert "on 8 videos; chance 12.5%" in printed and "truth:" in printed

"""`scripts/demo.py` on small numbers, in both forms; what it reaches in full length is run by `make demo`."""

import subprocess
import sys

import pytest
from PIL import Image

from support.paths import SCRIPTS
from support.tiny_models import save_clip
from transformers_ila.motionbench.tasks import write_folder


DEMO = SCRIPTS / "demo.py"


def run(*arguments: object) -> str:
    command = [sys.executable, str(DEMO), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


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

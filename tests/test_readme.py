"""The README's Python examples, run as printed but for the names of checkpoints, videos and folders."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import save_clip

from transformers_ila.motionbench import make_videos, write_folder, write_mp4


REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"


def examples():
    text = README.read_text()
    return dict(re.findall(r"<!-- test: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("readme")
    save_clip(root / "openai" / "clip-vit-base-patch16")
    write_folder(root / "path" / "to" / "videos", 48, seed=0)
    write_mp4(root / "video.mp4", next(make_videos(1, seed=1)).frames)
    return root


def run(code, place):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)


def test_the_examples_run_one_after_the_other(place):
    code = examples()
    assert list(code) == ["session", "trainer", "pipeline", "export", "reading"]
    session = run(code["session"], place)
    assert session.returncode == 0 and session.stdout.startswith("tensor([["), session.stderr
    trainer = run(code["trainer"].replace("num_train_epochs=10", "num_train_epochs=1"), place)
    assert trainer.returncode == 0, trainer.stderr
    answer = run(code["pipeline"], place)
    assert answer.returncode == 0 and "'label'" in answer.stdout, answer.stderr
    export = run(code["export"], place)
    assert export.returncode == 0 and (place / "my-ila-export" / "modeling_ila.py").is_file(), export.stderr
    reading = run(code["reading"], place)
    assert reading.returncode == 0 and reading.stdout.startswith("(3, "), reading.stderr


def test_check_command(place):
    (command,) = re.findall(r"^\.venv/bin/python (scripts/check_videos\.py .*)$", README.read_text(), re.MULTILINE)
    script, *arguments = command.split()
    check = subprocess.run(
        [sys.executable, REPOSITORY / script, *arguments], cwd=place, capture_output=True, text=True, timeout=300
    )
    assert check.returncode == 0 and "48 ok" in check.stdout, check.stderr
    assert len((place / "usable.txt").read_text().splitlines()) == 48


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"^[A-Z]+_[A-Z]+$", README.read_text(), re.MULTILINE)


def test_five_lines_are_enough():
    lines = [line for line in examples()["session"].splitlines() if line.strip()]
    assert len(lines) == 5


def test_every_field_of_the_table_exists_with_the_value_it_names():
    from transformers_ila import IlaConfig

    config = IlaConfig()
    text = README.read_text()
    table = re.search(r"\| field \|.*?\n\n", text, re.DOTALL).group()
    names = [name for row in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(names) >= 12
    assert all(hasattr(config, name) or hasattr(config.vision_config, name) for name in names)

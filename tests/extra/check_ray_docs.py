"""The commands with which docs/scale.md begins run as printed, but for the length of the demo. Needs Ray."""

import re
import shlex
import subprocess
import sys

import pytest

from support.paths import ROOT
from transformers_ila.evaluation.prediction_files import read_results


pytest.importorskip("ray")

SMALL = "--num_videos 48 --num_held_out 16 --steps 4".split()


def test_from_a_folder_to_labels(tmp_path):
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    install, demo, predict = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1].strip().splitlines()
    assert install == "pip install 'transformers-ila[ray]'"
    printed = [ila(tmp_path, demo, *SMALL), ila(tmp_path, predict), ila(tmp_path, predict)]
    assert "16 videos labelled, 0 unreadable" in printed[1] and "0 videos labelled" in printed[2]
    rows = list(read_results(tmp_path / "labels"))
    assert len(rows) == len({row["video"] for row in rows}) == 16 and all(row["labels"] for row in rows)
    assert [file.suffix for file in (tmp_path / "labels").glob("part-*")] == [".parquet"]


def ila(folder, command, *more):
    """What a command prints in a folder."""
    words = shlex.split(command)
    assert words[0] == "ila"
    command = [sys.executable, "-W", "ignore", "-m", "transformers_ila", *words[1:], *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

"""What is killed, and when, and what the results then hold: no row is lost and none is there twice.

Needs Ray. The commands run as a user types them, with a Ray of their own on this machine; what is killed is a process
below the command that a test started. A table of all cases is printed at the end.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.evaluation.prediction_files import read_results
from transformers_ila.motionbench.tasks import MOTIONS, write_folder


pytest.importorskip("ray")

VIDEOS = 160
PATIENCE = 900  # seconds, on a machine with any load
RAY = ("--engine", "ray", "--readers", "1", "--replicas", "1")
CHILD = "forkserver|multiprocessing.spawn"
READER, REPLICA = r"ray::\S*\(?.*Reader", r"ray::\S*\(?.*Labeller"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model and videos, of which each takes some hundredths of a second: twelve views."""
    root = tmp_path_factory.mktemp("kills")
    model = IlaForVideoClassification(tiny_config(classification_head="linear", num_labels=len(MOTIONS)))
    model.config.id2label = dict(enumerate(MOTIONS))
    model.config.label2id = {name: number for number, name in enumerate(MOTIONS)}
    model.save_pretrained(root / "model")
    IlaVideoProcessor.for_model(model.config).save_pretrained(root / "model")
    write_folder(root / "videos", VIDEOS, seed=0)
    return root


@pytest.fixture(scope="module")
def table(request):
    """What was killed, when, and rows lost and twice; printed at the end."""
    rows, capture = [], request.config.pluginmanager.getplugin("capturemanager")
    yield rows
    with capture.global_and_fixture_disabled():
        print("\n\n| killed | when | rows lost | rows twice |\n|---|---|---|---|")
        for row in rows:
            print(f"| {' | '.join(map(str, row))} |")


class Command:
    """`ila predict` on the videos of the place, in a process of its own."""

    def __init__(self, place: Path, output: Path, *words: str) -> None:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "transformers_ila",
            "predict",
            "--model",
            str(place / "model"),
        ]
        command += [str(place / "videos"), "--output", str(output), "--protocol", "4x3", "--batch_size", "4", *words]
        self.output, self.log = output, output.with_name(f"{output.name}-{time.monotonic_ns()}.log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )

    def below(self, title: str) -> list[int]:
        """Numbers of the processes below this one whose command line has the pattern, the deepest last."""
        found, front = [], [self.process.pid]
        parents = processes()
        while front:
            front = [number for number, (parent, _) in parents.items() if parent in front]
            found += [number for number in front if re.search(title, parents[number][1])]
        return found

    def wait_for(self, condition) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.002)

    def wait_for_rows(self, count: int) -> None:
        self.wait_for(lambda: len(rows_of(self.output)) >= count)

    def kill_one(self, title: str) -> None:
        self.wait_for(lambda: self.below(title))
        os.kill(self.below(title)[-1], signal.SIGKILL)

    def end(self, *codes: int) -> str:
        assert self.process.wait(PATIENCE) in codes, self.log.read_text()
        return self.log.read_text()


def processes() -> dict[int, tuple[int, str]]:
    """Number -> parent and command line, of all processes."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, line = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        found[int(folder.name)] = int(stat.rpartition(")")[2].split()[1]), line.replace(b"\0", b" ").decode()
    return found


def rows_of(output: Path) -> list[str]:
    try:
        return [row["video"] for row in read_results(output)]
    except (OSError, json.JSONDecodeError):  # it has not begun
        return []


def count(output: Path) -> tuple[int, int]:
    """Rows lost and rows twice."""
    found = Counter(rows_of(output))
    return VIDEOS - len(found), sum(found.values()) - len(found)


def test_the_driver_at_four_moments_and_a_restart(place, table, tmp_path):
    output = tmp_path / "labels"
    command = Command(place, output, *RAY)
    moments = {
        "before the first row": lambda: command.below(READER),
        "at the first rows": lambda: rows_of(output),
        "in the middle": lambda: len(rows_of(output)) >= VIDEOS // 2,
        "near the end": lambda: len(rows_of(output)) >= VIDEOS * 9 // 10,
    }
    twice = {}
    for moment, reached in moments.items():
        command.wait_for(reached)
        command.process.kill()
        command.process.wait()
        twice[moment] = count(output)[1]
        command = Command(place, output, *RAY)
    command.end(0)
    lost, twice_at_the_end = count(output)
    for moment, number in twice.items():
        table.append(("driver, -9, then the same command", moment, lost, max(number, twice_at_the_end)))
    assert "0 videos labelled" in (printed := Command(place, output, *RAY).end(0)), printed
    table.append(("nothing: the same command again", "when all is done", *count(output)))
    plain = Command(place, output)
    assert "0 videos labelled" in plain.end(0)
    table.append(("nothing: the plain command", "when all is done", *count(output)))
    assert count(output) == (0, 0) and not any(twice.values())


def test_actors_and_workers(place, table, tmp_path):
    """One after the other in one run, which goes on."""
    command = Command(place, tmp_path / "labels", *RAY)
    killed = {
        "child of a reader, -9": CHILD,
        "reader, -9": READER,
        "replica, in a batch, -9": REPLICA,
        "another worker of Ray's, -9": r"ray::(?!.*(Reader|Labeller))",
    }
    for number, title in enumerate(killed.values()):
        command.wait_for_rows(1 + number * VIDEOS // 5)
        command.kill_one(title)
    command.end(0)
    for number, what in enumerate(killed):
        table.append((what, f"{number} fifths of the rows written", *count(command.output)))
    assert count(command.output) == (0, 0)


def test_the_cluster(place, table, tmp_path):
    """The command ends with an error; the same command goes on."""
    command = Command(place, tmp_path / "labels", *RAY)
    command.wait_for_rows(VIDEOS // 4)
    command.kill_one("raylet/raylet")
    command.end(2, 1)
    twice = count(command.output)[1]
    Command(place, command.output, *RAY).end(0)
    lost, more = count(command.output)
    table.append(("raylet, -9, then the same command", "a quarter of the rows written", lost, max(twice, more)))
    assert table[-1][2:] == (0, 0)


def test_parquet(place, table, tmp_path):
    """Rows that wait for their piece are lost with the driver, and computed again."""
    words = (*RAY, "--format", "parquet")
    command = Command(place, tmp_path / "labels", *words)
    command.wait_for(lambda: command.below(REPLICA))
    time.sleep(3)
    command.process.kill()
    command.process.wait()
    Command(place, command.output, *words).end(0)
    table.append(("driver, -9, then the same command", "before a Parquet piece was full", *count(command.output)))
    assert table[-1][2:] == (0, 0)


@pytest.mark.parametrize("first, others", [(RAY, {"ray": RAY, "plain": ()}), ((), {"ray": RAY})], ids=["ray", "plain"])
def test_two_starts(first, others, place, table, tmp_path, request):
    """What starts while another run writes is refused; the first one is stopped meanwhile, so that it still writes."""
    one = Command(place, tmp_path / "labels", *first)
    one.wait_for_rows(1)
    one.process.send_signal(signal.SIGSTOP)
    for words in others.values():
        assert "Another process writes" in Command(place, one.output, *words).end(2)
    one.process.send_signal(signal.SIGCONT)
    one.end(0)
    engine = request.node.callspec.id
    for other in others:
        table.append((f"nothing: {other} starts while {engine} writes", "at its first rows", *count(one.output)))
    assert count(one.output) == (0, 0)

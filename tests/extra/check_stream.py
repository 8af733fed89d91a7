"""`ila stream` on live sources: another process writes MPEG-TS into a pipe in real time, without ffmpeg.

Run by `make test-extra PARTS=streams`, with `-s` so that the delays are seen. A small causal network learns
MotionBench's motions first, in five minutes; the tests take it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import cached_property

import numpy as np
import pytest
import torch

from support.camera import write_stream
from support.paths import ROOT
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli.demo import DemoOptions, small_config
from transformers_ila.motionbench.sequences import BACKGROUND, MotionSequence, clips_of


STEPS, BATCH = 2000, 32
RATE = 4.0  # frames a second of a clip of 8 out of the 16 at 8 frames a second
CAMERA = [sys.executable, str(ROOT / "tests" / "support" / "camera.py")]
ILA = [sys.executable, "-W", "ignore", "-m", "transformers_ila", "stream"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
LONGEST = 180  # seconds that anything may take here


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A causal network that knows the motions, and "nothing"."""
    torch.manual_seed(0)
    labels = [*MotionSequence().labels, BACKGROUND]
    config = small_config(DemoOptions(), labels)
    config.vision_config.alignment_causal = True
    config.frame_rate = RATE
    network = IlaForVideoClassification(config)
    processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": config.vision_config.image_size})
    sequences = [MotionSequence(split="train", index=index, seconds=60) for index in range(120)]
    clips = [(labels.index(label), clip[::2]) for sequence in sequences for label, clip in clips_of(sequence)]
    truth = torch.tensor([label for label, _ in clips])
    views = torch.from_numpy(np.stack([clip for _, clip in clips])).permute(0, 1, 4, 2, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS, pct_start=0.1)
    for _ in range(STEPS):
        some = torch.randint(len(views), (BATCH,))
        network(processor.normalize_on("cpu", views[some]), labels=truth[some]).loss.backward()
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("streams") / "model"
    network.save_pretrained(folder), processor.save_pretrained(folder)
    return folder


class Watched:
    """An `ila stream` that runs, and each of its lines with `time.monotonic()` when it came."""

    def __init__(self, model, *words, stdin=None):
        command = [*ILA, *map(str, words), "--model", str(model), "--background", BACKGROUND]
        self.process = subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, cwd=ROOT, text=True
        )
        self.rows, self.came = [], threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        with suppress(OSError):  # a test closes it
            for line in self.process.stdout:
                with self.came:
                    self.rows.append({**json.loads(line), "read": time.monotonic()})
                    self.came.notify_all()

    def wait_for(self, event):
        """The first row of an event, as soon as it is there."""
        with self.came:
            assert self.came.wait_for(lambda: self.of(event), LONGEST), (event, self.rows)
            return self.of(event)[0]

    def of(self, event, source=None):
        return [row for row in self.rows if row["event"] == event and source in (None, row.get("source"))]

    def end(self):
        """Wait for its end; return the exit code, and what stands on standard error beside the bar of loading."""
        code = self.process.wait(LONGEST)
        self.thread.join(LONGEST)
        return code, self.complaints()

    def complaints(self):
        lines = self.process.stderr.read().splitlines()
        return "".join(line for line in lines if line and not line.startswith("Loading weights"))

    @cached_property
    def memory(self):
        return f"/proc/{self.process.pid}/status"

    def resident(self):
        """Bytes that are in memory now."""
        with open(self.memory) as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


class Filmed:
    """A camera that runs."""

    def __init__(self, stdout=subprocess.PIPE, **options):
        self.process = subprocess.Popen(
            [*CAMERA, json.dumps(options)], stdout=stdout, stderr=subprocess.PIPE, env=ENVIRONMENT, cwd=ROOT
        )
        self.stdout = self.process.stdout

    @cached_property
    def said(self):
        return json.loads(self.process.stderr.readline())


def watch(model, *words, **options):
    """An `ila stream -` that reads a camera."""
    camera = Filmed(**options)
    watched = Watched(model, "-", *words, stdin=camera.stdout)
    camera.stdout.close()  # only the other process reads it
    return camera, watched


def label_at(rows, seconds):
    """The label that holds at a time, by the rows."""
    known = [row["ended"] for row in rows if row["ended"]]
    return next((segment["label"] for segment in known if segment["start"] <= seconds < segment["end"]), None)


def truth_at(annotations, seconds):
    return next((a["label"] for a in annotations if a["segment"][0] <= seconds < a["segment"][1]), None)


def show(title, watched):
    summary = watched.of("summary")[-1]
    shown = {name: summary[name] for name in ("seconds", "frames", "used", "dropped", "delay_ms", "label_delay_ms")}
    print(f"\n{title}: {json.dumps(shown)}")


def test_labels_come_while_the_stream_runs(model):
    camera, watched = watch(model, seconds=40, index=1)
    code, errors = watched.end()
    rows, begun = watched.of("label"), camera.said["started"]
    assert code == 0 and errors == "", errors
    assert watched.of("start")[0]["mode"] == "stream" and watched.of("start")[0]["rate_from"] == "configuration"
    ends = begun + 40
    during = [row for row in rows if row["delay_ms"] is not None]
    assert len(during) > 5 and all(row["read"] < ends for row in during if row["time"] < 35)
    show("40 s of motions", watched)
    for row in during:
        behind = row["read"] - begun - row["time"]
        print(f"  {row['time']:6.2f} s  {row['label']!s:15} {1000 * behind:6.0f} ms behind the camera")
        assert behind > -0.5  # it says its start after the first frame
    right = [label_at(rows, t) == truth_at(camera.said["annotations"], t) for t in np.arange(0, 40, 0.1)]
    print(f"  {np.mean(right):.0%} of the time named rightly")
    assert np.mean(right) > 0.5


def test_a_stall_is_reported_and_gone_on_with(model):
    _, watched = watch(model, "--patience", 1, seconds=14, index=1, stall=[5, 4])
    code, _ = watched.end()
    stall = next(row for row in watched.of("note") if row["kind"] == "stall")
    assert code == 0 and watched.of("end")[0]["used"] + watched.of("end")[0]["dropped"] >= 50
    print("\n", stall)


def test_a_source_that_is_silent_too_long_is_ended(model):
    _, watched = watch(model, "--patience", 1, "--give_up", 3, seconds=60, stall=[4, 40])
    watched.wait_for("note")
    end = watched.wait_for("end")
    code, _ = watched.end()
    print("\n", end)
    assert code == 1 and end["failed"]


def test_a_stream_that_breaks_off(model):
    camera, watched = watch(model, seconds=600)
    assert camera.said["started"]
    time.sleep(5)
    camera.process.kill()
    code, errors = watched.end()
    assert code == 0 and watched.of("end")[0]["used"] >= 5 and errors == ""
    print("\n", watched.rows[-3:])


def test_a_size_that_changes(model):
    _, watched = watch(model, seconds=14, index=1, resize=[7, 64])
    code, _ = watched.end()
    assert code == 0 and "size" in {row["kind"] for row in watched.of("note")}, watched.rows
    assert watched.of("end")[0]["used"] >= 50


def test_a_late_start(model):
    _, watched = watch(model, seconds=8, late=3.0, first_pts=5000.0)
    code, _ = watched.end()
    assert code == 0 and all(row["time"] < 9 for row in watched.rows if "time" in row), watched.rows
    assert watched.of("end")[0]["used"] >= 28


def test_a_slow_machine_drops_frames_and_does_not_lag(tmp_path):
    """A large network that sees 25 frames a second, of which it can compute a few."""
    vision = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    config = small_config(DemoOptions(), ["a", BACKGROUND])
    for name, value in {**vision, "image_size": 224, "patch_size": 16, "alignment_causal": True}.items():
        setattr(config.vision_config, name, value)
    IlaForVideoClassification(config).save_pretrained(tmp_path / "large")
    IlaVideoProcessor.for_model(config).save_pretrained(tmp_path / "large")
    _, watched = watch(tmp_path / "large", "--rate", 25, "--scores", seconds=25, fps=25, side=128)
    code, errors = watched.end()
    assert code == 0, errors
    show("a slow machine", watched)
    late = [row["label_delay_ms"] for row in watched.of("score")]
    first, last = np.array_split(late, 2)
    assert watched.of("summary")[0]["drop_rate"] > 0.2 and np.median(last) < 2 * np.median(first) + 500
    assert "dropped" in {row["kind"] for row in watched.of("note")}


def test_three_cameras_of_which_one_is_broken(model, tmp_path):
    pipes = [tmp_path / f"{name}.ts" for name in ("short", "long", "broken")]
    for pipe in pipes[:2]:
        os.mkfifo(pipe)
    pipes[2].write_bytes(b"no stream at all" * 1000)
    watched = Watched(model, *pipes)
    for pipe, seconds in zip(pipes[:2], (6, 12)):
        with open(pipe, "wb") as end:
            Filmed(stdout=end, seconds=seconds, index=1)
    code, _ = watched.end()
    ends = {os.path.basename(row["source"]): row for row in watched.of("end")}
    assert code == 1 and [*ends] == ["broken.ts", "short.ts", "long.ts"] and ends["broken.ts"]["failed"]
    assert not ends["long.ts"]["failed"] and ends["long.ts"]["used"] + ends["long.ts"]["dropped"] >= 44
    show("three cameras", watched)


@pytest.mark.parametrize("sign, code", [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupt_gives_a_summary(model, sign, code):
    camera, watched = watch(model, seconds=600)
    watched.wait_for("label")
    watched.process.send_signal(sign)
    assert watched.end() == (code, "")
    camera.process.wait(LONGEST)
    assert watched.of("summary")[0]["interrupted"] and watched.of("end")[0]["reason"] == "interrupted"


@pytest.mark.parametrize("lines", [1, 2])
def test_it_ends_when_nobody_reads_on(model, lines):
    """Also where no line comes any more: the source is silent."""
    camera, watched = watch(model, "--scores", seconds=600, stall=[2, 500])
    with watched.came:
        assert watched.came.wait_for(lambda: len(watched.rows) >= lines, LONGEST)
    os.close(watched.process.stdout.fileno())
    assert watched.process.wait(LONGEST) == 0 and watched.complaints() == ""
    camera.process.kill()


def test_memory_is_flat(model, tmp_path):
    """An hour of a stream, written as fast as it is read."""
    hour = tmp_path / "hour.ts"
    with open(hour, "wb") as file:
        write_stream(file, MotionSequence(seconds=3600).frames(), speed=0)
    with open(hour, "rb") as file:
        feeder = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
    watched = Watched(model, "-", stdin=feeder.stdout)
    feeder.stdout.close()
    watched.wait_for("label")
    used = []
    while watched.process.poll() is None:
        try:
            used.append(watched.resident())
        except (OSError, StopIteration):
            break
        time.sleep(1)
    code, _ = watched.end()
    show("an hour at once", watched)
    early, late = np.median(used[: len(used) // 4]), np.median(used[-len(used) // 4 :])
    print(f"  {early / 1e6:.0f} MB, later {late / 1e6:.0f} MB")
    assert code == 0 and late < early + 30e6

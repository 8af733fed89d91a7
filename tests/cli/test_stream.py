"""`ila stream`: what it takes, one line of JSON for each row, and how it ends."""

import json
import os
import sys
import time
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from support.tiny_models import save_clip, tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli import stream
from transformers_ila.cli.main import read_verb, run_verb
from transformers_ila.model.class_names_ila import label_fields


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a CLIP, and half a second of MPEG-TS."""
    root = tmp_path_factory.mktemp("stream")
    torch.manual_seed(0)
    config = tiny_config(classification_head="linear", alignment_causal=True, **label_fields(["a", "b"]))
    IlaForVideoClassification(config).save_pretrained(root / "model")
    IlaVideoProcessor.for_model(config).save_pretrained(root / "model")
    save_clip(root / "clip")
    with av.open(str(root / "a.ts"), "w", format="mpegts") as container:
        video = container.add_stream("mpeg2video", rate=25)
        video.width = video.height = 48
        for index in range(12):
            picture = np.full((48, 48, 3), 20 * index, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
    return root


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


# -- what it takes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "nothing to watch"),
        (["-", "-"], "watched once, got '-'"),
        (["a.ts", "cam", "a.ts"], "watched once, got 'a.ts'"),
        (["-", "--patience", "0"], "patience must be a number of seconds"),
        (["-", "--give_up", "nan"], "give_up must be a number of seconds"),
        (["-", "--patience", "5", "--give_up", "3"], "give_up must be at least patience=5 seconds, got 3"),
        (["-", "--format", "bogus"], "format must be one of .* got 'bogus'"),
        (["-", "--rate", "0"], "rate must be frames a second"),
        (["-", "--threshold", "2"], "threshold must be a number"),
        (["-", "--labels", "a,,b"], "empty word"),
        (["-", "--mode", "clips"], "mode must be one of|invalid choice"),
    ],
)
def test_what_is_refused(place, words, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_verb(stream, [*words, "--model", str(place / "model")])


def test_refused_when_it_runs(place, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    assert run_verb(stream, ["-", "--model", str(place / "model")]) == 2
    assert "standard input is a terminal" in capsys.readouterr().err
    assert run_verb(stream, ["a.ts", "--model", str(place / "clip")]) == 2
    assert "say by --labels" in capsys.readouterr().err
    assert run_verb(stream, ["a.ts", "--model", str(place / "model"), "--rate", "4", "--stride", "0.1"]) == 2
    assert "stride must be" in capsys.readouterr().err


# -- what it prints --------------------------------------------------------------------------------------------------


def test_sources_to_their_ends(place, capsys):
    """One plays, the other one is not there."""
    words = [str(place / "a.ts"), str(place / "b.ts"), "--model", str(place / "model"), "--rate", "10", "--scores"]
    assert run_verb(stream, words) == 1
    printed = lines(capsys.readouterr().out)
    events = [row["event"] for row in printed]
    assert events[0] == "start" and events[-1] == "summary" and events.count("end") == 2
    missing, played = sorted((row for row in printed if row["event"] == "end"), key=lambda row: row["frames"])
    assert missing["failed"] and "b.ts" in missing["reason"] and not played["failed"]
    assert played["frames"] == 12 and played["used"] + played["dropped"] == 5
    scores = [row for row in printed if row["event"] == "score"]
    assert all(set(row["scores"]) == {"a", "b"} and row["delay_ms"] >= 0 for row in scores)


class Rows:
    """Stands for a `Live` that gives these rows, calls what are functions, and ends or waits for ever."""

    def __init__(self, *rows, failed=0, endless=False):
        self.given, self.failed, self.endless, self.closed = rows, failed, endless, False

    def rows(self):
        try:
            for row in self.given:
                if isinstance(row, BaseException):
                    raise row
                if callable(row):
                    row()
                else:
                    yield row
            while self.endless:
                time.sleep(0.01)
        finally:
            self.closed = True

    def ending(self, reason="interrupted"):
        yield {"event": "summary", "reason": reason}


@pytest.mark.parametrize("failed, code", [(0, 0), (2, 1)])
def test_exit_code(capsys, failed, code):
    assert stream.print_rows(Rows({"label": "é\ud800"}, failed=failed)) == code
    printed = capsys.readouterr().out
    assert printed.isascii() and lines(printed) == [
        {"label": "é\ud800"}, {"event": "summary", "reason": "the source has ended"}
    ]  # fmt: skip


def test_an_interrupt_gives_the_summary(capsys):
    live = Rows({"event": "start"}, KeyboardInterrupt())
    assert stream.print_rows(live) == 130 and live.closed
    assert [row["event"] for row in lines(capsys.readouterr().out)] == ["start", "summary"]


def test_a_failure_of_the_program_is_no_end(capsys):
    live = Rows({"event": "start"}, RuntimeError("no memory"))
    with pytest.raises(RuntimeError):
        stream.print_rows(live)
    assert live.closed and len(lines(capsys.readouterr().out)) == 1


@pytest.mark.parametrize("endless", [False, True])
def test_it_ends_when_nobody_reads(monkeypatch, endless):
    """With the next line, or without one."""
    reading, writing = os.pipe()
    monkeypatch.setattr(stream, "LOOK", 0.01)
    live = Rows({"n": 1}, lambda: os.close(reading), *([] if endless else [{"n": 2}] * 1000), endless=endless)
    with open(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        try:
            with pytest.raises(BrokenPipeError):
                stream.print_rows(live)
        finally:
            monkeypatch.undo()
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), output.fileno())
    assert live.closed

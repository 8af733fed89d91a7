"""Several sources at once: which rows come, when, of which source, and with which delays."""

import io
import json
import math
import time
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.camera import write_stream
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.evaluation.inference import Network, evaluating
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.timeline import live as live_module
from transformers_ila.timeline import scores as scores_module
from transformers_ila.timeline.cameras import CLOCK_SECONDS, ArrivalClock
from transformers_ila.timeline.live import Live, names_of
from transformers_ila.timeline.options import TimelineOptions
from transformers_ila.timeline.rules import SegmentOptions
from transformers_ila.timeline.scores import Sampling, stream_scores, window_scores
from transformers_ila.timeline.segments import find_segments
from transformers_ila.timeline.sources import SourceNote, TimedFrame, open_frames
from transformers_ila.timeline.timeline import clip_lag_of


SIDE, CLIP, RATE = 8, 4, 4.0
LABELS = ["dark", "bright"]
PLAIN = SegmentOptions(smoothing=0, min_length=0, max_gap=0, threshold=0.6, lag=0)
ENDED = "the source has ended"
LONG = 30.0  # seconds that nothing takes


class Source:
    """What `open_frames` returns: items in turn, of which None is a look in vain and an exception is raised."""

    def __init__(self, items):
        self.items, self.closed = list(items), False
        self.decoded, self.dropped = sum(isinstance(item, TimedFrame) for item in self.items), 0
        self.duration = max((item.time for item in self.items if isinstance(item, TimedFrame)), default=0) + 1 / RATE

    @property
    def finished(self):
        return not self.items

    def poll(self, timeout=0.0):
        item = self.items.pop(0) if self.items else None
        if isinstance(item, BaseException):
            self.items.clear()
            raise item
        return replace(item, arrived=live_module.time.monotonic()) if isinstance(item, TimedFrame) else item

    def close(self):
        self.closed = True


def frames(brightness, *, start=0.0, rate=RATE, side=SIDE):
    """Frames of these grey values, from 0 to 255, one after the other."""
    return [
        TimedFrame(start + number / rate, np.full((side, side, 3), value, np.uint8), number, 0.0)
        for number, value in enumerate(brightness)
    ]


class Pushed:
    """A model that can stream and says by its frame's mean which it is; what it was asked is noted."""

    def __init__(self, **config):
        self.config = SimpleNamespace(
            class_names=LABELS, problem_type=None, frame_rate=RATE, num_frames=CLIP, _name_or_path="", **config
        )
        self.pushes, self.resets = [], []

    def logits(self, pixel_values):
        bright = (pixel_values.mean((-3, -2, -1)) - 0.5) * 20
        return torch.stack([-bright, bright], dim=-1)

    def __call__(self, pixel_values):
        return SimpleNamespace(logits=self.logits(pixel_values[:, -1]))

    def start_stream(self, batch_size):
        seen = torch.zeros(batch_size, dtype=torch.long)

        def reset(rows):
            self.resets.append(rows)
            seen[rows] = 0

        return SimpleNamespace(seen=seen, reset=reset, size=None)

    def push(self, pixel_values, cache, rows, logits_to_keep):
        if pixel_values.shape[-1] > 2 * SIDE:
            raise ValueError("`pixel_values` are too large")
        assert cache.size in (None, pixel_values.shape[-2:])
        cache.size = pixel_values.shape[-2:]
        self.pushes.append((rows, logits_to_keep))
        cache.seen[rows] += 1
        seen = cache.seen[rows][:, None]
        logits = self.logits(pixel_values) if logits_to_keep else None
        return SimpleNamespace(logits=logits, frames=seen - 1, warming_up=seen < CLIP)


@pytest.fixture
def watch(monkeypatch):
    """Start a `Live` of sources that are lists of items; its model is `Pushed`."""
    processor = IlaVideoProcessor(num_frames=CLIP, do_resize=False, do_center_crop=False, do_normalize=False)

    @contextmanager
    def network(model, options):
        yield Network(model, torch.device("cpu"), torch.float32, None)

    monkeypatch.setattr(live_module, "evaluating", network)
    monkeypatch.setattr(scores_module, "open_frames", lambda source, **options: source)
    monkeypatch.setattr(live_module.threading, "Thread", RunsAtOnce)
    why = SimpleNamespace(answer=None)
    monkeypatch.setattr(import_module("transformers_ila.timeline.timeline"), "why_windows", lambda *of: why.answer)

    def start(*items, options=None, segments=PLAIN, why_windows=None, model=None, **keywords):
        why.answer = why_windows
        sources = [given if hasattr(given, "poll") else Source(given) for given in items]
        return Live(model or Pushed(), processor, sources, options or TimelineOptions(), segments, **keywords)

    return start


class RunsAtOnce:
    def __init__(self, target, kwargs, daemon):
        self.start = lambda: target(**kwargs)


def all_rows(live, reason=ENDED):
    rows = [*live.rows(), *live.ending(reason)]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    return rows


def of(rows, event, source=None):
    return [row for row in rows if row["event"] == event and source in (None, row.get("source"))]


DARK, BRIGHT = [0] * 6, [255] * 6


@pytest.mark.parametrize("why", [None, "it looks ahead"])
def test_a_row_for_each_change_of_label(watch, why):
    """A stream, and windows of which the last frame tells the class: the same but for the borders."""
    rows = all_rows(watch(frames(DARK + BRIGHT), why_windows=why))
    start, first, second, last, end, summary = rows
    assert (start["event"], start["mode"], start["why_windows"]) == ("start", "windows" if why else "stream", why)
    assert (start["rate"], start["rate_from"]) == (RATE, "configuration")
    assert [row["label"] for row in (first, second, last)] == ["dark", "bright", None]
    assert [row["labels"] for row in (first, second, last)] == [["dark"], ["bright"], []]
    assert first["warming_up"] and first["ended"] is None and not second["warming_up"]
    assert second["time"] == 6 / RATE and second["ended"]["label"] == "dark" and second["ended"]["start"] == 0
    assert second["ended"]["end"] == second["start"] < 6 / RATE and last["ended"]["end"] == 3.0
    assert second["delay_ms"] >= 0 and second["label_delay_ms"] >= 0 and last["delay_ms"] is None
    assert (end["frames"], end["used"], end["changes"], end["failed"]) == (12, 12, 3, False)
    assert summary["used"] == 12 and summary["drop_rate"] == 0 and summary["delay_ms"]["p95"] >= 0


def test_rows_say_what_find_segments_finds(watch):
    pattern = np.random.default_rng(0).choice([0, 100, 155, 255], 60)
    segments = SegmentOptions(smoothing=0.3, min_length=0.5, max_gap=0.3, lag=0)
    live = watch(frames(pattern), segments=segments, scores=True)
    rows = all_rows(live)
    scores = [
        SimpleNamespace(
            time=row["time"], start=0.0, warming_up=row["warming_up"], probabilities=[*row["scores"].values()]
        )
        for row in of(rows, "score")
    ]
    assert len(scores) == 60
    found = find_segments(scores, LABELS, segments, end=15.0, clip_lag=clip_lag_of(live.settings))
    ended = [row["ended"] for row in of(rows, "label") if row["ended"]]
    assert [(s.label, round(s.start, 3), round(s.end, 3)) for s in found] == [
        (row["label"], row["start"], row["end"]) for row in ended
    ]


def test_sources_go_through_the_model_together_and_end_when_they_like(watch):
    model = Pushed()
    late = [None, None, *frames(BRIGHT)]
    rows = all_rows(watch(frames(DARK), late, frames(DARK + DARK), model=model))
    assert [rows for rows, _ in model.pushes] == [[0, 2]] * 2 + [[0, 1, 2]] * 4 + [[1, 2]] * 2 + [[2]] * 4
    assert [row["source"] for row in of(rows, "end")] == ["source 1", "source 2", "source 3"]
    assert [row["used"] for row in of(rows, "end")] == [6, 6, 12]
    assert [row["label"] for row in of(rows, "label", "source 2")] == ["bright", None]


def test_a_batch_has_at_most_batch_size_frames(watch):
    model = Pushed()
    all_rows(watch(*[frames(DARK)] * 5, model=model, options=TimelineOptions(batch_size=2)))
    assert [rows for rows, _ in model.pushes] == [[0, 1], [2, 3], [4]] * 6


def test_frames_of_several_sizes(watch):
    """Each size has a batch of its own, and one that the model does not take ends its sources alone."""
    model = Pushed()
    sides = (SIDE, 2 * SIDE, SIDE, 3 * SIDE)
    rows = all_rows(watch(*[frames(DARK, side=side) for side in sides], model=model))
    assert sorted(map(tuple, (rows for rows, _ in model.pushes))) == [(0, 2)] * 6 + [(1,)] * 6
    assert [row["failed"] for row in sorted(of(rows, "end"), key=lambda row: row["source"])] == [0, 0, 0, 1]
    assert "too large" in of(rows, "end", "source 4")[0]["reason"]


def test_a_source_that_fails_ends_alone(watch):
    """At opening, in the middle, by pixels that give no finite logits; its last label ends with it."""
    broken = [*frames(BRIGHT), ValueError("Cannot read http://user:secret@host/a.ts: broken pipe")]
    live = watch(frames(DARK + DARK), broken)
    rows = all_rows(live)
    (whole, failed) = (of(rows, "end", name)[0] for name in ("source 1", "source 2"))
    assert failed["failed"] and "broken pipe" in failed["reason"] and "secret" not in failed["reason"]
    assert not whole["failed"] and whole["used"] == 12 and live.failed == 1 == rows[-1]["failed"]
    assert of(rows, "label", "source 2")[-1]["ended"]["label"] == "bright"


def test_a_source_that_cannot_be_opened_ends_alone(watch, monkeypatch):
    def opened(source, **options):
        if source.decoded == 0:
            raise OSError("no such file")
        return source

    monkeypatch.setattr(scores_module, "open_frames", opened)
    rows = all_rows(watch([], frames(DARK)))
    assert of(rows, "end", "source 1")[0]["reason"] == "no such file" and of(rows, "end", "source 2")[0]["used"] == 6


def test_logits_that_are_not_finite_end_their_source(watch):
    model = Pushed()
    logits = model.logits
    model.logits = lambda pixels: torch.where(logits(pixels) > 9, torch.nan, logits(pixels))
    rows = all_rows(watch(frames([120] * 6), frames([130, 255, 130]), model=model))
    assert of(rows, "end", "source 1")[0]["used"] == 6
    (end,) = of(rows, "end", "source 2")
    assert end["failed"] and "not finite" in end["reason"] and end["used"] == 2


@pytest.mark.parametrize("why", [None, "it looks ahead"])
def test_after_a_gap_a_new_clip_starts(watch, why):
    model = Pushed()
    rows = all_rows(watch([*frames(DARK), *frames(DARK, start=60.0)], model=model, why_windows=why))
    (note,) = of(rows, "note")
    assert note["kind"] == "restart" and note["time"] == 60.0 and "58.75 s" in note["text"]
    labels = of(rows, "label")
    assert [row["label"] for row in labels] == ["dark", None, "dark", None]
    assert labels[1]["ended"]["end"] == 1.5 and labels[2]["start"] == 60.0
    assert labels[2]["warming_up"]
    assert why or model.resets == [[0], [0]]


def test_notes_come_in_their_place(watch):
    items = frames(DARK)
    items.insert(3, SourceNote(0.7, "size", "frames have another size"))
    items.insert(3, SourceNote(0.6, "stall", "nothing came for 10 s"))
    notes = of(all_rows(watch(items)), "note")
    assert [(row["kind"], row["time"]) for row in notes] == [("stall", 0.6), ("size", 0.7)]
    assert notes[1]["text"] == "frames have another size" and notes[1]["source"] == "source 1"


def test_dropped_frames_are_counted(watch):
    source = Source(frames(DARK))
    source.dropped = 2
    *_, end, summary = all_rows(watch(source))
    assert end["drop_rate"] == summary["drop_rate"] == 0.25 and summary["dropped"] == 2


def test_with_a_stride_not_every_frame_has_a_score(watch):
    model = Pushed()
    rows = all_rows(watch(frames(DARK + BRIGHT), model=model, options=TimelineOptions(stride=0.75), scores=True))
    assert [row["time"] for row in of(rows, "score")] == [0.0, 0.75, 1.5, 2.25]
    assert [keep for _, keep in model.pushes] == [1, 0, 0] * 4


def test_labels_that_overlap(watch):
    model = Pushed()
    model.config.problem_type = "multi_label_classification"
    model.logits = lambda pixels: (
        torch.stack([torch.ones_like(pixels[..., 0, 0, 0])] * 2, -1) * torch.tensor([9.0, 0.0])
        + (pixels.mean((-3, -2, -1))[..., None] - 0.5) * torch.tensor([0.0, 20.0])
    )
    rows = of(all_rows(watch(frames(DARK + BRIGHT + DARK), model=model)), "label")
    assert [(row["label"], row["labels"]) for row in rows] == [
        ("dark", ["dark"]), ("bright", ["dark", "bright"]), (None, ["dark"]), (None, [])
    ]  # fmt: skip
    assert [row["ended"] and row["ended"]["label"] for row in rows] == [None, None, "bright", "dark"]


def test_interrupted_sources_are_ended_and_summed_up(watch):
    source = Source([*frames(BRIGHT), KeyboardInterrupt()])
    source.duration = 600.0  # of which only the beginning was seen
    live = watch(source)
    rows = []
    with pytest.raises(KeyboardInterrupt):
        for row in live.rows():
            rows.append(row)
    assert all(camera.frames.closed for camera in live.cameras)
    label, end, summary = live.ending()
    assert label["ended"]["label"] == "bright" and end["reason"] == "interrupted" and not end["failed"]
    assert label["ended"]["end"] == end["time"] == 1.5
    assert summary["interrupted"] and summary["used"] == 6


def test_sources_are_let_go_when_nobody_asks_for_more(watch):
    live = watch(frames(BRIGHT), frames(DARK))
    rows = live.rows()
    next(rows), next(rows)
    rows.close()
    assert all(camera.frames.closed for camera in live.cameras)


def test_no_sources_and_names():
    with pytest.raises(ValueError, match="no sources"):
        Live(None, None, [])
    assert names_of(["-", "a.ts", "a.ts", b"x", "http://u:p@h/v"])[:4] == ["-", "a.ts", "a.ts (3)", "source 4"]
    assert "p@" not in names_of(["http://u:p@h/v"])[0]


# -- what is dropped -------------------------------------------------------------------------------------------------


def piped(count, fps):
    """MPEG-TS that cannot seek, and comes at once."""
    stream = io.BytesIO()
    write_stream(stream, np.zeros((count, 32, 32, 3), np.uint8), fps=fps, speed=0)
    stream.seek(0)
    stream.seekable = lambda: False
    return stream


@pytest.mark.parametrize("fps, dropped", [(Fraction(1, 5), 0), (500, 8)])
def test_frames_piped_in_faster_than_they_are_shown_are_not_dropped(fps, dropped):
    """All ten are there at once. At 5 s from one to the next none is late; at 2 ms all are but the newest."""
    with open_frames(piped(10, fps), live=True, lag=LONG) as source:
        found = [next(source).index]
        source._thread.join(LONG)
        source.lag = 0.01
        time.sleep(0.08)  # longer than the frames are shown at 2 ms, and than they may wait
        found += [item.index for item in source if isinstance(item, TimedFrame)]
    assert found == ([0, 9] if dropped else list(range(10))) and source.dropped == dropped


# -- the clock -------------------------------------------------------------------------------------------------------


def test_frames_are_late_by_the_quickest_one():
    clock = ArrivalClock()
    for frame_time, arrived in ((0.0, 100.3), (1.0, 101.1), (2.0, 102.5)):
        clock.see(frame_time, arrived)
    assert math.isclose(clock.lateness(2.0, 102.6), 0.5)


@pytest.mark.parametrize("drift", [-3e-4, 3e-4])
def test_a_clock_that_drifts_and_a_source_that_stood_still_are_soon_on_time_again(drift):
    clock = ArrivalClock()
    for second in range(20_000):
        clock.see(second, 100 + second * (1 + drift))
    assert 0 <= clock.lateness(second, 100 + second * (1 + drift)) <= 2 * CLOCK_SECONDS * 3e-4 + 1e-6
    for later in range(second, second + 130):
        clock.see(later, 200 + later)
    assert clock.lateness(later, 200 + later) < 0.01


# -- a real model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_scores_are_those_of_each_source_alone(monkeypatch, causal):
    """Of a stream and of windows: whatever other sources are in the same batch."""
    torch.manual_seed(0)
    fields = {"alignment_causal": True} if causal else {"alignment_fusion": "residual"}
    config = tiny_config(classification_head="linear", **fields, **label_fields(LABELS))
    model, processor = IlaForVideoClassification(config).eval(), IlaVideoProcessor.for_model(config)
    rng = np.random.default_rng(0)
    sources = [
        [TimedFrame(n / RATE, rng.integers(0, 255, (32, 40, 3), np.uint8), n, 0.0) for n in range(count)]
        for count in (7, 3, 5)
    ]
    monkeypatch.setattr(scores_module, "open_frames", lambda source, **options: source)
    monkeypatch.setattr(live_module.threading, "Thread", RunsAtOnce)
    options = TimelineOptions(rate=RATE)
    given = [Source(items[:1] + [None] * wait + items[1:]) for wait, items in enumerate(sources)]
    rows = all_rows(Live(model, processor, given, options, scores=True))
    assert rows[0]["mode"] == ("stream" if causal else "windows")
    give = stream_scores if causal else window_scores
    with evaluating(model, options.inference_options()) as network:
        for number, items in enumerate(sources, 1):
            alone = list(give(network, processor, items, Sampling(rate=RATE, num_frames=4)))
            found = [[*row["scores"].values()] for row in of(rows, "score", f"source {number}")]
            assert np.allclose(found, [score.probabilities for score in alone], atol=2e-6)

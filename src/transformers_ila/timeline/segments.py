"""Scores over time to segments: one label each, with a start, an end and a score.

A score is known at a time and speaks for the time around it: the border between two scores lies halfway between their
times. The first score of a stretch speaks from its `start`, the last one until the stretch's end. `lag` moves all
borders but these two back.

The path of a score: smoothing -> thresholds with hysteresis -> runs of a label -> runs joined over short gaps -> runs
that are too short dropped. `SegmentTracker` does this score by score, and `find_segments` is that tracker fed with a
list, so that a file and a camera give the same segments. Shapes: `K` classes.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch


def _require_seconds(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, got {value!r}.")


def _require_probability(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability, 0 to 1, got {value!r}.")


class TimedScore(Protocol):
    """Describe what the tracker reads of a score.

    time: seconds at which it is known; of a window its middle.
    start: seconds from which it speaks if it is the first of its stretch: of a stream the oldest frame's time that it
    is made of, of a window its first frame's.
    probabilities: (K,), 0 to 1.
    warming_up: whether the stream had seen fewer than `num_frames` frames.
    """

    @property
    def time(self) -> float: ...
    @property
    def start(self) -> float: ...
    @property
    def probabilities(self) -> Any: ...
    @property
    def warming_up(self) -> bool: ...


@dataclass(frozen=True)
class Segment:
    """Hold one stretch of time with one label.

    start, end: seconds. score: the mean over its time of the label's probability, as the model gave it (not smoothed).
    """

    label: str
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Change:
    """Hold that a segment starts or ends.

    kind: "start", as soon as the segment is `min_length` long, or "end", as soon as no later score can lengthen it.
    time: that of the score which decided it; of those at the end of a stretch that end.
    segment: its end and score are final in an "end", and those so far in a "start".
    """

    kind: str
    time: float
    segment: Segment


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Hold how scores become segments.

    Raises:
        ValueError: a value that is not allowed.
    """

    _argument_group_name = "segments"

    smoothing: float = field(
        default=0.5, metadata={"help": "seconds: time constant of the exponential mean over scores; 0: none"}
    )
    threshold: float = field(default=0.5, metadata={"help": "probability, smoothed, at which a label begins"})
    threshold_off: float | None = field(
        default=None, metadata={"help": "probability, smoothed, below which it ends; default: 0.8 of --threshold"}
    )
    min_length: float = field(default=0.5, metadata={"help": "seconds: shorter segments are dropped"})
    max_gap: float = field(default=0.5, metadata={"help": "seconds: shorter gaps within a label are filled"})
    lag: float = field(
        default=0.0, metadata={"help": "seconds by which scores come after what they name: borders are moved back"}
    )
    background: str | None = field(
        default=None, metadata={"help": "class that means nothing: it is left out of the segments"}
    )
    skip_warming_up: bool = field(
        default=False, metadata={"help": "leave out scores of a stream that has seen less than one clip"}
    )
    calibration: str | None = field(
        default=None, metadata={"help": "JSON file of thresholds chosen on held-out data, see docs/streaming.md"}
    )

    def __post_init__(self) -> None:
        for name in ("smoothing", "min_length", "max_gap", "lag"):
            _require_seconds(name, getattr(self, name))
        _require_probability("threshold", self.threshold)
        if self.threshold_off is not None:
            _require_probability("threshold_off", self.threshold_off)
            if self.threshold_off > self.threshold:
                raise ValueError(
                    f"threshold_off must be at most threshold, {self.threshold}; got {self.threshold_off}."
                )


@dataclass
class _Run:
    """Hold what a label has been since it began: its time, and the sum of probability times seconds."""

    start: float
    end: float
    on: bool = True
    confirmed: bool = False
    mass: float = 0.0  # until `end`
    since: float = 0.0  # mass of the gap behind `end`, which counts if the label comes back


class SegmentTracker:
    """Turn scores into starts and ends of segments, one score at a time; its memory does not grow.

    labels: the K class names. multi_label: each label has its own segments, which may overlap; else one label at a
    time. Of equal probabilities the label that is on stays, else the lower index wins.

    Raises:
        ValueError: no labels, or a background that is none of them.
    """

    def __init__(
        self, labels: Sequence[str], options: SegmentOptions = SegmentOptions(), multi_label: bool = False
    ) -> None:
        self.labels, self.options, self.multi_label = tuple(labels), options, multi_label
        if not self.labels:
            raise ValueError("There are no labels; allowed: one or more.")
        if options.background is not None and options.background not in self.labels:
            raise ValueError(f"background must be one of the labels, got {options.background!r}.")
        self.background = None if options.background is None else self.labels.index(options.background)
        self._off = options.threshold * 0.8 if options.threshold_off is None else options.threshold_off
        self._forget()

    def _forget(self) -> None:
        self._smoothed: np.ndarray | None = None
        self._last: tuple[float, np.ndarray] | None = None  # time and probabilities of the last score
        self._border = 0.0  # from which the last score speaks
        self._runs: dict[int, _Run] = {}

    def push(self, score: TimedScore) -> list[Change]:
        """Take the next score, and return the starts and ends that it decides, in order of time.

        Raises:
            ValueError: a time that is not after the last one's, or probabilities that are none.
        """
        probabilities = self._checked(score)
        if score.warming_up and self.options.skip_warming_up:
            return []
        if self._last is None:
            self._border, self._smoothed = float(score.start), probabilities
        else:
            before, _ = self._last
            self._advance(max(self._border, (before + score.time) / 2 - self.options.lag))
            self._smooth(probabilities, score.time - before)
        self._last = (float(score.time), probabilities)
        return self._decide(self._labels_on(), float(score.time))

    def finish(self, end: float) -> list[Change]:
        """End all segments, the source being at its end or interrupted there; the next score begins a new stretch.

        end: seconds; the last score speaks until then.
        """
        if self._last is None:
            return []
        self._advance(max(self._border, float(end)))
        changes = [change for index in sorted(self._runs) for change in self._close(index, float(end))]
        self._forget()
        return changes

    def _checked(self, score: TimedScore) -> np.ndarray:
        found = torch.as_tensor(score.probabilities).detach().cpu().double().numpy()
        if found.shape != (len(self.labels),):
            raise ValueError(f"probabilities must be ({len(self.labels)},), one a label; got {found.shape}.")
        if not ((found >= -1e-6) & (found <= 1 + 1e-6)).all():  # NaN is neither
            raise ValueError(
                f"probabilities must be from 0 to 1, got {found.min()} to {found.max()} at {score.time} s."
            )
        if not math.isfinite(score.time) or (self._last is not None and score.time <= self._last[0]):
            last = "none" if self._last is None else f"{self._last[0]} s"
            raise ValueError(f"Times of scores must rise; got {score.time} s after {last}.")
        return found

    def _smooth(self, probabilities: np.ndarray, seconds: float) -> None:
        """Take the new score in: with weight 1 - exp(-seconds / smoothing), the same for any steps between scores."""
        weight = 1.0 if self.options.smoothing == 0 else -math.expm1(-seconds / self.options.smoothing)
        self._smoothed = self._smoothed + weight * (probabilities - self._smoothed)

    def _labels_on(self) -> list[int]:
        """Return which labels are on by the smoothed probabilities."""
        smoothed, options = self._smoothed, self.options
        assert smoothed is not None
        on = {index for index, run in self._runs.items() if run.on}
        if self.multi_label:
            bars = (self._off if index in on else options.threshold for index in range(len(self.labels)))
            return [k for k, bar in enumerate(bars) if k != self.background and smoothed[k] >= bar]
        ahead = smoothed.copy()
        current = next(iter(on), None)
        best = int(ahead.argmax())
        if current is not None and ahead[current] >= ahead[best]:
            best = current
        if best == self.background:
            return []
        if best != current and smoothed[best] < options.threshold:
            best = current if current is not None else best
        bar = self._off if best == current else options.threshold
        return [best] if smoothed[best] >= bar else []

    def _advance(self, border: float) -> None:
        """Let the last score speak until a border."""
        assert self._last is not None
        seconds = border - self._border
        for index, run in self._runs.items():
            mass = seconds * float(self._last[1][index])
            if run.on:
                run.mass, run.end = run.mass + run.since + mass, border
                run.since = 0.0
            else:
                run.since += mass
        self._border = border

    def _decide(self, on: list[int], time: float) -> list[Change]:
        changes: list[Change] = []
        for index, run in self._runs.items():
            run.on = index in on
        for index in on:
            if index not in self._runs:
                self._runs[index] = _Run(self._border, self._border)
            elif not self.multi_label:  # it came back: what was shorter meanwhile is swallowed
                for other in [
                    k for k, run in self._runs.items() if k != index and run.start > self._runs[index].start
                ]:
                    del self._runs[other]
        for index in list(self._runs):
            run = self._runs[index]
            if not run.on and self._border - run.end > self.options.max_gap:
                changes += self._close(index, time)
        for index in on:
            run = self._runs[index]
            if not run.confirmed and run.end - run.start >= self.options.min_length:
                if not self.multi_label:
                    for other in [k for k in self._runs if k != index]:
                        changes += self._close(other, time)
                run.confirmed = True
                changes.append(Change("start", time, self._segment(index)))
        return changes

    def _close(self, index: int, time: float) -> list[Change]:
        run, segment = self._runs[index], self._segment(index)
        del self._runs[index]
        if run.confirmed:
            return [Change("end", time, segment)]
        if run.end - run.start >= self.options.min_length and run.end > run.start:
            return [Change("start", time, segment), Change("end", time, segment)]
        return []

    def _segment(self, index: int) -> Segment:
        run = self._runs[index]
        seconds = run.end - run.start
        score = run.mass / seconds if seconds > 0 else float(self._last[1][index] if self._last else 0.0)
        return Segment(self.labels[index], run.start, run.end, score)


def find_segments(
    scores: Iterable[TimedScore],
    labels: Sequence[str],
    options: SegmentOptions = SegmentOptions(),
    multi_label: bool = False,
    end: float | None = None,
    breaks: Sequence[float] = (),
) -> list[Segment]:
    """Return the segments of scores over time, sorted by start; no scores give none.

    Args:
        scores: in order of time.
        labels: the K class names.
        options: how scores become segments.
        multi_label: whether segments of several labels may overlap.
        end: seconds at which the source ends; by default the last score's time.
        breaks: seconds of the last moment before each gap of the source; no segment reaches over one.

    Raises:
        ValueError: as `SegmentTracker`.
    """
    tracker = SegmentTracker(labels, options, multi_label)
    changes: Iterator[Change] = _changes(tracker, scores, end, sorted(breaks))
    found = [change.segment for change in changes if change.kind == "end"]
    return sorted(found, key=lambda segment: (segment.start, segment.end, tracker.labels.index(segment.label)))


def _changes(
    tracker: SegmentTracker, scores: Iterable[TimedScore], end: float | None, breaks: list[float]
) -> Iterator[Change]:
    last = None
    for score in scores:
        while breaks and breaks[0] < score.time:
            yield from tracker.finish(breaks.pop(0))
        yield from tracker.push(score)
        last = score.time
    if last is not None:
        yield from tracker.finish(last if end is None else end)

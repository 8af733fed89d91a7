"""Scores over time to segments: one label each, with a start, an end and a score.

A score is known at a time and speaks for the time around it: the border between two scores lies halfway between their
times, less what they come late by: the `lag`, and of a stream half of the clip that was seen, as its scores have the
time of the clip's last frame. The first score of a stretch speaks from its `start`, the last one until the stretch's
end.

The path of a score: smoothing -> thresholds with hysteresis -> runs of a label -> runs joined over short gaps -> runs
that are too short dropped. `SegmentTracker` does this score by score, and `find_segments` is that tracker fed with a
list, so that a file and a camera give the same segments. Shapes: `K` classes.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from .rules import DEFAULTS, SegmentOptions, SegmentRules


SMOOTHING_LAG = 0.5  # of its time constant, by which the mean over scores comes later (benchmarks/timeline.py)
ROUNDING = 1e-6  # by which probabilities may be beyond 0 and 1


class TimedScore(Protocol):
    """Describe what the tracker reads of a score.

    time: seconds at which it is known; of a window its middle.
    start: seconds, of the first frame that it is made of; the first score of a stretch speaks from there.
    probabilities: (K,), 0 to 1.
    warming_up: whether fewer than `num_frames` frames were there.
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


@dataclass
class _Run:
    """Hold what a label has been since it began.

    start, end: seconds, of the scores in which it was on. on: whether it still is.
    announced: whether it is a segment already, and not only what may become one.
    sum: probability times seconds up to `end`. behind: the same from there on, which counts if the label comes back.
    """

    start: float
    end: float
    on: bool = True
    announced: bool = False
    sum: float = 0.0
    behind: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end - self.start


class SegmentTracker:
    """Turn scores into starts and ends of segments, one score at a time; its memory does not grow.

    With one label at a time the label of the highest probability holds; of equal ones the label that is on stays, else
    the lower index wins. Another label takes over from it at its own threshold. A label that comes back within
    `max_gap` swallows what was too short between. With several labels a video each has its own segments, which may
    overlap.

    Args:
        labels: the K class names.
        options: how scores become segments.
        multi_label: whether segments of several labels may overlap.
        clip_lag: share of its clip, from `start` to `time`, by which a score comes after what it names: 0.5 of a
            stream, whose scores have the time of the clip's last frame; 0 of windows, whose time is the clip's
            middle. Options that say a lag mean all of it, and this has no part in it.

    Raises:
        ValueError: no labels, one twice, or a background or threshold of none of them.
    """

    def __init__(
        self,
        labels: Sequence[str],
        options: SegmentOptions | SegmentRules = DEFAULTS,
        multi_label: bool = False,
        *,
        clip_lag: float = 0.0,
    ) -> None:
        rules = options.rules() if isinstance(options, SegmentOptions) else options
        rules.require_labels(labels)
        self.labels, self.multi_label = tuple(labels), multi_label
        self.clip_lag = clip_lag if rules.lag is None else 0.0
        self.rules = replace(rules, lag=SMOOTHING_LAG * rules.smoothing if rules.lag is None else rules.lag)
        self._background = None if rules.background is None else self.labels.index(rules.background)
        self._on = np.array([rules.thresholds.get(label, rules.threshold) for label in self.labels])
        self._off = self._on * (1 - rules.hysteresis)
        self._border = -math.inf  # seconds, from which the last score speaks
        self._forget()

    def _forget(self) -> None:
        self._smoothed = np.zeros(len(self.labels))
        self._last: tuple[float, np.ndarray] | None = None  # time and probabilities of the last score
        self._moment = -math.inf  # seconds, the middle of what the last score was made of
        self._held = bool(self.rules.lag or self.clip_lag)  # whether the next score may speak from the same border on
        self._runs: dict[int, _Run] = {}  # class -> what it has been, by start; with one label at a time one is on

    def push(self, score: TimedScore) -> list[Change]:
        """Take the next score, and return the starts and ends that it decides; ends come first.

        Raises:
            ValueError: a time that is not after the last one's, or probabilities that are none.
        """
        time, probabilities = float(score.time), self._checked(score)
        moment = time - self.clip_lag * (time - float(score.start))
        if score.warming_up and self.rules.skip_warming_up:
            return []
        if self._last is None:
            self._border, self._smoothed = max(self._border, float(score.start)), probabilities.copy()
        else:
            before = self._last[0]
            self._advance((self._moment + moment) / 2 - (self.rules.lag or 0.0))
            self._smooth(probabilities, time - before)
        self._last, self._moment = (time, probabilities), moment
        return self._decide(self._labels_on(), time)

    def finish(self, end: float) -> list[Change]:
        """End all segments where the source ends or is interrupted; the next score begins a new stretch.

        end: seconds; the last score speaks until then.
        """
        if self._last is None:
            return []
        self._advance(float(end))
        changes = [change for index in list(self._runs) for change in self._close(index, float(end))]
        self._forget()
        return changes

    def _checked(self, score: TimedScore) -> np.ndarray:
        """Return the probabilities (K,) float64; raise an error where they, or the time, are none."""
        found = torch.as_tensor(score.probabilities).detach().cpu().double().numpy()
        if found.shape != (len(self.labels),):
            raise ValueError(f"probabilities must be ({len(self.labels)},), one a label; got {found.shape}.")
        if not ((found >= -ROUNDING) & (found <= 1 + ROUNDING)).all():  # NaN is neither
            what = f"{found.min()} to {found.max()}"
            raise ValueError(f"probabilities must be from 0 to 1, got {what} at {score.time} s.")
        if not math.isfinite(score.time) or not math.isfinite(score.start):
            raise ValueError(f"Times of a score must be seconds, got {score.time} and {score.start}.")
        if self._last is not None and score.time <= self._last[0]:
            raise ValueError(f"Times of scores must rise; got {score.time} s after {self._last[0]} s.")
        return found

    def _smooth(self, probabilities: np.ndarray, seconds: float) -> None:
        """Take the new score in with the weight 1 - exp(-seconds / smoothing), right for any step between scores."""
        smoothing = self.rules.smoothing
        weight = -math.expm1(-seconds / smoothing) if smoothing else 1.0
        self._smoothed = self._smoothed + weight * (probabilities - self._smoothed)

    def _labels_on(self) -> list[int]:
        """Return which labels are on by the smoothed probabilities."""
        smoothed, current = self._smoothed, [index for index, run in self._runs.items() if run.on]
        if self.multi_label:
            bars = self._on.copy()
            bars[current] = self._off[current]
            return [int(index) for index in np.flatnonzero(smoothed >= bars) if index != self._background]
        best = int(smoothed.argmax())
        if current and smoothed[current[0]] >= smoothed[best]:
            best = current[0]
        if best == self._background:
            return []
        if smoothed[best] >= self._on[best]:
            return [best]
        return [index for index in current if smoothed[index] >= self._off[index]]

    def _advance(self, border: float) -> None:
        """Count the last score for the time between the last border and this one, in seconds."""
        assert self._last is not None
        self._held = border <= self._border
        border = max(border, self._border)
        for index, run in self._runs.items():
            gain = (border - self._border) * float(self._last[1][index])
            if run.on:
                run.sum, run.behind, run.end = run.sum + run.behind + gain, 0.0, border
            else:
                run.behind += gain
        self._border = border

    def _decide(self, on: list[int], time: float) -> list[Change]:
        """Begin, continue and end the runs of labels at the border; return the changes that this decides."""
        changes = self._announce(time)  # what has just ended may be long enough
        for index, run in list(self._runs.items()):
            if self._border - run.end > self.rules.max_gap:  # also of one that would come back too late
                changes += self._close(index, time)
            run.on = index in on
        for index in on:
            if index not in self._runs:
                self._runs[index] = _Run(self._border, self._border)
            elif not self.multi_label:  # what came between was too short
                since = self._runs[index].start
                self._runs = {other: run for other, run in self._runs.items() if run.start <= since}
        return changes + self._announce(time)

    def _announce(self, time: float) -> list[Change]:
        """Return the starts of what is long enough, and the ends of what that takes over from."""
        changes: list[Change] = []
        for index, run in list(self._runs.items()):
            lasts = run.seconds > 0 or not self._held
            if not run.announced and lasts and run.seconds >= self.rules.min_length:
                if not self.multi_label:
                    for other in [other for other in self._runs if other != index]:
                        changes += self._close(other, time)
                run.announced = True
                changes.append(Change("start", time, self._segment(index)))
        return changes

    def _close(self, index: int, time: float) -> list[Change]:
        """Forget a label's run; return its end, and its start too where nobody knows of it yet."""
        run, segment = self._runs[index], self._segment(index)
        del self._runs[index]
        if run.announced:
            return [Change("end", time, segment)]
        if run.seconds > 0 and run.seconds >= self.rules.min_length:
            return [Change("start", time, segment), Change("end", time, segment)]
        return []

    def _segment(self, index: int) -> Segment:
        run = self._runs[index]
        assert self._last is not None
        score = run.sum / run.seconds if run.seconds else float(self._last[1][index])
        return Segment(self.labels[index], run.start, run.end, score)


def find_segments(
    scores: Iterable[TimedScore],
    labels: Sequence[str],
    options: SegmentOptions | SegmentRules = DEFAULTS,
    multi_label: bool = False,
    end: float | None = None,
    *,
    clip_lag: float = 0.0,
    breaks: Iterable[float] = (),
) -> list[Segment]:
    """Return the segments of scores over time, sorted by start; no scores give none.

    Args:
        scores: in order of time.
        labels, options, multi_label, clip_lag: as of `SegmentTracker`.
        end: seconds at which the source ends; by default the last score's time.
        breaks: seconds of the last moment before each gap of the source; no segment reaches over one.

    Raises:
        ValueError: as `SegmentTracker`.
    """
    tracker = SegmentTracker(labels, options, multi_label, clip_lag=clip_lag)
    found = [change.segment for change in _changes(tracker, scores, end, sorted(breaks)) if change.kind == "end"]
    return sorted(found, key=lambda segment: (segment.start, segment.end, tracker.labels.index(segment.label)))


def _changes(
    tracker: SegmentTracker, scores: Iterable[TimedScore], end: float | None, breaks: list[float]
) -> Iterator[Change]:
    last = 0.0
    for score in scores:
        while breaks and breaks[0] < score.time:
            yield from tracker.finish(breaks.pop(0))
        yield from tracker.push(score)
        last = score.time
    yield from tracker.finish(last if end is None else end)

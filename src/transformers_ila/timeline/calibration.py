"""Chooses on held-out videos how scores become segments, and keeps what was chosen in a file.

The criterion is the mean of the F1 of segments at the temporal overlaps 0.3, 0.5 and 0.7; of equal ones the share of
the time with the right labels decides. Numbers are tried one after the other, each over its grid, twice; a number
changes only where that is better. A temperature is not among them: what it gained on validation sequences it lost on
test sequences (docs/evaluation.md).
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..files import atomic_write
from .detection_metrics import OVERLAPS, VideoSegments, evaluate_segments, truth_of
from .rules import CALIBRATION, CALIBRATION_VERSION, DEFAULTS, SegmentOptions, SegmentRules
from .scores import RESTART, Score, last_frame_time
from .segments import Segment, find_segments
from .timeline import Timeline, clip_lag_of


GRIDS: dict[str, tuple[float, ...]] = {  # what is tried of each number
    "threshold": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "smoothing": (0.0, 0.15, 0.3, 0.5, 0.8, 1.2),
    "hysteresis": (0.0, 0.2, 0.4, 0.6),
    "min_length": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5),
    "max_gap": (0.0, 0.25, 0.5, 1.0),
}
SWEEPS = 2


@dataclass(frozen=True)
class Calibration:
    """Hold the rules that were chosen, and how good they are.

    rules: what `SegmentOptions(calibration=...)` takes in place of the defaults.
    chosen_on: the criterion of these rules and of those before, and what it was measured on.
    """

    rules: SegmentRules
    chosen_on: dict[str, Any] = field(default_factory=dict)


def segments_of(timeline: Timeline, options: SegmentOptions | SegmentRules = DEFAULTS) -> list[Segment]:
    """Return the segments of a timeline's scores by other options than it was computed with.

    Raises:
        ValueError: it has no scores, but segments; or a background or threshold of none of its labels.
    """
    if not len(timeline.times) and timeline.settings.get("scores", 0):
        raise ValueError(f"The timeline of {timeline.video!r} has no scores; allowed is one with `keep_scores`.")
    columns = zip(timeline.times.tolist(), timeline.scores, timeline.warming_up.tolist(), timeline.starts.tolist())
    scores = [Score(*row) for row in columns]
    step, mode = 1 / timeline.settings["rate"], timeline.settings["mode"]
    ends = [last_frame_time(score.time, score.start, mode) for score in scores]
    breaks = []
    for note in timeline.notes:
        before = bisect_left(ends, note.time)
        if note.kind == RESTART and before:
            breaks.append(min(ends[before - 1] + step, note.time))
    clip_lag = clip_lag_of(timeline.settings)
    several = timeline.settings["multi_label"]
    return find_segments(
        scores, timeline.labels, options, several, timeline.duration, clip_lag=clip_lag, breaks=breaks
    )


def calibrate(
    timelines: Sequence[Timeline],
    truth: Mapping[str, VideoSegments],
    *,
    rules: SegmentRules = DEFAULTS,
    tuned: Sequence[str] = tuple(GRIDS),
    progress: Callable[[int], object] | None = None,
) -> Calibration:
    """Choose by held-out videos how scores become segments.

    Args:
        timelines: of the videos, with scores, of one model and one mode. Clips of one label each are videos, too,
            whose truth lasts as long as they do; then choose only the threshold.
        truth: the true segments by video, as `read_segments` reads them.
        rules: what to start from; they name the background, if there is one.
        tuned: which numbers are chosen; the others stay as they are. `smoothing` and `min_length` cost delay: leave
            them out where that counts.
        progress: called with 1 after each of the trials.

    Returns:
        The rules chosen. Where several labels may hold at once each label has a threshold of its own.

    Raises:
        ValueError: no timelines, timelines of different models or modes, no truth for a video, no true segments,
            labels of the truth that the model does not have, or a number that is none of `GRIDS`.
    """
    settings, labels = _common(timelines)
    unknown = [name for name in tuned if name not in GRIDS]
    if unknown or not tuned:
        raise ValueError(f"tuned must be some of {', '.join(GRIDS)}, got {list(tuned)}.")
    true = truth_of([timeline.video for timeline in timelines], truth)
    named = {segment.label for video in true.values() for segment in video.segments}
    if not named <= set(labels) - {rules.background} or not named:
        strange = sorted(named - (set(labels) - {rules.background}))
        what = f"the true label {strange[0]!r} is none that it can find" if named else "there is no true segment"
        raise ValueError(f"Nothing can be chosen: {what}; the model finds {', '.join(map(repr, labels[:10]))}.")

    def value(rules: SegmentRules, only: str | None = None) -> tuple[float, float]:
        found = {
            timeline.video: VideoSegments(_only(segments_of(timeline, rules), only), timeline.duration)
            for timeline in timelines
        }
        expected = {name: VideoSegments(_only(video.segments, only), video.duration) for name, video in true.items()}
        metrics = evaluate_segments(found, expected)
        if progress is not None:
            progress(1)
        return sum(score or 0.0 for score in metrics["f1"].values()) / len(OVERLAPS), metrics["frame_accuracy"] or 0.0

    rules.require_labels(labels)
    best = before = value(rules)
    for _ in range(SWEEPS):
        for name in tuned:
            for number in GRIDS[name]:
                changed: dict[str, Any] = {name: number}
                tried = replace(rules, **changed)
                if tried != rules and (reached := value(tried)) > best:
                    best, rules = reached, tried
    if settings["multi_label"] and "threshold" in tuned:
        for label in sorted(named):
            least = value(rules, label)
            for number in GRIDS["threshold"]:
                tried = replace(rules, thresholds={**rules.thresholds, label: number})
                if (reached := value(tried, label)) > least:
                    least, rules = reached, tried
        best = value(rules)
    on = {name: settings[name] for name in ("model", "mode", "rate", "num_frames", "stride")}
    described = {
        "criterion": f"mean F1 of segments at overlaps {', '.join(f'{overlap:g}' for overlap in OVERLAPS)}",
        "value": best[0],
        "value_before": before[0],
        "frame_accuracy": best[1],
        "videos": len(timelines),
        "minutes": sum(timeline.duration for timeline in timelines) / 60,
        "true_segments": sum(len(video.segments) for video in true.values()),
        **on,
    }
    return Calibration(rules, described)


def _only(segments: Sequence[Segment], label: str | None) -> list[Segment]:
    return [segment for segment in segments if label is None or segment.label == label]


def _common(timelines: Sequence[Timeline]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings and labels that all timelines share."""
    if not timelines:
        raise ValueError("There are no timelines; allowed: one or more.")
    first = timelines[0]
    for timeline in timelines:
        for name in ("model", "mode", "rate", "num_frames", "stride", "multi_label"):
            if timeline.settings[name] != first.settings[name]:
                found = (
                    f"{first.settings[name]!r} of {first.video!r}, {timeline.settings[name]!r} of {timeline.video!r}"
                )
                raise ValueError(f"Timelines must have one {name}, got {found}.")
        if list(timeline.labels) != list(first.labels):
            raise ValueError(f"Timelines must have the same labels; {first.video!r} and {timeline.video!r} differ.")
    return first.settings, list(first.labels)


def write_calibration(calibration: Calibration, file: str | Path) -> None:
    """Write a calibration as JSON, for `SegmentOptions(calibration=...)` and `ila timeline --calibration`."""
    content = {
        "format": CALIBRATION,
        "version": CALIBRATION_VERSION,
        "rules": asdict(calibration.rules),
        "chosen_on": calibration.chosen_on,
    }
    with atomic_write(file) as draft:
        json.dump(content, draft, indent=1, ensure_ascii=False)

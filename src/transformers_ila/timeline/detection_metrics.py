"""Segments against truth: mean average precision at temporal overlaps, frame accuracy, delays and false alarms.

Average precision follows ActivityNet's protocol: of each class, the segments of all videos are taken from the highest
score to the lowest; each is a hit if it overlaps a true segment of its class and video, which no earlier one has
taken, by at least the threshold (intersection over union); precision at a recall is the highest at that or a higher
recall. Numbers are fractions and seconds; a number over nothing is None, never 0 and never NaN.
"""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .segments import Segment


OVERLAPS = (0.3, 0.5, 0.7)
LARGEST_FILE = 2**28  # bytes


class SegmentFileError(ValueError):
    """Report a file of segments that cannot be read, and where it goes wrong."""


@dataclass(frozen=True)
class VideoSegments:
    """Hold the segments of one video, found or true.

    duration: seconds; None: up to the last segment's end.
    announced: of found ones, label and seconds at which it was known that a segment starts; None where nobody says.
    """

    segments: Sequence[Segment]
    duration: float | None = None
    announced: Sequence[tuple[str, float]] | None = None


def evaluate_segments(
    found: Mapping[str, VideoSegments], truth: Mapping[str, VideoSegments], *, overlaps: Sequence[float] = OVERLAPS
) -> dict[str, Any]:
    """Compare segments with the true ones, over the videos that `found` names.

    A video may be named with or without folders and suffix. One of which nothing was found is there with no segments;
    videos that only the truth names are left out, and counted.

    Args:
        found: name of a video -> its segments; their order does not matter.
        truth: the same for the truth; scores there have no effect.
        overlaps: the thresholds of intersection over union, above 0 to 1.

    Returns:
        mean_average_precision: by threshold, as text such as "0.5": mean over the classes that have a true segment.
        average_precision: class -> the same for it alone.
        f1: by threshold, over all classes: two times the segments that are right over those found and those true.
        frame_accuracy: share of the time in which the labels are the true ones, where nothing is one of them.
        nothing_accuracy: what an empty answer would get there.
        start_error: median, and 90 % of the absolute values, of found start less true start, over the true segments
            that a segment of the label overlaps most, in seconds; how many those are.
        delay: where `announced` is there: median and 90 % of the seconds from a true start to the first announcement
            of its label before its end, and how many have none ("missed").
        false_alarms_per_minute: of segments that overlap no true one of their label.
        videos, videos_left_out, true_segments, found_segments, minutes: what that is over.

    Raises:
        ValueError: a video without truth, two of one name, a segment that ends before it starts, or bad thresholds.
    """
    if not overlaps or not all(0 < overlap <= 1 for overlap in overlaps):
        raise ValueError(f"overlaps must be above 0, at most 1, and one or more; got {list(overlaps)}.")
    pairs = _pairs(found, truth)
    names = [_named(overlap) for overlap in overlaps]
    hits = {label: _hits(label, pairs, overlaps) for label in sorted(_labels_in(pairs))}
    precisions = {label: row.average_precisions() for label, row in hits.items() if row.positives}
    counts = [sum(len(video.segments) for video in videos) for videos in zip(*pairs)]  # found, true
    right = sum((row.right.sum(1) for row in hits.values()), np.zeros(len(overlaps)))
    seconds = [_duration(one, true) for one, true in pairs]
    minutes = sum(seconds) / 60
    frames = np.array([_frame_shares(*pair, end) for pair, end in zip(pairs, seconds)]).reshape(-1, 2).sum(0)
    alarms = sum(1 for one, true in pairs for segment in one.segments if not _best(segment, true.segments))
    return {
        "mean_average_precision": {
            name: _mean([values[place] for values in precisions.values()]) for place, name in enumerate(names)
        },
        "average_precision": {label: dict(zip(names, values)) for label, values in precisions.items()},
        "f1": {name: float(2 * count / sum(counts)) if sum(counts) else None for name, count in zip(names, right)},
        "frame_accuracy": float(frames[0] / sum(seconds)) if minutes else None,
        "nothing_accuracy": float(frames[1] / sum(seconds)) if minutes else None,
        "start_error": _start_errors(pairs),
        "delay": _delays(pairs),
        "false_alarms_per_minute": alarms / minutes if minutes else None,
        "videos": len(pairs),
        "videos_left_out": len(truth) - len(pairs),
        "true_segments": counts[1],
        "found_segments": counts[0],
        "minutes": minutes,
    }


Pairs = Sequence[tuple[VideoSegments, VideoSegments]]  # found, true


def _pairs(found: Mapping[str, VideoSegments], truth: Mapping[str, VideoSegments]) -> Pairs:
    if not found:
        raise ValueError("There are no videos to compare; allowed: one or more.")
    true = truth_of(found, truth)
    for name, one in found.items():
        for segment in (*one.segments, *true[name].segments):
            if not -math.inf < segment.start <= segment.end < math.inf or math.isnan(segment.score):
                raise ValueError(f"A segment of {name!r} is none: {segment}.")
    return [(one, true[name]) for name, one in found.items()]


def truth_of(names: Iterable[str], truth: Mapping[str, VideoSegments]) -> dict[str, VideoSegments]:
    """Return the truth of each video named, with or without folders and suffix.

    Raises:
        ValueError: a video without truth or with several, or two of one truth.
    """
    stems: dict[str, list[str]] = {}
    for name in truth:
        stems.setdefault(_stem(name), []).append(name)
    taken: dict[str, str] = {}  # name in the truth -> name of the video
    for name in names:
        matches = [name] if name in truth else stems.get(_stem(name), [])
        if len(matches) != 1:
            known = ", ".join(map(repr, sorted(truth)[:5])) or "none"
            what = "no truth" if not matches else f"several truths, {', '.join(map(repr, matches[:5]))}"
            raise ValueError(f"The video {name!r} has {what}; the truth names {len(truth)} videos: {known}.")
        if matches[0] in taken:
            raise ValueError(f"The videos {taken[matches[0]]!r} and {name!r} have one truth, that of {matches[0]!r}.")
        taken[matches[0]] = name
    return {name: truth[match] for match, name in taken.items()}


def _stem(name: str) -> str:
    """Return a video's name without folders and without a suffix."""
    return Path(name.replace("\\", "/")).stem


def _labels_in(pairs: Pairs) -> set[str]:
    return {segment.label for pair in pairs for video in pair for segment in video.segments}


def _named(overlap: float) -> str:
    return f"{overlap:g}"


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def overlap_of(one: Segment, other: Segment) -> float:
    """Return the intersection over union of two segments' times."""
    both = min(one.end, other.end) - max(one.start, other.start)
    union = max(one.end, other.end) - min(one.start, other.start)
    return both / union if both > 0 else 0.0


def _best(segment: Segment, others: Iterable[Segment]) -> Segment | None:
    """Return which of the same label overlaps it most; None where none does."""
    same = [(overlap_of(segment, other), -other.start, other) for other in others if other.label == segment.label]
    overlap, _, best = max(same, key=lambda row: row[:2], default=(0.0, 0.0, None))
    return best if overlap > 0 else None


class _Hits(NamedTuple):
    """Hold which of a class's segments are right, from the highest score on: (overlaps, segments), of so many true."""

    right: np.ndarray
    positives: int

    def average_precisions(self) -> list[float | None]:
        """Return the area below the interpolated precision over recall at each overlap; None without a true one."""
        return [self._area(row) if self.positives else None for row in self.right]

    def _area(self, right: np.ndarray) -> float:
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        best = np.maximum.accumulate(precision[::-1])[::-1]  # at this or a higher recall
        return float(best[right].sum() / self.positives)


def _hits(label: str, pairs: Pairs, overlaps: Sequence[float]) -> _Hits:
    true = [[segment for segment in video.segments if segment.label == label] for _, video in pairs]
    ranked = [(place, segment) for place, (one, _) in enumerate(pairs) for segment in one.segments]
    ranked = [row for row in ranked if row[1].label == label]
    ranked.sort(key=lambda row: -row[1].score)  # of equal scores the first video's first
    right = np.zeros((len(overlaps), len(ranked)), dtype=bool)
    for which, threshold in enumerate(overlaps):
        taken: set[tuple[int, int]] = set()
        for rank, (place, segment) in enumerate(ranked):
            free = [
                (overlap_of(segment, other), -index)
                for index, other in enumerate(true[place])
                if (place, index) not in taken
            ]
            overlap, index = max(free, default=(0.0, 0))
            if overlap >= threshold:
                right[which, rank] = True
                taken.add((place, -index))
    return _Hits(right, sum(map(len, true)))


def _duration(one: VideoSegments, true: VideoSegments) -> float:
    known = true.duration if true.duration is not None else one.duration
    ends = [segment.end for segment in (*one.segments, *true.segments)]
    return float(known) if known is not None else max(ends, default=0.0)


def _frame_shares(one: VideoSegments, true: VideoSegments, end: float) -> tuple[float, float]:
    """Return the seconds in which the labels are the true ones, and those in which there is truly none."""
    marks = {0.0, end}
    for segment in (*one.segments, *true.segments):
        marks |= {min(max(0.0, edge), end) for edge in (segment.start, segment.end)}
    edges = sorted(marks)
    right = nothing = 0.0
    answers = zip(edges, edges[1:], _labels_between(one.segments, edges), _labels_between(true.segments, edges))
    for begin, until, labels, expected in answers:
        right += (until - begin) * (labels == expected)
        nothing += (until - begin) * (not expected)
    return right, nothing


def _labels_between(segments: Sequence[Segment], edges: Sequence[float]) -> Iterator[set[str]]:
    """Yield the labels that hold between each edge and the next one."""
    waiting = sorted(segments, key=lambda segment: segment.start, reverse=True)
    active: list[Segment] = []
    for edge in edges[:-1]:
        while waiting and waiting[-1].start <= edge:
            active.append(waiting.pop())
        active = [segment for segment in active if segment.end > edge]
        yield {segment.label for segment in active}


def _start_errors(pairs: Pairs) -> dict[str, float | int | None]:
    errors = []
    for one, true in pairs:
        for segment in true.segments:
            best = _best(segment, one.segments)
            if best is not None:
                errors.append(best.start - segment.start)
    return {
        "median": float(np.median(errors)) if errors else None,
        "absolute_90": float(np.quantile(np.abs(errors), 0.9)) if errors else None,
        "count": len(errors),
    }


def _delays(pairs: Pairs) -> dict[str, float | int | None] | None:
    if any(one.announced is None for one, _ in pairs):
        return None
    delays, missed = [], 0
    for one, true in pairs:
        waiting = sorted(one.announced or (), key=lambda row: row[1])
        for segment in sorted(true.segments, key=lambda segment: segment.start):
            known = (row for row in waiting if row[0] == segment.label and segment.start <= row[1] < segment.end)
            first = next(known, None)
            missed += first is None
            if first is not None:
                delays.append(first[1] - segment.start)
    return {
        "median": float(np.median(delays)) if delays else None,
        "90": float(np.quantile(delays, 0.9)) if delays else None,
        "count": len(delays),
        "missed": missed,
    }


# -- files -----------------------------------------------------------------------------------------------------------

CSV_COLUMNS = ("video", "label", "start", "end", "score", "duration")


def read_segments(file: str | Path) -> dict[str, VideoSegments]:
    """Read segments from a file, true ones or found ones: the videos by name.

    Three forms are read: JSON of `ila timeline` (one video); JSON of ActivityNet, annotations (`database`) and results
    (`results`); CSV with a header that names label, start and end, and may name video, score and duration. Without a
    video column the video is named as the file is. A segment without a score has 1.

    Raises:
        SegmentFileError: another form, with the place.
        OSError: the file cannot be read.
    """
    path = Path(file)
    if path.stat().st_size > LARGEST_FILE:
        raise SegmentFileError(f"{str(path)!r} has more than {LARGEST_FILE} bytes, which no list of segments has.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SegmentFileError(f"{str(path)!r} is no text in UTF-8: {error}.") from error
    try:
        found = _from_csv(text, path.stem) if text.lstrip()[:1] not in ("{", "[") else _from_json(text, path.stem)
    except SegmentFileError as error:
        raise SegmentFileError(f"{str(path)!r}: {error}") from error
    if not found:
        raise SegmentFileError(f"{str(path)!r} names no video.")
    return found


def _from_json(text: str, stem: str) -> dict[str, VideoSegments]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SegmentFileError(f"no JSON: {error}") from error
    content = content if isinstance(content, dict) else {}
    if isinstance(content.get("database"), dict):
        return {name: _annotated(name, entry) for name, entry in content["database"].items()}
    if isinstance(content.get("results"), dict):
        return {name: VideoSegments(_listed(name, rows)) for name, rows in content["results"].items()}
    if isinstance(content.get("segments"), list):
        name = str(content.get("video") or stem)
        return {
            name: VideoSegments(
                _listed(name, content["segments"]), _length(content.get("duration"), f"video {name!r}")
            )
        }
    raise SegmentFileError('it has none of "database" (ActivityNet), "results" and "segments" (ila timeline).')


def _annotated(name: str, entry: Any) -> VideoSegments:
    if not isinstance(entry, dict):
        raise SegmentFileError(f"video {name!r} must be an object, got {entry!r:.80}.")
    return VideoSegments(
        _listed(name, entry.get("annotations", [])), _length(entry.get("duration"), f"video {name!r}")
    )


def _listed(name: str, rows: Any) -> list[Segment]:
    if not isinstance(rows, list):
        raise SegmentFileError(f"video {name!r}: segments must be a list, got {rows!r:.80}.")
    return [_segment(row, f"video {name!r}, segment {index}") for index, row in enumerate(rows, 1)]


def _segment(row: Any, place: str) -> Segment:
    """Return a segment of a row that has `segment`, or `start` and `end`, beside `label`; check it."""
    row = dict(row) if isinstance(row, dict) else {}
    if isinstance(row.get("segment"), list) and len(row["segment"]) == 2:
        row["start"], row["end"] = row["segment"]
    if not isinstance(row.get("label"), str) or not row["label"].strip():
        raise SegmentFileError(f"{place}: label must be a text, got {row.get('label')!r:.80}.")
    start, end = _seconds(row.get("start"), place), _seconds(row.get("end"), place)
    score = _seconds(row.get("score"), place)
    if start is None or end is None or end < start:
        raise SegmentFileError(f"{place}: start and end must be seconds that rise, got {start} and {end}.")
    return Segment(row["label"].strip(), start, end, 1.0 if score is None else score)


def _seconds(value: Any, place: str) -> float | None:
    """Return a number; None for None and for an empty cell."""
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SegmentFileError(f"{place}: a number was expected, got {value!r:.80}.")
    return number


def _length(value: Any, place: str) -> float | None:
    """Return how long a video is; None for None and for an empty cell."""
    seconds = _seconds(value, place)
    if seconds is not None and seconds < 0:
        raise SegmentFileError(f"{place}: duration must be seconds, 0 or more, got {value!r:.80}.")
    return seconds


def _from_csv(text: str, stem: str) -> dict[str, VideoSegments]:
    reader = csv.DictReader(text.splitlines(), restkey="")
    columns = {str(name).strip().lower(): name for name in reader.fieldnames or ()}
    if not {"label", "start", "end"} <= columns.keys() or len(columns) != len(reader.fieldnames or ()):
        raise SegmentFileError(
            f"the header of a CSV file must name label, start and end, each once, and may name "
            f"{', '.join(name for name in CSV_COLUMNS if name not in ('label', 'start', 'end'))}; got {text[:80]!r}."
        )
    segments: dict[str, list[Segment]] = {} if "video" in columns else {stem: []}
    durations: dict[str, float] = {}
    for row in reader:
        place = f"line {reader.line_num}"
        if "" in row and row[""]:
            raise SegmentFileError(f"{place}: it has more cells than the header.")
        cells = {name: row[column] for name, column in columns.items() if name in CSV_COLUMNS}
        video = str(cells.get("video") or "").strip() if "video" in columns else stem
        if not video:
            raise SegmentFileError(f"{place}: the video has no name.")
        segments.setdefault(video, []).append(_segment(cells, place))
        if (duration := _length(cells.get("duration"), place)) is not None:
            durations[video] = duration
    return {video: VideoSegments(found, durations.get(video)) for video, found in segments.items()}

"""A timeline as a file: JSON, tables, subtitles, a page and pictures; and from JSON back.

The suffix chooses the format. Files appear whole or not at all.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.formats import LabelledVideo
from ..evaluation.report import describe_software
from ..files import atomic_write
from ..markup import csv_text, plain_line
from ..model.video_container_ila import VideoDecodingError
from ..model.video_reading_ila import list_frames
from ..visualization.files import figure_bytes
from ..visualization.timeline import TimedLabel, plot_timeline
from .page import timeline_page
from .segments import Segment
from .sources import SOURCE_LIMITS, SourceNote
from .timeline import Timeline


KIND, VERSION = "transformers-ila timeline", 1  # of the JSON
DPI, COLOURS = 110, 32  # of pictures
DIGITS = 3  # behind the point of seconds, in files
NO_NAME = "(no name)"  # a subtitle of a blank label
SUBRIP = str.maketrans("<>{}\\", "\uff1c\uff1e\uff5b\uff5d\uff3c")  # their forms of full width


def write_timeline(
    timeline: Timeline,
    path: str | Path,
    *,
    video: str | Path | None = None,
    embed: bool = False,
    truth: Sequence[TimedLabel] | None = None,
    every: float | None = None,
) -> None:
    """Write a timeline to a file, whole or not at all.

    | suffix | content |
    |---|---|
    | .json | everything, which `read_timeline` reads: seconds to the millisecond, scores to four digits |
    | .csv | a row for each segment: label, start, end, score |
    | .scores.csv | a row for each score: time, start, warming_up, and a column for each label |
    | .srt, .vtt | subtitles in a player's time, one for each segment; those of several labels may overlap |
    | .html | a page without any network: the video, below it the timeline; a click jumps there |
    | .png, .svg, .pdf | a picture: a lane for each label |

    Args:
        timeline: what `timeline` returns.
        path: the file; its suffix is one of these.
        video: .html: the video's file, which the page plays from where it lies beside the page.
        embed: .html: whether the video is written into the page.
        truth: .html and pictures: the true segments, which are shown below those found.
        every: .json and .scores.csv: seconds; of the scores in each stretch of that length only the first is written.

    Raises:
        ValueError: an unknown suffix, an option that this format has no use for, or sizes that do not fit each other.
        OSError: the file cannot be written, or the video to embed cannot be read.
    """
    form = format_of(path)
    given = {"video": video, "embed": embed or None, "truth": truth, "every": every}
    options = {name: value for name, value in given.items() if value is not None}
    for name in options.keys() - form.options:
        users = [suffix for suffix, other in FORMATS.items() if name in other.options]
        raise ValueError(f"{name} has no effect on {plain_line(path)!r}; it has one on {', '.join(users)}.")
    with atomic_write(path, "wb") as file:
        for piece in form.pieces(timeline, Path(path), **options):
            file.write(piece if isinstance(piece, bytes) else piece.encode("utf-8"))


def format_of(path: str | Path) -> "Format":
    """Return how a file of this name is written.

    Raises:
        ValueError: an unknown suffix; the known ones are listed.
    """
    name = Path(path).name.lower()
    suffix = next((suffix for suffix in FORMATS if name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"The suffix of {plain_line(path)!r} names no format; allowed are {', '.join(FORMATS)}.")
    return FORMATS[suffix]


def labelled_video(timeline: Timeline, place: str) -> LabelledVideo:
    """Return a timeline as labelling tools have it, whose files `write_labels` writes for many videos together.

    Args:
        timeline: what `timeline` returns.
        place: the video's file, whose frames are counted; or its address, of which they are not.
    """
    frames = duration = None
    if Path(place).is_file():
        try:
            listed = list_frames(place, limits=SOURCE_LIMITS)
            frames, duration = listed.total_num_frames, listed.duration
        except (VideoDecodingError, OSError):
            pass  # what counts by frames refuses it
    return LabelledVideo(
        name=timeline.video,
        path=place,
        segments=timeline.segments,
        frames=frames,
        duration=duration,
        offset=max(0.0, timeline.start),
        reason=timeline.stopped,
    )


# -- JSON ------------------------------------------------------------------------------------------------------------


def _json(timeline: Timeline, path: Path, *, every: float | None = None) -> Iterator[str]:
    """Yield the timeline's fields by their names, one a line, and of lists an item a line."""
    timeline = _thinned(timeline, every)
    fields: dict[str, Any] = {
        "format": KIND,
        "version": VERSION,
        "video": timeline.video,
        "duration": timeline.duration,
        "start": timeline.start,
        "complete": timeline.complete,
        "stopped": timeline.stopped,
        "settings": timeline.settings,
        "labels": list(timeline.labels),
    }
    for name, value in fields.items():
        yield f'{"{" if name == "format" else ","}\n"{name}": {_dumped(value)}'
    yield ',\n"segments": ' + _listed(
        {"label": segment.label, "start": segment.start, "end": segment.end, "score": _short(segment.score)}
        for segment in timeline.segments
    )
    yield ',\n"notes": ' + _listed(
        {"time": note.time, "kind": note.kind, "text": note.text} for note in timeline.notes
    )
    yield f',\n"times": {_dumped(timeline.times.tolist())}'
    yield f',\n"starts": {_dumped(timeline.starts.tolist())}'
    yield f',\n"warming_up": {_dumped(timeline.warming_up.tolist())}'
    yield ',\n"scores": ['
    for index, row in enumerate(timeline.scores.tolist()):
        text = json.dumps([_short(value) for value in row], separators=(",", ":"))
        yield f",\n{text}" if index else f"\n{text}"
    yield "]\n}\n"


def _short(value: float) -> float | None:
    """Return a number with four digits; None for what is none."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _tidy(value: Any) -> Any:
    """Return a value as JSON has it: floats to the millisecond, and None for what is no number."""
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    if isinstance(value, (float, np.floating)):
        return round(float(value), DIGITS) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _tidy(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tidy(item) for item in value]
    return value.item() if isinstance(value, np.generic) else str(value)


def _dumped(value: Any) -> str:
    text = json.dumps(_tidy(value), ensure_ascii=False)
    return text if _is_utf8(text) else json.dumps(_tidy(value))  # names of files may be no text


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _listed(items: Iterable[dict[str, Any]]) -> str:
    return "[" + ",".join("\n" + _dumped(item) for item in items) + "]"


def _thinned(timeline: Timeline, every: float | None) -> Timeline:
    """Return a timeline with the first score only in each stretch of `every` seconds; its settings say so."""
    if every is None:
        return timeline
    if isinstance(every, bool) or not isinstance(every, (int, float)) or not 0 < every < math.inf:
        raise ValueError(f"every must be a number of seconds above 0, got {every!r}.")
    kept = np.flatnonzero(np.diff(np.floor(timeline.times / every + 1e-9), prepend=-1))
    parts = {name: getattr(timeline, name)[kept] for name in ("times", "starts", "warming_up", "scores")}
    return replace(timeline, **parts, settings={**timeline.settings, "scores_written_every": every})


def read_timeline(path: str | Path) -> Timeline:
    """Read a timeline from a JSON file that `write_timeline` wrote.

    Raises:
        ValueError: the file holds something else, or parts that do not fit each other.
        OSError: the file cannot be read.
    """
    shown = plain_line(path)
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{shown!r} is no JSON: {error}.") from None
    if not isinstance(found, dict) or found.get("format") != KIND:
        raise ValueError(f"{shown!r} is no timeline; allowed is what `write_timeline` wrote as JSON.")
    if found.get("version") != VERSION:
        raise ValueError(f"{shown!r} is a timeline of version {found.get('version')!r}; allowed is {VERSION}.")
    try:
        labels, times = [str(label) for label in found["labels"]], np.array(found["times"], dtype=np.float64)
        scores = np.array(found["scores"], dtype=np.float32).reshape(len(times), len(labels))
        starts = np.array(found["starts"], dtype=np.float64).reshape(len(times))
        timeline = Timeline(
            video=found["video"],
            labels=labels,
            times=times,
            starts=starts,
            scores=scores,
            warming_up=np.array(found["warming_up"], dtype=bool).reshape(len(times)),
            segments=[Segment(**{**segment, "score": _number(segment["score"])}) for segment in found["segments"]],
            notes=[SourceNote(**note) for note in found["notes"]],
            settings=found["settings"],
            duration=found["duration"],
            start=found["start"],
            stopped=found["stopped"],
        )
    except KeyError as error:
        raise ValueError(f"{shown!r} lacks {error.args[0]!r}.") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown!r}: its parts do not fit each other: {error}.") from None
    return timeline


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


# -- tables ----------------------------------------------------------------------------------------------------------


def _segments_csv(timeline: Timeline, path: Path) -> Iterator[str]:
    rows = [
        (plain_line(s.label, None), _seconds(s.start), _seconds(s.end), _short(s.score)) for s in timeline.segments
    ]
    yield csv_text([("label", "start", "end", "score"), *rows])


def _scores_csv(timeline: Timeline, path: Path, *, every: float | None = None) -> Iterator[str]:
    timeline = _thinned(timeline, every)
    yield csv_text([("time", "start", "warming_up", *(plain_line(label, None) for label in timeline.labels))])
    columns = (timeline.times, timeline.starts, timeline.warming_up, timeline.scores)
    for time, start, warming_up, scores in zip(*(column.tolist() for column in columns)):
        yield csv_text([(_seconds(time), _seconds(start), int(warming_up), *map(_short, scores))])


def _seconds(seconds: float) -> str:
    return f"{seconds:.{DIGITS}f}"


# -- subtitles -------------------------------------------------------------------------------------------------------


def _subrip(timeline: Timeline, path: Path) -> Iterator[str]:
    """Yield SubRip, which has no escapes: brackets and backslashes, which players obey, become their wide forms."""
    for number, (start, end, text) in enumerate(_cues(timeline), start=1):
        yield f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text.translate(SUBRIP)}\n\n"


def _webvtt(timeline: Timeline, path: Path) -> Iterator[str]:
    yield "WEBVTT\n\n"
    for start, end, text in _cues(timeline):
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n\n"


def _cues(timeline: Timeline) -> list[tuple[int, int, str]]:
    """Return start and end in a player's milliseconds, the end behind the start, and one line of text; sorted."""
    times = [(s, timeline.start + s.start, timeline.start + s.end) for s in timeline.segments]
    found = [(round(start * 1000), round(end * 1000), plain_line(s.label) or NO_NAME) for s, start, end in times]
    return sorted((start, max(end, start + 1), text) for start, end, text in found)


def _clock(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{rest:03d}"


# -- what is looked at -----------------------------------------------------------------------------------------------


def _page(timeline: Timeline, path: Path, **options: Any) -> Iterator[str]:
    yield timeline_page(timeline, path.absolute().parent, **options)


def _picture(timeline: Timeline, path: Path, *, truth: Sequence[TimedLabel] | None = None) -> Iterator[bytes]:
    figure = plot_timeline(
        timeline.times,
        timeline.scores,
        timeline.labels,
        timeline.segments,
        truth=truth,
        duration=timeline.duration,
        warming_up=timeline.warming_up,
        title=timeline.video,
    )
    facts = {"picture": "timeline", "video": timeline.video, "settings": _tidy(timeline.settings)}
    facts |= {"truth": truth is not None, "complete": timeline.complete, **describe_software()}
    # three colours and the edges of letters: a palette is enough
    yield figure_bytes(figure, path.suffix.lower(), facts, dpi=DPI, colours=COLOURS)


@dataclass(frozen=True)
class Format:
    """Hold how a format is written: what yields its pieces, and which options of `write_timeline` it uses."""

    pieces: Callable[..., Iterator[str | bytes]]
    options: frozenset[str] = frozenset()


FORMATS = {
    ".json": Format(_json, frozenset({"every"})),
    ".scores.csv": Format(_scores_csv, frozenset({"every"})),
    ".csv": Format(_segments_csv),
    ".srt": Format(_subrip),
    ".vtt": Format(_webvtt),
    ".html": Format(_page, frozenset({"video", "embed", "truth"})),
    **dict.fromkeys((".png", ".svg", ".pdf"), Format(_picture, frozenset({"truth"}))),
}

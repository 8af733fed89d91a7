"""A timeline as one HTML file that needs no network: the video, the timeline below it, and a table of segments."""

import base64
import mimetypes
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..markup import html_text, plain_line, script_json
from ..model.video_urls_ila import redact
from ..visualization.timeline import (
    TimedLabel,
    clock,
    gap_of,
    lanes,
    last_time,
    thin_scores,
    warming_spans,
)
from .timeline import Timeline


TEMPLATE = Path(__file__).with_name("page.html")
LEAST, MOST = 5, 12  # lanes at first: so many where as many labels have no segments, and where more have some
POINTS, CURVES = 2000, 400  # of a curve; curves, of the labels with segments and the highest scores
LARGEST = 100 * 2**20  # bytes of a video in a page
FINEST, NONE = 254, 255  # a score of 1 in the page's curves, and no score
UNPLAYED = (".avi", ".flv", ".m2ts", ".mkv", ".mpeg", ".mpg", ".mts", ".ts", ".vob", ".wmv")  # by most browsers


def timeline_page(
    timeline: Timeline,
    folder: Path,
    *,
    video: str | Path | None = None,
    embed: bool = False,
    truth: Sequence[TimedLabel] | None = None,
) -> str:
    """Return a timeline as an HTML page.

    Args:
        timeline: what is shown.
        folder: where the page will lie; it looks for the video from there.
        video: the video's file; without one, or with an address, the page asks for a file.
        embed: whether the video is part of the page.
        truth: the true segments.

    Raises:
        ValueError: a video that is too large to embed, or none to embed; sizes that do not fit each other.
        OSError: the video to embed cannot be read.
    """
    times = timeline.times
    every = [*timeline.segments, *(truth or ())]
    end = last_time(times, timeline.scores, timeline.labels, every, timeline.duration)
    names, shown, _ = lanes(timeline.labels, timeline.scores, every, least=LEAST, most=MOST)
    order = [*shown, *lanes(timeline.labels, timeline.scores, every, least=len(names), most=len(names))[1]]
    order = list(dict.fromkeys(order))  # of all labels; a label's number in the page is its place here
    place = {names[index]: number for number, index in reversed(list(enumerate(order)))}
    points, curves = thin_scores(times, timeline.scores, POINTS)
    shades = np.full((min(len(order), CURVES), len(points)), NONE, dtype=np.uint8)
    for number, index in enumerate(order[:CURVES]):
        if index < len(timeline.labels):
            shades[number] = np.where(np.isnan(curves[:, index]), NONE, curves[:, index] * FINEST + 0.5)
    source, embedded, reason = _source(folder, video, embed)
    name = plain_line(redact(timeline.video))
    data = {
        "name": name,
        "video": source,
        "kind": mimetypes.guess_type(str(video))[0] or "video/mp4",
        "reason": reason,
        "unplayed": _unplayed(video),
        "offset": round(timeline.start, 3),
        "end": round(end, 3),
        "labels": [plain_line(names[index]) or "(no name)" for index in order],
        "curves": len(shades),
        "shown": list(range(len(shown))),
        "times": [round(time, 3) for time in points.tolist()],
        "gap": min(gap_of(points), 1e9),
        "scores": base64.b64encode(shades.tobytes()).decode("ascii"),
        "segments": [[place[s.label], *_times(s), _score(s)] for s in timeline.segments],
        "truth": None if truth is None else [[place[s.label], *_times(s), None] for s in truth],
        "warming": warming_spans(times, timeline.warming_up),
        "notes": [[round(note.time, 3), plain_line(note.text)] for note in timeline.notes],
    }
    values = {
        "title": html_text(name),
        "summary": _summary(timeline, end),
        "warning": _warning(timeline),
        "legend": _legend(timeline, len(points), end, truth is not None, len(order)),
        "segments": _table("Segments", timeline.segments, "segment", scored=True),
        "notes": _notes(timeline) if truth is None else _table("Truth", truth, "truth") + _notes(timeline),
        "settings": _settings(timeline.settings),
        "data": script_json(data),
        "embedded": embedded,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], TEMPLATE.read_text("utf-8"))


def require_embeddable(video: str | Path) -> None:
    """Raise a ValueError if a video is too large to be part of a page, and an OSError if it cannot be read."""
    size = Path(video).stat().st_size
    if size > LARGEST:
        raise ValueError(
            f"{plain_line(video)!r} has {size / 2**20:.0f} MiB; a page may hold videos of up to "
            f"{LARGEST // 2**20} MiB. Leave embed out, and keep the video beside the page."
        )


def _source(folder: Path, video: str | Path | None, embed: bool) -> tuple[str | None, str, str]:
    """Return the video's address from the page, its bytes in base64 if they are part of the page, and why none."""
    if video is None or "://" in str(video):
        if embed:
            raise ValueError(f"embed needs the video's file, got {'none' if video is None else redact(str(video))!r}.")
        where = "" if video is None else f" It was read from {redact(str(video))}, which this page does not load."
        return None, "", f"The video is not part of this page.{where}"
    path = Path(video)
    if embed:
        require_embeddable(path)
        return None, base64.b64encode(path.read_bytes()).decode("ascii"), ""
    try:
        address = quote(Path(os.path.relpath(path.absolute(), folder)).as_posix().encode("utf-8", "surrogateescape"))
    except ValueError:  # another drive
        address = path.absolute().as_uri()
    return address, "", ""


def _unplayed(video: str | Path | None) -> str:
    """Return what keeps most browsers from playing the video, as far as its name tells; empty where nothing does."""
    suffix = Path(video or "").suffix.lower()
    return f"most browsers do not play {suffix} files" if suffix in UNPLAYED else ""


def _times(segment: TimedLabel) -> tuple[float, float]:
    return round(segment.start, 3), round(segment.end, 3)


def _score(segment: Any) -> str | None:
    score = getattr(segment, "score", None)
    return None if score is None or np.isnan(score) else f"{score:.2f}"


# -- what the page says without JavaScript ---------------------------------------------------------------------------


def _summary(timeline: Timeline, end: float) -> str:
    parts = [
        f"{clock(end)} of video",
        _counted(len(timeline.times), "score"),
        _counted(len(timeline.segments), "segment"),
        _counted(len(timeline.labels), "label"),
    ]
    return ", ".join(parts) + "."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _warning(timeline: Timeline) -> str:
    if timeline.complete:
        return ""
    reason = html_text(redact(timeline.stopped or ""))
    return f'<p class="notice">The timeline stops at {clock(timeline.duration)}, before the video does: {reason}.</p>'


def _legend(timeline: Timeline, points: int, end: float, has_truth: bool, labels: int) -> str:
    """Say what is drawn, and what is left out of the drawing."""
    thinned = f", the highest one in each {clock(end / POINTS, 2)}" if points < len(timeline.times) else ""
    parts = [f"line: score, 0 to 1{thinned}", '<span class="key found"><i></i></span>segment']
    if has_truth:
        parts.append('<span class="key true"><i></i></span>truth')
    if timeline.warming_up.any():
        parts.append('<span class="key"><i class="warming"></i></span>warming up: less than a clip was seen')
    if timeline.notes:
        parts.append("dotted: a note on the video")
    if labels > CURVES:
        parts.append(f"no line: all but {CURVES} of {labels} labels")
    return "\n".join(f'<span class="entry">{part}</span>' for part in parts)


def _table(title: str, segments: Sequence[TimedLabel], name: str, *, scored: bool = False) -> str:
    """Return a table of segments, whose starts are buttons that jump there."""
    if not segments:
        return f"<section><h2>{title}</h2><p>There are none.</p></section>"
    head = '<th scope="col">Label</th><th scope="col" class="number">Start</th><th scope="col" class="number">End</th>'
    head += '<th scope="col" class="number">Score</th>' if scored else ""
    rows = "\n".join(f'<tr id="{name}-{index}">{_cells(s, scored)}</tr>' for index, s in enumerate(segments))
    return (
        f'<section><h2>{title}</h2><div class="table"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div></section>"
    )


def _cells(segment: TimedLabel, scored: bool) -> str:
    label = html_text(segment.label) or "(no name)"
    score = f'<td class="number">{_score(segment) or ""}</td>' if scored else ""
    return (
        f'<td>{label}</td><td class="number">{_button(segment.start, label)}</td>'
        f'<td class="number">{clock(segment.end)}</td>{score}'
    )


def _button(time: float, what: str) -> str:
    return f'<button type="button" data-time="{time:.3f}" aria-label="{clock(time)}, {what}">{clock(time)}</button>'


def _notes(timeline: Timeline) -> str:
    if not timeline.notes:
        return ""
    rows = "\n".join(
        f'<tr><td class="number">{_button(note.time, "note")}</td><td>{html_text(note.kind)}</td>'
        f"<td>{html_text(note.text)}</td></tr>"
        for note in timeline.notes
    )
    head = '<th scope="col" class="number">Time</th><th scope="col">Kind</th><th scope="col">Note</th>'
    return (
        f'<section><h2>Notes on the video</h2><div class="table"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div></section>"
    )


def _settings(settings: dict[str, Any]) -> str:
    if not settings:
        return ""
    rows = "\n".join(f"<dt>{html_text(name)}</dt><dd>{html_text(value)}</dd>" for name, value in _flat(settings))
    return f"<section><details><summary>How it was computed</summary><dl>\n{rows}\n</dl></details></section>"


def _flat(settings: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", redact(str(value))

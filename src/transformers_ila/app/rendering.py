"""Answers as pieces of the page: HTML in which every foreign word is text, and nothing depends on colour alone.

Buttons with `data-seek` move the player to that second, and so does a click in a picture with `data-end`; page.js does
that, without the server.
"""

import base64
import io
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..markup import html_text
from ..model.video_urls_ila import redact
from ..search.search import Hit
from ..timeline.timeline import Timeline
from ..visualization.timeline import clock, plot_timeline
from .answers import LabelAnswer, ModelDescription, SearchAnswer, TimelineAnswer


DPI = 110
MOST_ROWS = 500  # of a table
TEMPLATES = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "@": "&#64;"})  # Gradio fills in what they mark


def text(value: Any) -> str:
    """Return a foreign word as text of the page, in one line, also within an attribute."""
    return html_text(value).translate(TEMPLATES)


def name(value: Any) -> str:
    """Return a foreign name as an element of the page, which keeps its own direction of reading."""
    return f'<bdi class="ila-name">{text(value) or "(no name)"}</bdi>'


def status(words: str, *, is_error: bool = False) -> str:
    """Return the line that a screen reader reads out, also where it is the same as before; words tell errors."""
    if not words:
        return ""
    kind, sign = ("ila-error", "<strong>Not done:</strong> ") if is_error else ("ila-done", "")
    return f'<p class="ila-status {kind}" data-at="{time.monotonic_ns()}">{sign}{text(words)}</p>'


def notes(sentences: Iterable[str]) -> str:
    """Return sentences below a result."""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<ul class="ila-notes">{items}</ul>' if items else ""


def facts(found: ModelDescription) -> str:
    """Return what the page says of a model."""
    lines = "".join(f"<br>{text(sentence)}" for sentence in found.sentences())
    return f'<p class="ila-facts"><strong>{name(found.name)}</strong>{lines}</p>'


def label(answer: LabelAnswer) -> str:
    """Return the bars of the best labels, as a table with numbers."""
    rows = "".join(
        f'<tr><th scope="row">{name(found)}</th><td class="ila-number">{score:.1%}</td>'
        f'<td class="ila-bar" aria-hidden="true"><span style="width: {100 * score:.1f}%"></span></td></tr>'
        for found, score in answer.labels
    )
    head = '<th scope="col">Label</th><th scope="col">Probability</th><td aria-hidden="true"></td>'
    return (
        f'<table class="ila-table ila-labels"><caption>Best labels, among {text(answer.asked)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{notes(answer.notes)}"
    )


def timeline(answer: TimelineAnswer) -> str:
    """Return the picture of a timeline and the table of its segments, whose rows move the player."""
    found = answer.timeline
    told = [*answer.notes, *(f"{clock(note.time)}: {note.text}" for note in found.notes[:20])]
    return f"{_picture(found)}{_segments(found)}{notes(told)}"


def _picture(found: Timeline) -> str:
    figure = plot_timeline(
        found.times,
        found.scores,
        found.labels,
        found.segments,
        duration=found.duration,
        warming_up=found.warming_up,
        title=found.video,
    )
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    place = figure.axes[0].get_position()  # after drawing, which lays it out
    end = float(figure.axes[0].get_xlim()[1])
    said = f"Scores over time of {len(found.labels)} labels; the table below has the segments."
    return (
        '<div class="ila-scroll" role="region" tabindex="0" aria-label="Picture of the timeline">'
        f'<div class="ila-plot" data-left="{place.x0:.5f}" data-right="{place.x1:.5f}" data-end="{end:.3f}" '
        f'data-offset="{found.start:.3f}"><img alt="{text(said)}" src="{_data(picture.getvalue(), "image/png")}">'
        '<span class="ila-cursor" aria-hidden="true" hidden></span></div></div>'
        '<p class="ila-hint">A click in the picture, or a button of the table, moves the player there.</p>'
    )


def _segments(found: Timeline) -> str:
    if not found.segments:
        return "<p>No label was sure for long enough to be a segment.</p>"
    rows = "".join(
        f"<tr><td>{_seek(segment.start, found.start, segment.label)}</td><td>{clock(segment.end)}</td>"
        f'<th scope="row">{name(segment.label)}</th><td class="ila-number">{segment.score:.0%}</td></tr>'
        for segment in found.segments[:MOST_ROWS]
    )
    more = len(found.segments) - MOST_ROWS
    rest = f"<p>{more} more are in the files below.</p>" if more > 0 else ""
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Start", "End", "Label", "Mean score"))
    return (
        '<div class="ila-rows" role="region" tabindex="0" aria-label="Segments">'
        f'<table class="ila-table"><caption>Segments</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{rest}"
    )


def _seek(seconds: float, offset: float, what: str) -> str:
    """Return a button that moves the player; players count from `offset` seconds before the first frame."""
    return (
        f'<button type="button" class="ila-seek" data-seek="{seconds + offset:.3f}" '
        f'aria-label="{clock(seconds)}, {text(what)}: move the player there">{clock(seconds)}</button>'
    )


def hits(answer: SearchAnswer, pictures: Sequence[np.ndarray | None]) -> str:
    """Return what a search found, as a table with a small picture of each, and buttons that show it."""
    if not answer.hits:
        return "<p>The index has no rows.</p>"
    rows = "".join(_hit(number, hit, picture) for number, (hit, picture) in enumerate(zip(answer.hits, pictures)))
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Show", "Video", "Time", "Similarity"))
    return (
        f'<table class="ila-table ila-hits"><caption>Nearest to {name(answer.query)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        + notes(["Similarity is the cosine of the features, -1 to 1: an order, and no probability."])
    )


def _hit(number: int, hit: Hit, picture: np.ndarray | None) -> str:
    shown = redact(hit.video)
    span = "whole video" if hit.start is None or hit.end is None else f"{clock(hit.start)} to {clock(hit.end)}"
    image = '<span class="ila-missing">no picture</span>'
    if picture is not None:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=80)
        image = f'<img alt="" src="{_data(file.getvalue(), "image/jpeg")}">'
    return (
        f'<tr><td><button type="button" class="ila-show" data-hit="{number}" aria-label="Show {text(shown)}, {span}">'
        f'{image}</button></td><th scope="row">{name(shown)}</th><td>{span}</td>'
        f'<td class="ila-number">{hit.score:.3f}</td></tr>'
    )


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"

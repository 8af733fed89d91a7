"""Measures with the Agg renderer whether the texts of a figure can be read: none over another, none cut, none tiny."""

from itertools import combinations
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


SLACK = 0.5  # pixels that the boxes of two texts may share: a box ends between pixels


class Drawn(NamedTuple):
    """Hold a text that is drawn: its words, its size in points, and its box in pixels: left, bottom, right, top."""

    words: str
    size: float
    box: tuple[float, float, float, float]


def texts_of(figure: Figure) -> list[Drawn]:
    """Return each text that is drawn."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # places ticks and what a layout moves, in half the time
    found = []
    for text in _drawn_texts(figure):
        box = text.get_window_extent(canvas.get_renderer())
        if box.width > 0 and box.height > 0:
            found.append(Drawn(text.get_text(), text.get_fontsize(), (box.x0, box.y0, box.x1, box.y1)))
    return found


def words_of(figure: Figure) -> str:
    """Return all words of a figure in a line, without placing them."""
    return " ".join(" ".join(text.get_text().split()) for text in figure.findobj(Text))


def overlaps(texts: list[Drawn]) -> list[tuple[str, str]]:
    """Return the pairs of texts whose boxes overlap."""
    return [
        (one.words, other.words)
        for one, other in combinations(texts, 2)
        if min(one.box[2], other.box[2]) - max(one.box[0], other.box[0]) > SLACK
        and min(one.box[3], other.box[3]) - max(one.box[1], other.box[1]) > SLACK
    ]


def outside(figure: Figure, texts: list[Drawn]) -> list[str]:
    """Return the texts that run out of the figure."""
    width, height = figure.bbox.width, figure.bbox.height
    return [
        text.words
        for text in texts
        for left, bottom, right, top in (text.box,)
        if left < -SLACK or bottom < -SLACK or right > width + SLACK or top > height + SLACK
    ]


def assert_legible(figure: Figure, *, points: float = 6) -> None:
    """Fail where texts overlap, run out of the figure, or are smaller than `points`, and name them."""
    texts = texts_of(figure)  # once, as it takes most of the time
    assert not (over := overlaps(texts)), f"texts overlap: {over[:5]}"
    assert not (out := outside(figure, texts)), f"texts run out of the figure: {out[:5]}"
    assert not (small := [text for text in texts if text.size < points]), f"texts below {points} points: {small[:5]}"


def _drawn_texts(figure: Figure) -> list[Text]:
    """Return the texts that are not empty and not hidden, of ticks those within the limits of their axis."""
    found, waiting = [], [figure]
    while waiting:
        artist = waiting.pop()
        if not artist.get_visible():
            continue
        if isinstance(artist, Text) and artist.get_text().strip():
            found.append(artist)
        if hasattr(artist, "_update_ticks"):  # an axis: its children hold ticks outside of its limits, not drawn
            if artist.axes.axison:
                ticks = artist._update_ticks()
                waiting += [label for tick in reversed(ticks) for label in (tick.label2, tick.label1)]
                waiting += [artist.offsetText, artist.label]
            continue
        waiting += reversed(artist.get_children())
    return found

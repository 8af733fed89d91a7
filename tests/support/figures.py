"""Measures on the Agg renderer whether the texts of a figure can be read: none over another, none cut, none tiny."""

from collections.abc import Sequence
from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


SLACK = 0.5  # pixels that the boxes of two texts may share: a box ends between pixels
Placed = tuple[str, tuple[float, float, float, float]]  # a text; left, bottom, right, top of its box in pixels


def texts_of(figure: Figure) -> list[Placed]:
    """Return each text that is drawn, and its box in pixels: left, bottom, right, top."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places ticks and what a layout moves
    found = []
    for text in _drawn_texts(figure):
        box = text.get_window_extent(canvas.get_renderer())
        if box.width > 0 and box.height > 0:
            found.append((text.get_text(), (box.x0, box.y0, box.x1, box.y1)))
    return found


def overlaps(texts: Sequence[Placed]) -> list[tuple[str, str]]:
    """Return the pairs of texts whose boxes overlap."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(texts, 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > SLACK and min(a[3], b[3]) - max(a[1], b[1]) > SLACK
    ]


def outside(texts: Sequence[Placed], width: float, height: float) -> list[str]:
    """Return the texts that run out of a figure of so many pixels."""
    return [
        text
        for text, (left, bottom, right, top) in texts
        if left < -SLACK or bottom < -SLACK or right > width + SLACK or top > height + SLACK
    ]


def assert_legible(figure: Figure, *, points: float = 6) -> None:
    """Fail where texts overlap, run out of the figure, or are smaller than `points`, and name them."""
    texts = texts_of(figure)  # drawn once, which takes most of the time
    over, out = overlaps(texts), outside(texts, figure.bbox.width, figure.bbox.height)
    small = [text.get_text() for text in _drawn_texts(figure) if text.get_fontsize() < points]
    assert not over, f"texts overlap: {over[:5]}"
    assert not out, f"texts run out of the figure: {out[:5]}"
    assert not small, f"texts have less than {points} points: {small[:5]}"


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

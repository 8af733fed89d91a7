"""Measures on the Agg renderer whether the texts of a figure can be read: none over another, none cut, none tiny."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


SLACK = 0.5  # pixels that the boxes of two texts may share: a box ends between pixels


def texts_of(figure: Figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Return each text that is drawn, and its box in pixels: left, bottom, right, top."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places ticks and what a layout moves
    found = []
    for text in _drawn_texts(figure):
        box = text.get_window_extent(canvas.get_renderer())
        if box.width > 0 and box.height > 0:
            found.append((text.get_text(), (box.x0, box.y0, box.x1, box.y1)))
    return found


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Return the pairs of texts whose boxes overlap."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(texts_of(figure), 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > SLACK and min(a[3], b[3]) - max(a[1], b[1]) > SLACK
    ]


def outside(figure: Figure) -> list[str]:
    """Return the texts that run out of the figure."""
    width, height = figure.bbox.width, figure.bbox.height
    return [
        text
        for text, (left, bottom, right, top) in texts_of(figure)
        if left < -SLACK or bottom < -SLACK or right > width + SLACK or top > height + SLACK
    ]


def smallest_size(figure: Figure) -> float:
    """Return the size in points of the smallest text that is drawn."""
    FigureCanvasAgg(figure).draw()
    return min(text.get_fontsize() for text in _drawn_texts(figure))


def assert_legible(figure: Figure, *, points: float = 6) -> None:
    """Fail where texts overlap, run out of the figure, or are smaller than `points`, and name them."""
    assert not overlaps(figure), f"texts overlap: {overlaps(figure)[:5]}"
    assert not outside(figure), f"texts run out of the figure: {outside(figure)[:5]}"
    assert smallest_size(figure) >= points, f"a text has {smallest_size(figure)} points"


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
                waiting += [label for tick in ticks for label in (tick.label1, tick.label2)]
                waiting += [artist.label, artist.offsetText]
            continue
        waiting += artist.get_children()
    return found

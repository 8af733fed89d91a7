"""Contact sheets: the frames of a clip, and below them rows of what the model makes of each.

Shapes: `T` frames, `L` layers, `h` x `w` patches. Lengths are inches, as the sheet has the width of a printed page.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from .overlay import OPACITY, colours_of, in_frame, overlay
from .words import POINT, width_of, wrapped_lines


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 8  # frames side by side; more are put below each other
WIDTH, LEAST_WIDTH, LARGEST = 7.0, 4.2, 1.3  # of a page without margins, of a sheet with few frames; of a frame
MARGIN, GAP, BLOCK_GAP = 0.06, 0.03, 0.12  # around the sheet; between frames; between lines of frames
NAMES, SAMPLE, BAR = 0.95, 0.3, 0.09  # widths: of rows' names, of a stroke that is explained, of a colour bar
TITLE, WORDS, SMALL = 9.0, 7.0, 6.5  # points: the title, names of rows and notes, times and limits
SPACING = 1.25  # lines of text from each other, in letters' heights
SMOOTH = 160  # pixels of a frame's short side, at least, where heat lies over it
ROBUST = (1, 99)  # percentiles of a row's heat that have the first and last colour
STROKES: tuple[tuple[str, Any], ...] = (  # tell layers apart by dashes and by colours, all light on a dark line
    ("#ffffff", "solid"),
    ("#ffd84d", (0, (4, 1.5))),
    ("#6fd3ff", (0, (1.2, 1.2))),
    ("#ffb3d9", (0, (5, 1.2, 1.2, 1.2))),
)
DARK, GREY, PRINTED = "#000000", 0.5, "#1a1a1a"


@dataclass(frozen=True, eq=False)
class Row:
    """Hold a row of a contact sheet: what is shown of each frame.

    name: what stands at its left; it is wrapped.
    heat: (T, h, w) finite numbers, on one scale for all frames.
    points: (T, 2), or (L, T, 2) for several layers: x and y in [-1, 1], from the centre of the first patch to that of
        the last.
    limits: the values of heat that have the first and last colour; by default the 1st and 99th percentile of the row,
        and 0 and 1 for masks.
    style: `heat` shows heat alone, as feature maps are shown; `mask` shows it over the frames in grey; `boxes` shows
        the frames. Points are squares with `boxes`, and else rings.
    map: the name of one of matplotlib's colour maps.
    box: the side of a square, as a share of the frame's shorter one.
    grid: rows and columns of patches, which say where their centres are; by default those of the heat, and without
        heat -1 and 1 are the frame's edges.
    point_names: L names of the points of several layers; more than four layers are put into several rows.
    """

    name: str
    heat: Any = None
    points: Any = None
    limits: tuple[float, float] | None = None
    style: Literal["heat", "mask", "boxes"] = "heat"
    map: str = "cividis"
    box: float = 0.25
    grid: tuple[int, int] | None = None
    point_names: Sequence[str] = ()


def plot_frames(
    frames: torch.Tensor,
    rows: Sequence[Row],
    *,
    times: Any = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw the contact sheet of a clip: the frames with their times, and below them the rows.

    More than eight frames are put into several lines, each with its rows. The sheet is as wide as a printed page, and
    no letter has less than six points there. A row of heat has one colour scale over all frames, shown by a bar.

    Args:
        frames: (T, 3, H, W), values 0 to 1, what the model saw.
        rows: what stands below them.
        times: (T,) seconds of the frames.
        title: a line above, wrapped; such as the labels.
        notes: sentences below, such as what the picture does not mean.

    Raises:
        ValueError: sizes, styles or numbers that are not those above.
    """
    from matplotlib.figure import Figure  # here, as most who import this draw nothing

    frames = torch.as_tensor(frames).detach().float().cpu()
    if frames.ndim != 4 or frames.shape[1] != 3 or not frames.numel():
        raise ValueError(f"`frames` must be (frames, 3, height, width), got {tuple(frames.shape)}.")
    count = len(frames)
    images = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    clock = None if times is None else [float(seconds) for seconds in times]
    if clock is not None and (len(clock) != count or not np.isfinite(clock).all()):
        raise ValueError(f"`times` must be {count} finite numbers of seconds, got {clock}.")
    drawn = [_checked(part, count) for row in rows for part in _parts(row)]
    size = _Size(images, drawn)
    heading = wrapped_lines(title, size.width - 2 * MARGIN, TITLE, lines=4) if title else []
    remarks = list(notes)
    if any(row.heat is not None and row.limits is None and row.style == "heat" for row in rows):
        remarks.append(
            f"Colours of a row reach from the {ROBUST[0]}st to the {ROBUST[1]}th percentile of all its frames."
        )
    footnotes = [line for note in remarks for line in wrapped_lines(note, size.width - 2 * MARGIN, WORDS, lines=9)]
    line_height = size.line_height(drawn, clock is not None)
    height = 2 * MARGIN + len(heading) * _line(TITLE) + (0.05 if heading else 0) + size.lines * line_height
    height += (size.lines - 1) * BLOCK_GAP + len(footnotes) * _line(WORDS) + (0.06 if footnotes else 0)

    figure = Figure(figsize=(size.width, height))
    axes = figure.add_axes((0, 0, 1, 1))  # in inches from the upper left corner
    axes.set(xlim=(0, size.width), ylim=(height, 0))
    axes.set_axis_off()
    top = MARGIN
    top = _lines(axes, heading, top, TITLE) + (0.05 if heading else 0)
    for start in range(0, count, size.columns):
        _draw_line(axes, size, images, drawn, range(start, min(start + size.columns, count)), top, clock)
        top += line_height + BLOCK_GAP
    top -= BLOCK_GAP
    _lines(axes, footnotes, top + 0.06, WORDS)
    return figure


# -- sizes -----------------------------------------------------------------------------------------------------------


class _Size:
    """Hold the sizes of a sheet in inches: frames as large as the page allows, and room for the longest name."""

    def __init__(self, images: np.ndarray, rows: Sequence["_Drawn"]) -> None:
        count, high, wide = images.shape[:3]
        self.lines = math.ceil(count / COLUMNS)
        self.columns = math.ceil(count / self.lines)
        self.left = MARGIN + (NAMES if any(row.words.name or row.keys for row in rows) else 0)
        numbers = [width_of(number(limit), SMALL) for row in rows if row.heat is not None for limit in row.limits]
        right = MARGIN + (0.1 + BAR + max(numbers) if numbers else 0)
        room = (WIDTH - self.left - right - (self.columns - 1) * GAP) / self.columns
        self.cell = min(room, LARGEST, LARGEST * wide / high)
        self.cell_height = self.cell * high / wide
        self.right = self.left + self.columns * (self.cell + GAP) - GAP
        self.width = max(LEAST_WIDTH, self.right + right)
        self.names = [wrapped_lines(row.words.name, NAMES - 0.06, WORDS, lines=6) for row in rows]
        self.keys = [[wrapped_lines(key, NAMES - SAMPLE - 0.1, WORDS, lines=1)[0] for key in row.keys] for row in rows]

    def line_height(self, rows: Sequence["_Drawn"], has_times: bool) -> float:
        """Return the height of a line of frames with its rows."""
        height = self.cell_height + (_line(SMALL) * 1.1 if has_times else 0)
        return height + sum(GAP + self.row_height(index) for index in range(len(rows)))

    def row_height(self, index: int) -> float:
        """Return the height of a row: of its frames, or of its name where that is higher."""
        lines = len(self.names[index]) + len(self.keys[index])
        return max(self.cell_height, lines * _line(WORDS), 2 * _line(SMALL))

    def place(self, column: int) -> float:
        """Return how many inches from the left edge a column begins."""
        return self.left + column * (self.cell + GAP)


def _line(size: float) -> float:
    return size * POINT * SPACING


# -- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Hold a row that was checked: heat (T, h, w) and its limits, points (L, T, 2) as shares of the frame."""

    words: Row
    heat: np.ndarray | None
    limits: tuple[float, float]
    points: np.ndarray | None

    @property
    def keys(self) -> Sequence[str]:
        """Return the names of the layers, where there are several."""
        return self.words.point_names if self.points is not None and len(self.words.point_names) > 1 else ()


def _parts(row: Row) -> list[Row]:
    """Return a row of points as rows of at most four layers each, which can be told apart."""
    points = None if row.points is None else _array(row.points)
    if points is None or points.ndim != 3 or len(points) == 1:
        return [row]
    names = [str(name) for name in row.point_names] or [f"layer {number}" for number in range(len(points))]
    if len(names) != len(points):
        raise ValueError(f"Row {row.name!r} has points of {len(points)} layers and {len(names)} names.")
    most = len(STROKES)
    return [
        replace(row, points=points[start : start + most], point_names=names[start : start + most])
        for start in range(0, len(points), most)
    ]


def _checked(row: Row, count: int) -> _Drawn:
    """Return a row's numbers, with its limits.

    Raises:
        ValueError: what is no row for so many frames.
    """
    if row.style not in ("heat", "mask", "boxes"):
        raise ValueError(f"The style of a row must be heat, mask or boxes, got {row.style!r} ({row.name!r}).")
    needed = "points" if row.style == "boxes" else "heat"
    if getattr(row, needed) is None:
        raise ValueError(f"Row {row.name!r} of style {row.style!r} needs {needed}.")
    if row.style == "boxes" and row.heat is not None:
        raise ValueError(f"Row {row.name!r} of style 'boxes' shows no heat: heat has no effect.")
    heat, limits, grid = None, (0.0, 1.0), row.grid
    if row.heat is not None:
        colours_of(row.map)
        heat = _array(row.heat)
        if heat.ndim != 3 or len(heat) != count or not heat.size or not np.isfinite(heat).all():
            raise ValueError(
                f"The heat of row {row.name!r} must be ({count}, rows, columns) of finite numbers, got {heat.shape}."
            )
        grid = grid or heat.shape[1:]
        limits = row.limits or ((0.0, 1.0) if row.style == "mask" else robust_limits(heat))
        if not np.isfinite(limits).all() or limits[0] > limits[1]:
            raise ValueError(f"The limits of row {row.name!r} must be two numbers, the smaller first, got {limits}.")
    points = None
    if row.points is not None:
        points = _array(row.points)
        points = points[None] if points.ndim == 2 else points
        if points.ndim != 3 or points.shape[1:] != (count, 2) or not np.isfinite(points).all():
            raise ValueError(
                f"The points of row {row.name!r} must be ({count}, 2) or (layers, {count}, 2) finite numbers, got "
                f"{points.shape}."
            )
        points = in_frame(torch.from_numpy(points), grid).numpy()
    return _Drawn(row, heat, limits, points)


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().float().cpu()
    return np.asarray(values, dtype=np.float32)


def robust_limits(heat: Any) -> tuple[float, float]:
    """Return the 1st and the 99th percentile of heat, over all frames: single outliers do not darken the rest."""
    low, high = np.percentile(_array(heat), ROBUST)
    return float(low), float(high)


# -- drawing ---------------------------------------------------------------------------------------------------------


def _draw_line(
    axes: "Axes",
    size: _Size,
    images: np.ndarray,
    rows: Sequence[_Drawn],
    shown: range,
    top: float,
    times: list[float] | None,
) -> None:
    """Draw one line of frames, their times, and the rows below them."""
    for column, index in enumerate(shown):
        _image(axes, images[index], size.place(column), top, size)
        if times is not None:
            place = size.place(column) + size.cell / 2, top + size.cell_height + 0.15 * _line(SMALL)
            _text(axes, place, f"{times[index]:.2f} s", SMALL, ha="center", va="top")
    top += size.cell_height + (_line(SMALL) * 1.1 if times is not None else 0)
    for number, row in enumerate(rows):
        top += GAP
        middle, height = top + size.row_height(number) / 2, size.row_height(number)
        start = middle - size.cell_height / 2
        _draw_names(axes, size, number, middle)
        for column, index in enumerate(shown):
            left = size.place(column)
            if row.heat is None:
                _image(axes, images[index], left, start, size)
            elif row.words.style == "mask":
                large = _enlarged(images[index])
                mixed = overlay(large, heat=row.heat[index], limits=row.limits, map=row.words.map)
                _image(axes, mixed, left, start, size)
            else:
                low, high = row.limits
                colours = {"cmap": row.words.map, "vmin": low, "vmax": high if high > low else low + 1}
                _image(axes, row.heat[index], left, start, size, interpolation="bilinear", **colours)
            _draw_points(axes, row, index, left, start, size)
        if row.heat is not None:
            _draw_bar(axes, row, size, middle, height)
        top += height


def _enlarged(image: np.ndarray) -> np.ndarray:
    """Return an image whose pixels are repeated until heat over it is smooth."""
    times = math.ceil(SMOOTH / min(image.shape[:2]))
    return image.repeat(times, 0).repeat(times, 1)


def _draw_names(axes: "Axes", size: _Size, number: int, middle: float) -> None:
    """Write the name of a row at its left, and below it what each stroke means."""
    names, keys = size.names[number], size.keys[number]
    top, right = middle - (len(names) + len(keys) - 1) / 2 * _line(WORDS), size.left - 0.06
    for line, words in enumerate([*names, *keys]):
        _text(axes, (right, top + line * _line(WORDS)), words, WORDS, ha="right", va="center")
    for line, (ink, dash) in enumerate(STROKES[: len(keys)], start=len(names)):
        height = top + line * _line(WORDS)
        sample = [MARGIN, MARGIN + SAMPLE], [height, height]
        axes.plot(*sample, color=DARK, linewidth=3.2, solid_capstyle="butt")
        axes.plot(*sample, color=ink, linewidth=1.4, linestyle=dash, dash_capstyle="butt", solid_capstyle="butt")


def _image(axes: "Axes", image: np.ndarray, left: float, top: float, size: _Size, **options: Any) -> None:
    """Draw an image into a cell. `aspect` is kept from being set anew, as the axes are the sheet."""
    extent = (left, left + size.cell, top + size.cell_height, top)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(image, extent=extent, aspect="auto", **options)
    axes.set(xlim=limits[0], ylim=limits[1])


def _draw_points(axes: "Axes", row: _Drawn, index: int, left: float, top: float, size: _Size) -> None:
    from matplotlib.patches import Circle, Rectangle

    if row.points is None:
        return
    cell = Rectangle((left, top), size.cell, size.cell_height, transform=axes.transData)
    for layer, (x, y) in enumerate(row.points[:, index].tolist()):
        x, y = left + x * size.cell, top + y * size.cell_height
        ink, dash = STROKES[layer]
        for width, colour, style in ((2.2, DARK, "solid"), (1.0, ink, dash)):
            options: dict[str, Any] = {"fill": False, "linewidth": width, "edgecolor": colour, "linestyle": style}
            if row.words.style == "boxes":
                side = row.words.box * min(size.cell, size.cell_height)
                mark: Any = Rectangle((x - side / 2, y - side / 2), side, side, **options)
            else:
                mark = Circle((x, y), 0.04, **options)
            axes.add_patch(mark)
            mark.set_clip_path(cell)


def _draw_bar(axes: "Axes", row: _Drawn, size: _Size, middle: float, height: float) -> None:
    """Draw the colours of a row at its right, with the values of the last and the first one."""
    tall, left = min(size.cell_height, height), size.right + 0.06
    colours = colours_of(row.words.map)[::-1, None]
    if row.words.style == "mask":  # as heat looks over grey
        colours = OPACITY * colours + (1 - OPACITY) * GREY
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(colours, extent=(left, left + BAR, middle + tall / 2, middle - tall / 2), aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])
    low, high = row.limits
    half = max(tall / 2, _line(SMALL))
    for value, place, side in ((high, middle - half, "top"), (low, middle + half, "bottom")):
        _text(axes, (left + BAR + 0.04, place), number(value), SMALL, ha="left", va=side)


def number(value: float) -> str:
    """Return a number as text, with three significant digits."""
    return f"{value:.3g}"


def _lines(axes: "Axes", lines: Sequence[str], top: float, size: float) -> float:
    """Write lines below each other and return where they end."""
    for line in lines:
        _text(axes, (MARGIN, top), line, size, ha="left", va="top")
        top += _line(size)
    return top


def _text(axes: "Axes", place: tuple[float, float], words: str, size: float, **options: Any) -> None:
    axes.text(*place, words, fontsize=size, color=PRINTED, parse_math=False, **options)

"""What one patch reads, in space and over time (GTA's Figures 1 and 17): a cross marks the patch that asks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from .panels import (
    COLOURS,
    GREY,
    INK,
    LEAST,
    MARKERS,
    SMALL,
    TEXT,
    WIDTH,
    Page,
    check_frames,
    draw_cross,
    frame_names,
    halo,
    patch_centre,
    put_image,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP, OPACITY = "cividis", 0.65  # of attention over a frame in grey
PER_ROW = 8  # frames in a row
GAP, NAMES = 0.06, 0.8  # inches between frames, and for the names of rows
BARS = 0.46  # inches of a row of bars
MOST_ROUTES = 4  # layers whose routes are marked in the frames
SHARES = ("spatial", "temporal", "spatiotemporal")
Found = Mapping[int, Mapping[str, torch.Tensor]]
Place = tuple[float, float, float, float]


def plot_query_attention(
    frames: torch.Tensor,
    query: tuple[int, int, int],
    attention: Found,
    *,
    times: Sequence[float] | torch.Tensor | None = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw what a patch reads, layer by layer, as far as each layer has it.

    In space: its frame in grey under the attention, each layer on the scale that stands below it, from its lowest to
    its highest value. Over time: bars below the frames, on one scale for all layers, with marks where ATA's routes go.
    In space and time together, with joint attention: all frames under the attention, one scale a layer, below each
    frame its share.

    Args:
        frames: (T, 3, H, W), values 0 to 1.
        query: frame, row and column of the patch.
        attention: for each layer "spatial" (h, w), "temporal" (T,), "spatiotemporal" (T, h, w), "elsewhere" (),
            "route" (T,): `TemporalInspection.query_attention`.
        times: (T,) seconds of the frames.
        title, notes: words above and below.

    Raises:
        ValueError: no attention, shapes that do not fit each other, a query that does not exist.
    """
    frames = check_frames(frames)
    grid = _checked(frames, query, attention)
    names = frame_names(len(frames), times)
    having = {kind: [layer for layer in sorted(attention) if kind in attention[layer]] for kind in SHARES}
    columns = min(len(frames), PER_ROW)
    aspect = frames.shape[2] / frames.shape[3]
    side = min((WIDTH - NAMES - 0.1 + GAP) / columns - GAP, 1.2, 1.2 / aspect)
    sheet = _Sheet(frames, names, query, grid, columns, side, side * aspect)
    heights = [
        sheet.space_height(having["spatial"]),
        sheet.time_height(having["temporal"]),
        sheet.both_height(having["spatiotemporal"]),
    ]
    page = Page(sheet.page_width(having), sum(heights), title, [*_remarks(attention, having), *notes])
    canvas, top = page.canvas(), 0.0
    for draw, kind, height in zip((sheet.draw_space, sheet.draw_time, sheet.draw_both), SHARES, heights):
        if having[kind]:
            draw(page, canvas, {layer: attention[layer] for layer in having[kind]}, top)
        top += height
    return page.figure


def _checked(frames: torch.Tensor, query: tuple[int, int, int], attention: Found) -> tuple[int, int]:
    """Return the grid that the attention has.

    Raises:
        ValueError: as `plot_query_attention`.
    """
    maps = [found[kind] for found in attention.values() for kind in ("spatial", "spatiotemporal") if kind in found]
    grids = {tuple(one.shape[-2:]) for one in maps}
    if len(grids) != 1:
        raise ValueError(
            f'`attention` must have "spatial" or "spatiotemporal" of one grid; got grids {sorted(grids)}.'
        )
    grid = grids.pop()
    count = len(frames)
    wanted = {"spatial": grid, "temporal": (count,), "spatiotemporal": (count, *grid), "route": (count,)}
    for layer, found in attention.items():
        for kind, shape in wanted.items():
            if kind in found and tuple(found[kind].shape) != shape:
                raise ValueError(f'"{kind}" of layer {layer} must be {shape}, got {tuple(found[kind].shape)}.')
    if len(query) != 3 or not all(0 <= index < size for index, size in zip(query, (count, *grid))):
        raise ValueError(f"`query` is {tuple(query)}; allowed: frame, row, column below {(count, *grid)}.")
    return grid[0], grid[1]


def _told_apart(low: float, high: float) -> list[str]:
    """Return two numbers in so many digits that they differ, two at least and four at most."""
    return next(
        words
        for digits in (2, 3, 4)
        if len({*(words := [f"{low:.{digits}g}", f"{high:.{digits}g}"])}) > 1 or digits == 4
    )


def _remarks(attention: Found, having: Mapping[str, list[int]]) -> list[str]:
    remarks = ["The cross marks the patch that reads; drawn is the mean over the heads."]
    if having["spatial"] or having["spatiotemporal"]:
        remarks[0] += " Colours of a layer reach from its lowest to its highest value."
    if any("elsewhere" in found for found in attention.values()):
        remarks[0] += " Elsewhere: the share of tokens that are no patches, such as the class token."
    routes = [layer for layer in having["temporal"] if "route" in attention[layer]]
    if len(routes) > MOST_ROUTES:
        remarks.append(f"Routes are marked for {MOST_ROUTES} layers or fewer, and these are {len(routes)}.")
    return remarks


class _Sheet:
    """Hold the frames, names and sizes of a picture, and draw its three parts, each with its height in inches."""

    def __init__(
        self,
        frames: torch.Tensor,
        names: Sequence[str],
        query: tuple[int, int, int],
        grid: tuple[int, int],
        columns: int,
        side: float,
        high: float,
    ) -> None:
        self.frames, self.names, self.query, self.grid = frames, names, query, grid
        self.columns, self.side, self.high = columns, side, high
        self.width = NAMES + columns * (side + GAP) - GAP + 0.1
        self.blocks = [range(start, min(start + columns, len(frames))) for start in range(0, len(frames), columns)]
        self.patch = query[1] * grid[1] + query[2]
        self.grey = frames.mean(1, keepdim=True).expand_as(frames)
        self.cell = max(side, 0.95)  # of a map in space, which has three lines of words below
        self.beside = max(1, int((WIDTH - 0.1 + GAP) / (self.cell + GAP)))  # of these in a row

    def page_width(self, having: Mapping[str, Sequence[int]]) -> float:
        """Return the width of a page for the frames side by side, and for the maps in space."""
        maps = min(self.beside, len(having["spatial"]) + 1) * (self.cell + GAP) - GAP + 0.1
        strips = self.width if having["temporal"] or having["spatiotemporal"] else 0.0
        return max(LEAST, strips, maps)

    # -- in space -----------------------------------------------------------------------------------------------------

    def space_height(self, layers: Sequence[int]) -> float:
        """Return the height of the maps of the query's frame."""
        lines = -(-(len(layers) + 1) // self.beside)
        return 0.18 + lines * (self.cell * self.high / self.side + 0.56) if layers else 0.0

    def draw_space(self, page: Page, canvas: "Axes", found: Found, top: float) -> None:
        """Draw the query's frame as it is, and under the attention of each layer."""
        frame, high = self.query[0], self.cell * self.high / self.side
        page.text(0.05, top, "in space, within its frame", TEXT, va="top", weight="bold")
        for number, layer in enumerate([None, *found]):
            line, column = divmod(number, self.beside)
            place = (0.05 + column * (self.cell + GAP), top + 0.18 + line * (high + 0.56), self.cell, high)
            words = f"{self.names[frame]}\nrow {self.query[1]}, column {self.query[2]}"
            if layer is None:
                put_image(canvas, self.frames[frame], place)
            else:
                spatial = found[layer]["spatial"].float()
                limits = float(spatial.min()), float(spatial.max())
                self._draw_heat(canvas, frame, spatial, limits, place)
                words = f"layer {layer}\n{' to '.join(_told_apart(*limits))}"
                if "elsewhere" in found[layer]:
                    words += f"\nelsewhere {float(found[layer]['elsewhere']):.0%}"
            draw_cross(canvas, patch_centre(place, self.grid, self.patch), 5)
            page.text(place[0], place[1] + high + 0.03, words, SMALL, va="top")

    # -- over time ----------------------------------------------------------------------------------------------------

    def time_height(self, layers: Sequence[int]) -> float:
        """Return the height of the frames with a row of bars for each layer."""
        return 0.18 + len(self.blocks) * (self.high + 0.22 + len(layers) * BARS + 0.12) if layers else 0.0

    def draw_time(self, page: Page, canvas: "Axes", found: Found, top: float) -> None:
        """Draw the frames, the patches that are read in them, and how much of each."""
        routes = {layer: one["route"].tolist() for layer, one in found.items() if "route" in one}
        where = "along its route" if routes else "at its place"
        page.text(0.05, top, f"over time, {where}", TEXT, va="top", weight="bold")
        routes = routes if len(routes) <= MOST_ROUTES else {}
        highest = max(float(one["temporal"].max()) for one in found.values()) or 1.0
        for number, shown in enumerate(self.blocks):
            start = top + 0.18 + number * (self.high + 0.22 + len(found) * BARS + 0.12)
            for column, frame in enumerate(shown):
                place = self._place(column, start)
                put_image(canvas, self.frames[frame], place)
                for index, layer in enumerate(routes):
                    centre = patch_centre(place, self.grid, routes[layer][frame])
                    self._mark(canvas, centre, index)
                if frame == self.query[0]:
                    draw_cross(canvas, patch_centre(place, self.grid, self.patch), 5)
                self._name(page, frame, place)
            for line, layer in enumerate(found):
                base = start + self.high + 0.22 + (line + 1) * BARS
                page.text(0.05, base - 0.1, f"layer {layer}", SMALL, va="center")
                if layer in routes:
                    self._mark(canvas, (NAMES - 0.1, base - 0.1), [*routes].index(layer))
                for column, frame in enumerate(shown):
                    left = self._place(column, start)[0]
                    self._draw_bar(page, canvas, float(found[layer]["temporal"][frame]), highest, left, base)

    def _draw_bar(self, page: Page, canvas: "Axes", weight: float, highest: float, left: float, base: float) -> None:
        from matplotlib.patches import Rectangle

        tall = (BARS - 0.2) * weight / highest
        canvas.plot([left, left + self.side], [base, base], color=GREY, linewidth=0.6)
        canvas.add_patch(Rectangle((left + self.side * 0.2, base - tall), self.side * 0.6, tall, color=COLOURS[0]))
        page.text(left + self.side / 2, base - tall - 0.015, f"{weight:.2g}", SMALL, ha="center", va="bottom")

    def _mark(self, canvas: "Axes", centre: tuple[float, float], index: int) -> None:
        kind, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
        canvas.plot(*[[part] for part in centre], kind, ms=4.5, color=colour, mec=INK, mew=0.6, path_effects=halo(1.8))

    # -- in space and time --------------------------------------------------------------------------------------------

    def both_height(self, layers: Sequence[int]) -> float:
        """Return the height of the frames with a row of maps for each layer."""
        return 0.18 + len(self.blocks) * ((len(layers) + 1) * (self.high + 0.22) + 0.08) if layers else 0.0

    def draw_both(self, page: Page, canvas: "Axes", found: Found, top: float) -> None:
        """Draw the frames, and all of them under the attention of each layer."""
        page.text(0.05, top, "in space and time together", TEXT, va="top", weight="bold")
        for number, shown in enumerate(self.blocks):
            start = top + 0.18 + number * ((len(found) + 1) * (self.high + 0.22) + 0.08)
            for line, layer in enumerate([None, *found]):
                above = start + line * (self.high + 0.22)
                limits = (0.0, 1.0)
                if layer is not None:
                    every = found[layer]["spatiotemporal"]
                    limits = float(every.min()), float(every.max())
                    words = f"layer {layer}\n" + "\nto ".join(_told_apart(*limits))
                    if "elsewhere" in found[layer]:
                        words += f"\nelsewhere {float(found[layer]['elsewhere']):.0%}"
                    page.text(0.05, above + self.high / 2, words, SMALL, va="center")
                for column, frame in enumerate(shown):
                    place = self._place(column, above)
                    if layer is None:
                        put_image(canvas, self.frames[frame], place)
                        self._name(page, frame, place)
                    else:
                        heat = found[layer]["spatiotemporal"][frame].float()
                        self._draw_heat(canvas, frame, heat, limits, place)
                        middle, below = place[0] + self.side / 2, place[1] + self.high + 0.03
                        page.text(middle, below, f"{float(heat.sum()):.1%}", SMALL, ha="center", va="top")
                    if frame == self.query[0]:
                        draw_cross(canvas, patch_centre(place, self.grid, self.patch), 5)

    # -- all three ----------------------------------------------------------------------------------------------------

    def _place(self, column: int, top: float) -> Place:
        return NAMES + column * (self.side + GAP), top, self.side, self.high

    def _name(self, page: Page, frame: int, place: Place) -> None:
        page.text(
            place[0] + self.side / 2, place[1] + self.high + 0.03, self.names[frame], SMALL, ha="center", va="top"
        )

    def _draw_heat(
        self, canvas: "Axes", frame: int, heat: torch.Tensor, limits: tuple[float, float], place: Place
    ) -> None:
        """Draw a frame in grey and a map over it, each patch in one colour."""
        put_image(canvas, self.grey[frame], place)
        low, high = limits
        style = {
            "cmap": MAP,
            "vmin": low,
            "vmax": high if high > low else low + 1,
            "alpha": OPACITY,
            "interpolation": "nearest",
        }
        put_image(canvas, heat, place, **style)

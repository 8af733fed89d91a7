"""Which patch of a frame is matched with which patch of the next one, and the routes that the matches make.

What ATA (Zhao et al. 2022) matches and draws as a scheme in its Figures 2 and 5. Routes are (T, N): for each of T
frames the patch on each of N routes, of N = h * w patches row after row.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from .panels import (
    COLOURS,
    INK,
    LEAST,
    LINES,
    MARKERS,
    SMALL,
    WIDTH,
    Page,
    check_frames,
    frame_names,
    halo,
    patch_box,
    patch_centre,
    put_image,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

By = Literal["similarity", "distance"]
Query = tuple[int, int, int]
PER_ROW = 8  # frames of a row of `plot_routes`
MOST_ROUTES = 12  # that differ in colour and line


def plot_matches(
    frames: torch.Tensor,
    routes: torch.Tensor,
    grid: tuple[int, int],
    *,
    similarities: torch.Tensor | None = None,
    times: Sequence[float] | torch.Tensor | None = None,
    most: int = 10,
    by: By | None = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw each two neighbouring frames side by side and join matched patches by lines, of those that moved.

    Below each two stands how many patches moved and how many of them are drawn.

    Args:
        frames: (T, 3, H, W), values 0 to 1.
        routes: (T, N), `TemporalInspection.routes` of a layer.
        grid: patch rows and columns (h, w).
        similarities: (T-1, N), the cosines of the patches that are matched.
        times: (T,) seconds of the frames.
        most: the lines between two frames.
        by: which are drawn: "similarity", the most similar of the patches that moved, or "distance", those that moved
            farthest; by default the former where `similarities` are given.
        title, notes: words above and below.

    Raises:
        ValueError: shapes that do not fit each other, fewer than two frames, no line or "similarity" without them.
    """
    frames, routes, similarities = _checked(frames, routes, grid, similarities)
    if most < 1:
        raise ValueError(f"`most` is {most}; allowed: 1 or more.")
    chosen_by = _by(by, similarities)
    names, pairs = frame_names(len(frames), times), len(frames) - 1
    columns = next(columns for columns, count in ((1, 1), (2, 4), (3, 9), (4, pairs)) if pairs <= count)
    gap, between, caption = 0.16, 0.14, 0.34
    aspect = frames.shape[2] / frames.shape[3]
    side = min(((WIDTH - 0.1 + gap) / columns - gap - between) / 2, 2.0, 2.0 / aspect)  # a frame's width
    panel, high = 2 * side + between, side * aspect
    rows = -(-pairs // columns)
    width = max(columns * (panel + gap) - gap + 0.1, LEAST)
    says = "most similar" if chosen_by == "similarity" else "farthest"
    kinds = [f"Lines join matched patches that moved, the {says} up to {most} of each two frames."]
    page = Page(width, rows * (high + caption), title, [*kinds, *notes])
    canvas = page.canvas()
    for pair in range(pairs):
        left, top = 0.05 + pair % columns * (panel + gap), pair // columns * (high + caption)
        places = ((left, top, side, high), (left + side + between, top, side, high))
        for place, frame in zip(places, frames[pair : pair + 2]):
            put_image(canvas, frame, place)
        moved = _distances(routes[pair : pair + 2], grid)[0]  # (N,)
        worth = moved if chosen_by == "distance" or similarities is None else similarities[pair]
        order = [n for n in worth.argsort(descending=True, stable=True).tolist() if moved[n] > 0]
        for index, route in enumerate(order[:most]):
            _join(canvas, places, routes[pair : pair + 2, route].tolist(), grid, index)
        count = f"{len(order)} moved, {min(most, len(order))} drawn" if order else "no patch moved"
        words = f"{names[pair]} \N{RIGHTWARDS ARROW} {names[pair + 1]}\n{count}"
        page.text(left, top + high + 0.03, words, SMALL, va="top")
    return page.figure


def plot_routes(
    frames: torch.Tensor,
    routes: torch.Tensor,
    grid: tuple[int, int],
    *,
    similarities: torch.Tensor | None = None,
    times: Sequence[float] | torch.Tensor | None = None,
    patches: Sequence[Query] | None = None,
    most: int | None = None,
    by: By | None = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw routes through time: where each is in each frame, joined from frame to frame, each with a style of its own.

    Args:
        frames: (T, 3, H, W), values 0 to 1.
        routes: (T, N), `TemporalInspection.routes` of a layer.
        grid: patch rows and columns (h, w).
        similarities: (T-1, N), the cosines of the patches that are matched.
        times: (T,) seconds of the frames.
        patches: frame, row and column of patches whose routes are drawn; by default they are chosen.
        most: how many are chosen, 5 by default, 12 at most.
        by: which are chosen of the routes that move: "distance", by default, those that move farthest in all, or
            "similarity", those whose patches are most similar in the mean.
        title, notes: words above and below.

    Raises:
        ValueError: shapes that do not fit each other, fewer than two frames, more than 12 routes or none, a patch that
            does not exist, `most` or `by` beside `patches`.
    """
    frames, routes, similarities = _checked(frames, routes, grid, similarities)
    names, count = frame_names(len(frames), times), len(frames)
    lengths = _distances(routes, grid).sum(0)  # (N,), in patches
    asked = len(patches) if patches is not None else 5 if most is None else most
    if not 1 <= asked <= MOST_ROUTES:
        raise ValueError(f"{asked} routes are asked for; allowed: 1 to {MOST_ROUTES}.")
    if patches is not None:
        if most is not None or by is not None:
            raise ValueError(f"`patches` are given, so `most`={most} and `by`={by!r} would have no effect.")
        chosen, remarks = [_route_of(routes, grid, patch) for patch in patches], []
    else:
        chosen_by = _by(by or "distance", similarities)
        worth = lengths if chosen_by == "distance" or similarities is None else similarities.mean(0)
        moving = [n for n in worth.argsort(descending=True, stable=True).tolist() if lengths[n] > 0]
        chosen = moving[:asked]
        says = "move farthest in all" if chosen_by == "distance" else "have the most similar patches"
        remarks = [f"Drawn: {len(chosen)} of the {len(moving)} routes that move, those that {says}."]
        remarks[0] += f" The other {routes.shape[1] - len(moving)} stay in place."
    aspect, gap, caption = frames.shape[2] / frames.shape[3], 0.12, 0.2
    columns = min(count, PER_ROW)
    side = min((WIDTH - 0.1 + gap) / columns - gap, 1.6, 1.6 / aspect)
    high, width = side * aspect, max(columns * (side + gap) - gap + 0.1, LEAST)
    legend = [_described(routes, route, grid, float(lengths[route])) for route in chosen]
    beside = 2 if width >= WIDTH * 0.9 else 1  # entries of the legend
    lines = -(-len(legend) // beside) * 0.16
    rows = -(-count // columns)
    page = Page(width, rows * (high + caption) + lines, title, [*remarks, *notes])
    canvas = page.canvas()
    places = [(0.05 + t % columns * (side + gap), t // columns * (high + caption), side, high) for t in range(count)]
    for place, frame, name in zip(places, frames, names):
        put_image(canvas, frame, place)
        page.text(place[0] + side / 2, place[1] + high + 0.03, name, SMALL, va="top", ha="center")
    for index, route in enumerate(chosen):
        for start in range(0, count, columns):
            seen = range(start, min(start + columns, count))
            centres = [patch_centre(places[t], grid, int(routes[t, route])) for t in seen]
            _line(canvas, centres, index, marker=True)
        line, column = divmod(index, beside)
        left, top = 0.1 + column * width / 2, rows * (high + caption) + 0.08 + line * 0.16
        _line(canvas, [(left, top), (left + 0.4, top)], index, marker=True)
        page.text(left + 0.52, top, legend[index], SMALL, va="center_baseline")
    return page.figure


def _checked(
    frames: torch.Tensor, routes: torch.Tensor, grid: tuple[int, int], similarities: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    frames = check_frames(frames)
    sizes = (len(frames), grid[0] * grid[1])
    if tuple(routes.shape) != sizes:
        raise ValueError(
            f"`routes` must be {sizes}: frames by patches of a {grid[0]} x {grid[1]} grid; got {tuple(routes.shape)}."
        )
    if len(frames) < 2:
        raise ValueError("Patches of neighbouring frames are matched: 2 frames or more, got 1.")
    if similarities is not None and tuple(similarities.shape) != (sizes[0] - 1, sizes[1]):
        raise ValueError(f"`similarities` must be {(sizes[0] - 1, sizes[1])}, got {tuple(similarities.shape)}.")
    return frames, routes.cpu(), None if similarities is None else similarities.float().cpu()


def _by(by: str | None, similarities: torch.Tensor | None) -> str:
    if by not in (None, "similarity", "distance"):
        raise ValueError(f'`by` is {by!r}; allowed: "similarity", "distance".')
    if by == "similarity" and similarities is None:
        raise ValueError('`by` is "similarity"; it needs `similarities`.')
    return by or ("distance" if similarities is None else "similarity")


def _distances(routes: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return how far each route moves from frame to frame, in patches: (T, N) -> (T-1, N)."""
    places = torch.stack([routes // grid[1], routes % grid[1]]).float()  # (2, T, N)
    return places.diff(dim=1).square().sum(0).sqrt()


def _route_of(routes: torch.Tensor, grid: tuple[int, int], patch: Query) -> int:
    """Return the route on which a patch of a frame is."""
    sizes = (len(routes), *grid)
    if len(patch) != 3 or not all(0 <= index < size for index, size in zip(patch, sizes)):
        allowed = ", ".join(f"{name} 0 to {size - 1}" for name, size in zip(("frame", "row", "column"), sizes))
        raise ValueError(f"A patch is {tuple(patch)}; allowed: {allowed}.")
    frame, row, column = patch
    return int((routes[frame] == row * grid[1] + column).nonzero()[0])


def _described(routes: torch.Tensor, route: int, grid: tuple[int, int], length: float) -> str:
    row, column = divmod(int(routes[0, route]), grid[1])
    return f"from row {row}, column {column}; moves {length:.1f} patches in all"


def _join(
    canvas: "Axes",
    places: Sequence[tuple[float, float, float, float]],
    patches: Sequence[int],
    grid: tuple[int, int],
    index: int,
) -> None:
    """Join a patch of one frame and its match in the next by a line, and draw a box around both."""
    from matplotlib.patches import Rectangle

    for place, patch in zip(places, patches):
        left, top, width, height = patch_box(place, grid, patch)
        box = Rectangle((left, top), width, height, fill=False, edgecolor=INK, linewidth=0.5, path_effects=halo(1.4))
        canvas.add_patch(box)
    _line(canvas, [patch_centre(place, grid, patch) for place, patch in zip(places, patches)], index)


def _line(canvas: "Axes", points: Sequence[tuple[float, float]], index: int, *, marker: bool = False) -> None:
    """Draw a line in the style of an index, light around it."""
    style = LINES[index % len(LINES)]
    colour = COLOURS[index % len(COLOURS)]
    across, down = zip(*points)
    canvas.plot(across, down, color="white", linewidth=2.4, solid_capstyle="round", zorder=3, alpha=0.85)
    canvas.plot(across, down, color=colour, linewidth=1.2, linestyle=style, zorder=4)
    if marker:
        kind = MARKERS[index % len(MARKERS)]
        canvas.plot(across, down, kind, color=colour, ms=4.5, mec="black", mew=0.6, path_effects=halo(1.8), zorder=5)

"""What frames give to each other: learned weights over time, attention of the frame integration, shared information.

Shapes: `T` frames. In all maps a row is the frame that gets, a column the frame that gives, both numbered from 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .panels import (
    COLOURS,
    LEAST,
    LINES,
    MARKERS,
    SMALL,
    TEXT,
    WIDTH,
    Page,
    check_frames,
    frame_names,
    put_image,
    tick_indices,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP = "Blues"  # darker is more, as in GTA's Figure 15, and as ink on paper
LEVELS = ("pixels", "regions")
BAR = 0.09  # inches of a colour bar's width
DIGIT = 0.06  # inches of a digit


def plot_temporal_weights(
    weights: Mapping[int, Mapping[str, torch.Tensor]], *, title: str = "", notes: Sequence[str] = ()
) -> "Figure":
    """Draw GTA's T x T matrices: a row of maps for pixels and one for regions, a column for each layer (Figure 15).

    Darker is more. Each row has one scale for all layers, from 0.

    Args:
        weights: for each layer "pixels" and "regions", (T, T) absolute values: `TemporalInspection.weights`.
        title, notes: words above and below.

    Raises:
        ValueError: no layer, or no square matrices of one size.
    """
    maps = {(layer, level): own[level] for layer, own in weights.items() for level in LEVELS if level in own}
    shapes = {tuple(one.shape) for one in maps.values()}
    shape = shapes.pop() if len(shapes) == 1 and len(maps) == len(LEVELS) * len(weights) else ()
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            '`weights` must have "pixels" and "regions", (T, T), for each of one or more layers; got '
            f"{ {layer: {level: tuple(one.shape) for level, one in own.items()} for layer, own in weights.items()} }."
        )
    count, layers = shape[0], sorted(weights)
    left, right, gap, below = 0.62, 0.6, 0.12, 0.42
    columns = min(len(layers), 6)
    side = min((WIDTH - left - right + gap) / columns - gap, 1.9)
    width = max(left + columns * (side + gap) - gap + right, LEAST)
    blocks = [layers[start : start + columns] for start in range(0, len(layers), columns)]
    block = 0.2 + 2 * side + 0.12 + below
    page = Page(width, len(blocks) * block, title, notes)
    limits = {level: (0.0, max(float(maps[layer, level].max()) for layer in layers)) for level in LEVELS}
    for number, shown in enumerate(blocks):
        for line, level in enumerate(LEVELS):
            top = number * block + 0.2 + line * (side + 0.12)
            for column, layer in enumerate(shown):
                axes = page.axes(left + column * (side + gap), top, side, side)
                image = _draw_map(axes, maps[layer, level].float().cpu(), limits[level])
                _number(axes, count, side, below=line == 1, beside=column == 0)
                if line == 0:
                    axes.set_title(f"layer {layer}", fontsize=TEXT, pad=3)
                if column == 0:
                    axes.set_ylabel(f"{level}\nframe that gets", fontsize=SMALL)
                if line == 1:
                    axes.set_xlabel("frame that gives", fontsize=SMALL)
            place = left + len(shown) * (side + gap) - gap + 0.08
            _bar(page, image, place, top, side)
    return page.figure


def plot_frame_attention(
    attention: Mapping[int, torch.Tensor],
    frames: torch.Tensor,
    times: Sequence[float] | torch.Tensor | None = None,
    *,
    per_head: bool = False,
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw which frames each frame reads in the frame integration: a T x T map, frames at its axes, for each layer.

    Colours reach from the lowest to the highest value of all layers.

    Args:
        attention: for each layer of the integration (heads, T, T) probabilities: `TemporalInspection.frame_attention`.
        frames: (T, 3, H, W), values 0 to 1.
        times: (T,) seconds of the frames.
        per_head: draw a small map for each head below the mean over them; all heads have one scale, all means another.
        title, notes: words above and below.

    Raises:
        ValueError: no layer, or shapes that do not fit each other.
    """
    frames = check_frames(frames)
    count, names = len(frames), frame_names(len(frames), times)
    wrong = {
        layer: tuple(one.shape) for layer, one in attention.items() if one.ndim != 3 or one.shape[1:] != (count,) * 2
    }
    if wrong or not attention:
        raise ValueError(f"`attention` must be (heads, {count}, {count}) for each of one or more layers; got {wrong}.")
    means = {layer: attention[layer].float().cpu().mean(0) for layer in sorted(attention)}
    limits, of_heads = _limits(means.values()), _limits(attention.values())
    side = min(4.4, max(2.2, 0.55 * count))  # of the map of one layer
    cell = side / count
    aspect = frames.shape[2] / frames.shape[3]
    thumb = min(cell * 0.94, 0.5), min(cell * 0.94, 0.5)  # room for a frame: width, height
    shown = (thumb[0], thumb[0] * aspect) if aspect <= 1 else (thumb[1] / aspect, thumb[1])
    heads = max(len(one) for one in attention.values()) if per_head else 0
    small, beside = 0.78, 6  # of a head's map; maps in a row
    label = DIGIT * max(map(len, names)) + 0.06  # inches of the longest name
    left, above, below = 0.3 + label + shown[0], 0.22 + shown[1], 0.46
    lines = -(-heads // beside)
    block = above + side + below + lines * (small + 0.2) + (0.3 if lines else 0)
    width = max(left + side + 0.7, 0.4 + min(heads, beside) * (small + 0.12), LEAST)
    page = Page(width, len(means) * block, title, [f"Attention to all frames alike is {1 / count:.3g}.", *notes])
    for number, (layer, mean) in enumerate(means.items()):
        top = number * block + above
        canvas = page.canvas()
        for index, frame in enumerate(frames):
            middle = (index + 0.5) * cell
            put_image(canvas, frame, (left + middle - shown[0] / 2, top - 0.04 - shown[1], *shown))
            put_image(canvas, frame, (left - 0.04 - shown[0], top + middle - shown[1] / 2, *shown))
        axes = page.axes(left, top, side, side)
        image = _draw_map(axes, mean, limits)
        indices = tick_indices(count, max(1, int(side / label)))
        axes.set_xticks(indices, [names[index].removeprefix("frame ") for index in indices], parse_math=False)
        axes.set_yticks(range(count), [])
        axes.tick_params(labelsize=SMALL, length=2, pad=1.5)
        axes.set_xlabel("frame that is read", fontsize=TEXT)
        down = [index for index in indices if index in tick_indices(count, int(side / 0.13))]
        for index in down:
            words = names[index].removeprefix("frame ")
            page.text(left - 0.08 - shown[0], top + (index + 0.5) * cell, words, SMALL, ha="right", va="center")
        page.text(0.08, top + side / 2, "frame that reads", TEXT, rotation=90, va="center")
        heads_of = len(attention[layer])
        heading = f"frame integration, layer {layer}, " + (f"mean of {heads_of} heads" if heads_of > 1 else "one head")
        page.text(left, top - shown[1] - 0.08, heading, TEXT, va="bottom")
        _bar(page, image, left + side + 0.1, top, side)
        if per_head:
            words = f"single heads, on one scale from {of_heads[0]:.3g} to {of_heads[1]:.3g}"
            page.text(0.2, top + side + below, words, TEXT, va="top")
        for head, own in enumerate(attention[layer].float().cpu() if per_head else ()):
            line, column = divmod(head, beside)
            place = 0.2 + column * (small + 0.12), top + side + below + 0.34 + line * (small + 0.2)
            _draw_map(page.axes(*place, small, small), own, of_heads).axes.set(xticks=[], yticks=[])
            page.text(place[0], place[1] - 0.02, f"head {head}", SMALL, va="bottom")
    return page.figure


def plot_information(
    information: Mapping[int, torch.Tensor],
    times: Sequence[float] | torch.Tensor | None = None,
    *,
    measure: str = "mutual information (nats)",
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw what neighbouring frames share over time: a line for each layer, a point in the middle of each pair.

    Args:
        information: for each layer (T-1,) numbers: `Inspection.information` or `Inspection.distances`.
        times: (T,) seconds of the frames; by default the axis counts frames. Frames with a time twice are set
            apart evenly.
        measure: what is measured, the name of the axis.
        title, notes: words above and below.

    Raises:
        ValueError: no layer, fewer than two frames, layers of different lengths, times that do not fit.
    """
    lengths = {len(values) for values in information.values()}
    if len(lengths) != 1 or not min(lengths):
        raise ValueError(
            f"`information` must be (T-1,), one number or more, for each layer; got lengths {sorted(lengths)}."
        )
    count = lengths.pop() + 1
    clock = [float(index) for index in range(count)] if times is None else [float(time) for time in times]
    if len(clock) != count or any(not one <= other for one, other in zip(clock, clock[1:])):
        raise ValueError(f"`times` must be {count} seconds that do not fall, got {clock}.")
    places = clock if len({*clock}) == count else [float(index) for index in range(count)]  # frames that are repeated
    beside = 6  # entries of the legend in a row
    lines = -(-len(information) // beside)
    page = Page(WIDTH, 2.9 + 0.17 * lines, title, notes)
    axes = page.axes(0.7, 0.1, WIDTH - 0.85, 2.35)
    middles = [(one + other) / 2 for one, other in zip(places, places[1:])]
    for index, layer in enumerate(sorted(information)):
        values = information[layer].float().cpu().tolist()
        axes.plot(middles, values, label=f"layer {layer}", **_style(index), linewidth=1.2, ms=3.5)
    long = places[-1] - places[0]
    names = [f"{time:.{0 if times is None else 2}f}" for time in clock]
    apart = DIGIT * max(map(len, names)) + 0.08
    shown = _apart([(place - places[0]) / long * (WIDTH - 1) for place in places], apart)
    axes.set_xticks([places[index] for index in shown], [names[index] for index in shown])
    axes.set_xticks(places, minor=True)
    axes.set_xlim(places[0] - 0.02 * long, places[-1] + 0.02 * long)
    axes.grid(axis="x", which="both", color="#dddddd", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, which="both")
    axes.set_xlabel("frame" if times is None else "seconds; a line at each frame, a point between two", fontsize=TEXT)
    axes.set_ylabel(measure, fontsize=TEXT, parse_math=False)
    handles, labels = axes.get_legend_handles_labels()
    place = (0.7 / WIDTH, 1 - (page.above + 2.88) / page.total)
    options: dict[str, Any] = {"ncols": min(beside, len(labels)), "fontsize": SMALL, "frameon": False}
    page.figure.legend(
        handles, labels, loc="upper left", bbox_to_anchor=place, handlelength=3.2, borderpad=0, **options
    )
    return page.figure


def _style(index: int) -> dict[str, Any]:
    """Return colour, line and marker of a line, which differ from those of the lines before it."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[(index // len(COLOURS) + index) % len(LINES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def _apart(places: Sequence[float], least: float) -> list[int]:
    """Return the indices of places, rising, that are at least so far from the one before."""
    found: list[int] = []
    for index, place in enumerate(places):
        if not found or place - places[found[-1]] >= least:
            found.append(index)
    return found


def _limits(maps: Iterable[torch.Tensor]) -> tuple[float, float]:
    """Return the lowest and the highest value of all maps."""
    every = [(float(one.min()), float(one.max())) for one in maps]
    return min(low for low, _ in every), max(high for _, high in every)


def _draw_map(axes: "Axes", values: torch.Tensor, limits: tuple[float, float]) -> Any:
    low, high = limits
    style: dict[str, Any] = {"cmap": MAP, "aspect": "auto", "interpolation": "nearest"}
    return axes.imshow(values.numpy(), vmin=low, vmax=high if high > low else low + 1, **style)


def _number(axes: "Axes", count: int, side: float, *, below: bool, beside: bool) -> None:
    """Number the frames at a map's axes."""
    indices = tick_indices(count, max(2, int(side / 0.2)))
    words = [str(index) for index in indices]
    axes.set_xticks(indices, words if below else [])
    axes.set_yticks(indices, words if beside else [])
    axes.tick_params(labelsize=SMALL, length=2, pad=1.5)


def _bar(page: Page, image: Any, left: float, top: float, height: float) -> None:
    """Draw the colours of an image with its limits."""
    axes = page.axes(left, top, BAR, height)
    bar = page.figure.colorbar(image, cax=axes)
    low, high = image.get_clim()
    bar.set_ticks([low, high], labels=[f"{low:.3g}", f"{high:.3g}"])
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=1.5)

"""What several pictures are made of: a page in inches, frames on it, and styles that differ without colours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .words import wrapped_lines


if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 7.0  # inches of a printed page without margins
LEAST = 4.2  # inches of a page with little on it
TITLE, TEXT, SMALL = 9.0, 7.0, 6.5  # points: the title; notes and names; times and numbers
LINE = 1.35 / 72  # inches of a line of text for each point of its size
INK, GREY, HALO = "#1a1a1a", "#8a8a8a", "white"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#1a1a1a")  # apart for the colour-blind
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Page:
    """Hold a figure with a title, notes below, and between them a body that is measured in inches from its top left.

    The figure's width is `width`, and its height is what title, body and notes need.
    """

    def __init__(self, width: float, height: float, title: str = "", notes: Sequence[str] = ()) -> None:
        from matplotlib.figure import Figure  # here, as most who import this draw nothing

        head = wrapped_lines(title, width - 0.1, TITLE, lines=4) if title else []
        foot = [line for note in notes for line in wrapped_lines(note, width - 0.1, TEXT, lines=9)]
        self.width, self.height = width, height
        self.above = 0.06 + len(head) * TITLE * LINE + (0.08 if head else 0.0)
        below = 0.06 + len(foot) * TEXT * LINE + (0.1 if foot else 0.0)
        self.total = self.above + height + below
        self.figure: Figure = Figure(figsize=(width, self.total))
        self.text(0.05, 0.06 - self.above, "\n".join(head), TITLE, va="top")
        self.text(0.05, height + 0.1, "\n".join(foot), TEXT, va="top", color="#444444")

    def text(self, left: float, top: float, words: str, size: float = TEXT, **style: Any) -> None:
        """Write words at a point of the body; nothing in them is read as mathematics."""
        if words:
            place = left / self.width, 1 - (self.above + top) / self.total
            self.figure.text(
                *place, words, fontsize=size, linespacing=1.2, parse_math=False, **{"color": INK, **style}
            )

    def axes(self, left: float, top: float, width: float, height: float) -> "Axes":
        """Add axes that cover a part of the body."""
        bottom = self.total - self.above - top - height
        place = (left / self.width, bottom / self.total, width / self.width, height / self.total)
        return self.figure.add_axes(place)

    def canvas(self) -> "Axes":
        """Add axes without frame that cover the body, and in which coordinates are inches from its top left."""
        axes = self.axes(0, 0, self.width, self.height)
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        axes.axis("off")
        axes.set_autoscale_on(False)
        return axes


def put_image(axes: "Axes", image: torch.Tensor, place: tuple[float, float, float, float], **style: Any) -> Any:
    """Draw an image (3, H, W) in 0..1, or a map (h, w), on a canvas at (left, top, width, height)."""
    left, top, width, height = place
    pixels = image.permute(1, 2, 0).clamp(0, 1) if image.ndim == 3 else image
    extent = (left, left + width, top + height, top)
    return axes.imshow(pixels.numpy(), extent=extent, aspect="auto", **style)


def patch_box(
    place: tuple[float, float, float, float], grid: tuple[int, int], patch: int
) -> tuple[float, float, float, float]:
    """Return where a patch of a frame is on a canvas: left, top, width and height."""
    left, top, width, height = place
    row, column = divmod(patch, grid[1])
    return left + width * column / grid[1], top + height * row / grid[0], width / grid[1], height / grid[0]


def patch_centre(place: tuple[float, float, float, float], grid: tuple[int, int], patch: int) -> tuple[float, float]:
    """Return the centre of a patch of a frame on a canvas."""
    left, top, width, height = patch_box(place, grid, patch)
    return left + width / 2, top + height / 2


def halo(width: float) -> list[Any]:
    """Return the effect that draws a light line of so many points below a dark one, so that it shows on any ground."""
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=width, foreground=HALO), Normal()]


def draw_cross(axes: "Axes", centre: tuple[float, float], size: float = 9.0) -> None:
    """Draw a cross, dark on light, of `size` points."""
    axes.plot(*[[part] for part in centre], "x", color=INK, ms=size, mew=1.8, path_effects=halo(4.2), zorder=6)


def frame_names(count: int, times: Sequence[float] | torch.Tensor | None) -> list[str]:
    """Return what stands below each frame: its time where it is known, else its number from 0.

    Raises:
        ValueError: there are not as many times as frames.
    """
    if times is None:
        return [f"frame {index}" for index in range(count)]
    seconds = [float(time) for time in times]
    if len(seconds) != count:
        raise ValueError(f"`times` must be as many as frames, {count}; got {len(seconds)}.")
    return [f"{time:.2f} s" for time in seconds]


def check_frames(frames: torch.Tensor) -> torch.Tensor:
    """Return frames (T, 3, H, W) in float32 on the CPU.

    Raises:
        ValueError: another shape, no frame, or integers.
    """
    shape = tuple(frames.shape) if isinstance(frames, torch.Tensor) else type(frames).__name__
    is_video = isinstance(frames, torch.Tensor) and frames.ndim == 4 and frames.shape[1] == 3 and frames.numel()
    if not is_video or not frames.is_floating_point():
        kind = f"{shape}, {frames.dtype}" if isinstance(frames, torch.Tensor) else shape
        raise ValueError(f"`frames` must be (frames, 3, height, width), floats from 0 to 1; got {kind}.")
    return frames.detach().float().cpu()


def tick_indices(count: int, most: int) -> list[int]:
    """Return at most `most` indices of `count`, from 0 in equal steps."""
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, count) if -(-count // step) <= most)
    return list(range(0, count, step))

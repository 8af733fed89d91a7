"""The regions that GTA finds in frames (He et al. 2021; Figures 8 and 16)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .sheets import Row, plot_frames


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_regions(
    frames: torch.Tensor,
    regions: torch.Tensor,
    *,
    which: Sequence[int] | None = None,
    most: int | None = None,
    times: Sequence[float] | torch.Tensor | None = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw the frames, and a row for each region: how much each patch belongs to it.

    Each row has one scale for all frames: of a region its lows and highs matter, and its mean may be far from 0.

    Args:
        frames: (T, 3, H, W), values 0 to 1.
        regions: (T, K, h, w), of either sign: `TemporalInspection.regions` of a layer.
        which: indices of the regions that are drawn; by default those are chosen whose values differ most over all
            frames and patches (the largest standard deviation).
        most: how many are chosen, 4 by default.
        times: (T,) seconds of the frames.
        title, notes: words above and below.

    Raises:
        ValueError: shapes that do not fit each other, a region that does not exist, `most` beside `which`.
    """
    if (
        not isinstance(regions, torch.Tensor)
        or regions.ndim != 4
        or len(regions) != len(frames)
        or not regions.numel()
    ):
        shape = tuple(regions.shape) if isinstance(regions, torch.Tensor) else type(regions).__name__
        raise ValueError(f"`regions` must be ({len(frames)}, regions, rows, columns), got {shape}.")
    regions = regions.detach().float().cpu()
    count = regions.shape[1]
    spread = regions.transpose(0, 1).flatten(1).std(1, correction=0)  # (K,)
    if which is None:
        wanted = 4 if most is None else most
        if wanted < 1:
            raise ValueError(f"`most` is {most}; allowed: 1 or more.")
        which = spread.argsort(descending=True, stable=True)[:wanted].tolist()
        remark = f"The {len(which)} of {count} regions whose values differ most over frames and patches."
    else:
        if most is not None:
            raise ValueError(f"`which` is given, so `most`={most} would have no effect.")
        if not which or not all(0 <= index < count for index in which):
            raise ValueError(f"`which` is {list(which)}; allowed: one or several of 0 to {count - 1}.")
        remark = f"{len(which)} of {count} regions."
    rows = [Row(f"region {index}", heat=regions[:, index]) for index in which]
    sign = "What a region has of all patches, and its sign, mean nothing: only how patches differ does."
    return plot_frames(frames, rows, times=times, title=title, notes=[f"{remark} {sign}", *notes])

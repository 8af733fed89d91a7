"""Pictures of what the alignment looks at (the paper's Figure 5, with the masks)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..model.pairs_ila import pairs_to_frames
from .sheets import Row, plot_frames


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_alignment(
    frames: torch.Tensor,
    points: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    *,
    layers: Sequence[int] = (),
    pairing: str = "adjacent",
    times: Any = None,
    title: str = "",
    notes: Sequence[str] = (),
) -> "Figure":
    """Draw a clip's contact sheet with a row for each layer: its alignment masks, and interactive points as rings.

    A frame shows the mask and the point that it has as the current frame of its pair; the frame that is no pair's
    current one shows those it has as the previous frame (`pairs_ila.pairs_to_frames`).

    Args:
        frames: (T, 3, H, W), values 0 to 1.
        points: for each layer (T-1, 2, 2), one video of the model's `interactive_points`: x and y from -1 to 1.
        masks: for each layer (T-1, 2, h, w), one video of the model's `alignment_masks`.
        layers: indices of the layers to show; all by default.
        pairing: the model's `alignment_pairing`.
        times: (T,) seconds of the frames.
        title: a line above.
        notes: sentences below.
    """
    rows = [
        Row(
            f"layer {layer}",
            heat=pairs_to_frames(masks[layer][None], pairing)[0],
            points=pairs_to_frames(points[layer][None], pairing)[0],
            style="mask",
        )
        for layer in layers or range(len(points))
    ]
    return plot_frames(frames, rows, times=times, title=title, notes=notes)

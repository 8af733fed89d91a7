"""Pictures of what the alignment looks at (the paper's Figure 5, with the masks)."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch.nn import functional as F

from ..model.pairs_ila import pairs_to_frames


CELL = 128  # pixels of one frame in the picture
GAP = 4


def plot_alignment(
    frames: torch.Tensor,
    points: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    *,
    layers: Sequence[int] = (),
    pairing: str = "adjacent",
) -> Image.Image:
    """Draw a row of frames, and below it a row for each layer with its alignment masks and interactive points.

    A frame shows the mask and the point that it has as the current frame of its pair; the frame that is no pair's
    current one shows those it has as the previous frame (`pairs_ila.pairs_to_frames`). What the mask suppresses is
    dark, and the interactive point is a ring.

    Args:
        frames: (T, 3, H, W), values 0 to 1.
        points: for each layer (T-1, 2, 2), one video of the model's `interactive_points`: x and y from -1 to 1.
        masks: for each layer (T-1, 2, h, w), one video of the model's `alignment_masks`.
        layers: indices of the layers to show; all by default.
        pairing: the model's `alignment_pairing`.

    Returns:
        An RGB image with T columns of 128 pixels.
    """
    frames = F.interpolate(frames.float(), size=(CELL, CELL), mode="nearest-exact")
    rows = [_row(frames)]
    for layer in layers or range(len(points)):
        mask = pairs_to_frames(masks[layer][None], pairing)[0].float()  # (T, h, w)
        point = pairs_to_frames(points[layer][None], pairing)[0].float()  # (T, 2)
        light = F.interpolate(mask[:, None], size=(CELL, CELL), mode="bilinear", align_corners=True)
        row = _row(frames * (0.2 + 0.8 * light.clamp(0, 1)))
        for index, (x, y) in enumerate(point.tolist()):
            _ring(row, index * (CELL + GAP) + (x + 1) / 2 * (CELL - 1), (y + 1) / 2 * (CELL - 1))
        rows.append(row)
    picture = Image.new("RGB", (rows[0].width, len(rows) * (CELL + GAP) - GAP), "white")
    for index, row in enumerate(rows):
        picture.paste(row, (0, index * (CELL + GAP)))
    return picture


def _row(frames: torch.Tensor) -> Image.Image:
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    row = Image.new("RGB", (len(pixels) * (CELL + GAP) - GAP, CELL), "white")
    for index, frame in enumerate(pixels):
        row.paste(Image.fromarray(frame), (index * (CELL + GAP), 0))
    return row


def _ring(row: Image.Image, x: float, y: float, radius: int = 5) -> None:
    draw = ImageDraw.Draw(row)
    for width, colour in ((5, "black"), (2, "red")):
        reach = radius + width // 2
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour, width=width)

"""What the model sees, drawn over a frame of the video in the video's own size: heat, points, boxes and a caption."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .words import FONT, legible


OPACITY = 0.6  # of the heat
UNSEEN = 0.5  # brightness of what the model did not see
LINE, DOT, LETTERS = 1 / 160, 1 / 60, 1 / 20  # of the short side: a line's width, a point's radius, a letter's height
LEAST_LETTERS = 9  # pixels
LIGHT, DARK = (255, 255, 255), (0, 0, 0)


def overlay(
    image: np.ndarray,
    *,
    heat: Any = None,
    limits: tuple[float, float] | None = None,
    point: Any = None,
    box: float | None = None,
    crop: Sequence[float] | None = None,
    caption: str = "",
    grid: tuple[int, int] | None = None,
    names: Sequence[str] = (),
    map: str = "cividis",
    seen: bool = False,
) -> np.ndarray:
    """Draw over a frame what the model makes of it; the frame itself is left as it is.

    Heat is laid over the frame in grey, so that the heat alone has colours; it reaches as far as the patches do, and
    between their centres it is interpolated. Lines are dark and light, and so show on any ground.

    Args:
        image: (H, W, 3) uint8.
        heat: (h, w) finite numbers, one a patch.
        limits: the values that have the first and the last colour; those of all frames, so that colours can be
            compared. By default the smallest and the largest of this frame.
        point: (2,), or (L, 2) for several layers: x and y in [-1, 1], from the centre of the first patch to that of
            the last, as the model gives them (`Inspection.points`).
        box: the side of a square around each point, as a share of the crop's short side; without it a ring.
        crop: left, top, right and bottom, in pixels of the image, of what the model saw; the rest is darkened. It may
            reach beyond the image, where the model saw padding. By default the model saw the image.
        caption: a line at the lower edge, cut where it is too long.
        grid: rows and columns of patches, which say where their centres are; by default those of the heat, and without
            heat -1 and 1 are the edges.
        names: of the points, L of them, drawn beside them.
        map: the name of one of matplotlib's colour maps.
        seen: whether to mark the frame, by a disc in the upper right corner, as one that the model saw.

    Returns:
        (H, W, 3) uint8, another array.

    Raises:
        ValueError: sizes, kinds or numbers that are not those above; `box` or `names` without a point, `limits`
            without heat.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"`image` must be (height, width, 3) uint8, got {image.shape} {image.dtype}.")
    height, width = image.shape[:2]
    left, top, right, bottom = _edges(crop, width, height)
    inside = slice(max(top, 0), bottom), slice(max(left, 0), right)
    if heat is None and limits is not None:
        raise ValueError("`limits` without `heat` have no effect.")
    if point is None and (box is not None or names):
        raise ValueError("`box` and `names` without `point` have no effect.")
    drawn = image.copy()
    if image[inside].shape != image.shape:
        drawn = (np.arange(256) * UNSEEN).astype(np.uint8)[drawn]
        drawn[inside] = image[inside]
    if heat is not None:
        heat = _heat(heat)
        grid = grid or heat.shape
        levels = _levels(heat, limits, (right - left, bottom - top))[max(-top, 0) :, max(-left, 0) :]
        drawn[inside] = _blended(image[inside], levels[: drawn[inside].shape[0], : drawn[inside].shape[1]], map)
    picture = Image.fromarray(drawn)
    draw, short = ImageDraw.Draw(picture), min(height, width)
    if point is not None:
        places = in_frame(torch.as_tensor(np.asarray(point), dtype=torch.float32).reshape(-1, 2), grid)
        if names and len(names) != len(places):
            raise ValueError(f"There are {len(places)} points and {len(names)} names of them.")
        side = None if box is None else _share(box) * min(right - left, bottom - top)
        for index, (x, y) in enumerate(places.tolist()):
            centre = left + x * (right - left) - 0.5, top + y * (bottom - top) - 0.5  # of pixels, not of their edges
            _mark(draw, centre, side, short, str(names[index]) if names else "")
    if seen:
        radius = max(3.0, 1.5 * DOT * short)
        place = width - 2.2 * radius, 2.2 * radius
        draw.ellipse(_around(place, radius), fill=LIGHT, outline=DARK, width=max(1, round(radius / 3)))
    if caption:
        _caption(picture, caption)
    return np.asarray(picture)


def in_frame(points: torch.Tensor, grid: tuple[int, int] | None) -> torch.Tensor:
    """Return where points (..., 2), x and y in [-1, 1], lie as shares (..., 2) of the frame's width and height.

    grid: rows and columns of patches, of which the first and last have their centres at -1 and 1; None: these are the
        frame's edges.
    """
    if not torch.isfinite(points).all():
        raise ValueError("Points must be finite numbers.")
    shares = (points + 1) / 2
    if grid is None:
        return shares
    patches = torch.tensor([grid[1], grid[0]], dtype=points.dtype)
    return (shares * (patches - 1) + 0.5) / patches


def _edges(crop: Sequence[float] | None, width: int, height: int) -> tuple[int, int, int, int]:
    if crop is None:
        return 0, 0, width, height
    left, top, right, bottom = (round(float(edge)) for edge in crop)
    if not (left < right and top < bottom and left < width and top < height and right > 0 and bottom > 0):
        raise ValueError(
            f"`crop` must be left, top, right, bottom of a part of the {width} x {height} pixels, got {tuple(crop)}."
        )
    return left, top, right, bottom


def _heat(heat: Any) -> np.ndarray:
    values = np.asarray(heat, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"`heat` must be (rows, columns) of finite numbers, got {values.shape}.")
    return values


def _share(box: float) -> float:
    if not 0 < box <= 1:
        raise ValueError(f"`box` must be a share of the frame, above 0 and at most 1, got {box!r}.")
    return box


def _levels(heat: np.ndarray, limits: tuple[float, float] | None, size: tuple[int, int]) -> np.ndarray:
    """Return heat as 0 to 255, uint8, in the width and height of what the model saw."""
    low, high = (float(heat.min()), float(heat.max())) if limits is None else limits
    if not np.isfinite([low, high]).all() or low > high:
        raise ValueError(f"`limits` must be two finite numbers, the smaller one first, got {limits}.")
    levels = np.clip((heat - low) / ((high - low) or 1.0), 0, 1) * np.float32(255)
    smooth = np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR))
    return np.round(smooth).astype(np.uint8)


def _blended(image: np.ndarray, levels: np.ndarray, map: str) -> np.ndarray:
    """Lay the colours of levels over an image in grey."""
    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.uint16) * round(256 * (1 - OPACITY)) >> 8
    colours = (colours_of(map) * 255 * OPACITY).astype(np.uint8)
    return np.take(colours, levels, axis=0) + grey.astype(np.uint8)[..., None]


@cache
def colours_of(map: str) -> np.ndarray:
    """Return the 256 colours of one of matplotlib's maps, (256, 3) from 0 to 1."""
    from matplotlib import colormaps  # here, as most who import this draw nothing

    if map not in colormaps:
        raise ValueError(f"There is no colour map {map!r}; matplotlib's are allowed, such as cividis.")
    return colormaps[map](np.arange(256))[:, :3]


def _around(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    return centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius


def _mark(draw: ImageDraw.ImageDraw, centre: tuple[float, float], side: float | None, short: int, name: str) -> None:
    """Draw a square or a ring around a place: a light line on a dark one."""
    line = max(1, round(LINE * short))
    radius = max(2.0, DOT * short) if side is None else side / 2
    shape = draw.ellipse if side is None else draw.rectangle
    left, top, right, bottom = (round(edge) for edge in _around(centre, radius))
    shape((left - line, top - line, right + line, bottom + line), outline=DARK, width=3 * line)
    shape((left, top, right, bottom), outline=LIGHT, width=line)
    if name:
        font = _font(max(LEAST_LETTERS, round(LETTERS * short)))
        word, (width, height) = legible(name, "?"), draw.im.size
        x = min(centre[0] + radius + 2 * line, width - font.getlength(word) - 2 * line)  # inside of the image
        y = min(max(centre[1] - radius, 0), height - font.size - 2 * line)
        draw.text((x, y), word, font=font, fill=LIGHT, stroke_width=2 * line, stroke_fill=DARK)


def _caption(picture: Image.Image, caption: str) -> None:
    """Write a line on a dark band at the lower edge of a picture."""
    width, height = picture.size
    size = max(LEAST_LETTERS, round(LETTERS * min(width, height)))
    font, margin, line = _font(size), round(size / 2), legible(caption, "(letters that the font lacks)", longest=300)
    if font.getlength(line) > width - 2 * margin:
        while line and font.getlength(line + "...") > width - 2 * margin:
            line = line[:-1]
        line += "..."
    top = height - round(1.7 * size)
    band = picture.crop((0, top, width, height))
    picture.paste(Image.blend(band, Image.new("RGB", band.size, DARK), 0.7), (0, top))
    ImageDraw.Draw(picture).text((margin, height - 0.85 * size), line, font=font, fill=LIGHT, anchor="lm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont(FONT), size)

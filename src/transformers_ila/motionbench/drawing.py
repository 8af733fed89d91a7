"""Sprites and their pictures on a torus: what the generated videos are made of.

Shapes: `F` frames of a video, `S` its side in pixels. Positions, sizes and turns are in cycles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


SIZE_RANGE = (0.15, 0.32)  # half a sprite's height over the picture's: smallest, largest of its cycle


@dataclass(frozen=True)
class MotionVideo:
    """Hold a generated video.

    frames: (F, S, S, 3) uint8.
    label: the class.
    """

    frames: np.ndarray
    label: str


@dataclass
class Sprite:
    """Hold what one sprite looks like and does.

    shape: a key of `SHAPES`.
    states: (F, 4): x, y, size phase and turn, in cycles.
    colour: (3,), 0 to 255.
    light: (F,), 0 to 1; None for full light.
    """

    shape: str
    states: np.ndarray
    colour: np.ndarray
    light: np.ndarray | None = None


def render(sprites: Sequence[Sprite], ground: np.ndarray) -> np.ndarray:
    """Draw sprites, one over the other, on a ground: (S, S, 3) or (F, S, S, 3), 0 to 255 -> (F, S, S, 3) uint8."""
    side = ground.shape[-2]
    axis = (np.arange(side) + 0.5) / side
    picture = ground
    for sprite in sprites:
        x, y, phase, turn = (sprite.states[:, index, None, None] for index in range(4))
        across = (axis[None, None, :] - x + 0.5) % 1 - 0.5  # nearest image on the torus
        down = (axis[None, :, None] - y + 0.5) % 1 - 0.5
        scale = SIZE_RANGE[0] * (SIZE_RANGE[1] / SIZE_RANGE[0]) ** (phase % 1)
        angle = 2 * np.pi * turn
        u = (np.cos(angle) * across + np.sin(angle) * down) / scale  # the sprite's own axes, clockwise on the screen
        v = (np.cos(angle) * down - np.sin(angle) * across) / scale
        coverage = SHAPES[sprite.shape](u, v, 1 / (side * scale))[..., None]
        light = 1.0 if sprite.light is None else sprite.light[:, None, None, None]
        picture = picture + coverage * (sprite.colour * light - picture)
    return picture.clip(0, 255).round().astype(np.uint8)


def _disc(u: np.ndarray, v: np.ndarray, edge: np.ndarray) -> np.ndarray:
    return ((0.8 - np.hypot(u, v)) / edge + 0.5).clip(0, 1)


def _square(u: np.ndarray, v: np.ndarray, edge: np.ndarray) -> np.ndarray:
    return box_coverage(u, v, (-0.7, 0.7), (-0.7, 0.7), edge)


def _flag(u: np.ndarray, v: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Cover a shape that looks different at every turn."""
    return np.maximum(_cloth(u, v, edge), _pole(u, v, edge))


def _cloth(u: np.ndarray, v: np.ndarray, edge: np.ndarray) -> np.ndarray:
    return box_coverage(u, v, (-0.2, 0.9), (-1.0, 0.1), edge)


def _pole(u: np.ndarray, v: np.ndarray, edge: np.ndarray) -> np.ndarray:
    return box_coverage(u, v, (-0.6, -0.2), (-1.0, 1.0), edge)


def _bar(u: np.ndarray, v: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Cover a bar from the top to the bottom of the picture."""
    return box_coverage(u, v, (-0.6, 0.6), (-99.0, 99.0), edge)


SHAPES: dict[str, Callable[..., np.ndarray]] = {
    "disc": _disc,
    "square": _square,
    "flag": _flag,
    "bar": _bar,
    "cloth": _cloth,
    "pole": _pole,
}


def box_coverage(
    u: np.ndarray, v: np.ndarray, wide: tuple[float, float], high: tuple[float, float], edge: np.ndarray
) -> np.ndarray:
    """Return the coverage, 0 to 1, of a rectangle whose edges are one pixel soft."""
    inside = np.minimum.reduce([u - wide[0], wide[1] - u, v - high[0], high[1] - v])
    return (inside / edge + 0.5).clip(0, 1)

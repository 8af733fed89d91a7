"""MotionBench: graded tasks on generated videos of which no single frame tells the class.

Whatever a class does, every single frame of it is distributed as in the task's other classes: positions live on a
torus, sizes, orientations and events on cycles, all begin uniformly at random, and only what changes from frame to
frame, and in which order, depends on the class. "train", "val" and "test" share no hue of a moving sprite and no waves
of a ground texture; dark grounds, their noise and the grey bar of "occlusion" are drawn alike in all.

    write_bench("bench", size="minute")     # bench/train/<task>, <class>/00000.mp4, ...

`MOTIONS` are eight plain classes without splits, for the demo and for tests. Frames without their order can at best
tell along which line something changes there, never which way.

Shapes: `F` frames of a video, `S` its side in pixels. Positions, sizes, turns and pans are in cycles.
"""

import colorsys
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..files import atomic_write
from ..video_writing import write_mp4
from .drawing import MotionVideo, Sprite, render


SPLITS = ("train", "val", "test")
HUES = 12  # of which every split has every third
WAVES = {"train": (2, 5), "val": (3, 6), "test": (4, 7)}  # of the ground textures, in cycles per picture
SIZES: dict[str, dict[str, int]] = {  # videos of each class, and their side in pixels
    "tiny": {"train": 10, "val": 4, "test": 40, "side": 32},
    "minute": {"train": 160, "val": 10, "test": 30, "side": 32},
    "hour": {"train": 600, "val": 40, "test": 80, "side": 32},
    "night": {"train": 5000, "val": 100, "test": 200, "side": 64},
}
FRAMES, FPS = 16, 8


# -- what a picture shows --------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """Hold what a video shows.

    sprites: painted one over the other.
    pan: (F, 2), how far the ground has moved along x and y, in cycles; (1, 2) where it stands still.
    textured: whether the ground shows the pan.
    times: (F,) seconds at which the frames are shown; None for `FPS`.
    """

    sprites: list[Sprite]
    pan: np.ndarray = field(default_factory=lambda: np.zeros((1, 2)))
    textured: bool = False
    times: np.ndarray | None = None


def draw_ground(scene: Scene, split: str, rng: np.random.Generator, *, side: int) -> np.ndarray:
    """Draw the ground (F, S, S, 3), dark and noisy; a textured one has waves that fit the torus, without a seam."""
    frames = len(scene.pan)
    dark, noise = rng.uniform(10, 60, 3), rng.normal(0, 5, (1, side, side, 1))
    ground = np.broadcast_to(dark + noise, (frames, side, side, 3)).astype(float)
    if not scene.textured:
        return ground
    axis = (np.arange(side) + 0.5) / side
    waves = np.zeros((frames, side, side))
    for _ in range(4):
        across, down = rng.choice(WAVES[split], 2) * rng.choice([-1, 1], 2)
        place = across * (axis[None, None, :] - scene.pan[:, 0, None, None])
        place = place + down * (axis[None, :, None] - scene.pan[:, 1, None, None])
        waves += np.cos(2 * np.pi * (place + rng.uniform()))
    return dark + 45 + 22 * waves[..., None] * rng.uniform(0.5, 1, 3)


def draw_colour(split: str, rng: np.random.Generator, *, bright: float = 1.0) -> np.ndarray:
    """Draw a colour (3,), 0 to 255, of a hue that only this split has."""
    hue = (rng.integers(HUES // 3) * 3 + SPLITS.index(split) + rng.uniform(0.1, 0.9)) / HUES
    return 255 * np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.45, 1.0), bright * rng.uniform(0.85, 1.0)))


# -- what sprites do --------------------------------------------------------------------------------------------------

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEED = (0.05, 0.1)  # cycles per frame
PAN_SPEED = (0.015, 0.03)  # slow enough for the finest wave at half of the frames
TURN_SPEED = (0.04, 0.08)


def _steps(rng: np.random.Generator, ticks: np.ndarray, speeds: Any = 0.0) -> np.ndarray:
    """Four states that begin anywhere and change at constant speeds: (F, 4)."""
    return rng.uniform(size=4) + ticks[:, None] * np.broadcast_to(np.asarray(speeds, float), (4,))


def _moving(way: Sequence[float], rng: np.random.Generator, speed: tuple[float, float] = SPEED) -> np.ndarray:
    return np.array([*way, 0, 0]) * rng.uniform(*speed)


def _anywhere(rng: np.random.Generator, speed: tuple[float, float] = SPEED) -> np.ndarray:
    """Draw speeds (4,) of a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    return _moving((np.cos(angle), np.sin(angle)), rng, speed)


def _direction(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    return Scene([Sprite("flag", _steps(rng, ticks, _moving(WAYS[kind], rng)), draw_colour(split, rng))])


def _speed(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    ranges = {"slow": (0.015, 0.025), "medium": (0.045, 0.06), "fast": (0.1, 0.12)}
    return Scene([Sprite("flag", _steps(rng, ticks, _anywhere(rng, ranges[kind])), draw_colour(split, rng))])


def _rotation(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    sense = {"clockwise": 1, "counterclockwise": -1}[kind]
    speeds = np.array([0, 0, 0, sense * rng.uniform(*TURN_SPEED)])
    return Scene([Sprite("flag", _steps(rng, ticks, speeds), draw_colour(split, rng))])


def _scale(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    sense = {"approaching": 1, "receding": -1}[kind]
    return Scene([Sprite("flag", _steps(rng, ticks, [0, 0, sense * rng.uniform(*SPEED), 0]), draw_colour(split, rng))])


def _relative(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    """Let both sprites drift the same way, and only the disc move on top of that."""
    drift = _anywhere(rng)
    square = Sprite("square", _steps(rng, ticks, drift), draw_colour(split, rng))
    disc = Sprite("disc", _steps(rng, ticks, drift + _moving(WAYS[kind], rng)), draw_colour(split, rng))
    return Scene([square, disc])


def _order(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    """Let both sprites light up for two frames in every eight, one two frames before the other."""
    cycle = (np.floor(ticks) + rng.integers(8)) % 8
    first, second = np.where(cycle < 2, 1.0, 0.35), np.where((cycle >= 2) & (cycle < 4), 1.0, 0.35)
    lights = (first, second) if kind == "disc first" else (second, first)
    sprites = [
        Sprite(shape, _steps(rng, ticks), draw_colour(split, rng), light)
        for shape, light in zip(("disc", "square"), lights)
    ]
    return Scene(sprites)


def _occlusion(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    """Let a sprite go behind a bar, where it goes on or turns back."""
    bar = rng.uniform()
    travelled = rng.uniform() + ticks * rng.uniform(0.075, 0.1)
    if kind == "turns back":  # from one side of the bar around the torus to its other side, and back
        travelled = 1 - np.abs(travelled % 2 - 1)
    states = _steps(rng, ticks)
    states[:, 0] = bar + travelled * rng.choice([-1, 1])
    states[:, 2] = 0.3
    occluder = np.array([bar, 0, 0.99, 0]) + np.zeros((len(ticks), 4))
    grey = np.full(3, rng.uniform(90, 140))
    return Scene([Sprite("disc", states, draw_colour(split, rng)), Sprite("bar", occluder, grey)])


def _camera(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    """Pan the ground while the sprite goes its own way; without texture nothing would show the pan."""
    pan = rng.uniform(size=2) + ticks[:, None] * np.array(WAYS[kind]) * rng.uniform(*PAN_SPEED)
    return Scene([Sprite("flag", _steps(rng, ticks, _anywhere(rng)), draw_colour(split, rng))], pan, textured=True)


def _over_ground(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    """Move both the ground and the sprite on the screen; the class is the sprite's motion over the ground.

    The sprite is the faster one: its motion on the screen alone tells the class of 96 in 100 videos, so this asks for
    motion in front of a moving ground rather than for the difference of the two. "relative" asks for the latter: what
    the disc does on the screen tells 57 in 100.
    """
    camera = _anywhere(rng, PAN_SPEED)
    pan = rng.uniform(size=2) + ticks[:, None] * camera[:2]
    sprite = Sprite(
        "flag", _steps(rng, ticks, camera + _moving(WAYS[kind], rng, (0.03, 0.05))), draw_colour(split, rng)
    )
    return Scene([sprite], pan, textured=True)


def _variable_rate(kind: str, split: str, rng: np.random.Generator, ticks: np.ndarray) -> Scene:
    """Leave uneven times between the frames, in the file as on the screen."""
    times = np.concatenate([[0.0], rng.uniform(0.4, 1.6, len(ticks) - 1).cumsum()])
    states = _steps(rng, times, _moving(WAYS[kind], rng))
    return Scene([Sprite("flag", states, draw_colour(split, rng))], times=times / FPS)


@dataclass(frozen=True)
class Task:
    """Hold one task of MotionBench.

    classes: the names of its classes.
    scene: draws a scene of a class, in a split, by a generator, at (F,) ticks of 1 / FPS seconds.
    grade: how hard it is, from 1 to 3.
    """

    classes: tuple[str, ...]
    scene: Callable[[str, str, np.random.Generator, np.ndarray], Scene]
    grade: int


TASKS: dict[str, Task] = {
    "direction": Task(tuple(WAYS), _direction, 1),
    "rotation": Task(("clockwise", "counterclockwise"), _rotation, 1),
    "scale": Task(("approaching", "receding"), _scale, 1),
    "speed": Task(("slow", "medium", "fast"), _speed, 2),
    "order": Task(("disc first", "square first"), _order, 2),
    "camera": Task(tuple(WAYS), _camera, 2),
    "variable rate": Task(tuple(WAYS), _variable_rate, 2),
    "relative": Task(tuple(WAYS), _relative, 3),
    "over ground": Task(tuple(WAYS), _over_ground, 3),
    "occlusion": Task(("goes on", "turns back"), _occlusion, 3),
}


# -- videos ----------------------------------------------------------------------------------------------------------


def bench_labels(tasks: Sequence[str] = tuple(TASKS)) -> list[str]:
    """Return the class names, "task, class", sorted as folders are read.

    Raises:
        ValueError: a task that is none.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise ValueError(f"Tasks are {', '.join(TASKS)}; got {', '.join(map(repr, unknown))}.")
    return sorted(f"{task}, {kind}" for task in tasks for kind in TASKS[task].classes)


def bench_video(
    label: str, split: str, *, seed: int, index: int, side: int = 32, num_frames: int = FRAMES
) -> tuple[MotionVideo, Scene]:
    """Make one video of a class; it depends on the arguments alone.

    Raises:
        ValueError: an unknown label or split.
    """
    if label not in bench_labels() or split not in SPLITS:
        raise ValueError(f"There is no class {label!r} of split {split!r}; splits are {', '.join(SPLITS)}.")
    task, _, kind = label.partition(", ")
    place = bench_labels().index(label)
    rng = np.random.default_rng([seed, SPLITS.index(split), place, index])
    scene = TASKS[task].scene(kind, split, rng, np.arange(num_frames))
    return MotionVideo(render(scene.sprites, draw_ground(scene, split, rng, side=side)), label), scene


def bench_videos(
    split: str, *, per_class: int, seed: int = 0, side: int = 32, tasks: Sequence[str] = tuple(TASKS)
) -> Iterator[tuple[MotionVideo, Scene]]:
    """Yield `per_class` videos of each class; the classes take turns."""
    labels = bench_labels(tasks)
    for index in range(per_class):
        for label in labels:
            yield bench_video(label, split, seed=seed, index=index, side=side)


def write_bench(
    folder: str | Path,
    *,
    size: str = "minute",
    seed: int = 0,
    tasks: Sequence[str] = tuple(TASKS),
    num_frames: int = FRAMES,
) -> dict[str, Path]:
    """Write H.264 files as `folder/<split>/<label>/<number>.mp4`, and return the splits' folders.

    num_frames: of each video.

    What is there already is kept, so that a broken run goes on. `bench.plan.json` says what is written.

    Raises:
        ValueError: an unknown size or task, or a folder that holds another bench.
    """
    if size not in SIZES:
        raise ValueError(f"`size` must be one of {', '.join(SIZES)}, got {size!r}.")
    folder, numbers = Path(folder), SIZES[size]
    described = {"size": size, "seed": seed, "tasks": list(tasks), **numbers}
    if num_frames != FRAMES:  # which plans of older versions do not say
        described["num_frames"] = num_frames
    plan = folder / "bench.plan.json"
    if plan.is_file() and json.loads(plan.read_text()) != described:
        raise ValueError(f"{str(folder)!r} holds another bench: {plan.read_text().strip()}.")
    for split in SPLITS:
        for label in bench_labels(tasks):
            (folder / split / label).mkdir(parents=True, exist_ok=True)
    with atomic_write(plan) as draft:
        json.dump(described, draft)
    videos = [(split, label, i) for split in SPLITS for label in bench_labels(tasks) for i in range(numbers[split])]
    for split, label, index in logging.tqdm(videos, desc="Writing MotionBench", disable=None):  # only where one looks
        file = folder / split / label / f"{index:05}.mp4"
        if not file.is_file():
            video, scene = bench_video(
                label, split, seed=seed, index=index, side=numbers["side"], num_frames=num_frames
            )
            with atomic_write(file, "wb") as draft:
                write_mp4(draft, video.frames, fps=FPS, times=scene.times)
    return {split: folder / split for split in SPLITS}


# -- plain motions ---------------------------------------------------------------------------------------------------

# Class name -> change per frame of (x, y, size phase, turn), in units of `PLAIN_SPEED`.
MOTIONS: dict[str, tuple[int, int, int, int]] = {
    "moving left": (-1, 0, 0, 0),
    "moving right": (1, 0, 0, 0),
    "moving up": (0, -1, 0, 0),
    "moving down": (0, 1, 0, 0),
    "approaching": (0, 0, 1, 0),
    "receding": (0, 0, -1, 0),
    "turning clockwise": (0, 0, 0, 1),
    "turning counterclockwise": (0, 0, 0, -1),
}
PLAIN_SPEED = (0.075, 0.11)  # change per frame, drawn once per video, in cycles


def make_video(label: str, rng: np.random.Generator, *, num_frames: int = FRAMES, size: int = 32) -> MotionVideo:
    """Make one video of a class of `MOTIONS`; `rng` decides everything else about it."""
    speed = rng.uniform(PLAIN_SPEED[0], PLAIN_SPEED[1], 4) * MOTIONS[label]
    states = rng.uniform(size=4) + np.arange(num_frames)[:, None] * speed
    dark, bright = rng.uniform(0, 60, 3), rng.uniform(150, 255, (2, 3))
    ground = dark + rng.normal(0, 6, (size, size, 3))
    return MotionVideo(render([Sprite("cloth", states, bright[0]), Sprite("pole", states, bright[1])], ground), label)


def make_videos(
    count: int, *, seed: int, labels: tuple[str, ...] = tuple(MOTIONS), num_frames: int = FRAMES, size: int = 32
) -> Iterator[MotionVideo]:
    """Yield `count` videos; the classes take turns, and the same seed gives the same videos."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        yield make_video(labels[index % len(labels)], rng, num_frames=num_frames, size=size)


def write_folder(
    folder: str | Path,
    count: int,
    *,
    seed: int,
    num_frames: int = FRAMES,
    size: int = 32,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Write videos of `MOTIONS` as `folder/<class>/<number>.mp4`, one sub-folder per class, and return their paths.

    progress: called with 1 after each video.
    """
    paths = []
    for index, video in enumerate(make_videos(count, seed=seed, num_frames=num_frames, size=size)):
        path = Path(folder) / video.label / f"{index:05}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, video.frames)
        paths.append(path)
        if progress is not None:
            progress(1)
    return paths

"""Sequences: several motions after one another in one video, with pauses, and when each of them is.

In a pause the sprite stands still, or there is none. After a pause without a sprite, and sometimes after another one
or none, another sprite comes before another ground. Splits share no hue and no waves of a ground texture, as in
`tasks`.

    write_sequences("sequences", size="minute")
    # sequences/test/00000.mp4, ...; when they show what: sequences/test.json, in the form of ActivityNet's annotations
    # to train on, cut from them, a folder a class: sequences/clips/train/<class>/00000-0007.mp4, ...

`S` is a picture's side in pixels.
"""

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..files import atomic_write
from ..video_writing import write_mp4
from .drawing import Sprite, render
from .tasks import FPS, FRAMES, MOTIONS, PLAIN_SPEED, SPLITS, TASKS, Scene, draw_colour, draw_ground


BACKGROUND = "nothing"  # the class of a clip that shows a pause
MOTION_SECONDS, PAUSE_SECONDS = (2.0, 6.0), (1.0, 4.0)
PAUSE_SHARE = 0.6  # of the motions, how many have a pause before them
EMPTY_SHARE = 0.4  # of the pauses, how many show no sprite
CUT_SHARE = 0.3  # of the motions that follow no empty pause, how many have another sprite than what was before
SHORTEST = 1.0  # seconds: where the video's end would leave less of a motion, there is none
CLIP_SECONDS, CLIP_EVERY = FRAMES / FPS, 1.0  # of clips to train on: length, and from one start to the next
SEQUENCE_SIZES: dict[str, dict[str, int]] = {  # sequences of each split, and the seconds of each
    "tiny": {"train": 2, "val": 1, "test": 1, "seconds": 20},
    "minute": {"train": 120, "val": 10, "test": 10, "seconds": 60},
    "hour": {"train": 600, "val": 30, "test": 30, "seconds": 120},
}


@dataclass(frozen=True)
class Stretch:
    """Hold one part of a sequence, frames `start` to `end` (excluded).

    label: the motion; None in a pause.
    empty: no sprite is shown. cut: another sprite and another ground begin here.
    """

    label: str | None
    start: int
    end: int
    empty: bool = False
    cut: bool = False


@dataclass(frozen=True, kw_only=True)
class MotionSequence:
    """Stand for one video, which depends on these fields alone; frames are drawn as they are asked for.

    split, seed, index: which of all sequences it is.
    seconds: its length, of whole frames.
    task: a task of MotionBench whose classes it shows, or None for those of `MOTIONS`.
    fps: frames a second; motions take the same time at each. side: S.

    Raises:
        ValueError: a value that is not allowed.
    """

    split: str = "test"
    seed: int = 0
    index: int = 0
    seconds: float = 60.0
    task: str | None = None
    fps: int = FPS
    side: int = 32

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}.")
        usable = [task for task in TASKS if task != "variable rate"]  # its frames have uneven times of their own
        if self.task is not None and self.task not in usable:
            raise ValueError(f"task must be None or one of {', '.join(usable)}, got {self.task!r}.")
        if not 0 < self.seconds < math.inf or not 1 <= self.fps <= 240 or self.frame_count < 1:
            raise ValueError(
                f"A sequence has a frame or more, at 1 to 240 fps; got {self.seconds} s at {self.fps} fps."
            )
        if self.side < 16 or self.side % 2:
            raise ValueError(f"side must be even, 16 or more, got {self.side}.")

    @property
    def frame_count(self) -> int:
        """Return how many frames it has."""
        return round(self.seconds * self.fps)

    @property
    def labels(self) -> list[str]:
        """Return the class names, sorted; without the background."""
        return (
            sorted(MOTIONS)
            if self.task is None
            else sorted(f"{self.task}, {kind}" for kind in TASKS[self.task].classes)
        )

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SPLITS.index(self.split), self.index, purpose])

    @cached_property
    def stretches(self) -> list[Stretch]:
        """Draw what comes when, without a hole and without an overlap."""
        rng, place, before = self._rng(0), 0, None
        found: list[Stretch] = []

        def frames(seconds: tuple[float, float]) -> int:
            return max(1, round(rng.uniform(*seconds) * self.fps))

        while place < self.frame_count:
            pause = not found or rng.random() < PAUSE_SHARE
            if pause:
                empty = bool(rng.random() < EMPTY_SHARE) or (self.task is not None and not found)
                found.append(Stretch(None, place, place + frames(PAUSE_SECONDS), empty=empty))
                place = found[-1].end
            # the same motion twice without a pause would be one
            choices = [label for label in self.labels if pause or label != before]
            before = choices[rng.integers(len(choices))]
            cut = bool(rng.random() < CUT_SHARE) or self.task is not None or found[-1].empty
            found.append(Stretch(before, place, place + frames(MOTION_SECONDS), cut=cut))
            place = found[-1].end
        return list(self._trimmed(found))

    def _trimmed(self, stretches: Iterable[Stretch]) -> Iterator[Stretch]:
        total = self.frame_count
        for stretch in stretches:
            if stretch.start < total:
                end = min(stretch.end, total)
                short = end < stretch.end and end - stretch.start < SHORTEST * self.fps
                label, cut = (None, False) if short else (stretch.label, stretch.cut)
                yield Stretch(label, stretch.start, end, stretch.empty, cut)

    def label_at(self, frame: int) -> str:
        """Return the class shown at a frame, `BACKGROUND` in a pause."""
        return next(stretch.label or BACKGROUND for stretch in self.stretches if frame < stretch.end)

    def truth(self) -> dict[str, Any]:
        """Return its entry of an annotation file: subset, duration, and a label with start and end per motion."""
        annotations = [
            {"segment": [round(part.start / self.fps, 3), round(part.end / self.fps, 3)], "label": part.label}
            for part in self.stretches
            if part.label is not None
        ]
        return {"subset": self.split, "duration": round(self.frame_count / self.fps, 3), "annotations": annotations}

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames (S, S, 3) uint8, of which one stretch at a time is in memory."""
        rng = self._rng(1)
        picture = _Picture(self, rng)
        for stretch in self.stretches:
            if stretch.cut:
                picture = _Picture(self, rng)
            yield from picture.show(stretch, rng)


class _Picture:
    """Draw the stretches that share a sprite and a ground."""

    def __init__(self, sequence: MotionSequence, rng: np.random.Generator) -> None:
        self.sequence, self.states = sequence, rng.uniform(size=4)
        self.colours = [draw_colour(sequence.split, rng) for _ in range(2)]
        scene = Scene([], textured=bool(rng.random() < 0.5))
        self.ground = draw_ground(scene, sequence.split, rng, side=sequence.side)[0]  # (S, S, 3)
        self.last: np.ndarray | None = None  # a task's last frame

    def show(self, stretch: Stretch, rng: np.random.Generator) -> Iterator[np.ndarray]:
        count, task = stretch.end - stretch.start, self.sequence.task
        if stretch.empty:
            empty = render([], self.ground[None])[0]
            yield from (empty for _ in range(count))
        elif task is None:
            speed = rng.uniform(*PLAIN_SPEED, 4) * MOTIONS.get(stretch.label or "", (0, 0, 0, 0))
            steps = np.arange(1, count + 1)[:, None] * FPS / self.sequence.fps
            states = self.states + steps * speed
            self.states = states[-1]
            sprites = [Sprite(shape, states, colour) for shape, colour in zip(("cloth", "pole"), self.colours)]
            yield from render(sprites, self.ground)
        elif stretch.label is None:  # what was last stands still
            still = render([], self.ground[None])[0] if self.last is None else self.last
            yield from (still for _ in range(count))
        else:
            kind = stretch.label.removeprefix(f"{task}, ")
            scene = TASKS[task].scene(kind, self.sequence.split, rng, np.arange(count) * FPS / self.sequence.fps)
            for frame in render(scene.sprites, draw_ground(scene, self.sequence.split, rng, side=self.sequence.side)):
                self.last = frame
                yield frame


def write_truth(file: str | Path, sequences: dict[str, MotionSequence]) -> None:
    """Write when which sequence, by name, shows what, in the form of ActivityNet's annotations."""
    with atomic_write(file) as draft:
        json.dump({"database": {name: sequence.truth() for name, sequence in sequences.items()}}, draft, indent=1)


def write_sequence(file: str | Path, sequence: MotionSequence) -> Path:
    """Write one sequence as an H.264 file of any length, and when it shows what beside it, as `<name>.json`.

    Returns:
        the path of the latter.
    """
    file = Path(file)
    with atomic_write(file, "wb") as draft:
        write_mp4(draft, sequence.frames(), fps=sequence.fps)
    write_truth(file.with_suffix(".json"), {file.stem: sequence})
    return file.with_suffix(".json")


def clips_of(sequence: MotionSequence) -> Iterator[tuple[str, np.ndarray]]:
    """Yield clips of `CLIP_SECONDS` with the class of their middle, `BACKGROUND` in a pause: (F, S, S, 3) uint8.

    One begins in every `CLIP_EVERY` seconds, at random. So some show the end of one motion and the start of another,
    as a window that slides over a video does.
    """
    rng, length, every = sequence._rng(2), round(CLIP_SECONDS * sequence.fps), round(CLIP_EVERY * sequence.fps)
    starts = (first + int(rng.integers(every)) for first in range(0, sequence.frame_count - length - every + 1, every))
    start, buffer = next(starts, None), deque[np.ndarray](maxlen=length)
    for index, frame in enumerate(sequence.frames()):
        buffer.append(frame)
        if start is not None and index == start + length - 1:
            yield sequence.label_at(start + length // 2), np.stack(buffer)
            start = next(starts, None)


def write_sequences(
    folder: str | Path, *, size: str = "minute", seed: int = 0, task: str | None = None, side: int = 32
) -> dict[str, Path]:
    """Write sequences of all splits, when they show what, and clips of theirs to train on.

    `folder/<split>/<number>.mp4` are the sequences, `folder/<split>.json` the truth, and
    `folder/clips/<split>/<class>/<number>-<clip>.mp4` the clips, with `BACKGROUND` as one of the classes. What is
    there already is kept, so that a broken run goes on; `sequences.plan.json` says what is written.

    Returns:
        the splits' folders of sequences.

    Raises:
        ValueError: an unknown size or task, or a folder that holds other sequences.
    """
    if size not in SEQUENCE_SIZES:
        raise ValueError(f"`size` must be one of {', '.join(SEQUENCE_SIZES)}, got {size!r}.")
    folder, numbers = Path(folder), SEQUENCE_SIZES[size]
    described = {"size": size, "seed": seed, "task": task, "side": side, **numbers}
    plan = folder / "sequences.plan.json"
    if plan.is_file() and json.loads(plan.read_text()) != described:
        raise ValueError(f"{str(folder)!r} holds other sequences: {plan.read_text().strip()}.")
    numbered = {
        split: {
            f"{index:05}": MotionSequence(
                split=split, seed=seed, index=index, seconds=numbers["seconds"], task=task, side=side
            )
            for index in range(numbers[split])
        }
        for split in SPLITS
    }
    for split, sequences in numbered.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for label in [*next(iter(sequences.values())).labels, BACKGROUND]:
            (folder / "clips" / split / label).mkdir(parents=True, exist_ok=True)
    with atomic_write(plan) as draft:
        json.dump(described, draft)
    all_of_them = [(split, name, one) for split, sequences in numbered.items() for name, one in sequences.items()]
    for split, name, sequence in logging.tqdm(all_of_them, desc="Writing sequences", disable=None):
        file = folder / split / f"{name}.mp4"
        if not file.is_file():  # it is written last, so its clips are there if it is
            for number, (label, frames) in enumerate(clips_of(sequence)):
                with atomic_write(folder / "clips" / split / label / f"{name}-{number:04}.mp4", "wb") as draft:
                    write_mp4(draft, frames, fps=sequence.fps)
            with atomic_write(file, "wb") as draft:
                write_mp4(draft, sequence.frames(), fps=sequence.fps)
    for split, sequences in numbered.items():
        write_truth(folder / f"{split}.json", sequences)
    return {split: folder / split for split in SPLITS}

"""Generated videos in which only motion tells the class.

Every video shows one flag on a noisy ground. Position, size and orientation of the flag are distributed alike in every
frame of every class: positions live on a torus, sizes on a cycle, orientations on a circle, all start uniformly at
random, and only how they change from frame to frame depends on the class. So no single frame carries the label. Frames
without their order can at best tell along which line something changes, never which way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


# Class name -> change per frame of (x, y, size phase, turn), each in units of its speed range below.
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
# Change per frame, drawn once per video: position and size phase in cycles, turn in cycles of 360 degrees.
SPEEDS = np.array([(0.075, 0.11), (0.075, 0.11), (0.075, 0.11), (0.075, 0.11)])
TIME_BASE = Fraction(1, 1000)  # of videos whose frames have times of their own
SIZES = (0.15, 0.34)  # half the flag's height, as a share of the picture: smallest, largest


@dataclass(frozen=True)
class MotionVideo:
    """frames: (frames, height, width, 3) uint8. label: a key of `MOTIONS`."""

    frames: np.ndarray
    label: str


def render(states: np.ndarray, colours: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Draw the flag.

    Args:
        states: (frames, 4): x, y, size phase, turn, in cycles.
        colours: (2, 3): of the cloth and of the pole, 0 to 255.
        ground: (size, size, 3), 0 to 255.

    Returns:
        (frames, size, size, 3) uint8
    """
    size = len(ground)
    axis = (np.arange(size) + 0.5) / size
    x, y, phase, turn = (states[:, index, None, None] for index in range(4))
    across = (axis[None, None, :] - x + 0.5) % 1 - 0.5  # nearest image on the torus
    down = (axis[None, :, None] - y + 0.5) % 1 - 0.5
    scale = SIZES[0] * (SIZES[1] / SIZES[0]) ** (phase % 1)
    angle = 2 * np.pi * turn
    u = (np.cos(angle) * across + np.sin(angle) * down) / scale  # the flag's own axes, clockwise on the screen
    v = (np.cos(angle) * down - np.sin(angle) * across) / scale
    edge = 1 / (size * scale)  # one pixel
    cloth = box_coverage(u, v, (-0.2, 0.9), (-1.0, 0.1), edge)
    pole = box_coverage(u, v, (-0.6, -0.2), (-1.0, 1.0), edge)
    picture = ground[None] + cloth[..., None] * (colours[0] - ground)
    picture = picture + pole[..., None] * (colours[1] - picture)
    return picture.clip(0, 255).round().astype(np.uint8)


def box_coverage(
    u: np.ndarray, v: np.ndarray, wide: tuple[float, float], high: tuple[float, float], edge: np.ndarray
) -> np.ndarray:
    """Coverage, 0 to 1, of a rectangle with edges one pixel soft."""
    inside = np.minimum.reduce([u - wide[0], wide[1] - u, v - high[0], high[1] - v])
    return (inside / edge + 0.5).clip(0, 1)


def make_video(label: str, rng: np.random.Generator, *, num_frames: int = 16, size: int = 32) -> MotionVideo:
    """One video of a class; everything else about it comes from `rng`."""
    speed = rng.uniform(SPEEDS[:, 0], SPEEDS[:, 1]) * MOTIONS[label]
    states = rng.uniform(size=4) + np.arange(num_frames)[:, None] * speed
    dark, bright = rng.uniform(0, 60, 3), rng.uniform(150, 255, (2, 3))
    ground = dark + rng.normal(0, 6, (size, size, 3))
    return MotionVideo(render(states, bright, ground), label)


def make_videos(
    count: int, *, seed: int, labels: tuple[str, ...] = tuple(MOTIONS), num_frames: int = 16, size: int = 32
) -> Iterator[MotionVideo]:
    """`count` videos, the classes in turn; the same seed gives the same videos."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        yield make_video(labels[index % len(labels)], rng, num_frames=num_frames, size=size)


def write_mp4(
    path: str | Path, frames: np.ndarray, *, fps: int = 8, quality: int = 20, times: np.ndarray | None = None
) -> None:
    """Write (frames, height, width, 3) uint8 as H.264; `quality` is the constant rate factor, lower is better.

    times: seconds at which the frames are shown, rising; by default `fps` of them a second.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(quality), "preset": "fast"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = TIME_BASE
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = round(times[index] / TIME_BASE), TIME_BASE
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_folder(folder: str | Path, count: int, *, seed: int, num_frames: int = 16, size: int = 32) -> list[Path]:
    """Write videos as `folder/<class>/<number>.mp4`, one sub-folder per class; returns their paths."""
    paths = []
    for index, video in enumerate(make_videos(count, seed=seed, num_frames=num_frames, size=size)):
        path = Path(folder) / video.label / f"{index:05}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mp4(path, video.frames)
        paths.append(path)
    return paths

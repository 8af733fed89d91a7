"""Writes frames as H.264 files."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import IO

import av
import numpy as np


TIME_BASE = Fraction(1, 1000)  # of videos whose frames have times of their own


def write_mp4(
    file: str | Path | IO[bytes],
    frames: Iterable[np.ndarray],
    *,
    fps: int = 8,
    quality: int = 20,
    times: np.ndarray | None = None,
) -> None:
    """Write frames as an MP4 file in H.264.

    Args:
        file: a path, or a binary file that can be written and can seek, such as `atomic_write` opens.
        frames: (height, width, 3) uint8 each, all of one even height and width: an array of them, or an iterator,
            of which one frame at a time is in memory.
        fps: frames a second.
        quality: the constant rate factor; lower is better.
        times: the seconds at which the frames are shown, rising; by default `fps` of them a second.

    Raises:
        ValueError: there is no frame.
        OSError: the file cannot be written.
    """
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("There are no frames to write.")
    target = str(file) if isinstance(file, (str, Path)) else file
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": str(quality), "preset": "fast"})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = TIME_BASE
        for index, frame in enumerate(chain([first], rest)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = round(times[index] / TIME_BASE), TIME_BASE
            container.mux(stream.encode(picture))
        container.mux(stream.encode())

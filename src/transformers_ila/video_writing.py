"""Frames to H.264 files."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


TIME_BASE = Fraction(1, 1000)  # of videos whose frames have times of their own


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

"""Writes frames as H.264 files."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
from av.codec.context import Flags


TIME_BASE = Fraction(1, 90_000)  # of videos whose frames have times of their own: whole for all usual rates
BT601, BT709, LIMITED = 6, 1, 1  # of the standard's tables: this matrix; these primaries and transfer; 16 to 235


def write_mp4(
    file: str | Path | IO[bytes],
    frames: Iterable[np.ndarray],
    *,
    fps: float | Fraction = 8,
    quality: int = 20,
    times: Iterable[float] | None = None,
    pixel_aspect: float = 1.0,
    comment: str = "",
) -> None:
    """Write frames as an MP4 file in H.264, without sound, that browsers and players show.

    H.264 for all players (4:2:0) has an even width and height: an odd one gets one more column or row, a copy of its
    last one; no pixel is scaled or lost. Colours are BT.601 in the limited range and marked so, as readers that ignore
    the mark take this for granted.

    Args:
        file: a path, or a binary file that can be written and can seek, such as `atomic_write` opens. At a path the
            index stands before the frames, so that browsers begin before they have everything.
        frames: (height, width, 3) uint8 each, all of one size: an array of them, or an iterator, of which two frames
            at a time are in memory here, and some dozens in the encoder.
        fps: frames a second, where there are no `times`.
        quality: the constant rate factor; lower is better.
        times: the seconds at which the frames are shown, rising, none negative; an iterator is asked once a frame,
            after the frame. By default `fps` frames a second.
        pixel_aspect: width / height of one pixel.
        comment: a text in the file, of any length.

    Raises:
        ValueError: there is no frame; frames of different sizes or kinds; times that do not rise, or not one each.
        OSError: the file cannot be written.
    """
    timed = _timed(frames, times)
    first = next(timed, None)
    if first is None:
        raise ValueError("There are no frames to write.")
    shape, is_path = first[0].shape, isinstance(file, (str, Path))
    options = {"movflags": "+faststart"} if is_path else {}
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise ValueError(f"`fps` must be positive, got {fps!r}.")
    with av.open(str(file) if is_path else file, "w", format="mp4", options=options) as container:
        if comment:
            container.metadata["comment"] = comment
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(quality), "preset": "fast"})
        stream.height, stream.width = (length + length % 2 for length in shape[:2])
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        coder = stream.codec_context
        coder.colorspace, coder.color_primaries, coder.color_trc, coder.color_range = BT601, BT709, BT709, LIMITED
        if pixel_aspect != 1:
            coder.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(1000)
        if times is not None:
            coder.time_base = TIME_BASE
            coder.flags |= Flags.frame_duration
            coder.max_b_frames = 0  # reordered frames of uneven times would shorten what the file says of its duration
        converter = av.video.reformatter.VideoReformatter()
        step = round(1 / rate / TIME_BASE)
        while first is not None:
            frame, start = first
            if frame.shape != shape:
                raise ValueError(f"Frames of a video have one size; {frame.shape} comes after {shape}.")
            following = next(timed, None)
            picture = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
            picture = converter.reformat(picture, format="yuv420p", threads=1)  # else threads are started for each
            if start is not None:
                picture.pts, picture.time_base = start, TIME_BASE
                if following is not None and following[1] is not None:
                    step = following[1] - start
                picture.duration = step  # the last frame is shown as long as the one before it
            container.mux(stream.encode(picture))
            first = following
        container.mux(stream.encode())


def _timed(frames: Iterable[np.ndarray], times: Iterable[float] | None) -> Iterator[tuple[np.ndarray, int | None]]:
    """Yield frames, checked, and their times in ticks."""
    clock = None if times is None else iter(times)
    last = -1
    for index, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise ValueError(f"Frames must be (height, width, 3) uint8; frame {index} is {frame.shape} {frame.dtype}.")
        if clock is None:
            yield frame, None
            continue
        seconds = next(clock, None)
        if seconds is None:
            raise ValueError(f"There are {index} times, and more frames.")
        if not 0 <= seconds < float("inf") or (tick := round(seconds / TIME_BASE)) <= last:
            raise ValueError(f"Times must rise and not be negative; frame {index} has {seconds}.")
        last = tick
        yield frame, tick
    if clock is not None and next(clock, None) is not None:
        raise ValueError("There are more times than frames.")


def _even(frame: np.ndarray) -> np.ndarray:
    """Return a frame whose height and width are even: the last row or column is there twice."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)

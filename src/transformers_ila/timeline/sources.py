"""Frames with their times from any source: a file, an address, a pipe, a camera, a folder of pictures."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..model.video_container_ila import LARGEST_LIMIT, ReadLimits, opened
from ..model.video_decoding_ila import FrameConverter
from ..model.video_reading_ila import _as_file
from .options import require_rate


SOURCE_LIMITS = ReadLimits(max_frames=LARGEST_LIMIT, max_seconds=LARGEST_LIMIT)  # of any length


class TimedFrame(NamedTuple):
    """Hold a frame and when it is shown.

    time: seconds after the source's first frame; never less than that of the frame before.
    image: (H, W, 3) uint8 RGB, upright; all frames of a source have the size of its first.
    index: number of the frame among all that the source gave, from 0 on, those between two chosen ones included.
    arrived: `time.monotonic()` when it came out of the decoder.
    """

    time: float
    image: np.ndarray
    index: int
    arrived: float


class SourceNote(NamedTuple):
    """Hold what was remarkable about a source, and when.

    time: seconds after the source's first frame.
    kind: late_start, stall, gap, jump, size, damage, end_early, dropped, grew or untimed.
    text: what happened, in words.
    """

    time: float
    kind: str
    text: str


class FrameSource:
    """Give the frames of a source in order, each decoded once, and notes between them; it can be iterated once.

    duration: seconds from the first frame to the end, as far as is known: what the container says, after the end what
        was read; None where nobody says.
    decoded: frames that came out of the decoder. dropped: frames that waited for the consumer too long.
    finished: whether nothing comes any more.
    start: seconds from where players begin to count to the first frame; None before that frame.
    """

    def __init__(self, source: Any, rate: float | None, limits: ReadLimits, size: int | None) -> None:
        self.decoded, self.dropped, self.finished = 0, 0, False
        self.duration: float | None = None
        self.start: float | None = None
        self._items = self._read(source, rate, limits, size)

    def __iter__(self) -> Iterator[TimedFrame | SourceNote]:
        return self

    def __next__(self) -> TimedFrame | SourceNote:
        try:
            return next(self._items)
        except BaseException:
            self.finished = True
            raise

    def poll(self, timeout: float = 0.0) -> TimedFrame | SourceNote | None:
        """Return the next item; None where none came within `timeout` seconds, or where `finished`."""
        return next(self, None)

    def __enter__(self) -> "FrameSource":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the source. It waits for a second at most."""
        self._items.close()
        self.finished = True

    def _read(self, source: Any, rate: Any, limits: Any, size: Any) -> Iterator[Any]:
        import time

        with _as_file(source, limits) as file, opened(file) as video:
            first, due, converter = None, 0, FrameConverter(short_side=size)
            if video.container.duration:
                self.duration = video.container.duration / 1e6
            for packet in video.packets():
                for frame in video.decoder.decode(packet):
                    first = frame.pts if first is None else first
                    seconds = float((frame.pts - first) * video.stream.time_base)
                    if rate is None or seconds >= due / rate:
                        due = int(seconds * (rate or 0)) + 1
                        yield TimedFrame(seconds, converter.convert(frame), self.decoded, time.monotonic())
                    self.decoded += 1


def open_frames(
    source: Any,
    *,
    rate: float | None = None,
    live: bool = False,
    patience: float = 10.0,
    give_up: float = 60.0,
    format: str | None = None,
    limits: ReadLimits = SOURCE_LIMITS,
    size: int | None = None,
    frame_rate: float | None = None,
) -> FrameSource:
    """Open a source of frames with times.

    Args:
        source: a path, an http(s) URL or an address of a store such as s3://, bytes, a binary file object (one that
            cannot seek is read as it arrives), "-" (standard input), a camera such as /dev/video0, or a folder of
            pictures.
        rate: frames a second that are given: frame k is the first whose time is at least k / rate; where one frame is
            that for several k, it is given once. None gives all.
        live: whether frames that wait for the consumer are dropped, the oldest first. A file is read at the speed at
            which it is shown; a URL is read as it arrives, not copied first.
        patience: seconds without anything from a source that is read as it arrives, after which that is noted.
        give_up: seconds after which it is ended.
        format: FFmpeg's name of the container format, such as "mpegts"; None finds out.
        limits: what reading may cost; by default any number of frames and seconds.
        size: scale frames down to this short side (pixels), as `read_video` does; None leaves them as they are.
        frame_rate: frames a second of what has no times, a folder of pictures; by default `rate`.

    Raises:
        VideoDecodingError: there is no video; later, while iterating, where it cannot be read.
        ValueError: an argument that is not allowed.
    """
    if rate is not None:
        require_rate("rate", rate)
    return FrameSource(source, rate, limits, size)

"""Frames with their times from any source: a file, an address, a pipe, a camera, a folder of pictures.

A source that arrives (a pipe, a camera) or is live is read by a thread, and every wait for it is bounded. Files are
read when a frame is asked for, and lose none.
"""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.video_container_ila import LARGEST_LIMIT, READ_ERRORS, ReadLimits, VideoDecodingError, reason_of
from ..model.video_urls_ila import is_url
from .decoder import Chosen, Decoder, Notes, SourceNote
from .inputs import CAMERA, Source, arrives, is_camera, name_of, open_input, plain_source
from .options import require_rate


SOURCE_LIMITS = ReadLimits(max_frames=LARGEST_LIMIT, max_seconds=24 * 3600.0)
WAITING = 32  # frames that wait for the consumer; they hold memory
CLOSING = 1.0  # seconds that closing waits for the thread, which else is left behind
LOOK = 0.5  # seconds between looks at the time, while nothing comes
EARLIER = 0.25  # seconds a second by which frames may become due earlier
TELL_DROPPED = 10.0  # seconds between notes on frames that were dropped


@dataclass(frozen=True, eq=False, slots=True)
class TimedFrame:
    """Hold a frame and when it is shown.

    time: seconds after the source's first frame; never less than that of the frame before.
    image: (H, W, 3) uint8 RGB, upright; all frames of a source have the size of its first.
    index: number of the frame among all that the source gave, from 0 on, those not asked for included.
    arrived: `time.monotonic()` when it came out of the decoder.
    """

    time: float
    image: np.ndarray
    index: int
    arrived: float = 0.0


class FrameSource:
    """Give the frames of a source in order, each decoded once, and notes between them; it is iterated once.

    Where the source is live, a frame that is late is dropped, and with it all that are older than the newest. It is
    late when it waited for the consumer longer than `lag` seconds since it arrived, and since it was due by its time
    and the first frame's arrival: frames that are piped in faster than they are shown are not.
    """

    def __init__(
        self,
        source: Source,
        *,
        live: bool,
        patience: float,
        give_up: float,
        lag: float,
        format: str | None,
        limits: ReadLimits,
        **how: Any,
    ) -> None:
        source = plain_source(source)
        self.name = name_of(source)
        self.patience, self.give_up, self.lag = patience, give_up, lag
        self.dropped, self.finished = 0, False
        self.live = live or is_camera(source, format)
        self._decoder: Decoder | None = None
        self._stopped = threading.Event()
        self._opened = time.monotonic()
        self._stalled = False  # whether a stall was noted and goes on
        self._given, self._reason = 0, ""  # frames, and why one was not readable
        self._own_notes = Notes()
        self._told_dropped = (0, 0.0)  # how many, and when
        self._time = 0.0  # of the last item
        self._notes: deque[SourceNote] = deque()  # to be given next
        self._waiting: deque[Chosen | SourceNote] = deque()
        self._due: float | None = None  # when a frame of time 0 is due, on `time.monotonic()`
        self._followed = 0.0  # arrival of the last frame
        self._ready = threading.Condition()
        self._error: BaseException | None = None
        self._over = False  # whether the thread has given all

        def items() -> Generator[Chosen | SourceNote | None]:
            with ExitStack() as stack:
                stopped = self._stopped
                file = stack.enter_context(
                    open_input(source, live=self.live, format=format, limits=limits, stopped=stopped)
                )
                self._decoder = Decoder(file, live=self.live, stopped=stopped, give_up=give_up, **how)
                yield from self._decoder.items()

        self._items = items()
        self._threaded = self.live or arrives(source)
        if not arrives(source) and not is_camera(source, format) and not (live and is_url(source)):
            next(self._items)  # opens it; a source that arrives may keep its reader waiting
        if self._threaded:
            self._thread = threading.Thread(target=self._produce, name=f"frames of {self.name}", daemon=True)
            self._thread.start()

    # -- what is known of it

    @property
    def decoded(self) -> int:
        """Return how many frames came out of the decoder."""
        return self._decoder.decoded if self._decoder else 0

    @property
    def duration(self) -> float | None:
        """Return the seconds from the first frame to the end of the last: as the container says, at the end as it was.

        It is None where nobody knows.
        """
        return self._decoder.duration if self._decoder else None

    @property
    def start(self) -> float | None:
        """Return the seconds from the source's own start, which players show as 0, to its first frame, None before."""
        return self._decoder.start if self._decoder else None

    # -- iterating

    def __iter__(self) -> Iterator[TimedFrame | SourceNote]:
        return self

    def __next__(self) -> TimedFrame | SourceNote:
        item = self._next(None)
        if item is None:
            raise StopIteration
        return item

    def poll(self, timeout: float = 0.0) -> TimedFrame | SourceNote | None:
        """Return the next item; None where none came within `timeout` seconds, or where the source is `finished`.

        A source without a thread, a file, is read for it however long that takes.
        """
        return self._next(time.monotonic() + timeout)

    def _next(self, until: float | None) -> TimedFrame | SourceNote | None:
        """Return the next item, its pixels made; None where none came until then, or nothing comes any more."""
        while True:
            item = self._notes.popleft() if self._notes else self._take(until)
            if item is None:
                return None
            self._time = max(self._time, item.time)
            if isinstance(item, SourceNote):
                return item
            self._notes.extend(self._dropped_notes(every=TELL_DROPPED))
            try:
                image = item.image()
            except READ_ERRORS as error:
                self._reason = reason_of(error)
            except VideoDecodingError as error:
                self._reason = error.reason
            else:
                self._given += 1
                return TimedFrame(item.time, image, item.index, item.arrived)
            text = f"a frame is not readable: {self._reason}"
            self._notes.extend(self._own_notes.add(item.time, "damage", text))

    def _take(self, until: float | None) -> Chosen | SourceNote | None:
        """Return the next item as it is decoded, and end the source after its last one."""
        if self.finished:
            return None
        try:
            return self._wait(until) if self._threaded else next(self._items)
        except StopIteration:
            self.finished = True
        except BaseException:
            self.finished = True
            raise
        if self._given == 0 and self._reason:
            raise VideoDecodingError(self.name, f"none of its frames is readable: {self._reason}")
        self._notes.extend([*self._own_notes.rest(), *self._dropped_notes(every=0.0)])
        return self._notes.popleft() if self._notes else None

    def _dropped_notes(self, *, every: float) -> list[SourceNote]:
        """Return a note if frames were dropped since the last one, which is `every` seconds ago."""
        told, when = self._told_dropped
        now = time.monotonic()
        if self.dropped == told or (told and now - when < every):
            return []
        self._told_dropped = self.dropped, now
        text = f"{self.dropped} frames are dropped so far, because newer ones came before they were asked for"
        return [SourceNote(self._time, "dropped", text)]

    # -- the thread

    def _produce(self) -> None:
        """Read the source to its end."""
        try:
            for item in self._items:
                if item is not None:
                    self._offer(item)
        except BaseException as error:  # is raised where the consumer asks
            self._error = error
        finally:
            self._items.close()
            with self._ready:
                self._over = True
                self._ready.notify()

    def _offer(self, item: Chosen | SourceNote) -> None:
        """Put an item into the queue; where that is full, drop the oldest frame of a live source, or wait."""
        if isinstance(item, Chosen):
            self._follow(item)
        with self._ready:
            while len(self._waiting) >= WAITING and not self._stopped.is_set():
                oldest = next((waiting for waiting in self._waiting if isinstance(waiting, Chosen)), None)
                if self.live and (oldest is None or self._is_late(oldest)):
                    self._drop(oldest)
                    break
                self._ready.wait(LOOK)
            if not self._stopped.is_set():  # what comes after the end was told is not given
                self._waiting.append(item)
            self._ready.notify()

    def _follow(self, frame: Chosen) -> None:
        """Set when frames are due: the first one when it arrived, the others so much later as they are shown later.

        Where they come earlier than that they are due earlier, little by little: what was waiting when a camera was
        opened is soon caught up with, and a file that is piped in faster than it is shown loses nothing.
        """
        offset = frame.arrived - frame.time
        earlier = EARLIER * (frame.arrived - self._followed)
        self._due = offset if self._due is None else max(min(offset, self._due), self._due - earlier)
        self._followed = frame.arrived

    def _is_late(self, frame: Chosen) -> bool:
        """Return whether a frame is there, and due, for longer than `lag`."""
        return time.monotonic() - max(frame.arrived, frame.time + (self._due or 0.0)) > self.lag

    def _drop(self, frame: Chosen | None) -> None:
        if frame is not None:
            self._waiting.remove(frame)
            self.dropped += 1

    def _wait(self, until: float | None) -> Chosen | SourceNote | None:
        """Return the next item of the queue; None where none came until then. Say so where nothing comes for long.

        Raises:
            StopIteration: nothing comes any more.
        """
        with self._ready:
            while not self._waiting:
                if self._over:
                    if self._error is not None:
                        raise self._error
                    raise StopIteration
                now = time.monotonic()
                silent = now - (self._decoder.heard if self._decoder else self._opened)
                if silent >= self.give_up:
                    return self._end_silent(silent)
                if silent >= self.patience and not self._stalled:
                    self._stalled = True
                    what = "more came" if self.decoded else "came"
                    return SourceNote(self._time, "stall", f"nothing {what} for {silent:.1f} s; waiting")
                if until is not None and now >= until:
                    return None
                ends = [LOOK, self.give_up - silent]
                ends += [] if self._stalled else [self.patience - silent]
                ends += [] if until is None else [until - now]
                self._ready.wait(min(ends))
            self._stalled = False
            frames = [item for item in self._waiting if isinstance(item, Chosen)]
            if self.live and len(frames) > 1 and self._is_late(frames[0]):
                for frame in frames[:-1]:
                    self._drop(frame)
            self._ready.notify()
            return self._waiting.popleft()

    def _end_silent(self, silent: float) -> SourceNote:
        """End a source from which nothing comes any more."""
        self._stopped.set()
        self._over = True
        text = f"nothing {'more ' if self.decoded else ''}came for {silent:.1f} s"
        if not self.decoded:
            self._error = VideoDecodingError(self.name, text)
        return SourceNote(self._time, "end_early", f"{text}; given up")

    # -- closing

    def __enter__(self) -> "FrameSource":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the source. A thread that a camera or a server keeps waiting is left to itself after a second."""
        self.finished = True
        self._stopped.set()
        self._notes.clear()
        if not self._threaded:
            self._items.close()
            return
        with self._ready:
            self._ready.notify()
        self._thread.join(CLOSING)
        with self._ready:
            self._waiting.clear()


def open_frames(
    source: Source,
    *,
    rate: float | None = None,
    live: bool = False,
    patience: float = 10.0,
    give_up: float = 60.0,
    lag: float = 1.0,
    format: str | None = None,
    limits: ReadLimits = SOURCE_LIMITS,
    size: int | None = None,
    frame_rate: float | None = None,
) -> FrameSource:
    """Open a source of frames with times.

    Args:
        source: a path, an http(s) URL or an address of a store such as s3://bucket/clip.mp4, bytes, a binary file
            object, a dict with "path" or "bytes", "-" (standard input), a camera such as /dev/video0, or a folder of
            pictures in natural order. A pipe and a file object that cannot seek are read as their bytes arrive.
        rate: frames a second asked for: frame k is the first whose time is at least k / rate (less one tick of the
            source's clock, which may be rounded by that); where one frame is that for several k, it is given once.
            None gives every frame.
        live: whether a frame that is late by more than `lag` is dropped. A file then is read at the speed at which it
            is shown, and a URL as its bytes arrive, not copied first. A camera is always live.
        patience: seconds without a frame of a source that arrives, after which that is noted.
        give_up: seconds without a frame, after which such a source is ended.
        lag: seconds that a frame of a live source may wait; then it goes, and all waiting ones but the newest.
        format: FFmpeg's name of the container format, such as "mpegts", or "v4l2" for a camera; None finds out.
        limits: what reading may cost. By default any number of frames and a day of reading; of a live source, neither
            these two nor its bytes are limited.
        size: scale frames down to this short side (pixels), as `read_video` does; None leaves them as they are.
        frame_rate: frames a second by count, in place of timestamps. A folder of pictures, which have none, needs it
            or `rate`.

    Raises:
        VideoDecodingError: there is no video. A source that arrives raises it when its first frame is asked for, and
            any source later where a limit is met.
        ValueError: an argument that is not allowed.
    """
    for name, value in (("rate", rate), ("frame_rate", frame_rate)):
        if value is not None:
            require_rate(name, value)
    for name, seconds in (("patience", patience), ("give_up", give_up), ("lag", lag)):
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0:
            raise ValueError(f"{name} must be seconds above 0, got {seconds!r}.")
    require_waiting(patience, give_up)
    if not isinstance(live, bool):
        raise ValueError(f"live must be True or False, got {live!r}.")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"size must be a short side of at least 1 pixel, got {size!r}.")
    require_format(format, limits)
    return FrameSource(
        source,
        rate=rate,
        live=live,
        patience=patience,
        give_up=give_up,
        lag=lag,
        format=format,
        limits=limits,
        size=size,
        frame_rate=frame_rate,
    )


def require_waiting(patience: float, give_up: float) -> None:
    """Raise a ValueError if a source would be ended before its silence is noted."""
    if give_up < patience:
        raise ValueError(f"give_up must be at least patience={patience:g} seconds, got {give_up!r}.")


def require_format(format: str | None, limits: ReadLimits) -> None:
    """Raise a ValueError if a container format is none that is read."""
    if format is not None and format not in (CAMERA, *limits.formats.split(",")):
        raise ValueError(f"format must be one of {limits.formats}, or {CAMERA} for a camera; got {format!r}.")

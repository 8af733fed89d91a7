"""One source while it is watched: opened in a thread of its own, read by looks, with its clip, labels and delays."""

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from ..model.video_urls_ila import redact
from .scores import GapDetector, open_for_model
from .segments import SegmentTracker
from .sources import FrameSource, SourceNote, TimedFrame


PAUSE = 0.005  # seconds between two looks at several sources of which none has a frame
CLOCK_SECONDS = 60.0  # of frames, among which the quickest one sets the source's clock, twice
FAILURES = (ValueError, OSError)  # of a source; what ends all of them is no failure of one


class ArrivalClock:
    """Tell how late frames come, by the source's own clock.

    Nobody says when a frame was filmed. The quickest frame of the last one or two minutes counts as on time, so what
    all frames share (the camera's exposure, its encoder, the network at its best) is in no delay. It is of minutes
    only, so that a clock which goes wrong by parts in ten thousand does no harm, and a source that stood still is on
    time again soon.
    """

    def __init__(self) -> None:
        self._offsets = (math.inf, math.inf)  # of the minute before, and of this one
        self._since = -math.inf

    def see(self, frame_time: float, arrived: float) -> None:
        """Take notice of a frame: its time in the source, and `time.monotonic()` when it came; both in seconds."""
        before, now = self._offsets
        if arrived - self._since >= CLOCK_SECONDS:
            before, now, self._since = now, math.inf, arrived
        self._offsets = before, min(now, arrived - frame_time)

    def lateness(self, frame_time: float, moment: float) -> float:
        """Return the seconds from when a frame was due to a moment of `time.monotonic()`."""
        return moment - frame_time - min(self._offsets)


@dataclass
class Camera:
    """Hold one source of any kind while it is watched.

    number: its row in the model's cache.
    name: without secrets.
    source: what `open_frames` takes.
    tracker: turns its scores into labels that start and end.
    clip: times in seconds of the last `num_frames` frames, oldest first.
    gaps: tells where a new clip starts.
    frames: the open source; None until the thread that opens it is done.
    failure: why it ended, None while nothing went wrong.
    """

    number: int
    name: str
    source: Any
    tracker: SegmentTracker
    clip: deque[float]
    gaps: GapDetector
    frames: FrameSource | None = None
    failure: str | None = None
    ended: bool = False
    complete: bool = False  # read to its end
    told: bool = False  # that it has ended
    seen: int = 0  # frames since the clip started
    used: int = 0
    changes: int = 0
    on: list[str] = field(default_factory=list)  # labels that hold
    clock: ArrivalClock = field(default_factory=ArrivalClock)
    last: TimedFrame | None = None

    def open(self, **options: Any) -> None:
        """Open the source. A thread calls it, so that a source which gives nothing holds up no other one.

        options: of `open_for_model`.
        """
        try:
            frames = open_for_model(self.source, live=True, **options)
        except FAILURES as error:
            self.failure = redact(str(error)) or type(error).__name__
        else:
            self.frames = frames
            if self.ended:  # meanwhile
                frames.close()

    def poll(self, timeout: float) -> TimedFrame | SourceNote | None:
        """Return the next frame or note, or None where none came in so many seconds; set `ended` behind the last."""
        if self.frames is None:
            if self.failure is not None:
                self.ended = True
            elif timeout:
                time.sleep(min(timeout, PAUSE))
            return None
        try:
            item = self.frames.poll(timeout)
        except FAILURES as error:
            self.fail(error)
            return None
        if item is None and self.frames.finished:
            self.ended = self.complete = True
        return item

    def fail(self, error: Exception) -> None:
        """End the source with a reason."""
        self.failure, self.ended = redact(str(error)) or type(error).__name__, True

    def restart(self) -> None:
        """Start a new clip with the next frame."""
        self.clip.clear()
        self.seen = 0

    def take(self, frame: TimedFrame) -> bool:
        """Take the next frame, and return whether a clip starts with it."""
        self.last, self.seen, self.used = frame, self.seen + 1, self.used + 1
        self.clip.append(frame.time)
        self.clock.see(frame.time, frame.arrived)
        return self.seen == 1

    def delays(self, frame: TimedFrame) -> tuple[float, float]:
        """Return the seconds since a frame arrived, and since it was due by the source's clock."""
        moment = time.monotonic()
        return moment - frame.arrived, self.clock.lateness(frame.time, moment)

    def end(self, rate: float) -> float:
        """Return the seconds at which the source ends, as far as it was read."""
        if self.last is None:
            return 0.0
        known = self.frames.duration if self.frames is not None and self.complete else None
        return max(self.last.time, self.last.time + 1 / rate if known is None else known)

    def close(self) -> None:
        """Let go of the source."""
        self.ended = True
        if self.frames is not None:
            self.frames.close()

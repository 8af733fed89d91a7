"""An open source to frames with times, each decoded once and in order, and what there is to say about them."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import av
import numpy as np

from ..model.video_container_ila import (
    AV_ERRORS,
    DEMUX_ERRORS,
    DEMUXER_RETRIES,
    ORDERED,
    OpenVideo,
    VideoDecodingError,
    VideoFile,
    opened,
    reason_of,
)
from ..model.video_decoding_ila import END_SLACK, FrameConverter, scaled_size, tagged_seconds
from ..model.video_packets_ila import is_cut_off
from ..model.video_reading_ila import open_picture, pictures_of
from .clock import SourceClock, Stamped, Timed
from .inputs import CAMERA, ArrivingBytes, size_now


LATE = 0.5  # seconds from the source's start to its first frame that are noted
NOMINAL = 1 / 25  # seconds from frame to frame where nothing says how many
COARSEST = 1 / 200  # seconds: a clock with coarser ticks counts frames, and rounds nothing
NOTES_AT_ONCE, NOTES_EVERY = 10, 10.0  # notes of one kind: so many as they come, then one in so many seconds
MPEG_CLOCKS = ("mpegts", "mpeg")  # formats whose clock starts anywhere and runs over
UNTIMED = ("h263", "h264", "hevc", "vvc", "m4v", "mpegvideo", "mjpeg", "mjpeg_2000", "vc1", "obu")  # bare frames
ARRIVAL_TICK = Fraction(1, 1_000_000)  # seconds, where frames have the times of their arrival
DECLARING = ("flv", "avi", "asf")  # formats whose headers say how long the video is
LEAST_SLACK = 1e-6  # seconds, for the rounding of floats


class SourceNote(NamedTuple):
    """Hold what was remarkable about a source, and when.

    time: seconds after the source's first frame.
    kind: late_start, stall, gap, jump, size, damage, end_early, dropped, grew or untimed.
    text: what happened, in words.
    """

    time: float
    kind: str
    text: str


@dataclass(frozen=True, eq=False, slots=True)
class Chosen:
    """Hold a frame that is asked for, not yet converted: seconds, number, arrival, and what makes its pixels."""

    time: float
    index: int
    arrived: float
    image: Callable[[], np.ndarray]


class Notes:
    """Hand on the first notes of a kind as they come, later ones once in a while with the number of those left out."""

    def __init__(self) -> None:
        self.told: dict[str, int] = {}
        self.when: dict[str, float] = {}
        self.left_out: dict[str, int] = {}
        self.latest: dict[str, SourceNote] = {}

    def add(self, time: float, kind: str, text: str) -> list[SourceNote]:
        """Return the note if it is to be told now, else nothing."""
        note = SourceNote(time, kind, text)
        if self.told.get(kind, 0) >= NOTES_AT_ONCE and time - self.when[kind] < NOTES_EVERY:
            self.left_out[kind] = self.left_out.get(kind, 0) + 1
            self.latest[kind] = note
            return []
        self.told[kind] = self.told.get(kind, 0) + 1
        self.when[kind] = time
        left_out = self.left_out.pop(kind, 0)
        return [note._replace(text=f"{text} (and {left_out} more before it)") if left_out else note]

    def rest(self) -> list[SourceNote]:
        """Return the last note of every kind of which some were left out."""
        notes = [
            note._replace(text=f"{note.text} (the last of {self.left_out[kind]} more)")
            for kind, note in self.latest.items()
            if kind in self.left_out
        ]
        self.left_out.clear()
        return notes


class Decoder:
    """Decode a source, and give the frames asked for and notes, in order.

    Args:
        file: the source, not yet open.
        rate: frames a second asked for; None: all.
        frame_rate: frames a second by count, in place of timestamps.
        size: short side of the frames in pixels; None: as they are.
        live: whether frames arrive as they are recorded; those of a file are given when they are shown.
        stopped: set when nobody asks any more.
        give_up: seconds in which a first frame must decode.
    """

    def __init__(
        self,
        file: VideoFile,
        *,
        rate: float | None,
        frame_rate: float | None,
        size: int | None,
        live: bool,
        stopped: threading.Event,
        give_up: float,
    ) -> None:
        self.file, self.rate, self.frame_rate, self.size = file, rate, frame_rate, size
        self.stopped, self.give_up = stopped, give_up
        self.arrives = isinstance(file.file, ArrivingBytes) or file.format == CAMERA
        self.paced, self.live = live and not self.arrives, live and self.arrives
        self.decoded = 0
        self.start: float | None = None
        self.duration: float | None = None
        self.heard = time.monotonic()  # when a frame came last
        self.seconds = 0.0  # of that frame
        self.notes = Notes()
        self.pending: list[SourceNote] = []  # about what lies between that frame and the next
        self.packets = self.bad_packets = self.failures = 0
        self.reason = ""  # why a packet did not decode
        self.times = "container"  # where they are from: the container, the number of the frame, or its arrival
        self.due = 0  # the frame asked for next is the first at or after due / rate
        self.away = 0.0  # seconds that others took, which no limit counts
        self.shown_at: float | None = None  # `time.monotonic()` of second 0, of a file at its own speed
        self.picture_size: tuple[int, int] | None = None

    def items(self) -> Iterator[Chosen | SourceNote | None]:
        """Yield None once the source is open, then frames and notes.

        Raises:
            VideoDecodingError: no video, no frame of it decodes, or a limit is met.
        """
        pictures = None if self.arrives else pictures_of(self.file)
        for item in self._video() if pictures is None else self._pictures(pictures):
            left = time.monotonic()
            yield item
            self.away += time.monotonic() - left
        yield from self.notes.rest()

    def _is_due(self, slack: float) -> bool:
        """Return whether the frame at the present time is asked for; it then is that for all k up to its time."""
        if self.rate is None:
            return True
        reached = (self.seconds + slack) * self.rate
        if reached < self.due:
            return False
        self.due = int(reached) + 1
        return True

    def _pace(self, *, anew: bool = False) -> None:
        """Wait until the present frame of a file is to be shown at its own speed; after a gap it is shown at once."""
        self.heard = time.monotonic()
        if not self.paced:
            return
        if self.shown_at is None or anew:
            self.shown_at = self.heard - self.seconds
        while not self.stopped.is_set() and (rest := self.shown_at + self.seconds - self.heard) > 0:
            self.stopped.wait(min(rest, LATE))
            self.away += time.monotonic() - self.heard
            self.heard = time.monotonic()

    def _check_time(self) -> None:
        if not self.arrives and time.monotonic() > self.file.deadline + self.away:
            reason = f"reading it takes longer than max_seconds={self.file.limits.max_seconds}"
            raise VideoDecodingError(self.file.name, reason)

    # -- pictures ----------------------------------------------------------------------------------------------------

    def _pictures(self, paths: list[Any]) -> Iterator[Chosen | SourceNote | None]:
        rate = self.frame_rate or self.rate
        if rate is None and len(paths) > 1:
            reason = f"its {len(paths)} pictures have no times: say how many a second they are (rate, frame_rate)"
            raise VideoDecodingError(self.file.name, reason)
        interval = 1 / rate if rate else NOMINAL
        self.start, self.duration = 0.0, len(paths) * interval
        yield None
        for number, path in enumerate(paths):
            self._check_time()
            self.seconds = number * interval
            self._pace()
            self.decoded += 1
            if self._is_due(LEAST_SLACK):
                yield Chosen(self.seconds, number, time.monotonic(), partial(self._picture, path))

    def _picture(self, path: Any) -> np.ndarray:
        """Read one picture, in the size of the first one read."""
        image = open_picture(path, self.file)
        if self.picture_size is None:
            self.picture_size = scaled_size(*image.size, short_side=self.size)
        return np.asarray(image if image.size == self.picture_size else image.resize(self.picture_size))

    # -- videos ------------------------------------------------------------------------------------------------------

    def _video(self) -> Iterator[Chosen | SourceNote | None]:
        bytes_before = size_now(self.file)
        if bytes_before == 0:
            raise VideoDecodingError(self.file.name, "it is empty (0 bytes)")
        try:
            with opened(self.file) as video:
                self.duration = None if self.arrives else _declared_seconds(video)
                yield None
                yield from self._frames_of(video)
                yield from self._end_of(video, bytes_before)
        except VideoDecodingError as error:
            if self.decoded or not isinstance(self.file.file, ArrivingBytes):
                raise
            raise VideoDecodingError(self.file.name, _why_nothing_arrived(self.file.file, error)) from error

    def _frames_of(self, video: OpenVideo) -> Iterator[Chosen | SourceNote]:
        """Yield the frames of an open video that are asked for, and notes before those that they are about."""
        rate, counted = video.stream.guessed_rate or video.stream.average_rate, self.frame_rate
        if counted is None and video.format in UNTIMED and not self.live:
            counted = float(rate or 1 / NOMINAL)
            text = f"{video.format} has no timestamps; {counted:g} frames a second are assumed (frame_rate)"
            yield from self.notes.add(0.0, "untimed", text)
        if counted is not None:
            self.times = "count"
            clock = SourceClock(1 / Fraction(counted), nominal=1 / counted)
        elif video.format in UNTIMED:
            self.times = "arrival"
            clock = SourceClock(ARRIVAL_TICK, nominal=NOMINAL)
            yield from self.notes.add(0.0, "untimed", f"{video.format} has no timestamps; frames have their arrival's")
        else:
            clock = SourceClock(
                video.stream.time_base,
                nominal=float(1 / rate) if rate else NOMINAL,
                wraps=video.format in MPEG_CLOCKS,
                live=self.live,
            )
        tick = float(clock.tick)
        slack = max(tick - LEAST_SLACK, LEAST_SLACK) if tick <= COARSEST else LEAST_SLACK
        converter = FrameConverter(short_side=self.size)
        shape: tuple[int, int] | None = None
        for timed in clock.times(self._stamped(video, clock)):
            frame, self.seconds = timed.frame, timed.seconds
            yield from self._notes_on(timed, shape, converter.size_of(frame))
            shape = frame.width, frame.height
            self._pace(anew=timed.note is not None)
            index, self.decoded = self.decoded, self.decoded + 1
            if self._is_due(slack):
                yield Chosen(self.seconds, index, timed.arrived, partial(converter.convert, frame))
        yield from self._told()
        if self.decoded == 0:
            raise VideoDecodingError(self.file.name, self._why_nothing())
        self.duration = self.seconds + clock.interval

    def _notes_on(self, timed: Timed, shape: tuple[int, int] | None, given: tuple[int, int]) -> Iterator[SourceNote]:
        """Yield the notes before a frame: on packets before it, its start, its time and its size."""
        yield from self._told()
        if self.decoded == 0 and self.start is not None and self.start > LATE:
            yield from self.notes.add(0.0, "late_start", f"the first frame comes {self.start:.3f} s after the start")
        if timed.note is not None:
            yield from self.notes.add(self.seconds, *timed.note)
        now = timed.frame.width, timed.frame.height
        if shape is not None and now != shape:
            text = f"frames of {now[0]} x {now[1]} after {shape[0]} x {shape[1]}, given as {given[0]} x {given[1]}"
            yield from self.notes.add(self.seconds, "size", text)

    def _told(self) -> Iterator[SourceNote]:
        yield from self.pending
        self.pending.clear()

    def _note(self, kind: str, text: str) -> None:
        """Add a note of this kind and text, at the time of the last frame that was read."""
        self.pending += self.notes.add(self.seconds, kind, text)

    def _stamped(self, video: OpenVideo, clock: SourceClock) -> Iterator[Stamped]:
        """Yield every frame that decodes, with its timestamp in the stream's time base."""
        began, first, last, count = time.monotonic(), None, None, 0
        base = video.container.start_time
        start = None if base is None else base / av.time_base
        if not self.arrives and video.format not in MPEG_CLOCKS:
            start = 0.0  # their clocks start there
        tick, in_order = float(video.stream.time_base), video.format in ORDERED
        for packet in self._packets(video):
            if first is None and packet is not None and packet.pts is not None:
                first = packet.pts * tick
                start = first if start is None else min(start, first)
            try:
                frames = video.decoder.decode(packet)
            except AV_ERRORS as error:
                self.bad_packets += 1
                self.reason = reason_of(error)
                self._note("damage", f"a packet does not decode: {self.reason}")
                if count == 0 and time.monotonic() - began - self.away > self.give_up:
                    return
                continue
            for frame in frames:
                arrived = self.heard = time.monotonic()
                ticks = frame.dts if in_order or frame.pts is None else frame.pts
                if ticks is None and last is not None and (packet is None or not packet.size):
                    ticks = last + clock.ticks  # frames that come out at the end may be without
                last = ticks
                if count == 0:
                    self.file.limits.check_memory(self.file.name, 1, frame.height, frame.width)
                    self.start = 0.0 if ticks is None or start is None else ticks * tick - start
                if frame.is_corrupt:
                    self._note("damage", "the data of a frame are damaged")
                if self.times != "container":
                    ticks = count if self.times == "count" else round(arrived / ARRIVAL_TICK)
                yield Stamped(frame, ticks, arrived)
                count += 1

    def _packets(self, video: OpenVideo) -> Iterator[Any]:
        """Yield the packets up to the end; places that cannot be read are stepped over. None flushes the decoder."""
        failures = 0  # in a row
        while failures < DEMUXER_RETRIES:
            try:
                for packet in video.container.demux(video.stream):
                    if self.stopped.is_set():
                        return
                    if packet.size:
                        failures = 0
                        self.packets += 1
                        if not self.live:
                            self.file.check_count(self.packets)
                    self._check_time()
                    yield packet
                self.failures = failures
                return
            except DEMUX_ERRORS as error:
                failures += 1
                if failures == 1:
                    self._note("damage", f"a place cannot be read: {reason_of(error)}")
            except OSError as error:
                self._note("end_early", f"reading broke off: {reason_of(error)}")
                break
        else:
            self._note("end_early", f"{failures} places in a row cannot be read")
        yield None

    # -- the end -----------------------------------------------------------------------------------------------------

    def _why_nothing(self) -> str:
        if self.bad_packets == 0:
            return "its video stream holds no frame that decodes" if self.packets else "its video stream is empty"
        return f"none of its first {self.bad_packets} packets decodes: {self.reason}"

    def _end_of(self, video: OpenVideo, bytes_before: int | None) -> Iterator[SourceNote]:
        """Yield what there is to say at the end: that it came too early, or that the file grew meanwhile."""
        if self.stopped.is_set():
            return
        reason = self._broken_off(video.format) if self.arrives else self._missing(video)
        if reason:
            yield from self.notes.add(self.seconds, "end_early", reason)
        bytes_after = size_now(self.file)
        if bytes_before is not None and bytes_after is not None and bytes_after > bytes_before:
            text = f"it grew from {bytes_before} to {bytes_after} bytes meanwhile; what comes later is not read"
            yield from self.notes.add(self.seconds, "grew", text)

    def _broken_off(self, format: str) -> str | None:
        """Say why a source that arrives did not end as a whole; None where nothing tells."""
        source = self.file.file
        if not isinstance(source, ArrivingBytes):
            return "the camera gives nothing any more"
        if source.failure is not None:
            return f"it broke off: {reason_of(source.failure)}"
        return "it broke off inside a packet" if self.failures or source.ends_inside(format) else None

    def _missing(self, video: OpenVideo) -> str | None:
        """Say how much less there was than the container promises; None where there was as much."""
        rest, interval = None, max(self.duration or 0.0, NOMINAL) / max(self.decoded, 1)
        listed = max(video.stream.frames, len(video.stream.index_entries) if video.format == "mov" else 0)
        if (listed - self.packets) * interval > END_SLACK:
            return f"it breaks off: {self.packets} of the {listed} packets that its header promises are there"
        declared = _declared_seconds(video)
        if declared is not None and (is_cut_off(video) or video.format in DECLARING):
            rest = declared - (self.duration or 0.0) - (self.start or 0.0)
        if rest is not None and rest > END_SLACK:
            return f"it breaks off {rest:.1f} s before the end that its header promises"
        return None


def _declared_seconds(video: OpenVideo) -> float | None:
    """Return the seconds that the header promises of the video stream, else of the file; None where it does not."""
    stream = video.stream
    tagged = tagged_seconds(stream)
    if tagged is not None:
        return tagged
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return video.container.duration / av.time_base if video.container.duration else None


def _why_nothing_arrived(source: ArrivingBytes, error: VideoDecodingError) -> str:
    """Return the reason, in words, why the bytes that arrived are no video."""
    if source.failure is not None:
        return f"it broke off after {source.received} bytes: {reason_of(source.failure)}"
    if source.received == 0:
        return "nothing came (0 bytes)"
    return (
        f"{error.reason} ({source.received} bytes came; what cannot seek must have a format that is read from "
        "beginning to end, such as MPEG-TS or Matroska)"
    )

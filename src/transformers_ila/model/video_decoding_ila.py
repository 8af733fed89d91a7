"""One video file to the frames asked for: list the packets, decode what is needed, check it, convert.

Three ways lead to the same frames; the first that the file proves right is taken:

    index       the container lists every packet (MP4, MOV), nothing is read to count the frames
    scan        all packets are read, none is decoded (Matroska, fragmented MP4)
    sequential  everything is decoded and counted: all other files, and those that did not keep what they promised

After index and scan only the groups of pictures that hold wanted frames are decoded, and of those not the frames that
no other refers to, if nobody asked for them. This is right because
- the codec gives one frame per packet, and the packets are complete;
- decoding starts at a packet that refers to nothing before it (an IDR in H.264, any random access point in HEVC), and
  the seek is believed only if that packet lies where the listing says it does;
- the frames that come out carry the times of the packets that went in, each once, none flagged corrupt.
Wherever one of these fails, the file is decoded from its start. In a long video, damage in a group that nobody asked
for is not noticed; who wants every fault counted decodes everything (`check_video`).
"""

import logging
import operator
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .video_container_ila import AV_ERRORS, ORDERED, OpenVideo, VideoDecodingError, VideoFile, av, opened, reason_of
from .video_frames_ila import over_white_pixels
from .video_packets_ila import (
    IndexMismatch,
    PacketList,
    group_times,
    is_cut_off,
    list_by_index,
    list_by_scan,
    needed_packets,
)


logger = logging.getLogger(__name__)


IndexRule = Callable[[int], Sequence[int]]

SHORT = 100  # frames: up to here everything is decoded, which costs little and finds every fault
PATIENCE = 1.5  # seconds of bad packets before the first frame, after which nothing is expected any more
END_SLACK = 1.0  # seconds that a header's duration may exceed its frames without anything being wrong
NEAR = 8  # frames: a gap that is decoded through, because a seek costs about as much


@dataclass
class IlaVideoMetadata(VideoMetadata):
    """Extend transformers' `VideoMetadata` by measured timestamps in place of `index / fps`.

    timestamps: seconds on the container's clock, one per returned frame, None where the file has none.
    rotation, mirrored: what the display matrix asks for, already applied to the frames: turned counter-clockwise by
        `rotation` degrees (0, 90, 180 or -90), then mirrored left to right.
    pixel_aspect: width / height of one pixel of the returned frames, 1.0 for square ones; frames are not stretched.
    frames_lost: packets that gave no frame, as far as they were decoded, and what is cut off at the end. 0 for a long
        video of which only some groups were decoded.
    frames_corrupt: frames that the decoder says it patched up because their data is damaged; not all decoders say.
    first_time: seconds on the container's clock at which the first frame is shown; of `frame_times` alone, and None
        where packets have no time, or in AVI one of their order alone.
    """

    timestamps: list[float | None] | None = None  # type: ignore[assignment]
    rotation: int = 0
    mirrored: bool = False
    pixel_aspect: float = 1.0
    frames_lost: int = 0
    frames_corrupt: int = 0
    first_time: float | None = None


def decode_video(
    file: VideoFile, index_rule: IndexRule, *, short_side: int | None = None
) -> tuple[np.ndarray, IlaVideoMetadata]:
    """Decode the frames at the indices of the rule, (T, H, W, 3) uint8 RGB, upright; return them and their metadata.

    Raises:
        VideoDecodingError: nothing readable, or a limit met.
        ValueError: an index outside the video.
        ImportError: PyAV is missing.
    """

    @cache  # a random rule draws once, whichever way the frames come
    def indices_of(total: int) -> list[int]:
        return checked_indices(index_rule(total), total=total)

    def keep_of(total: int) -> FrameCollector:
        return FrameCollector(file, indices_of(total), short_side=short_side)

    with opened(file) as video:
        promised = guess = 0
        for list_packets in (list_by_index, list_by_scan):
            packets = list_packets(video)
            if packets is None:
                continue
            guess, promised = packets.total, max(promised, packets.total)
            if packets.trusted and guess == promised:
                if guess <= SHORT:
                    break
                kept = keep_of(guess)
                if _decode_groups(video, packets, kept):
                    return kept.array, _metadata(video, kept, DecodeStats(frames=guess, last=packets.last_time))
        kept, tally = _decode_sequentially(video, keep_of, guess=guess)
        return kept.array, _metadata(video, kept, tally, promised=promised)


def count_frames(file: VideoFile) -> IlaVideoMetadata:
    """Decode everything, keep no frame, and return what the file really holds. Errors are those of `decode_video`."""
    with opened(file) as video:
        indexed = list_by_index(video)
        promised = (indexed or list_by_scan(video)).total
        kept = FrameCollector(file, [0])  # one frame tells the size and how it lies
        tally = _decode_all(video, kept)
        if tally.frames == 0:
            raise VideoDecodingError(file.name, tally.why_nothing())
        metadata = _metadata(video, kept, tally, promised=promised)
        metadata.frames_indices, metadata.timestamps = [], []
        return metadata


def frame_times(file: VideoFile) -> IlaVideoMetadata:
    """Return when each frame is shown, as the packets say; nothing is decoded, and damage is not noticed.

    `timestamps` are seconds after the first frame, ascending, and `duration` is when the last one ends. Where packets
    have no time, frames follow each other at the stream's rate.

    Raises:
        VideoDecodingError: no frame, or neither times nor a rate.
    """
    with opened(file) as video:
        stream, rate, first = video.stream, video.stream.average_rate or video.stream.guessed_rate, None
        ticks: Any = [p.pts for p in video.packets() if p is not None and p.size > 0 and not p.is_discard]
        if not ticks:
            raise VideoDecodingError(file.name, "its video stream is empty")
        if None in ticks or len(set(ticks)) < len(ticks):
            if not rate:
                raise VideoDecodingError(file.name, "its frames have no times, and it has no frame rate")
            times: Any = np.arange(len(ticks)) / float(rate)
        else:
            times = np.sort(np.array(ticks, dtype=np.int64)) * float(stream.time_base)
            start = float(times[0])
            times -= start
            first = None if video.format in ORDERED else start  # there decoded frames' own times are out of turn
        last = 1 / float(rate) if rate else float(np.median(np.diff(times))) if len(times) > 1 else 0.0
        return IlaVideoMetadata(
            total_num_frames=len(times),
            fps=float(rate) if rate else None,
            width=video.decoder.width,
            height=video.decoder.height,
            duration=float(times[-1]) + last,
            video_backend="pyav",
            frames_indices=[],
            timestamps=times.tolist(),
            first_time=first,
        )


# -- decoding ---------------------------------------------------------------------------------------------------------


@dataclass
class DecodeStats:
    """Count what decoding met: frames that came out, packets that did not decode and why, frames patched up."""

    frames: int = 0
    bad_packets: int = 0
    corrupt: int = 0
    last: int | None = None  # latest time, in the stream's time base
    reason: str = ""

    def why_nothing(self) -> str:
        """Return the reason why no frame came out."""
        if self.bad_packets == 0:
            return "its video stream holds no frame that decodes"
        return f"none of its first {self.bad_packets} packets decodes: {self.reason}"


class FrameConverter:
    """Convert a decoder's frames to RGB, upright; size and orientation follow the first one."""

    def __init__(self, *, short_side: int | None = None) -> None:
        self.short_side = short_side
        self.rotation, self.mirrored = 0, False
        self.size: tuple[int, int] | None = None  # width, height, before frames are turned
        self.scaling: str | None = None if short_side is None else "BICUBIC"  # the nearest to what the processor does
        self.reformatter = av.video.reformatter.VideoReformatter()

    def size_of(self, frame: Any) -> tuple[int, int]:
        """Return width and height of all converted frames before they are turned; the first frame given sets them."""
        if self.size is None:
            self.rotation, self.mirrored = _orientation(frame)
            self.size = scaled_size(frame.width, frame.height, short_side=self.short_side)
        return self.size

    def convert(self, frame: Any) -> np.ndarray:
        """Return a frame as (H, W, 3) uint8 RGB, upright."""
        width, height = self.size_of(frame)
        # One thread, because by default a pool of threads would be started for every single frame.
        clear = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
        pixels = "rgba" if clear else "rgb24"
        converted = self.reformatter.reformat(frame, width, height, pixels, interpolation=self.scaling, threads=1)
        image = converted.to_ndarray()
        if clear:
            image = over_white_pixels(image)
        if self.rotation or self.mirrored:
            whole = image.view("V3")[..., 0]  # (H, W): whole pixels are turned several times faster
            whole = np.rot90(whole, k=self.rotation // 90)
            image = np.ascontiguousarray(whole[:, ::-1] if self.mirrored else whole)[..., None].view(np.uint8)
        return image


class FrameCollector:
    """Collect the frames asked for, converted as they come and written to their places in the result."""

    def __init__(self, file: VideoFile, indices: list[int], *, short_side: int | None = None) -> None:
        self.file, self.indices = file, indices
        self.positions: dict[int, list[int]] = {}
        for position, index in enumerate(indices):
            self.positions.setdefault(index, []).append(position)
        self.times: dict[int, int | None] = {}  # index -> pts
        self.array: np.ndarray = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.converter = FrameConverter(short_side=short_side)

    @property
    def complete(self) -> bool:
        """Return whether every frame asked for has come."""
        return len(self.times) == len(self.positions)

    def keep(self, index: int, frame: Any) -> None:
        """Convert a frame and write it to its places; size and orientation follow the first frame kept."""
        if not self.times:
            self.file.limits.check_memory(self.file.name, len(self.indices), *self.converter.size_of(frame))
        image = self.converter.convert(frame)
        if not self.times:
            self.array = np.empty((len(self.indices), *image.shape), dtype=np.uint8)
        for position in self.positions[index]:
            self.array[position] = image
        self.times[index] = frame.pts


def _decode_groups(video: OpenVideo, packets: PacketList, kept: FrameCollector) -> bool:
    """Decode only the groups of pictures that hold wanted frames; return False if not what was listed came out."""
    plan: list[tuple[int, list[int]]] = []  # (which start, the frames wanted from there on)
    for index in sorted(kept.positions):
        start = int(np.searchsorted(packets.first, index, side="right")) - 1
        if plan and (start == plan[-1][0] or packets.first[start] - plan[-1][1][-1] <= NEAR):
            plan[-1][1].append(index)
        else:
            plan.append((start, [index]))
    try:
        if packets.times is None:
            group_times(video, packets, 0, 0)  # nothing must come before the first key frame
        for start, wanted in plan:
            _decode_group(video, packets, start, wanted, kept)
    except IndexMismatch as reason:
        logger.debug("%s is decoded from its start: %s", video.file.name, reason)
        return False
    return True


def _decode_group(video: OpenVideo, packets: PacketList, start: int, wanted: list[int], kept: FrameCollector) -> None:
    """Decode from a start to its last wanted frame; raise IndexMismatch if other frames come out than went in."""
    first = int(packets.first[start])
    times = group_times(video, packets, start, wanted[-1])
    index_of = {times[index - first]: index for index in wanted}
    went_in: list[int] = []
    came_out: list[int] = []
    for packet in needed_packets(video, packets, start, set(index_of)):
        if packet is not None and packet.pts >= times[0]:  # what is shown before the start is not decodable from it
            went_in.append(packet.pts)
        for frame in _decoded(video, packet):
            if frame.is_corrupt or frame.pts is None:
                raise IndexMismatch("a frame is corrupt or has no time")
            if frame.pts >= times[0]:
                came_out.append(frame.pts)
            if frame.pts in index_of:
                kept.keep(index_of[frame.pts], frame)
    if came_out != sorted(went_in):
        raise IndexMismatch("other frames came out than went in")


def _decoded(video: OpenVideo, packet: Any) -> list[Any]:
    try:
        return video.decoder.decode(packet)
    except AV_ERRORS as error:
        raise IndexMismatch(reason_of(error)) from error


def _decode_sequentially(
    video: OpenVideo, keep_of: Callable[[int], FrameCollector], *, guess: int
) -> tuple[FrameCollector, DecodeStats]:
    """Decode everything, and once more if there were not as many frames as packets: the rule needs the number."""
    kept = keep_of(guess)
    tally = _decode_all(video, kept)
    if tally.frames not in (0, guess):
        kept = keep_of(tally.frames)
        tally = _decode_all(video, kept)
    if not kept.complete:
        raise VideoDecodingError(video.file.name, tally.why_nothing())
    return kept, tally


def _decode_all(video: OpenVideo, kept: FrameCollector) -> DecodeStats:
    """Decode the stream from its start to its end; packets that fail are skipped and counted."""
    tally = DecodeStats()
    give_up = time.monotonic() + PATIENCE
    for packet in video.packets():
        try:
            frames = video.decoder.decode(packet)
        except AV_ERRORS as error:
            tally.bad_packets += 1
            tally.reason = reason_of(error)
            if tally.frames == 0 and time.monotonic() > give_up:
                break
            continue
        for frame in frames:
            tally.corrupt += frame.is_corrupt
            if frame.pts is not None:
                tally.last = frame.pts if tally.last is None else max(tally.last, frame.pts)
            if tally.frames in kept.positions:
                kept.keep(tally.frames, frame)
            tally.frames += 1
    return tally


def checked_indices(indices: Sequence[int], *, total: int) -> list[int]:
    """Return the rule's indices as a list; raise a ValueError if there are none or one lies outside [0, total)."""
    try:
        indices = [operator.index(index) for index in indices]
    except TypeError as error:
        raise ValueError(f"The index rule must give whole numbers, it gave {indices!r:.80}.") from error
    if not indices or min(indices) < 0 or max(indices) >= total:
        raise ValueError(f"The index rule must give at least one index in [0, {total}); it gave {indices}.")
    return indices


# -- what is said of the frames --------------------------------------------------------------------------------------


def _orientation(frame: Any) -> tuple[int, bool]:
    """Return the degrees to turn a frame counter-clockwise, and whether to mirror it afterwards, to show it upright.

    The display matrix sends column x, row y to (a x + c y, b x + d y); it is rounded to the nearest of the eight ways
    a picture can lie.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside data of a kind that PyAV does not know, such as EXIF, it tells the angle alone
        return round(frame.rotation / 90) * 90 % 360, False
    if matrix is None:
        return 0, False
    (a, b, _), (c, d, _) = np.frombuffer(matrix, dtype=np.int32).reshape(3, 3).tolist()[:2]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (0 if d >= 0 else 180), (a < 0) != (d < 0)
    return (-90 if b > 0 else 90), (b > 0) == (c > 0)


def scaled_size(width: int, height: int, *, short_side: int | None) -> tuple[int, int]:
    """Scale (width, height) so that the short side is `short_side`, down but never up, as torchvision rounds."""
    if short_side is None or short_side >= min(width, height):
        return width, height
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def _frames_cut_off(video: OpenVideo, last: int | None) -> int:
    """Count the frames that the header's duration promises and a Matroska file that is cut off lacks."""
    stream = video.stream
    rate = stream.average_rate or stream.guessed_rate
    if last is None or not rate or not is_cut_off(video):
        return 0
    declared = tagged_seconds(stream)
    if declared is None and len(video.container.streams) == 1 and video.container.duration:
        declared = video.container.duration / av.time_base  # with sound it may be the sound's
    missing = 0.0 if declared is None else declared - float(last * stream.time_base + 1 / rate)
    return int(missing * rate) if missing > END_SLACK else 0


def tagged_seconds(stream: Any) -> float | None:
    """Return the duration that Matroska's tag of a stream says, as hours:minutes:seconds, in seconds; else None."""
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return None if match is None else 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])


def _metadata(video: OpenVideo, kept: FrameCollector, tally: DecodeStats, *, promised: int = 0) -> IlaVideoMetadata:
    stream = video.stream
    rate = stream.average_rate or stream.guessed_rate
    duration = float(tally.frames / rate) if rate else None
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    elif video.container.duration:
        duration = video.container.duration / av.time_base
    lost = max(promised - tally.frames, tally.bad_packets)
    if not video.one_frame_per_packet and tally.bad_packets == 0:
        lost = 0  # fewer frames than packets are no sign of damage there
    lost += _frames_cut_off(video, tally.last)
    if lost:
        logger.warning("%s: damaged, %d of %d frames are lost", video.file.name, lost, tally.frames + lost)
    height, width = kept.array.shape[1:3]
    times = [kept.times[index] for index in kept.indices]
    turned = kept.converter.rotation % 180 != 0
    aspect = float(stream.sample_aspect_ratio or 1)
    return IlaVideoMetadata(
        total_num_frames=tally.frames,
        fps=float(rate) if rate else None,
        width=width,
        height=height,
        duration=duration,
        video_backend="pyav",
        frames_indices=kept.indices,
        timestamps=[None if pts is None else float(pts * stream.time_base) for pts in times],
        rotation=kept.converter.rotation,
        mirrored=kept.converter.mirrored,
        pixel_aspect=1 / aspect if turned else aspect,
        frames_lost=lost,
        frames_corrupt=tally.corrupt,
    )

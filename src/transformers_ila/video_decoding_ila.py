"""One video file to the frames asked for: list the packets, decode what is needed, check it, convert.

Three ways lead to the same frames; the first that the file proves right is taken:

    index       the container lists every packet (MP4, MOV), nothing is read to count the frames
    scan        all packets are read, none is decoded (Matroska, fragmented MP4)
    sequential  everything is decoded and counted: all other files, and those that did not keep what they promised

After index and scan only the groups of pictures that hold wanted frames are decoded. This is right because
- the codec gives one frame per packet, in order of time inside a group, and the packets are complete;
- decoding starts at a packet that refers to nothing before it (an IDR in H.264, any random access point in HEVC), and
  the seek is believed only if that packet lies where the listing says it does;
- the frames that come out carry the times of the packets that went in, each once, none flagged corrupt.
Wherever one of these fails, the file is decoded from its start. In a long video, damage in a group that nobody asked
for is not noticed; who wants every fault counted decodes everything (`check_video`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from .video_container_ila import AV_ERRORS, OpenVideo, VideoDecodingError, VideoFile, av, opened, reason_of
from .video_packets_ila import PacketList, list_by_index, list_by_scan, starts_anew


logger = logging.getLogger(__name__)

IndexRule = Callable[[int], Sequence[int]]

SHORT = 100  # frames: up to here everything is decoded, which costs little and finds every fault
NEAR = 8  # frames: a gap that is decoded through, because a seek costs about as much


@dataclass
class IlaVideoMetadata(VideoMetadata):
    """Transformers' `VideoMetadata` with measured timestamps instead of `index / fps`.

    timestamps: seconds on the container's clock, one per returned frame, None where the file has none.
    rotation, mirrored: what the display matrix asks for, already applied to the frames: turned counter-clockwise by
        `rotation` degrees (0, 90, 180 or -90), then mirrored left to right.
    pixel_aspect: width / height of one pixel of the returned frames, 1.0 for square ones; frames are not stretched.
    frames_lost: packets that gave no frame, as far as they were decoded.
    frames_corrupt: frames that the decoder patched up because their data is damaged.
    """

    timestamps: list[float | None] | None = None  # type: ignore[assignment]
    rotation: int = 0
    mirrored: bool = False
    pixel_aspect: float = 1.0
    frames_lost: int = 0
    frames_corrupt: int = 0


def decode_video(
    file: VideoFile, index_rule: IndexRule, *, short_side: int | None = None
) -> tuple[np.ndarray, IlaVideoMetadata]:
    """Frames (T, H, W, 3) uint8 RGB, upright, at the indices of the rule, and their metadata.

    Raises:
        VideoDecodingError: nothing readable, or a limit met.
        ValueError: an index outside the video.
        ImportError: PyAV is missing.
    """

    def keep_of(total: int) -> KeptFrames:
        return KeptFrames(checked_indices(index_rule(total), total=total), short_side=short_side)

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
                    return kept.array, _metadata(video, kept, Tally(frames=guess))
        kept, tally = _decode_sequentially(video, keep_of, guess=guess)
        return kept.array, _metadata(video, kept, tally, promised=promised)


def count_frames(file: VideoFile) -> IlaVideoMetadata:
    """Decode everything and keep nothing: what the file really holds. Errors as in `decode_video`."""
    with opened(file) as video:
        indexed = list_by_index(video)
        promised = (indexed or list_by_scan(video)).total
        kept = KeptFrames([])
        tally = _decode_all(video, kept)
        if tally.frames == 0:
            raise VideoDecodingError(file.name, tally.reason)
        return _metadata(video, kept, tally, promised=promised)


# -- decoding ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What decoding met: frames that came out, packets that did not decode (and why), frames patched up."""

    frames: int = 0
    bad_packets: int = 0
    corrupt: int = 0
    reason: str = "its video stream holds no frame that decodes"


class KeptFrames:
    """The frames asked for, converted as they come and written to their places in the result."""

    def __init__(self, indices: list[int], *, short_side: int | None = None) -> None:
        self.indices = indices
        self.positions: dict[int, list[int]] = {}
        for position, index in enumerate(indices):
            self.positions.setdefault(index, []).append(position)
        self.short_side = short_side
        self.times: dict[int, float | None] = {}
        self.array: np.ndarray = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.rotation, self.mirrored = 0, False
        self.converter = av.video.reformatter.VideoReformatter()

    @property
    def complete(self) -> bool:
        return len(self.times) == len(self.positions)

    def keep(self, index: int, frame: Any) -> None:
        """Later frames of another size or orientation follow the first one kept."""
        if not self.times:
            self.rotation, self.mirrored = _orientation(frame)
            self.size = scaled_size(frame.width, frame.height, short_side=self.short_side)
        width, height = self.size
        image = self.converter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        image = np.rot90(image, k=self.rotation // 90)
        if not self.times:
            self.array = np.empty((len(self.indices), *image.shape), dtype=np.uint8)
        self.array[self.positions[index]] = image[:, ::-1] if self.mirrored else image
        self.times[index] = frame.time


def _decode_groups(video: OpenVideo, packets: PacketList, kept: KeptFrames) -> bool:
    """Decode only the groups of pictures that hold wanted frames; False if anything came out other than listed."""
    plan: list[tuple[int, list[int]]] = []  # (which start, the frames wanted from there on)
    for index in sorted(kept.positions):
        start = int(np.searchsorted(packets.first, index, side="right")) - 1
        if plan and (start == plan[-1][0] or packets.first[start] - plan[-1][1][-1] <= NEAR):
            plan[-1][1].append(index)
        else:
            plan.append((start, [index]))
    for start, wanted in plan:
        if not _decode_from(video, packets, start, wanted, kept):
            logger.debug("%s: not as listed from packet %d on", video.file.name, packets.first[start])
            return False
    return True


def _decode_from(video: OpenVideo, packets: PacketList, start: int, wanted: list[int], kept: KeptFrames) -> bool:
    """Decode from a start to the last frame wanted of it; False as soon as anything is not as listed."""
    first = int(packets.first[start])
    begin: int | None = None
    went_in: list[int] = []
    came_out: list[int] = []
    for packet in video.seek(int(packets.seek_times[start])):
        if packet is None:
            return False
        if begin is None:
            if packet.pos != packets.offsets[start] or packet.pts is None or not starts_anew(packet, video.decoder):
                return False
            begin = packet.pts
        if packet.size > 0:
            went_in.append(packet.pts)
        try:
            frames = video.decoder.decode(packet)
        except AV_ERRORS:
            return False
        for frame in frames:
            if frame.is_corrupt or frame.pts is None:
                return False
            if frame.pts < begin:  # shown before the start: belongs to the group before
                continue
            index = first + len(came_out)
            came_out.append(frame.pts)
            if index in kept.positions:
                kept.keep(index, frame)
            if index == wanted[-1]:
                listed = sorted(went_in) if packets.times is None else packets.times[first:].tolist()
                return came_out == listed[: len(came_out)]
    return False


def _decode_sequentially(
    video: OpenVideo, keep_of: Callable[[int], KeptFrames], *, guess: int
) -> tuple[KeptFrames, Tally]:
    """Decode everything; once more if there were not as many frames as packets, for the rule needs the true number."""
    kept = keep_of(guess)
    tally = _decode_all(video, kept)
    if tally.frames not in (0, guess):
        kept = keep_of(tally.frames)
        tally = _decode_all(video, kept)
    if not kept.complete:
        raise VideoDecodingError(video.file.name, tally.reason)
    return kept, tally


def _decode_all(video: OpenVideo, kept: KeptFrames) -> Tally:
    """Decode the stream from its start to its end, packets that fail are skipped and counted."""
    tally = Tally()
    for packet in video.packets():
        try:
            frames = video.decoder.decode(packet)
        except AV_ERRORS as error:
            tally.bad_packets += 1
            tally.reason = reason_of(error)
            continue
        for frame in frames:
            tally.corrupt += frame.is_corrupt
            if tally.frames in kept.positions:
                kept.keep(tally.frames, frame)
            tally.frames += 1
    return tally


def checked_indices(indices: Sequence[int], *, total: int) -> list[int]:
    """The rule's indices as a list; ValueError if there are none or one lies outside [0, total)."""
    indices = [int(index) for index in indices]
    if not indices or min(indices) < 0 or max(indices) >= total:
        raise ValueError(f"The index rule must give at least one index in [0, {total}); it gave {indices}.")
    return indices


# -- what is said of the frames --------------------------------------------------------------------------------------


def _orientation(frame: Any) -> tuple[int, bool]:
    """(degrees to turn counter-clockwise, whether to mirror left to right afterwards) to show the frame upright.

    The display matrix sends column x, row y to (a x + c y, b x + d y); it is rounded to the nearest of the eight ways
    a picture can lie.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0, False
    (a, b, _), (c, d, _) = np.frombuffer(matrix, dtype=np.int32).reshape(3, 3).tolist()[:2]
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (0 if d >= 0 else 180), (a < 0) != (d < 0)
    return (-90 if b > 0 else 90), (b > 0) == (c > 0)


def scaled_size(width: int, height: int, *, short_side: int | None) -> tuple[int, int]:
    """(width, height) with the short side scaled down to `short_side`, never up; rounded as torchvision does."""
    if short_side is None or short_side >= min(width, height):
        return width, height
    if width <= height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def _metadata(video: OpenVideo, kept: KeptFrames, tally: Tally, *, promised: int = 0) -> IlaVideoMetadata:
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
    if lost:
        logger.warning("%s: damaged, %d of %d frames are lost", video.file.name, lost, tally.frames + lost)
    height, width = kept.array.shape[1:3] if kept.indices else (video.decoder.height, video.decoder.width)
    turned = kept.rotation % 180 != 0
    aspect = float(stream.sample_aspect_ratio or 1)
    return IlaVideoMetadata(
        total_num_frames=tally.frames,
        fps=float(rate) if rate else None,
        width=width,
        height=height,
        duration=duration,
        video_backend="pyav",
        frames_indices=kept.indices,
        timestamps=[kept.times[index] for index in kept.indices],
        rotation=kept.rotation,
        mirrored=kept.mirrored,
        pixel_aspect=1 / aspect if turned else aspect,
        frames_lost=lost,
        frames_corrupt=tally.corrupt,
    )

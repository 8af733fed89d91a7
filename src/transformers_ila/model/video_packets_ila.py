"""The packets of a video before any is decoded: how many frames there are, and where decoding may start."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from .video_bitstream_ila import NAL_CODECS, mpeg4_frames, vop_kinds
from .video_container_ila import AV_ERRORS, OpenVideo, VideoDecodingError


SEEKABLE_FORMATS = ("mov", "matroska", "avi")  # whose seeks land where they should; each is checked all the same
UNPACKED = (b"I", b"P", b"S")  # packets of one MPEG-4 picture each, none shown out of turn
MAX_REORDER = 16  # frames decoded before one that is shown earlier; the picture buffers hold no more
KEY_BYTES = 4096  # of a key frame, enough to see what it is
MAX_BOXES = 10_000  # of an MP4 file; more are no sample table worth trusting
AVINDEX_KEYFRAME, AVINDEX_DISCARD = 1, 2  # FFmpeg's numbers


class IndexMismatch(Exception):
    """The file did not keep what the listing of its packets promised."""


def _nowhere() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class PacketList:
    """The packets of a stream in the order of the file, before any is decoded.

    total: frames that will be shown. trusted: whether groups of pictures may be decoded on their own.
    Of the K packets where decoding may start: `first` (K,) the index of their frame among all frames, ascending,
    `key_times` (K,) and `offsets` (K,), bytes, where to find them. times: (total,) of all frames, ascending, or None.
    """

    total: int
    trusted: bool
    first: np.ndarray = field(default_factory=_nowhere)
    key_times: np.ndarray = field(default_factory=_nowhere)
    offsets: np.ndarray = field(default_factory=_nowhere)
    times: np.ndarray | None = None

    @property
    def last_time(self) -> int | None:
        return None if self.times is None else int(self.times[-1])


def list_by_index(video: OpenVideo) -> PacketList | None:
    """The sample table of an MP4 or MOV file; None where it is missing, incomplete, or leaves samples out."""
    entries = video.stream.index_entries
    if video.format != "mov" or len(entries) != video.stream.frames:
        return None
    video.file.check_count(len(entries))
    file_size, fragmented = _size_and_fragments(video)
    table = np.array([(e.flags, e.timestamp, e.pos, e.size) for e in entries], dtype=np.int64).reshape(-1, 4)
    flags, timestamps, offsets, sizes = table.T
    if fragmented or len(table) == 0 or np.any(flags & AVINDEX_DISCARD):
        return None
    keys = np.flatnonzero(flags & AVINDEX_KEYFRAME)
    plain = video.one_frame_per_packet and _keys_are_plain(video, offsets[keys], sizes[keys])
    complete = np.all(sizes > 0) and np.all(offsets + sizes <= file_size)
    return PacketList(
        total=len(table),
        trusted=bool(complete and plain and len(keys) > 0 and keys[0] == 0),
        first=keys,
        key_times=timestamps[keys],
        offsets=offsets[keys],
    )


def _keys_are_plain(video: OpenVideo, offsets: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether the first key frame starts anew, and none changes what the header says of the stream."""
    if video.codec not in NAL_CODECS:
        return True
    with _aside(video.file.file) as file:
        for count, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist())):
            file.seek(offset)
            picture = video.picture_in(file.read(min(size, KEY_BYTES)))
            if not picture.steady or (count == 0 and not picture.anew):
                return False
    return True


def list_by_scan(video: OpenVideo) -> PacketList:
    """What a pass over all packets tells; trusted only where their times prove which frame is which."""
    mpeg4 = video.codec == "mpeg4"
    times: list[Any] = []
    keys: list[int] = []
    offsets: list[Any] = []
    kinds: list[bytes] = []
    doubtful = video.format not in SEEKABLE_FORMATS or not (mpeg4 or video.one_frame_per_packet)
    for packet in video.packets():
        if packet is None or packet.size == 0 or packet.is_discard:
            doubtful |= packet is None or packet.size > 0
            continue
        if mpeg4:
            kinds.append(vop_kinds(packet))
        if not doubtful:
            picture = video.picture_in(packet)
            doubtful = picture.pictures != 1 or not picture.steady
            if packet.is_keyframe and picture.anew:
                keys.append(len(times))
                offsets.append(packet.pos)
        doubtful |= packet.is_corrupt
        times.append(packet.pts)
    if not times:
        raise VideoDecodingError(video.file.name, "its video stream is empty")
    total = mpeg4_frames(kinds) or len(times)
    if doubtful or None in times or None in offsets or any(kind not in UNPACKED for kind in kinds):
        return PacketList(total=total, trusted=False)
    displayed = np.array(times, dtype=np.int64)
    ordered = np.unique(displayed)
    unique = len(ordered) == len(times)
    reordered = bool(np.any(displayed[1:] < displayed[:-1]))
    # What was decoded before a start must be shown before it: then all frames from it on come out of its own packets.
    before = np.maximum.accumulate(np.concatenate([[np.iinfo(np.int64).min], displayed]))[keys]
    starts = displayed[keys]
    closed = len(keys) > 0 and bool(starts[0] == ordered[0] and np.all(before < starts))
    return PacketList(
        total=total,
        trusted=unique and closed and reordered >= video.decoder.has_b_frames,
        first=np.searchsorted(ordered, starts),
        key_times=starts,
        offsets=np.array(offsets, dtype=np.int64),
        times=ordered,
    )


def packets_from(video: OpenVideo, packets: PacketList, start: int) -> Iterator[Any]:
    """The packets from a start on."""
    # An index is in decoding time, seeks go by display time: the first packet tells how far the two are apart.
    delay = video.first_delay if packets.times is None else 0
    try:
        yield from video.seek(int(packets.key_times[start]) + delay)
    except AV_ERRORS as error:
        raise IndexMismatch(f"the seek failed: {error}") from error


def group_times(video: OpenVideo, packets: PacketList, start: int, last: int) -> list[int]:
    """Times of the frames from a start on, ascending, at least up to the frame of index `last`."""
    first = int(packets.first[start])
    if packets.times is not None:
        return packets.times[first : last + 1].tolist()
    count = last - first + 1 + MAX_REORDER
    group = itertools.islice(packets_from(video, packets, start), count)
    times = [packet.pts for packet in group if packet is not None and packet.size > 0]
    if None in times:
        raise IndexMismatch("a packet has no time")
    ordered = sorted(set(times))
    if len(ordered) <= last - first or len(ordered) < len(times) or ordered[0] != times[0]:
        raise IndexMismatch("times are missing, repeated, or before that of the key frame")
    if video.decoder.has_b_frames and ordered == times and len(times) > 1:
        raise IndexMismatch("the decoder shows frames in another order, and the times do not say in which")
    return ordered


def needed_packets(video: OpenVideo, packets: PacketList, start: int, wanted: set[int]) -> Iterator[Any]:
    """What must be decoded from a start on to get the frames at the wanted times; an empty packet ends it."""
    missing = set(wanted)
    for count, packet in enumerate(packets_from(video, packets, start)):
        if packet is None or packet.size == 0:
            break
        picture = video.picture_in(packet)
        if count == 0 and (packet.pos != packets.offsets[start] or not picture.anew):
            raise IndexMismatch("the seek came out elsewhere, or at a frame that refers to earlier ones")
        if packet.pts is None or picture.pictures != 1 or not picture.steady:
            raise IndexMismatch("a packet has no time, not one picture, or new parameters")
        if picture.disposable and packet.pts not in missing:
            continue
        yield packet
        missing.discard(packet.pts)
        if not missing:
            yield None  # the decoder's spelling of an empty packet
            return
    raise IndexMismatch("the stream ended before the frames wanted")


def _size_and_fragments(video: OpenVideo) -> tuple[int, bool]:
    """An MP4 file's bytes, and whether it goes on in fragments that its sample table does not list."""
    with _aside(video.file.file) as boxes:
        size = boxes.seek(0, os.SEEK_END)
        position = 0
        for _ in range(MAX_BOXES):
            if position >= size:
                return size, False
            boxes.seek(position)
            header = boxes.read(16)
            if header[4:8] == b"moof":
                return size, True
            length = int.from_bytes(header[8:16] if header[:4] == b"\0\0\0\1" else header[:4], "big")
            if length < 8:  # 0: up to the end of the file
                return size, False
            position += length
        return size, True


def is_cut_off(video: OpenVideo) -> bool:
    """Whether a Matroska file ends before the end that its header declares."""
    if video.format != "matroska":
        return False
    with _aside(video.file.file) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(256)
        position = 0
        for identifier in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML header, segment
            if head[position : position + 4] != identifier or position + 12 > len(head):
                return False
            width = 9 - head[position + 4].bit_length()  # of the length that follows, itself included
            length = int.from_bytes(head[position + 4 : position + 4 + width], "big") & (1 << 7 * width) - 1
            if width > 8 or length == (1 << 7 * width) - 1:  # unknown: a live recording
                return False
            position += 4 + width + length
    return position > size


@contextmanager
def _aside(file: str | BinaryIO) -> Iterator[BinaryIO]:
    """The file for a look elsewhere in it; a file object is put back to where the demuxer left it."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            yield opened
        return
    place = file.tell()
    try:
        yield file
    finally:
        file.seek(place)

"""The packets of a video before any is decoded: how many frames there are, and where decoding may start.

A file's own index answers where it can be trusted, else a pass over all packets. What a packet's bytes say of its
picture decides: whether it can stand alone, whether others need it, and whether it is one picture.
"""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from .video_container_ila import AV_ERRORS, OpenVideo, VideoDecodingError


SEEKABLE_FORMATS = ("mov", "matroska", "avi")  # whose seeks land where they should; each is checked all the same
UNPACKED = (b"I", b"P", b"S")  # packets of one MPEG-4 picture each, none shown out of turn
MAX_REORDER = 16  # frames decoded before one that is shown earlier; the picture buffers hold no more
KEY_BYTES = 4096  # of a key frame, enough to see what it is
MAX_BOXES = 10_000  # of an MP4 file; more are no sample table worth trusting
AVINDEX_KEYFRAME, AVINDEX_DISCARD = 1, 2  # FFmpeg's numbers

NAL_CODECS = ("h264", "hevc")  # codecs made of NAL units
PARAMETER_SETS = {"h264": (7, 8, 13, 15), "hevc": (32, 33, 34)}
SEQUENCE_ENDS = {"h264": (10, 11), "hevc": (36, 37)}
BROKEN_LINKS = (16, 17, 18)  # HEVC pictures after which leading ones are dropped
SMALL_VOP = 16  # bytes: a shorter packet says that the last MPEG-4 picture stays, or is a tiny one (costs only speed)


class IndexMismatch(Exception):
    """Report that a file did not keep what the listing of its packets promised."""


def _nowhere() -> np.ndarray:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class PacketList:
    """Hold the packets of a stream in the order of the file, as they are listed before any is decoded.

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
        """Return the time of the last frame in the stream's time base; None where the times are not known."""
        return None if self.times is None else int(self.times[-1])


def list_by_index(video: OpenVideo) -> PacketList | None:
    """Read the sample table of an MP4 or MOV file; return None where it is missing or not complete."""
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
    """Return whether the first key frame starts anew, and no key frame changes what the header says of the stream."""
    if video.codec not in NAL_CODECS:
        return True
    with _aside(video.file.file) as file:
        for count, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist())):
            file.seek(offset)
            picture = picture_in(video, file.read(min(size, KEY_BYTES)))
            if not picture.steady or (count == 0 and not picture.anew):
                return False
    return True


def list_by_scan(video: OpenVideo) -> PacketList:
    """List the packets by a pass over all; the list is trusted only where times prove which frame is which."""
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
            picture = picture_in(video, packet)
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
    """Yield the packets from a start on."""
    # An index is in decoding time, seeks go by display time: the first packet tells how far the two are apart.
    delay = video.first_delay if packets.times is None else 0
    try:
        yield from video.seek(int(packets.key_times[start]) + delay)
    except AV_ERRORS as error:
        raise IndexMismatch(f"the seek failed: {error}") from error


def group_times(video: OpenVideo, packets: PacketList, start: int, last: int) -> list[int]:
    """Return the times of the frames from a start on, ascending, at least up to the frame of index `last`."""
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
    """Yield what must be decoded from a start on to get the frames at the wanted times; an empty packet ends it."""
    missing = set(wanted)
    for count, packet in enumerate(packets_from(video, packets, start)):
        if packet is None or packet.size == 0:
            break
        picture = picture_in(video, packet)
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
    """Return an MP4 file's bytes, and whether it goes on in fragments that its sample table does not list."""
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
    """Return whether a Matroska file ends before the end that its header declares."""
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
    """Hand out the file for a look elsewhere in it; afterwards a file object stands where the demuxer left it."""
    if isinstance(file, str):
        with open(file, "rb") as opened:
            yield opened
        return
    place = file.tell()
    try:
        yield file
    finally:
        file.seek(place)


# -- what the bytes say ----------------------------------------------------------------------------------------------


class Picture(NamedTuple):
    """Hold what a packet's bytes tell about its picture.

    pictures: coded pictures in the packet.
    anew: the picture refers to nothing before it.
    disposable: nothing refers to it.
    steady: it brings no parameter sets beyond those of the header, and breaks no link to what comes before.
    """

    pictures: int = 1
    anew: bool = True
    disposable: bool = False
    steady: bool = True


def parse_picture(data: Any, *, codec: str, nal_length: int, header: bytes) -> Picture:
    """Read what the bytes of a packet, or the first of them, say about its picture.

    Args:
        data: the bytes.
        codec: FFmpeg's name of the codec.
        nal_length: bytes of the length before each NAL unit, 0 for start codes.
        header: the codec's extradata.
    """
    if codec == "mpeg4":
        return Picture(pictures=len(vop_kinds(data)), anew=vop_kinds(data)[:1] == b"I")
    if codec not in NAL_CODECS:
        return Picture()
    count, anew, disposable, steady = 0, False, False, True
    for unit in _nal_units(memoryview(data), nal_length):
        kind = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
        if kind in PARAMETER_SETS[codec]:
            steady &= bytes(unit).rstrip(b"\0") in header
        elif kind in SEQUENCE_ENDS[codec]:
            steady = False
        elif 1 <= kind <= 5 if codec == "h264" else kind < 32:
            begins = unit[1:2] if codec == "h264" else unit[2:3]  # its first bit: the picture's first slice
            if begins and begins[0] & 0x80:
                count += 1
            if codec == "h264":
                anew, disposable = kind == 5, unit[0] & 0x60 == 0  # IDR; nal_ref_idc 0
            else:
                anew = 16 <= kind <= 21  # any random access point
                steady &= kind not in BROKEN_LINKS
    return Picture(count, anew, disposable, steady)


def picture_in(video: OpenVideo, packet: Any) -> Picture:
    """Read what a packet of an open video, or its first bytes, say about its picture."""
    header, place = video.decoder.extradata or b"", 21 if video.codec == "hevc" else 4
    length = (header[place] & 3) + 1 if header[:1] == b"\1" and len(header) > place else 0
    return parse_picture(packet, codec=video.codec, nal_length=length, header=header)


def _nal_units(data: memoryview, length: int) -> Iterator[memoryview]:
    """Yield every NAL unit that is not empty; a length (MP4, Matroska) or a start code stands before each."""
    if length == 0:
        starts = [match.end() for match in re.finditer(rb"\x00\x00\x01", data)]
        for start, end in zip(starts, [*(start - 3 for start in starts[1:]), len(data)]):
            if start < end:
                yield data[start:end]
        return
    position = 0
    while position + length < len(data):
        start = position + length
        position = start + int.from_bytes(data[position:start], "big")
        if position > start:
            yield data[start:position]


def vop_kinds(data: Any) -> bytes:
    """Return the kinds of the MPEG-4 pictures in a packet: I, P, B, S, or N where it only says that the last stays."""
    data = memoryview(data)
    if len(data) < SMALL_VOP:
        return b"N" if b"\x00\x00\x01\xb6" in bytes(data) else b""
    return bytes(b"IPBS"[match[1][0] >> 6] for match in re.finditer(rb"\x00\x00\x01\xb6(.)", data, re.DOTALL))


def mpeg4_frames(kinds: list[bytes]) -> int:
    """Count the frames that come out: some AVI files pack a P and a B into one packet, and an N follows for the B."""
    packed = any(len(kind) > 1 for kind in kinds)
    return sum(kind not in (b"", b"" if packed else b"N") for kind in kinds)

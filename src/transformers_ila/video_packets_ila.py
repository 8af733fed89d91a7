"""The packets of a video before any is decoded: how many frames there are, and where decoding may start."""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from .video_container_ila import OpenVideo, VideoDecodingError


SEEKABLE_FORMATS = ("mov", "matroska", "avi")  # whose seeks land where they should; each is checked all the same
UNPACKED = (b"I", b"P", b"S")  # packets of one MPEG-4 picture each, none shown out of turn
SMALLEST_VOP = 16  # bytes: any coded MPEG-4 picture has more, one that is not coded has fewer
NAL_CODECS = ("h264", "hevc")
MAX_REORDER = (
    16  # frames that may be decoded before one that is shown earlier: the largest picture buffer of both codecs
)
AVINDEX_KEYFRAME, AVINDEX_DISCARD = 1, 2  # FFmpeg's numbers


class NotAsListed(Exception):
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


def list_by_index(video: OpenVideo) -> PacketList | None:
    """The sample table of an MP4 or MOV file; None where it is missing, incomplete, or leaves samples out."""
    entries = video.stream.index_entries
    if video.format != "mov" or len(entries) != video.stream.frames:
        return None
    video.file.check_count(len(entries))
    file_size, fragmented = _size_and_fragments(video.file.file)
    table = np.array([(e.flags, e.timestamp, e.pos, e.size) for e in entries], dtype=np.int64).reshape(-1, 4)
    flags, timestamps, offsets, sizes = table.T
    if fragmented or len(table) == 0 or np.any(flags & AVINDEX_DISCARD):
        return None
    keys = np.flatnonzero(flags & AVINDEX_KEYFRAME)
    complete = np.all(sizes > 0) and np.all(offsets + sizes <= file_size)
    return PacketList(
        total=len(table),
        trusted=bool(complete and video.one_frame_per_packet and len(keys) > 0 and keys[0] == 0),
        first=keys,
        key_times=timestamps[keys],
        offsets=offsets[keys],
    )


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
        if not doubtful and packet.is_keyframe and starts_anew(packet, video):
            keys.append(len(times))
            offsets.append(packet.pos)
        doubtful |= packet.is_corrupt
        times.append(packet.pts)
        if mpeg4:
            kinds.append(_vop_kinds(packet))
    if not times:
        raise VideoDecodingError(video.file.name, "its video stream is empty")
    total = _mpeg4_frames(kinds) or len(times)
    if doubtful or None in times or None in offsets or any(kind not in UNPACKED for kind in kinds):
        return PacketList(total=total, trusted=False)
    displayed = np.array(times, dtype=np.int64)
    ordered = np.unique(displayed)
    unique = len(ordered) == len(times)
    # What was decoded before a start must be shown before it: then all frames from it on come out of its own packets.
    before = np.maximum.accumulate(np.concatenate([[np.iinfo(np.int64).min], displayed]))[keys]
    starts = displayed[keys]
    return PacketList(
        total=total,
        trusted=unique and len(keys) > 0 and bool(starts[0] == ordered[0] and np.all(before < starts)),
        first=np.searchsorted(ordered, starts),
        key_times=starts,
        offsets=np.array(offsets, dtype=np.int64),
        times=ordered,
    )


def packets_from(video: OpenVideo, packets: PacketList, start: int) -> Iterator[Any]:
    """The packets from a start on."""
    # An index is in decoding time, seeks go by display time: the first packet tells how far the two are apart.
    delay = video.first_delay if packets.times is None else 0
    return video.seek(int(packets.key_times[start]) + delay)


def group_times(video: OpenVideo, packets: PacketList, start: int, last: int) -> list[int]:
    """Times of the frames from a start on, ascending, at least up to the frame of index `last`."""
    first = int(packets.first[start])
    if packets.times is not None:
        return packets.times[first : last + 1].tolist()
    count = last - first + 1 + MAX_REORDER
    times = [packet.pts for packet in itertools.islice(packets_from(video, packets, start), count)]
    ordered = sorted({time for time in times if time is not None})
    if len(ordered) <= last - first or ordered[0] != times[0] or len(ordered) < len(times) - times.count(None):
        raise NotAsListed("times are missing, repeated, or before that of the key frame")
    return ordered


def needed_packets(video: OpenVideo, packets: PacketList, start: int, wanted: set[int]) -> Iterator[Any]:
    """What must be decoded from a start on to get the frames at the wanted times; an empty packet ends it."""
    missing = set(wanted)
    for count, packet in enumerate(packets_from(video, packets, start)):
        if packet is None or packet.size == 0:
            break
        if count == 0 and (packet.pos != packets.offsets[start] or not starts_anew(packet, video)):
            raise NotAsListed("the seek came out elsewhere, or at a frame that refers to earlier ones")
        if packet.pts is None:
            raise NotAsListed("a packet has no time")
        if packet.pts not in missing and _is_disposable(packet, video):
            continue
        yield packet
        missing.discard(packet.pts)
        if not missing:
            yield None  # the decoder's spelling of an empty packet
            return
    raise NotAsListed("the stream ended before the frames wanted")


def starts_anew(packet: Any, video: OpenVideo) -> bool:
    """Whether a key packet refers to nothing before it; containers also mark weaker entry points in H.264 and HEVC.

    The first slice tells: an IDR picture in H.264, any random access point in HEVC, an I picture in MPEG-4.
    """
    if video.codec == "mpeg4":
        return _vop_kinds(packet)[:1] == b"I"
    if video.codec not in NAL_CODECS:
        return True
    header = _slice_header(packet, video)
    if header is None:
        return False
    return header & 31 == 5 if video.codec == "h264" else 16 <= header >> 1 & 63 <= 21


def _is_disposable(packet: Any, video: OpenVideo) -> bool:
    """Whether no other frame refers to this one: H.264 says so in its slices (nal_ref_idc 0)."""
    return video.codec == "h264" and (_slice_header(packet, video) or 255) & 0x60 == 0


def _vop_kinds(packet: Any) -> bytes:
    """The kinds of the MPEG-4 pictures in a packet: I, P, B, S, or N for one that only says that the last stays."""
    if packet.size < SMALLEST_VOP:
        return b"N" if b"\x00\x00\x01\xb6" in bytes(packet) else b""
    return bytes(b"IPBS"[match[1][0] >> 6] for match in re.finditer(rb"\x00\x00\x01\xb6(.)", packet, re.DOTALL))


def _mpeg4_frames(kinds: list[bytes]) -> int:
    """How many frames come out: some AVI files pack a P and a B into one packet, and an N follows for the B."""
    packed = any(len(kind) > 1 for kind in kinds)
    return sum(kind not in (b"", b"" if packed else b"N") for kind in kinds)


def _slice_header(packet: Any, video: OpenVideo) -> int | None:
    """The first byte of a packet's first slice."""
    for header in _nal_headers(memoryview(packet), video.nal_length):
        if 1 <= header & 31 <= 5 if video.codec == "h264" else header >> 1 & 63 < 32:
            return header
    return None


def _nal_headers(data: memoryview, length: int) -> Iterator[int]:
    """The first byte of every NAL unit; units stand behind their length (MP4, Matroska) or behind start codes (0)."""
    if length == 0:
        yield from (data[match.end()] for match in re.finditer(rb"\x00\x00\x01(?=.)", data, re.DOTALL))
        return
    position = 0
    while position + length < len(data):
        yield data[position + length]
        position += length + int.from_bytes(data[position : position + length], "big")


def _size_and_fragments(file: str | BinaryIO) -> tuple[int, bool]:
    """An MP4 file's bytes, and whether it goes on in fragments that its sample table does not list."""
    with _aside(file) as boxes:
        size = boxes.seek(0, os.SEEK_END)
        position = 0
        while position < size:
            boxes.seek(position)
            header = boxes.read(16)
            if header[4:8] == b"moof":
                return size, True
            length = int.from_bytes(header[8:16] if header[:4] == b"\0\0\0\1" else header[:4], "big")
            if length < 8:  # 0: up to the end of the file
                break
            position += length
        return size, False


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

"""What a packet's bytes say about its picture, undecoded: can it stand alone, do others need it, is it one picture."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple


NAL_CODECS = ("h264", "hevc")  # codecs made of NAL units
PARAMETER_SETS = {"h264": (7, 8, 13, 15), "hevc": (32, 33, 34)}
SEQUENCE_ENDS = {"h264": (10, 11), "hevc": (36, 37)}
BROKEN_LINKS = (16, 17, 18)  # HEVC pictures after which leading ones are dropped
SMALL_VOP = (
    16  # bytes: a packet below says that the last MPEG-4 picture stays, or is a tiny one, which costs only speed
)


class Picture(NamedTuple):
    """pictures: coded pictures in the packet. anew: refers to nothing before it. disposable: nothing refers to it.
    steady: brings no parameter sets beyond those of the header, and breaks no link to what comes before.
    """

    pictures: int = 1
    anew: bool = True
    disposable: bool = False
    steady: bool = True


def picture_in(data: Any, *, codec: str, nal_length: int, header: bytes) -> Picture:
    """The picture in a packet's bytes, or in the first of them.

    nal_length: bytes of the length before each NAL unit, 0 for start codes. header: the codec's extradata.
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


def _nal_units(data: memoryview, length: int) -> Iterator[memoryview]:
    """Every NAL unit that is not empty, behind its length (MP4, Matroska) or behind a start code."""
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
    """The kinds of the MPEG-4 pictures in a packet: I, P, B, S, or N for one that only says that the last stays."""
    data = memoryview(data)
    if len(data) < SMALL_VOP:
        return b"N" if b"\x00\x00\x01\xb6" in bytes(data) else b""
    return bytes(b"IPBS"[match[1][0] >> 6] for match in re.finditer(rb"\x00\x00\x01\xb6(.)", data, re.DOTALL))


def mpeg4_frames(kinds: list[bytes]) -> int:
    """How many frames come out: some AVI files pack a P and a B into one packet, and an N follows for the B."""
    packed = any(len(kind) > 1 for kind in kinds)
    return sum(kind not in (b"", b"" if packed else b"N") for kind in kinds)

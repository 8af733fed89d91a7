"""What a source of frames is: something read from its start, or something that arrives and is read as it comes."""

import io
import os
import select
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..model.video_container_ila import ReadLimits, VideoDecodingError, VideoFile
from ..model.video_reading_ila import SeekableFile, as_file, why_no_path
from ..model.video_urls_ila import is_url, open_url, redact
from ..stores.addresses import is_address, plain_place
from ..stores.reading import open_file


STANDARD_INPUT = "-"
CAMERA = "v4l2"  # FFmpeg's name of Linux' cameras
ARRIVING = {"fpsprobesize": "0"}  # FFmpeg else waits for a second of frames to guess their rate, which nobody asks for
ONCE_MORE = 0.1  # seconds after which a wait looks whether it is still wanted
TS_PACKETS = (188, 204)  # bytes of a packet of an MPEG transport stream: as it is, with parity behind it
TS_SYNC = b"\x47"  # its first byte
MATROSKA = b"\x1a\x45\xdf\xa3"  # its first bytes
MATROSKA_CLUSTER = b"\x1f\x43\xb6\x75"
MATROSKA_PARENTS = (b"\x18\x53\x80\x67", MATROSKA_CLUSTER)  # segment and cluster, of whose elements it is made
MATROSKA_ELEMENTS = frozenset(  # identifiers of those elements, and of what stands beside a segment
    bytes.fromhex(name)
    for name in "1a45dfa3 18538067 114d9b74 1549a966 1654ae6b 1f43b675 1c53bb6b 1941a469 1043a770 1254c367 ec bf "
    "e7 5854 a7 ab a3 a0 af".split()
)
BUFFERED = 2**16  # bytes that a file object may have read ahead

Source = Any  # str, Path, bytes, a binary file object, or a dict with "path" or "bytes"


class MatroskaEnd:
    """Follow the elements of a Matroska stream, in order to tell at its end whether it broke off inside one.

    Where damaged bytes lead to what is no element, nothing is known until the next cluster.
    """

    def __init__(self) -> None:
        self.head = b""  # the first bytes of an element whose size is not known yet
        self.rest = 0  # bytes to the end of an element
        self.lost = False  # looking for the next cluster

    def feed(self, piece: bytes) -> None:
        """Follow the container's elements through the next bytes that arrived."""
        place = 0
        while place < len(piece):
            if self.lost:
                piece, place = self.head + piece[place:], 0
                found = piece.find(MATROSKA_CLUSTER)
                if found < 0:
                    self.head = piece[1 - len(MATROSKA_CLUSTER) :]
                    return
                self.lost, self.head, place = False, b"", found
            if self.rest:
                step = min(self.rest, len(piece) - place)
                self.rest -= step
                place += step
                continue
            self.head += piece[place : place + 1]
            place += 1
            name = 9 - self.head[0].bit_length()  # bytes of the element's identifier, then of its size
            if name > 4 or (len(self.head) == name and self.head not in MATROSKA_ELEMENTS):
                self.lost = True
            elif len(self.head) > name:
                width = 9 - self.head[name].bit_length()
                if len(self.head) >= name + width:
                    size = int.from_bytes(self.head[name : name + width], "big") & (1 << 7 * width) - 1
                    unknown = size == (1 << 7 * width) - 1
                    self.rest = 0 if unknown or self.head[:name] in MATROSKA_PARENTS else size
                    self.head = b""

    @property
    def inside(self) -> bool:
        """Return whether the last byte was not the last one of its element."""
        return not self.lost and bool(self.rest or self.head)


class ArrivingBytes:
    """Read bytes as they arrive, for the demuxer; it cannot seek, and is over when `stopped` is set.

    received: bytes so far. failure: the error that broke it off, None if nothing did.
    """

    def __init__(self, file: Any, stopped: threading.Event, *, already: bytes = b"") -> None:
        self.file, self.stopped, self.already = file, stopped, already
        self.received = 0
        self.tail = b""  # the last bytes, as many as a packet has at most
        self.matroska: MatroskaEnd | None = None
        self.failure: OSError | None = None
        self.descriptor: int | None = file if isinstance(file, int) else None
        if isinstance(getattr(file, "raw", file), io.FileIO) and hasattr(select, "poll"):
            # A read of the file object could neither be ended nor, at the end of the program, be left behind.
            self.descriptor = file.fileno()
            self.already = _read_ahead(file)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes as soon as there are any, none at the end."""
        if self.already:
            piece, self.already = self.already[:size], self.already[size:]
        elif self.failure is not None:
            return b""
        else:
            try:
                piece = self._wait_and_read(size)
                rest = getattr(self.file, "length", None)  # of a server's answer, as it announced
                if not piece and rest and not self.stopped.is_set():
                    raise OSError(f"{rest} bytes are missing that were announced")
            except OSError as error:
                self.failure, piece = error, b""
            except (HTTPException, ValueError) as error:  # an answer that breaks off; a file object that was closed
                self.failure, piece = OSError(redact(str(error)) or type(error).__name__), b""
        if self.received == 0 and piece.startswith(MATROSKA):
            self.matroska = MatroskaEnd()
        if self.matroska is not None:
            self.matroska.feed(piece)
        self.received += len(piece)
        self.tail = (self.tail + piece[-TS_PACKETS[-1] :])[-TS_PACKETS[-1] :]
        return piece

    def ends_inside(self, format: str) -> bool:
        """Return whether what came, of a container format, ends inside something that was to go on."""
        if self.matroska is not None:
            return self.matroska.inside
        whole = any(self.tail[-size:].startswith(TS_SYNC) for size in TS_PACKETS if len(self.tail) >= size)
        return format == "mpegts" and not whole

    def _wait_and_read(self, size: int) -> bytes:
        if self.descriptor is None:
            read = getattr(self.file, "read1", self.file.read)
            while not self.stopped.is_set():
                piece = read(size)
                if piece is not None:  # None: nothing there yet
                    return piece
                self.stopped.wait(ONCE_MORE)
            return b""
        events = select.poll()
        events.register(self.descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
        while not self.stopped.is_set():
            if events.poll(1000 * ONCE_MORE):
                try:
                    return os.read(self.descriptor, size)
                except BlockingIOError:
                    continue
        return b""


def _read_ahead(file: Any) -> bytes:
    """Return what a file object has read ahead of who reads its descriptor; it may be more, and waits for nothing."""
    if not isinstance(file, io.BufferedReader):
        return b""
    blocking = os.get_blocking(file.fileno())
    os.set_blocking(file.fileno(), False)
    try:
        return file.read1(BUFFERED) or b""
    finally:
        os.set_blocking(file.fileno(), blocking)


# -- what a source is ------------------------------------------------------------------------------------------------


def name_of(source: Source) -> str:
    """Return how a source is called in messages, without secrets."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"({len(source)} bytes in memory)"
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return repr(redact(os.fsdecode(name))) if isinstance(name, (str, bytes)) else "(file object)"
    return "standard input" if source == STANDARD_INPUT else repr(redact(os.fsdecode(source)))


def plain_source(source: Source) -> Source:
    """Return what a source stands for: a path of text, an address, bytes, a file object, or "-".

    Raises:
        ValueError: a source of another kind.
    """
    if isinstance(source, dict):
        found = next((source[key] for key in ("bytes", "path") if source.get(key) is not None), None)
        if found is None:
            keys = sorted(map(str, source))
            raise ValueError(f"A video given as a dict needs 'path' or 'bytes'; got the keys {keys}.")
        return plain_source(found)
    if isinstance(source, os.PathLike):
        return os.path.abspath(os.fsdecode(source))  # Path("-") is a file
    if isinstance(source, str):
        return plain_place(source) if is_address(source) else source
    if isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read"):
        return source
    raise ValueError(
        f"Cannot read frames from {type(source).__name__} {redact(repr(source)):.80}: give a path, an http(s) URL, an "
        "address of a store, bytes, a binary file object, '-' for standard input, a camera such as /dev/video0, or a "
        "folder of pictures."
    )


def is_camera(source: Source, format: str | None) -> bool:
    """Return whether a source is a camera: a device, or what the format says is one."""
    if not isinstance(source, str) or source == STANDARD_INPUT or is_address(source):
        return False
    if format == CAMERA or source.startswith("/dev/video"):
        return True
    return _is(source, stat.S_ISCHR) and not _is_a_descriptor(source)


def arrives(source: Source) -> bool:
    """Return whether a source cannot be read again from its start: a pipe, or a file object that cannot seek."""
    if source == STANDARD_INPUT:
        return not _can_seek(sys.stdin.buffer)
    if isinstance(source, str):
        return not is_address(source) and (_is(source, stat.S_ISFIFO) or _is_a_descriptor(source))
    return hasattr(source, "read") and not _can_seek(source)


def _is_a_descriptor(path: str) -> bool:
    """Return whether a path names a stream of this program that is no file, such as /dev/stdin."""
    named = path == "/dev/stdin" or path.startswith(("/dev/fd/", "/proc/self/fd/"))
    return named and not _is(path, stat.S_ISREG)


def _is(path: str, kind: Any) -> bool:
    try:
        return kind(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _can_seek(file: Any) -> bool:
    """Return whether a file object can go back; raise a ValueError if it gives text, or is closed."""
    name = name_of(file)
    if getattr(file, "closed", False):
        raise VideoDecodingError(name, "the file object is closed")
    if isinstance(file, io.TextIOBase):
        raise ValueError(f"A file object must be opened in binary mode; {name} gives text.")
    try:
        return bool(file.seekable()) if hasattr(file, "seekable") else hasattr(file, "seek")
    except Exception:  # of whatever the object is made of
        return False


# -- opening ---------------------------------------------------------------------------------------------------------


@contextmanager
def open_input(
    source: Source, *, live: bool, format: str | None, limits: ReadLimits, stopped: threading.Event
) -> Iterator[VideoFile]:
    """Open a source as what `OpenVideo` opens: a path, a file object, or `ArrivingBytes`.

    Raises:
        VideoDecodingError: there is nothing, or a limit is met.
    """

    def video_file(file: Any, **how: Any) -> VideoFile:
        deadline = time.monotonic() + limits.max_seconds
        return VideoFile(file=file, name=name_of(source), limits=limits, deadline=deadline, **how)

    with ExitStack() as stack:
        if is_camera(source, format):
            kind = format or CAMERA
            if not os.path.exists(source):
                there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
                raise VideoDecodingError(name_of(source), f"no such device; cameras here: {there}")
            options = {"format_whitelist": kind, **ARRIVING}
            yield video_file(os.path.abspath(source), format=kind, options=options)
        elif live and is_url(source):
            place = video_file(None)
            try:
                response = stack.enter_context(open_url(source, place))
            except (OSError, HTTPException, ValueError) as error:
                secret = isinstance(error, ValueError) and redact(source) != source  # it may repeat the password
                raise VideoDecodingError(place.name, "it is no valid URL" if secret else error) from None
            yield video_file(ArrivingBytes(response, stopped), format=format, options=ARRIVING)
        elif arrives(source):
            file = source
            if isinstance(source, str):
                file = sys.stdin.buffer if source == STANDARD_INPUT else os.open(source, os.O_RDONLY | os.O_NONBLOCK)
                if isinstance(file, int):
                    stack.callback(os.close, file)
            if not isinstance(file, int) and getattr(file, "isatty", bool)():
                raise VideoDecodingError(name_of(source), "it is a terminal; send it a video through a pipe")
            yield video_file(ArrivingBytes(file, stopped), format=format, options=ARRIVING)
        else:
            yield stack.enter_context(_open_file(source, format=format, limits=limits))


@contextmanager
def _open_file(source: Source, *, format: str | None, limits: ReadLimits) -> Iterator[VideoFile]:
    with ExitStack() as stack:
        place = sys.stdin.buffer if source == STANDARD_INPUT else source
        if is_address(source) and not is_url(source):
            try:
                place = stack.enter_context(open_file(source))
            except (OSError, ImportError, ValueError) as error:
                raise VideoDecodingError(name_of(source), error) from None
        elif isinstance(place, str) and not is_url(place) and not os.path.exists(place):
            raise VideoDecodingError(name_of(source), why_no_path(place))
        file = stack.enter_context(as_file(place, limits))
        changed = {"name": name_of(source), "format": format}
        yield VideoFile(file=file.file, limits=limits, deadline=file.deadline, **changed)  # type: ignore[arg-type]


def size_now(file: VideoFile) -> int | None:
    """Return how many bytes a regular file on this machine has now; None for all else."""
    place = file.file
    if isinstance(place, SeekableFile):
        try:
            place = place.file.fileno()
        except Exception:  # of whatever the object is made of
            return None
    try:
        found = os.stat(place) if isinstance(place, (str, int)) else None
    except OSError:
        return None
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else None

"""Reads what lies at a path or an address, such as `s3://bucket/train-000.tar`: all that is asked for, or an error.

A store may break off in the middle, which a reader of videos would take for a damaged video: an answer counts only if
it has as many bytes as were asked for.
"""

import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..model.video_urls_ila import is_url, redact
from .addresses import asked, is_address, open_store


PIECE = 2**25  # bytes that a store is asked for at once
STREAM_BLOCK = 2**23  # where a shard is read from beginning to end
BLOCK = 2**20  # where parts of a file are read, such as of Parquet
HEADER_BLOCK = 2**16  # where only headers and labels are read, with videos between them


def read_range(place: str, start: int, end: int) -> bytes:
    """Read the bytes `start` to `end` (excluded) of what lies at a path or an address; all of them, or an OSError."""

    def whole(content: bytes) -> bytes:
        if len(content) > end - start:
            raise io.UnsupportedOperation("the server sends all where a part is asked for: it does not know ranges")
        if len(content) < end - start:
            raise OSError(f"{len(content)} bytes came where {end - start} were asked for, from {start} on")
        return content

    if not is_address(place):
        with open(place, "rb") as file:
            file.seek(start)
            return whole(file.read(end - start))
    files, path = open_store(place)
    return asked("read", place, lambda: whole(files.cat_file(path, start=start, end=end) if end > start else b""))


def read_pieces(place: str, start: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of what lies at a path or an address, from `start` on, piece by piece; see `read_range`."""
    for begin in range(start, start + size, PIECE):
        yield read_range(place, begin, min(begin + PIECE, start + size))


def read_once(files: Any, path: str, size: int | None = None) -> bytes:
    """Read all of a file in one attempt; an answer of another size than it has, or than is given, is an OSError."""
    if size is None:
        files.invalidate_cache()
        size = files.info(path)["size"]
    content = files.cat_file(path)
    if size is not None and len(content) != size:
        raise OSError(f"{len(content)} bytes came where {size} were promised")
    return content


def read_file(place: str) -> bytes | None:
    """Return all that lies at a path or an address; None where there is nothing."""
    try:
        if not is_address(place):
            with open(place, "rb") as file:
                return file.read()
        files, path = open_store(place)
        return asked("read", place, lambda: read_once(files, path))
    except FileNotFoundError:
        return None


def size_at(address: str) -> int:
    """Return how many bytes lie at an address; an OSError where the store does not tell."""
    files, path = open_store(address)
    size = asked("read", address, lambda: files.info(path)["size"])
    if size is None:
        raise OSError(f"Cannot read {redact(address)!r}: the server does not tell its size.")
    return size


class AddressFile(io.RawIOBase):
    """Read what lies at an address as a file that can seek; each read is whole or an OSError, as in `read_range`."""

    def __init__(self, address: str) -> None:
        self.address, self.size, self.position = address, size_at(address), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        end = min(self.size, self.position + len(buffer))
        content = read_range(self.address, self.position, end) if end > self.position else b""
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def open_file(place: str, *, block: int = STREAM_BLOCK) -> BinaryIO:
    """Open what lies at a path or an address for reading, of a store `block` bytes at a time; a break is no end.

    Of a web server that does not say that it knows ranges, all is copied to a temporary file first.
    """
    if not is_address(place):
        return open(place, "rb")
    files, path = open_store(place)
    info = asked("read", place, lambda: files.info(path)) if is_url(place) else {"partial": True}
    if info.get("partial"):
        return io.BufferedReader(AddressFile(place), block)
    copy = tempfile.TemporaryFile()

    def download() -> None:
        copy.seek(0)
        copy.truncate()
        files.get_file(path, copy)
        if copy.tell() != info["size"]:
            raise OSError(f"{copy.tell()} bytes came where {info['size']} were promised")

    asked("read", place, download)
    copy.seek(0)
    return copy

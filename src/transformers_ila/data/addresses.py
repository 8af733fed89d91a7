"""Reads and lists what lies at addresses such as `s3://bucket/shards`: whatever fsspec opens, whole or with an error.

A store may be slow, refuse, or break off in the middle. What is asked for is asked for again, a few times, and an
answer counts only if it has as many bytes as were asked for. A package for the store, such as s3fs, is imported when
it is used; settings and credentials are those that it finds for itself, and no message repeats them.
"""

import io
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..model.video_urls_ila import is_url, redact


T = TypeVar("T")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
ATTEMPTS = 5
FIRST_PAUSE = 0.5  # seconds before the second attempt; each further pause is twice as long
STREAM_BLOCK = 2**23  # bytes that are asked for at once where a shard is read from beginning to end
HEADER_BLOCK = 2**16  # where only headers and labels are read, with videos between them


def is_address(source: Any) -> bool:
    """Return whether a source is a text that begins with a scheme, such as `s3://`, `hf://` or `https://`."""
    return isinstance(source, str) and SCHEME.match(source) is not None


def open_address(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it.

    Raises:
        ImportError: the package for this kind of address is not installed; the message names it.
        ValueError: no such kind of address is known.
    """
    from fsspec.core import url_to_fs

    with told(address):
        return url_to_fs(address)


@contextmanager
def told(address: str) -> Iterator[None]:
    """Turn what a store's package raises into an OSError that names the address, and repeats nothing secret."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"There is nothing at {redact(address)!r}.") from error
    except Exception as error:  # each store has errors of its own
        kind = ValueError if isinstance(error, ValueError) and not isinstance(error, OSError) else OSError
        raise kind(f"{redact(address)!r}: {redact(str(error)) or type(error).__name__}") from error


def retried(address: str, action: Callable[[], T]) -> T:
    """Return what `action` does, which is tried `ATTEMPTS` times; what is missing or forbidden is not tried again.

    Raises:
        OSError: all attempts failed; the message names the address and the last reason.
    """
    with told(address):
        for attempt in range(1, ATTEMPTS):
            try:
                return action()
            except (ImportError, MemoryError, FileNotFoundError, PermissionError, io.UnsupportedOperation):
                raise
            except Exception:  # each store has errors of its own
                time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
        return action()


def read_range(address: str, start: int, end: int) -> bytes:
    """Read the bytes `start` to `end` (excluded) of what lies at an address; all of them, or an OSError."""
    files, path = open_address(address)

    def read() -> bytes:
        content = files.cat_file(path, start=start, end=end) if end > start else b""
        if len(content) > end - start:
            raise io.UnsupportedOperation("the server sends all where a part is asked for: it does not know ranges")
        if len(content) < end - start:
            raise OSError(f"{len(content)} bytes came where {end - start} were asked for, from {start} on")
        return content

    return retried(address, read)


def read_whole(address: str) -> bytes:
    """Read all that lies at an address, of the size that the store names; FileNotFoundError where there is nothing."""
    return read_range(address, 0, size_at(address))


def read_file(place: str) -> bytes | None:
    """Return all that lies at a path or an address; None where there is nothing."""
    try:
        return read_whole(place) if is_address(place) else Path(place).read_bytes()
    except FileNotFoundError:
        return None


def size_at(address: str) -> int:
    """Return how many bytes lie at an address; an OSError where the store does not tell."""
    files, path = open_address(address)
    size = retried(address, lambda: files.info(path))["size"]
    if size is None:
        raise OSError(f"{redact(address)!r}: the server does not tell its size.")
    return size


def sizes_at(address: str) -> dict[str, int]:
    """Return the addresses of a folder's files, or of what a pattern with `*` matches, and their sizes; sorted.

    One file is itself. Empty where there is nothing.
    """
    files, path = open_address(address)

    def look() -> dict[str, int]:
        files.invalidate_cache()
        if "*" in path:
            found = files.glob(path, detail=True).values()
        elif not is_url(address) and files.isdir(path):
            found = files.ls(path, detail=True)
        else:
            try:
                found = [files.info(path)]
            except FileNotFoundError:
                return {}
        return {files.unstrip_protocol(info["name"]): info["size"] for info in found if info["type"] == "file"}

    return dict(sorted(retried(address, look).items()))


def join(address: str, name: str) -> str:
    """Return the address, or the path, of a file in a folder."""
    return f"{address.rstrip('/')}/{name}" if is_address(address) else os.path.join(address, name)


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


def open_file(address: str, *, block: int = STREAM_BLOCK) -> BinaryIO:
    """Open what lies at an address for reading, `block` bytes at a time; a break in the middle is no end.

    Of a web server that does not say that it knows ranges, all is copied to a temporary file first.
    """
    files, path = open_address(address)
    info = retried(address, lambda: files.info(path)) if is_url(address) else {"partial": True}
    if info.get("partial"):
        return io.BufferedReader(AddressFile(address), block)
    copy = tempfile.TemporaryFile()

    def download() -> None:
        copy.seek(0)
        copy.truncate()
        files.get_file(path, copy)
        if copy.tell() != info["size"]:
            raise OSError(f"{copy.tell()} bytes came where {info['size']} were promised")

    retried(address, download)
    copy.seek(0)
    return copy

"""Folders at an address, such as `s3://bucket/labels`: any file system of fsspec, with objects that are created once.

What is known of the stores (s3fs, gcsfs, adlfs 2026; huggingface_hub 2.4), and decides what is relied on:
- S3, Google Cloud Storage and Azure create an object only if none has its name (`mode="create"`: If-None-Match,
  ifGenerationMatch), whole or not at all, and list it at once. So of two writers of one name exactly one succeeds.
- Others (`hf://`, SFTP, some copies of S3) look first and write then, or write in any case: a warning says so.
- A request whose answer is lost is sent again by the client, and meets the object that it stored itself. It is known
  by its content.
- Clients try most failures again, but not an answer that is shorter than the object, and not for long.
"""

import io
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from .files import FolderInUseError
from .model.video_urls_ila import STORES, redact


logger = logging.getLogger(__name__)
T = TypeVar("T")

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
LOCAL = ("file", "local")
READ_ONLY = ("http", "https")
READ_WAITS = (1.0, 2.0, 4.0)  # seconds before a request is made again, behind the client's own attempts
WRITE_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of what was computed, and would be lost
FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
HOPELESS = re.compile("credential|authentication|paramvalidation|notimplemented|typeerror", re.IGNORECASE)


def is_address(place: object) -> bool:
    """Return whether a place is an address for fsspec, such as `s3://bucket/labels`, and no local path."""
    return isinstance(place, str) and ADDRESS.match(place) is not None


def open_folder(place: "str | Path | StoreFolder") -> "Path | StoreFolder":
    """Return what stands for a folder to write to: a path, which is made if it is missing, or what is at an address.

    Raises:
        ValueError: an address that cannot be written to, or one with a password in it.
        ImportError: the client of its kind of address is not installed.
        OSError: the local folder cannot be made.
    """
    if isinstance(place, StoreFolder):
        return place
    if is_address(place):
        scheme, _, rest = str(place).partition("://")
        if scheme.lower() not in LOCAL:
            return StoreFolder(str(place))
        place = rest
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_address(address: str) -> None:
    """Raise a ValueError where a folder of results cannot be at an address."""
    scheme = address.partition("://")[0].lower()
    shown = redact(address)
    if not address.partition("://")[2].strip("/"):
        raise ValueError(f"{shown!r} names no folder; allowed: one such as {scheme}://bucket/labels.")
    if "::" in address:
        raise ValueError(f"{shown!r} is a chain of addresses; results go to one, such as s3://bucket/labels.")
    if scheme in READ_ONLY:
        raise ValueError(
            f"{shown!r} can only be read; results go to a folder, or to an address such as s3://bucket/x."
        )
    authority = re.split(r"/(?!/)", address.partition("://")[2], maxsplit=1)[0]
    if scheme in STORES and (":" in authority or "?" in address):
        raise ValueError(
            f"{shown!r} has a password or a query in it. Keys come from where the client of {scheme}:// reads them: "
            "environment variables, its own files, or the machine's role."
        )


class StoreFile(NamedTuple):
    """Name an object in a folder at an address, and the bytes it had when it was listed."""

    folder: "StoreFolder"
    name: str
    size: int

    @property
    def stem(self) -> str:
        """Return the name without its ending, as a path's."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """Return the ending, as a path's."""
        return Path(self.name).suffix

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    def read_once(self) -> bytes:
        """Read all of it, in one attempt; an answer of another size than the listed one is an OSError."""
        return self.folder._read_once(self.name, self.size)

    def open(self) -> IO[bytes]:
        """Open it for reading pieces by their place; nothing is kept or read ahead."""
        return self.folder.file_system.open(f"{self.folder.path}/{self.name}", "rb", cache_type="none")


class StoreFolder:
    """Read and write the objects directly in a folder at an address.

    What a store does not answer, or answers with an error, is asked again for some seconds; results that are written,
    for a minute. Errors name the address without what is secret in it, and keep their kind.

    Raises:
        ValueError: an address that cannot be written to, or one with a password in it.
        ImportError: the client of its kind of address is not installed.
    """

    def __init__(self, address: str) -> None:
        check_address(address)
        scheme, _, place = address.partition("://")
        self.address = f"{scheme.lower()}://{place.rstrip('/')}"
        try:
            self.file_system, path = fsspec.core.url_to_fs(self.address)
        except ImportError as error:
            raise ImportError(f"Addresses of {scheme}:// need another package: {redact(str(error))}.") from error
        except ValueError as error:
            raise ValueError(
                f"{str(self)!r} cannot be opened ({redact(str(error))}); allowed are addresses of fsspec, such as "
                "s3://, gs://, az:// and hf://."
            ) from None
        self.path = path.rstrip("/")

    def __str__(self) -> str:
        return redact(self.address)

    def files(self) -> list[StoreFile]:
        """Return the objects directly in the folder, by name; of a folder that is not there, none."""

        def work() -> list[dict[str, Any]]:
            self.file_system.invalidate_cache()
            try:
                return self.file_system.ls(self.path, detail=True)
            except FileNotFoundError:
                return []

        found = [entry for entry in self._asked("list", work, READ_WAITS) if entry["type"] == "file"]
        names = [(entry["name"].rstrip("/").rpartition("/")[2], entry["size"] or 0) for entry in found]
        return [StoreFile(self, name, size) for name, size in sorted(names)]

    def read(self, name: str) -> bytes:
        """Read an object.

        Raises:
            FileNotFoundError: there is none of this name.
            OSError: it cannot be read whole.
        """
        return self._asked(f"read {name!r} in", lambda: self._read_once(name), READ_WAITS)

    def _read_once(self, name: str, size: int | None = None) -> bytes:
        path = f"{self.path}/{name}"
        if size is None:
            self.file_system.invalidate_cache()
            size = self.file_system.info(path)["size"]
        content = self.file_system.cat_file(path)
        if size is not None and len(content) != size:
            raise OSError(f"the answer has {len(content)} bytes, and the object {size}")
        return content

    def asked(self, what: str, work: Callable[[], T]) -> T:
        """Return what `work` reads from the store; it is called again where it fails."""
        return self._asked(what, work, READ_WAITS)

    def create(self, name: str, content: bytes) -> None:
        """Store an object under a name that no object has.

        Raises:
            FileExistsError: an object of other content has it.
            OSError: the store does not take it.
        """

        def work() -> None:
            try:
                self.file_system.pipe_file(f"{self.path}/{name}", content, mode="create")
            except (FileExistsError, FileNotFoundError):  # an upload in parts that was stored is not found again
                if not self._holds(name, content):
                    raise

        self._asked(f"create {name!r} in", work, WRITE_WAITS)

    def replace(self, name: str, content: bytes) -> None:
        """Store an object, in the place of one that has its name."""
        path = f"{self.path}/{name}"
        self._asked(f"write {name!r} in", lambda: self.file_system.pipe_file(path, content), WRITE_WAITS)

    def warn_if_shared(self, name: str, content: bytes) -> None:
        """Warn where this store does not refuse to create an object, which is there with this content, once more."""
        kind = type(self.file_system)
        own = getattr(kind, "_pipe_file", None) not in (None, AsyncFileSystem._pipe_file)
        refuses = own or kind.pipe_file is not AbstractFileSystem.pipe_file
        if refuses:

            def create_again() -> bool:
                try:
                    self.file_system.pipe_file(f"{self.path}/{name}", content, mode="create")
                    return False
                except FileExistsError:
                    return True

            refuses = self._asked(f"create {name!r} in", create_again, READ_WAITS)
        if not refuses:
            logger.warning(
                f"Nothing keeps another run from writing to {str(self)!r}: this store does not create objects "
                "exclusively. See that only one run writes there at a time."
            )

    def in_use(self, name: str) -> FolderInUseError:
        """Return the error of a writer that finds an object where it was to create its next one."""
        return FolderInUseError(
            f"Another run writes here: {name!r} in {str(self)!r} was written since this run read what is done. What "
            "this run had not written is not written. Wait for the other run or end it; the same command goes on."
        )

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return self._read_once(name) == content
        except FileNotFoundError:
            return False

    def _asked(self, what: str, work: Callable[[], T], waits: tuple[float, ...]) -> T:
        for wait in (*waits, None):
            try:
                return work()
            except Exception as error:  # botocore's, aiohttp's and Azure's are neither OSError nor of one family
                if wait is None or isinstance(error, FINAL) or HOPELESS.search(type(error).__name__):
                    raise self._error(what, error) from None
                time.sleep(wait)
        raise AssertionError

    def _error(self, what: str, error: Exception) -> Exception:
        kind = next((kind for kind in FINAL if isinstance(error, kind)), OSError)
        reason = redact(str(error).strip()).rstrip(".") or type(error).__name__
        return kind(f"Cannot {what} {str(self)!r}: {reason}.")


def write_bytes(write: Callable[[IO[bytes]], object]) -> bytes:
    """Return what `write` writes to a file."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()

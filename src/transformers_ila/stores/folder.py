"""Folders at an address, such as `s3://bucket/labels`: any file system of fsspec, with objects that are created once.

What is known of the stores (s3fs, gcsfs, adlfs 2026; huggingface_hub 2.4), and decides what is relied on:
- S3, Google Cloud Storage and Azure create an object only if none has its name (`mode="create"`: If-None-Match,
  ifGenerationMatch), whole or not at all, and list it at once. So of two writers of one name exactly one succeeds.
- Others (`hf://`, SFTP, some copies of S3) look first and write then, or write in any case: a warning says so.
- A request whose answer is lost is sent again by the client, and meets the object that it stored itself. It is known
  by its content.
- Clients try most failures again, but not an answer that is shorter than the object, and not for long.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from fsspec.asyn import AsyncFileSystem
from fsspec.spec import AbstractFileSystem

from ..files import FolderInUseError
from ..model.video_urls_ila import STORES, is_url, redact
from .addresses import asked, is_address, open_store, plain_place
from .listing import list_folder
from .reading import read_once


logger = logging.getLogger(__name__)
T = TypeVar("T")


def open_folder(place: "str | Path | StoreFolder") -> "Path | StoreFolder":
    """Return what stands for a folder to write to: a path, which is made if it is missing, or what is at an address.

    Raises:
        ValueError: an address that cannot be written to, or one with a password in it.
        ImportError: the client of its kind of address is not installed.
        OSError: the local folder cannot be made.
    """
    if isinstance(place, StoreFolder):
        return place
    place = plain_place(str(place))
    if is_address(place):
        return StoreFolder(place)
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_address(address: str) -> None:
    """Raise a ValueError where a folder that is written to cannot be at an address."""
    scheme = address.partition("://")[0].lower()
    shown = redact(address)
    if is_url(address):
        raise ValueError(f"{shown!r} can only be read; allowed is a folder, or an address such as s3://bucket/folder.")
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
        return read_once(self.folder.file_system, f"{self.folder.path}/{self.name}", self.size)

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
        self.file_system, path = open_store(self.address)
        self.path = path.rstrip("/")

    def __str__(self) -> str:
        return redact(self.address)

    def files(self) -> list[StoreFile]:
        """Return the objects directly in the folder, by name; of a folder that is not there, none."""
        try:
            found = list_folder(self.file_system, self.path, self.address)
        except FileNotFoundError:
            return []
        names = [(entry["name"].rpartition("/")[2], entry["size"] or 0) for entry in found if entry["type"] == "file"]
        return [StoreFile(self, name, size) for name, size in sorted(names)]

    def read(self, name: str) -> bytes:
        """Return the bytes of an object, all of them.

        Raises:
            FileNotFoundError: there is none of this name.
            OSError: it cannot be read whole.
        """
        return self.asked(f"read {name!r} in", lambda: read_once(self.file_system, f"{self.path}/{name}"))

    def asked(self, what: str, work: Callable[[], T], *, writing: bool = False) -> T:
        """Return what `work` returns; where the store fails it is called again, and an error names this folder."""
        return asked(what, self.address, work, writing=writing)

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

        self.asked(f"create {name!r} in", work, writing=True)

    def replace(self, name: str, content: bytes) -> None:
        """Store an object, in the place of one that has its name."""
        path = f"{self.path}/{name}"
        self.asked(f"write {name!r} in", lambda: self.file_system.pipe_file(path, content), writing=True)

    def send(self, name: str, file: Path) -> None:
        """Store what a file holds, in the place of an object that has this name."""
        path = f"{self.path}/{name}"

        def work() -> None:
            self.file_system.put_file(str(file), path)
            self.file_system.invalidate_cache()
            sent, stored = file.stat().st_size, self.file_system.info(path)["size"]
            if stored != sent:
                raise OSError(f"it has {stored} bytes, of {sent} sent")

        self.asked(f"write {name!r} in", work, writing=True)

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with all that is in it, if there is one."""

        def work() -> None:
            self.file_system.invalidate_cache()
            try:
                self.file_system.rm(f"{self.path}/{name}", recursive=True)
            except FileNotFoundError:
                pass

        self.asked(f"remove {name!r} in", work)

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

            refuses = self.asked(f"create {name!r} in", create_again)
        if not refuses:
            logger.warning(
                f"Nothing keeps another run from writing to {str(self)!r}: this store does not create objects "
                "exclusively. See that only one run writes there at a time."
            )

    def in_use(self, name: str) -> FolderInUseError:
        """Return the error that says that another run writes here, as an object has the name of the next one."""
        return FolderInUseError(
            f"Another run writes here: {name!r} in {str(self)!r} was written since this run read what is done. What "
            "this run had not written is not written. Wait for the other run or end it; the same command goes on."
        )

    def _holds(self, name: str, content: bytes) -> bool:
        try:
            return read_once(self.file_system, f"{self.path}/{name}") == content
        except FileNotFoundError:
            return False

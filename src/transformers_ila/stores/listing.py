"""What there is at an address: a file, a folder with its files, or what a pattern matches."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from .addresses import asked, fixed_part, open_store


MAGIC = re.compile(r"[*?\[]")


class Found(NamedTuple):
    """Hold the files at an address: one file, those of a folder, or those that match a pattern.

    base: the address of the folder, of the one that the pattern begins with, or that the file lies in.
    files: the address and the size of each, by name.
    """

    kind: Literal["file", "folder", "pattern"]
    base: str
    files: Iterable[tuple[str, int]]


def find(address: str, *, below: bool = False) -> Found:
    """Say what there is at an address; of a folder the files in it are listed when they are asked for.

    Args:
        below: list the files of its sub-folders, too, of which one listing at a time is in memory.

    Raises:
        FileNotFoundError: nothing.
        OSError: the store does not answer.
        ImportError, ValueError: as in `open_store`.
    """
    files, path = open_store(address)

    def look() -> Any:
        files.invalidate_cache()
        try:
            return files.info(path)
        except FileNotFoundError:
            if MAGIC.search(path):
                return None
            raise

    info = asked("read", address, look)
    if info is None:
        base = fixed_part(address)
        above = open_store(base)[1]
        matches = _sizes(asked("list", address, lambda: files.glob(path, detail=True)).values())
        return Found("pattern", base, [(_address(name, above, base), size) for name, size in matches])
    if info["type"] == "directory":
        base = address.rstrip("/")
        inside = _inside(files, path, base, below=below)
        return Found("folder", base, ((_address(name, path, base), size) for name, size in inside))
    return Found("file", fixed_part(address), [(address, info["size"])])


def sizes_at(address: str) -> dict[str, int]:
    """Return the addresses of the files that `find` says, and their sizes; empty where there is nothing."""
    try:
        return dict(find(address).files)
    except FileNotFoundError:
        return {}


def _inside(files: Any, path: str, address: str, *, below: bool) -> Iterator[tuple[str, int]]:
    for entry in sorted(list_folder(files, path, address), key=lambda entry: entry["name"]):
        if entry["type"] == "file":
            yield entry["name"], entry["size"]
        elif below:
            name = entry["name"]
            yield from _sizes(asked("list", address, lambda: files.find(name, detail=True)).values())  # noqa: B023


def list_folder(files: Any, path: str, address: str) -> list[dict[str, Any]]:
    """Return what lies directly in a folder, as its file system says it."""

    def work() -> list[dict[str, Any]]:
        files.invalidate_cache()
        return files.ls(path, detail=True)

    return asked("list", address, work)


def _sizes(entries: Iterable[dict[str, Any]]) -> list[tuple[str, int]]:
    return sorted((entry["name"], entry["size"]) for entry in entries if entry["type"] == "file")


def _address(path: str, place: str, address: str) -> str:
    """Return the address of a path of a file system, given the address of a folder above it and its place."""
    if path.startswith(place):
        return f"{address.rstrip('/')}/{path[len(place) :].lstrip('/')}"
    return f"{address.partition('://')[0]}://{path}"

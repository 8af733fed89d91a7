"""Which videos a folder holds, or an annotation list names, with the lines of the list kept as they are."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"
)  # fmt: skip
SEPARATOR = re.compile(r"[ \t,]+")
LABELS_AT_END = re.compile(r"([ \t,]+[+-]?\d+)+$")
HEADER = re.compile(r"[\"']?[a-z _-]*(clip|file|name|path|video)[a-z _-]*[\"']?([\t,].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class ListedVideo:
    """One line of an annotation list: its bytes, line break included, and its video's absolute path or None."""

    line: bytes
    path: str | None


def list_videos(source: str | Path, *, root: str | Path | None = None) -> list[ListedVideo]:
    """The lines of an annotation list, or one line for each video file in a folder.

    A list has one video a line: `path`, or path and labels separated by spaces, commas or tabs; a path may hold spaces
    and stand in quotes. The path is the longest beginning of the line that exists as a file or folder; where none
    does, the line without the whole numbers at its end. Blank lines, lines that start with `#` (unless there is such a
    file) and a header such as `path,label` are no videos.

    Args:
        source: a folder, searched with all its sub-folders (links are followed), or a list in UTF-8.
        root: what relative paths in the list start from; default: the list's folder.

    Raises:
        ValueError: neither folder nor list, no such root, or no video there.
        OSError: the list or a sub-folder cannot be read.
    """
    listed = list(_stream(Path(source), root))
    if all(video.path is None for video in listed):
        is_folder = Path(source).is_dir()
        nothing = f"holds no video; known suffixes: {', '.join(VIDEO_SUFFIXES)}" if is_folder else "lists no video"
        raise ValueError(f"{str(source)!r} {nothing}.")
    return listed


def stream_videos(source: str | Path, *, root: str | Path | None = None) -> Iterator[str]:
    """The absolute paths that `list_videos` gives, one at a time; that there is none is no error here."""
    return (video.path for video in _stream(Path(source), root) if video.path is not None)


def _stream(source: Path, root: str | Path | None) -> Iterator[ListedVideo]:
    if source.is_dir() and root is not None:
        raise ValueError(f"{str(source)!r} is a folder; a root such as {str(root)!r} goes only with a list.")
    root = source.parent if root is None else Path(root)
    if not root.is_dir():
        raise ValueError(f"There is no folder {str(root)!r} for the videos of the list.")
    if source.is_dir():
        return _videos_of_folder(os.path.abspath(source))
    if not source.is_file() or _named_as_video(source.name):
        raise _no_list(source)
    return _videos_of_list(source, os.path.abspath(root))


def _videos_of_folder(folder: str) -> Iterator[ListedVideo]:
    for path in _walk(folder, above=frozenset()):
        yield ListedVideo(line=os.fsencode(os.path.relpath(path, folder)) + b"\n", path=path)


def _walk(folder: str, *, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry.path, above=above | {real})
        elif _named_as_video(entry.name):
            yield entry.path


def _named_as_video(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _videos_of_list(source: Path, root: str) -> Iterator[ListedVideo]:
    first = True
    for line in _lines(source):
        text = line.decode("utf-8", "surrogateescape").strip("\ufeff \t\r\n")
        comment = text.startswith("#") and not os.path.exists(os.path.join(root, _path_in(text, root)))
        if not text or comment:
            yield ListedVideo(line, None)
            continue
        path = os.path.join(root, _path_in(text, root))
        header = first and _is_header(text) and not os.path.exists(path)
        first = False
        yield ListedVideo(line, None if header else os.path.abspath(path))


def _lines(source: Path) -> Iterator[bytes]:
    """With their breaks, each when it is asked for."""
    with source.open("rb") as file:
        for line in file:
            if b"\0" in line:
                raise _no_list(source)
            yield from line.splitlines(keepends=True)  # at "\r" alone, too


def _no_list(source: Path) -> ValueError:
    return ValueError(f"{str(source)!r} is neither a folder nor an annotation list (a text file in UTF-8).")


def _is_header(text: str) -> bool:
    return HEADER.fullmatch(text) is not None and LABELS_AT_END.search(text) is None


def _path_in(text: str, root: str) -> str:
    ends = [len(text), *(match.start() for match in reversed(list(SEPARATOR.finditer(text))))]
    for end in ends:
        for name in (text[:end], _unquoted(text[:end])):
            if name and os.path.exists(os.path.join(root, name)):
                return name
        if _named_as_video(name):  # cutting further would cut into a name
            return name
    return _unquoted(LABELS_AT_END.sub("", text))


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].replace(text[0] * 2, text[0])
    return text

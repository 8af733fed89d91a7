"""Reads annotation lists, one video a line, and finds the videos of lists and folders. All lists have one grammar:

    line = path [num_frames] {label}

Blanks, tabs, commas or `::` stand between them. A list is UTF-8 text, with or without a byte order mark; its lines end
in LF, CRLF or CR. Blank lines are no videos, nor are comments (`#` and a blank; unless a file has that name) and a
header such as `path,label` before the first video. The path may hold blanks, quotes and commas; it ends

1. with its quotes, where it stands in quotes,
2. else behind its last video suffix,
3. else with the longest beginning of the line that exists below the root,
4. else before a known class name, or before the whole numbers at the end of the line.
"""

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..model.video_urls_ila import redact
from .samples import Annotations, LabelMap, Labels, Sample, SampleCollector, VideoRoot, classes_of
from .text import (
    BETWEEN,
    COMMA_CELL,
    LONGEST_LINE,
    NOT_UTF8,
    TAB_CELL,
    TOKEN,
    TOO_LONG,
    UTF16,
    Line,
    is_index,
    preview,
    unquoted,
)


VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"
)  # fmt: skip
COMMENT = re.compile(r"#(?:[ \t]|$)")
HEADER = re.compile(r"[\"']?[a-z _-]*(clip|file|name|path|video)[a-z _-]*[\"']?([\t,].*)?", re.IGNORECASE)
SEPARATOR = re.compile(rf"{BETWEEN}+")
NUMBER = re.compile(r"[+-]?[0-9]+")
QUOTED = re.compile(rf"(\"(?:[^\"]|\"\")+\"|'(?:[^']|'')+')(?={BETWEEN}|$)")
TO_SUFFIX = re.compile(
    rf".*\.(?:{'|'.join(suffix[1:] for suffix in VIDEO_SUFFIXES)})(?={BETWEEN}|$)", re.IGNORECASE | re.DOTALL
)
NOT_DECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are no UTF-8
LONGEST_PATH = 2**12  # characters; no file system has longer ones


# -- the grammar -----------------------------------------------------------------------------------------------------


class ListEntry(NamedTuple):
    """Hold one line of a list.

    raw: its bytes, with the line break.
    line: its text without the blanks around it, its number, and faults that name both.
    path: the video's absolute path, without `..`; None where the line names no video.
    end: where the path ends in the text.
    """

    raw: bytes
    line: Line
    path: str | None
    end: int

    @property
    def number(self) -> int | None:
        """Return the line's number, counted from 1; None where a folder takes the place of the list."""
        return self.line.number

    @property
    def rest(self) -> str:
        """Return what follows the path: the number of frames and the labels, with their separators."""
        return self.line.text[self.end :]


def iter_list(
    file: str | Path, *, root: str | Path | None = None, class_names: Collection[str] = ()
) -> Iterator[ListEntry]:
    """Yield every line of a list when it is asked for; only that line is held in memory.

    Bytes that are no UTF-8 are kept as `os.fsdecode` keeps them: a path with them names its file.

    Args:
        file: the list.
        root: the folder that relative paths start from; default: the list's folder.
        class_names: what may stand behind a path that has no video suffix and does not exist.

    Raises:
        AnnotationError: the file is no text, a line is too long, has no path, or its path is a URL.
        ValueError: there is no such root.
        OSError: the list cannot be read.
    """
    folder = VideoRoot(Path(file).parent if root is None else root).folder
    before_videos = True
    for raw, line in _lines(file):
        if not line.text:
            yield ListEntry(raw, line, None, 0)
            continue
        written, end = _split_path(line.text, folder, class_names)
        comment = COMMENT.match(line.text) and not _exists(folder, written)
        if comment or (before_videos and _is_header(line.text, written, end, folder, class_names)):
            before_videos = before_videos and bool(comment)
            yield ListEntry(raw, line, None, 0)
            continue
        before_videos = False
        if not written:
            raise line.fault(0, f"a path must stand before {line.text!r}")
        if "://" in written:
            raise line.fault(0, f"{redact(written)!r} is a URL; videos are files: download it and list its path")
        yield ListEntry(raw, line, os.path.normpath(os.path.join(folder, written)), end)


def _lines(file: str | Path) -> Iterator[tuple[bytes, Line]]:
    """Yield the bytes and the text of each line. Lines end at LF, CRLF and CR, not at what else Unicode has."""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as lines:
        for number in itertools.count(1):
            whole = lines.readline(LONGEST_LINE + 2)
            if not whole:
                return
            raw = whole.encode("utf-8", "surrogateescape")
            text = (whole.removeprefix("\ufeff") if number == 1 else whole).rstrip("\r\n")
            line = Line(str(file), number, text.strip(" \t"), len(text) - len(text.lstrip(" \t")))
            if number == 1 and raw[:2] in UTF16:
                raise line.fault(0, f"{NOT_UTF8}, but in UTF-16: save the file as UTF-8")
            if "\0" in text:
                raise line.fault(line.text.index("\0"), f"{NOT_UTF8}: is this a list of videos, one a line?")
            if len(text) > LONGEST_LINE:
                raise line.fault(0, TOO_LONG)
            yield raw, line


def _split_path(text: str, folder: str, class_names: Collection[str]) -> tuple[str, int]:
    """Return the path at the beginning of a line, as written but without its quotes, and where it ends."""
    found = TO_SUFFIX.match(text)
    quoted = QUOTED.match(text)
    if quoted and not _exists(folder, found[0] if found else ""):  # or a name begins with a quoted word
        return unquoted(quoted[0]), quoted.end()
    if found:
        return found[0], found.end()
    separators = list(SEPARATOR.finditer(text))
    for end in (len(text), *(blank.start() for blank in reversed(separators))):
        for path in (text[:end], unquoted(text[:end])) if end <= LONGEST_PATH else ():
            if _exists(folder, path):
                return path, end
    for blank in separators if class_names else ():
        label = text[blank.end() :]
        if label in class_names and not is_index(label):
            return text[: blank.start()], blank.start()
    begin = begin_of_numbers(text)
    end = len(text) if begin is None else begin
    return unquoted(text[:end]), end


def _exists(folder: str, path: str) -> bool:
    return path != "" and os.path.exists(os.path.join(folder, path))


def begin_of_numbers(text: str) -> int | None:
    """Return where the whole numbers at the end of a line begin, with the separator before them, or None."""
    begin, end = None, len(text.rstrip(" \t,:"))
    for blank in reversed(list(SEPARATOR.finditer(text, 0, end))):
        if NUMBER.fullmatch(text, blank.end(), end) is None:
            break
        begin = end = blank.start()
    return begin


def _is_header(text: str, written: str, end: int, folder: str, class_names: Collection[str]) -> bool:
    """Return whether a line names columns, not a video. A folder may have a column's name, a video may not."""
    if HEADER.fullmatch(text) is None or begin_of_numbers(text) is not None:
        return False
    if unquoted(text[end:].strip(" \t,:")) in class_names:
        return False
    path = os.path.join(folder, written)
    return not (os.path.isfile(path) or (end == len(text) and os.path.isdir(path)))


# -- lists with labels -----------------------------------------------------------------------------------------------


def read_list(
    file: str | Path,
    *,
    root: str | Path | None = None,
    labels: Labels | None = None,
    multi_label: bool | None = None,
) -> Annotations:
    """Read lines `path label [label ...]`: lists of ILA, X-CLIP, MMAction2, SlowFast, PyTorchVideo and V-JEPA.

    `lists` says where a path ends. Labels are class indices, or class names where those are known. Paths must stay
    inside the root, and no video may stand there twice. Arguments and errors are as in `read_annotations`.
    """
    return _read_lines(file, "list", root, classes_of(labels, multi_label=multi_label), columns=2)


def read_frame_list(
    file: str | Path,
    *,
    root: str | Path | None = None,
    labels: Labels | None = None,
    multi_label: bool | None = None,
) -> Annotations:
    """Read lines `folder num_frames label [label ...]`: folders of frame images, as MMAction2's and TSN's rawframes.

    All else is as in `read_list`.
    """
    return _read_lines(file, "frames", root, classes_of(labels, multi_label=multi_label), columns=3)


def _read_lines(
    file: str | Path, format: str, root: str | Path | None, classes: LabelMap, *, columns: int
) -> Annotations:
    if not Path(file).is_file():
        raise ValueError(f"There is no annotation file {str(file)!r}.")
    folder = VideoRoot(Path(file).parent if root is None else root)
    samples = SampleCollector()
    digest = hashlib.sha256()
    for entry in iter_list(file, root=root, class_names=classes.by_name):
        digest.update(entry.raw)
        line = entry.line
        if bad := NOT_DECODED.search(line.text):
            raise line.fault(bad.start(), f"{NOT_UTF8}: save the file as UTF-8")
        if entry.path is None:
            _refuse_columns(line, columns)
            continue
        if not folder.holds(entry.path):
            written = unquoted(line.text[: entry.end])
            raise line.fault(0, f"{written!r} is not inside the root {folder.folder!r}: pass another `root`")
        num_frames, end = _num_frames(line, entry.end) if columns == 3 else (None, entry.end)
        name = entry.path.removeprefix(folder.prefix)
        samples.add(Sample(entry.path, classes.indices(line, end), name, num_frames=num_frames), line)
    return samples.annotations(str(file), format, classes, sha256=digest.hexdigest())


def _refuse_columns(line: Line, columns: int) -> None:
    """Raise for a header with more columns than are read."""
    cells = [match.start() for match in (TAB_CELL if "\t" in line.text else COMMA_CELL).finditer(line.text)]
    if len(cells) > columns and COMMENT.match(line.text) is None:
        raise line.fault(cells[columns], f"a table with {columns} columns is read, and this is another column")


def _num_frames(line: Line, start: int) -> tuple[int, int]:
    """Return the number of frames behind the path, and where it ends."""
    token = TOKEN.search(line.text, start)
    if token is None or not is_index(token[0]) or int(token[0]) < 1:
        position = len(line.text) if token is None else token.start()
        raise line.fault(position, "a number of frames must stand here, as in `folder num_frames label`")
    return int(token[0]), token.end()


# -- videos without labels -------------------------------------------------------------------------------------------


def iter_videos(
    source: str | Path | Sequence[str | Path], *, root: str | Path | None = None
) -> Iterator[tuple[str, str]]:
    """Yield name and absolute path of each video of files, folders, patterns and lists, when it is asked for.

    Labels in a list are ignored. A video may be named twice, be missing, or lie outside of the root. The name of a
    video in one list or folder is its path below the root or that folder, so that it keeps its name where all of them
    move; in all other cases it is its path below the working directory. What lies elsewhere has its whole path for a
    name.

    Args:
        source: a video file; a folder, searched with all its sub-folders (links are followed); a pattern such as
            `videos/*.mp4` (`**` for any folders), of whose matches the videos and folders are taken; a list, which is
            any other file; or several of these. Without `root`, the first video of a list among several sources must
            exist, as a text that a shell's pattern matches is no list.
        root: the folder that relative paths in lists start from; default: the folder of each list.

    Raises:
        ValueError: one of the sources is missing or a URL, there is no such root or no list for it, they hold no
            video, or one of several sources is no list. This is found when the function is called.
        AnnotationError: a line of a list has a fault (`iter_list`).
        OSError: a list or a sub-folder cannot be read.
    """
    named = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    sources = [path for item in named for path in _matches(str(item))]
    lists = any(_is_list(path) for path in sources)
    if root is not None and not lists:
        raise ValueError(f"A root such as {str(root)!r} goes only with a list; there is none in {preview(named)}.")
    if root is None and len(sources) > 1:
        for path in filter(_is_list, sources):
            _check_first_video(path)
    paths = (entry.path for path in sources for entry in iter_entries(path, root=root) if entry.path is not None)
    prefix = os.path.join(_folder_of_names(sources, root), "")
    videos = ((path.removeprefix(prefix), path) for path in paths)
    first = next(videos, None)
    if first is None:
        nothing = "lists no video" if lists else f"holds no video; known suffixes: {', '.join(VIDEO_SUFFIXES)}"
        raise ValueError(f"{preview(named)} {nothing}.")
    return itertools.chain([first], videos)


def iter_entries(source: str | Path, *, root: str | Path | None = None) -> Iterator[ListEntry]:
    """Yield an entry for each line of a list, for each video in a folder, or for the one video that is given.

    A video that no list names has its name as `raw`, as a list in its folder would have it.
    """
    folder, name = os.path.split(os.path.abspath(source))
    if _is_list(source):
        yield from iter_list(source, root=root)
    elif os.path.isdir(source):
        folder = os.path.join(folder, name)
        yield from (_entry(folder, os.path.relpath(path, folder)) for path in _walk(folder, above=frozenset()))
    else:
        yield _entry(folder, name)


def _entry(folder: str, name: str) -> ListEntry:
    return ListEntry(os.fsencode(name) + b"\n", Line(folder, None, name), os.path.join(folder, name), len(name))


def _matches(source: str) -> list[str]:
    """Return the source itself where it exists, else the videos and folders that match it as a pattern."""
    if os.path.exists(source):
        return [source]
    if "://" in source:
        raise ValueError(f"{redact(source)!r} is a URL; videos are files: download it and give its path.")
    found = [path for path in sorted(glob.glob(source, recursive=True)) if not _is_list(path)]
    if not found:
        raise ValueError(f"{source!r} is neither a folder nor an annotation list nor a video, nor a pattern of those.")
    return found


def _is_list(source: str | Path) -> bool:
    return not (is_video_name(str(source)) or os.path.isdir(source))


def _check_first_video(file: str) -> None:
    """Raise a ValueError where the first video that a file lists does not exist: it may be a text of another kind."""
    first = next((entry.path for entry in iter_list(file) if entry.path is not None), None)
    if first is not None and not os.path.exists(first):
        raise ValueError(
            f"{file!r} has no suffix of a video, and there is no {first!r}, which it would list first. Leave it out, "
            "or give a list alone or with its root."
        )


def _folder_of_names(sources: Sequence[str], root: str | Path | None) -> str:
    """Return the folder below which videos have their names."""
    if len(sources) == 1 and os.path.isdir(sources[0]):
        return os.path.abspath(sources[0])
    if len(sources) == 1 and _is_list(sources[0]):
        return os.path.abspath(Path(sources[0]).parent if root is None else root)
    return os.getcwd()


def is_video_name(name: str) -> bool:
    """Return whether a file name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _walk(folder: str, *, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _walk(entry.path, above=above | {real})
        elif is_video_name(entry.name):
            yield entry.path

"""Reads annotation lists, one video a line, and finds the videos of lists and folders. All lists have one grammar:

    line = path [num_frames] {label}

Blanks, tabs, commas, semicolons or `::` stand between them. A list is UTF-8 text, with or without a byte order mark;
its lines end in LF, CRLF or CR. Blank lines are no videos, nor are comments (`#` and a blank; unless a file has that
name) and, before the first video, `sep=;` of spreadsheets and a header: names of columns as `path,label`, or
`path,walk,run` with the names of two or more classes, where each line has 1 below those that its video shows and 0
below the others. The path may hold blanks, quotes and commas; it ends

1. with its quotes, where it stands in quotes,
2. else behind its last video suffix,
3. else with the longest beginning of the line that exists below the root,
4. else before a known class name, or before the whole numbers at the end of the line.

Class indices count from 0. They count from 1 where the class names say so (`1 ApplyEyeMakeup`), and in a list that
uses each of 1 to K and no other, as UCF101's do; K is the number of classes where that is known.
"""

import glob
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from transformers.utils import logging

from ..model.video_reading_ila import VIDEO_SUFFIXES
from ..model.video_urls_ila import redact
from ..stores.addresses import is_address, join_address, plain_place
from .samples import Annotations, LabelMap, Labels, Sample, SampleCollector, VideoRoot, classes_of
from .text import (
    BETWEEN,
    LONGEST_LINE,
    NOT_UTF8,
    SEPARATORS,
    TOKEN,
    TOO_LONG,
    UTF16,
    AnnotationError,
    Line,
    cells_of,
    is_index,
    preview,
    unquoted,
)


logger = logging.get_logger(__name__)


COMMENT = re.compile(r"#(?:[ \t]|$)|sep=[,;]?$")  # `sep=;` tells a spreadsheet what separates
COLUMN = re.compile(r"[A-Za-z_ -]+")
NO_NAME = re.compile(r"$|Unnamed: \d+$")  # of the column with the numbers of rows, by pandas
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
PATH_WORDS = frozenset(
    "clip clips file files filename filenames filepath filepaths folder folders path paths video videos videoname "
    "videopath".split()
)
ADDRESS_WORDS = frozenset(["url"])
NAME_WORDS = frozenset("id ids key name names".split())  # of the path or of a label
LABEL_WORDS = frozenset(
    "action actions activity annotation annotations categories category class classes classid classname cls emotion "
    "gesture gloss gt index idx label labels set sign tag tags target targets truth verb y".split()
).union(NAME_WORDS)
FRAME_WORDS = frozenset("count frame framecount frames length nframes num number numframes total".split())
COLUMN_WORDS = frozenset(
    "abs absolute action actions activity annotation annotations categories category class classes classid classname "
    "cls count dir directory duration emotion end event fold fps frame framecount frames full gesture gloss gt height "
    "idx index input label labels length nframes num number numframes of rel relative set sign source split start "
    "stop subset tag tags target targets time to total truth uid url verb width y youtube".split()
).union(PATH_WORDS, NAME_WORDS)
SEPARATOR = re.compile(rf"{BETWEEN}+")
NUMBER = re.compile(r"[+-]?[0-9]+")
QUOTED = re.compile(rf"(\"(?:[^\"]|\"\")+\"|'(?:[^']|'')+')(?={BETWEEN}|$)")
TO_SUFFIX = re.compile(
    rf".*\.(?:{'|'.join(suffix[1:] for suffix in VIDEO_SUFFIXES)})(?={BETWEEN}|$)", re.IGNORECASE | re.DOTALL
)
NOT_DECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are no UTF-8
EMPTY_CELL = re.compile(r"([,;])[ \t]*\1")
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
    file: str | Path,
    *,
    root: str | Path | None = None,
    class_names: Collection[str] = (),
    addresses: bool = False,
    called: str | None = None,
) -> Iterator[ListEntry]:
    """Yield every line of a list when it is asked for; only that line is held in memory.

    Bytes that are no UTF-8 are kept as `os.fsdecode` keeps them: a path with them names its file.

    Args:
        file: the list.
        root: the folder that relative paths start from; default: the list's folder.
        class_names: what may stand behind a path that has no video suffix and does not exist.
        addresses: whether videos and the root may have addresses such as `s3://bucket/a.mp4`. An address that does
            not end as a video does ends at the first separator, unless it stands in quotes. What lies at the root's
            address is not looked up: a path below it ends by the rules 1, 2 and 4.
        called: what faults call the list; default: `file`.

    Raises:
        AnnotationError: the file is no text, a line is too long, has no path, its path leads out of the root's store,
            or is a URL where those are not allowed.
        ValueError: there is no such root.
        OSError: the list cannot be read.
    """
    folder = _folder_of_paths(Path(file).parent if root is None else root, addresses=addresses)
    before_videos = True
    for raw, line in _lines(file, called or str(file)):
        if not line.text:
            yield ListEntry(raw, line, None, 0)
            continue
        written, end = _split_path(line.text, folder, class_names)
        comment = COMMENT.match(line.text) and not _exists(folder, written)
        if comment or (before_videos and _is_header(line, written, end, folder, class_names)):
            before_videos = before_videos and bool(comment)
            yield ListEntry(raw, line, None, 0)
            continue
        before_videos = False
        if not written:
            raise line.fault(0, f"a path must stand before {line.text!r}")
        if written.startswith("#") and not is_video_name(written) and not _exists(folder, written):
            raise line.fault(0, f"{written!r} is no video; a comment begins with `#` and a blank")
        if "://" in written and not addresses:
            raise line.fault(0, f"{redact(written)!r} is a URL; videos are files: download it and list its path")
        try:
            path = join_address(folder, written)
        except ValueError as error:
            raise line.fault(0, str(error)) from error
        yield ListEntry(raw, line, path, end)


def _folder_of_paths(root: str | Path, *, addresses: bool) -> str:
    """Return the folder or, where those are allowed, the address that relative paths start from."""
    if addresses and "://" in str(root):
        return str(root).rstrip("/")
    return VideoRoot(root).folder


def _lines(file: str | Path, called: str) -> Iterator[tuple[bytes, Line]]:
    """Yield the bytes and the text of each line. Lines end at LF, CRLF and CR, not at what else Unicode has."""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="") as lines:
        for number in itertools.count(1):
            whole = lines.readline(LONGEST_LINE + 2)
            if not whole:
                return
            raw = whole.encode("utf-8", "surrogateescape")
            text = (whole.removeprefix("\ufeff") if number == 1 else whole).rstrip("\r\n")
            line = Line(called, number, text.strip(" \t"), len(text) - len(text.lstrip(" \t")))
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
    if is_address(text):
        end = found.start() if (found := SEPARATOR.search(text)) else len(text)
        return text[:end], end
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


def _is_header(line: Line, written: str, end: int, folder: str, class_names: Collection[str]) -> bool:
    """Return whether a line names columns, not a video. A folder may have a column's name, a video may not.

    Raises:
        AnnotationError: it names columns, of which the first is not the path, or it may be the header of one class.
    """
    columns = header_columns(line.text, class_names)
    names = [name for name, _ in columns]
    if is_class_table(names, class_names):
        return not os.path.isfile(os.path.join(folder, names[0]))
    path = os.path.join(folder, written)
    if os.path.isfile(path) or (end == len(line.text) and os.path.isdir(path)):
        return False
    cells = cells_of(line.text)
    if unquoted(line.text[end:].strip(SEPARATORS)) in class_names:
        if len(cells) > 1 and _has_words(cells[0][0], PATH_WORDS | NAME_WORDS):
            raise line.fault(0, f"there is no video {cells[0][0]!r}, and a header of labels is `path,label`")
        return False
    for name, position in columns[1:] if len(cells) > 1 else ():
        if _has_words(name, PATH_WORDS) and not _has_words(names[0], PATH_WORDS):
            raise line.fault(position, f"the path must be the first column, and it is {name!r} here")
    return bool(columns)


def header_columns(text: str, class_names: Collection[str] = ()) -> list[tuple[str, int]]:
    """Return the names of a header's columns and where each begins; an empty list where the text is no header.

    A header has words of columns in every cell, or behind the path names of two or more classes (`is_class_table`),
    which must be known where blanks alone separate them.
    """
    text = text.removeprefix("#").rstrip(SEPARATORS)
    columns, is_table = cells_of(text, blanks=True), len(cells_of(text)) > 1
    names = [name for name, _ in columns]
    if is_class_table(names, class_names) and (is_table or set(names[1:]) <= set(class_names)):
        return columns
    if not all(_has_words(name, COLUMN_WORDS) for name in names if NO_NAME.match(name) is None):
        return []
    elsewhere = is_table and any(_has_words(name, PATH_WORDS) for name in names)
    return columns if elsewhere or _has_words(names[0], PATH_WORDS | NAME_WORDS | ADDRESS_WORDS) else []


def is_class_table(columns: Sequence[str], class_names: Collection[str] = ()) -> bool:
    """Return whether names of columns are a path's and those of two or more classes, which may be known."""
    classes = columns[1:]
    if len(classes) < 2 or not _has_words(columns[0], PATH_WORDS | NAME_WORDS):
        return False
    if any(name == "" or NUMBER.fullmatch(name) for name in classes):
        return False
    return set(classes) <= set(class_names) or not all(_has_words(name, COLUMN_WORDS) for name in classes)


def _has_words(column: str, words: Collection[str]) -> bool:
    """Return whether a column's name is made of words of columns and has one of these."""
    found = {word.lower() for word in WORD.findall(column)}
    return COLUMN.fullmatch(column) is not None and found <= COLUMN_WORDS and not found.isdisjoint(words)


# -- lists with labels -----------------------------------------------------------------------------------------------


def read_list(
    file: str | Path,
    *,
    root: str | Path | None = None,
    labels: Labels | None = None,
    multi_label: bool | None = None,
) -> Annotations:
    """Read lines `path label [label ...]`: lists of ILA, X-CLIP, MMAction2, SlowFast, PyTorchVideo, UCF101 and V-JEPA.

    `lists` says where a path ends. Labels are class indices, or class names where those are known; a line has several
    only with `multi_label=True`. Paths must stay inside the root, and no video may stand there twice. Arguments and
    errors are as in `read_annotations`.
    """
    return _read_lines(file, "list", root, classes_of(labels, multi_label=multi_label))


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
    return _read_lines(file, "frames", root, classes_of(labels, multi_label=multi_label))


def _read_lines(file: str | Path, format: str, root: str | Path | None, classes: LabelMap) -> Annotations:
    """Read a list, and find out whether its class indices count from 0 or from 1."""
    try:
        found = _read_with(file, format, root, classes)
    except AnnotationError:
        counted = None if classes.names is None or classes.first_index else _read_from_one(file, format, root, classes)
        if counted is None:
            raise
        found = counted
    used = {label for sample in found.samples for label in sample.labels}
    if found.class_names is None and len(used) > 1 and used == set(range(1, len(used) + 1)):
        shifted = [sample._replace(labels=tuple(index - 1 for index in sample.labels)) for sample in found.samples]
        found = replace(found, samples=shifted, first_index=1)
    _warn_of_indices(found, classes, lowest=min(used, default=0))
    return found


def _warn_of_indices(found: Annotations, classes: LabelMap, *, lowest: int) -> None:
    """Log what the numbers of a list are taken for, where they could be something else."""
    if found.first_index != classes.first_index:
        logger.warning(
            f"{found.source!r} uses each class index from 1 on, and not 0, so they count from 1, as UCF101's: 1 is "
            "the first class."
        )
    elif lowest == 1 and classes.has_numbers and not classes.first_index:
        logger.warning(
            f"{found.source!r} has no video of class 0, and its indices are taken to count from 0. Where they count "
            "from 1, say so by `labels` with numbers: {'walk': 1, ...}, or a file with lines `1 walk`."
        )
    number = next(filter(is_index, classes.by_name), None)
    if classes.has_numbers and number is not None:
        logger.warning(
            f"{found.source!r} has numbers, and {number!r} is the name of a class: a number in a list is an index, "
            "and no name."
        )


def _read_from_one(file: str | Path, format: str, root: str | Path | None, classes: LabelMap) -> Annotations | None:
    """Read a list whose class indices count from 1; None where that cannot be, or where it lacks a class."""
    try:
        from_one = LabelMap(classes.names, multi_label=classes.multi_label, first_index=1)
        found = _read_with(file, format, root, from_one)
    except AnnotationError:
        return None
    used = {label for sample in found.samples for label in sample.labels}
    return found if len(used) == len(classes.by_name) > 1 else None


def _read_with(file: str | Path, format: str, root: str | Path | None, classes: LabelMap) -> Annotations:
    if not Path(file).is_file():
        raise ValueError(f"There is no annotation file {str(file)!r}.")
    folder = VideoRoot(Path(file).parent if root is None else root)
    samples = SampleCollector()
    digest = hashlib.sha256()
    table = list[str]()  # the classes of the columns behind the path, where there is one a class
    for entry in iter_list(file, root=root, class_names=classes.by_name):
        digest.update(entry.raw)
        line = entry.line
        if bad := NOT_DECODED.search(line.text):
            raise line.fault(bad.start(), f"{NOT_UTF8}: save the file as UTF-8")
        if entry.path is None:
            if line.text and not COMMENT.match(line.text):
                table = _class_columns(line, classes, columns=3 if format == "frames" else 2)
                classes = classes if classes.names or not table else LabelMap(table, multi_label=classes.multi_label)
            continue
        if not folder.holds(entry.path):
            written = unquoted(line.text[: entry.end])
            raise line.fault(0, f"{written!r} is not inside the root {folder.folder!r}: pass another `root`")
        num_frames, end = _num_frames(line, entry.end) if format == "frames" else (None, entry.end)
        found = _labels_of_row(line, end, table, classes) if table else _labels_of_line(line, end, classes)
        samples.add(Sample(entry.path, found, entry.path.removeprefix(folder.prefix), num_frames=num_frames), line)
    return samples.annotations(str(file), format, classes, sha256=digest.hexdigest())


def _class_columns(line: Line, classes: LabelMap, *, columns: int) -> list[str]:
    """Return the classes that a header names, each in a column; an empty list where it names columns of a list.

    Raises:
        AnnotationError: more columns than are read, a name that is no class, or names that nothing says are classes.
    """
    cells = header_columns(line.text, classes.by_name)
    names = [name for name, _ in cells]
    if not is_class_table(names, classes.by_name):
        if len(cells) > columns:
            raise line.fault(cells[columns][1], f"a table with {columns} columns is read, and this is another column")
        expected = (PATH_WORDS, LABEL_WORDS) if columns == 2 else (PATH_WORDS, FRAME_WORDS, LABEL_WORDS)
        for words, (name, position) in list(zip(expected, cells))[1:]:
            if NO_NAME.match(name) is None and not _has_words(name, words):
                wanted = "the label" if words is LABEL_WORDS else "the number of frames"
                raise line.fault(position, f"{wanted} must stand in this column, and it is {name!r}")
        return []
    for name, position in cells[1:]:
        if names.count(name) > 1:
            raise line.fault(position, f"the class {name!r} stands there twice")
        if classes.names is not None:
            classes.named(name, line, position)
        elif _has_words(name, COLUMN_WORDS):
            raise line.fault(position, f"a table with {columns} columns is read, and {name!r} is another column")
    if classes.names is None and not classes.multi_label:
        raise line.fault(
            cells[1][1],
            f"columns such as {cells[1][0]!r} are read as classes, with 1 or 0 in each line, where `labels` has them "
            "or several labels are asked for, by `multi_label=True` or --multi_label; else a header is `path,label`",
        )
    return names[1:]


def _labels_of_row(line: Line, start: int, table: list[str], classes: LabelMap) -> tuple[int, ...]:
    """Return the indices of the classes below whose names a line has 1."""
    text = line.text[start:].strip(SEPARATORS)
    cells = cells_of(text, blanks=True)
    begin = line.text.index(text, start)
    if len(cells) != len(table):
        raise line.fault(begin, f"{len(cells)} cells stand behind the path, where the header has {len(table)} classes")
    for cell, position in cells:
        if cell not in ("0", "1"):
            raise line.fault(begin + position, f"{cell!r} stands below a class; 1 or 0 must")
    shown = [(name, begin + position) for name, (cell, position) in zip(table, cells) if cell == "1"]
    if not shown and not classes.multi_label:
        raise line.fault(begin, "no class has a 1 here")
    return classes.several(shown, line, by_name=True)


def _labels_of_line(line: Line, start: int, classes: LabelMap) -> tuple[int, ...]:
    if hole := EMPTY_CELL.search(line.text.rstrip(SEPARATORS), start):
        raise line.fault(hole.end() - 1, "the cell before this separator is empty")
    if start == len(line.text):
        first, *others = cells_of(line.text)
        if others and _has_words(first[0], PATH_WORDS | NAME_WORDS):
            raise line.fault(start, f"there is no label behind the path {line.text!r}; a header is `path,label`")
    return classes.indices(line, start)


def _num_frames(line: Line, start: int) -> tuple[int, int]:
    """Return the number of frames behind the path, and where it ends."""
    token = TOKEN.search(line.text, start)
    if token is None or not is_index(token[0]) or int(token[0]) < 1:
        position = len(line.text) if token is None else token.start()
        raise line.fault(position, "a number of frames must stand here, as in `folder num_frames label`")
    return int(token[0]), token.end()


# -- videos without labels -------------------------------------------------------------------------------------------


def iter_videos(
    source: str | Path | Sequence[str | Path], *, root: str | Path | None = None, addresses: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield name and absolute path of each video of files, folders, patterns and lists, when it is asked for.

    Labels in a list are ignored. A video may be named twice, be missing, or lie outside of the root. The name of a
    video in one list or folder is its path below the root or that folder, so that it keeps its name where all of them
    move; in all other cases it is its path below the working directory. What lies elsewhere has its whole path for a
    name.

    Args:
        source: a video file; a folder, searched with all its sub-folders (links are followed); a pattern such as
            `videos/*.mp4` (`**` for any folders), of whose matches the videos and folders are taken; a list, which is
            any other file; or several of these. What a folder or pattern has beside videos is counted in a warning.
            Without `root`, the first video of a list among several sources must
            exist, as a text that a shell's pattern matches is no list.
        root: the folder that relative paths in lists start from; default: the folder of each list.
        addresses: as in `iter_list`; a video at an address outside of the root has all of the address for a name.

    Raises:
        ValueError: one of the sources is missing or a URL, there is no such root or no list for it, they hold no
            video, or one of several sources is no list. This is found when the function is called.
        AnnotationError: a line of a list has a fault (`iter_list`).
        OSError: a list or a sub-folder cannot be read.
    """
    named = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    sources = [path for item in named for path in _matches(plain_place(str(item)))]
    lists = any(_is_list(path) for path in sources)
    if root is not None and not lists:
        raise ValueError(f"A root such as {str(root)!r} goes only with a list; there is none in {preview(named)}.")
    if root is None and len(sources) > 1:
        for path in filter(_is_list, sources):
            check_first_video(path, addresses=addresses)
    entries = (entry for path in sources for entry in iter_entries(path, root=root, addresses=addresses))
    paths = (entry.path for entry in entries if entry.path is not None)
    prefix = os.path.join(_folder_of_names(sources, root), "")
    videos = ((path.removeprefix(prefix), path) for path in paths)
    first = next(videos, None)
    if first is None:
        nothing = "lists no video" if lists else f"holds no video; known suffixes: {', '.join(VIDEO_SUFFIXES)}"
        raise ValueError(f"{preview(named)} {nothing}.")
    return itertools.chain([first], videos)


def iter_entries(
    source: str | Path, *, root: str | Path | None = None, addresses: bool = False
) -> Iterator[ListEntry]:
    """Yield an entry for each line of a list, for each video in a folder, or for the one video that is given.

    A video that no list names has its name as `raw`, as a list in its folder would have it.
    """
    folder, name = os.path.split(os.path.abspath(source))
    if _is_list(source):
        yield from iter_list(source, root=root, addresses=addresses)
    elif os.path.isdir(source):
        folder = os.path.join(folder, name)
        for path in videos_among(walk(folder), Counter(), str(source)):
            yield _entry(folder, os.path.relpath(path, folder))
    else:
        yield _entry(folder, name)


def _entry(folder: str, name: str) -> ListEntry:
    return ListEntry(os.fsencode(name) + b"\n", Line(folder, None, name), os.path.join(folder, name), len(name))


def can_be_listed(entry: ListEntry) -> bool:
    """Return whether a list in the folder of a video that no list names can name it: it has no line break, say."""
    name = entry.line.text
    return not set("\r\n") & set(name) and name.strip(" \t") == _split_path(name, entry.line.file, ())[0]


def _matches(source: str) -> list[str]:
    """Return the source itself where it exists, else the videos and folders that match it as a pattern."""
    if os.path.exists(source):
        return [source]
    if "://" in source:
        raise ValueError(f"{redact(source)!r} is a URL; videos are files: download it and give its path.")
    matches = sorted(glob.glob(source, recursive=True))
    found = [path for path in matches if not _is_list(path)]
    warn_of_left_out(source, Counter(kind_of_file(path) for path in matches if _is_list(path)))
    if not found:
        raise ValueError(f"{source!r} is neither a folder nor an annotation list nor a video, nor a pattern of those.")
    return found


def _is_list(source: str | Path) -> bool:
    return not (is_video_name(str(source)) or os.path.isdir(source))


def check_first_video(file: str, *, addresses: bool = False) -> None:
    """Raise a ValueError where the first video that a file lists does not exist: it may be a text of another kind."""
    first = next((entry.path for entry in iter_list(file, addresses=addresses) if entry.path is not None), None)
    if first is not None and "://" not in first and not os.path.exists(first):
        raise ValueError(
            f"{file!r} has no suffix of a video, and there is no {first!r}, which it would list first. Leave it out, "
            "or give a list alone or with its root."
        )


def _folder_of_names(sources: Sequence[str], root: str | Path | None) -> str:
    """Return the folder below which videos have their names."""
    if len(sources) == 1 and os.path.isdir(sources[0]):
        return os.path.abspath(sources[0])
    if len(sources) == 1 and _is_list(sources[0]):
        return _folder_of_paths(Path(sources[0]).parent if root is None else root, addresses="://" in str(root))
    return os.getcwd()


def is_video_name(name: str) -> bool:
    """Return whether a file name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def kind_of_file(path: str) -> str:
    """Return how a warning calls a file that is no video: by its suffix."""
    name = os.path.basename(path)
    return "hidden" if name.startswith(".") else repr(os.path.splitext(name)[1].lower() or "no suffix")


def warn_of_left_out(source: str, left_out: Counter[str]) -> None:
    """Log, once, how many files of a source are left out, by their kinds."""
    if left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common(10))
        more = f" and {len(left_out) - 10} more kinds" if len(left_out) > 10 else ""
        # all of the path, or another folder of this name would count as said
        where = redact(source) if "://" in source else os.path.abspath(source)
        logger.warning_once(f"{where!r}: {left_out.total()} files are left out: {kinds}{more}.")


def videos_among(paths: Iterable[str], left_out: Counter[str], source: str) -> Iterator[str]:
    """Yield the videos among paths, and count what else there is in `left_out`, which is warned of at the end."""
    for path in paths:
        if is_video_name(path):
            yield path
        else:
            left_out[kind_of_file(path)] += 1
    warn_of_left_out(source, left_out)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: who reads it says so
        return False


def walk(folder: str, *, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield the files of a folder and its sub-folders, by name; links are followed."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that it lies in
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if _is_folder(entry):
            yield from walk(entry.path, above=above | {real})
        else:
            yield entry.path

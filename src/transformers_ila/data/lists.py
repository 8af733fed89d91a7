"""Annotation lists, one line a video: a path and labels, or a folder of frame images, how many they are and labels."""

import re
from pathlib import Path

from .samples import Annotations, LabelMap, Labels, Sample, SampleCollector, VideoRoot, classes_of
from .text import BETWEEN, COMMA_CELL, TAB_CELL, TOKEN, Line, is_index, nonblank_lines, read_text, unquoted
from .video_lists import HEADER, VIDEO_SUFFIXES


SEPARATOR = re.compile(rf"{BETWEEN}+")
NUMBER = re.compile(r"[+-]?[0-9]+")
QUOTED = re.compile(rf"(\"(?:[^\"]|\"\")+\"|'(?:[^']|'')+')(?={BETWEEN}|$)")
TO_SUFFIX = re.compile(
    rf".*\.(?:{'|'.join(suffix[1:] for suffix in VIDEO_SUFFIXES)})(?={BETWEEN}|$)", re.IGNORECASE | re.DOTALL
)


def read_list(
    file: str | Path,
    *,
    root: str | Path | None = None,
    labels: Labels | None = None,
    multi_label: bool | None = None,
) -> Annotations:
    """Lines `path label [label ...]`: lists of ILA, X-CLIP and MMAction2, csv of SlowFast, PyTorchVideo and V-JEPA.

    Blanks, tabs, commas or `::` separate path and labels. A path in quotes ends with them. Without quotes it ends at
    its last video suffix; where there is none, it is the longest beginning of the line that exists, or else what
    stands before the whole numbers at the end. Labels are class indices, or class names where those are known. Empty
    lines, and a header such as `path,label` in the first line, are passed over; there are no comments.

    Arguments and errors as in `read_annotations`.
    """
    return _read_lines(file, "list", root, classes_of(labels, multi_label=multi_label), columns=2)


def read_frame_list(
    file: str | Path,
    *,
    root: str | Path | None = None,
    labels: Labels | None = None,
    multi_label: bool | None = None,
) -> Annotations:
    """Lines `folder num_frames label [label ...]`: folders of frame images, as MMAction2's and TSN's rawframes.

    Else as `read_list`.
    """
    return _read_lines(file, "frames", root, classes_of(labels, multi_label=multi_label), columns=3)


def _read_lines(
    file: str | Path, format: str, root: str | Path | None, classes: LabelMap, *, columns: int
) -> Annotations:
    text = read_text(file)
    folder = VideoRoot(Path(file).parent if root is None else root)
    samples = SampleCollector()
    for position, line in enumerate(nonblank_lines(text)):
        if position == 0 and _is_header(line, folder, classes, columns=columns):
            continue
        written, end = _split_path(line.text, folder, classes, numbers=columns - 1)
        written = _without_quotes(written, folder)
        num_frames, end = _num_frames(line, end) if columns == 3 else (None, end)
        path = folder.path(written, line)
        labels = classes.indices(line, end)
        samples.add(Sample(path, labels, path[len(folder.prefix) :], num_frames=num_frames), line)
    return samples.annotations(text, format, classes)


def _split_path(text: str, root: VideoRoot, classes: LabelMap, *, numbers: int = 1) -> tuple[str, int]:
    """The path at the beginning of a line, and where it ends; `numbers`: how many should follow at least."""
    quoted = QUOTED.match(text) if text[0] in "\"'" else None
    found = TO_SUFFIX.match(text)
    if quoted and not (found and root.has(found[0])):  # a name may begin with a quoted word
        return unquoted(quoted[0]), quoted.end()
    if found:
        return found[0], found.end()
    for blank in SEPARATOR.finditer(text) if classes.by_name else ():
        label = text[blank.end() :]
        if label in classes.by_name and not is_index(label):
            return text[: blank.start()], blank.start()
    begin = begin_of_numbers(text)
    if begin is None:
        return text, len(text)
    starts = [blank.start() for blank in SEPARATOR.finditer(text, begin)]
    likely = [len(text), *reversed(starts)][numbers if numbers > 1 else 0 : -1]
    end = next((end for end in likely if root.has(text[:end])), starts[0])
    return text[:end], end


def _without_quotes(path: str, root: VideoRoot) -> str:
    """A path in quotes with one of them inside, which `_split_path` leaves as it is, where such a file exists."""
    quoted = len(path) > 2 and path[0] == path[-1] and path[0] in "\"'"
    return path[1:-1] if quoted and not root.has(path) and root.has(path[1:-1]) else path


def begin_of_numbers(text: str) -> int | None:
    """Where the whole numbers at the end begin, with the blank before them."""
    begin, end = None, len(text.rstrip(" \t,:"))
    for blank in reversed(list(SEPARATOR.finditer(text, 0, end))):
        if NUMBER.fullmatch(text, blank.end(), end) is None:
            break
        begin = end = blank.start()
    return begin


def _is_header(line: Line, root: VideoRoot, classes: LabelMap, *, columns: int) -> bool:
    """Whether the first line names columns instead of a video and its label."""
    if HEADER.fullmatch(line.text) is None or root.has(line.text):
        return False
    _, end = _split_path(line.text, root, classes)
    label = line.text[end:].strip(" \t,:")
    if label and classes.find(unquoted(label)) is not None:
        return False
    cells = [match.start() for match in (TAB_CELL if "\t" in line.text else COMMA_CELL).finditer(line.text)]
    if len(cells) > columns:
        raise line.fault(cells[columns], f"a table with {columns} columns is read, and this is another column")
    return True


def _num_frames(line: Line, start: int) -> tuple[int, int]:
    """The number behind the path, and where it ends."""
    token = TOKEN.search(line.text, start)
    if token is None or not is_index(token[0]) or int(token[0]) < 1:
        position = len(line.text) if token is None else token.start()
        raise line.fault(position, "a number of frames must stand here, as in `folder num_frames label`")
    return int(token[0]), token.end()

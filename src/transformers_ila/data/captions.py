"""Reads lists of videos and texts about them: tables (CSV, TSV) and JSON lines, one text a row or several.

A table has a header with a column of the video (`path`, `video_id`, ...) and one of the text (`caption`, `sentence`,
`text`, ...); other columns are passed over. A JSON line has the same keys, and its text may be a list of texts. A
video may stand in several rows, and several videos may have one text.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..model.video_urls_ila import redact
from .data_sets import DirectoryIndex
from .lists import NAME_WORDS, PATH_WORDS, is_video_name
from .samples import Annotations, Sample, VideoRoot
from .text import AnnotationError, Text, annotation_error, preview, read_text


logger = logging.get_logger(__name__)


CAPTIONS = "captions"  # the format of these lists, beside those of `read_annotations`
CAPTION_COLUMNS = ("caption", "captions", "sentence", "sentences", "description", "descriptions", "text", "texts")
BARE = "{id}"  # the name of a video without its suffix, as MSR-VTT's `video7020`
Row = tuple[int, Any, Any]  # number of the line, what it says of the video and of its texts


def is_caption_list(source: str | Path) -> bool:
    """Return whether a file is a table or JSON lines with a column of texts about videos."""
    if not Path(source).is_file():
        return False
    try:
        text = read_text(source)
        return _is_json_lines(text) or _is_caption_column(_header(text)[0])
    except AnnotationError:
        return False


def _is_caption_column(columns: list[str]) -> bool:
    return any(name in CAPTION_COLUMNS for name in columns)


def _is_json_lines(text: Text) -> bool:
    """Return whether the first line is a JSON object with a text, or the file is named as JSON lines are."""
    try:
        first = json.loads(text.text.lstrip().partition("\n")[0])
    except ValueError:
        first = None
    suffix = Path(text.file).suffix.lower()
    return suffix in (".jsonl", ".ndjson") or (isinstance(first, dict) and _is_caption_column(_lower(first)))


def _lower(names: Any) -> list[str]:
    return [str(name).strip().lower() for name in names]


def read_captions(file: str | Path, *, root: str | Path | None = None) -> Annotations:
    """Read videos and their texts: the classes of what is returned are the texts, each once, in the file's order.

    A row that says again what another one says counts once, which is logged.

    Args:
        file: a table with a header, separated by tabs, semicolons or commas, or JSON lines; in UTF-8.
        root: folder that relative paths start from and that no path may leave; default: the file's folder. A path
            without the suffix of a video may be a video's name without it.

    Raises:
        AnnotationError: no such columns, a row without a video or a text, a path outside of the root.
        ValueError: there is no such file or root.
    """
    text = read_text(file)
    folder = VideoRoot(Path(file).parent if root is None else root)
    directory = DirectoryIndex(folder, suffix=".mp4")
    texts: dict[str, int] = {}
    videos: dict[str, dict[int, None]] = {}
    repeated: list[str] = []
    for number, video, captions in _rows(text):
        path = _path(video, folder, directory, text.file, number)
        found = videos.setdefault(path, {})
        for caption in captions if isinstance(captions, list) else [captions]:
            if not isinstance(caption, str) or not caption.strip():
                raise annotation_error(text.file, f"the text of {video!r} is {caption!r}", line=number, column=1)
            index = texts.setdefault(" ".join(caption.split()), len(texts))
            if index in found:
                repeated.append(caption)
            found[index] = None
        if not found:
            raise annotation_error(text.file, f"{video!r} has no text", line=number, column=1)
    if not videos:
        raise annotation_error(text.file, "no video is listed there", line=1, column=1)
    if repeated:
        logger.warning(
            f"{text.file!r}: {len(repeated)} texts stand there twice for one video and count once: "
            f"{preview(repeated)}."
        )
    samples = [Sample(path, tuple(found), path.removeprefix(folder.prefix)) for path, found in videos.items()]
    found_as = dict(directory.found_as)
    return Annotations(samples, [*texts], True, CAPTIONS, text.file, sha256=text.sha256, found_as=found_as)


def _path(video: Any, folder: VideoRoot, directory: DirectoryIndex, file: str, number: int) -> str:
    """Return the absolute path of a row's video."""
    written = str(video).strip() if isinstance(video, (str, int)) else ""
    if not written:
        raise annotation_error(file, f"the path of a video must stand there, got {video!r}", line=number, column=1)
    if "://" in written:
        reason = f"{redact(written)!r} is a URL; videos are files: download it and list its path"
        raise annotation_error(file, reason, line=number, column=1)
    path = os.path.normpath(os.path.join(folder.folder, written))
    if not folder.holds(path):
        reason = f"{written!r} is not inside the root {folder.folder!r}: pass another `root`"
        raise annotation_error(file, reason, line=number, column=1)
    if is_video_name(path) or os.path.exists(path):
        return path
    return directory.find_first([(path.removeprefix(folder.prefix), BARE)])[0]


def _rows(text: Text) -> Iterator[Row]:
    return _rows_of_json(text) if _is_json_lines(text) else _rows_of_table(text)


def _rows_of_json(text: Text) -> Iterator[Row]:
    for number, line in enumerate(text.text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise annotation_error(text.file, f"no JSON: {error}", line=number, column=1) from error
        if not isinstance(row, dict):
            example = '{"path": ..., "caption": ...}'
            reason = f"an object such as {example} must stand there, got {line.strip()[:80]!r}"
            raise annotation_error(text.file, reason, line=number, column=1)
        row = dict(zip(_lower(row), row.values()))
        video, caption = _columns([*row], text.file, number)
        yield number, row[video], row[caption]


def _header(text: Text) -> tuple[list[str], str]:
    """Return the names of a table's columns in small letters, and what separates them."""
    first = next((line for line in text.text.split("\n") if line.strip()), "")
    separator = next((mark for mark in "\t;" if mark in first), ",")
    return _lower(next(csv.reader([first], delimiter=separator), [])), separator


def _rows_of_table(text: Text) -> Iterator[Row]:
    names, separator = _header(text)
    video, caption = (names.index(name) for name in _columns(names, text.file, 1))
    reader = csv.reader(io.StringIO(text.text.lstrip("\n"), newline=""), delimiter=separator, strict=True)
    skipped = len(text.text) - len(text.text.lstrip("\n"))
    try:
        for cells in reader:
            number = reader.line_num + skipped
            if reader.line_num == 1 or not any(map(str.strip, cells)):
                continue
            if len(cells) != len(names):
                hint = "; texts with commas stand in quotes" if separator == "," and len(cells) > len(names) else ""
                reason = f"{len(cells)} cells stand there, and the header has {len(names)}{hint}"
                raise annotation_error(text.file, reason, line=number, column=1)
            yield number, cells[video], cells[caption]
    except csv.Error as error:
        raise annotation_error(text.file, f"no table: {error}", line=reader.line_num + skipped, column=1) from error


def _columns(names: list[str], file: str, number: int) -> tuple[str, str]:
    """Return which names are those of the video and of the text: the one that is a path, else an id or a name."""
    captions = [name for name in names if name in CAPTION_COLUMNS]
    words = {name: set(name.replace("_", " ").replace("-", " ").split()) for name in names if name not in captions}
    videos = [name for name, found in words.items() if found & PATH_WORDS]
    videos = [name for name in videos if not words[name] & NAME_WORDS] or videos
    videos = videos or [name for name, found in words.items() if found & NAME_WORDS]
    for what, found, wanted in (
        ("the video", videos, "such as 'path', 'video' or 'video_id'"),
        ("the text", captions, f"one of {', '.join(map(repr, CAPTION_COLUMNS))}"),
    ):
        if len(found) != 1:
            several = f"{preview(found)} may be" if found else f"none of {preview(names, 20)} is"
            raise annotation_error(file, f"{several} the column of {what}, {wanted}", line=number, column=1)
    return videos[0], captions[0]

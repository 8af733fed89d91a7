"""Reads annotation files, folders, shards and data sets: which videos there are, and what they show.

What is unusual here:
- every fault names its line and column (1-based, in characters), and none is skipped or guessed away;
- a path may hold blanks, quotes, tabs and commas: `lists` says where it ends;
- videos are not opened and may be missing: `check_files` lists those, training and evaluation deal with them;
- paths stay inside the root. That is judged by their text: a link inside the root may point anywhere.

`FORMATS` lists what is read; `read_annotations` recognises it by content.
"""

import codecs
import inspect
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..model.video_reading_ila import VIDEO_SUFFIXES, why_no_path
from ..stores.addresses import is_address, plain_place
from .data_sets import SSV2_LABELS, files_of_splits, read_class_folders, read_kinetics, read_ssv2
from .exports import first_keys
from .fiftyone import holds_fiftyone, is_fiftyone, read_fiftyone
from .label_studio import is_row, is_task, read_label_studio
from .lists import (
    COMMENT,
    TO_SUFFIX,
    begin_of_numbers,
    header_columns,
    is_class_table,
    is_video_name,
    iter_list,
    read_frame_list,
    read_list,
)
from .samples import Annotations, DatasetRow, Labels, Sample, ShardMember
from .shards import list_shards, names_shards, read_dataset, read_shards, stream_shard
from .text import TOKEN, UTF16, AnnotationError, cells_of, preview, unquoted, with_plain_ends


logger = logging.get_logger(__name__)


__all__ = [
    "FORMATS", "AnnotationError", "Annotations", "DatasetRow", "Labels", "Sample", "ShardMember",
    "list_shards", "read_annotations", "read_class_folders", "read_dataset", "read_fiftyone", "read_frame_list",
    "read_kinetics", "read_label_studio", "read_list", "read_shards", "read_ssv2", "stream_shard",
]  # fmt: skip


def read_annotations(
    source: Any,
    *,
    root: str | Path | None = None,
    format: str | None = None,
    labels: Labels | None = None,
    split: str | None = None,
    multi_label: bool | None = None,
    label_field: str | None = None,
    check_files: bool = False,
) -> Annotations:
    """Read the samples of an annotation file, a folder, shards or a `datasets` data set.

    Args:
        source: what one of the functions of `FORMATS` reads; each says what that is.
        root: folder that relative paths start from and that no path may leave; default: the annotation's folder.
        format: key of `FORMATS`; recognised by content where it is None.
        labels: class names in the order of their indices, name -> index from 0 or from 1, the name of a data set
            ("kinetics400", "ssv2") or a file of them. They win over the names in the source, which then count by name.
        split: the part that is read, where the source has several.
        multi_label: True reads videos with several labels, which are an error without it.
        label_field: which labels are read, where a labelling tool's export has several: a field of FiftyOne, a control
            of Label Studio.
        check_files: look whether every video exists, and list those that do not in `missing`.

    Raises:
        AnnotationError: the annotation has a fault; the message names file, line and column.
        ValueError: the format is not known, an argument does not go with it, or class names have faults.
        OSError: something cannot be read.
    """
    source = plain_place(source) if isinstance(source, str) else source
    format = detect_format(source, root, multi_label=bool(multi_label)) if format is None else format
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {_formats()}; got {format!r}.")
    given = {"root": root, "labels": labels, "split": split, "multi_label": multi_label, "label_field": label_field}
    given = {name: value for name, value in given.items() if value is not None}
    excess = sorted(given.keys() - inspect.signature(FORMATS[format]).parameters.keys())
    if excess == ["multi_label"] and not multi_label:  # such a format gives one label anyway
        del given["multi_label"]
    elif excess:
        raise ValueError(f"{', '.join(map(repr, excess))} does not go with the format {format!r}.")
    annotations = FORMATS[format](source, **given)
    return _with_missing(annotations) if check_files else _with_warning(annotations)


def takes_several_labels(format: str) -> bool:
    """Return whether a format, a key of `FORMATS`, can give a video several labels."""
    return "multi_label" in inspect.signature(FORMATS[format]).parameters


def takes_root(source: str | Path) -> bool:
    """Return whether the paths of an annotation may start from a `root`: not where a folder holds the videos."""
    return not Path(source).is_dir() or holds_fiftyone(Path(source))


JSON = re.compile(r"\s*(\[\s*)?(\{\s*\"[^\"]*\"\s*:|\]\s*$)")  # a name may begin with `[` or `{`, too


def detect_format(source: Any, root: str | Path | None, *, multi_label: bool = False) -> str:
    """Return the key of `FORMATS` for a source, by its content.

    Raises:
        ValueError: what is not read, with what is; several labels are asked for, `path 3 5` may have two of them or
            be 3 frames of the class 5, and there is no such folder.
    """
    if hasattr(source, "features") or isinstance(source, dict):
        return "datasets"
    if isinstance(source, (list, tuple)) or names_shards(str(source)) or is_address(source):
        return "shards"
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(f"Cannot read annotations from {type(source).__name__} {source!r:.80}: {_formats()}.")
    path = Path(source)
    if path.is_dir():
        return _format_of_folder(path)
    if not path.is_file():
        raise ValueError(f"There is no annotation at {str(source)!r}: neither a file nor a folder nor shards.")
    with path.open("rb") as file:
        head = file.read(2**16)
    if head[:2] in UTF16:
        return "list"  # which says what is wrong
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    return _format_of_text(text, path, root or path.parent, multi_label=multi_label)


def _format_of_folder(folder: Path) -> str:
    names = os.listdir(folder)
    if any(name in SSV2_LABELS for name in names) and files_of_splits(folder):
        return "ssv2"
    if holds_fiftyone(folder):
        return "fiftyone"
    shards = any(map(names_shards, names)) and not any((folder / name).is_dir() for name in names)
    return "shards" if shards else "folders"


def _format_of_text(head: str, path: Path, root: str | Path, *, multi_label: bool) -> str:
    lines = [line.strip(" \t") for line in with_plain_ends(head).split("\n") if line.strip(" \t")]
    if "\0" in head or path.suffix.lower() in VIDEO_SUFFIXES or not lines:
        raise ValueError(f"{str(path)!r} is no annotation. What is read: {_formats()}.")
    if JSON.match(head):
        keys = first_keys(head)
        return "label-studio" if is_task(keys) else "fiftyone" if is_fiftyone(keys) else "ssv2"
    columns_of_csv = {cell.lower() for cell, _ in cells_of(lines[0])}
    if {"youtube_id", "time_start"} <= columns_of_csv:
        return "kinetics"
    if is_row(columns_of_csv):
        return "label-studio"
    if lines[0].startswith(("original_vido_id", "original_video_id")):  # SlowFast's own has the slip of the pen
        raise ValueError(
            f"{str(path)!r} is a SlowFast frame list, one line a frame, which is not read; give a list with one line "
            "a video: `folder num_frames label` (format 'frames') or `path label` (format 'list')."
        )
    whole = lines[:-1] if len(head) > 2**15 else lines  # the last one may be cut off
    whole = [line for line in whole[:1000] if not COMMENT.match(line)]
    columns = [name for name, _ in header_columns(whole[0])] if whole else []
    likely = [_is_of_frames(line, root) for line in whole[bool(columns) :]]
    if not (likely and all(likely)) or is_class_table(columns):
        return "list"
    if multi_label and len(columns) < 3 and not any(_are_folders(path, root)):
        raise ValueError(
            f"{str(path)!r} may have a number of frames in front of the labels of each line, or not: pass `format`, "
            "'frames' or 'list' (--format)."
        )
    return "frames"


def _is_of_frames(line: str, root: str | Path) -> bool:
    """Return whether a line may be `folder num_frames label`: two numbers follow what is no video file."""
    begin = begin_of_numbers(line)
    if begin is None or len(TOKEN.findall(line, begin)) < 2:
        return False
    path = unquoted(line[:begin])
    is_file = TO_SUFFIX.match(line) or path.lower().endswith(VIDEO_SUFFIXES)
    return not is_file or os.path.isdir(os.path.join(root, path))


def _are_folders(file: Path, root: str | Path) -> Iterator[bool]:
    """Yield of the first videos of a list whether they are folders."""
    entries = itertools.islice(iter_list(file, root=root), 1000)
    return (os.path.isdir(entry.path) for entry in entries if entry.path is not None)


def _formats() -> str:
    """List what is read: each key of `FORMATS` with the first line of its reader's docstring."""
    firsts = {name: (reader.__doc__ or "").splitlines()[0].removeprefix("Read ") for name, reader in FORMATS.items()}
    return "; ".join(f"{name!r} ({first})" for name, first in firsts.items())


def _with_missing(annotations: Annotations) -> Annotations:
    paths = [sample.video for sample in annotations.samples if isinstance(sample.video, str)]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        logger.warning(
            f"{annotations.source!r}: {len(missing)} of {len(paths)} videos are missing: {preview(missing)} "
            f"({why_no_path(missing[0])})."
        )
    return replace(annotations, missing=missing)


ODD: dict[str, Callable[[str], bool]] = {  # what is said of some videos among others -> which they are
    "neither exist nor have a video's suffix, as the others have": lambda path: not is_video_name(path),
    "do not exist, and have backslashes, as the others have not": lambda path: "\\" in path and is_video_name(path),
}


def _with_warning(annotations: Annotations) -> Annotations:
    """Return the annotations, and warn of lines that are likely to be no videos, and of a root that may be wrong."""
    videos = [sample.video for sample in annotations.samples if isinstance(sample.video, str)]
    for what, is_odd in ODD.items():
        odd = [video for video in videos if is_odd(video)]
        odd = [video for video in odd if not os.path.exists(video)] if len(odd) < len(videos) else []
        if odd:
            logger.warning(
                f"{annotations.source!r}: {len(odd)} of {len(videos)} videos {what}: {preview(odd)} "
                f"({why_no_path(odd[0])})."
            )
    some = [sample.video for sample in annotations.samples[:: max(1, len(annotations.samples) // 20)]]
    paths = [video for video in some if isinstance(video, str)]
    if paths and not any(map(os.path.exists, paths)):
        logger.warning(
            f"{annotations.source!r}: of {len(paths)} videos none exists, as {paths[0]!r} ({why_no_path(paths[0])}): "
            "is `root` right?"
        )
    return annotations


FORMATS: dict[str, Callable[..., Annotations]] = {
    "list": read_list,
    "frames": read_frame_list,
    "kinetics": read_kinetics,
    "ssv2": read_ssv2,
    "folders": read_class_folders,
    "shards": read_shards,
    "datasets": read_dataset,
    "fiftyone": read_fiftyone,
    "label-studio": read_label_studio,
}

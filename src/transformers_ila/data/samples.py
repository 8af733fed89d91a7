"""Defines what annotations hold: samples, whose paths lie inside a root and whose labels are class indices."""

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

from ..model.class_names_ila import are_numbered, check_labels
from ..model.video_urls_ila import redact
from ..stores.reading import read_range
from .class_indices import ClassIndex, ClassOrder, labels_of_pair, name_of, refuse_two_orders, with_indices
from .class_names import DATA_SETS, names_and_first_index
from .text import (
    SEPARATORS,
    TOKEN,
    Line,
    annotation_error,
    cells_of,
    is_index,
    parse_json,
    preview,
    read_text,
    unquoted,
)


logger = logging.get_logger(__name__)


ONE_HOT = "rows of 0 and 1, one a class, are read below a header that names the classes: `path,walk,run`"
Labels = Sequence[str] | Mapping[str, int] | str | Path
SPLITS = {  # what a split is called -> what it is here
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "validation", "valid": "validation", "validate": "validation", "validation": "validation",
}  # fmt: skip


@dataclass(frozen=True)
class ShardMember:
    """Name a video that is the bytes `offset` to `offset + size` of an uncompressed tar file, a path or an address."""

    shard: str
    name: str
    offset: int
    size: int

    def load(self) -> bytes:
        """Read the video's bytes, all of them or an OSError."""
        return read_range(self.shard, self.offset, self.offset + self.size)


@dataclass(frozen=True)
class DatasetRow:
    """Name a video in a row of a `datasets.Dataset` whose video column is not decoded."""

    dataset: Any = field(repr=False)
    column: str
    index: int

    def load(self) -> dict[str, Any]:
        """Read the row's `{"path": ..., "bytes": ...}`, of which one may be None."""
        return self.dataset[self.index][self.column]


class Excerpt(NamedTuple):
    """Name the part of a video that a sample means."""

    sample: "Sample"

    def load(self) -> Any:
        """Return what the reader takes: the video with the part's start and end."""
        return self.sample.source()


class Sample(NamedTuple):
    """Hold one video and its labels.

    video: absolute path of a file or of a folder of frame images; bytes; or what loads them (`load()`).
    labels: class indices; one, unless the annotations are multi-label. Where the classes have names, each is a
        `ClassIndex` and carries its own, by which it is found again among the classes of a model.
    name: what the annotation calls it: path relative to the root, id, key of a shard, row.
    start, end: the seconds that the annotation means, where the file may be longer, and which alone are read; None:
        from its beginning, to its end.
    num_frames: what the annotation says; the reader counts for itself.
    """

    video: Any
    labels: tuple[int, ...]
    name: str
    start: float | None = None
    end: float | None = None
    num_frames: int | None = None

    def source(self) -> str | bytes | dict[str, Any]:
        """Return what the processor and `read_video` take; a video that has `load()` is loaded now."""
        video = self.video if isinstance(self.video, (str, bytes)) else self.video.load()
        if self.start is None and self.end is None:
            return video
        named = video if isinstance(video, dict) else {"bytes" if isinstance(video, bytes) else "path": video}
        return {**named, "start": self.start, "end": self.end}


@dataclass(frozen=True)
class Annotations:
    """Hold what annotations contain.

    The labels of the samples are indices of `class_names`: labels that carry names of another order are found by name.

    samples: the videos and their labels, in the order of the annotation.
    class_names: the names in the order of their indices; None where nothing names them.
    multi_label: whether a video may have several labels, as was asked for.
    format: the key of `FORMATS` that was read.
    source: what was read.
    sha256: the hash of the annotation file; None where there is no file.
    found_as: the patterns of names that videos were found under -> how many, for formats that name no files.
    missing: the paths of videos that do not exist; None where nobody looked.
    first_index: what number the source gives to the first class: 0, or 1 as UCF101 does.
    has_numbers: whether the source gives labels as numbers, which get their names from `class_names`.

    Raises:
        ValueError: what is no label, a label of a video twice, labels that are none of `class_names`.
    """

    samples: list[Sample] = field(repr=False)
    class_names: list[str] | None = field(repr=False)
    multi_label: bool
    format: str
    source: str
    sha256: str | None = None
    found_as: dict[str, int] = field(default_factory=dict)
    missing: list[str] | None = field(default=None, repr=False)
    first_index: int = 0
    has_numbers: bool = field(default=False, compare=False)

    def labels(self) -> dict[str, int] | None:
        """Return the classes as `labels` for reading another source with the same names and numbers, or None."""
        names = self.class_names
        return None if names is None else {name: index for index, name in enumerate(names, self.first_index)}

    def __post_init__(self) -> None:
        if not all(_is_plain(sample.labels) for sample in self.samples):
            object.__setattr__(self, "samples", listed_samples(self.samples))
        if self.class_names is not None:
            object.__setattr__(self, "samples", _found_among(self.samples, ClassOrder(self.class_names)))

    def pairs(self) -> list[tuple[Path, int]]:
        """Return paths and class indices, as `VideoFolder`, `hold_out` and `evaluate` take them.

        Raises:
            ValueError: a video has or may have several labels, or is no file.
        """
        if self.multi_label:
            raise ValueError(f"{self.source!r} gives a video several labels, or may; one each is needed here.")
        if not all(isinstance(sample.video, str) for sample in self.samples):
            raise ValueError(f"The videos of {self.source!r} are no files of their own, which are needed here.")
        return [(Path(str(sample.video)), sample.labels[0]) for sample in self.samples]


# -- roots and classes -----------------------------------------------------------------------------------------------


class VideoRoot:
    """Hold the folder that paths start from and must not leave; `prefix` is its absolute path and a slash."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = os.path.abspath(folder)
        self.prefix = os.path.join(self.folder, "")
        if not os.path.isdir(self.folder):
            raise ValueError(f"There is no folder {str(folder)!r} for the videos: `root`.")

    def holds(self, path: str) -> bool:
        """Return whether an absolute path without `..` lies inside, judged by its text: a link may point anywhere."""
        return path.startswith(self.prefix) and len(path) > len(self.prefix)


class LabelMap:
    """Map texts to class indices: a number is an index, anything else is a name.

    names: the class names in the order of their indices; None where they are not known.
    multi_label: whether a video may have several labels; None where nobody asked for them, so that it may not.
    first_index: the number of the first class; numbers count from it.
    has_numbers: whether a label was given as a number so far.
    """

    def __init__(self, names: list[str] | None, *, multi_label: bool | None = None, first_index: int = 0) -> None:
        self.names, self.multi_label, self.first_index = names, multi_label, first_index
        self.has_numbers = False
        self.order = ClassOrder(names or ())
        self.by_name = self.order.by_name

    def find(self, text: str) -> int | None:
        """Return the index that a text stands for, which may be out of range; None where it stands for none."""
        if not is_index(text):
            return self.by_name.get(text)
        index = int(text) - self.first_index
        found = self.order.find(index)
        return index if found is None else found

    def index(self, text: str, line: Line, position: int) -> int:
        """Return the index that a text stands for; anything else is an AnnotationError at that place of the line."""
        index = self.find(text)
        if index is None:
            raise line.fault(position, f"{text!r} is no class index{self._no_name(text)}")
        self.has_numbers = self.has_numbers or is_index(text)
        if self.names is not None and not 0 <= index < len(self.names):
            first, last = self.first_index, self.first_index + len(self.names) - 1
            hint = f"; indices start at {first}" if index in (-1, len(self.names)) else ""
            raise line.fault(
                position, f"the class index {text} is not in {first} to {last}, as the class names are{hint}"
            )
        return index

    def named(self, text: str, line: Line, position: int = 0) -> int:
        """Return the index of a name, which may be a number; an unknown name is an AnnotationError."""
        if text not in self.by_name:
            raise line.fault(position, f"{text!r} is no class{self._no_name(text)}")
        return self.by_name[text]

    def _remedy(self, cells: list[tuple[str, int]]) -> str:
        """Say how several labels are asked for, unless whoever reads refuses them, and what two numbers may be."""
        frames = len(cells) == 2 and all(is_index(cell) for cell, _ in cells)
        hint = "; a number of frames stands only behind a folder of frames" if frames else ""
        if self.multi_label is False:
            return hint
        return f": several are read where they are asked for, by `multi_label=True` or --multi_label{hint}"

    def _no_name(self, text: str) -> str:
        if self.names is None:
            return ", and there are no class names it could be one of: pass `labels`"
        close = difflib.get_close_matches(text, self.names, n=1)
        return f" and none of the {len(self.names)} class names" + (f": {close[0]!r}?" if close else "")

    def indices(self, line: Line, start: int) -> tuple[int, ...]:
        """Return the indices of the labels that stand in a line from `start` on.

        Indices are separated as in lists; names are the cells of a row (`cells_of`).
        """
        text = line.text[start:].lstrip(SEPARATORS)
        begin = len(line.text) - len(text)
        if is_index(text) or unquoted(text) in self.by_name:
            return (self.index(unquoted(text), line, begin),)
        if not text:
            hint = "" if self.names else "; class names need `labels`"
            raise line.fault(begin, f"there is no label behind the path {line.text!r}{hint}")
        cells = [(unquoted(token[0]), token.start()) for token in TOKEN.finditer(text)]
        if self.names is not None and not all(is_index(cell) for cell, _ in cells):
            cells = cells_of(text.rstrip(SEPARATORS))
        return self.several([(cell, begin + position) for cell, position in cells], line)

    def several(self, cells: list[tuple[str, int]], line: Line, *, by_name: bool = False) -> tuple[int, ...]:
        """Return the indices of texts, which are given with their positions; with `by_name` numbers are names, too."""
        found: list[int] = []
        for text, position in cells:
            index = (self.named if by_name else self.index)(text, line, position)
            if found and not self.multi_label:
                raise line.fault(position, f"one label is allowed, and {text!r} is another{self._remedy(cells)}")
            if index in found:
                hint = f"; {ONE_HOT}" if {cell for cell, _ in cells} <= {"0", "1"} else ""
                raise line.fault(position, f"the label {text!r} stands there twice{hint}")
            found.append(index)
        return tuple(found)


def classes_of(labels: Labels | None, *, multi_label: bool | None = None) -> LabelMap:
    """Make a LabelMap of what `read_annotations` takes for `labels`."""
    if labels is None:
        return LabelMap(None, multi_label=multi_label)
    names, first_index = _names_and_first_index(labels)
    return LabelMap(check_labels(names), multi_label=multi_label, first_index=first_index)


def _names_and_first_index(labels: Labels) -> tuple[Any, int]:
    if isinstance(labels, Mapping):
        return _names_by_index(labels, "`labels`")
    if not isinstance(labels, (str, os.PathLike)):
        return labels, 0
    if labels in DATA_SETS or Path(labels).suffix.lower() != ".json":
        return names_and_first_index(labels)
    table = parse_json(read_text(labels))
    return _names_by_index(table, str(labels)) if isinstance(table, dict) else (table, 0)


def _names_by_index(table: Mapping[str, Any], source: str) -> tuple[list[str], int]:
    """Return the names of `{name: index}` in the order of the indices, which may be texts, and the first index."""
    by_index = {int(index): name for name, index in table.items() if is_index(str(index))}
    first = min(by_index, default=0)
    if not table or first > 1 or sorted(by_index) != list(range(first, first + len(table))):
        raise ValueError(
            f"{source} must give each class name an index from 0 to {len(table) - 1}, or from 1 to {len(table)}, "
            "each once."
        )
    return [by_index[index] for index in sorted(by_index)], first


def annotations_of_samples(
    samples: list[Sample], classes: LabelMap, format: str, source: str, **more: Any
) -> Annotations:
    """Make the Annotations of samples that were read with a LabelMap; `more` are further fields.

    Raises:
        AnnotationError: every video has the labels 0 and 1, which stand there as `1 0` at least once.
    """
    if (1, 0) in (found := {sample.labels for sample in samples}) and found <= {(0, 1), (1, 0)}:
        raise annotation_error(source, f"every video has the labels 0 and 1; {ONE_HOT}")
    more |= {"first_index": classes.first_index, "has_numbers": classes.has_numbers}
    return Annotations(samples, classes.names, bool(classes.multi_label), format, source, **more)


class SampleCollector:
    """Collect samples, and refuse a video that was added before."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._lines: dict[Any, int | None] = {}

    def add(self, sample: Sample, line: Line, position: int = 0) -> None:
        """Add the sample of a line; a video that stands in another line is an AnnotationError."""
        key = sample.video if sample.start is None else (sample.video, sample.start, sample.end)
        first = self._lines.setdefault(key, line.number)
        if first != line.number:
            raise line.fault(position, f"the video {sample.name!r} stands in line {first}, too")
        self.samples.append(sample)

    def annotations(self, file: str, format: str, classes: LabelMap, **more: Any) -> Annotations:
        """Return what the file holds; `more` are further fields. A file without a video is an AnnotationError."""
        if not self.samples:
            raise annotation_error(file, "no video is listed there", line=1, column=1)
        return annotations_of_samples(self.samples, classes, format, file, **more)


def refuse_common_videos(training: Annotations, test: Annotations) -> None:
    """Raise a ValueError that names a video which stands in both lists, if there is one."""
    both = {sample.video for sample in training.samples} & {sample.video for sample in test.samples}
    if both:
        raise ValueError(f"{len(both)} videos are in both lists, such as {min(map(str, both))!r}.")


def samples_hash(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of names, times and labels, in their order, as hexadecimal digits."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.name, sample.start, sample.end, sample.labels]).encode() + b"\n")
    return digest.hexdigest()


LabelledVideos = Annotations | Sequence[Sample | tuple[Any, Any]]


def listed_samples(samples: LabelledVideos, *, row: int | None = None) -> list[Sample]:
    """Return the samples of annotations, or make them of pairs: a video (path or bytes) and its labels.

    Labels are a class index or a class name, or several of them. Names become indices of all names, sorted.

    row: K of a model that gives a video several labels: those of a pair may be a row of K values 0 and 1.

    Raises:
        ValueError: what is no label, or a label twice; names and indices mixed.
    """
    items: list[Any] = list(samples.samples if isinstance(samples, Annotations) else samples)
    labels = with_indices([_labels(item, row) for item in items])
    listed = map(_sample, items)
    return [
        sample if indices is sample.labels else sample._replace(labels=indices)
        for sample, indices in zip(listed, labels)
    ]


def _labels(item: Any, row: int | None) -> Sequence[int] | Sequence[str]:
    """Return the labels of a sample or pair; a ValueError names its video."""
    sample = _sample(item)
    if isinstance(item, Sample) and _is_plain(item.labels):
        return item.labels
    given, row = (item.labels, None) if isinstance(item, Sample) else (item[1], row)
    try:
        return labels_of_pair(given, row=row)
    except ValueError as error:
        raise ValueError(f"{f'{path_of(sample)}: {_as_text(given)}'!r:.300}: {error}.") from None


def _is_plain(labels: Any) -> bool:
    """Return whether labels are one index, as most are: lists are long."""
    return type(labels) is tuple and len(labels) == 1 and type(labels[0]) in (int, ClassIndex) and labels[0] >= 0


def _as_text(labels: Any) -> str:
    return ", ".join(map(str, labels)) if isinstance(labels, (list, tuple)) else str(labels)


def _sample(item: Any) -> Sample:
    if isinstance(item, Sample):
        return item
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(
            "Labelled videos are annotations, samples, or pairs of a video and its labels; among these is "
            f"{type(item).__name__} {item!r:.80}. `read_annotations` reads a data set of `datasets`."
        )
    video, _ = item
    return Sample(str(video) if isinstance(video, Path) else video, (), _shown(video))


def join_classes(
    samples: LabelledVideos,
    class_names: Sequence[str],
    *,
    multi_label: bool = False,
    warn: Callable[[str], object] = logger.warning,
) -> LabelledVideos:
    """Return labelled videos with the indices of `class_names`, a model's or another list's.

    A label that carries a name is found by it; only classes that a video has must be there. A label without one is
    taken as an index of `class_names`, and so is every label where those are numbered only (`LABEL_0`); both are
    logged. Joined once, nothing happens again.

    Args:
        samples: annotations, which stay annotations; samples or pairs, which become samples.
        multi_label: pairs may hold rows of 0 and 1, as in `listed_samples`.
        warn: logs what is joined without names.

    Raises:
        ValueError: names that are none of `class_names`, also in pairs for numbered ones; indices beyond them, or what
            `listed_samples` refuses.
    """
    row = len(class_names) if multi_label else None
    samples = samples if isinstance(samples, Annotations) else list(samples)
    listed = listed_samples(samples, row=row)
    order, labels = ClassOrder(class_names), [label for sample in listed for label in sample.labels]
    if are_numbered(order.names) and any(name_of(label) not in order.by_name for label in labels):
        refuse_two_orders(labels)
        _refuse_texts(samples, row)
        listed = [sample._replace(labels=tuple(map(int, sample.labels))) for sample in listed]
        warn(f"The {len(order.names)} classes have numbers for names: labels are taken as their indices.")
    elif bare := sum(any(name_of(label) is None for label in sample.labels) for sample in listed):
        first = ", ".join(f"{index} is {name!r}" for index, name in enumerate(order.names[:2]))
        warn(
            f"The labels of {bare} of {len(listed)} videos have no names: they are taken as indices of the "
            f"{len(order.names)} classes, of which {first}."
        )
    joined = _found_among(listed, order)
    if not isinstance(samples, Annotations):
        return joined
    return replace(samples, samples=joined, class_names=order.names, first_index=0)


def _refuse_texts(samples: Annotations | list[Any], row: int | None) -> None:
    """Raise a ValueError where the labels of pairs are texts: a model's numbered classes are none of them."""
    given = () if isinstance(samples, Annotations) else (label for item in samples for label in _labels(item, row))
    text = next((label for label in given if isinstance(label, str)), None)
    if text is not None:
        raise ValueError(
            f"Labels are class names, as {text!r}, and the model's classes have numbers for names (LABEL_0, ...): "
            "give their indices, or name the classes by `set_labels`."
        )


def _found_among(samples: list[Sample], order: ClassOrder) -> list[Sample]:
    """Return the samples with the indices of their classes in that order, with names.

    Raises:
        ValueError: names or indices that are not there.
    """
    if all(order.is_of(label) for sample in samples for label in sample.labels):
        return samples
    found = [tuple(map(order.find, sample.labels)) for sample in samples]
    lost = [sample for sample, indices in zip(samples, found) if None in indices]
    count = len(order.names)
    names = sorted({name for s in lost for x in s.labels if (name := name_of(x)) and order.find(x) is None})
    if names:
        shown = ", ".join(map(order.no_name, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(
            f"{len(lost)} videos, such as {path_of(lost[0])!r}, have classes that are none of the {count} class names "
            f"({preview(order.names)}): {shown}."
        )
    if lost:
        shown = preview([*map(shown_with_labels, lost)])
        raise ValueError(f"There are classes 0 to {count - 1}; {len(lost)} videos have others: {shown}.")
    return [sample._replace(labels=indices) for sample, indices in zip(samples, found)]  # type: ignore[arg-type]


def shown_with_labels(sample: Sample) -> str:
    """Return a video's path and its labels, for errors."""
    return f"{path_of(sample)}: {_as_text(sample.labels) or 'none'}"


def _shown(video: Any) -> str:
    return hashlib.sha256(video).hexdigest() if isinstance(video, bytes) else redact(str(video))


def path_of(sample: Sample) -> str:
    """Return the path of a video for reports, or what the annotation calls a video that is no file; no secrets.

    Of a part of a file its seconds stand behind the path, as no other part of it is meant.
    """
    if not isinstance(sample.video, str):
        return redact(sample.name)
    return f"{redact(sample.video)}{part_suffix(sample.start, sample.end)}"


def part_suffix(start: float | None, end: float | None) -> str:
    """Return what stands behind the name of a part of a video, as addresses name parts of media; "" of all of it."""
    if start is None and end is None:
        return ""
    return f"#t={'' if start is None else start}" + ("" if end is None else f",{end}")


def named_source(samples: Sequence[Sample], index: int) -> tuple[str, Any]:
    """Return the name and the video of one of the samples, as `read_views` asks for them."""
    sample = samples[index]
    return sample.name, sample.video if sample.start is None and sample.end is None else Excerpt(sample)

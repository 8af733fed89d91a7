"""Reads videos that are no files of their own: in tar shards, as of WebDataset, and in data sets of `datasets`."""

import glob
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from transformers.utils import logging

from ..model.video_reading_ila import VIDEO_SUFFIXES
from .lists import kind_of_file, warn_of_left_out
from .samples import (
    SPLITS,
    Annotations,
    DatasetRow,
    LabelMap,
    Labels,
    Sample,
    ShardMember,
    annotations_of_samples,
    classes_of,
)
from .text import Line, Text, annotation_error, decoded, is_index, nonblank_lines, parse_json, place_of, preview


logger = logging.get_logger(__name__)


# -- shards ----------------------------------------------------------------------------------------------------------

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RANGE = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
LABEL_KEYS = ("label", "labels", "cls")  # of a member `key.json`
LABEL_BYTES = 2**20  # more is no label


def list_shards(source: str | Path | Sequence[str | Path]) -> list[str]:
    """Return the paths of shards: a file, a folder of them, `train-{000..099}.tar`, `train-*.tar`, or a list of those.

    Raises:
        ValueError: there is none, or one of a list or of a range is missing.
    """
    if not isinstance(source, (str, os.PathLike)):
        return [shard for item in source for shard in list_shards(item)]
    text = os.fspath(source)
    if os.path.isdir(text):
        shards = sorted(os.path.join(text, name) for name in os.listdir(text) if names_shards(name))
        warn_of_left_out(text, Counter(kind_of_file(name) for name in os.listdir(text) if not names_shards(name)))
    elif os.path.exists(text):
        shards = [text]
    else:
        shards = [shard for path in expand_range(text) for shard in (sorted(glob.glob(path)) or [path])]
    missing = [shard for shard in shards if not os.path.isfile(shard)]
    if missing or not shards:
        raise ValueError(
            f"{text!r} must give shards ({', '.join(SHARD_SUFFIXES)}); missing: {preview(missing or [text])}."
        )
    return shards


def read_shards(
    source: str | Path | Sequence[str | Path], *, labels: Labels | None = None, multi_label: bool | None = None
) -> Annotations:
    """Read uncompressed WebDataset shards: members `key.mp4` with `key.cls` or `key.json`; see `list_shards`.

    Only the shards' headers and labels are read. A sample's video says where its bytes are. Labels are as in
    `stream_shard`; other arguments and errors are as in `read_annotations`. Faults name shard and member.
    """
    classes = classes_of(labels, multi_label=multi_label)
    samples: list[Sample] = []
    shard_of: dict[str, str] = {}
    for shard in list_shards(source):
        try:
            tar = tarfile.open(shard, "r:", tarinfo=_StrictHeader)
        except tarfile.ReadError as error:
            raise annotation_error(
                shard, f"no uncompressed tar file ({error}); `stream_shard` reads others, too"
            ) from error
        with tar:
            for sample in _samples_of_shard(tar, shard, classes, keep_bytes=False):
                if shard_of.setdefault(sample.name, shard) != shard:
                    raise annotation_error(shard, f"the key {sample.name!r} stands in {shard_of[sample.name]!r}, too")
                samples.append(sample)
    if not samples:
        raise ValueError(f"The shards {source!r} hold no video; known suffixes: {', '.join(VIDEO_SUFFIXES)}.")
    return annotations_of_samples(samples, classes, "shards", str(source))


def stream_shard(
    shard: str | Path, *, file: BinaryIO | None = None, labels: Labels | None = None, multi_label: bool | None = None
) -> Iterator[Sample]:
    """Yield the samples of one shard in their order, with the videos' bytes. It is read once, from beginning to end.

    A member's key is its name without the last suffix, and members of one key stand side by side. Its labels are the
    content of `key.cls`, as behind the path in `read_list`, or `label`, `labels` or `cls` in `key.json`: an index, a
    name or a list of them. Hidden members, and those with other suffixes, are ignored; keys that have labels and no
    video are counted in a warning.

    Args:
        shard: a tar file, compressed or not; with `file`, only its name in messages.
        file: the shard as a binary file object, which need not seek.
        labels, multi_label: as in `read_annotations`.

    Raises:
        AnnotationError: it is no tar file or a damaged one, a video has no labels, or labels have faults.
    """
    classes = classes_of(labels, multi_label=multi_label)
    try:
        tar = tarfile.open(None if file else shard, "r|*", fileobj=file, tarinfo=_StrictHeader)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise annotation_error(str(shard), f"no tar file ({error})") from error
    with tar:
        yield from _samples_of_shard(tar, str(shard), classes, keep_bytes=True)


def video_members(file: BinaryIO, shard: str) -> Iterator[ShardMember]:
    """Yield where each video of an uncompressed shard lies; only the headers of its members are read.

    Args:
        file: the shard as a binary file object that can seek.
        shard: its path or address.

    Raises:
        AnnotationError: it is no uncompressed tar file, is damaged, or ends before its end.
    """
    try:
        tar = tarfile.open(None, "r:", fileobj=file, tarinfo=_StrictHeader)
    except tarfile.ReadError as error:
        raise annotation_error(
            shard, f"no uncompressed tar file ({error}), and of a compressed one no video can be read alone"
        ) from error
    with tar:
        for member in _members(tar, shard):
            name = os.path.normpath(member.name)
            if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not os.path.basename(name).startswith("."):
                yield ShardMember(shard, name, member.offset_data, member.size)
        end, size = tar.offset, file.seek(0, os.SEEK_END)
        file.seek(end)
        if end < size and file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise annotation_error(shard, f"the shard has {size} bytes and cannot be read behind the first {end}")


class _StrictHeader(tarfile.TarInfo):
    """Make a damaged header an error; `tarfile` by itself takes it for the end of the file."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(str(error)) from error
            raise  # zeros, or nothing: the end


def _samples_of_shard(tar: tarfile.TarFile, shard: str, classes: LabelMap, *, keep_bytes: bool) -> Iterator[Sample]:
    seen, without_video = set(), list[str]()
    for key, members in _members_by_key(tar, shard, keep_bytes=keep_bytes):
        videos = [members[suffix] for suffix in members if suffix in VIDEO_SUFFIXES]
        if not videos:
            without_video += [key] if members else []
            continue
        if len(videos) > 1 or key in seen:
            raise annotation_error(shard, f"{key!r} is the key of several videos")
        seen.add(key)
        if ".cls" in members:
            labels = _labels_of_cls(members[".cls"], f"{shard}/{key}.cls", classes)
        elif ".json" in members:
            labels = _labels_of_json(members[".json"], f"{shard}/{key}.json", classes)
        else:
            raise annotation_error(
                shard, f"beside the video of {key!r} stands neither {key + '.cls'!r} nor {key + '.json'!r}"
            )
        yield Sample(videos[0], labels, key)
    if without_video:
        logger.warning_once(
            f"{shard!r}: {len(without_video)} keys have labels and no video, and are left out: "
            f"{preview(without_video)}; known suffixes: {', '.join(VIDEO_SUFFIXES)}."
        )


def _members_by_key(tar: tarfile.TarFile, shard: str, *, keep_bytes: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each key with its members by suffix: bytes of labels, and bytes of videos or where those are."""
    last, members = "", dict[str, Any]()
    for member in _members(tar, shard):
        key, suffix = os.path.splitext(os.path.normpath(member.name))
        suffix = suffix.lower()
        is_video = suffix in VIDEO_SUFFIXES
        if not (is_video or suffix in (".cls", ".json")) or os.path.basename(key).startswith("."):
            continue
        if key.startswith(("../", "/")):
            raise annotation_error(shard, f"the member {member.name!r} leaves the shard's root")
        if key != last:
            yield last, members
            last, members = key, {}
        if is_video and not keep_bytes:
            members[suffix] = ShardMember(os.path.abspath(shard), member.name, member.offset_data, member.size)
        else:
            members[suffix] = _content(tar, member, shard, limit=None if is_video else LABEL_BYTES)
    yield last, members


def _members(tar: tarfile.TarFile, shard: str) -> Iterator[tarfile.TarInfo]:
    last = "its beginning"
    try:
        for member in tar:
            last = repr(member.name)
            if member.isreg() and not member.issparse():
                yield member
            tar.members = []  # type: ignore[attr-defined]  # or it would remember them all
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise annotation_error(shard, f"the shard cannot be read behind {last} ({error})") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: str, *, limit: int | None) -> bytes:
    if limit is not None and member.size > limit:
        raise annotation_error(shard, f"the member {member.name!r} has {member.size} bytes, too many for a label")
    try:
        file = tar.extractfile(member)
        content = b"" if file is None else file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise annotation_error(shard, f"the member {member.name!r} cannot be read ({error})") from error
    if len(content) < member.size:
        raise annotation_error(shard, f"the member {member.name!r} ends after {len(content)} of {member.size} bytes")
    return content


def _labels_of_cls(content: bytes, file: str, classes: LabelMap) -> tuple[int, ...]:
    lines = list(nonblank_lines(Text(file, decoded(content, file), "")))
    if len(lines) > 1:
        raise lines[1].fault(0, "a label is one line")
    return classes.indices(lines[0], 0)


def _labels_of_json(content: bytes, file: str, classes: LabelMap) -> tuple[int, ...]:
    text = Text(file, decoded(content, file), "")
    table = parse_json(text)
    key = next((key for key in LABEL_KEYS if isinstance(table, dict) and key in table), None)
    value = table[key] if key else table
    found = re.search(rf'"{key}"\s*:\s*', text.text)
    number, column = place_of(text.text, found.end() if found else 0)
    line = Line(file, number, "", indent=column - 1)
    if isinstance(value, dict):
        reason = f"of {', '.join(map(repr, value))} none is a label: call it {', '.join(map(repr, LABEL_KEYS))}"
        raise line.fault(0, reason)
    return labels_of_value(value, line, classes)


def labels_of_value(value: Any, line: Line, classes: LabelMap) -> tuple[int, ...]:
    """Return the class indices of a value: an index, a name, or a list of them."""
    values = value if isinstance(value, list) else [value]
    wrong = [item for item in values if isinstance(item, bool) or not isinstance(item, (int, str))]
    if wrong or not values:
        raise line.fault(0, f"{value!r} is no class index, no class name and no list of them")
    return classes.several([(str(item), 0) for item in values], line)


def names_shards(path: str) -> bool:
    """Return whether a path has the suffix of a shard."""
    return path.lower().endswith(SHARD_SUFFIXES)


def expand_range(path: str) -> list[str]:
    """Return the paths that `{000..099}` in a path stands for."""
    found = RANGE.search(path)
    if found is None:
        return [path]
    numbers = range(int(found[1]), int(found[2]) + 1)
    width = len(found[1])
    before, after = path[: found.start()], path[found.end() :]
    return [more for number in numbers for more in expand_range(f"{before}{number:0{width}}{after}")]


# -- `datasets` ------------------------------------------------------------------------------------------------------


def read_dataset(
    source: Any, *, labels: Labels | None = None, split: str | None = None, multi_label: bool | None = None
) -> Annotations:
    """Read a `datasets.Dataset`, or a `DatasetDict` and `split`, with a video column and a column `label` or `labels`.

    Videos are loaded when they are needed and are not decoded by `datasets`. Class names are those of the label's
    `ClassLabel`, or, where labels are texts that are no numbers, these texts, sorted; where `labels` gives others,
    classes are matched by name.

    Raises:
        AnnotationError: a label has a fault; the message names the row.
        ValueError: there is no video column or no column of labels, `split` chooses none of several splits, or the
            data set is a streaming one.
    """
    dataset = _dataset_of_split(source, split)
    video, label = _columns_of_dataset(dataset)
    values = list(dataset.with_format(None)[label])
    own = label_feature_names(dataset.features[label])
    if labels is None and own is None and not all(is_index(text) for text in _texts_in(values)):
        labels = sorted(set(_texts_in(values)))
    classes = classes_of(own if labels is None else labels, multi_label=multi_label)
    feature = type(dataset.features[video])(decode=False)
    rows = dataset.with_format(None).cast_column(video, feature)
    name = f"{dataset.info.dataset_name or 'dataset'}, column {label}"
    samples = []
    for index, value in enumerate(values):
        line = Line(f"{name}, row {index}", None, "")
        found = labels_of_value(value, line, classes) if own is None else labels_by_name(value, own, line, classes)
        samples.append(Sample(DatasetRow(rows, video, index), found, f"row {index}"))
    if not samples:
        raise ValueError(f"The data set {name!r} is empty.")
    return annotations_of_samples(samples, classes, "datasets", name)


def _texts_in(values: list[Any]) -> list[str]:
    """Return the texts among labels, each of which may be a list."""
    flat = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, str)]


def _dataset_of_split(source: Any, split: str | None) -> Any:
    if not isinstance(source, dict):
        if split is not None:
            raise ValueError("`split` goes with a `DatasetDict`; this data set has no splits.")
        if not hasattr(source, "__len__"):
            raise ValueError("A streaming data set cannot be listed: load it without `streaming=True`.")
        return source
    names = {SPLITS.get(name.lower(), name): name for name in source}
    wanted = SPLITS.get(split.lower(), split) if split is not None else next(iter(names)) if len(names) == 1 else None
    if wanted not in names:
        raise ValueError(f"`split` must be one of {list(source)}, got {split!r}.")
    return _dataset_of_split(source[names[wanted]], None)


def _columns_of_dataset(dataset: Any) -> tuple[str, str]:
    features = dataset.features
    videos = [name for name, feature in features.items() if type(feature).__name__ == "Video"]
    if len(videos) != 1:
        raise ValueError(
            f"One column must be a video, of {list(features)} {len(videos)} are: "
            "`dataset.cast_column(name, datasets.Video(decode=False))` makes one of paths or bytes."
        )
    named = [name for name in ("label", "labels") if name in features]
    others = [name for name, feature in features.items() if label_feature_names(feature) is not None]
    if not named and len(others) != 1:
        raise ValueError(f"A column must be called `label` or `labels`, got {list(features)}: rename one.")
    return videos[0], (named or others)[0]


def label_feature_names(feature: Any) -> list[str] | None:
    """Return the names of a `ClassLabel` or of a list of them; None of another feature."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return None if names is None else list(names)


def labels_by_name(value: Any, names: list[str], line: Line, classes: LabelMap) -> tuple[int, ...]:
    """Turn the indices of a `ClassLabel` into those of its names among the classes, whose order may be another."""
    values = value if isinstance(value, list) else [value]
    wrong = [index for index in values if not (isinstance(index, int) and 0 <= index < len(names))]
    if wrong or not values:
        raise line.fault(0, f"the label {value!r} is not in 0 to {len(names) - 1}: is this a split without labels?")
    return classes.several([(names[index], 0) for index in values], line, by_name=True)

"""Reads videos that are no files of their own: in tar shards, as of WebDataset, and in data sets of `datasets`."""

import glob
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

from transformers.utils import logging

from ..model.video_reading_ila import VIDEO_SUFFIXES
from ..model.video_urls_ila import is_url, redact
from ..stores.addresses import is_address, join_address, plain_place
from ..stores.listing import sizes_at
from ..stores.reading import HEADER_BLOCK, open_file, read_file
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
    """Return the shards of a source: a file, a folder, `train-{000..099}.tar`, `train-*.tar`, or a list of those.

    Each may be a path or an address that fsspec opens, such as `s3://bucket/shards` or `https://host/train-000.tar`.

    Raises:
        ValueError: there is none, one of a list or of a range is missing, or `ila shard` has not written all of them.
        ImportError: the package for such an address is not installed.
        OSError: the store does not answer.
    """
    return list(shard_sizes(source))


def shard_sizes(source: str | Path | Sequence[str | Path]) -> dict[str, int]:
    """Return the shards that `list_shards` does, and how many bytes each has."""
    if not isinstance(source, (str, os.PathLike)):
        return {shard: size for item in source for shard, size in shard_sizes(item).items()}
    text = plain_place(os.fspath(source))
    found = _sizes_at_address(text) if is_address(text) else _sizes_of_files(text)
    missing = [shard for shard, size in found.items() if size is None]
    if missing or not found:
        raise ValueError(
            f"{redact(text)!r} must give shards ({', '.join(SHARD_SUFFIXES)}); missing: {preview(missing or [text])}."
        )
    return {shard: size for shard, size in found.items() if size is not None}


def _sizes_of_files(text: str) -> dict[str, int | None]:
    """Return shards and their sizes, which are None of what is missing; of a folder those that lie in it."""
    if os.path.isdir(text):
        names = sorted(os.listdir(text))
        refuse_unfinished(text, names)
        shards = [os.path.join(text, name) for name in names if names_shards(name)]
        _warn_of_others(text, names)
    else:
        shards = files_of_pattern(text)
    return {shard: os.path.getsize(shard) if os.path.isfile(shard) else None for shard in shards}


def files_of_pattern(text: str) -> list[str]:
    """Return the paths of a range or a pattern; what exists, or matches nothing, is one path."""
    if os.path.exists(text):
        return [text]
    return [file for path in expand_range(text) for file in sorted(glob.glob(path, recursive=True)) or [path]]


def _sizes_at_address(text: str) -> dict[str, int | None]:
    """Return what `_sizes_of_files` does of an address; a range is looked up in one listing of its folder."""
    paths = expand_range(text)
    if paths != [text]:
        folder, _, _ = paths[0].rpartition("/")
        listed = {} if is_url(text) or "{" in folder else sizes_at(folder)
        return {path: listed[path] if path in listed else sizes_at(path).get(path) for path in paths}
    found = sizes_at(text)
    if names_shards(text):
        return dict(found)
    names = [shard.rpartition("/")[2] for shard in found]
    refuse_unfinished(text, names)
    _warn_of_others(redact(text), names)
    return {shard: size for shard, size in found.items() if names_shards(shard)}


def _warn_of_others(folder: str, names: Sequence[str]) -> None:
    others = [name for name in names if not names_shards(name) and name not in (INDEX, TABLE)]
    warn_of_left_out(folder, Counter(map(kind_of_file, others)))


def refuse_unfinished(folder: str, names: Collection[str]) -> None:
    """Raise a ValueError where names of a folder's files say that `ila shard` has not written all of them."""
    if SETTINGS in names and INDEX not in names:
        raise ValueError(
            f"{redact(folder)!r} holds a part of the shards that `ila shard` writes there: give its command "
            "again, and it goes on."
        )


def read_shards(
    source: str | Path | Sequence[str | Path], *, labels: Labels | None = None, multi_label: bool | None = None
) -> Annotations:
    """Read uncompressed WebDataset shards: members `key.mp4` with `key.cls` or `key.json`; see `list_shards`.

    Of shards that `ila shard` wrote their tables are read, which name videos, labels and classes. Of others, headers
    and labels are read, and nothing names the classes but `labels`. A sample's video says where its bytes are. Labels
    are as in `stream_shard`; other arguments and errors are as in `read_annotations`. Faults name shard and member.
    """
    sizes = shard_sizes(source)
    found = _read_tables(sizes, labels, multi_label=multi_label)
    if found is None:
        classes = classes_of(labels, multi_label=multi_label)
        found = _scanned(sizes, classes), classes
    samples, classes = found
    if not samples:
        raise ValueError(f"The shards {_shown(source)} hold no video; known suffixes: {', '.join(VIDEO_SUFFIXES)}.")
    return annotations_of_samples(samples, classes, "shards", redact(str(source)))


def _shown(source: Any) -> str:
    return preview([source] if isinstance(source, (str, os.PathLike)) else source)


def _scanned(shards: Iterable[str], classes: LabelMap) -> list[Sample]:
    """Return the samples of shards, by their headers."""
    samples: list[Sample] = []
    shard_of: dict[str, str] = {}
    for shard in shards:
        with ExitStack() as stack:
            file = stack.enter_context(open_file(shard, block=HEADER_BLOCK))
            try:
                tar = tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictHeader)
            except tarfile.ReadError as error:
                raise annotation_error(
                    shard, f"no uncompressed tar file ({error}); `stream_shard` reads others, too"
                ) from error
            stack.enter_context(tar)
            for sample in _samples_of_shard(tar, shard, classes, keep_bytes=False):
                if shard_of.setdefault(sample.name, shard) != shard:
                    raise annotation_error(shard, f"the key {sample.name!r} stands in {shard_of[sample.name]!r}, too")
                samples.append(sample)
    return samples


# -- what `ila shard` wrote ------------------------------------------------------------------------------------------

INDEX = "shards.json"  # as `wids` has it: name, number of samples and size of each shard; and our settings and hashes
SECONDS_KEY = "seconds"  # of a `key.json`: start and end of the part of the video that is meant
TABLE = "samples.jsonl"  # a line for each video: shard, member, offset, size, labels, name, start, end
SETTINGS = "_settings.json"  # of shards that are not all written yet
INDEX_KIND = {"__kind__": "wids-shard-index-v1", "wids_version": 1}


def _read_tables(
    sizes: Mapping[str, int], labels: Labels | None, *, multi_label: bool | None
) -> tuple[list[Sample], LabelMap] | None:
    """Return the samples of shards and their classes by the table beside them; None where there is none of them all.

    Raises:
        ValueError: a shard has another size than the index says, or the table has another content.
    """
    folders = {os.path.dirname(shard) for shard in sizes}
    folder = folders.pop()
    index = None if folders else read_index(folder)
    listed = {} if index is None else {entry["url"]: entry for entry in index["shardlist"]}
    by_name = {os.path.basename(shard): shard for shard in sizes}
    if index is None or not by_name.keys() <= listed.keys():
        return None
    for name, shard in by_name.items():
        if sizes[shard] != listed[name]["filesize"]:
            raise ValueError(
                f"{redact(shard)!r} has {sizes[shard]} bytes, and {INDEX!r} beside it says "
                f"{listed[name]['filesize']}: write or copy it again."
            )
    own, given = index["class_names"], labels
    if own is not None and given is not None and any(map(is_index, own)) and classes_of(given).names != own:
        raise ValueError(f"The classes in {INDEX!r} of {redact(folder)!r} are numbers, which allow no other `labels`.")
    classes = classes_of(own if given is None else given, multi_label=multi_label)
    content = read_file(join_address(folder, TABLE)) or b""
    if hashlib.sha256(content).hexdigest() != index["table_sha256"]:
        raise ValueError(f"{TABLE!r} in {redact(folder)!r} is not the one that {INDEX!r} beside it names.")
    samples = []
    for number, text in enumerate(content.decode().splitlines(), 1):
        name, member, offset, size, indices, video, start, end = json.loads(text)
        if name not in by_name:
            continue
        line = Line(join_address(folder, TABLE), number, "")
        if not indices:
            raise line.fault(0, f"{video!r} has no label: these shards were written with --unlabelled")
        found = labels_of_value(indices, line, classes) if own is None else labels_by_name(indices, own, line, classes)
        shard = by_name[name] if is_address(by_name[name]) else os.path.abspath(by_name[name])
        samples.append(Sample(ShardMember(shard, member, offset, size), found, video, start, end))
    return samples, classes


def read_index(folder: str) -> dict[str, Any] | None:
    """Return the index that `ila shard` wrote in a folder or at an address; None where there is none of its own."""
    content = read_file(join_address(folder, INDEX))
    try:
        index = json.loads(content or b"null")
    except ValueError as error:
        raise ValueError(f"{INDEX!r} in {redact(folder)!r} is no JSON ({error}).") from error
    return index if isinstance(index, dict) and "table_sha256" in index else None


# -- members ---------------------------------------------------------------------------------------------------------


def stream_shard(
    shard: str | Path, *, file: BinaryIO | None = None, labels: Labels | None = None, multi_label: bool | None = None
) -> Iterator[Sample]:
    """Yield the samples of one shard in their order, with the videos' bytes. It is read once, from beginning to end.

    A member's key is its name without the last suffix, and members of one key stand side by side. Its labels are the
    content of `key.cls`, as behind the path in `read_list`, or `label`, `labels` or `cls` in `key.json`: an index, a
    name or a list of them. Where both are there and `key.json` holds a known class name, the name counts: a number
    depends on an order. Hidden members, and those with other suffixes, are ignored; keys that have labels and no video
    are counted in a warning.

    Args:
        shard: a tar file, compressed or not, or an address of one; with `file`, only its name in messages.
        file: the shard as a binary file object, which need not seek.
        labels, multi_label: as in `read_annotations`.

    Raises:
        AnnotationError: it is no tar file or a damaged one, a video has no labels, or labels have faults. A shard that
            ends early is damaged, also where it ends between two members.
        OSError: the store does not answer, or not in full, several times in a row.
    """
    classes = classes_of(labels, multi_label=multi_label)
    with ExitStack() as stack:
        if file is None:
            file = stack.enter_context(open_file(str(shard)))
            try:
                tar = tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictHeader)  # twice as fast as a stream
            except tarfile.ReadError:
                file.seek(0)
                tar = _open_stream(file, str(shard))  # compressed, say
        else:
            tar = _open_stream(file, str(shard))
        stack.enter_context(tar)
        yield from _samples_of_shard(tar, str(shard), classes, keep_bytes=True)


def _open_stream(file: BinaryIO, shard: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r|*", bufsize=2**16, tarinfo=_StrictHeader)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise annotation_error(shard, f"no tar file ({error})") from error


def video_members(file: BinaryIO, shard: str) -> Iterator[ShardMember]:
    """Yield where each video of an uncompressed shard lies; only the headers of its members are read.

    Args:
        file: the shard as a binary file object that can seek.
        shard: its path or address.

    Raises:
        AnnotationError: it is no uncompressed tar file, is damaged, or ends early.
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


class _StrictHeader(tarfile.TarInfo):
    """Make a damaged or a missing header an error; `tarfile` by itself takes either for the end of the file."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf) or not buf:
                raise tarfile.ReadError(str(error) if buf else "it ends without the mark of the end") from error
            raise  # zeros: the end


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
        named = ".cls" in members and _names_class(members.get(".json"), classes)
        if ".cls" in members and not named:
            labels = _labels_of_cls(members[".cls"], f"{shard}/{key}.cls", classes)
        elif ".json" in members:
            labels = _labels_of_json(members[".json"], f"{shard}/{key}.json", classes)
        else:
            raise annotation_error(
                shard, f"beside the video of {key!r} stands neither {key + '.cls'!r} nor {key + '.json'!r}"
            )
        yield Sample(videos[0], labels, key, *_seconds_of_json(members.get(".json")))
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
        if suffix in members:
            raise annotation_error(shard, f"the member {member.name!r} stands there twice")
        if is_video and not keep_bytes:
            place = shard if is_address(shard) else os.path.abspath(shard)
            members[suffix] = ShardMember(place, member.name, member.offset_data, member.size)
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


def _seconds_of_json(content: bytes | None) -> tuple[float | None, float | None]:
    """Return the start and the end of the part that a `key.json` of ours means; None of all of the video."""
    if content is None or SECONDS_KEY.encode() not in content:
        return None, None
    try:
        table = json.loads(content)
    except ValueError:
        return None, None
    span: Any = table.get(SECONDS_KEY) if isinstance(table, dict) else None
    given = isinstance(span, list) and len(span) == 2 and all(v is None or type(v) in (int, float) for v in span)
    return (span[0], span[1]) if given else (None, None)


def _names_class(content: bytes | None, classes: LabelMap) -> bool:
    """Return whether the labels in a `key.json` are names of known classes."""
    try:
        table = json.loads(content or b"null")
    except ValueError:
        return False  # where a `key.cls` has the labels, this may be anything
    value = next((table[key] for key in LABEL_KEYS if key in table), None) if isinstance(table, dict) else None
    values = value if isinstance(value, list) else [value]
    return all(isinstance(item, str) and item in classes.by_name for item in values)


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
    return (path.partition("?")[0] if is_url(path) else path).lower().endswith(SHARD_SUFFIXES)


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

"""Writes videos and labels as WebDataset shards of bounded size, to a folder or an address, in a run that can go on.

Which video lies in which shard follows from the videos' names, sizes and the options alone, and a shard's bytes follow
from what lies in it: times, owners and orders of folders are not in it. So a shard that is written again, after a kill
or by another process, is the same shard. One has its name only when it is whole.

In a folder lie, when all is written, `name-000000.tar` and on, `shards.json` (each shard's size and SHA-256) and
`samples.jsonl` (where each video lies, and what it shows). Before, `_settings.json` says what is being written, and
`_parts` what is done.
"""

import errno
import hashlib
import json
import os
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..distributed import Rank
from ..files import LOCK, FolderInUseError, only_writer
from ..model.video_reading_ila import VIDEO_SUFFIXES
from ..model.video_urls_ila import redact
from ..stores.addresses import is_address, join_address, plain_place
from ..stores.folder import StoreFolder
from ..stores.reading import open_file, read_file
from .samples import Annotations, Sample, ShardMember, path_of
from .shards import INDEX, INDEX_KIND, SECONDS_KEY, SETTINGS, TABLE, names_shards, read_index
from .text import is_index, preview


PARTS = "_parts"  # folder with a record of each shard that is whole
MEGABYTE = 10**6
BLOCK = 512  # bytes of a header; content is filled up to whole ones
END = tarfile.RECORDSIZE  # a tar file is filled up to whole ones
LONGEST_KEY = 60  # characters of the video's own name in a key
UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")  # a dot ends the key for some readers, and a slash begins a folder for others
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
PIECE = 2**20


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """Hold how large shards are, how they are called, and in which order videos go into them.

    Raises:
        ValueError: a number out of its range, or a name that cannot be that of a shard.
    """

    _argument_group_name = "shards"

    name: str = field(default="videos", metadata={"help": "what the shards are called: NAME-000000.tar and on"})
    shard_size: int = field(
        default=500, metadata={"help": "megabytes (10^6 bytes) of a shard at most; a larger video has one of its own"}
    )
    videos_per_shard: int = field(default=10_000, metadata={"help": "videos of a shard at most"})
    shuffle: bool = field(
        default=True, metadata={"help": "mix the videos, so that a shard has all classes; else they keep their order"}
    )
    shuffle_seed: int = field(default=0, metadata={"help": "another number mixes them in another way"})

    def __post_init__(self) -> None:
        for name in ("shard_size", "videos_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {getattr(self, name)}.")
        if not NAME.fullmatch(self.name):
            raise ValueError(f"`name` must be letters, digits, - and _, got {self.name!r}.")
        if not self.shuffle and self.shuffle_seed != ShardOptions.shuffle_seed:
            raise ValueError(f"`shuffle_seed` is {self.shuffle_seed} and has no effect without `shuffle`.")


class Entry(NamedTuple):
    """Hold a video on its way into a shard: its key there, its suffix and size, and its other members by suffix."""

    key: str
    sample: Sample
    suffix: str
    size: int
    members: dict[str, bytes]

    def tar_bytes(self) -> int:
        """Return how many bytes the video and what stands beside it take in a shard."""
        return sum(BLOCK + -(-size // BLOCK) * BLOCK for size in (self.size, *map(len, self.members.values())))


@dataclass
class ShardSummary:
    """Count what a run did: shards and videos in all of them, and of the shards those written now; missing videos."""

    shards: int = 0
    videos: int = 0
    bytes: int = 0
    written: int = 0
    finished: bool = False
    missing: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)


def write_shards(
    videos: Annotations | Sequence[Sample],
    output: str | Path,
    options: ShardOptions | None = None,
    *,
    skip_missing: bool = False,
    rank: Rank | None = None,
    progress: Callable[[int], object] = lambda videos: None,
) -> ShardSummary:
    """Write videos, with their labels where they have any, as shards; the same call goes on after a kill.

    A video's members are `key.mp4` (or its own suffix) with the bytes of its file; `key.json` with its "name" and,
    where it has labels, "label" and "class_index", or "labels" and "class_indices"; and with a single label `key.cls`,
    the index. Indices count from 0 in the order of `class_names`. A key is the video's number and what of its name
    all readers take alike, so that no two are the same.

    Args:
        videos: annotations, or samples without labels. Folders of frames are no files, and are refused.
        output: a folder, made if it is missing, or an address that fsspec writes to.
        skip_missing: leave out what does not exist, in place of an error.
        rank: which of several processes this is; each writes a share of the shards, and the last one the index.
        progress: is called with the number of videos in a shard that is done.

    Raises:
        ValueError: no videos, one that cannot lie in a shard, other shards than these in `output`, or (as
            FolderInUseError) another process that writes there. In a store, two that write the same do no harm.
        OSError: a video or the output cannot be read or written, or a file changes while it is read.
    """
    options, rank = options or ShardOptions(), rank or Rank()
    summary, folder = ShardSummary(), ShardFolder(str(output))
    entries = _entries(videos, summary, skip_missing=skip_missing)
    shards = _divided(entries, options)
    settings = _settings(videos, entries, options)
    with folder.only_writer(rank):
        _check_settings(folder, settings)
        done = folder.records([_shard_name(options, number) for number in range(len(shards))])
        index = read_index(folder.address)
        hashes = {} if index is None else {entry["url"]: entry["sha256"] for entry in index["shardlist"]}
        for number in range(rank.rank, len(shards), rank.world_size):
            name = _shard_name(options, number)
            if name not in done:
                _write_shard(folder, name, shards[number], sha256=hashes.get(name))
                summary.written += 1
            progress(len(shards[number]))
        summary.finished = _finish(folder, shards, settings, options)
    summary.shards, summary.videos = len(shards), len(entries)
    summary.bytes = sum(entry.size for entry in entries)
    return summary


def check_shards(output: str | Path, progress: Callable[[int], object] = lambda videos: None) -> list[str]:
    """Read all shards of a folder or an address again, and return what is wrong, a line each; empty where all is well.

    Raises:
        ValueError: there is no index, or the shards are not all written.
        OSError: the store does not answer.
    """
    folder = ShardFolder(str(output))
    index = read_index(folder.address)
    if index is None:
        raise ValueError(f"{redact(str(output))!r} holds no {INDEX!r} of `ila shard`, or not all shards yet.")
    wrong = []
    for entry in index["shardlist"]:
        try:
            digest, size = folder.digest(entry["url"])
        except FileNotFoundError:
            wrong.append(f"{entry['url']} is missing")
            continue
        if (digest, size) != (entry["sha256"], entry["filesize"]):
            wrong.append(f"{entry['url']} has other content: {size} bytes, of {entry['filesize']}")
        progress(entry["nsamples"])
    return wrong


# -- which video lies where ------------------------------------------------------------------------------------------


def _entries(videos: Annotations | Sequence[Sample], summary: ShardSummary, *, skip_missing: bool) -> list[Entry]:
    """Return the entries of all videos in their order; what is missing is an error, or is left out and counted."""
    samples = videos.samples if isinstance(videos, Annotations) else videos
    several = isinstance(videos, Annotations) and videos.multi_label
    names = videos.class_names if isinstance(videos, Annotations) else None
    width, entries = max(6, len(str(len(samples)))), []
    for number, sample in enumerate(samples):
        path, size = _path_and_size(sample)
        if size is None:
            summary.missing.append(path)
            continue
        stem, suffix = os.path.splitext(os.path.basename(path))
        suffix = suffix.lower()
        if suffix not in VIDEO_SUFFIXES:
            raise ValueError(
                f"{redact(path)!r} has no suffix by which readers of shards know a video: {', '.join(VIDEO_SUFFIXES)}."
            )
        own = UNSAFE.sub("_", stem)[-LONGEST_KEY:].strip("_")
        key = f"{number:0{width}}" + (f"-{own}" if own else "")
        entries.append(Entry(key, sample, suffix, size, _members(sample, names, several=several)))
        summary.suffixes[suffix] += 1
    if summary.missing and not skip_missing:
        raise ValueError(
            f"{len(summary.missing)} of {len(samples)} videos are missing: {preview(summary.missing)}. --skip_missing "
            "leaves them out."
        )
    if not entries:
        raise ValueError("There are no videos to write.")
    return entries


def _path_and_size(sample: Sample) -> tuple[str, int | None]:
    """Return what names a video's file, and its size; None where there is none."""
    video = sample.video
    if isinstance(video, ShardMember):
        return video.name, video.size
    if not isinstance(video, str):
        raise ValueError(f"{sample.name!r} is no file; videos in shards are files or members of other shards.")
    try:
        found = os.stat(video)
    except (FileNotFoundError, NotADirectoryError):
        return video, None
    if not os.path.isfile(video):
        raise ValueError(f"{redact(video)!r} is no file: folders of frames are not put into shards.")
    return video, found.st_size


def _members(sample: Sample, names: Sequence[str] | None, *, several: bool) -> dict[str, bytes]:
    """Return what stands beside a video: its name, its labels, as names and as indices, and the part that is meant."""
    indices = [int(label) for label in sample.labels]
    # a number among the names would be read as an index
    named = names is not None and not any(map(is_index, names))
    values: list[Any] = [names[index] if named and names else index for index in indices]
    table: dict[str, Any] = {"name": _as_text(sample.name)}
    if several:
        table |= {"labels": values, "class_indices": indices}
    elif indices:
        table |= {"label": values[0], "class_index": indices[0]}
    if sample.start is not None or sample.end is not None:
        table[SECONDS_KEY] = [sample.start, sample.end]
    cls = {".cls": str(indices[0]).encode()} if indices and not several else {}
    return {**cls, ".json": json.dumps(table).encode()}


def _as_text(name: str) -> str:
    """Return a name as text that every reader of JSON takes: bytes that are no UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _divided(entries: Sequence[Entry], options: ShardOptions) -> list[list[Entry]]:
    """Return a list of shards, each a list of its entries."""
    ordered = list(entries)
    if options.shuffle:  # by hashes, which no version of a library draws in another way
        seed = options.shuffle_seed
        ordered.sort(key=lambda entry: hashlib.sha256(f"{seed} {entry.key}".encode()).digest())
    shards: list[list[Entry]] = []
    left = 0
    for entry in ordered:
        size = entry.tar_bytes()
        if not shards or size > left or len(shards[-1]) == options.videos_per_shard:
            shards.append([])
            left = options.shard_size * MEGABYTE - END
        shards[-1].append(entry)
        left -= size
    return shards


def _shard_name(options: ShardOptions, number: int) -> str:
    return f"{options.name}-{number:06}.tar"


# -- the same again --------------------------------------------------------------------------------------------------


def _settings(
    videos: Annotations | Sequence[Sample], entries: Sequence[Entry], options: ShardOptions
) -> dict[str, Any]:
    """Return the options, names, sizes and labels from which the shards' bytes follow."""
    digest = hashlib.sha256()
    for entry in entries:
        sample = entry.sample
        labels = list(map(int, sample.labels))
        line = [entry.key, entry.suffix, _as_text(sample.name), entry.size, labels, sample.start, sample.end]
        digest.update(json.dumps(line).encode() + b"\n")
    names = videos.class_names if isinstance(videos, Annotations) else None
    several = isinstance(videos, Annotations) and videos.multi_label
    more = {"class_names": names, "multi_label": several, "videos": len(entries), "videos_sha256": digest.hexdigest()}
    return asdict(options) | more


def _check_settings(folder: "ShardFolder", settings: Mapping[str, Any]) -> None:
    """Write the settings, or raise a ValueError that says how they differ from those of the shards that are there."""
    others = [name for name in folder.sizes() if names_shards(name)]  # looked at first: another process may begin now
    index, content = read_index(folder.address), folder.read(SETTINGS)
    before = index["settings"] if index is not None else json.loads(content) if content else None
    if before is None:
        if others:
            raise ValueError(
                f"{redact(folder.address)!r} holds shards of another origin: {preview(others)}. Name another output."
            )
        folder.write(SETTINGS, _as_json(settings))
        return
    other = [name for name in settings if settings[name] != before.get(name)]
    if other:
        shown = {name: f"{before.get(name)!r}, here {settings[name]!r}" for name in other}
        shown["class_names"] = "other names, or in another order"
        shown["videos_sha256"] = "other videos, labels or sizes, or another order"
        raise ValueError(
            f"{redact(folder.address)!r} holds other shards than these, or their beginning: name another output, or "
            "remove them. They differ in " + "; ".join(f"`{name}`: {shown[name]}" for name in other) + "."
        )


def _as_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"


# -- writing ---------------------------------------------------------------------------------------------------------


class _Digested:
    """Write to a file, and hash what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256, self.size = file, hashlib.sha256(), 0

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        self.size += len(content)
        return self.file.write(content)

    def tell(self) -> int:
        return self.size


def _write_shard(folder: "ShardFolder", name: str, entries: Sequence[Entry], *, sha256: str | None) -> None:
    """Write a shard whole or not at all, and then its record; `sha256` is what an index says that it must have."""
    lines = []
    with folder.file(name) as opened:
        file = _Digested(opened)
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
            for entry in entries:
                with _opened(entry) as video:
                    _add(tar, entry.key + entry.suffix, video, entry.size)
                    offset = file.size - -(-entry.size // BLOCK) * BLOCK
                    if video.read(1):
                        raise OSError(f"{path_of(entry.sample)!r} grew while it was read.")
                for suffix, content in entry.members.items():
                    _add(tar, entry.key + suffix, BytesIO(content), len(content))
                sample, labels = entry.sample, list(map(int, entry.sample.labels))
                times = [sample.start, sample.end]
                member = entry.key + entry.suffix
                lines.append([name, member, offset, entry.size, labels, _as_text(sample.name), *times])
        found = file.sha256.hexdigest()
        if sha256 not in (None, found):
            raise ValueError(f"{name!r} would have other content than {INDEX!r} says: its videos have changed.")
    record = {"url": name, "nsamples": len(entries), "filesize": file.size, "sha256": found, "samples": lines}
    folder.write(f"{PARTS}/{name}.json", _as_json(record))


@contextmanager
def _opened(entry: Entry) -> Iterator[IO[bytes]]:
    video = entry.sample.video
    if isinstance(video, ShardMember):
        yield BytesIO(video.load())
        return
    with open(video, "rb") as file:
        yield file


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    """Add a member that says nothing of when and by whom it was made."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    try:
        tar.addfile(info, content)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the shard, not of the video
            raise OSError(f"There is no room for the shard, {name!r} was next ({error}).") from error
        source = getattr(content, "name", name)
        raise OSError(f"{redact(str(source))!r} cannot be read, or shrank while it was read ({error}).") from error
    tar.members = []  # type: ignore[attr-defined]  # or it would remember them all


def _finish(
    folder: "ShardFolder", shards: Sequence[Sequence[Entry]], settings: Mapping[str, Any], options: ShardOptions
) -> bool:
    """Write the index where all shards are there, also those of other processes; return whether they are."""
    if read_index(folder.address) is None:
        names = [_shard_name(options, number) for number in range(len(shards))]
        records = folder.records(names)
        if len(records) == len(names):
            ordered = [records[name] for name in names]
            table = "".join(json.dumps(line) + "\n" for record in ordered for line in record.pop("samples")).encode()
            folder.write(TABLE, table)
            index = {**INDEX_KIND, "name": options.name, "shardlist": ordered, "class_names": settings["class_names"]}
            more = {"settings": settings, "table_sha256": hashlib.sha256(table).hexdigest()}
            folder.write(INDEX, _as_json(index | more))
    if read_index(folder.address) is None:
        return False
    folder.remove(SETTINGS, PARTS)
    return True


class ShardFolder:
    """Read and write the files of a folder or of an address; each appears whole or not at all.

    Raises:
        ValueError: nothing can be written to such an address.
        ImportError: the package for such an address is not installed.
    """

    def __init__(self, output: str) -> None:
        place = plain_place(output)
        if not place.strip("/"):
            raise ValueError(
                f"{output!r} names no folder; allowed: one here, or an address such as s3://bucket/folder."
            )
        self.store = StoreFolder(place) if is_address(place) else None
        self.address = place.rstrip("/") or place
        if self.store is None and os.path.exists(place) and not os.path.isdir(place):
            raise ValueError(f"{place!r} is no folder.")
        self.draft = Path(place) / PARTS / "draft"

    def sizes(self, folder: str | None = None) -> dict[str, int]:
        """Return the files here, or in a folder here, and their sizes; empty where there is none."""
        place = self.address if folder is None else join_address(self.address, folder)
        if self.store is not None:
            return {file.name: file.size for file in StoreFolder(place).files()}
        if not os.path.isdir(place):
            return {}
        return {entry.name: entry.stat().st_size for entry in os.scandir(place) if entry.is_file()}

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None where there is no such file."""
        return read_file(join_address(self.address, name))

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        with self.file(name) as file:
            file.write(content)

    @contextmanager
    def file(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for writing, which gets its name when the block ends, and not after an error."""
        try:
            self.draft.parent.mkdir(exist_ok=True)
            with self.draft.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if self.store is not None:
                self.store.send(name, self.draft)
            else:
                place = Path(self.address, name)
                place.parent.mkdir(exist_ok=True)
                os.replace(self.draft, place)
        finally:
            self.draft.unlink(missing_ok=True)

    def remove(self, *names: str) -> None:
        """Remove files and folders by name; a name that is not there is passed over."""
        for name in names:
            place = Path(self.address, name)
            if self.store is not None:
                self.store.remove(name)
                continue
            for file in place.glob("*.json"):
                file.unlink(missing_ok=True)
            if not place.is_dir():
                place.unlink(missing_ok=True)

    def records(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the records of the shards that are whole: recorded, and of the size that the record says."""
        sizes, index = self.sizes(), read_index(self.address)
        if index is not None:
            found = {entry["url"]: entry for entry in index["shardlist"]}
        else:
            parts = self.sizes(PARTS)
            there = [name for name in names if name in sizes and f"{name}.json" in parts]
            contents = {name: self.read(f"{PARTS}/{name}.json") for name in there}
            found = {name: json.loads(content) for name, content in contents.items() if content}
        return {name: record for name, record in found.items() if sizes.get(name) == record["filesize"]}

    def digest(self, name: str) -> tuple[str, int]:
        """Read a file, and return its SHA-256 and its size."""
        digest, size = hashlib.sha256(), 0
        with open_file(join_address(self.address, name)) as file:
            while piece := file.read(PIECE):
                digest.update(piece)
                size += len(piece)
        return digest.hexdigest(), size

    @contextmanager
    def only_writer(self, rank: Rank) -> Iterator[None]:
        """Refuse a second process of this rank while the block runs; of a store, on this machine.

        Raises:
            FolderInUseError: there is one.
        """
        lock, drafts = _lock_of(rank.rank), Path(self.address)
        if self.store is not None:
            user = os.getuid() if hasattr(os, "getuid") else ""
            digest = hashlib.sha256(self.address.encode()).hexdigest()[:16]
            drafts = Path(tempfile.gettempdir()) / f"ila-shard-{user}-{digest}"
        self.draft = drafts / PARTS / f"draft-{rank.rank}"  # what a killed process left there, the next one overwrites
        try:
            with only_writer(drafts, lock):
                yield
                if self.store is not None or not (drafts / SETTINGS).exists():
                    _remove_drafts(drafts)
        except FolderInUseError as error:
            if self.store is None:
                raise
            raise FolderInUseError(f"{redact(self.address)!r} is being written: {error}") from error


def _lock_of(rank: int) -> str:
    return LOCK if rank == 0 else LOCK.replace(".", f"_{rank}.")


def _remove_drafts(folder: Path) -> None:
    """Remove what killed processes left in a folder; not the drafts of those that still write."""
    for draft in (folder / PARTS).glob("draft-*"):
        rank = int(draft.name.rpartition("-")[2])
        with suppress(FolderInUseError), only_writer(folder, _lock_of(rank)):
            draft.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / PARTS).rmdir()

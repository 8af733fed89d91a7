"""Which videos a run is about, each once, as Parquet files that an engine reads.

What is unusual here:
- Nothing but ids is kept: 24 bytes for each video of the plan, 16 for each that was done before.
- Rows stand in the order of their sources, so that the cells of a row group and the videos of a shard are neighbours.

Names. They are the ids of videos, in the results of all engines. Files, folders, patterns and lists name their videos
as the plain command does (`iter_videos`). Beyond that the key of a video is

    its path or address                              of a file, and of a row of a manifest with paths
    the shard's path or address / the member's name  of a WebDataset shard
    the manifest's path or address / the row         of a manifest with bytes; rows of a file count from 0

and its name is what an id column says, else the key below the one source (a folder, the folder of a list, a manifest
or a shard, or the root), else below the working directory, else the whole key. What is secret in an address is hidden.
"""

import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from transformers.utils import logging

from ..data.lists import (
    check_first_video,
    is_video_name,
    iter_list,
    iter_videos,
    kind_of_file,
    videos_among,
    walk,
    warn_of_left_out,
)
from ..data.samples import ShardMember, VideoRoot
from ..data.shards import (
    INDEX,
    SETTINGS,
    TABLE,
    expand_range,
    files_of_pattern,
    names_shards,
    refuse_unfinished,
    video_members,
)
from ..data.text import preview
from ..evaluation.prediction import shown
from ..evaluation.prediction_files import video_id
from ..model.video_reading_ila import VIDEO_SUFFIXES
from ..model.video_urls_ila import is_url, redact
from ..stores.addresses import fixed_part, is_address, join_address, plain_place
from ..stores.listing import find
from ..stores.reading import HEADER_BLOCK, open_file, read_pieces, size_at
from .manifests import read_manifest
from .options import EngineOptions
from .sources import PlannedVideo, SourceError, check_shared, errors_in


logger = logging.get_logger(__name__)


MANIFEST_SUFFIXES = (".parquet", ".pq")
ROWS_OF_A_FILE = 100_000  # of a plan
ROWS_AT_ONCE = 2**13
SHARDS_AT_ONCE = 16  # whose headers are read side by side: of a store each takes some milliseconds to come
LONGEST_RUN = 2**24  # ids of an `IdSet` that are sorted together
PLANS = "_plan"  # readers of Parquet folders pass over names with an underscore
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst", ".list")  # of URLs: what has none of the known ones is a video
HIDDEN = re.compile(r"(?:^|/)[._]")
TYPES = {  # of a plan's columns
    "video": "string",
    "path": "binary",  # as of `os.fsencode`: a path may be no UTF-8
    "offset": "int64",
    "size": "int64",
    "row_group": "int32",
    "row": "int64",
    "column": "string",
}


# -- the plan --------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """Hold the files that list the videos to do, and how many videos were seen, planned, done before and repeated.

    files: paths, in the order of their rows.
    seen: rows of the sources. planned: videos that are to be done. before: videos that were done before.
    repeated: rows whose name stood there before. conflicting: those of them that mean another file.
    """

    files: list[str]
    seen: int
    planned: int
    before: int
    repeated: int
    conflicting: int


def write_plan(
    videos: Iterable[PlannedVideo],
    folder: str | Path,
    done: Iterable[bytes] | np.ndarray = (),
    rows_per_file: int = ROWS_OF_A_FILE,
) -> Plan:
    """Write the videos that are not done as Parquet files; of a name that comes again the first row counts.

    Args:
        videos: asked for as they are needed.
        folder: a new or empty one.
        done: ids (`video_id`) of the videos that have results.
        rows_per_file: of all files but the last.

    Raises:
        ValueError: from `videos`.
        OSError: the folder cannot be written to.
    """
    before, known, counts = IdSet(), IdSet(), Counter[str]()
    ids = done if isinstance(done, np.ndarray) else np.fromiter(done, "S16")
    before.add(ids, np.zeros(len(ids), np.uint64))
    files = _PlanFiles(folder, rows_per_file)
    with closing(files):
        for some in _batches(videos, ROWS_AT_ONCE):
            ids = np.array([video_id(video.video) for video in some], "S16")
            new, same = known.add(ids, np.array([_mark(video) for video in some], np.uint64))
            missing = new & ~before.holds(ids)
            files.write(list(itertools.compress(some, missing)))
            counts.update(
                seen=len(some),
                planned=int(missing.sum()),
                before=int((new & ~missing).sum()),
                repeated=int((~new).sum()),
                conflicting=int((~new & ~same).sum()),
            )
    if counts["conflicting"]:
        logger.warning(
            f"{counts['conflicting']} of {counts['seen']} rows have the name of an earlier row and mean another file: "
            "they are left out. Give each video a name of its own (of a manifest by --id_column)."
        )
    return Plan(files.names, *(counts[name] for name in Plan._fields[1:]))


def read_planned(table: Any) -> list[PlannedVideo]:
    """Return the videos of a plan's rows, as an Arrow table or record batch."""
    videos = [PlannedVideo(*row) for row in zip(*(table[name].to_pylist() for name in PlannedVideo._fields))]
    return [video._replace(path=os.fsdecode(video.path)) for video in videos]


class _PlanFiles:
    """Write rows to Parquet files, of which all but the last have the same number of rows."""

    def __init__(self, folder: str | Path, rows_per_file: int) -> None:
        self.folder, self.rows_per_file, self.rows = Path(folder), rows_per_file, 0
        self.names: list[str] = []
        self.writer: Any = None
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, videos: list[PlannedVideo]) -> None:
        """Write rows, as one row group of each file that they go to."""
        import pyarrow
        from pyarrow import parquet

        schema = pyarrow.schema(TYPES)
        while videos:
            if self.writer is None:
                self.names.append(str(self.folder / f"plan-{len(self.names):06}.parquet"))
                self.writer, self.rows = parquet.ParquetWriter(self.names[-1], schema), 0
            some, videos = videos[: self.rows_per_file - self.rows], videos[self.rows_per_file - self.rows :]
            rows = (video._replace(path=os.fsencode(video.path)) for video in some)  # type: ignore[arg-type]
            self.writer.write_table(pyarrow.table(list(map(list, zip(*rows))), schema=schema))
            self.rows += len(some)
            if self.rows == self.rows_per_file:
                self.close()

    def close(self) -> None:
        """End the file that is open."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def _mark(video: PlannedVideo) -> int:
    """Return a number that tells where a video lies from where others of its name lie."""
    place = repr(video[1:]).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "little")


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some


class IdSet:
    """Hold ids of 16 bytes, each with a number, in sorted arrays: 24 bytes each, and no objects."""

    def __init__(self) -> None:
        self.runs: list[tuple[np.ndarray, np.ndarray]] = []

    def holds(self, ids: np.ndarray) -> np.ndarray:
        """Return for each of (n,) ids of dtype `S16` whether it is in the set."""
        return self._find(ids)[0]

    def add(self, ids: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add (n,) ids with their numbers.

        Returns:
            (n,) whether the id is new, of several in `ids` the first; and whether its number is that of the set.
        """
        found, known = self._find(ids)
        unique, first, where = np.unique(ids, return_index=True, return_inverse=True)
        new = np.zeros(len(ids), bool)
        new[first] = ~found[first]
        known = np.where(found, known, marks[first][where])
        first = first[~found[first]]
        self.runs.append((ids[first], marks[first]))
        while len(self.runs) > 1 and len(self.runs[-2][0]) <= min(2 * len(self.runs[-1][0]), LONGEST_RUN):
            self._merge()
        return new, known == marks

    def _find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, marks = np.zeros(len(ids), bool), np.zeros(len(ids), np.uint64)
        for run, numbers in self.runs:
            if len(run):
                place = np.minimum(np.searchsorted(run, ids), len(run) - 1)
                here = run[place] == ids
                found |= here
                marks[here] = numbers[place[here]]
        return found, marks

    def _merge(self) -> None:
        (one, marks), (other, more) = self.runs.pop(), self.runs.pop()
        ids, marks = np.concatenate([other, one]), np.concatenate([more, marks])
        order = np.argsort(ids, kind="stable")
        self.runs.append((ids[order], marks[order]))


# -- where the plan lies ---------------------------------------------------------------------------------------------


@contextmanager
def plan_folder(output: str | Path) -> Iterator[str]:
    """Make a folder for a plan below a run's results, and remove it when the block ends; what a killed run left there
    goes first, so the caller must hold the lock of the results. Only this user may look into it: addresses stand there
    with the signatures that open them.
    """
    folder = Path(output) / PLANS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- sources ---------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """Hold one given source of videos: of which kind it is, where its names begin, and its files.

    text: what was given.
    kind: "videos", "list", "manifest" or "shards"; "plain" for videos and lists here, which `iter_videos` finds.
    base: the folder or address below which the videos of this source, if it is the only one, have their names, and
        that relative paths start from; empty where it names videos one by one.
    files: the paths or addresses of the videos, manifests or shards, or of the list.
    """

    text: str
    kind: str
    base: str
    files: Iterable[str]


def iter_planned(
    sources: str | Path | Sequence[str | Path],
    root: str | Path | None = None,
    options: EngineOptions | None = None,
) -> Iterator[PlannedVideo]:
    """Yield the videos of all sources when they are asked for; a name may come twice.

    Args:
        sources: what `iter_videos` takes, in whose lists videos may have addresses, too; addresses of a video, of a
            folder or bucket, of a pattern, or of a list, which is any other file; Parquet manifests (`.parquet`) and
            WebDataset shards (`.tar`), as files, folders, patterns and ranges `{000..099}`, here or at an address. A
            folder that holds any video is a folder of videos.
        root: folder or address that relative paths in lists and manifests start from; default: their own folder, of
            several manifests what their pattern begins with.
        options: of them `id_column` and `video_column` of manifests.

    Raises:
        ValueError: a source is missing, a store cannot be reached, a manifest lacks a column or has several that may
            be meant, an option would have no effect, or there is no video. What is wrong up to the first video is
            found when the function is called.
        AnnotationError: a line of a list has a fault, or a shard is damaged or compressed.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    if not given:
        raise SourceError("No source of videos is given; allowed are files, folders, patterns, lists and addresses.")
    texts = [plain_place(os.fspath(source)) for source in given]
    folder = None if root is None else plain_place(os.fspath(root)).rstrip("/")
    options = options or EngineOptions(engine="ray")
    found = [_source_of(text) for text in texts]
    for name in ("id_column", "video_column"):
        if getattr(options, name) is not None and all(source.kind != "manifest" for source in found):
            raise SourceError(f"{name} goes with a Parquet manifest; there is none in {preview(given)}.")
    if all(source.kind == "plain" for source in found):
        named = iter_videos(texts, root=folder, addresses=True)
        return (PlannedVideo(shown(name), path) for name, path in named)
    if folder is not None:
        if not any(source.kind == "manifest" or _is_list(source) for source in found):
            raise SourceError(f"A root such as {redact(folder)!r} goes only with a list or manifest; there is none.")
        if not is_address(folder):
            folder = VideoRoot(folder).folder
    bases = [folder, found[0].base] if len(found) == 1 else [os.getcwd()]
    prefixes = [base.rstrip("/") + "/" for base in bases if base]

    def name_of(key: str) -> str:
        return shown(key.removeprefix(next(filter(key.startswith, prefixes), "")))

    videos = (video for source in found for video in _videos_of(source, folder, name_of, options, len(found) == 1))
    first = next(videos, None)
    if first is None:
        if all(source.kind == "manifest" for source in found):
            raise SourceError(f"{preview(given)} has no rows.")
        raise SourceError(f"{preview(given)} holds no video; known suffixes: {', '.join(VIDEO_SUFFIXES)}.")
    return itertools.chain([first], videos)


def _is_list(source: Source) -> bool:
    """Return whether a source is a list, here or at an address."""
    is_plain = source.kind == "plain" and os.path.isfile(source.text) and not is_video_name(source.text)
    return is_plain or source.kind == "list"


def _videos_of(
    source: Source, root: str | None, name_of: Callable[[str], str], options: EngineOptions, alone: bool
) -> Iterator[PlannedVideo]:
    if source.kind == "plain":
        is_list = _is_list(source)
        if is_list and root is None and not alone:
            check_first_video(source.text, addresses=True)
        for _, path in iter_videos(source.text, root=root if is_list else None, addresses=True):
            yield PlannedVideo(name_of(path), path)
    elif source.kind == "shards":
        for member in _members(source.files):
            yield PlannedVideo(name_of(f"{member.shard}/{member.name}"), member.shard, member.offset, member.size)
    elif source.kind == "manifest":
        for manifest in source.files:
            for row in read_manifest(manifest, options):
                place = join_address(root or source.base, row.path) if row.path else ""
                name = name_of(place or f"{manifest}/{row.number}") if row.id is None else shown(row.id)
                cell = (None, None, None) if row.cell is None else row.cell
                yield PlannedVideo(name, place if row.cell is None else manifest, None, None, *cell)
    elif source.kind == "list":
        for path in _paths_of_list(source.text, root or source.base):
            yield PlannedVideo(name_of(path), path)
    else:
        for path in source.files:
            yield PlannedVideo(name_of(path), path)


# -- what a source is ------------------------------------------------------------------------------------------------


def _source_of(text: str) -> Source:
    """Return a given text as a `Source`, after looking at what lies there.

    Raises:
        ValueError: there is none, its store cannot be reached, or it is a folder of manifests and shards.
    """
    if is_url(text):
        path = urlsplit(text).path
        kind = _kind(path)
        if kind == "list" and not path.lower().endswith(LIST_SUFFIXES):
            kind = "videos"
        files = expand_range(text)
        return Source(text, kind, "" if kind == "videos" else fixed_part(text.partition("?")[0]), files)
    return _source_at_address(text) if is_address(text) else _source_here(text)


def _kind(path: str) -> str:
    """Return the kind of a file, by its suffix."""
    if is_video_name(path):
        return "videos"
    if path.lower().endswith(MANIFEST_SUFFIXES):
        return "manifest"
    return "shards" if names_shards(path) else "list"


def _source_here(text: str) -> Source:
    path = os.path.abspath(text)
    if os.path.isdir(text):
        kind, files = _sorted_out(walk(path), path)
        return Source(text, "plain" if kind == "videos" else kind, path, files)
    kind = _kind(text)
    if kind not in ("manifest", "shards"):
        return Source(text, "plain", "", [])
    files = files_of_pattern(path)
    if missing := [file for file in files if not os.path.isfile(file)]:
        raise SourceError(f"{text!r} is no file, and no pattern or range of those; missing: {preview(missing)}.")
    return Source(text, kind, os.path.dirname(path) if len(files) == 1 else fixed_part(path), files)


def _source_at_address(text: str) -> Source:
    files = expand_range(text)
    if files != [text]:
        kind = _kind(text)
        return Source(text, kind, "" if kind == "videos" else fixed_part(text), files)
    check_shared(text)
    with errors_in(text):
        there = find(text, below=True)
    if not there.files:
        raise SourceError(f"Nothing matches {redact(text)!r}.")
    below = (address for address, _ in there.files)
    kind, found = (_kind(text), below) if there.kind == "file" else _sorted_out(below, there.base)
    return Source(text, kind, "" if kind == "videos" and there.kind != "folder" else there.base, found)


def _sorted_out(paths: Iterator[str], folder: str) -> tuple[str, Iterable[str]]:
    """Return what a folder is of, and its files of this kind: videos if it has any, else manifests, else shards."""
    found: dict[str, list[str]] = {"manifest": [], "shards": []}
    left_out, told = Counter[str](), set[str]()
    for path in paths:
        kind, name = _kind(path), os.path.basename(path)
        if name in (INDEX, TABLE, SETTINGS):  # of `ila shard`
            told.add(name)
            continue
        if kind == "videos":
            left_out.update(map(kind_of_file, itertools.chain(*found.values())))
            return kind, itertools.chain([path], videos_among(paths, left_out, folder))
        if kind in found and not HIDDEN.search(path[len(folder) :]):
            found[kind].append(path)
        else:
            left_out[kind_of_file(path)] += 1
    if all(found.values()):
        counts = " and ".join(f"{len(files)} {kind}" for kind, files in found.items())
        raise SourceError(f"{redact(folder)!r} holds {counts}: name one kind by a pattern such as `*.parquet`.")
    kind = next((kind for kind, files in found.items() if files), "videos")
    if kind == "shards":
        refuse_unfinished(folder, told)
    if kind in found:
        warn_of_left_out(folder, left_out)
    return kind, found.get(kind, [])


# -- what a source holds ---------------------------------------------------------------------------------------------


def _paths_of_list(address: str, root: str) -> Iterator[str]:
    """Yield the paths of a list at an address; it is copied first, as a store may end it early."""
    with tempfile.NamedTemporaryFile(prefix="ila_list_") as copy:
        with errors_in(address):
            for piece in read_pieces(address, 0, size_at(address)):
                copy.write(piece)
        copy.flush()
        entries = iter_list(copy.name, root=root, addresses=True, called=redact(address))
        yield from (entry.path for entry in entries if entry.path is not None)


def _members(shards: Iterable[str]) -> Iterator[ShardMember]:
    """Yield the videos of all shards in their order; the headers of a few shards are read side by side."""
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as threads:
        for some in _batches(shards, SHARDS_AT_ONCE):
            for members in threads.map(_members_of, some):
                yield from members


def _members_of(shard: str) -> list[ShardMember]:
    with errors_in(shard), open_file(shard, block=HEADER_BLOCK) as file:
        return list(video_members(file, shard))

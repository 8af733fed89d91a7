"""A folder of results that grows by runs that may be killed, and holds no video twice.

```
output/_settings.json                       what the results depend on; another model or other options are refused
output/part-00000-of-00002.jsonl            of process 0 of 2: one line a video, appended
output/part-00000-of-00002-000000.parquet   or its first, second ... piece, whole or not there
```

A row has `video` (name), `labels` and `scores` (best first), `frames_lost`, `reason` (why there are no labels) and,
on request, `embedding`. Lines are on disk when `append` returns; a line that a killed run left half written is cut off
when the next one starts. Rows for Parquet wait for their piece, and are computed again after a kill: for a minute at
first, and for three seconds more with each piece, up to half an hour. So a run of ten hours leaves 136 pieces in place
of 600, and a kill costs it eight minutes at most. Merging small pieces would leave fewer, but until the last of them
is removed every other reader would find videos twice.

Locally locks of the operating system keep other runs out. They are flock's own: the processes of a run share one,
which keeps runs with another number of processes out.

At an address (`stores/folder.py`; Parquet only) there are no locks, and no lock outlives the process that was killed
with it.
There a process creates its next piece, by number, only if nobody has created one since it read what is done: of two
runs the slower one fails with its next piece, and no video is there twice. Two rules make that hold for all pieces:

- All runs have the same number of processes (`_processes.json`), so that two of them meet in each one's pieces.
- Pieces are never removed. With `retry` a run first creates an empty piece, behind which no older run can write, and
  then puts each piece back without the rows that could not be read: any run would put back the same.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from transformers.utils import logging

from ..data.text import preview
from ..distributed import Rank
from ..files import atomic_write, describe_signature, open_lock, sign_lock, signature_of
from ..stores.addresses import is_address
from ..stores.folder import StoreFile, StoreFolder, open_folder
from .options import RESULT_FORMATS, LabelOptions, require_one_of
from .result_pieces import encode, read_piece, readable, to_table


try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

logger = logging.get_logger(__name__)


# A piece is written when it has so many rows or bytes (in memory; a store takes them in one request), or is so old:
ROWS_OF_A_PIECE, BYTES_OF_A_PIECE = 100_000, 48 * 2**20
SECONDS_OF_A_PIECE, LATER, LATEST = (
    60.0,
    1 / 20,
    30,
)  # at first; how much of it more with each piece; how many times it
SETTINGS = "_settings.json"  # readers of Parquet folders pass over names with an underscore
PROCESSES = "_processes.json"  # at an address: how many share the videos
Folder = str | Path | StoreFolder


def video_id(name: str) -> bytes:
    """Return 16 bytes that stand for a video's name."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def check_output(output: Folder, format: str) -> None:
    """Raise a ValueError where results of a format cannot be at a place."""
    require_one_of("format", format, RESULT_FORMATS)  # a labelling tool's is written from one of them
    folder = open_folder(output) if is_address(output) else output
    if isinstance(folder, StoreFolder) and format != "parquet":
        raise ValueError(
            f"Results at an address ({str(folder)!r}) are in the format 'parquet', got {format!r}: nothing can be "
            "appended to an object. Take --format parquet, or a local folder."
        )


def check_settings(folder: Folder, settings: dict[str, Any]) -> None:
    """Write what the results depend on, or check that it is the same as that of the first process and of earlier runs.

    Args:
        folder: a local folder, or an address of fsspec.
        settings: with `format` among them.

    Raises:
        ValueError: the folder has results that depend on something else.
        OSError: a store does not answer, or refuses.
    """
    folder = open_folder(folder)
    check_output(folder, settings.get("format", "jsonl"))
    content = json.dumps(settings, indent=2) + "\n"
    if isinstance(folder, StoreFolder):
        found = _agree(folder, SETTINGS, content)
    else:
        found = _agree_locally(folder, content)
    file = f"{folder}/{SETTINGS}"
    try:
        there = json.loads(found)
        if "labels" not in there:  # of earlier versions, in which the model's hash alone says them
            settings = {name: value for name, value in settings.items() if name != "labels"}
        differ = [
            f"{name} {_differing(there.get(name), settings.get(name))}"
            for name in {**settings, **there}
            if there.get(name) != settings.get(name)
        ]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file!r} does not say what the results are of: {error}.") from error
    if not differ:
        return
    if isinstance(folder, StoreFolder):  # which cannot see that no other run is about to write
        raise ValueError(
            f"{str(folder)!r} holds other results; take a new folder, or, if nothing is to be kept, remove this one. "
            f"They differ in {'; '.join(differ)}."
        )
    if any(part.stat().st_size for format in RESULT_FORMATS for part in part_files(folder, format)):
        raise ValueError(
            f"{str(folder)!r} holds other results; take a new folder. They differ in {'; '.join(differ)}."
        )
    with atomic_write(folder / SETTINGS, encoding="ascii") as opened:  # of a run that ended without any result
        opened.write(content)


def _agree(folder: StoreFolder, name: str, content: str) -> str:
    """Create an object, or return what another process or run has created there."""
    try:
        folder.create(name, content.encode("ascii"))
        return content
    except FileExistsError:
        return folder.read(name).decode("ascii", "replace")


def _agree_locally(folder: Path, content: str) -> str:
    file = folder / SETTINGS
    new = folder / f".{SETTINGS}-{uuid4().hex}.new"  # processes of several machines may have the same number
    try:
        new.write_text(content, encoding="ascii")
        try:
            os.link(new, file)  # fails where it exists, and is whole where it does not
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not file.exists():
                os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
    return file.read_text(encoding="ascii", errors="replace")


def _differing(found: Any, now: Any) -> str:
    """Say what is there and what is now; of two lists the entries that differ, a few."""
    if isinstance(found, list) and isinstance(now, list):
        alone = [[name for name in one if name not in other] for one, other in ((found, now), (now, found))]
        found, now = alone if any(alone) else (found, now)
        return f"{preview(found) or 'the others'}, now {preview(now) or 'without them'}"
    return f"{found!r}, now {now!r}"


# -- writing ---------------------------------------------------------------------------------------------------------


class ResultWriter:
    """Write the part of one process.

    No other process may write this part at the same time, and no run with more or fewer processes any part. With
    `options.retry` the rows of videos that could not be read are taken out, so that they can be tried again. What is
    done (`done_videos`) is to be read behind the opening, or another run may write between the two.

    Args:
        folder: a local folder, or an address of fsspec.

    Raises:
        FolderInUseError: another run writes there; at an address this may be found out by `append` only.
        ValueError: another process writes this part, or a run with another number of processes is going on.
        OSError: results cannot be written; those that were written hold.
    """

    def __init__(self, folder: Folder, options: LabelOptions, rank: Rank) -> None:
        self.folder, self.options, self.rank = open_folder(folder), options, rank
        self.stem = f"part-{rank.rank:05}-of-{rank.world_size:05}"
        self.lines: IO[bytes] | None = None
        self.tables: list[Any] = []  # rows that wait for their piece
        self.held_rows = self.held_bytes = 0
        self.since, self.written = time.monotonic(), 0  # when the last piece was written, and how many
        self.lock: IO[bytes] | None = None
        self.run: IO[bytes] | None = None
        check_output(self.folder, options.format)
        if isinstance(self.folder, StoreFolder):
            self._open_at_store(self.folder)
        else:
            self._open_locally(self.folder)

    def _open_locally(self, folder: Path) -> None:
        self.lock = lock = open_lock(folder / f".{self.stem}.lock")
        self.run = run = open_lock(folder / f".run-of-{self.rank.world_size:05}.lock")
        self._take_locks(folder, lock, run)
        for left in (*folder.glob(f".{self.stem}*.tmp"), *folder.glob(f".{self.stem}*.new")):  # new: of earlier runs
            left.unlink()
        for file in part_files(folder, self.options.format):
            if self._is_own(file.stem):
                if self.options.format == "jsonl":
                    _repair(file)
                if self.options.retry:
                    _drop_unreadable(file)
        if self.options.format == "jsonl":
            self.lines = (folder / f"{self.stem}.jsonl").open("ab")

    def _open_at_store(self, folder: StoreFolder) -> None:
        processes = json.dumps({"processes": self.rank.world_size}) + "\n"
        found = _agree(folder, PROCESSES, processes)
        if found != processes:
            raise ValueError(
                f"Runs with another number of processes write to {str(folder)!r}: {found.strip()}, this one has "
                f"{self.rank.world_size}. Start as many; or, if no such run is going on, remove {PROCESSES!r} there."
            )
        folder.warn_if_shared(PROCESSES, processes.encode("ascii"))
        self.writer, self.unsent = uuid4().hex, b""
        pieces = part_files(folder, "parquet")
        self.number = _next_number(pieces, self.stem)
        if self.options.retry:
            own = [file for file in pieces if self._is_own(file.stem)]
            unreadable = [file for file in own if readable(read_piece(file, ["reason"])) is not None]
            if unreadable:
                self._create_piece(folder, [to_table([], embeddings=self.options.embeddings)])
            for file in unreadable:
                folder.replace(file.name, encode([readable(read_piece(file))]))

    def _is_own(self, stem: str) -> bool:
        """Return whether a part is this process's: its own, and of process 0 those that no process has any more."""
        abandoned = f"-of-{self.rank.world_size:05}" not in stem  # by runs with more or fewer processes
        return stem.startswith(self.stem) or (abandoned and self.rank.rank == 0)

    def _take_locks(self, folder: Path, lock: IO[bytes], run: IO[bytes]) -> None:
        if fcntl is None:
            logger.warning(f"Nothing keeps another run from writing to {str(folder)!r}: this system has no locks.")
            return
        try:
            with (folder / ".looking.lock").open("ab") as looking:
                fcntl.flock(looking, fcntl.LOCK_EX)  # two processes that look for other runs would find each other
                fcntl.flock(run, fcntl.LOCK_SH | fcntl.LOCK_NB)  # first, so that two runs see each other
                for other in folder.glob(".run-of-*.lock"):
                    if other.name != Path(run.name).name:
                        with other.open("ab") as opened:
                            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._release_locks()
            raise ValueError(
                f"A run with another number of processes is writing to {str(folder)!r}; wait for it, or end it."
            ) from error
        except OSError as error:
            logger.warning(f"Nothing keeps another run from writing to {str(folder)!r}: no file locks ({error}).")
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            writer = describe_signature(signature_of(lock))
            self._release_locks()
            raise ValueError(f"Another process writes {self.stem!r} in {str(folder)!r}: {writer}.") from error
        sign_lock(lock)

    def _release_locks(self) -> None:
        for lock in (self.lock, self.run):
            if lock is not None:
                lock.close()

    def __enter__(self) -> "ResultWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self._write_piece()
        except OSError:
            if kind is None:  # else that is what went wrong, or hides what did
                raise
        finally:
            if self.lines is not None:
                self.lines.close()
            self._release_locks()

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write rows: lines at once, rows of Parquet when their piece is full or old enough."""
        if self.lines is None:
            if rows:
                table = to_table(rows, embeddings=self.options.embeddings)
                self.tables.append(table)
                self.held_rows, self.held_bytes = self.held_rows + table.num_rows, self.held_bytes + table.nbytes
            if self._is_due():
                self._write_piece()
            return
        self.lines.write(b"".join(json.dumps(row).encode("ascii") + b"\n" for row in rows))
        self.lines.flush()
        os.fsync(self.lines.fileno())

    def _is_due(self) -> bool:
        if self.held_rows >= ROWS_OF_A_PIECE or self.held_bytes >= BYTES_OF_A_PIECE:
            return True
        return time.monotonic() - self.since >= SECONDS_OF_A_PIECE * min(LATEST, 1 + LATER * self.written)

    def _write_piece(self) -> None:
        if isinstance(self.folder, StoreFolder):
            self._create_piece(self.folder, self.tables)
        elif self.tables:
            number = _next_number(part_files(self.folder, "parquet"), self.stem)
            with atomic_write(self.folder / f"{self.stem}-{number:06}.parquet", "wb") as opened:
                opened.write(encode(self.tables))
            self.written += 1
        self.tables, self.held_rows, self.held_bytes, self.since = [], 0, 0, time.monotonic()

    def _create_piece(self, folder: StoreFolder, tables: list[Any]) -> None:
        """Create the next piece; one whose storing failed is stored first, the same as it was."""
        while self.unsent or tables:
            if not self.unsent:
                self.unsent = encode(tables, self.writer)
                tables.clear()
            name = f"{self.stem}-{self.number:06}.parquet"
            try:
                folder.create(name, self.unsent)
            except FileExistsError:
                self.unsent = b""
                self.tables.clear()  # another run has done them, or does
                raise folder.in_use(name) from None
            self.unsent = b""
            self.number, self.written = self.number + 1, self.written + 1


def _next_number(pieces: Sequence[Path | StoreFile], stem: str) -> int:
    return max((int(file.stem[-6:]) for file in pieces if file.stem.startswith(stem)), default=-1) + 1


def _repair(file: Path) -> None:
    """Cut off what a killed run left behind the last whole line.

    Raises:
        ValueError: a line that is no result, with results behind it: nothing that a killed run leaves.
    """
    end, fault = 0, 0
    with file.open("r+b") as lines:
        for number, line in enumerate(lines, 1):
            if _result_in(line) is None:
                fault = fault or number
            elif fault:
                raise ValueError(f"Line {fault} of {str(file)!r} is no result, and there are results behind it.")
            else:
                end += len(line)
        if fault:
            lines.truncate(end)
            lines.flush()
            os.fsync(lines.fileno())


def _drop_unreadable(file: Path) -> None:
    """Remove all rows that have a reason from a file, or none of them."""
    with atomic_write(file, "wb") as kept:
        if file.suffix == ".jsonl":
            with file.open("rb") as lines:
                kept.writelines(line for line in lines if (_result_in(line) or {}).get("reason") is None)
        elif (table := readable(read_piece(file))) is not None:
            kept.write(encode([table]))
        else:
            kept.write(file.read_bytes())


def _result_in(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("video"), str) else None


# -- reading ---------------------------------------------------------------------------------------------------------


def part_files(folder: Folder, format: str) -> Sequence[Any]:
    """Return the parts of all processes, of this run and of earlier ones, in the order of their names.

    They are paths, or at an address each a `StoreFile`.
    """
    name = re.compile(rf"part-\d{{5}}-of-\d{{5}}(-\d{{6}})?\.{format}")
    if is_address(folder):
        folder = open_folder(folder)
    found = folder.files() if isinstance(folder, StoreFolder) else Path(folder).iterdir()
    return sorted((file for file in found if name.fullmatch(file.name)), key=lambda file: file.name)


def read_results(folder: Folder) -> Iterator[dict[str, Any]]:
    """Yield the rows of all parts, a piece at a time; a line that is being written is left out.

    Args:
        folder: a local folder, or an address of fsspec.

    Raises:
        OSError: no such folder, or none with results.
    """
    if is_address(folder):
        folder = open_folder(folder)
    if isinstance(folder, StoreFolder):
        yield from _rows(folder, json.loads(folder.read(SETTINGS))["format"], None)
    else:
        format = json.loads((Path(folder) / SETTINGS).read_text(encoding="ascii"))["format"]
        yield from _rows(Path(folder), format, None)


def done_videos(folder: Folder, options: LabelOptions, rank: Rank) -> set[bytes]:
    """Return the ids of this process's videos that any process has done in any run.

    With `options.retry` those that could not be read are not among them.
    """
    rows = _rows(folder, options.format, ["video", "reason"])
    ids = (video_id(row["video"]) for row in rows if not options.retry or row["reason"] is None)
    return {video for video in ids if rank.takes(video)}


def _rows(folder: Folder, format: str, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    for file in part_files(folder, format):
        yield from _rows_of_lines(file) if format == "jsonl" else _rows_of_piece(file, columns)


def _rows_of_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            if (row := _result_in(line)) is not None:
                yield row


def _rows_of_piece(file: Path | StoreFile, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    for batch in read_piece(file, columns).to_batches(max_chunksize=1000):
        yield from batch.to_pylist()

"""A folder of results that grows by runs that may be killed, and holds no video twice.

```
output/_settings.json                       what the results depend on; another model or other options are refused
output/part-00000-of-00002.jsonl            of process 0 of 2: one line a video, appended
output/part-00000-of-00002-000000.parquet   or its first, second ... piece, whole or not there
```

A row has `video` (name), `labels` and `scores` (best first), `frames_lost`, `reason` (why there are no labels) and,
on request, `embedding`. Lines are on disk when `append` returns; a line that a killed run left half written is cut off
when the next one starts. Rows for Parquet wait for their piece, a minute at most, and are computed again after a kill.

The locks are flock's own: the processes of a run share one, which keeps runs with another number of processes out.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from transformers.utils import logging

from ..data.text import preview
from ..distributed import Rank
from ..files import atomic_write, describe_signature, open_lock, sign_lock, signature_of
from .options import RESULT_FORMATS, LabelOptions


try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

logger = logging.get_logger(__name__)


ROWS_OF_A_PIECE, SECONDS_OF_A_PIECE = 10_000, 60.0  # after which a piece is written, whichever comes first
SETTINGS = "_settings.json"  # readers of Parquet folders pass over names with an underscore


def video_id(name: str) -> bytes:
    """Return 16 bytes that stand for a video's name."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write what the results depend on, or check that it is the same as that of the first process and of earlier runs.

    Raises:
        ValueError: the folder has results that depend on something else.
    """
    file = folder / SETTINGS
    new = folder / f".{SETTINGS}-{uuid4().hex}.new"  # processes of several machines may have the same number
    new.write_text(json.dumps(settings, indent=2) + "\n", encoding="ascii")
    try:
        os.link(new, file)  # fails where it exists, and is whole where it does not
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not file.exists():
            os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)
    try:
        found = json.loads(file.read_text(encoding="ascii"))
        if "labels" not in found:  # of earlier versions, in which the model's hash alone says them
            settings = {name: value for name, value in settings.items() if name != "labels"}
        differ = [
            f"{name} {_differing(found.get(name), settings.get(name))}"
            for name in {**settings, **found}
            if found.get(name) != settings.get(name)
        ]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{str(file)!r} does not say what the results are of: {error}.") from error
    if not differ:
        return
    if any(part.stat().st_size for format in RESULT_FORMATS for part in part_files(folder, format)):
        raise ValueError(
            f"{str(folder)!r} holds other results; take a new folder. They differ in {'; '.join(differ)}."
        )
    with atomic_write(file, encoding="ascii") as opened:  # those found are of a run that ended without any result
        opened.write(json.dumps(settings, indent=2) + "\n")


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
    `options.retry` the rows of videos that could not be read are taken out, so that they can be tried again.

    Raises:
        ValueError: another process writes this part, or a run with another number of processes is going on.
    """

    def __init__(self, folder: Path, options: LabelOptions, rank: Rank) -> None:
        self.folder, self.options = folder, options
        self.stem = f"part-{rank.rank:05}-of-{rank.world_size:05}"
        self.lines: IO[bytes] | None = None
        self.rows: list[dict[str, Any]] = []
        self.since = time.monotonic()
        self.lock = open_lock(folder / f".{self.stem}.lock")
        self.run = open_lock(folder / f".run-of-{rank.world_size:05}.lock")
        self._take_locks()
        for left in (*folder.glob(f".{self.stem}*.tmp"), *folder.glob(f".{self.stem}*.new")):  # new: of earlier runs
            left.unlink()
        for file in part_files(folder, options.format):
            abandoned = f"-of-{rank.world_size:05}" not in file.stem  # by runs with more or fewer processes
            if file.name.startswith(self.stem) or (abandoned and rank.rank == 0):
                if options.format == "jsonl":
                    _repair(file)
                if options.retry:
                    _drop_unreadable(file)
        if options.format == "jsonl":
            self.lines = (folder / f"{self.stem}.jsonl").open("ab")

    def _take_locks(self) -> None:
        if fcntl is None:
            logger.warning(
                f"Nothing keeps another run from writing to {str(self.folder)!r}: this system has no locks."
            )
            return
        try:
            with (self.folder / ".looking.lock").open("ab") as looking:
                fcntl.flock(looking, fcntl.LOCK_EX)  # two processes that look for other runs would find each other
                fcntl.flock(self.run, fcntl.LOCK_SH | fcntl.LOCK_NB)  # first, so that two runs see each other
                for other in self.folder.glob(".run-of-*.lock"):
                    if other.name != Path(self.run.name).name:
                        with other.open("ab") as opened:
                            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._release_locks()
            raise ValueError(
                f"A run with another number of processes is writing to {str(self.folder)!r}; wait for it, or end it."
            ) from error
        except OSError as error:
            logger.warning(f"Nothing keeps another run from writing to {str(self.folder)!r}: no file locks ({error}).")
            return
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            writer = describe_signature(signature_of(self.lock))
            self._release_locks()
            raise ValueError(f"Another process writes {self.stem!r} in {str(self.folder)!r}: {writer}.") from error
        sign_lock(self.lock)

    def _release_locks(self) -> None:
        self.lock.close()
        self.run.close()

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
        """Write rows: lines at once, rows of Parquet when their piece is full or a minute old."""
        if self.lines is None:
            self.rows += rows
            if len(self.rows) >= ROWS_OF_A_PIECE or time.monotonic() - self.since >= SECONDS_OF_A_PIECE:
                self._write_piece()
            return
        self.lines.write(b"".join(json.dumps(row).encode("ascii") + b"\n" for row in rows))
        self.lines.flush()
        os.fsync(self.lines.fileno())

    def _write_piece(self) -> None:
        if not self.rows:
            return
        pyarrow, parquet = _pyarrow()
        fields = [
            ("video", pyarrow.string()),
            ("labels", pyarrow.list_(pyarrow.string())),
            ("scores", pyarrow.list_(pyarrow.float64())),
            ("frames_lost", pyarrow.int64()),
            ("reason", pyarrow.string()),
        ]
        if self.options.embeddings:
            fields.append(("embedding", pyarrow.list_(pyarrow.float32())))
        taken = [int(file.stem[-6:]) for file in part_files(self.folder, "parquet") if self.stem in file.name]
        number = max(taken, default=-1) + 1
        file = self.folder / f"{self.stem}-{number:06}.parquet"
        with atomic_write(file, "wb") as opened:
            parquet.write_table(pyarrow.Table.from_pylist(self.rows, schema=pyarrow.schema(fields)), opened)
        self.rows, self.since = [], time.monotonic()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("The format 'parquet' needs pyarrow: pip install pyarrow.") from error
    return pyarrow, parquet


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
        else:
            _, parquet = _pyarrow()
            table = parquet.read_table(file)
            parquet.write_table(table.filter(table["reason"].is_null()), kept)


def _result_in(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("video"), str) else None


# -- reading ---------------------------------------------------------------------------------------------------------


def part_files(folder: str | Path, format: str) -> list[Path]:
    """Return the parts of all processes, of this run and of earlier ones, in the order of their names."""
    name = re.compile(rf"part-\d{{5}}-of-\d{{5}}(-\d{{6}})?\.{format}")
    return sorted(file for file in Path(folder).iterdir() if name.fullmatch(file.name))


def read_results(folder: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of all parts, one at a time; a line that is being written is left out.

    Raises:
        OSError: no such folder, or none with results.
    """
    format = json.loads((Path(folder) / SETTINGS).read_text(encoding="ascii"))["format"]
    return _rows(Path(folder), format, None)


def done_videos(folder: Path, options: LabelOptions, rank: Rank) -> set[bytes]:
    """Return the ids of this process's videos that any process has done in any run.

    With `options.retry` those that could not be read are not among them.
    """
    rows = _rows(folder, options.format, ["video", "reason"])
    ids = (video_id(row["video"]) for row in rows if not options.retry or row["reason"] is None)
    return {video for video in ids if rank.takes(video)}


def _rows(folder: Path, format: str, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    for file in part_files(folder, format):
        yield from _rows_of_lines(file) if format == "jsonl" else _rows_of_piece(file, columns)


def _rows_of_lines(file: Path) -> Iterator[dict[str, Any]]:
    with file.open("rb") as lines:
        for line in lines:
            if (row := _result_in(line)) is not None:
                yield row


def _rows_of_piece(file: Path, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    _, parquet = _pyarrow()
    for batch in parquet.ParquetFile(file).iter_batches(columns=columns):
        yield from batch.to_pylist()

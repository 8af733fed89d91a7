"""A folder of features that grows by runs that may be killed, and is read meanwhile.

```
index/_settings.json                   what the rows depend on; another model or other options are refused
index/_model.json                      where the model lay when the index was last written
index/part-00000-of-00002.jsonl        of process 0 of 2: a line for each video, its name, path, number of rows, reason
index/part-00000-of-00002.vectors      float32 numbers, row after row, for `numpy.memmap`
index/part-00000-of-00002.rows         for each row where its video's line begins, and the seconds it stands for
index/_dropped.npz                     for each part where the lines of dropped videos begin; replaced as a whole
```

A line is written last, when the rows of its video are on disk. Rows whose line is not there, or half, do not count,
and the next run cuts them off: a reader sees all rows of a video or none. Lines and locks are those of
`prediction_files.py`.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ..distributed import Rank
from ..evaluation.options import LabelOptions
from ..evaluation.prediction_files import SETTINGS, ResultWriter, part_files
from ..files import atomic_write, only_writer
from ..model.video_urls_ila import redact
from ..stores.addresses import is_address, plain_place


MODEL = "_model.json"
DROPPED, DROPPING = "_dropped.npz", "_drop.lock"
ROW = np.dtype([("line", "<u8"), ("start", "<f8"), ("end", "<f8")])  # seconds; NaN: the whole video
Span = tuple[float, float]  # start and end in seconds
WHOLE: Span = (float("nan"), float("nan"))
Line = dict[str, Any]  # video, path, rows, frames_lost, reason


def local_folder(folder: str | Path) -> Path:
    """Return the path of an index's folder.

    Raises:
        ValueError: an address, which no file can be mapped from.
    """
    folder = plain_place(str(folder))
    if is_address(folder):
        raise ValueError(
            f"{redact(folder)!r} is an address, and an index lies in a folder of this machine, as searches map "
            "its files into memory. Copy it to or from a store as a whole while no run writes to it (docs/search.md)."
        )
    return Path(folder)


def read_settings(folder: str | Path) -> dict[str, Any]:
    """Return what the rows of an index depend on.

    Raises:
        ValueError: the folder holds no index.
    """
    file = local_folder(folder) / SETTINGS
    try:
        found = json.loads(file.read_text(encoding="ascii"))
        size = found["dimension"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder)!r} holds no index; `ila index VIDEOS --output FOLDER` makes one.") from error
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{str(file)!r} must give a dimension of 1 or more, got {size!r}.")
    return found


def write_model(folder: Path, source: str) -> None:
    """Write where the model of an index lies: an absolute path, or a Hub id."""
    source = os.path.abspath(source) if os.path.isdir(source) else source
    if source != read_model(folder):
        with atomic_write(folder / MODEL, encoding="ascii") as file:
            file.write(json.dumps({"model": source}) + "\n")


def read_model(folder: Path) -> str | None:
    """Return where the model of an index lay; None where the index does not say."""
    try:
        return json.loads((folder / MODEL).read_text(encoding="ascii"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


# -- writing ---------------------------------------------------------------------------------------------------------


class IndexWriter(ResultWriter):
    """Write the part of one process: rows of features, then the line of their video.

    Raises:
        ValueError: another process writes this part, or a run with another number of processes is going on.
    """

    def __init__(self, folder: Path, rank: Rank) -> None:
        super().__init__(folder, LabelOptions(), rank)  # which repairs the lines
        assert self.lines is not None
        part = Path(self.lines.name)
        records = _mapped(part.with_suffix(".rows"), ROW)
        kept = int(np.searchsorted(records["line"], self.lines.tell()))
        dimension = read_settings(folder)["dimension"]
        self.rows_file = _opened(part.with_suffix(".rows"), kept * ROW.itemsize)
        self.vectors = _opened(part.with_suffix(".vectors"), kept * dimension * 4)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Write videos, each a line with `features` (rows, E) and `spans`, the seconds of each row, beside it."""
        assert self.lines is not None
        lines, records, position = list[Line](), list[tuple[int, float, float]](), self.lines.tell()
        for row in rows:
            line = {name: value for name, value in row.items() if name not in ("features", "spans")}
            records += [(position, *span) for span in row.get("spans", ())]
            lines.append(line)
            position += len(json.dumps(line)) + 1
        features = [np.ascontiguousarray(row["features"], "<f4") for row in rows if row.get("spans")]
        _write(self.vectors, b"".join(block.tobytes() for block in features))
        _write(self.rows_file, np.array(records, ROW).tobytes())
        super().append(lines)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for file in (self.vectors, self.rows_file):
            with suppress(OSError):  # what was not written has no line, and `append` has said so
                file.close()
        super().__exit__(kind, *rest)


def _opened(path: Path, size: int) -> IO[bytes]:
    """Open a file to append to it, cut off to `size` bytes."""
    file = path.open("ab")
    file.truncate(size)
    file.seek(size)
    return file


def _write(file: IO[bytes], content: bytes) -> None:
    if content:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


# -- reading ---------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Hold the rows of one process, as they were when the part was opened.

    file: of the lines.
    records: (N,) of the type `ROW`.
    vectors: (N, E) float32, mapped from disk.
    dropped: where the lines of dropped videos begin, ascending.
    """

    file: Path
    records: np.ndarray
    vectors: np.ndarray
    dropped: np.ndarray

    def is_dropped(self) -> np.ndarray:
        """Return (N,), which rows are of dropped videos."""
        return np.isin(self.records["line"], self.dropped)

    def line(self, begin: int) -> Line:
        """Read the line that begins at a byte."""
        with self.file.open("rb") as lines:
            lines.seek(begin)
            return self._read(begin, lines.readline())

    def lines(self) -> Iterator[tuple[int, Line]]:
        """Yield where each line begins, and the line; those of dropped videos are left out."""
        dropped, begin = set(self.dropped.tolist()), 0
        with self.file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n") and begin not in dropped:
                    yield begin, self._read(begin, line)
                begin += len(line)

    def _read(self, begin: int, line: bytes) -> Line:
        try:
            found = json.loads(line)
            assert {"video", "path", "rows", "reason"} <= found.keys()
            return found
        except (ValueError, AttributeError, AssertionError) as error:
            raise ValueError(f"The line at byte {begin} of {str(self.file)!r} stands for no video.") from error


def open_parts(folder: Path, dimension: int) -> list[Part]:
    """Open the parts of all processes, of this run and of earlier ones.

    Raises:
        ValueError: a part with fewer vectors than rows: its files are not of one index.
    """
    files = part_files(folder, "jsonl")
    ends = [_end_of_lines(file) for file in files]
    dropped = _read_dropped(folder)  # behind the lines: what is dropped and added again meanwhile is not found twice
    parts = []
    for file, end in zip(files, ends):
        records = _mapped(file.with_suffix(".rows"), ROW)
        records = records[: int(np.searchsorted(records["line"], end))]
        numbers = _mapped(file.with_suffix(".vectors"), np.dtype("<f4"))
        if len(numbers) < len(records) * dimension:
            raise ValueError(
                f"{str(file.with_suffix('.vectors'))!r} holds {len(numbers)} numbers, fewer than those of "
                f"{len(records)} rows of {dimension}."
            )
        vectors = numbers[: len(records) * dimension].reshape(-1, dimension)
        parts.append(Part(file, records, vectors, dropped.get(file.stem, np.empty(0, ROW["line"]))))
    return parts


def _end_of_lines(file: Path) -> int:
    """Return where the last whole line ends."""
    with file.open("rb") as lines:
        end = lines.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - 2**16)
            lines.seek(begin)
            found = lines.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0


def _mapped(file: Path, dtype: np.dtype) -> np.ndarray:
    """Map a file of numbers or records; what is behind the last whole one is left out."""
    count = file.stat().st_size // dtype.itemsize if file.exists() else 0
    return np.memmap(file, dtype, "r", shape=count) if count else np.empty(0, dtype)  # an empty file cannot be mapped


# -- dropping --------------------------------------------------------------------------------------------------------


def _read_dropped(folder: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(folder / DROPPED) as found:
            return dict(found)
    except FileNotFoundError:
        return {}


def drop_lines(folder: Path, begins: dict[str, list[int]]) -> None:
    """Mark lines, by their part's name and where they begin, as dropped; a reader finds all of them or none."""
    with only_writer(folder, DROPPING, wait=True):
        dropped: dict[str, Any] = _read_dropped(folder)
        for stem, new in begins.items():
            dropped[stem] = np.union1d(dropped.get(stem, np.empty(0, ROW["line"])), np.array(new, ROW["line"]))
        with atomic_write(folder / DROPPED, "wb") as file:
            np.savez(file, **dropped)

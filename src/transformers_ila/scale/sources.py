"""A planned video's bytes: of a file, of a shard or of a Parquet file, here or at an address, within limits."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

from ..data.text import AnnotationError
from ..model.video_container_ila import ReadLimits, VideoDecodingError, VideoFile
from ..model.video_reading_ila import DEFAULT_LIMITS
from ..model.video_urls_ila import download, is_url, redact
from ..stores.addresses import is_address, plain_place, reason_of
from ..stores.reading import BLOCK, open_file, read_pieces, size_at


IN_MEMORY = 2**26  # bytes of a video; what is longer goes to a temporary file
NOT_SHARED = ("memory", "data", "reference", "generic", "dir")  # what another process cannot open, or is no place


class SourceError(ValueError):
    """Report a source that there is none of, or that cannot be read, in one line without secrets."""


class PlannedVideo(NamedTuple):
    """Say where one video lies, so that any process can read it.

    video: its name, which is also its id.
    path: path or address of the file; empty where a manifest has none.
    offset, size: the bytes of the file that are the video, of a tar shard.
    row_group, row, column: the cell of a Parquet file that is the video; `row` counts within the group, from 0.
    """

    video: str
    path: str
    offset: int | None = None
    size: int | None = None
    row_group: int | None = None
    row: int | None = None
    column: str | None = None


@contextmanager
def errors_in(place: str) -> Iterator[None]:
    """Turn whatever is raised while a path or an address is read into a SourceError that names it, in one line."""
    try:
        yield
    except (SourceError, AnnotationError):
        raise
    except Exception as error:  # Arrow's and others have no common base
        raise SourceError(f"Cannot read {redact(place)!r}: {reason_of(error, place)}.") from None


def check_shared(address: str) -> None:
    """Raise a SourceError where no other process can open an address."""
    if address.partition("://")[0].lower() in NOT_SHARED:
        raise SourceError(
            f"{redact(address)!r} is no place that another process can open; allowed are addresses such as "
            "s3://bucket/clips."
        )


# -- videos ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedSource:
    """Hold a planned video that is loaded when it is read (`VideoReader`)."""

    planned: PlannedVideo
    limits: ReadLimits = DEFAULT_LIMITS

    def load(self) -> Any:
        """Return what `open_source` returns."""
        return open_source(self.planned, self.limits)


class _Content(tempfile.SpooledTemporaryFile):
    """Hold a video's bytes, in memory or, if they are many, in a file without a name; `name` is for messages."""

    def __init__(self, name: str) -> None:
        super().__init__(max_size=IN_MEMORY, prefix="ila_video_")
        self.called = name

    @property
    def name(self) -> str:
        return self.called


def open_source(
    planned: PlannedVideo, limits: ReadLimits = DEFAULT_LIMITS, *, copy_urls: bool = False
) -> str | BinaryIO:
    """Return what the processor reads a planned video from: a path, an http(s) URL, or a binary file with its bytes.

    Paths and URLs are returned as they are, as the processor reads those itself. Anything else is read now, whole.

    Args:
        copy_urls: read what lies at URLs now, too, for a video that the processor reads several times.

    Raises:
        VideoDecodingError: there is no such video, a limit is met, or fewer bytes came than were promised.
    """
    is_part = planned.column is not None or planned.offset is not None
    name = repr(planned.video if is_part else redact(planned.path))
    if not planned.path:
        raise VideoDecodingError(repr(planned.video), "the manifest has neither a path nor bytes for it")
    if not is_part:
        path = plain_place(planned.path)
        if not is_address(path) or (is_url(path) and not copy_urls):
            return path  # the processor reads these itself
    if is_part and is_url(planned.path) and not limits.allow_private_addresses:
        raise VideoDecodingError(name, "with allow_private_addresses=False no shards or manifests are read at URLs")
    content = _Content(planned.video if is_part else redact(planned.path))
    copy = VideoFile(file=content, name=name, limits=limits, deadline=time.monotonic() + limits.max_seconds)
    try:
        if is_address(planned.path):
            check_shared(planned.path)
        if planned.column is not None:
            return _open_cell(planned, copy, copy_urls=copy_urls)
        if not is_part and is_url(planned.path):
            download(planned.path, copy)
        else:
            size = size_at(planned.path) if planned.size is None else planned.size
            copy.check_bytes(size)
            for piece in read_pieces(planned.path, planned.offset or 0, size):
                copy.check_time()
                copy.file.write(piece)
    except VideoDecodingError:
        raise
    except Exception as error:  # as in `errors_in`
        secret = isinstance(error, ValueError) and redact(planned.path) != planned.path  # it may repeat the password
        raise VideoDecodingError(name, "it is no valid URL" if secret else reason_of(error, planned.path)) from None
    copy.file.seek(0)
    return copy.file


def _open_cell(planned: PlannedVideo, copy: VideoFile, *, copy_urls: bool) -> Any:
    """Return the path or the bytes in a cell of a Parquet file."""
    key = (planned.path, planned.row_group, planned.column)
    column, row = _Column.last(*key), planned.row or 0
    if column.next > row:
        _Column.last.cache_clear()
        column = _Column.last(*key)
    try:
        cell = column.cell(row, copy)
    except BaseException:
        _Column.last.cache_clear()  # it may have stopped anywhere
        raise
    path = cell.get("path") if isinstance(cell, dict) else None
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if content is not None:
        copy.check_bytes(len(content))
        copy.file.write(content)
        copy.file.seek(0)
        return copy.file
    if not path:
        raise VideoDecodingError(copy.name, "the manifest has neither a path nor bytes for it")
    if not (is_address(path) or os.path.isabs(path)):
        raise VideoDecodingError(copy.name, f"its row has no bytes, and its path {path!r} says no folder")
    return open_source(PlannedVideo(planned.video, path), copy.limits, copy_urls=copy_urls)


class _Column:
    """Read the cells of a column in one row group, in ascending order; only one of them is in memory."""

    def __init__(self, address: str, row_group: int, column: str) -> None:
        from pyarrow import parquet

        self.file = open_file(address, block=BLOCK)
        opened = parquet.ParquetFile(self.file, buffer_size=BLOCK, pre_buffer=False, page_checksum_verification=True)
        self.batches = opened.iter_batches(batch_size=1, row_groups=[row_group], columns=[column], use_threads=False)
        self.next = 0

    @staticmethod
    @lru_cache(maxsize=1)  # rows of a group are neighbours in the plan
    def last(address: str, row_group: int, column: str) -> "_Column":
        """Return the column that was read last, or a new one."""
        return _Column(address, row_group, column)

    def cell(self, row: int, copy: VideoFile) -> Any:
        """Return a cell that no call has gone past."""
        while True:
            copy.check_time()
            batch = next(self.batches, None)
            if batch is None:
                raise OSError(f"the row group has {self.next} rows, and row {row} was planned")
            self.next += 1
            if self.next > row:
                return batch.column(0)[0].as_py()

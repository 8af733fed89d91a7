"""Parquet manifests: which columns hold the videos and their names, and what a row says.

Row groups are read a few thousand rows at a time, of the columns that are needed alone: never the bytes of a video.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..data.text import preview
from ..model.video_urls_ila import redact
from ..stores.reading import BLOCK, open_file
from .options import EngineOptions
from .sources import SourceError, errors_in


VIDEO_COLUMNS = frozenset("video video_path videopath path file file_path filepath file_name filename url uri".split())
ID_COLUMNS = frozenset("id video_id videoid uid uuid key __key__".split())
ROWS_AT_ONCE = 2**13


class ManifestRow(NamedTuple):
    """Hold one row of a manifest: its number, the video's name, and the path or the cell of its bytes.

    number: of the row in its file, from 0. id: the video's name, None where there is no column of names.
    path: as it is written; None where the row has none, or has bytes.
    cell: row group, row within it, and column of a video that is bytes.
    """

    number: int
    id: str | None
    path: str | None
    cell: tuple[int, int, str] | None


def read_manifest(manifest: str, options: EngineOptions) -> Iterator[ManifestRow]:
    """Yield the rows of a Parquet file at a path or address.

    Raises:
        SourceError: it cannot be read, lacks a column or has several that may be meant, or a name is null or empty.
    """
    from pyarrow import parquet

    called = redact(manifest)
    with errors_in(manifest), open_file(manifest, block=BLOCK) as opened:
        file = parquet.ParquetFile(opened, buffer_size=BLOCK, pre_buffer=False)
        columns = Columns.find(file.schema_arrow, options, called)
        first = 0  # row of the group
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            has_bytes = columns.bytes is not None and not _is_null(about, columns.bytes)
            wanted = [columns.id, None if has_bytes else columns.path]
            for row, (id, path) in enumerate(_values(file, group, wanted)):
                if columns.id is not None and id in (None, ""):
                    where = f"{called!r}, row {first + row}"
                    raise SourceError(f"{where}: {columns.id!r} is {id!r}, where the video's name must stand.")
                cell = (group, row, columns.video) if has_bytes else None
                yield ManifestRow(first + row, None if id is None else str(id), path, cell)
            first += about.num_rows


class Columns(NamedTuple):
    """Hold the columns of a manifest: that of the video, its parts, and that of names; None where there is none."""

    video: str
    path: str | None
    bytes: str | None
    id: str | None

    @classmethod
    def find(cls, schema: Any, options: EngineOptions, manifest: str) -> "Columns":
        """Find the columns by their names and types.

        Raises:
            SourceError: one is missing, several may be meant, or one has another type.
        """
        types = {
            field.name: field.type.value_type if _is(field.type, "dictionary") else field.type for field in schema
        }
        known = ", ".join(f"{name} ({type})" for name, type in types.items())
        parts = {name: found for name, type in types.items() if (found := _parts(name, type)) is not None}
        videos = list(parts)
        ids = [name for name, type in types.items() if _is_text(type) or _is(type, "integer")]
        if options.video_column is None:
            named = [name for name in videos if name.lower() in VIDEO_COLUMNS]
            videos = named or [name for name in videos if _is(types[name], "struct")]
        else:
            videos = [name for name in videos if name == options.video_column]
        if options.id_column is None:
            ids = [name for name in ids if name.lower() in ID_COLUMNS and name not in videos]
        else:
            ids = [name for name in ids if name == options.id_column]
        for name, names, wanted in (
            ("video_column", videos, "paths, bytes, or structs of `path` and `bytes`"),
            ("id_column", ids, "texts or whole numbers"),
        ):
            asked = getattr(options, name)
            if len(names) > 1:
                raise SourceError(f"{manifest!r}: {preview(names)} may each be meant; choose by {name}.")
            if not names and (asked is not None or name == "video_column"):
                which = f"no column {asked!r}" if asked is not None else "no column of videos"
                raise SourceError(f"{manifest!r} has {which} with {wanted}; it has {known}. Name one by {name}.")
        return cls(videos[0], *parts[videos[0]], ids[0] if ids else None)


def _parts(name: str, type: Any) -> tuple[str | None, str | None] | None:
    """Return the parts of a column that have paths and bytes; None where it cannot hold videos."""
    if _is_text(type):
        return name, None
    if _is(type, "binary", "large_binary", "binary_view"):
        return None, name
    parts = {field.name for field in type} if _is(type, "struct") else set()
    path, content = (f"{name}.{part}" if part in parts else None for part in ("path", "bytes"))
    return (path, content) if path or content else None


def _is_text(type: Any) -> bool:
    return _is(type, "string", "large_string", "string_view")


def _is(type: Any, *kinds: str) -> bool:
    from pyarrow import types

    return any(getattr(types, f"is_{kind}")(type) for kind in kinds)


def _is_null(group: Any, column: str) -> bool:
    """Return whether a row group says that a column has nothing but nulls."""
    for index in range(group.num_columns):
        found = group.column(index)
        if found.path_in_schema == column and found.statistics is not None and found.statistics.has_null_count:
            return found.statistics.null_count == group.num_rows
    return False


def _values(file: Any, group: int, columns: Sequence[str | None]) -> Iterator[list[Any]]:
    """Yield the values of some columns, or of parts of them, row by row; None of a column that is None."""
    wanted = [column for column in columns if column is not None]
    if not wanted:
        yield from ([None] * len(columns) for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=wanted, use_threads=False):
        found = [_column(batch, column) for column in columns]
        yield from map(list, zip(*found))


def _column(batch: Any, column: str | None) -> list[Any]:
    if column is None:
        return [None] * batch.num_rows
    if column in batch.schema.names:
        return batch.column(column).to_pylist()
    name, _, part = column.rpartition(".")
    return [cell and cell[part] for cell in batch.column(name).to_pylist()]

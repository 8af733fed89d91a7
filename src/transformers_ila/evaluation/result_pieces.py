"""Pieces of results in Parquet: how rows become one, and how one is read, in a local folder or at an address."""

import io
from pathlib import Path
from typing import Any

from ..model.video_urls_ila import redact
from ..stores.folder import StoreFile


ROWS_OF_A_GROUP = 10_000  # readers take one group of rows at a time
READ_WHOLE = 2**22  # bytes: a smaller piece at an address is one request, of a larger one the columns are read
Row = dict[str, Any]


def pyarrow_modules() -> tuple[Any, Any]:
    """Return `pyarrow` and `pyarrow.parquet`.

    Raises:
        ValueError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError("The format 'parquet' needs pyarrow: pip install pyarrow.") from error
    return pyarrow, parquet


def to_table(rows: list[Row], *, embeddings: bool) -> Any:
    """Return rows as a table of Arrow, which takes a tenth of their memory."""
    pyarrow, _ = pyarrow_modules()
    fields = [
        ("video", pyarrow.string()),
        ("labels", pyarrow.list_(pyarrow.string())),
        ("scores", pyarrow.list_(pyarrow.float64())),
        ("frames_lost", pyarrow.int64()),
        ("reason", pyarrow.string()),
    ]
    if embeddings:
        fields.append(("embedding", pyarrow.list_(pyarrow.float32())))
    return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields))


def encode(tables: list[Any], writer: str | None = None) -> bytes:
    """Return tables as one file of Parquet, whose pages have checksums.

    Args:
        writer: who writes it; no other's piece has the same content then.
    """
    pyarrow, parquet = pyarrow_modules()
    table = pyarrow.concat_tables(tables)
    if writer is not None:
        table = table.replace_schema_metadata({"writer": writer})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, row_group_size=ROWS_OF_A_GROUP, write_page_checksum=True)
    return buffer.getvalue()


def read_piece(file: Path | StoreFile, columns: list[str] | None = None) -> Any:
    """Read a piece, or some columns of it, as a table.

    Raises:
        OSError: it cannot be read, or what comes from its store is not what was written, also when asked again.
        ValueError: it is a damaged local file, or one of other columns.
    """
    table = _table_of(file, columns)
    if missing := [name for name in columns or ["video", "reason"] if name not in table.column_names]:
        raise ValueError(f"{redact(str(file))!r} holds no results: it has no column {', '.join(missing)}.")
    return table


def _table_of(file: Path | StoreFile, columns: list[str] | None) -> Any:
    pyarrow, parquet = pyarrow_modules()

    def read(opened: Any) -> Any:
        return parquet.ParquetFile(opened, page_checksum_verification=True).read(columns)

    if isinstance(file, Path):
        try:
            return read(file)
        except (pyarrow.ArrowInvalid, OSError) as error:  # of a damaged page it is an OSError
            reason = " ".join(str(error).split()).rstrip(".")
            kind = ValueError if isinstance(error, pyarrow.ArrowInvalid) else OSError
            raise kind(f"{str(file)!r} cannot be read as a piece of results: {reason}.") from error

    def ask() -> Any:
        if file.size <= READ_WHOLE:
            return read(io.BytesIO(file.read_once()))
        with file.open() as opened:
            return read(opened)

    return file.folder.asked(f"read {file.name!r} in", ask)


def readable(table: Any) -> Any | None:
    """Return a table without the rows of videos that could not be read; None if it has none of them."""
    return table.filter(table["reason"].is_null()) if table["reason"].null_count < len(table) else None

"""Reads names of classes: those of the paper's data sets, and those that files of any kind list."""

import csv
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from transformers.utils import logging

from .text import unquoted


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class DataSet:
    """Hold a data set of the paper: what it is called there, and how many classes it has."""

    title: str
    num_labels: int


DATA_SETS: dict[str, DataSet] = {
    "kinetics400": DataSet("Kinetics-400", 400),
    "ssv2": DataSet("Something-Something V2", 174),
}
HEADER_WORDS = {"id", "name", "label", "class", "index", "category"}
ID_AND_NAME = re.compile(r"(?P<id>\d+)\s*[,;\s]\s*(?P<name>\S.*)", re.ASCII)
NAME_AND_ID = re.compile(r".*\S\s*[,;\t]\s*(?P<id>\d+)", re.ASCII)
UNUSED = "unused output "  # and its number: the name of an output that no class was trained for


def class_names(source: str | Path) -> list[str]:
    """Return the class names of "kinetics400", "ssv2", or of a file, in the order of their ids.

    A file has one class per line: `id,name` with that header, as the release's lists, the bare name, or an id and the
    name, as UCF101's `classInd.txt`. JSON is read too: a list of names, or names with their ids as
    Something-Something V2's `labels.json`. Ids count from 0, or from 1.

    Raises:
        ValueError: there is no such list, its ids are not 0 to K-1 or 1 to K, or names are missing or repeated.
    """
    return names_and_first_index(source)[0]


def names_and_first_index(source: str | Path) -> tuple[list[str], int]:
    """Return what `class_names` returns, and the first id: 0, also where there are no ids, or 1."""
    if source in DATA_SETS:
        return _read_names(files(__package__).joinpath("labels", f"{source}.csv").read_text("utf-8"), str(source))
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"`labels` must be one of {', '.join(DATA_SETS)}, or a file; there is none at {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _read_json(text, str(path)) if text.lstrip()[:1] in ("[", "{") else _read_names(text, str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text in UTF-8: {error}.") from error


def _read_names(text: str, source: str) -> tuple[list[str], int]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{source!r} names no class.")
    if [cell.strip().lower() for cell in lines[0].split(",")] == ["id", "name"]:
        return _by_id(lines[1:], source)
    numbered = [match for match in map(ID_AND_NAME.fullmatch, lines) if match is not None]
    if len(numbered) == len(lines) and _are_numbered(lines):
        names, first = _in_order([[match["id"], unquoted(match["name"])] for match in numbered], source)
        logger.warning(f"{source!r} is read as ids and names: {first} is {names[0]!r}, also where lists have numbers.")
        return names, first
    cells = {cell.strip().lower() for cell in re.split(r"[,;\t]", lines[0])}
    if cells <= HEADER_WORDS or _are_numbered(lines):
        raise ValueError(
            f"{source!r} must have `id,name` in every line, with that header, or bare names; it begins {lines[:2]}."
        )
    return _different(lines, source), 0


def _are_numbered(lines: list[str]) -> bool:
    """Return whether the lines, except perhaps the first, have ids before the names, or after a separator."""
    for form in (ID_AND_NAME, NAME_AND_ID):
        found = [form.fullmatch(line) for line in lines]
        ids = [int(match["id"]) for match in found if match is not None]
        if len(ids) > 1 and (len(ids) == len(lines) or found[0] is None and len(ids) == len(lines) - 1):
            if sorted(ids) == list(range(min(ids), min(ids) + len(ids))):
                return True
    return False


def _read_json(text: str, source: str) -> tuple[list[str], int]:
    """Read a list of names, or an object with ids behind the names or in front of them."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source!r} is no JSON: {error}.") from error
    if isinstance(content, dict):
        ids_first = all(str(key).isdecimal() for key in content)
        pairs = [(key, value) if ids_first else (value, key) for key, value in content.items()]
        return _in_order([[str(number), str(name)] for number, name in pairs], source)
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{source!r} must hold a list of names, or names with their ids.")
    return _different([name.strip() for name in content], source), 0


def _different(names: list[str], source: str) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1 or not name})
    if repeated:
        raise ValueError(f"The names of {source!r} must be different and not empty, got {repeated[:5]}.")
    return names


def _by_id(lines: list[str], source: str) -> tuple[list[str], int]:
    rows = [_cells(line) for line in lines]
    wrong = [line for line, row in zip(lines, rows) if len(row) != 2]
    if wrong:
        raise ValueError(f"{source!r} must have `id,name` in every line (quote names with commas), got {wrong[0]!r}.")
    return _in_order(rows, source)


def _in_order(rows: list[list[str]], source: str) -> tuple[list[str], int]:
    """Return the names of rows of id and name, in the order of their ids, and the first id."""
    wrong = [row for row in rows if not row[0].strip().isdecimal()]
    if not rows:
        raise ValueError(f"{source!r} names no class.")
    if wrong:
        raise ValueError(f"The ids of {source!r} must be numbers from 0 on, got {','.join(wrong[0])!r}.")
    by_id = {int(row[0]): row[1].strip() for row in rows}
    first = min(by_id)
    if first > 1 or sorted(by_id) != list(range(first, first + len(rows))):
        found = ", ".join(map(str, sorted(by_id)[:9]))
        raise ValueError(
            f"The ids of {source!r} must be 0 to {len(rows) - 1}, each once, or 1 to {len(rows)}; got {found}, ..."
        )
    return _different([by_id[index] for index in sorted(by_id)], source), first


def _cells(line: str) -> list[str]:
    """Return the cells of one line, so that an open quote does not swallow the next line; none of what is no CSV."""
    try:
        return next(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error:
        return []


def fill_up(names: list[str], num_outputs: int) -> list[str]:
    """Add names for the unused outputs of a released linear head, which has 400 whatever its data set has."""
    return [*names, *(f"{UNUSED}{index}" for index in range(len(names), num_outputs))]


def is_unused(name: str) -> bool:
    """Return whether a name is such as `fill_up` makes, for an output that no class was trained for."""
    return name.startswith(UNUSED)


def used_names(names: list[str]) -> list[str]:
    """Return the names without those that `fill_up` added: they stand at the end, each with its own index.

    A class that somebody calls so anywhere else is a class.
    """
    used = len(names)
    while used and names[used - 1] == f"{UNUSED}{used - 1}":
        used -= 1
    return names[:used]

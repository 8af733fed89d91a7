"""Reads annotation files as text: their lines, what stands where in them, and faults that say so."""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..model.video_urls_ila import redact


NOT_UTF8 = "what stands here is no text in UTF-8"
LONGEST_LINE = 2**15  # characters
TOO_LONG = f"the line has more than {LONGEST_LINE} characters, too many for a path and labels"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BETWEEN = r"(?:[ \t,;]|::)"  # spreadsheets have `;` where a comma is the decimal point, V-JEPA `::`
SEPARATORS = " \t,;:"  # the characters of those
TOKEN = re.compile(rf"\"(?:[^\"]|\"\")*\"|'[^']*'|(?:(?!{BETWEEN}|(?<=:):).)+")
CELLS = {  # what separates the cells of a row, the first that it has -> one cell, without the blanks before it
    mark: re.compile(rf" *(\"(?:[^\"]|\"\")*\"(?= *(?:{mark}|$))|[^{mark}]*) *({mark}|$)") for mark in "\t;,"
}


class AnnotationError(ValueError):
    """Report a fault in an annotation. `line` and `column` (in characters) count from 1; None stands for no line."""

    line: int | None = None
    column: int | None = None


class Text(NamedTuple):
    """Hold a file's name, its text with `\\n` alone at the ends of lines, and the hash of its bytes."""

    file: str
    text: str
    sha256: str


class Line(NamedTuple):
    """Hold a line without the blanks around it.

    file: what faults name. number: from 1 on; None in what has no lines. text: without the blanks. indent: how many
    characters stand before it.
    """

    file: str
    number: int | None
    text: str
    indent: int = 0

    def fault(self, position: int, reason: str) -> AnnotationError:
        """Make the error that names this line and the column of a position in its text."""
        return annotation_error(self.file, reason, line=self.number, column=self.indent + position + 1)


def annotation_error(
    source: str, reason: str, *, line: int | None = None, column: int | None = None
) -> AnnotationError:
    """Make the error whose message names the source, the line and the column."""
    where = "" if line is None else f", line {line}, column {column}"
    error = AnnotationError(redact(f"{source!r}{where}: {reason}" + ("" if reason.endswith("?") else ".")))
    error.line, error.column = line, None if line is None else column
    return error


def read_text(file: str | Path) -> Text:
    """Read a file in UTF-8; a ValueError says that there is none, an AnnotationError where it is no text."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"There is no annotation file {str(path)!r}.")
    content = path.read_bytes()
    return Text(str(path), decoded(content, str(path)), hashlib.sha256(content).hexdigest())


def decoded(content: bytes, file: str) -> str:
    """Decode UTF-8, with a byte order mark or without, to text with `\\n` alone at the ends of lines."""
    content = content.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
        fault = text.find("\0")
        if fault < 0:
            return with_plain_ends(text)
        before = text[:fault]
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
    before = with_plain_ends(before)
    line, column = place_of(before, len(before))
    hint = ", but in UTF-16" if content[:2] in UTF16 else ""
    raise annotation_error(file, f"{NOT_UTF8}{hint}: save the file as UTF-8", line=line, column=column)


def with_plain_ends(text: str) -> str:
    """Make `\\n` of all ends of lines. `splitlines` ends lines at a dozen characters that may stand in a path."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def nonblank_lines(text: Text) -> Iterator[Line]:
    """Yield the lines that are not blank; a text without any is an AnnotationError."""
    if not text.text.strip():
        raise annotation_error(text.file, "nothing stands there", line=1, column=1)
    for number, line in enumerate(text.text.split("\n"), 1):
        stripped = line.strip(" \t")
        if stripped:
            found = Line(text.file, number, stripped, line.index(stripped[0]))
            if len(stripped) > LONGEST_LINE:
                raise found.fault(0, TOO_LONG)
            yield found


def place_of(text: str, position: int) -> tuple[int, int]:
    """Return line and column of a position in a text, both from 1 on."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def unquoted(text: str) -> str:
    """Remove the quotes around a text, and make one of two within; a text without them is returned unchanged."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1].replace(text[0] * 2, text[0])
    return text


def cells_of(text: str, *, blanks: bool = False) -> list[tuple[str, int]]:
    """Return the cells of a row, without blanks and quotes, and where each begins; empty ones count.

    Tabs separate them, else semicolons, else commas; a text with none of these is one cell, or with `blanks` as many
    as blanks separate.
    """
    cell = next((cell for mark, cell in CELLS.items() if mark in text), None)
    if cell is None:
        tokens = [(unquoted(token[0]), token.start()) for token in TOKEN.finditer(text)]
        return tokens if blanks else [(unquoted(text), 0)]
    cells, found = [], cell.match(text)
    while found is not None:
        cells.append((unquoted(found[1].rstrip(" ")), found.start(1)))
        found = cell.match(text, found.end()) if found[2] else None
    return cells


def is_index(text: str) -> bool:
    """Return whether a text is a whole number of at most nine digits, as a class index is."""
    return text.isdecimal() and text.isascii() and len(text) < 10


def parse_json(text: Text) -> Any:
    """Parse JSON; a fault in it is an AnnotationError with its line and column."""
    try:
        return json.loads(text.text)
    except json.JSONDecodeError as error:
        raise annotation_error(text.file, f"no JSON: {error.msg}", line=error.lineno, column=error.colno) from error
    except RecursionError as error:
        raise annotation_error(text.file, "no annotation is nested so deeply", line=1, column=1) from error


def preview(names: Sequence[object], count: int = 5) -> str:
    """List the first few names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(redact(str(name))) for name in names[:count]) + more

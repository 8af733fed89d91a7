"""Words from outside (class names, paths, fields of reports) as text in Markdown, HTML, Python, tables and pictures.

There is one function for each context; what it returns shows the word and is never markup of that context. A name in
JSON or YAML needs none: their writers escape it.
"""

import csv
import html
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


LONGEST = 300  # letters of a word that is shown
JOINERS = "\u200c\u200d"  # which belong to Persian and Indian words and to emoji
# with which something else than a paragraph begins in Markdown
BLOCK = r"^(\d+)(?=[.)])|^(?=[-+*]\s|[#=>]|~~~|```|--|(?:\*\s*){3}|(?:_\s*){3}|\[[^]]*\]:)"
FORMULA = ("=", "+", "-", "@")  # with which spreadsheets begin one, also behind blanks


class Markdown(str):
    """Mark a text that is Markdown already, and is put into a page without being escaped."""


def plain_line(value: Any, longest: int | None = LONGEST) -> str:
    """Return a value in one line of letters that can be seen and encoded, cut behind `longest` of them.

    Runs of blanks and line breaks become a blank. Control characters, marks that turn the direction of reading, and
    lone surrogates become escapes such as `\\x1b`.
    """
    line = " ".join(str(value).split())
    line = "".join(letter if _is_seen(letter) else letter.encode("unicode_escape").decode("ascii") for letter in line)
    return line if longest is None or len(line) <= longest else line[: longest - 3] + "..."


def _is_seen(letter: str) -> bool:
    return letter in JOINERS or unicodedata.category(letter) not in ("Cc", "Cf", "Cs")


def markdown_text(value: Any, longest: int | None = LONGEST) -> Markdown:
    """Return a value as text inside a line of Markdown, also in a cell of a table: no HTML, links or emphasis."""
    if isinstance(value, Markdown):
        return value
    line = re.sub(r"[\\`*\[\]{}|~$]", r"\\\g<0>", plain_line(value, longest))
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)  # within a word it is a letter
    line = re.sub(r"(?i)\b(https?|ftp)(?=://)|\bwww(?=\.)", r"\g<0>\\", line)  # GitHub makes links of them
    return Markdown(_without_html(line))


def markdown_sentences(value: Any) -> Markdown:
    """Return somebody's Markdown as part of a paragraph or a cell: emphasis and links work, HTML and blocks do not."""
    line = _without_html(plain_line(value, None).replace("{{", r"{\{").replace("{%", r"{\%"))
    return Markdown(re.sub(BLOCK, r"\1\\", line.replace("|", r"\|")))


def _without_html(line: str) -> str:
    return re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")


def markdown_table(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown, with heads and cells as `markdown_text` unless they are Markdown."""
    head, *lines = (f"| {' | '.join(map(markdown_text, cells))} |" for cells in (heads, *rows))
    return "\n".join([head, "|" + "---|" * len(heads), *lines])


def python_string(value: str) -> str:
    """Return the literal of a string in Python's source, in double quotes and one line, without `<`, `[` and `{{`."""
    literal = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in value.replace("\\", "\\\\").replace('"', '\\"')
    )
    literal = re.sub(r"[<\[]|(?<=\{)\{", lambda found: f"\\x{ord(found[0]):02x}", literal)  # HTML's and templates'
    return f'"{literal}"'


def html_text(value: Any, longest: int | None = LONGEST) -> str:
    """Return a value as text of an HTML page, in one line, also in an attribute with quotes around it."""
    return html.escape(plain_line(value, longest))


def script_json(value: Any) -> str:
    """Return a value as JSON inside a `script` element of an HTML page, which it cannot end.

    Raises:
        ValueError: a number that is not finite.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV. Text that a spreadsheet would compute (`=1+1`, `-a`) has a `'` in front."""
    return "".join(_csv_line(row) + "\n" for row in rows)


def _csv_line(row: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow([_csv_cell(cell) for cell in row])  # quotes both where they occur
    return line.getvalue()[:-2]


def _csv_cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(FORMULA) else value

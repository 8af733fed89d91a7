"""Words in pictures: which letters there are, names on few lines, lines that fit, and short counts.

Foreign words are drawn with `parse_math=False`, so that nothing in them is read as mathematics.
"""

import textwrap
from bisect import bisect_right
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ..markup import plain_line


if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"  # matplotlib's own
POINT = 1 / 72  # inches
SHOWN = 48  # letters of a name
HEADING_LETTER = 0.082  # inches, of headings
ROUNDING = 1.07  # what a text may be wider by on a screen, where letters begin at whole pixels
MEASURED = 100  # points at which letters are measured


# -- which letters there are -----------------------------------------------------------------------------------------


def _font() -> Any:
    from matplotlib.font_manager import findfont, get_font  # here, as most who import this draw nothing

    return get_font(findfont(FONT))


@cache
def letters_of_font() -> frozenset[int]:
    """Return the code points of the letters that pictures can show."""
    return frozenset(_font().get_charmap())


def legible(name: str, otherwise: str, longest: int = SHOWN) -> str:
    """Return a name in one line, cut behind `longest` letters, for a text with `parse_math=False`.

    otherwise: what is returned where the font lacks letters of the name.
    """
    line = plain_line(name, longest)
    return line if line and letters_of_font() >= set(map(ord, line)) else otherwise


# -- in letters ------------------------------------------------------------------------------------------------------


def wrapped_name(name: str, otherwise: str, width: int, lines: int) -> str:
    """Return a name as `legible` does, broken into at most so many lines of `width` letters; "..." ends one cut."""
    line = legible(name, otherwise, longest=width * lines * 2)
    return "\n".join(textwrap.wrap(line, width, max_lines=lines, placeholder="...")) or otherwise


def write_heading(figure: "Figure", title: str, *lines: str) -> None:
    """Write the lines above a figure: a title of two lines at most, where there is one, and what else is said."""
    width = int(figure.get_size_inches()[0] / HEADING_LETTER)
    rest = [part for line in lines for part in textwrap.wrap(line, width)]
    text = "\n".join(line for line in (wrapped_name(title, "", width, 2), *rest) if line)
    figure.suptitle(text, x=0.01, ha="left", fontsize=9, parse_math=False)


def short_count(count: int) -> str:
    """Return a number in at most five letters: 99999, 123k, 4.56M."""
    if count < 100_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.3g}M"


# -- in inches -------------------------------------------------------------------------------------------------------


def wrapped_lines(text: str, width: float, size: float, *, lines: int) -> list[str]:
    """Break a text into at most `lines` lines that fit into `width` inches at `size` points.

    A word that is too long is broken, too; the last line ends in "..." where something is left out. Letters that the
    font lacks are shown as a question mark on a black ground.
    """
    known = letters_of_font()
    rest = "".join(letter if ord(letter) in known else "\ufffd" for letter in plain_line(text, 2000))
    found: list[str] = []
    while rest and len(found) < lines:
        fitting = _fitting(rest, width, size)
        if fitting == len(rest):
            return [*found, rest]
        if len(found) == lines - 1:
            while fitting > 1 and width_of(rest[:fitting] + "...", size) > width:
                fitting -= 1
            return [*found, rest[:fitting].rstrip() + "..."]
        blank = rest.rfind(" ", 0, fitting + 1)
        end = blank if blank > 0 else fitting
        found.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return found


def _fitting(text: str, width: float, size: float) -> int:
    """Return how many letters of a text fit into a width, 1 at least."""
    return max(1, bisect_right([*accumulate(map(_advance, text))], width / (size * ROUNDING)))


def width_of(text: str, size: float) -> float:
    """Return the width of a text in inches at `size` points, a little more at most."""
    return sum(map(_advance, text)) * size * ROUNDING


@cache
def _advance(letter: str) -> float:
    """Return how far the next letter stands behind this one, in inches for each point of the size.

    Measured once a letter: whole texts take a hundred times as long, and differ by pairs that stand closer.
    """
    font = _font()
    font.set_size(MEASURED, 72)
    return font.load_char(ord(letter)).linearHoriAdvance / 2**16 / MEASURED * POINT

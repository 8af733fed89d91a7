"""Pictures of confusion matrices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .words import legible, short_count, wrapped_name, write_heading


if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 40  # classes up to which every row and column has its name
LARGEST = 25  # errors that are listed beside a matrix without names
NAME, LINES = 28, 2  # letters and lines of a name at an axis
CELL, SIDE = (0.29, 0.6), 6.0  # inches: the smallest and the largest cell with a name; a matrix between these
LETTER, SMALLEST = 0.065, 5.4  # inches: of letters of names; the least width
OVERVIEW = 9.0  # inches of a matrix without names; an eightieth of an inch for each class at least
SHARES, EMPTY, CONTRAST = "Blues", "#d0d0d0", 0.5  # colours; the exponent that makes rare errors visible


def plot_confusion_matrix(matrix: torch.Tensor, names: Sequence[str], *, title: str = "") -> "Figure":
    """Draw (K, K) counts of videos, row the label, column the predicted class.

    The darkness of a cell is its share of the label's videos, on a scale of square roots: rare errors are seen. Up to
    40 classes each row and column has its name and each cell its count, and a row's number of videos stands behind its
    name. Beyond, the most frequent errors are listed beside the matrix.

    Args:
        matrix: (K, K) whole numbers from 0.
        names: of the K classes; what the font lacks is shown as "class 7".
        title: a line above the picture.

    Raises:
        ValueError: the matrix is not square, has not as many classes as there are names, or is not of counts.
    """
    from matplotlib.colors import PowerNorm  # here, as most who import this draw nothing
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    matrix = _counts(matrix, len(names))
    classes, videos = len(names), matrix.sum(1)
    shares = (matrix.double() / videos[:, None]).numpy()  # nan: a label without videos
    is_named = classes <= NAMED
    cell = min(max(SIDE / classes, CELL[0]), CELL[1]) if is_named else max(OVERVIEW / classes, 1 / 80)
    side = cell * classes
    shown = [wrapped_name(name, f"class {index}", NAME, LINES) for index, name in enumerate(names)]
    longest = LETTER * max(len(line) for name in shown for line in name.splitlines()) if is_named else 0.4
    width = max(side + longest + 1.0, SMALLEST) if is_named else side + 5.0
    figure = Figure(figsize=(width, side + longest + 1.6), layout="compressed")
    axes = figure.add_subplot()
    norm = PowerNorm(CONTRAST, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap=_colours(), norm=norm, interpolation="nearest")
    if is_named:
        rows = [f"{_isolated(name)} ({count})" for name, count in zip(shown, videos.tolist())]
        axes.set_xticks(range(classes), shown, rotation=90, parse_math=False, fontsize=7)
        axes.set_yticks(range(classes), rows, parse_math=False, fontsize=7)
        axes.set_xticks([line - 0.5 for line in range(classes + 1)], minor=True)
        axes.set_yticks([line - 0.5 for line in range(classes + 1)], minor=True)
        axes.grid(which="minor", color="#e4e4e4", linewidth=0.4)
        axes.tick_params(which="both", length=0)
        _write_counts(axes, matrix, shares, cell)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        text = "\n".join(_largest_errors(matrix, [legible(name, f"class {i}", 30) for i, name in enumerate(names)]))
        axes.text(1.02, 1, text, transform=axes.transAxes, va="top", fontsize=8, linespacing=1.5, parse_math=False)
    axes.set_xlabel("predicted" + " (index of the class)" * (not is_named), fontsize=9)
    axes.set_ylabel("label (videos)" if is_named else "label (index of the class)", fontsize=9)
    total, right = int(matrix.sum()), int(matrix.diagonal().sum())
    found = f"{right} of {total} videos right" + (f" ({right / total:.1%})" if total else "")
    write_heading(figure, title, found)
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=min(1.0, 4 / side), aspect=30, pad=0.02)
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1] if side > 1.5 else [0, 0.1, 0.5, 1])
    bar.ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.ax.tick_params(labelsize=7)
    without = int((videos == 0).sum())
    grey = f"\ngrey: no video has the label ({without} of {classes})" if without else ""
    bar.set_label(f"share of the label's videos{grey}", fontsize=8)
    return figure


def _counts(matrix: torch.Tensor, classes: int) -> torch.Tensor:
    """Return a confusion matrix as int64, or raise the errors of `plot_confusion_matrix`."""
    matrix = torch.as_tensor(matrix)
    if matrix.ndim != 2 or matrix.shape != (classes, classes) or not classes:
        raise ValueError(f"A confusion matrix of {classes} classes cannot be {tuple(matrix.shape)}.")
    counts = matrix.long()
    if not bool((matrix == counts).all()) or int(counts.min()) < 0:
        raise ValueError("A confusion matrix holds counts of videos: whole numbers from 0.")
    return counts


def _colours() -> Any:
    from matplotlib import colormaps

    return colormaps[SHARES].with_extremes(bad=EMPTY)


def _write_counts(axes: Any, matrix: torch.Tensor, shares: Any, cell: float) -> None:
    """Write each count into its cell, as large as the longest one allows."""
    letters = max(len(short_count(int(count))) for count in matrix.flatten().unique())
    points = min(9.0, max(6.0, cell * 72 / (0.7 * letters)))  # a digit is 0.64 of that wide
    for row, column in matrix.nonzero().tolist():
        ink = "white" if shares[row, column] > 0.3 else "black"
        axes.text(
            column, row, short_count(int(matrix[row, column])), color=ink, fontsize=points, ha="center", va="center"
        )


def _largest_errors(matrix: torch.Tensor, names: Sequence[str]) -> list[str]:
    errors = matrix.clone().fill_diagonal_(0).flatten()
    cells = [cell for cell in errors.argsort(descending=True, stable=True)[:LARGEST].tolist() if errors[cell]]
    lines = []
    for label, predicted in (divmod(cell, len(names)) for cell in cells):
        lines.append(f"{int(matrix[label, predicted])}: {label} {_isolated(names[label])}")
        lines.append(f"    \N{RIGHTWARDS ARROW} {predicted} {_isolated(names[predicted])}")
    return ["most confused, videos: label \N{RIGHTWARDS ARROW} predicted", *lines] if lines else ["no errors"]


def _isolated(name: str) -> str:
    """Return a name between marks that keep what stands beside it in its place, also beside Arabic and Hebrew."""
    return f"\N{LEFT-TO-RIGHT MARK}{name}\N{LEFT-TO-RIGHT MARK}"

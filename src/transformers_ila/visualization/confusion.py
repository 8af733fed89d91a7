"""A confusion matrix as a picture: names and counts where they fit, else indices and a list of the largest errors."""

import io
from collections.abc import Sequence

import torch
from PIL import Image

from ..markup import plain_line


NAMED = 40  # classes up to which every row and column has its name
LARGEST = 25  # errors that are listed beside a matrix without names
SHOWN = 48  # letters of a name
DPI = 100
DARK, EMPTY = (8, 48, 107), (225, 225, 225)  # RGB of a label whose videos are all in one cell; of one without videos


def plot_confusion_matrix(matrix: torch.Tensor, names: Sequence[str]) -> Image.Image:
    """Draw (K, K) counts, row the label, column the predicted class.

    The darkness of a cell is the square root of its share of the label's videos, so that rare errors are seen.

    Raises:
        ValueError: the matrix is not square, or has not as many classes as there are names.
    """
    from matplotlib.colors import LinearSegmentedColormap  # here, as most who import this draw nothing
    from matplotlib.figure import Figure

    classes = len(names)
    if matrix.ndim != 2 or matrix.shape != (classes, classes) or not classes:
        raise ValueError(f"A confusion matrix of {classes} classes cannot be {tuple(matrix.shape)}.")
    shown = [legible(name, f"class {index}") for index, name in enumerate(names)]
    shares = (matrix.double() / matrix.sum(1, keepdim=True)).sqrt().numpy()  # nan: a label without videos
    dark, empty = ((red / 255, green / 255, blue / 255) for red, green, blue in (DARK, EMPTY))
    colours = LinearSegmentedColormap.from_list("shares", [(1.0, 1.0, 1.0), dark]).with_extremes(bad=empty)
    side = min(12.0, max(3.0, 0.36 * classes)) if classes <= NAMED else max(12.0, classes / DPI)  # inches
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(shares, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="label")
    axes.set_title("dark: share of the label's videos; grey: a label without videos", loc="left", fontsize=10)
    if classes <= NAMED:
        axes.set_xticks(range(classes), shown, rotation=90, parse_math=False)
        axes.set_yticks(range(classes), shown, parse_math=False)
        size = min(10, 40 * side / classes / len(str(int(matrix.max()))))  # points, so that a count fits its cell
        for row, column in matrix.nonzero().tolist():
            ink = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(int(matrix[row, column])), color=ink, fontsize=size, ha="center", va="center")
    else:
        text = "\n".join(_largest_errors(matrix, shown))
        axes.text(1.02, 1, text, transform=axes.transAxes, va="top", linespacing=1.5, parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, bbox_inches="tight")  # tight: as wide as names and list need
    return Image.open(picture).convert("RGB")


def legible(name: str, otherwise: str, longest: int = SHOWN) -> str:
    """Return a name in one line, cut behind `longest` letters, for a text with `parse_math=False`.

    otherwise: what is returned where the font lacks letters of the name.
    """
    from matplotlib.font_manager import findfont, get_font

    line = plain_line(name, longest)
    drawn = get_font(findfont("DejaVu Sans")).get_charmap().keys() >= set(map(ord, line))
    return line if line and drawn else otherwise


def _largest_errors(matrix: torch.Tensor, names: Sequence[str]) -> list[str]:
    errors = matrix.clone().fill_diagonal_(0).flatten()
    cells = [cell for cell in errors.argsort(descending=True, stable=True)[:LARGEST].tolist() if errors[cell]]
    pairs = [divmod(cell, len(names)) for cell in cells]
    lines = [f"{int(matrix[i, j])}: {i} {names[i]} \N{RIGHTWARDS ARROW} {j} {names[j]}" for i, j in pairs]
    return ["most confused, videos: label \N{RIGHTWARDS ARROW} predicted", *lines] if lines else ["no errors"]

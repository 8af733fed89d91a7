"""A confusion matrix as a picture: with names and numbers where they fit, else with a list of the largest errors."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont


SIDE = 1200  # pixels of the matrix, about
NAMED = 40  # classes up to which every row and column has its name
LARGEST = 25  # errors that are listed beside a matrix without names
DARK, EMPTY = (8, 48, 107), (225, 225, 225)  # all videos of a label; a label without videos
GAP = 12
CAPTION = "row: label, column: predicted; dark: share of the label's videos; grey: a label without videos"


def draw_confusion(matrix: torch.Tensor, names: Sequence[str]) -> Image.Image:
    """Draw (K, K) counts, row the label, column what was predicted; colours are shares of each row.

    Raises:
        ValueError: no square matrix of as many classes as names.
    """
    if matrix.ndim != 2 or matrix.shape != (len(names), len(names)) or not len(names):
        raise ValueError(f"A confusion matrix of {len(names)} classes cannot be {tuple(matrix.shape)}.")
    shown = [_legible(name, index) for index, name in enumerate(names)]
    return _with_names(matrix, shown) if len(shown) <= NAMED else _with_indices(matrix, shown)


def _legible(name: str, index: int) -> str:
    """In one line; the index in place of a name with letters that the font has not."""
    known = all(ord(letter) < 0x250 for letter in name)
    return (" ".join(name.split()) if known else "") or f"class {index}"


def _with_names(matrix: torch.Tensor, names: list[str]) -> Image.Image:
    cell = max(22, min(64, SIDE // len(names)))
    font = _font(max(11, min(16, cell // 2)))
    names = [_cut(name, font, 260) for name in names]
    margin = GAP + int(max(font.getlength(name) for name in names)) + GAP
    size = cell * len(names)
    width = max(margin + size + GAP, 2 * GAP + int(font.getlength(CAPTION)))
    picture = Image.new("RGB", (width, margin + size + 4 * GAP), "white")
    picture.paste(_cells(matrix, cell), (margin, margin))
    draw = ImageDraw.Draw(picture)
    for edge in range(margin, margin + size + 1, cell):
        draw.line((margin, edge, margin + size, edge), EMPTY)
        draw.line((edge, margin, edge, margin + size), EMPTY)
    for index, name in enumerate(names):
        middle = margin + index * cell + cell // 2
        draw.text((margin - GAP, middle), name, "black", font, anchor="rm")
        _upright(picture, name, font, (middle, margin - GAP))
    shares = _shares(matrix)
    digits = _font(max(9, min(16, cell // 3)))
    for row, column in matrix.nonzero().tolist():
        text = str(int(matrix[row, column]))
        if digits.getlength(text) > cell - 2:
            continue
        ink = "white" if shares[row, column] > 0.3 else "black"
        draw.text((margin + (column + 0.5) * cell, margin + (row + 0.5) * cell), text, ink, digits, anchor="mm")
    draw.text((GAP, margin + size + 2 * GAP), CAPTION, "black", font, anchor="lm")
    return picture


def _with_indices(matrix: torch.Tensor, names: list[str]) -> Image.Image:
    cell, font = max(2, SIDE // len(names)), _font(16)
    size, margin = cell * len(names), 60
    lines = _largest(matrix, names, font)
    right = int(max(font.getlength(line) for line in lines)) + 2 * GAP
    height = max(size + 4 * GAP, 24 * len(lines) + GAP)
    picture = Image.new("RGB", (margin + size + GAP + right, margin + height), "white")
    picture.paste(_cells(matrix, cell), (margin, margin))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((margin - 1, margin - 1, margin + size, margin + size), outline="black")
    step = 10 if len(names) <= 120 else 50 if len(names) <= 600 else 100
    for index in range(0, len(names), step):
        middle = margin + index * cell + cell // 2
        draw.text((margin - GAP, middle), str(index), "black", font, anchor="rm")
        draw.text((middle, margin - GAP), str(index), "black", font, anchor="mb")
        draw.line((margin - 6, middle, margin - 2, middle), "black")
        draw.line((middle, margin - 6, middle, margin - 2), "black")
    for number, line in enumerate(lines):
        draw.text((margin + size + 2 * GAP, margin + 24 * number), line, "black", font)
    draw.text((margin, margin + size + 2 * GAP), CAPTION, "black", font, anchor="lm")
    return picture


def _largest(matrix: torch.Tensor, names: list[str], font: ImageFont.FreeTypeFont) -> list[str]:
    errors = matrix.clone().fill_diagonal_(0).flatten()
    cells = [cell for cell in errors.argsort(descending=True, stable=True)[:LARGEST].tolist() if errors[cell]]
    if not cells:
        return ["no errors"]
    lines = ["most confused, videos: label -> predicted"]
    for place in cells:
        row, column = divmod(place, len(names))
        lines.append(f"{int(errors[place])}: {_named(row, names, font)} -> {_named(column, names, font)}")
    return lines


def _named(index: int, names: list[str], font: ImageFont.FreeTypeFont) -> str:
    return f"{index} {_cut(names[index], font, 240)}"


def _shares(matrix: torch.Tensor) -> torch.Tensor:
    counts = matrix.double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def _cells(matrix: torch.Tensor, cell: int) -> Image.Image:
    """White to dark with the square root of the share, so that rare errors are seen."""
    strength = _shares(matrix).sqrt()[..., None]
    colours = 255 + strength * (torch.tensor(DARK, dtype=torch.float64) - 255)
    colours[matrix.sum(1) == 0] = torch.tensor(EMPTY, dtype=torch.float64)
    small = Image.fromarray(colours.round().to(torch.uint8).numpy())
    return small.resize((small.width * cell, small.height * cell), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own, so that pictures are the same everywhere; it knows Latin letters."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow has no FreeType"
    return font


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _upright(picture: Image.Image, text: str, font: ImageFont.FreeTypeFont, bottom: tuple[int, int]) -> None:
    """Text that is read from below, ending above `bottom`."""
    height = font.size + 6
    label = Image.new("RGB", (int(font.getlength(text)) + 2, int(height)), "white")
    ImageDraw.Draw(label).text((0, height // 2), text, "black", font, anchor="lm")
    turned = label.rotate(90, expand=True)
    picture.paste(turned, (bottom[0] - turned.width // 2, bottom[1] - turned.height))

"""Pictures of confusion matrices, for few and for many classes."""

import warnings

import numpy as np
import pytest
import torch

from transformers_ila.visualization.confusion import DARK, EMPTY, plot_confusion_matrix


def test_names_that_the_font_has_not():
    names = ["riding", "\u9a91\u81ea\u884c\u8f66", " \n"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of letters that it draws as boxes
        pictures = [plot_confusion_matrix(torch.eye(3).long(), n) for n in (names, ["riding", "class 1", "class 2"])]
    assert pictures[0].tobytes() == pictures[1].tobytes()


@pytest.mark.parametrize("classes", [1, 2, 40, 41, 400])
def test_shares_are_dark_and_labels_without_videos_grey(classes):
    matrix = torch.eye(classes, dtype=torch.long) * 3
    matrix[0, -1] = 1
    matrix[classes // 2] = 0  # a label without videos
    names = [f"pays $5 and ${index} $\\\\frac$ \\x1b" + "x" * (index % 60) for index in range(classes - 1)] + [
        "new\nline é"
    ]
    picture = plot_confusion_matrix(matrix, names)
    colours = {colour for _, colour in picture.getcolors(2**20)}
    assert EMPTY in colours and (classes < 3 or DARK in colours)
    assert max(picture.size) < 2600


def test_an_error_is_in_the_row_of_its_label():
    matrix = torch.zeros(2, 2, dtype=torch.long)
    matrix[0, 1] = matrix[1, 1] = 1
    dark = (np.asarray(plot_confusion_matrix(matrix, ["first", "second"])) == DARK).all(-1)
    rows, columns = np.argwhere(dark).T
    assert rows.max() - rows.min() > 1.8 * (columns.max() - columns.min())  # both rows of the right column


def test_what_is_no_confusion_matrix():
    with pytest.raises(ValueError, match=r"of 2 classes cannot be \(1, 2\)"):
        plot_confusion_matrix(torch.ones(1, 2), ["a", "b"])

"""Pictures of confusion matrices, for few and for many classes."""

import warnings

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from support.figures import assert_legible, words_of
from transformers_ila.visualization.confusion import EMPTY, plot_confusion_matrix


LONG = "Pretending to put something onto something without dropping it on the way to the table"


def shades_of(figure) -> torch.Tensor:
    """The colour of each cell (K, K, 3)."""
    image = figure.axes[0].images[0]
    return torch.from_numpy(image.cmap(image.norm(image.get_array()))[..., :3])


def test_names_that_the_font_has_not():
    names = ["riding", "\u9a91\u81ea\u884c\u8f66", " \n", "\u0440\u0456\u0447\u043a\u0430", "$a$"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of letters that it draws as boxes
        figure = plot_confusion_matrix(torch.eye(5).long(), names)
        FigureCanvasAgg(figure).draw()
    words = words_of(figure)
    for name in ("riding", "class 1", "class 2", names[3], names[4]):
        assert name in words and f"\u200e{name}\u200e (1)" in words


@pytest.mark.parametrize(
    "classes",
    [
        3,
        pytest.param(1, marks=pytest.mark.slow),
        pytest.param(40, marks=pytest.mark.slow),
        pytest.param(400, marks=pytest.mark.slow),
    ],
)
def test_texts_stand_beside_each_other(classes):
    matrix = torch.eye(classes, dtype=torch.long) * 12345
    matrix[0, -1] = 1
    matrix[classes // 2] = 0  # a label without videos
    names = [f"pays $5 and ${index} $\\\\frac$ \x1b" + "x" * (index % 60) for index in range(classes - 1)] + [LONG]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout without room
        figure = plot_confusion_matrix(matrix, names, title=f"{LONG} $a_b$, {LONG}")
        assert_legible(figure)
    assert max(figure.get_size_inches()) < 16


def test_shares_are_dark_and_labels_without_videos_grey():
    matrix = torch.tensor([[4, 0, 0], [0, 0, 0], [1, 0, 99]])
    figure = plot_confusion_matrix(matrix, ["a", "b", "c"])
    shades = shades_of(figure)
    assert torch.allclose(shades[1], torch.tensor(to_rgb(EMPTY), dtype=shades.dtype))
    light = shades.mean(-1)
    assert light[0, 0] < 0.3 and light[0, 1] > 0.95
    assert light[0, 1] - light[2, 0] > 0.05  # an error in a hundred is seen
    words = words_of(figure)
    assert {"4", "1", "99", "\u200eb\u200e", "(0)"} <= set(words.split())
    assert "103 of 104 videos right (99.0%)" in words and "no video has the label (1 of 3)" in words


def test_an_error_is_in_the_row_of_its_label():
    matrix = torch.zeros(2, 2, dtype=torch.long)
    matrix[0, 1] = 1
    axes = plot_confusion_matrix(matrix, ["first", "second"]).axes[0]
    (count,) = [text for text in axes.texts if text.get_text() == "1"]
    assert count.get_position() == (1, 0)  # column, row
    assert axes.get_ylabel().startswith("label") and axes.get_xlabel() == "predicted"


def test_the_most_frequent_errors_of_many_classes_are_listed():
    matrix = torch.eye(50, dtype=torch.long)
    matrix[7, 3] = 9
    words = words_of(plot_confusion_matrix(matrix, [f"name {i}" for i in range(50)]))
    assert "9: 7 \u200ename 7\u200e \u2192 3 \u200ename 3\u200e" in words
    assert "no errors" in words_of(plot_confusion_matrix(torch.eye(50), [f"name {i}" for i in range(50)]))


@pytest.mark.parametrize(
    "matrix, message",
    [
        (torch.ones(1, 2), r"of 2 classes cannot be \(1, 2\)"),
        (torch.eye(2) / 2, "holds counts of videos"),
        (-torch.eye(2), "holds counts of videos"),
        (torch.full((2, 2), torch.nan), "holds counts of videos"),
    ],
)
def test_what_is_no_confusion_matrix(matrix, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion_matrix(matrix, ["a", "b"])


def test_no_class_and_no_video():
    with pytest.raises(ValueError, match="of 0 classes"):
        plot_confusion_matrix(torch.zeros(0, 0), [])
    assert "0 of 0 videos right" in words_of(plot_confusion_matrix(torch.zeros(2, 2), ["a", "b"]))

"""Bars of classes, of few and of many."""

import pytest

from support.figures import assert_legible, words_of
from transformers_ila.visualization.classes import plot_classes, precision


LONG = "Pretending to put something onto something without dropping it on the way to the table"


def made(classes, *, several=False, orders=(), names=None):
    rows = []
    for index in range(classes):
        videos = (index * 7) % 5
        share = (index + 1) / (classes + 1) if videos else None
        scores = {"average_precision": share} if several else {"predicted": 3, "top1": share, "top5": share}
        name = f"name {index}" if names is None else names[index % len(names)]
        rows.append({"index": index, "name": name, "videos": videos, **scores, **dict.fromkeys(orders, share)})
    return rows


def names_of(figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(
    "classes, several, orders",
    [
        pytest.param(2, False, (), marks=pytest.mark.slow),
        (3, True, ("shuffled", "reversed", "single_frame")),
        pytest.param(9, False, ("shuffled", "reversed", "single_frame"), marks=pytest.mark.slow),
        pytest.param(49, True, (), marks=pytest.mark.slow),
        pytest.param(1000, False, ("shuffled",), marks=pytest.mark.slow),
    ],
)
def test_texts_stand_beside_each_other(classes, several, orders):
    names = [LONG, "walk", "\u9a91", " ", "x" * 90, "$a_b$"]
    figure = plot_classes(made(classes, several=several, orders=orders, names=names), title=LONG * 3)
    assert_legible(figure)
    assert figure.get_size_inches()[1] < 20


def test_the_worst_is_on_top_and_classes_without_videos_are_counted():
    figure = plot_classes(made(7))  # of which 0 and 5 have no videos
    assert names_of(figure) == [f"name {index}" for index in (1, 2, 3, 4, 6)]
    assert "5 classes with videos" in words_of(figure) and "2 without videos are not shown" in words_of(figure)
    bars = [bar for bar in figure.axes[0].patches if bar.get_facecolor()[3] == 1]
    assert [bar.get_width() for bar in bars] == [(index + 1) / 8 for index in (1, 2, 3, 4, 6)]


def test_of_many_the_worst_and_the_best():
    figure = plot_classes(made(20), most=5)
    assert names_of(figure) == ["name 1", "name 2", "name 3", "", "name 18", "name 19"]
    assert "11 classes between are left out: 23.8% to 85.7%" in words_of(figure)
    assert len(names_of(plot_classes(made(20), most=16))) == 16
    with pytest.raises(ValueError, match="`most` must be 2 or more, got 1"):
        plot_classes(made(20), most=1)


def test_recall_and_precision_are_of_the_same_videos():
    row = {"index": 0, "name": "walk", "videos": 4, "predicted": 6, "top1": 0.75, "top5": 1.0}
    assert precision(row) == 0.5 and precision({**row, "predicted": 0}) != precision({**row, "predicted": 0})
    axes = plot_classes([row]).axes[0]
    assert [0.5] in [list(line.get_xdata()) for line in axes.lines]
    assert "4" in [text.get_text() for text in axes.texts] and "top-5" not in words_of(plot_classes([row]))


@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "one or more"),
        (["walk"], "one or more"),
        (made(1), "None of 1 classes has a video"),
        ([{**row, "videos": "3"} for row in made(3)], "A class has index, name, videos, predicted, top1, top5"),
        ([{**row, "top1": None} for row in made(3)], "A class has"),
        ([{**row, "top1": 1.5} for row in made(3)], "A class has"),
        ([*made(3), *made(3, several=True)], "A class has"),
        ([{"index": 0, "name": "a", "videos": 1}], "A class has"),
        ([{**row, "shuffled": None} for row in made(3)], "A class has .* shuffled"),
    ],
)
def test_what_are_no_classes(rows, message):
    with pytest.raises(ValueError, match=message):
        plot_classes(rows)

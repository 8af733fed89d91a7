"""Contact sheets: legible for 3 to 32 frames, one scale a row, and everything where it belongs."""

import warnings

import numpy as np
import pytest
import torch
from matplotlib.patches import Circle, Rectangle

from support.figures import assert_legible, texts_of
from transformers_ila.visualization.sheets import COLUMNS, WIDTH, Row, plot_frames, robust_limits


LONG = "pretending or failing to wipe something off of something"


def images_of(figure) -> list:
    return sorted(figure.axes[0].images, key=lambda image: (image.get_extent()[3], image.get_extent()[0]))


def rows_of(count: int) -> list[Row]:
    return [
        Row(f"features of layer 11 of {LONG}", heat=torch.randn(count, 7, 7) * 1e4),
        Row("masks", heat=torch.rand(count, 4, 5), points=torch.zeros(count, 2), style="mask"),
        Row("points of all layers", points=torch.zeros(6, count, 2), style="boxes", grid=(7, 7)),
    ]


@pytest.mark.parametrize(
    ("count", "shape"),
    [
        (3, (32, 32)),
        pytest.param(32, (18, 32), marks=pytest.mark.slow),
    ],
)
def test_words_can_be_read(count, shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that the font lacks
        figure = plot_frames(
            torch.rand(count, 3, *shape),
            rows_of(count),
            times=torch.arange(count) * 1000.1,
            title=f"$\\frac{{1}}$ {LONG} 0.93, " * 3 + "\u9a91",
            notes=[f"{LONG}. " * 3, "`interaction`"],
        )
        assert_legible(figure)
    assert figure.get_size_inches()[0] <= WIDTH
    lines = -(-count // COLUMNS)
    assert len(images_of(figure)) == 5 * count + 2 * lines  # the last row is two rows of at most four layers
    words = [text.words for text in texts_of(figure)]
    assert [words.count(f"{index * 1000.1:.2f} s") for index in range(count)] == [1] * count


def test_one_scale_for_all_frames():
    heat = torch.arange(2 * 16.0).reshape(2, 4, 4)
    figure = plot_frames(torch.zeros(2, 3, 8, 8), [Row("a", heat=heat), Row("b", heat=heat, limits=(-5, 7))])
    found = [image.get_clim() for image in images_of(figure) if image.get_array().shape == (4, 4)]
    assert found == [robust_limits(heat)] * 2 + [(-5, 7)] * 2
    assert robust_limits(heat) == pytest.approx((0.31, 30.69))
    words = [text.words for text in texts_of(figure)]
    assert {"0.31", "30.7", "-5", "7"} <= set(words) and any("1st to the 99th percentile" in text for text in words)
    constant = plot_frames(torch.zeros(1, 3, 8, 8), [Row("a", heat=torch.ones(1, 2, 2))])
    assert images_of(constant)[1].get_clim() == (1, 2)


def test_masks_lie_over_their_frames():
    frames = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    masks = torch.zeros(2, 2, 2)
    masks[:, 0, 1] = 1
    dark, bright = (
        image.get_array().astype(int)
        for image in images_of(plot_frames(frames, [Row("a", heat=masks, style="mask")]))[2:4]
    )
    assert (bright - dark).min() > 90  # the frame is seen through
    assert dark[0, -1, 0] - dark[0, -1, 2] > 50 > dark[-1, 0, 0] - dark[-1, 0, 2]  # yellow where the mask is high


@pytest.mark.parametrize(("style", "kind"), [("boxes", Rectangle), ("mask", Circle)])
def test_points_are_where_they_are(style, kind):
    points = torch.tensor([[-1.0, -1.0], [1.0, 0.0], [0.0, 0.0]])
    heat = {"heat": torch.zeros(3, 4, 2)} if style == "mask" else {"grid": (4, 2)}
    figure = plot_frames(torch.zeros(3, 3, 8, 8), [Row("a", points=points, style=style, box=0.5, **heat)])
    cells = images_of(figure)[3:6]
    marks = figure.axes[0].patches
    assert len(marks) == 6 and all(isinstance(mark, kind) for mark in marks)  # a dark line and a light one
    for cell, mark, (x, y) in zip(cells, marks[::2], [(0.25, 0.125), (0.75, 0.5), (0.5, 0.5)]):
        left, right, bottom, top = cell.get_extent()
        centre = mark.get_center()
        assert centre[0] == pytest.approx(left + x * (right - left))
        assert centre[1] == pytest.approx(top + y * (bottom - top))
        if style == "boxes":
            assert mark.get_width() == pytest.approx((right - left) / 2)


def test_layers_are_told_apart_without_colours():
    row = Row("a", points=torch.zeros(9, 2, 2), style="boxes", point_names=[f"layer {n}" for n in range(0, 18, 2)])
    figure = plot_frames(torch.zeros(2, 3, 8, 8), [row])
    light = [mark for mark in figure.axes[0].patches if mark.get_linewidth() == 1]
    dashes = [str(mark.get_linestyle()) + str(mark._unscaled_dash_pattern) for mark in light]
    assert len(light) == 18 and len(set(dashes[:4])) == 4
    words = [text.words for text in texts_of(figure)]
    assert all(words.count(f"layer {number}") == 1 for number in range(0, 16, 2)) and words.count("a") == 3


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("a"), "'a' of style 'heat' needs heat"),
        (Row("a", style="boxes"), "'a' of style 'boxes' needs points"),
        (Row("a", heat=torch.zeros(2, 2, 2), style="rainbow"), "must be heat, mask or boxes, got 'rainbow'"),
        (Row("a", heat=torch.zeros(3, 2, 2)), r"must be \(2, rows, columns\) of finite numbers, got \(3, 2, 2\)"),
        (Row("a", heat=torch.full((2, 2, 2), float("nan"))), "finite"),
        (Row("a", heat=torch.zeros(2, 2, 2), limits=(1, 0)), "the smaller first"),
        (Row("a", points=torch.zeros(2, 3), style="boxes"), r"must be \(2, 2\) or \(layers, 2, 2\)"),
        (Row("a", points=torch.zeros(3, 2, 2), style="boxes", point_names=["a"]), "3 layers and 1 names"),
        (Row("a", heat=torch.zeros(2, 2, 2), points=torch.zeros(2, 2), style="boxes"), "heat has no effect"),
        (Row("a", heat=torch.zeros(2, 2, 2), map="rainbow colours"), "no colour map 'rainbow colours'"),
    ],
)
def test_what_is_no_row(row, message):
    with pytest.raises(ValueError, match=message):
        plot_frames(torch.zeros(2, 3, 8, 8), [row])


def test_what_are_no_frames():
    with pytest.raises(ValueError, match=r"must be \(frames, 3, height, width\), got \(2, 8, 8, 3\)"):
        plot_frames(torch.zeros(2, 8, 8, 3), [])
    for times in ([0], [0, float("nan")]):
        with pytest.raises(ValueError, match="must be 2 finite numbers of seconds"):
            plot_frames(torch.zeros(2, 3, 8, 8), [], times=times)
    assert_legible(plot_frames(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16), [], times=np.zeros(1)))

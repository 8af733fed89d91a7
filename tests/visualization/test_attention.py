"""What a patch reads: where the cross is, which numbers are drawn, and whether all words can be read."""

import pytest
import torch

from support.figures import assert_legible
from transformers_ila.visualization.attention import plot_query_attention


def found(kind, count, grid):
    generator = torch.Generator().manual_seed(count)
    patches = grid[0] * grid[1]
    if kind == "joint":
        weights = torch.randn(count * patches, generator=generator).softmax(0) * 0.9
        return {"spatiotemporal": weights.view(count, *grid), "elsewhere": torch.tensor(0.1)}
    spatial = torch.randn(patches, generator=generator).softmax(0).view(grid) * 0.9
    one = {"spatial": spatial, "elsewhere": torch.tensor(0.1)}
    if kind != "space":
        one["temporal"] = torch.randn(count, generator=generator).softmax(0)
    if kind == "ata":
        one["route"] = torch.randint(0, patches, (count,), generator=generator)
    return one


def crosses_of(figure):
    return [tuple(line.get_xydata()[0]) for line in figure.axes[0].lines if line.get_marker() == "x"]


def test_the_cross_and_the_map_in_space():
    one = found("space", 3, (2, 4))
    figure = plot_query_attention(torch.rand(3, 3, 8, 16), (1, 1, 2), {4: one})
    frame, _, heat = figure.axes[0].images
    torch.testing.assert_close(torch.tensor(heat.get_array().tolist()), one["spatial"])
    assert heat.get_clim() == (float(one["spatial"].min()), float(one["spatial"].max()))
    for image, (x, y) in zip((frame, heat), crosses_of(figure)):
        left, right, bottom, top = image.get_extent()
        assert (x - left) / (right - left) == pytest.approx(2.5 / 4) and (y - top) / (bottom - top) == pytest.approx(
            1.5 / 2
        )
    assert any("elsewhere 10%" in text.get_text() for text in figure.texts)


def test_limits_that_lie_close_are_told_apart():
    one = {"spatial": torch.linspace(0.02041, 0.02049, 8).view(2, 4)}
    figure = plot_query_attention(torch.rand(3, 3, 8, 16), (1, 1, 2), {4: one})
    assert any("0.0204 to 0.0205" in text.get_text() for text in figure.texts)
    assert_legible(figure)


def test_bars_over_time_and_marks_along_the_route():
    one = found("ata", 3, (2, 4))
    figure = plot_query_attention(torch.rand(3, 3, 8, 16), (0, 0, 0), {0: one}, times=[0, 1, 2])
    canvas = figure.axes[0]
    heights = torch.tensor([patch.get_height() for patch in canvas.patches])
    torch.testing.assert_close(heights / heights.sum(), one["temporal"])
    frames = canvas.images[-3:]
    marks = [line.get_xydata()[0].tolist() for line in canvas.lines if line.get_marker() == "o"]
    for image, patch, (x, y) in zip(frames, one["route"].tolist(), marks):
        left, right, bottom, top = image.get_extent()
        assert int((y - top) / (bottom - top) * 2) * 4 + int((x - left) / (right - left) * 4) == patch
    assert any("along its route" in text.get_text() for text in figure.texts)


def test_space_and_time_together():
    one = found("joint", 3, (2, 4))
    figure = plot_query_attention(torch.rand(3, 3, 8, 16), (2, 1, 3), {0: one})
    words = [text.get_text() for text in figure.texts]
    for frame in range(3):
        assert f"{float(one['spatiotemporal'][frame].sum()):.1%}" in words
    maps = [image for image in figure.axes[0].images if image.get_array().shape == (2, 4)]
    assert {image.get_clim() for image in maps} == {
        (float(one["spatiotemporal"].min()), float(one["spatiotemporal"].max()))
    } and len(maps) == 3
    assert len(crosses_of(figure)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ata", "joint"])
@pytest.mark.parametrize(("count", "layers", "grid", "size"), [(2, 7, (10, 6), (80, 48)), (10, 1, (7, 16), (14, 32))])
def test_words_can_be_read(kind, count, layers, grid, size):
    attention = {layer: found(kind, count, grid) for layer in range(layers)}
    options = {
        "title": "a long title with $dollars$ " * 9,
        "notes": ["a note " * 40],
        "times": 1000 + torch.arange(count),
    }
    assert_legible(plot_query_attention(torch.rand(count, 3, *size), (1, 1, 1), attention, **options))


def test_what_does_not_fit():
    frames = torch.rand(3, 3, 8, 8)
    for query, attention, message in (
        ((0, 0, 0), {}, r"of one grid; got grids \[\]"),
        ((0, 0, 0), {0: found("space", 3, (2, 2)), 1: found("space", 3, (2, 3))}, "of one grid"),
        ((0, 0, 0), {0: found("divided", 4, (2, 2))}, r'"temporal" of layer 0 must be \(3,\), got \(4,\)'),
        ((3, 0, 0), {0: found("space", 3, (2, 2))}, r"`query` is \(3, 0, 0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_query_attention(frames, query, attention)

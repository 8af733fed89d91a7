"""What frames give to each other: the numbers that are drawn, and whether all words can be read."""

import pytest
import torch

from support.figures import assert_legible
from transformers_ila.visualization.temporal import plot_frame_attention, plot_information, plot_temporal_weights


def weights_of(count, layers):
    generator = torch.Generator().manual_seed(count)
    return {
        layer: {name: torch.rand(count, count, generator=generator) for name in ("pixels", "regions")}
        for layer in layers
    }


def attention_of(count, layers, heads=4):
    generator = torch.Generator().manual_seed(count)
    return {layer: torch.randn(heads, count, count, generator=generator).softmax(-1) for layer in layers}


def maps_of(figure) -> list[tuple[torch.Tensor, tuple[float, float]]]:
    """Maps of one number a cell, without frames and colour bars."""
    images = [image for axes in figure.axes for image in axes.images]
    maps = [(torch.tensor(image.get_array().tolist()), image.get_clim()) for image in images]
    return [(values, limits) for values, limits in maps if values.ndim == 2]


def test_weights_of_a_level_have_one_scale():
    weights = weights_of(4, (2, 5))
    figure = plot_temporal_weights(weights)
    drawn = maps_of(figure)
    assert len(drawn) == 4
    for (values, limits), (level, layer) in zip(drawn, [(a, b) for a in ("pixels", "regions") for b in (2, 5)]):
        torch.testing.assert_close(values, weights[layer][level])
        assert limits == (0, pytest.approx(max(float(own[level].max()) for own in weights.values())))
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["layer 2", "layer 5"]


def test_attention_of_the_integration():
    attention, frames = attention_of(3, (0,)), torch.rand(3, 3, 8, 12)
    (mean, limits), *heads = maps_of(plot_frame_attention(attention, frames, per_head=True))
    torch.testing.assert_close(mean, sum(attention[0]) / 4)
    assert limits == pytest.approx((float(mean.min()), float(mean.max()))) and len(heads) == 4
    for (values, limits), own in zip(heads, attention[0]):
        torch.testing.assert_close(values, own)
        assert limits == pytest.approx((float(attention[0].min()), float(attention[0].max())))


def test_information_stands_between_the_frames():
    information = {3: torch.tensor([1.0, 2.0, 0.5]), 1: torch.tensor([0.0, 1.0, 2.0])}
    figure = plot_information(information, [0.0, 1.0, 4.0, 5.0])
    lines = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert lines == [[[0.5, 0], [2.5, 1], [4.5, 2]], [[0.5, 1], [2.5, 2], [4.5, 0.5]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["layer 1", "layer 3"]
    styles = {(line.get_linestyle(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(styles) == 2
    repeated = plot_information(information, [0.0, 1.0, 1.0, 1.0]).axes[0]
    assert repeated.lines[0].get_xdata().tolist() == [0.5, 1.5, 2.5]
    assert [tick.get_text() for tick in repeated.get_xticklabels()] == ["0.00", "1.00", "1.00", "1.00"]
    every = plot_information({layer: torch.rand(7) for layer in range(24)}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in every}) == 24


@pytest.mark.slow
@pytest.mark.parametrize(("count", "layers"), [(2, 1), (32, 7)])
def test_words_can_be_read(count, layers):
    options = {"title": "a title of $5 " * 20, "notes": ["a note " * 40]}
    times = 1000 + torch.arange(count) / 4
    frames = torch.rand(count, 3, 12, 8)
    assert_legible(plot_temporal_weights(weights_of(count, range(layers)), **options))
    assert_legible(plot_frame_attention(attention_of(count, range(1)), frames, times, per_head=count == 2, **options))
    assert_legible(plot_information({layer: torch.rand(count - 1) for layer in range(layers)}, times, **options))


def test_what_does_not_fit():
    frames = torch.rand(3, 3, 8, 8)
    for call, message in (
        (lambda: plot_temporal_weights({}), r"for each of one or more layers; got \{\}"),
        (lambda: plot_temporal_weights({0: {"pixels": torch.rand(3, 3)}}), r"got \{0: \{'pixels': \(3, 3\)\}\}"),
        (lambda: plot_frame_attention({}, frames), "one or more layers"),
        (lambda: plot_frame_attention({1: torch.rand(2, 4, 4)}, frames), r"\(heads, 3, 3\).*got \{1: \(2, 4, 4\)\}"),
        (lambda: plot_information({}), r"for each layer; got lengths \[\]"),
        (lambda: plot_information({0: torch.rand(0)}), r"got lengths \[0\]"),
        (lambda: plot_information({0: torch.rand(2), 1: torch.rand(3)}), r"got lengths \[2, 3\]"),
        (lambda: plot_information({0: torch.rand(2)}, [0, 2, 1]), "3 seconds that do not fall"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

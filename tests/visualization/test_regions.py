"""Regions of GTA over frames: which are drawn, and on which scale."""

import pytest
import torch

from support.figures import assert_legible, words_of
from transformers_ila.visualization.regions import plot_regions


def test_regions_that_spread_most_are_drawn_each_on_one_scale():
    regions = torch.zeros(2, 5, 3, 4)
    regions[:, 3, 0] = 2.0
    regions[0, 1, 1, 1] = -0.5
    regions[:, 4] = 9.0  # the same everywhere tells nothing apart
    figure = plot_regions(torch.rand(2, 3, 6, 8), regions, most=2)
    words = words_of(figure)
    assert words.index("region 3") < words.index("region 1") and "region 4" not in words
    assert "The 2 of 5 regions" in words
    maps = [image for image in figure.axes[0].images if image.get_array().shape == (3, 4)]
    assert len(maps) == 4 and len({image.get_clim() for image in maps}) == 2  # a scale for each region
    assert "region 4" in words_of(plot_regions(torch.rand(2, 3, 6, 8), regions, which=[4]))


@pytest.mark.slow
def test_words_can_be_read():
    figure = plot_regions(
        torch.rand(9, 3, 8, 8), torch.randn(9, 96, 7, 7), times=torch.arange(9) / 4, most=2, title="a " * 90
    )
    assert_legible(figure)


def test_what_does_not_fit():
    frames, regions = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 2, 2)
    for arguments, message in (
        ((frames, regions[:1]), r"must be \(2, regions, rows, columns\), got \(1, 5, 2, 2\)"),
        ((frames, regions, {"which": [5]}), r"`which` is \[5\]; allowed: one or several of 0 to 4"),
        ((frames, regions, {"which": [1], "most": 2}), "`most`=2 would have no effect"),
        ((frames, regions, {"most": 0}), "`most` is 0; allowed: 1 or more"),
    ):
        options = arguments[2] if len(arguments) == 3 else {}
        with pytest.raises(ValueError, match=message):
            plot_regions(*arguments[:2], **options)

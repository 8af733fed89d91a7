"""The alignment's contact sheet: which frame has which mask and point."""

import pytest
import torch

from support.figures import texts_of
from transformers_ila.visualization.alignment import plot_alignment


def centres(figure) -> list[tuple[float, float]]:
    """Where the rings are in their cells, as shares of the width and height."""
    cells = [image.get_extent() for image in figure.axes[0].images if image.get_array().shape[1] > 1]
    found = []
    for ring in figure.axes[0].patches[::2]:
        x, y = ring.get_center()
        left, right, bottom, top = next(e for e in cells if e[0] <= x <= e[1] and e[3] <= y <= e[2])
        found.append((round((x - left) / (right - left), 3), round((y - top) / (bottom - top), 3)))
    return found


def test_frames_have_the_points_and_masks_of_their_pairs():
    points, masks = torch.zeros(2, 2, 2), torch.zeros(2, 2, 4, 4)
    points[0, 0] = torch.tensor([1.0, -1.0])  # the first frame, as the previous one of its pair
    points[1, 0] = 0.5
    points[1, 1] = torch.tensor([-1.0, 1.0])  # the last one, as the current one
    masks[1, 1, 3, 0] = 1
    figure = plot_alignment(torch.ones(3, 3, 16, 16), [points], [masks])
    assert centres(figure) == [(0.875, 0.125), (0.5, 0.5), (0.125, 0.875)]
    first, middle, last = (image.get_array().astype(int) for image in figure.axes[0].images[3:6])
    assert (first == middle).all() and last[-1, 0, 0] - last[-1, 0, 2] > 50 + last[0, -1, 0] - last[0, -1, 2]
    figure = plot_alignment(torch.ones(3, 3, 16, 16), [points], [masks], pairing="middle")
    assert centres(figure) == [(0.5, 0.5), (0.875, 0.125), (0.125, 0.875)]


def test_chosen_layers_only():
    points, masks = [torch.zeros(1, 2, 2)] * 5, [torch.ones(1, 2, 3, 3)] * 5
    options = {"times": [0.5, 1], "title": "a label", "notes": ["a note"]}
    figure = plot_alignment(torch.rand(2, 3, 8, 8), points, masks, layers=[0, 4], **options)
    words = [text.words for text in texts_of(figure)]
    assert [word for word in words if word.startswith("layer")] == ["layer 0", "layer 4"]
    assert {"0.50 s", "1.00 s", "a label", "a note"} <= set(words)
    assert len(plot_alignment(torch.rand(2, 3, 8, 8), points, masks).axes[0].images) == 2 + 5 * 3
    with pytest.raises(ValueError, match="frames"):
        plot_alignment(torch.rand(2, 8, 8), points, masks)

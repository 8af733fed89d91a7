import numpy as np
import torch

from transformers_ila.visualization.alignment import CELL, GAP, plot_alignment


def test_the_ring_is_where_the_point_is_and_the_rest_is_dark():
    frames = torch.ones(3, 3, 16, 16)
    points = [torch.zeros(2, 2, 2)]
    points[0][:, :, 0], points[0][:, :, 1] = 0.5, -0.5  # right of the centre, above it
    masks = [torch.zeros(2, 2, 4, 4)]
    masks[0][:, :, 0, 3] = 1
    picture = np.asarray(plot_alignment(frames, points, masks)).astype(int)
    assert picture.shape == (2 * CELL + GAP, 3 * CELL + 2 * GAP, 3)
    assert (picture[:CELL, :CELL] == 255).all()
    for index in range(3):
        left = index * (CELL + GAP)
        cell = picture[CELL + GAP :, left : left + CELL]
        red = np.argwhere((cell[..., 0] > 200) & (cell[..., 1] < 80) & (cell[..., 2] < 80))
        y, x = red.mean(0)
        assert abs(x - 0.75 * CELL) < 3 and abs(y - 0.25 * CELL) < 3
        assert cell[-1, 0].max() < 60 and cell[0, -1].min() > 200


def test_chosen_layers_only():
    points, masks = [torch.zeros(1, 2, 2)] * 5, [torch.ones(1, 2, 3, 3)] * 5
    picture = plot_alignment(torch.rand(2, 3, 8, 8), points, masks, layers=[0, 4])
    assert picture.height == 3 * CELL + 2 * GAP

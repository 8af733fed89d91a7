"""What is drawn over a frame: where heat and points lie, what is dark, and that words fit."""

import numpy as np
import pytest
import torch

from transformers_ila.visualization.overlay import UNSEEN, in_frame, overlay


GREY = np.full((60, 100, 3), 100, np.uint8)


def bright(image: np.ndarray) -> np.ndarray:
    """Where lines are: the rows and columns of white pixels."""
    return np.argwhere((image == 255).all(-1))


@pytest.mark.parametrize("crop", [None, (20, 0, 80, 60), (-20, -10, 120, 70), (19.6, 0.4, 80.2, 60.0)])
def test_heat_lies_where_the_model_looked(crop):
    heat = torch.zeros(3, 4)
    heat[2, 1] = 1
    drawn = overlay(GREY, heat=heat, limits=(0, 1), crop=crop).astype(int)
    left, top, right, bottom = (0, 0, 100, 60) if crop is None else crop
    y, x = np.argwhere(drawn[..., 0] - drawn[..., 2] > 0.9 * (drawn[..., 0] - drawn[..., 2]).max()).mean(0)  # yellow
    assert abs(x + 0.5 - (left + 1.5 / 4 * (right - left))) < 2  # the middle of its patch
    assert abs(y + 0.5 - (top + 2.5 / 3 * (bottom - top))) < (bottom - top) / 6 + 1
    outside = (drawn == int(100 * UNSEEN)).all(-1)
    assert outside.sum() == max(0, (100 - round(right) + max(round(left), 0))) * 60
    assert GREY.min() == GREY.max() == 100


def test_one_scale_for_all_frames():
    hot, warm, cold = (
        overlay(GREY, heat=torch.full((2, 2), value), limits=(0, 10))[0, 0, :2].astype(int).sum()
        for value in (50.0, 5.0, 4.0)
    )
    assert hot > warm > cold
    assert (overlay(GREY, heat=torch.tensor([[3.0, 3.0]])) == overlay(GREY, heat=torch.zeros(1, 1))).all()  # constant
    assert (overlay(GREY, heat=torch.eye(2), map="viridis") != overlay(GREY, heat=torch.eye(2))).any()


@pytest.mark.parametrize("box", [None, 0.25])
def test_points_are_patches(box):
    corners = [(-1.0, -1.0), (1.0, 0.0)]
    assert in_frame(torch.tensor(corners), (3, 4)).tolist() == [[0.125, pytest.approx(1 / 6)], [0.875, 0.5]]
    assert in_frame(torch.tensor(corners), None).tolist() == [[0, 0], [1, 0.5]]
    assert in_frame(torch.zeros(2), (1, 1)).tolist() == [0.5, 0.5]
    drawn = overlay(GREY, point=(-1.0, 1.0), grid=(3, 4), crop=(20, 0, 80, 60), box=box)
    y, x = bright(drawn).mean(0)
    assert abs(x - (20 + 60 / 8)) <= 1 and abs(y - 50) <= 1
    tall = np.ptp(bright(drawn)[:, 0])
    assert abs(tall - 15) <= 2 if box else tall < 10
    assert (drawn == 0).all(-1).any()  # the dark line, which shows on white


def test_several_points_have_their_names():
    one = overlay(GREY, point=[(0, 0)], grid=(2, 2))
    two = overlay(GREY, point=torch.tensor([[0.0, 0.0], [1.0, 1.0]]), grid=(2, 2), names=["3", "11"])
    assert len(bright(two)) > len(bright(one)) + 10
    assert (overlay(GREY, point=(0, 0), names=["\u9a91"]) == overlay(GREY, point=(0, 0), names=["?"])).all()


def test_a_caption_and_a_mark_stay_inside():
    long, letters = overlay(GREY, caption="\\pretending $to$ wipe " * 20), overlay(GREY, caption="\u9a91\u81ea")
    for drawn in (long, letters):
        assert drawn.shape == GREY.shape and (drawn[:40] == GREY[:40]).all() and (drawn[45:] != GREY[45:]).any()
        assert len(bright(drawn[:, 96:])) == 0
    seen = overlay(GREY, seen=True)
    assert len(bright(seen)) > 10 and bright(seen)[:, 1].min() > 80 and bright(seen)[:, 0].max() < 20
    for shape in ((1, 1, 3), (5, 300, 3)):
        image = np.zeros(shape, np.uint8)
        drawn = overlay(image, heat=torch.rand(7, 7), point=(0, 0), box=0.5, caption="label", seen=True)
        assert drawn.shape == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heat": torch.zeros(2, 2, 2)}, r"`heat` must be \(rows, columns\) of finite numbers, got \(2, 2, 2\)"),
        ({"heat": torch.tensor([[float("nan")]])}, "finite"),
        ({"heat": torch.zeros(2, 2), "limits": (1, 0)}, "the smaller one first"),
        ({"limits": (0, 1)}, "without `heat`"),
        ({"box": 0.2}, "without `point`"),
        ({"names": ["a"]}, "without `point`"),
        ({"point": (0, 0), "names": ["a", "b"]}, "1 points and 2 names"),
        ({"point": (0, 0), "box": 0}, "above 0 and at most 1, got 0"),
        ({"point": (0, float("inf"))}, "finite"),
        ({"crop": (100, 0, 120, 60)}, "a part of the 100 x 60 pixels"),
        ({"heat": torch.zeros(2, 2), "map": "rainbows"}, "no colour map 'rainbows'"),
    ],
)
def test_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        overlay(GREY, **options)
    with pytest.raises(ValueError, match="uint8"):
        overlay(GREY / 255)

"""Which frames are drawn and in which order: of the seed and the video's name alone; batches lose no video."""

from collections import Counter

import pytest
import torch

from transformers_ila.video_views import (
    ORDERS,
    Video,
    Views,
    _drawing_from,
    draw_seed,
    in_batches,
    reordered,
    shuffled_order,
)


def test_shuffled_orders_are_any_but_the_true_one():
    counts = Counter(tuple(shuffled_order(3, draw_seed(0, str(n))).tolist()) for n in range(600))
    assert len(counts) == 5 and (0, 1, 2) not in counts
    assert min(counts.values()) > 600 / 5 * 0.7
    assert shuffled_order(1, 0).tolist() == [0] and shuffled_order(2, 5).tolist() == [1, 0]


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (6, 4, 3, 2, 2)])
def test_orders_of_frames(shape):
    views = torch.rand(shape)
    video = Video(0, "a", views)
    clips = views if views.ndim == 5 else views[None]
    found = {order: reordered(video, order, seed=3).reshape(clips.shape) for order in (*ORDERS, "as_is")}
    drawn = shuffled_order(4, draw_seed(3, "shuffled a")).tolist()
    for view, clip in enumerate(clips):
        for frame in range(4):
            assert torch.equal(found["as_is"][view, frame], clip[frame])
            assert torch.equal(found["reversed"][view, frame], clip[3 - frame])
            assert torch.equal(found["single_frame"][view, frame], clip[2])
            assert torch.equal(found["shuffled"][view, frame], clip[drawn[frame]])
    with pytest.raises(ValueError, match="order must be one of as_is, shuffled, reversed, single_frame, got 'up'"):
        reordered(video, "up", seed=0)


def test_draws_depend_on_seed_and_name_and_touch_nothing():
    assert draw_seed(0, "a") == draw_seed(0, "a")
    assert len({draw_seed(seed, name) for seed in range(3) for name in ("a", "b", "ä\n", "\udcff")}) == 12
    state = torch.get_rng_state()
    with pytest.raises(KeyError), _drawing_from(5):
        first = torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)
    with _drawing_from(5):
        assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("fields", [{"protocol": "2x2"}, {"seed": -1}, {"seed": 1.5}, {"seed": True}])
def test_views_that_are_none(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Views(**fields)


@pytest.mark.parametrize("readable", ["1111111", "0000000", "0100110", "1110000000", "0", "1", ""])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_hold_every_video_once(readable, batch_size):
    videos = [Video(n, str(n), torch.zeros(1) if c == "1" else None) for n, c in enumerate(readable)]
    batches = list(in_batches(videos, batch_size=batch_size))
    assert [v.key for b in batches for v in b.read] == [n for n, c in enumerate(readable) if c == "1"]
    assert [v.key for b in batches for v in b.unreadable] == [n for n, c in enumerate(readable) if c == "0"]
    with_some = [len(batch.read) for batch in batches if batch.read]
    assert all(size == batch_size for size in with_some[:-1]) and max(with_some, default=0) <= batch_size

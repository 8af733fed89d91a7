"""Which frames are drawn and in which order: of the seed and the video's name alone; batches lose no video."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from support.tiny_models import tiny_config
from transformers_ila import IlaVideoProcessor
from transformers_ila.distributed import Rank
from transformers_ila.evaluation.options import FRAME_ORDERS, InferenceOptions
from transformers_ila.evaluation.views import (
    TimedIterator,
    Video,
    draw_seed,
    drawing_from,
    in_batches,
    permute_frames,
    read_views,
    shuffled_order,
)
from transformers_ila.motionbench.tasks import make_videos
from transformers_ila.video_writing import write_mp4


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
    found = {order: permute_frames(video, order, seed=3).reshape(clips.shape) for order in (*FRAME_ORDERS, "as_is")}
    drawn = shuffled_order(4, draw_seed(3, "shuffled a")).tolist()
    for view, clip in enumerate(clips):
        for frame in range(4):
            assert torch.equal(found["as_is"][view, frame], clip[frame])
            assert torch.equal(found["reversed"][view, frame], clip[3 - frame])
            assert torch.equal(found["single_frame"][view, frame], clip[2])
            assert torch.equal(found["shuffled"][view, frame], clip[drawn[frame]])
    with pytest.raises(ValueError, match="order must be one of as_is, shuffled, reversed, single_frame, got 'up'"):
        permute_frames(video, "up", seed=0)


def test_draws_depend_on_seed_and_name_and_touch_nothing():
    assert draw_seed(0, "a") == draw_seed(0, "a")
    assert len({draw_seed(seed, name) for seed in range(3) for name in ("a", "b", "ä\n", "\udcff")}) == 12
    state = torch.get_rng_state()
    with pytest.raises(KeyError), drawing_from(5):
        first = torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)
    with drawing_from(5):
        assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("readable", ["1111111", "0000000", "0100110", "1110000000", "0", "1", ""])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_hold_every_video_once(readable, batch_size):
    videos = [Video(n, str(n), torch.zeros(1) if c == "1" else None) for n, c in enumerate(readable)]
    batches = list(in_batches(videos, batch_size=batch_size))
    assert [v.key for b in batches for v in b.read] == [n for n, c in enumerate(readable) if c == "1"]
    assert [v.key for b in batches for v in b.unreadable] == [n for n, c in enumerate(readable) if c == "0"]
    with_some = [len(batch.read) for batch in batches if batch.read]
    assert all(size == batch_size for size in with_some[:-1]) and max(with_some, default=0) <= batch_size


def test_a_batch_has_frames_of_one_size():
    sides = [2, 2, 2, None, 4, 4, None, 2, 4]
    videos = [Video(n, str(n), None if side is None else torch.zeros(1, side)) for n, side in enumerate(sides)]
    batches = list(in_batches(videos, batch_size=2))
    assert [[video.key for video in batch.read] for batch in batches] == [[0, 1], [2], [4, 5], [7], [8]]
    assert [[video.key for video in batch.unreadable] for batch in batches] == [[], [3], [], [6], []]
    assert [tuple(batch.views().shape) for batch in batches] == [(2, 1, 2), (1, 1, 2), (2, 1, 4), (1, 1, 2), (1, 1, 4)]


MEANS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}
UNSCALED = {"do_rescale": False, "image_mean": [25.0, 51.0, 76.0], "image_std": [128.0, 150.0, 170.0]}


@pytest.mark.parametrize("protocol", ["1x1", "4x3"])
@pytest.mark.parametrize("options", [{}, MEANS, {"do_normalize": False}, UNSCALED], ids=str)
def test_pixels_made_on_the_device_are_the_processors(tmp_path, protocol, options):
    """Bit for bit; those that are read are uint8."""
    IlaVideoProcessor.for_model(tiny_config(), **options).save_pretrained(tmp_path)
    processor = IlaVideoProcessor.from_pretrained(tmp_path)  # whose means are lists, as in the file
    paths = [str(tmp_path / f"{index}.mp4") for index in range(2)]
    for path, video in zip(paths, make_videos(2, seed=0)):
        write_mp4(path, video.frames)
    asked = InferenceOptions(protocol=protocol, batch_size=2)
    (batch,) = read_views(processor, paths, asked, find=lambda path: (path, path))
    expected = processor(paths, **asked.processor_options(), return_tensors="pt")["pixel_values"]
    made = processor.normalize_on("cpu", batch.views())
    assert batch.views().dtype == torch.uint8 and made.dtype == expected.dtype == torch.float32
    assert torch.equal(made, expected)


def test_waiting_is_what_the_items_take(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("transformers_ila.evaluation.views.time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slowly():
        for item in range(3):
            now[0] += 5
            yield item

    waiting = TimedIterator(slowly())
    items = []
    for item in waiting:
        items.append(item)
        now[0] += 100  # what is done with an item is no waiting
    assert items == [0, 1, 2] and waiting.seconds == 15 and list(TimedIterator([])) == []


def test_usual_workers(monkeypatch):
    """None beside a CPU that computes; beside GPUs the machine's cores, shared, and one at least."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Rank().usual_workers() == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Rank().usual_workers() == 7
    for processes, workers in (("2", 3), ("8", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert Rank().usual_workers() == workers and Rank().usual_workers("cpu") == 0

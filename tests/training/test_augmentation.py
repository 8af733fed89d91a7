"""Training augmentation: what is drawn, that it is drawn once per clip, from its own generator, and what it does."""

import colorsys
import json
import pickle
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvF

from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor, read_video
from transformers_ila.data.class_names import class_names
from transformers_ila.model.video_frames_ila import segment_indices
from transformers_ila.motionbench.tasks import MOTIONS, write_folder
from transformers_ila.training.augmentation import (
    RAND_AUGMENT,
    ClipAugmentation,
    MixClips,
    MixingCollator,
    _beta,
    _cut_box,
    clip_generator,
    clip_seed,
    names_left_or_right,
    turn_hue,
)


OFF = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0}
PLAIN = {"scales": (1,), **OFF}  # only a square crop is left
ALL = {"flip": 0.5, "jitter": 1.0, "grayscale": 0.5, "rand_augment": 2, "erasing": 1.0, "crop_positions": None}
HUE_TOLERANCE = 2e-6  # of colours in [0, 1], float32
MIX_TOLERANCE = 1e-6


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clip(frames=3, height=24, width=30, seed=0):
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator(seed))


def draws(number, function):
    """What the function gives for the generators of a run's first clips."""
    return [function(clip_generator(0, 0, index)) for index in range(number)]


# -- seeds -----------------------------------------------------------------------------------------------------------


def test_clip_seeds_differ_in_every_part():
    parts = [
        (seed, epoch, index, attempt)
        for seed in range(6)
        for epoch in range(6)
        for index in range(6)
        for attempt in (0, 1)
    ]
    assert len({clip_seed(*part) for part in parts}) == len(parts)
    assert clip_seed(1, 2, 3) == clip_seed(np.int64(1), torch.tensor(2), 3, 0) == 118871406133596876
    assert 0 <= clip_seed(2**80, -1, 0) < 2**63
    with pytest.raises(TypeError):
        clip_seed(0.5, 0, 0)


def test_neighbouring_clips_draw_independent_numbers():
    numbers = torch.stack(
        [torch.rand(2, generator=clip_generator(0, epoch, i)) for epoch in (0, 1) for i in range(1000)]
    )
    series = torch.cat(
        [numbers[:-1], numbers[1:], numbers[:1000].repeat(2, 1)[:-1]], dim=1
    ).T  # clip, next, epoch before
    correlations = torch.corrcoef(series[:4])
    assert correlations.fill_diagonal_(0).abs().max() < 0.08
    assert torch.corrcoef(torch.stack([numbers[:1000, 0], numbers[1000:, 0]]))[0, 1].abs() < 0.1
    assert numbers.mean(0).sub(0.5).abs().max() < 0.03


# -- one draw per clip -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [{}, ALL, {"scales": (1, 0.5), "interpolation": "bicubic", **ALL}])
def test_every_frame_gets_what_it_would_get_alone(numbers):
    augment, frames = ClipAugmentation(size=20, **numbers), clip()
    for index in range(12):
        all_gather = augment(frames, clip_generator(0, 0, index))
        alone = [augment(frame[None], clip_generator(0, 0, index)) for frame in frames]
        assert torch.equal(all_gather, torch.cat(alone))
        still = augment(frames[:1].repeat(4, 1, 1, 1), clip_generator(0, 0, index))
        assert (still == still[:1]).all()


@pytest.mark.parametrize(
    "shape", [(8, 256, 340), (1, 20, 31), (2, 31, 20), (1, 1, 1), (3, 2, 200), (2, 15, 15), (1, 500, 7)]
)
@pytest.mark.parametrize("numbers", [{}, ALL, {"crop_positions": 13}])
def test_any_video_gives_a_square_clip(shape, numbers):
    frames, augment = clip(*shape), ClipAugmentation(size=18, **numbers)
    before = frames.clone()
    for index in range(3):
        result = augment(frames, clip_generator(0, 0, index))
        assert result.shape == (shape[0], 3, 18, 18) and result.dtype == torch.uint8 and result.is_contiguous()
    assert torch.equal(frames, before)


def test_memory_layout_of_the_frames_does_not_matter():
    frames, augment = clip(), ClipAugmentation(size=20, **ALL)
    last = frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # as the reader's
    for index in range(8):
        assert torch.equal(augment(frames, clip_generator(0, 0, index)), augment(last, clip_generator(0, 0, index)))


# -- where the numbers come from -------------------------------------------------------------------------------------


def test_torchs_numpys_and_pythons_own_generators_are_neither_read_nor_moved():
    augment, mix = ClipAugmentation(size=20, **ALL), MixClips(5)
    batch = {"pixel_values": torch.rand(4, 2, 3, 8, 8), "labels": torch.arange(4)}

    def work():
        mixed = mix(batch, generator(1))
        return augment(clip(), generator(1)), mixed["pixel_values"], mixed["labels"]

    torch.manual_seed(0)
    first = work()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert all(torch.equal(a, b) for a, b in zip(first, work()))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]


def test_threads_and_their_number_change_nothing():
    augment, frames = ClipAugmentation(size=112, **ALL), clip(8, 120, 160)

    def one(index):
        return augment(frames, clip_generator(3, 0, index))

    expected = [one(index) for index in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(expected, pool.map(one, range(8))))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(a, one(index)) for index, a in enumerate(expected))
    finally:
        torch.set_num_threads(threads)


class Clips(Dataset):
    """A training data set as the module's docstring describes it, without files or with them."""

    def __init__(self, *, epoch=0, paths=None, flip=0.5):
        self.epoch, self.paths = epoch, paths
        self.augment = ClipAugmentation(size=16, flip=flip)
        self.processor = IlaVideoProcessor(num_frames=4)

    def __len__(self):
        return 12 if self.paths is None else len(self.paths)

    def __getitem__(self, index):
        draw = clip_generator(7, self.epoch, index)
        pixel_values = normalise(self.processor, self.augment(self.read(index, draw), draw))
        return {"pixel_values": pixel_values, "labels": index % 5, "clip_seed": clip_seed(7, self.epoch, index)}

    def read(self, index, draw):
        if self.paths is None:
            return clip(4, seed=index)
        rule = partial(segment_indices, num_frames=4, random=True, generator=draw)
        frames, _ = read_video(self.paths[index], lambda total: rule(total).tolist())
        return torch.from_numpy(frames).permute(0, 3, 1, 2)


def normalise(processor, frames):
    plain = {"do_sample_frames": False, "do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    return processor(frames, input_data_format="channels_first", **plain)["pixel_values"][0]


def batches(data, *, order=None, **options):
    loader = DataLoader(data, batch_size=4, sampler=order, collate_fn=MixingCollator(MixClips(5)), **options)
    return [(batch["pixel_values"], batch["labels"]) for batch in loader]


def same(some, others):
    return len(some) == len(others) and all(torch.equal(a, b) for x, y in zip(some, others) for a, b in zip(x, y))


def test_workers_and_resuming_change_nothing_epochs_do():
    expected = batches(Clips())
    assert same(expected, batches(Clips(), num_workers=2, multiprocessing_context="fork"))
    assert same(expected[1:], batches(Clips(), order=range(4, 12)))  # as after the first step
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(expected, batches(Clips(epoch=1))))


def test_videos_are_read_augmented_and_normalised(tmp_path):
    paths = write_folder(tmp_path, 8, seed=0)
    first, again, later = (batches(Clips(paths=paths, epoch=epoch)) for epoch in (0, 0, 1))
    assert same(first, again) and not same(first, later)
    assert first[0][0].shape == (4, 4, 3, 16, 16) and first[0][1].shape == (4, 5)


@pytest.mark.parametrize("frames", [1, 3, 8])
def test_the_processor_only_normalises_an_augmented_clip(frames):
    processor = IlaVideoProcessor(num_frames=8, random_frames=True)
    augmented = ClipAugmentation(size=32)(clip(frames), generator())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    torch.testing.assert_close(normalise(processor, augmented), (augmented / 255 - mean) / std, atol=1e-6, rtol=1e-5)


# -- crops and flips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "positions, expected",
    [
        (5, {(0, 0), (0, 16), (8, 0), (8, 16), (4, 8)}),
        (
            13,
            {(0, 0), (0, 16), (8, 0), (8, 16), (4, 8)}
            | {(4, 0), (4, 16), (8, 8), (0, 8), (2, 4), (2, 12), (6, 4), (6, 12)},
        ),
        (None, {(top, left) for top in range(9) for left in range(17)}),
    ],
)
def test_crops_are_slices_at_the_positions_asked_for(positions, expected):
    frames = clip(1, 16, 24)
    augment = ClipAugmentation(size=8, **{**PLAIN, "scales": (0.5,)}, crop_positions=positions)
    windows = frames.unfold(2, 8, 1).unfold(3, 8, 1)  # (1, 3, 9, 17, 8, 8)

    def place(draw):
        found = (windows == augment(frames, draw)[:, :, None, None]).flatten(4).all(-1).all(1)[0].nonzero()
        assert len(found) == 1
        return tuple(found[0].tolist())

    assert set(draws(1200 if positions is None else 150, place)) == expected


def test_the_outer_positions_touch_the_border_of_frames_whose_room_is_no_multiple_of_four():
    frames, augment = clip(1, 9, 16), ClipAugmentation(size=9, **PLAIN)
    results = draws(60, lambda draw: augment(frames, draw))
    expected = [frames[..., left : left + 9] for left in (0, 3, 7)]
    assert all(any(torch.equal(result, window) for result in results) for window in expected)
    assert all(any(torch.equal(result, window) for window in expected) for result in results)


@pytest.mark.parametrize("max_distort, number", [(0, 4), (1, 10), (3, 16)])
def test_multi_scale_crop_takes_neighbouring_scales_of_the_short_side(max_distort, number):
    augment, sides = ClipAugmentation(max_distort=max_distort), [256, 224, 192, 168]  # int(0.66 * 256) = 168
    crops = draws(100 * number, lambda draw: augment._draw_crop(340, 256, draw))
    counts = Counter((height, width) for _, _, height, width in crops)
    assert set(counts) == {
        (a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= max_distort
    }
    assert len(counts) == number and 60 < min(counts.values()) and max(counts.values()) < 145
    assert all(top + height <= 340 and left + width <= 256 for top, left, height, width in crops)


def test_crops_are_resized_with_antialiasing():
    frames = clip(2, 30, 30)
    for name in ("bilinear", "bicubic"):
        expected = tvF.resize(frames, [12, 12], v2.InterpolationMode(name), antialias=True)
        assert torch.equal(ClipAugmentation(size=12, **PLAIN, interpolation=name)(frames, generator()), expected)


def test_flips_mirror_the_clip_as_often_as_asked():
    frames, numbers = clip(2, 10, 10), {**PLAIN, "size": 10}
    assert torch.equal(ClipAugmentation(**{**numbers, "flip": 1.0})(frames, generator()), frames.flip(-1))
    assert torch.equal(ClipAugmentation(**numbers)(frames, generator()), frames)
    half = ClipAugmentation(**{**numbers, "flip": 0.5})
    assert 210 < sum(draws(500, lambda draw: torch.equal(half(frames, draw), frames.flip(-1)))) < 290


@pytest.mark.parametrize(
    "names, expected",
    [
        (class_names("kinetics400"), False),
        (class_names("ssv2"), True),
        (MOTIONS, True),
        (["turning clockwise"], True),
        (["Turn Hand Counterclockwise"], True),
        (["swipe_left"], True),
        (["SwipeRight"], True),
        (["LEFT"], True),
        (["left-handed catch"], True),
        (["move rightwards"], True),
        (["standing upright", "leftovers", "bright light", "cleft", "copyright"], False),
        ([], False),
    ],
)
def test_names_of_sides_turn_flipping_off(names, expected):
    assert names_left_or_right(names) is expected
    augment = ClipAugmentation.for_classes(names, size=20)
    assert augment == ClipAugmentation(size=20, flip=0.0 if expected else 0.5)
    assert ClipAugmentation.for_classes(names, flip=0.25).flip == 0.25


# -- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [-0.5, -0.1, -0.013, 0.0, 0.07, 0.1, 1 / 3, 0.5])
def test_hue_turns_as_in_torchvision_and_in_python(turns):
    grey = torch.rand(1, 1, 9, 9, generator=generator()).expand(1, 3, 9, 9)
    primary = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1.0]])
    colours = clip(4, 9, 9) / 255
    for frames in (colours, grey, primary.T[None, :, :, None]):
        expected = tvF.adjust_hue(frames, turns)
        torch.testing.assert_close(turn_hue(frames, turns=turns), expected, atol=HUE_TOLERANCE, rtol=0)
    pixels, turned = (
        colours.movedim(1, -1).reshape(-1, 3)[:50],
        turn_hue(colours, turns=turns).movedim(1, -1).reshape(-1, 3),
    )
    for pixel, result in zip(pixels.tolist(), turned.tolist()):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        assert result == pytest.approx(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), abs=1e-5)


def test_jitter_draws_factors_from_its_ranges_and_every_order(monkeypatch):
    calls = []

    def record(frames, name, **factor):
        calls.append((name, *factor.values()))
        return frames

    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation"):
        monkeypatch.setattr(tvF, name, partial(record, name=name))
    monkeypatch.setattr("transformers_ila.training.augmentation.turn_hue", partial(record, name="hue"))
    augment, frames = ClipAugmentation(size=8, **{**PLAIN, "jitter": 1.0}), clip(2, 8, 8)
    assert all(torch.equal(result, frames) for result in draws(400, lambda draw: augment(frames, draw)))
    assert len({tuple(name for name, _ in calls[i : i + 4]) for i in range(0, len(calls), 4)}) == 24
    ranges = {
        "adjust_brightness": (0.6, 1.4),
        "adjust_contrast": (0.6, 1.4),
        "adjust_saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
    }
    for name, (low, high) in ranges.items():
        factors = [factor for called, factor in calls if called == name]
        assert len(factors) == 400 and low <= min(factors) and max(factors) <= high
        assert min(factors) < low + 0.02 * (high - low) and max(factors) > high - 0.02 * (high - low)


@pytest.mark.parametrize("only", ["brightness", "contrast", "saturation", "hue"])
def test_each_strength_changes_what_it_names(only):
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, only: 0.3}
    augment = ClipAugmentation(size=12, **{**PLAIN, "jitter": 1.0}, **strengths)
    frames = clip(2, 12, 12) // 2 + 60  # no channel meets an end of its range
    result = augment(frames, generator(1)).float()
    grey = tvF.rgb_to_grayscale(frames.float())
    middle = {"brightness": torch.zeros(1), "contrast": grey.mean((1, 2, 3), keepdim=True), "saturation": grey}
    if only == "hue":
        assert (result.amax(1) - frames.amax(1)).abs().max() <= 0.5 and not torch.equal(result, frames.float())
        return
    change, distance = result - middle[only], frames - middle[only]
    factor = (change * distance).sum() / distance.square().sum()
    assert 0.7 <= factor <= 1.3 and abs(factor - 1) > 0.01
    assert (change - factor * distance).abs().max() < 0.6  # rounded once


def test_no_change_of_colour_is_exactly_none():
    still = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    frames = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    assert torch.equal(ClipAugmentation(size=16, **{**PLAIN, "jitter": 1.0}, **still)(frames, generator()), frames)


def test_probabilities_of_jitter_grey_and_erasing():
    frames, numbers = clip(1, 8, 8), {"size": 8, "scales": (1,), "flip": 0.0}
    for name, probability in (("jitter", 0.8), ("grayscale", 0.2), ("erasing", 0.25)):
        augment = ClipAugmentation(**{**numbers, "jitter": 0.0, "grayscale": 0.0, name: probability})
        changed = sum(draws(500, lambda draw: not torch.equal(augment(frames, draw), frames)))  # noqa: B023
        assert abs(changed / 500 - probability) < 0.06


def test_grey_is_luma_in_all_channels():
    frames = clip(2, 12, 12)
    grey = ClipAugmentation(size=12, **{**PLAIN, "grayscale": 1.0})(frames, generator())
    luma = (frames * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert torch.equal(grey, luma.round().to(torch.uint8).expand(-1, 3, -1, -1))


def test_erasing_fills_one_box_of_the_asked_share_in_all_frames():
    frames, areas, ratios = clip(3, 64, 64) // 2, [], []
    augment = ClipAugmentation(size=64, **PLAIN, erasing=1.0, fill=(200, 210, 220))
    for result in draws(200, lambda draw: augment(frames, draw)):
        erased = (result == torch.tensor([200, 210, 220]).view(3, 1, 1)).all(1)
        rows, columns = erased[0].any(1).nonzero().flatten(), erased[0].any(0).nonzero().flatten()
        box = torch.zeros(64, 64, dtype=torch.bool)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert (erased == box).all() and torch.equal(result.where(~box, 0), frames.where(~box, 0))
        areas.append(int(box.sum()) / 64**2), ratios.append(len(rows) / len(columns))
    assert 0.018 < min(areas) < 0.05 and 0.28 < max(areas) < 0.35
    assert 0.25 < min(ratios) < 0.5 and 2 < max(ratios) < 4 and 0.8 < np.exp(np.mean(np.log(ratios))) < 1.25


@pytest.mark.parametrize("name", RAND_AUGMENT)
@pytest.mark.parametrize("bin_", [0, 9, 30])
def test_rand_augments_operations_are_torchvisions(name, bin_):
    fill, frames = [10.0, 20.0, 30.0], clip(3, 20, 20)
    reference = v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
    magnitudes, signed = reference._AUGMENTATION_SPACE[name]
    magnitudes = magnitudes(31, 20, 20)
    for sign in (1, -1):
        magnitude = 0.0 if magnitudes is None else float(magnitudes[bin_]) * (sign if signed else 1)
        expected = reference._apply_image_or_video_transform(
            frames, name, magnitude, reference.interpolation, reference._fill
        )
        result = RAND_AUGMENT[name](frames, sign * bin_ / 30, fill).int()
        assert (result - expected.int()).abs().max() <= 1  # float32 against float64 slopes, before rounding down


def test_rand_augment_draws_every_operation_in_both_directions(monkeypatch):
    seen = []

    def recorder(name):
        def record(frames, level, fill):
            seen.append((name, level))
            return frames

        return record

    for name in RAND_AUGMENT:
        monkeypatch.setitem(RAND_AUGMENT, name, recorder(name))
    augment = ClipAugmentation(size=8, **PLAIN, rand_augment=3, rand_augment_magnitude=9)
    draws(200, lambda draw: augment(clip(1, 8, 8), draw))
    assert len(seen) == 600 and set(seen) == {(name, level) for name in RAND_AUGMENT for level in (-0.3, 0.3)}


# -- batches ---------------------------------------------------------------------------------------------------------


def batch_of(size=6, classes=None, shape=(2, 3, 8, 10)):
    clips = torch.randn(size, *shape, generator=generator(5))
    return {"pixel_values": clips, "labels": torch.arange(size) % (classes or size)}


def partners_and_share(labels):
    """From unsmoothed labels of clips of different classes: whom each was mixed with, and what it kept."""
    shares = [row[i].item() for i, row in enumerate(labels)]
    partners = [
        int(row.clone().index_fill_(0, torch.tensor(i), 0).argmax()) if row[i] < 1 else i
        for i, row in enumerate(labels)
    ]
    share = next((share for share in shares if share < 1), None)
    assert all(kept in (1.0, share) for kept in shares)
    assert share is None or sorted(partners) == list(range(len(labels)))
    return partners, share


def test_mixup_is_the_weighted_mean_of_two_clips():
    batch, mix = batch_of(), MixClips(6, cutmix=0.0, smoothing=0.0)
    kept = []
    for index in range(20):
        mixed = mix(batch, clip_generator(0, 0, index))
        partners, share = partners_and_share(mixed["labels"])
        kept += [] if share is None else [share]
        for i, partner in enumerate(partners):
            first, second = batch["pixel_values"][i], batch["pixel_values"][partner]
            expected = first if partner == i else share * first + (1 - share) * second
            torch.testing.assert_close(mixed["pixel_values"][i], expected, atol=MIX_TOLERANCE, rtol=1e-5)
    assert len(set(kept)) == len(kept) > 15


def test_cutmix_swaps_one_box_and_weighs_by_its_true_area():
    batch, mix, areas = batch_of(shape=(2, 3, 32, 40)), MixClips(6, mixup=0.0, smoothing=0.0), []
    for index in range(60):
        mixed = mix(batch, clip_generator(0, 0, index))
        partners, share = partners_and_share(mixed["labels"])
        own, clips = batch["pixel_values"], mixed["pixel_values"]
        swapped = (clips != own).flatten(0, 2).any(0)  # (H, W)
        box = torch.zeros_like(swapped)
        if swapped.any():
            rows, columns = swapped.any(1).nonzero().flatten(), swapped.any(0).nonzero().flatten()
            box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert torch.equal(swapped, box)
        assert torch.equal(clips, torch.where(box, own[partners], own))
        if share is not None:
            assert share == pytest.approx(1 - int(box.sum()) / (32 * 40), abs=1e-6)
            areas.append(1 - share)
    assert min(areas) < 0.1 and max(areas) > 0.5


def test_cutmix_boxes_keep_the_frames_shape_and_lie_everywhere():
    batch, mix = batch_of(2, shape=(1, 1, 40, 80)), MixClips(2, mixup=0.0, smoothing=0.0)
    batch["pixel_values"][0], batch["pixel_values"][1] = 0, 1
    boxes = [box for box in draws(400, lambda draw: mix(batch, draw)["pixel_values"][0, 0, 0]) if 0 < box.sum() < 3200]
    covered = torch.stack(boxes).mean(0)
    assert covered.min() > 0.02 and covered[20, 40] > covered[0, 0]
    inner = [box for box in boxes if not box[[0, -1]].any() and not box[:, [0, -1]].any()]
    sides = [(int(box.any(1).sum()), int(box.any(0).sum())) for box in inner]
    assert all(abs(width - 2 * height) <= 5 for height, width in sides) and len(sides) > 20


@pytest.mark.parametrize("share", [0.0, 0.36, 0.75, 0.99, 1.0])
def test_cutmix_boxes_have_the_drawn_area_and_are_cut_at_the_border(share):
    heights, widths = set(), set()
    for rows, columns in draws(300, lambda draw: _cut_box(50, 100, share, draw)):
        heights.add((rows.start, rows.stop)), widths.add((columns.start, columns.stop))
    for side, found in ((50, heights), (100, widths)):
        half = int(side * (1 - share) ** 0.5) // 2
        expected = {(max(centre - half, 0), min(centre + half, side)) for centre in range(side)}
        assert found <= expected and len(found) > 0.8 * len(expected)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha):
    shares = torch.tensor(draws(3000, lambda draw: _beta(draw, alpha)))
    assert 0 <= shares.min() and shares.max() <= 1 and abs(shares.mean() - 0.5) < 0.03
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.08)


def test_mixup_and_cutmix_switch_as_often_as_asked():
    batch = batch_of(2, shape=(1, 1, 64, 64))
    batch["pixel_values"][0], batch["pixel_values"][1] = 0, 1

    def cuts(mix, draw):
        values = mix(batch, draw)["pixel_values"].unique()
        return None if len(values) == 1 else bool(((values == 0) | (values == 1)).all())

    for switch, low, high in ((0.0, 0.0, 0.0), (0.5, 0.4, 0.6), (1.0, 1.0, 1.0)):
        found = draws(400, partial(cuts, MixClips(2, switch=switch)))
        # a partner that is the clip itself shows neither: compare the batches that were mixed visibly
        labels = draws(400, lambda draw: MixClips(2, smoothing=0.0, switch=switch)(batch, draw)["labels"][0, 0])  # noqa: B023
        seen = [cut for cut, label in zip(found, labels) if 0 < label < 1]
        assert len(seen) > 100 and low <= np.mean(seen) <= high


@pytest.mark.parametrize(
    "numbers", [{}, {"mixup": 0.0}, {"cutmix": 0.0}, {"mixup": 0.0, "cutmix": 0.0}, {"smoothing": 0.0}]
)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_labels_are_probabilities(numbers, size):
    batch, mix = batch_of(size, classes=3), MixClips(3, **numbers)
    for index in range(10):
        labels = mix(batch, clip_generator(0, 0, index))["labels"]
        assert labels.shape == (size, 3) and labels.dtype == torch.float32 and labels.min() >= 0
        torch.testing.assert_close(labels.sum(1), torch.ones(size))


@pytest.mark.parametrize("size, numbers", [(1, {}), (4, {"mixup": 0, "cutmix": 0})])
def test_without_mixing_labels_are_smoothed_and_clips_stay(size, numbers):
    batch = batch_of(size, classes=3)
    result = MixClips(3, **numbers)(batch, generator())
    assert result["pixel_values"] is batch["pixel_values"]
    expected = torch.full((size, 3), 0.1 / 3)
    for row, label in zip(expected, batch["labels"]):
        row[label] += 0.9
    torch.testing.assert_close(result["labels"], expected)
    logits = torch.randn(size, 3, generator=generator())
    smoothed = F.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, result["labels"]), smoothed)


def test_smoothing_before_mixing_is_smoothing_after_it():
    batch = batch_of()
    for index in range(5):
        smooth = MixClips(6)(batch, clip_generator(0, 0, index))["labels"]
        sharp = MixClips(6, smoothing=0.0)(batch, clip_generator(0, 0, index))["labels"]
        torch.testing.assert_close(smooth, sharp * 0.9 + 0.1 / 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.float16])
def test_several_labels_are_mixed_and_smoothed_too(dtype):
    several = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]])
    batch = {**batch_of(3), "labels": several.to(dtype)}
    torch.testing.assert_close(MixClips(4, mixup=0, cutmix=0)(batch, generator())["labels"], several * 0.9 + 0.025)
    mix = MixClips(4, cutmix=0, smoothing=0)
    for index in range(8):
        partners, share = partners_and_share(mix(batch_of(3, classes=4), clip_generator(0, 0, index))["labels"])
        labels, kept = mix(batch, clip_generator(0, 0, index))["labels"], 1.0 if share is None else share
        torch.testing.assert_close(labels, kept * several + (1 - kept) * several[partners])


@pytest.mark.parametrize("numbers", [{"mixup": 0}, {"cutmix": 0}])
def test_a_batch_is_left_as_it_came_but_for_clips_and_labels(numbers):
    batch = {**batch_of(), "other": ["kept"]}
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    before = {key: value.clone() for key, value in batch.items() if key != "other"}
    result = MixClips(6, **numbers)(batch, generator())
    assert result["other"] is batch["other"] and all(torch.equal(batch[key], value) for key, value in before.items())
    assert result["pixel_values"].dtype == torch.bfloat16 and not torch.equal(
        result["pixel_values"], batch["pixel_values"]
    )


def test_the_collator_takes_its_draws_from_the_seeds_of_its_items():
    items, collate = [Clips()[index] for index in range(4)], MixingCollator(MixClips(5))
    first = collate(items)
    assert set(first) == {"pixel_values", "labels"} and set(items[0]) == {"pixel_values", "labels", "clip_seed"}
    assert torch.equal(first["labels"], collate(items)["labels"])
    other = collate([{**items[0], "clip_seed": 1}, *items[1:]])
    assert not torch.equal(first["labels"], other["labels"])
    with pytest.raises(
        ValueError, match=r"'clip_seed', got \['labels', 'pixel_values'\].*remove_unused_columns=False"
    ):
        collate([{key: item[key] for key in ("pixel_values", "labels")} for item in items])


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_the_model_takes_mixed_batches(problem):
    config = tiny_config(classification_head="linear", num_labels=5, problem_type=problem)
    mixed = MixClips(5)(batch_of(3, shape=(4, 3, 28, 28)), generator())
    loss = IlaForVideoClassification(config).train()(**mixed).loss
    assert torch.isfinite(loss) and loss > 0


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [{"cutmix": 0.0}, {"mixup": 0.0}])
def test_bytes_are_mixed_as_floats_are(numbers):
    whole = torch.randint(256, (4, 2, 3, 8, 8), dtype=torch.uint8, generator=generator())
    labels, mix = torch.tensor([0, 1, 2, 0]), MixClips(3, **numbers)
    mixed = mix({"pixel_values": whole, "labels": labels}, generator())
    of_floats = mix({"pixel_values": whole.float(), "labels": labels}, generator())
    assert mixed["pixel_values"].dtype == torch.uint8 and torch.equal(mixed["labels"], of_floats["labels"])
    assert not torch.equal(mixed["pixel_values"], whole)
    assert torch.equal(mixed["pixel_values"].float(), of_floats["pixel_values"].round())


@pytest.mark.parametrize("thing", [ClipAugmentation(**ALL), MixClips(3), MixingCollator(MixClips(3))])
def test_augmentations_go_to_workers_and_their_numbers_into_files(thing):
    assert pickle.loads(pickle.dumps(thing)) == thing
    if not isinstance(thing, MixingCollator):
        numbers = json.loads(json.dumps(asdict(thing)))
        type(thing)(**numbers)


@pytest.mark.parametrize(
    "numbers, message",
    [
        ({"size": 0}, "size must be an integer of at least 1, got 0"),
        ({"size": 224.0}, "size must be an integer"),
        ({"scales": ()}, "scales must be numbers above 0, up to 1"),
        ({"scales": (1, 0)}, "scales must be numbers above 0"),
        ({"scales": 1}, "scales must be"),
        ({"max_distort": -1}, "max_distort"),
        ({"crop_positions": 4}, "crop_positions must be 5, 13, or None for anywhere, got 4"),
        ({"interpolation": "nearest"}, "'bilinear' or 'bicubic', got 'nearest'"),
        ({"flip": "auto"}, r"for_classes\(names"),
        ({"flip": 1.5}, "flip must be a probability from 0 to 1, got 1.5"),
        ({"flip": True}, "flip must be a probability"),
        ({"jitter": -0.1}, "jitter must be a probability"),
        ({"brightness": -1}, "brightness must be a number of at least 0"),
        ({"hue": 0.6}, "hue must be a number from 0 to 0.5, got 0.6"),
        ({"grayscale": float("nan")}, "grayscale must be a probability"),
        ({"rand_augment": 1.5}, "rand_augment must be an integer"),
        ({"rand_augment_magnitude": 31}, "rand_augment_magnitude must be a number from 0 to 30"),
        ({"erasing_area": (0.5, 0.2)}, "erasing_area must be two ascending shares"),
        ({"fill": (1, 2)}, "fill must be three numbers from 0 to 255"),
    ],
)
def test_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        ClipAugmentation(**numbers)


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
    ],
)
def test_other_frames_are_refused(frames):
    with pytest.raises(ValueError, match=r"Frames must be \(T, 3, H, W\) of torch.uint8, got \("):
        ClipAugmentation()(frames, generator())


@pytest.mark.parametrize(
    "numbers, message",
    [
        ({"num_classes": 0}, "num_classes must be an integer of at least 1, got 0"),
        ({"num_classes": 3, "mixup": -1}, "mixup must be a number of at least 0"),
        ({"num_classes": 3, "switch": 2}, "switch must be a probability"),
        ({"num_classes": 3, "smoothing": 1.1}, "smoothing must be a probability"),
    ],
)
def test_mixing_numbers_out_of_range_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        MixClips(**numbers)


@pytest.mark.parametrize(
    "batch, message",
    [
        (
            {"pixel_values": torch.zeros(2, 3, 8, 8)},
            r"\(B, T, C, H, W\) of floating point or torch.uint8, got \(2, 3, 8, 8\)",
        ),
        ({"pixel_values": torch.zeros(2, 2, 3, 8, 8, dtype=torch.int64)}, "or torch.uint8, got .* of torch.int64"),
        ({"labels": torch.tensor([0, 3])}, "labels must be 0 to 2, got values from 0 to 3"),
        ({"labels": torch.tensor([0, -100])}, "labels must be 0 to 2, got values from -100 to 0"),
        (
            {"labels": torch.tensor([0.0, 1.0])},
            r"class indices \(2,\) or probabilities \(2, 3\), got \(2,\) of torch.float32",
        ),
        ({"labels": torch.zeros(2, 4)}, r"probabilities \(2, 3\), got \(2, 4\)"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"got \(3,\) of torch.int64"),
        ({"labels": torch.full((2, 3), 2.0)}, "probabilities from 0 to 1, got values from 2.0"),
    ],
)
def test_other_batches_are_refused(batch, message):
    good = {"pixel_values": torch.zeros(2, 2, 3, 8, 8), "labels": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=message):
        MixClips(3)({**good, **batch}, generator())

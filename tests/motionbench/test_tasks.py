"""The bench: what its classes do, what single frames know, what splits share, and the files."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformers_ila import read_video
from transformers_ila.data.video_folder import find_videos
from transformers_ila.motionbench.tasks import (
    FPS,
    FRAMES,
    SIZES,
    SPLITS,
    TASKS,
    Scene,
    bench_labels,
    bench_video,
    bench_videos,
    draw_ground,
    write_bench,
)
from transformers_ila.video_writing import write_mp4


def test_a_video_depends_on_its_arguments_alone():
    for label in bench_labels():
        video, _ = bench_video(label, "val", seed=3, index=5)
        assert video.frames.shape == (FRAMES, 32, 32, 3) and video.frames.dtype == np.uint8
        again, _ = bench_video(label, "val", seed=3, index=5)
        assert np.array_equal(video.frames, again.frames)
        others = [("val", 4, 5), ("val", 3, 6), ("test", 3, 5)]
        for split, seed, index in others:
            other, _ = bench_video(label, split, seed=seed, index=index)
            assert not np.array_equal(video.frames, other.frames)
        assert np.abs(np.diff(video.frames.astype(int), axis=0)).max() > 10  # something happens


def test_labels_and_what_is_refused():
    assert len(bench_labels()) == sum(len(task.classes) for task in TASKS.values()) == len(set(bench_labels()))
    assert bench_labels(["rotation"]) == ["rotation, clockwise", "rotation, counterclockwise"]
    with pytest.raises(ValueError, match="Tasks are direction, .*; got 'dancing'"):
        bench_labels(["dancing"])
    for label, split in (("rotation, up", "train"), ("rotation, clockwise", "dev")):
        with pytest.raises(ValueError, match="There is no class"):
            bench_video(label, split, seed=0, index=0)


def sprite(label, index=0, number=-1):
    return bench_video(label, "train", seed=0, index=index)[1].sprites[number].states


@pytest.mark.parametrize("index", range(5))
def test_classes_do_what_they_are_called(index):
    for task, (way, (x, y)) in itertools.product(
        ("direction", "variable rate"), {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.items()
    ):
        steps = np.diff(sprite(f"{task}, {way}", index), axis=0)
        assert (np.sign(steps[:, :2].round(9)) == (x, y)).all() and not steps[:, 2:].any()
    assert (np.diff(sprite("rotation, clockwise", index)[:, 3]) > 0).all()  # clockwise on the screen: y points down
    assert (np.diff(sprite("scale, approaching", index)[:, 2]) > 0).all()
    for way, axis, sign in (("left", 0, -1), ("down", 1, 1)):
        _, scene = bench_video(f"relative, {way}", "train", seed=0, index=index)
        apart = np.diff(scene.sprites[1].states - scene.sprites[0].states, axis=0)[:, :2]
        assert (sign * apart[:, axis] > 0.04).all() and np.allclose(apart[:, 1 - axis], 0)
        _, scene = bench_video(f"over ground, {way}", "train", seed=0, index=index)
        apart = np.diff(scene.sprites[0].states[:, :2] - scene.pan, axis=0)
        assert (sign * apart[:, axis] > 0.02).all() and np.allclose(apart[:, 1 - axis], 0)
    for kind, turns in (("goes on", False), ("turns back", True)):
        steps = np.diff(sprite(f"occlusion, {kind}", index, 0)[:, 0])
        assert (np.sign(steps).min() != np.sign(steps).max()) == turns
    speeds = [
        np.hypot(*np.diff(sprite(f"speed, {kind}", index), axis=0)[0, :2]) for kind in ("slow", "medium", "fast")
    ]
    assert speeds[0] < 0.03 < speeds[1] < 0.08 < speeds[2]


def test_the_order_of_events():
    for index in range(8):
        _, scene = bench_video("order, disc first", "train", seed=0, index=index)
        disc, square = (sprite.light > 0.5 for sprite in scene.sprites)
        assert np.array_equal(np.roll(disc, 2)[2:], square[2:]) and disc.sum() == 4 and not (disc & square).any()


@pytest.mark.parametrize("task", TASKS)
def test_splits_share_no_hue(task):
    hues = {}
    for split in SPLITS:
        sprites = [sprite for _, scene in bench_videos(split, per_class=12, tasks=[task]) for sprite in scene.sprites]
        colours = np.array([sprite.colour for sprite in sprites])
        colours = colours[colours.max(1) > colours.min(1)]  # the bar that hides sprites is grey
        high, low = colours.max(1), colours.min(1)
        red, green, blue = (colours.T - low) / (high - low)
        hue = np.select(
            [colours.argmax(1) == 0, colours.argmax(1) == 1], [(green - blue) % 6, blue - red + 2], red - green + 4
        )
        hues[split] = set((hue * 2).astype(int))
    assert not (hues["train"] & hues["val"] or hues["train"] & hues["test"] or hues["val"] & hues["test"])


def test_splits_share_no_waves():
    """Cycles per picture, along both axes, of the ground textures."""
    found = {}
    for split in SPLITS:
        scene = Scene([], textured=True)
        grounds = [draw_ground(scene, split, np.random.default_rng(seed), side=32)[0] for seed in range(40)]
        pictures = np.stack(grounds).mean(-1)
        spectrum = np.abs(np.fft.rfft2(pictures - pictures.mean((1, 2), keepdims=True))).max(0)
        down, across = np.nonzero(spectrum > 1e-6 * spectrum.max())
        found[split] = {int(min(cycles, 32 - cycles)) for cycles in (*down, *across)}
    assert all(len(cycles) == 2 for cycles in found.values()) and len(set.union(*found.values())) == 6, found


def test_files(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "minute", {"train": 2, "val": 1, "test": 1, "side": 32})
    tasks = ["variable rate", "rotation"]
    folders = write_bench(tmp_path, tasks=tasks)
    labels, videos = find_videos(folders["train"])
    assert labels == bench_labels(tasks) and len(videos) == 12
    expected, scene = bench_video("variable rate, up", "train", seed=0, index=1)
    file = folders["train"] / "variable rate, up" / "00001.mp4"
    frames, metadata = read_video(file, range)
    assert np.abs(frames.astype(float) - expected.frames).mean() < 12
    np.testing.assert_allclose(metadata.timestamps, scene.times, atol=1e-3)
    before = file.stat().st_mtime_ns
    (folders["val"] / "rotation, clockwise" / "00000.mp4").unlink()  # a run that broke off
    write_bench(tmp_path, tasks=tasks)
    assert file.stat().st_mtime_ns == before and (folders["val"] / "rotation, clockwise" / "00000.mp4").is_file()
    with pytest.raises(ValueError, match="holds another bench"):
        write_bench(tmp_path, tasks=tasks, seed=1)
    with pytest.raises(ValueError, match="`size` must be one of tiny, minute, hour, night"):
        write_bench(tmp_path / "other", size="week")


def test_longer_files(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "minute", {"train": 1, "val": 1, "test": 1, "side": 32})
    folders = write_bench(tmp_path, tasks=["rotation"], num_frames=FRAMES + 8)
    frames, _ = read_video(folders["test"] / "rotation, clockwise" / "00000.mp4", range)
    assert len(frames) == FRAMES + 8
    with pytest.raises(ValueError, match="holds another bench"):
        write_bench(tmp_path, tasks=["rotation"])


@pytest.mark.slow
@pytest.mark.proof
def test_single_frames_carry_no_label(tmp_path):
    """A convolutional classifier of single frames stays at chance within every task on held-out videos.

    Of frames as they are decoded: what moves leaves traces of its compression, which must not tell either.
    """
    torch.manual_seed(0)
    labels = bench_labels()
    tasks = [label.partition(", ")[0] for label in labels]

    def frames(split, per_class, per_video):
        rng = np.random.default_rng(0)
        pictures, targets = [], []
        for video, scene in bench_videos(split, per_class=per_class):
            write_mp4(tmp_path / "video.mp4", video.frames, fps=FPS, times=scene.times)
            decoded, _ = read_video(tmp_path / "video.mp4", range)
            for frame in rng.choice(FRAMES, per_video, replace=False):
                pictures.append(decoded[frame])
                targets.append(labels.index(video.label))
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255 - 0.4, torch.tensor(targets)

    inputs, targets = frames("train", 75, 4)
    held_out, truth = frames("test", 60, 2)
    model = nn.Sequential(
        *(nn.Conv2d(3, 24, 5, 2, 2), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.BatchNorm2d(48)),
        *(nn.ReLU(), nn.Conv2d(48, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten()),
        nn.Linear(64, len(labels)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(6):
        for batch in torch.randperm(len(inputs)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = model(held_out)
    found_task = np.array(tasks)[logits.argmax(-1).numpy()] == np.array(tasks)[truth.numpy()]
    assert found_task.mean() > 0.3  # it has learned to see: which task it is may show
    for task in TASKS:
        own = [index for index, name in enumerate(tasks) if name == task]
        mine = torch.tensor([target in own for target in truth.tolist()])
        right = (torch.tensor(own)[logits[mine][:, own].argmax(-1)] == truth[mine]).double().mean().item()
        chance, videos = 1 / len(own), int(mine.sum()) // 2  # the two frames of a video are no two votes
        assert abs(right - chance) < 3.5 * (chance * (1 - chance) / videos) ** 0.5, (task, right)

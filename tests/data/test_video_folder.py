"""Folders of videos: classes, splits, items, errors."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from transformers_ila import IlaVideoProcessor
from transformers_ila.data.video_folder import VideoFolder, find_videos, hold_out
from transformers_ila.motionbench.tasks import MOTIONS, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    write_folder(root, 48, seed=0)
    (root / ".cache").mkdir()
    (root / "approaching" / "notes.txt").write_text("no video")
    return root


def test_classes_are_the_sub_folders(folder):
    labels, samples = find_videos(folder)
    assert labels == sorted(MOTIONS) and len(samples) == 48
    assert all(path.parent.name == labels[label] for path, label in samples)


def test_every_fifth_video_of_a_class_is_held_out(folder):
    labels, samples = find_videos(folder)
    training, evaluation = hold_out(samples)
    assert len(evaluation) == 8 and {label for _, label in evaluation} == set(range(8))
    assert sorted(training + evaluation) == sorted(samples)


def test_one_of_every_class_of_two_is_held_out(caplog):
    counts = {0: 11, 1: 5, 2: 4, 3: 2, 4: 1}
    samples = [(Path(f"{i}.mp4"), label) for label, count in counts.items() for i in range(count)]
    training, evaluation = hold_out(samples)
    assert Counter(label for _, label in evaluation) == {0: 2, 1: 1, 2: 1, 3: 1}
    assert sorted(training + evaluation) == sorted(samples) and evaluation[-1] == (Path("1.mp4"), 3)
    assert "1 classes have one video, which stays in training, so nothing measures them: '4'" in caplog.text
    assert len(hold_out(samples, every=2)[1]) == 5 + 2 + 2 + 1
    of_torch = [(path, torch.tensor(label)) for path, label in samples]  # each is another key of a dictionary
    assert [path for path, _ in hold_out(of_torch)[1]] == [path for path, _ in evaluation]
    for wrong in (0, 1, -1, True, 2.5, None):
        with pytest.raises(ValueError, match="`every` must be a whole number of at least 2, got"):
            hold_out(samples, every=wrong)


def test_items_are_what_the_trainer_takes(folder):
    _, samples = find_videos(folder)
    processor = IlaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    data, kept = VideoFolder(samples, processor), VideoFolder(samples, processor, keep=True)
    assert len(data) == 48 and data[3]["labels"] == samples[3][1]
    assert data[3]["pixel_values"].shape == (4, 3, 32, 32)
    assert torch.equal(data[3]["pixel_values"], kept[3]["pixel_values"])
    assert kept[3]["pixel_values"] is kept[3]["pixel_values"]
    processor.random_frames = True
    for refused in (lambda: VideoFolder(samples, processor, keep=True), lambda: kept[3]):
        with pytest.raises(ValueError, match="keep=True would freeze the frames that random_frames=True draws anew"):
            refused()


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda root: root / "nowhere", "no folder"),
        (lambda root: root, "one sub-folder per class"),
        (lambda root: [(root / name).mkdir() for name in "ab"] and root, "holds no video"),
    ],
)
def test_errors_say_what_is_missing(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        find_videos(make(tmp_path))


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Eight classes to train on, of which three have videos to evaluate on."""
    root = tmp_path_factory.mktemp("splits")
    write_folder(root / "train", 8, seed=0, num_frames=6)
    for name in sorted(MOTIONS)[5:]:
        (root / "val").mkdir(exist_ok=True)
        (root / "val" / name).symlink_to(root / "train" / name)
    return root


def test_a_folder_without_some_classes(splits, caplog):
    names, training = find_videos(splits / "train")
    assert not caplog.records
    own, alone = find_videos(splits / "val")
    assert own == names[5:] and [label for _, label in alone] == [0, 1, 2]
    assert "has classes that" in caplog.text and "by `labels`" in caplog.text  # which is all that can be said of them
    same, held_out = find_videos(splits / "val", labels=names)
    assert same == names and [label for _, label in held_out] == [5, 6, 7]
    with pytest.raises(ValueError, match=f"1 of 3 class folders .*: '{names[7]}'"):
        find_videos(splits / "val", labels=names[:7])
    processor = IlaVideoProcessor(num_frames=4, size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    for samples in (alone, held_out, hold_out(alone)[0], [(str(path), label) for path, label in alone]):
        data = VideoFolder(samples, processor, labels=names)
        assert [label for _, label in data.samples] == [5, 6, 7] and data[0]["labels"] == 5
    data = VideoFolder([(path, names[label]) for path, label in training], processor)
    assert data.samples == training
    with pytest.raises(ValueError, match="two orders of classes: 0 is "):
        VideoFolder(training + alone, processor)
    assert len(VideoFolder(training + alone, processor, labels=names)) == 11
    for label in (True, 1.0, [0, 1], None):
        with pytest.raises(ValueError, match="label"):
            VideoFolder([(training[0][0], label)], processor)

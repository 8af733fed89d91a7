"""Training clips: the same whoever reads them and whenever, and full batches whatever cannot be read."""

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from support.tiny_models import tiny_config
from transformers_ila import IlaVideoProcessor
from transformers_ila.data.annotations import Annotations, Sample, read_annotations
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.training.augmentation import ClipAugmentation, MixClips, MixingCollator
from transformers_ila.training.clips import IGNORE_INDEX, ClipCollator, EpochSampler, EvaluationClips, TrainingClips
from transformers_ila.training.unreadable import REPORT, UnreadableVideos, merged
from transformers_ila.video_writing import write_mp4


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_folder(folder, 16, seed=0, num_frames=8)
    return folder


@pytest.fixture(scope="module")
def processor():
    return IlaVideoProcessor.for_model(tiny_config())


def training_clips(source, processor, **options):
    return TrainingClips(read_annotations(source), processor, augment=ClipAugmentation(size=28), **options)


@pytest.fixture
def broken(videos, tmp_path):
    """A list with two missing and one damaged video among eight."""
    paths = sorted(videos.rglob("*.mp4"))
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    lines = [f"{path} {index % 2}" for index, path in enumerate(paths[:5])]
    lines += ["missing_a.mp4 0", "missing_b.mp4 1", "damaged.mp4 1"]
    for path in paths[:5]:
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "list.txt").write_text("\n".join(line.rsplit("/", 1)[-1] for line in lines) + "\n")
    return tmp_path / "list.txt"


def batches(clips, epoch, *, workers=0, order=None, **options):
    order = order or EpochSampler(clips, seed=1, batch=4)
    loader = DataLoader(clips, 4, sampler=order, num_workers=workers, collate_fn=ClipCollator(), **options)
    order.set_epoch(epoch)
    return list(loader)


def equal(some, others):
    return len(some) == len(others) and all(
        torch.equal(a["pixel_values"], b["pixel_values"]) and torch.equal(a["labels"], b["labels"])
        for a, b in zip(some, others)
    )


def test_a_clip_is_what_the_model_takes(videos, processor):
    clips = training_clips(videos, processor)
    item = clips[3]
    assert item["pixel_values"].shape == (4, 3, 28, 28) and item["pixel_values"].dtype == torch.float32
    assert item["labels"] == clips.samples[3].labels[0] and item.keys() == {"pixel_values", "labels", "clip_seed"}


def test_a_clip_depends_on_seed_epoch_and_index_alone(videos, processor):
    clips, again = training_clips(videos, processor), training_clips(videos, processor)
    torch.manual_seed(0)
    first = clips[3]["pixel_values"]
    torch.manual_seed(1)
    again[7]
    assert torch.equal(first, again[3]["pixel_values"])
    again.set_epoch(1)
    assert again.epoch == 1 and not torch.equal(first, again[3]["pixel_values"])
    assert not torch.equal(first, training_clips(videos, processor, seed=1)[3]["pixel_values"])


def test_reading_does_not_move_the_global_generator(videos, processor):
    state = torch.get_rng_state()
    training_clips(videos, processor)[0]
    assert torch.equal(state, torch.get_rng_state())


def test_workers_read_what_one_process_reads_in_every_epoch(videos, processor):
    clips = training_clips(videos, processor)
    alone = [batches(clips, epoch) for epoch in (0, 1)]
    order = EpochSampler(clips, seed=1, batch=4)
    options = {"collate_fn": ClipCollator(), "num_workers": 2, "persistent_workers": True}
    loader = DataLoader(clips, 4, sampler=order, **options)
    for epoch in (0, 1):
        order.set_epoch(epoch)
        assert equal(list(loader), alone[epoch])  # the workers of epoch 0 know of epoch 1
    assert not equal(*alone)


def test_orders_are_permutations_of_whole_global_batches():
    order = EpochSampler(range(10), seed=0, batch=4)
    first, again = list(order), list(order)
    assert len(order) == 8 == len(set(first)) and first == again
    order.set_epoch(1)
    assert list(order) != first
    with pytest.raises(ValueError, match="3 videos are fewer than one global batch of 4"):
        EpochSampler(range(3), seed=0, batch=4)


def test_what_cannot_be_read_is_replaced_the_same_way_by_everyone(broken, processor):
    clips = training_clips(broken, processor, warn=False)
    alone = batches(clips, 0)
    assert sum(len(batch["labels"]) for batch in alone) == 8
    names = {name for batch in alone for name, _ in batch.get("unreadable", [])}
    assert names == {"missing_a.mp4", "missing_b.mp4", "damaged.mp4"}
    with_workers = batches(clips, 0, workers=2)
    assert equal(alone, with_workers)
    assert [batch.get("unreadable") for batch in alone] == [batch.get("unreadable") for batch in with_workers]


def test_a_replacement_brings_its_own_label_and_reason(broken, processor):
    clips = training_clips(broken, processor, warn=False)
    item = clips[7]
    assert item["unreadable"][0][0] == "damaged.mp4" and item["unreadable"][0][1]
    assert item["labels"] in (0, 1) and item["clip_seed"] != clips[0]["clip_seed"]


def test_each_bad_video_is_logged_once(broken, processor, monkeypatch):
    told = []
    monkeypatch.setattr("transformers_ila.training.clips.logger", SimpleNamespace(warning=told.append))
    clips = training_clips(broken, processor)
    for _ in range(2):
        for index in range(8):
            clips[index]
    assert sorted(line.split("'")[1] for line in told) == ["damaged.mp4", "missing_a.mp4", "missing_b.mp4"]


def test_replacements_are_bounded(tmp_path, processor):
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\n")
    clips = training_clips(tmp_path / "list.txt", processor, max_replacements=3, warn=False)
    with pytest.raises(RuntimeError, match="'a.mp4' .*and 3 others"):
        clips[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"augment": ClipAugmentation(size=24)}, "augment.size"), ({"max_replacements": -1}, "max_replacements")],
)
def test_arguments_that_do_not_fit_are_refused(videos, processor, options, message):
    with pytest.raises(ValueError, match=message):
        TrainingClips(read_annotations(videos), processor, **{"augment": ClipAugmentation(size=28), **options})


def test_only_a_part_of_a_longer_file_is_read(processor, tmp_path):
    levels = np.repeat(np.arange(0, 240, 8, dtype=np.uint8), 32 * 32 * 3).reshape(30, 32, 32, 3)
    write_mp4(tmp_path / "long.mp4", levels, fps=10)
    seconds = [
        Sample(str(tmp_path / "long.mp4"), (0,), f"{start}", start, end) for start, end in ((0, 1.0), (2.0, None))
    ]
    annotations = Annotations(seconds, ["a", "b"], False, "list", "long")
    plain = ClipAugmentation(size=28, jitter=0.0, grayscale=0.0)
    training = TrainingClips(annotations, processor, augment=plain, normalise=False)
    for clips in (training, EvaluationClips(annotations, processor, normalise=False)):
        early, late = (clips[index]["pixel_values"].float().mean((1, 2, 3)) for index in (0, 1))
        assert early.max() < 80 and late.min() > 150 and early.diff().min() > 0
    assert training.frame_rate() == pytest.approx(EvaluationClips(annotations, processor).frame_rate())


def test_several_labels_become_a_vector(videos, processor, tmp_path):
    path = next(videos.rglob("*.mp4"))
    (tmp_path / "v.mp4").symlink_to(path)
    (tmp_path / "list.txt").write_text("v.mp4 0 2\n")
    several = {"labels": ["a", "b", "c"], "multi_label": True}
    annotations = read_annotations(tmp_path / "list.txt", **several)
    clips = TrainingClips(annotations, processor, augment=ClipAugmentation(size=28))
    assert clips[0]["labels"].tolist() == [1.0, 0.0, 1.0]
    path.rename(path.with_suffix(".away"))
    assert EvaluationClips(annotations, processor)[0]["labels"].tolist() == [IGNORE_INDEX] * 3
    path.with_suffix(".away").rename(path)
    with pytest.raises(ValueError, match="several labels need class names"):
        TrainingClips(
            read_annotations(tmp_path / "list.txt", multi_label=True), processor, augment=ClipAugmentation(size=28)
        )


def test_evaluation_draws_no_frames(videos, processor):
    random = IlaVideoProcessor.for_model(tiny_config(), random_frames=True)
    some, other = (EvaluationClips(read_annotations(videos), which) for which in (processor, random))
    assert all(torch.equal(some[i]["pixel_values"], other[i]["pixel_values"]) for i in range(4))


def test_videos_in_shards(videos, processor, tmp_path):
    direct = training_clips(videos, processor)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for index, sample in enumerate(direct.samples[:4]):
            for name, content in ((f"{index}.mp4", Path(sample.video).read_bytes()), (f"{index}.cls", b"1")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    clips = training_clips(tmp_path / "a.tar", processor)
    assert torch.equal(clips[0]["pixel_values"], direct[0]["pixel_values"]) and clips[0]["labels"] == 1


def test_mixing_sees_seeds_and_no_reports(broken, processor):
    clips = training_clips(broken, processor, warn=False)
    batch = ClipCollator(MixingCollator(MixClips(2)))([clips[index] for index in (0, 1, 6, 7)])
    assert batch["labels"].shape == (4, 2) and {name for name, _ in batch["unreadable"]} >= {"missing_b.mp4"}
    assert batch.keys() == {"pixel_values", "labels", "unreadable"}


def test_evaluation_replaces_nothing(broken, processor):
    clips = EvaluationClips(read_annotations(broken), processor)
    assert clips[0]["labels"] == 0 and clips[7]["labels"] == IGNORE_INDEX
    assert clips[7]["pixel_values"].shape == clips[0]["pixel_values"].shape
    whole = EvaluationClips(read_annotations(broken), processor, normalise=False)
    assert whole[7]["pixel_values"].dtype == whole[0]["pixel_values"].dtype == torch.uint8


def test_frames_stay_bytes_where_the_trainer_normalises(videos, processor):
    floats, whole = (training_clips(videos, processor, normalise=normalise)[3] for normalise in (True, False))
    assert whole["pixel_values"].dtype == torch.uint8 and whole["pixel_values"].shape == (4, 3, 28, 28)
    assert torch.equal(processor.normalize_on("cpu", whole["pixel_values"]), floats["pixel_values"])


# -- the count of all ranks ------------------------------------------------------------------------------------------


def test_few_readings_tell_no_share_and_many_do():
    count = UnreadableVideos(0.1, videos=100)
    count.count(4, [("a", "gone")])
    count.agree(None, torch.device("cpu"))  # a fifth, but of five
    count.count(95, [("a", "gone")] * 8)
    count.agree(None, torch.device("cpu"))
    count.count(1, [("b", "gone")] * 4)
    with pytest.raises(RuntimeError, match=r"13 of 113 readings failed, 11.5%.*'a': gone"):
        count.agree(None, torch.device("cpu"))


def test_an_error_stops_with_its_own_words():
    with pytest.raises(RuntimeError, match="no replacement"):
        UnreadableVideos(1.0, videos=4).agree("no replacement", torch.device("cpu"))


def test_the_report_goes_on_after_resuming(tmp_path):
    first = UnreadableVideos(1.0, videos=4)
    first.count(4, [("a", "gone")])
    assert first.write(tmp_path) == 1
    second = UnreadableVideos(1.0, videos=4)
    args = SimpleNamespace(output_dir=tmp_path)
    second.on_train_begin(args, SimpleNamespace(global_step=3, is_world_process_zero=True), None)
    second.count(4, [("b", "broken"), ("a", "gone")])
    assert second.write(tmp_path) == 2
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["videos"] == {"a": "gone", "b": "broken"}
    assert (report["readings"], report["failures"]) == (11, 3)


def test_the_share_is_that_of_the_whole_run(tmp_path):
    first = UnreadableVideos(0.1, videos=100)
    first.count(85, [("a", "gone")] * 9)
    first.agree(None, torch.device("cpu"))  # too few to tell
    first.write(tmp_path)
    second = UnreadableVideos(0.1, videos=100)
    args = SimpleNamespace(output_dir=tmp_path)
    second.on_train_begin(args, SimpleNamespace(global_step=3, is_world_process_zero=True), None)
    second.count(4, [("b", "gone")] * 3)
    with pytest.raises(RuntimeError, match="12 of 101 readings failed"):
        second.agree(None, torch.device("cpu"))
    second.write(tmp_path, stopped="too many")
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["per_rank"] == [{"rank": 0, "readings": 101, "failures": 12}] and report["stopped"] == "too many"


def test_earlier_ranks_stay_in_the_report():
    before = merged([{"rank": rank, "readings": 5, "failures": rank, "videos": {}} for rank in range(3)], {})
    report = merged([{"rank": 0, "readings": 2, "failures": 1, "videos": {}}], before)
    assert [(rank["rank"], rank["readings"], rank["failures"]) for rank in report["per_rank"]] == [
        (0, 7, 1),
        (1, 5, 1),
        (2, 5, 2),
    ]
    assert report["readings"] == 17 and report["failures"] == 4


def test_a_new_run_begins_a_new_report(tmp_path):
    (tmp_path / REPORT).write_text(json.dumps({"videos": {"old": "gone"}, "readings": 9, "failures": 9}))
    count = UnreadableVideos(1.0, videos=4)
    args = SimpleNamespace(output_dir=tmp_path)
    count.on_train_begin(args, SimpleNamespace(global_step=0, is_world_process_zero=True), None)
    assert count.write(tmp_path) == 0 and json.loads((tmp_path / REPORT).read_text())["videos"] == {}


def test_reports_of_ranks_are_merged():
    ranks = [
        {"rank": 0, "readings": 5, "failures": 1, "videos": {"a": "gone"}},
        {"rank": 1, "readings": 6, "failures": 2, "videos": {"a": "gone", "b": "broken"}},
    ]
    report = merged(ranks, {})
    assert report["unreadable"] == 2 and report["readings"] == 11
    assert [rank["failures"] for rank in report["per_rank"]] == [1, 2]

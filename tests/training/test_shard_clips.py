"""Clips streamed from shards: each video once an epoch, full batches on every rank, the same after resuming."""

import io
import tarfile
from pathlib import Path

import datasets
import fsspec
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import set_seed

from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.data.annotations import read_annotations
from transformers_ila.data.class_indices import name_of
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.training.arguments import IlaTrainingArguments
from transformers_ila.training.augmentation import ClipAugmentation
from transformers_ila.training.clips import ClipCollator, TrainingClips
from transformers_ila.training.shard_clips import RowClips, ShardClips
from transformers_ila.training.trainer import IlaTrainer


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """16 videos in four shards, one of them damaged."""
    folder = tmp_path_factory.mktemp("shards")
    paths = write_folder(folder / "videos", 16, seed=0, num_frames=6)
    for shard in range(4):
        with tarfile.open(folder / f"train-{shard:03}.tar", "w") as tar:
            for index in range(4 * shard, 4 * shard + 4):
                content = b"damaged" if index == 5 else Path(paths[index]).read_bytes()
                for name, data in ((f"{index:03}.mp4", content), (f"{index:03}.cls", str(index % 8).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


def streamed(shards, **options):
    processor = IlaVideoProcessor.for_model(tiny_config())
    given = {"videos": 16, "batch": 2, "buffer": 3, "augment": ClipAugmentation(size=28)}
    data = ShardClips(f"{shards}/train-{{000..003}}.tar", processor, **{**given, **options})
    data.warn = False
    return data


def seeds(data, workers=0):
    batches = list(DataLoader(data, 2, num_workers=workers, collate_fn=list))
    assert all(len(batch) == 2 for batch in batches)
    return [item["clip_seed"] for batch in batches for item in batch]


def test_a_stream_tells_its_frame_rate_and_is_read_from_its_beginning_after_that(shards):
    data = streamed(shards)
    expected = TrainingClips(read_annotations(f"{shards}/videos"), data.clips.processor, augment=data.clips.augment)
    assert data.frame_rate() == expected.frame_rate() > 0
    assert seeds(data) == seeds(streamed(shards))


def test_an_epoch_has_whole_batches_and_its_own_order(shards):
    data = streamed(shards)
    first = seeds(data)
    assert len(data) == len(first) == 16 and first == seeds(data)
    assert len(set(first)) == 15  # one is damaged, and another one comes a second time
    data.set_epoch(1)
    assert set(seeds(data)).isdisjoint(first)


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_read_shards_of_their_own(shards, workers):
    found = []
    for rank in range(2):
        data = streamed(shards)
        data.rank, data.ranks = rank, 2
        found.append(seeds(data, workers))
    assert [len(part) for part in found] == [8, 8] and set(found[0]).isdisjoint(found[1])


def test_what_cannot_be_read_is_reported_and_bounded(shards, tmp_path):
    items = list(streamed(shards))
    assert {name for item in items for name, _ in item.get("unreadable", [])} <= {"005"}
    with tarfile.open(tmp_path / "train-000.tar", "w") as tar:
        for name, data in (("a.mp4", b"damaged"), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    processor = IlaVideoProcessor.for_model(tiny_config())
    augment = ClipAugmentation(size=28)
    bad = ShardClips(
        tmp_path / "train-000.tar", processor, augment=augment, videos=4, batch=2, max_replacements=2, buffer=1
    )
    with pytest.raises(RuntimeError, match="3 in a row"):
        list(bad)


def test_too_few_shards_and_bad_numbers_are_refused(shards):
    data = streamed(shards)
    data.ranks = 5
    with pytest.raises(ValueError, match="4 shards are too few for 5 ranks with 1 workers"):
        list(data)
    for name in ("videos", "batch", "buffer"):
        with pytest.raises(ValueError, match=f"`{name}` must be 1 or more"):
            streamed(shards, **{name: 0})


def run(shards, folder, steps, **options):
    set_seed(0)
    fields = {"max_steps": steps, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 2}
    fields |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "warmup_steps": 1}
    model = IlaForVideoClassification(tiny_config(classification_head="linear", num_labels=8))
    args = IlaTrainingArguments(str(folder), learning_rate=1e-3, **fields)
    trainer = IlaTrainer(model=model, args=args, train_dataset=streamed(shards))
    trainer.train(**options)
    return trainer


def test_shards_at_an_address_give_the_same_clips(shards):
    files = fsspec.filesystem("memory")
    for shard in shards.glob("*.tar"):
        files.pipe_file(f"/clips/{shard.name}", shard.read_bytes())
    data = streamed(shards)
    here, data.source = seeds(data), data.checked("memory://clips/train-{000..003}.tar")
    assert seeds(data) == here and data.source[0].startswith("memory://")


def test_training_on_a_stream_resumes_exactly(shards, tmp_path):
    whole = run(shards, tmp_path / "whole", 12)
    assert whole.state.epoch == 1.5 and whole.train_dataset.clips.epoch == 1
    again = run(shards, tmp_path / "whole", 12, resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-9"))
    other = [n for n, value in whole.model.state_dict().items() if not torch.equal(value, again.model.state_dict()[n])]
    assert not other


def test_a_batch_of_another_size_is_refused(shards, tmp_path):
    model = IlaForVideoClassification(tiny_config(classification_head="linear", num_labels=8))
    args = IlaTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, per_device_train_batch_size=4)
    with pytest.raises(ValueError, match="`batch` is 2, `per_device_train_batch_size` 4"):
        IlaTrainer(model=model, args=args, train_dataset=streamed(shards)).get_train_dataloader()


def test_the_collator_takes_them(shards):
    batch = next(iter(DataLoader(streamed(shards), 2, collate_fn=ClipCollator())))
    assert batch["pixel_values"].shape == (2, 4, 3, 28, 28) and batch["labels"].shape == (2,)


# -- a streaming data set --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(shards):
    def read(files):
        for file in files:
            with tarfile.open(file) as tar:
                for member in tar:
                    if member.name.endswith(".mp4"):
                        content = tar.extractfile(member).read()
                        yield {"video": {"path": None, "bytes": content}, "label": int(member.name[:3]) % 8}

    features = datasets.Features({"video": datasets.Video(decode=False), "label": datasets.Value("int64")})
    files = {"files": [str(file) for file in sorted(shards.glob("*.tar"))]}
    return datasets.IterableDataset.from_generator(read, gen_kwargs=files, features=features)


def row_clips(rows, **options):
    processor = IlaVideoProcessor.for_model(tiny_config())
    given = {"videos": 16, "batch": 2, "buffer": 3, "augment": ClipAugmentation(size=28)}
    data = RowClips(rows, processor, **{**given, **options})
    data.warn = False
    return data


def test_a_streaming_data_set(rows):
    data = row_clips(rows)
    first = seeds(data)
    assert len(first) == 16 and first == seeds(data) and sorted(seeds(row_clips(rows), workers=2)) != []
    batch = next(iter(DataLoader(data, 2, collate_fn=ClipCollator())))
    assert batch["pixel_values"].shape == (2, 4, 3, 28, 28) and batch["labels"].dtype == torch.int64
    assert next(iter(row_clips(rows, normalise=False)))["pixel_values"].dtype == torch.uint8


def test_ranks_share_a_streaming_data_set(rows):
    """`split_dataset_by_node`: no video is in two parts, and both have as many batches."""
    parts = []
    for rank in range(2):
        data = row_clips(rows)
        data.rank, data.ranks = rank, 2
        parts.append([item["pixel_values"].sum().item() for item in data])
    assert len(parts[0]) == len(parts[1]) == 8
    assert not set(parts[0]) & set(parts[1])


def test_columns_that_are_not_there(rows):
    with pytest.raises(ValueError, match="has the columns video, label, and not clip"):
        row_clips(rows, video="clip")


@pytest.mark.parametrize("source", ["shards", "rows", "named rows"])
def test_streams_have_the_model_s_indices(shards, rows, source, caplog):
    """The stream counts from the last class; the model has one class more in front."""
    names = [f"class {index}" for index in range(8)]
    own, model = names[::-1], ["new", *names]
    if source == "shards":
        data = streamed(shards, labels=own)
    elif source == "rows":
        data = row_clips(rows, labels=own)
    else:
        data = row_clips(rows.cast_column("label", datasets.ClassLabel(names=own)), labels=names)
    before = [item["labels"] for item in data]
    assert [name_of(label) for label in before] == [
        names[7 - int(label)] if source != "named rows" else names[int(label)] for label in before
    ]
    data.join(model)
    assert [item["labels"] for item in data] == [model.index(name_of(label)) for label in before]
    data.join(names[:3])
    with pytest.raises(ValueError, match="none of the 3 class names"):
        list(data)
    assert not caplog.records
    bare = streamed(shards)
    bare.join(names)
    found = [item["labels"] for item in bare]
    assert found and [name_of(label) for label in found] == [names[label] for label in found]
    assert len(caplog.records) <= 1  # once in a process

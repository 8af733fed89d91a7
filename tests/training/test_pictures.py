"""Pictures in TensorBoard: what is shown, that training does not notice, and what cannot be shown."""

import io
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import Dataset, IterableDataset
from transformers import set_seed
from transformers.integrations import TensorBoardCallback

from support.figures import words_of
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.motionbench.tasks import MOTIONS
from transformers_ila.training import pictures
from transformers_ila.training.arguments import IlaTrainingArguments
from transformers_ila.training.augmentation import ClipAugmentation
from transformers_ila.training.clips import EvaluationClips, TrainingClips
from transformers_ila.training.pictures import class_of_each, spread_over_classes
from transformers_ila.training.trainer import (
    IlaTrainer,
    class_logits,
    multi_label_metrics,
    top5_indices,
    top_accuracies,
)


NAMES = sorted(MOTIONS)


def tiny_model(**fields):
    set_seed(0)
    names = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
    return IlaForVideoClassification(tiny_config(classification_head="linear", **{**names, **fields}))


def arguments(folder, **fields):
    given = {"tensorboard_pictures": 2, "report_to": "tensorboard", "disable_tqdm": True, "use_cpu": True}
    given |= {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 8, "max_steps": 4, "warmup_steps": 1}
    given |= {"save_strategy": "no", "learning_rate": 1e-2}
    return IlaTrainingArguments(str(folder), **{**given, **fields})


def trainer_for(folder, data, processor, *, model=None, **options):
    fields = options.pop("fields", {})
    given = {"compute_metrics": top_accuracies, "preprocess_logits_for_metrics": top5_indices, **options}
    return IlaTrainer(
        model=tiny_model() if model is None else model,
        args=arguments(folder, **fields),
        eval_dataset=data,
        processing_class=processor,
        **given,
    )


@pytest.fixture
def drawn(monkeypatch):
    """Collect the figures, of one layer each, in place of the pixels, which take most of the time."""
    figures = []

    def kept(figure, dpi):
        figures.append(figure)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(pictures, "pixels_of", kept)
    monkeypatch.setattr(pictures, "LAYERS", 1)
    return figures


class Writer:
    """A SummaryWriter that keeps tags and steps."""

    def __init__(self):
        self.written = []

    def add_image(self, tag, pixels, step, dataformats):
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and dataformats == "HWC"
        self.written.append((tag, step))

    def __getattr__(self, name):
        return lambda *args, **options: None


def with_writer(trainer):
    callback = next(one for one in trainer.callback_handler.callbacks if isinstance(one, TensorBoardCallback))
    callback.tb_writer = Writer()
    return callback.tb_writer


def images_in(folder):
    found = {}
    for file in sorted(folder.rglob("events.out.tfevents*")):
        events = EventAccumulator(str(file), size_guidance={"images": 0})
        events.Reload()
        for tag in events.Tags()["images"]:
            found.setdefault(tag, []).extend(events.Images(tag))
    return found


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_words_and_numbers_of_the_pictures(videos, processor, tmp_path, drawn):
    data = EvaluationClips(videos, processor, normalise=False)
    trainer = trainer_for(tmp_path, data, processor)
    writer = with_writer(trainer)
    trainer.state.global_step = 30
    metrics = trainer.evaluate()
    assert writer.written == [("eval/confusion_matrix", 30), ("eval/clip_1", 30), ("eval/clip_2", 30)]
    matrix, *clips = drawn
    assert f"{round(16 * metrics['eval_top1'])} of 16 videos right" in words_of(matrix)
    assert "eval, step 30" in words_of(matrix)
    for figure, name in zip(clips, (NAMES[0], NAMES[4])):
        with torch.no_grad():
            item = next(data[i] for i, sample in enumerate(data.samples) if NAMES[sample.labels[0]] == name)
            pixels = processor.normalize_on("cpu", item["pixel_values"][None])
            chances = trainer.model.eval()(pixel_values=pixels).logits[0].softmax(-1)
        words = words_of(figure)
        assert f"label: {name} - predicted, " in words
        best = int(chances.argmax())
        assert f"{'right' if NAMES[best] == name else 'wrong'}: {NAMES[best]} ({float(chances[best]):.0%})" in words
        assert "mask" in words and "The label does not hang on the points alone" in words


def test_examples_stay_the_same_and_what_cannot_be_read_is_no_example(videos, processor, tmp_path, drawn, caplog):
    folder = shutil.copytree(videos.samples[0].video.split("/" + videos.samples[0].name)[0], tmp_path / "videos")
    moved = replace(videos, samples=[s._replace(video=str(folder / s.name)) for s in videos.samples])
    (folder / moved.samples[0].name).unlink()  # the first one of its class
    trainer = trainer_for(tmp_path, EvaluationClips(moved, processor, normalise=False), processor)
    writer = with_writer(trainer)
    trainer.evaluate()
    chosen = list(trainer.pictures._examples["eval"])
    assert len(drawn) == 3 and 0 not in chosen
    (folder / moved.samples[chosen[1]].name).write_bytes(b"no video")
    drawn.clear()
    trainer.evaluate()
    assert trainer.pictures._examples["eval"] == chosen
    assert [tag for tag, _ in writer.written[3:]] == ["eval/confusion_matrix", "eval/clip_1"]
    assert "14 videos right" in words_of(drawn[0])
    assert caplog.text.count(f"The example clip {chosen[1]} has no picture") == 1


def test_a_diverged_model_has_no_picture_and_ends_nothing(videos, processor, tmp_path, drawn, caplog):
    trainer = trainer_for(tmp_path, EvaluationClips(videos, processor, normalise=False), processor)
    writer = with_writer(trainer)
    with torch.no_grad():
        trainer.model.vision_model.encoder.layers[0].mlp.fc1.weight.fill_(torch.nan)
    trainer.evaluate()
    assert [tag for tag, _ in writer.written] == ["eval/confusion_matrix"]
    assert "has no picture: " in caplog.text and "finite" in caplog.text


def test_models_without_masks_show_feature_maps(videos, processor, tmp_path, drawn):
    model = tiny_model(temporal_module="divided")
    trainer = trainer_for(
        tmp_path, EvaluationClips(videos, processor), processor, model=model, fields={"jitter_decay_epoch": None}
    )
    with_writer(trainer)
    trainer.evaluate()
    assert "features" in words_of(drawn[1]) and "has no alignment masks" in words_of(drawn[1])


class Several(Dataset):
    """Clips of random pixels; the first shows two classes, the second none, and the last was not read."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        labels = torch.zeros(8, dtype=torch.long)
        labels[{0: [2, 5], 1: [], 2: [7], 3: []}[index]] = 1
        pixels = torch.rand(4, 3, 28, 28, generator=torch.Generator().manual_seed(index))
        return {"pixel_values": pixels, "labels": torch.full((8,), -100) if index == 3 else labels}


def test_several_labels_a_video(processor, tmp_path, drawn, caplog):
    trainer = trainer_for(
        tmp_path,
        {"val": Several(), "test": Several()},
        None,
        model=tiny_model(problem_type="multi_label_classification"),
        compute_metrics=multi_label_metrics,
        preprocess_logits_for_metrics=class_logits,
        fields={"tensorboard_pictures": 5},
    )
    writer = with_writer(trainer)
    trainer.evaluate()
    assert [tag for tag, _ in writer.written] == [
        f"eval/{name}_clip_{n}" for name in ("val", "test") for n in (1, 2, 3)
    ]
    assert caplog.text.count("There is no confusion matrix where a video may have several labels") == 1
    assert caplog.text.count("There are 3 example clips") == 1
    words = [words_of(figure) for figure in drawn[:3]]
    assert "labels: none" in words[0] and f"labels: {NAMES[2]}, {NAMES[5]}" in words[1]


# -- training does not notice ----------------------------------------------------------------------------------------


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_evaluating_changes_nothing(videos, processor, tmp_path, drawn):
    trainer = trainer_for(
        tmp_path, EvaluationClips(videos, processor, normalise=False), processor, fields={"ema_decay": 0.5}
    )
    with_writer(trainer)
    trainer.average.values = {name: value + 0.25 for name, value in trainer.average.values.items()}
    before, hooks = state_of(trainer.model), sum(len(part._forward_hooks) for part in trainer.model.modules())
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist()
    seen = []
    trainer.model.register_forward_pre_hook(lambda module, args: seen.append(module.classifier.weight.clone()))
    trainer.evaluate()
    assert len(seen) == 4 and all(torch.equal(weight, trainer.average.values["classifier.weight"]) for weight in seen)
    assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    assert torch.equal(generators[0], torch.get_rng_state()) and generators[1] == np.random.get_state()[1].tolist()
    assert sum(len(part._forward_hooks) for part in trainer.model.modules()) == hooks


@pytest.mark.slow
def test_a_training_ends_with_the_same_weights(videos, processor, tmp_path):
    """With pictures and without; and the masks jitter, batch norms count and dropout draws meanwhile."""
    ends, some = [], replace(videos, samples=videos.samples[::4])
    for name, count in (("with", 1), ("without", 0)):
        clips = TrainingClips(videos, processor, augment=ClipAugmentation(size=28, flip=0.0), seed=0, normalise=False)
        fields = {"tensorboard_pictures": count, "eval_strategy": "steps", "eval_steps": 2, "ema_decay": 0.5}
        trainer = trainer_for(
            tmp_path / name,
            EvaluationClips(some, processor, normalise=False),
            processor,
            model=tiny_model(classifier_dropout=0.5),
            train_dataset=clips,
            fields=fields,
        )
        trainer.train()
        ends.append(state_of(trainer.model) | {f"average.{n}": value for n, value in trainer.average.values.items()})
        ends[-1]["rng"] = torch.get_rng_state()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    found = images_in(tmp_path / "with")
    assert found.keys() == {"eval/confusion_matrix", "eval/clip_1"}
    for images in found.values():
        assert [image.step for image in images] == [2, 4]
        picture = np.asarray(Image.open(io.BytesIO(images[-1].encoded_image_string)))
        assert picture.shape[2] == 3 and min(picture.shape[:2]) > 200 and picture.std() > 10
    assert not images_in(tmp_path / "without")


# -- what cannot be shown --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"tensorboard_pictures": -1}, "`tensorboard_pictures` must be from 0 to 64"),
        ({"tensorboard_pictures": 65}, "`tensorboard_pictures` must be from 0 to 64"),
        ({"report_to": "none"}, r"is 2 and `report_to` \[\]: set `report_to` to tensorboard"),
        ({"report_to": ["wandb"]}, r"`report_to` \['wandb'\]: set"),
    ],
)
def test_arguments_that_do_not_fit(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **fields)


def test_tensorboard_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.is_tensorboard_available", lambda: False)
    with pytest.raises(ImportError, match=r"pip install 'transformers-ila\[train\]'"):
        arguments(tmp_path)


class Stream(IterableDataset):
    def __iter__(self):
        yield from ()


def by_batches(prediction, compute_result=False):
    return {}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"compute_metrics": None}, "is 2: it needs `compute_metrics`"),
        (
            {"compute_metrics": by_batches, "fields": {"batch_eval_metrics": True}},
            "`batch_eval_metrics` keeps no predictions",
        ),
        ({"fields": {"prediction_loss_only": True}}, "`prediction_loss_only` keeps no predictions"),
        ({"fields": {"eval_do_concat_batches": False}}, "`eval_do_concat_batches` is False"),
        ({"data": {"a": Several(), "b": Stream()}}, "the evaluation data are a stream"),
    ],
)
def test_trainers_that_could_show_nothing(options, message, tmp_path):
    given = {"data": Several(), **options}
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, given.pop("data"), None, **given)


def test_without_the_callback_it_is_said(videos, processor, tmp_path, drawn, caplog):
    trainer = trainer_for(tmp_path, Several(), None, model=tiny_model(problem_type="multi_label_classification"))
    trainer.remove_callback(TensorBoardCallback)
    trainer.pictures.remember(Several(), SimpleNamespace(), "eval")
    trainer.pictures.write(trainer)
    assert "TensorBoardCallback was removed" in caplog.text and not drawn


# -- which clips and numbers -----------------------------------------------------------------------------------------


def test_examples_are_spread_over_the_classes():
    classes = [0] * 5 + [1] * 5 + [None] + [2] * 5
    assert spread_over_classes(classes, 3) == [0, 5, 11] and spread_over_classes(classes, 2) == [0, 5]
    assert spread_over_classes(classes, 5) == [0, 1, 5, 6, 11]
    assert spread_over_classes([None, 3, None, 3], 9) == [1, 3] and spread_over_classes([], 2) == []
    assert spread_over_classes(list(range(400)), 4) == [0, 100, 200, 300]
    assert class_of_each(torch.tensor([3, -100])) == [3, None]
    assert class_of_each(torch.tensor([[0, 1, 1], [0, 0, 0], [-100] * 3])) == [1, -1, None]


def test_what_predictions_are():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
    for predictions in (logits.numpy(), (logits.numpy(), np.zeros(2)), np.array([1, 0]), np.array([[1, 2], [0, 1]])):
        assert pictures._predicted(predictions, 3).tolist() == [1, 0]
    assert pictures._predicted(np.zeros((2, 4)), 3) is None  # no logits of three classes
    assert pictures._predicted(np.array([5, 1]), 3) is None

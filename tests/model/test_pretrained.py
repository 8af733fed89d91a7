"""Weights that are random until trained: said in a line, kept in the configuration, noticed once they are trained."""

import copy
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from transformers import (
    AutoModelForVideoClassification,
    Trainer,
    TrainingArguments,
    ViTForImageClassification,
    ViTMAEForPreTraining,
    pipeline,
)

from support.inputs import pixels
from support.tiny_models import save_clip, save_timesformer, save_vit, tiny_config
from transformers_ila import IlaForVideoClassification, IlaModel, IlaVideoProcessor, IlaVisionModel
from transformers_ila.backbones import (
    AlignedTimesformerForVideoClassification,
    AlignedTimesformerModel,
    FrozenClipForVideoClassification,
)
from transformers_ila.model.loading_ila import checkpoint_names
from transformers_ila.model.pretrained_ila import describe_untrained, is_drawn, sample, warn_of_untrained


LINE = "random until trained"
LABELS = ["walk", "run", "jump"]
TEXT_FREE = {"classification_head": "linear", "num_frames": 4}
PLAIN = {"temporal_module": "none", "mit_num_hidden_layers": 0, "use_video_prompt": False}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    save_clip(root / "clip")
    save_vit(root / "vit")
    save_timesformer(root / "timesformer")
    return root


@pytest.fixture
def from_clip(folders):
    return lambda **options: IlaForVideoClassification.from_pretrained(
        folders / "clip", **{"labels": LABELS, "num_frames": 4, **options}
    )


@pytest.fixture
def transformers_logs(monkeypatch):
    """Let caplog see what transformers logs, too, once: it goes up to the root only where the variable CI is set."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)


def lines(caplog):
    return [record.getMessage() for record in caplog.records if LINE in record.getMessage()]


class Clips(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"pixel_values": pixels(1)[0], "labels": index}


# --- one line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "source", "options"),
    [
        (IlaForVideoClassification, "clip", {"labels": LABELS}),
        (IlaForVideoClassification, "clip", {"labels": LABELS, "num_frames": 6, "image_size": 32}),
        (IlaForVideoClassification, "clip", {"labels": LABELS, **TEXT_FREE}),
        (IlaForVideoClassification, "vit", {"labels": LABELS}),
        (IlaModel, "clip", {}),
        (IlaVisionModel, "clip", {}),
        (FrozenClipForVideoClassification, "clip", {"labels": LABELS}),
        (AlignedTimesformerForVideoClassification, "timesformer", {}),
        (AlignedTimesformerModel, "timesformer", {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_random_is_said_in_a_line_and_stays_in_the_configuration(
    tmp_path, folders, caplog, transformers_logs, kind, source, options
):
    model, info = kind.from_pretrained(folders / source, output_loading_info=True, **options)
    (line,) = lines(caplog)
    assert line.startswith(f"{len(model.untrained())} new tensors, {LINE}: ") and len(line) < 250
    assert "MISSING" not in caplog.text
    # all that differ from one another are random, whatever else is missing are constants and class names
    names, weights = set(model.untrained()), model.state_dict()
    assert names <= info["missing_keys"] and names == set(model.config.untrained_weights)
    for name in info["missing_keys"] - names - {"class_input_ids"}:
        assert len(weights[name].unique()) == 1, name
    model.save_pretrained(tmp_path)
    caplog.clear()
    again = kind.from_pretrained(tmp_path)
    assert lines(caplog) == [line] and again.untrained() == model.untrained()
    again.mark_trained()
    again.save_pretrained(tmp_path)
    caplog.clear()
    assert kind.from_pretrained(tmp_path).config.untrained_weights is None and not lines(caplog)


def test_a_plain_tower_has_nothing_new(from_clip, caplog, transformers_logs):
    model = from_clip(**PLAIN)
    assert not model.untrained() and model.config.untrained_weights is None and not caplog.records


@pytest.mark.parametrize("kind", [ViTForImageClassification, ViTMAEForPreTraining])
def test_what_stands_around_a_tower_is_not_reported(tmp_path, caplog, transformers_logs, kind):
    save_vit(tmp_path, kind)  # with a head, a pooler or a decoder more or less than the tower
    caplog.clear()
    IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS, num_frames=4)
    assert len(lines(caplog)) == 1 and "LOAD REPORT" not in caplog.text


def test_weights_that_every_checkpoint_has_are_reported_by_transformers(
    tmp_path, from_clip, caplog, transformers_logs
):
    model = from_clip()
    model.mark_trained()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("vision_model.encoder.layers.0.mlp.fc1.weight", "mit.position_embedding"):
        del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    caplog.clear()
    loaded, info = AutoModelForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    report = [record.getMessage() for record in caplog.records if "LOAD REPORT" in record.getMessage()]
    assert len(report) == 1 and "fc1.weight" in report[0] and "MISSING" in report[0] and "mit." not in report[0]
    assert set(loaded.untrained()) == info["missing_keys"] and len(info["missing_keys"]) == 2


def test_the_names_travel_between_a_tower_and_the_whole(tmp_path, folders, from_clip):
    from_clip().save_pretrained(tmp_path / "ila")
    tower = IlaVisionModel.from_pretrained(tmp_path / "ila")
    assert tower.untrained() and all(name.startswith("encoder.layers.") for name in tower.untrained())
    whole = AlignedTimesformerForVideoClassification.from_pretrained(folders / "timesformer")
    whole.save_pretrained(tmp_path / "whole")
    assert AlignedTimesformerModel.from_pretrained(tmp_path / "whole").untrained()


def test_names_are_grouped_by_what_is_new():
    names = ["a.layers.0.temporal.x.weight", "a.layers.11.temporal.y", "mit.z.weight", "classifier.weight", "a.scale"]
    line = describe_untrained(names, IlaModel.new_parameters)
    assert line == f"5 new tensors, {LINE}: a.layers.*.temporal (2), mit, classifier, a.scale"
    assert describe_untrained(["classifier.weight"], IlaModel.new_parameters) == f"1 new tensor, {LINE}: classifier"


# --- until trained ---------------------------------------------------------------------------------------------------


def test_a_step_of_any_trainer_is_noticed_also_where_gradients_are_zero(tmp_path, from_clip):
    model = from_clip()
    arguments = TrainingArguments(tmp_path / "run", max_steps=1, report_to=[], save_strategy="no", use_cpu=True)
    trainer = Trainer(model, arguments, train_dataset=Clips())
    assert model.untrained()
    trainer.train()
    weights = dict(model.named_parameters())
    assert any(is_drawn(weights[name], drawn) for name, drawn in model._drawn.items())  # behind layers that start at 0
    assert not model.untrained()
    trainer.save_model(tmp_path)
    assert IlaForVideoClassification.from_pretrained(tmp_path).config.untrained_weights is None


def test_frozen_weights_stay_random(tmp_path, from_clip):
    model = from_clip(**TEXT_FREE)
    model.vision_model.requires_grad_(False)
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert model.untrained() and all(".temporal." in name for name in model.untrained())
    assert model.fuse().is_fused and set(model.fuse().untrained()) <= set(model.untrained())
    model.save_pretrained(tmp_path, state_dict=checkpoint_names(model.state_dict()))
    assert IlaForVideoClassification.from_pretrained(tmp_path).untrained() == model.untrained()


def test_the_weights_that_are_saved_decide(tmp_path, from_clip):
    model, trained = from_clip(), copy.deepcopy(from_clip())
    for weight in trained.parameters():
        weight.data += 1
    model.save_pretrained(tmp_path, state_dict=trained.state_dict())  # as FSDP gathers them
    assert IlaForVideoClassification.from_pretrained(tmp_path).config.untrained_weights is None
    model.load_state_dict(trained.state_dict())
    assert not model.untrained()


def test_casts_copies_and_other_sizes_are_no_training(from_clip):
    model = from_clip()
    names = model.untrained()
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float16, torch.bfloat16):
        assert model.to(dtype).untrained() == names
    model.resize_positions(num_frames=6, image_size=32)
    assert model.untrained() == names and copy.deepcopy(model).untrained() == names
    model.freeze_vision_model()
    model.train().eval()(pixels(frames=6, size=32).to(model.dtype))
    model.set_labels(["zumba", "abseiling"])
    assert model.untrained() == names


def test_a_head_that_starts_anew_is_random_again(from_clip):
    model = from_clip(**TEXT_FREE)
    names = model.untrained()
    model.set_labels(LABELS[::-1])  # rows change places
    assert model.untrained() == names
    model.mark_trained()
    model.set_labels(LABELS)
    assert not model.untrained()
    model.set_labels(["zumba", *LABELS], ignore_mismatched_sizes=True)
    assert model.untrained() == model.config.untrained_weights == ["classifier.weight"]


def test_random_text_features_are_random_until_set(from_clip):
    model = from_clip(class_features="embeddings")
    model.set_labels(LABELS[::-1])
    assert "class_embeds" in model.untrained()
    model.set_class_embeddings(torch.randn(3, model.config.projection_dim), LABELS)
    assert "class_embeds" not in model.untrained() and "mit.position_embedding" in model.untrained()


def test_adapters_that_hold_the_new_weights(tmp_path, folders, from_clip, caplog, transformers_logs):
    peft = pytest.importorskip("peft")
    from transformers_ila.training.adapters import load_adapter, lora_config

    model = from_clip()
    names = set(model.untrained())
    adapted = peft.get_peft_model(model, lora_config(model))
    assert set(model.untrained()) == names  # of modules that were copied to be trained
    adapted.save_pretrained(tmp_path / "random")
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    assert not model.untrained()
    adapted.save_pretrained(tmp_path / "trained")
    caplog.clear()
    assert not load_adapter(tmp_path / "trained").merge_and_unload().untrained() and not lines(caplog)
    assert load_adapter(tmp_path / "random").merge_and_unload().untrained() and len(lines(caplog)) == 1


def test_weights_that_cannot_be_read_stay_named(from_clip):
    model = from_clip()
    model.remember_untrained([*model.untrained(), "mit.layernorm.weight"])
    names = model.untrained()
    assert model.to("meta").untrained() == names and sample(model.mit.position_embedding) is None


def test_who_asks_the_model_is_warned(caplog, transformers_logs, from_clip):
    model = from_clip()
    caplog.clear()
    model(pixels())
    warn_of_untrained(IlaForVideoClassification(tiny_config()))
    warn_of_untrained(torch.nn.Linear(2, 2))
    assert not lines(caplog)
    warn_of_untrained(model)
    assert len(lines(caplog)) == 1 and "random in part" in lines(caplog)[0]
    processor = IlaVideoProcessor.for_model(model.config)
    for _ in range(2):
        caplog.clear()
        pipeline("video-classification", model=model, video_processor=processor)
        assert len(lines(caplog)) == len(model.untrained()[:1])
        model.mark_trained()

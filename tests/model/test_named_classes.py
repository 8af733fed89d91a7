"""Names come in by many doors; what a class has learned stays with its name, for every head of ours."""

import copy
import json
import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn
from transformers import AutoModelForVideoClassification

from support.inputs import CLOSE, pixels, randomised
from support.tiny_models import TINY_ILA, TINY_VISION, save_clip, tiny_config
from transformers_ila import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
    FrozenClipConfig,
    FrozenClipForVideoClassification,
    IlaForVideoClassification,
    IlaModel,
)
from transformers_ila.model.class_features_ila import tokenize_labels
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.training.inputs import model_of
from transformers_ila.training.recipes import RecipeArguments


LABELS, OTHER_ORDER = ["walk", "run", "sit"], ["sit", "walk", "run"]
FROZEN = {"projection_dim": 32, "decoder_num_layers": 1}


def kinds(**fields):
    """One small model of each head with three classes."""
    fields = fields or {"num_labels": 3}
    text = tiny_config(**fields)
    embedded = IlaForVideoClassification(tiny_config(class_features="embeddings", **fields))
    vision = {**TINY_VISION, "num_frames": 4, "alignment_hidden_size": 8}
    return {
        "linear": IlaForVideoClassification(tiny_config(classification_head="linear", **fields)),
        "frozen": FrozenClipForVideoClassification(FrozenClipConfig(vision_config=vision, **FROZEN, **fields)),
        "timesformer": AlignedTimesformerForVideoClassification(AlignedTimesformerConfig(**vision, **fields)),
        "embeddings": embedded,
        "merged": IlaForVideoClassification(text).merge_text_tower(),
    }


def scores(model):
    """The logits of each class by its name."""
    logits = model.eval()(pixels()).logits
    assert logits.shape[1] == model.config.num_labels == model.num_labels
    assert model.config.label2id == {name: index for index, name in model.config.id2label.items()}
    return {name: logits[:, index] for index, name in enumerate(model.config.class_names)}


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE)


class Saved(NamedTuple):
    """A model, the folder that it was saved in, and the scores of its classes."""

    kind: type
    folder: Path
    model: nn.Module
    scores: dict


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    clip = save_clip(root / "clip")
    models = {**kinds(**label_fields(LABELS)), **{f"{name} unnamed": model for name, model in kinds().items()}}
    models["text"] = IlaForVideoClassification.from_pretrained(clip, labels=LABELS, num_frames=4)
    for name, model in models.items():
        randomised(model).save_pretrained(root / name)
    return {name: Saved(type(model), root / name, model, scores(model)) for name, model in models.items()}


DOORS = {
    "labels": lambda kind, folder, names, **more: kind.from_pretrained(folder, labels=names, **more),
    "id2label": lambda kind, folder, names, **more: kind.from_pretrained(
        folder, id2label=label_fields(names)["id2label"], **more
    ),
    "label2id": lambda kind, folder, names, **more: kind.from_pretrained(
        folder, label2id=label_fields(names)["label2id"], **more
    ),
    "auto": lambda kind, folder, names, **more: AutoModelForVideoClassification.from_pretrained(
        folder, **label_fields(names), **more
    ),
    "config": lambda kind, folder, names, **more: kind.from_pretrained(
        folder, config=kind.config_class.from_pretrained(folder, **label_fields(names)), **more
    ),
}
ROWS = ["linear", "frozen", "timesformer", "embeddings", "merged"]


@pytest.mark.parametrize(
    "head, door",
    [
        *((head, door) for head in ("linear", "timesformer") for door in DOORS),
        *((head, "auto") for head in ROWS if head not in ("linear", "timesformer")),
    ],
)
def test_a_class_keeps_its_row_in_another_order(saved, head, door):
    kind, folder, _, expected = saved[head]
    model = DOORS[door](kind, folder, OTHER_ORDER)
    assert model.config.class_names == OTHER_ORDER
    agree(scores(model), expected)


@pytest.mark.parametrize("head, door", [*(("linear", door) for door in DOORS), ("timesformer", "auto")])
def test_other_classes_are_refused_at_every_door(saved, head, door):
    with pytest.raises(
        ValueError, match=r"knows no \['swim'\], `labels` lack \['sit'\].*ignore_mismatched_sizes=True"
    ):
        DOORS[door](saved[head].kind, saved[head].folder, ["walk", "run", "swim"])


@pytest.mark.parametrize("names", [["walk", "run", "swim"], ["walk", "run"], ["Walk", "run", "sit"], [*LABELS, "x"]])
@pytest.mark.parametrize("head", ROWS)
def test_other_classes_are_refused_later_too(saved, head, names):
    _, _, model, expected = saved[head]
    with pytest.raises(ValueError, match="learned other classes|merged into the class features"):
        model.set_labels(names)
    agree(scores(model), expected)  # nothing was half done


@pytest.mark.parametrize(
    "head, door, names",
    [
        *(
            (head, "labels", names)
            for head in ("linear", "frozen", "timesformer")
            for names in (["walk", "b", "c"], ["a", "b"])
        ),
        ("linear", "auto", ["walk", "b", "c"]),
        ("timesformer", "config", ["a", "b"]),
    ],
)
def test_a_head_starts_anew_on_request_and_says_so(saved, head, door, names, caplog):
    kind, folder, old, _ = saved[head]
    with caplog.at_level(logging.WARNING):
        model, info = DOORS[door](kind, folder, names, ignore_mismatched_sizes=True, output_loading_info=True)
    assert "starts anew" in caplog.text and set(scores(model)) == set(names)
    if len(names) == 3:
        assert {"classifier.weight", "classifier.bias"} == info["missing_keys"] and not info["mismatched_keys"]
        assert not torch.equal(model.classifier.weight, old.classifier.weight)
    else:
        assert ("classifier.bias", (3,), (2,)) in info["mismatched_keys"] and not info["missing_keys"]
    assert model.classifier.weight.requires_grad and not model.classifier.bias.any()


@pytest.mark.parametrize("head", ROWS)
def test_numbered_classes_get_names_and_keep_their_rows(saved, head, caplog):
    kind, folder, _, expected = saved[f"{head} unnamed"]
    model = DOORS["labels" if head == "merged" else "auto"](kind, folder, LABELS)
    agree(scores(model), dict(zip(LABELS, expected.values())))
    if head in ("linear", "frozen", "timesformer"):
        model = copy.deepcopy(saved[f"{head} unnamed"].model)
        model.set_labels(["walk", "run"])  # of which none can be told to have a row
        assert len(scores(model)) == 2 and "3 classes without names" in caplog.text


@pytest.mark.parametrize("head", ["linear", "timesformer", "text"])
def test_a_configuration_without_names_leaves_the_checkpoints(saved, head):
    kind, folder, _, expected = saved[head]
    config = kind.config_class.from_pretrained(folder)
    config.id2label, config.label2id = label_fields(["LABEL_0", "LABEL_1", "LABEL_2"]).values()
    agree(scores(kind.from_pretrained(folder, config=config)), expected)
    assert config.id2label[0] == "LABEL_0"  # the caller's own stays


@pytest.mark.parametrize(
    "door, names", [*((door, ["swim", "sit", "walk"]) for door in DOORS), ("auto", ["walk", "b", "c", "d"])]
)
def test_a_text_head_tokenises_the_names_that_come_in_by_any_door(saved, names, door):
    kind, folder, model, expected = saved["text"]
    loaded = DOORS[door](kind, folder, names, ignore_mismatched_sizes=len(names) > 3)
    ids = tokenize_labels(names, model.tokenizer, model.config.text_config)
    assert torch.equal(loaded.class_input_ids, ids) and loaded.config.class_names == names
    torch.testing.assert_close(scores(loaded)["walk"], expected["walk"], **CLOSE)


@pytest.mark.parametrize("head", ["text", "timesformer"])
@pytest.mark.parametrize(
    "asked, said",
    [
        ({"labels": LABELS, "id2label": dict(enumerate(OTHER_ORDER))}, "contradict"),
        ({"labels": LABELS, "num_labels": 4}, "contradict"),
        ({"labels": LABELS, "config": label_fields(OTHER_ORDER)}, "contradict"),
        ({"id2label": dict(enumerate(LABELS)), "config": label_fields(OTHER_ORDER)}, "contradict"),
        ({**label_fields(LABELS), "label2id": label_fields(OTHER_ORDER)["label2id"]}, "contradict"),
        ({"id2label": dict(enumerate(LABELS, 1))}, "0 to 2"),
        ({"id2label": dict(enumerate(LABELS)), "num_labels": 4}, "`num_labels` is 4"),
        ({"labels": set(LABELS)}, "a set, which does not say an order"),
    ],
)
def test_names_that_contradict_each_other(saved, head, asked, said):
    kind, folder, _, _ = saved[head]
    asked = dict(asked)
    with pytest.raises(ValueError, match=said):
        if "config" in asked:
            asked["config"] = kind.config_class.from_pretrained(folder, **asked["config"])
        kind.from_pretrained(folder, **asked)


def test_names_that_say_the_same_twice(saved):
    kind, folder, _, expected = saved["linear"]
    config = kind.config_class.from_pretrained(folder, **label_fields(OTHER_ORDER))
    for more in (label_fields(OTHER_ORDER), {"num_labels": 3, "config": config}, {"config": folder}):
        agree(scores(kind.from_pretrained(folder, labels=OTHER_ORDER, **more)), expected)


def test_a_checkpoint_without_a_head_takes_any_names(saved, tmp_path, caplog):
    """A classifier's names beside the weights of the towers alone: nothing was learned for the names."""
    IlaModel.from_pretrained(saved["text"].folder).save_pretrained(tmp_path)
    for head in ("linear", "text"):
        tokenizer = saved["text"].model.tokenizer if head == "text" else None
        model = IlaForVideoClassification.from_pretrained(
            tmp_path, id2label={0: "a", 1: "b"}, classification_head=head, tokenizer=tokenizer
        )
        assert set(scores(model)) == {"a", "b"}
    assert "anew" not in caplog.text and "placeholders" not in caplog.text


def test_training_starts_from_a_head_of_other_classes(saved, caplog):
    def start(labels, **fields):
        config = json.dumps({**TINY_ILA, **fields})
        recipe = RecipeArguments(clip=str(saved["linear"].folder), classification_head="linear", config=config)
        return model_of(recipe, labels)

    agree(scores(start(OTHER_ORDER)), saved["linear"].scores)
    assert "anew" not in caplog.text
    assert set(scores(start(["walk", "jump"]))) == {"walk", "jump"}
    assert "The linear head starts anew" in caplog.text
    with pytest.raises(ValueError, match=r"other shapes.*'alignment_hidden_size': 16.*point_head"):
        start(["walk", "jump"], alignment_hidden_size=16)


def test_stored_maps_that_contradict_each_other_load_as_they_always_did(saved, tmp_path, caplog):
    kind, folder, _, expected = saved["linear"]
    shutil.copytree(folder, tmp_path / "old")
    config = json.loads((folder / "config.json").read_text())
    config["label2id"] = {"other": 0, "names": 1, "here": 2}  # as earlier versions saved them
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    for load in (kind.from_pretrained, AutoModelForVideoClassification.from_pretrained):
        caplog.clear()
        agree(scores(load(tmp_path / "old")), expected)
        assert "`id2label` counts" in caplog.text
    agree(scores(kind.from_pretrained(tmp_path / "old", labels=OTHER_ORDER)), expected)


def test_rows_that_cannot_be_moved_are_not(saved):
    accelerate, peft = pytest.importorskip("accelerate"), pytest.importorskip("peft")
    model = copy.deepcopy(saved["linear"].model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="offloaded"):
        model.set_labels(OTHER_ORDER)
    assert model.config.class_names == LABELS
    lora = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    with pytest.raises(ValueError, match="adapter"):
        peft.get_peft_model(copy.deepcopy(saved["linear"].model), lora).set_labels(OTHER_ORDER)


def test_ready_text_features_make_room_for_tokens_only_on_request(saved, caplog):
    model, expected = copy.deepcopy(saved["text"].model), saved["text"].scores
    model.set_class_embeddings(model.class_text_features(), LABELS)
    model.set_labels(OTHER_ORDER)
    agree(scores(model), expected)
    assert model.config.class_features == "embeddings"
    with pytest.raises(ValueError, match="learned other classes"):
        model.set_labels(["walk", "swim"])
    model.set_labels(["walk", "swim"], ignore_mismatched_sizes=True)
    assert "Ready text features are dropped" in caplog.text and model.config.class_features == "tokens"
    torch.testing.assert_close(scores(model)["walk"], expected["walk"], **CLOSE)
    model.set_class_embeddings(torch.randn(2, 64))
    model.set_labels(["walk", "swim"], str(saved["text"].folder))
    torch.testing.assert_close(scores(model)["walk"], expected["walk"], **CLOSE)


def test_rows_are_moved_in_place_so_that_an_optimizer_still_holds_them(saved):
    model = copy.deepcopy(saved["linear"].model)
    weight = model.classifier.weight
    model.set_labels(OTHER_ORDER)
    assert model.classifier.weight is weight
    snapshot = model.fuse()
    with pytest.raises(ValueError, match="snapshot"):
        snapshot.set_labels(LABELS)
    snapshot.set_labels(OTHER_ORDER)  # they are

"""LoRA by PEFT: what is adapted and trained, and that a saved adapter says what the model said, bit for bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.inputs import pixels, randomised
from support.tiny_models import TINY_VISION, save_clip, save_timesformer, save_vit, tiny_config
from transformers_ila import (
    AlignedTimesformerForVideoClassification,
    FrozenClipForVideoClassification,
    IlaForVideoClassification,
    IlaModel,
    IlaVideoProcessor,
    IlaVisionModel,
)
from transformers_ila.evaluation.inference import load_classifier, load_for_words, load_trained
from transformers_ila.model.temporal_ila import TEMPORAL_MODULES
from transformers_ila.training.arguments import IlaTrainingArguments
from transformers_ila.training.trainer import IlaTrainer


peft = pytest.importorskip("peft")
from transformers_ila.training.adapters import load_adapter, lora_config  # noqa: E402


LABELS = ["walk", "run", "swim"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A CLIP, a ViT, and a TimeSformer."""
    root = tmp_path_factory.mktemp("bases")
    save_clip(root / "clip")
    save_vit(root / "vit")
    save_timesformer(root / "timesformer", **{**TINY_VISION, "num_labels": 3})
    return root


def start(bases, kind=IlaForVideoClassification, **fields):
    torch.manual_seed(fields.pop("seed", 0))
    if kind is AlignedTimesformerForVideoClassification:
        return kind.from_pretrained(bases / "timesformer", alignment_hidden_size=8, **fields)
    source = bases / fields.pop("source", "clip")
    if fields.get("zero_shot"):
        return kind.from_pretrained(source, labels=LABELS, num_frames=4, **fields)
    named = {"labels": LABELS, "num_frames": 4, "alignment_hidden_size": 8, "gta_groups": 4, **fields}
    return kind.from_pretrained(source, **named)


def trained(model):
    """Two steps in training mode, which also move the batch statistics."""
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.01)
    for seed in range(2):
        model(pixels(seed=seed), labels=torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits_of(model):
    return model(pixels(seed=5)).logits


FORMS = {
    **{module: {"temporal_module": module} for module in ("none", *TEMPORAL_MODULES)},
    **{fusion: {"alignment_fusion": fusion} for fusion in ("interaction", "mi_token", "residual", "add", "concat")},
    "no prompts": {"use_video_prompt": False, "mit_num_hidden_layers": 0},
    "a linear head": {"classification_head": "linear"},
    "plain CLIP": {"zero_shot": True, "templates": ["a {}.", "the {}."]},
    "ViT": {"source": "vit"},
    "a frozen CLIP": {"kind": FrozenClipForVideoClassification},
    "TimeSformer": {"kind": AlignedTimesformerForVideoClassification},
    "TimeSformer, ata": {"kind": AlignedTimesformerForVideoClassification, "temporal_module": "ata"},
}


FAST = ("interaction", "divided", "plain CLIP", "ViT", "a frozen CLIP", "TimeSformer, ata")


@pytest.mark.parametrize(
    "form", [form if form in FAST else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)
def test_what_was_saved_says_the_same_bit_for_bit(form, bases, tmp_path):
    base = start(bases, **FORMS[form])
    before = logits_of(base.eval())
    model = trained(peft.get_peft_model(base, lora_config(base, r=2, mlp=form == "interaction")))
    after = logits_of(model)
    assert (after - before).abs().max() > 1e-3
    model.save_pretrained(tmp_path)
    loaded = load_adapter(tmp_path)
    assert torch.equal(logits_of(loaded), after)
    assert loaded.config.class_names == base.config.class_names
    plain = peft.PeftModel.from_pretrained(start(bases, seed=1, **FORMS[form]), tmp_path, is_trainable=True).eval()
    assert torch.equal(logits_of(plain), after)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert torch.equal(logits_of(load_adapter(again)), after)
    merged = loaded.merge_and_unload()
    assert torch.equal(logits_of(merged), logits_of(model.merge_and_unload()))
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits_of(load_classifier(tmp_path / "merged").eval()), logits_of(merged))
    assert lora_config(merged).modules_to_save == lora_config(start(bases, **FORMS[form])).modules_to_save


def test_only_the_image_tower_is_adapted_and_all_that_is_new_is_trained(bases):
    base = start(bases, temporal_module="divided")
    model = peft.get_peft_model(base, lora_config(base))
    adapted = {name for name, module in base.named_modules() if isinstance(module, peft.tuners.lora.LoraLayer)}
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    assert adapted == {f"vision_model.encoder.layers.{layer}.self_attn.{name}" for layer in (0, 1) for name in names}
    learning = [name.removeprefix("base_model.model.") for name, w in model.named_parameters() if w.requires_grad]
    rest = {name.split(".modules_to_save.")[0] for name in learning if ".lora_" not in name}
    own = {"mit", "prompts_visual_projection", "prompts_visual_layernorm", "prompts_generator"}
    temporal = {f"vision_model.encoder.layers.{layer}.temporal" for layer in (0, 1)}
    assert rest == {*own, *temporal, "vision_model.time_embedding"}


def test_other_classes_and_frames_than_the_bases(bases, tmp_path):
    randomised(start(bases)).save_pretrained(tmp_path / "base")
    for head in ("text", "linear"):
        fields = {"labels": ["jump", "fall", "sit", "stand"], "num_frames": 6, "classification_head": head}
        base = IlaForVideoClassification.from_pretrained(tmp_path / "base", **fields)
        model = peft.get_peft_model(base, lora_config(base))
        if head == "text":
            base.set_class_embeddings(torch.randn(4, 64), fields["labels"])
        model.eval().save_pretrained(tmp_path / head)
        loaded = load_adapter(tmp_path / head)
        assert loaded.config.class_names == fields["labels"]
        assert torch.equal(loaded(pixels(frames=6)).logits, model(pixels(frames=6)).logits)


def test_a_model_without_classes(bases, tmp_path):
    base = IlaModel.from_pretrained(bases / "clip", num_frames=4, alignment_hidden_size=8).eval()
    model = peft.get_peft_model(base, lora_config(base, init_lora_weights=False)).eval()
    model.save_pretrained(tmp_path)
    loaded = load_adapter(tmp_path)
    assert type(loaded.get_base_model()) is IlaModel
    with torch.no_grad():
        features = [one.get_video_features(pixels()).pooler_output for one in (model, loaded)]
    assert torch.equal(*features)


def test_kept_text_features_are_forgotten(bases, tmp_path):
    base = start(bases)
    model = trained(peft.get_peft_model(base, lora_config(base)))
    model.save_pretrained(tmp_path)
    other = start(bases, labels=["b", "c", "a"]).eval()
    other(pixels())  # which keeps the features of other classes
    other.set_labels(LABELS)
    again = peft.PeftModel.from_pretrained(other, tmp_path).eval()
    assert torch.equal(logits_of(again), logits_of(model))


def test_another_base_is_refused(bases, tmp_path):
    base = start(bases)
    peft.get_peft_model(base, lora_config(base)).save_pretrained(tmp_path / "adapter")
    shutil.copytree(bases / "clip", tmp_path / "clip")
    assert load_adapter(tmp_path / "adapter", base=tmp_path / "clip").config.class_names == LABELS
    save_clip(tmp_path / "clip")  # other random weights
    with pytest.raises(ValueError, match="was trained on other weights than those of '.*clip'"):
        load_adapter(tmp_path / "adapter", base=tmp_path / "clip")
    with pytest.raises(OSError, match="The weights below the adapter '.*adapter' are not in '.*moved': name their"):
        load_adapter(tmp_path / "adapter", base=tmp_path / "moved")


def test_words_of_ones_own_on_an_adapter(bases, tmp_path):
    base = start(bases)
    model = trained(peft.get_peft_model(base, lora_config(base)))
    model.save_pretrained(tmp_path)
    IlaVideoProcessor.for_model(base.config).save_pretrained(tmp_path)
    base.set_labels(["a cat", "a dog"], templates="a {}.")
    loaded, _ = load_for_words(tmp_path, ["a cat", "a dog"], "a {}.")
    torch.testing.assert_close(logits_of(loaded), logits_of(model))  # one is merged
    assert load_for_words(tmp_path)[0].config.class_names == LABELS
    linear = start(bases, classification_head="linear")
    peft.get_peft_model(linear, lora_config(linear)).save_pretrained(tmp_path / "linear")
    IlaVideoProcessor.for_model(linear.config).save_pretrained(tmp_path / "linear")
    with pytest.raises(ValueError, match="need a text head and its text tower"):
        load_for_words(tmp_path / "linear", ["a cat"])


def test_a_base_in_a_folder_is_found_from_every_folder(bases, tmp_path, monkeypatch):
    monkeypatch.chdir(bases)
    base = start(Path())
    assert base.name_or_path == "clip"
    peft.get_peft_model(base, lora_config(base)).save_pretrained(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    assert load_adapter("adapter").config.class_names == LABELS


def test_what_is_no_adapter_of_ours_is_refused(bases, tmp_path):
    base = start(bases)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an adapter without adapter_base.safetensors"):
        load_adapter(tmp_path)
    for kind in (IlaForVideoClassification, IlaModel, FrozenClipForVideoClassification, IlaVisionModel):
        with pytest.raises(ValueError, match="holds an adapter .*load_adapter"):
            kind.from_pretrained(tmp_path)
    own = start(bases)
    peft.get_peft_model(own, lora_config(own)).save_pretrained(tmp_path / "own")
    settings = json.loads((tmp_path / "own/adapter_config.json").read_text())
    (tmp_path / "own/adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not say which weights it is for"):
        load_adapter(tmp_path / "own")
    settings["modules_to_save"].remove("mit")
    (tmp_path / "own/adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="other weights|does not hold the weights of its adapter_config.json"):
        load_adapter(tmp_path / "own")


def test_what_lora_config_refuses(bases):
    base = start(bases)
    for options in (
        {"target_modules": ["q_proj"]},
        {"modules_to_save": []},
        {"task_type": "SEQ_CLS"},
        {"bias": "all"},
    ):
        with pytest.raises(ValueError, match=f"decides .'{next(iter(options))}'. by the model"):
            lora_config(base, **options)
    for model in (IlaVisionModel(tiny_config().vision_config), torch.nn.Linear(2, 2), None):
        with pytest.raises(ValueError, match="`model` must be one of IlaForVideoClassification.*; got"):
            lora_config(model)
    with pytest.raises(ValueError, match="`lora_dropout` has no effect in a FrozenClipForVideoClassification"):
        lora_config(start(bases, FrozenClipForVideoClassification), lora_dropout=0.1)
    with pytest.raises(ValueError, match="is fused"):
        lora_config(base.fuse())
    with pytest.raises(ValueError, match="leave the text tower as it is, and `freeze_text_model` is off"):
        lora_config(start(bases, freeze_text_model=False))
    with pytest.raises(ValueError, match="has adapters already"):
        peft.get_peft_model(base, lora_config(base))
        lora_config(base)


class Clips(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"pixel_values": pixels(batch=1, seed=index)[0], "labels": torch.tensor(index % 3)}


def test_the_trainer_saves_resumes_and_averages(bases, tmp_path):
    def trainer(folder, **fields):
        torch.manual_seed(0)
        base = start(bases)
        options = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "report_to": "none", "use_cpu": True}
        args = IlaTrainingArguments(str(folder), num_train_epochs=2, save_strategy="epoch", **options, **fields)
        model = peft.get_peft_model(base, lora_config(base))
        processor = IlaVideoProcessor.for_model(base.config)
        return IlaTrainer(model=model, args=args, train_dataset=Clips(), processing_class=processor)

    whole = trainer(tmp_path / "whole", ema_decay=0.5, freeze_clip=True)
    trainable = [name for name, weight in whole.model.named_parameters() if weight.requires_grad]
    assert trainable and not [name for name in trainable if ".original_module." in name]
    rates = {group["lr"] for group in whole.create_optimizer().param_groups}
    assert rates == {1e-2}  # adapters are new, too
    whole.train()
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "whole/checkpoint-2", tmp_path / "part/checkpoint-2")
    part = trainer(tmp_path / "part", ema_decay=0.5, freeze_clip=True)
    part.train(resume_from_checkpoint=str(tmp_path / "part/checkpoint-2"))
    first, second = (
        load_file(tmp_path / name / "checkpoint-4/adapter_model.safetensors") for name in ("whole", "part")
    )
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert any("running_mean" in name for name in first)
    whole.save_model(str(tmp_path / "saved"))
    with whole.averaged():
        expected = logits_of(whole.model.eval())
    assert torch.equal(logits_of(load_adapter(tmp_path / "saved")), expected)
    model, processor = load_trained(tmp_path / "saved")
    assert type(model) is IlaForVideoClassification and model.config.class_names == LABELS
    torch.testing.assert_close(logits_of(model), expected)

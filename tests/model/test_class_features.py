"""Class features: kept only while nothing can change them, and merged into a model without a text tower."""

import copy
import io

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._subclasses import FakeTensorMode
from transformers import CLIPTokenizer, pipeline

from support.elsewhere import run_elsewhere
from support.inputs import CLOSE, pixels, randomised
from support.tiny_models import TINY_TEXT, byte_tokenizer, save_clip, tiny_config
from transformers_ila import IlaForVideoClassification, IlaModel, IlaVideoProcessor
from transformers_ila.conversion.state_dicts import to_released_state_dict
from transformers_ila.cost import count
from transformers_ila.evaluation.evaluator import evaluate, fingerprint, listed_samples, predict
from transformers_ila.evaluation.inference import load_trained
from transformers_ila.evaluation.prediction import label_videos, named_videos
from transformers_ila.hub.exporting import export
from transformers_ila.hub.publishing import _missing_files
from transformers_ila.model.processing_ila import IlaProcessor
from transformers_ila.motionbench.tasks import make_videos
from transformers_ila.video_writing import write_mp4


LABELS = ["juggling balls", "waving", "a very long name of a class"]
IS_TEXT = ("text_model.", "text_projection.")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def whole_model(clip, **fields) -> IlaForVideoClassification:
    torch.manual_seed(0)
    model = IlaForVideoClassification.from_pretrained(
        clip, labels=LABELS, num_frames=4, alignment_hidden_size=8, **fields
    )
    return randomised(model).eval()


def logits_of(model, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(pixels(**options)).logits


def text_model(seed=0, **fields) -> IlaForVideoClassification:
    torch.manual_seed(seed)
    fields = {"num_labels": 3, "use_video_prompt": False, **fields}
    return randomised(IlaForVideoClassification(tiny_config(**fields)), seed).eval()


def fresh(model) -> torch.Tensor:
    """Logits of a copy that has kept nothing."""
    other = copy.deepcopy(model)
    other.refresh_class_features()
    return logits_of(other)


def count_encodings(model) -> list[int]:
    calls: list[int] = []
    model.text_model.register_forward_hook(lambda *_: calls.append(1))
    return calls


# -- kept while the text tower is frozen -----------------------------------------------------------------------------


def test_a_frozen_tower_encodes_the_names_once():
    model = text_model().train()
    calls, modes = count_encodings(model), [module.training for module in model.modules()]
    for _ in range(3):
        model(pixels())
    with torch.inference_mode():
        model(pixels())
    model(pixels(), labels=torch.tensor([0, 1])).loss.backward()
    assert len(calls) == 1 and modes == [module.training for module in model.modules()]
    assert torch.equal(model.class_text_features(), model.class_text_features()) and len(calls) == 1


def test_first_use_in_inference_mode_does_not_spoil_training():
    model = text_model()
    with torch.inference_mode():
        model(pixels())
    model(pixels(), labels=torch.tensor([0, 1])).loss.backward()


def other_tokens(model):
    model.set_class_input_ids(model.class_input_ids.flip(0))


CHANGES = {
    "load": lambda model: model.load_state_dict(text_model(1).state_dict()),
    "load the tower": lambda model: model.text_model.load_state_dict(text_model(1).text_model.state_dict()),
    "load the projection": lambda model: model.text_projection.load_state_dict(
        text_model(1).text_projection.state_dict()
    ),
    "cast": lambda model: model.double().float(),
    "tokens": other_tokens,
    "new parameter": lambda model: setattr(
        model.text_projection, "weight", nn.Parameter(torch.randn(64, 32), requires_grad=False)
    ),
    "write and refresh": lambda model: (
        next(model.text_model.parameters()).data.mul_(2),
        model.refresh_class_features(),
    ),
    "hook and refresh": lambda model: (
        model.text_projection.register_forward_hook(lambda *arguments: -arguments[2]),
        model.refresh_class_features(),
    ),
    "unfreeze, write, freeze": lambda model: (
        model.freeze_text_model(False),
        next(model.text_model.parameters()).data.mul_(2),
        model.freeze_text_model(),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_them_empties_what_was_kept(change):
    model = text_model()
    before = logits_of(model)
    CHANGES[change](model)
    after = logits_of(model)
    assert torch.equal(after, fresh(model))
    assert change == "cast" or not torch.allclose(after, before, atol=1e-3)


def test_embeddings_take_their_place():
    model = text_model()
    logits_of(model)
    embeds = torch.randn(3, 64)
    model.set_class_embeddings(embeds)
    assert torch.equal(model.class_text_features(), embeds)


def test_dropout_is_drawn_in_every_call():
    model = text_model(text_config={**TINY_TEXT, "attention_dropout": 0.5})
    kept = model.class_text_features()
    assert not torch.equal(model.train().class_text_features(), model.class_text_features())
    assert torch.equal(model.eval().class_text_features(), kept)


def test_adapters_end_it():
    peft = pytest.importorskip("peft")
    base = text_model()
    expected = base(pixels()).logits
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.eval()
    adapted = logits_of(model)
    assert not torch.allclose(adapted, expected, **CLOSE)
    with model.disable_adapter():
        torch.testing.assert_close(logits_of(model), expected, **CLOSE)
    torch.testing.assert_close(logits_of(model.merge_and_unload()), adapted, **CLOSE)


# -- trained: computed in every forward ------------------------------------------------------------------------------


def train_step(model, optimizer) -> None:
    model.train()
    model(pixels(), labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("fused", [True, False])
def test_evaluation_between_steps_sees_the_trained_texts(fused):
    """A fused optimizer, which is the Trainer's default, writes weights without raising their version."""
    model = text_model(freeze_text_model=False)
    optimizer = torch.optim.AdamW(model.text_model.parameters(), lr=0.1, fused=fused)
    before = logits_of(model)
    train_step(model, optimizer)
    after = logits_of(model)
    assert torch.equal(after, fresh(model)) and not torch.allclose(after, before, atol=1e-3)
    assert torch.equal(logits_of(model.merge_text_tower()), after)


def swap_activation(model):
    model.text_model.encoder.layers[0].mlp.activation_fn = nn.Tanh()


def add_hook(model):
    model.text_model.encoder.layers[0].register_forward_hook(lambda module, inputs, output: output * 2)


@pytest.mark.parametrize("change", [swap_activation, add_hook])
def test_whatever_is_done_to_a_trained_tower_shows(change):
    model = text_model(freeze_text_model=False)
    before = logits_of(model)
    change(model)
    assert torch.equal(logits_of(model), fresh(model))
    assert not torch.allclose(logits_of(model), before, atol=1e-4)


@pytest.mark.parametrize("thaw", [lambda m: m.freeze_text_model(False), lambda m: m.text_model.requires_grad_(True)])
def test_thawed_in_either_way_and_frozen_again(thaw):
    model = text_model()
    logits_of(model)
    thaw(model)
    optimizer = torch.optim.AdamW(model.text_model.parameters(), lr=0.1, fused=True)
    train_step(model, optimizer)
    assert torch.equal(logits_of(model), fresh(model))
    train_step(model, optimizer)
    model.text_model.requires_grad_(False)
    assert torch.equal(logits_of(model), fresh(model))


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        model = text_model()
        before = logits_of(model)
        model.text_projection.weight.neg_()
        model.refresh_class_features()
        assert not torch.allclose(logits_of(model), before, atol=1e-3)
    assert torch.equal(logits_of(model), fresh(model))


def test_merging_reads_the_weights_and_not_what_was_kept():
    model = text_model()
    logits_of(model)
    model.text_projection.weight.data.neg_()  # unseen, and nobody refreshed
    expected = fresh(model)
    assert torch.equal(logits_of(model.merge_text_tower()), expected)


def test_constant_in_a_block():
    model = text_model(freeze_text_model=False)
    calls = count_encodings(model)
    with model.constant_class_features():
        expected = [logits_of(model), logits_of(model)]
        assert len(calls) == 1 and torch.equal(*expected)
        with model.constant_class_features():  # one in another
            logits_of(model)
        logits_of(model)
        assert len(calls) == 1
        model.set_class_input_ids(model.class_input_ids.flip(0))  # what empties it elsewhere does here
        assert torch.equal(logits_of(model), expected[0].flip(1)) and len(calls) == 2
    logits_of(model), logits_of(model)
    assert len(calls) == 4
    with pytest.raises(KeyError), model.constant_class_features():
        raise KeyError
    optimizer = torch.optim.AdamW(model.text_model.parameters(), lr=0.1, fused=True)
    for _ in range(2):
        train_step(model, optimizer)
        with model.constant_class_features():
            assert torch.equal(logits_of(model), fresh(model))


def test_a_block_costs_a_frozen_tower_nothing_and_needs_no_text():
    model = text_model()
    calls = count_encodings(model)
    logits_of(model)
    with model.constant_class_features():
        logits_of(model)
    logits_of(model)
    assert len(calls) == 1
    for other in (text_model(classification_head="linear"), text_model().merge_text_tower()):
        with other.constant_class_features():
            assert logits_of(other).shape == (2, 3)


# -- copies, other modes of computing --------------------------------------------------------------------------------


def test_copies_keep_them_and_checkpoints_do_not(tmp_path):
    model = text_model()
    keys, expected = model.state_dict().keys(), logits_of(model)
    assert model.state_dict().keys() == keys
    other = copy.deepcopy(model)
    calls = count_encodings(other)
    assert torch.equal(logits_of(other), expected) and not calls
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(logits_of(torch.load(file, weights_only=False)), expected)
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == keys
    assert torch.equal(logits_of(IlaForVideoClassification.from_pretrained(tmp_path).eval()), expected)


@pytest.mark.parametrize("kept", [True, False])
def test_meta_and_fake_tensors(kept):
    model = text_model()
    if kept:
        logits_of(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model(pixels()).logits.shape == (2, 3)
    assert torch.equal(logits_of(model), fresh(model))
    meta = copy.deepcopy(model).to("meta")
    assert meta(pixels().to("meta")).logits.is_meta
    assert meta._kept_class_features is None  # so none are left when weights come


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_weights_stacked_by_vmap(kept, freeze):
    """Each model of an ensemble has its own texts, whatever the one that is called has kept."""
    models = [text_model(seed, freeze_text_model=freeze) for seed in (0, 1)]
    expected = torch.stack([fresh(model) for model in models])
    if kept:
        logits_of(models[0])
    parameters = [dict(model.named_parameters()) for model in models]
    stacked = {name: torch.stack([each[name].detach() for each in parameters]) for name in parameters[0]}

    values = pixels()

    def call(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(models[0], weights, (values,)).logits

    torch.testing.assert_close(torch.vmap(call)(stacked), expected, **CLOSE)
    assert torch.equal(logits_of(models[0]), expected[0])
    models[0].double()(pixels().double())  # nothing of the transform was left behind


@pytest.mark.parametrize("kept", [True, False])
def test_gradients_by_torch_func(kept):
    model = text_model()
    if kept:
        logits_of(model)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (pixels(),)).logits.std()

    found = torch.func.grad(loss)(weights)["text_projection.weight"]
    torch.func.grad(lambda values: model(values).logits.sum())(pixels())
    assert torch.equal(logits_of(model), fresh(model))
    model.freeze_text_model(False)
    model(pixels()).logits.std().backward()
    torch.testing.assert_close(found, model.text_projection.weight.grad, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_exported(kept, freeze):
    model = text_model(freeze_text_model=freeze).requires_grad_(False)
    expected = logits_of(model) if kept else fresh(model)
    program = torch.export.export(model, (pixels(),))
    torch.testing.assert_close(program.module()(pixels()).logits, expected, **CLOSE)
    assert torch.equal(logits_of(model), expected)


# -- merged ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("freeze", [True, False])
def test_logits_stay_bit_equal_in_memory_and_on_disk(clip, tmp_path, prompt, freeze):
    model = whole_model(clip, use_video_prompt=prompt, freeze_text_model=freeze)
    before = logits_of(model)
    several = model(pixels(3)[:1]).logits.detach()
    modes = {name: module.training for name, module in model.train().named_modules()}
    assert model.merge_text_tower() is model and model.merge_text_tower() is model  # again: nothing happens
    assert all(module.training is modes[name] for name, module in model.named_modules())
    model.eval()
    assert torch.equal(logits_of(model), before)
    torch.testing.assert_close(model(pixels(3)[:1]).logits, several)
    assert not [name for name in model.state_dict() if name.startswith(IS_TEXT)]
    model.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if name.startswith(IS_TEXT)]
    assert not list(tmp_path.glob("tokenizer*"))
    loaded, info = IlaForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not hasattr(loaded, "text_model")
    assert torch.equal(logits_of(loaded.eval()), before) and loaded.config.class_features == "merged"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_in_half_precision(clip, dtype):
    model = whole_model(clip).to(dtype)
    values = pixels().to(dtype)
    before = model(values).logits
    assert torch.equal(model.merge_text_tower()(values).logits, before)


def test_dropout_of_the_text_tower_is_not_baked_in(clip):
    torch.manual_seed(0)
    model = IlaForVideoClassification(tiny_config(num_labels=3, text_config={"attention_dropout": 0.5}))
    expected = model.eval().class_text_features()
    assert torch.equal(model.train().merge_text_tower().class_text_features(), expected) and model.training


def test_what_needs_the_text_tower_says_that_it_is_gone(clip, tmp_path):
    model = whole_model(clip).merge_text_tower()
    before = logits_of(model)
    for call in (
        lambda: model.set_labels(["one", "two"]),
        lambda: model.set_labels(["one", "two"], CLIPTokenizer.from_pretrained(clip)),
        lambda: model.set_class_input_ids(torch.ones(3, 5, dtype=torch.long)),
        lambda: model.get_text_features(torch.ones(3, 5, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match="merged into the class features and dropped"):
            call()
    assert torch.equal(logits_of(model), before) and list(model.config.id2label.values()) == LABELS
    model.set_labels(LABELS)  # they are
    model.freeze_text_model(False)  # nothing to thaw
    model.save_pretrained(tmp_path)
    both = IlaModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="before `merge_text_tower"):
        both.get_text_features(torch.ones(3, 5, dtype=torch.long))
    assert both.get_video_features(pixels()).pooler_output.shape == (2, 64)
    with pytest.raises(ValueError, match="merged"):
        IlaForVideoClassification.from_pretrained(tmp_path, labels=["one", "two"])
    with pytest.raises(ValueError, match="merge_text_tower` dropped"):
        to_released_state_dict(whole_model(clip, alignment_fusion="residual").merge_text_tower())


def test_a_linear_head_has_nothing_to_merge():
    model = IlaForVideoClassification(tiny_config(classification_head="linear"))
    with pytest.raises(ValueError, match='`merge_text_tower` needs `classification_head="text"`'):
        model.merge_text_tower()


def test_other_classes_by_their_embeddings(clip, tmp_path):
    whole = whole_model(clip)
    model = copy.deepcopy(whole).merge_text_tower()
    ids = CLIPTokenizer.from_pretrained(clip)(["jumping", "sitting"], padding=True, return_tensors="pt")["input_ids"]
    whole.set_class_input_ids(ids, ["jumping", "sitting"])
    model.set_class_embeddings(whole.class_text_features(), ["jumping", "sitting"])
    assert torch.equal(logits_of(model), logits_of(whole)) and model.config.class_features == "merged"
    model.save_pretrained(tmp_path)
    loaded = IlaForVideoClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of(loaded), logits_of(whole)) and loaded.config.id2label[1] == "sitting"


def test_stored_embeddings_merge_too_and_older_checkpoints_load(clip, tmp_path):
    """`class_features="embeddings"` keeps its text tower, as before."""
    model = whole_model(clip)
    model.set_class_embeddings(torch.randn(3, 64))
    before = logits_of(model)
    model.save_pretrained(tmp_path)
    loaded, info = IlaForVideoClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert hasattr(loaded, "text_model") and not info["missing_keys"]
    assert torch.equal(logits_of(loaded.eval().merge_text_tower()), before)


def test_nothing_is_counted_of_a_text_tower(clip):
    model = whole_model(clip)
    whole = count(model.config)
    merged = count(model.merge_text_tower().config)
    assert merged.text_parameters == 0 < whole.text_parameters
    assert merged.parameters == whole.parameters and merged.gmacs == whole.gmacs
    assert sum(weight.numel() for weight in model.parameters()) == round(merged.parameters * 1e6)


def test_training_goes_on_without_the_text(clip):
    model = whole_model(clip, freeze_text_model=False).merge_text_tower().train()
    model(pixels(), labels=torch.tensor([0, 2])).loss.backward()
    assert model.logit_scale.grad is not None and not model.class_embeds.requires_grad


@pytest.fixture(scope="module")
def exported(clip, tmp_path_factory):
    """An export of a merged model with a processor that has a tokenizer left, and videos."""
    root = tmp_path_factory.mktemp("merged")
    model = whole_model(clip)
    expected = logits_of(model)
    model.merge_text_tower()
    export(model, IlaVideoProcessor.for_model(model.config), root / "model")
    (root / "videos").mkdir()
    for index, video in enumerate(make_videos(3, seed=0)):
        write_mp4(root / "videos" / f"{index}.mp4", video.frames)
    return root, expected


def test_export_pipeline_evaluation_and_prediction(exported, tmp_path):
    root, expected = exported
    files = {path.name: path.stat().st_size for path in (root / "model").iterdir()}
    assert not [name for name in files if name.startswith("tokenizer")]
    assert not _missing_files(root / "model", files)
    assert "in the text tower" not in (root / "model" / "README.md").read_text()
    model, processor = load_trained(root / "model")
    assert torch.equal(logits_of(model.eval()), expected)
    paths = sorted(map(str, (root / "videos").iterdir()))
    answers = pipeline("video-classification", model=str(root / "model"))(paths[0], top_k=3)
    assert {answer["label"] for answer in answers} == set(LABELS)
    samples = [(path, index) for index, path in enumerate(paths)]
    logits = predict(model, processor, samples).logits
    assert abs(logits[0].softmax(-1).max().item() - answers[0]["score"]) < 1e-5
    assert evaluate(model, processor, samples)["counts"]["evaluated"] == len(listed_samples(samples))
    summary = label_videos(model, processor, named_videos(root / "videos"), output=tmp_path)
    assert summary.labelled == 3


def test_a_tokenizer_given_to_the_export_is_no_fault(clip, tmp_path):
    model = whole_model(clip).merge_text_tower()
    tokenizer = byte_tokenizer(tmp_path / "tokenizer")
    export(model, IlaProcessor(IlaVideoProcessor.for_model(model.config), tokenizer), tmp_path / "model")
    assert logits_of(IlaForVideoClassification.from_pretrained(tmp_path / "model")).shape == (2, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_int8_weights_as_the_readme_makes_them(exported, tmp_path):
    """Nearly the same logits; works in the pipeline, in evaluation and prediction, and is another model to them."""
    root, expected = exported
    model, processor = load_trained(root / "model")
    int8 = torch.ao.quantization.quantize_dynamic(model.eval(), {torch.nn.Linear}, dtype=torch.qint8)
    assert "DynamicQuantizedLinear" in str(int8.vision_model.encoder.layers[0].mlp.fc1)
    difference = (logits_of(int8) - expected).abs().max()
    assert 0 < difference < 0.5 * expected.std()
    paths = sorted(map(str, (root / "videos").iterdir()))
    answers = pipeline("video-classification", model=int8, video_processor=processor)(paths[0], top_k=3)
    logits = predict(int8, processor, [(path, 0) for path in paths], batch_size=1).logits  # a batch shares its scale
    assert abs(logits[0].softmax(-1).max().item() - answers[0]["score"]) < 1e-5
    assert torch.equal(logits_of(model), expected)  # a copy was quantised
    report = evaluate(int8, processor, [(paths[0], 0)])
    assert report["model"]["fingerprint"] == fingerprint(copy.deepcopy(int8)) != fingerprint(model)
    assert label_videos(int8, processor, named_videos(root / "videos"), output=tmp_path).labelled == 3


WITHOUT_THE_PACKAGE = """
import sys, torch
from transformers import AutoModelForVideoClassification, AutoProcessor

folder = sys.argv[1]
model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True).eval()
AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.") and not hasattr(model, "text_model")
with torch.no_grad():
    torch.save(model(torch.load("pixels.pt")).logits, "logits.pt")
model.save_pretrained(folder + "-again")
"""


@pytest.mark.slow
def test_without_the_package(exported):
    root, expected = exported
    torch.save(pixels(), root / "pixels.pt")
    run_elsewhere(root, root / "model", code=WITHOUT_THE_PACKAGE)
    torch.testing.assert_close(torch.load(root / "logits.pt"), expected)  # of a process with other threads
    assert torch.equal(logits_of(IlaForVideoClassification.from_pretrained(root / "model-again").eval()), expected)

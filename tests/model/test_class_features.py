"""A classifier whose text tower was merged into its class features: same logits, smaller, no tokenizer."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTokenizer, pipeline

from support.elsewhere import run_elsewhere
from support.inputs import pixels, randomised
from support.tiny_models import byte_tokenizer, save_clip, tiny_config
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

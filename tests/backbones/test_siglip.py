"""SigLIP and SigLIP 2 for any words: as transformers' own models, on real videos too; saved, evaluated, refused."""

import importlib.util
import logging

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoModelForVideoClassification,
    Siglip2ImageProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipVisionModel,
    pipeline,
)

from support.tiny_models import letters_tokenizer, save_siglip
from support.videos import SHARED, needs_shared, write_video
from transformers_ila import (
    FrozenClipForVideoClassification,
    IlaConfig,
    IlaForVideoClassification,
    IlaModel,
    IlaVideoProcessor,
    IlaVisionModel,
    SiglipForVideoClassification,
    SiglipVideoConfig,
)
from transformers_ila.backbones.siglip import in_eval_mode, none_of_these, patches_of
from transformers_ila.evaluation.evaluator import evaluate
from transformers_ila.evaluation.frame_information import last_patches
from transformers_ila.evaluation.inference import (
    evaluating,
    features_and_logits,
    load_trained,
    multi_view_logits,
    probabilities,
)
from transformers_ila.evaluation.options import EvaluationOptions, InferenceOptions
from transformers_ila.evaluation.report import fingerprint


FAMILIES = ("siglip", "siglip2")
WORDS = ["waving", "a Dog", "Fight!"]
TEMPLATE = "a video of {}."
EXACT = 1e-5  # of logits, against transformers' own models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Family -> its folder and transformers' own model."""
    folders = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    return {family: (folder, save_siglip(folder, family)) for family, folder in folders.items()}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def source(saved, family):
    return saved[family][0]


@pytest.fixture
def theirs(saved, family):
    return saved[family][1]


def load(source, **options):
    return SiglipForVideoClassification.from_pretrained(source, **{"labels": WORDS, **options}).eval()


def clips(*shape, seed=0):
    return torch.randn(*(shape or (2, 3)), 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def image_processor(family):
    if family == "siglip":
        return SiglipImageProcessor(size={"height": 28, "width": 28})
    return Siglip2ImageProcessor(patch_size=4, max_num_patches=49)


def tokens_of(texts):
    return letters_tokenizer()(texts, padding="max_length", max_length=32, truncation=True, return_tensors="pt")


@torch.no_grad()
def plain_logits(model, pictures, texts):
    """One video's logits (K,) by transformers' own model on its own inputs: frames' directions, averaged."""
    outputs = model(**pictures, **tokens_of(texts))
    video = F.normalize(outputs.image_embeds.mean(0), dim=0)
    return model.logit_scale.exp() * outputs.text_embeds @ video + model.logit_bias


# -- as transformers' own models --------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    ("name", "square"),
    [
        ("ucf101_v_SoccerJuggling_g23_c01.avi", False),
        ("keyboard_rot90_3frames.mov", False),  # portrait
        ("hmdb51_wave_RATRACE.avi", True),
    ],
)
def test_real_videos_score_as_by_transformers_own(source, theirs, family, name, square):
    model = load(source, templates=TEMPLATE, num_frames=3)
    processor = IlaVideoProcessor.for_model(model)
    video = SHARED / "real" / name
    frames = processor(video, do_resize=False, do_rescale=False, do_normalize=False, return_tensors="pt").pixel_values
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in frames[0].to(torch.uint8)]
    if square:
        side = min(pictures[0].size)
        video = pictures = [picture.crop((0, 0, side, side)) for picture in pictures]
    pixels = processor(video, return_tensors="pt").pixel_values
    expected = image_processor(family)(pictures, return_tensors="pt")
    if family == "siglip":
        assert torch.equal(pixels[0], expected["pixel_values"])
    else:
        made = patches_of(pixels[0], 4)
        assert torch.equal(made["pixel_values"], expected["pixel_values"][:, : made["pixel_values"].shape[1]])
        assert made["spatial_shapes"].tolist() == expected["spatial_shapes"].tolist()
    with torch.no_grad():
        logits = model(pixels).logits
    texts = ["a video of waving.", "a video of a Dog.", "a video of Fight!."]
    torch.testing.assert_close(logits[0], plain_logits(theirs, expected, texts), atol=EXACT, rtol=0)


def test_features_of_videos_and_texts(source, theirs):
    model = load(source)
    pixels = clips()
    with torch.no_grad():
        raw, unit = (model.get_video_features(pixels, normalize=normalize) for normalize in (False, True))
        frames = pixels.flatten(0, 1)
        inputs = patches_of(frames, 4) if model.config.is_naflex else {"pixel_values": frames}
        own = theirs.get_image_features(**inputs).pooler_output.unflatten(0, (2, 3))
        texts = theirs.get_text_features(**tokens_of(["a", "the b"])).pooler_output
        found = model.get_text_features(**tokens_of(["a", "the b"]), normalize=True).pooler_output
    torch.testing.assert_close(raw.frame_embeds, own)
    torch.testing.assert_close(unit.frame_embeds, F.normalize(own, dim=-1))
    torch.testing.assert_close(raw.pooler_output, F.normalize(F.normalize(own, dim=-1).mean(1), dim=-1))
    torch.testing.assert_close(found, F.normalize(texts, dim=-1))
    torch.testing.assert_close(model.encode_texts(["a", "the b"]), found)
    assert torch.equal(last_patches(model, pixels), raw.last_hidden_state)
    assert raw.last_hidden_state.shape == (2, 3, 49, 32) and model.encode_texts([]).shape == (0, 32)


def test_templates_are_averaged_and_kept(source, tmp_path):
    model = load(source, templates=["{}", "see {}"])
    parts = [model.encode_texts(WORDS, templates=template) for template in ("{}", "see {}")]
    expected = F.normalize(torch.stack(parts).mean(0), dim=-1)
    torch.testing.assert_close(model.class_embeds, expected)
    torch.testing.assert_close(model.encode_texts(WORDS), expected)
    torch.testing.assert_close(model.label_features(WORDS, templates="see {}"), parts[1])
    assert model.config.class_names == WORDS and model.config.label_templates == ["{}", "see {}"]
    model.set_labels(["x", "y"])  # read as the others were
    torch.testing.assert_close(model.class_embeds, model.encode_texts(["x", "y"], templates=["{}", "see {}"]))
    model.save_pretrained(tmp_path)
    again = SiglipForVideoClassification.from_pretrained(tmp_path, templates="{}")
    assert again.config.class_names == ["x", "y"]
    torch.testing.assert_close(again.class_embeds, again.encode_texts(["x", "y"], templates="{}"))


def test_gradients_reach_the_vision_tower_only(source):
    model = load(source, labels=["other"]).train()
    with torch.inference_mode():
        model.set_labels(WORDS)
    loss = model(clips(), labels=torch.tensor([[1, 0, 1], [0, 0, 0]])).loss
    scores = model(clips()).logits
    target = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(scores, target))
    loss.backward()
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert trained == {"vision_model", "logit_scale", "logit_bias"}


# -- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_sigmoids_and_so_is_none_of_these(source):
    model = load(source)
    with torch.no_grad():
        logits = model(clips()).logits
    chances = probabilities(logits, multi_label=model.config.problem_type == "multi_label_classification")
    torch.testing.assert_close(chances, 1 / (1 + (-logits.double()).exp()))
    product = torch.stack([(1 - p[0]) * (1 - p[1]) * (1 - p[2]) for p in chances])
    torch.testing.assert_close(none_of_these(chances), product)
    torch.testing.assert_close(none_of_these(chances[:, :1]), 1 - chances[:, 0])
    one = load(source, labels=["waving"])
    torch.testing.assert_close(one(clips()).logits[:, 0], logits[:, 0])
    shared = load(source, problem_type="single_label_classification")
    views = clips(1, 2, 3)
    torch.testing.assert_close(
        shared(views).logits.softmax(-1),
        shared(views[:, 0]).logits.softmax(-1) / 2 + shared(views[:, 1]).logits.softmax(-1) / 2,
    )


def test_views_are_averaged_as_sigmoids(source):
    model = load(source)
    views = clips(2, 2, 3)
    with torch.no_grad():
        apart = torch.stack([model(views[:, view]).logits.sigmoid() for view in range(2)])
        logits = multi_view_logits(model, views)
        features, same = features_and_logits(model, views)
    torch.testing.assert_close(logits.sigmoid(), apart.mean(0))
    torch.testing.assert_close(same, logits)
    assert features.shape == (2, 32)


def test_naflex_takes_any_aspect(saved):
    model = load(saved["siglip2"][0])
    pixels = torch.randn(1, 2, 3, 16, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = patches_of(pixels[0], 4)
        rest = 49 - own["pixel_values"].shape[1]
        mask = F.pad(torch.ones(2, 40, dtype=torch.int32), (0, rest))
        behind = F.pad(own["pixel_values"], (0, 0, 0, rest), value=7.0)
        padded = {**own, "pixel_values": behind, "pixel_attention_mask": mask}
        expected = plain_logits(saved["siglip2"][1], padded, WORDS)
        torch.testing.assert_close(model(pixels).logits[0], expected, atol=EXACT, rtol=0)


# -- words ------------------------------------------------------------------------------------------------------------


def test_long_texts_are_named(source, caplog):
    with caplog.at_level(logging.WARNING, logger="transformers"):
        load(source, labels=["x" * 50, "y"])
    (message,) = [record.getMessage() for record in caplog.records if "are cut" in record.getMessage()]
    assert "to the 32 tokens" in message and "(50 tokens)" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["Walk", "walk"]}, "it reads 'Walk' and 'walk' alike"),
        ({"labels": ["a", "a"]}, "different names, these repeat"),
        ({"labels": ["LABEL_0", "LABEL_1"]}, "must be words, got the numbers"),
        ({"templates": "no place"}, "each with one `{}` for the name"),
        ({"tokenizer": "/nowhere"}, "'/nowhere' holds none"),
        (
            {"problem_type": "single_label_classification", "labels": ["a"]},
            "of a single class the softmax is always 1",
        ),
        ({"problem_type": "regression"}, "got regression"),
        ({"label_smoothing": 0.1}, "whose loss has no smoothing"),
        ({"num_frames": 0}, "`num_frames` is 0"),
        ({"temporal_module": "none"}, "There is no field `temporal_module`"),
        ({"image_size": 56}, "it is a field of `vision_config`"),
        ({"labels": None, "num_labels": 5}, "`num_labels` is 5"),
    ],
)
def test_what_is_no_name_or_setting_is_refused(saved, options, message):
    with pytest.raises(Exception, match=message):
        load(saved["siglip"][0], **options)


def test_without_words_there_are_features_only(source):
    model = load(source, labels=None)
    model.mark_trained()
    assert model.class_embeds is None and model.untrained() == []
    assert model.get_video_features(clips()).pooler_output.shape == (2, 32)
    with pytest.raises(ValueError, match="The classes have no names: call `set_labels`"):
        model(clips())
    with pytest.raises(ValueError, match="must be a list of strings, got 'word'"):
        model.encode_texts("word")
    model.set_labels(WORDS)
    torch.testing.assert_close(model(clips()).logits, load(source)(clips()).logits)


def test_a_tokenizer_is_asked_for(tmp_path):
    save_siglip(tmp_path, "siglip2", tokenizer=False)
    with pytest.raises(ValueError, match="holds none"):
        load(tmp_path)
    assert load(tmp_path, tokenizer=letters_tokenizer()).config.class_names == WORDS


def test_pixels_of_another_shape_are_refused(source):
    model = load(source)
    for pixels in (torch.zeros(2, 3, 3, 30, 28), torch.zeros(2, 3, 28, 28), torch.zeros(1, 2, 4, 28, 28)):
        with pytest.raises(ValueError, match=r"`pixel_values` must be \(videos, frames"):
            model(pixels)
    with pytest.raises(ValueError, match="must be normalised by the processor, got torch.uint8"):
        model(torch.zeros(1, 2, 3, 28, 28, dtype=torch.uint8))


def test_siglips_own_tokenizer(tmp_path):
    """Capitals and punctuation go, texts end with </s>, which pads them too, and no mask comes back."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import SiglipTokenizer  # which needs it

    theirs = save_siglip(tmp_path, tokenizer=False)
    (tmp_path / "words.txt").write_text("a video of somebody waving a hand\nthe quick brown fox\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=60,
        hard_vocab_limit=False, unk_id=2, bos_id=-1, eos_id=1, pad_id=0, add_dummy_prefix=False, minloglevel=2,
    )  # fmt: skip
    own = SiglipTokenizer(str(tmp_path / "spiece.model"), model_input_names=["input_ids"], model_max_length=32)
    own.save_pretrained(tmp_path)
    model = load(tmp_path, labels=["Waving!", "the Fox"], templates=TEMPLATE)
    tokens = own(["a video of Waving!.", "a video of the Fox."], padding="max_length", return_tensors="pt")
    assert set(tokens) == {"input_ids"} and type(model.tokenizer) is SiglipTokenizer
    pixels = clips(2, 1)
    with torch.no_grad():
        expected = theirs(**tokens, pixel_values=pixels[:, 0]).logits_per_image
        torch.testing.assert_close(model(pixels).logits, expected, atol=EXACT, rtol=0)
    model.save_pretrained(tmp_path / "saved")
    again = SiglipForVideoClassification.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again.encode_texts(["the fox"]), model.encode_texts(["The fox!"]))
    with pytest.raises(ValueError, match="'waving' and 'Waving!' alike"):
        again.set_labels(["waving", "Waving!"])


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is here")
def test_a_missing_package_of_the_tokenizer_is_named(tmp_path):
    save_siglip(tmp_path, tokenizer=False)
    (tmp_path / "spiece.model").write_bytes(b"any")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "SiglipTokenizer"}')
    with pytest.raises(ValueError, match="is not installed. Install `sentencepiece` and `protobuf`"):
        load(tmp_path)


# -- saved, loaded, evaluated -----------------------------------------------------------------------------------------


def test_saved_and_loaded(source, tmp_path):
    model = load(source, templates=TEMPLATE)
    model.save_pretrained(tmp_path)
    IlaVideoProcessor.for_model(model).save_pretrained(tmp_path)
    again, processor = load_trained(tmp_path)
    assert type(again) is SiglipForVideoClassification and type(again.config) is SiglipVideoConfig
    assert torch.equal(again.eval()(clips()).logits, model(clips()).logits)
    assert fingerprint(again) == fingerprint(model) and again.config.label_templates == [TEMPLATE]
    assert processor.max_num_patches == (49 if again.config.is_naflex else None)
    half = AutoModelForVideoClassification.from_pretrained(tmp_path, dtype="bfloat16")
    torch.testing.assert_close(half(clips().bfloat16()).logits.float(), model(clips()).logits, atol=0.5, rtol=0.1)
    again.set_labels(["other words"])  # with the tokenizer that was saved
    assert again(clips()).logits.shape == (2, 1)


def test_networks_of_an_evaluation(source):
    model = load(source)
    before = fingerprint(model)
    for options in (InferenceOptions(), InferenceOptions(dtype="bfloat16"), InferenceOptions(fuse=False)):
        with evaluating(model, options) as network:
            logits = multi_view_logits(network.module, clips().to(network.dtype))
        assert network.why_not_fused is None or not options.fuse
        torch.testing.assert_close(
            logits, model(clips()).logits, atol=1e-5 if network.dtype == torch.float32 else 0.5, rtol=0
        )
    with pytest.raises(ValueError, match="`save_pretrained` was called on a snapshot"):
        model.fuse().save_pretrained("nowhere")
    assert fingerprint(model) == before


def test_evaluated_with_videos_of_several_aspects(source, tmp_path):
    model = load(source, num_frames=2)
    paths = [write_video(tmp_path / f"{index}.mp4", 4) for index in range(4)]
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(2):
        Image.new("RGB", (20, 60), (40 * index, 90, 10)).save(folder / f"{index}.png")
    sources = [paths[0], paths[1], folder, paths[2], paths[3]]
    samples = [(path, index % 3) for index, path in enumerate(sources)]
    processor = IlaVideoProcessor.for_model(model)
    found = evaluate(model, processor, samples, EvaluationOptions(batch_size=2))
    alone = [model(processor(path, return_tensors="pt").pixel_values).logits[0] for path in sources]
    torch.testing.assert_close(found.predictions.logits.float(), torch.stack(alone), atol=EXACT, rtol=0)


def test_in_transformers_pipeline(source, tmp_path):
    model = load(source, num_frames=2)
    model.save_pretrained(tmp_path)
    IlaVideoProcessor.for_model(model).save_pretrained(tmp_path)
    video = write_video(tmp_path / "clip.mp4", 4)
    answers = pipeline("video-classification", model=str(tmp_path))(str(video), top_k=3)
    processor = IlaVideoProcessor.from_pretrained(tmp_path)
    chances = model(processor(video, return_tensors="pt").pixel_values).logits[0].sigmoid()
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(WORDS, chances.tolist()))
    )


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [IlaForVideoClassification, IlaModel, IlaVisionModel, FrozenClipForVideoClassification, IlaConfig]
)
def test_no_backbone(source, kind):
    with pytest.raises(ValueError, match="holds a Siglip.* nothing can be loaded .*SiglipForVideoClassification"):
        kind.from_pretrained(source)


def test_other_doors_are_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="SiglipForVideoClassification"):
        IlaForVideoClassification.from_pretrained(saved["siglip"][0], labels=WORDS, zero_shot=True)
    SiglipVisionModel.from_pretrained(saved["siglip"][0]).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="siglip_vision_model"):
        load(tmp_path / "vision")
    whole = SiglipModel.from_pretrained(saved["siglip"][0])
    weights = {name: weight for name, weight in whole.state_dict().items() if not name.startswith("text_model")}
    whole.save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(ValueError, match="holds no whole SigLIP"):
        load(tmp_path / "half")
    with pytest.raises(Exception, match="vision_config.vision_use_head"):
        SiglipVideoConfig(vision_config={"vision_use_head": False})
    with pytest.raises(Exception, match="text_config.model_type"):
        SiglipVideoConfig(vision_config={"model_type": "siglip2_vision_model"})


def test_numbers_of_pictures_in_a_file_are_no_setting(saved, tmp_path):
    """A `config.json` of transformers may name a problem, which belongs to another head."""
    whole = SiglipModel.from_pretrained(saved["siglip"][0])
    whole.config.problem_type = "single_label_classification"
    whole.save_pretrained(tmp_path)
    config = SiglipVideoConfig.from_pretrained(tmp_path)
    assert config.problem_type == "multi_label_classification"
    assert SiglipVideoConfig.from_dict(SiglipConfig().to_dict()).vision_config.image_size == 224


def test_modes_are_restored():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
    model[1].eval()
    with pytest.raises(KeyError), in_eval_mode(model):
        assert not model[0].training and not torch.is_grad_enabled()
        raise KeyError
    assert model.training and model[0].training and not model[1].training and torch.is_grad_enabled()

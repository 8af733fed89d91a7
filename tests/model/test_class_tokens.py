"""Class names as tokens and features, templates, and CLIP alone, which recognises any words without training."""

import copy
import logging

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel, pipeline

from support.inputs import CLOSE, pixels, randomised
from support.paths import SHARED
from support.tiny_models import byte_tokenizer, save_clip, save_timesformer, save_vit, tiny_config
from transformers_ila import (
    AlignedTimesformerForVideoClassification,
    FrozenClipForVideoClassification,
    IlaConfig,
    IlaForVideoClassification,
    IlaModel,
    IlaVideoProcessor,
)
from transformers_ila.evaluation.report import fingerprint
from transformers_ila.model import class_features_ila
from transformers_ila.model.class_features_ila import (
    ACTION_TEMPLATES,
    alike_features,
    alike_tokens,
    check_templates,
    tokenize_labels,
)
from transformers_ila.model.configuration_ila import PLAIN_CLIP
from transformers_ila.motionbench.tasks import make_videos
from transformers_ila.video_writing import write_mp4


WORDS = ["juggle", "waving", "falls"]
TWO = ["a video of {}.", "{}, filmed"]
REAL = SHARED / "videos" / "real" / "ucf101_v_SoccerJuggling_g23_c01.avi"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP checkpoint whose features differ much between frames and between texts."""
    folder = save_clip(tmp_path_factory.mktemp("clip"))
    randomised(CLIPModel.from_pretrained(folder)).save_pretrained(folder)
    return folder


# -- names that a text tower cannot tell apart, and tokens and text features that are none ---------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model():
    """A model that is not changed: what fails leaves it as it was."""
    return randomised(IlaForVideoClassification(tiny_config(num_labels=3, use_video_prompt=False))).eval()


ALIKE = {
    "case": ["run", "Walk", "walk"],
    "blanks before a sign": ["walk , run", "walk, run"],
    "composed letters": ["caf\u00e9", "cafe\u0301"],
    "cut": ["x" * 40 + "a", "x" * 40 + "b"],
}


@pytest.mark.parametrize("names", ALIKE.values(), ids=ALIKE)
def test_names_that_the_tokenizer_reads_alike_are_refused(clip, names):
    cut = "of which it keeps 32 tokens.*" if len(names[0]) > 32 else ""
    with pytest.raises(ValueError, match=f"{names[-2]!r} and {names[-1]!r} alike.*{cut}always get the same score"):
        IlaForVideoClassification.from_pretrained(clip, labels=names)
    linear = IlaForVideoClassification.from_pretrained(clip, labels=names, classification_head="linear")
    assert linear.config.class_names == names  # which reads no text


def test_text_that_cannot_be_encoded(tokenizer):
    with pytest.raises(ValueError, match=r"UTF-8 can hold, got \['a\\udc80'\]"):
        tokenize_labels(["a\udc80", "b"], tokenizer, tiny_config().text_config)


@pytest.mark.parametrize("end", [98, 2])
def test_what_stands_behind_the_end_of_a_text_tells_no_classes_apart(end):
    text = tiny_config(text_config={"vocab_size": 99, "eos_token_id": end}).text_config
    last = 98  # 2 is CLIP's old sign for the highest id
    assert alike_tokens(torch.tensor([[5, last, 3], [6, last, 3], [5, last, 4]]), text) == (0, 2)
    assert alike_tokens(torch.tensor([[5, 3, last], [5, last, 3]]), text) is None


@pytest.mark.parametrize(
    "ids, said",
    [
        ([[5, 98, 3], [6, 98, 3], [5, 98, 4]], r"rows 0 and 2 \('LABEL_0', 'LABEL_2'\) are alike"),
        ([[5, 6, 3], [5, 7, 4]], "rows 0 and 1"),  # no end of text: only the first token is read
        ([[True, False]], "integers.*torch.bool"),
        (torch.full((2, 4), 1j), "integers.*complex"),
        ([[5, 98], [6]], "rows of equal length"),
        ("walk", "rows of equal length"),
        ([["walk"]], "rows of equal length"),
    ],
)
def test_tokens_that_name_no_classes(model, ids, said):
    before = model(pixels()).logits
    with pytest.raises(ValueError, match=f"`input_ids` must.*{said}"):
        model.set_class_input_ids(ids)
    assert torch.equal(model(pixels()).logits, before)


def test_tokens_of_other_integers_are_taken_and_rows_without_an_end_are_told(model, caplog):
    model = copy.deepcopy(model)
    ids = np.array([[5, 98], [6, 98]], dtype=np.uint16)
    model.set_class_input_ids(ids, labels=(name for name in "ab"))
    assert model.class_input_ids.dtype == torch.long and model.config.class_names == ["a", "b"]
    assert "eos_token_id" not in caplog.text
    model.set_class_input_ids([[5, 6], [6, 98]])
    assert "only the first token" in caplog.text


FEATURES = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "embeds, said",
    [
        (FEATURES[[0, 1, 0]], r"rows 0 and 2 \('LABEL_0', 'LABEL_2'\) are alike"),
        (torch.stack([FEATURES[0], FEATURES[1], 3 * FEATURES[1]]), "rows 1 and 2"),
        (torch.ones(3, 64, dtype=torch.long), "floating-point numbers, got torch.int64"),
        (torch.ones(3, 64, dtype=torch.bool), "floating-point numbers, got torch.bool"),
        (FEATURES.to(torch.complex64), "floating-point numbers, got torch.complex64"),
        (FEATURES.masked_fill(FEATURES > 2, float("nan")), "finite, those of class 'LABEL_"),
        (FEATURES.masked_fill(FEATURES > 2, float("inf")), "finite"),
        (FEATURES.double() * 1e300, "finite"),  # more than the model's numbers can hold
        (FEATURES * torch.tensor([[1.0], [0.0], [1.0]]), r"different from 0, those of class 'LABEL_1' \(row 1\)"),
        (FEATURES * 1e-30, "of a length that torch.float32 can bring to 1"),  # all cosines would be 0
        (FEATURES * 1e30, "of a length"),
        ("walk", "rows of equal length"),
    ],
)
def test_text_features_that_name_no_classes(model, embeds, said):
    before = model(pixels()).logits
    with pytest.raises(ValueError, match=f"`embeds` must.*{said}"):
        model.set_class_embeddings(embeds)
    assert torch.equal(model(pixels()).logits, before)


@pytest.mark.parametrize(
    "labels", [["", "a", "b"], ["a", "a", "b"], ["a", "a ", "b"], {"a", "b", "c"}, ["a", "b"], "abc"]
)
def test_names_beside_tokens_and_text_features(model, labels):
    for call in (model.set_class_embeddings, model.set_class_input_ids):
        with pytest.raises(ValueError, match="`labels` must"):
            call(FEATURES if call == model.set_class_embeddings else [[5, 98], [6, 98], [7, 98]], labels)
    for call, one in ((model.set_class_embeddings, FEATURES[:1]), (model.set_class_input_ids, [[5, 98]])):
        with pytest.raises(ValueError, match="`num_labels` is 1; allowed: 2 or more"):
            call(one)
    assert model.config.class_names == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_many_text_features_are_compared(model):
    model = copy.deepcopy(model)
    many = torch.randn(2500, 64, generator=torch.Generator().manual_seed(0))
    model.set_class_embeddings(many)
    many[2400] = many[1100]
    with pytest.raises(ValueError, match="rows 1100 and 2400"):
        model.set_class_embeddings(many)


def test_stored_classes_that_are_read_alike_load_and_are_told(clip, tmp_path, caplog):
    model = IlaForVideoClassification.from_pretrained(clip, labels=["walk", "run"])
    model.class_input_ids[1] = model.class_input_ids[0]  # as earlier versions saved "Walk" and "walk"
    model.save_pretrained(tmp_path)
    assert torch.equal(IlaForVideoClassification.from_pretrained(tmp_path).class_input_ids, model.class_input_ids)
    assert "tokens of 'walk' and 'run' are read alike" in caplog.text


def test_placeholders_are_told_whenever_they_are_loaded_or_saved(clip, tmp_path, caplog):
    model = IlaForVideoClassification(tiny_config(id2label={0: "walk", 1: "run"}))
    with caplog.at_level(logging.WARNING):
        model.save_pretrained(tmp_path / "made")
    assert "saved without their tokens" in caplog.text
    copy.deepcopy(model).merge_text_tower()
    assert "features stored for them are those of placeholders" in caplog.text
    caplog.clear()
    loaded = IlaForVideoClassification.from_pretrained(tmp_path / "made")
    assert "call `set_labels`" in caplog.text
    IlaForVideoClassification.from_pretrained(tmp_path / "made", class_features="embeddings")
    assert "random ones stand for them" in caplog.text
    made = IlaForVideoClassification(tiny_config(class_features="embeddings", num_labels=3))
    assert alike_features(made.class_embeds) is None  # zeros would give all classes one score
    torch.testing.assert_close(loaded(pixels()).logits, model.eval()(pixels()).logits, **CLOSE)
    named = IlaForVideoClassification.from_pretrained(clip, labels=["walk", "run"])
    caplog.clear()
    named.save_pretrained(tmp_path / "named")
    IlaForVideoClassification.from_pretrained(tmp_path / "named")
    assert "placeholders" not in caplog.text
    IlaForVideoClassification.from_pretrained(tmp_path / "named", num_labels=4, ignore_mismatched_sizes=True)
    assert "call `set_labels`" in caplog.text


# -- any words without training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(clip, tmp_path_factory):
    """An ILA checkpoint with a text head and a tower of its own."""
    folder = tmp_path_factory.mktemp("trained")
    model = IlaForVideoClassification.from_pretrained(clip, labels=WORDS, num_frames=4, alignment_hidden_size=8)
    randomised(model).save_pretrained(folder)
    return folder


def zero_shot(path, labels=WORDS, **options):
    return IlaForVideoClassification.from_pretrained(path, labels=labels, zero_shot=True, **options).eval()


def of_clip(folder, tokenizer, videos, sentences):
    """Logits of Transformers' CLIP: frames and texts one by one, averaged at unit length. (B, T, ...) -> (B, K)"""
    model = CLIPModel.from_pretrained(folder).eval()

    def unit(output):
        return F.normalize(output if isinstance(output, torch.Tensor) else output.pooler_output, dim=-1)

    with torch.no_grad():
        tokens = [tokenizer(same, return_tensors="pt", padding=True) for same in sentences]
        texts = torch.stack([unit(unit(model.get_text_features(**inputs)).mean(0)) for inputs in tokens])
        found = torch.stack([unit(unit(model.get_image_features(frames)).mean(0)) for frames in videos])
        return model.logit_scale.exp() * found @ texts.T


@pytest.mark.parametrize("templates", [None, "a video of {}.", TWO, "actions"])
def test_it_equals_clip_of_transformers(clip, templates):
    model = zero_shot(clip, num_frames=5, templates=templates)
    shapes = check_templates(templates or "{}")
    sentences = [[shape.replace("{}", word) for shape in shapes] for word in WORDS]
    expected = of_clip(clip, model.tokenizer, pixels(frames=5), sentences)
    torch.testing.assert_close(model(pixels(frames=5)).logits, expected, **CLOSE)
    assert model.config.class_names == WORDS and expected.std() > 0.01


@pytest.mark.skipif(not REAL.is_file(), reason="the shared videos are not here")
def test_it_equals_clip_of_transformers_on_a_real_video(clip):
    model = zero_shot(clip)
    videos = IlaVideoProcessor.for_model(model.config)(str(REAL), return_tensors="pt")["pixel_values"]
    expected = of_clip(clip, model.tokenizer, videos, [[word] for word in WORDS])
    torch.testing.assert_close(model(videos).logits, expected, **CLOSE)


def test_without_frames_in_common_any_number_and_size_is_taken(clip):
    one, many = zero_shot(clip, num_frames=1), zero_shot(clip, num_frames=9)
    still = pixels(frames=1)
    torch.testing.assert_close(many(still.expand(-1, 9, -1, -1, -1)).logits, one(still).logits, **CLOSE)
    larger = zero_shot(clip, num_frames=2, image_size=36)
    clip_larger = CLIPModel.from_pretrained(clip).eval()
    output = clip_larger.get_image_features(pixels(frames=2, size=36)[0], interpolate_pos_encoding=True)
    video = larger.get_video_features(pixels(frames=2, size=36))
    torch.testing.assert_close(video.frame_embeds[0], output.pooler_output, **CLOSE)


@pytest.mark.parametrize("templates", ["a {}.", TWO])
def test_saved_loaded_fused_cast_and_given_other_words(clip, tmp_path, templates):
    model = zero_shot(clip, num_frames=4, templates=templates)
    expected = model(pixels()).logits
    model.save_pretrained(tmp_path)
    loaded = IlaForVideoClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(pixels()).logits, expected)
    assert {name: getattr(loaded.config.vision_config, name, None) for name in PLAIN_CLIP} == {
        **PLAIN_CLIP,
        "use_video_prompt": None,
    }
    again = IlaForVideoClassification.from_pretrained(tmp_path, labels=["runs", "sits"], zero_shot=True)
    model.set_labels(["runs", "sits"])
    assert torch.equal(again.class_text_features(), model.class_text_features())
    assert again.config.label_templates == model.config.label_templates == check_templates(templates)
    torch.testing.assert_close(loaded.fuse()(pixels()).logits, expected, **CLOSE)
    views = loaded(pixels(2)).logits.softmax(-1)
    parts = [loaded(pixels(2)[:, view]).logits.softmax(-1) for view in range(2)]
    torch.testing.assert_close(views, sum(parts) / 2, **CLOSE)
    half = zero_shot(clip, num_frames=4, templates=templates, dtype=torch.bfloat16)
    found = half(pixels().bfloat16()).logits
    assert found.dtype == torch.bfloat16 and (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_pipeline_for_video_classification(clip, tmp_path):
    zero_shot(clip, num_frames=4).save_pretrained(tmp_path / "model")
    IlaVideoProcessor.for_model(IlaConfig.from_pretrained(tmp_path / "model")).save_pretrained(tmp_path / "model")
    write_mp4(tmp_path / "clip.mp4", next(make_videos(1, seed=0)).frames)
    answers = pipeline("video-classification", model=str(tmp_path / "model"))(str(tmp_path / "clip.mp4"))
    assert {answer["label"] for answer in answers} == set(WORDS)


def test_it_can_be_trained_on(clip):
    model = zero_shot(clip, num_frames=4).train()
    model(pixels(), labels=torch.tensor([0, 2])).loss.backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert {"logit_scale", "visual_projection.weight", "vision_model.embeddings.class_embedding"} <= trained
    assert not [name for name in trained if name.startswith("text_")]
    thawed = zero_shot(clip, num_frames=4, freeze_text_model=False, templates="a {}.").train()
    thawed(pixels(), labels=torch.tensor([0, 2])).loss.backward()
    assert thawed.text_projection.weight.grad.abs().max() > 0


def test_without_words_nothing_is_said_and_features_are_there(clip, caplog):
    with caplog.at_level(logging.WARNING):
        model = zero_shot(clip, None, num_frames=4, templates=TWO)
    assert "placeholders" not in caplog.text
    features = model.get_video_features(pixels(), normalize=True).pooler_output
    cosines = features @ model.encode_texts(WORDS).T
    model.set_labels(WORDS)
    torch.testing.assert_close(model(pixels()).logits, model.logit_scale.exp() * cosines, **CLOSE)


def test_an_ila_checkpoint_keeps_its_network(trained):
    other = ["runs", "sits"]
    model, plain = zero_shot(trained, other), IlaForVideoClassification.from_pretrained(trained).eval()
    plain.set_labels(other)
    assert torch.equal(model(pixels()).logits, plain(pixels()).logits)
    assert model.config.vision_config.temporal_module == "ila" and model.config.use_video_prompt
    config = IlaConfig.from_pretrained(trained, num_frames=4)
    assert torch.equal(zero_shot(trained, other, config=config)(pixels()).logits, plain(pixels()).logits)


def test_ready_text_features_make_room_for_words(trained, tmp_path):
    model = IlaForVideoClassification.from_pretrained(trained)
    model.set_class_embeddings(torch.randn(3, 64))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="learned other classes"):
        IlaForVideoClassification.from_pretrained(tmp_path, labels=["runs", "sits"])
    found = zero_shot(tmp_path, ["runs", "sits"])
    unit = F.normalize(found.class_text_features(), dim=-1)
    torch.testing.assert_close(found.encode_texts(["runs", "sits"]), unit, **CLOSE)
    model.merge_text_tower().save_pretrained(tmp_path / "merged")
    with pytest.raises(ValueError, match="no more.*merge_text_tower"):
        zero_shot(tmp_path / "merged", ["runs", "sits"])
    with pytest.raises(ValueError, match="`set_labels` needs the text tower"):
        IlaForVideoClassification.from_pretrained(tmp_path / "merged", templates="a {}")


OTHER_NETWORKS = [
    ({"temporal_module": "shift"}, r"'temporal_module': 'none'\}; got \{'temporal_module': 'shift'"),
    ({"classification_head": "linear"}, "got .*linear"),
    ({"vision_config": {"mit_num_hidden_layers": 1}}, "got .*'mit_num_hidden_layers': 1"),
    ({"use_video_prompt": True}, "got .*'use_video_prompt': True"),
    ({"class_features": "merged"}, "got .*merged"),
    ({"config": tiny_config()}, "got .*'temporal_module': 'ila'"),
]


@pytest.mark.parametrize("fields, said", OTHER_NETWORKS)
def test_fields_of_another_network_are_refused(clip, fields, said):
    with pytest.raises(ValueError, match=f"`zero_shot=True` takes .*{said}"):
        zero_shot(clip, **fields)


def test_checkpoints_and_models_without_words_are_refused(clip, trained, tmp_path):
    with pytest.raises(ValueError, match="keeps|takes .*'ila'.*got .*'none'"):
        zero_shot(trained, temporal_module="none")
    IlaForVideoClassification(tiny_config(classification_head="linear")).save_pretrained(tmp_path / "linear")
    with pytest.raises(ValueError, match="needs a text head, .*linear' has a linear one"):
        zero_shot(tmp_path / "linear")
    save_vit(tmp_path / "vit")
    CLIPVisionModel.from_pretrained(clip).save_pretrained(tmp_path / "half")
    (tmp_path / "empty").mkdir()
    for folder, said in (
        ("vit", "needs CLIP's text tower.*`model_type` 'vit', allowed: 'clip'"),
        ("half", "holds a CLIPVisionModel.*nothing can be loaded"),
        ("empty", "has no config.json"),
    ):
        with pytest.raises(ValueError, match=said):
            zero_shot(tmp_path / folder)
    with pytest.raises(ValueError, match="FrozenClipConfig has a linear one"):
        FrozenClipForVideoClassification.from_pretrained(clip, zero_shot=True)
    with pytest.raises(ValueError, match=r"needs all weights.*lacks 2, such as \['text_projection.weight'"):
        weights = CLIPModel.from_pretrained(clip).state_dict()
        kept = {name: weight for name, weight in weights.items() if "_projection" not in name}
        CLIPModel.from_pretrained(clip).save_pretrained(tmp_path / "lacking", state_dict=kept)
        byte_tokenizer(tmp_path / "lacking")
        zero_shot(tmp_path / "lacking")


def test_configurations_of_clip_are_taken(clip):
    model = zero_shot(clip, config=CLIPConfig.from_pretrained(clip))
    assert model.config.vision_config.normalize_frames
    assert zero_shot(clip, config=str(clip)).config.to_dict() == model.config.to_dict()


# -- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "templates, said",
    [
        ("a video", "'a video'"),
        ("{} and {}", "'{} and {}'"),
        ("{label}", "'{label}'"),
        ("{{}}", "'{{}}'"),
        ("a {} {", "'a {} {'"),
        (["a {}", "a {}"], r"\['a {}'\]"),
        (["a {}", 3], r"\['a {}', 3\]"),
        ([], r"\[\]"),
        ({"a {}"}, "{'a {}'}"),
        ("\udc80 {}", "udc80"),
        (3, r"3"),
    ],
)
def test_sentences_without_one_place_for_a_name_are_refused(templates, said):
    with pytest.raises(ValueError, match=f"`templates` is .*{said}.*allowed: one or more different sentences"):
        check_templates(templates)


def test_a_configuration_holds_sentences_and_says_nothing_of_none():
    with pytest.raises(StrictDataclassError, match="`label_templates` is 'a video'"):
        tiny_config(label_templates=["a video"])
    assert tiny_config(label_templates=("a {}",)).label_templates == ("a {}",)
    assert check_templates("actions") == list(ACTION_TEMPLATES) and len(ACTION_TEMPLATES) > 9


DOORS = {
    "argument": lambda path: {"templates": "a {}."},
    "field": lambda path: {"label_templates": ["a {}."]},
    "configuration": lambda path: {"config": IlaConfig.from_pretrained(path, label_templates=["a {}."])},
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("labels", [None, WORDS, ["runs", "sits"]])
def test_templates_of_a_checkpoint_that_has_names(trained, tmp_path, door, labels):
    model = IlaForVideoClassification.from_pretrained(trained, labels=labels, **DOORS[door](trained))
    expected = IlaForVideoClassification.from_pretrained(trained)
    expected.set_labels(labels or WORDS, templates="a {}.")
    assert torch.equal(model.class_input_ids, expected.class_input_ids)
    assert list(model.config.label_templates) == ["a {}."] and model.config.class_names == (labels or WORDS)
    model.save_pretrained(tmp_path)
    config = IlaConfig.from_pretrained(trained)  # which says nothing of templates
    loaded = IlaForVideoClassification.from_pretrained(tmp_path, config=config)
    if labels != ["runs", "sits"]:  # else its names are asked for
        assert loaded.config.label_templates == ["a {}."]
        assert torch.equal(loaded.class_input_ids, model.class_input_ids)


def test_one_several_and_no_template_after_each_other(clip):
    model = zero_shot(clip)
    bare = model.class_input_ids
    for templates, kind in ((TWO, "embeddings"), ("a {}.", "tokens"), ("actions", "embeddings"), ("{}", "tokens")):
        model.set_labels(WORDS, templates=templates)
        assert model.config.class_features == kind and model.config.class_names == WORDS
        assert model.config.label_templates == check_templates(templates)
        unit = F.normalize(model.class_text_features(), dim=-1)
        torch.testing.assert_close(unit, model.encode_texts(WORDS), **CLOSE)
        before = model.class_text_features()
        model.set_labels([*WORDS, "sits"])  # read as the others are
        torch.testing.assert_close(model.class_text_features()[:3], before, **CLOSE)
    assert torch.equal(model.class_input_ids[:3], bare)


def test_what_is_given_ready_was_not_read_in_sentences(clip):
    model = zero_shot(clip, templates=TWO)
    model.set_class_embeddings(torch.randn(3, 64))
    assert model.config.label_templates is None
    with pytest.raises(ValueError, match="learned other classes"):
        model.set_labels(["runs", "sits"])
    model.set_labels(["runs", "sits"], templates="a {}")
    model.set_class_input_ids(model.class_input_ids)
    assert model.config.label_templates is None


def test_templates_that_nothing_could_read(clip, tmp_path):
    with pytest.raises(ValueError, match="2 templates are averaged once, and the text tower is to be trained"):
        zero_shot(clip, freeze_text_model=False, templates=TWO)
    linear = IlaForVideoClassification(tiny_config(classification_head="linear"))
    with pytest.raises(ValueError, match='needs `classification_head="text"`'):
        linear.set_labels(WORDS, templates="a {}")
    save_vit(tmp_path)
    for templates in ({"templates": "a {}"}, {"label_templates": ["a {}"]}):
        with pytest.raises(ValueError, match='`templates` needs `classification_head="text"`'):
            IlaForVideoClassification.from_pretrained(tmp_path, labels=WORDS, **templates)
    with pytest.raises(ValueError, match="two names of one thing"):
        zero_shot(clip, templates="a {}", label_templates=["a {}"])


@pytest.mark.parametrize("templates", ["a {}.", TWO])
def test_names_that_are_alike_in_a_sentence(clip, templates):
    model = zero_shot(clip, ["a", "b"])
    with pytest.raises(ValueError, match="'Walk' and 'walk' alike in '.*': the two classes"):
        model.set_labels(["Walk", "walk"], templates=templates)
    long = "a sentence so long that no room is left {}"
    with pytest.raises(ValueError, match="'c' and 'd' alike in 'a sentence.*of which it keeps 32 tokens"):
        model.set_labels(["c", "d"], templates=long if templates != TWO else [TWO[0], long])
    assert model.config.class_names == ["a", "b"] and model.config.label_templates is None


# -- features of texts and videos -------------------------------------------------------------------------------------


@pytest.fixture
def encodings(monkeypatch):
    """The numbers of texts in every call of a text tower."""
    counts, whole = [], class_features_ila.ClassTextFeatures._shortest
    monkeypatch.setattr(
        class_features_ila.ClassTextFeatures,
        "_shortest",
        lambda self, ids: counts.append(len(ids)) or whole(self, ids),
    )
    return counts


@pytest.mark.parametrize("templates, expected", [("a {}.", [3]), (TWO, [6])])
def test_words_are_encoded_once(clip, encodings, templates, expected):
    model = zero_shot(clip, num_frames=4, templates=templates)
    with torch.inference_mode():
        for batch in (1, 2, 3):
            model(pixels(batch=batch))
    assert encodings == expected
    model.set_labels(WORDS[:2])
    model(pixels())
    assert len(encodings) == 2


def test_texts_are_encoded_in_chunks_and_out_of_the_way(clip, encodings, monkeypatch):
    model = zero_shot(clip).train()
    texts = [f"{number} balls" for number in range(7)]
    whole = model.encode_texts(texts, TWO)
    monkeypatch.setattr(class_features_ila, "TEXTS_AT_ONCE", 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model.encode_texts(texts, TWO), whole, **CLOSE)
    assert encodings == [14, 4, 4, 4, 2] and not whole.requires_grad and model.text_model.training
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(7))
    assert model.encode_texts([]).shape == (0, 64) and model.encode_texts(text for text in texts).shape == (7, 64)
    assert model.bfloat16().encode_texts(texts).dtype == torch.bfloat16


@pytest.mark.parametrize("texts", ["falls", b"falls", [b"falls"], ["falls", 3], [["falls"]], ("falls", None)])
def test_texts_that_are_none(clip, texts):
    with pytest.raises(ValueError, match="`texts` must be a list of strings, got .*falls"):
        zero_shot(clip).encode_texts(texts)


def test_who_cannot_encode_texts_says_so(tmp_path):
    with pytest.raises(ValueError, match='needs `classification_head="text"`'):
        IlaForVideoClassification(tiny_config(classification_head="linear")).encode_texts(WORDS)
    with pytest.raises(ValueError, match="`encode_texts` needs the text tower"):
        IlaForVideoClassification(tiny_config()).merge_text_tower().encode_texts(WORDS)
    save_clip(tmp_path, tokenizer=False)
    with pytest.raises(ValueError, match="holds none"):
        zero_shot(tmp_path, None).encode_texts(WORDS)


def test_texts_that_are_too_long_are_named(clip, caplog):
    model = zero_shot(clip, ["sits", "runs " * 20])
    assert f"cut to the 32 tokens that the text tower reads: '{'runs ' * 11}ru...' (82 tokens)." in caplog.text
    caplog.clear()
    model.encode_texts([letter * 40 for letter in "abcde"] + ["sits"])
    assert f"'{'a' * 40}' (42 tokens), '{'b' * 40}' (42 tokens)" in caplog.text and "and 2 more." in caplog.text


def test_features_of_frames_and_clips_at_unit_length(clip, trained):
    for model in (zero_shot(clip, num_frames=4), IlaForVideoClassification.from_pretrained(trained).eval()):
        plain, unit = model.get_video_features(pixels()), model.get_video_features(pixels(), normalize=True)
        frames = model.visual_projection(model.vision_model(pixels()).pooler_output)
        torch.testing.assert_close(plain.frame_embeds, frames, **CLOSE)
        for name in ("frame_embeds", "pooler_output"):
            torch.testing.assert_close(unit[name], F.normalize(plain[name], dim=-1), **CLOSE)
        assert "frame_embeds" not in model(pixels()) and model(pixels()).logits.shape == (2, 3)
        logits = [model.classify(output) for output in (plain, unit)]
        torch.testing.assert_close(*logits, **CLOSE)
    ids = model.class_input_ids
    texts = model.get_text_features(ids, normalize=True).pooler_output
    torch.testing.assert_close(texts, F.normalize(model.get_text_features(ids).pooler_output, dim=-1))


def test_the_average_is_that_of_unit_features(clip):
    fields = {"temporal_module": "none", "mit_num_hidden_layers": 0, "num_frames": 4}
    unit, plain = (IlaModel.from_pretrained(clip, normalize_frames=rule, **fields).eval() for rule in (True, False))
    output, frames = unit.get_video_features(pixels()), unit.get_video_features(pixels()).frame_embeds
    expected = F.normalize(F.normalize(frames, dim=-1).mean(1), dim=-1)
    torch.testing.assert_close(output.pooler_output, expected, **CLOSE)
    torch.testing.assert_close(plain.get_video_features(pixels()).pooler_output, frames.mean(1), **CLOSE)
    assert fingerprint(unit) != fingerprint(plain)  # though their weights are the same


@pytest.mark.parametrize("kind", ["timesformer", "frozen clip"])
def test_other_backbones_have_unit_features_too(clip, tmp_path, kind):
    if kind == "timesformer":
        save_timesformer(tmp_path)
        model = AlignedTimesformerForVideoClassification.from_pretrained(tmp_path).eval()
    else:
        model = FrozenClipForVideoClassification.from_pretrained(clip, num_frames=4).eval()
    plain, unit = (model.get_video_features(pixels(), normalize=rule).pooler_output for rule in (False, True))
    torch.testing.assert_close(unit, F.normalize(plain, dim=-1), **CLOSE)

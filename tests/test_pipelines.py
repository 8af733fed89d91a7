"""Words of one's own by transformers' `pipeline`: equality with its CLIP, forms of videos and words, what is kept."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPImageProcessor,
    CLIPModel,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY, SUPPORTED_TASKS
from transformers.pipelines.pt_utils import KeyDataset

from support.inputs import randomised
from support.tiny_models import letters_tokenizer, save_clip, save_siglip, tiny_config
from support.videos import SHARED, needs_shared, write_video
from transformers_ila import IlaForVideoClassification, IlaVideoProcessor, load_zero_shot
from transformers_ila.backbones.zero_shot import ZERO_SHOT_TEMPLATE
from transformers_ila.model.class_features_ila import ACTION_TEMPLATES
from transformers_ila.model.video_frames_ila import segment_indices
from transformers_ila.model.video_reading_ila import VideoDecodingError, read_video


TASK = "zero-shot-video-classification"
WORDS = ["juggling", "waving a hand", "riding"]
SEVERAL = ["a {}.", "the {}"]
REAL = ("kinetics_flipping_pancake.mkv", "keyboard_rot90_3frames.mov")  # landscape, portrait


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP whose features differ much between frames and between texts, with its image processor."""
    folder = save_clip(tmp_path_factory.mktemp("clip"))
    randomised(CLIPModel.from_pretrained(folder)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(clip, tmp_path_factory):
    """An ILA checkpoint with a text head, prompts and a template."""
    folder = tmp_path_factory.mktemp("trained")
    model = IlaForVideoClassification.from_pretrained(
        clip, labels=["one", "two"], templates="film of {}", num_frames=4, alignment_hidden_size=8
    )
    randomised(model).save_pretrained(folder)
    IlaVideoProcessor.for_model(model.config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", 20)


@pytest.fixture
def classify(clip):
    return pipeline(TASK, model=str(clip))


def by_label(answers):
    assert [answer["score"] for answer in answers] == sorted((a["score"] for a in answers), reverse=True)
    return {answer["label"]: answer["score"] for answer in answers}


def same(answers, others):
    one, other = by_label(answers), by_label(others)
    return one.keys() == other.keys() and all(abs(one[name] - other[name]) < 1e-5 for name in one)


def of_clip(folder, frames, words, templates):
    """Scores by transformers' CLIP: frames and texts at unit length, averaged, at unit length again."""
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pixels = CLIPImageProcessor.from_pretrained(folder)([Image.fromarray(f) for f in frames], return_tensors="pt")

    def unit(features):
        return torch.nn.functional.normalize(features, dim=-1)

    with torch.no_grad():
        video = unit(unit(model.get_image_features(**pixels).pooler_output).mean(0))
        texts = []
        for word in words:
            sentences = [template.replace("{}", word) for template in templates]
            tokens = tokenizer(sentences, return_tensors="pt", padding=True, truncation=True, max_length=32)
            texts.append(unit(unit(model.get_text_features(**tokens).pooler_output).mean(0)))
        scores = (model.logit_scale.exp() * torch.stack(texts) @ video).softmax(-1)
    return dict(zip(words, scores.tolist()))


# -- what is computed ------------------------------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("name", REAL)
def test_scores_are_those_of_transformers_clip_on_real_videos(clip, classify, name):
    path = SHARED / "real" / name
    frames = read_video(path, partial(segment_indices, num_frames=8))[0]

    def agree(found, wanted):
        found = by_label(found)
        return found.keys() == wanted.keys() and all(abs(found[word] - wanted[word]) < 1e-5 for word in wanted)

    by_default = of_clip(clip, frames, WORDS, [ZERO_SHOT_TEMPLATE])
    assert agree(classify(str(path), candidate_labels=WORDS), by_default)
    assert agree(pipeline(TASK, model=CLIPModel.from_pretrained(clip))(frames, WORDS), by_default)
    for template, sentences in (("{}", ["{}"]), (SEVERAL, SEVERAL), ("actions", ACTION_TEMPLATES)):
        found = classify(frames, WORDS, hypothesis_template=template)
        assert agree(found, of_clip(clip, frames, WORDS, sentences))
    assert agree(classify(frames[:3], WORDS, num_frames=3), of_clip(clip, frames[:3], WORDS, [ZERO_SHOT_TEMPLATE]))


@pytest.mark.parametrize("templates", [None, "a video of {}", ["{}", "about {}"]])
def test_an_ila_checkpoint_scores_as_with_these_labels(trained, video, templates):
    """Its own tower, prompts and templates."""
    processor = IlaVideoProcessor.from_pretrained(trained)

    def answers_of(logits):
        scores = logits.softmax(-1)[0].tolist()
        return sorted(({"score": s, "label": w} for s, w in zip(scores, WORDS)), key=lambda answer: -answer["score"])

    model = IlaForVideoClassification.from_pretrained(trained).eval()
    classify = pipeline(TASK, model=model)
    answers = classify(video, WORDS, hypothesis_template=templates)
    several = classify(video, WORDS, hypothesis_template=templates, num_clips=2, num_crops=3)
    assert model.config.class_names == ["one", "two"] and model.config.label_templates == ["film of {}"]
    model.set_labels(WORDS, templates=templates)
    for found, views in ((answers, {}), (several, {"num_clips": 2, "num_crops": 3})):
        with torch.no_grad():
            assert same(found, answers_of(model(**processor(video, return_tensors="pt", **views)).logits))


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_siglip_scores_every_word_by_itself(tmp_path, video, family):
    """Sigmoids with its bias, on one frame as transformers' own model gives them; NaFlex keeps each video's aspect."""
    theirs = save_siglip(tmp_path, family)
    images = {
        "siglip": SiglipImageProcessor(size={"height": 28, "width": 28}),
        "siglip2": Siglip2ImageProcessor(patch_size=4, max_num_patches=49),
    }[family]
    classify = pipeline(TASK, model=str(tmp_path), num_frames=1, hypothesis_template="a {}")
    wide, high = (np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8) for size in ((30, 60), (40, 20)))
    texts = [f"a {word}" for word in WORDS]
    tokens = letters_tokenizer()(texts, padding="max_length", max_length=32, return_tensors="pt")
    found = classify([wide[None], high[None], wide[None]], WORDS, none_of_these=True, batch_size=3)
    for answers, picture in zip(found, (wide, high, wide)):
        with torch.no_grad():
            inputs = images([Image.fromarray(picture)], return_tensors="pt")
            wanted = theirs(**inputs, **tokens).logits_per_image[0].sigmoid()
        scores = by_label(answers)
        assert all(abs(scores[word] - score) < 1e-5 for word, score in zip(WORDS, wanted.tolist()))
        assert abs(scores["none of these"] - (1 - wanted).prod()) < 1e-5
    shared = pipeline(TASK, model=theirs, tokenizer=letters_tokenizer(), image_processor=images, num_frames=1)
    again = shared(wide[None], WORDS, hypothesis_template="a {}", none_of_these=True, top_k=3)
    assert same(again, found[0][:3])
    classify.save_pretrained(tmp_path / "saved")
    saved = pipeline(TASK, model=str(tmp_path / "saved"), hypothesis_template="a {}", none_of_these=True)
    assert same(saved(wide[None], WORDS, num_frames=1), found[0])
    one = by_label(classify(video, ["one"], none_of_these="nothing"))
    assert abs(one["nothing"] - (1 - one["one"])) < 1e-6
    with pytest.raises(ValueError, match="`none_of_these` is 'riding', which is one of the words"):
        classify(video, WORDS, none_of_these="riding")


def test_dtype_device_and_a_model_in_training(clip, trained, video):
    half = pipeline(TASK, model=str(clip), dtype=torch.bfloat16, device="cpu", num_frames=5)
    assert half.model.dtype == torch.bfloat16
    exact = pipeline(TASK, model=str(clip), num_frames=5)(video, WORDS)
    assert all(abs(s - by_label(half(video, WORDS))[n]) < 0.1 for n, s in by_label(exact).items())
    model = IlaForVideoClassification.from_pretrained(trained).eval()
    classify, before = pipeline(TASK, model=model), copy.deepcopy(model.state_dict())
    wanted = classify(video, WORDS)
    model.train()
    assert classify(video, WORDS) == wanted and model.training
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


# -- videos ----------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __init__(self, videos):
        self.videos = videos

    def __len__(self):
        return len(self.videos)

    def __iter__(self):
        return iter(self.videos)


def test_every_form_of_several_videos_gives_the_same(classify, video, tmp_path):
    frames = read_video(video, partial(segment_indices, num_frames=8))[0]
    pictures = [Image.fromarray(frame) for frame in frames]
    (tmp_path / "folder").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "folder" / f"{number}.png")
    forms = [str(video), video, video.read_bytes(), frames, torch.from_numpy(frames), pictures, list(frames)]
    forms += [{"path": str(video)}]
    assert len(classify(tmp_path / "folder", WORDS)) == len(WORDS)
    wanted = classify(video, WORDS)
    for form in forms:
        assert same(classify(form, WORDS), wanted)
    rows = [{"file": form} for form in forms]
    several = (forms, tuple(forms), (form for form in forms), iter(forms), KeyDataset(rows, "file"), Stream(forms))
    for videos in several:
        for batch_size in (1, 4):
            answers = list(classify(videos, candidate_labels=WORDS, batch_size=batch_size))
            if hasattr(videos, "__next__"):
                videos = iter(forms)
            assert len(answers) == len(forms) and all(same(answer, wanted) for answer in answers)
    assert len(classify(np.stack([frames, frames]), WORDS)) == 2
    assert classify([], WORDS) == [] and len(classify([video], WORDS)) == 1


def test_answers_of_a_stream_come_one_by_one(classify, video):
    """Nothing is read ahead, and what cannot be read says which it is."""
    read = []

    def videos():
        for path in (video, video, "missing.mp4"):
            read.append(path)
            yield path

    answers = classify(videos(), WORDS)
    next(iter(answers))
    assert len(read) <= 2
    with pytest.raises(VideoDecodingError, match=r"missing.mp4' \(videos\[2\]\): no such file"):
        list(answers)
    with pytest.raises(ValueError, match=r"videos\[1\]: Got int 3 as video; allowed: a path"):
        classify([video, 3], WORDS)
    with pytest.raises(ValueError, match=r"videos\[0\]: One video was expected, got 2 in one list"):
        classify([[video, video]], WORDS)
    with pytest.raises(VideoDecodingError, match="missing.mp4': no such file"):
        classify("missing.mp4", WORDS)


@pytest.mark.slow
def test_workers_read_the_videos(classify, video):
    answers = list(classify(KeyDataset([{"v": video}] * 3, "v"), WORDS, batch_size=2, num_workers=2))
    assert len(answers) == 3 and same(answers[2], classify(video, WORDS))


# -- words -----------------------------------------------------------------------------------------------------------


def test_words_and_answers(classify, clip, video):
    answers = classify(video, candidate_labels="juggling, waving a hand ,riding,")
    assert answers == classify(video, WORDS) and abs(sum(by_label(answers).values()) - 1) < 1e-6
    assert classify(video, WORDS, top_k=2) == answers[:2] and classify(video, WORDS, top_k=9) == answers
    fixed = pipeline(TASK, model=str(clip), candidate_labels=WORDS, top_k=1, hypothesis_template="{}")
    assert fixed(video) == classify(video, WORDS, hypothesis_template="{}")[:1]
    assert [answer["label"] for answer in fixed(video, ["sleeping", "eating"], top_k=2)] != WORDS


def test_one_word_alone_is_warned_of(classify, video, caplog):
    caplog.set_level("WARNING", logger="transformers_ila")
    assert classify(video, ["juggling"]) == [{"score": 1.0, "label": "juggling"}]
    assert "softmax over one word is always 1" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Words of your own are needed"),
        ({"candidate_labels": []}, "`candidate_labels` must be different class names"),
        ({"candidate_labels": " , "}, "`candidate_labels` must be different class names"),
        ({"candidate_labels": ["a", "a"]}, r"these repeat: \['a'\]"),
        ({"candidate_labels": ["Walk", "walk"]}, "`candidate_labels` must be names .* reads 'Walk' and 'walk' alike"),
        ({"candidate_labels": ["a", 3]}, "`candidate_labels` must be"),
        (
            {"candidate_labels": "a,b", "hypothesis_template": "no place"},
            "`hypothesis_template` is 'no place'; allowed",
        ),
        ({"candidate_labels": "a,b", "hypothesis_template": []}, "`hypothesis_template` is"),
        ({"candidate_labels": "a,b", "top_k": 0}, "`top_k` must be a whole number of at least 1, .* got 0"),
        ({"candidate_labels": "a,b", "none_of_these": True}, "`none_of_these` needs a model whose words have"),
        ({"candidate_labels": "a,b", "none_of_these": 3}, "`none_of_these` must be True, False or a name, got 3"),
        ({"candidate_labels": "a,b", "num_clips": 0}, "num_clips must be an integer of at least 1"),
        ({"candidate_labels": "a,b", "clips": 2}, "clips is no argument of .*; allowed: .*num_clips"),
    ],
)
def test_arguments_that_are_refused(classify, video, options, message):
    with pytest.raises(ValueError, match=message):
        classify(video, **options)


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_the_text_tower_runs_once_for_the_same_words(classify, video, monkeypatch):
    model, runs = classify.model, []
    encode = type(model).get_text_features
    monkeypatch.setattr(type(model), "get_text_features", lambda *a, **k: runs.append(1) or encode(*a, **k))

    def count(*args, **options):
        before = len(runs)
        answers = classify(*args, **options)
        answers = answers if isinstance(answers, list) else list(answers)
        return len(runs) - before, answers

    first, wanted = count([video] * 3, WORDS)
    assert first == 1
    assert (
        count(video, WORDS) == (1 - 1, wanted[0])
        and count((v for v in [video] * 3), list(WORDS), batch_size=2)[0] == 0
    )
    for change in ({"candidate_labels": ["a", "b"]}, {"candidate_labels": WORDS, "hypothesis_template": "{}"}):
        assert count(video, **change)[0] == 1
    assert count(video, WORDS)[0] == 1  # only the last words are kept
    weight = model.text_model.encoder.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[[0, 1]] = weight[[1, 0]]  # the same numbers in other places, and in no tensor's version
    assert count(video, WORDS)[0] == 1
    for places in (weight.data.T, model.text_model.final_layer_norm.bias.data):
        places[[0, 1]] = places[[1, 0]]
        assert count(video, WORDS)[0] == 1
    weight.data[0, 0] += 1e-4
    assert count(video, WORDS)[0] == 1
    model.text_projection.weight.data.neg_()  # an even number of highest bits: their sums wrap around
    runs_anew, changed = count(video, WORDS)
    assert runs_anew == 1 and not same(changed, wanted[0])
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.text_model.requires_grad_().parameters(), fused=True)
    for parameter in model.text_model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    runs_anew, changed = count(video, WORDS)
    assert runs_anew == 1 and not same(changed, wanted[0])
    model.load_state_dict(before)
    assert count(video, WORDS)[0] == 1
    model.to(torch.bfloat16)
    assert count(video, WORDS)[0] == 1


def test_frames_between_0_and_1(classify):
    frames = np.random.default_rng(0).integers(0, 256, (4, 30, 40, 3), np.uint8)
    wanted = by_label(classify(frames, WORDS))
    found = by_label(classify(frames.astype(np.float32) / 255, WORDS, do_rescale=False))
    assert all(abs(found[word] - wanted[word]) < 1e-3 for word in WORDS)


def test_a_model_keeps_its_own_labels(clip, video):
    model = IlaForVideoClassification.from_pretrained(clip, labels=["one", "two"], zero_shot=True).eval()
    config, tokens = model.config.to_dict(), model.class_input_ids.clone()
    classify = pipeline(TASK, model=model)
    assert [a["label"] for a in classify(video, "three, four", hypothesis_template=["{}", "a {}"])] != ["one", "two"]
    assert model.config.to_dict() == config and torch.equal(model.class_input_ids, tokens)
    assert classify.model is model


def test_weights_of_clip_are_shared(clip, video):
    model = CLIPModel.from_pretrained(clip)
    classify = pipeline(TASK, model=model)
    before = classify(video, WORDS)
    for part in (model.text_projection, model.visual_projection):
        part.weight.data += 0.1 * torch.randn(part.weight.shape, generator=torch.Generator().manual_seed(0))
        after = classify(video, WORDS)
        assert not same(before, after)
        before = after


def test_a_saved_pipeline_is_loaded_again(classify, clip, video, tmp_path, caplog):
    wanted = classify(video, WORDS)
    classify.save_pretrained(tmp_path)
    caplog.clear()
    assert same(pipeline(TASK, model=str(tmp_path))(video, WORDS), wanted) and "placeholders" not in caplog.text
    model, processor = load_zero_shot(clip, labels=WORDS)
    model.save_pretrained(tmp_path / "named")
    processor.save_pretrained(tmp_path / "named")
    answers = pipeline("video-classification", model=str(tmp_path / "named"))(str(video))
    assert same(answers, wanted)


@pytest.mark.parametrize(
    ("sizes", "frames", "side"), [({}, 4, 28), ({"num_frames": 6}, 6, 28), ({"image_size": 56}, 4, 56)]
)
def test_the_processor_follows_the_sizes_that_a_model_is_loaded_with(
    clip, trained, video, caplog, sizes, frames, side
):
    for source, own in ((trained, frames), (clip, sizes.get("num_frames", 8))):
        model, processor = load_zero_shot(source, **sizes)
        assert processor.num_frames == own and dict(processor.crop_size)["height"] == side
        assert dict(processor.size)["shortest_edge"] == (side if source is clip else round(side / 28 * 32))
        assert len(pipeline(TASK, model=str(source), model_kwargs={**sizes})(video, WORDS)) == len(WORDS)
    assert "placeholders" not in caplog.text  # no class was asked for


# -- models ----------------------------------------------------------------------------------------------------------


def test_parts_are_given_or_found(clip, trained, video, tmp_path):
    wanted = pipeline(TASK, model=str(clip))(video, WORDS)
    tokenizer, images = AutoTokenizer.from_pretrained(clip), CLIPImageProcessor.from_pretrained(clip)
    bare = CLIPModel.from_pretrained(clip)
    bare.name_or_path = bare.config.name_or_path = ""
    for options in (
        {"tokenizer": tokenizer, "video_processor": IlaVideoProcessor.for_images(images)},
        {"tokenizer": str(clip), "video_processor": str(clip)},
        {"tokenizer": tokenizer, "image_processor": images},
    ):
        assert same(pipeline(TASK, model=bare, **options)(video, WORDS), wanted)
    with pytest.raises(ValueError, match="CLIPModel|IlaFor.* comes from no folder or Hub id .* `video_processor=`"):
        pipeline(TASK, model=bare, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="needs? a tokenizer"):
        pipeline(TASK, model=bare, video_processor=IlaVideoProcessor.for_images(images))
    with pytest.raises(ValueError, match="`video_processor` must be an IlaVideoProcessor, got int"):
        pipeline(TASK, model=bare, tokenizer=tokenizer, video_processor=3)
    with pytest.raises(ValueError, match="`video_processor` and `image_processor` are two names of one part"):
        pipeline(TASK, model=bare, tokenizer=tokenizer, image_processor=images, video_processor=str(clip))
    with pytest.raises(ValueError, match="`feature_extractor` has no effect here"):
        pipeline(TASK, model=bare, tokenizer=tokenizer, feature_extractor=IlaVideoProcessor())


def test_an_ila_tower_on_the_weights_of_a_clip_has_its_own_processor(clip):
    model = IlaForVideoClassification.from_pretrained(clip, labels=WORDS, num_frames=4, alignment_hidden_size=8)
    found = pipeline(TASK, model=model).video_processor
    assert found.to_dict() == IlaVideoProcessor.for_model(model.config).to_dict()


def test_the_task_has_a_default_as_that_of_images_has():
    _, task, _ = PIPELINE_REGISTRY.check_task(TASK)
    assert task["default"]["model"] == SUPPORTED_TASKS["zero-shot-image-classification"]["default"]["model"]


def test_models_that_score_no_words(tmp_path, trained):
    allowed = "allowed: a CLIP, SigLIP or SigLIP 2 .*, or an ILA checkpoint with a text head"
    linear = IlaForVideoClassification(tiny_config(classification_head="linear", use_video_prompt=False))
    bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    merged = IlaForVideoClassification.from_pretrained(trained).merge_text_tower()
    for name, model, message in (
        ("linear", linear, "linear"),
        ("merged", merged, "merged|merge_text_tower"),
        ("bert", bert, f"BertModel .*{allowed}"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline(TASK, model=model)
        model.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            pipeline(TASK, model=str(tmp_path / name))
        with pytest.raises(ValueError, match=message):
            load_zero_shot(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="holds no model: it has no config.json"):
        load_zero_shot(tmp_path / "empty")

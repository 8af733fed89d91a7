"""Every verb that takes a model opens all classifiers of this package, or names the class that it does not take."""

import json
from itertools import product

import pytest
import torch
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from support.tiny_models import TINY_TEXT, TINY_VISION, save_clip, save_dinov2, save_timesformer, tiny_config
from transformers_ila import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
    FrozenClipConfig,
    FrozenClipForVideoClassification,
    IlaForVideoClassification,
    IlaModel,
    IlaVideoProcessor,
)
from transformers_ila.cli import ablate, analyse, card, cost, demo, evaluate, predict, probe, publish, train
from transformers_ila.cli.main import run_verb
from transformers_ila.evaluation.inference import CLASSIFIERS, load_trained
from transformers_ila.hub import export
from transformers_ila.model.class_names_ila import label_fields
from transformers_ila.motionbench.tasks import MOTIONS, write_folder


LABELS = sorted(MOTIONS)
OURS = ("ila", "frozen_clip", "timesformer")
OTHERS = {
    "clip": "CLIPModel",
    "hf_timesformer": "TimesformerForVideoClassification",
    "videomae": "VideoMAEForVideoClassification",
}
ALLOWED = f"{', '.join(CLASSIFIERS.values())}."


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Folders with models of every class, their processors, and videos."""
    root = tmp_path_factory.mktemp("classes")
    write_folder(root / "videos", 8, seed=0, num_frames=6)
    write_folder(root / "other", 8, seed=1, num_frames=6)
    torch.manual_seed(0)
    small = {**TINY_VISION, "num_frames": 4, "alignment_hidden_size": 8}
    models = {
        "ila": IlaForVideoClassification(tiny_config(classification_head="linear", **label_fields(LABELS))),
        "frozen_clip": FrozenClipForVideoClassification(
            FrozenClipConfig(vision_config=dict(small), text_config=dict(TINY_TEXT), **label_fields(LABELS))
        ),
        "timesformer": AlignedTimesformerForVideoClassification(
            AlignedTimesformerConfig(**small, **label_fields(LABELS))
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        IlaVideoProcessor.for_model(model.config, size={"shortest_edge": 28}).save_pretrained(root / name)
    processor = IlaVideoProcessor.for_model(models["ila"].config)
    save_clip(root / "clip")
    save_dinov2(root / "dinov2")
    save_timesformer(root / "hf_timesformer", num_labels=8)
    masked = VideoMAEConfig(**TINY_VISION, num_frames=4, num_labels=8)
    VideoMAEForVideoClassification(masked).save_pretrained(root / "videomae")
    for name in OTHERS:
        processor.save_pretrained(root / name)
    return root


def words(verb, model, place, out):
    folder, videos = str(place / model), str(place / "videos")
    return {
        evaluate: ["--model", folder, "--videos", videos, "--output", str(out / "report.json")],
        predict: ["--model", folder, videos],
        probe: ["--model", folder, "--train", videos, "--test", str(place / "other"), "--probes", "knn"]
        + ["--cache", str(out / "cache"), "--output", str(out / "probe.json")],
        analyse: ["--model", folder, "--videos", videos, "--limit", "2"],
        cost: ["--model", folder, "--measure"],
        card: ["--model", folder],
        publish: [folder, "--repo", "user/name", "--dry_run"],
        demo: ["--clip", folder, "--output", str(out)],
        ablate: ["ablation_clip", "--clip", folder, "--train_list", videos, "--test_list", str(place / "other")]
        + ["--output", str(out)],
        train: [
            "small_b16_8f",
            "--clip",
            folder,
            "--train_list",
            videos,
            "--output_dir",
            str(out),
            "--use_cpu",
            "true",
        ],
    }[verb]


@pytest.mark.parametrize("model", OURS)
@pytest.mark.parametrize("verb", [evaluate, predict, probe, analyse, cost])
def test_verbs_that_take_every_classifier(verb, model, place, tmp_path, capsys):
    assert run_verb(verb, words(verb, model, place, tmp_path)) == 0, capsys.readouterr().err


def test_what_is_computed_is_what_the_class_computes(place, tmp_path):
    for name in OURS:
        loaded, processor = load_trained(place / name)
        clip = processor(next((place / "videos").rglob("*.mp4")), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            assert loaded.classify(loaded.get_video_features(clip)).shape == (1, 8)


def test_the_cost_is_that_of_the_class(place, capsys):
    parameters = {}
    for name in OURS:
        run_verb(cost, ["--model", str(place / name)])
        parameters[name] = capsys.readouterr().out
        loaded, _ = load_trained(place / name)
        assert f"{loaded.num_parameters() / 1e6:.1f} M parameters" in parameters[name]
    assert run_verb(cost, ["--model", str(place / "videomae")]) == 0
    assert run_verb(cost, ["--model", str(place / "videomae"), "--measure"]) == 2


@pytest.mark.parametrize("model", ["clip", "dinov2"])
@pytest.mark.parametrize("verb", [probe, cost])
def test_verbs_that_take_a_tower_that_nobody_trained_on_videos(verb, model, place, tmp_path, capsys, caplog):
    """A probe does not use the head, and the cost is that of ILA on the tower."""
    given = [word for word in words(verb, model, place, tmp_path) if word != "--measure"]
    assert run_verb(verb, given) == 0, capsys.readouterr().err
    assert "random" not in caplog.text
    if verb is probe:  # features are found again, as they depend on no random head
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
        assert len(kept) == 2 and run_verb(verb, given) == 0
        assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}


NO_CLASSIFIER = {*product([evaluate, predict, probe, analyse, card], OTHERS)} - {(probe, "clip")}


@pytest.mark.parametrize("verb, model", [*sorted(NO_CLASSIFIER, key=str), (evaluate, "dinov2"), (predict, "dinov2")])
def test_verbs_name_the_class_of_others_and_what_is_allowed(verb, model, place, tmp_path, capsys):
    assert run_verb(verb, words(verb, model, place, tmp_path)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ila ")]
    found = {**OTHERS, "dinov2": "Dinov2Model"}[model]
    assert f"is no trained ILA model: it holds a {found}; allowed: {ALLOWED}" in line


CARDS = "cards are of an IlaForVideoClassification"
REFUSED = {
    (card, "frozen_clip"): f"holds a FrozenClipForVideoClassification; {CARDS}",
    (card, "timesformer"): f"holds a AlignedTimesformerForVideoClassification; {CARDS}",
    (publish, "frozen_clip"): "holds a model of type 'ila_frozen_clip'; allowed",
    (publish, "timesformer"): "holds a model of type 'aligned_timesformer'; allowed",
    (publish, "clip"): "holds a model of type 'clip'; allowed",
    (train, "frozen_clip"): "is a FrozenClipForVideoClassification: --classification_head linear, not 'text'",
    **{
        (verb, name): f"holds a {kind} (`model_type` "
        for verb in (train, ablate, demo)
        for name, kind in {
            "timesformer": "AlignedTimesformerForVideoClassification",
            "hf_timesformer": "TimesformerForVideoClassification",
            "videomae": "VideoMAEForVideoClassification",
        }.items()
    },
    **{(verb, "frozen_clip"): "holds a FrozenClipForVideoClassification (`model_type`" for verb in (ablate, demo)},
}


@pytest.mark.parametrize("verb,model", REFUSED, ids=lambda value: getattr(value, "__name__", value).split(".")[-1])
def test_verbs_for_some_classes_name_the_others(verb, model, place, tmp_path, capsys):
    assert run_verb(verb, words(verb, model, place, tmp_path)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ila ")]
    assert REFUSED[verb, model] in line
    assert not list(tmp_path.rglob("*.mp4"))  # nothing was begun


def test_exports_name_the_class_too(place, tmp_path):
    for name in ("frozen_clip", "timesformer"):
        model, processor = load_trained(place / name)
        with pytest.raises(ValueError, match=f"got {type(model).__name__}"):
            export(model, processor, tmp_path / name)


@pytest.mark.slow
def test_a_decoder_on_a_frozen_clip_goes_on_learning(place, tmp_path, capsys):
    start, _ = load_trained(place / "frozen_clip")
    given = {"classification_head": "linear", "num_frames": 4, "config": json.dumps({"alignment_hidden_size": 8})}
    given |= {"global_batch_size": 4, "per_device_train_batch_size": 4, "max_steps": 3, "warmup_epochs": 0}
    given |= {
        "bf16": "false",
        "report_to": "none",
        "dataloader_num_workers": 0,
        "dataloader_persistent_workers": "false",
        "val_fraction": 0,
    }
    more = [f"--{name}={value}" for name, value in given.items()]
    assert run_verb(train, [*words(train, "frozen_clip", place, tmp_path / "run"), *more]) == 0, (
        capsys.readouterr().err
    )
    trained, _ = load_trained(tmp_path / "run")
    assert type(trained) is FrozenClipForVideoClassification
    for (name, before), after in zip(start.vision_model.named_parameters(), trained.vision_model.parameters()):
        assert ".temporal." in name or torch.equal(before, after)
    query = [model.decoder.query for model in (start, trained)]
    assert not torch.equal(*query) and torch.allclose(*query, atol=1e-2)


# -- weights that are left over --------------------------------------------------------------------------------------


def edit(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    place = config if "vision_config" not in config else config["vision_config"]
    place.update(fields)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "model,saved,beside",
    [
        ("ila", {"num_hidden_layers": 3}, {"num_hidden_layers": 2}),
        ("ila", {}, {"temporal_module": "none"}),
        ("ila", {"alignment_fusion": "interaction"}, {"alignment_fusion": "mi_token"}),
        ("ila", {"alignment_fusion": "interaction"}, {"alignment_fusion": "residual"}),
        ("ila", {}, {"alignment_layers": [1]}),
        ("ila", {"mit_num_hidden_layers": 1}, {"mit_num_hidden_layers": 0}),
        ("ila", {}, {"patch_bias": True}),
        ("timesformer", {"temporal_module": "ata"}, {"temporal_module": "none"}),
        ("timesformer", {"temporal_module": "ila"}, {"temporal_module": "none"}),
        ("timesformer", {"num_hidden_layers": 3}, {"num_hidden_layers": 2}),
        ("frozen_clip", {"temporal_module": "ila"}, {"temporal_module": "none"}),
    ],
)
def test_weights_without_a_place_are_refused(model, saved, beside, tmp_path):
    common = {"alignment_hidden_size": 8, "num_frames": 4, "num_labels": 3, **saved}
    if model == "timesformer":
        trained = AlignedTimesformerForVideoClassification(AlignedTimesformerConfig(**{**TINY_VISION, **common}))
    elif model == "ila":
        vision = {**TINY_VISION, **{name: value for name, value in saved.items() if name in TINY_VISION}}
        own = {name: value for name, value in common.items() if name not in TINY_VISION}
        trained = IlaForVideoClassification(tiny_config(**{**own, "vision_config": vision}))
    else:
        vision = {**TINY_VISION, **common}
        trained = FrozenClipForVideoClassification(FrozenClipConfig(vision_config=vision, text_config=TINY_TEXT))
    trained.save_pretrained(tmp_path)
    IlaVideoProcessor.for_model(trained.config).save_pretrained(tmp_path)
    load_trained(tmp_path)
    edit(tmp_path, **beside)
    with pytest.raises(
        ValueError, match=r"is no trained ILA model: \d+ weights are (left over|missing|of another shape), such as '"
    ):
        load_trained(tmp_path)


def test_a_model_without_a_head_is_named(tmp_path):
    IlaModel(tiny_config()).save_pretrained(tmp_path)
    IlaVideoProcessor.for_model(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="1 weights are missing, such as 'class_input_ids'"):
        load_trained(tmp_path)


def test_own_class_refuses_other_models_by_name(place):
    for kind in (
        IlaForVideoClassification,
        FrozenClipForVideoClassification,
        AlignedTimesformerForVideoClassification,
    ):
        with pytest.raises(ValueError, match="holds a VideoMAEForVideoClassification"):
            kind.from_pretrained(place / "videomae")

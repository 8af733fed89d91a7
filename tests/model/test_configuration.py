"""Configuration: defaults, hand-down of vision fields, validation on construction, load and save."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPConfig

from support.tiny_models import TINY_TEXT, TINY_VISION, tiny_config
from transformers_ila import (
    AlignedTimesformerConfig,
    FrozenClipConfig,
    IlaConfig,
    IlaVisionConfig,
    SiglipVideoConfig,
)


@pytest.mark.parametrize(
    "size,grid,width", [("B/32", 7, 512), ("B/16", 14, 512), ("L/14", 16, 768), ("L/14@336", 24, 768)]
)
def test_the_papers_four_sizes(size, grid, width):
    config = IlaConfig.from_clip_size(size, num_frames=16, temporal_module="none")
    assert config.num_frames == 16 and config.vision_config.temporal_module == "none"
    assert config.vision_config.image_size // config.vision_config.patch_size == grid
    assert config.projection_dim == width == config.text_config.projection_dim
    with pytest.raises(ValueError, match="'B/8'; allowed: B/32, B/16, L/14, L/14@336"):
        IlaConfig.from_clip_size("B/8")


def test_vision_fields_may_be_given_at_the_top(tmp_path):
    config = IlaConfig(num_frames=3, alignment_layers=[0, 2], image_size=64)
    vision = config.vision_config
    assert (vision.num_frames, vision.alignment_layers, vision.image_size) == (3, [0, 2], 64)
    config.save_pretrained(tmp_path)
    loaded = IlaConfig.from_pretrained(tmp_path, num_frames=5, alignment_delta=0.5, num_labels=7)
    assert (loaded.num_frames, loaded.vision_config.alignment_delta, loaded.num_labels) == (5, 0.5, 7)
    assert loaded.vision_config.alignment_layers == [0, 2]
    written = json.loads((tmp_path / "config.json").read_text())
    assert "num_frames" not in written and written["vision_config"]["num_frames"] == 3
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, IlaConfig) and loaded.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize("kind", [IlaConfig, FrozenClipConfig, AlignedTimesformerConfig, SiglipVideoConfig])
def test_the_frame_rate_of_training_is_kept(kind, tmp_path):
    assert kind().frame_rate is None
    kind(frame_rate=2.5).save_pretrained(tmp_path)
    assert kind.from_pretrained(tmp_path).frame_rate == 2.5
    assert kind.from_pretrained(tmp_path, frame_rate=30).frame_rate == 30
    for wrong in (0, -1.0, float("inf"), float("nan"), "fast"):
        with pytest.raises(StrictDataclassError, match="frame_rate"):
            kind.from_pretrained(tmp_path, frame_rate=wrong)


def test_the_callers_sub_configuration_is_not_changed():
    vision = IlaVisionConfig(num_frames=4)
    assert IlaConfig(vision_config=vision, num_frames=9).num_frames == 9 and vision.num_frames == 4
    fields = {"hidden_size": 768}
    IlaConfig(vision_config=fields, num_frames=9)
    assert fields == {"hidden_size": 768}


def test_clip_configurations_load(tmp_path, caplog):
    CLIPConfig(vision_config={"patch_size": 16}).save_pretrained(tmp_path)
    config = IlaConfig.from_pretrained(tmp_path, num_frames=16)
    assert config.model_type == "ila" and config.num_frames == 16 and config.vision_config.patch_size == 16
    assert IlaVisionConfig.from_pretrained(tmp_path).patch_size == 16
    assert "instantiate a model of type" not in caplog.text
    towers = CLIPConfig()
    config = IlaConfig(vision_config=towers.vision_config, text_config=towers.text_config)
    assert isinstance(config.vision_config, IlaVisionConfig)


def test_clip_configurations_of_the_old_form_load():
    """CLIP L/14 on the Hub names its sizes once more under `vision_config_dict`."""
    old = {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {"hidden_size": 768, "num_attention_heads": 12, "model_type": "clip_text_model"},
        "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12},
        "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "model_type": "clip_vision_model"},
        "vision_config_dict": {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14},
    }
    config = IlaConfig.from_dict(old, num_frames=3)
    assert (config.vision_config.patch_size, config.vision_config.hidden_size, config.num_frames) == (14, 1024, 3)


BAD = {
    "temporal_module": ("attention", "'ila', 'none'"),
    "alignment_fusion": ("sum", "mi_token"),
    "alignment_conv": ("dilated", "'depthwise_separable', 'standard'"),
    "alignment_distance": ("manhattan", "'separable', 'euclidean'"),
    "classification_head": ("mlp", "'text', 'linear'"),
    "num_frames": (0, "1 or more"),
    "image_size": (16, "at least patch_size=32"),
    "image_normalization": ({"image_mean": [0.5]}, "image_mean and image_std"),
    "alignment_layers": ([0, 12], "between 0 and 11"),
    "alignment_hidden_size": (6, "multiple of 4"),
    "alignment_eta": (0.0, "more than 0"),
    "alignment_beta": (-1.0, "0 or more"),
    "drop_path_rate": (1.0, "0 <= rate < 1"),
    "mit_num_hidden_layers": (-1, "0 .*or more"),
    "mit_num_attention_heads": (7, "divisor of projection_dim=512"),
    "prompt_num_attention_heads": (7, "divisor of projection_dim=512"),
    "prompt_layers": (0, "1 or more"),
    "label_smoothing": (1.5, "0 <= value < 1"),
    "alignment_loss_weight": (-0.1, "0 or more"),
}


@pytest.mark.parametrize("field", BAD)
def test_bad_values_name_field_value_and_what_is_allowed(field, tmp_path):
    value, allowed = BAD[field]
    with pytest.raises(StrictDataclassError, match=f"(?s){field}.*{allowed}") as error:
        IlaConfig(**{field: value})
    assert str(value) in str(error.value)
    config = tiny_config()
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    place = written["vision_config"] if field in written["vision_config"] else written
    place[field] = value
    (tmp_path / "config.json").write_text(json.dumps(written))
    if field != "image_size":  # 16 pixels are fine for the small patches of the small model
        with pytest.raises(StrictDataclassError, match=field):
            IlaConfig.from_pretrained(tmp_path)


HUGE = {
    **dict.fromkeys(("num_frames", "mit_num_hidden_layers", "prompt_layers", "projection_dim", "num_labels"), 10**9),
    "vision_config": {"num_hidden_layers": 10**9},
    "text_config": {"vocab_size": 10**12},
    "image_size": 10**7,
}


@pytest.mark.parametrize("field", HUGE)
def test_what_no_memory_holds_is_refused_before_it_is_taken(field):
    name = next(iter(HUGE[field])) if isinstance(HUGE[field], dict) else field
    everywhere = field in ("num_frames", "image_size", "num_labels")
    for kind in (IlaConfig, FrozenClipConfig, AlignedTimesformerConfig) if everywhere else (IlaConfig,):
        with pytest.raises((StrictDataclassError, ValueError), match=f"(?s){name}.*at most"):
            kind(**{field: HUGE[field]})


@pytest.mark.parametrize("field", ["alignment_eta", "alignment_beta", "alignment_delta", "prompt_alpha"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**40])
def test_numbers_that_are_not_finite(field, value):
    with pytest.raises((StrictDataclassError, ValueError), match=f"(?s){field}"):
        tiny_config(**{field: value})


def test_nothing_invalid_is_saved(tmp_path):
    config = tiny_config()
    config.num_frames = 0
    with pytest.raises(StrictDataclassError, match="num_frames"):
        config.save_pretrained(tmp_path)


def test_a_saved_configuration_names_its_network(tmp_path):
    """Whatever a later version's defaults are."""
    IlaConfig().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    assert (written["temporal_module"], written["alignment_fusion"]) == ("ila", "interaction")
    IlaVisionConfig(alignment_fusion="add").save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["temporal_module"], written["alignment_fusion"]) == ("ila", "add")


@pytest.mark.parametrize(
    "field,values",
    {
        "num_hidden_layers": (-1, 0),
        "num_attention_heads": (-1, 0, 5),
        "hidden_size": (0, -32),
        "intermediate_size": (0,),
        "num_channels": (0,),
        "vocab_size": (0, -1),
        "max_position_embeddings": (0,),
        "layer_norm_eps": (0.0, -1e-5),
        "attention_dropout": (-0.1, 1.5),
        "hidden_act": ("nope",),
        "logit_scale_init_value": (float("nan"), float("inf")),
        "initializer_range": (-0.1,),
        "initializer_factor": (-1.0,),
        "prompt_hidden_act": ("nope",),
    }.items(),
)
def test_numbers_that_no_network_has(field, values):
    shared = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "layer_norm_eps",
        "hidden_act",
    )
    for value in values:
        if field in shared:
            fields = [{"vision_config": {**TINY_VISION, field: value}}, {"text_config": {**TINY_TEXT, field: value}}]
            with pytest.raises(StrictDataclassError, match=rf"`{field}` is .*; allowed: "):
                AlignedTimesformerConfig(**{**TINY_VISION, field: value})
        else:
            tower = {"num_channels": "vision_config", "attention_dropout": "vision_config"}
            tower |= {"vocab_size": "text_config", "max_position_embeddings": "text_config"}
            base = {"vision_config": TINY_VISION, "text_config": TINY_TEXT}.get(tower.get(field, ""), {})
            fields = [{tower[field]: {**base, field: value}} if field in tower else {field: value}]
        for given in fields:
            with pytest.raises(StrictDataclassError, match=rf"`{field}` is |is not a multiple of"):
                tiny_config(**given)


def test_other_models_are_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "xclip", "architectures": ["XCLIPModel"]}')
    for kind in (IlaConfig, IlaVisionConfig, AlignedTimesformerConfig):
        with pytest.raises(ValueError, match="holds a XCLIPModel .`model_type` 'xclip'.*allowed `model_type`: "):
            kind.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("dinov3_vit", "DINOv3's rotary positions turn queries and keys in every attention"),
        ("dinov3_convnext", "no class token"),
        ("clip_vision_model", "the whole CLIP loads"),
        ("siglip", "no class token.*`SiglipForVideoClassification"),
        ("siglip2", "no class token.*zero-shot-video-classification"),
        ("beit", "a bias for every distance of two patches"),
        ("deit", "a second class token, for distillation"),
        ("videomae", "joins the frames of a video in its own way"),
        ("timesformer", "`AlignedTimesformerForVideoClassification` puts ILA inside it"),
    ],
)
def test_towers_that_have_no_place_are_refused_with_the_reason(kind, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=f"holds a {kind} .*loaded here: .*{reason}.*allowed `model_type`: clip, din"):
        IlaConfig.from_pretrained(tmp_path)

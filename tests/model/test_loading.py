"""Image towers in place of CLIP: what the tower must equal is transformers' own ViT or DINOv2 on every frame."""

import json
import logging
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    Dinov2Config,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTImageProcessor,
    ViTMAEForPreTraining,
    ViTModel,
    ViTMSNModel,
)

from support.tiny_models import TINY_ILA, save_clip, save_dinov2, save_vit
from transformers_ila import (
    FrozenClipConfig,
    IlaConfig,
    IlaForVideoClassification,
    IlaModel,
    IlaVideoProcessor,
    IlaVisionConfig,
    IlaVisionModel,
)
from transformers_ila.conversion.state_dicts import to_released_state_dict
from transformers_ila.hub.cards import model_card
from transformers_ila.hub.facts import ModelFacts
from transformers_ila.training.arguments import is_new_parameter
from transformers_ila.training.inputs import model_of
from transformers_ila.training.recipes import RecipeArguments


CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LABELS = ["abseiling", "air drumming", "answering questions"]

# Of one layer and around it, as the files of the format's first version name them.
FIRST_NAMES = {
    "embeddings.cls_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
    "encoder.layer.1.attention.attention.query.weight",
    "encoder.layer.1.attention.output.dense.bias",
    "encoder.layer.1.intermediate.dense.weight",
    "encoder.layer.1.output.dense.weight",
    "encoder.layer.1.layernorm_before.bias",
    "layernorm.weight",
    "pooler.dense.weight",
}


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    save_vit(folder)
    return folder


def pixels(frames=4, size=28, seed=0):
    return torch.randn(2, frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


def renamed(folder, names):
    """The folder's weights under other names."""
    weights = {names(name): weight.clone() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def save_form(folder, form):
    kinds = {
        "classifier": (ViTForImageClassification, {}),
        "masked": (ViTForMaskedImageModeling, {"encoder_stride": 4}),
        "MAE": (ViTMAEForPreTraining, {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}),
        "MSN": (ViTMSNModel, {}),
    }
    kind, fields = kinds.get(form, (ViTModel, {}))
    vit = save_vit(folder, kind, **fields)
    file = folder / "model.safetensors"
    if form == "first names":  # which the library still writes
        assert FIRST_NAMES <= load_file(file).keys()
    if form == "first names, pickled":
        torch.save(load_file(file), folder / "pytorch_model.bin")
        file.unlink()
    if form == "module's names":
        save_file({name: weight.clone() for name, weight in vit.state_dict().items()}, file)
    if form == "MAE":  # which hides patches; its encoder is a ViT
        return ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    return getattr(vit, "vit", vit)


FORMS = ("first names", "first names, pickled", "module's names", "classifier", "masked", "MAE", "MSN")


@pytest.mark.parametrize("form", FORMS)
def test_features_of_every_frame_equal_vits(form, tmp_path):
    vit = save_form(tmp_path, form)
    tower = IlaVisionModel.from_pretrained(tmp_path, temporal_module="none", num_frames=5).eval()
    model, info = IlaForVideoClassification.from_pretrained(
        tmp_path, labels=LABELS, temporal_module="none", num_frames=5, output_loading_info=True
    )
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"mit", "classifier", "classifier_norm"}
    video = pixels(5)
    with torch.no_grad():
        expected = vit(video.flatten(0, 1)).last_hidden_state
        for ours in (tower, model.eval().vision_model):
            output = ours(video)
            torch.testing.assert_close(output.last_hidden_state.flatten(0, 1), expected, **CLOSE)
            torch.testing.assert_close(output.pooler_output.flatten(0, 1), expected[:, 0], **CLOSE)
        frames = model.visual_projection(output.pooler_output).flatten(0, 1)
    torch.testing.assert_close(frames, expected[:, 0], **CLOSE)  # it begins as the identity
    used = [weight.numel() for name, weight in vit.named_parameters() if "pooler" not in name and "mask" not in name]
    assert sum(used) == sum(weight.numel() for weight in tower.parameters())


DINOV2 = {
    "plain": {},
    "classifier": {"classifier": True},
    "registers": {"registers": 3},
    "registers, classifier": {"registers": 3, "classifier": True},
    "gated": {"use_swiglu_ffn": True},  # as DINOv2-giant
}


@pytest.mark.parametrize("size", [28, 20, 36])
@pytest.mark.parametrize("form", DINOV2)
def test_features_of_every_frame_equal_dinov2s(form, size, tmp_path):
    saved = save_dinov2(tmp_path, **DINOV2[form])
    dinov2 = getattr(saved, saved.base_model_prefix, saved)
    sizes = {"num_frames": 3, "image_size": size, "temporal_module": "none"}
    tower = IlaVisionModel.from_pretrained(tmp_path, **sizes).eval()
    model = IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS, **sizes).eval()
    stored = IlaVisionModel.from_pretrained(tmp_path, num_frames=3, temporal_module="none").eval()
    assert stored.config.image_size == 28  # without an image processor beside it
    video = pixels(3, size)
    registers = slice(1, 1 + tower.config.num_register_tokens)
    with torch.no_grad():
        expected = dinov2(video.flatten(0, 1)).last_hidden_state
        expected = torch.cat([expected[:, :1], expected[:, registers.stop :]], dim=1)
        for network, options in ((tower, {}), (model.vision_model, {}), (stored, {"interpolate_pos_encoding": True})):
            output = network(video, **options)
            torch.testing.assert_close(output.last_hidden_state.flatten(0, 1), expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(output.pooler_output.flatten(0, 1), expected[:, 0], atol=1e-5, rtol=0)


def test_one_line_from_a_vit_folder(vit_folder):
    model = IlaForVideoClassification.from_pretrained(vit_folder, labels=LABELS, num_frames=8)
    config = model.config
    assert (config.classification_head, config.projection_dim, config.num_labels) == ("linear", 32, 3)
    assert config.id2label == dict(enumerate(LABELS)) and not hasattr(model, "text_model")
    vision = config.vision_config
    assert (vision.hidden_act, vision.layer_norm_eps) == ("gelu", 1e-12)
    assert (vision.patch_bias, vision.pre_layer_norm) == (True, False)
    assert model.name_or_path == str(vit_folder)
    output = model(pixels(8), labels=torch.tensor([0, 2]))
    output.loss.backward()
    assert output.logits.shape == (2, 3) and model.vision_model.embeddings.patch_embedding.bias.grad.any()
    assert IlaModel.from_pretrained(vit_folder).eval().get_video_features(pixels(8)).pooler_output.shape == (2, 32)


def test_configurations_and_preprocessing_load(vit_folder, tmp_path):
    config = IlaConfig.from_pretrained(vit_folder, num_frames=3, temporal_module="gta")
    assert config.model_type == "ila" and (config.num_frames, config.vision_config.temporal_module) == (3, "gta")
    tower = IlaVisionConfig.from_pretrained(vit_folder, num_frames=3)
    assert (tower.num_frames, tower.patch_bias, tower.hidden_size) == (3, True, 32)
    assert IlaConfig.from_pretrained(vit_folder / "config.json").projection_dim == 32
    assert IlaVideoProcessor.for_model(config).image_mean == (0.5, 0.5, 0.5)
    save_vit(tmp_path)
    ViTImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    model = IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS)
    processor = IlaVideoProcessor.for_model(model.config)
    assert (processor.image_mean, processor.image_std) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    sub = IlaConfig.from_pretrained(tmp_path.parent, subfolder=tmp_path.name)
    assert sub.vision_config.image_normalization == {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}


def test_a_dinov2_is_used_at_the_size_of_its_image_processor(tmp_path):
    save_dinov2(tmp_path, image_size=56, patch_size=14)
    image_net = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    vision = IlaVisionConfig.from_pretrained(tmp_path)
    assert (vision.image_size, vision.layer_norm_eps, vision.intermediate_size) == (56, 1e-6, 64)
    assert vision.image_normalization == image_net  # without a file beside it
    save_dinov2(tmp_path, image_size=518, patch_size=14)
    assert IlaConfig.from_pretrained(tmp_path).vision_config.image_size == 224
    BitImageProcessor(size={"shortest_edge": 48}, crop_size=42, image_mean=[0.4, 0.5, 0.6]).save_pretrained(tmp_path)
    model = IlaForVideoClassification.from_pretrained(tmp_path, labels=LABELS, num_frames=2)
    assert model.vision_model.embeddings.position_embedding.weight.shape == (1 + 3 * 3, 32)
    processor = IlaVideoProcessor.for_model(model.config)
    assert (processor.crop_size["height"], processor.image_mean) == (42, (0.4, 0.5, 0.6))
    assert model(pixels(2, 42)).logits.shape == (2, 3)
    assert IlaConfig.from_pretrained(tmp_path, image_size=518).vision_config.image_size == 518


@pytest.mark.parametrize("module", ["ila", "message", "joint", "divided", "gta"])
def test_registers_see_every_frame_and_no_temporal_module_sees_them(module, tmp_path):
    """A module that starts as plain frames leaves the features as they are, and a frame's registers stay its own."""
    save_dinov2(tmp_path, registers=3)
    fields = {"num_frames": 4, "alignment_hidden_size": 8} if module == "ila" else {"num_frames": 4}
    seen = []
    tower = IlaVisionModel.from_pretrained(tmp_path, temporal_module=module, **fields).eval()
    tower.encoder.layers[0].temporal.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    output = tower(pixels(), output_hidden_states=True)
    assert output.last_hidden_state.shape == (2, 4, 50, 32) and output.hidden_states[-1].shape == (2, 4, 53, 32)
    assert seen == [(2, 4, 50, 32)]
    plain = IlaVisionModel.from_pretrained(tmp_path, temporal_module="none", num_frames=4).eval()(pixels())
    if module in ("divided", "gta"):
        torch.testing.assert_close(output.last_hidden_state, plain.last_hidden_state, **CLOSE)
    else:
        assert not torch.allclose(output.last_hidden_state, plain.last_hidden_state, atol=1e-3)
    tower.train()(pixels()).pooler_output.sum().backward()
    assert tower.embeddings.register_tokens.grad.abs().max() > 0


def test_pixels_that_a_tower_saw_without_normalisation_have_none(tmp_path):
    save_dinov2(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text('{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5], "do_center_crop": true, "crop_size": 20}')
    vision = IlaConfig.from_pretrained(tmp_path).vision_config
    assert vision.image_normalization == {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]} and vision.image_size == 20
    file.write_text("{")
    with pytest.raises(ValueError, match=r"preprocessor_config.json', of the image processor, cannot be read"):
        IlaConfig.from_pretrained(tmp_path)


def test_clip_keeps_its_own(tmp_path):
    config = IlaForVideoClassification.from_pretrained(save_clip(tmp_path), labels=LABELS).config
    vision = config.vision_config
    assert (vision.patch_bias, vision.pre_layer_norm, vision.image_normalization) == (False, True, None)
    clip = IlaVideoProcessor()
    assert IlaVideoProcessor.for_model(config).image_mean == clip.image_mean != (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize(
    ("fields", "causal"),
    [
        ({}, True),
        ({"num_frames": 4}, True),
        ({"alignment_fusion": "mi_token", "alignment_pairing": "first"}, True),
        ({"temporal_module": "shift"}, True),
        ({"classification_head": "linear"}, True),
        ({"alignment_causal": False}, False),
        ({"vision_config": {"alignment_causal": False}}, False),
        ({"alignment_fusion": "residual"}, False),
        ({"vision_config": {"alignment_fusion": "residual"}}, False),
        ({"alignment_pairing": "middle"}, False),
        ({"alignment_layers": []}, False),
        ({"zero_shot": True}, False),
        *(({"temporal_module": module}, False) for module in ("none", "average", "joint", "divided", "gta")),
    ],
)
def test_what_begins_with_pictures_is_causal_where_it_can_be(clip_folder, fields, causal, caplog):
    caplog.set_level(logging.WARNING)
    config = IlaConfig.from_pretrained(clip_folder, **fields) if "zero_shot" not in fields else None
    if config is None:
        config = IlaForVideoClassification.from_pretrained(clip_folder, labels=LABELS, **fields).config
    assert config.vision_config.alignment_causal is causal and "alignment_causal" not in caplog.text


def test_every_door_begins_causal_and_what_was_trained_stays_as_it_was(clip_folder, vit_folder, tmp_path):
    for kind in (IlaForVideoClassification, IlaModel, IlaVisionModel):
        config = kind.from_pretrained(clip_folder).config
        assert getattr(config, "vision_config", config).alignment_causal
    assert IlaForVideoClassification.from_pretrained(vit_folder, labels=LABELS).config.vision_config.alignment_causal
    of_clip = CLIPConfig.from_pretrained(clip_folder)
    assert IlaModel.from_pretrained(clip_folder, config=of_clip).config.vision_config.alignment_causal
    assert not FrozenClipConfig.from_pretrained(clip_folder).vision_config.alignment_causal  # its decoder looks ahead
    for plain in (IlaConfig(), IlaConfig.paper(), IlaConfig.released()):
        assert not plain.vision_config.alignment_causal
    for causal in (False, True):
        model = IlaForVideoClassification.from_pretrained(clip_folder, labels=LABELS, alignment_causal=causal)
        model.save_pretrained(tmp_path / str(causal))
        for fields in ({}, {"num_frames": 3}):
            again = IlaForVideoClassification.from_pretrained(tmp_path / str(causal), **fields)
            assert again.config.vision_config.alignment_causal is causal


@pytest.mark.parametrize("frames,size", [(7, 28), (4, 36)])
def test_other_sizes_interpolate_and_a_saved_model_is_the_same(vit_folder, tmp_path, frames, size, caplog):
    fields = {"num_frames": frames, "image_size": size, "alignment_hidden_size": 8}
    with caplog.at_level(logging.WARNING):
        model = IlaForVideoClassification.from_pretrained(vit_folder, labels=LABELS, **fields).eval()
    assert (f"28 to {size} pixels" in caplog.text) == (size != 28)
    assert "frames." not in caplog.text  # a ViT knows no number of frames
    assert model.vision_model.embeddings.position_embedding.weight.shape == (1 + (size // 4) ** 2, 32)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "ila"
    loaded = IlaForVideoClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(pixels(frames, size)).logits, model(pixels(frames, size)).logits)


def test_a_saved_model_on_registers_resamples_as_its_tower_did(tmp_path):
    dinov2 = save_dinov2(tmp_path / "dinov2", registers=3)
    saved = IlaForVideoClassification.from_pretrained(tmp_path / "dinov2", labels=LABELS, num_frames=2)
    saved.save_pretrained(tmp_path / "saved")
    fields = {"image_size": 20, "temporal_module": "none"}
    tower = IlaVisionModel.from_pretrained(tmp_path / "saved", **fields).eval()
    with torch.no_grad():
        expected = dinov2(pixels(2, 20).flatten(0, 1)).pooler_output
        torch.testing.assert_close(tower(pixels(2, 20)).pooler_output.flatten(0, 1), expected, atol=1e-5, rtol=0)
        fused = saved.eval().fuse()(pixels(2)).logits
        torch.testing.assert_close(fused, saved(pixels(2)).logits, **CLOSE)


@pytest.mark.parametrize("dtype", [None, "auto", torch.bfloat16])
def test_the_dtype_is_the_folders_or_what_is_asked_for(tmp_path, dtype):
    vit = save_vit(tmp_path)
    if dtype != torch.bfloat16:
        vit.bfloat16().save_pretrained(tmp_path)
    options = {} if dtype is None else {"dtype": dtype}
    model = IlaForVideoClassification.from_pretrained(tmp_path, num_frames=4, **options)
    assert model.dtype == model.visual_projection.weight.dtype == torch.bfloat16


# what is saved, its fields, what is asked for, what the error says
REFUSED = {
    "a text head": (save_vit, {}, {"classification_head": "text"}, 'ViT without a text tower: .* must be "linear"'),
    "no qkv bias": (save_vit, {"qkv_bias": False}, {}, "qkv_bias=False"),
    "a long picture": (save_vit, {"image_size": [28, 56]}, {}, r"`image_size` .*28, 56.*one number"),
    "a projection": (save_vit, {}, {"projection_dim": 64}, "`projection_dim` is 64; allowed: 32"),
    "CLIP's norm": (save_vit, {}, {"pre_layer_norm": True}, "pre_layer_norm': True"),
    "registers of a ViT": (save_vit, {}, {"num_register_tokens": 4}, "is a ViT, .*got {'num_register_tokens': 4}"),
    "a DINOv2's text head": (save_dinov2, {}, {"classification_head": "text"}, "DINOv2 without a text tower"),
    "a DINOv2's qkv bias": (save_dinov2, {"qkv_bias": False}, {}, "DINOv2 with qkv_bias=False"),
    "other registers": (save_dinov2, {"registers": 3}, {"num_register_tokens": 4}, "DINOv2 with registers, .*: 4}"),
    "other patches": (save_dinov2, {}, {"patch_size": 7}, "DINOv2, .*got {'patch_size': 7}"),
    "a gated MLP": (save_dinov2, {}, {"gated_mlp": True}, "DINOv2, .*'gated_mlp': True}"),
    "its configuration": (
        save_dinov2,
        {},
        {"config": Dinov2Config()},
        "`config` is a Dinov2Config; allowed: `IlaConf",
    ),
    "another MLP": (save_dinov2, {"use_swiglu_ffn": True}, {"gated_mlp": False}, "DINOv2, .*'gated_mlp': False}"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_tower_cannot_be_is_refused(what, tmp_path):
    save, fields, asked, message = REFUSED[what]
    save(tmp_path, **fields)
    with pytest.raises(ValueError, match=message):
        IlaForVideoClassification.from_pretrained(tmp_path, **asked)


def test_a_configuration_of_clip_is_refused(vit_folder):
    with pytest.raises(ValueError, match="without a text tower"):
        IlaForVideoClassification.from_pretrained(vit_folder, config=IlaConfig())
    with pytest.raises(ValueError, match="needs.*patch_bias"):
        IlaForVideoClassification.from_pretrained(vit_folder, config=IlaConfig(classification_head="linear"))


def test_weights_that_lack_something_are_refused(tmp_path):
    save_vit(tmp_path)
    renamed(tmp_path, lambda name: name.replace("layer.1.output", "layer.1.output_"))
    with pytest.raises(ValueError, match=r"missing_keys.*layers\.1\.mlp\.fc2"):
        IlaForVideoClassification.from_pretrained(tmp_path)
    save_vit(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"unexpected_keys.*layers\.1\."):
        IlaForVideoClassification.from_pretrained(tmp_path)


def test_the_released_code_cannot_have_it(vit_folder):
    model = IlaForVideoClassification.from_pretrained(vit_folder, alignment_fusion="residual", **TINY_ILA)
    with pytest.raises(ValueError, match="only CLIP's tower"):
        to_released_state_dict(model)


def test_the_card_names_it(vit_folder):
    config = IlaConfig.from_pretrained(vit_folder)
    card = model_card(config, IlaVideoProcessor.for_model(config), ModelFacts())
    assert "ILA: ViT's network turned" in card.text and "(ViT's too," in card.text and "vit" in card.data.tags


@pytest.mark.parametrize("save", [save_vit, partial(save_dinov2, registers=3)], ids=["vit", "dinov2"])
def test_a_recipe_starts_from_an_image_tower(save, tmp_path, caplog):
    save(tmp_path)
    recipe = RecipeArguments(clip=str(tmp_path), classification_head="linear", config=json.dumps(TINY_ILA))
    with caplog.at_level(logging.WARNING):
        model = model_of(recipe, LABELS)
    assert "is no B/16 tower, which the recipe is meant for" in caplog.text and "'patch_size': 4" in caplog.text
    new = model.new_parameters
    frozen = {name.split(".")[0] for name, _ in model.named_parameters() if not is_new_parameter(name, new)}
    assert frozen == {"vision_model", "visual_projection"}  # by `freeze_clip`; the projection is the identity
    with pytest.raises(ValueError, match='must be "linear"'):
        model_of(RecipeArguments(clip=str(tmp_path)), LABELS)

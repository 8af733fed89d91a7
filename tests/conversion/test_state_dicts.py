"""Released and CLIP state dicts to ours and back; the released network against its golden tensors."""

import pytest
import torch
from released_network import compare
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from support.released_models import SHARED, WIDE_TEXT, WIDE_VISION, openai_state_dict, published_shapes, released_model
from support.tiny_models import tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.conversion.state_dicts import convert_state_dict, to_released_state_dict


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder with the golden tensors is not here")
GOLDEN = 1e-5  # of each tensor's largest value, float32 on CPU


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("fields", [{}, {"head": "linear"}, {"num_frames": 3, "mit_num_hidden_layers": 2}])
def test_there_and_back(fields, prefix):
    model = released_model(**fields)
    released = to_released_state_dict(model)
    config, converted = convert_state_dict({prefix + key: value for key, value in released.items()})
    again = IlaForVideoClassification(config).eval()
    missing, unexpected = again.load_state_dict(converted, strict=False)
    assert not unexpected and set(missing) <= {"class_input_ids"}
    if config.classification_head == "text":
        again.set_class_input_ids(model.class_input_ids)
    else:
        assert config.num_labels == 5
    pixels = torch.randn(2, config.num_frames, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(again(pixels).logits, model(pixels).logits)
    back = to_released_state_dict(again)
    assert back.keys() == released.keys() and all(torch.equal(back[key], released[key]) for key in back)


def test_heads_of_a_projection_that_is_no_multiple_of_64():
    for projection, heads in ((160, 2), (96, 1), (32, 1)):
        model = released_model(projection_dim=projection)
        config, _ = convert_state_dict(to_released_state_dict(model))
        assert config.vision_config.mit_num_attention_heads == config.prompt_num_attention_heads == heads


def test_keys_left_over_and_missing_are_listed():
    released = to_released_state_dict(released_model())
    del released["visual.transformer.resblocks.1.message_attn.fc.bias"]
    released["visual.extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"left over: \['visual.extra'\]; keys missing: .*1\.message_attn\.fc\.bias"):
        convert_state_dict(released)
    with pytest.raises(ValueError, match="Neither a released ILA nor an OpenAI CLIP"):
        convert_state_dict({"layer.weight": torch.zeros(1)})


@pytest.mark.parametrize("head", ["text", "linear"])
def test_all_missing_keys_are_listed_whatever_they_say_of_the_sizes(head):
    released = to_released_state_dict(released_model(head=head))
    for key in sorted(released)[::7]:
        rest = {name: tensor for name, tensor in released.items() if name != key}
        with pytest.raises(ValueError) as error:
            convert_state_dict(rest)
        assert str(error.value) == f"Keys left over: none; keys missing: {[key]}."
    gone = [key for key in released if key.startswith(("mit.", "visual.conv1")) or key.endswith("c_fc.weight")]
    with pytest.raises(ValueError, match="keys missing: .*'mit.positional_embedding'.*'visual.conv1.weight'"):
        convert_state_dict({key: tensor for key, tensor in released.items() if key not in gone})


def test_stray_numbers_in_names_are_left_over():
    released = to_released_state_dict(released_model())
    for stray in ("visual.transformer.resblocks.999999999.ln_1.bias", "mit.resblocks.x.weight"):
        with pytest.raises(ValueError, match=f"left over: .*{stray}"):
            convert_state_dict({**released, stray: torch.zeros(1)})


def test_wrong_shapes_are_listed():
    released = to_released_state_dict(released_model())
    released["visual.ln_post.weight"] = torch.zeros(7)
    with pytest.raises(ValueError, match=r"post_layernorm.weight: \(7,\), expected \(128,\)"):
        convert_state_dict(released)


def test_only_the_released_form_goes_back():
    for fields in ({}, {"alignment_fusion": "residual", "alignment_layers": [0]}):
        with pytest.raises(ValueError, match="alignment_fusion"):
            to_released_state_dict(IlaForVideoClassification(tiny_config(**fields)))


@pytest.mark.parametrize(
    "fields,named",
    [
        ({"alignment_eta": 2.0}, "alignment_eta is 2.0 and must be 1.0"),
        ({"alignment_distance": "euclidean"}, "alignment_distance"),
        ({"alignment_delta": 0.5, "alignment_beta": 1.0}, "alignment_delta.*alignment_beta"),
        ({"mit_num_attention_heads": 4}, "mit_num_attention_heads is 4 and must be 1"),
        ({"prompt_hidden_act": "gelu"}, "prompt_hidden_act"),
        ({"use_video_prompt": False}, "missing"),
        ({"mit_num_hidden_layers": 0}, "missing"),
    ],
)
def test_what_the_original_code_would_compute_otherwise_is_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        to_released_state_dict(released_model(**fields))


def test_other_activations_and_heads_are_refused():
    for field, value in {"hidden_act": "gelu", "num_attention_heads": 4}.items():
        for tower in ("vision_config", "text_config"):
            model = released_model()
            setattr(getattr(model.config, tower), field, value)
            with pytest.raises(ValueError, match=f"{field} is {value!r}"):
                to_released_state_dict(model)


def test_adapters_must_be_merged_first():
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(released_model(), peft.LoraConfig(target_modules=["q_proj"], r=2))
    for model in (adapted, adapted.base_model.model):
        with pytest.raises(ValueError, match="merge_and_unload"):
            to_released_state_dict(model)
    assert to_released_state_dict(adapted.merge_and_unload())


def test_openai_clip():
    torch.manual_seed(0)
    vision = {**WIDE_VISION, "intermediate_size": 96}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=WIDE_TEXT, projection_dim=64)).eval()
    config, converted = convert_state_dict(openai_state_dict(clip))
    assert (config.vision_config.alignment_fusion, config.vision_config.image_size) == ("interaction", 24)
    model = IlaForVideoClassification(config).eval()
    missing, unexpected = model.load_state_dict(converted, strict=False)
    assert not unexpected
    assert all(".temporal." in key or key.startswith(("mit.", "prompts_", "class_")) for key in missing)
    ids = torch.randint(3, 90, (4, 12))
    with torch.no_grad():
        assert torch.equal(model.get_text_features(ids).pooler_output, clip.get_text_features(ids).pooler_output)


# -- golden tensors of the released network ---------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize("file", sorted(SHARED.glob("*.safetensors")), ids=lambda file: file.stem)
def test_released_network_equals_the_golden_tensors(file):
    """Points, pooled pairs and hidden states of every block, features, logits and losses, with and without jitter."""
    compared = list(compare(file))
    recorded = {key.removeprefix("output.") for key in load_file(file) if key.startswith("output.")}
    assert {row.name for row in compared} == recorded
    assert [row for row in compared if row.difference > GOLDEN * row.scale] == []


@needs_shared
@pytest.mark.parametrize("name", published_shapes())
def test_published_checkpoints_convert_with_every_key_used(name):
    shapes = published_shapes()[name]
    released = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    config, converted = convert_state_dict(released)
    data_set, size, frames = name.split()
    assert config.num_frames == int(frames.removesuffix("f"))
    assert f"/{config.vision_config.patch_size}" in size
    assert config.vision_config.image_size == (336 if "336" in size else 224)
    assert config.vision_config.alignment_conv == ("standard" if data_set == "ssv2" else "depthwise_separable")
    assert config.classification_head == ("linear" if data_set == "ssv2" else "text")
    fused = sum(".in_proj_" in key for key in shapes)
    assert len(converted) == len(shapes) + 2 * fused

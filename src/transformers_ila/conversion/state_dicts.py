"""State dicts of the official release, and of OpenAI's CLIP, to ours and back.

There is one table of names (`rename_table`), used in both directions and strict in both: a key that is left over or
missing is an error that lists it. Sizes, form and number of classes are read from names and shapes. In the release's
files the three projections of an attention are one matrix; `message_*` and `temporal_*` are the alignment.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError

from ..model.configuration_ila import IlaConfig
from ..model.modeling_ila import IlaForVideoClassification


StateDict = dict[str, torch.Tensor]

END_OF_TEXT_BY_ARGMAX = 2  # CLIPTextModel's sign for "the largest token ends the text", which is how the release reads
NOT_IN_CLIP = (".temporal.", "time_embedding", "mit.", "prompts_", "classifier")
NOT_WEIGHTS = re.compile(  # of OpenAI's archives: numbers held as tensors, and the mask of the text tower's attention
    r"(module\.)?(input_resolution|context_length|vocab_size|(.*\.)?attn_mask)"
)

ATTENTION_LAYER = {  # of the towers and of the frame integration
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
ALIGNMENT = {
    "message": "message_fc",
    "message_norm": "message_ln",
    "temporal_convolution": "message_attn.conv",
    "interaction_projection": "message_attn.fc",
    "interaction_skip": "temporal_skip_fc",
    "aligned_skip": "temporal_skip_align_fc",
    "pairs.point_head.convolutions.0.convolution": "message_attn.prediction_block.0",
    "pairs.point_head.convolutions.0.batch_norm": "message_attn.prediction_block.1",
    "pairs.point_head.convolutions.1.convolution": "message_attn.prediction_block.4",
    "pairs.point_head.convolutions.1.batch_norm": "message_attn.prediction_block.5",
    "pairs.point_head.hidden": "message_attn.prediction_block.10",
    "pairs.point_head.points": "message_attn.prediction_block.12",
}
INTERACTION = {
    "depthwise_separable": {  # Kinetics-400
        "pairs.interaction.0.convolution": "message_attn.interactive_block.0.depthwise_conv.0",
        "pairs.interaction.0.batch_norm": "message_attn.interactive_block.0.depthwise_conv.1",
        "pairs.interaction.1.convolution": "message_attn.interactive_block.0.pointwise_conv.0",
        "pairs.interaction.1.batch_norm": "message_attn.interactive_block.0.pointwise_conv.1",
        "pairs.interaction.2.convolution": "message_attn.interactive_block.1",
        "pairs.interaction.2.batch_norm": "message_attn.interactive_block.2",
    },
    "standard": {  # Something-Something V2
        "pairs.interaction.0.convolution": "message_attn.interactive_block.0",
        "pairs.interaction.0.batch_norm": "message_attn.interactive_block.1",
        "pairs.interaction.1.convolution": "message_attn.interactive_block.3",
        "pairs.interaction.1.batch_norm": "message_attn.interactive_block.4",
    },
}
VISION = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre",
    "vision_model.post_layernorm": "visual.ln_post",
}
TEXT = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final",
    "logit_scale": "logit_scale",
}
PROMPT = {
    "prompts_visual_layernorm": "prompts_visual_ln",
    "prompts_visual_projection.weight": "prompts_visual_proj",
    "prompts_generator.alpha": "prompts_generator.alpha",
    "prompts_generator.layernorm": "prompts_generator.norm",
}
PROMPT_LAYER = {
    "norm1": "norm1",
    "norm3": "norm3",
    "mlp.0": "mlp.0",
    "mlp.3": "mlp.3",
    "cross_attn.proj": "cross_attn.proj",
    "cross_attn.q_proj.weight": "cross_attn.q_proj.weight",
    "cross_attn.k_proj.weight": "cross_attn.k_proj.weight",
    "cross_attn.v_proj.weight": "cross_attn.v_proj.weight",
}
FRAMES = {"mit.position_embedding": "mit.positional_embedding"}
LINEAR_HEAD = {"classifier_norm": "mit.classify_head.0", "classifier": "mit.classify_head.2"}
TRANSPOSED = {  # stored as a matrix to multiply with from the right
    "visual_projection.weight": "visual.proj",
    "text_projection.weight": "text_projection",
}
STACKS = {  # our prefix of the layers, the released one
    "vision_model.encoder.layers": "visual.transformer.resblocks",
    "text_model.encoder.layers": "transformer.resblocks",
    "mit.encoder.layers": "mit.resblocks",
    "prompts_generator.decoder": "prompts_generator.decoder",
}
FUSED = ("q_proj", "k_proj", "v_proj")


class SourceSlice(NamedTuple):
    """Name the place of one of our tensors in a released state dict.

    key: the released name.
    third: which third of that tensor it is; None for all of it.
    transposed: whether the released matrix is ours transposed.
    """

    key: str
    third: int | None = None
    transposed: bool = False


def rename_table(config: IlaConfig) -> dict[str, SourceSlice]:
    """Map our name of every tensor of a model of this configuration to its slice of the released state dict.

    The classes' tokens are left out, because the release has none. For another form than the released one
    (`alignment_fusion="residual"`) the map has only the tensors of CLIP.
    """
    names = [name for name in _empty_model(config).state_dict() if not name.startswith("class_")]
    if config.vision_config.alignment_fusion != "residual":
        names = [name for name in names if not any(part in name for part in NOT_IN_CLIP)]
    return {name: _place(name, config) for name in names}


def _empty_model(config: IlaConfig) -> IlaForVideoClassification:
    with torch.device("meta"):
        return IlaForVideoClassification(config)


def _place(name: str, config: IlaConfig) -> SourceSlice:
    stack = re.fullmatch(rf"({'|'.join(map(re.escape, STACKS))})\.(\d+)\.(.+)", name)
    if stack is None:
        key = _renamed(name, {**VISION, **TEXT, **FRAMES, **PROMPT, **LINEAR_HEAD, **TRANSPOSED})
        return SourceSlice(key, transposed=name in TRANSPOSED)
    prefix = f"{STACKS[stack[1]]}.{stack[2]}"
    fused = re.fullmatch(r"self_attn\.([qkv]_proj)\.(weight|bias)", stack[3])
    if fused is not None:
        return SourceSlice(f"{prefix}.attn.in_proj_{fused[2]}", third=FUSED.index(fused[1]))
    inside = {**ATTENTION_LAYER, **PROMPT_LAYER, **ALIGNMENT, **INTERACTION[config.vision_config.alignment_conv]}
    return SourceSlice(f"{prefix}.{_renamed(stack[3].removeprefix('temporal.'), inside)}")


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    """Replace a whole name, or its module's part, by what `modules` has for it."""
    if name in modules:
        return modules[name]
    module, _, tensor = name.rpartition(".")
    return f"{modules[module]}.{tensor}"


# -- there -----------------------------------------------------------------------------------------------------------


def convert_state_dict(state_dict: Mapping[str, torch.Tensor]) -> tuple[IlaConfig, StateDict]:
    """Convert a released state dict, or one of OpenAI's CLIP, to ours.

    Args:
        state_dict: the tensors (the "model" entry of a released file), on any device, the meta device too. A `module.`
            in front of every name is taken off.

    Returns:
        The configuration, and the state dict of `IlaForVideoClassification` for it without the classes' tokens. From
        CLIP it has CLIP's tensors only, and the configuration is `IlaConfig()` on its towers.

    Raises:
        ValueError: neither of the two, or keys left over or missing; the message lists them.
    """
    state_dict = _without_module_prefix(state_dict)
    released = any(".message_attn." in key or key.startswith("mit.") for key in state_dict)
    if not any(key.startswith(STACKS["vision_model.encoder.layers"]) for key in state_dict):
        raise ValueError(f"Neither a released ILA nor an OpenAI CLIP ViT: keys such as {sorted(state_dict)[:5]}.")
    try:
        config = _infer_config(_Sizes(state_dict), released=released)
    except (IndexError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
        reason = f"{error!r} in its names or shapes"
        raise ValueError(f"Neither a released ILA nor an OpenAI CLIP ViT: {reason}.") from error
    table = rename_table(config)
    _check_keys(state_dict, {place.key for place in table.values()})
    converted = {name: _taken(state_dict[place.key], place) for name, place in table.items()}
    expected = _empty_model(config).state_dict()
    wrong = [
        f"{name}: {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in converted.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(f"Shapes that do not fit together: {'; '.join(wrong)}.")
    return config, converted


def _without_module_prefix(state_dict: Mapping[str, torch.Tensor]) -> StateDict:
    tensors = {key: value for key, value in state_dict.items() if not NOT_WEIGHTS.fullmatch(key)}
    if tensors and all(key.startswith("module.") for key in tensors):
        return {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _check_keys(found: Mapping[str, torch.Tensor], expected: set[str]) -> None:
    left_over, missing = sorted(set(found) - expected), sorted(expected - set(found))
    if left_over or missing:
        raise ValueError(f"Keys left over: {left_over or 'none'}; keys missing: {missing or 'none'}.")


def _taken(tensor: torch.Tensor, place: SourceSlice) -> torch.Tensor:
    if place.third is not None:
        tensor = tensor.chunk(3)[place.third]
    return (tensor.T if place.transposed else tensor).contiguous()


class _Sizes(dict[str, torch.Tensor]):
    """Hold tensors to read sizes from; a missing one has a size that no model has.

    So inference goes on, and the comparison of names after it lists everything that is missing.
    """

    def __missing__(self, key: str) -> torch.Tensor:
        return torch.empty(64, 64, 64, 64, device="meta")


def _infer_config(tensors: _Sizes, *, released: bool) -> IlaConfig:
    """Infer every number of the configuration from names and shapes; heads have 64 channels, as in CLIP's towers."""
    width, _, patch_size, _ = tensors["visual.conv1.weight"].shape
    projection = tensors["visual.proj"].shape[1]
    grid = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
    vision: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": tensors["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_attention_heads": _heads(width),
        "num_hidden_layers": _layers(tensors, "visual.transformer.resblocks."),
        "patch_size": patch_size,
        "image_size": grid * patch_size,
        "projection_dim": projection,
    }
    if released:
        block = "visual.transformer.resblocks.0.message_attn."
        vision |= {
            "num_frames": tensors["mit.positional_embedding"].shape[1],
            "alignment_fusion": "residual",
            "alignment_conv": _alignment_conv(tensors),
            "alignment_hidden_size": tensors[f"{block}conv.weight"].shape[0],
            "mit_num_hidden_layers": _layers(tensors, "mit.resblocks."),
            "mit_intermediate_size": tensors["mit.resblocks.0.mlp.c_fc.weight"].shape[0],
        }
    odd = released and projection % 64 != 0  # else the configuration's own rule says the same
    if odd:
        vision["mit_num_attention_heads"] = _heads(projection)
    if any(key.startswith("mit.classify_head.") for key in tensors):
        classes = tensors["mit.classify_head.2.weight"].shape[0]
        return IlaConfig(
            vision_config=vision, projection_dim=projection, classification_head="linear", num_labels=classes
        )
    text_width = tensors["text_projection"].shape[0]
    text = {
        "hidden_size": text_width,
        "intermediate_size": tensors["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_attention_heads": _heads(text_width),
        "num_hidden_layers": _layers(tensors, "transformer.resblocks."),
        "vocab_size": tensors["token_embedding.weight"].shape[0],
        "max_position_embeddings": tensors["positional_embedding"].shape[0],
        "projection_dim": projection,
        "bos_token_id": tensors["token_embedding.weight"].shape[0] - 2,  # CLIP's last two tokens: start and end
        "eos_token_id": END_OF_TEXT_BY_ARGMAX,
    }
    prompt_layers = _layers(tensors, "prompts_generator.decoder.") if released else 2
    return IlaConfig(
        vision_config=vision,
        text_config=text,
        projection_dim=projection,
        prompt_layers=prompt_layers,
        prompt_num_attention_heads=_heads(projection) if odd else None,
    )


def _heads(width: int) -> int:
    return max(1, width // 64)


def _alignment_conv(tensors: StateDict) -> str:
    """Tell the two forms of the interaction block apart by the names that only one of them has."""
    inside = {key.partition(".interactive_block.")[2] for key in tensors}
    is_standard = any(name.startswith(("0.weight", "0.bias", "3.", "4.")) for name in inside)
    return "standard" if is_standard else "depthwise_separable"


def _layers(tensors: StateDict, prefix: str) -> int:
    """Count layers: one more than the highest number after the prefix, limited so that a stray number adds few."""
    found = {int(match[1]) for key in tensors if (match := re.match(rf"{re.escape(prefix)}(\d{{1,9}})\.", key))}
    return min(1 + max(found, default=0), 1 + 2 * len(found))


# -- and back --------------------------------------------------------------------------------------------------------


def to_released_state_dict(model: IlaForVideoClassification) -> StateDict:
    """Return the model's weights under the names of the release, for its original code.

    This is the inverse of `convert_state_dict`.

    Raises:
        ValueError: the original code computes something else with these weights: another form than
            `alignment_fusion="residual"` in every layer, other numbers of heads than it has, other activations, ...;
            or adapters (LoRA) that are not merged.
    """
    config = model.config
    vision = config.vision_config
    form = (vision.temporal_module, vision.alignment_fusion, vision.alignment_pairing, len(vision.temporal_layers))
    if not vision.pre_layer_norm or vision.patch_bias or vision.num_register_tokens or vision.gated_mlp:
        raise ValueError("The original code knows only CLIP's tower, and this is a ViT's.")
    if form != ("ila", "residual", "adjacent", vision.num_hidden_layers):
        fields = ("temporal_module", "alignment_fusion", "alignment_pairing", "alignment_layers")
        found = ", ".join(f"{field}={getattr(vision, field)!r}" for field in fields)
        raise ValueError(
            f'The original code knows only alignment_fusion="residual", adjacent frames, in every layer; got {found}.'
        )
    if config.class_features == "merged":
        raise ValueError("The original code needs the text tower, which `merge_text_tower` dropped.")
    tensors, released = model.state_dict(), {}
    table = rename_table(config)
    absent = sorted(table.keys() - tensors.keys())
    if absent:
        raise ValueError(f"The model lacks {absent[:3]}: adapters (LoRA) are merged first, `merge_and_unload()`.")
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for name, place in table.items():
        tensor = tensors[name].detach()
        if place.third is not None:
            thirds.setdefault(place.key, {})[place.third] = tensor
        else:
            released[place.key] = (tensor.T if place.transposed else tensor).contiguous()
    fused = {key: torch.cat([parts[third] for third in range(3)]) for key, parts in thirds.items()}
    _check_original(config, {**released, **fused})
    return {**released, **fused}


def _check_original(config: IlaConfig, released: StateDict) -> None:
    """Raise a ValueError unless what the file's names and shapes say is what the model computes."""
    original, _ = convert_state_dict({name: tensor.to("meta") for name, tensor in released.items()})
    ours, theirs = _computed(config), _computed(original)
    differ = [
        f"{name} is {value!r} and must be {theirs[name]!r}" for name, value in ours.items() if value != theirs[name]
    ]
    if differ:
        raise ValueError(f"The original code would compute something else with these weights: {'; '.join(differ)}.")


def _computed(config: IlaConfig) -> dict[str, Any]:
    """Return the settings that decide the outputs and that no weight's name or shape tells."""
    vision, text = config.vision_config, config.text_config
    default = _heads(config.projection_dim)
    both = ("hidden_act", "num_attention_heads", "layer_norm_eps")
    alignment = ("alignment_distance", "alignment_eta", "alignment_delta", "alignment_beta", "alignment_pairing")
    values = {name: getattr(vision, name) for name in (*both, *alignment)}
    values["mit_num_attention_heads"] = vision.mit_num_attention_heads or default
    if config.classification_head == "text":
        highest = text.eos_token_id in (END_OF_TEXT_BY_ARGMAX, text.vocab_size - 1)
        values |= {f"text_config.{name}": getattr(text, name) for name in both}
        values["text_config.eos_token_id"] = END_OF_TEXT_BY_ARGMAX if highest else text.eos_token_id
        values["prompt_num_attention_heads"] = config.prompt_num_attention_heads or default
        values["prompt_hidden_act"] = config.prompt_hidden_act
    return values

"""What lies in checkpoints' folders: other kinds and sizes of weights, names of weights, and code beside them.

The keys of an ImageNet ViT are read. Single weights, which are layers in models (`HeldWeight`), stand in checkpoints
under their layer's own name, as bare parameters did.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, ViTConfig, ViTModel
from transformers.utils import IMAGE_PROCESSOR_NAME, cached_file, logging
from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from .class_names_ila import without_label_fields


logger = logging.get_logger(__name__)


def vision_sizes(config: PreTrainedConfig) -> dict[str, int]:
    """Return `num_frames` and `image_size` (pixels) of a configuration, of the tower or of all."""
    vision = getattr(config, "vision_config", config)
    return {"num_frames": vision.num_frames, "image_size": vision.image_size}


def set_vision_sizes(config: PreTrainedConfig, sizes: dict[str, int]) -> None:
    """Set `num_frames` and `image_size` (pixels) of a configuration, of the tower or of all."""
    vision = getattr(config, "vision_config", config)
    vision.num_frames, vision.image_size = sizes["num_frames"], sizes["image_size"]


def stored_sizes(config_class: Any, path: Any, wanted: dict[str, int], **source: Any) -> dict[str, int]:
    """Return a checkpoint's number of frames and image size; CLIP's knows no frames and takes the `wanted` ones."""
    config_dict, _ = config_class.get_config_dict(path, **source)
    sizes = vision_sizes(config_class.from_dict(without_label_fields(config_dict)))
    knows_frames = "num_frames" in config_dict.get("vision_config", config_dict)
    return sizes if knows_frames else {**sizes, "num_frames": wanted["num_frames"]}


ADAPTER, WEIGHTS = "adapter_config.json", ("model", "pytorch_model")


def refuse_adapter(path: Any) -> None:
    """Raise a ValueError for a folder with an adapter and no weights: it would be put on a model of other classes."""
    if path is not None and os.path.isfile(os.path.join(path, ADAPTER)):
        if not any(name.startswith(WEIGHTS) for name in os.listdir(path)):
            raise ValueError(
                f"{str(path)!r} holds an adapter (LoRA), no whole model: `transformers_ila.training.load_adapter` "
                "opens it on its own weights and with its classes; `merge_and_unload()` makes a whole model of it."
            )


# Arguments of `from_pretrained` that say where the files are.
HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

VIT_FIELDS = {  # ViTConfig's -> IlaVisionConfig's
    **{name: name for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
    **{name: name for name in ("image_size", "patch_size", "num_channels", "hidden_act", "layer_norm_eps")},
    "attention_probs_dropout_prob": "attention_dropout",
}
VIT_TOWER = {"patch_bias": True, "pre_layer_norm": False}  # fields that make CLIP's tower a ViT
VIT_WEIGHTS = (  # ViTModel's names -> IlaVisionModel's
    (r"^embeddings\.cls_token$", "embeddings.class_embedding"),
    (r"^embeddings\.position_embeddings$", "embeddings.position_embedding.weight"),
    (r"^embeddings\.patch_embeddings\.projection\.", "embeddings.patch_embedding."),
    (r"^layernorm\.", "post_layernorm."),
    (r"^layers\.(\d+)\.attention\.o_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^layers\.(\d+)\.attention\.", r"encoder.layers.\1.self_attn."),
    (r"^layers\.(\d+)\.layernorm_before\.", r"encoder.layers.\1.layer_norm1."),
    (r"^layers\.(\d+)\.layernorm_after\.", r"encoder.layers.\1.layer_norm2."),
    (r"^layers\.(\d+)\.mlp\.", r"encoder.layers.\1.mlp."),
)
ABOVE_VIT = re.compile(r"^(vit\.)?(pooler\.|classifier\.|decoder\.|embeddings\.mask_token$)")  # not needed here


def is_vit(path: Any, **source: Any) -> bool:
    """Return whether a folder or Hub id holds an image classification ViT."""
    try:
        return PreTrainedConfig.get_config_dict(path, **source)[0].get("model_type") == "vit"
    except OSError:  # no configuration beside the weights: whoever needs one says so
        return False


def config_dict_of_vit(config_dict: dict[str, Any], path: Any, **options: Any) -> dict[str, Any]:
    """Make the dictionary of an IlaConfig: a linear head on the ViT, without the ViT's own classes.

    Args:
        config_dict: of a ViTConfig.
        path: folder or Hub id; it also knows how the pixels were normalised.
        options: of `from_pretrained`.

    Raises:
        ValueError: a text head, `qkv_bias=False`, or pictures or patches that are no squares.
    """
    if options.get("classification_head") == "text":
        raise ValueError(_no_text(path))
    vit = ViTConfig.from_dict(config_dict)
    if not vit.qkv_bias or getattr(vit, "head_dim", None) not in (None, vit.hidden_size // vit.num_attention_heads):
        raise ValueError(
            f"{str(path)!r} is a ViT with qkv_bias={vit.qkv_bias}, head_dim={getattr(vit, 'head_dim', None)}; "
            "allowed: qkv_bias=True and heads that divide hidden_size, as CLIP's layers have."
        )
    for field in ("image_size", "patch_size"):
        if not isinstance(getattr(vit, field), int):
            raise ValueError(f"{str(path)!r} has `{field}` {getattr(vit, field)!r}; allowed: one number, for squares.")
    if vit.hidden_dropout_prob:
        logger.warning(
            f"hidden_dropout_prob={vit.hidden_dropout_prob} is not used: the tower here has no such dropout."
        )
    vision = {ours: getattr(vit, theirs) for theirs, ours in VIT_FIELDS.items()}
    vision["image_normalization"] = _normalisation(
        path, **{name: options[name] for name in HUB_KWARGS if name in options}
    )
    return {
        "model_type": "ila",
        "vision_config": {**vision, **VIT_TOWER, "projection_dim": vit.hidden_size},
        "projection_dim": vit.hidden_size,
        "classification_head": "linear",
        "initializer_range": vit.initializer_range,
        **{name: config_dict[name] for name in ("dtype", "torch_dtype") if config_dict.get(name) is not None},
    }


def _normalisation(path: Any, **source: Any) -> dict[str, list[float]]:
    """Return the mean and deviation that pixels were normalised with, by default 0.5, as Google's ViTs have it."""
    folder = os.path.dirname(path) if os.path.isfile(path) else path
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    file = cached_file(folder, IMAGE_PROCESSOR_NAME, **optional, **source)
    found = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    defaults = {"image_mean": IMAGENET_STANDARD_MEAN, "image_std": IMAGENET_STANDARD_STD}
    return {name: list(found.get(name) or default) for name, default in defaults.items()}


def check_config_for_vit(config: Any, path: Any) -> None:
    """Raise a ValueError unless a configuration (of the tower, or of all) is one that ViT's weights fill."""
    vision = getattr(config, "vision_config", config)
    if getattr(config, "classification_head", "linear") != "linear":
        raise ValueError(_no_text(path))
    other = {name: getattr(vision, name) for name, value in VIT_TOWER.items() if getattr(vision, name) != value}
    if other:
        raise ValueError(f"{str(path)!r} is a ViT, which needs {VIT_TOWER}, got {other}: `IlaConfig.from_pretrained`.")
    if config is not vision and config.projection_dim != vision.hidden_size:
        raise ValueError(
            f"`projection_dim` is {config.projection_dim}; allowed: {vision.hidden_size}, the width of the ViT in "
            f"{str(path)!r}, which has no projection."
        )


def state_dict_of_vit(path: Any, **options: Any) -> dict[str, torch.Tensor]:
    """Load a ViT's weights under the names that they have in an IlaModel.

    Args:
        path: folder or Hub id, as saved by any of transformers' ViT models, now or in the format's first version.
        options: of `from_pretrained`; those that say where the files are.

    Raises:
        ValueError: weights that are missing, of another shape, or not known.
        OSError: no such weights.
    """
    loading: Any = ViTModel.from_pretrained
    vit, info = loading(path, add_pooling_layer=False, dtype="auto", output_loading_info=True, **options)
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    wrong["unexpected_keys"] = [name for name in wrong["unexpected_keys"] if not ABOVE_VIT.match(name)]
    if any(wrong.values()):
        raise ValueError(f"{str(path)!r} does not hold the weights of the ViT in its config.json: {wrong}.")
    state = {f"vision_model.{_renamed(name)}": weight for name, weight in vit.state_dict().items()}
    for name, axes in (("class_embedding", (0, 1)), ("position_embedding.weight", (0,))):  # (1, 1, D), (1, L, D)
        key = f"vision_model.embeddings.{name}"
        state[key] = state[key].squeeze(axes)
    width = vit.config.hidden_size
    state["visual_projection.weight"] = torch.eye(width, dtype=next(iter(state.values())).dtype)
    return state


def _renamed(name: str) -> str:
    return next(re.sub(theirs, ours, name) for theirs, ours in VIT_WEIGHTS if re.match(theirs, name))


def _no_text(path: Any) -> str:
    return f'{str(path)!r} is a ViT without a text tower: `classification_head` must be "linear", got "text".'


# -- names of single weights ------------------------------------------------------------------------------------------


# Full names of these layers in a model, or in a tower alone.
HELD_WEIGHTS = ("prompts_visual_projection", "vision_model.time_embedding", "time_embedding")
# From the names in checkpoints to those in models, for `from_pretrained`.
KEY_MAPPING = {rf"^{re.escape(name)}$": f"{name}.weight" for name in HELD_WEIGHTS}


def checkpoint_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's state dict under the names that checkpoints have."""
    bare = {f"{name}.weight": name for name in HELD_WEIGHTS}
    return {bare.get(name, name): value for name, value in state_dict.items()}


def take_checkpoint_names(module: Any, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """Let `load_state_dict` take the names that checkpoints have, too (a hook before loading)."""
    for name in HELD_WEIGHTS:
        if prefix + name in state_dict:
            state_dict[f"{prefix}{name}.weight"] = state_dict.pop(prefix + name)


# -- code beside weights ----------------------------------------------------------------------------------------------


def save_code(owner: Any, folder: str | Path) -> None:
    """Copy the `*_ila.py` into `folder`, if `owner` (a configuration or a processor) names classes in them.

    Loaded from an export it does (`auto_map`), and who saves it again by `save_pretrained` keeps that; without the
    files such a folder would load on no machine that lacks the package.
    """
    if getattr(owner, "auto_map", None):
        for source in code_files():
            if source.parent.resolve() != Path(folder).resolve():
                shutil.copyfile(source, Path(folder) / source.name)


def code_files() -> list[Path]:
    """List the modules that ship to the Hub, which are siblings of this one."""
    return sorted(Path(__file__).parent.glob("*_ila.py"))

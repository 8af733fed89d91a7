"""What lies in checkpoints' folders: other kinds and sizes of weights, names of weights, and code beside them.

Image towers (ImageNet's ViT, DINOv2) become CLIP's. Single weights, which are layers in models (`HeldWeight`), stand
in checkpoints under their layer's own name, as bare parameters did.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    Dinov2Model,
    Dinov2WithRegistersModel,
    PreTrainedConfig,
    ViTMAEModel,
    ViTModel,
    ViTMSNModel,
)
from transformers.utils import IMAGE_PROCESSOR_NAME, cached_file, logging
from transformers.utils.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

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
    tower = image_tower(path, **source)
    if tower is not None:  # its own size, which is not always the one that it is used at
        own, _ = tower.model.config_class.get_config_dict(path, **source)
        return {**wanted, "image_size": tower.model.config_class.from_dict(own).image_size}
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

# -- image towers -----------------------------------------------------------------------------------------------------


class ImageTower(NamedTuple):
    """Describe a kind of image model whose weights fill the tower.

    name: as users know it.
    model: transformers' class, without a head.
    image_mean, image_std: what its pixels were normalised with, where no file beside the weights says so.
    """

    name: str
    model: Any
    image_mean: Sequence[float]
    image_std: Sequence[float]


_IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
TOWERS = {  # by `model_type`
    "vit": ImageTower("ViT", ViTModel, IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD),
    "vit_mae": ImageTower("ViT (MAE)", ViTMAEModel, *_IMAGENET),
    "vit_msn": ImageTower("ViT (MSN)", ViTMSNModel, *_IMAGENET),
    "dinov2": ImageTower("DINOv2", Dinov2Model, *_IMAGENET),
    "dinov2_with_registers": ImageTower("DINOv2 with registers", Dinov2WithRegistersModel, *_IMAGENET),
}
TOWER_FIELDS = {  # theirs -> IlaVisionConfig's
    **{name: name for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")},
    **{name: name for name in ("num_channels", "hidden_act", "layer_norm_eps")},
    "attention_probs_dropout_prob": "attention_dropout",
}
# Fields of IlaVisionConfig of which a tower's weights allow one value.
FIXED_FIELDS = ("patch_size", "patch_bias", "pre_layer_norm", "num_register_tokens", "gated_mlp")
_LAYER = r"^(?:encoder\.layer|layers)\.(\d+)\."
TOWER_WEIGHTS = (  # names in ViTModel, Dinov2Model -> IlaVisionModel's
    (r"^embeddings\.cls_token$", "embeddings.class_embedding"),
    (r"^embeddings\.register_tokens$", "embeddings.register_tokens"),
    (r"^embeddings\.position_embeddings$", "embeddings.position_embedding.weight"),
    (r"^embeddings\.patch_embeddings\.projection\.", "embeddings.patch_embedding."),
    (r"^layernorm\.", "post_layernorm."),
    (_LAYER + r"attention\.o_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (_LAYER + r"attention\.", r"encoder.layers.\1.self_attn."),
    (_LAYER + r"(?:layernorm_before|norm1)\.", r"encoder.layers.\1.layer_norm1."),
    (_LAYER + r"(?:layernorm_after|norm2)\.", r"encoder.layers.\1.layer_norm2."),
    (_LAYER + r"mlp\.", r"encoder.layers.\1.mlp."),
)
# What stands around a tower and is not needed here.
ABOVE_TOWER = re.compile(r"^(vit\.|dinov2\w*\.)?(pooler\.|classifier\.|decoder\.|embeddings\.mask_token$)")
LAYER_SCALE = re.compile(r"^(.*)\.layer_scale([12])\.lambda1$")
DINOV2_IMAGE_SIZE = 224  # pixels that DINOv2 is used at; its positions are stored for 518


def image_tower(path: Any, **source: Any) -> ImageTower | None:
    """Return which image tower a folder or Hub id holds; None for other models, as CLIP and ILA are."""
    try:
        return TOWERS.get(PreTrainedConfig.get_config_dict(path, **source)[0].get("model_type"))
    except OSError:  # no configuration beside the weights: whoever needs one says so
        return None


def config_dict_of_tower(config_dict: dict[str, Any], path: Any, **options: Any) -> dict[str, Any]:
    """Make the dictionary of an IlaConfig: a linear head on an image tower, without the tower's own classes.

    The image size of a DINOv2 is the one that its image processor crops to, and without a processor 224 pixels or the
    checkpoint's, whichever is less: positions for 518 pixels would make 1369 patches of every frame.

    Args:
        config_dict: of a configuration of one of `TOWERS`.
        path: folder or Hub id; it also knows how the pixels were normalised.
        options: of `from_pretrained`.

    Raises:
        ValueError: a text head, `qkv_bias=False`, or pictures or patches that are no squares.
    """
    tower = TOWERS[config_dict["model_type"]]
    if options.get("classification_head") == "text":
        raise ValueError(_no_text(tower, path))
    found = tower.model.config_class.from_dict(config_dict)
    _check_tower(found, tower, path)
    beside = _image_processor(path, **{name: options[name] for name in HUB_KWARGS if name in options})
    vision = {ours: getattr(found, theirs) for theirs, ours in TOWER_FIELDS.items()}
    vision |= {"patch_bias": True, "pre_layer_norm": False, "gated_mlp": getattr(found, "use_swiglu_ffn", False)}
    vision["num_register_tokens"] = getattr(found, "num_register_tokens", 0)
    normalization = {name: list(beside.get(name) or getattr(tower, name)) for name in ("image_mean", "image_std")}
    if beside.get("do_normalize") is False:  # it has seen pixels between 0 and 1
        normalization = {"image_mean": [0.0] * found.num_channels, "image_std": [1.0] * found.num_channels}
    vision["image_normalization"] = normalization
    if hasattr(found, "mlp_ratio"):  # DINOv2
        vision["intermediate_size"] = int(found.hidden_size * found.mlp_ratio)
        vision["image_size"] = _cropped_to(beside) or min(found.image_size, DINOV2_IMAGE_SIZE)
        if vision["gated_mlp"]:  # as many weights as an MLP has: two thirds of its width, in multiples of 8
            width = (int(vision["intermediate_size"] * 2 / 3) + 7) // 8 * 8
            vision |= {"hidden_act": "silu", "intermediate_size": width}
    else:
        vision["intermediate_size"] = found.intermediate_size
    return {
        "model_type": "ila",
        "vision_config": {**vision, "projection_dim": found.hidden_size},
        "projection_dim": found.hidden_size,
        "classification_head": "linear",
        "initializer_range": found.initializer_range,
        **{name: config_dict[name] for name in ("dtype", "torch_dtype") if config_dict.get(name) is not None},
    }


def _check_tower(found: Any, tower: ImageTower, path: Any) -> None:
    """Raise a ValueError for a tower's configuration that no IlaVisionConfig equals; warn of what is not used."""
    head_dim = getattr(found, "head_dim", None)
    if not found.qkv_bias or head_dim not in (None, found.hidden_size // found.num_attention_heads):
        raise ValueError(
            f"{str(path)!r} is a {tower.name} with qkv_bias={found.qkv_bias}, head_dim={head_dim}; "
            "allowed: qkv_bias=True and heads that divide hidden_size, as CLIP's layers have."
        )
    for field in ("image_size", "patch_size"):
        value = getattr(found, field)
        if not isinstance(value, int):
            raise ValueError(f"{str(path)!r} has `{field}` {value!r}; allowed: one number, for squares.")
    for field in ("hidden_dropout_prob", "drop_path_rate"):
        if getattr(found, field, 0):
            logger.warning(f"{field}={getattr(found, field)} is not used: the tower here has no such dropout.")


def _image_processor(path: Any, **source: Any) -> dict[str, Any]:
    """Return what stands in the file of the image processor beside a checkpoint; nothing without one."""
    folder = os.path.dirname(path) if os.path.isfile(path) else path
    optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_gated_repo": False}
    file = cached_file(folder, IMAGE_PROCESSOR_NAME, **optional, **source)
    try:
        return {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file!r}, of the image processor, cannot be read: {error}.") from error


def _cropped_to(processor: dict[str, Any]) -> int | None:
    """Return the side of the squares that an image processor makes, in pixels; None where it makes none."""
    size = processor.get("crop_size" if processor.get("do_center_crop") else "size")
    if isinstance(size, dict):
        size = size.get("height") if size.get("height") == size.get("width") else None
    return size if isinstance(size, int) else None


def check_config_for_tower(config: Any, stored: dict[str, Any], tower: ImageTower, path: Any) -> None:
    """Raise a ValueError unless a configuration (of the tower, or of all) is one that a tower's weights fill.

    stored: what `get_config_dict` of the configuration's class makes of the folder.
    """
    vision, stored = getattr(config, "vision_config", config), stored.get("vision_config", stored)
    if getattr(config, "classification_head", "linear") != "linear":
        raise ValueError(_no_text(tower, path))
    needed = {name: stored[name] for name in FIXED_FIELDS if name in stored}
    other = {name: getattr(vision, name) for name, value in needed.items() if getattr(vision, name) != value}
    if other:
        raise ValueError(
            f"{str(path)!r} is a {tower.name}, which needs {needed}, got {other}: `IlaConfig.from_pretrained`."
        )
    if config is not vision and config.projection_dim != vision.hidden_size:
        raise ValueError(
            f"`projection_dim` is {config.projection_dim}; allowed: {vision.hidden_size}, the width of the "
            f"{tower.name} in {str(path)!r}, which has no projection."
        )


def state_dict_of_tower(tower: ImageTower, path: Any, **options: Any) -> dict[str, torch.Tensor]:
    """Load an image tower's weights under the names that they have in an IlaModel.

    Args:
        tower: what `image_tower` says of the path.
        path: folder or Hub id, as saved by any of transformers' models of that kind, now or in its first version.
        options: of `from_pretrained`; those that say where the files are.

    Raises:
        ValueError: weights that are missing, of another shape, or not known.
        OSError: no such weights.
    """
    wanted = _without_surroundings(tower.model)
    model, info = wanted.from_pretrained(path, dtype="auto", output_loading_info=True, **options)
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise ValueError(f"{str(path)!r} does not hold the weights of the {tower.name} in its config.json: {wrong}.")
    state = {name: weight for name, weight in model.state_dict().items() if not ABOVE_TOWER.match(name)}
    fold_layer_scale(state)
    state = {f"vision_model.{_renamed(name)}": weight for name, weight in state.items()}
    for name, weight in state.items():
        if name.startswith("vision_model.embeddings.") and "patch" not in name:
            state[name] = weight[0]  # (1, L, D), (1, R, D)
    state["vision_model.embeddings.class_embedding"] = state["vision_model.embeddings.class_embedding"][0]  # (1, D)
    width = model.config.hidden_size
    state["visual_projection.weight"] = torch.eye(width, dtype=next(iter(state.values())).dtype)
    return state


def _without_surroundings(kind: Any) -> Any:
    """Return the class of a tower whose load report passes over what stands around a tower, and is not needed.

    It keeps name and module, by which transformers finds the old names of weights.
    """
    ignored = {f"_keys_to_ignore_on_load_{keys}": {ABOVE_TOWER.pattern} for keys in ("missing", "unexpected")}
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **ignored})


def fold_layer_scale(state: dict[str, torch.Tensor]) -> None:
    """Multiply the linear layers that end attention and MLP by DINOv2's LayerScale behind them, in place.

    s * (W x + b) = (s W) x + s b: LayerScale is gone, and the network computes the same.
    """
    for name in [name for name in state if LAYER_SCALE.match(name)]:
        layer, place = LAYER_SCALE.match(name).groups()  # type: ignore[union-attr]
        scale = state.pop(name)  # (D,)
        ends = ("attention.o_proj",) if place == "1" else ("mlp.fc2", "mlp.down_proj")
        (end,) = (f"{layer}.{end}" for end in ends if f"{layer}.{end}.weight" in state)
        state[f"{end}.weight"] = scale[:, None] * state[f"{end}.weight"]
        state[f"{end}.bias"] = scale * state[f"{end}.bias"]


def _renamed(name: str) -> str:
    return next(re.sub(theirs, ours, name) for theirs, ours in TOWER_WEIGHTS if re.match(theirs, name))


def _no_text(tower: ImageTower, path: Any) -> str:
    return f'{str(path)!r} is a {tower.name} without a text tower: `classification_head` must be "linear", got "text".'


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

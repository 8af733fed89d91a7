"""Adapters (LoRA, by PEFT): which layers of a model get one, and which are new and are trained whole."""

from pathlib import Path
from typing import Any

from ..evaluation.adapters import AdapterConfig, load_adapter
from .arguments import is_new_parameter


__all__ = ["AdapterConfig", "load_adapter", "lora_config"]

# Linear layers of an image tower's attention and MLP, in models of this package: ILA's and TimeSformer's names.
ATTENTION = (
    r"vision_model\.encoder\.layers\.\d+\.self_attn\.[qkv]_proj|vision_model\.encoder\.layers\.\d+\.self_attn\.out_proj"
    r"|(timesformer\.)?encoder\.layer\.\d+\.(temporal_)?attention\.(attention\.qkv|output\.dense)"
)
MLP = (
    r"vision_model\.encoder\.layers\.\d+\.mlp\.(fc[12]|(gate|up|down)_proj)"
    r"|(timesformer\.)?encoder\.layer\.\d+\.(intermediate|output)\.dense"
)
# What would adapt or train other parts than those, or give a model that takes no videos.
DECIDED = ["target_modules", "modules_to_save", "exclude_modules", "target_parameters", "layers_to_transform"]
DECIDED += ["layers_pattern", "layer_replication", "trainable_token_indices", "task_type", "bias", "peft_type"]


def lora_config(model: Any, r: int = 8, *, mlp: bool = False, **options: Any) -> AdapterConfig:
    """Make the `LoraConfig` of a video model: `peft.get_peft_model(model, lora_config(model))`.

    Adapters go to the query, key, value and output projections of the pretrained image tower's attention, which is
    where LoRA's authors put them (Hu et al. 2021, Sections 4.2 and 7.1). `mlp=True` adds both layers of its MLP, which
    have 10 / 8 of the attention's numbers. None go to the text tower: the features of class names are then computed
    once, in training too. All that pretrained weights lack (temporal modules with their batch statistics, frame
    integration, prompts, decoder, head) has nothing to start from: it is trained whole and saved. Name the classes
    before. `load_adapter` opens what is saved.

    Args:
        model: of this package, without adapters.
        r: rank of the adapters, 1 or more.
        mlp: adapt the tower's MLP, too.
        options: of `LoraConfig`, such as `lora_alpha` and `lora_dropout`.

    Raises:
        ValueError: another kind of model, one with adapters, an option that this function decides itself, a text tower
            that was to be trained, or a dropout for a tower that always stays in eval mode.
        ImportError: PEFT is not installed.
    """
    name = type(model).__name__
    if hasattr(model, "peft_config") or getattr(model, "is_fused", False):
        raise ValueError(f"The {name} has adapters already, or is fused: `merge_and_unload()`, or load it anew.")
    if not hasattr(model, "get_video_features") or not hasattr(model, "new_parameters"):
        allowed = "IlaForVideoClassification, IlaModel, FrozenClipForVideoClassification, AlignedTimesformer..."
        raise ValueError(f"`model` must be one of {allowed}; got {name}.")
    if decided := sorted(set(DECIDED) & options.keys()):
        raise ValueError(f"`lora_config` decides {decided} by the model; write a `peft.LoraConfig` to decide it.")
    if not getattr(model.config, "freeze_text_model", True):
        raise ValueError("Adapters leave the text tower as it is, and `freeze_text_model` is off: turn it on before.")
    if options.get("lora_dropout") and hasattr(model, "freeze_tower"):
        raise ValueError(f"`lora_dropout` has no effect in a {name}, whose tower stays in eval mode: leave it out.")
    target = f"{ATTENTION}|{MLP}" if mlp else ATTENTION
    config = AdapterConfig(r=r, target_modules=target, modules_to_save=new_modules(model) or None, **options)
    source = str(model.name_or_path)
    if source and Path(source).is_dir():
        source = str(Path(source).resolve())  # to be found from other folders, too
        model.name_or_path = source  # from which `get_peft_model` takes it again
    config.base_model_name_or_path = source or None
    config.revision = getattr(model, "_source", {}).get("revision")
    return config.of(model)


def new_modules(model: Any) -> list[str]:
    """List the names of the largest modules all of whose parameters are new to the pretrained weights."""
    found: list[str] = []
    for name, module in model.named_modules():
        parameters = [f"{name}.{own}" for own, _ in module.named_parameters()]
        new = bool(parameters) and all(is_new_parameter(own, model.new_parameters) for own in parameters)
        if name and new and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found

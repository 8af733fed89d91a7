"""Models to look into: opened with their processors, named, and copied, so that watching them disturbs nobody."""

import copy
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedConfig

from ...backbones.zero_shot import PLAIN, load_zero_shot, zero_shot_processor
from ...model.configuration_ila import OF_PICTURES
from ...model.video_processing_ila import IlaVideoProcessor
from ..inference import CLASSIFIERS, load_encoder, load_processor, load_trained, require_checkpoint


class Opened(NamedTuple):
    """Hold a model, its processor, the model's name without the folder it lies in, and whether its classes mean any.

    folder: the name of the folder that it lies in, empty where there is none.
    """

    model: Any
    processor: IlaVideoProcessor
    name: str
    folder: str = ""
    has_classes: bool = True


def open_model(model: Any, processor: Any = None) -> Opened:
    """Return a model to look into, its processor and its name.

    Args:
        model: a classifier of this package, or the folder or Hub id of one; there it may also be CLIP, SigLIP or an
            image tower that nobody trained on videos, which have no classes then. What was opened is returned.
        processor: of the model; None: the one beside its weights on this machine, or one of its configuration.

    Raises:
        ValueError: no classifier of this package, or no processor of videos.
    """
    if isinstance(model, Opened):
        return model
    source, has_classes = getattr(model, "name_or_path", ""), True
    if isinstance(model, (str, Path)):
        source = model
        require_checkpoint(source)
        kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        has_classes = kind not in OF_PICTURES and kind not in PLAIN
        load: Any = load_zero_shot if kind in PLAIN and kind != "clip" else load_encoder
        model, own = load_trained(source) if has_classes else load(source)
        processor = own if processor is None else processor
    model = getattr(model, "_orig_mod", model)  # compiled: the program does not let its layers be watched
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT, with its adapters in it
    if not (hasattr(model, "classify") and (hasattr(model, "vision_model") or hasattr(model, "timesformer"))):
        raise ValueError(
            f"Got a {type(model).__name__} to look into; allowed: {', '.join(CLASSIFIERS.values())}, or the folder or "
            "Hub id of one."
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"Weights of this {type(model).__name__} are offloaded: load it onto one device.")
    if processor is None:
        processor = _processor_of(model)
    processor = getattr(processor, "video_processor", processor)
    if not hasattr(processor, "crop_of"):
        raise ValueError(f"Got a {type(processor).__name__} as processor; allowed: an IlaVideoProcessor, or None.")
    name, folder = str(source or ""), ""
    if os.path.isabs(name) or os.path.isdir(name):
        path = Path(os.path.abspath(name))
        name, folder = path.name, path.parent.name
    return Opened(model, processor, name or type(model).__name__, folder, has_classes)


def _processor_of(model: Any) -> IlaVideoProcessor:
    """Return the processor beside a model's weights, for the frames and the size that the model has now, or a new one.

    A new one is made where there is none on this machine.
    """
    source, config = getattr(model, "name_or_path", ""), model.config
    try:
        if source and hasattr(config, "vision_config"):
            return zero_shot_processor(source, config, local_files_only=True)
        if source and (own := load_processor(source, local_files_only=True)).num_frames == config.num_frames:
            return own
    except (OSError, ValueError):
        pass
    return IlaVideoProcessor.for_model(config)


def with_own_names(opened: Sequence[Opened]) -> list[Opened]:
    """Return models with names that differ: where several have one, with their folders', else with numbers."""
    counts = Counter(one.name for one in opened)
    names = [f"{one.folder}/{one.name}" if counts[one.name] > 1 and one.folder else one.name for one in opened]
    counts = Counter(names)
    names = [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
    return [one._replace(name=name) for one, name in zip(opened, names)]


def private_copy(model: Any) -> Any:
    """Return another tree of modules on the very same weights, so that hooks and modes on it are nobody else's."""
    if getattr(model, "_text_is_frozen", bool)() and model._may_keep_class_features():
        with torch.no_grad():
            model.class_text_features()  # which the model keeps; the copy would compute them every time
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    tokenizer = getattr(model, "tokenizer", None)
    return copy.deepcopy(model, {**shared, **({} if tokenizer is None else {id(tokenizer): tokenizer})})

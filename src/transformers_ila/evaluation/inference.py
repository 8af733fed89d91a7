"""From views to logits and features, by a model that is afterwards what it was.

What is unusual here:
- `evaluating` yields another network on the model's weights where it can: a fused one, or one in another precision.
- `batch_statistics_mode` repeats a fault of the official release, for comparisons with its published numbers.

Shapes: `B` videos, `V` views, `T` frames, `K` classes, `E` projection.
"""

import copy
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForVideoClassification, PreTrainedConfig
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from ..backbones.zero_shot import load_zero_shot, zero_shot_model
from ..data.text import preview
from ..model.alignment_ila import PointPredictor
from ..model.loading_ila import HUB_KWARGS, TOWERS, checkpoint_names
from ..model.modeling_ila import IlaForVideoClassification
from ..model.pretrained_ila import warn_of_untrained, weights_to_come
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from .options import EvaluationOptions, InferenceOptions


# values of oneDNN's ONEDNN_MAX_CPU_ISA that leave out the instructions for bfloat16
ISA_WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")


# what the library raises where a configuration holds values of other types or sizes than it expects
INVALID_CONTENT = (
    ValueError, TypeError, AttributeError, LookupError, ArithmeticError, MemoryError, AssertionError,
    StrictDataclassError,
)  # fmt: skip
# The classifiers of this package, by the `model_type` of their configurations.
CLASSIFIERS = {
    "ila": "IlaForVideoClassification",
    "aligned_timesformer": "AlignedTimesformerForVideoClassification",
    "ila_frozen_clip": "FrozenClipForVideoClassification",
    "ila_siglip": "SiglipForVideoClassification",
}
# Fields of a tower that sees each frame by itself, without any new weights but the head's.
PLAIN_FRAMES: dict[str, Any] = {"classification_head": "linear", "temporal_module": "none", "mit_num_hidden_layers": 0}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_trained(source: str | Path) -> tuple[IlaForVideoClassification, IlaVideoProcessor]:
    """Load a trained classifier and its processor from a folder or a Hub id, whatever class of this package it has.

    An adapter (LoRA) is merged into the model that it was trained on.

    Raises:
        ValueError: another kind of model, or weights that are missing, as in a CLIP checkpoint, or left over, as of a
            configuration with fewer layers.
        OSError: no such checkpoint.
    """
    require_checkpoint(source)
    classifier_config(source)
    processor = load_processor(source)
    return load_classifier(source), processor


def load_for_words(
    source: str | Path, labels: Sequence[str] | None = None, templates: str | Sequence[str] | None = None
) -> tuple[Any, IlaVideoProcessor]:
    """Load a model that scores any words, as `load_zero_shot` does, or an adapter merged into such a model.

    Args:
        source: folder or Hub id.
        labels: class names, in the order of the logits; None: the model's own.
        templates: in which names are read; None: the model's own.

    Raises:
        ValueError: a model that reads no words, or an adapter on one.
        OSError: no such checkpoint.
    """
    if find_adapter_config_file(source) is None:
        return load_zero_shot(source, labels=labels, templates=templates)
    model, processor = load_trained(source)
    model = zero_shot_model(model)  # which refuses one without a text tower
    if labels is not None or templates is not None:
        model.set_labels(labels or model.config.class_names, templates=templates)
    return model, processor


def load_encoder(source: str | Path, **where: Any) -> tuple[IlaForVideoClassification, IlaVideoProcessor]:
    """Load what turns videos into features, and its processor; the head is not used, and may be untrained.

    That is a trained classifier, or a tower that nobody trained on videos, CLIP's or an image tower's (DINOv2): then a
    video's feature is the mean of its frames'.

    where: arguments of `from_pretrained` that say where the files of a tower are, such as `revision`.

    Raises:
        ValueError, OSError: as in `load_trained`.
    """
    require_checkpoint(source)
    with named_in_errors(source):
        if not is_plain_tower(source, **where):
            return load_trained(source)
        with weights_to_come():  # the head's
            model = IlaForVideoClassification.from_pretrained(source, **PLAIN_FRAMES, **where).eval()
    for weight in model.classifier.parameters():  # so that the fingerprint, by which features are kept, is the tower's
        nn.init.zeros_(weight)
    model.mark_trained()
    return model, IlaVideoProcessor.for_model(model.config)


def is_plain_tower(source: str | Path, **where: Any) -> bool:
    """Return whether a folder or Hub id holds a network of pictures in which ILA can begin, and not one of videos."""
    return PreTrainedConfig.get_config_dict(source, **where)[0].get("model_type") in ("clip", *TOWERS)


def load_classifier(source: str | Path, **options: Any) -> IlaForVideoClassification:
    """Load a trained classifier of this package, as `load_trained` does, without its processor.

    options: of `from_pretrained`, such as `dtype` and `revision`.
    """
    where = {name: options[name] for name in HUB_KWARGS if name in options}
    classifier_config(source, **where)
    with named_in_errors(source):
        if find_adapter_config_file(source) is not None:
            from .adapters import load_adapter  # which needs PEFT

            model = load_adapter(source).merge_and_unload().eval()
            dtype = options.get("dtype", "auto")
            return model if dtype in ("auto", model.dtype) else model.to(dtype)
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # they are named below
        model, info = AutoModelForVideoClassification.from_pretrained(source, **options)
        left_over = _stored_names(source, **where) - checkpoint_names(model.state_dict()).keys()
    mismatched = {name for name, *_ in info["mismatched_keys"]}
    left_over = left_over or info["unexpected_keys"]
    wrong = {"missing": info["missing_keys"], "left over": left_over, "of another shape": mismatched}
    for what, names in wrong.items():
        if names:
            raise ValueError(
                f"{str(source)!r} is no trained ILA model: {len(names)} weights are {what}, such as {min(names)!r}. "
                f"Its config.json describes another {type(model).__name__} than the one whose weights lie there."
            )
    return model


def classifier_config(source: str | Path, **where: Any) -> Any:
    """Read the configuration of a classifier of this package.

    where: arguments of `from_pretrained` that say where the files are, such as `revision`.

    Raises:
        ValueError: another kind of model, which is named, or none that Transformers knows.
        OSError: no such checkpoint.
    """
    with named_in_errors(source):
        config = AutoConfig.from_pretrained(source, **where)
    if type(config).model_type not in CLASSIFIERS:
        found = (config.architectures or [type(config).__name__])[0]
        raise ValueError(
            f"{str(source)!r} is no trained ILA model: it holds a {found}; allowed: {', '.join(CLASSIFIERS.values())}."
        )
    return config


def _stored_names(source: str | Path, **where: Any) -> set[str]:
    """Return the names of all weights in the files of a checkpoint; none where they are no safetensors."""
    optional = {"_raise_exceptions_for_missing_entries": False, **where}
    if (index := cached_file(source, INDEX, **optional)) is not None:
        return set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
    if (file := cached_file(source, WEIGHTS, **optional)) is None:
        return set()
    with safe_open(file, "pt") as tensors:
        return set(tensors.keys())


def load_processor(source: str | Path, **where: Any) -> IlaVideoProcessor:
    """Load the processor of a model from its folder or Hub id.

    where: arguments of `from_pretrained` that say where the files are, such as `revision`.

    Raises:
        ValueError: the folder holds a model and no processor.
        OSError: no such checkpoint.
    """
    folder = Path(source, where.get("subfolder") or "")
    if Path(source).is_dir() and not any(folder.glob("*processor_config.json")):
        raise ValueError(
            f"{str(source)!r} holds a model without its video processor. Write one: "
            f"`IlaVideoProcessor.for_model(AutoConfig.from_pretrained({str(source)!r}))"
            f".save_pretrained({str(source)!r})`."
        )
    with named_in_errors(source):
        return IlaVideoProcessor.from_pretrained(source, **where)


def require_checkpoint(source: str | Path) -> None:
    """Raise a ValueError unless `source` is a folder with a configuration or has the form of a Hub id, `user/name`."""
    text = str(source)
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise ValueError(f"{text!r} holds no model: it has no config.json.")
    elif text.count("/") != 1 or text.startswith(("/", ".", "~")) or text.endswith("/"):
        raise ValueError(f"There is no folder {redact(text)!r}, and it is no Hub id (`user/name`) either.")


@contextmanager
def named_in_errors(source: str | Path) -> Iterator[None]:
    """Put the name of a checkpoint in front of an error that does not say it, such as those of the Hub's client.

    What a configuration of wrong types or sizes raises deep inside the library, a TypeError for example, becomes a
    ValueError.
    """
    try:
        yield
    except OSError as error:
        if str(source) in str(error):
            raise
        raise OSError(f"{str(source)!r} cannot be loaded: {error}") from error
    except RuntimeError as error:  # such as weights of other shapes
        raise RuntimeError(f"{str(source)!r} cannot be loaded: {error}") from error
    except INVALID_CONTENT as error:
        if isinstance(error, ValueError) and str(source) in str(error):
            raise
        kind = "" if isinstance(error, (ValueError, StrictDataclassError)) else f"{type(error).__name__}: "
        raise ValueError(f"{str(source)!r} cannot be loaded: {kind}{error}") from error


# -- the network that computes ---------------------------------------------------------------------------------------


class Network(NamedTuple):
    """Hold the network that computes, and how it does.

    module: the model, or another network on its weights; called with `pixel_values`.
    device, dtype: where and in which precision.
    why_not_fused: None where `module` is fused.
    """

    module: IlaForVideoClassification
    device: torch.device
    dtype: torch.dtype
    why_not_fused: str | None

    def describe(self) -> dict[str, Any]:
        """Return precision and fusing for reports."""
        fused = {"fused": self.why_not_fused is None, "why_not_fused": self.why_not_fused}
        return {"dtype": str(self.dtype).removeprefix("torch."), **fused}


@contextmanager
def evaluating(model: IlaForVideoClassification, options: InferenceOptions) -> Iterator[Network]:
    """Yield a network in eval mode on the device, in the precision and fused as `options` say; take no gradients.

    Class features are computed once. Weights, statistics, device and modes of the model itself are afterwards, also
    after an error, what they were: another device or precision takes a copy of the weights. A warning says which
    weights are still random.

    Raises:
        ValueError: a device or precision that the model cannot be brought to.
    """
    warn_of_untrained(model)
    device, dtype = device_of(model, options), dtype_of(model, options)
    module = model if device == model.device else _converted(model, device, model.dtype)
    module, why_not = _fused(module, options)  # before rounding: what is computed from weights is exact
    module = module if dtype == model.dtype else _converted(module, device, dtype)
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad(), module.constant_class_features():
            yield Network(module, device, dtype, why_not)
    finally:
        for part, training in modes:
            part.training = training


def device_of(model: IlaForVideoClassification, options: InferenceOptions) -> torch.device:
    """Return the device that `options` name, or the model's."""
    return torch.device(model.device if options.device is None else options.device)


def dtype_of(model: IlaForVideoClassification, options: InferenceOptions) -> torch.dtype:
    """Return the precision that `options` name, or that of the model's weights."""
    if options.dtype is None:
        return model.dtype
    if options.dtype == "auto":
        return torch.bfloat16 if has_bfloat16_instructions(device_of(model, options)) else torch.float32
    return getattr(torch, options.dtype)


def has_bfloat16_instructions(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 faster than float32.

    That is a GPU that computes in bfloat16, or a CPU with AVX-512-BF16 or AMX, unless ONEDNN_MAX_CPU_ISA keeps oneDNN,
    which does the products, from using them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISA_WITHOUT_BFLOAT16:
        return False
    instructions = torch.cpu.get_capabilities()
    return bool(instructions.get("avx512_bf16") or instructions.get("amx_bf16"))


def later_settings(model: IlaForVideoClassification, options: InferenceOptions) -> dict[str, Any]:
    """Return the settings of a run that differ from the only ones there were when earlier results were written.

    Results and features of earlier runs have none of these entries, so they are still recognised.
    """
    drawn = {"random_frames": True, "seed": options.seed} if options.random_frames else {}
    dtype = dtype_of(model, options)
    return drawn | ({} if dtype == model.dtype else {"dtype": str(dtype).removeprefix("torch.")})


def _converted(
    model: IlaForVideoClassification, device: torch.device, dtype: torch.dtype
) -> IlaForVideoClassification:
    """Copy the model to a device and a precision, each weight at a time; batch norms stay in float32.

    Raises:
        ValueError: weights that are quantised or offloaded.
    """
    changes_dtype = dtype != model.dtype
    for name, part in model.named_modules():
        if changes_dtype and type(part).__module__.startswith("torch.ao.nn."):
            raise ValueError(f"The weights of {name!r} are quantised and have one precision: leave out `dtype`.")
    for name, weight in model.named_parameters():
        if weight.is_meta or (changes_dtype and type(weight.data) is not torch.Tensor):
            raise ValueError(f"The weights of {name!r} are quantised or offloaded: leave out `dtype` and `device`.")
    # new parameters on the same storage, or `to` would write to the model's
    tensors = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in model.parameters()}
    return copy.deepcopy(model, {**tensors, **{id(b): b for b in model.buffers()}}).to(device, dtype)


def _fused(
    module: IlaForVideoClassification, options: InferenceOptions
) -> tuple[IlaForVideoClassification, str | None]:
    """Return the fused network and None, or the module itself and why it is not fused."""
    if not options.fuse:
        return module, "fuse=False"
    if isinstance(options, EvaluationOptions) and options.batch_statistics:
        return module, "batch_statistics"
    try:
        return module.fuse(), None
    except ValueError as error:
        return module, str(error)


@contextmanager
def batch_statistics_mode(model: nn.Module) -> Iterator[None]:
    """Put the alignment into train mode in this block: batch statistics and jittered masks, but no dropout anywhere.

    This is the state in which the official release ran its validation by mistake. What the model says of a video then
    depends on the others in its batch. Afterwards, also after an error, modes and running statistics are what they
    were, bit by bit: the context works on copies of the statistics.

    Raises:
        ValueError: a model without alignment.
    """
    alignments = [module for module in model.modules() if isinstance(module, PointPredictor)]
    if not alignments:
        raise ValueError(
            "The model aligns nothing (`temporal_module`, `alignment_layers`): nothing to put in train mode."
        )
    kinds = (PointPredictor, nn.modules.batchnorm._BatchNorm)
    parts = [part for alignment in alignments for part in alignment.modules() if isinstance(part, kinds)]
    before = [(part.training, dict(part._buffers)) for part in parts]
    try:
        for part in parts:
            part.training = True  # `part.train()` would reach what lies below it, too
            part._buffers.update({name: None if b is None else b.clone() for name, b in part._buffers.items()})
        yield
    finally:
        for part, (training, buffers) in zip(parts, before):
            part.training = training
            part._buffers.update(buffers)


# -- what it says ----------------------------------------------------------------------------------------------------


def multi_view_logits(
    model: IlaForVideoClassification, views: torch.Tensor, *, one_by_one: bool = False
) -> torch.Tensor:
    """Return logits (B, K) of views (B, T, C, H, W) or (B, V, T, C, H, W), float32 on the CPU.

    With `one_by_one` the model gets one view of all videos at a time, as in X-CLIP's validation: only those then share
    their batch statistics. Without batch statistics it makes no difference.
    """
    if one_by_one and views.ndim == 6:
        logits = model.average_views(torch.stack([model(pixel_values=view).logits for view in views.unbind(1)], dim=1))
    else:
        logits = model(pixel_values=views).logits
    return logits.float().cpu()


def check_logits(logits: torch.Tensor, paths: Sequence[str | Path]) -> None:
    """Raise a ValueError that names the videos whose logits, a row each, are not finite."""
    bad = [path for path, finite in zip(paths, logits.isfinite().all(-1).tolist()) if not finite]
    if bad:
        raise ValueError(f"The model's logits are not finite (NaN or infinite) for {preview(bad)}.")


def features_and_logits(model: IlaForVideoClassification, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (B, E) of unit length and logits (B, K), both float32 on the CPU.

    The feature of several views is the direction of the mean of theirs.

    Args:
        views: (B, T, C, H, W) or (B, V, T, C, H, W).
    """
    several = views.ndim == 6
    outputs = model.get_video_features(views.flatten(0, 1) if several else views)
    logits = model.classify(outputs)
    if several:
        logits = model.average_views(logits.unflatten(0, (-1, views.shape[1])))
    return mean_direction(outputs.pooler_output, views.shape[1] if several else None), logits.float().cpu()


def unit_features(model: IlaForVideoClassification, views: torch.Tensor) -> torch.Tensor:
    """Return features (B, E) of unit length, float32 on the CPU; of several views the direction of the mean of theirs.

    Args:
        views: (B, T, C, H, W) or (B, V, T, C, H, W).
    """
    several = views.ndim == 6
    outputs = model.get_video_features(views.flatten(0, 1) if several else views)
    return mean_direction(outputs.pooler_output, views.shape[1] if several else None)


def mean_direction(features: torch.Tensor, views: int | None) -> torch.Tensor:
    """Return features (B, E) of unit length, float32 on the CPU, of those of `views` views each, (B * views, E)."""
    features = F.normalize(features.float(), dim=-1)
    if views is not None:
        features = F.normalize(features.unflatten(0, (-1, views)).mean(1), dim=-1)
    return features.cpu()


def probabilities(logits: torch.Tensor, *, multi_label: bool) -> torch.Tensor:
    """Return float64 probabilities (B, K) of logits (B, K): a softmax, or where `multi_label` a sigmoid."""
    return logits.double().sigmoid() if multi_label else logits.double().softmax(-1)

"""Views to logits and features, by a model whose state is afterwards what it was.

`batch_statistics_mode` repeats a fault of the official release, for comparisons with its published numbers.

Shapes: `B` videos, `V` views, `T` frames, `K` classes, `E` projection.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from ..data.text import preview
from ..model.alignment_ila import PointPredictor
from ..model.configuration_ila import MULTI_LABEL
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor


def load_trained(source: str | Path) -> tuple[IlaForVideoClassification, IlaVideoProcessor]:
    """Model and processor of a folder or Hub id, an `IlaForVideoClassification` or the one on a frozen CLIP.

    Raises:
        ValueError: weights are missing there, as in a CLIP checkpoint.
        OSError: no such checkpoint.
    """
    kind: Any = IlaForVideoClassification
    if kind.config_class.get_config_dict(source)[0].get("model_type") == FrozenClipConfig.model_type:
        kind = FrozenClipForVideoClassification
    model, info = kind.from_pretrained(source, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"{str(source)!r} is no trained ILA model: {len(info['missing_keys'])} weights are missing.")
    return model, IlaVideoProcessor.from_pretrained(source)


@contextmanager
def batch_statistics_mode(model: nn.Module) -> Iterator[None]:
    """Alignment as in training: batch statistics in its BatchNorms, jittered masks; nothing else, so no dropout.

    This is the state in which the official release ran its validation by mistake. What the model says of a video then
    depends on the others in its batch. Afterwards, also after an error, modes and running statistics are what they
    were, bit by bit: the context works on copies of the statistics.

    Raises:
        ValueError: a model that aligns nothing.
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


@contextmanager
def evaluating(model: IlaForVideoClassification, device: torch.device) -> Iterator[None]:
    """The model in eval mode on `device`; afterwards every module has its own mode again, and the model its device."""
    modes = [(module, module.training) for module in model.modules()]
    home = model.device
    try:
        model.eval()
        if device != home:
            model.to(device)
        yield
    finally:
        for module, training in modes:
            module.training = training
        if device != home:
            model.to(home)


def multi_view_logits(model: IlaForVideoClassification, views: torch.Tensor, *, one_by_one: bool) -> torch.Tensor:
    """(B, T, C, H, W) or (B, V, T, C, H, W) -> (B, K) float32 on the CPU.

    `one_by_one` gives the model one view of all videos at a time, as X-CLIP's validation does: only those then share
    their batch statistics. It makes no difference otherwise.
    """
    if one_by_one and views.ndim == 6:
        logits = model.average_views(torch.stack([model(pixel_values=view).logits for view in views.unbind(1)], dim=1))
    else:
        logits = model(pixel_values=views).logits
    return logits.float().cpu()


def check_logits(logits: torch.Tensor, paths: Sequence[str | Path]) -> None:
    bad = [path for path, finite in zip(paths, logits.isfinite().all(-1).tolist()) if not finite]
    if bad:
        raise ValueError(f"The model's logits are not finite (NaN or infinite) for {preview(bad)}.")


def features_and_logits(model: IlaForVideoClassification, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T, C, H, W) or (B, V, T, C, H, W) -> features (B, E) of unit length, and logits (B, K); float32 on the CPU.

    The feature of several views is the direction of their mean.
    """
    several = views.ndim == 6
    outputs = model.get_video_features(views.flatten(0, 1) if several else views)
    logits, features = model.classify(outputs), F.normalize(outputs.pooler_output.float(), dim=-1)
    if several:
        logits = model.average_views(logits.unflatten(0, (-1, views.shape[1])))
        features = F.normalize(features.unflatten(0, (-1, views.shape[1])).mean(1), dim=-1)
    return features.cpu(), logits.float().cpu()


def probabilities(model: IlaForVideoClassification, logits: torch.Tensor) -> torch.Tensor:
    """Of each class alone where a video may have several labels, else of one of the classes; float64."""
    several = model.config.problem_type == MULTI_LABEL
    return logits.double().sigmoid() if several else logits.double().softmax(-1)


def class_names_of(model: IlaForVideoClassification) -> list[str]:
    return model.config.class_names

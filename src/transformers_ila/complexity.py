"""What a model costs: multiply-accumulates and parameters, counted without computing or storing anything."""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .configuration_ila import IlaConfig
from .modeling_ila import IlaForVideoClassification


class Complexity(NamedTuple):
    """gmacs: giga multiply-accumulates of one view, class features cached, prompt generator included (as the paper's
    "FLOPs"). parameters: millions, without the text tower. text_parameters: millions of the text tower, 0 where
    it was merged."""

    gmacs: float
    parameters: float
    text_parameters: float


def count(config: IlaConfig) -> Complexity:
    """Counted by torch's flop counter on the meta device."""
    config = copy.deepcopy(config)
    if config.has_text_tower:
        config.class_features = "embeddings"  # as if they had been computed once
    with torch.device("meta"):
        model = IlaForVideoClassification(config).eval()
    is_text = ("text_model.", "text_projection.")
    text = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith(is_text))
    total = sum(weight.numel() for weight in model.parameters())
    gmacs = count_gmacs(model, config.num_frames, config.vision_config.image_size)
    return Complexity(gmacs, (total - text) / 1e6, text / 1e6)


def count_gmacs(model: nn.Module, num_frames: int, image_size: int) -> float:
    """Giga multiply-accumulates of one clip, of a video model on the meta device."""
    pixel_values = torch.zeros(1, num_frames, 3, image_size, image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(pixel_values)
    return counter.get_total_flops() / 2e9

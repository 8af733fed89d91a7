"""What a model costs: multiply-accumulates and parameters, counted without computing or storing anything."""

import copy
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from .configuration_ila import IlaConfig
from .modeling_ila import IlaForVideoClassification


class Complexity(NamedTuple):
    """gmacs: giga multiply-accumulates of one view, class features cached, prompt generator included (as the paper's
    "FLOPs"). parameters: millions, without the text tower. text_parameters: millions of the text tower."""

    gmacs: float
    parameters: float
    text_parameters: float


def count(config: IlaConfig) -> Complexity:
    """Counted by torch's flop counter on the meta device."""
    config = copy.deepcopy(config)
    config.class_features = "embeddings"  # as if they had been computed once
    with torch.device("meta"):
        model = IlaForVideoClassification(config).eval()
        size = config.vision_config.image_size
        pixel_values = torch.zeros(1, config.num_frames, 3, size, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(pixel_values)
    is_text = ("text_model.", "text_projection.")
    text = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith(is_text))
    total = sum(weight.numel() for weight in model.parameters())
    return Complexity(counter.get_total_flops() / 2e9, (total - text) / 1e6, text / 1e6)

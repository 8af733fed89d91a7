"""Other networks: TimeSformer and a frozen CLIP with parts of ILA in them, and SigLIP for words without training."""

from .frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from .siglip import SiglipForVideoClassification
from .siglip_configuration import SiglipVideoConfig
from .timesformer import AlignedTimesformerConfig, AlignedTimesformerForVideoClassification, AlignedTimesformerModel
from .zero_shot import ZERO_SHOT_TEMPLATE, AutoModelForZeroShotVideoClassification, load_zero_shot


__all__ = [
    "ZERO_SHOT_TEMPLATE",
    "AlignedTimesformerConfig",
    "AlignedTimesformerForVideoClassification",
    "AlignedTimesformerModel",
    "AutoModelForZeroShotVideoClassification",
    "FrozenClipConfig",
    "FrozenClipForVideoClassification",
    "SiglipForVideoClassification",
    "SiglipVideoConfig",
    "load_zero_shot",
]

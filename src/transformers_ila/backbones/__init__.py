"""Other networks: TimeSformer and a frozen CLIP with parts of ILA in them, and SigLIP for words without training."""

from .frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from .siglip import SiglipForVideoClassification, SiglipVideoConfig
from .timesformer import AlignedTimesformerConfig, AlignedTimesformerForVideoClassification, AlignedTimesformerModel


__all__ = [
    "AlignedTimesformerConfig",
    "AlignedTimesformerForVideoClassification",
    "AlignedTimesformerModel",
    "FrozenClipConfig",
    "FrozenClipForVideoClassification",
    "SiglipForVideoClassification",
    "SiglipVideoConfig",
]

"""Other networks with parts of ILA in them: TimeSformer with aligned frames, and a decoder on a frozen CLIP."""

from .frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
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
    "load_zero_shot",
]

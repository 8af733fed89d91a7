"""Other networks with parts of ILA in them: TimeSformer with aligned frames, and a decoder on a frozen CLIP."""

from .frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from .timesformer import AlignedTimesformerConfig, AlignedTimesformerForVideoClassification, AlignedTimesformerModel


__all__ = [
    "AlignedTimesformerConfig",
    "AlignedTimesformerForVideoClassification",
    "AlignedTimesformerModel",
    "FrozenClipConfig",
    "FrozenClipForVideoClassification",
]

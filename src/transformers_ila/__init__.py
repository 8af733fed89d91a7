"""ILA (Implicit Temporal Modeling with Learnable Alignment) for Hugging Face Transformers.

Importing the package registers its classes with Transformers' Auto classes and pipelines.
"""

import sys
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
)

from .backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from .backbones.siglip import SiglipForVideoClassification
from .backbones.siglip_configuration import SiglipVideoConfig
from .backbones.timesformer import (
    AlignedTimesformerConfig,
    AlignedTimesformerForVideoClassification,
    AlignedTimesformerModel,
)
from .backbones.zero_shot import AutoModelForZeroShotVideoClassification, load_zero_shot
from .model.configuration_ila import IlaConfig, IlaTextConfig, IlaVisionConfig
from .model.modeling_ila import IlaForVideoClassification, IlaModel, IlaPreTrainedModel, IlaVisionModel
from .model.processing_ila import IlaProcessor
from .model.streaming_ila import IlaStreamCache, IlaStreamOutput, why_no_stream
from .model.video_processing_ila import IlaVideoProcessor
from .model.video_reading_ila import IlaVideoMetadata, ReadLimits, VideoDecodingError, check_video, read_video
from .moved import old_modules
from .pipelines import ZeroShotVideoClassificationPipeline, register
from .version import __version__


if TYPE_CHECKING:
    from .evaluation.visualize import visualize

__all__ = [
    "AlignedTimesformerConfig",
    "AlignedTimesformerForVideoClassification",
    "AlignedTimesformerModel",
    "AutoModelForZeroShotVideoClassification",
    "FrozenClipConfig",
    "FrozenClipForVideoClassification",
    "IlaConfig",
    "IlaForVideoClassification",
    "IlaModel",
    "IlaPreTrainedModel",
    "IlaProcessor",
    "IlaStreamCache",
    "IlaStreamOutput",
    "IlaTextConfig",
    "IlaVideoMetadata",
    "IlaVideoProcessor",
    "IlaVisionConfig",
    "IlaVisionModel",
    "ReadLimits",
    "SiglipForVideoClassification",
    "SiglipVideoConfig",
    "VideoDecodingError",
    "ZeroShotVideoClassificationPipeline",
    "__version__",
    "check_video",
    "load_zero_shot",
    "read_video",
    "visualize",
    "why_no_stream",
]

AutoConfig.register("ila", IlaConfig, exist_ok=True)
AutoConfig.register("ila_text_model", IlaTextConfig, exist_ok=True)
AutoConfig.register("ila_vision_model", IlaVisionConfig, exist_ok=True)
AutoModel.register(IlaConfig, IlaModel, exist_ok=True)
AutoModel.register(IlaVisionConfig, IlaVisionModel, exist_ok=True)
AutoModelForVideoClassification.register(IlaConfig, IlaForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(IlaConfig, IlaVideoProcessor, exist_ok=True)
AutoProcessor.register(IlaConfig, IlaProcessor, exist_ok=True)

AutoConfig.register("aligned_timesformer", AlignedTimesformerConfig, exist_ok=True)
AutoModel.register(AlignedTimesformerConfig, AlignedTimesformerModel, exist_ok=True)
AutoModelForVideoClassification.register(
    AlignedTimesformerConfig, AlignedTimesformerForVideoClassification, exist_ok=True
)
AutoVideoProcessor.register(AlignedTimesformerConfig, IlaVideoProcessor, exist_ok=True)

AutoConfig.register("ila_frozen_clip", FrozenClipConfig, exist_ok=True)
AutoModelForVideoClassification.register(FrozenClipConfig, FrozenClipForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(FrozenClipConfig, IlaVideoProcessor, exist_ok=True)

AutoConfig.register("ila_siglip", SiglipVideoConfig, exist_ok=True)
AutoModelForVideoClassification.register(SiglipVideoConfig, SiglipForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(SiglipVideoConfig, IlaVideoProcessor, exist_ok=True)
register()

if old_modules not in sys.meta_path:
    sys.meta_path.append(old_modules)


def __getattr__(name: str) -> Any:
    if name != "visualize":  # which few need, and which takes a second to import
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .evaluation.visualize import visualize

    return visualize

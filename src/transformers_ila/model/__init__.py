"""ILA's configuration, network, processor and video reader: all that ships to the Hub beside the weights."""

from .configuration_ila import IlaConfig, IlaTextConfig, IlaVisionConfig
from .modeling_ila import IlaForVideoClassification, IlaModel, IlaPreTrainedModel, IlaVisionModel
from .processing_ila import IlaProcessor
from .streaming_ila import IlaStreamCache, IlaStreamOutput, why_no_stream
from .video_processing_ila import IlaVideoProcessor
from .video_reading_ila import IlaVideoMetadata, ReadLimits, VideoDecodingError, check_video, read_video


__all__ = [
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
    "VideoDecodingError",
    "check_video",
    "read_video",
    "why_no_stream",
]

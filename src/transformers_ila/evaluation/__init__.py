"""A trained model asked about videos: logits, metrics, reports, labels, probes, search."""

from ..moved import old_names
from .evaluator import evaluate
from .indexing import index_videos
from .inference import load_trained
from .options import EvaluationOptions, IndexOptions, InferenceOptions, LabelOptions, ProbeOptions
from .prediction import label_videos
from .probing import extract_features
from .report import Evaluation, fingerprint
from .search import VideoIndex, search_texts


__all__ = [
    "Evaluation",
    "EvaluationOptions",
    "IndexOptions",
    "InferenceOptions",
    "LabelOptions",
    "ProbeOptions",
    "VideoIndex",
    "evaluate",
    "extract_features",
    "fingerprint",
    "index_videos",
    "label_videos",
    "load_trained",
    "search_texts",
]

__getattr__ = old_names("evaluation")

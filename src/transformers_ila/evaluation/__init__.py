"""A trained model asked about videos: logits, metrics, reports, labels, probes."""

from ..moved import old_names
from .evaluator import evaluate
from .inference import load_trained
from .options import EvaluationOptions, IndexOptions, InferenceOptions, LabelOptions, ProbeOptions, RetrievalOptions
from .prediction import label_videos
from .probing import extract_features
from .report import Evaluation, fingerprint


__all__ = [
    "Evaluation",
    "EvaluationOptions",
    "IndexOptions",
    "InferenceOptions",
    "LabelOptions",
    "ProbeOptions",
    "RetrievalOptions",
    "evaluate",
    "extract_features",
    "fingerprint",
    "label_videos",
    "load_trained",
]

__getattr__ = old_names("evaluation")

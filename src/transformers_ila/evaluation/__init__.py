"""A trained model asked about videos: logits, metrics, reports, labels, probes, and what it sees in them."""

from ..moved import old_names
from .evaluator import evaluate
from .inference import load_trained
from .inspection.inspection import inspect_same_frames, inspect_video
from .inspection.result import Inspection
from .options import EvaluationOptions, IndexOptions, InferenceOptions, LabelOptions, ProbeOptions, RetrievalOptions
from .prediction import label_videos
from .probing import extract_features
from .report import Evaluation, fingerprint


__all__ = [
    "Evaluation",
    "EvaluationOptions",
    "IndexOptions",
    "InferenceOptions",
    "Inspection",
    "LabelOptions",
    "ProbeOptions",
    "RetrievalOptions",
    "evaluate",
    "extract_features",
    "fingerprint",
    "inspect_same_frames",
    "inspect_video",
    "label_videos",
    "load_trained",
]

__getattr__ = old_names("evaluation")

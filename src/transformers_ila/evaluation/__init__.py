"""A trained model asked about videos: logits, metrics, reports, labels, probes."""

from ..moved import old_names
from .evaluator import evaluate
from .inference import load_trained
from .report import fingerprint


__all__ = ["evaluate", "fingerprint", "load_trained"]

__getattr__ = old_names("evaluation")

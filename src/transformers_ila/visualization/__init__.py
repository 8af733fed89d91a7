"""Tensors to pictures; nothing is measured here."""

from ..moved import old_names
from .alignment import plot_alignment
from .calibration import plot_calibration
from .classes import plot_classes
from .confusion import plot_confusion_matrix
from .timeline import plot_timeline


__all__ = ["plot_alignment", "plot_calibration", "plot_classes", "plot_confusion_matrix", "plot_timeline"]

__getattr__ = old_names("visualization")

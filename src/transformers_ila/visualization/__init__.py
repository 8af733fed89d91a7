"""Tensors to pictures; nothing is measured here."""

from .alignment import plot_alignment
from .confusion import plot_confusion_matrix


__all__ = ["plot_alignment", "plot_confusion_matrix"]

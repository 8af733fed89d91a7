"""Tensors to pictures; nothing is measured here."""

from .alignment import draw_alignment
from .confusion import draw_confusion


__all__ = ["draw_alignment", "draw_confusion"]

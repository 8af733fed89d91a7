"""A video of any length, or a stream: scores over time, and segments with a label, a start and an end."""

from .options import TimelineOptions


__all__ = ["TimelineOptions"]

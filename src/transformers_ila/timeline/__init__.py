"""A video of any length, or a stream: scores over time, and segments with a label, a start and an end."""

from .options import TimelineOptions
from .segments import Change, Segment, SegmentOptions, SegmentTracker, find_segments


__all__ = ["Change", "Segment", "SegmentOptions", "SegmentTracker", "TimelineOptions", "find_segments"]

"""A video of any length, or a stream: scores over time, and segments with a label, a start and an end."""

from .formats import read_timeline, write_timeline
from .options import TimelineOptions
from .scores import Score
from .segments import Change, Segment, SegmentOptions, SegmentTracker, find_segments
from .sources import FrameSource, SourceNote, TimedFrame, open_frames
from .timeline import Timeline, TimelineInterrupted, timeline, timelines


__all__ = [
    "Change",
    "FrameSource",
    "Score",
    "Segment",
    "SegmentOptions",
    "SegmentTracker",
    "SourceNote",
    "TimedFrame",
    "Timeline",
    "TimelineInterrupted",
    "TimelineOptions",
    "find_segments",
    "open_frames",
    "read_timeline",
    "timeline",
    "timelines",
    "write_timeline",
]

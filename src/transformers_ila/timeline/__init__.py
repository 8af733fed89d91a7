"""A video of any length, or a stream: scores over time, and segments with a label, a start and an end."""

from .calibration import calibrate, segments_of, write_calibration
from .detection_metrics import VideoSegments, evaluate_segments, read_segments
from .formats import read_timeline, write_timeline
from .live import Live
from .options import TimelineOptions
from .rules import SegmentOptions
from .scores import Score
from .segments import Change, Segment, SegmentTracker, find_segments
from .sources import FrameSource, SourceNote, TimedFrame, open_frames
from .timeline import Timeline, TimelineInterrupted, timeline, timelines


__all__ = [
    "Change",
    "FrameSource",
    "Live",
    "Score",
    "Segment",
    "SegmentOptions",
    "SegmentTracker",
    "SourceNote",
    "TimedFrame",
    "Timeline",
    "TimelineInterrupted",
    "TimelineOptions",
    "VideoSegments",
    "calibrate",
    "evaluate_segments",
    "find_segments",
    "open_frames",
    "read_segments",
    "read_timeline",
    "segments_of",
    "timeline",
    "timelines",
    "write_calibration",
    "write_timeline",
]

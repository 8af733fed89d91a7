"""Reads videos and their labels from folders, lists, shards and data sets, and checks the files."""

from ..moved import old_names
from .annotations import read_annotations
from .captions import read_captions
from .checking import check_videos
from .lists import iter_videos
from .samples import Annotations, Sample
from .text import AnnotationError
from .video_folder import VideoFolder, find_videos, hold_out


__all__ = [
    "AnnotationError",
    "Annotations",
    "Sample",
    "VideoFolder",
    "check_videos",
    "find_videos",
    "hold_out",
    "iter_videos",
    "read_annotations",
    "read_captions",
]

__getattr__ = old_names("data")

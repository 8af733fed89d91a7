"""Generated videos of which only motion tells the class."""

from ..moved import old_names
from .sequences import MotionSequence, write_sequence, write_sequences
from .tasks import TASKS, make_videos, write_bench, write_folder


__all__ = [
    "TASKS",
    "MotionSequence",
    "make_videos",
    "write_bench",
    "write_folder",
    "write_sequence",
    "write_sequences",
]

__getattr__ = old_names("motionbench")

"""Generated videos of which only motion tells the class."""

from ..moved import old_names
from .tasks import TASKS, make_videos, write_bench, write_folder


__all__ = ["TASKS", "make_videos", "write_bench", "write_folder"]

__getattr__ = old_names("motionbench")

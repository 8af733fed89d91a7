"""Generated videos in which only motion tells the class."""

from ..moved import old_names
from .tasks import TASKS, write_bench


__all__ = ["TASKS", "write_bench"]

__getattr__ = old_names("motionbench")

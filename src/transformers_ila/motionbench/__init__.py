"""Generated videos in which only motion tells the class."""

from .tasks import TASKS, write_bench


__all__ = ["TASKS", "write_bench"]

"""Variants x seeds on one budget, on MotionBench or a user's own lists, and the report about them."""

from ..moved import old_names
from .ablation import read_ablation
from .report import write_report
from .runs import run


__all__ = ["read_ablation", "run", "write_report"]

__getattr__ = old_names("ablation")

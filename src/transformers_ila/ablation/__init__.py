"""Variants and seeds on one budget, and the report about them."""

from ..moved import old_names


__getattr__ = old_names("ablation")

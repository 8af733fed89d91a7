"""Labels and indices on an existing engine, Ray Data: for more videos than one machine labels."""

from .options import EngineOptions
from .pipeline import label_on_ray


__all__ = ["EngineOptions", "label_on_ray"]

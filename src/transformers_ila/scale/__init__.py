"""Labels and indices on an existing engine, Ray Data: for more videos than one machine labels."""

from .indexing import index_on_ray
from .options import EngineOptions
from .pipeline import label_on_ray


__all__ = ["EngineOptions", "index_on_ray", "label_on_ray"]

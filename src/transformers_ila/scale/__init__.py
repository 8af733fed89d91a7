"""Labels and indices on an existing engine, Ray Data: for more videos than one machine labels."""

from .options import EngineOptions


__all__ = ["EngineOptions"]

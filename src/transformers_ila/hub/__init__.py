"""A folder that loads anywhere, its model card and facts, and its way to the Hub."""

from ..moved import old_names
from .cards import model_card
from .checking import check_folder
from .exporting import export, export_adapter
from .facts import ModelFacts
from .publishing import publish


__all__ = ["ModelFacts", "check_folder", "export", "export_adapter", "model_card", "publish"]

__getattr__ = old_names("hub")

"""A folder that loads anywhere, its model card, and its way to the Hub."""

from ..moved import old_names
from .cards import model_card
from .exporting import export
from .publishing import check_folder, publish


__all__ = ["check_folder", "export", "model_card", "publish"]

__getattr__ = old_names("hub")

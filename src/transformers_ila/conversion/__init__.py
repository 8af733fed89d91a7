"""Files of the official release and of OpenAI's CLIP to folders that load anywhere, and back."""

from ..moved import old_names
from .convert import convert_checkpoint
from .published import PUBLISHED
from .state_dicts import to_released_state_dict


__all__ = ["PUBLISHED", "convert_checkpoint", "to_released_state_dict"]

__getattr__ = old_names("conversion")

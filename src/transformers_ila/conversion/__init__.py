"""Files of the official release and of OpenAI's CLIP to folders that load anywhere, and back."""

from ..moved import old_names
from .state_dicts import to_released_state_dict


__all__ = ["to_released_state_dict"]

__getattr__ = old_names("conversion")

"""Single weights as layers, so that adapters train and save them: PEFT does so with modules, not with bare parameters.

Checkpoints have such a weight under its layer's own name, as they did when it was a bare parameter.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init


# Full names of these layers in a model, or in a tower alone.
HELD_WEIGHTS = ("prompts_visual_projection", "vision_model.time_embedding", "time_embedding")
# From the names in checkpoints to those in models, for `from_pretrained`.
KEY_MAPPING = {rf"^{re.escape(name)}$": f"{name}.weight" for name in HELD_WEIGHTS}


class HeldWeight(nn.Module):
    """Hold one weight, of any shape; a subclass says in `forward` what is done with it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))


class FramePositions(HeldWeight):
    """Add what was learned for each frame, (T, D), to its tokens."""

    def init_own_weights(self, factor: float) -> None:
        """Set the weight to 0, so that a tower starts as plain CLIP; `factor` has no effect on that."""
        init.zeros_(self.weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Add the positions to hidden states: (B, T, L, D) -> (B, T, L, D)."""
        return hidden_states + self.weight[:, None]


class PatchProjection(HeldWeight):
    """Project patches for the prompt with a matrix, (D, E)."""

    def init_own_weights(self, factor: float) -> None:
        """Draw the weight with a deviation of `factor` / sqrt(D), as X-CLIP does."""
        init.normal_(self.weight, std=self.weight.shape[0] ** -0.5 * factor)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Project patches: (..., D) -> (..., E)."""
        return patches @ self.weight


def checkpoint_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's state dict under the names that checkpoints have."""
    bare = {f"{name}.weight": name for name in HELD_WEIGHTS}
    return {bare.get(name, name): value for name, value in state_dict.items()}


def take_checkpoint_names(module: Any, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """Let `load_state_dict` take the names that checkpoints have, too (a hook before loading)."""
    for name in HELD_WEIGHTS:
        if prefix + name in state_dict:
            state_dict[f"{prefix}{name}.weight"] = state_dict.pop(prefix + name)

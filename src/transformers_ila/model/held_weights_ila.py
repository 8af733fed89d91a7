"""Single weights held by layers, so that adapters and offloading find them, under the keys that they always had.

PEFT trains and saves modules, no bare parameters. A held weight is one layer's; state dicts and checkpoints have it
under the name of its owner's attribute, as they did when it was a bare parameter.
"""

from typing import Any, ClassVar

import torch
from torch import nn


class HeldWeight(nn.Module):
    """Hold one weight, of any shape; a subclass says in `forward` what is done with it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))


class HoldsWeights:
    """Give a module the attributes that `held_weights` names, each the weight of a layer.

    held_weights: attribute, which is also the key in state dicts -> the layer that holds the weight.
    """

    held_weights: ClassVar[dict[str, str]]

    def hold_weight(self, name: str, layer: HeldWeight) -> None:
        """Add a layer for the weight `name`, before other layers, so that optimisers list it where they always did."""
        if not any(holder in self._modules for holder in self.held_weights.values()):
            self.register_state_dict_post_hook(_without_layers)
            self.register_load_state_dict_pre_hook(_with_layers)
        self.add_module(self.held_weights[name], layer)

    def __getattr__(self, name: str) -> Any:
        if name in type(self).held_weights and type(self).held_weights[name] in self.__dict__.get("_modules", ()):
            return self._modules[type(self).held_weights[name]].weight
        return super().__getattr__(name)  # type: ignore[misc]

    def __setattr__(self, name: str, value: Any) -> None:
        layer = self.__dict__.get("_modules", {}).get(type(self).held_weights.get(name))
        if layer is None or not isinstance(value, torch.Tensor):
            super().__setattr__(name, value)
            return
        if not isinstance(layer, HeldWeight):
            raise ValueError(f"`{name}` is wrapped by an adapter: merge or unload it before the weight is replaced.")
        layer.weight = value if isinstance(value, nn.Parameter) else nn.Parameter(value)


def _without_layers(module: Any, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for name, holder in type(module).held_weights.items():
        if f"{prefix}{holder}.weight" in state_dict:
            state_dict[prefix + name] = state_dict.pop(f"{prefix}{holder}.weight")


def _with_layers(module: Any, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    for name, holder in type(module).held_weights.items():
        if prefix + name in state_dict and holder in module._modules:
            state_dict[f"{prefix}{holder}.weight"] = state_dict.pop(prefix + name)

"""`model.fuse()`: a snapshot of a model that computes the same faster, for inference, on the same weights.

Modules with a method `fused()` are replaced in the snapshot by the module that it returns. The model that is fused
keeps its modules, modes and weights.
"""

import copy
from typing import Any, NoReturn

import torch
from torch import nn


# Who registers hooks that only record what passes (`output_hidden_states`, `output_attentions`).
RECORDING = "transformers.utils.output_capturing"


class FusableModel(nn.Module):
    """A model with `fuse()`, and what its snapshots refuse."""

    is_fused = False  # whether it is a snapshot, or a part of one

    def fuse(self) -> Any:
        """A snapshot of the model for inference: faster, in eval mode, with the same outputs up to rounding.

        The snapshot shares the memory of the model's weights and takes no gradients to them; the model itself stays
        as it is, in training mode too. What was computed from weights (matrices of two layers in one, the features
        of the classes) stays what it was: after a change of the weights, make a new snapshot. A snapshot of a
        snapshot is itself.

        Raises:
            ValueError: on adapters, forward hooks, and offloaded, sharded or quantised weights, naming the module; on
                the snapshot for `train()`, `save_pretrained()`, `push_to_hub()` and `load_state_dict()`.
        """
        return fuse(self)

    def train(self, mode: bool = True) -> Any:
        """`nn.Module.train`; a snapshot stays in eval mode."""
        return self._refuse("train") if mode and self.is_fused else super().train(mode)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """`PreTrainedModel.save_pretrained`; of a snapshot nothing is saved."""
        return self._refuse("save_pretrained") if self.is_fused else super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def push_to_hub(self, *args: Any, **kwargs: Any) -> str:
        """`PreTrainedModel.push_to_hub`; of a snapshot nothing is pushed."""
        return self._refuse("push_to_hub") if self.is_fused else super().push_to_hub(*args, **kwargs)  # type: ignore[misc]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """`nn.Module.load_state_dict`; into a snapshot nothing is loaded, as the memory is that of the model."""
        return self._refuse("load_state_dict") if self.is_fused else super().load_state_dict(*args, **kwargs)

    def _refuse(self, method: str) -> NoReturn:
        raise ValueError(
            f"`{method}` was called on a snapshot that `fuse()` made for inference. Call it on the model that was "
            "fused, and fuse that again after a change of its weights."
        )


@torch.inference_mode(False)
@torch.no_grad()
def fuse(model: FusableModel) -> Any:
    """The snapshot of `FusableModel.fuse`, which see: another tree of modules on the memory of the same weights."""
    check_fusable(model)
    if model.is_fused:
        return model
    shared: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        detached = tensor.detach()
        is_weight = isinstance(tensor, nn.Parameter)
        shared[id(tensor)] = nn.Parameter(detached, requires_grad=False) if is_weight else detached
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        snapshot = replace_fused(copy.deepcopy(model, shared).eval())
    for module in snapshot.modules():
        if isinstance(module, FusableModel):
            module.is_fused = True
    return snapshot


def replace_fused(module: nn.Module) -> Any:
    """Replace every module that has a method `fused()` by what it returns, in place, and return the module."""
    for name, child in module.named_children():
        setattr(module, name, replace_fused(child))
    return module.fused() if hasattr(type(module), "fused") else module  # type: ignore[operator]


def check_fusable(model: nn.Module) -> None:
    """Raise a ValueError that names the module which keeps a model from being fused, and what to do about it."""
    if nn.modules.module._has_any_global_hook():
        raise ValueError("`fuse()` found hooks on all modules (`register_module_forward_hook`...): remove them.")
    for name, module in model.named_modules():
        obstacle = obstacle_in(module)
        if obstacle is not None:
            raise ValueError(f"`fuse()` takes plain layers and weights; `{name or type(module).__name__}` {obstacle}.")


def obstacle_in(module: nn.Module) -> str | None:
    """What keeps one module from being fused, its children not counted, and what to do; `None` for nothing."""
    origins = [kind.__module__ for kind in type(module).__mro__]
    if any(origin.startswith("peft.") for origin in origins):
        return "is an adapter: merge it (`merge_and_unload()`) or remove it"
    if hasattr(module, "_hf_hook") or any(tensor.is_meta for tensor in own_tensors(module)):
        return "is offloaded (accelerate): load the model onto one device, without `device_map`"
    if any(origin.startswith(("torch.distributed.", "torch.ao.")) for origin in origins):
        return f"is sharded or quantised ({type(module).__name__}): fuse the model from before"
    for tensor in own_tensors(module):
        weight = isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()
        if type(tensor) not in (torch.Tensor, nn.Parameter) or weight or tensor.is_quantized:
            kind = f"{type(tensor).__name__}, {tensor.dtype}"
            return f"has sharded or quantised weights ({kind}): fuse the model from before"
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values(), *module._backward_hooks.values()]
    if "forward" in vars(module) or any(getattr(hook, "__module__", None) != RECORDING for hook in hooks):
        return "has a hook, or another function as its `forward`: remove it (the handle's `remove()`)"
    return None


def own_tensors(module: nn.Module) -> list[torch.Tensor]:
    """The parameters and buffers of a module, its children's not counted."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]

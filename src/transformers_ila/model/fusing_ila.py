"""`model.fuse()`: a snapshot of a model for inference, which shares its weights and computes the same outputs faster.

A module with a method `fused()` is replaced in the snapshot by what that returns. The model keeps its own modules.
"""

import copy
from typing import Any

import torch
from torch import nn


# Who registers hooks that only record what passes (`output_hidden_states`, `output_attentions`).
RECORDING = "transformers.utils.output_capturing"


class FusableModel:
    """Give a model class the method `fuse()`, and let its snapshots refuse what only the model itself can do."""

    is_fused = False  # whether it is a snapshot, or a part of one

    def fuse(self) -> Any:
        """Return a snapshot of the model for inference: faster, in eval mode, with the same outputs up to rounding.

        The snapshot shares the memory of the model's weights and takes no gradients to them. The model itself does
        not change, and may be in training mode. The snapshot keeps what it computed from weights (the product of two
        layers' matrices, the text features of the classes): after a change of the weights, make a new snapshot.
        Fusing a snapshot returns that snapshot. A forward hook that is registered on a module of the snapshot may see
        other numbers than on the model, because the snapshot merges layers and overwrites activations in place.

        Raises:
            ValueError: on adapters, forward hooks, and offloaded, sharded or quantised weights, naming the module; on
                the snapshot for `train()`, `requires_grad_()`, `freeze_text_model()`, `freeze_vision_model()`,
                `save_pretrained()`, `push_to_hub()`, `load_state_dict()`, `resize_positions()`, `merge_text_tower()`,
                and for `set_labels()` where rows of a linear head would move or start anew.
        """
        return fuse(self)

    def train(self, mode: bool = True) -> Any:
        """Call `nn.Module.train`; a snapshot stays in eval mode."""
        if mode:
            self._refuse_if_fused("train")
        return super().train(mode)  # type: ignore[misc]

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Call `nn.Module.requires_grad_`; the weights of a snapshot take no gradients."""
        if requires_grad:
            self._refuse_if_fused("requires_grad_")
        return super().requires_grad_(requires_grad)  # type: ignore[misc]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Call `PreTrainedModel.save_pretrained`; of a snapshot nothing is saved."""
        self._refuse_if_fused("save_pretrained")
        return super().save_pretrained(*args, **kwargs)  # type: ignore[misc]

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Call `PreTrainedModel.push_to_hub`; of a snapshot nothing is pushed."""
        self._refuse_if_fused("push_to_hub")
        return super().push_to_hub(*args, **kwargs)  # type: ignore[misc]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Call `nn.Module.load_state_dict`; into a snapshot, whose memory is the model's, nothing is loaded."""
        self._refuse_if_fused("load_state_dict")
        return super().load_state_dict(*args, **kwargs)  # type: ignore[misc]

    def _refuse_if_fused(self, method: str) -> None:
        if self.is_fused:
            raise ValueError(
                f"`{method}` was called on a snapshot that `fuse()` made for inference. Call it on the model that was "
                "fused, and fuse that again after a change of its weights."
            )


@torch.inference_mode(False)
@torch.no_grad()
def fuse(model: Any) -> Any:
    """Make the snapshot of `FusableModel.fuse`: another tree of modules on the memory of the same weights."""
    check_fusable(model)
    if model.is_fused:
        return model
    shared: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        detached = tensor.detach()
        is_weight = isinstance(tensor, nn.Parameter)
        shared[id(tensor)] = nn.Parameter(detached, requires_grad=False) if is_weight else detached
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        snapshot = replace_fused(copy.deepcopy(model, shared).eval()).eval()
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
    """Describe what keeps one module, its children aside, from being fused, and what to do; `None` for nothing."""
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
    """Return the parameters and buffers of a module without its children's."""
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]

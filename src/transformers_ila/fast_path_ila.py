"""Whether a result may be computed another way than as it stands: where nobody follows the steps to it."""

import torch


def is_followed(tensor: torch.Tensor) -> bool:
    """Whether what happens to the tensor becomes a graph (compile, trace), or it is of another kind (vmap, jvp)."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    other = type(tensor) is not torch.Tensor or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return recorded or other or torch.autograd.forward_ad._current_level >= 0


def is_precise(tensor: torch.Tensor) -> bool:
    """Whether it is, and is computed with, in single precision or better."""
    device = tensor.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return tensor.dtype.itemsize >= 4 and not autocast

"""Whether a result may be computed another way than as it stands: where nobody follows the steps to it."""

import torch


def is_followed(tensor: torch.Tensor) -> bool:
    """Whether what happens to the tensor is recorded or counted (compile, trace), or it is of another kind (vmap)."""
    if torch.compiler.is_compiling():  # which knows none of what else is asked here
        return True
    recorded = torch.jit.is_tracing() or torch._C._len_torch_dispatch_stack() > 0
    other = type(tensor) is not torch.Tensor or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return recorded or other or torch.autograd.forward_ad._current_level >= 0


def is_precise(tensor: torch.Tensor) -> bool:
    """Whether it is, and is computed with, in single precision or better."""
    device = tensor.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return tensor.dtype.itemsize >= 4 and not autocast

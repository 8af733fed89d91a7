"""Precision and memory: batch norms that stay in float32, statistics during recomputation, aligned tensors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Cast half precision to float32, for sums over many values, and leave other types unchanged. Any shape."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class AlignmentBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that stays in float32 when the model is built in, or cast to, half precision."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, dtype=torch.float32)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "AlignmentBatchNorm":
        def keep_precision(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, recurse)


def is_recomputing() -> bool:
    """Return whether this forward pass runs inside a backward pass, as activation checkpointing makes it do."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextmanager
def frozen_batch_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the module's batch norms from counting a batch twice; they normalise with the batch as before."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, count


def batch_normalize(features: torch.Tensor, norm: nn.modules.batchnorm._BatchNorm) -> torch.Tensor:
    """Normalise features (B, C, h, w) in the precision of the statistics.

    A training batch with one value per channel has no variance: it is normalised and does not enter the statistics.
    """
    features = features.to(norm.running_mean.dtype)  # type: ignore[union-attr]
    if not norm.training or features.numel() > features.shape[1]:
        return norm(features)
    return F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


MEMORY_ALIGNMENT = 64  # bytes, as torch allocates


def realign_tensors(model: nn.Module) -> None:
    """Copy the CPU tensors of a model whose address is no multiple of 64 bytes, as in memory mapped from a file.

    Vector instructions add in another order at other addresses, so the logits of a saved and loaded model would differ
    from the original's in the last bit. Afterwards the model does not depend on the file either.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.device.type == "cpu"
        if plain and tensor.data_ptr() % MEMORY_ALIGNMENT:
            tensor.data = tensor.data.clone()

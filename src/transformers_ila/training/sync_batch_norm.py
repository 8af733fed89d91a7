"""Batch normalisation with the statistics of all processes' batches, on any device.

torch's SyncBatchNorm needs a GPU. On CPUs (gloo) the classes here exchange the same sums, so that several processes
with a part of the batch each compute what one process computes with the whole batch.
"""

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm


class SynchronisedBatchNorm(_BatchNorm):
    """Normalise as `nn.BatchNorm*d` with sums over all processes in training mode; the state has the same form."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"Batch normalisation needs (B, C, ...), got {tuple(input.shape)}.")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, ...) to the same shape; B may differ between processes."""
        alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if not self.training or alone or not self.track_running_stats:
            return super().forward(input)
        self._check_input_dim(input)
        values = input.float()
        channels = values.shape[1]
        dims = [dim for dim in range(values.dim()) if dim != 1]
        count = values.new_full((1,), values.numel() / channels)
        sums = all_reduce(torch.cat([values.sum(dims), count]))
        total = sums[-1]
        mean = sums[:-1] / total
        shape = [1, channels] + [1] * (values.dim() - 2)
        centred = values - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / total
        self._update_statistics(mean.detach(), variance.detach(), total.detach())
        scaled = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            scaled = scaled * self.weight.float().view(shape) + self.bias.float().view(shape)
        return scaled.to(input.dtype)

    @torch.no_grad()
    def _update_statistics(self, mean: torch.Tensor, variance: torch.Tensor, total: torch.Tensor) -> None:
        if self.num_batches_tracked is None:  # as while activations are recomputed (`frozen_batch_statistics`)
            return
        assert self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked += 1
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        unbiased = variance * total / (total - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), momentum)


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """Replace the model's batch norms, in place where possible: torch's SyncBatchNorm on a GPU, ours elsewhere."""
    if next(model.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, (SynchronisedBatchNorm, nn.SyncBatchNorm)):
                setattr(module, name, _like(child))
    return model


def _like(norm: _BatchNorm) -> SynchronisedBatchNorm:
    options: Any = {"eps": norm.eps, "momentum": norm.momentum, "affine": norm.affine}
    with torch.device("meta"):
        new = SynchronisedBatchNorm(norm.num_features, track_running_stats=norm.track_running_stats, **options)
    new._parameters, new._buffers, new.training = norm._parameters, norm._buffers, norm.training
    return new

"""Weights as bytes for a hash, the same on every device."""

from collections.abc import Mapping
from typing import Any

import torch


def hash_tensors(digest: Any, state_dict: Mapping[str, Any]) -> None:
    """Add every tensor of a state dict, with its name, type and shape, to a hash of hashlib, sorted by name."""
    for name, state in sorted(state_dict.items()):
        for part in state if isinstance(state, tuple) else (state,):  # torch's quantised layers: weight and bias
            if not isinstance(part, torch.Tensor):
                digest.update(f"{name} {part}".encode())
                continue
            torchaos = type(part).dequantize is not torch.Tensor.dequantize  # which calls its numbers float32
            tensor = part.detach().dequantize() if torchaos or part.is_quantized else part.detach()
            kind = type(part).__name__ if torchaos else part.dtype
            digest.update(f"{name} {kind} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

"""Moving average of the weights during training: evaluated, saved and resumed in place of the last step's weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback


FILE = "moving_average.safetensors"


class MovingAverage(TrainerCallback):
    """average = decay * average + (1 - decay) * weights, after every step; batch norms' statistics are averaged alike.

    Args:
        model: the model without wrappers.
        decay: between 0 and 1; in the first steps min(decay, (1 + step) / (10 + step)), to forget the start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.values = {name: tensor.detach().clone() for name, tensor in _averaged(model)}

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, tensor in _averaged(self.model):
            self.values[name] = self.values[name].to(tensor.device).lerp_(tensor, 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The model with the averaged weights; afterwards it has its own again."""
        own = {name: tensor.detach().clone() for name, tensor in _averaged(self.model)}
        try:
            self._write(self.values)
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        for name, tensor in _averaged(self.model):
            tensor.copy_(values[name])

    def save(self, folder: str | Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in self.values.items()}, Path(folder) / FILE)

    def load(self, folder: str | Path) -> None:
        """Raises a ValueError where the folder has no average, or one of another model."""
        file = Path(folder) / FILE
        if not file.is_file():
            raise ValueError(f"{str(folder)!r} has no {FILE}: it was trained without a moving average.")
        values = load_file(file)
        if values.keys() != self.values.keys():
            raise ValueError(f"{str(file)!r} is the average of another model.")
        self.values = values


def _averaged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Trained weights and floating-point statistics."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            yield name, buffer

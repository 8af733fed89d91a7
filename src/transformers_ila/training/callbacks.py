"""Callbacks of `IlaTrainer`: they mark the model as trained, fade the masks' jitter, stop on a signal, set the epoch
of the data, and keep a moving average of the weights, which is evaluated and saved in place of the last step's.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..distributed import current_rank
from ..model.alignment_ila import PointPredictor
from ..model.loading_ila import checkpoint_names
from .signals import SecondSignal


logger = logging.getLogger(__name__)


FILE = "moving_average.safetensors"


class MovingAverage(TrainerCallback):
    """Keep average = decay * average + (1 - decay) * weights after every step, also of batch norms' statistics.

    Args:
        model: the model without wrappers.
        decay: between 0 and 1. The first steps take min(decay, (1 + step) / (10 + step)), to forget the start.
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
        """Give the model the averaged weights in this block; afterwards it has its own again."""
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
        """Write the average to `moving_average.safetensors`."""
        save_file({name: tensor.contiguous() for name, tensor in self.values.items()}, Path(folder) / FILE)

    def load(self, folder: str | Path) -> None:
        """Read what `save` wrote; ValueError where the folder has no average, or one of another model."""
        file = Path(folder) / FILE
        if not file.is_file():
            raise ValueError(f"{str(folder)!r} has no {FILE}: it was trained without a moving average.")
        values = load_file(file)
        if values.keys() != self.values.keys():
            raise ValueError(f"{str(file)!r} is the average of another model.")
        self.values = values


def _averaged(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield names and tensors of trained weights and of those floating-point buffers that a checkpoint holds."""
    for name, tensor in checkpoint_names(model.state_dict(keep_vars=True)).items():
        if tensor.requires_grad if isinstance(tensor, nn.Parameter) else tensor.is_floating_point():
            yield name, tensor


class TrainedMark(TrainerCallback):
    """Mark a model as trained after a step: the first ones of a warm-up change no weight that would show it."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if hasattr(inner, "mark_trained"):
            inner.mark_trained()


class JitterDecay(TrainerCallback, ExportableState):
    """Halve the jitter of the alignment masks at the start of each epoch from `epoch` on, as the release does.

    initial: the jitter to begin with; None: the model's own.
    """

    def __init__(self, epoch: int | None, initial: float | None = None) -> None:
        self.epoch, self.initial = epoch, initial

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this callback, as `ExportableState` asks."""
        return {"args": {"epoch": self.epoch}, "attributes": {"initial": self.initial}}

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        alignments = [module for module in model.modules() if isinstance(module, PointPredictor)]
        if not alignments:
            return
        if self.initial is None:
            self.initial = float(alignments[0].config.alignment_jitter)
        halvings = 0 if self.epoch is None else max(0, int(state.epoch + 1e-6) - self.epoch + 1)
        for alignment in alignments:
            alignment.jitter = self.initial * 0.5**halvings


class SetEpochCallback(TrainerCallback):
    """Set the epoch of the training data, or of their order, when an epoch begins or is resumed.

    `IlaTrainer` has this callback. The plain Trainer on several processes needs `callbacks=[SetEpochCallback(clips)]`,
    or every epoch has the augmentations of the first.

    order: anything with `set_epoch`: an `EpochSampler`, which passes it on, or a data set.
    """

    def __init__(self, order: Any = None) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.order is not None:
            self.order.set_epoch(int((state.epoch or 0) + 1e-6))


class StopOnSignal(TrainerCallback):
    """After SIGTERM write a checkpoint and end training, on all processes at the same step; a second one ends at once.

    Nothing is evaluated before the end, because who sends the signal does not wait for long.

    Attributes:
        received: this process got the signal.
        stopped: some process got it, so training ended before its last step.
        unsaved: steps were taken after the last checkpoint, and no other one will be written.
    """

    def __init__(self) -> None:
        self.received = self.stopped = self.unsaved = False
        self._before: Any = None
        self._second = SecondSignal()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.restore_handler()
        self.received = self.stopped = self.unsaved = False
        try:
            self._before = signal.signal(signal.SIGTERM, self._remember)
            self._second.begin()
        except ValueError:  # not the main thread: nobody can listen
            self._before = None

    def _remember(self, *_: Any) -> None:
        self.received = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _anywhere(self.received, args.device) and state.global_step < state.max_steps:
            self.stop(state, control)
            control.should_save = True

    def stop(self, state: Any, control: Any) -> None:
        """Make the Trainer take no further step, also where none could be taken."""
        self.stopped = True
        logger.warning(f"SIGTERM: saving at step {state.global_step}, then stopping.")
        control.should_training_stop = True
        control.should_evaluate = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.stopped:
            control.should_evaluate, control.should_save = False, self.unsaved

    def restore_handler(self) -> None:
        """Let the handler that was there before receive SIGTERM again."""
        self._second.end()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None


def _anywhere(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is set on any process; a collective."""
    if current_rank().world_size == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    distributed.all_reduce(votes)
    return bool(votes > 0)

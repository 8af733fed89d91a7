"""The numbers of a training run, and which parameter learns at which rate."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..distributed import MOST_WORKERS


MOST_PICTURES = 64  # example clips in TensorBoard
SCALARS = ("logit_scale",)  # parameters without any dimension

# Fields of `TrainingArguments` that would have no effect on these models, or a wrong one, and why.
REFUSED = {
    "label_smoothing_factor": "it is another loss than the model's own: use `label_smoothing`, of a recipe or of the "
    "model's configuration",
    "neftune_noise_alpha": "NEFTune is noise on the embeddings of tokens, and videos have none",
    "use_liger_kernel": "Liger has kernels for language models only",
    "liger_kernel_config": "Liger has kernels for language models only",
    "use_cache": "these models have no cache",
    "enable_jit_checkpoint": "IlaTrainer writes a checkpoint after SIGTERM without being asked",
    "optim_target_modules": "what learns at which rate is decided by `parameter_groups`",
    "length_column_name": "clips have one length, by which nothing is grouped",
}
WITH_MIN_LR_RATE = (SchedulerType.COSINE_WITH_MIN_LR, SchedulerType.COSINE_WARMUP_WITH_MIN_LR)


@dataclass
class IlaTrainingArguments(TrainingArguments):
    """Extend `TrainingArguments`; the defaults are the paper's values for Kinetics-400 (Table 14) where it has them.

    `num_train_epochs` is not from there, as it counts 50,000 steps, and `jitter_decay_epoch` is the release's.

    Fields:
        new_lr_scale: learning rate of what CLIP does not have, over `learning_rate` (Appendix A: 10; SSv2: 1).
        parameter_groups: "paper", or "release": the groups of the official code, which freezes CLIP.
        freeze_clip: train only what CLIP does not have (Something-Something V2).
        lr_batch_size: the global batch that `learning_rate` is meant for; another one scales it. None: as given.
        warmup_epochs: of the schedule, in place of `warmup_steps`.
        min_lr_rate: where the cosine ends, over the peak; in place of `lr_scheduler_kwargs`.
        jitter_decay_epoch: from this epoch on the masks' jitter is halved at each epoch's start; None: never.
        ema_decay: keep a moving average of the weights, and evaluate and save that. None: no average.
        sync_batch_norm: normalise by the statistics of all processes' batches.
        max_unreadable: the share of readings that may fail in training; more ends it, on all processes.
        tensorboard_pictures: at each evaluation TensorBoard gets the confusion matrix, and this many example clips
            with where the model looked (`training/pictures.py`). 0: no pictures.

    Raises:
        ValueError: a number out of its range; a field of `TrainingArguments` that would have no effect (`REFUSED`), or
            two of which one would have none.
        ImportError: `tensorboard_pictures` without tensorboard.
    """

    _argument_group_name = "optimisation"

    learning_rate: float = 8e-6
    weight_decay: float = 0.003
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    num_train_epochs: float = 30
    lr_scheduler_type: str = "cosine_with_min_lr"
    lr_scheduler_kwargs: dict[str, Any] | str | None = None
    report_to: None | str | list[str] = "tensorboard"  # in the order that HfArgumentParser understands
    ddp_find_unused_parameters: bool | None = False  # every trained weight is used in every step, so nobody need look
    remove_unused_columns: bool = False  # the data sets here have none, and mixing needs "clip_seed"
    new_lr_scale: float = field(default=10.0, metadata={"help": "learning rate of new weights over CLIP's"})
    parameter_groups: str = field(default="paper", metadata={"help": "paper or release"})
    freeze_clip: bool = field(default=False, metadata={"help": "train only what CLIP does not have"})
    lr_batch_size: int | None = field(default=None, metadata={"help": "global batch that learning_rate is meant for"})
    warmup_epochs: float = field(default=5.0, metadata={"help": "in place of warmup_steps"})
    min_lr_rate: float = field(default=0.01, metadata={"help": "end of the cosine over its peak"})
    jitter_decay_epoch: int | None = field(default=30, metadata={"help": "masks' jitter is halved from here on"})
    ema_decay: float | None = field(default=None, metadata={"help": "moving average of the weights, e.g. 0.9999"})
    sync_batch_norm: bool = field(default=True, metadata={"help": "batch statistics over all processes"})
    max_unreadable: float = field(default=0.2, metadata={"help": "share of readings that may fail in training"})
    tensorboard_pictures: int = field(
        default=0, metadata={"help": "example clips in TensorBoard at each evaluation, with the confusion matrix"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = {
            "new_lr_scale": (self.new_lr_scale > 0, "more than 0"),
            "parameter_groups": (self.parameter_groups in ("paper", "release"), "paper or release"),
            "warmup_epochs": (self.warmup_epochs >= 0, "0 or more"),
            "min_lr_rate": (0 <= self.min_lr_rate < 1, "0 <= rate < 1"),
            "ema_decay": (self.ema_decay is None or 0 < self.ema_decay < 1, "None or 0 < decay < 1"),
            "max_unreadable": (0 <= self.max_unreadable <= 1, "a share from 0 to 1"),
            "tensorboard_pictures": (
                0 <= self.tensorboard_pictures <= MOST_PICTURES,
                f"from 0 to {MOST_PICTURES}, as each is read and drawn at every evaluation",
            ),
            "dataloader_num_workers": (
                0 <= self.dataloader_num_workers <= MOST_WORKERS,
                f"from 0 to {MOST_WORKERS}, as each is a process",
            ),
            "lr_batch_size": (self.lr_batch_size is None or self.lr_batch_size > 0, "None or 1 and more"),
            "jitter_decay_epoch": (
                self.jitter_decay_epoch is None or self.jitter_decay_epoch >= 0,
                "None or 0 and more",
            ),
            "train_sampling_strategy": (
                self.train_sampling_strategy in ("random", "sequential"),
                "random or sequential, as clips have one length",
            ),
        }
        for name, (good, values) in allowed.items():
            if not good:
                raise ValueError(f"`{name}` must be {values}, got {getattr(self, name)!r}.")
        for name, reason in REFUSED.items():
            self.require_default(name, reason)
        if self.tensorboard_pictures:
            self._require_tensorboard()
        if self.warmup_steps and self.warmup_epochs:
            self.require_default("warmup_epochs", f"`warmup_steps` is {self.warmup_steps}; beside it take 0")
        if SchedulerType(self.lr_scheduler_type) in WITH_MIN_LR_RATE and not self.lr_scheduler_kwargs:
            self.lr_scheduler_kwargs = {"min_lr_rate": self.min_lr_rate}
        elif dict(self.lr_scheduler_kwargs or {}).get("min_lr_rate") != self.min_lr_rate:  # type: ignore[arg-type]
            kind = SchedulerType(self.lr_scheduler_type).value
            other = f"`lr_scheduler_type` is {kind} with `lr_scheduler_kwargs` {self.lr_scheduler_kwargs}"
            self.require_default("min_lr_rate", f"{other}, which does not end there")
        if self.auto_find_batch_size and self.lr_batch_size is not None:
            raise ValueError(
                "`auto_find_batch_size` changes the batch that `lr_batch_size` scales to: give one of them."
            )

    def _require_tensorboard(self) -> None:
        from transformers.integrations import is_tensorboard_available  # here, as few ask for it

        if "tensorboard" not in (self.report_to or ()):
            raise ValueError(
                f"`tensorboard_pictures` is {self.tensorboard_pictures} and `report_to` {self.report_to}: set "
                "`report_to` to tensorboard (or to all), or `tensorboard_pictures` to 0."
            )
        if not is_tensorboard_available():
            raise ImportError("`tensorboard_pictures` needs tensorboard: pip install 'transformers-ila[train]'")

    def require_default(self, name: str, reason: str) -> None:
        """Raise a ValueError, which says the reason, unless a field has its default."""
        default, value = type(self).__dataclass_fields__[name].default, getattr(self, name)
        if value != default:
            raise ValueError(f"`{name}` is {value!r} and would have no effect ({reason}); allowed: {default!r}.")


# -- parameter groups ------------------------------------------------------------------------------------------------


RELEASED_GROUPS = {  # our part of a name -> learning rate (None: 10 x base), weight decay; CLIP is frozen
    ".temporal.aligned_skip.": (None, 1e-3),
    ".temporal.interaction_skip.": (None, 1e-3),
    ".temporal.": (5e-4, 1e-2),
    "mit.": (4e-4, 3e-3),
}


def is_new_parameter(name: str, new_parameters: Iterable[str]) -> bool:
    """Return whether the pretrained weights lack the parameter `name`, as they lack those of adapters (LoRA).

    new_parameters: the model's own `new_parameters`, parts of the names of such parameters.
    """
    return ".lora_" in name or any(part in name for part in new_parameters)


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    args: IlaTrainingArguments,
    lr: float,
    *,
    new_parameters: Iterable[str],
    weight_decay: float | None = None,
) -> list[dict]:
    """Return the trained parameters grouped by learning rate and weight decay.

    What has one axis or none (biases, norms, scales, the class token, a decoder's query) does not decay. All else
    does, tables of positions too.

    Args:
        named: names and parameters; names may begin with what wrappers put before them.
        lr: the base rate, already scaled to the batch.
        new_parameters: as in `is_new_parameter`.
        weight_decay: in place of the arguments' own.
    """
    usual = args.weight_decay if weight_decay is None else weight_decay
    new, groups = tuple(new_parameters), dict[tuple[float, float], list[nn.Parameter]]()
    for name, parameter in named:
        if parameter.requires_grad:
            rate, decay = _rate_and_decay(name, args, lr, usual, new=is_new_parameter(name, new))
            groups.setdefault((rate, decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def _rate_and_decay(
    name: str, args: IlaTrainingArguments, lr: float, weight_decay: float, *, new: bool
) -> tuple[float, float]:
    if args.parameter_groups == "release":
        for part, (rate, decay) in RELEASED_GROUPS.items():
            if part in name:
                return 10 * lr if rate is None else rate, decay
    return lr * (args.new_lr_scale if new else 1.0), weight_decay

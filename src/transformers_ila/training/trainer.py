"""Training: the paper's optimisation on Transformers' Trainer, and checkpoints that survive anything.

What is unusual here:
- CLIP's weights and the new ones learn at different rates (Appendix A); one schedule scales both.
- The loss is the model's own, with class probabilities and the alignment loss; both parts are logged.
- On several processes batch normalisation sees the whole batch, as on one.
- A checkpoint counts only when a last file says what is in it, so that half of one is never resumed from.
"""

import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Sampler, Subset
from transformers import EvalPrediction, Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_optimizer import is_optimizer_factory
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints
from transformers.utils import logging

from ..data.class_indices import ClassIndex, ClassOrder
from ..data.shards import label_feature_names
from ..data.text import preview
from ..data.video_folder import VideoFolder
from ..distributed import all_gather, all_succeed
from ..evaluation.metrics import mean_average_precision
from ..files import only_writer
from ..model.alignment_ila import PointPredictor
from ..model.class_names_ila import are_numbered
from ..model.targets_ila import IGNORE_INDEX, ignored_rows, is_integer
from ..model.validation_ila import MULTI_LABEL
from ..model.video_processing_ila import IlaVideoProcessor
from .arguments import SCALARS, IlaTrainingArguments, is_new_parameter, parameter_groups
from .callbacks import JitterDecay, MovingAverage, SetEpochCallback, StopOnSignal, TrainedMark
from .checkpoints import (
    FileStates,
    file_states,
    last_complete_checkpoint,
    only_run,
    require_same_checkpoint,
    require_same_classes,
    require_states,
    require_unchanged,
    verify_manifest,
    write_manifest,
)
from .clips import UNREADABLE, ClipCollator, Clips, EpochSampler, TrainingClips
from .pictures import TensorBoardPictures, require_effect
from .shard_clips import ShardClips
from .signals import with_outliving_workers
from .sync_batch_norm import synchronise_batch_norm
from .unreadable import UnreadableVideos, UnreadableVideosError


logger = logging.get_logger(__name__)

GROUPS_OF_ITS_OWN = {"params", "model", "optimizer_dict"}  # what Trainer gives optimizers such as GaLore and LOMO


# -- accuracy --------------------------------------------------------------------------------------------------------


def top5_indices(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Return the indices of the five largest logits, (B, K) -> (B, 5), for `preprocess_logits_for_metrics`.

    Where there are fewer classes, the rest is -1.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    return nn.functional.pad(best, (0, 5 - best.shape[-1]), value=-1)


def top_accuracies(prediction: EvalPrediction) -> dict[str, float]:
    """Return top1 and top5 of what was read, and how many videos were not; `compute_metrics` for `top5_indices`."""
    best, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    if labels.shape != best.shape[:1] or not is_integer(labels.dtype):
        raise ValueError(
            f"`top_accuracies` takes class indices ({len(best)},), got {tuple(labels.shape)} of {labels.dtype}: "
            "`multi_label_metrics` is for several labels a video."
        )
    read = labels != IGNORE_INDEX
    right = best[read] == labels[read].unsqueeze(-1)
    count = max(int(read.sum()), 1)
    top = {f"top{number}": float(right[:, :number].any(-1).sum()) / count for number in (1, 5)}
    return top | {"unreadable": float((~read).sum())}


def class_logits(logits: torch.Tensor | tuple[torch.Tensor, ...], labels: torch.Tensor) -> torch.Tensor:
    """Return the logits alone, (B, K) float32, for `preprocess_logits_for_metrics`."""
    return (logits[0] if isinstance(logits, tuple) else logits).float()


def multi_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Return the mean average precision of the videos that were read, and how many were not.

    `compute_metrics` for `class_logits`, where videos have several labels.
    """
    logits, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    if labels.shape != logits.shape:
        raise ValueError(
            f"`multi_label_metrics` takes rows of 0 and 1 {tuple(logits.shape)}, got {tuple(labels.shape)}: "
            "`top_accuracies` is for one label a video."
        )
    read = ~ignored_rows(labels)
    mean = mean_average_precision(logits[read].nan_to_num(), labels[read])
    return {"mean_average_precision": 0.0 if mean is None else mean, "unreadable": float((~read).sum())}


# -- the trainer -----------------------------------------------------------------------------------------------------


class IlaTrainer(Trainer):
    """Train with the paper's optimisation, as the module describes it; its `args` are `IlaTrainingArguments`.

    Args:
        model, args, data_collator, rest, kwargs: the arguments of `Trainer`. `compute_loss_func` stands in place of
            the classification loss, to which the alignment loss is added as ever; as in `Trainer` it divides by
            `num_items_in_batch`, the videos of all accumulated batches, where that is not None. The class of
            `optimizer_cls_and_kwargs` gets the paper's parameter groups, and its "lr" and "weight_decay" take the
            place of the arguments'.
        train_collator: makes batches for training only, of `TrainingClips`' items with their seeds, as
            `MixingCollator` does; `None` for `data_collator`.

    Raises:
        TypeError: `args` are no `IlaTrainingArguments`.
        ValueError: arguments of which one would have no effect beside the others, the model or the data; a moving
            average of weights that are sharded (FSDP, DeepSpeed); fewer videos than a global batch; processes that
            would go on from different checkpoints; a checkpoint that changes while it is loaded, or lacks what
            training goes on with.
        FolderInUseError: another run writes to the output folder.
        UnreadableVideosError: too many videos cannot be read; on all processes at the same step.
        OSError: a checkpoint could not be written; the last whole one is named.
    """

    args: IlaTrainingArguments
    model: Any
    optimizer: Any
    optimizer_cls_and_kwargs: Any
    data_collator: Any

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        *rest: Any,
        train_collator: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, IlaTrainingArguments):
            raise TypeError(f"`args` must be IlaTrainingArguments, got {type(args).__name__}.")
        super().__init__(model, args, data_collator, *rest, **kwargs)
        self.train_collator = train_collator
        self.model_accepts_loss_kwargs = False  # the loss is a mean already, also with gradient accumulation
        if self.model_init is None:
            self.model = self.model_wrapped = self._prepared(self.model)
        self._require_effects()
        self.pictures: TensorBoardPictures | None = None
        if self.args.tensorboard_pictures:
            require_effect(self)
            self.pictures = TensorBoardPictures(self.args.tensorboard_pictures)
        self.average: MovingAverage | None = None
        if self.args.ema_decay is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("`ema_decay` needs whole weights, and FSDP and DeepSpeed shard them.")
            if self.model_init is not None:
                raise ValueError(
                    "`ema_decay` averages one model, and `model_init` makes several: give one of the two."
                )
            self.average = MovingAverage(self.model, self.args.ema_decay)
            self.add_callback(self.average)
        self.add_callback(TrainedMark())
        self.add_callback(JitterDecay(self.args.jitter_decay_epoch))
        self.stop = StopOnSignal()
        self.add_callback(self.stop)
        self.data_epoch = SetEpochCallback()
        self.add_callback(self.data_epoch)
        self._processor: IlaVideoProcessor | None = None  # of clips that arrive as uint8
        self.unreadable: UnreadableVideos | None = None
        self._resumed: tuple[Path, FileStates] | None = None  # what a run goes on from, when it was checked
        if isinstance(self.train_dataset, ShardClips):
            self.train_dataset.rank, self.train_dataset.ranks = self.args.process_index, self.args.world_size
            self.data_epoch.order = self.train_dataset
        if isinstance(self.train_dataset, (TrainingClips, ShardClips)):
            self.train_dataset.warn = False
            self.unreadable = UnreadableVideos(self.args.max_unreadable, len(self.train_dataset))
            self.add_callback(self.unreadable)
        for data in (self.train_dataset, self.eval_dataset):
            self._join_classes(data, names_only=True)  # what is wrong is found before training
        self._sums: torch.Tensor | None = None  # classification loss, alignment loss, how many batches
        self._videos, self._waited, self._since = 0, 0.0, time.perf_counter()  # of this process since the last log

    def freeze(self, model: Any = None) -> None:
        """Train only what the pretrained weights lack; of the trainer's model, where no other is given."""
        model = self.model if model is None else model
        for name, parameter in model.named_parameters():
            trained = ".original_module." not in name  # of adapters: what is trained in its place stands beside it
            parameter.requires_grad_(trained and is_new_parameter(name, model.new_parameters))

    def call_model_init(self, trial: Any = None) -> Any:
        return self._prepared(super().call_model_init(trial))

    def _prepared(self, model: Any) -> Any:
        """Return the model as the arguments want it: frozen in part, with batch norms that see all processes."""
        if self.args.freeze_clip or self.args.parameter_groups == "release":
            self.freeze(model)
        if self.args.sync_batch_norm and self.args.world_size > 1:
            model = synchronise_batch_norm(model)
        if self.is_fsdp_enabled:
            _reshape_scalars(model, (1,))
        return model

    def _require_effects(self) -> None:
        """Raise a ValueError for an argument that would have no effect beside the others, the model or the data."""
        idle, args = dict[str, str](), self.args
        clips = isinstance(self.train_dataset, (TrainingClips, ShardClips))
        if self.optimizer is not None:
            idle |= dict.fromkeys(
                ("new_lr_scale", "parameter_groups", "lr_batch_size"), "`optimizers` has an optimizer"
            )
        if self.lr_scheduler is not None:
            names = ("warmup_epochs", "min_lr_rate") if args.warmup_epochs else ("min_lr_rate",)
            idle |= dict.fromkeys(names, "`optimizers` has a schedule")
        if not any(isinstance(part, PointPredictor) and part.jitter for part in self.model.modules()):
            if args.jitter_decay_epoch is not None:
                idle["jitter_decay_epoch"] = "no mask of the model jitters, and None is allowed too"
        if self.train_dataset is not None and not clips:
            idle["max_unreadable"] = "only of TrainingClips and ShardClips are unreadable videos counted"
        if clips:
            idle["remove_unused_columns"] = "seeds and unreadable videos of the clips are no arguments of the model"
        if args.label_names not in (None, ["labels"]):
            idle["label_names"] = "these models take `labels`"
        if isinstance(self.train_dataset, ShardClips):
            idle |= dict.fromkeys(
                ("train_sampling_strategy", "auto_find_batch_size"), "shards are read in their order"
            )
        for name, reason in idle.items():
            args.require_default(name, reason)
        accelerator = args.accelerator_config
        if not accelerator.use_seedable_sampler:
            raise ValueError(
                "`use_seedable_sampler` is False; allowed: True. The order is always drawn from the seed."
            )
        if isinstance(self.train_dataset, ShardClips) and (accelerator.split_batches or accelerator.dispatch_batches):
            raise ValueError(
                "`split_batches` and `dispatch_batches` are for others: each process reads its own shards."
            )

    # data

    def global_batch_size(self) -> int:
        """Return the number of videos of one optimiser step, over all processes."""
        return self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def get_train_dataloader(self) -> DataLoader:
        if isinstance(self.train_dataset, ShardClips):
            return self._shard_loader(self.train_dataset)
        evaluation = self.data_collator
        if isinstance(self.train_dataset, TrainingClips):
            self.data_collator = ClipCollator(self.train_collator, self.data_collator)
        elif self.train_collator is not None:
            self.data_collator = self.train_collator
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = evaluation

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> DataLoader:
        self._join_classes(dataset)
        self._normalise_for(dataset)
        return with_outliving_workers(super()._get_dataloader(dataset, *args, **kwargs))

    def _shard_loader(self, data: ShardClips) -> DataLoader:
        """Return a loader of shards, which each rank reads for itself, so that nothing is left to divide."""
        if data.batch != self.args.train_batch_size:
            raise ValueError(f"`batch` is {data.batch}, `per_device_train_batch_size` {self.args.train_batch_size}.")
        if len(data) < data.batch * self.args.gradient_accumulation_steps:
            raise ValueError(f"{data.videos} videos are fewer than one global batch of {self.global_batch_size()}.")
        self._join_classes(data)
        self._normalise_for(data)
        workers: dict[str, Any] = {"num_workers": self.args.dataloader_num_workers}
        workers["pin_memory"] = self.args.dataloader_pin_memory
        workers["multiprocessing_context"] = self.args.dataloader_multiprocessing_context
        workers["in_order"] = self.args.dataloader_in_order
        if self.args.dataloader_num_workers:
            workers["persistent_workers"] = self.args.dataloader_persistent_workers
            workers["prefetch_factor"] = self.args.dataloader_prefetch_factor
        collate = ClipCollator(self.train_collator, self.data_collator)
        loader: DataLoader = DataLoader(data, data.batch, collate_fn=collate, **workers)
        loader = prepare_data_loader(loader, device=self.args.device, num_processes=1, process_index=0)
        return with_outliving_workers(loader)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        """Return an `EpochSampler`; `SetEpochCallback` sets its epoch, which Accelerate loses as it skips batches."""
        data = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(data, IterableDataset) or self.args.train_sampling_strategy != "random":
            self.data_epoch.order = data if hasattr(data, "set_epoch") else None
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        order, batch = self.data_epoch.order, self.global_batch_size()
        if order is None or order.data is not data or order.batch != batch:  # loaders are also made to be counted only
            order = self.data_epoch.order = EpochSampler(data, seed=seed, batch=batch)
        return order

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        started, error, batches, items = time.perf_counter(), None, [], None
        try:
            with torch.random.fork_rng(devices=[]):  # starting workers draws a number, at other times after resuming
                batches, items = super().get_batch_samples(*args, **kwargs)
        except Exception as caught:  # the other processes must hear of it, whatever it is
            error = caught
        self._waited += time.perf_counter() - started
        ended = error is not None and self.stop.received  # the signal may have ended workers, too
        if self.unreadable is not None:
            ended = self._count_unreadable(batches, None if ended else error, ended=ended)
        elif error is not None and not (ended and self.args.world_size == 1):
            raise error
        if not ended:
            return batches, items
        self.stop.stop(self.state, self.control)
        folder = Path(self._get_output_dir(None)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.stop.unsaved = self.state.global_step > 0 and verify_manifest(folder) is not None
        return [], None

    def _count_unreadable(self, batches: list[dict[str, Any]], error: Exception | None, *, ended: bool) -> bool:
        """Count what was not read, and return whether any rank has ended."""
        assert self.unreadable is not None
        for batch in batches:
            self.unreadable.count(len(batch["labels"]), batch.pop(UNREADABLE, []))
        try:
            # a worker's error has its traceback in front of the last line
            said = None if error is None else (str(error).strip().splitlines() or [type(error).__name__])[-1]
            return self.unreadable.agree(said, self.args.device, ended=ended)
        except UnreadableVideosError as stop:
            self.unreadable.write(self.args.output_dir, stopped=str(stop))
            raise stop from error

    # optimisation

    def scaled_learning_rate(self, rate: float | None = None) -> float:
        """Return `learning_rate`, or another rate, scaled to the global batch where `lr_batch_size` is given."""
        rate = self.args.learning_rate if rate is None else rate
        return rate if self.args.lr_batch_size is None else rate * self.global_batch_size() / self.args.lr_batch_size

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is not None:
            return self.optimizer
        given = self.optimizer_cls_and_kwargs
        model = self.model if model is None else model
        kind, options = given or self.get_optimizer_cls_and_kwargs(self.args, model)
        if GROUPS_OF_ITS_OWN & options.keys() or is_optimizer_factory(kind):
            name = f"`optim` {self.args.optim}" if given is None else f"`optimizer_cls_and_kwargs` {kind.__name__}"
            raise ValueError(f"{name} chooses parameters by itself; allowed: optimizers that take parameter groups.")
        options = {**options, "lr": self.scaled_learning_rate(options.get("lr"))}
        new = self.accelerator.unwrap_model(model).new_parameters
        options["params"] = parameter_groups(
            model.named_parameters(),
            self.args,
            options["lr"],
            new_parameters=new,
            weight_decay=options.get("weight_decay"),
        )
        self.optimizer_cls_and_kwargs = (kind, options)
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = given

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is not None:  # the caller's own
            return self.lr_scheduler
        given, warmup = self.args.warmup_steps, self.args.get_warmup_steps(num_training_steps)
        if not given and self.args.warmup_epochs:
            epochs = self.args.num_train_epochs if self.args.max_steps <= 0 else self._epochs_of_max_steps()
            share = min(self.args.warmup_epochs / epochs, 1.0)
            warmup = max(1, round(share * num_training_steps))
        if warmup >= num_training_steps and self.is_world_process_zero():
            logger.warning(
                f"The run has {num_training_steps} steps and its warm-up takes {warmup}, so the learning rate never "
                "falls and hardly reaches its peak: lower `warmup_epochs` or `warmup_steps`, or take more steps."
            )
        self.args.warmup_steps = warmup
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        finally:
            self.args.warmup_steps = given  # another run, or the same with a smaller batch, has other steps

    def _epochs_of_max_steps(self) -> float:
        per_epoch = len(self.get_train_dataloader()) / self.args.gradient_accumulation_steps
        return self.args.max_steps / max(per_epoch, 1)

    def _join_classes(self, data: Any, *, names_only: bool = False) -> None:
        """Give the labels of a data set of this package the model's indices, by name.

        Raises:
            ValueError: classes that the model lacks; several labels a video where the model gives one, or the reverse.
        """
        config = self.accelerator.unwrap_model(self.model).config
        for part in data_sets_in(data):
            if not isinstance(part, (Clips, ShardClips, VideoFolder)):
                _refuse_other_order(part, config.class_names)
                continue
            if not names_only and part.multi_label is not (config.problem_type == MULTI_LABEL):
                labels = "several labels" if part.multi_label else "one label"
                raise ValueError(
                    f"The data gives a video {labels}, and the model's `problem_type` is {config.problem_type!r}: "
                    f"{MULTI_LABEL!r} is for several labels, `read_annotations(..., multi_label=True)` reads them."
                )
            part.join(config.class_names)

    def _keep_frame_rate(self) -> None:
        """Keep in the configuration how many frames a second the training clips have; a collective.

        A rate that the user gave stays, and one that the checkpoint was trained at before is replaced.
        """
        model = self.accelerator.unwrap_model(self.model)
        before, stored = model.config.frame_rate, getattr(model, "_stored_frame_rate", None)
        if before is not None and before != stored:
            return
        found = all_gather(lambda: self._frame_rate() if self.args.process_index == 0 else None)[0]
        if found is not None:
            model.config.frame_rate = found
            logger.info(f"Training clips have {found:g} frames a second, which the model keeps as `frame_rate`.")
        elif before is not None:
            logger.warning(
                f"`frame_rate` stays {before:g}, as the checkpoint says: that of these clips cannot be measured. Set "
                "`model.config.frame_rate` if it is another."
            )

    def _frame_rate(self) -> float | None:
        """Return the median of the rates of the data sets that this package reads; None where none tells."""
        sets = [
            part for part in data_sets_in(self.train_dataset) if isinstance(part, (Clips, ShardClips, VideoFolder))
        ]
        rates = [rate for rate in (part.frame_rate() for part in sets) if rate is not None]
        return statistics.median(rates) if rates else None

    def _normalise_for(self, data: Any) -> None:
        """Remember the processors of data sets that leave their clips as uint8 (`normalise=False`)."""
        for part in data_sets_in(data):
            self._normalise_for_clips(part.clips if isinstance(part, ShardClips) else part)

    def _normalise_for_clips(self, clips: Any) -> None:
        if not isinstance(clips, Clips) or clips.normalise:
            return
        before, self._processor = self._processor or clips.processor, clips.processor
        for name in ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"):
            old, new = getattr(before, name), getattr(clips.processor, name)
            if old != new:
                raise ValueError(f"The data sets' processors normalise differently: `{name}` is {old} and {new}.")

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, and normalise there what came as uint8."""
        inputs = super()._prepare_inputs(inputs)
        clips = inputs.get("pixel_values")
        if self._processor is None or clips is None or clips.dtype != torch.uint8:
            return inputs
        return {**inputs, "pixel_values": self._prepare_input(self._processor.normalize_on(clips.device, clips))}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels, outputs = inputs.get("labels"), model(**inputs)
        loss = outputs.loss
        if self.compute_loss_func is not None:
            loss = self._loss_of_function(outputs, labels, num_items_in_batch, training=model.training)
        if model.training:
            self._count(loss, outputs.alignment_loss, len(inputs["pixel_values"]))
        return (loss, outputs) if return_outputs else loss

    def _loss_of_function(self, outputs: Any, labels: Any, num_items: Any, *, training: bool) -> torch.Tensor:
        """Return what `compute_loss_func` makes of outputs and labels, plus the weighted alignment loss.

        The function's loss is that of this batch's share of all accumulated ones, on all processes, as `Trainer`
        has it; the alignment loss is a mean, and its share is one of so many batches.
        """
        logits = outputs.logits
        if not training and labels is not None and labels.ndim == 2:
            read = ~ignored_rows(labels)
            outputs.logits, labels = logits[read], labels[read]
        loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items)
        outputs.logits = logits
        if num_items is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        shares = self._accumulated() if training else 1
        alignment = None if outputs.alignment_loss is None else outputs.alignment_loss / shares
        return self.accelerator.unwrap_model(self.model).add_alignment_loss(loss, alignment)

    def _accumulated(self) -> int:
        """Return how many batches make the step that is being taken."""
        return getattr(self, "current_gradient_accumulation_steps", 1)  # Trainer's, from the first step on

    def _count(self, loss: torch.Tensor, alignment: torch.Tensor | None, videos: int) -> None:
        """Add a batch to what the next log line reports."""
        loss = loss.detach().float()
        if self.compute_loss_func is not None:  # a share of the loss of all accumulated batches
            loss = loss * self._accumulated()
        alignment = torch.zeros_like(loss) if alignment is None else alignment.detach().float()
        weight = self.accelerator.unwrap_model(self.model).config.alignment_loss_weight
        parts = torch.stack([loss - weight * alignment, alignment, torch.ones_like(loss)])
        self._sums = parts if self._sums is None else self._sums + parts
        self._videos += videos

    # logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to training lines both parts of the loss, videos per second over all processes, the share of time spent
        waiting for data, and the peak memory in GiB: of this process's GPU, or of the process.

        That time is the training's own: without evaluating and saving.
        """
        if "loss" in logs and self._sums is not None:
            logs |= self._measured()
        super().log(logs, start_time)

    @contextmanager
    def _clock_stopped(self) -> Iterator[None]:
        """Keep the time of this block out of the measured training time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - started

    def _measured(self) -> dict[str, float]:
        assert self._sums is not None
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        sums = self.accelerator.reduce(self._sums, "sum") if self.args.world_size > 1 else self._sums
        measured = {
            "classification_loss": (sums[0] / sums[2]).item(),
            "alignment_loss": (sums[1] / sums[2]).item(),
            "videos_per_second": self._videos * self.args.world_size / seconds,
            "data_wait": min(self._waited / seconds, 1.0),
        }
        measured["memory_gib"] = _peak_memory(self.args.device) / 2**30
        self._sums, self._videos, self._waited, self._since = None, 0, 0.0, now
        return measured

    # checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as `Trainer.train`; `resume_from_checkpoint=True` takes the last whole checkpoint, if there is one.

        After SIGTERM it returns, with `stop.stopped` set; another SIGTERM, seconds later, ends the process at once.
        No other run may write to the output folder meanwhile.
        """
        try:
            with only_run(self._get_output_dir(kwargs.get("trial")), writes=self.args.should_save):
                return self._train(resume_from_checkpoint, **kwargs)
        finally:
            self.stop.restore_handler()

    def _train(self, resume_from_checkpoint: str | bool | None, **kwargs: Any) -> Any:
        if resume_from_checkpoint is True:
            found = last_complete_checkpoint(self.args.output_dir)
            resume_from_checkpoint = None if found is None else str(found)
        elif isinstance(resume_from_checkpoint, str) and (missing := verify_manifest(Path(resume_from_checkpoint))):
            raise ValueError(f"{resume_from_checkpoint!r} is not a whole checkpoint: {missing}.")
        checkpoint = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._resumed = None if checkpoint is None else all_succeed(lambda: (checkpoint, file_states(checkpoint)))
        require_same_checkpoint(checkpoint, own_folders=self.args.save_on_each_node)
        if self.unreadable is not None:
            self.unreadable.resumed = checkpoint
        self._since = time.perf_counter()
        if not resume_from_checkpoint:
            return super().train(**kwargs)
        require_same_classes(Path(resume_from_checkpoint), self.model.config)
        if hasattr(self.model, "peft_config"):
            from ..evaluation.adapters import require_same_adapter  # which needs PEFT

            require_same_adapter(self.model, resume_from_checkpoint)
        if self.average is not None:
            self.average.load(resume_from_checkpoint)
        state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        if state.global_step >= self._last_step():  # the Trainer would take one step more
            return self.restore_finished_run(resume_from_checkpoint, state)
        if not self.is_deepspeed_enabled:  # which keeps all states in files of its own
            process = self.args.process_index if self.args.world_size > 1 else None
            all_succeed(lambda: require_states(Path(resume_from_checkpoint), process=process))
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _last_step(self) -> int:
        return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    def restore_finished_run(self, checkpoint: str, state: TrainerState) -> TrainOutput:
        """Load the state after the last step of a run that has taken all its steps, and return its output."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError(f"{checkpoint!r} has all its {state.global_step} steps: nothing is left to train.")
        self._load_from_checkpoint(checkpoint)
        self._require_unchanged()
        self._keep_frame_rate()
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            if not Path(state.best_model_checkpoint).is_dir():  # the run's folder was moved
                state.best_model_checkpoint = str(Path(checkpoint).parent / Path(state.best_model_checkpoint).name)
            self._load_best_model()
        return TrainOutput(state.global_step, 0.0, {})

    def _require_unchanged(self) -> None:
        """Raise a ValueError where what is resumed from is not what was checked; a collective."""
        if (resumed := self._resumed) is not None:
            all_succeed(lambda: require_unchanged(*resumed))

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with self._clock_stopped():
            self._keep_frame_rate()  # of the model that `model_init` has made, if any
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._require_unchanged()  # weights, state, optimizer, schedule and scaler are loaded, generators are not yet
        return prepared

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        self._require_unchanged()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Raise a ValueError where a checkpoint has not exactly this model's weights; the Trainer would warn only."""
        super()._issue_warnings_after_load(load_result)
        expected = set(self.model._keys_to_ignore_on_save or ())
        missing, unexpected = sorted(set(load_result.missing_keys) - expected), sorted(load_result.unexpected_keys)
        if missing or unexpected:
            raise ValueError(
                f"The checkpoint is of another model: {len(missing)} of this one's weights are missing "
                f"({', '.join(missing[:3]) or 'none'}), {len(unexpected)} are not its own "
                f"({', '.join(unexpected[:3]) or 'none'})."
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as the Trainer does, but delete older checkpoints only when this one is whole.

        Raises:
            FolderInUseError: another run has the folder, as this one's lock was deleted.
        """
        with self._clock_stopped(), only_run(self._get_output_dir(trial), writes=self.args.should_save):
            self._save_whole(model, trial)

    def _save_whole(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)  # of a run that broke off here
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            if self.average is not None and self.args.should_save:
                self.average.save(folder)
            if self.unreadable is not None:
                self.unreadable.write(folder)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_manifest(folder)
        except Exception as error:  # the libraries have an error each for a full disk
            reason = self._why_not_saved(folder, error)
            logger.error(reason)  # it may be this process alone that cannot write
            raise OSError(reason) from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(
                output_dir=str(folder.parent), save_total_limit=limit, best_model_checkpoint=best, use_mtime=False
            )

    def _why_not_saved(self, folder: Path, error: Exception) -> str:
        shutil.rmtree(folder, ignore_errors=True)  # half of a checkpoint only takes room
        last = last_complete_checkpoint(folder.parent)
        free = shutil.disk_usage(folder.parent).free / 2**20
        kept = f"the last whole checkpoint is {str(last)!r}" if last else "there is no earlier one"
        return f"{str(folder)!r} could not be written ({error}); {free:.0f} MiB are free; {kept}."

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if state_dict is not None and self.is_fsdp_enabled:
            shapes = {name: value.reshape(()) for name, value in state_dict.items() if name in SCALARS}
            state_dict = state_dict | shapes
        super()._save(output_dir, state_dict)

    # the moving average

    def averaged(self) -> AbstractContextManager[None]:
        """Give the model the averaged weights in a block, if there are any."""
        return nullcontext() if self.average is None else self.average.in_place()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the averaged weights where there are any, as `Trainer.evaluate`; class texts are encoded once."""
        model = self.accelerator.unwrap_model(self.model)
        texts_once = getattr(model, "constant_class_features", nullcontext)  # TimeSformer has no texts
        with self._clock_stopped(), self.averaged(), texts_once():
            with torch.random.fork_rng(devices=[]):  # so that evaluating more or less changes no weight
                metrics = super().evaluate(*args, **kwargs)
                if self.pictures is not None:
                    self.pictures.write(self)
                return metrics

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> Any:
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.pictures is not None:
            self.pictures.remember(dataloader.dataset, output, metric_key_prefix)
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the averaged weights where there are any; a checkpoint to resume from has the last step's."""
        if _internal_call:
            super().save_model(output_dir, _internal_call=True)
            return
        writes = self.args.should_save
        with self.averaged(), only_writer(output_dir or str(self.args.output_dir)) if writes else nullcontext():
            super().save_model(output_dir)

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        self.accelerator.wait_for_everyone()  # it may be the last one, which one process seals
        all_succeed(lambda: _require_best(best))
        super()._load_best_model()
        if self.average is not None:
            self.average.load(best)  # which is what was the best


def _require_best(checkpoint: Path) -> None:
    """Raise a ValueError where the best weights are gone: the Trainer would warn, and keep the last step's."""
    if (reason := verify_manifest(checkpoint)) is not None:
        raise ValueError(f"The best weights cannot be loaded, {str(checkpoint)!r} is not whole: {reason}.")


def _refuse_other_order(data: Any, class_names: list[str]) -> None:
    """Raise a ValueError where a `ClassLabel` of a `datasets` data set has the model's names in another order."""
    features = getattr(data, "features", None) or {}
    order = ClassOrder(class_names)
    for column in ("label", "labels", "label_ids"):  # `Trainer` takes each for the labels
        names = label_feature_names(features.get(column))
        if names is None or are_numbered(class_names):
            continue
        if all(order.find(ClassIndex(index, name)) == index for index, name in enumerate(names)):
            continue
        raise ValueError(
            f"The column {column!r} counts its classes in another order than the model: {preview(names)}, not "
            f"{preview(class_names)}. `read_annotations(data)` with `TrainingClips` or `EvaluationClips` finds "
            "them by name."
        )


def data_sets_in(data: Any) -> Iterator[Any]:
    """Yield the data sets that a data set is made of: those of a mapping, of torch's `Subset` and `ConcatDataset`."""
    if isinstance(data, Subset):
        yield from data_sets_in(data.dataset)
    elif isinstance(data, (ConcatDataset, Mapping)):
        for part in data.datasets if isinstance(data, ConcatDataset) else data.values():
            yield from data_sets_in(part)
    else:
        yield data


def _reshape_scalars(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Give scalar parameters a shape: FSDP2 shards along the first dimension, which CLIP's scale does not have."""
    for name, parameter in model.named_parameters():
        if name in SCALARS:
            parameter.data = parameter.data.reshape(shape)


def _peak_memory(device: torch.device) -> int:
    """Return the largest memory in use so far, in bytes: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

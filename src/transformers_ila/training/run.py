"""A training run, from its recipe to a trained model and what that reaches."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from transformers import set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy
from transformers.utils import logging

from ..data.annotations import Annotations
from ..distributed import all_succeed
from ..model.video_processing_ila import IlaVideoProcessor
from ..version import __version__
from .arguments import IlaTrainingArguments
from .augmentation import MixingCollator
from .checkpoints import last_complete_checkpoint, only_run, require_same_checkpoint
from .clips import EvaluationClips, TrainingClips
from .inputs import annotations_of, check_model, model_of
from .recipes import RESOLVED, RecipeArguments, check_same_run, resolved_values, write_resolved
from .shard_clips import ShardClips
from .trainer import IlaTrainer, class_logits, multi_label_metrics, top5_indices, top_accuracies


logger = logging.get_logger(__name__)


def train(
    recipe: RecipeArguments, args: IlaTrainingArguments, *, progress: Callable[[str], object] = logger.info
) -> IlaTrainer:
    """Train as the recipe and the arguments say, and return the trainer with its model; every process calls this.

    With `recipe.resume` it goes on from the last whole checkpoint in `args.output_dir`, or begins where there is none.
    After SIGTERM it returns early, with `trainer.stop.stopped` set and a checkpoint written.

    Args:
        recipe, args: what `parse` returns; `recipe` is given the values that it left open, such as `flip`.
        progress: is called with lines about the run, on the first process only.

    Raises:
        ValueError: the run cannot begin or go on as described; found before a model is loaded where possible.
        FolderInUseError: another run writes to `args.output_dir`; on the process that writes there.
        OSError: a list, weights or a checkpoint cannot be read or written.
        UnreadableVideosError: too many videos cannot be read; on all processes at the same step.
    """
    tell = progress if args.process_index == 0 else lambda line: None
    all_succeed(lambda: _check_processes(recipe, args))
    with only_run(str(args.output_dir), writes=args.should_save):
        checkpoint = find_checkpoint(recipe, args, tell)
        trainer = build_trainer(recipe, args, tell)
        config = trainer.model.config
        recipe.alignment_causal = config.vision_config.alignment_causal
        all_succeed(lambda: settle(recipe, args, checkpoint, config.class_names))
        tell(f"{args.world_size} processes, {recipe.global_batch_size} videos a step; {args.output_dir}/{RESOLVED}")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer


def _check_processes(recipe: RecipeArguments, args: IlaTrainingArguments) -> None:
    if recipe.expect_processes not in (None, args.world_size):
        raise ValueError(f"{recipe.expect_processes} processes were expected, and there are {args.world_size}.")


def find_checkpoint(recipe: RecipeArguments, args: IlaTrainingArguments, tell: Callable[[str], object]) -> Path | None:
    """Return the checkpoint to go on from, the same on all processes; None to begin.

    Raises:
        ValueError: the folder holds checkpoints and `resume` is not set, or processes found different ones.
    """
    folder = Path(str(args.output_dir))
    if not recipe.resume:
        all_succeed(lambda: _check_no_checkpoints(folder))
        return None
    checkpoint = all_succeed(lambda: last_complete_checkpoint(folder))
    all_succeed(lambda: require_same_checkpoint(checkpoint, own_folders=args.save_on_each_node))
    if checkpoint is None:
        tell(f"There is no whole checkpoint in {str(folder)!r}: this is the beginning.")
    else:
        tell(f"Going on from {str(checkpoint)!r}.")
    return checkpoint


def _check_no_checkpoints(folder: Path) -> None:
    if any(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        raise ValueError(f"{str(folder)!r} holds checkpoints: go on with --resume, or name another --output_dir.")


def build_trainer(recipe: RecipeArguments, args: IlaTrainingArguments, tell: Callable[[str], object]) -> IlaTrainer:
    """Read the lists, load the model and return its trainer; all but the weights is checked before they are loaded.

    Raises:
        ValueError: a list, class, field or number with a fault, or fewer videos than a global batch.
        OSError: a list or weights cannot be read.
    """
    training, evaluation = all_succeed(lambda: _read_lists(recipe, args))
    _tell_evaluation(recipe, args, training, evaluation, tell)
    return all_succeed(lambda: _trainer(recipe, args, training, evaluation))


def _trainer(
    recipe: RecipeArguments, args: IlaTrainingArguments, training: Annotations, evaluation: Annotations | None
) -> IlaTrainer:
    names = training.class_names or []
    set_seed(args.seed)  # new weights are drawn here
    model = model_of(recipe, names, multi_label=training.multi_label)
    if training.multi_label:  # where nothing is the first of five
        if str(args.metric_for_best_model).removeprefix("eval_") in ("top1", "top5", "None"):
            args.metric_for_best_model, args.greater_is_better = "loss", False
    processor = IlaVideoProcessor.for_model(model.config, frame_sampling=recipe.frame_sampling)
    metrics: dict[str, Any] = {"compute_metrics": top_accuracies, "preprocess_logits_for_metrics": top5_indices}
    if training.multi_label:
        metrics = {"compute_metrics": multi_label_metrics, "preprocess_logits_for_metrics": class_logits}
    trainer = IlaTrainer(
        model=model,
        args=args,
        train_dataset=_training_clips(recipe, args, training, processor),
        eval_dataset=None if evaluation is None else EvaluationClips(evaluation, processor, normalise=False),
        processing_class=processor,
        train_collator=MixingCollator(recipe.mixing(len(names))),
        **metrics,
    )
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" and not trainer.is_fsdp_enabled:
        raise ValueError(
            "FSDP was asked for, and Accelerate does not use it: it needs several processes with a GPU each."
        )
    return trainer


def _read_lists(recipe: RecipeArguments, args: IlaTrainingArguments) -> tuple[Annotations, Annotations | None]:
    """Return the videos to train on and to evaluate on, and check all of the recipe that needs no weights."""
    check_model(recipe)
    training, evaluation, names = annotations_of(recipe, seed=args.seed)
    if len(names) < 2 and not training.multi_label:
        raise ValueError(f"{recipe.train_list!r} has the single class {names}; allowed: 2 or more to tell apart.")
    recipe.mixing(len(names))
    recipe.flip = str(recipe.augmentation(names, size=1).flip)  # "auto" is decided by the classes
    if len(training.samples) < (recipe.global_batch_size or 1):
        raise ValueError(
            f"{len(training.samples)} videos are fewer than one global batch of {recipe.global_batch_size}. Lower "
            "`global_batch_size` and `per_device_train_batch_size`."
        )
    return training, evaluation


def _tell_evaluation(
    recipe: RecipeArguments,
    args: IlaTrainingArguments,
    training: Annotations,
    evaluation: Annotations | None,
    tell: Callable[[str], object],
) -> None:
    """Say which videos are held out; where there is nothing to evaluate on, say why and switch evaluation off."""
    if evaluation is None:
        args.require_default("tensorboard_pictures", "nothing is evaluated: --val_list names videos")
        tell(_why_no_evaluation(recipe))
        args.eval_strategy, args.do_eval, args.load_best_model_at_end = IntervalStrategy.NO, False, False
    elif recipe.val_list is None:
        held, total = len(evaluation.samples), len(training.samples) + len(evaluation.samples)
        tell(
            f"Held out {held} of {total} videos to evaluate on ({held / total:.0%}), which is "
            f"{recipe.val_fraction:.0%} of each class as far as whole videos allow, drawn by seed {args.seed}: "
            "--val_fraction 0 trains on all of them, --val_list names others."
        )


def _why_no_evaluation(recipe: RecipeArguments) -> str:
    if recipe.stream:
        reason = "`stream` reads shards in one pass, from which no video can be held out"
    elif not recipe.val_fraction:
        reason = "`val_fraction` is 0 and there is no `val_list`"
    else:
        reason = "no class has a second video that could be held out"
    return f"Nothing is evaluated, and the last step's weights are the result: {reason}. --val_list names videos."


def _training_clips(
    recipe: RecipeArguments, args: IlaTrainingArguments, training: Annotations, processor: IlaVideoProcessor
) -> TrainingClips | ShardClips:
    names = training.class_names or []
    augment = recipe.augmentation(names, size=dict(processor.crop_size)["height"])
    options: dict[str, Any] = {"augment": augment, "seed": args.seed, "max_replacements": recipe.max_replacements}
    options["normalise"] = False  # the trainer does, on the device
    if not recipe.stream:
        return TrainingClips(training, processor, **options)
    counts = {"videos": len(training.samples), "batch": args.train_batch_size}
    return ShardClips(str(recipe.train_list), processor, labels=training.labels(), **counts, **options)


def settle(
    recipe: RecipeArguments, args: IlaTrainingArguments, checkpoint: Path | None, class_names: list[str]
) -> None:
    """Write `training.yaml`, or check that a run which goes on decides the same.

    Raises:
        ValueError: `checkpoint` is of a run that decided other weights.
    """
    values = resolved_values(recipe, args)
    if checkpoint is not None:
        check_same_run(values, str(args.output_dir), class_names=class_names)
    elif args.process_index == 0:
        versions = {"transformers_ila": __version__}
        versions |= {module.__name__: module.__version__ for module in (transformers, accelerate, torch)}
        listed = ", ".join(f"{name} {version}" for name, version in versions.items())
        write_resolved(values, str(args.output_dir), comment=f"{args.world_size} processes. {listed}")


def final_metrics(trainer: IlaTrainer) -> dict[str, float]:
    """Return the metrics of the weights that a run ends with, by names such as "eval_top1"; every process calls it.

    They are taken from the log where these weights were evaluated in training, else they are evaluated now. They are
    empty where there are no videos to evaluate on.
    """
    if trainer.eval_dataset is None:
        return {}
    state = trainer.state
    best = trainer.args.load_best_model_at_end and state.best_global_step
    step = best or state.global_step
    logged = [line for line in state.log_history if line["step"] == step and "eval_loss" in line]
    return logged[-1] if logged else trainer.evaluate()

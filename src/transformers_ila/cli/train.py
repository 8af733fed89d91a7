"""Train ILA as a recipe says: `accelerate launch scripts/train.py recipes/k400_b16_8f.yaml --train_list ...`.

Every key of a recipe, and every field of `RecipeArguments` and `IlaTrainingArguments`, is an option that wins over the
recipe: `--max_steps 1000 --output_dir runs/first`. The output folder holds checkpoints, the decided numbers
(`training.yaml`), `unreadable_videos.json` and at the end the model with its processor and a card.

With `--resume` it goes on from the last whole checkpoint of the output folder, or begins where there is none; all
machines must see the same folder.
Exit code: 0 the model is saved, or after SIGTERM the last step; 2 bad arguments, or a run that cannot go on.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from transformers import set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

import transformers_ila

from ..distributed import all_gather
from ..hub.exporting import export
from ..model.configuration_ila import MULTI_LABEL
from ..model.video_processing_ila import IlaVideoProcessor
from ..training.arguments import IlaTrainingArguments
from ..training.augmentation import MixingCollator
from ..training.checkpoints import last_complete_checkpoint, require_same_checkpoint
from ..training.clips import EvaluationClips, TrainingClips
from ..training.recipes import (
    RESOLVED,
    RecipeArguments,
    annotations_of,
    check_same_run,
    model_of,
    parse,
    resolved_values,
    write_resolved,
)
from ..training.shard_clips import ShardClips
from ..training.trainer import (
    IlaTrainer,
    class_logits,
    multi_label_metrics,
    top5_indices,
    top_accuracies,
)


logger = logging.get_logger("transformers_ila.train")

EXAMPLES = (
    "ila train small_b16_8f --clip openai/clip-vit-base-patch16 --train_list videos/train --output_dir my-run",
    "torchrun --nproc_per_node 2 -m transformers_ila train k400_b16_8f --train_list train.csv --resume",
)


def find_checkpoint(recipe: RecipeArguments, args: IlaTrainingArguments) -> Path | None:
    """Where to go on, the same for all processes; None to begin."""
    folder = Path(str(args.output_dir))
    if not recipe.resume:
        all_gather(lambda: check_no_checkpoints(folder))
        return None
    checkpoint = last_complete_checkpoint(folder)
    require_same_checkpoint(checkpoint, own_folders=args.save_on_each_node)
    if checkpoint is None:
        say(args, f"There is no whole checkpoint in {str(folder)!r}: this is the beginning.")
    else:
        say(args, f"Going on from {str(checkpoint)!r}.")
    return checkpoint


def check_no_checkpoints(folder: Path) -> None:
    if any(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        raise ValueError(f"{str(folder)!r} holds checkpoints: go on with --resume, or name another --output_dir.")


def say(args: IlaTrainingArguments, text: str) -> None:
    if args.process_index == 0:
        print(text, flush=True)


def build_trainer(recipe: RecipeArguments, args: IlaTrainingArguments) -> IlaTrainer:
    training, evaluation, names = annotations_of(recipe)
    set_seed(args.seed)  # new weights are drawn here
    model = model_of(recipe, names)
    if training.multi_label:  # where nothing is the first of five
        model.config.problem_type = MULTI_LABEL
        args.metric_for_best_model, args.greater_is_better = "loss", False
    processor = IlaVideoProcessor.for_model(model.config, frame_sampling=recipe.frame_sampling)
    size = model.config.vision_config.image_size
    augment = recipe.augmentation(names, size=size)
    how: dict[str, Any] = {"augment": augment, "stand_ins": recipe.stand_ins, "normalise": False}  # the trainer does
    if recipe.stream:
        counts = {"videos": len(training.samples), "batch": args.train_batch_size}
        data: Any = ShardClips(str(recipe.train_list), processor, labels=names, seed=args.seed, **counts, **how)
    else:
        data = TrainingClips(training, processor, seed=args.seed, **how)
    metrics: dict[str, Any] = {"compute_metrics": top_accuracies, "preprocess_logits_for_metrics": top5_indices}
    if training.multi_label:
        metrics = {"compute_metrics": multi_label_metrics, "preprocess_logits_for_metrics": class_logits}
    return IlaTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=None if evaluation is None else EvaluationClips(evaluation, processor, normalise=False),
        processing_class=processor,
        train_collator=MixingCollator(recipe.mixing(len(names))),
        **metrics,
    )


def settle(recipe: RecipeArguments, args: IlaTrainingArguments, checkpoint: Path | None) -> None:
    """Write what was decided, or check that it is what was decided before."""
    values = resolved_values(recipe, args)
    if checkpoint is not None:
        check_same_run(values, str(args.output_dir))
    elif args.process_index == 0:
        versions = {
            module.__name__: module.__version__ for module in (transformers_ila, transformers, accelerate, torch)
        }
        comment = f"{args.world_size} processes. " + ", ".join(
            f"{name} {version}" for name, version in versions.items()
        )
        write_resolved(values, str(args.output_dir), comment=comment)


def save(trainer: IlaTrainer, args: IlaTrainingArguments) -> None:
    """The model with its processor, code and card in the output folder."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:  # whole weights are gathered by the Trainer only
        trainer.save_model(str(args.output_dir))
    elif args.process_index == 0:
        with trainer.averaged():
            model = trainer.accelerator.unwrap_model(trainer.model)
            export(model, trainer.processing_class, str(args.output_dir))
    trainer.accelerator.wait_for_everyone()


def train(recipe: RecipeArguments, args: IlaTrainingArguments) -> int:
    if recipe.expect_processes not in (None, args.world_size):
        raise ValueError(f"{recipe.expect_processes} processes were expected, and there are {args.world_size}.")
    checkpoint = find_checkpoint(recipe, args)
    trainer = build_trainer(recipe, args)
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true" and not trainer.is_fsdp_enabled:
        raise ValueError(
            "FSDP was asked for, and Accelerate does not use it: it needs several processes with a GPU each."
        )
    all_gather(lambda: settle(recipe, args, checkpoint))
    say(args, f"{args.world_size} processes, {recipe.global_batch_size} videos a step; {args.output_dir}/{RESOLVED}")
    result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.stop.stopped:
        say(args, f"SIGTERM: saved after step {result.global_step}; --resume goes on.")
        return 0
    save(trainer, args)
    best = trainer.state.best_metric
    accuracy = (
        ""
        if best is None
        else f" Best {args.metric_for_best_model}: {best:.4f}, step {trainer.state.best_global_step}."
    )
    say(args, f"Trained {result.global_step} steps.{accuracy} Model: {args.output_dir}")
    return 0


def parse_arguments(arguments: Sequence[str]) -> tuple[RecipeArguments, IlaTrainingArguments]:
    """Read a recipe, where the first word is one, and the options that are laid over it."""
    recipe = arguments[0] if arguments and not arguments[0].startswith("--") else None
    return parse(recipe, arguments if recipe is None else arguments[1:])


def run(recipe: RecipeArguments, args: IlaTrainingArguments) -> int:
    code = train(recipe, args)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # or its threads may still run when the process ends
    return code

"""Train a classifier by a recipe, which is named by its name or its path.

Every key of a recipe is an option, too, which wins over the recipe. The output folder holds checkpoints, what was
decided (`training.yaml`, a recipe again), `unreadable_videos.json`, and at the end the model with its processor, code
and card, or with `lora_r` the adapter (LoRA) with processor and card. Without `--val_list` a fifth of the training
videos is held out to evaluate on (`--val_fraction`).

`--resume` goes on from the last whole checkpoint of the output folder, or begins where there is none; all machines
must see the same folder, and one run at a time writes to it. `--print_path NAME` prints where a recipe or a
configuration of Accelerate lies, and ends.

Exit code: 0 the model is saved, or after SIGTERM a checkpoint; 2 bad arguments, or a run that cannot go on.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..distributed import export_srun_rank
from ..hub.exporting import export, export_adapter
from ..training.arguments import IlaTrainingArguments
from ..training.recipes import RecipeArguments, parse, recipe_file, recipe_names
from ..training.unreadable import UnreadableVideosError


if TYPE_CHECKING:  # `--help` does not need the Trainer
    from ..training.trainer import IlaTrainer


EXAMPLES = (
    "ila train small_b16_8f --train_list path/to/videos --output_dir my-run",
    "torchrun --nproc_per_node 8 -m transformers_ila train k400_b16_8f --train_list train.csv --val_list val.csv",
    'accelerate launch --config_file "$(ila train --print_path fsdp2)" -m transformers_ila train k400_l14_8f ...',
)
POSITIONAL = "recipe"
PRINT_PATH = "--print_path"


def choices_of_positional() -> tuple[str, list[str]]:
    """Return a title and the names of the recipes that come with the package."""
    return "Recipes", recipe_names()


def parse_arguments(arguments: Sequence[str]) -> tuple[RecipeArguments, IlaTrainingArguments]:
    """Read a recipe, where the first word is one, and the options that are laid over it."""
    if arguments and arguments[0] == PRINT_PATH:
        print(recipe_file(" ".join(arguments[1:])))
        sys.exit(0)
    recipe = arguments[0] if arguments and not arguments[0].startswith("--") else None
    export_srun_rank()  # before IlaTrainingArguments, which ask Accelerate for the processes
    return parse(recipe, arguments if recipe is None else arguments[1:])


def run(recipe: RecipeArguments, args: IlaTrainingArguments) -> int:
    """Train, save the model, and say what it reaches."""
    from ..training.checkpoints import only_run
    from ..training.run import train

    def say(line: str) -> None:
        if args.process_index == 0:
            print(line, flush=True)

    try:
        with only_run(str(args.output_dir), writes=args.should_save):
            trainer = train(recipe, args, progress=say)
            steps = trainer.state.global_step
            if trainer.stop.stopped:
                say(f"SIGTERM: saved after step {steps}; --resume goes on.")
                return 0
            save(trainer, args)
            say(f"Trained {steps} steps.{_best(trainer)} Model: {args.output_dir}")
            say(_reached(trainer))
            return 0
    except UnreadableVideosError:  # which all processes raise
        if args.process_index == 0:
            raise
        return 2
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # or its threads may still run when the process ends


def save(trainer: "IlaTrainer", args: IlaTrainingArguments) -> None:
    """Write the model with its processor, code and card to the output folder; every process calls it."""
    exported = type(trainer.model.config).model_type == "ila"  # others are for those who have this package
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or not exported:  # the Trainer gathers whole weights
        trainer.save_model(str(args.output_dir))
    elif args.process_index == 0:
        with trainer.averaged():
            model = trainer.accelerator.unwrap_model(trainer.model)
            write = export_adapter if hasattr(model, "peft_config") else export
            write(model, trainer.processing_class, str(args.output_dir))
    trainer.accelerator.wait_for_everyone()


def _best(trainer: "IlaTrainer") -> str:
    state = trainer.state
    if state.best_metric is None:
        return ""
    return f" Best {trainer.args.metric_for_best_model}: {state.best_metric:.4f}, step {state.best_global_step}."


def _reached(trainer: "IlaTrainer") -> str:
    """Return a line about the accuracy of the weights that were saved."""
    from ..training.run import final_metrics

    metrics = final_metrics(trainer)
    if not metrics:
        return "Nothing was evaluated."
    videos = len(trainer.eval_dataset) - int(metrics["eval_unreadable"])
    names = {"eval_top1": "top-1", "eval_top5": "top-5", "eval_mean_average_precision": "mean average precision"}
    shown = ", ".join(f"{name} {metrics[key]:.1%}" for key, name in names.items() if key in metrics)
    return f"Accuracy on {videos} videos: {shown}"

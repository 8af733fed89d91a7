"""Compare temporal modules: train and test every variant of a recipe with every seed, on one budget.

The videos are MotionBench's, which are written first, or your own: `--train_list` and `--test_list`. What is finished
is kept: the same command goes on where it was broken off, and `--part 1/2`, `--part 2/2` share the runs between two
processes. The output folder gets `ablation.md` (mean and deviation over the seeds, with paired tests), `ablation.csv`,
`ablation_runs.csv` and pictures, also while runs are missing. A run that fails is reported, and the others go on.

Exit code: 0 all runs are finished; 1 some failed or are another part's, or SIGTERM came; 2 bad arguments.
"""

import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from transformers.utils import logging


if TYPE_CHECKING:  # `--help` needs nothing of training
    from ..ablation.ablation import Ablation


logger = logging.get_logger("transformers_ila.ablate")


POSITIONAL = "recipe"
EXAMPLES = (
    "ila ablate ablation_small --output ablation",
    "ila ablate ablation_clip --train_list train.csv --test_list test.csv --videos path/to/videos --seeds 0 1 2",
)
OVER_THE_RECIPE = ("train_list", "test_list", "videos", "labels", "clip", "variants", "seeds", "reference")


@dataclass
class AblateOptions:
    """Hold the options of `ila ablate`."""

    _argument_group_name = "options of ila ablate"

    recipe: str = field(default="", metadata={"help": "name or file of the recipe, such as ablation_small"})
    output: str = field(default="ablation", metadata={"help": "folder for videos, runs, tables and pictures"})
    train_list: str | None = field(
        default=None,
        metadata={"help": "your own training videos in place of MotionBench: a list, or a folder of class folders"},
    )
    test_list: str | None = field(default=None, metadata={"help": "your own test videos, as --train_list"})
    videos: str | None = field(default=None, metadata={"help": "folder that paths in these lists start from"})
    labels: str | None = field(default=None, metadata={"help": "file with the class names of these lists"})
    clip: str | None = field(default=None, metadata={"help": "Hub id or folder of the weights to start from"})
    variants: list[str] | None = field(default=None, metadata={"help": "which of the recipe's variants; default all"})
    seeds: list[int] | None = field(default=None, metadata={"help": "seeds in place of the recipe's"})
    reference: str | None = field(
        default=None, metadata={"help": "variant that the others are compared with; default the first one"}
    )
    part: str = field(default="1/1", metadata={"help": "which share of the runs this process does, such as 1/2"})
    keep_models: bool = field(default=False, metadata={"help": "save every model that is trained, beside its result"})
    report_only: bool = field(default=False, metadata={"help": "train nothing, write the report of what is finished"})

    def __post_init__(self) -> None:
        if not self.recipe:
            raise ValueError("name a recipe, such as ablation_small: ila ablate RECIPE.")
        self.share()

    def share(self) -> tuple[int, int]:
        """Return the index and the number of the shares that `part` names: "1/2" -> 0, 2."""
        try:
            index, parts = map(int, self.part.split("/"))
            if not 1 <= index <= parts:
                raise ValueError
        except ValueError:
            raise ValueError(f"--part must be such as 1/2, the first of two; got {self.part!r}.") from None
        return index - 1, parts

    def changes(self) -> dict[str, Any]:
        """Return the values that replace those of the recipe."""
        return {name: value for name in OVER_THE_RECIPE if (value := getattr(self, name)) is not None}


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def run(options: AblateOptions) -> int:
    """Do the runs that are not finished, measure costs, and write the report; return 0 when all runs are finished."""
    from ..ablation.ablation import read_ablation
    from ..ablation.report import measure_costs, write_report
    from ..ablation.results import read_results
    from ..evaluation.inference import named_in_errors, require_checkpoint
    from ..model.configuration_ila import IlaConfig
    from ..training.recipes import recipe_file

    ablation = read_ablation(recipe_file(options.recipe, kind="ablate"), options.changes())
    if ablation.clip is not None:
        require_checkpoint(ablation.clip)
        with named_in_errors(ablation.clip):
            IlaConfig.from_pretrained(ablation.clip)  # which refuses other models by their class
    read_results(ablation, options.output)  # hours of work begin with lists and results that are right
    if not options.report_only:
        try:
            train_and_test(ablation, options)
        except InterruptedError as error:  # SIGTERM
            print(error, file=sys.stderr)
            return 1
    results = read_results(ablation, options.output)
    finished = len(results) == len(ablation.seeds) * len(ablation.variants)
    if finished:
        measure_costs(ablation, options.output, progress=say)
    if results:
        for file in write_report(ablation, options.output):
            say(f"Written: {file}")
    return 0 if finished else 1


def train_and_test(ablation: "Ablation", options: AblateOptions) -> None:
    """Do the unfinished runs of this process's share."""
    from ..ablation.results import read_results
    from ..ablation.runs import mean_accuracy, prepare
    from ..ablation.runs import run as run_variant

    start = prepare(ablation, options.output, progress=say)
    index, parts = options.share()
    mine = [(variant, seed) for seed in ablation.seeds for variant in ablation.variants][index::parts]
    finished = {(result["variant"], result["seed"]) for result in read_results(ablation, options.output)}
    left = [own for own in mine if own not in finished]
    say(f"{len(mine)} runs, {len(mine) - len(left)} of them finished before.")
    seconds: list[float] = []
    for number, (variant, seed) in enumerate(left, 1):
        started = time.perf_counter()
        try:
            result = run_variant(ablation, variant, seed, start, options.output, keep_model=options.keep_models)
        except InterruptedError:
            raise
        except Exception as error:  # the other runs need not wait for somebody to mend this one
            logger.error(f"[{number}/{len(left)}] {variant}, seed {seed}: {error}", exc_info=True)
            continue
        seconds.append(time.perf_counter() - started)
        rest = statistics.mean(seconds) * (len(left) - number) / 60
        accuracy = f"{mean_accuracy(result):.1%} in {seconds[-1]:.0f} s, {rest:.0f} min left"
        say(f"[{number}/{len(left)}] {variant}, seed {seed}: {accuracy}")

"""Compare temporal modules: `scripts/ablate.py recipes/ablation_small.yaml --output ablation`.

Every variant of the recipe is trained and tested with every seed on MotionBench, which is written first. What is
finished is kept: the same command goes on where it was broken off, and `--part 1/2`, `--part 2/2` share the runs
between two processes. The output folder gets `ablation.md`, `ablation.csv`, `ablation_runs.csv` and two pictures, also
while runs are missing. A run that fails is told, and the others go on. Exit code: 0 all runs are finished, 1 some
failed or are another part's, or SIGTERM came, 2 bad arguments.
"""

import statistics
import time
from dataclasses import dataclass, field

from transformers.utils import logging

from ..ablation.ablation import mean_accuracy, prepare, read_ablation, read_results, result_file
from ..ablation.ablation import run as run_variant
from ..ablation.report import measure_costs, write_report


logger = logging.get_logger("transformers_ila.ablate")


POSITIONAL = "recipe"
EXAMPLES = (
    "ila ablate ablation_small --output ablation",
    "ila ablate ablation_small --output ablation --report_only",
)


@dataclass
class AblationScriptArguments:
    recipe: str = field(default="", metadata={"help": "recipes/ablation_*.yaml"})
    output: str = field(default="ablation", metadata={"help": "folder for videos, runs, tables and pictures"})
    part: str = field(default="1/1", metadata={"help": "which share of the runs this process does, such as 1/2"})
    keep_models: bool = field(default=False, metadata={"help": "save every model that is trained, beside its result"})
    report_only: bool = field(default=False, metadata={"help": "train nothing, write the report of what is finished"})


def part_of(text: str) -> tuple[int, int]:
    """ "1/2" -> 0, 2"""
    try:
        index, parts = map(int, text.split("/"))
        if not 1 <= index <= parts:
            raise ValueError
    except ValueError:
        raise ValueError(f"--part must be such as 1/2, the first of two; got {text!r}.") from None
    return index - 1, parts


def say(text: str) -> None:
    print(text, flush=True)


def run(args: AblationScriptArguments) -> int:
    ablation = read_ablation(args.recipe)
    index, parts = part_of(args.part)
    runs = [(variant, seed) for seed in ablation.seeds for variant in ablation.variants]
    read_results(ablation, args.output)  # before hours of work: are they of this recipe?
    if not args.report_only:
        start = prepare(ablation, args.output, progress=say)
        seconds: list[float] = []
        mine = runs[index::parts]
        left = [(v, s) for v, s in mine if not result_file(args.output, v, s).is_file()]
        say(f"{len(mine)} runs, {len(mine) - len(left)} of them finished before.")
        for number, (variant, seed) in enumerate(left, 1):
            started = time.perf_counter()
            try:
                result = run_variant(ablation, variant, seed, start, args.output, keep_model=args.keep_models)
            except InterruptedError:
                raise
            except Exception as error:  # the other runs need not wait for somebody to mend this one
                logger.error(f"[{number}/{len(left)}] {variant}, seed {seed}: {error}", exc_info=True)
                continue
            seconds.append(time.perf_counter() - started)
            rest = statistics.mean(seconds) * (len(left) - number) / 60
            accuracy = f"{mean_accuracy(result):.1%} in {seconds[-1]:.0f} s, {rest:.0f} min left"
            say(f"[{number}/{len(left)}] {variant}, seed {seed}: {accuracy}")
    results = read_results(ablation, args.output)
    if len(results) == len(runs):
        measure_costs(ablation, args.output, progress=say)
    if results:
        for file in write_report(ablation, args.output):
            say(f"Written: {file}")
    return 0 if len(results) == len(runs) else 1

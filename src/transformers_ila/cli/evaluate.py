"""Measure a model on labelled videos: a short table, and a report with all that a model card needs.

Videos are a folder with one sub-folder per class, named as the model's labels, shards, or those of an annotation list.
Beside the report `evaluation.json` stand `evaluation.md`, tables (`evaluation_classes.csv`, `evaluation_videos.csv`)
and the confusions (`evaluation_confusion.csv`, `evaluation_confusion.png`). Several processes share the videos:
`torchrun --nproc_per_node 2 -m transformers_ila evaluate ...`. Exit code: 0 all videos were read, 1 some could not be
(the report says why; of several processes only the first says so), 2 bad arguments, nothing to evaluate, or a model
that gives no finite logits.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from ..data.annotations import FORMATS, Annotations, detect_format, read_annotations, takes_several_labels
from ..distributed import Rank, all_gather, all_succeed, process_group
from ..evaluation.evaluator import check_samples, evaluate, joined_with
from ..evaluation.inference import classifier_config, load_trained, require_checkpoint
from ..evaluation.options import EvaluationOptions
from ..evaluation.report import Evaluation
from ..evaluation.report_files import check_output, precision_of, scores_of, seconds_of, write
from ..model.class_names_ila import explicit_class_names
from ..model.validation_ila import MULTI_LABEL


logger = logging.get_logger(__name__)

EXAMPLES = (
    "ila evaluate --model my-ila --videos path/to/videos --output new/folder/report.json",
    "ila evaluate --model my-ila --videos path/to/videos --list val.csv --protocol 4x3 --dtype auto",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Hold what is evaluated, and where the report goes."""

    _argument_group_name = "model, videos and report"

    model: str = field(metadata={"help": "folder or Hub id of a model saved with its processor"})
    videos: str = field(
        metadata={"help": "folder with one sub-folder per class, or shards; with a list what its paths start from"}
    )
    list: str | None = field(default=None, metadata={"help": "annotation list, such as lines `path index`"})
    format: str | None = field(
        default=None, metadata={"help": "of the list or folder; found out by default", "choices": tuple(FORMATS)}
    )
    read_split: str | None = field(
        default=None, metadata={"help": "the split to read, where the list or folder holds several"}
    )
    output: str = field(default="evaluation.json", metadata={"help": "report to write, .json; its folder is made"})

    def __post_init__(self) -> None:
        require_checkpoint(self.model)
        check_output(self.output, list_file=self.list)


def run(args: EvaluateArguments, options: EvaluationOptions) -> int:
    """Evaluate the model, write the report and print its table; return 1 if a video could not be read, else 0."""
    with process_group() as rank:
        samples = all_succeed(partial(read_samples, args))  # which needs no weights
        model, processor = all_succeed(partial(load_trained, args.model))
        options = replace(options, device=options.device or rank.device(), split=options.split or args.read_split)
        share = len(range(rank.rank, len(samples.samples), rank.world_size))
        with tqdm(total=share, unit="video", disable=rank.rank > 0) as bar:
            evaluation = evaluate(model, processor, samples, options, progress=bar.update)
        all_gather(partial(show, evaluation, args.output, rank))
    # a launcher ends the other processes when one of them says 1, so only that which writes does
    return 1 if evaluation.predictions.unreadable and rank.rank == 0 else 0


def read_samples(args: EvaluateArguments) -> Annotations:
    """Read the labelled videos; of the model only its configuration is needed.

    Raises:
        ValueError: what cannot be evaluated.
        OSError: no such model or list.
    """
    config = classifier_config(args.model)
    names = explicit_class_names(config)
    source, root = (args.videos, None) if args.list is None else (args.list, args.videos)
    several = config.problem_type == MULTI_LABEL
    format = args.format or detect_format(source, root, multi_label=several)
    samples = read_annotations(
        source,
        root=root,
        format=format,
        labels=names,
        split=args.read_split,
        multi_label=several and takes_several_labels(format),
    )
    if names is not None and samples.has_numbers:
        logger.warning(
            f"Labels of {source!r} are numbers: they are taken as indices of the model's {len(names)} classes, of "
            f"which {samples.first_index} is {names[0]!r}."
        )
    joined = joined_with(samples, config)
    assert isinstance(joined, Annotations)
    check_samples(joined.samples, config)
    return joined


def show(evaluation: Evaluation, output: str, rank: Rank) -> None:
    """Write the files of an evaluation and print its table, in the first process."""
    if rank.rank == 0:
        files = write(evaluation, output)
        print(f"{table(evaluation.report())}\nReport: {', '.join(map(str, files))}")


def table(report: dict[str, Any]) -> str:
    """Return the table that is printed."""
    counts, protocol, reliance = report["counts"], report["protocol"], report["temporal_reliance"]
    rows = scores_of(report["metrics"])
    for order, metrics in reliance["orders"].items() if reliance else ():
        rows += [(f"{title}, {order.replace('_', ' ')}", value) for title, value in scores_of(metrics)[:1]]
    rows.append(("videos", f"{counts['evaluated']} of {counts['listed']}, {counts['unreadable']} unreadable"))
    rows.append(("seconds per video", seconds_of(report)))
    rows.append(("waiting for videos", f"{report['waiting_share']:.0%} of the time"))
    rows.append(("computed in", precision_of(report)))
    rows.append(("views", f"{protocol['name']} (clips x crops) of {protocol['frames_per_clip']} frames"))
    lines = [f"{title:20} {value}" for title, value in rows]
    return "\n".join(lines + ([protocol["note"]] if protocol["note"] else []))

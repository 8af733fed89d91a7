"""Measure a model on labelled videos: a short table, and a report with all that a model card needs.

Videos are a folder with one sub-folder per class, named as the model's labels, shards, or those of an annotation list.
Beside the report `evaluation.json` stand `evaluation.md`, tables (`evaluation_classes.csv`, `evaluation_videos.csv`)
and the confusions (`evaluation_confusion.csv`, `evaluation_confusion.png`). Several processes share the videos:
`torchrun --nproc_per_node 2 -m transformers_ila evaluate ...`.

A CLIP or SigLIP is evaluated zero-shot: its classes are the words of --labels, else the names that the videos' classes
have. An ILA model with a text head takes --labels too, and keeps its own tower.

Exit code: 0 all videos were read, 1 some could not be (the report says why; of several processes only the first says
so), 2 bad arguments, nothing to evaluate, or a model that gives no finite logits.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from ..data.annotations import FORMATS, Annotations, detect_format, read_annotations, takes_several_labels
from ..distributed import Rank, all_gather, all_succeed, process_group
from ..evaluation.evaluator import check_listed, check_samples, evaluate, joined_with
from ..evaluation.inference import classifier_config, require_checkpoint
from ..evaluation.options import EvaluationOptions
from ..evaluation.report import Evaluation
from ..evaluation.report_files import check_output, precision_of, scores_of, seconds_of, words_of, write
from ..model.class_names_ila import explicit_class_names
from ..model.validation_ila import MULTI_LABEL
from .shared.words import WordsArguments, gives_sigmoids, is_plain, open_model, word_source


logger = logging.get_logger(__name__)

EXAMPLES = (
    "ila evaluate --model my-ila --videos path/to/videos --output new/folder/report.json",
    "ila evaluate --model my-ila --videos path/to/videos --list val.csv --protocol 4x3 --dtype auto",
    'ila evaluate --model path/to/clip --videos path/to/videos --template "a video of {}."',
)


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(WordsArguments):
    """Hold what is evaluated, and where the report goes."""

    _argument_group_name = "model, videos and report"

    model: str = field(
        metadata={"help": "folder or Hub id of a model saved with its processor, or of a CLIP, SigLIP or SigLIP 2"}
    )
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
    label_field: str | None = field(
        default=None, metadata={"help": "which labels to read, where a labelling tool's export has several"}
    )
    output: str = field(default="evaluation.json", metadata={"help": "report to write, .json; its folder is made"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_checkpoint(self.model)
        check_output(self.output, list_file=self.list)


def run(args: EvaluateArguments, options: EvaluationOptions) -> int:
    """Evaluate the model, write the report and print its table; return 1 if a video could not be read, else 0."""
    with process_group() as rank:
        samples = all_succeed(partial(read_samples, args))  # which needs no weights
        names = samples.class_names if has_classes_of_words(args) else None
        model, processor, zero_shot = all_succeed(partial(open_model, args.model, names, args.templates))
        options = replace(options, device=options.device or rank.device(), split=options.split or args.read_split)
        options = replace(options, zero_shot=zero_shot if options.zero_shot is None else options.zero_shot)
        share = len(range(rank.rank, len(samples.samples), rank.world_size))
        with tqdm(total=share, unit="video", disable=rank.rank > 0) as bar:
            evaluation = evaluate(model, processor, samples, options, progress=bar.update)
        all_gather(partial(show, evaluation, args.output, rank))
    # a launcher ends the other processes when one of them says 1, so only that which writes does
    return 1 if evaluation.predictions.unreadable and rank.rank == 0 else 0


def has_classes_of_words(args: EvaluateArguments) -> bool:
    """Return whether the classes are words or the data set's names, and not those that the model was trained on."""
    return args.labels is not None or is_plain(args.model)


def read_samples(args: EvaluateArguments) -> Annotations:
    """Read the labelled videos; of the model only its configuration is needed.

    Raises:
        ValueError: what cannot be evaluated.
        OSError: no such model or list.
    """
    if has_classes_of_words(args):
        return _read_with_words(args)
    config = classifier_config(args.model)
    names = explicit_class_names(config)
    samples = _read(args, labels=names, several=config.problem_type == MULTI_LABEL)
    if names is not None and samples.has_numbers:
        logger.warning(
            f"Labels of {samples.source!r} are numbers: they are taken as indices of the model's {len(names)} "
            f"classes, of which {samples.first_index} is {names[0]!r}."
        )
    joined = joined_with(samples, config)
    assert isinstance(joined, Annotations)
    check_samples(joined.samples, config)
    return joined


def _read_with_words(args: EvaluateArguments) -> Annotations:
    """Read videos whose classes are words, or what the data set calls them.

    Raises:
        ValueError: classes with numbers for names, or several labels of a video where scores are a softmax.
    """
    sigmoids = gives_sigmoids(args.model)
    samples = _read(args, labels=None if args.labels is None else word_source(args.labels), several=sigmoids)
    if samples.class_names is None:
        raise ValueError(
            f"{samples.source!r} gives its classes as numbers, which are no words: say by --labels what they are "
            "called, in their order (a file with one name a line or with `id,name`, kinetics400, ssv2, or words with "
            "commas between them)."
        )
    if args.labels is None and all(name.isdecimal() for name in samples.class_names):
        logger.warning(
            f"The classes of {samples.source!r} are called {', '.join(samples.class_names[:3])}, and read as these "
            "words: a list `path index` with --labels says what they are."
        )
    check_listed(samples.samples, several=sigmoids)
    return samples


def _read(args: EvaluateArguments, *, labels: Any, several: bool) -> Annotations:
    source, root = (args.videos, None) if args.list is None else (args.list, args.videos)
    format = args.format or detect_format(source, root, multi_label=several)
    return read_annotations(
        source,
        root=root,
        format=format,
        labels=labels,
        split=args.read_split,
        multi_label=several and takes_several_labels(format),
        label_field=args.label_field,
    )


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
    rows += words_of(report)
    rows.append(("views", f"{protocol['name']} (clips x crops) of {protocol['frames_per_clip']} frames"))
    lines = [f"{title:20} {value}" for title, value in rows]
    return "\n".join(lines + ([protocol["note"]] if protocol["note"] else []))

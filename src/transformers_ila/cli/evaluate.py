"""Evaluate a model on labelled videos: a short table, and a report with all that a model card needs.

Videos are a folder with one sub-folder per class, named as the model's labels, shards, or those of an annotation list.
Beside the report `evaluation.json` stand `evaluation.md`, tables (`evaluation_classes.csv`, `evaluation_videos.csv`)
and the confusions (`evaluation_confusion.csv`, `evaluation_confusion.png`). Several processes share the videos:
`torchrun --nproc_per_node 2 scripts/evaluate.py ...`. Exit code: 0 all videos were read, 1 some could not be (the
report says why; of several processes only the first says so), 2 bad arguments, nothing to evaluate, or a model that
gives no finite logits.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.annotations import FORMATS, Annotations, read_annotations
from ..distributed import all_gather, process_group
from ..evaluation.evaluator import PROTOCOLS, Predictions, build_report, predict
from ..evaluation.inference import MULTI_LABEL, class_names_of, load_trained
from ..evaluation.report_files import files_of, scores_of, seconds_of, write_files
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor


EXAMPLES = (
    "ila evaluate --model my-ila --videos path/to/videos",
    "ila evaluate --model my-ila --videos path/to/videos --list val.csv --protocol 4x3",
)


@dataclass
class EvaluationArguments:
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
    protocol: str = field(default="1x1", metadata={"help": "clips x crops", "choices": tuple(PROTOCOLS)})
    batch_size: int = field(default=8, metadata={"help": "videos that go through the model together"})
    workers: int | None = field(
        default=None,
        metadata={
            "help": "processes that read videos beside each one that computes; default: beside a GPU the cores it "
            "leaves, else 0"
        },
    )
    output: str = field(default="evaluation.json", metadata={"help": "report to write, .json"})
    data_set: str | None = field(default=None, metadata={"help": "name for the report"})
    split: str | None = field(default=None, metadata={"help": "name for the report; default: --read_split"})
    random_frames: bool = field(
        default=False, metadata={"help": "draw the frames at random from --seed, as the release does"}
    )
    seed: int = field(default=0, metadata={"help": "of random frames and of shuffled ones"})
    temporal_reliance: bool = field(
        default=False, metadata={"help": "also with shuffled and reversed frames, and with a single one repeated"}
    )
    batch_statistics: bool = field(
        default=False, metadata={"help": "repeat a fault of the official release's validation; see `evaluate`"}
    )


def check_arguments(args: EvaluationArguments) -> None:
    """What could only fail after the evaluation otherwise."""
    output = Path(args.output)
    if output.is_dir() or not output.parent.is_dir():
        raise ValueError(f"--output must name a file in a folder that exists, got {args.output!r}.")
    for file in files_of(output).values():
        if args.list is not None and file.resolve() == Path(args.list).resolve():
            raise ValueError(f"--output {args.output!r} would overwrite the list.")
        if file.is_dir():
            raise ValueError(f"--output {args.output!r} needs a file {file.name!r}, and there is a folder.")


def read_samples(args: EvaluationArguments, model: IlaForVideoClassification) -> Annotations:
    return read_annotations(
        args.videos if args.list is None else args.list,
        root=None if args.list is None else args.videos,
        format=args.format,
        labels=class_names_of(model),
        split=args.read_split,
        multi_label=None if model.config.problem_type == MULTI_LABEL else False,
    )


def table(report: dict[str, Any]) -> str:
    counts, protocol, reliance = report["counts"], report["protocol"], report["temporal_reliance"]
    rows = scores_of(report["metrics"])
    for order, metrics in reliance["orders"].items() if reliance else ():
        rows += [(f"{title}, {order.replace('_', ' ')}", value) for title, value in scores_of(metrics)[:1]]
    rows.append(("videos", f"{counts['evaluated']} of {counts['listed']}, {counts['unreadable']} unreadable"))
    rows.append(("seconds per video", seconds_of(report)))
    rows.append(("waiting for videos", f"{report['waiting_share']:.0%} of the time"))
    rows.append(("views", f"{protocol['name']} (clips x crops) of {protocol['frames_per_clip']} frames"))
    lines = [f"{title:20} {value}" for title, value in rows]
    return "\n".join(lines + ([protocol["note"]] if protocol["note"] else []))


def run(args: EvaluationArguments) -> int:
    check_arguments(args)
    model, processor = load_trained(args.model)
    samples = read_samples(args, model)
    with process_group() as place:
        share = len(range(place.rank, len(samples.samples), place.world_size))
        with tqdm(total=share, unit="video", disable=place.rank > 0) as bar:
            predictions = predict(
                model,
                processor,
                samples,
                protocol=args.protocol,
                batch_size=args.batch_size,
                device=place.device(),
                batch_statistics=args.batch_statistics,
                num_workers=place.usual_workers() if args.workers is None else args.workers,
                random_frames=args.random_frames,
                seed=args.seed,
                temporal_reliance=args.temporal_reliance,
                progress=bar.update,
            )
        all_gather(lambda: write(args, predictions, model, processor, samples) if place.rank == 0 else None)
    # a launcher ends the other processes when one of them says 1, so only that which writes does
    return 1 if predictions.unreadable and place.rank == 0 else 0


def write(
    args: EvaluationArguments,
    predictions: Predictions,
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: Annotations,
) -> None:
    split = args.split or args.read_split
    report = build_report(predictions, model, processor, samples, data_set=args.data_set, split=split)
    files = write_files(report, args.output, predictions=predictions, model=model, samples=samples)
    print(f"{table(report)}\nReport: {', '.join(map(str, files))}")

"""Evaluate a model on labelled videos: a short table, and a report with all that a model card needs.

Videos are a folder with one sub-folder per class, named as the model's labels, or those of an annotation list with
lines `path index`. Exit code: 0 all videos were read, 1 some could not be (the report says why), 2 bad arguments,
nothing to evaluate, or a model that gives no finite logits.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import HfArgumentParser

from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.evaluation import PROTOCOLS, evaluate, samples_of_folder, samples_of_list, write_report


@dataclass
class EvaluationArguments:
    model: str = field(metadata={"help": "folder or Hub id of a model saved with its processor"})
    videos: str = field(
        metadata={"help": "folder with one sub-folder per class; with a list what its paths start from"}
    )
    list: str | None = field(default=None, metadata={"help": "annotation list, lines `path index`"})
    protocol: str = field(default="1x1", metadata={"help": "clips x crops", "choices": tuple(PROTOCOLS)})
    batch_size: int = field(default=8, metadata={"help": "videos that go through the model together"})
    workers: int = field(default=0, metadata={"help": "processes that read videos beside this one"})
    output: str = field(default="evaluation.json", metadata={"help": "report to write"})
    data_set: str | None = field(default=None, metadata={"help": "name for the report"})
    split: str | None = field(default=None, metadata={"help": "name for the report"})
    batch_statistics: bool = field(
        default=False, metadata={"help": "repeat a fault of the official release's validation; see `evaluate`"}
    )


def check_arguments(args: EvaluationArguments) -> None:
    """What could only fail after the evaluation otherwise."""
    output = Path(args.output)
    if output.is_dir() or not output.parent.is_dir():
        raise ValueError(f"--output must name a file in a folder that exists, got {args.output!r}.")
    if args.list is not None and output.resolve() == Path(args.list).resolve():
        raise ValueError(f"--output {args.output!r} would overwrite the list.")


def table(report: dict[str, Any]) -> str:
    counts, metrics, protocol = report["counts"], report["metrics"], report["protocol"]
    names = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class accuracy"}
    rows = [(title, "none" if metrics[name] is None else f"{metrics[name]:.2%}") for name, title in names.items()]
    rows.append(("videos", f"{counts['evaluated']} of {counts['listed']}, {counts['unreadable']} unreadable"))
    rows.append(("seconds per video", f"{report['seconds_per_video']:.3f}"))
    rows.append(("views", f"{protocol['name']} (clips x crops) of {protocol['frames_per_clip']} frames"))
    lines = [f"{title:20} {value}" for title, value in rows]
    return "\n".join(lines + ([protocol["note"]] if protocol["note"] else []))


def run(args: EvaluationArguments) -> int:
    check_arguments(args)
    model, info = IlaForVideoClassification.from_pretrained(args.model, output_loading_info=True)
    if info["missing_keys"]:
        raise ValueError(f"{args.model!r} is no trained ILA model: {len(info['missing_keys'])} weights are missing.")
    processor = IlaVideoProcessor.from_pretrained(args.model)
    if args.list is None:
        samples = samples_of_folder(args.videos, model.config.label2id)
    else:
        samples = samples_of_list(args.list, root=args.videos)
    with tqdm(total=len(samples), unit="video") as bar:
        report = evaluate(
            model,
            processor,
            samples,
            protocol=args.protocol,
            batch_size=args.batch_size,
            device="cuda" if torch.cuda.is_available() else "cpu",
            batch_statistics=args.batch_statistics,
            num_workers=args.workers,
            data_set=args.data_set,
            split=args.split,
            list_file=args.list,
            progress=bar.update,
        )
    write_report(report, args.output)
    print(f"{table(report)}\nReport: {args.output}")
    return 1 if report["unreadable"] else 0


def main(arguments: list[str] | None = None) -> int:
    args, unknown = HfArgumentParser(EvaluationArguments, description=__doc__).parse_args_into_dataclasses(
        arguments, return_remaining_strings=True, look_for_args_file=False
    )
    try:
        if unknown:
            raise ValueError(f"unknown arguments: {' '.join(unknown)}.")
        return run(args)
    except (ValueError, OSError, SafetensorError) as error:
        print(f"evaluate.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

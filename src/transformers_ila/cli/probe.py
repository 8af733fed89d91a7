"""Measure what a model's frozen features are worth on other classes: nearest neighbours and a linear layer on them.

Both lists, or folders with one sub-folder per class, may have any classes; nothing is chosen on the held-out one.
Features are computed once and kept in --cache. Exit code: 0 all videos were read, 1 some could not be (the report says
why), 2 bad arguments or nothing to probe.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.annotations import FORMATS, Annotations, read_annotations, takes_root
from ..data.samples import refuse_common_videos
from ..distributed import rank_from_environment
from ..evaluation.inference import load_encoder, require_checkpoint
from ..evaluation.options import ProbeOptions
from ..evaluation.probing import Features, extract_features, probe, probe_report
from ..evaluation.report_files import check_folder_can_be_made, scores_of, write_report


EXAMPLES = (
    "ila probe --model my-ila --train train.csv --test test.csv --videos path/to/videos",
    "ila probe --model my-ila --train videos/train --test videos/test --probes knn",
    "ila probe --model facebook/dinov2-small --train train.csv --test test.csv --videos path/to/videos",
)


@dataclass(frozen=True, kw_only=True)
class ProbeArguments(ProbeOptions):
    """Hold what is probed on which videos, and where the report goes."""

    _argument_group_name = "model, videos and report"

    model: str = field(
        metadata={"help": "folder or Hub id of a trained model, or of a CLIP, ViT or DINOv2; the head is not used"}
    )
    train: str = field(metadata={"help": "list, or folder with one sub-folder per class, that the probes learn from"})
    test: str = field(metadata={"help": "list or folder that is held out"})
    videos: str | None = field(
        default=None, metadata={"help": "folder that paths in the lists start from; default: the list's folder"}
    )
    labels: str | None = field(
        default=None, metadata={"help": "file with the class names, or the name of a data set; for lists of names"}
    )
    format: str | None = field(
        default=None, metadata={"help": "of lists or folders; found out by default", "choices": tuple(FORMATS)}
    )
    label_field: str | None = field(
        default=None, metadata={"help": "which labels to read, where a labelling tool's export has several"}
    )
    cache: str = field(  # type: ignore[assignment]
        default="probe_features", metadata={"help": "folder for features, made if it is missing"}
    )
    output: str = field(default="probe.json", metadata={"help": "report to write; its folder is made"})
    data_set: str | None = field(default=None, metadata={"help": "name of the data set for the report"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_checkpoint(self.model)
        if Path(self.output).is_dir():
            raise ValueError(f"--output must name a file, and {self.output!r} is a folder.")
        check_folder_can_be_made(Path(self.output).parent)
        check_folder_can_be_made(Path(self.cache))
        if rank_from_environment().world_size > 1:
            raise ValueError("A probe is computed by one process; --workers reads videos beside it.")


def read_both(args: ProbeArguments) -> tuple[Annotations, Annotations]:
    """Read both lists with the same classes.

    Raises:
        ValueError: a fault in one of them, or a video in both.
    """
    common: dict[str, Any] = {"format": args.format, "labels": args.labels, "label_field": args.label_field}
    train = _read(args.train, args, common)
    common["labels"] = train.labels()
    test = _read(args.test, args, common)
    if train.class_names is None and train.first_index != test.first_index:
        raise ValueError(
            f"The classes of {args.train!r} count from {train.first_index} and those of {args.test!r} from "
            f"{test.first_index}: say by --labels which they are."
        )
    refuse_common_videos(train, test)
    return train, test


def _read(source: str, args: ProbeArguments, common: dict[str, Any]) -> Annotations:
    root = args.videos if takes_root(source) else None
    return read_annotations(source, root=root, multi_label=False, **common)


def table(report: dict[str, Any]) -> str:
    """Return the table that is printed."""
    lines = []
    for kind, result in report["probes"].items():
        choice = f"k {result['k']}" if kind == "knn" else f"weight decay {result['weight_decay']:g}"
        lines += [f"{kind + ' ' + title:28} {value}" for title, value in scores_of(result["metrics"])]
        lines.append(f"{kind + ' chosen':28} {choice}, by {result['chosen_by']}")
    for part in ("training", "held_out"):
        count = report[part]
        lines.append(f"{part.replace('_', '-') + ' videos':28} {count['used']} of {count['listed']}")
    return "\n".join(lines)


def run(args: ProbeArguments) -> int:
    """Fit probes on one list, test them on the other, and write the report; return 1 if a video could not be read."""
    train, test = read_both(args)
    model, processor = load_encoder(args.model)
    args = replace(args, device=args.device or rank_from_environment().device())
    found: list[Features] = []
    for annotations in (train, test):
        with tqdm(total=len(annotations.samples), unit="video") as bar:
            found.append(extract_features(model, processor, annotations, args, progress=bar.update))
    highest = max(sample.labels[0] for samples in (train, test) for sample in samples.samples)
    classes = highest + 1 if train.class_names is None else len(train.class_names)
    results = probe(found[0], found[1], args, classes=classes)
    pairs = {"training": (train, found[0]), "held_out": (test, found[1])}
    report = probe_report(results, model, processor, args, **pairs, classes=classes, data_set=args.data_set)
    write_report(report, args.output)
    print(f"{table(report)}\nReport: {args.output}")
    return 1 if found[0].unreadable or found[1].unreadable else 0

"""Measure retrieval: how often the videos of a text are found among all videos, and the texts of a video among all.

Videos and texts are a table or JSON lines of paths and captions (`path,caption`; several rows a video), or what `ila
evaluate` takes: a folder with one sub-folder per class, shards, or an annotation list, where the text is the name of
the class. Recall@1, @5, @10, median and mean rank are printed both ways and written to the report, beside what chance
gives. Several processes share the videos: `torchrun --nproc_per_node 2 -m transformers_ila evaluate-retrieval ...`.
Exit code: 0 all videos were read, 1 some could not be (the report says why; of several processes only the first says
so), 2 bad arguments, nothing to evaluate, or a model without a text tower.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.annotations import FORMATS, Annotations, detect_format, read_annotations, takes_several_labels
from ..data.captions import CAPTIONS, is_caption_list, read_captions
from ..distributed import Rank, all_gather, all_succeed, process_group
from ..evaluation.inference import load_for_words, require_checkpoint
from ..evaluation.options import RetrievalOptions
from ..evaluation.report_files import check_folder_can_be_made, precision_of, write_report
from ..search.retrieval import RECALLS, evaluate_retrieval
from .shared.words import WordsArguments, word_source


EXAMPLES = (
    "ila evaluate-retrieval --model path/to/clip --videos path/to/videos --list captions.csv",
    "ila evaluate-retrieval --model my-ila --videos path/to/videos --output new/folder/retrieval.json",
)
BARE = "{}"  # the template of captions, which are sentences already
DIRECTIONS = {"text_to_video": "text to video", "video_to_text": "video to text"}


@dataclass(frozen=True, kw_only=True)
class RetrievalArguments(WordsArguments):
    """Hold what is evaluated, and where the report goes."""

    _argument_group_name = "model, videos, texts and report"

    model: str = field(
        metadata={"help": "folder or Hub id of a CLIP, SigLIP or SigLIP 2, or of an ILA model with a text head"}
    )
    videos: str = field(
        metadata={"help": "folder with one sub-folder per class, or shards; with a list what its paths start from"}
    )
    list: str | None = field(
        default=None, metadata={"help": "table or JSON lines of paths and captions, or an annotation list"}
    )
    format: str | None = field(
        default=None,
        metadata={"help": "of the list or folder; found out by default", "choices": (CAPTIONS, *FORMATS)},
    )
    read_split: str | None = field(
        default=None, metadata={"help": "the split to read, where the list or folder holds several"}
    )
    output: str = field(default="retrieval.json", metadata={"help": "report to write, .json; its folder is made"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require_checkpoint(self.model)
        file = Path(self.output)
        if file.suffix.lower() != ".json" or file.is_dir():
            raise ValueError(f"--output must name a file that ends in .json, got {self.output!r}.")
        if self.list is not None and file.resolve() == Path(self.list).resolve():
            raise ValueError(f"--output {self.output!r} would overwrite the list.")
        check_folder_can_be_made(file.parent)


def run(args: RetrievalArguments, options: RetrievalOptions) -> int:
    """Evaluate the model, write the report and print its table; return 1 if a video could not be read, else 0."""
    with process_group() as rank:
        samples = all_succeed(partial(read_samples, args))  # which needs no weights
        model, processor = all_succeed(partial(load_for_words, args.model))
        options = replace(options, device=options.device or rank.device(), split=options.split or args.read_split)
        share = len(range(rank.rank, len(samples.samples), rank.world_size))
        templates = args.templates
        if templates is None and samples.format == CAPTIONS:
            templates = BARE
        with tqdm(total=share, unit="video", disable=rank.rank > 0) as bar:
            found = evaluate_retrieval(model, processor, samples, options, templates=templates, progress=bar.update)
        all_gather(partial(show, found.report, args.output, rank))
    return 1 if found.report["unreadable"] and rank.rank == 0 else 0


def read_samples(args: RetrievalArguments) -> Annotations:
    """Read the videos and their texts.

    Raises:
        ValueError: a fault in the list, or --labels or --read_split beside captions, which have neither.
        OSError: it cannot be read.
    """
    source, root = (args.videos, None) if args.list is None else (args.list, args.videos)
    if args.format == CAPTIONS or (args.format is None and is_caption_list(source)):
        given = {"--labels": args.labels, "--read_split": args.read_split}
        if excess := [name for name, value in given.items() if value is not None]:
            raise ValueError(f"{' and '.join(excess)} would have no effect: {source!r} has texts of its own.")
        return read_captions(source, root=root)
    labels = None if args.labels is None else word_source(args.labels)
    format = args.format or detect_format(source, root)
    several = True if takes_several_labels(format) else None
    samples = read_annotations(
        source, root=root, format=format, labels=labels, split=args.read_split, multi_label=several
    )
    if samples.class_names is None:
        raise ValueError(
            f"{source!r} gives its classes as numbers, which are no texts: say by --labels what they are called, or "
            "give a table with the columns `path,caption`."
        )
    return samples


def show(report: dict[str, Any], output: str, rank: Rank) -> None:
    """Write the report and print its table, in the first process."""
    if rank.rank == 0:
        write_report(report, output)
        print(f"{table(report)}\nReport: {output}")


def table(report: dict[str, Any]) -> str:
    """Return the table that is printed: a row for each way, and what chance gives below it."""
    heads = ["", *(f"R@{k}" for k in RECALLS), "median", "mean", "queries", "among"]
    rows = [heads]
    for way, title in DIRECTIONS.items():
        found = report[way]
        ranks = ("none" if found[name] is None else f"{found[name]:.1f}" for name in ("median_rank", "mean_rank"))
        rows.append([title, *map(_percent, _recalls(found)), *ranks, str(found["queries"]), str(found["gallery"])])
        rows.append(["  by chance", *map(_percent, _recalls(found["chance"])), "", "", "", ""])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]
    counts, texts = report["counts"], report["texts"]
    templates = "; ".join(texts["templates"] or ["as they are"])
    facts = [
        ("videos", f"{counts['evaluated']} of {counts['listed']}, {counts['unreadable']} unreadable"),
        ("texts", f"{counts['texts_evaluated']}, read as: {templates}"),
        ("scores", f"{texts['scores']}; {texts['ties']}"),
        ("computed in", precision_of(report)),
    ]
    return "\n".join([*lines, *(f"{title:20} {value}" for title, value in facts)])


def _recalls(found: dict[str, Any]) -> list[float | None]:
    return [found[f"recall_at_{k}"] for k in RECALLS]


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"

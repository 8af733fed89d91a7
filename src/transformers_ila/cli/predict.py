"""Label videos: files, folders with videos at any depth, patterns such as `clips/*.mp4`, or lists.

With --labels the model's text tower reads words of your own, without training: of a CLIP, SigLIP or SigLIP 2, or of an
ILA model with a text head, which keeps its own tower. Else the labels are those that the model was trained on.

Without --output the best labels of each video are printed. With it they are written to a folder of results, as JSON
lines or Parquet, for any number of videos: the same command goes on after a kill, what is done is skipped, and nothing
is done twice. With --format fiftyone or label-studio the folder also has what these tools open (docs/labelling.md).
With --engine ray actors of a Ray cluster share the work, and videos may lie at addresses (`s3://...`),
in Parquet manifests and in WebDataset shards, too: see docs/scale.md. Else processes or machines share the videos by
RANK and WORLD_SIZE (`torchrun --nproc_per_node 2 -m transformers_ila predict ...`), or as Slurm's `srun` numbers them,
and each writes a part of its own. Exit code: 0 all videos of the run were read, 1 some could not be (their rows say
why; of several processes none says so, as a launcher would end the others), 2 bad arguments or nothing to label, 130
interrupted.
"""

import os
import shlex
import sys
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.lists import iter_videos
from ..distributed import Rank, rank_from_environment
from ..evaluation.formats import TOOLS
from ..evaluation.options import LabelOptions
from ..evaluation.prediction import Summary, check_for_tool, count_share, iter_labels, label_videos, own_share
from ..evaluation.prediction_files import check_output
from ..evaluation.report_files import check_folder_can_be_made
from ..markup import plain_line
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from ..stores.addresses import is_address
from .shared.signals import interrupted_by_sigterm
from .shared.videos import VideoArguments
from .shared.words import ModelArguments, open_model, read_words, require_words


EXAMPLES = (
    "ila predict --model my-ila video.mp4 clips/*.mp4",
    'ila predict --model path/to/clip --labels "juggling, waving" video.mp4',
    "ila predict --model my-ila path/to/videos --output labels --format parquet",
    "ila predict --model my-ila path/to/videos --output labels --format fiftyone",
)
POSITIONAL = "videos"


@dataclass(frozen=True, kw_only=True)
class PredictArguments(ModelArguments, VideoArguments, LabelOptions):
    """Hold what is labelled, and where the results go."""

    _argument_group_name = "results"

    output: str | None = field(
        default=None,
        metadata={
            "help": "folder for the results, made if it is missing, or for Parquet an address (s3://bucket/labels); "
            "default: they are printed"
        },
    )

    def __post_init__(self) -> None:
        ModelArguments.__post_init__(self)  # first: of `--labels a, b` without quotes `b` would be taken for a video
        VideoArguments.__post_init__(self)
        LabelOptions.__post_init__(self)
        self.check_videos(self, "label")
        if self.format in TOOLS and self.engine == "ray":
            raise ValueError(
                f"--format {self.format} is written by one process: leave out --engine ray, or label with it in the "
                "format jsonl first."
            )
        if self.format in TOOLS and self.output is not None:
            check_for_tool(self.format, self.output, rank_from_environment())
        if self.output is not None:
            if is_address(self.output):
                check_output(self.output, self.format)
            else:
                check_folder_can_be_made(Path(self.output))
        elif self.retry or self.embeddings or self.format != LabelOptions.format:
            raise ValueError("--retry, --embeddings and --format are for results in a folder: name one by --output.")


def run(args: PredictArguments) -> int:
    """Label the videos, and print or write the results; return 1 if a video could not be read, 130 after Ctrl-C."""
    rank = rank_from_environment()
    require_words(args.model, args.labels)
    names = None if args.labels is None else read_words(args.labels)
    if args.engine == "ray":
        return _on_ray(args, names, rank)
    model, processor, _ = open_model(args.model, names, args.templates)
    args = replace(args, device=args.device or rank.device())
    total = count_share(iter_videos(args.videos, root=args.root), rank)
    videos = iter_videos(args.videos, root=args.root)
    with interrupted_by_sigterm(), tqdm(total=total, unit="video", disable=rank.rank > 0) as bar:
        try:
            if args.output is None:
                summary = Summary()
                own = own_share(videos, rank, summary)
                with closing(iter_labels(model, processor, own, args, rank=rank, summary=summary)) as batches:
                    for rows in batches:
                        tqdm.write("\n".join(map(table, rows)), file=sys.stdout)
                        bar.update(len(rows))
            else:
                summary = label_videos(model, processor, videos, args.output, args, rank=rank, progress=bar.update)
        except KeyboardInterrupt:
            return interrupted(args.output)
    print_summary(summary, args.output, rank)
    if args.format in TOOLS:
        print(opened_by(args.format, str(args.output), summary.in_tool))
    return 1 if summary.unreadable and rank.world_size == 1 else 0


def opened_by(tool: str, folder: str, counts: dict[str, int]) -> str:
    """Return the lines about a labelling tool's files: what they hold, and how the tool opens them."""
    file, beside = os.path.join(folder, TOOLS[tool].file), os.path.join(folder, TOOLS[tool].beside)
    unreadable = counts.get("unreadable", 0)
    fate = "with the tag 'unreadable'" if tool == "fiftyone" else "left out"
    written = counts.get("written", 0)
    videos = "1 video" if written == 1 else f"{written} videos"
    lines = [f"{plain_line(file, None)}: {videos}, and {unreadable} unreadable {fate}."]
    if tool == "fiftyone":
        kind = "fiftyone.types.FiftyOneDataset"
        options = f"--name ila --dataset-dir {shlex.quote(folder)} --type {kind}"
        lines.append(f"Open it: fiftyone datasets create {options}; fiftyone app launch ila")
    else:
        lines.append(f"Open it: paste {plain_line(beside, None)} as the labelling interface, then import the tasks.")
    return "\n".join(lines)


def _on_ray(args: PredictArguments, names: list[str] | None, rank: Rank) -> int:
    from ..scale.pipeline import label_on_ray  # which needs pyarrow

    args.check_alone(rank)
    opened = partial(open_for_labels, args.model, names, args.templates)
    show = None if args.output is not None else lambda rows: tqdm.write("\n".join(map(table, rows)), file=sys.stdout)
    with interrupted_by_sigterm():
        try:
            summary = label_on_ray(opened, args.videos, args.output, args, args, root=args.root, show=show)
        except KeyboardInterrupt:
            return interrupted(args.output)
    print_summary(summary, args.output, rank)
    return 1 if summary.unreadable else 0


def open_for_labels(
    source: str, names: list[str] | None, templates: str | list[str] | None
) -> tuple[Any, IlaVideoProcessor]:
    """Return a model that labels by the names given, or by its own classes where these are None, and its processor."""
    return open_model(source, names, templates)[:2]


def interrupted(output: str | None) -> int:
    """Say that a run was interrupted, and return the exit code."""
    goes_on = "" if output is None else "; the same command goes on from here"
    print(f"Interrupted{goes_on}.", file=sys.stderr)
    return 130


def table(row: dict[str, Any]) -> str:
    """Return the lines that are printed for a video: its name, and a label with its probability in each."""
    video = plain_line(row["video"], None)
    if row["reason"] is not None:
        return f"{video}\n   unreadable: {plain_line(row['reason'], None)}"
    lines = [f"{score:9.2%}  {plain_line(label)}" for label, score in zip(row["labels"], row["scores"])]
    return "\n".join([video, *lines])


def print_summary(summary: Summary, output: str | None, rank: Rank, *, done: str = "labelled") -> None:
    """Print what was done, how long it took, and why some videos could not be read."""
    who = "" if rank.world_size == 1 else f"Process {rank.rank} of {rank.world_size}: "
    line = f"{summary.labelled} videos {done}, {summary.unreadable} unreadable"
    print(who + line + ("." if output is None else f", {summary.before} done before. Results: {redact(output)}"))
    if summary.seconds:
        waited = summary.waited / summary.seconds
        actors = f" ({summary.actors})" if summary.actors else ""
        print(f"{who}{summary.seconds:.1f} s, {waited:.0%} of them waiting for videos to be read{actors}.")
    for name, reason in summary.reasons.items() if output is not None else ():
        print(f"unreadable: {name!r}: {' '.join(reason.split())}")

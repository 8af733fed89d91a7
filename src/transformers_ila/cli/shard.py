"""Write videos and their labels as WebDataset shards (tar files), which a training streams from a disk or a store.

SOURCE is a folder with one sub-folder per class, a list, or whatever else `ila train` trains on; with --unlabelled a
folder with videos at any depth, a pattern or a list without labels. The same command goes on after a kill, and writes
the same bytes. Several processes or machines share the shards by RANK and WORLD_SIZE. Exit code: 0 all is written
(with --check: and as it was), 1 shards have other content or are missing (--check), 2 bad arguments, missing videos or
no place, 130 interrupted.
"""

import os
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.annotations import read_annotations
from ..data.lists import iter_videos
from ..data.samples import Annotations, Sample
from ..data.shard_writing import ShardFolder, ShardOptions, ShardSummary, check_shards, write_shards
from ..distributed import rank_from_environment
from ..model.video_urls_ila import redact
from .main import interrupted_by_sigterm


POSITIONAL = "source"
EXAMPLES = (
    "ila shard path/to/videos --output shards",
    "ila shard train.csv --labels kinetics400 --videos path/to/videos --output s3://bucket/k400 --name train",
    "ila shard --check --output s3://bucket/k400",
)


@dataclass(frozen=True, kw_only=True)
class ShardArguments(ShardOptions):
    """Hold which videos are written, and where to."""

    _argument_group_name = "videos and output"

    output: str = field(metadata={"help": "folder, made if it is missing, or address such as s3://bucket/folder"})
    source: str | None = field(
        default=None, metadata={"help": "folder, list, or other annotations, as --train_list of ila train"}
    )
    videos: str | None = field(
        default=None, metadata={"help": "folder that relative paths in a list start from; default: the list's folder"}
    )
    format: str | None = field(default=None, metadata={"help": "format of the annotations; found out where not given"})
    labels: str | None = field(default=None, metadata={"help": "class names: kinetics400, ssv2, or a file"})
    split: str | None = field(default=None, metadata={"help": "split to write, where the source holds several"})
    label_field: str | None = field(
        default=None, metadata={"help": "which labels to read, where a labelling tool's export has several"}
    )
    multi_label: bool = field(
        default=False, metadata={"help": "read several labels a video, which are an error without it"}
    )
    unlabelled: bool = field(default=False, metadata={"help": "write the videos alone, without any labels"})
    skip_missing: bool = field(
        default=False, metadata={"help": "leave out videos that do not exist, which are an error without it"}
    )
    check: bool = field(
        default=False, metadata={"help": "read what was written again, and compare it with its checksums"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        named = ("format", "labels", "split", "label_field", "multi_label")
        given = {name: getattr(self, name) for name in named}
        if self.check:
            given |= {name: getattr(self, name) for name in ("source", "videos", "unlabelled", "skip_missing")}
            usual = {entry.name: entry.default for entry in fields(ShardOptions)}
            given |= {name: getattr(self, name) != default for name, default in usual.items()}
            reason = "--check reads what was written, and nothing else"
        elif self.source is None:
            raise ValueError("name the videos: ila shard SOURCE --output FOLDER.")
        else:
            reason = "--unlabelled writes no labels"
        if (self.check or self.unlabelled) and (names := [_option(name) for name, value in given.items() if value]):
            raise ValueError(f"{', '.join(names)} has no effect: {reason}.")


def _option(name: str) -> str:
    return "--no_shuffle" if name == "shuffle" else f"--{name}"


def run(args: ShardArguments) -> int:
    """Write or check the shards; return the exit code."""
    rank = rank_from_environment()
    output = ShardFolder(args.output)  # before a long list is read
    if args.source is not None:
        _check_place(args.source, output)
    try:
        with interrupted_by_sigterm():
            if args.check:
                return _check(args)
            videos = _videos(args)
            count = len(videos.samples if isinstance(videos, Annotations) else videos)
            with tqdm(total=-(-count // rank.world_size), unit="video", disable=rank.rank > 0) as bar:
                options = ShardOptions(**{name: getattr(args, name) for name in ShardOptions.__annotations__})
                summary = write_shards(
                    videos, args.output, options, skip_missing=args.skip_missing, rank=rank, progress=bar.update
                )
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    _print(summary, args.output)
    return 0


def _check_place(source: str, output: ShardFolder) -> None:
    """Raise a ValueError where the shards would lie among the videos: the next start would take them for a class."""
    if output.store is None and os.path.isdir(source):
        if Path(output.address).resolve().is_relative_to(Path(source).resolve()):
            raise ValueError(
                f"{redact(output.address)!r} lies in the folder of the videos, {redact(source)!r}: name another "
                "output."
            )


def _videos(args: ShardArguments) -> Annotations | list[Sample]:
    if args.unlabelled:
        listed = list(iter_videos(str(args.source), root=args.videos))
        named = dict(listed)
        if len(named) < len(listed):
            print(f"{len(listed) - len(named)} videos stand there again and are written once.")
        return [Sample(path, (), name) for name, path in named.items()]
    options = {name: getattr(args, name) for name in ("format", "labels", "split", "label_field")}
    options |= {"root": args.videos}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    return read_annotations(args.source, multi_label=args.multi_label or None, **given)


def _check(args: ShardArguments) -> int:
    with tqdm(unit="video") as bar:
        wrong = check_shards(args.output, bar.update)
    for line in wrong:
        print(line)
    result = f"{len(wrong)} shards are not as they were" if wrong else "all is as it was"
    print(f"{redact(args.output)}: {result}.")
    return 1 if wrong else 0


def _print(summary: ShardSummary, output: str) -> None:
    videos = f"{summary.videos} videos ({summary.bytes / 1e6:.1f} MB)"
    print(f"{videos} in {summary.shards} shards, {summary.written} of them written now: {redact(output)}")
    if summary.missing:
        print(f"{len(summary.missing)} videos are missing and left out, such as {redact(summary.missing[0])!r}.")
    if not summary.finished:
        print("Other processes still write theirs; the last one writes the index.")
    if len(summary.suffixes) > 1:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in summary.suffixes.most_common())
        print(f"The videos are of several kinds ({kinds}), for which `datasets` needs `features`.")
    print(f"A stream is divided by shards: at most {summary.shards} loader workers, of all processes together.")

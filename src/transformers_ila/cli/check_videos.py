"""Check a data set: which videos are whole, damaged, too short or unreadable.

An interrupted scan goes on where it stopped when the same command is given again. Exit code: 0 all videos are whole,
1 some are not, 2 bad arguments or nothing to check.
"""

import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ..data.checking import (
    REPORT_SUFFIXES,
    VideoCheck,
    check_videos,
    read_journal,
    usable_cpus,
    write_clean_list,
    write_report,
)
from ..data.video_lists import list_videos
from ..model.video_reading_ila import ReadLimits


POSITIONAL = "source"
EXAMPLES = (
    "ila check-videos path/to/videos",
    "ila check-videos train.csv --clean_list clean.csv --drop_damaged",
)


@dataclass
class CheckArguments:
    source: str = field(default="", metadata={"help": "annotation list, one video a line, or a folder"})
    videos: str | None = field(
        default=None, metadata={"help": "folder that relative paths in a list start from; default the list's folder"}
    )
    report: str = field(default="video_report.csv", metadata={"help": "report to write, .csv or .json"})
    workers: int | None = field(default=None, metadata={"help": "processes; default one per usable CPU"})
    min_frames: int = field(default=8, metadata={"help": "videos with fewer frames are too short"})
    max_seconds: float = field(default=ReadLimits.max_seconds, metadata={"help": "what one video may take"})
    clean_list: str | None = field(
        default=None, metadata={"help": "list to write, without the videos that are unreadable or too short"}
    )
    drop_damaged: bool = field(default=False, metadata={"help": "leave damaged videos out of the clean list too"})
    restart: bool = field(default=False, metadata={"help": "forget the results of an earlier scan"})


def check_arguments(args: CheckArguments) -> None:
    """Everything that could only fail after the scan otherwise."""
    if not args.source:
        raise ValueError("name a folder with videos or an annotation list: ila check-videos SOURCE.")
    if args.min_frames < 1:
        raise ValueError(f"--min_frames must be 1 or more, got {args.min_frames}.")
    if args.workers is not None and args.workers < 1:
        raise ValueError(f"--workers must be 1 or more, got {args.workers}.")
    if not args.max_seconds > 0:
        raise ValueError(f"--max_seconds must be above 0, got {args.max_seconds}.")
    if Path(args.report).suffix.lower() not in REPORT_SUFFIXES:
        raise ValueError(f"--report must end in {' or '.join(REPORT_SUFFIXES)}, got {args.report!r}.")
    if args.drop_damaged and args.clean_list is None:
        raise ValueError("--drop_damaged needs --clean_list.")
    taken = {Path(args.source).resolve(): "the input"}
    journal = str(Path(args.report).with_suffix(".journal"))
    files = {"--report": args.report, "the journal beside --report": journal, "--clean_list": args.clean_list}
    for option, file in files.items():
        if file is None:
            continue
        path = Path(file).resolve()
        if path in taken:
            raise ValueError(f"{option} {file!r} would overwrite {taken[path]}.")
        if path.is_dir() or not path.parent.is_dir():
            raise ValueError(f"{option} must name a file in a folder that exists, got {file!r}.")
        taken[path] = f"the file of {option}"


def scan(paths: list[str], args: CheckArguments) -> list[VideoCheck]:
    """The checks of all videos, in their order; those of an earlier scan that still hold are taken over."""
    journal = Path(args.report).with_suffix(".journal")
    if args.restart:
        journal.unlink(missing_ok=True)
    checks = read_journal(journal, paths, max_seconds=args.max_seconds)
    if checks:
        print(f"{len(checks)} of {len(paths)} results taken over from {str(journal)!r}.", flush=True)
    counts = Counter(check.status(min_frames=args.min_frames) for check in checks.values())
    unchecked = [path for path in paths if path not in checks]
    results = check_videos(
        unchecked, journal=journal, workers=args.workers or usable_cpus(), max_seconds=args.max_seconds
    )
    with tqdm(total=len(paths), initial=len(checks), unit="video") as bar, closing(results):
        for check in results:
            checks[check.path] = check
            counts[check.status(min_frames=args.min_frames)] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()
    return [checks[path] for path in paths]


def run(args: CheckArguments) -> int:
    check_arguments(args)
    listed = list_videos(args.source, root=args.videos)
    paths = list(dict.fromkeys(video.path for video in listed if video.path is not None))
    try:
        checks = scan(paths, args)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    write_report(checks, Path(args.report), min_frames=args.min_frames)
    statuses = {check.path: check.status(min_frames=args.min_frames) for check in checks}
    if args.clean_list is not None:
        drop = {"unreadable", "too_short"} | ({"damaged"} if args.drop_damaged else set())
        unusable = {path for path, status in statuses.items() if status in drop}
        write_clean_list(listed, Path(args.clean_list), unusable=unusable)
    counts = Counter(statuses.values())
    print(f"{len(paths)} videos: {', '.join(f'{count} {status}' for status, count in counts.most_common())}.")
    print(f"Report: {args.report}" + (f", list: {args.clean_list}" if args.clean_list else ""))
    return 0 if set(counts) == {"ok"} else 1

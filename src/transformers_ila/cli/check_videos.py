"""Check videos: which are whole, damaged, too short or unreadable.

SOURCE is video files, folders, patterns such as `clips/*.mp4`, or lists with one video a line. An interrupted scan
goes on where it stopped when the same command is given again. Exit code: 0 all videos are whole, 1 some are not, 2 bad
arguments or nothing to check, 130 interrupted.
"""

import os
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
    write_clean_list,
    write_report,
)
from ..data.lists import can_be_listed, iter_entries, iter_videos
from ..distributed import MOST_WORKERS, usable_cpus
from ..evaluation.report_files import check_folder_can_be_made
from ..files import only_writer
from ..model.video_reading_ila import ReadLimits


POSITIONAL = "source"
EXAMPLES = (
    "ila check-videos path/to/videos",
    "ila check-videos train.csv --clean_list clean.csv --drop_damaged",
)


@dataclass(frozen=True)
class CheckVideosOptions:
    """Hold which videos are checked, how, and where the results go."""

    _argument_group_name = "options of ila check-videos"

    source: list[str] = field(
        default_factory=list, metadata={"help": "video files, folders, patterns, or lists with one video a line"}
    )
    videos: str | None = field(
        default=None, metadata={"help": "folder that relative paths in a list start from; default: the list's folder"}
    )
    report: str = field(
        default="video_report.csv", metadata={"help": "report to write, .csv or .json; its folder is made"}
    )
    workers: int | None = field(default=None, metadata={"help": "processes; default: one per usable CPU"})
    min_frames: int = field(default=8, metadata={"help": "videos with fewer frames are too short"})
    max_seconds: float = field(default=ReadLimits.max_seconds, metadata={"help": "what one video may take"})
    clean_list: str | None = field(
        default=None, metadata={"help": "list to write, without the videos that are unreadable or too short"}
    )
    drop_damaged: bool = field(default=False, metadata={"help": "leave damaged videos out of the clean list too"})
    restart: bool = field(default=False, metadata={"help": "forget the results of an earlier scan"})

    def __post_init__(self) -> None:
        """Raise a ValueError for all that could only fail after the scan otherwise."""
        if not self.source:
            raise ValueError(
                "name a folder with videos or an annotation list, or video files: ila check-videos SOURCE."
            )
        if self.min_frames < 1:
            raise ValueError(f"--min_frames must be 1 or more, got {self.min_frames}.")
        if self.workers is not None and not 1 <= self.workers <= MOST_WORKERS:
            raise ValueError(f"--workers must be 1 or more, at most {MOST_WORKERS}, got {self.workers}.")
        if not self.max_seconds > 0:
            raise ValueError(f"--max_seconds must be above 0, got {self.max_seconds}.")
        if Path(self.report).suffix.lower() not in REPORT_SUFFIXES:
            raise ValueError(f"--report must end in {' or '.join(REPORT_SUFFIXES)}, got {self.report!r}.")
        if self.drop_damaged and self.clean_list is None:
            raise ValueError("--drop_damaged needs --clean_list.")
        self._check_files()
        iter_videos(self.source, root=self.videos)  # which finds what is missing
        if self.clean_list is not None and (len(self.source) > 1 or not os.path.exists(self.source[0])):
            raise ValueError(f"--clean_list goes with one list or folder, got {', '.join(map(repr, self.source))}.")

    @property
    def journal(self) -> Path:
        """Return the file that holds the results of an unfinished scan."""
        return Path(self.report).with_suffix(".journal")

    def _check_files(self) -> None:
        taken = {Path(source).resolve(): "the input" for source in self.source}
        journal = ("the journal beside --report", str(self.journal))
        for option, file in (("--report", self.report), journal, ("--clean_list", self.clean_list)):
            if file is None:
                continue
            path = Path(file).resolve()
            if path in taken:
                raise ValueError(f"{option} {file!r} would overwrite {taken[path]}.")
            if path.is_dir():
                raise ValueError(f"{option} must name a file, and {file!r} is a folder.")
            check_folder_can_be_made(path.parent)
            taken[path] = f"the file of {option}"


def scan(paths: list[str], options: CheckVideosOptions) -> list[VideoCheck]:
    """Return the checks of all videos, in their order; those of an earlier scan that still hold are taken over."""
    if options.restart:
        options.journal.unlink(missing_ok=True)
    checks = read_journal(options.journal, paths, max_seconds=options.max_seconds)
    if checks:
        print(f"{len(checks)} of {len(paths)} results taken over from {str(options.journal)!r}.", flush=True)
    counts = Counter(check.status(min_frames=options.min_frames) for check in checks.values())
    unchecked = [path for path in paths if path not in checks]
    workers = options.workers or usable_cpus()
    results = check_videos(unchecked, journal=options.journal, workers=workers, max_seconds=options.max_seconds)
    with tqdm(total=len(paths), initial=len(checks), unit="video") as bar, closing(results):
        for check in results:
            checks[check.path] = check
            counts[check.status(min_frames=options.min_frames)] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()
    return [checks[path] for path in paths]


def run(options: CheckVideosOptions) -> int:
    """Check the videos, write the report and the clean list, print a summary, and return the exit code."""
    paths = list(dict.fromkeys(path for _, path in iter_videos(options.source, root=options.videos)))
    listed = []  # before the scan, as the list may grow meanwhile
    if options.clean_list is not None:
        for entry in iter_entries(options.source[0], root=options.videos):
            if entry.number is None and not can_be_listed(entry):
                raise ValueError(f"--clean_list cannot name {entry.line.text!r} in a line: rename the file.")
            listed.append((entry.raw, entry.path))
    journal = options.journal
    try:
        with only_writer(journal.parent, f".{journal.name}.lock"):  # the same command is not given twice at a time
            checks = scan(paths, options)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    write_report(checks, Path(options.report), min_frames=options.min_frames)
    statuses = {check.path: check.status(min_frames=options.min_frames) for check in checks}
    if options.clean_list is not None:
        drop = {"unreadable", "too_short"} | ({"damaged"} if options.drop_damaged else set())
        unusable = {path for path, status in statuses.items() if status in drop}
        write_clean_list(listed, Path(options.clean_list), unusable=unusable)
    counts = Counter(statuses.values())
    print(f"{len(paths)} videos: {', '.join(f'{count} {status}' for status, count in counts.most_common())}.")
    print(f"Report: {options.report}" + (f", list: {options.clean_list}" if options.clean_list else ""))
    return 0 if set(counts) == {"ok"} else 1

"""Find what happens when: a video of any length to scores over time, and to segments with a label, a start and an end.

VIDEOS are files, folders, patterns such as `clips/*.mp4`, lists with one video a line, http(s) URLs, addresses of
stores (`s3://...`), a folder of pictures (with --rate), or - for standard input. Each is read once, frame after frame,
so it may be hours long. A model in which no frame depends on a later one computes each frame once (a stream); any
other computes a clip for every score (windows).

Without --output the segments are printed. With it they are written beside the scores, in the format that the suffix
chooses; for several videos --output names a folder, and --format the formats. Ctrl-C keeps what was found until then:
the file says `"complete": false`. Exit code: 0 all videos were read to their ends, 1 some could not be, or broke off,
2 bad arguments or nothing to read, 130 interrupted. A file that cannot be written ends with 1, too; where none can,
the segments are printed. --format fiftyone or label-studio writes one file for all videos (docs/labelling.md).
"""

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from ..data.lists import iter_videos
from ..distributed import rank_from_environment
from ..evaluation.formats import (
    TOOLS,
    LabelledVideo,
    Labelling,
    check_folder_for,
    check_labels_for,
    local_files_url,
    write_labels,
)
from ..evaluation.options import require_seconds
from ..evaluation.report_files import check_folder_can_be_made
from ..markup import plain_line
from ..model.video_reading_ila import VIDEO_SUFFIXES
from ..model.video_urls_ila import is_url, redact
from ..stores.addresses import is_address
from ..timeline.calibration import GRIDS, calibrate, write_calibration
from ..timeline.detection_metrics import VideoSegments, evaluate_segments, read_segments, truth_of
from ..timeline.formats import FORMATS, format_of, labelled_video, write_timeline
from ..timeline.options import TimelineOptions
from ..timeline.page import require_embeddable
from ..timeline.rules import SegmentOptions
from ..timeline.timeline import Timeline, TimelineInterrupted, timelines
from .predict import opened_by
from .shared.signals import interrupted_by_sigterm
from .shared.words import ModelArguments


EXAMPLES = (
    "ila timeline film.mp4 --model my-ila --output film.json --output film.html",
    'ila timeline path/to/videos --model path/to/clip --labels "juggling, waving" --output timelines --format srt',
)
POSITIONAL = "videos"
STDIN = "-"
SCORES = ".scores.csv"  # the format that holds nothing but scores
UNSAFE = re.compile(r"[^\w.-]+")  # in the name of a file


@dataclass(frozen=True, kw_only=True)
class TimelineArguments(ModelArguments):
    """Hold which videos are read, by which model, and where the results go."""

    _argument_group_name = "videos and results"

    videos: list[str] = field(
        default_factory=list,
        metadata={"help": "files, folders, patterns, lists, URLs, addresses, or - (standard input)"},
    )
    root: str | None = field(
        default=None, metadata={"help": "folder that relative paths in a list start from; default: the list's folder"}
    )
    output: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"file to write, whose suffix chooses the format ({', '.join(FORMATS)}), or a folder with a file "
            "for each video; may be given several times; default: the segments are printed",
            "action": "append",
        },
    )
    format: list[str] = field(
        default_factory=list,
        metadata={
            "help": "format of the files in a folder, such as srt; may be given several times; fiftyone and "
            "label-studio write what these tools open, of all videos together; default: json",
            "action": "append",
        },
    )
    document_root: str | None = field(
        default=None,
        metadata={
            "help": "label-studio: folder above all videos from which Label Studio serves files, its "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT; default: /"
        },
    )
    truth: str | None = field(
        default=None,
        metadata={
            "help": "file with the true segments (JSON of ActivityNet or of this command, or CSV): mean average "
            "precision and more are printed, and pages and pictures show them; with one video in it and one to read "
            "their names may differ"
        },
    )
    calibrate: str | None = field(
        default=None,
        metadata={
            "help": "JSON file to write: how scores become segments, chosen so that they fit --truth best; give it to "
            "--calibration for other videos"
        },
    )
    embed: bool = field(default=False, metadata={"help": "write the video into .html pages"})
    every: float | None = field(
        default=None, metadata={"help": "seconds: of the scores in each stretch of that length only one is written"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # first: of `--labels a, b` without quotes `b` would be taken for a video
        if not self.videos:
            raise ValueError("there is nothing to read: name video files, folders, patterns, lists or URLs.")
        found = list_sources(self.videos, self.root)
        require_seconds("every", self.every)
        for path in self.output:
            if not path:
                raise ValueError("--output '' names neither a file nor a folder; . is the folder you are in.")
            if is_folder(path):
                check_folder_can_be_made(Path(path))
                continue
            format_of(path)
            check_folder_can_be_made(Path(path).parent)
            if len(found) > 1:
                raise ValueError(f"{len(found)} videos need a folder as --output, got the file {path!r}.")
        if self.format and not any(map(is_folder, self.output)):
            raise ValueError(f"--format {self.format[0]} is for a folder: name one by --output.")
        written = [form for path in self.output for form in self.forms(path)]
        self.check_tools(found)
        self.true_segments(found)
        for name, value in (("embed", self.embed), ("every", self.every)):
            users = [suffix for suffix, form in FORMATS.items() if name in form.options]
            given = value is not None and value is not False
            if given and not any(name in format_of(form).options for form in written):
                raise ValueError(f"--{name} would have no effect; allowed: beside --output of {' or '.join(users)}.")
        if self.calibrate is not None:
            if rank_from_environment().world_size > 1:
                raise ValueError("--calibrate needs all videos in one process; this is one of several.")
            if self.truth is None:
                raise ValueError("--calibrate needs the true segments of the videos: name their file by --truth.")
            if not self.calibrate or os.path.isdir(self.calibrate):
                raise ValueError(f"--calibrate needs the name of a file, got {self.calibrate!r}.")
            check_folder_can_be_made(Path(self.calibrate).parent)
        for source in found if self.embed else ():
            if is_no_file(source.place):
                raise ValueError(f"--embed needs a video's file, got {shown(source.name)}.")
            if os.path.isfile(source.place):
                require_embeddable(source.place)

    def tools(self) -> list[str]:
        """Return the labelling tools among the formats."""
        return [form for form in dict.fromkeys(self.format) if form in TOOLS]

    def check_tools(self, sources: "list[Source]") -> None:
        """Raise a ValueError where a labelling tool cannot open a video, or another process would write its file."""
        tools = self.tools()
        if self.document_root is not None and "label-studio" not in tools:
            raise ValueError("--document_root would have no effect; allowed: beside --format label-studio.")
        if tools and rank_from_environment().world_size > 1:
            raise ValueError(f"--format {tools[0]} needs all videos in one process; this is one of several.")
        for source in sources:
            address = is_url(source.place) or is_address(source.place)
            if tools and is_no_file(source.place) and not (address and "fiftyone" not in tools):
                allowed = "a video's file" if "fiftyone" in tools else "a video's file or address"
                raise ValueError(f"--format {tools[0]} needs {allowed}, got {shown(source.name)}.")
            if "label-studio" in tools and not address:
                local_files_url(source.place, self.document_root or os.sep)
        for tool in tools:
            for folder in filter(is_folder, self.output):
                check_folder_for(tool, folder)

    def true_segments(self, sources: "list[Source]") -> dict[str, VideoSegments] | None:
        """Return the true segments of each video by its name; a ValueError says of which there are none."""
        if self.truth is None:
            return None
        truth = read_segments(self.truth)
        names = [source.name for source in sources]
        if len(truth) == 1 and len(names) == 1:
            return {names[0]: next(iter(truth.values()))}
        return truth_of(names, truth)

    def forms(self, output: str) -> list[str]:
        """Return the suffixes of what is written to an output; a ValueError names one that is unknown."""
        if not is_folder(output):
            return [output]
        forms = [f".{form.lstrip('.')}" for form in self.format or ["json"] if form not in TOOLS]
        for form in forms:
            format_of(form)
        return forms

    def files(self, name: str) -> list[Path]:
        """Return the files to write for a video, whose name is that below a folder."""
        folders = (output for output in self.output if is_folder(output))
        inside = [Path(output, name + form) for output in folders for form in self.forms(output)]
        return [*(Path(output) for output in self.output if not is_folder(output)), *inside]


def run(args: TimelineArguments, options: TimelineOptions, segment_options: SegmentOptions) -> int:
    """Read the videos, and print or write their timelines; return 1 if a video was not read to its end."""
    rank = rank_from_environment()
    if args.calibrate is not None and not tuned_by(segment_options):
        raise ValueError(f"--calibrate has nothing to choose: leave out one of {', '.join(GRIDS)}.")
    if not options.keep_scores:
        require_no_scores(args)
    model, processor = args.open()
    for tool in args.tools():
        check_labels_for(tool, model.config.class_names)
    options = replace(options, device=options.device or rank.device())
    sources = list_sources(args.videos, args.root)[rank.rank :: rank.world_size]
    truth = args.true_segments(sources)
    found_segments: dict[str, VideoSegments] = {}
    held_out: list[Timeline] = []
    labelled: list[LabelledVideo] = []
    last: Timeline | None = None
    failed = unwritten = 0
    with interrupted_by_sigterm(), tqdm(unit="s", disable=rank.rank > 0) as bar:
        videos = shown_on(bar, sources)
        found = timelines(model, processor, videos, options, segment_options, progress=progress_on(bar))
        for source in sources:
            try:
                result = next(found)
            except TimelineInterrupted as stop:
                keep(stop.timeline, source, args, truth)
                if args.tools():
                    keep_for_tools([*labelled, labelled_video(stop.timeline, source.place)], stop.timeline, args)
                print(f"Interrupted at {clock(stop.timeline.duration)} of {shown(source.name)}.", file=sys.stderr)
                return 130
            if isinstance(result, Exception):
                failed += 1
                reason = plain_line(redact(str(result)) or type(result).__name__, None)
                tqdm.write(f"{shown(source.name)}\n   unreadable: {reason}", file=sys.stdout)
                labelled.append(LabelledVideo(name=source.name, path=source.place, reason=reason))
                continue
            if not found_segments:
                tqdm.write(method(result.settings), file=sys.stdout)
            unwritten += not keep(result, source, args, truth)
            if args.tools():
                labelled.append(labelled_video(result, source.place))
            last = result
            found_segments[source.name] = VideoSegments(result.segments, result.duration)
            held_out += [result] * (args.calibrate is not None)
            failed += not result.complete
    if args.tools() and last is not None:
        unwritten += not keep_for_tools(labelled, last, args)
    if len(sources) > 1:
        print(f"{len(sources) - failed} videos were read to their ends, {failed} were not.")
    if truth is not None and found_segments:
        print(metrics_table(evaluate_segments(found_segments, truth)))
    if truth is not None and args.calibrate is not None and held_out:
        print(choose_rules(held_out, truth, args.calibrate, segment_options))
    return 1 if unwritten or (failed and rank.world_size == 1) else 0


def require_no_scores(args: TimelineArguments) -> None:
    """Raise a ValueError if something is asked for that is made of the scores, which --no_keep_scores leaves out."""
    written = [form.lower() for path in args.output for form in args.forms(path)]
    uses = [f"--output of {SCORES}"] * any(form.endswith(SCORES) for form in written)
    uses += ["--calibrate"] * (args.calibrate is not None) + ["--every"] * (args.every is not None)
    if uses:
        raise ValueError(f"--no_keep_scores leaves out the scores that {uses[0]} needs; leave out one of the two.")


# -- what is read ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Hold a video: its name for people, what is opened, and what files in a folder are called after it."""

    name: str
    place: str
    file_name: str


def list_sources(words: list[str], root: str | None) -> list[Source]:
    """Return the videos that the command line's words name; raise a ValueError or OSError for what is no video."""
    direct = [word for word in words if is_no_file(word)]
    others = [word for word in words if word not in direct]
    if direct.count(STDIN) > 1:
        raise ValueError("standard input (-) can be read once; it is named several times.")
    sources = [Source("standard input" if word == STDIN else redact(word), word, file_name(word)) for word in direct]
    if others or root is not None:
        local = list(iter_videos(others, root=root))
        above = os.path.commonpath([os.path.dirname(path) for _, path in local])
        sources += [Source(name, path, os.path.relpath(path, above)) for name, path in local]
    own, taken = {source.file_name for source in sources}, set[str]()
    for index, source in enumerate(sources):  # names of URLs may be alike
        if source.file_name in taken:
            numbered = (f"{source.file_name}-{number}" for number in count(2))
            source = sources[index] = replace(source, file_name=next(n for n in numbered if n not in own | taken))
        taken.add(source.file_name)
    return sources


def file_name(word: str) -> str:
    """Return what a file of a URL, an address, a folder or standard input is called."""
    if word == STDIN:
        return "stdin"
    path = urlsplit(word).path if "://" in word else os.path.abspath(word)
    return UNSAFE.sub("_", path.rstrip("/").rpartition("/")[2]) or "video"


def is_no_file(word: str) -> bool:
    """Return whether a word names standard input, a URL, an address of a store or a folder of pictures."""
    return word == STDIN or is_url(word) or is_address(word) or is_picture_folder(word)


def is_picture_folder(word: str) -> bool:
    """Return whether a word names a folder that has files, and no video in it or in a folder below it."""
    if not os.path.isdir(word):
        return False
    files = [file for _, _, names in os.walk(word, followlinks=True) for file in names]
    return bool(files) and not any(file.lower().endswith(VIDEO_SUFFIXES) for file in files)


# -- what is shown and written ---------------------------------------------------------------------------------------


def is_folder(output: str) -> bool:
    """Return whether an output names a folder: one that is there, or a name without a suffix."""
    return os.path.isdir(output) or output.endswith(os.sep) or not Path(output).suffix


def shown_on(bar: Any, sources: list[Source]) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each video, and name on the progress bar the one that is being read."""
    for source in sources:
        bar.reset()
        bar.set_description(shown(source.name))
        yield source.name, source.place


def progress_on(bar: Any) -> Any:
    """Return a function that moves the bar to the seconds done; with a known duration the bar shows the time left."""

    def show(done: float, duration: float | None) -> None:
        bar.total = None if duration is None else round(max(done, duration), 1)
        bar.update(round(done, 1) - bar.n)

    return show


def keep(timeline: Timeline, source: Source, args: TimelineArguments, truth: dict[str, VideoSegments] | None) -> bool:
    """Write a timeline to its files, or print its segments if no file was written; return whether all files were."""
    written, failures = [], []
    local = Path(source.place) if os.path.isfile(source.place) else None
    given: dict[str, Any] = {"video": local, "embed": args.embed and local is not None, "every": args.every}
    given["truth"] = None if truth is None else truth[source.name].segments
    for path in args.files(source.file_name):
        takes = format_of(path).options
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_timeline(timeline, path, **{name: value for name, value in given.items() if name in takes and value})
        except OSError as error:
            failures.append(f"   {shown(str(path))} cannot be written: {error.strerror or error}")
        else:
            written.append(shown(str(path)))
    where = [f"   written: {', '.join(written)}"] if written else []
    where += failures if written else [*failures, table(timeline)]
    notes = [f"   {clock(note.time)}  {note.kind}: {plain_line(note.text, None)}" for note in timeline.notes]
    stopped = [] if timeline.complete else [f"   ends early: {plain_line(timeline.stopped or '', None)}"]
    tqdm.write("\n".join([summary(timeline), *notes, *stopped, *where]), file=sys.stdout)
    return not failures


def keep_for_tools(videos: list[LabelledVideo], last: Timeline, args: TimelineArguments) -> bool:
    """Write the files of labelling tools for all videos; return whether all were written. `last` names the model."""
    labelling = Labelling(
        class_names=list(last.labels),
        multi_label=False,
        model=os.path.basename(str(last.settings.get("model"))),
        timelines=True,
        document_root=args.document_root or os.sep,
    )
    good = True
    for tool in args.tools():
        for folder in filter(is_folder, args.output):
            try:
                counts = write_labels(folder, tool, videos, labelling)
            except (OSError, ValueError) as error:
                good = False
                print(f"{shown(folder)}: the file for {tool} cannot be written: {error}")
            else:
                print(opened_by(tool, folder, dict(counts)))
    return good


def shown(name: str) -> str:
    """Return a name as it is printed in a line."""
    return plain_line(name, None)


def method(settings: dict[str, Any]) -> str:
    """Return the line about how the videos are read, and about the delay of labels that comes from it."""
    delay, reason = settings["label_delay_ms"], settings["why_windows"]
    origin = {"option": "--rate", "configuration": "as the model was trained", "default": "nothing says which"}
    mode = f"windows of {settings['num_frames']} frames" if settings["mode"] == "windows" else "a stream"
    return (
        f"Read as {mode}{f', as {reason}' if reason else ''}; {settings['rate']:g} frames a second "
        f"({origin[settings['rate_from']]}), a score every {settings['stride']:.3g} s. Half of a clip shows a new "
        f"action after {delay['half_clip']:.0f} ms, all of it after {delay['whole_clip']:.0f} ms."
    )


def summary(timeline: Timeline) -> str:
    """Return the line about a video: how long it is, and what it took."""
    settings = timeline.settings
    scores = "1 score" if settings["scores"] == 1 else f"{settings['scores']} scores"
    return (
        f"{shown(timeline.video)}: {clock(timeline.duration)}, {scores} in "
        f"{settings['seconds']:.1f} s, {settings['label_delay_ms']['computing']:.0f} ms of computing each"
    )


def table(timeline: Timeline) -> str:
    """Return the lines of the segments: start, end, probability and label."""
    rows = [
        f"   {clock(segment.start)} - {clock(segment.end)} {segment.score:8.2%}  {plain_line(segment.label, None)}"
        for segment in timeline.segments
    ]
    return "\n".join(rows) or "   no label was sure"


def metrics_table(metrics: dict[str, Any]) -> str:
    """Return the lines of what `evaluate_segments` found: for each class and all, average precision by overlap."""
    overlaps = list(metrics["mean_average_precision"])
    head = "  ".join(f"{'AP@' + overlap:>7}" for overlap in overlaps)
    rows = {"mean": metrics["mean_average_precision"], **metrics["average_precision"]}
    lines = [f"   {head}"]
    for name, values in rows.items():
        cells = "  ".join("      -" if values[overlap] is None else f"{values[overlap]:7.3f}" for overlap in overlaps)
        lines.append(f"   {cells}  {plain_line(name, None)}")
    shares = {
        "time labelled rightly": metrics["frame_accuracy"],
        "and by an empty answer": metrics["nothing_accuracy"],
    }
    lines += [f"{name}: {share:.1%}" for name, share in shares.items() if share is not None]
    alarms = metrics["false_alarms_per_minute"]
    lines.append(
        f"{metrics['found_segments']} segments found, {metrics['true_segments']} true, "
        f"{'-' if alarms is None else format(alarms, '.2f')} false alarms a minute"
    )
    return "\n".join(lines)


def tuned_by(options: SegmentOptions) -> list[str]:
    """Return which numbers `--calibrate` chooses: those that the options do not give."""
    return [name for name in GRIDS if getattr(options, name) is None]


def choose_rules(held_out: list[Timeline], truth: dict[str, VideoSegments], file: str, options: SegmentOptions) -> str:
    """Choose how scores become segments, but for the numbers that the options give; write that, and return a line."""
    tuned = tuned_by(options)
    chosen = calibrate(held_out, truth, rules=options.rules(), tuned=tuned)
    write_calibration(chosen, file)
    numbers = ", ".join(f"{name} {getattr(chosen.rules, name):g}" for name in tuned)
    on = chosen.chosen_on
    return (
        f"chosen: {numbers}; mean F1 at three overlaps on these videos {on['value']:.3f}, before "
        f"{on['value_before']:.3f}. Written: {shown(file)}; use it by --calibration on other videos."
    )


def clock(seconds: float) -> str:
    """Return seconds as h:mm:ss.t."""
    tenths = round(10 * seconds)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"

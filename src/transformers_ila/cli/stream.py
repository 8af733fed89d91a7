"""Watch streams: print a line of JSON for every change of label, with its delay.

A source is `-` (MPEG-TS or Matroska from standard input), a camera such as /dev/video0, a URL, a named pipe or a file,
which is played at its own speed. Several are watched at once by one model; each may start and end when it likes.

A model whose frames look backwards alone (`alignment_causal`) computes each frame once; any other one computes its
last frames anew for each score. The first line says which, and why. A machine that is too slow drops the frames that
have waited longest, and says how many. With --labels the model's text tower reads words of your own, without training.

Exit code: 0 all sources ended by themselves, or nobody reads the lines any more (`| head -1`), 1 some source failed
(its last line says why; the others went on), 2 bad arguments, 130 interrupted, after a summary.
"""

import _thread
import json
import os
import select
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace

from ..distributed import rank_from_environment
from ..evaluation.options import require_seconds
from ..timeline.live import Live, Row
from ..timeline.options import TimelineOptions
from ..timeline.rules import SegmentOptions
from ..timeline.sources import SOURCE_LIMITS, require_format, require_waiting
from .main import interrupted_by_sigterm
from .words import ModelArguments


EXAMPLES = (
    "ffmpeg -re -i video.mp4 -f mpegts - | ila stream - --model my-ila",
    "ila stream /dev/video0 --model my-ila",
    'ila stream a.ts b.ts --model path/to/clip --labels "juggling, waving" --rate 4',
)
POSITIONAL = "sources"
LOOK = 0.5  # seconds between two looks at whether somebody reads the lines


@dataclass(frozen=True, kw_only=True)
class StreamArguments(ModelArguments):
    """Hold what is watched, by which model, and which lines are printed."""

    _argument_group_name = "sources"

    sources: list[str] = field(
        default_factory=list,
        metadata={"help": "- (standard input), cameras such as /dev/video0, URLs, named pipes or files"},
    )
    format: str | None = field(
        default=None,
        metadata={"help": "FFmpeg's name of the sources' container format, such as mpegts; default: it is found out"},
    )
    scores: bool = field(default=False, metadata={"help": "print a line for every score, with all probabilities"})
    patience: float = field(
        default=10.0, metadata={"help": "seconds without anything from a source, after which a line says so"}
    )
    give_up: float = field(default=60.0, metadata={"help": "seconds after which such a source is ended"})

    def __post_init__(self) -> None:
        super().__post_init__()  # first: of `--labels a, b` without quotes `b` would be taken for a source
        if not self.sources:
            raise ValueError("there is nothing to watch: name sources, such as - for standard input.")
        if twice := {source for source in self.sources if self.sources.count(source) > 1}:
            raise ValueError(f"each source can be watched once, got {min(twice)!r} several times.")
        for name in ("patience", "give_up"):
            require_seconds(name, getattr(self, name))
        require_waiting(self.patience, self.give_up)
        require_format(self.format, SOURCE_LIMITS)


def run(args: StreamArguments, options: TimelineOptions, segment_options: SegmentOptions) -> int:
    """Watch the sources and print a line for each change; return 1 if a source failed, 130 after Ctrl-C."""
    if "-" in args.sources and sys.stdin.isatty():
        raise ValueError("standard input is a terminal: pipe a stream into it, or name another source than -.")
    model, processor = args.open()
    options = replace(options, device=options.device or rank_from_environment().device())
    live = Live(
        model,
        processor,
        args.sources,
        options,
        segment_options,
        scores=args.scores,
        format=args.format,
        patience=args.patience,
        give_up=args.give_up,
    )
    try:
        return print_rows(live)
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 0


def print_rows(live: Live) -> int:
    """Print all rows, and after Ctrl-C those of the end; return the exit code.

    Raises:
        BrokenPipeError: nobody reads them any more.
    """
    interrupted = False
    with interrupted_by_sigterm(), broken_pipe_when_unread():
        try:
            with closing(live.rows()) as rows:
                for row in rows:
                    print_row(row)
        except KeyboardInterrupt:
            if is_unread():
                raise
            interrupted = True
        for row in live.ending() if interrupted else live.ending("the source has ended"):
            print_row(row)
    return 130 if interrupted else int(live.failed > 0)


def print_row(row: Row) -> None:
    """Print a row as a line of JSON, in ASCII, which every terminal and program reads, at once."""
    print(json.dumps(row, allow_nan=False), flush=True)


@contextmanager
def broken_pipe_when_unread() -> Iterator[None]:
    """Raise a BrokenPipeError in the block when nobody reads standard output any more.

    The next line to print would raise it; a thread also looks while there is none, and interrupts the main thread.
    """
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK):
            if is_unread():
                _thread.interrupt_main()
                return

    thread = threading.Thread(target=look, daemon=True)
    try:
        try:
            thread.start()
            yield
        finally:
            done.set()
            thread.join()
            done.is_set()  # a call, in which an interrupt from there comes out
    except KeyboardInterrupt:
        if is_unread():
            raise BrokenPipeError from None
        raise


def is_unread() -> bool:
    """Return whether standard output is a pipe that nobody reads any more."""
    try:
        pipe = sys.stdout.fileno()
    except (OSError, ValueError):  # no file, or one that was closed
        return False
    if not hasattr(select, "poll") or not stat.S_ISFIFO(os.fstat(pipe).st_mode):
        return False
    watch = select.poll()
    watch.register(pipe, 0)  # errors are told whatever is asked for
    return bool(watch.poll(0))

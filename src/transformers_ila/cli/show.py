"""Draw where a model looked in a video, or what a report or a timeline says.

SOURCE is a video, an http(s) URL or a folder of frames; the report of `ila evaluate --output report.json`; or a
timeline of `ila timeline --output timeline.json`. The suffix of --output chooses the form: a figure (.png, .svg,
.pdf); the frames that the model saw, animated (.gif); or all frames of the video in its own size and rate, without
sound (.mp4). Each file holds model, versions and seed. Several models are drawn side by side, on the same frames.

docs/pictures.md says what each picture shows and what it does not mean. A file that is there is replaced. Exit code:
0, 2 for bad arguments and for what cannot be read, 130 interrupted.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..distributed import rank_from_environment
from ..evaluation.inference import require_checkpoint
from ..evaluation.inspection.inspection import REDUCTIONS
from ..evaluation.inspection.models import Opened
from ..evaluation.inspection.models import open_model as open_to_inspect
from ..evaluation.report_fields import about_report
from ..evaluation.report_files import check_folder_can_be_made
from ..evaluation.report_pictures import REPORT_PICTURES, plot_report, read_report
from ..evaluation.visualize import PICTURES, check_options, visualize
from ..markup import plain_line
from ..model.video_urls_ila import is_url, redact
from ..timeline.formats import read_timeline, write_timeline
from ..timeline.options import TimelineOptions
from ..timeline.timeline import Timeline, timeline
from ..visualization.files import FIGURES, write_figure
from .shared.signals import interrupted_by_sigterm
from .shared.words import WordsArguments, open_model, read_words, require_words


EXAMPLES = (
    "ila show video.mp4 --model my-ila --output masks.png",
    "ila show video.mp4 --model my-ila --picture points --layers last --output points.mp4",
    "ila show video.mp4 --model ata --model my-ila --picture features --output features.png",
    "ila show report.json --picture calibration --output calibration.png",
    "ila show timeline.json --picture timeline --output timeline.png",
)
POSITIONAL = "source"
TIMELINE = "timeline"
ALL = (*PICTURES, TIMELINE, *REPORT_PICTURES)
OF_VIDEOS = ("layers", "start", "end", "seed", "size", "reduce", "query", "count", "fps")  # options of `visualize`


@dataclass(frozen=True, kw_only=True)
class ShowArguments(WordsArguments):
    """Hold what is drawn of what, and where the picture goes."""

    _argument_group_name = "pictures"

    source: str = field(
        default="", metadata={"help": "video, URL or folder of frames; a report's or a timeline's JSON file"}
    )
    model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "folder or Hub id of a model saved with its processor, or with --labels of a CLIP, SigLIP or "
            "SigLIP 2; given several times they are drawn side by side; a report and a timeline's JSON need none",
            "action": "append",
        },
    )
    picture: str = field(default="masks", metadata={"help": f"what is drawn: {', '.join(ALL)}"})
    output: str = field(
        default="",
        metadata={
            "help": f"file to write: {', '.join(FIGURES)}; of points, masks and features .gif and .mp4, too (required)"
        },
    )
    layers: list[str] = field(
        default_factory=list,
        metadata={"help": "numbers from 0 (-1 is the last one), all, or last; default: what suits the picture"},
    )
    start: float | None = field(default=None, metadata={"help": "seconds from which the video is looked at"})
    end: float | None = field(default=None, metadata={"help": "seconds up to which it is looked at"})
    seed: int | None = field(
        default=None, metadata={"help": "draw the frames at random, by this seed; default: the middle ones"}
    )
    size: float | None = field(
        default=None, metadata={"help": "of the boxes of points, as a share of the frame's side; default: 0.25"}
    )
    reduce: str | None = field(
        default=None,
        metadata={"help": "how the channels of features become one number; default: mean", "choices": REDUCTIONS},
    )
    query: list[int] = field(
        default_factory=list,
        metadata={"help": "frame, row and column of the patch that attention or routes start from, each from 0"},
    )
    count: int | None = field(default=None, metadata={"help": "matches, routes or regions that are drawn"})
    fps: float | None = field(
        default=None, metadata={"help": "frames a second of a .gif; default: as fast as the video"}
    )
    device: str | None = field(
        default=None, metadata={"help": "where to compute, such as cpu or cuda:0; default: a GPU, else the CPU"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source:
            raise ValueError("there is nothing to draw: name a video, a report's JSON or a timeline's JSON.")
        if not (is_url(self.source) or os.path.exists(self.source)):
            raise FileNotFoundError(f"there is no {self.source!r}.")
        if not self.output:
            raise ValueError("name the file to write by --output, such as picture.png.")
        if self.picture not in ALL:
            raise ValueError(f"--picture must be one of {', '.join(ALL)}; got {self.picture!r}.")
        self.check_source()
        given = self.given()
        if self.picture in PICTURES:
            check_options(self.picture, given, output=self.output, models=len(self.model))
        elif given:
            raise ValueError(f"{min(given)} would have no effect on {self.picture!r}.")
        elif Path(self.output).suffix.lower() not in FIGURES:
            raise ValueError(f"The file of {self.picture!r} must end in {', '.join(FIGURES)}; got {self.output!r}.")
        if os.path.isdir(self.output):
            raise ValueError(f"--output needs a file, and {self.output!r} is a folder.")
        if os.path.exists(self.source) and os.path.exists(self.output) and os.path.samefile(self.source, self.output):
            raise ValueError(f"--output {self.output!r} would overwrite what is drawn.")
        check_folder_can_be_made(Path(self.output).parent)

    def check_source(self) -> None:
        """Raise a ValueError where the picture is of another kind of source, or a model is missing or of no use."""
        shown = redact(self.source)
        if self.is_json and self.picture in PICTURES:
            others = ", ".join((TIMELINE, *REPORT_PICTURES))
            raise ValueError(
                f"--picture {self.picture} is of a video, got {shown!r}; of a JSON file there are {others}."
            )
        if not self.is_json and self.picture in REPORT_PICTURES:
            raise ValueError(
                f"--picture {self.picture} is of a report, the JSON file of `ila evaluate --output`; got {shown!r}."
            )
        if self.is_json:
            unused = [name for name in ("model", "labels", "template", "device") if getattr(self, name)]
            if unused:
                raise ValueError(f"--{unused[0]} would have no effect: what {shown!r} holds is computed.")
            return
        if not self.model:
            raise ValueError("name a model by --model: a folder, or a Hub id.")
        if self.picture == TIMELINE and len(self.model) > 1:
            raise ValueError(f"--picture {TIMELINE} is of one model, got {len(self.model)}.")
        for model in self.model:
            require_checkpoint(model)

    @property
    def is_json(self) -> bool:
        """Return whether the source is a report or a timeline, and no video."""
        return not is_url(self.source) and Path(self.source).suffix.lower() == ".json"

    def given(self) -> dict[str, Any]:
        """Return the options of `visualize` that are given, by name."""
        values = {name: getattr(self, name) for name in OF_VIDEOS}
        return {name: value for name, value in values.items() if value not in (None, [])}

    def open(self) -> list[Opened]:
        """Open each model on the device, for its own classes or for the words of --labels, with its processor.

        Errors are those of `read_words` and `open_model`.
        """
        device, opened = self.device or rank_from_environment().device(), []
        for source in self.model:
            if self.labels is None and self.templates is None:
                one = open_to_inspect(source)
            else:
                names = None if self.labels is None else read_words(self.labels)
                require_words(source, self.labels)
                one = open_to_inspect(*open_model(source, names, self.templates)[:2])
            opened.append(one._replace(model=one.model.to(device)))
        return opened


def run(args: ShowArguments) -> int:
    """Draw the picture, write it and print where it lies; return 0."""
    with interrupted_by_sigterm():
        if args.picture in REPORT_PICTURES:
            about = about_report(read_report(args.source), args.picture)
            write_figure(plot_report(args.source, args.picture), args.output, about)
        elif args.picture == TIMELINE:
            write_timeline(find_timeline(args), args.output)
        else:
            models = args.open()
            with tqdm(unit="s", disable=not args.output.lower().endswith(".mp4")) as bar:
                visualize(
                    models,
                    args.source,
                    args.picture,
                    output=args.output,
                    progress=progress_on(bar),
                    **args.given(),
                )
    print(f"{args.picture}: {plain_line(args.output, None)}", file=sys.stdout)
    return 0


def find_timeline(args: ShowArguments) -> Timeline:
    """Return the timeline of a JSON file, or compute that of a video."""
    if args.is_json:
        return read_timeline(args.source)
    require_words(args.model[0], args.labels)
    ((model, processor, *_),) = args.open()
    name = redact(args.source) if is_url(args.source) else os.path.basename(args.source.rstrip(os.sep))
    with tqdm(unit="s") as bar:
        return timeline(model, processor, args.source, TimelineOptions(), name=name, progress=progress_on(bar))


def progress_on(bar: Any) -> Any:
    """Return a function that moves the bar to what is done, and shows what there is in all as far as that is known."""

    def show(done: float, total: float | None) -> None:
        bar.total = None if total is None else round(max(done, total), 1)
        bar.update(round(done, 1) - bar.n)

    return show

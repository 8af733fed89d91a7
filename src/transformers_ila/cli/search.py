"""Search an index of videos by words, or by an example: a video or a picture.

Prints the nearest videos, best first, with the cosine of each; of an index of windows also the seconds that are
nearest. Texts are put into the index's own templates, unless --template names others. A model's video-specific prompt
is left out: words get no part of a video. Exit code: 0, 2 bad arguments or nothing to ask, 130 interrupted.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..distributed import Rank
from ..evaluation.inference import require_checkpoint
from ..evaluation.report_files import check_folder_can_be_made
from ..files import atomic_write
from ..markup import plain_line
from ..model.video_container_ila import ReadLimits
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import is_url, redact
from ..search.index_files import local_folder, read_model, read_settings
from ..search.indexing import feature_of_video, load_for_index
from ..search.search import Hit, VideoIndex, search_texts
from ..stores.addresses import is_address
from .shared.words import TemplateArguments


EXAMPLES = (
    'ila search index "someone falls" "a dog runs"',
    "ila search index --video example.mp4 --top_k 10 --output results.jsonl",
)
POSITIONAL = "words"


@dataclass(frozen=True, kw_only=True)
class SearchArguments(TemplateArguments):
    """Hold what is looked for, and in which index."""

    _argument_group_name = "index and queries"

    words: list[str] = field(
        default_factory=list, metadata={"help": "folder of the index, then what is looked for, a text or several"}
    )
    video: list[str] = field(
        default_factory=list,
        metadata={"help": "videos or pictures, or their addresses, whose like is looked for, beside texts or alone"},
    )
    top_k: int = field(default=5, metadata={"help": "videos that are found for each query, at most"})
    all_windows: bool = field(
        default=False, metadata={"help": "show every window for itself, not the best one of each video"}
    )
    model: str | None = field(
        default=None, metadata={"help": "where the model of the index lies now; default: where it lay"}
    )
    device: str | None = field(default=None, metadata={"help": "where to compute; default: a GPU, else the CPU"})
    output: str | None = field(
        default=None, metadata={"help": "file for the results as JSON lines, beside the table that is printed"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.words:
            raise ValueError("name the folder of an index, then what is looked for.")
        settings = read_settings(self.index)
        if not (self.texts or self.video):
            raise ValueError("there is nothing to look for: give texts behind the index, or an example by --video.")
        if any(not text.strip() for text in self.texts):
            raise ValueError("a text that is looked for has no letters.")
        if self.top_k < 1:
            raise ValueError(f"top_k must be a whole number of 1 or more, got {self.top_k}.")
        if self.template and not self.texts:
            raise ValueError("--template is for texts, and there is none.")
        if self.all_windows and settings.get("window") is None:
            raise ValueError(f"--all_windows needs an index of windows; {self.index!r} has one row for each video.")
        if self.output is not None:
            check_folder_can_be_made(Path(self.output).parent)
            if Path(self.output).resolve().is_relative_to(Path(self.index).resolve()):
                raise ValueError(f"--output {self.output!r} lies in the index {self.index!r}; name a file elsewhere.")
        require_checkpoint(self.source)

    @property
    def index(self) -> str:
        """Return the folder of the index."""
        return str(local_folder(self.words[0]))

    @property
    def texts(self) -> list[str]:
        """Return the texts that are looked for."""
        return self.words[1:]

    @property
    def source(self) -> str:
        """Return the model that is named, or that of the index; a ValueError where there is neither."""
        found = self.model or read_model(Path(self.index))
        if found is None:
            raise ValueError(f"{self.index!r} names no model; say where it lies by --model.")
        return found


def run(args: SearchArguments) -> int:
    """Search and print what was found."""
    index = VideoIndex(args.index)
    model, processor = load_for_index(args.source)
    model = model.to(args.device or Rank().device())
    index.check(model, processor if args.video else None)
    found: list[tuple[str, list[Hit]]] = []
    if args.texts:
        options: dict[str, Any] = {"templates": args.templates, "all_windows": args.all_windows}
        found += zip(args.texts, search_texts(index, model, args.texts, args.top_k, **options))
    for video in args.video:
        feature = feature_of_video(model, processor, video, index.settings, _source_of(video, processor))
        found.append((redact(video), index.search(feature, args.top_k, all_windows=args.all_windows)[0]))
    print("\n\n".join("\n".join(_table(query, hits)) for query, hits in found))
    if args.output is not None:
        with atomic_write(args.output) as file:
            for query, hits in found:
                for rank, hit in enumerate(hits, 1):
                    places = {"video": redact(hit.video), "path": redact(hit.path)}
                    file.write(json.dumps({"query": query, "rank": rank, **hit._asdict(), **places}) + "\n")
    return 0


def _source_of(video: str, processor: IlaVideoProcessor) -> Any:
    """Return the open file of an example that lies in a store; None for an example on disk or at a URL."""
    if not is_address(video) or is_url(video):
        return None
    from ..scale.sources import PlannedVideo, open_source  # which needs pyarrow

    return open_source(PlannedVideo(video, video), ReadLimits.from_options(processor.read_limits))


def _table(query: str, hits: list[Hit]) -> Iterator[str]:
    yield plain_line(query)
    for hit in hits:
        where = "" if hit.start is None or hit.end is None else f"{clock(hit.start)}-{clock(hit.end)}  "
        yield f"{hit.score:9.4f}  {where}{plain_line(redact(hit.video), None)}"
    if not hits:
        yield "   the index has no rows"


def clock(seconds: float) -> str:
    """Return seconds as minutes, seconds and tenths, such as `1:02.5`; above an hour `1:00:02.5`."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02}.{rest % 10}"
    return f"{hours}:{minutes:02}:{tail}" if hours else f"{minutes}:{tail}"

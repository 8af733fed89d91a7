"""Make videos searchable: features of files, folders, patterns such as `clips/*.mp4`, or lists, in an index.

The same command goes on after a kill, and adds what is new in a folder. With --window each row stands for some seconds
of a video, so that a search says where in it. With --engine ray actors of a Ray cluster share the work, and videos may
lie at addresses (`s3://...`), in Parquet manifests and in WebDataset shards, too: see docs/scale.md. Else processes or
machines share the videos by RANK and WORLD_SIZE (`torchrun --nproc_per_node 2 -m transformers_ila index ...`), or as
Slurm's `srun` numbers them. --drop and --missing take videos out again. Exit code: 0 all videos of the run were read,
1 some could not be (of several processes none says so), 2 bad arguments or nothing to index, 130 interrupted.
"""

from dataclasses import dataclass, field, fields, replace
from functools import partial

from tqdm import tqdm

from ..data.lists import iter_videos
from ..distributed import Rank, rank_from_environment
from ..evaluation.inference import require_checkpoint
from ..evaluation.options import IndexOptions
from ..evaluation.prediction import count_share
from ..evaluation.report_files import check_folder_can_be_made
from ..markup import plain_line
from ..search.index_files import local_folder, read_model
from ..search.indexing import index_videos, load_for_index
from ..search.search import VideoIndex
from .main import interrupted_by_sigterm
from .predict import interrupted, print_summary
from .videos import VideoArguments
from .words import TemplateArguments


EXAMPLES = (
    "ila index path/to/videos --model openai/clip-vit-base-patch16 --output index --window 4",
    "ila index --output index --drop 'holidays/*'",
)
POSITIONAL = "videos"


@dataclass(frozen=True, kw_only=True)
class IndexArguments(TemplateArguments, VideoArguments, IndexOptions):
    """Hold what is indexed or dropped, and where the index lies."""

    _argument_group_name = "model and index"

    output: str = field(metadata={"help": "folder of the index, made if it is missing"})
    model: str | None = field(
        default=None,
        metadata={
            "help": "folder or Hub id of CLIP, of SigLIP or of a model of this package; default: that of the index"
        },
    )
    drop: list[str] = field(
        default_factory=list, metadata={"help": "drop the videos with these names or patterns of names"}
    )
    missing: bool = field(default=False, metadata={"help": "drop the videos whose files are gone"})

    def __post_init__(self) -> None:
        TemplateArguments.__post_init__(self)
        VideoArguments.__post_init__(self)
        IndexOptions.__post_init__(self)
        folder = local_folder(self.output)  # which refuses an address
        if self.drop or self.missing:
            used = ("output", "drop", "missing")
            given = [entry.name for entry in fields(self) if vars(self)[entry.name] not in ([], entry.default)]
            if wrong := [f"--{name}" for name in given if name not in used]:
                raise ValueError(f"--drop and --missing take videos out and go without {', '.join(wrong)}.")
            return
        self.check_videos(self, "index")
        require_checkpoint(self.source)
        check_folder_can_be_made(folder)

    @property
    def source(self) -> str:
        """Return the model that is named, or that of the index; a ValueError where there is neither."""
        found = self.model or read_model(local_folder(self.output))
        if found is None:
            raise ValueError("a new index needs a model: name its folder or Hub id by --model.")
        return found


def run(args: IndexArguments) -> int:
    """Index or drop videos; return 1 if a video could not be read, 130 after Ctrl-C."""
    rank = rank_from_environment()
    if args.drop or args.missing:
        return _drop(args) if rank.rank == 0 else 0
    if args.engine == "ray":
        return _on_ray(args, rank)
    model, processor = load_for_index(args.source, args.templates)
    args = replace(args, device=args.device or rank.device())
    total = count_share(iter_videos(args.videos, root=args.root), rank)
    videos = iter_videos(args.videos, root=args.root)
    with interrupted_by_sigterm(), tqdm(total=total, unit="video", disable=rank.rank > 0) as bar:
        try:
            summary = index_videos(
                model, processor, videos, args.output, args, rank=rank, progress=bar.update, source=args.source
            )
        except KeyboardInterrupt:
            return interrupted(args.output)
    print_summary(summary, args.output, rank, done=f"indexed as {summary.rows} rows")
    return 1 if summary.unreadable and rank.world_size == 1 else 0


def _on_ray(args: IndexArguments, rank: Rank) -> int:
    from ..scale.indexing import index_on_ray  # which needs pyarrow

    args.check_alone(rank)
    opened = partial(load_for_index, args.source, args.templates)
    with interrupted_by_sigterm():
        try:
            summary = index_on_ray(opened, args.videos, args.output, args, args, root=args.root, source=args.source)
        except KeyboardInterrupt:
            return interrupted(args.output)
    print_summary(summary, args.output, rank, done=f"indexed as {summary.rows} rows")
    return 1 if summary.unreadable else 0


def _drop(args: IndexArguments) -> int:
    index = VideoIndex(args.output)
    names = index.drop(*args.drop, missing=args.missing)
    for name in names[:10]:
        print(f"dropped: {plain_line(name, None)}")
    more = f" ({len(names) - 10} more than are named here)" if len(names) > 10 else ""
    print(f"{len(names)} videos dropped{more}; {len(index)} rows are left in {args.output}.")
    return 0

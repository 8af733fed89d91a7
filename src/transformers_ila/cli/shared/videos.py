"""The videos that `ila predict` and `ila index` are about, and the engine that shares them out."""

from dataclasses import dataclass, field

from ...data.lists import iter_videos
from ...distributed import Rank
from ...evaluation.options import InferenceOptions
from ...scale.options import EngineOptions


@dataclass(frozen=True, kw_only=True)
class VideoArguments(EngineOptions):
    """Hold which videos a command works on, and which engine shares the work."""

    _argument_group_name = "videos"

    videos: list[str] = field(
        default_factory=list,
        metadata={
            "help": "video files, folders, patterns, or lists with one video a line; with --engine ray also addresses "
            "of these, Parquet manifests and WebDataset shards"
        },
    )
    root: str | None = field(
        default=None, metadata={"help": "folder that relative paths in a list start from; default: the list's folder"}
    )

    def check_videos(self, options: InferenceOptions, doing: str) -> None:
        """Raise a ValueError where there are no videos to do something with, or options have no effect on them."""
        if not self.videos:
            raise ValueError(f"there is nothing to {doing}: name video files, folders, patterns or lists.")
        if self.engine == "ray":
            self.check(options)  # a manifest or bucket may be large: what it holds is found when the run starts
        else:
            iter_videos(self.videos, root=self.root)  # which finds what is missing

    def check_alone(self, rank: Rank) -> None:
        """Raise a ValueError where a launcher has started several processes, and the engine shares the videos."""
        if rank.world_size > 1:
            raise ValueError(
                f"--engine {self.engine} shares the videos itself: start it once, not as {rank.world_size} processes."
            )

"""Measure what neighbouring frames share in a model's last layer, on videos (the paper's Table 5).

Printed are the earth mover's distance between the patches of two frames (lower: more is shared) and their mutual
information in nats (higher: more is shared), mean and standard deviation over the videos. Exit code: 0, or 2 for bad
arguments and videos that cannot be read.
"""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from ..data.video_folder import find_videos
from ..evaluation.frame_information import earth_movers_distance, last_patches, mutual_information
from ..evaluation.inference import load_trained, require_checkpoint


EXAMPLES = (
    "ila analyse --model my-ila --videos path/to/videos",
    "ila analyse --model my-ila --videos path/to/videos --limit 64",
)


@dataclass
class AnalyseOptions:
    """Hold the options of `ila analyse`."""

    _argument_group_name = "options of ila analyse"

    model: str = field(metadata={"help": "folder or Hub id of a model saved with its processor"})
    videos: str = field(metadata={"help": "folder with one sub-folder per class"})
    limit: int = field(default=256, metadata={"help": "videos that are looked at, spread over the folder"})
    batch_size: int = field(default=8, metadata={"help": "videos that go through the model together"})

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, got {getattr(self, name)}.")
        if not Path(self.videos).is_dir():
            raise ValueError(f"--videos must be a folder with one sub-folder per class; there is no {self.videos!r}.")
        require_checkpoint(self.model)


def run(options: AnalyseOptions) -> int:
    """Measure what neighbouring frames share in the model's last layer, print it, and return 0."""
    _, samples = find_videos(options.videos)
    samples = samples[:: max(1, -(-len(samples) // options.limit))]
    model, processor = load_trained(options.model)
    distances: list[float] = []
    nats: list[float] = []
    with tqdm(total=len(samples), unit="video") as bar:
        for first in range(0, len(samples), options.batch_size):
            batch = samples[first : first + options.batch_size]
            clips = [processor(path, return_tensors="pt")["pixel_values"] for path, _ in batch]
            one_size = len({clip.shape for clip in clips}) == 1  # of NaFlex each video has its own
            for pixels in [torch.cat(clips)] if one_size else clips:
                patches = last_patches(model, pixels)
                distances += earth_movers_distance(patches).mean(1).tolist()
                nats += mutual_information(patches).mean(1).tolist()
            bar.update(len(batch))
    print(f"{len(samples)} videos, neighbouring frames of the last layer, mean over pairs and videos:")
    for name, values in (
        ("earth mover's distance (lower: more shared)", distances),
        ("mutual information, nats", nats),
    ):
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{name:45}{statistics.mean(values):.4f}{spread}")
    return 0

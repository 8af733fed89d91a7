"""Folders of videos to training samples."""

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..model.video_processing_ila import IlaVideoProcessor
from .data_sets import read_class_folders


Sample = tuple[Path, int]  # video, class index


class VideoFolder(Dataset):
    """Videos in one sub-folder per class.

    Items are what the models and the Trainer take: `{"pixel_values": (T, C, H, W), "labels": class index}`.

    Args:
        samples: paths and class indices, as `find_videos` gives them.
        processor: reads and crops the videos; `random_frames=True` draws other frames each time (training).
        keep: hold the processed videos in memory, in every worker process; for sets that fit there.
    """

    def __init__(self, samples: list[Sample], processor: IlaVideoProcessor, *, keep: bool = False) -> None:
        self.samples, self.processor = samples, processor
        self._kept: dict[int, torch.Tensor] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.samples[index]
        if self._kept is None:
            return {"pixel_values": self._read(path), "labels": label}
        if index not in self._kept:
            self._kept[index] = self._read(path)
        return {"pixel_values": self._kept[index], "labels": label}

    def _read(self, path: Path) -> torch.Tensor:
        return self.processor(path, return_tensors="pt")["pixel_values"][0]


def find_videos(root: str | Path) -> tuple[list[str], list[Sample]]:
    """Class names (sub-folders, sorted) and samples of a folder with one sub-folder per class.

    What `read_annotations` makes of such a folder, without more.

    Raises:
        ValueError: as `read_class_folders`.
    """
    found = read_class_folders(root)
    return found.class_names or [], found.pairs()


def hold_out(samples: list[Sample], *, every: int = 5) -> tuple[list[Sample], list[Sample]]:
    """Split into training and evaluation samples: of each class every fifth video, in order, is held out."""
    training: list[Sample] = []
    evaluation: list[Sample] = []
    seen: dict[int, int] = {}
    for path, label in samples:
        seen[label] = seen.get(label, 0) + 1
        (evaluation if seen[label] % every == 0 else training).append((path, label))
    return training, evaluation

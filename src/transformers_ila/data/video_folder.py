"""Turns a folder of videos into samples for training."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.utils import logging

from ..model.video_processing_ila import IlaVideoProcessor
from .data_sets import read_class_folders
from .text import preview


logger = logging.get_logger(__name__)


class VideoFolder(Dataset):
    """Serve the videos of one sub-folder per class as a data set.

    Its items are what the models and the Trainer take: `{"pixel_values": (T, C, H, W), "labels": class index}`.

    Args:
        samples: paths and class indices, as `find_videos` gives them.
        processor: reads and crops the videos; `random_frames=True` draws other frames each time (training).
        keep: hold the processed videos in memory, in every worker process; for sets that fit there.

    An item raises a VideoDecodingError where its video cannot be read.

    Raises:
        ValueError: (also from `[...]`) `keep` with a processor that draws other frames each time.
    """

    def __init__(self, samples: list[tuple[Path, int]], processor: IlaVideoProcessor, *, keep: bool = False) -> None:
        self.samples, self.processor = samples, processor
        self._kept: dict[int, torch.Tensor] | None = {} if keep else None
        self._check_keep()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.samples[index]
        if self._kept is None:
            return {"pixel_values": self._read(path), "labels": label}
        self._check_keep()
        if index not in self._kept:
            self._kept[index] = self._read(path)
        return {"pixel_values": self._kept[index], "labels": label}

    def _check_keep(self) -> None:
        if self._kept is not None and self.processor.random_frames:
            raise ValueError("keep=True would freeze the frames that random_frames=True draws anew: leave out one.")

    def _read(self, path: Path) -> torch.Tensor:
        return self.processor(path, return_tensors="pt")["pixel_values"][0]


def find_videos(root: str | Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the class names and the videos of a folder with one sub-folder per class.

    The class names are the names of the sub-folders, sorted. The videos are paths with class indices, as
    `VideoFolder` takes them. `read_annotations` reads the same folder and more forms.

    Raises:
        ValueError: there is no such folder, it has fewer than two sub-folders, or one of them holds no video.
    """
    found = read_class_folders(root)
    return found.class_names or [], found.pairs()


def hold_out(
    samples: list[tuple[Path, int]], *, every: int = 5
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Split samples into those for training and those for evaluation: of each class every fifth video is held out.

    Of a class with two or more videos, but fewer than `every`, the last one is held out. A class of one stays in
    training, and a warning says so.

    Args:
        samples: paths and class indices; both parts keep their order.
        every: how many videos of a class one is held out of.

    Raises:
        ValueError: `every` is no whole number of at least 2.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 2:
        raise ValueError(f"`every` must be a whole number of at least 2, got {every!r}.")
    counts = Counter(label for _, label in samples)
    warn_of_single_videos([label for label, count in counts.items() if count == 1])
    training: list[tuple[Path, int]] = []
    evaluation: list[tuple[Path, int]] = []
    seen: Counter[int] = Counter()
    for path, label in samples:
        seen[label] += 1
        held = counts[label] > 1 and seen[label] % min(every, counts[label]) == 0
        (evaluation if held else training).append((path, label))
    return training, evaluation


def warn_of_single_videos(classes: Sequence[object]) -> None:
    """Log which classes have one video, which cannot be held out."""
    if classes:
        logger.warning(
            f"{len(classes)} classes have one video, which stays in training, so nothing measures them: "
            f"{preview(classes)}."
        )

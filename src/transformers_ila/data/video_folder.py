"""Turns a folder of videos into samples for training."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.utils import logging

from ..model.video_processing_ila import IlaVideoProcessor
from .class_indices import name_of, refuse_two_orders
from .data_sets import read_class_folders
from .frame_rates import median_frame_rate, spread
from .samples import Labels, Sample, classes_of, join_classes, listed_samples
from .text import preview


logger = logging.get_logger(__name__)


class VideoFolder(Dataset):
    """Serve the videos of one sub-folder per class as a data set.

    Its items are what the models and the Trainer take: `{"pixel_values": (T, C, H, W), "labels": class index}`.

    Args:
        samples: paths and class indices, as `find_videos` gives them; or class names for indices of these, sorted.
        processor: reads and crops the videos; `random_frames=True` draws other frames each time (training).
        keep: hold the processed videos in memory, in every worker process; for sets that fit there.
        labels: the model's class names, as `read_annotations` takes them: items have its indices, found by name. With
            None they have those of `samples`. `IlaTrainer` finds the model's by itself; another trainer knows of no
            names, and gets wrong labels wherever the order of `samples` is not the model's.

    An item raises a VideoDecodingError where its video cannot be read.

    Raises:
        ValueError: what is no label, several labels of a video, classes that are none of `labels`, or two orders of
            classes; (also from `[...]`) `keep` with a processor that draws other frames each time.
    """

    multi_label = False

    def __init__(
        self,
        samples: Sequence[tuple[Path, int]],
        processor: IlaVideoProcessor,
        *,
        keep: bool = False,
        labels: Labels | None = None,
    ) -> None:
        self.samples, self.processor = list(samples), processor
        self._set_labels([sample.labels for sample in listed_samples(self.samples)])
        if labels is not None:
            self.join(classes_of(labels).order.names)
        refuse_two_orders(label for _, label in self.samples)
        self._kept: dict[int, torch.Tensor] | None = {} if keep else None
        self._check_keep()

    def join(self, class_names: Sequence[str]) -> None:
        """Give the items the indices of these classes, by `join_classes`."""
        self._set_labels([sample.labels for sample in listed_samples(join_classes(self.samples, class_names))])

    def _set_labels(self, labels: Sequence[tuple[int, ...]]) -> None:
        several = [(path, found) for (path, _), found in zip(self.samples, labels) if len(found) != 1]
        if several:
            raise ValueError(f"A video of a folder has one label; {len(several)} have others, such as {several[0]!r}.")
        self.samples = [(path, found[0]) for (path, _), found in zip(self.samples, labels)]

    def frame_rate(self) -> float | None:
        """Return how many frames a second the clips have, the median over up to 64 videos; None where none tells.

        `IlaTrainer` keeps it in the model by itself; with another trainer say
        `model.config.frame_rate = data.frame_rate()`, so that `ila timeline` samples longer videos alike.
        """
        videos = [Sample(str(path), (), str(path)) for path, _ in spread(self.samples)]
        return median_frame_rate(videos, self.processor)

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


def find_videos(root: str | Path, *, labels: Labels | None = None) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the class names and the videos of a folder with one sub-folder per class.

    The class names are the names of the sub-folders, sorted. The videos are paths with class indices, as
    `VideoFolder` takes them; the indices carry their names (`ClassIndex`), by which `evaluate`, `IlaTrainer` and
    `labels` find them in another order. `read_annotations` reads the same folder and more forms.

    labels: the class names, as `read_annotations` takes them: the training folder's for the validation folder, which
        may lack classes.

    Raises:
        ValueError: there is no such folder, a sub-folder is none of `labels`; without them, it has fewer than two
            sub-folders, or one of them holds no video.
    """
    found = read_class_folders(root, labels=labels)
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
        ValueError: `every` is no whole number of at least 2, or what is no label.
    """
    if not isinstance(every, int) or isinstance(every, bool) or every < 2:
        raise ValueError(f"`every` must be a whole number of at least 2, got {every!r}.")
    labels = [sample.labels for sample in listed_samples(samples)]
    counts = Counter(labels)
    names = {of_video: name_of(of_video[0]) or given for of_video, (_, given) in zip(labels, samples)}
    warn_of_single_videos([names[of_video] for of_video, count in counts.items() if count == 1])
    training: list[tuple[Path, int]] = []
    evaluation: list[tuple[Path, int]] = []
    seen = Counter[tuple[int, ...]]()
    for (path, label), of_video in zip(samples, labels):
        seen[of_video] += 1
        held = counts[of_video] > 1 and seen[of_video] % min(every, counts[of_video]) == 0
        (evaluation if held else training).append((path, label))
    return training, evaluation


def warn_of_single_videos(classes: Sequence[object]) -> None:
    """Log which classes have one video, which cannot be held out."""
    if classes:
        logger.warning(
            f"{len(classes)} classes have one video, which stays in training, so nothing measures them: "
            f"{preview(classes)}."
        )

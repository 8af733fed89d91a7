"""Clips for training and evaluation: annotations are read, augmented and ordered so that a resumed run repeats them.

What is unusual here:
- a clip depends on (seed, epoch, index) alone: not on the worker, the rank, or how often training was resumed;
- the epoch number lies in memory shared with the worker processes, so that it reaches those that outlive an epoch;
- another video replaces one that cannot be read, so that every batch of every rank is full; the item names both;
- the order holds whole global batches only: no step has fewer clips than the others;
- for `IlaTrainer` clips stay uint8 until they are on the device: a quarter of the bytes to copy and to send.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers import default_data_collator
from transformers.utils import logging

from ..data.class_indices import refuse_two_orders
from ..data.frame_rates import median_frame_rate, spread
from ..data.samples import Annotations, Labels, Sample, classes_of, join_classes, shown_with_labels
from ..data.text import preview
from ..model.targets_ila import IGNORE_INDEX
from ..model.video_container_ila import ReadLimits, VideoDecodingError
from ..model.video_frames_ila import INDEX_RULES
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import read_video
from ..model.video_urls_ila import redact
from .augmentation import ClipAugmentation, clip_generator, clip_seed


logger = logging.get_logger(__name__)


UNREADABLE = "unreadable"  # key of items and batches: (name, reason) of every video that was tried in vain
NO_REPLACEMENT = "No replacement could be read for a video"


class Clips(Dataset):
    """Serve the videos of annotations as model inputs, read by the processor's rules.

    Args:
        annotations: what `read_annotations` returns.
        processor: the model's processor, which picks frames, crops and normalises.
        normalise: `False` leaves clips as uint8 for `IlaTrainer`, which normalises them on the device.
        labels: the model's class names, as `read_annotations` takes them: items have its indices, found by name. With
            None they have those of the annotations. `IlaTrainer` finds the model's by itself; another trainer knows
            of no names, and gets wrong labels wherever the annotations' order is not the model's.

    Raises:
        ValueError: several labels a video without class names, or where the annotations give one; classes that are
            none of `labels`, or two orders of classes.
    """

    def __init__(
        self,
        annotations: Annotations,
        processor: IlaVideoProcessor,
        *,
        normalise: bool = True,
        labels: Labels | None = None,
    ) -> None:
        self.annotations, self.processor = annotations, processor
        self.normalise = normalise
        if labels is not None:
            self.join(classes_of(labels).order.names)
        refuse_two_orders(label for sample in self.samples for label in sample.labels)
        several = [shown_with_labels(sample) for sample in self.samples if len(sample.labels) != 1]
        if several and not self.multi_label:
            raise ValueError(f"Annotations of one label a video have {len(several)} with others: {preview(several)}.")
        if self.multi_label and self.num_classes is None:
            raise ValueError("Videos with several labels need class names: `read_annotations(..., labels=...)`.")

    @property
    def samples(self) -> list[Sample]:
        """Return the videos and their labels."""
        return self.annotations.samples

    @property
    def multi_label(self) -> bool:
        """Return whether a video may have several labels."""
        return self.annotations.multi_label

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes; None where nothing names them."""
        return None if self.annotations.class_names is None else len(self.annotations.class_names)

    def join(self, class_names: Sequence[str]) -> None:
        """Give the items the indices of these classes, by `join_classes`."""
        joined = join_classes(self.annotations, class_names)
        assert isinstance(joined, Annotations)
        self.annotations = joined

    def frame_rate(self) -> float | None:
        """Return how many frames a second the clips have, the median over up to 64 videos; None where none tells."""
        return median_frame_rate(spread(self.samples), self.processor)

    def __len__(self) -> int:
        return len(self.samples)

    def as_model_input(self, video: Any, **options: Any) -> torch.Tensor:
        """Return the processor's clip of one video, (T, C, H, W): floats, or uint8 with `normalise=False`."""
        unscaled = {} if self.normalise else {"do_rescale": False, "do_normalize": False}
        return self.processor(video, return_tensors="pt", **options, **unscaled)["pixel_values"][0]

    def label(self, sample: Sample) -> int | torch.Tensor:
        """Return the class index; where a video may have several labels, (K,) integers 0 and 1.

        Floats would be taken for probabilities by a model that gives one label; it refuses integers.
        """
        if not self.multi_label:
            return sample.labels[0]
        several = torch.zeros(self.num_classes or 0, dtype=torch.long)
        several[list(sample.labels)] = 1
        return several


class EvaluationClips(Clips):
    """Serve clips to evaluate on: `{"pixel_values": (T, C, H, W), "labels": class index}`, one centre view of each.

    Without `labels`, and where no `IlaTrainer` has found the model's classes, the first item that is read logs that
    its label is an index of the annotations' own classes.

    A video that cannot be read is not replaced. Its clip is zeros and its label -100, where videos have several labels
    each of the K; the loss passes over it, `top_accuracies` and `multi_label_metrics` count it.
    """

    _joined = False

    def join(self, class_names: Sequence[str]) -> None:
        super().join(class_names)
        self._joined = True

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not self._joined:
            self._joined = True  # or every item would say it
            logger.warning(
                f"Labels are indices of the classes of {self.annotations.source!r}, which are taken for the model's: "
                "give `labels=model.config.class_names`, or use `IlaTrainer`, which finds them by name."
            )
        sample = self.samples[index]
        try:
            pixel_values = self.as_model_input(sample.source(), random_frames=False)
        except (VideoDecodingError, OSError) as error:
            logger.warning(f"Not evaluated: {redact(sample.name)!r}: {redact(str(error))}")
            crop = dict(self.processor.crop_size)
            size = (self.processor.num_frames, 3, crop["height"], crop["width"])
            pixel_values = torch.zeros(size, dtype=torch.float32 if self.normalise else torch.uint8)
            nothing = torch.full((self.num_classes or 0,), IGNORE_INDEX) if self.multi_label else IGNORE_INDEX
            return {"pixel_values": pixel_values, "labels": nothing}
        return {"pixel_values": pixel_values, "labels": self.label(sample)}


class TrainingClips(Clips):
    """Serve augmented clips: `{"pixel_values": (T, C, size, size), "labels": class index, "clip_seed": int}`.

    Where videos could not be read before one could, the item has "unreadable", too: their names and reasons, as pairs.
    `ClipCollator` hands them on in the batch, where `IlaTrainer` finds them. `set_epoch` must be called before each
    epoch, as the Trainer does.

    Args:
        annotations, processor, normalise, labels: as in `Clips`.
        augment: changes crop, flip and colours.
        seed: the seed of all draws.
        max_replacements: how many other videos are tried for one that cannot be read.
        warn: logs what cannot be read, once in every process; `IlaTrainer` logs it for all and turns this off.

    Raises:
        ValueError: as in `Clips`; an augmentation of another size than the processor's crop.
        RuntimeError: (from `[...]`) neither a video nor its replacements could be read.
    """

    def __init__(
        self,
        annotations: Annotations,
        processor: IlaVideoProcessor,
        *,
        augment: ClipAugmentation,
        seed: int = 0,
        max_replacements: int = 10,
        warn: bool = True,
        normalise: bool = True,
        labels: Labels | None = None,
    ) -> None:
        super().__init__(annotations, processor, normalise=normalise, labels=labels)
        sides = set(dict(processor.crop_size).values())
        if sides != {augment.size}:
            raise ValueError(f"`augment.size` is {augment.size}, the processor's crop {sorted(sides)}.")
        if max_replacements < 0:
            raise ValueError(f"`max_replacements` must be 0 or more, got {max_replacements}.")
        self.augment, self.seed, self.max_replacements, self.warn = augment, seed, max_replacements, warn
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._warned: set[str] = set()

    @property
    def epoch(self) -> int:
        """Return the epoch, which all processes that read share."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch in all processes that read; none of them may be reading meanwhile."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        epoch, place, unreadable = self.epoch, index, list[tuple[str, str]]()
        for attempt in range(self.max_replacements + 1):
            sample = self.samples[place]
            try:
                clip = self.clip(sample, clip_generator(self.seed, epoch, index, attempt))
            except (VideoDecodingError, OSError) as error:
                unreadable.append((redact(sample.name), reason_of_failure(error)))
                self.warn_once(*unreadable[-1])
                place = clip_seed(self.seed, epoch, index, attempt) % len(self.samples)
                continue
            item = {"pixel_values": clip, "labels": self.label(sample)}
            item["clip_seed"] = clip_seed(self.seed, epoch, index, attempt)
            return item | ({UNREADABLE: unreadable} if unreadable else {})
        name, reason = unreadable[0]
        raise RuntimeError(f"{NO_REPLACEMENT}: {name!r} ({reason}), and {self.max_replacements} others.")

    def clip(self, sample: Sample, generator: torch.Generator) -> torch.Tensor:
        """Read and augment one video: (T, C, size, size)."""
        processor = self.processor
        options = {"num_frames": processor.num_frames, "random": True, "generator": generator}
        if processor.frame_sampling == "dense":
            options["stride"] = processor.frame_stride
        rule = partial(INDEX_RULES[processor.frame_sampling], **options)
        limits = ReadLimits.from_options(processor.read_limits)
        frames, _ = read_video(sample.source(), lambda total: rule(total).tolist(), limits=limits)
        clip = self.augment(torch.from_numpy(frames).permute(0, 3, 1, 2), generator)
        untouched = {"do_sample_frames": False, "do_resize": False, "do_center_crop": False}
        return self.as_model_input(clip, input_data_format="channels_first", **untouched)

    def warn_once(self, name: str, reason: str) -> None:
        """Log that a video cannot be read, unless it was logged before or `warn` is off."""
        if self.warn and name not in self._warned:
            self._warned.add(name)
            logger.warning(f"Another video replaces {name!r}: {reason}.")


def reason_of_failure(error: Exception) -> str:
    """Return why a video could not be read, without the full stop at the end."""
    return redact(str(getattr(error, "reason", None) or error or type(error).__name__)).rstrip(".")


@dataclass(frozen=True)
class ClipCollator:
    """Make a batch of items of `TrainingClips`, and collect their "unreadable" in the batch.

    collate: makes the batch of the other entries, as `MixingCollator` does for mixup and CutMix.
    plain: does so where `collate` is None, without the seeds of the clips.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None
    plain: Callable[[list[dict[str, Any]]], dict[str, Any]] = default_data_collator

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        unreadable = [pair for item in items for pair in item.get(UNREADABLE, ())]
        items = [{key: value for key, value in item.items() if key != UNREADABLE} for item in items]
        if self.collate is not None:
            batch = self.collate(items)
        else:
            batch = self.plain([{k: v for k, v in item.items() if k != "clip_seed"} for item in items])
        return batch | ({UNREADABLE: unreadable} if unreadable else {})


class EpochSampler(Sampler[int]):
    """Yield the indices of a data set in another order every epoch, the same on all ranks, in whole global batches.

    Args:
        data: a data set with a length; its `set_epoch`, if it has one, is called with the epoch.
        seed: the seed of the orders.
        batch: clips of one optimiser step, over all ranks and accumulated batches.

    Raises:
        ValueError: fewer clips than one batch.
    """

    def __init__(self, data: Sequence[Any] | Dataset, *, seed: int, batch: int = 1) -> None:
        self.data, self.seed, self.batch, self.epoch = data, seed, batch, 0
        if len(self) == 0:
            raise ValueError(f"{len(data)} videos are fewer than one global batch of {batch}.")  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of this order and of its data."""
        self.epoch = epoch
        if hasattr(self.data, "set_epoch"):
            self.data.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.data) // self.batch * self.batch  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        generator = clip_generator(self.seed, self.epoch, -1)  # no clip has this index
        order = torch.randperm(len(self.data), generator=generator)  # type: ignore[arg-type]
        yield from order[: len(self)].tolist()

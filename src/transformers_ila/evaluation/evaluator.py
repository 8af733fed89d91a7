"""Evaluation: annotated videos -> views -> fused probabilities -> metrics -> report.

What is unusual here:
- Every video counts once and none stands in for another: what cannot be read is listed with its reason. That holds
  for several processes too, which share the videos.
- The report is what a model card is made from: all of it is measured, or read from the objects that were used.
- `batch_statistics` repeats a fault of the official release, for comparisons with its published numbers.
- `temporal_reliance` asks what the model makes of a clip whose frames are shuffled, reversed, or all the same.

Shapes: `N` videos, `V` views, `T` frames, `K` classes.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..data.samples import LabelledVideos, Sample, listed_samples, named_source, path_of
from ..data.text import preview
from ..distributed import all_gather, current_rank
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from .inference import MULTI_LABEL, batch_statistics_mode, check_logits, evaluating, multi_view_logits
from .metrics import accuracies
from .report import Predictions, build_report, fingerprint
from .views import (
    FRAME_ORDERS,
    ORIGINAL,
    PROTOCOLS,
    Batch,
    TimedIterator,
    Views,
    in_batches,
    permute_frames,
    pixel_values_on,
    video_loader,
)


__all__ = [
    "PROTOCOLS", "Predictions", "accuracies", "batch_statistics_mode", "evaluate", "fingerprint", "listed_samples",
    "predict", "build_report",
]  # fmt: skip


def predict(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: LabelledVideos,
    *,
    protocol: str = "1x1",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    batch_statistics: bool = False,
    num_workers: int = 0,
    random_frames: bool = False,
    seed: int = 0,
    temporal_reliance: bool = False,
    share: bool = True,
    progress: Callable[[int], object] | None = None,
) -> Predictions:
    """The model's logits for each video; arguments and errors as in `evaluate`.

    Several processes get the same result, that of all videos.
    """
    views = Views(protocol, random_frames, seed)
    listed = listed_samples(samples)
    check_samples(model, listed)
    place = current_rank() if share else None
    rank, world = (place.rank, place.world_size) if place is not None else (0, 1)
    if batch_statistics and world > 1:
        raise ValueError(
            f"batch_statistics depend on which videos share a batch: that is one process's order, not {world} "
            "processes'. Evaluate in one process, or with share=False."
        )
    used = model.device if device is None else torch.device(device)
    loader = video_loader(
        processor,
        range(rank, len(listed), world),
        find=partial(named_source, listed),
        views=views,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    prepare = partial(pixel_values_on, used, processor=processor)
    part = RankResult(orders=FRAME_ORDERS if temporal_reliance else ())

    def work() -> RankResult:
        started = time.perf_counter()
        alignment = batch_statistics_mode(model) if batch_statistics else nullcontext()
        with evaluating(model, used), alignment, torch.no_grad():
            batches = TimedIterator(in_batches(loader, batch_size=batch_size))
            for batch in batches:
                part.add(batch, model, prepare, one_by_one=batch_statistics, seed=seed)
                if progress is not None:
                    progress(len(batch.read) + len(batch.unreadable))
        part.seconds, part.waited = time.perf_counter() - started, batches.seconds
        return part

    parts = all_gather(work) if share else [work()]
    settings = {"views": views, "batch_size": batch_size, "batch_statistics": batch_statistics}
    return merge_results(parts, listed, model, {**settings, "device": used, "processes": world})


@dataclass
class RankResult:
    """What one process found; `logits` for `ORIGINAL` and each of `orders`."""

    orders: Sequence[str]
    positions: list[int] = field(default_factory=list)
    logits: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    frames_lost: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(
        self,
        batch: Batch,
        model: IlaForVideoClassification,
        prepare: Callable[[torch.Tensor], torch.Tensor],
        *,
        one_by_one: bool,
        seed: int,
    ) -> None:
        self.unreadable.update({video.key: video.reason for video in batch.unreadable})
        if not batch.read:
            return
        self.positions += [video.key for video in batch.read]
        self.frames_lost += sum(video.frames_lost for video in batch.read)
        for order in (ORIGINAL, *self.orders):
            views = torch.stack([permute_frames(video, order, seed=seed) for video in batch.read])
            logits = multi_view_logits(model, prepare(views), one_by_one=one_by_one)
            check_logits(logits, [video.name for video in batch.read])
            self.logits.setdefault(order, []).append(logits)


def merge_results(
    parts: list[RankResult], samples: list[Sample], model: IlaForVideoClassification, settings: dict[str, Any]
) -> Predictions:
    """All processes' parts, in the order of the samples, each of which is in exactly one."""
    found = [position for part in parts for position in part.positions]
    missed = [position for part in parts for position in part.unreadable]
    if sorted(found + missed) != list(range(len(samples))):
        raise RuntimeError(f"{len(samples)} videos gave {len(found)} results and {len(missed)} reasons.")
    unreadable = {position: why for part in parts for position, why in part.unreadable.items()}
    order = torch.tensor(sorted(range(len(found)), key=found.__getitem__), dtype=torch.long)
    logits = {
        name: torch.cat(
            [torch.empty(0, model.config.num_labels)] + [x for part in parts for x in part.logits.get(name, [])]
        )
        for name in (ORIGINAL, *parts[0].orders)
    }
    positions = sorted(found)
    return Predictions(
        positions=positions,
        logits=logits.pop(ORIGINAL)[order],
        labels=labels_of([samples[position] for position in positions], model),
        unreadable=dict(sorted(unreadable.items())),
        frames_lost=sum(part.frames_lost for part in parts),
        seconds=max(part.seconds for part in parts),
        data_wait=sum(part.waited for part in parts) / max(sum(part.seconds for part in parts), 1e-9),
        reordered={name: values[order] for name, values in logits.items()},
        settings=settings,
    )


def evaluate(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: LabelledVideos,
    *,
    protocol: str = "1x1",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    batch_statistics: bool = False,
    num_workers: int = 0,
    random_frames: bool = False,
    seed: int = 0,
    temporal_reliance: bool = False,
    share: bool = True,
    data_set: str | None = None,
    split: str | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on labelled videos, each counted once.

    A video that cannot be read counts in no accuracy: the report lists it, and has fewer videos evaluated than listed.
    The model computes in eval mode; afterwards its modes, its weights and its device are what they were.

    Args:
        model, processor: of one checkpoint. The protocol replaces the processor's clips and crops.
        samples: of `read_annotations`, or pairs of a video and its class index; for a model with several labels a
            video (`problem_type`) of its class indices.
        protocol: a name of `PROTOCOLS`; the views' probabilities are averaged.
        batch_size: videos, not views, that go through the model together; without `batch_statistics` results do not
            depend on it beyond rounding.
        device: where to compute; by default where the model is.
        batch_statistics: repeat a fault of the official release, whose validation left the network in train mode: see
            `batch_statistics_mode`. Results then depend on batch size and order, as the report says too. Batches
            are filled with the videos that can be read, in order, the last one may be smaller, and views go through
            one after the other. One process only.
        num_workers: processes that read videos beside this one.
        random_frames: draw frames at random, as the release does; per video, from `seed` and the video's name.
        seed: see `random_frames`; also of the shuffled frames.
        temporal_reliance: also evaluate with each of `FRAME_ORDERS`: a video is read once and computed four times.
        share: where torch.distributed has several processes, each takes a part of the videos, and all get the same
            report; they must all call this. False: this process evaluates everything.
        data_set, split: what the report says of the samples' origin.
        progress: called with the number of videos done in this process since its last call.

    Returns:
        What `json` can write: schema, date, model, data_set, protocol, counts (videos listed, evaluated, unreadable;
        frames_lost), unreadable (paths and reasons), metrics (`accuracies` or `multi_label_scores`), calibration,
        per_class, most_confused, temporal_reliance, seconds and seconds_per_video (of those listed, reading
        included), waiting_share (of the seconds, waiting for videos), processes, preprocessing,
        decoder, versions.

    Raises:
        ValueError: nothing to evaluate, a class that the model does not have, several labels of a video where the
            model gives one, a video listed twice, an unknown protocol, `batch_statistics` of a model without alignment
            or in several processes; later, logits that are not finite.
    """
    predictions = predict(
        model,
        processor,
        samples,
        protocol=protocol,
        batch_size=batch_size,
        device=device,
        batch_statistics=batch_statistics,
        num_workers=num_workers,
        random_frames=random_frames,
        seed=seed,
        temporal_reliance=temporal_reliance,
        share=share,
        progress=progress,
    )
    return build_report(predictions, model, processor, samples, data_set=data_set, split=split)


def check_samples(model: IlaForVideoClassification, samples: Sequence[Sample]) -> None:
    """Everything that can be known to be wrong before a video is read."""
    if not samples:
        raise ValueError("There is no video to evaluate: `samples` is empty.")
    count = model.config.num_labels
    outside = [s for s in samples if not all(index in range(count) for index in s.labels)]
    if outside:
        shown = preview([_with_labels(sample) for sample in outside])
        raise ValueError(f"The model has classes 0 to {count - 1}; {len(outside)} videos have others: {shown}.")
    several = [sample for sample in samples if len(sample.labels) != 1]
    if several and model.config.problem_type != MULTI_LABEL:
        raise ValueError(
            f"The model gives a video one label (problem_type={model.config.problem_type!r}, not {MULTI_LABEL!r}); "
            f"{len(several)} videos have none or several: {preview([_with_labels(sample) for sample in several])}."
        )
    times: dict[tuple[Any, ...], int] = {}
    for sample in samples:
        key = (path_of(sample), sample.start, sample.end)
        times[key] = times.get(key, 0) + 1
    twice = [key[0] for key, number in times.items() if number > 1]
    if twice:
        raise ValueError(f"Every video counts once; {len(twice)} are listed more than once: {preview(twice)}.")


def _with_labels(sample: Sample) -> str:
    return f"{path_of(sample)}: {', '.join(map(str, sample.labels)) or 'none'}"


def labels_of(samples: Sequence[Sample], model: IlaForVideoClassification) -> torch.Tensor:
    """(N,) class indices; for a model with several labels a video (N, K), true where a video has the label."""
    if model.config.problem_type != MULTI_LABEL:
        return torch.tensor([sample.labels[0] for sample in samples], dtype=torch.long)
    targets = torch.zeros(len(samples), model.config.num_labels, dtype=torch.bool)
    for row, sample in enumerate(samples):
        targets[row, list(sample.labels)] = True
    return targets

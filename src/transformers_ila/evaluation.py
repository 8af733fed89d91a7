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

from .annotation_samples import Sample
from .evaluation_report import Predictions, fingerprint, report_of
from .evaluation_samples import Samples, check_samples, labels_of, listed_samples, named_source
from .inference import alignment_in_train_mode, check_logits, fused_logits, in_eval_mode
from .metrics import accuracies
from .modeling_ila import IlaForVideoClassification
from .processes import place_in_group, together
from .video_processing_ila import IlaVideoProcessor
from .video_views import (
    AS_IS,
    ORDERS,
    PROTOCOLS,
    Batch,
    Views,
    Waiting,
    in_batches,
    pixel_values_on,
    reordered,
    video_loader,
)


__all__ = [
    "PROTOCOLS", "Predictions", "accuracies", "alignment_in_train_mode", "evaluate", "fingerprint", "listed_samples",
    "predict", "report_of",
]  # fmt: skip


def predict(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: Samples,
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
    place = place_in_group() if share else None
    rank, world = (place.rank, place.world) if place is not None else (0, 1)
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
    part = _Part(orders=ORDERS if temporal_reliance else ())

    def work() -> _Part:
        started = time.perf_counter()
        alignment = alignment_in_train_mode(model) if batch_statistics else nullcontext()
        with in_eval_mode(model, used), alignment, torch.no_grad():
            batches = Waiting(in_batches(loader, batch_size=batch_size))
            for batch in batches:
                part.add(batch, model, prepare, one_by_one=batch_statistics, seed=seed)
                if progress is not None:
                    progress(len(batch.read) + len(batch.unreadable))
        part.seconds, part.waited = time.perf_counter() - started, batches.seconds
        return part

    parts = together(work) if share else [work()]
    settings = {"views": views, "batch_size": batch_size, "batch_statistics": batch_statistics}
    return _joined(parts, listed, model, {**settings, "device": used, "processes": world})


@dataclass
class _Part:
    """What one process found; `logits` for `AS_IS` and each of `orders`."""

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
        for order in (AS_IS, *self.orders):
            views = torch.stack([reordered(video, order, seed=seed) for video in batch.read])
            logits = fused_logits(model, prepare(views), one_by_one=one_by_one)
            check_logits(logits, [video.name for video in batch.read])
            self.logits.setdefault(order, []).append(logits)


def _joined(
    parts: list[_Part], samples: list[Sample], model: IlaForVideoClassification, settings: dict[str, Any]
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
        for name in (AS_IS, *parts[0].orders)
    }
    positions = sorted(found)
    return Predictions(
        positions=positions,
        logits=logits.pop(AS_IS)[order],
        labels=labels_of([samples[position] for position in positions], model),
        unreadable=dict(sorted(unreadable.items())),
        frames_lost=sum(part.frames_lost for part in parts),
        seconds=max(part.seconds for part in parts),
        waiting_share=sum(part.waited for part in parts) / max(sum(part.seconds for part in parts), 1e-9),
        reordered={name: values[order] for name, values in logits.items()},
        settings=settings,
    )


def evaluate(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: Samples,
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
            `alignment_in_train_mode`. Results then depend on batch size and order, as the report says too. Batches
            are filled with the videos that can be read, in order, the last one may be smaller, and views go through
            one after the other. One process only.
        num_workers: processes that read videos beside this one.
        random_frames: draw frames at random, as the release does; per video, from `seed` and the video's name.
        seed: see `random_frames`; also of the shuffled frames.
        temporal_reliance: also evaluate with each of `ORDERS`; videos are read once, the model computes four times.
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
    return report_of(predictions, model, processor, samples, data_set=data_set, split=split)

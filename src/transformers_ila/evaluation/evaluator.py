"""Evaluation: labelled videos -> views -> mean probabilities -> metrics and report.

What is unusual here:
- Every video counts once and none stands in for another: what cannot be read is listed with its reason. That holds
  for several processes too, which share the videos.
- `batch_statistics` repeats a fault of the official release, for comparisons with its published numbers.
- `temporal_reliance` asks what the model makes of a clip whose frames are shuffled, reversed, or all the same.

Shapes: `N` videos, `T` frames, `K` classes.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ..backbones.siglip_configuration import SiglipVideoConfig
from ..data.samples import (
    LabelledVideos,
    Sample,
    join_classes,
    listed_samples,
    named_source,
    path_of,
    shown_with_labels,
)
from ..data.text import preview
from ..distributed import Rank, all_gather, current_rank
from ..model.configuration_ila import IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from ..model.validation_ila import MULTI_LABEL
from ..model.video_processing_ila import IlaVideoProcessor
from .inference import Network, batch_statistics_mode, check_logits, evaluating, multi_view_logits
from .options import EvaluationOptions, with_keywords
from .report import Evaluation, Predictions, describe_evaluation
from .views import ORIGINAL, Batch, permute_frames, read_views, workers_beside


Progress = Callable[[int], object]
DEFAULTS = EvaluationOptions()


def evaluate(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: LabelledVideos,
    options: EvaluationOptions = DEFAULTS,
    *,
    rank: Rank | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Evaluation:
    """Evaluate a model on labelled videos, each counted once.

    A video that cannot be read counts in no accuracy: the report lists it, and has fewer videos evaluated than listed.
    The model computes in eval mode; afterwards its modes, its weights and its device are what they were.

    Args:
        model, processor: of one checkpoint. The protocol replaces the processor's clips and crops.
        samples: of `read_annotations` or `find_videos`, or pairs of a video and its class index or class name; for a
            model with several labels a video (`problem_type`) of those, or of a row of K values 0 and 1. Labels that
            carry names, as those of folders do, are found among the model's by name; others are indices of the
            model's classes, which is logged.
        options: see `EvaluationOptions`. Without `batch_statistics` results do not depend on `batch_size` beyond
            rounding; with it they do, and on the order of the videos: batches are filled with the videos that can be
            read, in order, the last one may be smaller, and views go through one after the other.
        rank: which of several processes this is. By default it is the rank in torch's process group: each process
            takes a part of the videos, all get the same evaluation, and all must call this. `Rank()`: this process
            evaluates everything.
        progress: called with the number of videos done in this process since its last call.
        keywords: fields of `EvaluationOptions` (deprecated).

    Raises:
        ValueError: nothing to evaluate, a class that the model does not have, what is no label, several labels of a
            video where the model gives one, a video listed twice, `batch_statistics` of a model without alignment or
            in several processes; later, logits that are not finite.
    """
    options, rank = with_keywords(options, rank, keywords)
    samples = joined_with(samples, model.config)
    predictions = collect_logits(model, processor, samples, options, rank=rank, progress=progress)
    return describe_evaluation(predictions, samples, model, processor, options)


def collect_logits(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: LabelledVideos,
    options: EvaluationOptions = DEFAULTS,
    *,
    rank: Rank | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> Predictions:
    """Return the model's logits for labelled videos without any metric; arguments and errors are those of `evaluate`.

    Several processes get the same result, that of all videos.
    """
    options, rank = with_keywords(options, rank, keywords)
    listed = listed_samples(joined_with(samples, model.config))
    check_samples(listed, model.config)
    rank = current_rank() if rank is None else rank
    parts = all_gather(partial(_own_part, model, processor, listed, options, rank, progress), rank)
    return merge_results(parts, listed, model.config, orders=(ORIGINAL, *options.orders))


@dataclass
class RankResult:
    """Hold what one process found out, as `Predictions` for all; `logits` has batches for each order of frames."""

    positions: list[int] = field(default_factory=list)
    logits: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    frames_lost: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    device: torch.device = torch.device("cpu")
    inference: dict[str, Any] = field(default_factory=dict)

    def add(self, batch: Batch, network: Network, processor: IlaVideoProcessor, options: EvaluationOptions) -> None:
        """Compute and keep the logits of a batch, for the frames in their order and in each order asked for."""
        self.unreadable.update({video.key: video.reason for video in batch.unreadable})
        if not batch.read:
            return
        self.positions += [video.key for video in batch.read]
        self.frames_lost += sum(video.frames_lost for video in batch.read)
        for order in (ORIGINAL, *options.orders):
            views = torch.stack([permute_frames(video, order, seed=options.seed) for video in batch.read])
            values = processor.normalize_on(network.device, views)
            logits = multi_view_logits(network.module, values, one_by_one=options.batch_statistics)
            check_logits(logits, [video.name for video in batch.read])
            self.logits.setdefault(order, []).append(logits)


def _own_part(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: list[Sample],
    options: EvaluationOptions,
    rank: Rank,
    progress: Progress | None,
) -> RankResult:
    if options.batch_statistics and rank.world_size > 1:
        raise ValueError(
            "batch_statistics depend on which videos share a batch: that is one process's order, not "
            f"{rank.world_size} processes'. Evaluate in one process, or with rank=Rank()."
        )
    result, started = RankResult(), time.perf_counter()
    with evaluating(model, options) as network:
        result.device, result.inference = network.device, network.describe()
        keys, workers = range(rank.rank, len(samples), rank.world_size), workers_beside(network.device, options, rank)
        batches = read_views(processor, keys, options, find=partial(named_source, samples), workers=workers)
        with batch_statistics_mode(network.module) if options.batch_statistics else nullcontext():
            for batch in batches:
                result.add(batch, network, processor, options)
                if progress is not None:
                    progress(len(batch.read) + len(batch.unreadable))
    result.seconds, result.waited = time.perf_counter() - started, batches.seconds
    return result


def merge_results(
    parts: list[RankResult], samples: list[Sample], config: IlaConfig, *, orders: Sequence[str]
) -> Predictions:
    """Join the parts of all processes in the order of the samples.

    Raises:
        RuntimeError: a sample that is in no part, or in several.
    """
    found = [position for part in parts for position in part.positions]
    unreadable = {position: why for part in parts for position, why in part.unreadable.items()}
    if sorted([*found, *unreadable]) != list(range(len(samples))):
        raise RuntimeError(f"{len(samples)} videos gave {len(found)} results and {len(unreadable)} reasons.")
    order = torch.tensor(sorted(range(len(found)), key=found.__getitem__), dtype=torch.long)
    nothing = torch.empty(0, config.num_labels)
    logits = {
        name: torch.cat([nothing, *(batch for part in parts for batch in part.logits.get(name, []))])[order]
        for name in orders
    }
    positions = sorted(found)
    return Predictions(
        positions=positions,
        logits=logits.pop(ORIGINAL),
        labels=labels_of(
            [samples[position] for position in positions], config, several=several_labels(samples, config)
        ),
        unreadable=dict(sorted(unreadable.items())),
        frames_lost=sum(part.frames_lost for part in parts),
        seconds=max(part.seconds for part in parts),
        data_wait=sum(part.waited for part in parts) / max(sum(part.seconds for part in parts), 1e-9),
        reordered=logits,
        device=parts[0].device,
        processes=len(parts),
        inference=parts[0].inference,
    )


def joined_with(samples: LabelledVideos, config: IlaConfig) -> LabelledVideos:
    """Return labelled videos with the indices of a model's classes (`join_classes`)."""
    return join_classes(samples, config.class_names, multi_label=config.problem_type == MULTI_LABEL)


def check_samples(samples: Sequence[Sample], config: IlaConfig) -> None:
    """Check what can be known to be wrong before a video is read or a model loaded; errors are `check_listed`'s."""
    check_listed(samples, several=config.problem_type == MULTI_LABEL)


def check_listed(samples: Sequence[Sample], *, several: bool) -> None:
    """Check labelled videos for a model that gives a video `several` labels, or one.

    Raises:
        ValueError: no sample, several labels of a video where the model gives one, or a video listed twice.
    """
    if not samples:
        raise ValueError("There is no video to evaluate: `samples` is empty.")
    wrong = [sample for sample in samples if len(sample.labels) != 1]
    if wrong and not several:
        raise ValueError(
            f"The model gives a video one label (`problem_type` is not {MULTI_LABEL!r}); "
            f"{len(wrong)} videos have none or several: {preview([*map(shown_with_labels, wrong)])}."
        )
    times: dict[tuple[Any, ...], int] = {}
    for sample in samples:
        key = (path_of(sample), sample.start, sample.end)
        times[key] = times.get(key, 0) + 1
    twice = [key[0] for key, number in times.items() if number > 1]
    if twice:
        raise ValueError(f"Every video counts once; {len(twice)} are listed more than once: {preview(twice)}.")


def several_labels(samples: Sequence[Sample], config: IlaConfig) -> bool:
    """Return whether the metrics are those of several labels a video.

    They are where the model gives several (`problem_type`). The words of a SigLIP have sigmoids whatever the videos
    are labelled with: it is asked for the best one where every video has one label.
    """
    if config.problem_type != MULTI_LABEL:
        return False
    return not isinstance(config, SiglipVideoConfig) or any(len(sample.labels) != 1 for sample in samples)


def labels_of(samples: Sequence[Sample], config: IlaConfig, *, several: bool) -> torch.Tensor:
    """Return (N,) class indices; for several labels a video (N, K), true where a video has the label."""
    if not several:
        return torch.tensor([sample.labels[0] for sample in samples], dtype=torch.long)
    targets = torch.zeros(len(samples), config.num_labels, dtype=torch.bool)
    for row, sample in enumerate(samples):
        targets[row, list(sample.labels)] = True
    return targets

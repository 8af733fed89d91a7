"""Which videos are evaluated, and what they show: annotations or pairs, checked beside what the model knows."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from .annotation_samples import Annotations, Sample
from .annotation_text import some_of
from .inference import MULTI_LABEL
from .modeling_ila import IlaForVideoClassification


Samples = Annotations | Sequence[Sample | tuple[Any, Any]]


def listed_samples(samples: Samples) -> list[Sample]:
    """Annotations, samples, or pairs of a video (path, or bytes) and a class index or several."""
    items: Iterable[Any] = samples.samples if isinstance(samples, Annotations) else samples
    return [item if isinstance(item, Sample) else _sample(*item) for item in items]


def _sample(video: Any, labels: Any) -> Sample:
    labels = labels.tolist() if hasattr(labels, "tolist") else labels  # of NumPy and torch
    several = isinstance(labels, Sequence) and not isinstance(labels, str)
    source = str(video) if isinstance(video, Path) else video
    indices = tuple(labels) if several else (labels,)
    return Sample(source, tuple(i.item() if hasattr(i, "item") else i for i in indices), _shown(video))


def _shown(video: Any) -> str:
    return hashlib.sha256(video).hexdigest() if isinstance(video, bytes) else str(video)


def path_of(sample: Sample) -> str:
    """For reports: the path, or what the annotation calls a video that is no file."""
    return sample.video if isinstance(sample.video, str) else sample.name


def named_source(samples: Sequence[Sample], index: int) -> tuple[str, Any]:
    """A sample's name and video, for `video_loader`."""
    return samples[index].name, samples[index].video


def check_samples(model: IlaForVideoClassification, samples: Sequence[Sample]) -> None:
    """Everything that can be known to be wrong before a video is read."""
    if not samples:
        raise ValueError("There is no video to evaluate: `samples` is empty.")
    count = model.config.num_labels
    outside = [s for s in samples if not all(index in range(count) for index in s.labels)]
    if outside:
        shown = some_of([_with_labels(sample) for sample in outside])
        raise ValueError(f"The model has classes 0 to {count - 1}; {len(outside)} videos have others: {shown}.")
    several = [sample for sample in samples if len(sample.labels) != 1]
    if several and model.config.problem_type != MULTI_LABEL:
        raise ValueError(
            f"The model gives a video one label (problem_type={model.config.problem_type!r}, not {MULTI_LABEL!r}); "
            f"{len(several)} videos have none or several: {some_of([_with_labels(sample) for sample in several])}."
        )
    times: dict[tuple[Any, ...], int] = {}
    for sample in samples:
        key = (path_of(sample), sample.start, sample.end)
        times[key] = times.get(key, 0) + 1
    twice = [key[0] for key, number in times.items() if number > 1]
    if twice:
        raise ValueError(f"Every video counts once; {len(twice)} are listed more than once: {some_of(twice)}.")


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

"""What frozen features are worth: a linear layer or nearest neighbours on them, as in the paper's Table 12.

What is unusual here:
- nothing is chosen on the held-out list: k by leaving one out of the training list, weight decay on a fifth of it;
- features are computed once for each model, processor, protocol and list, and kept as safetensors.

Shapes: `N` videos, `E` projection, `K` classes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional as F

from ..data.samples import LabelledVideos, Sample, listed_samples, named_source, path_of, samples_hash
from ..data.text import preview
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from .inference import evaluating, features_and_logits
from .metrics import accuracies, top_k_accuracy
from .report import describe_model, describe_preprocessing, describe_samples, describe_software, fingerprint
from .views import Views, in_batches, pixel_values_on, video_loader


NEIGHBOURS = (1, 3, 5, 10, 20, 50)  # of which k is chosen
TEMPERATURE = 0.07  # a neighbour's vote counts exp(cosine / temperature)
WEIGHT_DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # on the mean loss over standardised features
DEFAULT_WEIGHT_DECAY = 1e-3  # where there are too few videos to choose
HELD_OUT = 5  # every fifth training video of a class chooses the weight decay
QUERIES = 256  # videos compared with all others at once


# -- features --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """features: (N, E) float32 of unit length. labels: (N,). unreadable: path -> reason, of the other samples."""

    features: torch.Tensor
    labels: torch.Tensor
    unreadable: dict[str, str]


def extract_features(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: LabelledVideos,
    *,
    cache: str | Path | None = None,
    protocol: str = "1x1",
    batch_size: int = 8,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[int], object] | None = None,
) -> Features:
    """Features of labelled videos, whose classes need not be the model's.

    Args:
        cache: folder for features that were computed before; the file's name says of what they are. Videos that
            could not be read are tried again.
        protocol: a name of `PROTOCOLS`; of several views the direction of their mean.
        Other arguments are those of `evaluate`.

    Raises:
        ValueError: no video, several labels of one, or a file in the cache that is none.
        OSError: the cache cannot be written.
    """
    listed, views = listed_samples(samples), Views(protocol)
    several = [path_of(sample) for sample in listed if len(sample.labels) != 1]
    if not listed or several:
        raise ValueError(
            f"A probe needs videos with one label each; of {len(listed)} these have not: {preview(several)}."
        )
    labels = torch.tensor([sample.labels[0] for sample in listed], dtype=torch.long)
    file = None if cache is None else Path(cache) / f"features_{_key(model, processor, listed, protocol)}.safetensors"
    features, positions = torch.empty(0, model.config.projection_dim), list[int]()
    if file is not None and file.is_file():
        features, positions = _load(file)
    before = len(positions)
    used = model.device if device is None else torch.device(device)
    loader = video_loader(
        processor,
        sorted(set(range(len(listed))) - set(positions)),
        find=partial(named_source, listed),
        views=views,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    found, unreadable = [features], dict[int, str]()
    with evaluating(model, used), torch.no_grad():
        for batch in in_batches(loader, batch_size=batch_size):
            unreadable.update({video.key: video.reason for video in batch.unreadable})
            if batch.read:
                positions += [video.key for video in batch.read]
                found.append(features_and_logits(model, pixel_values_on(used, batch.views(), processor))[0])
            if progress is not None:
                progress(len(batch.read) + len(batch.unreadable))
    order = sorted(range(len(positions)), key=positions.__getitem__)
    features, positions = torch.cat(found)[order], sorted(positions)
    if not bool(features.isfinite().all()):
        raise ValueError("The model's features are not finite (NaN or infinite).")
    if file is not None and len(positions) > before:
        _save(file, features, positions)
    reasons = {path_of(listed[position]): why for position, why in unreadable.items()}
    return Features(features, labels[positions], reasons)


def _key(model: IlaForVideoClassification, processor: IlaVideoProcessor, samples: list[Sample], protocol: str) -> str:
    options = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    parts = [fingerprint(model), options, samples_hash(samples), protocol, *(_state(sample) for sample in samples)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _state(sample: Sample) -> list[Any]:
    """Which video it is, and as which file: one that was replaced has other features."""
    path = path_of(sample)
    try:
        found = os.stat(path)
        return [path, found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):  # no file: its bytes are in the name's hash
        return [path]


def _save(file: Path, features: torch.Tensor, positions: list[int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = save({"features": features, "positions": torch.tensor(positions, dtype=torch.long)})
    new = file.with_name(f".{file.name}.{os.getpid()}.new")
    new.write_bytes(content)
    os.replace(new, file)


def _load(file: Path) -> tuple[torch.Tensor, list[int]]:
    try:
        with safe_open(file, "pt") as opened:
            return opened.get_tensor("features"), opened.get_tensor("positions").tolist()
    except SafetensorError as error:
        raise ValueError(f"{str(file)!r} holds no features ({error}); delete it.") from error


# -- nearest neighbours ----------------------------------------------------------------------------------------------


def knn_scores(
    features: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, *, k: int, classes: int
) -> torch.Tensor:
    """(N, K) float64 votes of the k training videos with the highest cosine, of all where there are fewer.

    Args:
        features, labels: (M, E) of unit length and (M,), the training videos.
        queries: (N, E) of unit length.
    """
    cosines, places = _nearest(features, queries, k=k)
    return _votes(cosines, labels[places], classes=classes)


def _nearest(
    features: torch.Tensor, queries: torch.Tensor, *, k: int, leave_one_out: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, min(k, M)) cosines, highest first, and whose they are; `leave_one_out`: queries are the features."""
    found = []
    for start in range(0, len(queries), QUERIES):
        cosines = queries[start : start + QUERIES].double() @ features.double().T
        if leave_one_out:
            own = torch.arange(len(cosines))
            cosines[own, own + start] = -torch.inf  # whose vote counts nothing
        found.append(cosines.topk(min(k, len(features)), dim=-1))
    return torch.cat([values for values, _ in found]), torch.cat([places for _, places in found])


def _votes(cosines: torch.Tensor, labels: torch.Tensor, *, classes: int) -> torch.Tensor:
    """(N, k) and (N, k) -> (N, K)"""
    votes = torch.zeros(len(cosines), classes, dtype=torch.float64)
    return votes.scatter_add_(1, labels, (cosines / TEMPERATURE).exp())


def choose_neighbours(features: torch.Tensor, labels: torch.Tensor, *, classes: int) -> tuple[int, dict[int, float]]:
    """The k with the best top-1 when each training video is left out in turn, of equal ones the least; and all."""
    candidates = [k for k in NEIGHBOURS if k < len(features)] or [1]
    cosines, places = _nearest(features, features, k=max(candidates), leave_one_out=True)
    found = {}
    for k in candidates:
        scores = _votes(cosines[:, :k], labels[places[:, :k]], classes=classes)
        found[k] = top_k_accuracy(scores, labels, k=1) or 0.0
    return max(found, key=lambda k: (found[k], -k)), found


# -- a linear layer --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearProbe:
    """weight (K, E) and bias (K,), on features minus `mean` and divided by `scale`, (E,) each."""

    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(N, E) -> (N, K) float64 logits"""
        return (features.double() - self.mean) / self.scale @ self.weight.T + self.bias


def fit_linear(
    features: torch.Tensor, labels: torch.Tensor, *, classes: int, weight_decay: float, steps: int = 200
) -> LinearProbe:
    """The minimum of cross-entropy plus weight_decay / 2 * |weight|^2: one, so there is nothing to draw."""
    mean = features.double().mean(0)
    scale = features.double().std(0, unbiased=False)
    scale = torch.where(scale > 1e-8, scale, torch.ones_like(scale))  # a feature that is always the same
    inputs = (features.double() - mean) / scale
    weight = torch.zeros(classes, features.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(inputs, weight, bias), labels) + weight_decay / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return LinearProbe(weight.detach(), bias.detach(), mean, scale)


def choose_weight_decay(
    features: torch.Tensor, labels: torch.Tensor, *, classes: int, seed: int
) -> tuple[float, dict[float, float]]:
    """The one with the best top-1 on a fifth of each class, drawn from `seed`; of equal ones the highest; and all."""
    held_out = _fifth(labels, seed)
    if not held_out.any():
        return DEFAULT_WEIGHT_DECAY, {}
    found = {}
    for weight_decay in WEIGHT_DECAYS:
        probe = fit_linear(features[~held_out], labels[~held_out], classes=classes, weight_decay=weight_decay)
        found[weight_decay] = top_k_accuracy(probe(features[held_out]), labels[held_out], k=1) or 0.0
    return max(found, key=lambda weight_decay: (found[weight_decay], weight_decay)), found


def _fifth(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """(N,): of each class with so many videos every fifth, in an order drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        chosen[own[torch.randperm(len(own), generator=generator)[: len(own) // HELD_OUT]]] = True
    return chosen


# -- both ------------------------------------------------------------------------------------------------------------


def probe(
    training: Features, held_out: Features, *, classes: int, seed: int = 0, kinds: Sequence[str] = ("knn", "linear")
) -> dict[str, Any]:
    """Accuracies of the probes on the held-out videos, with what was chosen and how it did where it was chosen.

    Raises:
        ValueError: no training video or no held-out one could be read, or an unknown probe.
    """
    if not len(training.labels) or not len(held_out.labels):
        counts = f"{len(training.labels)} training and {len(held_out.labels)} held-out videos"
        raise ValueError(f"A probe needs videos that can be read; there are {counts}.")
    unknown = [kind for kind in kinds if kind not in ("knn", "linear")]
    if unknown or not kinds:
        raise ValueError(f"Probes are knn and linear, got {list(kinds)}.")
    results: dict[str, Any] = {}
    if "knn" in kinds:
        k, tried = choose_neighbours(training.features, training.labels, classes=classes)
        scores = knn_scores(training.features, training.labels, held_out.features, k=k, classes=classes)
        results["knn"] = {
            "k": k,
            "chosen_by": "leaving one training video out",
            "tried": {str(name): value for name, value in tried.items()},
            "metrics": accuracies(scores, held_out.labels),
        }
    if "linear" in kinds:
        weight_decay, found = choose_weight_decay(training.features, training.labels, classes=classes, seed=seed)
        layer = fit_linear(training.features, training.labels, classes=classes, weight_decay=weight_decay)
        results["linear"] = {
            "weight_decay": weight_decay,
            "chosen_by": "a fifth of the training videos" if found else "nothing: too few training videos",
            "tried": {str(name): value for name, value in found.items()},
            "training_top1": top_k_accuracy(layer(training.features), training.labels, k=1),
            "metrics": accuracies(layer(held_out.features), held_out.labels),
        }
    return results


def probe_report(
    results: dict[str, Any],
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    *,
    training: tuple[LabelledVideos, Features],
    held_out: tuple[LabelledVideos, Features],
    classes: int,
    protocol: str,
    seed: int,
    data_set: str | None = None,
) -> dict[str, Any]:
    """What `probe` returned, with what it was measured on; a dict that `json` can write."""
    untrained = set(held_out[1].labels.tolist()) - set(training[1].labels.tolist())
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": describe_model(model, model.device),
        "data_set": data_set,
        "classes": classes,
        "classes_without_training_videos": len(untrained),
        "training": _describe_features(*training),
        "held_out": _describe_features(*held_out),
        "protocol": protocol,
        "seed": seed,
        "probes": results,
        "preprocessing": describe_preprocessing(processor, protocol),
        **describe_software(),
    }


def _describe_features(samples: LabelledVideos, features: Features) -> dict[str, Any]:
    listed = listed_samples(samples)
    return {
        **describe_samples(samples, listed),
        "listed": len(listed),
        "used": len(features.labels),
        "unreadable": [{"path": path, "reason": why} for path, why in features.unreadable.items()],
    }

"""What frozen features are worth: a linear layer or nearest neighbours on them, as in the paper's Table 12.

What is unusual here:
- Nothing is chosen on the held-out list: k by leaving one out of the training list, weight decay on a fifth of it.
- Features are computed once for each model, processor, protocol and list, and kept as safetensors.

Shapes: `N` videos, `M` training videos, `E` projection, `K` classes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional as F

from ..data.class_indices import name_of, refuse_two_orders
from ..data.samples import LabelledVideos, Sample, listed_samples, named_source, path_of, samples_hash
from ..data.text import preview
from ..distributed import Rank
from ..files import atomic_write
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from .inference import device_of, dtype_of, evaluating, features_and_logits, later_settings
from .metrics import accuracies, top_k_accuracy
from .options import ProbeOptions, with_keywords
from .report import describe_model, describe_preprocessing, describe_samples, describe_software, fingerprint
from .views import read_views, workers_beside


NEIGHBOURS = (1, 3, 5, 10, 20, 50)  # of which k is chosen
TEMPERATURE = 0.07  # a neighbour's vote counts exp(cosine / temperature)
WEIGHT_DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # on the mean loss over standardised features
DEFAULT_WEIGHT_DECAY = 1e-3  # where there are too few videos to choose
HELD_OUT = 5  # every fifth training video of a class chooses the weight decay
QUERIES = 256  # videos compared with all others at once
DEFAULTS = ProbeOptions()


# -- features --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """Hold the features of labelled videos.

    features: (N, E) float32 of unit length.
    labels: (N,) class indices.
    unreadable: path -> reason, of the other samples.
    class_names: name -> index, of the classes of all samples that carry their names.
    """

    features: torch.Tensor
    labels: torch.Tensor
    unreadable: dict[str, str]
    class_names: dict[str, int] = field(default_factory=dict)


def extract_features(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: LabelledVideos,
    options: ProbeOptions = DEFAULTS,
    *,
    progress: Callable[[int], object] | None = None,
    **keywords: Any,
) -> Features:
    """Return the features of labelled videos, whose classes need not be the model's.

    The feature of several views is the direction of the mean of theirs.

    Args:
        model, processor: of one checkpoint.
        samples: of `read_annotations`, or pairs of a video and its class index or class name.
        options: see `ProbeOptions`. The name of a file in `cache` says what its features are of; videos that could not
            be read are tried again.
        progress: called with the number of videos done since its last call, those in the cache included.
        keywords: fields of `ProbeOptions` (deprecated).

    Raises:
        ValueError: no video, several labels of one, indices of two orders of classes, features that are not finite, or
            a file in the cache that holds no features.
        OSError: the cache cannot be written.
    """
    options, _ = with_keywords(options, None, keywords)
    listed = listed_samples(samples)
    several = [path_of(sample) for sample in listed if len(sample.labels) != 1]
    if not listed or several:
        raise ValueError(
            f"A probe needs videos with one label each; of {len(listed)} these have not: {preview(several)}."
        )
    file = None if options.cache is None else Path(options.cache) / _cache_name(model, processor, listed, options)
    features, positions = torch.empty(0, model.config.projection_dim), list[int]()
    if file is not None and file.is_file():
        features, positions = _load(file)
    if progress is not None:
        progress(len(positions))
    missing = sorted(set(range(len(listed))) - set(positions))
    new, found, unreadable = _compute(model, processor, listed, missing, options, progress)
    features, positions = torch.cat([features, new]), positions + found
    order = sorted(range(len(positions)), key=positions.__getitem__)
    features, positions = features[order], sorted(positions)
    if not bool(features.isfinite().all()):
        raise ValueError("The model's features are not finite (NaN or infinite).")
    if file is not None and found:
        with atomic_write(file, "wb") as opened:
            opened.write(save({"features": features, "positions": torch.tensor(positions, dtype=torch.long)}))
    refuse_two_orders(sample.labels[0] for sample in listed)
    labels = torch.tensor([sample.labels[0] for sample in listed], dtype=torch.long)
    names = {name: int(sample.labels[0]) for sample in listed if (name := name_of(sample.labels[0])) is not None}
    return Features(features, labels[positions], unreadable, names)


def _compute(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: list[Sample],
    positions: list[int],
    options: ProbeOptions,
    progress: Callable[[int], object] | None,
) -> tuple[torch.Tensor, list[int], dict[str, str]]:
    """Return features of the samples at `positions`, of which samples they are, and path -> reason of the others."""
    found, read, unreadable = [torch.empty(0, model.config.projection_dim)], list[int](), dict[str, str]()
    with evaluating(model, options) as network:
        workers = workers_beside(network.device, options, Rank())
        find = partial(named_source, samples)
        for batch in read_views(processor, positions, options, find=find, workers=workers):
            unreadable.update({path_of(samples[video.key]): video.reason for video in batch.unreadable})
            if batch.read:
                values = processor.normalize_on(network.device, batch.views())
                found.append(features_and_logits(network.module, values)[0])
                read += [video.key for video in batch.read]
            if progress is not None:
                progress(len(batch.read) + len(batch.unreadable))
    return torch.cat(found), read, unreadable


def _cache_name(
    model: IlaForVideoClassification, processor: IlaVideoProcessor, samples: list[Sample], options: ProbeOptions
) -> str:
    described = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    parts: list[Any] = [fingerprint(model), described, samples_hash(samples), options.protocol]
    later = later_settings(model, options)
    parts += [*(_file_state(sample) for sample in samples), *([later] if later else [])]
    return f"features_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}.safetensors"


def _file_state(sample: Sample) -> list[Any]:
    """Return which file a video is, and what changes when it is replaced: it then has other features."""
    path = path_of(sample._replace(start=None, end=None))  # the file; its parts are in the name's hash
    try:
        found = os.stat(path)
        return [path, found.st_size, found.st_mtime_ns]
    except (OSError, ValueError):  # no file: its bytes are in the name's hash
        return [path]


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
    """Return (N, K) float64 votes of the k training videos with the highest cosine, of all where there are fewer.

    Args:
        features, labels: (M, E) of unit length and (M,), the training videos.
        queries: (N, E) of unit length.
    """
    cosines, neighbours = _nearest(features, queries, k=k)
    return _votes(cosines, labels[neighbours], classes=classes)


def _nearest(
    features: torch.Tensor, queries: torch.Tensor, *, k: int, leave_one_out: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (N, min(k, M)) cosines, highest first, and the indices of the features that they belong to.

    With `leave_one_out` the queries are the features, and none is a neighbour of itself.
    """
    found = []
    for start in range(0, len(queries), QUERIES):
        cosines = queries[start : start + QUERIES].double() @ features.double().T
        if leave_one_out:
            own = torch.arange(len(cosines))
            cosines[own, own + start] = -torch.inf  # whose vote counts nothing
        found.append(cosines.topk(min(k, len(features)), dim=-1))
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def _votes(cosines: torch.Tensor, labels: torch.Tensor, *, classes: int) -> torch.Tensor:
    """Return (N, K) sums of exp(cosine / temperature) over neighbours, whose cosines and labels are (N, k)."""
    votes = torch.zeros(len(cosines), classes, dtype=torch.float64)
    return votes.scatter_add_(1, labels, (cosines / TEMPERATURE).exp())


def choose_neighbours(features: torch.Tensor, labels: torch.Tensor, *, classes: int) -> tuple[int, dict[int, float]]:
    """Return the k with the best top-1 when each training video is left out in turn, and the top-1 of every k.

    Of several best ones it is the least.
    """
    candidates = [k for k in NEIGHBOURS if k < len(features)] or [1]
    cosines, neighbours = _nearest(features, features, k=max(candidates), leave_one_out=True)
    found = {}
    for k in candidates:
        scores = _votes(cosines[:, :k], labels[neighbours[:, :k]], classes=classes)
        found[k] = top_k_accuracy(scores, labels, k=1) or 0.0
    return max(found, key=lambda k: (found[k], -k)), found


# -- a linear layer --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearProbe:
    """Compute logits by a linear layer on standardised features.

    weight, bias: (K, E) and (K,) float64.
    mean, scale: (E,) each, subtracted from features and dividing them.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return (N, K) float64 logits of features (N, E)."""
        return (features.double() - self.mean) / self.scale @ self.weight.T + self.bias


def fit_linear(
    features: torch.Tensor, labels: torch.Tensor, *, classes: int, weight_decay: float, steps: int = 200
) -> LinearProbe:
    """Return the layer that minimises cross-entropy plus weight_decay / 2 * |weight|^2; it is unique, so not drawn.

    Args:
        features, labels: (N, E) and (N,).
        steps: of L-BFGS at most.
    """
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
    """Return the weight decay with the best top-1 on a fifth of each class, and the top-1 of each.

    The fifth is drawn from `seed`; of several best weight decays it is the highest. Where every class has fewer than
    five videos, it is `DEFAULT_WEIGHT_DECAY`, and nothing was tried.
    """
    held_out = _fifth(labels, seed)
    if not held_out.any():
        return DEFAULT_WEIGHT_DECAY, {}
    found = {}
    for weight_decay in WEIGHT_DECAYS:
        probe = fit_linear(features[~held_out], labels[~held_out], classes=classes, weight_decay=weight_decay)
        found[weight_decay] = top_k_accuracy(probe(features[held_out]), labels[held_out], k=1) or 0.0
    return max(found, key=lambda weight_decay: (found[weight_decay], weight_decay)), found


def _fifth(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Return (N,) bool, true for a fifth of the videos of each class, which are drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        chosen[own[torch.randperm(len(own), generator=generator)[: len(own) // HELD_OUT]]] = True
    return chosen


# -- both ------------------------------------------------------------------------------------------------------------


def probe(
    training: Features,
    held_out: Features,
    options: ProbeOptions = DEFAULTS,
    *,
    classes: int,
    seed: int | None = None,
    kinds: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return the accuracies of the probes on the held-out videos, with what was chosen and how well that did.

    Classes of the held-out videos are found among the training videos' by name where both have names.

    Args:
        options: see `ProbeOptions`; its `probes`, and its `weight_decay_seed` or `seed`.
        classes: K.
        seed, kinds: `weight_decay_seed` and `probes` (deprecated).

    Raises:
        ValueError: no training video or no held-out one could be read; a held-out class that the training videos'
            order of classes lacks.
    """
    given = {"weight_decay_seed": seed, "probes": None if kinds is None else list(kinds)}
    options, _ = with_keywords(options, None, {name: value for name, value in given.items() if value is not None})
    if not len(training.labels) or not len(held_out.labels):
        counts = f"{len(training.labels)} training and {len(held_out.labels)} held-out videos"
        raise ValueError(f"A probe needs videos that can be read; there are {counts}.")
    held_out = _in_order_of(training, held_out)
    results: dict[str, Any] = {}
    if "knn" in options.probes:
        results["knn"] = _probe_neighbours(training, held_out, classes)
    if "linear" in options.probes:
        results["linear"] = _probe_linearly(training, held_out, classes, weight_decay_seed(options))
    return results


def _in_order_of(training: Features, held_out: Features) -> Features:
    """Return held-out features with the class indices of the training videos.

    Where the two lists have one order, a held-out class need not have a training video; where they have not, nothing
    says which index it has, and a ValueError names it.
    """
    order, other = training.class_names, held_out.class_names
    names = {index: name for name, index in order.items()}
    if all(order.get(name, index) == index and names.get(index, name) == name for name, index in other.items()):
        return held_out
    unknown = sorted(other.keys() - order.keys())
    if unknown:
        raise ValueError(
            f"The lists have two orders of classes, and no training video shows {preview(unknown)}: read both by "
            "the same `labels`."
        )
    index_of = {index: order[name] for name, index in other.items()}
    return replace(
        held_out, labels=torch.tensor([index_of[index] for index in held_out.labels.tolist()]), class_names=order
    )


def weight_decay_seed(options: ProbeOptions) -> int:
    """Return the seed that draws the training videos which choose the weight decay."""
    return options.seed if options.weight_decay_seed is None else options.weight_decay_seed


def _probe_neighbours(training: Features, held_out: Features, classes: int) -> dict[str, Any]:
    k, tried = choose_neighbours(training.features, training.labels, classes=classes)
    scores = knn_scores(training.features, training.labels, held_out.features, k=k, classes=classes)
    return {
        "k": k,
        "chosen_by": "leaving one training video out",
        "tried": {str(name): value for name, value in tried.items()},
        "metrics": accuracies(scores, held_out.labels),
    }


def _probe_linearly(training: Features, held_out: Features, classes: int, seed: int) -> dict[str, Any]:
    weight_decay, tried = choose_weight_decay(training.features, training.labels, classes=classes, seed=seed)
    layer = fit_linear(training.features, training.labels, classes=classes, weight_decay=weight_decay)
    return {
        "weight_decay": weight_decay,
        "chosen_by": "a fifth of the training videos" if tried else "nothing: too few training videos",
        "tried": {str(name): value for name, value in tried.items()},
        "training_top1": top_k_accuracy(layer(training.features), training.labels, k=1),
        "metrics": accuracies(layer(held_out.features), held_out.labels),
    }


def probe_report(
    results: dict[str, Any],
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    options: ProbeOptions,
    *,
    training: tuple[LabelledVideos, Features],
    held_out: tuple[LabelledVideos, Features],
    classes: int,
    data_set: str | None = None,
) -> dict[str, Any]:
    """Return the report of what `probe` returned, with what it was measured on; `json` can write it."""
    untrained = set(held_out[1].labels.tolist()) - set(training[1].labels.tolist())
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": describe_model(model, device_of(model, options)),
        "data_set": data_set,
        "classes": classes,
        "classes_without_training_videos": len(untrained),
        "training": _describe_features(*training),
        "held_out": _describe_features(*held_out),
        "protocol": options.protocol,
        "seed": weight_decay_seed(options),
        "random_frames_seed": options.seed if options.random_frames else None,
        "dtype": str(dtype_of(model, options)).removeprefix("torch."),
        "probes": results,
        "preprocessing": describe_preprocessing(processor, options.protocol),
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

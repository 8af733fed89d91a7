"""What a model said of labelled videos, to a report: a dict that `json` can write.

Every field is measured, or read from the objects that were used; a number over no video is None.

Shapes: `N` videos, `K` classes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import torch
import torchvision
import transformers
from transformers.image_utils import PILImageResampling

from ..data.samples import Annotations, LabelledVideos, Sample, listed_samples, path_of, samples_hash
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from ..version import __version__
from .inference import MULTI_LABEL, class_names_of, probabilities
from .metrics import (
    accuracies,
    average_precisions,
    calibration,
    confusion_matrix,
    label_ranks,
    multi_label_scores,
    predicted_classes,
)
from .views import PROTOCOLS


REPORT_SCHEMA = 1  # raised when a field of the report changes its name or meaning
BATCH_STATISTICS_NOTE = (
    "Not the model's own accuracy: as in the official release's validation, batch normalisation used the statistics "
    "of the current batch and the alignment masks were jittered, so results depend on batch size and order."
)
MOST_CONFUSED = 20  # pairs of classes that the report names


@dataclass(frozen=True)
class Predictions:
    """What a model says of the videos that could be read, in their order.

    positions: which samples these are, N of them.
    logits: (N, K) float32 on the CPU; of several views the log of their mean probabilities.
    labels: (N,) class indices; of a model for several labels a video (N, K), true where a video has the label.
    unreadable: position -> reason, of the other samples.
    frames_lost: packets that gave no frame, in all videos together, as far as they were decoded.
    seconds: for reading and computing, on the clock; of several processes the slowest's.
    waiting_share: which part of it the model waited for videos; of several processes, of their seconds together.
    reordered: with `temporal_reliance`, logits for each of `FRAME_ORDERS`.
    settings: views, batch_size, batch_statistics, device and processes, as they were used.
    """

    positions: list[int]
    logits: torch.Tensor
    labels: torch.Tensor
    unreadable: dict[int, str]
    frames_lost: int
    seconds: float
    data_wait: float = 0.0
    reordered: dict[str, torch.Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def build_report(
    predictions: Predictions,
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: LabelledVideos,
    *,
    data_set: str | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """What `evaluate` returns, of what `predict` returned for the same model, processor and samples."""
    listed, settings = listed_samples(samples), predictions.settings
    return {
        "schema": REPORT_SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": describe_model(model, settings["device"]),
        "data_set": {"name": data_set, "split": split, **describe_samples(samples, listed)},
        "protocol": _describe_protocol(processor, predictions),
        "counts": {
            "listed": len(listed),
            "evaluated": len(predictions.positions),
            "unreadable": len(predictions.unreadable),
            "frames_lost": predictions.frames_lost,
        },
        "unreadable": [{"path": path_of(listed[i]), "reason": why} for i, why in predictions.unreadable.items()],
        **_describe_predictions(predictions, model),
        "seconds": predictions.seconds,
        "seconds_per_video": predictions.seconds / len(listed),
        "waiting_share": predictions.data_wait,
        "processes": settings["processes"],
        "preprocessing": describe_preprocessing(processor, settings["views"].protocol),
        **describe_software(),
    }


def describe_software() -> dict[str, Any]:
    versions = {package.__name__: package.__version__ for package in (torch, torchvision, transformers)}
    return {
        "decoder": {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info},
        "versions": versions | {"transformers_ila": __version__},
    }


def describe_samples(samples: LabelledVideos, listed: list[Sample]) -> dict[str, Any]:
    """Where they come from; the hash of names and labels says what was listed also where there is no list."""
    described: dict[str, Any] = {
        "list": None,
        "samples_sha256": samples_hash(listed),
        # the reader has no seconds: a file that is longer than its clip was taken whole
        "read_beyond_clip": sum(sample.start is not None or sample.end is not None for sample in listed),
    }
    if isinstance(samples, Annotations) and samples.sha256 is not None:
        name = Path(samples.source).name
        described["list"] = {"name": name, "sha256": samples.sha256, "format": samples.format}
    return described


def _describe_predictions(predictions: Predictions, model: IlaForVideoClassification) -> dict[str, Any]:
    """Everything that depends on logits and labels."""
    several = model.config.problem_type == MULTI_LABEL
    logits, labels = predictions.logits, predictions.labels
    scores = multi_label_scores if several else accuracies
    chances = probabilities(model, logits)
    if several:
        statements = calibration(chances.flatten(), labels.flatten())
    else:
        predicted = predicted_classes(logits)
        statements = calibration(chances.gather(1, predicted[:, None])[:, 0], predicted == labels)
    names = class_names_of(model)
    return {
        "metrics": scores(logits, labels),
        "calibration": statements,
        "per_class": _per_class(predictions, names, several=several),
        "most_confused": None if several else most_confused(confusion_matrix(logits, labels), names),
        "temporal_reliance": _temporal_reliance(predictions, several=several) if predictions.reordered else None,
    }


def _per_class(predictions: Predictions, names: list[str], *, several: bool) -> list[dict[str, Any]]:
    """A row for each class, None in it where the class has no video; with the other orders of frames."""
    logits, labels = predictions.logits, predictions.labels
    rows: list[dict[str, Any]] = [{"index": index, "name": name} for index, name in enumerate(names)]
    orders = predictions.reordered
    if several:
        columns = {
            "videos": labels.sum(0).tolist(),
            "average_precision": _without_nan(average_precisions(logits, labels)),
            **{name: _without_nan(average_precisions(values, labels)) for name, values in orders.items()},
        }
    else:
        ranks = label_ranks(logits, labels)
        columns = {
            "videos": labels.bincount(minlength=len(names)).tolist(),
            "predicted": predicted_classes(logits).bincount(minlength=len(names)).tolist(),
            "top1": _class_means(ranks < 1, labels, len(names)),
            "top5": _class_means(ranks < 5, labels, len(names)),
            **{name: _class_means(label_ranks(x, labels) < 1, labels, len(names)) for name, x in orders.items()},
        }
    for name, values in columns.items():
        for row, value in zip(rows, values):
            row[name] = value
    return rows


def _class_means(right: torch.Tensor, labels: torch.Tensor, classes: int) -> list[float | None]:
    videos = labels.bincount(minlength=classes)
    return _without_nan(labels.bincount(weights=right.double(), minlength=classes).double() / videos)


def _without_nan(values: torch.Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]


def most_confused(matrix: torch.Tensor, names: Sequence[str], *, count: int = MOST_CONFUSED) -> list[dict[str, Any]]:
    """The cells off the diagonal with the most videos, of equal ones the first."""
    errors = matrix.clone().fill_diagonal_(0).flatten()
    order = errors.argsort(descending=True, stable=True)[:count].tolist()
    pairs = [(*divmod(cell, len(names)), int(errors[cell])) for cell in order if errors[cell]]
    return [{"label": names[row], "predicted": names[column], "videos": videos} for row, column, videos in pairs]


def _temporal_reliance(predictions: Predictions, *, several: bool) -> dict[str, Any]:
    """The metrics for each order of the frames; the classes' are in `per_class`."""
    scores = multi_label_scores if several else accuracies
    orders = {name: dict(scores(logits, predictions.labels)) for name, logits in predictions.reordered.items()}
    for name, logits in predictions.reordered.items():
        changed = predicted_classes(logits) != predicted_classes(predictions.logits)
        orders[name]["prediction_changed"] = float(changed.double().mean()) if len(changed) else None
    return {"seed": predictions.settings["views"].seed, "orders": orders}


def fingerprint(model: IlaForVideoClassification) -> str:
    """SHA-256 of the class names, and of every weight and statistic with its name; the same on every device."""
    digest = hashlib.sha256(json.dumps(model.config.class_names).encode())
    for name, state in sorted(model.state_dict().items()):
        for part in state if isinstance(state, tuple) else (state,):  # torch's quantised layers: weight and bias
            if not isinstance(part, torch.Tensor):
                digest.update(f"{name} {part}".encode())
                continue
            torchaos = type(part).dequantize is not torch.Tensor.dequantize  # which calls its numbers float32
            tensor = part.detach().dequantize() if torchaos or part.is_quantized else part.detach()
            kind = type(part).__name__ if torchaos else part.dtype
            digest.update(f"{name} {kind} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_model(model: IlaForVideoClassification, device: torch.device) -> dict[str, Any]:
    return {
        "name": model.name_or_path or None,
        "revision": getattr(model.config, "_commit_hash", None),  # of a model from the Hub
        "labels": model.config.num_labels,
        "fingerprint": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _describe_protocol(processor: IlaVideoProcessor, predictions: Predictions) -> dict[str, Any]:
    views, batch_statistics = predictions.settings["views"], predictions.settings["batch_statistics"]
    clips, crops = PROTOCOLS[views.protocol]
    return {
        "name": views.protocol,
        "clips": clips,
        "crops": crops,
        "frames_per_clip": processor.num_frames,
        "frame_sampling": processor.frame_sampling,
        "frame_stride": processor.frame_stride if processor.frame_sampling == "dense" else None,
        "random_frames": views.random_frames,
        "seed": views.seed if views.random_frames or predictions.reordered else None,
        "batch_size": predictions.settings["batch_size"],
        "batch_statistics": batch_statistics,
        "note": BATCH_STATISTICS_NOTE if batch_statistics else None,
    }


def describe_preprocessing(processor: IlaVideoProcessor, protocol: str) -> dict[str, Any]:
    """What was done, which for several crops is another size than the processor's."""
    crop = dict(processor.crop_size)
    several = PROTOCOLS[protocol][1] > 1
    return {
        "size": {"shortest_edge": max(crop["height"], crop["width"])} if several else dict(processor.size),
        "crop_size": crop,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "rescale_factor": processor.rescale_factor,
        "resample": PILImageResampling(processor.resample).name.lower(),
        "scale_in_decoder": processor.scale_in_decoder,
        **{step: getattr(processor, step) for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")},
    }

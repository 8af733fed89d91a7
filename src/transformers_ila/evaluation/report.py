"""Evaluations and their reports.

Every entry of a report is measured, or read from the objects that were used; a number over no video is None.

Shapes: `N` videos, `K` classes.
"""

import hashlib
import json
import warnings
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

from ..backbones.siglip_configuration import SiglipVideoConfig
from ..data.samples import Annotations, LabelledVideos, Sample, listed_samples, path_of, samples_hash
from ..model.loading_ila import checkpoint_names
from ..model.modeling_ila import IlaForVideoClassification
from ..model.pretrained_ila import untrained_weights
from ..model.validation_ila import MULTI_LABEL
from ..model.video_processing_ila import IlaVideoProcessor
from ..version import __version__
from .hashing import hash_tensors
from .inference import probabilities
from .metrics import (
    accuracies,
    average_precisions,
    calibration,
    confusion_matrix,
    label_ranks,
    multi_label_metrics,
    predicted_classes,
)
from .options import PROTOCOLS, EvaluationOptions, InferenceOptions


REPORT_SCHEMA = 1  # raised when a field of the report changes its name or meaning
BATCH_STATISTICS_NOTE = (
    "Not the model's own accuracy: as in the official release's validation, batch normalisation used the statistics "
    "of the current batch and masks that jitter in training did so, so results depend on batch size and order."
)
MOST_CONFUSED = 20  # pairs of classes that the report names


@dataclass(frozen=True)
class Predictions:
    """Hold what a model says of the videos that could be read, in their order.

    positions: which of the samples these are, N of them.
    logits: (N, K) float32 on the CPU; of several views the log of their mean probabilities.
    labels: (N,) class indices; for several labels a video (N, K), true where a video has the label.
    unreadable: position -> reason, of the other samples.
    frames_lost: packets that gave no frame, in all videos together, as far as they were decoded.
    seconds: for reading and computing, on the clock; of several processes the slowest's.
    data_wait: fraction of the seconds in which the model waited for videos, over all processes together.
    reordered: with `temporal_reliance`, logits for each of `FRAME_ORDERS`.
    device, processes: where, and by how many processes, they were computed.
    inference: dtype, fused and why_not_fused, as `Network.describe` returns them.
    """

    positions: list[int]
    logits: torch.Tensor
    labels: torch.Tensor
    unreadable: dict[int, str]
    frames_lost: int
    seconds: float
    data_wait: float = 0.0
    reordered: dict[str, torch.Tensor] = field(default_factory=dict)
    device: torch.device = torch.device("cpu")
    processes: int = 1
    inference: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Hold what a model said of labelled videos, with everything that a report tells about it.

    predictions: of the videos that could be read.
    samples: all videos listed, with their labels.
    class_names: the model's K classes.
    sigmoids: whether each class has a probability of its own; else they are a softmax.
    seed: of the shuffled frames.
    about: entries of the report on model, data set, protocol, preprocessing and software.
    """

    predictions: Predictions
    samples: list[Sample]
    class_names: list[str]
    sigmoids: bool
    seed: int
    about: dict[str, Any]

    @property
    def multi_label(self) -> bool:
        """Return whether a video may have several labels, which the metrics are for."""
        return self.predictions.labels.ndim == 2

    @property
    def chances(self) -> torch.Tensor:
        """Return the probabilities (N, K) of the classes, float64."""
        return probabilities(self.predictions.logits, multi_label=self.sigmoids)

    @property
    def metrics(self) -> dict[str, Any]:
        """Return the report's `metrics`, by `accuracies`, or by `multi_label_metrics` for several labels a video."""
        scores = multi_label_metrics if self.multi_label else accuracies
        return scores(self.predictions.logits, self.predictions.labels)

    def report(self) -> dict[str, Any]:
        """Return the report as values that `json` can write.

        Returns:
            schema, date, model, data_set, protocol, inference (dtype, fused, why_not_fused), counts (videos listed,
            evaluated, unreadable; frames_lost), unreadable (paths and reasons), metrics, calibration, per_class,
            most_confused, temporal_reliance, seconds and seconds_per_video (of those listed, reading included),
            waiting_share (fraction of the seconds in which the model waited for videos), processes, preprocessing,
            decoder, versions.
        """
        return build_report(self)

    def __getitem__(self, key: str) -> Any:
        """Return an entry of the report, with a warning: `evaluate` returned the report itself before."""
        warnings.warn("`evaluate` returns an Evaluation: use its `report()`.", DeprecationWarning, stacklevel=2)
        return self.report()[key]


def describe_evaluation(
    predictions: Predictions,
    samples: LabelledVideos,
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    options: EvaluationOptions,
) -> Evaluation:
    """Join predictions with all that a report says of the model, processor, samples and options behind them."""
    listed = listed_samples(samples)
    about = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {**describe_model(model, predictions.device), "zero_shot": options.zero_shot},
        "data_set": {"name": options.data_set, "split": options.split, **describe_samples(samples, listed)},
        "protocol": {
            **describe_protocol(processor, options),
            "seed": options.seed if options.random_frames or options.temporal_reliance else None,
            "batch_statistics": options.batch_statistics,
            "note": BATCH_STATISTICS_NOTE if options.batch_statistics else None,
        },
        "inference": predictions.inference,
        "preprocessing": describe_preprocessing(processor, options.protocol),
        **describe_software(),
    }
    sigmoids = model.config.problem_type == MULTI_LABEL
    return Evaluation(predictions, listed, model.config.class_names, sigmoids, options.seed, about)


def build_report(evaluation: Evaluation) -> dict[str, Any]:
    """Build the report that `Evaluation.report` describes."""
    predictions, samples, about = evaluation.predictions, evaluation.samples, evaluation.about
    confused = None
    if not evaluation.multi_label:
        confused = most_confused(confusion_matrix(predictions.logits, predictions.labels), evaluation.class_names)
    return {
        "schema": REPORT_SCHEMA,
        **{name: about[name] for name in ("date", "model", "data_set", "protocol", "inference")},
        "counts": {
            "listed": len(samples),
            "evaluated": len(predictions.positions),
            "unreadable": len(predictions.unreadable),
            "frames_lost": predictions.frames_lost,
        },
        "unreadable": [{"path": path_of(samples[i]), "reason": why} for i, why in predictions.unreadable.items()],
        "metrics": evaluation.metrics,
        "calibration": _calibration(evaluation),
        "per_class": _per_class(evaluation),
        "most_confused": confused,
        "temporal_reliance": _temporal_reliance(evaluation) if predictions.reordered else None,
        "seconds": predictions.seconds,
        "seconds_per_video": predictions.seconds / len(samples),
        "waiting_share": predictions.data_wait,
        "processes": predictions.processes,
        **{name: about[name] for name in ("preprocessing", "decoder", "versions")},
    }


def describe_software() -> dict[str, Any]:
    """Return the versions of the decoder and of the packages that computed."""
    versions = {package.__name__: package.__version__ for package in (torch, torchvision, transformers)}
    return {
        "decoder": {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info},
        "versions": versions | {"transformers_ila": __version__},
    }


def describe_samples(samples: LabelledVideos, listed: list[Sample]) -> dict[str, Any]:
    """Return where samples come from; the hash of names and labels says what they are also without a list."""
    described: dict[str, Any] = {
        "list": None,
        "samples_sha256": samples_hash(listed),
        "excerpts": sum(sample.start is not None or sample.end is not None for sample in listed),
    }
    if isinstance(samples, Annotations) and samples.sha256 is not None:
        name = Path(samples.source).name
        described["list"] = {"name": name, "sha256": samples.sha256, "format": samples.format}
    return described


def _calibration(evaluation: Evaluation) -> dict[str, Any]:
    logits, labels = evaluation.predictions.logits, evaluation.predictions.labels
    chances = evaluation.chances
    if evaluation.multi_label:
        return calibration(chances.flatten(), labels.flatten())
    predicted = predicted_classes(logits)
    return calibration(chances.gather(1, predicted[:, None])[:, 0], predicted == labels)


def _per_class(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return a row for each class, with a column for each other order of frames; None where a class has no video."""
    logits, labels = evaluation.predictions.logits, evaluation.predictions.labels
    names, orders = evaluation.class_names, evaluation.predictions.reordered
    rows: list[dict[str, Any]] = [{"index": index, "name": name} for index, name in enumerate(names)]
    if evaluation.multi_label:
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
    """Return the pairs of label and prediction with the most videos, of equal ones the first.

    Args:
        matrix: (K, K) counts, as `confusion_matrix` returns them.
    """
    errors = matrix.clone().fill_diagonal_(0).flatten()
    order = errors.argsort(descending=True, stable=True)[:count].tolist()
    pairs = [(*divmod(cell, len(names)), int(errors[cell])) for cell in order if errors[cell]]
    return [{"label": names[row], "predicted": names[column], "videos": videos} for row, column, videos in pairs]


def _temporal_reliance(evaluation: Evaluation) -> dict[str, Any]:
    """Return the metrics for each order of the frames; the classes' are in `per_class`."""
    predictions = evaluation.predictions
    scores = multi_label_metrics if evaluation.multi_label else accuracies
    orders = {name: dict(scores(logits, predictions.labels)) for name, logits in predictions.reordered.items()}
    for name, logits in predictions.reordered.items():
        changed = predicted_classes(logits) != predicted_classes(predictions.logits)
        orders[name]["prediction_changed"] = float(changed.double().mean()) if len(changed) else None
    return {"seed": evaluation.seed, "orders": orders}


def fingerprint(model: IlaForVideoClassification) -> str:
    """Return the SHA-256 of the class names, and of every weight and statistic with its name, in hexadecimal.

    It is the same on every device. Of two models of the same weights, the one whose frames are averaged at unit length
    (`normalize_frames`) has another one.
    """
    digest = hashlib.sha256(json.dumps(model.config.class_names).encode())
    if getattr(getattr(model.config, "vision_config", None), "normalize_frames", False):
        digest.update(b"normalize_frames")
    hash_tensors(digest, checkpoint_names(model.state_dict()))
    return digest.hexdigest()


def describe_model(model: IlaForVideoClassification, device: torch.device) -> dict[str, Any]:
    """Return what a report says of a model.

    Returns:
        name, revision, labels (how many classes), fingerprint, dtype of the weights, device that computed; tower
        (`describe_tower`); templates in which the class names were read, None for bare names or no text head;
        untrained_weights: how many of its tensors nothing has trained, where there are any.
    """
    templates, untrained = getattr(model.config, "label_templates", None), untrained_weights(model)
    return {
        "name": model.name_or_path or None,
        "revision": getattr(model.config, "_commit_hash", None),  # of a model from the Hub
        "labels": model.config.num_labels,
        "fingerprint": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        **({"untrained_weights": len(untrained)} if untrained else {}),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "tower": describe_tower(model.config),
        "templates": None if templates is None else list(templates),
    }


def describe_tower(config: Any) -> str:
    """Return which network sees the video: its kind, and its temporal module or that frames are averaged."""
    vision = getattr(config, "vision_config", config)
    kind, module = type(config).model_type, getattr(vision, "temporal_module", None)
    if isinstance(config, SiglipVideoConfig):
        return f"{vision.model_type.split('_')[0]}, frames averaged"
    if getattr(vision, "normalize_frames", False):
        return "clip, frames averaged"
    return kind if module is None else f"{kind}, temporal module {module}"


def describe_protocol(processor: IlaVideoProcessor, options: InferenceOptions) -> dict[str, Any]:
    """Return which frames and crops of a video the model was given, and how many videos together."""
    clips, crops = PROTOCOLS[options.protocol]
    return {
        "name": options.protocol,
        "clips": clips,
        "crops": crops,
        "frames_per_clip": processor.num_frames,
        "frame_sampling": processor.frame_sampling,
        "frame_stride": processor.frame_stride if processor.frame_sampling == "dense" else None,
        "random_frames": options.random_frames,
        "seed": options.seed if options.random_frames else None,
        "batch_size": options.batch_size,
    }


def describe_preprocessing(processor: IlaVideoProcessor, protocol: str) -> dict[str, Any]:
    """Return how the processor prepared frames; for several crops of a frame it resizes to the size of one crop."""
    crop = dict(processor.crop_size)
    several = PROTOCOLS[protocol][1] > 1
    size = dict(processor.size)
    if processor.max_num_patches is not None:
        size = {name: getattr(processor, name) for name in ("max_num_patches", "patch_size")}
    return {
        "size": {"shortest_edge": max(crop["height"], crop["width"])} if several else size,
        "crop_size": crop,
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
        "rescale_factor": processor.rescale_factor,
        "resample": PILImageResampling(processor.resample).name.lower(),
        "scale_in_decoder": processor.scale_in_decoder,
        **{step: getattr(processor, step) for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")},
    }

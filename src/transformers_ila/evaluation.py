"""Evaluation: videos -> views -> fused probabilities -> metrics -> report.

What is unusual here:
- Every video counts once and none stands in for another: what cannot be read is listed with its reason.
- The report is what a model card is made from: all of it is measured, or read from the objects that were used.
- `batch_statistics` repeats a fault of the official release, for comparisons with its published numbers.

Shapes: `N` videos, `V` views, `T` frames, `K` classes.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import av
import torch
import torchvision
import transformers
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers.image_utils import PILImageResampling

from . import __version__
from .alignment_ila import PairPoints
from .data import Sample, find_videos
from .modeling_ila import IlaForVideoClassification
from .video_lists import LABELS_AT_END, ListedVideo, list_videos
from .video_processing_ila import IlaVideoProcessor
from .video_reading_ila import VideoDecodingError


REPORT_SCHEMA = 1  # raised when a field of the report changes its name or meaning
PROTOCOLS: dict[str, tuple[int, int]] = {  # name -> clips, crops
    "1x1": (1, 1),
    "4x3": (4, 3),  # the paper's
    "1x3": (1, 3),
    "3x1": (3, 1),
    "10x3": (10, 3),
}
BATCH_STATISTICS_NOTE = (
    "Not the model's own accuracy: as in the official release's validation, batch normalisation used the statistics "
    "of the current batch and the alignment masks were jittered, so results depend on batch size and order."
)
ENTRY = re.compile(r"(.+?)[ \t,]+(\d+)")  # of an annotation list: path, class index


# -- which videos ----------------------------------------------------------------------------------------------------


def samples_of_folder(root: str | Path, label2id: Mapping[str, int]) -> list[Sample]:
    """Paths and class indices of a folder with one sub-folder per class, named as the model's labels.

    Raises:
        ValueError: a sub-folder that is none of the labels, or a folder that `find_videos` refuses.
    """
    names, videos = find_videos(root)
    unknown = [name for name in names if name not in label2id]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(names)} class folders of {str(root)!r} are none of the model's labels: "
            f"{_some(unknown)}. The model knows {_some(list(label2id))}."
        )
    return [(path, label2id[names[index]]) for path, index in videos]


def samples_of_list(file: str | Path, *, root: str | Path | None = None) -> list[Sample]:
    """Paths and class indices of an annotation list with lines `path index`; see `list_videos` for paths and `root`.

    Raises:
        ValueError: a line that has no class index or several, or a list that `list_videos` refuses.
        OSError: the list cannot be read.
    """
    samples = []
    for number, video in enumerate(list_videos(file, root=root), 1):
        if video.path is None:
            continue
        index = _class_index(video, Path(file).parent if root is None else root)
        if index is None:
            line = video.line.decode("utf-8", "backslashreplace").strip()
            raise ValueError(f"Line {number} of {str(file)!r} must be a path and one class index, got {line!r}.")
        samples.append((Path(video.path), index))
    return samples


def _class_index(video: ListedVideo, root: str | Path) -> int | None:
    """The number behind the path; None where there is none, or more than one."""

    def is_path(text: str) -> bool:
        return os.path.abspath(os.path.join(root, text)) == video.path

    text = video.line.decode("utf-8", "surrogateescape").strip("\ufeff \t\r\n")
    entry = ENTRY.fullmatch(text)
    if entry is None or is_path(text) or (LABELS_AT_END.search(entry[1]) and not is_path(entry[1])):
        return None
    return int(entry[2])


def _some(names: Sequence[object], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(repr(str(name)) for name in names[:count]) + more


# -- the model's state -----------------------------------------------------------------------------------------------


@contextmanager
def alignment_in_train_mode(model: nn.Module) -> Iterator[None]:
    """Alignment as in training: batch statistics in its BatchNorms, jittered masks; nothing else, so no dropout.

    This is the state in which the official release ran its validation by mistake. What the model says of a video then
    depends on the others in its batch. Afterwards, also after an error, modes and running statistics are what they
    were, bit by bit: the context works on copies of the statistics.

    Raises:
        ValueError: a model that aligns nothing.
    """
    alignments = [module for module in model.modules() if isinstance(module, PairPoints)]
    if not alignments:
        raise ValueError(
            "The model aligns nothing (`temporal_module`, `alignment_layers`): nothing to put in train mode."
        )
    kinds = (PairPoints, nn.modules.batchnorm._BatchNorm)
    parts = [part for alignment in alignments for part in alignment.modules() if isinstance(part, kinds)]
    before = [(part.training, dict(part._buffers)) for part in parts]
    try:
        for part in parts:
            part.training = True  # `part.train()` would reach what lies below it, too
            part._buffers.update({name: None if b is None else b.clone() for name, b in part._buffers.items()})
        yield
    finally:
        for part, (training, buffers) in zip(parts, before):
            part.training = training
            part._buffers.update(buffers)


@contextmanager
def _in_eval_mode(model: IlaForVideoClassification, device: torch.device) -> Iterator[None]:
    """The model in eval mode on `device`; afterwards every module has its own mode again, and the model its device."""
    modes = [(module, module.training) for module in model.modules()]
    home = model.device
    try:
        model.eval()
        if device != home:
            model.to(device)
        yield
    finally:
        for module, training in modes:
            module.training = training
        if device != home:
            model.to(home)


# -- videos to logits ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Predictions:
    """What a model says of the videos that could be read, in their order.

    positions: which samples these are, N of them.
    logits: (N, K) float32 on the CPU; of several views the log of their mean probabilities.
    labels: (N,) class indices.
    unreadable: position -> reason, of the other samples.
    frames_lost: packets that gave no frame, in all videos together, as far as they were decoded.
    seconds: for reading and computing, on the clock.
    """

    positions: list[int]
    logits: torch.Tensor
    labels: torch.Tensor
    unreadable: dict[int, str]
    frames_lost: int
    seconds: float


class _Video(NamedTuple):
    """views: (T, C, H, W) or (V, T, C, H, W), or None and why."""

    views: torch.Tensor | None
    frames_lost: int = 0
    reason: str = ""


class _Videos(Dataset):
    def __init__(self, paths: list[str | Path], read: Callable[..., Any]) -> None:
        self.paths, self.read = paths, read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> _Video:
        try:
            inputs = self.read(self.paths[index])
        except VideoDecodingError as error:
            return _Video(None, reason=str(error))
        return _Video(inputs["pixel_values"][0], inputs["video_metadata"][0].frames_lost)


def predict(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: Sequence[tuple[str | Path, int]],
    *,
    protocol: str = "1x1",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    batch_statistics: bool = False,
    num_workers: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Predictions:
    """The model's logits for each video; arguments and errors as in `evaluate`."""
    _check(model, samples, protocol=protocol, batch_size=batch_size, num_workers=num_workers)
    started = time.perf_counter()
    loader = _loader(processor, samples, protocol=protocol, batch_size=batch_size, num_workers=num_workers)
    positions, logits, unreadable, frames_lost = [], [torch.empty(0, model.config.num_labels)], {}, 0
    batch: list[torch.Tensor] = []
    used = model.device if device is None else torch.device(device)
    alignment = alignment_in_train_mode(model) if batch_statistics else nullcontext()
    with _in_eval_mode(model, used), alignment, torch.no_grad():
        for position, video in enumerate(loader):
            if video.views is None:
                unreadable[position] = video.reason
            else:
                batch.append(video.views)
                positions.append(position)
                frames_lost += video.frames_lost
            if batch and (len(batch) == batch_size or position == len(samples) - 1):
                views = torch.stack(batch).to(used)
                logits.append(_fused_logits(model, views, one_by_one=batch_statistics))
                _check_logits(logits[-1], [samples[position][0] for position in positions[-len(batch) :]])
                batch = []
            if progress is not None:
                progress(1)
    labels = torch.tensor([int(samples[position][1]) for position in positions], dtype=torch.long)
    seconds = time.perf_counter() - started
    return Predictions(positions, torch.cat(logits), labels, unreadable, frames_lost, seconds)


def _check(
    model: IlaForVideoClassification,
    samples: Sequence[tuple[str | Path, int]],
    *,
    protocol: str,
    batch_size: int,
    num_workers: int,
) -> None:
    """Everything that can be known to be wrong before a video is read."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"batch_size must be 1 or more and num_workers 0 or more, got {batch_size} and {num_workers}."
        )
    if not samples:
        raise ValueError("There is no video to evaluate: `samples` is empty.")
    count = model.config.num_labels
    outside = [f"{path}: {index}" for path, index in samples if index not in range(count)]
    if outside:
        raise ValueError(
            f"The model has classes 0 to {count - 1}; {len(outside)} videos have others: {_some(outside)}."
        )
    times: dict[str, int] = {}
    for path, _ in samples:
        times[str(path)] = times.get(str(path), 0) + 1
    twice = [path for path, number in times.items() if number > 1]
    if twice:
        raise ValueError(f"Every video counts once; {len(twice)} are listed more than once: {_some(twice)}.")


def _loader(
    processor: IlaVideoProcessor,
    samples: Sequence[tuple[str | Path, int]],
    *,
    protocol: str,
    batch_size: int,
    num_workers: int,
) -> DataLoader:
    """Videos one by one and in order; with workers about one batch is read ahead."""
    clips, crops = PROTOCOLS[protocol]
    options = {"num_clips": clips, "num_crops": crops, "random_frames": False}
    read = partial(processor.preprocess, **options, return_metadata=True, return_tensors="pt")
    return DataLoader(
        _Videos([path for path, _ in samples], read),
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=max(2, -(-batch_size // num_workers)) if num_workers else None,
        generator=torch.Generator(),  # or one number would be drawn from the caller's
    )


def _fused_logits(model: IlaForVideoClassification, views: torch.Tensor, *, one_by_one: bool) -> torch.Tensor:
    """(B, T, C, H, W) or (B, V, T, C, H, W) -> (B, K) float32 on the CPU.

    `one_by_one` gives the model one view of all videos at a time, as X-CLIP's validation does: only those then share
    their batch statistics. It makes no difference otherwise.
    """
    if one_by_one and views.ndim == 6:
        logits = model.fuse_views(torch.stack([model(pixel_values=view).logits for view in views.unbind(1)], dim=1))
    else:
        logits = model(pixel_values=views).logits
    return logits.float().cpu()


def _check_logits(logits: torch.Tensor, paths: Sequence[str | Path]) -> None:
    bad = [path for path, finite in zip(paths, logits.isfinite().all(-1).tolist()) if not finite]
    if bad:
        raise ValueError(f"The model's logits are not finite (NaN or infinite) for {_some(bad)}.")


# -- logits to a report ----------------------------------------------------------------------------------------------


def accuracies(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int | None]:
    """Fractions of the videos, None where there is none.

    Args:
        logits: (N, K). Of equal logits the lower class index ranks first.
        labels: (N,) class indices.

    Returns:
        top1, top5: the label has the highest logit, or is among the min(5, K) highest.
        mean_class_accuracy: mean of the classes' top-1, each over its own videos.
        classes: how many classes have a video, which that mean is over.
    """
    if not len(labels):
        return {"top1": None, "top5": None, "mean_class_accuracy": None, "classes": 0}
    hits = logits.argsort(dim=-1, descending=True, stable=True)[:, :5] == labels[:, None]  # (N, min(5, K))
    first = hits[:, 0].double()
    videos = labels.bincount(minlength=logits.shape[1])
    right = labels.bincount(weights=first, minlength=logits.shape[1])
    return {
        "top1": first.mean().item(),
        "top5": hits.any(-1).double().mean().item(),
        "mean_class_accuracy": (right[videos > 0] / videos[videos > 0]).mean().item(),
        "classes": int((videos > 0).sum()),
    }


def evaluate(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: Sequence[tuple[str | Path, int]],
    *,
    protocol: str = "1x1",
    batch_size: int = 8,
    device: str | torch.device | None = None,
    batch_statistics: bool = False,
    num_workers: int = 0,
    data_set: str | None = None,
    split: str | None = None,
    list_file: str | Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on labelled videos, each counted once.

    A video that cannot be read counts in no accuracy: the report lists it, and has fewer videos evaluated than listed.
    The model computes in eval mode; afterwards its modes, its weights and its device are what they were.

    Args:
        model, processor: of one checkpoint. The protocol replaces the processor's clips and crops, and frames are
            never drawn at random.
        samples: paths and class indices, as `find_videos`, `samples_of_folder` and `samples_of_list` give them.
        protocol: a name of `PROTOCOLS`; the views' probabilities are averaged.
        batch_size: videos, not views, that go through the model together; without `batch_statistics` results do not
            depend on it beyond rounding.
        device: where to compute; by default where the model is.
        batch_statistics: repeat a fault of the official release, whose validation left the network in train mode: see
            `alignment_in_train_mode`. Results then depend on batch size and order, as the report says too. Batches
            are filled with the videos that can be read, in order, the last one may be smaller, and views go through
            one after the other.
        num_workers: processes that read videos beside this one.
        data_set, split, list_file: what the report says of the samples' origin.
        progress: called with the number of videos done since its last call.

    Returns:
        What `json` can write: schema, date, model, data_set, protocol, counts (videos listed, evaluated, unreadable;
        frames_lost), unreadable (paths and reasons), metrics (`accuracies`), seconds and seconds_per_video (of those
        listed, reading included), preprocessing, decoder, versions.

    Raises:
        ValueError: nothing to evaluate, a class that the model does not have, a video listed twice, an unknown
            protocol, `batch_statistics` of a model without alignment; later, logits that are not finite.
        OSError: `list_file` cannot be read.
    """
    origin = {"name": data_set, "split": split, "list": None if list_file is None else _describe_list(Path(list_file))}
    predictions = predict(
        model,
        processor,
        samples,
        protocol=protocol,
        batch_size=batch_size,
        device=device,
        batch_statistics=batch_statistics,
        num_workers=num_workers,
        progress=progress,
    )
    batches = {"batch_size": batch_size, "batch_statistics": batch_statistics}
    note = {"note": BATCH_STATISTICS_NOTE if batch_statistics else None}
    return {
        "schema": REPORT_SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": _describe_model(model, model.device if device is None else torch.device(device)),
        "data_set": origin,
        "protocol": _describe_protocol(processor, protocol) | batches | note,
        **_describe_predictions(predictions, samples),
        "preprocessing": _describe_preprocessing(processor, protocol),
        "decoder": {"pyav": av.__version__, "ffmpeg": av.ffmpeg_version_info},
        "versions": {package.__name__: package.__version__ for package in (torch, torchvision, transformers)}
        | {"transformers_ila": __version__},
    }


def _describe_list(file: Path) -> dict[str, str]:
    return {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def _describe_predictions(predictions: Predictions, samples: Sequence[tuple[str | Path, int]]) -> dict[str, Any]:
    return {
        "counts": {
            "listed": len(samples),
            "evaluated": len(predictions.positions),
            "unreadable": len(predictions.unreadable),
            "frames_lost": predictions.frames_lost,
        },
        "unreadable": [{"path": str(samples[i][0]), "reason": why} for i, why in predictions.unreadable.items()],
        "metrics": accuracies(predictions.logits, predictions.labels),
        "seconds": predictions.seconds,
        "seconds_per_video": predictions.seconds / len(samples),
    }


def fingerprint(model: IlaForVideoClassification) -> str:
    """SHA-256 of the class names, and of every weight and statistic with its name; the same on every device."""
    names = [model.config.id2label[index] for index in range(model.config.num_labels)]
    digest = hashlib.sha256(json.dumps(names).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe_model(model: IlaForVideoClassification, device: torch.device) -> dict[str, Any]:
    return {
        "name": model.name_or_path or None,
        "revision": getattr(model.config, "_commit_hash", None),  # of a model from the Hub
        "labels": model.config.num_labels,
        "fingerprint": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def _describe_protocol(processor: IlaVideoProcessor, protocol: str) -> dict[str, Any]:
    clips, crops = PROTOCOLS[protocol]
    return {
        "name": protocol,
        "clips": clips,
        "crops": crops,
        "frames_per_clip": processor.num_frames,
        "frame_sampling": processor.frame_sampling,
        "frame_stride": processor.frame_stride if processor.frame_sampling == "dense" else None,
    }


def _describe_preprocessing(processor: IlaVideoProcessor, protocol: str) -> dict[str, Any]:
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
    }


def write_report(report: Mapping[str, Any], file: str | Path) -> None:
    """Write the report as JSON; all of it or nothing."""
    file = Path(file)
    content = json.dumps(report, indent=2, allow_nan=False) + "\n"
    new = file.with_name(file.name + ".new")
    with new.open("w", encoding="ascii") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(new, file)

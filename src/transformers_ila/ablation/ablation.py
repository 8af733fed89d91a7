"""Ablations: variants of one model x seeds, each with the same start, data and budget, on MotionBench.

What is unusual here:
- A video is a choice among its own task's classes: the logits of other tasks take no part, neither in the loss nor in
  the accuracy, so that a task's chance is 1 / its classes.
- All variants begin from the same tower: CLIP's weights, or a small one that has learned single pictures
  (`picture_tower.py`). Only what a seed draws differs between runs of a variant.
- Every finished run is a file, so a broken ablation goes on, and several processes may share one folder.
"""

import hashlib
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from transformers import set_seed
from transformers.utils import logging

from ..cost import count
from ..data.video_folder import VideoFolder, find_videos
from ..evaluation.evaluator import predict
from ..evaluation.frame_information import earth_movers_distance, last_patches, mutual_information
from ..model.configuration_ila import CLIP_SIZES, IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from ..motionbench.tasks import SIZES, TASKS, bench_labels, write_bench
from ..training.arguments import IlaTrainingArguments
from ..training.recipes import validate_config_fields
from ..training.trainer import IlaTrainer
from ..version import __version__
from .image_pretraining import pretrain_on_frames, save_pretrained_tower


logger = logging.get_logger(__name__)


OTHER_TASKS = -1e4  # logit of a class of another task
KEPT_BYTES = 8 * 2**30  # of processed training videos; sets that need more are read anew in every epoch
MEASURED = 64  # test videos whose frames are compared
PROVENANCE = "made_of.json"  # beside a tower or checkpoints: the numbers that they depend on
VARIANT_DEFAULTS = {"temporal_module": "ila"}  # of a variant that does not say so, whatever its weights come from


class RunInProgress(RuntimeError):
    """Another process is at the same run."""


# -- what is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablation:
    """A file of `recipes/ablation_*.yaml`.

    Fields:
        variants: name -> fields of IlaConfig that make it.
        model: fields of IlaConfig that all have.
        training: fields of IlaTrainingArguments that all have.
        seeds: of what is drawn: new weights, and the order of the videos.
        bench, bench_seed, tasks: size, seed and tasks of MotionBench.
        clip: weights to start from. None: a tower of `model` that learns single pictures first.
        pictures: arguments of `pretrain_on_frames`.
        cost_tower: one of CLIP's, for which costs are counted too.
    """

    variants: dict[str, dict[str, Any]]
    model: dict[str, Any]
    training: dict[str, Any]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    bench: str = "minute"
    bench_seed: int = 0
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    clip: str | None = None
    pictures: dict[str, Any] = field(default_factory=dict)
    cost_tower: str = "B/32"

    def __post_init__(self) -> None:
        seeds, variants, tasks = self.seeds, self.variants, self.tasks
        named = isinstance(variants, dict) and all(isinstance(fields, dict) for fields in variants.values())
        numbers = isinstance(seeds, list) and all(type(seed) is int for seed in seeds)
        allowed = {
            "bench": (self.bench in tuple(SIZES), ", ".join(SIZES)),
            "cost_tower": (self.cost_tower in tuple(CLIP_SIZES), ", ".join(CLIP_SIZES)),
            "seeds": (numbers and len(set(seeds)) == len(seeds) > 0, "whole numbers, one or more, all different"),
            "variants": (named and len(variants) > 0, "one or more, each `name: {field: value}`"),
            "tasks": (isinstance(tasks, list) and len(set(tasks)) == len(tasks) > 0, "one or more, all different"),
        }
        for name, (good, values) in allowed.items():
            if not good:
                raise ValueError(f"`{name}` must be {values}, got {getattr(self, name)!r}.")
        bench_labels(tasks)
        _known("training", self.training, [entry.name for entry in fields(IlaTrainingArguments)])
        _known("pictures", self.pictures, [n for n in signature(pretrain_on_frames).parameters if n != "fields"])
        for name, variant in variants.items():
            if "vision_config" in variant:
                raise ValueError(f"Variant {name!r} has a `vision_config`; the tower is the same for all, of `model`.")
            validate_config_fields({**self.model, **variant})
        if self.clip is not None and "vision_config" in self.model:
            raise ValueError("`model` has a `vision_config` and `clip` a tower of its own; leave one of them out.")

    def fields_of(self, variant: str) -> dict[str, Any]:
        """Of IlaConfig, the labels included."""
        labels = bench_labels(self.tasks)
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
        return {**self.model, **self.variants[variant], **names}

    def decided(self, variant: str) -> dict[str, Any]:
        """What a run's result depends on, beside its seed."""
        shared = {name: getattr(self, name) for name in ("bench", "bench_seed", "tasks", "clip", "pictures")}
        training = {
            name: value for name, value in self.training.items() if not name.startswith(("save_", "dataloader_"))
        }
        return {**shared, "training": training, "model": {**self.model, **self.variants[variant]}}


def _known(part: str, given: Any, allowed: Sequence[str]) -> None:
    unknown = sorted(map(str, set(given) - set(allowed)))
    if unknown:
        raise ValueError(f"`{part}` has unknown {', '.join(unknown)}; its keys are {', '.join(allowed)}.")


def read_ablation(file: str | Path) -> Ablation:
    """Read a YAML file.

    Raises:
        ValueError: no YAML mapping, unknown or missing keys, or values that are not allowed.
        OSError: the file cannot be read.
    """
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(file)!r} is no YAML: {error}") from error
    allowed = [entry.name for entry in fields(Ablation)]
    if not isinstance(values, dict) or (unknown := sorted(map(str, values.keys() - set(allowed)))):
        found = f"unknown {', '.join(unknown)}" if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{str(file)!r} is no ablation: {found}; its keys are {', '.join(allowed)}.")
    wanted = ("variants", "model", "training", *(["pictures"] if "pictures" in values else []))
    missing = [name for name in wanted if not isinstance(values.get(name), dict)]
    if missing:
        raise ValueError(f"{str(file)!r} must have {', '.join(missing)}, each `key: value` lines.")
    return Ablation(**values)


# -- where results lie -----------------------------------------------------------------------------------------------


def result_file(folder: str | Path, variant: str, seed: int) -> Path:
    name = "".join(letter if letter.isalnum() else "_" for letter in variant)
    digest = hashlib.sha256(variant.encode()).hexdigest()[:6]  # two names may differ in signs only
    return Path(folder) / "runs" / f"{name}-{digest}" / f"seed{seed}.json"


def read_results(ablation: Ablation, folder: str | Path) -> list[dict[str, Any]]:
    """Of the runs that are finished, in the order of the recipe.

    Raises:
        ValueError: a result of other numbers than the recipe's, or of another tower than the folder's.
    """
    found, tower = [], tower_digest(folder)
    for seed in ablation.seeds:
        for variant in ablation.variants:
            file = result_file(folder, variant, seed)
            if not file.is_file():
                continue
            result = json.loads(file.read_text(encoding="utf-8"))
            refuse_other(file, result["decided"], ablation.decided(variant))
            if result.get("tower", tower) != tower:
                raise ValueError(
                    f"{str(file)!r} began from another tower than {str(folder)!r} has: delete one of them."
                )
            found.append(result)
    return found


def refuse_other(file: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a ValueError where what a file was made of is not what is asked for now."""
    now = json.loads(json.dumps(now))
    other = [key for key in now if stored.get(key) != now[key]]
    if other:
        raise ValueError(
            f"{str(file)!r} is of another ablation ({', '.join(other)} differ): delete it, or name another folder."
        )


def tower_digest(folder: str | Path) -> str | None:
    """Of the weights that all begin from; None where that is no tower of the folder's own."""
    file = Path(folder) / "tower" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def write_json(file: Path, values: Any) -> None:
    """As a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    draft.write_text(json.dumps(values, indent=1), encoding="utf-8")
    draft.replace(file)


@contextmanager
def file_lock(folder: str | Path, what: str) -> Iterator[None]:
    """One process at a time; the others wait."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder) / f".{what}.lock"):
        yield


# -- the same start and data for all ---------------------------------------------------------------------------------


@dataclass
class SharedInputs:
    """What all runs share: weights to begin from, videos to learn from, and videos to be tested on."""

    weights: str
    processor: IlaVideoProcessor
    training: VideoFolder
    test: list[tuple[Path, int]]


def prepare(
    ablation: Ablation, folder: str | Path, *, progress: Callable[[str], object] = logger.info
) -> SharedInputs:
    """Write the videos and train the picture tower, where that was not done before."""
    folder = Path(folder)
    with file_lock(folder, "prepare"):
        progress(f"MotionBench, {ablation.bench}: {folder / 'bench'}")
        splits = write_bench(folder / "bench", size=ablation.bench, seed=ablation.bench_seed, tasks=ablation.tasks)
        weights = ablation.clip or str(folder / "tower")
        if ablation.clip is None:
            _prepare_tower(ablation, folder, progress)
    config = IlaConfig.from_pretrained(weights, num_frames=ablation.model.get("num_frames", 8))
    size = config.vision_config.image_size
    processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": size})
    labels, training = find_videos(splits["train"])
    assert labels == bench_labels(ablation.tasks)
    keep = len(training) * processor.num_frames * 3 * size * size * 4 <= KEPT_BYTES
    return SharedInputs(
        weights, processor, VideoFolder(training, processor, keep=keep), find_videos(splits["test"])[1]
    )


def _prepare_tower(ablation: Ablation, folder: Path, progress: Callable[[str], object]) -> None:
    tower, made_of = folder / "tower", {"model": ablation.model, "pictures": ablation.pictures}
    if (tower / "config.json").is_file():
        known = (tower / PROVENANCE).is_file()
        refuse_other(tower, json.loads((tower / PROVENANCE).read_text()) if known else {}, made_of)
        return
    started = time.perf_counter()

    def say(step: int, error: float) -> None:
        if step % 500 == 0:
            progress(f"Learning pictures: {step} steps, mean squared error {error:.3f}")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = pretrain_on_frames(ablation.model, device=device, progress=say, **ablation.pictures)
    save_pretrained_tower(model, folder / ".tower.part")
    write_json(folder / ".tower.part" / PROVENANCE, made_of)
    (folder / ".tower.part").rename(tower)
    progress(f"A tower that has learned pictures, in {time.perf_counter() - started:.0f} s: {tower}")


def start_model(ablation: Ablation, variant: str, weights: str) -> IlaForVideoClassification:
    """New weights come from torch's generator; a text head without CLIP's words gets orthogonal class features."""
    wanted = {name: value for name, value in ablation.fields_of(variant).items() if name != "vision_config"}
    labels = list(wanted.pop("id2label").values())
    del wanted["label2id"]
    wanted = {**VARIANT_DEFAULTS, **wanted}
    if wanted.get("classification_head") != "text" or ablation.clip is not None:
        return IlaForVideoClassification.from_pretrained(weights, labels=labels, **wanted)
    model = IlaForVideoClassification.from_pretrained(weights, class_features="embeddings", **wanted)
    classes = torch.nn.init.orthogonal_(torch.empty(len(labels), model.config.projection_dim))
    model.set_class_embeddings(classes, labels)
    return model


def task_mask(labels: Sequence[str]) -> torch.Tensor:
    """(K, K) bool: which classes belong to the same task as each."""
    tasks = [label.partition(", ")[0] for label in labels]
    return torch.tensor([[one == other for other in tasks] for one in tasks])


class TaskTrainer(IlaTrainer):
    """`IlaTrainer` that asks for the class among those of the video's own task."""

    def __init__(self, *args: Any, own: torch.Tensor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.own = own

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        # with labels the alignment loss is an entry: mixed precision makes the output anew, of its entries only
        outputs = model(pixel_values=inputs["pixel_values"], labels=labels)
        plain = self.accelerator.unwrap_model(self.model)
        logits = outputs.logits.masked_fill(~self.own.to(labels.device)[labels], OTHER_TASKS)
        outputs.loss = plain.add_alignment_loss(plain.classification_loss(logits, labels), outputs.alignment_loss)
        if model.training:
            self._count(outputs, len(labels))
        return (outputs.loss, outputs) if return_outputs else outputs.loss


# -- one run ---------------------------------------------------------------------------------------------------------


def run(
    ablation: Ablation, variant: str, seed: int, start: SharedInputs, folder: str | Path, *, keep_model: bool = False
) -> dict[str, Any]:
    """Train, test and write the result of one variant and seed; goes on from a checkpoint that was left.

    keep_model: leave model and processor beside the result, in `seed<N>_model`.

    Raises:
        InterruptedError: SIGTERM ended the training before its last step; nothing is written but a checkpoint.
        RunInProgress: another process is at it.
        ValueError: a checkpoint of another ablation, or several GPUs for one process.
    """
    file = result_file(folder, variant, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file.with_name(f".{file.stem}.lock"), timeout=0):
            return _run(ablation, variant, seed, start, folder, keep_model)
    except Timeout:
        raise RunInProgress(f"{variant}, seed {seed}: another process is at it.") from None


def _run(
    ablation: Ablation, variant: str, seed: int, start: SharedInputs, folder: str | Path, keep_model: bool
) -> dict[str, Any]:
    file = result_file(folder, variant, seed)
    checkpoints, decided = file.with_suffix(""), ablation.decided(variant)
    if (checkpoints / PROVENANCE).is_file():
        refuse_other(checkpoints, json.loads((checkpoints / PROVENANCE).read_text()), decided)
    write_json(checkpoints / PROVENANCE, decided)
    started = time.perf_counter()
    set_seed(seed)
    model = start_model(ablation, variant, start.weights)
    steps = ablation.training.get("max_steps", 0)
    defaults: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    defaults["logging_steps"] = min(100, steps) if steps > 0 else 100
    if not torch.accelerator.is_available():
        defaults["use_cpu"] = True
    arguments = IlaTrainingArguments(str(checkpoints), seed=seed, **{**defaults, **ablation.training})
    if arguments.n_gpu > 1:
        raise ValueError(f"{arguments.n_gpu} GPUs for one process; name one by CUDA_VISIBLE_DEVICES, and use --part.")
    own = task_mask(bench_labels(ablation.tasks))
    trainer = TaskTrainer(model=model, args=arguments, train_dataset=start.training, own=own)
    trainer.train(resume_from_checkpoint=checkpoints.is_dir() or None)
    if trainer.stop.stopped:
        raise InterruptedError(f"{variant}, seed {seed}, was stopped; the same command goes on.")
    trained = time.perf_counter() - started
    logs = [line for line in trainer.state.log_history if "classification_loss" in line]
    result = {
        "variant": variant,
        "seed": seed,
        "decided": decided,
        "tower": tower_digest(Path(start.weights).parent),
        "version": __version__,
        "train_seconds": trained,  # whatever else the machine did meanwhile
        "train_loss": logs[-1]["classification_loss"] if logs else None,
        **test(model, start, own),
    }
    if trainer.is_world_process_zero():
        if keep_model:
            for kept in (model, start.processor):
                kept.save_pretrained(file.with_name(f"{file.stem}_model"))
        write_json(file, result)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def test(model: IlaForVideoClassification, start: SharedInputs, own: torch.Tensor) -> dict[str, Any]:
    """Accuracy of each task, as is and with the frames in another order, and what neighbouring frames share."""
    found = predict(model, start.processor, start.test, batch_size=64, temporal_reliance=True)
    by_order = {"as_is": found.logits, **found.reordered}
    tasks = [name.partition(", ")[0] for name in model.config.class_names]
    accuracy: dict[str, dict[str, float]] = {}
    for order, logits in by_order.items():
        right = logits.masked_fill(~own[found.labels], OTHER_TASKS).argmax(-1) == found.labels
        of_task = np.array([tasks[label] for label in found.labels.tolist()])
        accuracy[order] = {task: float(right.numpy()[of_task == task].mean()) for task in dict.fromkeys(tasks)}
    step = max(1, len(start.test) // MEASURED)
    clips = [start.processor(path, return_tensors="pt")["pixel_values"] for path, _ in start.test[::step][:MEASURED]]
    patches = last_patches(model.eval(), torch.cat(clips).to(model.device))
    return {
        "accuracy": accuracy,
        "transport_distance": float(earth_movers_distance(patches).mean()),
        "shared_information": float(mutual_information(patches).mean()),
    }


def mean_accuracy(result: Mapping[str, Any], order: str = "as_is") -> float:
    """Of the tasks, each counting once."""
    return statistics.mean(result["accuracy"][order].values())


# -- what variants cost ----------------------------------------------------------------------------------------------


def config_for_cost(ablation: Ablation, variant: str) -> IlaConfig:
    """The variant on `cost_tower`, with a head as in the paper's tables: class names, features computed before."""
    changed, frames = dict(ablation.variants[variant]), ablation.model.get("num_frames", 8)
    config = IlaConfig.from_clip_size(ablation.cost_tower, num_frames=frames, num_labels=400)
    if changed.get("alignment_layers") is not None and ablation.clip is None:  # the same share of the tower
        own, there = IlaConfig(**ablation.fields_of(variant)).vision_config, config.vision_config.num_hidden_layers
        times = there / own.num_hidden_layers
        changed["alignment_layers"] = [
            layer for index in own.temporal_layers for layer in range(round(index * times), round((index + 1) * times))
        ]
    return IlaConfig.from_clip_size(ablation.cost_tower, **{"num_frames": frames, "num_labels": 400, **changed})


def own_gmacs(ablation: Ablation, variant: str) -> float:
    """Of the network that was trained; not where it began as a checkpoint's."""
    return count(IlaConfig(**ablation.fields_of(variant))).gmacs

"""What an ablation compares: variants of one model x seeds, each with the same start, data and budget.

The videos are MotionBench's, or those of a user's own lists (`train_list`, `test_list`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from ..cost import count
from ..data.annotations import Annotations, read_annotations
from ..data.samples import refuse_common_videos, samples_hash
from ..model.class_names_ila import label_fields
from ..model.configuration_ila import CLIP_SIZES, IlaConfig
from ..motionbench.tasks import SIZES, TASKS, bench_labels
from ..training.arguments import IlaTrainingArguments
from ..training.augmentation import ClipAugmentation
from ..training.recipes import validate_config_fields
from .image_pretraining import pretrain_on_frames


ALL_VIDEOS = "all videos"  # the one task of a user's own lists


@dataclass(frozen=True)
class Ablation:
    """Hold the content of a recipe for an ablation (`ablation_*.yaml`).

    Fields:
        variants: name -> fields of IlaConfig that make the variant.
        model: fields of IlaConfig that all variants have.
        training: fields of IlaTrainingArguments that all runs have.
        seeds: of what is drawn: new weights, the order of the videos, and augmentation.
        reference: the variant that the others are compared with; the first one by default.
        bench, bench_seed, tasks: size, seed and tasks of MotionBench.
        train_list, test_list: a user's own annotations, or folders with one sub-folder per class, in place of
            MotionBench. videos: the folder that paths in these lists start from. labels: class names, or their file.
        augmentation: fields of ClipAugmentation for the videos of `train_list`.
        clip: Hub id or folder of the weights that all variants start from. None: a tower of `model` that learns
            single pictures first.
        pictures: arguments of `pretrain_on_frames`.
        cost_tower: the CLIP tower for which costs are counted too.

    Raises:
        ValueError: a value that is not allowed.
    """

    variants: dict[str, dict[str, Any]]
    model: dict[str, Any]
    training: dict[str, Any]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    reference: str | None = None
    bench: str = "minute"
    bench_seed: int = 0
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    train_list: str | None = None
    test_list: str | None = None
    videos: str | None = None
    labels: str | None = None
    augmentation: dict[str, Any] = field(default_factory=dict)
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
        if self.reference not in (None, *variants):
            raise ValueError(f"`reference` must be one of {', '.join(variants)}; got {self.reference!r}.")
        self._check_lists()
        _refuse_unknown("training", self.training, [entry.name for entry in fields(IlaTrainingArguments)])
        _refuse_unknown("augmentation", self.augmentation, [e.name for e in fields(ClipAugmentation)])
        pictures = [name for name in signature(pretrain_on_frames).parameters if name != "fields"]
        _refuse_unknown("pictures", self.pictures, pictures)
        for name, variant in variants.items():
            if "vision_config" in variant:
                raise ValueError(f"Variant {name!r} has a `vision_config`; the tower is the same for all, of `model`.")
            validate_config_fields(self._model_of(name))
        if self.clip is not None and "vision_config" in self.model:
            raise ValueError("`model` has a `vision_config` and `clip` a tower of its own; leave one of them out.")

    def _check_lists(self) -> None:
        if (self.train_list is None) != (self.test_list is None):
            raise ValueError("`train_list` and `test_list` go together: one to learn from, one to be tested on.")
        alone = [name for name in ("videos", "labels", "augmentation") if getattr(self, name)]
        if self.train_list is None and alone:
            raise ValueError(f"{', '.join(alone)} is of `train_list` and `test_list`, which are not given.")

    @cached_property
    def lists(self) -> tuple[Annotations, Annotations] | None:
        """Return the user's training and test videos, read once; None where the videos are MotionBench's.

        Raises:
            ValueError: a fault in a list, no class names, or a video in both.
            OSError: a list cannot be read.
        """
        if self.train_list is None or self.test_list is None:
            return None
        training = self._read(self.train_list, self.labels)
        if training.class_names is None:
            raise ValueError(f"Nothing names the classes of {self.train_list!r}: give `labels`.")
        test = self._read(self.test_list, training.labels())
        refuse_common_videos(training, test)
        return training, test

    def _read(self, source: str, labels: Any) -> Annotations:
        root = None if Path(source).is_dir() else self.videos
        return read_annotations(source, labels=labels, root=root, multi_label=False)

    @property
    def class_names(self) -> list[str]:
        """Return the K class names: the user's lists', or MotionBench's "task, class", sorted."""
        return bench_labels(self.tasks) if self.lists is None else list(self.lists[0].class_names or [])

    @property
    def task_names(self) -> list[str]:
        """Return the names of the tasks; each task counts once in an accuracy."""
        return self.tasks if self.train_list is None else [ALL_VIDEOS]

    def task_of(self, class_name: str) -> str:
        """Return the name of the task that a class belongs to."""
        return class_name.partition(", ")[0] if self.train_list is None else ALL_VIDEOS

    @property
    def class_tasks(self) -> list[str]:
        """Return the task of every class, in the order of the classes."""
        return [self.task_of(name) for name in self.class_names]

    def fields_of(self, variant: str) -> dict[str, Any]:
        """Return the fields of a variant's IlaConfig, with its labels."""
        return {**self._model_of(variant), **label_fields(self.class_names)}

    def _model_of(self, variant: str) -> dict[str, Any]:
        """Return the fields of the variant, and those of `model` that have an effect beside them."""
        changed = self.variants[variant]
        return {**IlaConfig.fields_in_use(self.model, changed), **changed}

    def decided(self, variant: str) -> dict[str, Any]:
        """Return everything, beside its seed, that the result of a variant's run depends on."""
        names = ("bench", "bench_seed", "tasks") if self.lists is None else ("augmentation",)
        shared = {name: getattr(self, name) for name in (*names, "clip", "pictures")}
        if self.lists is not None:
            training, test = self.lists
            shared |= {"train_samples": samples_hash(training.samples), "test_samples": samples_hash(test.samples)}
        training_fields = {
            name: value for name, value in self.training.items() if not name.startswith(("save_", "dataloader_"))
        }
        return {**shared, "training": training_fields, "model": {**self.model, **self.variants[variant]}}


def _refuse_unknown(part: str, given: Any, allowed: Sequence[str]) -> None:
    unknown = sorted(map(str, set(given) - set(allowed)))
    if unknown:
        raise ValueError(f"`{part}` has unknown {', '.join(unknown)}; its keys are {', '.join(allowed)}.")


def read_ablation(file: str | Path, changes: Mapping[str, Any] | None = None) -> Ablation:
    """Read a YAML file, and lay changes over its values.

    Args:
        file: the recipe's file.
        changes: values of fields of `Ablation` in place of the file's; of "variants" the names of those to keep.

    Raises:
        ValueError: no YAML mapping, unknown or missing keys, or values that are not allowed.
        OSError: the file cannot be read.
    """
    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(file)!r} is no YAML: {error}") from error
    allowed = [entry.name for entry in fields(Ablation)]
    if not isinstance(values, dict):
        raise ValueError(f"{str(file)!r} is no ablation: {type(values).__name__}; its keys are {', '.join(allowed)}.")
    _refuse_unknown(str(file), values, allowed)
    optional = [name for name in ("pictures", "augmentation") if name in values]
    missing = [name for name in ("variants", "model", "training", *optional) if not isinstance(values.get(name), dict)]
    if missing:
        raise ValueError(f"{str(file)!r} must have {', '.join(missing)}, each `key: value` lines.")
    changes = dict(changes or {})
    if "variants" in changes:
        chosen, there = changes.pop("variants"), values["variants"]
        unknown = [name for name in chosen if name not in there]
        if unknown:
            named = ", ".join(map(repr, unknown))
            raise ValueError(f"{str(file)!r} has no variant {named}; it has {', '.join(map(repr, there))}.")
        values["variants"] = {name: there[name] for name in chosen}
    return Ablation(**{**values, **changes})


# -- what variants cost ----------------------------------------------------------------------------------------------


def config_for_cost(ablation: Ablation, variant: str) -> IlaConfig:
    """Return a variant's configuration on `cost_tower`, with the text head and 400 classes of the paper's tables."""
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
    """Return the giga multiply-accumulates of a variant's network, of the size in which it is trained."""
    return count(IlaConfig(**ablation.fields_of(variant))).gmacs

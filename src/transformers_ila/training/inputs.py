"""What a recipe's run starts from: a model, videos to train on, and videos to evaluate on."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from ..data.annotations import Annotations, read_annotations, takes_root
from ..data.samples import samples_hash
from ..data.shards import shard_sizes
from ..data.video_folder import warn_of_single_videos
from ..evaluation.inference import named_in_errors, require_checkpoint
from ..model.class_names_ila import label_fields
from ..model.configuration_ila import CLIP_SIZES, IlaConfig, causal_start
from ..model.loading_ila import refuse_adapter
from ..model.modeling_ila import IlaForVideoClassification
from ..model.validation_ila import MULTI_LABEL
from .recipes import RecipeArguments, validate_config_fields


logger = logging.get_logger(__name__)


def config_of(recipe: RecipeArguments, class_names: Sequence[str], *, multi_label: bool = False) -> IlaConfig:
    """Return the configuration of the recipe's tower with its fields and classes.

    Raises:
        ValueError: an unknown tower, or fields and values that IlaConfig does not have.
    """
    fields = {"problem_type": _problem(multi_label), **validate_config_fields(recipe.model_fields())}
    fields |= causal_start(IlaConfig.vision_kind, {}, fields)
    return IlaConfig.from_clip_size(recipe.tower, **label_fields(class_names), **fields)


def _problem(multi_label: bool) -> str | None:
    return MULTI_LABEL if multi_label else None


def model_of(
    recipe: RecipeArguments, class_names: Sequence[str], *, multi_label: bool = False
) -> IlaForVideoClassification:
    """Return the recipe's model with the weights of `clip`, or with random ones (`from_scratch`).

    With `lora_r` it is a `PeftModel` around that model.

    multi_label: the model gives a video several labels, whatever the one in `clip` gives.

    Raises:
        ValueError: as in `check_model`, or weights that do not load.
        OSError: there are no such weights.
    """
    check_model(recipe)
    if recipe.from_scratch:
        return IlaForVideoClassification(config_of(recipe, class_names, multi_label=multi_label))
    wanted, kind = {"problem_type": _problem(multi_label), **recipe.model_fields()}, class_of(recipe)
    with named_in_errors(str(recipe.clip)):
        model = load_for_classes(recipe.clip, class_names, kind=kind, **wanted)
    vision = CLIP_SIZES[recipe.tower][0]
    found = {name: getattr(model.config.vision_config, name) for name in vision}
    other = {name: value for name, value in found.items() if value != vision[name]}
    if other:
        logger.warning(f"{recipe.clip!r} is no {recipe.tower} tower, which the recipe is meant for: {other}.")
    return model if recipe.lora_r is None else _with_adapter(model, recipe)


def _with_adapter(model: IlaForVideoClassification, recipe: RecipeArguments) -> Any:
    """Return the PEFT model with the recipe's adapter on a model."""
    from peft import get_peft_model

    from .adapters import lora_config  # which needs PEFT

    options = {"lora_alpha": recipe.lora_alpha, "lora_dropout": recipe.lora_dropout}
    return get_peft_model(model, lora_config(model, recipe.lora_r or 0, mlp=recipe.lora_mlp, **options))


def class_of(recipe: RecipeArguments) -> type[IlaForVideoClassification]:
    """Return the class that goes on from the weights of `clip`: a decoder on a frozen CLIP stays one.

    Raises:
        ValueError: weights of a class that a recipe does not train, or an adapter.
        OSError: there are no such weights.
    """
    path = str(recipe.clip)
    refuse_adapter(path)
    with named_in_errors(path):
        found = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
        if found != FrozenClipConfig.model_type:
            IlaConfig.get_config_dict(path)  # which refuses other models by their class
            return IlaForVideoClassification
    if recipe.classification_head != "linear":
        given = recipe.classification_head
        raise ValueError(
            f"{path!r} is a FrozenClipForVideoClassification: --classification_head linear, not {given!r}."
        )
    return FrozenClipForVideoClassification


def load_for_classes(
    path: Any,
    class_names: Sequence[str],
    *,
    kind: type[IlaForVideoClassification] = IlaForVideoClassification,
    **fields: Any,
) -> IlaForVideoClassification:
    """Load weights to train them on classes; a linear head that has learned others starts anew, and a warning says so.

    Raises:
        ValueError: other weights than the head's have another shape than the configuration with these `fields`.
    """
    model, info = kind.from_pretrained(
        path, labels=class_names, ignore_mismatched_sizes=True, output_loading_info=True, **fields
    )
    other = sorted({name for name, *_ in info["mismatched_keys"]} - set(model.class_keys))
    if other:
        raise ValueError(f"{str(path)!r} holds weights of other shapes than its configuration with {fields}: {other}.")
    return model


def check_model(recipe: RecipeArguments) -> None:
    """Find what is wrong with the recipe's model before any weights are loaded.

    Raises:
        ValueError: neither or both of `clip` and `from_scratch`, an unknown tower, or fields and values that IlaConfig
            does not have; or `clip` is neither a folder with a configuration nor a Hub id.
        ImportError: an adapter is wanted, and PEFT is not installed.
    """
    if recipe.lora_r is not None:
        if recipe.from_scratch:
            raise ValueError("`lora_r` adapts weights that can be loaded again, `from_scratch` draws them: --clip.")
        from . import adapters  # noqa: F401  # which needs PEFT
    if recipe.from_scratch and recipe.clip is not None:
        raise ValueError("`from_scratch` draws all weights, and `clip` names some to start from: give one of the two.")
    if recipe.from_scratch and recipe.classification_head == "text":
        raise ValueError("`from_scratch` has no words to compare videos with: --classification_head linear.")
    if recipe.clip is None and not recipe.from_scratch:
        raise ValueError("`clip` must be the Hub id or the folder of weights to start from: --clip.")
    if recipe.clip is not None:
        require_checkpoint(recipe.clip)
        class_of(recipe)
    if recipe.tower not in CLIP_SIZES:
        raise ValueError(f"`tower` must be one of {', '.join(CLIP_SIZES)}, got {recipe.tower!r}.")
    validate_config_fields(recipe.model_fields())


# -- videos -----------------------------------------------------------------------------------------------------------


def annotations_of(recipe: RecipeArguments, *, seed: int = 0) -> tuple[Annotations, Annotations | None, list[str]]:
    """Return the videos to train on, those to evaluate on, and the names of their classes.

    Without a `val_list`, `val_fraction` of the training videos is held out, as `seed` draws it. The recipe is given
    the hashes of the training list.

    Raises:
        ValueError: no list, another list than the recipe's, no class names, or a class that no training list has.
        OSError: a list cannot be read.
    """
    if recipe.train_list is None:
        raise ValueError("`train_list` must name what to train on: --train_list.")
    options = {name: getattr(recipe, name) for name in ("format", "labels", "label_field")} | {"root": recipe.videos}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if not takes_root(recipe.train_list):
        given.pop("root", None)
    given["multi_label"] = recipe.multi_label or None  # not False: the error is to say how to ask for them
    training = read_annotations(recipe.train_list, split=recipe.train_split, **given)
    if training.class_names is None:
        raise ValueError(f"Nothing names the classes of {recipe.train_list!r}: --labels.")
    if recipe.train_list_sha256 not in (None, training.sha256):
        raise ValueError(f"{recipe.train_list!r} is not the list of this run: `train_list_sha256` differs.")
    recipe.train_list_sha256 = training.sha256
    found = _samples_sha256(training, recipe)
    if recipe.train_samples_sha256 not in (None, found):
        raise ValueError(f"{recipe.train_list!r} holds other videos or labels: `train_samples_sha256` differs.")
    recipe.train_samples_sha256 = found
    if recipe.val_list is None:
        return *hold_out_videos(training, recipe.val_fraction or 0.0, seed=seed), training.class_names
    if not takes_root(recipe.val_list):
        given.pop("root", None)
    if Path(recipe.val_list).is_dir() and not Path(recipe.train_list).is_dir():
        given.pop("format", None)  # of another kind of annotation
        given.pop("label_field", None)
    given["labels"] = training.labels()  # by which those of the other list are found, and the number of the first
    evaluation = read_annotations(recipe.val_list, split=recipe.val_split, **given)
    return training, evaluation, training.class_names


def hold_out_videos(annotations: Annotations, fraction: float, *, seed: int) -> tuple[Annotations, Annotations | None]:
    """Split videos at random: those to train on, and `fraction` of them to evaluate on; None where that is no video.

    The fraction is taken of every class, rounded, but is one video at least, and leaves each class a video to train
    on: a class of one is not evaluated, and a warning says so. Of videos with several labels the fraction is taken of
    all together. Cuts of one longer video may come to lie on both sides: who has such gives a `val_list`.
    """
    generator = torch.Generator().manual_seed(seed)
    classes: dict[int, list[int]] = {}
    for index, sample in enumerate(annotations.samples):
        classes.setdefault(-1 if annotations.multi_label else sample.labels[0], []).append(index)
    held: set[int] = set()
    if fraction > 0 and not annotations.multi_label:
        names = annotations.class_names or range(max(classes, default=0) + 1)
        warn_of_single_videos([names[label] for label, members in sorted(classes.items()) if len(members) == 1])
    for _, members in sorted(classes.items()):
        count = min(max(int(fraction * len(members) + 0.5), fraction > 0), len(members) - 1)
        held.update(members[place] for place in torch.randperm(len(members), generator=generator)[:count].tolist())
    if not held:
        return annotations, None
    parts = [[s for i, s in enumerate(annotations.samples) if (i in held) is side] for side in (False, True)]
    return replace(annotations, samples=parts[0]), replace(annotations, samples=parts[1])


def _samples_sha256(training: Annotations, recipe: RecipeArguments) -> str:
    """Return a hash of the samples' names and labels; of a stream also of the shards' names and sizes."""
    digest = samples_hash(training.samples)
    if not recipe.stream:
        return digest
    shards = [(os.path.basename(shard), size) for shard, size in shard_sizes(str(recipe.train_list)).items()]
    return hashlib.sha256(json.dumps([digest, shards]).encode()).hexdigest()

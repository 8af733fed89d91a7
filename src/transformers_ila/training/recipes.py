"""Recipes: YAML files of numbers, which with options of the same names decide a training run.

What is unusual here:
- a recipe holds fields of `RecipeArguments` and of `IlaTrainingArguments`; any other key is an error;
- the batch is given for all processes together, so that a recipe means the same on any number of them;
- what was decided is a recipe again (`training.yaml`), beside the checkpoints; a resumed run must agree with it.
"""

import difflib
import hashlib
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser
from transformers.utils import logging

from ..data.annotations import Annotations, list_shards, read_annotations
from ..data.samples import samples_hash
from ..model.configuration_ila import _VISION_FIELDS, CLIP_SIZES, IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from .arguments import IlaTrainingArguments
from .augmentation import ClipAugmentation, MixClips


logger = logging.get_logger(__name__)


RESOLVED = "training.yaml"
MAY_CHANGE = {  # between the parts of one run: where files lie, what is written, and how the work is divided
    *("output_dir", "clip", "videos", "train_list", "val_list", "resume", "expect_processes"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("activation_checkpointing", "gradient_checkpointing", "ddp_find_unused_parameters", "eval_accumulation_steps"),
    *("report_to", "run_name", "project", "disable_tqdm", "log_level", "log_level_replica", "save_total_limit"),
    *("logging_steps", "logging_strategy", "logging_first_step", "max_unreadable", "ddp_timeout", "use_cpu"),
}
ALWAYS_WRITTEN = {*IlaTrainingArguments.__annotations__, "seed", "max_steps", "max_grad_norm", "optim", "bf16", "fp16"}
NEVER_WRITTEN = {"hub_token", "accelerator_config", "debug"}  # secret, or derived
MAY_CHANGE_PREFIX = ("dataloader_", "hub_", "push_to_hub", "trackio_")
STREAM_FIXES = {  # what decides, where shards are streamed, who reads which; together also the number of processes
    *("dataloader_num_workers", "per_device_train_batch_size", "gradient_accumulation_steps"),
}


@dataclass
class RecipeArguments:
    """A training run, beside what `IlaTrainingArguments` says of the optimisation."""

    tower: str = field(default="B/16", metadata={"help": "the CLIP tower that the numbers are meant for"})
    clip: str | None = field(default=None, metadata={"help": "Hub id or folder of CLIP or ILA weights to start from"})
    num_frames: int = field(default=8, metadata={"help": "frames of a clip"})
    classification_head: str = field(default="text", metadata={"help": "text or linear"})
    use_video_prompt: bool = field(default=True, metadata={"help": "video-specific prompts of the text head"})
    temporal_module: str = field(default="ila", metadata={"help": "ila, none, message, divided, ata, ..."})
    alignment_fusion: str = field(default="interaction", metadata={"help": "mi_token is the paper's"})
    alignment_conv: str = field(default="depthwise_separable", metadata={"help": "standard for SSv2"})
    config: str | None = field(default=None, metadata={"help": "more fields of IlaConfig, as a JSON object"})

    train_list: str | None = field(default=None, metadata={"help": "annotations to train on"})
    val_list: str | None = field(default=None, metadata={"help": "annotations to evaluate on; none: no evaluation"})
    videos: str | None = field(default=None, metadata={"help": "folder that the paths start from"})
    format: str | None = field(default=None, metadata={"help": "of the annotations; found out where not given"})
    labels: str | None = field(default=None, metadata={"help": "class names: kinetics400, ssv2, or a file"})
    train_split: str | None = field(default=None, metadata={"help": "of what holds several, as Kinetics' csv"})
    val_split: str | None = field(default=None, metadata={"help": "the same, to evaluate on"})
    multi_label: bool | None = field(default=None, metadata={"help": "several labels a video; found out by default"})
    train_list_sha256: str | None = field(default=None, metadata={"help": "refuse another list than this"})
    train_samples_sha256: str | None = field(default=None, metadata={"help": "refuse other names and labels in it"})
    stream: bool = field(default=False, metadata={"help": "read tar shards from beginning to end, each by one rank"})
    stand_ins: int = field(default=10, metadata={"help": "videos tried in place of one that cannot be read"})

    frame_sampling: str = field(default="segments", metadata={"help": "segments, uniform (SSv2) or dense"})
    flip: str = field(default="auto", metadata={"help": "probability; auto: 0.5, or 0 where classes name a side"})
    scales: list[float] = field(default_factory=lambda: [1, 0.875, 0.75, 0.66], metadata={"help": "MultiScaleCrop"})
    jitter: float = field(default=0.8, metadata={"help": "probability of other colours"})
    grayscale: float = field(default=0.2, metadata={"help": "probability of grey frames"})
    rand_augment: int = field(default=0, metadata={"help": "operations of RandAugment"})
    erasing: float = field(default=0.0, metadata={"help": "probability of erasing a box"})
    mixup: float = field(default=0.8, metadata={"help": "0: off"})
    cutmix: float = field(default=1.0, metadata={"help": "0: off"})
    label_smoothing: float = field(default=0.1, metadata={"help": "share of a label that is spread over all classes"})

    global_batch_size: int | None = field(
        default=None, metadata={"help": "videos of a step of all processes; sets gradient_accumulation_steps"}
    )
    expect_processes: int | None = field(default=None, metadata={"help": "refuse another number of processes"})
    resume: bool = field(default=False, metadata={"help": "go on from the last whole checkpoint, if there is one"})

    def model_fields(self) -> dict[str, Any]:
        """Fields of `IlaConfig`.

        Raises:
            ValueError: `config` is no JSON object.
        """
        names = ("num_frames", "classification_head", "use_video_prompt", "temporal_module")
        named = {name: getattr(self, name) for name in (*names, "alignment_fusion", "alignment_conv")}
        try:
            more = json.loads(self.config) if self.config else {}
        except ValueError as error:
            raise ValueError(f"`config` must be a JSON object, got {self.config!r} ({error}).") from error
        if not isinstance(more, dict):
            raise ValueError(f"`config` must be a JSON object, got {self.config!r}.")
        return named | more

    def augmentation(self, class_names: Sequence[str], *, size: int) -> ClipAugmentation:
        """For clips of `size` pixels; ValueError where a number is out of its range."""
        try:
            flip: Any = self.flip if self.flip == "auto" else float(self.flip)
        except ValueError as error:
            raise ValueError(f"`flip` must be a probability or auto, got {self.flip!r}.") from error
        names = ("jitter", "grayscale", "rand_augment", "erasing")
        numbers = {name: getattr(self, name) for name in names}
        return ClipAugmentation.for_classes(class_names, flip=flip, size=size, scales=tuple(self.scales), **numbers)

    def mixing(self, num_classes: int) -> MixClips:
        return MixClips(num_classes, mixup=self.mixup, cutmix=self.cutmix, smoothing=self.label_smoothing)


# -- model and data --------------------------------------------------------------------------------------------------


def config_of(recipe: RecipeArguments, class_names: Sequence[str]) -> IlaConfig:
    """Of a recipe's tower, without any weights."""
    _check_tower(recipe)
    labels = {"id2label": dict(enumerate(class_names)), "label2id": {name: i for i, name in enumerate(class_names)}}
    return IlaConfig.from_clip_size(recipe.tower, **labels, **validate_config_fields(recipe.model_fields()))


def model_of(recipe: RecipeArguments, class_names: Sequence[str]) -> IlaForVideoClassification:
    """The recipe's form on the weights of `clip`.

    Raises:
        ValueError: no `clip`, fields that IlaConfig does not have, or weights that do not load.
        OSError: no such weights.
    """
    if recipe.clip is None:
        raise ValueError("`clip` must be the Hub id or the folder of weights to start from: --clip.")
    _check_tower(recipe)
    wanted = validate_config_fields(recipe.model_fields())
    model = IlaForVideoClassification.from_pretrained(recipe.clip, labels=list(class_names), **wanted)
    vision = CLIP_SIZES[recipe.tower][0]
    found = {name: getattr(model.config.vision_config, name) for name in vision}
    other = {name: value for name, value in found.items() if value != vision[name]}
    if other:
        logger.warning(f"{recipe.clip!r} is no {recipe.tower} tower, which the recipe is meant for: {other}.")
    return model


def _check_tower(recipe: RecipeArguments) -> None:
    if recipe.tower not in CLIP_SIZES:
        raise ValueError(f"`tower` must be one of {', '.join(CLIP_SIZES)}, got {recipe.tower!r}.")


def validate_config_fields(wanted: dict[str, Any]) -> dict[str, Any]:
    """The same, if IlaConfig has all of them: it takes unknown ones for attributes."""
    allowed = {*IlaConfig().to_dict(), *_VISION_FIELDS}
    unknown = sorted(wanted.keys() - allowed)
    if unknown:
        raise ValueError(f"IlaConfig has no {', '.join(map(repr, unknown))}; it has {', '.join(sorted(allowed))}.")
    try:
        IlaConfig(**wanted)
    except StrictDataclassError as error:  # which is no ValueError
        raise ValueError(" ".join(str(error).split())) from error
    return wanted


def annotations_of(recipe: RecipeArguments) -> tuple[Annotations, Annotations | None, list[str]]:
    """To train on, to evaluate on, and the names of their classes.

    Raises:
        ValueError: no list, another list than the recipe's, no class names, or classes that differ.
        OSError: a list cannot be read.
    """
    if recipe.train_list is None:
        raise ValueError("`train_list` must name what to train on: --train_list.")
    options = {"root": recipe.videos, "format": recipe.format, "labels": recipe.labels}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if Path(recipe.train_list).is_dir():
        given.pop("root", None)
    several = recipe.multi_label
    training = read_annotations(recipe.train_list, split=recipe.train_split, multi_label=several, **given)
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
        return training, None, training.class_names
    if Path(recipe.val_list).is_dir():
        given.pop("root", None)
        if not Path(recipe.train_list).is_dir():
            given.pop("format", None)  # of another kind of annotation
    if recipe.labels is None and training.format != "folders":
        given["labels"] = training.class_names
    evaluation = read_annotations(recipe.val_list, split=recipe.val_split, multi_label=training.multi_label, **given)
    if evaluation.class_names != training.class_names:
        raise ValueError(f"{recipe.val_list!r} and {recipe.train_list!r} name other classes, or in another order.")
    return training, evaluation, training.class_names


def _samples_sha256(training: Annotations, recipe: RecipeArguments) -> str:
    """Of the samples' names and labels, whatever the format; for a stream also of the shards' names and sizes."""
    digest = samples_hash(training.samples)
    if not recipe.stream:
        return digest
    shards = [(path.name, path.stat().st_size) for path in map(Path, list_shards(str(recipe.train_list)))]
    return hashlib.sha256(json.dumps([digest, shards]).encode()).hexdigest()


# -- files and options -----------------------------------------------------------------------------------------------


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _UniqueKeys(yaml.SafeLoader):
    """YAML of which no key stands there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def read_recipe(file: str | Path) -> dict[str, Any]:
    """Keys and values of a recipe.

    Raises:
        ValueError: no YAML mapping, a key twice, or a key that is no field.
        OSError: the file cannot be read.
    """
    text = Path(file).read_text(encoding="utf-8")
    try:
        values = yaml.load(text, _UniqueKeys)  # a safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"{str(file)!r} is no recipe: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{str(file)!r} is no recipe: it must be `key: value` lines.")
    check_keys(values, str(file))
    return values


def check_keys(keys: Mapping[Any, Any] | Sequence[str], where: str) -> None:
    """Raise a ValueError that names unknown keys, what they may mean, and what is allowed."""
    own = [entry.name for entry in fields(RecipeArguments)]
    optimisation = [entry.name for entry in fields(IlaTrainingArguments) if entry.init]
    unknown = [str(key) for key in keys if key not in own and key not in optimisation]
    if unknown:
        close = {key: difflib.get_close_matches(key, own + optimisation, n=1) for key in unknown}
        named = ", ".join(f"{key!r}" + (f" ({close[key][0]!r}?)" if close[key] else "") for key in unknown)
        raise ValueError(
            f"{where}: unknown {named}. Allowed: {', '.join(own)}; and fields of IlaTrainingArguments: "
            f"{', '.join(optimisation)}."
        )


def parse(recipe: str | Path | None, options: Sequence[str] = ()) -> tuple[RecipeArguments, IlaTrainingArguments]:
    """A recipe with options such as `--max_steps 10` laid over it; `--ema_decay null` is None, as in YAML.

    Raises:
        ValueError: an unknown key or option, a value of another kind or out of its range, a batch that does not fit.
        OSError: the recipe cannot be read.
    """
    values = {} if recipe is None else read_recipe(recipe)
    parser = _Parser([RecipeArguments, IlaTrainingArguments], allow_abbrev=False, add_help=False)
    options, nothing = _without_null(options)
    given = {token.removeprefix("--").split("=")[0] for token in options if token.startswith("--")}
    nothing += [key for key, value in values.items() if value is None and key not in given]
    tokens = [token for key, value in values.items() if value is not None for token in _tokens(key, value)]
    namespace, rest = parser.parse_known_args([*tokens, *options])
    unknown = [token.removeprefix("--").split("=")[0] for token in rest if token.startswith("--")]
    if rest:
        check_keys(unknown, "options")
        raise ValueError(f"options: {' '.join(rest)!r} is of no option.")
    check_keys(nothing, "options")
    for key in nothing:
        if not _may_be_none(key):
            raise ValueError(f"`{key}` needs a value.")
        setattr(namespace, key, None)
    return _resolved(namespace, name=Path(recipe).stem if recipe is not None else "training")


def _without_null(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options without those whose value is `null`, and the names of these."""
    kept: list[str] = []
    names: list[str] = []
    for token in options:
        if token == "null" and kept and kept[-1].startswith("--"):
            names.append(kept.pop().removeprefix("--"))
        elif token.startswith("--") and token.endswith("=null"):
            names.append(token.removeprefix("--").removesuffix("=null"))
        else:
            kept.append(token)
    return kept, names


def _tokens(key: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{key}", str(value).lower()]
    if isinstance(value, dict):
        return [f"--{key}", json.dumps(value)]
    return [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}={value}"]


def _may_be_none(key: str) -> bool:
    """By its annotation; `HfArgumentParser` overwrites the types of the fields."""
    parts = (RecipeArguments, *IlaTrainingArguments.__mro__)
    kind = next(part.__annotations__[key] for part in parts if key in vars(part).get("__annotations__", ()))
    return type(None) in get_args(kind) or "None" in str(kind)


def _resolved(namespace: Namespace, *, name: str) -> tuple[RecipeArguments, IlaTrainingArguments]:
    values = vars(namespace)
    parts: list[dict[str, Any]] = []
    for part in (RecipeArguments, IlaTrainingArguments):
        parts.append({entry.name: values[entry.name] for entry in fields(part) if entry.name in values})
    recipe = RecipeArguments(**parts[0])
    parts[1]["output_dir"] = parts[1].get("output_dir") or str(Path("runs") / name)
    if recipe.val_list is None and str(parts[1].get("eval_strategy", "no")) != "no":
        logger.warning("There is no `val_list`: nothing is evaluated, and the last step's weights are the result.")
        parts[1] |= {"eval_strategy": "no", "load_best_model_at_end": False}
    if not torch.accelerator.is_available():
        parts[1]["use_cpu"] = True  # there is nothing else; unsaid, a recipe's bf16 would be refused
    if isinstance(parts[1].get("report_to"), str):
        parts[1]["report_to"] = parts[1]["report_to"].split(",")
    args = IlaTrainingArguments(**parts[1])
    _check_numbers(recipe, args)
    if recipe.global_batch_size is not None:
        once = args.train_batch_size * args.world_size
        if recipe.global_batch_size < once or recipe.global_batch_size % once:
            raise ValueError(
                f"`global_batch_size` {recipe.global_batch_size} is no multiple of {args.train_batch_size} videos on "
                f"each of {args.world_size} processes: change `per_device_train_batch_size`."
            )
        args.gradient_accumulation_steps = recipe.global_batch_size // once
    recipe.global_batch_size = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return recipe, args


def _check_numbers(recipe: RecipeArguments, args: IlaTrainingArguments) -> None:
    """What the Trainer divides by, or silently passes over."""
    if args.per_device_train_batch_size < 1:
        found = args.per_device_train_batch_size
        raise ValueError(f"`per_device_train_batch_size` must be 1 or more, got {found}.")
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ValueError(f"`num_train_epochs` must be more than 0, got {args.num_train_epochs}, or `max_steps` given.")
    if args.label_smoothing_factor:
        raise ValueError("`label_smoothing_factor` is another loss than the model's own: use `label_smoothing`.")
    if (recipe.mixup or recipe.cutmix) and args.per_device_train_batch_size == 1:
        logger.warning(
            "mixup and CutMix mix the videos of one process's batch, and 1 has no partner: nothing is mixed."
        )


# -- what was decided ------------------------------------------------------------------------------------------------


def resolved_values(recipe: RecipeArguments, args: IlaTrainingArguments) -> dict[str, Any]:
    """All of the recipe, and of the training arguments those that count most or are not the default, plain values."""
    values = {entry.name: getattr(recipe, entry.name) for entry in fields(recipe) if entry.name != "resume"}
    found = args.to_dict()
    for entry in fields(IlaTrainingArguments):
        usual = entry.default if entry.default_factory is MISSING else entry.default_factory()
        if (
            entry.init
            and entry.name not in NEVER_WRITTEN
            and (entry.name in ALWAYS_WRITTEN or found[entry.name] != usual)
        ):
            values[entry.name] = found[entry.name]
    values["report_to"] = ",".join(found["report_to"]) or "none"
    return json.loads(json.dumps(values, default=str))


def write_resolved(values: dict[str, Any], folder: str | Path, *, comment: str = "") -> Path:
    """`training.yaml`, which is a recipe again."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    file = Path(folder) / RESOLVED
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    draft = Path(folder) / f".{RESOLVED}"
    draft.write_text(head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
    draft.replace(file)
    return file


def check_same_run(values: dict[str, Any], folder: str | Path) -> None:
    """Raise a ValueError unless the folder's `training.yaml` decides the same weights."""
    file = Path(folder) / RESOLVED
    if not file.is_file():
        raise ValueError(f"{str(folder)!r} holds checkpoints and no {RESOLVED}: they are not of such a run.")
    before = read_recipe(file)
    fixed = STREAM_FIXES if before.get("stream") else set()
    keys = [
        key
        for key in {**before, **values}
        if key in fixed or not (key in MAY_CHANGE or key.startswith(MAY_CHANGE_PREFIX))
    ]
    other = [key for key in keys if before.get(key) != values.get(key)]
    if other:
        named = "; ".join(f"{key}: {before.get(key)!r}, now {values.get(key)!r}" for key in other)
        raise ValueError(f"--resume would go on with another run than {str(file)!r} began: {named}.")

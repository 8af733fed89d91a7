"""Recipes: YAML files of numbers, which with options of the same names decide a training run.

What is unusual here:
- a recipe holds fields of `RecipeArguments` and of `IlaTrainingArguments`; any other key is an error;
- the batch is given for all processes together, so that a recipe means the same on any number of them;
- what was decided is a recipe again (`training.yaml`), beside the checkpoints; a resumed run must agree with it.
"""

import difflib
import json
from argparse import Action, ArgumentError, Namespace
from collections.abc import Container, Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_type_hints

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from ..files import atomic_write
from ..model.configuration_ila import _VISION_FIELDS, PRESETS, IlaConfig, IlaVisionConfig
from ..model.video_urls_ila import redact
from .arguments import IlaTrainingArguments
from .augmentation import ClipAugmentation, MixClips, names_left_or_right


logger = logging.get_logger(__name__)


RECIPES = Path(__file__).parent / "recipes"
Kind = Literal["train", "ablate", "accelerate"]  # of a file in RECIPES
KINDS: dict[Kind, str] = {
    "train": "a recipe of `ila train`",
    "ablate": "a recipe of `ila ablate`",
    "accelerate": "a configuration of Accelerate",
}
RESOLVED = "training.yaml"
VAL_FRACTION = 0.2  # of the training videos is held out where there is no `val_list`
RENAMED = {"stand_ins": "max_replacements"}  # old key or option -> today's
MAY_CHANGE = {  # between the parts of one run: where files lie, what is written, and how the work is divided
    *("output_dir", "clip", "videos", "train_list", "val_list", "resume", "expect_processes"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("activation_checkpointing", "gradient_checkpointing", "ddp_find_unused_parameters", "eval_accumulation_steps"),
    *("report_to", "run_name", "project", "disable_tqdm", "log_level", "log_level_replica", "save_total_limit"),
    *("logging_steps", "logging_strategy", "logging_first_step", "max_unreadable", "ddp_timeout", "use_cpu"),
    "tensorboard_pictures",
}
ALWAYS_WRITTEN = {*IlaTrainingArguments.__annotations__, "seed", "max_steps", "max_grad_norm", "optim", "bf16", "fp16"}
NEVER_WRITTEN = {"hub_token", "accelerator_config", "debug"}  # secret, or derived
MAY_CHANGE_PREFIX = ("dataloader_", "hub_", "push_to_hub", "trackio_")
STREAM_FIXES = {  # what decides, where shards are streamed, who reads which; together also the number of processes
    *("dataloader_num_workers", "per_device_train_batch_size", "gradient_accumulation_steps"),
}


@dataclass
class ModelArguments:
    """Choose the network, and the weights that it begins with."""

    _argument_group_name = "model"

    tower: str = field(default="B/16", metadata={"help": "the CLIP tower that the numbers are meant for"})
    clip: str | None = field(default=None, metadata={"help": "Hub id or folder of CLIP or ILA weights to start from"})
    from_scratch: bool = field(default=False, metadata={"help": "draw all weights at random, in place of `clip`"})
    num_frames: int = field(default=8, metadata={"help": "frames of a clip"})
    classification_head: str = field(default="text", metadata={"help": "text or linear"})
    use_video_prompt: bool = field(default=True, metadata={"help": "video-specific prompts of the text head"})
    temporal_module: str = field(default="ila", metadata={"help": "ila, none, message, divided, ata, ..."})
    preset: str | None = field(default=None, metadata={"help": "paper or released: the fields of that network"})
    alignment_fusion: str | None = field(
        default=None, metadata={"help": "mi_token, residual, ...; default: the preset's, else interaction"}
    )
    alignment_conv: str = field(default="depthwise_separable", metadata={"help": "standard for SSv2"})
    alignment_causal: bool | None = field(
        default=None,
        metadata={
            "help": "no frame looks ahead; default: the preset's, that of ILA weights, else true where it can be"
        },
    )
    config: str | None = field(default=None, metadata={"help": "more fields of IlaConfig, as a JSON object"})

    def model_fields(self) -> dict[str, Any]:
        """Return the fields of `IlaConfig` that the recipe sets.

        Raises:
            ValueError: `config` is no JSON object or has another `alignment_causal`, or there is no such preset.
        """
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, got {self.preset!r}.")
        names = ("num_frames", "classification_head", "use_video_prompt", "temporal_module")
        forms = ("alignment_fusion", "alignment_conv", "alignment_causal")
        named = {name: getattr(self, name) for name in (*names, *forms)}
        named = {name: value for name, value in named.items() if value is not None}
        try:
            given = named | json.loads(self.config or "{}")
        except (ValueError, TypeError) as error:
            raise ValueError(f"`config` must be a JSON object, got {self.config!r} ({error}).") from error
        causal = given.get("alignment_causal")
        if named.get("alignment_causal", causal) != causal:
            raise ValueError(
                f"`alignment_causal` is {self.alignment_causal}, and {causal} in `config`; allowed: one of them, or "
                "twice the same."
            )
        return {**IlaConfig.fields_in_use(PRESETS.get(str(self.preset), {}), given), **given}


@dataclass
class AdapterArguments:
    """Choose an adapter (LoRA), which is trained and saved while the pretrained weights stay as they are."""

    _argument_group_name = "adapter"

    lora_r: int | None = field(default=None, metadata={"help": "rank of adapters in the image tower; null: none"})
    lora_alpha: int = field(default=8, metadata={"help": "what adapters give is multiplied by lora_alpha / lora_r"})
    lora_dropout: float = field(default=0.0, metadata={"help": "share of an adapter's inputs that is dropped"})
    lora_mlp: bool = field(default=False, metadata={"help": "adapters in the tower's MLP, too"})

    def check_adapter(self) -> None:
        """Raise a ValueError for a number out of its range, or one that has no effect without `lora_r`."""
        if self.lora_r is None:
            for entry in fields(AdapterArguments):
                if (given := getattr(self, entry.name)) != entry.default:
                    raise ValueError(f"`{entry.name}` is {given} and has no effect without an adapter: give `lora_r`.")
            return
        allowed = {
            "lora_r": (self.lora_r > 0, "1 or more, or null"),
            "lora_alpha": (self.lora_alpha > 0, "1 or more"),
            "lora_dropout": (0 <= self.lora_dropout < 1, "0 <= share < 1"),
        }
        for name, (good, values) in allowed.items():
            if not good:
                raise ValueError(f"`{name}` must be {values}, got {getattr(self, name)}.")


@dataclass
class VideoArguments:
    """Choose the videos to train on and to evaluate on."""

    _argument_group_name = "videos"

    train_list: str | None = field(default=None, metadata={"help": "annotations to train on (required)"})
    val_list: str | None = field(default=None, metadata={"help": "annotations to evaluate on"})
    val_fraction: float | None = field(
        default=None, metadata={"help": "share of each class to hold out without a val_list, 0.2 by default; 0: none"}
    )
    videos: str | None = field(default=None, metadata={"help": "folder that the paths start from"})
    format: str | None = field(default=None, metadata={"help": "format of the annotations; found out where not given"})
    labels: str | None = field(default=None, metadata={"help": "class names: kinetics400, ssv2, or a file"})
    train_split: str | None = field(
        default=None, metadata={"help": "split to train on, where train_list holds several, as Kinetics' csv"}
    )
    val_split: str | None = field(
        default=None, metadata={"help": "split to evaluate on, where val_list holds several"}
    )
    multi_label: bool = field(
        default=False, metadata={"help": "read several labels a video, which are an error without it"}
    )
    label_field: str | None = field(
        default=None, metadata={"help": "which labels to read, where a labelling tool's export has several"}
    )
    train_list_sha256: str | None = field(default=None, metadata={"help": "refuse another list than this"})
    train_samples_sha256: str | None = field(default=None, metadata={"help": "refuse other names and labels in it"})
    stream: bool = field(default=False, metadata={"help": "read tar shards from beginning to end, each by one rank"})
    max_replacements: int = field(
        default=10, metadata={"help": "other videos that are tried for one that cannot be read"}
    )


@dataclass
class ClipArguments:
    """Choose which frames are taken of a video, and how clips and labels are changed in training (Table 14)."""

    _argument_group_name = "clips"

    frame_sampling: str = field(default="segments", metadata={"help": "segments, uniform (SSv2) or dense"})
    flip: str = field(
        default="auto", metadata={"help": "probability of mirroring a clip; auto: 0.5, or 0 where classes name a side"}
    )
    scales: list[float] = field(
        default_factory=lambda: [1, 0.875, 0.75, 0.66],
        metadata={"help": "crops of MultiScaleCrop, over the shorter side"},
    )
    jitter: float = field(default=0.8, metadata={"help": "probability of changing the colours of a clip"})
    grayscale: float = field(default=0.2, metadata={"help": "probability of turning a clip grey"})
    rand_augment: int = field(default=0, metadata={"help": "operations of RandAugment on a clip; 0: off"})
    erasing: float = field(default=0.0, metadata={"help": "probability of erasing a box of a clip"})
    mixup: float = field(default=0.8, metadata={"help": "alpha of mixup's Beta distribution; 0: off"})
    cutmix: float = field(default=1.0, metadata={"help": "alpha of CutMix's Beta distribution; 0: off"})
    label_smoothing: float = field(default=0.1, metadata={"help": "share of a label that is spread over all classes"})

    def augmentation(self, class_names: Sequence[str], *, size: int) -> ClipAugmentation:
        """Return the augmentation for clips of `size` x `size` pixels.

        Raises:
            ValueError: a number is out of its range.
        """
        flip = resolved_flip(self.flip, class_names)
        names = ("jitter", "grayscale", "rand_augment", "erasing")
        numbers = {name: getattr(self, name) for name in names}
        return ClipAugmentation(flip=flip, size=size, scales=tuple(self.scales), **numbers)

    def mixing(self, num_classes: int) -> MixClips:
        """Return mixup, CutMix and label smoothing for `num_classes` classes; ValueError as in `augmentation`."""
        return MixClips(num_classes, mixup=self.mixup, cutmix=self.cutmix, smoothing=self.label_smoothing)


@dataclass
class RecipeArguments(ClipArguments, VideoArguments, AdapterArguments, ModelArguments):
    """Hold what a training run consists of, beside the optimisation, which `IlaTrainingArguments` holds."""

    _argument_group_name = "run"

    global_batch_size: int | None = field(
        default=None, metadata={"help": "videos of a step of all processes; sets gradient_accumulation_steps"}
    )
    expect_processes: int | None = field(default=None, metadata={"help": "refuse another number of processes"})
    resume: bool = field(default=False, metadata={"help": "go on from the last whole checkpoint, if there is one"})


def resolved_flip(flip: float | str, class_names: Sequence[str]) -> float:
    """Return the probability of mirroring a clip: "auto" is 0.5, and 0 where a class name tells left from right.

    Raises:
        ValueError: `flip` is neither a number nor "auto".
    """
    if flip == "auto":
        return 0.0 if names_left_or_right(class_names) else ClipAugmentation.flip
    try:
        return float(flip)
    except ValueError as error:
        raise ValueError(f"`flip` must be a probability or auto, got {flip!r}.") from error


def validate_config_fields(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the fields unchanged if IlaConfig takes them all; by itself it turns unknown ones into attributes.

    Raises:
        ValueError: fields or values that IlaConfig does not have.
    """
    allowed = {*IlaConfig().to_dict(), *_VISION_FIELDS}
    unknown = sorted(wanted.keys() - allowed)
    if unknown:
        raise ValueError(f"IlaConfig has no {', '.join(map(repr, unknown))}; it has {', '.join(sorted(allowed))}.")
    try:
        IlaConfig(**wanted)
    except StrictDataclassError as error:  # which is no ValueError
        raise ValueError(" ".join(str(error).split())) from error
    return wanted


# -- files and options -----------------------------------------------------------------------------------------------


class _Parser(HfArgumentParser):
    """Read the options of both dataclasses; `null` is None where a field may be that."""

    def __init__(self) -> None:
        super().__init__([RecipeArguments, IlaTrainingArguments], allow_abbrev=False, add_help=False)
        hints = get_type_hints(RecipeArguments) | get_type_hints(IlaTrainingArguments)
        self.optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}

    def _get_value(self, action: Action, arg_string: str) -> Any:  # argparse's own, for each value
        if arg_string != "null":
            return super()._get_value(action, arg_string)  # type: ignore[misc]
        if action.dest not in self.optional:
            raise ArgumentError(action, f"`{action.dest}` needs a value")
        return None

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _UniqueKeys(yaml.SafeLoader):
    """Load YAML, and refuse a key that stands twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def recipe_names(kind: Kind = "train") -> list[str]:
    """Return the names of the recipes of one kind that come with the package, sorted.

    kind: "train", "ablate", or "accelerate" for Accelerate's configurations.
    """
    return sorted(file.stem for file in RECIPES.rglob("*.yaml") if _kind_of(file) == kind)


def _kind_of(file: Path) -> Kind:
    """Return the kind of a file in RECIPES."""
    if file.parent.name == "accelerate":
        return "accelerate"
    return "ablate" if file.stem.startswith("ablation_") else "train"


def recipe_file(name: str | Path, *, kind: Kind | None = None) -> Path:
    """Return the file of a recipe, which is named by its path or, if it comes with the package, by its name.

    kind: the kind that is needed, as in `recipe_names`; None: any. A user's own file may be of any kind.

    Raises:
        ValueError: there is neither such a file nor such a name, or the package's recipe is of another kind.
    """
    plain = str(name).removeprefix("recipes/").removesuffix(".yaml")
    files = (Path(name), RECIPES / f"{plain}.yaml", RECIPES / "accelerate" / f"{plain}.yaml")
    known = [found for one in ((kind,) if kind else KINDS) for found in recipe_names(one)]
    for file in files:
        if not file.is_file():
            continue
        if kind is None or not file.resolve().is_relative_to(RECIPES.resolve()) or _kind_of(file.resolve()) == kind:
            return file
        other = KINDS[_kind_of(file.resolve())]
        raise ValueError(f"{str(name)!r} is {other}, and {KINDS[kind]} is needed: {', '.join(known)}.")
    close = difflib.get_close_matches(plain, known, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"There is no recipe {str(name)!r}: it is neither a file nor one of {', '.join(known)}.{meant}")


def read_recipe(file: str | Path) -> dict[str, Any]:
    """Return keys and values of a recipe file; old names of keys are replaced by today's.

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
    values = {_todays_name(key, str(file)): value for key, value in values.items()}
    check_keys(values, str(file))
    if "train_samples_sha256" in values:  # a run's `training.yaml`: before there was this key, nothing was held out
        values.setdefault("val_fraction", 0.0)
    return values


def _todays_name(key: Any, where: str) -> Any:
    if key in RENAMED:
        logger.warning(f"{where}: `{key}` is called `{RENAMED[key]}` now.")
    return RENAMED.get(key, key)


def _closest(key: str, known: Sequence[str]) -> str | None:
    """Return the known key that has `key` for its initials, else the one that is most like it; None: there is none."""
    close = difflib.get_close_matches(key, known, n=1)
    words = {name: name.split("_") for name in known if len(key) > 1}
    initials = [  # of words, which one letter, as in `lora_r`, is not
        name for name, parts in words.items() if key == "".join(part[0] for part in parts if len(part) > 1)
    ]
    return next(iter(initials + close), None)


def _keys() -> tuple[list[str], list[str]]:
    """Return the keys of RecipeArguments and those of IlaTrainingArguments."""
    optimisation = [entry.name for entry in fields(IlaTrainingArguments) if entry.init]
    return [entry.name for entry in fields(RecipeArguments)], optimisation


def check_keys(keys: Iterable[Any], where: str) -> None:
    """Raise a ValueError that names unknown keys, what they may mean, and what is allowed."""
    own, optimisation = _keys()
    unknown = [str(key) for key in keys if key not in own and key not in optimisation]
    if unknown:
        close = {key: _closest(key, own + optimisation) for key in unknown}
        named = ", ".join(f"{key!r}" + (f" ({close[key]!r}?)" if close[key] else "") for key in unknown)
        raise ValueError(
            f"{where}: unknown {named}. Allowed: {', '.join(own)}; and fields of IlaTrainingArguments: "
            f"{', '.join(optimisation)}."
        )


def parse(recipe: str | Path | None, options: Sequence[str] = ()) -> tuple[RecipeArguments, IlaTrainingArguments]:
    """Read a recipe and lay options such as `--max_steps 10` over it; `--ema_decay null` is None, as in YAML.

    Args:
        recipe: a path or a name, as `recipe_file` takes it; None: the fields' own defaults.

    Raises:
        ValueError: an unknown recipe, key or option, a value of another kind or out of its range, a batch that does
            not fit.
        OSError: the recipe cannot be read.
    """
    file = None if recipe is None else recipe_file(recipe, kind="train")
    values = {} if file is None else read_recipe(file)
    if values.get("multi_label", False) is None:  # of an earlier version, which found it out
        del values["multi_label"]
    tokens = [token for key, value in values.items() for token in _tokens(key, value)]
    namespace, rest = _Parser().parse_known_args([*tokens, *map(_todays_option, options)])
    if rest:
        _refuse_options(rest)
    asked = {option.partition("=")[0].removeprefix("--").replace("-", "_") for option in options}
    return _resolved(namespace, asked, name="training" if file is None else file.stem)


def _refuse_options(words: Sequence[str]) -> NoReturn:
    """Raise a ValueError about words that are of no option: the first unknown option, if there is one."""
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--"):
            own, optimisation = _keys()
            close = _closest(option[2:].replace("-", "_"), own + optimisation)
            hint = f"did you mean --{close}?" if close else "--help lists all options"
            raise ValueError(f"there is no option {option}; {hint}")
    raise ValueError(f"options: {' '.join(words)!r} is of no option.")


def _tokens(key: str, value: Any) -> list[str]:
    """Return a key and its value as a command line has them: argparse converts and refuses values of either."""
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    plain = json.dumps(value) if value is None or isinstance(value, (bool, dict)) else str(value)
    return [f"--{key}={plain}"]


def _todays_option(token: str) -> str:
    option, equals, value = token.partition("=")
    name = option.removeprefix("--").replace("-", "_")
    is_old = option.startswith("--") and name in RENAMED
    return f"--{_todays_name(name, 'options')}{equals}{value}" if is_old else token


def _resolved(
    namespace: Namespace, asked: Container[str], *, name: str
) -> tuple[RecipeArguments, IlaTrainingArguments]:
    """Decide what recipe and options leave open; `asked` are the names of the options."""
    own, optimisation = (
        {entry.name: getattr(namespace, entry.name) for entry in fields(part) if entry.init}
        for part in (RecipeArguments, IlaTrainingArguments)
    )
    recipe = RecipeArguments(**own)
    optimisation["output_dir"] = optimisation.get("output_dir") or str(Path("runs") / name)
    recipe.val_fraction = _val_fraction(recipe, optimisation["output_dir"])
    saves, evaluates = (str(optimisation.get(key)) for key in ("save_strategy", "eval_strategy"))
    if recipe.val_list is None and saves != evaluates:
        optimisation["load_best_model_at_end"] = False  # nobody asked for an evaluation: the last weights will do
    if not torch.accelerator.is_available():
        optimisation["use_cpu"] = True  # there is nothing else; without it a recipe's bf16 would be refused
    workers, persistent = "dataloader_num_workers", "dataloader_persistent_workers"
    if workers in asked and persistent not in asked and not optimisation[workers]:
        optimisation[persistent] = False  # the recipe's, for its own number of workers
    if isinstance(optimisation.get("report_to"), str):
        optimisation["report_to"] = optimisation["report_to"].split(",")
    args = IlaTrainingArguments(**optimisation)
    if recipe.alignment_fusion is None:  # what it means, so that a later version's defaults change no run
        chosen = PRESETS.get(str(recipe.preset), {}) if recipe.temporal_module == "ila" else {}
        recipe.alignment_fusion = chosen.get("alignment_fusion", IlaVisionConfig.alignment_fusion)
    before = Path(str(args.output_dir)) / RESOLVED
    if recipe.alignment_causal is None and recipe.resume and before.is_file():
        recipe.alignment_causal = _before_causal_towers(read_recipe(before))["alignment_causal"]
    _check_numbers(recipe, args)
    _divide_batch(recipe, args, fixed="gradient_accumulation_steps" in asked)
    return recipe, args


def _before_causal_towers(values: dict[str, Any]) -> dict[str, Any]:
    """Return a run's resolved values with `alignment_causal`, which older files lack, as their towers look ahead.

    Unless their `config` says otherwise.
    """
    return {"alignment_causal": json.loads(values.get("config") or "{}").get("alignment_causal", False), **values}


def _val_fraction(recipe: RecipeArguments, output_dir: str) -> float:
    """Return the share to hold out: what is given, what the run that goes on has held out, or a fifth."""
    given = recipe.val_fraction
    if given is not None and not 0 <= given < 1:
        raise ValueError(f"`val_fraction` must be 0 <= fraction < 1, got {given}.")
    if recipe.val_list is not None or recipe.stream:
        if given:
            other = "`stream` reads videos that nobody can pick" if recipe.stream else "`val_list` names others"
            raise ValueError(f"`val_fraction` holds out training videos, and {other}: give one of the two.")
        return 0.0
    if recipe.val_split is not None:
        raise ValueError("`val_split` names a part of `val_list`: --val_list.")
    before = Path(output_dir) / RESOLVED
    if given is None and recipe.resume and before.is_file():
        given = read_recipe(before)["val_fraction"]
    return VAL_FRACTION if given is None else given


def _divide_batch(recipe: RecipeArguments, args: IlaTrainingArguments, *, fixed: bool) -> None:
    """Set gradient accumulation by the global batch, or the global batch by what there is.

    fixed: the accumulation was asked for, so that another one is an error.
    """
    once = args.train_batch_size * args.world_size
    if recipe.global_batch_size is not None:
        if recipe.global_batch_size < once or recipe.global_batch_size % once:
            raise ValueError(
                f"`global_batch_size` {recipe.global_batch_size} is no multiple of {args.train_batch_size} videos on "
                f"each of {args.world_size} processes: change `per_device_train_batch_size`."
            )
        found, args.gradient_accumulation_steps = args.gradient_accumulation_steps, recipe.global_batch_size // once
        if fixed and found != args.gradient_accumulation_steps:
            raise ValueError(
                f"`gradient_accumulation_steps` is {found}, and `global_batch_size` {recipe.global_batch_size} needs "
                f"{args.gradient_accumulation_steps}: give one of the two, --global_batch_size null leaves it open."
            )
    recipe.global_batch_size = once * args.gradient_accumulation_steps


def _check_numbers(recipe: RecipeArguments, args: IlaTrainingArguments) -> None:
    """Refuse what the Trainer would divide by or silently pass over."""
    unused = {
        "do_train": "`ila train` trains",
        "do_predict": "`ila predict` labels videos",
        "resume_from_checkpoint": "`resume` goes on from the last whole checkpoint",
    }
    for name, reason in unused.items():
        args.require_default(name, reason)
    if args.do_eval and args.eval_strategy == IntervalStrategy.NO:
        raise ValueError("`do_eval` is true and `eval_strategy` no: --eval_strategy epoch, or steps, evaluates.")
    recipe.check_adapter()
    if recipe.lora_r is not None:
        args.require_default("freeze_clip", "with `lora_r` the pretrained weights stay as they are anyway")
    if args.per_device_train_batch_size < 1:
        found = args.per_device_train_batch_size
        raise ValueError(f"`per_device_train_batch_size` must be 1 or more, got {found}.")
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ValueError(f"`num_train_epochs` must be more than 0, got {args.num_train_epochs}, or `max_steps` given.")
    if (recipe.mixup or recipe.cutmix) and args.per_device_train_batch_size == 1:
        logger.warning(
            "mixup and CutMix mix the videos of one process's batch, and 1 has no partner: nothing is mixed."
        )


# -- what was decided ------------------------------------------------------------------------------------------------


def resolved_values(recipe: RecipeArguments, args: IlaTrainingArguments) -> dict[str, Any]:
    """Return plain values: all of the recipe, and the training arguments that count most or are not the default."""
    values = {entry.name: getattr(recipe, entry.name) for entry in fields(recipe) if entry.name != "resume"}
    for name in ("train_list", "val_list"):  # an address may hold a password
        values[name] = None if values[name] is None else redact(values[name])
    values["flip"] = values["flip"] if values["flip"] == "auto" else float(values["flip"])
    found = args.to_dict()
    for entry in fields(IlaTrainingArguments):
        usual = entry.default if entry.default_factory is MISSING else entry.default_factory()
        counts = entry.name in ALWAYS_WRITTEN or found.get(entry.name) != usual
        if counts and entry.init and entry.name not in NEVER_WRITTEN:
            values[entry.name] = found[entry.name]
    values["report_to"] = ",".join(found["report_to"]) or "none"
    return json.loads(json.dumps(values, default=str))


def write_resolved(values: dict[str, Any], folder: str | Path, *, comment: str = "") -> Path:
    """Write `training.yaml`, which is a recipe again, with `comment` at its head."""
    file = Path(folder) / RESOLVED
    with atomic_write(file) as opened:
        opened.writelines(f"# {line}\n" for line in comment.splitlines())
        yaml.safe_dump(values, opened, sort_keys=False, allow_unicode=True)
    return file


def check_same_run(values: dict[str, Any], folder: str | Path, *, class_names: Sequence[str] = ()) -> None:
    """Raise a ValueError unless the folder's `training.yaml` decides the same weights.

    class_names: what `flip: auto` means, which older files hold, depends on them.
    """
    file = Path(folder) / RESOLVED
    if not file.is_file():
        raise ValueError(f"{str(folder)!r} holds checkpoints and no {RESOLVED}: they are not of such a run.")
    before = vars(RecipeArguments()) | _before_causal_towers(read_recipe(file))  # older than some of the keys, maybe
    if before["multi_label"] is None:  # likewise
        before["multi_label"] = values["multi_label"]
    before, values = ({**found, "flip": resolved_flip(found["flip"], class_names)} for found in (before, values))
    fixed = STREAM_FIXES if before.get("stream") else set()
    other = [
        key
        for key in {**before, **values}
        if before.get(key) != values.get(key)
        and (key in fixed or not (key in MAY_CHANGE or key.startswith(MAY_CHANGE_PREFIX)))
    ]
    if other:
        named = "; ".join(f"{key}: {before.get(key)!r}, now {values.get(key)!r}" for key in other)
        raise ValueError(f"--resume would go on with another run than {str(file)!r} began: {named}.")

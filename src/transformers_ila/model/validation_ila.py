"""Checks of configurations: sizes and problems that no network has, and fields that have no effect beside the others.

A configuration class lists in `uses` where its fields have an effect. A field that has none there must have its
default; another value is an error where somebody gives it. A file may hold one, written by an earlier version or meant
for what is replaced while it is loaded: it is dropped, and a warning says so once.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any, NamedTuple

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.utils import logging


logger = logging.get_logger(__name__)

MULTI_LABEL = "multi_label_classification"  # the `problem_type` of a model that gives a video several labels
PROBLEM_TYPES = (None, "single_label_classification", MULTI_LABEL)


# -- sizes, activations and problems ----------------------------------------------------------------------------------


def require(condition: bool, *, field: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"`{field}` is {value!r}; allowed: {allowed}.")


# The most that a configuration may ask for. Its file may come from anywhere, and layers are made before anybody can
# see that the weights do not fit them.
LARGEST = {
    "num_frames": 10_000,
    "image_size": 2**14,
    "patch_size": 2**14,
    "num_channels": 2**10,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_attention_heads": 2**12,
    "projection_dim": 2**16,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**16,
    "num_hidden_layers": 1000,
    "mit_num_hidden_layers": 1000,
    "prompt_layers": 1000,
    "num_register_tokens": 2**10,
    "alignment_hidden_size": 2**16,
    "mit_intermediate_size": 2**18,
    "gta_regions": 2**16,
    "num_labels": 2**20,
}
LARGEST_NUMBER = 2**100
MAY_BE_ZERO = ("mit_num_hidden_layers", "num_register_tokens")


def require_sizes(fields: Mapping[str, Any]) -> None:
    """Raise a ValueError for a size below 1, or above the most that is allowed (`LARGEST`), and for any number that is
    not finite.
    """
    for field, value in fields.items():
        if isinstance(value, (int, float)) and field not in LARGEST:
            require(abs(value) < LARGEST_NUMBER, field=field, value=value, allowed="finite numbers that float32 holds")
    for field, most in LARGEST.items():
        value, least = fields.get(field), 0 if field in MAY_BE_ZERO else 1
        if isinstance(value, int):
            allowed = f"{least} or more, and at most {most}"
            require(least <= value <= most, field=field, value=value, allowed=allowed)


def require_frame_rate(rate: float | None) -> None:
    """Raise a ValueError unless a configuration's `frame_rate` is None or a number of frames a second."""
    good = rate is None or 0 < rate < LARGEST_NUMBER
    require(good, field="frame_rate", value=rate, allowed="None, or frames a second: above 0, and finite")


_RATES = ("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate")


def validate_transformer(config: Any) -> None:
    """Raise a ValueError for a number of a transformer's layers that no network can have, naming the field."""
    require_sizes(vars(config))
    width, heads = config.hidden_size, config.num_attention_heads
    require(width % heads == 0, field="num_attention_heads", value=heads, allowed=f"a divisor of hidden_size={width}")
    for field in (name for name in _RATES if hasattr(config, name)):
        value = getattr(config, field)
        require(0 <= value < 1, field=field, value=value, allowed="0 <= rate < 1")
    eps = config.layer_norm_eps
    require(0 < eps < math.inf, field="layer_norm_eps", value=eps, allowed="above 0, and finite")
    require_activation("hidden_act", config.hidden_act)


def require_activation(field: str, value: str) -> None:
    require(value in ACT2FN, field=field, value=value, allowed=f"one of {', '.join(sorted(ACT2FN))}")


_NO_CLASS_TOKEN = "it has no class token, in which the tower gathers what is in a frame"
_BIASES = "its attention adds a bias for every distance of two patches, which the tower's has not"
_OF_VIDEOS = "it joins the frames of a video in its own way, and the tower begins as a network of single frames"
_SIGLIP = (
    f"{_NO_CLASS_TOKEN}. For any words without training take `SiglipForVideoClassification.from_pretrained(..., "
    'labels=...)` or `pipeline("zero-shot-video-classification", model=...)`, and a CLIP to train'
)
REFUSED_TYPES = {  # `model_type` or its beginning -> why its weights have no place in the tower; the first that fits
    "dinov3_convnext": f"{_NO_CLASS_TOKEN}, and no patches of one size",
    "dinov3": (
        "DINOv3's rotary positions turn queries and keys in every attention, and the tokens that temporal modules add "
        "there have no position; DINOv2 loads"
    ),
    "clip_vision_model": "it is a CLIP's image tower without the projection to the texts' space; the whole CLIP loads",
    "siglip": _SIGLIP,
    "beit": _BIASES,
    "data2vec-vision": _BIASES,
    "deit": "it has a second class token, for distillation; a DeiT without it is saved as a ViT, which loads",
    **dict.fromkeys(("ijepa", "swin", "convnext", "resnet"), _NO_CLASS_TOKEN),
    "timesformer": f"{_OF_VIDEOS}; `AlignedTimesformerForVideoClassification` puts ILA inside it",
    **dict.fromkeys(("videomae", "vivit", "vjepa", "xclip"), _OF_VIDEOS),
}


def check_model_type(config_dict: dict[str, Any], path: Any, allowed: Collection[str]) -> None:
    """Raise a ValueError where a `config.json` is of a model whose weights have no place here, and say why."""
    found = config_dict.get("model_type")
    if found is not None and found not in allowed:
        names = (config_dict.get("architectures") or [found])[0]
        towers = "clip" in allowed or "vit" in allowed  # elsewhere nothing but one kind of video network has a place
        reasons = (f": {why}" for kind, why in REFUSED_TYPES.items() if towers and found.startswith(kind))
        raise ValueError(
            f"{str(path)!r} holds a {names} (`model_type` {found!r}), of which nothing can be loaded here"
            f"{next(reasons, '')}; allowed `model_type`: {', '.join(sorted(allowed))}."
        )


def require_classification(config: Any, num_labels: int | None = None) -> None:
    """Raise a ValueError unless the model learns classes, and can tell them apart.

    One class alone can be learned as a label that a video has or has not; a softmax over it is 1 whatever it sees.

    num_labels: the number of classes that there will be, in place of the configuration's.
    """
    problem, smoothing = config.problem_type, config.label_smoothing
    count = config.num_labels if num_labels is None else num_labels
    allowed = f"{', '.join(map(repr, PROBLEM_TYPES))}: videos are classified here, and no numbers are learned"
    require(problem in PROBLEM_TYPES, field="problem_type", value=problem, allowed=allowed)
    allowed = f'2 or more, and 1 with problem_type="{MULTI_LABEL}": of a single class the softmax is always 1'
    require(count >= (1 if problem == MULTI_LABEL else 2), field="num_labels", value=count, allowed=allowed)
    allowed = f'0 with problem_type="{MULTI_LABEL}", whose loss has no smoothing'
    require(problem != MULTI_LABEL or not smoothing, field="label_smoothing", value=smoothing, allowed=allowed)


def require_templates(templates: Any, field: str, also: str = "") -> None:
    """Raise a ValueError unless these are different sentences with one place, `{}`, for a class name in each.

    also: what else is allowed, in words for the error.
    """
    allowed = f'one or more different sentences, each with one `{{}}` for the name: "a video of {{}}."{also}'
    are_texts = isinstance(templates, (list, tuple)) and all(isinstance(text, str) for text in templates)
    require(are_texts and len(templates) > 0, field=field, value=templates, allowed=allowed)
    for text in templates:
        has_one_place = text.count("{}") == 1 and not {"{", "}"} & set(text.replace("{}", ""))
        require(has_one_place and _is_utf8(text), field=field, value=text, allowed=allowed)
    repeated = sorted({text for text in templates if templates.count(text) > 1})
    require(not repeated, field=field, value=repeated, allowed=allowed)


def _is_utf8(text: str) -> bool:
    return text == text.encode("utf-8", "replace").decode()


def require_tower(field: str, value: Any) -> None:
    """Raise a ValueError for what is neither a tower's configuration nor its fields."""
    is_one = value is None or isinstance(value, (dict, PreTrainedConfig))
    require(is_one, field=field, value=value, allowed="a dictionary of fields, a configuration or None")


# -- fields without an effect -----------------------------------------------------------------------------------------

OUR_PREFIXES = ("alignment_", "temporal_", "mit_", "prompt_", "decoder_", "shift_", "ata_", "gta_")


class Use(NamedTuple):
    """Say where fields have an effect.

    fields: their names.
    where: tells of a configuration, or of anything with its fields, whether they have one.
    says: that condition in words, which follow "it needs".
    off: besides the default, a value that says truly that nothing happens.
    refused: where they have none, another value than the default is an error; `False` for numbers that must fit the
        tower's width and are given once for all variants, of which a warning says once that they have no effect.
    """

    fields: tuple[str, ...]
    where: Callable[[Any], bool]
    says: str
    off: Any = None
    refused: bool = True


def with_defaults(kind: Any, given: Mapping[str, Any]) -> SimpleNamespace:
    """Return an object with the given fields of a configuration class, and its defaults for all others."""
    return SimpleNamespace(**{**_defaults(kind), **given})


def require_effects(config: Any, uses: Sequence[Use] | None = None) -> None:
    """Raise a ValueError for a field of a configuration that has no effect, and another value than its default.

    uses: where fields have one; by default what the configuration's class says.
    """
    defaults = _defaults(type(config))
    for name, use in _idle(config, config.uses if uses is None else uses, defaults).items():
        allowed = repr(defaults[name]) if use.off is None else f"{defaults[name]!r} or {use.off!r}"
        says = f"`{name}` is {getattr(config, name)!r}, which has no effect here"
        if use.refused:
            raise ValueError(f"{says}; allowed: {allowed}. It needs {use.says}.")
        logger.warning_once(f"{says}: it needs {use.says}.")


def fields_in_use(
    kind: Any,
    stored: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    warn: bool = False,
    uses: Sequence[Use] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """Return the stored fields of a configuration class without those that have no effect.

    Args:
        kind: the class.
        stored: fields of a file or a preset.
        given: fields that replace them. One of these without an effect is for the configuration to refuse.
        warn: name what is left out in a warning, once.
        uses: where fields have an effect; by default what the class says.
        parts: sub-configurations as they will be, where `uses` look into them.
    """
    stored, defaults = dict(stored), _defaults(kind)
    config = with_defaults(kind, {**stored, **given, **parts})
    for name, use in _idle(config, kind.uses if uses is None else uses, defaults).items():
        if name in stored and name not in given:
            value = stored.pop(name)
            if warn:
                logger.warning_once(
                    f"`{name}` is {value!r} in the file and is dropped: to have an effect it needs {use.says}."
                )
    return stored


def refuse_unknown(kind: Any, names: Iterable[str], inside: Mapping[str, Any] | None = None) -> None:
    """Raise a ValueError for a name that looks like a field of a configuration class, and is none.

    Args:
        kind, names, inside: as in `misnamed`.
    """
    for reason in misnamed(kind, names, inside).values():
        raise ValueError(reason)


def without_unknown(kind: Any, stored: Mapping[str, Any], inside: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the stored fields of a file without what `refuse_unknown` refuses, and name that in a warning, once.

    Other programs write such names into configurations (`hidden_size`, for their own use).
    """
    unknown = misnamed(kind, stored, inside)
    for name, reason in unknown.items():
        logger.warning_once(f"`{name}` of the file is dropped. {reason}")
    return {name: value for name, value in stored.items() if name not in unknown}


def misnamed(kind: Any, names: Iterable[str], inside: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the names that look like fields of a configuration class and are none, and what is wrong with each.

    Transformers makes an attribute of every unknown name, which has no effect. Files of CLIP hold many such names, so
    only these count: those that begin as our own fields do, those spelt much like one, and those of a tower; but no
    token ids, which are of generated text (`decoder_start_token_id`).

    Args:
        kind: the class.
        names: names of arguments or of a file; fields of `kind`, and ours of a part, are passed over.
        inside: name of a sub-configuration -> its class, whose other fields do not belong to `kind`.
    """
    kinds = (kind, *(inside or {}).values())
    bases = [base for each in kinds for base in each.__mro__ if not base.__module__.startswith("transformers.")]
    ours = list(dict.fromkeys(name for base in bases for name in vars(base).get("__annotations__", ())))
    parts = {place: {entry.name for entry in fields(part)} for place, part in (inside or {}).items()}
    known, found = {*ours, *(entry.name for entry in fields(kind))}, dict[str, str]()
    for name in names:
        if name in known or name.endswith("_token_id"):
            continue
        places = [f"`{place}`" for place, own in parts.items() if name in own]
        close = get_close_matches(name, ours, n=1, cutoff=0.85)
        if places:
            found[name] = f"`{name}` has no effect here; it is a field of {' and of '.join(places)}."
        elif close or name.startswith(OUR_PREFIXES):
            close = close or get_close_matches(name, ours, n=3, cutoff=0)
            found[name] = f"There is no field `{name}`; did you mean {', '.join(f'`{c}`' for c in close)}?"
    return found


def _defaults(kind: Any) -> dict[str, Any]:
    return {entry.name: entry.default for entry in fields(kind) if entry.default is not MISSING}


def _idle(config: Any, uses: Sequence[Use], defaults: Mapping[str, Any]) -> dict[str, Use]:
    """Return the fields with another value than their default and no effect, and where they would have one."""
    unused = {name: use for use in uses if not use.where(config) for name in use.fields}
    return {
        name: use
        for name, use in unused.items()
        if getattr(config, name) != defaults[name] and (use.off is None or getattr(config, name) != use.off)
    }


# -- where fields have an effect -----------------------------------------------------------------------------------


def aligns(vision: Any) -> bool:
    """Return whether the tower of a configuration has ILA's alignment, in one layer or more."""
    return vision.temporal_module == "ila" and (vision.alignment_layers is None or len(vision.alignment_layers) > 0)


def mixes_time(vision: Any) -> bool:
    """Return whether a layer or more lets a frame see others."""
    in_a_layer = vision.alignment_layers is None or len(vision.alignment_layers) > 0
    return vision.temporal_module not in ("none", "average") and in_a_layer


_LOOKING_AHEAD = {
    "message": "attends to the class tokens of all frames",
    "divided": "attends to all frames",
    "joint": "attends to all frames",
    "ata": "attends to all frames",
    "gta": "mixes all frames",
}


def looks_ahead(vision: Any) -> str | None:
    """Return why a frame depends on later ones whatever `alignment_causal` is, or `None` where it need not."""
    if vision.temporal_module in _LOOKING_AHEAD and mixes_time(vision):
        return f'temporal_module="{vision.temporal_module}" {_LOOKING_AHEAD[vision.temporal_module]}'
    if aligns(vision) and vision.alignment_fusion == "residual":
        return 'alignment_fusion="residual" looks two frames ahead in every layer'
    if aligns(vision) and vision.alignment_pairing == "middle":
        return 'alignment_pairing="middle" pairs the frames of the first half with a later one'
    return None


def has_causal_form(vision: Any) -> bool:
    """Return whether `alignment_causal` may be set in a tower, and has an effect there."""
    return mixes_time(vision) and looks_ahead(vision) is None


def _has_module(name: str) -> Callable[[Any], bool]:
    return lambda vision: vision.temporal_module == name


ALIGNING = 'temporal_module="ila" in one layer or more'
ALIGNMENT_USES: tuple[Use, ...] = (
    Use(
        (
            *("alignment_fusion", "alignment_conv", "alignment_operator", "alignment_pairing"),
            *("alignment_distance", "alignment_eta", "alignment_delta", "alignment_beta"),
        ),
        aligns,
        ALIGNING,
    ),
    Use(("alignment_hidden_size",), aligns, ALIGNING, refused=False),
    Use(("alignment_jitter",), aligns, ALIGNING, off=0),
)
MASK_USES: tuple[Use, ...] = (
    Use(
        ("alignment_distance", "alignment_delta"),
        lambda config: config.alignment_beta > 0,
        "alignment_beta > 0, as a mask without a slope is flat",
    ),
)


def _integrates(vision: Any) -> bool:
    return vision.mit_num_hidden_layers != 0


_INTEGRATING = "mit_num_hidden_layers of 1 or more"
TOWER_USES: tuple[Use, ...] = (
    Use(
        ("alignment_causal",),
        mixes_time,
        'temporal_module="ila" or "shift" in one layer or more; "none" and "average" look at no other frame',
    ),
    Use(("shift_division",), _has_module("shift"), 'temporal_module="shift"'),
    Use(("ata_dealignment",), _has_module("ata"), 'temporal_module="ata"'),
    Use(("gta_regions",), _has_module("gta"), 'temporal_module="gta"'),
    Use(("gta_groups",), _has_module("gta"), 'temporal_module="gta"', refused=False),
    Use(("alignment_layers",), lambda vision: vision.temporal_module != "none", 'a temporal_module other than "none"'),
    Use(("mit_intermediate_size",), _integrates, _INTEGRATING),
    Use(
        ("normalize_frames",),
        lambda vision: not _integrates(vision),
        "mit_num_hidden_layers=0, as the frame integration reads the features as they are",
    ),
    Use(("mit_num_attention_heads",), _integrates, _INTEGRATING, refused=False),
    Use(("drop_path_rate",), lambda vision: vision.num_hidden_layers > 1, "2 layers or more, as the first has rate 0"),
)


def _has_text_head(config: Any) -> bool:
    return config.classification_head == "text"


def _prompts(config: Any) -> bool:
    return _has_text_head(config) and config.use_video_prompt


_PROMPTING = 'classification_head="text" and use_video_prompt=True'

HEAD_USES: tuple[Use, ...] = (
    Use(("class_features", "logit_scale_init_value", "label_templates"), _has_text_head, 'classification_head="text"'),
    Use(
        (
            *("prompt_layers", "prompt_alpha", "prompt_hidden_act"),
            *("prompt_attention_dropout", "prompt_projection_dropout"),
        ),
        _prompts,
        _PROMPTING,
    ),
    Use(("prompt_num_attention_heads",), _prompts, _PROMPTING, refused=False),
    Use(
        ("freeze_text_model",),
        lambda config: _has_text_head(config) and config.class_features == "tokens",
        'classification_head="text" and class_features="tokens", which use the text tower',
    ),
    Use(("classifier_dropout",), lambda config: not _has_text_head(config), 'classification_head="linear"', off=0),
)
LOSS_USES: tuple[Use, ...] = (
    Use(
        ("label_smoothing",),
        lambda config: config.problem_type != MULTI_LABEL,
        f'a problem_type other than "{MULTI_LABEL}", whose loss has no smoothing',
    ),
)

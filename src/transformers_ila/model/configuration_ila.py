"""Configuration of ILA: every architecture number lives here.

`IlaConfig` is `CLIPConfig` with two sub-configurations of our own. A CLIP checkpoint's `config.json` loads as it is:
what CLIP does not know takes the defaults below. Those of image towers load too (`TOWERS` of `loading_ila.py`).

The defaults are no published network: the fusion "interaction" is ours, and the masks are those of the published
checkpoints. `IlaConfig.paper(...)` is the network of the equations (Implicit Temporal Modeling with Learnable
Alignment for Video Recognition, ICCV 2023), `IlaConfig.released(...)` that of the checkpoints; `docs/paper.md`
compares all three. A field that has no effect beside the others may only have its default (`validation_ila.py`).
"""

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

from .class_names_ila import names_of, settle_label_fields, with_label_arguments, without_label_fields
from .loading_ila import HUB_KWARGS, TOWERS, config_dict_of_tower, refuse_adapter
from .validation_ila import (
    ALIGNING,
    ALIGNMENT_USES,
    HEAD_USES,
    LOSS_USES,
    MASK_USES,
    PROBLEM_TYPES,
    TOWER_USES,
    Use,
    aligns,
    check_model_type,
    fields_in_use,
    has_causal_form,
    looks_ahead,
    refuse_unknown,
    require,
    require_activation,
    require_classification,
    require_effects,
    require_frame_rate,
    require_sizes,
    require_templates,
    require_tower,
    validate_transformer,
    with_defaults,
    without_unknown,
)


# The four CLIP towers of the paper's Table 1: size -> (vision fields, text fields, projection_dim).
_BASE_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12}
_LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
CLIP_SIZES: dict[str, tuple[dict[str, int], dict[str, int], int]] = {
    "B/32": ({**_BASE, "patch_size": 32, "image_size": 224}, _BASE_TEXT, 512),
    "B/16": ({**_BASE, "patch_size": 16, "image_size": 224}, _BASE_TEXT, 512),
    "L/14": ({**_LARGE, "patch_size": 14, "image_size": 224}, _LARGE_TEXT, 768),
    "L/14@336": ({**_LARGE, "patch_size": 14, "image_size": 336}, _LARGE_TEXT, 768),
}


# The two networks called ILA. The paper names no numbers for Eq. 6 and no jitter; height, flat radius and slope are
# the published code's in both.
_EQUATION_6 = {"alignment_eta": 1.0, "alignment_delta": 0.25, "alignment_beta": 1.5}
_ADJACENT: dict[str, Any] = {"temporal_module": "ila", "alignment_pairing": "adjacent", **_EQUATION_6}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        **_ADJACENT,
        "alignment_fusion": "mi_token",
        "alignment_causal": False,
        "alignment_distance": "euclidean",
        "alignment_jitter": 0.0,
    },
    "released": {
        **_ADJACENT,
        "alignment_fusion": "residual",
        "alignment_distance": "separable",
        "alignment_jitter": 0.2,
    },
}

# What leaves of ILA's network CLIP alone, whose features of the frames are averaged.
PLAIN_CLIP = {
    "temporal_module": "none",
    "mit_num_hidden_layers": 0,
    "normalize_frames": True,
    "use_video_prompt": False,
}

# Types of models that have seen pictures only.
OF_PICTURES = frozenset({"clip", "clip_vision_model", *TOWERS})

# Fields that decide which network a checkpoint is of; its file says so, whatever a later default becomes.
ALWAYS_SAVED = ("temporal_module", "alignment_fusion")


def preset_fields(kind: Any, preset: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a preset, and those given laid over them; what these leave without an effect is left out.

    Args:
        kind: the class of a tower's configuration, whose `uses` say what has an effect.
        preset: a key of `PRESETS`.
    """
    own = {name: value for name, value in PRESETS[preset].items() if hasattr(kind, name)}
    return {**fields_in_use(kind, own, given), **given}


def causal_start(kind: Any, stored: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, bool]:
    """Return `alignment_causal` for a tower of pictures that begins to learn from videos; nothing where it is decided.

    It is true wherever it has an effect: what is trained from then on can go on with a stream.

    Args:
        kind: the class of the tower's configuration.
        stored: fields of the tower.
        given: fields that replace them, of the tower or with a `vision_config` of the whole model.
    """
    inner = given.get("vision_config") or {}
    asked = {**(inner if isinstance(inner, dict) else inner.to_dict()), **given}
    if "alignment_causal" in asked or not has_causal_form(with_defaults(kind, {**stored, **asked})):
        return {}
    return {"alignment_causal": True}


def begin_with_clip(kind: Any, config: Any) -> Any:
    """Return the configuration, of class `kind`, of a model that begins with the weights of a CLIP configuration."""
    made = kind.from_dict(config.to_dict())
    vision = getattr(made, "vision_config", made)
    if kind.starts_causal:
        vision.alignment_causal = vision.alignment_causal or has_causal_form(vision)
    return made


def take_fields(kind: Any, kwargs: dict[str, Any], inside: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Move a configuration class's fields out of the keyword arguments of its `from_dict`, and return them.

    The configuration is then made with them, so that they are validated, and stored values that they replace are not.
    The library's own fields stay, but for `problem_type`, which decides what others may be.

    Args:
        kind: the class.
        inside: name of a sub-configuration, which stays too -> its class.

    Raises:
        ValueError: an argument that looks like a field and is none; the library would pass it over.
    """
    refuse_unknown(kind, kwargs, inside)
    names = {entry.name for entry in fields(kind)} - {entry.name for entry in fields(PreTrainedConfig)}
    return {name: kwargs.pop(name) for name in [*kwargs] if name in (names | {"problem_type"}) - {*(inside or {})}}


def validated(loaded: Any) -> Any:
    """Validate what a `from_dict` returns, a configuration or one with unused arguments, and return it unchanged."""
    (loaded[0] if isinstance(loaded, tuple) else loaded).validate()
    return loaded


def zero_shot_arguments(kind: Any, path: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of `from_pretrained` with which a checkpoint recognises words that it was not trained on.

    A CLIP checkpoint is read as CLIP alone (`PLAIN_CLIP`), an ILA checkpoint keeps its own network.

    Args:
        kind: the class of the model's configuration.
        path: folder or Hub id of the checkpoint.
        given: the caller's arguments.

    Raises:
        ValueError: a checkpoint or a model without CLIP's text tower, or fields of another network.
    """
    refuse_adapter(path)
    source = {name: given[name] for name in HUB_KWARGS if name in given}
    stored = {} if path is None else PreTrainedConfig.get_config_dict(path, **source)[0]
    check_model_type(stored, path, kind.loads)
    found, is_clip = stored.get("model_type"), stored.get("model_type") == "clip"
    if found not in ("clip", "ila"):
        kind_found = "has no config.json that says what it is" if found is None else f"is of `model_type` {found!r}"
        raise ValueError(
            f"`zero_shot=True` needs CLIP's text tower; {str(path)!r} {kind_found}, allowed: 'clip', 'ila'."
        )
    network: dict[str, Any] = {"classification_head": "text", "class_features": "tokens", **PLAIN_CLIP}
    if not is_clip:
        own = _flat(kind.from_dict(without_label_fields(stored)).to_dict())
        network = {name: own[name] for name in network}
    if "linear" in (kind.classification_head, network["classification_head"]):
        raise ValueError(
            f"`zero_shot=True` needs a text head, {kind.__name__ if is_clip else repr(str(path))} has a linear one, "
            "which knows the classes that it was trained on."
        )
    if network["class_features"] == "merged":
        raise ValueError(
            f"`zero_shot=True` needs the text tower, which {str(path)!r} has no more (`merge_text_tower`): load the "
            "checkpoint from before, or give other classes' text features to `set_class_embeddings`."
        )
    config, plain = given.get("config"), PLAIN_CLIP if is_clip else {}
    if isinstance(config, (str, os.PathLike)):
        config = kind.from_dict(kind.get_config_dict(config)[0]) if _type_at(config) == "ila" else None
    elif config is not None and config.model_type == "clip":
        config = kind.from_dict(config.to_dict(), **plain)
        given = {**given, "config": config}
    asked = _flat(given if config is None else config.to_dict())
    other = {name: asked[name] for name, value in network.items() if asked.get(name, value) != value}
    if other:
        raise ValueError(
            f"`zero_shot=True` takes {str(path)!r} as it is, with { ({name: network[name] for name in other}) }; got "
            f"{other}. Leave these fields out, or load without `zero_shot` and train."
        )
    return {**given, **({} if config is not None else plain)}


def _type_at(path: Any) -> Any:
    return PreTrainedConfig.get_config_dict(path)[0].get("model_type")


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a configuration and, beside them, those of its vision tower."""
    vision = fields.get("vision_config") or {}
    return {**(vision if isinstance(vision, dict) else vision.to_dict()), **fields}


@strict
class IlaTextConfig(CLIPTextConfig):
    """Configure CLIP's text tower, unchanged; see `CLIPTextConfig` for the fields."""

    model_type = "ila_text_model"

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("model_type", None)  # a CLIP folder names its own type here
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raise a ValueError for a number of layers, heads, channels or tokens that is not allowed."""
        validate_transformer(self)


@strict
class IlaVisionConfig(CLIPVisionConfig):
    """Configure CLIP's vision tower with a temporal module in its layers, and the frame integration above it.

    Fields beyond `CLIPVisionConfig`:
        num_frames: frames T of one clip, >= 1.
        temporal_module: what a layer does across frames. "ila": implicit alignment (Section 3.2). "none": nothing,
            plain CLIP on every frame. Those it is compared with (`temporal_ila.py`): "average", "shift", "message"
            (X-CLIP), "divided" and "joint" (TimeSformer), "ata", "gta".
        alignment_fusion: how aligned features enter the layer. "mi_token", the paper's form: pooled to one
            mutual-information token that joins the spatial attention (Eq. 3). "interaction", ours and the default: the
            token, and the pairs' features added to the patches (`ImplicitAlignment`), for 1 % more. "residual": added
            to the frames through linear layers, as in the published checkpoints. "add", "concat": added to the
            patches, or appended to them (Table 9).
        alignment_conv: convolution module of Eq. 5. "depthwise_separable" (Kinetics-400, Table 1) or "standard"
            (Something-Something V2, Table 2: two 3x3 convolutions in its place, where Appendix A adds two).
        alignment_hidden_size: channels of the point head, even; "standard" works on twice as many before it.
        alignment_operator: "conv", or "window_attention" in its place (Table 8).
        alignment_layers: indices of the layers that have the temporal module, `None` for all (Table 7).
        alignment_pairing: which frame each frame is aligned with: "adjacent" its predecessor, "first" the first one,
            "middle" the middle one (Table 6).
        alignment_causal: every frame depends on itself and earlier frames only, so that the tower can go on with a
            stream, one frame at a time (`ImplicitAlignment`, `Shift`). It is how the weights were trained, and cannot
            be switched for a checkpoint. "none" and "average" are causal as they are; the other modules, the fusion
            "residual" and the pairing "middle" look ahead.
        alignment_distance: distance of Eq. 6. "separable" weighs the axes one by one and multiplies, as the released
            network does; "euclidean" is the equation as it reads.
        alignment_eta, alignment_delta, alignment_beta: Eq. 6: weight at the point, radius of the flat top, slope.
        alignment_jitter: in training, masks are the mean over the points moved by this much in nine directions.
        mit_num_hidden_layers: layers of the frame integration (Eq. 8); 0 averages the frames instead.
        normalize_frames: without frame integration: bring every frame's feature to unit length before the average, and
            that too, as plain CLIP is used on videos.
        mit_num_attention_heads, mit_intermediate_size: `None` for E / 64 heads (one head where E is no multiple of 64)
            and 4 E, E being `projection_dim`.
        shift_division: of "shift": one channel in so many comes from the frame before, as many from the one after.
        ata_dealignment: of "ata": put patches back where they were after the attention over time.
        gta_groups, gta_regions: of "gta": groups of channels, and as many heads; regions of a frame, `None` for D / 8.
        drop_path_rate: stochastic depth, rising linearly from 0 in the first layer to this rate in the last.
        patch_bias: the patch embedding has a bias: `False` in CLIP, `True` in a ViT (Table 10).
        pre_layer_norm: what enters the layers is normalised, as in CLIP. `False` in a ViT, which normalises all tokens
            behind them instead: `last_hidden_state` is that.
        num_register_tokens: learned tokens beside each frame's own in the spatial attention, which DINOv2 may have;
            temporal modules do not see them.
        gated_mlp: the layers' MLP is gated (SwiGLU, as of DINOv2-giant) in place of CLIP's two linear layers.
        image_normalization: "image_mean" and "image_std" that the weights were made for, `None` for CLIP's;
            `IlaVideoProcessor.for_model` takes them from here.
        untrained_weights: as in `IlaConfig`, of a tower alone.
    """

    model_type = "ila_vision_model"
    # types of models whose weights have a place
    loads = frozenset({"ila_vision_model", "ila", "ila_frozen_clip", "clip", "clip_vision_model", *TOWERS})
    uses = (*ALIGNMENT_USES, *MASK_USES, *TOWER_USES)
    starts_causal = True  # from weights that have seen pictures only

    image_size: int = 224
    patch_size: int = 32
    num_frames: int = 8
    temporal_module: Literal["ila", "none", "average", "shift", "message", "divided", "joint", "ata", "gta"] = "ila"
    alignment_fusion: Literal["mi_token", "residual", "add", "concat", "interaction"] = "interaction"
    alignment_conv: Literal["depthwise_separable", "standard"] = "depthwise_separable"
    alignment_operator: Literal["conv", "window_attention"] = "conv"
    alignment_hidden_size: int = 128
    alignment_layers: list[int] | tuple[int, ...] | None = None
    alignment_pairing: Literal["adjacent", "first", "middle"] = "adjacent"
    alignment_causal: bool = False
    alignment_distance: Literal["separable", "euclidean"] = "separable"
    alignment_eta: float | int = 1.0
    alignment_delta: float | int = 0.25
    alignment_beta: float | int = 1.5
    alignment_jitter: float | int = 0.2
    mit_num_hidden_layers: int = 1
    normalize_frames: bool = False
    mit_num_attention_heads: int | None = None
    mit_intermediate_size: int | None = None
    shift_division: int = 8
    ata_dealignment: bool = True
    gta_groups: int = 8
    gta_regions: int | None = None
    drop_path_rate: float | int = 0.0
    patch_bias: bool = False
    pre_layer_norm: bool = True
    num_register_tokens: int = 0
    gated_mlp: bool = False
    image_normalization: dict[str, list[float] | tuple[float, ...]] | None = None
    untrained_weights: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("model_type", None)
        refuse_unknown(type(self), kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        config_dict, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        check_model_type(config_dict, pretrained_model_name_or_path, cls.loads)
        of_pictures = config_dict.get("model_type") in OF_PICTURES
        if config_dict.get("model_type") in TOWERS:
            config_dict = config_dict_of_tower(config_dict, pretrained_model_name_or_path, **kwargs)
        if "vision_config" in config_dict:  # of both towers, CLIP's or ours
            untrained = config_dict.get("untrained_weights")
            config_dict = IlaConfig.from_dict(without_label_fields(config_dict)).vision_config.to_dict()
            config_dict["untrained_weights"] = untrained
        if of_pictures:
            config_dict = {**config_dict, **causal_start(cls, config_dict, kwargs)}
        return config_dict, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        given = take_fields(cls, kwargs)
        stored = fields_in_use(cls, without_unknown(cls, config_dict), {**kwargs, **given}, warn=True)
        return validated(super().from_dict({**stored, **given}, **kwargs))

    @classmethod
    def paper(cls, **kwargs: Any) -> "IlaVisionConfig":
        """Make the configuration of the paper's tower; see `IlaConfig.paper`."""
        return cls(**preset_fields(cls, "paper", kwargs))

    @classmethod
    def released(cls, **kwargs: Any) -> "IlaVisionConfig":
        """Make the configuration of the published checkpoints' tower; see `IlaConfig.released`."""
        return cls(**preset_fields(cls, "released", kwargs))

    def to_diff_dict(self) -> dict[str, Any]:
        return {**super().to_diff_dict(), **{name: getattr(self, name) for name in ALWAYS_SAVED}}

    @property
    def temporal_layers(self) -> tuple[int, ...]:
        """Return the indices of the layers with the temporal module; there are none for `temporal_module="none"`."""
        if self.temporal_module == "none":
            return ()
        return tuple(range(self.num_hidden_layers) if self.alignment_layers is None else self.alignment_layers)

    def drop_path_of(self, layer_index: int) -> float:
        """Return the rate of stochastic depth of a layer, which rises linearly from 0 in the first."""
        return self.drop_path_rate * layer_index / max(1, self.num_hidden_layers - 1)

    def validate_architecture(self) -> None:
        """Raise a ValueError for a number of layers, heads or channels that is not allowed."""
        validate_transformer(self)

    def validate_image(self) -> None:
        """Raise a ValueError for an image size, a patch size or a normalisation that is not allowed."""
        require(self.patch_size >= 1, field="patch_size", value=self.patch_size, allowed="1 or more")
        registers = self.num_register_tokens
        require(registers >= 0, field="num_register_tokens", value=registers, allowed="0 or more")
        allowed = f"at least patch_size={self.patch_size}"
        require(self.image_size >= self.patch_size, field="image_size", value=self.image_size, allowed=allowed)
        found, names = self.image_normalization, {"image_mean", "image_std"}
        allowed = "None or a dictionary of image_mean and image_std"
        require(found is None or set(found) == names, field="image_normalization", value=found, allowed=allowed)

    def validate_frames(self) -> None:
        """Raise a ValueError for a number of frames, frame integration or stochastic depth that is not allowed."""
        require(self.num_frames >= 1, field="num_frames", value=self.num_frames, allowed="1 or more")
        layers = self.mit_num_hidden_layers
        require(layers >= 0, field="mit_num_hidden_layers", value=layers, allowed="0 (mean of the frames) or more")
        rate = self.drop_path_rate
        require(0 <= rate < 1, field="drop_path_rate", value=rate, allowed="0 <= rate < 1")
        for field in ("mit_num_attention_heads", "mit_intermediate_size"):
            value = getattr(self, field)
            require(value is None or value >= 1, field=field, value=value, allowed="None or 1 and more")

    def validate_alignment(self) -> None:
        """Raise a ValueError for an `alignment_*` field that is not allowed, or two that exclude each other."""
        channels = self.alignment_hidden_size
        allowed = "a positive multiple of 4 (two points, two halves)"
        require(channels > 0 and channels % 4 == 0, field="alignment_hidden_size", value=channels, allowed=allowed)
        require(self.alignment_eta > 0, field="alignment_eta", value=self.alignment_eta, allowed="more than 0")
        for field in ("alignment_delta", "alignment_beta", "alignment_jitter"):
            require(getattr(self, field) >= 0, field=field, value=getattr(self, field), allowed="0 or more")
        layers = self.alignment_layers
        if layers is not None:
            inside = all(0 <= index < self.num_hidden_layers for index in layers)
            allowed = f"None or different indices between 0 and {self.num_hidden_layers - 1}"
            require(
                inside and len(set(layers)) == len(layers), field="alignment_layers", value=layers, allowed=allowed
            )
        if self.alignment_operator == "window_attention":
            plain = self.alignment_conv == "depthwise_separable" and self.alignment_fusion != "residual"
            allowed = '"conv" with alignment_conv="standard" or alignment_fusion="residual"'
            require(plain, field="alignment_operator", value=self.alignment_operator, allowed=allowed)

    def validate_causal(self) -> None:
        """Raise a ValueError for `alignment_causal` with what looks ahead."""
        ahead = looks_ahead(self) if self.alignment_causal else None
        require(ahead is None, field="alignment_causal", value=self.alignment_causal, allowed=f"False, as {ahead}")

    def validate_effects(self) -> None:
        """Raise a ValueError for a field that others make ineffective, unless it has its default."""
        require_effects(self)

    def validate_temporal(self) -> None:
        """Raise a ValueError for a number of "shift" or "gta" that is not allowed."""
        width, division, groups = self.hidden_size, self.shift_division, self.gta_groups
        require(division >= 2, field="shift_division", value=division, allowed="2 or more")
        divides = self.temporal_module != "gta" or (groups >= 1 and width % groups == 0)
        require(divides, field="gta_groups", value=groups, allowed=f"a divisor of hidden_size={width}")
        regions = self.gta_regions
        require(regions is None or regions >= 1, field="gta_regions", value=regions, allowed="None or 1 and more")


# What `IlaConfig(...)` and `from_pretrained(...)` hand down to the vision configuration when given at the top.
_VISION_FIELDS = frozenset(IlaVisionConfig.__annotations__) - {"untrained_weights"}


@strict
class IlaConfig(CLIPConfig):
    """Configure both towers and the head.

    Vision fields (`num_frames`, `temporal_module`, `alignment_*`, `mit_*`, `image_size`, ...) may be given at the top;
    they are handed down to `vision_config`.

    Fields beyond `CLIPConfig`:
        classification_head: "text" (cosine to the class names' text features, Eq. 8) or "linear" (one-hot labels and
            no text tower, Section 4.1 on Something-Something V2).
        use_video_prompt: adapt the text features to the video (Section 3.1, Table 11).
        prompt_layers, prompt_alpha: depth of the prompt generator and the initial weight of what it adds.
        prompt_num_attention_heads: `None` for E / 64.
        prompt_hidden_act, prompt_attention_dropout, prompt_projection_dropout: of the prompt generator.
        freeze_text_model: the text tower takes no gradient, and its features of the classes are computed once. While
            it is trained they are computed in every forward (`IlaForVideoClassification.class_text_features`).
        freeze_vision_model: the vision tower that was loaded takes no gradient; what is new in its layers does.
        class_features: "tokens": class names go through the text tower. "embeddings": ready text features are stored
            (`IlaForVideoClassification.set_class_embeddings`). "merged": they are, and there is no text tower
            (`IlaForVideoClassification.merge_text_tower`).
        label_templates: sentences in which the text head reads the class names, each with one `{}` for the name;
            features of several are averaged and stored. `None` reads the bare names. What `set_labels` is given later
            is read the same way (`IlaForVideoClassification.set_labels`).
        classifier_dropout: of the linear head.
        alignment_loss_weight: gamma of Section 3.3.
        label_smoothing: of the classification loss, in training mode. Not `TrainingArguments.label_smoothing_factor`,
            which computes a loss of its own without the alignment loss.
        initializer_range: standard deviation of new weights without a rule of their own.
        frame_rate: frames a second between the frames of a training clip, the median over the training videos; `None`
            where it is not known. Training measures it, unless it is given; it changes no logits, and says at which
            rate a longer video or a stream is to be sampled.
        weights_origin: "official_release" where the weights are, or began as, a published checkpoint's, for which
            nobody granted a licence; it travels with them, and their cards say so.
        untrained_weights: names of the weights that were drawn at random and not trained since, `None` for none, when
            the model was loaded or saved; `model.untrained()` tells how it is now.

    `id2label` and `label2id` say one list of class names; either is enough, and the other one is set from it.

    Raises:
        ValueError: `id2label`, `label2id` or `num_labels` that contradict each other, or indices other than 0 to K-1.
        StrictDataclassFieldValidationError, StrictDataclassClassValidationError: on a value that is not allowed,
            naming the field, the value and what is allowed.
    """

    model_type = "ila"
    loads = frozenset({"ila", "clip", *TOWERS})  # types of models whose weights have a place
    uses = (
        *HEAD_USES,
        *LOSS_USES,
        Use(("alignment_loss_weight",), lambda config: aligns(config.vision_config), ALIGNING, off=0),
    )
    vision_kind = IlaVisionConfig
    starts_causal = True  # as in `IlaVisionConfig`
    sub_configs_defaults = {"vision_config": IlaVisionConfig, "text_config": IlaTextConfig}
    # The Trainer gathers every output that is not named here over the whole evaluation set.
    keys_to_ignore_at_inference = [
        "alignment_loss",
        "hidden_states",
        "attentions",
        "interactive_points",
        "alignment_masks",
        "text_model_output",
        "vision_model_output",
    ]

    text_config: Any = None  # a dictionary (from JSON) or None becomes an IlaTextConfig
    vision_config: Any = None  # likewise an IlaVisionConfig
    projection_dim: int = 512
    classification_head: Literal["text", "linear"] = "text"
    use_video_prompt: bool = True
    prompt_layers: int = 2
    prompt_alpha: float | int = 0.1
    prompt_num_attention_heads: int | None = None
    prompt_hidden_act: str = "quick_gelu"
    prompt_attention_dropout: float | int = 0.0
    prompt_projection_dropout: float | int = 0.0
    freeze_text_model: bool = True
    freeze_vision_model: bool = False
    class_features: Literal["tokens", "embeddings", "merged"] = "tokens"
    label_templates: list[str] | tuple[str, ...] | None = None
    classifier_dropout: float | int = 0.5
    alignment_loss_weight: float | int = 1.0
    label_smoothing: float | int = 0.0
    initializer_range: float = 0.02
    frame_rate: float | int | None = None
    weights_origin: Literal["official_release"] | None = None
    untrained_weights: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("model_type", None)
        # now, as the library makes a name for each of `num_labels`
        require_sizes({"num_labels": kwargs.get("num_labels")})
        settle_label_fields(self, kwargs.get("num_labels"))
        vision_fields = {name: kwargs.pop(name) for name in _VISION_FIELDS if name in kwargs}
        refuse_unknown(type(self), kwargs, self.tower_kinds())
        for key, config_class in self.tower_kinds().items():
            given = getattr(self, key)
            require_tower(key, given)
            if isinstance(given, dict):
                own = vision_fields if key == "vision_config" else {}
                setattr(self, key, {**copy.deepcopy(given), **own})  # CLIPConfig edits the dictionary it is given
            elif given is not None and given.model_type != config_class.model_type:
                setattr(self, key, config_class.from_dict(given.to_dict()))  # CLIP's own class
            elif given is not None and not isinstance(given, config_class):
                setattr(self, key, config_class(**given.to_dict()))  # of another of our models
        super().__post_init__(**kwargs)
        if vision_fields:
            self.vision_config = copy.deepcopy(self.vision_config)  # not the caller's own
        for name, value in vision_fields.items():
            setattr(self.vision_config, name, value)

    def to_diff_dict(self) -> dict[str, Any]:
        diff = super().to_diff_dict()
        diff["vision_config"] = {**diff["vision_config"], **{n: getattr(self.vision_config, n) for n in ALWAYS_SAVED}}
        return diff

    @property
    def has_text_tower(self) -> bool:
        """Return whether a model of this configuration holds CLIP's text tower."""
        return self.classification_head == "text" and self.class_features != "merged"

    @property
    def class_names(self) -> list[str]:
        """Return the K class names, in the order of the logits."""
        return names_of(self)

    @property
    def num_frames(self) -> int:
        """Return the number of frames of a clip from `vision_config`; the pipeline for videos reads it here."""
        return self.vision_config.num_frames

    @num_frames.setter
    def num_frames(self, value: int) -> None:
        self.vision_config.num_frames = value

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        config_dict, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        check_model_type(config_dict, pretrained_model_name_or_path, cls.loads)
        of_pictures = config_dict.get("model_type") in OF_PICTURES
        if config_dict.get("model_type") == "clip":  # expected here, so no warning about another model's type
            config_dict = {**config_dict, "model_type": cls.model_type}
            count = len(config_dict.get("id2label") or range(2))
            if config_dict.get("problem_type") not in PROBLEM_TYPES or count < 2:  # of a head that is not loaded here
                config_dict = {**without_label_fields(config_dict), "problem_type": None}
        if config_dict.get("model_type") in TOWERS:
            config_dict = config_dict_of_tower(config_dict, pretrained_model_name_or_path, **kwargs)
        if of_pictures and cls.starts_causal:
            vision = config_dict.get("vision_config") or {}
            vision = {**vision, **causal_start(cls.vision_kind, vision, kwargs)}
            config_dict = {**config_dict, "vision_config": vision}
        return config_dict, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "IlaConfig":
        stored = without_unknown(cls, with_label_arguments(config_dict, kwargs), cls.tower_kinds())
        for key in cls.tower_kinds():
            require_tower(key, stored.get(key))
        if isinstance(stored.get("vision_config"), dict):
            stored["vision_config"] = without_unknown(cls.vision_kind, stored["vision_config"])
        stored = cls.fields_in_use(stored, kwargs, warn=True)
        vision = {name: kwargs.pop(name) for name in _VISION_FIELDS if name in kwargs}
        return validated(
            super().from_dict({**stored, **vision, **take_fields(cls, kwargs, cls.tower_kinds())}, **kwargs)
        )

    @classmethod
    def tower_kinds(cls) -> dict[str, Any]:
        """Return the names of both towers' configurations -> their classes."""
        return {"vision_config": cls.vision_kind, "text_config": IlaTextConfig}

    @classmethod
    def fields_in_use(cls, stored: dict[str, Any], given: dict[str, Any], *, warn: bool = False) -> dict[str, Any]:
        """Return stored fields without those that given ones replace in the tower, or leave without an effect.

        Args:
            stored, given: fields as `IlaConfig(...)` takes them.
            warn: name in a warning, once, what is left out for having no effect.
        """
        stored, kind, vision = dict(stored), cls.vision_kind, stored.get("vision_config")
        uses = cls.tower_uses({**stored, **given})
        if vision is None or isinstance(vision, dict):
            inner, asked = vision or {}, {name: value for name, value in given.items() if name in _VISION_FIELDS}
            if isinstance(given.get("vision_config"), dict):
                asked = {**given["vision_config"], **asked}
            top = {name: stored.pop(name) for name in _VISION_FIELDS if name in stored}
            inner = fields_in_use(kind, inner, {**top, **asked}, warn=warn, uses=uses)
            top = {name: value for name, value in top.items() if name not in asked}
            top = fields_in_use(kind, top, {**inner, **asked}, warn=warn, uses=uses)
            stored |= top if vision is None else {"vision_config": inner, **top}
            vision = with_defaults(kind, {**inner, **top, **asked})
        return fields_in_use(cls, stored, given, warn=warn, vision_config=vision)

    @classmethod
    def tower_uses(cls, values: Mapping[str, Any]) -> tuple[Use, ...]:
        """Return where the tower's fields have an effect, in a model with these fields."""
        return cls.vision_kind.uses

    @classmethod
    def from_clip_size(cls, size: str, **kwargs: Any) -> "IlaConfig":
        """Make the configuration of one of the paper's four towers (Table 1).

        Args:
            size: "B/32", "B/16", "L/14" or "L/14@336".
            kwargs: any other field, e.g. `num_frames=16`.

        Raises:
            ValueError: on another size.
        """
        if size not in CLIP_SIZES:
            raise ValueError(f"`size` is {size!r}; allowed: {', '.join(CLIP_SIZES)}.")
        vision, text, projection_dim = CLIP_SIZES[size]
        towers = {
            "vision_config": {**vision, "projection_dim": projection_dim, **(kwargs.pop("vision_config", None) or {})},
            "text_config": {**text, "projection_dim": projection_dim, **(kwargs.pop("text_config", None) or {})},
        }
        return cls(**towers, **{"projection_dim": projection_dim, **kwargs})

    def validate_sizes(self) -> None:
        """Raise a ValueError for a size that is not allowed."""
        require_sizes({**vars(self), "num_labels": self.num_labels})

    def validate_frame_rate(self) -> None:
        """Raise a ValueError for a `frame_rate` that is no number of frames a second."""
        require_frame_rate(self.frame_rate)

    def validate_labels(self) -> None:
        """Raise a ValueError unless `id2label` and `label2id` say one list of class names, numbered from 0."""
        names_of(self)

    def validate_templates(self) -> None:
        """Raise a ValueError unless `label_templates` are sentences with one place for a name."""
        if self.label_templates is not None:
            require_templates(self.label_templates, "label_templates")

    @classmethod
    def paper(cls, size: str | None = None, **kwargs: Any) -> "IlaConfig":
        """Make the configuration of the network that the paper's equations describe.

        Aligned features become one mutual-information token (Eq. 3), masks fall with the Euclidean distance from a
        point (Eq. 6), and nothing jitters. Convolution and head differ per data set: the defaults are Kinetics-400's,
        Something-Something V2 has `classification_head="linear"` and `alignment_conv="standard"`.

        Args:
            size: a tower as `from_clip_size` takes it; `None` for the sizes that `kwargs` say.
            kwargs: any field; it wins.
        """
        return cls._from_preset("paper", size, kwargs)

    @classmethod
    def released(cls, size: str | None = None, **kwargs: Any) -> "IlaConfig":
        """Make the configuration of the published checkpoints' network; arguments as for `paper`.

        Aligned features are added to the frames, masks are products of two that fall along each axis, and in training
        they are means over points that jitter. `docs/paper.md` lists what else differs.
        """
        return cls._from_preset("released", size, kwargs)

    @classmethod
    def _from_preset(cls, preset: str, size: str | None, kwargs: dict[str, Any]) -> "IlaConfig":
        kwargs = {**cls.fields_in_use(PRESETS[preset], kwargs), **kwargs}
        return cls(**kwargs) if size is None else cls.from_clip_size(size, **kwargs)

    def validate_towers(self) -> None:
        """Validate the configurations of both towers."""
        self.vision_config.validate()
        self.text_config.validate()

    def validate_heads(self) -> None:
        """Raise a ValueError for a width, number of heads or number of prompt layers that is not allowed."""
        width = self.projection_dim
        require_activation("prompt_hidden_act", self.prompt_hidden_act)
        require(width > 0, field="projection_dim", value=width, allowed="1 or more")
        for field in ("logit_scale_init_value", "initializer_range", "initializer_factor"):
            found = getattr(self, field)
            require(0 <= found < math.inf, field=field, value=found, allowed="0 or more, and finite")
        heads = {
            "vision_config.mit_num_attention_heads": self.vision_config.mit_num_attention_heads,
            "prompt_num_attention_heads": self.prompt_num_attention_heads,
        }
        for field, value in heads.items():
            divides = value is None or (value >= 1 and width % value == 0)
            require(divides, field=field, value=value, allowed=f"None or a divisor of projection_dim={width}")
        require(self.prompt_layers >= 1, field="prompt_layers", value=self.prompt_layers, allowed="1 or more")

    def validate_classes(self) -> None:
        """Raise a ValueError for regression, or for one class alone in a model that gives a video one label."""
        require_classification(self)

    def validate_effects(self) -> None:
        """Raise a ValueError for a field that others make ineffective, unless it has its default."""
        require_effects(self)

    def validate_losses(self) -> None:
        """Raise a ValueError for a loss weight, label smoothing or dropout that is out of its range."""
        weight = self.alignment_loss_weight
        require(weight >= 0, field="alignment_loss_weight", value=weight, allowed="0 or more")
        for field in (
            "label_smoothing",
            "classifier_dropout",
            "prompt_attention_dropout",
            "prompt_projection_dropout",
        ):
            value = getattr(self, field)
            require(0 <= value < 1, field=field, value=value, allowed="0 <= value < 1")

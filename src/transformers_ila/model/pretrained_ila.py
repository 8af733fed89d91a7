"""The base of all ILA models: initialisation, loading at other sizes than the checkpoint's, weights still random."""

import copy
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPPreTrainedModel, CLIPVisionEmbeddings
from transformers.models.x_clip.modeling_x_clip import XCLIPMultiframeIntegrationTransformer, XCLIPPromptGenerator
from transformers.utils import ModelOutput, logging
from transformers.utils.output_capturing import OutputRecorder

from .configuration_ila import IlaConfig, begin_with_clip
from .fusing_ila import FusableModel
from .layers_ila import IlaEncoderLayer, resize_frame_positions, resize_patch_positions, resize_time_parameters
from .loading_ila import (
    HELD_WEIGHTS,
    HUB_KWARGS,
    KEY_MAPPING,
    TOWERS,
    check_config_for_tower,
    checkpoint_names,
    image_tower,
    refuse_adapter,
    save_code,
    set_vision_sizes,
    state_dict_of_tower,
    stored_sizes,
    take_checkpoint_names,
    vision_sizes,
)
from .numerics_ila import realign_tensors
from .validation_ila import fields_in_use, mixes_time, with_defaults


logger = logging.get_logger(__name__)


# Arguments of `from_pretrained` that choose among a folder's weight files.
FILE_ARGUMENTS = ("use_safetensors", "variant", "weights_only")


# -- weights that are random until trained ----------------------------------------------------------------------------


RANDOM = "random until trained"
OWN_TYPES = ("ila", "ila_vision_model", "ila_frozen_clip")  # of checkpoints whose towers may mix frames
SAMPLED = 1024  # numbers of a weight that tell whether it is still what was drawn
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)
# What an adapter (PEFT) puts into the names of weights; what it trains comes behind the module that this replaces.
IN_ADAPTED_NAMES = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.)")


class UntrainedWeights:
    """Let a model know which of its weights were drawn at random and have not been trained since.

    `from_pretrained` says them in one line, and `config.untrained_weights` keeps their names. Of each some numbers are
    remembered, and a weight counts as untrained while it has them, in whatever precision: so any trainer, loop or
    `load_state_dict` is noticed. Weights that start at constants are not random, and are not named.
    """

    config: Any
    # Parts of the names of parameters that no checkpoint of images has, so that they start anew.
    new_parameters: ClassVar[tuple[str, ...]] = ()
    _drawn: Mapping[str, torch.Tensor | None] = {}  # name -> what `sample` returned of it, as drawn; never edited
    _absent: frozenset[str] = frozenset()  # while loading: what the load report leaves out

    def untrained(self) -> list[str]:
        """Return the names of the weights that are as random as they were drawn.

        Weights that take gradients are trained together, also where the gradient of one is 0: once one of them has
        changed, only frozen ones are named. Weights whose values cannot be read (offloaded, sharded or quantised ones)
        stay named.
        """
        return self._untrained_of(self._named_weights())

    def mark_trained(self) -> None:
        """Say that all weights are trained: after a loop of your own that leaves some as they were drawn."""
        self._drawn = {}
        self.config.untrained_weights = None

    def remember_untrained(self, names: Iterable[str]) -> None:
        """Take the present values of weights as drawn at random; those named before and not here are trained.

        names: of weights and buffers; others, and those that are constant, are passed over.
        """
        names = set(names)
        found = {name: (weight, sample(weight)) for name, weight in self._named_weights().items() if name in names}
        self._drawn = {name: numbers for name, (weight, numbers) in found.items() if is_random(weight, numbers)}
        self.config.untrained_weights = [*self._drawn] or None

    def fuse(self) -> Any:
        """Call `FusableModel.fuse`; the snapshot names as untrained what the model does, as far as it still has it."""
        snapshot = super().fuse()  # type: ignore[misc]
        snapshot._drawn = {name: self._drawn[name] for name in self.untrained()}
        return snapshot

    def _named_weights(self) -> dict[str, torch.Tensor]:
        """Return parameters and buffers under the names that they have without adapters."""
        module: Any = self
        named = (*module.named_parameters(), *module.named_buffers())
        return {IN_ADAPTED_NAMES.sub("", name): weight for name, weight in named}

    def _untrained_of(self, weights: Mapping[str, torch.Tensor]) -> list[str]:
        """Return the names of those weights that are as they were drawn, as `untrained` does."""
        same = {name: is_drawn(weights[name], drawn) for name, drawn in self._drawn.items() if name in weights}
        own = self._named_weights()
        trained = {name for name in same if name in own and own[name].requires_grad}
        has_stepped = not all(same[name] for name in trained)
        return [name for name, as_drawn in same.items() if as_drawn and not (has_stepped and name in trained)]

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """Keep what no checkpoint of images has out of the load report, where it would fill a page."""
        super()._adjust_missing_and_unexpected_keys(loading_info)  # type: ignore[misc]
        missing, parts = loading_info.missing_keys, self.new_parameters
        class_keys = getattr(self, "class_keys", ())
        absent = {key for key in missing if key in class_keys or any(part in key for part in parts)}
        loading_info.missing_keys, self._absent = missing - absent, frozenset(absent)

    def _report_untrained(self, info: dict[str, Any], stored: Iterable[str] | None) -> None:
        """Complete the loading info, remember what is random, and say it in a line; the end of `from_pretrained`.

        stored: names of weights that were never trained before they were saved, by a tower alone or by a whole model.
        """
        info["missing_keys"] |= self._absent
        self._absent = frozenset()
        anew = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        prefix = f"{self.base_model_prefix}."  # type: ignore[attr-defined]
        for name in stored or ():
            anew |= {name, name.removeprefix(prefix), prefix + name}
        self.remember_untrained(anew)
        if self._drawn:
            logger.warning(f"{describe_untrained(self._drawn, self.new_parameters)}.")

    def save_pretrained(
        self, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, **kwargs: Any
    ) -> None:
        """Call `PreTrainedModel.save_pretrained`; `config.untrained_weights` says what is random in the files."""
        weights = self.state_dict() if state_dict is None else state_dict  # type: ignore[attr-defined]
        held = {f"{name}.weight": weights[name] for name in HELD_WEIGHTS if name in weights}
        self.config.untrained_weights = self._untrained_of({**weights, **held}) or None
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)  # type: ignore[misc]


def sample(weight: torch.Tensor) -> torch.Tensor | None:
    """Return up to `SAMPLED` numbers from all over a weight, float32 on the CPU.

    Return None where they cannot be read: offloaded, sharded or quantised weights.
    """
    if weight.is_meta or type(weight.data) is not torch.Tensor or not weight.is_floating_point():
        return None
    return weight.detach().flatten()[:: max(1, weight.numel() // SAMPLED)][:SAMPLED].cpu().float().clone()


def is_random(weight: torch.Tensor, numbers: torch.Tensor | None) -> bool:
    """Return whether the numbers of a new weight, which `sample` has read, differ, as all drawn ones do."""
    return weight.is_floating_point() and (numbers is None or len(numbers.unique()) > 1)


def is_drawn(weight: torch.Tensor, drawn: torch.Tensor | None) -> bool:
    """Return whether a weight still has the numbers `drawn`, or these as casts have rounded them."""
    numbers = sample(weight)
    if numbers is None or drawn is None:
        return True
    once = [drawn.to(precision) for precision in PRECISIONS]
    return any(torch.equal(numbers, each.to(precision).float()) for each in once for precision in PRECISIONS)


def describe_untrained(names: Iterable[str], new_parameters: Iterable[str]) -> str:
    """Say in a line how many weights are random, and where: "24 new tensors, random until trained: mit (8), ..."."""
    groups = Counter(_group(name, new_parameters) for name in names)
    where = ", ".join(f"{group} ({count})" if count > 1 else group for group, count in groups.items())
    count = groups.total()
    return f"{count} new tensor{'s' * (count > 1)}, {RANDOM}: {where}"


def _group(name: str, new_parameters: Iterable[str]) -> str:
    """Return the part of a weight's name up to the module that is new, with `*` for the number of a layer."""
    ends = [name.find(".", name.index(part) + len(part.rstrip("."))) for part in new_parameters if part in name]
    end = min((end for end in ends if end > 0), default=len(name))
    return re.sub(r"\.\d+(?=\.|$)", ".*", name[:end])


def untrained_weights(model: Any) -> list[str]:
    """Return `model.untrained()`, and for a model that has nothing new in it, and no such method, no names."""
    return model.untrained() if hasattr(model, "untrained") else []


def warn_of_untrained(model: Any) -> None:
    """Warn, in a line, of a model with weights that are still random."""
    names = untrained_weights(model)
    if names:
        logger.warning(
            f"What this {type(model).__name__} answers is random in part: "
            f"{describe_untrained(names, model.new_parameters)}."
        )


@contextmanager
def weights_to_come() -> Iterator[None]:
    """Let `from_pretrained` say nothing of random weights in this block: another file, an adapter's, replaces them."""

    def is_other(record: Any) -> bool:
        return RANDOM not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def refuse_other_causality(config_class: Any, path: Any, config: Any, given: Mapping[str, Any], **source: Any) -> None:
    """Raise a ValueError where a tower's weights would be loaded with another `alignment_causal` than they had.

    Args:
        config_class: of the model.
        path: folder or Hub id of the checkpoint; CLIP's and image towers have no such weights.
        config, given: the caller's configuration, or where it lies, and fields.
        source: arguments that say where the files are.
    """
    try:
        stored = PreTrainedConfig.get_config_dict(path, **source)[0]
    except OSError:  # no configuration beside the weights: whoever needs one says so
        return
    if stored.get("model_type") not in OWN_TYPES:
        return
    kind = getattr(config_class, "vision_kind", config_class)
    if isinstance(config, PreTrainedConfig):
        asked = config.to_dict()
    else:
        asked = stored if config is None else PreTrainedConfig.get_config_dict(config)[0]
    before, after = (fields.get("vision_config", fields) for fields in (stored, asked))
    inner = given.get("vision_config") or {}
    after = {**after, **(inner if isinstance(inner, dict) else inner.to_dict()), **given}
    towers = [with_defaults(kind, fields) for fields in (before, fields_in_use(kind, after, {}))]
    if towers[0].temporal_module == towers[1].temporal_module and all(map(mixes_time, towers)):
        trained, wanted = (tower.alignment_causal for tower in towers)
        if trained != wanted:
            raise ValueError(
                f"{str(path)!r} was trained with alignment_causal={trained}, got {wanted} for it; allowed: {trained}. "
                "Its weights know no other way of pairing frames; a CLIP or an image tower starts with either."
            )


# -- the base ---------------------------------------------------------------------------------------------------------


class Projection(nn.Linear):
    """Project a tower's width to the shared space, E: (..., D) -> (..., E)."""


class IlaPreTrainedModel(UntrainedWeights, FusableModel, CLIPPreTrainedModel):
    """Initialise models, and load them with another number of frames or image size than the checkpoint's."""

    config: IlaConfig
    config_class = IlaConfig
    base_model_prefix = "ila"
    input_modalities: tuple[str, ...] = ("video", "text")
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "IlaVisionEmbeddings", "IlaEncoderLayer"]
    # Half precision spoils running statistics; the count of batches beside them is an integer and stays one.
    _keep_in_fp32_modules_strict = [f"batch_norm.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    _can_record_outputs = {  # of a temporal module's attention nothing is recorded
        "hidden_states": IlaEncoderLayer,
        "attentions": OutputRecorder(CLIPAttention, index=1, layer_name="self_attn"),
    }

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.register_load_state_dict_pre_hook(take_checkpoint_names)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise one module; transformers calls this for every module that has weights of its own."""
        super()._init_weights(module)
        factor = self.config.initializer_factor
        if isinstance(module, Projection):
            init.normal_(module.weight, std=module.in_features**-0.5 * factor)
        elif isinstance(module, nn.Linear) and hasattr(module, "init_std"):
            init.normal_(module.weight, std=module.init_std * factor)
        elif isinstance(module, XCLIPMultiframeIntegrationTransformer):
            init.normal_(module.position_embedding, std=self.config.initializer_range)
        elif isinstance(module, XCLIPPromptGenerator):
            init.constant_(module.alpha, self.config.prompt_alpha)
        elif hasattr(module, "init_own_weights"):
            module.init_own_weights(factor)  # type: ignore[operator]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Load an ILA or CLIP checkpoint, or an image tower's (`TOWERS`), as `PreTrainedModel.from_pretrained` does.

        Another `num_frames` or `image_size` than the checkpoint's interpolates the positions; a warning says so. So
        does one of what the checkpoint lacks and is random until trained (`UntrainedWeights`).

        Raises:
            ValueError: another `alignment_causal` than the one that an ILA checkpoint was trained with.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        refuse_adapter(pretrained_model_name_or_path)
        if isinstance(config, PreTrainedConfig) and config.model_type in ("clip", "clip_vision_model"):
            config = begin_with_clip(cls.config_class, config)
        if isinstance(config, PreTrainedConfig) and config.model_type in TOWERS:
            kind = cls.config_class.__name__
            raise ValueError(f"`config` is a {type(config).__name__}; allowed: `{kind}.from_pretrained(...)` of it.")
        kwargs["key_mapping"] = {**KEY_MAPPING, **(kwargs.get("key_mapping") or {})}
        source = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        named = pretrained_model_name_or_path is not None
        if named:
            refuse_other_causality(cls.config_class, pretrained_model_name_or_path, config, kwargs, **source)
        tower = image_tower(pretrained_model_name_or_path, **source) if named else None
        asks_for_size = isinstance(config, PreTrainedConfig) or not {"num_frames", "image_size"}.isdisjoint(kwargs)
        if not named or not (asks_for_size or tower):
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, config=config, output_loading_info=True, **kwargs
            )
            if not named:
                model.name_or_path = ""  # and not "None", where its tokenizer would be looked for
            realign_tensors(model)
            # without a checkpoint, the state dict given is of nobody knows which weights
            model._report_untrained(info, pretrained_model_name_or_path and model.config.untrained_weights)
            return (model, info) if wants_info else model
        if not isinstance(config, PreTrainedConfig):
            origin = config if config is not None else pretrained_model_name_or_path
            # a configuration refuses "auto"
            dtype: dict[str, Any] = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
            config, kwargs = cls.config_class.from_pretrained(origin, return_unused_kwargs=True, **kwargs)
            kwargs = {**kwargs, **source, **dtype}
        wanted = vision_sizes(config)
        config = copy.deepcopy(config)
        stored = cls.config_class.get_config_dict(pretrained_model_name_or_path, **source)[0]
        if stored.get("weights_origin"):  # the weights keep their origin under any configuration
            config.weights_origin = stored["weights_origin"]
        set_vision_sizes(config, stored_sizes(cls.config_class, pretrained_model_name_or_path, wanted, **source))
        path = pretrained_model_name_or_path
        if tower:
            check_config_for_tower(config, stored, tower, path)
            options = {name: kwargs.pop(name) for name in FILE_ARGUMENTS if name in kwargs}
            path, kwargs["state_dict"] = None, state_dict_of_tower(tower, path, **source, **options)
        model, info = super().from_pretrained(path, *model_args, config=config, output_loading_info=True, **kwargs)
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        model.resize_positions(**wanted)
        realign_tensors(model)
        model._report_untrained(info, stored.get("untrained_weights"))  # these travel with the weights, too
        return (model, info) if wants_info else model

    def save_pretrained(
        self, save_directory: Any, is_main_process: bool = True, state_dict: Any = None, **kwargs: Any
    ) -> None:
        """Call `PreTrainedModel.save_pretrained`, and save the code of a model from an exported folder, too."""
        state_dict = checkpoint_names(self.state_dict() if state_dict is None else state_dict)
        super().save_pretrained(save_directory, is_main_process, state_dict, **kwargs)
        if is_main_process and os.path.isdir(save_directory):
            save_code(self.config, save_directory)

    def resize_positions(self, *, num_frames: int | None = None, image_size: int | None = None) -> None:
        """Interpolate the position embeddings to another number of frames or image size (pixels), in place."""
        self._refuse_if_fused("resize_positions")
        untrained, before = self.untrained(), vision_sizes(self.config)
        asked = {"num_frames": num_frames, "image_size": image_size}
        wanted = {name: before[name] if value is None else value for name, value in asked.items()}
        mit = getattr(self, "mit", None)
        if wanted["num_frames"] != before["num_frames"]:
            resized = resize_time_parameters(self, wanted["num_frames"])
            if mit is not None:
                resize_frame_positions(mit, wanted["num_frames"])
            if resized or mit is not None:
                logger.warning(
                    f"Positions were interpolated: {before['num_frames']} to {wanted['num_frames']} frames."
                )
        if wanted["image_size"] != before["image_size"]:
            embeddings = next(module for module in self.modules() if isinstance(module, CLIPVisionEmbeddings))
            resize_patch_positions(embeddings, wanted["image_size"])
            logger.warning(f"Positions were interpolated: {before['image_size']} to {wanted['image_size']} pixels.")
        set_vision_sizes(self.config, wanted)
        self.remember_untrained(untrained)  # interpolated, what is random stays so


# -- outputs; shapes are named as in `modeling_ila.py` ----------------------------------------------------------------


@dataclass
class IlaVisionModelOutput(ModelOutput):
    """Hold the output of the vision tower and of `get_video_features`.

    last_hidden_state: the last layer's output, (B, T, L, D), without registers; a ViT's is taken after the last layer
        norm, a CLIP's before it, as in transformers' own models.
    pooler_output: the class token of every frame after the last layer norm, (B, T, D); `get_video_features` puts the
        video features in its place, (B, E).
    frame_embeds: of `get_video_features`: every frame's feature in the space of the texts, before the frames are
        integrated or averaged, (B, T, E); `None` where a model has none.
    alignment_loss: sum over layers of the mean over pairs of 1 - cosine (Eq. 10 up to a constant and gamma), scalar;
        `None` where nothing is aligned.
    hidden_states: embeddings and every layer's output, each (B, T, L + R, D), the R registers last.
    attentions: under "eager", each (B*T, heads, n, n) of the n tokens that the temporal module hands on:
        class token, patches, registers, and last the mutual-information token if there is one.
    interactive_points: per aligning layer (B, T-1, 2, 2): previous/current frame, x/y in [-1, 1].
    alignment_masks: per aligning layer (B, T-1, 2, h, w).
    kept: of a tower that goes on with a stream: what each layer keeps for the frames to come, (B, 1, ...) or None.
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]
    alignment_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    interactive_points: tuple[torch.Tensor, ...] | None = None
    alignment_masks: tuple[torch.Tensor, ...] | None = None
    frame_embeds: torch.Tensor | None = None
    kept: tuple[torch.Tensor | None, ...] | None = None


@dataclass
class IlaOutput(ModelOutput):
    """Hold the output of `IlaModel`.

    loss: with `return_loss`, contrastive loss plus weighted alignment loss, scalar.
    logits_per_video: (B, K). logits_per_text: its transpose.
    text_embeds: unit length, (K, E), or (B, K, E) with the video-specific prompt.
    video_embeds: unit length, (B, E).
    """

    loss: torch.Tensor | None = None
    logits_per_video: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: IlaVisionModelOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class IlaVideoClassifierOutput(ModelOutput):
    """Hold the output of `IlaForVideoClassification`; `IlaVisionModelOutput` describes the fields not listed here.

    loss: with `labels`, classification loss plus weighted alignment loss, scalar.
    logits: (B, K); for several views the log of the mean of their probabilities.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    interactive_points: tuple[torch.Tensor, ...] | None = None
    alignment_masks: tuple[torch.Tensor, ...] | None = None

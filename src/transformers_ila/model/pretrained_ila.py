"""The base of all ILA models: initialisation, and loading at other sizes than the checkpoint's."""

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPPreTrainedModel, CLIPVisionEmbeddings
from transformers.models.x_clip.modeling_x_clip import XCLIPMultiframeIntegrationTransformer, XCLIPPromptGenerator
from transformers.utils import ModelOutput, logging
from transformers.utils.output_capturing import OutputRecorder

from .configuration_ila import IlaConfig
from .fusing_ila import FusableModel
from .layers_ila import IlaEncoderLayer
from .loading_ila import (
    HUB_KWARGS,
    KEY_MAPPING,
    check_config_for_vit,
    checkpoint_names,
    is_vit,
    refuse_adapter,
    resize_frame_positions,
    resize_patch_positions,
    resize_time_parameters,
    save_code,
    set_vision_sizes,
    state_dict_of_vit,
    stored_sizes,
    take_checkpoint_names,
    vision_sizes,
)
from .numerics_ila import realign_tensors


logger = logging.get_logger(__name__)


# Arguments of `from_pretrained` that choose among a folder's weight files.
FILE_ARGUMENTS = ("use_safetensors", "variant", "weights_only")


class Projection(nn.Linear):
    """Project a tower's width to the shared space, E: (..., D) -> (..., E)."""


class IlaPreTrainedModel(FusableModel, CLIPPreTrainedModel):
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
        """Load an ILA, CLIP or ViT checkpoint, as `PreTrainedModel.from_pretrained` does.

        Another `num_frames` or `image_size` than the checkpoint's interpolates the positions; a warning says so.
        """
        refuse_adapter(pretrained_model_name_or_path)
        if isinstance(config, PreTrainedConfig) and config.model_type in ("clip", "clip_vision_model"):
            config = cls.config_class.from_dict(config.to_dict())
        kwargs["key_mapping"] = {**KEY_MAPPING, **(kwargs.get("key_mapping") or {})}
        source = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        vit = pretrained_model_name_or_path is not None and is_vit(pretrained_model_name_or_path, **source)
        asks_for_size = isinstance(config, PreTrainedConfig) or not {"num_frames", "image_size"}.isdisjoint(kwargs)
        if pretrained_model_name_or_path is None or not (asks_for_size or vit):
            loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
            model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
            if pretrained_model_name_or_path is None:
                model.name_or_path = ""  # and not "None", where its tokenizer would be looked for
            realign_tensors(model)
            return loaded
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
        if vit:
            check_config_for_vit(config, path)
            options = {name: kwargs.pop(name) for name in FILE_ARGUMENTS if name in kwargs}
            path, kwargs["state_dict"] = None, state_dict_of_vit(path, **source, **options)
        loaded = super().from_pretrained(path, *model_args, config=config, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = str(pretrained_model_name_or_path)
        model.resize_positions(**wanted)
        realign_tensors(model)
        return loaded

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
        before = vision_sizes(self.config)
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


# -- outputs; shapes are named as in `modeling_ila.py` ----------------------------------------------------------------


@dataclass
class IlaVisionModelOutput(ModelOutput):
    """Hold the output of the vision tower and of `get_video_features`.

    last_hidden_state: the last layer's output, (B, T, L, D); a ViT's is taken after the last layer norm, a CLIP's
        before it, as in transformers' own models.
    pooler_output: the class token of every frame after the last layer norm, (B, T, D); `get_video_features` puts the
        video features in its place, (B, E).
    frame_embeds: of `get_video_features`: every frame's feature in the space of the texts, before the frames are
        integrated or averaged, (B, T, E); `None` where a model has none.
    alignment_loss: sum over layers of the mean over pairs of 1 - cosine (Eq. 10 up to a constant and gamma), scalar;
        `None` where nothing is aligned.
    hidden_states: embeddings and every layer's output, each (B, T, L, D).
    attentions: under "eager", each (B*T, heads, L or L+1, L or L+1); the last token is the mutual-information token.
    interactive_points: per aligning layer (B, T-1, 2, 2): previous/current frame, x/y in [-1, 1].
    alignment_masks: per aligning layer (B, T-1, 2, h, w).
    """

    last_hidden_state: torch.Tensor = None  # type: ignore[assignment]
    pooler_output: torch.Tensor = None  # type: ignore[assignment]
    alignment_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    interactive_points: tuple[torch.Tensor, ...] | None = None
    alignment_masks: tuple[torch.Tensor, ...] | None = None
    frame_embeds: torch.Tensor | None = None


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

"""ILA: CLIP turned into a video recogniser by aligning neighbouring frames.

What is unusual about this model:
- ILA's tower has no attention over time. Every layer aligns each frame with its neighbour (`alignment_ila.py`); in
  the paper's network one token of what they share joins the frame's spatial attention.
- Layers work on (B, T, L, D), so the number of frames travels with the tensor.
- The classes are text: logits are cosines between the video and the class names, which adapt to the video (prompt).
  The tokenised names are part of the checkpoint (`class_input_ids`). While the text tower is frozen their features
  are computed once; while it is trained, in every forward.
- Several views of one video may be given together; they are averaged as probabilities.

Shapes: `B` videos, `V` views, `T` frames, `h`, `w` patch rows and columns, `L` = 1 + h*w tokens, `D` width,
`E` projection, `K` classes.
"""

import copy
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, PreTrainedTokenizerBase
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import image_text_contrastive_loss
from transformers.models.x_clip.modeling_x_clip import XCLIPMultiframeIntegrationTransformer, XCLIPPromptGenerator
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .class_features_ila import (
    BARE_NAME,
    CLASS_BUFFERS,
    ClassTextFeatures,
    check_templates,
    load_tokenizer,
    placeholder_class_input_ids,
    random_class_embeds,
    tokenize_labels,
)
from .class_names_ila import LABEL_FIELDS, check_labels, explicit_class_names, names_of, row_order, settle_label_fields
from .configuration_ila import IlaConfig, IlaVisionConfig, zero_shot_arguments
from .layers_ila import FramePositions, IlaVisionEmbeddings, IlaVisionEncoder, PatchProjection, check_pixel_values
from .loading_ila import HUB_KWARGS
from .named_classes_ila import NamedClasses, refuse_other_classes
from .numerics_ila import at_least_float32
from .pairs_ila import Past
from .pretrained_ila import IlaOutput, IlaPreTrainedModel, IlaVideoClassifierOutput, IlaVisionModelOutput, Projection
from .streaming_ila import StreamingModel, StreamingTower
from .targets_ila import target_loss
from .temporal_ila import HAS_FRAME_POSITIONS, NEW_IN_TOWER
from .validation_ila import MULTI_LABEL, require_classification


logger = logging.get_logger(__name__)


# Arguments of `save_pretrained` that say where on the Hub the files go.
UPLOAD_ARGUMENTS = ("push_to_hub", "repo_id", "commit_message", "token", "private", "create_pr", "revision")


class IlaVisionModel(StreamingTower, IlaPreTrainedModel):
    """Encode videos by CLIP's vision tower, with the temporal module of `config.temporal_module` in its layers."""

    config: IlaVisionConfig
    config_class = IlaVisionConfig
    base_model_prefix = "vision_model"  # so that the tower alone loads from a folder that holds both
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    new_parameters: ClassVar[tuple[str, ...]] = NEW_IN_TOWER
    _keys_to_ignore_on_load_unexpected = [r"^(text_|visual_projection|logit_scale|mit\.|prompts_|class)"]
    _input_embed_layer = "patch_embedding"

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__(config)
        if config.temporal_layers and config.temporal_module in HAS_FRAME_POSITIONS:
            self.time_embedding = FramePositions(config.num_frames, config.hidden_size)
        self.embeddings = IlaVisionEmbeddings(config)
        self.pre_layrnorm: nn.Module = nn.Identity()
        if config.pre_layer_norm:
            self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = IlaVisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        output_alignment: bool = False,
        any_num_frames: bool = False,
        past: Sequence[Past] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IlaVisionModelOutput:
        """Encode videos: (B, T, C, H, W) -> `last_hidden_state` (B, T, L, D), `pooler_output` (B, T, D).

        Args:
            pixel_values: (B, T, C, H, W) with T = `config.num_frames` and H = W = `config.image_size`.
            interpolate_pos_encoding: take any H and W.
            output_alignment: return `interactive_points` and `alignment_masks`.
            any_num_frames: take any T. What a stream gives (`push`) equals what one call gives of all its frames.
            past: what a stream keeps in each layer (`streaming_ila.py`); `kept` of the output replaces it.

        Raises:
            ValueError: on another rank, number of frames, channels or size, and with `any_num_frames` for temporal
                modules that have weights for each frame.
        """
        check_pixel_values(
            pixel_values, self.config, any_size=interpolate_pos_encoding, any_frames=any_num_frames or past is not None
        )
        batch_size, num_frames, _, height, width = pixel_values.shape
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        hidden_states = self.embeddings(pixel_values.flatten(0, 1), interpolate_pos_encoding=interpolate_pos_encoding)
        hidden_states = hidden_states.unflatten(0, (batch_size, num_frames))  # (B, T, L, D)
        if hasattr(self, "time_embedding"):
            hidden_states = self.time_embedding(hidden_states)
        hidden_states = self.pre_layrnorm(hidden_states)
        hidden_states, losses, alignments, kept = self.encoder(hidden_states, grid, past=past, **kwargs)
        if self.config.num_register_tokens:
            hidden_states = hidden_states[:, :, : -self.config.num_register_tokens]
        normed = self.post_layernorm(hidden_states[:, :, :1] if self.config.pre_layer_norm else hidden_states)
        output = IlaVisionModelOutput(
            last_hidden_state=hidden_states if self.config.pre_layer_norm else normed,
            pooler_output=normed[:, :, 0],  # (B, T, D)
            alignment_loss=torch.stack(losses).sum() if losses else None,
            kept=None if kept is None else tuple(kept),
        )
        if output_alignment:
            output.interactive_points = tuple(points for _, points in alignments)
            output.alignment_masks = tuple(pairs.masks(points, *grid) for pairs, points in alignments)
        return output


def frame_integration(config: IlaConfig) -> XCLIPMultiframeIntegrationTransformer | None:
    """Make the transformer over the frames' class tokens (Eq. 8), of width E; return `None` for no layers."""
    vision, width = config.vision_config, config.projection_dim
    if vision.mit_num_hidden_layers == 0:
        return None
    mit = copy.copy(vision)
    mit.hidden_size = width
    mit.num_hidden_layers = vision.mit_num_hidden_layers
    mit.num_attention_heads = vision.mit_num_attention_heads or _default_heads(width)
    mit.intermediate_size = vision.mit_intermediate_size or 4 * width
    integration = XCLIPMultiframeIntegrationTransformer(mit)
    for layer in integration.encoder.layers:  # X-CLIP's rule, which its classes leave to its own models
        depth = (2 * mit.num_hidden_layers) ** -0.5
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            linear.init_std = width**-0.5 * depth
        layer.self_attn.out_proj.init_std = width**-0.5
        layer.mlp.fc1.init_std, layer.mlp.fc2.init_std = (2 * width) ** -0.5, width**-0.5 * depth
    return integration


def prompt_generator(config: IlaConfig) -> XCLIPPromptGenerator:
    """Make X-CLIP's video-specific prompt (Section 3.1), in which class features attend to the video's patches."""
    prompt = copy.copy(config)
    prompt.prompt_num_attention_heads = config.prompt_num_attention_heads or _default_heads(config.projection_dim)
    return XCLIPPromptGenerator(prompt)


def build_tower(kind: Any, config: Any) -> Any:
    """Build a tower in torch's default dtype, as all other parts are, whatever dtype its configuration was saved with.

    Args:
        kind: class of the tower, `IlaVisionModel` or `CLIPTextModel`.
        config: of the tower; it is left as it was.
    """
    remembered = config.dtype
    try:
        return kind._from_config(config, dtype=torch.get_default_dtype())
    finally:
        config.dtype = remembered


def _default_heads(width: int) -> int:
    return width // 64 if width % 64 == 0 else 1


class IlaModel(StreamingModel, IlaPreTrainedModel):
    """Compare videos and texts: both towers, and the cosines of their features.

    There is no text tower with `classification_head="linear"`, and none where it was merged into its class features.
    """

    # Parts of the names of parameters that no CLIP and no image tower has, so that they start anew.
    new_parameters: ClassVar[tuple[str, ...]] = (*NEW_IN_TOWER, "mit.", "prompts_", "classifier")
    # CLIP's text tower where the head is linear; the classifier's own where there is none.
    _keys_to_ignore_on_load_unexpected = [r"^(text_model|text_projection|logit_scale|class)"]

    def __init__(self, config: IlaConfig) -> None:
        super().__init__(config)
        width, projection = config.vision_config.hidden_size, config.projection_dim
        if config.classification_head == "text" and config.use_video_prompt:
            self.prompts_visual_projection = PatchProjection(width, projection)  # the first, as optimisers list it
        self.vision_model = build_tower(IlaVisionModel, config.vision_config)
        self.visual_projection = Projection(width, projection, bias=False)
        self.mit = frame_integration(config)
        if config.has_text_tower:
            self.text_model = build_tower(CLIPTextModel, config.text_config)
            self.text_projection = Projection(config.text_config.hidden_size, projection, bias=False)
        if config.classification_head == "text":
            self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
            if config.use_video_prompt:
                self.prompts_visual_layernorm = nn.LayerNorm(width, eps=config.vision_config.layer_norm_eps)
                self.prompts_generator = prompt_generator(config)
        self.post_init()

    def init_own_weights(self, factor: float) -> None:
        """Initialise what belongs to this module itself, as CLIP does."""
        if self.config.classification_head == "text":
            init.constant_(self.logit_scale, self.config.logit_scale_init_value)

    def set_attn_implementation(self, attn_implementation: str | dict, *args: Any, **kwargs: Any) -> None:
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        for part in (self.mit, getattr(self, "prompts_generator", None)):  # their configurations are copies
            for module in part.modules() if part is not None else ():
                if hasattr(module, "config"):
                    module.config._attn_implementation_internal = self.config.vision_config._attn_implementation

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.get_input_embeddings()

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        normalize: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IlaVisionModelOutput:
        """Compute the video features v of Eq. 8: (B, T, C, H, W) -> `pooler_output` (B, E), `frame_embeds` (B, T, E).

        normalize: bring both to unit length, so that their products with text features of unit length are cosines.
            Without it the video features have unit length only with `config.vision_config.normalize_frames`, and the
            frames' never.
        """
        kwargs.pop("return_dict", None)
        outputs = self.vision_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs
        )
        frames = self.visual_projection(outputs.pooler_output)  # (B, T, E)
        outputs.frame_embeds = F.normalize(frames, dim=-1) if normalize else frames
        outputs.pooler_output = self.pool_frames(frames)
        if normalize:
            outputs.pooler_output = F.normalize(outputs.pooler_output, dim=-1)
        return outputs

    def pool_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Integrate the frames' features by the layers of Eq. 8, or average them: (B, T, E) -> (B, E)."""
        if self.mit is not None:
            return self.mit(frames).pooler_output
        if self.config.vision_config.normalize_frames:
            return F.normalize(F.normalize(frames, dim=-1).mean(1), dim=-1)
        return frames.mean(1)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        normalize: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Compute the text features c: (K, length) -> `pooler_output` (K, E), with `normalize` of unit length.

        Raises:
            ValueError: where there is no text tower (`classification_head="linear"`, or it was merged).
        """
        if self.config.classification_head != "text":
            head = self.config.classification_head
            raise ValueError(f'There is no text tower: `classification_head` is "{head}"; it takes "text".')
        self._require_text_tower("get_text_features")
        kwargs.pop("return_dict", None)
        outputs = self.text_model(
            input_ids, attention_mask=attention_mask, position_ids=position_ids, return_dict=True, **kwargs
        )
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        if normalize:
            outputs.pooler_output = F.normalize(outputs.pooler_output, dim=-1)
        return outputs

    def _require_text_tower(self, caller: str) -> None:
        if not self.config.has_text_tower:
            raise ValueError(
                f"`{caller}` needs the text tower, which was merged into the class features and dropped "
                '(`class_features="merged"`). Load the checkpoint from before `merge_text_tower()`, or give other '
                "classes' text features to `set_class_embeddings`."
            )

    def match(
        self, video_outputs: IlaVisionModelOutput, text_embeds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the scaled cosines of videos and texts (Eq. 8).

        Args:
            video_outputs: what `get_video_features` returned.
            text_embeds: text features, (K, E).

        Returns:
            Logits (B, K), unit video features (B, E), unit text features (K, E) or, with the prompt, (B, K, E).
        """
        video_embeds = video_outputs.pooler_output
        text_embeds = text_embeds.to(video_embeds)
        if self.config.use_video_prompt:
            patches = self.prompts_visual_layernorm(video_outputs.last_hidden_state[:, :, 1:]).mean(1)
            patches = self.prompts_visual_projection(patches)  # (B, h*w, E): mean over frames, then projected
            text_embeds = text_embeds.expand(video_embeds.shape[0], -1, -1)
            text_embeds = text_embeds + self.prompts_generator(text_embeds, patches)
        video_embeds, text_embeds = F.normalize(video_embeds, dim=-1), F.normalize(text_embeds, dim=-1)
        if self.config.use_video_prompt:  # every video has its own texts
            cosines = (text_embeds @ video_embeds[..., None])[..., 0]
        else:
            cosines = video_embeds @ text_embeds.mT
        return self.logit_scale.exp().to(cosines) * cosines, video_embeds, text_embeds

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IlaOutput:
        """Compare every video with every text.

        Args:
            input_ids: tokenised texts, (K, length).
            pixel_values: (B, T, C, H, W).
            return_loss: contrastive loss of matching pairs (K = B) plus the weighted alignment loss.
        """
        video_outputs = self.get_video_features(pixel_values, interpolate_pos_encoding, **kwargs)
        text_outputs = self.get_text_features(input_ids, attention_mask, position_ids, **kwargs)
        logits, video_embeds, text_embeds = self.match(video_outputs, text_outputs.pooler_output)
        loss = None
        if return_loss:
            loss = self.add_alignment_loss(image_text_contrastive_loss(logits.T), video_outputs.alignment_loss)
        return IlaOutput(
            loss=loss,
            logits_per_video=logits,
            logits_per_text=logits.T,
            text_embeds=text_embeds,
            video_embeds=video_embeds,
            alignment_loss=video_outputs.alignment_loss,
            text_model_output=text_outputs,
            vision_model_output=video_outputs,
        )

    def add_alignment_loss(self, loss: torch.Tensor, alignment_loss: torch.Tensor | None) -> torch.Tensor:
        """Add the alignment loss, weighted by gamma, to a loss (Section 3.3)."""
        weight = self.config.alignment_loss_weight
        return loss if alignment_loss is None or not weight else loss + weight * alignment_loss.to(loss)


def _refuse_missing_weights(path: Any, info: dict[str, Any]) -> None:
    """Raise a ValueError where a checkpoint lacks weights of the network that it was loaded into."""
    drawn = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])} - {*CLASS_BUFFERS}
    if drawn:
        raise ValueError(
            f"`zero_shot=True` needs all weights of the network, and {str(path)!r} lacks {len(drawn)}, such as "
            f"{sorted(drawn)[:3]}: drawn at random they recognise nothing."
        )


class IlaForVideoClassification(NamedClasses, ClassTextFeatures, IlaModel):
    """Classify videos by a text head (classes are names) or a linear head (classes are numbers)."""

    class_input_ids: torch.Tensor  # (K, length), with class_features="tokens"
    class_embeds: torch.Tensor  # (K, E), with class_features="embeddings" or "merged"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the loss is a mean; the Trainer must not rescale it by a count of items

    def __init__(self, config: IlaConfig) -> None:
        settle_label_fields(config)
        super().__init__(config)
        self.num_labels = config.num_labels
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self._source: dict[str, Any] = {}  # where the checkpoint came from, beside its name
        self._has_no_tokenizer = False  # known once it was looked for
        self._keep_class_features()
        if config.classification_head == "linear":
            self.classifier_norm = nn.LayerNorm(config.projection_dim)
            self.classifier_dropout = nn.Dropout(config.classifier_dropout)
            self.classifier = nn.Linear(config.projection_dim, config.num_labels)
        elif config.class_features != "tokens":
            self.register_buffer("class_embeds", random_class_embeds(config, config.num_labels))
        else:
            self.register_buffer("class_input_ids", placeholder_class_input_ids(config))
        self._freeze_as_configured()
        self.post_init()

    def init_own_weights(self, factor: float) -> None:
        """Initialise the classes' tokens or text features, beside what `IlaModel` initialises."""
        super().init_own_weights(factor)
        if "class_input_ids" in self._buffers:
            init.copy_(self.class_input_ids, placeholder_class_input_ids(self.config))
        if "class_embeds" in self._buffers:
            init.copy_(self.class_embeds, random_class_embeds(self.config, self.config.num_labels))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        labels: Iterable[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        zero_shot: bool = False,
        templates: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Load an ILA or CLIP checkpoint or an image tower, optionally for other classes.

        ```python
        model = IlaForVideoClassification.from_pretrained(clip, labels=["juggling", "waving"], zero_shot=True)
        ```

        Args:
            pretrained_model_name_or_path: folder or Hub id of an ILA or CLIP checkpoint, or of an image tower,
                which gets a linear head: an ImageNet ViT (`google/vit-base-patch16-224-in21k`; Table 10), DINOv2
                (`facebook/dinov2-small`), or DINOv2 with registers.
            labels: class names, in the order of the logits. Sets `id2label` and `label2id`, and the text head's
                tokens; `id2label`, `label2id` or a `config` with other names than the checkpoint's do the same.
            tokenizer: of the text tower, or where to load it from; by default the checkpoint's own.
            zero_shot: recognise `labels` without training. A CLIP checkpoint becomes CLIP alone, on every frame, whose
                features of unit length are averaged (`temporal_module="none"`, `mit_num_hidden_layers=0`,
                `normalize_frames=True`, `use_video_prompt=False`); an ILA checkpoint with a text head keeps its own
                network. Without `labels` no class has a meaning until `set_labels`; features need none.
            templates: the sentences in which class names are read, as in `set_labels`.
            kwargs: of `PreTrainedModel.from_pretrained`, and any configuration field. With
                `ignore_mismatched_sizes=True` a head that has learned other classes starts anew; a warning says so.

        Raises:
            ValueError: names that contradict each other, or are no different, non-empty strings; other names than a
                linear head or ready text features have; names for a text head without a tokenizer, or names that it
                reads alike; a text head for an image tower; templates without a text tower; with `zero_shot` fields of
                another network, no text tower, or weights that the checkpoint lacks.
        """
        path, wants_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        if templates is None:
            templates = kwargs.pop("label_templates", None)
        elif "label_templates" in kwargs:
            raise ValueError("`templates` and `label_templates` are two names of one thing; give one of them.")
        if zero_shot:
            kwargs = zero_shot_arguments(cls.config_class, path, kwargs)
        model, info = super().from_pretrained(
            path,
            *model_args,
            labels=labels,
            tokenizer=tokenizer,
            templates=None if templates is None else check_templates(templates),
            anew=zero_shot and any(given is not None for given in (labels, *map(kwargs.get, LABEL_FIELDS[:2]))),
            output_loading_info=True,
            **kwargs,
        )
        if zero_shot:
            _refuse_missing_weights(path, info)
        if model._has_placeholders() and "class_input_ids" in info["missing_keys"]:  # CLIP's own may name classes
            names = explicit_class_names(model.config) if model._find_tokenizer() is not None else None
            if names is not None:
                model.set_labels(names)
        if not (zero_shot and model._has_placeholders()):  # no words were asked for
            model._warn_of_classes(info["missing_keys"])
        return (model, info) if wants_info else model

    @classmethod
    def _load_weights(
        cls, path: Any, *args: Any, tokenizer: Any = None, templates: Any = None, anew: bool = False, **kwargs: Any
    ) -> Any:
        """Load the weights; classes whose names are to be read in other sentences, or `anew`, become placeholders."""
        source = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        model, info = super()._load_weights(path, *args, **kwargs)
        model._freeze_as_configured()  # loading made every weight trainable
        model._source = source
        model.tokenizer = load_tokenizer(tokenizer)
        if templates is not None:
            model._require_text_head("templates")
        if model.config.classification_head == "text":
            stored = cls._stored_templates(path, **source)
            asked = templates or [*(model.config.label_templates or ())] or stored
            if anew or asked != stored:
                model._forget_classes()
                info["missing_keys"].add("class_input_ids")  # what the checkpoint holds is of no use
            model.config.label_templates = asked
        return model, info

    @classmethod
    def _stored_templates(cls, path: Any, **source: Any) -> list[str] | None:
        """Return the templates of a checkpoint's own configuration."""
        try:
            return None if path is None else cls.config_class.get_config_dict(path, **source)[0].get("label_templates")
        except OSError:  # no configuration beside the weights
            return None

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does, with the tokenizer, so that `set_labels` works once loaded.

        With `push_to_hub=True` the tokenizer is a commit of its own; `push_to_hub()` makes one of everything.
        """
        upload = {name: kwargs[name] for name in UPLOAD_ARGUMENTS if name in kwargs}
        if self._has_placeholders():
            logger.warning("The class names are saved without their tokens, placeholders stand for them.")
        super().save_pretrained(save_directory, *args, **kwargs)
        tokenizer = self._find_tokenizer() if kwargs.get("is_main_process", True) else None
        if tokenizer is not None:
            tokenizer.save_pretrained(save_directory, **upload)

    def _find_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer in use, else the checkpoint's, which is looked for once; `None` where there is none."""
        has_text = self.config.has_text_tower
        if self.tokenizer is None and has_text and self.name_or_path and not self._has_no_tokenizer:
            try:
                self.tokenizer = load_tokenizer(self.name_or_path, **self._source)
            except ValueError:
                self._has_no_tokenizer = True
        return self.tokenizer

    def freeze_text_model(self, freeze: bool = True) -> None:
        """Stop (or with `False` resume) training the text tower and its projection.

        Where no class name passes through a text tower there is nothing to train, which a warning says.
        """
        self._refuse_if_fused("freeze_text_model")
        if not (freeze or (self.config.has_text_tower and self.config.class_features == "tokens")):
            head, features = self.config.classification_head, self.config.class_features
            logger.warning(f"No text tower is in use (classification_head={head!r}, class_features={features!r}).")
            freeze = True
        self.config.freeze_text_model = freeze
        self.refresh_class_features()
        if self.config.has_text_tower:
            self.text_model.requires_grad_(not freeze)
            self.text_projection.requires_grad_(not freeze)

    def freeze_vision_model(self, freeze: bool = True) -> None:
        """Stop (or with `False` resume) training the vision tower and its projection, as on Something-Something V2.

        What no image tower has stays trainable: temporal modules, frame positions, frame integration, prompts, heads.
        """
        self._refuse_if_fused("freeze_vision_model")
        self.config.freeze_vision_model = freeze
        for name, weight in self.vision_model.named_parameters():
            if not any(part in name for part in NEW_IN_TOWER):
                weight.requires_grad_(not freeze)
        self.visual_projection.requires_grad_(not freeze)

    def _freeze_as_configured(self) -> None:
        self.freeze_text_model(self.config.freeze_text_model)
        if self.config.freeze_vision_model:
            self.freeze_vision_model()

    @property
    def class_keys(self) -> tuple[str, ...]:
        """Return the names of the weights and buffers that have one row for each class."""
        is_text = self.config.classification_head == "text"
        return ("class_input_ids", "class_embeds") if is_text else super().class_keys

    def set_labels(
        self,
        labels: Iterable[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        templates: str | Sequence[str] | None = None,
        ignore_mismatched_sizes: bool = False,
    ) -> None:
        """Name the classes anew.

        The text head reads the names, whatever they are. What a linear head has learned, and ready text features,
        belong to their names: the same names in another order bring their rows along. Numbered classes (`LABEL_0`) get
        names, if there are as many; for another number of names the head starts anew, and a warning says so.

        Args:
            labels: K different names, in the order of the logits.
            tokenizer: of the text tower, or where to load it from; by default the one given before, or that of the
                checkpoint loaded. Given to a model with ready text features, these make room for the names' tokens.
            templates: the sentences in which the text head reads the names, one or several, each with one `{}` for the
                name, such as "a video of {}."; "actions" for `ACTION_TEMPLATES`; "{}" for the bare name; by default
                those of the present names. Of several, the features are brought to unit length, averaged and stored as
                ready text features (`config.class_features="embeddings"`), which training does not change. The
                configuration keeps the templates (`label_templates`), so that later names are read the same way. Ready
                text features make room, as for `tokenizer`.
            ignore_mismatched_sizes: for other names than those of a linear head or of ready text features: let the
                head start anew, or tokenise the names instead. A warning says so. An optimizer that was made before
                still holds the weights from before.

        Raises:
            ValueError: no list of different names, names that the tokenizer reads alike, no tokenizer; other names
                than those of a linear head or ready text features, also where the text tower is gone; templates that
                are none, or several for a text tower that is trained.
        """
        names = check_labels(labels)
        if tokenizer is None and templates is None:
            self._set_labels(names, ignore_mismatched_sizes)
        else:
            self._read_labels(names, tokenizer, templates)

    def _set_labels(self, names: list[str], renew: bool) -> bool:
        if self.config.classification_head == "linear":
            return super()._set_labels(names, renew)
        averaged = self.config.class_features == "embeddings" and len(self.config.label_templates or ()) > 1
        if self.config.class_features == "tokens" or averaged:
            self._read_labels(names)
            return False
        before = names_of(self.config)
        order = row_order(before, names)
        if order is not None:
            untrained = self.untrained()
            self._use_class_features(self.config.class_features, "class_embeds", self.class_embeds[order])
            self.remember_untrained(untrained)
            self._name_classes(names)
            return False
        self._require_text_tower("set_labels")
        if not renew:
            refuse_other_classes(before, names)
        logger.warning("Ready text features are dropped: the text tower computes those of the names.")
        self._read_labels(names)
        return False

    def _read_labels(
        self,
        names: list[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        templates: str | Sequence[str] | None = None,
    ) -> None:
        """Take the names' tokens in one template, or their features averaged over several."""
        self._require_text_head("set_labels")
        self._require_text_tower("set_labels")
        kept = None if templates is None and self.config.label_templates is None else self._templates(templates)
        sentences = kept or BARE_NAME
        used = self._required_tokenizer(tokenizer)
        ids = tokenize_labels(names, used, self.config.text_config, sentences)
        if len(sentences) == 1:
            self.set_class_input_ids(ids, names)
        elif not self.config.freeze_text_model:
            raise ValueError(
                f"Features of {len(sentences)} templates are averaged once, and the text tower is to be trained "
                "(`freeze_text_model` is False): give one template, or freeze it."
            )
        else:
            features = self._encode_averaged(ids, len(sentences)).to(self.logit_scale.dtype)
            self._name_classes(self._checked_names(len(names), names))
            self._use_ready_features(features)
        self.config.label_templates = kept
        self.tokenizer = used

    def _required_tokenizer(self, tokenizer: Any = None) -> PreTrainedTokenizerBase:
        """Return the tokenizer given (or loaded from where that says), else the one in use, else the checkpoint's."""
        known = self.tokenizer if tokenizer is None else load_tokenizer(tokenizer)
        return load_tokenizer(self.name_or_path, **self._source) if known is None else known

    def _forget_classes(self) -> None:
        """Put placeholders in the place of the classes' tokens or features, until their names are read anew."""
        self._require_text_tower("set_labels")
        self._use_class_features("tokens", "class_input_ids", placeholder_class_input_ids(self.config))

    def _start_classes(self, names: list[str]) -> None:
        if self.config.classification_head == "linear":
            super()._start_classes(names)
        elif self.config.class_features == "tokens":
            self._read_labels(names)
        else:
            self.set_class_embeddings(random_class_embeds(self.config, len(names)), names)
            self.remember_untrained([*self.untrained(), "class_embeds"])

    def merge_text_tower(self) -> "IlaForVideoClassification":
        """Store the classes' text features and drop the text tower, in place; what is saved has none either.

        Logits stay the same, bit for bit where the text tower is frozen, and prompts work as before. Other class names
        cannot be set afterwards (`set_class_embeddings` can), nothing needs a tokenizer, and training reaches no text
        any more: the stored features are constant, also where `freeze_text_model` was off. Merged once, nothing
        happens again.

        Returns:
            The model itself.

        Raises:
            ValueError: no text head.
        """
        self._refuse_if_fused("merge_text_tower")
        self._require_text_head("merge_text_tower")
        if not self.config.has_text_tower:
            return self
        if self._has_placeholders():
            logger.warning(
                "The class names are not tokenised: the features stored for them are those of placeholders."
            )
        features = self._compute_class_features() if self.config.class_features == "tokens" else self.class_embeds
        self._use_class_features("merged", "class_embeds", features)
        del self.text_model, self.text_projection
        self.tokenizer = None  # or it would be saved
        return self

    def _require_text_head(self, caller: str) -> None:
        if self.config.classification_head != "text":
            head = self.config.classification_head
            raise ValueError(f'`{caller}` needs `classification_head="text"`, this model has "{head}".')

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_alignment: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> IlaVideoClassifierOutput:
        """Classify videos: `logits` (B, K), and with labels the `loss`, in which the alignment's has its weight.

        Args:
            pixel_values: (B, T, C, H, W), or (B, V, T, C, H, W) for several views of each video.
            labels: class indices (B,) or class probabilities (B, K); 0 and 1 (B, K) where `problem_type` says that a
                video has several labels. `targets_ila` says which dtypes and values.
            interpolate_pos_encoding: take any H and W.
            output_alignment: return `interactive_points` and `alignment_masks`, for views with B * V in place of B.

        Raises:
            ValueError: on another rank, number of frames, channels or size; on labels that are no such targets.
        """
        views = pixel_values.shape[1] if getattr(pixel_values, "ndim", 5) == 6 else None
        if views is not None:
            check_pixel_values(pixel_values, self.config.vision_config, any_size=interpolate_pos_encoding, views=True)
        outputs = self.get_video_features(
            pixel_values if views is None else pixel_values.flatten(0, 1),
            interpolate_pos_encoding,
            output_alignment=output_alignment,
            **kwargs,
        )
        logits = self.classify(outputs)  # (B, K), with views (B * V, K)
        if views is not None:
            logits = self.average_views(logits.unflatten(0, (-1, views)))
        loss = None
        if labels is not None:
            loss = self.add_alignment_loss(self.classification_loss(logits, labels), outputs.alignment_loss)
        output = IlaVideoClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            interactive_points=outputs.interactive_points,
            alignment_masks=outputs.alignment_masks,
        )
        if labels is not None:
            output.alignment_loss = outputs.alignment_loss
        else:  # an attribute, no entry: pipelines cut every entry along the batch, and this one has none
            object.__setattr__(output, "alignment_loss", outputs.alignment_loss)
        return output

    def fused(self) -> "IlaForVideoClassification":
        """Make the classes' text features a constant, in place: this model is the copy that `fuse()` returns."""
        if self.config.classification_head == "text":
            self._use_ready_features(self.class_text_features().detach().to(self.logit_scale.dtype))
        return self

    def classify(self, video_outputs: IlaVisionModelOutput) -> torch.Tensor:
        """Turn the output of `get_video_features` into logits (B, K); a single class or a regression is an error."""
        require_classification(self.config)  # it may have been set since the configuration was made
        if self.config.classification_head == "text":
            return self.match(video_outputs, self.class_text_features())[0]
        features = F.normalize(video_outputs.pooler_output, dim=-1)
        return self.classifier(self.classifier_dropout(self.classifier_norm(features)))

    def fuse_views(self, logits: torch.Tensor) -> torch.Tensor:
        """Call `average_views`, which is this method's name now."""
        warnings.warn("`fuse_views` is now called `average_views`.", DeprecationWarning, stacklevel=2)
        return self.average_views(logits)

    def average_views(self, logits: torch.Tensor) -> torch.Tensor:
        """Average the views as probabilities: (B, V, K) -> (B, K) float32 logits (float64 of float64 ones).

        The softmax (the sigmoid, for several labels) of what is returned is the mean over the views.
        """
        logits = at_least_float32(logits)
        if self.config.problem_type == MULTI_LABEL:
            yes, no = F.logsigmoid(logits).logsumexp(1), F.logsigmoid(-logits).logsumexp(1)
            return yes - no
        views = logits.new_full((), logits.shape[1])  # a number from `math.log` would fix it in exported programs
        return logits.log_softmax(-1).logsumexp(1) - views.log()

    def classification_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the cross-entropy, or the binary one for several labels; `targets_ila` says what labels may be."""
        require_classification(self.config)
        smoothing = self.config.label_smoothing if self.training else 0.0
        return target_loss(logits, labels, problem_type=self.config.problem_type, label_smoothing=smoothing)

"""ILA and ATA inside TimeSformer, where their papers put them too (ILA: Table 3; ATA: Section 4).

Transformers' own TimeSformer with another layer, on the same weight names: a TimeSformer checkpoint loads as it is.

What is unusual about it:
- A TimeSformer layer attends over time at each patch, then in space within each frame. ILA's alignment replaces the
  attention over time; ATA keeps it, weights included, and only lets it run along routes of matched patches.
- There is one class token for the whole clip. Every frame's spatial attention gets a copy of it, and the copies'
  updates are averaged; alignment and matching look at patches only and leave it alone.
- Positions of the frames (`time_embeddings`) stay: TimeSformer adds them to the patches below the first layer.

Shapes: `B` videos, `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `L = 1 + N` tokens of a frame, `D` width,
`K` classes. Between layers a clip is (B, 1 + N * T, D): the class token, then patch after patch, each with its frames.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from transformers import TimesformerConfig, TimesformerForVideoClassification, TimesformerModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.timesformer.modeling_timesformer import (
    TimesformerEmbeddings,
    TimesformerEncoder,
    TimesformerLayer,
)
from transformers.utils.generic import can_return_tuple

from ..model.alignment_ila import ImplicitAlignment
from ..model.class_names_ila import settle_label_fields, with_label_arguments
from ..model.configuration_ila import IlaConfig, IlaVisionConfig, preset_fields, take_fields, validated
from ..model.fusing_ila import FusableModel
from ..model.loading_ila import refuse_adapter
from ..model.modeling_ila import IlaForVideoClassification, IlaModel
from ..model.named_classes_ila import NamedClasses
from ..model.numerics_ila import realign_tensors
from ..model.pretrained_ila import IlaPreTrainedModel, IlaVideoClassifierOutput, UntrainedWeights
from ..model.temporal_ila import TemporalOutput, aligned_routes, rearranged
from ..model.validation_ila import (
    ALIGNING,
    ALIGNMENT_USES,
    LOSS_USES,
    MASK_USES,
    Use,
    aligns,
    check_model_type,
    fields_in_use,
    refuse_unknown,
    require_classification,
    require_effects,
    require_sizes,
    validate_transformer,
    without_unknown,
)


@strict
class AlignedTimesformerConfig(TimesformerConfig):
    """Add to `TimesformerConfig` what the layers do across frames. A TimeSformer's `config.json` loads unchanged.

    Fields beyond `TimesformerConfig`:
        temporal_module: "ila": implicit alignment in place of the attention over time (Table 3 of the ILA paper).
            "ata": the attention over time, along routes of matched patches (Zhao et al. 2022). "none": nothing in
            place of the attention over time.
        alignment_layers: indices of the layers that this concerns, `None` for all. The others keep TimeSformer's
            attention over time, as in the ATA paper's Tables 5 and 7.
        alignment_fusion: "mi_token", "add", "concat" or "interaction", as in `IlaVisionConfig`.
        alignment_*: all others as in `IlaVisionConfig`.
        alignment_loss_weight, label_smoothing, frame_rate, untrained_weights: as in `IlaConfig`.

    Raises:
        StrictDataclassFieldValidationError, StrictDataclassClassValidationError: on a value that is not allowed,
            naming the field, the value and what is allowed.
    """

    model_type = "aligned_timesformer"
    uses = (*ALIGNMENT_USES, *MASK_USES, *LOSS_USES, Use(("alignment_loss_weight",), aligns, ALIGNING, off=0))
    # The Trainer gathers every output that is not named here over the whole evaluation set.
    keys_to_ignore_at_inference = ["alignment_loss", "hidden_states", "attentions", "interactive_points"]

    image_size: int = 224
    patch_size: int = 16
    temporal_module: Literal["ila", "ata", "none"] = "ila"
    alignment_fusion: Literal["mi_token", "add", "concat", "interaction"] = "mi_token"
    alignment_conv: Literal["depthwise_separable", "standard"] = "depthwise_separable"
    alignment_operator: Literal["conv", "window_attention"] = "conv"
    alignment_hidden_size: int = 128
    alignment_layers: list[int] | tuple[int, ...] | None = None
    alignment_pairing: Literal["adjacent", "first", "middle"] = "adjacent"
    alignment_distance: Literal["separable", "euclidean"] = "separable"
    alignment_eta: float | int = 1.0
    alignment_delta: float | int = 0.25
    alignment_beta: float | int = 1.5
    alignment_jitter: float | int = 0.2
    alignment_loss_weight: float | int = 1.0
    label_smoothing: float | int = 0.0
    frame_rate: float | int | None = None
    untrained_weights: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_unknown(type(self), kwargs)
        # now, as the library makes a name for each of `num_labels`
        require_sizes({"num_labels": kwargs.get("num_labels")})
        settle_label_fields(self, kwargs.get("num_labels"))
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config_dict, kwargs = super().get_config_dict(*args, **kwargs)
        check_model_type(config_dict, args[0] if args else "", (cls.model_type, "timesformer"))
        if config_dict.get("model_type") == "timesformer":  # expected here, so no warning about another model's type
            config_dict = {**config_dict, "model_type": cls.model_type}
        return config_dict, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "AlignedTimesformerConfig":
        given = take_fields(cls, kwargs)
        stored = without_unknown(cls, with_label_arguments(config_dict, kwargs))
        stored = fields_in_use(cls, stored, {**kwargs, **given}, warn=True)
        return validated(super().from_dict({**stored, **given}, **kwargs))

    @classmethod
    def paper(cls, **kwargs: Any) -> "AlignedTimesformerConfig":
        """Make the configuration with the alignment that the paper's equations describe; see `IlaConfig.paper`."""
        return cls(**preset_fields(cls, "paper", kwargs))

    class_names = IlaConfig.class_names
    validate_labels = IlaConfig.validate_labels
    validate_frame_rate = IlaConfig.validate_frame_rate

    @property
    def projection_dim(self) -> int:
        """Return the width of a video's features, which is that of the layers."""
        return self.hidden_size

    @property
    def temporal_layers(self) -> tuple[int, ...]:
        """Return the indices of the layers whose attention over time is replaced or aligned."""
        return tuple(range(self.num_hidden_layers) if self.alignment_layers is None else self.alignment_layers)

    def validate_attention_type(self) -> None:
        """Raise a ValueError unless `attention_type` is "divided_space_time"."""
        if self.attention_type != "divided_space_time":
            raise ValueError(f'`attention_type` is {self.attention_type!r}; allowed: "divided_space_time".')

    def validate_sizes(self) -> None:
        """Raise a ValueError for a number of frames, layers or heads, a patch or image size that is not allowed."""
        validate_transformer(self)
        if self.patch_size < 1 or self.image_size < self.patch_size:
            sizes = f"`image_size`, `patch_size` are {self.image_size!r}, {self.patch_size!r}"
            raise ValueError(f"{sizes}; allowed: a patch of 1 or more, an image of at least one patch.")

    def validate_alignment(self) -> None:
        """Raise a ValueError as `IlaVisionConfig.validate_alignment` does."""
        shared: Any = self  # has the fields that are checked there
        IlaVisionConfig.validate_alignment(shared)

    def validate_classes(self) -> None:
        """Raise a ValueError for regression, or for one class alone in a model that gives a video one label."""
        require_classification(self)

    def validate_effects(self) -> None:
        """Raise a ValueError for a field that others make ineffective, unless it has its default."""
        require_effects(self)

    def validate_losses(self) -> None:
        """Raise a ValueError for a loss weight or label smoothing that is out of its range."""
        if self.alignment_loss_weight < 0:
            raise ValueError(f"`alignment_loss_weight` is {self.alignment_loss_weight!r}; allowed: 0 or more.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"`label_smoothing` is {self.label_smoothing!r}; allowed: 0 <= value < 1.")


class AlignedTimesformerLayer(TimesformerLayer):
    """Put ILA, ATA or nothing at the attention over time of TimeSformer's divided space-time layer.

    Layers that `alignment_layers` leaves out compute what `TimesformerLayer` does, bit for bit.
    """

    def __init__(self, config: AlignedTimesformerConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.grid = (config.image_size // config.patch_size,) * 2
        self.temporal_module = config.temporal_module if layer_index in config.temporal_layers else "own"
        if self.temporal_module in ("ila", "none"):
            del self.temporal_layernorm, self.temporal_attention, self.temporal_dense
        if self.temporal_module == "ila":
            shared: Any = config  # has the fields that the alignment reads of IlaVisionConfig
            self.alignment = ImplicitAlignment(shared, layer_index)

    def forward(
        self, hidden_states: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Apply the layer to a clip, (B, 1 + N * T, D).

        Returns:
            The clip after the layer, (B, 1 + N * T, D); the spatial attentions (B * T, heads, L or more, L or more) or
            None; the alignment loss and the points (B, T-1, 2, 2), or None twice.
        """
        num_frames = self.config.num_frames
        class_token, patches = hidden_states[:, :1], hidden_states[:, 1:]
        patches = patches.unflatten(1, (-1, num_frames)).transpose(1, 2)  # (B, T, N, D)
        patches = self.over_time(patches)
        frames = torch.cat([class_token[:, None].expand(-1, num_frames, -1, -1), patches], dim=2)  # (B, T, L, D)
        frames, tokens, loss, points, _ = self.align(frames)
        attended, *attentions = self.attention(self.layernorm_before(tokens).flatten(0, 1), output_attentions)
        attended = self.drop_path(attended)[:, : frames.shape[2]].unflatten(0, frames.shape[:2])  # (B, T, L, D)
        class_token = class_token + attended[:, :, 0].mean(1, keepdim=True)  # of its copies
        patches = (frames[:, :, 1:] + attended[:, :, 1:]).transpose(1, 2).flatten(1, 2)  # (B, N * T, D)
        hidden_states = torch.cat([class_token, patches], dim=1)
        updates = self.output(self.intermediate(self.layernorm_after(hidden_states)))
        return hidden_states + self.drop_path(updates), attentions[0] if attentions else None, loss, points

    def over_time(self, patches: torch.Tensor) -> torch.Tensor:
        """Attend over time where this layer does, along ATA's routes with "ata": (B, T, N, D), in and out.

        With "ata" patches are matched as they come, before the layer norm; what each gets goes back to where it was.
        """
        if self.temporal_module in ("ila", "none"):
            return patches
        if self.temporal_module == "own":
            return patches + self.attended_over_time(patches)
        routes = aligned_routes(patches)
        return patches + rearranged(self.attended_over_time(rearranged(patches, routes)), routes.argsort(-1))

    def attended_over_time(self, patches: torch.Tensor) -> torch.Tensor:
        """Compute TimeSformer's attention over time at each place, without its residual: (B, T, N, D), in and out."""
        places = patches.transpose(1, 2)  # (B, N, T, D)
        attended = self.temporal_attention(self.temporal_layernorm(places.flatten(0, 1)))[0]  # (B * N, T, D)
        return self.temporal_dense(self.drop_path(attended)).unflatten(0, places.shape[:2]).transpose(1, 2)

    def align(self, frames: torch.Tensor) -> TemporalOutput:
        """Align the frames (B, T, L, D) where this layer has ILA's alignment; elsewhere return them unchanged."""
        return self.alignment(frames, *self.grid) if self.temporal_module == "ila" else TemporalOutput(frames, frames)


@dataclass
class AlignedTimesformerOutput(BaseModelOutput):
    """Hold the output of `AlignedTimesformerModel`.

    last_hidden_state: after the last layer norm, (B, 1 + N * T, D); class token first, then patch by patch.
    hidden_states: embeddings and every layer's output, each (B, 1 + N * T, D).
    attentions: spatial, each (B * T, heads, L, L); with the mutual-information token, which is the last, L + 1.
    alignment_loss: sum over layers of the mean over pairs of 1 - cosine (Eq. 10), scalar; `None` without ILA.
    interactive_points: per aligning layer (B, T-1, 2, 2): previous/current frame, x/y in [-1, 1].
    pooler_output: class token of the last hidden state, (B, D), of the classifier's `get_video_features` only.
    """

    alignment_loss: torch.Tensor | None = None
    interactive_points: tuple[torch.Tensor, ...] | None = None
    pooler_output: torch.Tensor | None = None


class _AlignedTimesformer(UntrainedWeights, FusableModel):
    """Initialise, load and fuse both models below."""

    config_class = AlignedTimesformerConfig
    # A checkpoint has frame positions too, but for one number of frames; they always learned at the rate of new ones.
    new_parameters = (".alignment.", "classifier", "time_embeddings")
    # Replaced on purpose; with "ata" and in the layers left out they have a place, and are loaded.
    _keys_to_ignore_on_load_unexpected = [r"\.temporal_(layernorm|attention|dense)\."]
    _keep_in_fp32_modules_strict = IlaPreTrainedModel._keep_in_fp32_modules_strict
    _no_split_modules = ["AlignedTimesformerLayer"]
    input_modalities = ("video",)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        if hasattr(module, "init_own_weights"):
            module.init_own_weights(1.0)  # type: ignore[operator]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a TimeSformer, or what this class saved, as `PreTrainedModel.from_pretrained` does."""
        path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        refuse_adapter(path)
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        realign_tensors(model)
        model._report_untrained(info, path and model.config.untrained_weights)
        return (model, info) if wants_info else model


class AlignedTimesformerModel(_AlignedTimesformer, TimesformerModel):
    """Encode videos by TimeSformer with ILA or ATA in its layers, without a head.

    From a TimeSformer checkpoint and before any training, "ata" computes what attention along the matched patches
    gives with the checkpoint's weights: the checkpoint itself wherever patches match in place. "none" computes the
    checkpoint without its attention over time, which is the checkpoint with `temporal_dense` set to 0. "ila" does
    that too, but that the mean of each frame's patches around its centre, where all points start, joins the spatial
    attention as one more token; "interaction" adds to the patches nothing at first.
    """

    config: AlignedTimesformerConfig

    def __init__(self, config: AlignedTimesformerConfig) -> None:
        super(TimesformerModel, self).__init__(config)  # whose own would set up layers that are replaced
        self.embeddings = TimesformerEmbeddings(config)
        self.encoder = TimesformerEncoder(config)
        layers = [AlignedTimesformerLayer(config, index) for index in range(config.num_hidden_layers)]
        self.encoder.layer = nn.ModuleList(layers)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_alignment: bool = False,
        **kwargs: Any,
    ) -> AlignedTimesformerOutput:
        """Encode videos: (B, T, C, H, W) -> `last_hidden_state` (B, 1 + N * T, D).

        Args:
            pixel_values: (B, T, C, H, W) with T = `config.num_frames` and H = W = `config.image_size`.
            output_alignment: return `interactive_points`.

        Raises:
            ValueError: on another rank, number of frames, channels or size.
        """
        check_clips(pixel_values, self.config)
        with_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden_states = self.embeddings(pixel_values)
        states, attentions, losses, points = [hidden_states], [], [], []
        for layer in self.encoder.layer:
            hidden_states, attention, loss, points_of_layer = layer(hidden_states, with_attentions)
            states.append(hidden_states)
            attentions.append(attention)
            if loss is not None:
                losses.append(loss)
                points.append(points_of_layer)
        return AlignedTimesformerOutput(
            last_hidden_state=self.layernorm(hidden_states),
            hidden_states=tuple(states) if with_states else None,
            attentions=tuple(attentions) if with_attentions else None,
            alignment_loss=torch.stack(losses).sum() if losses else None,
            interactive_points=tuple(points) if output_alignment else None,
        )


def check_clips(pixel_values: torch.Tensor, config: AlignedTimesformerConfig) -> None:
    """Raise a ValueError unless the shape is (B, T, C, H, W) as configured."""
    wanted = (config.num_frames, config.num_channels, config.image_size, config.image_size)
    shape = tuple(pixel_values.shape) if isinstance(pixel_values, torch.Tensor) else None
    if shape is None or len(shape) != 5 or shape[1:] != wanted:
        raise ValueError(
            "`pixel_values` must be (videos, frames, channels, height, width) = "
            f"(any, {', '.join(map(str, wanted))}), got {type(pixel_values).__name__ if shape is None else shape}."
        )


class AlignedTimesformerForVideoClassification(NamedClasses, _AlignedTimesformer, TimesformerForVideoClassification):
    """Classify videos by TimeSformer's linear head on `AlignedTimesformerModel`.

    ```python
    model = AlignedTimesformerForVideoClassification.from_pretrained("facebook/timesformer-base-finetuned-k400")
    ```
    """

    config: AlignedTimesformerConfig
    accepts_loss_kwargs = False  # the loss is a mean; the Trainer must not rescale it by a count of items

    add_alignment_loss: Any = IlaModel.add_alignment_loss
    classification_loss: Any = IlaForVideoClassification.classification_loss
    average_views: Any = IlaForVideoClassification.average_views

    def __init__(self, config: AlignedTimesformerConfig) -> None:
        settle_label_fields(config)
        super(TimesformerForVideoClassification, self).__init__(config)  # likewise a whole TimeSformer
        self.num_labels = config.num_labels
        self.timesformer = AlignedTimesformerModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def get_video_features(
        self, pixel_values: torch.Tensor, normalize: bool = False, **kwargs: Any
    ) -> AlignedTimesformerOutput:
        """Compute the features of the class token: (B, T, C, H, W) -> `pooler_output` (B, D).

        normalize: bring them to unit length, which `classify` does not take.
        """
        outputs = self.timesformer(pixel_values, return_dict=True, **kwargs)
        outputs.pooler_output = outputs.last_hidden_state[:, 0]
        if normalize:
            outputs.pooler_output = F.normalize(outputs.pooler_output, dim=-1)
        return outputs

    def classify(self, video_outputs: AlignedTimesformerOutput) -> torch.Tensor:
        """Turn the output of `get_video_features` into logits (B, K); a single class or a regression is an error."""
        require_classification(self.config)
        return self.classifier(video_outputs.pooler_output)

    def constant_class_features(self) -> AbstractContextManager[None]:
        """Change nothing: this classifier has no text tower (see `IlaForVideoClassification`)."""
        return nullcontext()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> IlaVideoClassifierOutput:
        """Classify videos.

        Args:
            pixel_values: (B, T, C, H, W), or (B, V, T, C, H, W) for several views of each video.
            labels: as in `IlaForVideoClassification.forward`.
            kwargs: of `AlignedTimesformerModel.forward`.

        Returns:
            With labels the `loss` is the classification loss plus the weighted alignment loss (Section 3.3).

        Raises:
            ValueError: on another rank, number of frames, channels or size; on labels that are no such targets.
        """
        views = pixel_values.shape[1] if getattr(pixel_values, "ndim", 5) == 6 else None
        outputs = self.get_video_features(pixel_values if views is None else pixel_values.flatten(0, 1), **kwargs)
        logits = self.classify(outputs)  # (B, K), with views (B * V, K)
        if views is not None:
            logits = self.average_views(logits.unflatten(0, (-1, views)))
        loss = None
        if labels is not None:
            loss = self.add_alignment_loss(self.classification_loss(logits, labels), outputs.alignment_loss)
        return IlaVideoClassifierOutput(
            loss=loss,
            logits=logits,
            alignment_loss=outputs.alignment_loss if labels is not None else None,  # pipelines cut along the batch
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            interactive_points=outputs.interactive_points,
        )

"""A decoder on a frozen CLIP as in EVL ("Frozen CLIP Models are Efficient Video Learners", Lin et al. 2022), with ILA.

What is unusual about this model:
- CLIP's weights never change: they take no gradient and their modules stay in eval mode. A query token collects what
  it needs from the frames' patches in the last M layers, and a linear head reads it.
- Time enters twice. Each decoder layer models it on the frozen features (EVL's convolution over time, positions of the
  frames, and how much patches of neighbouring frames attend to each other), and ILA's alignment in the tower.
- Without a module in the tower (`temporal_module="none"`, EVL alone) no activation of the tower is kept for training.

The ILA paper says of its Table 3 only: "For EVL, we insert our alignment into the CLIP backbone, while keep others
unchanged." So the default is ILA's tower, its alignment trained and CLIP's weights in it frozen, below EVL's decoder
with all three of its temporal modules. What the sentence leaves open is decided here: the alignment is in all layers,
in the form that the configuration says (`FrozenClipConfig.paper` for the paper's), and its loss has ILA's weight.
`decoder_temporal` with "alignment" is a form of our own, for a tower of which no activation is kept: the alignment
works on the features that the query looks at.

Shapes: `B` videos, `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `L = 1 + N` tokens of a frame, `D` width,
`M` decoder layers, `K` classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPMLP
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import resolve_hidden_states_indices, selected_hidden_states

from ..model.alignment_ila import ImplicitAlignment
from ..model.configuration_ila import IlaConfig, IlaVisionConfig
from ..model.layers_ila import IlaEncoderLayer
from ..model.modeling_ila import IlaForVideoClassification
from ..model.pretrained_ila import IlaVisionModelOutput
from ..model.validation_ila import ALIGNING, ALIGNMENT_USES, MASK_USES, TOWER_USES, Use, aligns, require_effects


DECODER_TEMPORAL = ("convolution", "positions", "attention", "alignment")
# A frozen tower stays in eval mode, and only what is new in it drops anything; there is no frame integration.
_DROPPING = ("message", "divided", "ata")
FROZEN_USES = (
    Use(
        ("drop_path_rate", "attention_dropout"),
        lambda vision: vision.temporal_module in _DROPPING,
        f"a temporal_module with an attention of its own ({', '.join(_DROPPING)}), as CLIP's stays in eval mode",
    ),
    Use(
        ("mit_num_hidden_layers", "mit_num_attention_heads", "mit_intermediate_size"),
        lambda vision: False,
        "another model: the decoder stands in place of the frame integration",
    ),
    Use(("alignment_causal",), lambda vision: False, "another model: the decoder attends to all frames"),
)


@strict
class FrozenClipVisionConfig(IlaVisionConfig):
    """Configure the tower of a `FrozenClipConfig`, whose `alignment_*` fields the decoder may use, too."""

    uses = (*MASK_USES, *TOWER_USES, *FROZEN_USES)


@strict
class FrozenClipConfig(IlaConfig):
    """Add the decoder's fields to an `IlaConfig` with a linear head. A CLIP folder's `config.json` loads unchanged.

    Fields beyond `IlaConfig`, of which those of text, prompt and frame integration are refused:
        temporal_module (of the vision tower): "ila" for EVL + ILA, "none" for EVL; any other of `IlaVisionConfig`.
        decoder_num_layers: M, the layers of the decoder; the i-th looks at the features of the tower's M-th last plus
            i. `None` for 4, or as many as the tower has if they are fewer.
        decoder_temporal: what a decoder layer adds to the features: EVL's "convolution", "positions" and "attention";
            "alignment" for ILA's, in addition to those named beside it or in place of those not named.
        decoder_num_attention_heads: `None` for as many as the tower's.
        projection_dim: always the tower's width D here, in which the head reads the query; that of the CLIP it comes
            from, which its towers name too, is replaced.

    Raises:
        StrictDataclassFieldValidationError, StrictDataclassClassValidationError: on a value that is not allowed,
            naming the field, the value and what is allowed.
    """

    model_type = "ila_frozen_clip"
    loads = frozenset({"ila_frozen_clip", "ila", "clip"})
    vision_kind = FrozenClipVisionConfig
    starts_causal = False  # the decoder looks at all frames, whatever the tower does
    sub_configs_defaults = {**IlaConfig.sub_configs_defaults, "vision_config": FrozenClipVisionConfig}
    uses = (
        *(use for use in IlaConfig.uses if use.fields != ("alignment_loss_weight",)),
        Use(("alignment_loss_weight",), lambda config: _uses_alignment(config), ALIGNING, off=0),
    )

    classification_head: Literal["linear"] = "linear"
    decoder_num_layers: int | None = None
    decoder_temporal: list[str] | tuple[str, ...] = DECODER_TEMPORAL[:3]
    decoder_num_attention_heads: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        width, given = self.vision_config.hidden_size, self.projection_dim
        usual = (width, type(self).projection_dim, self.vision_config.projection_dim)
        if given not in usual:
            raise ValueError(f"`projection_dim` is {given!r}; allowed: the tower's hidden_size={width}, or none.")
        self.projection_dim = width

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "FrozenClipConfig":
        stored = {name: value for name, value in config_dict.items() if name != "projection_dim"}  # CLIP's
        return super().from_dict(stored, **kwargs)

    @classmethod
    def tower_uses(cls, values: Mapping[str, Any]) -> tuple[Use, ...]:
        decoder_aligns = "alignment" in (values.get("decoder_temporal") or ())
        return (*cls.vision_kind.uses, *(() if decoder_aligns else ALIGNMENT_USES))

    @property
    def decoder_depth(self) -> int:
        """Return M, the number of the decoder's layers."""
        return self.decoder_num_layers or min(4, self.vision_config.num_hidden_layers)

    def validate_decoder(self) -> None:
        """Raise a ValueError for a number of layers or heads, or temporal modules, that the decoder cannot have."""
        layers, limit = self.decoder_num_layers, self.vision_config.num_hidden_layers
        if layers is not None and not 1 <= layers <= limit:
            raise ValueError(f"`decoder_num_layers` is {layers!r}; allowed: None or 1 to num_hidden_layers={limit}.")
        chosen, names = list(self.decoder_temporal), ", ".join(DECODER_TEMPORAL)
        if not set(chosen) <= set(DECODER_TEMPORAL) or len(set(chosen)) != len(chosen):
            raise ValueError(f"`decoder_temporal` is {chosen!r}; allowed: different ones of {names}, or none.")
        fusion = self.vision_config.alignment_fusion
        if "alignment" in chosen and fusion == "residual":
            allowed = '"mi_token", "interaction", "add" or "concat" with "alignment" in decoder_temporal'
            raise ValueError(f"`alignment_fusion` is {fusion!r}; allowed: {allowed}.")
        registers = self.vision_config.num_register_tokens
        if registers:
            raise ValueError(f"`num_register_tokens` is {registers}; allowed: 0, as the decoder reads patches only.")
        heads, width = self.decoder_num_attention_heads, self.vision_config.hidden_size
        if heads is not None and (heads < 1 or width % heads):
            allowed = f"None or a divisor of hidden_size={width}"
            raise ValueError(f"`decoder_num_attention_heads` is {heads!r}; allowed: {allowed}.")
        if not _uses_alignment(self):
            require_effects(self.vision_config, ALIGNMENT_USES)


def _uses_alignment(config: Any) -> bool:
    """Return whether tower or decoder have ILA's alignment."""
    return aligns(config.vision_config) or "alignment" in config.decoder_temporal


class TimeConvolution(nn.Conv1d):
    """Convolve three frames at each token, channel by channel: (B, T, L, D) -> (B, T, L, D). Weights start at 0."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1, groups=width)

    def init_own_weights(self, factor: float) -> None:
        """Set weight and bias to 0; `factor` has no effect on that."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Convolve features over time: (B, T, L, D) -> (B, T, L, D)."""
        tokens = features.permute(0, 2, 3, 1)  # (B, L, D, T)
        return super().forward(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2]).permute(0, 3, 1, 2)


class NeighbourAttention(nn.Module):
    """Compute EVL's temporal cross-attention: where a patch finds itself in the neighbouring frames, as a feature.

    With A the attention of frame t to its predecessor, from CLIP's own queries and keys, averaged over the heads:

        Y(t, u) = sum over places v of W(u - v) A(t, u, v)      W: (2 h - 1) x (2 w - 1) x D, initialised with 0

    and likewise, with weights of its own, for the successor. Beyond the clip there is nothing to add.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.empty(2 * height - 1, 2 * width - 1, channels))
        self.after = nn.Parameter(torch.empty(2 * height - 1, 2 * width - 1, channels))

    def init_own_weights(self, factor: float) -> None:
        """Set both weights to 0; `factor` has no effect on that."""
        init.zeros_(self.before)
        init.zeros_(self.after)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the patch rows and columns (h, w) that the weights are made for."""
        return (self.before.shape[0] + 1) // 2, (self.before.shape[1] + 1) // 2

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Compute the features from queries and keys: (B, T, heads, N, d) twice -> (B, T, N, D)."""
        before = self._project(self.before, queries[:, 1:], keys[:, :-1])
        after = self._project(self.after, queries[:, :-1], keys[:, 1:])
        return F.pad(before, (0, 0, 0, 0, 1, 0)) + F.pad(after, (0, 0, 0, 0, 0, 1))

    def _project(self, weights: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        height, width = self.grid
        rows = torch.arange(height, device=weights.device).repeat_interleave(width)
        columns = torch.arange(width, device=weights.device).repeat(height)
        down, across = rows[:, None] - rows + height - 1, columns[:, None] - columns + width - 1
        attention = (queries @ keys.mT * queries.shape[-1] ** -0.5).softmax(-1).mean(2)  # (B, T-1, N, N)
        return torch.einsum("btuv,uvd->btud", attention, weights[down, across])

    def resize(self, height: int, width: int) -> None:
        """Interpolate the weights to another patch grid, in place."""
        for name in ("before", "after"):
            weight = getattr(self, name).detach()
            size = (2 * height - 1, 2 * width - 1)
            resized = F.interpolate(weight.float().permute(2, 0, 1)[None], size=size, mode="bilinear")[0]
            setattr(self, name, nn.Parameter(resized.permute(1, 2, 0).to(weight.dtype).contiguous()))


class FrozenClipDecoderLayer(nn.Module):
    """Let the query ask the features of one CLIP layer: q' = q + MHA(q, Y, Y), q'' = q' + MLP(q'), norms before.

    Y is what EVL's temporal modules make of the features X, class tokens included: X plus convolution, positions and
    neighbours' attention (patches only). With "alignment" ILA works on Y, and its token joins each frame's.
    """

    def __init__(self, config: FrozenClipConfig) -> None:
        super().__init__()
        vision, temporal = config.vision_config, config.decoder_temporal
        width, side = vision.hidden_size, vision.image_size // vision.patch_size
        heads = config.decoder_num_attention_heads or vision.num_attention_heads
        self.convolution = TimeConvolution(width) if "convolution" in temporal else None
        self.neighbours = NeighbourAttention(side, side, width) if "attention" in temporal else None
        self.alignment = ImplicitAlignment(vision) if "alignment" in temporal else None
        if "positions" in temporal:
            self.time_embedding = nn.Parameter(torch.empty(vision.num_frames, width))
        self.query_norm = nn.LayerNorm(width, eps=vision.layer_norm_eps)
        self.memory_norm = nn.LayerNorm(width, eps=vision.layer_norm_eps)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width, eps=vision.layer_norm_eps)
        self.mlp = CLIPMLP(vision)

    def init_own_weights(self, factor: float) -> None:
        """Set the time embedding to 0, if there is one."""
        if hasattr(self, "time_embedding"):
            init.zeros_(self.time_embedding)

    def forward(
        self, query: torch.Tensor, below: torch.Tensor, features: torch.Tensor, layer: IlaEncoderLayer
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Let the query collect what it needs from one of the tower's layers.

        Args:
            query: (B, 1, D).
            below, features: input and output of the tower's layer, (B, T, L, D).
            layer: the tower's layer.

        Returns:
            The query, (B, 1, D), and the loss of an alignment here.
        """
        memory = self.over_time(below, features, layer)
        loss = None
        if self.alignment is not None:
            side = math.isqrt(features.shape[2] - 1)
            _, memory, loss, *_ = self.alignment(memory, side, side)
        memory = self.memory_norm(memory).flatten(1, 2)  # (B, T * (L or more), D)
        query = query + self.attention(self.query_norm(query), memory, memory, need_weights=False)[0]
        return query + self.mlp(self.mlp_norm(query)), loss

    def over_time(self, below: torch.Tensor, features: torch.Tensor, layer: IlaEncoderLayer) -> torch.Tensor:
        """Apply EVL's temporal modules, which turn X into Y: (B, T, L, D), in and out."""
        memory = features
        if self.convolution is not None:
            memory = memory + self.convolution(features)
        if hasattr(self, "time_embedding"):
            memory = memory + self.time_embedding[:, None]
        if self.neighbours is not None:
            memory = memory + F.pad(self.neighbours(*queries_and_keys(below, layer)), (0, 0, 1, 0))
        return memory


def queries_and_keys(below: torch.Tensor, layer: IlaEncoderLayer) -> list[torch.Tensor]:
    """Compute the patches' queries and keys in one of CLIP's layers: (B, T, L, D) -> (B, T, heads, N, d) twice."""
    patches, attention = layer.layer_norm1(below[:, :, 1:]), layer.self_attn
    projected = (attention.q_proj(patches), attention.k_proj(patches))
    return [part.unflatten(-1, (attention.num_heads, -1)).transpose(2, 3) for part in projected]


class FrozenClipDecoder(nn.Module):
    """Send a learned query through M layers, each of which looks at the features of one of CLIP's last M."""

    def __init__(self, config: FrozenClipConfig) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(config.vision_config.hidden_size))
        self.layers = nn.ModuleList([FrozenClipDecoderLayer(config) for _ in range(config.decoder_depth)])

    def init_own_weights(self, factor: float) -> None:
        """Draw the query with a deviation of `factor` / sqrt(D)."""
        init.normal_(self.query, std=len(self.query) ** -0.5 * factor)

    def forward(
        self, hidden_states: Sequence[torch.Tensor], tower: Sequence[IlaEncoderLayer]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Turn embeddings and every layer's output, each (B, T, L, D), into the query (B, D) and alignment losses."""
        depth = len(self.layers)
        query, losses = self.query.repeat(hidden_states[0].shape[0], 1, 1), []
        seen = zip(self.layers, hidden_states[-depth - 1 : -1], hidden_states[-depth:], tower[-depth:])
        for layer, below, features, of_tower in seen:
            query, loss = layer(query, below, features, of_tower)
            if loss is not None:
                losses.append(loss)
        return query[:, 0], losses


class FrozenClipForVideoClassification(IlaForVideoClassification):
    """Classify videos by EVL's decoder and a linear head on a frozen CLIP tower, with ILA's alignment in it.

    ```python
    model = FrozenClipForVideoClassification.from_pretrained("openai/clip-vit-base-patch16", num_frames=8)
    ```

    The alignment has this package's default form; Table 3's "EVL + ILA" is `FrozenClipConfig.paper(...)`.

    Before training the decoder knows no order of frames (EVL's temporal modules start with 0): a random query pools
    the features of all frames. The tower then is CLIP but for the mutual-information tokens, around the centre of each
    frame; with `temporal_module="none"` it is CLIP on every frame, and always stays so.

    Everything else is as in `IlaForVideoClassification` with a linear head: several views, labels, losses, errors.
    """

    config: FrozenClipConfig
    config_class = FrozenClipConfig
    new_parameters = (*IlaForVideoClassification.new_parameters, "decoder.")
    # CLIP's text tower and projections: the head reads the query in the tower's width.
    _keys_to_ignore_on_load_unexpected = [r"^(text_model|text_projection|visual_projection|logit_scale)"]

    def __init__(self, config: FrozenClipConfig) -> None:
        super().__init__(config)
        self.visual_projection = self.mit = None  # type: ignore[assignment]  # in their place:
        self.decoder = FrozenClipDecoder(config)
        self.freeze_tower()
        self.train()
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a CLIP folder, or one that this class saved, as `IlaForVideoClassification.from_pretrained` does."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze_tower()  # loading made every weight trainable
        return loaded

    def freeze_tower(self) -> None:
        """Stop training CLIP's weights; what a temporal module adds to the tower goes on learning."""
        self._refuse_if_fused("freeze_tower")
        tower = self.vision_model
        tower.requires_grad_(False)
        for layer in tower.encoder.layers:
            if layer.temporal is not None:
                layer.temporal.requires_grad_(True)
        if hasattr(tower, "time_embedding"):
            tower.time_embedding.requires_grad_(True)

    def train(self, mode: bool = True) -> "FrozenClipForVideoClassification":
        """Set the mode; CLIP's modules stay in eval mode. A layer's own flag only lets checkpointing recompute it."""
        super().train(mode)
        self.vision_model.eval()
        for layer in self.vision_model.encoder.layers:
            layer.training = mode
            if layer.temporal is not None:
                layer.temporal.train(mode)
        return self

    def resize_positions(self, *, num_frames: int | None = None, image_size: int | None = None) -> None:
        """Interpolate all positions, the decoder's too, to another number of frames or image size, in place."""
        super().resize_positions(num_frames=num_frames, image_size=image_size)
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        for module in self.decoder.modules():
            if isinstance(module, NeighbourAttention) and module.grid != (side, side):
                module.resize(side, side)
        self.freeze_tower()

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        normalize: bool = False,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs: Any,
    ) -> IlaVisionModelOutput:
        """Return one feature of each video, gathered by the decoder: (B, T, C, H, W) -> `pooler_output` (B, D).

        There are no `frame_embeds`.

        normalize: bring it to unit length.
        output_hidden_states: all of the tower's, or those of these indices, with None in the others' places.
        """
        if interpolate_pos_encoding:
            raise ValueError(
                "`interpolate_pos_encoding` is True; allowed: False. The decoder has weights for one patch grid; load "
                "with `from_pretrained(..., image_size=...)`, which interpolates them."
            )
        kwargs.pop("return_dict", None)
        learns = any(weight.requires_grad for weight in self.vision_model.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            outputs = self.vision_model(pixel_values, output_hidden_states=True, return_dict=True, **kwargs)
        query, losses = self.decoder(outputs.hidden_states, self.vision_model.encoder.layers)
        if outputs.alignment_loss is not None:
            losses.append(outputs.alignment_loss)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states, indices = outputs.hidden_states, selected_hidden_states(wanted)
        if indices is not None:
            kept = resolve_hidden_states_indices(self.vision_model, indices, len(states))
            states = tuple(state if index in kept else None for index, state in enumerate(states))
        return IlaVisionModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=F.normalize(query, dim=-1) if normalize else query,
            alignment_loss=torch.stack(losses).sum() if losses else None,
            hidden_states=states if wanted or indices is not None else None,
            attentions=outputs.attentions,
            interactive_points=outputs.interactive_points,
            alignment_masks=outputs.alignment_masks,
        )

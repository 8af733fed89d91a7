"""The layers of the video tower: embeddings of patches, CLIP's layers with a temporal module each, learned positions.

Single weights are layers too (`HeldWeight`), so that adapters train and save them: PEFT does so with modules, not with
bare parameters. Position tables are resampled to other sizes, in place.

Shapes are named as in `modeling_ila.py`, and `R` registers, which `L` does not count.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPVisionEmbeddings
from transformers.models.x_clip.modeling_x_clip import XCLIPMultiframeIntegrationTransformer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .alignment_ila import ImplicitAlignment, PointPredictor, ResidualAlignment
from .configuration_ila import IlaVisionConfig
from .pairs_ila import Past
from .temporal_ila import HAS_FRAME_WEIGHTS, TEMPORAL_MODULES, TemporalModule, TemporalOutput


# -- what enters the layers -------------------------------------------------------------------------------------------


class IlaVisionEmbeddings(CLIPVisionEmbeddings):
    """Embed patches as CLIP does, or with `patch_bias` as a ViT does: (N, C, H, W) -> (N, L + R, D)."""

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__(config)
        if config.patch_bias:
            size = config.patch_size
            self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=size, stride=size)
        if config.num_register_tokens:
            self.register_tokens = nn.Parameter(torch.empty(config.num_register_tokens, config.hidden_size))

    def init_own_weights(self, factor: float) -> None:
        """Set the bias of the patch embedding to 0, and draw registers as CLIP draws positions, if there are any."""
        if self.patch_embedding.bias is not None:
            init.zeros_(self.patch_embedding.bias)
        if hasattr(self, "register_tokens"):
            init.normal_(self.register_tokens, std=self.config.initializer_range * factor)

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """Embed frames: (N, C, H, W) -> (N, L + R, D), class token, patches, registers."""
        embeddings = super().forward(pixel_values, interpolate_pos_encoding)
        if not hasattr(self, "register_tokens"):
            return embeddings
        return torch.cat([embeddings, self.register_tokens.expand(embeddings.shape[0], -1, -1)], dim=1)

    def interpolate_pos_encoding(self, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return the positions for frames of height x width pixels, (1, L, D)."""
        if not hasattr(self, "register_tokens"):
            return super().interpolate_pos_encoding(embeddings, height, width)
        return self.positions_of((height // self.patch_size, width // self.patch_size))[None]

    def positions_of(self, grid: tuple[int, int]) -> torch.Tensor:
        """Interpolate the positions over a grid of (h, w) patches, bicubically: (1 + h * w, D).

        With registers they are antialiased, and without not, as in transformers' models; the class token's stays.
        """
        weight = self.position_embedding.weight  # (1 + side * side, D)
        side = math.isqrt(weight.shape[0] - 1)
        patches = weight[1:].float().mT.unflatten(1, (side, side))[None]  # (1, D, side, side)
        antialias = hasattr(self, "register_tokens")
        patches = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False, antialias=antialias)
        return torch.cat([weight[:1], patches[0].flatten(1).mT.to(weight.dtype)])


class HeldWeight(nn.Module):
    """Hold one weight, of any shape; a subclass says in `forward` what is done with it."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*shape))


class FramePositions(HeldWeight):
    """Add what was learned for each frame, (T, D), to its tokens."""

    def init_own_weights(self, factor: float) -> None:
        """Set the weight to 0, so that a tower starts as plain CLIP; `factor` has no effect on that."""
        init.zeros_(self.weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Add the positions to hidden states: (B, T, L, D) -> (B, T, L, D)."""
        return hidden_states + self.weight[:, None]


class PatchProjection(HeldWeight):
    """Project patches for the prompt with a matrix, (D, E)."""

    def init_own_weights(self, factor: float) -> None:
        """Draw the weight with a deviation of `factor` / sqrt(D), as X-CLIP does."""
        init.normal_(self.weight, std=self.weight.shape[0] ** -0.5 * factor)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Project patches: (..., D) -> (..., E)."""
        return patches @ self.weight


def check_pixel_values(
    pixel_values: torch.Tensor,
    config: IlaVisionConfig,
    *,
    any_size: bool = False,
    any_frames: bool = False,
    views: bool = False,
) -> None:
    """Check videos before they are encoded.

    Raises:
        ValueError: unless the shape is (B, T, C, H, W) as configured, or with `views` (B, V, T, C, H, W), and the
            numbers are normalised ones, which no integers are. CLIP alone, which knows no time, takes any T; so does
            everything with `any_frames` that has no weights for each frame.
    """
    frames, channels, size = config.num_frames, config.num_channels, config.image_size
    shape = tuple(pixel_values.shape) if isinstance(pixel_values, torch.Tensor) else None
    if any_frames and config.temporal_module in HAS_FRAME_WEIGHTS and config.temporal_layers:
        raise ValueError(
            f'`any_num_frames` is True; allowed: False, as temporal_module="{config.temporal_module}" has weights for '
            f"each of {frames} frames. Another number: `from_pretrained(..., num_frames=...)`."
        )
    any_frames |= config.temporal_module == "none" and config.normalize_frames
    if any_frames and shape is not None and len(shape) == 5 + views:
        frames = max(shape[-4], 1)
    if shape is not None and len(shape) == 5 + views and shape[-4:-2] == (frames, channels):
        if shape[-2:] == (size, size) or any_size:
            if pixel_values.is_floating_point():
                return
            raise ValueError(f"`pixel_values` must be normalised by the processor, got {pixel_values.dtype}.")
    several = "with several views (videos, views, ...), " if views or shape is None or len(shape) != 5 else ""
    count, otherwise = "1 or more", "Another image size: `interpolate_pos_encoding=True`."
    if not any_frames:
        count = str(frames)
        otherwise = (
            "Another number of frames or image size: `from_pretrained(..., num_frames=..., image_size=...)`. Any "
            "number, of the tower alone: `vision_model(..., any_num_frames=True)`; frame after frame: `push`."
        )
    raise ValueError(
        "`pixel_values` must be (videos, frames, channels, height, width) = "
        f"(any, {count}, {channels}, {size}, {size}), {several}"
        f"got {type(pixel_values).__name__ if shape is None else shape}. {otherwise}"
    )


# -- layers -----------------------------------------------------------------------------------------------------------


def temporal_module(config: IlaVisionConfig, layer_index: int) -> TemporalModule | None:
    """Build a layer's module as `config.temporal_module` says; None for a layer without one."""
    if layer_index not in config.temporal_layers:
        return None
    if config.temporal_module != "ila":
        return TEMPORAL_MODULES[config.temporal_module](config, layer_index)
    if config.alignment_fusion == "residual":
        return ResidualAlignment(config, layer_index)
    return ImplicitAlignment(config, layer_index, causal=config.alignment_causal)


class QuickGELU(nn.Module):
    """Compute CLIP's activation x * sigmoid(1.702 x) as silu(1.702 x) / 1.702, for values of any shape.

    It allocates one tensor where CLIP's own form allocates three, of the largest that the tower has, and keeps one
    less for the backward pass. float16 keeps CLIP's form: 1.702 x would overflow.

    Args:
        inplace: overwrite the input.
    """

    SCALE = 1.702

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Apply the activation to values of any shape; the result has the same shape and dtype."""
        if values.dtype == torch.float16:
            return values * torch.sigmoid(self.SCALE * values)
        scaled = values.mul_(self.SCALE) if self.inplace else self.SCALE * values
        return F.silu(scaled, inplace=not torch.is_grad_enabled()).div_(self.SCALE)

    def fused(self) -> "QuickGELU":
        """Return the in-place form; in a snapshot nobody else keeps the output of the linear layer before it."""
        return QuickGELU(inplace=True)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class GatedMLP(nn.Module):
    """Compute down(act(gate(x)) * up(x)), the MLP of DINOv2-giant (SwiGLU with `hidden_act="silu"`)."""

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map hidden states: (..., D) -> (..., D)."""
        return self.down_proj(self.activation_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class IlaEncoderLayer(CLIPEncoderLayer):
    """Run CLIP's layer on (B, T, L, D) with a temporal module; with ILA's it is the layer of Figure 3c."""

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__(config)
        self.num_registers = config.num_register_tokens
        if config.gated_mlp:
            self.mlp = GatedMLP(config)
        if config.hidden_act == "quick_gelu":
            self.mlp.activation_fn = QuickGELU()
        self.temporal = temporal_module(config, layer_index)
        self.drop_path = StochasticDepth(config.drop_path_of(layer_index), mode="row")

    def forward(
        self,
        hidden_states: torch.Tensor,
        grid: tuple[int, int],
        past: Past | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Map (B, T, L + R, D), with the grid (h, w), to hidden states of that shape, loss, points and what is kept.

        The alignment's loss, a scalar, and points, (B, T-1, 2, 2), are None for layers without one. `past` is what a
        stream keeps in this layer, which the last result replaces.
        """
        batch_size, num_frames, num_tokens, _ = hidden_states.shape
        tokens, loss, points, kept = hidden_states, None, None, None
        if self.temporal is not None:
            of_module: Any = kwargs if past is None else {**kwargs, "past": past}
            hidden_states, tokens, loss, points, kept = self._before_attention(hidden_states, grid, **of_module)
        attended, _ = self.self_attn(self.layer_norm1(tokens).flatten(0, 1), **kwargs)  # Eq. 3b
        attended = attended.reshape(batch_size, num_frames, -1, attended.shape[-1])
        hidden_states = hidden_states + self.drop_path(attended[:, :, :num_tokens])  # the module's tokens are dropped
        if self.temporal is not None:
            hidden_states = self._after_attention(hidden_states)
        hidden_states = hidden_states + self.drop_path(self.mlp(self.layer_norm2(hidden_states)))  # Eq. 4
        return hidden_states, loss, points, kept

    def _before_attention(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs: Unpack[TransformersKwargs]
    ) -> TemporalOutput:
        """Run the temporal module on class token and patches; the registers join them behind it."""
        module: Any = self.temporal
        if not self.num_registers:
            return module(hidden_states, *grid, **kwargs)
        frames, registers = self._split(hidden_states)
        output = module(frames, *grid, **kwargs)
        tokens = output.tokens.reshape(*frames.shape[:2], -1, frames.shape[-1])  # of "joint", too
        tokens = torch.cat([tokens[:, :, : frames.shape[2]], registers, tokens[:, :, frames.shape[2] :]], dim=2)
        hidden_states = torch.cat([output.hidden_states, registers], dim=2)
        tokens = tokens.reshape(output.tokens.shape[0], output.tokens.shape[1], -1, tokens.shape[-1])
        return output._replace(hidden_states=hidden_states, tokens=tokens)

    def _after_attention(self, hidden_states: torch.Tensor) -> torch.Tensor:
        module: Any = self.temporal
        if not self.num_registers:
            return module.after_attention(hidden_states)
        frames, registers = self._split(hidden_states)
        return torch.cat([module.after_attention(frames), registers], dim=2)

    def _split(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class token and patches, (B, T, L, D), and the registers, (B, T, R, D)."""
        return hidden_states[:, :, : -self.num_registers], hidden_states[:, :, -self.num_registers :]


class IlaVisionEncoder(nn.Module):
    """Run `config.num_hidden_layers` layers one after the other."""

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([IlaEncoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        grid: tuple[int, int],
        past: Sequence[Past] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[
        torch.Tensor, list[torch.Tensor], list[tuple[PointPredictor, torch.Tensor]], list[torch.Tensor | None] | None
    ]:
        """Map (B, T, L + R, D) to hidden states alike, and the aligning layers' losses, predictors and points.

        With `past`, what a stream keeps in each layer, the last result is what it keeps now; without it is None.
        """
        losses: list[torch.Tensor] = []
        alignments: list[tuple[PointPredictor, torch.Tensor]] = []
        kept: list[torch.Tensor | None] = []
        for index, layer in enumerate(self.layers):
            of_layer = None if past is None else past[index]
            hidden_states, loss, points, kept_here = layer(hidden_states, grid, past=of_layer, **kwargs)
            if past is not None:
                kept.append(kept_here)
            if loss is not None:
                losses.append(loss)
                aligning: Any = layer.temporal
                alignments.append((aligning.pairs, points))
        return hidden_states, losses, alignments, None if past is None else kept


# -- other sizes ------------------------------------------------------------------------------------------------------


TIME_PARAMETERS = ("time_embedding", "pixel_weights", "region_weights")


def resize_frame_positions(mit: XCLIPMultiframeIntegrationTransformer, num_frames: int) -> None:
    """Interpolate the positions (1, T, E) linearly over the frames, in place."""
    weight = mit.position_embedding.detach()  # (1, T, E)
    resized = F.interpolate(weight.float().mT, size=num_frames, mode="linear").mT
    mit.position_embedding = nn.Parameter(resized.to(weight.dtype).contiguous())


def resize_time_parameters(model: nn.Module, num_frames: int) -> bool:
    """Interpolate, in place, what the tower learned for each frame or pair of frames; return whether it had any.

    Time embeddings (T, D) are interpolated linearly, GTA's matrices (heads, groups, T, T) bilinearly and such that
    what they sum up over the frames stays as large.
    """
    owners = [(module, name) for module in model.modules() for name in TIME_PARAMETERS if name in module._parameters]
    owners += [(module, "weight") for module in model.modules() if isinstance(module, FramePositions)]
    for module, name in owners:
        weight = getattr(module, name).detach()
        if weight.ndim == 2:
            resized = F.interpolate(weight.float().mT[None], size=num_frames, mode="linear")[0].mT
        else:
            resized = F.interpolate(weight.float(), size=(num_frames, num_frames), mode="bilinear")
            resized = resized * (weight.shape[-1] / num_frames)
        setattr(module, name, nn.Parameter(resized.to(weight.dtype).contiguous()))
    return bool(owners)


@torch.no_grad()
def resize_patch_positions(embeddings: IlaVisionEmbeddings, image_size: int) -> None:
    """Interpolate the positions (L, D) over the patch grid of another image size (pixels), in place."""
    after = image_size // embeddings.patch_size
    resized = embeddings.positions_of((after, after))
    embeddings.position_embedding = nn.Embedding.from_pretrained(resized, freeze=False)
    embeddings.image_size = image_size
    embeddings.num_patches, embeddings.num_positions = after * after, len(resized)
    embeddings.position_ids = torch.arange(len(resized), device=resized.device)[None]

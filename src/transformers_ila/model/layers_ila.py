"""The encoder of the video tower: CLIP's layers on (B, T, L, D), each with a temporal module."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .alignment_ila import ImplicitAlignment, PointPredictor, ResidualAlignment
from .configuration_ila import IlaVisionConfig
from .temporal_ila import TEMPORAL_MODULES, TemporalModule


def temporal_module(config: IlaVisionConfig, layer_index: int) -> TemporalModule | None:
    """Build a layer's module as `config.temporal_module` says; None for a layer without one."""
    if layer_index not in config.temporal_layers:
        return None
    if config.temporal_module != "ila":
        return TEMPORAL_MODULES[config.temporal_module](config, layer_index)
    return (ResidualAlignment if config.alignment_fusion == "residual" else ImplicitAlignment)(config, layer_index)


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


class IlaEncoderLayer(CLIPEncoderLayer):
    """Run CLIP's layer on (B, T, L, D) with a temporal module; with ILA's it is the layer of Figure 3c."""

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__(config)
        if config.hidden_act == "quick_gelu":
            self.mlp.activation_fn = QuickGELU()
        self.temporal = temporal_module(config, layer_index)
        self.drop_path = StochasticDepth(config.drop_path_of(layer_index), mode="row")

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Map (B, T, L, D), with the grid (h, w), to hidden states of that shape, alignment loss and points.

        The loss, a scalar, and the points, (B, T-1, 2, 2), are None for layers without an alignment.
        """
        batch_size, num_frames, num_tokens, _ = hidden_states.shape
        tokens, loss, points = hidden_states, None, None
        if self.temporal is not None:
            hidden_states, tokens, loss, points = self.temporal(hidden_states, *grid, **kwargs)
        attended, _ = self.self_attn(self.layer_norm1(tokens).flatten(0, 1), **kwargs)  # Eq. 3b
        attended = attended.reshape(batch_size, num_frames, -1, attended.shape[-1])
        hidden_states = hidden_states + self.drop_path(attended[:, :, :num_tokens])  # the module's tokens are dropped
        if self.temporal is not None:
            hidden_states = self.temporal.after_attention(hidden_states)
        hidden_states = hidden_states + self.drop_path(self.mlp(self.layer_norm2(hidden_states)))  # Eq. 4
        return hidden_states, loss, points


class IlaVisionEncoder(nn.Module):
    """Run `config.num_hidden_layers` layers one after the other."""

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([IlaEncoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[tuple[PointPredictor, torch.Tensor]]]:
        """Map (B, T, L, D) to hidden states of that shape, and the aligning layers' losses, predictors and points."""
        losses: list[torch.Tensor] = []
        alignments: list[tuple[PointPredictor, torch.Tensor]] = []
        for layer in self.layers:
            hidden_states, loss, points = layer(hidden_states, grid, **kwargs)
            if loss is not None:
                losses.append(loss)
                aligning: Any = layer.temporal
                alignments.append((aligning.pairs, points))
        return hidden_states, losses, alignments

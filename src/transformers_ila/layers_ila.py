"""One layer of the video tower, and the stack of them: CLIP's encoder on (B, T, L, D), with alignment."""

from typing import Any

import torch
from torch import nn
from torchvision.ops import StochasticDepth
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .alignment_ila import ImplicitAlignment, PairPoints, ResidualAlignment
from .configuration_ila import IlaVisionConfig


class IlaEncoderLayer(CLIPEncoderLayer):
    """CLIP's layer on (B, T, L, D); where it aligns, the Implicit Spatio-Temporal block of Figure 3c."""

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__(config)
        self.alignment: ImplicitAlignment | ResidualAlignment | None = None
        if layer_index in config.aligning_layers:
            self.alignment = (ResidualAlignment if config.alignment_fusion == "residual" else ImplicitAlignment)(
                config
            )
        depth = layer_index / max(1, config.num_hidden_layers - 1)
        self.drop_path = StochasticDepth(config.drop_path_rate * depth, mode="row")

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """(B, T, L, D) and (h, w) -> hidden states (B, T, L, D), alignment loss, points (B, T-1, 2, 2)."""
        batch_size, num_frames, num_tokens, _ = hidden_states.shape
        tokens, loss, points = hidden_states, None, None
        if self.alignment is not None and num_frames > 1:  # a single frame has nothing to align with
            hidden_states, tokens, loss, points = self.alignment(hidden_states, *grid)
        attended, _ = self.self_attn(self.layer_norm1(tokens).flatten(0, 1), **kwargs)  # Eq. 3b
        attended = attended.unflatten(0, (batch_size, num_frames))[
            :, :, :num_tokens
        ]  # tokens of the alignment are dropped
        hidden_states = hidden_states + self.drop_path(attended)
        hidden_states = hidden_states + self.drop_path(self.mlp(self.layer_norm2(hidden_states)))  # Eq. 4
        return hidden_states, loss, points


class IlaVisionEncoder(nn.Module):
    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([IlaEncoderLayer(config, index) for index in range(config.num_hidden_layers)])
        self.gradient_checkpointing = False

    def forward(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[tuple[PairPoints, torch.Tensor]]]:
        """(B, T, L, D) -> hidden states, the aligning layers' losses, and what predicts their points, with them."""
        losses: list[torch.Tensor] = []
        alignments: list[tuple[Any, torch.Tensor]] = []
        for layer in self.layers:
            hidden_states, loss, points = layer(hidden_states, grid, **kwargs)
            if loss is not None:
                alignment: Any = layer.alignment
                losses.append(loss)
                alignments.append((alignment.pairs, points))
        return hidden_states, losses, alignments

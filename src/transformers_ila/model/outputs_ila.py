"""The outputs of the models. Shapes are named as in `modeling_ila.py`."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput


@dataclass
class IlaVisionModelOutput(ModelOutput):
    """Hold the output of the vision tower and of `get_video_features`.

    last_hidden_state: the last layer's output, (B, T, L, D); a ViT's is taken after the last layer norm, a CLIP's
        before it, as in transformers' own models.
    pooler_output: the class token of every frame after the last layer norm, (B, T, D); `get_video_features` puts the
        video features in its place, (B, E).
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

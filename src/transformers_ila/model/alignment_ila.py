"""Implicit alignment of neighbouring frames (Section 3.2 of the paper): points, masks, and how they enter a layer.

What is unusual about it:
- Every pair of neighbouring frames predicts one point per frame; a mask around it is all that "aligning" means here.
  The pairs' features, from which the points come, are computed in `pairs_ila.py`.
- Two networks are called ILA: the paper's (`ImplicitAlignment`) and the one behind the published checkpoints
  (`ResidualAlignment`). Both predict points and masks in the same way (`PointPredictor`).
- The published network has a faster form for inference (`FusedResidualAlignment`), which `model.fuse()` puts in.

Shapes: `B` videos, `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `L = 1 + N` tokens, `D` width,
`C` channels of the convolution module. In a pair, index 0 is the previous frame and 1 the current; in a point, index 0
is x (columns) and 1 is y (rows), both in [-1, 1].
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .configuration_ila import IlaVisionConfig
from .numerics_ila import at_least_float32, frozen_batch_statistics, is_recomputing
from .pairs_ila import (
    ConvNorm,
    GroupedLinear,
    Past,
    _conv3x3,
    average_pair_features,
    average_pairs_to_frames,
    causal_interaction,
    concat_pair_features,
    interaction_module,
    masked_average_pool,
    pairs_to_frames,
)
from .temporal_ila import TemporalModule, TemporalOutput, ZeroLinear


POINT_RANGE = 0.75  # points are this times tanh: with Eq. 6's radius of 0.25 a mask's flat top stays in the frame


def mask_profile(distance: torch.Tensor, *, eta: float, delta: float, beta: float) -> torch.Tensor:
    """Compute Eq. 6: the weight is `eta` up to distance `delta` and falls with slope `beta` to 0. Any shape."""
    return (eta + beta * delta - beta * distance).clamp(0.0, float(eta))


def patch_positions(length: int, *, like: torch.Tensor) -> torch.Tensor:
    """Return the coordinates of `length` patches along one axis in [-1, 1], or 0 for a single patch. (length,)"""
    if length == 1:
        return like.new_zeros(1)
    return torch.linspace(-1, 1, length, dtype=like.dtype, device=like.device)


def alignment_masks(
    points: torch.Tensor,
    height: int,
    width: int,
    *,
    distance: str = "separable",
    eta: float = 1.0,
    delta: float = 0.25,
    beta: float = 1.5,
    jitter: float = 0.0,
) -> torch.Tensor:
    """Compute the masks around points (Eq. 6).

    Args:
        points: (..., 2), x and y in [-1, 1].
        height, width: patch rows and columns.
        distance: "separable" applies Eq. 6 to each axis and multiplies, over eta, so that the mask is Eq. 6 along
            either axis; "euclidean" applies it to the distance.
        eta, delta, beta: Eq. 6.
        jitter: when > 0, the mean of the masks of the nine points moved by -jitter, 0 or jitter along each axis.

    Returns:
        (..., height, width)
    """
    moves = points.new_zeros(1)
    if jitter:  # made on the device: a copy to it would keep the CPU waiting, and no CUDA graph may hold one
        moves = jitter * torch.arange(-1, 2, dtype=points.dtype, device=points.device)

    def distances(coordinates: torch.Tensor, length: int) -> torch.Tensor:
        """(...) -> (..., moves, length)"""
        return ((coordinates[..., None] + moves)[..., None] - patch_positions(length, like=points)).abs()

    if distance == "separable":  # the mean over the nine products is the product of the two means over three

        def along(coordinates: torch.Tensor, length: int) -> torch.Tensor:
            weights = mask_profile(distances(coordinates, length), eta=eta, delta=delta, beta=beta)
            return weights.mean(-2) if jitter else weights.squeeze(-2)

        if height == width:  # both axes in one go
            across, down = along(points, width).unbind(-2)
        else:
            across, down = along(points[..., 0], width), along(points[..., 1], height)
        return down[..., :, None] * (across / eta)[..., None, :]  # each has the height eta; their product has it once
    across, down = distances(points[..., 0], width), distances(points[..., 1], height)
    squared = down[..., :, None, :, None].square() + across[..., None, :, None, :].square()
    positive = squared > 0  # the root has no gradient at 0
    apart = torch.where(positive, squared, 1.0).sqrt() * positive  # (..., moves, moves, height, width)
    return mask_profile(apart, eta=eta, delta=delta, beta=beta).mean((-4, -3))


class PointLayer(GroupedLinear):
    """Map hidden features to points. The weights begin with 0, so that all points start in the centre."""

    def init_own_weights(self, factor: float) -> None:
        """Set the weights to 0; `factor` has no effect on that."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


class PointHead(nn.Module):
    """Predict the two points of a pair from its feature map (Eq. 5): (B, C, h, w) -> (B, 2, 2).

    One half of the channels belongs to each frame, so the last two layers have two groups.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            ConvNorm(_conv3x3(in_channels, channels), channels, pool=True),
            ConvNorm(_conv3x3(channels, channels), channels, pool=True),
        )
        self.hidden = GroupedLinear(channels, channels // 2)
        self.points = PointLayer(channels // 2, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map a pair's features (B, C, h, w) to points (B, 2, 2): frame, x and y."""
        halves = self.convolutions(features).amax((-2, -1)).unflatten(1, (2, -1)).transpose(0, 1)  # (2, B, C / 2)
        points = self.points(self.hidden(halves).relu())  # (2, B, 2)
        return POINT_RANGE * points.tanh().transpose(0, 1)


def alignment_loss(pooled: torch.Tensor) -> torch.Tensor:
    """Return the mean over pairs of 1 - cosine (Eq. 9, 10), a scalar. `pooled`: (B, T-1, 2, D), previous, current."""
    previous, current = at_least_float32(pooled).unbind(2)
    return (1 - F.cosine_similarity(previous, current, dim=-1)).mean()


class PointPredictor(nn.Module):
    """Compute features, points (Eq. 5) and masks (Eq. 6) of all pairs of frames for one layer."""

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.jitter = config.alignment_jitter  # in use; a training schedule may lower it
        self.interaction = interaction_module(config)
        wide = config.alignment_conv == "standard" or config.alignment_fusion == "residual"
        wide = wide and config.alignment_operator == "conv"
        self.channels = (2 if wide else 1) * config.alignment_hidden_size  # of the features
        self.point_head = PointHead(self.channels, config.alignment_hidden_size)

    def forward(self, patches: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict from patches (B, T, N, D) the pairs' features (B, T-1, C, h, w) and points (B, T-1, 2, 2)."""
        with frozen_batch_statistics(self) if self.training and is_recomputing() else nullcontext():
            features = self.interaction(patches.unflatten(2, (height, width)))
            points = self.point_head(features)
        shape = (patches.shape[0], patches.shape[1] - 1)
        return features.unflatten(0, shape), points.unflatten(0, shape)

    def causal(
        self, patches: torch.Tensor, height: int, width: int, pairing: str, past: Past
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict as `forward` does for T causal pairs, of which the first frame forms one with itself.

        Returns:
            Features (B, T, C, h, w), points (B, T, 2, 2), and what a stream keeps, (B, 1, h, w, C').
        """
        with frozen_batch_statistics(self) if self.training and is_recomputing() else nullcontext():
            frames = patches.unflatten(2, (height, width))
            features, kept = causal_interaction(self.interaction, frames, pairing, past)
            points = self.point_head(features)
        shape = patches.shape[:2]
        return features.unflatten(0, shape), points.unflatten(0, shape), kept

    def kept(self, patches: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Return what a stream keeps of its patches so far, (B, T, N, D), for frames to come: (B, 1, h, w, C')."""
        first: Any = self.interaction[0]
        return first.convolution.kept_half(patches.unflatten(2, (height, width)), self.config.alignment_pairing)

    def masks(self, points: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Compute Eq. 6 as configured: (B, T-1, 2, 2) -> (B, T-1, 2, h, w). Jitter acts in training mode only."""
        config = self.config
        return alignment_masks(
            points,
            height,
            width,
            distance=config.alignment_distance,
            eta=config.alignment_eta,
            delta=config.alignment_delta,
            beta=config.alignment_beta,
            jitter=self.jitter if self.training else 0.0,
        )


# -- how they enter a layer ------------------------------------------------------------------------------------------


class ImplicitAlignment(TemporalModule):
    """Align the frames in one layer as the paper does: Eq. 2, 5, 6, 7 and 3a. A single frame passes unchanged.

    Frame t >= 2 takes its aligned features from the pair (t, t-1), in which it is the current frame. Frame 1 takes
    them from the pair (2, 1), in which it is the previous frame. They join the spatial attention, and only that, in
    one of three ways (Table 9): "mi_token" pools them to one more token, "concat" appends them as N more tokens,
    "add" adds them to the patches. For the token the weighted feature map never exists: masks and patches meet in
    one small matrix product (Eq. 3a).

    "interaction" is a form that no paper has: the paper's token, and the motion path of the published network at a
    fraction of its cost. The pairs' features F are then computed from LN(x). The first half of their channels belongs
    to the previous frame and the second to the current one. Every frame adds its halves of both pairs that it is in:

        x' = x + [0, I [F of its pair as previous, F of its pair as current]]        with I: C x D, initialised with 0

    The class token stays unchanged. A role that a frame has in no pair gives 0; a role that it has in many pairs
    ("first", "middle") gives their mean.

    With `alignment_causal` frame t depends on no later frame, so that a tower can go on with a stream. Every frame is
    the current one of one pair, (t, t-1) or with `alignment_pairing` "first" (t, 1), and frame 1 that of (1, 1). It
    takes points, masks and aligned features as the current frame, and "interaction" adds that half of the features:

        x' = x + [0, I [F of its pair as current]]        with I: C/2 x D

    A single frame is its own pair. The loss, its points and masks are those of the T-1 pairs of different frames;
    batch norms see all T. "mi_token", "add" and "concat" without `alignment_causal` look ahead from frame 1 alone.

    O(T h w k^2 d), and for "concat" the spatial attention of twice as many tokens. On B/32 with 8 frames plain frames
    cost 37.5 GMACs and 97.7 M parameters; "mi_token" adds 1.8 G and 6.2 M, "add" 1.6 G, "interaction" 2.3 G and 7.4 M,
    "concat" 13.8 G; window attention in place of the convolution makes it 66.2 G and 119 M.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int = 0, *, causal: bool = False) -> None:
        super().__init__()
        self.fusion, self.pairing, self.causal = config.alignment_fusion, config.alignment_pairing, causal
        self.pairs = PointPredictor(config)
        if self.fusion == "interaction":
            self.pairs_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            channels = self.pairs.channels // 2 if self.causal else self.pairs.channels
            self.interaction_skip = ZeroLinear(channels, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, height: int, width: int, past: Past | None = None, **kwargs: Any
    ) -> TemporalOutput:
        """Align the frames of `hidden_states` (B, T, L, D), class token first, with height * width = L - 1.

        past: where they go on with a stream: what it keeps. There is no loss then.
        """
        if hidden_states.shape[1] == 1 and not self.causal and past is None:
            return TemporalOutput(hidden_states, hidden_states)
        patches = hidden_states[:, :, 1:].contiguous()  # (B, T, N, D); one copy for all that needs it so
        compared = self.pairs_norm(patches) if self.fusion == "interaction" else patches
        if self.causal or (past is not None and past.kept is not None):
            return self._causal(hidden_states, patches, compared, height, width, past)
        features, points = self.pairs(compared, height, width)
        masks = self.pairs.masks(points, height, width)
        pooled = masked_average_pool(masks, patches, self.pairing)
        loss = alignment_loss(pooled) if past is None else None
        # a stream begins, in which its first frame alone looks ahead
        kept = None if past is None else self.pairs.kept(compared, height, width)
        if self.fusion == "interaction":
            moved = patches + self.interaction_skip(concat_pair_features(features, self.pairing))
            token = pairs_to_frames(pooled, self.pairing)
            tokens = torch.cat([hidden_states[:, :, :1], moved, token[:, :, None]], dim=2)  # (B, T, L+1, D)
            hidden_states = tokens[:, :, :-1]
        elif self.fusion == "mi_token":
            token = pairs_to_frames(pooled, self.pairing)
            tokens = torch.cat([hidden_states, token[:, :, None]], dim=2)  # (B, T, L+1, D)
        else:
            tokens = self._aligned_tokens(hidden_states, patches, pairs_to_frames(masks, self.pairing))
        return TemporalOutput(hidden_states, tokens, loss, points, kept)

    def _causal(
        self,
        hidden_states: torch.Tensor,
        patches: torch.Tensor,
        compared: torch.Tensor,
        height: int,
        width: int,
        past: Past | None,
    ) -> TemporalOutput:
        """Align each frame with an earlier one, the first with itself: (B, T, L, D), and (B, T, N, D) twice."""
        features, points, kept = self.pairs.causal(compared, height, width, self.pairing, past or Past())  # T pairs
        masks = self.pairs.masks(points, height, width)
        loss = None
        if past is None and patches.shape[1] > 1:
            loss = alignment_loss(masked_average_pool(masks[:, 1:], patches, self.pairing))
        own = masks[:, :, 1]  # (B, T, h, w)
        if self.fusion == "interaction":
            moved = patches + self.interaction_skip(features.flatten(-2).mT.chunk(2, dim=-1)[1])
            hidden_states = torch.cat([hidden_states[:, :, :1], moved], dim=2)
        if self.fusion in ("interaction", "mi_token"):
            weights = own.flatten(-2).to(patches.dtype) / patches.shape[2]
            tokens = torch.cat([hidden_states, weights[:, :, None] @ patches], dim=2)  # (B, T, L+1, D); Eq. 7, 3a
        else:
            tokens = self._aligned_tokens(hidden_states, patches, own)
        return TemporalOutput(hidden_states, tokens, loss, points[:, 1:], kept)

    def _aligned_tokens(self, hidden_states: torch.Tensor, patches: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Add the weighted patches, or append them: (B, T, L, D), (B, T, N, D), masks (B, T, h, w) -> tokens."""
        aligned = own.flatten(-2)[..., None].to(patches.dtype) * patches  # Eq. 7
        if self.fusion == "concat":
            return torch.cat([hidden_states, aligned], dim=2)  # (B, T, L+N, D)
        return torch.cat([hidden_states[:, :, :1], patches + aligned], dim=2)


class TemporalConv(nn.Conv3d):
    """Convolve over three frames at each patch, with zeros beyond the clip: (B, C, T, h, w) -> (B, C, T, h, w).

    It is computed in two dimensions, (T, h w): the bfloat16 gradient of a three-dimensional one's weight is wrong for
    two frames on CPUs with AVX-512-BF16 (torch 2.15, oneDNN), where some of it is memory that nobody wrote.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Convolve maps over time: (B, C, T, h, w) -> (B, C, T, h, w)."""
        found = F.conv2d(maps.flatten(-2), self.weight[..., 0], self.bias, padding=(1, 0))
        return found.unflatten(-1, maps.shape[-2:])


class ResidualAlignment(TemporalModule):
    """Align the frames as the published checkpoints do, which is not the paper's way: there is no token.

    With y = LN(W x) and the pairs' features F (first half of the channels: previous frame, second: current):

        x' = x + A [y_cls, mean over roles of mask * y] + I [y_cls, W' (conv over time of the mean over roles of F)]

    A, I: D x D, initialised with 0. A frame has two roles, current in the pair with its predecessor and previous in
    that with its successor; the first and the last frame have one. B/32 with 8 frames costs 52 instead of 39 GMACs.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int = 0) -> None:
        super().__init__()
        width, channels = config.hidden_size, config.alignment_hidden_size
        self.pairing = config.alignment_pairing
        self.message = nn.Linear(width, width)
        self.message_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pairs = PointPredictor(config)
        self.temporal_convolution = TemporalConv(channels)
        self.interaction_projection = nn.Linear(channels, width)
        self.aligned_skip = ZeroLinear(width, width)
        self.interaction_skip = ZeroLinear(width, width)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Align the frames of `hidden_states` (B, T, L, D) and add the result to them; height * width = L - 1."""
        if hidden_states.shape[1] == 1:
            return TemporalOutput(hidden_states, hidden_states)
        message = self.message_norm(self.message(hidden_states))  # y
        patches = message[:, :, 1:].contiguous()
        features, points = self.pairs(patches, height, width)
        masks = self.pairs.masks(points, height, width)
        weights = average_pairs_to_frames(masks, self.pairing).flatten(-2)  # (B, T, N)
        aligned = F.pad(weights, (1, 0), value=1.0)[..., None].to(message.dtype) * message  # [y_cls, mask * y]
        motion = self.over_time(average_pair_features(features, self.pairing), height, width)
        hidden_states = self.add_skips(hidden_states, aligned, motion)
        loss = alignment_loss(masked_average_pool(masks, patches, self.pairing))
        return TemporalOutput(hidden_states, hidden_states, loss, points)

    def over_time(self, features: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Convolve over time at each patch: (B, T, N, C) -> (B, T, N, C)."""
        maps = features.mT.unflatten(-1, (height, width)).transpose(1, 2)  # (B, C, T, h, w)
        return self.temporal_convolution(maps).flatten(-2).permute(0, 2, 3, 1)

    def add_skips(self, hidden_states: torch.Tensor, aligned: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """Return x + A aligned + I [y_cls, W' motion]: (B, T, L, D) twice and (B, T, N, C) to (B, T, L, D)."""
        interaction = torch.cat([aligned[:, :, :1], self.interaction_projection(motion)], dim=2)
        return hidden_states + self.aligned_skip(aligned) + self.interaction_skip(interaction)

    def fused(self) -> "ResidualAlignment":
        """Return the form for inference, or the module itself where another kind of layer replaced a linear one."""
        linear = isinstance(self.interaction_skip, nn.Linear) and isinstance(self.interaction_projection, nn.Linear)
        return FusedResidualAlignment(self) if linear else self


class FusedResidualAlignment(ResidualAlignment):
    """Compute `ResidualAlignment` for inference: I W' is one matrix of rank C, and the sums are made in place."""

    def __init__(self, plain: ResidualAlignment) -> None:
        TemporalModule.__init__(self)
        self.training, self.pairing = plain.training, plain.pairing
        for name, child in plain.named_children():
            self.add_module(name, child)
        outer, inner = plain.interaction_skip, plain.interaction_projection
        product = at_least_float32(outer.weight) @ at_least_float32(inner.weight)  # (D, C)
        bias = F.linear(at_least_float32(inner.bias), at_least_float32(outer.weight), at_least_float32(outer.bias))
        self.motion_skip = nn.Linear(inner.in_features, outer.out_features, device="meta")
        self.motion_skip.weight = nn.Parameter(product.to(outer.weight.dtype), requires_grad=False)
        self.motion_skip.bias = nn.Parameter(bias.to(outer.weight.dtype), requires_grad=False)

    def add_skips(self, hidden_states: torch.Tensor, aligned: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
        """Return x + A aligned + I [y_cls, W' motion], summed in one tensor; shapes as in `ResidualAlignment`."""
        added = self.aligned_skip(aligned)
        added += hidden_states
        added[:, :, :1] += self.interaction_skip(aligned[:, :, :1])
        added[:, :, 1:] += self.motion_skip(motion)
        return added

    def fused(self) -> "ResidualAlignment":
        """Return the module itself, which is the form for inference."""
        return self

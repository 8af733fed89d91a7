"""Implicit alignment of neighbouring frames (Section 3.2 of the paper): points, masks, and how they enter a layer.

What is unusual about it:
- Every pair of neighbouring frames predicts one point per frame; a mask around it is all that "aligning" means here.
- For the paper's mutual-information token the weighted feature map never exists: mask and tokens meet in one small
  matrix product (Eq. 3a).
- It is the only place in the tower with convolutions and batch statistics; those stay in float32.
- There are two networks of this name: the paper's (`ImplicitAlignment`) and the one behind the published checkpoints
  (`ResidualAlignment`). Both predict points and masks the same way (`PairPoints`).

Shapes: `B` videos, `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `L = 1 + N` tokens, `D` width,
`C` channels of the convolution module. In a pair, index 0 is the previous frame and 1 the current; in a point, index 0
is x (columns) and 1 is y (rows), both in [-1, 1].
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_ila import IlaVisionConfig


POINT_RANGE = 0.75  # points are this times tanh, so that a mask's flat top never leaves the frame


class Alignment(NamedTuple):
    """What one layer's alignment hands on.

    hidden_states: of the frames, (B, T, L, D); they go on through the layer.
    tokens: what the spatial attention sees, (B, T, L or more, D); what lies behind the first L is dropped after it.
    loss: mean over videos and pairs of 1 - cosine of the two pooled features (Eq. 9, 10), scalar, at least float32.
    points: interactive points, (B, T-1, 2, 2): previous/current, x/y.
    """

    hidden_states: torch.Tensor
    tokens: torch.Tensor
    loss: torch.Tensor
    points: torch.Tensor


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision to float32, anything else as it is: for sums over many values."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def point_weights(distance: torch.Tensor, *, eta: float, delta: float, beta: float) -> torch.Tensor:
    """Eq. 6: `eta` up to distance `delta`, then falling with slope `beta` to 0. Any shape."""
    return (eta - beta * (distance - delta).relu()).clamp(min=0)


def patch_positions(length: int, *, like: torch.Tensor) -> torch.Tensor:
    """Coordinates of `length` patches along one axis, scaled to [-1, 1]; a single patch sits at 0. (length,)"""
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
    """Masks around points (Eq. 6).

    Args:
        points: (..., 2), x and y in [-1, 1].
        height, width: patch rows and columns.
        distance: "separable" applies Eq. 6 to each axis and multiplies; "euclidean" applies it to the distance.
        eta, delta, beta: Eq. 6.
        jitter: when > 0, the mean of the masks of the nine points moved by -jitter, 0 or jitter along each axis.

    Returns:
        (..., height, width)
    """
    columns, rows = patch_positions(width, like=points), patch_positions(height, like=points)
    moves = points.new_tensor([-jitter, 0.0, jitter]) if jitter else points.new_zeros(1)
    x = points[..., 0, None] + moves  # (..., moves)
    y = points[..., 1, None] + moves
    across = (columns - x[..., None]).abs()  # (..., moves, width)
    down = (rows - y[..., None]).abs()  # (..., moves, height)
    if distance == "separable":  # the mean over the nine products is the product of the two means over three
        across = point_weights(across, eta=eta, delta=delta, beta=beta).mean(-2)
        down = point_weights(down, eta=eta, delta=delta, beta=beta).mean(-2)
        return down[..., :, None] * across[..., None, :]
    squared = down[..., :, None, :, None].square() + across[..., None, :, None, :].square()
    positive = squared > 0  # the root has no gradient at 0
    apart = torch.where(positive, squared, 1.0).sqrt() * positive  # (..., moves, moves, height, width)
    return point_weights(apart, eta=eta, delta=delta, beta=beta).mean((-4, -3))


class AlignmentBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that stays in float32 when the model is built in, or cast to, half precision."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, dtype=torch.float32)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "AlignmentBatchNorm":
        def keep_precision(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, recurse)


def _is_recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass, as activation checkpointing does."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextmanager
def _statistics_left_alone(module: nn.Module) -> Iterator[None]:
    """Batch norms keep using the batch but do not count it again. What autograd saves stays the same."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _normalise(features: torch.Tensor, norm: nn.modules.batchnorm._BatchNorm) -> torch.Tensor:
    """Batch normalisation in the statistics' precision; one value per channel has no variance, so none is taken."""
    features = features.to(norm.running_mean.dtype)  # type: ignore[union-attr]
    if features.numel() > features.shape[1] or not norm.training:
        return norm(features)
    return F.batch_norm(features, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


class ConvNorm(nn.Module):
    """3x3 or 1x1 convolution, batch normalisation, optional 2x2 max pool, ReLU. (B, C, h, w) -> (B, C', h', w')"""

    def __init__(self, convolution: nn.Module, channels: int, *, pool: bool = False) -> None:
        super().__init__()
        self.convolution = convolution
        self.batch_norm = AlignmentBatchNorm(channels)
        self.pool = pool

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.convolution(features)
        features = _normalise(features, self.batch_norm).to(features.dtype)
        if self.pool:  # a grid smaller than the window is pooled over what it has
            features = F.max_pool2d(features, [min(2, size) for size in features.shape[-2:]])
        return features.relu()


def _conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1)


class PointLayer(nn.Conv1d):
    """The last layer before the points; initialised with 0, so that points start in the centre."""


class PointHead(nn.Module):
    """Two points from a pair's feature map: (B, C, h, w) -> (B, 2, 2).

    The halves of the channels belong to the two frames, so the last two layers are grouped.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            ConvNorm(_conv3x3(in_channels, channels), channels, pool=True),
            ConvNorm(_conv3x3(channels, channels), channels, pool=True),
        )
        self.hidden = nn.Conv1d(channels, channels // 2, 1, groups=2)
        self.points = PointLayer(channels // 2, 4, 1, groups=2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.convolutions(features).amax((-2, -1))  # (B, C)
        points = self.points(self.hidden(features[..., None]).relu())  # (B, 4, 1)
        return POINT_RANGE * points.tanh().unflatten(1, (2, 2))[..., 0]


class ZeroLinear(nn.Linear):
    """Initialised with 0, so that a tower starts as plain CLIP."""


def interaction_module(config: IlaVisionConfig) -> nn.Sequential:
    """The first half of Eq. 5's convolution module: two frames' patches side by side, (B, 2 D, h, w), to features.

    "depthwise_separable" is the one of Table 1, "standard" that of Table 2 (Appendix A: two 3x3 convolutions more).
    The published network (`alignment_fusion="residual"`) has its own form of the first, with twice the channels.
    """
    pair, channels = 2 * config.hidden_size, config.alignment_hidden_size
    wide = 2 * channels
    if config.alignment_conv == "standard":
        return nn.Sequential(ConvNorm(_conv3x3(pair, wide), wide), ConvNorm(_conv3x3(wide, wide), wide))
    depthwise = nn.Conv2d(pair, pair, 3, padding=1, groups=pair)
    if config.alignment_fusion == "residual":
        pointwise = nn.Conv2d(pair, wide, 1)
        return nn.Sequential(
            ConvNorm(depthwise, pair), ConvNorm(pointwise, wide), ConvNorm(_conv3x3(wide, wide), wide)
        )
    return nn.Sequential(ConvNorm(nn.Sequential(depthwise, nn.Conv2d(pair, channels, 1)), channels))


class PairPoints(nn.Module):
    """Eq. 5 and 6 for one layer: what each pair of neighbouring frames shares, as features, points and masks."""

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.jitter = config.alignment_jitter  # in use; a training schedule may lower it
        self.interaction = interaction_module(config)
        wide = config.alignment_conv == "standard" or config.alignment_fusion == "residual"
        channels = config.alignment_hidden_size
        self.point_head = PointHead(2 * channels if wide else channels, channels)

    def forward(self, patches: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, T, N, D) -> features (B, T-1, C, h, w) and points (B, T-1, 2, 2)."""
        batch_size, num_frames = patches.shape[:2]
        pairs = torch.cat([patches[:, :-1], patches[:, 1:]], dim=-1)  # (B, T-1, N, 2 D)
        pairs = pairs.reshape(-1, height, width, pairs.shape[-1]).permute(0, 3, 1, 2)  # channels last in memory
        with _statistics_left_alone(self) if self.training and _is_recomputing() else nullcontext():
            features = self.interaction(pairs)
            points = self.point_head(features)
        shape = (batch_size, num_frames - 1)
        return features.unflatten(0, shape), points.unflatten(0, shape)

    def masks(self, points: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Eq. 6 with this layer's numbers: (B, T-1, 2, 2) -> (B, T-1, 2, h, w); with jitter in training mode only."""
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


class ImplicitAlignment(nn.Module):
    """The paper's alignment for one layer: Eq. 2, 5, 6, 7 and 3a.

    Frame t >= 2 takes its aligned features from the pair (t, t-1), as its current frame; frame 1 from the pair (2, 1),
    as its previous one. They join the spatial attention, and only that, in one of three ways (Table 9):
    "mi_token" pools them to one more token, "concat" appends them as N more tokens, "add" adds them to the patches.
    """

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.fusion = config.alignment_fusion
        self.pairs = PairPoints(config)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> Alignment:
        """hidden_states: (B, T, L, D), T >= 2, class token first; height * width = L - 1."""
        patches = hidden_states[:, :, 1:]  # (B, T, N, D)
        _, points = self.pairs(patches, height, width)
        masks = self.pairs.masks(points, height, width)
        pooled = pool_by_role(masks, patches)
        if self.fusion == "mi_token":
            token = torch.cat([pooled[:, :1, 0], pooled[:, 1:, 1]], dim=1)
            tokens = torch.cat([hidden_states, token[:, :, None]], dim=2)  # (B, T, L+1, D)
        else:
            own = torch.cat([masks[:, :1, 0], masks[:, :, 1]], dim=1).flatten(-2)  # (B, T, N)
            aligned = own[..., None].to(patches.dtype) * patches  # Eq. 7
            if self.fusion == "concat":
                tokens = torch.cat([hidden_states, aligned], dim=2)  # (B, T, L+N, D)
            else:
                tokens = torch.cat([hidden_states[:, :, :1], patches + aligned], dim=2)
        return Alignment(hidden_states, tokens, alignment_loss(pooled), points)


class ResidualAlignment(nn.Module):
    """The alignment of the published checkpoints, which is not the paper's: no token, the frames themselves change.

    With y = LN(W x) and the pairs' features F (first half of the channels: previous frame, second: current):

        x' = x + A [y_cls, mean over roles of mask * y] + I [y_cls, W' (conv over time of the mean over roles of F)]

    A, I: D x D, initialised with 0. A frame has two roles, current in the pair with its predecessor and previous in
    that with its successor; the first and the last frame have one. Costs B/32 with 8 frames 52 instead of 39 GMACs.
    """

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        width, channels = config.hidden_size, config.alignment_hidden_size
        self.message = nn.Linear(width, width)
        self.message_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pairs = PairPoints(config)
        self.temporal_convolution = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.interaction_projection = nn.Linear(channels, width)
        self.aligned_skip = ZeroLinear(width, width)
        self.interaction_skip = ZeroLinear(width, width)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> Alignment:
        """hidden_states: (B, T, L, D), T >= 2, class token first; height * width = L - 1."""
        message = self.message_norm(self.message(hidden_states))
        class_token, patches = message[:, :, :1], message[:, :, 1:]
        features, points = self.pairs(patches, height, width)
        masks = self.pairs.masks(points, height, width)
        weights = mean_over_roles(masks[:, :, 0], masks[:, :, 1]).flatten(-2)  # (B, T, N)
        aligned = torch.cat([class_token, weights[..., None].to(patches.dtype) * patches], dim=2)
        interaction = mean_over_roles(*features.chunk(2, dim=2)).transpose(1, 2)  # (B, C, T, h, w)
        interaction = self.temporal_convolution(interaction).flatten(-2).permute(0, 2, 3, 1)  # (B, T, N, C)
        interaction = torch.cat([class_token, self.interaction_projection(interaction)], dim=2)
        hidden_states = hidden_states + self.aligned_skip(aligned) + self.interaction_skip(interaction)
        loss = alignment_loss(pool_by_role(masks, patches))
        return Alignment(hidden_states, hidden_states, loss, points)


def alignment_loss(pooled: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of 1 - cosine (Eq. 9, 10) of what `pool_by_role` gives, scalar."""
    previous, current = pooled[:, :-1, 0], pooled[:, 1:, 1]  # (B, T-1, D), pair by pair
    return (1 - F.cosine_similarity(at_least_float32(previous), at_least_float32(current), dim=-1)).mean()


def mean_over_roles(as_previous: torch.Tensor, as_current: torch.Tensor) -> torch.Tensor:
    """Per pair to per frame: (B, T-1, ...) twice -> (B, T, ...), the mean of a frame's one or two roles."""
    first, last = as_previous[:, :1], as_current[:, -1:]
    both = (as_previous[:, 1:] + as_current[:, :-1]) / 2
    return torch.cat([first, both, last], dim=1)


def pool_by_role(masks: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Mean of every frame's weighted patches (Eq. 7, 3a), once for each of its roles, in one matrix product.

    Args:
        masks: (B, T-1, 2, h, w), previous and current of each pair.
        patches: (B, T, N, D).

    Returns:
        (B, T, 2, D): role "previous" (0 for the last frame, which has none), role "current" (0 for the first).
    """
    masks = masks.flatten(-2).to(patches.dtype)  # (B, T-1, 2, N)
    as_previous = F.pad(masks[:, :, 0], (0, 0, 0, 1))  # (B, T, N)
    as_current = F.pad(masks[:, :, 1], (0, 0, 1, 0))
    return torch.stack([as_previous, as_current], dim=2) @ patches / patches.shape[2]

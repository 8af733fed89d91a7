"""Implicit alignment of neighbouring frames (Section 3.2 of the paper): points, masks, mutual-information token.

What is unusual about it:
- Every pair of neighbouring frames predicts one point per frame; a mask around it is all that "aligning" means here.
- The weighted feature map never exists: mask and tokens meet in one small matrix product (Eq. 3a).
- It is the only place in the tower with convolutions and batch statistics; those stay in float32.

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

    token: mutual-information token of every frame, (B, T, D).
    loss: mean over videos and pairs of 1 - cosine of the two pooled features (Eq. 9, 10), scalar, at least float32.
    points: interactive points, (B, T-1, 2, 2): previous/current, x/y.
    """

    token: torch.Tensor
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


def convolution_module(config: IlaVisionConfig) -> nn.Sequential:
    """The convolution module of Eq. 5: two frames' patches side by side, (B, 2 D, h, w), to their points, (B, 2, 2).

    "depthwise_separable" is the one behind Table 1. "standard" is the one behind Table 2 (Appendix A: two more 3x3
    convolutions).
    """
    pair, channels = 2 * config.hidden_size, config.alignment_hidden_size
    if config.alignment_conv == "depthwise_separable":
        depthwise = nn.Conv2d(pair, pair, 3, padding=1, groups=pair)
        separable = nn.Sequential(depthwise, nn.Conv2d(pair, channels, 1))
        return nn.Sequential(ConvNorm(separable, channels), PointHead(channels, channels))
    wide = 2 * channels
    return nn.Sequential(
        ConvNorm(_conv3x3(pair, wide), wide), ConvNorm(_conv3x3(wide, wide), wide), PointHead(wide, channels)
    )


class ImplicitAlignment(nn.Module):
    """Eq. 2, 5, 6, 7 and 3a for one layer: hidden states in, mutual-information tokens out.

    Frame t >= 2 takes its token from the pair (t, t-1), as its current frame; frame 1 from the pair (2, 1), as its
    previous one.
    """

    def __init__(self, config: IlaVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.jitter = config.alignment_jitter  # in use; a training schedule may lower it
        self.convolution_module = convolution_module(config)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int) -> Alignment:
        """hidden_states: (B, T, L, D), T >= 2, class token first; height * width = L - 1."""
        patches = hidden_states[:, :, 1:]  # (B, T, N, D)
        points = self.predict_points(patches, height, width)
        masks = self.masks(points, height, width)
        pooled = pool_by_role(masks, patches)  # (B, T, 2, D)
        previous, current = pooled[:, :-1, 0], pooled[:, 1:, 1]  # (B, T-1, D), pair by pair
        token = torch.cat([previous[:, :1], current], dim=1)
        similarity = F.cosine_similarity(at_least_float32(previous), at_least_float32(current), dim=-1)  # Eq. 9
        return Alignment(token, (1 - similarity).mean(), points)

    def predict_points(self, patches: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Eq. 5: (B, T, N, D) -> (B, T-1, 2, 2)."""
        batch_size, num_frames = patches.shape[:2]
        pairs = torch.cat([patches[:, :-1], patches[:, 1:]], dim=-1)  # (B, T-1, N, 2 D)
        pairs = pairs.reshape(-1, height, width, pairs.shape[-1]).permute(0, 3, 1, 2)  # channels last in memory
        with _statistics_left_alone(self) if self.training and _is_recomputing() else nullcontext():
            points = self.convolution_module(pairs)
        return points.unflatten(0, (batch_size, num_frames - 1))

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

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
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .configuration_ila import IlaVisionConfig
from .fast_path_ila import is_followed, is_precise
from .temporal_ila import Temporal, TemporalModule, ZeroLinear


POINT_RANGE = 0.75  # points are this times tanh, so that a mask's flat top never leaves the frame


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision to float32, anything else as it is: for sums over many values."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def point_weights(distance: torch.Tensor, *, eta: float, delta: float, beta: float) -> torch.Tensor:
    """Eq. 6: `eta` up to distance `delta`, then falling with slope `beta` to 0. Any shape."""
    return (eta + beta * delta - beta * distance).clamp(0, eta)


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
    moves = points.new_zeros(1)
    if jitter:  # made on the device: a copy to it would keep the CPU waiting, and no CUDA graph may hold one
        moves = jitter * torch.arange(-1, 2, dtype=points.dtype, device=points.device)

    def distances(coordinates: torch.Tensor, length: int) -> torch.Tensor:
        """(...) -> (..., moves, length)"""
        return ((coordinates[..., None] + moves)[..., None] - patch_positions(length, like=points)).abs()

    if distance == "separable":  # the mean over the nine products is the product of the two means over three

        def along(coordinates: torch.Tensor, length: int) -> torch.Tensor:
            weights = point_weights(distances(coordinates, length), eta=eta, delta=delta, beta=beta)
            return weights.mean(-2) if jitter else weights.squeeze(-2)

        if height == width:  # both axes in one go
            across, down = along(points, width).unbind(-2)
        else:
            across, down = along(points[..., 0], width), along(points[..., 1], height)
        return down[..., :, None] * across[..., None, :]
    across, down = distances(points[..., 0], width), distances(points[..., 1], height)
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

    def forward(self, features: Any) -> Any:
        features = self.convolution(features)
        features = _normalise(features, self.batch_norm).to(features.dtype)
        if self.pool:  # a grid smaller than the window is pooled over what it has
            features = F.max_pool2d(features, [min(2, size) for size in features.shape[-2:]])
        return features.relu()


def _conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1)


class HalvesProduct(nn.Conv1d):
    """A 1x1 convolution in two groups on vectors, as one batched product: (2, B, C / 2) -> (2, B, C' / 2)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1, groups=2)

    def forward(self, halves: torch.Tensor) -> torch.Tensor:
        weight = self.weight.view(2, -1, halves.shape[-1])
        return torch.baddbmm(self.bias.view(2, 1, -1), halves, weight.mT)  # type: ignore[union-attr]


class PointLayer(HalvesProduct):
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
        self.hidden = HalvesProduct(channels, channels // 2)
        self.points = PointLayer(channels // 2, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        halves = self.convolutions(features).amax((-2, -1)).unflatten(1, (2, -1)).transpose(0, 1)  # (2, B, C / 2)
        points = self.points(self.hidden(halves).relu())  # (2, B, 2)
        return POINT_RANGE * points.tanh().transpose(0, 1)


class RoleConvolution(nn.Conv2d):
    """The depthwise 3x3 convolution of a pair, (B, T, h, w, D) -> its two halves, (B, T-1, h, w, D).

    Its channels see one frame each, so the pair's tensor need not exist: every frame is convolved as a previous and as
    a current one. With `pairing` "first" or "middle" the first half is of the one previous frame, (B, 1, h, w, D).
    """

    def __init__(self, width: int, pairing: str) -> None:
        super().__init__(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.pairing = pairing

    def forward(  # type: ignore[override]
        self, frames: torch.Tensor, scale: torch.Tensor | None = None, shift: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """scale, shift: (2 D,), of what follows; they become part of the weights."""
        weight, bias = self.weight, self.bias
        if scale is not None and shift is not None:
            weight = (scale[:, None, None, None] * weight).to(weight.dtype)
            bias = (scale * bias + shift).to(bias.dtype)  # type: ignore[operator, union-attr]
        halves = zip(self._in_a_role(frames), weight.chunk(2), bias.chunk(2))  # type: ignore[union-attr]
        previous, current = (
            F.conv2d(_channels_first(maps), kernels, offsets, padding=1, groups=len(kernels))
            .permute(0, 2, 3, 1)
            .unflatten(0, maps.shape[:2])
            for maps, kernels, offsets in halves
        )
        if self.pairing != "adjacent":
            return previous, all_but_anchor(current, self.pairing)
        pairs = frames.shape[1] - 1
        return previous[:, :pairs], current[:, current.shape[1] - pairs :]

    def _in_a_role(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames to convolve as previous and as current ones: those that are, where leaving the others out is no
        copy; all of them where it would be one.
        """
        if self.pairing != "adjacent":
            anchor = anchor_frame(self.pairing, frames.shape[1])
            return frames[:, anchor : anchor + 1], frames
        return (frames[:, :-1], frames[:, 1:]) if len(frames) == 1 else (frames, frames)


class RoleProduct(nn.Conv2d):
    """The 1x1 convolution of a pair given as its two halves, (B, T-1, h, w, D) each -> (B * (T-1), C, h, w).

    The first may be one frame for all pairs.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(2 * width, channels, 1)

    def forward(self, halves: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        previous, current = (  # a product per video: without the frames that are in no such role, and without a copy
            torch.bmm(half.flatten(1, 3), weight.T.expand(len(half), -1, -1)).unflatten(1, half.shape[1:4])
            for half, weight in zip(halves, self.weight.flatten(1).chunk(2, dim=1))
        )
        bias = self.bias.to(current.dtype)  # type: ignore[union-attr]  # which is autocast's
        return (previous + (current + bias)).flatten(0, 1).permute(0, 3, 1, 2)


class SeparableConvolution(nn.Sequential):
    """`RoleConvolution` and `RoleProduct`: frames (B, T, h, w, D) to pairs (B * (T-1), C, h, w).

    What is between them is computed anew in the backward pass: kept, it would be two tensors more of the tower's width
    in every layer, and takes 1 % of a training step. Compilers choose for themselves what they keep.
    """

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        learns = frames.requires_grad or any(weight.requires_grad for weight in self.parameters())
        if self.training and learns and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return checkpoint(super().forward, frames, use_reentrant=False)
        return super().forward(frames)


class RoleConvNorm(ConvNorm):
    """`ConvNorm` of a `RoleConvolution`, from frames to the pair's two halves.

    In eval mode the norm is folded into the convolution: the pairs' tensor, which it takes otherwise, need not exist.
    """

    PROBE = 1024.0  # large, so that the shift takes no digits from the scale

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.batch_norm.training:
            previous, current = self.convolution(frames, *self._scale_and_shift(frames))
            return previous.relu(), current.relu()
        previous, current = self.convolution(frames)
        pairs = torch.cat([previous.expand_as(current), current], dim=-1)
        normed = _normalise(pairs.flatten(0, 1).permute(0, 3, 1, 2), self.batch_norm).to(pairs.dtype).relu()
        previous, current = normed.permute(0, 2, 3, 1).unflatten(0, pairs.shape[:2]).chunk(2, dim=-1)
        return previous, current

    def _scale_and_shift(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the norm does in eval mode, (2 D,) both; nothing is kept, so nothing is ever out of date.

        It is asked in a call like any other, on which everything hangs that moves weights (offloading).
        """
        norm = self.batch_norm
        kind, device = norm.running_mean.dtype, frames.device  # type: ignore[union-attr]
        probes = self.PROBE * torch.arange(2, dtype=kind, device=device)
        at_0, at_probe = norm(probes.expand(1, norm.num_features, 1, 2)).flatten(0, 2).unbind(-1)
        return (at_probe - at_0) / self.PROBE, at_0


class PairInteraction(nn.Sequential):
    """Layers on two frames' patches side by side: (B, T, h, w, D) -> (B * (T-1), 2 D, h, w) -> ..."""

    def __init__(self, pairing: str, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.pairing = pairing

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        previous, current = pair_frames(frames, frames, self.pairing)
        return super().forward(_channels_first(torch.cat([previous.expand_as(current), current], dim=-1)))


def _channels_first(frames: torch.Tensor) -> torch.Tensor:
    """(B, T, h, w, D) -> (B * T, D, h, w), channels last in memory."""
    return frames.flatten(0, 1).permute(0, 3, 1, 2)


def interaction_module(config: IlaVisionConfig) -> nn.Sequential:
    """The first half of Eq. 5's convolution module: frames (B, T, h, w, D) to features of pairs (B * (T-1), C, h, w).

    "depthwise_separable" is the one of Table 1, "standard" that of Table 2 (Appendix A: two 3x3 convolutions more).
    The published network (`alignment_fusion="residual"`) has its own form of the first, with twice the channels.
    `alignment_operator="window_attention"` attends in windows of 3x3 patches where the first convolution would be.
    """
    hidden, channels, pairing = config.hidden_size, config.alignment_hidden_size, config.alignment_pairing
    pair, wide = 2 * hidden, 2 * channels
    if config.alignment_operator == "window_attention":
        attention = WindowAttention(pair, heads=2 * config.num_attention_heads)
        return PairInteraction(pairing, ConvNorm(nn.Sequential(attention, nn.Conv2d(pair, channels, 1)), channels))
    if config.alignment_conv == "standard":
        return PairInteraction(pairing, ConvNorm(_conv3x3(pair, wide), wide), ConvNorm(_conv3x3(wide, wide), wide))
    depthwise = RoleConvolution(hidden, pairing)
    if config.alignment_fusion == "residual":
        return nn.Sequential(
            RoleConvNorm(depthwise, pair),
            ConvNorm(RoleProduct(hidden, wide), wide),
            ConvNorm(_conv3x3(wide, wide), wide),
        )
    return nn.Sequential(ConvNorm(SeparableConvolution(depthwise, RoleProduct(hidden, channels)), channels))


class WindowAttention(nn.Module):
    """Self-attention inside windows of 3x3 patches (Table 8): (B, C, h, w) -> (B, C, h, w).

    The windows do not overlap; a grid that they do not tile is padded, and nothing attends to the padding.
    """

    SIDE = 3

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_projection, self.out_projection = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        height, width = features.shape[-2:]
        padding = (0, -width % self.SIDE, 0, -height % self.SIDE)
        padded = F.pad(features, padding)
        rows, columns = (size // self.SIDE for size in padded.shape[-2:])
        split = padded.unflatten(3, (columns, self.SIDE)).unflatten(
            2, (rows, self.SIDE)
        )  # (B, C, rows, 3, columns, 3)
        windows = split.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)  # (B, rows, columns, 9, C)
        real = F.pad(features.new_ones(1, 1, height, width, dtype=torch.bool), padding, value=False)
        real = real.unflatten(3, (columns, self.SIDE)).unflatten(2, (rows, self.SIDE))
        real = real.permute(0, 2, 4, 1, 3, 5).flatten(4, 5)[..., None, :]  # (1, rows, columns, 1, 1, 9)
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in self.in_projection(windows).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=real)
        attended = self.out_projection(attended.transpose(-2, -3).flatten(-2))
        attended = attended.unflatten(3, (self.SIDE, self.SIDE)).permute(0, 5, 1, 3, 2, 4)
        return attended.flatten(4, 5).flatten(2, 3)[..., :height, :width]


# -- pairs of frames -------------------------------------------------------------------------------------------------


def anchor_frame(pairing: str, num_frames: int) -> int:
    """The frame that is no pair's "current" one: with "middle" the middle frame, else the first."""
    return num_frames // 2 if pairing == "middle" else 0


def pair_frames(
    as_previous: torch.Tensor, as_current: torch.Tensor, pairing: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Previous and current frame of each pair (Table 6), from all frames in both roles: (B, T, ...) -> (B, T-1, ...).

    "adjacent": each frame with its predecessor. "first", "middle": each other frame with that one, in order; the
    first result is that one alone, (B, 1, ...).
    """
    if pairing == "adjacent":
        return as_previous[:, :-1], as_current[:, 1:]
    anchor = anchor_frame(pairing, as_current.shape[1])
    return as_previous[:, anchor : anchor + 1], all_but_anchor(as_current, pairing)


def all_but_anchor(frames: torch.Tensor, pairing: str) -> torch.Tensor:
    """(B, T, ...) -> (B, T-1, ...)"""
    anchor = anchor_frame(pairing, frames.shape[1])
    return torch.cat([frames[:, :anchor], frames[:, anchor + 1 :]], dim=1)


def own_role(of_pairs: torch.Tensor, pairing: str) -> torch.Tensor:
    """What each frame takes from the pairs: (B, T-1, 2, ...) -> (B, T, ...).

    As "current" from the pair that it is that of; the one frame that is none as "previous" from its predecessor's
    pair, the first frame from the second's.
    """
    anchor = anchor_frame(pairing, of_pairs.shape[1] + 1)
    current, neighbour = of_pairs[:, :, 1], max(anchor - 1, 0)
    return torch.cat([current[:, :anchor], of_pairs[:, neighbour : neighbour + 1, 0], current[:, anchor:]], dim=1)


def mean_over_roles(as_previous: torch.Tensor, as_current: torch.Tensor, pairing: str = "adjacent") -> torch.Tensor:
    """Per pair to per frame: (B, T-1, ...) twice -> (B, T, ...), the mean of all roles that a frame has."""
    if pairing == "adjacent":
        first, last = as_previous[:, :1], as_current[:, -1:]
        both = (as_previous[:, 1:] + as_current[:, :-1]) / 2
        return torch.cat([first, both, last], dim=1)
    anchor = anchor_frame(pairing, as_current.shape[1] + 1)
    return torch.cat([as_current[:, :anchor], as_previous.mean(1, keepdim=True), as_current[:, anchor:]], dim=1)


def own_features(features: torch.Tensor, pairing: str) -> torch.Tensor:
    """A frame's half of its pairs' features, the mean over its roles: (B, T-1, C, h, w) -> (B, T, N, C / 2).

    Channels first: previous frame, second half: current. They lie last in memory, so all but the mean are views.
    """
    as_previous, as_current = features.flatten(-2).mT.chunk(2, dim=-1)
    return mean_over_roles(as_previous, as_current, pairing)


def role_features(features: torch.Tensor, pairing: str) -> torch.Tensor:
    """A frame's halves as previous and as current frame, 0 where it is none: (B, T-1, C, h, w) -> (B, T, N, C)."""
    as_previous, as_current = features.flatten(-2).mT.chunk(2, dim=-1)
    if pairing == "adjacent":
        as_previous, as_current = F.pad(as_previous, (0, 0, 0, 0, 0, 1)), F.pad(as_current, (0, 0, 0, 0, 1, 0))
    else:
        others = features.shape[1]
        anchor = anchor_frame(pairing, others + 1)
        as_previous = F.pad(as_previous.mean(1, keepdim=True), (0, 0, 0, 0, anchor, others - anchor))
        none = torch.zeros_like(as_current[:, :1])
        as_current = torch.cat([as_current[:, :anchor], none, as_current[:, anchor:]], dim=1)
    return torch.cat([as_previous, as_current], dim=-1)


def pool_pairs(masks: torch.Tensor, patches: torch.Tensor, pairing: str = "adjacent") -> torch.Tensor:
    """Mean of every frame's weighted patches in every pair (Eq. 7, 3a).

    Args:
        masks: (B, T-1, 2, h, w), previous and current of each pair.
        patches: (B, T, N, D).

    Returns:
        (B, T-1, 2, D)
    """
    masks = masks.flatten(-2).to(patches.dtype) / patches.shape[2]  # (B, T-1, 2, N)
    if pairing != "adjacent":
        previous, current = pair_frames(patches, patches, pairing)
        return torch.cat([masks[:, :, :1] @ previous, masks[:, :, 1:] @ current], dim=2)
    # (B, 2 T, N): every frame as current, then as previous one, and 0 where it is none
    roles = F.pad(masks.flatten(1, 2), (0, 0, 1, 1))
    by_frame = roles.unflatten(1, (-1, 2)) @ patches  # (B, T, 2, D)
    return by_frame.flatten(1, 2)[:, 1:-1].unflatten(1, masks.shape[1:3])


def alignment_loss(pooled: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of 1 - cosine (Eq. 9, 10) of what `pool_pairs` gives, scalar."""
    previous, current = at_least_float32(pooled).unbind(2)
    return (1 - F.cosine_similarity(previous, current, dim=-1)).mean()


class PairPoints(nn.Module):
    """Eq. 5 and 6 for one layer: what each pair of frames shares, as features, points and masks."""

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
        """(B, T, N, D) -> features (B, T-1, C, h, w) and points (B, T-1, 2, 2)."""
        with _statistics_left_alone(self) if self.training and _is_recomputing() else nullcontext():
            features = self.interaction(patches.unflatten(2, (height, width)))
            points = self.point_head(features)
        shape = (patches.shape[0], patches.shape[1] - 1)
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


# -- how they enter a layer ------------------------------------------------------------------------------------------


class ImplicitAlignment(TemporalModule):
    """The paper's alignment for one layer: Eq. 2, 5, 6, 7 and 3a. A single frame has nothing to align with.

    Frame t >= 2 takes its aligned features from the pair (t, t-1), as its current frame; frame 1 from the pair (2, 1),
    as its previous one. They join the spatial attention, and only that, in one of three ways (Table 9):
    "mi_token" pools them to one more token, "concat" appends them as N more tokens, "add" adds them to the patches.

    "interaction" is a form of our own: the paper's token, and what carries motion in the published network at a
    fraction of its cost. The pairs' features F, from which the points come, are those of LN(x); a half of their
    channels belongs to each frame (first: previous, second: current), and a frame gets both that it has,

        x' = x + [0, I [F of its pair as previous, F of its pair as current]]        with I: C x D, initialised with 0

    goes on through the layer, class token untouched. A role that a frame has in no pair is 0; one that it has in many
    ("first", "middle") is their mean.

    O(T h w k^2 d), and for "concat" the spatial attention of twice as many tokens. On B/32 with 8 frames plain frames
    cost 37.5 GMACs and 97.7 M parameters; "mi_token" adds 1.8 G and 6.2 M, "add" 1.6 G, "interaction" 2.3 G and 7.4 M,
    "concat" 13.8 G; window attention in place of the convolution makes it 66.2 G and 119 M.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int = 0) -> None:
        super().__init__()
        self.fusion, self.pairing = config.alignment_fusion, config.alignment_pairing
        self.pairs = PairPoints(config)
        if self.fusion == "interaction":
            self.pairs_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
            self.interaction_skip = ZeroLinear(self.pairs.channels, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> Temporal:
        """hidden_states: (B, T, L, D), class token first; height * width = L - 1."""
        if hidden_states.shape[1] == 1:
            return Temporal(hidden_states, hidden_states)
        patches = hidden_states[:, :, 1:].contiguous()  # (B, T, N, D); one copy for all that needs it so
        compared = self.pairs_norm(patches) if self.fusion == "interaction" else patches
        features, points = self.pairs(compared, height, width)
        masks = self.pairs.masks(points, height, width)
        pooled = pool_pairs(masks, patches, self.pairing)
        if self.fusion == "interaction":
            moved = patches + self.interaction_skip(role_features(features, self.pairing))
            token = own_role(pooled, self.pairing)
            tokens = torch.cat([hidden_states[:, :, :1], moved, token[:, :, None]], dim=2)  # (B, T, L+1, D)
            hidden_states = tokens[:, :, :-1]
        elif self.fusion == "mi_token":
            token = own_role(pooled, self.pairing)
            tokens = torch.cat([hidden_states, token[:, :, None]], dim=2)  # (B, T, L+1, D)
        else:
            own = own_role(masks, self.pairing).flatten(-2)  # (B, T, N)
            aligned = own[..., None].to(patches.dtype) * patches  # Eq. 7
            if self.fusion == "concat":
                tokens = torch.cat([hidden_states, aligned], dim=2)  # (B, T, L+N, D)
            else:
                tokens = torch.cat([hidden_states[:, :, :1], patches + aligned], dim=2)
        return Temporal(hidden_states, tokens, alignment_loss(pooled), points)


class ResidualAlignment(TemporalModule):
    """The alignment of the published checkpoints, which is not the paper's: no token, the frames themselves change.

    With y = LN(W x) and the pairs' features F (first half of the channels: previous frame, second: current):

        x' = x + A [y_cls, mean over roles of mask * y] + I [y_cls, W' (conv over time of the mean over roles of F)]

    A, I: D x D, initialised with 0. A frame has two roles, current in the pair with its predecessor and previous in
    that with its successor; the first and the last frame have one. Costs B/32 with 8 frames 50 instead of 39 GMACs.
    """

    PROBE = 256.0  # large, so that the bias takes no digits from the rows
    _kept: tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]] | None = None  # two answers, and the product

    def __init__(self, config: IlaVisionConfig, layer_index: int = 0) -> None:
        super().__init__()
        width, channels = config.hidden_size, config.alignment_hidden_size
        self.pairing = config.alignment_pairing
        self.message = nn.Linear(width, width)
        self.message_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pairs = PairPoints(config)
        self.temporal_convolution = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.interaction_projection = nn.Linear(channels, width)
        self.aligned_skip = ZeroLinear(width, width)
        self.interaction_skip = ZeroLinear(width, width)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> Temporal:
        """hidden_states: (B, T, L, D), class token first; height * width = L - 1."""
        if hidden_states.shape[1] == 1:
            return Temporal(hidden_states, hidden_states)
        message = self.message_norm(self.message(hidden_states))
        class_token, patches = message[:, :, :1], message[:, :, 1:].contiguous()
        features, points = self.pairs(patches, height, width)
        masks = self.pairs.masks(points, height, width)
        weights = mean_over_roles(masks[:, :, 0], masks[:, :, 1], self.pairing).flatten(-2)  # (B, T, N)
        aligned = F.pad(weights, (1, 0), value=1.0)[..., None].to(message.dtype) * message  # [y_cls, mask * y]
        interaction = own_features(features, self.pairing).mT.unflatten(-1, (height, width))
        interaction = self.temporal_convolution(interaction.transpose(1, 2))  # (B, C, T, h, w)
        interaction = interaction.flatten(-2).permute(0, 2, 3, 1)  # (B, T, N, C)
        skipped = self.skip_interaction(class_token, interaction)
        hidden_states = hidden_states + self.aligned_skip(aligned)
        if torch.is_grad_enabled() or any(map(is_followed, (hidden_states, *skipped))):
            hidden_states = hidden_states + torch.cat(skipped, dim=2)
        else:  # no tensor for the two side by side, and none for the sum
            hidden_states[:, :, :1] += skipped[0]
            hidden_states[:, :, 1:] += skipped[1]
        loss = alignment_loss(pool_pairs(masks, patches, self.pairing))
        return Temporal(hidden_states, hidden_states, loss, points)

    def skip_interaction(self, class_token: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """I y_cls and I W' features: (B, T, 1, D) and (B, T, N, C) -> (B, T, 1, D) and (B, T, N, D).

        I W' is one matrix of rank C. Its rows and its bias are what both layers make of the axes and of 0: asked in
        calls like any other, on which adapters and whatever moves weights (offloading) hang. Adapters in training may
        drop some of what they are asked, so there it is asked as it comes.

        On a CPU in eval mode without gradients, in single precision or better, the product is kept. Two vectors are
        asked along with every class token, and where an answer differs from the one before in one bit, the product is
        made anew: so it is that of the weights as they are, up to their last digits, however they change.
        """
        if self.training and type(self.interaction_skip) is not ZeroLinear:
            both = self.interaction_skip(torch.cat([class_token, self.interaction_projection(features)], dim=2))
            return both[:, :, :1], both[:, :, 1:]
        tokens = class_token.flatten(0, 2)
        keeps = features.device.type == "cpu" and is_precise(features)
        keeps = keeps and not (self.training or torch.is_grad_enabled() or is_followed(features))
        vectors = self._two_vectors(features) if keeps else self._axes(features)
        asked = torch.cat([tokens, self.interaction_projection(vectors).to(tokens)])
        of_tokens, answers = self.interaction_skip(asked).split([len(tokens), len(vectors)])
        product = self._kept_product(answers, features) if keeps else self._product(answers)
        return of_tokens.view_as(class_token), F.linear(features, *product)

    def _product(self, answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(C + 1, D), answers to the axes and to 0 -> I W' (D, C), and its bias (D,)."""
        return ((answers[:-1] - answers[-1]) / self.PROBE).mT, answers[-1]

    def _axes(self, features: torch.Tensor) -> torch.Tensor:
        """(C + 1, C), and 0 as the last one."""
        channels = features.shape[-1]
        return self.PROBE * torch.eye(channels + 1, channels, dtype=features.dtype, device=features.device)

    def _two_vectors(self, features: torch.Tensor) -> torch.Tensor:
        """(2, C), of numbers without any order, as large as the axes."""
        numbers = torch.arange(2 * features.shape[-1], dtype=features.dtype, device=features.device)
        return self.PROBE * numbers.square().cos().view(2, -1)

    def _kept_product(self, answers: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        followed = is_followed(answers)  # weights may be where the features are not
        if self._kept is not None and not followed:
            before, product = self._kept
            if before.dtype == answers.dtype and torch.equal(before, answers):
                return product
        of_axes = self.interaction_projection(self._axes(features)).to(answers.dtype)
        rows, bias = self._product(self.interaction_skip(of_axes))
        product = rows, bias.clone()  # others may hold what the layer returned
        if not followed:
            self._kept = answers.clone(), product
        return product

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles begin without what is kept."""
        return {**self.__dict__, "_kept": None}

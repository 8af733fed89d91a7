"""Pairs of frames: which frames are a pair, their convolutions, and from pairs back to frames."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .configuration_ila import IlaVisionConfig
from .numerics_ila import AlignmentBatchNorm, batch_normalize


class ConvNorm(nn.Module):
    """3x3 or 1x1 convolution, batch normalisation, optional 2x2 max pool, ReLU. (B, C, h, w) -> (B, C', h', w')"""

    def __init__(self, convolution: nn.Module, channels: int, *, pool: bool = False) -> None:
        super().__init__()
        self.convolution = convolution
        self.batch_norm = AlignmentBatchNorm(channels)
        self.pool = pool

    def forward(self, features: Any) -> Any:
        features = self.convolution(features)
        features = batch_normalize(features, self.batch_norm).to(features.dtype)
        if self.pool:  # a grid smaller than the window is pooled over what it has
            features = F.max_pool2d(features, [min(2, size) for size in features.shape[-2:]])
        return features.relu()


def _conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1)


class GroupedLinear(nn.Conv1d):
    """A 1x1 convolution in two groups on vectors, as one batched product: (2, B, C / 2) -> (2, B, C' / 2)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1, groups=2)

    def forward(self, halves: torch.Tensor) -> torch.Tensor:
        weight = self.weight.view(2, -1, halves.shape[-1])
        return torch.baddbmm(self.bias.view(2, 1, -1), halves, weight.mT)  # type: ignore[union-attr]


class PairDepthwiseConv(nn.Conv2d):
    """The depthwise 3x3 convolution of a pair, (B, T, h, w, D) -> its two halves, (B, T-1, h, w, D).

    Its channels see one frame each, so the pair's tensor need not exist: every frame is convolved as a previous and as
    a current one. With `pairing` "first" or "middle" the first half is of the one previous frame, (B, 1, h, w, D).
    """

    def __init__(self, width: int, pairing: str) -> None:
        super().__init__(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.pairing = pairing

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        halves = zip(self._in_a_role(frames), self.weight.chunk(2), self.bias.chunk(2))  # type: ignore[union-attr]
        previous, current = (
            F.conv2d(_channels_first(maps), kernels, offsets, padding=1, groups=len(kernels))
            .permute(0, 2, 3, 1)
            .unflatten(0, maps.shape[:2])
            for maps, kernels, offsets in halves
        )
        if self.pairing != "adjacent":
            return previous, all_but_reference(current, self.pairing)
        pairs = frames.shape[1] - 1
        return previous[:, :pairs], current[:, current.shape[1] - pairs :]

    def _in_a_role(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The frames to convolve as previous and as current ones: those that are, where leaving the others out is no
        copy; all of them where it would be one.
        """
        if self.pairing != "adjacent":
            anchor = reference_frame(self.pairing, frames.shape[1])
            return frames[:, anchor : anchor + 1], frames
        return (frames[:, :-1], frames[:, 1:]) if len(frames) == 1 else (frames, frames)


class PairPointwiseConv(nn.Conv2d):
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
    """`PairDepthwiseConv` and `PairPointwiseConv`: frames (B, T, h, w, D) to pairs (B * (T-1), C, h, w).

    What is between them is computed anew in the backward pass: kept, it would be two tensors more of the tower's width
    in every layer, and takes 1 % of a training step. Compilers choose for themselves what they keep.
    """

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        learns = frames.requires_grad or any(weight.requires_grad for weight in self.parameters())
        if self.training and learns and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return checkpoint(super().forward, frames, use_reentrant=False)
        return super().forward(frames)


class PairConvNorm(ConvNorm):
    """`ConvNorm` of a `PairDepthwiseConv`: frames (B, T, h, w, D) to the pair's two halves, (B, T-1, h, w, D) each."""

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        previous, current = self.convolution(frames)
        pairs = torch.cat([previous.expand_as(current), current], dim=-1)
        normed = batch_normalize(_channels_first(pairs), self.batch_norm).to(pairs.dtype).relu()
        previous, current = normed.permute(0, 2, 3, 1).unflatten(0, pairs.shape[:2]).chunk(2, dim=-1)
        return previous, current


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
    depthwise = PairDepthwiseConv(hidden, pairing)
    if config.alignment_fusion == "residual":
        return nn.Sequential(
            PairConvNorm(depthwise, pair),
            ConvNorm(PairPointwiseConv(hidden, wide), wide),
            ConvNorm(_conv3x3(wide, wide), wide),
        )
    return nn.Sequential(ConvNorm(SeparableConvolution(depthwise, PairPointwiseConv(hidden, channels)), channels))


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


def reference_frame(pairing: str, num_frames: int) -> int:
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
    anchor = reference_frame(pairing, as_current.shape[1])
    return as_previous[:, anchor : anchor + 1], all_but_reference(as_current, pairing)


def all_but_reference(frames: torch.Tensor, pairing: str) -> torch.Tensor:
    """(B, T, ...) -> (B, T-1, ...)"""
    anchor = reference_frame(pairing, frames.shape[1])
    return torch.cat([frames[:, :anchor], frames[:, anchor + 1 :]], dim=1)


def pairs_to_frames(of_pairs: torch.Tensor, pairing: str) -> torch.Tensor:
    """What each frame takes from the pairs: (B, T-1, 2, ...) -> (B, T, ...).

    As "current" from the pair that it is that of; the one frame that is none as "previous" from its predecessor's
    pair, the first frame from the second's.
    """
    anchor = reference_frame(pairing, of_pairs.shape[1] + 1)
    current, neighbour = of_pairs[:, :, 1], max(anchor - 1, 0)
    return torch.cat([current[:, :anchor], of_pairs[:, neighbour : neighbour + 1, 0], current[:, anchor:]], dim=1)


def average_pairs_to_frames(of_pairs: torch.Tensor, pairing: str = "adjacent") -> torch.Tensor:
    """Per pair to per frame: (B, T-1, 2, ...) -> (B, T, ...), the mean of all roles that a frame has."""
    as_previous, as_current = of_pairs.unbind(2)
    if pairing == "adjacent":
        first, last = as_previous[:, :1], as_current[:, -1:]
        both = (as_previous[:, 1:] + as_current[:, :-1]) / 2
        return torch.cat([first, both, last], dim=1)
    anchor = reference_frame(pairing, as_current.shape[1] + 1)
    return torch.cat([as_current[:, :anchor], as_previous.mean(1, keepdim=True), as_current[:, anchor:]], dim=1)


def average_pair_features(features: torch.Tensor, pairing: str) -> torch.Tensor:
    """A frame's half of its pairs' features, the mean over its roles: (B, T-1, C, h, w) -> (B, T, N, C / 2).

    Channels first: previous frame, second half: current. They lie last in memory, so all but the mean are views.
    """
    halves = features.flatten(-2).mT.unflatten(-1, (2, -1)).movedim(-2, 2)  # (B, T-1, 2, N, C / 2)
    return average_pairs_to_frames(halves, pairing)


def concat_pair_features(features: torch.Tensor, pairing: str) -> torch.Tensor:
    """A frame's halves as previous and as current frame, 0 where it is none: (B, T-1, C, h, w) -> (B, T, N, C)."""
    as_previous, as_current = features.flatten(-2).mT.chunk(2, dim=-1)
    if pairing == "adjacent":
        as_previous, as_current = F.pad(as_previous, (0, 0, 0, 0, 0, 1)), F.pad(as_current, (0, 0, 0, 0, 1, 0))
    else:
        others = features.shape[1]
        anchor = reference_frame(pairing, others + 1)
        as_previous = F.pad(as_previous.mean(1, keepdim=True), (0, 0, 0, 0, anchor, others - anchor))
        none = torch.zeros_like(as_current[:, :1])
        as_current = torch.cat([as_current[:, :anchor], none, as_current[:, anchor:]], dim=1)
    return torch.cat([as_previous, as_current], dim=-1)


def masked_average_pool(masks: torch.Tensor, patches: torch.Tensor, pairing: str = "adjacent") -> torch.Tensor:
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

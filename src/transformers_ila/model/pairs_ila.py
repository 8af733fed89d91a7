"""Pairs of frames: which frames form a pair, the convolutions on pairs, and the way back from pairs to frames.

What is unusual about it:
- The depthwise convolution sees each frame of a pair alone, so every frame is convolved once in each of its two roles
  (previous, current), and pairs travel as two halves.
- In causal pairs each frame is current, and a stream keeps what its last frame gives as a previous one (`Past`).
- The convolutions' batch norms keep their statistics in float32.

Shapes: `B` videos, `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `D` width, `C` channels of a module. In a
pair, index 0 is the previous frame and 1 the current one.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .configuration_ila import IlaVisionConfig
from .numerics_ila import AlignmentBatchNorm, batch_normalize


class Past(NamedTuple):
    """Hold what one layer keeps of the frames before those that it is given now, for the B rows of a stream.

    kept: what the last frame (with `pairing` "first" the first one) gives as the previous frame of a pair,
        (B, 1, ...); None where all rows begin.
    cold: (B,) bool, the rows that begin with the frames given now; None where no row does, or all do.
    """

    kept: torch.Tensor | None = None
    cold: torch.Tensor | None = None

    def before(self, own: torch.Tensor) -> torch.Tensor:
        """Return what is kept, and in rows that begin `own` instead; both (B, 1, ...)."""
        if self.kept is None:
            return own
        if self.cold is None:
            return self.kept
        return torch.where(self.cold.view(-1, *[1] * (own.ndim - 1)), own, self.kept)


class ConvNorm(nn.Module):
    """Apply a convolution, batch normalisation, an optional 2x2 max pool and ReLU: (B, C, h, w) -> (B, C', h', w')."""

    def __init__(self, convolution: nn.Module, channels: int, *, pool: bool = False) -> None:
        super().__init__()
        self.convolution = convolution
        self.batch_norm = AlignmentBatchNorm(channels)
        self.pool = pool

    def forward(self, features: Any) -> Any:
        """Map (B, C, h, w) to (B, C', h', w'); pooling halves h and w, where they are more than 1."""
        return self.normalized(self.convolution(features))

    def normalized(self, features: torch.Tensor) -> torch.Tensor:
        """Apply what follows the convolution: (B, C, h, w) -> (B, C', h', w')."""
        features = batch_normalize(features, self.batch_norm).to(features.dtype)
        if self.pool:  # a grid smaller than the window is pooled over what it has
            features = F.max_pool2d(features, [min(2, size) for size in features.shape[-2:]])
        return features.relu()


def _conv3x3(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1)


class GroupedLinear(nn.Conv1d):
    """Compute a 1x1 convolution with two groups as one batched product: (2, B, C / 2) -> (2, B, C' / 2)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 1, groups=2)

    def forward(self, halves: torch.Tensor) -> torch.Tensor:
        """Multiply each half of the channels with its own matrix: (2, B, C / 2) -> (2, B, C' / 2)."""
        weight = self.weight.view(2, -1, halves.shape[-1])
        return torch.baddbmm(self.bias.view(2, 1, -1), halves, weight.mT)  # type: ignore[union-attr]


class PairConvolution(nn.Module):
    """Define the first layer on pairs: a sum, or a function, of what each frame of a pair gives alone (its half).

    A layer says in `previous_half` and `current_half` what frames (B, T, h, w, D) give in either role, each
    (B, T, h, w, C), and in `joined` what that makes of the pairs.
    """

    def previous_half(self, frames: torch.Tensor) -> torch.Tensor:
        """Return what frames give as previous ones: (B, T, h, w, D) -> (B, T, h, w, C)."""
        raise NotImplementedError

    def current_half(self, frames: torch.Tensor) -> torch.Tensor:
        """Return what frames give as current ones: (B, T, h, w, D) -> (B, T, h, w, C)."""
        raise NotImplementedError

    def joined(self, previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Map the halves of pairs, (B, T or 1, h, w, C) and (B, T, h, w, C), to features (B * T, C', h, w)."""
        raise NotImplementedError

    def kept_half(self, frames: torch.Tensor, pairing: str) -> torch.Tensor:
        """Return what a stream keeps of its frames so far, (B, T, h, w, D), for those to come: (B, 1, h, w, C)."""
        return self.previous_half(frames[:, :1] if pairing == "first" else frames[:, -1:])

    def causal(self, frames: torch.Tensor, pairing: str, past: Past) -> tuple[torch.Tensor, torch.Tensor]:
        """Pair each frame with its predecessor ("adjacent") or the first one, and the first one with itself.

        Args:
            frames: (B, T, h, w, D).
            past: what is kept of the frames before.

        Returns:
            Features (B * T, C', h, w), and what is to be kept, (B, 1, h, w, C).
        """
        if pairing == "first":
            kept = past.kept
            if kept is None or past.cold is not None:
                kept = past.before(self.previous_half(frames[:, :1]))
            return self.joined(kept, self.current_half(frames)), kept
        own = self.previous_half(frames)
        previous = torch.cat([past.before(own[:, :1]), own[:, :-1]], dim=1)
        return self.joined(previous, self.current_half(frames)), own[:, -1:]


class PairDepthwiseConv(nn.Conv2d):
    """Convolve all pairs depthwise, 3x3: frames (B, T, h, w, D) to two halves, (B, T-1, h, w, D) each.

    Each channel sees one frame, so no tensor of the pair is needed: every frame is convolved as a previous and as a
    current frame. With `pairing` "first" or "middle" one frame is the previous one of all pairs, and the first half
    is (B, 1, h, w, D).
    """

    def __init__(self, width: int, pairing: str) -> None:
        super().__init__(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.pairing = pairing

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        """Return the previous and the current halves of all pairs of the frames (B, T, h, w, D)."""
        previous, current = (self.in_role(maps, role) for role, maps in enumerate(self._select(frames)))
        if self.pairing != "adjacent":
            return previous, all_but_reference(current, self.pairing)
        pairs = frames.shape[1] - 1
        return previous[:, :pairs], current[:, current.shape[1] - pairs :]

    def in_role(self, frames: torch.Tensor, role: int) -> torch.Tensor:
        """Convolve frames (B, T, h, w, D) as previous (role 0) or current ones (role 1)."""
        kernels, offsets = self.weight.chunk(2)[role], self.bias.chunk(2)[role]  # type: ignore[union-attr]
        maps = F.conv2d(_channels_first(frames), kernels, offsets, padding=1, groups=len(kernels))
        return maps.permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])

    def _select(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Select the frames to convolve as previous and as current ones.

        Frames without such a role are left out only where that needs no copy (one video, or one reference frame).
        """
        if self.pairing != "adjacent":
            anchor = reference_frame(self.pairing, frames.shape[1])
            return frames[:, anchor : anchor + 1], frames
        return (frames[:, :-1], frames[:, 1:]) if frames.shape[0] == 1 else (frames, frames)


class PairPointwiseConv(nn.Conv2d):
    """Convolve pairs given as two halves, 1x1: (B, T-1, h, w, D) each -> (B * (T-1), C, h, w).

    The first half may be (B, 1, h, w, D), one frame for all pairs.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(2 * width, channels, 1)

    def forward(self, halves: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        """Map the halves, (B, T-1, h, w, D) each, to features of pairs (B * (T-1), C, h, w)."""
        return self.joined(*(self.in_role(maps, role) for role, maps in enumerate(halves)))

    def in_role(self, maps: torch.Tensor, role: int) -> torch.Tensor:
        """Multiply one half, of previous (role 0) or current frames (role 1): (B, T, h, w, D) -> (B, T, h, w, C)."""
        weight = self.weight.flatten(1).chunk(2, dim=1)[role]
        # one product per video: it skips frames without this role, and needs no copy
        product = torch.bmm(maps.flatten(1, 3), weight.T.expand(maps.shape[0], -1, -1))
        return product.unflatten(1, maps.shape[1:4])

    def joined(self, previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Add the products of pairs, (B, T or 1, h, w, C) and (B, T, h, w, C), and the bias: (B * T, C, h, w)."""
        bias = self.bias.to(current.dtype)  # type: ignore[union-attr]  # which is autocast's
        return (previous + (current + bias)).flatten(0, 1).permute(0, 3, 1, 2)


class SeparableConvolution(nn.Sequential, PairConvolution):
    """Apply `PairDepthwiseConv`, then `PairPointwiseConv`: frames (B, T, h, w, D) to pairs (B * (T-1), C, h, w).

    In training the backward pass computes the tensors between the two again, which takes 1 % of a training step and
    saves two tensors of the tower's width in every layer. Compilers decide for themselves what they keep.
    """

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Map frames (B, T, h, w, D) to features of pairs (B * (T-1), C, h, w)."""
        return self._recomputed(super().forward, frames)

    def previous_half(self, frames: torch.Tensor) -> torch.Tensor:
        """Return what frames give as previous ones: (B, T, h, w, D) -> (B, T, h, w, C)."""
        return self._in_role(frames, 0)

    def current_half(self, frames: torch.Tensor) -> torch.Tensor:
        """Return what frames give as current ones: (B, T, h, w, D) -> (B, T, h, w, C)."""
        return self._in_role(frames, 1)

    def _in_role(self, frames: torch.Tensor, role: int) -> torch.Tensor:
        depthwise, pointwise = self
        return pointwise.in_role(depthwise.in_role(frames, role), role)  # type: ignore[operator]

    def joined(self, previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Add the halves of pairs, (B, T or 1, h, w, C) and (B, T, h, w, C): (B * T, C, h, w)."""
        return self[1].joined(previous, current)  # type: ignore[operator]

    def causal(self, frames: torch.Tensor, pairing: str, past: Past) -> tuple[torch.Tensor, torch.Tensor]:
        """Call `PairConvolution.causal`."""
        return self._recomputed(super().causal, frames, pairing, past)

    def _recomputed(self, function: Any, frames: torch.Tensor, *args: Any) -> Any:
        learns = frames.requires_grad or any(weight.requires_grad for weight in self.parameters())
        if self.training and learns and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return checkpoint(function, frames, *args, use_reentrant=False)
        return function(frames, *args)


class StandardConvolution(nn.Conv2d, PairConvolution):
    """Convolve pairs, 3x3: (B, 2 D, h, w), or two halves with half of the kernels each, to (B, C, h, w)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(2 * width, channels, 3, padding=1)

    def previous_half(self, frames: torch.Tensor) -> torch.Tensor:
        """Return what frames give as previous ones: (B, T, h, w, D) -> (B, T, h, w, C)."""
        return self._in_role(frames, 0)

    def current_half(self, frames: torch.Tensor) -> torch.Tensor:
        """Return what frames give as current ones: (B, T, h, w, D) -> (B, T, h, w, C)."""
        return self._in_role(frames, 1)

    def _in_role(self, frames: torch.Tensor, role: int) -> torch.Tensor:
        maps = F.conv2d(_channels_first(frames), self.weight.chunk(2, dim=1)[role], padding=1)
        return maps.permute(0, 2, 3, 1).unflatten(0, frames.shape[:2])

    def joined(self, previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Add the halves of pairs, (B, T or 1, h, w, C) and (B, T, h, w, C), and the bias: (B * T, C, h, w)."""
        bias = self.bias.to(current.dtype)  # type: ignore[union-attr]
        return _channels_first(previous + (current + bias))


class AttendingConvolution(nn.Sequential, PairConvolution):
    """Attend to both frames of a pair at once, then convolve, 1x1: (B, 2 D, h, w) -> (B, C, h, w).

    A frame's half is the frame itself, as the attention mixes both.
    """

    def previous_half(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the frames unchanged, (B, T, h, w, D): attention needs both frames of a pair whole."""
        return frames

    current_half = previous_half

    def joined(self, previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Run the layers on pairs, (B, T or 1, h, w, D) and (B, T, h, w, D): (B * T, C, h, w)."""
        return self(_channels_first(torch.cat([previous.expand_as(current), current], dim=-1)))


class PairConvNorm(ConvNorm):
    """Apply a `PairDepthwiseConv`, batch normalisation and ReLU: frames (B, T, h, w, D) to (B, T-1, h, w, D) twice."""

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map frames (B, T, h, w, D) to the previous and current halves of the pairs, (B, T-1, h, w, D) each."""
        previous, current = self.convolution(frames)
        pairs = torch.cat([previous.expand_as(current), current], dim=-1)
        normed = batch_normalize(_channels_first(pairs), self.batch_norm).to(pairs.dtype).relu()
        previous, current = normed.permute(0, 2, 3, 1).unflatten(0, pairs.shape[:2]).chunk(2, dim=-1)
        return previous, current


class PairInteraction(nn.Sequential):
    """Run layers on the concatenated patches of two frames: (B, T, h, w, D) -> (B * (T-1), 2 D, h, w) -> ..."""

    def __init__(self, pairing: str, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.pairing = pairing

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Pair the frames (B, T, h, w, D), and return what the layers make of (B * (T-1), 2 D, h, w)."""
        previous, current = pair_frames(frames, frames, self.pairing)
        return super().forward(_channels_first(torch.cat([previous.expand_as(current), current], dim=-1)))


def _channels_first(frames: torch.Tensor) -> torch.Tensor:
    """View (B, T, h, w, D) as (B * T, D, h, w), with the channels last in memory."""
    return frames.flatten(0, 1).permute(0, 3, 1, 2)


def interaction_module(config: IlaVisionConfig) -> nn.Sequential:
    """Build the first half of Eq. 5's module: frames (B, T, h, w, D) to features of pairs (B * (T-1), C, h, w).

    "depthwise_separable" is the one of Table 1, "standard" that of Table 2. Appendix A says that two 3x3 convolutions
    are added there; these two replace the separable layer, as in the published network, and cost what three of
    Table 2's four rows say within 2 % (the fourth would be 4228 G, not 3723). The published network
    (`alignment_fusion="residual"`) has its own form of the first, with twice the channels.
    `alignment_operator="window_attention"` attends in windows of 3x3 patches where the first convolution would be.
    """
    hidden, channels, pairing = config.hidden_size, config.alignment_hidden_size, config.alignment_pairing
    pair, wide = 2 * hidden, 2 * channels
    if config.alignment_operator == "window_attention":
        attention = WindowAttention(pair, heads=2 * config.num_attention_heads)
        attending = AttendingConvolution(attention, nn.Conv2d(pair, channels, 1))
        return PairInteraction(pairing, ConvNorm(attending, channels))
    if config.alignment_conv == "standard":
        first = StandardConvolution(hidden, wide)
        return PairInteraction(pairing, ConvNorm(first, wide), ConvNorm(_conv3x3(wide, wide), wide))
    depthwise = PairDepthwiseConv(hidden, pairing)
    if config.alignment_fusion == "residual":
        return nn.Sequential(
            PairConvNorm(depthwise, pair),
            ConvNorm(PairPointwiseConv(hidden, wide), wide),
            ConvNorm(_conv3x3(wide, wide), wide),
        )
    return nn.Sequential(ConvNorm(SeparableConvolution(depthwise, PairPointwiseConv(hidden, channels)), channels))


class WindowAttention(nn.Module):
    """Attend inside windows of 3x3 patches (Table 8): (B, C, h, w) -> (B, C, h, w).

    The windows do not overlap; a grid that they do not tile is padded, and nothing attends to the padding.
    """

    SIDE = 3

    def __init__(self, channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_projection, self.out_projection = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (B, C, h, w) to (B, C, h, w); each patch attends to the patches of its own window."""
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
        real = real.expand(features.shape[0], -1, -1, -1, -1, -1).flatten(0, 2)  # ONNX attends in four axes only
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3).flatten(0, 2)
            for part in self.in_projection(windows).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=real)
        attended = self.out_projection(attended.transpose(-2, -3).flatten(-2)).unflatten(0, windows.shape[:3])
        attended = attended.unflatten(3, (self.SIDE, self.SIDE)).permute(0, 5, 1, 3, 2, 4)
        return attended.flatten(4, 5).flatten(2, 3)[..., :height, :width]


def causal_interaction(
    interaction: nn.Sequential, frames: torch.Tensor, pairing: str, past: Past
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run an `interaction_module` on causal pairs; arguments and results are those of `PairConvolution.causal`."""
    first: Any
    first, *others = interaction
    features, kept = first.convolution.causal(frames, pairing, past)
    features = first.normalized(features)
    for layer in others:
        features = layer(features)
    return features, kept


# -- pairs of frames -------------------------------------------------------------------------------------------------


def reference_frame(pairing: str, num_frames: int) -> int:
    """Return the index of the frame that is current in no pair: the middle frame with "middle", else the first."""
    return num_frames // 2 if pairing == "middle" else 0


def pair_frames(
    as_previous: torch.Tensor, as_current: torch.Tensor, pairing: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return previous and current frame of each pair (Table 6), from all frames in both roles, (B, T, ...) each.

    "adjacent" pairs each frame with its predecessor: (B, T-1, ...) twice. "first" and "middle" pair every other frame
    with that one, in order: (B, 1, ...) and (B, T-1, ...).
    """
    if pairing == "adjacent":
        return as_previous[:, :-1], as_current[:, 1:]
    anchor = reference_frame(pairing, as_current.shape[1])
    return as_previous[:, anchor : anchor + 1], all_but_reference(as_current, pairing)


def all_but_reference(frames: torch.Tensor, pairing: str) -> torch.Tensor:
    """Leave out the reference frame: (B, T, ...) -> (B, T-1, ...)"""
    anchor = reference_frame(pairing, frames.shape[1])
    return torch.cat([frames[:, :anchor], frames[:, anchor + 1 :]], dim=1)


def pairs_to_frames(of_pairs: torch.Tensor, pairing: str) -> torch.Tensor:
    """Give each frame its value from one pair: (B, T-1, 2, ...) -> (B, T, ...).

    A frame takes the value of the pair in which it is the current frame. The reference frame is current in none and
    takes its value as the previous frame of its predecessor's pair, or of the second frame's if it is the first.
    """
    anchor = reference_frame(pairing, of_pairs.shape[1] + 1)
    current, neighbour = of_pairs[:, :, 1], max(anchor - 1, 0)
    return torch.cat([current[:, :anchor], of_pairs[:, neighbour : neighbour + 1, 0], current[:, anchor:]], dim=1)


def average_pairs_to_frames(of_pairs: torch.Tensor, pairing: str = "adjacent") -> torch.Tensor:
    """Give each frame the mean of its values in all pairs that it is in: (B, T-1, 2, ...) -> (B, T, ...)."""
    as_previous, as_current = of_pairs.unbind(2)
    if pairing == "adjacent":
        first, last = as_previous[:, :1], as_current[:, -1:]
        both = (as_previous[:, 1:] + as_current[:, :-1]) / 2
        return torch.cat([first, both, last], dim=1)
    anchor = reference_frame(pairing, as_current.shape[1] + 1)
    return torch.cat([as_current[:, :anchor], as_previous.mean(1, keepdim=True), as_current[:, anchor:]], dim=1)


def average_pair_features(features: torch.Tensor, pairing: str) -> torch.Tensor:
    """Give each frame the mean of its halves of the pairs' features: (B, T-1, C, h, w) -> (B, T, N, C / 2).

    The first half of the channels belongs to the previous frame, the second to the current one.
    """
    halves = features.flatten(-2).mT.unflatten(-1, (2, -1)).movedim(-2, 2)  # (B, T-1, 2, N, C / 2)
    return average_pairs_to_frames(halves, pairing)


def concat_pair_features(features: torch.Tensor, pairing: str) -> torch.Tensor:
    """Give each frame its halves as previous and as current frame, 0 in a role that it does not have.

    (B, T-1, C, h, w) -> (B, T, N, C)
    """
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
    """Average the weighted patches of both frames of every pair (Eq. 7, 3a).

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

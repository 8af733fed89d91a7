"""The temporal modules that the papers compare, each behind the interface of ILA's own (`alignment_ila.py`).

What is unusual about them:
- A layer of CLIP stays a layer of CLIP. A module changes what its spatial attention sees, or what comes out of it;
  everything else, weights included, is equal for all modules.
- Wherever possible the last new layer is initialised with 0, so that a tower begins as plain CLIP.
- Modules that cannot tell the order of frames otherwise add positions (`HAS_FRAME_POSITIONS`). Shift, GTA and ILA
  have the order in their structure; "average" ignores it.

Complexities are per layer, beyond the spatial attention's O(T h^2 w^2 d), as the paper's Table 15 counts them. What
a module costs is what it adds to plain frames (37.5 GMACs, 97.7 M parameters) on B/32 with 8 frames, all layers.

Shapes: `B` videos, `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `L = 1 + N` tokens, class token first,
`D` width.
"""

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPAttention

from .configuration_ila import IlaVisionConfig
from .pairs_ila import Past


try:
    from scipy.optimize import linear_sum_assignment
except ImportError:  # only "ata" needs it
    linear_sum_assignment = None


class TemporalOutput(NamedTuple):
    """Hold the output of a temporal module.

    hidden_states: the frames, (B, T, L, D), for the layer's residual connections.
    tokens: the input of the spatial attention, (B, T, L or more, D); the layer drops its results after the first L.
        With (B, 1, T * L, D) all frames see each other.
    loss: the alignment loss, a scalar in float32 or better; None for modules without one.
    points: the interactive points, (B, T-1, 2, 2): previous/current, x/y; None for modules without them.
    kept: what a stream keeps of the frames so far for those to come, (B, 1, ...); None for modules that keep nothing.
    """

    hidden_states: torch.Tensor
    tokens: torch.Tensor
    loss: torch.Tensor | None = None
    points: torch.Tensor | None = None
    kept: torch.Tensor | None = None


class TemporalModule(nn.Module):
    """Define the interface of all temporal modules: a layer calls both methods, and a module overrides one of them."""

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Run before the spatial attention, on (B, T, L, D) with height * width = L - 1; kwargs go to attentions.

        A module that can go on with a stream takes `past`, too: what it kept (`kept`) of the frames before.
        """
        return TemporalOutput(hidden_states, hidden_states)

    def after_attention(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Run between the spatial attention and the MLP: (B, T, L, D) -> (B, T, L, D)."""
        return hidden_states


class ZeroLinear(nn.Linear):
    """Compute a linear layer that is initialised with 0, so that a tower starts as plain CLIP."""

    def init_own_weights(self, factor: float) -> None:
        """Set weight and bias to 0; `factor` has no effect on that."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


# -- one more token --------------------------------------------------------------------------------------------------


class AverageToken(TemporalModule):
    """Add a token to each frame, the mean of its patches: Eq. 3a without alignment (Table 4, "Average Pooling").

    It looks at no other frame, and so shows what ILA's token gains by its mask. O(T h w d).
    It costs 0.2 GMACs and no parameters.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Append the mean of the patches to the tokens: (B, T, L, D) -> tokens (B, T, L + 1, D)."""
        token = hidden_states[:, :, 1:].mean(2, keepdim=True)  # (B, T, 1, D)
        return TemporalOutput(hidden_states, torch.cat([hidden_states, token], dim=2))


class MessageToken(TemporalModule):
    """Add X-CLIP's message to each frame as one more token (Ni et al. 2022; Figure 3b of the ILA paper).

    The class tokens, through a linear layer, attend to each other over the frames, with a residual connection; what
    each frame gets joins its spatial attention. Equals transformers' `XCLIPVisionModel`. O(T^2 d + T d^2).
    It costs 0.5 GMACs, 35.5 M parameters.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.message = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CLIPAttention(config)
        self.drop_path = StochasticDepth(config.drop_path_of(layer_index), mode="row")

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Append each frame's message to the tokens: (B, T, L, D) -> tokens (B, T, L + 1, D)."""
        messages = self.message(hidden_states[:, :, 0])  # (B, T, D)
        attended, _ = self.attention(self.norm(messages), **kwargs)
        messages = messages + self.drop_path(attended)
        return TemporalOutput(hidden_states, torch.cat([hidden_states, messages[:, :, None]], dim=2))


# -- mixing without attention ----------------------------------------------------------------------------------------


class Shift(TemporalModule):
    """Shift channels in time in what the spatial attention sees (Lin et al. 2019; Table 4, "Temporal Shift").

    One part in `shift_division` of the channels comes from the frame before, one from the frame after; beyond the clip
    there are zeros. The residual connection keeps the frame itself. No parameters, no multiplications. With
    `alignment_causal` the channels of the frame after stay the frame's own (the paper's online shift).
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.channels, self.causal = config.hidden_size // config.shift_division, config.alignment_causal

    def forward(
        self, hidden_states: torch.Tensor, height: int, width: int, past: Past | None = None, **kwargs: Any
    ) -> TemporalOutput:
        """Shift channels by one frame: (B, T, L, D) -> tokens (B, T, L, D); the hidden states stay."""
        before, after, rest = hidden_states.split(
            [self.channels, self.channels, hidden_states.shape[-1] - 2 * self.channels], dim=-1
        )
        earliest = (past or Past()).before(torch.zeros_like(before[:, :1]))
        from_before = torch.cat([earliest, before[:, :-1]], dim=1)
        from_after = after if self.causal else F.pad(after[:, 1:], (0, 0, 0, 0, 0, 1))
        tokens = torch.cat([from_before, from_after, rest], dim=-1)
        return TemporalOutput(hidden_states, tokens, kept=before[:, -1:])


class GlobalTemporalAttention(TemporalModule):
    """Mix frames by GTA (He et al. 2021), after the spatial attention: learned T x T matrices replace attention.

    With V = LN(X) W_V, for single positions (pixels) and for K learned regions of each frame:

        Y = X + (M_P V_P) W_P + G^T (M_R V_R) W_R        Eq. 5, 6;  V_R from the regions G X,  G = W_G LN(X)^T

    Cross-channel multi-head (Eq. 7, 8): V has G groups of channels, every head takes a matrix of its own for each of
    them and adds up; as many heads as groups give D channels again. Pixels are all L tokens, regions are made of the
    N patches; G is divided by the root of N, so that sums do not grow with the picture. W_P, W_R start with 0.
    The matrices are of the configured number of frames and interpolated for another on loading.
    O(T h w d^2 + T^2 h w d G + T h w d K). It costs 15.6 GMACs, 29.4 M parameters.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        width, groups, frames = config.hidden_size, config.gta_groups, config.num_frames
        regions = width // 8 if config.gta_regions is None else config.gta_regions
        self.groups = groups
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pixel_value, self.region_value = nn.Linear(width, width), nn.Linear(width, width)
        self.regions = nn.Linear(width, regions, bias=False)  # W_G
        self.pixel_weights = nn.Parameter(torch.empty(groups, groups, frames, frames))  # head, group, to, from
        self.region_weights = nn.Parameter(torch.empty(groups, groups, frames, frames))
        self.pixel_out, self.region_out = ZeroLinear(width, width), ZeroLinear(width, width)

    def init_own_weights(self, factor: float) -> None:
        """Draw the T x T matrices with a deviation of `factor` / sqrt(groups * T)."""
        for weights in (self.pixel_weights, self.region_weights):
            init.normal_(weights, std=factor * (weights.shape[1] * weights.shape[3]) ** -0.5)

    def after_attention(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Add what positions and regions gather from all frames: (B, T, L, D) -> (B, T, L, D)."""
        normed = self.norm(hidden_states)  # (B, T, L, D)
        patches = normed[:, :, 1:]
        pixels = self.pixel_out(self._mix(self.pixel_weights, self.pixel_value(normed)))
        grouping = self.regions(patches) * patches.shape[2] ** -0.5  # (B, T, N, K): G transposed
        of_regions = grouping.mT @ patches  # (B, T, K, D)
        of_regions = self._mix(self.region_weights, self.region_value(of_regions))
        regions = self.region_out(grouping @ of_regions)  # (B, T, N, D)
        return hidden_states + pixels + F.pad(regions, (0, 0, 1, 0))

    def _mix(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Compute Eq. 7 and 8: (heads, groups, T, T) and (B, T, n, D) -> (B, T, n, D)."""
        values = values.unflatten(-1, (self.groups, -1))  # (B, T, n, groups, D / groups)
        return torch.einsum("kgts,bsngc->btnkc", weights, values).flatten(-2)


# -- attention over time ---------------------------------------------------------------------------------------------


class JointAttention(TemporalModule):
    """Let every token see every token of all frames, by the spatial attention's weights (TimeSformer's "joint").

    Frame positions give the order. O(T^2 h^2 w^2 d). It costs 2.6 GMACs and no parameters but the positions.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Put all frames into one sequence: (B, T, L, D) -> tokens (B, 1, T * L, D)."""
        return TemporalOutput(hidden_states, hidden_states.flatten(1, 2)[:, None])  # (B, 1, T * L, D)


class TemporalAttention(nn.Module):
    """Attend over the frames at each position, with a residual connection: (B, T, N, D) -> (B, T, N, D)."""

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CLIPAttention(config)
        self.projection = ZeroLinear(config.hidden_size, config.hidden_size)
        self.drop_path = StochasticDepth(config.drop_path_of(layer_index), mode="row")

    def forward(self, patches: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Map patches (B, T, N, D) to (B, T, N, D); each attends to the patches at its position in all frames."""
        over_time = self.norm(patches).transpose(1, 2)  # (B, N, T, D)
        attended, _ = self.attention(over_time.flatten(0, 1), **kwargs)
        attended = self.projection(attended).unflatten(0, over_time.shape[:2]).transpose(1, 2)
        return patches + self.drop_path(attended)


class DividedAttention(TemporalModule):
    """Attend over time at each patch, then in space, as TimeSformer does (Bertasius et al. 2021; Figure 3a).

    The class tokens, one per frame here as in CLIP, take part in space only. Frame positions give the order.
    O(T^2 h w d + T h w d^2). It costs 13.9 GMACs, 35.5 M parameters.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.attention = TemporalAttention(config, layer_index)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Attend over time at each patch: (B, T, L, D) -> hidden states (B, T, L, D); the class tokens stay."""
        patches = self.attention(hidden_states[:, :, 1:], **kwargs)
        hidden_states = torch.cat([hidden_states[:, :, :1], patches], dim=2)
        return TemporalOutput(hidden_states, hidden_states)


class AlignedAttention(TemporalModule):
    """Attend over time along routes of matched patches, as ATA does (Zhao et al. 2022).

    The patches of each frame are matched one to one with those of its predecessor such that the sum of cosines is
    largest (Kuhn-Munkres; Eq. 6, 18), rearranged accordingly from the second frame on (Eq. 3), attended to over time,
    and put back (Eq. 7). `ata_dealignment=False` leaves them rearranged (Table 3 there). Matching has no gradient
    and no parameters; it runs on the CPU, exactly, wherever the model is. O(T h^3 w^3 + T^2 h w d + T h w d^2).
    It costs 13.9 GMACs, 35.5 M parameters, and the matching, which multiplies nothing.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.attention = TemporalAttention(config, layer_index)
        self.dealignment = config.ata_dealignment

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Attend over time along the routes: (B, T, L, D) -> hidden states (B, T, L, D); the class tokens stay."""
        class_token, patches = hidden_states[:, :, :1], hidden_states[:, :, 1:]
        routes = aligned_routes(patches)
        patches = self.attention(rearranged(patches, routes), **kwargs)
        if self.dealignment:
            patches = rearranged(patches, routes.argsort(-1))
        hidden_states = torch.cat([class_token, patches], dim=2)
        return TemporalOutput(hidden_states, hidden_states)


def rearranged(patches: torch.Tensor, routes: torch.Tensor) -> torch.Tensor:
    """Put patch `routes[b, t, n]` in place n: (B, T, N, D) and (B, T, N) -> (B, T, N, D)."""
    return patches.gather(2, routes[..., None].expand_as(patches))


@torch.compiler.disable
@torch.no_grad()
def aligned_routes(patches: torch.Tensor) -> torch.Tensor:
    """Find the patch of each frame on each route: (B, T, N, D) -> (B, T, N) indices, a permutation for every frame.

    Route n starts at patch n of the first frame. Neighbouring frames are matched before any rearrangement, and the
    permutations are then composed along the clip.

    Raises:
        ImportError: SciPy is not installed.
        NotImplementedError: in a model that is exported (`torch.export`, ONNX, `torch.jit.trace`). The program would
            hold the routes of the example, or none.
    """
    if linear_sum_assignment is None:
        raise ImportError('`temporal_module="ata"` needs SciPy: `pip install scipy`.')
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        raise NotImplementedError(
            '`temporal_module="ata"` cannot be exported: SciPy matches the patches of each video on the CPU, which no '
            "exported program can. Every other temporal module can be exported."
        )
    batch_size, num_frames, num_patches, _ = patches.shape
    if patches.is_meta:  # costs are counted there, and there is nothing to match
        return torch.arange(num_patches, device="meta").expand(batch_size, num_frames, -1)
    with torch.autocast(patches.device.type, enabled=False):
        unit = F.normalize(patches.float(), dim=-1)
        cosines = unit[:, :-1] @ unit[:, 1:].mT  # (B, T-1, N, N): of the frame before, of the frame
    costs = cosines.nan_to_num().cpu().numpy()  # an overflow's loss is not finite, either: the scaler passes over it
    routes = torch.empty(batch_size, num_frames, num_patches, dtype=torch.long)
    routes[:, 0] = torch.arange(num_patches)
    for video in range(batch_size):
        for frame in range(1, num_frames):
            matched = torch.from_numpy(linear_sum_assignment(costs[video, frame - 1], maximize=True)[1])
            routes[video, frame] = matched[routes[video, frame - 1]]
    return routes.to(patches.device)


TEMPORAL_MODULES = {
    "average": AverageToken,
    "shift": Shift,
    "message": MessageToken,
    "divided": DividedAttention,
    "joint": JointAttention,
    "ata": AlignedAttention,
    "gta": GlobalTemporalAttention,
}
HAS_FRAME_POSITIONS = ("divided", "joint", "ata")
HAS_FRAME_WEIGHTS = (*HAS_FRAME_POSITIONS, "gta")  # which are made for one number of frames
NEW_IN_TOWER = (".temporal.", "time_embedding")  # parts of the names of weights that an image tower does not have

"""The temporal modules that the papers compare, each behind the interface of ILA's own (`alignment_ila.py`).

What is unusual about them:
- One layer of CLIP stays one layer of CLIP; a module says what changes before its spatial attention sees the tokens,
  and what after. Everything else, weights included, is the same for all of them.
- What is new starts silent wherever that is possible (zero-initialised last layers): a tower begins as plain CLIP.
- Only the modules that need it know the order of frames by positions (`HAS_FRAME_POSITIONS`); shift, GTA and ILA have
  it in their structure, average has none.

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


try:
    from scipy.optimize import linear_sum_assignment
except ImportError:  # only "ata" needs it
    linear_sum_assignment = None


class TemporalOutput(NamedTuple):
    """What a module hands to its layer.

    hidden_states: of the frames, (B, T, L, D); they go on through the layer.
    tokens: what the spatial attention sees, (B, T, L or more, D); what lies behind the first L is dropped after it.
        (B, 1, T * L, D) lets all frames see each other.
    loss: of the alignment, scalar, at least float32; None where nothing is aligned by learning.
    points: interactive points, (B, T-1, 2, 2): previous/current, x/y; None likewise.
    """

    hidden_states: torch.Tensor
    tokens: torch.Tensor
    loss: torch.Tensor | None = None
    points: torch.Tensor | None = None


class TemporalModule(nn.Module):
    """What one layer does across frames: nothing, unless one of the two methods is overridden."""

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        """Before the spatial attention. hidden_states: (B, T, L, D); height * width = L - 1; kwargs: of attentions."""
        return TemporalOutput(hidden_states, hidden_states)

    def after_attention(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Between the spatial attention and the MLP. (B, T, L, D) -> (B, T, L, D)"""
        return hidden_states


class ZeroLinear(nn.Linear):
    """A linear layer initialised with 0, so that a tower starts as plain CLIP."""

    def init_own_weights(self, factor: float) -> None:
        init.zeros_(self.weight)
        init.zeros_(self.bias)


# -- one more token --------------------------------------------------------------------------------------------------


class AverageToken(TemporalModule):
    """One more token per frame, the mean of its patches: Eq. 3a without alignment (Table 4, "Average Pooling").

    It looks at no other frame; it tells what ILA's token gains by its mask. O(T h w d).
    Costs 0.2 GMACs, no parameters.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        token = hidden_states[:, :, 1:].mean(2, keepdim=True)  # (B, T, 1, D)
        return TemporalOutput(hidden_states, torch.cat([hidden_states, token], dim=2))


class MessageToken(TemporalModule):
    """X-CLIP's message (Ni et al. 2022; Figure 3b of the ILA paper): one more token per frame.

    The class tokens, through a linear layer, attend to each other over the frames, with a residual connection; what
    each frame gets joins its spatial attention. Equals transformers' `XCLIPVisionModel`. O(T^2 d + T d^2).
    Costs 0.5 GMACs, 35.5 M parameters.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.message = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CLIPAttention(config)
        self.drop_path = StochasticDepth(config.drop_path_of(layer_index), mode="row")

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        messages = self.message(hidden_states[:, :, 0])  # (B, T, D)
        attended, _ = self.attention(self.norm(messages), **kwargs)
        messages = messages + self.drop_path(attended)
        return TemporalOutput(hidden_states, torch.cat([hidden_states, messages[:, :, None]], dim=2))


# -- mixing without attention ----------------------------------------------------------------------------------------


class Shift(TemporalModule):
    """Temporal shift (Lin et al. 2019) of what the spatial attention sees (Table 4, "Temporal Shift").

    One part in `shift_division` of the channels comes from the frame before, one from the frame after; beyond the clip
    there are zeros. The residual connection keeps the frame itself. No parameters, no multiplications.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.channels = config.hidden_size // config.shift_division

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        before, after, rest = hidden_states.split(
            [self.channels, self.channels, hidden_states.shape[-1] - 2 * self.channels], dim=-1
        )
        from_before = F.pad(before[:, :-1], (0, 0, 0, 0, 1, 0))
        from_after = F.pad(after[:, 1:], (0, 0, 0, 0, 0, 1))
        return TemporalOutput(hidden_states, torch.cat([from_before, from_after, rest], dim=-1))


class GlobalTemporalAttention(TemporalModule):
    """GTA (He et al. 2021), after the spatial attention: learned T x T matrices in place of attention.

    With V = LN(X) W_V, for single positions (pixels) and for K learned regions of each frame:

        Y = X + (M_P V_P) W_P + G^T (M_R V_R) W_R        Eq. 5, 6;  V_R from the regions G X,  G = W_G LN(X)^T

    Cross-channel multi-head (Eq. 7, 8): V has G groups of channels, every head takes a matrix of its own for each of
    them and adds up; as many heads as groups give D channels again. Pixels are all L tokens, regions are made of the
    N patches; G is divided by the root of N, so that sums do not grow with the picture. W_P, W_R start with 0.
    The matrices are of the configured number of frames and interpolated for another on loading.
    O(T h w d^2 + T^2 h w d G + T h w d K). Costs 15.6 GMACs, 29.4 M parameters.
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
        for weights in (self.pixel_weights, self.region_weights):
            init.normal_(weights, std=factor * (weights.shape[1] * weights.shape[3]) ** -0.5)

    def after_attention(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = self.norm(hidden_states)  # (B, T, L, D)
        patches = normed[:, :, 1:]
        pixels = self.pixel_out(self._mix(self.pixel_weights, self.pixel_value(normed)))
        grouping = self.regions(patches) * patches.shape[2] ** -0.5  # (B, T, N, K): G transposed
        of_regions = grouping.mT @ patches  # (B, T, K, D)
        of_regions = self._mix(self.region_weights, self.region_value(of_regions))
        regions = self.region_out(grouping @ of_regions)  # (B, T, N, D)
        return hidden_states + pixels + F.pad(regions, (0, 0, 1, 0))

    def _mix(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Eq. 7 and 8: (heads, groups, T, T) and (B, T, n, D) -> (B, T, n, D)"""
        values = values.unflatten(-1, (self.groups, -1))  # (B, T, n, groups, D / groups)
        return torch.einsum("kgts,bsngc->btnkc", weights, values).flatten(-2)


# -- attention over time ---------------------------------------------------------------------------------------------


class JointAttention(TemporalModule):
    """Every token sees every token of all frames, with the weights of the spatial attention (TimeSformer's "joint").

    Order is known by frame positions. O(T^2 h^2 w^2 d). Costs 2.6 GMACs, no parameters
    but those.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        return TemporalOutput(hidden_states, hidden_states.flatten(1, 2)[:, None])  # (B, 1, T * L, D)


class TemporalAttention(nn.Module):
    """Attention over the frames at each position, with a residual connection: (B, T, N, D) -> (B, T, N, D)."""

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CLIPAttention(config)
        self.projection = ZeroLinear(config.hidden_size, config.hidden_size)
        self.drop_path = StochasticDepth(config.drop_path_of(layer_index), mode="row")

    def forward(self, patches: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        over_time = self.norm(patches).transpose(1, 2)  # (B, N, T, D)
        attended, _ = self.attention(over_time.flatten(0, 1), **kwargs)
        attended = self.projection(attended).unflatten(0, over_time.shape[:2]).transpose(1, 2)
        return patches + self.drop_path(attended)


class DividedAttention(TemporalModule):
    """TimeSformer's divided attention (Bertasius et al. 2021; Figure 3a): over time at each patch, then in space.

    The class tokens, one per frame here as in CLIP, take part in space only. Order is known by frame positions.
    O(T^2 h w d + T h w d^2). Costs 13.9 GMACs, 35.5 M parameters.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.attention = TemporalAttention(config, layer_index)

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        patches = self.attention(hidden_states[:, :, 1:], **kwargs)
        hidden_states = torch.cat([hidden_states[:, :, :1], patches], dim=2)
        return TemporalOutput(hidden_states, hidden_states)


class AlignedAttention(TemporalModule):
    """ATA (Zhao et al. 2022): attention over time along routes of matched patches.

    The patches of each frame are matched one to one with those of its predecessor such that the sum of cosines is
    largest (Kuhn-Munkres; Eq. 6, 18), rearranged accordingly from the second frame on (Eq. 3), attended to over time,
    and put back (Eq. 7). `ata_dealignment=False` leaves them rearranged (Table 3 there). Matching has no gradient
    and no parameters; it runs on the CPU, exactly, wherever the model is. O(T h^3 w^3 + T^2 h w d + T h w d^2).
    Costs 13.9 GMACs, 35.5 M parameters, and the matching, which multiplies nothing.
    """

    def __init__(self, config: IlaVisionConfig, layer_index: int) -> None:
        super().__init__()
        self.attention = TemporalAttention(config, layer_index)
        self.dealignment = config.ata_dealignment

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, **kwargs: Any) -> TemporalOutput:
        class_token, patches = hidden_states[:, :, :1], hidden_states[:, :, 1:]
        routes = aligned_routes(patches)
        patches = self.attention(rearranged(patches, routes), **kwargs)
        if self.dealignment:
            patches = rearranged(patches, routes.argsort(-1))
        hidden_states = torch.cat([class_token, patches], dim=2)
        return TemporalOutput(hidden_states, hidden_states)


def rearranged(patches: torch.Tensor, routes: torch.Tensor) -> torch.Tensor:
    """Patch `routes[b, t, n]` at place n: (B, T, N, D) and (B, T, N) -> (B, T, N, D)."""
    return patches.gather(2, routes[..., None].expand_as(patches))


@torch.compiler.disable
@torch.no_grad()
def aligned_routes(patches: torch.Tensor) -> torch.Tensor:
    """Which patch of each frame lies on each route: (B, T, N, D) -> (B, T, N) indices, a permutation for every frame.

    Route n starts at patch n of the first frame. Rearranging a frame rearranges its matching with the next one in the
    same way, so all pairs are matched as they are, and the permutations are then followed along the clip.

    Raises:
        ImportError: SciPy is not installed.
    """
    if linear_sum_assignment is None:
        raise ImportError('`temporal_module="ata"` needs SciPy: `pip install scipy`.')
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
NEW_IN_TOWER = (".temporal.", "time_embedding")  # parts of the names of what an image tower does not have

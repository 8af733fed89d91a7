"""What a network does over time, layer by layer, for one clip: routes of patches, weights, regions, attentions.

The network runs once, and hooks read what enters its layers. Attentions are computed from there by the layer's own
queries and keys, as the "eager" implementation does, and only for what is asked: nothing of the model is switched.

Shapes: `T` frames, `h`, `w` patch rows and columns, `N = h * w` patches row after row, `D` width, `K` regions.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...backbones.frozen_clip import FrozenClipForVideoClassification
from ...backbones.siglip import SiglipForVideoClassification, in_eval_mode
from ...backbones.timesformer import AlignedTimesformerLayer
from ...model.temporal_ila import aligned_routes
from ..layer_patches import by_frame, grid_of, keeps_routes, layers_of


TEMPORAL_WHAT = ("routes", "weights", "regions", "frame_attention", "query_attention")
KINDS = {  # by name, as a checkpoint may have brought code of its own
    "AlignedAttention": "ata",
    "DividedAttention": "divided",
    "JointAttention": "joint",
    "GlobalTemporalAttention": "gta",
}

NOT_ATA = "No layer attends along these matches: they are what ATA's rule would match in this model."
ONE_TO_ONE = "Matches are one to one: a patch without a counterpart in the next frame gets one all the same."
LEFT_ALIGNED = "The model leaves patches on their routes; pictures put each where it was in its own frame."
NO_EFFECT = (
    "What is read over time adds nothing to the frames yet: the weights behind it are 0, as before any training."
)
LEARNED = "GTA's weights over time are learned: they are the same for every video and every place."
READS = "Attention says what a layer reads, not what the label hangs on."


@dataclass(frozen=True)
class TemporalInspection:
    """Hold what `inspect_temporal` found, on the CPU in float32 (indices: int64); layers that lack it are left out.

    grid: patch rows and columns (h, w).
    routes: for each layer the patch of each frame on each route, (T, N); route n starts at patch n of the first frame.
    similarities: for each layer the cosines of the patches that neighbouring frames have on a route, (T-1, N).
    aligned: the layers of `routes` in which the model itself attends along the routes (ATA).
    weights: for each layer with GTA its T x T matrices, "pixels" and "regions": row the frame that gets, column the
        frame that gives; the mean over groups and heads, as absolute values (GTA's Figure 15).
    regions: for each layer with GTA how much each patch belongs to each region, (T, K, h, w), of either sign.
    frame_attention: for each layer of the frame integration (heads, T, T): row the frame that reads.
    query_attention: for each layer what a patch reads, the mean over the heads, as far as the layer has it:
        "spatial" (h, w) in its frame, "temporal" (T,) over the frames, "spatiotemporal" (T, h, w) of all frames;
        "elsewhere", the share of the spatial (spatiotemporal) attention that goes to tokens that are no patches;
        "route" (T,), with ATA the patches that the temporal attention reads. With GTA "temporal" are learned weights.
    query: the patch that `query_attention` is about: frame, row, column.
    notes: sentences on what this does not mean.
    """

    grid: tuple[int, int]
    routes: dict[int, torch.Tensor] = field(default_factory=dict)
    similarities: dict[int, torch.Tensor] = field(default_factory=dict)
    aligned: tuple[int, ...] = ()
    weights: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    regions: dict[int, torch.Tensor] = field(default_factory=dict)
    frame_attention: dict[int, torch.Tensor] = field(default_factory=dict)
    query_attention: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    query: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()


def inspect_temporal(
    model: Any,
    pixel_values: torch.Tensor,
    *,
    what: str | Sequence[str] = TEMPORAL_WHAT[:1],
    layers: int | Iterable[int] | None = None,
    query: Sequence[int] | None = None,
) -> TemporalInspection:
    """Run a model on one clip and return what it does over time.

    Modes, attention implementation and random numbers of the model stay as they are; there are no gradients.

    Args:
        model: any classifier of this package, also a fused or an adapted one.
        pixel_values: (1, T, C, H, W), from the model's processor.
        what: one or several of `TEMPORAL_WHAT`. "routes" exist for every model: in layers without ATA they are what
            ATA's rule would match there.
        layers: indices of the tower's layers, negative ones from the end; by default all that have what is asked
            ("routes": of a model with ATA, its layers with ATA). Of the frame integration all layers are returned.
        query: frame, row and column of the patch that "query_attention" is about; by default the patch in the middle
            of the frame in the middle.

    Raises:
        ValueError: something else in `what`, or what this model or these layers do not have; a layer or a query that
            does not exist; a query where no attention is asked for; other shapes; no model of this package.
    """
    asked = (what,) if isinstance(what, str) else tuple(what)
    unknown = [name for name in asked if name not in TEMPORAL_WHAT]
    if unknown or not asked:
        raise ValueError(f"`what` is {what!r}; allowed: one or several of {', '.join(TEMPORAL_WHAT)}.")
    if query is not None and "query_attention" not in asked:
        raise ValueError(f'`query` is {tuple(query)}; it has an effect on "query_attention" only, asked: {asked}.')
    if not isinstance(pixel_values, torch.Tensor) or pixel_values.ndim != 5 or len(pixel_values) != 1:
        shape = tuple(pixel_values.shape) if isinstance(pixel_values, torch.Tensor) else type(pixel_values).__name__
        raise ValueError(f"`pixel_values` must be one clip, (1, frames, channels, height, width), got {shape}.")
    watch = _Watch(_unwrapped(model), pixel_values, asked, layers, query)
    if asked != ("weights",):
        watch.run(pixel_values)
    return watch.found()


def _unwrapped(model: Any) -> Any:
    """Return the classifier in an adapter (PEFT), or the model itself."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(model, "get_video_features") or not (
        hasattr(model, "vision_model") or hasattr(model, "timesformer")
    ):
        raise ValueError(f"`model` must be a video classifier of this package, got {type(model).__name__}.")
    return model


class _Watch:
    """Watch one run of a model: hooks of its layers call the methods, in the order of the network."""

    def __init__(
        self,
        model: Any,
        pixel_values: torch.Tensor,
        asked: tuple[str, ...],
        layers: int | Iterable[int] | None,
        query: Sequence[int] | None,
    ) -> None:
        self.model, self.asked = model, asked
        self.is_timesformer = hasattr(model, "timesformer")
        self.tower: list[Any] = layers_of(model)
        self.num_frames, (height, width) = pixel_values.shape[1], pixel_values.shape[-2:]
        self.grid = grid_of(model, height, width)
        self.first = 0 if isinstance(model, SiglipForVideoClassification) else 1  # patch of a frame's tokens
        size = getattr(getattr(model.config, "vision_config", model.config), "image_size", None)
        self.other_size = isinstance(size, int) and {height, width} != {size}
        self.chosen = self._choose(layers)
        self.query = self._check_query(query) if "query_attention" in asked else None
        self.routes: dict[int, torch.Tensor] = {}
        self.similarities: dict[int, torch.Tensor] = {}
        self.regions: dict[int, torch.Tensor] = {}
        self.frame_attention: dict[int, torch.Tensor] = {}
        self.query_attention: dict[int, dict[str, torch.Tensor]] = {
            index: {} for index in self.chosen["query_attention"]
        }
        self.order = torch.arange(self.num_patches).repeat(self.num_frames, 1)  # (T, N): the patch in each place
        self.query_place = 0  # of the query among the places of the spatial attention
        self.query_route: torch.Tensor | None = None  # the patches of its route, (T,)

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _choose(self, layers: int | Iterable[int] | None) -> dict[str, list[int]]:
        """Return the layers that each thing is asked of."""
        count = len(self.tower)
        given = None if layers is None else [layers] if isinstance(layers, int) else list(layers)
        wrong = [index for index in given or () if not is_whole(index) or not -count <= index < count]
        if wrong or given == []:
            raise ValueError(f"`layers` is {given}; allowed: one or several of 0 to {count - 1}, or -{count} to -1.")
        chosen: dict[str, list[int]] = {name: [] for name in TEMPORAL_WHAT}
        for name in self.asked:
            if name == "frame_attention":
                self._require_integration()
                continue
            having = layers_with(self.model, name)
            chosen[name] = having if given is None else sorted({index % count for index in given})
            if name in ("weights", "regions"):
                self._require_gta(name, chosen[name], having)
        return chosen

    def _require_gta(self, name: str, chosen: list[int], having: list[int]) -> None:
        lacking = [index for index in chosen if index not in having]
        if lacking or not having:
            none, where = "has none", 'models with `temporal_module="gta"` have them'
            if having:
                none, where = f"layers {lacking} have none", f"its layers {having} have them"
            raise ValueError(f'"{name}" are GTA\'s, and of this {_named(self.model)} {none}; {where}.')

    def _require_integration(self) -> None:
        if getattr(self.model, "mit", None) is not None:
            return
        how = "averages the frames' features (mit_num_hidden_layers=0)"
        if self.is_timesformer:
            how = "has one class token for all frames"
        elif isinstance(self.model, FrozenClipForVideoClassification):
            how = "gathers the frames by a decoder"
        elif isinstance(self.model, SiglipForVideoClassification):
            how = "averages the frames' features"
        raise ValueError(
            '"frame_attention" is the attention of the frame integration over frames, and this '
            f"{_named(self.model)} {how}; models with `mit_num_hidden_layers` of 1 or more have it."
        )

    def _check_query(self, query: Sequence[int] | None) -> tuple[int, int, int]:
        sizes = (self.num_frames, *self.grid)
        if query is None:
            return sizes[0] // 2, sizes[1] // 2, sizes[2] // 2
        whole = [index for index in query if is_whole(index)]
        if len(query) != 3 or len(whole) != 3 or not all(0 <= index < size for index, size in zip(whole, sizes)):
            allowed = ", ".join(f"{name} 0 to {size - 1}" for name, size in zip(("frame", "row", "column"), sizes))
            raise ValueError(f"`query` is {tuple(query)}; allowed: {allowed}.")
        return whole[0], whole[1], whole[2]

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self, pixel_values: torch.Tensor) -> None:
        """Run the model with hooks on its layers."""
        weight = next(weight for weight in self.model.parameters() if weight.is_floating_point())
        options = {"interpolate_pos_encoding": True} if self.other_size and not self.is_timesformer else {}
        with ExitStack() as stack, in_eval_mode(self.model):
            for index, layer in enumerate(self.tower):
                self._watch(stack, layer, self._layer_begins, index)
                if index not in self.query_attention:
                    continue
                self._watch(stack, spatial_attention(layer), self._spatial_attention, index)
                if kind_of(layer) in ("ata", "divided"):
                    self._watch(stack, temporal_attention(layer), self._temporal_attention, index)
            for index in self.chosen["regions"]:
                grouping = self.tower[index].temporal.regions
                stack.callback(grouping.register_forward_hook(self._regions_of(index)).remove)
            if "frame_attention" in self.asked:
                for index, layer in enumerate(self.model.mit.encoder.layers):
                    self._watch(stack, layer.self_attn, self._integration, index)
            self.model.get_video_features(pixel_values.to(weight.device, weight.dtype), **options)

    def _watch(self, stack: ExitStack, module: nn.Module, method: Callable[..., None], index: int) -> None:
        """Call `method` with index, module and what enters the module before it runs, until the stack is closed."""

        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            method(index, module, args[0] if args else kwargs["hidden_states"])

        stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def _layer_begins(self, index: int, layer: Any, hidden_states: torch.Tensor) -> None:
        """Match the patches as they enter a layer, where that is asked or where the layer itself does."""
        is_ata, before = kind_of(layer) == "ata", self.order
        if self.query is not None:
            frame, row, column = self.query
            self.query_place = int((before[frame] == row * self.grid[1] + column).nonzero())
        if index not in self.chosen["routes"] and not (is_ata and (self.query is not None or keeps_routes(layer))):
            return
        patches = by_frame(self.model, hidden_states, self.num_frames, self.num_patches)[0]  # (T, N, D)
        places = aligned_routes(patches[None])[0]  # as the layer itself does, on its own input
        unit = F.normalize(patches.float().gather(1, places[..., None].expand_as(patches)), dim=-1)
        places = places.cpu()
        routes = before.gather(1, places)
        if index in self.chosen["routes"]:
            self.routes[index] = routes
            self.similarities[index] = (unit[:-1] * unit[1:]).sum(-1).cpu()
        if not is_ata:
            return
        if self.query is not None:
            route = int((places[self.query[0]] == self.query_place).nonzero())
            self.query_route = routes[:, route]
        if keeps_routes(layer):
            self.order = routes
        if self.query is not None and keeps_routes(layer):
            self.query_place = route

    def _temporal_attention(self, index: int, attention: nn.Module, hidden_states: torch.Tensor) -> None:
        """Read the weights over frames of (N, T, D), which are places, or with ATA routes."""
        frame, row, column = self.query or (0, 0, 0)
        found, sequence = self.query_attention[index], row * self.grid[1] + column
        if kind_of(self.tower[index]) == "ata" and self.query_route is not None:
            found["route"] = self.query_route
            sequence = int(self.query_route[0])  # routes are named by their places in the first frame
        found["temporal"] = attention_of(attention, hidden_states[sequence], frame)

    def _spatial_attention(self, index: int, attention: nn.Module, hidden_states: torch.Tensor) -> None:
        """Read the weights over tokens of (T, n, D), or with "joint" of (1, T * n, D)."""
        frame, found = (self.query or (0,))[0], self.query_attention[index]
        token, is_joint = self.first + self.query_place, kind_of(self.tower[index]) == "joint"
        if is_joint:
            tokens = hidden_states.shape[1] // self.num_frames
            weights = attention_of(attention, hidden_states[0], frame * tokens + token).unflatten(0, (-1, tokens))
        else:
            weights = attention_of(attention, hidden_states[frame], token)[None]
        patches = weights[:, self.first : self.first + self.num_patches]  # (T or 1, N)
        found["elsewhere"] = (1 - patches.sum()).clamp(min=0)
        if is_joint:
            found["spatiotemporal"] = patches.unflatten(1, self.grid)
        else:
            found["spatial"] = (
                torch.empty_like(patches[0]).scatter(0, self.order[frame], patches[0]).unflatten(0, self.grid)
            )

    def _integration(self, index: int, attention: nn.Module, hidden_states: torch.Tensor) -> None:
        self.frame_attention[index] = attentions_of(attention, hidden_states[0])

    def _regions_of(self, index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, grouping: torch.Tensor) -> None:
            scaled = grouping[0].float() * self.num_patches**-0.5  # (T, N, K), as the module scales it
            self.regions[index] = scaled.mT.unflatten(-1, self.grid).cpu()

        return hook

    # -- what was found -----------------------------------------------------------------------------------------------

    def found(self) -> TemporalInspection:
        """Return everything, with the notes that belong to it."""
        weights = {index: learned_weights(self.tower[index]) for index in self.chosen["weights"]}
        for index, attention in self.query_attention.items():
            if kind_of(self.tower[index]) == "gta" and self.query is not None:
                attention["temporal"] = learned_weights(self.tower[index])["pixels"][self.query[0]]
        aligned = tuple(index for index in self.routes if kind_of(self.tower[index]) == "ata")
        return TemporalInspection(
            self.grid,
            self.routes,
            self.similarities,
            aligned,
            weights,
            self.regions,
            self.frame_attention,
            self.query_attention,
            self.query,
            tuple(self._notes(aligned)),
        )

    def _notes(self, aligned: tuple[int, ...]) -> list[str]:
        watched = {*aligned, *self.chosen["weights"], *self.chosen["regions"], *self.query_attention}
        layers = [self.tower[index] for index in sorted(watched)]
        kinds = {kind_of(layer) for layer in layers}
        said = {
            NOT_ATA: bool(self.routes) and not aligned,
            ONE_TO_ONE: bool(self.routes),
            LEFT_ALIGNED: any(keeps_routes(layer) for layer in layers),
            LEARNED: "gta" in kinds,
            NO_EFFECT: bool(kinds & {"ata", "divided", "gta"}) and not any(map(has_effect, layers)),
            READS: bool(self.query_attention or self.frame_attention),
        }
        return [note for note, holds in said.items() if holds]


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def layers_with(model: Any, name: str) -> list[int]:
    """Return the layers of a model's tower that are inspected by default for a thing of `TEMPORAL_WHAT`.

    "routes": those with ATA, or all of a model without; "weights", "regions": those with GTA; else all.
    """
    kinds = [kind_of(layer) for layer in layers_of(model)]
    wanted = {"routes": "ata", "weights": "gta", "regions": "gta"}.get(name)
    having = [index for index, kind in enumerate(kinds) if wanted in (None, kind)]
    return [*range(len(kinds))] if name == "routes" and not having else having


# -- parts of a layer ------------------------------------------------------------------------------------------------


def kind_of(layer: Any) -> str:
    """Return what a layer of a tower does over time: "ata", "divided", "joint", "gta", or "" for anything else."""
    if isinstance(layer, AlignedTimesformerLayer):
        return {"ata": "ata", "own": "divided"}.get(layer.temporal_module, "")
    return KINDS.get(type(getattr(layer, "temporal", None)).__name__, "")


def has_effect(layer: Any) -> bool:
    """Return whether a layer's temporal part has other output weights than the zeros that it starts with."""
    if isinstance(layer, AlignedTimesformerLayer):
        return layer.temporal_module in ("ata", "own") and bool(layer.temporal_dense.weight.any())
    if kind_of(layer) == "gta":
        return bool(layer.temporal.pixel_out.weight.any() or layer.temporal.region_out.weight.any())
    return kind_of(layer) in ("ata", "divided") and bool(layer.temporal.attention.projection.weight.any())


def spatial_attention(layer: Any) -> Any:
    """Return the attention of a layer within frames, or with "joint" in all of them."""
    return layer.attention.attention if isinstance(layer, AlignedTimesformerLayer) else layer.self_attn


def temporal_attention(layer: Any) -> Any:
    """Return the attention over time of a layer that has one ("ata", "divided")."""
    is_timesformer = isinstance(layer, AlignedTimesformerLayer)
    return (layer.temporal_attention if is_timesformer else layer.temporal.attention).attention


def learned_weights(layer: Any) -> dict[str, torch.Tensor]:
    """Return GTA's T x T matrices: the mean over groups and heads, as absolute values."""
    module = layer.temporal
    both = {"pixels": module.pixel_weights, "regions": module.region_weights}
    return {name: weights.detach().float().mean((0, 1)).abs().cpu() for name, weights in both.items()}


def attentions_of(attention: Any, hidden_states: torch.Tensor, token: int | None = None) -> torch.Tensor:
    """Compute the attention probabilities of one sequence, (n, D) -> (heads, n, n), or of one token (heads, n)."""
    queries, keys = _queries_and_keys(attention, hidden_states)  # (heads, n, d)
    if token is not None:
        queries = queries[:, token : token + 1]
    weights = (queries @ keys.mT * attention.scale).softmax(-1).cpu()
    return weights if token is None else weights[:, 0]


def attention_of(attention: Any, hidden_states: torch.Tensor, token: int) -> torch.Tensor:
    """Compute what one token reads, the mean over the heads: (n, D) -> (n,)."""
    return attentions_of(attention, hidden_states, token).mean(0)


def _queries_and_keys(attention: Any, hidden_states: torch.Tensor) -> list[torch.Tensor]:
    if hasattr(attention, "qkv"):  # TimeSformer's
        projected = attention.qkv(hidden_states).chunk(3, dim=-1)[:2]
    else:
        projected = (attention.q_proj(hidden_states), attention.k_proj(hidden_states))
    return [part.float().unflatten(-1, (attention.num_heads, -1)).transpose(0, 1) for part in projected]


def _named(model: Any) -> str:
    """Name a model's class and its temporal module, for errors."""
    config = model.config if hasattr(model, "timesformer") else model.config.vision_config
    module = getattr(config, "temporal_module", None)
    return type(model).__name__ + (f" (temporal_module={module!r})" if module else "")

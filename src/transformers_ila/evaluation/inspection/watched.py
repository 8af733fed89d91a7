"""What layers give while a model computes, reduced to maps and numbers as it comes by."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ...model.pairs_ila import pairs_to_frames
from ..frame_information import earth_movers_distance, mutual_information
from ..layer_patches import alignments_of, handed_on, layers_of, watch_patches, watch_points


OF_ALIGNMENT = ("points", "masks")
OF_PAIRS = ("information", "distances")
OF_PATCHES = ("features", *OF_PAIRS)


class Watched:
    """Collect what layers give while a model computes on one clip, reduced as it comes.

    Args:
        network: a classifier of this package.
        grid: patch rows and columns of what it is given.
        asked: some of `OF_ALIGNMENT` and `OF_PATCHES`; other names are passed over.
        reduce: how features become a map: "mean" over the channels, or their "norm".
    """

    def __init__(self, network: Any, grid: tuple[int, int], asked: Sequence[str], reduce: str = "mean") -> None:
        self.network, self.grid, self.asked, self.reduce = network, grid, asked, reduce
        self.alignments = alignments_of(network)
        self.points: dict[int, torch.Tensor] = {}
        self.masks: dict[int, torch.Tensor] = {}
        self.features: dict[int, torch.Tensor] = {}
        self.information: dict[int, torch.Tensor] = {}
        self.distances: dict[int, torch.Tensor] = {}

    @contextmanager
    def watching(self, layers: Sequence[int], num_frames: int) -> Iterator[None]:
        """Watch these layers of the network while it computes in this block."""
        with ExitStack() as stack:
            if not {*OF_PATCHES}.isdisjoint(self.asked):
                patches = math.prod(self.grid)
                stack.enter_context(watch_patches(self.network, [*layers], num_frames, patches, self.see_patches))
            if not {*OF_ALIGNMENT}.isdisjoint(self.asked):
                aligning = {layer: self.alignments[layer] for layer in layers if layer in self.alignments}
                stack.enter_context(watch_points(aligning, self.see_points))
            yield

    def see_patches(self, layer: int, patches: torch.Tensor) -> None:
        """Reduce the output of a layer, (1, T, N, D)."""
        if "features" in self.asked:
            maps = torch.stack([self._map_of(frame) for frame in patches[0]])  # one by one, as they grow in float32
            self.features[layer] = maps.unflatten(1, self.grid).cpu()
        measures = {"information": mutual_information, "distances": earth_movers_distance}
        wanted = {name: measure for name, measure in measures.items() if name in self.asked}
        if wanted and layer == len(layers_of(self.network)) - 1:
            patches = handed_on(self.network, patches)
        for name, measure in wanted.items():
            pairs = [measure(patches[:, first : first + 2])[0, 0] for first in range(patches.shape[1] - 1)]
            getattr(self, name)[layer] = torch.stack(pairs).float().cpu()

    def _map_of(self, patches: torch.Tensor) -> torch.Tensor:
        values = patches.float()
        return values.mean(-1) if self.reduce == "mean" else values.norm(dim=-1)

    def see_points(self, layer: int, points: torch.Tensor) -> None:
        """Give each frame the point and the mask of its pair: (pairs, 2, 2)."""
        alignment = self.alignments[layer]
        masks = alignment.pairs.masks(points[None], *self.grid)
        for name, of_pairs in (("points", points[None]), ("masks", masks)):
            if name not in self.asked:
                continue
            if getattr(alignment, "causal", False):  # T pairs, and each frame is the current one of one
                of_frames = of_pairs[0, :, 1]
            else:
                of_frames = pairs_to_frames(of_pairs, alignment.pairing)[0]
            getattr(self, name)[layer] = of_frames.float().cpu()

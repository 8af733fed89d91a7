"""What the layers of a tower say of each patch, and where ILA's alignment looks, seen while a model computes.

What is unusual here:
- Each kind of tower lays its tokens out in its own way; what comes out here is (B, T, N, D) for all.
- Nothing is kept: a layer's patches are handed on as they come, so memory is that of one layer.

Shapes: `B` videos, `T` frames, `N` patches, `D` width.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..backbones.siglip import SiglipForVideoClassification
from ..backbones.siglip_configuration import sides
from ..model.alignment_ila import ImplicitAlignment, ResidualAlignment
from ..model.temporal_ila import aligned_routes, rearranged


See = Callable[[int, torch.Tensor], None]
Alignment = ImplicitAlignment | ResidualAlignment


def layers_of(model: Any) -> list[nn.Module]:
    """Return the layers of a classifier's tower, first to last."""
    if hasattr(model, "timesformer"):
        return [*model.timesformer.encoder.layer]
    return [*model.vision_model.encoder.layers]


def grid_of(model: Any, height: int, width: int) -> tuple[int, int]:
    """Return how many rows and columns of patches the tower cuts frames of height x width pixels into."""
    vision = getattr(model.config, "vision_config", model.config)
    down, across = sides(vision.patch_size)
    return height // down, width // across


def keeps_routes(layer: Any) -> bool:
    """Return whether a layer with ATA leaves the patches rearranged (`ata_dealignment=False`)."""
    return not getattr(getattr(layer, "temporal", None), "dealignment", True)


@contextmanager
def watch_patches(model: Any, layers: list[int], num_frames: int, num_patches: int, see: See) -> Iterator[None]:
    """Call `see` with a layer's index and its output, (B, T, N, D), whenever the layer has computed in this block.

    Args:
        model: a classifier of this package.
        layers: indices of the layers that are watched.
        num_frames, num_patches: T and N of what the model is given.
        see: is given the patches as the layer returns them, without class token, registers and any norm behind it,
            row after row: those that ATA left on their routes (`ata_dealignment=False`) are put back.
    """
    all_layers = layers_of(model)
    order: torch.Tensor | None = None  # (B, T, N): the patch that lies in each place, once layers have moved them

    def move(module: nn.Module, args: Any) -> None:
        nonlocal order
        routes = aligned_routes(args[0][:, :, 1:])
        order = routes if order is None else order.gather(2, routes)

    def hook_of(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tokens = output[0] if isinstance(output, tuple) else output
            patches = by_frame(model, tokens.detach(), num_frames, num_patches)
            see(index, patches if order is None else rearranged(patches, order.argsort(-1)))

        return hook

    with ExitStack() as stack:
        for layer in all_layers:
            if keeps_routes(layer):
                stack.callback(layer.temporal.register_forward_pre_hook(move).remove)  # type: ignore[union-attr,operator]
        for index in layers:
            stack.callback(all_layers[index].register_forward_hook(hook_of(index)).remove)
        yield


def by_frame(model: Any, tokens: torch.Tensor, num_frames: int, num_patches: int) -> torch.Tensor:
    """Return a layer's patches frame by frame, (B, T, N, D)."""
    if hasattr(model, "timesformer"):  # (B, 1 + N * T, D), patch by patch
        return tokens[:, 1:].unflatten(1, (num_patches, num_frames)).transpose(1, 2)
    if isinstance(model, SiglipForVideoClassification):  # (B * T, N, D), without a class token
        return tokens.unflatten(0, (-1, num_frames))
    return tokens[:, :, 1 : 1 + num_patches]  # (B, T, L + R, D)


def handed_on(model: Any, patches: torch.Tensor) -> torch.Tensor:
    """Return what a tower hands on of its last layer's patches, of any shape (..., D).

    TimeSformer, SigLIP and towers that begin without a norm (an ImageNet ViT, DINOv2) have a norm there.
    """
    if hasattr(model, "timesformer"):
        return model.timesformer.layernorm(patches)
    if isinstance(model, SiglipForVideoClassification) or not model.config.vision_config.pre_layer_norm:
        return model.vision_model.post_layernorm(patches)
    return patches


# -- alignments ------------------------------------------------------------------------------------------------------


def alignments_of(model: Any) -> dict[int, Alignment]:
    """Return the alignments of a model: the layer's index -> the module in it.

    Those in a frozen CLIP's decoder count as the tower's layers' whose features they align, unless the tower aligns
    itself.
    """
    layers = layers_of(model)
    found = {index: module for index, layer in enumerate(layers) if (module := _alignment_in(layer)) is not None}
    if not found and hasattr(model, "decoder"):
        of_decoder = [_alignment_in(layer) for layer in model.decoder.layers]
        first = len(layers) - len(of_decoder)
        found = {first + index: module for index, module in enumerate(of_decoder) if module is not None}
    return found


def _alignment_in(layer: nn.Module) -> Any:
    """Return the alignment in a layer, also of a class that came with a checkpoint (`trust_remote_code`), or None."""
    return next((module for module in layer.modules() if hasattr(getattr(module, "pairs", None), "point_head")), None)


@contextmanager
def watch_points(alignments: dict[int, Alignment], see: See) -> Iterator[None]:
    """Call `see` with a layer's index and the points of its pairs, (B * pairs, 2, 2), when they have been predicted.

    Index 0 of the first 2 is the previous frame and 1 the current one, of the second x and y, in [-1, 1]. There are
    T-1 pairs, in a causal tower T: there the first frame is a pair with itself.
    """

    def hook_of(index: int) -> Callable[..., None]:
        return lambda module, args, output: see(index, output.detach())

    with ExitStack() as stack:
        for index, alignment in alignments.items():
            stack.callback(alignment.pairs.point_head.register_forward_hook(hook_of(index)).remove)
        yield

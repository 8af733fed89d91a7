"""What a model sees in a video, layer by layer: all that pictures are drawn from, in one call.

What is unusual here:
- The model itself is never touched: its layers are watched in a copy of its modules on the same weights, so modes,
  attention and other threads that use the model are left alone.
- Maps are made where a layer's output comes by, and no more than one layer's features is in memory.
- With the numbers come sentences that say what they do not mean (`Inspection.notes`).

Shapes: `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `D` width of the tower.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
import transformers

from ...backbones.siglip import SiglipForVideoClassification
from ...model.validation_ila import MULTI_LABEL
from ...model.video_processing_ila import IlaVideoProcessor
from ...version import __version__
from ..inference import check_logits, evaluating, probabilities
from ..layer_patches import alignments_of, grid_of, layers_of
from ..options import InferenceOptions
from ..report import fingerprint
from .clips import Clip, View, num_frames_of, read_clip, require_frames, see, see_same
from .models import Opened, open_model, private_copy, with_own_names
from .notes import notes_of
from .result import Inspection
from .temporal_inspection import TEMPORAL_WHAT, inspect_temporal
from .watched import OF_ALIGNMENT, OF_PAIRS, OF_PATCHES, Watched


WHAT = (*OF_ALIGNMENT, *OF_PATCHES, *TEMPORAL_WHAT)
REDUCTIONS = ("mean", "norm")
BEST = 5  # labels


def inspect_video(
    model: Any,
    processor: Any,
    video: Any,
    *,
    layers: int | Sequence[int] | None = None,
    what: str | Sequence[str] | None = None,
    start: float | None = None,
    end: float | None = None,
    seed: int | None = None,
    reduce: str = "mean",
    query: Sequence[int] | None = None,
) -> Inspection:
    """Look at what a model sees in a video: one clip, one centre crop.

    Args:
        model: a classifier of this package, or the folder or Hub id of one.
        processor: of the model; None: the one beside its weights, or one of its configuration.
        video: what `IlaVideoProcessor` takes as one video.
        layers: indices of layers, of which negative ones count from the last; None: all that have what is asked for.
        what: one or several of `WHAT`; None: features, and points and masks where the model has them.
        start, end: seconds of the video, between which the frames are taken; None: its start, its end.
        seed: from it and the video's name frames are drawn at random; None: not at random.
        reduce: how features become a map: "mean" over the channels, or their "norm".
        query: frame, row and column of the patch that "query_attention" is about, as in `inspect_temporal`.

    Raises:
        ValueError: what a model does not have, such as points without ILA; layers or seconds that are not there; a
            video that cannot be read (`VideoDecodingError`).
    """
    how: dict[str, Any] = {"layers": layers, "what": what, "reduce": reduce, "query": query}
    return inspect_same_frames([(model, processor)], video, start=start, end=end, seed=seed, **how)[0]


def inspect_same_frames(
    models: Sequence[tuple[Any, Any]],
    video: Any,
    *,
    layers: int | Sequence[int] | Callable[[Any], Sequence[int] | None] | None = None,
    what: str | Sequence[str] | None = None,
    start: float | None = None,
    end: float | None = None,
    seed: int | None = None,
    reduce: str = "mean",
    query: Sequence[int] | None = None,
) -> list[Inspection]:
    """Look at what several models see in the very same frames, which the first one's processor chooses.

    Args:
        models: pairs of a model and its processor, each as in `inspect_video`.
        layers: as in `inspect_video`, or a function that returns such indices of each model.
        others: as in `inspect_video`.

    Models whose processors would show them another part of the frames are shown the first one's, stretched to their
    size; a note says so.

    Raises:
        ValueError: as in `inspect_video`, and models that take other numbers of frames.
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}.")
    asked = _asked(what)
    if asked is not None and "features" not in asked and reduce != REDUCTIONS[0]:
        raise ValueError(f'reduce={reduce!r} has an effect on "features" alone; what is asked for is {asked}.')
    if query is not None and "query_attention" not in (asked or ()):
        raise ValueError(f'query={query} has an effect on "query_attention" alone; what is asked for is {asked}.')
    opened = with_own_names([open_model(model, processor) for model, processor in models])
    if not opened:
        raise ValueError("No model was given to look into; allowed: one or more.")
    clip = read_clip(opened[0].processor, video, start=start, end=end, seed=seed, num_frames=num_frames_of(opened))
    first = see(opened[0].processor, clip)
    seen = [first, *(see_same(one, opened[0], clip, first) for one in opened[1:])]
    require_frames(opened, clip)
    chosen = [layers(one.model) if callable(layers) else layers for one in opened]
    how: dict[str, Any] = {"asked": asked, "reduce": reduce, "query": query}
    return [_inspect(one, clip, view, layers=own, **how) for one, view, own in zip(opened, seen, chosen)]


def _asked(what: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if what is None:
        return None
    asked = tuple(what) if isinstance(what, Iterable) and not isinstance(what, str) else (what,)
    wrong = [name for name in asked if name not in WHAT]
    if wrong or not asked:
        raise ValueError(f"what must be one or several of {', '.join(WHAT)}, got {what!r}.")
    return asked


def _inspect(
    opened: Opened,
    clip: Clip,
    view: View,
    *,
    layers: int | Sequence[int] | None,
    asked: tuple[str, ...] | None,
    reduce: str,
    query: Sequence[int] | None,
) -> Inspection:
    model, processor, name = opened[:3]
    grid = grid_of(model, *view.views.shape[-2:])
    frames = len(clip.indices)
    aligning = [*alignments_of(model)]
    chosen = _chosen_layers(model, layers, asked or ("features",), aligning)
    if asked is None:
        asked = ("features", *(OF_ALIGNMENT if {*aligning} & {*chosen} and frames > 1 else ()))
    _require_pairs(asked, frames)
    with ExitStack() as stack:
        network = stack.enter_context(evaluating(private_copy(model), InferenceOptions(fuse=False))).module
        pixels = processor.normalize_on(network.device, view.views)[None].to(network.dtype)
        watched = Watched(network, grid, asked, reduce)
        stack.enter_context(watched.watching(chosen, frames))
        outputs = network.get_video_features(pixels)
        labels = _labels(network, outputs, clip.name) if opened.has_classes else []
    of_time = [name for name in asked if name in TEMPORAL_WHAT]
    temporal = None
    if of_time:
        given = None if layers is None else chosen
        temporal = inspect_temporal(network, pixels, what=of_time, layers=given, query=query)
    shown, crop = _covered(view, grid, model, processor)
    about = {
        "model": name,
        "fingerprint": fingerprint(model),
        "transformers_ila": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "device": str(network.device),
        "dtype": str(network.dtype).removeprefix("torch."),
        "video": clip.name,
        "start": clip.start,
        "end": clip.end,
        "seed": clip.seed,
        "frames": clip.indices,
        "times": None if clip.times is None else [round(time, 6) for time in clip.times],
        "crop": [round(side, 3) for side in crop],
        "what": [*asked],
        "layers": chosen,
        **({"reduce": reduce} if "features" in asked else {}),
        "labels": [[label, round(score, 6)] for label, score in labels],
    }
    inspection = Inspection(
        video=clip.name,
        model=name,
        labels=labels,
        frames=shown,
        times=None if clip.times is None else torch.tensor(clip.times, dtype=torch.float32),
        indices=clip.indices,
        size=clip.size,
        crop=crop,
        grid=grid,
        layers=tuple(chosen),
        points=watched.points,
        masks=watched.masks,
        features=watched.features,
        information=watched.information,
        distances=watched.distances,
        temporal=temporal,
        about=about,
    )
    notes = notes_of(model, processor, clip, inspection)
    if view.other:
        notes.append(f"{name} is shown the part of the frames that {view.other} sees, stretched to its own size.")
    return replace(inspection, notes=tuple(notes))


def _chosen_layers(
    model: Any, layers: int | Sequence[int] | None, asked: Sequence[str], aligning: Sequence[int]
) -> list[int]:
    """Return the indices of the layers to look at, ascending; raise a ValueError for those that are not there."""
    count = len(layers_of(model))
    of_alignment = [name for name in asked if name in OF_ALIGNMENT]
    if of_alignment and not aligning:
        module = getattr(getattr(model.config, "vision_config", model.config), "temporal_module", "none")
        raise ValueError(
            f"This {type(model).__name__} (temporal_module={module!r}) aligns nothing, so it has no "
            f'{" and ".join(of_alignment)}: models with temporal_module="ila" have, in one layer or more.'
        )
    if layers is None:
        return [*aligning] if len(of_alignment) == len(asked) else [*range(count)]
    given = [*layers] if isinstance(layers, Iterable) else [layers]
    if not given or not all(_is_layer(layer, count) for layer in given):
        raise ValueError(f"layers must be whole numbers from {-count} to {count - 1}, got {layers!r}.")
    chosen = sorted({int(layer) % count for layer in given})
    without = [layer for layer in chosen if layer not in aligning]
    if of_alignment and without:
        raise ValueError(f"Of the layers {chosen}, {without} align nothing; those that do: {[*aligning]}.")
    return chosen


def _is_layer(layer: Any, count: int) -> bool:
    return isinstance(layer, Integral) and not isinstance(layer, bool) and -count <= int(layer) < count


def _require_pairs(asked: Sequence[str], frames: int) -> None:
    of_pairs = [name for name in asked if name in (*OF_ALIGNMENT, *OF_PAIRS)]
    if of_pairs and frames < 2:
        raise ValueError(
            f"{', '.join(of_pairs)} are of pairs of frames, and the clip has {frames}; allowed: 2 or more."
        )


def _labels(network: Any, outputs: Any, video: str) -> list[tuple[str, float]]:
    """Return the best labels of `get_video_features`' output and their probabilities; none of unnamed classes."""
    if isinstance(network, SiglipForVideoClassification) and network.class_embeds is None:
        return []
    logits = network.classify(outputs).float().cpu()
    check_logits(logits, [video])
    chances = probabilities(logits, multi_label=network.config.problem_type == MULTI_LABEL)[0]
    best = chances.topk(min(BEST, len(chances)))
    names = network.config.class_names
    return [(names[index], float(chance)) for chance, index in zip(best.values, best.indices.tolist())]


def _covered(
    view: View, grid: tuple[int, int], model: Any, processor: IlaVideoProcessor
) -> tuple[torch.Tensor, tuple[float, float, float, float]]:
    """Return the pixels, from 0 to 1, that lie in whole patches, and where they are in the video.

    A side that is no multiple of the patch's has a rest, which the model does not see.
    """
    height, width = view.views.shape[-2:]
    vision = getattr(model.config, "vision_config", model.config)
    size = vision.patch_size
    down, across = (size, size) if isinstance(size, int) else size
    rows, columns = grid[0] * down, grid[1] * across
    left, top, right, bottom = view.crop
    crop = (left, top, left + (right - left) * columns / width, top + (bottom - top) * rows / height)
    pixels = view.views[..., :rows, :columns]
    is_255 = not pixels.is_floating_point() or processor.do_rescale
    return (pixels.float() / (255 if is_255 else 1)).clamp(0, 1).cpu(), crop

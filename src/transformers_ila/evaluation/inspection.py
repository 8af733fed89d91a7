"""What a model sees in a video, layer by layer: all that pictures are drawn from, in one call.

What is unusual here:
- The model itself is never touched: its layers are watched in a copy of its modules on the same weights, so modes,
  attention and other threads that use the model are left alone.
- Maps are made where a layer's output comes by, and no more than one layer's features is in memory.
- With the numbers come sentences that say what they do not mean (`Inspection.notes`).

Shapes: `T` frames, `h`, `w` patch rows and columns, `N = h * w`, `D` width of the tower.
"""

import copy
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import PreTrainedConfig
from transformers.video_utils import VideoMetadata

from ..backbones.frozen_clip import FrozenClipForVideoClassification
from ..backbones.siglip import SiglipForVideoClassification
from ..backbones.zero_shot import PLAIN, load_zero_shot, zero_shot_processor
from ..model.configuration_ila import OF_PICTURES
from ..model.pairs_ila import pairs_to_frames
from ..model.pretrained_ila import describe_untrained, untrained_weights
from ..model.validation_ila import MULTI_LABEL, mixes_time
from ..model.video_frames_ila import frames_between, frames_first, in_memory, list_videos
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import read_timed, seconds_of
from ..model.video_urls_ila import is_url, redact
from ..version import __version__
from .frame_information import TEMPERATURE, earth_movers_distance, mutual_information
from .inference import (
    CLASSIFIERS,
    check_logits,
    evaluating,
    load_encoder,
    load_processor,
    load_trained,
    probabilities,
    require_checkpoint,
)
from .layer_patches import Alignment, alignments_of, grid_of, handed_on, layers_of, watch_patches, watch_points
from .options import InferenceOptions
from .report import fingerprint
from .temporal_inspection import TEMPORAL_WHAT, TemporalInspection, inspect_temporal
from .views import draw_seed, drawing_from


OF_ALIGNMENT = ("points", "masks")
OF_PAIRS = ("information", "distances")
OF_PATCHES = ("features", *OF_PAIRS)
WHAT = (*OF_ALIGNMENT, *OF_PATCHES, *TEMPORAL_WHAT)
REDUCTIONS = ("mean", "norm")
BEST = 5  # labels
CENTRE = 1e-6  # how far from it a point counts as standing in the centre


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Hold what a model saw in a video; all tensors are float32 on the CPU.

    video, model: their names, without folders and secrets.
    labels: the best five (name, probability), the best first; none of a model whose classes have no names.
    frames: the pixels that the model saw, (T, 3, H, W), from 0 to 1.
    times: when each frame is shown, (T,) seconds after the first frame of the video; None of frames without times.
    indices: of the frames in the video, T numbers.
    size: width and height of the upright video in pixels.
    crop: left, top, right and bottom of what the model saw, in these pixels. Where the processor pads, it is larger
        than the video, and the first two are below 0.
    grid: h and w.
    layers: indices of the layers that were looked at.
    points: layer -> (T, 2), the interactive point of each frame, x and y from -1, the centre of the first patch, to 1,
        that of the last: of the pair in which it is the current frame (`pairs_to_frames`). Of a causal tower the first
        frame's is that of its pair with itself.
    masks: layer -> (T, h, w), the alignment masks around these points.
    features: layer -> (T, h, w), the mean over the channels of the layer's output, or its norm.
    information: layer -> (T-1,), the mutual information of neighbouring frames in nats (`mutual_information`).
    distances: layer -> (T-1,), their earth mover's distance (`earth_movers_distance`). Both are, of the last layer, of
        what the tower hands on, as in `ila analyse`.
    temporal: what `inspect_temporal` found of the tower's temporal module; None if nothing of it was asked for.
    notes: sentences that say what the pictures do not mean.
    about: what they are made of: model, fingerprint, versions, seed, video, layers, frames; strings, numbers, lists.
    """

    video: str
    model: str
    labels: list[tuple[str, float]]
    frames: torch.Tensor
    times: torch.Tensor | None
    indices: list[int]
    size: tuple[int, int]
    crop: tuple[float, float, float, float]
    grid: tuple[int, int]
    layers: tuple[int, ...]
    points: dict[int, torch.Tensor] = field(default_factory=dict)
    masks: dict[int, torch.Tensor] = field(default_factory=dict)
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    information: dict[int, torch.Tensor] = field(default_factory=dict)
    distances: dict[int, torch.Tensor] = field(default_factory=dict)
    temporal: TemporalInspection | None = None
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


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
    layers: int | Sequence[int] | None = None,
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
    clip = read_clip(opened[0].processor, video, start=start, end=end, seed=seed, num_frames=_num_frames(opened))
    first = _see(opened[0].processor, clip)
    seen = [first, *(_see_same(one, opened[0], clip, first) for one in opened[1:])]
    _require_frames(opened, clip)
    how: dict[str, Any] = {"layers": layers, "asked": asked, "reduce": reduce, "query": query}
    return [_inspect(one, clip, view, **how) for one, view in zip(opened, seen)]


def _asked(what: str | Sequence[str] | None) -> tuple[str, ...] | None:
    if what is None:
        return None
    asked = tuple(what) if isinstance(what, Iterable) and not isinstance(what, str) else (what,)
    wrong = [name for name in asked if name not in WHAT]
    if wrong or not asked:
        raise ValueError(f"what must be one or several of {', '.join(WHAT)}, got {what!r}.")
    return asked


# -- the model -------------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """Hold a model, its processor, the model's name without the folder it lies in, and whether its classes mean any.

    folder: the name of the folder that it lies in, empty where there is none.
    """

    model: Any
    processor: IlaVideoProcessor
    name: str
    folder: str = ""
    has_classes: bool = True


def open_model(model: Any, processor: Any = None) -> Opened:
    """Return a model to look into, its processor and its name.

    Args:
        model: a classifier of this package, or the folder or Hub id of one; there it may also be CLIP, SigLIP or an
            image tower that nobody trained on videos, which have no classes then. What was opened is returned.
        processor: of the model; None: the one beside its weights on this machine, or one of its configuration.

    Raises:
        ValueError: no classifier of this package, or no processor of videos.
    """
    if isinstance(model, Opened):
        return model
    source, has_classes = getattr(model, "name_or_path", ""), True
    if isinstance(model, (str, Path)):
        source = model
        require_checkpoint(source)
        kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        has_classes = kind not in OF_PICTURES and kind not in PLAIN
        load: Any = load_zero_shot if kind in PLAIN and kind != "clip" else load_encoder
        model, own = load_trained(source) if has_classes else load(source)
        processor = own if processor is None else processor
    model = getattr(model, "_orig_mod", model)  # compiled: the program does not let its layers be watched
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # of PEFT, with its adapters in it
    if not (hasattr(model, "classify") and (hasattr(model, "vision_model") or hasattr(model, "timesformer"))):
        raise ValueError(
            f"Got a {type(model).__name__} to look into; allowed: {', '.join(CLASSIFIERS.values())}, or the folder or "
            "Hub id of one."
        )
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(f"Weights of this {type(model).__name__} are offloaded: load it onto one device.")
    if processor is None:
        processor = _processor_of(model)
    processor = getattr(processor, "video_processor", processor)
    if not hasattr(processor, "crop_of"):
        raise ValueError(f"Got a {type(processor).__name__} as processor; allowed: an IlaVideoProcessor, or None.")
    name, folder = str(source or ""), ""
    if os.path.isabs(name) or os.path.isdir(name):
        path = Path(os.path.abspath(name))
        name, folder = path.name, path.parent.name
    return Opened(model, processor, name or type(model).__name__, folder, has_classes)


def _processor_of(model: Any) -> IlaVideoProcessor:
    """Return the processor beside a model's weights, for the frames and the size that the model has now, or a new one.

    A new one is made where there is none on this machine.
    """
    source, config = getattr(model, "name_or_path", ""), model.config
    try:
        if source and hasattr(config, "vision_config"):
            return zero_shot_processor(source, config, local_files_only=True)
        if source and (own := load_processor(source, local_files_only=True)).num_frames == config.num_frames:
            return own
    except (OSError, ValueError):
        pass
    return IlaVideoProcessor.for_model(config)


def with_own_names(opened: Sequence[Opened]) -> list[Opened]:
    """Return models with names that differ: where several have one, with their folders', else with numbers."""
    counts = Counter(one.name for one in opened)
    names = [f"{one.folder}/{one.name}" if counts[one.name] > 1 and one.folder else one.name for one in opened]
    counts = Counter(names)
    names = [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names, 1)]
    return [one._replace(name=name) for one, name in zip(opened, names)]


def private_copy(model: Any) -> Any:
    """Return another tree of modules on the very same weights, so that hooks and modes on it are nobody else's."""
    if getattr(model, "_text_is_frozen", bool)() and model._may_keep_class_features():
        with torch.no_grad():
            model.class_text_features()  # which the model keeps; the copy would compute them every time
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    tokenizer = getattr(model, "tokenizer", None)
    return copy.deepcopy(model, {**shared, **({} if tokenizer is None else {id(tokenizer): tokenizer})})


# -- the frames ------------------------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """Hold the frames of one clip as they are in the video.

    name: of the video. frames: (T, C, H, W), uint8 or float32, perhaps scaled down. The rest as in `Inspection`.
    lost: number of frames of the video that are damaged. start, end, seed: as asked for.
    """

    name: str
    frames: torch.Tensor
    indices: list[int]
    times: list[float] | None
    size: tuple[int, int]
    lost: int
    start: float | None
    end: float | None
    seed: int | None


def read_clip(
    processor: IlaVideoProcessor,
    video: Any,
    *,
    start: float | None = None,
    end: float | None = None,
    seed: int | None = None,
    num_frames: int | None = None,
) -> Clip:
    """Read one clip's frames, which the processor chooses, with their times.

    Args:
        processor, video, start, end, seed: as in `inspect_video`.
        num_frames: T; None: the processor's.
    """
    _check_span(start, end)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise ValueError(f"seed must be a whole number of at least 0, or None for no random frames, got {seed!r}.")
    videos = list_videos(video)
    if len(videos) != 1:
        raise ValueError(f"One video is looked at at a time, got {len(videos)}.")
    source, name = videos[0], name_of_video(videos[0])
    part = seconds_of(source)
    if part is not None:
        if start is not None or end is not None:
            raise ValueError(
                f"start={start}, end={end} stand beside a video that has its own, {part}; give one of them."
            )
        start, end = part[0], part[1] if math.isfinite(part[1]) else None

    def rule(total: int, edges: Any = None) -> list[int]:
        if start is None and end is None:
            return _indices(processor, total, name, seed, num_frames)
        if edges is None:
            raise ValueError(f"start={start}, end={end} need a video whose frames have times, which {name} has not.")
        if (start or 0) >= edges[-1]:
            raise ValueError(f"start={start} lies behind the end of {name}, which is {edges[-1]:g} seconds long.")
        first, last = frames_between(edges, start or 0.0, math.inf if end is None else end)
        return [first + index for index in _indices(processor, last - first, name, seed, num_frames)]

    if in_memory(source):
        frames = frames_first(source, processor.input_data_format)
        if processor.do_rescale and frames.is_floating_point() and 0 < frames.max() <= 1:
            raise ValueError(
                "The frames' values end at 1, and the processor would divide them by 255: give values up to 255, or a "
                "processor with do_rescale=False."
            )
        as_is = len(frames) == (num_frames or processor.num_frames) and seed is None and start is None and end is None
        indices = [*range(len(frames))] if as_is else rule(len(frames))  # as the processor does
        size = (frames.shape[-1], frames.shape[-2])
        return Clip(name, frames[indices], indices, None, size, 0, start, end, seed)
    how: Any = processor.reader()
    array, metadata, times, size = read_timed(source, rule, **how.keywords)
    frames = torch.from_numpy(array).permute(0, 3, 1, 2)
    indices = [int(index) for index in metadata.frames_indices or ()]
    return Clip(name, frames, indices, times, size, metadata.frames_lost, start, end, seed)


def _indices(
    processor: IlaVideoProcessor, total: int, name: str, seed: int | None, num_frames: int | None
) -> list[int]:
    """Return which of so many frames one clip of the processor takes."""
    if not processor.do_sample_frames:
        return list(range(total))
    with drawing_from(draw_seed(seed or 0, name)):
        metadata = VideoMetadata(total_num_frames=total)
        return processor.sample_frames(
            metadata, num_frames=num_frames, num_clips=1, random_frames=seed is not None
        ).tolist()


def _check_span(start: float | None, end: float | None) -> None:
    for which, seconds in (("start", start), ("end", end)):
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (number and math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"{which} must be seconds of 0 or more, or None, got {seconds!r}.")
    if end is not None and end <= (start or 0):
        raise ValueError(f"end must lie behind start, got start={start}, end={end}.")


def name_of_video(source: Any) -> str:
    """Return a video's name without the folder it lies in, or what it is if it has none."""
    if isinstance(source, dict):
        source = source.get("path") or source.get("bytes")
    if in_memory(source):
        return f"{len(source)} frames in memory"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes in memory"
    if hasattr(source, "read"):
        source = getattr(source, "name", None)
        if not isinstance(source, (str, bytes)):
            return "file object"
    place = os.fsdecode(source)
    if is_url(place):
        return redact(place)
    return Path(os.path.abspath(place)).name


class View(NamedTuple):
    """Hold what one model sees of a clip.

    views: (T, 3, H, W) for `normalize_on`. crop: as in `Inspection`.
    other: the name of the model whose part of the frames it sees in place of its own; empty for its own.
    """

    views: torch.Tensor
    crop: tuple[float, float, float, float]
    other: str = ""


def _see(processor: IlaVideoProcessor, clip: Clip) -> View:
    height, width = clip.frames.shape[-2:]
    left, top, right, bottom = processor.crop_of(height, width)
    across, down = clip.size[0] / width, clip.size[1] / height  # the reader may have scaled them
    views = _preprocessed(processor, clip.frames)
    return View(views, (left * across, top * down, right * across, bottom * down))


def _preprocessed(processor: IlaVideoProcessor, frames: torch.Tensor, **options: Any) -> torch.Tensor:
    """Return what a model sees of frames (T, C, H, W) in one crop, (T, 3, H', W'), for `normalize_on`."""
    fixed = {"do_sample_frames": False, "num_clips": 1, "num_crops": 1, "random_frames": False}
    unscaled = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_first"}
    inputs = processor.preprocess(frames, return_tensors="pt", **fixed, **unscaled, **options)
    return inputs["pixel_values"][0]


def _num_frames(opened: Sequence[Opened]) -> int | None:
    """Return how many frames the models take, None where any number will do; a ValueError where they disagree."""
    fixed = {one.name: one.model.config.num_frames for one in opened if not _takes_any_number(one.model)}
    if len({*fixed.values()}) > 1:
        raise ValueError(
            f"The models take clips of other numbers of frames: {fixed}. Load them with one (`num_frames=...`)."
        )
    return next(iter(fixed.values()), None) if _takes_any_number(opened[0].model) else None


def _takes_any_number(model: Any) -> bool:
    if isinstance(model, SiglipForVideoClassification):
        return True
    vision = getattr(model.config, "vision_config", None)
    return vision is not None and vision.temporal_module == "none" and bool(vision.normalize_frames)


def _require_frames(opened: Sequence[Opened], clip: Clip) -> None:
    """Raise a ValueError where a model takes another number of frames than the clip has."""
    frames = len(clip.indices)
    for one in opened:
        if not _takes_any_number(one.model) and one.model.config.num_frames != frames:
            raise ValueError(
                f"{one.name} takes clips of {one.model.config.num_frames} frames, and the processor gives {frames}."
            )


def _see_same(one: Opened, other: Opened, clip: Clip, first: View) -> View:
    """Return the part of the frames that another model sees, as `first` says, in the form that this one takes.

    Where its own processor would show it another part, that part is cut out and stretched to the model's size.

    Raises:
        ValueError: the part reaches beyond the frames.
    """
    own = _see(one.processor, clip)
    pixel = max(_pixel(own), _pixel(first))  # cuts are rounded to pixels of the smaller picture
    if max(abs(a - b) for a, b in zip(own.crop, first.crop)) <= pixel:
        return own
    height, width = clip.frames.shape[-2:]
    across, down = clip.size[0] / width, clip.size[1] / height
    left, right = (round(side / across) for side in first.crop[::2])
    top, bottom = (round(side / down) for side in first.crop[1::2])
    if left < 0 or top < 0 or right > width or bottom > height:
        raise ValueError(
            f"{one.name} and {other.name} see other parts of the frames, and that of {other.name}, {first.crop}, "
            f"reaches beyond their {clip.size[0]} x {clip.size[1]} pixels: give both processors one crop."
        )
    sides = dict(zip(("height", "width"), own.views.shape[-2:]))
    shape = {} if one.processor.max_num_patches is not None else {"size": sides}
    part = clip.frames[..., top:bottom, left:right]
    stretched = _preprocessed(
        one.processor, part, do_center_crop=False, do_resize=True, scale_in_decoder=False, **shape
    )
    return View(stretched, (left * across, top * down, right * across, bottom * down), other.name)


def _pixel(view: View) -> float:
    """Return how many pixels of the video one of a model's is wide, or high if that is more."""
    left, top, right, bottom = view.crop
    return max((right - left) / view.views.shape[-1], (bottom - top) / view.views.shape[-2])


# -- looking ---------------------------------------------------------------------------------------------------------


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
    watched = Watched(asked, reduce)
    with ExitStack() as stack:
        network = stack.enter_context(evaluating(private_copy(model), InferenceOptions(fuse=False))).module
        pixels = processor.normalize_on(network.device, view.views)[None].to(network.dtype)
        watched.network, watched.grid = network, grid
        watched.predictors = {index: of for index, of in alignments_of(network).items() if index in chosen}
        if not {*OF_PATCHES}.isdisjoint(asked):
            stack.enter_context(watch_patches(network, chosen, frames, math.prod(grid), watched.see_patches))
        if not {*OF_ALIGNMENT}.isdisjoint(asked):
            stack.enter_context(watch_points(watched.predictors, watched.see_points))
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


class Watched:
    """Collect what layers give while the model computes, reduced as it comes."""

    network: Any
    grid: tuple[int, int]
    predictors: dict[int, Alignment]

    def __init__(self, asked: Sequence[str], reduce: str) -> None:
        self.asked, self.reduce = asked, reduce
        self.points: dict[int, torch.Tensor] = {}
        self.masks: dict[int, torch.Tensor] = {}
        self.features: dict[int, torch.Tensor] = {}
        self.information: dict[int, torch.Tensor] = {}
        self.distances: dict[int, torch.Tensor] = {}

    def see_patches(self, layer: int, patches: torch.Tensor) -> None:
        """Reduce the output of a layer, (1, T, N, D)."""
        if "features" in self.asked:
            maps = torch.stack(
                [self._map_of(frame) for frame in patches[0]]
            )  # frame by frame, as they grow in float32
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
        alignment = self.predictors[layer]
        masks = alignment.pairs.masks(points[None], *self.grid)
        for name, of_pairs in (("points", points[None]), ("masks", masks)):
            if name not in self.asked:
                continue
            if getattr(alignment, "causal", False):  # T pairs, and each frame is the current one of one
                of_frames = of_pairs[0, :, 1]
            else:
                of_frames = pairs_to_frames(of_pairs, alignment.pairing)[0]
            getattr(self, name)[layer] = of_frames.float().cpu()


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


# -- what it does not mean -------------------------------------------------------------------------------------------


def notes_of(model: Any, processor: IlaVideoProcessor, clip: Clip, inspection: Inspection) -> list[str]:
    """Return sentences that say what pictures of an inspection do not mean."""
    notes = []
    untrained = untrained_weights(model)
    if untrained:
        notes.append(f"The model is random in part: {describe_untrained(untrained, model.new_parameters)}.")
    if inspection.points or inspection.masks:
        notes += notes_of_alignment(model, inspection.points, inspection.masks)
    if inspection.features:
        high = {"mean": "mean over its channels", "norm": "norm"}[inspection.about["reduce"]]
        notes.append(f"A place with a high value has a high {high}; the label need not hang on it.")
    notes += _notes_of_tower(model, inspection)
    if inspection.information:
        notes.append(
            f"Mutual information takes the softmax of cosines over {TEMPERATURE} for what the paper leaves open."
        )
    if inspection.temporal is not None:
        notes += inspection.temporal.notes
    if not inspection.labels:
        notes.append("The model's classes have no names, so there is no label.")
    if getattr(model, "_has_placeholders", bool)():
        notes.append("Placeholders stand for the names of the classes, so the label means nothing.")
    notes += _notes_of_clip(processor, clip)
    return notes


def notes_of_alignment(model: Any, points: dict[int, torch.Tensor], masks: dict[int, torch.Tensor]) -> list[str]:
    """Return sentences that say what pictures of points and masks, as an inspection has them, do not mean."""
    config = next(iter(alignments_of(model).values())).pairs.config
    fusion, notes = config.alignment_fusion, []
    if fusion in ("interaction", "residual"):
        notes.append(
            f'The label does not hang on the points alone: with alignment_fusion="{fusion}" frames also exchange '
            "features that no mask weights."
        )
    else:
        notes.append("The label does not hang on the points alone: each frame also keeps all of its own patches.")
    if fusion == "residual":
        notes.append("A frame is weighted by the mean of its masks in all its pairs; shown is that as current frame.")
    if config.alignment_pairing != "adjacent":
        notes.append(f"Points and masks are of pairs with the {config.alignment_pairing} frame of the clip.")
    if not config.alignment_beta:
        notes.append("The masks are flat (alignment_beta=0), so it makes no difference where the points are.")
    centred = [layer for layer, of_layer in points.items() if of_layer.abs().max() < CENTRE]
    if centred:
        notes.append(
            f"In layers {', '.join(map(str, centred))} all points stand in the centre, where untrained ones begin."
        )
    if masks and config.alignment_jitter:
        notes.append("The masks are those of inference; in training they jitter around their points.")
    return notes


def _notes_of_tower(model: Any, inspection: Inspection) -> list[str]:
    if not (inspection.features or inspection.information or inspection.distances):
        return []
    if hasattr(model, "timesformer"):
        if all(layer.temporal_module == "none" for layer in layers_of(model)):
            return ["Frames see each other by the one class token alone: feature maps show hardly any motion."]
        return []
    mixes = not isinstance(model, SiglipForVideoClassification) and mixes_time(model.config.vision_config)
    notes = [] if mixes else ["No frame sees another in this tower: its feature maps show no motion."]
    if isinstance(model, FrozenClipForVideoClassification):
        trained = "only what is temporal in it was trained" if mixes else "its feature maps are of before the training"
        notes.append(f"The tower is CLIP's and frozen: {trained}.")
    return notes


def _notes_of_clip(processor: IlaVideoProcessor, clip: Clip) -> list[str]:
    notes = []
    repeated = len(clip.indices) - len(Counter(clip.indices))
    if repeated:
        notes.append(f"{repeated} of {len(clip.indices)} frames are repeats: there are not as many to choose from.")
    if clip.seed is not None:
        notes.append(f"The frames were drawn at random, from seed {clip.seed}.")
    if clip.lost:
        notes.append(f"{clip.lost} frames of the video are damaged.")
    if processor.num_clips * processor.num_crops > 1:
        notes.append(
            f"Shown is one clip with one centre crop; the processor gives {processor.num_clips} x "
            f"{processor.num_crops} views."
        )
    return notes

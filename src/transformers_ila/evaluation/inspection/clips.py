"""The frames of one clip with their times, and which part of them each model sees."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.video_utils import VideoMetadata

from ...backbones.siglip import SiglipForVideoClassification
from ...model.video_frames_ila import frames_between, frames_first, in_memory, list_videos
from ...model.video_processing_ila import IlaVideoProcessor
from ...model.video_reading_ila import read_timed, seconds_of
from ...model.video_urls_ila import is_url, redact
from ..views import draw_seed, drawing_from
from .models import Opened


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


def see(processor: IlaVideoProcessor, clip: Clip) -> View:
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


def num_frames_of(opened: Sequence[Opened]) -> int | None:
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


def require_frames(opened: Sequence[Opened], clip: Clip) -> None:
    """Raise a ValueError where a model takes another number of frames than the clip has."""
    frames = len(clip.indices)
    for one in opened:
        if not _takes_any_number(one.model) and one.model.config.num_frames != frames:
            raise ValueError(
                f"{one.name} takes clips of {one.model.config.num_frames} frames, and the processor gives {frames}."
            )


def see_same(one: Opened, other: Opened, clip: Clip, first: View) -> View:
    """Return the part of the frames that another model sees, as `first` says, in the form that this one takes.

    Where its own processor would show it another part, that part is cut out and stretched to the model's size.

    Raises:
        ValueError: the part reaches beyond the frames.
    """
    own = see(one.processor, clip)
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

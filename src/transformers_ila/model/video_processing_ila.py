"""Frames to `pixel_values`: which frames, which crops, which numbers.

What is unusual here:
- indices are pure functions of the number of frames and never fail on a short video: frames repeat instead;
- one video may give several views (clips x crops), then `pixel_values` is (B, V, T, C, H, W), clip-major;
- files are read by our own reader, so a video may be a path, a URL, bytes, a file object or a folder of images.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tvF
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_metadata

from .remote_code_ila import save_code
from .video_container_ila import MEDIA_FORMATS
from .video_reading_ila import ReadLimits, read_video
from .video_sampling_ila import INDEX_RULES


logger = logging.get_logger(__name__)


FRAME = (Image.Image, np.ndarray, torch.Tensor)
RESIZE_RATIO = 256 / 224  # short side before the centre crop : crop, as the release's tests have it


# -- the processor ---------------------------------------------------------------------------------------------------


class IlaVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """List the options of a call, and of the saved JSON, beside transformers' own.

    frame_sampling: "segments" | "uniform" | "dense", the rule that picks the frames (`INDEX_RULES`).
    frame_stride: frames between two frames of a dense clip.
    num_clips, num_crops: views of one video; more than one in all gives (B, V, T, C, H, W).
    random_frames: draw the frames at random, as in training.
    scale_in_decoder: let the reader scale frames while it converts them to RGB, which is faster; pixels differ a
        little from those of the release's preprocessing, so it is off unless asked for.
    read_limits: what reading one video may cost, as the arguments of `ReadLimits`; None means its defaults.
    """

    frame_sampling: str | None
    frame_stride: int | None
    num_clips: int | None
    num_crops: int | None
    random_frames: bool | None
    scale_in_decoder: bool | None
    read_limits: dict[str, int | float | str] | None


class IlaVideoProcessor(BaseVideoProcessor):
    """Turn videos into `pixel_values`: (B, T, C, H, W), or (B, V, T, C, H, W) with several views, clip-major.

    A video is a path, an http(s) URL, bytes, a binary file object, a dict with "path" or "bytes", a folder of frame
    images, a 4-D array or tensor (channels first or last), or a list of PIL images or 3-D arrays. A list of videos, of
    mixed kinds if need be, or a 5-D array is a batch. Frames in memory that already number `num_frames` are taken as
    they are, unless several clips or random frames are asked for.

    One crop: short side to `size`, centre crop. Several: short side to the crop, crops evenly along the long side.

    Raises:
        ValueError: a bad option or input; the message names what came and what is allowed.
        VideoDecodingError: (a ValueError) a file that cannot be read.
    """

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size: ClassVar[dict[str, int]] = {"shortest_edge": 256}
    default_to_square = False
    crop_size: ClassVar[dict[str, int]] = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = True
    num_frames = 8
    frame_sampling = "segments"
    frame_stride = 4
    num_clips = 1
    num_crops = 1
    random_frames = False
    scale_in_decoder = False
    read_limits: ClassVar[dict[str, int | float | str] | None] = None
    valid_kwargs = IlaVideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, **kwargs: Unpack[IlaVideoProcessorKwargs]) -> None:
        super().__init__(**kwargs)  # type: ignore[misc]
        _check_options(vars(self))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as `BaseVideoProcessor.save_pretrained` does, with the code of a processor from an exported folder."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        save_code(self, save_directory)
        return saved

    @classmethod
    def for_model(cls, config: Any, **kwargs: Any) -> "IlaVideoProcessor":
        """Make the processor that feeds a model of this configuration (`IlaConfig` or `IlaVisionConfig`).

        Frame count, crop and pixel normalisation follow the configuration. The short side is to the crop as 256 is
        to 224, as in the release. `kwargs` win over all.
        """
        config = getattr(config, "config", config)
        vision = getattr(config, "vision_config", None) or config
        size = vision.image_size
        height, width = (size, size) if isinstance(size, int) else size
        defaults: dict[str, Any] = {
            "num_frames": vision.num_frames,
            "crop_size": {"height": height, "width": width},
            "size": {"shortest_edge": round(max(height, width) * RESIZE_RATIO)},
        }
        defaults |= getattr(vision, "image_normalization", None) or {}
        return cls(**{**defaults, **kwargs})

    def preprocess(self, videos: Any, **kwargs: Unpack[IlaVideoProcessorKwargs]) -> BatchFeature:
        """Turn videos into `pixel_values`, as the class says; `kwargs` other than None override the settings."""
        for name in (*OPTION_CHECKS, "do_sample_frames"):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self, name)  # type: ignore[literal-required]
        _check_options(kwargs)
        _check_call({**vars(self), **kwargs})
        layout = kwargs.pop("input_data_format", None)
        reader = _reader({**vars(self), **kwargs})
        sources = [
            _frames_first(video, layout) if _in_memory(video) else partial(reader, video)
            for video in _list_videos(videos)
        ]
        return super().preprocess(sources, **kwargs, input_data_format=ChannelDimension.FIRST)

    def normalize_on(self, device: torch.device | str, views: torch.Tensor) -> torch.Tensor:
        """Send views to a device, then rescale and normalise them there, as a call of the processor does here.

        uint8 frames take a quarter of the bytes of the floats that they become, so they are sent first.

        Args:
            device: of the model.
            views: uint8 pixels of any shape (..., C, H, W), as a call with `do_rescale=False` and `do_normalize=False`
                returns them.

        Returns:
            float32 pixel values of the same shape, on the device.
        """
        mean, std = (tuple(v) if isinstance(v, list) else v for v in (self.image_mean, self.image_std))  # hashable
        scale, normalize = (self.do_rescale, self.rescale_factor), self.do_normalize
        return self.rescale_and_normalize(views.to(device), *scale, normalize, mean, std)

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        *,
        frame_sampling: str | None = None,
        frame_stride: int | None = None,
        num_clips: int | None = None,
        random_frames: bool | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return the frames to take, (num_clips * num_frames,) indices, clip after clip; None takes the setting."""
        _check_options({"fps": fps})
        sampling = self.frame_sampling if frame_sampling is None else frame_sampling
        clips = self.num_clips if num_clips is None else num_clips
        rule = partial(INDEX_RULES[sampling], num_frames=self.num_frames if num_frames is None else num_frames)
        if sampling == "dense":
            rule = partial(rule, stride=self.frame_stride if frame_stride is None else frame_stride)
        random = self.random_frames if random_frames is None else random_frames
        total = metadata.total_num_frames
        return np.concatenate([rule(total, clip=clip, num_clips=clips, random=random) for clip in range(clips)])

    def _decode_and_sample_videos(  # type: ignore[override]
        self,
        videos: list[Any],
        video_metadata: Any = None,
        do_sample_frames: bool | None = None,
        sample_indices_fn: Callable[..., np.ndarray] | None = None,
    ) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        """Turn frames, or readers of sources, into sampled frames (T', C, H, W), all clips' frames in turn."""
        known: list[Any]
        known = make_batched_metadata(videos, video_metadata) if video_metadata is not None else [None] * len(videos)
        options = sample_indices_fn.keywords if isinstance(sample_indices_fn, partial) else {}
        one_fixed_clip = options.get("num_clips") == 1 and not options.get("random_frames")

        def rule(total: int) -> list[int]:
            if sample_indices_fn is None:
                return list(range(total))
            return sample_indices_fn(metadata=VideoMetadata(total_num_frames=total)).tolist()

        sampled, all_metadata = [], []
        for video, metadata in zip(videos, known):
            if isinstance(video, torch.Tensor):
                height, width = video.shape[-2:]
                metadata = metadata or VideoMetadata(total_num_frames=len(video), height=height, width=width)
                as_is = one_fixed_clip and len(video) == options.get("num_frames")
                metadata.frames_indices = list(range(len(video))) if as_is else rule(len(video))
                frames = video[metadata.frames_indices]
            else:
                array, metadata = video(rule)
                frames = torch.from_numpy(array).permute(0, 3, 1, 2)
            sampled.append(frames)
            all_metadata.append(metadata)
        return sampled, all_metadata

    def convert_to_rgb(self, video: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Turn grey, RGB or RGBA frames (T, C, H, W) into RGB of the same dtype; alpha is laid over white."""
        if video.shape[-3] != 4:
            return tvF.grayscale_to_rgb(video)
        white = 255.0 if video.dtype == torch.uint8 or video.max() > 1 else 1.0
        alpha = video[:, 3:].float() / white
        blended = video[:, :3].float() * alpha + white * (1 - alpha)
        return (blended.round() if video.dtype == torch.uint8 else blended).to(video.dtype)

    def _preprocess(  # type: ignore[override]
        self,
        videos: list[torch.Tensor],
        *,
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        num_clips: int,
        num_crops: int,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Resize, crop and normalise; uint8 frames are cropped, so only pixels that the model sees become floats."""
        if num_crops > 1:
            size = SizeDict(shortest_edge=max(_sides(crop_size)))
        pixel_values = []
        for video in videos:
            if do_rescale and video.is_floating_point() and video.max() <= 1:
                logger.warning_once(
                    "Frames with values up to 1 are rescaled once more: pass do_rescale=False for them."
                )
            if do_resize:
                video = self.resize(video, size=size, resample=resample)
            crops = self._crop(video, crop_size, num_crops) if do_center_crop else [video]
            views = torch.stack([crop.unflatten(0, (num_clips, -1)) for crop in crops], dim=1)
            views = views.flatten(0, 1)  # (clips * crops, T, C, H, W)
            views = self.rescale_and_normalize(views, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            pixel_values.append(views[0] if len(views) == 1 else views)
        return BatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)

    def _crop(self, video: torch.Tensor, crop_size: SizeDict, num_crops: int) -> list[torch.Tensor]:
        """Cut out the centre, or several crops evenly from one end of the long side to the other."""
        if num_crops == 1:
            return [self.center_crop(video, crop_size)]
        height, width = _sides(crop_size)
        padded = SizeDict(height=max(height, video.shape[-2]), width=max(width, video.shape[-1]))
        video = self.center_crop(video, padded)  # pads what is smaller than the crop, else changes nothing
        free = np.array([video.shape[-2] - height, video.shape[-1] - width])
        along = free == free.max()  # of a square video's two sides either may move: neither has room
        places = [np.where(along, free * i / (num_crops - 1), free / 2).astype(int) for i in range(num_crops)]
        return [tvF.crop(video, int(top), int(left), height, width) for top, left in places]


# -- options ---------------------------------------------------------------------------------------------------------


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


OPTION_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {  # option -> (is it good?, what is allowed)
    "num_frames": (_is_count, "an integer of at least 1"),
    "frame_stride": (_is_count, "an integer of at least 1"),
    "num_clips": (_is_count, "an integer of at least 1"),
    "num_crops": (_is_count, "an integer of at least 1"),
    "frame_sampling": (lambda v: isinstance(v, str) and v in INDEX_RULES, f"one of {', '.join(INDEX_RULES)}"),
    "random_frames": (lambda v: isinstance(v, bool), "True or False"),
    "scale_in_decoder": (lambda v: isinstance(v, bool), "True or False"),
    "fps": (lambda v: v is None, "None, as the model fixes the number of frames: set num_frames"),
}


def _check_options(options: Any) -> None:
    for name, (is_good, allowed) in OPTION_CHECKS.items():
        if name in options and not is_good(options[name]):
            raise ValueError(f"{name} must be {allowed}, got {options[name]!r}.")


def _check_call(options: Any) -> None:
    """Raise a ValueError for options that contradict one another."""
    if not options["do_sample_frames"] and options["num_clips"] > 1:
        raise ValueError(f"num_clips={options['num_clips']} needs do_sample_frames=True, got do_sample_frames=False.")
    if options["num_crops"] > 1 and not options["do_center_crop"]:
        crop = options["do_center_crop"]
        raise ValueError(f"num_crops={options['num_crops']} needs do_center_crop=True, got do_center_crop={crop}.")
    if options["data_format"] not in (None, ChannelDimension.FIRST):
        raise ValueError(f"data_format must be 'channels_first' (or None), got {options['data_format']!r}.")


def _reader(options: Any) -> Callable[..., tuple[np.ndarray, VideoMetadata]]:
    """Return `read_video` with these options."""
    try:
        limits = ReadLimits(**(options["read_limits"] or {}))
    except TypeError as error:
        allowed = ", ".join(ReadLimits.__dataclass_fields__)
        raise ValueError(f"read_limits may have {allowed}; got {options['read_limits']!r}.") from error
    if not set(limits.formats.split(",")) <= set(MEDIA_FORMATS.split(",")):  # or a processor's JSON could open files
        raise ValueError(f"The formats of read_limits must be among {MEDIA_FORMATS}; got {limits.formats!r}.")
    short_side = None
    if options["scale_in_decoder"] and options["do_resize"]:
        several = options["num_crops"] > 1
        sides = dict(options["crop_size" if several else "size"])
        short_side = max(sides["height"], sides["width"]) if several else sides.get("shortest_edge")
    return partial(read_video, short_side=short_side, limits=limits)


# -- inputs ----------------------------------------------------------------------------------------------------------

ALLOWED_INPUTS = (
    "a path, an http(s) URL, bytes, a binary file object, a dict with 'path' or 'bytes', a folder of frame images, a "
    "4-D array or tensor (5-D: a batch), a list of PIL images or 3-D arrays, or a list of these"
)


def _sides(size: SizeDict) -> tuple[int, int]:
    if size.height is None or size.width is None:
        raise ValueError(f"crop_size must have 'height' and 'width', got {dict(size)}.")
    return size.height, size.width


def _in_memory(video: Any) -> bool:
    return isinstance(video, (np.ndarray, torch.Tensor, list, tuple))


def _list_videos(videos: Any) -> list[Any]:
    """Turn any accepted input into a flat list of single videos: sources, 4-D arrays, lists of frames."""
    if isinstance(videos, (str, os.PathLike, bytes, bytearray, memoryview, dict)) or hasattr(videos, "read"):
        return [videos]
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        if videos.ndim not in (4, 5) or 0 in videos.shape:
            raise ValueError(f"Got an array of shape {tuple(videos.shape)} as video; allowed: {ALLOWED_INPUTS}.")
        return list(videos) if videos.ndim == 5 else [videos]
    if not isinstance(videos, (list, tuple)) or not videos:
        raise ValueError(f"Got {type(videos).__name__} {videos!r:.80} as video; allowed: {ALLOWED_INPUTS}.")
    if all(isinstance(item, FRAME) and getattr(item, "ndim", 3) == 3 for item in videos):
        return [videos]
    return [video for item in videos for video in _list_videos(item)]


def _frames_first(video: Any, layout: Any) -> torch.Tensor:
    """Turn frames in memory into one (T, C, H, W) tensor, uint8 or floating point."""
    if isinstance(video, (list, tuple)):
        if isinstance(video[0], Image.Image):
            layout = ChannelDimension.LAST  # whatever the arrays of the same batch are
        video = _stack_frames(video)
    if isinstance(video, np.ndarray):
        # torch takes no negative strides and warns of read-only memory
        video = torch.from_numpy(video if video.flags.writeable and min(video.strides) >= 0 else video.copy())
    if video.dtype != torch.uint8:
        video = video.to(torch.float32)
    if layout is None:
        try:
            layout = infer_channel_dimension_format(video, num_channels=(1, 3, 4))
        except ValueError as error:
            shape = tuple(video.shape)
            raise ValueError(
                f"Frames need 1, 3 or 4 channels, first or last; got a video of shape {shape}."
            ) from error
    return video.permute(0, 3, 1, 2) if layout == ChannelDimension.LAST else video


def _stack_frames(frames: Any) -> np.ndarray | torch.Tensor:
    if all(isinstance(frame, Image.Image) for frame in frames):
        mode = "RGBA" if any(frame.has_transparency_data for frame in frames) else "RGB"
        frames = [np.array(frame.convert(mode)) for frame in frames]
    shapes = sorted({np.shape(frame) for frame in frames})
    if len(shapes) > 1:
        raise ValueError(f"The frames of one video must have one shape; got {shapes}.")
    if all(isinstance(frame, torch.Tensor) for frame in frames):
        return torch.stack(list(frames))
    return np.stack([np.asarray(frame) for frame in frames])

"""Frames to `pixel_values`: which frames, which crops, which numbers.

What is unusual here:
- indices are pure functions of the number of frames and never fail on a short video: frames repeat instead;
- one video may give several views (clips x crops), then `pixel_values` is (B, V, T, C, H, W), clip-major;
- files are read by our own reader, so a video may be a path, a URL, bytes, a file object or a folder of images.
"""

import json
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers import (
    AutoImageProcessor,
    CLIPImageProcessor,
    PreTrainedConfig,
    Siglip2ImageProcessor,
    Siglip2VisionConfig,
    SiglipImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, cached_file, logging
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata, make_batched_metadata

from .loading_ila import HUB_KWARGS, save_code
from .video_container_ila import ReadLimits
from .video_frames_ila import INDEX_RULES, LAYOUTS, frames_first, in_memory, list_videos, over_white
from .video_reading_ila import read_video


logger = logging.get_logger(__name__)


MAX_FRAMES = 10_000  # of a clip
MAX_VIEWS = 1000  # clips, and crops
MAX_STRIDE = 1_000_000
MAX_SIDE = 2**14  # pixels
MAX_PATCHES = 2**16  # of a frame
ROUNDING = 1e-3  # by which floats may leave 0 to 255, as those that were normalised and are not any more
OVERSHOOT = 128.0  # and how far where floats have been resized: beside edges, cubic interpolation goes beyond them
MAX_PIXEL_VALUE = 100.0  # in size, after normalisation; those of CLIP end at 2.2
RESIZE_RATIO = 256 / 224  # short side before the centre crop : crop, as the release's tests have it
# What an image processor and this one both do; of an image processor any other `do_*` is refused.
IMAGE_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
IMAGE_NUMBERS = ("size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std")
PATCH_NUMBERS = ("max_num_patches", "patch_size")  # SigLIP 2's


# -- the processor ---------------------------------------------------------------------------------------------------


class IlaVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """List the options of a call, and of the saved JSON, beside transformers' own.

    frame_sampling: "segments" | "uniform" | "dense", the rule that picks the frames (`INDEX_RULES`).
    frame_stride: frames between two frames of a dense clip.
    num_clips, num_crops: views of one video; more than one in all gives (B, V, T, C, H, W).
    random_frames: draw the frames at random, as in training; it is not saved.
    scale_in_decoder: let the reader scale frames while it converts them to RGB, which is faster; pixels differ a
        little from those of the release's preprocessing, so it is off unless asked for.
    max_num_patches, patch_size: resize to at most so many squares of that side and keep the aspect up to a square, as
        SigLIP 2's NaFlex does; in place of `size` and of a crop. Frames of different videos then differ in size.
    read_limits: what reading one video may cost, as the arguments of `ReadLimits`; None means its defaults.
    """

    frame_sampling: str | None
    frame_stride: int | None
    num_clips: int | None
    num_crops: int | None
    random_frames: bool | None
    scale_in_decoder: bool | None
    max_num_patches: int | None
    patch_size: int | None
    read_limits: dict[str, int | float | str] | None


class IlaVideoProcessor(BaseVideoProcessor):
    """Turn videos into `pixel_values`: (B, T, C, H, W), or (B, V, T, C, H, W) with several views, clip-major.

    A video is a path, an http(s) URL, bytes, a binary file object, a dict with "path" or "bytes", a folder of frame
    images, a 4-D array or tensor (channels first or last; `input_data_format` says which where the shape does not), or
    a list of PIL images or 3-D arrays. `video_frames_ila.py` says what becomes of 16 bits, floats, alpha and EXIF. A
    list of videos, of mixed kinds if need be, or a 5-D array is a batch. Frames in memory that already number
    `num_frames` are taken as they are, unless several clips or random frames are asked for.

    One crop: short side to `size`, centre crop. Several: short side to the crop, crops evenly along the long side.
    Without `do_center_crop`: resized to `size`, with `max_num_patches` to a size of each video's own.

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
    max_num_patches: int | None = None
    patch_size: int | None = None
    read_limits: ClassVar[dict[str, int | float | str] | None] = None
    valid_kwargs = IlaVideoProcessorKwargs  # type: ignore[assignment]
    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, **kwargs: Unpack[IlaVideoProcessorKwargs]) -> None:
        wrong = [name for name in kwargs if name == "video_metadata" or callable(getattr(type(self), name, None))]
        if wrong:  # a JSON file may name anything
            raise ValueError(f"{', '.join(sorted(wrong))} cannot be set: of a call, or a method of the processor.")
        own = IlaVideoProcessorKwargs.__annotations__.keys() - VideosKwargs.__annotations__.keys()
        own |= {
            "num_frames",
            "image_mean",
            "image_std",
            "rescale_factor",
        }  # None is the default; of a `do_*` it is off
        kwargs = {k: v for k, v in kwargs.items() if v is not None or k not in own}  # type: ignore[assignment]
        _check_options({name: value for name, value in kwargs.items() if value is not None})
        super().__init__(**kwargs)  # type: ignore[misc]
        _check_options({name: value for name, value in vars(self).items() if value is not None})

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as `BaseVideoProcessor.save_pretrained` does, with the code of a processor from an exported folder."""
        self.warn_of_what_is_not_saved()
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        save_code(self, save_directory)
        return saved

    def warn_of_what_is_not_saved(self) -> None:
        """Log that `random_frames` is saved as False where it is True: a saved processor answers the same twice."""
        if self.random_frames:
            logger.warning("random_frames=True is for training, and the processor is saved with random_frames=False.")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that are saved: all of them, with `random_frames` off."""
        return super().to_dict() | {"random_frames": False}

    def __repr__(self) -> str:
        settings = json.loads(self.to_json_string()) | {"random_frames": self.random_frames}
        return f"{type(self).__name__} {json.dumps(settings, indent=2, sort_keys=True)}\n"

    @classmethod
    def from_dict(cls, video_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a processor of saved settings; a `random_frames` that an earlier version saved is off, and a warning
        says so. A ValueError says what is wrong with them.
        """
        if not isinstance(video_processor_dict, dict):
            raise ValueError(f"A processor's file must hold a JSON object, got {video_processor_dict!r:.200}.")
        if video_processor_dict.get("random_frames") is True and kwargs.get("random_frames") is None:
            logger.warning("The processor was saved with random_frames=True, which is left out: it is for training.")
            video_processor_dict = video_processor_dict | {"random_frames": False}
        return super().from_dict(video_processor_dict, **kwargs)

    @classmethod
    def for_model(cls, config: Any, **kwargs: Any) -> "IlaVideoProcessor":
        """Make the processor that feeds a model of this configuration (`IlaConfig` or `IlaVisionConfig`).

        Frame count, crop and pixel normalisation follow the configuration. The short side is to the crop as 256 is
        to 224, as in the release. `kwargs` win over all.
        """
        config = getattr(config, "config", config)
        if hasattr(config, "preprocessing"):  # of another kind of model
            return cls(**{**config.preprocessing, **kwargs})
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

    @classmethod
    def for_images(cls, source: Any, **kwargs: Any) -> "IlaVideoProcessor":
        """Make the processor that does to every frame what a checkpoint's own image processor does to a picture.

        Args:
            source: folder or Hub id of a model for images, such as CLIP's; or an image processor of transformers, or a
                processor that holds one. A checkpoint without one gets the defaults of its kind (CLIP's: short side
                and centre crop of the tower's `image_size`, bicubic).
            kwargs: settings of this processor, such as `num_frames`, which win over all; and those arguments of
                `from_pretrained` that say where the files are.

        Raises:
            ValueError: something that is no image processor, or one that does more than resizing, centre crop,
                rescaling and normalising.
            OSError: no such checkpoint.
        """
        where = {name: kwargs.pop(name) for name in HUB_KWARGS if name in kwargs}
        images = _image_processor(source, **where) if isinstance(source, (str, os.PathLike)) else source
        images = getattr(images, "image_processor", images)
        if not isinstance(images, BaseImageProcessor) or isinstance(images, BaseVideoProcessor):
            raise ValueError(
                f"Got {type(images).__name__} {images!r:.80}; allowed: a folder, a Hub id or an image processor."
            )
        steps = {name: bool(value) for name, value in vars(images).items() if name.startswith("do_")}
        others = [name for name, is_done in steps.items() if is_done and name not in IMAGE_STEPS]
        if others:
            raise ValueError(
                f"{type(images).__name__} has {', '.join(f'{name}=True' for name in others)}, which "
                f"{cls.__name__} cannot do to frames; it does {', '.join(IMAGE_STEPS)}."
            )
        settings: dict[str, Any] = {name: steps.get(name, False) for name in IMAGE_STEPS} | {"do_convert_rgb": True}
        numbers = {name: getattr(images, name, None) for name in IMAGE_NUMBERS + PATCH_NUMBERS}
        settings |= {name: value for name, value in numbers.items() if value is not None}
        return cls(**{**settings, **kwargs})

    def preprocess(self, videos: Any, **kwargs: Unpack[IlaVideoProcessorKwargs]) -> BatchFeature:
        """Turn videos into `pixel_values`, as the class says; `kwargs` other than None override the settings."""
        given: Any = {name: value for name, value in kwargs.items() if value is not None}
        options = {**vars(self), **given}
        _check_options({name: value for name, value in options.items() if value is not None})
        square = given.get("default_to_square", self.default_to_square)
        sizes = self._standardize_kwargs(options["size"], options["crop_size"], default_to_square=square)
        options |= {name: sizes[name] for name in ("size", "crop_size")}
        _check_call(options)
        if options["max_num_patches"] is not None and "size" in given:
            raise ValueError(f"max_num_patches={options['max_num_patches']} sets the size, got size={given['size']}.")
        layout = options["input_data_format"]
        reader = _reader(options)
        sources = [
            frames_first(video, layout) if in_memory(video) else partial(reader, video)
            for video in list_videos(videos)
        ]
        return super().preprocess(sources, **{**given, "input_data_format": ChannelDimension.FIRST})

    def reader(self, *, num_crops: int = 1) -> Callable[..., tuple[np.ndarray, VideoMetadata]]:
        """Return `read_video` with this processor's limits, scaling in the decoder if that is on."""
        return _reader({**vars(self), "num_crops": num_crops})

    def view_sides(self, height: int, width: int) -> tuple[int, int]:
        """Return the sides, in pixels, that the views of frames of this size have."""
        square = self.default_to_square
        sizes = self._standardize_kwargs(self.size, self.crop_size, default_to_square=square)
        if self.do_center_crop:
            return _sides(sizes["crop_size"])
        if self.do_resize and self.max_num_patches is not None:
            return _sides(_size_of_patches(height, width, self.max_num_patches, self.patch_size))
        return _resized(height, width, sizes["size"]) if self.do_resize else (height, width)

    def crop_of(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return what a single view shows of frames of this size: left, top, right and bottom in their pixels.

        Where the crop is larger than what it is cut from, zeros are around that, and the rectangle is larger than the
        frame: its first two numbers are below 0.
        """
        square = self.default_to_square
        sizes = self._standardize_kwargs(self.size, self.crop_size, default_to_square=square)
        rows, columns = height, width
        if self.do_resize:
            size = sizes["size"]
            if self.max_num_patches is not None:
                size = _size_of_patches(height, width, self.max_num_patches, self.patch_size)
            frame = torch.zeros(1, 1, height, width, dtype=torch.uint8)
            rows, columns = self.resize(frame, size=size, resample=self.resample).shape[-2:]
        top = left = 0
        shown = (rows, columns)
        if self.do_center_crop:
            shown = _sides(sizes["crop_size"])
            top, left = (
                -((crop - side) // 2) if crop > side else int((side - crop) / 2)  # as `center_crop` rounds
                for side, crop in zip((rows, columns), shown)
            )
        down, across = height / rows, width / columns
        return left * across, top * down, (left + shown[1]) * across, (top + shown[0]) * down

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
        _check_values(views, vars(self), slack=OVERSHOOT)
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
                limits = ReadLimits.from_options(options.get("read_limits"))
                metadata = metadata or VideoMetadata(total_num_frames=len(video), height=height, width=width)
                as_is = one_fixed_clip and len(video) == options.get("num_frames")
                metadata.frames_indices = list(range(len(video))) if as_is else rule(len(video))
                limits.check_memory(
                    "in memory", len(metadata.frames_indices), height, width, bytes_each=video.itemsize
                )
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
        return over_white(video, white=255.0 if video.dtype == torch.uint8 or video.max() > 1 else 1.0)

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
        max_num_patches: int | None = None,
        patch_size: int | None = None,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Resize, crop and normalise; uint8 frames are cropped, so only pixels that the model sees become floats."""
        if num_crops > 1:
            size = SizeDict(shortest_edge=max(_sides(crop_size)))
        limits = ReadLimits.from_options(kwargs["read_limits"])
        scaling = {"do_rescale": do_rescale, "rescale_factor": rescale_factor, "do_normalize": do_normalize}
        scaling |= {"image_mean": image_mean, "image_std": image_std}
        pixel_values = []
        for video in videos:
            _check_values(video, scaling)
            if do_rescale and video.is_floating_point() and video.max() <= 1:
                logger.warning_once(
                    "Frames with values up to 1 are rescaled once more: pass do_rescale=False for them."
                )
            frames, _, height, width = video.shape
            if do_resize and max_num_patches is not None:
                size = _size_of_patches(height, width, max_num_patches, patch_size)
            sides = _resized(height, width, size) if do_resize else (height, width)
            shown = f"of {width} x {height} pixels, with sides of {sides[0]} and {sides[1]} after resizing,"
            limits.check_memory(shown, frames, *sides, bytes_each=video.itemsize)
            sides = _sides(crop_size) if do_center_crop else sides
            limits.check_memory("as pixel values", frames * num_crops, *sides, bytes_each=4)
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


def _image_processor(source: str | os.PathLike, **where: Any) -> BaseImageProcessor:
    """Load the image processor of a checkpoint, or make the one of its kind where it holds none."""
    optional: Any = {"_raise_exceptions_for_missing_entries": False, **where}
    config = PreTrainedConfig.get_config_dict(source, **where)[0]
    files = [cached_file(source, name, **optional) for name in (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)]
    if any(files):
        return AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **where)
    if not config:  # a folder without the file gives an empty dictionary
        raise OSError(f"{str(source)!r} holds neither a config.json nor the settings of an image processor.")
    side = config.get("vision_config", config).get("image_size", 224)
    if config.get("model_type") == "siglip":
        return SiglipImageProcessor(size={"height": side, "width": side})
    if config.get("model_type") == "siglip2":
        vision = Siglip2VisionConfig(**config.get("vision_config", {}))
        return Siglip2ImageProcessor(max_num_patches=vision.num_patches, patch_size=vision.patch_size)
    return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


# -- options ---------------------------------------------------------------------------------------------------------
# A processor's JSON may come from anywhere: what numbers ask for is refused before memory is taken for it.


Check = tuple[Callable[[Any], bool], str]  # is it good?, and what is allowed


def _count(most: int) -> Check:
    return lambda value: _is_whole(value, most), f"an integer of at least 1 and at most {most}"


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_finite(value) and value > 0


def _is_size(value: Any) -> bool:
    if isinstance(value, (dict, SizeDict)):
        sides = {name: side for name, side in dict(value).items() if side is not None}
        known = all(isinstance(name, str) and name in SizeDict.__dataclass_fields__ for name in sides)
        value = list(sides.values()) if known else []
    elif isinstance(value, (list, tuple)) and len(value) != 2:
        return False
    sides_of = list(value) if isinstance(value, (list, tuple)) else [value]
    return 1 <= len(sides_of) <= 2 and all(_is_whole(side, MAX_SIDE) for side in sides_of)


def _of_channels(is_good: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        values = value if isinstance(value, (list, tuple)) else [value]
        return len(values) in (1, 3) and all(map(is_good, values))

    return check


def _is_resample(value: Any) -> bool:
    return isinstance(value, InterpolationMode) or (_is_finite(value) and value in range(6))


def _is_device(value: Any) -> bool:
    try:
        return isinstance(value, (str, torch.device)) and bool(torch.device(value))
    except RuntimeError:
        return False


SWITCH: Check = (lambda value: isinstance(value, bool), "True or False")
SIZE = f"pixels, whole numbers from 1 to {MAX_SIDE}, as one number, (height, width) or a dictionary such as"

OPTION_CHECKS: dict[str, Check] = {
    "num_frames": _count(MAX_FRAMES),
    "frame_stride": _count(MAX_STRIDE),
    "num_clips": _count(MAX_VIEWS),
    "num_crops": _count(MAX_VIEWS),
    "frame_sampling": (lambda v: isinstance(v, str) and v in INDEX_RULES, f"one of {', '.join(INDEX_RULES)}"),
    "random_frames": SWITCH,
    "scale_in_decoder": SWITCH,
    "max_num_patches": _count(MAX_PATCHES),
    "patch_size": _count(MAX_SIDE),
    "do_sample_frames": SWITCH,
    "do_resize": SWITCH,
    "do_center_crop": SWITCH,
    "do_rescale": SWITCH,
    "do_normalize": SWITCH,
    "do_convert_rgb": SWITCH,
    "default_to_square": SWITCH,
    "return_metadata": SWITCH,
    "device": (_is_device, "a device such as 'cpu' or 'cuda:0'"),
    "size": (_is_size, f"{SIZE} {{'shortest_edge': 256}}"),
    "crop_size": (_is_size, f"{SIZE} {{'height': 224, 'width': 224}}"),
    "resample": (_is_resample, "one of Pillow's filters, 0 to 5"),
    "rescale_factor": (_is_positive, "a finite number above 0"),
    "image_mean": (_of_channels(_is_finite), "a finite number, or one for each of 3 channels"),
    "image_std": (_of_channels(_is_positive), "a finite number above 0, or one for each of 3 channels"),
    "input_data_format": (lambda v: v is None or v in LAYOUTS, "None, 'channels_first' or 'channels_last'"),
    "data_format": (lambda v: v in (None, ChannelDimension.FIRST), "'channels_first' (or None)"),
    "do_pad": (lambda v: v is None or v is False, "False, as crops have one size"),
    "fps": (lambda v: v is None, "None, as the model fixes the number of frames: set num_frames"),
    "read_limits": (lambda v: v is None or isinstance(v, dict), "None or a dictionary of the arguments of ReadLimits"),
}


def _check_options(options: Any) -> None:
    """Raise a ValueError for an option that is not allowed, by itself."""
    for name, (is_good, allowed) in OPTION_CHECKS.items():
        if name in options and not is_good(options[name]):
            raise ValueError(f"{name} must be {allowed}, got {options[name]!r:.200}.")
    ReadLimits.from_options(options.get("read_limits"))


def _check_call(options: Any) -> None:
    """Raise a ValueError for options that contradict one another."""
    if not options["do_sample_frames"] and options["num_clips"] > 1:
        raise ValueError(f"num_clips={options['num_clips']} needs do_sample_frames=True, got do_sample_frames=False.")
    if options["num_crops"] > 1 and not options["do_center_crop"]:
        crop = options["do_center_crop"]
        raise ValueError(f"num_crops={options['num_crops']} needs do_center_crop=True, got do_center_crop={crop}.")
    no_edge = options["size"].shortest_edge is None and options["num_crops"] == 1 and options["do_resize"]
    if options["scale_in_decoder"] and no_edge:
        raise ValueError(f"scale_in_decoder=True needs a size of 'shortest_edge', got {dict(options['size'])}.")
    patches = {name: options[name] for name in ("max_num_patches", "patch_size")}
    if len({value is None for value in patches.values()}) > 1:
        raise ValueError(f"max_num_patches and patch_size need each other, got {patches}.")
    needed = {"do_center_crop": False, "scale_in_decoder": False}
    wrong = {name: options[name] for name, value in needed.items() if options[name] != value}
    if wrong and patches["max_num_patches"] is not None:
        raise ValueError(f"max_num_patches={patches['max_num_patches']} needs {needed}, got {wrong}.")


def _check_values(frames: torch.Tensor, options: Any, *, slack: float = ROUNDING) -> None:
    """Check the values of frames (..., C, H, W) that are to be rescaled or normalised.

    Args:
        frames, options: what is checked, and the processor's settings by name.
        slack: how far floats may lie outside of 0 to 255.

    Raises:
        ValueError: floats below 0 or above 255, or values that are not on the scale of `image_mean` and `image_std`,
            as those up to 255 with `do_rescale=False`.
    """
    rescaled, normalised = options["do_rescale"], options["do_normalize"]
    high = 255.0
    if frames.is_floating_point() and (rescaled or normalised):
        low, high = (float(value) for value in frames.aminmax())
        if not (low >= -slack and high <= 255 + slack):
            raise ValueError(
                f"Frames of floats need values from 0 to 255, or to 1 with do_rescale=False; got {low:g} to {high:g}."
            )
    if not normalised:
        return
    if frames.shape[-3] == 4:
        raise ValueError("do_normalize=True needs frames of 3 channels; got 4 with do_convert_rgb=False.")
    largest = high * (options["rescale_factor"] if rescaled else 1)
    mean, std = _per_channel(options["image_mean"]), _per_channel(options["image_std"])
    reached = max(abs(value - m) / s for value in (0.0, largest) for m, s in zip(mean, std))
    if reached > MAX_PIXEL_VALUE:
        how = f"rescale_factor={options['rescale_factor']:g}" if rescaled else "do_rescale=False"
        raise ValueError(
            f"Frames with values up to {high:g} and {how} are not on the scale of image_mean={mean} and "
            f"image_std={std}: pixel values would reach {reached:.0f}."
        )


def _per_channel(value: Any) -> list[float]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * (3 // len(values))


def _reader(options: Any) -> Callable[..., tuple[np.ndarray, VideoMetadata]]:
    """Return `read_video` with these options."""
    short_side = None
    if options["scale_in_decoder"] and options["do_resize"]:
        several = options["num_crops"] > 1
        sides = dict(options["crop_size" if several else "size"])
        short_side = max(sides["height"], sides["width"]) if several else sides.get("shortest_edge")
    return partial(read_video, short_side=short_side, limits=ReadLimits.from_options(options["read_limits"]))


def _sides(size: SizeDict) -> tuple[int, int]:
    if size.height is None or size.width is None:
        raise ValueError(f"crop_size must have 'height' and 'width', got {dict(size)}.")
    return size.height, size.width


def _size_of_patches(height: int, width: int, most: int, side: int | None) -> SizeDict:
    """Return the size that frames get from `max_num_patches` and `patch_size`, as transformers computes it."""
    height, width = get_image_size_for_max_num_patches(height, width, side, most)
    return SizeDict(height=height, width=width)


def _resized(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """Return the short and the long side, in pixels, that resizing to a size gives frames at most."""
    if size.shortest_edge and not size.longest_edge:
        return size.shortest_edge, size.shortest_edge * max(height, width) // min(height, width)
    sides = dict(size).values()
    return min(sides), max(sides)

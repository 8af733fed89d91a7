"""Frames: which of a video's a clip takes, and those given, through whichever door they come, in one form.

That form is upright, red, green and blue, of 8 bits or floats from 0 on.

what comes                                  what it becomes
PIL image, picture file                     upright (EXIF), RGB of 8 bits
16 bits: uint16, mode "I;16", PNG, TIFF     the upper 8 bits
bool, mode "1"                              0 and 255
other whole numbers                         8 bits; ValueError outside 0 to 255
floats                                      float32; ValueError for NaN, infinite, negative and above 255
alpha                                       laid over white
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_utils import ChannelDimension

from .video_urls_ila import redact


FRAME = (Image.Image, np.ndarray, torch.Tensor)
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
LAYOUTS = (ChannelDimension.FIRST, ChannelDimension.LAST)
WIDE = (torch.uint16, torch.uint32, torch.uint64)  # torch can do nothing with these but convert them
FILES_OF_16_BITS = ("PNG", "PPM")  # formats whose mode "I" is Pillow's form of 16 bits

ALLOWED_INPUTS = (
    "a path, an http(s) URL, bytes, a binary file object, a dict with 'path' or 'bytes', a folder of frame images, a "
    "4-D array or tensor (5-D: a batch), a list of PIL images or 3-D arrays, or a list of these"
)


# -- which frames ----------------------------------------------------------------------------------------------------


def segment_indices(
    total: int,
    *,
    num_frames: int,
    clip: int = 0,
    num_clips: int = 1,
    random: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Take one frame from each of `num_frames` equal segments of the whole video.

    ```
    frames      0 . . . . . . . . . . . . . . . n-1
    segments    |-------|-------|-------|-------|      num_frames=4
    one clip        x       x       x       x          the middle of each segment
    two clips     0   1   0   1   0   1   0   1        fractions 1/4 and 3/4
    random       x           x    x            x       anywhere inside, drawn per segment
    ```

    Segment i runs from round((n-1)/T*i) to round((n-1)/T*(i+1)), both ends included; clip c of C takes the frame at
    fraction (c+0.5)/C. A video with fewer frames than segments repeats frames.

    Args:
        total: number of frames of the video, n.
        num_frames: number of frames to take, T.
        clip, num_clips: which clip c of how many C; ignored when `random`.
        random: draw the frames (training) from torch's generator or from `generator`.

    Returns:
        (T,) int64 indices in [0, n), ascending.

    Raises:
        ValueError: n or T below 1, or a clip that does not exist.
    """
    _check_sampling(total, num_frames, clip, num_clips)
    bounds = np.rint((total - 1) / num_frames * np.arange(num_frames + 1)).astype(np.int64)
    start, end = bounds[:-1], bounds[1:]
    if random:
        draw = torch.rand(num_frames, generator=generator, dtype=torch.float64).numpy()
        return start + (draw * (end - start + 1)).astype(np.int64)
    return start + ((end - start) * (2 * clip + 1)) // (2 * num_clips)


def uniform_indices(
    total: int,
    *,
    num_frames: int,
    clip: int = 0,
    num_clips: int = 1,
    random: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Take a grid of equal steps from the first frame to the last.

    ```
    frames      0 . . . . . . . . . . . . n-1
    one clip    x       x       x       x          num_frames=4: first, two between, last
    two clips   0      0      0      0             the grid moved by -1/4 ...
                  1       1       1     1          ... and +1/4 of its step, kept inside the video
    random      the grid moved by one draw from [-1/2, 1/2) of its step
    ```

    A single frame is the middle one. Arguments, result and errors as in `segment_indices`.
    """
    _check_sampling(total, num_frames, clip, num_clips)
    last = total - 1
    grid = np.linspace(0, last, num_frames) if num_frames > 1 else np.array([last / 2])
    step = last / max(num_frames - 1, 1)
    fraction = torch.rand((), generator=generator, dtype=torch.float64).item() if random else (clip + 0.5) / num_clips
    return np.rint(np.clip(grid + (fraction - 0.5) * step, 0, last)).astype(np.int64)


def dense_indices(
    total: int,
    *,
    num_frames: int,
    stride: int = 4,
    clip: int = 0,
    num_clips: int = 1,
    random: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Take a short window of the video: `num_frames` frames, `stride` apart.

    ```
    frames      0 . . . . . . . . . . . . . . . n-1
    one clip            x . x . x . x                  num_frames=4, stride=2: the window in the middle
    two clips       0 . 0 . 0 . 0                      the window begins at 1/4 ...
                            1 . 1 . 1 . 1              ... and 3/4 of the room it leaves
    too short   x . x . x x                            what lies behind the end is the last frame again
    ```

    The window spans (T-1)*stride+1 frames; `random` draws where it begins. Other arguments, result and errors as in
    `segment_indices`; a stride below 1 is a ValueError too.
    """
    _check_sampling(total, num_frames, clip, num_clips)
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}.")
    room = max(total - ((num_frames - 1) * stride + 1), 0)
    if random:
        start = int(torch.randint(room + 1, (), generator=generator))
    else:
        start = room * (2 * clip + 1) // (2 * num_clips)
    return np.minimum(start + stride * np.arange(num_frames, dtype=np.int64), total - 1)


def frames_between(edges: np.ndarray, start: float, end: float) -> tuple[int, int]:
    """Return the first frame that begins in these seconds and the one behind the last, at least one frame apart.

    Where none begins there it is the frame that is shown.

    Args:
        edges: (F + 1,), when each frame begins, and when the last one ends.
        start, end: seconds.
    """
    first, last = np.searchsorted(edges[:-1], [start - 1e-6, end - 1e-6]).tolist()  # of a microsecond, as clocks round
    if last <= first:
        first = max(0, min(first, len(edges) - 1) - 1)
        last = first + 1
    return first, last


def _check_sampling(total: int, num_frames: int, clip: int, num_clips: int) -> None:
    for name, value in {"total": total, "num_frames": num_frames, "num_clips": num_clips}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if not 0 <= clip < num_clips:
        raise ValueError(f"clip must be in [0, num_clips={num_clips}), got {clip}.")


INDEX_RULES: dict[str, Callable[..., np.ndarray]] = {
    "segments": segment_indices,
    "uniform": uniform_indices,
    "dense": dense_indices,
}


# -- pictures --------------------------------------------------------------------------------------------------------


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return a picture as RGB of 8 bits, upright by its EXIF orientation, its alpha laid over white.

    Raises:
        ValueError: values that are no brightness of 8 or 16 bits.
    """
    image = _as_8_bits(ImageOps.exif_transpose(image))
    if not image.has_transparency_data:
        return image.convert("RGB")
    return Image.fromarray(over_white_pixels(np.array(image.convert("RGBA"))))


def _as_8_bits(image: Image.Image) -> Image.Image:
    """Turn the modes of 16 bits ("I;16", "I") and of floats ("F") to grey of 8 bits, which Pillow would cut at 255."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image)
    low, high = values.min(), values.max()  # NaN if there is one
    if image.mode == "F":
        if not (low >= 0 and 1 < high <= 255 or low == high == 0):
            raise ValueError(f"A picture of floats needs values from 0 to 255, got {low:g} to {high:g}.")
        return Image.fromarray(np.rint(values).astype(np.uint8))
    if image.mode == "I" and not (0 <= low and high < 2**16):
        raise ValueError(f"A picture of mode 'I' needs values of 16 bits, 0 to 65535, got {low} to {high}.")
    if image.mode == "I" and 0 < high < 256 and image.format not in FILES_OF_16_BITS:
        raise ValueError(
            f"A picture of mode 'I' with values up to {high} may have 8 bits or 16: convert it to 'L' or 'I;16'."
        )
    return Image.fromarray((values >> 8).astype(np.uint8))


def over_white(frames: torch.Tensor, *, white: float = 255.0) -> torch.Tensor:
    """Lay RGBA frames (..., 4, H, W) over white: (..., 3, H, W) of the same dtype, whole numbers rounded."""
    alpha = frames[..., 3:, :, :].float() / white
    blended = frames[..., :3, :, :].float() * alpha + white * (1 - alpha)
    return (blended if frames.is_floating_point() else blended.round()).to(frames.dtype)


def over_white_pixels(pixels: np.ndarray) -> np.ndarray:
    """Lay RGBA pixels (H, W, 4) uint8 over white: (H, W, 3) uint8."""
    return over_white(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()


# -- frames in memory ------------------------------------------------------------------------------------------------


def list_videos(videos: Any) -> list[Any]:
    """Turn any accepted input into a flat list of single videos: sources, 4-D arrays, lists of frames."""
    if isinstance(videos, (str, os.PathLike, bytes, bytearray, memoryview, dict)) or hasattr(videos, "read"):
        return [videos]
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        if videos.ndim not in (4, 5) or 0 in videos.shape:
            raise ValueError(f"Got an array of shape {tuple(videos.shape)} as video; allowed: {ALLOWED_INPUTS}.")
        return list(videos) if videos.ndim == 5 else [videos]
    if not isinstance(videos, (list, tuple)) or not videos:
        shown = redact(repr(videos))
        raise ValueError(f"Got {type(videos).__name__} {shown:.80} as video; allowed: {ALLOWED_INPUTS}.")
    if is_frames(videos):
        return [videos]
    return [video for item in videos for video in list_videos(item)]


def is_frames(videos: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether a list is the frames of one video, and no list of videos."""
    return bool(videos) and all(isinstance(item, FRAME) and getattr(item, "ndim", 3) == 3 for item in videos)


def in_memory(video: Any) -> bool:
    """Return whether a video is frames, and no source to read."""
    return isinstance(video, (np.ndarray, torch.Tensor, list, tuple))


def frames_first(video: Any, layout: Any = None) -> torch.Tensor:
    """Turn frames in memory into one (T, C, H, W) tensor, uint8 or float32.

    Args:
        video: a 4-D array or tensor, or a list of PIL images or of 3-D arrays of one shape and dtype.
        layout: "channels_first" or "channels_last", where the channels of arrays stand; None finds out. PIL images
            have an order of their own.

    Raises:
        ValueError: another dtype, values outside its range, or an order of axes that is wrong, unknown or ambiguous.
    """
    listed = isinstance(video, (list, tuple))
    if listed and all(isinstance(frame, Image.Image) for frame in video):
        layout = ChannelDimension.LAST
    if listed:
        video = _stack_frames(video)
    if 0 in video.shape:
        raise ValueError(f"Got frames of shape {tuple(video.shape)[1:]} as video; allowed: {ALLOWED_INPUTS}.")
    layout = _layout(tuple(video.shape), layout, time_is_first=listed)
    video = _as_8_bit_or_float(video)
    return video.permute(0, 3, 1, 2) if layout == ChannelDimension.LAST else video


def _stack_frames(frames: Any) -> np.ndarray | torch.Tensor:
    pictures = [isinstance(frame, Image.Image) for frame in frames]
    if all(pictures):
        moving = next((f for f in frames if getattr(f, "is_animated", False) and f.format != "MPO"), None)
        if moving is not None:
            raise ValueError(
                f"A frame is an animation of {moving.n_frames} pictures ({moving.format}): pass its path, or a list "
                "of copies, `[frame.copy() for frame in ImageSequence.Iterator(image)]`."
            )
        frames = [np.array(upright_rgb(frame)) for frame in frames]
    elif any(pictures):
        raise ValueError("The frames of one video must be of one kind; got PIL images and arrays.")
    shapes = sorted({tuple(np.shape(frame)) for frame in frames})
    if len(shapes) > 1:
        raise ValueError(f"The frames of one video must have one shape; got {shapes}.")
    kinds = sorted({str(frame.dtype) for frame in frames})
    if len(kinds) > 1:
        raise ValueError(f"The frames of one video must have one dtype; got {', '.join(kinds)}.")
    if all(isinstance(frame, torch.Tensor) for frame in frames):
        return torch.stack(list(frames))
    return np.stack([np.asarray(frame) for frame in frames])


def _layout(shape: tuple[int, ...], layout: Any, *, time_is_first: bool) -> Any:
    """Return where the channels of a video of this shape stand.

    (C, T, H, W), colour before time, is an order that others use. Where C and T are numbers of channels both, it
    cannot be told from (T, C, H, W), unless the frames came as a list; one RGB frame, and four, are what they seem.
    """
    places = {ChannelDimension.FIRST: shape[1], ChannelDimension.LAST: shape[3]}
    if layout is not None:
        if places[layout] not in CHANNELS:
            place = "second" if layout == ChannelDimension.FIRST else "last"
            raise ValueError(
                f"input_data_format={str(getattr(layout, 'value', layout))!r} needs 1, 3 or 4 channels on the {place} "
                f"axis; got a video of shape {shape}."
            )
        return layout
    found = [place for place in LAYOUTS if places[place] in CHANNELS]
    colour_first = not time_is_first and shape[0] in CHANNELS and (shape[0] == 3 or shape[1] == 4)
    if len(found) == 1 and not (found[0] == ChannelDimension.FIRST and colour_first):
        return found[0]
    if found:
        raise ValueError(
            f"Which axis of a video of shape {shape} holds the channels is ambiguous: pass input_data_format, "
            "'channels_first' for (T, C, H, W) or 'channels_last' for (T, H, W, C); transpose (C, T, H, W)."
        )
    hint = " (C, T, H, W) must be transposed to (T, C, H, W)." if shape[0] in CHANNELS else ""
    raise ValueError(f"Frames need 1, 3 or 4 channels, first or last; got a video of shape {shape}.{hint}")


def _as_8_bit_or_float(video: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Turn the values of an array or tensor into uint8 or float32, as the table at the top says."""
    if isinstance(video, np.ndarray):
        if video.dtype.kind not in "buif":
            raise ValueError(f"Frames need whole numbers, floats or bool, got an array of {video.dtype}.")
        if video.dtype.kind == "f":
            with np.errstate(over="ignore"):  # infinite values are refused below
                video = video.astype(np.float32, copy=False)
        elif not video.dtype.isnative:
            video = video.astype(video.dtype.newbyteorder("="))
        # torch takes no negative strides and warns of read-only memory
        video = torch.from_numpy(video if video.flags.writeable and min(video.strides) >= 0 else video.copy())
    if video.dtype == torch.uint8:
        return video
    if video.dtype == torch.bool:
        return video.to(torch.uint8) * 255
    if video.is_floating_point():
        video = video.to(torch.float32)
        if not bool(video.isfinite().all()):
            raise ValueError("Frames of floats must be finite; got NaN or infinite values.")
        return video
    if video.is_complex() or video.is_quantized:
        raise ValueError(f"Frames need whole numbers, floats or bool, got a tensor of {video.dtype}.")
    if video.dtype == torch.uint16:
        return (video.to(torch.int32) >> 8).to(torch.uint8)
    low, high = (int(value) for value in (video.to(torch.int64) if video.dtype in WIDE else video).aminmax())
    if low < 0 or high > 255:
        kind = str(video.dtype).removeprefix("torch.")
        raise ValueError(
            f"Frames of whole numbers need values from 0 to 255, got {low} to {high} as {kind}; pixels of 16 bits "
            "must be uint16."
        )
    return video.to(torch.uint8)

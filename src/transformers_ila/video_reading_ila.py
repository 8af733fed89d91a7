"""A video file, however it is handed over, to exactly the frames asked for.

What is unusual here:
- the index rule is given the *true* number of frames: packets are counted, headers are never believed;
- packets that cannot be decoded are skipped and counted, so that a damaged file gives what it still holds;
- repeated indices give repeated frames; only wanted frames are converted and kept, so memory is that of the result;
- the container format is checked against a list: playlists and concat scripts would open other files;
- colour conversion runs with `threads=1`: PyAV's default starts a pool of threads for every single frame.
"""

import http.client
import io
import logging
import os
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from transformers.video_utils import VideoMetadata


try:
    import av

    AV_ERRORS: tuple[type[Exception], ...] = (av.error.FFmpegError,)
except ImportError:
    av = None  # type: ignore[assignment]  # only reading files needs it; frames in memory do without
    AV_ERRORS = ()

logger = logging.getLogger(__name__)

IndexRule = Callable[[int], Sequence[int]]
VideoSource = str | Path | bytes | bytearray | memoryview | BinaryIO | dict

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
ALLOWED_FORMATS = (  # FFmpeg's demuxer names: media only, nothing that names further files
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,live_flv,asf,ogg,gif,apng,nut,mxf,dv,rm,"
    "ivf,obu,av1,h263,h264,hevc,vvc,mjpeg,mjpeg_2000,vc1,yuv4mpegpipe,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,swf,wtv"
)
OPEN_OPTIONS = {"format_whitelist": ALLOWED_FORMATS, "protocol_whitelist": "file"}


class VideoDecodingError(ValueError):
    """A video that cannot be read; the message names it and the reason in one line."""

    def __init__(self, name: str, reason: object) -> None:
        super().__init__(" ".join(f"Cannot read the video {name}: {reason}".split()))


@dataclass
class IlaVideoMetadata(VideoMetadata):
    """Transformers' `VideoMetadata` with measured timestamps instead of `index / fps`.

    Adds `timestamps` (seconds, one per returned frame, None where the file has none), `rotation` (degrees, already
    applied to the frames) and `frames_lost` (what damaged packets cost).
    """

    timestamps: list[float | None] | None = None  # type: ignore[assignment]
    rotation: int = 0
    frames_lost: int = 0


def read_video(
    source: VideoSource, index_rule: IndexRule, *, timeout: float = 30.0
) -> tuple[np.ndarray, IlaVideoMetadata]:
    """Read the frames that `index_rule` picks, in its order and with its repeats.

    Args:
        source: path (`str`, `pathlib.Path`), http(s) URL, the file's bytes, a binary file object (read from its
            start, left open), a folder of frame images in natural order, or `{"path": ..., "bytes": ...}`.
        index_rule: maps the number of frames the video really has to the indices wanted, each in `[0, total)`.
        timeout: seconds a URL's server may stay silent.

    Returns:
        frames `(T, H, W, 3)` uint8 RGB, upright, and their metadata.

    Raises:
        VideoDecodingError: nothing readable there; the message names the source and the reason.
        ValueError: a source of another kind, or an index outside the video.
        ImportError: PyAV is missing (folders of images are read without it).
    """
    if isinstance(source, dict):
        source = _source_of_dict(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _read_file(io.BytesIO(source), index_rule, name=f"({len(source)} bytes in memory)")
    if hasattr(source, "read"):
        return _read_file(_seekable(source), index_rule, name=str(getattr(source, "name", "(file object)")))
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        with _downloaded(source, timeout=timeout) as path:
            return _read_file(path, index_rule, name=source)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(os.fspath(source), index_rule)
    raise ValueError(
        f"Cannot read a video from {type(source).__name__} {source!r:.80}: give a path, an http(s) URL, bytes, a "
        "binary file object, a folder of frame images or a dict with 'path' or 'bytes'."
    )


def _source_of_dict(source: dict) -> Any:
    """What `datasets.Video(decode=False)` gives: bytes first, because the path may be one inside an archive."""
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key]
    raise ValueError(f"A video given as a dict needs 'path' or 'bytes'; got the keys {sorted(map(str, source))}.")


def _read_path(path: str, index_rule: IndexRule) -> tuple[np.ndarray, IlaVideoMetadata]:
    if os.path.isdir(path):
        return _read_folder(path, index_rule)
    if not os.path.isfile(path):
        raise VideoDecodingError(repr(path), "no such file or folder")
    # Absolute, because FFmpeg takes what stands before a colon for a protocol and a leading dash for an option.
    return _read_file(os.path.abspath(path), index_rule, name=path)


def _seekable(file: Any) -> BinaryIO:
    """The file itself; what cannot be rewound is copied, as reading takes two passes."""
    if hasattr(file, "seekable") and file.seekable() and isinstance(file.read(0), bytes):
        return file
    content = file.read()
    if isinstance(content, bytes):
        return io.BytesIO(content)
    raise ValueError(f"A file object must be opened in binary mode; reading gave {type(content).__name__}.")


@contextmanager
def _downloaded(url: str, *, timeout: float) -> Iterator[str]:
    """The path of a temporary copy, removed however the block ends."""
    with tempfile.NamedTemporaryFile(prefix="ila_video_") as file:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                shutil.copyfileobj(response, file)
            file.flush()
        except (OSError, ValueError, http.client.HTTPException) as error:  # OSError holds URLError and time-outs
            raise VideoDecodingError(url, error) from error
        yield file.name


# -- folders of images -----------------------------------------------------------------------------------------------


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """frame_10 behind frame_9; tuples, so that digits and letters in the same place compare."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _read_folder(folder: str, index_rule: IndexRule) -> tuple[np.ndarray, IlaVideoMetadata]:
    names = [n for n in os.listdir(folder) if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith(".")]
    if not names:
        raise VideoDecodingError(repr(folder), f"no images in this folder (looked for {', '.join(IMAGE_SUFFIXES)})")
    names.sort(key=_natural_key)
    indices = _checked_indices(index_rule(len(names)), total=len(names))
    images = {i: _open_image(os.path.join(folder, names[i])) for i in sorted(set(indices))}
    size = images[indices[0]].size  # images of other sizes follow the first one, as frames of a stream do
    images = {i: image if image.size == size else image.resize(size) for i, image in images.items()}
    metadata = _metadata(len(names), indices, times={}, size=size, backend="pillow")
    return np.stack([np.asarray(images[i]) for i in indices]), metadata


def _open_image(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoDecodingError(repr(path), error) from error


# -- video files -----------------------------------------------------------------------------------------------------


@dataclass
class _Decoded:
    """One pass over the stream: the wanted frames and what was learned on the way."""

    frames: np.ndarray | None  # (T, H, W, 3), rows of frames that never came stay unwritten
    total: int
    times: dict[int, float | None]  # index -> seconds
    rotation: int
    lost: int  # packets that did not decode
    reason: str  # why packets were lost, for the error when nothing came


def _read_file(file: str | BinaryIO, index_rule: IndexRule, *, name: str) -> tuple[np.ndarray, IlaVideoMetadata]:
    if av is None:
        raise ImportError("Reading video files needs PyAV: pip install av")
    name = name if name.startswith("(") else repr(name)
    try:
        scanned, rate, duration = _scan(file, name=name)
        total = scanned
        indices = _checked_indices(index_rule(total), total=total)
        decoded = _decode(file, indices, name=name)
        if decoded.total != total and decoded.total > 0:  # headers promise, packets hint, only decoded frames are true
            total = decoded.total
            indices = _checked_indices(index_rule(total), total=total)
            decoded = _decode(file, indices, name=name)
    except AV_ERRORS as error:
        raise VideoDecodingError(name, _reason(error)) from error
    if decoded.frames is None or decoded.total <= max(indices):
        raise VideoDecodingError(name, decoded.reason or "its video stream holds no frame that decodes")
    lost = max(decoded.lost, scanned - total) if decoded.lost else 0  # one bad packet may cost those that refer to it
    if lost:
        logger.warning("%s: damaged, %d of %d frames are lost", name, lost, total + lost)
    height, width = decoded.frames.shape[1:3]
    metadata = _metadata(total, indices, times=decoded.times, size=(width, height), backend="pyav", fps=rate)
    metadata.duration = duration or (total / rate if rate else None)
    metadata.rotation, metadata.frames_lost = decoded.rotation, lost
    return decoded.frames, metadata


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ArgumentError):  # what FFmpeg says of a format that is not on the list
        return "invalid, or a container format that is not allowed"
    return str(getattr(error, "strerror", None) or error)


@contextmanager
def _open(file: str | BinaryIO, *, name: str) -> Iterator[tuple[Any, Any]]:
    """(container, video stream), closed however the block ends."""
    if not isinstance(file, str):
        file.seek(0)
    with av.open(file, options=OPEN_OPTIONS, metadata_errors="replace") as container:
        yield container, _best_stream(container, name=name)


def _best_stream(container: Any, *, name: str) -> Any:
    """The default video stream, among several the largest; a cover picture is no video."""
    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if s.codec_context is not None and not s.disposition & pictures]
    if not streams:
        raise VideoDecodingError(name, "it has no video stream")
    default = av.stream.Disposition.default
    return max(streams, key=lambda s: (bool(s.disposition & default), s.width * s.height, -s.index))


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """All packets, the last one empty (it flushes the decoder); an unreadable rest ends the stream."""
    try:
        yield from container.demux(stream)
    except AV_ERRORS:
        yield None  # the decoder's spelling of an empty packet


def _scan(file: str | BinaryIO, *, name: str) -> tuple[int, float | None, float | None]:
    """(frames to show, frames per second, seconds), from the packets alone: nothing is decoded."""
    with _open(file, name=name) as (container, stream):
        total = sum(p is not None and p.size > 0 and not p.is_discard for p in _packets(container, stream))
        rate = stream.average_rate or stream.guessed_rate
        duration: float | None = container.duration / av.time_base if container.duration else None
        if stream.duration is not None and stream.time_base is not None:
            duration = float(stream.duration * stream.time_base)
    if total == 0:
        raise VideoDecodingError(name, "its video stream is empty")
    return total, float(rate) if rate else None, duration


def _decode(file: str | BinaryIO, indices: list[int], *, name: str) -> _Decoded:
    """Decode the whole stream, convert and keep only the frames at `indices`."""
    positions: dict[int, list[int]] = {}
    for position, index in enumerate(indices):
        positions.setdefault(index, []).append(position)
    result = _Decoded(frames=None, total=0, times={}, rotation=0, lost=0, reason="")
    with _open(file, name=name) as (container, stream):
        for packet in _packets(container, stream):
            try:
                frames = stream.codec_context.decode(packet)
            except AV_ERRORS as error:
                result.lost += 1
                result.reason = _reason(error)
                continue
            for frame in frames:
                if result.total in positions:
                    _keep(result, frame, positions[result.total], count=len(indices))
                result.total += 1
    return result


def _keep(result: _Decoded, frame: Any, positions: list[int], *, count: int) -> None:
    """Write one frame to its places in the result; frames of another size follow the first one kept."""
    if result.frames is None:
        result.rotation = frame.rotation
        turned = result.rotation // 90 % 2 == 1
        height, width = (frame.width, frame.height) if turned else (frame.height, frame.width)
        result.frames = np.empty((count, height, width, 3), dtype=np.uint8)
    turns = result.rotation // 90
    height, width = result.frames.shape[1:3] if turns % 2 == 0 else result.frames.shape[2:0:-1]
    image = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
    result.frames[positions] = np.rot90(image, k=turns)
    result.times[result.total] = frame.time


# -- shared ----------------------------------------------------------------------------------------------------------


def _checked_indices(indices: Sequence[int], *, total: int) -> list[int]:
    indices = [int(index) for index in indices]
    if not indices or min(indices) < 0 or max(indices) >= total:
        raise ValueError(f"The index rule must give at least one index in [0, {total}); it gave {indices}.")
    return indices


def _metadata(
    total: int,
    indices: list[int],
    *,
    times: dict[int, float | None],
    size: tuple[int, int],
    backend: str,
    fps: float | None = None,
) -> IlaVideoMetadata:
    return IlaVideoMetadata(
        total_num_frames=total,
        fps=fps,
        width=size[0],
        height=size[1],
        video_backend=backend,
        frames_indices=indices,
        timestamps=[times.get(index) for index in indices],
    )

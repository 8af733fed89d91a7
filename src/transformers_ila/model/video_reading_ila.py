"""A video, however it is handed over, to exactly the frames asked for.

What is unusual here:
- the index rule is given the *true* number of frames, never what a header promises;
- packets that cannot be decoded are skipped and counted, so that a damaged file gives what it still holds;
- repeated indices give repeated frames; only wanted frames are converted and kept, so memory is that of the result;
- what a file may cost (pixels, frames, seconds, bytes) and which formats it may have is limited (`ReadLimits`);
- a part of a file is read as if it were all of it: the index rule sees its frames alone.

This file knows the sources; `video_decoding_ila.py` decodes.
"""

import io
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from .video_container_ila import ReadLimits, VideoDecodingError, VideoFile
from .video_decoding_ila import (
    IlaVideoMetadata,
    IndexRule,
    checked_indices,
    count_frames,
    decode_video,
    frame_times,
    scaled_size,
)
from .video_frames_ila import frames_between, upright_rgb
from .video_urls_ila import copy_bytes, download, is_url, redact


VideoSource = str | Path | bytes | bytearray | memoryview | BinaryIO | dict

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
    ".vob", ".webm", ".wmv",
)  # fmt: skip
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
PICTURE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"P5", b"P6", b"RIFF")
JPEG_AFTER_JPEG = b"\xff\xd9\xff\xd8"
IMAGE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # others may start programs, as PostScript does
DEFAULT_LIMITS = ReadLimits()


def read_video(
    source: VideoSource, index_rule: IndexRule, *, short_side: int | None = None, limits: ReadLimits = DEFAULT_LIMITS
) -> tuple[np.ndarray, IlaVideoMetadata]:
    """Read the frames that `index_rule` picks, in its order and with its repeats.

    Args:
        source: path (`str`, `pathlib.Path`), http(s) URL, the file's bytes, a binary file object (read from its
            start, left open), a folder of frame images in natural order, or `{"path": ..., "bytes": ...}`. Such a
            dict may have "start" and "end", too: only the frames shown in these seconds are read, which count from
            the first frame; None or nothing is the file's start and its end.
        index_rule: maps the number of frames the video really has to the indices wanted, each in `[0, total)`. It is
            called once, and again where a file turns out to have more or fewer frames than its packets promised.
        short_side: scale frames down to this short side (pixels) while converting them to RGB. Cheaper than scaling
            afterwards, but not the same pixels (benchmarks/README.md); None leaves them as they are.
        limits: what reading may cost.

    Returns:
        frames `(T, H, W, 3)` uint8 RGB, upright, and their metadata.

    Raises:
        VideoDecodingError: nothing readable there, or a limit met; the message names the source and the reason.
        ValueError: a source of another kind, or an index outside the video.
        ImportError: PyAV is missing (folders of images are read without it).
    """
    if short_side is not None and short_side < 1:
        raise ValueError(f"short_side must be at least 1 pixel, got {short_side}.")
    seconds = seconds_of(source)
    with as_file(source, limits) as video:
        pictures = pictures_of(video)
        if seconds is not None:
            index_rule = _within(index_rule, _times_of(pictures, video), seconds, video)
        if pictures is not None:
            return _read_pictures(pictures, video, index_rule, short_side=short_side)
        return decode_video(video, index_rule, short_side=short_side)


TimedRule = Callable[[int, np.ndarray | None], Sequence[int]]


def read_timed(
    source: VideoSource, index_rule: TimedRule, *, short_side: int | None = None, limits: ReadLimits = DEFAULT_LIMITS
) -> tuple[np.ndarray, IlaVideoMetadata, list[float] | None, tuple[int, int]]:
    """Read frames as `read_video` does, and say when they are shown and how large they are before any scaling.

    Args:
        source, short_side, limits: as in `read_video`; a part of a file is for the rule to choose, by the times.
        index_rule: is given the number of frames F, and when each begins and the last one ends, (F + 1,) seconds after
            the first begins; None of pictures, and where nothing tells. Where a file turns out to have more or fewer
            frames than packets, they are spread evenly.

    Returns:
        Frames (T, H, W, 3) uint8 RGB, upright, and their metadata; T seconds after the first frame of the video, None
        where nothing tells; width and height of the upright video in pixels.
    """
    with as_file(source, limits) as video:
        pictures = pictures_of(video)
        if pictures is not None:
            frames, metadata = _read_pictures(pictures, video, lambda n: index_rule(n, None), short_side=short_side)
            size = (metadata.width, metadata.height)
            return frames, metadata, None, size if short_side is None else open_picture(pictures[0], video).size
        edges, listed = None, None
        try:
            listed = frame_times(video)
            edges = np.array([*(listed.timestamps or ()), listed.duration])
        except VideoDecodingError:  # it has no times, or nothing can be read of it, which decoding finds
            pass

        def rule(total: int) -> Sequence[int]:
            if edges is None or len(edges) == total + 1:
                return index_rule(total, edges)
            return index_rule(total, np.linspace(0, edges[-1], total + 1))

        frames, metadata = decode_video(video, rule, short_side=short_side)
        size = (metadata.width, metadata.height)
        if listed is not None and short_side is not None:
            size = (listed.width, listed.height)[:: -1 if metadata.rotation % 180 else 1]
        return frames, metadata, _seconds(metadata, listed), size


def _seconds(metadata: IlaVideoMetadata, listed: IlaVideoMetadata | None) -> list[float] | None:
    """Return when the frames of `metadata` are shown, in seconds after the first one of the `listed` ones."""
    if listed is None:
        return None
    times, indices = metadata.timestamps or [None], metadata.frames_indices
    if listed.first_time is not None and None not in times:
        return [time - listed.first_time for time in times]  # type: ignore[operator]
    assert listed.timestamps is not None and listed.duration is not None
    step = listed.duration / metadata.total_num_frames
    is_whole = len(listed.timestamps) == metadata.total_num_frames
    return [listed.timestamps[index] if is_whole else index * step for index in indices]  # type: ignore[misc]


def check_video(source: VideoSource, *, limits: ReadLimits = DEFAULT_LIMITS) -> IlaVideoMetadata:
    """Decode all of a video, keep no frame, and return its metadata with every lost or corrupt frame counted.

    `frames_indices` and `timestamps` are empty. Arguments and errors as in `read_video`; a part of a file is checked
    with all of the file.
    """
    with as_file(source, limits) as video:
        pictures = pictures_of(video)
        return count_frames(video) if pictures is None else _check_pictures(pictures, video)


def list_frames(source: VideoSource, *, limits: ReadLimits = DEFAULT_LIMITS) -> IlaVideoMetadata:
    """Return when each frame of a video is shown, without decoding any.

    `timestamps` are seconds after the first frame, ascending; `duration` is when the last one ends. Of a part of a
    file both count from its first frame. Arguments and errors as in `read_video`; pictures have no times, which is a
    VideoDecodingError.
    """
    seconds = seconds_of(source)
    with as_file(source, limits) as video:
        times = _times_of(pictures_of(video), video)
        if seconds is not None:
            edges = _edges(times)
            first, last = _part_of(edges, seconds, video)
            edges = edges[first : last + 1] - edges[first]
            times.timestamps, times.duration = edges[:-1].tolist(), float(edges[-1])
            times.total_num_frames = last - first
        return times


# -- parts of files --------------------------------------------------------------------------------------------------


def seconds_of(source: Any) -> tuple[float, float] | None:
    """Return the start and the end of the part of a file that a source names, in seconds; None of a whole file.

    Raises:
        ValueError: they are no numbers, below 0, or the end is not behind the start.
    """
    given = [source.get(name) for name in ("start", "end")] if isinstance(source, dict) else [None, None]
    if given == [None, None]:
        return None
    start, end = given[0] or 0.0, math.inf if given[1] is None else given[1]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (start, end))
    if not numbers or not 0 <= start < end or not math.isfinite(start):
        raise ValueError(
            f"A part of a video needs 0 <= start < end, in seconds; got start={given[0]!r}, end={given[1]!r}."
        )
    return float(start), float(end)


def _times_of(pictures: list[Any] | None, video: VideoFile) -> IlaVideoMetadata:
    if pictures is not None:
        raise VideoDecodingError(video.name, "pictures have no times")
    return frame_times(video)


def _edges(times: IlaVideoMetadata) -> np.ndarray:
    """Return (F + 1,) seconds: when each frame begins, and when the last one ends."""
    return np.array([*(times.timestamps or ()), times.duration], dtype=np.float64)


def _part_of(edges: np.ndarray, seconds: tuple[float, float], video: VideoFile) -> tuple[int, int]:
    """Return the first frame of a part and the one behind its last; `edges` are as in `frames_between`."""
    start, end = seconds
    if start >= edges[-1]:
        raise VideoDecodingError(
            video.name, f"the part from {start:g} s on is behind its end at {edges[-1]:.3g} s; was it cut out before?"
        )
    return frames_between(edges, start, min(end, float(edges[-1])))


def _within(
    index_rule: IndexRule, times: IlaVideoMetadata, seconds: tuple[float, float], video: VideoFile
) -> IndexRule:
    """Return the rule that picks of a whole file what `index_rule` picks of the part."""
    edges = _edges(times)

    def rule(total: int) -> list[int]:
        fitting = edges if len(edges) == total + 1 else np.linspace(0, edges[-1], total + 1)  # unlike its packets
        first, last = _part_of(fitting, seconds, video)
        return [first + index for index in checked_indices(index_rule(last - first), total=last - first)]

    return rule


# -- sources ---------------------------------------------------------------------------------------------------------


@contextmanager
def as_file(source: Any, limits: ReadLimits) -> Iterator[VideoFile]:
    """Open the source as a file or folder on disk, or a binary file object, with a name for messages."""
    deadline = time.monotonic() + limits.max_seconds

    def video_file(file: Any, name: str) -> VideoFile:
        return VideoFile(file=file, name=name, limits=limits, deadline=deadline)

    if isinstance(source, dict):
        source = _source_of_dict(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield video_file(io.BytesIO(source), f"({len(source)} bytes in memory)")
    elif hasattr(source, "read"):
        name = repr(redact(str(getattr(source, "name", "(file object)"))))
        plain = SeekableFile(source)
        if plain.can_go_back(name):
            yield video_file(plain, name)
        else:
            with tempfile.TemporaryFile(prefix="ila_video_") as file:
                copy = video_file(file, name)
                try:
                    copy_bytes(plain.read, copy)
                except OSError as error:
                    raise VideoDecodingError(name, error) from error
                yield copy
    elif is_url(source):
        with tempfile.TemporaryFile(prefix="ila_video_") as file:  # without a name where the system can: never left
            copy = video_file(file, repr(redact(source)))
            _download(source, copy)
            yield copy
    elif isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        if not (os.path.isfile(path) or os.path.isdir(path)):
            raise VideoDecodingError(repr(redact(path)), why_no_path(path))
        # Absolute, because FFmpeg takes what stands before a colon for a protocol and a leading dash for an option.
        yield video_file(os.path.abspath(path), repr(path))
    else:
        shown = redact(repr(source))
        raise ValueError(
            f"Cannot read a video from {type(source).__name__} {shown:.80}: give a path, an http(s) URL, bytes, a "
            "binary file object, a folder of frame images or a dict with 'path' or 'bytes'."
        )


def _download(url: str, copy: VideoFile) -> None:
    try:
        download(url, copy)
    except VideoDecodingError:
        raise
    except (OSError, HTTPException, ValueError) as error:  # OSError holds URLError and time-outs
        secret = isinstance(error, ValueError) and redact(url) != url  # it may repeat the password
        # not from it: a traceback would show what the message hides
        raise VideoDecodingError(copy.name, "it is no valid URL" if secret else error) from None


def why_no_path(path: str) -> str:
    """Say why a path that is neither a file nor a folder cannot be read, and which slip may be behind it."""
    if "://" in path:
        return "no such file or folder, and of URLs only http and https are read"
    if os.path.lexists(path):
        return "neither a regular file nor a folder"
    if "\\" in path and os.sep != "\\":
        return "no such file or folder; backslashes are characters of a name here: write `/` between folders"
    suffixes = (written for suffix in VIDEO_SUFFIXES for written in (suffix, suffix.upper()))
    found = next((suffix for suffix in suffixes if os.path.isfile(path + suffix)), None)
    hint = "" if found is None else f"; without its suffix? There is {os.path.basename(path) + found!r}"
    return f"no such file or folder{hint}"


def _source_of_dict(source: dict) -> Any:
    """Return the bytes or the path that `datasets.Video(decode=False)` gives; a path may be one inside an archive."""
    for key in ("bytes", "path"):
        if source.get(key) is not None:
            return source[key]
    raise ValueError(f"A video given as a dict needs 'path' or 'bytes'; got the keys {sorted(map(str, source))}.")


class SeekableFile:
    """Wrap a binary file object for the demuxer, which reads, seeks and tells, and knows no error but OSError."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all that are left (-1)."""
        return self._do("read", size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset in bytes, counted as `io.IOBase.seek` does, and return the new position."""
        place = self._do("seek", offset, whence)
        return self.tell() if place is None else place

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._do("tell")

    def _do(self, method: str, *arguments: int) -> Any:
        try:
            return getattr(self.file, method)(*arguments)
        except OSError:
            raise
        except Exception as error:  # whatever gzip, tar, a network file system and others raise
            raise OSError(f"{type(error).__name__}: {error}") from error

    def can_go_back(self, name: str) -> bool:
        """Return whether the file can be rewound, as reading goes back and forth."""
        try:
            if not isinstance(self.read(0), bytes):
                raise ValueError(f"A file object must be opened in binary mode; {name} gives text.")
            self.seek(self.tell())
        except OSError as error:
            if getattr(self.file, "closed", False):
                raise VideoDecodingError(name, "the file object is closed") from error
            return False
        return not hasattr(self.file, "seekable") or self.file.seekable()


# -- pictures --------------------------------------------------------------------------------------------------------


def pictures_of(video: VideoFile) -> list[Any] | None:
    """Return what Pillow reads: the images of a folder, or the file of a picture; None for what FFmpeg reads."""
    if isinstance(video.file, str) and os.path.isdir(video.file):
        return _image_paths(video)
    return [video.file] if _is_for_pillow(video.file) else None


def _is_for_pillow(file: Any) -> bool:
    """Return whether a file is one picture that FFmpeg would not turn upright by its EXIF data, or does not read."""
    try:
        with open(file, "rb") if isinstance(file, str) else nullcontext(file) as opened:
            opened.seek(0)
            if not opened.read(4).startswith(PICTURE_STARTS):
                return False
            opened.seek(0)
            image = Image.open(opened, formats=IMAGE_FORMATS)
            if image.format in ("PPM", "TIFF"):
                return getattr(image, "n_frames", 1) == 1
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
            if image.format == "JPEG":
                return turned and not _goes_on(opened)
            return turned and (image.format == "MPO" or getattr(image, "n_frames", 1) == 1)  # MPO: views of one scene
    except Exception:  # of Pillow or of the file; FFmpeg will say what is wrong
        return False


def _goes_on(file: Any) -> bool:
    """Return whether another JPEG stands directly behind the end of one, as in motion JPEG."""
    file.seek(0)
    last = b""
    while piece := file.read(2**20):
        if JPEG_AFTER_JPEG in last + piece:
            return True
        last = piece[-3:]
    return False


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts frame_10 behind frame_9; its tuples let digits and letters compare."""
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _image_paths(folder: VideoFile) -> list[str]:
    """List a folder's images in natural order: at least one, and at most as many as the limits allow."""
    try:
        names = [n for n in os.listdir(folder.file) if n.lower().endswith(IMAGE_SUFFIXES) and not n.startswith(".")]
    except OSError as error:
        raise VideoDecodingError(folder.name, error) from error
    if not names:
        looked_for = ", ".join(IMAGE_SUFFIXES)
        raise VideoDecodingError(
            folder.name,
            f"no images in this folder (looked for {looked_for}); of several videos list the paths",
        )
    folder.check_count(len(names))
    return [os.path.join(folder.file, name) for name in sorted(names, key=_natural_key)]


def _read_pictures(
    pictures: list[Any], video: VideoFile, index_rule: IndexRule, *, short_side: int | None
) -> tuple[np.ndarray, IlaVideoMetadata]:
    indices = checked_indices(index_rule(len(pictures)), total=len(pictures))
    images: dict[int, np.ndarray] = {}
    size: tuple[int, int] | None = None
    for index in sorted(set(indices)):
        image = open_picture(pictures[index], video)
        if size is None:
            size = scaled_size(*image.size, short_side=short_side)
            video.limits.check_memory(video.name, len(indices), *size)
        # images of other sizes follow the first one, as frames of a file do
        images[index] = np.asarray(image if image.size == size else image.resize(size))
    frames = np.stack([images[index] for index in indices])
    return frames, _metadata(len(pictures), indices, size=frames.shape[2:0:-1])


def _check_pictures(pictures: list[Any], video: VideoFile) -> IlaVideoMetadata:
    good, size, reason = 0, (0, 0), None
    for picture in pictures:
        try:
            size = open_picture(picture, video).size
            good += 1
        except VideoDecodingError as error:
            reason = error
    if good == 0:
        raise VideoDecodingError(video.name, f"none of its {len(pictures)} images can be read: {reason}")
    metadata = _metadata(good, [], size=size)
    metadata.frames_lost = len(pictures) - good
    return metadata


def _metadata(total: int, indices: list[int], *, size: tuple[int, int]) -> IlaVideoMetadata:
    return IlaVideoMetadata(
        total_num_frames=total,
        width=size[0],
        height=size[1],
        video_backend="pillow",
        frames_indices=indices,
        timestamps=[None] * len(indices),
    )


def open_picture(picture: Any, video: VideoFile) -> Image.Image:
    """Open an image, a path or binary file object, upright and in RGB."""
    video.check_time()
    name = repr(picture) if isinstance(picture, str) else video.name
    try:
        if not isinstance(picture, str):
            picture.seek(0)
        with Image.open(picture, formats=IMAGE_FORMATS) as opened:
            video.check_size(*opened.size)
            return upright_rgb(opened)
    except VideoDecodingError as error:
        raise VideoDecodingError(name, error.reason) from error
    except Exception as error:  # what Pillow's readers raise on damaged files is not limited to anything
        raise VideoDecodingError(name, f"{type(error).__name__}: {error}") from error

"""What a user may ask for, checked before anything is decoded; what is refused is said in words."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from ..model.video_container_ila import ReadLimits, VideoDecodingError, opened
from ..model.video_reading_ila import as_file, list_frames, open_picture, pictures_of
from .options import MEBIBYTE, LimitOptions


class AppError(ValueError):
    """Report what a user can mend or should know, in a sentence for the page."""


class Busy(AppError):
    """Report that what was asked for can be had later."""


class VideoFacts(NamedTuple):
    """Hold what is known of a video before it is decoded.

    width, height: pixels, as its container says. seconds: its length, by the times of its packets; 0.0 for a picture.
    """

    width: int
    height: int
    seconds: float


class Deadline:
    """Hold until when an answer may be computed."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds that are left, 0.0 when none are."""
        return max(0.0, self._end - time.monotonic())


def check_video(path: str | Path, name: str, limits: LimitOptions) -> VideoFacts:
    """Check the size, the pixels and the length of a video without decoding it, and return them.

    name: of the video in messages, which never show `path`.

    Raises:
        AppError: a limit is met, or nothing readable lies there; the message says which is allowed.
    """
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise AppError(f"{shown(name)} is no longer here. Choose the video again.") from error
    check_size(size, name, limits)
    wide = ReadLimits(max_seconds=limits.job_seconds, allow_private_addresses=False)
    try:
        with as_file(str(path), wide) as file:
            pictures = pictures_of(file)
            if pictures is not None:
                width, height, seconds = *open_picture(pictures[0], file).size, 0.0
            else:
                with opened(file) as video:
                    width, height = video.decoder.width, video.decoder.height
                _check_pixels(width, height, name, limits)
                seconds = list_frames(str(path), limits=wide).duration or 0.0
    except VideoDecodingError as error:
        raise AppError(reader_words(error, name)) from error
    _check_pixels(width, height, name, limits)
    if seconds > limits.seconds:
        raise AppError(
            f"{shown(name)} is {_duration(seconds)} long; at most {_duration(limits.seconds)} are taken here. "
            "Cut it, or choose a shorter one."
        )
    return VideoFacts(width, height, seconds)


def check_size(size: int, name: str, limits: LimitOptions) -> None:
    """Raise an AppError if a video of `size` bytes is larger than the limits allow."""
    if size > limits.megabytes * MEBIBYTE:
        raise AppError(
            f"{shown(name)} has {size / MEBIBYTE:.1f} megabytes; at most {limits.megabytes:g} are taken here."
        )
    if size == 0:
        raise AppError(f"{shown(name)} is empty.")


def reader_words(error: VideoDecodingError, name: str) -> str:
    """Return what the reader says of a video, under the name that the user knows, without any path of the server."""
    return f"{shown(name)} cannot be read: {error.reason}."


def shown(name: str) -> str:
    """Return a file's name for a message, without its folder."""
    return quoted(os.path.basename(name))


def quoted(text: str) -> str:
    """Return a user's words for a message: in quotes, on one line, and not longer than 80 letters."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    return f"“{text if len(text) <= 80 else text[:39] + '…' + text[-40:]}”"


def _check_pixels(width: int, height: int, name: str, limits: LimitOptions) -> None:
    if width * height > limits.pixels:
        raise AppError(
            f"{shown(name)} has frames of {width} x {height} pixels, {width * height / 1e6:.1f} million; at most "
            f"{limits.pixels / 1e6:.1f} million are taken here. Scale it down."
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} seconds"
    return f"{seconds / 60:.3g} minutes"

"""Videos to views: which frames and crops, in which order, read by how many processes.

What is unusual here:
- what is drawn for a video depends on the seed and the video's name alone: not on batches, workers or ranks;
- a video that cannot be read is an item with its reason, never an exception and never another video;
- frames stay uint8 until they are on the device (`pixel_values_on`): a quarter of the bytes to send and to copy.

Shapes: `V` views, `T` frames of `C` x `H` x `W` pixels.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import VideoDecodingError


PROTOCOLS: dict[str, tuple[int, int]] = {  # name -> clips, crops
    "1x1": (1, 1),
    "4x3": (4, 3),  # the paper's
    "1x3": (1, 3),
    "3x1": (3, 1),
    "10x3": (10, 3),
}
ORIGINAL = "as_is"
FRAME_ORDERS = ("shuffled", "reversed", "single_frame")  # of a clip's frames, beside the true one


@dataclass(frozen=True)
class Views:
    """Which views of a video are taken.

    protocol: a name of `PROTOCOLS`.
    random_frames: draw the frames as training does, and as the release's validation did; the same for the same seed.
    seed: of these draws and of shuffled frames.
    """

    protocol: str = "1x1"
    random_frames: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {self.protocol!r}.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed must be a whole number of 0 or more, got {self.seed!r}.")

    def options(self) -> dict[str, Any]:
        """For the processor."""
        clips, crops = PROTOCOLS[self.protocol]
        return {"num_clips": clips, "num_crops": crops, "random_frames": self.random_frames}


class Video(NamedTuple):
    """What was asked for, and what came of it.

    key: the item of `video_loader`'s `keys`.
    name: what the draws of this video depend on.
    views: (T, C, H, W) or (V, T, C, H, W) uint8, for `pixel_values_on`; None where the video cannot be read, for this
        `reason`.
    frames_lost: packets that gave no frame, as far as they were decoded.
    """

    key: Any
    name: str
    views: torch.Tensor | None
    frames_lost: int = 0
    reason: str = ""


class _Videos(Dataset):
    """Any key to its video; the keys come from the loader's sampler, so they need not all be in memory."""

    def __init__(self, find: Callable[[Any], tuple[str, Any]], read: Callable[..., Any], views: Views) -> None:
        self.find, self.read, self.views = find, read, views

    def __getitem__(self, key: Any) -> Video:
        name, source = self.find(key)
        try:
            if hasattr(source, "load"):
                source = _loaded(source)
            with _drawing_from(draw_seed(self.views.seed, name)):
                inputs = self.read(source)
        except (VideoDecodingError, OSError) as error:
            return Video(key, name, None, reason=str(error) or type(error).__name__)
        return Video(key, name, inputs["pixel_values"][0], inputs["video_metadata"][0].frames_lost)


def _loaded(source: Any) -> Any:
    """The video of a row, which may be empty.

    Raises:
        VideoDecodingError: there is none.
    """
    try:
        video = source.load()
    except ValueError as error:
        raise error if isinstance(error, VideoDecodingError) else VideoDecodingError("the row", str(error)) from error
    empty = isinstance(video, dict) and all(video.get(part) is None for part in ("path", "bytes"))
    if video is None or empty:
        raise VideoDecodingError("the row", "it has none")
    return video


def video_loader(
    processor: IlaVideoProcessor,
    keys: Iterable[Any],
    *,
    find: Callable[[Any], tuple[str, Any]],
    views: Views,
    batch_size: int,
    num_workers: int = 0,
) -> Iterable[Video]:
    """Videos one by one and in the order of `keys`, which are asked for as they are needed.

    Args:
        keys: what stands for a video; anything that can be sent to a worker.
        find: key -> the video's name, and what the processor reads or what has a `load()` that gives it.
        batch_size: with workers, about so many videos are read ahead.
        num_workers: processes that read videos beside this one.

    Raises:
        ValueError: no positive `batch_size`, a negative `num_workers`.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(
            f"batch_size must be 1 or more and num_workers 0 or more, got {batch_size} and {num_workers}."
        )
    unscaled = {"do_rescale": False, "do_normalize": False}
    read = partial(processor.preprocess, **views.options(), **unscaled, return_metadata=True, return_tensors="pt")
    return DataLoader(
        _Videos(find, read, views),
        batch_size=None,
        sampler=keys,
        num_workers=num_workers,
        prefetch_factor=max(2, -(-batch_size // num_workers)) if num_workers else None,
        generator=torch.Generator(),  # or one number would be drawn from the caller's
    )


class Batch(NamedTuple):
    """Videos that were read, and those before and between them that could not be."""

    read: list[Video]
    unreadable: list[Video]

    def views(self) -> torch.Tensor:
        """(B, T, C, H, W) or (B, V, T, C, H, W) uint8, for `pixel_values_on`"""
        return torch.stack([video.views for video in self.read if video.views is not None])


def pixel_values_on(device: torch.device, views: torch.Tensor, processor: IlaVideoProcessor) -> torch.Tensor:
    """Views of `video_loader`, sent to the device and then rescaled and normalised there, as the processor does it."""
    return processor.normalize_on(device, views)


class TimedIterator:
    """Hands on what an iterable gives and counts the seconds that it took to come."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[Any]:
        items, missing = iter(self.items), object()
        while True:
            started = time.perf_counter()
            item = next(items, missing)
            self.seconds += time.perf_counter() - started
            if item is missing:
                return
            yield item


def in_batches(videos: Iterable[Video], *, batch_size: int) -> Iterator[Batch]:
    """Every video once; each batch but the last has `batch_size` readable videos, or none and only unreadable ones."""
    read: list[Video] = []
    unreadable: list[Video] = []
    for video in videos:
        (unreadable if video.views is None else read).append(video)
        if len(read) == batch_size:
            yield Batch(read, unreadable)
            read, unreadable = [], []
        elif len(unreadable) == batch_size:
            yield Batch([], unreadable)
            unreadable = []
    if read or unreadable:
        yield Batch(read, unreadable)


# -- what is drawn ---------------------------------------------------------------------------------------------------


def draw_seed(seed: int, name: str) -> int:
    """A video's own seed; 63 bits."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """torch's generator of the CPU, from which the processor draws, starts at `seed`; afterwards it is what it was."""
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


def permute_frames(video: Video, order: str, *, seed: int) -> torch.Tensor:
    """The same views with their frames in another order, the same in all views.

    Args:
        order: "as_is"; "reversed"; "shuffled": drawn for this video, and not the true one; "single_frame": the middle
            frame of each clip, T times.

    Raises:
        ValueError: another order.
    """
    views = video.views
    assert views is not None, "only of a video that was read"
    frames = views.shape[-4]
    if order == ORIGINAL:
        return views
    if order == "reversed":
        return views.flip(-4)
    if order == "single_frame":
        return views.index_select(-4, torch.full((frames,), frames // 2))
    if order != "shuffled":
        raise ValueError(f"order must be one of {', '.join((ORIGINAL, *FRAME_ORDERS))}, got {order!r}.")
    return views.index_select(-4, shuffled_order(frames, draw_seed(seed, f"shuffled {video.name}")))


def shuffled_order(frames: int, seed: int) -> torch.Tensor:
    """(T,): any order but the true one, each as likely; of a single frame there is no other."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(frames)
    order = true
    while frames > 1 and torch.equal(order, true):
        order = torch.randperm(frames, generator=generator)
    return order

"""Reading videos as views: which frames and crops, in which order, by how many processes.

What is unusual here:
- The random choices for a video depend on the seed and the video's name alone, not on batches, workers or ranks.
- A video that cannot be read is an item with its reason, never an exception and never another video.
- Frames stay uint8 until they are on the device (the processor's `normalize_on`): a quarter of the bytes to send.

Shapes: `V` views, `T` frames of `C` x `H` x `W` pixels.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..distributed import Rank
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import VideoDecodingError
from ..model.video_urls_ila import redact
from .options import FRAME_ORDERS, InferenceOptions


T = TypeVar("T")
ORIGINAL = "as_is"  # the order of frames that a clip has


class Video(NamedTuple):
    """Hold a video that was read, or the reason why it could not be.

    key: the item of `read_views`' `keys` that stands for it.
    name: its name, which random choices for it depend on.
    views: (T, C, H, W) or (V, T, C, H, W) uint8, for the processor's `normalize_on`; None where it could not be read.
    frames_lost: number of packets, among those decoded, that gave no frame.
    reason: why it could not be read, empty otherwise.
    """

    key: Any
    name: str
    views: torch.Tensor | None
    frames_lost: int = 0
    reason: str = ""


class VideoReader:
    """Read one video at a time, in any process.

    processor: of the model.
    options: which clips and crops are read, and what is drawn for a video of its seed and the video's name.
    """

    def __init__(self, processor: IlaVideoProcessor, options: InferenceOptions) -> None:
        unscaled = {"do_rescale": False, "do_normalize": False}
        fixed = {**options.processor_options(), **unscaled, "return_metadata": True, "return_tensors": "pt"}
        self.read: Callable[..., Any] = partial(processor.preprocess, **fixed)
        self.seed = options.seed

    def __call__(self, name: str, source: Any, key: Any = None) -> Video:
        """Return the video, or the reason why it cannot be read.

        Args:
            name: on which the draws depend.
            source: what the processor reads, or what has a `load()` that returns it.
            key: what stands for the video, handed on.
        """
        try:
            if hasattr(source, "load"):
                source = _loaded(source)
            with drawing_from(draw_seed(self.seed, name)):
                inputs = self.read(source)
        except (VideoDecodingError, OSError) as error:
            return Video(key, name, None, reason=redact(str(error)) or type(error).__name__)
        return Video(key, name, inputs["pixel_values"][0], inputs["video_metadata"][0].frames_lost)


class _Videos(Dataset):
    """Read the video of any key; the keys come from the loader's sampler, so they need not all be in memory."""

    def __init__(self, find: Callable[[Any], tuple[str, Any]], read: VideoReader) -> None:
        self.find, self.read = find, read

    def __getitem__(self, key: Any) -> Video:
        return self.read(*self.find(key), key)


def _loaded(source: Any) -> Any:
    """Load the video of a row.

    Raises:
        VideoDecodingError: the row has no video, or its bytes cannot be had.
    """
    try:
        video = source.load()
    except ValueError as error:
        raise error if isinstance(error, VideoDecodingError) else VideoDecodingError("the row", str(error)) from error
    empty = isinstance(video, dict) and all(video.get(part) is None for part in ("path", "bytes"))
    if video is None or empty:
        raise VideoDecodingError("the row", "it has none")
    return video


def read_views(
    processor: IlaVideoProcessor,
    keys: Iterable[Any],
    options: InferenceOptions,
    *,
    find: Callable[[Any], tuple[str, Any]],
    workers: int = 0,
) -> "TimedIterator[Batch]":
    """Read videos batch by batch, in the order of `keys`, each of which is asked for when it is needed.

    Args:
        keys: what stands for a video; anything that can be sent to a worker.
        find: returns the video's name of a key, and what the processor reads or what has a `load()` that returns it.
        workers: processes that read beside this one; with them about one batch is read ahead.

    Returns:
        Batches as `in_batches` makes them, and the seconds that they took to come.
    """
    loader = DataLoader(
        _Videos(find, VideoReader(processor, options)),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        prefetch_factor=max(2, -(-options.batch_size // workers)) if workers else None,
        generator=torch.Generator(),  # or one number would be drawn from the caller's
    )
    return TimedIterator(in_batches(loader, batch_size=options.batch_size))


def workers_beside(device: torch.device, options: InferenceOptions, rank: Rank) -> int:
    """Return how many processes read videos: `options.workers`, or what `device` leaves of this rank's cores."""
    return rank.usual_workers(device.type) if options.workers is None else options.workers


class Batch(NamedTuple):
    """Hold videos that were read, and those before and between them that could not be."""

    read: list[Video]
    unreadable: list[Video]

    def views(self) -> torch.Tensor:
        """Return (B, T, C, H, W) or (B, V, T, C, H, W) uint8, for the processor's `normalize_on`."""
        return torch.stack([video.views for video in self.read if video.views is not None])


class TimedIterator(Generic[T]):
    """Yield the items of an iterable, and add up the `seconds` that they took to come."""

    def __init__(self, items: Iterable[T]) -> None:
        self.items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator[T]:
        items = iter(self.items)
        while True:
            started = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            yield item


def in_batches(videos: Iterable[Video], *, batch_size: int) -> Iterator[Batch]:
    """Yield every video once, in batches of `batch_size` readable videos or of as many unreadable ones.

    A batch has frames of one size: it is smaller where the next video has another (a processor without a crop, or with
    `max_num_patches`), and so is the last.
    """
    read: list[Video] = []
    unreadable: list[Video] = []
    for video in videos:
        if read and video.views is not None and video.views.shape != read[0].views.shape:  # type: ignore[union-attr]
            yield Batch(read, unreadable)
            read, unreadable = [], []
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
    """Return a video's own seed, 63 bits of a hash of `seed` and the video's name."""
    digest = hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Start torch's generator, from which the processor draws on the CPU, at `seed`; restore its state afterwards."""
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)


def permute_frames(video: Video, order: str, *, seed: int) -> torch.Tensor:
    """Return a video's views with their frames in another order, which is one for all views.

    Args:
        order: `ORIGINAL`; "reversed"; "shuffled": drawn for this video, and never the original one; "single_frame":
            the middle frame of each clip, T times.

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
    """Return (T,) indices in any order but the original, each as likely; a single frame has no other order."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.arange(frames)
    order = true
    while frames > 1 and torch.equal(order, true):
        order = torch.randperm(frames, generator=generator)
    return order

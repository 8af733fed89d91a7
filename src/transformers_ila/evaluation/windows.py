"""Windows of videos: some seconds each, read a few at a time, so that a video may be as long as it likes.

Shapes: `W` windows, `N` crops, `T` frames of `C` x `H` x `W` pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers.video_utils import VideoMetadata

from ..model.video_container_ila import ReadLimits, VideoDecodingError
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import list_frames
from ..model.video_urls_ila import redact
from .index_files import Span
from .options import PROTOCOLS, IndexOptions
from .views import TimedIterator, Video, draw_seed, drawing_from


BYTES_AT_ONCE = 2**28  # of decoded frames that are in memory together


class SomeWindows(NamedTuple):
    """Stand for neighbouring windows of a video, which are read together.

    name, path: of the video.
    spans: the seconds of each window.
    edges: (F + 1,), when each frame of the video begins, and when the last one ends.
    is_last: whether these are the last windows of the video.
    reason: why the video cannot be read, empty otherwise.
    """

    name: str
    path: str
    spans: Sequence[Span] = ()
    edges: np.ndarray = np.empty(0)
    is_last: bool = True
    reason: str = ""


def windows_of(duration: float, *, window: float, stride: float, slack: float = 0.0) -> list[Span]:
    """Return start and end of each window of a video, in seconds.

    ```
    video     0 . . . . . . . . . . . 11
    windows   |-------|                    window=4
                  |-------|                stride=2
                      |-------|
                          |-------|        the next would end at 12
                            |-------|      so the last one ends with the video
    ```

    A video that is not longer than a window is one window.

    Args:
        duration: of the video.
        window, stride: length of a window, and from the start of one to that of the next.
        slack: how much of the end may be in no window, such as half a frame.
    """
    count = max(0, int(np.floor((duration - window + slack) / stride)) + 1)
    spans = [(index * stride, min(index * stride + window, duration)) for index in range(count)]
    if not spans or spans[-1][1] < duration - slack:
        spans.append((max(0.0, duration - window), duration))
    return spans


def iter_windows(
    videos: Iterable[tuple[str, str]], processor: IlaVideoProcessor, options: IndexOptions
) -> Iterator[SomeWindows]:
    """Yield the windows of videos, given by name and path, as many at a time as are read together."""
    limits, window = ReadLimits.from_options(processor.read_limits), options.window
    assert window is not None
    for name, path in videos:
        try:
            frames = list_frames(path, limits=limits)
        except (VideoDecodingError, OSError) as error:
            yield SomeWindows(name, path, reason=redact(str(error)) or type(error).__name__)
            continue
        assert frames.timestamps is not None and frames.duration is not None
        edges = np.array([*frames.timestamps, frames.duration])
        slack = frames.duration / len(frames.timestamps) / 2
        spans = windows_of(frames.duration, window=window, stride=options.stride or window, slack=slack)
        size = max(1, 3 * int(frames.width or 1) * int(frames.height or 1) * processor.num_frames)
        step = max(1, BYTES_AT_ONCE // size)
        for first in range(0, len(spans), step):
            yield SomeWindows(name, path, spans[first : first + step], edges, first + step >= len(spans))


def read_windows(
    processor: IlaVideoProcessor, videos: Iterable[tuple[str, str]], options: IndexOptions, *, workers: int = 0
) -> "TimedIterator[Video]":
    """Read the windows of videos, in their order.

    Each item has its `SomeWindows` as key, and as views (W, T, C, H, W) or (W, N, T, C, H, W) uint8 pixels.
    """
    loader = DataLoader(
        _Windows(processor, options),
        batch_size=None,
        sampler=iter_windows(videos, processor, options),
        num_workers=workers,
        generator=torch.Generator(),  # or one number would be drawn from the caller's
    )
    return TimedIterator(loader)


class _Windows(Dataset):
    def __init__(self, processor: IlaVideoProcessor, options: IndexOptions) -> None:
        self.processor, self.options = processor, options

    def __getitem__(self, key: SomeWindows) -> Video:
        if key.reason:
            return Video(key, key.name, None, reason=key.reason)
        seed = draw_seed(self.options.seed, f"{key.name} {key.spans[0][0]}")
        try:
            with drawing_from(seed):
                return self._read(key)
        except (VideoDecodingError, OSError) as error:
            return Video(key, key.name, None, reason=redact(str(error)) or type(error).__name__)

    def _read(self, key: SomeWindows) -> Video:
        _, crops = PROTOCOLS[self.options.protocol]
        pick = partial(self.processor.sample_frames, num_clips=1, random_frames=self.options.random_frames)

        def rule(total: int) -> list[int]:
            edges = key.edges
            if len(edges) != total + 1:  # there are more or fewer frames than packets
                edges = np.linspace(0, edges[-1], total + 1)
            ranges = (frames_between(edges, *span) for span in key.spans)
            return np.concatenate(
                [first + pick(VideoMetadata(total_num_frames=last - first)) for first, last in ranges]
            ).tolist()

        frames, metadata = self.processor.reader(num_crops=crops)(key.path, rule)
        clips = list(frames.reshape(len(key.spans), -1, *frames.shape[1:]))
        views = self.processor.preprocess(
            clips,
            num_clips=1,
            num_crops=crops,
            random_frames=False,
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )["pixel_values"]
        return Video(key, key.name, views, metadata.frames_lost)


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

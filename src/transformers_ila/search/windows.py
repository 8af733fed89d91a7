"""Windows of videos: some seconds each, read a few at a time, so that a video may be as long as it likes.

Shapes: `W` windows, `N` crops, `T` frames of `C` x `H` x `W` pixels.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers.video_utils import VideoMetadata

from ..evaluation.options import PROTOCOLS, IndexOptions
from ..evaluation.views import TimedIterator, Video, draw_seed, drawing_from
from ..model.video_container_ila import ReadLimits, VideoDecodingError
from ..model.video_frames_ila import frames_between
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import list_frames
from ..model.video_urls_ila import redact
from .index_files import Span


BYTES_AT_ONCE = 2**28  # of decoded frames, and of views, that are in memory together


class SomeWindows(NamedTuple):
    """Stand for neighbouring windows of a video, which are read together.

    name, path: of the video.
    spans: the seconds of each window.
    first, total: which window of the video is the first of these, from 0 on, and how many the video has.
    edges: (F + 1,), when each frame of the video begins, and when the last one ends.
    reason: why the video cannot be read, empty otherwise.
    """

    name: str
    path: str
    spans: Sequence[Span] = ()
    first: int = 0
    total: int = 0
    edges: np.ndarray = np.empty(0)
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


class WindowReader:
    """Read windows of one video at a time, in any process.

    processor: of the model.
    options: length and stride of windows, and how their frames are chosen.
    """

    def __init__(self, processor: IlaVideoProcessor, options: IndexOptions) -> None:
        self.processor, self.options = processor, options
        self.crops = PROTOCOLS[options.protocol][1]

    def windows(self, name: str, path: str, source: Any = None) -> list[SomeWindows]:
        """Return the windows of a video, as many at a time as are read together; one without any says why.

        Args:
            name: of the video, on which the draws depend.
            path: where it lies.
            source: what the processor reads in place of the path.
        """
        window, limits = self.options.window, ReadLimits.from_options(self.processor.read_limits)
        assert window is not None
        try:
            frames = list_frames(path if source is None else source, limits=limits)
        except (VideoDecodingError, OSError) as error:
            return [SomeWindows(name, path, reason=redact(str(error)) or type(error).__name__)]
        assert frames.timestamps is not None and frames.duration is not None
        edges = np.array([*frames.timestamps, frames.duration])
        slack = frames.duration / len(frames.timestamps) / 2
        spans = windows_of(frames.duration, window=window, stride=self.options.stride or window, slack=slack)
        step = max(1, BYTES_AT_ONCE // self._bytes_of_window(int(frames.height or 1), int(frames.width or 1)))
        return [
            SomeWindows(name, path, spans[first : first + step], first, len(spans), edges)
            for first in range(0, len(spans), step)
        ]

    def _bytes_of_window(self, height: int, width: int) -> int:
        """Return the bytes of a window's frames, as they are decoded or as views: whichever are more."""
        sides = self.processor.view_sides(height, width)
        return 3 * self.processor.num_frames * max(height * width, self.crops * sides[0] * sides[1])

    def __call__(self, some: SomeWindows, source: Any = None) -> Video:
        """Read windows that `windows` returned, or return the reason why they cannot be read.

        Returns:
            A video with `some` as its key, and as views (W, T, C, H, W) or (W, N, T, C, H, W) uint8 pixels.
        """
        if some.reason:
            return Video(some, some.name, None, reason=some.reason)
        try:
            return self._read(some, some.path if source is None else source)
        except (VideoDecodingError, OSError) as error:
            return Video(some, some.name, None, reason=redact(str(error)) or type(error).__name__)

    def _read(self, some: SomeWindows, source: Any) -> Video:
        def rule(total: int) -> list[int]:
            edges = some.edges
            if len(edges) != total + 1:  # there are more or fewer frames than packets
                edges = np.linspace(0, edges[-1], total + 1)
            return np.concatenate([self._frames(some.name, span, edges) for span in some.spans]).tolist()

        frames, metadata = self.processor.reader(num_crops=self.crops)(source, rule)
        clips = list(frames.reshape(len(some.spans), -1, *frames.shape[1:]))
        views = self.processor.preprocess(
            clips,
            num_clips=1,
            num_crops=self.crops,
            random_frames=False,
            do_rescale=False,
            do_normalize=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )["pixel_values"]
        return Video(some, some.name, views, metadata.frames_lost)

    def _frames(self, name: str, span: Span, edges: np.ndarray) -> np.ndarray:
        """Return the indices (T,) of a window's frames, whose draws depend on no other window."""
        first, last = frames_between(edges, *span)
        with drawing_from(draw_seed(self.options.seed, f"{name} {span[0]}")):
            metadata = VideoMetadata(total_num_frames=last - first)
            return first + self.processor.sample_frames(
                metadata, num_clips=1, random_frames=self.options.random_frames
            )


def read_windows(
    processor: IlaVideoProcessor, videos: Iterable[tuple[str, str]], options: IndexOptions, *, workers: int = 0
) -> "TimedIterator[Video]":
    """Read the windows of videos, given by name and path, in their order; items are those of `WindowReader`."""
    read = WindowReader(processor, options)
    loader = DataLoader(
        _Windows(read),
        batch_size=None,
        sampler=(some for name, path in videos for some in read.windows(name, path)),
        num_workers=workers,
        generator=torch.Generator(),  # or one number would be drawn from the caller's
    )
    return TimedIterator(loader)


class _Windows(Dataset):
    def __init__(self, read: WindowReader) -> None:
        self.read = read

    def __getitem__(self, key: SomeWindows) -> Video:
        return self.read(key)

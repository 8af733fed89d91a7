"""Scores over time: of a stream, in which every frame is computed once, or of windows, in which frames are shared.

What is unusual here:
- A clip is the last `num_frames` frames that were taken of the source, in a stream and in windows alike, so models
  whose frames do not depend on each other give the same scores in both. Before so many frames are there the oldest one
  stands for those missing, and the score is marked as warming up.
- Where nothing came for longer than a clip lasts, a new clip starts, and warms up again: no clip joins what does not
  belong together.

Shapes: `n` frames of `C` x `H` x `W` pixels, `T` frames of a clip, `K` classes.
"""

import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ..evaluation.inference import Network, multi_view_logits, probabilities
from ..model.validation_ila import MULTI_LABEL
from ..model.video_processing_ila import IlaVideoProcessor
from .sources import SOURCE_LIMITS, FrameSource, SourceNote, TimedFrame, open_frames


ROUNDING = 1e-6  # frames, by which products of seconds and rates may be off
RESTART = "restart"  # kind of the note that a new clip starts


class Score(NamedTuple):
    """Hold what a model says of a clip.

    time: seconds after the source's first frame: of a stream the time of the clip's last frame, at which the score
        could be known first; of a window the middle between its first and its last frame.
    probabilities: (K,) float32; they sum to 1, or are independent of each other where several labels may hold at once.
    warming_up: whether fewer than `num_frames` frames were there.
    start: seconds, the time of the clip's first frame.
    """

    time: float
    probabilities: np.ndarray
    warming_up: bool
    start: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Hold which frames are scored.

    rate: frames a second that are taken of the source.
    num_frames: of a clip, T.
    stride: seconds from one score to the next; None: a score for each frame.
    batch_size: windows, or frames of a stream, that are computed together.

    Raises:
        ValueError: a stride below the time between two frames.
    """

    rate: float
    num_frames: int
    stride: float | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.stride is not None and self.frames_per_score < 1 - ROUNDING:
            raise ValueError(
                f"stride must be {1 / self.rate:.4g} s or more, as the model sees {self.rate:g} frames a second; got "
                f"{self.stride:g} s. A higher rate gives more scores a second."
            )

    @property
    def frames_per_score(self) -> float:
        """Return how many frames lie between two scores; any number of 1 or more."""
        return 1.0 if self.stride is None else self.stride * self.rate

    @property
    def clip_seconds(self) -> float:
        """Return how long a clip lasts, up to the end of its last frame."""
        return self.num_frames / self.rate

    def is_gap(self, interval: float, usual: float) -> bool:
        """Return whether so many seconds between two frames are more than a clip lasts.

        usual: seconds between the two frames before them. A source may give fewer frames than `rate`; then a clip of
            its frames lasts longer.
        """
        return interval > max(self.clip_seconds, self.num_frames * usual) + ROUNDING

    def is_scored(self, seen: int) -> bool:
        """Return whether the `seen`-th frame since the start has a score; that of the first whole clip has one."""
        slot, before = (
            math.floor((seen - self.num_frames - back) / self.frames_per_score + ROUNDING) for back in (0, 1)
        )
        return slot > before


class GapDetector:
    """Tell where a source has a gap: where nothing came for longer than a clip lasts, and a new clip starts."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._last: float | None = None  # seconds, of the last frame
        self._usual = math.inf  # seconds between the last two frames without a gap

    def gap_before(self, frame_time: float) -> float | None:
        """Take the next frame's time in seconds; return how long nothing came before it, or None without a gap."""
        interval = math.inf if self._last is None else frame_time - self._last
        self._last = frame_time
        if self._usual < math.inf and self.sampling.is_gap(interval, self._usual):
            return interval
        self._usual = interval
        return None


def restart_note(frame_time: float, gap: float) -> SourceNote:
    """Return the note that a new clip starts with the frame of a time, as nothing came for `gap` seconds."""
    text = f"nothing came for {gap:.2f} s, longer than a clip lasts: a new clip starts"
    return SourceNote(frame_time, RESTART, text)


def last_frame_time(time: float, start: float, mode: str) -> float:
    """Return the seconds of the last frame of a score's clip.

    time, start: those of the score (`Score`). mode: "stream" or "windows".
    """
    return time if mode == "stream" else 2 * time - start


@dataclass
class Cost:
    """Count what was computed: frames taken, seconds of preparing them and of the model."""

    frames: int = 0
    preparing: float = 0.0
    computing: float = 0.0


def open_for_model(source: Any, processor: IlaVideoProcessor, sampling: Sampling, **options: Any) -> FrameSource:
    """Open a source at the rate and size at which a model sees it, within the limits of its processor.

    options: further ones of `open_frames`, whose errors are raised.
    """
    own: Any = processor.read_limits or {}
    reader: Any = processor.reader()
    limits, size = replace(SOURCE_LIMITS, **own), reader.keywords["short_side"]
    return open_frames(source, rate=sampling.rate, limits=limits, size=size, **options)


def prepare_frames(processor: IlaVideoProcessor, images: Sequence[np.ndarray]) -> torch.Tensor:
    """Resize and crop frames as a call of the processor does.

    Args:
        processor: of the model.
        images: (H, W, 3) uint8 RGB frames of one size.

    Returns:
        (n, C, H, W) uint8 pixels, for the processor's `normalize_on`.
    """
    views = processor.preprocess(
        [image[None] for image in images],
        num_frames=1,
        do_sample_frames=False,
        num_clips=1,
        num_crops=1,
        do_rescale=False,
        do_normalize=False,
        input_data_format="channels_last",
    )["pixel_values"]
    return torch.cat(list(views))


def pixels_of(processor: IlaVideoProcessor, image: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the pixel values (C, H, W) of a frame (H, W, 3) uint8 RGB, as a call of the processor gives them."""
    return processor.normalize_on(device, prepare_frames(processor, [image]))[0]


def window_of(frames: Sequence[torch.Tensor], num_frames: int) -> torch.Tensor:
    """Return a clip (T, C, H, W) of at most T frames (C, H, W), the first one repeated in front where some lack."""
    return torch.stack([frames[0]] * (num_frames - len(frames)) + list(frames))


def checked_probabilities(logits: torch.Tensor, times: Sequence[float], *, multi_label: bool) -> np.ndarray:
    """Return the probabilities (N, K) float32 of logits (N, K).

    Raises:
        ValueError: logits that are not finite; it names their time, of `times` (N,) in seconds.
    """
    for row, moment in zip(logits, times):
        if not bool(row.isfinite().all()):
            raise ValueError(f"The model's logits are not finite (NaN or infinite) at {moment:.2f} s.")
    return probabilities(logits, multi_label=multi_label).float().numpy()


class _Frame(NamedTuple):
    """Hold a frame as the model sees it: its time in seconds and its pixel values (C, H, W)."""

    time: float
    pixels: torch.Tensor


@dataclass
class _Chunk:
    """Hold frames that follow one another, and which of them have a score.

    fresh, last: whether a new clip starts with the first of them, and whether none follows on the last one.
    notes: what the source said among them.
    """

    fresh: bool
    last: bool = False
    frames: list[_Frame] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    notes: list[SourceNote] = field(default_factory=list)


def _chunks(
    source: Iterable[TimedFrame | SourceNote],
    processor: IlaVideoProcessor,
    device: torch.device,
    sampling: Sampling,
    cost: Cost,
) -> Iterator[_Chunk]:
    """Yield the frames of a source, `batch_size` of them together; the last one before an end always has a score.

    Where the source raises an error or is interrupted, those before come first.
    """
    chunk, seen, gaps = _Chunk(fresh=True), 0, GapDetector(sampling)
    try:
        for item in source:
            if isinstance(item, SourceNote):
                chunk.notes.append(item)
                continue
            started = time.perf_counter()
            frame = _Frame(item.time, pixels_of(processor, item.image, device))
            cost.preparing += time.perf_counter() - started
            gap = gaps.gap_before(frame.time)
            if gap is not None:
                chunk.notes.append(restart_note(frame.time, gap))
                yield _closed(chunk)
                chunk, seen = _Chunk(fresh=True), 0
            elif len(chunk.frames) == sampling.batch_size:
                yield chunk
                chunk = _Chunk(fresh=False)
            seen += 1
            cost.frames += 1
            if sampling.is_scored(seen):
                chunk.scored.append(len(chunk.frames))
            chunk.frames.append(frame)
    except (Exception, KeyboardInterrupt):  # what came before it is scored, too
        yield _closed(chunk)
        raise
    yield _closed(chunk)


def _closed(chunk: _Chunk) -> _Chunk:
    """Return the chunk as the last one before an end: its last frame has a score."""
    chunk.last = True
    last = len(chunk.frames) - 1
    if chunk.frames and last not in chunk.scored:
        chunk.scored.append(last)
    return chunk


def stream_scores(
    network: Network,
    processor: IlaVideoProcessor,
    source: Iterable[TimedFrame | SourceNote],
    sampling: Sampling,
    cost: Cost | None = None,
) -> Generator[Score | SourceNote, None, None]:
    """Push the frames of a source through a model that can stream; yield its scores, and the source's notes.

    Args:
        network: as `evaluating` yields it.
        processor: of the model.
        source: frames and notes, as `open_frames` yields them.
        sampling: which frames have a score; `num_frames` must be the model's.
        cost: counts what is computed.

    Raises:
        ValueError: logits that are not finite.
    """
    cost = cost or Cost()
    times: deque[float] = deque(maxlen=sampling.num_frames)
    due: dict[int, tuple[float, bool, float]] = {}  # number of a frame that has a score -> all of it but probabilities
    seen = 0
    for chunk in _chunks(source, processor, network.device, sampling, cost):
        if chunk.frames:
            if chunk.fresh:
                cache, seen = network.module.start_stream(), 0
                times.clear()
            for index, frame in enumerate(chunk.frames):
                times.append(frame.time)
                if index in chunk.scored:
                    due[seen] = (frame.time, len(times) < sampling.num_frames, times[0])
                seen += 1
            pixel_values = torch.stack([frame.pixels for frame in chunk.frames])[None]
            yield from _pushed(network, cache, pixel_values, seen, due, cost)
            if chunk.last and due:  # a single frame, which an old checkpoint holds back until a second one comes
                yield from _pushed(network, cache, pixel_values[:, -1:], seen + 1, due, cost)
        yield from chunk.notes


def _pushed(
    network: Network,
    cache: Any,
    pixel_values: torch.Tensor,
    seen: int,
    due: dict[int, tuple[float, bool, float]],
    cost: Cost,
) -> Iterator[Score]:
    """Push frames (1, n, C, H, W), `seen` with all before them, and yield the scores that are due."""
    started = time.perf_counter()
    keep = seen - min(due, default=seen)
    output = network.module.push(pixel_values, cache, logits_to_keep=keep)
    rows = output.logits[0].float().cpu() if keep else torch.empty(0, 0)
    cost.computing += time.perf_counter() - started
    for number, row in zip(output.frames[0].tolist()[-len(rows) :], rows):
        if number in due:
            moment, warming_up, start = due.pop(number)
            yield Score(moment, _probabilities(network, row[None], [moment])[0], warming_up, start)


def window_scores(
    network: Network,
    processor: IlaVideoProcessor,
    source: Iterable[TimedFrame | SourceNote],
    sampling: Sampling,
    cost: Cost | None = None,
) -> Generator[Score | SourceNote, None, None]:
    """Compute each clip of a source anew, by any model; yield scores and notes.

    Frames that several windows share are prepared once. Arguments and errors are those of `stream_scores`.
    """
    cost = cost or Cost()
    ring: deque[_Frame] = deque(maxlen=sampling.num_frames)
    waiting: list[list[_Frame]] = []
    for chunk in _chunks(source, processor, network.device, sampling, cost):
        if chunk.fresh:
            yield from _window_batch(network, waiting, sampling, cost)
            ring.clear()
        for index, frame in enumerate(chunk.frames):
            ring.append(frame)
            if index in chunk.scored:
                waiting.append(list(ring))
            if len(waiting) == sampling.batch_size:
                yield from _window_batch(network, waiting, sampling, cost)
        if chunk.notes or chunk.last:
            yield from _window_batch(network, waiting, sampling, cost)
            yield from chunk.notes
    yield from _window_batch(network, waiting, sampling, cost)


def _window_batch(network: Network, windows: list[list[_Frame]], sampling: Sampling, cost: Cost) -> Iterator[Score]:
    """Yield the scores of windows, and forget the windows."""
    if not windows:
        return
    started = time.perf_counter()
    missing = [sampling.num_frames - len(window) for window in windows]
    clips = [window_of([frame.pixels for frame in window], sampling.num_frames) for window in windows]
    pixel_values = torch.stack(clips)
    logits = multi_view_logits(network.module, pixel_values)
    cost.computing += time.perf_counter() - started
    middles = [(window[0].time + window[-1].time) / 2 for window in windows]
    chances = _probabilities(network, logits, middles)
    starts = [window[0].time for window in windows]
    windows.clear()
    for middle, chance, lacks, start in zip(middles, chances, missing, starts):
        yield Score(middle, chance, lacks > 0, start)


def _probabilities(network: Network, logits: torch.Tensor, times: Sequence[float]) -> np.ndarray:
    return checked_probabilities(logits, times, multi_label=network.module.config.problem_type == MULTI_LABEL)

"""From a video of any length to a timeline: scores over time, and segments.

What is unusual here:
- A video is read once, frame after frame, and what is in memory does not grow with its length but for the scores,
  4 bytes a class and score, which `keep_scores=False` leaves out.
- What was found before a video broke off, or before Ctrl-C, is a timeline too; `stopped` says why it ends there.

Shapes: `N` scores, `K` classes.
"""

import math
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..evaluation.inference import Network, evaluating
from ..model.streaming_ila import why_no_stream
from ..model.validation_ila import MULTI_LABEL
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from ..version import __version__
from .options import DEFAULT_RATE, TimelineOptions
from .rules import SegmentOptions
from .scores import RESTART, Cost, Sampling, Score, last_frame_time, open_for_model, stream_scores, window_scores
from .segments import Segment, SegmentTracker
from .sources import FrameSource, SourceNote


logger = logging.get_logger(__name__)

DEFAULTS, SEGMENT_DEFAULTS = TimelineOptions(), SegmentOptions()
BROKEN_OFF = "end_early"  # kind of the note that the source is longer than what could be read
VIDEO_FAILURES = (ValueError, OSError, RuntimeError, MemoryError)  # what ends one video, and no other
Progress = Callable[[float, float | None], object]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Hold what a model says of a video over time.

    video: its name.
    labels: (K,) names of the classes.
    times: (N,) float64 seconds after the video's first frame, for which each score speaks (`Score.time`).
    starts: (N,) float64 seconds, of the first frame that each score depends on.
    scores: (N, K) float32 probabilities.
    warming_up: (N,) bool, where fewer than `num_frames` frames were seen.
    segments: in the order of their starts.
    notes: what was remarkable about the video, in its order.
    settings: how it was computed (`choose_settings`: model, mode, rate, ...), and what was measured: frames, seconds,
        and `label_delay_ms`.
    duration: seconds, up to the end of the last frame that was read.
    start: seconds from where players begin to count to the first frame; players and subtitles count from there.
    stopped: why the timeline ends before the video does ("interrupted", or an error); None where it is complete.
    """

    video: str
    labels: Sequence[str]
    times: np.ndarray
    starts: np.ndarray
    scores: np.ndarray
    warming_up: np.ndarray
    segments: Sequence[Segment] = ()
    notes: Sequence[SourceNote] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    duration: float = 0.0
    start: float = 0.0
    stopped: str | None = None

    @property
    def complete(self) -> bool:
        """Return whether the whole video was read."""
        return self.stopped is None


class TimelineInterrupted(KeyboardInterrupt):
    """Report Ctrl-C while a video was read.

    timeline: what was found until then.
    """

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(f"interrupted at {timeline.duration:.1f} s of {timeline.video}")
        self.timeline = timeline


def timeline(
    model: Any,
    processor: IlaVideoProcessor,
    video: Any,
    options: TimelineOptions = DEFAULTS,
    segment_options: SegmentOptions = SEGMENT_DEFAULTS,
    *,
    name: str | None = None,
    progress: Progress | None = None,
) -> Timeline:
    """Ask a model about a video of any length, and find where its labels begin and end.

    Args:
        model: any classifier of this package, also one that `load_zero_shot` returned or that has words by
            `set_labels`.
        processor: of the model.
        video: what `open_frames` takes, such as a path or an http(s) URL.
        options: see `TimelineOptions`.
        segment_options: see `SegmentOptions`.
        name: of the video; by default its path.
        progress: called with the seconds of the video that are done, and its duration as far as that is known.

    Returns:
        A timeline; `stopped` says why one ends before its video does.

    Raises:
        VideoDecodingError, OSError: nothing of the video can be read.
        ValueError: options that contradict the model, or logits that are not finite.
        TimelineInterrupted: Ctrl-C; it holds the timeline until then.
    """
    (found,) = timelines(model, processor, [(name, video)], options, segment_options, progress=progress)
    if isinstance(found, Exception):
        raise found
    return found


def timelines(
    model: Any,
    processor: IlaVideoProcessor,
    videos: Iterable[tuple[str | None, Any]],
    options: TimelineOptions = DEFAULTS,
    segment_options: SegmentOptions = SEGMENT_DEFAULTS,
    *,
    progress: Progress | None = None,
) -> Iterator[Timeline | Exception]:
    """Yield the timeline of each of several videos, given by name and source, or the error that says why it has none.

    The model is prepared once. Other arguments, and what ends all videos, are those of `timeline`.
    """
    sampling, settings = choose_settings(model, processor, options)
    tracker = SegmentTracker(
        list(model.config.class_names), segment_options, settings["multi_label"], clip_lag=clip_lag_of(settings)
    )
    settings["segments"] = {**asdict(tracker.rules), "clip_lag": tracker.clip_lag}
    with evaluating(model, options.inference_options()) as network:
        settings |= {"device": str(network.device), **network.describe()}
        for name, video in videos:
            name = redact(str(video)) if name is None and isinstance(video, (str, Path)) else name or "video"
            run = _Run(network, processor, name, sampling, settings, segment_options, options.keep_scores)
            try:
                yield run.read(video, progress)
            except VIDEO_FAILURES as error:
                yield error


def choose_settings(
    model: Any, processor: IlaVideoProcessor, options: TimelineOptions
) -> tuple[Sampling, dict[str, Any]]:
    """Return which frames are scored, and the settings that a timeline says.

    The rate is that of the options, else that of the clips that the model was trained on, as far as its configuration
    says it (`frame_rate`), else two frames a second, which a warning says.

    Raises:
        ValueError: a mode that the model does not have, with the reason; a stride below the time between two frames.
    """
    trained = getattr(model.config, "frame_rate", None)
    rate, origin = (options.rate, "option") if options.rate is not None else (trained, "configuration")
    if rate is None:
        rate, origin = DEFAULT_RATE, "default"
        logger.warning(
            f"Nothing says how many frames a second the model was trained on (frame_rate): it sees {rate:g} of them. "
            "Set a rate to choose."
        )
    why_not = why_windows(model, processor)
    if options.mode == "stream" and why_not is not None:
        raise ValueError(f"mode is 'stream', and the model has no stream, as {why_not}; allowed: 'windows' or 'auto'.")
    mode = ("stream" if why_not is None else "windows") if options.mode == "auto" else options.mode
    sampling = Sampling(
        rate=rate, num_frames=processor.num_frames, stride=options.stride, batch_size=options.batch_size
    )
    settings = {
        "model": str(model.config._name_or_path) or type(model).__name__,
        "version": __version__,
        "mode": mode,
        "why_windows": why_not if mode == "windows" else None,
        "rate": rate,
        "rate_from": origin,
        "num_frames": sampling.num_frames,
        "clip_seconds": sampling.clip_seconds,
        "stride": sampling.frames_per_score / rate,
        "multi_label": model.config.problem_type == MULTI_LABEL,
    }
    return sampling, settings


def clip_lag_of(settings: dict[str, Any]) -> float:
    """Return the share of its clip by which a score comes late (`SegmentTracker`): a stream's has its end's time."""
    return 0.5 if settings["mode"] == "stream" else 0.0


def why_windows(model: Any, processor: IlaVideoProcessor) -> str | None:
    """Return why a model takes windows, in words that follow "as"; None where it can stream."""
    reason = why_no_stream(model.config)
    if reason is None and processor.num_frames != model.config.num_frames:
        return f"the processor takes {processor.num_frames} frames, and the model's stream {model.config.num_frames}"
    return reason


class _Run:
    """Read one video, and hold what was found so far."""

    def __init__(
        self,
        network: Network,
        processor: IlaVideoProcessor,
        name: str,
        sampling: Sampling,
        settings: dict[str, Any],
        segment_options: SegmentOptions,
        keep_scores: bool,
    ) -> None:
        self.network, self.processor, self.name, self.sampling = network, processor, name, sampling
        self.settings, self.keep_scores = settings, keep_scores
        self.labels = list(network.module.config.class_names)
        self.tracker = SegmentTracker(
            self.labels, segment_options, settings["multi_label"], clip_lag=clip_lag_of(settings)
        )
        # of all scores, as compact as they can be: a number each for `times` and `starts`, K numbers for `scores`
        self.times, self.starts, self.scores, self.warming_up = array("d"), array("d"), array("f"), array("b")
        self.segments: list[Segment] = []
        self.notes: list[SourceNote] = []
        self.cost, self.started = Cost(), time.perf_counter()
        self.count = 0  # of scores
        self.shortest = math.inf  # seconds from the first to the last frame of a whole clip
        self.end = 0.0  # seconds, of what the last score has seen

    def read(self, video: Any, progress: Progress | None) -> Timeline:
        """Read the video, and return its timeline; raise the error where nothing of it was found."""
        if self.settings["rate_from"] != "option" and isinstance(video, (str, Path)) and Path(video).is_dir():
            raise ValueError(f"Nothing says how many pictures of {str(video)!r} are a second: set a rate.")
        give = stream_scores if self.settings["mode"] == "stream" else window_scores
        stopped: str | None = None
        with open_for_model(video, self.processor, self.sampling) as source:
            scores = give(self.network, self.processor, source, self.sampling, self.cost)
            try:
                with closing(scores):
                    for item in scores:
                        self.take(item)
                        if progress is not None:
                            progress(min(self.end, source.duration or self.end), source.duration)
            except KeyboardInterrupt as interrupt:
                raise TimelineInterrupted(self.result(source, "interrupted")) from interrupt
            except VIDEO_FAILURES as error:
                if not self.count:
                    raise
                stopped = redact(str(error)) or type(error).__name__
            return self.result(source, stopped)

    def take(self, item: Score | SourceNote) -> None:
        """Take the next score or note."""
        if isinstance(item, SourceNote):
            self.notes.append(item)
            if item.kind == RESTART:
                self.finish(min(self.end, item.time))
            return
        self.count += 1
        last = last_frame_time(item.time, item.start, self.settings["mode"])
        self.end = last + 1 / self.sampling.rate
        if not item.warming_up:
            self.shortest = min(self.shortest, last - item.start)
        self.segments += [change.segment for change in self.tracker.push(item) if change.kind == "end"]
        if self.keep_scores:
            self.times.append(item.time)
            self.starts.append(item.start)
            self.scores.frombytes(item.probabilities.tobytes())
            self.warming_up.append(item.warming_up)

    def finish(self, end: float) -> None:
        """End the segments that last until the source's end, or until a gap."""
        self.segments += [change.segment for change in self.tracker.finish(end) if change.kind == "end"]

    def result(self, source: FrameSource, stopped: str | None) -> Timeline:
        """Return the timeline of what was read."""
        known = math.inf if source.duration is None else source.duration
        duration = known if stopped is None and known < math.inf else min(self.end, known)
        self.finish(duration)
        stopped = stopped or next((note.text for note in self.notes if note.kind == BROKEN_OFF), None)
        return Timeline(
            video=self.name,
            labels=self.labels,
            times=np.array(self.times, np.float64),
            starts=np.array(self.starts, np.float64),
            scores=np.array(self.scores, np.float32).reshape(-1, len(self.labels)),
            warming_up=np.array(self.warming_up, bool),
            segments=sorted(self.segments, key=lambda segment: (segment.start, segment.end)),
            notes=self.notes,
            settings=self.settings | self.measured(source),
            duration=duration,
            start=source.start or 0.0,
            stopped=stopped,
        )

    def measured(self, source: FrameSource) -> dict[str, Any]:
        """Return what was measured of the video: frames, seconds, and the delay from an action to its label.

        Of an action that has just begun, half of the clip shows it after half a clip, and all of it after a whole one;
        then computing takes its time. A source that gives fewer frames than `rate` has longer clips.
        """
        cost, frames, step = self.cost, self.sampling.num_frames, 1 / self.sampling.rate
        if frames > 1 and self.shortest < math.inf:
            step = max(step, self.shortest / (frames - 1))
        per_score = 1000 * (cost.preparing + cost.computing) / max(1, self.count)
        return {
            "frames_decoded": source.decoded,
            "frames_taken": cost.frames,
            "scores": self.count,
            "seconds": time.perf_counter() - self.started,
            "seconds_computing": cost.preparing + cost.computing,
            "label_delay_ms": {
                "half_clip": 1000 * math.ceil(frames / 2) * step,
                "whole_clip": 1000 * frames * step,
                "computing": per_score,
            },
        }

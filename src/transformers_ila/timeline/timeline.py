"""From a video of any length to a timeline: scores over time, and segments.

What is unusual here:
- A video is read once, frame after frame, and what is in memory does not grow with its length but for the scores,
  4 bytes a class and score, which `keep_scores=False` leaves out.
- What was found before a video broke off, or before Ctrl-C, is a timeline too; `stopped` says why it ends there.

Shapes: `N` scores, `K` classes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..evaluation.inference import Network, evaluating
from ..model.validation_ila import MULTI_LABEL
from ..model.video_container_ila import ReadLimits, VideoDecodingError
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from ..version import __version__
from .options import DEFAULT_RATE, TimelineOptions
from .scores import RESTART, Cost, Sampling, Score, stream_scores, window_scores
from .segments import Segment, SegmentOptions, SegmentTracker
from .sources import FrameSource, SourceNote, open_frames


DEFAULTS, SEGMENT_DEFAULTS = TimelineOptions(), SegmentOptions()
BROKEN_OFF = "end_early"  # kind of the note that the source is longer than what could be read
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
    settings: how it was computed, and with which delays (`TimelineSettings`).
    duration: seconds, up to the end of the last frame that was read.
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
    stopped: str | None = None

    @property
    def complete(self) -> bool:
        """Return whether the whole video was read."""
        return self.stopped is None

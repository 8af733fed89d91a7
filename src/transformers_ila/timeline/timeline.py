"""From a video of any length to a timeline: scores over time, and segments.

Shapes: `N` scores, `K` classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Hold what a model says of a video over time.

    video: its name.
    labels: (K,) names of the classes.
    times: (N,) float64 seconds after the video's first frame, of the last frame that each score depends on.
    starts: (N,) float64 seconds, of the first frame that each score depends on.
    scores: (N, K) float32 probabilities.
    warming_up: (N,) bool, where fewer than `num_frames` frames were seen.
    segments: `Segment(label, start, end, score)`, in the order of their starts.
    notes: `SourceNote(time, kind, text)`, what was remarkable about the video.
    settings: how it was computed: rate and where it is from, mode, stride, delays, options of segments, ...
    duration: seconds, up to the end of the last frame that was read.
    stopped: why the timeline ends before the video does ("interrupted", or an error); None where it is complete.
    """

    video: str
    labels: Sequence[str]
    times: np.ndarray
    starts: np.ndarray
    scores: np.ndarray
    warming_up: np.ndarray
    segments: Sequence[Any] = ()
    notes: Sequence[Any] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    duration: float = 0.0
    stopped: str | None = None

    @property
    def complete(self) -> bool:
        """Return whether the whole video was read."""
        return self.stopped is None

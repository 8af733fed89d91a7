"""Scores over time: of a stream, in which every frame is computed once, or of windows, in which frames are shared.

Shapes: `n` frames of `C` x `H` x `W` pixels, `K` classes.
"""

from typing import NamedTuple

import numpy as np


class Score(NamedTuple):
    """Hold what a model says of the last `num_frames` frames that it saw, at one moment.

    time: seconds after the source's first frame, of the last frame that the score depends on.
    probabilities: (K,) float32; they sum to 1, or are independent of each other where several labels may hold at once.
    warming_up: whether fewer than `num_frames` frames were there; the oldest one then stands for those missing.
    start: seconds, of the first frame that the score depends on; (start + time) / 2 is the middle of the clip.
    """

    time: float
    probabilities: np.ndarray
    warming_up: bool
    start: float

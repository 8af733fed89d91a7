"""What was found in a video: all that pictures are drawn from.

Shapes: `T` frames, `h`, `w` patch rows and columns.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from .temporal_inspection import TemporalInspection


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Hold what a model saw in a video; all tensors are float32 on the CPU.

    video, model: their names, without folders and secrets.
    labels: the best five (name, probability), the best first; none of a model whose classes have no names.
    frames: the pixels that the model saw, (T, 3, H, W), from 0 to 1.
    times: when each frame is shown, (T,) seconds after the first frame of the video; None of frames without times.
    indices: of the frames in the video, T numbers.
    size: width and height of the upright video in pixels.
    crop: left, top, right and bottom of what the model saw, in these pixels. Where the processor pads, it is larger
        than the video, and the first two are below 0.
    grid: h and w.
    layers: indices of the layers that were looked at.
    points: layer -> (T, 2), the interactive point of each frame, x and y from -1, the centre of the first patch, to 1,
        that of the last: of the pair in which it is the current frame (`pairs_to_frames`). Of a causal tower the first
        frame's is that of its pair with itself.
    masks: layer -> (T, h, w), the alignment masks around these points.
    features: layer -> (T, h, w), the mean over the channels of the layer's output, or its norm.
    information: layer -> (T-1,), the mutual information of neighbouring frames in nats (`mutual_information`).
    distances: layer -> (T-1,), their earth mover's distance (`earth_movers_distance`). Both are, of the last layer, of
        what the tower hands on, as in `ila analyse`.
    temporal: what `inspect_temporal` found of the tower's temporal module; None if nothing of it was asked for.
    notes: sentences that say what the pictures do not mean.
    about: what they are made of: model, fingerprint, versions, seed, video, layers, frames; strings, numbers, lists.
    """

    video: str
    model: str
    labels: list[tuple[str, float]]
    frames: torch.Tensor
    times: torch.Tensor | None
    indices: list[int]
    size: tuple[int, int]
    crop: tuple[float, float, float, float]
    grid: tuple[int, int]
    layers: tuple[int, ...]
    points: dict[int, torch.Tensor] = field(default_factory=dict)
    masks: dict[int, torch.Tensor] = field(default_factory=dict)
    features: dict[int, torch.Tensor] = field(default_factory=dict)
    information: dict[int, torch.Tensor] = field(default_factory=dict)
    distances: dict[int, torch.Tensor] = field(default_factory=dict)
    temporal: TemporalInspection | None = None
    notes: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

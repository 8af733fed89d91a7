"""How scores over time are computed: the options of `timeline`, `ila timeline` and `ila stream`."""

import math
from dataclasses import dataclass, field
from typing import Any

from ..evaluation.options import DTYPES, InferenceOptions, require_one_of, require_seconds


MODES = ("auto", "stream", "windows")
HIGHEST_RATE = 1000.0  # frames a second, above every camera of a recogniser
DEFAULT_RATE = 2.0  # frames a second, where nobody knows what the model was trained on


@dataclass(frozen=True, kw_only=True)
class TimelineOptions:
    """Hold at which times a model is asked about a video, and how it computes.

    Raises:
        ValueError: a value that is not allowed.
    """

    _argument_group_name = "scores over time"

    rate: float | None = field(
        default=None,
        metadata={
            "help": "frames a second that the model sees, whatever the video's rate; default: that of the clips it "
            f"was trained on, where its configuration says so (frame_rate), else {DEFAULT_RATE:g}"
        },
    )
    mode: str = field(
        default="auto",
        metadata={
            "help": "stream: each frame is computed once; windows: each clip of num_frames frames anew; auto: stream "
            "where no frame of the model depends on a later one",
            "choices": MODES,
        },
    )
    stride: float | None = field(
        default=None,
        metadata={"help": "seconds from one score to the next; default: a score for every frame that the model sees"},
    )
    batch_size: int = field(default=8, metadata={"help": "windows, or frames of a stream, computed together"})
    device: str | None = field(
        default=None, metadata={"help": "where to compute, such as cpu or cuda:0; default: a GPU, else the CPU"}
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "precision to compute in; auto: bfloat16 where the processor has instructions for it, else "
            "float32; default: that of the weights",
            "choices": DTYPES,
        },
    )
    fuse: bool = field(default=True, metadata={"help": "compute with `model.fuse()` where that is possible"})
    keep_scores: bool = field(
        default=True,
        metadata={"help": "keep the scores beside the segments, 4 bytes a class and score"},
    )

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, MODES)
        if self.rate is not None:
            require_rate("rate", self.rate)
        require_seconds("stride", self.stride)
        self.inference_options()  # which checks the others

    def inference_options(self) -> InferenceOptions:
        """Return the options of device, number type and fusing under which the model computes."""
        same: dict[str, Any] = {name: getattr(self, name) for name in ("batch_size", "device", "dtype", "fuse")}
        return InferenceOptions(**same)


def require_rate(name: str, value: Any) -> None:
    """Raise a ValueError that names the option and its value, unless it is a number of frames a second."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not 0 < value <= HIGHEST_RATE:
        raise ValueError(f"{name} must be frames a second, above 0 and at most {HIGHEST_RATE:g}, got {value!r}.")

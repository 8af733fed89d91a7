"""How many frames a second training clips have: the rate at which a model has learned to see motion.

A clip of eight frames over ten seconds shows another motion than one over two: whoever runs a model along a longer
video or a stream samples it at this rate (`IlaConfig.frame_rate`).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from transformers.video_utils import VideoMetadata

from ..model.video_container_ila import ReadLimits, VideoDecodingError
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_reading_ila import list_frames
from .samples import Sample


MOST_VIDEOS = 64  # whose median stands for a whole set


def median_frame_rate(samples: Iterable[Sample], processor: IlaVideoProcessor) -> float | None:
    """Return the median over videos of `clip_frame_rate`; None where no video tells.

    Videos are not decoded, only their packets are listed. Those that cannot be read are passed over.

    Args:
        samples: the videos; all of them are read.
        processor: says which frames a clip takes.
    """
    limits, rates = ReadLimits.from_options(processor.read_limits), list[float]()
    for sample in samples:
        try:
            times = list_frames(sample.source(), limits=limits).timestamps
        except (VideoDecodingError, OSError):  # training reports it
            continue
        rate = clip_frame_rate(times or (), processor)
        if rate is not None:
            rates.append(rate)
    return float(f"{np.median(rates):.6g}") if rates else None


def clip_frame_rate(times: Sequence[Any], processor: IlaVideoProcessor) -> float | None:
    """Return the frames a second of the processor's middle clip of a video; None where that has no two frames.

    Frames that a short video gives several times count once, as no stream gives a frame twice.

    times: the seconds at which the video's frames are shown, ascending.
    """
    if not times:
        return None
    whole = VideoMetadata(total_num_frames=len(times))
    taken = np.unique(processor.sample_frames(whole, num_clips=1, random_frames=False))
    seconds = times[taken[-1]] - times[taken[0]]
    return (len(taken) - 1) / seconds if seconds > 0 else None


def spread(samples: Sequence[Any]) -> list[Any]:
    """Return up to `MOST_VIDEOS` of a list, evenly over it."""
    places = np.linspace(0, len(samples) - 1, min(len(samples), MOST_VIDEOS)).astype(int)
    return [samples[place] for place in places]

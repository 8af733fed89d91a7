"""How many frames a second clips have: by every rule of sampling, also at uneven rates, and where nothing tells."""

import numpy as np
import pytest
from PIL import Image

from support.videos import write_video
from transformers_ila import IlaVideoProcessor
from transformers_ila.data.frame_rates import MOST_VIDEOS, clip_frame_rate, median_frame_rate, spread
from transformers_ila.data.samples import Sample
from transformers_ila.data.video_folder import VideoFolder


@pytest.mark.parametrize(
    ("rule", "rate"),
    [
        ({"frame_sampling": "uniform"}, 7 / 9.9),  # from the first of 100 frames to the last, at 10 a second
        ({"frame_sampling": "segments"}, 7 / 8.7),  # from the middle of the first eighth to that of the last
        ({"frame_sampling": "dense", "frame_stride": 4}, 10 / 4),
        ({"frame_sampling": "uniform", "random_frames": True}, 7 / 9.9),
        ({"frame_sampling": "uniform", "num_clips": 3}, 7 / 9.9),
    ],
)
def test_a_clips_rate_is_that_of_the_frames_taken(rule, rate):
    times = np.arange(100) / 10
    assert clip_frame_rate(times.tolist(), IlaVideoProcessor(num_frames=8, **rule)) == pytest.approx(rate, rel=0.02)


def test_times_are_counted_not_frames():
    processor = IlaVideoProcessor(num_frames=4, frame_sampling="uniform")
    assert clip_frame_rate([0.0, 0.1, 0.2, 10.0], processor) == pytest.approx(0.3)
    assert clip_frame_rate([5.0, 6.0], processor) == 1  # two frames, twice each: a stream has no frame twice
    for nothing in ([], [0.0], [1.0, 1.0]):
        assert clip_frame_rate(nothing, processor) is None
    assert clip_frame_rate([0.0, 1.0], IlaVideoProcessor(num_frames=1)) is None


def test_the_median_passes_over_what_cannot_be_read(tmp_path):
    processor = IlaVideoProcessor(num_frames=2, frame_sampling="uniform")
    good = [write_video(tmp_path / f"{frames}.mp4", frames) for frames in (26, 51, 11)]  # of 1, 2 and 0.4 seconds
    (tmp_path / "bad.mp4").write_bytes(b"damaged")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "0.png")
    unknown = [tmp_path / "bad.mp4", tmp_path / "absent.mp4", pictures]
    samples = [Sample(str(path), (0,), path.name) for path in [*unknown, *good]]
    assert median_frame_rate(samples, processor) == pytest.approx(1.0)
    assert median_frame_rate(samples[:3], processor) is None
    assert VideoFolder([(path, 0) for path in good], processor).frame_rate() == pytest.approx(1.0)


def test_a_long_list_is_measured_all_over():
    assert spread(range(1000))[:2] == [0, 15] and spread(range(1000))[-1] == 999
    assert len(spread(range(1000))) == MOST_VIDEOS and spread(range(3)) == [0, 1, 2] and spread([]) == []

"""H.264 files: sizes, colours, times and words survive; what cannot be written is named."""

from fractions import Fraction

import av
import numpy as np
import pytest

from transformers_ila.model.video_reading_ila import list_frames, read_video
from transformers_ila.video_writing import write_mp4


CORNERS = [[r, g, b] for r in (0, 255) for g in (0, 255) for b in (0, 255)]  # the most saturated colours


def everything(path):
    return read_video(path, range)


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (64, 256)])
def test_colours_come_back(tmp_path, height, width):
    """Of a reader that believes the marks, and of one that takes BT.601 in the limited range for granted."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[: height // 2] = np.repeat(CORNERS, width // 8, axis=0)
    frame[height // 2 :] = np.linspace(0, 255, width).round()[None, :, None]
    write_mp4(tmp_path / "a.mp4", [frame] * 3, quality=10)
    middle = np.arange(8) * width // 8 + width // 16
    with av.open(str(tmp_path / "a.mp4")) as container:
        (picture, *_), stream = list(container.decode(video=0)), container.streams.video[0]
        assert (picture.format.name, stream.codec_context.name, len(container.streams)) == ("yuv420p", "h264", 1)
        assert (picture.colorspace, picture.color_range) == (6, 1)  # BT.601, 16 to 235
        plain = picture.reformat(format="rgb24", src_colorspace="ITU601", src_color_range="MPEG")
    for found in (everything(tmp_path / "a.mp4")[0][0], plain.to_ndarray()):
        wrong = abs(found.astype(int) - frame)
        assert wrong[height // 4, middle].max() <= 4 and wrong[height * 3 // 4].max() <= 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 64), (64, 33), (77, 101), (2, 2)])
def test_any_size(tmp_path, height, width):
    frame = np.random.default_rng(0).integers(0, 2, (1, width, 3)).repeat(height, 0).astype(np.uint8) * 90 + 80
    write_mp4(tmp_path / "a.mp4", iter([frame, frame]), quality=1)
    found, _ = everything(tmp_path / "a.mp4")
    assert found.shape == (2, height + height % 2, width + width % 2, 3)
    grey, written = found[0].astype(int).mean(-1), frame.astype(int).mean(-1)
    assert (
        abs(grey[:height, :width] - written).mean() < 8
    )  # colours are kept for two by two pixels, brightness for each
    assert abs(grey[:height, -1] - grey[:height, width - 1]).max() <= 3 and abs(grey[-1] - grey[height - 1]).max() <= 3


def test_times_of_their_own(tmp_path):
    times = np.cumsum([0.25, 0.01, 0.3, 1 / 90000, 2.0, 1 / 29.97])
    frames = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
    write_mp4(tmp_path / "a.mp4", iter(frames), times=iter(times))
    found = everything(tmp_path / "a.mp4")[1]
    assert found.timestamps == pytest.approx(times, abs=1e-5)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        end = times[-1] + times[-1] - times[-2]
        assert float((stream.start_time + stream.duration) * stream.time_base) == pytest.approx(end, abs=1e-4)


@pytest.mark.parametrize("fps", [8, 30000 / 1001, 23.976, Fraction(25), 0.5])
def test_rates(tmp_path, fps):
    write_mp4(tmp_path / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=fps)
    assert list_frames(tmp_path / "a.mp4").timestamps == pytest.approx(np.arange(4) / float(fps), abs=1e-4)


def test_words_and_shape_of_pixels(tmp_path):
    words = '{"video": "a;b=c\\\\#\\n"}' + "x" * 100_000
    write_mp4(tmp_path / "a.mp4", np.zeros((2, 16, 32, 3), np.uint8), comment=words, pixel_aspect=64 / 45)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.metadata["comment"] == words
    assert everything(tmp_path / "a.mp4")[1].pixel_aspect == pytest.approx(64 / 45)
    content = (tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # browsers play before they have all


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "no frames"),
        ([np.zeros((4, 4, 3))], {}, r"frame 0 is \(4, 4, 3\) float64"),
        ([np.zeros((3, 4, 4), np.uint8)], {}, r"frame 0 is \(3, 4, 4\) uint8"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 6, 3), np.uint8)], {}, r"\(4, 6, 3\) comes after \(4, 4, 3\)"),
        (np.zeros((3, 4, 4, 3), np.uint8), {"times": [0, 1]}, "2 times, and more frames"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"times": [0, 1, 2]}, "more times than frames"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"times": [0, 0]}, "frame 1 has 0"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"times": [-1, 0]}, "frame 0 has -1"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"times": [0, float("nan")]}, "frame 1 has nan"),
        (np.zeros((2, 4, 4, 3), np.uint8), {"fps": 0}, "`fps` must be positive, got 0"),
    ],
)
def test_what_is_no_video(tmp_path, frames, options, message):
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "a.mp4", frames, **options)

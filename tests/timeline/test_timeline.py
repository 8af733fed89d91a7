"""A video to a timeline: times, settings, what is kept when it ends early, and what stays in memory."""

import logging
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from support.evaluation_models import LABELS, make_model
from support.videos import write_video
from transformers_ila import IlaVideoProcessor, VideoDecodingError
from transformers_ila.timeline import SegmentOptions, TimelineInterrupted, TimelineOptions, timelines
from transformers_ila.timeline import scores as scores_module
from transformers_ila.timeline import timeline as read_timeline_of
from transformers_ila.timeline.calibration import segments_of
from transformers_ila.timeline.sources import SourceNote, TimedFrame


SURE = SegmentOptions(smoothing=0.0, threshold=0.15, min_length=0.0, max_gap=0.0)


@pytest.fixture(scope="module", params=["stream", "windows"])
def model(request):
    return make_model(alignment_causal=request.param == "stream")


@pytest.fixture(scope="module")
def processor(model):
    return IlaVideoProcessor.for_model(model.config)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Seconds: 1.48."""
    return write_video(tmp_path_factory.mktemp("videos") / "a.mp4", 37)


@pytest.fixture
def source(monkeypatch):
    """Return a function that sets what is read: items, or an error that is raised in its place."""

    def set_items(items, duration=None):
        class Source(SimpleNamespace):
            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.closed = True

            def __iter__(self):
                for item in items:
                    if isinstance(item, BaseException):
                        raise item
                    yield item

        opened = Source(duration=duration, decoded=0, start=0.0, closed=False)
        monkeypatch.setattr(scores_module, "open_frames", lambda *args, **kwargs: opened)
        return opened

    return set_items


def frame(index, time=None):
    """One of seven images, at two frames a second unless a time is given."""
    image = np.random.default_rng(index % 7).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    return TimedFrame(index / 2 if time is None else time, image, index, 0.0)


def test_a_video(model, processor, video):
    seen = []
    found = read_timeline_of(
        model, processor, video, TimelineOptions(rate=5.0), SURE, progress=lambda *values: seen.append(values)
    )
    streams, count = model.config.vision_config.alignment_causal, 8
    assert found.settings["mode"] == ("stream" if streams else "windows")
    assert (found.settings["rate"], found.settings["rate_from"]) == (5.0, "option")
    assert ("without alignment_causal" in str(found.settings["why_windows"])) is not streams
    last = np.arange(count) / 5
    np.testing.assert_allclose(found.starts, np.maximum(0, last - 0.6), atol=1e-9)
    np.testing.assert_allclose(found.times, last if streams else (last + found.starts) / 2, atol=1e-9)
    assert found.warming_up.tolist() == [True] * 3 + [False] * (count - 3)
    assert found.scores.shape == (count, len(LABELS)) and np.allclose(found.scores.sum(1), 1, atol=1e-5)
    assert found.complete and found.duration == pytest.approx(1.48) and list(found.labels) == LABELS
    assert (
        found.settings["label_delay_ms"]["half_clip"],
        found.settings["label_delay_ms"]["whole_clip"],
    ) == pytest.approx((400, 800))
    assert found.segments == segments_of(found, SURE) and found.segments
    assert seen[-1][1] == pytest.approx(1.48) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_rate_is_the_models_or_a_default_that_is_said(model, processor, video, caplog):
    logging.getLogger("transformers_ila").propagate = True
    model.config.frame_rate = 5.0
    try:
        found = read_timeline_of(model, processor, video)
        assert (found.settings["rate"], found.settings["rate_from"]) == (5.0, "configuration") and not caplog.text
        model.config.frame_rate = None
        found = read_timeline_of(model, processor, video)
        assert (found.settings["rate"], found.settings["rate_from"]) == (2.0, "default")
        assert "it sees 2 of them" in caplog.text
    finally:
        model.config.frame_rate = None


def test_what_contradicts_the_model(model, processor, video):
    if not model.config.vision_config.alignment_causal:
        with pytest.raises(ValueError, match="the model has no stream, as .* 'windows' or 'auto'"):
            read_timeline_of(model, processor, video, TimelineOptions(mode="stream"))
    with pytest.raises(ValueError, match="stride must be 0.5 s or more, as .* sees 2 frames a second; got 0.2"):
        read_timeline_of(model, processor, video, TimelineOptions(rate=2.0, stride=0.2))
    with pytest.raises(VideoDecodingError):
        read_timeline_of(model, processor, b"no video")


def test_what_was_found_before_an_end_is_kept(model, processor, source):
    options = TimelineOptions(rate=2.0, batch_size=2)
    whole = [frame(index) for index in range(6)]
    opened = source([*whole, VideoDecodingError("x", "broke off")], duration=60.0)
    found = read_timeline_of(model, processor, "x", options, SURE)
    assert not found.complete and "broke off" in found.stopped and opened.closed
    assert 0 < len(found.times) <= 6 and found.duration <= 3.0
    assert all(segment.end <= found.duration for segment in found.segments)
    source([*whole, KeyboardInterrupt()], duration=60.0)
    with pytest.raises(TimelineInterrupted) as stop:
        read_timeline_of(model, processor, "x", options, SURE)
    assert stop.value.timeline.stopped == "interrupted" and len(stop.value.timeline.times) == len(found.times)
    source([*whole, SourceNote(3.0, "end_early", "the file is cut")])
    assert read_timeline_of(model, processor, "x", options).stopped == "the file is cut"
    source([OSError("gone")])
    with pytest.raises(OSError, match="gone"):
        read_timeline_of(model, processor, "x", options)


def test_one_failing_video_ends_alone(model, processor, video):
    names = [("a", video), ("b", b"no video"), ("c", video)]
    first, second, third = timelines(model, processor, names, TimelineOptions(rate=5.0))
    assert isinstance(second, VideoDecodingError) and (first.video, third.video) == ("a", "c")
    np.testing.assert_array_equal(first.scores, third.scores)


def test_logits_that_are_not_finite_end_the_video(processor, source):
    model = make_model()
    torch.nn.init.constant_(model.vision_model.post_layernorm.weight, float("nan"))
    source([frame(index) for index in range(3)])
    with pytest.raises(ValueError, match=r"logits are not finite \(NaN or infinite\) at 0.00 s"):
        read_timeline_of(model, processor, "x", TimelineOptions(rate=2.0))


def test_no_segment_reaches_over_a_gap(model, processor, source):
    late = [frame(index, index / 2 + 60) for index in range(6, 12)]
    source([*(frame(index) for index in range(6)), *late], duration=66.0)
    found = read_timeline_of(model, processor, "x", TimelineOptions(rate=2.0), SURE)
    assert [note.kind for note in found.notes] == ["restart"] and found.warming_up.sum() == 6
    assert found.segments and all(segment.end <= 3.0 or segment.start >= 63.0 for segment in found.segments)


def test_memory_does_not_grow_with_the_video(model, processor, source):
    alive, most = [], 0

    class Image(np.ndarray):  # which can be watched
        pass

    def endless(count):
        nonlocal most
        for index in range(count):
            image = frame(index).image.view(Image)
            alive.append(weakref.ref(image))
            most = max(most, sum(one() is not None for one in alive))
            yield TimedFrame(index / 2, image, index, 0.0)
            del image

    options = TimelineOptions(rate=2.0, keep_scores=False, stride=5.0)
    source(endless(40))
    found = read_timeline_of(model, processor, "x", options, SURE)
    assert most <= 3 and found.scores.shape == (0, len(LABELS)) and found.settings["scores"] >= 4
    source([frame(index) for index in range(40)])
    kept = read_timeline_of(model, processor, "x", TimelineOptions(rate=2.0, stride=5.0), SURE)
    assert found.segments == kept.segments and len(kept.times) == found.settings["scores"]


def test_several_labels_may_hold_at_once(video):
    model = make_model(problem_type="multi_label_classification")
    found = read_timeline_of(
        model,
        IlaVideoProcessor.for_model(model.config),
        video,
        TimelineOptions(rate=5.0),
        SegmentOptions(threshold=0.1),
    )
    assert found.settings["multi_label"] and not np.allclose(found.scores.sum(1), 1, atol=1e-2)
    assert len({segment.label for segment in found.segments}) > 1

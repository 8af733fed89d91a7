"""Sequences: what is shown when, in which split, at which rate; and the files."""

import itertools
import json

import numpy as np
import pytest

from transformers_ila import read_video
from transformers_ila.data.video_folder import find_videos
from transformers_ila.motionbench import sequences
from transformers_ila.motionbench.sequences import (
    BACKGROUND,
    MotionSequence,
    clips_of,
    write_sequence,
    write_sequences,
)
from transformers_ila.motionbench.tasks import MOTIONS
from transformers_ila.timeline.detection_metrics import read_segments


def test_a_sequence_depends_on_its_fields_alone():
    one = np.stack(list(MotionSequence(seconds=6, index=3).frames()))
    assert one.shape == (48, 32, 32, 3) and one.dtype == np.uint8
    assert np.array_equal(one, np.stack(list(MotionSequence(seconds=6, index=3).frames())))
    for other in ({"index": 4}, {"seed": 1}, {"split": "train"}):
        assert not np.array_equal(one, np.stack(list(MotionSequence(**{"seconds": 6, "index": 3, **other}).frames())))


@pytest.mark.parametrize("seed", range(5))
def test_stretches_fill_the_time(seed):
    sequence = MotionSequence(seconds=90.5, seed=seed, fps=25)
    parts = sequence.stretches
    assert parts[0].start == 0 and parts[-1].end == sequence.frame_count == round(90.5 * 25)
    assert all(one.end == other.start < other.end for one, other in itertools.pairwise(parts))
    assert all(part.label is None or part.end - part.start >= 25 for part in parts)
    for one, other in itertools.pairwise(parts):
        assert other.label is None or one.label != other.label  # two without a pause would be one
        assert other.cut or not one.empty  # a sprite that comes is another one
    assert {part.label for part in parts} > {None} and any(part.empty for part in parts)
    truth = sequence.truth()
    assert truth["duration"] == pytest.approx(sequence.frame_count / 25)
    assert len(truth["annotations"]) == sum(part.label is not None for part in parts)
    for moment in (0.0, 33.3, 90.0):
        shown = [row["label"] for row in truth["annotations"] if row["segment"][0] <= moment < row["segment"][1]]
        assert sequence.label_at(round(moment * 25)) == (shown or [BACKGROUND])[0]


@pytest.mark.parametrize("task, fps", [(None, 8), (None, 15), ("direction", 8), ("order", 16), ("camera", 8)])
def test_it_moves_when_the_truth_says_so(task, fps):
    sequence = MotionSequence(seconds=30, task=task, fps=fps, index=1)
    frames = np.stack(list(sequence.frames())).astype(int)
    assert len(frames) == sequence.frame_count
    changes = np.abs(np.diff(frames, axis=0)).max((1, 2, 3))  # from frame i to i + 1
    for before, part in itertools.pairwise([None, *sequence.stretches]):
        inside = changes[part.start : part.end - 1]  # the step into a stretch may be a cut
        if part.label is None:
            assert not inside.any()
        elif task != "order":  # where lights change now and then
            assert (inside > 0).all()
        else:
            assert inside.any()
        if part.label and not part.cut and before is not None:
            assert changes[part.start - 1] > 0  # it moves from its first frame on


def test_motions_take_the_same_time_at_any_rate():
    slow, fast = (list(MotionSequence(seconds=20, fps=fps, index=2).frames()) for fps in (8, 16))
    parts = MotionSequence(seconds=20, fps=8, index=2).stretches
    first = parts[0]
    assert np.array_equal(slow[0], fast[0]) and first.label is None
    assert [part.label for part in parts] == [p.label for p in MotionSequence(seconds=20, fps=16, index=2).stretches]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"split": "dev"}, "split must be one of train, val, test, got 'dev'"),
        ({"task": "variable rate"}, "task must be None or one of direction"),
        ({"seconds": 0}, "a frame or more"),
        ({"seconds": float("nan")}, "a frame or more"),
        ({"fps": 0}, "got 60.0 s at 0 fps"),
        ({"side": 33}, "side must be even, 16 or more, got 33"),
    ],
)
def test_what_is_no_sequence(given, message):
    with pytest.raises(ValueError, match=message):
        MotionSequence(**given)


def test_a_file_and_its_truth(tmp_path):
    sequence = MotionSequence(seconds=10, fps=12)
    truth = read_segments(write_sequence(tmp_path / "ten.mp4", sequence))["ten"]
    assert truth.duration == 10.0 and {segment.label for segment in truth.segments} <= set(MOTIONS)
    frames, metadata = read_video(tmp_path / "ten.mp4", lambda total: range(total))
    assert len(frames) == 120 and metadata.fps == pytest.approx(12)


def test_clips_have_the_class_of_their_middle():
    sequence = MotionSequence(seconds=30, index=1)
    frames = np.stack(list(sequence.frames()))
    clips = list(clips_of(sequence))
    assert len(clips) == 28 and {label for label, _ in clips} <= {BACKGROUND, *MOTIONS}
    place = 0
    for label, clip in clips:
        while not np.array_equal(frames[place : place + 16], clip):
            place += 1  # raises nothing: it is found, or the slices end
            assert place < len(frames)
        assert label == sequence.label_at(place + 8)


def test_a_set_is_written_once_and_can_be_trained_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sequences.SEQUENCE_SIZES, "tiny", {"train": 1, "val": 1, "test": 1, "seconds": 8})
    folders = write_sequences(tmp_path, size="tiny", task="rotation")
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders.values()] == [["00000.mp4"]] * 3
    clips = sorted((tmp_path / "clips").rglob("*.mp4"))
    labels, samples = find_videos(
        tmp_path / "clips" / "test", labels=["nothing", *MotionSequence(task="rotation").labels]
    )
    assert len(clips) == 3 * len(samples) == 18
    assert json.loads((tmp_path / "test.json").read_text())["database"].keys() == {"00000"}
    before = {path: path.stat().st_mtime_ns for path in clips}
    write_sequences(tmp_path, size="tiny", task="rotation")
    assert before == {path: path.stat().st_mtime_ns for path in clips}
    with pytest.raises(ValueError, match="holds other sequences"):
        write_sequences(tmp_path, size="tiny", seed=1)
    with pytest.raises(ValueError, match="`size` must be one of tiny, minute, hour, got 'year'"):
        write_sequences(tmp_path, size="year")

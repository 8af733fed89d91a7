"""Segments against truth: hand examples, a plain form of ActivityNet's protocol, and the files that are read."""

import json

import numpy as np
import pytest

from transformers_ila.timeline.detection_metrics import (
    SegmentFileError,
    VideoSegments,
    evaluate_segments,
    overlap_of,
    read_segments,
    truth_of,
)
from transformers_ila.timeline.segments import Segment


def video(*rows, duration=None, announced=None):
    """Rows are label, start, end and, of found ones, score."""
    return VideoSegments([Segment(*row, *[1.0] * (4 - len(row))) for row in rows], duration, announced)


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_overlap():
    one = Segment("a", 0.0, 4.0, 1.0)
    for start, end, expected in ((0, 4, 1.0), (2, 6, 2 / 6), (1, 2, 0.25), (4, 8, 0.0), (9, 9, 0.0)):
        assert overlap_of(one, Segment("a", start, end, 1.0)) == expected


def test_numbers_by_hand():
    truth = {
        "one": video(("run", 0, 4), ("jump", 6, 8), ("run", 10, 14), duration=20.0),
        "other": video(("jump", 1, 2)),
    }
    found = {
        "one.mp4": video(
            ("run", 1, 4, 0.9),  # overlap 0.75
            ("run", 0, 4, 0.8),  # a better one, but later: nothing is left for it
            ("jump", 6, 12, 0.7),  # overlap 1/3
            ("run", 16, 20, 0.95),  # a false alarm
            announced=[("run", 1.5), ("jump", 7.0), ("run", 16.0)],
        )
    }
    metrics = evaluate_segments(found, truth)
    assert metrics["average_precision"] == {
        "jump": {"0.3": 1.0, "0.5": 0.0, "0.7": 0.0},
        "run": {"0.3": 0.25, "0.5": 0.25, "0.7": 0.25},  # the second of three; one true segment has none
    }
    assert metrics["mean_average_precision"] == {"0.3": 0.625, "0.5": 0.125, "0.7": 0.125}
    assert metrics["f1"] == {"0.3": pytest.approx(4 / 7), "0.5": pytest.approx(2 / 7), "0.7": pytest.approx(2 / 7)}
    # right from 0 to 4, 4 to 6, 6 to 8, 14 to 16; wrong from 8 to 14, where "jump" is too long, and in the alarm
    assert (metrics["frame_accuracy"], metrics["nothing_accuracy"]) == (10 / 20, 10 / 20)
    assert metrics["start_error"] == {"median": 0.0, "absolute_90": 0.0, "count": 2}
    assert metrics["delay"] == {"median": 1.25, "90": pytest.approx(1.45), "count": 2, "missed": 1}
    assert metrics["false_alarms_per_minute"] == pytest.approx(3.0)
    assert (metrics["videos"], metrics["videos_left_out"], metrics["true_segments"]) == (1, 1, 3)
    assert json.loads(json.dumps(metrics)) == metrics


def test_overlapping_labels_are_right_together():
    truth = {"v": video(("run", 0, 6), ("jump", 4, 10))}
    metrics = evaluate_segments({"v": video(("run", 0, 10), ("jump", 4, 10))}, truth)
    assert metrics["frame_accuracy"] == 0.6 and metrics["nothing_accuracy"] == 0.0  # 6 to 10 has one label too many


def test_numbers_over_nothing():
    metrics = evaluate_segments({"v": video()}, {"v": video(duration=0.0)})
    assert metrics["mean_average_precision"] == {"0.3": None, "0.5": None, "0.7": None} == metrics["f1"]
    assert metrics["frame_accuracy"] is metrics["false_alarms_per_minute"] is metrics["delay"] is None
    quiet = evaluate_segments({"v": video(announced=[])}, {"v": video(duration=60.0)})
    assert quiet["frame_accuracy"] == 1.0 and quiet["false_alarms_per_minute"] == 0.0
    assert quiet["delay"] == {"median": None, "90": None, "count": 0, "missed": 0}
    empty = evaluate_segments({"v": video()}, {"v": video(("run", 0, 1))})
    assert empty["mean_average_precision"]["0.5"] == 0.0 and empty["frame_accuracy"] == 0.0
    strange = evaluate_segments({"v": video(("walk", 0, 1))}, {"v": video(("run", 0, 1))})
    assert strange["average_precision"].keys() == {"run"} and strange["f1"]["0.3"] == 0.0


# -- against a plain form --------------------------------------------------------------------------------------------


def plain_average_precision(label, found, truth, threshold):
    """ActivityNet's loop over one class and one threshold, and its area of the interpolated curve."""
    rows = [(place, name, s) for place, name in enumerate(found) for s in found[name].segments if s.label == label]
    rows.sort(key=lambda row: (-row[2].score, row[0]))
    true = {name: [s for s in truth[name].segments if s.label == label] for name in truth}
    total, taken, right = sum(map(len, true.values())), set(), []
    for _, name, segment in rows:
        right.append(0)
        overlaps = [overlap_of(segment, other) for other in true[name]]
        for place in np.argsort(overlaps, kind="stable")[::-1]:
            if overlaps[place] < threshold:
                break
            if (name, place) not in taken:
                taken.add((name, place))
                right[-1] = 1
                break
    recall = np.concatenate([[0], np.cumsum(right) / total, [1]])
    precision = np.concatenate([[0], np.cumsum(right) / np.arange(1, len(right) + 1), [0]])
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def random_videos(rng, scored):
    videos = {}
    for name in "xyz":
        rows = []
        for _ in range(rng.integers(1, 9)):
            start = rng.uniform(0, 20)
            score = float(rng.choice([0.2, 0.5, rng.uniform()])) if scored else 1.0
            rows.append((str(rng.choice(["a", "b"])), start, start + rng.uniform(1, 9), score))
        videos[name] = video(*rows, duration=30.0)
    return videos


@pytest.mark.parametrize("seed", range(30))
def test_average_precision_equals_the_plain_form(seed):
    rng = np.random.default_rng(seed)
    found, truth = random_videos(rng, True), random_videos(rng, False)
    metrics = evaluate_segments(found, truth, overlaps=(0.1, 0.3, 0.5, 1.0))
    for label, values in metrics["average_precision"].items():
        for overlap in (0.1, 0.3, 0.5, 1.0):
            expected = plain_average_precision(label, found, truth, overlap)
            assert values[f"{overlap:g}"] == pytest.approx(expected, abs=1e-12)
    moments = np.arange(0.05, 30, 0.1)
    right = 0
    for name in found:
        labels = [
            [{s.label for s in videos[name].segments if s.start <= moment < s.end} for moment in moments]
            for videos in (found, truth)
        ]
        right += sum(one == other for one, other in zip(*labels))
    assert metrics["frame_accuracy"] == pytest.approx(right / len(moments) / 3, abs=0.03)


def test_the_truth_itself_is_perfect():
    truth = random_videos(np.random.default_rng(3), False)
    apart = {name: VideoSegments([s for s in one.segments[:1]], one.duration) for name, one in truth.items()}
    metrics = evaluate_segments(apart, apart)
    assert set(metrics["mean_average_precision"].values()) == set(metrics["f1"].values()) == {1.0}
    assert metrics["frame_accuracy"] == pytest.approx(1.0) and metrics["false_alarms_per_minute"] == 0.0


# -- refused and read ------------------------------------------------------------------------------------------------


def test_videos_are_found_by_name():
    truth = {"a/one": video(), "two.mp4": video(), "b/three": video(), "c/three": video()}
    assert truth_of(["one.mp4", "d/two.avi"], truth).keys() == {"one.mp4", "d/two.avi"}
    for names, message in (
        (["four"], "'four' has no truth; the truth names 4 videos"),
        (["three"], "'three' has several truths, 'b/three', 'c/three'"),
        (["one.mp4", "one.avi"], "'one.mp4' and 'one.avi' have one truth, that of 'a/one'"),
    ):
        with pytest.raises(ValueError, match=message):
            truth_of(names, truth)


def test_what_cannot_be_compared():
    good = {"v": video(("a", 0, 1))}
    for overlaps in ((), (0.0,), (1.5,)):
        with pytest.raises(ValueError, match="overlaps must be above 0"):
            evaluate_segments(good, good, overlaps=overlaps)
    for bad in (video(("a", 2, 1)), video(("a", 0, float("nan"))), video(("a", 0, 1, float("nan")))):
        with pytest.raises(ValueError, match="A segment of 'v' is none"):
            evaluate_segments({"v": bad}, good)
    with pytest.raises(ValueError, match="There are no videos"):
        evaluate_segments({}, good)


FORMS = {
    "annotations.json": json.dumps(
        {"database": {"v1": {"duration": 9, "annotations": [{"segment": [1, 2.5], "label": "a"}]}, "v2": {}}}
    ),
    "results.json": json.dumps({"results": {"v1": [{"segment": [1, 2.5], "label": "a", "score": 0.5}], "v2": []}}),
    "timeline.json": json.dumps(
        {"video": "v1", "duration": 9, "segments": [{"label": "a", "start": 1, "end": 2.5, "score": 0.5}]}
    ),
    "table.csv": '\ufeffVideo,label,start,end,score,note\r\nv1,a,1,2.5,0.5,x\r\nv1,"b, c",3,4,,\r\n',
    "v1.csv": "label,start,end\na,1,2.5\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_files(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    found = read_segments(tmp_path / name)
    first = found["v1"].segments[0]
    assert (first.label, first.start, first.end) == ("a", 1.0, 2.5)
    assert first.score == (1.0 if name in ("annotations.json", "v1.csv") else 0.5)
    assert found["v1"].duration == (9.0 if name in ("annotations.json", "timeline.json") else None)
    if name == "table.csv":
        assert found["v1"].segments[1].label == "b, c"
    evaluate_segments(found, found)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the header of a CSV file must name label, start and end"),
        ("label,begin,end\n", "got 'label,begin,end"),
        ("label,label,start,end\n", "each once"),
        ("label,start,end\na,2,1\n", "line 2: start and end must be seconds that rise, got 2.0 and 1.0"),
        ("label,start,end\na,x,1\n", "line 2: a number was expected, got 'x'"),
        ("label,start,end\na,1\n", "line 2: start and end must be seconds that rise, got 1.0 and None"),
        ("label,start,end\na,1,2,3\n", "line 2: it has more cells than the header"),
        ("video,label,start,end\n,a,1,2\n", "line 2: the video has no name"),
        ("video,label,start,end\n", "names no video"),
        ("{", "no JSON"),
        ("[1]", 'it has none of "database"'),
        ('{"database": {"v": []}}', "video 'v' must be an object"),
        ('{"database": {"v": {"annotations": {}}}}', "video 'v': segments must be a list"),
        ('{"results": {"v": [{"segment": [1, NaN], "label": "a"}]}}', "segment 1: a number was expected, got nan"),
        ('{"results": {"v": [{"segment": [1, 2], "label": " "}]}}', "segment 1: label must be a text, got ' '"),
        ('{"database": {"v": {"duration": -1}}}', "video 'v': duration must be seconds, 0 or more, got -1"),
        ("label,start,end,duration\na,0,1,-2\n", "line 2: duration must be seconds, 0 or more, got '-2'"),
        ('{"results": {"v": [7]}}', "label must be a text, got None"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    file = tmp_path / "truth"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SegmentFileError, match=message):
        read_segments(file)


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SegmentFileError, match="no text in UTF-8"):
        read_segments(tmp_path / "bytes.csv")
    with pytest.raises(OSError):
        read_segments(tmp_path / "missing.csv")

"""Segments of scores: against plain loops over whole arrays, for any steps in time, and what is refused."""

import itertools
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from transformers_ila.timeline.rules import CALIBRATION, CalibrationError, SegmentOptions, SegmentRules
from transformers_ila.timeline.scores import Score
from transformers_ila.timeline.segments import Segment, SegmentTracker, find_segments


PLAIN = SegmentRules(smoothing=0.0, hysteresis=0.0, min_length=0.0, max_gap=0.0)
LABELS = ("left", "right", "nothing")


def scores_of(rows, times=None, start=0.0):
    times = range(len(rows)) if times is None else times
    return [Score(float(time), np.asarray(row, float), False, start) for time, row in zip(times, rows)]


def one_label(*labels, high=0.8):
    """Scores of one second each, in which the label named is probable; a `.` is none."""
    rows = []
    for label in labels:
        row = np.full(3, (1 - high) / 2) if label != "." else np.full(3, 1 / 3)
        if label != ".":
            row["lrn".index(label)] = high
        rows.append(row)
    return scores_of(rows)


def spans(segments):
    return [(segment.label, segment.start, segment.end) for segment in segments]


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_a_score_speaks_halfway_to_its_neighbours():
    found = find_segments(one_label(*"lllrr"), LABELS, PLAIN, end=6.0)
    assert found == [Segment("left", 0.0, 2.5, pytest.approx(0.8)), Segment("right", 2.5, 6.0, pytest.approx(0.8))]
    (late,) = find_segments(scores_of([[0.9, 0.05, 0.05]], [7.0], start=5.0), LABELS, PLAIN, end=8.0)
    assert (late.start, late.end) == (5.0, 8.0)  # the first speaks from its clip's first frame


def test_lag_moves_borders_back_and_not_the_ends():
    tracker = SegmentTracker(LABELS, replace(PLAIN, lag=0.75), clip_lag=0.5)  # the options' lag is all of it
    changes = [change for score in one_label(*"lllrr") for change in tracker.push(score)] + tracker.finish(6.0)
    assert [(change.kind, change.segment.label, change.time, change.segment.start) for change in changes] == [
        ("start", "left", 2.0, 0.0),  # the first score whose border lies after the start
        ("end", "left", 3.0, 0.0),
        ("start", "right", 3.0, 1.75),  # known at 3 s, said of what began before
        ("end", "right", 6.0, 1.75),
    ]
    assert changes[1].segment.end == 1.75 and changes[-1].segment.end == 6.0
    assert (tracker.rules.lag, tracker.clip_lag) == (0.75, 0.0)
    early = find_segments(one_label(*"rl"), LABELS, replace(PLAIN, lag=60.0), end=2.0)
    assert spans(early) == [("left", 0.0, 2.0)]  # before the stretch began there is nothing


def test_a_streams_score_speaks_for_the_middle_of_what_was_seen():
    times, starts = [0.0, 0.5, 3.0, 5.0, 6.0, 6.5], [0.0, 0.0, 0.5, 3.0, 4.0, 6.5]  # frames come as they like
    rows = np.stack([score.probabilities for score in one_label(*"rrlllr")])
    stream = [Score(time, row, False, start) for time, row, start in zip(times, rows, starts)]
    windows = [Score((time + start) / 2, row, False, start) for time, row, start in zip(times, rows, starts)]
    found = find_segments(stream, LABELS, PLAIN, end=7.0, clip_lag=0.5)
    assert found == find_segments(windows, LABELS, PLAIN, end=7.0) and len(found) == 3
    assert spans(found)[1] == ("left", 1.0, 5.75)


def test_nothing():
    scores = one_label(*"nnlln..rrn")
    plain = find_segments(scores, LABELS, PLAIN)
    assert [segment.label for segment in plain] == ["nothing", "left", "nothing", "right", "nothing"][: len(plain)]
    rules = replace(PLAIN, background="nothing")
    assert spans(find_segments(scores, LABELS, rules)) == [("left", 1.5, 3.5), ("right", 6.5, 8.5)]
    assert find_segments(one_label(*"nnnn"), LABELS, rules) == []
    assert find_segments(one_label(*"...."), LABELS, rules) == []  # no class is sure
    assert find_segments([], LABELS, rules, end=10.0) == [] == find_segments([], LABELS)


def test_hysteresis():
    rows = [[0.6, 0.2, 0.2], [0.45, 0.3, 0.25], [0.6, 0.2, 0.2], [0.35, 0.33, 0.32], [0.45, 0.3, 0.25]]
    assert spans(find_segments(scores_of(rows), LABELS, PLAIN)) == [("left", 0.0, 0.5), ("left", 1.5, 2.5)]
    rules = replace(PLAIN, hysteresis=0.2)  # on at 0.5, off below 0.4
    assert spans(find_segments(scores_of(rows), LABELS, rules)) == [("left", 0.0, 2.5)]
    rows[1] = [0.41, 0.46, 0.13]  # another label is more probable, and not sure
    assert spans(find_segments(scores_of(rows), LABELS, rules)) == [("left", 0.0, 2.5)]
    rows[1] = [0.41, 0.52, 0.07]
    assert [segment.label for segment in find_segments(scores_of(rows), LABELS, rules)] == ["left", "right", "left"]
    rules = replace(rules, thresholds={"right": 0.6})  # and now it is not sure enough
    assert spans(find_segments(scores_of(rows), LABELS, rules)) == [("left", 0.0, 2.5)]


def test_ties_keep_what_is_on():
    rows = [[0.1, 0.5, 0.4], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    assert [segment.label for segment in find_segments(scores_of(rows), LABELS, PLAIN)] == ["right"]
    assert [segment.label for segment in find_segments(scores_of(rows[1:]), LABELS, PLAIN)] == ["left"]


def test_short_ones_are_dropped_and_short_gaps_filled():
    rules = replace(PLAIN, min_length=1.5, max_gap=1.0, background="nothing")
    assert spans(find_segments(one_label(*"llnlll"), LABELS, rules, end=6.0)) == [("left", 0.0, 6.0)]
    assert spans(find_segments(one_label(*"llrlll"), LABELS, rules, end=6.0)) == [("left", 0.0, 6.0)]  # swallowed
    assert spans(find_segments(one_label(*"llrrll"), LABELS, rules, end=6.0)) == [
        ("left", 0.0, 1.5),
        ("right", 1.5, 3.5),
        ("left", 3.5, 6.0),
    ]
    assert spans(find_segments(one_label(*"nnlnnrrn"), LABELS, rules)) == [("right", 4.5, 6.5)]
    longer = [*one_label(*"ll"), *scores_of([[0.1, 0.8, 0.1]], [3.0]), *scores_of([[0.8, 0.1, 0.1]], [5.0])]
    rules = replace(rules, max_gap=3.0)  # the right lasts for one score, and long enough
    assert [row.label for row in find_segments(longer, LABELS, rules, end=8.0)] == ["left", "right", "left"]
    rules = replace(rules, max_gap=1.0)
    filled = find_segments(one_label(*"llnlll"), LABELS, rules, end=6.0)[0]
    assert filled.score == pytest.approx((5 * 0.8 + 0.1) / 6)  # the gap counts


def test_breaks_split_segments_and_forget():
    scores = one_label(*"llll")
    assert spans(find_segments(scores, LABELS, PLAIN, end=4.0, breaks=[1.5])) == [
        ("left", 0.0, 1.5),
        ("left", 1.5, 4.0),
    ]
    late = [*scores[:2], *(score._replace(start=score.time, time=score.time + 10) for score in scores[2:])]
    found = find_segments(late, LABELS, replace(PLAIN, smoothing=5.0), end=14.0, breaks=[1.5])
    assert spans(found)[0] == ("left", 0.0, 1.5) and found[1].end == 14.0


def test_warming_up_scores_count_unless_they_are_left_out():
    scores = [score._replace(warming_up=index < 2) for index, score in enumerate(one_label(*"rrlll"))]
    plain = SegmentOptions(smoothing=0, min_length=0, max_gap=0)
    assert spans(find_segments(scores, LABELS, plain, end=5.0)) == [("right", 0.0, 1.5), ("left", 1.5, 5.0)]
    skipping = replace(plain, skip_warming_up=True)
    assert spans(find_segments(scores, LABELS, skipping, end=5.0)) == [("left", 0.0, 5.0)]
    assert find_segments([score._replace(warming_up=True) for score in scores], LABELS, skipping, end=5.0) == []


# -- against plain loops ---------------------------------------------------------------------------------------------


def plain_segments(scores, rules, end):
    """Segments of each class by itself, by whole arrays."""
    times = np.array([score.time for score in scores])
    raw = np.stack([score.probabilities for score in scores])
    edges = np.concatenate([[scores[0].start], (times[1:] + times[:-1]) / 2 - (rules.lag or 0), [end]])
    edges = np.maximum.accumulate(edges)
    found = []
    for index, label in enumerate(LABELS):
        if label == rules.background:
            continue
        smooth = [raw[0, index]]
        for step, value in zip(np.diff(times), raw[1:, index]):
            keep = math.exp(-step / rules.smoothing) if rules.smoothing else 0.0
            smooth.append(keep * smooth[-1] + (1 - keep) * value)
        on, runs = False, []
        for place, value in enumerate(smooth):
            threshold = rules.thresholds.get(label, rules.threshold)
            on = value >= (threshold * (1 - rules.hysteresis) if on else threshold)
            if on and runs and edges[place] - runs[-1][1] <= (rules.max_gap if edges[place] > runs[-1][1] else 1e9):
                runs[-1][1] = edges[place + 1]
            elif on:
                runs.append([edges[place], edges[place + 1]])
        for first, last in runs:
            if last > first and last - first >= rules.min_length:
                inside = np.clip(np.minimum(edges[1:], last) - np.maximum(edges[:-1], first), 0, None)
                found.append((label, first, last, float(inside @ raw[:, index] / (last - first))))
    return sorted(found, key=lambda row: (row[1], row[2], LABELS.index(row[0])))


def random_rules(rng, **changes):
    return SegmentRules(
        smoothing=float(rng.choice([0.0, 0.3, 2.0])),
        threshold=float(rng.uniform(0.3, 0.7)),
        hysteresis=float(rng.choice([0.0, 0.2, 0.5])),
        min_length=float(rng.choice([0.0, 0.4, 1.5])),
        max_gap=float(rng.choice([0.0, 0.3, 1.2])),
        lag=float(rng.choice([0.0, 0.9])),
        **changes,
    )


def random_scores(rng, several):
    """Scores that come and go over some seconds, at uneven times."""
    count = int(rng.integers(1, 60))
    times = 5 + np.cumsum(rng.uniform(0.05, 0.9, count))
    levels = np.cumsum(rng.normal(0, 1.2, (count, 3)), 0) % 4 - 2
    rows = 1 / (1 + np.exp(-levels)) if several else np.exp(levels) / np.exp(levels).sum(-1, keepdims=True)
    return scores_of(rows, times, start=4.5), float(times[-1] + rng.uniform(0, 1))


@pytest.mark.parametrize("seed", range(40))
def test_several_labels_equal_plain_loops(seed):
    rng = np.random.default_rng(seed)
    scores, end = random_scores(rng, True)
    rules = random_rules(rng, background=rng.choice([None, "nothing"]), thresholds={"right": 0.45})
    found = find_segments(scores, LABELS, rules, True, end)
    expected = plain_segments(scores, rules, end)
    assert [(row.label, row.start, row.end, row.score) for row in found] == [
        (label, pytest.approx(start), pytest.approx(end), pytest.approx(score))
        for label, start, end, score in expected
    ]


@pytest.mark.parametrize("seed", range(40))
def test_one_label_at_a_time(seed):
    """Segments do not overlap and are long enough; and a tracker says each as it does in one go."""
    rng = np.random.default_rng(1000 + seed)
    scores, end = random_scores(rng, False)
    rules = random_rules(rng, background=rng.choice([None, "nothing"]))
    found = find_segments(scores, LABELS, rules, end=end)
    assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    assert all(row.end - row.start >= max(rules.min_length, 1e-9) and row.label != rules.background for row in found)
    tracker, changes = SegmentTracker(LABELS, rules), []
    for score in scores:
        new = tracker.push(score)
        assert all(change.time == score.time for change in new)
        changes += new
    changes += tracker.finish(end)
    assert [change.segment for change in changes if change.kind == "end"] == found
    assert [change.kind for change in changes] == ["start", "end"] * len(found)  # one at a time, each once
    for start, stop in zip(changes[::2], changes[1::2]):
        assert (start.segment.label, start.segment.start) == (stop.segment.label, stop.segment.start)
        assert start.segment.end <= stop.segment.end and start.time <= stop.time
    if rules.max_gap == rules.min_length == 0.0:  # each moment has the label of its score
        assert sum(row.end - row.start for row in found) <= end - scores[0].start + 1e-9


def test_memory_does_not_grow():
    tracker, sizes = SegmentTracker(LABELS), []
    rng = np.random.default_rng(0)
    for index in range(600):
        tracker.push(Score(index / 4, rng.dirichlet(np.ones(3)), False, 0.0))
        sizes.append(len(pickle.dumps(tracker)))
    assert max(sizes[300:]) <= max(sizes[:300]) + 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_may_be_tensors(dtype):
    row = torch.tensor([0.75, 0.125, 0.125], dtype=dtype)
    assert find_segments([Score(1.0, row, False, 0.0)], LABELS, PLAIN, end=2.0) == [Segment("left", 0.0, 2.0, 0.75)]


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, time, message",
    [
        ([math.nan, 0.5, 0.5], 1.0, "from 0 to 1, got nan to nan at 1.0 s"),
        ([3.0, -1.0, 0.0], 1.0, "from 0 to 1, got -1.0 to 3.0"),
        ([0.5, 0.5], 1.0, r"must be \(3,\), one a label; got \(2,\)"),
        ([0.5, 0.5, 0.0], 0.0, "must rise; got 0.0 s after 0.0 s"),
        ([0.5, 0.5, 0.0], math.nan, "must be seconds, got nan"),
    ],
)
def test_scores_that_are_none(row, time, message):
    tracker = SegmentTracker(LABELS, PLAIN)
    tracker.push(one_label("l")[0])
    with pytest.raises(ValueError, match=message):
        tracker.push(Score(time, np.array(row), False, 0.0))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"threshold": 1.5}, "threshold must be a number, 0 to 1, got 1.5"),
        ({"smoothing": -1}, "smoothing must be a number, seconds, 0 or more, got -1"),
        ({"max_gap": math.inf}, "max_gap must be a number"),
        ({"min_length": math.nan}, "min_length must be a number"),
        ({"hysteresis": True}, "hysteresis must be a number"),
        ({"lag": "1"}, "lag must be a number"),
        ({"calibration": "nowhere.json"}, "'nowhere.json' is no calibration of segments"),
    ],
)
def test_options_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        SegmentOptions(**given)


def test_zero_is_a_number_that_was_given():
    numbers = dict.fromkeys(("smoothing", "threshold", "hysteresis", "min_length", "max_gap", "lag"), 0)
    assert SegmentOptions(**numbers).rules() == SegmentRules(**numbers)
    assert SegmentOptions().rules() == SegmentRules() != SegmentOptions(skip_warming_up=True).rules()


def test_labels_that_are_none():
    with pytest.raises(ValueError, match="background and thresholds must be of these labels: 'left', .*; got 'idle'"):
        SegmentTracker(LABELS, SegmentOptions(background="idle"))
    for labels in ((), ("left", "left")):
        with pytest.raises(ValueError, match="labels must be one or more, each once"):
            SegmentTracker(labels)


def test_a_calibration_gives_way_to_what_is_given(tmp_path):
    file = tmp_path / "rules.json"
    rules = {"threshold": 0.3, "thresholds": {"left": 0.7}, "smoothing": 1.0, "background": "nothing"}
    file.write_text(json.dumps({"format": CALIBRATION, "version": 1, "rules": rules}))
    options = SegmentOptions(calibration=str(file), min_length=2.0)
    assert options.rules() == SegmentRules(**rules, min_length=2.0)
    assert replace(options, threshold=0.4).rules().thresholds == {}  # of all labels
    for content, message in (
        ("{", "Expecting"),
        ("[]", '"format" must be'),
        (json.dumps({"format": CALIBRATION, "version": 2, "rules": rules}), '"version" must be 1, got 2'),
        (json.dumps({"format": CALIBRATION, "version": 1}), "rules"),
        (json.dumps({"format": CALIBRATION, "version": 1, "rules": {"speed": 1}}), "speed"),
        (json.dumps({"format": CALIBRATION, "version": 1, "rules": {"threshold": 7}}), "0 to 1, got 7"),
        (json.dumps({"format": CALIBRATION, "version": 1, "rules": {"thresholds": [1]}}), "is no calibration"),
    ):
        file.write_text(content)
        with pytest.raises(CalibrationError, match=message):
            SegmentOptions(calibration=str(file))

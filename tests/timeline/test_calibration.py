"""What is chosen on held-out videos, and the timelines whose segments are found anew."""

import json
from dataclasses import replace

import numpy as np
import pytest

from support.timelines import make_timeline
from transformers_ila.timeline.calibration import calibrate, segments_of, write_calibration
from transformers_ila.timeline.detection_metrics import VideoSegments
from transformers_ila.timeline.rules import SegmentOptions, SegmentRules
from transformers_ila.timeline.scores import RESTART
from transformers_ila.timeline.segments import Segment
from transformers_ila.timeline.sources import SourceNote


LABELS = ("walking", "running", "nothing")
SETTINGS = {"model": "m", "mode": "windows", "rate": 4.0, "num_frames": 8, "stride": 0.25, "scores": 80}
PLAIN = SegmentRules(smoothing=0.0, hysteresis=0.0, min_length=0.0, max_gap=0.0)


def labelled(name="a.mp4", *, high=0.8, several=False, **settings):
    """A timeline of 20 s that walks from 3 to 8 s and runs from 12 to 17 s, with some noise, and its truth."""
    times = np.arange(80) / 4
    rows = np.full((80, 3), 0.02)
    rows[:, 2] = 0.3 if several else 0.9
    for column, start, end in ((0, 3, 8), (1, 12, 17)):
        inside = (times >= start) & (times < end)
        nothing = min(0.4, 0.96 - high)
        rows[inside] = 1 - high - nothing
        rows[inside, column], rows[inside, 2] = high, nothing
    rows[::9, :2] += 0.3  # for one score, too little to be anything where the threshold is right
    rows = rows.clip(0, 1) if several else rows / rows.sum(1, keepdims=True)
    all_settings = {**SETTINGS, "multi_label": several, **settings}
    timeline = make_timeline(
        LABELS,
        20.0,
        scores=rows.astype(np.float32),
        video=name,
        starts=np.maximum(0, times - 1.75),
        settings=all_settings,
        notes=[],
    )
    truth = VideoSegments([Segment("walking", 3.0, 8.0, 1.0), Segment("running", 12.0, 17.0, 1.0)], 20.0)
    return timeline, truth


def test_a_threshold_is_chosen_and_kept(tmp_path):
    timeline, truth = labelled(high=0.45)
    start = replace(PLAIN, background="nothing")
    assert segments_of(timeline, start) == []  # of a half nothing is sure
    chosen = calibrate([timeline], {"a": truth}, rules=start, tuned=["threshold"])
    assert chosen.rules == replace(start, threshold=chosen.rules.threshold) and chosen.rules.threshold < 0.5
    assert chosen.chosen_on["value_before"] == 0.0 < 0.7 < chosen.chosen_on["value"]
    write_calibration(chosen, tmp_path / "rules.json")
    options = SegmentOptions(calibration=str(tmp_path / "rules.json"))
    assert options.rules() == chosen.rules
    found = segments_of(timeline, options)
    assert {segment.label for segment in found} == {"walking", "running"}
    assert json.loads((tmp_path / "rules.json").read_text())["chosen_on"]["true_segments"] == 2


def test_a_number_changes_only_where_that_is_better():
    timeline, truth = labelled(high=0.9)
    before = replace(PLAIN, background="nothing", min_length=0.5)
    trials = []
    chosen = calibrate([timeline], {"a": truth}, rules=before, progress=trials.append)
    assert chosen.rules == before and chosen.chosen_on["value"] == chosen.chosen_on["value_before"] == 1.0
    assert set(trials) == {1}


def test_several_labels_have_thresholds_of_their_own():
    timeline, truth = labelled(high=0.9, several=True)
    scores = timeline.scores.copy()
    scores[:, 1] *= 0.5  # never sure of running
    timeline = replace(timeline, scores=scores)
    chosen = calibrate([timeline], {"a": truth}, rules=replace(PLAIN, background="nothing", threshold=0.9))
    thresholds = {label: chosen.rules.thresholds.get(label, chosen.rules.threshold) for label in LABELS[:2]}
    assert thresholds["running"] <= 0.45
    assert chosen.chosen_on["value"] == 1.0
    assert {segment.label for segment in segments_of(timeline, chosen.rules)} == {"walking", "running"}


def test_what_nothing_can_be_chosen_on():
    timeline, truth = labelled()
    for timelines, true, given, message in (
        ([], {}, {}, "There are no timelines"),
        ([timeline], {"b": truth}, {}, "'a.mp4' has no truth"),
        ([timeline], {"a": VideoSegments([])}, {}, "there is no true segment"),
        ([timeline], {"a": VideoSegments([Segment("flying", 0, 1, 1)])}, {}, "the true label 'flying' is none"),
        ([timeline], {"a": truth}, {"rules": SegmentRules(background="walking")}, "the true label 'walking' is none"),
        ([timeline], {"a": truth}, {"tuned": ["lag"]}, r"tuned must be some of threshold, .*, got \['lag'\]"),
        ([timeline, labelled("b.mp4", rate=2.0)[0]], {}, {}, "must have one rate, got 4.0 of 'a.mp4', 2.0 of 'b.mp4'"),
        ([timeline, replace(timeline, labels=["x", "y", "z"])], {}, {}, "must have the same labels"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate(timelines, true, **given)


def test_segments_found_anew_know_gaps_and_lag():
    timeline, _ = labelled(high=0.9, mode="stream")
    rules = replace(PLAIN, min_length=0.5, background="nothing")
    walking, running = segments_of(timeline, rules)
    assert (walking.start, running.end) == (3.0 - 0.125 - 0.875, 17.0 - 0.125 - 0.875)  # half a clip back
    interrupted = replace(timeline, notes=[SourceNote(14.0, RESTART, "nothing came")])
    assert [round(segment.end, 3) for segment in segments_of(interrupted, rules)] == [7.0, 14.0, 16.0]
    with pytest.raises(ValueError, match="'a.mp4' has no scores"):
        empty = {
            "times": np.zeros(0),
            "starts": np.zeros(0),
            "scores": np.zeros((0, 3)),
            "warming_up": np.zeros(0, bool),
        }
        segments_of(replace(timeline, **empty))

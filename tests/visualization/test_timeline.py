"""The picture of a timeline: its lanes, bars and names, and what it has in common with the page."""

import warnings

import numpy as np
import pytest

from support.timelines import HOSTILE, make_timeline
from transformers_ila.timeline.segments import Segment
from transformers_ila.visualization.timeline import (
    clock,
    gap_of,
    lanes,
    last_time,
    plot_timeline,
    thin_scores,
    tick_step,
    warming_spans,
)


def drawn(timeline, **options):
    return plot_timeline(
        timeline.times,
        timeline.scores,
        timeline.labels,
        timeline.segments,
        duration=timeline.duration,
        warming_up=timeline.warming_up,
        **options,
    )


def names_of(figure) -> list[str]:
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 40])
def test_names_do_not_overlap(count):
    labels = [
        f"{index}: somebody does something to someone {'else with ' * (index % 9)}a thing" for index in range(count)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout without room
        figure = drawn(make_timeline(labels), truth=[Segment(labels[-1], 3, 4, 1)], title="$a$ " * 60)
        figure.draw_without_rendering()
    names = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
    assert len(names) == min(count, 30) and all(name.x0 >= 0 for name in names)
    assert all(lower.y1 <= upper.y0 for upper, lower in zip(names, names[1:]))
    times = [tick.get_window_extent() for tick in figure.axes[0].get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in zip(times, times[1:]))
    assert ("10 more labels are not shown" in figure.axes[0].get_xlabel()) == (count == 40)
    assert figure.axes[0].title.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.slow
def test_words_stay_words():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that are drawn as boxes
        figure = drawn(make_timeline(HOSTILE), title="\u9a91")
        figure.draw_without_rendering()
    names = names_of(figure)
    assert {"label 5", "label 8", "line break", "12"} <= set(names)  # the blank one, and one that the font lacks


def test_bars_are_where_segments_and_truth_are():
    segments = [Segment("b", 2.0, 5.0, 0.9), Segment("a", 6.0, 6.0, 0.9)]
    figure = drawn(make_timeline(("a", "b"), segments=segments), truth=[Segment("c", 1.0, 4.5, 1.0)])
    assert names_of(figure) == ["c", "b", "a"]  # as they begin
    (axes,) = figure.axes
    spans = {}
    for bars in axes.collections:
        for path in bars.get_paths():
            (left, top), (right, _) = path.get_extents().min, path.get_extents().max
            spans.setdefault((int(top), bars.get_hatch() is not None), set()).add((round(left, 2), round(right, 2)))
    assert spans == {(0, True): {(1.0, 4.5)}, (1, False): {(2.0, 5.0)}, (2, False): {(6.0, 6.02)}}
    assert axes.get_xlim() == (0, 10)


def test_a_line_is_broken_in_a_gap_and_keeps_its_peaks():
    timeline = make_timeline(("a",), segments=[], times=np.r_[np.arange(20) / 4, 60 + np.arange(20) / 4])
    (line,) = drawn(timeline).axes[0].lines
    times, heights = line.get_data()
    assert np.isnan(times[20]) and np.isnan(heights[20]) and len(times) == 41
    scores = np.full((10000, 2), 0.1)
    scores[1234, 1], scores[50, 0] = 0.9, np.nan
    times, found = thin_scores(np.arange(10000) / 3, scores, 100)
    assert found.shape == (100, 2) and found[12, 1] == 0.9 and (found[:, 0] == 0.1).all() and times[12] == 400
    times, found = thin_scores(np.r_[np.arange(300), 10000.0 + np.arange(300)], np.ones((600, 1)), 100)
    assert len(times) < 10 and found.shape == (len(times), 1)  # of where nothing is known nothing is made up
    for same in (thin_scores(np.arange(5.0), np.ones((5, 1)), 5), thin_scores(np.zeros(0), np.ones((0, 1)), 5)):
        assert len(same[0]) == len(same[1]) in (0, 5)


def test_which_lanes_are_shown():
    scores = np.array([[0.1, 0.5, 0.2, 0.2], [0.1, np.nan, 0.2, 0.3]])
    segments = [Segment("c", 5, 6, 1), Segment("new", 1, 2, 1), Segment("c", 8, 9, 1)]
    labels = ["a", "b", "c", "c"]  # of two of one name segments belong to the first
    assert lanes(labels, scores, segments, least=4, most=9) == (["a", "b", "c", "c", "new"], [4, 2, 1, 3], 1)
    assert lanes(labels, scores, segments, least=0, most=1)[1:] == ([2], 4)  # the longest
    assert lanes(labels, np.full((2, 4), np.nan), [], least=9, most=9)[1:] == ([0, 1, 2, 3], 0)
    assert lanes([], np.zeros((0, 0)), [], least=9, most=9) == ([], [], 0)


def test_times_and_ends():
    assert [clock(seconds, 0) for seconds in (0, 59.6, 3599, 3600, 360061)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:00:00",
        "100:01:01",
    ]
    assert clock(59.96) == "1:00.0" and clock(3.25) == "0:03.3" and clock(-1e-9) == "0:00.0"
    assert (tick_step(10.0, 10), tick_step(10.1, 10), tick_step(10800, 10), tick_step(1e7, 10)) == (1, 2, 1800, 1e7)
    times, scores = np.arange(3.0), np.zeros((3, 2))
    assert (
        last_time(times, scores, "ab", []) == 2 and last_time(times, scores, "ab", [Segment("a", 1, 7, 1)], 5.0) == 7
    )
    assert last_time(np.zeros(0), np.zeros((0, 2)), "ab", []) == 0.1
    assert warming_spans(times, np.array([True, False, True])) == [(0, 1), (2, 2)] and gap_of(times) == 2.5


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"scores must be \(3, 2\): times by labels; got \(2, 2\)"):
        plot_timeline(np.arange(3.0), np.zeros((2, 2)), ["a", "b"], [])
    for times in ([0, 2, 1], [0, 1, np.nan]):
        with pytest.raises(ValueError, match="numbers of seconds that rise"):
            plot_timeline(np.array(times, dtype=float), np.zeros((3, 2)), ["a", "b"], [])

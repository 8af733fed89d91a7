"""Timestamps of every kind to seconds that never go back."""

from fractions import Fraction

import numpy as np
import pytest

from transformers_ila.timeline.clock import MPEG_TICKS, SourceClock, Stamped


MPEG = Fraction(1, 90_000)
FRAME = 3000  # ticks of 1/90000 s at 30 frames a second


def times(ticks, *, tick=MPEG, arrived=None, **options):
    clock = SourceClock(tick, **{"nominal": 1 / 30, **options})
    stamps = [Stamped(i, t, i / 30 if arrived is None else arrived[i]) for i, t in enumerate(ticks)]
    timed = list(clock.times(stamps))
    assert [one.frame for one in timed] == list(range(len(ticks)))  # each once, in order
    seconds = [one.seconds for one in timed]
    assert seconds == sorted(seconds)
    assert seconds[:1] in ([], [0.0])
    return seconds, {i: one.note[0] for i, one in enumerate(timed) if one.note}


def regular(count, *, first=0):
    return [first + i * FRAME for i in range(count)]


def at(*frames):
    return pytest.approx([frame / 30 for frame in frames])


@pytest.mark.parametrize("first", [0, 10**12, -9000], ids=["zero", "far", "negative"])
def test_times_count_from_the_first_frame(first):
    assert times(regular(4, first=first)) == (at(0, 1, 2, 3), {})


def test_uneven_times_are_what_they_are():
    uneven = np.cumsum([0, 1000, 5000, 7000, 2000, 40_000])
    seconds, notes = times(uneven.tolist())
    assert np.allclose(seconds, uneven / 90_000) and not notes


def test_a_gap_is_noted_and_no_time_is_lost():
    assert times([*regular(3), *regular(3, first=90_000 * 5)]) == (at(0, 1, 2, 150, 151, 152), {3: "gap"})


def test_a_gap_longer_than_the_clock_doubts_is_believed_once_the_next_frame_agrees():
    assert times([*regular(3), *regular(2, first=90_000 * 60)]) == (at(0, 1, 2, 1800, 1801), {3: "gap"})
    assert times([*regular(3), 90_000 * 60]) == (at(0, 1, 2, 1800), {3: "gap"})  # nor if it is the last


def test_one_timestamp_far_ahead_is_wrong():
    ticks = regular(7)
    ticks[3] = 90_000 * 500
    assert times(ticks) == (at(*range(7)), {3: "jump"})


@pytest.mark.parametrize("wraps", [True, False])
def test_a_clock_that_goes_back_goes_on(wraps):
    ticks = [*regular(4, first=10**9), *regular(4), *regular(4, first=500)]
    assert times(ticks, wraps=wraps) == (at(*range(12)), {4: "jump", 8: "jump"})


def test_33_bits_run_over_again_and_again():
    step = 90_000 * 1800
    unwrapped = [MPEG_TICKS - 5 * step + i * step for i in range(200)]  # 100 hours
    seconds, notes = times([t % MPEG_TICKS for t in unwrapped], wraps=True, nominal=1800.0)
    assert seconds == pytest.approx([1800.0 * i for i in range(200)])
    assert set(notes.values()) <= {"gap"}
    seconds, notes = times([(MPEG_TICKS - 5 * FRAME + t) % MPEG_TICKS for t in regular(10)], wraps=True)
    assert seconds == at(*range(10)) and not notes


def test_another_clock_of_mpeg_is_no_gap():
    ticks = [*regular(3), *regular(3, first=90_000 * 7200)]
    assert times(ticks, wraps=True) == (at(*range(6)), {3: "jump"})
    assert times(ticks)[1] == {3: "gap"}  # elsewhere a timestamp says what it says


def test_live_timestamps_cannot_be_ahead_of_their_frames():
    ticks = [*regular(3), *regular(3, first=90_000 * 100)]
    assert times(ticks, live=True) == (at(*range(6)), {3: "jump"})
    late = [0, 1 / 30, 2 / 30, 100.0, 100 + 1 / 30, 100 + 2 / 30]
    assert times(ticks, live=True, arrived=late) == (at(0, 1, 2, 3000, 3001, 3002), {3: "gap"})


def test_repeated_timestamps():
    ticks = [0, FRAME, FRAME, 2 * FRAME, 3 * FRAME]
    assert times(ticks) == (at(0, 1, 1, 2, 3), {2: "jump"})


def test_a_clock_that_stands_still_does_not_stop_the_time():
    seconds, notes = times([*regular(5), *[4 * FRAME] * 60])
    assert seconds[-1] == pytest.approx((4 + 56) / 30) and notes[9] == "untimed"
    seconds, notes = times([0] * 100)
    assert seconds[-1] > 3 and "untimed" in notes.values()


def test_two_frames_out_of_turn_do_not_move_the_rest():
    ticks = regular(8)
    ticks[3], ticks[4] = ticks[4], ticks[3]
    assert times(ticks) == (at(0, 1, 2, 4, 4, 5, 6, 7), {4: "jump"})


def test_missing_timestamps_follow_the_others():
    ticks = regular(8)
    ticks[3] = ticks[4] = None
    assert times(ticks) == (at(*range(8)), {3: "untimed"})
    assert times([None, None, *regular(3, first=10**6)]) == (at(*range(5)), {0: "untimed"})
    assert times([None] * 5) == (at(*range(5)), {0: "untimed"})


def test_coarse_ticks():
    assert times([0, 1, 2, 5], tick=Fraction(1, 25), nominal=0.5) == ([0.0, 0.04, 0.08, 0.2], {})


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_times_do_not_go_back(seed):
    rng = np.random.default_rng(seed)
    ticks = rng.integers(-(2**33), 2**33, size=50).tolist()
    for i in rng.integers(0, 50, size=10):
        ticks[i] = None if i % 2 else ticks[i - 1]
    times(ticks, wraps=bool(seed % 2), live=seed % 3 == 0)

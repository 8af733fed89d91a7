"""Options of timelines: what is refused, and in which words."""

import pytest

from transformers_ila.timeline.options import TimelineOptions


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"rate": 0}, "rate must be frames a second, above 0 and at most 1000, got 0"),
        ({"rate": float("nan")}, "got nan"),
        ({"rate": True}, "got True"),
        ({"mode": "online"}, "mode must be one of auto, stream, windows, got 'online'"),
        ({"stride": 0.0}, "stride must be a number of seconds, 0.01 or more, got 0.0"),
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        ({"dtype": "int8"}, "dtype must be one of"),
    ],
)
def test_wrong_values_are_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        TimelineOptions(**wrong)

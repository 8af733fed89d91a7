"""Multiply-accumulates against the paper's Tables 1 and 2."""

import pytest
from flops import ROWS, count, paper_config


@pytest.mark.parametrize("row", ROWS[:-1], ids=lambda row: f"{row.data_set}-{row.size}-{row.num_frames}f")
def test_within_three_percent_of_the_paper(row):
    gmacs, _ = count(paper_config(row))
    assert abs(gmacs / row.published - 1) < 0.03


def test_the_row_that_the_same_module_cannot_reach():
    """SSv2 L/14@336: by its three other rows' module it is 4228, not 3723; stated, not tuned to."""
    gmacs, _ = count(paper_config(ROWS[-1]))
    assert abs(gmacs - 4228) < 5

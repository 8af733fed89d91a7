"""Reliability diagrams."""

import pytest
import torch

from support.figures import assert_legible, words_of
from transformers_ila.evaluation.metrics import calibration
from transformers_ila.visualization.calibration import plot_calibration, wilson_interval


def made(count=400, bins=15, seed=0):
    chances = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return calibration(chances, torch.rand(count, generator=torch.Generator().manual_seed(1)) < chances**2, bins=bins)


@pytest.mark.parametrize(
    "count, bins",
    [(400, 15), *(pytest.param(*made, marks=pytest.mark.slow) for made in ((1, 1), (3_000_000, 25), (900, 100)))],
)
def test_texts_stand_beside_each_other(count, bins):
    assert_legible(plot_calibration(made(count, bins), title="walk " * 60))


def test_bars_are_accuracies_and_points_confidences():
    found = {"expected_calibration_error": 0.15, "statements": 4}
    found["bins"] = [
        {"from": 0.0, "to": 0.5, "statements": 0, "confidence": None, "accuracy": None},
        {"from": 0.5, "to": 1.0, "statements": 4, "confidence": 0.9, "accuracy": 0.75},
    ]
    upper, lower = plot_calibration(found).axes
    bar, gap = upper.patches
    assert (bar.get_x(), bar.get_width(), bar.get_height()) == (0.5, 0.5, 0.75)
    assert gap.get_y() == 0.75 and gap.get_height() == pytest.approx(0.15) and gap.get_hatch()
    assert [0.9] in [list(line.get_xdata()) for line in upper.lines]
    assert [text.get_text() for text in lower.texts] == ["4"]
    words = words_of(plot_calibration(found))
    assert "4 statements, 75.0% true, said with 90.0%" in words and "calibration error 15.0% (2 bins)" in words


def test_counts_that_differ_a_lot_are_on_a_logarithmic_scale():
    def lower(rare):
        chances = torch.cat([torch.full((1000,), 0.05), torch.full((rare,), 0.95)])
        return plot_calibration(calibration(chances, chances > 0.5)).axes[1]

    assert lower(rare=3).get_yscale() == "log" and lower(rare=900).get_yscale() == "linear"
    assert "3" in [text.get_text() for text in lower(rare=3).texts]


def test_wilsons_interval():
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # as statsmodels has it
    assert wilson_interval(0.0, 5)[0] == 0 and wilson_interval(1.0, 5)[1] == 1


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda found: found.pop("bins"), "has `bins`"),
        (lambda found: found["bins"].clear(), "has `bins`"),
        (lambda found: found["bins"].reverse(), "begins where the one before ends"),
        (lambda found: found["bins"][3].pop("accuracy"), "A bin of a calibration has"),
        (lambda found: found["bins"][3].update(accuracy=1.5), "A bin of a calibration has"),
        (lambda found: found["bins"][3].update(statements=-1), "A bin of a calibration has"),
        (lambda found: found["bins"][3].update(confidence=float("nan")), "A bin of a calibration has"),
        (lambda found: found.update(expected_calibration_error=None), "is a number from 0 to 1; got None"),
        (lambda found: found.update(made(0)), "no video was evaluated"),
    ],
)
def test_what_is_no_calibration(change, message):
    found = made()
    change(found)
    with pytest.raises(ValueError, match=message):
        plot_calibration(found)

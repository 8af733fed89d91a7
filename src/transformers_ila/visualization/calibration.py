"""Reliability diagrams: whether what is said with 80 % confidence is true in 80 % of the cases."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .words import short_count, write_heading


if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 6.4, 6.4  # inches
ACCURACY, GAP, INK = "#9ecae1", "#b84a00", "#1a1a1a"
CONFIDENCE = 1.96  # standard deviations of a normal distribution around 95 % of it
WIDE = 30  # bins up to which each has its number of statements above it


def plot_calibration(calibration: Mapping[str, Any], *, title: str = "") -> "Figure":
    """Draw a reliability diagram, and below it how many statements there are in each bin.

    A bar is the share of a bin's statements that are true, with its 95 % interval (Wilson's); a point is their mean
    confidence, and the hatched stretch between both is what the expected calibration error is made of. On the diagonal
    both agree.

    Args:
        calibration: what `evaluation.metrics.calibration` returns, a report's "calibration": `bins`, each with from,
            to, statements, confidence and accuracy (None without statements), and `expected_calibration_error`.
        title: a line above the picture.

    Raises:
        ValueError: no such numbers, or not a single statement.
    """
    from matplotlib.figure import Figure  # here, as most who import this draw nothing
    from matplotlib.ticker import PercentFormatter

    bins = _bins(calibration)
    filled = [row for row in bins if row["statements"]]
    total = sum(row["statements"] for row in filled)
    if not total:
        raise ValueError("A calibration of no statement has nothing to show: no video was evaluated.")
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    upper.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=2)
    for row in filled:
        _draw_bin(upper, row)
    upper.set(xlim=(0, 1), ylim=(0, 1.02))
    upper.set_ylabel("share of true statements", fontsize=9)
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.grid(linewidth=0.4, color="#dddddd")
    upper.set_axisbelow(True)
    _draw_counts(lower, bins)
    lower.set_xlabel("confidence", fontsize=9)
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.tick_params(labelsize=8)
    means = [sum(row["statements"] * row[name] for row in filled) / total for name in ("accuracy", "confidence")]
    error = calibration["expected_calibration_error"]
    said = f"{total} statements, {means[0]:.1%} true, said with {means[1]:.1%} confidence on average"
    write_heading(figure, title, said, f"expected calibration error {error:.1%} ({len(bins)} bins)")
    _legend(figure)
    return figure


def _bins(calibration: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the bins, or raise a ValueError that says what is wrong with them."""
    bins = calibration.get("bins") if isinstance(calibration, Mapping) else None
    if not isinstance(bins, Sequence) or not bins or isinstance(bins, str):
        raise ValueError("A calibration has `bins`, one or more, as `evaluation.metrics.calibration` returns them.")
    edge = 0.0
    for row in bins:
        if not _is_bin(row) or not math.isclose(row["from"], edge, abs_tol=1e-6):
            raise ValueError(
                f"A bin of a calibration has from, to, statements, confidence and accuracy, and begins where the one "
                f"before ends ({edge:g}); got {row!r}."
            )
        edge = row["to"]
    error = calibration.get("expected_calibration_error")
    if not _is_share(error) and any(row["statements"] for row in bins):
        raise ValueError(f"`expected_calibration_error` is a number from 0 to 1; got {error!r}.")
    return bins


def _is_bin(row: Any) -> bool:
    if not isinstance(row, Mapping) or not all(_is_share(row.get(name)) for name in ("from", "to")):
        return False
    statements = row.get("statements")
    if type(statements) is not int or statements < 0 or row["from"] >= row["to"]:
        return False
    return not statements or all(_is_share(row.get(name)) for name in ("confidence", "accuracy"))


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and -1e-9 <= value <= 1 + 1e-9  # rounding of a mean


def _draw_bin(axes: Any, row: Mapping[str, Any]) -> None:
    left, width = row["from"], row["to"] - row["from"]
    middle = left + width / 2
    accuracy, confidence = row["accuracy"], row["confidence"]
    axes.bar(left, accuracy, width, align="edge", color=ACCURACY, edgecolor="white", linewidth=0.8, zorder=1)
    low, high = wilson_interval(accuracy, row["statements"])
    axes.plot([middle, middle], [low, high], color=INK, linewidth=0.8, marker="_", markersize=5, zorder=4)
    gap = {"facecolor": "none", "edgecolor": GAP, "linewidth": 0.6, "hatch": "//////", "zorder": 3}
    axes.bar(left, confidence - accuracy, width, bottom=accuracy, align="edge", **gap)
    axes.plot(confidence, confidence, "o", color="white", markeredgecolor=INK, markersize=4.5, zorder=5)


def _draw_counts(axes: Any, bins: Sequence[Mapping[str, Any]]) -> None:
    """Draw how many statements each bin has: in tenfold steps where they differ by more than thirty times."""
    counts = [row["statements"] for row in bins]
    is_log = max(counts) > 30 * min(count for count in counts if count)
    widths = [row["to"] - row["from"] for row in bins]
    axes.bar([row["from"] for row in bins], counts, widths, align="edge", color="#c8c8c8", edgecolor="white")
    if is_log:
        axes.set_yscale("log")
        axes.set_ylim(0.5, max(counts) ** 1.25 * 4)
    else:
        axes.set_ylim(0, 1.3 * max(counts))
    axes.set_ylabel("statements" + (" (log)" if is_log else ""), fontsize=9)
    if len(bins) <= WIDE:
        for row in bins:
            if row["statements"]:
                place = ((row["from"] + row["to"]) / 2, row["statements"])
                options: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 6.5}
                if len(short_count(row["statements"])) * len(bins) > 75:  # letters that stand beside each other
                    options["rotation"] = 90
                axes.annotate(short_count(row["statements"]), place, (0, 1.5), textcoords="offset points", **options)


def _legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Patch(facecolor=ACCURACY, label="true, with 95 % interval"),
        Line2D([], [], linestyle="", marker="o", color="white", markeredgecolor=INK, label="mean confidence"),
        Patch(facecolor="none", edgecolor=GAP, hatch="//////", label="gap"),
        Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="perfectly calibrated"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` statements, by Wilson's formula (1927)."""
    square = CONFIDENCE**2 / count
    middle, reach = share + square / 2, CONFIDENCE * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return max(0.0, (middle - reach) / (1 + square)), min(1.0, (middle + reach) / (1 + square))

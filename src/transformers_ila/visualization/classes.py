"""Bars of how well each class is recognised; of many classes the worst and the best."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .words import short_count, wrapped_name, write_heading


if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 50  # classes that are drawn: all, or half of them the worst and half of them the best
NAME, LINES = 34, 2  # letters and lines of a name
WIDTH, LINE, ENDS = 7.6, 0.125, 2.0  # inches: the picture, a line of a row, title, axis and legend together
BAR, INK, GREY = "#0072b2", "#1a1a1a", "#6a6a6a"
ORDERS = {"shuffled": "x", "reversed": "<", "single_frame": "|"}  # of frames -> marker; others have one of OTHER
OTHER = "+12"
RESERVED = {"index", "name", "videos", "predicted", "top1", "top5", "average_precision"}


def plot_classes(per_class: Sequence[Mapping[str, Any]], *, most: int = MOST, title: str = "") -> "Figure":
    """Draw a bar for each class that has videos, the worst on top, with the number of videos behind the bar.

    For one label a video a bar is the class's accuracy, which is its recall (top-1); a hollow bar is its top-5, where
    there are more classes than five; a diamond is its precision: the share of the videos for which it was predicted
    that have its label. For several labels a video a bar is the average precision. Where the frames were also seen in
    other orders, markers show what is left of the bar then.

    Args:
        per_class: rows as a report's "per_class": index, name, videos, and either predicted, top1 and top5 or
            average_precision, None for a class without videos; further columns are other orders of the frames.
        most: how many classes are drawn; of more, half of them are the worst and half the best, and the picture says
            how many are left out and what they reach.
        title: a line above the picture.

    Raises:
        ValueError: no such rows, not a single class with videos, or `most` is less than 2.
    """
    from matplotlib.figure import Figure  # here, as most who import this draw nothing
    from matplotlib.ticker import PercentFormatter

    if most < 2:
        raise ValueError(f"`most` must be 2 or more, got {most}.")
    score = _score(per_class)
    known = sorted((row for row in per_class if row["videos"]), key=lambda row: row[score])
    if not known:
        raise ValueError(f"None of {len(per_class)} classes has a video that was evaluated: there is nothing to show.")
    worst = (most + 1) // 2 if len(known) > most else len(known)
    best = most - worst if len(known) > most else 0
    left_out = known[worst : len(known) - best]
    rows = [*known[:worst], *([None] if left_out else []), *known[len(known) - best :][:best]]
    names = ["" if row is None else _name(row) for row in rows]
    lines = max(name.count("\n") + 1 for name in names)
    row_height = LINE * lines + 0.07
    figure = Figure(figsize=(WIDTH, ENDS + row_height * max(len(rows), 3)), layout="constrained")
    axes = figure.add_subplot()
    orders = [name for name in per_class[0] if name not in RESERVED]
    with_top5 = score == "top1" and len(per_class) > 5  # of five classes each is among the first five
    for place, row in enumerate(rows):
        if row is None:
            scores = [one[score] for one in left_out]
            text = f"{len(left_out)} classes between are left out: {min(scores):.1%} to {max(scores):.1%}"
            axes.text(0.01, place, text, fontsize=7.5, va="center", style="italic", color=INK)
        else:
            _draw_class(axes, place, row, score, orders, with_top5=with_top5)
    mean = sum(row[score] for row in known) / len(known)
    axes.axvline(mean, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), names, parse_math=False, fontsize=7)
    axes.tick_params(axis="y", length=0, pad=7)
    axes.tick_params(axis="x", labelsize=8)
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", linewidth=0.4, color="#dddddd")
    axes.set_axisbelow(True)
    what = "average precision" if score == "average_precision" else "accuracy (recall, top-1)"
    without = len(per_class) - len(known)
    axes.set_xlabel(f"{what}; at the right end the videos of a class", fontsize=9)
    said = f"{len(known)} classes with videos, mean {what.partition(' (')[0]} {mean:.1%}"
    said += f"; {without} without videos {'is' if without == 1 else 'are'} not shown" if without else ""
    write_heading(figure, title, said)
    _legend(figure, score, orders, with_top5=with_top5)
    return figure


def _score(per_class: Sequence[Mapping[str, Any]]) -> str:
    """Return the column that ranks the classes, or raise a ValueError that says which row is wrong."""
    if not per_class or not all(isinstance(row, Mapping) for row in per_class):
        raise ValueError("Classes are rows of index, name, videos and scores, one or more, as a report has them.")
    score = "average_precision" if "average_precision" in per_class[0] else "top1"
    shares = ["average_precision"] if score == "average_precision" else ["top1", "top5"]
    shares += [name for name in per_class[0] if name not in RESERVED]
    for row in per_class:
        counts = [row.get("videos"), *([row.get("predicted")] if score == "top1" else [])]
        is_right = "name" in row and all(type(count) is int and count >= 0 for count in counts)
        if not is_right or row.keys() != per_class[0].keys() or (row["videos"] and not _has_shares(row, shares)):
            needed = ", ".join(["index", "name", "videos", *(["predicted"] if score == "top1" else []), *shares])
            raise ValueError(f"A class has {needed}, with shares from 0 to 1 where it has videos; got {dict(row)!r}.")
    return score


def _has_shares(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(type(row.get(name)) in (int, float) and 0 <= row[name] <= 1 + 1e-9 for name in names)


def _name(row: Mapping[str, Any]) -> str:
    return wrapped_name(str(row["name"]), f"class {row.get('index')}", NAME, LINES)


def precision(row: Mapping[str, Any]) -> float:
    """Return the share of the videos for which a class was predicted that have its label; NaN if it never was."""
    return row["top1"] * row["videos"] / row["predicted"] if row["predicted"] else math.nan


def _draw_class(
    axes: Any, place: int, row: Mapping[str, Any], score: str, orders: Sequence[str], *, with_top5: bool
) -> None:
    axes.barh(place, row[score], 0.56, color=BAR, zorder=2)
    if with_top5:
        axes.barh(place, row["top5"], 0.74, facecolor="none", edgecolor=GREY, linewidth=0.7, zorder=1)
    if score == "top1":
        style = {"color": "white", "markeredgecolor": INK, "markersize": 4.5, "zorder": 4, "clip_on": False}
        axes.plot(precision(row), place, "D", **style)
    for order, marker in _markers(orders).items():
        for width, colour in ((2.2, "white"), (1.1, INK)):  # so that it shows on any ground
            style = {"color": colour, "markeredgewidth": width, "markersize": 5, "clip_on": False}
            axes.plot(row[order], place, marker, zorder=5, **style)
    axes.annotate(
        short_count(row["videos"]), (1, place), (7, 0), textcoords="offset points", va="center", fontsize=7,
        annotation_clip=False,
    )  # fmt: skip


def _markers(orders: Sequence[str]) -> dict[str, str]:
    others = iter(OTHER)
    return {order: ORDERS[order] if order in ORDERS else next(others, ".") for order in orders}


def _legend(figure: "Figure", score: str, orders: Sequence[str], *, with_top5: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    line: dict[str, Any] = {"linestyle": "", "markersize": 5}
    handles: list[Any] = [Patch(facecolor=BAR, label="top-1" if score == "top1" else "average precision")]
    if with_top5:
        handles.append(Patch(facecolor="none", edgecolor=GREY, label="top-5"))
    if score == "top1":
        handles.append(
            Line2D(
                [], [], marker="D", color="white", markeredgecolor=INK, label="precision, if ever predicted", **line
            )
        )
    for order, marker in _markers(orders).items():
        words = f"frames {order.replace('_', ' ')}" if order != "single_frame" else "a single frame"
        handles.append(Line2D([], [], marker=marker, color=INK, label=words, **line))
    handles.append(Line2D([], [], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="mean of the classes"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4), fontsize=8, frameon=False)

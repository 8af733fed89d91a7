"""Scores over time and segments as a picture: a lane for each label, with its curve, its segments and the truth.

Shapes: `N` scores, `K` classes.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .words import legible


if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST, MOST = 5, 30  # lanes: so many where as many labels have no segments, and where more have some
POINTS = 2000  # of a curve
WIDTH, LANE, ENDS = 10.0, 0.5, 1.1  # inches: the picture, a lane, title and axis together
NAME, LINES = 30, 3  # letters and lines of a name
INK, FOUND, TRUTH, GREY = "#1a1a1a", "#0072b2", "#b84a00", "#8a8a8a"  # as dark as each other in no kind of sight
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400)
FAR = 2.5  # a curve is broken where scores are so many times farther from each other than usual


class TimedLabel(Protocol):
    """Describe what is drawn of a segment: its label, and its start and end in seconds."""

    @property
    def label(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...


def plot_timeline(
    times: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    segments: Sequence[TimedLabel],
    *,
    truth: Sequence[TimedLabel] | None = None,
    duration: float | None = None,
    warming_up: np.ndarray | None = None,
    title: str = "",
) -> "Figure":
    """Draw a lane for each label that has segments (30 at most), and of others those with the highest scores.

    A lane shows the score from 0 to 1 as a line, the segments as solid bars, and the truth as hatched ones: nothing
    depends on colours. Of more than 2000 scores the line shows the highest one in each of 2000 stretches of time.

    Args:
        times: (N,) seconds, rising.
        scores: (N, K) probabilities; NaN where there is none.
        labels: K names.
        segments: what was found.
        truth: what is true, where it is known; its labels need not be among `labels`.
        duration: seconds; by default the last time that occurs.
        warming_up: (N,) bool, where the model had seen less than a clip: hatched in grey.
        title: a line above the picture.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    from matplotlib.figure import Figure  # here, as most who import this draw nothing
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    end = last_time(times, scores, labels, [*segments, *(truth or ())], duration)
    names, rows, rest = lanes(labels, scores, [*segments, *(truth or ())], least=LEAST, most=MOST)
    figure = Figure(figsize=(WIDTH, ENDS + LANE * max(len(rows), 1)), layout="constrained")
    axes = figure.add_subplot()
    drawn, curves = thin_scores(times, scores[:, [row for row in rows if row < len(labels)]], POINTS)
    columns = iter(curves.T)
    for lane, row in enumerate(rows):
        if row < len(labels):
            axes.plot(*_broken(drawn, lane + 0.68 - 0.62 * next(columns)), color=INK, linewidth=0.9, zorder=3)
        own = [segment for segment in segments if segment.label == names[row]]
        axes.broken_barh(_spans(own, end), (lane + 0.03, 0.67), facecolor=FOUND, alpha=0.16, linewidth=0)
        axes.broken_barh(_spans(own, end), (lane + 0.72, 0.1), facecolor=FOUND, linewidth=0)
        true = [segment for segment in truth or () if segment.label == names[row]]
        style: dict[str, Any] = {"facecolor": "white", "edgecolor": TRUTH, "linewidth": 0.8, "hatch": "//////"}
        axes.broken_barh(_spans(true, end), (lane + 0.84, 0.1), **style)
    for start, stop in warming_spans(times, warming_up):
        axes.axvspan(start, stop, facecolor="none", edgecolor=GREY, hatch="\\\\\\", linewidth=0, alpha=0.5, zorder=0)
    axes.set_yticks(
        [lane + 0.5 for lane in range(len(rows))], [_wrapped(names, row) for row in rows], parse_math=False
    )
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_yticks(range(len(rows) + 1), minor=True)
    axes.grid(axis="y", which="minor", linewidth=0.4, color="#cccccc")
    axes.tick_params(axis="y", which="minor", length=0)
    axes.set_ylim(max(len(rows), 1), 0)
    axes.set_xlim(0, end)
    step = tick_step(end, 10)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value, 1 if step < 1 else 0)))
    axes.set_xlabel("time" + (f"; {rest} more {'label is' if rest == 1 else 'labels are'} not shown" if rest else ""))
    axes.set_title(legible(title, "", longest=100), loc="left", fontsize=10, parse_math=False)
    _legend(figure, truth is not None, bool(warming_spans(times, warming_up)))
    return figure


def _legend(figure: "Figure", has_truth: bool, has_warming: bool) -> None:
    """Add a legend below the picture that names the line and the bars."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], color=INK, linewidth=0.9, label="score, 0 to 1")]
    handles += [Patch(facecolor=FOUND, label="segment")]
    if has_truth:
        handles += [Patch(facecolor="white", edgecolor=TRUTH, hatch="//////", label="truth")]
    if has_warming:
        handles += [Patch(facecolor="none", edgecolor=GREY, hatch="\\\\\\", linewidth=0, label="warming up")]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def _wrapped(names: Sequence[str], row: int) -> str:
    name = legible(names[row], f"label {row}", longest=NAME * LINES - 10)
    return "\n".join(textwrap.wrap(name, NAME, max_lines=LINES, placeholder="...")) or f"label {row}"


def _spans(segments: Sequence[TimedLabel], end: float) -> list[tuple[float, float]]:
    """Return start and width of bars; none is too narrow to be seen."""
    return [(segment.start, max(segment.end - segment.start, end / 600)) for segment in segments]


def _broken(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return times and scores with a NaN in each gap of the source, so that no line is drawn over it."""
    holes = np.flatnonzero(np.diff(times) > gap_of(times)) + 1
    return np.insert(times, holes, np.nan), np.insert(values, holes, np.nan)


# -- what the picture and the page have in common --------------------------------------------------------------------


def last_time(
    times: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    segments: Sequence[TimedLabel],
    duration: float | None = None,
) -> float:
    """Return the seconds at which a timeline ends, 0.1 at least.

    Raises:
        ValueError: there are not as many scores as times and labels, or the times do not rise.
    """
    if scores.shape != (len(times), len(labels)):
        raise ValueError(f"scores must be ({len(times)}, {len(labels)}): times by labels; got {scores.shape}.")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise ValueError("Times of scores must be numbers of seconds that rise.")
    ends = [duration or 0.0, *times[-1:].tolist(), *(segment.end for segment in segments)]
    return max(0.1, *ends)


def lanes(
    labels: Sequence[str], scores: np.ndarray, segments: Sequence[TimedLabel], *, least: int, most: int
) -> tuple[list[str], list[int], int]:
    """Choose the labels that are shown: those with segments, by total time; of the others those of the highest scores.

    Args:
        labels: K names.
        scores: (N, K), NaN where there is none.
        segments: found and true ones.
        least: the labels shown where fewer have segments.
        most: those shown where more have.

    Returns:
        The names, which are `labels` and behind them those that only segments have; the indices of those shown, in
        the order in which their first segments start; the number of those that are not shown.
    """
    known = set(labels)
    names = [*labels, *dict.fromkeys(segment.label for segment in segments if segment.label not in known)]
    seconds: dict[int, float] = {}
    first: dict[int, float] = {}
    places = {name: index for index, name in reversed(list(enumerate(names)))}  # of two of one name the first
    for segment in segments:
        index = places[segment.label]
        seconds[index] = seconds.get(index, 0.0) + segment.end - segment.start
        first[index] = min(first.get(index, math.inf), segment.start)
    highest = np.fmax.reduce(scores, axis=0, initial=-1.0) if len(labels) else np.zeros(0)
    ranks = [(-seconds.get(i, -1.0), -float(highest[i]) if i < len(labels) else 1.0, i) for i in range(len(names))]
    chosen = [index for _, _, index in sorted(ranks)[: min(max(least, len(seconds)), most)]]
    position = {index: place for place, index in enumerate(chosen)}
    shown = sorted(chosen, key=lambda index: (first.get(index, math.inf), position[index]))
    return names, shown, len(names) - len(shown)


def thin_scores(times: np.ndarray, scores: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `most` times and scores: the highest scores (N, K) in each of as many stretches of equal length.

    A stretch has the time of its first score, and one without scores is left out; NaN counts where there is no number.
    """
    if len(times) <= most:
        return times, scores
    stretch = np.minimum((times - times[0]) / max(times[-1] - times[0], 1e-9) * most, most - 1).astype(int)
    firsts = np.flatnonzero(np.diff(stretch, prepend=-1))
    return times[firsts], np.fmax.reduceat(scores, firsts, axis=0)


def gap_of(times: np.ndarray) -> float:
    """Return the seconds between two scores above which nothing is known of the time between them."""
    return FAR * float(np.median(np.diff(times))) if len(times) > 1 else math.inf


def warming_spans(times: np.ndarray, warming_up: np.ndarray | None) -> list[tuple[float, float]]:
    """Return start and end of each stretch of scores that were warming up, up to the next score behind it."""
    if warming_up is None or not len(times):
        return []
    edges = np.flatnonzero(np.diff(np.concatenate([[False], warming_up, [False]]).astype(int)))
    return [
        (float(times[start]), float(times[min(stop, len(times) - 1)])) for start, stop in edges.reshape(-1, 2).tolist()
    ]


def tick_step(end: float, most: int) -> float:
    """Return the seconds between ticks of an axis, so that there are at most `most`."""
    return next((step for step in STEPS if end / step <= most), end)


def clock(seconds: float, digits: int = 1) -> str:
    """Return seconds as `m:ss` or `h:mm:ss`, with digits behind a point."""
    ticks = math.floor(max(seconds, 0.0) * 10**digits + 0.5)  # half a tick up, as the page's own code does
    whole, part = divmod(ticks, 10**digits)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    return f"{text}.{part:0{digits}d}" if digits else text

"""The numbers by which scores become segments, the options that set them, and the file that keeps them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..markup import plain_line


CALIBRATION, CALIBRATION_VERSION = "transformers-ila segment calibration", 1
LARGEST_CALIBRATION = 2**24  # bytes


class CalibrationError(ValueError):
    """Report a file that is no calibration of segments."""


def _require_number(name: str, value: Any, allowed: str, least: float, most: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most or math.isinf(value):
        raise ValueError(f"{name} must be a number, {allowed}, got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class SegmentRules:
    """Hold the numbers by which scores become segments; the defaults were chosen on data (docs/evaluation.md).

    smoothing: seconds, time constant of the exponential mean over scores; 0 for none.
    threshold: probability, smoothed, from which on a label begins.
    thresholds: the same of single labels, by name, in place of `threshold`.
    hysteresis: share of the threshold by which a probability must fall below it for the label to end.
    min_length: seconds; shorter segments are dropped.
    max_gap: seconds; gaps up to that within a label are filled.
    lag: seconds by which smoothed scores come after what they name; None: what `SegmentTracker` is given, and half of
        `smoothing`.
    background: the class that means nothing and is left out; None for none.
    skip_warming_up: leave out scores of less than a clip, after the start and after gaps.
    """

    smoothing: float = 0.5
    threshold: float = 0.5
    thresholds: Mapping[str, float] = field(default_factory=dict)
    hysteresis: float = 0.2
    min_length: float = 0.5
    max_gap: float = 0.5
    lag: float | None = None
    background: str | None = None
    skip_warming_up: bool = False

    def __post_init__(self) -> None:
        for name in ("smoothing", "min_length", "max_gap"):
            _require_number(name, getattr(self, name), "seconds, 0 or more", 0, math.inf)
        for name in ("threshold", "hysteresis"):
            _require_number(name, getattr(self, name), "0 to 1", 0, 1)
        for label, threshold in self.thresholds.items():
            _require_number(f"the threshold of {label!r}", threshold, "0 to 1", 0, 1)
        if self.lag is not None:
            _require_number("lag", self.lag, "seconds, 0 or more", 0, math.inf)

    def require_labels(self, labels: Sequence[str]) -> None:
        """Raise a ValueError where there are no labels, or where a name of these rules is none of them."""
        if not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"labels must be one or more, each once; got {len(labels)}, {len(set(labels))} different."
            )
        given = [name for name in (self.background, *self.thresholds) if name is not None]
        unknown = [name for name in given if name not in labels]
        if unknown:
            known = ", ".join(map(repr, labels[:10])) + (", ..." if len(labels) > 10 else "")
            raise ValueError(f"background and thresholds must be of these labels: {known}; got {unknown[0]!r}.")


DEFAULTS = SegmentRules()


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """Hold what a user chooses of `SegmentRules`; what is None is the calibration's, else the default there.

    Raises:
        ValueError: a value that is not allowed.
        CalibrationError: the calibration is none.
    """

    _argument_group_name = "segments"

    calibration: str | None = field(
        default=None, metadata={"help": "JSON file of the numbers below, chosen on held-out videos"}
    )
    smoothing: float | None = field(
        default=None, metadata={"help": f"seconds of the mean over scores; default: {DEFAULTS.smoothing}"}
    )
    threshold: float | None = field(
        default=None, metadata={"help": f"probability from which on a label begins; default: {DEFAULTS.threshold}"}
    )
    hysteresis: float | None = field(
        default=None,
        metadata={"help": f"share of it by which a label falls before it ends; default: {DEFAULTS.hysteresis}"},
    )
    min_length: float | None = field(
        default=None, metadata={"help": f"seconds: shorter segments are dropped; default: {DEFAULTS.min_length}"}
    )
    max_gap: float | None = field(
        default=None, metadata={"help": f"seconds: gaps up to that are filled; default: {DEFAULTS.max_gap}"}
    )
    lag: float | None = field(
        default=None,
        metadata={
            "help": "seconds by which labels come after what they name; default: half of --smoothing, and of a stream "
            "half a clip"
        },
    )
    background: str | None = field(default=None, metadata={"help": "class that means nothing, and is left out"})
    skip_warming_up: bool = field(
        default=False, metadata={"help": "leave out scores of less than a clip, after the start and after gaps"}
    )

    def __post_init__(self) -> None:
        self.rules()

    def rules(self) -> SegmentRules:
        """Return the numbers that hold: those given, else the calibration's, else the defaults."""
        rules = DEFAULTS if self.calibration is None else read_calibration(self.calibration)
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "calibration"}
        given = {name: value for name, value in values.items() if value is not None and value is not False}
        if "threshold" in given:
            given["thresholds"] = {}
        return replace(rules, **given)


def read_calibration(file: str | Path) -> SegmentRules:
    """Return the rules of a file that `write_calibration` wrote.

    Raises:
        CalibrationError: it is no such file, or holds what is not allowed.
    """
    shown = repr(plain_line(str(file)))
    try:
        if Path(file).stat().st_size > LARGEST_CALIBRATION:
            raise ValueError(f"it has more than {LARGEST_CALIBRATION} bytes.")
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != CALIBRATION:
            raise ValueError(f'its "format" must be {CALIBRATION!r}.')
        if content.get("version") != CALIBRATION_VERSION:
            raise ValueError(f'its "version" must be {CALIBRATION_VERSION}, got {content.get("version")!r}.')
        return SegmentRules(**content["rules"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CalibrationError(f"{shown} is no calibration of segments: {error}") from error

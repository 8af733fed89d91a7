"""What a report of `evaluate` has in each field: a report that is read from a file may have been changed by hand."""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import torch

from .options import FRAME_ORDERS, PROTOCOLS
from .report import REPORT_SCHEMA


Kind = tuple[Callable[[Any], bool], str]  # of values: whether one is of it, and how it is called


def _whole(least: int) -> Kind:
    return (lambda value: type(value) is int and value >= least), f"a whole number from {least}"


def _or_none(kind: Kind) -> Kind:
    return (lambda value: value is None or kind[0](value)), f"{kind[1]}, or none"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


TEXT: Kind = (lambda value: isinstance(value, str)), "text"
TEXTS: Kind = _is_list_of_texts, "a list of texts"
YES_OR_NO: Kind = (lambda value: isinstance(value, bool)), "true or false"
NUMBER: Kind = (lambda value: _is_number(value) and value >= 0), "a number from 0"
FRACTION: Kind = (lambda value: _is_number(value) and 0 <= value <= 1), "a number from 0 to 1"
SEED: Kind = (lambda value: value is None or type(value) is int), "a whole number, or none"
DATE: Kind = _is_date, "a date such as 2026-01-31T12:00:00+00:00"
DTYPE: Kind = (lambda value: isinstance(getattr(torch, str(value), None), torch.dtype)), "a type such as float32"
ENTRIES: Kind = (lambda value: isinstance(value, dict)), "entries by name"
ROWS: Kind = _is_list_of_dicts, "a list of entries"
PROTOCOL: Kind = (lambda value: isinstance(value, str) and value in PROTOCOLS), f"one of {', '.join(PROTOCOLS)}"
SCHEMA: Kind = (lambda value: type(value) is int and value == REPORT_SCHEMA), str(REPORT_SCHEMA)

SCORES = ("top1", "top5", "mean_class_accuracy", "mean_average_precision")
ALWAYS: dict[str, Kind] = {  # "entry.field" that every report has -> what it is
    "date": DATE,
    "model.labels": _whole(1),
    "model.fingerprint": TEXT,
    "model.dtype": DTYPE,
    "data_set.name": _or_none(TEXT),
    "data_set.split": _or_none(TEXT),
    "protocol.clips": _whole(1),
    "protocol.crops": _whole(1),
    "protocol.frames_per_clip": _whole(1),
    "protocol.batch_size": _whole(1),
    "protocol.batch_statistics": YES_OR_NO,
    "counts.listed": _whole(0),
    "counts.evaluated": _whole(0),
    "counts.unreadable": _whole(0),
    "metrics": ENTRIES,
    "versions.transformers_ila": TEXT,
    "decoder.pyav": TEXT,
}
OTHERWISE: dict[str, Kind] = {  # what some versions, models or options add
    "schema": SCHEMA,
    "model.name": _or_none(TEXT),
    "model.revision": _or_none(TEXT),
    "model.device": TEXT,
    "model.tower": TEXT,
    "model.templates": _or_none(TEXTS),
    "model.zero_shot": _or_none(YES_OR_NO),
    "model.untrained_weights": _whole(1),
    "data_set.list": _or_none(ENTRIES),
    "data_set.samples_sha256": TEXT,
    "data_set.excerpts": _whole(0),
    "data_set.read_beyond_clip": _whole(0),  # of earlier versions, which read files whole
    "protocol.name": PROTOCOL,
    "protocol.frame_sampling": TEXT,
    "protocol.frame_stride": _or_none(_whole(1)),
    "protocol.random_frames": YES_OR_NO,
    "protocol.seed": SEED,
    "protocol.note": _or_none(TEXT),
    "inference.dtype": TEXT,
    "inference.fused": YES_OR_NO,
    "inference.why_not_fused": _or_none(TEXT),
    "counts.frames_lost": _whole(0),
    **{f"metrics.{name}": _or_none(FRACTION) for name in SCORES},
    "metrics.classes": _or_none(_whole(0)),
    "calibration.expected_calibration_error": _or_none(NUMBER),
    "calibration.bins": ROWS,
    "unreadable": ROWS,
    "per_class": ROWS,
    "most_confused": _or_none(ROWS),
    "temporal_reliance.seed": SEED,
    "temporal_reliance.orders": ENTRIES,
    **{f"temporal_reliance.orders.{order}": ENTRIES for order in FRAME_ORDERS},
    **{f"temporal_reliance.orders.{order}.{name}": _or_none(FRACTION) for order in FRAME_ORDERS for name in SCORES},
    "seconds": NUMBER,
    "seconds_per_video": NUMBER,
    "waiting_share": FRACTION,
    "processes": _whole(1),
    "preprocessing": ENTRIES,
    "decoder.ffmpeg": TEXT,
}


def check_report(report: Any) -> None:
    """Check that a value is a report of `evaluate`, of this version or an earlier one, with fields of the right kinds.

    Raises:
        ValueError: a field that is missing or of another kind: what it is, and what it must be.
    """
    for name, (is_right, words) in {**ALWAYS, **OTHERWISE}.items():
        part, place = report, ""
        *above, last = name.split(".")
        for step in above:
            part, place = _entry(part, step, place, name in ALWAYS), f" of {step!r}{place}"
        value = _entry(part, last, place, name in ALWAYS)
        if value is not _ABSENT and not is_right(value):
            raise no_report(f"{last!r}{place} must be {words}; got {value!r}")
    orders = (report.get("temporal_reliance") or {}).get("orders") or {}
    if unknown := orders.keys() - set(FRAME_ORDERS):
        raise no_report(f"'orders' may be {', '.join(FRAME_ORDERS)}; got {', '.join(map(repr, sorted(unknown)))}")


_ABSENT = object()


def _entry(part: Any, name: str, place: str, must_be: bool) -> Any:
    """Return an entry of a part of a report; what is absent, or none, has no entries unless one must be there."""
    if part is _ABSENT or (part is None and not must_be):
        return _ABSENT
    if not isinstance(part, dict):
        raise no_report(f"{name!r} must be an entry{place}; got {part!r}")
    if must_be and name not in part:
        raise no_report(f"{name!r}{place} is missing")
    return part.get(name, _ABSENT)


def about_report(report: Mapping[str, Any], picture: str) -> dict[str, Any]:
    """Return what a picture of a report keeps in its file: what was measured, on what, and by which versions.

    picture: its kind, such as "confusion".
    """
    model, origin, protocol = report["model"], report["data_set"], report["protocol"]
    return {
        "picture": picture,
        "model": model.get("name"),
        "fingerprint": model["fingerprint"],
        "data_set": origin["name"],
        "split": origin["split"],
        "samples_sha256": origin.get("samples_sha256"),  # earlier reports lack it
        "protocol": protocol.get("name"),
        "seed": protocol.get("seed"),
        "date": report["date"],
        **report["versions"],
    }


def title_of(report: Mapping[str, Any]) -> str:
    """Return which model was evaluated on what, as the title of a picture."""
    model, origin = report["model"], report["data_set"]
    split = f", {origin['split']}" if origin["split"] else ""
    return f"{model.get('name') or 'a model'} on {origin['name'] or 'an unnamed data set'}{split}"


def no_report(reason: str) -> ValueError:
    """Return an error that says why a value is no report."""
    return ValueError(f"This is no evaluation report: {reason}.")

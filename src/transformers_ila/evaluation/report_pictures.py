"""Pictures of a report: from the JSON file that `ila evaluate` writes, and the confusions beside it, to figures.

What is drawn is checked first: a report or table that was edited, or that is of another evaluation, is an error.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..model.video_urls_ila import redact
from ..visualization.calibration import plot_calibration
from ..visualization.classes import plot_classes
from ..visualization.confusion import plot_confusion_matrix
from .report_fields import check_report, no_report, title_of
from .report_files import confusion_csv, files_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDING = 1e-6  # of sums of fractions
AGAIN = "`ila evaluate --output` writes it anew"


def plot_report(file: str | Path, picture: str = "confusion") -> "Figure":
    """Draw a picture of a report of `ila evaluate`.

    Args:
        file: the report's JSON file; for "confusion" its `_confusion.csv` lies beside it.
        picture: "confusion", "calibration" or "classes".

    Raises:
        ValueError: another picture; no report of `evaluate`, or an edited one; a picture for which the report has no
            numbers: confusions of a model with several labels a video, a report without videos or of an early version.
        OSError: a file cannot be read.
    """
    if picture not in REPORT_PICTURES:
        raise ValueError(f"A report's picture is one of {', '.join(REPORT_PICTURES)}; got {picture!r}.")
    return REPORT_PICTURES[picture](read_report(file), Path(file))


def read_report(file: str | Path) -> dict[str, Any]:
    """Read and check the JSON file of a report of `evaluate`.

    Raises:
        ValueError: no JSON, another program's or verb's, or a report whose fields do not fit each other.
        OSError: the file cannot be read.
    """
    shown = redact(str(file))
    try:
        report = json.loads(Path(file).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown!r} is no JSON file of a report: {error}.") from error
    if not isinstance(report, dict):
        raise ValueError(f"{shown!r}: {no_report(f'it holds a {type(report).__name__}')}")
    for field, what in OTHERS.items():
        if field in report:
            raise ValueError(f"{shown!r} is {what}, and a report of `ila evaluate` is needed.")
    try:
        check_report(report)
        _check_sums(report)
    except ValueError as error:
        raise ValueError(f"{shown!r}: {error}") from error
    return report


OTHERS = {  # an entry that no report of `evaluate` has -> the file that has it
    "text_to_video": "a report of `ila evaluate-retrieval`",
    "segments": "a timeline",
    "weight_map": "an index of weights",
    "model_type": "a model's configuration",
}


def is_multi_label(report: Mapping[str, Any]) -> bool:
    """Return whether the report is of a model with several labels a video."""
    return "mean_average_precision" in report["metrics"]


def _check_sums(report: Mapping[str, Any]) -> None:
    """Raise a ValueError where the classes and the calibration are not of the videos that the report counts."""
    rows, evaluated = report.get("per_class"), report["counts"]["evaluated"]
    if rows is not None:
        if len(rows) != report["model"]["labels"]:
            raise no_report(f"it has {len(rows)} rows of classes, and the model {report['model']['labels']} classes")
        if not is_multi_label(report) and (videos := sum(_count(row, "videos") for row in rows)) != evaluated:
            raise no_report(f"its classes have {videos} videos together, and {evaluated} were evaluated")
    if (bins := (report.get("calibration") or {}).get("bins")) is not None:
        statements = sum(_count(row, "statements") for row in bins)
        expected = evaluated * (report["model"]["labels"] if is_multi_label(report) else 1)
        if statements != expected:
            raise no_report(f"its calibration is of {statements} statements, and there were {expected}")


def _count(row: Mapping[str, Any], name: str) -> int:
    if type(value := row.get(name)) is not int or value < 0:
        raise no_report(f"{name!r} must be a whole number from 0; got {value!r}")
    return value


def _part(report: Mapping[str, Any], name: str, file: Path) -> Any:
    """Return an entry that a picture is of."""
    if not report.get(name):
        version = report["versions"]["transformers_ila"]
        raise ValueError(f"{redact(str(file))!r} has no {name!r} (transformers-ila {version} wrote it): {AGAIN}.")
    return report[name]


# -- one function for each picture -----------------------------------------------------------------------------------


def _confusion(report: Mapping[str, Any], file: Path) -> "Figure":
    if is_multi_label(report):
        raise ValueError(
            f"{redact(str(file))!r} is of a model with several labels a video: none stands in the place of another, "
            "so there is no confusion matrix. Allowed: classes and calibration."
        )
    rows = _part(report, "per_class", file)
    matrix = read_confusion(file, rows)
    total, right, top1 = int(matrix.sum()), int(matrix.diagonal().sum()), report["metrics"].get("top1")
    if total and (top1 is None or abs(top1 - right / total) > ROUNDING):
        raise ValueError(
            f"{redact(str(file))!r} has a top-1 of {top1}, and its confusions one of {right / total}: one of them was "
            f"edited; {AGAIN}."
        )
    return plot_confusion_matrix(matrix, _names(rows), title=title_of(report))


def _calibration(report: Mapping[str, Any], file: Path) -> "Figure":
    calibration = _part(report, "calibration", file)
    figure = _drawn(file, lambda: plot_calibration(calibration, title=title_of(report)))
    gaps = [
        row["statements"] * abs(row["accuracy"] - row["confidence"])
        for row in calibration["bins"]
        if row["statements"]
    ]
    error = sum(gaps) / sum(row["statements"] for row in calibration["bins"])
    if not math.isclose(error, calibration["expected_calibration_error"], abs_tol=ROUNDING):
        found = calibration["expected_calibration_error"]
        raise ValueError(
            f"{redact(str(file))!r}: 'expected_calibration_error' is {found}, and its bins give {error:.6f}: it was "
            f"edited; {AGAIN}."
        )
    return figure


def _classes(report: Mapping[str, Any], file: Path) -> "Figure":
    return _drawn(file, lambda: plot_classes(_part(report, "per_class", file), title=title_of(report)))


def _drawn(file: Path, draw: Callable[[], "Figure"]) -> "Figure":
    try:
        return draw()
    except ValueError as error:
        raise ValueError(f"{redact(str(file))!r}: {error}") from error


REPORT_PICTURES: dict[str, Callable[[Mapping[str, Any], Path], "Figure"]] = {
    "confusion": _confusion,
    "calibration": _calibration,
    "classes": _classes,
}


# -- the confusions beside a report ----------------------------------------------------------------------------------


def _names(rows: list[dict[str, Any]]) -> list[str]:
    names = [row.get("name") for row in rows]
    if bad := [name for name in names if not isinstance(name, str)]:
        raise no_report(f"'name' of a class must be text; got {bad[0]!r}")
    return names  # type: ignore[return-value]


def read_confusion(report_file: str | Path, per_class: list[dict[str, Any]]) -> torch.Tensor:
    """Read the confusion matrix (K, K) that lies beside a report, row the label.

    per_class: the report's, whose names, videos and predictions the counts must have.

    Raises:
        ValueError: there is no such table, or it is of another report.
        OSError: it cannot be read.
    """
    file, names = files_of(report_file)["confusion"], _names(per_class)
    shown = redact(str(file))
    if not file.is_file():
        raise ValueError(
            f"There is no {shown!r}: the confusions lie in a table beside the report, which `ila evaluate --output` "
            "writes. Copy it with the report, or evaluate again."
        )
    content = file.read_bytes()
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{shown!r} is no CSV in UTF-8: {error}.") from error
    cells = [[_whole(cell) for cell in row[1:]] for row in rows[1:]]
    if len(cells) != len(names) or any(len(row) != len(names) for row in cells):
        raise ValueError(f"{shown!r} has {len(cells)} rows of counts, and the report {len(names)} classes.")
    if any(cell is None for row in cells for cell in row):
        row, column = next((i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell is None)
        found = rows[row + 1][column + 1]
        raise ValueError(f"{shown!r}: line {row + 2}, column {column + 2} must be a whole number; got {found!r}.")
    expected = list(csv.reader(io.StringIO(confusion_csv(cells, names).decode("utf-8"), newline="")))
    if rows[0] != expected[0] or [row[0] for row in rows] != [row[0] for row in expected]:
        raise ValueError(f"{shown!r} has other classes than the report: {_first_other(rows, expected)}.")
    matrix = torch.tensor(cells, dtype=torch.long)
    for what, field, counts in (("videos", "videos", matrix.sum(1)), ("predictions", "predicted", matrix.sum(0))):
        for of_class, count in zip(per_class, counts.tolist()):
            if of_class.get(field) != count:
                raise ValueError(
                    f"{shown!r} is of another evaluation, or was edited: it has {count} {what} of "
                    f"{of_class['name']!r}, and the report {of_class.get(field)!r}."
                )
    return matrix


def _whole(cell: str) -> int | None:
    return int(cell) if cell.isascii() and cell.isdigit() and len(cell) < 16 else None


def _first_other(rows: list[list[str]], expected: list[list[str]]) -> str:
    """Return the first name that is not as expected, in words."""
    found = [*zip(rows[0], expected[0]), *((row[0], wanted[0]) for row, wanted in zip(rows, expected))]
    return next(f"{one!r}, where it has {other!r}" for one, other in found if one != other)

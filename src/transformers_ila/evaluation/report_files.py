"""The files of an evaluation: report as JSON and Markdown, tables as CSV, confusions as a picture.

Each file is whole or not there. `evaluation.json` stands beside
`evaluation.md`, `evaluation_classes.csv`, `evaluation_videos.csv`, and for one label a video
`evaluation_confusion.csv` and `evaluation_confusion.png`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.samples import path_of
from ..files import atomic_write, only_writer
from ..markup import csv_text, markdown_table, markdown_text
from ..model.video_urls_ila import redact
from ..visualization.confusion import plot_confusion_matrix
from ..visualization.files import write_figure
from .metrics import confusion_matrix, label_ranks, predicted_classes
from .report import Evaluation
from .report_fields import about_report, check_report, no_report, title_of


if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI, COLOURS = 120, 64  # of the picture, whose colours are the shades of one
SHOWN = 20  # rows of a table in the Markdown; the other files have all
TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
    "mean_average_precision": "mean average precision",
}


def files_of(output: str | Path) -> dict[str, Path]:
    """Return the paths that `write` may write for the report `output`, by kind.

    Raises:
        ValueError: `output` does not end in .json.
    """
    file = Path(output)
    if file.suffix.lower() != ".json":
        raise ValueError(f"A report must end in .json, got {str(output)!r}.")
    names = {"classes": "_classes.csv", "videos": "_videos.csv"}
    names |= {"confusion": "_confusion.csv", "picture": "_confusion.png"}
    beside = {kind: file.with_name(file.stem + end) for kind, end in names.items()}
    return {"report": file, "markdown": file.with_suffix(".md"), **beside}


def write(evaluation: Evaluation, output: str | Path) -> list[Path]:
    """Write the report of an evaluation and the files that go with it; folders are made.

    Returns:
        The files that were written.

    Raises:
        ValueError: `output` does not end in .json, or the report holds what JSON has not (NaN).
        OSError: a file cannot be written.
    """
    files, report, names = files_of(output), evaluation.report(), evaluation.class_names
    picture: Figure | None = None
    written = {"report": _json(report), "markdown": markdown(report).encode("utf-8", "backslashreplace")}
    written["classes"] = _csv(_table(report["per_class"]))
    written["videos"] = _csv(_video_rows(evaluation))
    if evaluation.multi_label:  # a confusion of an earlier evaluation would be taken for this one's
        for kind in ("confusion", "picture"):
            files[kind].unlink(missing_ok=True)
    else:
        matrix = confusion_matrix(evaluation.predictions.logits, evaluation.predictions.labels)
        written["confusion"] = confusion_csv(matrix.tolist(), names)
        picture = plot_confusion_matrix(matrix, names, title=title_of(report))
    with only_writer(files["report"].parent, f".{files['report'].stem}.lock", wait=True):  # no files of two are mixed
        for kind, content in written.items():
            with atomic_write(files[kind], "wb") as file:
                file.write(content)
        if picture is not None:
            write_figure(picture, files["picture"], about_report(report, "confusion"), dpi=DPI, colours=COLOURS)
    return [files[kind] for kind in (*written, *(["picture"] if picture else []))]


def write_report(report: Mapping[str, Any], output: str | Path) -> None:
    """Write a report alone, as JSON; its folder is made.

    Raises:
        ValueError: the report holds what JSON has not (NaN).
        OSError: the file cannot be written.
    """
    content = _json(report)
    with atomic_write(output, "wb") as file:
        file.write(content)


def check_output(output: str | Path, *, list_file: str | None = None) -> None:
    """Check, before anything is computed, that `write` can write to `output`.

    Raises:
        ValueError: `output` does not end in .json, a folder stands in the place of a file or a file in the place of a
            folder, or the list that is evaluated would be overwritten.
    """
    for file in files_of(output).values():
        if file.is_dir():
            raise ValueError(f"--output {str(output)!r} needs a file {str(file)!r}, and there is a folder.")
        if list_file is not None and file.resolve() == Path(list_file).resolve():
            raise ValueError(f"--output {str(output)!r} would overwrite the list.")
    check_folder_can_be_made(Path(output).parent)


def check_folder_can_be_made(folder: Path) -> None:
    """Raise a ValueError where a file stands in the place of a folder or of one above it, or an address does."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", folder.parts[0] if folder.parts else ""):
        raise ValueError(f"{redact(str(folder))!r} is an address; allowed here is a local folder.")
    first = next(path for path in (folder, *folder.parents) if path.exists())
    if not first.is_dir():
        raise ValueError(f"The folder {str(folder)!r} cannot be made: {str(first)!r} is a file.")


def _json(report: Mapping[str, Any]) -> bytes:
    return (json.dumps(report, indent=2, allow_nan=False) + "\n").encode("ascii")


# -- tables ----------------------------------------------------------------------------------------------------------


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as CSV in UTF-8 (`csv_text`); bytes of a path that are no text become escapes."""
    return csv_text(rows).encode("utf-8", "backslashreplace")


def confusion_csv(matrix: Sequence[Sequence[Any]], names: Sequence[str]) -> bytes:
    """Return the counts of a confusion matrix, rows the labels, as CSV with the names of its rows and columns."""
    return _csv([["label", *names], *([name, *row] for name, row in zip(names, matrix))])


def _table(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    return [list(rows[0]), *([*row.values()] for row in rows)]


def _video_rows(evaluation: Evaluation) -> Iterator[list[Any]]:
    """Yield a head and a row for each video listed. `label_rank` counts from 1; several labels stand with blanks."""
    predictions, names = evaluation.predictions, evaluation.class_names
    yield [
        *("path", "labels", "predicted", "predicted_name", "probability", "label_rank"),
        *(f"predicted_{order}" for order in predictions.reordered),
        "reason",
    ]
    chances = evaluation.chances
    found = predicted_classes(predictions.logits).tolist()
    others = [predicted_classes(logits).tolist() for logits in predictions.reordered.values()]
    if evaluation.multi_label:
        ranks: list[int | None] = [None] * len(found)
    else:
        ranks = (label_ranks(predictions.logits, predictions.labels) + 1).tolist()
    row_of = {position: row for row, position in enumerate(predictions.positions)}
    for position, sample in enumerate(evaluation.samples):
        begin = [path_of(sample), " ".join(map(str, sample.labels))]
        if position in predictions.unreadable:
            yield [*begin, *[None] * (4 + len(others)), predictions.unreadable[position]]
            continue
        row = row_of[position]
        best = found[row]
        cells = [best, names[best], float(chances[row, best]), ranks[row], *(other[row] for other in others)]
        yield [*begin, *cells, None]


# -- Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report for people, in Markdown; long tables are cut, and say so.

    Raises:
        ValueError: no such report (`check_report`).
    """
    check_report(report)
    try:
        return _markdown(report)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise no_report(f"{error!r} is wrong or missing") from error


def _markdown(report: Mapping[str, Any]) -> str:
    model, origin = report["model"], report["data_set"]
    name = origin["name"] or "unnamed data set"
    sections = [
        f"# {markdown_text(model['name'] or 'a model')} on {markdown_text(name)}"
        + (f", {markdown_text(origin['split'])}" * bool(origin["split"])),
        markdown_table(["", ""], _summary(report)),
        f"Note: {markdown_text(note, None)}" if (note := report["protocol"]["note"]) else "",
        *_temporal_section(report),
        *_class_section(report),
        *_confusion_section(report),
        *_calibration_section(report),
        *_unreadable_section(report),
        "## How it was measured",
        markdown_table(["", ""], _circumstances(report)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def percent(value: float | None) -> str:
    """Return a fraction in percent, "none" where there is none."""
    return "none" if value is None else f"{value:.2%}"


def scores_of(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return titles and values of the metrics that this kind of model has."""
    several = "mean_average_precision" in metrics
    wanted = [name for name in TITLES if name in metrics and (name == "mean_average_precision") == several]
    return [(TITLES[name], percent(metrics[name])) for name in wanted]


def _summary(report: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    counts, protocol = report["counts"], report["protocol"]
    return [
        *scores_of(report["metrics"]),
        ("classes with videos", f"{report['metrics']['classes']} of {report['model']['labels']}"),
        ("videos", f"{counts['evaluated']} of {counts['listed']}, {counts['unreadable']} unreadable"),
        ("frames lost to damage", counts["frames_lost"]),
        *words_of(report),
        ("calibration error", percent(report["calibration"]["expected_calibration_error"])),
        ("views", f"{protocol['clips']} clips x {protocol['crops']} crops of {protocol['frames_per_clip']} frames"),
        ("seconds per video", seconds_of(report)),
        ("waiting for videos", f"{report['waiting_share']:.0%} of the time"),
    ]


def words_of(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a report says of words: whether it is zero-shot, and how class names were read."""
    model = report["model"]
    templates = model.get("templates")  # earlier reports lack it
    rows = [("zero-shot", f"trained on none of the classes; {model['tower']}")] if model.get("zero_shot") else []
    if rows or templates:
        rows.append(("class names read as", "; ".join(templates or ["the bare name"])))
    return rows


def _circumstances(report: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    model, protocol, origin = report["model"], report["protocol"], report["data_set"]
    listed, untrained = origin["list"], model.get("untrained_weights")
    rows = [
        ("date", report["date"]),
        ("model", f"{model['dtype']} on {model['device']}, SHA-256 {model['fingerprint']}"),
        ("random weights", f"{untrained} tensors, which nothing has trained" if untrained else None),
        ("computed in", precision_of(report) if "inference" in report else None),  # earlier reports lack it
        (
            "list",
            "no list" if listed is None else f"{listed['name']} ({listed['format']}), SHA-256 {listed['sha256']}",
        ),
        ("samples", f"SHA-256 {origin['samples_sha256']}"),
        ("frames", f"rule {protocol['frame_sampling']}" + ", drawn at random" * protocol["random_frames"]),
        ("seed", protocol["seed"]),
        ("batch", f"{protocol['batch_size']} videos, {report['processes']} processes"),
        ("processor", "; ".join(f"{name} {value}" for name, value in report["preprocessing"].items())),
        ("decoder", f"PyAV {report['decoder']['pyav']}, FFmpeg {report['decoder']['ffmpeg']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
    ]
    if origin.get("excerpts"):
        rows.append(("parts", f"{origin['excerpts']} videos are some seconds of their files"))
    if origin.get("read_beyond_clip"):
        rows.append(("taken whole", f"{origin['read_beyond_clip']} files that may be longer than the clip listed"))
    return [row for row in rows if row[1] is not None]


def precision_of(report: Mapping[str, Any]) -> str:
    """Return the precision in which a report's model computed, and whether it was fused."""
    inference = report["inference"]
    return inference["dtype"] + (", fused" if inference["fused"] else f", not fused ({inference['why_not_fused']})")


def _temporal_section(report: Mapping[str, Any]) -> list[str]:
    reliance = report["temporal_reliance"]
    if reliance is None:
        return []
    titles = [title for title, _ in scores_of(report["metrics"])]
    rows: list[tuple[Any, ...]] = [("as it is", *(value for _, value in scores_of(report["metrics"])), "")]
    for order, metrics in reliance["orders"].items():
        values = (value for _, value in scores_of(metrics))
        rows.append((order.replace("_", " "), *values, percent(metrics["prediction_changed"])))
    return ["## Temporal reliance", markdown_table(["frames", *titles, "prediction changed"], rows)]


def _class_section(report: Mapping[str, Any]) -> list[str]:
    """Return the table of the classes that are recognised worst."""
    key = "average_precision" if "mean_average_precision" in report["metrics"] else "top1"
    with_videos = [row for row in report["per_class"] if row["videos"]]
    if not with_videos:
        return []
    worst = sorted(with_videos, key=lambda row: row[key])[:SHOWN]
    orders = list(report["temporal_reliance"]["orders"]) if report["temporal_reliance"] else []
    rows = [(row["name"], row["videos"], *(percent(row[name]) for name in (key, *orders))) for row in worst]
    title = (
        "## Classes" if len(worst) == len(with_videos) else f"## The {len(worst)} worst of {len(with_videos)} classes"
    )
    heads = ["class", "videos", key.replace("_", " "), *(order.replace("_", " ") for order in orders)]
    return [title, markdown_table(heads, rows)]


def _confusion_section(report: Mapping[str, Any]) -> list[str]:
    if not report["most_confused"]:
        return []
    rows = [(row["label"], row["predicted"], row["videos"]) for row in report["most_confused"]]
    return ["## Most confused", markdown_table(["label", "predicted", "videos"], rows)]


def _calibration_section(report: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            f"{row['from']:.2f} to {row['to']:.2f}",
            row["statements"],
            percent(row["confidence"]),
            percent(row["accuracy"]),
        )
        for row in report["calibration"]["bins"]
        if row["statements"]
    ]
    heads = ["confidence", "statements", "mean confidence", "true"]
    return ["## Calibration", markdown_table(heads, rows)] if rows else []


def _unreadable_section(report: Mapping[str, Any]) -> list[str]:
    listed = report["unreadable"]
    if not listed:
        return []
    more = [f"and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
    rows = [(video["path"], video["reason"]) for video in listed[:SHOWN]]
    return ["## Unreadable", markdown_table(["video", "reason"], rows), *more]


def seconds_of(report: Mapping[str, Any]) -> str:
    """Return the seconds per video, and for how many orders of its frames they were."""
    reliance = report["temporal_reliance"]
    passes = "" if reliance is None else f", for {1 + len(reliance['orders'])} orders of its frames"
    return f"{report['seconds_per_video']:.3f}{passes}"

"""Reads what Label Studio exports: JSON, JSON-MIN and CSV, with choices of videos or labels of a timeline."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree

from transformers.utils import logging

from .exports import Labelled, MediaFinder, annotations_of_export, choose_field, fault_in, seconds_of_range
from .lists import is_video_name
from .samples import Annotations, Labels
from .text import Text, annotation_error, parse_json, preview, read_text


logger = logging.get_logger(__name__)


CONFIG = "label_config.xml"  # the labelling interface, where it lies beside the export
PREDICTIONS = "predictions"  # the `label_field` that stands for what models say
FRAME_RATE = 24.0  # that Label Studio takes where its labelling interface says none
RATES = ("fps", "frame_rate", "framerate", "frameRate")  # usual names of the frame rate in a task
ROW = ("id", "annotation_id", "annotator", "created_at", "updated_at", "lead_time", "agreement", "comments")
OWN = ("name", "offset", "probabilities", *RATES)  # columns that no annotator fills
MOST = 2**53  # frames
ANNOTATIONS = ("annotations", "completions")
LATEST = ("updated_at", "created_at", "id")


def is_task(keys: set[str]) -> bool:
    """Return whether the first object of a JSON is a task of an export, or a row of a minimal one."""
    return bool(keys & {*ANNOTATIONS, PREDICTIONS} and keys & {"id", "data"}) or is_row(keys)


def is_row(keys: set[str]) -> bool:
    """Return whether these are columns of a minimal export."""
    return "annotation_id" in keys and bool(keys & {"annotator", "lead_time"})


class Value(NamedTuple):
    """Hold what an annotation says: labels of the whole video, or frames with labels."""

    labels: tuple[str, ...] = ()
    parts: tuple[tuple[float, float, tuple[str, ...]], ...] = ()


class Task(NamedTuple):
    """Hold a task: what errors call it, its data, and its results: control -> value, one for each annotation."""

    where: str
    data: dict[str, Any]
    annotations: list[dict[str, Any]]


class Interface(NamedTuple):
    """Hold what a labelling interface says: classes by control, the video's field in a task, and its frame rate."""

    classes: dict[str, list[str]]
    media: str | None
    frame_rate: str | None


def read_label_studio(
    source: str | Path,
    *,
    root: str | Path | None = None,
    labels: Labels | None = None,
    multi_label: bool | None = None,
    label_field: str | None = None,
) -> Annotations:
    """Read Label Studio's export: JSON, JSON-MIN or CSV, with choices or timeline labels.

    Choices label the whole video, a timeline's labels some seconds of it: `start` and `end` of a sample, of which
    nothing else is read. Its frames become seconds by the task's `fps`, or by the labelling interface's frameRate
    where `label_config.xml` lies beside the export; that file also gives the order of the classes.

    Of several annotations of a task the one counts that is marked as ground truth, and else the latest; a warning says
    how many disagree. Skipped ones do not count. Tasks without a label are left out and counted, with `multi_label`
    those without an annotation only.

    Args:
        source: the file.
        root: folder above the videos (`MediaFinder`); without it `/data/local-files/?d=` counts from /, and uploads
            lie beside the export.
        labels, multi_label: as in `read_annotations`; without `labels` and an interface the classes are sorted.
        label_field: the control to read, such as "label", where there are several; "predictions" reads a model's.

    Raises:
        AnnotationError: a fault; the message names the file and the task.
        ValueError: no such file, or several controls.
    """
    text = read_text(source)
    interface = _interface(Path(text.file).with_name(CONFIG))
    left_out, disagree = Counter[str](), list[str]()
    tasks = list(_tasks(text, interface, label_field))
    given = None if label_field == PREDICTIONS else label_field
    controls = {name for task in tasks for one in task.annotations for name in one["values"]}
    if not controls and label_field is None:
        raise annotation_error(
            text.file,
            f"no task has an annotation with a label; `label_field` (--label_field) {PREDICTIONS} reads a model's",
        )
    control = choose_field(text.file, controls, given, of="controls")
    found = list[Labelled]()
    for task in tasks:
        counting = [one for one in task.annotations if not one["skipped"]]
        left_out["skipped"] += bool(task.annotations and not counting)
        left_out["without an annotation"] += not task.annotations
        if not counting:
            continue
        chosen = _chosen(counting)
        value = chosen["values"].get(control, Value())
        if any(one["values"].get(control, Value()) != value for one in counting):
            disagree.append(task.where)
        if not value.labels and not value.parts and not multi_label:
            left_out["without a label"] += 1
            continue
        found += _labelled(text, task, value, interface)
    if left_out.total():
        kinds = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
        logger.warning(f"{text.file!r}: {left_out.total()} tasks are left out: {kinds}.")
    if disagree:
        logger.warning(
            f"{text.file!r}: the annotations of {len(disagree)} tasks disagree, {preview(disagree)}; the one marked "
            "as ground truth is read, and else the latest."
        )
    known = interface.classes.get(control, [])
    options: dict[str, Any] = {"labels": labels, "multi_label": multi_label, "known": known}
    finder = MediaFinder(text.file, root)
    return annotations_of_export(found, finder, file=text.file, sha256=text.sha256, format="label-studio", **options)


def _chosen(annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the annotation that counts: the one marked as ground truth, else the latest."""
    return max(annotations, key=lambda one: (one["truth"], *one["latest"]))


def _labelled(text: Text, task: Task, value: Value, interface: Interface) -> Iterator[Labelled]:
    media = _media(text, task, interface)
    if not value.parts:
        yield Labelled(task.where, media, value.labels)
        return
    rate, offset = _frame_rate(text, task, interface), _number(task.data.get("offset")) or 0.0
    for first, last, labels in value.parts:
        start, end = (max(0.0, seconds - offset) for seconds in seconds_of_range(first, last, rate))
        yield Labelled(task.where, media, labels, start, end)


def _media(text: Text, task: Task, interface: Interface) -> str:
    """Return the path or address of a task's video."""
    key = interface.media or ("video" if "video" in task.data else None)
    if key is None:
        videos = [name for name, value in task.data.items() if isinstance(value, str) and _names_video(value)]
        key = videos[0] if len(videos) == 1 else None
    media = None if key is None else task.data.get(key)
    if not isinstance(media, str) or not media:
        raise fault_in(text.file, task.where, f"none of its fields names the video: {preview(sorted(task.data))}")
    return media


def _names_video(value: str) -> bool:
    return is_video_name(unquote(value).partition("&")[0]) or is_video_name(value.partition("?")[0])


def _frame_rate(text: Text, task: Task, interface: Interface) -> float:
    """Return the frame rate by which a task's frames were numbered."""
    said = interface.frame_rate
    if said is not None:
        given = _number(task.data.get(said[1:]) if said.startswith("$") else said) or FRAME_RATE
        return 1 / given if given < 1 else given  # as Label Studio takes it
    rate = next((rate for name in RATES if (rate := _number(task.data.get(name)))), None)
    if rate is None:
        reason = f"nothing tells the frame rate: no {RATES[0]!r} in the task, and no {CONFIG!r} beside the export"
        raise fault_in(text.file, task.where, reason)
    return rate


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < 10_000 else None


# -- the labelling interface -----------------------------------------------------------------------------------------


def _interface(file: Path) -> Interface:
    """Read a labelling interface; one that says nothing where there is no such file."""
    if not file.is_file():
        return Interface({}, None, None)
    text = read_text(file)
    try:
        tree = ElementTree.fromstring(text.text)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise annotation_error(text.file, f"no XML: {error}", line=line, column=column + 1) from error
    classes = {
        node.get("name", ""): [entry.get("alias") or entry.get("value") or "" for entry in node]
        for node in tree.iter()
        if node.tag in ("Choices", "TimelineLabels")
    }
    video = next(iter(tree.iter("Video")), None)
    if video is None:
        return Interface(classes, None, None)
    attributes = {name.lower(): value for name, value in video.attrib.items()}
    media = attributes.get("value", "").removeprefix("$") or None
    return Interface(classes, media, attributes.get("framerate", str(FRAME_RATE)))


# -- the three forms -------------------------------------------------------------------------------------------------


def _tasks(text: Text, interface: Interface, label_field: str | None) -> Iterator[Task]:
    """Yield the tasks of an export of any form; `label_field` as in `read_label_studio`."""
    if not text.text.lstrip().startswith(("[", "{")):
        yield from _of_rows(text, _csv_rows(text), interface, label_field)
        return
    content = parse_json(text)
    entries = content if isinstance(content, list) else [content]
    wrong = next((n for n, entry in enumerate(entries) if not isinstance(entry, dict)), None)
    if wrong is not None:
        raise fault_in(text.file, f"entry {wrong + 1}", "a task must stand here")
    if entries and not any(isinstance(entry.get("data"), dict) for entry in entries) and is_row(set(entries[0])):
        yield from _of_rows(text, entries, interface, label_field)
        return
    for number, entry in enumerate(entries, 1):
        where = f"task {entry.get('id', number)}"
        if not isinstance(entry.get("data"), dict):
            raise fault_in(text.file, where, "it has no `data`")
        yield Task(where, entry["data"], list(_annotations(text, where, entry, label_field == PREDICTIONS)))


def _annotations(text: Text, where: str, entry: dict[str, Any], predictions: bool) -> Iterator[dict[str, Any]]:
    """Yield of each annotation its values by control, whether it counts, and when it was made."""
    names = (PREDICTIONS,) if predictions else ANNOTATIONS
    annotations: Any = next((entry[name] for name in names if entry.get(name)), [])
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise fault_in(text.file, where, f"its {names[0]!r} must be a list of annotations, got {annotations!r:.80}")
    for one in annotations:
        yield {
            "values": _values(text, where, one.get("result") or []),
            "skipped": bool(one.get("was_cancelled") or one.get("skipped")),
            "truth": bool(one.get("ground_truth")),
            "latest": _latest(one),
        }


def _latest(one: dict[str, Any]) -> tuple[str, str, int]:
    updated, created, number = (one.get(name) for name in LATEST)
    return str(updated or created or ""), str(created or ""), number if isinstance(number, int) else 0


def _values(text: Text, where: str, results: Any) -> dict[str, Value]:
    """Return what the results of an annotation say, by control; those of other kinds, such as boxes, say no label."""
    values = dict[str, Value]()
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict) or not isinstance(result.get("from_name"), str):
            continue
        labels = value.get("choices", value.get("timelinelabels"))
        if labels is None or not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            continue
        before = values.get(result["from_name"], Value())
        if "choices" in value:
            values[result["from_name"]] = before._replace(labels=(*before.labels, *labels))
        else:
            parts = tuple((*_range(text, where, one), tuple(labels)) for one in value.get("ranges") or ())
            values[result["from_name"]] = before._replace(parts=(*before.parts, *parts))
    return values


def _range(text: Text, where: str, found: Any) -> tuple[float, float]:
    """Return the first and the last frame of a range; one of them may be left out where it is a single frame."""
    found = found if isinstance(found, dict) else {}
    first: Any = found.get("start", found.get("end"))
    last: Any = found.get("end", first)
    numbers = all(type(value) in (int, float) for value in (first, last))
    if not numbers or not 1 <= first <= last <= MOST:
        raise fault_in(text.file, where, f"a range must be a first and a last frame, from 1 on; got {found!r:.80}")
    return first, last


def _csv_rows(text: Text) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text.text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise annotation_error(text.file, f"no CSV: {error}", line=reader.line_num, column=1) from error
    for row in rows:
        if None in row or None in row.values():
            raise fault_in(text.file, f"task {row.get('id')}", "its row has more or fewer cells than the header")
    return [{name: _cell(value) for name, value in row.items() if value != ""} for row in rows]


def _cell(value: str) -> Any:
    """Return what a cell holds: lists and objects are written as JSON."""
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _of_rows(text: Text, rows: list[dict[str, Any]], interface: Interface, label_field: str | None) -> Iterator[Task]:
    """Yield the tasks of a minimal export, in which each annotation is a row with the task's data."""
    if label_field == PREDICTIONS:
        raise ValueError(f"{text.file!r} is a minimal export, which holds no predictions: export as JSON.")
    controls = [label_field] if label_field is not None else list(interface.classes) or _controls(text, rows)
    by_id: dict[Any, Task] = {}
    for number, row in enumerate(rows, 1):
        id = row.get("id", f"of row {number}")
        data = {name: value for name, value in row.items() if name not in (*ROW, *controls)}
        task = by_id.setdefault(str(id), Task(f"task {id}", data, []))
        results = [result for name in controls for result in _results(name, row.get(name))]
        values = _values(text, task.where, results)
        more = {"skipped": False, "truth": False, "latest": _latest(row)}
        task.annotations.append({"values": values, **more})
    yield from by_id.values()


def _results(name: str, value: Any) -> Iterator[dict[str, Any]]:
    """Yield results as the full export has them."""
    for one in value if isinstance(value, list) else [] if value is None else [value]:
        yield {"from_name": name, "value": one if isinstance(one, dict) else {"choices": [str(one)]}}


def _controls(text: Text, rows: list[dict[str, Any]]) -> list[str]:
    """Return the columns that annotators may have filled: not the task's own, as far as these are known."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in (*ROW, *OWN)))
    texts = ((name, value) for row in rows[:100] for name, value in row.items() if isinstance(value, str))
    videos = {"video", *(name for name, value in texts if _names_video(value))}
    return [name for name in names if name not in videos]

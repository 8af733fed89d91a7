"""Labels as files that labelling tools open: a FiftyOne dataset on disk, and tasks of Label Studio.

```
folder/metadata.json       fiftyone: what the dataset's fields are, its classes, and which model labelled
folder/samples.json        a sample for each video
folder/tasks.json          label-studio: a task for each video, with the labels as predictions
folder/label_config.xml    the labelling interface, with all classes
```

What is unusual here:
- Both tools count frames from 1 and take them for equally long: a frame's number is its seconds times the video's mean
  frame rate, as their players reckon. A segment from `start` to `end` is the frames `first` to `last`, both included.
- Names in the files (ids of samples, labels and regions) hang on the video and the label alone: written again, they
  are the same.
- Videos come one by one, so that memory does not grow with their number.
"""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from transformers.utils import logging

from ..data.label_studio import CONFIG
from ..data.text import preview
from ..files import atomic_write
from ..model.video_urls_ila import redact
from ..version import __version__
from ..visualization.timeline import TimedLabel


logger = logging.get_logger(__name__)


SURE = 0.5  # probability from which a label counts, where each label has one of its own
FIFTYONE_VERSION = "1.0.0"  # of the format: later versions of FiftyOne bring it up to theirs, earlier ones refuse it
MANY = 12  # classes, above which Label Studio shows a list to open in place of a button each
PREDICTION, TOP_K, SEGMENTS, EMBEDDING, REASON = "prediction", "top_k", "segments", "embedding", "reason"
CONTROL, OBJECT = "label", "video"  # names in the labelling interface
FRACTION_OF_TIME = 25.0  # frames a second of a video whose own nobody knows: Label Studio then counts in 40 ms
NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class ScoredLabel(TimedLabel, Protocol):
    """Describe a segment with its probability; its seconds count from the video's first frame."""

    @property
    def score(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class LabelledVideo:
    """Hold what is said of one video.

    name: what the results call it. path: where it lies, a file or for Label Studio also a URL.
    labels: labels and their probabilities, best first; of a clip.
    segments: of a timeline; None of a clip.
    frames, duration: how many frames the video has, and its seconds; of a timeline, None where they are not known.
    offset: seconds from where players begin to count to the first frame.
    reason: why there are no labels, or why they end early.
    embedding: the video's feature.
    """

    name: str
    path: str
    labels: Sequence[tuple[str, float]] = ()
    segments: Sequence[ScoredLabel] | None = None
    frames: int | None = None
    duration: float | None = None
    offset: float = 0.0
    reason: str | None = None
    embedding: Sequence[float] | None = None

    @property
    def is_unreadable(self) -> bool:
        """Return whether nothing is known of the video."""
        return self.reason is not None and self.segments is None

    @property
    def frame_rate(self) -> float:
        """Return the mean number of frames a second."""
        return float(f"{self.frames / self.duration:.9g}") if self.frames and self.duration else FRACTION_OF_TIME


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """Hold what all videos of a file have in common.

    class_names: all labels that there may be, in the model's order.
    multi_label: whether a video may have several labels at once: those with a probability of `SURE` or more.
    timelines: whether labels are segments.
    model: name and fingerprint of the model.
    embeddings: whether clips have an embedding.
    document_root: folder from which Label Studio serves files.
    """

    class_names: Sequence[str]
    multi_label: bool
    model: str
    timelines: bool = False
    embeddings: bool = False
    document_root: str = os.sep


def write_labels(folder: str | Path, tool: str, videos: Iterable[LabelledVideo], labelling: Labelling) -> Counter[str]:
    """Write the files of a labelling tool into a folder, each whole or not at all.

    Args:
        folder: for the files; made if it is missing.
        tool: a key of `TOOLS`.
        videos: asked for one by one.
        labelling: what they have in common.

    Returns:
        How many videos were "written", "unreadable" (in FiftyOne with this tag, in Label Studio left out), and
        "left out" for their names, which are no UTF-8.

    Raises:
        ValueError: a label or a place that the tool cannot have, or a file there that was not written here.
        OSError: a file cannot be written; those of earlier times stay.
    """
    folder, counts = Path(folder), Counter[str]()
    check_labels_for(tool, labelling.class_names)
    check_folder_for(tool, folder)
    folder.mkdir(parents=True, exist_ok=True)
    form = TOOLS[tool]
    with atomic_write(folder / form.file, encoding="ascii") as file:
        file.write(form.begin)
        for number, entry in enumerate(form.entries(_nameable(videos, counts), labelling, counts)):
            file.write((",\n" if number else "\n") + json.dumps(entry))
        file.write(form.end)
    with atomic_write(folder / form.beside) as file:
        file.write(form.describe(labelling))
    if counts["left out"]:
        logger.warning(f"{counts['left out']} videos are left out of {form.file!r}: their names are no UTF-8.")
    return counts


def remove_labels(folder: str | Path, tool: str) -> None:
    """Remove the files of a tool, which results that are about to change would make untrue."""
    check_folder_for(tool, folder)
    for name in (TOOLS[tool].beside, TOOLS[tool].file):  # in this order, as one beside nothing is taken for another's
        (Path(folder) / name).unlink(missing_ok=True)


def check_folder_for(tool: str, folder: str | Path) -> None:
    """Raise a ValueError where a folder has files of a tool's names that `write_labels` did not write.

    People's own labels may lie in them: FiftyOne's exports have these names, too.
    """
    form = TOOLS[tool]
    file, beside = Path(folder) / form.file, Path(folder) / form.beside
    if file.is_file():
        with file.open("rb") as opened:
            begin = opened.read(64)
        known = begin.startswith(tuple(f"{form.begin}{more}".encode() for more in (f"\n{form.entry}", form.end)))
    else:
        known = not beside.is_file()
    if not known:
        found = file if file.is_file() else beside
        raise ValueError(f"{str(found)!r} was not written by this command, and would be lost: take another folder.")


def check_labels_for(tool: str, class_names: Sequence[str]) -> None:
    """Raise a ValueError where a tool does not exist, or cannot have one of the labels."""
    if tool not in TOOLS:
        raise ValueError(f"The tool must be one of {', '.join(TOOLS)}, got {tool!r}.")
    if tool != "label-studio":
        return
    for faulty, reason in (
        (
            [name for name in class_names if name.startswith("$")],
            "begin with $, which names a field of the task there",
        ),
        ([name for name in class_names if NO_XML.search(name)], "hold characters that XML cannot have"),
        ([name for name in class_names if name != name.strip()], "begin or end with blanks, which it drops"),
    ):
        if faulty:
            raise ValueError(f"Label Studio cannot have the labels {preview(faulty)}: they {reason}. Rename them.")


def _nameable(videos: Iterable[LabelledVideo], counts: Counter[str]) -> Iterator[LabelledVideo]:
    for video in videos:
        try:
            video.path.encode()
        except UnicodeEncodeError:
            counts["left out"] += 1
        else:
            yield video


def _id(*parts: object) -> str:
    """Return 24 hexadecimal digits that stand for what is given."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()


def frame_range(video: LabelledVideo, start: float, end: float, *, offset: float = 0.0) -> tuple[int, int]:
    """Return the first and the last frame of some seconds of a video, from 1 on: the reverse of `seconds_of_range`.

    offset: seconds that are counted before the first frame.
    """
    rate = video.frame_rate
    most = 2**53 if video.frames is None else video.frames + round(offset * rate)
    first = min(round((start + offset) * rate) + 1, most)
    return first, min(max(first, round((end + offset) * rate)), most)


def _sure(video: LabelledVideo, labelling: Labelling) -> list[tuple[str, float]]:
    """Return the labels that count: the best one, or all that are sure."""
    if not labelling.multi_label:
        return list(video.labels[:1])
    return [(label, score) for label, score in video.labels if score >= SURE]


# -- FiftyOne --------------------------------------------------------------------------------------------------------

FIELDS, LABELS = "fiftyone.core.fields", "fiftyone.core.labels"


def _field(
    name: str, kind: str, document: str | None = None, of: str | None = None, key: str | None = None
) -> dict[str, Any]:
    """Return how FiftyOne describes a field: its kind, the document in it, and what a list is of."""
    return {
        "name": name,
        "ftype": f"{FIELDS}.{kind}",
        "embedded_doc_type": document,
        "subfield": None if of is None else f"{FIELDS}.{of}",
        "fields": [],
        "db_field": key or name,
        "description": None,
        "info": None,
        "read_only": name in ("created_at", "last_modified_at"),
    }


def _fiftyone_fields(labelling: Labelling) -> list[dict[str, Any]]:
    kind = "TemporalDetections" if labelling.timelines else _prediction_kind(labelling)
    main = SEGMENTS if labelling.timelines else PREDICTION
    fields = [
        _field("id", "ObjectIdField", key="_id"),
        _field("filepath", "StringField"),
        _field("tags", "ListField", of="StringField"),
        _field("metadata", "EmbeddedDocumentField", "fiftyone.core.metadata.VideoMetadata"),
        _field("_media_type", "StringField"),
        _field("_rand", "FloatField"),
        _field("_dataset_id", "ObjectIdField"),
        _field("created_at", "DateTimeField"),
        _field("last_modified_at", "DateTimeField"),
        _field(main, "EmbeddedDocumentField", f"{LABELS}.{kind}"),
        _field("name", "StringField"),
        _field(REASON, "StringField"),
    ]
    if not labelling.timelines:
        fields.append(_field(TOP_K, "EmbeddedDocumentField", f"{LABELS}.Classifications"))
    if labelling.embeddings:
        fields.append(_field(EMBEDDING, "ListField", of="FloatField"))
    return fields


def _prediction_kind(labelling: Labelling) -> str:
    return "Classifications" if labelling.multi_label else "Classification"


def _fiftyone_metadata(labelling: Labelling) -> str:
    names = list(labelling.class_names)
    field = SEGMENTS if labelling.timelines else PREDICTION
    document = {
        "version": FIFTYONE_VERSION,
        "media_type": "video",
        "tags": [],
        "info": {"model": labelling.model, "transformers_ila": __version__, "predicted_fields": [field, TOP_K]},
        "classes": {field: names},
        "default_classes": names,
        "mask_targets": {},
        "default_mask_targets": {},
        "skeletons": {},
        "sample_fields": _fiftyone_fields(labelling),
        "frame_fields": [],
        "saved_views": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }
    return json.dumps(document, indent=1) + "\n"


def _fiftyone_samples(
    videos: Iterable[LabelledVideo], labelling: Labelling, counts: Counter[str]
) -> Iterator[dict[str, Any]]:
    for video in videos:
        if "://" in video.path:
            raise ValueError(
                f"FiftyOne opens files, and {redact(video.path)!r} is an address: label a copy, or take label-studio."
            )
        if video.segments and video.frames is None:
            raise ValueError(f"FiftyOne counts frames, and nothing tells those of {video.name!r}: take label-studio.")
        counts["unreadable" if video.is_unreadable else "written"] += 1
        path = os.path.abspath(video.path)
        yield {
            "_id": {"$oid": _id(path)},
            "filepath": path,
            "tags": [] if video.reason is None else ["unreadable" if video.is_unreadable else "incomplete"],
            "metadata": _video_metadata(video),
            "_media_type": "video",
            "_rand": int(_id("order", path)[:12], 16) / 2**48,
            "name": video.name,
            REASON: video.reason,
            **_fiftyone_labels(video, labelling, path),
        }


def _video_metadata(video: LabelledVideo) -> dict[str, Any] | None:
    if video.frames is None:
        return None  # `dataset.compute_metadata()` finds it
    return {
        "_cls": "VideoMetadata",
        "frame_rate": video.frame_rate,
        "total_frame_count": video.frames,
        "duration": video.duration,
    }


def _fiftyone_labels(video: LabelledVideo, labelling: Labelling, path: str) -> dict[str, Any]:
    def label(kind: str, field: str, name: str, score: float, number: int = 0, **more: Any) -> dict[str, Any]:
        own = {"$oid": _id(path, field, number, name)}
        sure = score if math.isfinite(score) else None
        return {"_id": own, "_cls": kind, "tags": [], "label": name, "confidence": sure, **more}

    if labelling.timelines:
        found = [
            label("TemporalDetection", SEGMENTS, s.label, s.score, n, support=list(frame_range(video, s.start, s.end)))
            for n, s in enumerate(video.segments or ())
        ]
        return {SEGMENTS: {"_cls": "TemporalDetections", "detections": found}}
    if video.reason is not None:
        return {PREDICTION: None, TOP_K: None}
    sure, ranked = (
        [label("Classification", field, name, score) for name, score in labels]
        for field, labels in ((PREDICTION, _sure(video, labelling)), (TOP_K, video.labels))
    )
    several = {"_cls": "Classifications", "classifications": sure}
    return {
        PREDICTION: several if labelling.multi_label else sure[0],
        TOP_K: {"_cls": "Classifications", "classifications": ranked},
        **({} if video.embedding is None else {EMBEDDING: list(video.embedding)}),
    }


# -- Label Studio ----------------------------------------------------------------------------------------------------


def _label_config(labelling: Labelling) -> str:
    """Return the labelling interface: the video, and all classes as choices or as labels of a timeline."""
    names = [quoteattr(name) for name in labelling.class_names]
    if labelling.timelines:
        lines = [f'  <TimelineLabels name="{CONTROL}" toName="{OBJECT}">']
        lines += [*(f"    <Label value={name}/>" for name in names), "  </TimelineLabels>"]
        lines += [f'  <Video name="{OBJECT}" value="$video" frameRate="$fps" timelineHeight="120"/>']
    else:
        choice = "multiple" if labelling.multi_label else "single"
        layout = ' layout="select"' if len(names) > MANY else ' showInLine="true"'
        lines = [f'  <Video name="{OBJECT}" value="$video"/>']
        lines += [f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="{choice}"{layout}>']
        lines += [*(f"    <Choice value={name}/>" for name in names), "  </Choices>"]
    return "\n".join(["<View>", *lines, "</View>", ""])


def local_files_url(path: str, document_root: str) -> str:
    """Return the address at which Label Studio serves a file that lies below its document root.

    Raises:
        ValueError: the file lies elsewhere.
    """
    root, path = os.path.join(os.path.abspath(document_root), ""), os.path.abspath(path)
    if not path.startswith(root):
        raise ValueError(f"{path!r} does not lie below {root!r}, from where Label Studio serves files.")
    return f"/data/local-files/?d={quote(path.removeprefix(root), errors='surrogateescape')}"


def _tasks(videos: Iterable[LabelledVideo], labelling: Labelling, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    for video in videos:
        if video.is_unreadable:
            counts["unreadable"] += 1
            continue
        counts["written"] += 1
        if "://" in video.path:
            place = redact(video.path)
            if place != video.path:
                logger.warning_once(
                    f"Label Studio cannot play {place!r}: what is secret in its address is left out of the file."
                )
        else:
            place = local_files_url(video.path, labelling.document_root)
        results, score = (_timeline_results if labelling.timelines else _choices)(video, labelling)
        data: dict[str, Any] = {"video": place, "name": video.name}
        if labelling.timelines:
            data |= {"fps": video.frame_rate} | ({"offset": video.offset} if video.offset else {})
        else:
            data["probabilities"] = dict(video.labels)
        yield {
            "data": data,
            "predictions": [{"model_version": labelling.model, "score": score, "result": results}],
        }


def _result(video: LabelledVideo, kind: str, value: dict[str, Any], score: float, number: int = 0) -> dict[str, Any]:
    id, sure = _id(video.path, kind, number, sorted(value.items())), score if math.isfinite(score) else 0.0
    return {"id": id, "from_name": CONTROL, "to_name": OBJECT, "type": kind, "value": value, "score": sure}


def _choices(video: LabelledVideo, labelling: Labelling) -> tuple[list[dict[str, Any]], float]:
    sure = _sure(video, labelling)
    score = sum(score for _, score in sure) / len(sure) if sure else 0.0
    value = {"choices": [label for label, _ in sure]}
    return [_result(video, "choices", value, score)] if sure else [], score


def _timeline_results(video: LabelledVideo, labelling: Labelling) -> tuple[list[dict[str, Any]], float]:
    results = []
    for number, segment in enumerate(video.segments or ()):
        first, last = frame_range(video, segment.start, segment.end, offset=video.offset)
        value = {"ranges": [{"start": first, "end": last}], "timelinelabels": [segment.label]}
        results.append(_result(video, "timelinelabels", value, segment.score, number))
    return results, sum(result["score"] for result in results) / len(results) if results else 0.0


@dataclass(frozen=True)
class ToolFiles:
    """Hold how a tool's files are written: a JSON of entries, one a line, and a file beside it."""

    file: str
    begin: str
    entry: str  # how each entry begins
    end: str
    entries: Callable[[Iterable[LabelledVideo], Labelling, Counter[str]], Iterator[dict[str, Any]]]
    beside: str
    describe: Callable[[Labelling], str]


TOOLS = {
    "fiftyone": ToolFiles(
        "samples.json", '{"samples": [', '{"_id": ', "\n]}\n", _fiftyone_samples, "metadata.json", _fiftyone_metadata
    ),
    "label-studio": ToolFiles("tasks.json", "[", '{"data": ', "\n]\n", _tasks, CONFIG, _label_config),
}

"""Reads what FiftyOne exports: datasets on disk, and the labels of temporal detections."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..model.video_container_ila import VideoDecodingError
from ..model.video_reading_ila import list_frames
from .exports import Labelled, MediaFinder, annotations_of_export, choose_field, fault_in, first_keys, seconds_of_range
from .lists import is_video_name, walk
from .samples import SPLITS, Annotations, Labels
from .text import Text, annotation_error, parse_json, preview, read_text


logger = logging.get_logger(__name__)


SAMPLES, METADATA, LABELS, MANIFEST = "samples.json", "metadata.json", "labels.json", "data.json"
ONE, SEVERAL, PARTS = "Classification", "Classifications", "TemporalDetections"
PART = "TemporalDetection"
KINDS = (ONE, SEVERAL, PART, PARTS)
MOST = 2**53  # frames or seconds
INSTANT = 1e-6  # seconds
TRUTH = "ground_truth"  # the usual name of the field with what people say


def holds_fiftyone(folder: Path) -> bool:
    """Return whether a folder holds a dataset, or the labels and the videos, that FiftyOne has exported."""
    return any(_is_own(folder / name) for name in (SAMPLES, LABELS))


def _is_own(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return is_fiftyone(first_keys(opened.read(2**16).decode("utf-8", "replace")))


def is_fiftyone(keys: set[str]) -> bool:
    """Return whether a JSON object with these keys is one of FiftyOne's files."""
    return "samples" in keys or "sample_fields" in keys or {"classes", "labels"} <= keys


def read_fiftyone(
    source: str | Path,
    *,
    root: str | Path | None = None,
    labels: Labels | None = None,
    split: str | None = None,
    multi_label: bool | None = None,
    label_field: str | None = None,
) -> Annotations:
    """Read FiftyOne's export: a FiftyOneDataset, or the labels.json of a FiftyOneTemporalDetectionDataset.

    Classifications label the whole video, temporal detections label some seconds of it: `start` and `end` of a
    sample, of which nothing else is read. Samples without a label are left out, and counted in a warning.

    Args:
        source: the export's folder, or its samples.json or labels.json.
        root: folder above the videos, where they lie elsewhere than when they were exported (`MediaFinder`).
        labels, multi_label: as in `read_annotations`. Without `labels` the order of classes is the dataset's, where
            it has one, and else that of the alphabet.
        split: the tag of the samples to read, such as train.
        label_field: which field to read; by default "ground_truth", or the only one that `ila predict` did not write.

    Raises:
        AnnotationError: a fault; the message names the file and the sample.
        ValueError: no such file, several fields, or no sample with such a tag.
    """
    path = Path(source)
    if path.is_dir():
        path = path / (SAMPLES if (path / SAMPLES).is_file() else LABELS)
    elif path.name == METADATA:
        path = path.with_name(SAMPLES)
    text = read_text(path)
    content, finder = parse_json(text), MediaFinder(text.file, root)
    if not isinstance(content, dict) or not isinstance(content.get("samples"), list):
        if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
            raise annotation_error(text.file, "FiftyOne's `samples` or `labels` must stand here", line=1, column=1)
        if split is not None or label_field is not None:
            raise ValueError(f"{text.file!r} has neither tags nor fields: leave out `split` and `label_field`.")
        found, known = _of_labels(text, content, finder), content.get("classes") or []
    else:
        found, known = _of_dataset(text, content["samples"], finder, split=split, label_field=label_field)
    options: dict[str, Any] = {"labels": labels, "multi_label": multi_label, "known": known}
    return annotations_of_export(found, finder, file=text.file, sha256=text.sha256, format="fiftyone", **options)


# -- datasets --------------------------------------------------------------------------------------------------------


def _of_dataset(
    text: Text, samples: list[Any], finder: MediaFinder, *, split: str | None, label_field: str | None
) -> tuple[list[Labelled], list[str]]:
    """Return what the samples of a dataset say, and its classes in their order."""
    paths = [sample.get("filepath") if isinstance(sample, dict) else None for sample in samples]
    wrong = next((number for number, path in enumerate(paths) if not isinstance(path, str) or not path), None)
    if wrong is not None:
        raise fault_in(text.file, f"sample {wrong + 1}", "it has no `filepath`")
    about = _metadata(text)
    info = about.get("info")
    predicted = set(info.get("predicted_fields") or ()) if isinstance(info, dict) else set()
    fields = {name for sample in samples for name, value in sample.items() if _kind(value) in KINDS}
    own = fields - predicted
    if label_field is None and fields and not own:
        raise ValueError(
            f"{text.file!r} has no labels but those of a model, {', '.join(sorted(map(repr, fields)))}: name one by "
            "`label_field` (--label_field) to read it, with what was corrected in it."
        )
    chosen = choose_field(
        text.file, own if label_field is None else fields, label_field, of="label fields", usual=TRUTH
    )
    found, left_out = [], Counter[str]()
    for number, sample in enumerate(_of_split(text, samples, split), 1):
        where = f"sample {number} ({os.path.basename(sample['filepath'])!r})"
        items = list(_labelled(text, sample, sample.get(chosen), where, finder))
        left_out["without a label"] += not items
        found += items
    if left_out.total():
        logger.warning(f"{text.file!r}: {left_out.total()} samples have no label in {chosen!r}, and are left out.")
    classes = about.get("classes") if isinstance(about.get("classes"), dict) else {}
    return found, (classes or {}).get(chosen) or about.get("default_classes") or []


def _metadata(text: Text) -> dict[str, Any]:
    beside = Path(text.file).with_name(METADATA)
    content = parse_json(read_text(beside)) if beside.is_file() else {}
    return content if isinstance(content, dict) else {}


def _kind(value: Any) -> str | None:
    return value.get("_cls") if isinstance(value, dict) else None


def _of_split(text: Text, samples: list[dict[str, Any]], split: str | None) -> list[dict[str, Any]]:
    tags = Counter(tag for sample in samples for tag in sample.get("tags") or ())
    if split is None:
        splits = sorted(tag for tag in tags if tag.lower() in SPLITS)
        if len(splits) > 1:
            logger.warning(f"{text.file!r} has samples tagged {', '.join(splits)}; all are read: `split` takes one.")
        return samples
    wanted = {tag for tag in tags if tag == split or SPLITS.get(tag.lower(), tag) == SPLITS.get(split.lower(), split)}
    if not wanted:
        raise ValueError(f"`split` must be a tag of a sample of {text.file!r}: {preview(sorted(tags)) or 'none'}.")
    return [sample for sample in samples if wanted & {*(sample.get("tags") or ())}]


def _labelled(text: Text, sample: dict[str, Any], value: Any, where: str, finder: MediaFinder) -> Iterator[Labelled]:
    """Yield what a field of a sample says: one label, several, or parts with a label each; nothing of no label."""
    media = sample["filepath"]
    if value is None:
        return
    if _kind(value) == ONE:
        if value.get("label") is not None:
            yield Labelled(where, media, (_name(text, where, value),))
    elif _kind(value) == SEVERAL:
        yield Labelled(
            where, media, tuple(_name(text, where, one) for one in _list(text, where, value, "classifications"))
        )
    elif _kind(value) in (PART, PARTS):
        metadata = sample.get("metadata")
        rate = metadata.get("frame_rate") if isinstance(metadata, dict) else None
        for part in [value] if _kind(value) == PART else _list(text, where, value, "detections"):
            yield _part(text, media, part, where, finder, rate)
    else:
        raise fault_in(text.file, where, f"{_kind(value)!r} is none of {', '.join(KINDS)}")


def _list(text: Text, where: str, value: dict[str, Any], name: str) -> list[Any]:
    found = value.get(name) or []
    if not isinstance(found, list):
        raise fault_in(text.file, where, f"its {name!r} must be a list, got {found!r:.80}")
    return found


def _name(text: Text, where: str, value: Any) -> str:
    label = value.get("label") if isinstance(value, dict) else value
    if not isinstance(label, str) or not label.strip():
        raise fault_in(text.file, where, f"a label must be a text, got {label!r}")
    return label


def _part(text: Text, media: str, part: Any, where: str, finder: MediaFinder, rate: Any = None) -> Labelled:
    """Return the part of a video that a temporal detection means: frames from 1 on, or seconds.

    The same first and last second is the frame that is shown then.
    """
    label = _name(text, where, part)
    key = "timestamps" if part.get("timestamps") is not None else "support"
    span = part.get(key)
    numbers = isinstance(span, list) and len(span) == 2 and all(type(value) in (int, float) for value in span)
    least = 1 if key == "support" else 0
    if not numbers or not least <= span[0] <= span[1] <= MOST:
        raise fault_in(text.file, where, f"the {key!r} of {label!r} must be a first and a last one, got {span!r}")
    if key == "support":
        rate = _frame_rate(text, media, where, finder) if not rate else rate
        if type(rate) not in (int, float) or not 0 < rate <= MOST:
            raise fault_in(text.file, where, f"its metadata's frame_rate must be above 0, got {rate!r:.80}")
        span = seconds_of_range(span[0], span[1], rate)
    return Labelled(where, media, (label,), float(span[0]), float(max(span[1], span[0] + INSTANT)))


def _frame_rate(text: Text, media: str, where: str, finder: MediaFinder) -> float:
    """Return the mean frame rate of a video, of which the export does not say it."""
    path, _ = finder.find(media, where)
    try:
        listed = list_frames(path)
    except (VideoDecodingError, OSError) as error:
        reason = "frames are numbered, and nothing tells the video's frame rate: export with metadata"
        raise fault_in(text.file, where, f"{reason} (`dataset.compute_metadata()`); {error}".rstrip(".")) from error
    assert listed.duration is not None
    return listed.total_num_frames / listed.duration


# -- labels alone ----------------------------------------------------------------------------------------------------


def _of_labels(text: Text, content: dict[str, Any], finder: MediaFinder) -> list[Labelled]:
    """Return what a labels.json says: by the video's name without its suffix, one label, several, or parts."""
    classes, media_of = content.get("classes"), _media(text, finder)
    found, empty = [], 0
    for key, value in content["labels"].items():
        where, media = f"the video {key!r}", media_of.get(key, key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        values = [_class(text, where, one, classes) for one in values]
        empty += not values
        parts = [one for one in values if isinstance(one, dict) and ("support" in one or "timestamps" in one)]
        found += [_part(text, media, one, where, finder) for one in parts]
        if values and not parts:
            found.append(Labelled(where, media, tuple(_name(text, where, one) for one in values)))
    if empty:
        logger.warning(f"{text.file!r}: {empty} videos have no label, and are left out.")
    return found


def _class(text: Text, where: str, value: Any, classes: Any) -> Any:
    """Return a value in which the label is a name, also where it is a number of the classes."""
    label = value.get("label") if isinstance(value, dict) else value
    if type(label) is not int:
        return value
    if not isinstance(classes, list) or not 0 <= label < len(classes):
        raise fault_in(text.file, where, f"the label {label} is no number of a class of `classes`")
    return {**value, "label": classes[label]} if isinstance(value, dict) else classes[label]


def _media(text: Text, finder: MediaFinder) -> dict[str, str]:
    """Return where videos lie, by their names without suffix: as the manifest says, or below data/ or the root."""
    folder = Path(text.file).parent
    if (folder / MANIFEST).is_file():
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        pairs = content.items() if isinstance(content, dict) else ()
        return {os.path.splitext(key)[0] if is_video_name(key) else key: str(path) for key, path in pairs}
    data = finder.root.folder if finder.given else str(folder / "data")
    if not os.path.isdir(data):
        return {}
    files = [path for path in walk(data) if is_video_name(path)]
    return {os.path.splitext(os.path.relpath(path, data))[0]: path for path in files}

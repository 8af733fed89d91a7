"""What labelling tools export, as samples: where a video lies that the tool knows by another path, and which order of
classes there is.

A tool may have run on another machine, or have served and renamed the files. With a `root` a video is what lies there
under the longest end of its path: of `/mnt/a/walk/1.mp4` that is `root/walk/1.mp4`, or else `root/1.mp4`. Without one
absolute paths count as they are, and relative ones start from the export's folder.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from ..model.video_urls_ila import redact
from .samples import Annotations, Labels, Sample, VideoRoot, annotations_of_samples, classes_of, part_suffix
from .text import AnnotationError, Line, annotation_error


TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s"\[\]{}:,]+')
LOCAL_FILES, UPLOADS = "/data/local-files/", ("/data/upload/", "upload/")  # as Label Studio serves files
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)", re.DOTALL)  # what it puts before the name of an upload
NOT_KEPT = re.compile(r"[^-\w.]")  # characters that it drops from such a name, once blanks are underscores


class Labelled(NamedTuple):
    """Hold what an export says of a video, or of some seconds of it.

    where: the task or sample, for errors. media: path or address of the video, as the tool knows it.
    labels: names of classes. start, end: seconds; None of all of the video.
    """

    where: str
    media: str
    labels: tuple[str, ...]
    start: float | None = None
    end: float | None = None


def fault_in(file: str, where: str, reason: str) -> AnnotationError:
    """Make the error that names a file and the task or sample in it."""
    return annotation_error(file, f"{where}: {reason}")


def seconds_of_range(first: float, last: float, frame_rate: float) -> tuple[float, float]:
    """Return start and end in seconds of the frames `first` to `last`, both included, which count from 1."""
    return (first - 1) / frame_rate, last / frame_rate


def annotations_of_export(
    found: Sequence[Labelled],
    finder: "MediaFinder",
    *,
    file: str,
    sha256: str,
    format: str,
    labels: Labels | None,
    multi_label: bool | None,
    known: Sequence[str] = (),
) -> Annotations:
    """Make the annotations of what an export says.

    Args:
        found: videos and parts of videos, in the order of the export.
        finder: finds the videos.
        file, sha256, format: of the annotations.
        labels, multi_label: as in `read_annotations`.
        known: the classes in the tool's order, which wins over the alphabet where `labels` is None.

    Raises:
        AnnotationError: nothing is labelled, a label is none of `labels`, a video has several labels that were not
            asked for, or stands there twice.
    """
    if not found:
        raise annotation_error(file, "no video has a label there")
    if labels is None:
        others = {label for item in found for label in item.labels} - {*known}
        if not known and not others:
            raise annotation_error(file, "no video has a label there")
        classes = classes_of([*known, *sorted(others)], multi_label=multi_label)
    else:
        classes = classes_of(labels, multi_label=multi_label)
    samples: dict[tuple[Any, ...], tuple[Sample, str]] = {}
    for item in found:
        start, end = (None if seconds is None else round(seconds, 6) for seconds in (item.start, item.end))
        path, name = finder.find(item.media, item.where)
        line = Line(f"{file}, {item.where}", None, "")
        indices = classes.several([(label, 0) for label in dict.fromkeys(item.labels)], line, by_name=True)
        if not indices and not multi_label:
            raise fault_in(file, item.where, "it has no label")
        name += part_suffix(start, end)
        key = (path, start, end)
        if key in samples:
            before, where = samples[key]
            if start is None or not multi_label:
                raise fault_in(file, item.where, f"the video {name!r} is that of {where}, too")
            indices = (*before.labels, *indices)
        samples[key] = (Sample(path, tuple(sorted({*indices})), name, start, end), item.where)
    return annotations_of_samples([sample for sample, _ in samples.values()], classes, format, file, sha256=sha256)


def choose_field(file: str, fields: Iterable[str], label_field: str | None, *, of: str, usual: str = "") -> str:
    """Return which field of an export is read: the one that is asked for, the usual one, or the only one.

    Raises:
        ValueError: there is no such field, none at all, or several.
    """
    names = sorted(set(fields))
    shown = ", ".join(map(repr, names)) or "none"
    if label_field is not None and label_field not in names:
        raise ValueError(f"`label_field` must be one of the {of} of {file!r}, {shown}; got {label_field!r}.")
    if label_field is not None or usual in names:
        return label_field or usual
    if len(names) != 1:
        raise ValueError(f"{file!r} has the {of} {shown}: say by `label_field` (--label_field) which one is read.")
    return names[0]


class MediaFinder:
    """Find the videos that an export names.

    Args:
        file: the export, for errors; its folder is where relative paths start without a root.
        root: folder above the videos; None: paths count as they are.

    Raises:
        ValueError: there is no such root.
    """

    def __init__(self, file: str, root: str | Path | None) -> None:
        self.file, self.given = file, root is not None
        self.root = VideoRoot(Path(file).parent if root is None else root)
        self._left_off = 0  # parts of the last path that were found under its end
        self._uploads: dict[str, str] | None = None

    def find(self, media: str, where: str) -> tuple[str, str]:
        """Return a video's path and its name: the path below the root where it lies there.

        Raises:
            AnnotationError: an address of another machine and no root, or a path that leaves the root.
        """
        path = self._path(media, where)
        inside = self.root.holds(path)
        return path, path.removeprefix(self.root.prefix) if inside else path

    def _path(self, media: str, where: str) -> str:
        parts = urlsplit(media) if "://" in media or media.startswith(LOCAL_FILES) else None
        place = media if parts is None else unquote(parts.path)
        if place.startswith(LOCAL_FILES):
            assert parts is not None
            served = parse_qs(parts.query).get("d", [""])[0]
            if not served:
                raise fault_in(self.file, where, f"{redact(media)!r} names no file behind `d=`")
            return self._below(served, where) if self.given else os.path.normpath(f"/{served}")
        if place.startswith(UPLOADS):
            return self._uploaded(unquote(place) if parts is None else place, where)
        if parts is not None and parts.scheme != "file" and not self.given:
            reason = f"{redact(media)!r} is an address; copy the videos and name their folder by `root`"
            raise fault_in(self.file, where, reason)
        if os.path.isabs(place) and not self.given:
            return os.path.normpath(place)
        return self._below(place, where)

    def _below(self, place: str, where: str) -> str:
        """Return what lies in the root under the longest end of a path; where nothing does, the likeliest place."""
        path = os.path.normpath(place)
        if self.root.holds(path):
            return path
        parts = [part for part in path.split(os.sep) if part]
        if ".." in parts or not parts:
            raise fault_in(self.file, where, f"the path {place!r} leaves the folder {self.root.folder!r}")
        left_off = min(self._left_off, len(parts) - 1)
        for number in (left_off, *range(len(parts))):
            path = os.path.join(self.root.folder, *parts[number:])
            if os.path.exists(path):
                self._left_off = number
                return path
        foreign = os.path.isabs(place) or "://" in place
        return os.path.join(self.root.folder, *(parts[left_off or len(parts) - 1 :] if foreign else parts))

    def _uploaded(self, place: str, where: str) -> str:
        """Return the video that was uploaded: under its own name, as its upload, or under a name that became this."""
        stored = os.path.basename(place)
        found = UPLOADED.fullmatch(stored)
        own = found[1] if found else stored
        for name in (own, stored, os.path.join(*place.strip("/").split("/")[-2:])):
            path = os.path.normpath(os.path.join(self.root.folder, name))
            if self.root.holds(path) and os.path.exists(path):
                return path
        if self._uploads is None:
            files = (entry.name for entry in os.scandir(self.root.folder))
            self._uploads = {NOT_KEPT.sub("", name.strip().replace(" ", "_")): name for name in sorted(files)}
        path = os.path.join(self.root.folder, self._uploads.get(own, own))
        if not self.root.holds(path):
            raise fault_in(self.file, where, f"{place!r} names no file")
        return path


def first_keys(head: str) -> set[str]:
    """Return the keys of a JSON's object, or of the first object of its list, as far as its beginning shows them."""
    keys, depth, outer = set[str](), 0, 0
    last: str | None = None
    for match in TOKEN.finditer(head):
        token = match[0]
        if token in "[{":
            depth += 1
            if not outer:
                if depth > 2 or (depth == 2 and token == "["):
                    return set()
                outer = depth if token == "{" else 0
        elif token in "]}":
            depth -= 1
            if outer and depth < outer or depth == 0:
                break
        elif token == ":" and depth == outer and last is not None:
            keys.add(last)
        last = token[1:-1] if token.startswith('"') else None
    return keys

"""Reads Kinetics and Something-Something V2 as they are published, and folders with one sub-folder per class."""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

from ..model.video_reading_ila import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from .lists import is_video_name, kind_of_file, warn_of_left_out
from .samples import SPLITS, Annotations, LabelMap, Labels, Sample, SampleCollector, VideoRoot, classes_of
from .text import Line, Text, annotation_error, nonblank_lines, parse_json, place_of, preview, read_text


logger = logging.get_logger(__name__)


# -- Kinetics --------------------------------------------------------------------------------------------------------

CELL = re.compile(r"[ \t]*(?:\"(?:[^\"]|\"\")*\")?[^,]*")
VIDEO_ID = re.compile(r"[A-Za-z0-9_-]+")
SECONDS = re.compile(r"[0-9]{1,6}(\.0*)?")
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
TIMED, BARE = "{id}_{start:06d}_{end:06d}", "{id}"  # names of files, without suffix


class _Clip(NamedTuple):
    """Hold a row; an error about it names its `line` and `label_at`, the number of the cell with the label."""

    line: Line
    label_at: int
    label: str
    id: str
    start: int
    end: int
    split: str

    @property
    def name(self) -> str:
        """Return the name of the clip's file without suffix: id, first and last second."""
        return f"{self.id}_{self.start:06d}_{self.end:06d}"


def read_kinetics(
    file: str | Path, *, root: str | Path | None = None, labels: Labels | None = None, split: str | None = None
) -> Annotations:
    """Read the official Kinetics csv: columns label, youtube_id, time_start, time_end, split; others are ignored.

    A video is `{id}_{start:06d}_{end:06d}.mp4` in the root. Another suffix, a folder per label (with blanks or with
    underscores) and the bare id are found, too; `found_as` says how often. A file named by the bare id may be longer
    than the clip, so its sample has `start` and `end`, and only these seconds are read.

    Class names are those of the whole file, sorted, unless `labels` gives them: a file that lacks a class has other
    indices than one that does not. Arguments and errors are as in `read_annotations`; `split` takes one of the file's.
    """
    text = read_text(file)
    directory = DirectoryIndex(VideoRoot(Path(file).parent if root is None else root), suffix=".mp4")
    clips = _read_clips(nonblank_lines(text), with_split=split is not None)
    wanted = clips if split is None else _of_split(clips, split)
    splits = sorted({clip.split for clip in wanted} - {""})
    if len(splits) > 1:
        logger.warning(f"{text.file!r} holds the splits {', '.join(splits)}, and all are read: `split` takes one.")
    classes = classes_of(sorted({clip.label for clip in clips}) if labels is None else labels)
    samples = SampleCollector()
    for clip in wanted:
        path, pattern = directory.find_first(_kinetics_names(clip))
        if clip.label not in classes.by_name:
            classes.named(clip.label, clip.line, _begin_of_cell(clip.line, clip.label_at))
        times = (clip.start, clip.end) if pattern.endswith(BARE) else (None, None)
        samples.add(Sample(path, (classes.by_name[clip.label],), clip.name, *times), clip.line)
    if any(sample.start is not None for sample in samples.samples):
        logger.warning(
            f"Videos of {text.file!r} lie there without times in their names; they may be whole videos, of which only "
            "the seconds listed are read."
        )
    return samples.annotations(text.file, "kinetics", classes, sha256=text.sha256, found_as=dict(directory.found_as))


def _kinetics_names(clip: _Clip) -> Iterator[tuple[str, str]]:
    """Yield the names that the video may have, each with its pattern."""
    folders = {"": ""}
    if "/" not in clip.label and clip.label not in (".", ".."):
        folders[clip.label + "/"] = "{label}/"
        folders.setdefault(clip.label.replace(" ", "_") + "/", "{label with underscores}/")
    for name, pattern in ((clip.name, TIMED), (clip.id, BARE)):
        for folder in folders:
            yield folder + name, folders[folder] + pattern


def _read_clips(lines: Iterator[Line], *, with_split: bool) -> list[_Clip]:
    first = next(lines)
    header = [cell.lower() for cell in _cells(first)]
    missing = [name for name in (*KINETICS_COLUMNS, *(["split"] if with_split else [])) if name not in header]
    if missing:
        hint = "; a test list has no labels, and cannot be used" if missing == ["label"] else ""
        raise first.fault(0, f"the columns {', '.join(missing)} are missing from {', '.join(header)}{hint}")
    at = {name: header.index(name) for name in (*KINETICS_COLUMNS, "split") if name in header}
    clips = [_clip(line, at, len(header)) for line in lines]
    if not clips:
        raise first.fault(0, "no video is listed below the names of the columns")
    return clips


def _clip(line: Line, at: dict[str, int], columns: int) -> _Clip:
    cells = _cells(line)
    if len(cells) != columns:
        position = _begin_of_cell(line, columns) if len(cells) > columns else len(line.text)
        raise line.fault(position, f"{len(cells)} columns stand here, where the header has {columns}")
    label, name, start, end = (cells[at[column]] for column in KINETICS_COLUMNS)
    if not label:
        raise line.fault(_begin_of_cell(line, at["label"]), "the label is empty")
    if VIDEO_ID.fullmatch(name) is None:
        raise line.fault(_begin_of_cell(line, at["youtube_id"]), f"{name!r} is no youtube_id")
    for column, text in (("time_start", start), ("time_end", end)):
        if SECONDS.fullmatch(text) is None:
            raise line.fault(_begin_of_cell(line, at[column]), f"{text!r} is no time in whole seconds")
    if int(float(start)) >= int(float(end)):
        raise line.fault(_begin_of_cell(line, at["time_end"]), f"the clip from {start} s ends at {end} s")
    split = cells[at["split"]] if "split" in at else ""
    return _Clip(line, at["label"], label, name, int(float(start)), int(float(end)), split)


def _of_split(clips: list[_Clip], split: str) -> list[_Clip]:
    wanted = SPLITS.get(split.lower(), split)
    found = [clip for clip in clips if SPLITS.get(clip.split.lower(), clip.split) == wanted]
    if not found:
        raise ValueError(f"`split` must be one of {sorted({clip.split for clip in clips})}, got {split!r}.")
    return found


def _cells(line: Line) -> list[str]:
    if '"' not in line.text:
        return [cell.strip(" \t") for cell in line.text.split(",")]
    try:
        return next(csv.reader([line.text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise line.fault(line.text.index('"'), f"the quotes from here on are no csv: {error}") from error


def _begin_of_cell(line: Line, number: int) -> int:
    begin = 0
    for _ in range(number):
        begin += len(CELL.match(line.text, begin)[0]) + 1  # type: ignore[index]  # it matches anything
    return begin + len(line.text[begin:]) - len(line.text[begin:].lstrip(" \t"))


class DirectoryIndex:
    """Find videos below a root. Each folder is listed once, because asking for every file takes longer."""

    def __init__(self, root: VideoRoot, *, suffix: str) -> None:
        self.root, self.suffix = root, suffix
        self.found_as: Counter[str] = Counter()
        self._folders: dict[str, dict[str, str]] = {}

    def find_first(self, names: Iterable[tuple[str, str]]) -> tuple[str, str]:
        """Return path and pattern of the first name that a video has; where none has one, those of the first name."""
        first = None
        for name, pattern in names:
            folder, _, stem = name.rpartition("/")
            if folder not in self._folders:
                self._folders[folder] = self._list(os.path.join(self.root.folder, folder))
            file = self._folders[folder].get(stem)
            if file is not None:
                self.found_as[pattern + file[len(stem) :]] += 1
                return os.path.join(self.root.folder, folder, file), pattern
            first = first or (os.path.join(self.root.folder, name + self.suffix), pattern)
        assert first is not None
        return first

    def _list(self, folder: str) -> dict[str, str]:
        """Map names without suffix to those with it, of video files and folders; the usual suffix wins."""
        found: dict[str, str] = {}
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: (entry.name.endswith(self.suffix), entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return found
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if suffix.lower() in VIDEO_SUFFIXES:
                found[stem] = entry.name
            elif entry.is_dir():
                found.setdefault(entry.name, entry.name)
        return found


# -- Something-Something V2 ------------------------------------------------------------------------------------------

SSV2_LABELS = ("labels.json", "something-something-v2-labels.json")
SSV2_NAMES = ("{id}", "20bn-something-something-v2/{id}")


def read_ssv2(
    source: str | Path, *, root: str | Path | None = None, labels: Labels | None = None, split: str | None = None
) -> Annotations:
    """Read Something-Something V2: `train.json` or `validation.json` with `labels.json` beside it, or their folder.

    A video is `{id}.webm` in the root or in its folder `20bn-something-something-v2`; another suffix or a folder of
    frame images is found, too. Its class is its `template` without the brackets. Class names are those of
    `labels.json` unless `labels` gives them.

    Args:
        source: one of the two, or their folder together with `split`.

    The other arguments and the errors are as in `read_annotations`.
    """
    file = _file_of_split(Path(source), split)
    text = read_text(file)
    entries = parse_json(text)
    if not isinstance(entries, list):
        reason = "a list of videos must stand here; a table of class names goes into `labels`"
        raise annotation_error(text.file, reason, line=1, column=1)
    beside = next((file.with_name(name) for name in SSV2_LABELS if file.with_name(name).is_file()), None)
    if labels is None and beside is None:
        raise ValueError(f"There is no {SSV2_LABELS[0]!r} beside {str(file)!r}: pass `labels`, for example 'ssv2'.")
    classes = classes_of(labels if labels is not None else beside)
    directory = DirectoryIndex(VideoRoot(file.parent if root is None else root), suffix=".webm")
    samples, seen = SampleCollector(), dict[str, int]()
    for number, entry in enumerate(entries):
        name, index = _ssv2_entry(entry, number, text, classes)
        if seen.setdefault(name, number) != number:
            first = _line_of_entry(text, seen[name]).number
            raise _line_of_entry(text, number, "id").fault(0, f"the video {name!r} stands in line {first}, too")
        path, _ = directory.find_first((pattern.format(id=name), pattern) for pattern in SSV2_NAMES)
        samples.samples.append(Sample(path, (index,), name))
    return samples.annotations(text.file, "ssv2", classes, sha256=text.sha256, found_as=dict(directory.found_as))


def _file_of_split(source: Path, split: str | None) -> Path:
    if not source.is_dir():
        if split is not None:
            raise ValueError(f"{str(source)!r} is one split; `split` goes with the folder of all of them.")
        return source
    files = files_of_splits(source)
    wanted = None if split is None else SPLITS.get(split.lower(), split)
    if wanted not in files:
        raise ValueError(f"`split` must be one of {sorted(files)}, as {str(source)!r} holds them; got {split!r}.")
    return files[wanted]


def files_of_splits(folder: Path) -> dict[str, Path]:
    """Find the JSON files of splits: {"train": something-something-v2-train.json}, for example."""
    files = {re.split("[-_]", file.stem)[-1]: file for file in sorted(folder.glob("*.json"))}
    return {SPLITS[name]: file for name, file in files.items() if name in SPLITS}


def _ssv2_entry(entry: Any, number: int, text: Text, classes: LabelMap) -> tuple[str, int]:
    """Return the name of the video and the class index of the `number`th entry."""
    name = str(entry.get("id")) if isinstance(entry, dict) else ""
    if VIDEO_ID.fullmatch(name) is None or "id" not in entry:
        raise _line_of_entry(text, number, "id").fault(0, "an `id` of letters and digits must stand here")
    template = entry.get("template")
    if not isinstance(template, str):
        reason = f"the video {name!r} has no `template`, so no class; a test list cannot be used"
        raise _line_of_entry(text, number).fault(0, reason)
    label = template.replace("[", "").replace("]", "")
    if label not in classes.by_name:
        classes.named(label, _line_of_entry(text, number, "template"))
    return name, classes.by_name[label]


def _line_of_entry(text: Text, number: int, key: str = "") -> Line:
    """Return a line whose `fault(0, ...)` names the place of an entry of a JSON list, or of the value of its key."""
    begin, end = 0, text.text.index("[") + 1
    for _ in range(number + 1):
        begin = next(match.start() for match in re.compile(r"[^\s,]").finditer(text.text, end))
        _, end = json.JSONDecoder().raw_decode(text.text, begin)
    value = re.compile(rf'"{key}"\s*:\s*').search(text.text, begin, end) if key else None
    line, column = place_of(text.text, value.end() if value else begin)
    return Line(text.file, line, "", indent=column - 1)


# -- folders ---------------------------------------------------------------------------------------------------------


NO_VIDEOS = ("@eaDir", "__MACOSX")  # folders that network drives and zip files add


def read_class_folders(source: str | Path, *, labels: Labels | None = None, split: str | None = None) -> Annotations:
    """Read one sub-folder per class, of video files and of folders of frame images, at any depth.

    Class names are the folders' names, sorted, unless `labels` gives them; a folder may then have underscores for the
    blanks of its class. `split` is a folder above the classes, which may be called val or validation and so on.

    Links are followed, though not in circles, and not where they would give a video another class: a link to a folder
    must stay in its class folder, and one to a file must not lead to another folder of the same source, nor elsewhere
    into a folder with the name of another class; a class folder is no link to another one. Those, hidden
    names, files beside the class folders, and files that are neither videos nor frames are left out, and counted in a
    warning.

    Raises:
        ValueError: there is no such folder, it has fewer than two classes while `labels` names none, a folder is none
            of `labels`, two classes have links to one video, or, where the folders name the classes, one holds no
            video.
    """
    folder = _folder_of_split(Path(source), split)
    left_out, found = Counter[str](), list[str]()
    inside = os.path.join(os.path.realpath(folder), "")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink() and entry.is_dir() and os.path.join(os.path.realpath(entry.path), "").startswith(inside):
            left_out["links to another class folder"] += 1
        elif entry.is_dir() and not _is_hidden(entry.name):
            found.append(entry.name)
        else:
            left_out[f"beside the class folders ({kind_of_file(entry.name)})"] += 1
    if not found or (labels is None and len(found) < 2):
        raise ValueError(f"{str(folder)!r} must hold one sub-folder per class, two or more; it holds {found}.")
    splits = [name for name in found if name.lower() in SPLITS]
    if labels is None and len({SPLITS[name.lower()] for name in splits}) > 1:
        raise ValueError(f"{str(folder)!r} holds splits, {', '.join(splits)}, and no classes: pass `split`.")
    if labels is None:
        _warn_of_other_splits(folder, found)
    classes = classes_of(found if labels is None else labels)
    label_of = {name: name if name in classes.by_name else name.replace("_", " ") for name in found}
    unknown = [name for name, label in label_of.items() if label not in classes.by_name]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(found)} class folders of {str(folder)!r} are none of the {len(classes.by_name)} "
            f"class names: {preview(unknown)}."
        )
    samples, linked = [], dict[str, str]()
    prefix = os.path.join(os.path.abspath(folder), "")
    for name, label in label_of.items():
        videos = _ClassFolder(prefix + name, left_out, others={*found} - {name}, linked=linked).videos()
        if not videos and labels is not None:  # the classes are known without it
            logger.warning(f"{str(folder / name)!r} holds no video.")
        elif not videos:
            warn_of_left_out(str(folder), left_out)
            suffixes = ", ".join((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES))
            raise ValueError(f"{str(folder / name)!r} holds no video, nor a folder of images; suffixes: {suffixes}.")
        samples += [Sample(video, (classes.by_name[label],), video[len(prefix) :]) for video in videos]
    warn_of_left_out(str(folder), left_out)
    return Annotations(samples, classes.names, False, "folders", str(folder), first_index=classes.first_index)


def _warn_of_other_splits(folder: Path, found: list[str]) -> None:
    """Warn where another split beside the folder has a class that it lacks: equal indices are then other classes."""
    folder = folder.absolute()
    beside = sorted(folder.parent.iterdir()) if folder.name.lower() in SPLITS else []
    for other in beside:
        if other.name.lower() not in SPLITS or SPLITS[other.name.lower()] == SPLITS[folder.name.lower()]:
            continue
        names = [entry.name for entry in os.scandir(other) if entry.is_dir()] if other.is_dir() else []
        lacking = sorted(name for name in names if not name.startswith(".") and name not in found)
        if len(names) > 1 and lacking:
            logger.warning(
                f"{str(other)!r} has classes that {str(folder)!r} lacks, {preview(lacking)}, so their class indices "
                "differ: give the class names of one to the other by `labels`."
            )


def _folder_of_split(folder: Path, split: str | None) -> Path:
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}.")
    if split is None:
        return folder
    names = {SPLITS.get(path.name.lower(), path.name): path for path in sorted(folder.iterdir()) if path.is_dir()}
    wanted = SPLITS.get(split.lower(), split)
    if wanted not in names:
        raise ValueError(f"{str(folder)!r} has no folder for the split {split!r}; it holds {preview(sorted(names))}.")
    return names[wanted]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in NO_VIDEOS


class _ClassFolder:
    """Find the videos of a class folder, and count in `left_out` what else there is."""

    def __init__(self, folder: str, left_out: Counter[str], *, others: set[str], linked: dict[str, str]) -> None:
        self.folder, self.left_out = folder, left_out
        self.others, self.linked = others, linked  # names of the other class folders; target -> link to a video
        self.inside = os.path.join(os.path.realpath(folder), "")
        self.source = os.path.join(os.path.realpath(os.path.dirname(folder)), "")

    def videos(self, folder: str | None = None, *, above: frozenset[str] = frozenset()) -> list[str]:
        """Return video files, and folders that hold images and no video, neither beside nor below the images."""
        folder = folder or self.folder
        real = os.path.realpath(folder)
        found: list[str] = []
        if real in above:  # a link to a folder that it lies in
            return found
        images = Counter[str]()
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if _is_hidden(entry.name):
                self.left_out["hidden"] += 1
            elif entry.is_symlink() and self._leads_out(entry):
                self.left_out["links out of their class folder"] += 1
            elif entry.is_dir():
                found += self.videos(entry.path, above=above | {real})
            elif is_video_name(entry.name):
                found.append(entry.path)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                images[kind_of_file(entry.name)] += 1
            else:
                self.left_out[kind_of_file(entry.name)] += 1
        if not found and images and above:
            return [folder]
        self.left_out.update(images)
        return found

    def _leads_out(self, link: os.DirEntry[str]) -> bool:
        """Return whether a link leads to a folder outside of the class folder, or to the file of another class.

        Raises:
            ValueError: a link in another class folder leads to the same file.
        """
        target = os.path.realpath(link.path)
        if os.path.join(target, "").startswith(self.inside):
            return False
        of_another = os.path.basename(os.path.dirname(target)) in self.others
        if link.is_dir() or target.startswith(self.source) or of_another:
            return True
        first = self.linked.setdefault(target, link.path)
        if not first.startswith(os.path.join(self.folder, "")):
            raise ValueError(f"{first!r} and {link.path!r} are links to one video, which would have two classes.")
        return False

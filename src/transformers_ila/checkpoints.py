"""The ten published checkpoints: what each one is, what it was trained on, and what the paper reports for it.

The weights have no licence and are not distributed here; `scripts/convert.py` reads the files their users have.
"""

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .configuration_ila import IlaConfig
from .video_processing_ila import IlaVideoProcessor


# The release normalises as ImageNet models do, not as CLIP does. Its short side, 256 to a crop of 224 or 384 to 336,
# and its rule for the frames are the processor's own.
RELEASED_PREPROCESSING: dict[str, Any] = {
    "image_mean": IMAGENET_DEFAULT_MEAN,
    "image_std": IMAGENET_DEFAULT_STD,
    "resample": PILImageResampling.BILINEAR,
    "frame_sampling": "segments",
}


@dataclass(frozen=True)
class DataSet:
    """A data set of the paper, and the form its checkpoints have."""

    title: str
    num_labels: int
    table: int  # of the paper
    head: Mapping[str, Any]  # fields of IlaConfig


DATA_SETS: dict[str, DataSet] = {
    "kinetics400": DataSet("Kinetics-400", 400, 1, {"classification_head": "text"}),
    "ssv2": DataSet("Something-Something V2", 174, 2, {"classification_head": "linear", "alignment_conv": "standard"}),
}


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One row of the paper's Table 1 or 2; accuracies in percent of its protocol, 4 clips x 3 crops."""

    data_set: str  # key of DATA_SETS
    size: str  # key of CLIP_SIZES
    num_frames: int
    top1: float
    top5: float
    gmacs: int  # of one view of the paper's network, which the released one is not

    @property
    def name(self) -> str:
        """As a repository would be called: ila-base-patch16-8f-kinetics400."""
        tower, _, patch = self.size.partition("/")
        base = {"B": "base", "L": "large"}[tower]
        return f"ila-{base}-patch{patch.replace('@', '-')}-{self.num_frames}f-{self.data_set}"

    @property
    def title(self) -> str:
        return f"ILA-{self.size}, {self.num_frames} frames, {DATA_SETS[self.data_set].title}"

    def config(self, **fields: Any) -> IlaConfig:
        """Of the released network; `fields` win: `alignment_fusion="mi_token"` gives the paper's."""
        head = DATA_SETS[self.data_set].head
        labels = class_names(self.data_set)
        if head["classification_head"] == "linear":
            labels = fill_up(labels, RELEASED_OUTPUTS)
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        released = {"num_frames": self.num_frames, "alignment_fusion": "residual", **head, **names}
        return IlaConfig.from_clip_size(self.size, **{**released, **fields})


PUBLISHED = [
    PublishedCheckpoint("kinetics400", "B/32", 8, 81.3, 95.0, 40),
    PublishedCheckpoint("kinetics400", "B/32", 16, 82.4, 95.8, 75),
    PublishedCheckpoint("kinetics400", "B/16", 8, 84.0, 96.6, 149),
    PublishedCheckpoint("kinetics400", "B/16", 16, 85.7, 97.2, 295),
    PublishedCheckpoint("kinetics400", "L/14", 8, 88.0, 98.1, 673),
    PublishedCheckpoint("kinetics400", "L/14@336", 16, 88.7, 97.8, 3130),
    PublishedCheckpoint("ssv2", "B/16", 8, 65.0, 89.2, 214),
    PublishedCheckpoint("ssv2", "B/16", 16, 66.8, 90.3, 438),
    PublishedCheckpoint("ssv2", "L/14", 8, 67.8, 90.5, 907),
    PublishedCheckpoint("ssv2", "L/14@336", 16, 70.2, 91.8, 3723),
]
PUBLISHED_VIEWS = "4x3"  # clips x crops
HEADER_WORDS = {"id", "name", "label", "class", "index", "category"}
RELEASED_OUTPUTS = 400  # of the release's linear heads, whatever the data set has
UNUSED = "unused output "  # and its number: the name of an output that no class was trained for


def published_like(config: IlaConfig) -> PublishedCheckpoint | None:
    """The published checkpoint whose tower, frames, form and classes these are, if any."""
    found = _shape(config)
    return next((checkpoint for checkpoint in PUBLISHED if _shape(checkpoint.config()) == found), None)


def _shape(config: IlaConfig) -> tuple[Any, ...]:
    vision = config.vision_config
    towers = ("hidden_size", "num_hidden_layers", "patch_size", "image_size", "num_frames")
    form = ("alignment_fusion", "alignment_conv", "temporal_module")
    names = [config.id2label[index] for index in range(config.num_labels)]
    numbers = tuple(getattr(vision, field) for field in (*towers, *form))
    return (*numbers, config.classification_head, [name for name in names if not is_unused(name)])


# -- class names -----------------------------------------------------------------------------------------------------


def class_names(source: str | Path) -> list[str]:
    """The class names of "kinetics400", "ssv2", or of a file, in the order of their ids.

    A file has one class per line: `id,name` with that header, as the release's lists, or the bare name. JSON is read
    too: a list of names, or names with their ids as Something-Something V2's `labels.json`.

    Raises:
        ValueError: no such list, ids that are not 0 to K-1, or names missing or repeated.
    """
    if source in DATA_SETS:
        return _read_names(files(__package__).joinpath("labels", f"{source}.csv").read_text("utf-8"), str(source))
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"`labels` must be one of {', '.join(DATA_SETS)}, or a file; there is none at {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _read_json(text, str(path)) if text.lstrip()[:1] in ("[", "{") else _read_names(text, str(path))
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text in UTF-8: {error}.") from error


def _read_names(text: str, source: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    has_ids = bool(lines) and [cell.strip().lower() for cell in lines[0].split(",")] == ["id", "name"]
    names = _by_id(lines[1:], source) if has_ids else lines
    if not names:
        raise ValueError(f"{source!r} names no class.")
    cells = {cell.strip().lower() for cell in re.split(r"[,;\t]", names[0])}
    if not has_ids and (cells <= HEADER_WORDS or _are_numbered(names)):
        raise ValueError(
            f"{source!r} must have `id,name` in every line, with that header, or bare names; it begins {lines[:2]}."
        )
    return _different(names, source)


def _are_numbered(lines: list[str]) -> bool:
    """Whether the lines, maybe but the first, have ids in front of the names or, behind a separator, after them."""
    for form in (r"(\d+)\s*[,;\s]\s*\S.*", r".*\S\s*[,;\t]\s*(\d+)"):
        found = [re.fullmatch(form, line) for line in lines]
        ids = [int(match[1]) for match in found if match is not None]
        if len(ids) > 1 and (len(ids) == len(lines) or found[0] is None and len(ids) == len(lines) - 1):
            if sorted(ids) == list(range(min(ids), min(ids) + len(ids))):
                return True
    return False


def _read_json(text: str, source: str) -> list[str]:
    """A list of names, or an object with ids behind them, or in front."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{source!r} is no JSON: {error}.") from error
    if isinstance(content, dict):
        ids_first = all(str(key).isdecimal() for key in content)
        pairs = [(key, value) if ids_first else (value, key) for key, value in content.items()]
        return _different(_in_order([[str(number), str(name)] for number, name in pairs], source), source)
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{source!r} must hold a list of names, or names with their ids.")
    return _different([name.strip() for name in content], source)


def _different(names: list[str], source: str) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1 or not name})
    if repeated:
        raise ValueError(f"The names of {source!r} must be different and not empty, got {repeated[:5]}.")
    return names


def _by_id(lines: list[str], source: str) -> list[str]:
    rows = [_cells(line) for line in lines]
    wrong = [line for line, row in zip(lines, rows) if len(row) != 2]
    if wrong:
        raise ValueError(f"{source!r} must have `id,name` in every line (quote names with commas), got {wrong[0]!r}.")
    return _in_order(rows, source)


def _in_order(rows: list[list[str]], source: str) -> list[str]:
    """Ids and names -> the names by their ids."""
    wrong = [row for row in rows if not row[0].strip().isdecimal()]
    if not rows:
        raise ValueError(f"{source!r} names no class.")
    if wrong:
        raise ValueError(f"The ids of {source!r} must be numbers from 0 on, got {','.join(wrong[0])!r}.")
    by_id = {int(row[0]): row[1].strip() for row in rows}
    if sorted(by_id) != list(range(len(rows))):
        found = ", ".join(map(str, sorted(by_id)[:9]))
        raise ValueError(f"The ids of {source!r} must be 0 to {len(rows) - 1}, each once, got {found}, ...")
    return [by_id[index] for index in range(len(by_id))]


def _cells(line: str) -> list[str]:
    """Of one line, so that a quote left open does not swallow the next; none for what is not CSV."""
    try:
        return next(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error:
        return []


def fill_up(names: list[str], num_outputs: int) -> list[str]:
    """Names for all outputs of a released linear head, which has 400 whatever its data set has."""
    return [*names, *(f"{UNUSED}{index}" for index in range(len(names), num_outputs))]


def is_unused(name: str) -> bool:
    """Whether an output got its name from `fill_up`: no class was ever trained for it."""
    return name.startswith(UNUSED)


def released_processor(config: IlaConfig) -> IlaVideoProcessor:
    """The release's preprocessing for a model of this configuration."""
    return IlaVideoProcessor.for_model(config, **RELEASED_PREPROCESSING)

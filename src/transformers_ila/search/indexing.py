"""Features of any number of videos, or of windows of them, as rows of an index that can be searched.

Which process takes a video, how a run goes on after a kill, and what is refused is as in `prediction.py`; the files
are those of `index_files.py`. A row is the video's feature of unit length: what `get_video_features` returns, the v of
Eq. 8, in which the class names have no part.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedConfig

from ..backbones.zero_shot import PLAIN
from ..distributed import Rank
from ..evaluation.hashing import hash_tensors
from ..evaluation.inference import (
    Network,
    evaluating,
    later_settings,
    load_for_words,
    load_trained,
    named_in_errors,
    require_checkpoint,
    unit_features,
)
from ..evaluation.options import IndexOptions
from ..evaluation.prediction import NamedVideo, Summary, own_share, shown
from ..evaluation.prediction_files import check_settings, video_id
from ..evaluation.views import Batch, Video, VideoReader, read_views, workers_beside
from ..model.loading_ila import checkpoint_names
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from .index_files import WHOLE, IndexWriter, Span, drop_lines, local_folder, open_parts, write_model
from .video_places import Moves
from .windows import SomeWindows, read_windows


NOT_FINITE = "the model's features are not finite (NaN or infinite)"
DEFAULTS = IndexOptions()
CLASSES = ("class_input_ids", "class_embeds", "classifier")  # weights that features do not depend on
NOT_OF_FEATURES = (  # fields of configurations, likewise
    "output_attentions", "output_hidden_states", "return_dict",
    "_name_or_path", "architectures", "auto_map", "dtype", "transformers_version", "id2label", "label2id",
    "class_features", "classifier_dropout", "label_smoothing", "label_templates", "num_labels", "problem_type",
    "freeze_text_model", "freeze_vision_model", "alignment_loss_weight", "drop_path_rate", "untrained_weights",
    "weights_origin",
)  # fmt: skip
Row = dict[str, Any]  # a line of the index, with `features` and `spans` beside it; see `index_files.py`


@dataclass
class IndexSummary(Summary):
    """Count what one process did; `labelled` videos have `rows` in the index."""

    rows: int = 0

    def count(self, rows: list[Row]) -> None:
        """Count the videos of a batch."""
        super().count(rows)
        self.rows += sum(row["rows"] for row in rows)


def index_videos(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    videos: Iterable[NamedVideo],
    output: str | Path,
    options: IndexOptions = DEFAULTS,
    *,
    rank: Rank | None = None,
    progress: Callable[[int], object] | None = None,
    source: str | Path | None = None,
) -> IndexSummary:
    """Add this process's share of the videos that are not in an index yet.

    Args:
        model, processor: of one checkpoint.
        videos: names and paths, as `iter_videos` yields them; asked for as they are needed.
        output: folder of the index, made if it is missing; see `index_files.py`.
        options: see `IndexOptions`. All processes must have the same.
        rank: which of how many processes this is, all of which are given the same videos; by default the only one.
        progress: called with the number of this process's videos that are done since its last call, those that were
            done before included.
        source: where the model lies, which the index notes for searches; by default the model's `name_or_path`.

    Raises:
        ValueError: a folder with features of another model or other options, a part that another process writes, or a
            name that stands for another video in the index.
        OSError: the index cannot be written; what was written before holds.
    """
    rank, summary = rank or Rank(), IndexSummary()
    with open_index(model, processor, output, options, rank=rank, source=source) as (writer, known):
        summary.before = len(known.ids)
        done = {video.tobytes() for video in known.ids.view("V16")}
        waiting = own_share(_under_own_names(videos, known, rank), rank, summary, done, progress)
        with closing(iter_features(model, processor, waiting, options, rank=rank, summary=summary)) as batches:
            for rows in batches:
                writer.append(rows)
                if progress is not None:
                    progress(len(rows))
    return summary


@contextmanager
def open_index(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    output: str | Path,
    options: IndexOptions,
    *,
    rank: Rank,
    source: str | Path | None,
) -> Iterator[tuple[IndexWriter, "IndexedVideos"]]:
    """Open an index to add to it, and yield what writes this process's part, and which of its videos are there.

    Arguments and errors are those of `index_videos`.
    """
    folder = local_folder(output)
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, index_settings(model, processor, options))
    writer = IndexWriter(folder, rank)
    with writer:
        if rank.rank == 0 and (place := str(source or model.name_or_path)):
            write_model(folder, place)
        if options.retry:
            _drop_unreadable(folder, model.config.projection_dim, rank)
        yield writer, IndexedVideos(folder, model.config.projection_dim, rank)


def iter_features(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    videos: Iterable[NamedVideo],
    options: IndexOptions = DEFAULTS,
    *,
    rank: Rank | None = None,
    summary: IndexSummary | None = None,
) -> Generator[list[Row], None, None]:
    """Compute the features of all videos given and yield their rows, some videos at a time; nothing is written.

    A row has `features` (rows, E) of unit length, and `spans`, the seconds of each; NaN is all of the video.
    """
    rank, summary = rank or Rank(), summary or IndexSummary()
    started = time.perf_counter()
    with evaluating(model, options) as network:
        workers = workers_beside(network.device, options, rank)
        compute = _of_videos if options.window is None else _of_windows
        for rows, waited in compute(network, processor, videos, options, workers):
            summary.count(rows)
            summary.seconds, summary.waited = time.perf_counter() - started, waited
            yield rows


Rows = Iterator[tuple[list[Row], float]]  # and the seconds that were waited for videos so far


def _of_videos(
    network: Network, processor: IlaVideoProcessor, videos: Iterable[NamedVideo], options: IndexOptions, workers: int
) -> Rows:
    batches = read_views(processor, videos, options, find=_find, workers=workers)
    for batch in batches:
        yield index_batch(network, processor, batch), batches.seconds


def _find(key: NamedVideo) -> NamedVideo:
    return key


def _of_windows(
    network: Network, processor: IlaVideoProcessor, videos: Iterable[NamedVideo], options: IndexOptions, workers: int
) -> Rows:
    """Yield the row of a video when its last window is there."""
    items, put_together = read_windows(processor, videos, options, workers=workers), WindowRows()
    for video in items:
        features = None
        if video.views is not None:
            some = video.views.split(options.batch_size)
            features = torch.cat([window_features(network, processor, views) for views in some])
        row = put_together.add(video, features)
        if row is not None:
            yield [row], items.seconds


def index_batch(network: Network, processor: IlaVideoProcessor, batch: Batch) -> list[Row]:
    """Return the rows of a batch of whole videos: those that could not be read first, then those with features.

    Args:
        network: as `evaluating` yields it.
        processor: of the model.
        batch: videos as a `VideoReader` with the index's options reads them, whose keys are their names and paths.
    """
    rows = [_row(video, video.key[1], reason=video.reason) for video in batch.unreadable]
    if batch.read:
        for video, feature in zip(batch.read, window_features(network, processor, batch.views())):
            rows.append(_row(video, video.key[1], features=feature[None], spans=[WHOLE]))
    return rows


def window_features(network: Network, processor: IlaVideoProcessor, views: torch.Tensor) -> torch.Tensor:
    """Return the features (W, E) of unit length of windows or whole videos, float32 on the CPU.

    Args:
        network: as `evaluating` yields it.
        processor: of the model.
        views: (W, T, C, H, W) or (W, N, T, C, H, W) uint8 pixels.
    """
    return unit_features(network.module, processor.normalize_on(network.device, views))


class WindowRows:
    """Put the features of windows together, and make the row of a video when it has all of its windows.

    The windows of a video may come in any order, beside those of others, and more than once.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[int, _Windows]] = {}  # by video, then by their first window
        self._missing: dict[str, int] = {}  # how many windows of each video

    def add(self, video: Video, features: torch.Tensor | None) -> Row | None:
        """Take windows that a `WindowReader` has read; return the row of their video if none is missing any more.

        Args:
            video: whose key is the `SomeWindows`.
            features: (W, E); None where they could not be read.
        """
        some: SomeWindows = video.key
        parts = self._waiting.setdefault(some.name, {})
        known = len(parts[some.first].spans) if some.first in parts else 0
        self._missing[some.name] = self._missing.get(some.name, some.total) - len(some.spans) + known
        parts[some.first] = _Windows(some.spans, features, video.frames_lost, video.reason)
        if self._missing[some.name] > 0 and some.total > 0:
            return None
        del self._waiting[some.name], self._missing[some.name]
        ordered = [parts[first] for first in sorted(parts)]
        if reason := next((part.reason for part in ordered if part.reason), ""):
            return _row(video, some.path, reason=reason)
        together = torch.cat([part.features for part in ordered if part.features is not None])
        spans = [span for part in ordered for span in part.spans]
        return _row(video, some.path, features=together, spans=spans, lost=max(part.frames_lost for part in ordered))


class _Windows(NamedTuple):
    """Hold what is kept of windows until the others of their video are there."""

    spans: Sequence[Span]
    features: torch.Tensor | None
    frames_lost: int
    reason: str


def _row(
    video: Video,
    path: str,
    *,
    features: torch.Tensor | None = None,
    spans: list[Any] | None = None,
    lost: int | None = None,
    reason: str | None = None,
) -> Row:
    if features is not None and not bool(features.isfinite().all()):
        features, reason = None, NOT_FINITE
    line = {"video": redact(video.name), "path": redact(path), "rows": 0, "frames_lost": None, "reason": reason}
    if features is None:
        return line
    lost = video.frames_lost if lost is None else lost
    return {**line, "rows": len(features), "frames_lost": lost, "features": features.numpy(), "spans": spans}


class IndexedVideos:
    """Know which of a process's videos had a line in an index when this was made, in 36 bytes each.

    ids: (N,) of dtype `S16`, ascending; see `video_id`.
    """

    def __init__(self, folder: Path, dimension: int, rank: Rank) -> None:
        self.folder, self.parts, self.moves = folder, open_parts(folder, dimension), Moves()
        lines = ((number, *line) for number, part in enumerate(self.parts) for line in part.lines())
        rows = ((video_id(line["video"]), number, begin, _mark(line["path"])) for number, begin, line in lines)
        kind = np.dtype([("id", "S16"), ("part", "<u4"), ("line", "<u8"), ("mark", "<u8")])
        found = np.fromiter((row for row in rows if rank.takes(row[0])), kind)
        found.sort(order="id")
        self.ids, self._lines = np.ascontiguousarray(found["id"]), found

    def check(self, name: str, path: str) -> bool:
        """Return whether a video of this name is in the index.

        Raises:
            ValueError: it is another file. One that has moved, so that nothing lies where it lay, or that is the same
                by another path, is no other; nor is one at an http(s) address, where nobody can tell.
        """
        video = np.array(video_id(shown(name)), "S16")
        row = int(np.searchsorted(self.ids, video))
        if row == len(self.ids) or self.ids[row] != video:
            return False
        _, part, begin, mark = self._lines[row].tolist()
        if mark != _mark(redact(path)):
            self.check_same(name, path, self.parts[part].line(begin)["path"])
        return True

    def check_same(self, name: str, path: str, before: str) -> None:
        """Raise a ValueError where a video's path and the path `before` that its name stood for are of two files."""
        if self.moves.are_two(before, path):
            raise ValueError(
                f"{str(self.folder)!r} has a video named {shown(name)!r} already, {redact(before)!r}, and "
                f"{redact(path)!r} is another one: index the folder above both in a new index, or drop that name "
                "first."
            )


def _mark(path: str) -> int:
    """Return 8 bytes that stand for a path."""
    return int.from_bytes(hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _under_own_names(videos: Iterable[NamedVideo], known: IndexedVideos, rank: Rank) -> Iterator[NamedVideo]:
    """Yield videos, and refuse one of a name that stands for another file, which would be left out."""
    new: dict[bytes, str] = {}  # where those lie that are not in the index
    for name, path in videos:
        video = video_id(shown(name))
        if rank.takes(video) and not known.check(name, path):
            before = new.setdefault(video, path)
            if before != path:
                known.check_same(name, path, before)
        yield name, path


def _drop_unreadable(folder: Path, dimension: int, rank: Rank) -> None:
    """Drop the lines of this process's videos that could not be read, so that they are tried again."""
    found: dict[str, list[int]] = {}
    for part in open_parts(folder, dimension):
        for begin, line in part.lines():
            if line["reason"] is not None and rank.takes(video_id(line["video"])):
                found.setdefault(part.file.stem, []).append(begin)
    drop_lines(folder, found)


# -- what the rows depend on -----------------------------------------------------------------------------------------


def index_settings(
    model: IlaForVideoClassification, processor: IlaVideoProcessor, options: IndexOptions
) -> dict[str, Any]:
    """Return what the rows of an index depend on, and the templates that its queries are put into."""
    same = {name: getattr(options, name) for name in ("protocol", "window", "stride")}
    settings = {**describe_tower(model), **describe_frames(processor), **same, **later_settings(model, options)}
    return json.loads(json.dumps(settings, default=str))  # as they are read again


def describe_tower(model: IlaForVideoClassification) -> dict[str, Any]:
    """Return what features of videos and texts depend on: the weights' hash, fields of the configuration, templates.

    The classes of a model, their names, tokens and head, are not among them, and of the fields those that differ from
    their defaults are named, so that a field that comes new with a later version changes nothing.
    """
    digest = hashlib.sha256()
    names = checkpoint_names(model.state_dict())
    hash_tensors(digest, {name: names[name] for name in names if not name.startswith(CLASSES)})
    config = model.config
    parts = {"config": config, **{name: getattr(config, name, None) for name in ("vision_config", "text_config")}}
    changed = _flat("", {name: _changed(part) for name, part in parts.items() if part is not None})
    templates = getattr(model.config, "label_templates", None)
    described = {"dimension": model.config.projection_dim, "tower": digest.hexdigest(), "templates": templates}
    return {**described, **changed}


def _changed(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the fields of a configuration that differ from their defaults, without configurations in it."""
    defaults = {entry.name: entry.default for entry in fields(type(config))}
    return {k: v for k, v in config.to_dict().items() if not isinstance(v, dict) and v != defaults.get(k)}


def describe_frames(processor: IlaVideoProcessor) -> dict[str, Any]:
    """Return the settings of a processor, by which frames are chosen and become pixels."""
    return _flat("", {"processor": processor.to_dict()})


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary of dictionaries as one of `outer.inner`, without what features do not depend on."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(f"{prefix}{name}.", value)
        elif value is not None and name not in NOT_OF_FEATURES:
            found[prefix + name] = value
    return found


# -- models ----------------------------------------------------------------------------------------------------------


def load_for_index(source: str | Path, templates: str | Sequence[str] | None = None) -> tuple[Any, IlaVideoProcessor]:
    """Load a model that gives features of videos, and of texts if it has a text tower, with its processor.

    Args:
        source: folder or Hub id of a model of this package, of an adapter, or of CLIP or SigLIP.
        templates: what texts are put into; those of the model by default.

    Raises:
        ValueError: another kind of model, or templates for a model without a text tower.
        OSError: no such checkpoint.
    """
    require_checkpoint(source)
    with named_in_errors(source):
        kind = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
        if templates is not None or kind in PLAIN:
            return load_for_words(source, templates=templates)
    return load_trained(source)


def feature_of_video(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    video: str | Path,
    settings: dict[str, Any],
    source: Any = None,
) -> torch.Tensor:
    """Return the feature (E,) of one video or picture, read as the whole videos of an index with these settings.

    Args:
        source: what the processor reads in place of the path.

    Raises:
        VideoDecodingError: (a ValueError) it cannot be read.
        ValueError: a feature that is not finite.
    """
    names = ("protocol", "random_frames", "seed", "dtype")
    options = IndexOptions(**{name: settings[name] for name in names if settings.get(name) is not None})
    name = str(video)
    found = VideoReader(processor, options)(name, name if source is None else source, (name, name))
    batch = Batch([], [found]) if found.views is None else Batch([found], [])
    with evaluating(model, options) as network:
        (row,) = index_batch(network, processor, batch)
    if row["reason"] is not None:
        raise ValueError(row["reason"])
    return torch.from_numpy(row["features"][0])

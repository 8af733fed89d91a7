"""An index of videos: asked for those nearest to a feature, added to, and dropped from.

What is unusual here:
- Search is exact. A matrix product in float32 over the rows as they lie on disk finds candidates; their cosines are
  then computed in float64, each row by itself, so that the answer is the same for every block, thread and processor.
- What is found is videos, each by its best window, unless all windows are asked for.

Shapes: `N` rows, `E` numbers each, `Q` queries.
"""

import fnmatch
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.utils import logging

from ..data.text import preview
from ..distributed import Rank, usable_cpus
from ..evaluation.prediction_files import check_settings
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from .index_files import (
    WHOLE,
    IndexWriter,
    Line,
    Part,
    Span,
    drop_lines,
    local_folder,
    open_parts,
    read_model,
    read_settings,
)
from .indexing import describe_frames, describe_tower
from .video_places import are_there


logger = logging.get_logger(__name__)

FEW = 4  # queries: up to here memory sets the pace, and each core reads rows of its own
ROWS_AT_ONCE = 8192  # that a core reads, 16 MiB of 512 numbers each
ROWS_OF_PRODUCT = 65536  # that a matrix product of more queries takes, by the cores that NumPy's library has
SCORES_AT_ONCE = 2**26  # which queries are taken together for
UNIT_ROUNDOFF = 2.0**-24  # of float32


class Hit(NamedTuple):
    """Hold a video, or a window of one, that was found.

    video, path: its name in the index, and where it lay.
    start, end: seconds of the window; None where a row stands for the whole video.
    score: cosine of the row and the query, -1 to 1.
    """

    video: str
    path: str
    start: float | None
    end: float | None
    score: float


class VideoIndex:
    """Hold an index as it is on disk now; `refresh` looks again.

    Args:
        folder: of `index_videos`, `ila index` or `VideoIndex.create`.

    Raises:
        ValueError: no index lies there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = local_folder(folder)
        self.settings = read_settings(folder)
        self.refresh()

    @classmethod
    def create(cls, folder: str | Path, dimension: int, **described: Any) -> "VideoIndex":
        """Make an empty index for features of your own, or open it.

        Args:
            folder: made if it is missing.
            dimension: E, the numbers of a feature.
            described: what the features depend on, of JSON's kinds, such as `tower="my encoder"`.

        Raises:
            ValueError: the folder has rows that depend on something else.
        """
        folder = local_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        check_settings(folder, {"dimension": dimension, **described})
        return cls(folder)

    def refresh(self) -> None:
        """Look at the disk again: what other processes have added and dropped since is now added and dropped here."""
        self.parts = [_Searchable(part) for part in open_parts(self.folder, self.dimension)]

    @property
    def dimension(self) -> int:
        """Return E, the numbers of a feature."""
        return self.settings["dimension"]

    @property
    def model(self) -> str | None:
        """Return where the model lay when the index was last written: a path or a Hub id; None: nothing says it."""
        return read_model(self.folder)

    def __len__(self) -> int:
        """Return the number of rows, those of dropped videos left out."""
        return sum(part.count for part in self.parts)

    def videos(self) -> Iterator[Line]:
        """Yield name, path, number of rows and, for those that could not be read, the reason of each video."""
        for part in self.parts:
            for _, line in part.part.lines():
                yield line

    def check(self, model: IlaForVideoClassification, processor: IlaVideoProcessor | None = None) -> None:
        """Raise a ValueError, with what differs, if a model or a processor is not the one that made the rows.

        The classes and templates of a model may be others: no row depends on them.
        """
        given = describe_tower(model) | ({} if processor is None else describe_frames(processor))
        given = json.loads(json.dumps(given, default=str))
        checked = ("config.", "vision_config.", "text_config.", *(("processor.",) if processor is not None else ()))
        names = {name for name in self.settings if name.startswith(checked)} | given.keys() - {"templates"}
        differ = [
            f"{name} {self.settings.get(name)!r}, now {given.get(name)!r}"
            for name in sorted(names)
            if self.settings.get(name) != given.get(name)
        ]
        if differ:
            more = f"; and {len(differ) - 8} more" if len(differ) > 8 else ""
            shown = "; ".join(differ[:8]) + more
            raise ValueError(f"{str(self.folder)!r} is an index of another model. They differ in {shown}.")

    # -- asking ------------------------------------------------------------------------------------------------------

    def search(self, queries: Any, top_k: int = 5, *, all_windows: bool = False) -> list[list[Hit]]:
        """Return for each query the nearest videos, best first; what is equally near comes in the order of the rows.

        Args:
            queries: features (Q, E) or one (E,), a tensor, an array or lists; brought to unit length here.
            top_k: how many at most.
            all_windows: return each window for itself, in place of the best one of each video.

        Raises:
            ValueError: features of another size, of no direction (all 0) or not finite, or a `top_k` below 1.
        """
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise ValueError(f"top_k must be a whole number of 1 or more, got {top_k!r}.")
        features = self._features(queries, "a query")
        step = max(1, SCORES_AT_ONCE // max([len(part.part.records) for part in self.parts], default=1))
        found: list[list[Hit]] = []
        for start in range(0, len(features), step):
            some = features[start : start + step]
            found_in = [part.best(some, top_k, by_video=not all_windows) for part in self.parts]
            found += [self._merge([rows[query] for rows in found_in], top_k) for query in range(len(some))]
        return found

    def _merge(self, found_in: Sequence[list[tuple[float, int]]], top_k: int) -> list[Hit]:
        best = [(-score, part, row) for part, rows in enumerate(found_in) for score, row in rows]
        return [self.parts[part].hit(row, -negative) for negative, part, row in sorted(best)[:top_k]]

    def _features(self, values: Any, what: str) -> np.ndarray:
        """Return features as (Q, E) float32 of unit length."""
        if isinstance(values, torch.Tensor):
            values = values.detach().float().cpu().numpy()
        features = np.atleast_2d(np.asarray(values, dtype=np.float32))
        if features.ndim != 2 or features.shape[1] != self.dimension:
            raise ValueError(f"The features of {what} must be (Q, {self.dimension}) numbers, got {features.shape}.")
        lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and (lengths > 0).all()):
            row = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
            raise ValueError(f"The feature of {what} must be finite and not 0 everywhere; number {row} is not.")
        return (features / lengths).astype(np.float32)

    # -- changing ----------------------------------------------------------------------------------------------------

    def add(
        self,
        videos: Sequence[str],
        features: Any,
        *,
        windows: Sequence[Span] | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        """Add rows of features that were computed elsewhere; after a kill all rows of a video are there or none.

        Args:
            videos: the name of each row's video; rows of the same video are its windows.
            features: (N, E), brought to unit length here.
            windows: start and end of each row in seconds.
            paths: where each row's video lies; its name by default.

        Raises:
            ValueError: features as in `search`, other numbers of names than of features, a video that is there
                already or has several rows without windows, or another process that writes.
        """
        rows = self._features(features, "a video")
        given = {"windows": windows, "paths": paths, "features": rows}
        if wrong := {name: len(part) for name, part in given.items() if part is not None and len(part) != len(videos)}:
            raise ValueError(f"There must be as many as the {len(videos)} names of videos, got {wrong}.")
        places: dict[str, list[int]] = {}
        for place, name in enumerate(videos):
            places.setdefault(name, []).append(place)
        if windows is None and len(places) < len(videos):
            raise ValueError("A video has several rows, which needs the `windows` that they stand for.")
        with IndexWriter(self.folder, Rank()) as writer:
            self.refresh()
            there = places.keys() & {line["video"] for line in self.videos()}
            if there:
                raise ValueError(f"These are in the index already: {preview(sorted(there))}. Drop them first.")
            writer.append(
                [
                    {
                        "video": name,
                        "path": str(name if paths is None else paths[own[0]]),
                        "rows": len(own),
                        "frames_lost": None,
                        "reason": None,
                        "features": rows[own],
                        "spans": [WHOLE if windows is None else tuple(windows[place]) for place in own],
                    }
                    for name, own in places.items()
                ]
            )
        self.refresh()

    def drop(self, *patterns: str, missing: bool = False) -> list[str]:
        """Drop videos, so that no search finds them; a later run that is given them again adds them anew.

        They are marked, all in one step; their numbers stay on disk.

        Args:
            patterns: names, or patterns of names such as `holidays/*` (`*` also stands for `/`).
            missing: drop the videos whose files are gone. Of some nobody can tell (`is_there`): they stay, and a
                warning counts them.

        Returns:
            The names of those dropped.

        Raises:
            ValueError: nothing to drop by, a pattern that no video has, or files that are all gone, as after a move.
            OSError: a store that refuses to say what is there; nothing was dropped.
        """
        if not patterns and not missing:
            raise ValueError("There is nothing to drop by: give patterns of names, or missing=True.")
        self.refresh()
        matched, begins, names = set[str](), dict[str, list[int]](), list[str]()
        there, gone = Counter[bool | None](), ""
        for part in self.parts:
            lines, places = part.part.lines(), (line["path"] for _, line in part.part.lines())
            for (begin, line), is_there in zip(lines, are_there(places) if missing else itertools.repeat(True)):
                own = {text for text in patterns if line["video"] == text or fnmatch.fnmatchcase(line["video"], text)}
                matched |= own
                there[is_there] += 1
                gone = line["path"] if is_there is False else gone
                if own or is_there is False:
                    begins.setdefault(part.part.file.stem, []).append(begin)
                    names.append(line["video"])
        if unknown := [text for text in patterns if text not in matched]:
            raise ValueError(f"No video of {str(self.folder)!r} is named so: {preview(unknown)}.")
        if there[False] and not there[True]:
            which = f"all {there[False]} videos{' that can be looked for' if there[None] else ''}"
            raise ValueError(
                f"The files of {which} are gone, such as {gone!r}. If they were moved, nothing is missing; to drop "
                "them all, drop '*' or their names."
            )
        if there[None]:
            logger.warning(
                f"Whether the files of {there[None]} videos are there cannot be told, as they lie at http(s) or at an "
                "address that is shown without its secrets: these stay."
            )
        drop_lines(self.folder, begins)
        self.refresh()
        return names

    # -- handing on --------------------------------------------------------------------------------------------------

    def to_dataset(self) -> Any:
        """Return a `datasets.Dataset` of all rows: video, path, start, end, and `embedding` (E float32 numbers).

        `add_faiss_index("embedding", metric_type=faiss.METRIC_INNER_PRODUCT)` then searches it by FAISS; the inner
        product of unit lengths is the cosine.

        Raises:
            ImportError: datasets is missing, which the extra `faiss` brings.
        """
        try:
            import pyarrow
            from datasets import Dataset
        except ImportError as error:
            raise ImportError("A data set needs the extra: pip install 'transformers-ila[faiss]'.") from error
        tables = [part.table(pyarrow, self.dimension) for part in self.parts if part.count]
        if not tables:
            raise ValueError(f"{str(self.folder)!r} has no rows to make a data set of.")
        return Dataset(pyarrow.concat_tables(tables))


class _Searchable:
    """A part with what every search of it needs: which rows are dropped, and where the rows of a video begin."""

    def __init__(self, part: Part) -> None:
        self.part = part
        lines = part.records["line"]
        self.dropped = np.flatnonzero(part.is_dropped()) if len(part.dropped) else np.empty(0, dtype=np.int64)
        self.first = np.flatnonzero(np.diff(lines.astype(np.int64), prepend=-1))
        self.count = len(lines) - len(self.dropped)

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Return (Q, N) float32 products, -inf for dropped rows."""
        vectors = self.part.vectors
        scores = np.empty((len(queries), len(vectors)), dtype=np.float32)

        def multiply(
            start: int,
        ) -> None:  # in C and without a lock, as threads of the library's own would get in the way
            rows = slice(start, start + ROWS_AT_ONCE)
            np.einsum("ne,qe->qn", vectors[rows], queries, out=scores[:, rows])

        if len(queries) <= FEW:
            with ThreadPoolExecutor(usable_cpus()) as pool:
                list(pool.map(multiply, range(0, len(vectors), ROWS_AT_ONCE)))
        else:
            for start in range(0, len(vectors), ROWS_OF_PRODUCT):
                rows = slice(start, start + ROWS_OF_PRODUCT)
                scores[:, rows] = (vectors[rows] @ queries.T).T
        scores[:, self.dropped] = -np.inf
        return scores

    def best(self, queries: np.ndarray, top_k: int, *, by_video: bool) -> list[list[tuple[float, int]]]:
        """Return for each query (Q, E) the cosines of its nearest rows and which they are, best first."""
        if self.count == 0:
            return [[] for _ in queries]
        by_video = by_video and len(self.first) < len(self.part.records)
        return [self._best(*pair, top_k, by_video) for pair in zip(queries, self.scores(queries))]

    def _best(self, query: np.ndarray, scores: np.ndarray, top_k: int, by_video: bool) -> list[tuple[float, int]]:
        items = np.maximum.reduceat(scores, self.first) if by_video else scores
        least = -np.inf
        if len(items) > top_k:
            least = np.partition(items, len(items) - top_k)[len(items) - top_k]
        # rounding changes a product of unit lengths by no more than E / 2^24: nothing that belongs here is left out
        rows = np.flatnonzero((scores > -np.inf) & (scores >= least - 2 * len(query) * UNIT_ROUNDOFF))
        exact = np.concatenate(
            [
                (self.part.vectors[some].astype(np.float64) * query).sum(axis=1)
                for some in np.split(rows, range(ROWS_AT_ONCE, len(rows), ROWS_AT_ONCE))
            ]
        )
        order = np.argsort(-exact, kind="stable")
        if by_video:
            line = self.part.records["line"][rows[order]]
            order = order[np.sort(np.unique(line, return_index=True)[1])]  # the best row of each video
        order = order[:top_k]
        return list(zip(exact[order].tolist(), rows[order].tolist()))

    def hit(self, row: int, score: float) -> Hit:
        line, start, end = self.part.records[row].tolist()
        found, score = self.part.line(line), max(-1.0, min(1.0, score))  # of lengths that are 1 but for rounding
        if np.isnan(start):
            return Hit(found["video"], found["path"], None, None, score)
        return Hit(found["video"], found["path"], start, end, score)

    def table(self, pyarrow: Any, dimension: int) -> Any:
        """Return a table of the rows that are not dropped."""
        names, paths = list[str](), list[str]()
        for _, line in self.part.lines():
            names += [line["video"]] * line["rows"]
            path = line["path"].encode("utf-8", "backslashreplace").decode()  # Arrow holds nothing but UTF-8
            paths += [path] * line["rows"]
        kept = np.ones(len(self.part.records), dtype=bool)
        kept[self.dropped] = False
        numbers = pyarrow.array(np.asarray(self.part.vectors[kept], dtype=np.float32).ravel())
        columns = {
            "video": pyarrow.array(names, pyarrow.string()),
            "path": pyarrow.array(paths, pyarrow.string()),
            "start": pyarrow.array(self.part.records["start"][kept], from_pandas=True),
            "end": pyarrow.array(self.part.records["end"][kept], from_pandas=True),
            "embedding": pyarrow.FixedSizeListArray.from_arrays(numbers, dimension),
        }
        return pyarrow.table(columns)


def search_texts(
    index: VideoIndex,
    model: IlaForVideoClassification,
    texts: Iterable[str],
    top_k: int = 5,
    *,
    templates: Sequence[str] | str | None = None,
    all_windows: bool = False,
) -> list[list[Hit]]:
    """Return for each text the nearest videos of an index, best first.

    Texts get no part of a video: where a model has a video-specific prompt, it is left out.

    Args:
        index: of this model, which `index.check` looks after.
        model: with a text tower.
        texts: what is looked for.
        templates: what the texts are put into; those of the index by default.
        top_k, all_windows: as in `VideoIndex.search`.

    Raises:
        ValueError: a model without a text tower, or another than that of the index.
    """
    if not getattr(model.config, "has_text_tower", False):
        raise ValueError(f"This {type(model).__name__} has no text tower and reads no words; ask by an example video.")
    index.check(model)
    chosen = templates or index.settings.get("templates") or "{}"  # the model's own may be others by now
    return index.search(model.encode_texts(list(texts), chosen), top_k, all_windows=all_windows)

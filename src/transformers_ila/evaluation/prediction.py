"""Labels for any number of videos, by processes that know nothing of each other, and can be killed at any time.

What is unusual here:
- which process takes a video follows from the video's name, so a list may grow and change its order between runs, and
  a video that it names twice is labelled once;
- results are written as they come (`prediction_files.py`), and read back when a run starts: what is done is skipped;
- a list is read as videos are needed; of the others only 16 bytes each are kept, to know them again.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..data.lists import iter_videos
from ..distributed import Rank
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor
from .inference import class_names_of, evaluating, features_and_logits, multi_view_logits, probabilities
from .prediction_files import ResultWriter, check_settings, done_videos, video_id
from .report import fingerprint
from .views import Batch, TimedIterator, Video, Views, in_batches, pixel_values_on, video_loader


NOT_FINITE = "the model's logits are not finite (NaN or infinite)"


@dataclass
class Summary:
    """What one process did: videos it saw in the list, had done before, labelled now, and could not read now.

    seconds, waited: for reading and computing, on the clock; and how many of them went by waiting for videos.
    """

    seen: int = 0
    before: int = 0
    labelled: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)  # of the first few


def named_videos(source: str | Path, *, root: str | Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield names and paths of the videos in a folder or a list, one at a time, as `iter_videos`."""
    return iter_videos(source, root=root)


def label_videos(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    videos: Iterable[tuple[str, str]],
    *,
    output: str | Path,
    format: str = "jsonl",
    top_k: int = 5,
    protocol: str = "1x1",
    embeddings: bool = False,
    retry: bool = False,
    batch_size: int = 8,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    place: Rank = Rank(),  # noqa: B008  # it never changes
    progress: Callable[[int], object] | None = None,
) -> Summary:
    """Label this process's share of the videos that have no result yet.

    Args:
        model, processor: of one checkpoint.
        videos: names and paths, as `named_videos` gives them; asked for as they are needed.
        output: folder for the results: one `part-...` file or more of each process, see `prediction_files.py`.
        format: "jsonl" or "parquet".
        top_k: how many labels a video gets, at most as many as there are; with their scores, highest first.
        protocol: a name of `PROTOCOLS`; the views' probabilities are averaged.
        embeddings: also write the video's feature, of unit length.
        retry: try again what could not be read in earlier runs; all processes the same.
        batch_size: videos that go through the model together, and are written together.
        num_workers: processes that read videos beside this one.
        device: where to compute; by default where the model is.
        place: which of how many processes this is; all of them are given the same videos and options.
        progress: called with the number of videos done since its last call.

    Raises:
        ValueError: bad options, a folder with results of another model or other options, a part that another process
            writes at the same time, or one with a line that is no result before others that are.
        OSError: results cannot be written; what was written before holds.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be 1 or more, got {top_k}.")
    views = Views(protocol)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"format": format, "top_k": top_k, "protocol": protocol, "embeddings": embeddings}
    check_settings(folder, {**settings, "model": fingerprint(model), "processor": _hash_of(processor)})
    summary = Summary()
    used = model.device if device is None else torch.device(device)
    with ResultWriter(folder, format, place, retry=retry) as parts, evaluating(model, used), torch.no_grad():
        done = done_videos(folder, format, place, retry=retry)
        summary.before = len(done)
        keys = _waiting(videos, done, place, summary)
        loader = video_loader(processor, keys, find=_find, views=views, batch_size=batch_size, num_workers=num_workers)
        started, batches = time.perf_counter(), TimedIterator(in_batches(loader, batch_size=batch_size))
        for batch in batches:
            rows = [_row(video, reason=video.reason) for video in batch.unreadable]
            if batch.read:
                pixel_values = pixel_values_on(used, batch.views(), processor)
                rows += _labelled(model, batch, pixel_values, top_k=top_k, embeddings=embeddings)
            parts.append(rows)
            _count(summary, rows)
            if progress is not None:
                progress(len(rows))
        summary.seconds, summary.waited = time.perf_counter() - started, batches.seconds
    return summary


def _find(key: tuple[str, str]) -> tuple[str, str]:
    return key


def _hash_of(processor: IlaVideoProcessor) -> str:
    return hashlib.sha256(json.dumps(processor.to_dict(), sort_keys=True, default=str).encode()).hexdigest()


def _waiting(
    videos: Iterable[tuple[str, str]], done: set[bytes], place: Rank, summary: Summary
) -> Iterator[tuple[str, str]]:
    """This process's videos that are not done; each is done when it is given out."""
    for name, path in videos:
        summary.seen += 1
        shown = name.encode("utf-8", "backslashreplace").decode()  # Parquet holds nothing but UTF-8
        digest = video_id(shown)
        if place.takes(digest) and digest not in done:
            done.add(digest)
            yield shown, path


def _labelled(
    model: IlaForVideoClassification, batch: Batch, pixel_values: torch.Tensor, *, top_k: int, embeddings: bool
) -> list[dict[str, Any]]:
    features = None
    if embeddings:
        features, logits = features_and_logits(model, pixel_values)
    else:
        logits = multi_view_logits(model, pixel_values, one_by_one=False)
    names = class_names_of(model)
    chances = probabilities(model, logits)
    order = logits.argsort(dim=-1, descending=True, stable=True)[:, :top_k]
    rows = []
    for index, video in enumerate(batch.read):
        if not bool(logits[index].isfinite().all()):
            rows.append(_row(video, reason=NOT_FINITE))
            continue
        best = order[index].tolist()
        row = _row(video, labels=[names[place] for place in best], scores=chances[index, best].tolist())
        rows.append(row if features is None else {**row, "embedding": features[index].tolist()})
    return rows


def _row(
    video: Video, *, labels: list[str] | None = None, scores: list[float] | None = None, reason: str | None = None
) -> dict[str, Any]:
    lost = None if video.views is None else video.frames_lost
    return {"video": video.name, "labels": labels, "scores": scores, "frames_lost": lost, "reason": reason}


def _count(summary: Summary, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["reason"] is None:
            summary.labelled += 1
            continue
        summary.unreadable += 1
        if len(summary.reasons) < 5:
            summary.reasons[row["video"]] = row["reason"]

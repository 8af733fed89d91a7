"""Labels for any number of videos, by processes that know nothing of each other and can be killed at any time.

What is unusual here:
- Which process takes a video follows from the video's name, so a list may grow and change its order between runs, and
  a video that it names twice is labelled once.
- Results are written as they come (`prediction_files.py`), and read back when a run starts: what is done is skipped.
- A list is read as videos are needed; of the others only 16 bytes each are kept, to know them again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..backbones.siglip import NONE_OF_THESE, none_of_these
from ..backbones.siglip_configuration import SiglipVideoConfig
from ..distributed import Rank
from ..model.modeling_ila import IlaForVideoClassification
from ..model.validation_ila import MULTI_LABEL
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from ..stores.addresses import is_address
from ..stores.folder import open_folder
from .formats import (
    TOOLS,
    LabelledVideo,
    Labelling,
    check_folder_for,
    check_labels_for,
    local_files_url,
    remove_labels,
    write_labels,
)
from .inference import (
    Network,
    evaluating,
    features_and_logits,
    later_settings,
    multi_view_logits,
    probabilities,
)
from .options import LabelOptions, with_keywords
from .prediction_files import SETTINGS, ResultWriter, check_settings, done_videos, read_results, video_id
from .report import fingerprint
from .views import Batch, Video, read_views, workers_beside


NOT_FINITE = "the model's logits are not finite (NaN or infinite)"
DEFAULTS = LabelOptions()
NamedVideo = tuple[str, str]  # name and path
Row = dict[str, Any]  # video, labels, scores, frames_lost, reason, and perhaps embedding; see `prediction_files.py`


@dataclass
class Summary:
    """Count what one process did.

    seen, before: videos in the list, and videos that had been done before.
    labelled, unreadable: videos now.
    seconds, waited: for reading and computing, on the clock, and how many of them it waited for videos.
    reasons: of the first few unreadable videos, by name.
    actors: who read and computed, where it was not this process.
    in_tool: how many videos the file of a labelling tool holds, and how many it leaves out.
    """

    seen: int = 0
    before: int = 0
    labelled: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    actors: str = ""
    in_tool: dict[str, int] = field(default_factory=dict)

    def count(self, rows: list[Row]) -> None:
        """Count the rows of a batch."""
        for row in rows:
            if row["reason"] is None:
                self.labelled += 1
                continue
            self.unreadable += 1
            if len(self.reasons) < 5:
                self.reasons[row["video"]] = row["reason"]


def label_videos(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    videos: Iterable[NamedVideo],
    output: str | Path,
    options: LabelOptions = DEFAULTS,
    *,
    rank: Rank | None = None,
    progress: Callable[[int], object] | None = None,
    **keywords: Any,
) -> Summary:
    """Label this process's share of the videos that have no result yet, and write the results.

    Args:
        model, processor: of one checkpoint.
        videos: names and paths, as `iter_videos` yields them; asked for as they are needed.
        output: folder for the results, or an address such as `s3://bucket/labels` (Parquet only): one `part-...` file
            or more of each process, see `prediction_files.py`.
        options: see `LabelOptions`. All processes must have the same. `batch_size` videos are also written together.
            The format of a labelling tool (`formats.TOOLS`) is written at the end, by a single process, from JSON
            lines in the same folder, which hold what earlier runs did.
        rank: which of how many processes this is, all of which are given the same videos; by default the only one.
        progress: called with the number of this process's videos that are done since its last call, those that were
            done before included.
        keywords: fields of `LabelOptions` (deprecated).

    Raises:
        ValueError: "none of these" of a model that gives it no score; a folder with results of another model, other
            words or other options, a part that another process writes at the same time, or one with a line that is no
            result before others that are; a labelling tool's format of several processes, or of labels or places that
            it cannot have.
        OSError: results cannot be written; what was written before holds.
    """
    options, rank = with_keywords(options, rank, keywords)
    rank = rank or Rank()
    if options.format in TOOLS:
        return _label_for_tool(model, processor, videos, output, options, rank, progress)
    summary, folder = Summary(), open_folder(output)
    check_none_of_these(model, options)
    check_settings(folder, label_settings(model, processor, options))
    with ResultWriter(folder, options, rank) as writer:
        done = done_videos(folder, options, rank)
        summary.before = len(done)
        waiting = own_share(videos, rank, summary, done, progress)
        with closing(iter_labels(model, processor, waiting, options, rank=rank, summary=summary)) as batches:
            for rows in batches:
                writer.append(rows)
                if progress is not None:
                    progress(len(rows))
    return summary


def check_for_tool(tool: str, output: str | Path, rank: Rank) -> None:
    """Raise a ValueError where the file of a labelling tool cannot be written."""
    if rank.world_size > 1:
        raise ValueError(
            f"The file for {tool} is written by one process from all results; this is one of {rank.world_size}. Label "
            "with the format jsonl, and then start one process with the same options and this format: nothing is "
            "labelled again."
        )
    if is_address(output):
        raise ValueError(f"The file for {tool} is written to a local folder, got {redact(str(output))!r}.")
    check_folder_for(tool, output)


def _label_for_tool(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    videos: Iterable[NamedVideo],
    output: str | Path,
    options: LabelOptions,
    rank: Rank,
    progress: Callable[[int], object] | None,
) -> Summary:
    """Label as JSON lines, and then write the labelling tool's file of those videos that are listed now."""
    check_for_tool(options.format, output, rank)
    names = [*model.config.class_names, *([NONE_OF_THESE] * options.none_of_these)]
    check_labels_for(options.format, names)
    root = options.document_root or os.sep
    paths: dict[bytes, str] = {}

    def listed() -> Iterator[NamedVideo]:
        remove_labels(output, options.format)  # now that the results there are known to be these
        for name, path in videos:
            if options.format == "label-studio":
                local_files_url(path, root)  # which finds what is not served now, and not when all is done
            paths[video_id(shown(name))] = path
            yield name, path

    lines = replace(options, format="jsonl", document_root=None)
    summary = label_videos(model, processor, listed(), output, lines, rank=rank, progress=progress)
    settings = json.loads((Path(output) / SETTINGS).read_text(encoding="ascii"))
    labelling = Labelling(
        class_names=names,
        # the words of a SigLIP have sigmoids, and it is asked for the best one
        multi_label=model.config.problem_type == MULTI_LABEL and not isinstance(model.config, SiglipVideoConfig),
        model=f"{os.path.basename(model.name_or_path) or type(model).__name__} {settings['model'][:12]}",
        embeddings=options.embeddings,
        document_root=root,
    )
    found = (_for_tool(row, paths) for row in read_results(output) if video_id(row["video"]) in paths)
    summary.in_tool = dict(write_labels(output, options.format, found, labelling))
    return summary


def _for_tool(row: Row, paths: dict[bytes, str]) -> LabelledVideo:
    return LabelledVideo(
        name=row["video"],
        path=paths[video_id(row["video"])],
        labels=list(zip(row["labels"] or (), row["scores"] or ())),
        reason=row["reason"],
        embedding=row.get("embedding"),
    )


def iter_labels(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    videos: Iterable[NamedVideo],
    options: LabelOptions = DEFAULTS,
    *,
    rank: Rank | None = None,
    summary: Summary | None = None,
) -> Generator[list[Row], None, None]:
    """Label all videos given and yield their rows, a batch at a time; nothing is written.

    Args:
        rank: of it only the share of the cores is taken, for reading beside a GPU.
        summary: counts what is done; its `seen` and `before` stay.
        Other arguments are those of `label_videos`.
    """
    rank, summary = rank or Rank(), summary or Summary()
    check_none_of_these(model, options)
    started = time.perf_counter()
    with evaluating(model, options) as network:
        workers = workers_beside(network.device, options, rank)
        batches = read_views(processor, videos, options, find=_find, workers=workers)
        for batch in batches:
            rows = label_batch(network, processor, batch, options)
            summary.count(rows)
            summary.seconds, summary.waited = time.perf_counter() - started, batches.seconds
            yield rows


def check_none_of_these(model: IlaForVideoClassification, options: LabelOptions) -> None:
    """Raise a ValueError where "none of these" is asked for and has no score, or is the name of a class."""
    if not options.none_of_these:
        return
    if model.config.problem_type != MULTI_LABEL:
        raise ValueError(
            f"{NONE_OF_THESE!r} has no score here: the model's scores are a softmax, which shares out 1 among the "
            "labels. Take a model that gives each label a probability of its own, such as a SigLIP, or give it a "
            "label of your own for what is nothing of the kind."
        )
    if NONE_OF_THESE in model.config.class_names:
        raise ValueError(f"{NONE_OF_THESE!r} is one of the labels, and its score would stand there twice.")


def _find(key: NamedVideo) -> NamedVideo:
    return key


def label_settings(
    model: IlaForVideoClassification, processor: IlaVideoProcessor, options: LabelOptions
) -> dict[str, Any]:
    """Return what the results depend on.

    What is not said by the defaults is an entry only where it is in use: results of earlier runs do not have it.
    """
    same = {name: getattr(options, name) for name in ("format", "top_k", "protocol", "embeddings")}
    same |= {"labels": model.config.class_names}
    if templates := getattr(model.config, "label_templates", None):
        same["templates"] = list(templates)
    if options.none_of_these:
        same["none_of_these"] = True
    processing = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    hashes = {"model": fingerprint(model), "processor": hashlib.sha256(processing.encode()).hexdigest()}
    return {**same, **hashes, **later_settings(model, options)}


def own_share(
    videos: Iterable[NamedVideo],
    rank: Rank,
    summary: Summary,
    done: set[bytes] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[NamedVideo]:
    """Yield this process's videos, each once and without those in `done`.

    Args:
        videos: names and paths.
        summary: counts all videos `seen`.
        done: ids of videos; what is yielded is added.
        progress: called with 1 for each of this process's videos that is left out.
    """
    done = set() if done is None else done
    for name, path in videos:
        summary.seen += 1
        digest = video_id(shown(name))
        if not rank.takes(digest):
            continue
        if digest not in done:
            done.add(digest)
            yield shown(name), path
        elif progress is not None:
            progress(1)


def count_share(videos: Iterable[NamedVideo], rank: Rank) -> int:
    """Return how many of the videos are this process's, for a progress bar."""
    return sum(rank.takes(video_id(shown(name))) for name, _ in videos)


def shown(name: str) -> str:
    """Return a video's name as results have it: without what is secret in a URL, and in UTF-8."""
    return redact(name).encode("utf-8", "backslashreplace").decode()  # Parquet holds nothing but UTF-8


def label_batch(network: Network, processor: IlaVideoProcessor, batch: Batch, options: LabelOptions) -> list[Row]:
    """Return the rows of a batch: those of videos that could not be read first, then those that have labels.

    Args:
        network: as `evaluating` yields it.
        processor: of the model.
        batch: videos as a `VideoReader` with the same options reads them.
    """
    rows = [_row(video, reason=video.reason) for video in batch.unreadable]
    return [*rows, *_labelled(network, processor, batch, options)] if batch.read else rows


def _labelled(network: Network, processor: IlaVideoProcessor, batch: Batch, options: LabelOptions) -> list[Row]:
    model, features = network.module, None
    pixel_values = processor.normalize_on(network.device, batch.views())
    if options.embeddings:
        features, logits = features_and_logits(model, pixel_values)
    else:
        logits = multi_view_logits(model, pixel_values)
    names = model.config.class_names
    chances = probabilities(logits, multi_label=model.config.problem_type == MULTI_LABEL)
    order = logits.argsort(dim=-1, descending=True, stable=True)
    if options.none_of_these:
        names, chances = [*names, NONE_OF_THESE], torch.cat([chances, none_of_these(chances)[:, None]], dim=1)
        order = chances.argsort(dim=-1, descending=True, stable=True)
    rows = []
    for index, video in enumerate(batch.read):
        if not bool(logits[index].isfinite().all()):
            rows.append(_row(video, reason=NOT_FINITE))
            continue
        best = order[index, : options.top_k].tolist()
        row = _row(video, labels=[names[column] for column in best], scores=chances[index, best].tolist())
        rows.append(row if features is None else {**row, "embedding": features[index].tolist()})
    return rows


def _row(
    video: Video, *, labels: list[str] | None = None, scores: list[float] | None = None, reason: str | None = None
) -> Row:
    lost = None if video.views is None else video.frames_lost
    return {"video": redact(video.name), "labels": labels, "scores": scores, "frames_lost": lost, "reason": reason}

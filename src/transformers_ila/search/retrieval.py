"""Retrieval: the videos of a text, and the texts of a video, by the cosine of their features.

What is unusual here:
- A query has the rank of the best item that belongs to it, where several do: texts of a video, videos of a text.
- Ties are never in the model's favour: what does not belong to a query and has the same score stands before what does.
  A model that says the same of everything finds everything last.
- A model whose texts adapt to the video (the video-specific prompt) is asked for every pair, as in `IlaModel.forward`.

Shapes: `N` videos, `C` texts, `Q` queries, `G` items that are searched (the gallery), `E` projection.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from math import comb
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..backbones.zero_shot import zero_shot_model
from ..data.captions import CAPTIONS
from ..data.samples import Annotations, Sample, named_source, path_of
from ..data.text import preview
from ..distributed import Rank, all_gather, current_rank
from ..evaluation.inference import Network, evaluating
from ..evaluation.options import InferenceOptions, RetrievalOptions
from ..evaluation.report import (
    describe_model,
    describe_preprocessing,
    describe_protocol,
    describe_samples,
    describe_software,
)
from ..evaluation.views import read_views, workers_beside
from ..model.class_features_ila import BARE_NAME, check_templates, fill_in, tokenize_texts
from ..model.modeling_ila import IlaForVideoClassification
from ..model.video_processing_ila import IlaVideoProcessor


REPORT_SCHEMA = 1  # raised when a field of the report changes its name or meaning
RECALLS = (1, 5, 10)
CHUNK = 2**24  # scores that are compared at a time: 64 MB of float32, 128 MB of float64
TEXTS_AT_A_TIME = 256  # that adapt to the videos of a batch together
DEFAULTS = RetrievalOptions()
TIES = "what does not belong to a query and has the same score as what does stands before it"
BY_FEATURES = "cosine of the video's and the text's feature"
BY_PAIRS = "cosine of each pair, as the text's feature adapts to the video (video-specific prompt)"


# -- ranks -----------------------------------------------------------------------------------------------------------


def best_ranks(scores: torch.Tensor, correct: torch.Tensor) -> torch.Tensor:
    """Return (Q,) the rank, from 1, of the best item that belongs to each query.

    It is 1 and the number of items that do not belong to the query and whose score is as high or higher.

    Args:
        scores: (Q, G), higher is nearer.
        correct: (Q, G), true where the item belongs to the query; every query has one or more.

    Raises:
        ValueError: other shapes, a query without an item, scores that are no numbers.
    """
    if scores.ndim != 2 or scores.shape != correct.shape or correct.dtype != torch.bool:
        shapes = f"{tuple(scores.shape)} and {tuple(correct.shape)} of {correct.dtype}"
        raise ValueError(f"Scores and correct must be (queries, items), the second of bool; got {shapes}.")
    if bool(scores.isnan().any()):
        raise ValueError(f"The scores of {int(scores.isnan().any(1).sum())} queries are no numbers (NaN).")
    if not bool(correct.any(1).all()):
        raise ValueError(f"{int((~correct.any(1)).sum())} queries have no item that belongs to them.")
    best = scores.masked_fill(~correct, -torch.inf).amax(1, keepdim=True)
    return 1 + ((scores >= best) & ~correct).sum(1)


def ranks_in_chunks(
    rows: Callable[[int, int], torch.Tensor], belongs: Sequence[Sequence[int]], items: int, *, chunk: int = CHUNK
) -> torch.Tensor:
    """Return `best_ranks` of all queries, of which only some have their scores in memory at a time.

    Args:
        rows: returns the scores (n, G) of the queries from one number to another.
        belongs: the items that belong to each of the Q queries.
        items: G.
        chunk: how many scores may be in memory.
    """
    step = max(1, chunk // max(items, 1))
    found = []
    for start in range(0, len(belongs), step):
        own = belongs[start : start + step]
        correct = torch.zeros(len(own), items, dtype=torch.bool)
        for row, positions in enumerate(own):
            correct[row, list(positions)] = True
        found.append(best_ranks(rows(start, start + len(own)), correct))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.long)


def recalls(ranks: torch.Tensor, belongs: Sequence[Sequence[int]], items: int) -> dict[str, Any]:
    """Compute Recall@1, @5 and @10 as fractions of the queries, and the median and the mean of the ranks.

    `chance` is what an order drawn at random gives on average: of a few items, ten are all of them. Numbers over no
    query are None.

    Args:
        ranks: (Q,) from 1, as `best_ranks` returns them.
        belongs: the items that belong to each query.
        items: how many are searched, G.
    """
    queries = len(ranks)
    counts = Counter(map(len, belongs))

    def chance(k: int) -> float:  # that none of the first k belongs to the query, and 1 less that
        return sum(n * (1 - comb(items - own, k) / comb(items, min(k, items))) for own, n in counts.items()) / queries

    return {
        "queries": queries,
        "gallery": items,
        **{f"recall_at_{k}": float((ranks <= k).double().mean()) if queries else None for k in RECALLS},
        "median_rank": float(np.median(ranks.numpy())) if queries else None,
        "mean_rank": float(ranks.double().mean()) if queries else None,
        "chance": {f"recall_at_{k}": chance(k) if queries else None for k in RECALLS},
    }


# -- scores ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Hold the features whose cosines are the scores, or where each pair has its own, all of them.

    videos: (N, E) of unit length; texts: (C, E) of unit length.
    pairs: (N, C), in place of both.
    """

    videos: torch.Tensor
    texts: torch.Tensor
    pairs: torch.Tensor | None = None

    def of_texts(self, start: int, stop: int) -> torch.Tensor:
        """Return the scores (n, N) of the texts from one number to another."""
        if self.pairs is not None:
            return self.pairs[:, start:stop].T
        return _cosines(self.texts[start:stop], self.videos)

    def of_videos(self, start: int, stop: int) -> torch.Tensor:
        """Return the scores (n, C) of the videos from one number to another."""
        return self.pairs[start:stop] if self.pairs is not None else _cosines(self.videos[start:stop], self.texts)

    def take(self, videos: list[int], texts: list[int]) -> "Scores":
        """Return the scores of some of the videos and texts."""
        pairs = None if self.pairs is None else self.pairs[videos][:, texts]
        return Scores(self.videos[videos], self.texts[texts], pairs)


def _cosines(queries: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Return the products (n, G), in float64 rounded to float32: equal features then have equal scores anywhere."""
    return (queries.double() @ items.double().T).float()


def text_features(
    model: IlaForVideoClassification, texts: Sequence[str], templates: Sequence[str], rank: Rank
) -> torch.Tensor:
    """Return the features of texts (C, E), float32 on the CPU; several processes share them.

    They have unit length; before a video-specific prompt those of one template keep their length, as the classes' do.
    """
    own = list(texts[rank.rank :: rank.world_size])
    parts = all_gather(lambda: _encode(model, own, templates).float().cpu(), rank)
    features = torch.empty(len(texts), parts[0].shape[1])
    for number, part in enumerate(parts):
        features[number :: rank.world_size] = part
    return features


def _encode(model: IlaForVideoClassification, texts: list[str], templates: Sequence[str]) -> torch.Tensor:
    if not texts or len(templates) > 1 or not adapts_texts(model):
        return model.encode_texts(texts, templates)
    ids = tokenize_texts(fill_in(templates, texts), model._required_tokenizer(), model.config.text_config)
    return model._encode_tokens(ids)


def adapts_texts(model: IlaForVideoClassification) -> bool:
    """Return whether a text's feature depends on the video that it is compared with."""
    return bool(getattr(model.config, "use_video_prompt", False))


def score_batch(network: Network, pixel_values: torch.Tensor, texts: torch.Tensor | None) -> torch.Tensor:
    """Return the videos' features of unit length (B, E), or with `texts` (C, E) the scores of all pairs (B, C).

    Of several views the feature is the direction of the mean of theirs, and a pair's score the mean of theirs.

    Args:
        pixel_values: (B, T, C, H, W) or (B, V, T, C, H, W).
        texts: features that adapt to the videos.
    """
    several = pixel_values.ndim == 6
    outputs = network.module.get_video_features(pixel_values.flatten(0, 1) if several else pixel_values)
    if texts is None:
        found = F.normalize(outputs.pooler_output.float(), dim=-1)
    else:
        parts = texts.to(network.device).split(TEXTS_AT_A_TIME)
        found = torch.cat([network.module.match(outputs, part)[0].float() for part in parts], dim=1)
    if several:
        found = found.unflatten(0, (-1, pixel_values.shape[1])).mean(1)
    return (F.normalize(found, dim=-1) if texts is None else found).cpu()


# -- evaluation ------------------------------------------------------------------------------------------------------


@dataclass
class RetrievalPart:
    """Hold what one process found out: features or scores by the position of their video, and what was unreadable."""

    positions: list[int] = field(default_factory=list)
    found: list[torch.Tensor] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    frames_lost: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    device: str = "cpu"
    inference: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Retrieval:
    """Hold the ranks of an evaluation and its report.

    samples: the videos that could be read; `labels` are indices of `texts`.
    texts: those that one of these videos has.
    text_ranks: (C,) of each text the rank of its best video. video_ranks: (N,) of each video that of its best text.
    scores: of all of them.
    report: values that `json` can write, see `evaluate_retrieval`.
    """

    samples: list[Sample]
    texts: list[str]
    text_ranks: torch.Tensor
    video_ranks: torch.Tensor
    scores: Scores
    report: dict[str, Any]


def evaluate_retrieval(
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    samples: Annotations,
    options: RetrievalOptions = DEFAULTS,
    *,
    templates: Any = None,
    rank: Rank | None = None,
    progress: Callable[[int], object] | None = None,
) -> Retrieval:
    """Measure how well a model finds the videos of a text, and the texts of a video.

    Texts that differ in blanks, small and capital letters only are one text. A video that cannot be read is in no
    gallery, and a text none of whose videos could be read neither; the report lists the videos.

    Args:
        model, processor: of one checkpoint with a text tower.
        samples: of `read_captions`, or of `read_annotations`: the names of the classes are then the texts.
        options: see `RetrievalOptions`.
        templates: as `encode_texts` of the model takes them; None: the model's own.
        rank: which of several processes this is, as in `evaluate`; all get the same result.
        progress: called with the number of videos done in this process since its last call.

    Returns:
        `Retrieval`, whose report has: schema, date, model, data_set, protocol, inference, texts (templates, scores,
        ties), counts (videos listed and evaluated, unreadable, texts), unreadable, text_to_video and video_to_text
        (see `recalls`), seconds, waiting_share, processes, preprocessing, decoder, versions.

    Raises:
        ValueError: no video, classes without names, a model without a text tower, features that are not finite.
    """
    rank = current_rank() if rank is None else rank
    model = zero_shot_model(model)  # which refuses one without a text tower
    texts, labels = _one_of_each_text(samples)
    listed = [sample._replace(labels=own) for sample, own in zip(samples.samples, labels)]
    chosen = _templates(model, templates)
    with evaluating(model, options) as network:
        features = text_features(network.module, texts, chosen or [*BARE_NAME], rank)
        parts = all_gather(partial(_own_part, network, processor, listed, features, options, rank, progress), rank)
    scores = _merged(parts, listed, features, pairs=adapts_texts(model))
    unreadable = {position: why for part in parts for position, why in sorted(part.unreadable.items())}
    result = _ranked(listed, texts, scores, unreadable, frames_lost=sum(part.frames_lost for part in parts))
    about = describe_model(model, torch.device(parts[0].device))
    del about["labels"], about["templates"]  # of its classes, which have no part here
    return replace(
        result,
        report={
            "schema": REPORT_SCHEMA,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": about,
            "data_set": {
                "name": options.data_set,
                "split": options.split,
                **describe_samples(samples, samples.samples),
            },
            "protocol": describe_protocol(processor, options),
            "inference": parts[0].inference,
            "texts": {
                "templates": chosen,
                "scores": BY_PAIRS if adapts_texts(model) else BY_FEATURES,
                "ties": TIES,
            },
            "seconds": max(part.seconds for part in parts),
            "waiting_share": sum(part.waited for part in parts) / max(sum(part.seconds for part in parts), 1e-9),
            "processes": len(parts),
            "preprocessing": describe_preprocessing(processor, options.protocol),
            **describe_software(),
            **result.report,
        },
    )


def _ranked(
    listed: list[Sample], texts: list[str], scores: Any, unreadable: dict[int, str], *, frames_lost: int
) -> Retrieval:
    """Rank what could be read; the report has what the ranks say: counts, unreadable, and the recalls both ways."""
    readable = [position for position in range(len(listed)) if position not in unreadable]
    used = sorted({label for position in readable for label in listed[position].labels})
    number = {label: index for index, label in enumerate(used)}
    kept = [s._replace(labels=tuple(number[label] for label in s.labels)) for s in (listed[i] for i in readable)]
    scores = scores.take(list(range(len(readable))), used)
    of_video = [list(sample.labels) for sample in kept]
    of_text: list[list[int]] = [[] for _ in used]
    for position, own in enumerate(of_video):
        for label in own:
            of_text[label].append(position)
    text_ranks = ranks_in_chunks(scores.of_texts, of_text, len(kept))
    video_ranks = ranks_in_chunks(scores.of_videos, of_video, len(used))
    report = {
        "counts": {
            "listed": len(listed),
            "evaluated": len(kept),
            "unreadable": len(unreadable),
            "frames_lost": frames_lost,
            "texts": len(texts),
            "texts_evaluated": len(used),
        },
        "unreadable": [{"path": path_of(listed[i]), "reason": why} for i, why in sorted(unreadable.items())],
        "text_to_video": recalls(text_ranks, of_text, len(kept)),
        "video_to_text": recalls(video_ranks, of_video, len(used)),
    }
    return Retrieval(kept, [texts[label] for label in used], text_ranks, video_ranks, scores, report)


def _templates(model: IlaForVideoClassification, templates: Any) -> list[str] | None:
    """Return the templates that are used: those given, else the model's own; None: bare texts."""
    used = getattr(model.config, "label_templates", None) if templates is None else check_templates(templates)
    return None if used is None else list(used)


def _one_of_each_text(samples: Annotations) -> tuple[list[str], list[tuple[int, ...]]]:
    """Return the texts that some video has, each once, and those of each video.

    Texts that differ in blanks and in small and capital letters only are one: tokenizers read them alike. Underscores
    in the names of classes, as folders have them, are blanks.

    Raises:
        ValueError: no video, a video without a text, or classes without names.
    """
    if not samples.samples:
        raise ValueError(f"{samples.source!r} holds no video.")
    if samples.class_names is None:
        raise ValueError(
            f"{samples.source!r} gives its classes as numbers: say by `labels` (--labels) what they are called."
        )
    if empty := [path_of(sample) for sample in samples.samples if not sample.labels]:
        raise ValueError(f"{len(empty)} videos have no text: {preview(empty)}.")
    names = samples.class_names
    if samples.format != CAPTIONS:
        names = [name.replace("_", " ") for name in names]
    names = [" ".join(name.split()) for name in names]
    first: dict[str, int] = {}  # text in small letters -> number of the text
    texts: list[str] = []
    number: dict[int, int] = {}  # label -> number of the text
    for label in sorted({label for sample in samples.samples for label in sample.labels}):
        number[label] = first.setdefault(names[label].casefold(), len(texts))
        if number[label] == len(texts):
            texts.append(names[label])
    return texts, [tuple(dict.fromkeys(number[label] for label in s.labels)) for s in samples.samples]


def _own_part(
    network: Network,
    processor: IlaVideoProcessor,
    samples: list[Sample],
    texts: torch.Tensor,
    options: InferenceOptions,
    rank: Rank,
    progress: Callable[[int], object] | None,
) -> RetrievalPart:
    part, started = RetrievalPart(), time.perf_counter()
    part.device, part.inference = str(network.device), network.describe()
    keys, workers = range(rank.rank, len(samples), rank.world_size), workers_beside(network.device, options, rank)
    batches = read_views(processor, keys, options, find=partial(named_source, samples), workers=workers)
    for batch in batches:
        part.unreadable.update({video.key: video.reason for video in batch.unreadable})
        if batch.read:
            values = processor.normalize_on(network.device, batch.views())
            found = score_batch(network, values, texts if adapts_texts(network.module) else None)
            bad = [video.name for video, row in zip(batch.read, found) if not bool(row.isfinite().all())]
            if bad:
                raise ValueError(f"The model's features are not finite (NaN or infinite) for {preview(bad)}.")
            part.positions += [video.key for video in batch.read]
            part.frames_lost += sum(video.frames_lost for video in batch.read)
            part.found.append(found)
        if progress is not None:
            progress(len(batch.read) + len(batch.unreadable))
    part.seconds, part.waited = time.perf_counter() - started, batches.seconds
    return part


def _merged(parts: list[RetrievalPart], samples: list[Sample], texts: torch.Tensor, *, pairs: bool) -> Scores:
    """Join what all processes found, in the order of the videos that could be read.

    Raises:
        RuntimeError: a video that is in no part, or in several.
    """
    positions = [position for part in parts for position in part.positions]
    unreadable = [position for part in parts for position in part.unreadable]
    if sorted([*positions, *unreadable]) != list(range(len(samples))):
        raise RuntimeError(f"{len(samples)} videos gave {len(positions)} results and {len(unreadable)} reasons.")
    order = sorted(range(len(positions)), key=positions.__getitem__)
    nothing = torch.empty(0, len(texts) if pairs else texts.shape[1])
    found = torch.cat([nothing, *(batch for part in parts for batch in part.found)])[order]
    return Scores(torch.empty(len(found), 0), texts, found) if pairs else Scores(found, texts)

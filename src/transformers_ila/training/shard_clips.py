"""Training clips streamed from tar shards or a streaming data set, of which every rank and worker reads its part.

What is unusual here:
- every rank delivers the same number of full batches: where its shards hold fewer videos, it begins them again;
- an epoch's order is that of the shards, drawn anew, and of a buffer from which clips are drawn; both are seeded, so
  that a resumed run skips what it had and goes on with the same clips.

For shards on a disk that can seek, `TrainingClips(read_annotations("shards/"), ...)` mixes better.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers.utils import logging

from ..data.frame_rates import MOST_VIDEOS, median_frame_rate
from ..data.samples import Annotations, Labels, Sample, classes_of, join_classes, listed_samples
from ..data.shards import label_feature_names, labels_by_name, labels_of_value, list_shards, stream_shard
from ..data.text import Line
from ..model.video_container_ila import VideoDecodingError
from ..model.video_processing_ila import IlaVideoProcessor
from ..model.video_urls_ila import redact
from .augmentation import ClipAugmentation, clip_generator, clip_seed
from .clips import NO_REPLACEMENT, UNREADABLE, TrainingClips, reason_of_failure


logger = logging.get_logger(__name__)


class ShardClips(IterableDataset):
    """Yield items as `TrainingClips` has them; the next video replaces one that cannot be read.

    Args:
        source: shards, as `list_shards` takes them.
        processor, augment, seed, max_replacements, normalise: as in `TrainingClips`.
        videos: the number of videos in all shards; an epoch has as many clips, rounded down to whole batches.
        batch: the number of clips in a batch of one rank.
        labels: class names, as `stream_shard` takes them. They are those of the stream: what trains with other names
            or in another order calls `join` with the model's, as `IlaTrainer` does.
        buffer: the number of encoded videos that are held in memory and drawn from.

    Attributes:
        rank, ranks: the part of the shards that is read; `IlaTrainer` sets them before it reads.

    Raises:
        ValueError: no shards, or numbers out of their range; (when read) fewer shards than ranks times workers.
        RuntimeError: (when read) `max_replacements` videos in a row could not be read.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        processor: IlaVideoProcessor,
        *,
        augment: ClipAugmentation,
        videos: int,
        batch: int,
        labels: Labels | None = None,
        seed: int = 0,
        max_replacements: int = 10,
        buffer: int = 64,
        normalise: bool = True,
    ) -> None:
        for name, value in {"videos": videos, "batch": batch, "buffer": buffer}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}.")
        nothing = Annotations([], None, False, "shards", "")
        numbers: dict[str, Any] = {"seed": seed, "max_replacements": max_replacements}
        self.clips = TrainingClips(nothing, processor, augment=augment, normalise=normalise, **numbers)
        self.source, self.labels = self.checked(source), labels
        self.videos, self.batch, self.buffer = videos, batch, buffer
        self.class_names: list[str] | None = None
        self.rank, self.ranks = 0, 1
        self.warn = True

    multi_label = False

    def join(self, class_names: Sequence[str]) -> None:
        """Give the items the indices of these classes, by `join_classes`, when they are read."""
        self.class_names = list(class_names)

    def _label(self, sample: Sample) -> int:
        if self.class_names is None:
            return sample.labels[0]
        joined = join_classes([sample], self.class_names, warn=logger.warning_once)
        return listed_samples(joined)[0].labels[0]

    def checked(self, source: Any) -> Any:
        """Return the source in the form that `stream` reads; ValueError where it is none."""
        return list_shards(source)

    def stream(self, epoch: int, place: int, places: int) -> Iterator[Sample]:
        """Yield every video of worker `place` of this rank's `places` workers once."""
        shards = self.source
        if self.ranks * places > len(shards):
            raise ValueError(
                f"{len(shards)} shards are too few for {self.ranks} ranks with {places} workers: one for each."
            )
        order = torch.randperm(len(shards), generator=clip_generator(self.clips.seed, epoch, -1))  # of all ranks alike
        for shard in [shards[index] for index in order.tolist()][self.rank :: self.ranks][place::places]:
            yield from stream_shard(shard, labels=self.labels, multi_label=False)

    def frame_rate(self) -> float | None:
        """Return how many frames a second the clips have, the median over the stream's first 64 videos."""
        return median_frame_rate(islice(self.stream(0, 0, 1), MOST_VIDEOS), self.clips.processor)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, as `TrainingClips.set_epoch`."""
        self.clips.set_epoch(epoch)

    def __len__(self) -> int:
        """Return the number of clips of one rank in an epoch."""
        return self.videos // (self.batch * self.ranks) * self.batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        place, places = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = self.clips.epoch
        generator = clip_generator(self.clips.seed, epoch, -2 - self.rank * places - place)  # no clip's index
        batches = len(self) // self.batch
        mine = batches // places + (place < batches % places)
        yield from self._read(self._again_and_again(epoch, place, places, generator), epoch, mine * self.batch)

    def _again_and_again(self, epoch: int, place: int, places: int, generator: torch.Generator) -> Iterator[Sample]:
        """Yield all videos of the part, then all again, without an end."""
        while True:
            empty = True
            for sample in self._drawn(self.stream(epoch, place, places), generator):
                empty = False
                yield sample
            if empty:
                raise ValueError(f"Rank {self.rank}, worker {place}: there is no video in its part of the stream.")

    def _drawn(self, samples: Iterator[Sample], generator: torch.Generator) -> Iterator[Sample]:
        """Yield every video once, drawn from as many as the buffer holds."""
        held: list[Sample] = []
        for sample in samples:
            if len(held) < self.buffer:
                held.append(sample)
                continue
            chosen = int(torch.randint(len(held), (), generator=generator))
            held[chosen], drawn = sample, held[chosen]
            yield drawn
        yield from (held[chosen] for chosen in torch.randperm(len(held), generator=generator).tolist())

    def _read(self, stream: Iterator[Sample], epoch: int, count: int) -> Iterator[dict[str, Any]]:
        unreadable: list[tuple[str, str]] = []
        for sample in stream if count else ():
            index = int.from_bytes(blake2b(sample.name.encode(), digest_size=6).digest(), "big")
            try:
                clip = self.clips.clip(sample, clip_generator(self.clips.seed, epoch, index))
            except (VideoDecodingError, OSError) as error:
                unreadable.append((redact(sample.name), reason_of_failure(error)))
                if self.warn:
                    self.clips.warn_once(*unreadable[-1])
                if len(unreadable) > self.clips.max_replacements:
                    raise RuntimeError(f"{NO_REPLACEMENT}: {len(unreadable)} in a row, {unreadable[-1]}.") from error
                continue
            item = {"pixel_values": clip, "labels": self._label(sample)}
            item["clip_seed"] = clip_seed(self.clips.seed, epoch, index)
            yield item | ({UNREADABLE: unreadable} if unreadable else {})
            unreadable, count = [], count - 1
            if count == 0:
                return


class RowClips(ShardClips):
    """Yield items as `ShardClips` does from a streaming data set, `datasets.load_dataset(..., streaming=True)`.

    `split_dataset_by_node` of `datasets` divides it among ranks, and `datasets` itself among workers. Shards are read
    in their own order; shuffle them before, or by `buffer`.

    Args:
        source: a `datasets.IterableDataset`, whose video column is read undecoded.
        video, label: names of columns; a label is a class index, or a class name where `labels` names the classes.
            The names of a `ClassLabel` are those of its indices, and are found in `labels` by name.
        options: the other arguments of `ShardClips`.

    Raises:
        ValueError: as in `ShardClips`; no such column; (when read) a label that is none.
    """

    def __init__(
        self,
        source: Any,
        processor: IlaVideoProcessor,
        *,
        video: str = "video",
        label: str = "label",
        **options: Any,
    ) -> None:
        self.video, self.label = video, label
        super().__init__(source, processor, **options)

    def checked(self, source: Any) -> Any:
        """Return the streaming data set with its videos not decoded; ValueError where a column is missing."""
        source = source if source.features else source._resolve_features()
        features = source.features
        missing = [name for name in (self.video, self.label) if name not in features]
        if missing:
            raise ValueError(f"The data set has the columns {', '.join(features)}, and not {', '.join(missing)}.")
        kind = features[self.video]
        return source.cast_column(self.video, type(kind)(decode=False)) if hasattr(kind, "decode") else source

    def stream(self, epoch: int, place: int, places: int) -> Iterator[Sample]:
        """Yield the rows of this epoch that `datasets` gives to this worker."""
        from datasets.distributed import split_dataset_by_node

        rows = split_dataset_by_node(self.source, rank=self.rank, world_size=self.ranks)
        if self.ranks == 1 and rows.num_shards < places:
            raise ValueError(f"{rows.num_shards} shards are too few for {places} workers: one for each.")
        own = label_feature_names(self.source.features[self.label])
        classes = classes_of(own if self.labels is None else self.labels, multi_label=False)
        for number, row in enumerate(rows):
            name = str(row.get("__key__") or f"worker {place}, row {number}")
            value, line = row[self.label], Line(name, None, "")
            found = labels_of_value(value, line, classes) if own is None else labels_by_name(value, own, line, classes)
            yield Sample(_VideoOfRow(row[self.video], name), found, name)


class _VideoOfRow(NamedTuple):
    """Hold a video that `datasets` has not decoded: a dict of "path" and "bytes", or bytes."""

    value: Any
    name: str

    def load(self) -> Any:
        if self.value is None:
            raise VideoDecodingError(self.name, "the row has no video")
        return self.value

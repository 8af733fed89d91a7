"""Training clips streamed from tar shards: every rank and worker reads shards of its own, from beginning to end.

What is unusual here:
- every rank delivers the same number of full batches, however many videos its shards hold: it begins them again;
- an epoch's order is that of the shards, drawn anew, and a buffer from which clips are drawn; both are seeded, so that
  a resumed run reads past what it had and goes on with the same clips.

For shards on a disk that can seek, `TrainingClips(read_annotations("shards/"), ...)` mixes better.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from .annotation_samples import Annotations, Labels, Sample
from .annotation_shards import list_shards, stream_shard
from .augmentation import ClipAugmentation, clip_generator, clip_seed
from .training_data import NO_STAND_IN, UNREADABLE, TrainingClips, reason_of_failure
from .video_container_ila import VideoDecodingError
from .video_processing_ila import IlaVideoProcessor


class ShardClips(IterableDataset):
    """Items as those of `TrainingClips`; a video that cannot be read is replaced by the next one.

    Args:
        source: as `list_shards` takes it.
        processor, augment, seed, stand_ins: as in `TrainingClips`.
        videos: how many there are in all shards together; an epoch has as many clips, down to whole batches.
        batch: clips of a batch of one rank.
        labels: class names, as `stream_shard` takes them.
        buffer: encoded videos that are held and drawn from.

    Attributes:
        rank, ranks: which part this is; `IlaTrainer` sets them before it reads.

    Raises:
        ValueError: no shards, or numbers out of their range; (when read) fewer shards than ranks times workers.
        RuntimeError: (when read) `stand_ins` videos in a row could not be read.
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
        stand_ins: int = 10,
        buffer: int = 64,
    ) -> None:
        for name, value in {"videos": videos, "batch": batch, "buffer": buffer}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be 1 or more, got {value}.")
        nothing = Annotations([], None, False, "shards", str(source))
        self.clips = TrainingClips(nothing, processor, augment=augment, seed=seed, stand_ins=stand_ins)
        self.shards, self.labels = list_shards(source), labels
        self.videos, self.batch, self.buffer = videos, batch, buffer
        self.rank, self.ranks = 0, 1
        self.warn = True

    def set_epoch(self, epoch: int) -> None:
        self.clips.set_epoch(epoch)

    def __len__(self) -> int:
        """Clips of one rank."""
        return self.videos // (self.batch * self.ranks) * self.batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        place, places = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if self.ranks * places > len(self.shards):
            raise ValueError(
                f"{len(self.shards)} shards are too few for {self.ranks} ranks with {places} workers: one for each."
            )
        epoch = self.clips.epoch
        generator = clip_generator(self.clips.seed, epoch, -2 - self.rank * places - place)  # no clip's index
        shards = [self.shards[i] for i in torch.randperm(len(self.shards), generator=self._common(epoch)).tolist()]
        batches = len(self) // self.batch
        mine = batches // places + (place < batches % places)
        own = shards[self.rank :: self.ranks][place::places]
        yield from self._read(self._again_and_again(own, generator), epoch, mine * self.batch)

    def _common(self, epoch: int) -> torch.Generator:
        """What all ranks draw alike."""
        return clip_generator(self.clips.seed, epoch, -1)

    def _again_and_again(self, shards: list[str], generator: torch.Generator) -> Iterator[Sample]:
        """All videos of the shards, then all again, without an end."""
        while True:
            empty = True
            for sample in self._drawn(shards, generator):
                empty = False
                yield sample
            if empty:
                raise ValueError(f"There is no video in {shards[:3]}.")

    def _drawn(self, shards: list[str], generator: torch.Generator) -> Iterator[Sample]:
        """Every video once, drawn from as many as the buffer holds."""
        held: list[Sample] = []
        for shard in shards:
            for sample in stream_shard(shard, labels=self.labels, multi_label=False):
                if len(held) < self.buffer:
                    held.append(sample)
                    continue
                place = int(torch.randint(len(held), (), generator=generator))
                held[place], drawn = sample, held[place]
                yield drawn
        yield from (held[place] for place in torch.randperm(len(held), generator=generator).tolist())

    def _read(self, stream: Iterator[Sample], epoch: int, count: int) -> Iterator[dict[str, Any]]:
        unreadable: list[tuple[str, str]] = []
        for sample in stream if count else ():
            index = int.from_bytes(blake2b(sample.name.encode(), digest_size=6).digest(), "big")
            try:
                clip = self.clips.clip(sample, clip_generator(self.clips.seed, epoch, index))
            except (VideoDecodingError, OSError) as error:
                unreadable.append((sample.name, reason_of_failure(error)))
                if self.warn:
                    self.clips.tell(*unreadable[-1])
                if len(unreadable) > self.clips.stand_ins:
                    raise RuntimeError(f"{NO_STAND_IN}: {len(unreadable)} in a row, {unreadable[-1]}.") from error
                continue
            item = {"pixel_values": clip, "labels": sample.labels[0]}
            item["clip_seed"] = clip_seed(self.clips.seed, epoch, index)
            yield item | ({UNREADABLE: unreadable} if unreadable else {})
            unreadable, count = [], count - 1
            if count == 0:
                return

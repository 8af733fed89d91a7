"""How fast are videos read from tar shards, beside `webdataset` and `datasets`, and which of them resumes exactly?

    python benchmarks/shards.py --shards FOLDER       (shards with `.mp4` and `.cls`, as `ila shard` writes them)

Each side reads all shards from beginning to end, draws from a buffer of 64 and gives a video's bytes and its class; no
frame is decoded. All sides read the same files, whose pages are in memory, and take turns; medians of the rounds. The
ratio is of processor time, which others hardly change. Needs `webdataset` and `datasets`; with `torchdata` the loader
that saves its state is tried, too.
"""

import glob
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import torch
import webdataset
from torch.utils.data import DataLoader
from transformers import HfArgumentParser

from transformers_ila import IlaConfig, IlaVideoProcessor
from transformers_ila.data.shards import list_shards, read_index
from transformers_ila.training.augmentation import ClipAugmentation, clip_generator
from transformers_ila.training.shard_clips import ShardClips


BUFFER = 64


@dataclass
class Arguments:
    shards: str = field(metadata={"help": "folder of shards, by `ila shard`"})
    rounds: int = 3
    workers: list[int] = field(default_factory=lambda: [0, 2])


class Own(torch.utils.data.IterableDataset):
    """What `ShardClips` reads, before anything is decoded."""

    def __init__(self, shards: list[str], names: list[str]) -> None:
        processor = IlaVideoProcessor.for_model(IlaConfig.from_clip_size("B/32"))
        augment = ClipAugmentation(size=224)
        self.clips = ShardClips(shards, processor, augment=augment, videos=1, batch=1, labels=names, buffer=BUFFER)

    def __iter__(self) -> Iterator[tuple[str, bytes, int]]:
        worker = torch.utils.data.get_worker_info()
        place, places = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = self.clips.clips.epoch
        generator = clip_generator(0, epoch, -2 - place)
        for sample in self.clips._drawn(self.clips.stream(epoch, place, places), generator):
            yield sample.name, sample.video, int(sample.labels[0])


def by_webdataset(shards: list[str], names: list[str]) -> Iterable[Any]:
    options = {"shardshuffle": len(shards), "detshuffle": True, "seed": 0}
    found = webdataset.WebDataset(shards, workersplitter=webdataset.split_by_worker, **options)
    return found.compose(webdataset.detshuffle(BUFFER, BUFFER, seed=0)).map(_of_webdataset)


def _of_webdataset(row: dict[str, Any]) -> tuple[str, bytes, int]:
    return row["__key__"], row["mp4"], int(row["cls"])


def by_datasets(shards: list[str], names: list[str]) -> Any:
    rows = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True)
    rows = rows.cast_column("mp4", datasets.Video(decode=False))
    return rows.shuffle(seed=0, buffer_size=BUFFER).map(_of_datasets, remove_columns=["json", "__url__"])


def _of_datasets(row: dict[str, Any]) -> dict[str, Any]:
    return {"__key__": row["__key__"], "mp4": row["mp4"], "cls": row["cls"]}


SIDES: dict[str, Callable[[list[str], list[str]], Any]] = {
    "own": Own, "webdataset": by_webdataset, "datasets": by_datasets
}  # fmt: skip


def name_of(row: Any) -> str:
    return row["__key__"] if isinstance(row, dict) else row[0]


def bytes_of(row: Any) -> bytes:
    return row["mp4"]["bytes"] if isinstance(row, dict) else row[1]


def first_of(rows: list[Any]) -> Any:
    return rows[0]


def read(side: str, shards: list[str], names: list[str], workers: int) -> tuple[float, float, int]:
    """Return seconds, seconds of a processor (of workers, too), and videos."""
    loader = DataLoader(SIDES[side](shards, names), batch_size=1, num_workers=workers, collate_fn=first_of)
    started, used, keys = time.perf_counter(), sum(os.times()[:4]), set()
    for row in loader:
        keys.add((name_of(row), len(bytes_of(row))))
    return time.perf_counter() - started, sum(os.times()[:4]) - used, len(keys)


def rest_after_state(rows: Any, workers: int, stop: int) -> tuple[list[str], list[str]] | None:
    """Return the names after `stop` rows of a run that goes on, and of one that resumed; None without torchdata."""
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader
    except ImportError:
        return None

    def loader() -> Any:
        return StatefulDataLoader(rows(), batch_size=1, num_workers=workers, collate_fn=first_of)

    first = loader()
    running = iter(first)
    list(islice(running, stop))
    state = first.state_dict()
    whole = [name_of(row) for row in running]
    again = loader()
    again.load_state_dict(state)
    return whole, [name_of(row) for row in again]


def orders(side: str, shards: list[str], names: list[str], workers: int) -> str:
    """Say whether a second run gives the same order, and the second epoch of one run another one."""

    def epochs() -> list[list[str]]:
        rows = SIDES[side](shards, names)
        loader = DataLoader(rows, batch_size=1, num_workers=workers, collate_fn=first_of)
        found = []
        for epoch in range(2):
            for part in (rows, getattr(rows, "clips", None)):
                if hasattr(part, "set_epoch"):
                    part.set_epoch(epoch)
            found.append([name_of(row) for row in loader])
        return found

    (first, second), again = epochs(), epochs()
    return f"the same in a second run: {[first, second] == again}; another in the second epoch: {first != second}"


def write_faults(shard: str, folder: Path) -> dict[str, tuple[str, int]]:
    """Write shards with a fault each, and return them with the number of videos that were put in."""
    content, found = Path(shard).read_bytes(), dict[str, tuple[str, int]]()
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    count = sum(member.name.endswith(".mp4") for member in members)
    middle = next(member for member in members[len(members) // 2 :] if member.name.endswith(".mp4"))

    def put(fault: str, changed: bytes, videos: int = count) -> None:
        file = folder / f"{len(found)}.tar"
        file.write_bytes(changed)
        found[fault] = (str(file), videos)

    end = len(content)
    put("cut in the middle of a video", content[: middle.offset_data + middle.size // 2])
    put("cut between two videos", content[: middle.offset])
    put("a header damaged", content[: middle.offset] + b"x" + content[middle.offset + 1 :])
    put("a video twice", content[: members[3].offset] + content[:end], count + 1)
    put("a label missing", content[: members[1].offset] + content[members[3].offset :])
    return found


def verdict(side: str, shard: str, names: list[str], videos: int) -> str:
    """Say what a reader makes of a shard with a fault: an error, or how many videos."""
    try:
        keys = [name_of(row) for row in SIDES[side]([shard], names)]
    except Exception as error:  # what a library says
        return f"{type(error).__name__}: {' '.join(str(error).split())[:70]}"
    return f"silent: {len(keys)} of {videos} videos"


def main(args: Arguments) -> None:
    shards = list_shards(args.shards)
    index = read_index(args.shards)
    if index is None:
        raise SystemExit(f"{args.shards!r} holds no shards of `ila shard`.")
    names, total = index["class_names"], sum(map(os.path.getsize, glob.glob(os.path.join(args.shards, "*.tar"))))
    print(f"webdataset {webdataset.__version__}, datasets {datasets.__version__}, torch {torch.__version__}, ", end="")
    print(f"{os.cpu_count()} cores; {len(shards)} shards, {total / 1e6:.0f} MB.\n")
    torch.set_num_threads(1)
    print("| workers | reader | seconds | of a processor | own over it | videos |\n" + "|---" * 6 + "|")
    for workers in args.workers:
        found: dict[str, list[tuple[float, float, int]]] = {side: [] for side in SIDES}
        for number in range(args.rounds + 1):
            for side, results in found.items():
                result = read(side, shards, names, workers)
                results += [result] if number else []  # the first one brings the pages into memory
        medians = {side: [median(column) for column in zip(*results)] for side, results in found.items()}
        for side, (seconds, used, videos) in medians.items():
            ratio = medians["own"][1] / used
            print(f"| {workers} | {side} | {seconds:.2f} | {used:.2f} | {ratio:.2f} | {videos:.0f} |")
    print("\nresumed by a saved state, in the middle of an epoch:")
    for side in ("webdataset", "datasets"):
        for workers in args.workers:
            try:
                rest = rest_after_state(lambda side=side: SIDES[side](shards, names), workers, stop=50)
            except Exception as error:  # what a library says that cannot
                print(f"{side}, {workers} workers: {type(error).__name__}: {str(error).strip().splitlines()[-1]}")
                continue
            if rest is None:
                print(f"{side}, {workers} workers: torchdata is not installed")
                continue
            whole, again = rest
            lost, more = len(set(whole) - set(again)), len(set(again) - set(whole))
            print(
                f"{side}, {workers} workers: {len(whole)} were left, {len(again)} came; {lost} never, {more} a second "
                f"time; the same order: {whole == again}"
            )
    print("\norder of the videos:")
    for side in SIDES:
        for workers in args.workers:
            print(f"{side}, {workers} workers: {orders(side, shards, names, workers)}")
    print("\n| fault | " + " | ".join(SIDES) + " |\n" + "|---" * (1 + len(SIDES)) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for fault, (shard, videos) in write_faults(shards[0], Path(folder)).items():
            print(f"| {fault} | " + " | ".join(verdict(side, shard, names, videos) for side in SIDES) + " |")


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

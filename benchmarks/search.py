"""How long does an exact search of an index take, beside a plain matrix product of NumPy and of torch?

    python benchmarks/search.py --rows 1000000

Random features of unit length, written once as an index and read from pages that are in memory (the first search reads
them all). "search" is `VideoIndex.search`: products, the best rows, their cosines in float64, their names. NumPy's and
torch's rows are the product and its largest values alone, without names. Medians of the rounds, in which all take
turns.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import HfArgumentParser

from transformers_ila.distributed import usable_cpus
from transformers_ila.search.search import VideoIndex


ROWS_OF_A_PIECE = 250_000


@dataclass
class Arguments:
    rows: int = 1_000_000
    dimension: int = 512
    windows: list[int] = field(default_factory=lambda: [1, 10], metadata={"help": "rows that a video has"})
    queries: list[int] = field(default_factory=lambda: [1, 16], metadata={"help": "that are asked together"})
    top_k: int = 10
    rounds: int = 7
    folder: str | None = field(default=None, metadata={"help": "for the index; default: one that is removed again"})


def write_index(folder: Path, args: Arguments, windows: int) -> None:
    index, generator = VideoIndex.create(folder, args.dimension), np.random.default_rng(0)
    for first in range(0, args.rows, ROWS_OF_A_PIECE):
        count = min(ROWS_OF_A_PIECE, args.rows - first)
        features = generator.standard_normal((count, args.dimension), dtype=np.float32)
        names = [f"videos/{row // windows:08}.mp4" for row in range(first, first + count)]
        spans = [(float(row % windows), row % windows + 1.0) for row in range(first, first + count)]
        index.add(names, features, windows=None if windows == 1 else spans)


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(folder: Path, args: Arguments, windows: int) -> None:
    opening = seconds_of(lambda: VideoIndex(folder))
    index = VideoIndex(folder)
    vectors = index.parts[0].part.vectors
    mapped = torch.from_file(str(index.parts[0].part.file.with_suffix(".vectors")), size=vectors.size)
    mapped = mapped.reshape(vectors.shape)
    generator = np.random.default_rng(1)
    first = seconds_of(lambda: index.search(generator.standard_normal(args.dimension), args.top_k))
    print(f"\nrows that a video has: {windows}; opened in {opening:.3f} s, first search {first:.3f} s\n")
    print("| queries | search | NumPy's product | torch's product |\n|---|---|---|---|")
    for count in args.queries:
        queries = generator.standard_normal((count, args.dimension)).astype(np.float32)
        ways: dict[str, Callable[[], object]] = {
            "search": lambda queries=queries: index.search(queries, args.top_k),
            "numpy": lambda queries=queries: np.argpartition(vectors @ queries.T, -args.top_k, axis=0)[-args.top_k :],
            "torch": lambda queries=queries: (mapped @ torch.from_numpy(queries).T).topk(args.top_k, dim=0),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, work in ways.items():
                found[name].append(seconds_of(work))
        cells = (f"{median(times):.3f} s (least {min(times):.3f})" for times in found.values())
        print(f"| {count} | {' | '.join(cells)} |")


def main(args: Arguments) -> None:
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, NumPy {np.__version__}, {usable_cpus()} cores, load {load:.1f} at the start.")
    print(f"{args.rows} rows of {args.dimension} float32 numbers, top {args.top_k}.")
    with tempfile.TemporaryDirectory() as place:
        for windows in args.windows:
            folder = Path(args.folder or place) / f"{windows}"
            if not (folder / "_settings.json").exists():
                write_index(folder, args, windows)
            measure(folder, args, windows)


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

"""How long does it take to plan a run on an engine, and how much memory?

    python benchmarks/planning.py --rows 1000 10000 100000 1000000

Plans are made of a list of paths, of a Parquet manifest with paths and ids, and of tar shards of a thousand members,
none of whose videos exist or have a byte: planning opens no video. "resumed" is a manifest half of whose videos are
done. Each plan is made in a process of its own, which is started and has imported everything before its clock and its
memory are read. Microseconds are of the CPU; the memory is the growth of the process's largest resident set.
"""

import multiprocessing
import resource
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet
from transformers import HfArgumentParser

from transformers_ila.evaluation.prediction_files import video_id
from transformers_ila.scale.plan import iter_planned, write_plan


SOURCES = ("list", "manifest", "resumed", "shards")
ROWS_OF_A_PIECE, MEMBERS = 100_000, 1000


@dataclass
class Arguments:
    rows: list[int] = field(default_factory=lambda: [10**3, 10**4, 10**5, 10**6])
    sources: list[str] = field(default_factory=lambda: list(SOURCES), metadata={"choices": SOURCES})


def names(rows: int) -> Iterator[str]:
    return (f"class {row % 400:03}/video_{row:09}.mp4" for row in range(rows))


def write_source(folder: Path, source: str, rows: int) -> Path:
    """Write a source of so many videos, and return what is planned."""
    if source == "list":
        file = folder / "list.txt"
        with file.open("w") as lines:
            lines.writelines(f"{name}\n" for name in names(rows))
        return file
    if source in ("manifest", "resumed"):
        file, schema = folder / "videos.parquet", pyarrow.schema({"id": "string", "path": "string"})
        with parquet.ParquetWriter(file, schema) as writer:
            for first in range(0, rows, ROWS_OF_A_PIECE):
                some = range(first, min(first + ROWS_OF_A_PIECE, rows))
                paths = [f"s3://bucket/clips/{row % 400:03}/{row:09}.mp4" for row in some]
                writer.write_table(pyarrow.table([[f"video {row}" for row in some], paths], schema=schema))
        return file
    shards = folder / "shards"
    shards.mkdir()
    for first in range(0, rows, MEMBERS):
        with open(shards / f"train-{first // MEMBERS:06}.tar", "wb") as file:
            for row in range(first, min(first + MEMBERS, rows)):
                file.write(tarfile.TarInfo(f"{row:09}.mp4").tobuf())
            file.write(bytes(2 * tarfile.BLOCKSIZE))
    return shards


def plan(source: Path, folder: Path, done: int) -> tuple[int, float, float, float]:
    """Return how many videos were planned, the seconds that it took on the clock and of the CPU, and bytes."""
    ids = np.array([video_id(f"video {row}") for row in range(done)], "S16")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, cpu = time.perf_counter(), time.process_time()
    planned = write_plan(iter_planned(source), folder, ids).planned
    seconds = time.perf_counter() - clock, time.process_time() - cpu
    return planned, *seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main(args: Arguments) -> None:
    print(
        "| source | rows | planned | seconds | CPU seconds | microseconds a row | MB of memory |\n" + 7 * "|---" + "|"
    )
    for source in args.sources:
        for rows in args.rows:
            with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as process:
                written = write_source(Path(folder), source, rows)
                done = rows // 2 if source == "resumed" else 0
                planned, seconds, cpu, grown = process.apply(plan, (written, Path(folder) / "plan", done))
            figures = f"{planned:,} | {seconds:.2f} | {cpu:.2f} | {cpu / rows * 1e6:.1f} | {grown / 1e6:.0f}"
            print(f"| {source} | {rows:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

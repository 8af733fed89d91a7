"""Read good and bad files over and over: descriptors, threads and memory must stay where they were.

    python benchmarks/video_reading_leaks.py

Reads videos that it makes itself, good and damaged ones, and those of ../shared/videos where that folder is there.
Linux only: the figures come from /proc.
"""

import argparse
import io
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fuzz_video_reading import BASES, write_video

from transformers_ila.model.video_frames_ila import segment_indices
from transformers_ila.model.video_reading_ila import IndexRule, VideoDecodingError, read_video


SHARED = Path(__file__).resolve().parents[2] / "shared" / "videos"
TOO_LARGE = "bomb_8192x8192.mp4"  # 201 MB a frame would hide everything else
TOLERANCE_MB = 20.0
EIGHT_SEGMENTS = partial(segment_indices, num_frames=8)


@dataclass(frozen=True)
class Usage:
    descriptors: int
    threads: int
    memory_mb: float


def usage() -> Usage:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Usage(len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), memory)


def write_files(folder: Path) -> list[Path]:
    """Good videos of every container, damaged copies of them, and files that are no video."""
    good = [write_video(base, folder) for base in BASES]
    for path in good:
        content = path.read_bytes()
        middle = len(content) // 2
        (folder / f"cut_{path.name}").write_bytes(content[:middle])
        (folder / f"overwritten_{path.name}").write_bytes(content[:middle] + b"\xff" * 500 + content[middle + 500 :])
    (folder / "text.mp4").write_text("<html>Not found</html>\n" * 20)
    (folder / "empty.mp4").touch()
    return [*sorted(folder.iterdir()), folder / "missing.mp4"]


def shared_files() -> list[Path]:
    paths = (path for folder in ("real", "broken") for path in sorted((SHARED / folder).glob("*")))
    return [path for path in paths if path.suffix not in (".json", ".md") and path.name != TOO_LARGE]


def read_once(path: Path, *, way: Callable[[Path], Any], rule: IndexRule) -> str:
    """The name of what came of it; only what `read_video` promises to raise is caught."""
    if not path.exists():
        way = str
    source = way(path)
    try:
        read_video(source, rule)
    except VideoDecodingError:
        return "VideoDecodingError"
    except ValueError as error:
        if "index rule" in str(error):
            return "wrong rule"
        raise
    finally:
        if hasattr(source, "close"):
            source.close()
    return "frames"


WAYS: tuple[Callable[[Path], Any], ...] = (
    str,
    Path.read_bytes,
    lambda path: path.open("rb"),
    lambda path: io.BytesIO(path.read_bytes()),
)


def read_many(paths: Sequence[Path], reads: int, *, seed: int) -> Counter[str]:
    """Every path in turn, the way at random; one read in ten has a rule that points outside the video."""
    rng = random.Random(seed)
    rules: list[IndexRule] = [EIGHT_SEGMENTS] * 9 + [lambda total: [total]]
    cases = ((paths[number % len(paths)], rng.choice(WAYS), rng.choice(rules)) for number in range(reads))
    return Counter(read_once(path, way=way, rule=rule) for path, way, rule in cases)


def measure(paths: Sequence[Path], *, warm_up: int, reads: int) -> Iterator[tuple[str, Usage]]:
    """(when, what is held): before, after the reads that fill caches, after the reads that count."""
    yield "before", usage()
    read_many(paths, warm_up, seed=0)
    yield f"after {warm_up} warm-up reads", usage()
    outcomes = read_many(paths, reads, seed=1)
    told = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    yield f"after {reads} further reads ({told})", usage()


def is_leak(before: Usage, after: Usage) -> bool:
    grown = after.memory_mb - before.memory_mb
    return after.descriptors > before.descriptors or after.threads > before.threads or grown > TOLERANCE_MB


def main() -> int:
    parser = argparse.ArgumentParser(description="Exit code 1 when reading leaks.")
    parser.add_argument("--warm-up", type=int, default=200)
    parser.add_argument("--reads", type=int, default=1000)
    args = parser.parse_args()
    logging.disable()  # damaged files are reported one by one
    start = time.perf_counter()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder)) + shared_files()
        print(f"{len(paths)} files\n{'descriptors':>12}{'threads':>9}{'memory MB':>11}")
        for when, row in measure(paths, warm_up=args.warm_up, reads=args.reads):
            print(f"{row.descriptors:12}{row.threads:9}{row.memory_mb:11.1f}  {when}")
            rows.append(row)
    leak, seconds = is_leak(*rows[1:]), time.perf_counter() - start
    print(f"{'LEAK' if leak else 'no leak'} (memory may grow by {TOLERANCE_MB:.0f} MB), {seconds:.0f} s")
    return 1 if leak else 0


if __name__ == "__main__":
    sys.exit(main())

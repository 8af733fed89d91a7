"""Read thousands of damaged videos: each gives frames or a `VideoDecodingError`, never a crash, a hang or memory.

A case is a function of the seed and its number alone: a small video of some container, damaged, and a way to read it.
Cases run in child processes that announce each one first, so that a crash or a hang is told of the case it belongs to:

    python benchmarks/fuzz_video_reading.py --cases 2000 --seed 0
    python benchmarks/fuzz_video_reading.py --seed 0 --case 17 --save damaged.mp4
"""

import argparse
import faulthandler
import logging
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np

from transformers_ila.model.video_frames_ila import segment_indices
from transformers_ila.model.video_reading_ila import IndexRule, VideoDecodingError, check_video, read_video


HANG_SECONDS = 5.0
MAX_GROWTH_MB = 1000.0  # how far reading may raise the memory of the child
START_SECONDS = 120.0  # the first child waits for its server to import torch and transformers
BATCH = 200

# -- the undamaged videos --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    name: str
    codec: str
    options: dict[str, str]
    container_options: dict[str, str]
    frames: int = 45


# x264 writes the same bytes every time only without its assembly.
X264 = {"bf": "3", "g": "12", "threads": "1", "x264-params": "no-asm=1"}
BASES = (
    Base("plain.mp4", "libx264", X264, {}),
    Base("faststart.mp4", "libx264", X264, {"movflags": "faststart"}),
    Base("fragmented.mp4", "libx264", X264, {"movflags": "frag_keyframe+empty_moov"}),
    Base("clip.mkv", "libx264", X264, {}),
    Base("long.mp4", "libx264", X264, {}, frames=150),  # long enough for the reader to seek
    Base("long.mkv", "libx264", X264, {}, frames=150),
    Base("clip.webm", "libvpx-vp9", {"g": "12", "threads": "1", "cpu-used": "8", "deadline": "realtime"}, {}),
    Base("clip.avi", "mpeg4", {"bf": "2", "g": "12", "threads": "1"}, {}),
    Base("clip.ts", "libx264", X264, {}),
    Base("clip.mpg", "mpeg2video", {"bf": "2", "g": "12", "threads": "1"}, {}),
    Base("clip.flv", "libx264", X264, {}),
)


def write_video(base: Base, folder: Path, *, width: int = 96, height: int = 64) -> Path:
    """Waves that move, so that every frame costs some bytes."""
    path = folder / base.name
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w", options={"fflags": "+bitexact", **base.container_options}) as container:
        stream = container.add_stream(base.codec, rate=25, options=base.options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(base.frames):
            wave = 128 + 100 * np.sin((columns + 3 * index) / 9) * np.cos((rows - 2 * index) / 7)
            image = np.stack([wave, np.roll(wave, index, axis=1), 255 - wave], axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def base_videos() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return {base.name: write_video(base, Path(folder)).read_bytes() for base in BASES}


# -- damage ----------------------------------------------------------------------------------------------------------

Mutation = Callable[[bytearray, random.Random, bytes], None]  # changes the first; the last is another video
HEADER_BYTES = 2048
HEADER_TAGS = (  # behind these stand sizes, counts and dimensions
    *b"moov mvhd tkhd mdhd elst stsd avc1 avcC stts ctts stss stsc stsz stco trun tfhd moof mdat".split(),
    *b"RIFF avih strh strf movi idx1 onMetaData".split(),
    *(b"\x00\x00\x01\xb3", b"\x00\x00\x01\xba", b"\x1a\x45\xdf\xa3", b"\x16\x54\xae\x6b"),  # MPEG, Matroska
)
EXTREMES = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\x01")


def span(data: bytes | bytearray, rng: random.Random) -> slice:
    """Any part; short ones as likely as long ones."""
    start = rng.randrange(len(data))
    return slice(start, min(len(data), start + int(len(data) ** rng.random())))


def flip_bits(data: bytearray, rng: random.Random, other: bytes) -> None:
    for _ in range(rng.randint(1, 64)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite_with_noise(data: bytearray, rng: random.Random, other: bytes) -> None:
    part = span(data, rng)
    data[part] = rng.randbytes(part.stop - part.start)


def overwrite_with_zeros(data: bytearray, rng: random.Random, other: bytes) -> None:
    part = span(data, rng)
    data[part] = bytes(part.stop - part.start)


def cut_start(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[: int(len(data) ** rng.random())]


def cut_middle(data: bytearray, rng: random.Random, other: bytes) -> None:
    del data[span(data, rng)]


def cut_end(data: bytearray, rng: random.Random, other: bytes) -> None:
    """As often down to a few bytes, or none, as anywhere."""
    kept = rng.choice((rng.randrange(len(data)), int(len(data) ** rng.random()) - 1))
    del data[kept:]


def splice(data: bytearray, rng: random.Random, other: bytes) -> None:
    data[span(data, rng)] = other[span(other, rng)]


def duplicate(data: bytearray, rng: random.Random, other: bytes) -> None:
    part, place = span(data, rng), rng.randrange(len(data))
    data[place:place] = data[part]


def swap(data: bytearray, rng: random.Random, other: bytes) -> None:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    data[a:d] = data[c:d] + data[b:c] + data[a:b]


def change_header_field(data: bytearray, rng: random.Random, other: bytes) -> None:
    """A number of 1 to 8 bytes becomes an extreme one, behind a known tag or anywhere in the first or last bytes."""
    tag = data.find(rng.choice(HEADER_TAGS))
    if tag >= 0:
        place = tag + rng.randrange(-4, 40)
    else:
        place = rng.randrange(HEADER_BYTES) if rng.random() < 0.5 else len(data) - 1 - rng.randrange(HEADER_BYTES)
    place = min(max(place, 0), len(data) - 1)
    size = min(rng.choice((1, 2, 4, 8)), len(data) - place)
    value = rng.choice(EXTREMES) + rng.choice(EXTREMES) * (size - 1)
    data[place : place + size] = value if rng.random() < 0.5 else value[::-1]


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    overwrite_with_noise,
    overwrite_with_zeros,
    cut_start,
    cut_middle,
    cut_end,
    splice,
    duplicate,
    swap,
    change_header_field,
    change_header_field,  # twice: the most damage per byte
)

# -- one case --------------------------------------------------------------------------------------------------------

RULES: dict[str, IndexRule] = {
    "eight segments": partial(segment_indices, num_frames=8),
    "all frames": range,
    "last frame": lambda total: [total - 1],
}
COUNT = "count frames"  # by check_video


@dataclass(frozen=True)
class Case:
    number: int
    base: str
    content: bytes = field(repr=False)
    way: str  # path | bytes | file object
    rule: str  # one of RULES or COUNT
    short_side: int | None
    mutations: tuple[str, ...]

    def __str__(self) -> str:
        damage = " + ".join(self.mutations)
        return f"case {self.number}: {self.base}, {damage}; {self.way}, {self.rule}, short side {self.short_side}"


@dataclass(frozen=True)
class Outcome:
    case: Case
    kind: str  # frames | error | failure
    detail: str
    seconds: float
    growth_mb: float


def make_case(bases: dict[str, bytes], number: int, *, seed: int) -> Case:
    rng = random.Random(f"{seed}-{number}")
    base = rng.choice(sorted(bases))
    data, names = bytearray(bases[base]), []
    for mutation in rng.choices(MUTATIONS, k=rng.choice((1, 1, 2, 4))):
        if data:
            mutation(data, rng, bases[rng.choice(sorted(bases))])
            names.append(mutation.__name__)
    way, rule = rng.choice(("path", "bytes", "file object")), rng.choice((*RULES, COUNT))
    return Case(number, base, bytes(data), way, rule, rng.choice((None, 32)), tuple(names))


def read_case(case: Case, folder: Path) -> tuple[str, str]:
    """(kind of outcome, detail)."""
    path = folder / case.base
    path.write_bytes(case.content)
    try:
        with path.open("rb") as file:
            source: Any = {"path": path, "bytes": case.content, "file object": file}[case.way]
            return "frames", read_source(source, case)
    except VideoDecodingError as error:
        return ("failure", f"several lines: {error!s:.500}") if "\n" in str(error) else ("error", str(error))
    except Exception:
        return "failure", traceback.format_exc()


def read_source(source: Any, case: Case) -> str:
    """What came of it; AssertionError if it is not what was asked for."""
    if case.rule == COUNT:
        return f"{check_video(source).total_num_frames} frames"
    indices: Sequence[int] = []

    def rule(total: int) -> Sequence[int]:
        nonlocal indices
        indices = RULES[case.rule](total)
        return indices

    frames, metadata = read_video(source, rule, short_side=case.short_side)
    expected = (len(indices), metadata.height, metadata.width, 3)
    if frames.dtype != np.uint8 or frames.shape != expected or metadata.frames_indices != list(indices):
        raise AssertionError(f"{frames.dtype} {frames.shape} instead of uint8 {expected}, or not the rule's indices")
    return f"{frames.shape}, {metadata.frames_lost} lost, {metadata.total_num_frames} in all"


# -- child and parent ------------------------------------------------------------------------------------------------

Reader = Callable[[Case, Path], tuple[str, str]]  # picklable: it runs in the child


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def run_child(results: Connection, cases: list[Case], folder: Path, read: Reader) -> None:
    faulthandler.enable()  # where a crash or a hang happens goes to stderr
    logging.disable()
    before = peak_mb()
    for case in cases:
        results.send(case.number)
        start = time.perf_counter()
        kind, detail = read(case, folder)
        seconds, growth = time.perf_counter() - start, peak_mb() - before
        if growth > MAX_GROWTH_MB:
            kind, detail = "failure", f"memory grew by {growth:.0f} MB; {detail}"
        results.send((kind, detail, seconds, growth))


def run_batch(cases: list[Case], folder: Path, read: Reader) -> Iterator[Outcome]:
    """The outcomes of one child process, up to the first failure."""
    context = multiprocessing.get_context("forkserver")  # imports once, forks where no thread runs
    context.set_forkserver_preload([read_video.__module__, segment_indices.__module__])
    results, child_end = context.Pipe(duplex=False)
    child = context.Process(target=run_child, args=(child_end, cases, folder, read))
    child.start()
    child_end.close()
    try:
        for case in cases:
            outcome = Outcome(case, *next_result(results, child))
            yield outcome
            if outcome.kind == "failure":
                break
    finally:
        child.kill()
        child.join()
        results.close()


def next_result(results: Connection, child: Any) -> tuple[str, str, float, float]:
    """(kind, detail, seconds, growth in MB) of the case that the child runs next."""
    try:
        if not results.poll(START_SECONDS):
            raise RuntimeError(f"The child process did not start within {START_SECONDS:.0f} s.")
        results.recv()  # it starts now
        if results.poll(HANG_SECONDS):
            return results.recv()
    except EOFError:
        child.join()
        return "failure", f"crash: exit code {child.exitcode}", 0.0, 0.0
    os.kill(child.pid, signal.SIGABRT)  # faulthandler tells where it hangs
    child.join(5)
    return "failure", f"hang: no result after {HANG_SECONDS:.0f} s", HANG_SECONDS, 0.0


def run_cases(numbers: Sequence[int], *, seed: int, read: Reader = read_case) -> list[Outcome]:
    """One outcome per case, in order; after a failure the rest goes on in a fresh child."""
    bases = base_videos()
    cases = [make_case(bases, number, seed=seed) for number in numbers]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        while len(outcomes) < len(cases):
            outcomes += run_batch(cases[len(outcomes) :][:BATCH], Path(folder), read)
    return outcomes


# -- the table -------------------------------------------------------------------------------------------------------


def summary(outcomes: list[Outcome]) -> str:
    kinds = ("frames", "error", "failure")
    lines = [f"{'video':16}{'cases':>8}" + "".join(f"{kind:>9}" for kind in kinds)]
    for base in [*sorted({outcome.case.base for outcome in outcomes}), "all"]:
        counts = Counter(outcome.kind for outcome in outcomes if base in (outcome.case.base, "all"))
        lines.append(f"{base:16}{counts.total():8}" + "".join(f"{counts[kind]:9}" for kind in kinds))
    slowest = max(outcomes, key=lambda outcome: outcome.seconds)
    largest = max(outcomes, key=lambda outcome: outcome.growth_mb)
    lines.append(f"slowest: {slowest.seconds:.2f} s (case {slowest.case.number})")
    lines.append(f"peak memory: {largest.growth_mb:.0f} MB above the start (case {largest.case.number})")
    libraries = ", ".join(f"{name} {'.'.join(map(str, v))}" for name, v in sorted(av.library_versions.items()))
    lines.append(f"PyAV {av.__version__}, FFmpeg {getattr(av, 'ffmpeg_version_info', '?')} ({libraries})")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Read damaged videos; exit code 1 when one does more than an error.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="replay this one")
    parser.add_argument("--save", type=Path, help="with --case: write the damaged video there")
    args = parser.parse_args()
    replay = args.case is not None
    start = time.perf_counter()
    outcomes = run_cases([args.case] if replay else range(args.cases), seed=args.seed)
    for outcome in outcomes:
        if replay or outcome.kind == "failure":
            print(f"{outcome.case}\n{outcome.kind}, {outcome.seconds:.2f} s, {outcome.growth_mb:.0f} MB")
            print(outcome.detail)
            print(f"  python {sys.argv[0]} --seed {args.seed} --case {outcome.case.number}")
    if replay and args.save:
        args.save.write_bytes(outcomes[0].case.content)
    print(f"{summary(outcomes)}\n{time.perf_counter() - start:.0f} s in all, seed {args.seed}")
    return int(any(outcome.kind == "failure" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

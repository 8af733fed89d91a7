"""How fast is `--engine ray` beside the plain command, what do its parts do a second, and what would many videos take?

    python benchmarks/scale.py throughput --videos FOLDER_OF_REAL_CLIPS --model demo_output/model
    python benchmarks/scale.py throughput --videos FOLDER_OF_REAL_CLIPS --model B/32
    python benchmarks/scale.py rates --videos FOLDER_OF_REAL_CLIPS
    python benchmarks/scale.py estimate --count 1000000 100000000 --replicas 64 --model_rate 330

throughput: `ila predict` as a user starts it, half of the videos real, half generated. In every round the plain
command and `--engine ray` with each number of readers take their turn, each in a new folder. "start" is until the
first rows are on disk, "work" from then until the last, "end" until the command is over. Both must give the same
labels. B/32 and the like have random weights and 400 classes.

rates: what one core reads, what one process writes, and how many blocks pass through actors that do nothing (which
needs Ray), in the units of `estimate`; `planning.py` measures what is planned.

estimate: how long, how much, and which resource gives out first, by rates that were measured or assumed: give yours.
"""

import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import transformers
from model_speed import ila_config
from transformers import HfArgumentParser

from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.data.lists import iter_videos
from transformers_ila.distributed import Rank, usable_cpus
from transformers_ila.evaluation.options import LabelOptions
from transformers_ila.evaluation.prediction_files import ResultWriter, read_results
from transformers_ila.evaluation.views import read_views
from transformers_ila.model.configuration_ila import CLIP_SIZES
from transformers_ila.motionbench.tasks import write_folder
from transformers_ila.scale.cluster import join_cluster
from transformers_ila.scale.options import EngineOptions
from transformers_ila.scale.pipeline import stream
from transformers_ila.scale.plan import write_plan
from transformers_ila.scale.sources import PlannedVideo


ALLOWED = 1e-5  # by which probabilities may differ: a video's batch is another one


def real_clips(folder: str, count: int) -> list[str]:
    """Paths of `count` videos of the folder, evenly spread over it."""
    paths = [str(Path(path).resolve()) for _, path in iter_videos([folder])]
    if len(paths) < count:
        sys.exit(f"{folder!r} has {len(paths)} videos, {count} are needed.")
    return [paths[index * len(paths) // count] for index in range(count)]


# -- throughput ------------------------------------------------------------------------------------------------------


@dataclass
class ThroughputArguments:
    videos: str = field(metadata={"help": "folder of real clips"})
    model: str = field(metadata={"help": f"folder of a model, or one of {', '.join(CLIP_SIZES)}: random weights"})
    count: int = field(default=200, metadata={"help": "videos, half of them real"})
    readers: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "numbers of readers to take"})
    rounds: int = 3
    threads: int | None = field(default=None, metadata={"help": "OMP_NUM_THREADS; default: not set, as users start"})
    options: str = field(default="", metadata={"help": "further ones for both, such as '--dtype bfloat16'"})


class Run(NamedTuple):
    """Seconds of one run of the command, and its videos a second between the first rows and the last."""

    start: float
    work: float
    end: float
    rate: float


def run_command(words: list[str], output: Path, environment: dict[str, str]) -> Run:
    """Run `ila predict` to its end and watch its lines arrive."""
    lines = output / "part-00000-of-00001.jsonl"
    first = last = size = first_rows = 0.0
    with tempfile.TemporaryFile("w+") as printed:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "transformers_ila", "predict", *words, "--output", str(output)],
            env=environment, stdout=printed, stderr=printed,
        )  # fmt: skip
        while process.poll() is None:
            if lines.exists() and lines.stat().st_size > size:
                last, size = time.perf_counter(), lines.stat().st_size
                if not first:
                    first, first_rows = last, lines.read_bytes().count(b"\n")
            time.sleep(0.005)
        over = time.perf_counter()
        printed.seek(0)
        if process.returncode != 0:
            sys.exit(printed.read())
    rows = lines.read_bytes().count(b"\n")
    if rows == first_rows:
        sys.exit(f"All {rows} rows came at once: take more videos.")
    return Run(first - started, last - first, over - last, (rows - first_rows) / (last - first))


def difference(one: Path, other: Path) -> tuple[int, float]:
    """How many videos have other labels, and the largest difference of a probability."""
    found = [{row["video"]: row for row in read_results(folder)} for folder in (one, other)]
    if found[0].keys() != found[1].keys():
        sys.exit(f"{one} and {other} have rows of other videos.")
    pairs = [(row, found[1][video]) for video, row in found[0].items()]
    labels = sum(mine["labels"] != others["labels"] for mine, others in pairs)
    scores = (abs(a - b) for mine, others in pairs for a, b in zip(mine["scores"], others["scores"]))
    return labels, max(scores)


def throughput(args: ThroughputArguments) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if args.threads is not None:
        environment["OMP_NUM_THREADS"] = str(args.threads)
    ways = {"plain": ["--engine", "plain"]}
    ways |= {f"ray, readers: {count}": ["--engine", "ray", "--readers", str(count)] for count in args.readers}
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = real_clips(args.videos, args.count // 2)
        paths += map(str, write_folder(folder / "generated", args.count - len(paths), seed=0))
        random.Random(0).shuffle(paths)  # or the readers would have all the long ones at once
        (folder / "videos.txt").write_text("".join(f"{path}\n" for path in paths))
        model = args.model
        if model in CLIP_SIZES:
            model = str(folder / "model")
            write_model(model, args.model)
        words = ["--model", model, str(folder / "videos.txt"), *args.options.split()]
        threads = "not set" if args.threads is None else args.threads
        print(f"{args.model}, {len(paths)} videos, half of them real. {machine()}, OMP_NUM_THREADS {threads}.\n")
        for turn in range(args.rounds):
            for way, own in ways.items():
                output = folder / f"{turn} {way}"
                runs[way].append(run_command([*words, *own], output, environment))
                print(f"{turn} {way}: {runs[way][-1]}", file=sys.stderr, flush=True)
        differ = [
            difference(folder / "0 plain", folder / f"{turn} {way}") for way in ways for turn in range(args.rounds)
        ]
    print("| engine | start, s | work, s | end, s | videos/s | time of the plain one |\n|---|---|---|---|---|---|")
    for way, own in runs.items():
        start, work, end, rate = (median(numbers) for numbers in zip(*own))
        ratio = median(run.rate for run in runs["plain"]) / rate
        print(f"| {way} | {start:.1f} | {work:.1f} | {end:.1f} | {rate:.1f} | {ratio:.2f} |")
    labels, scores = max(labels for labels, _ in differ), max(scores for _, scores in differ)
    print(f"\nMedians of {args.rounds}. Other labels: {labels}; probabilities differ by at most {scores:.1e}.")
    if "dtype" not in args.options and (labels or scores > ALLOWED):
        sys.exit("The engines disagree.")


def write_model(folder: str, size: str) -> None:
    torch.manual_seed(0)
    model = IlaForVideoClassification(ila_config(size, 8))
    model.save_pretrained(folder)
    IlaVideoProcessor.for_model(model.config).save_pretrained(folder)


def machine() -> str:
    try:
        import ray
    except ImportError:
        with_ray = ""
    else:
        with_ray = f", Ray {ray.__version__}"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}{with_ray}"
    return f"{versions}, {usable_cpus()} cores of {platform.machine()}, load {os.getloadavg()[0]:.1f} at the start"


# -- rates -----------------------------------------------------------------------------------------------------------


@dataclass
class RatesArguments:
    videos: str = field(metadata={"help": "folder of real clips"})
    count: int = field(default=100, metadata={"help": "clips that are read"})
    rows: int = field(default=50_000, metadata={"help": "rows that are written"})
    frames: int = field(default=8, metadata={"help": "of a clip of 224 pixels"})
    batches: list[int] = field(default_factory=lambda: [8, 64], metadata={"help": "sizes of blocks"})
    blocks: int = field(default=2000, metadata={"help": "that pass through the actors; 0: none, without Ray"})


def rates(args: RatesArguments) -> None:
    torch.set_num_threads(1)
    print(f"{machine()}.\n\n| what | is |\n|---|---|")
    paths = real_clips(args.videos, args.count)
    processor = IlaVideoProcessor(num_frames=args.frames)
    started, clips, size = time.perf_counter(), 0, 0
    for batch in read_views(processor, [(path, path) for path in paths], LabelOptions(), find=lambda key: key):
        clips += len(batch.read)
        size += sum(video.views.numel() for video in batch.read)
    print(f"| read_rate, clips/s of a core | {clips / (time.perf_counter() - started):.1f} |")
    print(f"| video_bytes | {sum(os.path.getsize(path) for path in paths) / len(paths):,.0f} |")
    print(f"| clip_bytes | {size / clips:,.0f} |")
    writing(8, False)  # imports what writes
    for embeddings in (False, True):
        rate, bytes_of_row = writing(args.rows, embeddings)
        kind = "with embeddings of 512" if embeddings else "five labels"
        print(f"| write_rate, {kind} | {rate:,.0f} |\n| row_bytes, {kind} | {bytes_of_row:,.0f} |")
    for size in args.batches if args.blocks else ():
        clock, driver = block_rate(args.blocks * size, size)
        print(f"| block_rate, blocks of {size} names, by the driver's processor time | {driver:,.0f} |")
        print(f"| blocks/s of {size} names through this machine | {clock:,.0f} |")


def planned(count: int) -> Iterator[PlannedVideo]:
    return (PlannedVideo(f"videos/{number:09}.mp4", f"/videos/{number:09}.mp4") for number in range(count))


class Pass:
    """An actor that returns what it is given."""

    def __call__(self, table: Any) -> Any:
        return table


def block_rate(count: int, size: int) -> tuple[float, float]:
    """Blocks a second that pass through a reader and a replica that do nothing, after the first.

    Returns:
        By the clock, with all processes on this machine; by the driver's own processor time, which is what a cluster
        leaves to one machine.
    """
    engine = EngineOptions(engine="ray", readers=1, replicas=1)
    with tempfile.TemporaryDirectory() as place, join_cluster(engine, "cpu") as cluster:
        plan = write_plan(planned(count), place)
        arrivals = [
            (time.perf_counter(), time.process_time()) for _ in stream(cluster, plan, (Pass, {}), (Pass, {}), size)
        ]
    (first, first_cpu), (last, last_cpu) = arrivals[0], arrivals[-1]
    return (len(arrivals) - 1) / (last - first), (len(arrivals) - 1) / (last_cpu - first_cpu)


def writing(count: int, embeddings: bool) -> tuple[float, float]:
    """Rows a second that one process writes as Parquet, in batches of eight, and bytes of a row."""
    draw, options = random.Random(0), LabelOptions(format="parquet", embeddings=embeddings)
    features = torch.randn(count if embeddings else 0, 512, generator=torch.Generator().manual_seed(0))
    names = [f"class {number:03}" for number in range(400)]
    seconds = 0.0
    with tempfile.TemporaryDirectory() as place:
        with ResultWriter(Path(place), options, Rank()) as writer:
            for first in range(0, count, 8):
                numbers = range(first, min(first + 8, count))
                rows = [
                    {
                        "video": f"videos/{number:09}.mp4",
                        "labels": draw.sample(names, 5),
                        "scores": [draw.random() for _ in range(5)],
                        "frames_lost": 0,
                        "reason": None,
                        **({"embedding": features[number].tolist()} if embeddings else {}),
                    }
                    for number in numbers
                ]
                started = time.perf_counter()
                writer.append(rows)
                seconds += time.perf_counter() - started
            started = time.perf_counter()
        seconds += time.perf_counter() - started
        return count / seconds, sum(file.stat().st_size for file in Path(place).glob("*.parquet")) / count


# -- estimate --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What each resource does. "Measured": on two cores, by `rates` and `throughput` (docs/scale.md); else assumed."""

    model_rate: float = field(default=330.0, metadata={"help": "clips/s of one replica, which has a GPU: assumed"})
    read_rate: float = field(default=15.0, metadata={"help": "videos/s that one core reads: measured"})
    video_bytes: float = field(default=284e3, metadata={"help": "of a file in the store: measured"})
    clip_bytes: float = field(default=1.2e6, metadata={"help": "from a reader to a replica: measured"})
    row_bytes: float = field(default=62.0, metadata={"help": "of a row of the results: measured"})
    batch_size: float = field(default=8.0, metadata={"help": "videos of a block, `--batch_size`"})
    block_rate: float = field(default=47.0, metadata={"help": "blocks/s of one driver: measured"})
    write_rate: float = field(default=64e3, metadata={"help": "rows/s that the driver writes: measured"})
    plan_rate: float = field(default=90e3, metadata={"help": "names/s that are planned: measured"})
    name_bytes: float = field(default=150.0, metadata={"help": "of the driver's memory for each name: measured"})
    driver_memory: float = field(default=64e9, metadata={"help": "bytes: assumed"})
    replica_cores: float = field(default=24.0, metadata={"help": "cores for readers beside each replica: assumed"})
    machine_replicas: float = field(default=8.0, metadata={"help": "replicas on one machine: assumed"})
    machine_link: float = field(default=3.1e9, metadata={"help": "bytes/s into a machine, 25 Gbit/s: assumed"})
    store_rate: float = field(default=12.5e9, metadata={"help": "bytes/s of the store, to all: assumed"})

    def __post_init__(self) -> None:
        for entry in fields(Rates):
            if not (value := getattr(self, entry.name)) > 0:
                raise ValueError(f"{entry.name} must be above 0, got {value}.")


class Estimate(NamedTuple):
    """What videos take, in bytes, seconds and hours; `limits` are the videos a second that each resource allows."""

    hours: float
    gpu_hours: float
    readers: float
    read_bytes: float
    moved_bytes: float
    result_bytes: float
    rate: float
    plan_seconds: float
    plan_memory: float
    limits: dict[str, float]
    first: str


def estimate(videos: int, replicas: int, rates: Rates = Rates()) -> Estimate:
    """Return what that many videos take on that many replicas.

    All clips are taken to cross the network, as if no reader ran on its replica's machine. `gpu_hours` are those in
    which the GPUs compute; they are held for `replicas * hours`. `readers` keep one replica busy.

    Raises:
        ValueError: no videos, no replicas, or names that do not fit into the driver's memory.
    """
    if videos < 1 or replicas < 1:
        raise ValueError(f"there must be a video and a replica, got {videos} and {replicas}.")
    memory = videos * rates.name_bytes
    if memory > rates.driver_memory:
        raise ValueError(
            f"{videos} names take {memory:.2e} bytes, the driver has {rates.driver_memory:.2e}: share them."
        )
    into_machine = rates.video_bytes + rates.clip_bytes
    limits = {
        "replicas": replicas * rates.model_rate,
        "cores that read": replicas * rates.replica_cores * rates.read_rate,
        "network into the machines": replicas / rates.machine_replicas * rates.machine_link / into_machine,
        "store": rates.store_rate / rates.video_bytes,
        "blocks through the driver": rates.block_rate * rates.batch_size,
        "rows that are written": rates.write_rate,
    }
    first = min(limits, key=limits.__getitem__)
    planning = videos / rates.plan_rate
    return Estimate(
        hours=(planning + videos / limits[first]) / 3600,
        gpu_hours=videos / rates.model_rate / 3600,
        readers=rates.model_rate / rates.read_rate,
        read_bytes=videos * rates.video_bytes,
        moved_bytes=videos * rates.clip_bytes,
        result_bytes=videos * rates.row_bytes,
        rate=limits[first],
        plan_seconds=planning,
        plan_memory=memory,
        limits=limits,
        first=first,
    )


@dataclass(frozen=True, kw_only=True)
class EstimateArguments(Rates):
    count: list[int] = field(default_factory=lambda: [1_000_000, 100_000_000], metadata={"help": "videos"})
    replicas: int = field(default=8, metadata={"help": "GPUs with the model"})


def print_estimate(args: EstimateArguments) -> None:
    found = [estimate(count, args.replicas, args) for count in args.count]
    rows = {
        "hours": [f"{one.hours:,.1f}" for one in found],
        "GPU hours that compute": [f"{one.gpu_hours:,.1f}" for one in found],
        "GPU hours that are held": [f"{args.replicas * one.hours:,.1f}" for one in found],
        "readers (cores) that keep a GPU busy": [f"{one.readers:.1f}" for one in found],
        "read from the store, TB": [f"{one.read_bytes / 1e12:,.2f}" for one in found],
        "from readers to replicas, TB": [f"{one.moved_bytes / 1e12:,.2f}" for one in found],
        "results, GB": [f"{one.result_bytes / 1e9:,.2f}" for one in found],
        "planning, minutes": [f"{one.plan_seconds / 60:,.1f}" for one in found],
        "the driver's memory for names, GB": [f"{one.plan_memory / 1e9:,.2f}" for one in found],
    }
    rows |= {f"videos/s allowed by: {name}": [f"{one.limits[name]:,.0f}" for one in found] for name in found[0].limits}
    rows["gives out first"] = [one.first for one in found]
    print(f"| {args.replicas} replicas | {' | '.join(f'{count:,}' for count in args.count)} |")
    print("|---" * (1 + len(found)) + "|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


WAYS: dict[str, tuple[type, Any]] = {
    "throughput": (ThroughputArguments, throughput),
    "rates": (RatesArguments, rates),
    "estimate": (EstimateArguments, print_estimate),
}


def main(words: list[str]) -> None:
    if not words or words[0] not in WAYS:
        sys.exit(f"{__doc__}\nThe first word must be one of {', '.join(WAYS)}.")
    kind, way = WAYS[words[0]]
    way(*HfArgumentParser(kind).parse_args_into_dataclasses(words[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Label the videos of a folder or of a list, of any size: a folder of results, as JSON lines or Parquet.

The same command goes on after a kill: what is done is skipped, nothing is done twice. Several processes or machines
share the videos by RANK and WORLD_SIZE (`torchrun --nproc_per_node 2 scripts/predict.py ...`); each writes a part of
its own. Exit code: 0 all videos of the run were read, 1 some could not be (their rows say why; of several processes
none says so, as a launcher would end the others), 2 bad arguments or nothing to label, 130 interrupted.
"""

import signal
import sys
from dataclasses import dataclass, field

from tqdm import tqdm

from ..distributed import rank_from_environment
from ..evaluation.inference import load_trained
from ..evaluation.prediction import label_videos, named_videos
from ..evaluation.prediction_files import FORMATS
from ..evaluation.views import PROTOCOLS


EXAMPLES = (
    "ila predict --model my-ila --videos path/to/videos --output labels",
    "ila predict --model my-ila --videos list.txt --output labels --format parquet",
)


@dataclass
class PredictionArguments:
    model: str = field(metadata={"help": "folder or Hub id of a model saved with its processor"})
    videos: str = field(metadata={"help": "folder with videos at any depth, or a list, one video a line"})
    output: str = field(metadata={"help": "folder for the results; made if it is not there"})
    root: str | None = field(
        default=None, metadata={"help": "folder that relative paths in a list start from; default the list's folder"}
    )
    format: str = field(default="jsonl", metadata={"help": "of the results", "choices": FORMATS})
    top_k: int = field(default=5, metadata={"help": "labels a video"})
    protocol: str = field(default="1x1", metadata={"help": "clips x crops", "choices": tuple(PROTOCOLS)})
    embeddings: bool = field(default=False, metadata={"help": "also write the video's feature"})
    retry: bool = field(default=False, metadata={"help": "try again what could not be read in earlier runs"})
    batch_size: int = field(default=8, metadata={"help": "videos that go through the model together"})
    workers: int | None = field(
        default=None,
        metadata={
            "help": "processes that read videos beside each one that computes; default: beside a GPU the cores it "
            "leaves, else 0"
        },
    )


def run(args: PredictionArguments) -> int:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # what waits to be written is written
    try:
        return label(args)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def label(args: PredictionArguments) -> int:
    place = rank_from_environment()
    videos = named_videos(args.videos, root=args.root)
    model, processor = load_trained(args.model)
    with tqdm(unit="video", disable=place.rank > 0) as bar:  # a list is not counted before it is read
        summary = label_videos(
            model,
            processor,
            videos,
            output=args.output,
            format=args.format,
            top_k=args.top_k,
            protocol=args.protocol,
            embeddings=args.embeddings,
            retry=args.retry,
            batch_size=args.batch_size,
            num_workers=place.usual_workers() if args.workers is None else args.workers,
            device=place.device(),
            place=place,
            progress=bar.update,
        )
    if not summary.seen:
        raise ValueError(f"{args.videos!r} names no video.")
    who = "" if place.world_size == 1 else f"Process {place.rank} of {place.world_size}: "
    print(
        f"{who}{summary.labelled} videos labelled, {summary.unreadable} unreadable, {summary.before} done before. "
        f"Results: {args.output}"
    )
    if summary.seconds:
        waited = summary.waited / summary.seconds
        print(f"{who}{summary.seconds:.1f} s, {waited:.0%} of them waiting for videos to be read.")
    for name, reason in summary.reasons.items():
        print(f"unreadable: {name!r}: {' '.join(reason.split())}")
    return 1 if summary.unreadable and place.world_size == 1 else 0

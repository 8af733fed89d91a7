"""From a file to a label through `pipeline("video-classification")`, beside its parts and beside other models.

    python benchmarks/pipeline_speed.py --video clip_of_ten_seconds.mp4

All models are of base size (patches of 16, 224 pixels) with random weights and 400 classes: ILA with 8 frames,
VideoMAE with 16 and TimeSformer with 8, their own defaults. In every round each takes its turn; the table has the
medians.

Transformers' pipeline reads for the others in one of two ways, and both are measured. With an image processor it takes
the first frames of the file, whatever comes later. With a video processor it takes frames from the whole clip, by
torchcodec; where that is not installed, by Transformers' own reader on PyAV, put in its place here.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import av
import torch
import transformers
from model_speed import ila_config
from transformers import (
    HfArgumentParser,
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEVideoProcessor,
    pipeline,
)
from transformers.utils import is_torchcodec_available
from transformers.video_utils import load_video

from transformers_ila import IlaForVideoClassification, IlaVideoProcessor


CLASSES = 400
WHOLE, READING, MODEL = "ILA, pipeline", "ILA, reading alone", "ILA, model alone"


@dataclass
class Arguments:
    video: str = field(metadata={"help": "a clip of some ten seconds"})
    rounds: int = field(default=9, metadata={"help": "how often each is measured"})
    size: str = field(default="B/16", metadata={"help": "of ILA"})
    device: str = field(default="cpu", metadata={"help": "where all models compute"})
    fuse: bool = field(default=False, metadata={"help": "measure ILA's snapshot, `model.fuse()`"})
    others: bool = field(default=True, metadata={"help": "VideoMAE and TimeSformer, too"})
    threads: int | None = field(default=None, metadata={"help": "of torch; default: as many as it takes"})


def ila(args: Arguments) -> dict[str, Callable[[], Any]]:
    """The pipeline, and its two parts on the same objects."""
    video = args.video
    model = IlaForVideoClassification(ila_config(args.size, 8, form="interaction")).eval().to(args.device)
    model = model.fuse() if args.fuse else model
    processor = IlaVideoProcessor.for_model(model.config)
    classify = pipeline("video-classification", model=model, video_processor=processor, device=args.device)
    pixel_values = processor(video, return_tensors="pt")["pixel_values"].to(args.device)
    return {
        WHOLE: partial(classify, video),
        READING: lambda: processor(video, return_tensors="pt"),
        MODEL: lambda: model(pixel_values).logits.cpu(),
    }


def others(args: Arguments) -> dict[str, Callable[[], Any]]:
    kinds = {
        "VideoMAE": VideoMAEForVideoClassification(VideoMAEConfig(num_labels=CLASSES)),
        "TimeSformer": TimesformerForVideoClassification(TimesformerConfig(num_labels=CLASSES)),
    }
    measured: dict[str, Callable[[], Any]] = {}
    for name, model in kinds.items():
        build = partial(pipeline, "video-classification", model=model.eval(), device=args.device)
        first, spread = build(image_processor=VideoMAEImageProcessor()), build(video_processor=spread_processor())
        measured[f"{name}, pipeline, first frames"] = partial(first, args.video)
        measured[f"{name}, pipeline, frames of the whole clip"] = partial(spread, args.video)
    return measured


def spread_processor() -> VideoMAEVideoProcessor:
    """VideoMAE's, which TimeSformer's checkpoints use too, able to read without torchcodec."""
    processor = VideoMAEVideoProcessor()
    if not is_torchcodec_available():
        processor.fetch_videos = lambda paths, sample_indices_fn=None: tuple(
            zip(*[load_video(path, backend="pyav", sample_indices_fn=sample_indices_fn) for path in paths])
        )
    return processor


def medians(measured: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds; one round before warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    with torch.no_grad():
        for number in range(rounds + 1):
            for name, work in measured.items():
                started = time.perf_counter()
                work()
                if number:
                    seconds[name].append(time.perf_counter() - started)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def table(found: dict[str, float]) -> list[str]:
    parts = found[READING] + found[MODEL]
    lines = ["| from a file to a label | ms | relative to ILA's pipeline |", "|---|---|---|"]
    lines += [f"| {name} | {value:.0f} | {value / found[WHOLE]:.2f}x |" for name, value in found.items()]
    return [*lines, "", f"ILA's pipeline takes {found[WHOLE] / parts:.3f} of the sum of reading and model alone."]


def main(args: Arguments) -> None:
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    with av.open(args.video) as container:
        seconds = (container.duration or 0) / av.time_base
    reader = "torchcodec" if is_torchcodec_available() else "Transformers' reader on PyAV"
    print(
        f"A clip of {seconds:.1f} s; Python {platform.python_version()}, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads, transformers {transformers.__version__}, {os.cpu_count()} cores. "
        f"Frames of the whole clip for the others: {reader}.\n"
    )
    measured = {**ila(args), **(others(args) if args.others else {})}
    print("\n".join(table(medians(measured, args.rounds))))


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

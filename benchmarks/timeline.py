"""How good are segments found in sequences of motions: by a causal stream, by windows, and what does each cost?

    python benchmarks/timeline.py --folder timeline_bench

Writes MotionBench's "sequences", trains the demo's small model on their clips with causal and with two-sided pairs,
chooses how scores become segments on the validation sequences, and prints what the test sequences say. What the folder
holds already is kept.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser, set_seed

from transformers_ila import IlaConfig, IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli.demo import DemoOptions, accuracy, small_config, training_arguments
from transformers_ila.data.video_folder import VideoFolder, find_videos
from transformers_ila.motionbench.sequences import BACKGROUND, CLIP_SECONDS, write_sequences
from transformers_ila.timeline.calibration import GRIDS, calibrate, segments_of, write_calibration
from transformers_ila.timeline.detection_metrics import VideoSegments, evaluate_segments, read_segments
from transformers_ila.timeline.formats import read_timeline, write_timeline
from transformers_ila.timeline.options import TimelineOptions
from transformers_ila.timeline.rules import SegmentRules
from transformers_ila.timeline.scores import Score, last_frame_time
from transformers_ila.timeline.segments import SegmentTracker
from transformers_ila.timeline.timeline import Timeline, clip_lag_of, timelines


MODELS = ("causal", "two-sided")


@dataclass
class Arguments:
    folder: str = field(default="timeline_bench", metadata={"help": "for sequences, models and scores"})
    size: str = field(default="minute", metadata={"help": "of the sequences"})
    steps: int = field(default=2000, metadata={"help": "optimiser steps of each model"})
    seed: int = 0


def fit(
    config: IlaConfig, options: DemoOptions, sets: Sequence[VideoFolder], processor: IlaVideoProcessor, place: Path
) -> None:
    """Train a network on the first of two sets, save it, and print its accuracy on the second one."""
    from transformers import Trainer

    started = time.perf_counter()
    trainer = Trainer(
        model=IlaForVideoClassification(config),
        args=training_arguments(options),
        train_dataset=sets[0],
        eval_dataset=sets[1],
        processing_class=processor,
        compute_metrics=accuracy,
    )
    trainer.train()
    found = trainer.evaluate()["eval_accuracy"]
    trainer.save_model(str(place))
    seconds = time.perf_counter() - started
    print(f"{place.name}: {found:.1%} of {len(sets[1])} held-out videos, trained in {seconds:.0f} s", flush=True)


def train(folder: Path, args: Arguments) -> dict[str, Path]:
    """Train both models on the clips, unless they are there; return their folders."""
    places = {name: folder / "models" / name for name in MODELS}
    if all((place / "config.json").is_file() for place in places.values()):
        return places
    clips = folder / "sequences" / "clips"
    labels, training = find_videos(clips / "train")
    held_out = find_videos(clips / "val", labels=labels)[1]
    options = DemoOptions(output=str(folder), steps=args.steps, seed=args.seed)
    processor = IlaVideoProcessor.for_model(small_config(options, labels), size={"shortest_edge": 32})
    sets = [VideoFolder(samples, processor, keep=True) for samples in (training, held_out)]
    for name, place in places.items():
        if (place / "config.json").is_file():
            continue
        set_seed(args.seed)
        config = small_config(options, labels)
        config.vision_config.alignment_causal = name == "causal"
        config.frame_rate = options.num_frames / CLIP_SECONDS
        fit(config, options, sets, processor, place)
    return places


def timelines_of(folder: Path, model: str, mode: str, split: str) -> list[Timeline]:
    """Return the timelines of a split's sequences, with scores; what is there is read."""
    place = folder / "timelines" / f"{model}, {mode}, {split}"
    videos = sorted((folder / "sequences" / split).glob("*.mp4"))
    missing = [video for video in videos if not (place / f"{video.stem}.json").is_file()]
    if missing:
        place.mkdir(parents=True, exist_ok=True)
        source = folder / "models" / model
        network = IlaForVideoClassification.from_pretrained(source)
        processor = IlaVideoProcessor.from_pretrained(source)
        named = [(video.stem, video) for video in missing]
        for found in timelines(network, processor, named, TimelineOptions(mode=mode)):
            if isinstance(found, Exception):
                raise found
            write_timeline(found, place / f"{found.video}.json")
    return [read_timeline(place / f"{video.stem}.json") for video in videos]


def found_in(timeline: Timeline, rules: SegmentRules) -> VideoSegments:
    """Return a timeline's segments by some rules, and when a camera's viewer would have known of each.

    A window is known with its last frame, half a clip after its middle. The time that computing takes is not in it.
    """
    tracker = SegmentTracker(timeline.labels, rules, clip_lag=clip_lag_of(timeline.settings))
    announced = []
    for moment, row, start in zip(timeline.times.tolist(), timeline.scores, timeline.starts.tolist()):
        known = last_frame_time(moment, start, timeline.settings["mode"])
        for change in tracker.push(Score(moment, row, False, start)):
            announced += [(change.segment.label, known)] * (change.kind == "start")
    return VideoSegments(segments_of(timeline, rules), timeline.duration, announced)


def measure(folder: Path, model: str, mode: str) -> None:
    """Print the rows of one model in one mode: by the default rules, and by those chosen on the validation split."""
    plain = SegmentRules(background=BACKGROUND)
    rules = {"defaults": plain}
    held_out = timelines_of(folder, model, mode, "val")
    truth = read_segments(folder / "sequences" / "val.json")
    for name, tuned in CHOSEN.items():
        chosen = calibrate(held_out, truth, rules=plain, tuned=tuned)
        write_calibration(chosen, folder / f"{model}, {mode}, {name}.json")
        rules[name] = chosen.rules
        numbers = ", ".join(f"{number} {getattr(chosen.rules, number):g}" for number in tuned)
        values = f"{chosen.chosen_on['value_before']:.3f} to {chosen.chosen_on['value']:.3f}"
        print(f"{model}, {mode}, {name}: {numbers}; mean F1 on the validation split from {values}")
    lines = timelines_of(folder, model, mode, "test")
    truth = read_segments(folder / "sequences" / "test.json")
    cost = sum(line.settings["seconds"] for line in lines) / sum(line.duration for line in lines) * 60
    for name, used in rules.items():
        found = evaluate_segments({line.video: found_in(line, used) for line in lines}, truth)
        delay = found["delay"]
        cells = [
            *(digits(value, 3) for value in found["mean_average_precision"].values()),
            *(digits(value, 3) for value in found["f1"].values()),
            f"{found['frame_accuracy']:.1%}",
            f"{digits(delay['median'], 2)}, {digits(delay['90'], 2)} s",
            f"{delay['missed']} of {found['true_segments']}",
            f"{found['false_alarms_per_minute']:.2f}",
            f"{cost:.2f} s",
        ]
        print(f"| {model}, {mode} | {name} | {' | '.join(cells)} |", flush=True)


def digits(value: float | None, count: int) -> str:
    return "-" if value is None else f"{value:.{count}f}"


CHOSEN = {"thresholds chosen": ("threshold", "hysteresis"), "all chosen": tuple(GRIDS)}
HEAD = (
    "| model, mode | rules | mAP@0.3 | 0.5 | 0.7 | F1@0.3 | 0.5 | 0.7 | frame accuracy | delay, median, 90 % | "
    "not announced | false alarms a minute | a minute of video takes |\n" + "|---" * 13 + "|"
)


def main(args: Arguments) -> None:
    torch.set_num_threads(1)
    folder = Path(args.folder)
    write_sequences(folder / "sequences", size=args.size, seed=args.seed)
    train(folder, args)
    print(HEAD)
    for model, mode in (("causal", "stream"), ("causal", "windows"), ("two-sided", "windows")):
        measure(folder, model, mode)


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

"""How good are segments found in sequences of motions: by a causal stream, by windows, and what does each cost?

    python benchmarks/timeline.py --folder timeline_bench

Writes MotionBench's "sequences", trains the demo's small model on their clips with causal and with two-sided pairs,
chooses how scores become segments on the validation sequences, and prints what the test sequences say. What the folder
holds already is kept.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser, set_seed

from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli.demo import DemoOptions, accuracy, small_config, training_arguments
from transformers_ila.data.video_folder import VideoFolder, find_videos
from transformers_ila.motionbench.sequences import write_sequences


MODELS = ("causal", "two-sided")


@dataclass
class Arguments:
    folder: str = field(default="timeline_bench", metadata={"help": "for sequences, models and scores"})
    size: str = field(default="minute", metadata={"help": "of the sequences"})
    steps: int = field(default=2000, metadata={"help": "optimiser steps of each model"})
    seed: int = 0
    only_train: bool = False


def train(folder: Path, args: Arguments, causal: bool) -> Path:
    """Train one model on the clips, unless it is there; return its folder."""
    from transformers import Trainer

    place = folder / "models" / ("causal" if causal else "two-sided")
    if (place / "config.json").is_file():
        return place
    set_seed(args.seed)
    clips = folder / "sequences" / "clips"
    labels, training = find_videos(clips / "train")
    held_out = find_videos(clips / "val", labels=labels)[1]
    options = DemoOptions(output=str(folder), steps=args.steps, seed=args.seed)
    config = small_config(options, labels)
    config.vision_config.alignment_causal = causal
    model = IlaForVideoClassification(config)
    processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": 32})
    started = time.perf_counter()
    trainer = Trainer(
        model=model,
        args=training_arguments(options),
        train_dataset=VideoFolder(training, processor, keep=True),
        eval_dataset=VideoFolder(held_out, processor),
        processing_class=processor,
        compute_metrics=accuracy,
    )
    trainer.train()
    found = trainer.evaluate()["eval_accuracy"]
    print(
        f"{place.name}: {found:.1%} of {len(held_out)} held-out clips, trained {time.perf_counter() - started:.0f} s"
    )
    trainer.save_model(str(place))
    return place


def main(args: Arguments) -> None:
    torch.set_num_threads(1)
    folder = Path(args.folder)
    write_sequences(folder / "sequences", size=args.size, seed=args.seed)
    train(folder, args)


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

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


def train(folder: Path, args: Arguments) -> dict[str, Path]:
    """Train both models on the clips, unless they are there; return their folders."""
    from transformers import Trainer

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
        print(f"{name}: {found:.1%} of {len(held_out)} held-out clips, trained in {seconds:.0f} s", flush=True)
    return places


def main(args: Arguments) -> None:
    torch.set_num_threads(1)
    folder = Path(args.folder)
    write_sequences(folder / "sequences", size=args.size, seed=args.seed)
    train(folder, args)


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

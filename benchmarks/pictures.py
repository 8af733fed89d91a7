"""Make the pictures of docs/pictures.md: train four small models on the same videos, then `ila show` of each picture.

    python benchmarks/pictures.py --folder pictures --output docs/pictures

The models differ in what joins the frames (`MODELS`); each learns the eight plain motions of MotionBench from scratch,
a minute or two each on two cores. What the folder holds already is kept.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, set_seed

from transformers_ila import IlaForVideoClassification, IlaVideoProcessor
from transformers_ila.cli.demo import DemoOptions, accuracy, small_config, training_arguments
from transformers_ila.data.video_folder import VideoFolder, find_videos
from transformers_ila.motionbench.tasks import write_folder


SIDE, PATCH = 48, 8  # pixels: six by six patches
BATCH = 16  # videos
MODELS: dict[str, dict[str, Any]] = {  # name -> fields of IlaVisionConfig
    "ila": {"temporal_module": "ila"},
    "divided": {"temporal_module": "divided"},
    "ata": {"temporal_module": "ata"},
    "gta": {"temporal_module": "gta"},
}


@dataclass
class Arguments:
    folder: str = field(default="pictures", metadata={"help": "for videos and models"})
    output: str = field(default="docs/pictures", metadata={"help": "for the pictures"})
    videos: int = field(default=1600, metadata={"help": "to train on"})
    held_out: int = field(default=160, metadata={"help": "to test on"})
    steps: int = field(default=500, metadata={"help": "optimiser steps of each model"})
    seed: int = 0
    models: list[str] = field(default_factory=lambda: list(MODELS), metadata={"help": "that are trained"})


def train(folder: Path, args: Arguments) -> dict[str, Path]:
    """Train the models, unless they are there; return their folders."""
    from transformers import Trainer

    places = {name: folder / "models" / name for name in args.models}
    if all((place / "config.json").is_file() for place in places.values()):
        return places
    videos = folder / "videos"
    for seed, (split, count) in enumerate((("train", args.videos), ("held_out", args.held_out))):
        if not (videos / split).is_dir():
            write_folder(videos / split, count, seed=2 * args.seed + seed, size=SIDE)
    labels, training = find_videos(videos / "train")
    held_out = find_videos(videos / "held_out", labels=labels)[1]
    options = DemoOptions(output=str(folder / "runs"), steps=args.steps, batch_size=BATCH, seed=args.seed)
    sets = None
    for name, place in places.items():
        if (place / "config.json").is_file():
            continue
        set_seed(args.seed)
        config = small_config(options, labels)
        sizes = {"image_size": SIDE, "patch_size": PATCH, "alignment_causal": False}
        fields = {**config.vision_config.to_dict(), **sizes, **MODELS[name]}
        if name != "ila":  # whose fields have no effect in the others
            fields = {field: value for field, value in fields.items() if not field.startswith("alignment_")}
            config.alignment_loss_weight = 1.0
        config.vision_config = type(config.vision_config)(**fields)
        processor = IlaVideoProcessor.for_model(config, size={"shortest_edge": SIDE})
        sets = sets or [VideoFolder(samples, processor, keep=True) for samples in (training, held_out)]
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
        print(f"{name}: {found:.1%} of {len(held_out)} held-out videos, trained in {seconds:.0f} s", flush=True)
    return places


def main(args: Arguments) -> None:
    train(Path(args.folder), args)


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

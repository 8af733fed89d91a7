"""How fast do training clips come, by worker processes and by what travels (uint8 or float32)?

    python benchmarks/training_loader.py --videos FOLDER_OF_REAL_CLIPS

Eight frames of each clip, augmented as the Kinetics-400 recipes do it, mixed, 224 pixels, in batches of 8. "share for
the trainer" is the part of one core that the process which trains loses to it: its processor time over the time, the
normalising of bytes included, which on a GPU is the GPU's. Medians of the rounds; all settings take turns.
"""

import os
import time
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader
from transformers import HfArgumentParser

from transformers_ila import IlaConfig, IlaVideoProcessor
from transformers_ila.data.lists import VIDEO_SUFFIXES
from transformers_ila.data.samples import Annotations, Sample
from transformers_ila.training.augmentation import MixClips, MixingCollator
from transformers_ila.training.clips import ClipCollator, TrainingClips
from transformers_ila.training.recipes import RecipeArguments


CLASSES = [f"class {number}" for number in range(400)]


@dataclass
class Arguments:
    videos: str = field(metadata={"help": "folder of clips"})
    workers: list[int] = field(default_factory=lambda: [0, 1, 2])
    batches: int = field(default=12, metadata={"help": "of 8 clips, per round"})
    rounds: int = 3


def loader_of(
    files: list[Path], count: int, processor: IlaVideoProcessor, *, workers: int, normalise: bool
) -> DataLoader:
    samples = [Sample(str(files[number % len(files)]), (number % 400,), str(number)) for number in range(count)]
    recipe = RecipeArguments()  # its defaults are the Kinetics-400 recipes' numbers
    clips = TrainingClips(
        Annotations(samples, CLASSES, False, "benchmark", ""),
        processor,
        augment=recipe.augmentation(CLASSES, size=224),
        normalise=normalise,
    )
    collate = ClipCollator(MixingCollator(MixClips(400)))
    return DataLoader(clips, 8, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)


def measure(loader: DataLoader, processor: IlaVideoProcessor) -> tuple[float, float]:
    """Clips per second and the share of a core, with what a trainer on a CPU does to bytes."""
    clips, started, used = 0, time.perf_counter(), time.process_time()
    for batch in loader:
        clips += len(batch["labels"])
        if batch["pixel_values"].dtype == torch.uint8:
            processor.normalize_on("cpu", batch["pixel_values"])
    seconds = time.perf_counter() - started
    return clips / seconds, (time.process_time() - used) / seconds


def main(args: Arguments) -> None:
    files = sorted(file for file in Path(args.videos).iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise SystemExit(f"No videos in {args.videos!r}.")
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {len(files)} files.\n")
    torch.set_num_threads(1)  # as in a loader's workers
    settings = list(product(args.workers, (False, True)))
    processor, count = IlaVideoProcessor.for_model(IlaConfig.from_clip_size("B/16", num_frames=8)), 8 * args.batches
    loaders = {s: loader_of(files, count, processor, workers=s[0], normalise=s[1]) for s in settings}
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {setting: [] for setting in settings}
    for number in range(args.rounds + 1):
        for setting, loader in loaders.items():
            result = measure(loader, processor)
            if number:  # workers start in the first one
                found[setting].append(result)
    print("| workers | what travels | clips/s | share for the trainer |\n|---|---|---|---|")
    for (workers, normalise), results in found.items():
        rate, share = (median(values) for values in zip(*results))
        print(f"| {workers} | {'float32' if normalise else 'uint8'} | {rate:.1f} | {share:.0%} |")


if __name__ == "__main__":
    main(*HfArgumentParser(Arguments).parse_args_into_dataclasses())

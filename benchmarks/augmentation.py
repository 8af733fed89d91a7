"""What training augmentation costs a data worker, beside the plain path and torchvision's own transforms, in one run.

    python benchmarks/augmentation.py [--clips 200] [--height 256] [--width 340]

One clip of eight frames as the reader gives it, to what the model takes: 8 x 3 x 224 x 224, normalised. One thread, in
turns; milliseconds of processor time, so that other programs matter little: mean, and the slowest twentieth, of as
many random draws as there are clips. "torchvision" is the same kind of augmentation from its transform classes.
"""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torchvision
from torchvision.transforms import v2
from transformers import HfArgumentParser

from transformers_ila import IlaVideoProcessor
from transformers_ila.training.augmentation import ClipAugmentation, MixClips, clip_generator


@dataclass
class Arguments:
    """clips: how many are drawn. height, width: of the frames, in pixels."""

    clips: int = field(default=200)
    height: int = field(default=256)
    width: int = field(default=340)


def normalise(frames: torch.Tensor) -> torch.Tensor:
    plain = {"do_sample_frames": False, "do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    return IlaVideoProcessor()(frames, **plain)["pixel_values"][0]


def with_torchvision() -> Callable[[torch.Tensor], torch.Tensor]:
    jitter = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    crop = v2.RandomResizedCrop(224, scale=(0.33, 0.75), ratio=(0.75, 1.33))  # areas near MultiScaleCrop's
    return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(0.2)])


def steps(frames: torch.Tensor) -> dict[str, Callable[[int], object]]:
    """Name -> what is done to clip number `index`."""
    table_14 = ClipAugmentation()
    geometry = ClipAugmentation(jitter=0.0, grayscale=0.0)
    more = ClipAugmentation(rand_augment=2, erasing=0.25)
    reference = with_torchvision()
    crop = frames[..., :224, :224].contiguous()
    return {
        "resize, centre crop, normalise": lambda index: IlaVideoProcessor()(frames, return_tensors="pt"),
        "normalise alone": lambda index: normalise(crop),
        "crop and flip, normalise": lambda index: normalise(geometry(frames, clip_generator(0, 0, index))),
        "Table 14, normalise": lambda index: normalise(table_14(frames, clip_generator(0, 0, index))),
        "torchvision, normalise": lambda index: normalise(reference(frames)),
        "Table 14, RandAugment 2, erasing, normalise": lambda index: normalise(
            more(frames, clip_generator(0, 0, index))
        ),
    }


def mixing(batch_size: int = 8) -> dict[str, Callable[[int], object]]:
    batch = {"pixel_values": torch.randn(batch_size, 8, 3, 224, 224), "labels": torch.arange(batch_size)}
    mixes = {"Mixup": MixClips(400, cutmix=0), "CutMix": MixClips(400, mixup=0)}
    return {
        f"{name}, per clip of {batch_size}": lambda index, mix=mix: mix(batch, clip_generator(0, 0, index))
        for name, mix in mixes.items()
    }


def milliseconds(work: dict[str, Callable[[int], object]], rounds: int) -> dict[str, list[float]]:
    """Of processor time, all steps in turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for index in range(-1, rounds):
        for name, step in work.items():
            start = time.process_time()
            step(index)
            times[name].append(1000 * (time.process_time() - start))
    return {name: values[1:] for name, values in times.items()}


def main(arguments: Arguments) -> None:
    torch.set_num_threads(1)
    frames = torch.randint(0, 256, (8, arguments.height, arguments.width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    clips = milliseconds(steps(frames), arguments.clips)
    batches = {
        name: [value / 8 for value in values] for name, values in milliseconds(mixing(), arguments.clips // 8).items()
    }
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}; {os.cpu_count()} cores\n")
    print(f"| 8 frames {arguments.height} x {arguments.width} | mean, ms | slowest twentieth, ms |\n|---|---|---|")
    for name, values in {**clips, **batches}.items():
        print(f"| {name} | {statistics.mean(values):.1f} | {statistics.quantiles(values, n=20)[-1]:.1f} |")


if __name__ == "__main__":
    main(HfArgumentParser(Arguments).parse_args_into_dataclasses()[0])

"""Training augmentation of the paper's Table 14: one draw per clip, the same for all its frames.

What is unusual here:
- every random number comes from the `torch.Generator` that is passed in, so a clip's augmentation depends on (seed,
  epoch, index) alone, not on worker, rank or order; torch's global generator is neither read nor moved;
- frames stay uint8 from the reader to the processor, colours are changed in float32 and rounded once;
- mixing happens in the training loader only, and gives soft labels, which `IlaForVideoClassification` takes.

How they meet, in a training data set and its loader:

```python
generator = clip_generator(seed, epoch, index)
rule = partial(segment_indices, num_frames=8, random=True, generator=generator)
frames, _ = read_video(path, lambda total: rule(total).tolist())  # (T, H, W, C)
clip = augment(torch.from_numpy(frames).permute(0, 3, 1, 2), generator)  # (T, C, size, size)
pixel_values = processor(
    clip, input_data_format="channels_first", do_sample_frames=False, do_resize=False, do_center_crop=False,
    return_tensors="pt",
)["pixel_values"][0]
item = {"pixel_values": pixel_values, "labels": label, "clip_seed": clip_seed(seed, epoch, index)}
DataLoader(..., collate_fn=MixingCollator(MixClips(num_classes)))
```

Where the paper gives a bare number ("ColorJitter 0.8", "MultiScaleCrop (1, 0.875, 0.75, 0.66)"), the rest is what
X-CLIP's public training code sets: jitter with probability 0.8 and strengths 0.4, 0.4, 0.2, 0.1; crops at corners and
centre, sides at most one scale apart (TSN's rule); Mixup or CutMix with equal odds. One draw serves the whole clip.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from operator import index as as_integer
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvF
from transformers import default_data_collator
from transformers.utils import logging

from ..model.targets_ila import is_integer


logger = logging.get_logger(__name__)


# -- seeds -----------------------------------------------------------------------------------------------------------


def clip_seed(seed: int, epoch: int, index: int, attempt: int = 0) -> int:
    """Return a well mixed number in [0, 2**63) for one reading of one clip, the same on every machine.

    Args:
        seed: the run's.
        epoch, index: which pass over the data, and the clip's place in the data set (not in the sampler's order).
        attempt: counts up when the clip is drawn again, as after a video that could not be read.
    """
    return _mixed("clip", seed, epoch, index, attempt)


def clip_generator(seed: int, epoch: int, index: int, attempt: int = 0) -> torch.Generator:
    """Return the CPU generator of all random choices for one reading of one clip; arguments as in `clip_seed`."""
    return torch.Generator().manual_seed(clip_seed(seed, epoch, index, attempt))


def _mixed(*parts: str | int) -> int:
    text = ",".join(part if isinstance(part, str) else str(as_integer(part)) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1  # an int64, if it need be one


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def _chance(generator: torch.Generator, probability: float) -> bool:
    return _uniform(generator) < probability


def _choice(generator: torch.Generator, number: int) -> int:
    return int(torch.randint(number, (), generator=generator))


# -- clips -----------------------------------------------------------------------------------------------------------

MIRRORED_WORDS = re.compile(r"(left|right)(wards?|most|hand(ed)?)?|(anti|counter)?clockwise")
CORNERS = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]  # (top, left) in quarters of the free room; the centre is the last
QUARTERS = [(2, 0), (2, 4), (4, 2), (0, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
CROP_POSITIONS = {5: CORNERS, 13: CORNERS + QUARTERS}


def names_left_or_right(class_names: Iterable[str]) -> bool:
    """Return whether a class changes its meaning in a mirror: "left", "right" or "clockwise" is a word of its name.

    Words end at spaces, punctuation, underscores and inner capitals: "pulling from left to right", "swipe_left" and
    "TurnRight" name a side, "upright" does not.
    """
    words = (word for name in class_names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))
    return any(MIRRORED_WORDS.fullmatch(word.lower()) for word in words)


@dataclass(frozen=True)
class ClipAugmentation:
    """Crop, flip and recolour a training clip at random; what is drawn applies to all its frames.

    Call it with frames (T, 3, H, W) uint8 RGB, of any size, and a CPU generator; it returns (T, 3, size, size) uint8.

    size: side of the result in pixels.
    scales, max_distort: MultiScaleCrop of TSN; height and width are each one of `scales` times the frame's short side,
        with at most `max_distort` steps between their places in the list.
    crop_positions: 5 (corners and centre, as in X-CLIP), 13 (as in TSN), or None for anywhere in the frame.
    interpolation: "bilinear" or "bicubic"; both with antialiasing.
    flip: probability of a mirror image; see `for_classes`.
    jitter: probability of changing brightness, contrast, saturation and hue, in random order, by factors from
        [1 - strength, 1 + strength]; the hue turns by up to `hue` of a circle.
    grayscale: probability of grey frames.
    rand_augment, rand_augment_magnitude: number of RandAugment's operations (usual: 2; off: 0), and how strong they
        are, from 0 to 30; operations and ranges are torchvision's.
    erasing, erasing_area: probability of erasing a box, and the range of its share of the frame; its aspect ratio is
        log-uniform from 0.3 to 1 / 0.3.
    fill: RGB of what is erased or comes in from outside; CLIP's mean colour, near zero once normalised.

    Raises:
        ValueError: a number out of its range, or frames of another shape or dtype.
    """

    size: int = 224
    scales: Sequence[float] = (1, 0.875, 0.75, 0.66)
    max_distort: int = 1
    crop_positions: int | None = 5
    interpolation: str = "bilinear"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    rand_augment: int = 0
    rand_augment_magnitude: float = 9
    erasing: float = 0.0
    erasing_area: Sequence[float] = (0.02, 1 / 3)
    fill: Sequence[int] = (123, 117, 104)

    def __post_init__(self) -> None:
        if self.flip == "auto":
            raise ValueError("flip='auto' needs the class names: use ClipAugmentation.for_classes(names, ...).")
        for name, (is_good, allowed) in NUMBERS.items():
            if not is_good(getattr(self, name)):
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}.")

    @classmethod
    def for_classes(
        cls, class_names: Iterable[str], *, flip: float | Literal["auto"] = "auto", **numbers: Any
    ) -> "ClipAugmentation":
        """Return an augmentation that mirrors no clip where a class name tells left from right (`flip="auto"`).

        Otherwise "auto" is 0.5, as for Kinetics; Something-Something V2 gets 0.
        """
        if flip == "auto":
            flip = 0.0 if names_left_or_right(class_names) else cls.flip
            logger.info(f"Clips are mirrored with probability {flip}.")
        return cls(flip=flip, **numbers)

    def __call__(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        _check_frames(frames)
        frames = self._crop(frames, generator)
        if _chance(generator, self.flip):
            frames = frames.flip(-1)
        for _ in range(self.rand_augment):
            frames = self._rand_augment(frames, generator)
        frames = self._recolour(frames, generator)
        if _chance(generator, self.erasing):
            frames = self._erase(frames, generator)
        return frames.contiguous()

    def _crop(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Crop by MultiScaleCrop and resize to (T, C, size, size)."""
        top, left, height, width = self._draw_crop(frames.shape[-2], frames.shape[-1], generator)
        crop = frames[..., top : top + height, left : left + width]
        return tvF.resize(crop, [self.size, self.size], InterpolationMode(self.interpolation), antialias=True)

    def _draw_crop(self, height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of the crop of a (height, width) frame."""
        sides = [max(int(min(height, width) * scale), 1) for scale in self.scales]
        places = range(len(sides))
        pairs = [(sides[i], sides[j]) for i in places for j in places if abs(i - j) <= self.max_distort]
        crop_height, crop_width = pairs[_choice(generator, len(pairs))]
        free_height, free_width = height - crop_height, width - crop_width
        if self.crop_positions is None:
            top, left = _choice(generator, free_height + 1), _choice(generator, free_width + 1)
        else:
            positions = CROP_POSITIONS[self.crop_positions]
            down, right = positions[_choice(generator, len(positions))]
            top, left = free_height * down // 4, free_width * right // 4
        return top, left, crop_height, crop_width

    def _rand_augment(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        operation = RAND_AUGMENT[list(RAND_AUGMENT)[_choice(generator, len(RAND_AUGMENT))]]
        sign = 1 if _chance(generator, 0.5) else -1
        return operation(frames, sign * self.rand_augment_magnitude / 30, list(map(float, self.fill)))

    def _recolour(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Jitter the colours and make frames grey, each if drawn: uint8 to uint8."""
        jitters, greys = _chance(generator, self.jitter), _chance(generator, self.grayscale)
        if not jitters and not greys:
            return frames
        # the reader's frames are channels-last, colours are several times faster channel by channel
        frames = frames.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        if jitters:
            frames = self._jitter(frames, generator)
        if greys:
            frames = tvF.rgb_to_grayscale(frames, num_output_channels=3)
        return frames.mul(255).round_().to(torch.uint8)

    def _jitter(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Jitter the colours of frames in [0, 1]. Contrast changes around each frame's own mean, as in torchvision."""

        def factor(strength: float) -> float:
            return _uniform(generator, max(0.0, 1 - strength), 1 + strength)

        changes: list[Callable[[torch.Tensor], torch.Tensor]] = [
            partial(tvF.adjust_brightness, brightness_factor=factor(self.brightness)),
            partial(tvF.adjust_contrast, contrast_factor=factor(self.contrast)),
            partial(tvF.adjust_saturation, saturation_factor=factor(self.saturation)),
            partial(turn_hue, turns=_uniform(generator, -self.hue, self.hue)),
        ]
        for place in torch.randperm(len(changes), generator=generator).tolist():
            frames = changes[place](frames)
        return frames

    def _erase(self, frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Erase one box, the same in all frames."""
        area = _uniform(generator, *self.erasing_area) * self.size**2
        ratio = math.exp(_uniform(generator, math.log(0.3), -math.log(0.3)))
        height = min(max(round(math.sqrt(area * ratio)), 1), self.size)
        width = min(max(round(math.sqrt(area / ratio)), 1), self.size)
        top = _choice(generator, self.size - height + 1)
        left = _choice(generator, self.size - width + 1)
        colour = torch.tensor(self.fill, dtype=torch.uint8, device=frames.device).view(3, 1, 1)
        return tvF.erase(frames, top, left, height, width, colour)


def turn_hue(frames: torch.Tensor, *, turns: float) -> torch.Tensor:
    """Turn the hue of RGB frames (..., 3, H, W) in [0, 1], a full circle being 1.

    What `torchvision.transforms.v2.functional.adjust_hue` computes, in a quarter of its time: the largest and the
    smallest channel stay, so only the hue is needed, and each channel is a ramp over it.
    """
    red, green, blue = frames.unbind(-3)
    low, high = frames.amin(-3), frames.amax(-3)
    spread = high - low
    divisor = spread.clamp(min=1e-6)  # of grey pixels, whose hue has no effect
    from_green = torch.where(high == green, (blue - red).div_(divisor).add_(2), (red - green).div_(divisor).add_(4))
    hue = torch.where(high == red, (green - blue).div_(divisor), from_green)  # red at 0, green at 2, blue at 4 of 6
    hue.add_(6 * turns).remainder_(6)
    ramps = [(hue - 3).abs_().sub_(1), (hue - 2).abs_().neg_().add_(2), (hue - 4).abs_().neg_().add_(2)]
    return torch.stack(ramps, dim=-3).clamp_(0, 1).mul_(spread.unsqueeze(-3)).add_(low.unsqueeze(-3))


def _shear(frames: torch.Tensor, fill: list[float], slopes: tuple[float, float]) -> torch.Tensor:
    """Shear from the top left corner, by slopes along x and y."""
    degrees = [math.degrees(math.atan(slope)) for slope in slopes]
    return tvF.affine(frames, 0.0, [0, 0], 1.0, degrees, InterpolationMode.BILINEAR, fill=fill, center=[0.0, 0.0])


def _shift(frames: torch.Tensor, fill: list[float], shares: tuple[float, float]) -> torch.Tensor:
    """Shift by shares of the width and of the height, rounded to whole pixels."""
    pixels = [float(int(share * side)) for share, side in zip(shares, (frames.shape[-1], frames.shape[-2]))]
    return tvF.affine(frames, 0.0, pixels, 1.0, [0.0, 0.0], fill=fill)


# operation(frames, level, fill); level is in [-1, 1], and where its sign has no meaning its size is taken
RAND_AUGMENT: dict[str, Callable[[torch.Tensor, float, list[float]], torch.Tensor]] = {
    "Identity": lambda frames, level, fill: frames,
    "ShearX": lambda frames, level, fill: _shear(frames, fill, (0.3 * level, 0)),
    "ShearY": lambda frames, level, fill: _shear(frames, fill, (0, 0.3 * level)),
    "TranslateX": lambda frames, level, fill: _shift(frames, fill, (150 / 331 * level, 0)),
    "TranslateY": lambda frames, level, fill: _shift(frames, fill, (0, 150 / 331 * level)),
    "Rotate": lambda frames, level, fill: tvF.rotate(frames, 30 * level, InterpolationMode.BILINEAR, fill=fill),
    "Brightness": lambda frames, level, fill: tvF.adjust_brightness(frames, 1 + 0.9 * level),
    "Color": lambda frames, level, fill: tvF.adjust_saturation(frames, 1 + 0.9 * level),
    "Contrast": lambda frames, level, fill: tvF.adjust_contrast(frames, 1 + 0.9 * level),
    "Sharpness": lambda frames, level, fill: tvF.adjust_sharpness(frames, 1 + 0.9 * level),
    "Posterize": lambda frames, level, fill: tvF.posterize(frames, round(8 - 4 * abs(level))),
    "Solarize": lambda frames, level, fill: tvF.solarize(frames, 255 * (1 - abs(level))),
    "AutoContrast": lambda frames, level, fill: tvF.autocontrast(frames),
    "Equalize": lambda frames, level, fill: tvF.equalize(frames),
}


# -- batches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixClips:
    """Mix every clip of a training batch with another one by mixup or CutMix, and smooth the labels.

    Call it with a batch and a CPU generator. `pixel_values` (B, T, C, H, W) floating point, as normalised, or uint8,
    which mixup computes in float32 and rounds once; `labels` (B,) class indices, or (B, K) probabilities or several
    labels from 0 to 1. It returns the batch with new `pixel_values` and with float32 labels (B, K), and changes
    nothing in place. A batch of one is smoothed only.

    As timm does per batch, one draw decides which of the two, how much, and where the box is: the same for all clips
    and all their frames. CutMix weights the labels by the area the box really has, inside the frame.

    num_classes: K.
    mixup, cutmix: both parameters of the Beta distribution of the share that a clip keeps; 0 turns it off.
    switch: probability of CutMix where both are on.
    smoothing: share of every label that is spread evenly over all classes; then leave `IlaConfig.label_smoothing` at
        0, as the two add up. Smoothing by either gives the same loss.

    Raises:
        ValueError: a number out of its range, or a batch of other shapes, dtypes or classes.
    """

    num_classes: int
    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        for name, (is_good, allowed) in MIXING_NUMBERS.items():
            if not is_good(getattr(self, name)):
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)!r}.")

    def __call__(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        clips, labels = batch["pixel_values"], batch["labels"]
        _check_clips(clips)
        labels = self._soft(labels, len(clips))
        if len(clips) > 1 and (self.mixup or self.cutmix):
            clips, labels = self._mix(clips, labels, generator)
        return {**batch, "pixel_values": clips, "labels": labels}

    def _soft(self, labels: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Return labels as smoothed probabilities, (B, K) float32."""
        _check_labels(labels, batch_size, self.num_classes)
        if labels.ndim == 1:
            labels = F.one_hot(labels.long(), self.num_classes)
        return labels.to(torch.float32) * (1 - self.smoothing) + self.smoothing / self.num_classes

    def _mix(
        self, clips: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cuts = _chance(generator, self.switch) if self.mixup and self.cutmix else self.cutmix > 0
        share = _beta(generator, self.cutmix if cuts else self.mixup)
        partner = torch.randperm(len(clips), generator=generator).to(clips.device)
        if cuts:
            height, width = clips.shape[-2:]
            rows, columns = _cut_box(height, width, share, generator)
            other, clips = clips[partner, ..., rows, columns], clips.clone()
            share = 1 - other[0, 0, 0].numel() / (height * width)
            clips[..., rows, columns] = other
        else:
            mixed = clips if clips.is_floating_point() else clips.float()
            mixed = mixed.lerp(mixed[partner], 1 - share)
            clips = mixed if clips.is_floating_point() else mixed.round_().to(clips.dtype)
        return clips, labels.lerp(labels[partner.to(labels.device)], 1 - share)


def _beta(generator: torch.Generator, alpha: float) -> float:
    """Draw from Beta(alpha, alpha); torch's own takes no generator."""
    return float(np.random.default_rng(_choice(generator, 2**62)).beta(alpha, alpha))


def _cut_box(height: int, width: int, share: float, generator: torch.Generator) -> tuple[slice, slice]:
    """Return rows and columns of a box of 1 - share of the area around a random pixel, cut at the frame's edge."""
    sides = []
    for side in (height, width):
        half, centre = int(side * math.sqrt(1 - share)) // 2, _choice(generator, side)
        sides.append(slice(max(centre - half, 0), min(centre + half, side)))
    return sides[0], sides[1]


@dataclass(frozen=True)
class MixingCollator:
    """Make a mixed batch of items, in the training loader only.

    Items carry "clip_seed" (`clip_seed`) beside what `collate` takes. What is drawn for a batch follows from the
    seeds of its items, so a resumed run, or another number of workers, mixes the same.

    Raises:
        ValueError: items without "clip_seed".
    """

    mix: MixClips
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]] = default_data_collator

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        if not all("clip_seed" in item for item in items):
            raise ValueError(
                f"Items must carry 'clip_seed', got {sorted(items[0])}: have the data set add it, and set "
                "remove_unused_columns=False in the TrainingArguments, which else drop it."
            )
        seeds = [item["clip_seed"] for item in items]
        batch = self.collate([{key: item[key] for key in item if key != "clip_seed"} for item in items])
        return self.mix(batch, torch.Generator().manual_seed(_mixed("mix", *seeds)))


# -- what is allowed -------------------------------------------------------------------------------------------------


def _is_number(value: Any, low: float, high: float = math.inf) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_integer(value: Any, low: int) -> bool:
    return isinstance(value, int) and _is_number(value, low)


def _are_numbers(values: Any, low: float, high: float) -> bool:
    return isinstance(values, (tuple, list)) and len(values) > 0 and all(_is_number(v, low, high) for v in values)


Rules = dict[str, tuple[Callable[[Any], bool], str]]  # number -> (is it good?, what is allowed)
PROBABILITY: tuple[Callable[[Any], bool], str] = (lambda v: _is_number(v, 0, 1), "a probability from 0 to 1")
STRENGTH: tuple[Callable[[Any], bool], str] = (lambda v: _is_number(v, 0, math.inf), "a number of at least 0")
NUMBERS: Rules = {
    "size": (lambda v: _is_integer(v, 1), "an integer of at least 1"),
    "scales": (lambda v: _are_numbers(v, 0, 1) and min(v) > 0, "numbers above 0, up to 1"),
    "max_distort": (lambda v: _is_integer(v, 0), "an integer of at least 0"),
    "crop_positions": (lambda v: v is None or v in CROP_POSITIONS, "5, 13, or None for anywhere"),
    "interpolation": (lambda v: v in ("bilinear", "bicubic"), "'bilinear' or 'bicubic'"),
    **dict.fromkeys(("flip", "jitter", "grayscale", "erasing"), PROBABILITY),
    **dict.fromkeys(("brightness", "contrast", "saturation"), STRENGTH),
    "hue": (lambda v: _is_number(v, 0, 0.5), "a number from 0 to 0.5"),
    "rand_augment": (lambda v: _is_integer(v, 0), "an integer of at least 0"),
    "rand_augment_magnitude": (lambda v: _is_number(v, 0, 30), "a number from 0 to 30"),
    "erasing_area": (
        lambda v: _are_numbers(v, 0, 1) and len(v) == 2 and v[0] <= v[1],
        "two ascending shares up to 1",
    ),
    "fill": (lambda v: _are_numbers(v, 0, 255) and len(v) == 3, "three numbers from 0 to 255"),
}
MIXING_NUMBERS: Rules = {
    "num_classes": (lambda v: _is_integer(v, 1), "an integer of at least 1"),
    **dict.fromkeys(("mixup", "cutmix"), STRENGTH),
    **dict.fromkeys(("switch", "smoothing"), PROBABILITY),
}


def _check_frames(frames: torch.Tensor) -> None:
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or 0 in frames.shape:
        found = f"{tuple(frames.shape)} of {frames.dtype}"
        raise ValueError(f"Frames must be (T, 3, H, W) of torch.uint8, got {found}: augment before normalising.")


def _check_clips(clips: torch.Tensor) -> None:
    if clips.ndim != 5 or not (clips.is_floating_point() or clips.dtype == torch.uint8):
        found = f"{tuple(clips.shape)} of {clips.dtype}"
        raise ValueError(f"pixel_values must be (B, T, C, H, W) of floating point or torch.uint8, got {found}.")


def _check_labels(labels: torch.Tensor, batch_size: int, num_classes: int) -> None:
    indices = labels.ndim == 1 and is_integer(labels.dtype)
    if tuple(labels.shape) != ((batch_size,) if indices else (batch_size, num_classes)):
        allowed = f"class indices ({batch_size},) or probabilities {(batch_size, num_classes)}"
        raise ValueError(f"labels must be {allowed}, got {tuple(labels.shape)} of {labels.dtype}.")
    low, high = labels.min(), labels.max()
    if not (low >= 0 and high <= (num_classes - 1 if indices else 1)):  # nor are these NaN
        allowed = f"0 to {num_classes - 1}" if indices else "probabilities from 0 to 1"
        raise ValueError(f"labels must be {allowed}, got values from {low.item()} to {high.item()}.")

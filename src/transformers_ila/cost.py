"""What a model costs: parameters, multiply-accumulates and how they grow, seconds and memory."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForVideoClassification

from .model.configuration_ila import IlaConfig
from .model.temporal_ila import aligned_routes


# -- what modules cost -----------------------------------------------------------------------------------------------


class Growth(NamedTuple):
    """Hold a temporal module's own GMACs, and the exponents with which they grow with frames and with patches."""

    gmacs: float
    frames_exponent: float
    patches_exponent: float


def module_gmacs(config: IlaConfig) -> float:
    """Return the giga multiply-accumulates that the temporal module adds to plain frames with the same head."""
    plain = IlaConfig.from_dict({**config.to_dict(), "temporal_module": "none"})
    return count(config).gmacs - count(plain).gmacs


def growth(config: IlaConfig, *, frames: Sequence[int] = (16, 32, 64), grids: Sequence[int] = (14, 20, 28)) -> Growth:
    """Measure how a temporal module's cost grows with the number of frames and of patches (the paper's Table 15).

    frames: numbers of frames. grids: sides of the square grid of patches.

    The exponents are slopes of the logarithms over the given range, not the limits that the table states: where a
    module costs T^2 + T, they lie between 1 and 2. Matching (ATA) multiplies nothing and is not in them.
    """
    patch = config.vision_config.patch_size

    def cost(**fields: int) -> float:
        return module_gmacs(IlaConfig.from_dict({**config.to_dict(), **fields}))

    in_frames = fitted_exponent(frames, [cost(num_frames=number) for number in frames])
    in_patches = fitted_exponent([side * side for side in grids], [cost(image_size=side * patch) for side in grids])
    return Growth(module_gmacs(config), in_frames, in_patches)


def matching_exponents(
    *, frames: Sequence[int] = (8, 16, 32), patches: Sequence[int] = (196, 400, 784), rounds: int = 3
) -> tuple[float, float]:
    """Measure how the seconds of ATA's matching, which multiplies nothing, grow with frames and with patches (h w).

    Table 15 has T h^3 w^3, the Hungarian method's worst case. Features are random; times are medians of `rounds`.

    Returns:
        The exponents in frames and in patches.
    """

    def seconds(num_frames: int, num_patches: int) -> float:
        features = torch.randn(1, num_frames, num_patches, 64, generator=torch.Generator().manual_seed(0))
        return median_times([lambda: aligned_routes(features)], rounds=rounds, device=torch.device("cpu"))[0]

    in_frames = fitted_exponent([number - 1 for number in frames], [seconds(number, patches[0]) for number in frames])
    return in_frames, fitted_exponent(patches, [seconds(frames[0], number) for number in patches])


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size by least squares; nan where something costs nothing.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(sizes) < 2 or len(sizes) != len(costs):
        raise ValueError(f"An exponent needs two sizes or more with a cost each, got {len(sizes)} and {len(costs)}.")
    if min(costs) <= 0:
        return math.nan
    x, y = ([math.log(value) for value in values] for values in (sizes, costs))
    return statistics.linear_regression(x, y).slope


class Cost(NamedTuple):
    """Hold what a model costs for one clip.

    gmacs, parameters (millions): as in `Complexity`. milliseconds: of a forward pass, the median. times_plain: that
    time over the time of plain frames, measured in turns. memory: MiB that a training step keeps for its backward
    pass, weights not counted.
    """

    gmacs: float
    parameters: float
    milliseconds: float
    times_plain: float
    memory: float


def cost(config: Any, *, rounds: int = 5, device: str | torch.device = "cpu") -> Cost:
    """Measure a model with random weights on one random clip; the classes' text features are computed before."""
    complexity, side = count(config), image_size_of(config)
    is_plain = not hasattr(getattr(config, "vision_config", config), "temporal_module")  # as SigLIP is
    plain = config if is_plain else type(config).from_dict({**config.to_dict(), "temporal_module": "none"})
    clip = torch.randn(1, config.num_frames, 3, side, side, device=device)
    build = AutoModelForVideoClassification.from_config
    model, beside = (build(one).eval().to(device) for one in (config, plain))
    with torch.no_grad():
        calls = [lambda: model(clip), lambda: beside(clip)]
        own, others = median_times(calls, rounds=rounds, device=torch.device(device))
    memory = kept_for_backward(model.train(), clip)
    return Cost(complexity.gmacs, complexity.parameters, own * 1000, own / others, memory)


def median_times(calls: Sequence[Callable[[], Any]], *, rounds: int, device: torch.device) -> list[float]:
    """Return the median seconds of each call, measured by `times_in_turns`."""
    return [statistics.median(own) for own in times_in_turns(calls, rounds=rounds, device=device)]


def times_in_turns(
    calls: Sequence[Callable[[], Any]],
    *,
    rounds: int,
    device: torch.device,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Call all in turns, each round beginning with another one, and return the seconds of each call in each round.

    The first `warmup` rounds do not count.
    """
    times: list[list[float]] = [[] for _ in calls]
    for number in range(warmup + rounds):
        for place in range(len(calls)):
            index = (number + place) % len(calls)
            started = clock()
            calls[index]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= warmup:
                times[index].append(clock() - started)
    return times


def kept_for_backward(model: nn.Module, pixel_values: torch.Tensor) -> float:
    """Return the MiB that autograd keeps of one forward pass: different storages, without weights and input."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), pixel_values)}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(pixel_values).logits  # what is kept lives as long as this
    del logits
    return sum(kept.values()) / 2**20


class Complexity(NamedTuple):
    """Hold how much a model computes and how many parameters it has.

    gmacs: giga multiply-accumulates of one view, class features computed before, prompt generator included (as the
    paper's "FLOPs"). parameters: millions, without the text tower. text_parameters: millions of the text tower, 0
    where it was merged.
    """

    gmacs: float
    parameters: float
    text_parameters: float


def count(config: Any) -> Complexity:
    """Count operations and parameters of a classifier of this package on the meta device, by torch's flop counter."""
    config = copy.deepcopy(config)
    if getattr(config, "has_text_tower", False):
        config.class_features = "embeddings"  # as if they had been computed once
    with torch.device("meta"):
        model = AutoModelForVideoClassification.from_config(config).eval()
    is_text = ("text_model.", "text_projection.")
    text = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith(is_text))
    total = sum(weight.numel() for weight in model.parameters())
    gmacs = count_gmacs(model, config.num_frames, image_size_of(config))
    return Complexity(gmacs, (total - text) / 1e6, text / 1e6)


def image_size_of(config: Any) -> int:
    """Return the side, in pixels, of the square frames that a model's cost is counted for."""
    return getattr(config, "image_size", None) or config.vision_config.image_size


def count_gmacs(model: nn.Module, num_frames: int, image_size: int) -> float:
    """Return the giga multiply-accumulates of one clip, of a video model on the meta device."""
    pixel_values = torch.zeros(1, num_frames, 3, image_size, image_size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(pixel_values)
    return counter.get_total_flops() / 2e9

"""What frames share and what modules cost: mutual information of neighbouring frames, growth of cost, latency.

The papers name two measures of what neighbouring frames share and define neither to the last detail; here is the
exact definition of each, as it is computed:

- `transport_distance` (ILA's Table 5, "MI (EMD)", lower is more): the Wasserstein-1 distance between the patches of
  two neighbouring frames in the last layer, every patch the same mass, the cost of moving mass the Euclidean distance
  of the features scaled to length 1. For equal masses the best plan is a one-to-one matching, so it is exact.
- `shared_information` (ATA's Table 4, higher is more): H(X_t) - H(X_t | X_t-1) in nats, with p(x_j) = 1 / N (Eq. 11
  there) and, where its paper leaves p(x_j | x_i) open, the softmax over j of the cosines over a temperature.

Shapes: `B` videos, `T` frames, `N` patches, `D` width.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from .complexity import count
from .configuration_ila import IlaConfig
from .modeling_ila import IlaForVideoClassification
from .temporal_ila import aligned_routes


TEMPERATURE = 0.1  # of `shared_information`


# -- what neighbouring frames share ----------------------------------------------------------------------------------


def transport_distance(patches: torch.Tensor) -> torch.Tensor:
    """Wasserstein-1 distance of neighbouring frames: (B, T, N, D) -> (B, T-1), from 0 to 2."""
    unit = F.normalize(patches.double(), dim=-1)
    costs = torch.cdist(unit[:, :-1], unit[:, 1:]).cpu()  # (B, T-1, N, N)
    distances = [_cheapest(cost) for cost in costs.flatten(0, 1)]
    return torch.tensor(distances, dtype=torch.float64).unflatten(0, costs.shape[:2])


def _cheapest(cost: torch.Tensor) -> float:
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean())


def shared_information(patches: torch.Tensor, *, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Mutual information of neighbouring frames: (B, T, N, D) -> (B, T-1), from 0 to log N nats.

    Raises:
        ValueError: a temperature of 0 or less.
    """
    if temperature <= 0:
        raise ValueError(f"`temperature` must be more than 0, got {temperature}.")
    unit = F.normalize(patches.double(), dim=-1)
    logs = (unit[:, :-1] @ unit[:, 1:].mT / temperature).log_softmax(-1)  # (B, T-1, N, N): of x_j, given x_i
    conditional = -(logs.exp() * logs).sum(-1).mean(-1)
    return math.log(patches.shape[2]) - conditional


@torch.no_grad()
def last_patches(model: IlaForVideoClassification, pixel_values: torch.Tensor) -> torch.Tensor:
    """Patch features of the tower's last layer: (B, T, C, H, W) -> (B, T, N, D)."""
    return model.vision_model(pixel_values).last_hidden_state[:, :, 1:]


# -- what modules cost -----------------------------------------------------------------------------------------------


class Growth(NamedTuple):
    """GMACs of a temporal module alone, and the exponents with which they grow with frames and with patches."""

    gmacs: float
    frames_exponent: float
    patches_exponent: float


def module_gmacs(config: IlaConfig) -> float:
    """Multiply-accumulates (giga) that the temporal module adds to plain frames with the same head."""
    plain = IlaConfig.from_dict({**config.to_dict(), "temporal_module": "none"})
    return count(config).gmacs - count(plain).gmacs


def growth(config: IlaConfig, *, frames: Sequence[int] = (16, 32, 64), grids: Sequence[int] = (14, 20, 28)) -> Growth:
    """Table 15, measured: cost of the module for other numbers of frames, and of patches (sides of the square grid).

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
    """How the seconds of ATA's matching, which multiplies nothing, grow with frames and with patches (h w).

    Table 15 has T h^3 w^3, the Hungarian method's worst case. Random features; medians of `rounds`.
    """

    def seconds(num_frames: int, num_patches: int) -> float:
        features = torch.randn(1, num_frames, num_patches, 64, generator=torch.Generator().manual_seed(0))
        return median_times([lambda: aligned_routes(features)], rounds=rounds, device=torch.device("cpu"))[0]

    in_frames = fitted_exponent([number - 1 for number in frames], [seconds(number, patches[0]) for number in frames])
    return in_frames, fitted_exponent(patches, [seconds(frames[0], number) for number in patches])


def fitted_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size by least squares; nan where something costs nothing.

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
    """What a model costs for one clip.

    gmacs, parameters (millions): as `complexity.count` has them. milliseconds: of a forward pass, the median.
    times_plain: the same over that of plain frames, measured in turns. memory: MiB that a training step keeps for its
    backward pass, weights not counted.
    """

    gmacs: float
    parameters: float
    milliseconds: float
    times_plain: float
    memory: float


def cost(config: IlaConfig, *, rounds: int = 5, device: str | torch.device = "cpu") -> Cost:
    """Cost of a model with random weights on one random clip, class features computed before."""
    complexity, vision = count(config), config.vision_config
    plain = IlaConfig.from_dict({**config.to_dict(), "temporal_module": "none"})
    clip = torch.randn(1, vision.num_frames, 3, vision.image_size, vision.image_size, device=device)
    model, beside = (IlaForVideoClassification(one).eval().to(device) for one in (config, plain))
    with torch.no_grad():
        calls = [lambda: model(clip), lambda: beside(clip)]
        own, others = median_times(calls, rounds=rounds, device=torch.device(device))
    memory = kept_for_backward(model.train(), clip)
    return Cost(complexity.gmacs, complexity.parameters, own * 1000, own / others, memory)


def median_times(calls: Sequence[Callable[[], Any]], *, rounds: int, device: torch.device) -> list[float]:
    """Seconds of each, the medians of `times_in_turns`."""
    return [statistics.median(own) for own in times_in_turns(calls, rounds=rounds, device=device)]


def times_in_turns(
    calls: Sequence[Callable[[], Any]], *, rounds: int, device: torch.device, warmup: int = 1
) -> list[list[float]]:
    """Seconds of each in `rounds` rounds, each of which another one begins, after some that do not count."""
    times: list[list[float]] = [[] for _ in calls]
    for number in range(warmup + rounds):
        for place in range(len(calls)):
            index = (number + place) % len(calls)
            started = time.perf_counter()
            calls[index]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= warmup:
                times[index].append(time.perf_counter() - started)
    return times


def kept_for_backward(model: IlaForVideoClassification, pixel_values: torch.Tensor) -> float:
    """MiB of different storages, weights and input not counted, that autograd keeps of one forward pass."""
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

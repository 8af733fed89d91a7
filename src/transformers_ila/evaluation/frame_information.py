"""What neighbouring frames share, by the two measures that the papers name and define neither to the last detail:

- `earth_movers_distance` (ILA's Table 5, "MI (EMD)", lower is more): the Wasserstein-1 distance between the patches of
  two neighbouring frames in the last layer, every patch the same mass, the cost of moving mass the Euclidean distance
  of the features scaled to length 1. For equal masses the best plan is a one-to-one matching, so it is exact.
- `mutual_information` (ATA's Table 4, higher is more): H(X_t) - H(X_t | X_t-1) in nats, with p(x_j) = 1 / N (Eq. 11
  there) and, where its paper leaves p(x_j | x_i) open, the softmax over j of the cosines over a temperature.

Shapes: `B` videos, `T` frames, `N` patches, `D` width.
"""

import math
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from .layer_patches import grid_of, handed_on, layers_of, watch_patches


TEMPERATURE = 0.1  # of `mutual_information`


# -- what neighbouring frames share ----------------------------------------------------------------------------------


def earth_movers_distance(patches: torch.Tensor) -> torch.Tensor:
    """Compute the Wasserstein-1 distance of neighbouring frames: (B, T, N, D) -> (B, T-1), from 0 to 2."""
    unit = F.normalize(patches.double(), dim=-1)
    costs = torch.cdist(unit[:, :-1], unit[:, 1:]).cpu()  # (B, T-1, N, N)
    distances = [_cheapest(cost) for cost in costs.flatten(0, 1)]
    return torch.tensor(distances, dtype=torch.float64).unflatten(0, costs.shape[:2])


def _cheapest(cost: torch.Tensor) -> float:
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean())


def mutual_information(patches: torch.Tensor, *, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Compute the mutual information of neighbouring frames: (B, T, N, D) -> (B, T-1), from 0 to log N nats.

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
def last_patches(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Compute the patch features that a tower hands on of its last layer: (B, T, C, H, W) -> (B, T, N, D)."""
    found: list[torch.Tensor] = []
    rows, columns = grid_of(model, *pixel_values.shape[-2:])
    last = len(layers_of(model)) - 1
    with watch_patches(model, [last], pixel_values.shape[1], rows * columns, lambda _, patches: found.append(patches)):
        model.get_video_features(pixel_values)
    return handed_on(model, found[-1])

"""Whether two variants differ by more than chance: a paired permutation test over the test videos.

Both variants answer the same videos, so the test is over the differences of each video (for one seed each it is
McNemar's test). Under the null hypothesis the two names could be exchanged for any video, so the signs of the
differences are drawn anew. Seeds are averaged first: the test asks whether these trained models differ on videos like
these; how much another training run would differ is what the deviation over the seeds says.

Sources: M. D. Ernst, "Permutation Methods: A Basis for Exact Inference", 2004; B. Phipson and G. K. Smyth,
"Permutation P-values Should Never Be Zero", 2010 (the + 1); S. Holm, "A Simple Sequentially Rejective Multiple Test
Procedure", 1979.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .runs import RIGHT, UNREADABLE


DRAWS = 10_000
CHUNK = 500  # draws at a time, so that memory stays small


def paired_differences(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """Return (N,) each test video's part in the difference of two accuracies, `one`'s less `other`'s.

    The sum is the difference in the mean of the tasks' accuracies over the seeds that both have, and over the videos
    that all runs could read. None: they have no seed in common, or results that do not say which videos were right.

    Raises:
        ValueError: results of other numbers of test videos.
    """
    first, second = ({run["seed"]: run["right"] for run in runs if "right" in run} for runs in (one, other))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    parts = []
    for task in first[seeds[0]]:
        answers = [(first[seed][task], second[seed][task]) for seed in seeds]
        if len({len(letters) for pair in answers for letters in pair}) != 1:
            raise ValueError(f"The runs were tested on other numbers of videos in {task!r}.")
        table = np.array([[list(letters) for letters in pair] for pair in answers])  # (seeds, 2, videos)
        table = table[..., ~(table == UNREADABLE).any((0, 1))]
        right = (table == RIGHT).mean(0)
        parts.append((right[0] - right[1]) / (table.shape[-1] * len(first[seeds[0]])))
    return np.concatenate(parts)


def sign_flip_test(differences: np.ndarray, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p-value of the sum of paired differences (N,), by random exchanges of each pair."""
    differences = differences[differences != 0]  # an exchange changes nothing there
    observed = abs(differences.sum())
    rng, extreme = np.random.default_rng(seed), 0
    for first in range(0, draws, CHUNK):
        signs = rng.choice([-1.0, 1.0], size=(min(CHUNK, draws - first), len(differences)))
        extreme += int((np.abs(signs @ differences) >= observed * (1 - 1e-9)).sum())
    return (1 + extreme) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for multiple tests by Holm's step-down method, in the order given."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected

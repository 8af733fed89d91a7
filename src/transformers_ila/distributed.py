"""Several processes that share the work: which one this is, and the results of all.

Only small results travel, as CPU tensors and text through gloo, which runs everywhere.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed


T = TypeVar("T")
MOST_WORKERS = 1024  # processes that read videos beside one; more exhaust a machine before they read any
PATIENCE = timedelta(days=7)  # a process waits for the slowest; one that dies is noticed by the launcher


class Rank(NamedTuple):
    """Say which of the processes that share the work this one is.

    rank: its number, 0 to world_size - 1.
    world_size: how many processes there are, on all machines together.
    local_rank: its number among the processes of its machine, which is the number of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def device(self) -> str:
        """Return this process's GPU, or "cpu" where there is none."""
        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else "cpu"

    def usual_workers(self, device: str | None = None) -> int:
        """Return how many processes should read videos beside this one, which computes on `device`.

        It is 0 where the CPU computes, which needs every core; beside a GPU this process's share of the cores, less
        its own.
        """
        if (device or self.device()) == "cpu":
            return 0
        return max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)

    def takes(self, digest: bytes) -> bool:
        """Return whether the item with this digest belongs to this process's share."""
        return int.from_bytes(digest[:8], "big") % self.world_size == self.rank


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class RemoteRankError(ValueError):
    """Report an error of another process, which says there what went wrong."""


def rank_from_environment() -> Rank:
    """Return the rank that RANK, WORLD_SIZE and LOCAL_RANK name, as torchrun and `accelerate launch` set them.

    Without these variables this process is alone.

    Raises:
        ValueError: a variable that is no whole number in its range.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    if given["RANK"] is None and given["WORLD_SIZE"] in (None, "1"):
        return Rank()
    try:
        rank, world = int(given["RANK"] or ""), int(given["WORLD_SIZE"] or "")
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if not 0 <= rank < world or local_rank < 0:
            raise ValueError
    except ValueError as error:
        raise ValueError(f"RANK and WORLD_SIZE must be numbers, 0 <= RANK < WORLD_SIZE; got {given}.") from error
    return Rank(rank, world, local_rank)


def current_rank() -> Rank:
    """Return the rank in torch's process group; without such a group this process is alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Rank()
    return Rank(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))


@contextmanager
def process_group() -> Iterator[Rank]:
    """Join the environment's process group and yield the rank in it; leave it when the context ends.

    One process alone needs no group.
    """
    rank = rank_from_environment()
    if rank.world_size == 1 or distributed.is_initialized():
        yield rank
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield rank
    finally:
        distributed.destroy_process_group()


def all_gather(work: Callable[[], T], rank: Rank | None = None) -> list[T]:
    """Call `work` in every process, and return all results in each of them, in the order of the ranks.

    Args:
        work: returns what can be pickled.
        rank: `Rank()` for this process alone; by default its rank in the process group.

    Raises:
        Exception: whatever `work` raises here.
        RemoteRankError: `work` failed in another process, so that none waits for ever; also where it failed here and,
            with the same message, in a process before this one.
    """
    rank = current_rank() if rank is None else rank
    if rank.world_size == 1:
        return [work()]
    own: Exception | None = None
    outcome: tuple[Any, str | None] = (None, None)
    try:
        outcome = (work(), None)
    except Exception as error:  # whatever it is, the others must hear of it
        own, outcome = error, (None, f"{type(error).__name__}: {error}")
    outcomes: list[Any] = [None] * rank.world_size
    distributed.all_gather_object(outcomes, outcome)
    first = [fault for _, fault in outcomes].index(outcome[1])
    if own is not None and first == rank.rank:
        raise own
    faults = [f"process {number}: {fault}" for number, (_, fault) in enumerate(outcomes) if fault is not None]
    if faults:
        raise RemoteRankError("; ".join(faults))
    return [result for result, _ in outcomes]


def all_succeed(work: Callable[[], T]) -> T:
    """Call `work` in every process, and return this one's result once all have one; errors are `all_gather`'s."""
    results: list[T] = []
    all_gather(lambda: results.append(work()))
    return results[0]

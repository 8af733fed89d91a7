"""Several processes that share the work: who this one is, and everybody's results.

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
PATIENCE = timedelta(days=7)  # a process waits for the slowest; one that dies is noticed by the launcher


class Rank(NamedTuple):
    """Which of how many processes this is; `local_rank` counts those of one machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def device(self) -> str:
        return f"cuda:{self.local_rank}" if torch.cuda.is_available() else "cpu"

    def usual_workers(self) -> int:
        """Processes to read videos beside this one that computes: none where the CPU computes, which needs every core;
        beside a GPU this process's share of the cores, less its own."""
        if self.device() == "cpu":
            return 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)) - 1)

    def takes(self, digest: bytes) -> bool:
        """Whether what this digest stands for is this process's share."""
        return int.from_bytes(digest[:8], "big") % self.world_size == self.rank


class RemoteRankError(ValueError):
    """What went wrong in another process."""


def rank_from_environment() -> Rank:
    """From RANK, WORLD_SIZE and LOCAL_RANK, as torchrun and `accelerate launch` set them; alone without them.

    Raises:
        ValueError: they are no such numbers.
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
    """In the process group, where there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Rank()
    return Rank(distributed.get_rank(), distributed.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))


@contextmanager
def process_group() -> Iterator[Rank]:
    """The process group of the environment, for as long as the context lasts; none for one process."""
    place = rank_from_environment()
    if place.world_size == 1 or distributed.is_initialized():
        yield place
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield place
    finally:
        distributed.destroy_process_group()


def all_gather(work: Callable[[], T]) -> list[T]:
    """Do something in every process, and give each of them all results in the order of the ranks.

    Raises:
        what `work` raises here; OtherProcessError in the other processes, so that none waits for ever.
    """
    place = current_rank()
    if place.world_size == 1:
        return [work()]
    own: Exception | None = None
    outcome: tuple[Any, str | None] = (None, None)
    try:
        outcome = (work(), None)
    except Exception as error:  # whatever it is, the others must hear of it
        own, outcome = error, (None, f"{type(error).__name__}: {error}")
    outcomes: list[Any] = [None] * place.world_size
    distributed.all_gather_object(outcomes, outcome)
    if own is not None:
        raise own
    faults = [f"process {rank}: {fault}" for rank, (_, fault) in enumerate(outcomes) if fault is not None]
    if faults:
        raise RemoteRankError("; ".join(faults))
    return [result for result, _ in outcomes]

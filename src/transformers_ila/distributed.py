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
from transformers.utils import logging


logger = logging.get_logger(__name__)

T = TypeVar("T")
MOST_WORKERS = 1024  # processes that read videos beside one; more exhaust a machine before they read any
PATIENCE = timedelta(days=7)  # a process waits for the slowest; one that dies is noticed by the launcher
NAMES_OF_SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
STEPS_OF_SRUN = range(0xFFFFFFF0)  # SLURM_MAX_NORMAL_STEP_ID; batch scripts and salloc's shells are steps beyond it


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
        """Return this process's GPU, or "cpu" where there is none.

        A process that sees one GPU takes it: `srun --gpus-per-task=1` shows each its own.
        """
        if not torch.cuda.is_available():
            return "cpu"
        return f"cuda:{0 if torch.cuda.device_count() == 1 else self.local_rank}"

    def usual_workers(self, device: str | None = None) -> int:
        """Return how many processes should read videos beside this one, which computes on `device`.

        It is 0 where the CPU computes, which needs every core; beside a GPU this process's share of the cores, less
        its own.
        """
        if (device or self.device()) == "cpu":
            return 0
        return max(1, _cpus_of_process() - 1)

    def takes(self, digest: bytes) -> bool:
        """Return whether the item with this digest belongs to this process's share."""
        return int.from_bytes(digest[:8], "big") % self.world_size == self.rank


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpus_of_process() -> int:
    """Return this process's share of the CPUs; Slurm may have bound it to them already."""
    if "RANK" in os.environ or _srun_rank() is None:
        return usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if "SLURM_CPUS_PER_TASK" in os.environ:
        return min(usable_cpus(), int(os.environ["SLURM_CPUS_PER_TASK"]))
    return min(usable_cpus(), int(os.environ.get("SLURM_CPUS_ON_NODE", usable_cpus())) // _srun_tasks_here())


class RemoteRankError(ValueError):
    """Report an error of another process, which says there what went wrong."""


def rank_from_environment() -> Rank:
    """Return the rank that RANK, WORLD_SIZE and LOCAL_RANK name, as torchrun and `accelerate launch` set them.

    Where RANK is not set, srun's SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID count in the same way. Without these
    variables this process is alone; a warning says so in a Slurm job of several tasks that srun did not start.

    Raises:
        ValueError: a variable that is no whole number in its range, or one of RANK and WORLD_SIZE alone.
    """
    given = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")}
    srun = None
    if given["RANK"] is None:
        srun = _srun_rank(warn=True)
        if given["WORLD_SIZE"] is None or (given["WORLD_SIZE"] == "1" and srun is None):
            return srun or Rank()
    try:
        rank, world = int(given["RANK"] or ""), int(given["WORLD_SIZE"] or "")
        local_rank = int(_local_rank())
        if not 0 <= rank < world or local_rank < 0:
            raise ValueError
    except ValueError as error:
        beside = "" if srun is None else f", and of srun SLURM_PROCID={srun.rank}, SLURM_NTASKS={srun.world_size}"
        raise ValueError(
            f"RANK and WORLD_SIZE must be numbers, 0 <= RANK < WORLD_SIZE; got {given}{beside}."
        ) from error
    return Rank(rank, world, local_rank)


def _local_rank() -> str:
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))


def is_first_of_machine() -> bool:
    """Return whether this is the first of the processes that a launcher started on this machine, or alone."""
    return _local_rank() == "0"


def _srun_rank(*, warn: bool = False) -> Rank | None:
    """Return the rank among the tasks that srun started, None for a process that it did not start.

    Slurm gives a batch script SLURM_PROCID=0 and the job's SLURM_NTASKS, too, although nothing started the others: it
    would silently do its share alone. srun alone sets SLURM_STEP_NUM_TASKS and a SLURM_STEP_ID of `STEPS_OF_SRUN`; in
    batch scripts that is missing (Slurm 22.05) or -5 (the newest), in the shells of salloc -6. Both variables set by
    hand, outside a job, are believed.

    Args:
        warn: log a warning where a job has several tasks, of which this process was started without srun.

    Raises:
        ValueError: values that are no numbers, or contradict each other.
    """
    given = {name: os.environ[name] for name in NAMES_OF_SLURM if name in os.environ}
    try:
        numbers = {name: int(value) for name, value in given.items()}
        step, rank = numbers.get("SLURM_STEP_ID"), numbers.get("SLURM_PROCID")
        in_step = step in STEPS_OF_SRUN if step is not None else bool(rank) or "SLURM_JOB_ID" not in os.environ
        asked = numbers.get("SLURM_NTASKS", 1)
        started = numbers.get("SLURM_STEP_NUM_TASKS", numbers.get("SLURM_NTASKS", 0)) if in_step else 1
        if rank is None or started == 1 and not rank:
            if warn and asked > 1:
                logger.warning_once(
                    f"Slurm was asked for {asked} tasks, and srun did not start this process as one of them: it does "
                    "all of the work alone. `srun ila ...` starts one process a task, and they share the work."
                )
            return None
        if not 0 <= rank < started or numbers.get("SLURM_LOCALID", 0) < 0:
            raise ValueError
    except ValueError as error:
        raise ValueError(
            f"SLURM_PROCID and SLURM_NTASKS must be numbers, 0 <= SLURM_PROCID < SLURM_NTASKS; got {given}. RANK and "
            "WORLD_SIZE win over them."
        ) from error
    return Rank(rank, started, numbers.get("SLURM_LOCALID", 0))


def _srun_tasks_here() -> int:
    """Return how many tasks of the step run on this machine."""
    if "SLURM_GTIDS" in os.environ:
        return len(os.environ["SLURM_GTIDS"].split(","))
    return int(os.environ.get("SLURM_NTASKS_PER_NODE", 1))


def export_srun_rank() -> None:
    """Write the rank that srun gives as torchrun's variables, which torch and Accelerate read; where RANK is, nothing.

    Raises:
        ValueError: several processes, and no address where they meet.
    """
    rank = rank_from_environment()
    if rank.world_size > 1 and "RANK" not in os.environ:
        _require_address(rank)
        numbers = {"RANK": rank.rank, "WORLD_SIZE": rank.world_size, "LOCAL_RANK": rank.local_rank}
        numbers["LOCAL_WORLD_SIZE"] = _srun_tasks_here()
        os.environ.update({name: str(number) for name, number in numbers.items()})


def _require_address(rank: Rank) -> None:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(
            f"{rank.world_size} processes meet at MASTER_ADDR and MASTER_PORT, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set. torchrun sets them; before srun: "
            'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500. '
            "RANK=0 WORLD_SIZE=1 makes each process work alone."
        )


def current_rank() -> Rank:
    """Return the rank in torch's process group; without such a group this process is alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Rank()
    return Rank(distributed.get_rank(), distributed.get_world_size(), int(_local_rank()))


@contextmanager
def process_group() -> Iterator[Rank]:
    """Join the environment's process group and yield the rank in it; leave it when the context ends.

    One process alone needs no group.

    Raises:
        ValueError: as `rank_from_environment`; or several processes, and no address where they meet.
    """
    rank = rank_from_environment()
    if rank.world_size == 1 or distributed.is_initialized():
        yield rank
        return
    _require_address(rank)
    distributed.init_process_group("gloo", timeout=PATIENCE, rank=rank.rank, world_size=rank.world_size)
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

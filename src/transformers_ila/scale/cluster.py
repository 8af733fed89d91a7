"""The Ray cluster of a run: one that is given, or one on this machine; how many actors it has, and what each takes."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, floor
from types import ModuleType
from typing import Any

import torch
from transformers.utils import logging as hf_logging

from ..distributed import usable_cpus
from ..evaluation.inference import has_bfloat16_instructions
from ..evaluation.options import Options
from ..model.video_urls_ila import redact
from .options import EngineOptions, check_cluster_address


logger = hf_logging.get_logger(__name__)


SPARE = 1  # CPUs for what Ray runs beside the actors, without which nothing moves


@dataclass(frozen=True)
class Cluster:
    """Hold how many actors of each kind a run starts, and the CPUs and GPUs that Ray keeps for each.

    readers, replicas: how many actors.
    cpus: that each reader takes, and each replica without a GPU.
    gpus: whether each replica takes a GPU.
    replicas_of_a_node: without GPUs at most.
    most_threads: that the user allows for computing, or that torch takes on this machine.
    """

    readers: int
    replicas: int
    cpus: float
    gpus: bool
    replicas_of_a_node: int = 1
    most_threads: int | None = None

    def __str__(self) -> str:
        where = "each with a GPU" if self.gpus else "on the CPU"
        return f"Ray: {_count(self.readers, 'reader')}, {_count(self.replicas, 'replica')} {where}"

    @property
    def device(self) -> str:
        """Return the device of a replica."""
        return "cuda:0" if self.gpus else "cpu"

    @property
    def reader_resources(self) -> dict[str, Any]:
        """Return the arguments by which Ray keeps CPUs for a reader."""
        return {"num_cpus": self.cpus}

    @property
    def replica_resources(self) -> dict[str, Any]:
        """Return the arguments by which Ray keeps a GPU or CPUs for a replica."""
        return {"num_cpus": 0, "num_gpus": 1} if self.gpus else {"num_cpus": self.cpus}

    def threads(self) -> int | None:
        """Return how many threads a replica computes with, called where it runs; None: torch's own choice."""
        if self.gpus:
            return None
        cores = usable_cpus() if self.most_threads is None else min(usable_cpus(), self.most_threads)
        return max(1, cores // self.replicas_of_a_node)

    def here(self) -> dict[str, Any]:
        """Return the arguments of a task that needs the files of this machine."""
        import ray

        return {"num_cpus": 0, "label_selector": {"ray.io/node-id": ray.get_runtime_context().get_node_id()}}

    def resolve(self, options: Options) -> Options:
        """Return the options with the precision that "auto" stands for on a replica's device."""
        if options.dtype != "auto":
            return options
        import ray

        task = ray.remote(**self.replica_resources)(has_bfloat16_instructions)
        return replace(options, dtype="bfloat16" if ray.get(task.remote(torch.device(self.device))) else "float32")

    @contextmanager
    def context(self) -> Iterator[None]:
        """Let Ray Data show its progress on a terminal only, and turn its errors into one line."""
        from ray.data import DataContext
        from ray.exceptions import RayError

        context, logger = DataContext.get_current(), logging.getLogger("ray.data")
        before = context.enable_progress_bars, logger.level
        context.enable_progress_bars = sys.stderr.isatty()
        logger.setLevel(logging.INFO if sys.stderr.isatty() else logging.CRITICAL)
        try:
            yield
        except RayError as error:
            raise RuntimeError(redact(_last_line(str(error)))) from error
        finally:
            context.enable_progress_bars = before[0]
            logger.setLevel(before[1])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _last_line(text: str) -> str:
    """Return what went wrong, without the ways it took, which Ray tells in pages."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "Ray gave no reason")


def import_ray() -> ModuleType:
    """Import Ray; the ImportError says how it is installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"--engine ray needs Ray: pip install 'transformers-ila[ray]' ({error}).") from error
    return ray


@contextmanager
def join_cluster(engine: EngineOptions, device: str | None) -> Iterator[Cluster]:
    """Join the cluster that is given, or start one on this machine, and leave or end it with the block.

    Where this process is in a cluster already, that is taken.

    Args:
        engine: of which address, readers and replicas are read.
        device: of which kind the replicas' devices are; None: GPUs where the cluster has any.

    Raises:
        ValueError: the cluster is too small for what is asked, or the address is no cluster's.
        ConnectionError: there is no cluster at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield plan_actors(ray, engine, device, is_local=False)
        return
    address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
    check_cluster_address(address, "address" if engine.address else "RAY_ADDRESS")
    is_local = address == "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    if is_local:
        asked = (engine.readers or 1) + (engine.replicas or 1) + SPARE
        options |= {"include_dashboard": False, "num_cpus": max(usable_cpus(), asked)}
    with _own_signals():
        ray.init(address=address, **options)
    try:
        yield plan_actors(ray, engine, device, is_local=is_local)
    finally:
        ray.shutdown()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _warn_of_others(ray: ModuleType, **needed: float) -> None:
    """Warn where others hold what this run needs: Ray lets it wait, without a word."""
    available = ray.available_resources()
    for kind, number in needed.items():
        free = floor(available.get(kind, 0))
        if free < floor(number):
            logger.warning(
                f"This run takes {_count(ceil(number), kind)} of the cluster, and {free} are free: it waits until "
                "others end. Of two runs that start together each may hold what the other one waits for: start one "
                "after the other, or with fewer --readers and --replicas."
            )


def plan_actors(ray: ModuleType, engine: EngineOptions, device: str | None, *, is_local: bool) -> Cluster:
    """Return how many readers and replicas a run starts on what the cluster has, and what each takes.

    Raises:
        ValueError: it has less than is asked for.
    """
    found = ray.cluster_resources()
    cpus, gpus = floor(found.get("CPU", 0)), floor(found.get("GPU", 0))
    has = f"the cluster has {_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}"
    on_gpus = gpus > 0 if device is None else device.startswith("cuda")
    if on_gpus and gpus < (engine.replicas or 1):
        asked = _count(engine.replicas or 1, "replica")
        raise ValueError(f"A GPU for each of {asked} is asked for, and {has}.")
    replicas = engine.replicas or (gpus if on_gpus else 1)
    beside = SPARE + replicas  # a replica with a GPU leaves a CPU, too
    readers = engine.readers or max(1, cpus - beside)
    actors = readers + (0 if on_gpus else replicas)
    share = 1.0
    if actors + SPARE > cpus:
        if engine.readers or engine.replicas:
            raise ValueError(
                f"{_count(readers, 'reader')} and {_count(replicas, 'replica')} take {actors + SPARE} CPUs with one "
                f"for Ray's own tasks, and {has}: ask for fewer by --readers and --replicas."
            )
        if cpus < 1:
            raise ValueError(f"Ray's own tasks take a CPU, and {has}.")
        share = floor((cpus - SPARE) / actors * 100) / 100
    nodes = sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes())
    threads = torch.get_num_threads() if is_local or "OMP_NUM_THREADS" in os.environ else None
    if not is_local:
        _warn_of_others(ray, CPU=share * actors + SPARE, GPU=replicas if on_gpus else 0)
    return Cluster(readers, replicas, share, on_gpus, -(-replicas // max(1, nodes)), threads)

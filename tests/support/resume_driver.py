"""Runs `ila train` in forked processes that die on command, so that nothing is imported twice.

A plan is a JSON file: a list of attempts, each with options, a number of processes and when to die:
- {"step": s}: at the beginning of step s;
- {"write": n}: in the middle of the n-th file that a checkpoint writes;
- {"seal": n}: when the n-th checkpoint has all its files and not yet the one that says so;
- {"rotate": n}: when the n-th old checkpoint is half deleted;
- {"during": s}: anywhere from step s on, by another thread, at the latest two steps later;
- {"term": s}: SIGTERM in step s; {}: never.
"rank" beside it means one rank only; where a rank dies of SIGKILL the others are killed, as launchers do.
"twice" starts the same run again so many seconds later, as a job that is submitted twice; both die where they should.
What happened is written beside the plan: for every attempt the exit codes of its ranks, negative for a signal.
"""

import builtins
import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import safetensors.torch
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import modeling_utils

import transformers_ila.training.callbacks
import transformers_ila.training.checkpoints
import transformers_ila.training.trainer
from transformers_ila.cli import train
from transformers_ila.cli.main import run_verb
from transformers_ila.training.trainer import IlaTrainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def halve(file: str) -> None:
    """What a process that dies while it writes leaves."""
    size = os.path.getsize(file)
    with builtins.open(file, "r+b") as content:
        content.truncate(size // 2)


class Death:
    """Patches the one process that calls `arm`."""

    def __init__(self, when: dict[str, float]) -> None:
        self.when, self.files, self.seals, self.rotations = when, 0, 0, 0

    def arm(self, trace: Path) -> None:
        step = IlaTrainer.training_step

        def traced(trainer: IlaTrainer, model: object, inputs: dict, *rest: object) -> torch.Tensor:
            now = trainer.state.global_step
            if self.when.get("step") == now:
                die()
            if self.when.get("term") == now:
                os.kill(os.getpid(), signal.SIGTERM)
            if self.when.get("during") == now:
                self.killer = threading.Thread(target=die)
                self.killer.start()
            if self.when.get("during", now) == now - 2:
                self.killer.join()
            seen = hashlib.sha256(inputs["pixel_values"].numpy().tobytes() + inputs["labels"].numpy().tobytes())
            with trace.open("a") as file:
                file.write(f"{now} {seen.hexdigest()}\n")
            return step(trainer, model, inputs, *rest)

        IlaTrainer.training_step = traced
        torch.save = self.counted(torch.save, at=1)
        modeling_utils.safe_save_file = self.counted(modeling_utils.safe_save_file, at=1)
        transformers_ila.training.callbacks.save_file = self.counted(safetensors.torch.save_file, at=1)
        transformers_ila.training.trainer.write_manifest = self.sealed(
            transformers_ila.training.checkpoints.write_manifest
        )
        shutil.rmtree = self.rotated(shutil.rmtree)

    def counted(self, save, *, at: int):
        def saved(content, file, *rest, **options):
            result = save(content, file, *rest, **options)
            self.files += 1
            if self.when.get("write") == self.files:
                halve(str(file))
                die()
            return result

        return saved

    def sealed(self, mark):
        def marked(folder):
            self.seals += 1
            if self.when.get("seal") == self.seals:
                die()
            return mark(folder)

        return marked

    def rotated(self, remove):
        def removed(folder, *rest, **options):
            if "checkpoint-" in str(folder):
                self.rotations += 1
                if self.when.get("rotate") == self.rotations:
                    next(path for path in sorted(Path(folder).iterdir()) if path.name != "complete.json").unlink()
                    die()
            return remove(folder, *rest, **options)

        return removed


def shard_on_cpus() -> None:
    """Let Accelerate 1.15 take gloo processes for GPUs: on CPUs it would pass over FSDP and say nothing."""
    PartialState._prepare_backend = lambda self, *rest: ("gloo", DistributedType.MULTI_GPU)
    torch.distributed.init_process_group("gloo")


def start(options: list[str], when: dict[str, float], log: Path, environment: dict[str, str]) -> int:
    """Process id of one training process."""
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        os.setsid()  # so that its worker processes can be found
        try:
            out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            Death(when).arm(log.with_suffix(".trace"))
            if environment.get("ACCELERATE_USE_FSDP") and "ACCELERATE_TORCH_DEVICE" in environment:
                shard_on_cpus()
            code = run_verb(train, options)
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        os._exit(code)
    return child


def kill_group(child: int) -> None:
    """A process and the workers it left."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


def attempt(
    options: list[str], when: dict[str, float], log: Path, world: int, environment: dict[str, str]
) -> list[int]:
    """Exit codes of all ranks."""
    ranks = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for rank in range(world):
        one = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
        one |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | environment
        own = when if when.get("rank", rank) == rank else {}
        where = log if rank == 0 else log.with_name(f"{log.stem}.{rank}.log")
        ranks.append(start(options, own, where, one if world > 1 else {}))
    codes: dict[int, int] = {}
    while len(codes) < world:
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        if codes[child] < 0:
            list(map(kill_group, ranks))
    list(map(kill_group, ranks))
    return [codes[child] for child in ranks]


def start_twice(options: list[str], when: dict[str, float], log: Path, delay: float) -> list[int]:
    """Exit codes of two processes with the same options."""
    first = start(options, when, log, {})
    time.sleep(delay)
    second = start(options, when, log.with_name(f"{log.stem}.1.log"), {})
    codes = {child: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in (first, second)}
    list(map(kill_group, codes))
    return list(codes.values())


def main(plan: Path) -> None:
    results = []
    for job in json.loads(plan.read_text()):
        started = time.time()
        if "twice" in job:
            codes = start_twice(job["options"], job["when"], Path(job["log"]), job["twice"])
            results.append({"codes": codes, "seconds": round(time.time() - started, 2)})
            plan.with_suffix(".results").write_text(json.dumps(results))
            continue
        codes = attempt(job["options"], job["when"], Path(job["log"]), job.get("world", 1), job.get("environment", {}))
        results.append({"codes": codes, "seconds": round(time.time() - started, 2)})
        plan.with_suffix(".results").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

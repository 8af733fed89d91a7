"""SIGTERM to a whole group of processes, as schedulers send it: data workers outlive it, the trainer stops in order.

What is unusual here:
- workers of a data loader ignore SIGTERM unless their own parent sends it, which then wants to end them;
- a second SIGTERM ends the process even while its main thread waits in C, where no handler of Python's would run.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader


SAME_ORDER = 2.0  # seconds in which several SIGTERMs count as one: launchers repeat what the scheduler sent to all


@dataclass(frozen=True)
class IgnoreSigtermInWorker:
    """Make a worker ignore SIGTERM unless its parent sends it; this is a `worker_init_fn`.

    before: another `worker_init_fn`, which is called first.
    """

    before: Callable[[int], None] | None = None

    def __call__(self, worker: int) -> None:
        if self.before is not None:
            self.before(worker)
        parent = multiprocessing.parent_process()
        if parent is None or not hasattr(signal, "sigwaitinfo"):
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before there are other threads, who inherit it
        threading.Thread(target=_end_for, args=(parent.pid,), daemon=True).start()


def _end_for(parent: int | None) -> None:
    """End this process when `parent` sends SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def with_outliving_workers(loader: DataLoader) -> DataLoader:
    """Make the workers of a loader, of torch or of Accelerate, outlive SIGTERM; return the loader."""
    inner: Any = getattr(loader, "base_dataloader", loader)
    if not isinstance(inner.worker_init_fn, IgnoreSigtermInWorker):
        inner.worker_init_fn = IgnoreSigtermInWorker(inner.worker_init_fn)
    return loader


class SecondSignal:
    """End the process at once at a SIGTERM that follows another one, between `begin` and `end`; for the main thread.

    Python runs handlers only between its own instructions, but C writes to its wake-up file at any time.
    """

    def __init__(self) -> None:
        self._ends: tuple[int, int] | None = None

    def begin(self) -> None:
        """Watch for signals from now on."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        if before != -1:  # somebody else's event loop
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            os.close(reader)
            os.close(writer)
            return
        self._ends = reader, writer
        threading.Thread(target=_watch, args=(reader,), daemon=True).start()

    def end(self) -> None:
        """Watch no longer."""
        if self._ends is None:
            return
        _, writer = self._ends
        self._ends = None
        signal.set_wakeup_fd(-1)
        os.write(writer, b"\0")  # workers may hold the other end open, so closing alone would not be noticed
        os.close(writer)


def _watch(reader: int) -> None:
    first: float | None = None
    while (number := os.read(reader, 1)) not in (b"", b"\0"):
        if number[0] != signal.SIGTERM:
            continue
        now = time.monotonic()
        if first is not None and now - first > SAME_ORDER:
            os._exit(128 + signal.SIGTERM)  # what a shell says of a process that SIGTERM ended
        first = now if first is None else first
    os.close(reader)

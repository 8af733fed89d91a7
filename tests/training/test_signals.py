"""SIGTERM to a group of processes: workers go on, their parent can end them, and a second one ends everything."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

from transformers_ila.training import signals as sigterm
from transformers_ila.training.callbacks import StopOnSignal
from transformers_ila.training.signals import IgnoreSigtermInWorker, with_outliving_workers


PATIENCE = 60  # seconds until a test gives up on what should come at once


def exit_code(pid):
    """The code that a process ends with; None where it does not end."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def hang(ready):
    """In C, where no handler of Python's runs."""
    mutex = ctypes.create_string_buffer(64)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    os.write(ready, b"1")
    ctypes.CDLL(None).pthread_mutex_lock(mutex)


def test_a_second_sigterm_ends_a_process_that_hangs(monkeypatch):
    """The child asks the parent for the time of every SIGTERM, so neither depends on how fast the other one is."""
    (told, ready), (asked, asks), (clock, sets) = os.pipe(), os.pipe(), os.pipe()

    def now():
        os.write(asks, b"1")
        return float(os.read(clock, 1))

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(sigterm, "time", SimpleNamespace(monotonic=now))
        StopOnSignal().on_train_begin(None, SimpleNamespace(), None)
        hang(ready)
        os._exit(1)
    try:
        os.read(told, 1)
        for second in (0, 0, int(sigterm.SAME_ORDER)):  # as launchers pass on what everybody was sent
            os.kill(child, signal.SIGTERM)
            os.read(asked, 1)  # it lives
            os.write(sets, b"%d" % second)
        os.kill(child, signal.SIGTERM)
        os.read(asked, 1)
        os.write(sets, b"%d" % (sigterm.SAME_ORDER + 1))
        assert exit_code(child) == 128 + signal.SIGTERM
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        for end in (told, ready, asked, asks, clock, sets):
            os.close(end)


def test_the_signal_is_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before[1])
    stop = StopOnSignal()
    for _ in range(2):
        stop.on_train_begin(None, SimpleNamespace(), None)
        stop.on_train_begin(None, SimpleNamespace(), None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received
        stop.restore_handler()
        assert (signal.getsignal(signal.SIGTERM), signal.set_wakeup_fd(-1)) == before


class Slow(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        time.sleep(0.05)
        return index


@pytest.mark.parametrize("persistent", [True, False])
def test_workers_outlive_the_groups_sigterm(persistent):
    loader = with_outliving_workers(DataLoader(Slow(), 2, num_workers=2, persistent_workers=persistent))
    assert with_outliving_workers(loader).worker_init_fn == IgnoreSigtermInWorker()
    seen = []
    for batch in loader:
        if not seen:
            workers = [child.pid for child in multiprocessing.active_children()]
            stranger = os.fork()  # the parent's signals mean something else
            if stranger == 0:
                for worker in workers:
                    os.kill(worker, signal.SIGTERM)
                os._exit(0)
            os.waitpid(stranger, 0)
        seen += batch.tolist()
    assert len(workers) == 2 and seen == list(range(12))


def test_workers_end_for_their_parent(monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", PATIENCE)  # then PyTorch ends it by force
    loader = iter(with_outliving_workers(DataLoader(Slow(), 2, num_workers=1, persistent_workers=True)))
    next(loader)
    (worker,) = loader._workers
    loader._shutdown_workers()
    assert worker.exitcode == 0


def test_workers_that_their_parent_terminates_end():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=idle, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(PATIENCE)
    process.terminate()
    process.join(PATIENCE)
    assert process.exitcode == 0


def idle(ready):
    IgnoreSigtermInWorker()(0)
    ready.set()
    threading.Event().wait()

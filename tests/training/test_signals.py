"""SIGTERM to a group of processes: workers go on, their parent can end them, and a second one ends everything."""

import ctypes
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
from torch.utils.data import DataLoader, Dataset

from transformers_ila.training import signals as sigterm
from transformers_ila.training.callbacks import StopOnSignal
from transformers_ila.training.signals import IgnoreSigtermInWorker, with_outliving_workers


def wait_for(pid, seconds=10.0):
    """Exit code; None while it runs."""
    end = time.monotonic() + seconds
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
    monkeypatch.setattr(sigterm, "SAME_ORDER", 0.5)
    told, ready = os.pipe()
    child = os.fork()
    if child == 0:
        StopOnSignal().on_train_begin(None, SimpleNamespace(), None)
        hang(ready)
        os._exit(1)
    try:
        os.read(told, 1)
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGTERM)  # as launchers pass it on
        assert wait_for(child, 0.8) is None
        os.kill(child, signal.SIGTERM)
        assert wait_for(child) == 128 + signal.SIGTERM
    finally:
        os.close(told)
        os.close(ready)


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


def test_workers_end_for_their_parent():
    loader = iter(with_outliving_workers(DataLoader(Slow(), 2, num_workers=1, persistent_workers=True)))
    next(loader)
    (worker,) = loader._workers
    started = time.monotonic()
    loader._shutdown_workers()
    assert not worker.is_alive() and time.monotonic() - started < 4
    process = multiprocessing.get_context("fork").Process(target=idle, daemon=True)
    process.start()
    time.sleep(0.3)
    process.terminate()
    process.join(5)
    assert process.exitcode == 0


def idle():
    IgnoreSigtermInWorker()(0)
    time.sleep(30)

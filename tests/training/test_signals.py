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


def hang(ready):
    """In C, where no handler of Python's runs."""
    mutex = ctypes.create_string_buffer(64)
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
    os.write(ready, b"1")
    ctypes.CDLL(None).pthread_mutex_lock(mutex)


def test_a_second_sigterm_ends_a_process_that_hangs(monkeypatch):
    """The clock is the test's: the process says whenever it looks at it, so that nothing depends on real time."""
    told, ready = os.pipe()
    clock = multiprocessing.Value("d", 0.0)

    def look() -> float:
        os.write(ready, b"2")
        return clock.value

    monkeypatch.setattr(sigterm, "time", SimpleNamespace(monotonic=look))
    child = os.fork()
    if child == 0:
        StopOnSignal().on_train_begin(None, SimpleNamespace(), None)
        hang(ready)
        os._exit(1)
    try:
        assert os.read(told, 1) == b"1"
        for _ in range(3):  # as launchers pass it on; the last one finds the process alive after the second
            os.kill(child, signal.SIGTERM)
            assert os.read(told, 1) == b"2"
        clock.value = 2 * sigterm.SAME_ORDER
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
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
    loader._shutdown_workers()
    assert not worker.is_alive()
    fork = multiprocessing.get_context("fork")
    listening = fork.Event()
    process = fork.Process(target=idle, args=(listening,), daemon=True)
    process.start()
    assert listening.wait(60)
    process.terminate()
    process.join(60)
    assert process.exitcode == 0


def idle(listening):
    IgnoreSigtermInWorker()(0)
    listening.set()
    time.sleep(600)

"""What a `ChildReader` calls in its child, which does what an item says; a processor that does what a file says."""

import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from transformers_ila import IlaVideoProcessor
from transformers_ila.evaluation.views import Video
from transformers_ila.scale import reading


def read(item: str) -> Video:
    """Do what the item says: `crash`, `leave`, `hang`, `broken FILE`, `raise`, `module`, `once FILE`; else read it."""
    what, _, file = item.partition(" ")
    if what == "once":  # dies the first time
        if Path(file).exists():
            return Video(None, item, torch.zeros(2, dtype=torch.uint8))
        Path(file).touch()
    if what in ("crash", "once"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leave":
        os._exit(3)
    if what == "hang":
        time.sleep(1000)
    if what == "broken":
        with open(file, "a") as tries:
            tries.write("x")
        return Video(None, item, None, reason="broken")
    if what == "raise":
        raise KeyError("https://me:secret@host/a.mp4")
    if what == "module":
        raise ImportError("there is no such package")
    return Video(None, item, torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4).transpose(0, 1), 5)


def read_in_a_child(connection: Connection, item: str) -> None:
    """Say which process the child of a `ChildReader` is, and read the item in it."""
    reading.GRACE = 1.0
    reader = reading.ChildReader(read, timeout=2)
    reader.read("a")
    connection.send(reader.process.pid)
    reader.read(item)
    time.sleep(1000)


class ActingProcessor(IlaVideoProcessor):
    """Does what the names of files say: `crash`, `hang`, and `slow` for a fifth of a second."""

    def preprocess(self, videos, **options):
        name = os.path.basename(str(videos))
        if "crash" in name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "hang" in name:
            time.sleep(1000)
        if "slow" in name:
            time.sleep(0.2)
        return super().preprocess(videos, **options)

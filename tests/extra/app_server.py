"""`ila app` as its users start it: a process of its own, its address, its memory, and what it leaves."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers_ila.app.launch import PREFIX


PATIENCE = 300  # seconds until the page is there, on a machine that has much else to do


class AppProcess:
    """A page that is served: its address, its log, and its process."""

    def __init__(self, log: Path, *arguments: object, cwd: Path | None = None) -> None:
        self.log = log
        command = [sys.executable, "-m", "transformers_ila", "app", *map(str, arguments), "--port", "0"]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=cwd)
        end = time.monotonic() + PATIENCE
        while (found := re.search(r"The page: (\S+)", self.text)) is None:
            assert self.process.poll() is None and time.monotonic() < end, self.text
            time.sleep(0.1)
        self.address = found[1].rstrip("/")

    @property
    def text(self) -> str:
        """What was printed."""
        return self.log.read_text("utf-8", "replace")

    @property
    def megabytes(self) -> float:
        """Memory that the process has (RSS)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    @property
    def folder(self) -> Path:
        """The folder of its temporary files."""
        marks = Path(tempfile.gettempdir()).glob(f"{PREFIX}*/_writer.lock")
        return next(mark.parent for mark in marks if f'"process": {self.process.pid}}}' in mark.read_text())

    def files(self) -> list[Path]:
        """What lies there of its users, also while it is deleted."""
        return [Path(folder, name) for folder, _, names in os.walk(self.folder / "files") for name in names]

    def end(self, how: int = signal.SIGINT) -> int:
        """End it and return its exit code."""
        self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def app_process(log: Path, *arguments: object, cwd: Path | None = None) -> Iterator[AppProcess]:
    """Serve a page in a process of its own while the block runs."""
    app = AppProcess(log, *arguments, cwd=cwd)
    try:
        yield app
    finally:
        if app.process.poll() is None:
            app.process.kill()
            app.process.wait()


def demo_folder(tmp_path_factory) -> Path:
    """The folder of `ila demo`: a model, and videos that it has not seen; DEMO names one that is there."""
    if given := os.environ.get("DEMO"):
        return Path(given)
    folder = tmp_path_factory.mktemp("demo") / "out"
    numbers = ["--num_videos", "48", "--num_held_out", "16", "--steps", "4"]
    subprocess.run([sys.executable, "-m", "transformers_ila", "demo", "--output", folder, *numbers], check=True)
    return folder

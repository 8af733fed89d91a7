"""Videos read in a child process, so that a file that crashes or blocks its reader costs that file and no other.

One video at a time goes to the child: whatever ends the child, or takes too long, is known by name. The child is then
started anew, and ends by itself where its parent is gone.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from ..evaluation.views import Video
from ..model.video_urls_ila import redact


# "forkserver": a child starts in milliseconds, from a process that has imported all and has no threads
METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PATIENCE = 300.0  # seconds for imports until a child asks for its first video
GRACE = 5.0  # seconds beyond the timeout, after which the kernel ends a child whose parent is gone


@dataclass
class Allowance:
    """Hold what a video may still take: seconds of reading, and further tries."""

    seconds: float
    retries: int


class ChildReader:
    """Read videos by a function in a child process.

    read: called there with an item, returns its `Video`; must pickle.
    timeout: seconds that a video may take, all its tries and pieces together; until a child starts does not count.
    retries: how often one that could not be read is tried again, whatever the reason, while seconds are left.
    preload: modules that every child imports.
    """

    def __init__(
        self, read: Callable[[Any], Video], *, timeout: float, retries: int = 0, preload: Sequence[str] = ()
    ) -> None:
        self.work, self.timeout, self.retries = read, timeout, retries
        self.context = multiprocessing.get_context(METHOD)
        self.context.set_forkserver_preload([__name__, *preload])
        self.process: BaseProcess | None = None
        self.connection: Connection | None = None
        self.ended = "no answer"  # how the last child did that died

    def allowance(self) -> Allowance:
        """Return what a new video may take."""
        return Allowance(self.timeout, self.retries)

    def read(self, item: Any, allowance: Allowance | None = None) -> Video:
        """Return the video, with `item` as its key if it has none, or the reason why the last try did not read it.

        Args:
            item: what `read` takes.
            allowance: of a video that is read piece by piece, from which each piece takes what it needs.

        Raises:
            RuntimeError: the child cannot start, or `read` lacks a module.
        """
        allowance = allowance or self.allowance()
        video = self._once(item, allowance)
        while video.views is None and allowance.retries > 0 and allowance.seconds > 0:
            allowance.retries -= 1
            video = self._once(item, allowance)
        return video

    def close(self) -> None:
        """End the child."""
        if self.process is not None and self.connection is not None:
            self.connection.close()
            self.process.kill()
            self.process.join(GRACE)  # not for ever: one that waits for a dead disk cannot be ended
        self.process = self.connection = None

    def _start(self) -> bool:
        """Start a child where there is none; return whether it has not read anything."""
        if self.process is not None and self.process.is_alive():
            return False
        for _ in range(1 + self.retries):
            self.close()
            self.connection, theirs = self.context.Pipe()
            self.process = self.context.Process(  # type: ignore[attr-defined]
                target=_serve, args=(theirs, self.work, self.timeout + GRACE), daemon=True
            )
            self.process.start()
            theirs.close()  # or the end of the child would not be seen
            try:
                if self.connection.poll(PATIENCE) and self.connection.recv() is None:
                    return True
            except (EOFError, ConnectionResetError):
                self._note_end()
        raise RuntimeError(f"The process that reads videos does not start ({self.ended}).")

    def _once(self, item: Any, allowance: Allowance) -> Video:
        is_fresh = self._start()
        video = self._try(item, allowance)
        if video is None and not is_fresh and allowance.seconds > 0:  # what another video spoilt may show at this one
            self._start()
            video = self._try(item, allowance)
        return video or Video(item, "", None, reason=f"the process that read it died ({self.ended})")

    def _try(self, item: Any, allowance: Allowance) -> Video | None:
        """Return the video or a reason; None where the child died."""
        started = time.monotonic()
        try:
            return self._ask(item, max(0.0, allowance.seconds))
        finally:
            allowance.seconds -= time.monotonic() - started

    def _ask(self, item: Any, seconds: float) -> Video | None:
        assert self.connection is not None
        try:
            self.connection.send(item)
            if not self.connection.poll(seconds):
                self.close()
                return Video(item, "", None, reason=f"not read in {self.timeout:g} s")
            answer = self.connection.recv()
            if isinstance(answer, str):
                raise RuntimeError(answer)
            video, shape = answer
            if shape is not None:
                pixels = torch.frombuffer(bytearray(self.connection.recv_bytes()), dtype=torch.uint8)
                video = video._replace(views=pixels.reshape(shape))
            return video._replace(key=item) if video.key is None else video
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._note_end()
            return None

    def _note_end(self) -> None:
        assert self.process is not None
        self.process.join(GRACE)
        code = self.process.exitcode
        self.ended = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        self.close()


def _serve(connection: Connection, read: Callable[[Any], Video], deadline: float) -> None:
    """Read each item that comes, and answer with its video; its pixels follow as bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    torch.set_num_threads(1)
    try:
        connection.send(None)
        while True:
            item = connection.recv()
            _end_after(deadline)
            answer = _answer(read, item)
            _end_after(0)
            if isinstance(answer, str):
                connection.send(answer)
                continue
            views = answer.views
            connection.send((answer._replace(views=None), None if views is None else tuple(views.shape)))
            if views is not None:
                connection.send_bytes(views.contiguous().view(-1).numpy().data)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        return


def _answer(read: Callable[[Any], Video], item: Any) -> Video | str:
    """Return a video, or what ends the run: a module that is missing is the fault of no video."""
    try:
        return read(item)
    except ImportError as error:
        return redact(str(error))
    except Exception as error:  # one video of millions, such as one that needs more memory than there is
        return Video(None, "", None, reason=redact(f"{type(error).__name__}: {error}"))


def _end_after(seconds: float) -> None:
    """Let the kernel end this process after some seconds; 0: no longer."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)

"""Checks a data set: which videos are whole, damaged, too short or unreadable.

Every video is decoded to its end, in worker processes: a decoder that crashes or hangs costs one file, not the scan.
Results go to a journal as they come, so that an interrupted scan goes on where it stopped.
"""

import csv
import io
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from ..distributed import MOST_WORKERS
from ..files import atomic_write
from ..model.video_reading_ila import IlaVideoMetadata, ReadLimits, VideoDecodingError, check_video


Status = Literal["ok", "damaged", "too_short", "unreadable"]
Check = Callable[..., IlaVideoMetadata]  # of a path and `limits`

COLUMNS = (
    "path", "status", "frames", "frames_lost", "frames_corrupt", "fps", "seconds", "width", "height", "reason"
)  # fmt: skip
REPORT_SUFFIXES = (".csv", ".json")
POLL_SECONDS = 0.2  # how late an overdue worker may be noticed

# A fork server holds the imports, which take seconds, so that replacing a worker takes milliseconds.
FORK_SERVER = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if FORK_SERVER else "spawn")


@dataclass(frozen=True)
class VideoCheck:
    """Hold what decoding a whole video showed.

    path: the absolute path.
    frames: how many frames were decoded.
    frames_lost: how many packets gave no frame.
    frames_corrupt: how many frames the decoder patched up.
    fps: frames per second; None where it is not known. seconds: the duration. width, height: in pixels.
    reason: why nothing could be read; empty where something was.
    """

    path: str
    frames: int = 0
    frames_lost: int = 0
    frames_corrupt: int = 0
    fps: float | None = None
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    reason: str = ""

    def status(self, *, min_frames: int) -> Status:
        """Return the first that applies: unreadable, too_short (fewer than `min_frames` frames), damaged, ok."""
        if self.reason:
            return "unreadable"
        if self.frames < min_frames:
            return "too_short"
        return "damaged" if self.frames_lost or self.frames_corrupt else "ok"


# -- the journal -----------------------------------------------------------------------------------------------------


def read_journal(journal: Path, paths: Iterable[str], *, max_seconds: float) -> dict[str, VideoCheck]:
    """Return the checks of an earlier scan that still hold, by path; lines that are no records are skipped.

    A check holds while the file has the same size and time of change. One that failed must also have had the same
    `max_seconds`.
    """
    records = {}
    with suppress(FileNotFoundError), journal.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, TypeError, KeyError):  # half a line, where the scan was killed
                record = json.loads(line)
                records[record["check"]["path"]] = (VideoCheck(**record["check"]), record["state"], record["seconds"])
    held = {}
    for path in paths:
        if path not in records:
            continue
        check, state, seconds = records[path]
        if state is not None and state == _state(path) and (not check.reason or seconds == max_seconds):
            held[path] = check
    return held


def _state(path: str) -> list[int] | None:
    """Return what changes with a file or a folder of images: bytes, and nanoseconds of the last change."""
    try:
        files = [os.stat(path)]
        if os.path.isdir(path):
            files += [entry.stat() for entry in os.scandir(path)]
    except OSError:
        return None
    return [sum(file.st_size for file in files), max(file.st_mtime_ns for file in files)]


# -- checking --------------------------------------------------------------------------------------------------------


def check_videos(
    paths: Sequence[str],
    *,
    journal: Path,
    workers: int,
    max_seconds: float = ReadLimits.max_seconds,
    grace: float = 10.0,
    check: Check = check_video,
) -> Generator[VideoCheck, None, None]:
    """Check videos in worker processes and note each result in the journal before it is given out.

    Args:
        paths: absolute paths, each once.
        journal: the file that results are appended to, for `read_journal`.
        workers: the number of processes.
        max_seconds: how long reading one video may take; `grace` seconds later its worker is ended.
        check: a function that a worker calls as `check(path, limits=...)`; it must be picklable.

    Yields:
        the checks in the order in which they finish.

    Raises:
        ValueError: `workers` is below 1 or above `MOST_WORKERS`, or `max_seconds` is not above 0.
        OSError: the journal cannot be written.
        RuntimeError: the worker processes do not start.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers must be 1 or more, at most {MOST_WORKERS}, got {workers}.")
    states = {path: _state(path) for path in paths}
    if FORK_SERVER and paths:
        _start_fork_server()
    crew = [_Worker(check, max_seconds, grace) for _ in range(min(workers, len(paths)))]
    with journal.open("a", encoding="ascii") as lines:
        lines.write("\n")  # ends the half line of a scan that was killed
        for result in _run(crew, deque(paths)):
            state = states[result.path]
            if state != _state(result.path):  # changed or vanished meanwhile: to be checked again
                state = None
            lines.write(json.dumps({"check": asdict(result), "state": state, "seconds": max_seconds}) + "\n")
            lines.flush()
            yield result


def _start_fork_server() -> None:
    """Start the fork server with Ctrl-C held back, which its workers inherit: this process takes it and ends them."""
    CONTEXT.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # the fork server would start it, and that lets Ctrl-C through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run(crew: list["_Worker"], waiting: deque[str]) -> Iterator[VideoCheck]:
    busy = list(crew)
    try:
        for worker in busy:
            worker.give(waiting.popleft())
        while busy:
            wait([worker.pipe for worker in busy], timeout=POLL_SECONDS)
            for worker in list(busy):
                result = worker.answer()
                if result is None:
                    continue
                if waiting:
                    worker.give(waiting.popleft())
                else:
                    busy.remove(worker)
                yield result
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    """A process that checks one video at a time; another takes its place where it dies or takes too long."""

    pipe: Connection

    def __init__(self, check: Check, max_seconds: float, grace: float) -> None:
        self.check, self.limits, self.seconds = check, ReadLimits(max_seconds=max_seconds), max_seconds + grace
        self.process: BaseProcess | None = None

    def give(self, path: str) -> None:
        """Hand the next video to the process, which is started if there is none."""
        if self.process is None:
            self._start()
        self.path = path
        self.deadline: float | None = None  # until it reports that it begins: starting takes seconds
        with suppress(OSError):  # it is dead, which `answer` will notice
            self.pipe.send(path)

    def _start(self) -> None:
        self.pipe, far_end = CONTEXT.Pipe()
        arguments = (far_end, self.check, self.limits)
        process = CONTEXT.Process(target=_serve, args=arguments, daemon=True)  # type: ignore[attr-defined]
        process.start()
        far_end.close()  # or the end of the process would not be seen
        self.process, self.finished = process, 0

    def answer(self) -> VideoCheck | None:
        """Return the result, also where the process died or is overdue; None while it is busy."""
        try:
            if self.pipe.poll():
                result = self.pipe.recv()
                if result is not None:
                    self.finished += 1
                    return result
                self.deadline = time.monotonic() + self.seconds
        except (EOFError, OSError):
            return self._died()
        if self.deadline is None or time.monotonic() < self.deadline:
            return None
        self.stop()
        return VideoCheck(self.path, reason=f"took longer than {self.seconds:g} s")

    def _died(self) -> VideoCheck | None:
        began, finished = self.deadline is not None, self.finished
        code = self.stop(patience=5)
        if finished:  # memory that one video spoilt may show at the next: only a fresh process proves anything
            self.give(self.path)
            return None
        how = signal.strsignal(-code) if code is not None and code < 0 else f"exit code {code}"
        if not began:
            raise RuntimeError(f"A worker process ended before it checked anything ({how}).")
        return VideoCheck(self.path, reason=f"the decoder crashed ({how})")

    def stop(self, *, patience: float = 0.0) -> int | None:
        """End the process, if there is one, and return its exit code; one that is dying gets `patience` seconds."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.join(patience)
        process.kill()
        process.join(5)  # not for ever: one that waits for a dead disk cannot be ended
        self.pipe.close()
        return process.exitcode


def _serve(pipe: Connection, check: Check, limits: ReadLimits) -> None:
    """Check the videos that come through the pipe: send None when one is begun, then its result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    logging.disable()  # a warning would tear the progress bar and tell what the result tells
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            path = pipe.recv()
            pipe.send(None)
            pipe.send(_checked(path, check, limits))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _checked(path: str, check: Check, limits: ReadLimits) -> VideoCheck:
    try:
        found = check(path, limits=limits)
    except Exception as error:  # whatever it is, the other videos are still to be checked
        reason = f"{error.reason}" if isinstance(error, VideoDecodingError) else f"{type(error).__name__}: {error}"
        return VideoCheck(path, reason=" ".join(reason.split()) or "unknown")
    return VideoCheck(
        path,
        frames=found.total_num_frames,
        frames_lost=found.frames_lost,
        frames_corrupt=found.frames_corrupt,
        fps=found.fps,
        seconds=found.duration,
        width=found.width,
        height=found.height,
    )


# -- what is written -------------------------------------------------------------------------------------------------


def write_report(checks: Iterable[VideoCheck], file: Path, *, min_frames: int) -> None:
    """Write one row (`COLUMNS`) per video as CSV or JSON, by the file's suffix; all of it or nothing.

    Names that are not UTF-8 keep their bytes in CSV: read it with `errors="surrogateescape"`. No cell is a
    spreadsheet's formula: paths are absolute, and reasons begin with words.
    """
    rows = [asdict(check) | {"status": check.status(min_frames=min_frames)} for check in checks]
    rows = [{column: row[column] for column in COLUMNS} for row in rows]
    table = io.StringIO()
    if file.suffix.lower() == ".json":
        json.dump(rows, table, indent=1)
    else:
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with atomic_write(file, "wb") as opened:
        opened.write(table.getvalue().encode("utf-8", "surrogateescape"))


def write_clean_list(listed: Iterable[tuple[bytes, str | None]], file: Path, *, unusable: set[str]) -> None:
    """Write the lines of a list, byte for byte, without those of the videos whose paths are in `unusable`.

    listed: each line with the path of its video, or None where it names no video.
    """
    with atomic_write(file, "wb") as opened:
        opened.writelines(line for line, path in listed if path not in unusable)

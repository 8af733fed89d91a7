"""Videos of users: where each is taken from, who may ask about it, and when it is deleted.

A user is a session of the page, or of a program that asks it. What is kept for one is its last upload, and a folder
for its results under a name that nobody guesses; both go when the user leaves, and by age. Names of users' files are
shown and never make a path.
"""

import os
import secrets
import shutil
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..model.video_container_ila import VideoDecodingError
from ..model.video_reading_ila import as_file
from ..model.video_urls_ila import is_url
from .limits import AppError, Busy, VideoFacts, check_size, check_video, reader_words, shown
from .options import MEBIBYTE, AppOptions


GRACE = 20.0  # seconds for which a user who left may come back, as a phone does that lost its network
BLOCK = 4096  # bytes of disk that a file takes beside its content, also an empty one
RESULTS = "results"  # of the root, a folder for each session in it


class Video(NamedTuple):
    """Hold a video that may be read.

    path: of a regular file. name: for people. facts: what is known of it.
    """

    path: Path
    name: str
    facts: VideoFacts


@dataclass
class _Session:
    """Hold what is kept for one user."""

    folder: Path
    upload: Path | None = None
    at_work: int = 0
    last_used: float = field(default_factory=time.monotonic)
    left: float | None = None  # since when


class Inputs:
    """Open videos of users, and delete what they leave.

    Args:
        options: of the page.
        root: folder that uploads are written to and results lie in; it is this server's alone.
    """

    def __init__(self, options: AppOptions, root: str | Path) -> None:
        self.options = options
        self.root = Path(root).resolve()
        self.folders = [Path(folder).resolve() for folder in options.folders]
        self.shared: set[Path] = set()  # files below the root that everybody may open: the examples
        self._sessions: dict[str, _Session] = {}
        self._connected: Counter[str] = Counter()  # open connections of pages and programs that stay, by session
        self._lock = threading.Lock()

    @contextmanager
    def open(self, session: str, *, upload: str | None = None, path: str | None = None) -> Iterator[Video]:
        """Check a video and hold it while it is asked about.

        Args:
            session: of the user, `Request.session_hash` of Gradio.
            upload: file that the user sent, below the root.
            path: on the server, in one of the allowed folders, absolute or below one of them; where the options allow
                it, an http(s) URL.

        Raises:
            AppError: none or both are given, a file that this user may not read or that is gone, or a limit is met.
        """
        upload, path = upload or None, (path or "").strip() or None
        if (upload is None) == (path is None):
            raise AppError(
                "Choose a video first: send one, record one, or name one on the server."
                if upload is None
                else "There are two videos, one sent and one named by its path. Take one of them away."
            )
        with self._at_work(session) as kept:
            if upload is not None:
                file = self._uploaded(kept, upload)
                name = file.name
            elif is_url(path) or "://" in str(path):
                file, name = self._downloaded(kept, str(path)), str(path).partition("?")[0].rstrip("/")
            else:
                file = self._on_server(str(path))
                name = file.name
            yield Video(file, os.path.basename(name), check_video(file, name, self.options))

    def folder(self, session: str) -> Path:
        """Return the folder of a user's results; it goes when the user does."""
        with self._lock:
            kept = self._session(session)
            kept.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return kept.folder

    @contextmanager
    def connected(self, session: str) -> Iterator[None]:
        """Keep a session's place while the block runs; those without a connection make room when all are taken."""
        with self._lock:
            self._connected[session] += 1
        try:
            yield
        finally:
            with self._lock:
                self._connected[session] -= 1
                if not self._connected[session]:
                    del self._connected[session]

    def forget(self, session: str) -> None:
        """Say that a user has left; `sweep` deletes what was kept, unless the user comes back within `GRACE`."""
        with self._lock:
            if session in self._sessions:
                self._sessions[session].left = time.monotonic()

    def sweep(self, waiting: int = 0) -> None:
        """Delete what users left behind: of those who are gone, and what is older than the options allow.

        waiting: questions that wait; what they ask about may become older by as long as they may have to wait.
        """
        now = time.monotonic()
        oldest = 60 * self.options.idle_minutes + waiting * self.options.job_seconds / self.options.jobs
        with self._lock:
            for name, kept in list(self._sessions.items()):
                gone = kept.left is not None and now - kept.left > GRACE
                if not kept.at_work and (gone or now - kept.last_used > oldest):
                    self._delete(name)
            in_use = {kept.upload for kept in self._sessions.values()}
            folders = {kept.folder for kept in self._sessions.values()}
        for file in self._files():
            with suppress(OSError):
                if (
                    file not in in_use | self.shared
                    and file.parent not in folders
                    and time.time() - _newest(file) > oldest
                ):
                    file.unlink()
                    if file.parent != self.root:
                        file.parent.rmdir()  # unless another file lies there

    def check_room(self, size: int = 0) -> None:
        """Raise a Busy if `size` bytes more would be too many of temporary files."""
        used = sum(_size(file) for file in self._files())
        if used + size > self.options.disk_megabytes * MEBIBYTE:
            raise Busy("Busy: the server's space for videos is full. Try again in a few minutes.")

    def wait_for_work(self, seconds: float) -> bool:
        """Wait until nobody's video is asked about, at most for some seconds; return whether it is so."""
        end = time.monotonic() + seconds
        while at_work := any(kept.at_work for kept in list(self._sessions.values())):
            if time.monotonic() > end:
                break
            time.sleep(0.05)
        return not at_work

    def close(self) -> None:
        """Delete everything."""
        with self._lock:
            self._sessions.clear()
        shutil.rmtree(self.root, ignore_errors=True)

    # -- sessions -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _at_work(self, name: str) -> Iterator[_Session]:
        with self._lock:
            kept = self._session(name)
            kept.at_work += 1
        try:
            yield kept
        finally:
            with self._lock:
                kept.at_work -= 1
                kept.last_used = time.monotonic()

    def _session(self, name: str) -> _Session:
        if name not in self._sessions:
            if len(self._sessions) >= self.options.users:
                self._make_room()
            self._sessions[name] = _Session(self.root / RESULTS / secrets.token_urlsafe(24))
        kept = self._sessions[name]
        kept.last_used, kept.left = time.monotonic(), None
        return kept

    def _make_room(self) -> None:
        """Forget the user who has left for longest, else who asked longest ago without staying; or raise a Busy."""
        free = [
            (kept.left is None, kept.last_used if kept.left is None else kept.left, name)
            for name, kept in self._sessions.items()
            if not kept.at_work and (kept.left is not None or not self._connected[name])
        ]
        if not free:
            raise Busy(f"Busy: {self.options.users} people use this page already. Try again in a few minutes.")
        self._delete(min(free)[2])

    def _delete(self, name: str) -> None:
        kept = self._sessions.pop(name)
        shutil.rmtree(kept.folder, ignore_errors=True)
        if kept.upload is not None:
            _unlink(kept.upload)

    # -- where a video comes from -------------------------------------------------------------------------------------

    def _uploaded(self, kept: _Session, upload: str) -> Path:
        """Return the file of an upload, which then belongs to this user alone; the user's earlier one is deleted."""
        gone = f"{shown(upload)} is no longer here: uploads are deleted after a while. Send the video again."
        file = _regular_file(upload)
        if file is None or not file.is_relative_to(self.root):
            raise AppError(gone)
        if file in self.shared:
            return file
        with self._lock:
            others = [other for other in self._sessions.values() if other is not kept]
            if any(file == other.upload or file.is_relative_to(other.folder) for other in others):
                raise AppError(gone)
            if kept.upload not in (None, file) and kept.at_work == 1:
                _unlink(kept.upload)
            kept.upload = file
        return file

    def _on_server(self, path: str) -> Path:
        """Return the file that a path names, links followed, if it lies in an allowed folder; else an AppError."""
        refused = AppError(
            f"{shown(path)} is no video in the folders that this page may read"
            + ("." if self.folders else ": there are none. Send the video instead.")
        )
        for folder in self.folders:
            file = _regular_file(folder / path)  # an absolute path stays what it is
            if file is not None and any(file.is_relative_to(allowed) for allowed in self.folders):
                return file
        raise refused

    def _downloaded(self, kept: _Session, url: str) -> Path:
        """Return a copy of what lies behind a URL, in the user's folder; an AppError where that is not allowed."""
        if not self.options.urls:
            raise AppError("Addresses are not taken here. Send the video instead.")
        if not is_url(url):
            raise AppError("Of addresses only those that begin with https:// or http:// are taken.")
        name = os.path.basename(url.partition("?")[0].rstrip("/"))
        self.check_room()
        kept.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = kept.folder / f"download_{secrets.token_hex(8)}"
        try:
            with as_file(url, self.options.read_limits()) as video, file.open("xb") as copy:
                video.file.seek(0)
                shutil.copyfileobj(video.file, copy)
        except VideoDecodingError as error:
            _unlink(file)
            raise AppError(reader_words(error, name)) from error
        check_size(file.stat().st_size, name, self.options)
        with self._lock:
            if kept.upload is not None and kept.at_work == 1:
                _unlink(kept.upload)
            kept.upload = file
        return file

    def _files(self) -> list[Path]:
        return [Path(folder, name) for folder, _, names in os.walk(self.root) for name in names]


def _regular_file(path: str | Path) -> Path | None:
    """Return a path with its links followed if a regular file lies there, else None: no folder, device or pipe."""
    try:
        file = Path(path).resolve(strict=True)
        return file if stat.S_ISREG(file.stat().st_mode) else None
    except (OSError, ValueError, RuntimeError):  # missing, too long, a NUL, a circle of links
        return None


def _unlink(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
        file.parent.rmdir()  # Gradio gives each upload a folder; one with more in it stays


def _newest(file: Path) -> float:
    found = file.stat()
    return max(found.st_mtime, found.st_ctime)


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size + BLOCK
    return 0

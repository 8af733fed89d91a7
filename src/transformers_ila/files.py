"""Files and folders that appear whole or not at all, however the writing ends, and have one writer at a time."""

import json
import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet


try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


LOCK = "_writer.lock"  # the Trainer uploads what it finds while it trains, but nothing that begins with _


class FolderInUseError(ValueError):
    """Report that another process, or another thread of this one, writes to a folder."""


_held: dict[tuple[Path, int], IO[bytes]] = {}  # file and thread -> the open lock of `only_writer`
_locks: WeakSet[IO[bytes]] = WeakSet()  # all open ones


def _forget_locks() -> None:
    """Close the parent's locks in a process that was forked, or they would last until its last child ends."""
    for file in list(_locks):
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def open_lock(path: Path) -> IO[bytes]:
    """Open a file to lock; forked children, such as a data loader's workers, close it and so do not keep the lock."""
    file = path.open("a+b")
    _locks.add(file)
    return file


def sign_lock(file: IO[bytes]) -> None:
    """Write this machine and process into a lock file that this process holds."""
    file.truncate(0)
    file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode("ascii"))
    file.flush()


def signature_of(file: IO[bytes]) -> dict[str, Any]:
    """Return host and process that signed a lock file; empty where nobody has yet."""
    file.seek(0)
    try:
        found = json.loads(file.read(1000))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def describe_signature(signature: dict[str, Any]) -> str:
    """Return a signature in words, such as "process 4711 on node17"."""
    return f"process {signature.get('process', '(unknown)')} on {signature.get('host', 'an unknown machine')}"


@contextmanager
def only_writer(folder: str | Path, name: str = LOCK, *, wait: bool = False) -> Iterator[None]:
    """Keep all others from writing to a folder while the block runs; it is made, and goes again if it stays empty.

    The lock is the operating system's (flock), on a file `name` in the folder that is gone afterwards. It ends with
    its process, however that ends: a file that a killed process left keeps nobody out. A thread that has the lock
    enters further blocks at once, and takes it anew there if its file was deleted. Where the file system has no locks,
    or does not share them between machines, nothing is kept out; a warning says so as far as it can be told.

    Args:
        folder: the folder; all of its names mean the same one.
        name: of the lock; locks of different names know nothing of each other.
        wait: wait for others, in place of an error.

    Raises:
        FolderInUseError: another writer has the lock; its machine and process are named.
        OSError: the lock file cannot be written.
    """
    path = Path(os.path.realpath(folder)) / name
    own, was_there = (path, threading.get_ident()), path.parent.exists()
    outer = _held.get(own)
    if outer is None or not _is_at(path, outer):
        lock = _locked(path, wait=wait)
        if lock is None:
            yield
            return
        if outer is not None:
            outer.close()
        _held[own] = lock
    if outer is not None:
        yield
        return
    try:
        yield
    finally:
        lock = _held.pop(own, None)
        if lock is not None:  # else this is a forked child, and the lock is not its own
            if _is_at(path, lock):
                path.unlink()  # while it is held: whoever has opened it meanwhile opens it anew
            lock.close()
            if not was_there:
                with suppress(OSError):
                    path.parent.rmdir()


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _locked(path: Path, *, wait: bool) -> IO[bytes] | None:
    """Return the open lock file with this process's name in it; None where there are no locks."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open_lock(path)
        except FileNotFoundError:
            if path.parent.exists():
                raise
            continue  # its writer has just removed the folder
        try:
            if fcntl is None:
                raise OSError("this system has none")
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # some file systems call it a permission
            writer = describe_signature(signature_of(file))
            file.close()
            raise FolderInUseError(
                f"Another process writes to {str(path.parent)!r}: {writer}. Wait for it or end it, or name another "
                "folder."
            ) from error
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            logger.warning(f"Nothing keeps others from writing to {str(path.parent)!r}: no file locks ({error}).")
            return None
        if _is_at(path, file):
            break
        file.close()  # its writer has just removed it
    left, host = signature_of(file), socket.gethostname()
    if left.get("host", host) != host:
        logger.warning(
            f"{describe_signature(left)} wrote to {str(path.parent)!r} and did not end in order. If it still runs, "
            "this file system does not share locks between machines: end one of the two."
        )
    sign_lock(file)
    return file


@contextmanager
def atomic_write(path: str | Path, mode: str = "w", encoding: str | None = "utf-8") -> Iterator[IO[Any]]:
    """Open a hidden file beside `path` for writing, and put it in the place of `path` when the block ends.

    After an error the hidden file is removed and what was at `path` is still there. The content is on the disk before
    it takes the name, so that a power failure leaves either file whole. Parent folders are made. A link is followed
    and stays; a file that is replaced hands on its permissions, and a new one has those that the umask leaves. What is
    no regular file, such as `/dev/stdout`, is written to directly.

    Args:
        path: the file to write.
        mode: `"w"` for text or `"wb"` for bytes.
        encoding: of text, whose line ends are written as they are.

    Raises:
        ValueError: another mode.
        OSError: the file cannot be written.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"`mode` must be 'w' or 'wb', got {mode!r}.")
    options: dict[str, Any] = {} if mode == "wb" else {"encoding": encoding, "newline": ""}
    target = Path(os.path.realpath(path))
    exists = os.path.exists(path)
    if exists and not os.path.isfile(path):
        with open(path, mode, **options) as file:
            yield file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if exists:
            shutil.copymode(target, draft)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, *, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Make a hidden folder to write to, and move its files into `folder` when the block ends; not after an error.

    Files of the same name are replaced, `config.json` last: a folder cannot be loaded before it is there. Other files
    in `folder` stay, except those of an earlier writing that match a pattern in `stale`. Nobody else may write to a
    folder that exists meanwhile (`only_writer`), so that no files of two are mixed.

    Raises:
        ValueError: `folder` is a file, or another process writes to it.
        OSError: the files cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    exists = folder.exists()
    with ExitStack() as stack:
        if exists:
            stack.enter_context(only_writer(folder))
        # inside a folder that exists: it may be a file system of its own, which nothing can be moved to from beside it
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name[:40]}-", dir=folder if exists else folder.parent))
        stack.callback(shutil.rmtree, draft, ignore_errors=True)
        yield draft
        for path in (*draft.iterdir(), draft):  # safetensors writes for its user alone, and so is the draft made
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
        if not exists:
            os.replace(draft, folder)
            return
        new = {path.name for path in draft.iterdir()}
        for name in sorted(new, key=lambda name: name == "config.json"):
            os.replace(draft / name, folder / name)
        for pattern in stale:
            for path in folder.glob(pattern):
                if path.name not in new:
                    path.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

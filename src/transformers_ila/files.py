"""Files and folders that appear whole or not at all, however the writing ends."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


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
        encoding: of text.

    Raises:
        ValueError: another mode.
        OSError: the file cannot be written.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"`mode` must be 'w' or 'wb', got {mode!r}.")
    encoding = None if mode == "wb" else encoding
    target = Path(os.path.realpath(path))
    exists = os.path.exists(path)
    if exists and not os.path.isfile(path):
        with open(path, mode, encoding=encoding) as file:
            yield file
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(draft, mode.replace("w", "x"), encoding=encoding) as file:
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
    in `folder` stay, except those of an earlier writing that match a pattern in `stale`.

    Raises:
        ValueError: `folder` is a file.
        OSError: the files cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{str(folder)!r} is no folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    exists = folder.exists()
    # inside a folder that exists: it may be a file system of its own, which nothing can be moved to from beside it
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder if exists else folder.parent))
    try:
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
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

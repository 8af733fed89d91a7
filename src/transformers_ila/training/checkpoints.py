"""Checkpoints that count only when their last file, a manifest, is written: no run resumes from half of one.

One run at a time writes to a folder, and a checkpoint that changes while it is loaded is not gone on from.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from ..distributed import all_gather, all_succeed
from ..files import atomic_write, only_writer
from ..model.class_names_ila import (
    consistent_label_fields,
    contradiction,
    explicit_class_names,
    explicit_names,
    names_in_fields,
)


logger = logging.getLogger(__name__)


COMPLETE = "complete.json"  # the manifest: every other file of a checkpoint with its size
FileStates = dict[str, tuple[int, int, int] | None]  # name -> inode, time of the last change in ns, size; None: gone


@contextmanager
def only_run(folder: str | Path, *, writes: bool) -> Iterator[None]:
    """Keep all other runs out of an output folder while the block runs; every process calls this.

    writes: whether this process writes to the folder, and so takes the lock (`only_writer`): `args.should_save`.

    Raises:
        FolderInUseError: another run has the folder; its machine and process are named.
        RemoteRankError: the same, found by another process of this run.
    """
    with ExitStack() as stack:
        all_succeed(lambda: stack.enter_context(only_writer(folder)) if writes else None)
        yield


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the latest checkpoint that was written to its end; a warning names those that were not."""
    checkpoints = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _step(path) is not None]
    for path in sorted(checkpoints, key=lambda path: _step(path) or 0, reverse=True):
        reason = verify_manifest(path)
        if reason is None:
            return path
        logger.warning(f"{str(path)!r} is not a whole checkpoint and is left alone: {reason}.")
    return None


def _step(path: Path) -> int | None:
    number = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(number) if number.isdecimal() else None


def verify_manifest(checkpoint: Path) -> str | None:
    """Return why a checkpoint is not whole; None if it is."""
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_text())
    except (OSError, ValueError):
        return f"{COMPLETE} is missing or broken"
    if not isinstance(sizes, dict) or TRAINER_STATE_NAME not in sizes:
        return f"{COMPLETE} does not list {TRAINER_STATE_NAME}"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file() or file.stat().st_size != size:
            return f"{name} is missing or has another size"
    return None


def file_states(checkpoint: Path) -> FileStates:
    """Return what changes with each file that the manifest names, and with the manifest itself."""
    states: FileStates = {}
    for name in (COMPLETE, *json.loads((checkpoint / COMPLETE).read_text())):
        try:
            found = (checkpoint / name).stat()
        except OSError:
            states[name] = None
        else:
            states[name] = (found.st_ino, found.st_mtime_ns, found.st_size)
    return states


def require_unchanged(checkpoint: Path, before: FileStates) -> None:
    """Raise a ValueError where a file of a checkpoint is gone or another one than `before`, when it was checked.

    Transformers passes in silence over an optimizer, a schedule or generators that are not there.
    """
    now = file_states(checkpoint) if (checkpoint / COMPLETE).is_file() else {}
    gone = [f"{name} ({'changed' if now.get(name) else 'gone'})" for name in before if now.get(name) != before[name]]
    if gone:
        raise ValueError(
            f"{str(checkpoint)!r} changed while it was loaded: {', '.join(gone)}. Something else writes there or "
            "deletes; end it, and resume from a whole checkpoint."
        )


def require_states(checkpoint: Path, *, process: int | None) -> None:
    """Raise a ValueError where a checkpoint was saved without the states that training goes on with.

    process: this one's number among several, which has random generators of its own; None for one process alone.
    """
    names = list(json.loads((checkpoint / COMPLETE).read_text()))
    kinds = {"optimizer": "optimizer", "schedule": "scheduler.", "random generators": "rng_state"}
    missing = [kind for kind, begin in kinds.items() if not any(name.startswith(begin) for name in names)]
    if missing:
        raise ValueError(
            f"{str(checkpoint)!r} has no {' and no '.join(missing)} (`save_only_model`?): it is a model to begin "
            "with, not a checkpoint to go on from."
        )
    own = "rng_state.pth" if process is None else f"rng_state_{process}.pth"
    if own not in names:
        logger.warning(
            f"{str(checkpoint)!r} was saved by another number of processes and has no {own}: the run goes on with "
            "other random numbers."
        )


def write_manifest(checkpoint: Path) -> None:
    """Make sure that every file of a checkpoint is on the disk, then write the manifest, whole or not at all."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != COMPLETE]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    with atomic_write(checkpoint / COMPLETE) as file:
        json.dump({str(path.relative_to(checkpoint)): path.stat().st_size for path in files}, file, indent=1)


def require_same_checkpoint(checkpoint: Path | None, *, own_folders: bool = False) -> None:
    """Raise a ValueError on every process unless all would go on from the same step of the same files; a collective.

    Args:
        checkpoint: the whole checkpoint that this process found; None to begin.
        own_folders: every machine writes to a folder of its own (`save_on_each_node`).
    """
    found = all_gather(lambda: _identity(checkpoint, own_folders=own_folders))
    if any(other != found[0] for other in found):
        lines = [
            f"process {rank}: {'the beginning' if step is None else step}" for rank, (step, _) in enumerate(found)
        ]
        same = " (of different content)" if len({name for name, _ in found}) == 1 else ""
        raise ValueError(
            f"The processes would not go on from the same checkpoint{same}: {'; '.join(lines)}. "
            "All machines must see the same output folder."
        )


def require_same_classes(checkpoint: Path, config: Any) -> None:
    """Raise a ValueError if a checkpoint's model has other class names than `config`, or the same in another order."""
    file = checkpoint / CONFIG_NAME
    if not file.is_file():  # of an adapter alone
        return
    stored = explicit_names(names_in_fields(consistent_label_fields(json.loads(file.read_text(encoding="utf-8")))))
    own = explicit_class_names(config)
    if stored is not None and own is not None and stored != own:
        differ = contradiction(stored, own)
        raise ValueError(f"{str(checkpoint)!r} was trained on other classes than this model's: {differ}.")


def _identity(checkpoint: Path | None, *, own_folders: bool) -> tuple[str | None, Any]:
    """Return a checkpoint's name and what it consists of."""
    if checkpoint is None:
        return None, None
    sizes = json.loads((checkpoint / COMPLETE).read_text())
    if own_folders:  # each has the generators of its own processes, and measured its own time
        return checkpoint.name, sorted(name for name in sizes if not name.startswith("rng_state"))
    return checkpoint.name, [sizes, (checkpoint / TRAINER_STATE_NAME).read_text()]

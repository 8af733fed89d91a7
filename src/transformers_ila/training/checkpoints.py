"""Checkpoints that count only when their last file, a manifest, is written: no run resumes from half of one."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME

from ..distributed import all_gather
from ..files import atomic_write
from ..model.label_fields_ila import (
    consistent_label_fields,
    contradiction,
    explicit_class_names,
    explicit_names,
    names_in_fields,
)


logger = logging.getLogger(__name__)


COMPLETE = "complete.json"  # the manifest: every other file of a checkpoint with its size


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

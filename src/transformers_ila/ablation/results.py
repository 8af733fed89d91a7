"""The results of finished runs: where they lie, and which of them belong to an ablation.

A run writes a file of its own, so that several processes and machines may share a folder. `runs.jsonl` holds finished
runs as lines, to be kept and handed on: what is in either is finished. Lines with a "form" are experiments that no
recipe describes, and belong to none.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..files import atomic_write, only_writer
from .ablation import Ablation


RUNS = "runs.jsonl"
Result = dict[str, Any]


def result_file(folder: str | Path, variant: str, seed: int) -> Path:
    """Return the path of the file that a run writes."""
    name = "".join(letter if letter.isalnum() else "_" for letter in variant)
    name = name.encode()[:240].decode(errors="ignore")  # file systems take 255 bytes
    digest = hashlib.sha256(variant.encode(errors="surrogatepass")).hexdigest()[:6]  # they may differ in signs only
    return Path(folder) / "runs" / f"{name}-{digest}" / f"seed{seed}.json"


def read_results(ablation: Ablation, folder: str | Path) -> list[Result]:
    """Return the results of finished runs, in the order of the recipe's seeds and variants.

    Raises:
        ValueError: a result of other numbers than the recipe's, or results that began from different towers; a fault
            in the user's lists.
    """
    kept = {(row["variant"], row["seed"]): row for row in read_rows(folder) if "form" not in row}
    decided = {variant: ablation.decided(variant) for variant in ablation.variants}
    found, tower = [], tower_digest(folder)
    for seed in ablation.seeds:
        for variant in ablation.variants:
            file, result = result_file(folder, variant, seed), kept.get((variant, seed))
            if file.is_file():
                result = json.loads(file.read_text(encoding="utf-8"))
            elif result is None:
                continue
            else:
                file = Path(folder) / RUNS
            refuse_other(file, result["decided"], decided[variant])
            tower = tower or result.get("tower")
            if result.get("tower", tower) != tower:
                raise ValueError(
                    f"{str(file)!r} began from another tower than {str(folder)!r} has: delete one of them."
                )
            found.append(result)
    return found


def read_rows(folder: str | Path) -> list[Result]:
    """Return the rows of `runs.jsonl`; there are none where there is no such file."""
    file = Path(folder) / RUNS
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def refuse_other(file: Path, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a ValueError where a file was made with other settings than those asked for now."""
    now = json.loads(json.dumps(now))
    other = [key for key in now if stored.get(key) != now[key]]
    if other:
        raise ValueError(
            f"{str(file)!r} is of another ablation ({', '.join(other)} differ): delete it, or name another folder."
        )


def tower_digest(folder: str | Path) -> str | None:
    """Return the SHA-256 of the tower that all runs begin from; None where the folder has no tower of its own."""
    file = Path(folder) / "tower" / "model.safetensors"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def write_json(file: Path, values: Any) -> None:
    """Write values as JSON; the file is replaced as a whole or not at all."""
    with atomic_write(file) as stream:
        json.dump(values, stream, indent=1)


def in_turns(folder: str | Path, what: str) -> AbstractContextManager[None]:
    """Return a lock on a part of a folder; while its block runs, other processes that ask for it wait."""
    return only_writer(folder, f".{what}.lock", wait=True)

"""The code that lies beside exported weights goes wherever they are saved again."""

import shutil
from pathlib import Path
from typing import Any


def save_code(owner: Any, folder: str | Path) -> None:
    """Copy the `*_ila.py` into `folder`, if `owner` (a configuration or a processor) names classes in them.

    Loaded from an export it does (`auto_map`), and who saves it again by `save_pretrained` keeps that; without the
    files such a folder would load on no machine that lacks the package.
    """
    if getattr(owner, "auto_map", None):
        for source in code_files():
            if source.parent.resolve() != Path(folder).resolve():
                shutil.copyfile(source, Path(folder) / source.name)


def code_files() -> list[Path]:
    """List the modules that ship to the Hub, which are siblings of this one."""
    return sorted(Path(__file__).parent.glob("*_ila.py"))

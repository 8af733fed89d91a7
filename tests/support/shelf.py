"""A store at addresses `shelf://...`, in memory, that can fail as stores over a network do."""

from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from transformers_ila.stores import addresses


class Shelf(MemoryFileSystem):
    """Hold files in memory, apart from `memory://`.

    missing_bytes: how many bytes each answer lacks. error: what is raised in place of an answer. ranges: whether parts
    of files can be asked for, or all of a file comes.
    """

    protocol = "shelf"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    missing_bytes = 0
    error: Exception | None = None
    ranges = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("shelf://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Return bytes of a file, fewer than there are, or an error."""
        if Shelf.error is not None:
            raise Shelf.error
        content = super().cat_file(path, *((start, end) if Shelf.ranges else ()), **options)
        return content[: len(content) - Shelf.missing_bytes]


fsspec.register_implementation("shelf", Shelf, clobber=True)


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is asked for again at once."""
    monkeypatch.setattr(addresses, "READ_WAITS", (0.0,) * 4)


def fill(files: dict[str, bytes]) -> None:
    """Put these files, by bucket and key, into an empty store."""
    Shelf.store.clear()
    Shelf.pseudo_dirs[:] = [""]
    Shelf.missing_bytes, Shelf.error, Shelf.ranges = 0, None, True
    for name, content in files.items():
        fsspec.filesystem("shelf").pipe(name, content)

"""A store at addresses `shelf://...`, in memory, that can fail as stores over a network do."""

from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Shelf(MemoryFileSystem):
    """Hold files in memory, apart from `memory://`, and answer with fewer bytes than there are if it is told to.

    missing_bytes: how many bytes each answer lacks. error: what each answer is instead.
    """

    protocol = "shelf"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    missing_bytes = 0
    error: Exception | None = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("shelf://"))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        """Return bytes of a file, or what this store was told."""
        if Shelf.error is not None:
            raise Shelf.error
        content = super().cat_file(path, start, end, **options)
        return content[: len(content) - Shelf.missing_bytes]


fsspec.register_implementation("shelf", Shelf, clobber=True)

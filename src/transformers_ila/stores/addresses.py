"""What an address is, the file system that knows it, and what is done and said where a store fails.

A store may be slow, refuse, or break off in the middle. What is asked for is asked for again, a few times. A package
for a store, such as s3fs, is imported when it is used; settings and credentials are those that it finds for itself,
and no message repeats them.
"""

import io
import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fsspec.core import url_to_fs
from fsspec.registry import known_implementations

from ..model.video_urls_ila import redact


T = TypeVar("T")
ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*::)*[A-Za-z][A-Za-z0-9+.-]+://")  # of a chain, too
READ_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before a request is made again, behind the client's own attempts
WRITE_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # of what was computed, and would be lost
FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    io.UnsupportedOperation,
)
HOPELESS = re.compile("credential|authentication|paramvalidation|notimplemented|typeerror", re.IGNORECASE)
LONGEST_REASON = 400  # characters; some clients repeat a page of the server


# -- addresses and paths ---------------------------------------------------------------------------------------------


def is_address(place: Any) -> bool:
    """Return whether a place is a text that begins with a scheme, such as `s3://`, `hf://` or `https://`."""
    return isinstance(place, str) and ADDRESS.match(place) is not None


def plain_place(text: str) -> str:
    """Return a path without `file://` before it, and an address with its scheme in small letters."""
    scheme, mark, path = text.partition("://")
    if not mark or not scheme.isascii():
        return text
    return path if scheme.lower() in ("file", "local") else f"{scheme.lower()}://{path}"


def join_address(folder: str, path: str) -> str:
    """Return the place of a path below a folder, without `..`; either may be an address, and a path may be absolute.

    Raises:
        ValueError: the path leads out of the store that the folder's address names.
    """
    path = plain_place(path)
    if "://" in path:
        return path
    if "://" not in folder or os.path.isabs(path):
        return os.path.normpath(os.path.join(folder, path))
    if not {"", ".", ".."} & set(path.split("/")):  # the folder's own slashes stay: they are part of a key
        return f"{folder.rstrip('/')}/{path}"
    scheme, _, place = folder.partition("://")
    joined = os.path.normpath(os.path.join(place, path))
    if joined.split("/")[0] != place.split("/")[0]:
        raise ValueError(f"{path!r} leads out of {redact(folder)!r}")
    return f"{scheme}://{joined}"


def fixed_part(text: str) -> str:
    """Return the folder that a path, an address, a pattern or a range begins with."""
    found = re.search(r"[*?\[{]", text)
    return text[: found.start() if found else len(text)].rpartition("/")[0]


def open_store(address: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the place in it.

    Raises:
        ImportError: the package for this kind of address is not installed; the message names it.
        ValueError: no such kind of address is known, or it names no place.
    """
    scheme, _, place = address.partition("://")
    scheme, shown = scheme.lower(), redact(address)
    if not place.strip("/"):
        raise ValueError(f"{shown!r} names no bucket or folder; allowed are addresses such as s3://bucket/folder.")
    if "::" in address:
        raise ValueError(f"{shown!r} is a chain of addresses; allowed is one, such as s3://bucket/folder.")
    try:
        return url_to_fs(f"{scheme}://{place}")
    except ImportError as error:
        hint = known_implementations.get(scheme, {}).get("err", redact(str(error)))
        raise ImportError(f"{scheme}:// needs a package that is not installed: {hint}.") from error
    except Exception as error:  # each store has errors of its own
        if scheme in known_implementations:
            raise ValueError(f"{shown!r} cannot be opened: {reason_of(error)}.") from None
        raise ValueError(
            f"{shown!r}: no file system is known for {scheme}://; allowed are those of fsspec, such as s3, gs, az, hf "
            "and file."
        ) from None


# -- failures --------------------------------------------------------------------------------------------------------


def asked(what: str, address: str, work: Callable[[], T], *, writing: bool = False) -> T:
    """Return what `work` returns; where the store fails it is called again, after longer and longer pauses.

    What is missing, is there already or is forbidden is not tried again, nor what lacks credentials.

    Args:
        what: what is done, for messages, such as "read" or "list".
        writing: whether it is tried for a minute, not for some seconds.

    Raises:
        OSError: all attempts failed, in one line that names the address without what is secret in it. It is of the
            error's kind where that is one of `FINAL`.
    """
    for wait in (*(WRITE_WAITS if writing else READ_WAITS), None):
        try:
            return work()
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # botocore's, aiohttp's and Azure's are neither OSError nor of one family
            kind = next((kind for kind in FINAL if isinstance(error, kind)), OSError)
            if wait is None or kind is not OSError or HOPELESS.search(type(error).__name__):
                raise kind(f"Cannot {what} {redact(address)!r}: {reason_of(error, address)}.") from None
            time.sleep(wait)
    raise AssertionError


def reason_of(error: BaseException, address: str = "") -> str:
    """Return what an error about an address says, in one line of a few hundred characters without secrets.

    The address before a reason, as errors from here have it, is left out.
    """
    text = redact(" ".join(str(error).split())).rstrip(".")
    text = re.sub(rf"^(?:Cannot read )?{re.escape(repr(redact(address)))}:? ", "", text)
    if isinstance(error, FileNotFoundError):
        return "there is no such file, folder or bucket"
    plain = text and (isinstance(error, (OSError, ImportError)) or type(error) is ValueError)
    return (text if plain else f"{type(error).__name__}: {text}".rstrip(": "))[:LONGEST_REASON]

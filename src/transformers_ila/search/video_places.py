"""Where the videos of an index lie, on a disk or at an address, and whether they still do."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from ..model.video_urls_ila import HIDDEN, is_url
from ..stores.addresses import asked, is_address, open_store, plain_place


ASKED_AT_ONCE = 32  # places; a store takes some hundredths of a second to answer


def is_there(place: str) -> bool | None:
    """Return whether something lies at a path or an address; None where nobody can tell.

    That is at http(s), where a refusal may mean anything, and where a place is shown without its secrets.

    Raises:
        OSError: a store that refuses or does not answer.
        ImportError, ValueError: an address that no installed package opens.
    """
    place = plain_place(place)
    if not is_address(place):
        return os.path.lexists(place) or (None if HIDDEN in place else False)
    if HIDDEN in place or is_url(place):
        return None
    files, path = open_store(place)

    def look() -> bool:
        files.invalidate_cache()  # of a listing, behind which a file may have come
        files.info(path)  # not `exists`, which some file systems deny also where they cannot ask
        return True

    try:
        return asked("look for", place, look)
    except FileNotFoundError:
        return False


def are_there(places: Iterable[str]) -> Iterator[bool | None]:
    """Return what `is_there` says of each place, asking for several at once."""
    places = iter(places)
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        while some := list(islice(places, 32 * ASKED_AT_ONCE)):  # the pool itself would take all of them at once
            yield from pool.map(is_there, some)


class Moves:
    """Tell files that have moved from others of the same name."""

    def __init__(self) -> None:
        self._gone: dict[str, bool] = {}  # by folder, as a store is asked about it once

    def are_two(self, before: str, now: str) -> bool:
        """Return whether two places hold two different files; where nothing lies at one of them they do not.

        Places of which nobody can tell (`is_there`) are held for one.

        Raises:
            OSError, ImportError, ValueError: as in `is_there`.
        """
        before, now = plain_place(before), plain_place(now)
        if before == now:
            return False
        if not (is_address(before) or is_address(now)):
            return os.path.exists(before) and os.path.exists(now) and not os.path.samefile(before, now)
        folder = _where_they_part(before, now)
        if folder not in self._gone:
            self._gone[folder] = is_there(folder) is False
        return not self._gone[folder] and bool(is_there(before)) and bool(is_there(now))


def _where_they_part(before: str, now: str) -> str:
    """Return the folder of `before` below which the rest of both places is the same; a bucket is no such folder."""
    parts, others = before.split("/"), now.split("/")
    least = 4 if is_address(before) else 2  # s3: "" bucket folder
    while len(parts) > least and len(others) > 1 and parts[-1] == others[-1]:
        parts, others = parts[:-1], others[:-1]
    return "/".join(parts)

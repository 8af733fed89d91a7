"""SIGTERM ends a command as Ctrl-C does, so that it keeps what it has found."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Turn SIGTERM into a KeyboardInterrupt, so that what waits to be written is written."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

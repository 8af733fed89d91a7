"""Runs one verb of the `ila` command: its module is imported when it runs, and no other.

A verb is a module with
- a docstring, which `--help` prints;
- `EXAMPLES`: two command lines;
- `run(options) -> int`: does the work, prints, and returns the exit code. Its annotations name the dataclasses of
  options (`parsing.read_options`). What can be checked before anything is loaded, their `__post_init__` checks;
- optionally `POSITIONAL`: the field that takes words without an option;
- optionally `choices_of_positional()`: a title and the names that `--help` lists for these words, and
- optionally `parse_arguments(arguments)`: reads the options in another way than `read_options`.
"""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils import logging

from ..distributed import RemoteRankError, is_first_of_machine
from ..markup import plain_line
from ..model.video_urls_ila import redact
from .parsing import HELP, help_text, read_options


logger = logging.get_logger(__name__)


# What is told in one line. RuntimeError: no memory, a lost worker; ImportError: an extra that is not installed.
FAILURES = (ValueError, OSError, RuntimeError, ImportError, MemoryError, SafetensorError, StrictDataclassError)


def main(arguments: Sequence[str]) -> int:
    """Run the verb that the first word names, and return its exit code. `ila_cli` refuses words that are no verb."""
    verb, *rest = arguments
    return run_verb(import_module(f".{verb.replace('-', '_')}", __package__), rest)


def run_verb(verb: ModuleType, arguments: Sequence[str]) -> int:
    """Read the options of a verb, run it, and return its exit code.

    A failure is one line on stderr and exit code 2; its traceback is logged at level debug
    (`TRANSFORMERS_VERBOSITY=debug`). All processes of a launcher are given the same options, so of those on one
    machine the first one alone says what is wrong with them. An interrupted verb returns 130.
    """
    name = verb.__name__.rpartition(".")[2].replace("_", "-")
    if hasattr(sys.stdout, "reconfigure"):  # a name with bytes that are no text is printed with escapes, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    first = is_first_of_machine()
    if wanted := [word for word in arguments if word in HELP]:
        if first:
            print(help_text(verb, name, all_options="--help-all" in wanted))
        return 0
    try:
        options = read_verb(verb, arguments)
    except FAILURES as error:
        return _failed(name, error) if first else 2
    try:
        return verb.run(*options)
    except RemoteRankError:  # the process that failed says why
        return 2
    except FAILURES as error:
        return _failed(name, error)
    except KeyboardInterrupt:
        print(f"ila {name}: interrupted", file=sys.stderr)
        return 130


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a verb as Ctrl-C does: a KeyboardInterrupt, so that it keeps what it has found."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def read_verb(verb: ModuleType, arguments: Sequence[str]) -> Sequence[Any]:
    """Read the options of a verb into what its `run` takes; ValueError or OSError says what is wrong with them."""
    return verb.parse_arguments(arguments) if hasattr(verb, "parse_arguments") else read_options(verb, arguments)


def _failed(name: str, error: BaseException) -> int:
    logger.debug(f"ila {name} failed.", exc_info=True)
    print(f"ila {name}: error: {plain_line(redact(str(error)), None) or type(error).__name__}", file=sys.stderr)
    return 2

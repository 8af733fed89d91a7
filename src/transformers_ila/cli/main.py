"""Runs one verb of the `ila` command: its module is imported when it runs, and no other."""

import sys
from collections.abc import Sequence
from importlib import import_module

from ila_cli import VERBS, usage_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `ila VERB ...` and return its exit code; 2 for an unknown verb."""
    verb, *rest = sys.argv[1:] if arguments is None else arguments
    if verb not in VERBS:
        return usage_error(verb)
    return import_module(f".{verb.replace('-', '_')}", __package__).main(rest)

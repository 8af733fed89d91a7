"""The `ila` command: its verbs, and what each of them does. Nothing else is imported until a verb runs."""

import runpy
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path


VERBS = {
    "demo": "train a small model on generated videos, label one, and draw where it looked",
    "train": "train a classifier by a recipe",
    "evaluate": "measure a model on labelled videos and write a report",
    "predict": "label videos, by a model's classes or by words of your own",
    "timeline": "find what happens when in a video of any length",
    "stream": "watch cameras and streams, and print every change of label with its delay",
    "show": "draw where a model looked in a video, or what a report or a timeline says",
    "index": "compute features of videos for a search",
    "search": "find videos by words or by an example",
    "evaluate-retrieval": "measure how well texts find videos, and videos texts",
    "app": "serve a page on which anybody can ask a model about a video",
    "shard": "write videos and labels as tar shards, to a folder or a store",
    "check-videos": "find videos that cannot be read, are damaged or too short",
    "convert": "turn a checkpoint of the release or of OpenAI's CLIP into a folder that loads anywhere",
    "card": "write the model card of a folder",
    "publish": "upload a folder to the Hub",
    "probe": "measure what frozen features are worth",
    "ablate": "compare temporal modules over seeds",
    "analyse": "measure what neighbouring frames share",
    "cost": "print multiply-accumulates, parameters and time",
}


def usage() -> str:
    """Return the text of `ila --help`."""
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:{width}}  {summary}" for verb, summary in VERBS.items())
    return f"usage: ila VERB [options]\n\n{rows}\n\n`ila VERB --help` lists the options of a verb."


def version() -> str:
    """Return the package's version, read from its file without importing the package."""
    package = find_spec("transformers_ila")
    assert package is not None and package.origin is not None
    return runpy.run_path(str(Path(package.origin).with_name("version.py")))["__version__"]


def usage_error(verb: str) -> int:
    """Print which verb is unknown and which are meant; return exit code 2."""
    close = get_close_matches(verb, VERBS, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    print(f"ila: error: there is no verb {verb!r}; there are {', '.join(VERBS)}.{meant}", file=sys.stderr)
    return 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(version())
        return 0
    if arguments[0] not in VERBS:
        return usage_error(arguments[0])
    try:
        from transformers_ila.cli.main import main as run  # which takes seconds

        return run(arguments)
    except KeyboardInterrupt:
        print(f"ila {arguments[0]}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

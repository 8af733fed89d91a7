"""The options of a verb: read from the command line into dataclasses, and listed for `--help`."""

import shutil
import textwrap
from argparse import Namespace, _AppendAction
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool


HELP = ("-h", "--help", "--help-all")
TRUTH = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")  # what HfArgumentParser reads as yes or no
INDENT = 30  # columns in front of what an option means
WORDS = {"str": "TEXT", "int": "NUMBER", "float": "NUMBER"}  # for the value of an option of this kind


def option_classes(verb: ModuleType) -> list[type]:
    """Return the dataclasses that the verb's `run` takes, by its annotations."""
    hints = get_type_hints(verb.run)
    hints.pop("return", None)
    return list(hints.values())


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def read_options(verb: ModuleType, arguments: Sequence[str]) -> list[Any]:
    """Read the command line into the dataclasses of a verb.

    Words that belong to no option are the values of the field that the verb's `POSITIONAL` names.

    Raises:
        ValueError: an unknown or incomplete option, a value of another kind, or what a dataclass refuses.
    """
    classes = option_classes(verb)
    parser = _Parser(classes, allow_abbrev=False, add_help=False)
    for action in parser._actions:
        if isinstance(action, _AppendAction):  # an option that is given several times takes one value each time
            action.nargs = None
    _refuse_unknown(arguments, list(parser._option_string_actions))
    words = list(arguments) if getattr(verb, "POSITIONAL", None) is None else _flags_alone(arguments, parser)
    namespace, rest = parser.parse_known_args(words)
    if rest:
        _set_positional(namespace, rest, classes, getattr(verb, "POSITIONAL", None))
    values = vars(namespace)
    return [cls(**{entry.name: values[entry.name] for entry in fields(cls) if entry.init}) for cls in classes]


def _refuse_unknown(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Raise a ValueError that names the first unknown option and the known one that is most like it."""
    for word in arguments:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known:
            close = get_close_matches("--" + option[2:].replace("-", "_"), known, n=1)
            hint = f"did you mean {close[0]}?" if close else "--help lists all options"
            raise ValueError(f"there is no option {option}; {hint}")


def _flags_alone(arguments: Sequence[str], parser: HfArgumentParser) -> list[str]:
    """Return the words with `--flag` as `--flag=true` where no truth value follows, so that it takes no other word."""
    flags = {name for name, action in parser._option_string_actions.items() if action.type is string_to_bool}
    following = [*arguments[1:], ""]
    return [
        f"{word}=true" if word in flags and next_word.lower() not in TRUTH else word
        for word, next_word in zip(arguments, following)
    ]


def _set_positional(namespace: Namespace, words: list[str], classes: Sequence[type], name: str | None) -> None:
    if name is None:
        raise ValueError(f"{' '.join(words)!r} belongs to no option; --help lists all options")
    (entry,) = (entry for cls in classes for entry in fields(cls) if entry.name == name)
    if getattr(namespace, name) != _default(entry):
        raise ValueError(f"{' '.join(words)!r} is given beside --{name}; give one of them")
    if isinstance(_default(entry), list):
        setattr(namespace, name, words)
    elif len(words) == 1:
        setattr(namespace, name, words[0])
    else:
        raise ValueError(f"one {name.upper()} is taken, got {', '.join(map(repr, words))}")


# -- help ------------------------------------------------------------------------------------------------------------


def help_text(verb: ModuleType, name: str, *, all_options: bool = False) -> str:
    """Return the text of `ila VERB --help`: what the verb does, examples, and a group of options for each dataclass.

    Options of dataclasses from outside this package are named only, unless `all_options` holds.
    """
    classes, positional = option_classes(verb), getattr(verb, "POSITIONAL", None)
    words = [f"usage: ila {name}", *([f"[{positional.upper()}]"] if positional else []), "[options]"]
    parts = [" ".join(words), (verb.__doc__ or "").strip(), "Examples:"]
    parts[-1] += "".join(f"\n  {example}" for example in verb.EXAMPLES)
    if hasattr(verb, "choices_of_positional"):
        title, choices = verb.choices_of_positional()
        named = textwrap.fill(", ".join(choices), _width(), break_on_hyphens=False)
        parts.append(f"{title}:\n{textwrap.indent(named, '  ')}")
    groups = [(cls, owner) for cls in classes for owner in cls.__mro__ if is_dataclass(owner)]
    for cls, owner in sorted(groups, key=lambda group: not _is_ours(group[1])):
        own = [entry for entry in fields(cls) if entry.init and _declared_by(entry.name, cls) is owner]
        if own and (_is_ours(owner) or all_options):
            parts.append("\n".join([f"{_title(owner)}:", *(line for entry in own for line in _described(entry, cls))]))
        elif own:
            names = textwrap.fill(", ".join(f"--{entry.name}" for entry in own), _width(), break_on_hyphens=False)
            parts.append(f"{_title(owner)} (--help-all describes them):\n{textwrap.indent(names, '  ')}")
    return "\n\n".join(parts)


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("transformers_ila.")


def _title(cls: type) -> str:
    """Return the name of a group of options, which HfArgumentParser calls `_argument_group_name`."""
    return vars(cls).get("_argument_group_name", f"options of {cls.__name__}")


def _declared_by(name: str, cls: type) -> type:
    """Return the most derived class that declares the field."""
    return next(owner for owner in cls.__mro__ if name in vars(owner).get("__annotations__", {}))


def _described(entry: Field, cls: type) -> Iterator[str]:
    """Yield the lines about one option: its form, what it means, and its default."""
    kind, default = get_type_hints(cls)[entry.name], _default(entry)
    known = (vars(owner).get("__dataclass_fields__", {}).get(entry.name) for owner in cls.__mro__)
    meaning = next((text for parent in known if parent and (text := parent.metadata.get("help"))), "")
    form = f"  --{'no_' if default is True else ''}{entry.name}{_value_form(entry, kind)}"
    if default is MISSING:
        meaning += " (required)"
    elif default is True:
        meaning += " (on by default; this turns it off)"
    elif default not in (None, "", []) and default is not False:
        meaning += f" (default: {' '.join(map(str, default)) if isinstance(default, list) else default})"
    elif default is not False and "default" not in meaning and not meaning.endswith("(required)"):
        meaning += " (default: none)"
    lines = textwrap.wrap(meaning.strip(), _width() - INDENT) or [""]
    if len(form) < INDENT - 1:
        yield f"{form:{INDENT}}{lines.pop(0)}".rstrip()
    else:
        yield form
    yield from (" " * INDENT + line for line in lines)


def _value_form(entry: Field, kind: Any) -> str:
    """Return how an option's value is written: its choices, or a word for its kind; "..." where several may stand."""
    kinds = [part for part in get_args(kind) if part is not type(None)]
    if type(None) in get_args(kind) and len(kinds) == 1:
        (kind,) = kinds
    several = " ..." if get_origin(kind) is list and entry.metadata.get("action") != "append" else ""
    choices = entry.metadata.get("choices") or (get_args(kind) if get_origin(kind) is Literal else None)
    if choices:
        return f" {{{','.join(map(str, choices))}}}{several}"
    if kind is bool:
        return "" if isinstance(entry.default, bool) else " {true,false}"
    name = getattr(get_args(kind)[0] if get_origin(kind) is list else kind, "__name__", "str")
    return f" {WORDS.get(name, name.upper())}{several}"


def _default(entry: Field) -> Any:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def _width() -> int:
    return min(110, shutil.get_terminal_size().columns - 2)

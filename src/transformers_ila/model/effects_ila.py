"""Fields of a configuration that have no effect beside the others: found, refused, or dropped from an earlier file.

A configuration class lists in `uses` where its fields have an effect. A field that has none there must have its
default; another value is an error where somebody gives it. A file may hold one, written by an earlier version or meant
for what is replaced while it is loaded: it is dropped, and a warning says so once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any, NamedTuple

from transformers.utils import logging


logger = logging.get_logger(__name__)

OUR_PREFIXES = ("alignment_", "temporal_", "mit_", "prompt_", "decoder_", "shift_", "ata_", "gta_")


class Use(NamedTuple):
    """Say where fields have an effect.

    fields: their names.
    where: tells of a configuration, or of anything with its fields, whether they have one.
    says: that condition in words, which follow "it needs".
    off: besides the default, a value that says truly that nothing happens.
    refused: where they have none, another value than the default is an error; `False` for numbers that must fit the
        tower's width and are given once for all variants, of which a warning says once that they have no effect.
    """

    fields: tuple[str, ...]
    where: Callable[[Any], bool]
    says: str
    off: Any = None
    refused: bool = True


def with_defaults(kind: Any, given: Mapping[str, Any]) -> SimpleNamespace:
    """Return an object with the given fields of a configuration class, and its defaults for all others."""
    return SimpleNamespace(**{**_defaults(kind), **given})


def require_effects(config: Any, uses: Sequence[Use] | None = None) -> None:
    """Raise a ValueError for a field of a configuration that has no effect, and another value than its default.

    uses: where fields have one; by default what the configuration's class says.
    """
    defaults = _defaults(type(config))
    for name, use in _idle(config, config.uses if uses is None else uses, defaults).items():
        allowed = repr(defaults[name]) if use.off is None else f"{defaults[name]!r} or {use.off!r}"
        says = f"`{name}` is {getattr(config, name)!r}, which has no effect here"
        if use.refused:
            raise ValueError(f"{says}; allowed: {allowed}. It needs {use.says}.")
        logger.warning_once(f"{says}: it needs {use.says}.")


def fields_in_use(
    kind: Any,
    stored: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    warn: bool = False,
    uses: Sequence[Use] | None = None,
    **parts: Any,
) -> dict[str, Any]:
    """Return the stored fields of a configuration class without those that have no effect.

    Args:
        kind: the class.
        stored: fields of a file or a preset.
        given: fields that replace them. One of these without an effect is for the configuration to refuse.
        warn: name what is left out in a warning, once.
        uses: where fields have an effect; by default what the class says.
        parts: sub-configurations as they will be, where `uses` look into them.
    """
    stored, defaults = dict(stored), _defaults(kind)
    config = with_defaults(kind, {**stored, **given, **parts})
    for name, use in _idle(config, kind.uses if uses is None else uses, defaults).items():
        if name in stored and name not in given:
            value = stored.pop(name)
            if warn:
                logger.warning_once(
                    f"`{name}` is {value!r} in the file and is dropped: to have an effect it needs {use.says}."
                )
    return stored


def refuse_unknown(kind: Any, names: Iterable[str], inside: Mapping[str, Any] | None = None) -> None:
    """Raise a ValueError for a name that looks like a field of a configuration class, and is none.

    Args:
        kind, names, inside: as in `misnamed`.
    """
    for reason in misnamed(kind, names, inside).values():
        raise ValueError(reason)


def without_unknown(kind: Any, stored: Mapping[str, Any], inside: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the stored fields of a file without what `refuse_unknown` refuses, and name that in a warning, once.

    Other programs write such names into configurations (`hidden_size`, for their own use).
    """
    unknown = misnamed(kind, stored, inside)
    for name, reason in unknown.items():
        logger.warning_once(f"`{name}` of the file is dropped. {reason}")
    return {name: value for name, value in stored.items() if name not in unknown}


def misnamed(kind: Any, names: Iterable[str], inside: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the names that look like fields of a configuration class and are none, and what is wrong with each.

    Transformers makes an attribute of every unknown name, which has no effect. Files of CLIP hold many such names, so
    only these count: those that begin as our own fields do, those spelt much like one, and those of a tower; but no
    token ids, which are of generated text (`decoder_start_token_id`).

    Args:
        kind: the class.
        names: names of arguments or of a file; fields of `kind`, and ours of a part, are passed over.
        inside: name of a sub-configuration -> its class, whose other fields do not belong to `kind`.
    """
    kinds = (kind, *(inside or {}).values())
    bases = [base for each in kinds for base in each.__mro__ if not base.__module__.startswith("transformers.")]
    ours = list(dict.fromkeys(name for base in bases for name in vars(base).get("__annotations__", ())))
    parts = {place: {entry.name for entry in fields(part)} for place, part in (inside or {}).items()}
    known, found = {*ours, *(entry.name for entry in fields(kind))}, dict[str, str]()
    for name in names:
        if name in known or name.endswith("_token_id"):
            continue
        places = [f"`{place}`" for place, own in parts.items() if name in own]
        close = get_close_matches(name, ours, n=1, cutoff=0.85)
        if places:
            found[name] = f"`{name}` has no effect here; it is a field of {' and of '.join(places)}."
        elif close or name.startswith(OUR_PREFIXES):
            close = close or get_close_matches(name, ours, n=3, cutoff=0)
            found[name] = f"There is no field `{name}`; did you mean {', '.join(f'`{c}`' for c in close)}?"
    return found


def _defaults(kind: Any) -> dict[str, Any]:
    return {entry.name: entry.default for entry in fields(kind) if entry.default is not MISSING}


def _idle(config: Any, uses: Sequence[Use], defaults: Mapping[str, Any]) -> dict[str, Use]:
    """Return the fields with another value than their default and no effect, and where they would have one."""
    unused = {name: use for use in uses if not use.where(config) for name in use.fields}
    return {
        name: use
        for name, use in unused.items()
        if getattr(config, name) != defaults[name] and (use.off is None or getattr(config, name) != use.off)
    }

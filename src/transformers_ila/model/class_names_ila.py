"""The fields of a configuration that name its classes: `id2label`, `label2id` and `num_labels` say one list of names.

K names stand in the order of the logits. `LABEL_0`, `LABEL_1`, ... are the library's numbers, and no names.
"""

from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

from transformers.utils import logging


logger = logging.get_logger(__name__)

LABEL_FIELDS = ("id2label", "label2id", "num_labels")


def check_labels(labels: Iterable[str], field: str = "labels") -> list[str]:
    """Return class names as a list.

    Args:
        labels: an iterable with an order, so no set, and no mapping, whose values might say another one.
        field: what the names were given as, for the error.

    Raises:
        ValueError: no names, empty ones, or names that repeat, also those that differ in blanks only.
    """
    unordered = isinstance(labels, (Mapping, Set)) and not isinstance(labels, KeysView)
    try:
        given = [] if unordered or isinstance(labels, (str, bytes)) else list(labels)
    except TypeError:  # not iterable
        given = []
    if not given or not all(isinstance(name, str) and name.strip() for name in given):
        form = f"a {type(labels).__name__}, which does not say an order of classes: " if unordered else ""
        raise ValueError(f"`{field}` must be different class names (strings) in an order, got {form}{labels!r}.")
    names = [str(name) for name in given]  # NumPy's strings are none for JSON
    first: dict[str, str] = {}
    for name in names:
        same = first.setdefault(" ".join(name.split()), name)
        if same is not name and same != name:
            raise ValueError(f"`{field}` must be different names, {same!r} and {name!r} differ in blanks only.")
    if len(first) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"`{field}` must be different names, these repeat: {repeated}.")
    return names


def label_fields(names: Sequence[str]) -> dict[str, dict]:
    """Return the fields of a configuration that name its classes: `id2label` and `label2id`."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def numbered_names(count: int) -> list[str]:
    """Return the library's stand-ins for names that nobody gave: LABEL_0, LABEL_1, ..."""
    return [f"LABEL_{index}" for index in range(count)]


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether names are the library's numbered ones, which say nothing of the classes."""
    return list(names) == numbered_names(len(names))


def explicit_names(names: list[str] | None) -> list[str] | None:
    """Return the names, or None where they are the library's numbered ones, or none at all."""
    return None if names is None or are_numbered(names) else names


def explicit_class_names(config: Any) -> list[str] | None:
    """Return the configuration's class names, or `None` if they are the library's numbered ones."""
    return explicit_names(names_of(config))


def names_of(config: Any) -> list[str]:
    """Return the K class names of a configuration, in the order of the logits.

    Raises:
        ValueError: as in `names_in_fields`.
    """
    return names_in_fields({"id2label": config.id2label, "label2id": config.label2id}) or []


def names_in_fields(fields: Mapping[str, Any]) -> list[str] | None:
    """Return the class names that some of `id2label`, `label2id` and `num_labels` give; None where all are missing.

    Indices may be strings of digits, as in JSON. Where one of the two maps holds the library's numbered names and the
    other one explicit ones, the explicit ones count: the library leaves the other behind where only one is set.

    Raises:
        ValueError: indices other than 0 to K-1, names that are no different, non-empty strings, two maps that
            contradict each other, or another `num_labels` than the maps'.
    """
    by_id, by_label, count = (fields.get(name) for name in LABEL_FIELDS)
    if count is not None and (isinstance(count, bool) or not isinstance(count, Integral) or count < 0):
        raise ValueError(f"`num_labels` must be a number of classes, got {count!r}.")
    maps = {
        "id2label": None if by_id is None else _ordered(_pairs(by_id, "id2label"), "id2label"),
        "label2id": None
        if by_label is None
        else _ordered([(i, n) for n, i in _pairs(by_label, "label2id")], "label2id"),
    }
    given = [names for names in maps.values() if names is not None]
    explicit = [names for names in given if explicit_names(names) is not None]
    if len(explicit) == 2 and explicit[0] != explicit[1]:
        raise ValueError(
            f"`id2label` and `label2id` contradict each other: {contradiction(*explicit)}. Give one of them, or set "
            "both so that they agree."
        )
    if not given:
        return None if count is None else numbered_names(int(count))
    names = (explicit or given)[0]
    if count not in (None, len(names)):
        raise ValueError(f"`num_labels` is {count}, but `id2label` or `label2id` names {len(names)} classes.")
    return names


def _pairs(value: Any, field: str) -> list[tuple[Any, Any]]:
    if not isinstance(value, Mapping):
        form = '{0: "first name", ...}' if field == "id2label" else '{"first name": 0, ...}'
        raise ValueError(f"`{field}` must be a dictionary like {form}, got {value!r}.")
    return list(value.items())


def _ordered(pairs: list[tuple[Any, Any]], field: str) -> list[str]:
    """Return the names of (index, name) in the order of their indices."""
    by_index = {_index(index): name for index, name in pairs}
    if len(by_index) != len(pairs) or set(by_index) != set(range(len(pairs))):
        found = [index for index, _ in pairs[:9]]
        raise ValueError(f"`{field}` must number its classes 0 to {len(pairs) - 1}, got the indices {found}.")
    return check_labels([by_index[index] for index in range(len(pairs))], field)


def _index(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and str(int(value)) == value else None
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def settle_label_fields(config: Any, num_labels: int | None = None) -> None:
    """Make `id2label` and `label2id` of a configuration agree, in place, where only one of them is set or numbered.

    Raises:
        ValueError: as in `names_in_fields`.
    """
    names = names_in_fields({"id2label": config.id2label, "label2id": config.label2id, "num_labels": num_labels})
    if names is not None:
        config.id2label, config.label2id = label_fields(names).values()


def with_label_arguments(config_dict: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Move `id2label`, `label2id` and `num_labels` out of keyword arguments into a stored configuration's dictionary.

    What is given replaces all that is stored; `num_labels` alone keeps the stored names if there are as many.
    """
    given = {name: kwargs.pop(name) for name in LABEL_FIELDS if name in kwargs}
    given = {name: value for name, value in given.items() if value is not None}
    counts = {len(config_dict[name]) for name in LABEL_FIELDS[:2] if isinstance(config_dict.get(name), Mapping)}
    if given and (given.keys() != {"num_labels"} or given["num_labels"] not in counts):
        return {**without_label_fields(config_dict), **given}
    fields = consistent_label_fields(config_dict)
    if fields.keys() != config_dict.keys():
        logger.warning(
            "The stored `id2label` and `label2id` contradict each other; `id2label` counts, as it always did. Give "
            "`labels=`, or `id2label=`, to say what the classes are."
        )
    return fields


def consistent_label_fields(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Leave `label2id` out of a stored configuration's dictionary where it contradicts `id2label`.

    Earlier versions and other programs store such: the library sets only the map that it is given.
    """
    maps = [config_dict.get(name) for name in LABEL_FIELDS[:2]]
    by_id, by_label = (explicit_names(names_in_fields({name: m})) for name, m in zip(LABEL_FIELDS, maps))
    agree = by_id is None or by_label is None or by_id == by_label
    return config_dict if agree else {name: value for name, value in config_dict.items() if name != "label2id"}


def without_label_fields(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's dictionary without the fields that name its classes."""
    return {name: value for name, value in config_dict.items() if name not in LABEL_FIELDS}


def contradiction(names: list[str], others: list[str]) -> str:
    """Say in what two lists of class names differ first."""
    if len(names) != len(others):
        return f"{len(names)} and {len(others)} classes"
    return next(f"class {i} is {one!r} and {two!r}" for i, (one, two) in enumerate(zip(names, others)) if one != two)


def row_order(before: list[str], after: list[str]) -> list[int] | None:
    """Return, for each class of `after`, its row in what was learned for `before`; None where those are others.

    The same names in another order keep their rows. Numbered names are none: as many names as there are classes keep
    the rows as they stand.
    """
    if explicit_names(before) is None and len(before) == len(after):
        return list(range(len(after)))
    rows = {name: row for row, name in enumerate(before)}
    return [rows[name] for name in after] if rows.keys() == set(after) else None

"""Labels that keep the names of their classes, and find by these names the indices of another list or a model.

Indices of two sources mean different classes wherever their classes stand in another order, or one lacks a class.
"""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from ..model.validation_ila import MULTI_LABEL


class ClassIndex(int):
    """Hold a class index and the name of its class. It is an `int`, so that it goes wherever one does."""

    name: str

    def __new__(cls, index: int, name: str) -> "ClassIndex":
        """Make the index of the class of that name."""
        self = super().__new__(cls, index)
        self.name = name
        return self

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # for copies and other processes
        return int(self), self.name


def name_of(label: int) -> str | None:
    """Return the name of a label's class; None of a bare index."""
    return label.name if isinstance(label, ClassIndex) else None


class ClassOrder:
    """Hold class names in the order of their indices, and find the labels of others among them.

    names: the class names. by_name: name -> index; a name that stands there twice is in it once.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._indices = [ClassIndex(index, name) for index, name in enumerate(self.names)]
        self.by_name = {index.name: index for index in self._indices}

    def find(self, label: int) -> ClassIndex | None:
        """Return the index that a label has here, by its name where it has one; None where it is none of these.

        A name may have underscores for blanks, as the folders of classes have.
        """
        if not isinstance(label, ClassIndex):
            return self._indices[label] if 0 <= label < len(self._indices) else None
        found = self.by_name.get(label.name)
        return found if found is not None else self.by_name.get(label.name.replace("_", " "))

    def is_of(self, label: int) -> bool:
        """Return whether a label has the index and the name of one of these classes."""
        return isinstance(label, ClassIndex) and label < len(self.names) and self.names[label] == label.name

    def no_name(self, name: str) -> str:
        """Return the name in quotes with the most similar of these."""
        close = difflib.get_close_matches(name, self.names, n=1)
        return f"{name!r}" + (f" ({close[0]!r}?)" if close else "")


def refuse_two_orders(labels: Iterable[int]) -> None:
    """Raise a ValueError where labels of two orders of classes are mixed: an index with two names, or the reverse."""
    by_index, by_name = dict[int, str](), dict[str, int]()
    for label in labels:
        name = name_of(label)
        if name is None:
            continue
        other, index = by_index.setdefault(int(label), name), by_name.setdefault(name, int(label))
        if other != name or index != label:
            first = f"{int(label)} is {other!r}" if other != name else f"{index} is {name!r}"
            raise ValueError(
                f"The videos' class indices are of two orders of classes: {first}, and {int(label)} is {name!r}. Pass "
                "`labels`, the names of the classes in one order."
            )


# -- labels as callers give them -------------------------------------------------------------------------------------


def labels_of_pair(value: Any, *, row: int | None = None) -> list[int] | list[str]:
    """Return the class indices, or the class names, that a caller gives a video.

    Args:
        value: an integer or a name; or several of them; of Python, NumPy or torch.
        row: K where a video may have several labels; `value` may then be a row of K values 0 and 1.

    Raises:
        ValueError: anything else: a bool or a float, a label twice, a row that is none.
    """
    values = _plain(value)
    if not isinstance(values, (list, tuple)):
        return _checked([values])
    values = [_plain(item) for item in values]
    if row is not None and len(values) == row and _is_row(values):
        return [index for index, flag in enumerate(values) if flag]
    return _checked(values)


def _plain(value: Any) -> Any:
    """Return what NumPy and torch hold as Python's numbers, texts and lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_row(values: list[Any]) -> bool:
    """Return whether K values are a row of 0 and 1; a ValueError where they may be indices as well."""
    if not all(isinstance(item, (int, float)) and item in (0, 1) for item in values):
        return False
    indices = all(isinstance(item, int) and not isinstance(item, bool) for item in values)
    if indices and sorted(values) == list(range(len(values))):  # [0] of one class; [0, 1] and [1, 0] of two
        raise ValueError("that may be indices or a row of 0 and 1; give class names, or a row of bool")
    return True


def _checked(values: list[Any]) -> list[Any]:
    """Return labels; raise a ValueError unless they are indices alone or names alone, and each stands there once."""
    integers = all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in values)
    if not integers and not all(isinstance(item, str) for item in values):
        raise ValueError(
            "a label is a class index (an integer from 0 on), a class name, or a list of them; with "
            f"`problem_type={MULTI_LABEL!r}` of the model also a row of 0 and 1, one for each class"
        )
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(
            f"the label {repeated[0]!r} stands there twice; a row of 0 and 1 goes with a model of as many classes and "
            f"`problem_type={MULTI_LABEL!r}`"
        )
    return [str(item) if isinstance(item, str) else item for item in values]


def with_indices(labels: Sequence[Sequence[int] | Sequence[str]]) -> list[tuple[int, ...]]:
    """Return the labels of videos as indices. Where some are names, the indices are those of all names, sorted.

    Raises:
        ValueError: some are names and others indices without a name.
    """
    flat = [label for of_video in labels for label in of_video]
    text = next((label for label in flat if isinstance(label, str)), None)
    if text is None:
        return [tuple(of_video) for of_video in labels]  # type: ignore[arg-type]
    bare = [label for label in flat if _name(label) is None]
    if bare:
        raise ValueError(f"Some labels are names, as {text!r}, and some indices, as {bare[0]}: give one kind.")
    order = ClassOrder(sorted({str(_name(label)) for label in flat}))
    return [tuple(order.by_name[str(_name(label))] for label in of_video) for of_video in labels]


def _name(label: int | str) -> str | None:
    return label if isinstance(label, str) else name_of(label)

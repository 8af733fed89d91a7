"""The classes of a model that has learned some: names come in by several doors, and each class keeps its own row.

What a head has learned belongs to names, not to indices. The same names in another order bring their rows along; other
names are refused, unless the head is to start anew.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from .class_names_ila import (
    LABEL_FIELDS,
    check_labels,
    consistent_label_fields,
    contradiction,
    explicit_names,
    label_fields,
    names_in_fields,
    names_of,
    numbered_names,
    row_order,
)
from .loading_ila import HUB_KWARGS
from .validation_ila import require_classification


logger = logging.get_logger(__name__)


class NamedClasses:
    """Give a classifier with a linear head, `classifier`, its class names by `from_pretrained` and `set_labels`."""

    config: Any
    config_class: Any
    classifier: Any
    _init_weights: Any
    _refuse_if_fused: Any
    untrained: Any
    remember_untrained: Any
    _stored_frame_rate: float | None = None  # what the checkpoint's own configuration says, where nobody gave another

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        labels: Iterable[str] | None = None,
        config: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint as `PreTrainedModel.from_pretrained` does, for the classes that are asked for.

        Args:
            pretrained_model_name_or_path: folder or Hub id.
            labels: class names, in the order of the logits. `id2label`, `label2id` or both give them as well.
            config: a configuration, or where to load one from. Its class names are asked for, too, but for numbered
                ones (`LABEL_0`): where it numbers as many classes as the checkpoint has, the checkpoint's names stay.
            kwargs: of `PreTrainedModel.from_pretrained`, and any configuration field. With
                `ignore_mismatched_sizes=True` a head that has learned other classes starts anew; a warning says so,
                and `output_loading_info` names its weights.

        Raises:
            ValueError: names that contradict each other, or are no different, non-empty strings; other names than the
                checkpoint's head has learned; a single class, but of several labels.
        """
        path, wants_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        gives_rate = config is not None or "frame_rate" in kwargs
        names, config = cls._names_asked_for(path, labels, config, kwargs)
        renew = kwargs.get("ignore_mismatched_sizes", False)
        model, info = cls._load_weights(path, *model_args, config=config, output_loading_info=True, **kwargs)
        if names is not None:
            require_classification(model.config, len(names))
        absent = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
        if names is not None and not absent.isdisjoint(model.class_keys):  # CLIP's checkpoints know no classes
            model._start_classes(names)
        elif names is not None and (labels is not None or names != names_of(model.config)):
            before = model.state_dict()
            head = {key: before[key].shape for key in model.class_keys if key in before}
            if model._set_labels(names, renew):
                for key, shape in head.items():
                    after = model.state_dict()[key].shape
                    anew = info["missing_keys"] if after == shape else info["mismatched_keys"]
                    anew.add(key if after == shape else (key, shape, after))
        model._stored_frame_rate = None if gives_rate else model.config.frame_rate
        return (model, info) if wants_info else model

    @classmethod
    def _load_weights(cls, *args: Any, **kwargs: Any) -> Any:
        return super().from_pretrained(*args, **kwargs)  # type: ignore[misc]

    @classmethod
    def _names_asked_for(
        cls, path: Any, labels: Iterable[str] | None, config: Any, kwargs: dict[str, Any]
    ) -> tuple[list[str] | None, Any]:
        """Return the names that the caller asks for, and the configuration, or `kwargs`, with the stored ones.

        So the checkpoint is loaded with the classes that its weights know, and takes other names afterwards.
        """
        fields = {name: kwargs.pop(name, None) for name in LABEL_FIELDS}
        given = names_in_fields(fields)
        names, by_fields = None if labels is None else check_labels(labels), explicit_names(given)
        if names is not None and given is not None and ((by_fields or names) != names or len(given) != len(names)):
            said = "`id2label`, `label2id` or `num_labels`"
            raise ValueError(f"`labels` and {said} contradict each other: {contradiction(names, given)}.")
        names = names or by_fields
        if names is None and given is not None:
            kwargs["num_labels"] = len(given)
        if config is None and names is None:
            return None, None
        source = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        own = None
        if config is not None:
            is_loaded = isinstance(config, PreTrainedConfig)
            own = names_of(config if is_loaded else cls.config_class.from_pretrained(config, **source))
        stored = own if path is None else cls._stored_names(path, **source)
        if own is not None and own != stored and explicit_names(own) is not None:
            if names is not None and names != own:
                said = "`labels` or `id2label` and the class names of `config`"
                raise ValueError(f"{said} contradict each other: {contradiction(names, own)}.")
            names = own
        if stored is not None and (names is not None or len(stored) == len(own or ())):
            if isinstance(config, PreTrainedConfig):
                config = copy.deepcopy(config)
                config.update(label_fields(stored))
            else:
                kwargs.update(label_fields(stored))
        return names, config

    @classmethod
    def _stored_names(cls, path: Any, **source: Any) -> list[str] | None:
        """Return the K names of a checkpoint's own configuration, numbered ones where it holds none.

        Return None where there is no configuration beside the weights.
        """
        try:
            fields = cls.config_class.get_config_dict(path, **source)[0]
        except OSError:
            return None
        try:
            return names_in_fields(consistent_label_fields(fields)) or numbered_names(2)  # the library's default
        except ValueError:  # an earlier version's, or another program's: they say how many, not which
            return numbered_names(len(fields.get("id2label") or fields.get("label2id") or range(2)))

    @property
    def class_keys(self) -> tuple[str, ...]:
        """Return the names of the weights and buffers that have one row for each class."""
        return ("classifier.weight", "classifier.bias")

    def set_labels(self, labels: Iterable[str], *, ignore_mismatched_sizes: bool = False) -> None:
        """Name the classes anew.

        The same names in another order bring their rows of the head along. Numbered classes (`LABEL_0`) get names, if
        there are as many; for another number of names their head starts anew, and a warning says so.

        Args:
            labels: K different names, in the order of the logits.
            ignore_mismatched_sizes: let the head start anew for other names; a warning says so. An optimizer that was
                made before still holds the weights from before.

        Raises:
            ValueError: no list of different names; a single class, but of several labels; other names than those that
                the head has learned; a head whose rows cannot be moved (offloaded, quantised, sharded, or under an
                adapter).
        """
        names = check_labels(labels)
        require_classification(self.config, len(names))
        self._set_labels(names, ignore_mismatched_sizes)

    def _set_labels(self, names: list[str], renew: bool) -> bool:
        """Name the classes as `set_labels` does, and return whether the head started anew."""
        require_classification(self.config, len(names))
        before, untrained = names_of(self.config), self.untrained()
        order = row_order(before, names)
        if order is None:
            self._refuse_if_fused("set_labels")
            if not renew:
                refuse_other_classes(before, names)
            self._renew_classifier(len(names))
            logger.warning(f"The linear head starts anew: {difference(before, names)}.")
        elif order != sorted(order):
            self._refuse_if_fused("set_labels")
            self._require_plain_classifier()
            with torch.no_grad():
                for weight in self.classifier.parameters():
                    weight.copy_(weight[order])
        if untrained or order is None:
            self.remember_untrained([*untrained, *(self.class_keys if order is None else ())])
        self._name_classes(names)
        return order is None

    def _start_classes(self, names: list[str]) -> None:
        """Name the classes of a head that has learned nothing yet."""
        require_classification(self.config, len(names))
        if len(names) != len(names_of(self.config)):
            untrained = self.untrained()
            self._renew_classifier(len(names))
            self.remember_untrained([*untrained, *self.class_keys])
        self._name_classes(names)

    def _name_classes(self, names: list[str]) -> None:
        self.config.update(label_fields(names))
        self.num_labels = len(names)

    def _renew_classifier(self, num_labels: int) -> None:
        self._require_plain_classifier()
        old = self.classifier
        self.classifier = nn.Linear(old.in_features, num_labels).to(old.weight)
        self._init_weights(self.classifier)

    def _require_plain_classifier(self) -> None:
        head = self.classifier
        if type(head) is not nn.Linear or any(
            type(w.data) is not torch.Tensor or w.is_meta for w in head.parameters()
        ):
            raise ValueError(
                f"The rows of `classifier` cannot be moved or drawn anew, it is {type(head).__name__} with offloaded, "
                "quantised or sharded weights, or with an adapter: call `set_labels` before that."
            )


def difference(before: list[str], after: list[str]) -> str:
    """Say how the names asked for differ from the classes that a head has learned."""
    if explicit_names(before) is None:
        return f"`labels` are {len(after)}, and the head has learned {len(before)} classes without names"
    gone, new = ([name for name in one if name not in two] for one, two in ((before, after), (after, before)))
    lacking = [f"{text} {found[:5]}" for text, found in (("the head knows no", new), ("`labels` lack", gone)) if found]
    return f"of its {len(before)} classes and {len(after)} `labels`, " + ", ".join(lacking)


def refuse_other_classes(before: list[str], after: list[str]) -> None:
    """Raise a ValueError that says what the caller can do, unless what was learned before has no names."""
    if explicit_names(before) is not None:
        raise ValueError(
            f"The head has learned other classes: {difference(before, after)}. The same names may come in another "
            "order. `ignore_mismatched_sizes=True` starts the head anew; to call its classes by other names, set "
            "`id2label` and `label2id` of `config` together."
        )

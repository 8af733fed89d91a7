"""The text features of the classes: kept while the text tower is frozen, computed in every call while it is trained.

Shapes: `K` classes, `E` projection.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn

from .class_names_ila import end_of_text


class ClassTextFeatures:
    """Give a model with a text tower the text features of its classes, by `class_text_features()`."""

    config: Any
    text_model: Any
    text_projection: Any
    class_input_ids: torch.Tensor  # (K, length), with class_features="tokens"
    class_embeds: torch.Tensor  # (K, E), with class_features="embeddings" or "merged"
    get_text_features: Any
    register_buffer: Any
    register_load_state_dict_post_hook: Any
    _kept_class_features: torch.Tensor | None
    # They are in no checkpoint, and each process computes its own, so DistributedDataParallel need not send them.
    _ddp_params_and_buffers_to_ignore: ClassVar[list[str]] = ["_kept_class_features"]

    def _keep_class_features(self) -> None:
        """Make the place where features are kept, and see that loading empties it."""
        self.register_buffer("_kept_class_features", None, persistent=False)  # (K, E) once computed
        self._kept_for: list[torch.Tensor] = []  # what they were computed from
        self._class_features_are_constant = False  # within `constant_class_features()`
        for part in (self, getattr(self, "text_model", None), getattr(self, "text_projection", None)):
            if part is not None:
                part.register_load_state_dict_post_hook(self._refresh_after_loading)

    def class_text_features(self) -> torch.Tensor:
        """Return the text features of the classes, not normalised: (K, E).

        While the text tower is frozen they are computed once. It is frozen while `config.freeze_text_model` holds,
        none of its parameters requires a gradient and it has no adapters. The features are computed anew after
        `load_state_dict`, a cast or move of the model, `set_labels`, `set_class_*` and `freeze_text_model`; who edits
        frozen weights or class tokens in place, or hooks the text tower, calls `refresh_class_features()`.

        While the text tower is not frozen they are computed in every call, or once in a block of
        `constant_class_features()`. Compiled code takes the features kept before its first call; where there are none
        it encodes the names in every call.
        """
        if self.config.class_features != "tokens":
            return self.class_embeds
        if not self._may_keep_class_features():
            self.refresh_class_features()
            return self._encode_classes()
        sources, kept = self._class_feature_sources(), self._kept_class_features
        if torch.compiler.is_compiling():  # traced code keeps nothing, and torch.func gives it weights of its own
            own = all(isinstance(weight, nn.Parameter) for weight in sources[1:])
            return self._encode_classes() if kept is None or not own else kept
        if kept is None or not _are_same(sources, self._kept_for):
            kept = self._compute_class_features()
            if has_numbers(kept):
                self._kept_class_features, self._kept_for = kept, self._class_feature_sources()
        return kept

    def refresh_class_features(self) -> None:
        """Forget the classes' text features, so that the next call computes them anew.

        Needed only after what the model cannot see while its text tower is frozen: weights or class tokens edited in
        place (also of a submodule that is loaded, cast or moved by itself), hooks or other activations in the tower.
        """
        if self._kept_class_features is not None:
            self._kept_class_features, self._kept_for = None, []

    @contextmanager
    def constant_class_features(self) -> Iterator[None]:
        """Compute the classes' text features once in this block, at their first use, though the tower is trained.

        For evaluation between training steps: inside, no weight of the text tower may change and the texts take no
        gradient. Where the tower is frozen, or there is none, the block changes nothing.
        """
        before = self._class_features_are_constant
        self._class_features_are_constant = True
        try:
            yield
        finally:
            self._class_features_are_constant = before
            if not (before or self._text_is_frozen()):
                self.refresh_class_features()

    def _may_keep_class_features(self) -> bool:
        """Return whether the features stay the same for now: they are neither trained nor drawn (dropout)."""
        drawn = self.text_model.training and self.config.text_config.attention_dropout > 0
        return not drawn and (self._class_features_are_constant or self._text_is_frozen())

    def _text_is_frozen(self) -> bool:
        uses_tower = self.config.has_text_tower and self.config.class_features == "tokens"
        if not (uses_tower and self.config.freeze_text_model):
            return False
        adapted = any(hasattr(type(module), "active_adapter") for module in self._text_modules())  # switched unseen
        return not adapted and not any(weight.requires_grad for weight in self._class_feature_sources())

    def _text_modules(self) -> list[nn.Module]:
        return [*self.text_model.modules(), *self.text_projection.modules()]

    def _class_feature_sources(self) -> list[torch.Tensor]:
        """List the tensors that features are computed from. torch.func and offloading put others in their place."""
        weights = (weight for module in self._text_modules() for weight in module._parameters.values())
        return [self.class_input_ids, *(weight for weight in weights if weight is not None)]

    def _compute_class_features(self) -> torch.Tensor:
        """Compute the features without gradients, autocast and dropout: (K, E) in the dtype of the weights."""
        modes = [(module, module.training) for module in self.text_model.modules()]
        try:
            self.text_model.eval()
            device = "cpu" if self.class_input_ids.is_meta else self.class_input_ids.device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                return self._encode_classes()
        finally:
            for module, training in modes:
                module.training = training

    def _encode_classes(self) -> torch.Tensor:
        input_ids = self.class_input_ids
        if not torch.compiler.is_compiling():
            input_ids = self._shortest(input_ids)
        return self.get_text_features(input_ids).pooler_output

    def _shortest(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Cut off the tokens behind the last end of text: attention is causal, so no feature changes."""
        last = end_of_text(input_ids, self.config.text_config).max()
        return input_ids[:, : int(last) + 1] if has_numbers(last) else input_ids

    def _refresh_after_loading(self, module: nn.Module, incompatible_keys: Any) -> None:
        self.refresh_class_features()

    def _apply(self, *args: Any, **kwargs: Any) -> "ClassTextFeatures":
        self.refresh_class_features()  # cast or moved
        return super()._apply(*args, **kwargs)  # type: ignore[misc]


def _are_same(tensors: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return len(tensors) == len(others) and all(one is other for one, other in zip(tensors, others))


def has_numbers(tensor: torch.Tensor) -> bool:
    """Return whether the tensor holds numbers after this call: no meta, fake or torch.func tensor does."""
    try:
        return tensor.untyped_storage().device.type != "meta"
    except NotImplementedError:  # torch.func's wrappers have no storage
        return False

"""Class names to sentences to tokens, and the text features of the classes, of tokens or ready ones.

Names are tokenised as CLIP reads them, bare or in templates, and never silently wrong. Features are kept while the
text tower is frozen, and computed in every call while it is trained.

Shapes: `K` classes, `E` projection.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from .class_names_ila import check_labels, names_of, numbered_names
from .configuration_ila import IlaConfig
from .numerics_ila import at_least_float32
from .validation_ila import require_classification, require_templates


logger = logging.get_logger(__name__)

# Sentences for actions in videos, `templates="actions"`: in the words of captions, which CLIP has read, for names that
# are verbs ("juggling") and names that are things ("a parade").
ACTION_TEMPLATES = (
    "{}",
    "a video of {}.",
    "a video of a person {}.",
    "a video of people {}.",
    "a clip that shows {}.",
    "a short clip of someone {}.",
    "footage of {}.",
    "a frame of a video about {}.",
    "a photo of {}.",
    "a photo of a person {}.",
    "a person is {}.",
    "this is {}.",
)
BARE_NAME = ("{}",)  # the template of no template
CLASS_BUFFERS = ("class_input_ids", "class_embeds")  # of which a model has one
TEXTS_AT_ONCE = 256  # what the text tower encodes in one go


# -- names to sentences -----------------------------------------------------------------------------------------------


def check_templates(templates: str | Sequence[str]) -> list[str]:
    """Return the sentences in which names are read, as a list.

    Args:
        templates: one sentence or several, each with one `{}` for the name; "actions" stands for `ACTION_TEMPLATES`,
            alone or among others.

    Raises:
        ValueError: no sentence, one without exactly one `{}` or with other braces, or one that repeats.
    """
    given = [templates] if isinstance(templates, str) else templates
    if isinstance(given, (list, tuple)) and "actions" in given:
        given = [text for one in given for text in (ACTION_TEMPLATES if one == "actions" else [one])]
    require_templates(given, "templates", ', or "actions"')
    return [str(template) for template in given]


def fill_in(templates: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return all names in the first template, then all in the second, and so on: M templates, K names -> M * K."""
    return [template.replace("{}", name) for template in templates for name in names]


# -- names to tokens --------------------------------------------------------------------------------------------------


def load_tokenizer(path: Any, **source: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint; where there is none, raise a ValueError that says what to do.

    A tokenizer in place of the path, or None, is returned.
    """
    if not isinstance(path, (str, os.PathLike)):
        return path
    try:
        # the library's own class; unset, it asks whether to run the code that lies beside it
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **source)
    except ImportError as error:
        says = " ".join(str(error).split())
        hint = " Install `sentencepiece` and `protobuf`." if "SentencePiece" in says else ""  # of SigLIP
        raise ValueError(
            f"The tokenizer of {str(path)!r} needs a package that is not installed.{hint} ({says:.160})"
        ) from error
    except Exception as error:  # the library raises five kinds, depending on what is missing
        raise ValueError(_no_tokenizer(path) + f" ({type(error).__name__} behind this.)") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # built without any file
        raise ValueError(_no_tokenizer(path))
    return tokenizer


def _no_tokenizer(path: Any) -> str:
    return (
        f"Class names need a tokenizer and {str(path)!r} holds none (tokenizer.json, or vocab.json with merges.txt). "
        "Pass `tokenizer=`, or use `set_class_input_ids` or `set_class_embeddings`."
    )


def tokenize_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> torch.Tensor:
    """Tokenise texts as CLIP reads them, padded to the text tower's length: N texts -> (N, length).

    Longer ones are cut, and a warning names them.

    Raises:
        ValueError: text that UTF-8 cannot hold, or a tokenizer of another text tower.
    """
    encoded = padded_tokens(texts, tokenizer, config.max_position_embeddings)
    end = config.eos_token_id  # where CLIPTextModel reads the feature; 2 is CLIP's old sign for "the highest id"
    if end != 2 and not (encoded["input_ids"] == end).any(-1).all():
        raise ValueError(f"The tokenizer does not end texts with the text tower's `eos_token_id`, {end}.")
    return encoded["input_ids"]


def padded_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Any:
    """Return what a tokenizer makes of N texts, each padded or cut to `length` tokens; a warning names those cut.

    Raises:
        ValueError: text that UTF-8 cannot hold.
    """
    broken = [text for text in texts if text != text.encode("utf-8", "replace").decode()]
    if broken:
        raise ValueError(f"`labels` and texts must be text that UTF-8 can hold, got {broken[:3]}.")
    counts = [len(ids) for ids in tokenizer(texts)["input_ids"]]
    _warn_of_cut_texts([(text, count) for text, count in zip(texts, counts) if count > length], length)
    return tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")


def require_texts(texts: Any) -> list[str]:
    """Return texts as a list; raise a ValueError unless they are strings, several or none, and no single one."""
    is_list = isinstance(texts, Iterable) and not isinstance(texts, (str, bytes))
    given: list[Any] = list(texts) if is_list else [None]
    if not all(isinstance(text, str) for text in given):
        raise ValueError(f"`texts` must be a list of strings, got {texts!r:.200}.")
    return given


def average_templates(features: torch.Tensor, templates: int) -> torch.Tensor:
    """Return text features of unit length, averaged over M templates as CLIP does: (M * N, E) -> (N, E)."""
    unit = F.normalize(at_least_float32(features), dim=-1)
    if templates > 1:
        unit = F.normalize(unit.unflatten(0, (templates, -1)).mean(0), dim=-1)
    return unit.to(features)


def _warn_of_cut_texts(cut: list[tuple[str, int]], length: int) -> None:
    """Warn of texts, each with its number of tokens, that are longer than the text tower reads."""
    if cut:
        shown = [(text if len(text) <= 60 else f"{text[:57]}...", count) for text, count in cut[:3]]
        named = ", ".join(f"{text!r} ({count} tokens)" for text, count in shown)
        more = f" and {len(cut) - 3} more" if len(cut) > 3 else ""
        logger.warning(f"Texts are cut to the {length} tokens that the text tower reads: {named}{more}.")


def tokenize_labels(
    labels: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    templates: Sequence[str] = BARE_NAME,
) -> torch.Tensor:
    """Tokenise class names as CLIP reads them, in each of M templates: (M * K, length), the first template's first.

    Raises:
        ValueError: a tokenizer of another text tower, or names that it reads alike, such as "Walk" and "walk".
    """
    names, length = check_labels(labels), config.max_position_embeddings
    input_ids = tokenize_texts(fill_in(templates, names), tokenizer, config)
    for template, rows in zip(templates, input_ids.split(len(names))):
        alike = alike_tokens(rows, config)
        if alike is not None:
            first, second = (names[index] for index in alike)
            counts = [len(ids) for ids in tokenizer(fill_in([template], [first, second]))["input_ids"]]
            where = "" if template == "{}" else f" in {template!r}"
            cut = f", of which it keeps {length} tokens" if max(counts) > length else ""
            raise ValueError(
                f"`labels` must be names that the tokenizer can tell apart, but it reads {first!r} and {second!r} "
                f"alike{where}{cut}: the two classes would always get the same score."
            )
    return input_ids


def end_of_text(input_ids: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """Return the position at which CLIPTextModel reads each text's feature, (K, length) -> (K,)."""
    end = config.eos_token_id
    return input_ids.argmax(-1) if end == 2 else (input_ids == end).int().argmax(-1)


def alike_tokens(input_ids: torch.Tensor, config: PreTrainedConfig) -> tuple[int, int] | None:
    """Return the first two rows of tokens, (K, length), of which the text tower computes one feature.

    Attention is causal, so what stands behind the end of a text is not seen.
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    seen = input_ids.masked_fill(positions > end_of_text(input_ids, config)[:, None], -1)
    first: dict[tuple[int, ...], int] = {}
    for index, row in enumerate(map(tuple, seen.tolist())):
        if first.setdefault(row, index) != index:
            return first[row], index
    return None


def alike_features(embeds: torch.Tensor) -> tuple[int, int] | None:
    """Return the first two rows of text features, (K, E), with one direction, so that all their cosines are equal."""
    unit = F.normalize(embeds.float(), dim=-1)
    for start in range(0, len(unit), 1024):
        alike = (unit[start : start + 1024] @ unit.T > 1 - 1e-6).triu(start + 1).nonzero()
        if len(alike):
            return start + int(alike[0, 0]), int(alike[0, 1])
    return None


def placeholder_class_input_ids(config: IlaConfig) -> torch.Tensor:
    """Make tokens that differ between classes until `set_labels` names them: two that count, and the end of text."""
    text = config.text_config
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    usable = [token for token in range(3, min(text.vocab_size, 1024)) if token != end] or [0]
    ids = torch.zeros(config.num_labels, text.max_position_embeddings, dtype=torch.long)
    for index in range(config.num_labels):
        row = [usable[index % len(usable)], usable[index // len(usable) % len(usable)]]
        row += [end] if isinstance(end, int) and end < text.vocab_size else []
        ids[index, : len(row)] = torch.tensor(row[: ids.shape[1]])
    return ids


def random_class_embeds(config: IlaConfig, count: int) -> torch.Tensor:
    """Draw text features that stand for those of `count` classes until `set_class_embeddings`: (count, E)."""
    return torch.randn(count, config.projection_dim) * config.projection_dim**-0.5


# -- tokens to features -----------------------------------------------------------------------------------------------


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
    logit_scale: Any
    _buffers: Any
    _name_classes: Any
    _require_text_head: Any
    _required_tokenizer: Any
    _require_text_tower: Any
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

    def set_class_input_ids(self, input_ids: torch.Tensor, labels: Iterable[str] | None = None) -> None:
        """Set the classes' tokens.

        Args:
            input_ids: (K, length), length at most the text tower's; shorter ones are padded with 0 behind. Each row
                ends with the text tower's `eos_token_id`, where its feature is read.
            labels: K names; by default the present ones, or `LABEL_0`... where K changes.

        Raises:
            ValueError: no text head, no text tower, another rank, too long, no integers, ids outside the vocabulary,
                or two rows that the text tower reads alike.
        """
        self._require_text_head("set_class_input_ids")
        self._require_text_tower("set_class_input_ids")
        ids, config = as_tensor(input_ids, "input_ids"), self.config.text_config
        limit, vocabulary = config.max_position_embeddings, config.vocab_size
        integers = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
        if ids.ndim != 2 or not integers or not 0 < ids.shape[1] <= limit or len(ids) == 0:
            shape, dtype = tuple(ids.shape), ids.dtype
            raise ValueError(f"`input_ids` must be integers of shape (classes, 1 to {limit}), got {shape} of {dtype}.")
        ids = ids.long()
        if ids.min() < 0 or ids.max() >= vocabulary:
            found = f"{ids.min().item()} to {ids.max().item()}"
            raise ValueError(f"`input_ids` must lie between 0 and {vocabulary - 1} (vocab_size), got {found}.")
        names = self._checked_names(len(ids), labels)
        _refuse_alike("input_ids", alike_tokens(ids, config), names)
        if config.eos_token_id != 2 and not (ids == config.eos_token_id).any(-1).all():
            logger.warning(
                f"`input_ids` have rows without the text tower's `eos_token_id`, {config.eos_token_id}: only the "
                "first token of such a row is read."
            )
        self._name_classes(names)
        self.config.label_templates = None
        self._use_class_features("tokens", "class_input_ids", F.pad(ids, (0, limit - ids.shape[1])))

    def set_class_embeddings(self, embeds: torch.Tensor, labels: Iterable[str] | None = None) -> None:
        """Set ready text features of the classes; the text tower is not used any more.

        Args:
            embeds: (K, E) floating-point numbers, not 0 in a whole row; their length counts with the prompt only.
            labels: K names; by default the present ones, or `LABEL_0`... where K changes.

        Raises:
            ValueError: no text head, another shape, no finite floating-point numbers, a row of zeros or of a length
                that cannot be normalised, or two rows that point in one direction.
        """
        self._require_text_head("set_class_embeddings")
        embeds = as_tensor(embeds, "embeds")
        if embeds.ndim != 2 or embeds.shape[1] != self.config.projection_dim or len(embeds) == 0:
            shape = tuple(embeds.shape)
            raise ValueError(f"`embeds` must be (classes, {self.config.projection_dim}), got {shape}.")
        if not embeds.is_floating_point():
            raise ValueError(f"`embeds` must be floating-point numbers, got {embeds.dtype}.")
        names = self._checked_names(len(embeds), labels)
        embeds = embeds.detach().to(self.logit_scale.dtype)
        lengths = F.normalize(embeds, dim=-1).norm(dim=-1)  # 1, but where the squares are too small or too large
        for allowed, wrong in (
            ("finite", ~embeds.isfinite().all(-1)),
            ("different from 0", (embeds == 0).all(-1)),
            (f"of a length that {embeds.dtype} can bring to 1", ~((lengths - 1).abs() < 0.1)),
        ):
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise ValueError(f"`embeds` must be {allowed}, those of class {names[row]!r} (row {row}) are not.")
        _refuse_alike("embeds", alike_features(embeds), names)
        self._name_classes(names)
        self.config.label_templates = None
        self._use_ready_features(embeds)

    def encode_texts(self, texts: Sequence[str], templates: str | Sequence[str] | None = None) -> torch.Tensor:
        """Compute the features of texts, of unit length and without gradients: N texts -> (N, E).

        They are what the classes' features are for the same templates, and are compared with the video features of
        `get_video_features(..., normalize=True)`. Many texts are encoded in chunks.

        Args:
            texts: any sentences; longer ones than the text tower reads are cut, and a warning names them.
            templates: as in `set_labels`, by default those in which the class names are read
                (`config.label_templates`); "{}" reads the texts as they are.

        Raises:
            ValueError: no text head, no text tower, no tokenizer, no list of strings, or templates that are none.
        """
        self._require_text_head("encode_texts")
        self._require_text_tower("encode_texts")
        chosen = self._templates(templates)
        given = require_texts(texts)
        if not given:
            return self.logit_scale.detach().new_empty(0, self.config.projection_dim)
        ids = tokenize_texts(fill_in(chosen, given), self._required_tokenizer(), self.config.text_config)
        return self._encode_averaged(ids, len(chosen))

    def label_features(
        self, labels: Sequence[str], tokenizer: Any = None, *, templates: str | Sequence[str] | None = None
    ) -> torch.Tensor:
        """Compute the text features that `set_labels` would give to these names: (K, E). The classes stay as they are.

        Those of one template are not normalised, as the text tower gives them; those of several have unit length.

        Args:
            labels, tokenizer, templates: as in `set_labels`.

        Raises:
            ValueError: as `set_labels`.
        """
        self._require_text_head("label_features")
        self._require_text_tower("label_features")
        chosen = self._templates(templates)
        ids = tokenize_labels(labels, self._required_tokenizer(tokenizer), self.config.text_config, chosen)
        return self._encode_tokens(ids) if len(chosen) == 1 else self._encode_averaged(ids, len(chosen))

    def _templates(self, templates: str | Sequence[str] | None) -> list[str]:
        """Return the templates given, else those in which the present names are read."""
        return check_templates(templates) if templates is not None else [*(self.config.label_templates or BARE_NAME)]

    def _encode_averaged(self, input_ids: torch.Tensor, templates: int) -> torch.Tensor:
        """Encode tokens and average over the templates as CLIP does: (M * N, length) -> (N, E) of unit length."""
        return average_templates(self._encode_tokens(input_ids), templates)

    def _encode_tokens(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Encode tokens in chunks: (N, length) -> (N, E), not normalised."""
        ids = input_ids.to(self._class_device())
        with self._reading_texts():
            chunks = [self.get_text_features(self._shortest(part)).pooler_output for part in ids.split(TEXTS_AT_ONCE)]
            return torch.cat(chunks)

    def _checked_names(self, count: int, labels: Iterable[str] | None) -> list[str]:
        """Return the names of `count` classes: those given, else the present ones, or numbers for another count."""
        require_classification(self.config, count)
        present = names_of(self.config)
        names = check_labels(labels) if labels is not None else present
        if labels is None and len(present) != count:
            names = numbered_names(count)
        if len(names) != count:
            raise ValueError(f"`labels` must name {count} classes, got {len(names)}.")
        require_classification(self.config, count)
        return names

    def _use_ready_features(self, embeds: torch.Tensor) -> None:
        kind: Literal["embeddings", "merged"] = "embeddings" if self.config.has_text_tower else "merged"
        self._use_class_features(kind, "class_embeds", embeds)

    def _use_class_features(
        self, kind: Literal["tokens", "embeddings", "merged"], name: str, tensor: torch.Tensor
    ) -> None:
        device = self._class_device()
        for buffer in CLASS_BUFFERS:
            self._buffers.pop(buffer, None)
        self.register_buffer(name, tensor.to(device))
        self.config.class_features = kind
        if kind != "tokens":
            self.config.freeze_text_model = True  # nothing passes through that tower any more
        self.refresh_class_features()

    def _class_device(self) -> torch.device:
        """Return the device that texts are encoded on: weights may be offloaded, buffers stay."""
        return next(buffer.device for name in CLASS_BUFFERS if (buffer := self._buffers.get(name)) is not None)

    def _has_placeholders(self) -> bool:
        ids = self._buffers.get("class_input_ids")
        return (
            ids is not None and has_numbers(ids) and torch.equal(ids.cpu(), placeholder_class_input_ids(self.config))
        )

    def _warn_of_classes(self, missing: set[str]) -> None:
        """Warn of classes whose scores cannot mean their names."""
        if self._has_placeholders():
            logger.warning("The class names are not tokenised, placeholders stand for them: call `set_labels`.")
        if "class_embeds" in missing:
            logger.warning(
                "The classes have no text features yet, random ones stand for them: `set_class_embeddings`."
            )
        ids = self._buffers.get("class_input_ids")
        alike = alike_tokens(ids, self.config.text_config) if ids is not None and has_numbers(ids) else None
        if alike is not None:
            first, second = (self.config.id2label[index] for index in alike)
            logger.warning(f"The stored tokens of {first!r} and {second!r} are read alike: both get the same score.")

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
        with self._reading_texts():
            return self._encode_classes()

    @contextmanager
    def _reading_texts(self) -> Iterator[None]:
        """Let the text tower compute without gradients, autocast and dropout in this block."""
        modes = [(module, module.training) for module in self.text_model.modules()]
        device = self._class_device().type
        try:
            self.text_model.eval()
            with torch.inference_mode(False), torch.no_grad():
                with torch.autocast("cpu" if device == "meta" else device, enabled=False):
                    yield
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


def as_tensor(values: Any, field: str) -> torch.Tensor:
    """Return values as a tensor; raise a ValueError that names the field where they are none, such as ragged lists."""
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`{field}` must be a tensor or rows of equal length: {error}") from error


def _refuse_alike(field: str, alike: tuple[int, int] | None, names: list[str]) -> None:
    if alike is not None:
        first, second = alike
        raise ValueError(
            f"`{field}` must differ between classes, but rows {first} and {second} ({names[first]!r}, "
            f"{names[second]!r}) are alike: the two classes would always get the same score."
        )


def _are_same(tensors: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return len(tensors) == len(others) and all(one is other for one, other in zip(tensors, others))


def has_numbers(tensor: torch.Tensor) -> bool:
    """Return whether the tensor holds numbers after this call: no meta, fake or torch.func tensor does."""
    try:
        return tensor.untyped_storage().device.type != "meta"
    except NotImplementedError:  # torch.func's wrappers have no storage
        return False

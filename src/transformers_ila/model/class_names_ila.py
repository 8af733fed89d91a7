"""Class names to the text tower's tokens: checked, tokenised as CLIP reads them, and never silently wrong."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from .configuration_ila import IlaConfig
from .label_fields_ila import check_labels


logger = logging.get_logger(__name__)


def load_tokenizer(path: Any, **source: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint; where there is none, raise a ValueError that says what to do.

    A tokenizer in place of the path, or None, is returned.
    """
    if not isinstance(path, (str, os.PathLike)):
        return path
    try:
        # the library's own class; unset, it asks whether to run the code that lies beside it
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **source)
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


def tokenize_labels(
    labels: Sequence[str], tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig
) -> torch.Tensor:
    """Tokenise class names as CLIP reads them, the bare name padded to the text tower's length: (K, length).

    Raises:
        ValueError: a tokenizer of another text tower, or names that it reads alike, such as "Walk" and "walk".
    """
    names, length = check_labels(labels), config.max_position_embeddings
    broken = [name for name in names if name != name.encode("utf-8", "replace").decode()]
    if broken:
        raise ValueError(f"`labels` must be text that UTF-8 can hold, got {broken}.")
    longest = max(len(ids) for ids in tokenizer(names)["input_ids"])
    if longest > length:
        logger.warning(f"Class names are cut to {length} tokens; the longest has {longest}.")
    encoded = tokenizer(names, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    end = config.eos_token_id  # where CLIPTextModel reads the feature; 2 is CLIP's old sign for "the highest id"
    if end != 2 and not (encoded["input_ids"] == end).any(-1).all():
        raise ValueError(f"The tokenizer does not end texts with the text tower's `eos_token_id`, {end}.")
    alike = alike_tokens(encoded["input_ids"], config)
    if alike is not None:
        cut = f", of which it keeps {length} tokens" if longest > length else ""
        raise ValueError(
            f"`labels` must be names that the tokenizer can tell apart, but it reads {names[alike[0]]!r} and "
            f"{names[alike[1]]!r} alike{cut}: the two classes would always get the same score."
        )
    return encoded["input_ids"]


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

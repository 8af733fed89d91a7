"""Class names to the text tower's tokens: checked, tokenised as CLIP reads them, and never silently wrong."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from .configuration_ila import IlaConfig


logger = logging.get_logger(__name__)


def check_labels(labels: Sequence[str]) -> list[str]:
    """Return the labels as a list; raise a ValueError unless they are different, non-empty names."""
    given = [] if isinstance(labels, str) or not isinstance(labels, Iterable) else list(labels)
    if not given or not all(isinstance(name, str) and name.strip() for name in given):
        raise ValueError(f"`labels` must be a list of class names, got {labels!r}.")
    names = [str(name) for name in given]  # NumPy's strings are none for JSON
    if len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"`labels` must be different names, these repeat: {repeated}.")
    return names


def explicit_class_names(config: IlaConfig) -> list[str] | None:
    """Return the configuration's class names, or `None` if they are the library's numbered ones."""
    return None if are_numbered(config.class_names) else config.class_names


def are_numbered(names: Sequence[str]) -> bool:
    """Return whether names are the library's numbered ones, `LABEL_0` and so on, which say nothing of the classes."""
    return list(names) == [f"LABEL_{index}" for index in range(len(names))]


def load_tokenizer(path: Any, **source: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint; where there is none, raise a ValueError that says what to do."""
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
        ValueError: a tokenizer of another text tower.
    """
    length = config.max_position_embeddings
    longest = max(len(ids) for ids in tokenizer(list(labels))["input_ids"])
    if longest > length:
        logger.warning(f"Class names are cut to {length} tokens; the longest has {longest}.")
    encoded = tokenizer(list(labels), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    end = config.eos_token_id  # where CLIPTextModel reads the feature; 2 is CLIP's old sign for "the highest id"
    if end != 2 and not (encoded["input_ids"] == end).any(-1).all():
        raise ValueError(f"The tokenizer does not end texts with the text tower's `eos_token_id`, {end}.")
    return encoded["input_ids"]


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

"""Reads the tokenizer for a converted checkpoint: from the Hub, a CLIP folder, or OpenAI's table of merges."""

import gzip
import logging
import zlib
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from ..model.class_features_ila import load_tokenizer


logger = logging.getLogger(__name__)


CLIP_TOKENIZER = "openai/clip-vit-base-patch16"  # all of CLIP's towers have the same
TOKENIZER_PARTS = ("tokenizer.json", "vocab.json", "merges.txt")
MERGES_FILES = (".txt", ".txt.gz")  # as OpenAI's bpe_simple_vocab_16e6.txt.gz
BYTE_TOKENS = 512  # a symbol for every byte, inside a word and at its end
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def read_tokenizer(source: str | Path, *, vocab_size: int) -> PreTrainedTokenizerBase:
    """Read CLIP's tokenizer from a folder, a Hub id, or a vocabulary file.

    Args:
        source: a CLIP folder or Hub id; `tokenizer.json`; `vocab.json` with `merges.txt` beside it; or the merges
            alone (`merges.txt`, `bpe_simple_vocab_16e6.txt.gz`), from which the vocabulary follows.
        vocab_size: of the text tower; as many merges are taken as it has tokens for.

    Raises:
        ValueError: nothing of the kind there, a vocabulary larger than the text tower's, or one whose end of text is
            not its highest token, where the text tower looks for it. A smaller one gets a warning.
    """
    tokenizer = _tokenizer(source, vocab_size)
    ids = tokenizer("a")["input_ids"]
    found = f"the tokenizer of {str(source)!r} has {len(tokenizer)}, and reads 'a' as {ids}"
    if len(tokenizer) > vocab_size or ids[-1] != len(tokenizer) - 1:
        raise ValueError(f"The text tower has {vocab_size} tokens, the highest ends a text; {found}.")
    if len(tokenizer) < vocab_size:
        logger.warning(f"The text tower has {vocab_size} tokens; {found}: is it the one it was trained with?")
    return tokenizer


def _tokenizer(source: str | Path, vocab_size: int) -> PreTrainedTokenizerBase:
    path = Path(source)
    if path.is_file():
        if path.name in TOKENIZER_PARTS and any((path.parent / name).is_file() for name in TOKENIZER_PARTS[:2]):
            return _tokenizer_of_folder(path.parent)
        if not path.name.endswith(MERGES_FILES):
            files = f"{', '.join(TOKENIZER_PARTS)}, or merges in *{' or *'.join(MERGES_FILES)}"
            raise ValueError(f"The vocabulary file must be {files}; got {str(path)!r}.")
        return _tokenizer_of_merges(path, vocab_size)
    if path.is_dir() and not (path / "config.json").is_file():
        return _tokenizer_of_folder(path)
    try:
        return load_tokenizer(source)
    except ValueError as error:
        reason = " ".join(str(error.__cause__ or "there is none").split())
        raise ValueError(
            f"No tokenizer could be loaded from {str(source)!r}. `tokenizer` (--tokenizer) takes a CLIP folder, a Hub "
            "id, or a vocabulary file such as bpe_simple_vocab_16e6.txt.gz, which needs no network. The reason: "
            f"{reason}"
        ) from error


def _tokenizer_of_folder(folder: Path) -> PreTrainedTokenizerBase:
    whole, *parts = ((folder / name).is_file() for name in TOKENIZER_PARTS)
    if not whole and not all(parts):
        raise ValueError(f"There is no tokenizer.json, and no vocab.json with merges.txt, in {str(folder)!r}.")
    try:
        return CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # of any kind, for files that hold something else
        raise ValueError(f"The tokenizer in {str(folder)!r} cannot be read: {error!r}.") from error


def _tokenizer_of_merges(path: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            version, *lines = file.read().splitlines() or [""]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a list of merges: {error}.") from error
    count = max(vocab_size - BYTE_TOKENS - len(SPECIAL_TOKENS), 0)
    merges = [tuple(line.split()) for line in lines[:count]]
    symbols = sorted(ByteLevel.alphabet())
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *map("".join, merges), *SPECIAL_TOKENS]
    if "#version" not in version or any(len(merge) != 2 for merge in merges) or len(set(tokens)) != vocab_size:
        raise ValueError(
            f"{str(path)!r} must hold a line with #version and {count} or more lines with two symbols each, for the "
            f"text tower's {vocab_size} tokens; it has {len(lines)}, which make {len(set(tokens))} tokens."
        )
    try:
        return CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    except Exception as error:  # the library's has no class of its own
        raise ValueError(f"{str(path)!r} is no list of merges: {error}.") from error

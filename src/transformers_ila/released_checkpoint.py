"""A file of the official release, or of OpenAI's CLIP, to a folder that `from_pretrained` and the pipeline load."""

import gzip
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from . import cards, hub
from .checkpoint_files import CheckpointFile, read_checkpoint
from .checkpoints import DATA_SETS, RELEASED_OUTPUTS, class_names, fill_up, published_like, released_processor
from .class_names_ila import load_tokenizer
from .configuration_ila import IlaConfig
from .conversion import StateDict, convert_state_dict, to_released_state_dict
from .evaluation_report import fingerprint
from .modeling_ila import IlaForVideoClassification
from .processing_ila import IlaProcessor
from .video_processing_ila import IlaVideoProcessor


logger = logging.getLogger(__name__)

CLIP_TOKENIZER = "openai/clip-vit-base-patch16"  # all of CLIP's towers have the same
TOKENIZER_PARTS = ("tokenizer.json", "vocab.json", "merges.txt")
MERGES_FILES = (".txt", ".txt.gz")  # as OpenAI's bpe_simple_vocab_16e6.txt.gz
BYTE_TOKENS = 512  # a symbol for every byte, inside a word and at its end
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


@dataclass(frozen=True)
class Conversion:
    """What was converted. labels: where the class names are from; None if there are none yet."""

    model: IlaForVideoClassification
    processor: IlaProcessor | IlaVideoProcessor
    labels: str | None
    verified: tuple[str, ...] = ()


def convert_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    labels: str | Path | None = None,
    tokenizer: str | Path | None = None,
    own_weights: bool = False,
    verify: bool = False,
) -> Conversion:
    """Convert a file to a folder with weights, configuration, processor, tokenizer, code and card.

    Args:
        checkpoint: a released `.pth`, or OpenAI's CLIP as a state dict or TorchScript archive. No pickle is executed.
        output: the folder to write; it must not exist, or be empty. It appears when everything is in it.
        labels: "kinetics400", "ssv2" or a file (`checkpoints.class_names`). By default a released file with text
            head is taken for Kinetics-400, one with a linear head of 174 or of the release's 400 outputs for
            Something-Something V2.
        tokenizer: of the text head: a CLIP folder or Hub id, or a vocabulary file (`read_tokenizer`).
        own_weights: the file is yours, trained by yourself: the card then neither says that nobody granted a licence
            for it nor quotes what the paper reports for a checkpoint of its shapes.
        verify: check that the weights go back to the file's bit by bit, and that the folder's model computes what the
            one in memory does.

    Raises:
        ValueError: a file that cannot be read or does not convert, labels or a tokenizer that do not fit, an output
            that is not empty, a failed verification.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"The output {str(output)!r} exists and is not an empty folder.")
    file = read_checkpoint(checkpoint)
    config, tensors = convert_state_dict(file.state_dict)
    released = config.vision_config.alignment_fusion == "residual"
    foreign = released and not own_weights
    config.weights_origin = cards.OFFICIAL_RELEASE if foreign else None
    source = labels if labels is not None else default_labels(config, file.settings) if released else None
    names = None if source is None else _names_for(config, source)
    trained_on = _classes_of(file.settings)
    if names is not None and trained_on not in (None, len(names), config.num_labels):
        logger.warning(f"The file was trained on {trained_on} classes; {str(source)!r} names {len(names)}.")
    text = None
    if config.classification_head == "text":
        text = read_tokenizer(tokenizer or CLIP_TOKENIZER, vocab_size=config.text_config.vocab_size)
    model = _build(config, tensors, names, text)
    video_processor = released_processor(config) if released else IlaVideoProcessor.for_model(config)
    processor = video_processor if text is None else IlaProcessor(video_processor, text)
    card = _card(file, model, video_processor, output.resolve().name, released=released, own=own_weights)
    with hub.written_whole(output) as draft:
        hub.export(model, processor, draft, card=card)
        verified = _verify(file, tensors, model, draft) if verify else ()
    return Conversion(model, processor, None if source is None else str(source), verified)


def default_labels(config: IlaConfig, settings: Mapping[str, Any]) -> str | None:
    """The data set that a released checkpoint without given labels is taken for.

    Raises:
        ValueError: settings that speak of another number of classes than it has.
    """
    name = "kinetics400" if config.classification_head == "text" else "ssv2"
    possible = {DATA_SETS[name].num_labels, RELEASED_OUTPUTS}
    if config.classification_head == "linear" and config.num_labels not in possible:
        return None
    classes = _classes_of(settings)
    if classes is not None and classes not in possible:
        trained = f"on {classes} classes, not on {DATA_SETS[name].title}"
        raise ValueError(f"The file was trained {trained}: name them with `labels` (--labels).")
    return name


def _classes_of(settings: Mapping[str, Any]) -> int | None:
    """How many the file says it was trained on."""
    data = settings.get("DATA")
    classes = data.get("NUM_CLASSES") if isinstance(data, Mapping) else None
    return classes if isinstance(classes, int) else None


def _names_for(config: IlaConfig, source: str | Path) -> list[str]:
    names = class_names(source)
    outputs = config.num_labels
    if config.classification_head == "text" or len(names) == outputs:
        return names
    if outputs == RELEASED_OUTPUTS and len(names) < outputs:
        logger.warning(f"The head has {outputs} outputs, as all of the release's; {len(names)} of them have a class.")
        return fill_up(names, outputs)
    raise ValueError(f"The checkpoint has {outputs} classes, {str(source)!r} names {len(names)}.")


def _build(
    config: IlaConfig,
    tensors: dict[str, torch.Tensor],
    names: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> IlaForVideoClassification:
    model = IlaForVideoClassification(config).eval()
    own = model.state_dict()
    wrong = [name for name, tensor in tensors.items() if tensor.is_floating_point() != own[name].is_floating_point()]
    if wrong:
        raise ValueError(f"Tensors of another kind of numbers than the model's: {wrong[:5]}.")
    model.load_state_dict(tensors, strict=False)  # the names were compared already; half precision becomes float32
    model.tokenizer = tokenizer
    if names is not None:
        model.set_labels(names, tokenizer)
    return model


def _card(
    file: CheckpointFile,
    model: IlaForVideoClassification,
    processor: IlaVideoProcessor,
    name: str,
    *,
    released: bool,
    own: bool,
) -> Any:
    if not released:
        return cards.model_card(model.config, processor, name=name, weights=cards.CLIP_WEIGHTS)
    published = None if own else published_like(model.config)
    notes = []
    if published is not None:
        notes += [
            cards.PUBLISHED_NOTE,
            "Shapes and classes say which variant this is, not that it is the same training.",
        ]
        notes += [cards.paper_cost_note(published)]
    if file.max_accuracy is not None:
        notes += [cards.recorded_note(file.max_accuracy)]
    return cards.model_card(
        model.config,
        processor,
        name=name,
        title=None if published is None else published.title,
        results=[] if published is None else cards.published_results(published),
        results_note=" ".join(notes),
        weights=cards.weights_of(model.config),
        fingerprint=fingerprint(model) if notes else None,
        in_index=False,
    )


@torch.no_grad()
def _verify(
    file: CheckpointFile, tensors: StateDict, model: IlaForVideoClassification, folder: Path
) -> tuple[str, ...]:
    done = []
    loaded = IlaForVideoClassification.from_pretrained(folder).eval()
    found: Mapping[str, torch.Tensor] = loaded.state_dict()
    given: Mapping[str, torch.Tensor] = tensors
    if model.config.vision_config.alignment_fusion == "residual":  # then the file itself can be compared
        given = {key.removeprefix("module."): tensor for key, tensor in file.state_dict.items()}
        found = to_released_state_dict(loaded)
    wrong = [key for key in found if key in given and not torch.equal(found[key], given[key].to(found[key].dtype))]
    if wrong:
        raise ValueError(f"Verification failed: these weights are not the file's: {wrong[:5]}.")
    double = any(given[key].dtype == torch.float64 for key in found if key in given)
    how = "rounded from float64 to float32" if double else "bit by bit"
    done.append(f"{len(given.keys() & found.keys())} tensors of the folder are the file's, {how}")
    vision = model.config.vision_config
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, vision.num_frames, 3, vision.image_size, vision.image_size, generator=generator)
    logits = loaded(pixels).logits
    if not logits.isfinite().all() or not torch.equal(logits, model(pixels).logits):
        raise ValueError("Verification failed: the folder's model gives other logits than the converted one, or none.")
    done.append(f"the folder's model gives the same {logits.shape[1]} finite logits for a random clip")
    return tuple(done)


# -- tokenizer -------------------------------------------------------------------------------------------------------


def read_tokenizer(source: str | Path, *, vocab_size: int) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer from a folder, a Hub id, or a vocabulary file.

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

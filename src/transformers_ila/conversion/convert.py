"""A file of the official release, or of OpenAI's CLIP, to a folder that `from_pretrained` and the pipeline load."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..data.class_names import DATA_SETS, class_names, fill_up
from ..evaluation.report import fingerprint
from ..files import atomic_folder
from ..hub.exporting import OWN_FILES, export
from ..hub.facts import OFFICIAL_RELEASE, OPENAI_CLIP, ModelFacts
from ..model.configuration_ila import IlaConfig
from ..model.modeling_ila import IlaForVideoClassification
from ..model.processing_ila import IlaProcessor
from ..model.video_processing_ila import IlaVideoProcessor
from .checkpoint_files import CheckpointFile, read_checkpoint
from .published import RELEASED_OUTPUTS, released_processor
from .released_cards import released_facts
from .state_dicts import StateDict, convert_state_dict, to_released_state_dict
from .tokenizer import CLIP_TOKENIZER, read_tokenizer


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """Hold what `convert_checkpoint` made.

    model, processor: as they are in the folder.
    labels: the source of the class names; None if there are none yet.
    verified: what the verification found, a sentence each.
    """

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
        labels: "kinetics400", "ssv2" or a file that `data.class_names` reads. By default a released file with text
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
    config.weights_origin = OFFICIAL_RELEASE if foreign else None
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
    facts = _facts(file, model, output.resolve().name, released=released, own=own_weights)
    with atomic_folder(output, stale=OWN_FILES) as draft:
        export(model, processor, draft, facts=facts)
        verified = _verify(file, tensors, model, draft) if verify else ()
    return Conversion(model, processor, None if source is None else str(source), verified)


def default_labels(config: IlaConfig, settings: Mapping[str, Any]) -> str | None:
    """Name the data set that a released checkpoint is taken for if no labels are given; None if it cannot be told.

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
    """Return how many classes the file says it was trained on; None if it does not say."""
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


def _facts(
    file: CheckpointFile, model: IlaForVideoClassification, name: str, *, released: bool, own: bool
) -> ModelFacts:
    """Collect what the folder's card states; the fingerprint says which weights the results belong to."""
    if not released:
        return ModelFacts(model_id=name, origin=OPENAI_CLIP)
    facts = replace(released_facts(model.config, file.max_accuracy, own_weights=own), model_id=name)
    return replace(facts, fingerprint=fingerprint(model) if facts.claims_results else None)


@torch.no_grad()
def _verify(
    file: CheckpointFile, tensors: StateDict, model: IlaForVideoClassification, folder: Path
) -> tuple[str, ...]:
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
    vision = model.config.vision_config
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, vision.num_frames, 3, vision.image_size, vision.image_size, generator=generator)
    logits = loaded(pixels).logits
    if not logits.isfinite().all() or not torch.equal(logits, model(pixels).logits):
        raise ValueError("Verification failed: the folder's model gives other logits than the converted one, or none.")
    return (
        f"{len(given.keys() & found.keys())} tensors of the folder are the file's, {how}",
        f"the folder's model gives the same {logits.shape[1]} finite logits for a random clip",
    )

"""Writes folders that anybody can load, with or without this package; `publishing` takes them to the Hub."""

import copy
import filecmp
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard

from ..files import atomic_folder
from ..model.loading_ila import ADAPTER, code_files
from ..model.modeling_ila import IlaPreTrainedModel
from ..model.processing_ila import IlaProcessor
from .cards import check_license, model_card
from .facts import ModelFacts, read_facts


logger = logging.getLogger(__name__)


# Which classes the Auto classes take from the code beside the weights; the files are searched in this order.
MODEL_CODE = {
    "AutoConfig": "configuration_ila.IlaConfig",
    "AutoModel": "modeling_ila.IlaModel",
    "AutoModelForVideoClassification": "modeling_ila.IlaForVideoClassification",
}
VIDEO_PROCESSOR_CODE = {  # alone it is all the processor there is; code that nobody saves beside it is not named
    "AutoProcessor": "video_processing_ila.IlaVideoProcessor",
    "AutoVideoProcessor": "video_processing_ila.IlaVideoProcessor",
}
PROCESSOR_CODE = {**VIDEO_PROCESSOR_CODE, "AutoProcessor": "processing_ila.IlaProcessor"}
CODE_OF_FILE = {
    "config.json": MODEL_CODE,
    "processor_config.json": PROCESSOR_CODE,
    "video_preprocessor_config.json": VIDEO_PROCESSOR_CODE,
}
CARD_BEFORE = "README.before.md"  # an earlier model's
MERGE = (
    "Adapters (LoRA) are merged first: `model = peft_model.merge_and_unload()`; `hub.export_adapter` writes one alone."
)
MAX_SHARD_SIZE = "2GB"  # a broken upload starts again with the shard it broke in
ADAPTER_FILES = (ADAPTER, "adapter_model.safetensors", "adapter_base.safetensors")
# What is an export's; of an earlier one nothing may stay, or its processor would be loaded with the new weights.
OWN_FILES = (
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "*_ila.py",
    *ADAPTER_FILES,
    *CODE_OF_FILE,
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def export(
    model: Any,
    processor: Any,
    folder: str | Path,
    *,
    facts: ModelFacts | None = None,
    card: ModelCard | str | None = None,
) -> Path:
    """Write a folder with everything: weights, configuration, processor, tokenizer, card, and the code of the model.

    A machine without this package loads it with `trust_remote_code=True` through AutoConfig, AutoModel,
    AutoModelForVideoClassification, AutoVideoProcessor, AutoProcessor and the pipeline. Where the package is imported
    its own classes are used and nothing of the folder is executed. On the Hub the folder must be the repository's
    root, where Transformers looks for code.

    The files are written to a hidden folder first and moved when all are there. Of what the folder holds already,
    files of the same name are replaced, and weights, processor, tokenizer and code (`*_ila.py`) of an earlier export
    go. A card is kept unless `facts` or `card` is given, or it names other classes or has results of other weights:
    then it stays as `README.before.md`.

    Args:
        model: an `IlaForVideoClassification` or `IlaModel`, however it was loaded.
        processor: an `IlaProcessor`, or its `IlaVideoProcessor` alone; the tokenizer then is the model's.
        folder: where to write.
        facts: what the card states, such as `ModelFacts(license="apache-2.0")`; by default it states no accuracy and
            no licence.
        card: the README.md as it is, in place of one that is made from `facts`.

    Returns:
        The folder.

    Raises:
        ValueError: another kind of model or processor, a processor that does not fit the model, adapters in it, both
            `facts` and `card`, or a licence for weights that began as the official release's.
        OSError: the files cannot be written.
    """
    if facts is not None and card is not None:
        raise ValueError("Give `facts`, of which the card is made, or the `card` itself, not both.")
    folder = Path(folder)
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    video_processor = getattr(processor, "video_processor", processor)
    _check_pair(model, video_processor)
    if processor is video_processor and hasattr(model, "_find_tokenizer"):
        tokenizer = model._find_tokenizer()
        processor = processor if tokenizer is None else IlaProcessor(video_processor, tokenizer)
    _check_tokenizer(model, getattr(processor, "tokenizer", None))
    if facts is not None and isinstance(facts.license, str) and facts.license != "other":
        check_license(facts.license, model.config, facts)
    with atomic_folder(folder, stale=OWN_FILES) as draft:
        model.save_pretrained(draft, max_shard_size=MAX_SHARD_SIZE)
        for part in (video_processor, processor):
            part.save_pretrained(draft)
        for source in code_files():
            shutil.copyfile(source, draft / source.name)
        for name, code in CODE_OF_FILE.items():
            if (draft / name).is_file():
                _set_auto_map(draft / name, code)
        if card is None and (facts is not None or not _card_stays(folder, draft)):
            card = _made_card(model.config, video_processor, facts, folder, draft)
        if card is not None:
            (draft / "README.md").write_text(str(card), encoding="utf-8")
    return folder


def export_adapter(model: Any, processor: Any, folder: str | Path, *, facts: ModelFacts | None = None) -> Path:
    """Write a folder with an adapter (LoRA) without the weights below: some MB, which `load_adapter` opens.

    It holds what the adapter and the layers beside it learned, batch statistics, configuration and class names,
    processor and card. Who opens it needs this package, as the weights below know nothing of its network. Files are
    replaced, and a card is kept, as in `export`.

    Args:
        model: a `PeftModel` of an `IlaForVideoClassification`, with the adapter of `training.lora_config`.
        processor: an `IlaVideoProcessor` or `IlaProcessor`.
        folder: where to write.
        facts: what the card states; by default it states no accuracy and no licence.

    Raises:
        ValueError: another kind of model or processor, a processor that does not fit the model, weights below that
            have no name, or a licence for weights that began as the official release's.
        OSError: the files cannot be written.
    """
    folder = Path(folder)
    adapter: Any = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
    if not hasattr(adapter, "base_sha256"):
        raise ValueError(
            f"`model` must be a PeftModel with the adapter of `training.lora_config`, got {type(model).__name__}."
        )
    if not adapter.base_model_name_or_path:
        raise ValueError("Nothing says which weights the adapter is for: `base_model_name_or_path` of its config.")
    video_processor = getattr(processor, "video_processor", processor)
    _check_pair(model.get_base_model(), video_processor, adapted=True)
    if facts is not None and isinstance(facts.license, str) and facts.license != "other":
        check_license(facts.license, model.config, facts)
    with atomic_folder(folder, stale=OWN_FILES) as draft:
        model.save_pretrained(draft)
        video_processor.save_pretrained(draft)
        (draft / "README.md").unlink(missing_ok=True)  # PEFT's, which says nothing
        if facts is not None or not _card_stays(folder, draft):
            card = _made_card(model.config, video_processor, facts, folder, draft)
            (draft / "README.md").write_text(str(card), encoding="utf-8")
    return folder


def read_adapter(folder: Path) -> dict[str, Any] | None:
    """Read the configuration of the adapter in a folder; None for a folder without one."""
    file = folder / ADAPTER
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _made_card(config: Any, video_processor: Any, facts: ModelFacts | None, folder: Path, draft: Path) -> ModelCard:
    """Make a card of what is in `draft`; one of another model that `folder` has stays beside it."""
    given = facts or ModelFacts()
    named = replace(given, model_id=given.model_id or folder.resolve().name)
    if facts is None and (folder / "README.md").is_file():
        logger.warning(f"The card in {str(folder)!r} is of another model; it stays as {CARD_BEFORE}.")
        shutil.copyfile(folder / "README.md", draft / CARD_BEFORE)
    return model_card(config, video_processor, named, in_index=False, adapter=read_adapter(draft))


def _card_stays(folder: Path, draft: Path) -> bool:
    """Return whether the folder's card is true of the model in `draft`: of its classes and, with results, weights."""
    if not (folder / "README.md").is_file():
        return False
    try:
        card = ModelCard.load(folder / "README.md")
        claims = read_facts(card).claims_results or bool(card.data.get("eval_results"))
    except Exception:  # of the YAML library and of the Hub's: nobody knows what it says, `publishing` refuses it
        return True
    if not (folder / "config.json").is_file():  # weights are yet to come to it
        return not claims
    same_kind = (folder / ADAPTER).is_file() is (draft / ADAPTER).is_file()
    return same_kind and _id2label(folder) == _id2label(draft) and (not claims or _same_weights(folder, draft))


def _id2label(folder: Path) -> Any:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label")
    except (ValueError, AttributeError):
        return None


def _same_weights(folder: Path, draft: Path) -> bool:
    files = [{path.name for path in place.glob("*model*.safetensors")} for place in (folder, draft)]
    return files[0] == files[1] and not any(filecmp.cmpfiles(folder, draft, sorted(files[0]), shallow=False)[1:])


def _check_pair(model: Any, video_processor: Any, *, adapted: bool = False) -> None:
    kind = type(model).__name__
    of_this_family = isinstance(model, IlaPreTrainedModel) or kind in ("IlaForVideoClassification", "IlaModel")
    if not of_this_family or getattr(model.config, "model_type", None) not in ("ila", "clip"):
        advice = f" {MERGE}" if hasattr(model, "merge_and_unload") else ""
        raise ValueError(f"`model` must be an IlaForVideoClassification or IlaModel, got {kind}.{advice}")
    if not adapted:
        _check_tensors(model)
    if type(video_processor).__name__ != "IlaVideoProcessor":
        name = type(video_processor).__name__
        raise ValueError(f"`processor` must be an IlaVideoProcessor or IlaProcessor, got {name}.")
    size = model.config.vision_config.image_size
    crop = dict(video_processor.crop_size or {})
    if (crop.get("height"), crop.get("width")) != (size, size):
        raise ValueError(f"The processor crops {crop}, the model takes {size} x {size} pixels: `for_model(config)`.")
    if video_processor.num_frames != model.config.num_frames:
        frames = model.config.num_frames
        raise ValueError(f"The processor takes {video_processor.num_frames} frames, the model {frames}.")


def _check_tensors(model: Any) -> None:
    with torch.device("meta"):
        expected = type(model)(copy.deepcopy(model.config)).state_dict().keys()
    differ = sorted(model.state_dict().keys() ^ expected)
    if differ:
        found = f"{len(differ)} tensors are not those of its configuration: {', '.join(differ[:3])}"
        raise ValueError(f"Another model would be loaded than this one: {found}. {MERGE}")


def _check_tokenizer(model: Any, tokenizer: Any) -> None:
    tokens = model.config.text_config.vocab_size
    if tokenizer is not None and model.config.has_text_tower and len(tokenizer) > tokens:
        raise ValueError(f"The processor's tokenizer has {len(tokenizer)} tokens, the model's text tower {tokens}.")


def _set_auto_map(path: Path, code: dict[str, str]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["auto_map"] = code
    if "video_processor" in content:  # which is looked for inside the processor first
        content["video_processor"]["auto_map"] = VIDEO_PROCESSOR_CODE
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

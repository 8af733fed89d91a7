"""Folders with an adapter (LoRA, by PEFT): what stands beside PEFT's own files, and how such a folder is opened.

PEFT saves what was trained. What a model says also depends on the weights below, on its configuration and on its
classes, so the folder holds these too: `config.json` with the class names, and `adapter_base.safetensors` with the
classes' tokens or text features and the hash of the weights that the adapter was trained on.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification
from transformers.utils import cached_file

from ..model.pretrained_ila import warn_of_untrained, weights_to_come
from .hashing import hash_tensors


try:
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights
except ImportError as error:
    raise ImportError("Adapters need PEFT: pip install 'transformers-ila[lora]'.") from error


BASE_FILE = "adapter_base.safetensors"
HASH = "base_sha256"
CLASS_TENSORS = ("class_input_ids", "class_embeds")


@dataclass
class AdapterConfig(LoraConfig):
    """Extend `LoraConfig`, so that whoever saves the adapter saves the model's configuration and classes with it.

    `training.adapters.lora_config` makes it.
    """

    model: ClassVar[nn.Module | None] = None  # each one's own: the model that the adapter is of
    base_sha256: ClassVar[str] = ""  # and the hash of its weights that the adapter does not replace

    def of(self, model: nn.Module) -> "AdapterConfig":
        """Remember the model, with the hash of those of its weights that this adapter leaves as they are."""
        self.model, self.base_sha256 = model, hash_of_base(model, self.modules_to_save or ())  # type: ignore[misc]
        return self

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save as `LoraConfig.save_pretrained`, and beside it the configuration and the classes of the model."""
        super().save_pretrained(save_directory, **kwargs)
        model: Any = self.model
        config = copy.deepcopy(model.config)
        config.architectures, config.dtype = [type(model).__name__], model.dtype
        config.untrained_weights = model.untrained() or None
        config.save_pretrained(save_directory)
        save_file(class_tensors(model), Path(save_directory) / BASE_FILE, metadata={HASH: self.base_sha256})


def class_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tokens (K, length) or text features (K, E) of a model's classes; a linear head has none."""
    return {name: model._buffers[name] for name in CLASS_TENSORS if name in model._buffers}  # type: ignore[misc]


def hash_of_base(model: nn.Module, replaced: Sequence[str]) -> str:
    """Return the SHA-256 of a model's weights and statistics, but for its classes and the modules named `replaced`."""
    left_out = {id(tensor) for name in replaced for tensor in _tensors(model.get_submodule(name)).values()}
    left_out |= {id(tensor) for tensor in class_tensors(model).values()}
    tensors = {name: tensor for name, tensor in _tensors(model).items() if id(tensor) not in left_out}
    digest = hashlib.sha256()
    hash_tensors(digest, tensors)
    return digest.hexdigest()


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return module.state_dict(keep_vars=True)


def load_adapter(source: str | Path, base: str | Path | None = None, *, revision: str | None = None) -> Any:
    """Open an adapter on the model that it was trained on, with its classes.

    `load_adapter(folder).merge_and_unload()` is a plain model of this package.

    Args:
        source: folder or Hub id that an adapter made with `lora_config` was saved to.
        base: folder or Hub id of the weights below; by default the one that the adapter names.
        revision: branch, tag or commit of `source` on the Hub.

    Returns:
        A `PeftModel` in eval mode, whose adapter can go on learning.

    Raises:
        ValueError: no adapter of `lora_config`, no base, or other weights than the adapter was trained on.
        OSError: there is no such adapter or base.
    """
    settings = PeftConfig.from_pretrained(str(source), revision=revision)
    classes, sha256 = _beside(source, revision)
    base_revision = None if base else settings.revision
    base = base or settings.base_model_name_or_path
    if not base:
        raise ValueError(
            f"{str(source)!r} does not say which weights it is for: name their folder or Hub id as `base`."
        )
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise OSError(
            f"The weights below the adapter {str(source)!r} are not in {str(base)!r}: name their folder or Hub id as "
            "`base`, or as `base_model_name_or_path` in its adapter_config.json."
        )
    config = AutoConfig.from_pretrained(source, revision=revision or "main")
    classifies = config.architectures[0].endswith("ForVideoClassification")
    opener: Any = AutoModelForVideoClassification if classifies else AutoModel
    with weights_to_come():
        model = opener.from_pretrained(
            base,
            config=config,
            dtype=config.dtype or "auto",
            ignore_mismatched_sizes=True,  # what does not fit is the adapter's own, or shows in the hash
            revision=base_revision or "main",
        )
    own = AdapterConfig(**{field.name: getattr(settings, field.name) for field in fields(settings) if field.init})
    if own.of(model).base_sha256 != sha256:
        raise ValueError(
            f"{str(source)!r} was trained on other weights than those of {str(base)!r}: name its own as `base`."
        )
    for name, tensor in class_tensors(model).items():
        tensor.copy_(classes[name])
    adapted = PeftModel.from_pretrained(model, str(source), config=own, is_trainable=True, revision=revision)
    _check_complete(adapted, source, revision)
    model.config.name_or_path = str(base)
    if hasattr(model, "refresh_class_features"):
        model.refresh_class_features()
    model.remember_untrained(config.untrained_weights or ())  # when the adapter was saved
    warn_of_untrained(model)
    return adapted.eval()


def require_same_adapter(model: PeftModel, source: str | Path) -> None:
    """Raise a ValueError unless a folder has an adapter of the same layers as a model's, on the same weights below."""
    own = model.peft_config[model.active_adapter]
    if isinstance(own, AdapterConfig) and own.base_sha256 != _beside(source)[1]:
        raise ValueError(f"The adapter in {str(source)!r} was trained on other weights than this model's.")
    _check_complete(model, source)


def _beside(source: str | Path, revision: str | None = None) -> tuple[dict[str, torch.Tensor], str]:
    """Read the classes' tensors and the hash of the base that stand beside an adapter."""
    try:
        file = cached_file(source, BASE_FILE, revision=revision)
    except OSError as error:
        raise ValueError(
            f"{str(source)!r} holds an adapter without {BASE_FILE}, which says its classes and weights below: make it "
            "with `transformers_ila.training.lora_config(model)`, or open it with PEFT."
        ) from error
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}, tensors.metadata()[HASH]


def _check_complete(adapted: PeftModel, source: str | Path, revision: str | None = None) -> None:
    stored = load_peft_weights(str(source), device="cpu", revision=revision).keys()
    wanted = get_peft_model_state_dict(adapted).keys()
    if differ := sorted(stored ^ wanted):
        raise ValueError(f"{str(source)!r} does not hold the weights of its adapter_config.json: {differ[:3]}.")

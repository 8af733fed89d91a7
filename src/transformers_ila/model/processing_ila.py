"""Videos and class names to model inputs: the video processor and CLIP's tokenizer behind one call."""

import json
from pathlib import Path
from typing import Any

from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import PROCESSOR_NAME, cached_file, logging

from .loading_ila import HUB_KWARGS, save_code
from .video_processing_ila import IlaVideoProcessor, IlaVideoProcessorKwargs


logger = logging.get_logger(__name__)


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json")


class IlaProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """List the options of a call, which are those of `IlaVideoProcessor` and of the tokenizer."""

    videos_kwargs: IlaVideoProcessorKwargs  # type: ignore[misc]


class IlaProcessor(ProcessorMixin):
    """Prepare videos and texts: `processor(videos=..., text=[...], return_tensors="pt")`.

    A call returns `pixel_values` (B, T, C, H, W), `input_ids` and `attention_mask`, both (K, length).

    Texts are padded to the longest, so that a list of class names makes one tensor (K, length).

    Args:
        video_processor: an `IlaVideoProcessor`; what it accepts as videos, so does this.
        tokenizer: the CLIP tokenizer of the text tower.

    Raises:
        ValueError: neither videos nor text, or whatever the two parts refuse.
    """

    valid_processor_kwargs = IlaProcessorKwargs  # type: ignore[assignment]
    text_kwargs: Any = {"padding": True}  # noqa: RUF012

    def __init__(self, video_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(video_processor, tokenizer, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint's processor, or the video processor alone where there is no tokenizer (a linear head)."""
        where: dict[str, Any] = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
        where |= {f"_raise_exceptions_for_{kind}": False for kind in ("missing_entries", "connection_errors")}
        found = (cached_file(pretrained_model_name_or_path, name, **where) for name in TOKENIZER_FILES)
        if any(file is not None for file in found):
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        logger.info(f"{pretrained_model_name_or_path!r} has no tokenizer: its processor takes videos only.")
        return IlaVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save as `ProcessorMixin.save_pretrained` does, with the code of a processor from an exported folder."""
        if isinstance(self.video_processor, IlaVideoProcessor):
            self.video_processor.warn_of_what_is_not_saved()
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        code = getattr(self.video_processor, "auto_map", None)  # the library keeps it in the parts only
        file = Path(save_directory) / PROCESSOR_NAME
        if code and file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            content["auto_map"] = {**code, "AutoProcessor": f"{__name__.rpartition('.')[2]}.{type(self).__name__}"}
            file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_code(self.video_processor, save_directory)
        return saved

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list:
        """Load both parts by class, not by Auto class: a CLIP folder names an image processor where ours is wanted."""
        kwargs.setdefault("subfolder", "")
        return [
            IlaVideoProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            cls._load_tokenizer_from_pretrained("tokenizer", pretrained_model_name_or_path, **kwargs),
        ]

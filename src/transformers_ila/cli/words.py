"""Words of your own in place of a model's classes: the options that several verbs share, and the model for them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.utils import logging

from ..backbones.zero_shot import ZERO_SHOT_TYPES, load_zero_shot
from ..data.class_names import DATA_SETS, class_names
from ..evaluation.inference import load_trained, named_in_errors, require_checkpoint
from ..model.class_features_ila import check_templates
from ..model.class_names_ila import check_labels
from ..model.configuration_ila import IlaConfig


logger = logging.get_logger(__name__)


FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".names", ".list")  # of what is meant as a file, and no word


@dataclass(frozen=True, kw_only=True)
class WordsArguments:
    """Hold a model, and the words that its text tower reads in place of its classes."""

    _argument_group_name = "model and words"

    model: str = field(
        metadata={
            "help": "folder or Hub id of a model saved with its processor; with words also of CLIP, SigLIP or SigLIP 2"
        }
    )
    labels: str | None = field(
        default=None,
        metadata={
            "help": "words with commas between them, a file with one a line or with `id,name`, or "
            f"{' or '.join(DATA_SETS)}; they take the place of the model's classes"
        },
    )
    template: list[str] = field(
        default_factory=list,
        metadata={
            "help": 'sentence around a word, such as "a video of {}."; may be given several times, whose features are '
            "averaged; `actions`: a set for actions; default: the checkpoint's own",
            "action": "append",
        },
    )

    def __post_init__(self) -> None:
        require_checkpoint(self.model)
        if self.labels is not None:
            read_words(self.labels)
        check_templates(self.templates)

    @property
    def templates(self) -> str | list[str] | None:
        """Return the templates as models take them; None where none was given."""
        return self.template[0] if len(self.template) == 1 else self.template or None


def word_source(text: str) -> str | list[str]:
    """Return what `read_annotations` takes for `labels`: a file or the name of a data set, or the words of a text.

    An existing file is a file, whatever its name.
    """
    return text if text in DATA_SETS or Path(text).is_file() else [word.strip() for word in text.split(",")]


def read_words(text: str) -> list[str]:
    """Return the words that `--labels` names.

    Raises:
        ValueError: no different words, or a file that is missing or has faults.
    """
    source = word_source(text)
    if isinstance(source, str):
        return class_names(source)
    if len(source) == 1 and Path(text).suffix.lower() in FILE_SUFFIXES:
        raise ValueError(f"--labels: there is no file {text!r}.")
    if "" in source:
        raise ValueError(
            f"--labels {text!r} has an empty word. Several words stand in quotes, with commas between them: "
            '--labels "juggling, waving".'
        )
    return check_labels(source, "--labels")

"""Words of your own in place of a model's classes: the options that several verbs share, and the model for them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ...backbones.siglip_configuration import SiglipVideoConfig
from ...backbones.zero_shot import PLAIN
from ...data.class_names import DATA_SETS, class_names
from ...evaluation.inference import load_for_words, load_trained, named_in_errors, require_checkpoint
from ...model.class_features_ila import check_templates
from ...model.class_names_ila import check_labels, explicit_class_names, label_fields
from ...model.validation_ila import MULTI_LABEL


SIGMOIDS = ("siglip", "siglip2")  # by `model_type`, those of `PLAIN` that give each word a probability of its own
FILE_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".names", ".list")  # of what is meant as a file, and no word


@dataclass(frozen=True, kw_only=True)
class TemplateArguments:
    """Hold the sentences that words are put into before a text tower reads them."""

    _argument_group_name = "sentences around words"

    template: list[str] = field(
        default_factory=list,
        metadata={
            "help": 'sentence around a word, such as "a video of {}."; given several times their features are '
            "averaged; actions: a set for actions; default: the model's own",
            "action": "append",
        },
    )

    def __post_init__(self) -> None:
        if self.templates is not None:
            check_templates(self.templates)

    @property
    def templates(self) -> str | list[str] | None:
        """Return the templates as models take them; None where none was given."""
        return self.template[0] if len(self.template) == 1 else self.template or None


@dataclass(frozen=True, kw_only=True)
class WordsArguments(TemplateArguments):
    """Hold words that a model's text tower reads in place of its classes."""

    _argument_group_name = "words of your own"

    labels: str | None = field(
        default=None,
        metadata={
            "help": "words with commas between them, a file with one a line or with `id,name`, or "
            f"{' or '.join(DATA_SETS)}; they take the place of the model's classes"
        },
    )

    def __post_init__(self) -> None:
        if self.labels is not None:
            read_words(self.labels)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ModelArguments(WordsArguments):
    """Hold which model is asked: about its own classes, or about words."""

    _argument_group_name = "model"

    model: str = field(
        metadata={
            "help": "folder or Hub id of a model saved with its processor; with --labels also of a CLIP, SigLIP or "
            "SigLIP 2"
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # first: of `--labels a, b` without quotes `b` would be taken for something to read
        require_checkpoint(self.model)

    def open(self) -> tuple[Any, Any]:
        """Open the model for the words of --labels, or for its own classes where none are given, and its processor.

        Errors are those of `require_words`, `read_words` and `open_model`.
        """
        require_words(self.model, self.labels)
        names = None if self.labels is None else read_words(self.labels)
        return open_model(self.model, names, self.templates)[:2]


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


def is_plain(source: str | Path) -> bool:
    """Return whether a checkpoint is a CLIP or SigLIP that knows no classes: published, or saved without words.

    An OSError or ValueError says what is wrong with the checkpoint.
    """
    with named_in_errors(source):
        config = AutoConfig.from_pretrained(source)
    if config.model_type in PLAIN:
        return True
    vision = getattr(config, "vision_config", None)
    averages_frames = isinstance(config, SiglipVideoConfig) or getattr(vision, "normalize_frames", False)
    return averages_frames and explicit_class_names(config) is None


def gives_sigmoids(source: str | Path) -> bool:
    """Return whether each class of a checkpoint has a probability of its own, so that a video may have several."""
    with named_in_errors(source):
        config = AutoConfig.from_pretrained(source)
    return config.model_type in SIGMOIDS or config.problem_type == MULTI_LABEL


def require_words(source: str, labels: str | None) -> None:
    """Raise a ValueError where a model knows no classes and no words are given."""
    if labels is None and is_plain(source):
        raise ValueError(
            f"{source!r} is a CLIP or SigLIP, which was trained on no classes: say by --labels which words it "
            'chooses among, such as --labels "juggling, waving", or a file with one a line.'
        )


def open_model(source: str, names: list[str] | None, templates: str | list[str] | None) -> tuple[Any, Any, bool]:
    """Open a model for words, or a trained one where none are given.

    The names of classes stay what they are. What the text tower reads of a name has blanks for its underscores, with
    which folders are named; a name that the model was trained on is read as it was then.

    Args:
        source: folder or Hub id.
        names: of the classes; None: the model's own.
        templates: in which names are read; None: the model's own.

    Returns:
        The model, its processor, and whether the model was trained on none of the classes, as far as its names tell.

    Raises:
        ValueError: a model that reads no words, or names that it reads alike.
        OSError: no such checkpoint.
    """
    plain = is_plain(source)
    if names is None and templates is None and not plain:
        return *load_trained(source), False
    with named_in_errors(source):
        own = set() if plain else set(AutoConfig.from_pretrained(source).id2label.values())
        read = None if names is None else [name if name in own else name.replace("_", " ") for name in names]
        try:
            model, processor = load_for_words(source, read, templates)
        except ValueError as error:
            if plain:
                raise
            raise ValueError(f"{error} Without --labels and --template it gives its own classes.") from error
    if names is not None:
        model.config.id2label, model.config.label2id = label_fields(names).values()
    return model, processor, plain or own.isdisjoint(read or own)

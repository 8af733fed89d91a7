"""What a model card states beyond the model's configuration: results, origin, licence, and whose results they are.

The facts stand under the key `ila` of the card's metadata, and the licence under the Hub's own keys. They are read
from there again; the card's text shows them and is not read. Cards of earlier versions have no such key:
`earlier_cards` reads those.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from huggingface_hub import RepoCard
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from .earlier_cards import read_earlier_card


FACTS_KEY = "ila"
OFFICIAL_RELEASE: Final = "official_release"  # the value of `IlaConfig.weights_origin`
OPENAI_CLIP: Final = "clip"
NO_LICENCE = "none-granted"
LICENCE_KEYS = ("license", "license_name", "license_link")
METRICS = {  # our name of a metric -> the Hub's identifier, the title in the card
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("top_5_accuracy", "Top-5 accuracy"),
    "mean_class_accuracy": ("mean_class_accuracy", "Mean class accuracy"),
    "mean_average_precision": ("mean_average_precision", "Mean average precision"),  # of several labels a video
}


@strict
@dataclass
class Result:
    """Hold one accuracy and where it comes from.

    metric: a key of `METRICS`.
    percent: the value, from 0 to 100; any other is a ValueError.
    data_set, split: on which it was taken; the split is None where nobody stated one.
    protocol: the views of a video, in words (`describe_views`).
    counts: how many videos are behind the number, in words.
    origin: whether its authors published it or this package measured it.
    source, source_url: the table or the versions that it comes from.
    note: sentences in Markdown about it, printed below the table.
    """

    metric: Literal["top1", "top5", "mean_class_accuracy", "mean_average_precision"]
    percent: float | int
    data_set: str
    protocol: str
    counts: str
    origin: Literal["published", "measured"]
    source: str
    split: str | None = None
    source_url: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"`percent` must be from 0 to 100, got {self.percent}.")


@strict
@dataclass
class ModelFacts:
    """Hold what a card states of a model that its configuration and processor do not tell.

    model_id, revision: what the usage example loads: a Hub id or a folder's name, and a branch.
    title: the headline; by default the model's name.
    origin: whose weights these are or began as: the official release's, or OpenAI's CLIP untrained. None: one's own.
    license, license_name, license_link: as in the Hub's metadata ("apache-2.0"; or "other" with a name and a link).
    results: accuracies with their origin.
    recorded_accuracy: of a converted file, the best validation accuracy in percent that its training wrote into it.
    usage_note, data_note: sentences in Markdown for these two sections. HTML in them is shown, not used.
    fingerprint: of the weights that the results belong to (`evaluation.fingerprint`); None where nobody stated it.
    """

    model_id: str | None = None
    revision: str | None = None
    title: str | None = None
    origin: Literal["official_release", "clip"] | None = None
    license: str | list[str] | None = None
    license_name: str | None = None
    license_link: str | None = None
    results: list[Result] = field(default_factory=list)
    recorded_accuracy: float | int | None = None
    usage_note: str = ""
    data_note: str = ""
    fingerprint: str | None = None

    @property
    def licence(self) -> str | None:
        """Return the name of the licence, or several names with commas."""
        name = self.license_name or self.license
        return ", ".join(name) if isinstance(name, list) else name

    @property
    def measured(self) -> list[Result]:
        """Return the results that this package measured."""
        return [result for result in self.results if result.origin == "measured"]

    @property
    def published(self) -> list[Result]:
        """Return the results that the model's authors published."""
        return [result for result in self.results if result.origin == "published"]

    @property
    def claims_results(self) -> bool:
        """Return whether the facts say anything about how good the model is."""
        return bool(self.results) or self.recorded_accuracy is not None or self.fingerprint is not None

    def are_of(self, fingerprint: str) -> bool:
        """Return whether the results are of the weights of this fingerprint; True if nobody stated whose they are."""
        return self.fingerprint in (None, fingerprint)


def facts_to_metadata(facts: ModelFacts) -> dict[str, Any]:
    """Write the facts for the key `ila` of a card's metadata, without empty fields and without the licence."""
    fields = {key: value for key, value in asdict(facts).items() if key not in LICENCE_KEYS}
    return _without_empty({**fields, "results": [_without_empty(result) for result in fields["results"]]})


def read_facts(card: RepoCard) -> ModelFacts:
    """Read the facts of a card, in the form of this version or of an earlier one.

    Raises:
        ValueError: the key `ila` holds something that is no facts.
    """
    metadata = card.data.to_dict()
    licence = {key: metadata[key] for key in LICENCE_KEYS if metadata.get(key) is not None}
    stored = metadata.get(FACTS_KEY)
    if stored is None:
        stored = read_earlier_card(card.text, metadata, {title: name for name, (_, title) in METRICS.items()})
    try:
        results = [Result(**result) for result in stored.get("results", [])]
        facts = ModelFacts(**{**stored, "results": results}, **licence)
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"The card's metadata must state the licence in text, and under the key `{FACTS_KEY}` what `ila card` "
            f"writes: {reason}. Mend them, or delete the key."
        ) from error
    return replace(facts, origin=OFFICIAL_RELEASE) if facts.license_name == NO_LICENCE else facts


def describe_views(clips: int, crops: int, frames: int) -> str:
    """Write a protocol in words, such as "4 clips x 3 crops, 8 frames each"."""
    plural = ["" if number == 1 else "s" for number in (clips, crops)]
    return f"{clips} clip{plural[0]} x {crops} crop{plural[1]}, {frames} frames each"


def _without_empty(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in (None, "", [])}

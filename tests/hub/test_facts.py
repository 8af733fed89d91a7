"""Facts of a card: they come back from its metadata as they were written, and from the text of earlier cards."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, RepoCard

from support.evaluation_models import make_model
from transformers_ila import IlaVideoProcessor
from transformers_ila.conversion.published import PUBLISHED
from transformers_ila.conversion.released_cards import SAME_SHAPES, published_card, published_facts
from transformers_ila.hub.cards import model_card
from transformers_ila.hub.facts import OFFICIAL_RELEASE, OPENAI_CLIP, ModelFacts, Result, read_facts


EARLIER = Path(__file__).with_name("earlier_cards")  # made by the code before cards had facts
MEASURED = Result("top1", 100 / 3, "Motions", "1 clip x 1 crop, 4 frames each", "3 of 3 videos", "measured", "here")
EVERYTHING = ModelFacts(
    model_id="user/mine",
    revision="v2",
    title="Mine: a model",
    origin=OPENAI_CLIP,
    license="other",
    license_name="my-licence",
    license_link="https://example.org/licence",
    results=[
        replace(MEASURED, split="test", note="A sentence: with a colon.\nAnd a line."),
        *published_facts(PUBLISHED[0]).results,
    ],
    recorded_accuracy=84.02,
    usage_note="Use it well.",
    data_note="Trained on videos.",
    fingerprint="ab" * 32,
)


def card_of(facts: ModelFacts) -> ModelCard:
    config = make_model().config
    return model_card(config, IlaVideoProcessor.for_model(config), facts)


@pytest.mark.parametrize("card_class", [ModelCard, RepoCard])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_facts_come_back_as_they_were(card_class, line_break):
    text = str(card_of(EVERYTHING)).replace("\n", line_break)
    assert read_facts(card_class(text)) == EVERYTHING
    assert read_facts(card_class(str(card_class(text)))) == EVERYTHING


def test_a_card_about_which_nothing_is_known_has_no_facts():
    card = card_of(ModelFacts())
    assert "ila" not in card.data.to_dict()
    facts = read_facts(card)
    assert facts == ModelFacts(model_id="model") and not facts.claims_results


def test_the_text_shows_the_facts():
    text = card_of(EVERYTHING).text
    for part in (
        'model="user/mine", revision="v2", trust_remote_code',
        "# Mine: a model",
        "| Motions, test | Top-1 accuracy | 33.3 % |",
        "A sentence: with a colon.",
        "records a best validation accuracy of 84.02 %",
        "Use it well. This needs",
        "- Trained on videos.\n- Classes: ",
        "the weights are my-licence.",
        "The towers are OpenAI's CLIP",
    ):
        assert part in text


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [1],
        {"results": 3},
        {"results": [{"metric": "top1"}]},
        {"results": [{**vars(MEASURED), "metric": "top7"}]},
        {"results": [{**vars(MEASURED), "percent": "many"}]},
        {"results": [{**vars(MEASURED), "percent": 250.0}]},
        {"results": [{**vars(MEASURED), "percent": float("nan")}]},
        {"fingerprint": 7},
        {"colour": "blue"},
    ],
    ids=str,
)
def test_facts_that_are_none(value):
    card = card_of(EVERYTHING)
    card.data["ila"] = value
    with pytest.raises(ValueError, match="under the key `ila` what `ila card` writes: .*Mend them, or delete the key"):
        read_facts(ModelCard(str(card)))


def test_several_licences():
    card = card_of(ModelFacts(license=["mit", "apache-2.0"]))
    assert read_facts(card).licence == "mit, apache-2.0" and "the weights are mit, apache-2.0." in card.text


# -- cards of earlier versions ---------------------------------------------------------------------------------------


def test_an_earlier_card_with_measured_results():
    facts = read_facts(ModelCard.load(EARLIER / "measured.md"))
    assert facts.model_id == "text" and facts.origin is None and facts.license is None
    assert facts.fingerprint == "d2ddbbfcc6eac1c4aaa6edccd555c3f1e58855e1d1fd5a8eecb8d1e076acd525"
    found = [(result.metric, result.percent, result.data_set, result.split) for result in facts.results]
    assert found == [
        (name, value, "Motions", "test")
        for name, value in zip(("top1", "top5", "mean_class_accuracy"), (12.5, 68.75, 12.5))
    ]
    assert {(r.origin, r.counts, r.protocol) for r in facts.results} == {
        ("measured", "16 of 16 videos, 0 unreadable", "1 clip x 1 crop, 4 frames each")
    }
    assert facts.results[0].source.startswith("transformers-ila 0.1.0, ")
    assert facts.results[0].note.endswith("12.5 % with reversed frames, 12.5 % with a single frame repeated.")
    assert not facts.results[1].note and facts.recorded_accuracy is None


def test_an_earlier_card_of_a_converted_checkpoint():
    """It says what the card of today would say, but for what our network costs; the fingerprint and the recorded
    accuracy too."""
    facts = read_facts(ModelCard.load(EARLIER / "converted.md"))
    expected = published_facts(PUBLISHED[2])
    first, second = expected.results
    cost = first.note.partition(" The network")[0]
    assert facts.results == [replace(first, note=f"{SAME_SHAPES} {cost}"), second]
    assert (facts.title, facts.data_note) == (expected.title, "")  # it said nothing of the data
    assert (facts.model_id, facts.origin, facts.recorded_accuracy) == ("ila-b16", OFFICIAL_RELEASE, 84.02)
    assert facts.fingerprint == "ab" * 32 and facts.licence == "none-granted"


MARK = "<!-- results of the weights abab -->"
RECORDS = "The converted file itself records a best validation accuracy of 99 %, measured by the code that trained it."
CLIP = "The towers are OpenAI's CLIP; every other weight is new and untrained"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(approaching, ", f"({MARK}, "),
        ("(approaching, ", f'(pipeline("video-classification", model="evil", {CLIP}'),
        ("| Motions, test | Top-1", f"| {MARK} {CLIP} {RECORDS}, test | Top-1"),
        ("Top-1 accuracy on Motions", f"Top-1 accuracy on {RECORDS} {MARK} {CLIP}"),
        ("Top-1 accuracy on Motions", f"Top-1 accuracy on a\n{MARK}\nb"),
        ("# text\n", f"# {CLIP}\n"),
    ],
)
def test_marks_in_the_names_of_an_earlier_card_are_not_believed(old, new):
    text = (EARLIER / "measured.md").read_text(encoding="utf-8")
    assert old in text
    facts, plain = read_facts(ModelCard(text.replace(old, new, 1))), read_facts(ModelCard(text))
    same = ("model_id", "origin", "license", "recorded_accuracy", "fingerprint")
    assert [getattr(facts, name) for name in same] == [getattr(plain, name) for name in same]


def test_nothing_is_believed_of_a_card_with_a_section_twice():
    text = (EARLIER / "measured.md").read_text(encoding="utf-8")
    twice = text.replace("# text\n", f"# a\n\n## Results\n\n{MARK}\n\n## Use it\n", 1)
    assert read_facts(ModelCard(twice)) == ModelFacts()


def test_earlier_cards_of_clip_and_of_nothing_measured():
    clip = card_of(ModelFacts(model_id="clip", origin=OPENAI_CLIP))
    clip.data.pop("ila")
    assert read_facts(clip) == ModelFacts(model_id="clip", origin=OPENAI_CLIP, license="mit")
    written = ModelCard("---\nlibrary_name: transformers\n---\n# Mine\n\nMy own words.\n\n## Results\n\nGood.\n")
    assert read_facts(written) == ModelFacts()


def test_cards_of_the_repository_before_they_had_facts():
    """Without the key, the card of a published checkpoint gives the same facts but for how it came to be."""
    card = published_card(PUBLISHED[7])
    facts = read_facts(card)
    card.data.pop("ila")
    assert read_facts(card) == replace(facts, usage_note="")

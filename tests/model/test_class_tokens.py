"""Names that a text tower cannot tell apart, and tokens and text features that are none."""

import copy
import logging

import numpy as np
import pytest
import torch

from support.inputs import CLOSE, pixels, randomised
from support.tiny_models import byte_tokenizer, save_clip, tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.model.class_features_ila import alike_features, alike_tokens, tokenize_labels


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model():
    """A model that is not changed: what fails leaves it as it was."""
    return randomised(IlaForVideoClassification(tiny_config(num_labels=3, use_video_prompt=False))).eval()


ALIKE = {
    "case": ["run", "Walk", "walk"],
    "blanks before a sign": ["walk , run", "walk, run"],
    "composed letters": ["caf\u00e9", "cafe\u0301"],
    "cut": ["x" * 40 + "a", "x" * 40 + "b"],
}


@pytest.mark.parametrize("names", ALIKE.values(), ids=ALIKE)
def test_names_that_the_tokenizer_reads_alike_are_refused(clip, names):
    cut = "of which it keeps 32 tokens.*" if len(names[0]) > 32 else ""
    with pytest.raises(ValueError, match=f"{names[-2]!r} and {names[-1]!r} alike.*{cut}always get the same score"):
        IlaForVideoClassification.from_pretrained(clip, labels=names)
    linear = IlaForVideoClassification.from_pretrained(clip, labels=names, classification_head="linear")
    assert linear.config.class_names == names  # which reads no text


def test_text_that_cannot_be_encoded(tokenizer):
    with pytest.raises(ValueError, match=r"UTF-8 can hold, got \['a\\udc80'\]"):
        tokenize_labels(["a\udc80", "b"], tokenizer, tiny_config().text_config)


@pytest.mark.parametrize("end", [98, 2])
def test_what_stands_behind_the_end_of_a_text_tells_no_classes_apart(end):
    text = tiny_config(text_config={"vocab_size": 99, "eos_token_id": end}).text_config
    last = 98  # 2 is CLIP's old sign for the highest id
    assert alike_tokens(torch.tensor([[5, last, 3], [6, last, 3], [5, last, 4]]), text) == (0, 2)
    assert alike_tokens(torch.tensor([[5, 3, last], [5, last, 3]]), text) is None


@pytest.mark.parametrize(
    "ids, said",
    [
        ([[5, 98, 3], [6, 98, 3], [5, 98, 4]], r"rows 0 and 2 \('LABEL_0', 'LABEL_2'\) are alike"),
        ([[5, 6, 3], [5, 7, 4]], "rows 0 and 1"),  # no end of text: only the first token is read
        ([[True, False]], "integers.*torch.bool"),
        (torch.full((2, 4), 1j), "integers.*complex"),
        ([[5, 98], [6]], "rows of equal length"),
        ("walk", "rows of equal length"),
        ([["walk"]], "rows of equal length"),
    ],
)
def test_tokens_that_name_no_classes(model, ids, said):
    before = model(pixels()).logits
    with pytest.raises(ValueError, match=f"`input_ids` must.*{said}"):
        model.set_class_input_ids(ids)
    assert torch.equal(model(pixels()).logits, before)


def test_tokens_of_other_integers_are_taken_and_rows_without_an_end_are_told(model, caplog):
    model = copy.deepcopy(model)
    ids = np.array([[5, 98], [6, 98]], dtype=np.uint16)
    model.set_class_input_ids(ids, labels=(name for name in "ab"))
    assert model.class_input_ids.dtype == torch.long and model.config.class_names == ["a", "b"]
    assert "eos_token_id" not in caplog.text
    model.set_class_input_ids([[5, 6], [6, 98]])
    assert "only the first token" in caplog.text


FEATURES = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "embeds, said",
    [
        (FEATURES[[0, 1, 0]], r"rows 0 and 2 \('LABEL_0', 'LABEL_2'\) are alike"),
        (torch.stack([FEATURES[0], FEATURES[1], 3 * FEATURES[1]]), "rows 1 and 2"),
        (torch.ones(3, 64, dtype=torch.long), "floating-point numbers, got torch.int64"),
        (torch.ones(3, 64, dtype=torch.bool), "floating-point numbers, got torch.bool"),
        (FEATURES.to(torch.complex64), "floating-point numbers, got torch.complex64"),
        (FEATURES.masked_fill(FEATURES > 2, float("nan")), "finite, those of class 'LABEL_"),
        (FEATURES.masked_fill(FEATURES > 2, float("inf")), "finite"),
        (FEATURES.double() * 1e300, "finite"),  # more than the model's numbers can hold
        (FEATURES * torch.tensor([[1.0], [0.0], [1.0]]), r"different from 0, those of class 'LABEL_1' \(row 1\)"),
        (FEATURES * 1e-30, "of a length that torch.float32 can bring to 1"),  # all cosines would be 0
        (FEATURES * 1e30, "of a length"),
        ("walk", "rows of equal length"),
    ],
)
def test_text_features_that_name_no_classes(model, embeds, said):
    before = model(pixels()).logits
    with pytest.raises(ValueError, match=f"`embeds` must.*{said}"):
        model.set_class_embeddings(embeds)
    assert torch.equal(model(pixels()).logits, before)


@pytest.mark.parametrize(
    "labels", [["", "a", "b"], ["a", "a", "b"], ["a", "a ", "b"], {"a", "b", "c"}, ["a", "b"], "abc"]
)
def test_names_beside_tokens_and_text_features(model, labels):
    for call in (model.set_class_embeddings, model.set_class_input_ids):
        with pytest.raises(ValueError, match="`labels` must"):
            call(FEATURES if call == model.set_class_embeddings else [[5, 98], [6, 98], [7, 98]], labels)
    for call, one in ((model.set_class_embeddings, FEATURES[:1]), (model.set_class_input_ids, [[5, 98]])):
        with pytest.raises(ValueError, match="`num_labels` is 1; allowed: 2 or more"):
            call(one)
    assert model.config.class_names == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_many_text_features_are_compared(model):
    model = copy.deepcopy(model)
    many = torch.randn(2500, 64, generator=torch.Generator().manual_seed(0))
    model.set_class_embeddings(many)
    many[2400] = many[1100]
    with pytest.raises(ValueError, match="rows 1100 and 2400"):
        model.set_class_embeddings(many)


def test_stored_classes_that_are_read_alike_load_and_are_told(clip, tmp_path, caplog):
    model = IlaForVideoClassification.from_pretrained(clip, labels=["walk", "run"])
    model.class_input_ids[1] = model.class_input_ids[0]  # as earlier versions saved "Walk" and "walk"
    model.save_pretrained(tmp_path)
    assert torch.equal(IlaForVideoClassification.from_pretrained(tmp_path).class_input_ids, model.class_input_ids)
    assert "tokens of 'walk' and 'run' are read alike" in caplog.text


def test_placeholders_are_told_whenever_they_are_loaded_or_saved(clip, tmp_path, caplog):
    model = IlaForVideoClassification(tiny_config(id2label={0: "walk", 1: "run"}))
    with caplog.at_level(logging.WARNING):
        model.save_pretrained(tmp_path / "made")
    assert "saved without their tokens" in caplog.text
    copy.deepcopy(model).merge_text_tower()
    assert "features stored for them are those of placeholders" in caplog.text
    caplog.clear()
    loaded = IlaForVideoClassification.from_pretrained(tmp_path / "made")
    assert "call `set_labels`" in caplog.text
    IlaForVideoClassification.from_pretrained(tmp_path / "made", class_features="embeddings")
    assert "random ones stand for them" in caplog.text
    made = IlaForVideoClassification(tiny_config(class_features="embeddings", num_labels=3))
    assert alike_features(made.class_embeds) is None  # zeros would give all classes one score
    torch.testing.assert_close(loaded(pixels()).logits, model.eval()(pixels()).logits, **CLOSE)
    named = IlaForVideoClassification.from_pretrained(clip, labels=["walk", "run"])
    caplog.clear()
    named.save_pretrained(tmp_path / "named")
    IlaForVideoClassification.from_pretrained(tmp_path / "named")
    assert "placeholders" not in caplog.text
    IlaForVideoClassification.from_pretrained(tmp_path / "named", num_labels=4, ignore_mismatched_sizes=True)
    assert "call `set_labels`" in caplog.text

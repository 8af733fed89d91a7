"""Targets: one convention for all losses, and errors that say what was given, what is allowed and what to do."""

import math

import pytest
import torch
from torch.nn import functional as F

from support.tiny_models import TINY_VISION, tiny_config
from transformers_ila import IlaForVideoClassification
from transformers_ila.backbones.frozen_clip import FrozenClipConfig, FrozenClipForVideoClassification
from transformers_ila.backbones.timesformer import AlignedTimesformerConfig, AlignedTimesformerForVideoClassification
from transformers_ila.model.targets_ila import IGNORE_INDEX, target_loss


SEVERAL = "multi_label_classification"
LOGITS = torch.tensor([[1.0, 0.0, -1.0, 0.5], [0.0, 2.0, 0.0, -1.0]])
ROW = [IGNORE_INDEX] * 4
THIRDS = [[1 / 3, 1 / 3, 1 / 3, 0]] * 2
REMEDY = "`problem_type='multi_label_classification'`"
KINDS = {
    "ila": lambda **fields: IlaForVideoClassification(tiny_config(classification_head="linear", **fields)),
    "text": lambda **fields: IlaForVideoClassification(tiny_config(**fields)),
    "frozen_clip": lambda **fields: FrozenClipForVideoClassification(
        FrozenClipConfig(vision_config=dict(TINY_VISION), num_frames=4, decoder_num_layers=1, **fields)
    ),
    "timesformer": lambda **fields: AlignedTimesformerForVideoClassification(
        AlignedTimesformerConfig(**TINY_VISION, num_frames=4, alignment_hidden_size=8, **fields)
    ),
}


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8", "uint16"])
def test_integers_are_class_indices(dtype):
    expected = F.cross_entropy(LOGITS, torch.tensor([0, 3]))
    labels = torch.tensor([0, 3]).to(getattr(torch, dtype))
    assert target_loss(LOGITS, labels, problem_type=None) == expected
    if dtype not in ("uint8", "uint16"):
        first = target_loss(
            LOGITS, torch.tensor([0, IGNORE_INDEX]).to(labels), problem_type="single_label_classification"
        )
        assert first == F.cross_entropy(LOGITS[:1], torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rows_of_floats_are_probabilities(dtype):
    labels = torch.tensor(THIRDS).to(dtype)
    found = target_loss(LOGITS, labels, problem_type=None)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, labels.float()).to(found), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "uint16", "float32", "bfloat16"])
def test_rows_are_several_labels_where_the_model_says_so(dtype):
    rows = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
    found = target_loss(LOGITS, rows.to(getattr(torch, dtype)), problem_type=SEVERAL)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(LOGITS, rows.float()))
    mixed = torch.tensor([[0.2, 0.7, 1, 0], [0, 0, 0, 0.3]])
    found = target_loss(LOGITS, mixed, problem_type=SEVERAL)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(LOGITS, mixed))


def test_unread_videos_are_passed_over():
    first = target_loss(LOGITS[:1], torch.tensor([[1, 0, 1, 0]]), problem_type=SEVERAL)
    found = target_loss(LOGITS, torch.tensor([[1, 0, 1, 0], ROW]), problem_type=SEVERAL)
    torch.testing.assert_close(found, first)
    assert target_loss(LOGITS, torch.tensor([ROW, ROW]), problem_type=SEVERAL).isnan()


FAULTS = {  # (problem_type, labels, what the error says)
    "rows of integers": (None, torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]), rf"\(2, 4\) of torch.int64: .*{REMEDY}"),
    "one-hot integers": (None, torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]]), r"probabilities are `labels.float\(\)`"),
    "rows of bool": (None, torch.tensor([[True, False, True, False]] * 2), f"torch.bool: .*{REMEDY}"),
    "sum 2": (
        None,
        torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]]),
        rf"{REMEDY}.*got \[1.0, 0.0, 1.0, 0.0\] with the sum 2",
    ),
    "sum 0": (None, torch.zeros(2, 4), "the sum 0 in 2 rows"),
    "sum 0.95": (None, torch.tensor([[0.3, 0.3, 0.3, 0.05]] * 2), "the sum 0.95"),
    "negative, sum 1": (None, torch.tensor([[-1.0, 2, 0, 0], [0, 1, 0, 0]]), r"got \[-1.0, 2.0"),
    "NaN": (None, torch.tensor([[math.nan, 0, 0, 1]] * 2), "nan"),
    "floats": (
        None,
        torch.tensor([0.0, 1.0]),
        r"\(2,\) of torch.float32: class indices are integers, `labels.long\(\)`",
    ),
    "bools": (None, torch.tensor([True, False]), r"\(2,\) of torch.bool"),
    "complex": (None, torch.ones(2, 4, dtype=torch.complex64), "complex64"),
    "a column": (None, torch.tensor([[0], [1]]), r"got \(2, 1\)"),
    "too high": (None, torch.tensor([0, 4], dtype=torch.uint8), r"0 to 3, got \[4\]"),
    "negative": (None, torch.tensor([0, -1]), r"0 to 3, got \[-1\]"),
    "a list": (None, [0, 1], r"a tensor, got list \[0, 1\]"),
    "indices for several": (SEVERAL, torch.tensor([0, 1]), r"rows \(2, 4\) of 0 and 1.*one_hot\(labels"),
    "two": (SEVERAL, torch.tensor([[2, 0, 0, 0], [0, 1, 0, 0]]), r"got \[2, 0, 0, 0\]"),
    "below 0": (SEVERAL, torch.tensor([[-0.1, 0, 0, 0], [0, 1, 0, 0]]), r"got \[-0.1"),
    "half of a row": (SEVERAL, torch.tensor([[1, 0, -100, -100], [0, 1, 0, 0]]), r"of -100 alone, got \[1, 0, -100"),
    "NaN for several": (SEVERAL, torch.tensor([[math.nan, 0, 0, 1]] * 2), "nan"),
    "regression": ("regression", torch.zeros(2, 4), "`problem_type` must be None, .* got 'regression'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_all_else_is_an_error(case):
    problem, labels, message = FAULTS[case]
    with pytest.raises(ValueError, match=message):
        target_loss(LOGITS, labels, problem_type=problem)


@pytest.mark.parametrize("kind", KINDS)
def test_every_class_has_the_convention(kind):
    model, clips = KINDS[kind](num_labels=4), torch.zeros(2, 4, 3, 28, 28)
    for labels in (torch.tensor([[1, 0, 1, 0]] * 2), torch.tensor([[1.0, 0, 1, 0]] * 2), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="`labels` must be"):
            model(clips, labels=labels)
    model.config.problem_type = SEVERAL
    assert model(clips, labels=torch.tensor([[True, False, True, False]] * 2)).loss.isfinite()
    with pytest.raises(ValueError, match="rows"):
        model(clips, labels=torch.tensor([0, 1]))


def test_compiled_code_checks_as_well():
    compiled = torch.compile(target_loss, fullgraph=True, backend="aot_eager")
    labels = torch.tensor(THIRDS)
    torch.testing.assert_close(
        compiled(LOGITS, labels, problem_type=None), target_loss(LOGITS, labels, problem_type=None)
    )
    with pytest.raises(RuntimeError, match="`labels` must be probabilities"):
        compiled(LOGITS, 2 * labels, problem_type=None)

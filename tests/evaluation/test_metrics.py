"""Metrics beside plain loops over scalars, as the report uses them and as `evaluate.Metric`s."""

import math

import pytest
import torch

from support.plain_metrics import plain_average_precision
from transformers_ila.evaluation import metrics


def scores_and_labels(*, videos: int, classes: int, levels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with many ties, where there are few levels."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (videos, classes), generator=generator).float()
    return scores, torch.randint(classes, (videos,), generator=generator)


def plain_ranking(scores: list[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


SIZES = {"one class": (9, 1, 3), "fewer than five": (40, 3, 4), "ties": (60, 8, 2), "many": (50, 30, 1000)}


@pytest.mark.parametrize("size", SIZES)
def test_accuracies_beside_loops(size):
    videos, classes, levels = SIZES[size]
    scores, labels = scores_and_labels(videos=videos, classes=classes, levels=levels)
    rankings = [plain_ranking(row) for row in scores.tolist()]
    for k in (1, 2, 5, 100):
        hits = [label in ranking[:k] for ranking, label in zip(rankings, labels.tolist())]
        assert metrics.top_k_accuracy(scores, labels, k=k) == pytest.approx(sum(hits) / videos)
    right: dict[int, list[bool]] = {}
    matrix = [[0] * classes for _ in range(classes)]
    for ranking, label in zip(rankings, labels.tolist()):
        right.setdefault(label, []).append(ranking[0] == label)
        matrix[label][ranking[0]] += 1
    means = [sum(hits) / len(hits) for hits in right.values()]
    assert metrics.mean_class_accuracy(scores, labels) == pytest.approx(sum(means) / len(means))
    assert metrics.confusion_matrix(scores, labels).tolist() == matrix
    assert metrics.accuracies(scores, labels)["classes"] == len(right)
    expected = [ranking.index(label) for ranking, label in zip(rankings, labels.tolist())]
    assert metrics.label_ranks(scores, labels).tolist() == expected


@pytest.mark.parametrize("levels", [2, 5, 10_000])
def test_average_precision_beside_loops(levels):
    scores, _ = scores_and_labels(videos=40, classes=6, levels=levels)
    targets = torch.rand(40, 6, generator=torch.Generator().manual_seed(1)) < 0.3
    targets[:, 2], targets[:, 3] = False, True  # an empty class, and one that all videos have
    found = metrics.average_precisions(scores, targets)
    for column in range(6):
        if column == 2:
            assert math.isnan(found[column])
            continue
        expected = plain_average_precision(scores[:, column].tolist(), targets[:, column].tolist())
        assert float(found[column]) == pytest.approx(expected)
    assert float(found[3]) == 1
    result = metrics.multi_label_metrics(scores, targets)
    assert result["mean_average_precision"] == pytest.approx(float(found[~found.isnan()].mean()))
    assert result["classes"] == 5 and result["top1"] is None
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(metrics.average_precisions(scores[order], targets[order]), found, equal_nan=True)


def test_average_precision_by_hand():
    """Ranked right, wrong, right: (1/1 + 2/3) / 2; two equal scores pass together: 1/2."""
    scores = torch.tensor([[3.0, 1.0], [2.0, 1.0], [1.0, 0.0]])
    targets = torch.tensor([[True, True], [False, False], [True, False]])
    assert metrics.average_precisions(scores, targets).tolist() == pytest.approx([5 / 6, 1 / 2])


def test_calibration_by_hand():
    confidences, right = torch.tensor([0.05, 0.65, 0.65, 0.95, 1.0, 0.5]), torch.tensor([0, 1, 0, 1, 1, 0]).bool()
    found = metrics.calibration(confidences, right, bins=10)
    gaps = {0: abs(0 - 0.05), 6: 2 * abs(0.5 - 0.65), 9: abs(2 - 1.95), 5: abs(0 - 0.5)}  # times their videos
    assert found["expected_calibration_error"] == pytest.approx(sum(gaps.values()) / 6, abs=1e-6)
    assert [row["statements"] for row in found["bins"]] == [1, 0, 0, 0, 0, 1, 2, 0, 0, 2]
    assert found["bins"][1]["accuracy"] is None and found["bins"][9]["accuracy"] == 1
    assert metrics.calibration(torch.ones(4), torch.ones(4))["expected_calibration_error"] == 0


def test_nothing_gives_none():
    empty = torch.empty(0, 3)
    none = {"top1": None, "top5": None, "mean_class_accuracy": None, "classes": 0}
    assert metrics.accuracies(empty, torch.empty(0, dtype=torch.long)) == none
    found = metrics.multi_label_metrics(empty, torch.empty(0, 3, dtype=torch.bool))
    assert found == {**none, "mean_average_precision": None}
    assert metrics.calibration(torch.empty(0), torch.empty(0))["expected_calibration_error"] is None
    assert int(metrics.confusion_matrix(empty, torch.empty(0, dtype=torch.long)).sum()) == 0


NAN = torch.tensor([[1.0, math.nan]])
FAULTS = {
    "not a number": (lambda: metrics.top_k_accuracy(NAN, torch.tensor([0]), k=1), "1 videos are no numbers"),
    "not a number, several": (lambda: metrics.average_precisions(NAN, torch.ones(1, 2)), "no numbers"),
    "k": (lambda: metrics.top_k_accuracy(torch.ones(1, 2), torch.tensor([0]), k=0), "k must be 1 or more"),
    "too high": (lambda: metrics.accuracies(torch.ones(1, 2), torch.tensor([2])), "labels must be 0 to 1, got 2"),
    "shape": (lambda: metrics.accuracies(torch.ones(2, 2), torch.tensor([1])), r"class indices \(2,\)"),
    "bools": (lambda: metrics.accuracies(torch.ones(2, 2), torch.tensor([True, False])), "torch.bool"),
    "two": (lambda: metrics.mean_average_precision(torch.ones(1, 2), torch.tensor([[2, 0]])), r"got \[2, 0\]"),
    "half": (lambda: metrics.multi_label_metrics(torch.ones(1, 2), torch.tensor([[0.5, 0]])), "rows of 0 and 1"),
    "targets": (lambda: metrics.average_precisions(torch.ones(2, 2), torch.ones(2)), r"must be \(2, 2\)"),
    "no classes": (lambda: metrics.accuracies(torch.ones(2, 0), torch.tensor([1, 0])), r"got \(2, 0\)"),
    "confidence": (lambda: metrics.calibration(torch.tensor([1.5]), torch.tensor([1])), "from 0 to 1"),
    "confidence is no number": (lambda: metrics.calibration(NAN[0], torch.tensor([1, 1])), "from 0 to 1"),
    "bins": (lambda: metrics.calibration(torch.ones(1), torch.ones(1), bins=0), "a bin or more"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(case):
    function, message = FAULTS[case]
    with pytest.raises(ValueError, match=message):
        function()


def test_metrics_of_the_evaluate_library(monkeypatch, tmp_path):
    """They load offline and give the report's numbers."""
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    from transformers_ila.evaluation import hf_metrics as evaluate_metrics

    def computed(name, predictions, references, **options):
        metric = evaluate_metrics.load(name, cache_dir=str(tmp_path))
        for half in (slice(0, 7), slice(7, None)):
            metric.add_batch(predictions=predictions[half], references=references[half])
        return metric.compute(**options)

    scores, labels = scores_and_labels(videos=30, classes=6, levels=9)
    expected = metrics.accuracies(scores, labels)
    assert computed("top_k_accuracy", scores, labels) == {"top1": expected["top1"]}
    assert computed("top_k_accuracy", scores, labels, k=5) == {"top5": expected["top5"]}
    found = computed("mean_class_accuracy", scores.numpy(), labels.numpy())
    assert found == {"mean_class_accuracy": expected["mean_class_accuracy"]}
    targets = torch.nn.functional.one_hot(labels, 6)
    precision = metrics.mean_average_precision(scores, targets)
    assert computed("mean_average_precision", scores, targets) == {"mean_average_precision": precision}
    for name, references in {
        "top_k_accuracy": ([0.5, 1.7], [True, False], targets[:2]),
        "mean_average_precision": ([[0.5, 1], [1, 0]], [[2, 0], [1, 0]], [0, 1]),
    }.items():
        for wrong in references:
            with pytest.raises(ValueError, match="0 and 1|class indices"):
                evaluate_metrics.load(name, cache_dir=str(tmp_path)).add_batch(
                    predictions=scores[:2], references=wrong
                )
    with pytest.raises(ValueError, match="no metric 'accuracy'; there are top_k_accuracy"):
        evaluate_metrics.load("accuracy")

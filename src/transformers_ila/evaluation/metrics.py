"""Scores and labels to numbers: top-k, mean class accuracy, mean average precision, confusions, calibration.

Numbers are fractions; a number over nothing is None, never 0 and never NaN.

Shapes: `N` videos, `K` classes.
"""

from typing import Any

import torch

from ..model.targets_ila import check_flags, is_integer


CALIBRATION_BINS = 15


# -- one label a video -----------------------------------------------------------------------------------------------


def accuracies(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int | None]:
    """Compute top-1, top-5 and mean class accuracy as fractions of the videos; they are None where there is no video.

    Args:
        logits: (N, K). Of equal logits the lower class index ranks first.
        labels: (N,) class indices.

    Returns:
        top1, top5: the label has the highest logit, or is among the min(5, K) highest.
        mean_class_accuracy: mean of the classes' top-1, each over its own videos.
        classes: how many classes have a video, which that mean is over.

    Raises:
        ValueError: other shapes, scores that are no numbers, labels that are none of the classes.
    """
    return {
        "top1": top_k_accuracy(logits, labels, k=1),
        "top5": top_k_accuracy(logits, labels, k=5),
        "mean_class_accuracy": mean_class_accuracy(logits, labels),
        "classes": len(labels.unique()),
    }


def top_k_accuracy(logits: torch.Tensor, labels: torch.Tensor, *, k: int) -> float | None:
    """Return how often the label is among the min(k, K) highest logits; arguments and errors as in `accuracies`."""
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}.")
    return _mean(label_ranks(logits, labels) < k)


def mean_class_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Return the mean of the top-1 of the classes that have videos; arguments and errors as in `accuracies`."""
    right = (label_ranks(logits, labels) == 0).double()
    videos = labels.bincount(minlength=logits.shape[1])
    hits = labels.bincount(weights=right, minlength=logits.shape[1])
    return _mean(hits[videos > 0] / videos[videos > 0])


def label_ranks(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (N,) how many classes rank before the label; arguments and errors as in `accuracies`."""
    _check_scores(logits)
    if labels.shape != logits.shape[:1] or not is_integer(labels.dtype):
        raise ValueError(
            f"labels must be class indices ({len(logits)},), got {tuple(labels.shape)} of {labels.dtype}."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f"labels must be 0 to {logits.shape[1] - 1}, got {labels.min()} to {labels.max()}.")
    labels = labels.long()
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & before)).sum(-1)


def predicted_classes(logits: torch.Tensor) -> torch.Tensor:
    """Return (N,) the class of the highest of the logits (N, K); of equal ones it is the lowest index."""
    return logits.argsort(dim=-1, descending=True, stable=True)[:, 0]


def confusion_matrix(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return (K, K) counts of videos, row the label, column the prediction; arguments as in `accuracies`."""
    classes = logits.shape[1]
    cells = labels * classes + predicted_classes(logits)
    return cells.bincount(minlength=classes * classes).reshape(classes, classes)


# -- several labels a video ------------------------------------------------------------------------------------------


def multi_label_metrics(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, float | int | None]:
    """Compute the mean average precision; the numbers of `accuracies` are not defined here, and are None.

    Args:
        logits: (N, K).
        targets: (N, K), true where a video has the label.

    Returns:
        mean_average_precision: mean over the classes that have a video.
        classes: how many those are.

    Raises:
        ValueError: other shapes, scores that are no numbers, targets that are neither 0 nor 1.
    """
    precisions = average_precisions(logits, targets)
    return {
        "top1": None,
        "top5": None,
        "mean_class_accuracy": None,
        "classes": int((~precisions.isnan()).sum()),
        "mean_average_precision": _mean(precisions[~precisions.isnan()]),
    }


def mean_average_precision(scores: torch.Tensor, targets: torch.Tensor) -> float | None:
    """Return the mean of the average precisions over the classes with a video; see `multi_label_metrics`."""
    precisions = average_precisions(scores, targets)
    return _mean(precisions[~precisions.isnan()])


def average_precisions(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return (K,) float64, the sum over thresholds of precision times gain in recall; NaN for a class without a video.

    Videos of equal score pass a threshold together, so the order of the videos does not matter.
    """
    _check_scores(scores)
    if targets.shape != scores.shape:
        raise ValueError(f"targets must be {tuple(scores.shape)} as the scores, got {tuple(targets.shape)}.")
    check_flags(targets)
    columns = [_average_precision(score, target) for score, target in zip(scores.T, targets.bool().T)]
    return torch.tensor(columns, dtype=torch.float64)


def _average_precision(scores: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the average precision of one class from its scores (N,) and targets (N,)."""
    positives = int(targets.sum())
    if not positives:
        return float("nan")
    order = scores.argsort(descending=True, stable=True)
    scores, right = scores[order], targets[order].cumsum(0).double()
    last_of_ties = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    seen = torch.arange(1, len(scores) + 1, dtype=torch.float64)[last_of_ties]
    right = right[last_of_ties]
    gains = right.diff(prepend=torch.zeros(1, dtype=torch.float64)) / positives
    return float((right / seen * gains).sum())


# -- whether a score is what it says ---------------------------------------------------------------------------------


def calibration(confidences: torch.Tensor, right: torch.Tensor, *, bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """Compare confidence with accuracy, bin by bin: of what is said with 80 % confidence, 80 % should be right.

    Args:
        confidences: (M,) probabilities of the statements.
        right: (M,) whether they are true.
        bins: how many, of equal width; a confidence between two bins is in the upper one.

    Returns:
        expected_calibration_error: mean over the statements of |accuracy - confidence| of their bin.
        statements: M. bins: from, to, statements, and mean confidence and accuracy, None in an empty bin.

    Raises:
        ValueError: other shapes, confidences outside of 0 to 1, no bin.
    """
    if bins < 1 or confidences.ndim != 1 or confidences.shape != right.shape:
        shapes = f"{tuple(confidences.shape)} and {tuple(right.shape)}"
        raise ValueError(f"calibration needs (M,) confidences, (M,) truths and a bin or more; got {shapes}, {bins}.")
    confidences, right = confidences.double(), right.double()
    if not bool(((confidences >= 0) & (confidences <= 1 + 1e-9)).all()):  # rounding of a softmax
        raise ValueError("Confidences must be from 0 to 1.")
    places = (confidences * bins).long().clamp(max=bins - 1)
    counts = places.bincount(minlength=bins).double()
    sums = [places.bincount(weights=values, minlength=bins) for values in (confidences, right)]
    gap = (sums[1] - sums[0]).abs().sum() / len(right) if len(right) else None
    rows = []
    for place, count in enumerate(counts.long().tolist()):
        confidence, accuracy = (float(values[place]) / count if count else None for values in sums)
        row = {"from": place / bins, "to": (place + 1) / bins, "statements": count}
        rows.append({**row, "confidence": confidence, "accuracy": accuracy})
    error = None if gap is None else float(gap)
    return {"expected_calibration_error": error, "statements": len(right), "bins": rows}


def _check_scores(scores: torch.Tensor) -> None:
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"Scores must be (videos, classes), got {tuple(scores.shape)}.")
    if bool(scores.isnan().any()):
        raise ValueError(f"Scores of {int(scores.isnan().any(-1).sum())} videos are no numbers (NaN).")


def _mean(values: torch.Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None

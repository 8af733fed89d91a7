"""What a classifier is trained and measured on. One convention holds for every loss, batch and metric:

- `problem_type` None or "single_label_classification": (B,) integers are class indices, and -100 is passed over;
  (B, K) floats are class probabilities, 0 or more with the sum 1.
- `problem_type` "multi_label_classification": (B, K) of any dtype are 0 and 1, or floats between them, as mixup makes
  them; a row of -100 is passed over.

Nothing is inferred from a batch: what rows mean is the model's `problem_type` alone, or it would change from batch to
batch.
"""

from typing import Any

import torch
from torch.nn import functional as F

from .numerics_ila import at_least_float32
from .validation_ila import MULTI_LABEL


IGNORE_INDEX = -100  # label, or all labels, of a video that cannot be evaluated; losses and metrics pass over it
SINGLE_LABEL = "single_label_classification"
SUM_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 1e-2}  # of K rounded probabilities; 1e-3 in other precisions


def is_integer(dtype: torch.dtype) -> bool:
    """Return whether a dtype holds class indices: an integer one; bool is none."""
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def ignored_rows(labels: torch.Tensor) -> torch.Tensor:
    """Return (B,): whether a row of (B, K) belongs to a video that is passed over."""
    return (labels == IGNORE_INDEX).all(-1)


def target_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, problem_type: str | None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Compute the cross-entropy, or the binary one for several labels; the mean over what is not passed over.

    Args:
        logits: (B, K).
        labels: as the module says; checked by `check_targets`.
        label_smoothing: of the cross-entropy.

    Raises:
        ValueError: as `check_targets`.
    """
    check_targets(labels, *logits.shape, problem_type=problem_type)
    logits = at_least_float32(logits)
    if problem_type == MULTI_LABEL:
        read = ~ignored_rows(labels)[:, None].expand(logits.shape)
        target = labels.to(logits).where(read, 0)
        summed = F.binary_cross_entropy_with_logits(logits, target, read.to(logits), reduction="sum")
        return summed / read.sum()
    target = labels.long() if labels.ndim == 1 else labels.to(logits)
    return F.cross_entropy(logits, target, label_smoothing=label_smoothing)


def check_targets(labels: Any, videos: int, classes: int, *, problem_type: str | None) -> None:
    """Raise a ValueError unless labels are targets as the module says.

    Shapes and dtypes are checked always, values on the CPU and on CUDA. On CUDA nothing waits for them: wrong values
    end the process there, as an index out of its range does in torch's own losses, and compiled code raises a
    RuntimeError of the same words.

    Args:
        videos, classes: B and K.
        problem_type: the model's.
    """
    if problem_type not in (None, SINGLE_LABEL, MULTI_LABEL):
        raise ValueError(f"`problem_type` must be None, {SINGLE_LABEL!r} or {MULTI_LABEL!r}, got {problem_type!r}.")
    several = problem_type == MULTI_LABEL
    _check_form(labels, videos, classes, several=several)
    if labels.device.type not in ("cpu", "cuda"):
        return
    labels = labels if labels.is_floating_point() else labels.long()  # not all integers can be compared
    if several:
        good, allowed = _are_flags(labels), f"rows of 0 and 1 for {classes} classes, or of {IGNORE_INDEX} alone"
    elif labels.ndim == 1:
        good = ((0 <= labels) & (labels < classes)) | (labels == IGNORE_INDEX)
        allowed = f"class indices {IGNORE_INDEX} or 0 to {classes - 1}"
    else:
        sums = at_least_float32(labels).sum(-1)
        good = ((sums - 1).abs() <= SUM_TOLERANCE.get(labels.dtype, 1e-3)) & (labels >= 0).all(-1)
        allowed = (
            f"probabilities with the sum 1 in each row; for several labels a video set `problem_type={MULTI_LABEL!r}`"
        )
    try:
        torch._assert_async(good.all(), f"`labels` must be {allowed}.")
    except RuntimeError as error:
        raise ValueError(f"`labels` must be {allowed}, got {_shown(labels[~good])}.") from error


def check_flags(targets: torch.Tensor) -> None:
    """Raise a ValueError unless rows (N, K) hold nothing but 0 and 1: which labels videos have."""
    good = ((targets == 0) | (targets == 1)).all(-1)
    if not bool(good.all()):
        raise ValueError(f"Several labels a video are rows of 0 and 1, got {_shown(targets[~good])}.")


def _check_form(labels: Any, videos: int, classes: int, *, several: bool) -> None:
    """Raise a ValueError for another type, shape or dtype; it says what to do."""
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"`labels` must be a tensor, got {type(labels).__name__} {labels!r:.80}.")
    shape, dtype = tuple(labels.shape), labels.dtype
    rows, indices = shape == (videos, classes), shape == (videos,)
    if several:
        if rows and not dtype.is_complex:
            return
        allowed = f"rows {(videos, classes)} of 0 and 1, as `problem_type` is {MULTI_LABEL!r}"
        hint = (
            ": `torch.nn.functional.one_hot(labels, num_labels)` makes them" if indices and is_integer(dtype) else ""
        )
        raise ValueError(f"`labels` must be {allowed}, got {shape} of {dtype}{hint}.")
    if (rows and dtype.is_floating_point) or (indices and is_integer(dtype)):
        return
    if rows:
        hint = f": for several labels a video set `problem_type={MULTI_LABEL!r}`; probabilities are `labels.float()`"
    elif indices:
        hint = ": class indices are integers, `labels.long()`"
    else:
        hint = ""
    allowed = f"class indices ({videos},) or probabilities {(videos, classes)}"
    raise ValueError(f"`labels` must be {allowed}, got {shape} of {dtype}{hint}.")


def _are_flags(labels: torch.Tensor) -> torch.Tensor:
    """Return (B,): whether a row is one of several labels."""
    between = (labels >= 0) & (labels <= 1)  # of integers only 0 and 1
    return between.all(-1) | ignored_rows(labels)


def _shown(wrong: torch.Tensor) -> str:
    """Return the first wrong indices, or the first wrong row with its sum."""
    if wrong.ndim == 1:
        return str(wrong.unique().tolist()[:5])
    return f"{wrong[0].tolist()[:8]} with the sum {wrong[0].double().sum().item():.4g} in {len(wrong)} rows"

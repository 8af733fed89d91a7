"""The report's metrics for the `evaluate` library; nothing is fetched from the Hub.

```python
metric = evaluate_metrics.load("top_k_accuracy")
metric.add_batch(predictions=logits, references=labels)
metric.compute(k=5)
```

Importing this module imports the library, which takes seconds and comes with `transformers-ila[train]`.
"""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import torch

from ..model.targets_ila import check_flags, is_integer
from . import metrics


Metric: Any = evaluate.Metric
CITATION = (
    "@inproceedings{tu2023ila, title={Implicit Temporal Modeling with Learnable Alignment for Video Recognition}}"
)
SCORES = datasets.Sequence(datasets.Value("float32"))


class _VideoMetric(Metric):
    """Compare the scores (K,) of each video with what it shows.

    References are checked as they come: `datasets` would cast 0.5, 1.7 and True to integers.

    Raises:
        ValueError: (from `add`, `add_batch`, `compute`) references that are no class indices, or no rows of 0 and 1.
    """

    references: Any = datasets.Value("int64")  # class index

    def add(self, *, prediction: Any = None, reference: Any = None, **more: Any) -> None:
        """Add the scores (K,) of one video and what it shows."""
        self.check(torch.as_tensor(reference)[None])
        super().add(prediction=prediction, reference=reference, **more)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **more: Any) -> None:
        """Add the scores (N, K) of videos and what they show."""
        self.check(torch.as_tensor(references))
        super().add_batch(predictions=predictions, references=references, **more)

    def check(self, references: torch.Tensor) -> None:
        """Raise a ValueError unless references (N,) are class indices."""
        if references.ndim != 1 or not is_integer(references.dtype):
            shape = tuple(references.shape)
            raise ValueError(f"references must be class indices (videos,), got {shape} of {references.dtype}.")

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=CITATION,
            inputs_description="predictions: scores of each video's classes; references: what it shows.",
            features=datasets.Features({"predictions": SCORES, "references": self.references}),
        )


class TopKAccuracy(_VideoMetric):
    """Compute how often the label is among the min(k, K) highest scores; of equal ones the lower index ranks first."""

    def _compute(self, predictions: Any, references: Any, k: int = 1) -> dict[str, float | None]:
        return {f"top{k}": metrics.top_k_accuracy(_scores(predictions), torch.tensor(references), k=k)}


class MeanClassAccuracy(_VideoMetric):
    """Compute the mean of the classes' top-1 accuracies, over the classes that have videos."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
        return {"mean_class_accuracy": metrics.mean_class_accuracy(_scores(predictions), torch.tensor(references))}


class MeanAveragePrecision(_VideoMetric):
    """Compute the mean of the classes' average precisions; references are 0 or 1 for each class."""

    references = datasets.Sequence(datasets.Value("int64"))

    def check(self, references: torch.Tensor) -> None:
        """Raise a ValueError unless references (N, K) are rows of 0 and 1."""
        if references.ndim != 2:
            raise ValueError(f"references must be rows (videos, classes) of 0 and 1, got {tuple(references.shape)}.")
        check_flags(references)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float | None]:
        precision = metrics.mean_average_precision(_scores(predictions), torch.tensor(references))
        return {"mean_average_precision": precision}


METRICS: dict[str, Callable[..., Any]] = {
    "top_k_accuracy": TopKAccuracy,
    "mean_class_accuracy": MeanClassAccuracy,
    "mean_average_precision": MeanAveragePrecision,
}


def load(name: str, **options: Any) -> Any:
    """Make an `evaluate.Metric`; `options` are those of `evaluate.load`, such as `experiment_id` or `num_process`.

    Raises:
        ValueError: none of `METRICS`.
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    return METRICS[name](**options)


def _scores(predictions: Any) -> torch.Tensor:
    return torch.tensor(predictions, dtype=torch.float32)

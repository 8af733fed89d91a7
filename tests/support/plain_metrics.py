"""Metrics written as plainly as their definitions."""


def plain_average_precision(scores: list[float], targets: list[bool]) -> float:
    """Area under the steps of precision over recall, a step at each different score."""
    area, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        passed = [target for score, target in zip(scores, targets) if score >= threshold]
        recall = sum(passed) / sum(targets)
        area += (recall - recall_before) * sum(passed) / len(passed)
        recall_before = recall
    return area

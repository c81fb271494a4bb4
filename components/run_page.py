"""What a step leaves for its page in the Kubeflow Pipelines UI: metrics, text, curves.

kfp accepts numbers that its own back-end then refuses (NaN, inf, numpy's float32), after the step has done its work.
Everything a step shows goes through here, so that no metric can fail a run.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAX_CURVE_POINTS = 200
"""A ROC curve is drawn from at most this many points; the UI draws no more, and the document stays small."""


def log_metrics(artifact: Any, values: Mapping[str, Any]) -> dict[str, float]:
    """Show scalars on the run page and write them to the artifact's file as JSON.

    Args:
        artifact: A `dsl.Metrics`.
        values: Numbers by stable names; None, NaN and infinite values are left out.

    Returns:
        What was shown.
    """
    shown = {name: number for name, value in values.items() if (number := finite(value)) is not None}
    for name, number in shown.items():
        artifact.log_metric(name, number)
    write_text(artifact, json.dumps(shown, indent=2) + "\n")
    return shown


def write_text(artifact: Any, text: str) -> None:
    """Write the file of a Markdown, HTML or JSON artifact."""
    path = Path(artifact.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def log_roc(artifact: Any, fpr: Sequence[float], tpr: Sequence[float], thresholds: Sequence[float]) -> None:
    """Show a ROC curve, drawn from at most 200 of its points.

    Args:
        artifact: A `dsl.ClassificationMetrics`.
        fpr: False positive rates, shape (n,), rising from 0 to 1.
        tpr: True positive rates, shape (n,).
        thresholds: Score thresholds, shape (n,); scikit-learn's first one is infinite and is clipped.
    """
    keep = spread(len(fpr), MAX_CURVE_POINTS)
    artifact.log_roc_curve(
        [float(fpr[i]) for i in keep],
        [float(tpr[i]) for i in keep],
        [_clipped(float(thresholds[i])) for i in keep],
    )


def log_confusion(artifact: Any, labels: Sequence[Any], matrix: Sequence[Sequence[int]]) -> None:
    """Show a confusion matrix: one row for each true label, one column for each predicted one."""
    artifact.log_confusion_matrix([str(label) for label in labels], [[int(cell) for cell in row] for row in matrix])


def finite(value: Any) -> float | None:
    """The value as a finite Python float, or None.

    Example:
        >>> finite(0.5), finite(float("nan")), finite(None)
        (0.5, None, None)
    """
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def spread(length: int, most: int) -> list[int]:
    """At most `most` indexes spread evenly over a length, the first and the last among them.

    Example:
        >>> spread(10, 4)
        [0, 3, 6, 9]
    """
    if length <= most:
        return list(range(length))
    return sorted({round(i * (length - 1) / (most - 1)) for i in range(most)})


def _clipped(threshold: float) -> float:
    return threshold if math.isfinite(threshold) else 1.0

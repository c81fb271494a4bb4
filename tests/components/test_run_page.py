"""What a step shows in the UI: nothing that the back-end would refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl

from headway.components import run_page


def test_metrics_are_plain_finite_numbers_in_metadata_and_in_the_file(tmp_path: Path) -> None:
    metrics = dsl.Metrics(name="m", uri=str(tmp_path / "deep" / "m"))
    run_page.log_metrics(
        metrics, {"a": np.float32(0.5), "b": float("nan"), "c": None, "d": np.int64(3), "e": float("inf")}
    )
    assert metrics.metadata == {"a": 0.5, "d": 3.0}
    assert json.loads((tmp_path / "deep" / "m").read_text()) == {"a": 0.5, "d": 3.0}
    assert all(type(value) is float for value in metrics.metadata.values())


def test_a_roc_curve_is_thinned_and_its_infinite_threshold_clipped(tmp_path: Path) -> None:
    curve = dsl.ClassificationMetrics(name="c", uri=str(tmp_path / "c"))
    xs = np.linspace(0, 1, 5000)
    run_page.log_roc(curve, xs, xs, np.concatenate([[np.inf], xs[:0:-1]]))
    points = curve.metadata["confidenceMetrics"]
    assert len(points) == run_page.MAX_CURVE_POINTS
    assert points[0]["confidenceThreshold"] == 1.0
    assert (points[0]["falsePositiveRate"], points[-1]["falsePositiveRate"]) == (0.0, 1.0)
    json.dumps(curve.metadata, allow_nan=False)


def test_a_confusion_matrix_takes_numpys_integers_and_any_labels(tmp_path: Path) -> None:
    curve = dsl.ClassificationMetrics(name="c", uri=str(tmp_path / "c"))
    run_page.log_confusion(curve, [False, True], np.array([[1, 2], [3, 4]]))
    assert curve.metadata["confusionMatrix"]["annotationSpecs"] == [{"displayName": "False"}, {"displayName": "True"}]
    json.dumps(curve.metadata)


@given(st.integers(0, 10_000), st.integers(2, 300))
def test_spread_keeps_the_ends_and_the_order(length: int, most: int) -> None:
    found = run_page.spread(length, most)
    assert len(found) <= max(most, 0)
    assert found == sorted(set(found))
    if length:
        assert (found[0], found[-1]) == (0, length - 1)


def test_finite_refuses_text() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        run_page.finite("abc")

"""Every estimator of the catalogue, for every task: the served file gives the trained file's answers on any row."""

from datetime import datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.components.model import open_onnx, open_skops
from headway.components.optimise.optimise import optimise
from headway.components.optimise.spec import OptimiseSpec
from headway.components.train.estimators import names
from headway.components.trust import Policy

CASES = [(task, name) for task in ("binary", "multiclass", "regression") for name in names(task)]  # type: ignore[arg-type]
LARGEST = {"knn": 1e4, "naive_bayes": 1e4, "mlp": 1e20}
"""Beyond it scikit-learn's own answer is what rounding leaves over, or a network's inputs are cut; else all numbers."""
UNSIGNED = Policy(require_signature=False)
QUICK = OptimiseSpec(batches=[1], seconds=0.02, rows=300)


def rows(most: float) -> Any:
    """Rows of values missing, unseen, far outside the training rows, and, among them, usual ones."""
    extreme = st.floats(-most, most, width=32 if most > 1e30 else 64)
    strange = st.one_of(extreme, st.just(float("nan")), st.just(float("inf")))
    text = st.one_of(st.sampled_from(["AA", "B6", "日航", "UA", "", "N7", "N79", "<missing>"]), st.text(max_size=5))
    moment = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
    row = st.fixed_dictionaries(
        {
            "heure de départ": st.none() | st.floats(5, 23) | strange,
            "distance km": st.floats(0, 2_000) | strange,
            "seats": st.none() | st.integers(-10_000, 10_000),
            "is holiday": st.none() | st.booleans(),
            "carrier": st.none() | text,
            "n° de queue": text,
            "when": moment,
            "signed up": st.none() | moment,
        }
    )
    return st.lists(row, min_size=1, max_size=8)


@pytest.mark.parametrize(("task", "estimator"), CASES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_same_answers_on_any_row(bundle_of: Any, task: str, estimator: str, data: Any) -> None:
    bundle = bundle_of(task, estimator)
    key = str(bundle)
    if key not in _open:
        _open[key] = open_skops(bundle / "model.skops"), open_onnx(bundle / "model.onnx")
    by_skops, by_onnx = _open[key]
    records = data.draw(rows(LARGEST.get(estimator, float(np.finfo(np.float32).max))))
    columns = {name: [record[name] for record in records] for name in records[0]}
    with np.errstate(all="ignore"):
        expected, found = by_skops.predict(columns), by_onnx.predict(columns)
    if task == "regression":
        scale = np.maximum(np.abs(expected.labels), 50.0)
        assert (np.abs(found.labels - expected.labels) <= 1e-4 * scale).all()
        return
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    first, second = np.sort(expected.probabilities, axis=1)[:, [-1, -2]].T
    clear = first - second > 1e-3
    np.testing.assert_array_equal(found.labels[clear], expected.labels[clear])


_open: dict[str, Any] = {}


@pytest.mark.parametrize(("task", "estimator"), CASES)
def test_the_graph_is_chosen(bundle_of: Any, validation: Any, tmp_path: Any, task: str, estimator: str) -> None:
    """Each of them agrees on real rows, gaps and outliers, and one row takes a fraction of scikit-learn's time."""
    found = optimise(bundle_of(task, estimator), validation, tmp_path / "new", QUICK, policy=UNSIGNED)
    assert (found.record.chosen, found.info.formats) == ("onnx", ["onnx", "skops"])
    trained, graph = found.record.candidates[:2]
    assert graph.difference is not None
    assert graph.difference <= 1e-4
    assert graph.flips == 0
    assert trained.quality == graph.quality
    assert found.metrics["speedup_1"] > 3

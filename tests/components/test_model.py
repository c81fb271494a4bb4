import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.bundle import Lineage
from headway.components.data_validate.contract import Contract
from headway.components.errors import DataError, TrustError
from headway.components.model import KNOWN_TYPES, ROWS_AT_ONCE, PyfuncModel, open_onnx, open_skops, required_types
from headway.components.train.estimators import TrainSpec
from headway.components.train.files import write_bundle
from headway.components.train.fit import fit

ROWS = 120


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: Any) -> Any:
    """A small bundle for each task, by the target's name."""
    random = np.random.default_rng(0)
    x, s = random.normal(size=ROWS), random.choice(["a", "b", "ü"], ROWS)
    table = pa.table(
        {"x": x, "s": s, "yes": x > 0, "grade": np.array([1, 2, 3])[np.digitize(x, [-0.5, 0.5])], "y": x * 2}
    )
    folder = tmp_path_factory.mktemp("bundles")
    pq.write_table(table, folder / "data.parquet")
    kinds = {
        "yes": {"type": "boolean"},
        "grade": {"type": "integer", "values": {"allowed": [1, 2, 3]}},
        "y": {"type": "number"},
    }
    made = {}
    for target, kind in kinds.items():
        columns = {"x": {"type": "number"}, "s": {"type": "string"}, target: kind}
        contract = Contract.parse({"name": "c", "target": target, "columns": columns})
        spec = TrainSpec(estimator="decision_tree")
        fitted = fit(folder / "data.parquet", contract, spec)
        lineage = Lineage(data_digest="d", contract_digest="c")
        write_bundle(fitted, folder / target, name="c", contract=contract, spec=spec, lineage=lineage)
        made[target] = folder / target
    return made


@pytest.fixture(params=["skops", "onnx"])
def opened(request: Any, bundles: Any) -> Any:
    def opened(target: Any) -> Any:
        if request.param == "skops":
            return open_skops(bundles[target] / "model.skops")
        return open_onnx(bundles[target] / "model.onnx")

    return opened


class TestPrediction:
    def test_binary_gives_the_target_s_booleans(self, opened: Any) -> None:
        found = opened("yes").predict({"x": [-3.0, 3.0], "s": ["a", "new"]})
        assert found.labels.tolist() == [False, True]
        assert found.labels.dtype == bool
        assert found.probabilities.shape == (2, 2)
        assert found.probabilities.dtype == np.float64

    def test_integer_classes(self, opened: Any) -> None:
        found = opened("grade").predict({"x": [-3.0, 0.0, 3.0], "s": ["a"] * 3})
        assert found.labels.tolist() == [1, 2, 3]
        assert found.labels.dtype.kind == "i"

    def test_regression_has_no_probabilities(self, opened: Any) -> None:
        found = opened("y").predict({"x": [1.0], "s": ["a"]})
        assert found.probabilities is None
        assert found.labels.shape == (1,)
        assert found.labels[0] == pytest.approx(2.0, abs=0.5)

    @pytest.mark.parametrize("target", ["yes", "grade", "y"])
    def test_no_rows(self, opened: Any, target: Any) -> None:
        found = opened(target).predict({"x": [], "s": []})
        assert len(found.labels) == 0
        assert found.probabilities is None or found.probabilities.shape[0] == 0

    def test_rows_beyond_one_run_of_a_graph(self, opened: Any) -> None:
        random, rows = np.random.default_rng(1), 2 * ROWS_AT_ONCE + 7
        data = {"x": random.normal(size=rows), "s": random.choice(["a", "b", "new"], rows)}
        predictor = opened("yes")
        found = predictor.predict(data)
        part = predictor.predict({name: values[300:310] for name, values in data.items()})
        assert found.probabilities.shape == (rows, 2)
        np.testing.assert_array_equal(found.probabilities[300:310], part.probabilities)

    def test_other_columns_and_their_order_do_not_matter(self, opened: Any) -> None:
        first = opened("yes").predict({"x": [0.3], "s": ["b"]})
        second = opened("yes").predict({"more": ["?"], "s": ["b"], "x": [0.3]})
        np.testing.assert_array_equal(first.probabilities, second.probabilities)

    def test_missing_column(self, opened: Any) -> None:
        with pytest.raises(DataError, match="Column 's' is missing"):
            opened("yes").predict({"x": [1.0]})

    def test_pyfunc_columns(self, bundles: Any) -> None:
        rows = {"x": [-3.0, 3.0], "s": ["a", "b"]}
        binary, many, value = (
            PyfuncModel(open_onnx(bundles[target] / "model.onnx")).predict(rows) for target in ("yes", "grade", "y")
        )
        assert binary["probability"].tolist() == [0.0, 1.0]  # of True, the second class
        assert many["probability"].min() > 0.5  # of the predicted class
        assert list(value.columns) == ["prediction"]


class TestFilesThatAreNotOpened:
    def test_type_that_is_not_trusted_is_named(self, bundles: Any) -> None:
        with pytest.raises(TrustError, match=r"not trusted: numpy\.dtype, sklearn\.tree\._tree\.Tree"):
            open_skops(bundles["yes"] / "model.skops", trusted_types=[])

    def test_types_are_listed_without_loading(self, bundles: Any) -> None:
        assert required_types(bundles["yes"] / "model.skops") == ["numpy.dtype", "sklearn.tree._tree.Tree"]
        assert set(KNOWN_TYPES) >= {"numpy.dtype", "sklearn.tree._tree.Tree"}

    def test_a_type_that_runs_code_is_refused(self, tmp_path: Any) -> None:
        import skops.io

        class Anything:
            pass

        Anything.__module__, Anything.__qualname__ = "os", "system"
        skops.io.dump(Anything(), tmp_path / "model.skops")
        with pytest.raises(TrustError, match="not trusted"):
            open_skops(tmp_path / "model.skops")

    @pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"not a zip"])
    def test_not_a_skops_file(self, tmp_path: Any, content: Any) -> None:
        (tmp_path / "model.skops").write_bytes(content)
        with pytest.raises(TrustError, match="not a skops file"):
            open_skops(tmp_path / "model.skops")

    def test_archive_without_a_schema(self, tmp_path: Any) -> None:
        with zipfile.ZipFile(tmp_path / "model.skops", "w") as archive:
            archive.writestr("other.json", "{}")
        with pytest.raises(TrustError, match="not a skops file"):
            required_types(tmp_path / "model.skops")

    @pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"not a graph"])
    def test_not_an_onnx_graph(self, tmp_path: Any, content: Any) -> None:
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(TrustError, match="not an ONNX graph"):
            open_onnx(tmp_path / "model.onnx")

    def test_no_file(self, tmp_path: Any) -> None:
        for opener in (open_skops, open_onnx):
            with pytest.raises(TrustError, match="a bundle folder that `train` wrote"):
                opener(tmp_path / "model")

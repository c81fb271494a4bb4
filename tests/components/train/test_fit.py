import os
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.bundle import Lineage
from headway.components.errors import ConfigError, SourceError, TrainingError
from headway.components.model import KNOWN_TYPES, open_onnx, open_skops, required_types
from headway.components.train.estimators import CATALOGUE, TrainSpec, names
from headway.components.train.features import MISSING
from headway.components.train.files import write_bundle
from headway.components.train.fit import fit

QUICK = {
    "mlp": {"hidden_layer_sizes": [20], "learning_rate_init": 0.01, "max_iter": 100},
    "random_forest": {"n_estimators": 10},
    "extra_trees": {"n_estimators": 10},
}
CASES = [(name, task) for task in ("binary", "multiclass", "regression") for name in names(task)]


def quick(name: Any, **more: Any) -> Any:
    return TrainSpec(estimator=name, parameters=QUICK.get(name, {}), **more)


def write(tmp_path: Any, table: Any, name: Any = "train.parquet") -> Any:
    pq.write_table(table, tmp_path / name)
    return tmp_path / name


def replace(table: Any, name: Any, values: Any) -> Any:
    return table.set_column(table.column_names.index(name), name, [values])


@pytest.fixture(scope="module")
def bundle(data: Any, contracts: Any, tmp_path_factory: Any) -> Any:
    """Fit and write each case once."""
    made = {}

    def make(name: Any, task: Any) -> Any:
        if (name, task) not in made:
            fitted = fit(data, contracts[task], quick(name))
            folder = tmp_path_factory.mktemp(f"{name}-{task}") / "bundle"
            lineage = Lineage(data_digest="d", contract_digest=contracts[task].digest())
            made[name, task] = (
                fitted,
                write_bundle(fitted, folder, name="trips", contract=contracts[task], spec=quick(name), lineage=lineage),
            )
        return made[name, task]

    return make


@pytest.fixture(scope="module")
def unseen(table: Any) -> Any:
    """Rows with a category that no training row has, and with everything missing that may be."""
    rows = table.slice(0, 20).to_pydict()
    for name in ("heure de départ", "seats", "is holiday", "carrier", "signed up"):
        rows[name][0] = None
    rows["carrier"][1] = "neue Linie"
    rows["n° de queue"][2] = "D-AIMA"
    return rows


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("name", "task"), CASES)
class TestEveryEstimator:
    """The contract that every entry of the catalogue keeps for each of its tasks."""

    def test_fits_and_predicts_in_the_target_s_own_type(self, bundle: Any, unseen: Any, name: Any, task: Any) -> None:
        fitted, written = bundle(name, task)
        found: Any = open_skops(written.path / "model.skops").predict(unseen)
        assert fitted.task == task
        assert len(found.labels) == 20
        if task == "regression":
            assert found.probabilities is None
            assert np.isfinite(found.labels).all()
            return
        assert written.info.classes == ([False, True] if task == "binary" else ["groß", "größer", "klein"])
        assert set(found.labels.tolist()) <= set(written.info.classes)
        assert found.labels.dtype == (bool if task == "binary" else object)
        np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-9)

    def test_beats_the_baseline_on_its_own_rows(self, bundle: Any, name: Any, task: Any) -> None:
        fitted, _ = bundle(name, task)
        if name == "dummy":
            return
        baseline, _ = bundle("dummy", task)
        if task == "regression":
            assert fitted.metrics["training_rmse"] < 0.9 * baseline.metrics["training_rmse"]
        else:
            assert fitted.metrics["training_accuracy"] > baseline.metrics["training_accuracy"]

    def test_skops_file_holds_known_types_only(self, bundle: Any, name: Any, task: Any) -> None:
        _, written = bundle(name, task)
        assert set(required_types(written.path / "model.skops")) <= set(KNOWN_TYPES)

    def test_onnx_agrees(self, bundle: Any, unseen: Any, name: Any, task: Any) -> None:
        _, written = bundle(name, task)
        assert written.info.formats == ["onnx", "skops"]
        assert written.onnx_note == ""
        assert written.parity.flips == 0
        by_skops: Any = open_skops(written.path / "model.skops").predict(unseen)
        by_onnx: Any = open_onnx(written.path / "model.onnx").predict(unseen)
        if task == "regression":
            np.testing.assert_allclose(by_onnx.labels, by_skops.labels, rtol=1e-4, atol=1e-3)
        else:
            np.testing.assert_array_equal(by_onnx.labels, by_skops.labels)
            np.testing.assert_allclose(by_onnx.probabilities, by_skops.probabilities, atol=1e-4)


class TestSameInputsSameBundle:
    SCRIPT = """
import sys
from pathlib import Path
from headway.components.bundle import Lineage
from headway.components.data_validate.contract import Contract
from headway.components.train.estimators import TrainSpec
from headway.components.train.files import write_bundle
from headway.components.train.fit import fit
data, contract, output = Path(sys.argv[1]), Contract.load(sys.argv[2]), Path(sys.argv[3])
for name in sys.argv[4:]:
    spec = TrainSpec.parse({"estimator": name, "seed": 3, "threads": 2})
    fitted = fit(data, contract, spec)
    lineage = Lineage(data_digest="d", contract_digest=contract.digest(), seed=3)
    print(write_bundle(fitted, output / name, name="trips", contract=contract, spec=spec, lineage=lineage).digest)
"""
    NAMES = ("hist_gradient_boosting", "random_forest", "logistic_regression", "sgd")

    @pytest.mark.slow
    def test_across_processes(self, data: Any, contracts: Any, tmp_path: Any) -> None:
        (tmp_path / "contract.yaml").write_text(contracts["multiclass"].dump(), encoding="utf-8")
        digests = []
        for seed in ("1", "2"):
            arguments = [str(data), str(tmp_path / "contract.yaml"), str(tmp_path / seed), *self.NAMES]
            environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONWARNINGS": "ignore"}
            done = subprocess.run(
                [sys.executable, "-c", self.SCRIPT, *arguments],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
                cwd=tmp_path,
            )
            digests.append(done.stdout.split())
        assert len(digests[0]) == len(set(digests[0])) == len(self.NAMES)
        assert digests[0] == digests[1]

    def test_another_seed_is_another_model(self, data: Any, contracts: Any) -> None:
        first, second = (
            fit(data, contracts["binary"], quick("random_forest", seed=seed)).metrics["training_log_loss"]
            for seed in (1, 2)
        )
        assert first != second


class TestPreprocessing:
    def test_is_learnt_from_the_training_rows_alone(self, data: Any, table: Any, contracts: Any, tmp_path: Any) -> None:
        """A row's prediction does not depend on which other rows are predicted with it."""
        fitted = fit(data, contracts["binary"], quick("logistic_regression"))
        frame = fitted.features.frame(table)
        whole = fitted.pipeline.predict_proba(frame)
        alone = np.vstack([fitted.pipeline.predict_proba(frame.iloc[[row]]) for row in range(10)])
        np.testing.assert_allclose(whole[:10], alone, rtol=1e-12)

    def test_median_and_mean_come_from_the_training_rows(self, data: Any, table: Any, contracts: Any) -> None:
        fitted = fit(data, contracts["binary"], quick("logistic_regression"))
        imputer = fitted.pipeline.named_steps["columns"].named_transformers_["numbers"].named_steps["impute"]
        hours = table["heure de départ"].drop_null().to_numpy().astype(np.float32)
        assert imputer.statistics_[0] == pytest.approx(np.median(hours))

    def test_many_categories_become_the_mean_of_the_target(self, data: Any, contracts: Any) -> None:
        fitted = fit(data, contracts["binary"], quick("logistic_regression"))
        columns = fitted.pipeline.named_steps["columns"]
        assert columns.named_transformers_["categories"].categories_[0].tolist() == [MISSING, "AA", "B6", "UA", "日航"]
        assert len(columns.named_transformers_["many_categories"].named_steps["encode"].categories_[0]) > 50

    def test_most_frequent_categories_with_many_classes(self, data: Any, contracts: Any) -> None:
        fitted = fit(data, contracts["multiclass"], quick("logistic_regression", max_categories=7))
        encoder = fitted.pipeline.named_steps["columns"].named_transformers_["many_categories"]
        assert len(encoder.categories_[0]) == 7

    def test_column_that_is_missing_everywhere(self, table: Any, contracts: Any, tmp_path: Any) -> None:
        empty = replace(table, "seats", pa.nulls(table.num_rows, pa.int64()))
        for name in ("logistic_regression", "hist_gradient_boosting"):
            fitted = fit(write(tmp_path, empty), contracts["binary"], quick(name))
            assert np.isfinite(fitted.pipeline.predict_proba(fitted.features.frame(empty))).all()


class TestWeights:
    @pytest.mark.parametrize("name", ["logistic_regression", "gradient_boosting", "mlp"])
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_class_weight_raises_the_rare_class(self, data: Any, table: Any, contracts: Any, name: Any) -> None:
        shares = []
        for weight in (None, {True: 10.0}):
            fitted = fit(data, contracts["binary"], quick(name, class_weight=weight))
            shares.append(fitted.pipeline.predict_proba(fitted.features.frame(table))[:, 1].mean())
        assert shares[1] > shares[0] + 0.02

    def test_balanced_is_the_inverse_of_the_share(self, data: Any, contracts: Any) -> None:
        balanced = fit(data, contracts["binary"], quick("naive_bayes", class_weight="balanced"))
        np.testing.assert_allclose(balanced.pipeline.named_steps["model"].class_prior_, [0.5, 0.5])

    def test_column_of_weights(self, table: Any, contract_with: Any, tmp_path: Any) -> None:
        """A row of weight 0 is as good as absent."""
        contract = contract_with("regression", weight={"type": "number", "role": "weight"})
        zeros = replace(table, "weight", pa.array([0.0] * 200 + [1.0] * 200))
        spoilt = replace(zeros, "delay", pa.array([9_999.0] * 200 + zeros["delay"].to_pylist()[200:]))
        fitted = fit(write(tmp_path, spoilt), contract, quick("dummy"))
        mean = np.mean(zeros["delay"].to_pylist()[200:])
        assert fitted.pipeline.named_steps["model"].constant_.item() == pytest.approx(mean)

    def test_weights_multiply(self, table: Any, contract_with: Any, tmp_path: Any) -> None:
        contract = contract_with("binary", weight={"type": "number", "role": "weight"})
        fitted = fit(write(tmp_path, table), contract, quick("naive_bayes", class_weight="balanced"))
        np.testing.assert_allclose(fitted.pipeline.named_steps["model"].class_prior_, [0.5, 0.5])

    def test_estimator_without_weights(self, data: Any, contracts: Any) -> None:
        with pytest.raises(ConfigError, match="'knn' takes no weights"):
            fit(data, contracts["binary"], quick("knn", class_weight="balanced"))

    def test_class_that_does_not_exist(self, data: Any, contracts: Any) -> None:
        with pytest.raises(ConfigError, match="class_weight names the class 'gros' - did you mean 'groß'"):
            fit(data, contracts["multiclass"], quick("naive_bayes", class_weight={"gros": 2.0}))

    def test_class_weight_in_regression(self, data: Any, contracts: Any) -> None:
        with pytest.raises(ConfigError, match="the task is regression"):
            fit(data, contracts["regression"], quick("ridge", class_weight="balanced"))

    @pytest.mark.parametrize("bad", [[-1.0] * 400, [0.0] * 400])
    def test_weights_that_weigh_nothing(self, table: Any, contract_with: Any, tmp_path: Any, bad: Any) -> None:
        contract = contract_with("binary", weight={"type": "number", "role": "weight"})
        with pytest.raises(TrainingError, match="Weight 'weight' has negative values or only zeros"):
            fit(write(tmp_path, replace(table, "weight", pa.array(bad))), contract, quick("naive_bayes"))


class TestEarlyStoppingAndThreads:
    def test_fewer_iterations(self, data: Any, contracts: Any) -> None:
        spec = TrainSpec.parse("{early_stopping: {patience: 2}, parameters: {max_iter: 500, learning_rate: 0.5}}")
        assert fit(data, contracts["binary"], spec).metrics["iterations"] < 500

    def test_limit_holds_during_the_fit_and_not_in_the_file(self, data: Any, contracts: Any, monkeypatch: Any) -> None:
        from sklearn.ensemble import RandomForestClassifier
        from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

        seen = []
        original = RandomForestClassifier.fit

        def spy(self: Any, *arguments: Any, **settings: Any) -> Any:
            seen.append((self.n_jobs, {pool["num_threads"] for pool in threadpool_info()}))
            return original(self, *arguments, **settings)

        monkeypatch.setattr(RandomForestClassifier, "fit", spy)
        fitted = fit(data, contracts["binary"], quick("random_forest", threads=1))
        assert seen == [(1, {1})]
        assert fitted.pipeline.named_steps["model"].n_jobs is None


class TestTask:
    @pytest.mark.parametrize(
        ("column", "values", "task", "classes"),
        [
            ({"type": "boolean"}, [True, False] * 200, "binary", [False, True]),
            ({"type": "integer"}, [3, 1] * 200, "binary", [1, 3]),
            ({"type": "integer"}, list(range(400)), "regression", []),
            ({"type": "integer", "values": {"allowed": [1, 2, 3, 4]}}, [1, 2, 3, 4] * 100, "multiclass", [1, 2, 3, 4]),
            ({"type": "string"}, ["b", "a"] * 200, "binary", ["a", "b"]),
            ({"type": "number"}, [0.0, 1.0] * 200, "regression", []),
        ],
    )
    def test_auto(
        self, table: Any, contract_with: Any, tmp_path: Any, column: Any, values: Any, task: Any, classes: Any
    ) -> None:
        contract = contract_with("binary", late=column)
        fitted = fit(write(tmp_path, replace(table, "late", pa.array(values))), contract, quick("dummy"))
        assert (fitted.task, fitted.classes) == (task, classes)

    def test_number_as_classes(self, table: Any, contract_with: Any, tmp_path: Any) -> None:
        contract = contract_with("binary", late={"type": "number"})
        data = write(tmp_path, replace(table, "late", pa.array([0.0, 1.0] * 200)))
        assert fit(data, contract, quick("dummy", task="binary")).classes == [0, 1]

    @pytest.mark.parametrize(
        ("task", "kind", "values", "message"),
        [
            ("binary", "string", ["a", "b", "c", "d"] * 100, "has 4 classes"),
            ("binary", "number", [0.5, 1.0] * 200, "has the class 0.5"),
            ("auto", "boolean", [True] * 400, "has one value, True"),
            ("auto", "number", [1.0] * 400, "has one value, 1.0"),
            ("auto", "string", ["a", None] * 200, "is missing in 200 rows"),
            ("auto", "number", [1.0, float("nan")] * 200, "is missing in 200 rows"),
            ("auto", "number", [1.0, float("inf")] * 200, "has infinite values"),
        ],
    )
    def test_target_that_cannot_be_learnt(
        self, table: Any, contract_with: Any, tmp_path: Any, task: Any, kind: Any, values: Any, message: Any
    ) -> None:
        contract = contract_with("binary", late={"type": kind})
        with pytest.raises(TrainingError, match=message):
            fit(write(tmp_path, replace(table, "late", pa.array(values))), contract, quick("dummy", task=task))

    def test_too_many_classes(self, contract_with: Any, tmp_path: Any, table: Any) -> None:
        repeated = pa.concat_tables([table] * 3)
        data = write(tmp_path, replace(repeated, "class", pa.array([str(row) for row in range(1200)])))
        with pytest.raises(TrainingError, match="has 1,200 classes"):
            fit(data, contract_with("multiclass"), quick("dummy"))

    def test_string_in_regression(self, data: Any, contracts: Any) -> None:
        with pytest.raises(ConfigError, match="'class' is a string"):
            fit(data, contracts["multiclass"], quick("dummy", task="regression"))


class TestWrongInput:
    def test_no_rows(self, table: Any, contracts: Any, tmp_path: Any) -> None:
        with pytest.raises(TrainingError, match="0 rows to train on"):
            fit(write(tmp_path, table.slice(0, 0)), contracts["binary"], quick("dummy"))

    def test_no_file(self, contracts: Any, tmp_path: Any) -> None:
        with pytest.raises(SourceError, match="cannot be read as Parquet"):
            fit(tmp_path / "none.parquet", contracts["binary"], quick("dummy"))

    def test_not_parquet(self, contracts: Any, tmp_path: Any) -> None:
        (tmp_path / "x.parquet").write_text("a,b\n1,2\n")
        with pytest.raises(SourceError, match="cannot be read as Parquet"):
            fit(tmp_path / "x.parquet", contracts["binary"], quick("dummy"))

    def test_missing_columns_are_named(self, table: Any, contracts: Any, tmp_path: Any) -> None:
        with pytest.raises(SourceError, match="no column 'carrier'"):
            fit(write(tmp_path, table.drop_columns(["carrier"])), contracts["binary"], quick("dummy"))

    def test_invalid_parameter_value(self, data: Any, contracts: Any) -> None:
        spec = TrainSpec(parameters={"learning_rate": -1.0})
        with pytest.raises(ConfigError, match=r"The 'learning_rate' parameter .* must be a float in the range"):
            fit(data, contracts["binary"], spec)

    def test_combination_that_the_library_refuses(self, data: Any, contracts: Any) -> None:
        spec = TrainSpec(estimator="logistic_regression", parameters={"solver": "lbfgs", "l1_ratio": 1.0})
        with pytest.raises(TrainingError, match="'logistic_regression' could not be fitted"):
            fit(data, contracts["binary"], spec)


class TestOutsideTheCatalogue:
    def test_dotted_path_fits_and_writes(self, data: Any, contracts: Any, tmp_path: Any) -> None:
        spec = TrainSpec(estimator="sklearn.linear_model.HuberRegressor", parameters={"max_iter": 1000})
        fitted = fit(data, contracts["regression"], spec)
        lineage = Lineage(data_digest="d", contract_digest="c")
        written = write_bundle(
            fitted, tmp_path / "b", name="trips", contract=contracts["regression"], spec=spec, lineage=lineage
        )
        assert written.info.estimator == "sklearn.linear_model.HuberRegressor"
        assert written.info.formats[-1] == "skops"
        assert fitted.metrics["training_r2"] > 0.5

    def test_estimator_without_probabilities(self, data: Any, table: Any, contracts: Any, tmp_path: Any) -> None:
        spec = TrainSpec(estimator="sklearn.svm.LinearSVC")
        fitted = fit(data, contracts["binary"], spec)
        lineage = Lineage(data_digest="d", contract_digest="c")
        written = write_bundle(
            fitted, tmp_path / "b", name="trips", contract=contracts["binary"], spec=spec, lineage=lineage
        )
        found = open_skops(written.path / "model.skops").predict(table)
        assert written.onnx_note == "the estimator has no probabilities"
        assert found.probabilities is None
        assert found.labels.dtype == bool


def test_the_known_types_are_all_needed(data: Any, contracts: Any, bundle: Any, tmp_path: Any) -> None:
    """No type stays on the list that no estimator of the catalogue needs."""
    from headway.components.train.skops_file import write_skops

    needed = set()
    for name, task in CASES:
        needed |= set(required_types(bundle(name, task)[1].path / "model.skops"))
    sgd = fit(data, contracts["binary"], TrainSpec(estimator="mlp", parameters={"solver": "sgd", "tol": 0.1}))
    write_skops(sgd.pipeline, tmp_path / "sgd.skops")
    needed |= set(required_types(tmp_path / "sgd.skops"))
    assert needed == set(KNOWN_TYPES)
    assert set(CATALOGUE) == {name for name, _ in CASES}

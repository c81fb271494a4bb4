import json
import shutil
import warnings
from typing import Any

import numpy as np
import pytest

from headway.components.bundle import (
    Lineage,
    Signature,
    read_contract,
    read_info,
    verify_manifest,
)
from headway.components.errors import ParityError, SourceError, TrainingError
from headway.components.model import onnx_session, open_onnx, open_skops
from headway.components.train import files
from headway.components.train.estimators import TrainSpec
from headway.components.train.files import write_bundle
from headway.components.train.fit import fit
from headway.components.train.onnx_file import Parity, compare, convert
from headway.components.trust import ONNX_DOMAINS


@pytest.fixture(scope="module")
def spec() -> Any:
    return TrainSpec(parameters={"max_iter": 5})


@pytest.fixture(scope="module")
def fitted(data: Any, contracts: Any, spec: Any) -> Any:
    return fit(data, contracts["binary"], spec)


@pytest.fixture
def write(fitted: Any, contracts: Any, spec: Any) -> Any:
    def write(output: Any, fitted: Any = fitted, spec: Any = spec, **more: Any) -> Any:
        lineage = Lineage(data_digest="d", contract_digest="c", seed=0)
        return write_bundle(
            fitted, output, name="trips", contract=contracts["binary"], spec=spec, lineage=lineage, **more
        )

    return write


class TestFolder:
    def test_holds_what_the_layout_says(self, write: Any, contracts: Any, tmp_path: Any) -> None:
        profile = tmp_path / "profile.json"
        profile.write_text('{"rows": 400}')
        written = write(tmp_path / "bundle", profile=profile)
        documents = {"bundle.json", "contract.yaml", "environment.json", "input_example.json", "signature.json"}
        others = {"MLmodel", "manifest.json", "model.onnx", "model.skops", "profile.json"}
        assert {path.name for path in written.path.iterdir()} == documents | others
        assert verify_manifest(written.path) == written.digest
        assert read_info(written.path) == written.info
        assert read_contract(written.path) == contracts["binary"]
        assert Signature.load(written.path / "signature.json") == Signature.of(contracts["binary"], "binary")
        assert json.loads((written.path / "profile.json").read_text()) == {"rows": 400}

    def test_says_nothing_of_when_and_where(self, write: Any, tmp_path: Any) -> None:
        written = write(tmp_path / "bundle")
        for path in written.path.iterdir():
            assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert write(tmp_path / "elsewhere").digest == written.digest

    def test_example_is_accepted_as_a_request(self, write: Any, tmp_path: Any) -> None:
        written = write(tmp_path / "bundle")
        records = json.loads((written.path / "input_example.json").read_text())
        assert len(records) == 5
        request = {name: [record[name] for record in records] for name in records[0]}
        found: Any = open_onnx(written.path / "model.onnx").predict(request)
        assert found.probabilities.shape == (5, 2)

    def test_environment_names_versions(self, write: Any, tmp_path: Any) -> None:
        import sklearn

        found = json.loads((write(tmp_path / "bundle").path / "environment.json").read_text())
        assert found["packages"]["scikit-learn"] == sklearn.__version__

    def test_can_be_read_by_others(self, write: Any, tmp_path: Any) -> None:
        """A temporary folder is private; what takes its final place has the modes of any other new folder."""
        (tmp_path / "ordinary").mkdir()
        assert write(tmp_path / "bundle").path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


class TestPlace:
    def test_older_bundle_is_replaced(self, write: Any, tmp_path: Any) -> None:
        first = write(tmp_path / "bundle")
        (first.path / "model.onnx").write_bytes(b"changed")
        assert verify_manifest(write(tmp_path / "bundle").path) == first.digest

    def test_anything_else_is_refused(self, write: Any, tmp_path: Any) -> None:
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "thesis.txt").write_text("years")
        with pytest.raises(TrainingError, match="is taken by something else"):
            write(tmp_path / "work")
        assert (tmp_path / "work" / "thesis.txt").read_text() == "years"

    def test_failure_leaves_nothing(self, write: Any, tmp_path: Any) -> None:
        with pytest.raises(SourceError, match=r"none\.json: cannot be read"):
            write(tmp_path / "bundle", profile=tmp_path / "none.json")
        assert list(tmp_path.iterdir()) == []

    def test_failure_leaves_the_older_bundle(self, write: Any, tmp_path: Any) -> None:
        first = write(tmp_path / "bundle")
        with pytest.raises(SourceError):
            write(tmp_path / "bundle", profile=tmp_path / "none.json")
        assert verify_manifest(first.path) == first.digest


class TestParity:
    """Real disagreement, made by giving the comparison another fit than the one that was converted."""

    @pytest.fixture
    def wrong(self, data: Any, contracts: Any, monkeypatch: Any) -> None:
        other = fit(data, contracts["binary"], TrainSpec(parameters={"max_iter": 3}))
        original = convert
        monkeypatch.setattr(files, "convert", lambda _: original(other))

    def test_file_that_disagrees_is_dropped_with_a_reason(self, wrong: Any, write: Any, tmp_path: Any) -> None:
        written = write(tmp_path / "bundle")
        assert written.info.formats == ["skops"]
        assert written.info.parity is None
        assert not (written.path / "model.onnx").exists()
        assert "differs from the pipeline by 0." in written.onnx_note
        assert written.parity.difference > 0.01

    def test_required_file_that_disagrees_fails(self, wrong: Any, write: Any, spec: Any, tmp_path: Any) -> None:
        with pytest.raises(ParityError, match=r"The ONNX file differs from the pipeline by 0\."):
            write(tmp_path / "bundle", spec=spec.model_copy(update={"onnx": "require"}))
        assert list(tmp_path.iterdir()) == []

    def test_not_a_number_is_no_agreement(self, write: Any, monkeypatch: Any, tmp_path: Any) -> None:
        monkeypatch.setattr(files, "compare", lambda *_: Parity(difference=float("nan"), flips=0, rows=1))
        assert write(tmp_path / "bundle").info.formats == ["skops"]

    def test_required_file_that_never_converts(self, data: Any, contracts: Any, write: Any, tmp_path: Any) -> None:
        spec = TrainSpec(estimator="dummy", parameters={"strategy": "stratified"}, onnx="require")
        with pytest.raises(
            TrainingError, match="'dummy' has no ONNX file: the strategy 'stratified' draws its answers"
        ):
            write(tmp_path / "bundle", fitted=fit(data, contracts["binary"], spec), spec=spec)

    def test_off(self, write: Any, spec: Any, tmp_path: Any) -> None:
        written = write(tmp_path / "bundle", spec=spec.model_copy(update={"onnx": "off"}))
        assert (written.info.formats, written.onnx_note) == (["skops"], "turned off in the training section")

    def test_value_on_a_threshold_goes_the_same_way(self, data: Any, table: Any, contracts: Any, tmp_path: Any) -> None:
        """Each threshold of the trees, rounded to 32 bits, as a feature's value: both files take the same branch."""
        fitted = fit(data, contracts["regression"], TrainSpec(parameters={"max_iter": 40}))
        numbers, texts = fitted.features.arrays(table)
        trees = [tree for trees in fitted.pipeline.named_steps["model"]._predictors for tree in trees]
        nodes = np.concatenate([tree.nodes for tree in trees])
        nodes = nodes[(nodes["is_leaf"] == 0) & (nodes["feature_idx"] == 1)]
        numbers = np.repeat(numbers[:1], len(nodes), axis=0)
        numbers[:, fitted.features.numbers.index("distance km")] = nodes["num_threshold"].astype(np.float32)
        graph = onnx_session(convert(fitted))
        rows: dict[str, Any] = {"numbers": numbers, "texts": np.repeat(texts[:1], len(nodes), axis=0)}
        by_graph = graph.run(None, rows)[0].ravel()
        by_pipeline = fitted.pipeline.predict(fitted.features.join(rows["numbers"], rows["texts"]))
        assert len(nodes) > 50
        np.testing.assert_allclose(by_graph, by_pipeline, rtol=1e-5)


class TestConversions:
    """What skl2onnx lacks or gets wrong, against the pipeline on real rows, gaps, unseen categories and outliers."""

    @pytest.mark.parametrize(
        ("task", "estimator", "parameters"),
        [
            ("binary", "dummy", {"strategy": "most_frequent"}),
            ("regression", "dummy", {"strategy": "median"}),
            ("binary", "knn", {"weights": "distance"}),
            ("multiclass", "knn", {"n_neighbors": 1}),
            ("regression", "knn", {"weights": "distance", "n_neighbors": 9}),
            ("multiclass", "gradient_boosting", {"init": "zero", "n_estimators": 5}),
            ("regression", "hist_gradient_boosting", {"loss": "poisson", "max_iter": 10}),
            ("regression", "hist_gradient_boosting", {"loss": "gamma", "max_iter": 10}),
            ("regression", "mlp", {"loss": "poisson", "max_iter": 20}),
            ("binary", "mlp", {"activation": "logistic", "hidden_layer_sizes": [5, 5], "max_iter": 20}),
            ("multiclass", "mlp", {"activation": "tanh", "max_iter": 20}),
        ],
    )
    def test_agrees(self, data: Any, contracts: Any, task: Any, estimator: Any, parameters: Any) -> None:
        fitted = quietly_fit(data, contracts[task], TrainSpec(estimator=estimator, parameters=parameters))
        parity = compare(fitted, onnx_session(convert(fitted)))
        assert parity.difference <= 1e-4 * fitted.target_scale
        assert parity.flips == 0

    @pytest.mark.parametrize(
        ("estimator", "parameters", "reason"),
        [
            ("knn", {"metric": "manhattan"}, "only the Euclidean distance"),
            ("sgd", {"loss": "hinge"}, "the estimator has no probabilities"),
            ("dummy", {"strategy": "uniform"}, "draws its answers at random"),
            # Its graph needs an operator that onnxruntime does not have.
            ("sklearn.gaussian_process.GaussianProcessClassifier", {}, "not an ONNX graph that runs here"),
        ],
    )
    def test_refused_with_the_reason(
        self, data: Any, contracts: Any, estimator: Any, parameters: Any, reason: Any
    ) -> None:
        fitted = quietly_fit(data, contracts["binary"], TrainSpec(estimator=estimator, parameters=parameters))
        with pytest.raises(TrainingError, match=reason):
            convert(fitted)

    @pytest.mark.parametrize("estimator", ["naive_bayes", "logistic_regression", "mlp", "hist_gradient_boosting"])
    def test_outlier_gets_the_same_answer(self, data: Any, table: Any, contracts: Any, estimator: Any) -> None:
        """A day in 1970 among those of 2013: in 32 bits naive Bayes was certain of the other class."""
        fitted = quietly_fit(data, contracts["binary"], TrainSpec(estimator=estimator))
        numbers, texts = fitted.features.arrays(table)
        numbers[:, fitted.features.numbers.index("signed up[days since 1970]")] = 100.0
        graph = onnx_session(convert(fitted))
        (found,) = graph.run(None, {"numbers": numbers, "texts": texts})
        expected = fitted.pipeline.predict_proba(fitted.features.join(numbers, texts))
        np.testing.assert_allclose(found, expected, atol=1e-5)

    @pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
    @pytest.mark.parametrize("estimator", ["mlp", "sgd", "knn"])
    def test_largest_numbers_give_finite_answers(
        self, data: Any, table: Any, contracts: Any, task: Any, estimator: Any
    ) -> None:
        fitted = quietly_fit(data, contracts[task], TrainSpec(estimator=estimator))
        numbers, texts = fitted.features.arrays(table)
        numbers[:] = np.where(np.arange(numbers.size).reshape(numbers.shape) % 2, 1, -1) * np.finfo(np.float32).max
        (found,) = onnx_session(convert(fitted)).run(None, {"numbers": numbers, "texts": texts})
        assert np.isfinite(found).all()

    def test_graph_gives_one_output_and_keeps_to_the_standard(self, data: Any, contracts: Any) -> None:
        """Labels would be computed for nobody; an operator of another domain is refused by the trust gate."""
        import onnx

        for estimator in ("mlp", "knn", "naive_bayes", "random_forest"):
            graph = onnx.load_from_string(
                convert(quietly_fit(data, contracts["binary"], TrainSpec(estimator=estimator)))
            )
            assert len(graph.graph.output) == 1
            assert {node.domain for node in graph.graph.node} <= ONNX_DOMAINS

    def test_same_bytes_each_time(self, data: Any, contracts: Any) -> None:
        for estimator in ("mlp", "knn"):
            fitted = quietly_fit(data, contracts["binary"], TrainSpec(estimator=estimator))
            assert convert(fitted) == convert(fitted)


def quietly_fit(data: Any, contract: Any, spec: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a network that has not converged
        return fit(data, contract, spec, threads=1)


class TestMlflowLoadsTheFolder:
    @pytest.fixture
    def signed(self, write: Any, tmp_path: Any, monkeypatch: Any) -> Any:
        from headway.components.settings import load_settings
        from headway.components.signing import sign_bundle

        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))
        from headway.components.trust import load_policy

        load_policy()
        written = write(tmp_path / "bundle")
        sign_bundle(written.path, load_settings().resolved_signing_key)
        return written

    def test_predicts_as_the_bundle_does(self, signed: Any, table: Any) -> None:
        import mlflow.pyfunc

        frame = table.to_pandas().head(20)[list(open_skops(signed.path / "model.skops").features.columns)]
        model = mlflow.pyfunc.load_model(str(signed.path))
        found = model.predict(frame)
        expected: Any = open_onnx(signed.path / "model.onnx").predict(frame)
        assert found["prediction"].tolist() == expected.labels.tolist()
        np.testing.assert_allclose(found["probability"], expected.probabilities[:, 1])
        assert model.metadata.get_input_schema().input_names() == list(frame.columns)

    def test_changed_file_is_refused(self, signed: Any) -> None:
        import mlflow.pyfunc

        from headway.components.errors import TrustError

        (signed.path / "model.onnx").write_bytes(b"other")
        with pytest.raises(TrustError, match=r"model\.onnx was changed"):
            mlflow.pyfunc.load_model(str(signed.path))

    def test_note_that_mlflow_adds_is_no_change(self, signed: Any, tmp_path: Any) -> None:
        shutil.copytree(signed.path, tmp_path / "copy")
        (tmp_path / "copy" / "registered_model_meta").write_text("model_name: trips\nmodel_version: '1'\n")
        assert verify_manifest(tmp_path / "copy") == signed.digest

"""The step through its KFP face, with artifacts made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from headway.components.bundle import bundle_digest, read_info
from headway.components.errors import ConfigError, PlatformError, SourceError, TrainingError, UnknownNameError
from headway.components.train.component import train

TRAINING = "estimator: hist_gradient_boosting\nparameters: {max_iter: 5}\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: Any) -> Any:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def run(data: Any, contracts: Any, home: Any, tmp_path: Any, monkeypatch: Any) -> Any:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADWAY_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.json").write_text("{}")

    def run(training: Any = TRAINING, data: Any = data) -> Any:
        outputs = {
            "bundle": dsl.Model(uri=str(tmp_path / "out" / "bundle")),
            "metrics": dsl.Metrics(uri=str(tmp_path / "out" / "metrics")),
            "summary": dsl.Markdown(uri=str(tmp_path / "out" / "summary.md")),
        }
        train.python_func(
            name="trips",
            contract=contracts["binary"].dump(),
            training=training,
            data=dsl.Dataset(uri=str(data), metadata={"digest": "abc", "rows": 400}),
            profile=dsl.Artifact(uri=str(tmp_path / "profile.json")),
            **outputs,
        )
        return outputs

    return run


def client(home: Any) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{home}/mlflow.db")


def test_bundle_metrics_and_page(run: Any, home: Any) -> None:
    outputs = run()
    bundle, metrics = outputs["bundle"], outputs["metrics"]
    info = read_info(Path(bundle.path))
    assert bundle.metadata["digest"] == bundle_digest(Path(bundle.path))
    assert bundle.metadata["formats"] == "onnx,skops"
    assert bundle.metadata["estimator"] == "hist_gradient_boosting"
    assert 0 < bundle.metadata["parity"] < 1e-4
    assert info.lineage.data_digest == "abc"
    assert metrics.metadata["rows"] == 400
    assert json.loads(Path(metrics.path).read_text())["training_accuracy"] > 0.5
    page = Path(outputs["summary"].path).read_text()
    assert "fitted on 400 rows" in page
    assert bundle.metadata["run_id"] in page
    kept = client(home).get_run(bundle.metadata["run_id"])
    assert kept.info.status == "FINISHED"
    assert kept.data.params["estimator"] == "hist_gradient_boosting"
    assert kept.data.params["parameters.max_iter"] == "5"
    assert kept.data.params["data_digest"] == "abc"
    assert kept.data.tags["headway.digest"] == bundle.metadata["digest"]
    assert kept.data.metrics["training_accuracy"] == metrics.metadata["training_accuracy"]


def test_logged_bundle_is_the_same_one(run: Any, home: Any, tmp_path: Any) -> None:
    metadata = run()["bundle"].metadata
    fetched = client(home).download_artifacts(metadata["run_id"], "bundle", str(tmp_path))
    assert bundle_digest(Path(fetched)) == metadata["digest"]


def test_same_inputs_give_the_same_digest(run: Any) -> None:
    first, second = run()["bundle"].metadata, run()["bundle"].metadata
    assert first["digest"] == second["digest"]
    assert first["run_id"] != second["run_id"]


def test_failed_fit_marks_its_run(run: Any, home: Any) -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        run("parameters: {learning_rate: -1.0}")
    experiment = client(home).get_experiment_by_name("trips")
    newest = client(home).search_runs([experiment.experiment_id], max_results=1)[0]
    assert newest.info.status == "FAILED"


class TestRefusedBeforeAnything:
    """A mistake in a document or an address makes no run and costs no fit."""

    @pytest.mark.parametrize(
        ("training", "error", "message"),
        [
            ("estimator: randm_forest", UnknownNameError, "did you mean 'random_forest'"),
            ("estimatr: dummy", ConfigError, "training: estimatr is not a known key - did you mean 'estimator'"),
            ("- dummy", ConfigError, "training: got a list"),
        ],
    )
    def test_training_section(self, run: Any, training: Any, error: Any, message: Any) -> None:
        with pytest.raises(error, match=message):
            run(training)

    def test_data(self, run: Any, tmp_path: Any) -> None:
        with pytest.raises(SourceError, match=r"none\.parquet: no such file"):
            run(data=tmp_path / "none.parquet")

    def test_address(self, run: Any, monkeypatch: Any) -> None:
        from headway.components.train import train as step

        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setattr(step, "fit", lambda *_, **__: pytest.fail("the fit began"))
        with pytest.raises(PlatformError, match=r"MLflow at http://127\.0\.0\.1:9"):
            run()


def test_target_that_cannot_be_learnt(run: Any, table: Any, tmp_path: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    constant = table.set_column(table.column_names.index("late"), "late", pa.array([True] * table.num_rows))
    pq.write_table(constant, tmp_path / "constant.parquet")
    with pytest.raises(TrainingError, match="Target 'late' has one value, True"):
        run(data=tmp_path / "constant.parquet")


def test_face_compiles_with_documented_inputs() -> None:
    inputs = train.component_spec.inputs
    assert {name: inputs[name].description for name in ("name", "training")} == {
        "name": "The model's name, and the MLflow experiment's.",
        "training": "The training section of model.yaml as YAML text.",
    }

"""The step through its KFP face: torchrun, MLflow, pages; then what every later step does with the bundle."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

pytest.importorskip("torch", reason="distributed training needs torch (headway[torch])")

from headway.components.bundle import bundle_digest, read_info
from headway.components.errors import ConfigError, PlatformError, SourceError, UnknownNameError
from headway.components.settings import Settings
from headway.components.train_distributed.component import train_distributed
from headway.components.train_distributed.job import Progress
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.trust import Policy, load_bundle
from tests.components.train.conftest import make_contract

TRAINING = "trainer: distributed\nepochs: 4\nbatch_size: 256\nlearning_rate: 0.01\n"


@pytest.fixture
def step(data: Path, installation: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.json").write_text("{}")

    def run(training: str = TRAINING, data: Path = data, **more: Any) -> dict[str, Any]:
        outputs = {
            "bundle": dsl.Model(uri=str(tmp_path / "out" / "bundle")),
            "metrics": dsl.Metrics(uri=str(tmp_path / "out" / "metrics")),
            "summary": dsl.Markdown(uri=str(tmp_path / "out" / "summary.md")),
            "report": dsl.HTML(uri=str(tmp_path / "out" / "report.html")),
        }
        train_distributed.python_func(
            name="trips",
            contract=make_contract("binary").dump(),
            training=training,
            data=dsl.Dataset(uri=str(data), metadata={"digest": "abc"}),
            profile=dsl.Artifact(uri=str(tmp_path / "profile.json")),
            **outputs,
            **more,
        )
        return outputs

    return run


def client(installation: Settings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(installation.resolved_tracking_uri)


@pytest.mark.slow
def test_bundle_pages_and_mlflow(step: Any, installation: Settings, table: Any, capfd: Any) -> None:
    outputs = step(processes=2, accelerator="cpu")
    bundle = outputs["bundle"]
    assert bundle.metadata["digest"] == bundle_digest(Path(bundle.path))
    assert bundle.metadata["framework"] == "torch"
    assert bundle.metadata["formats"] == "onnx,torch"
    assert read_info(Path(bundle.path)).lineage.data_digest == "abc"

    shown = json.loads(Path(outputs["metrics"].path).read_text())
    assert shown["processes"] == 2
    assert shown["rows_per_second"] > 0
    assert 0 < shown["mfu"] < 1
    assert 0 <= shown["data_share"] < 1
    assert "by 2 processes" in Path(outputs["summary"].path).read_text()
    page = Path(outputs["report"].path).read_text()
    assert "<svg" in page
    assert "held back" in page
    lines = capfd.readouterr().out.splitlines()
    progress = [found for line in lines if (found := Progress.parse(line))]
    assert [one.epoch for one in progress if one.validation_loss is not None] == [1, 2, 3, 4]

    mlflow = client(installation)
    run = mlflow.get_run(bundle.metadata["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["network"] == "embedding_mlp"
    assert run.data.tags["headway.digest"] == bundle.metadata["digest"]
    curve = mlflow.get_metric_history(run.info.run_id, "validation_loss")
    assert [point.step for point in curve][-1] == shown["steps"]
    assert {item.path for item in mlflow.list_artifacts(run.info.run_id, "bundle")} >= {"bundle/model.onnx"}

    assert not list((installation.home / "training" / "trips").glob("*/step-*")), "no checkpoint outlives its use"
    model = load_bundle(bundle.path, policy=Policy(require_signature=False))
    labels = model.predict(table.to_pandas()).labels
    assert (labels == table.column("late").to_numpy()).mean() > 0.8


class TestRefusedBeforeAnythingStarts:
    @pytest.mark.parametrize(
        ("training", "error", "message"),
        [
            ("trainer: distributed\nnetwork: embeding_mlp", UnknownNameError, "did you mean 'embedding_mlp'"),
            ("trainer: distributed\nepoch: 3", ConfigError, "epoch is not a known key - did you mean 'epochs'"),
            ("trainer: distributed\nplacement: {node: 2}", ConfigError, "did you mean 'nodes'"),
            ("trainer: distributed\nepochs: 0", ConfigError, "epochs: Input should be greater than or equal to 1"),
            ("epochs: 3", ConfigError, "trainer is missing"),
            ("trainer: distributed\nplacement: {nodes: 2}", ConfigError, "wants 2 machines"),
        ],
    )
    def test_section(self, step: Any, training: str, error: Any, message: str) -> None:
        with pytest.raises(error, match=message):
            step(training)

    def test_data(self, installation: Settings, tmp_path: Path) -> None:
        from headway.components.train_distributed.train import train_distributed as train

        spec, contract = DistributedSpec(trainer="distributed"), make_contract("binary")
        with pytest.raises(SourceError, match="no such file"):
            train(tmp_path / "none.parquet", tmp_path / "out", name="trips", contract=contract, spec=spec)

    def test_tracking(self, step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from headway.components.train_distributed import train as module

        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setattr(module, "launch", lambda *_, **__: pytest.fail("training began"))
        with pytest.raises(PlatformError, match=r"MLflow at http://127\.0\.0\.1:9"):
            step()


class TestSection:
    def test_round_trip(self) -> None:
        spec = DistributedSpec.parse({"trainer": "distributed", "early_stopping": False, "onnx": False})
        assert spec.early_stopping is None
        assert spec.onnx == "off"
        assert DistributedSpec.parse(spec.dump()) == spec

    def test_placed_elsewhere(self) -> None:
        spec = DistributedSpec.parse({"trainer": "distributed", "placement": {"nodes": 2, "cpu": "8"}})
        assert spec.placed().placement == spec.placement
        assert spec.placed(processes=4, accelerator="gpu").placement.model_dump() == spec.placement.model_dump() | {
            "processes": 4,
            "accelerator": "gpu",
        }
        with pytest.raises(ConfigError, match="accelerator"):
            spec.placed(accelerator="tpu")


def test_face_compiles_with_documented_inputs() -> None:
    inputs = train_distributed.component_spec.inputs
    assert all(inputs[name].description for name in inputs)
    assert inputs["nodes"].default == 0

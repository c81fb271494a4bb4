"""The step through its KFP face: with artifacts made by hand, and in a pipeline that kfp runs in processes."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl, local

from headway.components import load
from headway.components.bundle import bundle_digest, read_info
from headway.components.errors import ConfigError
from headway.components.trust import Policy

SECTION = "{batches: [1], seconds: 0.02, rows: 200}"


@pytest.fixture
def unsigned(installation: Any) -> Any:
    """An installation, so that the step finds its policy."""
    return installation


@pytest.fixture
def run(unsigned: Any, bundle_of: Any, validation: Path, tmp_path: Path) -> Any:
    def run(optimisation: str = SECTION, evaluation: str = "{}", **metadata: Any) -> Any:
        bundle = bundle_of("binary", "naive_bayes")
        outputs = {
            "optimised": dsl.Model(uri=str(tmp_path / "out" / "bundle")),
            "metrics": dsl.Metrics(uri=str(tmp_path / "out" / "metrics")),
            "summary": dsl.Markdown(uri=str(tmp_path / "out" / "summary.md")),
            "report": dsl.HTML(uri=str(tmp_path / "out" / "report.html")),
        }
        load("optimise").python_func(
            bundle=dsl.Model(uri=str(bundle), metadata={"estimator": "naive_bayes", "digest": "old", **metadata}),
            data=dsl.Dataset(uri=str(validation)),
            optimisation=optimisation,
            evaluation=evaluation,
            **outputs,
        )
        return outputs

    return run


def test_bundle_metrics_and_pages(run: Any) -> None:
    outputs = run(evaluation="primary: log_loss")
    optimised, path = outputs["optimised"], Path(outputs["optimised"].path)
    assert optimised.metadata["digest"] == bundle_digest(path)
    assert optimised.metadata["estimator"] == "naive_bayes"
    assert optimised.metadata["served"] == "onnx"
    record = read_info(path).optimisation
    assert record is not None
    assert record.metric == "log_loss"
    shown = json.loads(Path(outputs["metrics"].path).read_text())
    assert shown["speedup_1"] > 3
    assert outputs["metrics"].metadata["speedup_1"] == shown["speedup_1"]
    assert "is served from onnx" in Path(outputs["summary"].path).read_text()
    assert "is served from onnx" in Path(outputs["report"].path).read_text()


def test_numbers_and_report_go_to_the_run_that_trained(run: Any, unsigned: Any, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(unsigned.resolved_tracking_uri)
    experiment = client.create_experiment("trips", artifact_location=str(tmp_path / "artifacts"))
    run_id = client.create_run(experiment).info.run_id
    outputs = run(run_id=run_id)
    kept = client.get_run(run_id).data
    assert kept.tags["headway.served"] == "onnx"
    assert kept.tags["headway.optimised_digest"] == outputs["optimised"].metadata["digest"]
    assert kept.metrics["optimise_speedup_1"] > 3
    assert [file.path for file in client.list_artifacts(run_id)] == ["optimisation.html"]


def test_wrong_section(run: Any) -> None:
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        run("int_8: off")


def test_in_a_pipeline(unsigned: Any, bundle_of: Any, validation: Path, tmp_path: Path) -> None:
    """As kfp runs it on one machine: the step is a process that imports the installed package."""
    step = load("optimise")

    @dsl.pipeline(name="chain")
    def chain(bundle: str, data: str, section: str) -> None:
        model = dsl.importer(artifact_uri=bundle, artifact_class=dsl.Model, reimport=False)
        rows = dsl.importer(artifact_uri=data, artifact_class=dsl.Dataset, reimport=False)
        step(bundle=model.output, data=rows.output, optimisation=section)

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    chain(bundle=str(bundle_of("binary", "naive_bayes")), data=str(validation), section=SECTION)
    (made,) = (tmp_path / "root").glob("*/optimise/optimised")
    assert read_info(made).formats == ["onnx", "skops"]


def test_policy_that_allows_graphs_only(bundle_of: Any, validation: Path, tmp_path: Path) -> None:
    from headway.components.optimise.optimise import optimise
    from headway.components.optimise.spec import OptimiseSpec

    policy = Policy(require_signature=False, formats=["onnx"])
    spec = OptimiseSpec.parse(SECTION)
    found = optimise(bundle_of("binary", "naive_bayes"), validation, tmp_path / "new", spec, policy=policy)
    assert [one.name for one in found.record.candidates] == ["onnx", "onnx-int8"]
    assert found.record.chosen == "onnx"

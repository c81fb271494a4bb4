"""The KFP faces, called as functions with artifacts made by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

from headway.components.errors import ConfigError, UnknownNameError
from headway.components.settings import Settings
from headway.components.tune.component import tune, tune_best, tune_start, tune_worker

TRAINING = "parameters: {max_iter: 20}\nseed: 5\n"
TUNING = """\
space:
  parameters.max_iter: {type: int, low: 5, high: 30}
  parameters.learning_rate: {type: float, low: 0.02, high: 1, log: true}
trials: 5
rungs: 2
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process where OpenMP is loaded already its threads spin while they wait."""
    monkeypatch.setenv("HEADWAY_THREADS", "1")


@pytest.fixture
def data(parts: Any) -> dict[str, Any]:
    return {name: dsl.Dataset(uri=str(path)) for name, path in zip(("train", "validation"), parts, strict=True)}


@pytest.fixture
def page(tmp_path: Path) -> dict[str, Any]:
    kinds = {"best": dsl.Artifact, "metrics": dsl.Metrics, "summary": dsl.Markdown, "report": dsl.HTML}
    return {name: kind(uri=str(tmp_path / "out" / name)) for name, kind in kinds.items()}


def documents(contract: Any, **more: str) -> dict[str, str]:
    return {"name": "shops", "contract": contract.dump(), "training": TRAINING, "tuning": TUNING, **more}


def test_a_whole_study_in_one_step(installation: Settings, contract: Any, data: Any, page: Any) -> None:
    section = tune.python_func(**documents(contract, tuning=TUNING + "workers: 2\n"), **data, **page)
    best = json.loads(Path(page["best"].path).read_text())
    assert yaml.safe_load(section) == {
        "seed": 5,
        "parameters": {key.removeprefix("parameters."): value for key, value in best["best"]["values"].items()},
    }
    assert page["metrics"].metadata["best_roc_auc"] == best["best"]["value"]
    assert page["metrics"].metadata["best_roc_auc"] >= page["metrics"].metadata["baseline_roc_auc"]
    assert section.rstrip() in Path(page["summary"].path).read_text()
    assert "Parallel coordinates" in Path(page["report"].path).read_text()
    assert page["best"].metadata["study"] == best["study"]


def test_nothing_to_tune_hands_the_section_on(installation: Settings, contract: Any, data: Any, page: Any) -> None:
    assert tune.python_func(**documents(contract, tuning=""), **data, **page) == TRAINING
    assert "Nothing to tune" in Path(page["summary"].path).read_text()
    assert not (installation.home / "tuning").exists()


def test_one_study_in_many_steps(installation: Settings, contract: Any, data: Any, page: Any, tmp_path: Path) -> None:
    job = dsl.Artifact(uri=str(tmp_path / "job.json"))
    workers = tune_start.python_func(**documents(contract, tuning=TUNING + "workers: 2\n"), **data, job=job)
    assert workers == ["worker-1", "worker-2"]
    ran = [tune_worker.python_func(worker=worker, job=job, **data) for worker in workers]
    assert ran == [5, 0]
    section = tune_best.python_func(job=job, trials=ran, **page)
    assert set(yaml.safe_load(section)["parameters"]) == {"max_iter", "learning_rate"}
    assert page["metrics"].metadata["trials"] == 5
    from mlflow import MlflowClient

    client = MlflowClient(installation.resolved_tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("shops").experiment_id])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert len(runs) == 6
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["headway.ended"] == "trials"


def test_both_ways_find_the_same(installation: Settings, contract: Any, data: Any, page: Any, tmp_path: Path) -> None:
    whole = tune.python_func(**documents(contract), **data, **page)
    job = dsl.Artifact(uri=str(tmp_path / "job.json"))
    tune_start.python_func(**documents(contract, name="other"), **data, job=job)
    ran = tune_worker.python_func(worker="w", job=job, **data)
    assert tune_best.python_func(job=job, trials=[ran], **page) == whole


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"tuning": "space: {}"}, ConfigError, "at least 1 item"),
        ({"tuning": "spcae: {}"}, ConfigError, "tuning: spcae is not a known key - did you mean 'space'"),
        ({"training": "estimator: randm_forest"}, UnknownNameError, "did you mean 'random_forest'"),
        ({"training": "estimator: naive_bayes"}, ConfigError, "has no parameter 'max_iter'"),
        ({"tuning": TUNING + "metric: roc_acu"}, UnknownNameError, "did you mean 'roc_auc'"),
    ],
)
def test_refused_before_anything(
    installation: Settings, contract: Any, data: Any, page: Any, tmp_path: Path, more: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        tune.python_func(**documents(contract, **more), **data, **page)
    with pytest.raises(error, match=message):
        tune_start.python_func(**documents(contract, **more), **data, job=dsl.Artifact(uri=str(tmp_path / "j")))
    assert not (installation.home / "tuning").exists()

"""The doctor names each missing thing and the fix."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from headway.pipelines import doctor
from headway.pipelines.doctor import Finding, examine


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADWAY_HOME", "MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "HEADWAY_KFP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_a_machine_that_runs_the_tests_lacks_nothing_needed() -> None:
    assert [finding for finding in examine() if finding.state == "missing"] == []


def test_what_is_missing_has_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def find_spec(name: str) -> Any:
        return None if name in ("kfp", "pandera") else real(name)

    monkeypatch.setattr(doctor.importlib.util, "find_spec", find_spec)
    assert found("kfp") == Finding(
        "kfp",
        "missing",
        "not installed; it is for run, compile and submit pipelines",
        "pip install 'headway[pipelines]'",
    )
    assert found("pandera").state == "optional"


def test_wrong_settings_are_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOEM", "/x")
    assert "HEADWAY_HOEM names no setting - did you mean 'home'?" in found("settings").told


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:9")
    assert found("mlflow").state == found("kubeflow").state == "missing"
    assert "http://127.0.0.1:9/health" in found("mlflow").told

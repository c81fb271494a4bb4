"""Settings: default < file < environment < flag, and a wrong name is named."""

from pathlib import Path

import pytest

from headway.components.errors import ConfigError
from headway.components.settings import load_settings, settings_sources


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADWAY_HOME", "HEADWAY_PROJECT", "HEADWAY_CONFIG", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_each_source_beats_the_one_before(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_sources()["threads"] == ("0", "default")
    (alone / "headway.yaml").write_text("threads: 1")
    assert settings_sources()["threads"] == ("1", "headway.yaml")
    monkeypatch.setenv("HEADWAY_THREADS", "2")
    assert settings_sources()["threads"] == ("2", "environment")
    assert settings_sources(threads=3)["threads"] == ("3", "flag")
    assert settings_sources(threads=None)["threads"] == ("2", "environment")


def test_the_embedded_platform_needs_no_settings(alone: Path) -> None:
    settings = load_settings()
    assert settings.resolved_tracking_uri == f"sqlite:///{alone}/.headway/mlflow.db"
    assert settings.resolved_artifact_root == f"file://{alone}/.headway/artifacts"
    assert settings.resolved_database_url == f"sqlite:///{alone}/.headway/ledger.db"
    assert settings.embedded_keys


def test_mlflows_own_variable_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    settings = load_settings(tracking_uri="http://other")
    assert settings.resolved_tracking_uri == "http://mlflow:5000"
    assert settings.resolved_artifact_root == ""


def test_a_wrong_name_in_the_file_or_the_environment_is_named(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (alone / "headway.yaml").write_text("thread: 1")
    with pytest.raises(ConfigError, match=r"headway.yaml: thread is not a known key - did you mean 'threads'\?"):
        load_settings()
    (alone / "headway.yaml").unlink()
    monkeypatch.setenv("HEADWAY_TRACKNG_URI", "x")
    with pytest.raises(ConfigError, match=r"HEADWAY_TRACKNG_URI names no setting - did you mean 'tracking_uri'\?"):
        load_settings()


def test_a_file_that_was_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_CONFIG", "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        load_settings()


def test_secrets_are_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_KFP_TOKEN", "s3cret-token")
    monkeypatch.setenv("HEADWAY_DATABASE_URL", "postgresql://u:s3cret@host/db")
    assert "s3cret" not in str(settings_sources())
    assert "s3cret" not in repr(load_settings())

"""MLflow's database: whole or not at all, whoever makes it and whoever is killed."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from headway.components import mlflow_store
from headway.components.mlflow_store import make_database, migrate, open_client, statements_of


def _parts(statements: str) -> list[str]:
    return sorted(line.strip().rstrip(",") for line in statements.splitlines())


def _start(uri: str) -> "subprocess.Popen[bytes]":
    code = f"from headway.components.mlflow_store import make_database; make_database({uri!r})"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def test_a_kill_in_the_middle_leaves_nothing_that_a_later_one_cannot_open(tmp_path: Path) -> None:
    path = tmp_path / "home" / "mlflow.db"
    process = _start(f"sqlite:///{path}")
    deadline = time.monotonic() + 60
    while not list(path.parent.glob(".mlflow-*")) and time.monotonic() < deadline:
        time.sleep(0.0005)
    process.kill()
    process.wait()
    assert not path.exists()
    assert open_client(f"sqlite:///{path}").search_registered_models() == []


def test_the_kept_tables_are_those_that_mlflows_migrations_make(tmp_path: Path) -> None:
    migrate(tmp_path / "migrated.db")
    make_database(f"sqlite:///{tmp_path}/kept.db")
    # The migrations make indexes and constraints in an order of their own each time.
    assert _parts(statements_of(tmp_path / "kept.db")) == _parts(statements_of(tmp_path / "migrated.db"))


def test_another_version_of_mlflow_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "mlflow_tables.sql"
    other.write_text("-- MLflow 2.0.0\nCREATE TABLE nothing (x);\n")
    monkeypatch.setattr(mlflow_store, "_TABLES", other)
    assert open_client(f"sqlite:///{tmp_path}/mlflow.db").search_registered_models() == []


def test_two_that_start_at_once_share_one_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    both = [_start(uri) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    open_client(uri).create_experiment("one")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_an_existing_database_and_a_server_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("whatever")
    make_database(f"sqlite:///{path}")
    make_database("http://127.0.0.1:9")
    assert path.read_text() == "whatever"

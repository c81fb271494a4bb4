"""MLflow's database: whole or not at all, whoever makes it and whoever is killed."""

import subprocess
import sys
import time
from pathlib import Path

from headway.components.mlflow_store import make_database, open_client


def _start(uri: str) -> "subprocess.Popen[bytes]":
    code = f"from headway.components.mlflow_store import make_database; make_database({uri!r})"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def test_a_kill_in_the_middle_leaves_nothing_that_a_later_one_cannot_open(tmp_path: Path) -> None:
    path = tmp_path / "home" / "mlflow.db"
    process = _start(f"sqlite:///{path}")
    deadline = time.monotonic() + 60
    while not list(path.parent.glob(".mlflow-*/*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not path.exists()
    assert open_client(f"sqlite:///{path}").search_registered_models() == []


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

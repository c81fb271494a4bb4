import http.server
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from headway.components.errors import PlatformError
from headway.components.settings import Settings
from headway.components.train.tracking import code_revision, tracked_run, without_credentials


@pytest.fixture(autouse=True)
def clean(monkeypatch: Any) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: Any) -> Any:
    """One database for the module: the first use of a new one costs seconds."""
    return Settings(home=tmp_path_factory.mktemp("home"))


def status(run: Any) -> Any:
    return run.client.get_run(run.run_id).info.status


class TestRun:
    def test_values_and_files_are_kept(self, settings: Any, tmp_path: Any) -> None:
        (tmp_path / "manifest.json").write_text("{}")
        with tracked_run("trips", settings) as run:
            run.log(params={"a": 1, "long": "x" * 10_000}, metrics={"m": 0.5}, tags={"t": "v", "none": ""})
            run.log_bundle(tmp_path)
        kept = run.client.get_run(run.run_id)
        assert kept.info.status == "FINISHED"
        assert kept.data.params["a"] == "1"
        assert kept.data.metrics == {"m": 0.5}
        assert kept.data.tags["t"] == "v"
        assert "none" not in kept.data.tags
        assert [file.path for file in run.client.list_artifacts(run.run_id, "bundle")] == ["bundle/manifest.json"]
        assert kept.info.artifact_uri.startswith(f"{settings.resolved_artifact_root}/trips/")

    def test_more_values_than_one_request_takes(self, settings: Any) -> None:
        with tracked_run("trips", settings) as run:
            run.log(params={f"p{number}": number for number in range(250)})
        assert len(run.client.get_run(run.run_id).data.params) == 250

    def test_second_run_is_in_the_same_experiment(self, settings: Any) -> None:
        with tracked_run("same", settings) as first, tracked_run("same", settings) as second:
            assert first.experiment_id == second.experiment_id
            assert first.run_id != second.run_id

    @pytest.mark.parametrize(("error", "expected"), [(ValueError("boom"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
    def test_step_that_raises_marks_its_run(self, settings: Any, error: Any, expected: Any) -> None:
        with pytest.raises(type(error)), tracked_run("trips", settings) as run:
            raise error
        assert status(run) == expected

    def test_database_has_no_page(self, settings: Any) -> None:
        with tracked_run("trips", settings) as run:
            assert run.link == ""


class TestForeignRun:
    @pytest.mark.parametrize("fails", [False, True])
    def test_is_written_and_neither_ended_nor_renamed(self, settings: Any, monkeypatch: Any, fails: Any) -> None:
        with tracked_run("trips", settings) as outer:
            monkeypatch.setenv("MLFLOW_RUN_ID", outer.run_id)
            name = outer.client.get_run(outer.run_id).info.run_name
            try:
                with tracked_run("another name", settings) as inner:
                    inner.log(metrics={"inside": 1.0})
                    if fails:
                        raise ValueError("boom")
            except ValueError:
                pass
            kept = outer.client.get_run(outer.run_id)
            assert inner.run_id == outer.run_id
            assert (kept.info.status, kept.info.run_name) == ("RUNNING", name)
            assert kept.data.metrics == {"inside": 1.0}

    def test_that_does_not_exist(self, settings: Any, monkeypatch: Any) -> None:
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
        with pytest.raises(PlatformError, match=r"Run with id=0{32} not found"), tracked_run("trips", settings):
            pass


class TestUnreachable:
    """A wrong address is known within seconds, and named."""

    def begin(self, uri: Any) -> Any:
        start = time.perf_counter()
        with pytest.raises(PlatformError) as caught, tracked_run("trips", Settings(tracking_uri=uri)):
            pytest.fail("the body ran")
        return str(caught.value), time.perf_counter() - start

    def test_nobody_listens(self) -> None:
        message, seconds = self.begin("http://127.0.0.1:9")
        assert "MLflow at http://127.0.0.1:9: " in message
        assert "MLFLOW_TRACKING_URI" in message
        assert seconds < 5

    def test_server_that_is_ill(self, ill_server: Any) -> None:
        message, seconds = self.begin(ill_server)
        assert f"MLflow at {ill_server}: " in message
        assert seconds < 10

    def test_unknown_scheme(self) -> None:
        message, _ = self.begin("carrier-pigeon://loft")
        assert "MLflow at carrier-pigeon://loft" in message

    def test_folder_that_cannot_be_made(self, tmp_path: Any) -> None:
        (tmp_path / "file").write_text("")
        message, _ = self.begin(f"sqlite:///{tmp_path}/file/mlflow.db")
        assert "mlflow.db" in message

    def test_patience_of_the_environment_is_kept(self, monkeypatch: Any) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        self.begin("http://127.0.0.1:9")
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
        assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ

    @pytest.fixture
    def ill_server(self) -> Any:
        class Ill(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(503)
                self.end_headers()

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ill)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
def test_two_steps_meet_a_new_database_at_once(tmp_path: Any) -> None:
    script = """
import sys
from headway.components.settings import Settings
from headway.components.train.tracking import tracked_run
with tracked_run("trips", Settings(home=sys.argv[1])) as run:
    print(run.experiment_id)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "home")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=tmp_path,
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    assert ended[0][0] == ended[1][0]


class TestCodeRevision:
    def git(self, folder: Any, *arguments: Any) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)

    def test_commit_and_changes(self, tmp_path: Any) -> None:
        self.git(tmp_path, "init")
        (tmp_path / "a").write_text("1")
        self.git(tmp_path, "add", "a")
        self.git(tmp_path, "commit", "-m", "a")
        clean = code_revision(tmp_path)
        (tmp_path / "a").write_text("2")
        assert len(clean) == 40
        assert code_revision(tmp_path) == f"{clean}-dirty"

    def test_outside_a_repository(self, tmp_path: Any) -> None:
        assert code_revision(tmp_path) == ""


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://u:p@host:5000", "http://host:5000"),
        ("postgresql://u:p@host/db", "postgresql://host/db"),
        ("sqlite:////var/mlflow.db", "sqlite:////var/mlflow.db"),
    ],
)
def test_addresses_are_shown_without_credentials(uri: Any, shown: Any) -> None:
    assert without_credentials(uri) == shown

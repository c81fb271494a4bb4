"""The life of a server process: starting, failing in words, and ending without losing a request."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from tests.serving.server.conftest import Running, Sign, free_port

GOOD = {"distance": 1200.0, "carrier": "AA"}
Start = Callable[..., Running]


@pytest.fixture
def bundle(make_bundle: Callable[..., Path], signed: Sign) -> Path:
    return signed(make_bundle())


class TestFailing:
    def test_without_its_bundle_it_stays_and_says_why(self, start: Start, tmp_path: Path) -> None:
        running = start(tmp_path / "nowhere", "--name", "flights", grpc=True)
        told = running.said("not ready")
        assert (told["code"], told["level"]) == ("HW700", "error")
        assert str(tmp_path / "nowhere") in told["reason"]
        with running.client() as client:
            assert client.get("/v2/health/live").status_code == 200
            assert client.get("/v2/models/flights/ready").status_code == 503
            assert client.get("/health").json()["status"] == "failed"
            assert client.post("/predict", json={"features": GOOD}).status_code == 503
            assert 'headway_ready{model="",variant="default"} 0.0' in client.get("/metrics").text
        assert running.stop() == 0

    def test_a_changed_bundle_is_never_ready(self, start: Start, bundle: Path, tmp_path: Path) -> None:
        changed = tmp_path / "bundle"
        shutil.copytree(bundle, changed)
        (changed / "contract.yaml").write_text((changed / "contract.yaml").read_text() + "\n")
        running = start(changed)
        assert "contract.yaml was changed" in running.said("not ready")["reason"]
        with running.client() as client:
            assert "contract.yaml was changed" in client.get("/health").json()["reason"]
        running.stop()

    @pytest.mark.parametrize("command", ["headway.serving.server", "headway.pipelines.cli.serve"])
    def test_a_person_gets_exit_code_1_and_the_path(self, home: Path, tmp_path: Path, command: str) -> None:
        program = [sys.executable, "-m", command, "--bundle", str(tmp_path), "--exit-on-failure", "--port", "0"]
        if command.endswith("serve"):
            line = "import typer; from headway.pipelines.cli.serve import serve; typer.run(serve)"
            program = [sys.executable, "-c", line, "--bundle", str(tmp_path), "--port", "0"]
        done = subprocess.run(
            program,
            capture_output=True,
            text=True,
            env={**os.environ, "HEADWAY_HOME": str(home)},
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert f"Error HW700 {tmp_path}: no manifest.json" in done.stderr

    def test_a_taken_port_is_named(self, home: Path, bundle: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            for flags in (["--port", port], ["--port", "0", "--grpc-port", port]):
                done = subprocess.run(
                    [sys.executable, "-m", "headway.serving.server", "--bundle", str(bundle), *flags],
                    capture_output=True,
                    text=True,
                    env={**os.environ, "HEADWAY_HOME": str(home)},
                    timeout=60,
                    check=False,
                )
                assert done.returncode == 1, flags
                assert f"Error HW901 Cannot listen at 127.0.0.1:{port}" in done.stderr


class TestBecomingReady:
    def test_no_request_is_answered_with_a_fault(self, start: Start, bundle: Path) -> None:
        """Clients that ask all the time from the first moment on see 503, then 200, and nothing else."""
        running = start(bundle, "--drain-seconds", "0")
        codes: list[int] = []
        with running.client() as client:
            while codes.count(200) < 200:
                codes.append(client.post("/predict", json={"features": GOOD}).status_code)
        assert set(codes) == {503, 200}
        assert codes == sorted(codes, reverse=True)


class TestServing:
    def test_it_binds_the_given_host_only(self, flights: Running) -> None:
        # All of 127.0.0.0/8 is this machine: a server of every address would answer at another one too.
        for port in (flights.port, flights.grpc_port):
            with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.2", port), timeout=5):
                pass

    def test_it_logs_nothing_a_request(self, flights: Running) -> None:
        with flights.client() as client:
            for _ in range(20):
                client.post("/predict", json={"features": GOOD})
                client.post("/predict", json={})
        time.sleep(0.2)
        assert [line["message"] for line in flights.lines] == ["listening", "ready"]

    def test_what_is_not_http_is_400(self, flights: Running) -> None:
        with socket.create_connection(("127.0.0.1", flights.port), timeout=10) as connection:
            connection.sendall(b"\x16\x03\x01\x00\xff nonsense\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")

    def test_the_payload_log_has_what_was_answered(self, flights: Running) -> None:
        with flights.client() as client:
            for number in range(3):
                rows = {"features": [GOOD] * (number + 1), "id": f"logged{number}"}
                assert client.post("/predict", json=rows, headers={"x-user-id": "ann"}).status_code == 200
        wanted = {"logged0", "logged1-0", "logged1-1", "logged2-0", "logged2-1", "logged2-2"}
        deadline = time.monotonic() + 20
        while True:
            rows = [row for row in logged(flights) if row["id"].startswith("logged")]
            if {row["id"] for row in rows} == wanted:
                break
            assert time.monotonic() < deadline, rows
            time.sleep(0.2)
        assert {row["user"] for row in rows} == {"ann"}
        assert {(row["endpoint"], row["version"], row["code"]) for row in rows} == {("v3", 3, 200)}


def logged(running: Running) -> list[dict[str, object]]:
    assert running.payloads is not None
    paths = [path for path in running.payloads.glob("*/*/*.parquet") if not path.name.startswith(".")]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


class TestEnding:
    @pytest.mark.slow
    def test_draining_under_load_loses_nothing(self, start: Start, bundle: Path, tmp_path: Path) -> None:
        """Clients that look at readiness before each connection, as a router does, see not one failure."""
        running = start(bundle, "--drain-seconds", "1.5", payloads=tmp_path)
        running.said("ready")
        counts: Counter[str] = Counter()
        ids: set[str] = set()
        failed: list[str] = []
        unready = threading.Event()

        def ask(number: int) -> None:
            with running.client() as client:
                for turn in range(100_000):
                    if unready.is_set():
                        return
                    try:
                        answer = client.post("/predict", json={"features": GOOD, "id": f"{number}-{turn}"})
                    except httpx.TransportError as error:
                        failed.append(repr(error))
                        return
                    counts[str(answer.status_code)] += 1
                    ids.add(f"{number}-{turn}")

        askers = [threading.Thread(target=ask, args=[number]) for number in range(4)]
        for asker in askers:
            asker.start()
        time.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        with running.client() as client:
            while client.get("/v2/health/ready").status_code == 200:
                time.sleep(0.01)
            time.sleep(0.5)  # what a router takes to notice
            assert client.post("/predict", json={"features": GOOD, "id": "late"}).status_code == 200
        unready.set()
        for asker in askers:
            asker.join()
        assert running.process.wait(30) == 0
        assert failed == []
        assert set(counts) == {"200"}
        assert len(ids) > 200
        assert {row["id"] for row in logged(running)} == ids | {"late"}
        assert [line["message"] for line in running.lines][-2:] == ["draining", "stopped"]

    def test_a_request_in_work_is_finished(self, start: Start, bundle: Path) -> None:
        running = start(bundle, "--drain-seconds", "0")
        running.said("ready")
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
            body = b'{"features": {"distance": 1, "carrier": "AA"}}'
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
            time.sleep(0.3)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(body)
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        assert running.process.wait(30) == 0

    def test_asked_twice_it_does_not_wait(self, start: Start, bundle: Path) -> None:
        running = start(bundle, "--drain-seconds", "60")
        running.said("ready")
        running.process.send_signal(signal.SIGTERM)
        running.said("draining")
        assert running.stop() == 0


class TestCommand:
    def test_headway_serve_serves_a_folder(self, home: Path, bundle: Path) -> None:
        port = free_port()
        line = "import typer; from headway.pipelines.cli.serve import serve; typer.run(serve)"
        command = [sys.executable, "-c", line, "--bundle", str(bundle), "--port", str(port), "--", "--variant", "blue"]
        environment = {**os.environ, "HEADWAY_HOME": str(home)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            answer = wait_for(f"http://127.0.0.1:{port}/v2/models/flights/ready")
            assert answer.status_code == 200
            predicted = httpx.post(f"http://127.0.0.1:{port}/predict", json={"features": GOOD})
            assert predicted.headers["x-variant"] == "blue"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
            assert process.returncode == 0
            assert f"Serving {bundle} at http://127.0.0.1:{port}" in err
        finally:
            process.kill()
            process.wait(30)


def wait_for(url: str, seconds: float = 60) -> httpx.Response:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(url)
            if answer.status_code == 200:
                return answer
        time.sleep(0.1)
    raise AssertionError(f"{url} never answered")

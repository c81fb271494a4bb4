"""Signed bundles, models in this process, and real server processes on free ports."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from headway.components.settings import Settings
from headway.components.signing import sign_bundle
from headway.components.trust import load_policy

Sign = Callable[[Path], Path]
READY_SECONDS = 60


@dataclass
class Running:
    """A server process."""

    process: "subprocess.Popen[str]"
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What it logged."""
    noise: list[str] = field(default_factory=list)
    """What it wrote besides: nothing, unless it broke."""
    grpc_port: int = 0
    payloads: Path | None = None

    @property
    def port(self) -> int:
        return int(self.said("listening")["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=30)

    def said(self, message: str, seconds: float = READY_SECONDS) -> dict[str, Any]:
        """The first log line with a message, waited for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = next((line for line in self.lines if line["message"] == message), None)
            if found is not None:
                return found
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"the server never said {message!r}: {self.lines} {''.join(self.noise)}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def read(self) -> None:
        def follow() -> None:
            for line in self.process.stderr or ():
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.noise.append(line)

        self._reader = threading.Thread(target=follow, daemon=True)
        self._reader.start()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation's folder with a key and a policy."""
    folder = tmp_path_factory.mktemp("server-home")
    load_policy(Settings(home=folder))
    return folder


@pytest.fixture(scope="session")
def signed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Sign:
    """Signs a copy of a bundle with the installation's key."""
    made: dict[Path, Path] = {}

    def sign(bundle: Path) -> Path:
        if bundle not in made:
            made[bundle] = tmp_path_factory.mktemp("signed") / "bundle"
            shutil.copytree(bundle, made[bundle])
            sign_bundle(made[bundle], Settings(home=home).resolved_signing_key)
        return made[bundle]

    return sign


@pytest.fixture(scope="session")
def start(home: Path) -> Iterator[Callable[..., Running]]:
    """Starts server processes; whatever still runs at the end is killed."""
    started: list[Running] = []

    def begin(bundle: Path, *flags: str, grpc: bool = False, payloads: Path | None = None) -> Running:
        command = [sys.executable, "-m", "headway.serving.server", "--bundle", str(bundle), "--port", "0", *flags]
        grpc_port = free_port() if grpc else 0
        command += ["--grpc-port", str(grpc_port)] if grpc else []
        command += ["--payload-log", str(payloads)] if payloads else []
        environment = {**os.environ, "HEADWAY_HOME": str(home)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        running = Running(process, grpc_port=grpc_port, payloads=payloads)
        running.read()
        started.append(running)
        return running

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(30)
        if running.process.stderr:
            running.process.stderr.close()


@pytest.fixture(scope="session", params=["onnx", "skops"])
def flights(
    request: pytest.FixtureRequest,
    make_bundle: Callable[..., Path],
    signed: Sign,
    start: Callable[..., Running],
    tmp_path_factory: pytest.TempPathFactory,
) -> Running:
    """A ready server of a small classifier, from either kind of model file, with gRPC and a payload log."""
    bundle = signed(make_bundle(onnx="require" if request.param == "onnx" else "off"))
    flags = ["--variant", "v3", "--version", "3", "--semver", "1.2.0", "--drain-seconds", "0"]
    running = start(bundle, *flags, grpc=True, payloads=tmp_path_factory.mktemp("payloads"))
    assert running.said("ready")["format"] == request.param
    return running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

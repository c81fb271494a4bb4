"""Start steps: in forks of a warm server where the system can fork safely, in this process on request, else afresh."""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from headway.components.errors import PipelineError

PRELOAD = (
    "kfp.dsl.executor_main",
    "headway.components.ingest.ingest",
    "duckdb",
    "pyarrow.parquet",
    "sklearn.tree",
    "pandas",
    "headway.components.data_validate.validate",
    "jinja2",
    "mlflow.tracking",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
    "sklearn.pipeline",
    "sklearn.compose",
    "sklearn.preprocessing",
    "sklearn.impute",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "headway.components.train.fit",
    "skops.io",
    "onnxruntime",
    "skl2onnx",
    "headway.components.evaluate.evaluate",
    "headway.components.register.register",
    "model_signing",
)
"""What the shipped steps import, in the order in which a training pipeline needs it."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP reads it when it is loaded: threads that spin while they wait cost ten times the time on a busy machine."""
_CONNECT_SECONDS = 20.0

OnLine = Callable[[str], None]
Request = dict[str, Any]
ErrorType = type[BaseException] | None


class Workers(Protocol):
    """Something that can run steps; a context manager."""

    def run(self, request: Request, on_line: OnLine) -> int:
        """Run one step, hand on each line it prints, and return its exit code; negative: the signal that killed it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: ErrorType, error: BaseException | None, at: TracebackType | None) -> None: ...


def call(workers: "Workers", function: str, arguments: dict[str, Any], environment: dict[str, str]) -> Any:
    """Call a function where the libraries are loaded already, and return what it returns.

    Args:
        workers: What starts it.
        function: `module:name`.
        arguments: Its arguments, which must go through JSON as what it returns must.
        environment: All of its environment variables.

    Raises:
        PipelineError: It failed; carries what it printed.
    """
    lines: list[str] = []
    request = {"call": function, "arguments": arguments, "environment": environment, "folder": str(Path.cwd())}
    if workers.run(request, lines.append) != 0:
        raise PipelineError(f"{function} failed:\n{''.join(lines).strip()}")
    return json.loads(lines[-1])


def make_workers(*, in_process: bool = False) -> "Workers":
    """The best workers for this system: forks of a warm server on Linux, fresh interpreters elsewhere.

    Args:
        in_process: Run steps in this process, for a debugger or a coverage tool.
    """
    if in_process:
        return InProcess()
    return WarmForks() if platform.system() == "Linux" and hasattr(os, "pidfd_open") else FreshInterpreters()


class WarmForks:
    """Steps as forks of a server that has their libraries loaded (server.py)."""

    def __init__(self, preload: tuple[str, ...] = PRELOAD) -> None:
        self._preload = preload
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="headway-workers-")
        self._address = str(Path(self._folder.name) / "socket")
        with (Path(self._folder.name) / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "headway.pipelines.embedded.server", self._address, *self._preload],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to hand on, not the terminal's
                env=WAITING | os.environ,
            )
        return self

    def __exit__(self, kind: ErrorType, error: BaseException | None, at: TracebackType | None) -> None:
        if self._server is not None:
            # It may be in the middle of an import, and has nothing to finish: steps have processes of their own.
            self._server.terminate()
            if self._server.stdin:
                self._server.stdin.close()
            self._server.wait()
        if self._folder is not None:
            self._folder.cleanup()

    def run(self, request: Request, on_line: OnLine) -> int:
        """Fork a worker for the step."""
        reading, writing = os.pipe()
        with self._connect() as connection:
            with os.fdopen(writing, "wb"):
                body = json.dumps(request).encode()
                socket.send_fds(connection, [len(body).to_bytes(8, "big")], [writing])
                connection.sendall(body)
            with os.fdopen(reading, encoding="utf-8", errors="replace") as output:
                for line in output:
                    on_line(line)
            answer = connection.recv(1024)
        return int(json.loads(answer)["code"]) if answer else -9

    def _connect(self) -> socket.socket:
        """Connect to the server, which listens as soon as its interpreter is up."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                connection.connect(self._address)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline or self._server is None or self._server.poll() is not None:
                    connection.close()
                    raise PipelineError(f"The step server did not start: {self._log()}") from None
                time.sleep(0.005)
            else:
                return connection

    def _log(self) -> str:
        log = Path(self._folder.name) / "server.log" if self._folder else None
        return log.read_text(errors="replace").strip()[-2000:] if log and log.exists() else "it left no log"


class FreshInterpreters:
    """Steps in an interpreter of their own each; slower by the imports, and right everywhere."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: ErrorType, error: BaseException | None, at: TracebackType | None) -> None:
        return

    def run(self, request: Request, on_line: OnLine) -> int:
        """Start an interpreter for the step."""
        with subprocess.Popen(
            [sys.executable, "-m", "headway.pipelines.embedded.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=WAITING | request["environment"],
            cwd=request["folder"],
        ) as process:
            if process.stdin is None or process.stdout is None:
                raise PipelineError("The step's interpreter has no pipes")
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            for line in process.stdout:
                on_line(line)
            return process.wait()


class InProcess(FreshInterpreters):
    """Steps in this very process: for a debugger, a breakpoint or a coverage tool."""

    def run(self, request: Request, on_line: OnLine) -> int:
        """Call the executor here; what the step prints goes where this process prints."""
        from headway.pipelines.embedded.worker import run_step

        if "call" in request:  # beside the steps of this process it must not touch their environment
            return super().run(request, on_line)
        environment, folder, argv = dict(os.environ), Path.cwd(), sys.argv
        try:
            os.environ.update(request["environment"])
            os.chdir(request["folder"])
            return run_step(request)
        finally:
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.argv = argv

"""A warm interpreter that forks one worker for each step: `python -m headway.pipelines.embedded.server SOCKET`.

A fresh interpreter for each step spends longer on importing pandas, scikit-learn and MLflow than most steps spend on
working. This process imports them once, while the first step already runs, and forks: a worker starts in milliseconds,
still has its own memory, environment and exit code, and leaves nothing behind for the next one.

One connection is one step. The client sends a JSON request with the file descriptor that gets the step's output; the
answer is the step's exit code. Closing the connection early kills the step and all that it started.
"""

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

GRACE_SECONDS = 5.0
"""How long a cancelled step may take to end by itself before it is killed."""
_MAX_REQUEST_BYTES = 64 << 20


def serve(address: str, preload: Iterable[str], run: Callable[[dict[str, Any]], int]) -> None:
    """Accept steps until the client that owns this server goes away.

    Between two imports it looks for a waiting step, so the first one never waits for modules that it may not need.

    Args:
        address: Path of the Unix socket to listen on.
        preload: Modules to import, those that early steps need first.
        run: What a worker does with its request; returns the exit code.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.disable()  # imports make objects that stay: looking for garbage among them only takes time
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(16)
        sources: list[Any] = [listener, sys.stdin]
        waiting = list(preload)[::-1]
        while True:
            ready, _, _ = select.select(sources, [], [], 0.0 if waiting else 1.0)
            if listener in ready:
                _accept(listener, run)
            elif sys.stdin in ready:  # the owner closed our standard input: it is gone
                return
            elif waiting:
                _import(waiting.pop())
            _reap()


def _import(name: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:  # an extra that is not installed; the step that needs it will say so
        sys.stderr.write(f"not preloaded: {name}: {error}\n")


def _accept(listener: socket.socket, run: Callable[[dict[str, Any]], int]) -> None:
    connection, _ = listener.accept()
    gc.freeze()  # what is shared with the workers is never looked at again, and so never copied
    with connection:
        if os.fork() == 0:
            listener.close()
            os._exit(_supervise(connection, run))


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _supervise(connection: socket.socket, run: Callable[[dict[str, Any]], int]) -> int:
    """Fork the worker, then wait for its end or for the client's."""
    request, output = _receive(connection)
    worker = os.fork()
    if worker == 0:
        connection.close()
        os._exit(_work(request, output, run))
    os.close(output)
    code = _wait(connection, worker)
    try:
        connection.sendall(json.dumps({"code": code}).encode())
    except OSError:  # the client has gone; nobody is left to be told
        return 1
    return 0


def _receive(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """The request and the descriptor for the step's output."""
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 1)
    size = int.from_bytes(head, "big")
    if len(head) != 8 or len(descriptors) != 1 or size > _MAX_REQUEST_BYTES:
        raise ValueError("a request starts with its length and one file descriptor")
    body = bytearray()
    while len(body) < size:
        piece = connection.recv(min(1 << 20, size - len(body)))
        if not piece:
            raise EOFError("the client closed the connection inside a request")
        body += piece
    return json.loads(bytes(body)), descriptors[0]


def _work(request: dict[str, Any], output: int, run: Callable[[dict[str, Any]], int]) -> int:
    """The worker's life: own session, own output, own environment, then the step."""
    os.setsid()
    gc.enable()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(output)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    try:
        return run(request)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _wait(connection: socket.socket, worker: int) -> int:
    handle = os.pidfd_open(worker)
    sources: list[Any] = [handle, connection]
    try:
        ready, _, _ = select.select(sources, [], [])
        if handle not in ready:
            _end(worker, handle)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    finally:
        os.close(handle)
    _signal_session(worker, signal.SIGKILL)  # what the step started and left behind
    return code


def _end(worker: int, handle: int) -> None:
    """End the step's whole session: ask first, then insist."""
    for wish in (signal.SIGTERM, signal.SIGKILL):
        _signal_session(worker, wish)
        if select.select([handle], [], [], GRACE_SECONDS)[0]:
            return


def _signal_session(leader: int, wish: signal.Signals) -> None:
    try:
        os.killpg(leader, wish)
    except ProcessLookupError:  # all of it has ended already
        return


def main() -> None:
    """Serve on the socket named by the first argument; the others are modules to preload."""
    from headway.pipelines.embedded.worker import work

    os.environ["_KFP_RUNTIME"] = "true"  # `import kfp` without its client and compiler
    address, *preload = sys.argv[1:]
    try:
        serve(address, preload, work)
    finally:
        Path(address).unlink(missing_ok=True)


if __name__ == "__main__":
    main()

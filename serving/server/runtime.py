"""kserve's ModelServer, run our way.

What kserve 0.20 does otherwise, and why: it binds all interfaces; it sets up an event loop that `asyncio.run` then
throws away, so uvloop is never used; it refuses to start without a ready model, and then answers 404 for it; it logs
four lines a request; it closes its listener in the moment of SIGTERM, while the router still sends it requests.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from typing import Any

import uvicorn
import uvloop

from headway.components.errors import GatewayError
from headway.serving.server.app import App
from headway.serving.server.imports import kserve_imports
from headway.serving.server.logs import tell
from headway.serving.server.model import HeadwayModel
from headway.serving.server.settings import ServerSettings

with kserve_imports():
    from kserve import ModelServer
    from kserve.model_server import app as kserve_app
    from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
    from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

KEEP_ALIVE_SECONDS = 65
"""Longer than a proxy keeps an idle connection, so that the proxy closes first and loses no request."""
_BACKLOG = 2_048
_GARBAGE = 50_000
"""New objects between two collections of garbage."""


class Server(ModelServer):  # type: ignore[misc]
    """One model on kserve's ModelServer.

    Args:
        settings: What to serve, and where.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(http_port=settings.port, grpc_port=settings.grpc_port, enable_grpc=bool(settings.grpc_port))
        self.settings = settings
        self.model = HeadwayModel(settings)
        register_v1_endpoints(kserve_app, self.dataplane, self.model_repository_extension)
        register_v2_endpoints(kserve_app, self.dataplane, self.model_repository_extension)
        self._listener = _Listener(_listening(App(self.model, kserve_app), settings))
        self._grpc: Any = None

    def run(self) -> None:
        """Serve until a signal says stop.

        Raises:
            GatewayError: A port is taken.
        """
        uvloop.run(self._run())

    async def _run(self) -> None:
        settings = self.settings
        loop = asyncio.get_running_loop()
        with _bind(settings.host, settings.port) as listening:
            if settings.grpc_port:
                await self._start_grpc()
            port = listening.getsockname()[1]
            tell("listening", host=settings.host, port=port, grpc_port=settings.grpc_port, pid=os.getpid())
            for sig in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(sig, self._begin_drain)
            loading = loop.create_task(self._load())
            await self._listener.serve(sockets=[listening])
            await loading
        if self._grpc is not None:
            await self._grpc.stop(settings.grace_seconds)
        self.model.close()
        gc.unfreeze()
        tell("stopped")

    async def _load(self) -> None:
        """Load the model beside the listener, which meanwhile says that it is not ready."""
        if await asyncio.get_running_loop().run_in_executor(None, self.model.load):
            self.register_model(self.model)
            # What is here now stays, and requests leave no cycles behind: collections need not look for them so often.
            gc.collect()
            gc.freeze()
            gc.set_threshold(_GARBAGE)
        elif self.settings.exit_on_failure:
            self._stop()

    async def _start_grpc(self) -> None:
        from headway.serving.server.grpc_service import make_server

        address = f"{_bracketed(self.settings.host)}:{self.settings.grpc_port}"
        self._grpc = make_server(self.model)
        try:
            self._grpc.add_insecure_port(address)
        except RuntimeError:
            raise _taken(address, "--grpc-port") from None
        await self._grpc.start()

    def _begin_drain(self) -> None:
        """Say that we are not ready, and stop a little later; at once when it is asked for twice."""
        if not self.model.ready:
            self._stop()
            return
        self.model.drain()
        tell("draining", seconds=self.settings.drain_seconds)
        asyncio.get_running_loop().call_later(self.settings.drain_seconds, self._stop)

    def _stop(self) -> None:
        self._listener.should_exit = True


class _Listener(uvicorn.Server):
    """uvicorn, which leaves the signals to us."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()


def _listening(app: App, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.grace_seconds),
    )


def _bind(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise _taken(f"{_bracketed(host)}:{port}", "--port", error.strerror) from None
    listening.setblocking(False)
    return listening


def _taken(address: str, flag: str, why: str | None = None) -> GatewayError:
    fix = f"stop what listens there, or choose another port ({flag})"
    return GatewayError(f"Cannot listen at {address}" + (f": {why}" if why else ""), fix=fix)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

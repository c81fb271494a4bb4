"""kserve's ModelServer, run our way."""

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import uvicorn
import uvloop

from headway.components.errors import GatewayError
from headway.serving.server.app import App
from headway.serving.server.logs import tell
from headway.serving.server.model import HeadwayModel
from headway.serving.server.settings import ServerSettings

_ARGUMENTS, sys.argv = sys.argv, sys.argv[:1]
try:
    from kserve import ModelServer
    from kserve.model_server import app as kserve_app
    from kserve.protocol.rest.server import RESTServer
finally:
    sys.argv = _ARGUMENTS

KEEP_ALIVE_SECONDS = 65
"""Longer than a proxy keeps an idle connection, so that the proxy closes first and loses no request."""
_BACKLOG = 2_048


class Listener(uvicorn.Server):
    """uvicorn, which leaves signals to us."""

    def capture_signals(self) -> Any:
        """Capture none."""
        import contextlib

        return contextlib.nullcontext()


class Server(ModelServer):  # type: ignore[misc]
    """One model on kserve's ModelServer.

    Args:
        settings: What to serve, and where.
    """

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(http_port=settings.port, grpc_port=settings.grpc_port, enable_grpc=bool(settings.grpc_port))
        self.settings = settings
        self.model = HeadwayModel(settings)

    def start(self, models: list[HeadwayModel]) -> None:
        """Serve until a signal says stop."""
        (self.model,) = models
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        settings = self.settings
        rest = RESTServer("", self.dataplane, self.model_repository_extension, settings.port)
        rest._register_endpoints(kserve_app)
        rest._add_exception_handlers(kserve_app)
        self._app = App(self.model, kserve_app)
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            server_header=False,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            backlog=_BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.grace_seconds),
        )
        self._listener = Listener(config)
        with _bind(settings.host, settings.port) as listening:
            tell("listening", host=settings.host, port=listening.getsockname()[1], pid=os.getpid())
            loop = asyncio.get_running_loop()
            for sig in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(sig, self._begin_drain)
            loading = loop.create_task(self._load())
            await self._listener.serve(sockets=[listening])
            await loading
        self.model.close()
        tell("stopped")

    async def _load(self) -> None:
        """Load the model beside the listener, which meanwhile says that it is not ready."""
        if await asyncio.get_running_loop().run_in_executor(None, self.model.load):
            self.register_model(self.model)
            self._app.open()
        elif self.settings.exit_on_failure:
            self._listener.should_exit = True

    def _begin_drain(self) -> None:
        """Say that we are not ready, and stop a little later; at once when it is asked for again."""
        if not self.model.ready:
            self._listener.should_exit = True
            return
        self.model.drain()
        tell("draining", seconds=self.settings.drain_seconds)
        asyncio.get_running_loop().call_later(self.settings.drain_seconds, self._stop)

    def _stop(self) -> None:
        self._listener.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise GatewayError(
            f"Cannot listen at {host}:{port}: {error.strerror}",
            fix="stop what listens there, or choose another port (`--port`, 0 for a free one)",
        ) from None
    listening.setblocking(False)
    return listening

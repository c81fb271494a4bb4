"""The server process: kserve's ModelServer with our listener, our application in front, and a graceful end.

What kserve 0.20 does otherwise, and why it is not done: it binds all interfaces; it sets up an event loop that
`asyncio.run` then throws away, so uvloop is never used; it logs four lines a request; it closes the listener at the
moment of SIGTERM, while the router still sends requests; it refuses to start without a ready model.
"""

import os

from headway.serving.server.settings import ServerSettings

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def serve(settings: ServerSettings) -> None:
    """Serve until a signal says stop.

    Raises:
        HeadwayError: The bundle cannot be served, and `exit_on_failure` is set.
        GatewayError: A port is taken.
    """
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    from headway.serving.server import logs

    logs.configure()
    from headway.serving.server.runtime import Server

    server = Server(settings)
    server.start([server.model])
    if server.model.failure is not None and settings.exit_on_failure:
        raise server.model.failure

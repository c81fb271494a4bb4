"""From settings to a running server process."""

import os

from headway.serving.server.settings import ServerSettings

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def serve(settings: ServerSettings) -> None:
    """Serve one bundle until SIGTERM or SIGINT, then drain and return.

    Args:
        settings: What to serve, and where.

    Raises:
        GatewayError: A port is taken.
        HeadwayError: The bundle cannot be served, and `exit_on_failure` is set.
    """
    # Before NumPy is loaded: one model call takes one thread, and calls in parallel take `threads` of them.
    for variable in _THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    from headway.serving.server import logs

    logs.configure()
    from headway.serving.server.runtime import Server

    server = Server(settings)
    server.run()
    if server.model.failure is not None and settings.exit_on_failure:
        raise server.model.failure

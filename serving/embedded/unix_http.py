"""HTTP over a unix socket: how the supervisor and Envoy's admin interface are spoken to."""

import http.client
import socket
from pathlib import Path

LONGEST_SOCKET = 107
"""Bytes that the path of a unix socket may have."""


class UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket, with a deadline for each answer.

    Args:
        path: The socket.
        timeout: Seconds.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(path: Path, method: str, target: str, *, timeout: float) -> str:
    """One request's answer, as text.

    Raises:
        OSError: Nobody answers, or the answer is no success.
    """
    connection = UnixConnection(path, timeout)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        text = response.read().decode("utf-8", errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise ConnectionError(f"{response.status}: {text.strip()[:200]}")
    return text

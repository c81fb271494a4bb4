"""Asking one server process: is its model ready, is it the right one, what did it count."""

import http.client
import json
from dataclasses import dataclass
from typing import Any

from headway.serving.embedded.ports import HOST

_SECONDS = 3.0
_FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one process says of itself."""

    ready: bool
    reason: str = ""
    """Why it is not ready."""
    failed: bool = False
    """Whether it says that it never will be."""


def ask_ready(port: int, model: str, digest: str) -> Probe:
    """Whether a process serves a model with exactly this digest.

    Args:
        port: Where it listens.
        model: The model's name in its paths.
        digest: The bundle's digest.
    """
    try:
        status, _ = get(port, f"/v2/models/{model}/ready")
        if status != 200:
            return _unready(port)
        _, text = get(port, f"/v2/models/{model}")
        found = json.loads(text)["properties"]["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Probe(ready=False, reason=_told(error))
    if found != digest:
        return Probe(ready=False, reason=f"port {port} serves the digest {str(found)[:16]}…, not {digest[:16]}…")
    return Probe(ready=True)


def get(port: int, path: str) -> tuple[int, str]:
    """One request to a process.

    Raises:
        OSError: Nobody answers.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()


def _unready(port: int) -> Probe:
    _, text = get(port, "/health")
    said: Any = json.loads(text)
    reason = str(said.get("reason") or said.get("status") or "its model is not ready")
    return Probe(ready=False, reason=reason, failed=said.get("status") == _FAILED)


def _told(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "its server does not listen yet"
    if isinstance(error, TimeoutError):
        return f"its server did not answer within {_SECONDS:g} s"
    return f"its server gave no proper answer ({type(error).__name__})"

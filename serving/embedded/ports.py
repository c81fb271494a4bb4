"""Ports: free ones, and who has one that is taken."""

import random
import socket
from collections.abc import Collection
from pathlib import Path

from headway.components.errors import GatewayError

HOST = "127.0.0.1"
_FIRST = 20_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_EPHEMERAL = 32_768


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections only time out counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port(taken: Collection[int] = ()) -> int:
    """A port that nobody has, below those that the system gives to outgoing connections.

    Such a port stays ours while a server restarts: no connection can be given it as its own end meanwhile.

    Args:
        taken: Ports that are spoken for though nobody listens there yet.

    Raises:
        GatewayError: None was found.
    """
    first, last = _FIRST, _first_ephemeral()
    for port in random.sample(range(first, last), min(500, last - first)):
        if port not in taken and is_free(port):
            return port
    raise GatewayError(f"No free port between {first} and {last}")


def owner(port: int) -> str:
    """Who listens on a port, in words; empty when nobody does or it cannot be known."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return "another user's process"
    listening = [each for each in connections if each.status == psutil.CONN_LISTEN]
    pids = {each.pid for each in listening if getattr(each.laddr, "port", None) == port}
    if not pids:
        return ""
    pid = next(iter(pids))
    if pid is None:
        return "another user's process"
    try:
        process = psutil.Process(pid)
        return f"process {pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    except psutil.Error:
        return f"process {pid}"


def require_free(port: int) -> None:
    """Refuse a gateway port that is taken.

    Raises:
        GatewayError: Says who has it.
    """
    if not is_free(port):
        raise GatewayError(
            f"Port {port} is taken by {owner(port) or 'somebody who cannot be seen'}",
            expected="a port for the gateway that nobody listens on",
            fix=f"stop that, or take another port: HEADWAY_GATEWAY_PORT={port + 1} headway up (0 takes a free one)",
        )


def _first_ephemeral() -> int:
    try:
        first = int(_EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = _USUAL_EPHEMERAL
    return first if first > _FIRST + 1_000 else 65_536

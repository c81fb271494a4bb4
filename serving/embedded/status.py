"""What runs, and whether it is what shall run."""

import time
from collections.abc import Mapping
from typing import ClassVar

from headway.components.config import Config
from headway.components.errors import GatewayError
from headway.serving.embedded.envoy import PROGRAM as GATEWAY
from headway.serving.embedded.installation import DRIVER
from headway.serving.embedded.platform import EmbeddedPlatform
from headway.serving.embedded.ports import HOST
from headway.serving.embedded.state import Process, Served, State
from headway.serving.embedded.supervisor import ProgramInfo
from headway.serving.platform import Phase


class ProcessStatus(Config):
    """One process."""

    document: ClassVar[str] = "process"

    program: str
    state: str
    """As the supervisor says: `RUNNING`, `STARTING`, `BACKOFF`, `FATAL`, …; `ABSENT` when it does not know it."""
    pid: int = 0
    port: int = 0
    memory_bytes: int = 0
    restarts: int = 0
    """How often it was started again since the last `up`."""
    seconds: int = 0
    """How long it has been running."""

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self.state in ("RUNNING", "STARTING")


class VariantStatus(Config):
    """One variant."""

    document: ClassVar[str] = "variant"

    name: str
    version: int
    phase: Phase
    reason: str
    weight: int
    """What it shall get, of 10 000."""
    live_weight: int | None
    """What Envoy gives it; None when Envoy does not answer."""
    mirror_weight: int
    """The share of requests that are copied to it, of 10 000."""
    processes: list[ProcessStatus]


class EndpointStatus(Config):
    """One endpoint."""

    document: ClassVar[str] = "endpoint"

    name: str
    url: str
    """Where to send requests."""
    variants: list[VariantStatus]


class Status(Config):
    """All of it."""

    document: ClassVar[str] = "status"

    up: bool
    url: str
    auth: str
    gateway: ProcessStatus
    driver: ProcessStatus
    endpoints: list[EndpointStatus]
    problems: list[str]
    """What is not as it shall be, a sentence each; empty when all is well."""


def status(platform: EmbeddedPlatform) -> Status:
    """Look at everything; never raises for what is not well."""
    installation = platform.installation
    state = installation.store.read()
    supervisor, envoy = installation.supervisor(state), installation.envoy(state)
    try:
        infos, restarts = supervisor.programs(), supervisor.restarts()
    except GatewayError:
        infos, restarts = {}, {}
    try:
        live: Mapping[str, Mapping[str, int]] | None = envoy.live_weights()
    except GatewayError:
        live = None
    look = _Look(platform=platform, state=state, infos=infos, restarts=restarts, live=live)
    return look.status(up=bool(infos))


class _Look:
    """One look at everything.

    Args:
        platform: The platform.
        state: What shall be.
        infos: What the supervisor says.
        restarts: How often programs were started again.
        live: What Envoy follows; None when it does not answer.
    """

    def __init__(
        self,
        *,
        platform: EmbeddedPlatform,
        state: State,
        infos: Mapping[str, ProgramInfo],
        restarts: Mapping[str, int],
        live: Mapping[str, Mapping[str, int]] | None,
    ) -> None:
        self._platform = platform
        self._state = state
        self._infos = infos
        self._restarts = restarts
        self._live = live
        self._problems: list[str] = []

    def status(self, *, up: bool) -> Status:
        """All that can be seen."""
        url = f"http://{HOST}:{self._state.gateway_port}" if self._state.gateway_port else ""
        if not up:
            self._problems.append("nothing is up: headway up")
        gateway, driver = self._process(GATEWAY, port=self._state.gateway_port), self._process(DRIVER)
        if up:
            if self._live is None:
                self._problems.append(f"the gateway does not answer ({gateway.state})")
            if not driver.runs:
                self._problems.append(f"the release driver does not run ({driver.state})")
        endpoints = [
            EndpointStatus(name=name, url=f"{url}/v2/models/{name}", variants=self._variants(name, up=up))
            for name in self._state.endpoints
        ]
        return Status(
            up=up,
            url=url,
            auth=self._state.auth,
            gateway=gateway,
            driver=driver,
            endpoints=endpoints,
            problems=self._problems,
        )

    def _variants(self, endpoint: str, *, up: bool) -> list[VariantStatus]:
        there = self._state.endpoint(endpoint)
        if there.route is None:
            self._problems.append(f"{endpoint} has no route: nobody reaches it")
        names = [served.name for served in there.variants]
        gone = [name for name in (there.route.needed if there.route else []) if name not in names]
        self._problems += [f"{endpoint}/{name} gets traffic and does not exist" for name in gone]
        return [self._variant(endpoint, served, up=up) for served in there.variants]

    def _variant(self, endpoint: str, served: Served, *, up: bool) -> VariantStatus:
        route = self._state.endpoint(endpoint).route
        weight = route.weights.get(served.name, 0) if route else 0
        mirrored = route.mirror_weight if route and route.mirror == served.name else 0
        live = None if self._live is None else self._live.get(endpoint, {}).get(served.name, 0)
        found = self._platform.variant_state(endpoint, served.variant)
        label = f"{endpoint}/{served.name}"
        if up and not found.ready:
            self._problems.append(f"{label} is {found.phase}: {found.reason}")
        if live is not None and live != weight:
            self._problems.append(f"{label} gets {live} of 10000, not {weight}: headway up")
        return VariantStatus(
            name=served.name,
            version=served.variant.version,
            phase=found.phase,
            reason=found.reason,
            weight=weight,
            live_weight=live,
            mirror_weight=mirrored,
            processes=[self._server(process) for process in served.processes],
        )

    def _server(self, process: Process) -> ProcessStatus:
        return self._process(process.program, port=process.port)

    def _process(self, program: str, *, port: int = 0) -> ProcessStatus:
        info = self._infos.get(program)
        if info is None:
            return ProcessStatus(program=program, state="ABSENT", port=port)
        return ProcessStatus(
            program=program,
            state=info.state,
            pid=info.pid,
            port=port,
            memory_bytes=_memory(info.pid),
            restarts=self._restarts.get(program, 0),
            seconds=max(int(time.time()) - info.start, 0) if info.pid else 0,
        )


def _memory(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss) if pid else 0
    except psutil.Error:
        return 0

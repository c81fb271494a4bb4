"""The embedded platform: endpoints on one machine, without Docker and without Kubernetes.

supervisord runs Envoy, a server process for each variant, and the release driver; the desired state is on disk
(state.py). Every change is made by whoever asks for it, under one lock, and makes what runs agree with the state: there
is no daemon of our own that must be alive.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from headway.components.errors import GatewayError, MeasurementError, NotReadyError, ReleaseError
from headway.components.settings import Settings, load_settings
from headway.serving.embedded import condition, measure
from headway.serving.embedded.auth import platform_headers
from headway.serving.embedded.bundles import fetch
from headway.serving.embedded.envoy import PROGRAM as GATEWAY
from headway.serving.embedded.installation import SERVER, Installation
from headway.serving.embedded.ports import HOST, free_port
from headway.serving.embedded.probe import ask_ready, get
from headway.serving.embedded.state import Process, Served, State
from headway.serving.platform import (
    VARIANT_HEADER,
    Address,
    Reading,
    Route,
    Variant,
    VariantState,
)

READY_SECONDS = 120.0
"""How long a server that replaces another may take to become ready."""
_POLL_SECONDS = 0.05
_LOG_LAG = timedelta(seconds=10)
"""A server has written its rows of the payload log by then, also under load."""


class EmbeddedPlatform:
    """Endpoints on this machine; implements `headway.serving.platform.Platform`.

    Args:
        settings: Where the home is; the installation's by default.
        server: How a model server's command line begins, with the options of `headway.serving.server`.
    """

    name = "embedded"

    def __init__(self, settings: Settings | None = None, *, server: Sequence[str] = SERVER) -> None:
        self.settings = settings or load_settings()
        self.installation = Installation(self.settings, server)
        self._store = self.installation.store
        self._layout = self.installation.layout

    def check(self, endpoint: str, route: Route, variants: Sequence[Variant]) -> None:
        """Refuse a route to variants that are not given, and bundles that do not pass the trust gate."""
        known = {variant.name for variant in variants}
        if missing := [name for name in route.needed if name not in known]:
            raise ReleaseError(
                f"The route of {endpoint!r} needs {', '.join(missing)}",
                expected=f"one of the variants {', '.join(sorted(known))}",
            )
        running = self._store.read().endpoint(endpoint)
        for variant in variants:
            served = running.served(variant.name)
            if served is None or served.variant != variant:
                fetch(self.settings, self._layout.bundle(variant.digest), variant)

    def ensure_variant(self, endpoint: str, variant: Variant) -> None:
        """Start a variant's processes, once its bundle passed the trust gate; again, if they had been given up.

        Raises:
            GatewayError: Nothing is up.
            TrustError: The bundle must not be served; nothing was started.
            ReleaseError: Another version is served under this name.
        """
        self.installation.require_up(self._store.read())
        fetch(self.settings, self._layout.bundle(variant.digest), variant)
        with self._store.lock():
            state = self._store.read()
            self.installation.require_up(state)
            there = state.endpoint(endpoint)
            served = there.served(variant.name)
            if served is None:
                state, processes = _new_processes(state, endpoint, variant.name, state.config.replicas)
                served = Served(variant=variant, processes=processes)
                state = state.with_endpoint(endpoint, there.with_served(served))
                self._store.write(state)
            elif served.variant != variant:
                raise ReleaseError(
                    f"{endpoint}/{variant.name} serves version {served.variant.version}",
                    expected=f"the name {variant.name} to be free, or to be version {variant.version}",
                    fix="remove that variant first, or take another name",
                )
            self.installation.realise(state)
            self.installation.revive(state, [process.program for process in served.processes])

    def variant_state(self, endpoint: str, variant: Variant) -> VariantState:
        """READY when at least one of its processes answers with exactly this digest."""
        return condition.variant_state(self.installation, self._store.read(), endpoint, variant)

    def variants(self, endpoint: str) -> list[Variant]:
        """The variants in the order in which they were made."""
        return [served.variant for served in self._store.read().endpoint(endpoint).variants]

    def remove_variant(self, endpoint: str, variant: str) -> None:
        """Wait for its last answers, take it out of the gateway, then end its processes.

        Raises:
            ReleaseError: The live route still sends it traffic.
        """
        self._remove_variants(endpoint, [variant])

    def set_route(self, endpoint: str, route: Route) -> None:
        """Move the weights, when all that get traffic are ready.

        Raises:
            NotReadyError: One of them is not; traffic is unchanged.
            GatewayError: Nothing is up, or Envoy refused the configuration; traffic is unchanged.
        """
        with self._store.lock():
            state = self._store.read()
            self.installation.require_up(state)
            there = state.endpoint(endpoint)
            for name in route.needed:
                self._require_ready(state, endpoint, name)
            wanted = state.with_endpoint(endpoint, there.model_copy(update={"route": route}))
            # Envoy first: what it refuses must not become what is desired.
            self.installation.realise(wanted)
            if wanted != state:
                self._store.write(wanted)

    def route(self, endpoint: str) -> Route | None:
        """The route that live traffic follows."""
        return self._store.read().endpoint(endpoint).route

    def endpoints(self) -> list[str]:
        """The endpoints that have a route or a variant."""
        return sorted(self._store.read().endpoints)

    def remove_endpoint(self, endpoint: str) -> None:
        """Close its paths, then remove its variants as `remove_variant` does."""
        with self._store.lock():
            state = self._store.read()
            there = state.endpoint(endpoint)
            if there.route is not None:
                self.installation.require_up(state)
                state = state.with_endpoint(endpoint, there.model_copy(update={"route": None}))
                self._store.write(state)
                self.installation.realise(state)
        self._remove_variants(endpoint, [variant.name for variant in there.variants])

    def address(self, endpoint: str, variant: str | None = None) -> Address:
        """The gateway; for one variant with the header that names it, and what the platform itself shows there.

        Raises:
            GatewayError: There is no gateway yet.
        """
        state = self._store.read()
        if not state.gateway_port:
            raise GatewayError(f"There is no gateway for {endpoint!r} yet", fix="headway up")
        url = f"http://{HOST}:{state.gateway_port}"
        if variant is None:
            return Address(url=url)
        return Address(url=url, headers={VARIANT_HEADER: variant, **platform_headers(state.auth, self._key(state))})

    def read(self, endpoint: str, variant: str, cursor: str = "") -> Reading:
        """Envoy's counts of the variant's cluster, and each of its servers' own."""
        state = self._store.read()
        served = state.endpoint(endpoint).served(variant)
        if served is None:
            raise MeasurementError(f"{endpoint} has no variant {variant!r}")
        try:
            before = self._identities(state, served)
            now = self._counters(state, endpoint, served, before)
            after = self._identities(state, served)
        except (GatewayError, OSError) as error:
            raise MeasurementError(f"{endpoint}/{variant} cannot be measured: {error}") from None
        if before != after:
            raise MeasurementError(f"{endpoint}/{variant} cannot be measured: a process started again meanwhile")
        return measure.reading(now, cursor)

    def users(self, endpoint: str, since: datetime) -> Mapping[str, int] | None:
        """Distinct users by variant, from the payload log, up to where every server has written its rows."""
        from headway.serving import payloads

        return payloads.users(self.settings, endpoint, since, until=datetime.now(UTC) - _LOG_LAG)

    def restart_variant(self, endpoint: str, variant: str, *, seconds: float = READY_SECONDS) -> None:
        """Replace a variant's processes by new ones without losing a request.

        The new ones start beside the old, join them once they are ready, and then the old ones go.

        Raises:
            NotReadyError: The new ones did not become ready in time; the old ones stay.
            ReleaseError: There is no such variant.
        """
        with self._store.lock():
            state = self._store.read()
            self.installation.require_up(state)
            served = self._require_served(state, endpoint, variant)
            state, fresh = _new_processes(state, endpoint, variant, state.config.replicas, in_service=False)
            # What an interrupted replacement left is not in service, and goes with this change.
            old = [process for process in served.processes if process.in_service]
            state = _with_processes(state, endpoint, served, [*old, *fresh])
            self._store.write(state)
            self.installation.realise(state)
        ready = all(self._wait_ready(process, endpoint, served.variant, seconds) for process in fresh)
        with self._store.lock():
            state = self._store.read()
            served = self._require_served(state, endpoint, variant)
            if ready:
                joined = [process.model_copy(update={"in_service": True}) for process in fresh]
                self.installation.realise(_with_processes(state, endpoint, served, [*old, *joined]))
            kept, gone = (joined, old) if ready else (old, fresh)
            state = _with_leaving(_with_processes(state, endpoint, served, kept), [process.program for process in gone])
            self._store.write(state)
            self.installation.realise(state)
        self.finish_leaving()
        if not ready:
            raise NotReadyError(
                f"{endpoint}/{variant}: the new processes were not ready within {seconds:g} s; the old ones go on",
                fix=f"read {self._layout.log(fresh[0].program)}",
            )

    # ---- refusing

    def _require_ready(self, state: State, endpoint: str, variant: str) -> None:
        served = state.endpoint(endpoint).served(variant)
        if served is None:
            raise NotReadyError(
                f"{endpoint} has no variant {variant!r}",
                expected="every variant that gets traffic to be ready; traffic is unchanged",
            )
        found = condition.variant_state(self.installation, state, endpoint, served.variant)
        if not found.ready:
            raise NotReadyError(
                f"{endpoint}/{variant} is {found.phase}: {found.reason}",
                expected="every variant that gets traffic to be ready; traffic is unchanged",
            )

    def _require_idle(self, state: State, endpoint: str, variants: Sequence[str]) -> None:
        route = state.endpoint(endpoint).route
        if busy := [name for name in variants if route is not None and name in route.needed]:
            raise ReleaseError(
                f"{endpoint}/{', '.join(busy)} still gets traffic",
                expected="a variant that the live route gives nothing",
                fix="move its weight to another variant first",
            )

    def _require_served(self, state: State, endpoint: str, variant: str) -> Served:
        served = state.endpoint(endpoint).served(variant)
        if served is None:
            known = ", ".join(each.name for each in state.endpoint(endpoint).variants) or "none"
            raise ReleaseError(f"{endpoint} has no variant {variant!r}", expected=f"one of its variants: {known}")
        return served

    def _key(self, state: State) -> str:
        return "" if state.auth == "off" else self.installation.key

    # ---- removing and waiting

    def _remove_variants(self, endpoint: str, names: Sequence[str]) -> None:
        state = self._store.read()
        if present := [name for name in names if state.endpoint(endpoint).served(name)]:
            self._require_idle(state, endpoint, present)
            self.installation.require_up(state)
            for name in present:
                self._wait_for_answers(state, endpoint, name)
            with self._store.lock():
                state = self._store.read()
                self._require_idle(state, endpoint, present)
                there = state.endpoint(endpoint)
                for served in filter(None, map(there.served, present)):
                    there = there.without(served.name)
                    state = _with_leaving(state, [process.program for process in served.processes])
                state = state.with_endpoint(endpoint, there)
                self._store.write(state)
                self.installation.realise(state)
        self.finish_leaving()

    def _wait_ready(self, process: Process, endpoint: str, variant: Variant, seconds: float) -> bool:
        return _wait(lambda: ask_ready(process.port, endpoint, variant.digest).ready, seconds)

    def _wait_for_answers(self, state: State, endpoint: str, variant: str) -> None:
        """Wait until a variant has answered what it was asked, at most as long as a request may take."""
        envoy = self.installation.envoy(state)
        _wait(lambda: envoy.active_requests(endpoint, variant) == 0, state.config.request_timeout_seconds)

    def finish_leaving(self) -> None:
        """End the processes that get no more requests: ours, and those that a crash left."""
        state = self._store.read()
        if not state.leaving:
            return
        time.sleep(state.config.drain_seconds)
        supervisor = self.installation.supervisor(state)
        supervisor.stop(state.leaving)
        with self._store.lock():
            now = self._store.read()
            left = [program for program in now.leaving if program not in state.leaving]
            self._store.write(now.model_copy(update={"leaving": left}))

    # ---- measuring

    def _identities(self, state: State, served: Served) -> dict[str, str]:
        infos = self.installation.supervisor(state).programs()
        wanted = [GATEWAY, *(process.program for process in served.processes if process.in_service)]
        missing = [name for name in wanted if name not in infos or not infos[name].pid]
        if missing:
            raise GatewayError(f"{', '.join(missing)} does not run")
        return {name: infos[name].identity for name in wanted}

    def _counters(self, state: State, endpoint: str, served: Served, identities: Mapping[str, str]) -> measure.Cursor:
        pattern = quote(measure.gateway_pattern(endpoint, served.name))
        text = self.installation.envoy(state).ask(f"/stats/prometheus?filter={pattern}")
        servers = {}
        for process in served.processes:
            if process.in_service:
                status, metrics = get(process.port, "/metrics")
                if status != 200:
                    raise GatewayError(f"{process.program} gave {status} for its metrics")
                servers[process.program] = measure.parse_server(metrics, identities[process.program])
        return measure.Cursor(gateway=measure.parse_gateway(text, identities[GATEWAY]), servers=servers)


def _wait(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _new_processes(
    state: State, endpoint: str, variant: str, count: int, *, in_service: bool = True
) -> tuple[State, list[Process]]:
    """Processes that were never there before, on free ports, and the state that knows their numbers."""
    taken, found = set(state.ports), []
    for number in range(state.next_process, state.next_process + count):
        port = free_port(taken)
        taken.add(port)
        found.append(Process(program=f"server-{endpoint}-{variant}-{number}", port=port, in_service=in_service))
    return state.model_copy(update={"next_process": state.next_process + count}), found


def _with_processes(state: State, endpoint: str, served: Served, processes: Sequence[Process]) -> State:
    changed = served.model_copy(update={"processes": list(processes)})
    return state.with_endpoint(endpoint, state.endpoint(endpoint).with_served(changed))


def _with_leaving(state: State, programs: Sequence[str]) -> State:
    return state.model_copy(update={"leaving": [*state.leaving, *programs]})

"""Up and down: starting what the desired state says, health-gated, and stopping it."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from headway.components.config import Config
from headway.components.errors import GatewayError, HeadwayError, NotReadyError
from headway.components.settings import Settings
from headway.serving.embedded import ports
from headway.serving.embedded.auth import AuthConfig
from headway.serving.embedded.platform import READY_SECONDS, EmbeddedPlatform
from headway.serving.embedded.state import EndpointState, Process, Served, State
from headway.serving.embedded.supervisor import end, orphans
from headway.serving.platform import Variant

GATEWAY_SECONDS = 30.0
_DRAIN_SECONDS = 5.0
_POLL_SECONDS = 0.05
_RENDERED = ("state.json", "supervisord.conf", "supervisord.pid", "envoy.json", "key", "lock")
_RENDERED_FOLDERS = ("programs", "xds", "bundles", "logs", "run")

Tell = Callable[[str], None]


class UpResult(Config):
    """What `up` did."""

    document: ClassVar[str] = "result"

    url: str
    """The gateway's."""
    changes: list[str]
    """What was not so before; empty when all was up already."""


def _silently(_: str) -> None:
    pass


def up(platform: EmbeddedPlatform, *, tell: Tell = _silently) -> UpResult:
    """Start what the desired state says.

    Calling it again changes nothing. After a crash or a reboot it brings back endpoints, variants and routes as they
    were. It reads `gateway.yaml` and `auth.yaml`.

    Args:
        platform: The platform.
        tell: Gets one line for each step.

    Raises:
        GatewayError: A port is taken, or gateway or supervisor did not come up.
        NotReadyError: A variant that gets traffic did not become ready.
        ConfigError: `gateway.yaml` or `auth.yaml` is wrong; nothing was changed.
    """
    changes = _start(platform, tell)
    _wait_for_gateway(platform)
    url = platform.address("").url
    tell(f"gateway ready on {url}")
    for endpoint in platform.endpoints():
        _wait_for_endpoint(platform, endpoint, tell)
    return UpResult(url=url, changes=changes)


def down(platform: EmbeddedPlatform, *, purge: bool = False) -> list[str]:
    """Stop everything; endpoints, variants and routes stay on disk for the next `up`. Calling it again changes nothing.

    Args:
        platform: The platform.
        purge: Also remove the serving state, logs, bundles and payload log. The registry, and what people wrote
            (`gateway.yaml`, `auth.yaml`), stay.

    Returns:
        What was done, in words.
    """
    installation = platform.installation
    done: list[str] = []
    if not installation.layout.root.is_dir():
        return done
    with installation.store.lock():
        state = installation.store.read()
        supervisor = installation.supervisor(state)
        if supervisor.running():
            _drain(platform, state)
            supervisor.shutdown()
            done.append("stopped gateway, driver and servers")
        if left := orphans(state.id):
            end(left)
            done.append(f"ended {len(left)} processes that a crash had left")
        installation.remove_sockets(state)
        if state.sockets:
            installation.store.write(state.model_copy(update={"sockets": ""}))
        if purge:
            done += _purge(platform)
    return done


# ---- starting


def _start(platform: EmbeddedPlatform, tell: Tell) -> list[str]:
    """Bring up supervisor, gateway and servers, or what of them is missing."""
    installation = platform.installation
    with installation.store.lock():
        before = installation.store.read()
        auth, config = installation.load_auth(), installation.load_config()
        state = before.model_copy(update={"config": config, "auth": auth.kind})
        running = installation.supervisor(before).running()
        state = _with_gateway_port(platform.settings, state, running=running)
        changes = _converge(platform, before, state, auth) if running else _start_afresh(platform, state, auth, tell)
    _stop_leftovers(platform)
    return changes


def _start_afresh(platform: EmbeddedPlatform, state: State, auth: AuthConfig, tell: Tell) -> list[str]:
    installation = platform.installation
    if left := orphans(state.id):
        tell(f"ending {len(left)} processes that a crash left")
        end(left)
    ports.require_free(state.gateway_port)
    state = _with_free_ports(_without_leftovers(installation.make_sockets(state)))
    installation.store.write(state)  # before anything can fail: `down` removes what is written there
    envoy, supervisor = installation.envoy(state), installation.supervisor(state)
    envoy.write(envoy.wanted(state, auth, installation.key))
    installation.define(state)
    tell("starting supervisor, gateway and servers")
    supervisor.start(installation.environment(state))
    return ["started supervisor, gateway and servers"]


def _converge(platform: EmbeddedPlatform, before: State, state: State, auth: AuthConfig) -> list[str]:
    """Change what differs on a running platform, and start again what was given up."""
    installation = platform.installation
    if state.gateway_port != before.gateway_port:
        ports.require_free(state.gateway_port)
    changes = [f"changed {what}" for what in installation.realise(state, auth)]
    if state != before:
        installation.store.write(state)
    lost = installation.revive(state, [program.name for program in installation.programs(state)])
    return changes + [f"started {name} again" for name in lost]


def _with_gateway_port(settings: Settings, state: State, *, running: bool) -> State:
    """The port that the settings name; 0 keeps the one that there is, or takes a free one."""
    port = settings.gateway_port or state.gateway_port
    if not port or (not settings.gateway_port and not running and not ports.is_free(port)):
        port = ports.free_port(state.ports)
    return state.model_copy(update={"gateway_port": port})


def _without_leftovers(state: State) -> State:
    """Without processes that nobody had put into service, and those that were on their way out."""
    state = state.model_copy(update={"leaving": []})
    return _with_each_process(state, lambda process: process if process.in_service else None)


def _with_free_ports(state: State) -> State:
    """With another port for each process whose port was taken meanwhile."""
    taken = set(state.ports)

    def moved(process: Process) -> Process:
        if ports.is_free(process.port):
            return process
        port = ports.free_port(taken)
        taken.add(port)
        return process.model_copy(update={"port": port})

    return _with_each_process(state, moved)


def _with_each_process(state: State, change: Callable[[Process], Process | None]) -> State:
    def changed(served: Served) -> Served:
        processes = [new for process in served.processes if (new := change(process))]
        return served.model_copy(update={"processes": processes})

    def each(endpoint: EndpointState) -> EndpointState:
        return endpoint.model_copy(update={"variants": [changed(served) for served in endpoint.variants]})

    return state.model_copy(update={"endpoints": {name: each(endpoint) for name, endpoint in state.endpoints.items()}})


def _stop_leftovers(platform: EmbeddedPlatform) -> None:
    """End the processes that an interrupted removal or replacement left."""
    installation = platform.installation
    if installation.store.read().leaving:
        platform.finish_leaving()


# ---- waiting


def _wait_for_gateway(platform: EmbeddedPlatform) -> None:
    installation = platform.installation
    envoy = installation.envoy(installation.store.read())
    deadline = time.monotonic() + GATEWAY_SECONDS
    while not envoy.live():
        if time.monotonic() > deadline:
            log = installation.layout.log("envoy")
            raise GatewayError(f"The gateway is not ready after {GATEWAY_SECONDS:g} s", fix=f"read {log}")
        time.sleep(_POLL_SECONDS)


def _wait_for_endpoint(platform: EmbeddedPlatform, endpoint: str, tell: Tell) -> None:
    route = platform.route(endpoint)
    variants = {variant.name: variant for variant in platform.variants(endpoint)}
    for name in route.needed if route else []:
        if name in variants:
            _wait_ready(platform, endpoint, variants[name])
            tell(f"{endpoint}/{name} ready")


def _wait_ready(platform: EmbeddedPlatform, endpoint: str, variant: Variant) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not (state := platform.variant_state(endpoint, variant)).ready:
        if time.monotonic() > deadline or state.phase == "failed":
            raise NotReadyError(
                f"{endpoint}/{variant.name} is {state.phase}: {state.reason}",
                fix=f"read the logs in {platform.installation.layout.logs}; `headway up` tries again",
            )
        time.sleep(_POLL_SECONDS)


# ---- stopping


def _drain(platform: EmbeddedPlatform, state: State) -> None:
    """Take no new requests, and let those answer that are under way."""
    envoy = platform.installation.envoy(state)
    try:
        envoy.ask("/drain_listeners?inboundonly", method="POST")
        deadline = time.monotonic() + _DRAIN_SECONDS
        while sum(envoy.stats("^http.gateway.downstream_rq_active$").values()) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    except HeadwayError:
        return  # an Envoy that does not answer has nothing to drain


def _purge(platform: EmbeddedPlatform) -> list[str]:
    from headway.serving import payloads

    layout = platform.installation.layout
    for name in _RENDERED:
        (layout.root / name).unlink(missing_ok=True)
    for folder in [*(layout.root / name for name in _RENDERED_FOLDERS), payloads.folder(platform.settings)]:
        shutil.rmtree(folder, ignore_errors=True)
    return [f"removed the serving state in {layout.root} and the payload log"]


def purged_folders(settings: Settings) -> list[Path]:
    """What `down --purge` removes, to be shown before it is asked."""
    from headway.serving import payloads

    home = settings.home.expanduser().resolve()
    return [home / "serving", payloads.folder(settings)]

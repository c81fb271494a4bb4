"""What shall be served on this machine, on disk: endpoints, variants, processes, routes, ports.

`<home>/serving/state.json` is the desired state. Command line, notebook and release driver all change it, one after the
other: under `Store.lock`, and atomically, so that a reader sees one state or the next.

    serving/
      state.json  lock           the desired state and its lock
      gateway.yaml  auth.yaml    what people write
      key                        what the platform's own checks show at the gateway
      bundles/DIGEST             bundles that passed the trust gate
      supervisord.conf  programs/  envoy.json  xds/   what is rendered from the state
      logs/
"""

import contextlib
import fcntl
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from headway.components.config import Config
from headway.components.errors import GatewayError
from headway.serving.embedded.config import GatewayConfig
from headway.serving.platform import Route, Variant

_LOCK_SECONDS = 60
_PRIVATE = 0o700


class Process(Config):
    """One server process of a variant."""

    program: str
    """The supervisor's name for it; never used twice."""
    port: int
    in_service: bool = True
    """Whether the gateway sends it requests; one that shall replace another waits until it is ready."""


class Served(Config):
    """A variant as it is served here."""

    variant: Variant
    processes: list[Process]

    @property
    def name(self) -> str:
        """The variant's name."""
        return self.variant.name

    @property
    def ports(self) -> list[int]:
        """Where those listen that get requests."""
        return [process.port for process in self.processes if process.in_service]


class EndpointState(Config):
    """What one endpoint shall be."""

    variants: list[Served] = []
    """In the order in which they were made."""
    route: Route | None = None

    def served(self, variant: str) -> Served | None:
        """One variant, if it is there."""
        return next((each for each in self.variants if each.name == variant), None)

    def with_served(self, served: Served) -> "EndpointState":
        """The same with one variant added or replaced."""
        if self.served(served.name) is None:
            return self.model_copy(update={"variants": [*self.variants, served]})
        variants = [served if each.name == served.name else each for each in self.variants]
        return self.model_copy(update={"variants": variants})

    def without(self, variant: str) -> "EndpointState":
        """The same without one variant."""
        return self.model_copy(update={"variants": [each for each in self.variants if each.name != variant]})


class State(Config):
    """All that shall be."""

    document: ClassVar[str] = "serving state"

    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    """Marks the processes of this installation."""
    gateway_port: int = 0
    """0 until the gateway was first started."""
    sockets: str = ""
    """The folder of the unix sockets; empty while it is not up."""
    config: GatewayConfig = GatewayConfig()
    """As `headway up` last read it: an edited file changes nothing before."""
    auth: Literal["off", "jwt", "api_keys"] = "off"
    endpoints: dict[str, EndpointState] = {}
    leaving: list[str] = []
    """Programs that get no more requests and shall be stopped once their last ones are answered."""
    next_process: int = 1

    def endpoint(self, name: str) -> EndpointState:
        """One endpoint, empty if it is not there."""
        return self.endpoints.get(name, EndpointState())

    def with_endpoint(self, name: str, endpoint: EndpointState) -> "State":
        """The same with one endpoint replaced; one without variants and route is no endpoint."""
        others = {each: state for each, state in self.endpoints.items() if each != name}
        if endpoint.variants or endpoint.route:
            others[name] = endpoint
        return self.model_copy(update={"endpoints": dict(sorted(others.items()))})

    @property
    def ports(self) -> set[int]:
        """All ports that are spoken for."""
        served = [each for endpoint in self.endpoints.values() for each in endpoint.variants]
        taken = {process.port for each in served for process in each.processes}
        return taken | ({self.gateway_port} if self.gateway_port else set())


@dataclass(frozen=True)
class Layout:
    """Where everything of the embedded platform lies."""

    home: Path
    """Absolute."""

    @property
    def root(self) -> Path:
        """The folder of all of it."""
        return self.home / "serving"

    @property
    def state(self) -> Path:
        """The desired state."""
        return self.root / "state.json"

    @property
    def logs(self) -> Path:
        """Logs of all programs, rotated."""
        return self.root / "logs"

    @property
    def programs(self) -> Path:
        """One file of the supervisor's for each program."""
        return self.root / "programs"

    @property
    def xds(self) -> Path:
        """Envoy's dynamic configuration, a folder for each type: Envoy watches folders."""
        return self.root / "xds"

    def bundle(self, digest: str) -> Path:
        """A bundle that passed the trust gate."""
        return self.root / "bundles" / digest

    def log(self, program: str) -> Path:
        """A program's log."""
        return self.logs / f"{program}.log"


class Store:
    """The desired state on disk.

    Args:
        layout: Where it lies.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def read(self) -> State:
        """The state as it is now.

        Raises:
            GatewayError: The file is damaged.
        """
        try:
            text = self.layout.state.read_text(encoding="utf-8")
        except FileNotFoundError:
            return State()
        try:
            return State.model_validate_json(text)
        except ValueError as error:
            raise GatewayError(
                f"{self.layout.state}: not a serving state: {str(error).splitlines()[0]}",
                fix="move it away and start the endpoints again with `headway up MODEL`",
            ) from None

    def write(self, state: State) -> None:
        """Make this the state. The caller holds the lock."""
        write_atomically(self.layout.state, state.model_dump_json(indent=1) + "\n")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else changes the state while this lasts.

        Raises:
            GatewayError: Somebody else has held the lock for a minute.
        """
        self.layout.root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
        handle = os.open(self.layout.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _acquire(handle, self.layout.root / "lock")
            yield
        finally:
            os.close(handle)


def write_atomically(path: Path, text: str, *, via: Path | None = None) -> None:
    """Write a file whole or not at all, for this user only; makes the folder.

    Args:
        path: The file.
        text: What it shall hold.
        via: Where the temporary file is made, on the same file system, when the file's own folder is watched.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    place = via or path.parent
    place.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    handle, temporary = tempfile.mkstemp(dir=place, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _acquire(handle: int, path: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = path.read_text(encoding="utf-8").strip()
                raise GatewayError(
                    f"Process {holder} has been changing what is served for {_LOCK_SECONDS} s",
                    fix=f"wait for it, or end it (kill {holder}): the next change goes on from where it stopped",
                ) from None
            time.sleep(0.02)
        else:
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
            return

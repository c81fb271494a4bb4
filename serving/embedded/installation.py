"""One installation of the embedded platform: its folders, its programs, and making what runs agree with the state."""

import importlib.util
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from headway.components.errors import GatewayError
from headway.components.settings import ENV_PREFIX, Settings
from headway.components.signing import write_once
from headway.serving.embedded.auth import AuthConfig, load_auth
from headway.serving.embedded.config import GatewayConfig
from headway.serving.embedded.envoy import Envoy
from headway.serving.embedded.ports import HOST
from headway.serving.embedded.state import Layout, Process, Served, State, Store
from headway.serving.embedded.supervisor import MARK, Program, Supervisor
from headway.serving.embedded.unix_http import LONGEST_SOCKET

SERVER = (sys.executable, "-m", "headway.serving.server")
"""How a model server's command line begins."""
DRIVER = "release"
"""The program that drives releases."""
_DRIVER_MODULE = "headway.serving.release"
_SERVER_START_SECONDS = 10
_SERVER_START_RETRIES = 3
_DRIVER_START_RETRIES = 1_000
_LONGEST_NAME = len("supervisor.sock.1234567")
"""The longest file name in the folder of the sockets: the supervisor makes one with its process id first."""


class Installation:
    """What the platform's parts share.

    Args:
        settings: The installation's settings.
        server: How a model server's command line begins.
    """

    def __init__(self, settings: Settings, server: Sequence[str] = SERVER) -> None:
        self.settings = settings
        self.layout = Layout(settings.home.expanduser().resolve())
        self.store = Store(self.layout)
        self._server = tuple(server)

    # ---- its parts

    def supervisor(self, state: State) -> Supervisor:
        """The supervisor, running or not."""
        return Supervisor(self.layout, state.sockets)

    def envoy(self, state: State) -> Envoy:
        """The gateway, running or not."""
        return Envoy(self.layout, state.sockets)

    def load_config(self) -> GatewayConfig:
        """What `gateway.yaml` says now."""
        path = self.layout.root / "gateway.yaml"
        return GatewayConfig.load(path) if path.exists() else GatewayConfig()

    def load_auth(self) -> AuthConfig:
        """What `auth.yaml` says now."""
        return load_auth(self.layout.root / "auth.yaml")

    @cached_property
    def key(self) -> str:
        """What the platform's own requests show at a gateway that asks who is calling."""
        return write_once(self.layout.root / "key", secrets.token_hex(32).encode(), mode=0o600).decode()

    def require_up(self, state: State) -> None:
        """Refuse while nothing runs.

        Raises:
            GatewayError: The supervisor does not answer.
        """
        if not self.supervisor(state).running():
            raise GatewayError(f"Nothing is up in {self.layout.home}", fix="headway up")

    # ---- programs

    def programs(self, state: State) -> list[Program]:
        """All that shall run, but for what is leaving."""
        found = [self.envoy(state).program(state.config)]
        if importlib.util.find_spec(f"{_DRIVER_MODULE}.__main__"):
            command = [sys.executable, "-m", _DRIVER_MODULE]
            found.append(Program(name=DRIVER, command=command, start_seconds=1, start_retries=_DRIVER_START_RETRIES))
        for name, endpoint in state.endpoints.items():
            for served in endpoint.variants:
                found += [self._server_program(name, served, process, state.config) for process in served.processes]
        return found

    def environment(self, state: State) -> dict[str, str]:
        """What all programs get: this process's environment, with exactly these settings and the installation's mark.

        A setting that a flag or a file gave is passed on; the file itself is not, for programs start elsewhere.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        given = {
            f"{ENV_PREFIX}{name.upper()}": _as_text(getattr(self.settings, name))
            for name, field in Settings.model_fields.items()
            if getattr(self.settings, name) != field.default
        }
        given[f"{ENV_PREFIX}HOME"] = str(self.layout.home)
        threads = {name: inherited.get(name, "1") for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        return {**inherited, **given, **threads, "PYTHONUNBUFFERED": "1", MARK: state.id}

    def realise(self, state: State, auth: AuthConfig | None = None) -> list[str]:
        """Make programs and gateway follow a state; give back what changed, in words.

        Args:
            state: What shall be.
            auth: Who may call; None leaves the listener as it is.

        Raises:
            GatewayError: The supervisor does not answer, or Envoy refused something.
        """
        supervisor, envoy = self.supervisor(state), self.envoy(state)
        stale = self.define(state) or set(supervisor.programs()) != set(supervisor.defined())
        changed = [f"program {name}" for name in supervisor.sync()] if stale else []
        wanted = envoy.wanted(state, auth, self.key if auth else "")
        return changed + (["gateway"] if envoy.apply(wanted) else [])

    def define(self, state: State) -> bool:
        """Write the supervisor's files of all programs, remove those of programs that are gone; say if any changed."""
        supervisor = self.supervisor(state)
        programs = self.programs(state)
        changed = [supervisor.define(program) for program in programs]
        gone = set(supervisor.defined()) - {program.name for program in programs} - set(state.leaving)
        for name in gone:
            supervisor.forget(name)
        return any(changed) or bool(gone)

    def revive(self, state: State, names: Iterable[str]) -> list[str]:
        """Start programs that the supervisor has given up; say which."""
        supervisor = self.supervisor(state)
        infos = supervisor.programs()
        lost = [name for name in names if name in infos and infos[name].given_up]
        for name in lost:
            supervisor.revive(name)
        return lost

    def _server_program(self, endpoint: str, served: Served, process: Process, config: GatewayConfig) -> Program:
        variant = served.variant
        options = {
            "bundle": str(self.layout.bundle(variant.digest)),
            "name": endpoint,
            "endpoint": endpoint,
            "variant": variant.name,
            "version": str(variant.version),
            "digest": variant.digest,
            "host": HOST,
            "port": str(process.port),
            "payload-log": str(self.layout.home / "payloads"),
            "max-body": str(config.max_request_bytes),
            "timeout": f"{config.request_timeout_seconds:g}",
            **({"score-edges": json.dumps(variant.score_edges)} if variant.score_edges else {}),
            **config.server_options,
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return Program(
            name=process.program,
            command=[*self._server, *flags],
            start_seconds=_SERVER_START_SECONDS,
            start_retries=_SERVER_START_RETRIES,
        )

    # ---- sockets

    def make_sockets(self, state: State) -> State:
        """The state with a folder for unix sockets that exists, is ours, and whose path is short enough."""
        if state.sockets and _is_ours(Path(state.sockets)):
            return state
        folder = self.layout.root / "run"
        if len(os.fsencode(folder)) + 1 + _LONGEST_NAME <= LONGEST_SOCKET:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        else:
            folder = Path(tempfile.mkdtemp(prefix="headway-", dir="/tmp"))
        return state.model_copy(update={"sockets": str(folder)})

    def remove_sockets(self, state: State) -> None:
        """Remove the folder of the sockets."""
        if state.sockets:
            shutil.rmtree(state.sockets, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid()


def _as_text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    return str(value)

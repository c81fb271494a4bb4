"""supervisord, which keeps the programs running: its configuration, and talking to it over its unix socket.

Each program is a file in `programs/`. `sync` makes what runs agree with the files, as `supervisorctl update` does, and
leaves alone what did not change.
"""

import contextlib
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.errors import ConfigError, GatewayError
from headway.serving.embedded.state import Layout, write_atomically
from headway.serving.embedded.unix_http import UnixConnection

MARK = "_HEADWAY_SERVING"
"""The environment variable that marks every process of an installation; its value is the state's id."""
STOP_SECONDS = 40
"""How long a program may take to end after SIGTERM; then it is killed."""
_RPC_SECONDS = STOP_SECONDS + 20
_START_SECONDS = 20
_POLL_SECONDS = 0.02
_FILES = 8_192
_BREAKS = re.compile(r"[\r\n]|\s[;#]")
_SOCKET = "supervisor.sock"
_SPAWNED = re.compile(r"INFO spawned: '([^']+)' with pid \d+")
_BEGUN = "INFO supervisord started with pid"


@dataclass(frozen=True, kw_only=True)
class Program:
    """Something that shall run."""

    name: str
    command: Sequence[str]
    start_seconds: int
    """One that ends sooner than this did not start; one that ends later crashed and is started again at once."""
    start_retries: int
    """After so many failed starts in a row, with growing pauses, it is given up."""


@dataclass(frozen=True, kw_only=True)
class ProgramInfo:
    """What the supervisor says of a program."""

    name: str
    state: str
    """`STARTING`, `RUNNING`, `BACKOFF`, `STOPPING`, `EXITED`, `FATAL`, `STOPPED`, `UNKNOWN`."""
    pid: int
    """0 when it does not run."""
    start: int
    """When it was started last, in seconds since 1970."""
    problem: str
    """Why it could not be started."""

    @property
    def identity(self) -> str:
        """Changes with every start."""
        return f"{self.pid}@{self.start}"

    @property
    def given_up(self) -> bool:
        """Whether nothing will start it again by itself."""
        return self.state in ("FATAL", "EXITED", "STOPPED", "UNKNOWN")


class Supervisor:
    """The supervisor of one installation.

    Args:
        layout: Where everything lies.
        sockets: The folder of the unix sockets.
    """

    def __init__(self, layout: Layout, sockets: str) -> None:
        self.layout = layout
        self.socket = Path(sockets) / _SOCKET if sockets else None

    # ---- its life

    def running(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.call("getState")["statename"] == "RUNNING")
        except GatewayError:
            return False

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it as a daemon, with the programs that have a file.

        Args:
            environment: What it and all its programs get.

        Raises:
            GatewayError: It did not come up; carries what it said.
        """
        conf = self._write_conf()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)]
        done = subprocess.run(
            command, env=dict(environment), cwd=self.layout.root, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise GatewayError(f"The supervisor did not start: {(done.stderr or done.stdout).strip()[-500:]}")
        deadline = time.monotonic() + _START_SECONDS
        while not self.running():
            if time.monotonic() > deadline:
                raise GatewayError(
                    f"The supervisor does not answer after {_START_SECONDS} s",
                    fix=f"read {self.layout.log('supervisord')}",
                )
            time.sleep(_POLL_SECONDS)

    def shutdown(self) -> None:
        """Stop all programs, then the supervisor itself."""
        pid = int(self.call("getPID"))
        # By itself it would stop one after the other, a second each.
        self.call("stopAllProcesses", False)
        self._wait_for_end(self.programs())
        self.call("shutdown")
        deadline = time.monotonic() + _RPC_SECONDS
        while _alive(pid) and time.monotonic() < deadline:
            self.running()  # to be asked wakes it: else it looks about itself once a second
            time.sleep(_POLL_SECONDS)

    # ---- its programs

    def define(self, program: Program) -> bool:
        """Write a program's file, if it is not the same already; say whether it was not."""
        path = self.layout.programs / f"{program.name}.ini"
        text = self._program_text(program)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
        write_atomically(path, text)
        return True

    def forget(self, name: str) -> None:
        """Remove a program's file."""
        (self.layout.programs / f"{name}.ini").unlink(missing_ok=True)

    def defined(self) -> list[str]:
        """All programs that have a file."""
        return sorted(path.stem for path in self.layout.programs.glob("*.ini"))

    def sync(self) -> list[str]:
        """Make what runs agree with the files; give back the names of what was started, stopped or changed.

        Raises:
            GatewayError: The supervisor does not answer, or refuses a file.
        """
        added, changed, removed = self.call("reloadConfig")[0]
        for name in [*changed, *removed]:
            self._remove(name)
        for name in [*added, *changed]:
            self.call("addProcessGroup", name, ignore=("ALREADY_ADDED",))
        return [*added, *changed, *removed]

    def stop(self, names: Sequence[str]) -> None:
        """Stop programs, all at once, and forget them; return once they have ended. One that is gone is no error."""
        for name in names:
            self.forget(name)
            self.call("stopProcessGroup", name, False, ignore=("BAD_NAME",))
        self._wait_for_end(names)
        for name in names:
            self._remove(name)

    def revive(self, name: str) -> None:
        """Start a program that was given up."""
        self.call("startProcess", name, False, ignore=("ALREADY_STARTED", "SPAWN_ERROR", "BAD_NAME"))

    def programs(self) -> dict[str, ProgramInfo]:
        """All programs by name.

        Raises:
            GatewayError: The supervisor does not answer.
        """
        return {
            info["name"]: ProgramInfo(
                name=info["name"],
                state=info["statename"],
                pid=info["pid"],
                start=info["start"],
                problem=info["spawnerr"],
            )
            for info in self.call("getAllProcessInfo")
        }

    def restarts(self) -> dict[str, int]:
        """How often each program was started again since the supervisor came up, as far as its log reaches back."""
        counts: dict[str, int] = {}
        log = self.layout.log("supervisord")
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        for line in lines:
            if _BEGUN in line:
                counts.clear()
            elif found := _SPAWNED.search(line):
                counts[found[1]] = counts.get(found[1], 0) + 1
        return {name: count - 1 for name, count in counts.items()}

    def call(self, method: str, *arguments: Any, ignore: Sequence[str] = ()) -> Any:
        """Call the supervisor.

        Args:
            method: A method of its `supervisor` namespace.
            *arguments: Its arguments.
            ignore: Faults that are no error here, by name; then the result is None.

        Raises:
            GatewayError: It cannot be reached, or says no.
        """
        import xmlrpc.client

        from supervisor.xmlrpc import Faults, getFaultDescription

        if self.socket is None:
            raise GatewayError("Nothing is up", fix="headway up")
        try:
            with self._proxy() as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if any(fault.faultCode == getattr(Faults, name) for name in ignore):
                return None
            raise GatewayError(
                f"The supervisor refused {method}: {fault.faultString or getFaultDescription(fault.faultCode)}"
            ) from None
        except (OSError, xmlrpc.client.ProtocolError) as error:
            raise GatewayError(f"The supervisor does not answer: {error}", fix="headway up") from None

    @contextlib.contextmanager
    def _proxy(self) -> Iterator[Any]:
        import xmlrpc.client

        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(serverurl=f"unix://{self.socket}")
        # Its own connections wait for ever.
        transport._get_connection = lambda: UnixConnection(Path(str(self.socket)), _RPC_SECONDS)
        try:
            yield xmlrpc.client.ServerProxy("http://localhost", transport=transport)
        finally:
            transport.close()

    def _wait_for_end(self, names: Collection[str]) -> None:
        deadline = time.monotonic() + STOP_SECONDS + 10
        while any(name in names and info.pid for name, info in self.programs().items()):
            if time.monotonic() > deadline:
                raise GatewayError(f"Not all of {', '.join(names)} ended within {STOP_SECONDS + 10} s")
            time.sleep(_POLL_SECONDS)

    def _remove(self, name: str) -> None:
        self.call("stopProcessGroup", name, ignore=("BAD_NAME",))
        self.call("removeProcessGroup", name, ignore=("BAD_NAME",))

    # ---- its files

    def _write_conf(self) -> Path:
        for folder in (self.layout.logs, self.layout.programs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        files = _FILES if most == resource.RLIM_INFINITY else min(_FILES, most)
        path = self.layout.root / "supervisord.conf"
        text = f"""\
[unix_http_server]
file = {_escaped(self.socket)}
chmod = 0600

[supervisord]
identifier = headway
directory = .
logfile = logs/supervisord.log
logfile_maxbytes = 10MB
logfile_backups = 3
childlogdir = logs
pidfile = supervisord.pid
umask = 077
minfds = {files}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[include]
files = programs/*.ini
"""
        write_atomically(path, text)
        return path

    def _program_text(self, program: Program) -> str:
        return f"""\
[program:{program.name}]
command = {" ".join(_escaped(shlex.quote(part)) for part in program.command)}
autorestart = true
startsecs = {program.start_seconds}
startretries = {program.start_retries}
stopsignal = TERM
stopwaitsecs = {STOP_SECONDS}
stopasgroup = false
killasgroup = true
redirect_stderr = true
stdout_logfile = logs/{program.name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 3
"""


def orphans(mark: str) -> list[int]:
    """Processes that carry an installation's mark: what a killed supervisor left behind."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process.pid)
    return found


def end(pids: Sequence[int]) -> None:
    """End processes, gently first."""
    for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        for pid in filter(_alive, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while any(map(_alive, pids)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that its parent did not ask for yet does not."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _escaped(value: Any) -> str:
    """A value as supervisord reads it back; what would start a comment there cannot be written."""
    text = str(value)
    if _BREAKS.search(text):
        raise ConfigError(
            f"supervisord cannot read the path {text!r}",
            expected="a home without line breaks, ` ;` and ` #` in its name",
            fix="set HEADWAY_HOME to another folder",
        )
    return text.replace("%", "%%")

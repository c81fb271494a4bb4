"""A training job as processes of this machine: torchrun in a process group of its own, watched by its heartbeats.

Inside a step of a pipeline this machine is the step's pod, which may have several GPUs.
"""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.errors import ConfigError, TrainingError
from headway.components.settings import Settings
from headway.components.train.fit import available_threads
from headway.components.train_distributed.causes import read_cause
from headway.components.train_distributed.job import RESULT, STOPPED, Heartbeat, Job, Progress, Result
from headway.components.train_distributed.launch import (
    GRACE,
    MOST_CPU_PROCESSES,
    TAIL,
    Watch,
    rank_environment,
    trainer_command,
)
from headway.components.train_distributed.spec import Placement

ERROR_FILE, LOG = "error.json", "log.txt"
_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")
"""Device files of NVIDIA's and AMD's drivers, and of GPUs under WSL."""
_POLL = 0.2
_START = 120.0
"""Seconds that ranks have to load torch and find each other, whatever their patience later."""
_GOODBYE = 10.0
_STACKS = 2.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a machine is divided among the ranks on it."""

    processes: int
    threads: int
    """OpenMP threads of each."""

    @classmethod
    def of(cls, placement: Placement) -> "Machine":
        """This machine's division.

        Raises:
            ConfigError: GPUs are wanted, and there are none or too few.
        """
        cores = available_threads()
        gpus = 0 if placement.accelerator == "cpu" else count_gpus()
        if placement.accelerator == "gpu" and not gpus:
            raise ConfigError("The placement wants GPUs, and torch finds none", fix="set `accelerator: cpu`")
        if gpus and placement.processes > gpus:
            raise ConfigError(
                f"The placement wants {placement.processes} processes", expected=f"one for each of {gpus} GPUs"
            )
        processes = placement.processes or gpus or min(cores, MOST_CPU_PROCESSES)
        return cls(processes=processes, threads=placement.threads or max(1, cores // processes))


def count_gpus() -> int:
    """GPUs that torch can use here."""
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in _GPU_DEVICES):
        return 0  # known without loading torch, which takes seconds
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def launcher(settings: Settings) -> "TorchrunLauncher":
    """The launcher of this machine."""
    return TorchrunLauncher(settings)


class TorchrunLauncher:
    """Runs a job as processes of this machine, in this interpreter's environment.

    Args:
        settings: Where MLflow is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def run(self, job: Job, watch: Watch) -> Result:
        """Run a job to its end; see `Launcher.run`."""
        if importlib.util.find_spec("torch") is None:
            raise TrainingError(
                "Distributed training needs torch, which is not installed",
                fix="make install-torch, or pip install 'headway[torch]'",
            )
        machine = Machine.of(job.training.placement)
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        for old in [folder / RESULT, folder / ERROR_FILE, *folder.glob("rank-*.json")]:
            old.unlink(missing_ok=True)
        job.write()
        group = _Group(job, machine, watch, self._settings.resolved_tracking_uri)
        try:
            code = group.wait()
        finally:
            group.end()
            watch.on_state("ended")
        if group.broken is not None:
            raise group.broken
        if code == 0:
            return Result.load(folder / RESULT)
        raise group.cause(code)


class _Group:
    """torchrun and the ranks it starts."""

    def __init__(self, job: Job, machine: Machine, watch: Watch, tracking_uri: str) -> None:
        self._job, self._watch, self._folder = job, watch, Path(job.folder)
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._why = ""
        self.broken: Exception | None = None
        """What a function of the watch raised."""
        arguments = ["--standalone", "--nproc-per-node", str(machine.processes), *trainer_command()]
        command = [sys.executable, "-m", "headway.components.train_distributed.ranks", *arguments]
        environment = os.environ | _local(rank_environment(machine.threads))
        environment |= {"TORCHELASTIC_ERROR_FILE": str(self._folder / ERROR_FILE), "MLFLOW_TRACKING_URI": tracking_uri}
        self._agent = subprocess.Popen(
            [*command, str(self._folder / "job.json")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name="ranks' output", daemon=True)
        self._reader.start()
        watch.on_state("running")

    def wait(self) -> int:
        """The agent's exit code; ends the job when it is cancelled, hangs or passes its deadline."""
        started = moved = time.monotonic()
        beats = (0, 0)
        while self._agent.poll() is None:
            time.sleep(_POLL)
            now = time.monotonic()
            ranks = Heartbeat.all_in(self._folder)
            found = len(ranks), sum(beat.beats for beat in ranks)
            patience = self._job.training.patience if ranks else max(self._job.training.patience, _START)
            if found != beats:
                beats, moved = found, now
            if self._watch.cancel.is_set():
                self._why = "it was cancelled"
            elif now - moved > patience:
                self._why = self._diagnose(now - moved)
                return 1
            elif self.broken is not None:
                self._why = "who watched it failed"
            elif now - started > self._job.training.placement.deadline:
                self._why = f"it passed its deadline of {self._job.training.placement.deadline:.0f} s"
            if self._why:
                self._ask_to_stop()
                return STOPPED
        self._reader.join(timeout=5)
        return int(self._agent.returncode)

    def end(self) -> None:
        """See to it that nothing of the job is left."""
        for _ in range(2):
            for beat in Heartbeat.all_in(self._folder):
                if _is_rank(beat.pid):
                    _kill(beat.pid)
            # A rank that has not come to its first heartbeat is known to torchrun alone, which ends it.
            if self._agent.poll() is None:
                self._agent.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._agent.wait(timeout=_GOODBYE)
                break
        _kill(self._agent.pid)
        self._agent.wait()
        self._reader.join(timeout=5)
        if self._agent.stdout is not None:
            self._agent.stdout.close()

    def cause(self, code: int) -> TrainingError:
        """Why the job ended without a result."""
        if code == STOPPED:
            why = self._why or "it got SIGTERM"
            saved = any("state saved" in line for line in self._tail)
            kept = "its state is saved" if saved else "its last checkpoint is there"
            return TrainingError(
                f"Training of {self._job.name!r} ended early: {why}; {kept}", fix="run it again: it goes on from there"
            )
        if self._why:
            return TrainingError(self._why, fix=self._where())
        problem, expected, fix = read_cause(self._folder / ERROR_FILE) or (self._last_words(), None, None)
        return TrainingError(
            f"Training of {self._job.name!r} failed: {problem}", expected=expected, fix=fix or self._where()
        )

    def _read(self) -> None:
        assert self._agent.stdout is not None  # noqa: S101 - it was opened as a pipe
        with (self._folder / LOG).open("w", encoding="utf-8") as log, contextlib.suppress(ValueError):
            for line in self._agent.stdout:
                log.write(line)
                log.flush()
                text = line.rstrip("\n")
                self._tail.append(text)
                self._tell(text)

    def _tell(self, text: str) -> None:
        """Tell the watch of a line; whatever its functions do, the ranks' output has to be read on."""
        if self.broken is not None:
            return
        try:
            progress = Progress.parse(text)
            if progress is not None:
                self._watch.on_progress(progress)
            self._watch.on_log(text)
        except Exception as error:  # raised again where the job was started
            self.broken = error

    def _ask_to_stop(self) -> None:
        """SIGTERM to torchrun, which passes it on; then it has time to save."""
        with contextlib.suppress(ProcessLookupError):
            self._agent.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._agent.wait(timeout=GRACE)

    def _diagnose(self, seconds: float) -> str:
        """Which rank the others wait for, and where in the code it is."""
        ranks = Heartbeat.all_in(self._folder)
        for beat in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(beat.pid, signal.SIGUSR1)
        time.sleep(_STACKS)
        if not ranks:
            return f"Training of {self._job.name!r} did not start within {seconds:.0f} s"
        slow = min(ranks, key=lambda beat: beat.position)
        return (
            f"Training of {self._job.name!r} hangs: no rank moved for {seconds:.0f} s, and the others wait for rank "
            f"{slow.rank}, in the phase {slow.phase!r} of step {slow.step + 1}"
        )

    def _last_words(self) -> str:
        """What is known of a rank that died without an exception: killed, or out of memory."""
        found = [line for line in self._tail if re.search(r"Signal \d+|exitcode|Error", line)]
        return found[-1].strip() if found else (self._tail[-1] if self._tail else "no output")

    def _where(self) -> str:
        return f"read the ranks' log at {self._folder / LOG}"


def _local(environment: dict[str, str]) -> dict[str, Any]:
    """What one machine alone can say: its ranks talk over the loopback."""
    if sys.platform == "linux" and "GLOO_SOCKET_IFNAME" not in os.environ:
        return environment | {"GLOO_SOCKET_IFNAME": "lo"}
    return environment


def _is_rank(pid: int) -> bool:
    """Whether a process that a heartbeat names is still a rank, and not another one that got its number."""
    try:
        return b"train_distributed" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc").is_dir()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)

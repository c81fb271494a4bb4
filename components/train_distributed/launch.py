"""Start a training job where it shall run, watch it, and bring back its result or its cause of death.

    result = launch(job, on_progress=print)

One interface, `Launcher`, with an implementation for each place:

    one machine        torchrun in this interpreter's environment (`TorchrunLauncher`): on a laptop, and inside a step
                       of a pipeline, where the machine is the step's pod and may have several GPUs
    several machines   a job on the cluster (launch_cluster.py)

A launcher owns all processes or pods that it starts. It comes back with a result, or it raises; in both cases nothing
of the job is left running.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from headway.components.errors import ConfigError, TrainingError
from headway.components.settings import Settings, load_settings
from headway.components.train.fit import available_threads
from headway.components.train_distributed.job import RESULT, STOPPED, Heartbeat, Job, Progress, Result
from headway.components.train_distributed.spec import Placement

MOST_CPU_PROCESSES = 4
"""Processes that a CPU machine gets unless told otherwise: beyond, each one's share of a small step is too small."""
GRACE = 60.0
"""Seconds that ranks have for their last checkpoint after they were asked to stop."""
TAIL = 40
"""Lines of the log that an error carries."""
ERROR_FILE, LOG = "error.json", "log.txt"
_GPU_DEVICES = ("nvidia[0-9]*", "kfd", "dxg")
"""Device files of NVIDIA's and AMD's drivers, and of GPUs under WSL."""
_POLL = 0.2
_START = 120.0
"""Seconds that ranks have to load torch and find each other, whatever their patience later."""
_GOODBYE = 10.0
_STACKS = 2.0


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who wants to know, and who may end it."""

    on_progress: Callable[[Progress], None] = lambda progress: None
    """Called with each line of progress, about once a second."""
    on_log: Callable[[str], None] = lambda line: None
    """Called with each line of the ranks' output, without its line end."""
    on_state: Callable[[str], None] = lambda state: None
    """Called when the job's state changes: `queued`, `pending`, `running`, `ended`; a machine of one's own knows only
    the last two."""
    cancel: threading.Event = field(default_factory=threading.Event)
    """Set it, and the ranks save their state and leave."""


class Launcher(Protocol):
    """What runs training jobs somewhere."""

    def run(self, job: Job, watch: Watch) -> Result:
        """Run a job to its end.

        Args:
            job: The job; its `folder`, `data` and `output` mean the same for every rank as for the caller.
            watch: Who wants to know.

        Returns:
            What the job made, as rank 0 wrote it into `job.folder`.

        Raises:
            TrainingError: It failed, with the cause: the first failing rank's own exception where there is one; it
                hung; it passed its deadline; or it was cancelled, with its state saved or not.
            PlatformError: The place where it was to run could not be reached, or said no.
        """


def launch(
    job: Job,
    *,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_log: Callable[[str], None] | None = None,
    on_state: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
) -> Result:
    """Run a job where its placement and the settings say. SIGTERM to this process cancels the job.

    Args:
        job: The job.
        settings: The settings in force, if not the usual ones.
        on_progress: Called with each line of progress.
        on_log: Called with each line of output.
        on_state: Called when the job's state changes.
        cancel: Set it to end the job.

    Raises:
        ConfigError: The placement cannot be had here.
        TrainingError: See `Launcher.run`.
        PlatformError: See `Launcher.run`.
    """
    nothing = Watch()
    watch = Watch(
        on_progress=on_progress or nothing.on_progress,
        on_log=on_log or nothing.on_log,
        on_state=on_state or nothing.on_state,
        cancel=cancel or nothing.cancel,
    )
    launcher = choose(job.training.placement, settings or load_settings())
    with _cancelled_by_sigterm(watch.cancel):
        return launcher.run(job, watch)


def choose(placement: Placement, settings: Settings) -> Launcher:
    """The launcher for a placement.

    Raises:
        ConfigError: Several machines are wanted, and there is no cluster.
    """
    if placement.nodes == 1:
        return TorchrunLauncher(settings)
    if settings.platform != "kubeflow":
        raise ConfigError(
            f"The placement wants {placement.nodes} machines, and the platform is {settings.platform!r}",
            fix="set `nodes: 1`, or `platform: kubeflow` in headway.yaml",
        )
    cluster: Launcher = importlib.import_module("headway.components.train_distributed.launch_cluster").launcher(
        settings
    )
    return cluster


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


def rank_environment(threads: int) -> dict[str, str]:
    """What a rank's environment needs on any platform.

    Args:
        threads: OpenMP threads of one rank.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        # Let glibc keep the activations' memory from step to step: giving it back costs a fifth of a CPU step.
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    }


def trainer_command() -> list[str]:
    """The module and its options behind torchrun's own arguments; the job's path comes last."""
    return ["--module", "headway.components.train_distributed.trainer"]


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
        if code == 0:
            return Result.load(folder / RESULT)
        raise group.cause(code)


class _Group:
    """torchrun and the ranks it starts."""

    def __init__(self, job: Job, machine: Machine, watch: Watch, tracking_uri: str) -> None:
        self._job, self._watch, self._folder = job, watch, Path(job.folder)
        self._tail: deque[str] = deque(maxlen=TAIL)
        self._why = ""
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
                progress = Progress.parse(text)
                if progress is not None:
                    self._watch.on_progress(progress)
                self._watch.on_log(text)

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


def read_cause(path: Path) -> tuple[str, str | None, str | None] | None:
    """The first failing rank's exception as (problem, expected, fix), from what `@record` wrote.

    Args:
        path: The error file; a missing or broken one gives None.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    message = document.get("message", document)
    text = str(message.get("message", "") if isinstance(message, dict) else message)
    return parse_cause(text) if text else None


def parse_cause(text: str) -> tuple[str, str | None, str | None]:
    r"""One of our errors as text, taken apart again.

    Example:
        >>> parse_cause("TrainingError: no rows\nExpected: some\nFix: add some")
        ('no rows', 'some', 'add some')
        >>> parse_cause("ValueError: bad shard")
        ('ValueError: bad shard', None, None)
    """
    lines = text.strip().splitlines()
    expected = next((line.removeprefix("Expected: ") for line in lines if line.startswith("Expected: ")), None)
    fix = next((line.removeprefix("Fix: ") for line in lines if line.startswith("Fix: ")), None)
    problem = "\n".join(line for line in lines if not line.startswith(("Expected: ", "Fix: ")))
    kind, _, rest = problem.partition(": ")
    ours = kind in {"TrainingError", "ConfigError", "SourceError", "DataError", "UnknownNameError", "PlatformError"}
    return (rest if ours and rest else problem), expected, fix


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


@contextlib.contextmanager
def _cancelled_by_sigterm(cancel: threading.Event) -> Iterator[None]:
    """Let SIGTERM cancel the job, where this is the main thread; the old handler comes back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: cancel.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

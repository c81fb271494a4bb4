"""Start a training job where it shall run, watch it, and bring back its result or its cause of death.

    result = launch(job, on_progress=print)

One interface, `Launcher`, with an implementation for each place:

    one machine        torchrun in this interpreter's environment (launch_torchrun.py): on a laptop, and inside a step
                       of a pipeline, where the machine is the step's pod and may have several GPUs
    several machines   a job on the cluster (launch_cluster.py)

A launcher owns all processes or pods that it starts. It comes back with a result, or it raises; in both cases nothing
of the job is left running.
"""

import contextlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from headway.components.errors import ConfigError
from headway.components.settings import Settings, load_settings
from headway.components.train_distributed.job import Job, Progress, Result
from headway.components.train_distributed.spec import Placement

MOST_CPU_PROCESSES = 4
"""Processes that a CPU machine gets unless told otherwise: beyond, each one's share of a small step is too small."""
GRACE = 60.0
"""Seconds that ranks have for their last checkpoint after they were asked to stop."""
TAIL = 40
"""Lines of the log that an error carries."""


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
            Exception: What a function of `watch` raised; the job is ended.
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
    if placement.nodes > 1 and settings.platform != "kubeflow":
        raise ConfigError(
            f"The placement wants {placement.nodes} machines, and the platform is {settings.platform!r}",
            fix="set `nodes: 1`, or `platform: kubeflow` in headway.yaml",
        )
    place = "launch_torchrun" if placement.nodes == 1 else "launch_cluster"
    found: Launcher = importlib.import_module(f"headway.components.train_distributed.{place}").launcher(settings)
    return found


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

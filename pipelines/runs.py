"""Follow runs on Kubeflow Pipelines: list them, look at one, wait for it, stop it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from headway.components.errors import PipelineError, StepFailedError
from headway.pipelines.api import Api, connect
from headway.pipelines.endpoint import Endpoint
from headway.pipelines.links import run_link

FINAL_STATES = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"})
"""States that a run does not leave. `kfp.Client.wait_for_run_completion` waits for ever on CANCELED."""
GOOD_STATES = frozenset({"SUCCEEDED", "SKIPPED"})

POLL_SECONDS = 5.0
LIST_LIMIT = 20

_WRAPPERS = frozenset({"root", "executor", "driver"})
"""Nodes of the workflow engine that are no step of the pipeline."""


@dataclass(frozen=True, kw_only=True)
class TaskState:
    """One task of a run."""

    name: str
    state: str
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class RemoteRun:
    """A run as Kubeflow Pipelines reports it."""

    run_id: str
    name: str
    state: str
    """PENDING, RUNNING, SUCCEEDED, SKIPPED (all of it was cached), FAILED, CANCELING, CANCELED or PAUSED."""
    error: str = ""
    """Why it failed, in one line; empty when it did not."""
    failed_task: str = ""
    """The task that made it fail; empty when none did or none is known."""
    created_at: datetime | None = None
    finished_at: datetime | None = None
    pipeline_id: str = ""
    version_id: str = ""
    url: str = ""
    """The run's page."""
    tasks: list[TaskState] = field(default_factory=list)
    """The tasks, oldest first; empty in a list of runs."""

    @property
    def is_final(self) -> bool:
        """Whether its state will not change any more."""
        return self.state in FINAL_STATES

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.state in GOOD_STATES

    def require_success(self) -> None:
        """Check that it ended well.

        Raises:
            StepFailedError: A task failed; names it.
            PipelineError: It was canceled, failed outside a task, or has not ended.
        """
        if self.succeeded:
            return
        if self.state == "FAILED" and self.failed_task:
            raise StepFailedError(self.failed_task, self.error, log=self.url)
        reason = f": {self.error}" if self.error else ""
        raise PipelineError(f"Run {self.run_id} is {self.state}{reason}", fix=f"look at {self.url}")


def list_runs(endpoint: Endpoint, *, limit: int = LIST_LIMIT, experiment: str | None = None) -> list[RemoteRun]:
    """The latest runs, newest first.

    Args:
        endpoint: Where they are.
        limit: How many at most.
        experiment: Only those of this experiment; none when there is no such experiment.

    Raises:
        PlatformError: Kubeflow Pipelines could not be reached, or said no.
    """
    api = connect(endpoint)
    experiment_id = None
    if experiment is not None:
        list_experiments = api.experiments.experiment_service_list_experiments
        found = api.find(list_experiments, "experiments", experiment, namespace=api.namespace or None)
        if found is None:
            return []
        experiment_id = found.experiment_id
    pages = api.pages(
        api.runs.run_service_list_runs,
        "runs",
        sort_by="created_at desc",
        namespace=None if experiment_id else api.namespace or None,
        experiment_id=experiment_id,
    )
    return [_read_run(api, run) for run in islice(pages, limit)]


def get_run(endpoint: Endpoint, run_id: str) -> RemoteRun:
    """One run with its tasks.

    Raises:
        PlatformError: There is no such run, or Kubeflow Pipelines could not be reached.
    """
    return _fetch(connect(endpoint), run_id)


def wait(
    endpoint: Endpoint,
    run_id: str,
    *,
    timeout: float | None = None,
    poll: float | None = None,
    on_change: Callable[[RemoteRun], None] | None = None,
) -> RemoteRun:
    """Wait until a run has ended; giving up or an interrupt leaves the run alone.

    Args:
        endpoint: Where it is.
        run_id: The run.
        timeout: Seconds to wait; None waits as long as it takes.
        poll: Seconds between two looks; five when not given.
        on_change: Called with the run each time its state or that of a task has changed.

    Returns:
        The run in its final state, which may be FAILED: see `RemoteRun.require_success`.

    Raises:
        PipelineError: It has not ended in time.
        PlatformError: Kubeflow Pipelines could not be reached for a while, or said no.
    """
    api = connect(endpoint)
    pause = POLL_SECONDS if poll is None else poll
    deadline = None if timeout is None else time.monotonic() + timeout
    last: RemoteRun | None = None
    while True:
        run = _fetch(api, run_id)
        if on_change is not None and run != last:
            on_change(run)
        if run.is_final:
            return run
        last = run
        left = pause if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise PipelineError(
                f"Run {run_id} is still {run.state} after {timeout:g} s; it goes on",
                fix=f"`headway runs wait {run_id}`, or look at {run.url}",
            )
        time.sleep(min(pause, left))


def terminate(endpoint: Endpoint, run_id: str) -> RemoteRun:
    """Stop a run; one that has ended stays as it is.

    Returns:
        The run after the request: CANCELING or CANCELED, or the state it had ended in.

    Raises:
        PlatformError: There is no such run, or Kubeflow Pipelines could not be reached.
    """
    api = connect(endpoint)
    run = _fetch(api, run_id)
    if run.is_final:
        return run
    api.call(api.runs.run_service_terminate_run, run_id)
    return _fetch(api, run_id)


def _fetch(api: Api, run_id: str) -> RemoteRun:
    return _read_run(api, api.call(api.runs.run_service_get_run, run_id))


def _read_run(api: Api, run: Any) -> RemoteRun:
    details = (run.run_details.task_details if run.run_details else None) or []
    failed = _failed_task(details) if run.state == "FAILED" else None
    reference = run.pipeline_version_reference
    endpoint = api.endpoint
    return RemoteRun(
        run_id=run.run_id,
        name=run.display_name or "",
        state=run.state or "PENDING",
        error=_message(failed) or _message(run),
        failed_task=failed.display_name if failed else "",
        created_at=run.created_at,
        finished_at=_real_time(run.finished_at),
        pipeline_id=(reference.pipeline_id if reference else "") or "",
        version_id=(reference.pipeline_version_id if reference else "") or "",
        url=run_link(endpoint.host, run.run_id, ui=endpoint.ui, namespace=api.namespace),
        tasks=[_read_task(task) for task in sorted(details, key=_start) if _is_step(task)],
    )


def _read_task(task: Any) -> TaskState:
    return TaskState(
        name=task.display_name or task.task_id or "",
        state=task.state or "PENDING",
        error=_message(task),
        started_at=_real_time(task.start_time),
        finished_at=_real_time(task.end_time),
    )


def _is_step(task: Any) -> bool:
    name = task.display_name or ""
    return name not in _WRAPPERS and not name.endswith("-driver")


def _failed_task(details: list[Any]) -> Any | None:
    """The task that made the run fail: the deepest failed one, and among those one that says why.

    A condition, a loop or a nested pipeline fails because a task inside it failed, and says nothing of its own.
    """
    failed = [task for task in details if task.state == "FAILED" and _is_step(task)]
    parents = {task.parent_task_id for task in failed if task.parent_task_id}
    deepest = [task for task in failed if task.task_id not in parents] or failed
    return min(deepest, key=lambda task: (not _message(task), str(task.end_time or "")), default=None)


def _message(holder: Any) -> str:
    error = holder.error if holder is not None else None
    return str(error.message or "").strip().split("\n", maxsplit=1)[0] if error else ""


def _start(task: Any) -> str:
    return str(task.start_time or task.create_time or "")


def _real_time(moment: datetime | None) -> datetime | None:
    """A moment, but nothing for the epoch, which the API sends for one that has not come."""
    return moment if moment is not None and moment.timestamp() > 0 else None

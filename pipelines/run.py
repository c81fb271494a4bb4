"""Run a pipeline on this machine: `headway run`, and `run("flights")` from a notebook.

The compiled pipeline goes through kfp.local; each step runs the code that runs on the cluster. Steps whose inputs did
not change come from the cache. A failed step's own error is what the caller sees.
"""

import contextlib
import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headway.components.errors import PipelineError, StepFailedError
from headway.components.settings import Settings, load_settings
from headway.pipelines.embedded.cache import ContentCache
from headway.pipelines.embedded.engine import run_compiled
from headway.pipelines.embedded.steps import Step, Steps
from headway.pipelines.embedded.workers import Workers, call, make_workers
from headway.pipelines.project import Project, is_compiled, resolve

DECISION_STEP = "evaluate"
REGISTER_STEP = "register"
RUN_FILE = "run.json"

OnChange = Callable[[Step], None]


@dataclass(frozen=True)
class RunResult:
    """What a run did."""

    pipeline: str
    run_id: str
    state: str
    """`succeeded` or `failed`."""
    seconds: float
    folder: Path
    """Where the run's files lie."""
    steps: list[Step] = field(default_factory=list)

    @property
    def decision(self) -> str:
        """What the gate said: promote, hold, reject; empty where no gate was reached."""
        return self._value(DECISION_STEP)

    @property
    def version(self) -> str:
        """The registered version's number; empty where none was registered."""
        return self._value(REGISTER_STEP)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the evaluation."""
        return next((step.metrics for step in self.steps if step.name == DECISION_STEP), {})

    @property
    def reports(self) -> dict[str, str]:
        """Paths of the HTML reports by step, under names that a browser opens."""
        return {path.stem: str(path) for path in sorted(self.folder.glob("*.html"))}

    @property
    def failed(self) -> Step | None:
        """The step that failed first, if one did."""
        return next((step for step in self.steps if step.state == "failed"), None)

    @property
    def exit_code(self) -> int:
        """For CI: 0 promoted or nothing to decide, 1 failed or rejected, 3 held for a person to look at."""
        if self.state == "failed" or self.decision == "reject":
            return 1
        return 3 if self.decision == "hold" else 0

    def raise_if_failed(self) -> "RunResult":
        """The result itself, or the failed step's own error.

        Raises:
            StepFailedError: A step failed.
        """
        step = self.failed
        if step is not None:
            told = step.error or {}
            message = f"{told.get('type', 'error')}: {told.get('message', 'no message')}"
            raise StepFailedError(
                step.name,
                told["message"] if told.get("expected") else message,
                detail="" if told.get("expected") else told.get("traceback", ""),
                log=str(step.log),
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, for `--json` and for run.json."""
        return {
            "pipeline": self.pipeline,
            "run_id": self.run_id,
            "state": self.state,
            "decision": self.decision,
            "version": self.version,
            "metrics": self.metrics,
            "seconds": round(self.seconds, 2),
            "folder": str(self.folder),
            "reports": self.reports,
            "steps": [step.to_dict() for step in self.steps],
        }

    def _repr_html_(self) -> str:
        """What a notebook shows: the decision, the steps, the metrics, the report."""
        from headway.pipelines.notebook import result_html

        return result_html(self)

    def _value(self, name: str) -> str:
        return next((step.value for step in self.steps if step.name == name), "")


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What a run needs to know of a pipeline."""

    name: str
    spec: dict[str, Any]
    """The pipeline's IR."""
    arguments: dict[str, Any]
    folder: Path
    """What relative addresses of data are relative to."""
    outside: dict[str, Callable[[], str]]
    """For a step by name, what tells the state of all that it reads beside its arguments."""


def run(
    pipeline: str | Project,
    *,
    set: list[str] | None = None,
    cache: bool = True,
    in_process: bool = False,
    settings: Settings | None = None,
    on_change: OnChange | None = None,
    workers: Workers | None = None,
) -> RunResult:
    """Run a pipeline on this machine, to its end.

    Args:
        pipeline: A shipped example's name, a project's folder, a project, or a compiled pipeline's `.yaml`.
        set: `section.key=value` changes to the specification; for a compiled pipeline `parameter=value`.
        cache: Whether steps whose inputs did not change are taken from earlier runs.
        in_process: Run the steps in this process, for a debugger.
        settings: The settings in force, if not the usual ones.
        on_change: Called as steps start, speak and end.
        workers: What starts steps, already entered and left open; made for this run by default.

    Returns:
        What happened. A failed step does not raise: `result.raise_if_failed()` does.

    Raises:
        UsageError: The name, the specification or the contract is wrong; nothing has run.
    """
    settings = settings or load_settings()
    # Workers first, so that their libraries load while the pipeline is compiled.
    with contextlib.nullcontext(workers) if workers else make_workers(in_process=in_process) as started:
        if is_compiled(pipeline):
            work = _compiled_work(Path(str(pipeline)), set or [])
        else:
            project = pipeline if isinstance(pipeline, Project) else resolve(pipeline, set)
            work = _project_work(project, started, settings)
        return _run(work, started, settings, use_cache=cache, on_change=on_change or (lambda step: None))


def _project_work(project: Project, workers: Workers, settings: Settings) -> _Work:
    from headway.pipelines.compile import compile_text, load_spec

    arguments = project.arguments()
    spec, _ = load_spec(compile_text(project.pipeline(), name=project.pipeline_name))
    return _Work(
        name=project.pipeline_name,
        spec=spec,
        arguments=dict(arguments),
        folder=project.folder,
        outside=_outside(project, workers, settings),
    )


def _compiled_work(path: Path, assignments: list[str]) -> _Work:
    from headway.pipelines.arguments import check_arguments, override
    from headway.pipelines.compile import load_spec

    spec, _ = load_spec(path)
    arguments = override(spec, {}, assignments)
    check_arguments(spec, arguments)
    name = spec["pipelineInfo"]["name"]
    return _Work(name=name, spec=spec, arguments=arguments, folder=path.resolve().parent, outside={})


def _run(work: _Work, workers: Workers, settings: Settings, *, use_cache: bool, on_change: OnChange) -> RunResult:
    home = settings.home.expanduser().resolve()
    run_id = f"{work.name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"[:-3]
    folder = home / "runs" / run_id
    steps = Steps(list(planned_steps(work.spec)), on_change)
    for step in steps:
        on_change(step)
    store = ContentCache(home / "cache", run=run_id, outside=work.outside) if use_cache else None
    if store is not None:
        _let_cache(work.spec, work.outside)
    started = time.perf_counter()
    state = "succeeded"
    try:
        run_compiled(
            work.spec,
            work.arguments,
            root=folder,
            cache=store,
            workers=workers,
            steps=steps,
            environment=_environment(work.folder, settings),
            folder=Path.cwd(),
        )
    except PipelineError:
        state = "failed"
        if not any(step.state == "failed" for step in steps):
            raise
    finally:
        steps.finish()
        _note_reasons(steps, store)
    _lay_out_reports(folder, steps)
    result = RunResult(work.name, run_id, state, time.perf_counter() - started, folder, list(steps))
    (folder / RUN_FILE).write_text(json.dumps(result.to_dict(), indent=2, default=str), encoding="utf-8")
    return result


def planned_steps(spec: dict[str, Any]) -> Iterator[str]:
    """The names of a compiled pipeline's steps in the order in which they can run, exit steps last.

    Args:
        spec: The pipeline's IR, as parsed YAML.
    """
    last: list[str] = []
    yield from _walk(spec, spec["root"]["dag"], last)
    yield from last


def _walk(spec: dict[str, Any], dag: dict[str, Any], last: list[str]) -> Iterator[str]:
    waiting = dict(dag["tasks"])
    done: set[str] = set()
    while waiting:
        ready = [name for name, task in waiting.items() if done.issuperset(task.get("dependentTasks", []))] or list(
            waiting
        )
        for name in ready:
            task = waiting.pop(name)
            done.add(name)
            component = spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                yield from _walk(spec, component["dag"], last)
            elif task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED":
                last.append(task["componentRef"]["name"].removeprefix("comp-"))
            else:
                yield task["componentRef"]["name"].removeprefix("comp-")


def _let_cache(spec: dict[str, Any], outside: Collection[str]) -> None:
    """Switch caching on for the steps whose outside world is part of our key; elsewhere it stays as compiled."""
    for component in [spec["root"], *spec["components"].values()]:
        for task in component.get("dag", {}).get("tasks", {}).values():
            if task["componentRef"]["name"].removeprefix("comp-") in outside:
                task.setdefault("cachingOptions", {})["enableCache"] = True


def _outside(project: Project, workers: Workers, settings: Settings) -> dict[str, Callable[[], str]]:
    """What steps read beside their arguments: the data behind the source's address, and the registry.

    The registry is asked when the first step wants to know, by a worker, where MLflow is loaded by then.
    """
    from headway.components.ingest.sources import fingerprint

    @functools.cache
    def registry() -> dict[str, str]:
        environment = os.environ | _environment(project.folder, settings)
        told = call(workers, "headway.pipelines.run:registry_state", {"name": project.name}, environment)
        return dict(told)

    data = fingerprint(project.spec.source, project.folder)
    found: dict[str, Callable[[], str]] = {"ingest": lambda: data} if data else {}
    logs = dict.fromkeys(("tune", "train", "train-distributed", "optimise"), lambda: registry()["address"])
    return found | logs | {"evaluate": lambda: str(registry())}


def registry_state(name: str) -> dict[str, str]:
    """The registry's address, and the digest of a model's champion if it has one; makes the embedded registry."""
    from headway.components.register.registry import Registry

    settings = load_settings()
    version = Registry(settings).find_champion(name)
    return {"address": settings.resolved_tracking_uri, "champion": version.digest if version else ""}


def _environment(folder: Path, settings: Settings) -> dict[str, str]:
    """What every step finds in its environment, absolute, so that its own folder does not matter."""
    home = settings.home.expanduser().resolve()
    threads = {"HEADWAY_THREADS": str(settings.threads)} if settings.threads else {}
    return {
        "HEADWAY_HOME": str(home),
        "HEADWAY_PROJECT": str(folder),
        "MLFLOW_TRACKING_URI": settings.resolved_tracking_uri,
        "PYTHONUNBUFFERED": "1",
        **threads,
    }


def _lay_out_reports(folder: Path, steps: Steps) -> None:
    """Put each step's HTML report beside the run's other results, named after the step: KFP's files have no suffix."""
    for step in steps:
        for name, path in step.reports.items():
            if step.schemas.get(name) == "system.HTML" and Path(path).exists():
                shutil.copyfile(path, folder / f"{step.name}.html")


def _note_reasons(steps: Steps, store: ContentCache | None) -> None:
    for step in steps:
        found = store.reason_for(step.name) if store else None
        if found and not step.reason:
            step.reason = found.reason

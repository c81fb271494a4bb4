"""Run a compiled pipeline through kfp.local, with our workers and our cache in the places where kfp has its own.

kfp.local has no public seam for either, so three of its module attributes are replaced while a run lasts: what starts a
step's process, what puts the interpreter's path into its command, and what finds the cache. Orchestration, conditions,
loops, retries, exit handlers and the meaning of every field stay kfp's. `tests/pipelines/embedded/test_engine.py` fails
when a new kfp moves the seams.
"""

import contextlib
import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from headway.components.errors import PipelineError
from headway.pipelines.embedded.cache import ContentCache
from headway.pipelines.embedded.steps import Step, Steps
from headway.pipelines.embedded.workers import Workers

_PROGRAM = "ephemeral_component.py"
"""What kfp calls a lightweight component's module; marks the command form that our workers can run."""
_SEAM = threading.Lock()
"""kfp.local keeps its configuration in module attributes: one run at a time in a process."""


def run_compiled(
    spec: dict[str, Any],
    arguments: dict[str, Any],
    *,
    root: Path,
    cache: ContentCache | None,
    workers: Workers,
    steps: Steps,
    environment: dict[str, str],
    folder: Path,
) -> None:
    """Run a pipeline to its end.

    Args:
        spec: The pipeline's IR, as parsed YAML.
        arguments: Pipeline parameters by name.
        root: Folder under which kfp makes one for the run and one for each step.
        cache: Where unchanged steps are found; None runs every step.
        workers: What starts steps.
        steps: Told of every step as it starts, speaks and ends.
        environment: Environment variables of every step, on top of this process's.
        folder: The steps' current folder.

    Raises:
        PipelineError: A step failed, or the pipeline does not fit kfp.local. Look at `steps` for which and why.
    """
    from kfp import components, local

    pipeline = components.load_component_from_text(json.dumps(spec))
    launch = _launcher(workers, steps, environment=environment, folder=folder)
    with _SEAM, _kfp_seams(launch, cache, steps), _quiet(root):
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(root),
            raise_on_error=True,
            enable_caching=cache is not None,
            cache_root=cache.cache_root if cache else None,
        )
        try:
            pipeline(**arguments)
        except RuntimeError as error:
            raise PipelineError(_plain(str(error))) from error


@contextlib.contextmanager
def _kfp_seams(launch: Callable[..., int], cache: ContentCache | None, steps: Steps) -> Iterator[None]:
    """Put our launcher and our cache in kfp's places while a run lasts."""
    from kfp.local import cache as cache_module
    from kfp.local import subprocess_task_handler as handler

    kfp_launch, kfp_cache = handler.run_local_subprocess, cache_module.get_local_cache
    kfp_replace = handler.replace_python_executable

    def launch_or_leave(full_command: list[str], env_vars: dict[str, str] | None = None) -> int:
        return launch(full_command, env_vars) if _is_plain(full_command) else int(kfp_launch(full_command, env_vars))

    def replace_or_leave(full_command: list[str], executable: str) -> Any:
        # kfp puts the interpreter's path wherever "python3" stands, in a user's parameters too.
        return full_command if _is_plain(full_command) else kfp_replace(full_command, executable)

    handler.run_local_subprocess = launch_or_leave
    handler.replace_python_executable = replace_or_leave
    cache_module.get_local_cache = lambda: cache
    if cache is not None:
        cache.on_hit = steps.found
    try:
        yield
    finally:
        handler.run_local_subprocess, cache_module.get_local_cache = kfp_launch, kfp_cache
        handler.replace_python_executable = kfp_replace


def _launcher(
    workers: Workers, steps: Steps, *, environment: dict[str, str], folder: Path
) -> Callable[[list[str], dict[str, str] | None], int]:
    """A function that runs one of kfp's commands as a step of ours."""

    def launch(command: list[str], variables: dict[str, str] | None = None) -> int:
        source, arguments = _program(command)
        executor_input = json.loads(arguments[arguments.index("--executor_input") + 1])
        step_folder = Path(executor_input["outputs"]["outputFile"]).parent
        step = steps.start(step_folder, executor_input)
        started = time.perf_counter()
        request = {
            "source": source,
            "arguments": arguments,
            "step_folder": str(step_folder),
            "environment": {**os.environ, **environment, **(variables or {})},
            "folder": str(folder),
        }
        code = _logged(workers, request, step, steps)
        steps.end(step, code=code, seconds=time.perf_counter() - started)
        return code

    return launch


def _logged(workers: Workers, request: dict[str, Any], step: Step, steps: Steps) -> int:
    step.folder.mkdir(parents=True, exist_ok=True)
    with step.log.open("w", encoding="utf-8", errors="replace", buffering=1) as log:

        def on_line(line: str) -> None:
            log.write(line)
            steps.say(step, line.rstrip())

        return workers.run(request, on_line)


def _is_plain(command: list[str]) -> bool:
    """Whether it is a lightweight component with nothing to install, the form that a worker can run without a shell."""
    return any(_PROGRAM in part for part in command) and not any(
        "pip install" in part for part in command[:-1] if "$0" in part
    )


def _program(command: list[str]) -> tuple[str, list[str]]:
    """The component's module as text, and the executor's arguments."""
    at = next(i for i, part in enumerate(command) if _PROGRAM in part)
    return command[at + 1], command[at + 2 :]


@contextlib.contextmanager
def _quiet(root: Path) -> Iterator[None]:
    """Send what kfp.local prints for itself to a file: the run has its own way to tell what happens."""
    root.mkdir(parents=True, exist_ok=True)
    with (
        (root / "kfp-local.log").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        warnings.catch_warnings(),
    ):
        # Resources are the cluster's: kfp warns at every step that this machine does not enforce them.
        warnings.filterwarnings("ignore", message=".*no effect in the current local runner")
        yield


def _plain(text: str) -> str:
    """The text without terminal colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)

"""Run one step (or one function): the same `kfp` executor that runs in a container, on the same arguments.

Where the step fails, its own error is kept beside its outputs, as data, so that the run can show that instead of an
exit code.
"""

import importlib
import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

ERROR_FILE = "error.json"
"""The step's own error, in the step's folder."""


def work(request: dict[str, Any]) -> int:
    """Do what a request asks for, a step or a call, and return the exit code."""
    return call(request["call"], request["arguments"]) if "call" in request else run_step(request)


def call(path: str, arguments: dict[str, Any]) -> int:
    """Call a function by `module:name` and print what it returns as one line of JSON."""
    module, _, name = path.partition(":")
    result = getattr(importlib.import_module(module), name)(**arguments)
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def run_step(request: dict[str, Any]) -> int:
    """Execute a step and return its exit code.

    Args:
        request: `source` (the component's module as text), `arguments` (the executor's command line), `step_folder`.
    """
    os.environ["_KFP_RUNTIME"] = "true"
    folder = Path(request["step_folder"])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="headway-step-") as scratch:
        module = Path(scratch) / "ephemeral_component.py"
        module.write_text(request["source"], encoding="utf-8")
        sys.argv = ["executor", "--component_module_path", str(module), *request["arguments"]]
        try:
            _execute()
        except SystemExit as exit_:
            return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except BaseException as error:
            _keep(error, folder)
            return 1
    return 0


def _execute() -> None:
    from kfp.dsl import executor_main

    executor_main.executor_main()


def _keep(error: BaseException, folder: Path) -> None:
    """Write the error for the run, and print it for the log."""
    from headway.components.errors import HeadwayError

    trace = "".join(traceback.format_exception(type(error), error, _own_frames(error)))
    told = {
        "type": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "expected": isinstance(error, HeadwayError),
        "code": getattr(error, "code", None) if isinstance(error, HeadwayError) else None,
        "traceback": trace,
    }
    (folder / ERROR_FILE).write_text(json.dumps(told), encoding="utf-8")
    sys.stderr.write(trace)


def _own_frames(error: BaseException) -> Any:
    """The traceback from the component's body on: the frames of the executor say nothing to its author."""
    frame = error.__traceback__
    while frame is not None and "ephemeral_component" not in frame.tb_frame.f_code.co_filename:
        frame = frame.tb_next
    return frame or error.__traceback__


if __name__ == "__main__":
    sys.exit(work(json.load(sys.stdin)))

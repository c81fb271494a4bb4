"""The steps of a run as they happen: what started, what was found in the cache, what failed and why."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from headway.pipelines.embedded.worker import ERROR_FILE

State = Literal["pending", "running", "succeeded", "cached", "failed", "skipped"]
_REPORTS = {"system.HTML", "system.Markdown"}


@dataclass
class Step:
    """One step of a run."""

    name: str
    state: State = "pending"
    folder: Path = Path()
    """Where its outputs and its log lie."""
    seconds: float = 0.0
    """Wall time from the request to the worker's end."""
    reason: str = ""
    """Why it was taken from the cache, or why not."""
    last_line: str = ""
    """The last thing that it printed."""
    preamble: bool = False
    """Whether the executor is printing its input."""
    value: str = ""
    """Its single text output, such as a gate's decision."""
    metrics: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    """Paths of its artifacts by name."""
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Metadata of its artifacts by name."""
    reports: dict[str, str] = field(default_factory=dict)
    """Paths of its HTML and Markdown artifacts by name."""
    schemas: dict[str, str] = field(default_factory=dict)
    """KFP's schema titles of its artifacts by name."""
    error: dict[str, Any] | None = None
    """The step's own error: type, message, traceback."""

    def to_dict(self) -> dict[str, Any]:
        """The step as plain data."""
        shown = {key: value for key, value in vars(self).items() if key != "preamble"}
        return {**shown, "folder": str(self.folder), "log": str(self.log)}

    @property
    def log(self) -> Path:
        """The file with all that the step printed."""
        return self.folder / "log.txt"


class Steps:
    """All steps of one run, in the order in which they began; safe to use from kfp's threads.

    Args:
        planned: Names of the steps as the pipeline lists them.
        on_change: Called after every change, for a live display.
    """

    def __init__(self, planned: list[str], on_change: Callable[[Step], None]) -> None:
        self._lock = threading.RLock()
        self._steps: list[Step] = [Step(name) for name in planned]
        self._on_change = on_change

    def __iter__(self) -> Any:
        return iter(list(self._steps))

    def named(self, name: str) -> Step | None:
        """The last step of that name."""
        return next((step for step in reversed(self._steps) if step.name == name), None)

    def start(self, folder: Path, executor_input: dict[str, Any]) -> Step:
        """A step begins."""
        step = self._claim(folder.name)
        with self._lock:
            step.state, step.folder = "running", folder
            self._read_outputs(step, executor_input.get("outputs", {}))
        self._on_change(step)
        return step

    def say(self, step: Step, line: str) -> None:
        """A step printed a line."""
        if line.startswith("[KFP Executor"):
            # The executor prints all of its input as JSON over many lines: nothing for people.
            step.preamble = line.endswith("Got executor_input:")
        elif step.preamble:
            step.preamble = line != "}"
        elif line:
            step.last_line = line
            self._on_change(step)

    def end(self, step: Step, *, code: int, seconds: float) -> None:
        """A step's worker ended."""
        with self._lock:
            step.seconds = seconds
            step.state = "succeeded" if code == 0 else "failed"
            if code == 0:
                self._read_results(step)
            else:
                step.error = _error_of(step, code)
        self._on_change(step)

    def found(self, name: str, outputs: dict[str, Any], reason: str) -> None:
        """A step's outputs came from the cache."""
        step = self._claim(name)
        with self._lock:
            step.state, step.reason = "cached", reason
            for output, value in outputs.items():
                if hasattr(value, "uri"):
                    _note(step, output, value.path, dict(value.metadata), value.schema_title)
                elif isinstance(value, str):
                    step.value = value
            if step.outputs:
                step.folder = Path(next(iter(step.outputs.values()))).parent
        self._on_change(step)

    def finish(self) -> None:
        """What never began was skipped."""
        for step in self._steps:
            if step.state == "pending":
                step.state = "skipped"

    def _claim(self, name: str) -> Step:
        """The next planned step of that name, or a new one for a loop's further turns and for retries."""
        with self._lock:
            for step in self._steps:
                if step.name == name and step.state == "pending":
                    return step
            step = Step(name)
            self._steps.append(step)
            return step

    @staticmethod
    def _read_outputs(step: Step, outputs: dict[str, Any]) -> None:
        for name, listed in outputs.get("artifacts", {}).items():
            artifact = listed["artifacts"][0]
            _note(step, name, artifact["uri"], {}, artifact.get("type", {}).get("schemaTitle", ""))

    @staticmethod
    def _read_results(step: Step) -> None:
        path = step.folder / "executor_output.json"
        told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for name, listed in told.get("artifacts", {}).items():
            artifact = listed["artifacts"][0]
            _note(step, name, artifact["uri"], artifact.get("metadata", {}), step.schemas.get(name, ""))
        value = told.get("parameterValues", {}).get("Output")
        step.value = value if isinstance(value, str) else ""


def _note(step: Step, name: str, path: str, metadata: dict[str, Any], schema: str) -> None:
    step.outputs[name] = path
    step.schemas[name] = schema
    if metadata:
        step.metadata[name] = metadata
    if schema == "system.Metrics":
        numbers = {key: value for key, value in metadata.items() if isinstance(value, (int, float))}
        step.metrics = {key: numbers[key] for key in [*_order_in(Path(path)), *numbers] if key in numbers}
    if schema in _REPORTS:
        step.reports[name] = path


def _order_in(path: Path) -> list[str]:
    """The names of metrics in the order in which the step wrote them, which a cached artifact's metadata loses."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a metrics file is optional, and may be anything
        return []
    return list(written) if isinstance(written, dict) else []


def _error_of(step: Step, code: int) -> dict[str, Any]:
    """The error that the worker kept, or what its exit code says."""
    path = step.folder / ERROR_FILE
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(kept, dict):
            return kept
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    hint = " (out of memory?)" if code == -9 else ""
    return {"type": "Killed" if code < 0 else "Exit", "message": f"the step {ended}{hint}", "traceback": step.last_line}

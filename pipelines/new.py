"""Write a project for a person's own data: contract, specification, pipeline module and README.

The files are a start to be reviewed, not an answer: the contract says what the data looked like, and the comments say
where a person should look twice.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from headway.components.bundle import Task
from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import UnknownNameError, UsageError
from headway.components.register.names import model_name

_TEMPLATES = {
    "model.yaml": "model.yaml.j2",
    "pipeline.py": "pipeline.py.j2",
    "README.md": "README.md.j2",
}
_MOST_CLASSES = 50
"""A number with more distinct values than this is a quantity, not a label."""
_PRIMARY: dict[Task, str] = {"binary": "roc_auc", "multiclass": "balanced_accuracy", "regression": "mae"}


@dataclass(frozen=True)
class NewProject:
    """What was written."""

    name: str
    folder: Path
    task: Task
    target: str
    rows: int
    features: list[str]
    notes: list[str]
    """Where a person should look twice: a sentence each."""


def new_project(
    name: str,
    *,
    data: Path,
    target: str,
    time: str | None = None,
    task: Task | None = None,
    parent: Path = Path(),
) -> NewProject:
    """Infer a contract and a specification from a data file, and write a project folder.

    Args:
        name: The model's name and the folder's.
        data: A CSV or Parquet file.
        target: The column to predict.
        time: The column that says when a row happened; with it the newest rows validate the model.
        task: What is predicted, if the target's values should not decide.
        parent: The folder in which the project's folder is made.

    Raises:
        UsageError: The name is refused, the folder exists, or the target is not in the data.
        SourceError: The data cannot be read.
    """
    from headway.components.data_validate.infer import infer_with_notes, inferred_yaml

    model_name(name)
    folder = parent / name
    if folder.exists():
        raise UsageError(f"{folder}: exists already", fix="choose another name, or move the folder away")
    inferred = infer_with_notes(data, name=name, target=target, time=time)
    contract = inferred.contract
    chosen = task or _task(contract, target, inferred.target_values)
    values = {
        "name": name,
        "target": target,
        "task": chosen,
        "primary": _PRIMARY[chosen],
        "time": time,
        "source": _quoted(
            os.path.relpath(data.resolve(), folder.resolve()) if _near(data, folder) else str(data.resolve())
        ),
        "rows": inferred.rows,
        "features": list(contract.features),
        "module": name.replace("-", "_"),
    }
    _write(folder, {"contract.yaml": inferred_yaml(contract, inferred.notes)} | _rendered(values))
    notes = [f"{column}: {note}" if column else note for column, found in inferred.notes.items() for note in found]
    return NewProject(name, folder, chosen, target, inferred.rows, list(contract.features), notes)


def check_task(task: str | None) -> Task | None:
    """A task's name as given on the command line.

    Raises:
        UnknownNameError: There is no such task.
    """
    if task is not None and task not in _PRIMARY:
        raise UnknownNameError("task", task, _PRIMARY)
    return task


def _task(contract: Contract, target: str, distinct: int) -> Task:
    """What is predicted, from the target's type and its number of distinct values."""
    kind = contract.column(target).type
    if kind is ColumnType.TIMESTAMP:
        raise UsageError(
            f"The target {target!r} is a timestamp", expected="a number, a category or a yes/no column as target"
        )
    if kind is ColumnType.BOOLEAN or distinct <= 2:
        return "binary"
    if kind is ColumnType.STRING or (kind is ColumnType.INTEGER and distinct <= _MOST_CLASSES):
        return "multiclass"
    return "regression"


def _near(data: Path, folder: Path) -> bool:
    """Whether the data lies so near that a relative path still holds when both are moved together."""
    return data.resolve().is_relative_to(folder.resolve().parent)


def _quoted(text: str) -> str:
    """A YAML scalar that says exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def _rendered(values: dict[str, Any]) -> dict[str, str]:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701 - YAML, Python and Markdown, not HTML
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    root = files("headway.pipelines").joinpath("templates")
    return {
        name: environment.from_string(root.joinpath(template).read_text(encoding="utf-8")).render(values)
        for name, template in _TEMPLATES.items()
    }


def _write(folder: Path, texts: dict[str, str]) -> None:
    """Write the whole folder or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, text in texts.items():
            (scratch / name).write_text(text, encoding="utf-8")
        scratch.chmod(0o755)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise

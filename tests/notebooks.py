"""Running the project's notebooks as a reader would."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
_SECONDS = 300


def execute(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a notebook of this name in a folder, with a home of its own; it must be checked in without outputs."""
    monkeypatch.setenv("HEADWAY_HOME", str(folder / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "a notebook is checked in without outputs"
    NotebookClient(notebook, timeout=_SECONDS, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def shown(notebook: Any, kind: str) -> str:
    """What its cells showed of a kind, such as text/html."""
    found = [output.get("data", {}).get(kind, "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join("".join(text) for text in found)

"""The notebook on distributed training runs from top to bottom."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytest.importorskip("torch", reason="the notebook trains a network (headway[torch])")

NOTEBOOK = Path(__file__).resolve().parents[3] / "notebooks" / "03_distributed_training.ipynb"


def shown(notebook: Any, kind: str) -> str:
    found = [output.get("data", {}).get(kind, "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join("".join(text) for text in found)


@pytest.mark.slow
def test_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "a notebook is checked in without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    plain = shown(notebook, "text/plain")
    assert "<iframe sandbox srcdoc=" in shown(notebook, "text/html")
    assert "('onnx'," in plain
    resumed, steps, same = plain.splitlines()[-1].strip("()").split(", ")
    assert 0 < int(resumed) < int(steps)
    assert same == "True", "the resumed run learnt the same weights to the last bit"

"""The notebook on distributed training runs from top to bottom."""

from pathlib import Path

import pytest

from tests.notebooks import execute, shown

pytest.importorskip("torch", reason="the notebook trains a network (headway[torch])")


@pytest.mark.slow
def test_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute("03_distributed_training", tmp_path, monkeypatch)
    plain = shown(notebook, "text/plain")
    assert "<iframe sandbox srcdoc=" in shown(notebook, "text/html")
    assert "('onnx'," in plain
    resumed, steps, same = plain.splitlines()[-1].strip("()").split(", ")
    assert 0 < int(resumed) < int(steps)
    assert same == "True", "the resumed run learnt the same weights to the last bit"

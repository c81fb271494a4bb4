"""The notebooks run from top to bottom, and a notebook shows a cluster's run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from headway.components.errors import PipelineError
from headway.pipelines.notebook import submit
from tests.pipelines.fake_kfp import FakeKfp, fake_kfp

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
_SECONDS = 300


@pytest.fixture
def fake() -> Iterator[FakeKfp]:
    with fake_kfp() as running:
        yield running


def outputs(notebook: Any, kind: str) -> str:
    found = [output.get("data", {}).get(kind, "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join("".join(text) for text in found)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "a notebook is checked in without outputs"
    NotebookClient(notebook, timeout=_SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    html, plain = outputs(notebook, "text/html"), outputs(notebook, "text/plain")
    assert "promote" in html
    assert "roc_auc" in html
    assert "<iframe sandbox srcdoc=" in html
    assert "('arrival_delay', 'declared', 'block')" in plain


class TestSubmittingFromANotebook:
    def test_shows_the_link_and_the_tasks(self, fake: FakeKfp, toy: Path) -> None:
        submission = submit("toy", endpoint=fake.url, run_name="from a <notebook>")
        html = submission._repr_html_()
        assert f'<a href="{submission.url}"' in html
        assert "from a &lt;notebook&gt;" in html
        assert submission.wait(timeout=60).refresh().succeeded

    def test_says_when_it_did_not_end_in_time(self, fake: FakeKfp, toy: Path) -> None:
        fake.script = ["PENDING"]
        with pytest.raises(PipelineError):
            submit("toy", endpoint=fake.url).wait(timeout=0.2)

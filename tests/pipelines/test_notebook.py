"""The quickstart runs from top to bottom, and a notebook shows a cluster's run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headway.components.errors import PipelineError
from headway.pipelines.notebook import submit
from tests.notebooks import NOTEBOOKS, execute, shown
from tests.pipelines.fake_kfp import FakeKfp, fake_kfp


@pytest.fixture
def fake() -> Iterator[FakeKfp]:
    with fake_kfp() as running:
        yield running


@pytest.mark.slow
def test_the_quickstart_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = execute("01_quickstart", tmp_path, monkeypatch)
    html, plain = shown(notebook, "text/html"), shown(notebook, "text/plain")
    assert "promote" in html
    assert "roc_auc" in html
    assert "<iframe sandbox srcdoc=" in html
    assert "('arrival_delay', 'declared', 'block')" in plain


def test_every_notebook_is_run_by_some_test() -> None:
    tests = [path.read_text() for path in NOTEBOOKS.parent.glob("tests/**/test_notebook.py")]
    names = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    assert names
    assert [name for name in names if not any(f'execute("{name}"' in text for text in tests)] == []


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

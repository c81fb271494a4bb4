"""A release as a pipeline's last step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway.components.errors import ReleaseError
from headway.serving.release import step
from headway.serving.release.state import State
from tests.serving.release.test_driver import QUICK, make, serve_first, start

SECTION = "steps: [20, 100]\n" + "".join(f"{key}: {value}\n" for key, value in QUICK.items())
Use = Callable[..., None]


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Let the step find the world of files."""

    def put(**platform: Any) -> None:
        monkeypatch.setattr(step, "Releases", lambda settings: make(tmp_path, **platform))

    return put


def test_it_releases_and_leaves_a_page(tmp_path: Path, use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    serve_first(tmp_path)
    use()
    report = tmp_path / "report.html"
    released = step.release_version("m", "2", SECTION, reason="retrained", report=report)
    assert (released.end, released.release.state) == ("promoted", State.PROMOTED)
    assert "- pass: server errors" in released.summary
    assert "retrained" in report.read_text(encoding="utf-8")
    assert "stage 1 of 2" in capsys.readouterr().out


def test_a_version_that_is_taken_back_fails_the_step_after_its_report(tmp_path: Path, use: Use) -> None:
    serve_first(tmp_path)
    use(bad={"v2": 30})
    report = tmp_path / "report.html"
    with pytest.raises(ReleaseError, match="was rolled back: server errors") as told:
        step.release_version("m", "2", SECTION, reason="retrained", report=report)
    assert "headway release explain m --id" in str(told.value)
    assert "rolled_back" in report.read_text(encoding="utf-8")


def test_a_retried_step_goes_on_with_its_release(tmp_path: Path, use: Use) -> None:
    releases = serve_first(tmp_path)
    begun = start(releases, "canary")
    use()
    released = step.release_version("m", "2", SECTION, reason="retrained")
    assert released.release.id == begun.id
    assert len(releases.history("m")) == 2


def test_what_waits_for_a_person_is_held(tmp_path: Path, use: Use) -> None:
    serve_first(tmp_path)
    use()
    decision = "strategy: ab\ndecision: {metric: brier, minimum_effect: 0.05}\n"
    released = step.release_version("m", "2", SECTION + decision, reason="a question")
    assert released.end == "held"
    assert "decided" in released.summary

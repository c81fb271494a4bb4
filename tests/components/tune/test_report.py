"""The report: history, importances, parallel coordinates, failures; one file, every text escaped."""

import re
from pathlib import Path
from typing import Any

import pytest

from headway.components.settings import Settings
from headway.components.tune.display import Lines, line
from headway.components.tune.outcome import Outcome, read_outcome
from headway.components.tune.report import render, summary
from headway.components.tune.search import Progress
from headway.components.tune.study import StudySession
from headway.components.tune.worker import work

SPACE = {
    "x": {"type": "float", "low": 0.001, "high": 1, "log": True},
    "kind": {"type": "categorical", "values": ["plain", "fails", "<b>&amp"]},
    "epochs": {"type": "int", "low": 1, "high": 9, "when": {"kind": "plain"}},
}


@pytest.fixture
def outcome(made: Any, settings: Settings) -> Any:
    def make(trials: int = 30, training: str = "{x: 0.5, kind: plain, epochs: 3}", **more: Any) -> Outcome:
        job = made(training, trials=trials, space=more.pop("space", SPACE), **more)
        work(job, "w", settings)
        return read_outcome(StudySession(job, settings, "look"), ended="trials", seconds=12.3, folder=Path())

    return make


def test_page(outcome: Any) -> None:
    found = outcome()
    page = render(found)
    assert f"roc_auc {found.best.value:.6g} in trial {found.best.number} of 30" in page
    for title in ("Best parameters", "Optimisation history", "Parameters", "Failed trials", "All trials"):
        assert title in page
    assert not re.search(r"(src|href)=|<script|@import|url\(", page)
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;amp" in page
    assert "ValueError: this value is not good" in page
    assert page.count("<circle") == sum(row.value is not None for row in found.rows)
    finished = sum(row.state == "finished" for row in found.rows)
    assert page.count("<polyline") == finished + 1  # and the best so far
    assert 'class="s1" style="stroke-width:3"' in page
    assert "A line below an axis" in page
    assert "x: " in page.split("<pre><code>")[1]


def test_best_so_far_rises_only(outcome: Any) -> None:
    page = render(outcome(space={"x": SPACE["x"]}))
    points = re.search(r'<polyline class="s1" points="([^"]*)"', page)
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert heights == sorted(heights, reverse=True)  # y grows downwards


def test_page_without_a_finished_trial(outcome: Any) -> None:
    page = render(outcome(training="{kind: fails}", space={"x": SPACE["x"]}))
    assert "No trial of 10 finished." in page
    assert "Best parameters" not in page
    assert "Failed trials (10)" in page


def test_page_of_one_trial(outcome: Any) -> None:
    page = render(outcome(trials=1))
    assert "Too few trials finished to compare parameters." in page


@pytest.mark.parametrize("evaluation", ["folds", "validation"])
def test_the_validation_part_comes_with_a_caution(outcome: Any, evaluation: str) -> None:
    found = outcome(trials=2, evaluation=evaluation)
    for text in (render(found), summary(found)):
        assert ("flatter this model" in text) is (evaluation == "validation")


def test_summary_carries_the_section(outcome: Any) -> None:
    found = outcome()
    text = summary(found)
    assert found.training.rstrip() in text
    assert f"| `x` | {found.best.values['x']:.4g} |" in text


def test_lines(outcome: Any, capsys: Any) -> None:
    from rich.console import Console

    found = outcome(trials=4)
    last = found.rows[0]
    progress = Progress(done=1, total=4, running=2, best=last, last=last, left=130.0)
    told = line(progress, "roc_auc")
    assert re.fullmatch(
        r"trial 0 +finished +roc_auc 0\.96  \d\.\d s  x=0\.5 kind=plain epochs=3 \| "
        r"1/4 trials, 2 running, best roc_auc 0\.96 \(trial 0\), 2\.2 min left",
        told,
    )
    with Lines("roc_auc", Console(file=__import__("sys").stdout, soft_wrap=True)) as lines:
        lines.update(progress)
        lines.update(Progress(done=1, total=4, running=2, best=last, last=None, left=130.0))
    assert capsys.readouterr().out.strip() == told

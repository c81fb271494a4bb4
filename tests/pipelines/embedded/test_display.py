"""What a person sees of a run while it goes on."""

import io
import json
from pathlib import Path

from rich.console import Console

from headway.pipelines.embedded.display import Display, line, told
from headway.pipelines.embedded.steps import Step, Steps

PREAMBLE = [
    "[KFP Executor 2026-01-01 00:00:00,000 INFO]: Got executor_input:",
    "{",
    '    "inputs": {"secret": 1}',
    "}",
]


def started(folder: Path, *lines: str) -> Step:
    steps = Steps(["ingest"], lambda step: None)
    step = steps.start(folder / "ingest", {})
    for text in lines:
        steps.say(step, text)
    return step


def test_what_a_step_prints_is_shown_and_what_the_executor_prints_is_not(tmp_path: Path) -> None:
    assert told(started(tmp_path, *PREAMBLE)) == ""
    assert told(started(tmp_path, *PREAMBLE, "reading part 3 of 7", *PREAMBLE)) == "reading part 3 of 7"


def test_a_failed_step_shows_the_first_line_of_its_error() -> None:
    assert told(Step("train", state="failed", error={"message": "no rows\nExpected: some"})) == "no rows"
    assert told(Step("train", state="failed", error={"message": ""})) == ""


def test_a_finished_step_shows_its_value_its_first_metrics_and_its_reason() -> None:
    metrics = {"roc_auc": 0.75361, "rows": 336776.0, "a": 1.0, "b": 2.0, "c": 3.0}
    step = Step("evaluate", state="cached", seconds=1.25, value="promote", metrics=metrics, reason="unchanged since r")
    assert line(step) == (
        "= evaluate           1.2 s  promote  roc_auc 0.7536 · rows 336,776 · a 1 · b 2  (cached: unchanged since r)"
    )


def test_without_a_terminal_each_step_is_a_line_when_it_has_ended() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=200)) as display:
        for state in ("pending", "running", "succeeded"):
            display.update(Step("ingest", state=state))  # type: ignore[arg-type]
    assert out.getvalue() == "✓ ingest             0.0 s\n"


def test_in_a_terminal_the_steps_to_come_are_listed_too() -> None:
    out = io.StringIO()
    display = Display(Console(file=out, width=200, force_terminal=True))
    with display:
        display.update(Step("ingest", state="running"))
        display.update(Step("train"))
        cells = [list(column.cells) for column in display._table().columns]
    assert cells[0] == ["›", "·"]  # noqa: RUF001
    assert cells[1] == ["ingest", "train"]
    assert cells[2][1] == ""


def test_metrics_keep_the_order_in_which_the_step_wrote_them(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text(json.dumps({"z": 1, "a": 2}))
    artifact = {"uri": str(tmp_path / "metrics"), "type": {"schemaTitle": "system.Metrics"}}
    written = {"uri": str(tmp_path / "metrics"), "metadata": {"a": 2, "z": 1}}
    steps = Steps(["evaluate"], lambda step: None)
    step = steps.start(tmp_path, {"outputs": {"artifacts": {"metrics": {"artifacts": [artifact]}}}})
    output = {"artifacts": {"metrics": {"artifacts": [written]}}}
    (tmp_path / "executor_output.json").write_text(json.dumps(output))
    steps.end(step, code=0, seconds=1.0)
    assert list(step.metrics) == ["z", "a"]

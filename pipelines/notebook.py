"""What a notebook shows of a run: the decision, the steps, the metrics, the report.

from headway.pipelines.notebook import run
result = run("flights")
result
"""

import html
from pathlib import Path
from typing import TYPE_CHECKING

from headway.components import page
from headway.pipelines.run import run

if TYPE_CHECKING:
    from headway.pipelines.run import RunResult

__all__ = ["result_html", "run"]

_STATUS: dict[str, page.Status] = {"promote": "good", "hold": "warn", "reject": "bad"}
_REPORT_HEIGHT = 620


def result_html(result: "RunResult") -> str:
    """A run as HTML: headline, steps, metrics, and the evaluation's report in a frame of its own."""
    status: page.Status = "bad" if result.state == "failed" else _STATUS.get(result.decision, "neutral")
    headline = result.decision or result.state
    version = f" · registered as version {html.escape(result.version)}" if result.version else ""
    steps = page.table(
        ["step", "state", "seconds", "result"],
        [[step.name, step.state, round(step.seconds, 1), _result_of(step)] for step in result.steps],
        numeric=[2],
    )
    metrics = page.table(["metric", "value"], list(result.metrics.items()), numeric=[1]) if result.metrics else ""
    head = (
        f"<p>{page.badge(headline, status)} <b>{html.escape(result.pipeline)}</b>{version} · {result.seconds:.1f} s</p>"
    )
    return f"{head}{steps}{metrics}{_report_frame(result)}"


def _result_of(step: object) -> str:
    from headway.pipelines.embedded.display import told
    from headway.pipelines.embedded.steps import Step

    return told(step) if isinstance(step, Step) else ""


def _report_frame(result: "RunResult") -> str:
    report = result.reports.get("evaluate")
    if not report or not Path(report).exists():
        return ""
    text = html.escape(Path(report).read_text(encoding="utf-8"), quote=True)
    return (
        f'<iframe sandbox srcdoc="{text}" style="width:100%;height:{_REPORT_HEIGHT}px;border:1px solid #ddd"></iframe>'
    )

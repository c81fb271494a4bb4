"""Pipelines from a notebook: three lines run one here, or submit it to a cluster, and show what came of it.

from headway.pipelines.notebook import run, submit
result = run("flights")
result
"""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.components import page
from headway.pipelines import runs
from headway.pipelines import submit as submission_module
from headway.pipelines.embedded.display import told
from headway.pipelines.endpoint import Endpoint
from headway.pipelines.project import compiled_with_arguments
from headway.pipelines.run import RunResult, run
from headway.pipelines.runs import RemoteRun
from headway.pipelines.submit import Submission

__all__ = ["ClusterRun", "Page", "result_html", "run", "submit"]

_STATUS: dict[str, page.Status] = {"promote": "good", "hold": "warn", "reject": "bad"}
_REMOTE_STATUS: dict[str, page.Status] = {"SUCCEEDED": "good", "SKIPPED": "good", "FAILED": "bad", "CANCELED": "warn"}
_REPORT_HEIGHT = 620


@dataclass(frozen=True)
class Page:
    """A report that a notebook shows, in a frame of its own where no script runs."""

    html: str = field(repr=False)

    def _repr_html_(self) -> str:
        text = html.escape(self.html, quote=True)
        style = f"width:100%;height:{_REPORT_HEIGHT}px;border:1px solid #ddd"
        return f'<iframe sandbox srcdoc="{text}" style="{style}"></iframe>'


@dataclass
class ClusterRun:
    """A run on a cluster; a notebook shows its link, its state and its tasks."""

    submission: Submission
    endpoint: Endpoint

    @property
    def url(self) -> str:
        """The run's page."""
        return self.submission.url

    def refresh(self) -> RemoteRun:
        """The run as the cluster reports it now."""
        return runs.get_run(self.endpoint, self.submission.run_id)

    def wait(self, *, timeout: float | None = None) -> "ClusterRun":
        """Wait until the run has ended, and return it.

        Raises:
            StepFailedError: A task failed; names it.
            PipelineError: It was canceled, or did not end in time.
        """
        runs.wait(self.endpoint, self.submission.run_id, timeout=timeout).require_success()
        return self

    def _repr_html_(self) -> str:
        now = self.refresh()
        address, name = html.escape(self.url, quote=True), html.escape(self.submission.run_name)
        link = f'<a href="{address}" target="_blank">{name}</a>'
        problem = f"<p>{html.escape(self.submission.link_problem)}</p>" if self.submission.link_problem else ""
        tasks = page.table(["task", "state", "error"], [[task.name, task.state, task.error] for task in now.tasks])
        return f"<p>{page.badge(now.state, _REMOTE_STATUS.get(now.state, 'neutral'))} {link}</p>{problem}{tasks}"


def submit(
    pipeline: str,
    *,
    endpoint: str | None = None,
    namespace: str | None = None,
    set: list[str] | None = None,
    **options: Any,
) -> ClusterRun:
    """Submit a pipeline to Kubeflow Pipelines.

    Args:
        pipeline: A shipped example's name, a project's folder, or a compiled pipeline's `.yaml`.
        endpoint: The API's address; else KF_PIPELINES_ENDPOINT, else the `kfp_endpoint` setting.
        namespace: The profile namespace of a multi-user installation.
        set: `section.key=value` changes to the specification.
        **options: What `headway.pipelines.submit.submit` takes: experiment, run_name, cache, image, service_account.
    """
    where = Endpoint.from_settings(host=endpoint, namespace=namespace)
    text, arguments = compiled_with_arguments(pipeline, set)
    options.setdefault("image", submission_module.configured_image())
    return ClusterRun(submission_module.submit(text, endpoint=where, arguments=arguments, **options), where)


def result_html(result: RunResult) -> str:
    """A run as HTML: headline, steps, metrics, and the evaluation's report in a frame of its own."""
    status: page.Status = "bad" if result.state == "failed" else _STATUS.get(result.decision, "neutral")
    version = f" · registered as version {html.escape(result.version)}" if result.version else ""
    badge = page.badge(result.decision or result.state, status)
    head = f"<p>{badge} <b>{html.escape(result.pipeline)}</b>{version} · {result.seconds:.1f} s</p>"
    steps = page.table(
        ["step", "state", "seconds", "result"],
        [[step.name, step.state, round(step.seconds, 1), told(step)] for step in result.steps],
        numeric=[2],
    )
    metrics = page.table(["metric", "value"], list(result.metrics.items()), numeric=[1]) if result.metrics else ""
    return f"{head}{steps}{metrics}{_report_frame(result)}"


def _report_frame(result: RunResult) -> str:
    report = result.reports.get("evaluate")
    if not report or not Path(report).exists():
        return ""
    return Page(Path(report).read_text(encoding="utf-8"))._repr_html_()

"""What the commands that talk to Kubeflow Pipelines share: their options, and how they show a run."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.endpoint import Endpoint
    from headway.pipelines.runs import RemoteRun

EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint", metavar="URL", help="The Kubeflow Pipelines API; else KF_PIPELINES_ENDPOINT, else kfp_endpoint."
    ),
]
NamespaceOption = Annotated[
    str | None, typer.Option(help="The profile namespace of a multi-user installation; else kfp_namespace.")
]
TimeoutOption = Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="Give up waiting after this long.")]

_STYLES = {"SUCCEEDED": "green", "SKIPPED": "green", "FAILED": "red", "CANCELED": "yellow", "CANCELING": "yellow"}


def endpoint(address: str | None, namespace: str | None) -> "Endpoint":
    """The endpoint that flags, environment and settings say."""
    from headway.pipelines.endpoint import Endpoint

    return Endpoint.from_settings(host=address, namespace=namespace)


def wait_for(where: "Endpoint", run_id: str, timeout: float | None) -> "RemoteRun":
    """Wait for a run and tell each change on standard error; an interrupt leaves the run alone and says so."""
    from headway.pipelines.cli.output import error_console
    from headway.pipelines.runs import wait

    err = error_console()
    try:
        return wait(where, run_id, timeout=timeout, on_change=lambda run: err.print(_progress(run), markup=False))
    except KeyboardInterrupt:
        err.print(f"Not waiting any more; run {run_id} goes on.", markup=False)
        err.print(f"Look at it with `headway runs show {run_id}`, stop it with `headway runs stop {run_id}`.")
        raise typer.Exit(130) from None


def as_document(run: "RemoteRun") -> dict[str, Any]:
    """A run as JSON holds it."""
    from dataclasses import asdict

    return asdict(run, dict_factory=_with_text_times)


def render_run(out: "Console", run: "RemoteRun") -> None:
    """One run with its tasks, for people."""
    from rich.markup import escape
    from rich.table import Table

    out.print(f"[bold]{escape(run.name)}[/]  {_styled(run.state)}")
    out.print(f"run {run.run_id}, created {when(run.created_at)}, finished {when(run.finished_at)}", soft_wrap=True)
    if run.tasks:
        table = Table(box=None, pad_edge=False)
        for title in ("task", "state", "seconds", "error"):
            table.add_column(title, justify="right" if title == "seconds" else "left", overflow="fold")
        for task in run.tasks:
            table.add_row(
                escape(task.name), _styled(task.state), _seconds(task.started_at, task.finished_at), escape(task.error)
            )
        out.print(table)
    out.print(run.url, soft_wrap=True, markup=False)


def render_runs(out: "Console", runs: "list[RemoteRun]") -> None:
    """A list of runs, for people."""
    from rich.markup import escape
    from rich.table import Table

    if not runs:
        out.print("no runs")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("run", "name", "state", "created"):
        table.add_column(title, overflow="fold")
    for run in runs:
        table.add_row(run.run_id, escape(run.name), _styled(run.state), when(run.created_at))
    out.print(table)


def when(moment: datetime | None) -> str:
    """A moment as people read it, in UTC; a dash for one that has not come."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else "-"


def _progress(run: "RemoteRun") -> str:
    running = [task.name for task in run.tasks if task.state == "RUNNING"]
    return f"{run.state}: {', '.join(running)}" if running else run.state


def _styled(state: str) -> str:
    style = _STYLES.get(state, "")
    return f"[{style}]{state}[/]" if style else state


def _seconds(started: datetime | None, finished: datetime | None) -> str:
    return f"{(finished - started).total_seconds():.0f}" if started and finished else "-"


def _with_text_times(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value for key, value in pairs}

"""`headway runs`: the runs on Kubeflow Pipelines."""

from typing import Annotated

import typer

from headway.pipelines.cli.output import JsonOption, emit
from headway.pipelines.cli.remote import (
    EndpointOption,
    NamespaceOption,
    TimeoutOption,
    as_document,
    endpoint,
    render_run,
    render_runs,
    wait_for,
)

app = typer.Typer(no_args_is_help=True, help="Runs on Kubeflow Pipelines: list, show, wait, stop.")

RunArgument = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run's id, as `headway runs list` shows it.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    experiment: Annotated[str | None, typer.Option(help="Only the runs of this experiment.")] = None,
    address: EndpointOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the latest runs, newest first."""
    from headway.pipelines.runs import list_runs

    found = list_runs(endpoint(address, namespace), limit=limit, experiment=experiment)
    emit([as_document(run) for run in found], as_json=as_json, render=lambda out: render_runs(out, found))


@app.command()
def show(
    run_id: RunArgument,
    address: EndpointOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one run and its tasks."""
    from headway.pipelines.runs import get_run

    run = get_run(endpoint(address, namespace), run_id)
    emit(as_document(run), as_json=as_json, render=lambda out: render_run(out, run))


@app.command()
def stop(
    run_id: RunArgument,
    address: EndpointOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run; one that has ended stays as it is."""
    from headway.pipelines.runs import terminate

    run = terminate(endpoint(address, namespace), run_id)
    emit(as_document(run), as_json=as_json, render=lambda out: out.print(f"run {run.run_id} is {run.state}"))


@app.command()
def wait(
    run_id: RunArgument,
    timeout: TimeoutOption = None,
    address: EndpointOption = None,
    namespace: NamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait until a run has ended; exit code 1 when it failed, was canceled or takes too long."""
    run = wait_for(endpoint(address, namespace), run_id, timeout)
    emit(as_document(run), as_json=as_json, render=lambda out: render_run(out, run))
    run.require_success()

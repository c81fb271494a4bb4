"""`headway submit`: a pipeline on Kubeflow Pipelines."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.pipelines.cli.output import JsonOption, emit, error_console
from headway.pipelines.cli.remote import (
    EndpointOption,
    NamespaceOption,
    TimeoutOption,
    as_document,
    endpoint,
    render_run,
    wait_for,
)
from headway.pipelines.cli.run import SetOption

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.runs import RemoteRun
    from headway.pipelines.submit import Schedule, Submission


def submit(
    pipeline: Annotated[
        str, typer.Argument(help="A shipped example (flights), a project's folder, or a compiled pipeline's .yaml.")
    ],
    set_: SetOption = None,
    experiment: Annotated[str, typer.Option(help="The experiment that the run belongs to.")] = "headway",
    run_name: Annotated[str | None, typer.Option(help="The run's name; else the pipeline's and the time.")] = None,
    address: EndpointOption = None,
    namespace: NamespaceOption = None,
    image: Annotated[str | None, typer.Option(help="The image of every step; else the `image` setting.")] = None,
    cache: Annotated[
        bool | None, typer.Option("--cache/--no-cache", help="Caching of every step; else as each is written.")
    ] = None,
    service_account: Annotated[str | None, typer.Option(help="The Kubernetes service account of the steps.")] = None,
    cron: Annotated[
        str | None, typer.Option(metavar="SCHEDULE", help="Run it on this schedule instead: six fields, second first.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended.")] = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline on Kubeflow Pipelines.

    The same text is uploaded once: a second submission runs the version that is there. Exit codes: 0 it was submitted
    (with --wait: it succeeded); 1 it failed, was canceled, or the platform said no; 2 the call is wrong.
    """
    from headway.components.errors import UsageError
    from headway.pipelines.project import compiled_with_arguments
    from headway.pipelines.submit import configured_image
    from headway.pipelines.submit import schedule as schedule_pipeline
    from headway.pipelines.submit import submit as submit_pipeline

    if wait and cron is not None:
        raise UsageError("--wait waits for one run, and --cron makes many", fix="leave one of them out")
    text, arguments = compiled_with_arguments(pipeline, set_)
    where = endpoint(address, namespace)
    options: dict[str, Any] = {
        "endpoint": where,
        "arguments": arguments,
        "experiment": experiment,
        "cache": cache,
        "image": image or configured_image(),
        "service_account": service_account,
    }
    if cron is not None:
        recurring = schedule_pipeline(text, cron=cron, name=run_name, **options)
        emit(_document(recurring), as_json=as_json, render=lambda out: _scheduled(out, recurring))
        return
    submission = submit_pipeline(text, run_name=run_name, **options)
    if not wait:
        emit(_document(submission), as_json=as_json, render=lambda out: _submitted(out, submission))
        return
    _submitted(error_console(), submission)
    run = wait_for(where, submission.run_id, timeout)
    _ended(submission, run, as_json=as_json)


def _document(result: "Submission | Schedule") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(result)


def _submitted(out: "Console", submission: "Submission") -> None:
    again = " (uploaded before)" if submission.reused_version else ""
    out.print(f"Submitted {submission.run_name!r}, version {submission.version_name}{again}", markup=False)
    out.print(submission.url, soft_wrap=True, markup=False)
    if submission.link_problem:
        out.print(submission.link_problem, markup=False)


def _scheduled(out: "Console", recurring: "Schedule") -> None:
    out.print(f"Scheduled {recurring.name!r}: {recurring.cron} (UTC)", markup=False)
    out.print(recurring.url, soft_wrap=True, markup=False)


def _ended(submission: "Submission", run: "RemoteRun", *, as_json: bool) -> None:
    document = {**_document(submission), **as_document(run)}
    emit(document, as_json=as_json, render=lambda out: render_run(out, run))
    run.require_success()

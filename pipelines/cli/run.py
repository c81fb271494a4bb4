"""`headway run`: a pipeline on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from headway.pipelines.cli.output import JsonOption, emit, error_console

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.run import RunResult

SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Change the model specification for this run; may be repeated."
    ),
]
_VERDICTS = {
    "promote": ("green", "The gate says promote."),
    "hold": ("yellow", "The gate says hold: a person should look at the report."),
    "reject": ("red", "The gate says reject."),
}


def run(
    pipeline: Annotated[
        str, typer.Argument(help="A shipped example (flights), a project's folder, or a compiled .yaml.")
    ],
    set_: SetOption = None,
    cache: Annotated[bool, typer.Option(help="Take steps whose inputs did not change from earlier runs.")] = True,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run the steps in this process, for a debugger.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline on this machine: no Docker, no Kubernetes.

    Exit codes: 0 the run succeeded; 1 a step failed or the gate said reject; 2 the call is wrong; 3 the gate said hold.
    """
    from headway.pipelines.embedded.workers import make_workers

    with make_workers(in_process=in_process) as workers:  # their libraries load while ours do
        from headway.pipelines.embedded.display import Display
        from headway.pipelines.run import run as run_pipeline

        with Display(error_console()) as display:
            result = run_pipeline(pipeline, set=set_, cache=cache, workers=workers, on_change=display.update)
    emit(result.to_dict(), as_json=as_json, render=lambda out: _summary(out, result))
    result.raise_if_failed()
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _summary(out: "Console", result: "RunResult") -> None:
    from rich.table import Table

    from headway.pipelines.embedded.display import MARKS, STYLES, told

    table = Table(box=None, pad_edge=False, title=None)
    for title in ("", "step", "seconds", "result"):
        table.add_column(title, justify="right" if title == "seconds" else "left", overflow="fold")
    for step in result.steps:
        table.add_row(MARKS[step.state], step.name, f"{step.seconds:.1f}", told(step), style=STYLES[step.state])
    out.print(table)
    if result.decision:
        colour, sentence = _VERDICTS[result.decision]
        registered = f" Registered as version {result.version}." if result.version else ""
        out.print(f"[bold {colour}]{sentence}[/]{registered}")
    for name, path in result.reports.items():
        out.print(f"report of {name}: {path}", soft_wrap=True)
    out.print(f"{result.state} in {result.seconds:.1f} s; all files: {result.folder}", soft_wrap=True)

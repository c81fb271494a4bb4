"""`headway tune`: the best training section of a model, searched here or written out for a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.pipelines.cli.output import JsonOption, emit, error_console
from headway.pipelines.cli.run import SetOption

if TYPE_CHECKING:
    from rich.console import Console

    from headway.components.tune.objective import Job
    from headway.components.tune.outcome import Outcome
    from headway.components.tune.spec import TuningSpec
    from headway.pipelines.project import Project

_CANCELLED = 130


def tune(
    pipeline: Annotated[str, typer.Argument(help="A shipped example (flights) or a project's folder.")],
    set_: SetOption = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials in all, earlier ones of this study too.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget of this search.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; they share the cores.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier search of this study found.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the best training section into this YAML file.")] = None,
    cache: Annotated[bool, typer.Option(help="Take data steps whose inputs did not change from earlier runs.")] = True,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Run the trials in this process, for a debugger.")
    ] = False,
    compile_: Annotated[
        Path | None, typer.Option("--compile", help="Search nothing: write the tuning pipeline for a cluster there.")
    ] = None,
    katib: Annotated[
        Path | None, typer.Option("--katib", help="Search nothing: write a Katib Experiment there; needs --claim.")
    ] = None,
    claim: Annotated[
        str | None, typer.Option(help="Katib: the volume claim with train.parquet and validation.parquet.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the best hyperparameters of a model, as the `tuning` section of its model.yaml says.

    The same search goes on where it stopped: after Ctrl-C, after a kill, and with more trials after its end.

    Exit codes: 0 it found some; 1 no trial finished; 2 the call is wrong; 130 cancelled, what was found is kept.
    """
    from headway.components.errors import UsageError
    from headway.pipelines.project import resolve
    from headway.pipelines.tune import tuning_of

    if (katib is None) is not (claim is None):
        raise UsageError("--katib and --claim go together", fix="give both, or neither")
    if katib is not None and compile_ is not None:
        raise UsageError("--katib and --compile exclude each other", fix="give one of them")
    project = resolve(pipeline, set_)
    spec = tuning_of(project, {"trials": trials, "minutes": minutes, "workers": workers})
    if compile_ is not None:
        told = _compile(project, spec, compile_)
        emit(told, as_json=as_json, render=lambda out: out.print(f"{told['pipeline']}: {compile_}", soft_wrap=True))
        return
    job = _prepared(project, spec, cache=cache)
    if katib is not None and claim is not None:
        told = _katib(job, katib, claim)
        emit(told, as_json=as_json, render=lambda out: _render_katib(out, told))
        return
    outcome = _search(job, fresh=fresh, in_process=in_process)
    emit(outcome.to_dict(), as_json=as_json, render=lambda out: _summary(out, outcome))
    if outcome.ended == "cancelled":
        raise typer.Exit(_CANCELLED)
    outcome.require_best()
    if output is not None:
        output.write_text(outcome.training, encoding="utf-8")


def _prepared(project: "Project", spec: "TuningSpec", *, cache: bool) -> "Job":
    from headway.pipelines.embedded.display import Display
    from headway.pipelines.embedded.workers import make_workers
    from headway.pipelines.tune import prepare

    with make_workers() as workers, Display(error_console()) as display:
        return prepare(project, spec, cache=cache, workers=workers, on_change=display.update)


def _search(job: "Job", *, fresh: bool, in_process: bool) -> "Outcome":
    from headway.components.tune.display import Lines
    from headway.components.tune.search import search

    with Lines(job.metric, error_console()) as lines:
        return search(job, fresh=fresh, in_process=in_process, on_progress=lines.update)


def _compile(project: "Project", spec: "TuningSpec", path: Path) -> dict[str, Any]:
    from headway.pipelines.compile import compile_pipeline
    from headway.pipelines.tune import TuningProject

    cluster = TuningProject(project.folder, project.overrides, tuning=spec)
    compiled = compile_pipeline(
        cluster.pipeline(), output=path, name=cluster.pipeline_name, parameters=cluster.arguments()
    )
    return {"pipeline": cluster.pipeline_name, "path": str(path), "digest": compiled.digest}


def _katib(job: "Job", path: Path, claim: str) -> dict[str, Any]:
    from headway.components.settings import load_settings
    from headway.components.tune.katib import Cluster, dump, experiment
    from headway.pipelines.compile import write_atomically

    settings = load_settings()
    documents = experiment(job, Cluster(claim=claim, namespace=settings.serving_namespace, image=settings.image))
    write_atomically(path, dump(documents))
    return {"experiment": documents[-1]["metadata"]["name"], "path": str(path), "data": [job.train, job.validation]}


def _render_katib(out: "Console", told: dict[str, Any]) -> None:
    out.print(f"Experiment {told['experiment']}: {told['path']}", soft_wrap=True)
    train, validation = told["data"]
    out.print(f"The claim needs {train} as train.parquet and {validation} as validation.parquet", soft_wrap=True)


def _summary(out: "Console", outcome: "Outcome") -> None:
    from headway.components.tune.report import shown

    if outcome.best is not None:
        out.print(f"[bold green]{outcome.headline}[/]", soft_wrap=True)
        for key, value in outcome.best.values.items():
            out.print(f"  {key}: {shown(value)}", markup=False, soft_wrap=True)
    told = ", ".join(f"{count} {state}" for state, count in outcome.counts.items())
    out.print(f"{told or 'no trials'} in {outcome.seconds:.1f} s", soft_wrap=True)
    out.print(f"report: {outcome.folder / 'report.html'}", soft_wrap=True)
    if outcome.best is not None:
        out.print(f"training section: {outcome.folder / 'training.yaml'}", soft_wrap=True)
    if outcome.ended == "cancelled":
        out.print("Cancelled; run it again to go on from here.")

"""`headway experiment`: who sees which variant, what came of it, and whether one has won."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.pipelines.cli.actor import user
from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from headway.serving.experiment.analysis import Results
    from headway.serving.experiment.experiment import Experiment, Experiments
    from headway.serving.experiment.spec import ExperimentSpec, Move, Standing

app = typer.Typer(no_args_is_help=True, help="Experiments: who sees which variant, and which one has won.")

NameArgument = Annotated[str, typer.Argument(help="The experiment's name.")]
ReasonOption = Annotated[str, typer.Option(help="Why, in words; it goes into the ledger.")]
ActorOption = Annotated[str | None, typer.Option(help="Who does it; the user of this machine by default.")]
_DOUBTFUL = 3


@app.command()
def create(
    name: Annotated[str | None, typer.Argument(help="The experiment's name; may stand in the file instead.")] = None,
    file: Annotated[Path | None, typer.Option(help="A YAML file with the experiment; options win over it.")] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="NAME=SHARE, such as v1=0.9, the control first; NAME alone for equal shares. Repeat it."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="NAME, NAME:numeric, and :lower where lower is better; the deciding one first. Repeat it."),
    ] = None,
    covariate: Annotated[str | None, typer.Option(help="A number known of users from before.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="The endpoint whose payload log says who saw what.")] = None,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an experiment, as a draft or running."""
    given = {
        "name": name,
        "variants": _variants(variant) if variant else None,
        "metrics": [_metric(text) for text in metric] if metric else None,
        "covariate": covariate,
        "endpoint": endpoint,
    }
    spec = _spec(file, {key: value for key, value in given.items() if value is not None})
    experiment = _experiments().create(spec, actor=actor or user(), auto_start=start)
    _told(experiment.standing(), as_json)


@app.command()
def start(
    name: NameArgument, reason: ReasonOption = "", actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """Begin to assign users."""
    _move(name, "start", reason, actor, as_json)


@app.command()
def pause(
    name: NameArgument, reason: ReasonOption = "", actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """Show everybody the control for now; outcomes still count."""
    _move(name, "pause", reason, actor, as_json)


@app.command()
def resume(
    name: NameArgument, reason: ReasonOption = "", actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """Go on after a pause: each user sees what they saw before."""
    _move(name, "resume", reason, actor, as_json)


@app.command()
def stop(name: NameArgument, reason: ReasonOption, actor: ActorOption = None, as_json: JsonOption = False) -> None:
    """Break it off: everybody sees the control, and nothing more counts."""
    _move(name, "stop", reason, actor, as_json)


@app.command()
def complete(
    name: NameArgument, reason: ReasonOption = "", actor: ActorOption = None, as_json: JsonOption = False
) -> None:
    """End it in the ordinary way; late outcomes still count for a while."""
    _move(name, "complete", reason, actor, as_json)


@app.command("list")
def list_experiments(as_json: JsonOption = False) -> None:
    """List all experiments, the oldest first."""
    rows = [_row(standing) for standing in _experiments().all()]
    emit(rows, as_json=as_json, render=lambda console: _render_list(console, rows))


@app.command()
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Show what is known by now; the exit code is 3 when the users are not split as asked."""
    experiment = _experiments().get(name)
    standing, results = experiment.standing(), experiment.results()
    data = {**_row(standing), "results": results.model_dump(mode="json", exclude={"past"})}
    emit(data, as_json=as_json, render=lambda console: _render_results(console, standing, results))
    if results.split.mismatch:
        raise typer.Exit(_DOUBTFUL)


@app.command()
def assign(
    name: NameArgument,
    users: Annotated[list[str], typer.Argument(help="Users' ids.")],
    as_json: JsonOption = False,
) -> None:
    """Say which variant users see; while it runs, this is on record as their exposure."""
    seen = _get(name).assign(users)
    emit(seen, as_json=as_json, render=lambda console: _render_seen(console, seen))


@app.command()
def record(
    name: NameArgument,
    user: Annotated[str, typer.Argument(help="The user's id.")],
    value: Annotated[float | None, typer.Argument(help="The number; leave it out for a conversion.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric, where there are several.")] = None,
    variant: Annotated[
        str | None, typer.Option(help="The variant you believe the user saw, to have it checked.")
    ] = None,
    event: Annotated[str, typer.Option(help="The event's id, where a user can have several.")] = "",
    time: Annotated[str | None, typer.Option(help="When it happened, ISO 8601; now by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Record a conversion, or a number, of a user; many at once with `headway outcomes import`."""
    from dataclasses import asdict

    experiment = _get(name)
    when = _time(time)
    if value is None:
        recorded = experiment.record_conversion(user, metric, variant=variant, event=event, time=when)
    else:
        recorded = experiment.record_metric(user, value, metric, variant=variant, event=event, time=when)
    what = next((word for word, count in asdict(recorded).items() if count), "nothing")
    emit(asdict(recorded), as_json=as_json, render=lambda console: console.print(f"recorded: {what}"))


@app.command()
def report(
    name: NameArgument,
    out: Annotated[Path | None, typer.Option(help="The HTML file to write; NAME.html by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a report with plots: one HTML file that needs nothing else."""
    from headway.serving.experiment.report import render

    experiment = _get(name)
    results = experiment.results(over_time=True)
    path = out or Path(f"{name}.html")
    path.write_text(render(experiment.standing(), results), encoding="utf-8")
    data = {"path": str(path), "headline": results.headline, "winner": results.winner}
    emit(data, as_json=as_json, render=lambda console: console.print(f"{results.headline}\nReport: {path}"))


def _experiments() -> "Experiments":
    from headway.serving.experiment.experiment import Experiments

    return Experiments()


def _get(name: str) -> "Experiment":
    return _experiments().get(name)


def _move(name: str, move: "Move", reason: str, actor: str | None, as_json: bool) -> None:
    found: Standing = getattr(_get(name), move)(actor=actor or user(), reason=reason)
    _told(found, as_json)


def _told(standing: "Standing", as_json: bool) -> None:
    text = f"{standing.spec.name} is {standing.state}"
    emit(_row(standing), as_json=as_json, render=lambda console: console.print(text))


def _spec(file: Path | None, given: dict[str, Any]) -> "ExperimentSpec":
    from headway.components.config import parse_yaml
    from headway.components.errors import ConfigError
    from headway.serving.experiment.spec import ExperimentSpec

    if file is None:
        return ExperimentSpec.parse(given, where="the experiment")
    if not file.is_file():
        raise ConfigError(f"{file}: no such file", expected="a YAML file with an experiment")
    data = parse_yaml(file.read_text(encoding="utf-8"), where=str(file)) or {}
    return ExperimentSpec.parse({**data, **given} if isinstance(data, dict) else data, where=str(file))


def _variants(texts: list[str]) -> dict[str, float] | list[str]:
    pairs = [text.partition("=") for text in texts]
    if not any(sign for _, sign, _ in pairs):
        return texts
    shares: dict[str, float] = {}
    for name, _, share in pairs:
        try:
            shares[name] = float(share)
        except ValueError:
            raise typer.BadParameter(f"{name}={share} is not NAME=SHARE", param_hint="--variant") from None
    if len(shares) < len(texts):
        raise typer.BadParameter("a variant stands twice", param_hint="--variant")
    return shares


def _metric(text: str) -> dict[str, Any]:
    name, *rest = text.split(":")
    unknown = [word for word in rest if word not in ("conversion", "numeric", "lower", "higher")]
    if unknown:
        raise typer.BadParameter(f"{text!r} is not NAME[:numeric][:lower]", param_hint="--metric")
    kind = "numeric" if "numeric" in rest else "conversion"
    return {"name": name, "kind": kind, "higher_is_better": "lower" not in rest}


def _time(text: str | None) -> "datetime | None":
    from datetime import datetime

    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-11-25T10:00:00Z", param_hint="--time") from None


def _row(standing: "Standing") -> dict[str, Any]:
    spec = standing.spec
    return {
        "name": spec.name,
        "state": str(standing.state),
        "variants": spec.variants,
        "metrics": [metric.name for metric in spec.metrics],
        "endpoint": spec.endpoint,
        "created": standing.created.isoformat(),
        "started": standing.started and standing.started.isoformat(),
        "ended": standing.ended and standing.ended.isoformat(),
        "reason": standing.reason,
    }


def _render_list(console: "Console", rows: list[dict[str, Any]]) -> None:
    from headway.pipelines.cli.tables import print_table

    if not rows:
        console.print("There is no experiment.")
        return
    headings = ("name", "state", "variants", "metrics", "started (UTC)")
    cells = [
        [
            row["name"],
            row["state"],
            ", ".join(f"{name} {share:.4g}" for name, share in row["variants"].items()),
            ", ".join(row["metrics"]),
            (row["started"] or "")[:16].replace("T", " "),
        ]
        for row in rows
    ]
    print_table(console, headings, cells)


def _render_results(console: "Console", standing: "Standing", results: "Results") -> None:
    from headway.pipelines.cli.tables import print_table

    console.print(f"{standing.spec.name} is {standing.state}. {results.headline}", markup=False)
    users = [[name, f"{results.split.asked[name]:.2%}", f"{count:,}"] for name, count in results.split.users.items()]
    print_table(console, ("variant", "asked", "users"), users)
    rows = [
        [
            found.metric,
            found.variant,
            _number(found.control_value),
            _number(found.value),
            _number(found.difference),
            "" if found.low is None else f"{found.low:+.4g} to {found.high:+.4g}",
            str(found.finding),
        ]
        for found in results.comparisons
    ]
    level = f"{results.level:.4g}"
    print_table(
        console, ("metric", "variant", results.control, "value", "difference", f"interval ({level})", "finding"), rows
    )
    for note in results.notes:
        console.print(f"Note: {note}", markup=False)


def _render_seen(console: "Console", seen: dict[str, str]) -> None:
    from headway.pipelines.cli.tables import print_table

    print_table(console, ("user", "variant"), [[user, variant] for user, variant in seen.items()])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

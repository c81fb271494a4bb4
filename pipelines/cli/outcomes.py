"""`headway outcomes`: labels and other outcomes that come after the prediction."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console

    from headway.serving.experiment.outcome import Recorded

app = typer.Typer(no_args_is_help=True, help="Outcomes: labels and numbers that come after the prediction.")

ScopeArgument = Annotated[str, typer.Argument(help="An endpoint's name, or experiment/NAME.")]


@app.command("import")
def import_(
    scope: ScopeArgument,
    file: Annotated[
        Path,
        typer.Argument(help="CSV or Parquet with the columns prediction or user, value, and metric, time, event."),
    ],
    metric: Annotated[str | None, typer.Option(help="The metric of all rows, such as `label`.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Record a file of outcomes; importing it again changes nothing."""
    from dataclasses import asdict

    from headway.serving.experiment.outcome_file import read_outcomes

    recorded = _record(scope, read_outcomes(file, metric=metric))
    emit({"scope": scope, **asdict(recorded)}, as_json=as_json, render=lambda console: _told(console, recorded))


@app.command()
def show(
    scope: Annotated[str | None, typer.Argument(help="An endpoint's name, or experiment/NAME; all by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many outcomes there are, by metric."""
    from headway.components.settings import load_settings
    from headway.serving.experiment.outcome_store import Outcomes

    store = Outcomes(load_settings())
    scopes = [scope] if scope else store.scopes()
    rows = [{"scope": name, **row} for name in scopes for row in store.summary(name)]
    emit(rows, as_json=as_json, render=lambda console: _render(console, rows))


def _record(scope: str, outcomes: Any) -> "Recorded":
    from headway.components.settings import load_settings
    from headway.serving.experiment.experiment import Experiments
    from headway.serving.experiment.outcome_store import Outcomes

    settings = load_settings()
    kind, _, name = scope.partition("/")
    if kind == "experiment" and name:
        return Experiments(settings).get(name).record_many(outcomes)
    return Outcomes(settings).record_many(scope, outcomes)


def _told(console: "Console", recorded: "Recorded") -> None:
    more = [
        f"{count:,} {what}"
        for count, what in (
            (recorded.same, "known already"),
            (recorded.corrected, "corrected"),
            (recorded.outdated, "older than what is known, and left out"),
        )
        if count
    ]
    console.print(f"{recorded.new:,} new outcomes" + (f", {', '.join(more)}" if more else ""))


def _render(console: "Console", rows: list[dict[str, Any]]) -> None:
    from headway.pipelines.cli.tables import print_table

    if not rows:
        console.print("No outcome is recorded.")
        return
    cells = [
        [
            row["scope"],
            row["metric"],
            row["unit"],
            f"{row['outcomes']:,}",
            "" if row["mean"] is None else f"{row['mean']:.4g}",
            f"{row['first']:%Y-%m-%d %H:%M}",
            f"{row['last']:%Y-%m-%d %H:%M}",
        ]
        for row in rows
    ]
    print_table(console, ("scope", "metric", "of", "outcomes", "mean", "first (UTC)", "last (UTC)"), cells)

"""`headway ledger`: what happened, and proof that nobody rewrote it."""

from typing import TYPE_CHECKING, Annotated

import typer

from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from headway.components.register.ledger import Ledger, LedgerCheck, LedgerRow
    from headway.serving.release.served import ServedAt

app = typer.Typer(no_args_is_help=True, help="The ledger: what happened to every model, and why.")


@app.command()
def show(
    model: Annotated[str | None, typer.Option(help="Only this model's rows.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only rows of this kind, such as `promoted`.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many rows.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Show the newest rows, the newest last."""
    from dataclasses import asdict

    rows = _ledger().rows(model=model, kind=kind, limit=limit)
    emit([asdict(row) for row in rows], as_json=as_json, render=lambda console: _render_rows(console, rows))


@app.command()
def verify(
    head: Annotated[
        str | None, typer.Option(help="A head that an earlier check printed: it must still be in the chain.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Walk the whole chain; the exit code is 1 when it is broken."""
    from dataclasses import asdict

    found = _ledger().verify(head=head)
    emit(asdict(found), as_json=as_json, render=lambda console: _render_check(console, found))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def at(
    moment: Annotated[str, typer.Argument(help="A moment in ISO 8601, such as 2026-11-22T10:00; UTC without a zone.")],
    endpoint: Annotated[str | None, typer.Option(help="Only this endpoint.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what served at a moment, and why: each endpoint's weights and the row that set them."""
    from headway.serving.release.served import served_at

    found = served_at(_ledger(), _moment(moment), endpoint=endpoint)
    emit([one.model_dump(mode="json") for one in found], as_json=as_json, render=lambda out: _render_served(out, found))


def _moment(text: str) -> "datetime":
    from datetime import UTC, datetime

    from headway.components.errors import UsageError

    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a moment", expected="ISO 8601, such as 2026-11-22T10:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _render_served(console: "Console", found: "list[ServedAt]") -> None:
    from headway.pipelines.cli.tables import print_table

    if not found:
        console.print("Nothing served then.")
        return
    rows = [
        [
            one.endpoint,
            ", ".join(f"version {part.version}: {part.weight / 100:g} %" for part in one.parts),
            one.since[:19].replace("T", " "),
            one.actor,
            one.reason,
            one.release,
        ]
        for one in found
    ]
    print_table(console, ["endpoint", "served", "since (UTC)", "who", "why", "release"], rows)


def _ledger() -> "Ledger":
    from headway.components.register.ledger import Ledger
    from headway.components.settings import load_settings

    return Ledger(load_settings().resolved_database_url)


def _render_rows(console: "Console", rows: "list[LedgerRow]") -> None:
    from headway.pipelines.cli.tables import print_table

    if not rows:
        console.print("The ledger has no such row.")
        return
    print_table(
        console, ("seq", "time (UTC)", "model", "version", "what", "actor", "why"), [_cells(row) for row in rows]
    )


def _cells(row: "LedgerRow") -> list[str]:
    why = str(row.body.get("reason") or row.body.get("error") or row.body.get("state") or "")
    return [str(row.seq), row.time[:19].replace("T", " "), row.model, row.version, row.kind, row.actor, why]


def _render_check(console: "Console", found: "LedgerCheck") -> None:
    if found.ok:
        console.print(f"[green]whole[/green]: {found.rows:,} rows, head {found.head}")
    else:
        console.print(f"[red]broken[/red]: {found.reason}")

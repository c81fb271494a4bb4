"""`headway model`: versions, and the moves of the champion."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.pipelines.cli.actor import user
from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console

    from headway.components.register.registry import Registry
    from headway.components.register.store import Version

app = typer.Typer(no_args_is_help=True, help="Registered models: their versions, and which one serves.")

NameArgument = Annotated[str, typer.Argument(help="The model's name.")]
RefArgument = Annotated[str, typer.Argument(help="A number (3), a semantic version (1.2.0) or an alias (champion).")]
ReasonOption = Annotated[str, typer.Option(help="Why, in words; it goes into the ledger.")]
ActorOption = Annotated[str | None, typer.Option(help="Who does it; the user of this machine by default.")]


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List all models with their champions and newest versions."""
    registry = _registry()
    models: list[dict[str, Any]] = []
    for name in registry.names():
        versions = registry.versions(name)
        standing = {alias: str(version.version) for version in versions for alias in version.aliases}
        models.append(
            {
                "name": name,
                "versions": len(versions),
                **{alias: standing.get(alias, "") for alias in ("champion", "challenger", "previous")},
            }
        )
    headings = ["name", "versions", "champion", "challenger", "previous"]
    emit(models, as_json=as_json, render=lambda console: _render(console, models, headings, "No model is registered."))


@app.command()
def show(
    name: NameArgument,
    ref: Annotated[str | None, typer.Argument(help="A version; all of them by default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a model's versions, or one version with its card."""
    registry = _registry()
    if ref is None:
        rows = [_row(version) for version in registry.versions(name)]
        headings = ["version", "semver", "aliases", "decision", "created", "digest"]
        emit(rows, as_json=as_json, render=lambda console: _render(console, rows, headings, "It has no version."))
        return
    version = registry.version(name, ref)
    emit(_row(version, card=True), as_json=as_json, render=lambda console: _render_version(console, version))


@app.command()
def promote(
    name: NameArgument,
    ref: RefArgument,
    reason: ReasonOption,
    expect: Annotated[
        str, typer.Option(help="The champion's number as you saw it, or `none`: any other is a conflict.")
    ],
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version the champion, if the champion is still the one you expect."""
    version = _registry().promote(name, ref, expected=_number(expect), actor=actor or user(), reason=reason)
    emit(_row(version), as_json=as_json, render=lambda console: console.print(f"{version.label} is the champion."))


@app.command()
def rollback(
    name: NameArgument,
    reason: ReasonOption,
    to: Annotated[str | None, typer.Option(help="The version to go to; the previous champion by default.")] = None,
    expect: Annotated[str | None, typer.Option(help="The champion to leave, by number.")] = None,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the previous champion the champion again; a second call changes nothing."""
    expected = None if expect is None else _number(expect)
    version = _registry().rollback(name, to=to, expected=expected, actor=actor or user(), reason=reason)
    emit(_row(version), as_json=as_json, render=lambda console: console.print(f"{version.label} is the champion."))


@app.command()
def verify(name: NameArgument, ref: RefArgument = "champion", as_json: JsonOption = False) -> None:
    """Put a version through the trust gate: digest, signature, format, types."""
    registry = _registry()
    version = registry.version(name, ref)
    with registry.check(version) as checked:
        found = {
            "name": name,
            "version": version.version,
            "digest": checked.digest,
            "signer": checked.signer,
            "format": checked.format,
            "types": checked.types,
        }
    text = f"{version.label} is trusted: signed by {found['signer'] or 'nobody'}, digest {found['digest']}"
    emit(found, as_json=as_json, render=lambda console: console.print(text))


@app.command()
def download(
    name: NameArgument,
    ref: RefArgument,
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    as_json: JsonOption = False,
) -> None:
    """Fetch a version's bundle into a new folder, through the trust gate."""
    registry = _registry()
    version = registry.version(name, ref)
    path = registry.download(version, folder)
    found = {"name": name, "version": version.version, "digest": version.digest, "path": str(path)}
    emit(found, as_json=as_json, render=lambda console: console.print(f"{version.label} is in {path}"))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="NAME, or NAME@VERSION; the champion by default.")],
    data: Annotated[Path, typer.Option(help="Rows: a CSV or Parquet file with the contract's columns.")],
    as_json: JsonOption = False,
) -> None:
    """Predict for the rows of a file, in their order."""
    from headway.components.ingest.sources import read_table

    name, _, ref = model.partition("@")
    registry = _registry()
    version = registry.version(name, ref or "champion")
    opened = registry.load(version)
    found = opened.predict(read_table(data, opened.contract))
    rows = [{"prediction": label} for label in found.labels.tolist()]
    if found.probabilities is not None:
        for row, probabilities in zip(rows, found.probabilities.tolist(), strict=True):
            row["probabilities"] = probabilities
    headings = list(rows[0]) if rows else ["prediction"]
    emit(rows, as_json=as_json, render=lambda console: _render(console, rows, headings, "The file has no row."))


def _registry() -> "Registry":
    from headway.components.register.registry import Registry

    return Registry()


def _row(version: "Version", *, card: bool = False) -> dict[str, Any]:
    from dataclasses import asdict

    row = {**asdict(version), "aliases": list(version.aliases)}
    return row if card else {key: value for key, value in row.items() if key != "card"}


def _number(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isascii() or not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is not a version's number or `none`", param_hint="--expect")
    return int(text)


def _render(console: "Console", rows: list[dict[str, Any]], headings: list[str], empty: str) -> None:
    from headway.pipelines.cli.tables import print_table

    if not rows:
        console.print(empty)
        return
    print_table(console, headings, [[_cell(row[heading]) for heading in headings] for row in rows])


def _cell(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _render_version(console: "Console", version: "Version") -> None:
    from rich.markdown import Markdown

    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    console.print(f"Version {version.version}{aliases}, registered {version.created}")
    console.print(Markdown(version.card))

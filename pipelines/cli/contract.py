"""`headway contract`: infer, check, compare and export the contract of a table."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console

    from headway.components.data_validate.diff import Change
    from headway.components.data_validate.findings import CheckReport

app = typer.Typer(no_args_is_help=True, help="Contracts: infer, check, compare, export.")

DataArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A Parquet or CSV file.", show_default=False)]
ContractArgument = Annotated[Path, typer.Argument(metavar="CONTRACT", help="A contract's YAML file.")]

_STYLES = {"block": "bold red", "quarantine": "yellow", "warn": "yellow", "pass": "bold green"}


@app.command()
def infer(
    file: DataArgument,
    target: Annotated[str | None, typer.Option(help="The column to predict.")] = None,
    name: Annotated[str | None, typer.Option(help="The contract's name; by default the file's.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="A column of the key; give it once for each.")] = None,
    time: Annotated[str | None, typer.Option(help="The column that says when the row happened.")] = None,
    range_level: Annotated[
        Literal["block", "quarantine", "warn"], typer.Option(help="What a value outside its range does.")
    ] = "warn",
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write it; - is standard output.")] = "-",
) -> None:
    """Infer a first contract, for a person to review."""
    from headway.components.data_validate.contract import Level
    from headway.components.data_validate.infer import infer_with_notes, inferred_yaml

    found = infer_with_notes(
        file, name=name or file.stem, target=target, key=key, time=time, range_level=Level(range_level)
    )
    _write_text(inferred_yaml(found.contract, found.notes), output)


@app.command()
def check(
    file: DataArgument,
    contract: Annotated[Path, typer.Option("--contract", "-c", help="The contract's YAML file.")] = Path(
        "contract.yaml"
    ),
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    quarantine: Annotated[Path | None, typer.Option(help="Write the rows that must leave here, as Parquet.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a table against its contract.

    Exit codes: 0 it may be used; 1 a rule of level block failed; 2 the call is wrong.
    """
    from headway.components.data_validate.checks import check_table
    from headway.components.data_validate.contract import Contract

    rules = Contract.load(contract)
    found = check_table(rules, file, quarantine=quarantine)
    if report:
        from headway.components.data_validate.profile import profile_table
        from headway.components.data_validate.report import validation_report

        page = validation_report(rules, found, profile_table(rules, file), profiled=file.name)
        _write_text(page, str(report))
    emit(found.to_dict(), as_json=as_json, render=lambda out: _render_report(out, found))
    if found.verdict == "block":
        raise typer.Exit(1)


@app.command()
def diff(old: ContractArgument, new: ContractArgument, as_json: JsonOption = False) -> None:
    """Compare two contracts.

    Exit codes: 0 nothing breaks; 1 a change breaks producers or clients; 2 the call is wrong.
    """
    from headway.components.data_validate.contract import Contract
    from headway.components.data_validate.diff import diff as compare
    from headway.components.data_validate.diff import is_breaking

    changes = compare(Contract.load(old), Contract.load(new))
    breaking = is_breaking(changes)
    document = {"breaking": breaking, "changes": [change.as_dict() for change in changes]}
    emit(document, as_json=as_json, render=lambda out: _render_changes(out, changes))
    if breaking:
        raise typer.Exit(1)


@app.command()
def export(
    contract: ContractArgument,
    to: Annotated[Literal["pandera", "json-schema"], typer.Option("--format", help="What to write.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write it; - is standard output.")] = "-",
) -> None:
    """Write it as a pandera schema or a JSON Schema.

    pandera gives a Python module with a schema of the table, json-schema the schema of one request.
    """
    import json

    from headway.components.data_validate.contract import Contract
    from headway.components.data_validate.schema import pandera_source, to_json_schema

    rules = Contract.load(contract)
    if to == "pandera":
        _write_text(pandera_source(rules), output)
    else:
        _write_text(json.dumps(to_json_schema(rules), indent=2, ensure_ascii=False) + "\n", output)


@app.command()
def generate(
    contract: ContractArgument,
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same table.")] = 0,
) -> None:
    """Write a random table that satisfies it."""
    import pyarrow.parquet as pq

    from headway.components.data_validate.contract import Contract
    from headway.components.data_validate.generate import generate as random_table
    from headway.pipelines.cli.output import error_console

    table = random_table(Contract.load(contract), rows, seed)
    with _written(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, output)
    error_console().print(f"Wrote {rows:,} rows to {output}", markup=False)


def _write_text(text: str, output: str) -> None:
    if output == "-":
        sys.stdout.write(text)
        return
    path = Path(output)
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turn a path that cannot be written into a sentence."""
    from headway.components.errors import UsageError

    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", fix="choose another --output") from None


def _render_report(out: "Console", found: "CheckReport") -> None:
    out.print(found.headline, style=_STYLES[found.verdict], markup=False)
    for finding in found.findings:
        out.print(f"{finding.level:<10} {finding.message}", style=_STYLES[finding.level], markup=False)


def _render_changes(out: "Console", changes: "list[Change]") -> None:
    if not changes:
        out.print("The contracts say the same.")
    for change in changes:
        word, style = ("breaking", "bold red") if change.breaking else ("fine", "green")
        out.print(f"{word:<8}  {change.where}: {change.sentence}", style=style, markup=False)

"""`headway doctor`: what this machine lacks, and the fix."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.doctor import Finding

_MARKS = {"ok": "[green]✓[/]", "missing": "[bold red]✗[/]", "optional": "[dim]·[/]"}


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine lacks, with the fix.

    Exit codes: 0 nothing that is needed is missing; 1 something is.
    """
    from headway.pipelines.doctor import examine

    findings = examine()
    emit([asdict(finding) for finding in findings], as_json=as_json, render=lambda out: _table(out, findings))
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(1)


def _table(out: "Console", findings: "list[Finding]") -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        fix = f"\n[bold]fix:[/] {escape(finding.fix)}" if finding.fix else ""
        table.add_row(_MARKS[finding.state], finding.name, escape(finding.told) + fix)
    out.print(table)

"""`headway new`: a project for your own data file."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.new import NewProject


def new(
    name: Annotated[
        str, typer.Argument(help="The model's name and the folder's: lower-case letters, digits, hyphens.")
    ],
    data: Annotated[Path, typer.Option(help="A CSV or Parquet file.")],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    time: Annotated[str | None, typer.Option(help="The column that says when a row happened.")] = None,
    task: Annotated[
        str | None, typer.Option(help="binary, multiclass or regression, if the target should not decide.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a project for your own data file.

    Infers a contract and a model specification from the file; both are a start for a person to review.
    """
    from headway.pipelines.new import check_task, new_project

    project = new_project(name, data=data, target=target, time=time, task=check_task(task))
    emit(asdict(project), as_json=as_json, render=lambda out: _told(out, project))


def _told(out: "Console", project: "NewProject") -> None:
    out.print(
        f"Wrote {project.folder}: predicts {project.target} ({project.task}) "
        f"from {len(project.features)} column{'' if len(project.features) == 1 else 's'}, {project.rows:,} rows.",
        markup=False,
    )
    for note in project.notes:
        out.print(f"  look at: {note}", markup=False)
    out.print(f"Next: review {project.folder / 'contract.yaml'}, then: headway run {project.folder}", markup=False)

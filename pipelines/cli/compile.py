"""`headway compile`: a pipeline's YAML, and whether the one that is checked in is still the code's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headway.pipelines.cli.output import JsonOption, emit, error_console

if TYPE_CHECKING:
    from rich.console import Console

    from headway.pipelines.lint import Finding
    from headway.pipelines.project import Project, SharedPipeline


def compile_(
    pipeline: Annotated[
        str | None,
        typer.Argument(help="A shipped pipeline (flights, release) or a project's folder; all shipped if left out."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The file to write; else pipeline.yaml in the project.")] = None,
    image: Annotated[str | None, typer.Option(help="The image of every step, best by digest.")] = None,
    release: Annotated[bool, typer.Option("--release", help="Refuse an image that is not named by digest.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 when the file is not what the code compiles to.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compile pipelines for Kubeflow, and lint them.

    Exit codes: 0 compiled (with --check: up to date); 1 it does not compile, lint found an error, or it is out of date.
    """
    from headway.components.errors import UsageError

    if output is not None and pipeline is None:
        raise UsageError("--output is for one pipeline", fix="name the pipeline")
    results = [_compile(one, output or one.compiled, image, release=release, check=check) for one in _named(pipeline)]
    emit(results, as_json=as_json, render=lambda out: _render(out, results))
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


def _named(name: str | None) -> "list[Project | SharedPipeline]":
    """The pipeline of that name, or all that are shipped."""
    from headway.pipelines.project import SHARED_PIPELINES, SharedPipeline, resolve, shipped_projects

    if name is None:
        return [*map(resolve, shipped_projects()), *map(SharedPipeline, SHARED_PIPELINES)]
    return [SharedPipeline(name) if name in SHARED_PIPELINES else resolve(name)]


def _compile(
    project: "Project | SharedPipeline", output: Path, image: str | None, *, release: bool, check: bool
) -> dict[str, Any]:
    """Compile, lint, then write or compare one project; what is out of date or has errors is not `ok`."""
    from headway.pipelines.compile import compile_text, load_spec, require_digests, spec_digest, write_atomically
    from headway.pipelines.lint import errors_in, lint_spec
    from headway.pipelines.project import Project

    text = compile_text(project.pipeline(), name=project.pipeline_name, parameters=project.arguments(), image=image)
    documents = load_spec(text)
    if release:
        require_digests(documents[0])
    own = _lint_sources(project.folder) if isinstance(project, Project) else []
    findings = [*own, *lint_spec(documents, release=release)]
    _tell(findings)
    changes = _changes(output, text) if check else []
    ok = not errors_in(findings) and not changes
    if ok and not check:
        write_atomically(output, text)
    return {
        "pipeline": project.pipeline_name,
        "path": str(output),
        "digest": spec_digest(*documents),
        "written": ok and not check,
        "ok": ok,
        "changes": changes,
        "findings": [{"rule": f.rule, "level": f.level, "place": f.place, "message": f.message} for f in findings],
    }


def _lint_sources(folder: Path) -> "list[Finding]":
    """Lint what the project brings itself: its pipeline module and its components."""
    from headway.pipelines.lint import lint_source

    files = [*sorted(folder.glob("pipeline.py")), *sorted(folder.rglob("component.py"))]
    return [finding for file in files for finding in lint_source(file)]


def _changes(output: Path, text: str) -> list[str]:
    from headway.pipelines.compile import difference

    if not output.is_file():
        return [f"{output} does not exist"]
    return difference(output.read_text(encoding="utf-8"), text)


def _tell(findings: "list[Finding]") -> None:
    err = error_console()
    for finding in findings:
        err.print(str(finding), markup=False, soft_wrap=True)


def _render(out: "Console", results: list[dict[str, Any]]) -> None:
    for result in results:
        if result["written"]:
            out.print(f"{result['pipeline']}: {result['path']} ({result['digest'][:12]})", markup=False, soft_wrap=True)
        elif result["changes"]:
            out.print(f"{result['pipeline']}: {result['path']} is not what the code compiles to", markup=False)
            out.print("\n".join(result["changes"]), markup=False, soft_wrap=True)
            out.print("Fix: compile it again with `headway compile`, and check the file in")
        elif result["ok"]:
            out.print(f"{result['pipeline']}: {result['path']} is up to date", markup=False, soft_wrap=True)
        else:
            out.print(f"{result['pipeline']}: not written, lint found errors", markup=False)

"""`headway optimise`: measure a bundle's model files on real rows, and write a bundle with the best one first."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headway.pipelines.cli.output import JsonOption, emit

if TYPE_CHECKING:
    from rich.console import Console

    from headway.components.optimise.optimise import Optimised


def optimise(
    bundle: Annotated[str, typer.Argument(help="A bundle's folder, or NAME or NAME@VERSION of the registry.")],
    data: Annotated[Path, typer.Option(help="Rows with the target: a CSV or Parquet file, best not those of the fit.")],
    output: Annotated[Path, typer.Option(help="The folder of the new bundle.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the optimise section, as in --set int8=off.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Where to write the report, an HTML file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model's file fast: ONNX, and 8 bits where they are measured faster and lose no more than allowed.

    The bundle stays as it is; the new one is unsigned until it is registered.
    """
    from headway.components.optimise.optimise import optimise as step
    from headway.components.optimise.spec import OptimiseSpec
    from headway.pipelines.spec import change

    spec = change(OptimiseSpec(), changes or [])
    with _folder(bundle) as folder, _parquet(data, folder) as rows:
        made = step(folder, rows, output, spec)
    if report is not None:
        report.write_text(made.html(), encoding="utf-8")
    found = {
        "path": str(made.path),
        "digest": made.digest,
        "served": made.record.chosen,
        "reason": made.record.reason,
        "files": [asdict(one) | {"record": one.record.model_dump(mode="json")} for one in made.measured],
    }
    emit(found, as_json=as_json, render=lambda console: _render(console, made, report))


@contextlib.contextmanager
def _folder(bundle: str) -> Iterator[Path]:
    """The bundle's folder; one of the registry is fetched through the trust gate, and gone again afterwards."""
    if Path(bundle).is_dir():
        yield Path(bundle)
        return
    from headway.components.register.registry import Registry

    name, _, ref = bundle.partition("@")
    registry = Registry()
    version = registry.version(name, ref or "champion")
    with tempfile.TemporaryDirectory(prefix="headway-optimise-") as scratch:
        yield registry.download(version, Path(scratch) / "bundle")


@contextlib.contextmanager
def _parquet(data: Path, bundle: Path) -> Iterator[Path]:
    """The rows as a Parquet file with the types of the bundle's contract."""
    from headway.components.bundle import read_contract, verify_manifest
    from headway.components.ingest.sources import read_table

    if data.suffix == ".parquet":
        yield data
        return
    verify_manifest(bundle)
    with tempfile.TemporaryDirectory(prefix="headway-optimise-") as scratch:
        path = Path(scratch) / "rows.parquet"
        read_table(data, read_contract(bundle)).to_parquet(path)
        yield path


def _render(console: "Console", made: "Optimised", report: Path | None) -> None:
    from rich.markdown import Markdown

    console.print(Markdown(made.markdown()))
    console.print(f"The new bundle is in {made.path}.")
    if report is not None:
        console.print(f"The report is {report}.")

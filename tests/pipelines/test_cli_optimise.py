"""`headway optimise` as its own program: the command's function, arguments from a command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from headway.components.bundle import read_info, verify_manifest
from headway.pipelines.cli.optimise import optimise

QUICK = ["--set", "seconds=0.02", "--set", "rows=100", "--set", "batches=[1]"]


@pytest.fixture
def call(installation: Any) -> Any:
    app = typer.Typer()
    app.command()(optimise)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, *QUICK], catch_exceptions=True)

    return call


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    lines = [f"{100 * i},{'AA' if i % 3 else 'UA'},{'true' if i > 20 else 'false'}" for i in range(40)]
    path.write_text("\n".join(["distance,carrier,late", *lines]) + "\n")
    return path


def test_folder_and_csv(call: Any, make_bundle: Any, rows: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = call(str(make_bundle()), "--data", str(rows), "--output", str(tmp_path / "new"), "--report", str(report))
    assert done.exit_code == 0, done.output
    assert "is served from onnx" in done.output
    assert "is served from onnx" in report.read_text()
    verify_manifest(tmp_path / "new")


def test_json(call: Any, make_bundle: Any, rows: Path, tmp_path: Path) -> None:
    done = call(
        str(make_bundle()), "--data", str(rows), "--output", str(tmp_path / "new"), "--json", "--set", "int8=off"
    )
    found = json.loads(done.output)
    assert found["digest"] == verify_manifest(tmp_path / "new")
    assert found["served"] == "onnx"
    assert [one["record"]["name"] for one in found["files"]] == ["skops", "onnx"]
    assert found["files"][1]["microseconds"]["1"] > 0
    record = read_info(tmp_path / "new").optimisation
    assert record is not None
    assert record.metric == "roc_auc"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--set", "int_8=off"], "did you mean 'int8'"),
        (["--set", "metric=roc_acu"], "did you mean 'roc_auc'"),
    ],
)
def test_mistakes(call: Any, make_bundle: Any, rows: Path, tmp_path: Path, arguments: list[str], problem: str) -> None:
    done = call(str(make_bundle()), "--data", str(rows), "--output", str(tmp_path / "new"), *arguments)
    assert done.exit_code != 0
    assert problem in str(done.exception)
    assert not (tmp_path / "new").exists()


def test_model_that_is_not_registered(call: Any, rows: Path, tmp_path: Path) -> None:
    done = call("nothing", "--data", str(rows), "--output", str(tmp_path / "new"))
    assert "nothing" in str(done.exception)

"""`headway contract` from the outside: what it prints, what it writes, how it exits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, HeadwayError, SourceError, UsageError
from headway.pipelines.cli.contract import app

CONTRACT = """
name: flights
target: late
columns:
  distance: {type: number, range: {min: 17, max: 5000}}
  carrier: {type: string, values: {allowed: [AA, UA], level: quarantine}}
  late: {type: boolean}
"""


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT, encoding="utf-8")
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def table(path: Path, **change: Any) -> Path:
    columns = {"distance": [100.0] * 50, "carrier": ["AA", "UA"] * 25, "late": [True, False] * 25, **change}
    pq.write_table(pa.table(columns), path)
    return path


class TestInfer:
    def test_prints_a_contract_that_its_own_file_satisfies(self, tmp_path: Path) -> None:
        data = table(tmp_path / "flights.parquet", distance=[float(i % 40) for i in range(50)])
        result = run("infer", data, "--target", "late")
        assert result.exit_code == 0
        assert result.stdout.startswith("# Inferred from flights.parquet: 50 rows, 3 columns.\n")
        found = Contract.parse(result.stdout)
        assert (found.name, found.target, list(found.features)) == ("flights", "late", ["distance", "carrier"])
        written = tmp_path / "new" / "contract.yaml"
        assert run("infer", data, "--target", "late", "--name", "mine", "--output", written).stdout == ""
        assert Contract.load(written).name == "mine"
        assert run("check", data, "--contract", written).exit_code == 0

    def test_takes_csv_a_key_and_a_range_level(self, tmp_path: Path) -> None:
        data = tmp_path / "t.csv"
        data.write_text("a,b,when\n1,x,2026-01-01\n2,y,2026-01-02\n", encoding="utf-8")
        result = run("infer", data, "--key", "a", "--key", "b", "--time", "when", "--range-level", "block")
        found = Contract.parse(result.stdout)
        assert found.key is not None
        assert (found.key.columns, found.time) == (["a", "b"], "when")
        assert found.columns["a"].range is not None
        assert found.columns["a"].range.level == "block"

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        result = run("infer", tmp_path / "none.csv")
        assert isinstance(result.exception, SourceError)
        assert "none.csv: no such file" in str(result.exception)

    def test_a_place_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        result = run("infer", table(tmp_path / "t.parquet"), "--output", tmp_path)
        assert isinstance(result.exception, UsageError)
        assert "cannot be written: Is a directory" in str(result.exception)


class TestCheck:
    def test_a_good_table_passes(self, tmp_path: Path, contract: Path) -> None:
        result = run("check", table(tmp_path / "t.parquet"), "--contract", contract)
        assert result.exit_code == 0
        assert result.stdout.startswith("Passed: 50 rows of 'flights' meet all")

    def test_a_blocked_table_exits_with_one_and_says_why(self, tmp_path: Path, contract: Path) -> None:
        result = run("check", table(tmp_path / "t.parquet", distance=[1.0] * 50), "--contract", contract)
        assert result.exit_code == 1
        assert "Blocked: 50 rows of 'flights' must not be used" in result.stdout
        assert "distance: range: 50 of 50 rows" in result.stdout

    def test_bad_rows_are_written(self, tmp_path: Path, contract: Path) -> None:
        bad = tmp_path / "bad.parquet"
        data = table(tmp_path / "t.parquet", carrier=["ZZ", "UA"] * 25)
        result = run("check", data, "--contract", contract, "--quarantine", bad, "--json")
        assert result.exit_code == 0
        document = json.loads(result.stdout)
        assert (document["verdict"], document["quarantined"]) == ("quarantine", 25)
        assert pq.read_table(bad).column("carrier").to_pylist() == ["ZZ"] * 25

    def test_a_report_is_written(self, tmp_path: Path, contract: Path) -> None:
        report = tmp_path / "report.html"
        run("check", table(tmp_path / "t.parquet", distance=[1.0] * 50), "-c", contract, "--report", report)
        page = report.read_text(encoding="utf-8")
        assert page.lower().startswith("<!doctype html>")
        assert "distance" in page

    def test_without_one_named_the_contract_of_this_folder_is_meant(
        self, tmp_path: Path, contract: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = table(tmp_path / "t.parquet", distance=[1.0] * 50)
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        assert isinstance(run("check", data).exception, ConfigError)
        (tmp_path / "here" / "contract.yaml").write_text(contract.read_text(encoding="utf-8"), encoding="utf-8")
        assert run("check", data).exit_code == run("check", data, "-c", contract).exit_code


class TestDiff:
    @pytest.mark.parametrize(
        ("before", "after", "code", "line"),
        [
            ("max: 5000", "max: 4000", 1, "breaking  columns.distance: range narrows from 17 to 5000 to 17 to 4000"),
            ("max: 5000", "max: 6000", 0, "fine      columns.distance: range widens from 17 to 5000 to 17 to 6000"),
            ("late", "late", 0, "The contracts say the same."),
        ],
    )
    def test_the_exit_code_says_whether_it_breaks(
        self, tmp_path: Path, contract: Path, before: str, after: str, code: int, line: str
    ) -> None:
        new = tmp_path / "new.yaml"
        new.write_text(CONTRACT.replace(before, after), encoding="utf-8")
        result = run("diff", contract, new)
        assert (result.exit_code, result.stdout) == (code, line + "\n")
        document = json.loads(run("diff", contract, new, "--json").stdout)
        assert document["breaking"] is bool(code)
        assert len(document["changes"]) == (before != after)

    def test_a_document_that_is_no_contract_is_refused(self, tmp_path: Path, contract: Path) -> None:
        other = tmp_path / "other.yaml"
        other.write_text("nam: x", encoding="utf-8")
        result = run("diff", contract, other)
        assert isinstance(result.exception, HeadwayError)
        assert "nam is not a known key - did you mean 'name'?" in str(result.exception)


class TestExportAndGenerate:
    def test_pandera_source_runs(self, contract: Path) -> None:
        result = run("export", contract, "--format", "pandera")
        assert result.exit_code == 0
        names: dict[str, Any] = {}
        exec(compile(result.stdout, "schema.py", "exec"), names)
        assert list(names["schema"].columns) == ["distance", "carrier", "late"]

    def test_json_schema_is_json(self, tmp_path: Path, contract: Path) -> None:
        output = tmp_path / "request.json"
        assert run("export", contract, "--format", "json-schema", "-o", output).exit_code == 0
        assert json.loads(output.read_text(encoding="utf-8"))["required"] == ["distance", "carrier"]

    def test_another_format_is_a_wrong_call(self, contract: Path) -> None:
        result = run("export", contract, "--format", "xml")
        assert result.exit_code == 2
        assert "'pandera'" in result.output

    def test_a_generated_table_passes_its_check(self, tmp_path: Path, contract: Path) -> None:
        data = tmp_path / "new" / "t.parquet"
        result = run("generate", contract, "--rows", 200, "--output", data)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"Wrote 200 rows to {data}\n"
        assert run("check", data, "-c", contract).stdout.startswith("Passed: 200 rows")


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, headway.pipelines.cli.contract;"
        "print([m for m in ('duckdb', 'pyarrow', 'numpy', 'pandas', 'pydantic') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

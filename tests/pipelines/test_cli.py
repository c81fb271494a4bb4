"""The command line as a whole: it starts fast, speaks JSON, and ends with the code it promises."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headway.pipelines.cli import app

HEAVY = ("duckdb", "kfp", "mlflow", "numpy", "pandas", "pyarrow", "rich", "sklearn", "sqlalchemy")
COMMANDS = [
    [],
    ["run"],
    ["new"],
    ["compile"],
    ["submit"],
    ["runs"],
    ["runs", "list"],
    ["contract"],
    ["contract", "infer"],
    ["contract", "check"],
    ["contract", "diff"],
    ["model"],
    ["model", "promote"],
    ["ledger"],
    ["ledger", "show"],
    ["config"],
    ["doctor"],
]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADWAY_HOME", "MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_without_importing_what_is_heavy(command: list[str]) -> None:
    code = (
        "import sys\nfrom headway.pipelines.cli import main\n"
        f"sys.argv = ['headway', *{command!r}, '--help']\n"
        "try:\n    main()\nfinally:\n"
        f"    print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: headway")
    assert "HEAVY []" in done.stdout


def test_help_answers_in_under_0_3_seconds() -> None:
    command = [sys.executable, "-c", "from headway.pipelines.cli import main; main()", "--help"]

    def seconds() -> float:
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.3


def test_config_says_where_each_setting_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWAY_THREADS", "2")
    result = CliRunner().invoke(app, ["config", "--json"])
    assert json.loads(result.stdout)["threads"] == {"value": "2", "source": "environment"}
    assert "threads" in CliRunner().invoke(app, ["config"]).stdout


def test_doctor_speaks_json_and_for_people() -> None:
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    assert {finding["name"] for finding in json.loads(result.stdout)} >= {"python", "disk", "kfp"}
    assert "python" in CliRunner().invoke(app, ["doctor"]).stdout


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith("headway 0.")


@pytest.mark.slow
class TestRun:
    def test_prints_one_json_document_and_ends_with_0(self, toy: Path) -> None:
        result = CliRunner().invoke(app, ["run", "toy", "--json"])
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert (told["state"], told["decision"], told["version"]) == ("succeeded", "promote", "1")
        assert [step["name"] for step in told["steps"]][:3] == ["ingest", "data-validate", "train"]
        assert "ingest" in result.stderr

        people = CliRunner().invoke(app, ["run", "toy"])
        assert "The gate says promote." in people.stdout
        assert "unchanged since" in people.stdout
        assert "report of evaluate:" in people.stdout

    def test_ends_with_1_when_the_gate_rejects_and_3_when_it_holds(self, toy: Path) -> None:
        reject = ["--set", "evaluation.thresholds=[{metric: roc_auc, min: 0.999}]"]
        assert CliRunner().invoke(app, ["run", "toy", *reject]).exit_code == 1
        hold = ["--set", "evaluation.thresholds=[{metric: roc_auc, min: 0.999, level: hold}]"]
        result = CliRunner().invoke(app, ["run", "toy", *hold])
        assert result.exit_code == 3
        assert "a person should look" in result.stdout

    def test_says_before_the_run_that_the_data_is_not_there(self, toy: Path) -> None:
        (toy / "data.csv").unlink()
        result = CliRunner().invoke(app, ["run", "toy"])
        assert result.exit_code == 1
        assert f"{toy}/data.csv: no such file" in result.stderr

    def test_shows_the_failed_steps_own_message(self, toy: Path) -> None:
        (toy / "data.csv").write_text("x,group\n1,a\n")
        result = CliRunner().invoke(app, ["run", "toy"])
        assert result.exit_code == 1
        assert "Step 'ingest' failed" in result.stderr
        assert "log.txt" in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_bugs_traceback_is_the_steps_own(self, toy: Path) -> None:
        (toy / "pipeline.py").write_text(
            "from kfp import dsl\n"
            "from headway.components.images import component\n\n"
            "@component\ndef broken(name: str) -> None:\n    raise ZeroDivisionError(name)\n\n"
            "@dsl.pipeline(name='p')\n"
            "def pipeline(name: str, contract: str, source: str, split: str, training: str, evaluation: str,\n"
            "             promote_first: bool) -> None:\n"
            "    broken(name=name)\n"
        )
        result = CliRunner().invoke(app, ["run", "toy"])
        assert result.exit_code == 1
        assert "ZeroDivisionError: toy" in result.stderr

    def test_ctrl_c_ends_with_130_and_leaves_no_process(self, toy: Path) -> None:
        command = [sys.executable, "-c", "from headway.pipelines.cli import main; main()", "run", "toy"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        deadline = time.monotonic() + 60
        while not list(toy.parent.glob(".headway/runs/*/*/ingest/log.txt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(2)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "the next run goes on from there" in told

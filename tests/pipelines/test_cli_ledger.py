"""`headway ledger`: what it prints, and with which exit code it ends."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headway.components.register.ledger import GENESIS, Ledger
from headway.pipelines.cli import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["ledger", *arguments])


def printed(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("HEADWAY_HOME", str(tmp_path))
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def filled(ledger: Ledger) -> Ledger:
    ledger.append("registered", model="flights", version=1, actor="pipeline", body={"reason": "first version"})
    ledger.append("promoted", model="flights", version=2, actor="ann", body={"reason": "better [at all]"})
    ledger.append("run", model="taxis", actor="pipeline", body={"state": "FAILED"})
    return ledger


class TestShow:
    def test_an_empty_one(self, ledger: Ledger) -> None:
        assert run("show").output == "The ledger has no such row.\n"
        assert printed("show") == []

    def test_rows_for_people(self, filled: Ledger) -> None:
        lines = run("show").output.splitlines()
        assert lines[0].split() == ["seq", "time", "(UTC)", "model", "version", "what", "actor", "why"]
        assert [line.split()[0] for line in lines[1:]] == ["1", "2", "3"]
        assert "better [at all]" in lines[2]
        assert lines[3].rstrip().endswith("FAILED")

    def test_rows_for_programs(self, filled: Ledger) -> None:
        rows = printed("show", "--model", "flights", "--kind", "promoted")
        assert [(row["seq"], row["body"]["reason"]) for row in rows] == [(2, "better [at all]")]
        assert [row["seq"] for row in printed("show", "--limit", "2")] == [2, 3]

    def test_a_limit_of_nothing(self, filled: Ledger) -> None:
        assert run("show", "--limit", "0").exit_code == 2


class TestVerify:
    def test_a_whole_one(self, filled: Ledger) -> None:
        head = filled.rows()[-1].hash
        assert run("verify").output == f"whole: 3 rows, head {head}\n"
        assert run("verify", "--head", head).exit_code == 0

    def test_a_broken_one(self, filled: Ledger, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "ledger.db") as connection:
            connection.execute("DROP TRIGGER ledger_no_update")
            connection.execute("UPDATE ledger SET actor = 'eve' WHERE seq = 2")
        result = run("verify", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["broken_seq"] == 2
        assert "broken: row 2 was changed" in run("verify").output

    def test_a_head_that_is_not_in_it(self, filled: Ledger) -> None:
        result = run("verify", "--head", "f" * 64)
        assert result.exit_code == 1
        assert "the given head is not in the chain" in result.output

    def test_an_empty_one(self, ledger: Ledger) -> None:
        assert printed("verify") == {"ok": True, "rows": 0, "head": GENESIS, "broken_seq": None, "reason": ""}

    def test_a_database_that_cannot_be_reached(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "no.db").mkdir()
        monkeypatch.setenv("HEADWAY_DATABASE_URL", f"sqlite:///{tmp_path}/no.db")
        result = run("verify")
        assert result.exit_code == 1
        assert "cannot be used: unable to open database file" in result.stderr

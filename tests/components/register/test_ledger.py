"""Rows are only ever added, hang together, and say where they were tampered with."""

import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headway.components.errors import LedgerError, PlatformError
from headway.components.register.ledger import GENESIS, SCHEMA_VERSION, Ledger, row_hash


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(url)


def execute(ledger: Ledger, statement: str) -> None:
    from sqlalchemy import text

    with ledger.engine.begin() as connection:
        connection.execute(text(statement))


def fill(ledger: Ledger, count: int = 5) -> None:
    for number in range(1, count + 1):
        ledger.append("promoted", model="flights", version=number, actor="ann", body={"reason": f"reason {number}"})


class TestAppending:
    def test_rows_hang_together(self, ledger: Ledger) -> None:
        fill(ledger, 3)
        rows = ledger.rows()
        assert [row.seq for row in rows] == [1, 2, 3]
        assert [row.previous for row in rows] == [GENESIS, rows[0].hash, rows[1].hash]
        assert rows[1].body == {"reason": "reason 2"}
        assert rows[0].time.endswith("Z")
        assert ledger.verify().ok
        assert ledger.verify().head == rows[-1].hash

    def test_an_empty_ledger_is_whole(self, ledger: Ledger) -> None:
        check = ledger.verify()
        assert (check.ok, check.rows, check.head) == (True, 0, GENESIS)

    def test_it_survives_a_restart(self, url: str) -> None:
        fill(Ledger(url), 2)
        fill(Ledger(url), 2)
        assert Ledger(url).verify().rows == 4

    def test_rows_are_found_by_model_kind_time_and_number(self, ledger: Ledger) -> None:
        fill(ledger, 3)
        ledger.append("run", model="taxis", actor="pipeline")
        assert [row.version for row in ledger.rows(model="flights", limit=2)] == ["2", "3"]
        assert [row.model for row in ledger.rows(kind="run")] == ["taxis"]
        now = datetime.now(UTC)
        assert ledger.rows(since=now + timedelta(hours=1)) == []
        assert len(ledger.rows(until=now.replace(tzinfo=None) + timedelta(hours=1))) == 4

    def test_threads_wait_for_each_other(self, ledger: Ledger) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: ledger.append("run", actor=str(number)), range(40)))
        assert ledger.verify().rows == 40
        assert ledger.verify().ok

    def test_processes_wait_for_each_other(self, url: str) -> None:
        script = (
            "import sys; from headway.components.register.ledger import Ledger\n"
            "ledger = Ledger(sys.argv[1])\n"
            "for number in range(15): ledger.append('run', actor=sys.argv[2], body={'n': number})\n"
        )
        started = [subprocess.Popen([sys.executable, "-c", script, url, str(n)]) for n in range(3)]
        assert [process.wait(60) for process in started] == [0, 0, 0]
        check = Ledger(url).verify()
        assert check.ok, check.reason
        assert check.rows == 45

    def test_a_transaction_that_fails_leaves_no_row(self, ledger: Ledger) -> None:
        def fail() -> None:
            with ledger.transaction() as connection:
                ledger.append("run", actor="ann", connection=connection)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert ledger.verify().rows == 0


class TestRefusals:
    @pytest.mark.parametrize("statement", ["UPDATE ledger SET actor = 'eve'", "DELETE FROM ledger"])
    def test_the_database_refuses_to_change_rows(self, ledger: Ledger, statement: str) -> None:
        from sqlalchemy.exc import DatabaseError

        fill(ledger, 2)
        with pytest.raises(DatabaseError, match="the ledger is append-only"):
            execute(ledger, statement)
        assert ledger.verify().ok

    def test_a_newer_schema_is_refused(self, url: str) -> None:
        execute(Ledger(url), f"UPDATE ledger_head SET schema_version = {SCHEMA_VERSION + 1}")
        with pytest.raises(LedgerError, match=r"schema version 2; this release knows up to 1[\s\S]*newer release"):
            Ledger(url)

    @pytest.mark.parametrize("kind", ["", "Promoted", "rolled back", "x" * 41, "run;"])
    def test_a_kind_is_one_word(self, ledger: Ledger, kind: str) -> None:
        with pytest.raises(LedgerError, match="Refused ledger kind"):
            ledger.append(kind, actor="ann")

    @pytest.mark.parametrize("body", [{"x": float("nan")}, {"x": object()}])
    def test_a_body_is_json(self, ledger: Ledger, body: dict[str, Any]) -> None:
        with pytest.raises(LedgerError, match="body is not JSON"):
            ledger.append("run", actor="ann", body=body)

    def test_a_body_has_a_limit(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerError, match="too large"):
            ledger.append("run", actor="ann", body={"error": "x" * 200_000})

    def test_secrets_never_get_in(self, ledger: Ledger) -> None:
        secrets = {"password": "hunter2", "nested": [{"Authorization": "Bearer hunter2"}]}
        text = "cannot reach postgresql://ann:hunter2@db/x"
        ledger.append("run", actor="s3://key:hunter2@host", body={**secrets, "error": text, "tokens": 3})
        row = ledger.rows()[0]
        assert "hunter2" not in json.dumps(row.body) + row.actor
        assert row.body["error"] == "cannot reach postgresql://***@db/x"
        assert row.body["tokens"] == 3

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            ("mysql://host/db", "cannot live in a 'mysql' database"),
            ("not a url", "is not a URL"),
        ],
    )
    def test_other_databases(self, where: str, message: str) -> None:
        with pytest.raises(LedgerError, match=message):
            Ledger(where)

    def test_a_database_that_cannot_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "ledger.db").mkdir()
        with pytest.raises(PlatformError, match="cannot be used: unable to open database file"):
            Ledger(f"sqlite:///{tmp_path}/ledger.db")

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "ledger.db").write_bytes(b"not a database" * 100)
        with pytest.raises(LedgerError, match="file is not a database"):
            Ledger(f"sqlite:///{tmp_path}/ledger.db")


class TestTampering:
    """Somebody with the file itself, who takes the triggers away first."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "ledger.db"
        fill(Ledger(f"sqlite:///{path}"))
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TRIGGER ledger_no_update")
            connection.execute("DROP TRIGGER ledger_no_delete")
        return path

    def check(self, file: Path, *statements: str) -> tuple[int | None, str]:
        with sqlite3.connect(file) as connection:
            for statement in statements:
                connection.execute(statement)
        found = Ledger(f"sqlite:///{file}").verify()
        assert not found.ok
        return found.broken_seq, found.reason

    def test_a_changed_row(self, file: Path) -> None:
        seq, reason = self.check(file, "UPDATE ledger SET actor = 'eve' WHERE seq = 3")
        assert (seq, reason) == (3, "row 3 was changed: its content does not give its hash")

    def test_a_removed_row(self, file: Path) -> None:
        seq, reason = self.check(file, "DELETE FROM ledger WHERE seq = 3")
        assert (seq, reason) == (3, "row 3 is missing: row 4 comes after row 2")

    def test_a_row_cut_off_the_end(self, file: Path) -> None:
        seq, reason = self.check(file, "DELETE FROM ledger WHERE seq = 5")
        assert seq == 5
        assert reason.startswith("the head names row 5, but the last row is 4")

    def test_all_rows_removed(self, file: Path) -> None:
        assert self.check(file, "DELETE FROM ledger")[0] == 1

    def test_two_rows_swapped(self, file: Path) -> None:
        seq, reason = self.check(
            file,
            "UPDATE ledger SET seq = 9 WHERE seq = 2",
            "UPDATE ledger SET seq = 2 WHERE seq = 3",
            "UPDATE ledger SET seq = 3 WHERE seq = 9",
        )
        assert seq == 2
        assert "row 2 was changed" in reason

    def test_a_row_replaced_with_a_hash_that_fits_it(self, file: Path) -> None:
        row = self._row(file, 3) | {"actor": "eve"}
        seq, reason = self.check(file, f"UPDATE ledger SET actor = 'eve', hash = '{row_hash(row)}' WHERE seq = 3")
        assert seq == 4
        assert "row 4 does not follow row 3" in reason

    def test_a_row_added_with_a_hash_that_fits_it(self, file: Path) -> None:
        row = self._row(file, 5)
        row |= {"seq": 6, "previous": row["hash"]}
        values = {**row, "hash": row_hash(row)}
        columns = ", ".join(values)
        marks = ", ".join(f"'{value}'" for value in values.values())
        seq, reason = self.check(file, f"INSERT INTO ledger ({columns}) VALUES ({marks})")
        assert (seq, "the head names row 5, but the last row is 6" in reason) == (6, True)

    def test_a_chain_rewritten_as_a_whole_is_found_by_the_head_kept_elsewhere(self, file: Path, tmp_path: Path) -> None:
        kept = Ledger(f"sqlite:///{file}").verify().head
        other = Ledger(f"sqlite:///{tmp_path}/other.db")
        fill(other, 6)
        assert other.verify().ok
        found = other.verify(head=kept)
        assert not found.ok
        assert "the given head is not in the chain" in found.reason

    def test_an_older_head_is_still_in_the_chain(self, tmp_path: Path) -> None:
        ledger = Ledger(f"sqlite:///{tmp_path}/other.db")
        fill(ledger, 2)
        kept = ledger.verify().head
        fill(ledger, 2)
        assert ledger.verify(head=kept).ok

    @staticmethod
    def _row(file: Path, seq: int) -> dict[str, Any]:
        with sqlite3.connect(file) as connection:
            connection.row_factory = sqlite3.Row
            return dict(connection.execute("SELECT * FROM ledger WHERE seq = ?", (seq,)).fetchone())


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
ROWS = st.lists(
    st.tuples(TEXT, TEXT, st.dictionaries(TEXT, TEXT | st.integers() | st.booleans(), max_size=3)), max_size=6
)
SLOW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class TestAnySequence:
    @SLOW
    @given(rows=ROWS, data=st.data())
    def test_it_is_whole_and_any_one_change_is_found(
        self, rows: list[Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("ledger") / "ledger.db"
        ledger = Ledger(f"sqlite:///{path}")
        for model, actor, body in rows:
            ledger.append("run", model=model, actor=actor, body=body)
        assert ledger.verify().ok
        assert len(ledger.rows()) == len(rows)
        if not rows:
            return
        seq = data.draw(st.integers(1, len(rows)))
        column = data.draw(st.sampled_from(["time", "kind", "model", "version", "actor", "body", "previous", "hash"]))
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TRIGGER ledger_no_update")
            connection.execute(
                f"UPDATE ledger SET {column} = {column} || ? WHERE seq = ?", (data.draw(TEXT) + "x", seq)
            )
        found = ledger.verify()
        assert not found.ok
        assert found.broken_seq in (seq, seq + 1)

"""Generated tables satisfy their contract, by the table check and by the request check."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from headway.components.data_validate.checks import check_table
from headway.components.data_validate.contract import Contract
from headway.components.data_validate.generate import generate, violate
from headway.components.data_validate.request import compile_request
from headway.components.errors import UsageError
from tests.components.data_validate.contracts import contracts

TRIPS = Contract.parse(
    """
name: trips
target: late
key: [carrier, when]
time: when
columns:
  carrier: {type: string, values: {allowed: [AA, B6, UA]}}
  "dist ance": {type: number, range: {min: 17, max: 5000}, missing: {max_share: 0.2}}
  tail: {type: string, pattern: {regex: 'N[0-9]{1,5}[A-Z]{0,2}'}}
  seats: {type: integer, range: {min: 0}, missing: {max_share: 0.5}}
  when: {type: timestamp, role: info, range: {min: 2020-01-01}, monotone: {strict: false}}
  id: {type: integer, role: info, unique: {}, range: {min: 0, max: 1000000}}
  weight: {type: number, role: weight}
  late: {type: boolean}
rules:
  - {name: longer than wide, expression: '"dist ance" > seats'}
rows: {min: 10}
freshness: {max_age: 2d}
"""
)


class TestGenerate:
    def test_every_kind_of_rule_holds(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pq.write_table(generate(TRIPS, 400, seed=3), path)
        report = check_table(TRIPS, path)
        assert report.verdict == "pass", report.lines()
        assert report.rows == 400

    @given(contracts(), st.integers(0, 10**6))
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_the_table_check_and_the_request_check_pass_it(self, tmp_path: Path, contract: Contract, seed: int) -> None:
        table = generate(contract, 30, seed)
        assert table.column_names == list(contract.columns)
        path = tmp_path / "t.parquet"
        pq.write_table(table, path)
        report = check_table(contract, path)
        assert report.verdict == "pass", report.lines()
        check, warnings = compile_request(contract), list[dict[str, Any]]()
        features = table.select(list(contract.features)) if contract.features else pa.table({})
        for row in features.to_pylist():
            assert list(check.check(row, warnings)) == list(contract.features)
        assert warnings == []

    def test_the_seed_decides(self) -> None:
        contract = Contract.parse("{name: t, columns: {x: {type: number}, s: {type: string}, w: {type: timestamp}}}")
        assert generate(contract, 20, 1).equals(generate(contract, 20, 1))
        assert not generate(contract, 20, 1).equals(generate(contract, 20, 2))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{x: {type: integer, unique: {}, range: {min: 1, max: 6}}}", "in the way is unique values in 'x'"),
            ("{x: {type: integer, range: {min: 0.2, max: 0.8}}}", "column 'x', whose range holds no integer"),
            (
                "{x: {type: integer, values: {allowed: [1]}, range: {min: 2}}}",
                "whose other rules allow none of its values",
            ),
            ("{x: {type: string, pattern: {regex: 'a\\bb'}}}", "the pattern of column 'x'"),
            ("{x: {type: boolean}}, key: x", "in the way is the key"),
            (
                "{x: {type: number}}, rules: [{name: r, expression: x = 0.5}]",
                "the rule 'r', which holds in 0.0% of random",
            ),
            (
                "{x: {type: number}}, rows: {min: 100}",
                "10 rows do not satisfy contract 't'\nExpected: at least 100 rows",
            ),
            ("{x: {type: number}}, rows: {min: 1, max: 5}", "Expected: 1 to 5 rows"),
        ],
    )
    def test_what_random_rows_cannot_meet_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(UsageError) as caught:
            generate(Contract.parse(f"{{name: t, columns: {text}}}"), 10, 0)
        assert message in str(caught.value)


class TestViolate:
    @pytest.mark.parametrize(
        ("column", "rule"),
        [
            ("seats", "type"),
            ("carrier", "missing"),
            ("dist ance", "range"),
            ("seats", "range"),
            ("carrier", "values"),
            ("tail", "pattern"),
            ("id", "unique"),
        ],
    )
    def test_exactly_the_rows_it_names_break_exactly_that_rule(self, tmp_path: Path, column: str, rule: Any) -> None:
        table, rows = violate(generate(TRIPS, 100, 0), TRIPS, column, rule, rows=3, seed=1)
        path = tmp_path / "t.parquet"
        pq.write_table(table, path)
        report = check_table(TRIPS, path)
        (finding,) = [finding for finding in report.findings if finding.rule == rule]
        assert (finding.column, finding.failed) == (column, 3)
        assert [example.row for example in finding.examples] == rows

    def test_a_rule_that_is_not_there_cannot_be_broken(self) -> None:
        table = generate(TRIPS, 20, 0)
        with pytest.raises(UsageError, match="A string column without a rule 'range' to break"):
            violate(table, TRIPS, "carrier", "range", rows=1, seed=0)
        with pytest.raises(UsageError, match="The rule 'colour' cannot be broken\nExpected: one of type, missing"):
            violate(table, TRIPS, "carrier", "colour", rows=1, seed=0)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="20 rows cannot be broken\nExpected: at most 19"):
            violate(table, TRIPS, "id", "unique", rows=20, seed=0)

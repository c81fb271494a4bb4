"""The table check: every rule counted exactly, whatever the names, the values and the types."""

import datetime as dt
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings

from headway.components.data_validate import checks
from headway.components.data_validate.checks import check_table
from headway.components.data_validate.contract import Contract
from headway.components.data_validate.findings import CheckReport, Finding
from headway.components.data_validate.generate import generate
from headway.components.errors import ConfigError, ContractViolation, SourceError, UsageError
from tests.components.data_validate.contracts import contracts

NOW = dt.datetime(2024, 1, 2)


def contract(columns: dict[str, Any], **rest: Any) -> Contract:
    return Contract.parse({"name": "t", "columns": columns, **rest})


def write(path: Path, **columns: Any) -> Path:
    return write_named(path, columns)


def write_named(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=50)
    return path


def only(report: CheckReport) -> Finding:
    assert len(report.findings) == 1, report.lines()
    return report.findings[0]


def number(**rules: Any) -> dict[str, Any]:
    return {"type": "number", "missing": {"max_share": 1.0}, **rules}


class TestMissing:
    def test_null_and_nan_are_missing_and_both_are_counted(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=[1.0, None, float("nan"), 4.0])
        finding = only(check_table(contract({"x": {"type": "number"}}), data))
        assert (finding.rule, finding.column, finding.failed, finding.share) == ("missing", "x", 2, 0.5)
        assert [example.row for example in finding.examples] == [1, 2]
        assert (
            finding.message
            == "x: missing: 2 of 4 rows (50.0%) are missing (in t); expected no missing value; row 1 of t"
        )

    @pytest.mark.parametrize(("share", "verdict"), [(0.5, "pass"), (0.49, "block")])
    def test_the_largest_share_is_allowed(self, tmp_path: Path, share: float, verdict: str) -> None:
        data = write(tmp_path / "t.parquet", x=[1, None, None, 4])
        assert (
            check_table(contract({"x": {"type": "integer", "missing": {"max_share": share}}}), data).verdict == verdict
        )

    def test_a_missing_value_breaks_no_other_rule(self, tmp_path: Path) -> None:
        columns = {
            "x": number(range={"min": 0, "max": 1}, unique={}, monotone={"strict": True}),
            "s": {
                "type": "string",
                "missing": {"max_share": 1},
                "pattern": {"regex": "a+"},
                "values": {"allowed": ["a"]},
            },
        }
        rules = [{"name": "r", "expression": "x > 0 AND s = 'a'"}]
        nan = float("nan")
        data = write(tmp_path / "t.parquet", x=pa.array([nan, None, nan, 0.5, nan]), s=["a", None, "a", "a", None])
        assert check_table(contract(columns, rules=rules), data).verdict == "pass"

    def test_infinity_is_a_number_outside_any_range(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=[float("inf"), float("-inf"), 0.0])
        finding = only(check_table(contract({"x": number(range={"min": -1, "max": 1})}), data))
        assert (finding.rule, finding.failed) == ("range", 2)


class TestTypes:
    @pytest.mark.parametrize(
        ("kind", "values", "bad"),
        [
            ("number", ["1", "x", "2e3", "", None, "nan"], [1, 3]),
            ("integer", ["1", "1.0", "1.5", "-7", "x"], [2, 4]),
            ("integer", [1.0, 2.5, None, 1e300, float("nan")], [1, 3]),
            ("integer", [True, False], [0, 1]),
            ("number", [True, None], [0]),
            ("boolean", ["true", "false", "maybe"], [2]),
            ("boolean", [0, 1, 2], [2]),
            ("timestamp", ["2024-01-01", "2024-01-01T10:00:00+02:00", "noon"], [2]),
            ("timestamp", [1, 2], [0, 1]),
            ("string", [[1], None], [0]),
            ("string", [b"ok", b"\xff"], [1]),
            ("string", [1, 2], []),
        ],
    )
    def test_what_cannot_be_read_is_counted(self, tmp_path: Path, kind: str, values: list[Any], bad: list[int]) -> None:
        data = write(tmp_path / "t.parquet", x=pa.array(values))
        declared = contract({"x": {"type": kind, "missing": {"max_share": 1}, "type_level": "quarantine"}})
        report = check_table(declared, data, clean=tmp_path / "clean.parquet", quarantine=tmp_path / "bad.parquet")
        failed = {row for finding in report.findings for row in [example.row for example in finding.examples]}
        assert failed == set(bad)
        assert report.quarantined == len(bad)
        assert pq.read_table(tmp_path / "bad.parquet")["x"].to_pylist() == [values[i] for i in bad]
        assert pq.read_metadata(tmp_path / "clean.parquet").num_rows == len(values) - len(bad)

    def test_offsets_and_nanoseconds_become_utc_microseconds(self, tmp_path: Path) -> None:
        moment = dt.datetime(2024, 1, 1, 10)
        columns = {name: {"type": "timestamp"} for name in ("text", "zone", "nano", "both", "date")}
        data = write(
            tmp_path / "t.parquet",
            text=["2024-01-01T12:00:00+02:00"],
            zone=pa.array([moment.replace(tzinfo=dt.UTC)], pa.timestamp("us", tz="Europe/Berlin")),
            nano=pa.array([moment], pa.timestamp("ns")),
            both=pa.array([moment.replace(tzinfo=dt.UTC)], pa.timestamp("ns", tz="UTC")),
            date=pa.array([moment.date()], pa.date32()),
        )
        assert check_table(contract(columns), data, clean=tmp_path / "c.parquet").verdict == "pass"
        clean = pq.read_table(tmp_path / "c.parquet")
        assert {str(kind) for kind in clean.schema.types} == {"timestamp[us]"}
        moments = dict.fromkeys(["text", "zone", "nano", "both"], moment) | {"date": dt.datetime(2024, 1, 1)}
        assert clean.to_pylist() == [moments]

    def test_level_warn_makes_the_value_missing(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=["1", "two"])
        declared = contract({"x": {"type": "integer", "type_level": "warn"}})
        assert check_table(declared, data, clean=tmp_path / "c.parquet").verdict == "warn"
        assert pq.read_table(tmp_path / "c.parquet")["x"].to_pylist() == [1, None]


class TestValues:
    def test_unseen_categories_are_named_with_their_counts(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", s=["a", "it's", "it's", "C", "b"])
        finding = only(check_table(contract({"s": {"type": "string", "values": {"allowed": ["a", "b"]}}}), data))
        assert finding.failed == 3
        assert finding.unseen == {"it's": 2, "C": 1}
        assert finding.message.startswith(
            "s: values: 3 of 5 rows (60.0%) hold an unseen category (in t); expected one of a, b"
        )

    @pytest.mark.parametrize("length", [2, 500])
    def test_short_and_long_lists_count_alike(self, tmp_path: Path, length: int) -> None:
        allowed = [f"it's {i}" for i in range(length)]
        data = write(tmp_path / "t.parquet", s=[*allowed, "x", None])
        declared = contract({"s": {"type": "string", "missing": {"max_share": 1}, "values": {"allowed": allowed}}})
        assert only(check_table(declared, data)).failed == 1

    def test_numbers_and_booleans_have_values_too(self, tmp_path: Path) -> None:
        columns = {
            "i": {"type": "integer", "values": {"allowed": [1, 2**62 + 1]}},
            "f": {"type": "number", "values": {"allowed": [0.1, 1e300]}},
            "b": {"type": "boolean", "values": {"allowed": [True]}},
        }
        data = write(tmp_path / "t.parquet", i=[2**62 + 1, 2**62, 1], f=[0.1, 0.1 + 1e-18, 0.3], b=[True, False, False])
        assert {f.column: f.failed for f in check_table(contract(columns), data).findings} == {"i": 1, "f": 1, "b": 2}


class TestRanges:
    def test_integers_beyond_two_to_the_53_are_compared_exactly(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", i=[2**53 - 1, 2**53, 2**53 + 1])
        assert only(check_table(contract({"i": {"type": "integer", "range": {"max": 2**53}}}), data)).failed == 1

    @pytest.mark.parametrize(("rule", "failed"), [({"min": 0.5}, 2), ({"max": 1e300}, 0), ({"min": 1e300}, 3)])
    def test_integers_with_bounds_that_are_none(self, tmp_path: Path, rule: dict[str, float], failed: int) -> None:
        data = write(tmp_path / "t.parquet", i=[0, -1, 1])
        report = check_table(contract({"i": {"type": "integer", "range": rule}}), data)
        assert sum(finding.failed for finding in report.findings) == failed

    def test_timestamps_compare_as_utc(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", at=[dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 2)])
        declared = contract({"at": {"type": "timestamp", "range": {"min": "2024-01-01T03:00:00+02:00"}}})
        finding = only(check_table(declared, data))
        assert (finding.failed, finding.examples[0].row) == (1, 0)


class TestKeysAndOrder:
    @pytest.fixture(params=[4_000_000, 3])
    def keys_at_once(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "KEYS_AT_ONCE", request.param)

    @pytest.mark.usefixtures("keys_at_once")
    def test_later_rows_of_a_key_are_the_bad_ones_across_parts(self, tmp_path: Path) -> None:
        train = write(tmp_path / "a.parquet", a=[1, 1, 2, None, None], b=["x", "x", "x", "y", "y"])
        holdout = write(tmp_path / "b.parquet", a=[2, 3, 1], b=["x", "x", "x"])
        columns = {"a": {"type": "integer", "missing": {"max_share": 1}}, "b": {"type": "string"}}
        finding = only(check_table(contract(columns, key=["a", "b"]), {"train": train, "holdout": holdout}))
        assert (finding.rule, finding.failed, finding.parts) == ("key", 3, {"train": 1, "holdout": 2})
        assert [(e.part, e.row, e.key) for e in finding.examples] == [
            ("train", 1, {"a": "1", "b": "x"}),
            ("holdout", 0, {"a": "2", "b": "x"}),
            ("holdout", 2, {"a": "1", "b": "x"}),
        ]
        assert finding.message.startswith(
            "key (a, b): key: 3 of 8 rows (37.5%) repeat an earlier row's (1 in train, 2 in holdout); "
            "expected each combination of a and b once; row 1 of train has 1, x"
        )

    def test_unique_and_key_are_separate_rules(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", a=[1, 1, 1], b=[1, 2, 2])
        columns = {"a": {"type": "integer", "unique": {"level": "warn"}}, "b": {"type": "integer", "unique": {}}}
        report = check_table(contract(columns, key={"columns": ["a", "b"], "level": "warn"}), data)
        assert {(f.rule, f.subject): f.failed for f in report.findings} == {
            ("unique", "b"): 1,
            ("unique", "a"): 2,
            ("key", "key (a, b)"): 1,
        }

    @pytest.mark.parametrize(("strict", "rows"), [(False, [2]), (True, [1, 2])])
    def test_order_follows_the_file_and_starts_again_in_each_part(
        self, tmp_path: Path, strict: bool, rows: list[int]
    ) -> None:
        at = [dt.datetime(2024, 1, day) for day in (5, 5, 3, 4, 9)]
        data = {"a": write(tmp_path / "a.parquet", at=at), "b": write(tmp_path / "b.parquet", at=[at[2]])}
        declared = contract({"at": {"type": "timestamp", "monotone": {"strict": strict}}})
        assert [example.row for example in only(check_table(declared, data)).examples] == rows

    def test_order_holds_over_many_row_groups(self, tmp_path: Path) -> None:
        values = np.arange(10_000)
        values[[1234, 7777]] = 0
        data = write(tmp_path / "t.parquet", i=values)
        finding = only(check_table(contract({"i": {"type": "integer", "monotone": {}}}), data, threads=2))
        assert [example.row for example in finding.examples] == [1234, 7777]


class TestExpressions:
    def test_a_condition_over_columns_with_any_names(self, tmp_path: Path) -> None:
        names = ["select", "größe in m", 'say "hi"', "it's"]
        data = write_named(tmp_path / "t.parquet", {name: [1.0, 2.0, 3.0] for name in names})
        rule = {"name": "sum", "expression": '"select" + "größe in m" + "say ""hi""" + "it\'s" < 12 -- why'}
        finding = only(check_table(contract({name: number() for name in names}, rules=[rule]), data))
        assert (finding.failed, finding.subject) == (1, "sum")
        assert finding.examples[0].value == 'select = 3.0, größe in m = 3.0, say "hi" = 3.0, it\'s = 3.0'

    @pytest.mark.parametrize(
        ("expression", "reason"),
        [
            ("x > (SELECT 1)", "a subquery is not allowed"),
            ("x IN (SELECT x FROM read_csv('/etc/passwd'))", "a subquery is not allowed"),
            ("true; DROP TABLE t", "it cannot be parsed"),
            ("1=1) FROM read_csv('/etc/passwd') WHERE (1=1", "it is a query, not one expression"),
            ("1=1), (2=2", "it is more than one expression|it is a query|cannot be parsed"),
            ("getenv('HOME') = 'x'", "the function 'getenv' is not allowed"),
            ("current_setting('threads') = '1'", "the function 'current_setting' is not allowed"),
            ("repeat('x', 1000000000) = 'x'", "the function 'repeat' is not allowed"),
            ("count(*) > 1", "the function 'count_star' is not allowed"),
            ("sum(x) OVER () > 1", "a window function is not allowed"),
            ("y > 1", "the column 'y' is not declared"),
            ("distnce > 1", "the column 'distnce' is not declared - did you mean 'distance'"),
            ("typed.x > 1", "the column 'typed.x' is not declared"),
            ("x + 1", "it gives DOUBLE, not true or false"),
            ("x > ?", "a parameter is not allowed"),
            ("CAST(name AS INTEGER) > 1", "stops on a row of 't'"),
            ("(" * 3_000, "its brackets are nested more than 100 deep"),
            ("(x > 1", "it cannot be parsed"),
        ],
    )
    def test_what_is_no_plain_condition_is_refused_by_name(self, tmp_path: Path, expression: str, reason: str) -> None:
        data = write(tmp_path / "t.parquet", x=[1.0], distance=[1.0], name=["n"])
        columns = {"x": number(), "distance": number(), "name": {"type": "string"}}
        declared = contract(columns, rules=[{"name": "the rule", "expression": expression}])
        with pytest.raises(ConfigError, match=f"Rule 'the rule'.*({reason})"):
            check_table(declared, data)


class TestTheWholeTable:
    def test_columns_that_are_missing_or_not_declared(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", distnace=[1.0], more=[1])
        columns = {"distance": number(range={"min": 0}), "note": {"type": "string", "required": False}}
        report = check_table(
            contract(columns, extra_columns="warn", key="distance"), data, clean=tmp_path / "c.parquet"
        )
        assert [(f.rule, f.column, f.level) for f in report.findings] == [
            ("column", "distance", "block"),
            ("extra_columns", "distnace", "warn"),
            ("extra_columns", "more", "warn"),
        ]
        assert "did you mean 'distnace'" in report.findings[0].message
        assert pq.read_table(tmp_path / "c.parquet").column_names == ["distnace", "more", "distance", "note"]

    @pytest.mark.parametrize(("hours", "verdict"), [(36, "pass"), (12, "block")])
    def test_freshness(self, tmp_path: Path, hours: int, verdict: str) -> None:
        data = [write(tmp_path / f"{i}.parquet", at=[dt.datetime(2024, 1, 1, i)]) for i in range(2)]
        declared = contract({"at": {"type": "timestamp"}}, time="at", freshness={"max_age": f"{hours}h"})
        report = check_table(declared, data, now=NOW.replace(tzinfo=dt.UTC))
        assert report.verdict == verdict
        if verdict == "block":
            assert only(report).message == (
                "at: freshness: the newest value is 23.0h old; expected a newest value at most 12h old"
            )

    def test_no_time_at_all_is_not_fresh(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", at=pa.array([], pa.timestamp("us")))
        declared = contract(
            {"at": {"type": "timestamp"}}, time="at", freshness={"max_age": "1h", "level": "quarantine"}
        )
        finding = only(check_table(declared, data))
        assert (finding.level, finding.got) == ("block", "there is no time at all")

    @pytest.mark.parametrize(("rows", "got"), [({"min": 3}, "2 rows came"), ({"min": 0, "max": 1}, "2 rows came")])
    def test_row_counts(self, tmp_path: Path, rows: dict[str, int], got: str) -> None:
        data = write(tmp_path / "t.parquet", x=[1.0, 2.0])
        finding = only(check_table(contract({"x": number()}, rows=rows), data))
        assert finding.rule == "rows"
        assert finding.got in (got, "2 rows go on")

    def test_the_least_rows_are_those_that_go_on(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=[1.0, -2.0])
        declared = contract({"x": number(range={"min": 0, "level": "quarantine"})}, rows={"min": 2})
        report = check_table(declared, data)
        assert [f.rule for f in report.findings] == ["rows", "range"]
        assert report.findings[0].got == "1 rows go on once the quarantined ones are out"

    def test_an_empty_table_passes_where_no_row_is_demanded(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=pa.array([], pa.float64()))
        report = check_table(
            contract({"x": number(range={"min": 0}, unique={}, monotone={})}),
            data,
            clean=tmp_path / "c.parquet",
            quarantine=tmp_path / "q.parquet",
        )
        assert (report.verdict, report.rows) == ("pass", 0)
        assert pq.read_table(tmp_path / "q.parquet").column_names == ["x", "_reason", "_part", "_row"]

    def test_five_hundred_columns(self, tmp_path: Path) -> None:
        data = write_named(tmp_path / "t.parquet", {f"c{i}": [0.0, float(i)] for i in range(500)})
        report = check_table(contract({f"c{i}": number(range={"max": 250}) for i in range(500)}), data)
        assert (len(report.findings), report.columns) == (249, 500)
        with pytest.raises(ContractViolation) as caught:
            report.raise_if_blocked(see="report.html")
        assert "The data breaks 249 rules of contract 't'" in str(caught.value)
        assert "… and 229 more" in str(caught.value)
        assert "Fix: read report.html" in str(caught.value)


class TestQuarantine:
    def test_bad_rows_leave_with_all_their_reasons(self, tmp_path: Path) -> None:
        columns = {
            "x": number(range={"min": 0, "level": "quarantine"}),
            "s": {"type": "string", "values": {"allowed": ["a"], "level": "quarantine"}},
            "_row": {"type": "integer"},
        }
        rule = {"name": "even", "expression": "_row % 2 = 0", "level": "quarantine"}
        a = write(tmp_path / "a.parquet", x=[1.0, -1.0, 2.0, -2.0], s=["a", "b", "a", "a"], _row=[0, 1, 2, 4])
        b = write(tmp_path / "b.parquet", x=[1.0, 3.0], s=["a", "a"], _row=[0, 5])
        out = {name: tmp_path / f"clean-{name}.parquet" for name in "ab"}
        bad = tmp_path / "bad.parquet"
        report = check_table(contract(columns, rules=[rule]), {"a": a, "b": b}, clean=out, quarantine=bad)
        assert report.verdict == "quarantine"
        assert {name: part.quarantined for name, part in report.parts.items()} == {"a": 2, "b": 1}
        assert pq.read_table(bad).to_pylist() == [
            {
                "x": -1.0,
                "s": "b",
                "_row": 1,
                "_reason": "x: range; s: values; even: expression",
                "_part": "a",
                "__row": 1,
            },
            {"x": -2.0, "s": "a", "_row": 4, "_reason": "x: range", "_part": "a", "__row": 3},
            {"x": 3.0, "s": "a", "_row": 5, "_reason": "even: expression", "_part": "b", "__row": 1},
        ]
        assert pq.read_table(out["a"])["_row"].to_pylist() == [0, 2]
        assert pq.read_table(out["b"])["_row"].to_pylist() == [0]

    def test_missing_rows_leave_only_once_the_share_is_passed(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=[1.0, None, 3.0, None])
        for share, left in ((0.5, 4), (0.4, 2)):
            declared = contract({"x": {"type": "number", "missing": {"max_share": share, "level": "quarantine"}}})
            check_table(declared, data, clean=tmp_path / "c.parquet")
            assert pq.read_metadata(tmp_path / "c.parquet").num_rows == left

    def test_order_and_keys_leave_a_table_that_passes(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        key = np.arange(5_000)
        at = np.arange(5_000)
        key[rng.choice(4_000, 40, replace=False) + 500] = 3
        at[[100, 4_000]] = 0
        data = write(tmp_path / "t.parquet", key=key, at=at, x=rng.normal(size=5_000))
        quarantine = {"level": "quarantine"}
        declared = contract(
            {"key": {"type": "integer"}, "at": {"type": "integer", "monotone": quarantine}, "x": number()},
            key={"columns": ["key"], "level": "quarantine"},
        )
        clean = tmp_path / "c.parquet"
        report = check_table(declared, data, clean=clean)
        assert {f.rule: f.failed for f in report.findings} == {"key": 40, "monotone": 2}
        assert check_table(declared, clean).verdict == "pass"
        kept = pq.read_table(clean)["at"].to_pylist()
        assert kept == sorted(kept)
        assert len(kept) == 5_000 - report.quarantined

    def test_a_part_that_needs_no_change_is_linked(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=[1.0, float("nan")])
        report = check_table(contract({"x": number()}), data, clean=tmp_path / "out" / "c.parquet")
        assert not report.parts["t"].changed
        assert (tmp_path / "out" / "c.parquet").samefile(data)


class TestFiles:
    def test_csv_is_read_by_the_contracts_types(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text("code,n,at\n007,1,2024-01-01T00:00:00Z\n008,x,\n", encoding="utf-8")
        columns = {"code": {"type": "string"}, "n": {"type": "integer", "type_level": "warn"}}
        columns["at"] = {"type": "timestamp", "missing": {"max_share": 0.5}}  # type: ignore[dict-item]
        report = check_table(contract(columns), path, clean=tmp_path / "c.parquet")
        assert [(f.rule, f.failed) for f in report.findings] == [("type", 1)]
        assert pq.read_table(tmp_path / "c.parquet").to_pylist() == [
            {"code": "007", "n": 1, "at": dt.datetime(2024, 1, 1)},
            {"code": "008", "n": None, "at": None},
        ]

    def test_names_that_are_patterns_to_duckdb(self, tmp_path: Path) -> None:
        folder = tmp_path / "run=1"
        folder.mkdir()
        data = write(folder / "it's [a]*.parquet", x=[1.0, -1.0], file_row_number=[7, 8])
        finding = only(check_table(contract({"x": number(range={"min": 0})}), data))
        assert (finding.failed, finding.examples[0].row) == (1, 1)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: None, "no such file"),
            (lambda path: path.mkdir(), "is a folder"),
            (lambda path: path.write_bytes(b"not parquet at all"), "Parquet"),
            (lambda path: write_named(path, {"a": [1], "A": [2]}), "'a' and 'A' differ at most in letter case"),
        ],
    )
    def test_a_file_that_is_no_table(self, tmp_path: Path, make: Any, message: str) -> None:
        make(tmp_path / "t.parquet")
        with pytest.raises(SourceError, match=message):
            check_table(contract({"x": number()}), tmp_path / "t.parquet")

    def test_a_call_that_fits_nothing(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", x=[1.0])
        with pytest.raises(UsageError, match="No file to check"):
            check_table(contract({"x": number()}), [])
        with pytest.raises(UsageError, match="Clean files for y"):
            check_table(contract({"x": number()}), data, clean={"y": tmp_path / "y.parquet"})


class TestTheReport:
    def test_findings_come_by_severity_and_read_back(self, tmp_path: Path) -> None:
        levels = {"a": "warn", "b": "quarantine", "c": "block"}
        data = write(tmp_path / "t.parquet", a=[1.0], b=[1.0], c=[1.0])
        columns = {name: number(range={"max": 0, "level": level}) for name, level in levels.items()}
        report = check_table(contract(columns), data)
        assert [finding.column for finding in report.findings] == ["c", "b", "a"]
        assert report.lines()[0] == "Blocked: 1 rows of 't' must not be used, because of range of c and 2 more"
        assert report.lines()[1].startswith("[block] c: range: 1 of 1 rows (100.0%) are outside the range")
        data_ = report.to_dict()
        assert data_.pop("quarantined") == 1
        assert CheckReport.parse(data_) == report

    def test_nothing_is_raised_without_a_blocking_finding(self, tmp_path: Path) -> None:
        data = write(tmp_path / "t.parquet", a=[1.0])
        report = check_table(contract({"a": number(range={"max": 0, "level": "warn"})}), data)
        assert report.verdict == "warn"
        report.raise_if_blocked()


RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "range": ({"type": "number", "range": {"min": -5, "max": 5}}, 99.0),
    "missing": ({"type": "number"}, None),
    "values": ({"type": "string", "values": {"allowed": ["a", "b"]}}, "it's"),
    "pattern": ({"type": "string", "pattern": {"regex": "[ab]+"}}, "xyz"),
    "type": ({"type": "number"}, "not a number"),
}


@st.composite
def injected(draw: st.DrawFn) -> tuple[str, list[Any], set[int]]:
    rule = draw(st.sampled_from(sorted(RULES)))
    declared, bad = RULES[rule]
    good: st.SearchStrategy[Any] = st.sampled_from(["a", "b"])
    if declared["type"] == "number":
        good = st.floats(-5, 5).map(str) if rule == "type" else st.floats(-5, 5)
    values = draw(st.lists(good, min_size=1, max_size=40))
    rows = draw(st.sets(st.integers(0, len(values) - 1)))
    return rule, [bad if i in rows else value for i, value in enumerate(values)], rows


@given(case=injected(), name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_injected_violation_is_found_counted_and_named(
    tmp_path: Path, case: tuple[str, list[Any], set[int]], name: str
) -> None:
    rule, values, rows = case
    data = write_named(tmp_path / "t.parquet", {name: values})
    report = check_table(contract({name: RULES[rule][0]}), data, examples=len(values))
    assert [(finding.rule, finding.column, finding.failed) for finding in report.findings] == (
        [(rule, name, len(rows))] if rows else []
    )
    assert {example.row for finding in report.findings for example in finding.examples} == rows


@given(values=st.lists(st.integers(-3, 3) | st.none(), max_size=30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_repeats_and_steps_back_agree_with_plain_python(tmp_path: Path, values: list[int | None]) -> None:
    data = write(tmp_path / "t.parquet", i=pa.array(values, pa.int64()))
    column = {"type": "integer", "missing": {"max_share": 1}, "unique": {}, "monotone": {"strict": True}}
    known = [value for value in values if value is not None]
    expected = {
        "unique": len(known) - len(set(known)),
        "monotone": sum(b <= a for a, b in pairwise(known)),
    }
    found = {finding.rule: finding.failed for finding in check_table(contract({"i": column}), data).findings}
    assert found == {rule: count for rule, count in expected.items() if count}


@given(declared=contracts(), rows=st.integers(1, 60), seed=st.integers(0, 1_000))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_table_made_for_a_contract_passes_and_goes_on_unchanged(
    tmp_path: Path, declared: Contract, rows: int, seed: int
) -> None:
    try:
        table = generate(declared, rows, seed)
    except UsageError:
        assume(False)
    pq.write_table(table, tmp_path / "t.parquet")
    report = check_table(declared, tmp_path / "t.parquet", clean=tmp_path / "c.parquet")
    assert report.lines()[1:] == []
    assert pq.read_table(tmp_path / "c.parquet").equals(table)


def test_a_nan_is_missing_even_where_the_files_statistics_leave_it_out(tmp_path: Path) -> None:
    path = tmp_path / "nan.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0, float("nan")]}), path)
    contract = Contract.parse("{name: t, columns: {x: {type: number, range: {max: 10}}}}")
    report = check_table(contract, path)
    assert [(finding.rule, finding.failed) for finding in report.findings] == [("missing", 1)]

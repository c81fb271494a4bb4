"""Inference: what each kind of column becomes, and that a file satisfies what was inferred from it."""

import datetime as dt
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from headway.components.data_validate.checks import check_table
from headway.components.data_validate.contract import Column, ColumnType, Contract, Level, Role
from headway.components.data_validate.infer import Inference, infer, infer_with_notes, inferred_yaml
from headway.components.errors import SourceError, UnknownNameError, UsageError

ROWS = 100


def inferred(folder: Path, target: str | None = None, **columns: Any) -> Inference:
    path = folder / "data.parquet"
    pq.write_table(pa.table(columns), path)
    return infer_with_notes(path, name="t", target=target)


def one(folder: Path, values: Any) -> Column:
    return inferred(folder, x=values).contract.columns["x"]


def cycle(*values: Any) -> list[Any]:
    return [values[i % len(values)] for i in range(ROWS)]


class TestTypes:
    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (cycle(1, 5, 9), "integer"),
            (cycle(0, 1), "integer"),
            (cycle(1.5, 2.0), "number"),
            (cycle(1.0, 2.0), "number"),
            (cycle(1.0, 2.0, None), "integer"),
            (cycle(1.0, 2.0, float("nan")), "integer"),
            (cycle(1.5, None), "number"),
            (cycle(1.0, float("inf"), None), "number"),
            (pa.array(cycle(1, 2), pa.decimal128(10, 2)), "number"),
            (pa.array(cycle(1, 2**64 - 1), pa.uint64()), "number"),
            (cycle(True, False), "boolean"),
            (cycle("yes", "No", "TRUE"), "boolean"),
            (cycle("yes", "no", "maybe"), "string"),
            (cycle("2026-01-02", "2026-03-04T05:06:07+02:00"), "timestamp"),
            (cycle("2026-01-02", "soon"), "string"),
            (cycle("12", "13"), "string"),
            (pa.array(cycle("a", "b")).dictionary_encode(), "string"),
            (cycle(dt.date(2026, 1, 2), dt.date(2026, 1, 3)), "timestamp"),
            (pa.array(cycle(dt.datetime(2026, 1, 2)), pa.timestamp("ns", "UTC")), "timestamp"),
            ([None] * ROWS, "string"),
        ],
    )
    def test_of_parquet(self, tmp_path: Path, values: Any, kind: str) -> None:
        assert one(tmp_path, values).type == kind

    def test_of_csv(self, tmp_path: Path) -> None:
        path = tmp_path / "data.csv"
        lines = [
            "whole,real,code,when,flag,text,gap",
            *["7,1.5,00501,2026-01-02T03:04:05Z,yes,x 1,", "8,2,00502,2026-01-03,no,3,4.0"] * 20,
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        found = infer(path, name="t")
        assert {name: str(column.type) for name, column in found.columns.items()} == {
            "whole": "integer",
            "real": "number",
            "code": "string",
            "when": "timestamp",
            "flag": "boolean",
            "text": "string",
            "gap": "integer",
        }
        assert check_table(found, path).verdict in ("pass", "warn")

    def test_a_nested_column_is_left_out_and_said(self, tmp_path: Path) -> None:
        found = inferred(tmp_path, x=cycle(1, 2), nested=[[1]] * ROWS)
        assert list(found.contract.columns) == ["x"]
        assert "Column 'nested' is left out: a contract has no type for BIGINT[]." in found.notes[""]


class TestRules:
    @pytest.mark.parametrize(
        ("values", "low", "high"),
        [
            (cycle(0, 1), 0, 1),
            (cycle(1, 31), 0, 34),
            (cycle(-10, 90), -20, 100),
            (cycle(-90, -10), -98, -2),
            (cycle(-100, 0), -110, 0),
            (cycle(17.2, 4983.7), 0, 5490),
            (cycle(0.001, 0.0025), 0.00085, 0.00265),
            (cycle(1e200, -1e200), -1.2e200, 1.2e200),
            (cycle(1e308, -1e308), -1e308, 1e308),
            (cycle(5e-324, 0.0), 0, 5e-324),
            (cycle(2**63 - 1, -(2**63)), -(2**63), 2**63 - 1),
        ],
    )
    def test_a_range_leaves_room_and_never_crosses_zero(
        self, tmp_path: Path, values: Any, low: float, high: float
    ) -> None:
        rule = one(tmp_path, values).range
        assert rule is not None
        assert [rule.min, rule.max] == pytest.approx([low, high], rel=1e-3)
        assert rule.level is Level.WARN

    @pytest.mark.parametrize(
        ("missing", "share", "level"),
        [(0, 0.0, "quarantine"), (1, 0.025, "warn"), (20, 0.31, "warn"), (90, 1.0, "warn")],
    )
    def test_the_missing_share_leaves_room(self, tmp_path: Path, missing: int, share: float, level: str) -> None:
        rule = one(tmp_path, [None] * missing + cycle(1.5, 2.5)[missing:]).missing
        assert (rule.max_share, rule.level) == (share, level)

    def test_texts_that_repeat_are_values(self, tmp_path: Path) -> None:
        rule = one(tmp_path, cycle("b", "a", None)).values
        assert rule is not None
        assert (rule.allowed, rule.level) == (["a", "b"], Level.WARN)

    @pytest.mark.parametrize("values", [[f"v{i % 30}" for i in range(ROWS)], [f"v{i % 51}" for i in range(1_000)]])
    def test_texts_that_hardly_repeat_or_are_many_are_not(self, tmp_path: Path, values: list[str]) -> None:
        found = inferred(tmp_path, x=values)
        assert found.contract.columns["x"].values is None
        assert found.notes["x"][0].startswith("high cardinality: about ")

    def test_the_range_level_can_be_chosen(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"x": cycle(1, 2)}), path)
        rule = infer(path, name="t", range_level=Level.QUARANTINE).columns["x"].range
        assert rule is not None
        assert rule.level is Level.QUARANTINE


class TestRoles:
    def test_of_identifiers_constants_and_times(self, tmp_path: Path) -> None:
        found = inferred(
            tmp_path,
            row=list(range(ROWS)),
            account_id=[i * 7_919 for i in range(ROWS)],
            amount=[i * 7_919 for i in range(ROWS)],
            uuid=[f"u-{i}" for i in range(ROWS)],
            ratio=[i / 7 for i in range(ROWS)],
            always=["x"] * ROWS,
            empty=pa.nulls(ROWS),
            when=[dt.datetime(2026, 1, 1) + dt.timedelta(hours=i) for i in range(ROWS)],
        )
        assert list(found.contract.features) == ["amount", "ratio"]
        assert found.contract.time == "when"
        assert found.contract.key is not None
        assert (found.contract.key.columns, found.contract.key.level) == (["account_id"], Level.QUARANTINE)
        assert found.contract.columns["always"].description == "Always x."
        assert found.contract.columns["empty"].description == "Empty in the file it was inferred from."
        assert found.notes["row"] == ["identifier? every row has another value, so a model must not see it"]
        assert found.notes["always"][0].startswith("constant: ")
        assert found.notes["amount"] == ["review: every row has another value; make it info if it is an identifier"]
        assert "ratio" not in found.notes

    def test_few_rows_say_nothing_about_roles(self, tmp_path: Path) -> None:
        found = inferred(tmp_path, id=[1, 2, 3], always=["x", "x", "x"]).contract
        assert list(found.features) == ["id", "always"]
        assert found.key is None

    def test_two_timestamps_are_both_info_and_neither_is_the_time(self, tmp_path: Path) -> None:
        moments = cycle(dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 2))
        found = inferred(tmp_path, a=moments, b=moments, x=cycle(1, 2)).contract
        assert found.time is None
        assert list(found.features) == ["x"]

    def test_the_target_is_never_missing(self, tmp_path: Path) -> None:
        found = inferred(tmp_path, "y", x=cycle(1, 2), y=cycle("late", "early", None))
        column = found.contract.columns["y"]
        assert (column.role, column.missing.max_share, column.missing.level) == (Role.TARGET, 0.0, Level.QUARANTINE)
        assert column.values is not None
        assert column.values.level is Level.QUARANTINE
        assert found.notes["y"] == ["review: 33 rows have no target; they will be quarantined"]

    def test_suspected_leaks_are_pointed_out_and_left_alone(self, tmp_path: Path) -> None:
        y = [i % 7 for i in range(ROWS)]
        found = inferred(
            tmp_path,
            "late",
            late=y,
            late_minutes=cycle(1, 5, 3),
            final_state=cycle("a", "b"),
            twice=[2.0 * v + 1 for v in y],
            x=cycle(4, 1, 3),
        )
        assert set(found.contract.features) == {"late_minutes", "final_state", "twice", "x"}
        assert found.notes["late_minutes"][0].startswith("leak? the name sounds like the outcome")
        assert found.notes["final_state"][0].startswith("leak? the name")
        assert found.notes["twice"][0].startswith("leak? it moves with the target (correlation 1.000)")
        assert "x" not in found.notes

    @pytest.mark.parametrize(
        ("target", "count"),
        [(cycle(1.5, 2.5, None), 2), (cycle("a", "b", "c"), 3), (cycle(True, False), 2), (list(range(ROWS)), ROWS)],
    )
    def test_the_targets_values_are_counted(self, tmp_path: Path, target: Any, count: int) -> None:
        found = inferred(tmp_path, "y", x=cycle(1, 2), y=target)
        assert (found.rows, found.target_values) == (ROWS, count)
        assert inferred(tmp_path, x=cycle(1, 2)).target_values == 0


class TestYaml:
    def test_the_notes_stand_beside_the_columns(self, tmp_path: Path) -> None:
        found = inferred(
            tmp_path, "y", **{"dist ance": cycle(1.5, 2.5, 2.0), "größe": ["x"] * ROWS, "y": cycle(True, False)}
        )
        assert inferred_yaml(found.contract, found.notes) == (
            "# Inferred from data.parquet: 100 rows, 3 columns.\n"
            "# Nothing here is a rule until a person has read it.\n"
            "\n"
            "name: t\n"
            "target: y\n"
            "columns:\n"
            "  dist ance:\n"
            "    type: number\n"
            "    missing: {level: quarantine}\n"
            "    range: {level: warn, min: 1.4, max: 2.6}\n"
            "  # constant: tells a model nothing; drop it, or make it a feature when it will vary\n"
            "  größe:\n"
            "    type: string\n"
            "    role: info\n"
            "    missing: {level: quarantine}\n"
            "    description: Always x.\n"
            "  y:\n"
            "    type: boolean\n"
            "    role: target\n"
            "    missing: {level: quarantine}\n"
            "rows: {level: warn, min: 10}\n"
        )

    def test_nothing_left_to_see_is_said(self, tmp_path: Path) -> None:
        assert inferred(tmp_path, x=["x"] * ROWS).notes[""][-1] == "No column is left as a feature: look at the roles."


class TestRefusals:
    def test_of_names(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        pq.write_table(pa.table({"late": [1, 2], "when": [dt.datetime(2026, 1, 1)] * 2}), path)
        with pytest.raises(UnknownNameError, match="Unknown target 'lat' - did you mean 'late'"):
            infer(path, name="t", target="lat")
        with pytest.raises(UnknownNameError, match="Unknown key column 'id'"):
            infer(path, name="t", key=["late", "id"])
        with pytest.raises(UnknownNameError, match="Unknown time 'whn' - did you mean 'when'"):
            infer(path, name="t", time="whn")
        with pytest.raises(
            UsageError, match="Column 'late' holds no timestamps but values of type integer\nExpected: one of when"
        ):
            infer(path, name="t", time="late")
        assert infer(path, name="t", key=["late", "when"], time="when").time == "when"

    def test_of_files(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"none\.parquet: no such file"):
            infer(tmp_path / "none.parquet", name="t")
        broken = tmp_path / "broken.parquet"
        broken.write_bytes(b"PAR1 and nothing else")
        with pytest.raises(SourceError, match=r"broken\.parquet: "):
            infer(broken, name="t")
        empty = tmp_path / "empty.parquet"
        pq.write_table(pa.table({"x": pa.array([], pa.int64())}), empty)
        with pytest.raises(SourceError, match=r"empty\.parquet: no rows"):
            infer(empty, name="t")
        nested = tmp_path / "nested.parquet"
        pq.write_table(pa.table({"x": [[1]]}), nested)
        with pytest.raises(SourceError, match=r"nested\.parquet: no usable columns"):
            infer(nested, name="t")


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=True, allow_infinity=True),
    "bool": st.booleans(),
    "string": st.one_of(TEXTS, st.sampled_from(["yes", "no", "2026-01-02", "12", "true"])),
    "timestamp[us]": st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2100, 1, 1)),
}
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique_by=str.casefold))
    rows = draw(st.sampled_from([1, 3, 40]))
    arrays = []
    for _ in names:
        kind = draw(st.sampled_from(sorted(VALUES)))
        some = draw(st.lists(st.one_of(st.none(), VALUES[kind]), min_size=1, max_size=5))
        arrays.append(
            pa.array(
                [some[i % len(some)] for i in range(rows)], pa.timestamp("us") if kind.startswith("time") else kind
            )
        )
    return pa.table(dict(zip(names, arrays, strict=True)))


class TestAcceptsItsOwnFile:
    @given(tables(), st.booleans())
    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_nothing_is_blocked_and_only_a_target_is_quarantined(
        self, tmp_path: Path, table: pa.Table, target: bool
    ) -> None:
        path = tmp_path / "t.parquet"
        pq.write_table(table, path)
        found = infer_with_notes(path, name="t", target=table.column_names[-1] if target else None)
        report = check_table(found.contract, path)
        strict = [finding for finding in report.findings if finding.level is not Level.WARN]
        assert {(finding.rule, finding.column) for finding in strict} <= {("missing", found.contract.target)}, (
            report.lines()
        )
        assert Contract.parse(inferred_yaml(found.contract, found.notes)) == found.contract
        assert all(column.type in ColumnType for column in found.contract.columns.values())

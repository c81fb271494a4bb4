"""Splits: every row in one part, the same parts every time, groups whole, classes kept, time in order."""

import collections
import datetime
import itertools
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, HeadwayError, SplitError
from headway.components.ingest.ingest import ingest
from headway.components.ingest.sources import Source
from headway.components.ingest.split import PARTS, Split

quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def parts_of(table: pa.Table, split: dict[str, Any], contract: Contract | None = None) -> list[list[tuple[Any, ...]]]:
    """The rows of train, validation and holdout after a round through ingest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pq.write_table(table, folder / "table.parquet")
        train, validation, holdout = paths = [folder / f"{part}.parquet" for part in PARTS]
        ingest(
            Source(uri="table.parquet"),
            Split.parse(split),
            contract,
            train=train,
            validation=validation,
            holdout=holdout,
            base=folder,
        )
        found = [pq.read_table(path) for path in paths]
        assert all(part.schema.names == table.schema.names for part in found)
        return [[tuple(row.values()) for row in part.to_pylist()] for part in found]


def numbered(count: int) -> pa.Table:
    return pa.table({"i": list(range(count)), "k": [str(i % 3) for i in range(count)]})


class TestEveryMethod:
    @quick
    @given(
        count=st.integers(30, 200),
        shares=st.sampled_from([(0.2, 0.0), (0.2, 0.2), (0.1, 0.3), (0.5, 0.0)]),
        method=st.sampled_from(["random", "stratified", "time", "group"]),
        seed=st.integers(0, 5),
    )
    def test_each_row_is_in_one_part_and_always_in_the_same(
        self, count: int, shares: tuple[float, float], method: str, seed: int
    ) -> None:
        table = pa.table(
            {"i": list(range(count)), "k": [str(i % 3) for i in range(count)], "g": [i // 2 for i in range(count)]}
        )
        column = {"stratified": "k", "time": "i", "group": "g"}.get(method, "")
        split = {"method": method, "validation": shares[0], "holdout": shares[1], "seed": seed, "column": column}
        first = parts_of(table, split)
        assert sorted(itertools.chain(*first)) == sorted(zip(*table.to_pydict().values(), strict=True))
        backwards = parts_of(table.take(list(reversed(range(count)))), split)
        assert [sorted(part) for part in backwards] == [sorted(part) for part in first]
        assert abs(len(first[1]) - count * shares[0]) <= 3
        assert abs(len(first[2]) - count * shares[1]) <= 3

    def test_parts_keep_the_order_of_the_table(self) -> None:
        for part in parts_of(numbered(500), {"holdout": 0.2}):
            assert part == sorted(part)

    def test_another_seed_is_another_split(self) -> None:
        assert parts_of(numbered(100), {"seed": 1}) != parts_of(numbered(100), {"seed": 2})

    def test_the_split_of_a_table_is_pinned(self) -> None:
        """A release must not move rows from the holdout of an old run into the training of a new one."""
        train, validation, holdout = parts_of(numbered(20), {"validation": 0.2, "holdout": 0.2})
        assert [row[0] for row in validation] == [1, 6, 11, 19]
        assert [row[0] for row in holdout] == [3, 10, 14, 15]
        assert len(train) == 12

    def test_rows_stay_where_they_are_when_the_table_grows(self) -> None:
        small, large = (parts_of(numbered(count), {"validation": 0.2}) for count in (1_000, 1_100))
        moved = {row[0] for row in small[1]} - {row[0] for row in large[1]}
        assert len(moved) <= 20

    def test_equal_rows_are_spread(self) -> None:
        table = pa.table({"a": [i % 2 for i in range(1_000)]})
        train, validation, _ = parts_of(table, {"validation": 0.5})
        assert 150 < sum(row[0] for row in validation) < 350
        assert len(train) == len(validation) == 500

    def test_a_key_decides_where_a_row_goes(self) -> None:
        contract = Contract.parse(
            {"name": "c", "key": "i", "columns": {"i": {"type": "integer"}, "k": {"type": "string"}}}
        )
        one = parts_of(numbered(100), {}, contract)
        amended = numbered(100).set_column(1, "k", [["changed"] * 100])
        two = parts_of(amended, {}, contract)
        assert [[row[0] for row in part] for part in one] == [[row[0] for row in part] for part in two]

    def test_none_trains_on_everything(self) -> None:
        assert [len(part) for part in parts_of(numbered(10), {"method": "none"})] == [10, 0, 0]


class TestStratified:
    @quick
    @given(counts=st.lists(st.integers(2, 60), min_size=1, max_size=8), seed=st.integers(0, 9))
    def test_each_class_keeps_its_share_within_one_row(self, counts: list[int], seed: int) -> None:
        labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
        table = pa.table({"i": list(range(len(labels))), "label": labels})
        split = {"method": "stratified", "column": "label", "validation": 0.3, "holdout": 0.1, "seed": seed}
        assume(len(labels) >= 30)  # so that every part gets a row
        parts = parts_of(table, split)
        for share, part in zip((0.6, 0.3, 0.1), parts, strict=True):
            found = collections.Counter(row[1] for row in part)
            for number, count in enumerate(counts):
                assert abs(found[f"class {number}"] - count * share) < 1 + 1e-9

    def test_many_small_classes_fill_the_validation_part(self) -> None:
        labels = [f"c{i // 2}" for i in range(400)]
        parts = parts_of(pa.table({"i": list(range(400)), "c": labels}), {"method": "stratified", "column": "c"})
        assert 60 <= len(parts[1]) <= 100

    def test_the_target_is_the_default(self) -> None:
        contract = Contract.parse(
            {"name": "c", "target": "k", "columns": {"i": {"type": "integer"}, "k": {"type": "string"}}}
        )
        parts = parts_of(numbered(60), {"method": "stratified", "validation": 0.5}, contract)
        assert collections.Counter(row[1] for row in parts[1]) == {"0": 10, "1": 10, "2": 10}

    def test_a_class_with_one_row(self) -> None:
        table = pa.table({"c": ["a"] * 9 + ["rare"]})
        with pytest.raises(SplitError, match=r"Column 'c': class 'rare' with one row[\s\S]*merge rare classes"):
            parts_of(table, {"method": "stratified", "column": "c"})

    def test_missing_classes_are_a_class(self) -> None:
        table = pa.table({"i": list(range(40)), "c": ["a"] * 20 + [None] * 20})
        parts = parts_of(table, {"method": "stratified", "column": "c", "validation": 0.5})
        assert sum(row[1] is None for row in parts[1]) == 10


class TestGroup:
    @quick
    @given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=30), seed=st.integers(0, 9))
    def test_groups_never_straddle(self, sizes: list[int], seed: int) -> None:
        groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
        table = pa.table({"i": list(range(len(groups))), "g": groups})
        try:
            parts = parts_of(table, {"method": "group", "column": "g", "validation": 0.3, "holdout": 0.2, "seed": seed})
        except SplitError:
            assert max(sizes) >= 0.2 * len(groups), "only a large group can leave a part empty"
            return
        seen = [{row[1] for row in part} for part in parts]
        assert sum(map(len, seen)) == len(set(groups))

    def test_one_group_cannot_be_split(self) -> None:
        with pytest.raises(SplitError, match=r"leaves train|leaves validation"):
            parts_of(pa.table({"g": ["a"] * 10}), {"method": "group", "column": "g"})

    def test_rows_without_a_group(self) -> None:
        with pytest.raises(SplitError, match=r"1 of 3 rows have no 'g'[\s\S]*WHERE g IS NOT NULL"):
            parts_of(pa.table({"g": ["a", "b", None]}), {"method": "group", "column": "g"})


class TestTime:
    days = pa.table({"t": pa.array([datetime.datetime(2026, 1, 1) + datetime.timedelta(days=i) for i in range(100)])})

    def test_the_past_trains(self) -> None:
        parts = parts_of(self.days, {"method": "time", "column": "t", "validation": 0.2, "holdout": 0.1})
        assert [len(part) for part in parts] == [70, 20, 10]
        assert max(parts[0]) < min(parts[1]) <= max(parts[1]) < min(parts[2])

    def test_moments(self) -> None:
        split = {
            "method": "time",
            "column": "t",
            "train_until": "2026-02-01",
            "validation_until": "2026-03-01T00:00:00Z",
        }
        assert [len(part) for part in parts_of(self.days, split)] == [31, 28, 41]
        del split["validation_until"]
        assert [len(part) for part in parts_of(self.days, split)] == [31, 69, 0]

    def test_a_yaml_date(self) -> None:
        split = Split.parse("{method: time, column: t, train_until: 2026-02-01}")
        assert split.train_until == "2026-02-01"

    def test_equal_times_stay_together(self) -> None:
        table = pa.table({"i": list(range(100)), "t": [i // 30 for i in range(100)]})
        parts = parts_of(table, {"method": "time", "column": "t", "validation": 0.3})
        assert {row[1] for row in parts[0]}.isdisjoint({row[1] for row in parts[1]})

    def test_moments_outside_the_table(self) -> None:
        message = (
            r"leaves validation empty \(100 rows, 100 distinct values of 't' from 2026-01-01 00:00:00 to 2026-04-10"
        )
        with pytest.raises(SplitError, match=message):
            parts_of(self.days, {"method": "time", "column": "t", "train_until": "2027-01-01"})

    def test_the_contract_names_the_time(self) -> None:
        contract = Contract.parse({"name": "c", "time": "t", "columns": {"t": {"type": "timestamp", "role": "info"}}})
        assert len(parts_of(self.days, {"method": "time"}, contract)[1]) == 20

    def test_a_text_is_no_time(self) -> None:
        with pytest.raises(SplitError, match="The time column 't' is of type string"):
            parts_of(pa.table({"t": ["yesterday", "today"]}), {"method": "time", "column": "t"})

    def test_no_time_at_all(self) -> None:
        with pytest.raises(SplitError, match="needs a column, and the contract names no time"):
            parts_of(numbered(9), {"method": "time"})


class TestRefusals:
    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ({"validation": 0.6, "holdout": 0.4}, "leave no rows to train on"),
            ({"method": "group"}, "method group needs `column`"),
            ({"method": "random", "column": "x"}, "method random uses no column"),
            ({"method": "stratfied"}, "method: Input should be 'random', 'stratified'"),
            ({"train_until": "2026-01-01"}, "train_until goes with method time, not random"),
            ({"method": "time", "validation_until": "2026-01-01"}, "validation_until needs train_until"),
            ({"method": "time", "train_until": "soon"}, "'soon' is not a time in ISO 8601"),
            ({"method": "time", "train_until": "2026-01-01", "holdout": 0.1}, "either shares .* or moments"),
            (
                {"method": "time", "train_until": "2026-02-01", "validation_until": "2026-01-01"},
                "train_until 2026-02-01 must be before validation_until 2026-01-01",
            ),
            ({"validatoin": 0.2}, "validatoin is not a known key - did you mean 'validation'"),
            ({"leakage": {"warn": 0.99}}, "warn 0.99 is above block 0.98"),
        ],
    )
    def test_documents(self, split: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Split.parse(split)

    def test_a_column_that_is_not_there(self) -> None:
        with pytest.raises(
            SplitError, match=r"needs the column 'kk', which the table does not have - did you mean 'k'"
        ):
            parts_of(numbered(9), {"method": "stratified", "column": "kk"})

    def test_too_few_rows(self) -> None:
        with pytest.raises(SplitError, match=r"The random split leaves validation empty \(1 rows\)"):
            parts_of(numbered(1), {})

    def test_errors_are_headway_errors(self) -> None:
        assert issubclass(SplitError, HeadwayError)

"""The profile: exact where it says so, and the same however the table is split."""

import datetime as dt
import json
import math
import statistics
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from headway.components.data_validate.contract import Contract
from headway.components.data_validate.profile import Profile, merge, profile_table
from headway.components.data_validate.summaries import BooleanProfile, NumberProfile, StringProfile, TimestampProfile
from headway.components.errors import ConfigError, UsageError

KINDS = {"number": pa.float64(), "integer": pa.int64(), "string": pa.string(), "boolean": pa.bool_()}
KINDS["timestamp"] = pa.timestamp("us")


def contract(**columns: dict[str, Any]) -> Contract:
    return Contract.parse({"name": "t", "columns": columns})


def profiled(path: Path, declared: Contract, columns: dict[str, list[Any]], threads: int = 0) -> Profile:
    schema = pa.schema([(name, KINDS[declared.columns[name].type]) for name in columns])
    pq.write_table(pa.table(columns, schema=schema), path, row_group_size=1_000)
    return profile_table(declared, path, threads=threads)


def number(profile: Profile, name: str = "x") -> NumberProfile:
    column = profile.columns[name]
    assert isinstance(column, NumberProfile)
    return column


class TestNumbers:
    def test_moments_are_those_of_exact_arithmetic(self, tmp_path: Path) -> None:
        values = [1e16, 1.0, -1e16, 0.1, 3e-17, -0.0, 7e-250]
        column = number(profiled(tmp_path / "t.parquet", contract(x={"type": "number"}), {"x": values}))
        assert Fraction(column.sum) == sum(map(Fraction, values[:-1]))
        assert Fraction(column.squares) == sum(Fraction(value) ** 2 for value in values[:-1])
        assert column.standard_deviation == pytest.approx(statistics.stdev([*values[:-1], 0.0]), rel=1e-12)
        assert (column.zeros, column.min, column.max) == (2, -1e16, 1e16)

    def test_missing_and_infinite_values_are_counted_apart(self, tmp_path: Path) -> None:
        values = [1.0, None, math.nan, math.inf, math.inf, -math.inf]
        column = number(profiled(tmp_path / "t.parquet", contract(x={"type": "number"}), {"x": values}))
        assert (column.count, column.missing, column.infinite, column.finite) == (4, 2, (1, 2), 1)
        assert (column.mean, column.standard_deviation, column.quantile(0.5)) == (1.0, None, 1.0)

    def test_few_values_are_listed_and_their_quantiles_exact(self, tmp_path: Path) -> None:
        years = [2013] * 5 + [2014] * 3 + [2020]
        column = number(profiled(tmp_path / "t.parquet", contract(x={"type": "integer"}), {"x": years}))
        assert column.values == {2013: 5, 2014: 3, 2020: 1}
        assert [column.quantile(q) for q in (0, 0.5, 0.6, 1)] == [2013, 2013, 2014, 2020]

    @pytest.mark.parametrize("sign", [1, -1])
    def test_quantiles_keep_the_stated_error(self, tmp_path: Path, sign: int) -> None:
        values = sign * np.random.default_rng(1).lognormal(2, 3, 20_000)
        column = number(profiled(tmp_path / "t.parquet", contract(x={"type": "number"}), {"x": list(values)}))
        assert column.values is None
        for q in (0.001, 0.1, 0.5, 0.9, 0.999):
            exact = np.quantile(values, q, method="inverted_cdf")
            assert column.quantile(q) == pytest.approx(exact, rel=0.01)

    def test_the_contracts_range_gives_bins_that_are_finer_far_from_zero(self, tmp_path: Path) -> None:
        values = np.random.default_rng(1).uniform(1_000, 1_010, 5_000)
        declared = contract(x={"type": "number", "range": {"min": 1_000, "max": 1_010}})
        column = number(profiled(tmp_path / "t.parquet", declared, {"x": list(values)}))
        assert column.bins is not None
        assert sum(column.bins.counts) == 5_000
        assert column.quantile(0.3) == pytest.approx(np.quantile(values, 0.3), abs=10 / 128)
        counts = column.histogram([1_000, 1_005, 1_010])
        assert counts == pytest.approx(np.histogram(values, [1_000, 1_005, 1_010])[0], abs=60)
        assert sum(counts) == pytest.approx(5_000)

    def test_values_outside_the_range_are_beside_the_bins(self, tmp_path: Path) -> None:
        declared = contract(x={"type": "integer", "range": {"min": 0, "max": 10}})
        column = number(profiled(tmp_path / "t.parquet", declared, {"x": [-1, 0, 10, 11, 12]}))
        assert column.bins is not None
        assert (column.bins.below, column.bins.above, column.bins.counts[0], column.bins.counts[-1]) == (1, 2, 1, 1)

    def test_no_value_at_all(self, tmp_path: Path) -> None:
        column = number(profiled(tmp_path / "t.parquet", contract(x={"type": "number"}), {"x": [None]}))
        assert (column.mean, column.quantile(0.5), column.cells(), column.histogram([0, 1])) == (None, None, [], [0])

    def test_a_quantile_that_does_not_exist(self, tmp_path: Path) -> None:
        column = number(profiled(tmp_path / "t.parquet", contract(x={"type": "number"}), {"x": [1.0]}))
        with pytest.raises(UsageError, match="The quantile 50 does not exist"):
            column.quantile(50)


class TestOtherColumns:
    def test_categories_and_lengths(self, tmp_path: Path) -> None:
        declared = contract(s={"type": "string", "values": {"allowed": ["a", "it's", "z"]}})
        column = profiled(tmp_path / "t.parquet", declared, {"s": ["a", "it's", "a", "other", None]}).columns["s"]
        assert isinstance(column, StringProfile)
        assert column.values == {"a": 2, "it's": 1, "other": 1}
        assert column.allowed == {"a": 2, "it's": 1, "z": 0}
        assert (column.unseen, column.distinct, column.lengths) == (1, 3, {1: 2, 4: 1, 5: 1})

    def test_many_texts_are_counted_within_the_stated_error(self, tmp_path: Path) -> None:
        texts = [f"tail {i % 7_000}" for i in range(20_000)]
        column = profiled(tmp_path / "t.parquet", contract(s={"type": "string"}), {"s": texts}).columns["s"]
        assert isinstance(column, StringProfile)
        assert column.values is None
        assert column.distinct == pytest.approx(7_000, rel=3 * 0.023)

    def test_long_texts_are_not_kept(self, tmp_path: Path) -> None:
        profile = profiled(tmp_path / "t.parquet", contract(s={"type": "string"}), {"s": ["secret " * 1_000]})
        column = profile.columns["s"]
        assert isinstance(column, StringProfile)
        assert (column.lengths, column.distinct) == ({1_000: 1}, 1)
        assert "secret" not in profile.to_json()

    def test_booleans(self, tmp_path: Path) -> None:
        column = profiled(tmp_path / "t.parquet", contract(b={"type": "boolean"}), {"b": [True, None, False, True]})
        assert column.columns["b"] == BooleanProfile(count=3, missing=1, true=2)

    @pytest.mark.parametrize(
        ("step", "period", "first"),
        [
            (dt.timedelta(hours=1), "hour", "2013-01-31T23"),
            (dt.timedelta(days=3), "day", "2013-01-31"),
            (dt.timedelta(days=300), "month", "2013-01"),
            (dt.timedelta(days=10_000), "year", "2013"),
        ],
    )
    def test_moments_are_counted_in_the_shortest_fitting_period(
        self, tmp_path: Path, step: dt.timedelta, period: str, first: str
    ) -> None:
        start = dt.datetime(2013, 1, 31, 23, 30)
        moments = [start + i * step for i in range(100)]
        column = profiled(tmp_path / "t.parquet", contract(t={"type": "timestamp"}), {"t": moments}).columns["t"]
        assert isinstance(column, TimestampProfile)
        assert (column.period, min(column.periods), sum(column.periods.values())) == (period, first, 100)
        assert column.min == "2013-01-31T23:30:00.000000"


class TestTheDocument:
    def test_json_reads_back_and_has_no_order_of_its_own(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        columns = {"x": list(rng.normal(size=5_000)), "s": [f"ä{i}" for i in range(5_000)]}
        declared = contract(x={"type": "number"}, s={"type": "string"})
        one, two = (profiled(tmp_path / "t.parquet", declared, columns, threads) for threads in (1, 2))
        assert one.to_json() == two.to_json()
        assert Profile.from_json(one.to_json()) == one
        assert Profile.from_json(one.to_json()).to_json() == one.to_json()

    @pytest.mark.parametrize(
        ("text", "message"),
        [("{", "not JSON"), ('{"rows": 1}', "contract is missing"), ("[]", "a mapping with the keys of a profile")],
    )
    def test_what_is_no_profile_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Profile.from_json(text)

    def test_registers_that_are_none_are_refused(self, tmp_path: Path) -> None:
        data = json.loads(
            profiled(tmp_path / "t.parquet", contract(s={"type": "string"}), {"s": ["x" * 300]}).to_json()
        )
        data["columns"]["s"]["registers"] = "abc"
        with pytest.raises(ConfigError, match="registers"):
            Profile.from_json(json.dumps(data))

    def test_profiles_of_different_columns_do_not_add_up(self, tmp_path: Path) -> None:
        one = profiled(tmp_path / "a.parquet", contract(x={"type": "number"}), {"x": [1.0]})
        two = profiled(tmp_path / "b.parquet", contract(x={"type": "string"}), {"x": ["a"]})
        with pytest.raises(UsageError, match="differ in the columns x"):
            merge(one, two)
        binned = contract(x={"type": "number", "range": {"min": 0, "max": 1}})
        with pytest.raises(UsageError, match="'x' have different bins"):
            merge(one, profiled(tmp_path / "c.parquet", binned, {"x": [1.0]}))


DECLARED = contract(
    x={"type": "number", "range": {"min": -10, "max": 1e5}},
    i={"type": "integer"},
    s={"type": "string", "values": {"allowed": ["", "a", "it's"]}},
    b={"type": "boolean"},
    t={"type": "timestamp"},
)
MOMENTS = st.datetimes(dt.datetime(1001, 1, 1), dt.datetime(9998, 1, 1)) | st.datetimes(
    dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 3)
)
ROWS = st.lists(
    st.tuples(
        st.none() | st.floats(allow_subnormal=False, min_value=-1e150, max_value=1e150) | st.sampled_from([math.inf]),
        st.none() | st.integers(-(2**62), 2**62) | st.integers(-3, 3),
        st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        st.none() | st.booleans(),
        st.none() | MOMENTS,
    ),
    max_size=30,
)


@given(rows=ROWS, cut=st.integers(0, 30), many=st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_profiles_make_the_profile_of_the_whole(
    tmp_path: Path, rows: list[tuple[Any, ...]], cut: int, many: bool
) -> None:
    filler = [(float(i) ** 3, i * i, f"text {i}", True, None) for i in range(1_500)] if many else []

    def part(chosen: list[tuple[Any, ...]]) -> Profile:
        columns = {name: [row[i] for row in chosen] for i, name in enumerate(DECLARED.columns)}
        return profiled(tmp_path / "t.parquet", DECLARED, columns)

    # The filler has too many values to list, so one half lists its values and the other cannot.
    first, second = [*rows[:cut], *filler[:800]], [*rows[cut:], *filler[800:], *filler[:300]]
    assert merge(part(first), part(second)).to_json() == part([*first, *second]).to_json()

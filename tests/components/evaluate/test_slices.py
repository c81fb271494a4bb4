"""Parts of the validation data: by value, by condition, and too small ones."""

import numpy as np
import pyarrow as pa
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, UnknownNameError
from headway.components.evaluate.metrics import classified, regressed
from headway.components.evaluate.slices import Slice, check_names, columns_of, split, unjudged

CONTRACT = Contract.parse(
    {
        "name": "flights",
        "columns": {
            "origin": {"type": "string"},
            "hour": {"type": "integer"},
            "distance": {"type": "number"},
            "weekend": {"type": "boolean"},
            "two words": {"type": "number"},
            "unused": {"type": "number"},
        },
    }
)
TABLE = pa.table(
    {
        "origin": ["JFK", "EWR", None, "JFK", "LGA", "EWR", "JFK"],
        "hour": pa.array([5, 12, 4, None, 20, 3, 8], pa.int64()),
        "distance": [100.0, float("nan"), 300.0, 400.0, 500.0, 600.0, 700.0],
        "weekend": [True, False, True, None, False, False, True],
        "two words": [1.0] * 7,
    }
)


def rows(**given):
    return {part.label: part.rows.tolist() for part in split([Slice(name="part", **given)], TABLE, CONTRACT)}


class TestByValue:
    def test_one_slice_for_each_value_the_largest_first(self):
        found = rows(column="origin")
        assert list(found) == ["part = JFK", "part = EWR", "part = (missing)", "part = LGA"]
        assert found == {"part = JFK": [0, 3, 6], "part = EWR": [1, 5], "part = (missing)": [2], "part = LGA": [4]}

    def test_booleans(self):
        assert rows(column="weekend") == {"part = False": [1, 4, 5], "part = True": [0, 2, 6], "part = (missing)": [3]}

    def test_beyond_the_cap_is_one_slice(self):
        assert rows(column="origin", max_values=2) == {
            "part = JFK": [0, 3, 6],
            "part = EWR": [1, 5],
            "part = other values": [2, 4],
        }

    def test_every_row_is_in_exactly_one_slice(self):
        random = np.random.default_rng(0)
        table = pa.table({"origin": random.integers(0, 50, 500).astype(str)})
        parts = split([Slice(name="part", column="origin", max_values=7)], table, CONTRACT)
        assert len(parts) == 8
        assert sorted(np.concatenate([part.rows for part in parts])) == list(range(500))

    def test_dictionary_and_chunked_columns(self):
        column = pa.chunked_array([pa.array(["a", "b"]), pa.array(["a"])])
        for given in (column, column.dictionary_encode()):
            parts = split([Slice(name="part", column="origin")], pa.table({"origin": given}), CONTRACT)
            assert [part.rows.tolist() for part in parts] == [[0, 2], [1]]


class TestByCondition:
    def test_null_is_not_true(self):
        assert rows(where="hour < 6") == {"part": [0, 2, 5]}

    def test_nan_is_missing(self):
        assert rows(where="distance is null") == {"part": [1]}

    def test_several_columns_and_functions(self):
        assert rows(where="lower(origin) = 'jfk' and (weekend or \"two words\" > 5)") == {"part": [0, 6]}

    def test_nothing_meets_it(self):
        assert rows(where="hour > 99") == {"part": []}

    @pytest.mark.parametrize(
        ("where", "problem"),
        [
            ("hour <", "cannot be parsed"),
            ("hour < (SELECT 1)", "a subquery is not allowed"),
            ("read_text('/etc/hostname') = 'x'", "the function 'read_text' is not allowed"),
            ("sum(hour) > 1", "the function 'sum' is not allowed"),
            ("row_number() OVER () < 5", "a window function is not allowed"),
            ("hour < 6), (true", "more than one expression"),
            ("hour < 6; DROP TABLE validation", "cannot be parsed"),
            ("hours < 6", "'hours' is not declared - did you mean 'hour'"),
            ("hour + 1", "not true or false"),
        ],
    )
    def test_what_is_no_condition_is_refused(self, where, problem):
        with pytest.raises(ConfigError, match=problem) as caught:
            rows(where=where)
        assert "slice part" in str(caught.value)


class TestColumns:
    def test_only_those_that_are_read(self):
        slices = [Slice(name="a", column="origin"), Slice(name="b", where="hour < 6 or distance > 1")]
        assert columns_of(slices, CONTRACT) == ["origin", "hour", "distance"]

    def test_unknown_column(self):
        with pytest.raises(UnknownNameError, match="Unknown column 'orign' - did you mean 'origin'"):
            columns_of([Slice(name="a", column="orign")], CONTRACT)


class TestDocument:
    @pytest.mark.parametrize("given", [{}, {"column": "origin", "where": "hour < 6"}])
    def test_either_column_or_condition(self, given):
        with pytest.raises(ConfigError, match="slice 'part' needs either `column` or `where`"):
            Slice.parse({"name": "part", **given})

    def test_two_of_one_name(self):
        with pytest.raises(ConfigError, match="Slices have one name: part"):
            check_names([Slice(name="part", column="origin"), Slice(name="part", where="hour < 6")])


class TestTooSmall:
    def sample(self, positives, negatives):
        truth = np.repeat([1, 0], [positives, negatives])
        return classified("binary", truth, truth, None, [0, 1])

    def test_rows(self):
        assert unjudged(Slice(name="part", column="origin"), self.sample(40, 59)) == "99 rows, fewer than 100"

    def test_positives(self):
        assert (
            unjudged(Slice(name="part", column="origin"), self.sample(9, 200))
            == "9 positive rows of 209, fewer than 10"
        )

    def test_negatives(self):
        assert "0 negative rows of 200" in unjudged(Slice(name="part", column="origin"), self.sample(200, 0))

    def test_large_enough(self):
        assert unjudged(Slice(name="part", column="origin"), self.sample(10, 90)) == ""

    def test_regression_counts_rows_only(self):
        sample = regressed(np.arange(5.0), np.arange(5.0))
        assert unjudged(Slice(name="part", column="origin", min_rows=5), sample) == ""

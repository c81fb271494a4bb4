"""The short cuts give what the contract's check and the features give, or give way."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.components.data_validate.contract import Contract
from headway.components.data_validate.request import compile_request
from headway.components.errors import RequestError
from headway.components.train.features import Features
from headway.serving.server.refusal import Refusal
from headway.serving.server.rows import Checker, Rows

MIXED = Contract.parse(
    {
        "name": "mixed",
        "columns": {
            "far": {"type": "number", "range": {"min": -1000, "max": 1000}},
            "free": {"type": "number", "missing": {"max_share": 0.5}},
            "count": {"type": "integer", "range": {"min": 0, "max": 9}, "required": False},
            "flag": {"type": "boolean", "missing": {"max_share": 0.5}},
            "kind": {"type": "string", "missing": {"max_share": 0.5}},
            "word": {"type": "string", "values": {"allowed": ["a", "b"], "level": "warn"}},
        },
    }
)
NUMERIC = Contract.parse(
    {
        "name": "numeric",
        "columns": {
            "x": {"type": "number", "range": {"min": -5, "max": 5}},
            "y": {"type": "number", "range": {"min": 0, "max": 3, "level": "warn"}},
            "n": {"type": "integer", "range": {"min": 0, "max": 1_000}},
        },
    }
)
WITH_TIME = Contract.parse(
    {"name": "timed", "columns": {"at": {"type": "timestamp"}, "x": {"type": "number", "range": {"min": 0, "max": 1}}}}
)

numbers = st.floats() | st.integers(-(2**70), 2**70) | st.floats(-6, 6)
anything = numbers | st.booleans() | st.none() | st.text(max_size=2)


def expected(contract: Contract, records: list[Any]) -> tuple[Any, Any, Any] | list[dict[str, Any]]:
    """What the slow way says: checked rows and arrays, or the failures."""
    check = compile_request(contract)
    try:
        clean = check.check_many(records)
    except RequestError as error:
        return error.failures
    columns = {name: [row[name] for row in clean] for name in contract.features}
    return clean, *Features.of(contract).arrays(columns)


def agree(found: Rows | list[dict[str, Any]], wanted: Any) -> None:
    if isinstance(wanted, list):
        assert isinstance(found, list)
        assert {failure["field"] for failure in found} == {failure["field"] for failure in wanted}
        return
    assert isinstance(found, Rows), found
    _, wanted_numbers, wanted_texts = wanted
    np.testing.assert_array_equal(found.numbers, wanted_numbers)
    assert found.numbers.dtype == np.float32
    assert found.texts.shape == wanted_texts.shape
    assert found.texts.tolist() == wanted_texts.tolist()


def outcome(call: Any, *arguments: Any) -> Rows | list[dict[str, Any]]:
    try:
        found: Rows = call(*arguments)
    except RequestError as error:
        return error.failures
    return found


class TestAgreement:
    @given(
        st.fixed_dictionaries(
            {"far": anything, "free": anything, "flag": anything, "kind": anything, "word": st.sampled_from("ab")},
            optional={"count": anything, "more": anything},
        )
    )
    def test_one_record(self, record: dict[str, Any]) -> None:
        agree(outcome(Checker(MIXED).record, record), expected(MIXED, [record]))

    @given(
        st.lists(
            st.fixed_dictionaries(
                {
                    "far": st.floats(-1000, 1000),
                    "free": st.floats(allow_nan=False, allow_infinity=False) | st.none(),
                    "count": st.integers(0, 9) | st.none(),
                    "flag": st.booleans() | st.none(),
                    "kind": st.text(max_size=3) | st.none(),
                    "word": st.text(max_size=2),
                }
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_good_records_lists_and_columns(self, records: list[dict[str, Any]]) -> None:
        checker = Checker(MIXED)
        wanted = expected(MIXED, records)
        for call, given_rows in (
            (checker.records, records),
            (checker.lists, [[record[name] for name in MIXED.features] for record in records]),
            (checker.columns, {name: [record[name] for record in records] for name in records[0]}),
        ):
            agree(outcome(call, given_rows), wanted)

    @given(st.lists(st.tuples(numbers, numbers, numbers | st.integers(-2, 1_002)), min_size=1, max_size=5))
    def test_a_matrix(self, rows: list[tuple[Any, ...]]) -> None:
        flat = [value for row in rows for value in row]
        wanted = expected(NUMERIC, [dict(zip(("x", "y", "n"), row, strict=True)) for row in rows])
        agree(outcome(Checker(NUMERIC).flat, flat, len(rows)), wanted)

    @given(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5))
    def test_a_matrix_of_floats(self, rows: list[tuple[Any, ...]]) -> None:
        matrix = np.array([[float(value) for value in row] for row in rows])
        wanted = expected(NUMERIC, [dict(zip(("x", "y", "n"), row, strict=True)) for row in matrix.tolist()])
        agree(outcome(Checker(NUMERIC).flat, matrix.reshape(-1), len(rows)), wanted)

    def test_times(self) -> None:
        records = [{"at": "2026-03-01T12:00+02:00", "x": 1}, {"at": "2026-03-02", "x": 0.5}]
        agree(outcome(Checker(WITH_TIME).record, records[0]), expected(WITH_TIME, records[:1]))
        agree(outcome(Checker(WITH_TIME).records, records), expected(WITH_TIME, records))


class TestMatrix:
    def test_the_usual_one_is_kept_as_it_came(self) -> None:
        rows = Checker(NUMERIC).flat([1.0, 2, 3.0, 4, 5.5, 6], 2)
        assert isinstance(rows.kept, np.ndarray)
        assert rows.kept.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.5, 6.0]]

    @pytest.mark.parametrize("bad", [True, "1", None, 5.5, float("nan"), -6])
    def test_a_bad_value_names_its_row(self, bad: Any) -> None:
        failures = outcome(Checker(NUMERIC).flat, [1.0, 2.0, 3, bad, 2.0, 3], 2)
        assert isinstance(failures, list)
        assert [(failure["field"], failure["row"]) for failure in failures] == [("x", 1)]

    def test_integers_must_be_whole(self) -> None:
        assert isinstance(outcome(Checker(NUMERIC).flat, [1.0, 2.0, 3.5, 1.0, 2.0, 3.0], 2), list)

    def test_other_contracts_take_none(self) -> None:
        with pytest.raises(Refusal, match="all numbers") as caught:
            Checker(MIXED).flat([1.0], 1)
        assert caught.value.status == 400

    def test_large_whole_numbers_are_looked_at_closely(self) -> None:
        wide = Contract.parse({"name": "w", "columns": {"n": {"type": "integer"}, "m": {"type": "integer"}}})
        rows = Checker(wide).flat([2**53 + 1, 1, 2, 3], 2)
        assert rows.kept == {"n": [2**53 + 1, 2], "m": [1, 3]}

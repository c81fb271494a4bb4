"""The check of one request: what it takes, what it refuses, and that nothing but RequestError ever comes out."""

import datetime as dt
import json
import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from headway.components.data_validate.contract import Contract
from headway.components.data_validate.request import MAX_FAILURES, SHOWN, RequestCheck, compile_request
from headway.components.errors import RequestError
from tests.components.data_validate.contracts import contracts


def check_of(columns: str, **rest: Any) -> RequestCheck:
    return compile_request(Contract.parse(f"{{name: t, columns: {{{columns}}}}}"))


def refused(check: RequestCheck, record: Any) -> list[dict[str, Any]]:
    with pytest.raises(RequestError) as caught:
        check.check(record)
    return caught.value.failures


def of_type(kind: str, rules: str = "") -> RequestCheck:
    return check_of(f"x: {{type: {kind}{rules}}}")


FLIGHT = """
  carrier: {type: string, values: {allowed: [AA, B6, UA]}},
  distance: {type: number, unit: miles, range: {min: 17, max: 5000, level: quarantine}},
  seats: {type: integer, missing: {max_share: 0.1}},
  id: {type: string, role: info},
  weight: {type: number, role: weight},
  delay: {type: number, known: outcome},
  late: {type: boolean, role: target}
"""


class TestFields:
    def test_the_features_come_back_in_the_contracts_order(self) -> None:
        clean = check_of(FLIGHT).check({"seats": 3.0, "distance": 100, "carrier": "AA"})
        assert json.dumps(clean) == '{"carrier": "AA", "distance": 100.0, "seats": 3}'

    def test_info_and_weight_may_come_along_and_are_not_looked_at(self) -> None:
        clean = check_of(FLIGHT).check({"carrier": "AA", "distance": 100, "id": [1], "weight": "heavy"})
        assert clean == {"carrier": "AA", "distance": 100.0, "seats": None}

    @pytest.mark.parametrize("field", ["delay", "late"])
    def test_what_is_known_only_with_the_outcome_is_refused(self, field: str) -> None:
        (failure,) = refused(check_of(FLIGHT), {"carrier": "AA", "distance": 100, field: 1})
        assert failure == {
            "field": field,
            "expected": "a request without it: the value is known only with the outcome",
            "got": "a field that the contract does not take",
        }

    def test_all_failures_come_at_once(self) -> None:
        failures = refused(check_of(FLIGHT), {"carier": "AA", "distance": 5, "seats": "3"})
        assert failures == [
            {"field": "carrier", "expected": "one of 'AA', 'B6', 'UA'", "got": "nothing: the field is missing"},
            {"field": "distance", "expected": "a finite number from 17 to 5000 (miles)", "got": "5"},
            {"field": "seats", "expected": "an integer, or null", "got": "'3'"},
            {
                "field": "carier",
                "expected": "no field of this name - did you mean 'carrier'?",
                "got": "a field that the contract does not take",
            },
        ]

    def test_the_error_reads_as_a_sentence(self) -> None:
        with pytest.raises(RequestError) as caught:
            check_of(FLIGHT).check({"carrier": "aa", "distance": True})
        assert str(caught.value) == (
            "Field 'carrier': got 'aa' (and 1 more)\nExpected: one of 'AA', 'B6', 'UA' - did you mean 'AA'?"
        )

    def test_an_optional_column_may_be_left_out_or_null(self) -> None:
        check = of_type("number", ", required: false")
        assert check.check({}) == check.check({"x": None}) == {"x": None}

    def test_a_required_one_may_not_be_null(self) -> None:
        assert refused(of_type("number"), {"x": None})[0]["got"] == "null"

    @pytest.mark.parametrize("record", [None, [], "text", 3, [("x", 1)]])
    def test_a_request_is_an_object(self, record: Any) -> None:
        (failure,) = refused(of_type("number"), record)
        assert failure["expected"] == "an object with a field for each feature"


class TestTypes:
    @pytest.mark.parametrize(
        ("kind", "came", "clean"),
        [
            ("number", 3, 3.0),
            ("number", 3.5, 3.5),
            ("number", np.float32(0.5), 0.5),
            ("integer", 3, 3),
            ("integer", 3.0, 3),
            ("integer", -(2**63), -(2**63)),
            ("integer", np.int64(7), 7),
            ("boolean", True, True),
            ("boolean", np.True_, True),
            ("string", "größe 出発", "größe 出発"),
            ("string", "", ""),
            ("timestamp", "2026-03-01", dt.datetime(2026, 3, 1)),
            ("timestamp", "2026-03-01T12:00:00Z", dt.datetime(2026, 3, 1, 12)),
            ("timestamp", "2026-03-01T12:00:00.5+02:00", dt.datetime(2026, 3, 1, 10, 0, 0, 500_000)),
            ("timestamp", dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC), dt.datetime(2026, 3, 1, 12)),
        ],
    )
    def test_a_value_is_given_as_the_model_takes_it(self, kind: str, came: Any, clean: Any) -> None:
        found = of_type(kind).check({"x": came})["x"]
        assert found == clean
        assert type(found) is type(clean)
        assert of_type(kind).check_batch({"x": [came]}) == {"x": [clean]}

    @pytest.mark.parametrize(
        ("kind", "came"),
        [
            ("number", True),
            ("number", "3"),
            ("number", math.nan),
            ("number", math.inf),
            ("number", -math.inf),
            ("number", 10**400),
            ("number", [1]),
            ("number", {}),
            ("integer", True),
            ("integer", "3"),
            ("integer", 3.5),
            ("integer", math.nan),
            ("integer", math.inf),
            ("integer", 2**63),
            pytest.param("integer", 10**10_000, id="integer of 10001 digits"),
            ("boolean", 1),
            ("boolean", "true"),
            ("string", 3),
            ("string", b"x"),
            pytest.param("string", "\ud800", id="half a character"),
            ("timestamp", 1_700_000_000),
            ("timestamp", "soon"),
            ("timestamp", "0001-01-01T00:00+14:00"),
            pytest.param("timestamp", "2" * 10_000_000, id="timestamp of 10 MB"),
            ("timestamp", dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=14)))),
            ("timestamp", np.datetime64("NaT")),
        ],
    )
    def test_another_type_is_refused(self, kind: str, came: Any) -> None:
        (failure,) = refused(of_type(kind), {"x": came})
        assert len(failure["got"]) <= SHOWN
        with pytest.raises(RequestError) as caught:
            of_type(kind).check_batch({"x": [came]})
        assert caught.value.failures == [{**failure, "row": 0}]


class TestRules:
    @pytest.mark.parametrize(
        ("kind", "rules", "good", "bad", "expected"),
        [
            ("number", "range: {min: 0, max: 1}", [0, 1, 0.5], [-0.1, 1.1], "a finite number from 0 to 1"),
            ("number", "range: {max: 1}", [-1e300], [2], "a finite number of at most 1"),
            ("integer", "range: {min: 0.5}", [1], [0], "an integer of at least 0.5"),
            ("timestamp", "range: {min: 2026-01-01}", ["2026-01-01"], ["2025-12-31T23:59:59"], "at least 2026-01-01"),
            ("string", "values: {allowed: [a, b]}", ["a"], ["A", "c"], "one of 'a', 'b'"),
            ("integer", "values: {allowed: [1, 2]}", [1, 2.0], [3], "one of 1, 2"),
            ("number", "values: {allowed: [0.5, 1]}", [0.5, 1], [0.7], "one of 0.5, 1"),
            ("boolean", "values: {allowed: [true]}", [True], [False], "one of True"),
            ("string", "pattern: {regex: '[A-Z]{2}'}", ["AB"], ["ABC", "ab", "AB\n"], "a text that matches [A-Z]{2}"),
        ],
    )
    def test_a_rule_refuses_with_block_and_quarantine_and_warns_with_warn(
        self, kind: str, rules: str, good: list[Any], bad: list[Any], expected: str
    ) -> None:
        for level in ("block", "quarantine"):
            check = of_type(kind, f", {rules[:-1]}, level: {level}}}")
            for value in good:
                check.check({"x": value}, [])
            for value in bad:
                assert expected in refused(check, {"x": value})[0]["expected"]
        warns = of_type(kind, f", {rules[:-1]}, level: warn}}")
        for value in good + bad:
            found: list[dict[str, Any]] = []
            warns.check({"x": value}, found)
            assert [expected in warning["expected"] for warning in found] == [True] * (value in bad)
        found = []
        warns.check_batch({"x": good + bad}, found)
        assert [warning["row"] for warning in found] == list(range(len(good), len(good + bad)))

    def test_a_long_list_of_values_is_shortened(self) -> None:
        check = of_type("string", f", values: {{allowed: [{', '.join(f'v{i}' for i in range(200))}]}}")
        assert refused(check, {"x": "v1999"})[0]["expected"].startswith("one of 'v0', 'v1',")
        assert "'v9' and 190 more - did you mean 'v199'" in refused(check, {"x": "v1999"})[0]["expected"]

    def test_a_wrong_type_is_refused_whatever_its_level(self) -> None:
        assert refused(of_type("number", ", type_level: warn"), {"x": "three"})[0]["got"] == "'three'"


class TestMany:
    CHECK = "a: {type: number, range: {min: 0}}, b: {type: string, missing: {max_share: 0.5}}"

    def test_records_carry_their_row(self) -> None:
        check = check_of(self.CHECK)
        assert check.check_many([{"a": 1, "b": "x"}, {"a": 2}]) == [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": None}]
        with pytest.raises(RequestError) as caught:
            check.check_many([{"a": 1}, {"a": -1}, {"c": 1}])
        assert [(failure["field"], failure["row"]) for failure in caught.value.failures] == [
            ("a", 1),
            ("a", 2),
            ("c", 2),
        ]

    def test_warnings_carry_their_row(self) -> None:
        check = check_of("a: {type: number, range: {min: 0, level: warn}}")
        found: list[dict[str, Any]] = []
        check.check_many([{"a": 1}, {"a": -1}], found)
        assert found == [{"field": "a", "expected": "a finite number of at least 0", "got": "-1.0", "row": 1}]

    @pytest.mark.parametrize("records", [{"a": 1}, "text", None])
    def test_records_are_a_list(self, records: Any) -> None:
        with pytest.raises(RequestError, match="a list of objects, one for each row"):
            check_of(self.CHECK).check_many(records)

    def test_columns_may_have_holes_and_be_arrays(self) -> None:
        columns: dict[str, Any] = {"a": np.array([1, 2]), "b": [None, "x"]}
        clean = check_of(self.CHECK).check_batch(columns)
        assert clean == {"a": [1.0, 2.0], "b": [None, "x"]}
        assert check_of(self.CHECK).check_batch({"a": [1]}) == {"a": [1.0], "b": [None]}

    def test_failures_of_columns_carry_their_row(self) -> None:
        with pytest.raises(RequestError) as caught:
            check_of(self.CHECK).check_batch({"a": [1, None, -1, "x"], "b": [1, "x", None, "y"], "c": [1] * 4})
        found = [(failure["field"], failure.get("row")) for failure in caught.value.failures]
        assert found == [("c", None), ("a", 1), ("a", 2), ("a", 3), ("b", 0)]

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"a": [1, 2], "b": ["x"]}, "lengths from 1 to 2"),
            ({"a": 1}, "a list of values"),
            ({"a": np.array(1)}, "a list of values"),
            ({"b": ["x"]}, "nothing: the field is missing"),
            ([1], "an object with a list for each feature"),
        ],
    )
    def test_columns_are_lists_of_one_length(self, columns: Any, message: str) -> None:
        with pytest.raises(RequestError, match=message):
            check_of(self.CHECK).check_batch(columns)

    def test_failures_are_capped(self) -> None:
        with pytest.raises(RequestError) as caught:
            check_of(self.CHECK).check_batch({"a": [-1] * 5_000})
        assert len(caught.value.failures) == MAX_FAILURES
        assert len(refused(check_of(self.CHECK), {f"x{i}": 1 for i in range(5_000)})) == MAX_FAILURES


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.datetimes(),
    st.sampled_from(
        [
            10**400,
            -(10**5000),
            "x" * 1_000_000,
            "\ud800",
            _nest(5_000),
            {"a": _nest(5_000)},
            object(),
            b"",
            1j,
            float,
            "AB12",
        ]
    ),
)
ODD_KEYS = st.one_of(st.text(max_size=3), st.integers(), st.none(), st.tuples(st.integers()), st.just("k" * 100_000))


class TestHostileRequests:
    @given(contracts(), st.data())
    @settings(max_examples=200, deadline=None)
    def test_only_request_errors_come_out_and_they_can_be_sent(self, contract: Contract, data: st.DataObject) -> None:
        check = compile_request(contract)
        record: dict[Any, Any] = {name: data.draw(ODD) for name in contract.columns}
        record |= data.draw(st.dictionaries(ODD_KEYS, ODD, max_size=3))
        found: list[dict[str, Any]] = []
        try:
            assert list(check.check(record, found)) == list(contract.features)
        except RequestError as error:
            found = error.failures
        for failure in found:
            json.dumps(failure, ensure_ascii=False).encode()
            assert len(failure["got"]) <= SHOWN

    @given(contracts(), st.data())
    @settings(max_examples=200, deadline=None)
    def test_one_request_and_a_batch_agree(self, contract: Contract, data: st.DataObject) -> None:
        check = compile_request(contract)
        size = data.draw(st.integers(1, 4))
        columns = {name: data.draw(st.lists(ODD, min_size=size, max_size=size)) for name in contract.features}
        records = [{name: values[row] for name, values in columns.items()} for row in range(size)]
        warnings: tuple[list[Any], list[Any]] = ([], [])
        try:
            by_row: Any = check.check_many(records, warnings[0])
        except RequestError as error:
            by_row = {(failure["field"], failure["row"]) for failure in error.failures}
        try:
            clean = check.check_batch(columns, warnings[1])
            by_column: Any = [
                {name: values[row] for name, values in clean.items()} for row in range(size if clean else 0)
            ]
            by_row = by_row if clean else []
        except RequestError as error:
            by_column = {(failure["field"], failure["row"]) for failure in error.failures}
        assert repr(by_row) == repr(by_column) or by_row == by_column
        if isinstance(by_row, list):
            assert warnings[0] == warnings[1]

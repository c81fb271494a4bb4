"""The contract as pandera and as JSON Schema: both agree with our own checks."""

import sys
from typing import Any

import hypothesis.strategies as st
import jsonschema  # type: ignore[import-untyped]
import pandas as pd
import pandera.errors
import pytest
from hypothesis import given, settings

from headway.components.data_validate.contract import Contract
from headway.components.data_validate.generate import generate, violate
from headway.components.data_validate.request import compile_request
from headway.components.data_validate.schema import pandera_source, to_json_schema, to_pandera
from headway.components.errors import ConfigError, RequestError, UsageError
from tests.components.data_validate.contracts import contracts

TRIPS = Contract.parse(
    """
name: 'the "trips" \\'''
time: when
key: [carrier, when]
columns:
  carrier: {type: string, values: {allowed: [AA, B6, UA]}}
  "dist ance é": {type: number, range: {min: 17, max: 5000}, missing: {max_share: 0.2}}
  tail: {type: string, pattern: {regex: 'N[0-9]{1,5}[A-Z]{0,2}'}}
  n: {type: integer, range: {min: 0}, missing: {max_share: 0.5}}
  when: {type: timestamp, role: info, range: {max: 2100-01-01}, monotone: {}}
  id: {type: integer, role: info, unique: {}, range: {min: 0, max: 1000000}}
  late: {type: boolean, role: target}
  noise: {type: number, range: {min: 0, max: 1, level: warn}, required: false}
rules:
  - {name: longer, expression: '"dist ance é" > n'}
rows: {min: 10, max: 500}
freshness: {max_age: 2d}
extra_columns: block
""".replace("\\'''", "'")
)


def from_source(contract: Contract) -> Any:
    names: dict[str, Any] = {}
    exec(compile(pandera_source(contract), "schema.py", "exec"), names)
    return names["schema"]


@pytest.fixture(scope="module", params=[to_pandera, from_source])
def schema(request: pytest.FixtureRequest) -> Any:
    return request.param(TRIPS)


def frame() -> pd.DataFrame:
    data: pd.DataFrame = generate(TRIPS, 60, 0).to_pandas()
    return data


def failures(schema: Any, data: pd.DataFrame) -> set[tuple[Any, str]]:
    with pytest.raises(pandera.errors.SchemaErrors) as caught:
        schema.validate(data, lazy=True)
    return {(row["column"], row["check"]) for row in caught.value.failure_cases.to_dict("records")}


class TestPandera:
    def test_a_table_that_satisfies_the_contract_passes(self, schema: Any) -> None:
        assert len(schema.validate(frame(), lazy=True)) == 60

    @pytest.mark.parametrize(
        ("column", "rule", "check"),
        [
            ("carrier", "missing", "not_nullable"),
            ("dist ance é", "range", "not from 17 to 5000"),
            ("n", "range", "below 0"),
            ("when", "range", "above 2100-01-01"),
            ("carrier", "values", "not an allowed value"),
            ("tail", "pattern", "does not match N[0-9]{1,5}[A-Z]{0,2}"),
            ("id", "unique", "stands twice"),
        ],
    )
    def test_a_broken_rule_fails_by_its_name(self, schema: Any, column: str, rule: Any, check: str) -> None:
        broken, _ = violate(generate(TRIPS, 60, 0), TRIPS, column, rule, rows=2, seed=1)
        assert (column, check) in failures(schema, broken.to_pandas())

    def test_another_type_fails(self, schema: Any) -> None:
        broken, _ = violate(generate(TRIPS, 60, 0), TRIPS, "n", "type", rows=2, seed=1)
        assert ("n", "coerce_dtype('Int64')") in failures(schema, broken.to_pandas())

    def test_too_many_missing_values_fail(self, schema: Any) -> None:
        data = frame()
        data.loc[:30, "dist ance é"] = None
        assert ("dist ance é", "more than a share of 0.2 is missing") in failures(schema, data)

    def test_rules_over_columns_and_rows_fail(self, schema: Any) -> None:
        data = frame()
        data.loc[3, ["dist ance é", "n"]] = [20.0, 5_000]
        data.loc[5, ["carrier", "when"]] = data.loc[4, ["carrier", "when"]]
        data["when"] = data["when"] - pd.Timedelta(days=9)
        data.loc[8, "when"] = pd.Timestamp(2000, 1, 1)
        checks = {check for _, check in failures(schema, data)}
        assert checks >= {"longer", "the key stands twice", "the newest row is older than 2d", "decreases"}

    def test_the_number_of_rows_and_unknown_columns_fail(self, schema: Any) -> None:
        data = frame().head(5).assign(more=1)
        checks = {check for _, check in failures(schema, data)}
        assert {"too few or too many rows", "column_in_schema"} <= checks

    def test_a_warning_warns_and_an_optional_column_may_lack(self, schema: Any) -> None:
        with pytest.warns(pandera.errors.SchemaWarning, match="noise"):
            schema.validate(frame().assign(noise=2.0), lazy=True)
        schema.validate(frame().drop(columns="noise"), lazy=True)

    @given(contracts(), st.integers(0, 1000))
    @settings(max_examples=25, deadline=None)
    def test_any_contract_passes_its_generated_table(self, contract: Contract, seed: int) -> None:
        data = generate(contract, 20, seed).to_pandas()
        to_pandera(contract).validate(data, lazy=True)
        from_source(contract).validate(data, lazy=True)

    def test_a_wrong_condition_is_refused(self) -> None:
        bad = Contract.parse("{name: t, columns: {x: {type: number}}, rules: [{name: r, expression: y > 0}]}")
        with pytest.raises(ConfigError, match="Rule 'r': the column 'y' is not declared"):
            to_pandera(bad)

    def test_without_pandera_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandera.pandas", None)
        with pytest.raises(UsageError, match=r"pandera is not installed\nFix: pip install 'headway\[pandera\]'"):
            to_pandera(TRIPS)


class TestJsonSchema:
    def test_says_what_a_request_must_be(self) -> None:
        document = to_json_schema(TRIPS)
        assert document["required"] == ["carrier", "tail"]
        assert document["additionalProperties"] is False
        assert document["properties"]["dist ance é"] == {"type": ["number", "null"], "minimum": 17, "maximum": 5000}
        assert document["properties"]["noise"] == {"type": ["number", "null"]}
        assert document["properties"]["id"] == {"description": "Not looked at."}
        assert "late" not in document["properties"]

    @given(contracts(), st.data())
    @settings(max_examples=80, deadline=None)
    def test_agrees_with_the_request_check(self, contract: Contract, data: st.DataObject) -> None:
        names = [name for name in contract.features if contract.features[name].type != "timestamp"]
        values = st.one_of(st.none(), st.booleans(), st.integers(-2000, 2000), st.text(max_size=4), st.just("AB12"))
        record = {name: data.draw(values) for name in names}
        record |= dict.fromkeys(set(contract.features) - set(names), "2020-06-01")
        validator = jsonschema.Draft202012Validator(to_json_schema(contract))
        assert validator.is_valid(record) is _takes(contract, record)


def _takes(contract: Contract, record: dict[str, Any]) -> bool:
    try:
        compile_request(contract).check(record)
    except RequestError:
        return False
    return True

"""The difference of two contracts, row by row of the rule table."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from headway.components.data_validate.contract import Contract
from headway.components.data_validate.diff import diff, is_breaking
from headway.components.data_validate.generate import generate
from headway.components.data_validate.request import compile_request
from tests.components.data_validate.contracts import contracts

BASE: dict[str, Any] = {
    "name": "t",
    "target": "y",
    "columns": {
        "x": {"type": "number", "range": {"min": 0, "max": 10}, "missing": {"max_share": 0.1}},
        "n": {"type": "integer"},
        "c": {"type": "string", "values": {"allowed": ["a", "b"]}},
        "p": {"type": "string", "pattern": {"regex": "[a-z]+", "level": "warn"}},
        "when": {"type": "timestamp", "role": "info", "range": {"min": "2024-01-01"}, "monotone": {"strict": True}},
        "y": {"type": "boolean"},
    },
}


def changed(column: str = "", change: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    columns = {**BASE["columns"]}
    if column:
        columns[column] = {**columns[column], **(change or {})}
    return {**BASE, "columns": columns, **rest}


def found(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, bool, str]]:
    return [(c.where, c.breaking, c.sentence) for c in diff(Contract.parse(old), Contract.parse(new))]


class TestColumns:
    @pytest.mark.parametrize(
        ("column", "change", "breaking", "sentence"),
        [
            ("n", {"type": "number"}, False, "type changes from integer to number"),
            ("x", {"type": "integer"}, True, "type changes from number to integer"),
            ("n", {"role": "info"}, True, "role changes from feature to info"),
            ("when", {"role": "feature"}, True, "role changes from info to feature"),
            ("when", {"known": "outcome"}, True, "known changes from prediction to outcome"),
            ("n", {"required": False}, False, "becomes optional"),
            ("n", {"type_level": "warn"}, False, "the level of type falls from block to warn"),
            ("x", {"missing": {"max_share": 0.2}}, False, "the missing share rises from 0.1 to 0.2"),
            ("x", {"missing": {"max_share": 0.05}}, True, "the missing share falls from 0.1 to 0.05"),
            (
                "x",
                {"missing": {"max_share": 0.1, "level": "warn"}},
                False,
                "the level of missing falls from block to warn",
            ),
            ("x", {"range": {"min": 0, "max": 9}}, True, "range narrows from 0 to 10 to 0 to 9"),
            ("x", {"range": {"min": -1, "max": 9}}, True, "range narrows from 0 to 10 to -1 to 9"),
            ("x", {"range": {"min": 0}}, False, "range widens from 0 to 10 to at least 0"),
            ("x", {"range": {"max": 10}}, False, "range widens from 0 to 10 to at most 10"),
            ("x", {"range": None}, False, "range is removed"),
            ("n", {"range": {"min": 0}}, True, "range is added with level block"),
            ("n", {"range": {"min": 0, "level": "warn"}}, False, "range is added with level warn"),
            (
                "when",
                {"range": {"min": "2024-01-01T01:00:00+02:00"}},
                False,
                "range widens from at least 2024-01-01 to",
            ),
            (
                "when",
                {"range": {"min": "2024-01-02"}},
                True,
                "range narrows from at least 2024-01-01 to at least 2024-01-02",
            ),
            (
                "when",
                {"range": {"max": "2025-01-01"}},
                True,
                "range narrows from at least 2024-01-01 to at most 2025-01-01",
            ),
            ("c", {"values": {"allowed": ["a"]}}, True, "values lose 'b'"),
            ("c", {"values": {"allowed": ["a", "b", "c"]}}, False, "values gain 'c'"),
            ("c", {"values": {"allowed": ["b", "a"]}}, None, ""),
            (
                "c",
                {"values": {"allowed": ["a", "b"], "level": "quarantine"}},
                False,
                "the level of values falls from block",
            ),
            ("p", {"pattern": {"regex": "[a-z]+"}}, True, "the level of pattern rises from warn to block"),
            (
                "p",
                {"pattern": {"regex": "[a-z]", "level": "warn"}},
                False,
                'pattern changes from regex "[a-z]+" to regex "[a-z]"',
            ),
            ("p", {"pattern": None}, False, "pattern is removed"),
            ("n", {"unique": {}}, True, "unique is added with level block"),
            ("when", {"monotone": {}}, False, "monotone changes from strict true to strict false"),
            ("n", {"unit": "km"}, False, "unit changes"),
            ("n", {"description": "a number"}, False, "description changes"),
        ],
    )
    def test_one_change(self, column: str, change: dict[str, Any], breaking: bool | None, sentence: str) -> None:
        changes = found(BASE, changed(column, change))
        if breaking is None:
            assert changes == []
            return
        (only,) = changes
        assert only[:2] == (f"columns.{column}", breaking)
        assert only[2].startswith(sentence)

    @pytest.mark.parametrize(
        ("column", "change"),
        [
            ("n", {"required": False}),
            ("when", {"monotone": {}}),
            ("p", {"pattern": {"regex": "[a-z]+", "level": "block"}}),
        ],
    )
    def test_the_way_back(self, column: str, change: dict[str, Any]) -> None:
        there, back = found(BASE, changed(column, change)), found(changed(column, change), BASE)
        assert [c[1] for c in there] == [not c[1] for c in back]

    def test_columns_come_and_go(self) -> None:
        without = {**BASE, "columns": {name: c for name, c in BASE["columns"].items() if name not in ("n", "when")}}
        assert found(BASE, without) == [
            ("columns.n", True, "the feature is removed"),
            ("columns.when", True, "the info is removed"),
        ]
        delay = {**BASE, "columns": {**BASE["columns"], "delay": {"type": "number", "known": "outcome"}}}
        assert found(delay, BASE) == [("columns.delay", False, "the info is removed")]
        assert ("columns.delay", True, "the info is removed") in found(delay, {**BASE, "extra_columns": "block"})
        more = {
            **BASE,
            "columns": {**BASE["columns"], "a": {"type": "number"}, "b": {"type": "number", "required": False}},
        }
        assert found(BASE, more) == [
            ("columns.a", True, "a feature of type number is added; it must be there"),
            ("columns.b", False, "a feature of type number is added; it is optional"),
        ]

    def test_the_order_of_the_features_counts_and_that_of_others_does_not(self) -> None:
        names = list(BASE["columns"])
        swapped = {**BASE, "columns": {name: BASE["columns"][name] for name in [names[1], names[0], *names[2:]]}}
        assert found(BASE, swapped)[0][:2] == ("columns", True)
        moved = {**BASE, "columns": {name: BASE["columns"][name] for name in ["when", "y", *names[:4]]}}
        assert found(BASE, moved) == [
            ("columns", False, "the order of the columns changes, that of the features does not")
        ]


class TestTheRest:
    @pytest.mark.parametrize(
        ("before", "after", "where", "breaking", "sentence"),
        [
            ({}, {"name": "u"}, "name", False, "name changes from 't' to 'u'"),
            ({}, {"description": "d"}, "description", False, "description changes"),
            ({}, {"time": "when"}, "time", False, "time changes from None to 'when'"),
            ({}, {"key": "n"}, "key", True, "key is added with level block"),
            ({"key": "n"}, {"key": ["n", "c"]}, "key", True, 'key changes from columns ["n"] to columns ["n", "c"]'),
            ({"key": "n"}, {}, "key", False, "key is removed"),
            ({}, {"extra_columns": "block"}, "extra_columns", True, "changes from ignore to block"),
            (
                {"extra_columns": "block"},
                {"extra_columns": "warn"},
                "extra_columns",
                False,
                "changes from block to warn",
            ),
            ({}, {"rows": {"min": 5}}, "rows", True, "rows is added with level block"),
            ({"rows": {"min": 5}}, {"rows": {"min": 6}}, "rows", True, "rows change from at least 5 to at least 6"),
            (
                {"rows": {"min": 5}},
                {"rows": {"min": 5, "max": 9}},
                "rows",
                True,
                "rows change from at least 5 to 5 to 9",
            ),
            (
                {"rows": {"min": 5, "max": 9}},
                {"rows": {"min": 4}},
                "rows",
                False,
                "rows change from 5 to 9 to at least 4",
            ),
            (
                {"rules": [{"name": "r", "expression": "x > 0"}]},
                {"rules": [{"name": "r", "expression": "x > 1"}]},
                "rules.r",
                True,
                'expression changes from name "r", expression "x > 0"',
            ),
            (
                {},
                {"rules": [{"name": "r", "expression": "x > 0", "level": "warn"}]},
                "rules.r",
                False,
                "expression is added",
            ),
        ],
    )
    def test_one_change(
        self, before: dict[str, Any], after: dict[str, Any], where: str, breaking: bool, sentence: str
    ) -> None:
        (only,) = found({**BASE, **before}, {**BASE, **after})
        assert only[:2] == (where, breaking)
        assert only[2].startswith(sentence)

    @pytest.mark.parametrize(("before", "after", "breaking"), [("2d", "1d", True), ("1d", "48h", False)])
    def test_freshness(self, before: str, after: str, breaking: bool) -> None:
        old = {**BASE, "time": "when", "freshness": {"max_age": before}}
        assert found(old, {**old, "freshness": {"max_age": after}}) == [
            ("freshness", breaking, f"freshness changes from {before} to {after}")
        ]

    def test_another_target_changes_the_model(self) -> None:
        changes = diff(Contract.parse(BASE), Contract.parse({**BASE, "target": "n"}))
        assert is_breaking(changes)
        assert changes[0].sentence == "target changes from 'y' to 'n'"

    def test_one_spelling_of_freshness_for_another_is_no_change(self) -> None:
        old = {**BASE, "time": "when", "freshness": {"max_age": "1d"}}
        assert found(old, {**old, "freshness": {"max_age": "24h"}}) == []

    @given(contracts(), contracts())
    @settings(max_examples=80, deadline=None)
    def test_nothing_changes_only_between_equals(self, one: Contract, other: Contract) -> None:
        assert diff(one, one) == []
        if one.digest() != other.digest():
            assert diff(one, other) != []


class TestPromise:
    """What the word means: who satisfied the old contract is refused by the new one only after a breaking change."""

    @given(contracts(), contracts(), st.integers(0, 1000))
    @settings(max_examples=100, deadline=None)
    def test_a_change_that_is_not_breaking_refuses_no_request(self, old: Contract, new: Contract, seed: int) -> None:
        merged = _some_of(old, new, seed)
        if is_breaking(diff(old, merged)):
            return
        check = compile_request(merged)
        accepted = [name for name, column in old.columns.items() if column.known == "prediction" and name != old.target]
        for row in generate(old, 10, seed).select(accepted).to_pylist():
            compile_request(old).check(row)
            check.check(row)


def _some_of(old: Contract, new: Contract, seed: int) -> Contract:
    """The old contract with one column's rules from the new one where the types agree."""
    data = old.model_dump(mode="json", exclude_defaults=True)
    donors = list(new.columns.values())
    for position, (name, column) in enumerate(old.columns.items()):
        donor = donors[(seed + position) % len(donors)]
        if donor.type is column.type and name != old.target:
            data["columns"][name] = donor.model_dump(mode="json", exclude_defaults=True) | {"role": column.role}
    return Contract.parse(data)

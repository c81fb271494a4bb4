"""The contract document: what it accepts, what it refuses and in which words."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from headway.components.data_validate.contract import Contract, Level, Role, read_moment
from headway.components.errors import ConfigError, UnknownNameError, UsageError
from tests.components.data_validate.contracts import contracts


def contract(text: str) -> Contract:
    return Contract.parse(text, where="c.yaml")


def column(text: str) -> Contract:
    return contract(f"{{name: t, columns: {{x: {text}}}}}")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        contract(text)
    return str(caught.value)


EXAMPLE = """
name: flights
target: late
key: [carrier, flight, scheduled_departure]
time: scheduled_departure
columns:
  carrier: {type: string, values: {allowed: [AA, B6, UA], level: warn}}
  flight: {type: integer, role: info}
  scheduled_departure: {type: timestamp, role: info}
  distance: {type: number, unit: miles, range: {min: 17, max: 5000, level: quarantine}}
  departure_delay: {type: number, known: outcome}
  weight: {type: number, role: weight}
  late: {type: boolean}
rules:
  - {name: positive speed, expression: "distance > 0", level: block}
rows: {min: 1000}
freshness: {max_age: 36h, level: warn}
"""


class TestReading:
    def test_roles_follow_from_target_and_known(self) -> None:
        found = contract(EXAMPLE)
        assert list(found.features) == ["carrier", "distance"]
        assert found.columns["late"].role is Role.TARGET
        assert found.columns["departure_delay"].role is Role.INFO
        assert found.known_after == ["departure_delay"]
        assert found.weight == "weight"
        assert found.freshness is not None
        assert found.freshness.seconds == 36 * 3600

    def test_the_target_can_be_named_by_its_role(self) -> None:
        by_role = contract("{name: t, columns: {x: {type: number}, y: {type: boolean, role: target}}}")
        by_name = contract("{name: t, target: y, columns: {x: {type: number}, y: {type: boolean}}}")
        assert by_role == by_name
        assert by_role.digest() == by_name.digest()

    def test_a_target_known_with_the_outcome_is_still_the_target(self) -> None:
        found = contract("{name: t, target: y, columns: {x: {type: number}, y: {type: boolean, known: outcome}}}")
        assert found.columns["y"].role is Role.TARGET
        assert list(found.features) == ["x"]

    def test_before_and_after_are_other_words_for_known(self) -> None:
        assert column("{type: number, known: after}").columns["x"].known == "outcome"
        assert column("{type: number, known: before}").columns["x"].known == "prediction"

    @pytest.mark.parametrize(
        ("text", "columns", "level"),
        [
            ("x", ["x"], Level.BLOCK),
            ("[x, y]", ["x", "y"], Level.BLOCK),
            ("{columns: x, level: warn}", ["x"], Level.WARN),
        ],
    )
    def test_a_key_is_a_name_a_list_or_a_mapping(self, text: str, columns: list[str], level: Level) -> None:
        key = contract(f"{{name: t, key: {text}, columns: {{x: {{type: integer}}, y: {{type: integer}}}}}}").key
        assert key is not None
        assert (key.columns, key.level) == (columns, level)

    def test_an_unquoted_date_is_a_bound(self) -> None:
        rule = column("{type: timestamp, range: {min: 2024-01-01, max: 2024-12-31T12:00:00}}").columns["x"].range
        assert rule is not None
        assert (rule.min, rule.max) == ("2024-01-01", "2024-12-31T12:00:00")

    def test_a_large_integer_bound_is_exact(self) -> None:
        rule = column("{type: integer, range: {min: 9007199254740993}}").columns["x"].range
        assert rule is not None
        assert rule.min == 9007199254740993

    @pytest.mark.parametrize(
        ("text", "nullable"),
        [("{}", False), ("{max_share: 0.1}", True), ("{level: warn}", True), ("{level: quarantine}", False)],
    )
    def test_one_request_may_leave_out_what_a_table_may_miss(self, text: str, nullable: bool) -> None:
        assert column(f"{{type: number, missing: {text}}}").columns["x"].nullable is nullable

    def test_a_column_is_found_or_the_near_one_offered(self) -> None:
        found = contract(EXAMPLE)
        assert found.column("distance").unit == "miles"
        with pytest.raises(UnknownNameError, match=r"Unknown column 'distence' - did you mean 'distance'\?"):
            found.column("distence")

    def test_a_model_needs_a_target(self) -> None:
        assert contract(EXAMPLE).require_target() == "late"
        with pytest.raises(UsageError, match="names no target\nFix: add `target: COLUMN`"):
            column("{type: number}").require_target()


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "{type: nummber}",
                "columns.x.type: Input should be 'integer', 'number', 'boolean', 'string' or 'timestamp'",
            ),
            ("{type: number, rnge: {}}", "columns.x.rnge is not a known key - did you mean 'range'?"),
            ("{}", "columns.x.type is missing"),
            ("{type: number, range: {}}", "a range needs min, max or both"),
            ("{type: number, range: {min: 2, max: 1}}", "min 2 is above max 1"),
            ("{type: number, range: {min: 2, max: '1'}}", "min 2 and max '1' must be of one type"),
            ("{type: number, range: {min: yes}}", "a bound is a number or an ISO 8601 text, not true or false"),
            ("{type: number, range: {min: .nan}}", "columns.x.range.min"),
            ("{type: number, range: {min: '1'}}", "the bounds of a number column must be numbers"),
            ("{type: timestamp, range: {min: 1}}", "the bounds of a timestamp column must be ISO 8601 texts"),
            ("{type: timestamp, range: {min: soon}}", "'soon' is not a time in ISO 8601, such as 2026-03-01T12:00:00"),
            ("{type: timestamp, range: {min: 2024-01-02T00:00+02:00, max: 2024-01-01T12:00:00}}", "is above max"),
            ("{type: string, range: {min: 1}}", "a range does not fit a string column"),
            ("{type: number, pattern: {regex: a}}", "a pattern does not fit a number column"),
            ("{type: string, monotone: {}}", "monotone does not fit a string column"),
            ("{type: timestamp, values: {allowed: [a]}}", "values do not fit a timestamp column"),
            ("{type: integer, values: {allowed: [1, 1.5]}}", "the allowed value 1.5 is not of type integer"),
            ("{type: integer, values: {allowed: [1, true]}}", "the allowed value True is not of type integer"),
            ("{type: boolean, values: {allowed: [0]}}", "the allowed value 0 is not of type boolean"),
            (
                "{type: string, values: {allowed: [NO]}}",
                "the allowed value False is not of type string; put it in quotes",
            ),
            ("{type: string, values: {allowed: [a, a]}}", "a value stands twice in allowed"),
            ("{type: number, values: {allowed: [1, 1.0]}}", "a value stands twice in allowed"),
            ("{type: string, values: {allowed: []}}", "at least 1 item"),
            ("{type: string, role: weight}", "a sample weight is a number, not a string"),
            ("{type: number, missing: {max_share: 1.5}}", "less than or equal to 1 (got 1.5)"),
            ("{type: number, missing: {level: stop}}", "Input should be 'block', 'quarantine' or 'warn'"),
        ],
    )
    def test_of_one_column(self, text: str, message: str) -> None:
        found = refusal(f"{{name: t, columns: {{x: {text}}}}}")
        assert found.startswith("c.yaml: columns.x")
        assert message in found

    @pytest.mark.parametrize(
        ("regex", "message"),
        [
            ("(a", "not a regular expression: missing ), unterminated subpattern"),
            ("(?=a)b", "look-around, back-references, atomic groups and possessive repeats are not allowed"),
            ("(?<!a)b", "look-around"),
            (r"(a)\1", "look-around, back-references"),
            ("(?P<x>a)(?P=x)", "look-around, back-references"),
            ("a++", "look-around"),
            ("(?>a)b", "look-around"),
            (r"a\Z", r"the escape \Z is not known to RE2: write \z as $"),
            (r"\u0061", r"the escape \u is not known to RE2"),
            ("a{,3}", "write {0,n} instead of {,n}"),
            ("(?x)a b", "only the flags i, m and s are allowed"),
            ("a(?#note)", "comments are not allowed"),
            ("[[:alpha:]]", "write the characters of [:class:] out"),
            ("(a{100}){100}", "a repeat of more than 1000 times is not allowed"),
        ],
    )
    def test_of_a_pattern_that_two_engines_read_differently(self, regex: str, message: str) -> None:
        with pytest.raises(ConfigError, match=r"columns\.x\.pattern\.regex: " + re.escape(message)):
            Contract.parse({"name": "t", "columns": {"x": {"type": "string", "pattern": {"regex": regex}}}})

    @pytest.mark.parametrize(
        "regex", [r"\\1", "[(?=]", r"\\Z", "(?i)abc", "(?P<x>a)", r"a\{,3}", r"\w+\s\d", "[^]]", "a|"]
    )
    def test_a_pattern_that_only_looks_like_one_of_those_is_taken(self, regex: str) -> None:
        Contract.parse({"name": "t", "columns": {"x": {"type": "string", "pattern": {"regex": regex}}}})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"target": "lat"}, "target names the column 'lat', which is not declared - did you mean 'late'?"),
            ({"time": "whn"}, "time names the column 'whn', which is not declared - did you mean 'when'?"),
            ({"key": ["id", "carier"]}, "key names the column 'carier', which is not declared"),
            ({"key": ["id", "id"]}, "a column stands twice in the key"),
            ({"key": []}, "at least 1 item"),
            ({"time": "id"}, "time is 'id', which is a integer, not a timestamp"),
            ({"freshness": {"max_age": "1d"}}, "freshness needs `time`, the column that says when a row happened"),
            ({"freshness": {"max_age": "soon"}}, "freshness.max_age"),
            ({"rows": {"min": 5, "max": 2}}, "rows: min 5 is above max 2"),
            ({"rules": [{"name": "a", "expression": "1=1"}] * 2}, "two rules have one name"),
            ({"extra_columns": "drop"}, "Input should be 'ignore', 'warn' or 'block' (got 'drop')"),
            ({"columns": {}}, "at least 1 item"),
            ({"columns": {"": {"type": "number"}}}, "at least 1 character"),
            ({"columns": {1: {"type": "number"}}}, "Input should be a valid string (got 1)"),
            ({"columns": {"a": {"type": "number"}, "A": {"type": "number"}}}, "differ only in case"),
            ({"colums": {}}, "colums is not a known key - did you mean 'columns' or"),
            ({"name": ""}, "name: String should have at least 1 character"),
        ],
    )
    def test_of_the_whole(self, change: dict[str, Any], message: str) -> None:
        columns = {"id": {"type": "integer"}, "when": {"type": "timestamp"}, "late": {"type": "boolean"}}
        with pytest.raises(ConfigError) as caught:
            Contract.parse({"name": "t", "columns": columns, **change}, where="c.yaml")
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("columns", "target", "message"),
        [
            (
                "a: {type: number, role: target}, b: {type: number, role: target}",
                "",
                "the role target is given to a, b",
            ),
            ("a: {type: number, role: target}, b: {type: number}", "target: b, ", "target is 'b', but the role target"),
            ("a: {type: number, role: weight}", "target: a, ", "'a' cannot be both the target and the sample weight"),
            (
                "a: {type: number, role: weight}, b: {type: number, role: weight}",
                "",
                "the role weight is given to more",
            ),
        ],
    )
    def test_of_two_columns_for_one_part(self, columns: str, target: str, message: str) -> None:
        assert message in refusal(f"{{name: t, {target}columns: {{{columns}}}}}")

    def test_all_mistakes_come_at_once(self) -> None:
        found = refusal("{name: t, columns: {x: {type: numbr}, y: {typ: number}}}")
        assert "columns.x.type" in found
        assert "columns.y.typ is not a known key - did you mean 'type'?" in found


class TestRoundTrip:
    @given(contracts())
    @settings(max_examples=150, deadline=None)
    def test_the_dump_reads_back_equal(self, found: Contract) -> None:
        again = Contract.parse(found.dump())
        assert again == found
        assert again.digest() == found.digest()
        assert list(again.columns) == list(found.columns)

    def test_through_a_file(self, tmp_path: Path) -> None:
        found = contract(EXAMPLE)
        path = tmp_path / "contract.yaml"
        path.write_text(found.dump(), encoding="utf-8")
        assert Contract.load(path) == found

    def test_the_dump_leaves_out_what_only_repeats_a_default(self) -> None:
        dump = column("{type: number, required: true, missing: {max_share: 0.0}, unit: ''}").dump()
        assert dump == "name: t\ncolumns:\n  x:\n    type: number\n"


class TestDigest:
    def test_comments_defaults_and_key_order_do_not_count(self) -> None:
        plain = contract("{name: t, columns: {x: {type: number, range: {min: 0, max: 1}}}}")
        wordy = contract(
            "# a\ncolumns: {x: {range: {max: 1.0, level: block, min: 0.0}, type: number, required: true}}\nname: t"
        )
        assert plain.digest() == wordy.digest()

    def test_the_order_of_the_columns_counts(self) -> None:
        one = contract("{name: t, columns: {x: {type: number}, y: {type: number}}}")
        other = contract("{name: t, columns: {y: {type: number}, x: {type: number}}}")
        assert one.digest() != other.digest()

    def test_a_level_counts(self) -> None:
        assert column("{type: number, type_level: warn}").digest() != column("{type: number}").digest()


class TestMoments:
    @pytest.mark.parametrize(
        ("text", "iso"),
        [
            ("2026-03-01", "2026-03-01T00:00:00"),
            ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00"),
            ("2026-03-01 12:00+05:30", "2026-03-01T06:30:00"),
        ],
    )
    def test_are_utc_without_a_zone(self, text: str, iso: str) -> None:
        assert read_moment(text).isoformat() == iso

    @pytest.mark.parametrize("text", ["", "12", "tomorrow", "2026-13-01", "0001-01-01T00:00+14:00"])
    def test_others_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a time in ISO 8601"):
            read_moment(text)

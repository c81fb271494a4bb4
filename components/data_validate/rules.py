"""A contract as SQL: each rule about single rows becomes one condition that is true for the rows that break it.

The conditions read the columns of a typed part (`Part.typed`). SQL's three-valued logic does the rest: with a missing
value a condition is NULL, which is not true, so only the rule about missing values ever fails for it.
"""

# ruff: noqa: S608 - names in the SQL are quoted or made here, expressions are written anew from a checked tree

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headway.components.data_validate.contract import (
    Column,
    ColumnType,
    Contract,
    Level,
    Range,
    Scalar,
    Values,
    read_moment,
)
from headway.components.data_validate.expressions import columns_of, compile_expression
from headway.components.data_validate.table import CANONICAL
from headway.components.errors import ConfigError
from headway.components.sql import quote_text

if TYPE_CHECKING:
    import duckdb

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_SHORT_LIST = 8
"""Up to this many allowed values are compared one by one; more are looked up in a table."""
_LISTED = 8
"""A message names at most this many allowed values."""


@dataclass(frozen=True)
class RowRule:
    """One rule about single rows."""

    rule: str
    column: str | None
    level: Level
    expected: str
    fails: str
    """SQL, true for a row that breaks the rule."""
    got: str
    """What is wrong with such rows, as a predicate: `are outside the range`."""
    shows: str
    """SQL that gives the offending value as text."""
    name: str = ""
    """An expression's own name."""
    max_share: float = 0.0
    """The rule is broken once more than this share of the rows fails."""

    @property
    def title(self) -> str:
        """The rule in a quarantined row's reason."""
        return f"{self.column or self.name}: {self.rule}"


def row_rules(connection: "duckdb.DuckDBPyConnection", contract: Contract, present: set[str]) -> list[RowRule]:
    """Every rule of the contract about single rows, in the contract's order.

    Args:
        connection: Checks patterns and expressions, and takes the tables of allowed values.
        contract: The contract.
        present: The columns that the table has; the others have no rules.

    Raises:
        ConfigError: A pattern, a bound or an expression cannot be used; names the column or the rule.
    """
    rules: list[RowRule] = []
    for i, (name, column) in enumerate(contract.columns.items()):
        if name in present:
            rules += _column_rules(connection, i, name, column)
    for rule in contract.rules:
        condition = compile_expression(connection, contract, rule)
        rules.append(
            RowRule(
                rule="expression",
                column=None,
                name=rule.name,
                level=rule.level,
                expected=rule.expression.strip(),
                fails=f"NOT ({condition})",
                got="do not meet it",
                shows=_shown_columns(contract, columns_of(connection, contract, rule)),
            )
        )
    return rules


def _column_rules(connection: "duckdb.DuckDBPyConnection", i: int, name: str, column: Column) -> Iterator[RowRule]:
    text = f"CAST(v{i} AS VARCHAR)"
    yield RowRule(
        rule="type",
        column=name,
        level=column.type_level,
        expected=f"values of type {column.type}",
        fails=f"b{i}",
        got=f"cannot be read as {column.type}",
        shows=f"CAST(x{i} AS VARCHAR)",
    )
    share = column.missing.max_share
    yield RowRule(
        rule="missing",
        column=name,
        level=column.missing.level,
        expected="no missing value" if share == 0 else f"at most {100 * share:.4g}% of the rows missing",
        fails=f"m{i}",
        got="are missing",
        shows="NULL",
        max_share=share,
    )
    if column.range:
        yield RowRule(
            rule="range",
            column=name,
            level=column.range.level,
            expected=_range_text(column.range, column.unit),
            fails=_range_condition(f"v{i}", column.type, column.range),
            got="are outside the range",
            shows=text,
        )
    if column.values:
        yield RowRule(
            rule="values",
            column=name,
            level=column.values.level,
            expected=_values_text(column.values),
            fails=_values_condition(connection, i, column.type, column.values),
            got="hold an unseen category",
            shows=text,
        )
    if column.pattern:
        yield RowRule(
            rule="pattern",
            column=name,
            level=column.pattern.level,
            expected=f"a text that matches {column.pattern.regex} as a whole",
            fails=_pattern_condition(connection, i, name, column.pattern.regex),
            got="do not match the pattern",
            shows=text,
        )


def literal(value: Scalar, kind: ColumnType) -> str:
    """A value of a column as SQL; a number goes through its shortest text, which reads back as the same float."""
    if kind is ColumnType.BOOLEAN:
        return "true" if value else "false"
    if kind is ColumnType.STRING:
        return quote_text(str(value))
    return f"CAST({quote_text(repr(value))} AS {CANONICAL[kind]})"


def _range_condition(value: str, kind: ColumnType, allowed: Range) -> str:
    conditions = []
    if allowed.min is not None:
        conditions.append(_bound(value, "<", kind, allowed.min))
    if allowed.max is not None:
        conditions.append(_bound(value, ">", kind, allowed.max))
    return f"({' OR '.join(conditions)})"


def _bound(value: str, sign: str, kind: ColumnType, bound: float | str) -> str:
    if isinstance(bound, str):
        return f"{value} {sign} TIMESTAMP {quote_text(read_moment(bound).isoformat(sep=' '))}"
    if kind is ColumnType.NUMBER:
        return f"{value} {sign} {literal(float(bound), kind)}"
    # As integers, because a comparison as floats would round beyond 2**53.
    whole = math.ceil(bound) if sign == "<" else math.floor(bound)
    if whole < _SMALLEST:
        return "false" if sign == "<" else f"{value} IS NOT NULL"
    if whole > _LARGEST:
        return "false" if sign == ">" else f"{value} IS NOT NULL"
    return f"{value} {sign} {literal(whole, kind)}"


def _range_text(allowed: Range, unit: str) -> str:
    low, high = (f"{bound:.12g}" if isinstance(bound, float) else bound for bound in (allowed.min, allowed.max))
    unit = f" {unit}" if unit else ""
    if low is None:
        return f"at most {high}{unit}"
    return f"at least {low}{unit}" if high is None else f"{low} to {high}{unit}"


def _values_condition(connection: "duckdb.DuckDBPyConnection", i: int, kind: ColumnType, values: Values) -> str:
    if len(values.allowed) <= _SHORT_LIST:
        return f"v{i} NOT IN ({', '.join(literal(value, kind) for value in values.allowed)})"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE allowed{i} (value {CANONICAL[kind]})")
    connection.execute(f"INSERT INTO allowed{i} SELECT unnest(?::{CANONICAL[kind]}[])", [list(values.allowed)])
    return f"v{i} NOT IN (SELECT value FROM allowed{i})"


def _values_text(values: Values) -> str:
    shown = ", ".join(str(value) for value in values.allowed[:_LISTED])
    more = f" and {len(values.allowed) - _LISTED:,} more" if len(values.allowed) > _LISTED else ""
    return f"one of {shown}{more}"


def _pattern_condition(connection: "duckdb.DuckDBPyConnection", i: int, name: str, regex: str) -> str:
    import duckdb

    condition = f"regexp_full_match(v{i}, {quote_text(regex)})"
    try:
        connection.execute(f"SELECT {condition} FROM (SELECT CAST('' AS VARCHAR) AS v{i}) AS typed")
    except duckdb.Error as error:
        message = str(error).splitlines()[0]
        raise ConfigError(
            f"Column {name!r}: the pattern {regex!r} cannot be used: {message}", expected="a pattern in RE2's syntax"
        ) from None
    return f"NOT {condition}"


def _shown_columns(contract: Contract, names: list[str]) -> str:
    positions = {name: i for i, name in enumerate(contract.columns)}
    shown = [
        f"concat({quote_text(f'{name} = ')}, coalesce(CAST(v{positions[name]} AS VARCHAR), 'missing'))"
        for name in names
    ]
    return f"concat_ws(', ', {', '.join(shown)})" if shown else "NULL"

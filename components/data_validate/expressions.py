"""A contract's own conditions: SQL that a person wrote, let through only as a plain expression over declared columns.

The text is parsed by DuckDB, and the tree is walked: every node and every function must be on a list, every column must
be declared. What runs is written anew from the tree, never the text itself.
"""

# ruff: noqa: S608 - names in the SQL are quoted or made here, expressions are written anew from a checked tree

import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from headway.components.data_validate.contract import Contract, Expression
from headway.components.data_validate.table import CANONICAL
from headway.components.errors import ConfigError, did_you_mean
from headway.components.sql import quote_text

if TYPE_CHECKING:
    import duckdb

MOST_NESTED = 100
"""Brackets nested deeper than this are refused: the parser's time grows faster than their number."""
_NODES = frozenset(
    ["COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "FUNCTION", "OPERATOR", "CAST", "CASE", "BETWEEN", "TYPE"]
)
_REFUSED_NODES = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA": "a lambda",
}
FUNCTIONS = frozenset(
    """
    + - * / // % ** ^ || ~~ !~~ ~~* !~~* abs ceil ceiling floor round trunc sign sqrt cbrt exp ln log log2 log10 pow
    power mod greatest least isnan isinf isfinite sin cos tan asin acos atan atan2 radians degrees pi
    lower upper trim ltrim rtrim length len strlen substring substr left right starts_with ends_with prefix suffix
    contains position instr strpos replace reverse concat split_part regexp_matches regexp_full_match regexp_extract
    like_escape not_like_escape
    year month day hour minute second quarter week dayofweek isodow dayofyear date_part datepart date_trunc datetrunc
    date_diff datediff date_sub datesub epoch epoch_ms epoch_us last_day make_date make_timestamp
    to_years to_months to_weeks to_days to_hours to_minutes to_seconds to_milliseconds to_microseconds
    constant_or_null error_if_null nullif ifnull isnull
    """.split()  # noqa: SIM905 - a list of a hundred quoted words would hide the words
)
"""The functions and operators that an expression may use: scalar, without side effects, the same on every run."""


def compile_expression(connection: "duckdb.DuckDBPyConnection", contract: Contract, rule: Expression) -> str:
    """Turn a rule into SQL over the columns `v0`, `v1`, … of a typed table (`Part.typed`).

    Args:
        connection: Any DuckDB session; it only parses and types the expression.
        contract: Declares the columns.
        rule: The condition.

    Raises:
        ConfigError: It is not one boolean expression over declared columns made of allowed functions; names the rule.

    Example:
        >>> import duckdb
        >>> contract = Contract.parse({"name": "c", "columns": {"a b": {"type": "number"}}})
        >>> with duckdb.connect() as connection:
        ...     compile_expression(connection, contract, Expression(name="positive", expression='"a b" > 0'))
        '(v0 > 0)'
    """
    tree = _parse(connection, rule)
    _check(tree, contract, rule)
    sql = _render(connection, tree)
    _check_type(connection, contract, rule, sql)
    return sql


def columns_of(connection: "duckdb.DuckDBPyConnection", contract: Contract, rule: Expression) -> list[str]:
    """The contract's columns that a rule reads, in the contract's order."""
    names = {_column(node, contract, rule) for node in _walk(_parse(connection, rule)) if _is_column(node)}
    return [name for name in contract.columns if name in names]


def _parse(connection: "duckdb.DuckDBPyConnection", rule: Expression) -> Any:
    def parsed(text: str) -> Any:
        row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchone()
        return json.loads(row[0]) if row else {"error": True}

    if _depth(rule.expression) > MOST_NESTED:
        raise _refusal(rule, f"its brackets are nested more than {MOST_NESTED} deep")
    # The line ends protect the bracket from a comment at the expression's end.
    result = parsed(f"SELECT (\n{rule.expression}\n)")
    if result["error"]:
        message = str(result.get("error_message", "not valid SQL")).splitlines()[0]
        raise _refusal(rule, f"it cannot be parsed: {message}")
    plain = parsed("SELECT (1)")
    if len(result["statements"]) != 1:
        raise _refusal(rule, "it is more than one statement")
    node, expected = result["statements"][0]["node"], plain["statements"][0]["node"]
    items = node.get("select_list", [])
    if node.get("type") != "SELECT_NODE" or len(items) != 1:
        raise _refusal(rule, "it is more than one expression")
    for key in node.keys() | expected.keys():
        if key != "select_list" and _placeless(node.get(key)) != _placeless(expected.get(key)):
            raise _refusal(rule, "it is a query, not one expression")
    return items[0]


def _depth(text: str) -> int:
    """How deep brackets are nested, those in texts included."""
    return max(accumulate({"(": 1, ")": -1}.get(character, 0) for character in text), default=0)


def _placeless(value: Any) -> Any:
    """A tree without the places in the text where its nodes stood."""
    if isinstance(value, dict):
        return {key: _placeless(item) for key, item in value.items() if not key.startswith("query_location")}
    return [_placeless(item) for item in value] if isinstance(value, list) else value


def _walk(value: Any) -> Any:
    """Every node of the tree."""
    if isinstance(value, dict):
        if "class" in value:
            yield value
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def _is_column(node: Any) -> bool:
    return bool(node["class"] == "COLUMN_REF")


def _check(tree: Any, contract: Contract, rule: Expression) -> None:
    """Refuse what is not on the lists, and put each column's place in the contract where its name stands."""
    positions = {name: i for i, name in enumerate(contract.columns)}
    for node in list(_walk(tree)):
        kind = node["class"]
        if kind not in _NODES:
            raise _refusal(rule, f"{_REFUSED_NODES.get(kind, kind.lower())} is not allowed")
        if kind == "FUNCTION":
            name = node["function_name"]
            if name.lower() not in FUNCTIONS or node.get("schema") or node.get("catalog"):
                raise _refusal(rule, f"the function {name!r} is not allowed{did_you_mean(name, FUNCTIONS)}")
        elif _is_column(node):
            node["column_names"] = [f"v{positions[_column(node, contract, rule)]}"]


def _column(node: Any, contract: Contract, rule: Expression) -> str:
    names = node["column_names"]
    name = ".".join(names)
    if len(names) == 1:
        if name in contract.columns:
            return name
        folded = [known for known in contract.columns if known.casefold() == name.casefold()]
        if len(folded) == 1:
            return folded[0]
    raise _refusal(rule, f"the column {name!r} is not declared{did_you_mean(name, contract.columns)}")


def _render(connection: "duckdb.DuckDBPyConnection", tree: Any) -> str:
    row = connection.execute("SELECT json_serialize_sql('SELECT (1)')").fetchone()
    statement = json.loads(row[0]) if row else {}
    statement["statements"][0]["node"]["select_list"] = [tree]
    rendered = connection.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(statement)]).fetchone()
    return str(rendered[0]).removeprefix("SELECT ") if rendered else ""


def _check_type(connection: "duckdb.DuckDBPyConnection", contract: Contract, rule: Expression, sql: str) -> None:
    import duckdb

    columns = ", ".join(
        f"CAST(NULL AS {CANONICAL[column.type]}) AS v{i}" for i, column in enumerate(contract.columns.values())
    )
    try:
        row = connection.execute(f"DESCRIBE SELECT {sql} FROM (SELECT {columns}) AS typed").fetchone()
    except duckdb.Error as error:
        message = str(error).splitlines()[0]
        for i, name in reversed(list(enumerate(contract.columns))):
            message = message.replace(f"v{i}", name)
        raise _refusal(rule, message) from None
    if row is None or row[1] != "BOOLEAN":
        raise _refusal(rule, f"it gives {row[1] if row else 'nothing'}, not true or false")


def _refusal(rule: Expression, reason: str) -> ConfigError:
    return ConfigError(
        f"Rule {rule.name!r}: {reason}",
        expected="one condition over the contract's columns, such as \"distance > 0 AND carrier <> 'XX'\"",
        fix=f"change the expression {quote_text(rule.expression)}",
    )

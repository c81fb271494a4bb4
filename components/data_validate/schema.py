"""The contract in other tools' words: a pandera schema for data frames, a JSON Schema for requests.

The pandera schema comes as an object (`to_pandera`) or as the text of a Python module that needs only pandera, pandas
and, for conditions over several columns, DuckDB (`pandera_source`). Both are made from one list of checks.

A rule of level `warn` becomes a pandera warning; pandera has no quarantine, so `quarantine` and `block` both fail.
Timestamps are UTC without a zone. Texts are not read as booleans, which the check of a whole table does.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from headway.components.data_validate.contract import Column, ColumnType, Contract, Level, Role, read_moment
from headway.components.data_validate.expressions import columns_of, compile_expression
from headway.components.data_validate.table import CANONICAL
from headway.components.errors import UsageError
from headway.components.sql import quote_name

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

_DTYPES = {
    ColumnType.INTEGER: '"Int64"',
    ColumnType.NUMBER: '"float64"',
    ColumnType.BOOLEAN: '"boolean"',
    ColumnType.STRING: '"str"',
    ColumnType.TIMESTAMP: 'DateTime(to_datetime_kwargs={"format": "ISO8601"})',
}
_JSON_TYPES = {
    ColumnType.INTEGER: "integer",
    ColumnType.NUMBER: "number",
    ColumnType.BOOLEAN: "boolean",
    ColumnType.STRING: "string",
    ColumnType.TIMESTAMP: "string",
}
_INSTALL = "pip install 'headway[pandera]'"


# The checks that pandera lacks. `pandera_source` copies these functions as they stand, so each imports what it needs.


def missing_share(most: float) -> "Callable[[pd.Series], bool]":
    """At most this share of the values is missing."""
    return lambda series: bool(series.isna().mean() <= most) if len(series) else True


def matches(regex: str) -> "Callable[[str], bool]":
    """The whole text matches; ASCII only for classes such as digits."""
    import re

    compiled = re.compile(regex, re.ASCII)
    return lambda text: compiled.fullmatch(text) is not None


def unique() -> "Callable[[pd.Series], pd.Series]":
    """No value stands twice; missing ones do not count."""
    return lambda series: ~(series.duplicated() & series.notna())


def monotone(strict: bool) -> "Callable[[pd.Series], bool]":
    """Values never decrease; strict forbids equal neighbours."""

    def holds(series: "pd.Series") -> bool:
        present = series.dropna()
        return bool(present.is_monotonic_increasing and (not strict or present.is_unique))

    return holds


def unique_key(columns: list[str]) -> "Callable[[pd.DataFrame], pd.Series]":
    """No combination of these columns stands twice; rows with a missing part do not count."""
    return lambda frame: ~(frame.duplicated(subset=columns) & frame[columns].notna().all(axis=1))


def row_count(low: int, high: int | None) -> "Callable[[pd.DataFrame], bool]":
    """The number of rows is within limits."""
    return lambda frame: len(frame) >= low and (high is None or len(frame) <= high)


def fresh(column: str, seconds: float) -> "Callable[[pd.DataFrame], bool]":
    """The newest moment, in UTC, is at most so many seconds old."""

    def holds(frame: "pd.DataFrame") -> bool:
        import pandas as pd

        newest = pd.to_datetime(frame[column]).max()
        now = pd.Timestamp.now(tz="UTC").tz_localize(None)
        return bool((now - newest).total_seconds() <= seconds)

    return holds


def condition(query: str) -> "Callable[[pd.DataFrame], pd.Series]":
    """A condition over several columns, answered by DuckDB for each row of `frame`; unknown passes."""

    def holds(frame: "pd.DataFrame") -> "pd.Series":
        import duckdb
        import pandas as pd

        with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
            connection.register("frame", frame)
            answers = connection.execute(query).fetchnumpy()["ok"]
        return pd.Series(answers.astype(bool), index=frame.index)

    return holds


_OWN: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (missing_share, matches, unique, monotone, unique_key, row_count, fresh, condition)
}


@dataclass(frozen=True)
class _Check:
    """One check: pandera's own (`in_range`, `ge`, `le`, `isin`) or one of the functions above."""

    name: str
    arguments: dict[str, Any]
    message: str
    level: Level
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of pandera's `Check`."""

    @property
    def all_options(self) -> dict[str, Any]:
        warning = {"raise_warning": True} if self.level is Level.WARN else {}
        return {**self.options, **warning, "error": self.message}


def to_pandera(contract: Contract) -> "pa.DataFrameSchema":
    """The contract as a pandera schema for data frames.

    Raises:
        UsageError: pandera is not installed.
        ConfigError: A condition of the contract is not valid; names it.
    """
    try:
        import pandera.pandas as pa
        from pandera.engines.pandas_engine import DateTime
    except ImportError:
        raise UsageError("pandera is not installed", fix=_INSTALL) from None

    def build(check: _Check) -> Any:
        if check.name in _OWN:
            return pa.Check(_OWN[check.name](**check.arguments), name=check.name, **check.all_options)
        return getattr(pa.Check, check.name)(**_moments(check.arguments), **check.all_options)

    columns = {
        name: pa.Column(
            DateTime(to_datetime_kwargs={"format": "ISO8601"})
            if column.type is ColumnType.TIMESTAMP
            else _DTYPES[column.type].strip('"'),
            checks=[build(check) for check in _column_checks(column)],
            **_column_options(column),
        )
        for name, column in contract.columns.items()
    }
    return pa.DataFrameSchema(
        columns, checks=[build(check) for check in _frame_checks(contract)], **_frame_options(contract)
    )


def pandera_source(contract: Contract) -> str:
    """The same schema as the text of a Python module with the name `schema`.

    Raises:
        ConfigError: A condition of the contract is not valid; names it.
    """
    used: set[str] = set()

    def show(check: _Check) -> str:
        if check.name in _OWN:
            used.add(check.name)
            return f"pa.Check({check.name}({_keywords(check.arguments)}), {_keywords(check.all_options)})"
        return f"pa.Check.{check.name}({_keywords({**_shown_moments(check.arguments), **check.all_options})})"

    lines = ["schema = pa.DataFrameSchema(", "    {"]
    for name, column in contract.columns.items():
        lines += [f"        {name!r}: pa.Column(", f"            {_DTYPES[column.type]},", "            checks=["]
        lines += [f"                {show(check)}," for check in _column_checks(column)]
        lines += ["            ],", f"            {_keywords(_column_options(column))},", "        ),"]
    lines += ["    },", "    checks=["]
    lines += [f"        {show(check)}," for check in _frame_checks(contract)]
    lines += ["    ],", f"    {_keywords(_frame_options(contract))},", ")"]
    functions = [inspect.getsource(function) for name, function in _OWN.items() if name in used]
    head = [
        f"# The contract {contract.name!r} as a pandera schema.",
        "",
        "from collections.abc import Callable",
        "",
        "import pandas as pd",
        "import pandera.pandas as pa",
        "from pandera.engines.pandas_engine import DateTime",
        "",
        "",
    ]
    return "\n".join([*head, *(f"{function}\n" for function in functions), *lines]) + "\n"


def to_json_schema(contract: Contract) -> dict[str, Any]:
    """What one request must be, as JSON Schema 2020-12: the fields that `compile_request` takes, and nothing else.

    Rules of level warn are left out, because they refuse no request.

    Example:
        >>> contract = Contract.parse("{name: t, columns: {x: {type: number, range: {min: 0}}}}")
        >>> to_json_schema(contract)["properties"]
        {'x': {'type': 'number', 'minimum': 0}}
    """
    properties: dict[str, Any] = {name: _json_column(column) for name, column in contract.features.items()}
    for name, column in contract.columns.items():
        if column.role in (Role.INFO, Role.WEIGHT) and column.known == "prediction":
            properties[name] = {"description": "Not looked at."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": contract.name,
        "type": "object",
        "properties": properties,
        "required": [name for name, column in contract.features.items() if column.required and not column.nullable],
        "additionalProperties": False,
    }


def _json_column(column: Column) -> dict[str, Any]:
    nullable = column.nullable or not column.required
    kind = _JSON_TYPES[column.type]
    schema: dict[str, Any] = {"type": [kind, "null"] if nullable else kind}
    about = " ".join(part for part in (column.description, f"In {column.unit}." if column.unit else "") if part)
    if about:
        schema["description"] = about
    if column.type is ColumnType.TIMESTAMP:
        schema["format"] = "date-time"
    elif column.range and column.range.level is not Level.WARN:
        bounds = {"minimum": column.range.min, "maximum": column.range.max}
        schema |= {key: bound for key, bound in bounds.items() if bound is not None}
    if column.values and column.values.level is not Level.WARN:
        schema["enum"] = [*column.values.allowed, *([None] if nullable else [])]
    if column.pattern and column.pattern.level is not Level.WARN:
        schema["pattern"] = f"^(?:{column.pattern.regex})$"
    return schema


def _column_options(column: Column) -> dict[str, Any]:
    coerced = column.type is not ColumnType.STRING
    return {
        "coerce": coerced,
        "nullable": column.nullable,
        "required": column.required,
        "description": column.description or None,
    }


def _frame_options(contract: Contract) -> dict[str, Any]:
    return {"name": contract.name, "strict": contract.extra_columns == "block"}


def _column_checks(column: Column) -> Iterator[_Check]:
    missing = column.missing
    if column.nullable and missing.max_share < 1:
        message = f"more than a share of {missing.max_share:g} is missing"
        yield _Check("missing_share", {"most": missing.max_share}, message, missing.level, {"ignore_na": False})
    if column.range:
        yield _range_check(column)
    if column.values:
        allowed = [*column.values.allowed]
        yield _Check("isin", {"allowed_values": allowed}, "not an allowed value", column.values.level)
    if column.pattern:
        regex = column.pattern.regex
        yield _Check(
            "matches", {"regex": regex}, f"does not match {regex}", column.pattern.level, {"element_wise": True}
        )
    if column.unique:
        yield _Check("unique", {}, "stands twice", column.unique.level)
    if column.monotone:
        yield _Check("monotone", {"strict": column.monotone.strict}, "decreases", column.monotone.level)


def _range_check(column: Column) -> _Check:
    rule = column.range
    assert rule is not None  # noqa: S101 - the caller looked
    if rule.min is None:
        return _Check("le", {"max_value": rule.max}, f"above {rule.max}", rule.level)
    if rule.max is None:
        return _Check("ge", {"min_value": rule.min}, f"below {rule.min}", rule.level)
    bounds = {"min_value": rule.min, "max_value": rule.max}
    return _Check("in_range", bounds, f"not from {rule.min} to {rule.max}", rule.level)


def _frame_checks(contract: Contract) -> Iterator[_Check]:
    if contract.key:
        columns = list(contract.key.columns)
        yield _Check("unique_key", {"columns": columns}, "the key stands twice", contract.key.level)
    if contract.rows:
        limits = {"low": contract.rows.min, "high": contract.rows.max}
        yield _Check("row_count", limits, "too few or too many rows", contract.rows.level)
    if contract.freshness and contract.time:
        age = {"column": contract.time, "seconds": contract.freshness.seconds}
        message = f"the newest row is older than {contract.freshness.max_age}"
        yield _Check("fresh", age, message, contract.freshness.level)
    if contract.rules:
        yield from _conditions(contract)


def _conditions(contract: Contract) -> Iterator[_Check]:
    import duckdb

    positions = {name: position for position, name in enumerate(contract.columns)}
    with duckdb.connect(":memory:") as connection:
        for rule in contract.rules:
            sql = compile_expression(connection, contract, rule)
            read = ", ".join(
                f"TRY_CAST({quote_name(name)} AS {CANONICAL[contract.columns[name].type]}) AS v{positions[name]}"
                for name in columns_of(connection, contract, rule)
            )
            source = f"(SELECT {read} FROM frame)" if read else "frame"  # noqa: S608 - quoted names
            query = f"SELECT coalesce({sql}, true) AS ok FROM {source}"  # noqa: S608 - written from a checked tree
            yield _Check("condition", {"query": query}, rule.name, rule.level)


def _moments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Bounds of a timestamp as moments; the only texts among the arguments of pandera's own checks."""
    return {key: read_moment(value) if isinstance(value, str) else value for key, value in arguments.items()}


class _Code(str):
    """A text that is already Python."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _shown_moments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _Code(f"pd.Timestamp({read_moment(value).isoformat()!r})") if isinstance(value, str) else value
        for key, value in arguments.items()
    }


def _keywords(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in values.items())

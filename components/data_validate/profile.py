"""The profile: a summary of each column that adds up.

`merge(profile(a), profile(b)) == profile(a and b together)`, exactly, to the last bit: counts, extremes, histograms and
categories are integers, and so are the sums behind mean and variance (sketch.py). So a table can be profiled part by
part, on any number of threads, in any order, and equal tables have equal files.
"""

# ruff: noqa: S608 - names in the SQL are made here, values are numbers

import json
import math
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from headway.components.config import Config
from headway.components.data_validate import sketch
from headway.components.data_validate.contract import Column, ColumnType, Contract, Scalar
from headway.components.data_validate.rules import literal
from headway.components.data_validate.summaries import (
    BINS,
    MOST_LISTED,
    Bins,
    BooleanProfile,
    ColumnProfile,
    NumberProfile,
    StringProfile,
    TimestampProfile,
    merge_columns,
    period_of,
)
from headway.components.data_validate.table import Data, Part, open_table
from headway.components.errors import ConfigError, SourceError, UsageError

if TYPE_CHECKING:
    import duckdb

COLUMNS_AT_ONCE = 50
"""Columns in one scan: the time to plan a query grows faster than the number of its aggregates."""
LONGEST_LISTED = 200
"""Texts longer than this are never listed, only their lengths."""
LONGEST = 1_000
"""Texts of this length and above are counted together."""
_PERIOD_FORMATS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
_FIRST, _LAST = "1000-01-01 00:00:00", "9999-12-31 23:59:59.999999"


class Profile(Config):
    """A summary of each column of a table."""

    document: ClassVar[str] = "profile"

    version: Literal[1] = 1
    contract: str
    """The name of the contract that says what the columns are."""
    rows: int
    columns: dict[str, ColumnProfile]

    def to_json(self) -> str:
        """The profile as JSON; equal profiles give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, where: str = "profile") -> "Profile":
        """Read a profile back.

        Raises:
            ConfigError: It is not JSON, or not a profile.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{where}: not JSON: {error}") from None
        return cls.parse(data, where=where)


def profile_table(contract: Contract, data: Data, *, threads: int = 0) -> Profile:
    """Summarise each column of a table that the contract names.

    Args:
        contract: Says what the columns are, and gives the bounds and the categories.
        data: Parquet or CSV files that form one table.
        threads: 0 means as many as there are cores for this process; the result does not depend on it.

    Raises:
        SourceError: A file cannot be read.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> from pathlib import Path
        >>> contract = Contract.parse({"name": "c", "columns": {"x": {"type": "number"}}})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     paths = [Path(folder) / name for name in ("a.parquet", "b.parquet")]
        ...     for path, x in zip(paths, ([0.1, 0.2], [0.3, None]), strict=True):
        ...         pq.write_table(pa.table({"x": x}), path)
        ...     whole = profile_table(contract, paths)
        ...     parts = [profile_table(contract, path) for path in paths]
        >>> merge(*parts) == whole, whole.columns["x"].mean, whole.columns["x"].missing
        (True, 0.2, 1)
    """
    import duckdb

    with open_table(contract, data, threads=threads) as table:
        try:
            profiles = [_profile_part(table.connection, contract, part) for part in table.parts]
        except duckdb.Error as error:
            problem = f"The table could not be read: {str(error).splitlines()[0]}"
            raise SourceError(problem, expected="a whole Parquet file") from error
    return reduce(merge, profiles)


def merge(one: Profile, other: Profile) -> Profile:
    """The profile of two tables together.

    Raises:
        UsageError: They summarise different columns.
    """
    kinds = [{name: column.kind for name, column in profile.columns.items()} for profile in (one, other)]
    if kinds[0] != kinds[1]:
        differ = sorted(name for name in kinds[0].keys() | kinds[1].keys() if kinds[0].get(name) != kinds[1].get(name))
        raise UsageError(
            f"Two profiles differ in the columns {', '.join(differ)}", expected="profiles under one contract"
        )
    columns = {name: merge_columns(name, column, other.columns[name]) for name, column in one.columns.items()}
    return Profile(contract=one.contract, rows=one.rows + other.rows, columns=columns)


def _profile_part(connection: "duckdb.DuckDBPyConnection", contract: Contract, part: Part) -> Profile:
    names = [name for name in contract.columns if name in part.columns]
    positions = {name: i for i, name in enumerate(contract.columns)}
    columns: dict[str, Any] = {}
    for chosen in (names[i : i + COLUMNS_AT_ONCE] for i in range(0, len(names), COLUMNS_AT_ONCE)):
        items = [item for name in chosen for item in _overview(f"v{positions[name]}", contract.columns[name].type)]
        found = iter(_rows(connection, f"SELECT {', '.join(items)} FROM {part.typed(contract, chosen)}")[0])
        for name in chosen:
            column, value = contract.columns[name], f"v{positions[name]}"
            overview = [next(found) for _ in _overview(value, column.type)]
            source = f"{part.typed(contract, [name])} WHERE {value} IS NOT NULL"
            columns[name] = _SUMMARIES[column.type](connection, source, value, column, part.rows, overview)
    return Profile(contract=contract.name, rows=part.rows, columns=columns)


def _overview(value: str, kind: ColumnType) -> list[str]:
    """What the first scan asks about a column."""
    if kind is ColumnType.BOOLEAN:
        return [f"count({value})", _count_if(value)]
    if kind is ColumnType.STRING:
        return [f"count({value})", f"approx_count_distinct({value})", f"max(length({value}))"]
    if kind is ColumnType.TIMESTAMP:
        inside = f"FILTER ({_inside_years(value)})"
        shown = (f"strftime({end}({value}) {inside}, '%Y-%m-%dT%H:%M:%S.%f')" for end in ("min", "max"))
        return [f"count({value})", f"count({value}) {inside}", *shown]
    finite = f"FILTER (NOT isinf(CAST({value} AS DOUBLE)))"
    return [
        f"count({value})",
        _count_if(f"CAST({value} AS DOUBLE) = '-inf'"),
        _count_if(f"CAST({value} AS DOUBLE) = 'inf'"),
        f"min(CAST({value} AS DOUBLE)) {finite}",
        f"max(CAST({value} AS DOUBLE)) {finite}",
        f"approx_count_distinct({value})",
    ]


def _count_if(condition: str) -> str:
    """A count that is 0, not NULL, for an empty table."""
    return f"count(*) FILTER ({condition})"


def _inside_years(value: str) -> str:
    return f"{value} BETWEEN TIMESTAMP '{_FIRST}' AND TIMESTAMP '{_LAST}'"


def _may_be_listed(approximate: int) -> bool:
    """Whether the exact number of different values is worth finding out: the estimate is never off by so much."""
    return approximate <= 2 * MOST_LISTED


def _number(
    connection: "duckdb.DuckDBPyConnection", source: str, value: str, column: Column, rows: int, overview: list[Any]
) -> NumberProfile:
    count, minus, plus, lowest, highest, approximate = overview
    # Adding zero makes minus zero plain zero: they are equal, and must be one value.
    given = f"SELECT CAST({value} AS DOUBLE) + 0.0 AS v FROM {source} AND NOT isinf(CAST({value} AS DOUBLE))"
    values: dict[float, int] | None = None
    weight = "1"
    if _may_be_listed(approximate):
        listed = _rows(connection, f"SELECT v, count(*) FROM ({given}) GROUP BY v ORDER BY v")
        values = {float(v): int(n) for v, n in listed} if len(listed) <= MOST_LISTED else None
        given, weight = f"SELECT v, count(*) AS n FROM ({given}) GROUP BY v", "n"
    bins = _bounds(column)
    cells = _rows(connection, _cells_query(given, weight, bins))
    return NumberProfile(
        count=count,
        missing=rows - count,
        infinite=(minus, plus),
        min=None if lowest is None else lowest + 0.0,
        max=None if highest is None else highest + 0.0,
        values=values,
        bins=_filled(bins, cells) if bins else None,
        **_sketched(cells),
    )


def _bounds(column: Column) -> tuple[float, float] | None:
    allowed = column.range
    if allowed is None or not isinstance(allowed.min, (int, float)) or not isinstance(allowed.max, (int, float)):
        return None
    low, high = float(allowed.min), float(allowed.max)
    return (low, high) if low < high and math.isfinite(high - low) else None


def _cells_query(given: str, weight: str, bins: tuple[float, float] | None) -> str:
    """One row for each bucket and bin that has values: sign, bucket, bin, count, and sums of the scaled magnitudes."""
    cell = "0"
    if bins:
        low, high = (f"CAST('{bound!r}' AS DOUBLE)" for bound in bins)
        place = f"CAST(floor((v - {low}) / ({high} - {low}) * {BINS}) AS INTEGER)"
        cell = f"CASE WHEN v < {low} THEN -1 WHEN v > {high} THEN {BINS} ELSE least({place}, {BINS - 1}) END"
    times = "" if weight == "1" else f" * CAST({weight} AS HUGEINT)"
    magnitudes = (
        f"SELECT v, {weight} AS n, abs(v) AS a, {cell} AS cell, "
        f"CASE WHEN abs(v) >= {sketch.TINY} THEN {sketch.bucket_sql('abs(v)')} END AS bucket FROM ({given})"
    )
    scaled = f"SELECT v, n, cell, bucket, {sketch.scaled_sql('a', 'bucket')} AS x FROM ({magnitudes})"
    halves = f"SELECT v, n, cell, bucket, x, x >> {sketch.HALF} AS h, x & {(1 << sketch.HALF) - 1} AS l FROM ({scaled})"
    sums = ", ".join(f"sum({term}{times})" for term in ("x", "h * h", "h * l", "l * l"))
    return (
        "SELECT CASE WHEN bucket IS NULL THEN 0 ELSE sign(v) END AS side, bucket, cell, "
        f"CAST(sum(n) AS BIGINT), {sums} FROM ({halves}) GROUP BY side, bucket, cell ORDER BY side, bucket, cell"
    )


def _sketched(cells: list[tuple[Any, ...]]) -> dict[str, Any]:
    total, squares, zeros = 0, 0, 0
    sides: dict[int, dict[int, int]] = {-1: {}, 1: {}}
    for side, bucket, _, count, x, high, cross, low in cells:
        if bucket is None:
            zeros += count
            continue
        shift = sketch.shift(bucket)
        total += int(side) * int(x) << shift
        squares += (int(high) << 2 * sketch.HALF) + (int(cross) << sketch.HALF + 1) + int(low) << 2 * shift
        sides[int(side)][bucket] = sides[int(side)].get(bucket, 0) + count
    return {
        "sum": str(Fraction(total, 1 << sketch.FIXED_POINT)),
        "squares": str(Fraction(squares, 1 << 2 * sketch.FIXED_POINT)),
        "zeros": zeros,
        "positive": dict(sorted(sides[1].items())),
        "negative": dict(sorted(sides[-1].items())),
    }


def _filled(bounds: tuple[float, float], cells: list[tuple[Any, ...]]) -> Bins:
    counts = [0] * (BINS + 2)
    for row in cells:
        counts[row[2] + 1] += row[3]
    return Bins(low=bounds[0], high=bounds[1], counts=counts[1:-1], below=counts[0], above=counts[-1])


def _string(
    connection: "duckdb.DuckDBPyConnection", source: str, value: str, column: Column, rows: int, overview: list[Any]
) -> StringProfile:
    count, approximate, longest = overview
    lengths = _rows(
        connection, f"SELECT least(length({value}), {LONGEST}) AS n, count(*) FROM {source} GROUP BY n ORDER BY n"
    )
    values = None
    if _may_be_listed(approximate) and (longest or 0) <= LONGEST_LISTED:
        listed = _rows(connection, f"SELECT {value} AS v, count(*) FROM {source} GROUP BY v ORDER BY v")
        values = dict(listed) if len(listed) <= MOST_LISTED else None
    registers = None
    if values is None:
        index, rank = sketch.register_sql(value)
        ranks = _rows(connection, f"SELECT {index} AS i, max({rank}) FROM {source} GROUP BY i")
        registers = sketch.to_text(sketch.registers_of(ranks))
    return StringProfile(
        count=count,
        missing=rows - count,
        lengths=dict(lengths),
        values=values,
        registers=registers,
        allowed=_allowed(connection, source, value, column.values.allowed) if column.values else None,
    )


def _allowed(connection: "duckdb.DuckDBPyConnection", source: str, value: str, allowed: list[Scalar]) -> dict[str, int]:
    listed = ", ".join(f"({literal(text, ColumnType.STRING)})" for text in allowed)
    query = f"SELECT {value} AS v, count(*) FROM {source} AND {value} IN (SELECT * FROM (VALUES {listed})) GROUP BY v"
    found = dict(_rows(connection, query))
    return {str(text): int(found.get(str(text), 0)) for text in allowed}


def _boolean(
    connection: "duckdb.DuckDBPyConnection", source: str, value: str, column: Column, rows: int, overview: list[Any]
) -> BooleanProfile:
    return BooleanProfile(count=overview[0], missing=rows - overview[0], true=overview[1])


def _timestamp(
    connection: "duckdb.DuckDBPyConnection", source: str, value: str, column: Column, rows: int, overview: list[Any]
) -> TimestampProfile:
    count, inside, first, last = overview
    period = period_of(first, last)
    shown = f"strftime({value}, '{_PERIOD_FORMATS[period]}')"
    periods = _rows(
        connection,
        f"SELECT {shown} AS p, count(*) FROM {source} AND {_inside_years(value)} GROUP BY p ORDER BY p",
    )
    return TimestampProfile.model_validate(
        {"count": count, "missing": rows - count, "outside": count - inside, "min": first, "max": last}
        | {"period": period, "periods": dict(periods)}
    )


_SUMMARIES: dict[ColumnType, Any] = {
    ColumnType.INTEGER: _number,
    ColumnType.NUMBER: _number,
    ColumnType.STRING: _string,
    ColumnType.BOOLEAN: _boolean,
    ColumnType.TIMESTAMP: _timestamp,
}


def _rows(connection: "duckdb.DuckDBPyConnection", query: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()
    return rows

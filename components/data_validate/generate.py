"""Random tables that satisfy a contract, and the same tables with one rule broken: for tests, demos and load.

Every rule is met, those of level warn too. Conditions over several columns and the key are met by drawing again; a
condition that random rows almost never meet is refused rather than met by luck.
"""

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from headway.components.data_validate import patterns
from headway.components.data_validate.contract import Column, ColumnType, Contract, Role, read_moment
from headway.components.data_validate.expressions import compile_expression
from headway.components.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROUNDS = 30
"""How often rows are drawn again before the contract is called too hard."""
_FIRST_DAY = datetime(2024, 1, 1)
_YEAR = timedelta(days=365)
_WIDTH = 2_000
"""How wide a range is where the contract leaves a side open."""

Breakable = Literal["type", "missing", "range", "values", "pattern", "unique"]


def generate(contract: Contract, rows: int, seed: int) -> "pa.Table":
    """A random table that satisfies the contract.

    Args:
        contract: What the table must be.
        rows: How many rows.
        seed: The same seed gives the same table, but for contracts with `freshness`, whose times end now.

    Returns:
        A table with the contract's columns in its order; timestamps in microseconds without a zone.

    Raises:
        UsageError: Random rows cannot satisfy it: too few distinct values for a unique column, a condition that is
            almost never true, or a number of rows that the contract itself refuses.

    Example:
        >>> contract = Contract.parse("{name: t, columns: {x: {type: integer, range: {min: 1, max: 6}}}}")
        >>> generate(contract, 4, seed=0).to_pydict()
        {'x': [6, 4, 4, 2]}
    """
    import pyarrow as pa

    _refuse_row_count(contract, rows)
    rng = np.random.default_rng(seed)
    columns = _satisfying(contract, rows, rng)
    _sort_monotone(contract, columns, rows)
    for name, column in contract.columns.items():
        if _may_have_holes(contract, name, column):
            _punch(columns[name], column, rows, rng)
    table = pa.table({name: pa.array(columns[name], type=arrow_type(c.type)) for name, c in contract.columns.items()})
    for rule, held in _conditions(contract, columns):
        if not held.all():
            raise _too_hard(contract, f"the rule {rule!r} together with a monotone column")
    return table


def violate(
    table: "pa.Table", contract: Contract, column: str, rule: Breakable, *, rows: int, seed: int
) -> tuple["pa.Table", list[int]]:
    """The table with one rule broken in some rows.

    Args:
        table: A table that satisfies the contract.
        contract: The contract.
        column: The column to break.
        rule: The rule to break; `type` turns the column into texts.
        rows: How many rows to break.
        seed: Chooses the rows.

    Returns:
        The table, and the indices of the broken rows, ascending.

    Raises:
        UnknownNameError: The contract does not name the column.
        UsageError: The column has no such rule, or the table has too few rows.
    """
    import pyarrow as pa

    spec = contract.column(column)
    spare = 1 if rule == "unique" else 0
    if rows + spare > table.num_rows:
        raise UsageError(f"{rows} rows cannot be broken", expected=f"at most {table.num_rows - spare}")
    values = table.column(column).to_pylist()
    # The first row stays whole where the others repeat it.
    chosen = sorted(int(i) + spare for i in np.random.default_rng(seed).permutation(table.num_rows - spare)[:rows])
    broken = _broken_value(spec, rule, values[0])
    kind = arrow_type(spec.type)
    if rule == "type":
        values, kind = [None if value is None else str(value) for value in values], pa.string()
    for row in chosen:
        values[row] = broken
    position = table.column_names.index(column)
    return table.set_column(position, column, pa.array(values, type=kind)), chosen


def arrow_type(kind: ColumnType) -> "pa.DataType":
    """The Arrow type of a column."""
    import pyarrow as pa

    return {
        ColumnType.INTEGER: pa.int64(),
        ColumnType.NUMBER: pa.float64(),
        ColumnType.BOOLEAN: pa.bool_(),
        ColumnType.STRING: pa.string(),
        ColumnType.TIMESTAMP: pa.timestamp("us"),
    }[kind]


# Rows that satisfy what ties columns together.


def _satisfying(contract: Contract, rows: int, rng: np.random.Generator) -> dict[str, list[Any]]:
    kept: dict[str, list[Any]] = {name: [] for name in contract.columns}
    seen: dict[str, set[Any]] = {name: set() for name in _distinct_columns(contract)}
    keys: set[tuple[Any, ...]] = set()
    wanted = rows
    for _ in range(MAX_ROUNDS):
        drawn = {name: _draw(name, column, contract, wanted, rng) for name, column in contract.columns.items()}
        good = np.ones(wanted, dtype=bool)
        for _, held in _conditions(contract, drawn):
            good &= held
        for row in np.flatnonzero(good):
            if len(kept[next(iter(kept))]) < rows:
                _keep(contract, {name: drawn[name][row] for name in drawn}, kept, seen, keys)
        missing = rows - len(kept[next(iter(kept))])
        if missing == 0:
            return kept
        wanted = min(max(2 * missing, 256), 4 * rows + 256)
    raise _too_hard(contract, _hardest(contract, drawn, seen))


def _keep(
    contract: Contract,
    row: dict[str, Any],
    kept: dict[str, list[Any]],
    seen: dict[str, set[Any]],
    keys: set[tuple[Any, ...]],
) -> None:
    """Take one row, unless it repeats what must be unique."""
    if any(row[name] in values for name, values in seen.items()):
        return
    if contract.key:
        key = tuple(row[name] for name in contract.key.columns)
        if key in keys:
            return
        keys.add(key)
    for name, values in seen.items():
        values.add(row[name])
    for name, value in row.items():
        kept[name].append(value)


def _distinct_columns(contract: Contract) -> list[str]:
    return [
        name
        for name, column in contract.columns.items()
        if column.unique or (column.monotone and column.monotone.strict)
    ]


def _conditions(contract: Contract, columns: dict[str, list[Any]]) -> Iterable[tuple[str, "np.ndarray[Any, Any]"]]:
    """For each of the contract's conditions, in which rows it holds."""
    import duckdb
    import pyarrow as pa

    if not contract.rules:
        return
    arrays = {f"v{i}": pa.array(columns[n], arrow_type(c.type)) for i, (n, c) in enumerate(contract.columns.items())}
    with duckdb.connect(":memory:") as connection:
        connection.register("drawn", pa.table(arrays))
        for rule in contract.rules:
            sql = compile_expression(connection, contract, rule)
            answers = connection.execute(f"SELECT coalesce({sql}, true) AS ok FROM drawn").fetchnumpy()  # noqa: S608
            yield rule.name, np.asarray(answers["ok"], dtype=bool)


def _sort_monotone(contract: Contract, columns: dict[str, list[Any]], rows: int) -> None:
    """Order the rows by the first monotone column, and any other monotone column by itself."""
    monotone = [name for name, column in contract.columns.items() if column.monotone]
    if not monotone:
        return
    order = sorted(range(rows), key=columns[monotone[0]].__getitem__)
    for name, values in columns.items():
        columns[name] = sorted(values) if name in monotone else [values[row] for row in order]


def _may_have_holes(contract: Contract, name: str, column: Column) -> bool:
    in_key = contract.key is not None and name in contract.key.columns
    return column.missing.max_share > 0 and not in_key and not column.monotone and name != contract.time


def _punch(values: list[Any], column: Column, rows: int, rng: np.random.Generator) -> None:
    """Take out some values, at most the share that may be missing."""
    most = int(column.missing.max_share * rows)
    for row in rng.permutation(rows)[: int(rng.integers(0, most + 1))]:
        values[row] = None


def _refuse_row_count(contract: Contract, rows: int) -> None:
    low = contract.rows.min if contract.rows else 0
    high = contract.rows.max if contract.rows else None
    if rows < max(low, 0) or (high is not None and rows > high):
        limit = f"at least {low:,} rows" if high is None else f"{low:,} to {high:,} rows"
        raise UsageError(f"{rows:,} rows do not satisfy contract {contract.name!r}", expected=limit)


def _hardest(contract: Contract, drawn: dict[str, list[Any]], seen: dict[str, set[Any]]) -> str:
    """Which rule stood in the way, as a phrase."""
    shares = {rule: float(held.mean()) for rule, held in _conditions(contract, drawn)}
    if shares and min(shares.values()) < 0.05:
        rule = min(shares, key=lambda name: shares[name])
        return f"the rule {rule!r}, which holds in {shares[rule]:.1%} of random rows"
    if seen:
        return f"unique values in {', '.join(repr(name) for name in seen)}"
    return "the key" if contract.key else "all its rules together"


def _too_hard(contract: Contract, what: str) -> UsageError:
    return UsageError(
        f"Random rows do not satisfy contract {contract.name!r}: in the way is {what}",
        expected="rules that random rows meet now and then, and room for distinct values",
        fix="ask for fewer rows, or narrow the ranges so that the rule holds more often",
    )


# One column.


def _draw(name: str, column: Column, contract: Contract, rows: int, rng: np.random.Generator) -> list[Any]:
    if column.values:
        allowed = [value for value in column.values.allowed if _fits(column, value)]
        if not allowed:
            raise _too_hard(contract, f"column {name!r}, whose other rules allow none of its values")
        picked = [allowed[i] for i in rng.integers(len(allowed), size=rows)]
        return [float(value) for value in picked] if column.type is ColumnType.NUMBER else picked
    if column.type is ColumnType.BOOLEAN:
        return [bool(value) for value in rng.integers(2, size=rows)]
    if column.type is ColumnType.STRING:
        return _texts(name, column, contract, rows, rng)
    if column.type is ColumnType.TIMESTAMP:
        return _moments(column, contract if name == contract.time else None, rows, rng)
    low, high = _bounds(column)
    if column.type is ColumnType.INTEGER:
        first, last = math.ceil(low), math.floor(high)
        first, last = max(first, -(2**63)), min(last, 2**63 - 1)
        if first > last:
            raise _too_hard(contract, f"column {name!r}, whose range holds no integer")
        return [int(value) for value in rng.integers(first, last, size=rows, endpoint=True)]
    shares = rng.random(rows)
    # Weighted, because high - low can be larger than any float.
    numbers: list[Any] = np.clip(low * (1 - shares) + high * shares, low, high).tolist()
    return numbers


def _bounds(column: Column) -> tuple[Any, Any]:
    """The range of a number; an open side ends _WIDTH away."""
    low = column.range.min if column.range else None
    high = column.range.max if column.range else None
    if column.role is Role.WEIGHT and low is None:
        low = 0
    if low is None and high is None:
        return -_WIDTH // 2, _WIDTH // 2
    if low is None:
        return high - _WIDTH, high  # type: ignore[operator]  # numbers, by the contract's own check
    return low, low + _WIDTH if high is None else high  # type: ignore[operator]


def _texts(name: str, column: Column, contract: Contract, rows: int, rng: np.random.Generator) -> list[str]:
    regex = column.pattern.regex if column.pattern else "[a-z]{1,12}"
    matches = patterns.matcher(regex)
    texts: list[str] = []
    for _ in range(MAX_ROUNDS):
        drawn = (patterns.random_text(regex, rng) for _ in range(rows - len(texts)))
        texts += [text for text in drawn if matches(text)]
        if len(texts) == rows:
            return texts
    raise _too_hard(contract, f"the pattern of column {name!r}")


def _moments(column: Column, fresh: Contract | None, rows: int, rng: np.random.Generator) -> list[datetime]:
    """Moments in whole seconds, within the range and, for the time column, fresh enough."""
    low = read_moment(str(column.range.min)) if column.range and column.range.min is not None else None
    high = read_moment(str(column.range.max)) if column.range and column.range.max is not None else None
    if fresh is not None and fresh.freshness:
        now = datetime.now(UTC).replace(tzinfo=None)
        high = min(high or now, now)
        age = timedelta(seconds=fresh.freshness.seconds)
        # Every moment is fresh, with room for the time until somebody looks.
        low = max(low or datetime.min, min(now - age / 2, high))
        if low > high or now - high > age:
            raise _too_hard(fresh, "freshness, because the range of the time column ends before")
    if low is None:
        low = _FIRST_DAY if high is None else max(high, datetime.min + _YEAR) - _YEAR
    if high is None:
        high = min(low, datetime.max - _YEAR) + _YEAR
    span = max(int((high - low).total_seconds()), 0)
    return [low + timedelta(seconds=int(offset)) for offset in rng.integers(0, span, size=rows, endpoint=True)]


def _fits(column: Column, value: Any) -> bool:
    if column.pattern and not patterns.matcher(column.pattern.regex)(value):
        return False
    if column.range is None:
        return True
    low, high = column.range.min, column.range.max
    return (low is None or value >= low) and (high is None or value <= high)


# Breaking one rule.


def _broken_value(column: Column, rule: Breakable, first: Any) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "type": lambda: None if column.type is ColumnType.STRING else "not a value",
        "missing": lambda: None,
        "range": lambda: _outside(column),
        "values": lambda: _unseen(column),
        "pattern": lambda: _unmatched(column),
        "unique": lambda: first,
    }
    if rule not in makers:
        raise UsageError(f"The rule {rule!r} cannot be broken", expected=f"one of {', '.join(makers)}")
    value = makers[rule]()
    if value is None and rule != "missing":
        raise UsageError(f"A {column.type} column without a rule {rule!r} to break", expected="a column that has it")
    return value


def _outside(column: Column) -> Any:
    if column.range is None:
        return None
    bound, sign = (column.range.max, 1) if column.range.max is not None else (column.range.min, -1)
    if isinstance(bound, str):
        return read_moment(bound) + sign * timedelta(days=1)
    # Far enough that the sum is another number however large the bound is.
    return bound + sign * max(1, abs(bound) // 1_000) if bound is not None else None


def _unseen(column: Column) -> Any:
    if column.values is None or column.type is ColumnType.BOOLEAN:
        return None
    if column.type is ColumnType.STRING:
        return "unseen " + max((str(value) for value in column.values.allowed), key=len)
    return max(float(value) for value in column.values.allowed) + 1


def _unmatched(column: Column) -> str | None:
    if column.pattern is None:
        return None
    matches = patterns.matcher(column.pattern.regex)
    return next((text for text in ("", "\u2020", "?" * 64, "a 1") if not matches(text)), None)

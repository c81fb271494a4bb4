"""A first contract from a data file, for a person to review.

DuckDB reads the file out of core: one pass settles what texts are, one takes counts, extremes and estimated distinct
values of every column, one is exact about the few columns where that matters. What is inferred, with how much room:

    type        the file's own; floats that are all whole and have gaps are integers (pandas stores them so), texts that
                all read as ISO times are timestamps, texts that are all true/false/yes/no are booleans
    missing     the seen share, half as much again and one percentage point (level warn); 0 where none was seen
                (level quarantine), and always 0 for the target
    range       smallest to largest, a tenth of the span wider on both sides, never across zero (level warn)
    values      the texts of a column with at most 50 that clearly repeat (level warn: an unseen one is reported)
    role info   identifiers (every row another), constants, empty columns and timestamps; the only timestamp is `time`

Nothing is concluded about roles from fewer than 20 rows. A name is never enough to change a role: names that sound like
the outcome, and columns that move with the target, become notes for the review.
"""

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headway.components.config import dump_yaml
from headway.components.data_validate.contract import (
    Column,
    ColumnType,
    Contract,
    Level,
    Missing,
    Range,
    Role,
    Rows,
    Values,
)
from headway.components.data_validate.table import without_nan
from headway.components.errors import SourceError, UnknownNameError, UsageError
from headway.components.sql import quote_name, quote_text, settle

MAX_VALUES = 50
"""A text column with more different values gets no `values`."""
REPEATS = 5
"""Each value must stand in the column this often on average to be a category."""
MIN_ROWS = 20
"""Below this many rows nothing is said about identifiers and constants."""
RANGE_MARGIN = 0.1
"""How far a number's range goes beyond what was seen, as a share of the span."""
LEAK_CORRELATION = 0.98
"""A feature that moves with the target at least this closely is pointed out."""
_COLUMNS_AT_ONCE = 150
_EXACT_FLOAT = 2**53
_BOOLEAN_TEXTS = "'true', 'false', 'yes', 'no'"
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_NUMBERS = {"FLOAT", "DOUBLE", "DECIMAL", "HUGEINT", "UHUGEINT", "UBIGINT"}
_TEXTS = {"VARCHAR", "ENUM", "UUID", '"NULL"'}
_ID_NAME = re.compile(r"(^|[_\s-])(id|key|uuid|guid|no|nr|number|index|code)$|^unnamed|[a-z]I[Dd]$", re.IGNORECASE)
_OUTCOME_WORDS = {"actual", "after", "final", "label", "outcome", "predicted", "prediction", "result", "resolved"}


@dataclass(frozen=True)
class Inference:
    """An inferred contract and what a person should look at."""

    contract: Contract
    notes: dict[str, list[str]]
    """Sentences by column name; those about the whole table stand under the empty name."""
    rows: int
    target_values: int
    """How many different values the target has; 0 without a target."""


@dataclass
class _Seen:
    """What was measured of one column."""

    name: str
    sql: str
    """The column as an SQL expression: text, a number, or a moment in UTC."""
    type: ColumnType
    rows: int = 0
    missing: int = 0
    low: Any = None
    high: Any = None
    distinct: int = 0
    """An estimate after the first pass, exact after the second where it matters."""
    exact: bool = False
    values: list[str] = field(default_factory=list)
    correlation: float | None = None
    """With the target, for numbers and booleans."""
    was_text: bool = False
    was_float: bool = False

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def unique(self) -> bool:
        return self.exact and self.distinct == self.rows >= MIN_ROWS

    @property
    def constant(self) -> bool:
        return self.rows >= MIN_ROWS and (self.present == 0 or self.low == self.high)


def infer(
    path: Path,
    *,
    name: str,
    target: str | None = None,
    key: Sequence[str] | None = None,
    time: str | None = None,
    range_level: Level = Level.WARN,
) -> Contract:
    """A contract that the file itself satisfies; see the module for the rules.

    Args:
        path: A Parquet file, or a CSV file that DuckDB can read.
        name: The contract's name.
        target: The column to predict.
        key: The columns that name a row; by default an identifier, where the file has one.
        time: The column that says when the row happened; by default the only timestamp.
        range_level: What a value outside its range does: `warn`, or `quarantine` for the cautious.

    Raises:
        SourceError: The file cannot be read, or has no rows or no usable columns.
        UnknownNameError: `target`, `key` or `time` is no column of the file.
        UsageError: `time` is not a timestamp.
    """
    return infer_with_notes(path, name=name, target=target, key=key, time=time, range_level=range_level).contract


def infer_with_notes(
    path: Path,
    *,
    name: str,
    target: str | None = None,
    key: Sequence[str] | None = None,
    time: str | None = None,
    range_level: Level = Level.WARN,
) -> Inference:
    """The same as `infer`, with the notes for the review that `inferred_yaml` writes beside the columns."""
    seen, skipped = _measure(path, target)
    for kind, asked in (("target", target), ("time", time), *(("key column", part) for part in key or ())):
        if asked is not None and asked not in seen:
            raise UnknownNameError(kind, asked, seen)
    time = _time(seen, time, target)
    columns = {column.name: _column(column, target=target, range_level=range_level) for column in seen.values()}
    rows = next(iter(seen.values())).rows
    contract = Contract.parse(
        {
            "name": name,
            "columns": columns,
            "target": target,
            "key": {"columns": list(key), "level": Level.QUARANTINE} if key else _inferred_key(seen, columns),
            "time": time,
            "rows": Rows(min=max(1, rows // 10), level=Level.WARN),
        },
        where=str(path),
    )
    notes = {name: found for name, column in seen.items() if (found := list(_notes(column, columns[name], target)))}
    table = [f"Inferred from {path.name}: {rows:,} rows, {len(columns)} columns.", *skipped]
    if not contract.features:
        table.append("No column is left as a feature: look at the roles.")
    return Inference(contract, {"": table, **notes}, rows, seen[target].distinct if target else 0)


def inferred_yaml(contract: Contract, notes: dict[str, list[str]]) -> str:
    """The contract as YAML with the notes as comments: the table's above, each column's over the column.

    `Contract.parse` reads it back to an equal contract.
    """
    data = contract.model_dump(mode="json", exclude_defaults=True, by_alias=True)
    columns = data.pop("columns")
    lines = [*_comments(notes.get("", []), ""), "# Nothing here is a rule until a person has read it.", ""]
    head = {key: data.pop(key) for key in _HEAD if key in data}
    lines += [_yaml(head), "columns:"]
    for name, column in columns.items():
        lines += _comments(notes.get(name, []), "  ")
        lines += ["  " + line if line else line for line in _yaml({name: column}).split("\n")]
    if data:
        lines.append(_yaml(data))
    return "\n".join(lines) + "\n"


_HEAD = ("name", "description", "target", "key", "time")


def _yaml(data: dict[str, Any]) -> str:
    """Each rule on one line, however long: a folded line would need the indentation counted in."""
    entries = (
        dump_yaml({key: value}, width=math.inf, default_flow_style=None if isinstance(value, (dict, list)) else False)
        for key, value in data.items()
    )
    return "".join(entries).rstrip("\n")


def _comments(sentences: Sequence[str], indent: str) -> list[str]:
    return [f"{indent}# {' '.join(sentence.split())}" for sentence in sentences]


# Measuring.


def _measure(path: Path, target: str | None) -> tuple[dict[str, _Seen], list[str]]:
    """Every pass over the file; also a sentence for each column that a contract cannot describe."""
    import duckdb

    from headway.components.ingest.files import missing_file

    if not path.is_file():
        raise SourceError(f"{path}: is a folder", expected="one file") if path.is_dir() else missing_file(path)
    with tempfile.TemporaryDirectory(prefix="headway-infer-") as spill, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET temp_directory = {quote_text(spill)}")
        settle(connection)
        try:
            return _measure_all(connection, path, target)
        except duckdb.Error as error:
            raise SourceError(f"{path}: {str(error).splitlines()[0]}", expected="a Parquet or CSV file") from None


def _measure_all(connection: Any, path: Path, target: str | None) -> tuple[dict[str, _Seen], list[str]]:
    parquet = _is_parquet(path)
    # A CSV comes as texts, exactly as the checks read it: what a text is, is decided here, on every row.
    scan = "read_parquet({})" if parquet else "read_csv({}, all_varchar = true, header = true)"
    connection.execute(f"CREATE VIEW data AS SELECT * FROM {scan.format(quote_text(str(path)))}")  # noqa: S608
    columns, skipped = _columns(connection.execute("DESCRIBE data").fetchall())
    if not columns:
        raise SourceError(f"{path}: no usable columns", expected="columns of numbers, texts, booleans or times")
    rows = connection.execute("SELECT count(*) FROM data").fetchone()[0]
    if rows == 0:
        raise SourceError(f"{path}: no rows", expected="a table with rows to learn the contract from")
    groups = [columns[start : start + _COLUMNS_AT_ONCE] for start in range(0, len(columns), _COLUMNS_AT_ONCE)]
    for some in groups:
        _settle_texts(connection, [column for column in some if column.type is ColumnType.STRING], numbers=not parquet)
        _first_pass(connection, some, rows)
    target_column = next((column for column in columns if column.name == target), None)
    for some in groups:
        _second_pass(connection, some, target_column)
    return {column.name: column for column in columns}, skipped


def _is_parquet(path: Path) -> bool:
    """Whether it is Parquet; what is not must be CSV with a sound header."""
    from headway.components.ingest.readers import check_header

    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return True
    if path.suffix.lower() in (".parquet", ".pq"):
        raise SourceError(f"{path}: not a Parquet file, whatever its name says", expected="a whole Parquet file")
    check_header(path)
    return False


def _columns(described: Sequence[Sequence[str]]) -> tuple[list[_Seen], list[str]]:
    columns: list[_Seen] = []
    skipped: list[str] = []
    for name, sql_type, *_ in described:
        kind, sql = _kind(quote_name(name), sql_type)
        if kind is None:
            skipped.append(f"Column {name!r} is left out: a contract has no type for {sql_type}.")
        else:
            columns.append(_Seen(name, sql, kind))
    return columns, skipped


def _kind(column: str, sql_type: str) -> tuple[ColumnType | None, str]:
    """The contract's type for a DuckDB type, and the column as an expression of it."""
    plain = sql_type if sql_type.endswith("]") else sql_type.partition("(")[0]
    # Times with a zone by way of microseconds: DuckDB casts the nanoseconds that pandas writes in no other way.
    moment = f"CAST({column} AS TIMESTAMPTZ)" if plain == "TIMESTAMPTZ_NS" else column
    kinds: tuple[tuple[bool, ColumnType, str], ...] = (
        (plain in _INTEGERS, ColumnType.INTEGER, column),
        (plain in _NUMBERS, ColumnType.NUMBER, _number(column)),
        (plain == "BOOLEAN", ColumnType.BOOLEAN, column),
        (plain in _TEXTS, ColumnType.STRING, f"CAST({column} AS VARCHAR)"),
        (plain == "DATE" or plain.startswith("TIMESTAMP"), ColumnType.TIMESTAMP, f"CAST({moment} AS TIMESTAMP)"),
    )
    return next(((kind, sql) for fits, kind, sql in kinds if fits), (None, ""))


def _number(column: str) -> str:
    return without_nan(f"CAST({column} AS DOUBLE)")


def _settle_texts(connection: Any, columns: Sequence[_Seen], *, numbers: bool) -> None:
    """Which text columns hold something else in every row; numbers only in a CSV, where nothing can be typed."""
    guesses: dict[ColumnType, tuple[str, str]] = {
        ColumnType.TIMESTAMP: (
            "{0} LIKE '____-__-__%' AND TRY_CAST({0} AS TIMESTAMPTZ) IS NOT NULL",
            "CAST(TRY_CAST({0} AS TIMESTAMPTZ) AS TIMESTAMP)",
        ),
        ColumnType.BOOLEAN: (f"lower({{0}}) IN ({_BOOLEAN_TEXTS})", "CAST({0} AS BOOLEAN)"),
    }
    if numbers:
        # A leading zero marks a code: 00501 is no number.
        odd = "regexp_matches({0}, '^[+-]?0[0-9]|[^0-9.eE+-]')"
        guesses[ColumnType.INTEGER] = (
            f"CAST(TRY_CAST({{0}} AS BIGINT) AS VARCHAR) = {{0}} AND NOT {odd}",
            "CAST({0} AS BIGINT)",
        )
        guesses[ColumnType.NUMBER] = (f"isfinite(TRY_CAST({{0}} AS DOUBLE)) AND NOT {odd}", "CAST({0} AS DOUBLE)")
    items = [
        f"coalesce(bool_and(coalesce({test.format(column.sql)}, false)) FILTER (WHERE {column.sql} IS NOT NULL), false)"
        for column in columns
        for test, _ in guesses.values()
    ]
    if not items:
        return
    query = f"SELECT {', '.join(items)} FROM data"  # noqa: S608 - quoted names
    answers = iter(connection.execute(query).fetchone())
    for column in columns:
        fits = [kind for kind in guesses if next(answers)]
        if fits:
            column.type, column.was_text = fits[0], not numbers
            column.sql = guesses[fits[0]][1].format(column.sql)


def _first_pass(connection: Any, columns: Sequence[_Seen], rows: int) -> None:
    """Counts, extremes and estimates of every column."""
    items = [item for column in columns for item in _aggregates(column)]
    query = f"SELECT {', '.join(items)} FROM data"  # noqa: S608 - quoted names
    values = iter(connection.execute(query).fetchone())
    for column in columns:
        present, column.distinct, column.low, column.high, whole = (next(values) for _ in range(5))
        column.rows, column.missing = rows, rows - present
        if whole and column.missing:
            column.type, column.was_float = ColumnType.INTEGER, True
            column.low, column.high = int(column.low), int(column.high)


def _aggregates(column: _Seen) -> list[str]:
    value = column.sql
    extremes = f"FILTER (WHERE isfinite({value}))" if column.type in (ColumnType.NUMBER, ColumnType.TIMESTAMP) else ""
    whole = "false"
    if column.type is ColumnType.NUMBER:
        whole = f"bool_and(isfinite({value}) AND {value} = trunc({value}) AND abs({value}) < {_EXACT_FLOAT})"
    return [
        f"count({value})",
        f"approx_count_distinct({value})",
        f"min({value}) {extremes}",
        f"max({value}) {extremes}",
        whole,
    ]


def _second_pass(connection: Any, columns: Sequence[_Seen], target: _Seen | None) -> None:
    """What must be exact: the texts of a likely category, the count of a likely identifier, the tie to the target."""
    tasks: list[tuple[_Seen, str, str]] = []
    for column in columns:
        # The estimate is good to a few percent, so the doors are opened wide and the exact count decides.
        if column.type is ColumnType.STRING and column.distinct <= 2 * MAX_VALUES:
            tasks.append((column, "values", f"list_sort(list(DISTINCT {column.sql}))"))
        elif column is target or _may_be_unique(column):
            tasks.append((column, "distinct", f"count(DISTINCT {column.sql})"))
        if target is not None and column is not target and {column.type, target.type} <= _ORDERED:
            both = f"CAST({column.sql} AS DOUBLE), CAST({target.sql} AS DOUBLE)"
            finite = f"isfinite(CAST({column.sql} AS DOUBLE)) AND isfinite(CAST({target.sql} AS DOUBLE))"
            tasks.append((column, "correlation", f"corr({both}) FILTER (WHERE {finite})"))
    if not tasks:
        return
    query = f"SELECT {', '.join(sql for _, _, sql in tasks)} FROM data"  # noqa: S608 - quoted names
    found = connection.execute(query).fetchone()
    for (column, attribute, _), value in zip(tasks, found, strict=True):
        setattr(column, attribute, value)
        if attribute == "values":
            column.values = [text for text in value or [] if text is not None]
            column.distinct = len(column.values)
        column.exact = column.exact or attribute != "correlation"


def _may_be_unique(column: _Seen) -> bool:
    return column.type in (ColumnType.STRING, ColumnType.INTEGER) and column.distinct >= 0.7 * column.rows


_ORDERED = {ColumnType.INTEGER, ColumnType.NUMBER, ColumnType.BOOLEAN}


# Deciding.


def _time(seen: dict[str, _Seen], asked: str | None, target: str | None) -> str | None:
    moments = [name for name, column in seen.items() if column.type is ColumnType.TIMESTAMP and name != target]
    if asked is None:
        return moments[0] if len(moments) == 1 else None
    if asked not in moments:
        raise UsageError(
            f"Column {asked!r} holds no timestamps but values of type {seen[asked].type}",
            expected=f"one of {', '.join(moments)}" if moments else "a timestamp column; the file has none",
        )
    return asked


def _column(seen: _Seen, *, target: str | None, range_level: Level) -> Column:
    is_target = seen.name == target
    role = Role.TARGET if is_target else Role.INFO if _is_info(seen) else Role.FEATURE
    return Column(
        type=seen.type,
        role=role,
        missing=_missing(seen, is_target=is_target),
        range=None if seen.constant or (role is Role.INFO) else _range(seen, range_level),
        values=_values(seen, is_target=is_target),
        description=_constant_sentence(seen) if seen.constant else "",
    )


def _is_info(seen: _Seen) -> bool:
    return seen.constant or seen.type is ColumnType.TIMESTAMP or _is_identifier(seen)


def _is_identifier(seen: _Seen) -> bool:
    """Unique texts are; unique whole numbers by name or when they count the rows: an amount can be unique too."""
    if not seen.unique:
        return False
    if seen.type is ColumnType.STRING:
        return True
    counts_rows = seen.type is ColumnType.INTEGER and seen.high - seen.low < 2 * seen.rows
    return seen.type is ColumnType.INTEGER and (counts_rows or bool(_ID_NAME.search(seen.name)))


def _constant_sentence(seen: _Seen) -> str:
    return "Empty in the file it was inferred from." if seen.present == 0 else f"Always {str(seen.low)[:80]}."


def _missing(seen: _Seen, *, is_target: bool) -> Missing:
    share = seen.missing / seen.rows
    if is_target or share == 0:
        return Missing(max_share=0.0, level=Level.QUARANTINE)
    return Missing(max_share=min(1.0, math.ceil(round((1.5 * share + 0.01) * 1_000, 6)) / 1_000), level=Level.WARN)


def _range(seen: _Seen, level: Level) -> Range | None:
    if seen.type not in (ColumnType.INTEGER, ColumnType.NUMBER) or seen.low is None:
        return None
    widened = _widened_integers if seen.type is ColumnType.INTEGER else _widened_numbers
    low, high = widened(seen.low, seen.high)
    return Range(min=low, max=high, level=level)


def _widened_integers(low: int, high: int) -> tuple[int, int]:
    """A tenth wider on both sides, rounded down, so that a 0/1 column stays 0/1; never across zero.

    Example:
        >>> _widened_integers(1, 31), _widened_integers(0, 1)
        ((0, 34), (0, 1))
    """
    margin = (high - low) // 10
    return (
        max(0, low - margin) if low >= 0 else max(low - margin, -(2**63)),
        min(0, high + margin) if high <= 0 else min(high + margin, 2**63 - 1),
    )


def _widened_numbers(low: float, high: float) -> tuple[float, float]:
    """A tenth wider on both sides, rounded outwards to three digits of the span, never across zero.

    Example:
        >>> _widened_numbers(17.2, 4983.7)
        (0.0, 5490.0)
    """
    span = high - low
    if not 1e-300 < span < 1e300:
        return low, high
    step = 10.0 ** (math.floor(math.log10(span)) - 2)
    wide_low = math.floor((low - RANGE_MARGIN * span) / step) * step
    wide_high = math.ceil((high + RANGE_MARGIN * span) / step) * step
    digits = max(0, 2 - math.floor(math.log10(span)))
    wide_low, wide_high = round(wide_low, digits), round(wide_high, digits)
    # Where the span is tiny beside the values, rounding can cut into what was seen.
    return (
        max(0.0, wide_low) if low >= 0 else min(low, wide_low),
        min(0.0, wide_high) if high <= 0 else max(high, wide_high),
    )


def _values(seen: _Seen, *, is_target: bool) -> Values | None:
    few = 0 < seen.distinct <= MAX_VALUES and seen.present >= REPEATS * seen.distinct
    if seen.type is not ColumnType.STRING or not seen.values or not few or seen.constant:
        return None
    return Values(allowed=list(seen.values), level=Level.QUARANTINE if is_target else Level.WARN)


def _inferred_key(seen: dict[str, _Seen], columns: dict[str, Column]) -> dict[str, Any] | None:
    candidates = [name for name, column in seen.items() if _is_identifier(column) and columns[name].role is Role.INFO]
    named = [name for name in candidates if _ID_NAME.search(name)]
    return {"columns": (named or candidates)[:1], "level": Level.QUARANTINE} if candidates else None


# Pointing out.


def _notes(seen: _Seen, column: Column, target: str | None) -> Iterator[str]:
    if seen.name == target:
        if seen.missing:
            yield f"review: {seen.missing:,} rows have no target; they will be quarantined"
        if seen.constant:
            yield "review: the target never changes, so there is nothing to predict"
        return
    yield from _type_notes(seen)
    if seen.constant:
        yield "constant: tells a model nothing; drop it, or make it a feature when it will vary"
    elif _is_identifier(seen):
        yield "identifier? every row has another value, so a model must not see it"
    elif seen.unique and seen.type is ColumnType.INTEGER:
        yield "review: every row has another value; make it info if it is an identifier"
    elif seen.type is ColumnType.STRING and column.values is None:
        yield f"high cardinality: about {seen.distinct:,} different texts; list `values`, or make it info"
    yield from _leak_notes(seen, target)


def _type_notes(seen: _Seen) -> Iterator[str]:
    if seen.type is ColumnType.TIMESTAMP:
        yield "a moment never comes again: give the model hour, weekday or age instead"
    elif seen.was_float:
        yield "stored as float, but every value is whole: make it a number if 2.5 is possible"
    elif seen.was_text:
        yield "texts true/false/yes/no, read as a boolean"


def _leak_notes(seen: _Seen, target: str | None) -> Iterator[str]:
    if target is None:
        return
    words = set(re.split(r"[\W_]+", seen.name.casefold()))
    if words & _OUTCOME_WORDS or (len(target) >= 3 and target.casefold() in seen.name.casefold()):
        yield "leak? the name sounds like the outcome; if it is known only afterwards, set `known: outcome`"
    if seen.correlation is not None and abs(seen.correlation) >= LEAK_CORRELATION:
        yield (
            f"leak? it moves with the target (correlation {seen.correlation:.3f}); "
            "if it is known only afterwards, set `known: outcome`"
        )

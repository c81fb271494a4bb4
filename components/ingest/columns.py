"""Column types: what each column of a source becomes, decided on every row of it.

A table leaves ingest with five types: integer (BIGINT), number (DOUBLE), boolean, string and timestamp (microseconds,
no zone; a time with an offset becomes UTC). A column that the contract declares takes the declared type where *every*
value can be read as it; otherwise it stays as it came, and the contract's check reports the values that are wrong.
A column of texts that nobody declared takes the first of integer, number, boolean and timestamp that fits every value
and loses nothing: `00501` is no integer.
"""

# ruff: noqa: S608 - SQL here is put together from our own text and from names that quote_name() and quote_text() quote.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headway.components.data_validate.contract import ColumnType
from headway.components.errors import SourceError
from headway.components.sql import quote_name, quote_text

SQL_TYPES: dict[ColumnType, str] = {
    ColumnType.INTEGER: "BIGINT",
    ColumnType.NUMBER: "DOUBLE",
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.STRING: "VARCHAR",
    ColumnType.TIMESTAMP: "TIMESTAMP",
}
MISSING_TEXTS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that mean a missing value in a column where every other text is a number, a boolean or a time."""

_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
# Wider than 64 bits: a sum of integers is a HUGEINT in DuckDB, and a model reads it as a number.
_NUMBERS = {"FLOAT", "DOUBLE", "HUGEINT", "UHUGEINT", "UBIGINT", "BIGNUM", "VARINT"}
_STRINGS = {"VARCHAR", "UUID", "JSON", "TIME", "TIME WITH TIME ZONE", "INTERVAL", '"NULL"', "NULL"}
_TIMESTAMPS = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"}
_GUESSES = (ColumnType.INTEGER, ColumnType.NUMBER, ColumnType.BOOLEAN, ColumnType.TIMESTAMP)
_FIRST_ROWS = 20_000
"""Types that these rows rule out are not tried on the whole table."""
_COLUMNS_AT_ONCE = 100
"""Columns in one query: DuckDB's planning time and working memory grow faster than their number."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Something that SQL can select from.

    Args:
        sql: What stands behind FROM.
        columns: Name and DuckDB type of each column.
        text: Whether a VARCHAR is an unread text (CSV) rather than a value that is known to be a text.
    """

    sql: str
    columns: Sequence[tuple[str, str]]
    text: bool = False


def canonical(name: str, sql_type: str) -> ColumnType:
    """Which of the five types a DuckDB type is.

    Raises:
        SourceError: It is nested, binary or otherwise not one value a cell.
    """
    for names, kind in (
        (_INTEGERS, ColumnType.INTEGER),
        (_NUMBERS, ColumnType.NUMBER),
        (_STRINGS, ColumnType.STRING),
        (_TIMESTAMPS, ColumnType.TIMESTAMP),
        ({"BOOLEAN"}, ColumnType.BOOLEAN),
    ):
        if sql_type in names:
            return kind
    if sql_type.startswith("DECIMAL") and not sql_type.endswith("]"):
        return ColumnType.NUMBER
    if sql_type.startswith("ENUM") and not sql_type.endswith("]"):
        return ColumnType.STRING
    raise SourceError(
        f"Column {name!r} is of type {sql_type}",
        expected="numbers, texts, booleans or times, one value a cell",
        fix="unfold or leave out the column in a `query`",
    )


class TypedQuery:
    """A query that gives a relation's columns in their final types.

    Args:
        connection: An open DuckDB connection.
        relation: What to read.
        declared: Types that the contract or the source asks for, by column; others are ignored.
        nulls: Texts that mean a missing value in every column; see `Source.nulls`.

    Raises:
        SourceError: A column is nested or binary.
    """

    def __init__(
        self,
        connection: Any,
        relation: Relation,
        *,
        declared: Mapping[str, ColumnType],
        nulls: Sequence[str] | None = None,
    ) -> None:
        kinds = {name: canonical(name, sql_type) for name, sql_type in relation.columns}
        self.relation = relation
        self._reader = _Reader(dict(relation.columns), kinds, declared, relation.text, nulls)
        attempts = {
            name: _attempts(kind, declared.get(name), text=relation.text)
            for name, kind in kinds.items()
            if kind is not declared.get(name)
        }
        fitting: dict[str, list[ColumnType]] = {}
        for columns in _chunks([name for name in attempts if attempts[name]]):
            fitting |= self._fitting(connection, {name: attempts[name] for name in columns})
        self.types = {name: next(iter(fitting.get(name, ())), kind) for name, kind in kinds.items()}
        """The type of each column."""

    def _fitting(self, connection: Any, attempts: Mapping[str, list[ColumnType]]) -> Mapping[str, list[ColumnType]]:
        if any(len(kinds) > 1 for kinds in attempts.values()):
            with _first_rows(connection, self.relation, list(attempts), _FIRST_ROWS) as first_rows:
                attempts = _fitting(connection, first_rows, self._reader, attempts, empty_fits=True)
        return _fitting(connection, self.relation.sql, self._reader, attempts)

    def slices(self) -> Iterator[list[str]]:
        """Groups of columns to read one after the other, so that a wide table is not planned all at once."""
        return _chunks(list(self.types))

    def select(self, columns: Iterable[str]) -> str:
        """The SELECT of some columns."""
        items = [f"{self._reader.final(name, self.types[name])} AS {quote_name(name)}" for name in columns]
        return f"SELECT {', '.join(items)} FROM {self.relation.sql}"


def _chunks(names: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), _COLUMNS_AT_ONCE):
        yield list(names[start : start + _COLUMNS_AT_ONCE])


def guess_types(
    connection: Any, relation: Relation, names: Iterable[str], *, rows: int, nulls: Sequence[str] | None
) -> dict[str, ColumnType | None]:
    """What columns of texts look like in the first rows; None where all of those are missing.

    Args:
        connection: An open DuckDB connection.
        relation: Unread texts.
        names: The columns.
        rows: How many rows to look at.
        nulls: Texts that mean a missing value in every column.
    """
    names = list(names)
    reader = _Reader(dict(relation.columns), dict.fromkeys(names, ColumnType.STRING), {}, True, nulls)
    fitting: dict[str, list[ColumnType]] = {}
    for columns in _chunks(names):
        with _first_rows(connection, relation, columns, rows) as first_rows:
            tries = {name: [*_GUESSES, ColumnType.STRING] for name in columns}
            fitting |= _fitting(connection, first_rows, reader, tries)
    return {name: next(iter(fitting.get(name, ())), None) for name in names}


def unreadable_value(
    connection: Any, relation: Relation, name: str, kind: ColumnType, nulls: Sequence[str] | None
) -> Any:
    """The first value of a column that cannot be read as a type; None when all can."""
    source = canonical(name, dict(relation.columns)[name])
    reader = _Reader(dict(relation.columns), {name: source}, {name: kind}, relation.text, nulls)
    column = quote_name(name)
    row = connection.execute(
        f"SELECT {column} FROM {reader.present([name], relation.sql)} "
        f"WHERE {column} IS NOT NULL AND {reader.value(name, kind)} IS NULL LIMIT 1"
    ).fetchone()
    return None if row is None else row[0]


def _attempts(kind: ColumnType, declared: ColumnType | None, *, text: bool) -> list[ColumnType]:
    if declared is not None:
        return [declared]
    return list(_GUESSES) if text and kind is ColumnType.STRING else []


def _fitting(
    connection: Any,
    source: str,
    reader: "_Reader",
    tries: Mapping[str, Sequence[ColumnType]],
    *,
    empty_fits: bool = False,
) -> dict[str, list[ColumnType]]:
    """For each column, the types among those tried that every value can be read as, in the order given."""
    names = [name for name in tries if tries[name]]
    if not names:
        return {}
    items = [f"count({quote_name(name)})" for name in names]
    items += [f"count({reader.value(name, kind)})" for name in names for kind in tries[name]]
    query = f"SELECT {', '.join(items)} FROM {reader.present(names, source)}"
    counts = list(connection.execute(query).fetchone())
    readable = iter(counts[len(names) :])
    found: dict[str, list[ColumnType]] = {}
    for name, present in zip(names, counts[: len(names)], strict=True):
        fits = [kind for kind in tries[name] if next(readable) >= present]
        # A column without a single value says nothing about its type, unless somebody declared it.
        found[name] = fits if present or empty_fits or name in reader.declared else []
    return found


@contextmanager
def _first_rows(connection: Any, relation: Relation, names: Iterable[str], rows: int) -> Iterator[str]:
    """Columns of the first rows as a table, so that the source is read once for all queries over them."""
    columns = ", ".join(quote_name(name) for name in names)
    connection.execute(f"CREATE TEMP TABLE first_rows AS SELECT {columns} FROM {relation.sql} LIMIT {rows}")
    try:
        yield "first_rows"
    finally:
        connection.execute("DROP TABLE first_rows")


@dataclass(frozen=True)
class _Reader:
    """SQL expressions that read a column as a type, NULL where a value cannot be read."""

    sql_types: Mapping[str, str]
    kinds: Mapping[str, ColumnType]
    declared: Mapping[str, ColumnType]
    text: bool
    nulls: Sequence[str] | None

    def present(self, names: Iterable[str], source: str) -> str:
        """A subquery with columns where what means a missing value is NULL, so that a count sees it once."""
        return f"(SELECT {', '.join(f'{self._present(name)} AS {quote_name(name)}' for name in names)} FROM {source})"

    def _present(self, name: str) -> str:
        column = quote_name(name)
        if self.sql_types[name] in ("FLOAT", "DOUBLE"):
            return f"CASE WHEN NOT isnan({column}) THEN {column} END"
        if self.kinds[name] is not ColumnType.STRING:
            return column
        texts = column if self.sql_types[name] == "VARCHAR" else f"CAST({column} AS VARCHAR)"
        if not self.text:
            return texts
        # CASE rather than IN: DuckDB turns a long list into a join, one for each column.
        missing = MISSING_TEXTS if self.nulls is None else ["", *self.nulls]
        return f"CASE {texts} {' '.join(f'WHEN {quote_text(word)} THEN NULL' for word in missing)} ELSE {texts} END"

    def value(self, name: str, kind: ColumnType) -> str:
        """A column of `present` as another type, NULL where a value cannot be read as it."""
        column, source = quote_name(name), self.kinds[name]
        if kind is source or kind is ColumnType.STRING:
            return column
        if source is ColumnType.STRING:
            return (_read_declared if name in self.declared else _read_strictly)(column, kind)
        return _read_value(column, source, kind)

    def final(self, name: str, kind: ColumnType) -> str:
        """The column as a type that all its values are known to be readable as."""
        column, source = quote_name(name), self.kinds[name]
        if kind is source or kind is ColumnType.STRING:
            return column if self.sql_types[name] == SQL_TYPES[kind] else f"CAST({column} AS {SQL_TYPES[kind]})"
        if source is not ColumnType.STRING:
            return _read_value(column, source, kind)
        # Never a cast of the bare column: DuckDB moves it into the CSV reader, where TRY_CAST fails like a CAST.
        texts = self._present(name)
        return _timestamp(texts) if kind is ColumnType.TIMESTAMP else f"TRY_CAST({texts} AS {SQL_TYPES[kind]})"


def _read_value(column: str, source: ColumnType, kind: ColumnType) -> str:
    """Read a number, boolean or time as another of those types, never rounding."""
    if ColumnType.TIMESTAMP in (source, kind):
        return f"CAST(NULL AS {SQL_TYPES[kind]})"
    if kind is ColumnType.NUMBER or source is ColumnType.BOOLEAN:
        return f"CAST({column} AS {SQL_TYPES[kind]})"
    if kind is ColumnType.BOOLEAN:
        return f"CASE WHEN {column} = 1 THEN true WHEN {column} = 0 THEN false END"
    return f"CASE WHEN {column} = TRY_CAST({column} AS BIGINT) THEN TRY_CAST({column} AS BIGINT) END"


def _read_declared(text: str, kind: ColumnType) -> str:
    """Read a text as the type that somebody asked for: as people write it, but never rounding."""
    if kind is ColumnType.INTEGER:
        whole = f"TRY_CAST({text} AS BIGINT)"
        return f"CASE WHEN TRY_CAST({text} AS DOUBLE) = {whole} THEN {whole} END"
    if kind is ColumnType.TIMESTAMP:
        return _timestamp(text)
    return f"TRY_CAST({text} AS {SQL_TYPES[kind]})"


def _read_strictly(text: str, kind: ColumnType) -> str:
    """Read a text as a guessed type, only where writing it again gives the same value."""
    if kind is ColumnType.INTEGER:
        whole = f"TRY_CAST({text} AS BIGINT)"
        return f"CASE WHEN CAST({whole} AS VARCHAR) = {text} THEN {whole} END"
    if kind is ColumnType.NUMBER:
        # A leading zero marks a code, an underscore or an x a number as programs write it.
        odd = f"regexp_matches({text}, '^[+-]?0[0-9]|[_xX ]')"
        return f"CASE WHEN NOT {odd} THEN TRY_CAST({text} AS DOUBLE) END"
    if kind is ColumnType.BOOLEAN:
        return f"CASE lower({text}) WHEN 'true' THEN true WHEN 'false' THEN false END"
    return f"CASE WHEN {text} LIKE '____-__-__%' THEN {_timestamp(text)} END"


def _timestamp(text: str) -> str:
    # Through TIMESTAMPTZ because a plain TIMESTAMP drops the offset of `10:00+02:00` in silence.
    return f"CAST(TRY_CAST({text} AS TIMESTAMPTZ) AS TIMESTAMP)"

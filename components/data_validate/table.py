"""A table in Parquet parts, opened for reading out of core, with each column read as the type its contract gives it.

DuckDB does the reading, in a session that can open only the files it was given: a contract's expressions are text that
a person wrote, and must not reach another file, the network or the session's own settings.
"""

# ruff: noqa: S608 - names in the SQL are quoted or made here, expressions are written anew from a checked tree

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import SourceError, UsageError
from headway.components.sql import quote_text, settle

if TYPE_CHECKING:
    import duckdb

ROW_GROUP_ROWS = 131_072
"""Rows in one row group of every Parquet file that Headway writes."""
MEMORY_PER_THREAD_MB = 256
"""DuckDB's memory limit for each thread; what does not fit goes to a temporary folder."""
LEAST_MEMORY_MB = 1_024

Data = Path | Sequence[Path] | Mapping[str, Path]
"""One file, several that form one table, or several with names of their own such as `train`."""

CANONICAL: dict[ColumnType, str] = {
    ColumnType.INTEGER: "BIGINT",
    ColumnType.NUMBER: "DOUBLE",
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.STRING: "VARCHAR",
    ColumnType.TIMESTAMP: "TIMESTAMP",
}
"""The one physical type that a column has after validation; a timestamp is UTC, in microseconds."""

_INTEGERS = frozenset(
    "TINYINT SMALLINT INTEGER BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT".split()  # noqa: SIM905
)
_TIMES = ("TIMESTAMP", "DATE")
_WHOLE_NUMBER = r"\s*[+-]?[0-9]+(\.0*)?\s*"
_ROW_NUMBER = "file_row_number"


@dataclass(frozen=True)
class Reading:
    """How one column of a file becomes a value of the contract's type; all are SQL over the file's columns."""

    raw: str
    """The value as it stands in the file."""
    value: str
    """The value in the canonical type: NULL where it is missing or cannot be read."""
    missing: str
    """True where it is missing: NULL, or NaN in a number."""
    unreadable: str | None
    """True where a value is there and cannot be read as the type; None where that cannot happen."""
    exact: bool
    """Whether the file has the canonical type already."""


@dataclass(frozen=True)
class Part:
    """One file of a table."""

    name: str
    path: Path
    columns: dict[str, str]
    """The columns as the file spells them, in its order, each with its DuckDB type."""
    rows: int
    readings: dict[str, Reading] = field(default_factory=dict)
    """The columns of the contract that the file has."""

    @property
    def source(self) -> str:
        """A FROM item with the columns `f0`, `f1`, … in the file's order, and `r`, the row number counted from 0."""
        fields = [f"f{i}" for i in range(len(self.columns))]
        read = f"read_parquet({quote_text(str(self.path))}, hive_partitioning = false"
        if _ROW_NUMBER in (name.casefold() for name in self.columns):
            # DuckDB's own row number cannot stand beside a column of that name.
            listed = ", ".join(fields)
            return f"(SELECT *, row_number() OVER () - 1 AS r FROM {read}) AS t({listed})) AS t({listed}, r)"
        return f"{read}, file_row_number = true) AS t({', '.join([*fields, 'r'])})"

    def typed(self, contract: Contract, only: Collection[str] | None = None) -> str:
        """A FROM item over the part, in which each column of the contract (or only some) is read as its type.

        For the contract's column number i it has `v{i}` (the value; NULL where missing, NaN or unreadable), `o{i}` (the
        same with NaN kept, as it is written out), `m{i}` (whether it is missing), `b{i}` (whether it is unreadable) and
        `x{i}` (as it stands in the file); a column that the file lacks is NULL and not missing. The columns of `source`
        stand beside them, or `r` alone where only some columns were asked for.
        """
        items = ["*"] if only is None else ["r"]
        for i, (name, column) in enumerate(contract.columns.items()):
            if only is not None and name not in only:
                continue
            reading = self.readings.get(name)
            null = f"CAST(NULL AS {CANONICAL[column.type]})"
            if reading is None:
                items += [f"{null} AS v{i}", f"{null} AS o{i}", f"false AS m{i}", f"false AS b{i}", f"NULL AS x{i}"]
                continue
            value = reading.value
            if column.type is ColumnType.NUMBER:
                value = without_nan(value)
            items += [f"{value} AS v{i}", f"{reading.value} AS o{i}", f"{reading.missing} AS m{i}"]
            items += [f"{reading.unreadable or 'false'} AS b{i}", f"{reading.raw} AS x{i}"]
        return f"(SELECT {', '.join(items)} FROM {self.source}) AS typed"

    def is_canonical(self, contract: Contract) -> bool:
        """Whether the file has every column of the contract in its canonical type."""
        return all(name in self.readings and self.readings[name].exact for name in contract.columns)


@dataclass(frozen=True)
class Table:
    """Parts that form one table, and the session that reads them."""

    connection: "duckdb.DuckDBPyConnection"
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Rows of all parts together."""
        return sum(part.rows for part in self.parts)


@contextmanager
def open_table(contract: Contract, data: Data, *, writes: Iterable[Path] = (), threads: int = 0) -> Iterator[Table]:
    """Open Parquet (or CSV) files as one table.

    Args:
        contract: Says as what each column is read.
        data: The files.
        writes: The only files that the session may write.
        threads: 0 means as many as there are cores for this process.

    Raises:
        SourceError: A file is missing, not Parquet, or has two columns whose names differ only in letter case.
        UsageError: There is no file.
    """
    import duckdb

    files = named(data)
    threads = threads or available_cores()
    with tempfile.TemporaryDirectory(prefix="headway-") as folder, duckdb.connect(":memory:") as connection:
        connection.execute(f"SET threads = {threads}")
        connection.execute(f"SET memory_limit = '{max(LEAST_MEMORY_MB, MEMORY_PER_THREAD_MB * threads)}MB'")
        connection.execute(f"SET temp_directory = {quote_text(folder)}")
        settle(connection)
        parts = tuple(
            _open_part(connection, contract, name, path, Path(folder) / str(i))
            for i, (name, path) in enumerate(files.items())
        )
        # A thread works on whole row groups; for a small table more threads only cost their start.
        groups = max(sum(-(-part.rows // ROW_GROUP_ROWS) for part in parts), 1)
        connection.execute(f"SET threads = {min(threads, groups)}")
        _lock(connection, [*(part.path for part in parts), *writes], folder)
        yield Table(connection, parts)


def named(data: Data) -> dict[str, Path]:
    """The files by name; a file that came without one is called by its own.

    Raises:
        UsageError: There is no file.

    Example:
        >>> list(named([Path("a/part.parquet"), Path("b/part.parquet")]))
        ['part', 'part-2']
    """
    if isinstance(data, Mapping):
        files = dict(data)
    else:
        files = {}
        for path in [data] if isinstance(data, Path) else data:
            name, number = path.stem, 1
            while name in files:
                number += 1
                name = f"{path.stem}-{number}"
            files[name] = path
    if not files:
        raise UsageError("No file to check was given", expected="one Parquet or CSV file, or several")
    return files


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_nan(value: str) -> str:
    """SQL that says whether a floating-point value is NaN.

    Not `isnan`: DuckDB answers that from a Parquet file's statistics, and those of pyarrow leave NaN out.
    """
    return f"(NOT isfinite({value}) AND NOT isinf({value}))"


def without_nan(value: str) -> str:
    """SQL for a floating-point value with NULL in the place of NaN: both are a missing number."""
    return f"CASE WHEN isfinite({value}) OR isinf({value}) THEN {value} END"


def copy_to(connection: "duckdb.DuckDBPyConnection", query: str, path: Path) -> None:
    """Write a query's rows, in their order, as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_ROWS}"
    connection.execute(f"COPY ({query}) TO {quote_text(str(path.absolute()))} ({options})")


def _lock(connection: "duckdb.DuckDBPyConnection", files: Iterable[Path], folder: str) -> None:
    allowed = ", ".join(quote_text(str(path.absolute())) for path in files)
    connection.execute(f"SET allowed_paths = [{allowed}]")
    connection.execute(f"SET allowed_directories = [{quote_text(folder)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _open_part(
    connection: "duckdb.DuckDBPyConnection", contract: Contract, name: str, path: Path, scratch: Path
) -> Part:
    from headway.components.ingest.files import missing_file

    if not path.is_file():
        raise SourceError(f"{path}: is a folder", expected="one file") if path.is_dir() else missing_file(path)
    if path.suffix.lower() in (".csv", ".tsv") or path.name.lower().endswith((".csv.gz", ".tsv.gz")):
        path = _from_csv(connection, path, scratch.with_suffix(".parquet"))
    elif any(character in str(path) for character in "*?[]{}"):
        # DuckDB would read such a path as a pattern for many files.
        scratch.with_suffix(".parquet").symlink_to(path.absolute())
        path = scratch.with_suffix(".parquet")
    path = path.absolute()
    names, rows = _schema(path)
    part = Part(name, path, dict.fromkeys(names, ""), rows)
    described = connection.execute(f"DESCRIBE SELECT * FROM {part.source}").fetchall()
    columns = dict(zip(names, (str(row[1]) for row in described), strict=False))
    readings = {
        column: _reading(contract.columns[column].type, kind, f"f{i}")
        for i, (column, kind) in enumerate(columns.items())
        if column in contract.columns
    }
    return Part(name, path, columns, rows, readings)


def _schema(path: Path) -> tuple[list[str], int]:
    """The names of the columns as the file spells them, and the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names, rows = list(file.schema_arrow.names), int(file.metadata.num_rows)
    except pa.ArrowException as error:
        raise SourceError(f"{path}: {str(error).splitlines()[0]}", expected="a Parquet file") from None
    if not names:
        raise SourceError(f"{path}: a file without columns", expected="a table")
    folded: dict[str, str] = {}
    for name in names:
        if name.casefold() in folded:
            raise SourceError(
                f"{path}: the columns {folded[name.casefold()]!r} and {name!r} differ at most in letter case",
                expected="names that SQL can tell apart",
                fix="rename one of them",
            )
        folded[name.casefold()] = name
    return names, rows


def _from_csv(connection: "duckdb.DuckDBPyConnection", path: Path, to: Path) -> Path:
    """Turn CSV into Parquet with every value as text: the contract's types then decide what can be read."""
    import duckdb

    from headway.components.ingest.readers import check_header

    check_header(path)
    try:
        copy_to(connection, f"SELECT * FROM read_csv({quote_text(str(path))}, all_varchar = true, header = true)", to)
    except duckdb.Error as error:
        raise SourceError(f"{path}: {str(error).splitlines()[0]}", expected="a CSV file with a header") from None
    return to


def _reading(kind: ColumnType, physical: str, column: str) -> Reading:
    """How a column of a physical type is read as one of the contract's types."""
    missing = f"({column} IS NULL)"
    if physical in ("FLOAT", "DOUBLE"):
        missing = f"({column} IS NULL OR {is_nan(column)})"
    if physical == CANONICAL[kind]:
        return Reading(column, column, missing, None, True)
    value = _cast(kind, physical, column)
    if value is None:
        return Reading(column, f"CAST(NULL AS {CANONICAL[kind]})", missing, f"NOT {missing}", False)
    if kind is ColumnType.NUMBER and physical == "VARCHAR":
        missing = f"({column} IS NULL OR coalesce({is_nan(value)}, false))"
    return Reading(column, value, missing, f"(NOT {missing} AND {value} IS NULL)", False)


def _cast(kind: ColumnType, physical: str, column: str) -> str | None:
    """SQL that gives the canonical value, or NULL for one that cannot be read; None when no value can be."""
    family = _family(physical)
    casts: dict[tuple[ColumnType, str], str] = {
        (ColumnType.INTEGER, "integer"): f"TRY_CAST({column} AS BIGINT)",
        # A cast alone would round: 1.5 is not an integer.
        (ColumnType.INTEGER, "real"): f"(CASE WHEN {column} = trunc({column}) THEN TRY_CAST({column} AS BIGINT) END)",
        (ColumnType.INTEGER, "text"): (
            f"(CASE WHEN regexp_full_match({column}, '{_WHOLE_NUMBER}') THEN TRY_CAST({column} AS BIGINT) END)"
        ),
        (ColumnType.NUMBER, "integer"): f"CAST({column} AS DOUBLE)",
        (ColumnType.NUMBER, "real"): f"CAST({column} AS DOUBLE)",
        (ColumnType.NUMBER, "text"): f"TRY_CAST({column} AS DOUBLE)",
        (ColumnType.BOOLEAN, "integer"): f"(CASE WHEN {column} IN (0, 1) THEN {column} = 1 END)",
        (ColumnType.BOOLEAN, "text"): f"TRY_CAST({column} AS BOOLEAN)",
        (ColumnType.STRING, "integer"): f"CAST({column} AS VARCHAR)",
        (ColumnType.STRING, "real"): (
            f"(CASE WHEN NOT {is_nan(f'CAST({column} AS DOUBLE)')} THEN CAST({column} AS VARCHAR) END)"
        ),
        (ColumnType.STRING, "boolean"): f"CAST({column} AS VARCHAR)",
        (ColumnType.STRING, "text"): f"CAST({column} AS VARCHAR)",
        (ColumnType.STRING, "bytes"): f"TRY(decode({column}))",
        (ColumnType.STRING, "time"): f"CAST({column} AS VARCHAR)",
        (ColumnType.STRING, "zoned"): f"CAST({column} AS VARCHAR)",
        (ColumnType.TIMESTAMP, "time"): f"TRY_CAST({column} AS TIMESTAMP)",
        # In two steps, because nanoseconds with a time zone have no cast to microseconds without one.
        (ColumnType.TIMESTAMP, "zoned"): f"CAST(TRY_CAST({column} AS TIMESTAMPTZ) AS TIMESTAMP)",
        # Through a time zone, because a plain cast drops the offset of 12:00+02:00.
        (ColumnType.TIMESTAMP, "text"): f"CAST(TRY_CAST({column} AS TIMESTAMPTZ) AS TIMESTAMP)",
    }
    return casts.get((kind, family))


def _family(physical: str) -> str:
    if physical in _INTEGERS:
        return "integer"
    if physical in ("FLOAT", "DOUBLE") or (physical.startswith("DECIMAL") and not physical.endswith("]")):
        return "real"
    if physical.endswith("]"):
        return "nested"
    if physical.startswith(_TIMES):
        return "zoned" if "TIME ZONE" in physical or "TIMESTAMPTZ" in physical else "time"
    if physical.startswith("ENUM") or physical == "UUID":
        return "text"
    return {"VARCHAR": "text", "BOOLEAN": "boolean", "BLOB": "bytes"}.get(physical, "nested")

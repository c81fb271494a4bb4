"""SQL databases: rows streamed through a server-side cursor into Parquet files."""

# ruff: noqa: S608 - SQL here is put together from our own text and from names that quote_name() and quote_text() quote.

import datetime
import decimal
import functools
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headway.components.data_validate.contract import ColumnType
from headway.components.errors import HeadwayError, SourceError, did_you_mean
from headway.components.ingest.columns import SQL_TYPES, Relation
from headway.components.ingest.credentials import Secrets
from headway.components.ingest.engine import describe, refuse_duplicates
from headway.components.sql import quote_name, quote_text

_ROWS_AT_ONCE = 20_000
_EXTRAS = {"psycopg": "headway[postgres]", "psycopg2": "headway[postgres]"}
_DRIVER_PACKAGES = {"MySQLdb": "mysqlclient"}
_NO_CREDENTIALS = re.compile(
    r"password|authentication|access denied|login failed|no pg_hba|not authorized|credential", re.IGNORECASE
)
_NUMERIC = ("boolean", "integer", "number")
_PYTHON_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "boolean"),
    (int, "integer"),
    ((float, decimal.Decimal), "number"),
    (datetime.date, "timestamp"),
    ((str, uuid.UUID, datetime.time, datetime.timedelta), "string"),
)


def database_relation(connection: Any, *, url: str, query: str, base: Path, workspace: Path) -> Relation:
    """The rows of a query as a relation, copied into `workspace` in batches.

    Args:
        connection: An open DuckDB connection.
        url: SQLAlchemy URL; `${NAME}` stands for an environment variable.
        query: One SELECT in the database's own SQL.
        base: The folder that the path of an SQLite file is relative to.
        workspace: An existing folder.

    Raises:
        SourceError: The driver, the credentials, the file or the server is missing, or the query is wrong.
    """
    import sqlalchemy as sa

    secrets = Secrets()
    engine = _engine(url, base, secrets)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.connect().execution_options(stream_results=True, max_row_buffer=_ROWS_AT_ONCE) as session:
            result = session.execute(sa.text(query.replace(":", r"\:")))
            if not result.returns_rows:
                raise SourceError(f"{shown}: the query returns no rows", expected="a SELECT")
            names = list(result.keys())
            refuse_duplicates(names, "source.query")
            parts = _write(result, names, workspace)
    except sa.exc.SQLAlchemyError as error:
        raise _database_error(shown, error, secrets) from None
    finally:
        engine.dispose()
    return _union(connection, parts, names)


def _engine(url: str, base: Path, secrets: Secrets) -> Any:
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url if not url.startswith("${") else secrets.expand(url, where="source.database"))
    except sa.exc.ArgumentError:
        raise SourceError(
            f"source.database is not a database URL: {secrets.hide(url)}",
            expected="DIALECT+DRIVER://USER:${PASSWORD}@HOST:PORT/DATABASE",
        ) from None

    # Part by part, after the URL is taken apart: a secret may hold any character without being escaped.
    def expand(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [expand(item) for item in value]
        return None if value is None else secrets.expand(str(value), where="source.database")

    parsed = parsed.set(
        username=expand(parsed.username),
        password=expand(parsed.password),
        host=expand(parsed.host),
        database=expand(parsed.database),
        query={key: expand(value) for key, value in parsed.query.items()},
    )
    if parsed.get_backend_name() == "sqlite":
        parsed = _existing_sqlite(parsed, base)
    try:
        return sa.create_engine(parsed)
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise _missing_driver(parsed, error) from None


def _existing_sqlite(url: Any, base: Path) -> Any:
    # SQLite would make an empty database of a mistyped name.
    name = url.database or ""
    path = base / name
    if name in ("", ":memory:") or path.is_dir():
        raise SourceError(f"source.database names no SQLite file: {url}", expected="sqlite:///path/of/the/file.db")
    if not path.is_file():
        folder = path.parent
        near = did_you_mean(path.name, [entry.name for entry in folder.iterdir()]) if folder.is_dir() else ""
        raise SourceError(f"{path}: no such SQLite file{near}", expected="a database that exists")
    return url.set(database=str(path))


def _missing_driver(url: Any, error: Exception) -> SourceError:
    module = getattr(error, "name", None)
    if isinstance(error, ImportError) and module:
        package = _EXTRAS.get(module) or _DRIVER_PACKAGES.get(module) or module
        return SourceError(
            f"{url.render_as_string(hide_password=True)}: the driver {module!r} is not installed",
            fix=f"pip install '{package}'",
        )
    known = ["postgresql+psycopg", "mysql+pymysql", "mssql+pyodbc", "oracle+oracledb", "sqlite"]
    return SourceError(
        f"{url.render_as_string(hide_password=True)}: SQLAlchemy knows no database {url.drivername!r}"
        f"{did_you_mean(url.drivername, [*known, 'postgresql', 'mysql'])}",
        expected=f"a URL that starts like {', '.join(known)}",
        fix="install the package that brings the dialect",
    )


def _database_error(shown: str, error: Any, secrets: Secrets) -> HeadwayError:
    import sqlalchemy as sa

    reason = secrets.hide(str(getattr(error, "orig", None) or error).strip().splitlines()[0])
    if isinstance(error, sa.exc.OperationalError) and _NO_CREDENTIALS.search(reason):
        return SourceError(
            f"{shown}: the database refuses these credentials ({reason})",
            expected="a user who may read the tables of the query",
            fix="put the password into the environment and write `${NAME}` in its place in `database`",
        )
    if isinstance(error, sa.exc.OperationalError) and error.statement is None:
        return SourceError(f"{shown}: no connection ({reason})", expected="a server that answers")
    return SourceError(f"{shown}: the query failed: {reason}", expected="one SELECT in this database's SQL")


@dataclass(frozen=True, slots=True)
class _Part:
    """One Parquet file of rows, and the kind of each of its columns."""

    path: Path
    kinds: tuple[str, ...]


def _write(result: Any, names: Sequence[str], workspace: Path) -> list[_Part]:
    """Write batches of rows; a new file starts where a column turns out to be wider, as SQLite's types may."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = workspace / f"rows-{sum(1 for _ in workspace.iterdir())}"
    folder.mkdir()
    parts: list[_Part] = []
    writer = None
    try:
        rows = result.fetchmany(_ROWS_AT_ONCE)
        while rows or not parts:
            columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
            found = [kind_of(name, values) for name, values in zip(names, columns, strict=True)]
            before = parts[-1].kinds if parts else tuple(found)
            kinds = tuple(_wider(old, new) for old, new in zip(before, found, strict=True))
            if writer is None or kinds != before:
                if writer is not None:
                    writer.close()
                parts.append(_Part(folder / f"{len(parts):05d}.parquet", kinds))
                schema = pa.schema([(name, _arrow_type(kind)) for name, kind in zip(names, kinds, strict=True)])
                writer = pq.ParquetWriter(parts[-1].path, schema, compression="snappy")
            arrays = [
                pa.array([plain(value, kind) for value in values], type=_arrow_type(kind))
                for values, kind in zip(columns, kinds, strict=True)
            ]
            writer.write_table(pa.table(arrays, schema=writer.schema))
            rows = result.fetchmany(_ROWS_AT_ONCE)
    finally:
        if writer is not None:
            writer.close()
    return parts


def kind_of(name: str, values: Iterable[Any]) -> str:
    """The narrowest kind that holds all values of a column: null, boolean, integer, number, timestamp or string.

    Raises:
        SourceError: A value is of no such kind.
    """
    return functools.reduce(_wider, {_kind(name, value) for value in values}, "null")


def _wider(one: str, other: str) -> str:
    """The narrowest kind that holds the values of both."""
    if other in (one, "null"):
        return one
    if one == "null":
        return other
    if one in _NUMERIC and other in _NUMERIC:
        return max(one, other, key=_NUMERIC.index)
    return "string"


def _kind(name: str, value: Any) -> str:
    for types, kind in _PYTHON_KINDS:
        if isinstance(value, types):
            too_large = isinstance(value, int) and not -(2**63) <= value < 2**63
            return "number" if too_large else kind
    raise SourceError(
        f"source.query: column {name!r} holds a {type(value).__name__}",
        expected="numbers, texts, booleans or times, one value a cell",
        fix="cast or leave out the column in the query",
    )


def plain(value: Any, kind: str) -> Any:
    """A value as the Python type that Arrow takes for the kind."""
    if value is None:
        return None
    if kind == "timestamp":
        return _utc(value)
    convert: dict[str, Callable[[Any], Any]] = {"boolean": bool, "integer": int, "number": float, "string": str}
    return convert[kind](value)


def _utc(value: datetime.date) -> datetime.datetime:
    if not isinstance(value, datetime.datetime):
        return datetime.datetime.combine(value, datetime.time())
    return value if value.tzinfo is None else value.astimezone(datetime.UTC).replace(tzinfo=None)


def _arrow_type(kind: str) -> Any:
    import pyarrow as pa

    types = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "timestamp": pa.timestamp("us")}
    return types.get(kind, pa.string())


def _union(connection: Any, parts: Sequence[_Part], names: Sequence[str]) -> Relation:
    """The files as one relation whose columns have the types of the last, which are the widest."""
    last = parts[-1].kinds
    types = [SQL_TYPES[ColumnType("string" if kind == "null" else kind)] for kind in last]
    columns = [quote_name(name) for name in names]
    items = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in zip(columns, types, strict=True))
    sql = "(" + " UNION ALL ".join(f"SELECT {items} FROM {quote_text(str(part.path))}" for part in parts) + ")"
    return Relation(sql, describe(connection, sql))

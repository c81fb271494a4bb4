"""The query engine: DuckDB with bounded memory, spilling to a folder, and nothing fetched from the network."""

# ruff: noqa: S608 - SQL here is put together from our own text and from names that quote_name() and quote_text() quote.

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headway.components.errors import SourceError
from headway.components.sql import quote_text, settle

MEMORY = "1GiB"
"""What DuckDB may hold in memory before it spills to disk."""


def connect(workspace: Path, *, memory: str = MEMORY) -> Any:
    """Open an in-memory DuckDB that spills into `workspace`.

    Args:
        workspace: An existing folder; whoever made it removes it.
        memory: DuckDB's limit, such as `512MiB`.
    """
    import duckdb

    from headway.components.data_validate.table import available_cores

    settings = {
        "memory_limit": memory,
        "temp_directory": str(workspace / "spill"),
        # An extension from the network would be code that nobody reviewed, and fails behind a firewall.
        "autoinstall_known_extensions": "false",
        "threads": str(min(available_cores(), 8)),
    }
    connection = duckdb.connect(":memory:", config=settings)
    settle(connection)
    return connection


@contextmanager
def memory_errors(label: str) -> Iterator[None]:
    """Turn the engine's lack of memory or disk into an error that says what to do.

    Args:
        label: What is being read.

    Raises:
        SourceError: In the place of DuckDB's error.
    """
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise SourceError(
            f"{label}: needs more memory or temporary disk space than there is ({str(error).splitlines()[0]})",
            fix="give the step more memory and disk, or select fewer columns",
        ) from None


def confine(connection: Any, folder: Path) -> None:
    """Keep later queries inside `folder`: they can read the tables that their source declares, and no other file."""
    connection.execute(f"SET allowed_directories = [{quote_text(str(folder))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def describe(connection: Any, relation: str) -> list[tuple[str, str]]:
    """Name and DuckDB type of each column that `SELECT * FROM relation` gives."""
    return [(row[0], row[1]) for row in connection.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()]


def copy(connection: Any, query: str, path: Path, *, columns: int) -> None:
    """Write what a query gives to a Parquet file, streaming, in the query's order."""
    options = f"FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE {row_group(columns)}"
    connection.execute(f"COPY ({query}) TO {quote_text(str(path))} ({options})")


def row_group(columns: int) -> int:
    """Rows in a row group: 131,072, and fewer the wider the table is, so that one group stays near 4 million cells.

    Example:
        >>> row_group(20), row_group(1_000)
        (131072, 4096)
    """
    return max(2_048, min(131_072, 1 << (4_194_304 // max(columns, 1)).bit_length() - 1))


def refuse_duplicates(names: Iterable[str], where: str) -> None:
    """Refuse column names that differ in nothing or only in capitals: SQL and data frames mix them up.

    Raises:
        SourceError: Names the columns; or a column has no name.
    """
    seen: dict[str, tuple[int, str]] = {}
    for position, name in enumerate(names, start=1):
        if not name.strip():
            raise SourceError(
                f"{where}: column {position} has no name",
                expected="a name for each column",
                fix="name it, or write the file without its index (pandas: `to_csv(..., index=False)`)",
            )
        folded = name.casefold()
        if folded in seen:
            first, other = seen[folded]
            raise SourceError(
                f"{where}: columns {first} and {position} are both called {name!r}"
                if other == name
                else f"{where}: columns {other!r} and {name!r} differ only in capital letters",
                expected="column names that are distinct whatever their capitals",
                fix="rename one of them, in the file or with `AS` in the query",
            )
        seen[folded] = (position, name)

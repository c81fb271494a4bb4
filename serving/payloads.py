"""The payload log: what was asked and answered, a row for each prediction, in Parquet files that readers find by time.

    <home>/payloads/<endpoint>/<variant>/<UTC time>-<pid>-<n>.parquet
    <home>/payloads/<endpoint>/<variant>/<UTC hour>-hour.parquet

A server writes a file under a name that starts with a dot and renames it, so a reader sees whole files only. The time
in a name is when the file was written: no row in it is younger, so a reader of the last hour opens no older file. The
columns carry the attribute names of KServe's logger events, so that both platforms fill one log.

Readers use DuckDB over only the columns and files that are asked for, spill to disk beyond a memory limit, and read a
log of any size. A file costs about as much as a thousand rows, so `headway.serving.compaction` merges the files of each
hour into one; where there is one, readers leave out the files that it took in.
"""

# ruff: noqa: S608 - the SQL here is our own text and quoted file names

import contextlib
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from headway.components.errors import MeasurementError, RefusedNameError, UnknownNameError
from headway.components.settings import Settings
from headway.components.sql import quote_name, quote_texts

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # the request's id; for a batch of more than one row ID-0, ID-1, …
        ("time", pa.timestamp("us", tz="UTC")),
        ("type", pa.string()),
        ("source", pa.string()),
        ("inferenceservicename", pa.string()),  # the endpoint
        ("namespace", pa.string()),
        ("component", pa.string()),
        ("endpoint", pa.string()),  # the variant: what KServe's logger calls endpoint
        ("version", pa.int64()),
        ("digest", pa.string()),
        ("user", pa.string()),  # null where the request named none
        ("mirrored", pa.bool_()),  # a copy whose answer nobody saw
        ("code", pa.int32()),
        ("latency_ms", pa.float64()),
        ("prediction", pa.string()),  # a JSON scalar; null where there is no answer
        ("score", pa.float64()),  # second class's probability, multiclass the class's number, regression the value
        ("probability", pa.float64()),  # of the second class (binary) or of the predicted one; null where there is none
        ("features", pa.string()),  # a JSON object of the checked features; null for refused requests
    ]
)
"""The columns, in order."""
EVENT_TYPE = "org.kubeflow.serving.inference.response"
"""What stands in the column `type`."""

MEMORY = "512MiB"
"""What a reader may hold before it spills to disk."""

_NAME_TIME = "%Y%m%dT%H%M%S.%fZ"
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-\d+-\d+\.parquet")
_HOUR_TIME = "%Y%m%dT%H"
_HOUR = re.compile(r"(\d{8}T\d{2})-hour\.parquet")
_ENDPOINT = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_CLOCK_SLACK = timedelta(seconds=60)
"""A clock that was set back while a server ran may have put younger rows into an older file."""
_ABANDONED = timedelta(hours=1)
"""A hidden file that old belongs to a writer that died."""
_ATTEMPTS = 3
"""A file may be pruned between being listed and being opened."""
_BATCH_ROWS = 8_192

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pruned:
    """What was removed."""

    files: int
    bytes: int


def folder(settings: Settings) -> Path:
    """Where the payload log of this installation lies, whether or not it exists yet."""
    return settings.home.expanduser().resolve() / "payloads"


def file_name(written: datetime, pid: int, number: int) -> str:
    """The name of a file.

    Args:
        written: When it is written, after its last row, with a time zone.
        pid: The writer's process.
        number: Counts the writer's files.

    Example:
        >>> file_name(datetime(2026, 11, 25, 15, 33, 1, tzinfo=UTC), 4711, 3)
        '20261125T153301.000000Z-4711-3.parquet'
    """
    return f"{written.astimezone(UTC).strftime(_NAME_TIME)}-{pid}-{number}.parquet"


def files(
    settings: Settings, endpoint: str, *, since: datetime | None = None, variant: str | None = None
) -> list[Path]:
    """The files of an endpoint that may hold rows since a moment, in the order in which they were written.

    A name without a time is never left out. A folder that does not exist holds no files.

    Raises:
        RefusedNameError: The endpoint's or the variant's name is none.
    """
    root = folder(settings) / _checked(endpoint)
    bound = None if since is None else _utc(since) - _CLOCK_SLACK
    pattern = f"{_checked(variant) if variant else '*'}/*.parquet"
    found = [path for path in root.glob(pattern) if not path.name.startswith(".")]
    merged = {hour_file(path) for path in found if _HOUR.fullmatch(path.name)}
    whole = [path for path in found if path in merged or hour_file(path) not in merged]
    kept = [path for path in whole if bound is None or (written(path) or bound) >= bound]
    return sorted(kept, key=lambda path: (path.name, path.parent.name))


def written(path: Path) -> datetime | None:
    """When a file was written at the latest, by its name; None where the name says nothing."""
    if match := _NAME.fullmatch(path.name):
        return datetime.strptime(match[1], _NAME_TIME).replace(tzinfo=UTC)
    if match := _HOUR.fullmatch(path.name):
        return datetime.strptime(match[1], _HOUR_TIME).replace(tzinfo=UTC) + timedelta(hours=1)
    return None


def hour_file(path: Path) -> Path | None:
    """The file into which the files of a file's hour are merged, whether or not it exists; None for a foreign name."""
    if _HOUR.fullmatch(path.name):
        return path
    made = written(path)
    return path.with_name(f"{made.strftime(_HOUR_TIME)}-hour.parquet") if made else None


def rows(
    settings: Settings,
    endpoint: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of an endpoint, in no particular order.

    Args:
        settings: The installation.
        endpoint: Its name.
        since: Only rows from this moment on; a time without a zone is UTC.
        until: Only rows before this moment.
        columns: Only these columns, in this order; all of them by default.

    Returns:
        A table of these columns of `SCHEMA`; empty where there is no log.

    Raises:
        UnknownNameError: There is no such column.
        MeasurementError: A file cannot be read.
    """
    schema = _subset(columns)

    def read(connection: Any, log: str) -> pa.Table:
        return connection.sql(f"SELECT {_list(schema.names)} FROM {log}").to_arrow_table().cast(schema)

    return query(settings, endpoint, read, since=since, until=until)


def users(settings: Settings, endpoint: str, since: datetime, *, until: datetime | None = None) -> dict[str, int]:
    """Distinct users by variant between two moments.

    Copies of requests, and requests that name no user, count for none. Servers write their rows now and then, each at
    its own time: of the last seconds the log of one may hold more than that of another.
    """

    def read(connection: Any, log: str) -> dict[str, int]:
        found = connection.execute(
            f"""SELECT endpoint, count(DISTINCT "user") FROM {log}
            WHERE NOT mirrored AND "user" IS NOT NULL GROUP BY endpoint ORDER BY endpoint"""
        )
        return dict(found.fetchall())

    return query(settings, endpoint, read, since=since, until=until)


def stream(
    settings: Settings,
    endpoint: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The rows that clients caused, without their copies, in the order of their time: recorded traffic to replay.

    Args:
        settings: The installation.
        endpoint: Its name.
        since: Only rows from this moment on.
        until: Only rows before this moment.
        columns: Only these columns; all of them by default.

    Yields:
        A mapping from column to value for each row. Sorted on disk where the log is larger than memory.

    Raises:
        UnknownNameError: There is no such column.
        MeasurementError: A file cannot be read.
    """
    schema = _subset(columns)
    with tempfile.TemporaryDirectory(prefix="headway-") as workspace, readable(endpoint):
        connection = _connect(Path(workspace), settings, endpoint, since, until)
        with contextlib.closing(connection):
            found = connection.sql(f"SELECT {_list(schema.names)} FROM log WHERE NOT mirrored ORDER BY time, id")
            for batch in found.to_arrow_reader(_BATCH_ROWS):
                yield from batch.cast(schema).to_pylist()


def query(
    settings: Settings,
    endpoint: str,
    read: Callable[[Any, str], Answer],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    tables: Mapping[str, pa.Table] | None = None,
) -> Answer:
    """Ask something of an endpoint's log in SQL.

    Args:
        settings: The installation.
        endpoint: Its name.
        read: Gets a DuckDB connection and the name of the view with the rows asked for; called again from the start
            when files were pruned under it.
        since: Only rows from this moment on.
        until: Only rows before this moment.
        tables: Arrow tables to join with, by the name that the SQL gives them.

    Raises:
        MeasurementError: A file cannot be read.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="headway-") as workspace, readable(endpoint):
        for attempt in itertools.count(1):
            with contextlib.closing(_connect(Path(workspace), settings, endpoint, since, until)) as connection:
                for name, table in (tables or {}).items():
                    connection.register(name, table)
                try:
                    return read(connection, "log")
                except duckdb.IOException:
                    if attempt == _ATTEMPTS:
                        raise
    raise AssertionError("the loop only ends by returning or raising")


def prune(settings: Settings, older_than: timedelta, *, now: datetime | None = None) -> Pruned:
    """Remove the files of all endpoints that were written longer ago, and what dead writers left behind.

    Args:
        settings: The installation.
        older_than: How far the log reaches back.
        now: The present, by default the clock's.
    """
    now = now or datetime.now(UTC)
    count = freed = 0
    for path in folder(settings).glob("*/*/*"):
        limit = _ABANDONED if path.name.startswith(".") else older_than
        with contextlib.suppress(FileNotFoundError):  # somebody else prunes too, or a writer just renamed it
            status = path.stat()
            made = written(path) or datetime.fromtimestamp(status.st_mtime, UTC)
            if made < now - limit:
                path.unlink()
                count, freed = count + 1, freed + status.st_size
    return Pruned(files=count, bytes=freed)


def _connect(workspace: Path, settings: Settings, endpoint: str, since: datetime | None, until: datetime | None) -> Any:
    """A DuckDB connection with the view `log` over the rows asked for."""
    from headway.components.ingest.engine import connect

    connection = connect(workspace, memory=MEMORY)
    found = files(settings, endpoint, since=since)
    if found:
        source = f"read_parquet({quote_texts(str(path) for path in found)}, hive_partitioning = false)"
    else:
        connection.register("nothing", SCHEMA.empty_table())
        source = "nothing"
    bounds = [
        f"time {sign} TIMESTAMPTZ '{_utc(moment).isoformat()}'"
        for sign, moment in ((">=", since), ("<", until))
        if moment is not None
    ]
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    with readable(endpoint):
        connection.execute(f"CREATE VIEW log AS SELECT * FROM {source}{where}")
    return connection


@contextlib.contextmanager
def readable(endpoint: str) -> Iterator[None]:
    """Turn DuckDB's errors into ours.

    Raises:
        MeasurementError: A file of the log is damaged or gone.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        raise MeasurementError(
            f"The payload log of {endpoint!r} cannot be read: {str(error).splitlines()[0]}",
            fix="move the file that it names out of the log; the other files stay readable",
        ) from None


def _subset(columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return SCHEMA
    for column in columns:
        if column not in SCHEMA.names:
            raise UnknownNameError("column of the payload log", column, SCHEMA.names)
    return pa.schema([SCHEMA.field(column) for column in columns])


def _list(names: Sequence[str]) -> str:
    return ", ".join(quote_name(name) for name in names)


def _checked(name: str) -> str:
    if not _ENDPOINT.fullmatch(name):
        raise RefusedNameError(f"Refused name {name!r}", expected="lower-case letters, digits and hyphens")
    return name


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)

"""What became of predictions and users: labels and other outcomes that come later, joined to what caused them.

    outcomes    seq, scope, metric, unit, subject, event, value, number, time, latest, seen

An outcome belongs to a prediction (by its id) or to a user, at an endpoint or in an experiment. `label` holds the truth
of a prediction; every other metric is a number. The rows lie in the ledger's database, on SQLite or PostgreSQL.

Recording twice is recording once: the key is the scope, the metric, the prediction or user, and the event's id where
there can be several. Of two values under one key that of the later `time` counts, in whatever order they arrive, so a
correction is just recorded; two values with one time contradict each other, and the second is refused.
"""

import contextlib
import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headway.components.errors import UsageError
from headway.components.register.ledger import create_once, make_engine, reachable
from headway.components.settings import Settings
from headway.serving.experiment.outcome import (
    KEY,
    MAX_TEXT,
    Key,
    Outcome,
    Recorded,
    Row,
    key_of,
    microseconds,
    moment,
    row_of,
    settle,
)

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

_SCOPE = re.compile(r"(experiment/)?[A-Za-z][A-Za-z0-9_.-]{0,62}")
_SLACK_US = 60_000_000
"""Clocks of the machine that predicted and of the one that recorded may differ by a minute."""
_BATCH = 10_000
_FETCH = 50_000
_LOCK_CLASS = 471_200
"""Keeps these advisory locks apart from those of other programs in the same PostgreSQL database."""
_ARROW = pa.schema(
    [
        ("unit", pa.string()),
        ("subject", pa.string()),
        ("value", pa.string()),
        ("number", pa.float64()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("latest", pa.timestamp("us", tz="UTC")),
    ]
)


class Outcomes:
    """The outcomes of an installation.

    Args:
        settings: Names the database.

    Raises:
        PlatformError: The database cannot be reached.
    """

    def __init__(self, settings: Settings) -> None:
        self._engine = make_engine(settings.resolved_database_url)
        self._table = _table()
        with reachable(self._engine):
            create_once(self._engine, self._table)

    def record(self, scope: str, outcome: Outcome, *, now: datetime | None = None) -> Recorded:
        """Record one outcome; see `record_many`."""
        return self.record_many(scope, [outcome], now=now)

    def record_many(self, scope: str, outcomes: Iterable[Outcome], *, now: datetime | None = None) -> Recorded:
        """Record outcomes, each once however often it comes.

        Args:
            scope: Where they belong: an endpoint's name, or `experiment/NAME`.
            outcomes: Any number of them, in any order; they are stored ten thousand at a time, each lot whole.
            now: The present, by default the clock's.

        Returns:
            How many were new, known, corrections, or overtaken by a correction.

        Raises:
            ExperimentError: One of them is no outcome, or contradicts another of the same time; its lot is not
                stored, and those before are. Recording all again is safe.
        """
        if not _SCOPE.fullmatch(scope):
            raise UsageError(f"Refused name {scope!r}", expected="an endpoint's name, or experiment/NAME")
        now = now or datetime.now(UTC)
        total = Recorded()
        numbered = enumerate(outcomes, start=1)
        while batch := list(itertools.islice(numbered, _BATCH)):
            rows = [row_of(scope, outcome, now, number) for number, outcome in batch]
            total += self._store(scope, rows)
        return total

    def fetch(self, scope: str, metric: str, *, since: datetime | None = None, after: int = 0) -> tuple[pa.Table, int]:
        """Outcomes of one metric.

        Args:
            scope: Where they belong.
            metric: The metric.
            since: Only those that happened or were recorded from this moment on.
            after: Only those that were stored after this number.

        Returns:
            A table of the columns `unit`, `subject`, `value` (JSON), `number`, `time` (when it first happened) and
            `latest` (when it last did), and the last one's number.
        """
        from sqlalchemy import select

        table = self._table
        columns = [table.c[name] for name in (*_ARROW.names, "seq")]
        query = select(*columns).where(*self._which(scope, metric, since), table.c.seq > after)
        batches: list[pa.RecordBatch] = []
        last = after
        with self._reading() as connection:
            found = connection.execute(query.execution_options(yield_per=_FETCH))
            for rows in found.partitions():
                *values, numbers = zip(*rows, strict=True)
                arrays = [pa.array(column) for column in values]
                batches.append(pa.RecordBatch.from_arrays(_cast(arrays), schema=_ARROW))
                last = max(last, *numbers)
        return pa.Table.from_batches(batches, schema=_ARROW), last

    def count(self, scope: str, metric: str, *, since: datetime | None = None) -> int:
        """How many outcomes `fetch` gives."""
        from sqlalchemy import func, select

        query = select(func.count()).select_from(self._table).where(*self._which(scope, metric, since))
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())

    def summary(self, scope: str) -> list[dict[str, Any]]:
        """For each metric and unit of a scope: how many outcomes there are, and when the first and last happened."""
        from sqlalchemy import func, select

        table = self._table
        query = (
            select(
                table.c.metric,
                table.c.unit,
                func.count().label("outcomes"),
                func.avg(table.c.number).label("mean"),
                func.min(table.c.time).label("first"),
                func.max(table.c.time).label("last"),
            )
            .where(table.c.scope == scope)
            .group_by(table.c.metric, table.c.unit)
            .order_by(table.c.metric, table.c.unit)
        )
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return [{**row, "first": moment(row["first"]), "last": moment(row["last"])} for row in rows]

    def scopes(self) -> list[str]:
        """All scopes that have outcomes."""
        from sqlalchemy import select

        with self._reading() as connection:
            query = select(self._table.c.scope).distinct().order_by(self._table.c.scope)
            return list(connection.execute(query).scalars())

    @contextlib.contextmanager
    def _reading(self) -> "Iterator[Connection]":
        with reachable(self._engine), self._engine.connect().execution_options(headway_read_only=True) as connection:
            yield connection

    def _which(self, scope: str, metric: str, since: datetime | None) -> "list[ColumnElement[bool]]":
        table = self._table
        where = [table.c.scope == scope, table.c.metric == metric]
        return where if since is None else [*where, table.c.seen >= microseconds(since) - _SLACK_US]

    def _store(self, scope: str, rows: Sequence[Row]) -> Recorded:
        from sqlalchemy import bindparam, delete, func, insert, select

        table = self._table
        with reachable(self._engine), self._engine.begin() as connection:
            # SQLite has the file's lock from BEGIN IMMEDIATE on.
            if self._engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK_CLASS, func.hashtext(scope))))
            known = self._known(connection, scope, rows)
            added, changed, found = settle(rows, known)
            if changed:
                keys = [table.c[name] == bindparam(f"key_{name}") for name in KEY]
                connection.execute(delete(table).where(*keys), [_bound(row) for row in changed])
            if added or changed:
                connection.execute(insert(table), added + changed)
        return found

    def _known(self, connection: "Connection", scope: str, rows: Sequence[Row]) -> dict[Key, Row]:
        from sqlalchemy import select

        table = self._table
        # Each column of the index is named, or the database would walk through all outcomes of the metric.
        wanted = [table.c[name].in_({row[name] for row in rows}) for name in ("metric", "unit", "subject")]
        columns = [column for column in table.c if column.name != "seq"]
        query = select(*columns).where(table.c.scope == scope, *wanted)
        return {key_of(row): dict(row) for row in connection.execute(query).mappings()}


class Followed:
    """Outcomes of one metric since a moment, kept at hand: each look reads only what came since the last.

    Args:
        store: Where they lie.
        scope: Where they belong.
        metric: The metric.
        since: Only those that happened or were recorded from this moment on.
    """

    def __init__(self, store: Outcomes, scope: str, metric: str, since: datetime) -> None:
        self._store = store
        self._which = scope, metric
        self._since = since
        self._table = _ARROW.empty_table()
        self._last = 0
        self._lock = threading.Lock()

    def table(self) -> pa.Table:
        """The outcomes as they are now; columns as `Outcomes.fetch` gives them."""
        with self._lock:
            added, self._last = self._store.fetch(*self._which, since=self._since, after=self._last)
            if added.num_rows:
                self._table = pa.concat_tables([self._table, added])
            # A correction comes as a new row; the one that it took the place of is still in our table.
            if self._store.count(*self._which, since=self._since) < self._table.num_rows:
                self._table, self._last = self._store.fetch(*self._which, since=self._since)
            return self._table


def _bound(row: Row) -> dict[str, str]:
    return {f"key_{name}": row[name] for name in KEY}


def _cast(arrays: list[pa.Array]) -> list[pa.Array]:
    return [array.cast(field.type) for array, field in zip(arrays, _ARROW, strict=True)]


def _table() -> "Table":
    from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

    return Table(
        "outcomes",
        MetaData(),
        # Numbers are never used again: whoever has read up to one number finds every later change above it.
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("scope", String(80), nullable=False),
        Column("metric", String(63), nullable=False),
        Column("unit", String(10), nullable=False),
        Column("subject", String(MAX_TEXT), nullable=False),
        Column("event", String(MAX_TEXT), nullable=False),
        Column("value", Text, nullable=False),
        Column("number", Double),
        Column("time", BigInteger, nullable=False),
        Column("latest", BigInteger, nullable=False),
        Column("seen", BigInteger, nullable=False),
        UniqueConstraint(*KEY),
        Index("outcomes_seen", "scope", "metric", "seen"),
        Index("outcomes_seq", "scope", "metric", "seq"),
        sqlite_autoincrement=True,
    )

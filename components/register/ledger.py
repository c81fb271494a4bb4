"""The ledger: what happened to every model, in rows that are only ever added and that hang together by their hashes.

    ledger            seq, time, kind, model, version, actor, body, previous, hash
    ledger_head       the last row's seq and hash, and the schema's version: one row, the lock of every append

Each row's hash covers its own content and the hash of the row before. A changed, removed, inserted or moved row breaks
the chain; a row cut off the end disagrees with the head. Whoever can rewrite the whole database can still forge a whole
chain: keep the head that `headway ledger verify` prints somewhere else, and give it back with `--head`.

The same tables on SQLite and PostgreSQL. Triggers refuse UPDATE and DELETE.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from headway.components.errors import LedgerError, PlatformError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

SCHEMA_VERSION = 1
GENESIS = "0" * 64
"""What stands before the first row."""
MAX_BODY_BYTES = 100_000
BUSY_SECONDS = 60
"""How long a writer waits for another one before it gives up."""

_KIND = re.compile(r"[a-z][a-z_]{0,39}")
_SECRET_KEY = re.compile(r"passw|secret|token|credential|cookie|authorization|api_?key|private_?key", re.IGNORECASE)
_SECRET_IN_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]*(?=@)")
_MASK = "***"


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One row."""

    seq: int
    """1, 2, 3, … without a gap."""
    time: str
    """UTC, ISO 8601 with microseconds."""
    kind: str
    model: str
    version: str
    """The version's number in the registry; empty where the row is about none."""
    actor: str
    body: dict[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class LedgerCheck:
    """Whether the chain is whole."""

    ok: bool
    rows: int
    head: str
    """The last row's hash: the anchor to keep elsewhere."""
    broken_seq: int | None = None
    """The first row at which the chain breaks."""
    reason: str = ""


class Ledger:
    """The ledger in one database.

    Args:
        url: A SQLAlchemy URL of SQLite or PostgreSQL; tables and triggers are made on first use.

    Raises:
        LedgerError: A newer release wrote this ledger, or the database is of another kind.
        PlatformError: The database cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        self._rows, self._head = _tables()
        with reachable(self.engine):
            self._prepare()

    def append(
        self,
        kind: str,
        *,
        model: str = "",
        version: str | int = "",
        actor: str,
        body: Mapping[str, Any] | None = None,
        connection: "Connection | None" = None,
    ) -> LedgerRow:
        """Add one row at the end; concurrent callers wait for each other.

        Args:
            kind: What happened: `registered`, `promoted`, `rolled_back`, `run`, …
            model: The model's name, where the row is about one.
            version: The version's number, where the row is about one.
            actor: Who did it: a person, or the run that acted.
            body: The facts, as JSON values. What looks like a secret is masked.
            connection: A transaction to be part of (`transaction`); a new one by default.

        Raises:
            LedgerError: The kind is no word, or the body is not JSON or too large.
        """
        if not _KIND.fullmatch(kind):
            raise LedgerError(
                f"Refused ledger kind {kind!r}", expected="lower-case letters and `_`, such as `promoted`"
            )
        text = _canonical(without_secrets(dict(body or {})))
        if len(text.encode()) > MAX_BODY_BYTES:
            raise LedgerError(
                f"A ledger row of kind {kind!r} is too large", expected=f"at most {MAX_BODY_BYTES:,} bytes"
            )
        values = {
            "kind": kind,
            "model": model,
            "version": str(version),
            "actor": without_secrets(actor),
            "body": text,
        }
        if connection is not None:
            return self._append(connection, values)
        with self.transaction() as own:
            return self._append(own, values)

    @contextlib.contextmanager
    def transaction(self) -> "Iterator[Connection]":
        """One transaction that holds the ledger's lock from the start: nobody else appends until it ends."""
        from sqlalchemy import select

        with reachable(self.engine), self.engine.begin() as connection:
            # SQLite locked the file at BEGIN IMMEDIATE; PostgreSQL locks this one row.
            connection.execute(select(self._head.c.id).with_for_update())
            yield connection

    def rows(
        self,
        *,
        model: str | None = None,
        kind: str | None = None,
        limit: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        connection: "Connection | None" = None,
    ) -> list[LedgerRow]:
        """Rows in their order, the newest last.

        Args:
            model: Only this model's.
            kind: Only this kind.
            limit: Only the newest so many.
            since: Only from this moment on; a time without a zone is UTC.
            until: Only up to this moment.
            connection: A transaction to read in; a new one by default.
        """
        from sqlalchemy import select

        table = self._rows
        query = select(table).order_by(table.c.seq.desc())
        for condition, value in (
            (table.c.model == model, model),
            (table.c.kind == kind, kind),
            (table.c.time >= _stamp(since), since),
            (table.c.time <= _stamp(until), until),
        ):
            query = query if value is None else query.where(condition)
        query = query if limit is None else query.limit(limit)
        with reachable(self.engine):
            if connection is not None:
                found = connection.execute(query).mappings().all()
            else:
                with self._reading() as own:
                    found = own.execute(query).mappings().all()
        return [LedgerRow(**{**row, "body": json.loads(row["body"])}) for row in reversed(found)]

    def verify(self, *, head: str | None = None) -> LedgerCheck:
        """Walk the whole chain.

        Args:
            head: A hash that an earlier check printed; it must still be in the chain.

        Returns:
            Whether it is whole, and if not, the first row that is wrong and how. Rows stream: memory stays small.
        """
        from sqlalchemy import select

        with reachable(self.engine), self._reading() as connection:
            stored = connection.execute(select(self._head)).mappings().one()
            rows = connection.execute(select(self._rows).order_by(self._rows.c.seq).execution_options(yield_per=1000))
            return _walk((dict(row) for row in rows.mappings()), dict(stored), head)

    @contextlib.contextmanager
    def _reading(self) -> "Iterator[Connection]":
        with self.engine.connect().execution_options(headway_read_only=True) as connection:
            yield connection

    def _append(self, connection: "Connection", values: dict[str, str]) -> LedgerRow:
        from sqlalchemy import insert, select, update

        head = connection.execute(select(self._head).with_for_update()).mappings().one()
        row = {"seq": head["seq"] + 1, "time": _stamp(datetime.now(UTC)), **values, "previous": head["hash"]}
        row["hash"] = row_hash(row)
        connection.execute(insert(self._rows).values(**row))
        connection.execute(update(self._head).values(seq=row["seq"], hash=row["hash"]))
        return LedgerRow(**{**row, "body": json.loads(row["body"])})

    def _prepare(self) -> None:
        from sqlalchemy import select

        create_once(self.engine, self._head, self._fill)
        with self._reading() as connection:
            found = connection.execute(select(self._head.c.schema_version)).scalar_one()
        if found > SCHEMA_VERSION:
            raise LedgerError(
                f"The ledger has schema version {found}; this release knows up to {SCHEMA_VERSION}",
                fix="use the newer release that wrote it: an older one could break its chain",
            )

    def _fill(self, connection: "Connection") -> None:
        from sqlalchemy import insert, text

        first = {"id": 1, "schema_version": SCHEMA_VERSION, "seq": 0, "hash": GENESIS}
        connection.execute(insert(self._head).values(**first))
        for statement in _TRIGGERS[self.engine.dialect.name]:
            connection.execute(text(statement))


def create_once(engine: "Engine", table: "Table", fill: "Callable[[Connection], None] | None" = None) -> None:
    """Make a table and those of its metadata, unless they exist; programs that start together wait for one another.

    Args:
        engine: The database.
        table: The table to look for.
        fill: What to do in the same transaction once the tables are made.
    """
    from sqlalchemy import func, inspect, select

    if inspect(engine).has_table(table.name):
        return
    with engine.begin() as connection:
        # SQLite has the file's lock from BEGIN IMMEDIATE on.
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_CREATION_LOCK)))
        if inspect(connection).has_table(table.name):
            return
        table.metadata.create_all(connection)
        if fill is not None:
            fill(connection)


def make_engine(url: str) -> "Engine":
    """An engine whose transactions lock before they read, so that what they read is still true when they write.

    Raises:
        LedgerError: The database is neither SQLite nor PostgreSQL, or its driver is missing.
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    from sqlalchemy.pool import NullPool

    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except ArgumentError:
        raise LedgerError("The ledger's database URL is not a URL", expected=_EXPECTED_URL) from None
    if kind not in _TRIGGERS:
        raise LedgerError(f"The ledger cannot live in a {kind!r} database", expected=_EXPECTED_URL)
    try:
        if kind == "postgresql":
            return create_engine(parsed, pool_pre_ping=True, isolation_level="READ COMMITTED")
        _make_folder(parsed.database)
        engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise LedgerError(
            f"The ledger's database driver is missing: {error}", fix="pip install 'headway[postgres]'"
        ) from None
    # The driver must not begin transactions on its own: `BEGIN IMMEDIATE` takes the write lock before anything is read.
    event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(engine, "begin", _begin)
    return engine


def without_secrets(value: Any) -> Any:
    """The value with everything masked that looks like a secret: by its key, or as credentials in a URL.

    Example:
        >>> without_secrets({"api_key": "x", "url": "postgresql://me:pw@host/db"})
        {'api_key': '***', 'url': 'postgresql://***@host/db'}
    """
    if isinstance(value, Mapping):
        return {
            str(key): _MASK if _SECRET_KEY.search(str(key)) and isinstance(item, str) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(item) for item in value]
    return _SECRET_IN_URL.sub(_MASK, value) if isinstance(value, str) else value


def row_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's content and of the hash before it, over one canonical JSON list."""
    content = [row[name] for name in ("seq", "time", "kind", "model", "version", "actor", "body", "previous")]
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


_CREATION_LOCK = 4_711_004_711
_EXPECTED_URL = "sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE"
_TRIGGERS = {
    "sqlite": [
        f"CREATE TRIGGER ledger_no_{action.lower()} BEFORE {action} ON ledger "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
        for action in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
        "CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()",
    ],
}


def _tables() -> "tuple[Table, Table]":
    from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table, Text

    metadata = MetaData()
    rows = Table(
        "ledger",
        metadata,
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("time", String(32), nullable=False, index=True),
        Column("kind", String(40), nullable=False),
        Column("model", String(63), nullable=False, index=True),
        Column("version", String(40), nullable=False),
        Column("actor", Text, nullable=False),
        Column("body", Text, nullable=False),
        Column("previous", String(64), nullable=False, unique=True),
        Column("hash", String(64), nullable=False, unique=True),
    )
    head = Table(
        "ledger_head",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("schema_version", Integer, nullable=False),
        Column("seq", BigInteger, nullable=False),
        Column("hash", String(64), nullable=False),
    )
    return rows, head


def _walk(rows: Iterator[dict[str, Any]], head: dict[str, Any], anchor: str | None) -> LedgerCheck:
    previous, seq, anchored = GENESIS, 0, anchor in (None, GENESIS)
    for row in rows:
        if reason := _broken(row, seq, previous):
            return LedgerCheck(
                ok=False, rows=seq, head=head["hash"], broken_seq=min(row["seq"], seq + 1), reason=reason
            )
        seq, previous = row["seq"], row["hash"]
        anchored = anchored or previous == anchor
    if (seq, previous) != (head["seq"], head["hash"]):
        reason = (
            f"the head names row {head['seq']}, but the last row is {seq}: rows were removed from or added to the end"
        )
        return LedgerCheck(ok=False, rows=seq, head=head["hash"], broken_seq=min(seq, head["seq"]) + 1, reason=reason)
    if not anchored:
        reason = "the given head is not in the chain: it was rewritten, or is another ledger's"
        return LedgerCheck(ok=False, rows=seq, head=previous, broken_seq=None, reason=reason)
    return LedgerCheck(ok=True, rows=seq, head=previous)


def _broken(row: dict[str, Any], seq: int, previous: str) -> str:
    """Why this row cannot follow the one before, or nothing."""
    intact = row_hash(row) == row["hash"]
    if row["seq"] != seq + 1:
        return f"row {seq + 1} is missing: row {row['seq']} comes after row {seq}"
    if not intact:
        return f"row {row['seq']} was changed: its content does not give its hash"
    if row["previous"] != previous:
        return f"row {row['seq']} does not follow row {seq}: a row was replaced, inserted or moved"
    return ""


def _begin(connection: "Connection") -> None:
    read_only = connection.get_execution_options().get("headway_read_only")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LedgerError(
            f"A ledger row's body is not JSON: {error}", expected="text, finite numbers, lists, mappings"
        ) from None


def _stamp(moment: datetime | None) -> str:
    if moment is None:
        return ""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _make_folder(database: str | None) -> None:
    from pathlib import Path

    if database and database != ":memory:":
        Path(database).parent.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def reachable(engine: "Engine") -> Iterator[None]:
    """Turn the driver's errors into ours, without the password that its messages may carry.

    Raises:
        PlatformError: The database is not there, or not writable.
        LedgerError: It refused a statement: a trigger, a constraint.
    """
    from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError

    try:
        yield
    except (OperationalError, InterfaceError) as error:
        _unreachable(engine, error)
    except DatabaseError as error:
        raise LedgerError(f"The ledger's database refused: {without_secrets(str(error.orig))}") from None


def _unreachable(engine: "Engine", error: Exception) -> NoReturn:
    where = engine.url.render_as_string(hide_password=True)
    reason = str(getattr(error, "orig", error)).splitlines()[0]
    raise PlatformError(
        f"The ledger at {where} cannot be used: {without_secrets(reason)}",
        expected=_EXPECTED_URL,
        fix="check HEADWAY_DATABASE_URL, and that the database is up and may be written",
    ) from None

"""Where experiments are kept: what they are and where they stand, and who saw what.

    experiments             name, state, created, body
    experiment_exposures    experiment, user, variant, time: the first time that a user saw a variant

They lie in the ledger's database, on SQLite or PostgreSQL. Every move from state to state is a row of the ledger, in
one transaction with it, under a lock that is taken before the state is read: of two who move at once, one is told that
the other was there first.
"""

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pyarrow as pa

from headway.components.errors import ExperimentError, UnknownNameError
from headway.components.register.ledger import Ledger, create_once, reachable
from headway.components.settings import Settings
from headway.serving.experiment.outcome import microseconds
from headway.serving.experiment.spec import ExperimentSpec, Move, Standing, moved, nothing_left

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

EXPOSURES = pa.schema([("user", pa.string()), ("variant", pa.string()), ("time", pa.timestamp("us", tz="UTC"))])
_FETCH = 50_000
_PAST = {"start": "started", "pause": "paused", "resume": "resumed", "stop": "stopped", "complete": "completed"}


class _Tables(NamedTuple):
    experiments: "Table"
    exposures: "Table"


class ExperimentStore:
    """All experiments of an installation.

    Args:
        settings: Names the database.

    Raises:
        PlatformError: The database cannot be reached.
    """

    def __init__(self, settings: Settings) -> None:
        self._ledger = Ledger(settings.resolved_database_url)
        self._tables = _tables()
        with reachable(self._engine):
            create_once(self._engine, self._tables.experiments)

    def add(self, spec: ExperimentSpec, *, actor: str, now: datetime) -> Standing:
        """Store a new experiment as a draft.

        Raises:
            ExperimentError: There is one of this name.
        """
        from sqlalchemy import insert

        standing = Standing(spec=spec, created=now)
        with self._ledger.transaction() as connection:
            if self._find(connection, spec.name) is not None:
                raise ExperimentError(
                    f"There is an experiment {spec.name!r} already",
                    fix="take another name: an experiment never changes",
                )
            connection.execute(insert(self._tables.experiments).values(name=spec.name, **_row(standing)))
            facts = {"experiment": spec.name, "weights": spec.weights, "salt": spec.salt or spec.name}
            kind = "experiment_created"
            self._ledger.append(kind, model=spec.endpoint, actor=actor, body=facts, connection=connection)
        return standing

    def get(self, name: str) -> Standing:
        """One experiment and where it stands.

        Raises:
            UnknownNameError: There is none of this name.
        """
        with self._reading() as connection:
            found = self._find(connection, name)
        return found or self._missing(name)

    def all(self) -> list[Standing]:
        """All experiments, the oldest first."""
        from sqlalchemy import select

        table = self._tables.experiments
        with self._reading() as connection:
            bodies = connection.execute(select(table.c.body).order_by(table.c.created, table.c.name)).scalars().all()
        return [Standing.model_validate_json(body) for body in bodies]

    def move(
        self, name: str, move: Move, *, actor: str, now: datetime, reason: str = "", again: bool = False
    ) -> Standing:
        """Move an experiment from state to state.

        Args:
            name: The experiment.
            move: What to do.
            actor: Who does it.
            now: The present.
            reason: Why; it goes into the ledger.
            again: Whether an experiment that is already where the move leads is left as it is.

        Raises:
            UnknownNameError: There is none of this name.
            ExperimentError: The move does not lead out of its state, as another process may have left it.
        """
        from sqlalchemy import update

        table = self._tables.experiments
        with self._ledger.transaction() as connection:
            before = self._find(connection, name)
            if before is not None and not (again and nothing_left(before.state, move)):
                after = moved(before, move, now, reason)
                connection.execute(update(table).where(table.c.name == name).values(**_row(after)))
                facts = {"experiment": name, "before": str(before.state), "state": str(after.state), "reason": reason}
                kind = f"experiment_{_PAST[move]}"
                self._ledger.append(kind, model=after.spec.endpoint, actor=actor, body=facts, connection=connection)
                return after
        return before or self._missing(name)

    def expose(self, name: str, seen: Mapping[str, str], now: datetime) -> None:
        """Record what users saw; who has seen something in this experiment before is left as it is.

        Args:
            name: The experiment.
            seen: The variant by user.
            now: When they saw it.
        """
        rows = [
            {"experiment": name, "user": user, "variant": variant, "time": microseconds(now)}
            for user, variant in seen.items()
        ]
        with reachable(self._engine), self._engine.begin() as connection:
            connection.execute(_insert_once(self._engine, self._tables.exposures), rows)

    def exposures(self, name: str) -> pa.Table:
        """Who saw what first, and when: the columns `user`, `variant` and `time`."""
        from sqlalchemy import select

        table = self._tables.exposures
        query = select(table.c.user, table.c.variant, table.c.time).where(table.c.experiment == name)
        batches = []
        with self._reading() as connection:
            for rows in connection.execute(query.execution_options(yield_per=_FETCH)).partitions():
                columns = zip(zip(*rows, strict=True), EXPOSURES, strict=True)
                arrays = [pa.array(values).cast(field.type) for values, field in columns]
                batches.append(pa.RecordBatch.from_arrays(arrays, schema=EXPOSURES))
        return pa.Table.from_batches(batches, schema=EXPOSURES)

    @property
    def _engine(self) -> "Engine":
        return self._ledger.engine

    @contextlib.contextmanager
    def _reading(self) -> "Iterator[Connection]":
        with reachable(self._engine), self._engine.connect().execution_options(headway_read_only=True) as connection:
            yield connection

    def _missing(self, name: str) -> NoReturn:
        raise UnknownNameError("experiment", name, [standing.spec.name for standing in self.all()])

    def _find(self, connection: "Connection", name: str) -> Standing | None:
        from sqlalchemy import select

        table = self._tables.experiments
        body = connection.execute(select(table.c.body).where(table.c.name == name)).scalar_one_or_none()
        return None if body is None else Standing.model_validate_json(body)


def _insert_once(engine: "Engine", table: "Table") -> Any:
    """An insert that leaves what is there already as it is."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()


def _row(standing: Standing) -> dict[str, str]:
    return {
        "state": str(standing.state),
        "body": standing.model_dump_json(),
        "created": standing.created.astimezone(UTC).isoformat(timespec="microseconds"),
    }


def _tables() -> _Tables:
    from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text

    metadata = MetaData()
    experiments = Table(
        "experiments",
        metadata,
        Column("name", String(63), primary_key=True),
        Column("state", String(10), nullable=False),
        Column("created", String(40), nullable=False),
        Column("body", Text, nullable=False),
    )
    exposures = Table(
        "experiment_exposures",
        metadata,
        Column("experiment", String(63), primary_key=True),
        Column("user", String(256), primary_key=True),
        Column("variant", String(63), nullable=False),
        Column("time", BigInteger, nullable=False),
    )
    return _Tables(experiments, exposures)

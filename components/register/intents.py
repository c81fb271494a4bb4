"""What the registry is about to do to a model, written down first, so that a crash in the middle is finished later.

MLflow moves an alias with a plain write: no compare-and-swap, no transaction over two aliases. So every change goes

    1. under a lock: look at the state, refuse or decide, write the intent down, commit
    2. under the lock again: carry the intent out in MLflow, add the ledger's row, remove the intent, commit

A process that dies in between leaves the intent. Whoever comes next, for whatever reason, finds it under the lock and
carries it out first; carrying out twice is the same as once. While step 2 runs nobody else can, so nobody ever acts on
a state that is about to change.

The intents lie in the ledger's database. The lock is the file's write lock on SQLite, and an advisory lock for each
model on PostgreSQL.
"""

import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from headway.components.register.ledger import Ledger, LedgerRow, create_once, reachable

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

_LOCK_CLASS = 471_100
"""Keeps these advisory locks apart from those of other programs in the same PostgreSQL database."""
_MANY = 1_000


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One change of one model, with all that is needed to carry it out."""

    kind: str
    """The ledger's word for it: `registered`, `promoted`, `rolled_back`."""
    model: str
    actor: str
    expected: int | None
    """The champion's version at which the decision was taken; None where there was none."""
    champion: int | None = None
    """The version to become champion; None leaves it (and for `registered` means: the new one, if `first`)."""
    previous: int | None = None
    """Where the alias `previous` goes; None removes it."""
    first: bool = False
    """Whether a newly registered version becomes champion, because the model has none."""
    version: dict[str, Any] = field(default_factory=dict)
    """For `registered`: source, run, tags and description of the version to make."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the ledger's row says besides."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)


class Intents:
    """The intents of all models: at most one each.

    Args:
        ledger: The ledger whose database holds them, and which gets a row for each that is carried out.
        carry_out: Does it in MLflow, any number of times with one result; returns the row's kind, version and body.
    """

    def __init__(self, ledger: Ledger, carry_out: Callable[[Intent], tuple[str, int, dict[str, Any]]]) -> None:
        self.ledger = ledger
        self._carry_out = carry_out
        self._table = _table()
        with reachable(ledger.engine):
            create_once(ledger.engine, self._table)

    def transact(self, model: str, decide: Callable[[], Intent | None]) -> LedgerRow | None:
        """Decide and carry out one change, alone.

        Args:
            model: The model's name.
            decide: Looks at the state and returns what to do, or None when nothing is to be done. Raises to refuse.

        Returns:
            The ledger's row, or None when there was nothing to do.
        """
        self.finish(model)
        with self._lock(model) as connection:
            self._settle(connection, model)  # one that came between the two locks
            intent = decide()
            if intent is None:
                return None
            self._write_down(connection, intent)
        row = self.finish(model)
        return row if row and row.body["intent"] == intent.id else self._row_of(intent)

    def finish(self, model: str) -> LedgerRow | None:
        """Carry out what is written down for the model, if anything is: ours, or what a crash left."""
        with self._lock(model) as connection:
            return self._settle(connection, model)

    def _settle(self, connection: "Connection", model: str) -> LedgerRow | None:
        from sqlalchemy import delete, select

        body = connection.execute(select(self._table.c.body).where(self._table.c.model == model)).scalar_one_or_none()
        if body is None:
            return None
        intent = Intent(**json.loads(body))
        kind, version, facts = self._carry_out(intent)
        row = self.ledger.append(
            kind,
            model=model,
            version=version,
            actor=intent.actor,
            body={**facts, "intent": intent.id},
            connection=connection,
        )
        connection.execute(delete(self._table).where(self._table.c.model == model))
        return row

    def _write_down(self, connection: "Connection", intent: Intent) -> None:
        from sqlalchemy import insert

        body = json.dumps(asdict(intent), sort_keys=True)
        connection.execute(insert(self._table).values(model=intent.model, id=intent.id, body=body))

    def _row_of(self, intent: Intent) -> LedgerRow:
        """The row of an intent that somebody else carried out between our two steps."""
        rows = self.ledger.rows(model=intent.model, limit=_MANY)
        return next(row for row in reversed(rows) if row.body.get("intent") == intent.id)

    @contextlib.contextmanager
    def _lock(self, model: str) -> "Iterator[Connection]":
        """A transaction in which nobody else changes this model."""
        from sqlalchemy import func, select

        engine = self.ledger.engine
        with reachable(engine), engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_LOCK_CLASS, func.hashtext(model))))
            yield connection


def _table() -> "Table":
    from sqlalchemy import Column, MetaData, String, Table, Text

    return Table(
        "registry_intents",
        MetaData(),
        Column("model", String(63), primary_key=True),
        Column("id", String(32), nullable=False),
        Column("body", Text, nullable=False),
    )

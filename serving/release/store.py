"""Where releases are kept: one document each, stored with its ledger rows in one transaction.

    releases            id, endpoint, active, revision, body, created, updated
    release_verdicts    the verdicts of a release over time, for `explain`
    release_leases      which driver works on an endpoint, and until when

They lie in the ledger's database, on SQLite or PostgreSQL. At most one release of an endpoint is active: the database
itself refuses a second. A release is stored only over the revision that it was read at.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from headway.components.errors import ReleaseConflictError, UnknownNameError
from headway.components.register.ledger import Ledger, LedgerRow, create_once, reachable
from headway.serving.release.state import Event, Release
from headway.serving.release.verdict import Verdict

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData, Table

_VERDICT_EVERY = timedelta(seconds=60)
"""An unchanged verdict is kept this often."""


class Seen(NamedTuple):
    """A verdict of a release."""

    time: datetime
    stage: int
    verdict: Verdict


class ReleaseStore:
    """All releases of an installation.

    Args:
        ledger: The ledger, whose database holds them and which gets their rows.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._engine = ledger.engine
        with reachable(self._engine):
            create_once(self._engine, self._releases)

    def add(self, release: Release, events: Iterable[Event]) -> Release:
        """Store a new release.

        Raises:
            ReleaseConflictError: The endpoint has an active release.
        """
        from sqlalchemy import insert

        with self.ledger.transaction() as connection:
            other = self._active(connection, release.endpoint)
            if other is not None:
                raise ReleaseConflictError(
                    f"Endpoint {release.endpoint!r} has an active release: {other.id}, {other.headline}",
                    expected="one release at a time",
                    fix=f"wait for it, or end it: headway release abort {release.endpoint}",
                )
            first = release.model_copy(update={"revision": 1})
            connection.execute(insert(self._releases).values(created=_stamp(first.created), **_row(first)))
            self._note(connection, first, events)
        return first

    def save(self, release: Release, events: Iterable[Event] = (), *, now: datetime) -> Release:
        """Store a release over the revision that it was read at, with its ledger rows.

        Returns:
            The release with its new revision.

        Raises:
            ReleaseConflictError: It has moved on meanwhile; nothing was stored.
        """
        from sqlalchemy import update

        table = self._releases
        following = release.model_copy(update={"revision": release.revision + 1})
        with self.ledger.transaction() as connection:
            query = update(table).where(table.c.id == release.id, table.c.revision == release.revision)
            if connection.execute(query.values(**_row(following))).rowcount != 1:
                raise ReleaseConflictError(
                    f"Release {release.id} has moved on meanwhile; nothing was stored", fix="read it again"
                )
            self._note(connection, following, events)
            self._keep_verdict(connection, following, now)
        return following

    def get(self, release_id: str) -> Release:
        """One release.

        Raises:
            UnknownNameError: There is none with this id.
        """
        from sqlalchemy import select

        with self._reading() as connection:
            query = select(self._releases.c.body).where(self._releases.c.id == release_id)
            body = connection.execute(query).scalar_one_or_none()
        if body is None:
            raise UnknownNameError("release", release_id, [release.id for release in self.history(limit=1_000)])
        return Release.model_validate_json(body)

    def active(self, endpoint: str) -> Release | None:
        """The endpoint's active release, if it has one."""
        with self._reading() as connection:
            return self._active(connection, endpoint)

    def all_active(self) -> list[Release]:
        """All active releases, by endpoint."""
        return self._find(self._releases.c.active.is_not(None))

    def latest(self, endpoint: str) -> Release:
        """The endpoint's active release, else its last one.

        Raises:
            UnknownNameError: It never had a release.
        """
        found = self.history(endpoint, limit=1)
        if not found:
            raise UnknownNameError("endpoint with a release", endpoint, {r.endpoint for r in self.history(limit=1_000)})
        return found[0]

    def history(self, endpoint: str | None = None, *, limit: int = 50) -> list[Release]:
        """Releases, the newest first."""
        conditions = [] if endpoint is None else [self._releases.c.endpoint == endpoint]
        return self._find(*conditions, limit=limit)

    def verdicts(self, release_id: str) -> list[Seen]:
        """The verdicts of a release, the oldest first: each change, and once a minute what did not change."""
        from sqlalchemy import select

        table = self._verdicts
        with self._reading() as connection:
            rows = connection.execute(
                select(table.c.time, table.c.stage, table.c.body)
                .where(table.c.release_id == release_id)
                .order_by(table.c.time)
            ).all()
        return [Seen(_moment(row.time), row.stage, Verdict.model_validate_json(row.body)) for row in rows]

    def take_lease(self, endpoint: str, owner: str, *, now: datetime, seconds: float) -> bool:
        """Become, or stay, the one driver of an endpoint.

        Args:
            endpoint: The endpoint.
            owner: Who asks: `HOST/PID/…`, so that a lease of a process of this host that died counts no more.
            now: The moment.
            seconds: How long the lease lasts unless it is taken again.

        Returns:
            Whether it is ours.
        """
        from sqlalchemy import delete, insert, select

        table = self._leases
        with self.ledger.transaction() as connection:
            held = connection.execute(select(table).where(table.c.endpoint == endpoint)).mappings().one_or_none()
            if held is not None and held["owner"] != owner and held["until"] > _stamp(now) and not _gone(held["owner"]):
                return False
            connection.execute(delete(table).where(table.c.endpoint == endpoint))
            until = _stamp(now + timedelta(seconds=seconds))
            connection.execute(insert(table).values(endpoint=endpoint, owner=owner, until=until))
        return True

    def drop_lease(self, endpoint: str, owner: str) -> None:
        """Let another driver take over at once."""
        from sqlalchemy import delete

        table = self._leases
        with self.ledger.transaction() as connection:
            connection.execute(delete(table).where(table.c.endpoint == endpoint, table.c.owner == owner))

    def _active(self, connection: "Connection", endpoint: str) -> Release | None:
        from sqlalchemy import select

        body = connection.execute(
            select(self._releases.c.body).where(self._releases.c.active == endpoint)
        ).scalar_one_or_none()
        return None if body is None else Release.model_validate_json(body)

    def _find(self, *conditions: Any, limit: int | None = None) -> list[Release]:
        from sqlalchemy import select

        table = self._releases
        query = select(table.c.body).where(*conditions).order_by(table.c.created.desc(), table.c.id.desc()).limit(limit)
        with self._reading() as connection:
            return [Release.model_validate_json(body) for body in connection.execute(query).scalars()]

    def _note(self, connection: "Connection", release: Release, events: Iterable[Event]) -> list[LedgerRow]:
        return [
            self.ledger.append(
                event.kind,
                model=release.model,
                version=release.newcomer.version,
                actor=event.actor or release.actor,
                body=event.body,
                connection=connection,
            )
            for event in events
        ]

    def _keep_verdict(self, connection: "Connection", release: Release, now: datetime) -> None:
        from sqlalchemy import insert, select

        if release.verdict is None:
            return
        table = self._verdicts
        last = connection.execute(
            select(table.c.time, table.c.stage, table.c.outcome)
            .where(table.c.release_id == release.id)
            .order_by(table.c.time.desc())
            .limit(1)
        ).one_or_none()
        same = last is not None and (last.stage, last.outcome) == (release.stage, str(release.verdict.outcome))
        if same and last is not None and now - _moment(last.time) < _VERDICT_EVERY:
            return
        connection.execute(
            insert(table).values(
                release_id=release.id,
                time=_stamp(now),
                stage=release.stage,
                outcome=str(release.verdict.outcome),
                body=release.verdict.model_dump_json(),
            )
        )

    def _reading(self) -> Any:
        return self._engine.connect().execution_options(headway_read_only=True)

    @cached_property
    def _metadata(self) -> "MetaData":
        from sqlalchemy import Column, Integer, MetaData, String, Table, Text

        metadata = MetaData()
        Table(
            "releases",
            metadata,
            Column("id", String(80), primary_key=True),
            Column("endpoint", String(40), nullable=False, index=True),
            # The endpoint's name while the release is active, else NULL: unique, so that there is one at most.
            Column("active", String(40), unique=True),
            Column("revision", Integer, nullable=False),
            Column("created", String(32), nullable=False),
            Column("body", Text, nullable=False),
        )
        Table(
            "release_verdicts",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("release_id", String(80), nullable=False, index=True),
            Column("time", String(32), nullable=False),
            Column("stage", Integer, nullable=False),
            Column("outcome", String(20), nullable=False),
            Column("body", Text, nullable=False),
        )
        Table(
            "release_leases",
            metadata,
            Column("endpoint", String(40), primary_key=True),
            Column("owner", String(200), nullable=False),
            Column("until", String(32), nullable=False),
        )
        return metadata

    @property
    def _releases(self) -> "Table":
        return self._metadata.tables["releases"]

    @property
    def _verdicts(self) -> "Table":
        return self._metadata.tables["release_verdicts"]

    @property
    def _leases(self) -> "Table":
        return self._metadata.tables["release_leases"]


def _row(release: Release) -> dict[str, Any]:
    return {
        "id": release.id,
        "endpoint": release.endpoint,
        "active": None if release.state.over else release.endpoint,
        "revision": release.revision,
        "body": json.dumps(release.model_dump(mode="json"), separators=(",", ":")),
    }


def _gone(owner: str) -> bool:
    """Whether the process that holds a lease ran on this host and is no more."""
    import socket

    import psutil

    host, _, rest = owner.partition("/")
    pid = rest.partition("/")[0]
    return host == socket.gethostname() and pid.isdecimal() and not psutil.pid_exists(int(pid))


def _stamp(moment: datetime) -> str:
    """UTC with microseconds: texts of one length, so that their order is the order in time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)

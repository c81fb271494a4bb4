"""What served at a moment, and why: read from the ledger, which nobody can rewrite unseen."""

from datetime import datetime

from headway.components.config import Config
from headway.components.register.ledger import Ledger, LedgerRow


class Part(Config):
    """One version's share."""

    version: int
    weight: int
    """Of 10 000."""


class ServedAt(Config):
    """What one endpoint served."""

    endpoint: str
    parts: list[Part]
    """The versions that got traffic, the one with the most first."""
    since: str
    """When that began, UTC."""
    reason: str
    actor: str
    release: str
    seq: int
    """The ledger's row."""


def served_at(ledger: Ledger, moment: datetime, *, endpoint: str | None = None) -> list[ServedAt]:
    """What each endpoint served at a moment.

    Args:
        ledger: The ledger.
        moment: The moment; without a zone it is UTC.
        endpoint: Only this one.

    Returns:
        One entry for each endpoint that served something, in order.
    """
    latest: dict[str, LedgerRow] = {}
    for row in ledger.rows(kind="weights", until=moment):
        name = str(row.body["endpoint"])
        if endpoint in (None, name):
            latest[name] = row
    return [_served(name, latest[name]) for name in sorted(latest)]


def _served(endpoint: str, row: LedgerRow) -> ServedAt:
    versions = row.body["versions"]
    weights = sorted(row.body["weights"].items(), key=lambda item: -item[1])
    return ServedAt(
        endpoint=endpoint,
        parts=[Part(version=versions[name], weight=weight) for name, weight in weights if weight],
        since=row.time,
        reason=str(row.body.get("reason", "")),
        actor=row.actor,
        release=str(row.body.get("release", "")),
        seq=row.seq,
    )

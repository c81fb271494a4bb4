"""What served at a moment."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from headway.components.register.ledger import Ledger
from headway.serving.release.served import served_at


def test_each_endpoint_is_told_as_it_was_then(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    moments = []
    for endpoint, weights in [
        ("a", {"v1": 10_000}),
        ("b", {"v7": 10_000}),
        ("a", {"v1": 9_000, "v2": 1_000}),
        ("a", {"v2": 10_000, "v1": 0}),
    ]:
        versions = {name: int(name[1:]) for name in weights}
        body = {"endpoint": endpoint, "weights": weights, "versions": versions, "reason": "why", "release": "r"}
        row = ledger.append("weights", model=endpoint, version=1, actor="ada", body=body)
        moments.append(datetime.fromisoformat(row.time))

    def told(moment: datetime, endpoint: str | None = None) -> dict[str, list[tuple[int, int]]]:
        found = served_at(ledger, moment, endpoint=endpoint)
        return {one.endpoint: [(part.version, part.weight) for part in one.parts] for one in found}

    assert told(moments[0] - timedelta(seconds=1)) == {}
    assert told(moments[0]) == {"a": [(1, 10_000)]}
    assert told(moments[2]) == {"a": [(1, 9_000), (2, 1_000)], "b": [(7, 10_000)]}
    assert told(datetime.now(UTC), "a") == {"a": [(2, 10_000)]}
    last = served_at(ledger, moments[3], endpoint="a")[0]
    assert (last.actor, last.reason, last.release, last.seq) == ("ada", "why", "r", 4)

"""Releases in the ledger's database."""

from datetime import timedelta
from pathlib import Path

import pytest

from headway.components.errors import ReleaseConflictError, UnknownNameError
from headway.components.register.ledger import Ledger
from headway.serving.release import engine
from headway.serving.release.state import Event, Release, State
from headway.serving.release.store import ReleaseStore
from headway.serving.release.verdict import Finding, Outcome, Verdict
from tests.serving.release.conftest import START, new_release


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(Ledger(f"sqlite:///{tmp_path}/ledger.db"))


@pytest.fixture
def stored(store: ReleaseStore) -> Release:
    step = engine.begin(new_release())
    return store.add(step.release, step.events)


def over(release: Release, at: int) -> Release:
    ended = {"state": State.ABORTED, "id": f"r{at}", "created": START + timedelta(seconds=at)}
    return release.model_copy(update=ended)


def test_a_release_comes_back_as_it_was(store: ReleaseStore, stored: Release) -> None:
    assert store.get("r1") == stored
    assert store.active("m") == stored
    assert store.all_active() == [stored]
    assert stored.pending


def test_an_endpoint_has_one_active_release(store: ReleaseStore, stored: Release) -> None:
    with pytest.raises(ReleaseConflictError, match="active release: r1, preparing"):
        store.add(stored.model_copy(update={"id": "r2"}), [])
    store.save(stored.model_copy(update={"state": State.ABORTED}), now=START)
    assert store.add(new_release().model_copy(update={"id": "r2"}), []).id == "r2"


def test_a_release_that_moved_on_is_not_overwritten_and_writes_no_ledger_row(
    store: ReleaseStore, stored: Release
) -> None:
    newer = store.save(stored, now=START)
    with pytest.raises(ReleaseConflictError, match="moved on"):
        store.save(stored, [Event(kind="weights")], now=START)
    assert store.get("r1") == newer
    assert [row.kind for row in store.ledger.rows()] == ["release_started"]


def test_events_are_in_the_ledger_with_who_did_it(store: ReleaseStore, stored: Release) -> None:
    step = engine.pause(stored, "grace")
    store.save(step.release, step.events, now=START)
    rows = store.ledger.rows(model="m")
    assert [(row.kind, row.actor, row.version) for row in rows] == [
        ("release_started", "ada", "2"),
        ("release_paused", "grace", "2"),
    ]
    assert store.ledger.verify().ok


def test_unknown_releases_are_named_with_the_near_ones(store: ReleaseStore, stored: Release) -> None:
    with pytest.raises(UnknownNameError, match="Unknown release 'r2'"):
        store.get("r2")
    with pytest.raises(UnknownNameError, match="endpoint"):
        store.latest("n")


def test_history_is_newest_first(store: ReleaseStore, stored: Release) -> None:
    store.save(stored.model_copy(update={"state": State.ABORTED}), now=START)
    for at in (3, 2):
        store.add(over(new_release(), at), [])
    assert [release.id for release in store.history("m")] == ["r3", "r2", "r1"]
    assert [release.id for release in store.history("m", limit=1)] == ["r3"]
    assert store.history("other") == []


def test_verdicts_are_kept_when_they_change_and_once_a_minute(store: ReleaseStore, stored: Release) -> None:
    release = stored
    for seconds, outcome in [(0, "no_data"), (2, "no_data"), (4, "pass"), (30, "pass"), (65, "pass")]:
        finding = Finding(name="latency", outcome=Outcome(outcome), text="", n_canary=seconds)
        verdict = Verdict(outcome=Outcome(outcome), findings=[finding])
        moment = START + timedelta(seconds=seconds)
        release = store.save(release.model_copy(update={"verdict": verdict}), now=moment)
    kept = [(seen.time - START).total_seconds() for seen in store.verdicts("r1")]
    assert kept == [0, 4, 65]


def test_a_lease_is_one_drivers_until_it_runs_out(store: ReleaseStore) -> None:
    def take(owner: str, at: int) -> bool:
        return store.take_lease("m", owner, now=START + timedelta(seconds=at), seconds=10)

    assert take("elsewhere/1/a", 0)
    assert take("elsewhere/1/a", 5)
    assert not take("elsewhere/2/b", 14)
    assert take("elsewhere/2/b", 16)
    store.drop_lease("m", "elsewhere/1/a")
    assert not take("elsewhere/1/a", 17)
    store.drop_lease("m", "elsewhere/2/b")
    assert take("elsewhere/1/a", 17)


def test_the_lease_of_a_process_that_died_here_counts_no_more(store: ReleaseStore) -> None:
    import os
    import socket

    host = socket.gethostname()
    dead = 2**22 + 1  # above the largest pid that Linux gives out
    assert store.take_lease("m", f"{host}/{dead}/a", now=START, seconds=60)
    assert store.take_lease("m", f"{host}/{os.getpid()}/b", now=START, seconds=60)
    assert not store.take_lease("m", f"{host}/{os.getpid()}/c", now=START, seconds=60)

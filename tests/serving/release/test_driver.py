"""The driver: whole releases, and releases whose driver is killed at every step that it stores."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headway.components.errors import MeasurementError, ReleaseConflictError, ReleaseError, TrustError
from headway.components.settings import Settings
from headway.serving.platform import Reading
from headway.serving.release.driver import Driver
from headway.serving.release.plan import ReleaseSpec
from headway.serving.release.releases import Releases
from headway.serving.release.state import Check, MoveExperiment, Release, State
from headway.serving.release.store import ReleaseStore
from headway.serving.release.verdict import Outcome, Sums
from tests.serving.release.file_world import FilePlatform, FileRegistry, passing_checks

QUICK: dict[str, Any] = {"min_seconds": 0, "rollback_window_seconds": 0, "min_requests": 200, "sticky": "request"}
STRATEGIES = ["canary", "blue_green", "ab", "shadow", "rollback"]


class SameOutcomes:
    """Both variants turn out equally well, and shadow answers all agree."""

    def sums(self, release: Release, since: Any) -> dict[str, Sums]:
        return {variant.name: Sums(n=5_000, total=500, total_of_squares=500) for variant in release.variants}

    def disagreement(self, release: Release, since: Any) -> Sums:
        return Sums(n=5_000, total=0, total_of_squares=0)

    def move(self, release: Release, action: MoveExperiment) -> None:
        return None


def make(folder: Path, **platform: Any) -> Releases:
    """Releases over the world of files in a folder."""
    settings = Settings(home=folder)
    driver = Driver(
        settings,
        platform=FilePlatform(folder, **platform),
        registry=FileRegistry(folder),  # type: ignore[arg-type]
        outcomes=SameOutcomes(),
        check=passing_checks,
        sleep=lambda seconds: None,
    )
    return Releases(settings, driver=driver)


def serve_first(folder: Path) -> Releases:
    """Version 1 of `m` serves, as the champion."""
    releases = make(folder)
    started = releases.start("m", 1, spec=ReleaseSpec.parse(QUICK), actor="ada", reason="first")
    assert releases.wait(started.id).state is State.PROMOTED
    return releases


def start(releases: Releases, strategy: str, **spec: Any) -> Release:
    if strategy == "rollback":
        return releases._begin(_rollback_to_two(releases))
    decision = {"metric": "brier", "minimum_effect": 0.05} if strategy == "ab" else None
    plan = ReleaseSpec.parse({**QUICK, "strategy": strategy, "decision": decision, **spec})
    return releases.start("m", 2, spec=plan, actor="ada", reason="better")


def _rollback_to_two(releases: Releases) -> Release:
    variants = [*releases._live("m"), releases._variant(releases.registry.version("m", 2), [])]
    return releases._new("m", "m", ReleaseSpec.parse({**QUICK, "strategy": "rollback"}), variants, "ada", "back")


def end(releases: Releases, release: Release) -> Release:
    """Drive to the end; what an A/B test has decided is promoted."""
    release = releases.wait(release.id)
    if release.held:
        releases.promote("m", actor="ada", reason="it won")
        release = releases.wait(release.id)
    return release


def world(folder: Path) -> dict[str, Any]:
    """What is left when all is over."""
    releases = make(folder)
    state = releases.platform.files.read()  # type: ignore[attr-defined]
    return {
        "weights": state["route"]["shares"],
        "champion": state["champion"],
        "variants": [entry["name"] for entry in state["variants"]],
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_whole_release(tmp_path: Path, strategy: str) -> None:
    releases = serve_first(tmp_path)
    release = end(releases, start(releases, strategy))
    assert release.state is (State.COMPLETED if strategy == "shadow" else State.PROMOTED)
    winner = 1 if strategy == "shadow" else 2
    assert world(tmp_path) == {
        "weights": [{"variant": f"v{winner}", "weight": 10_000}],
        "champion": winner,
        "variants": [f"v{winner}"],
    }
    assert releases.store.ledger.verify().ok


def test_a_bad_canary_is_taken_back(tmp_path: Path) -> None:
    serve_first(tmp_path)
    releases = make(tmp_path, bad={"v2": 20})
    release = end(releases, start(releases, "canary"))
    assert release.state is State.ROLLED_BACK
    assert "server errors" in release.ended_why
    assert world(tmp_path)["variants"] == ["v1"]
    outcomes = [seen.verdict.outcome for seen in releases.verdicts(release.id)]
    assert outcomes[-1] is Outcome.FAIL


class TestServe:
    """The champion of a model without an endpoint."""

    def test_it_is_served_once(self, tmp_path: Path) -> None:
        releases = make(tmp_path)
        releases.platform.files.write(champion=3)  # type: ignore[attr-defined]
        served = releases.serve("m", actor="ada", reason="up")
        assert served is not None
        assert (served.state, served.newcomer.version) == (State.PROMOTED, 3)
        assert world(tmp_path)["weights"] == [{"variant": "v3", "weight": 10_000}]
        assert releases.serve("m", actor="ada", reason="up again") is None
        assert len(releases.history("m")) == 1

    def test_one_that_fails_its_checks_is_named(self, tmp_path: Path) -> None:
        releases = make(tmp_path)
        releases.platform.files.write(champion=3)  # type: ignore[attr-defined]
        failing = [Check(name="smoke", ok=False, text="it answers nothing")]
        releases.driver = Driver(
            releases.settings,
            platform=releases.platform,
            registry=releases.registry,
            outcomes=SameOutcomes(),
            check=lambda platform, registry, release: failing,
            sleep=lambda seconds: None,
        )
        with pytest.raises(ReleaseError, match=r"Version 3 of 'm' does not serve.*it answers nothing"):
            releases.serve("m", actor="ada", reason="up")


class TestKilled:
    """kill -9 before and after each write of a release: somebody else finishes it, and it ends the same."""

    @pytest.mark.slow
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_the_next_driver_ends_it_the_same(self, tmp_path: Path, strategy: str) -> None:
        kills = self.writes(tmp_path / "whole", strategy)
        assert kills > 5
        whole = world(tmp_path / "whole")
        for point in range(kills):
            for when in ("before", "after"):
                folder = tmp_path / f"{when}-{point}"
                folder.mkdir()
                serve_first(folder)
                releases = make(folder)
                release = start(releases, strategy)
                assert run_and_die(folder, release.id, point, when) == -signal.SIGKILL
                self.check_after(folder, end(make(folder), release), whole)

    def writes(self, folder: Path, strategy: str) -> int:
        """How often a release is written from its start to its end."""
        folder.mkdir()
        releases = serve_first(folder)
        release = start(releases, strategy)
        begin = release.revision
        waited = releases.wait(release.id)
        end(releases, release)
        return waited.revision - begin

    def check_after(self, folder: Path, release: Release, whole: dict[str, Any]) -> None:
        assert release.state in (State.PROMOTED, State.COMPLETED)
        assert world(folder) == whole
        journal = make(folder).platform.files.journal()  # type: ignore[attr-defined]
        assert [entry["champion"] for entry in journal if "champion" in entry] in ([1, 2], [1])
        assert all(set(entry["needed"]) <= set(entry["running"]) for entry in journal if "needed" in entry)
        ledger = FileRegistry(folder).ledger
        assert ledger.verify().ok
        ended = [row for row in ledger.rows() if row.kind == f"release_{release.state}" and row.version == "2"]
        assert len(ended) == 1


def run_and_die(folder: Path, release_id: str, point: int, when: str) -> int | None:
    """Drive in a process of its own that is killed at its n-th write; returns its exit code."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_drive_until_killed, args=(folder, release_id, point, when))
    process.start()
    process.join(60)
    return process.exitcode


def _drive_until_killed(folder: Path, release_id: str, point: int, when: str) -> None:
    save = ReleaseStore.save
    written = 0

    def deadly(self: ReleaseStore, *args: Any, **kwargs: Any) -> Release:
        nonlocal written
        if written == point and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        saved = save(self, *args, **kwargs)
        if written == point:
            os.kill(os.getpid(), signal.SIGKILL)
        written += 1
        return saved

    ReleaseStore.save = deadly  # type: ignore[method-assign]
    make(folder).wait(release_id)


def test_a_second_driver_only_watches(tmp_path: Path) -> None:
    first = serve_first(tmp_path)
    release = start(first, "canary")
    first.driver.turn(release.id)
    before = first.store.get(release.id)
    assert make(tmp_path).driver.turn(release.id) == before
    assert first.driver.turn(release.id).revision > before.revision


def test_metrics_that_cannot_be_read_move_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    releases = serve_first(tmp_path)
    release = start(releases, "canary")
    releases.wait(release.id, until=lambda seen: seen.state is State.RUNNING and not seen.pending)

    def unreadable(*args: Any, **kwargs: Any) -> Reading:
        raise MeasurementError("Prometheus is away")

    with monkeypatch.context() as patch:
        patch.setattr(FilePlatform, "read", unreadable)
        for _ in range(3):
            seen = releases.driver.turn(release.id)
    assert seen.verdict is not None
    assert seen.verdict.outcome is Outcome.ERROR
    assert (seen.state, seen.stage, seen.pending) == (State.RUNNING, 0, [])
    assert end(releases, release).state is State.PROMOTED


@pytest.mark.parametrize("steps", [3, 8, 12])
def test_rollback_during_a_release(tmp_path: Path, steps: int) -> None:
    releases = serve_first(tmp_path)
    release = start(releases, "canary", rollback_window_seconds=600)
    for _ in range(steps):
        releases.driver.turn(release.id)
    back = releases.rollback("m", actor="ada", reason="pager")
    assert back is not None
    assert back.state is State.ROLLED_BACK
    assert world(tmp_path)["champion"] == 1
    assert world(tmp_path)["weights"] == [{"variant": "v1", "weight": 10_000}]


def test_rollback_after_a_release_and_again(tmp_path: Path) -> None:
    releases = serve_first(tmp_path)
    end(releases, start(releases, "canary"))
    back = releases.rollback("m", to=1, actor="ada", reason="pager")
    assert back is not None
    assert back.state is State.PROMOTED
    assert world(tmp_path) == {"weights": [{"variant": "v1", "weight": 10_000}], "champion": 1, "variants": ["v1"]}
    assert releases.rollback("m", to=1, actor="ada", reason="pager") is None


def test_rollback_to_a_bad_version_is_refused_and_traffic_stays(tmp_path: Path) -> None:
    releases = serve_first(tmp_path)
    end(releases, start(releases, "canary"))
    before = world(tmp_path)
    releases.platform.files.write(bad=[1])  # type: ignore[attr-defined]
    with pytest.raises(TrustError, match="signature"):
        releases.rollback("m", to=1, actor="ada", reason="pager")
    assert world(tmp_path) == before


def test_rollback_to_a_bad_version_during_a_release_leaves_the_release_alone(tmp_path: Path) -> None:
    releases = serve_first(tmp_path)
    release = start(releases, "canary")
    releases.driver.turn(release.id)
    releases.platform.files.write(bad=[7])  # type: ignore[attr-defined]
    with pytest.raises(TrustError, match="signature"):
        releases.rollback("m", to=7, actor="ada", reason="pager")
    assert releases.status("m").ending is None


def refused(reason: str, call: Callable[[], Any]) -> None:
    with pytest.raises(ReleaseError, match=reason):
        call()


def test_what_is_refused_before_anything_starts(tmp_path: Path) -> None:
    releases = serve_first(tmp_path)
    told = {"actor": "ada", "reason": "x"}
    refused("serves 'm' already", lambda: releases.start("m", 1, **told))
    refused("no reason", lambda: releases.start("m", 2, actor="ada", reason=" "))
    refused("no active release", lambda: releases.pause("m", actor="ada"))
    refused("stands twice", lambda: releases.start("m", 2, others=[2], **told))
    decision = {"metric": "brier", "minimum_effect": 0.05}
    spec = ReleaseSpec.parse({"strategy": "ab", "shares": [50, 25, 25], "decision": decision})
    refused("3 shares for 2 variants", lambda: releases.start("m", 2, spec=spec, **told))
    releases.platform.files.write(bad=[3])  # type: ignore[attr-defined]
    with pytest.raises(TrustError):
        releases.start("m", 3, **told)
    assert [release.state for release in releases.history("m")] == [State.PROMOTED]
    start(releases, "canary")
    with pytest.raises(ReleaseConflictError, match="active release"):
        releases.start("m", 4, **told)


def test_a_champion_that_others_moved_meanwhile_ends_the_release(tmp_path: Path) -> None:
    releases = serve_first(tmp_path)
    release = start(releases, "canary")
    releases.driver.turn(release.id)
    releases.platform.files.write(champion=9)  # type: ignore[attr-defined]
    ended = releases.wait(release.id)
    assert ended.state is State.ROLLED_BACK
    assert "the champion is 9" in ended.ended_why
    assert world(tmp_path)["champion"] == 9

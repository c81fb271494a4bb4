"""The engine, one transition after the other."""

from datetime import timedelta

import pytest

from headway.components.errors import ReleaseError
from headway.serving.platform import NO_VALUES, Counts, Histogram
from headway.serving.release import engine
from headway.serving.release.plan import Strategy
from headway.serving.release.state import MoveChampion, Release, SetRoute, State, Tally
from headway.serving.release.verdict import Outcome
from tests.serving.release.conftest import BEFORE, World, new_release


def test_a_canary_walks_through_its_steps_and_is_promoted(canary: World) -> None:
    release = canary.run()
    assert release.state is State.PROMOTED
    assert [weights.get("v2", 0) for weights in canary.weights] == [500, 2_500, 5_000, 10_000, 10_000]
    assert canary.weights[-1] == {"v2": 10_000}
    assert canary.champion == 2
    assert canary.moves == [2]
    assert canary.running == {"v2"}


def test_no_traffic_moves_before_the_checks_have_passed(canary: World) -> None:
    canary.checks_pass = False
    release = canary.run()
    assert release.state is State.ROLLED_BACK
    assert "failed its checks: smoke" in release.ended_why
    assert all(set(weights) == {"v1"} for weights in canary.weights)
    assert canary.running == {"v1"}


def test_a_newcomer_that_fails_to_start_ends_the_release() -> None:
    world = World(new_release())
    world.broken = {"v2"}
    assert world.run().state is State.ROLLED_BACK
    assert "v2 failed to start" in world.release.ended_why


def test_a_newcomer_that_never_gets_ready_ends_the_release_at_its_deadline() -> None:
    world = World(new_release(ready_timeout_seconds=30))
    world.act()
    world.ready.discard("v2")
    world.look(29)
    assert world.release.state is State.PREPARING
    world.look(2)
    assert world.release.ending is State.ROLLED_BACK


@pytest.mark.parametrize("outcome", [Outcome.INCONCLUSIVE, Outcome.NO_DATA, Outcome.ERROR])
def test_what_does_not_decide_moves_no_traffic(canary: World, outcome: Outcome) -> None:
    canary.reach(1)
    canary.outcome = outcome
    before = list(canary.weights)
    for _ in range(20):
        canary.look(60)
        assert not canary.release.pending
    assert canary.weights == before
    assert canary.release.state is State.RUNNING


def test_undecided_for_too_long_is_held_for_a_person_and_goes_on_after_resume(canary: World) -> None:
    canary.reach(0)
    canary.outcome = Outcome.NO_DATA
    canary.look(25 * 3600)
    assert "undecided after 24 h" in canary.release.held
    assert canary.release.exit_code == 3
    canary.outcome = Outcome.PASS
    canary.look()
    assert canary.release.held
    canary.take(engine.resume(canary.release, "ada", canary.now))
    assert canary.run().state is State.PROMOTED


def test_a_finding_that_needs_a_person_holds_the_release(canary: World) -> None:
    canary.reach(0)
    canary.outcome = Outcome.INCONCLUSIVE
    canary.holds = True
    canary.look()
    assert canary.release.held == "inconclusive"
    assert canary.weights[-1] == {"v1": 9_500, "v2": 500}


@pytest.mark.parametrize("how", ["paused", "held", "running", "settling"])
def test_a_failing_newcomer_is_taken_back_whatever_else_is(how: str) -> None:
    world = World(new_release())
    world.reach(0)
    if how == "paused":
        world.take(engine.pause(world.release, "ada"))
    if how == "held":
        world.release = world.release.model_copy(update={"held": "look at it"})
    while how == "settling" and world.release.state is not State.SETTLING:
        world.act()
        world.look()
    world.act()
    world.outcome = Outcome.FAIL
    world.look(1)
    assert world.run().state is State.ROLLED_BACK
    assert world.route == BEFORE
    assert world.champion == 1
    assert world.moves == ([2, 1] if how == "settling" else [])
    assert world.running == {"v1"}


def test_a_pause_stops_the_ramp_and_resume_goes_on(canary: World) -> None:
    canary.reach(0)
    canary.take(engine.pause(canary.release, "ada"))
    for _ in range(5):
        canary.look()
    assert canary.release.stage == 0
    with pytest.raises(ReleaseError, match="paused already"):
        engine.pause(canary.release, "ada")
    canary.take(engine.resume(canary.release, "ada", canary.now))
    assert canary.run().state is State.PROMOTED


def test_promoting_by_hand_skips_the_stages_and_is_recorded(canary: World) -> None:
    canary.reach(0)
    canary.outcome = Outcome.INCONCLUSIVE
    canary.take(engine.promote(canary.release, "grace", "black friday", canary.now))
    assert canary.run().state is State.PROMOTED
    forced = next(event for event in canary.events if event.kind == "release_forced")
    assert (forced.actor, forced.body["reason"]) == ("grace", "black friday")


def test_promoting_before_the_checks_is_refused(canary: World) -> None:
    with pytest.raises(ReleaseError, match="passed its checks"):
        engine.promote(canary.release, "grace", "now", canary.now)


def test_aborting_restores_the_route_and_a_second_time_changes_nothing(canary: World) -> None:
    canary.reach(0)
    canary.take(engine.end(canary.release, "ada", "no", canary.now, to=State.ABORTED))
    again = engine.end(canary.release, "ada", "no", canary.now, to=State.ABORTED)
    assert again == (canary.release, [])
    assert canary.run().state is State.ABORTED
    with pytest.raises(ReleaseError, match="is aborted"):
        engine.end(canary.release, "ada", "no", canary.now, to=State.ABORTED)


def test_a_champion_that_may_have_moved_before_a_crash_is_moved_back() -> None:
    world = World(new_release(rollback_window_seconds=60))
    while not any(isinstance(action, MoveChampion) for action in world.release.pending):
        world.act()
        world.look()
    world.carry_out(world.release.pending[0])  # done, but the driver died before it said so
    assert world.champion == 2
    world.take(engine.end(world.release, "ada", "no", world.now, to=State.ROLLED_BACK))
    assert world.run().state is State.ROLLED_BACK
    assert world.champion == 1


def test_blue_green_flips_at_once_and_back_in_one_step() -> None:
    world = World(new_release(strategy="blue_green"))
    while world.release.stage == 0 or world.release.pending:
        world.act()
        world.look(3)
    assert [weights["v2"] for weights in world.weights] == [0, 10_000]
    assert world.release.reference is not None
    assert world.release.reference.requests >= world.release.spec.min_requests
    world.outcome = Outcome.FAIL
    world.look()
    action = world.release.pending[0]
    assert isinstance(action, SetRoute)
    assert action.route == BEFORE


def test_blue_green_waits_until_the_old_variant_has_enough_traffic_to_compare_with() -> None:
    world = World(new_release(strategy="blue_green", min_requests=500))
    for _ in range(4):
        world.act()
        world.look()
    assert world.release.stage == 0
    world.reach(1)
    assert world.release.reference is not None


def test_predictions_of_other_days_are_not_compared_once_they_were_compared_on_the_same_traffic() -> None:
    scores = Histogram(edges=[0.5], counts=[60, 40])

    def seen(release: Release, stage: int) -> list[Histogram]:
        tallies = {name: Tally(counts=Counts(requests=100, scores=scores)) for name in ("v1", "v2")}
        at = release.model_copy(
            update={"stage": stage, "state": State.RUNNING, "tallies": tallies, "reference": tallies["v1"].counts}
        )
        found = engine.evidence(at, engine.Facts())
        return [found.stable.counts.scores, found.canary.counts.scores]

    assert seen(new_release(), 2) == [scores, scores]
    assert seen(new_release(), 3) == [NO_VALUES, NO_VALUES]
    # A flip has nothing but before and after.
    assert seen(new_release(strategy="blue_green"), 1) == [scores, scores]


def test_shadow_changes_nothing_and_completes() -> None:
    world = World(new_release(strategy="shadow", mirror=50))
    world.reach(0)
    assert world.route is not None
    assert (world.route.mirror, world.route.mirror_weight) == ("v2", 5_000)
    assert world.run().state is State.COMPLETED
    assert world.route == BEFORE
    assert world.champion == 1


def test_an_ab_test_waits_for_a_person_once_it_has_decided() -> None:
    world = World(new_release(strategy="ab", variants=3))
    world.run(most=6)
    assert world.weights == [{"v1": 3_334, "v2": 3_333, "v3": 3_333}]
    assert world.release.held.startswith("decided:")
    world.take(engine.promote(world.release, "ada", "it won", world.now))
    assert world.run().state is State.PROMOTED
    assert world.running == {"v3"}
    assert world.experiment == ["start", "complete"]


def test_the_experiment_pauses_resumes_and_stops_with_its_release() -> None:
    world = World(new_release(strategy="ab"))
    world.reach(0)
    world.act()
    world.outcome = Outcome.INCONCLUSIVE
    world.take(engine.pause(world.release, "ada"))
    world.act()
    world.take(engine.resume(world.release, "ada", world.now))
    world.act()
    world.take(engine.end(world.release, "ada", "enough", world.now, to=State.ABORTED))
    assert world.run().state is State.ABORTED
    assert world.experiment == ["start", "pause", "resume", "stop"]


def test_the_first_variant_takes_all_traffic_after_its_checks() -> None:
    world = World(new_release(first=True, strategy="first", variants=1))
    assert world.run().state is State.PROMOTED
    assert world.weights == [{"v1": 10_000}]
    assert world.champion == 1


def test_a_rollback_release_needs_no_verdict_and_no_checks() -> None:
    world = World(new_release(strategy="rollback"))
    world.checks_pass = False
    world.outcome = Outcome.FAIL
    world.act()
    world.look(0)
    assert world.run(most=4).state is State.PROMOTED
    assert [event.kind for event in world.events if event.kind == "verdict"] == []
    assert world.champion == 2


def test_the_decision_falls_in_the_last_stage_in_which_both_answer() -> None:
    canary = new_release()
    deciding = [engine.decides(canary.model_copy(update={"stage": stage})) for stage in range(4)]
    assert deciding == [False, False, True, False]
    assert engine.decides(new_release(strategy="blue_green").model_copy(update={"stage": 1}))


def test_outcomes_count_from_the_stage_on_or_from_before_the_flip() -> None:
    world = World(new_release(strategy="blue_green"))
    world.reach(1)
    assert world.release.spec.strategy is Strategy.BLUE_GREEN
    assert engine.outcomes_since(world.release) == world.release.first_entered
    ramp = World(new_release())
    ramp.reach(1)
    assert engine.outcomes_since(ramp.release) == ramp.release.entered
    assert ramp.release.entered - ramp.release.created > timedelta()

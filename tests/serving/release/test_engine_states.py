"""The engine's invariants, whatever happens in whatever order: a state machine with crashes."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headway.components.errors import NotReadyError, PromotionConflictError
from headway.serving.platform import TOTAL_WEIGHT
from headway.serving.release import engine
from headway.serving.release.state import Release, State
from headway.serving.release.verdict import Outcome
from tests.serving.release.conftest import World, new_release

PLANS: list[dict[str, Any]] = [
    {"steps": [5, 25, 50, 100]},
    {"steps": [50, 100]},
    {"strategy": "blue_green"},
    {"strategy": "shadow"},
    {"strategy": "ab"},
    {"strategy": "rollback"},
]
UNDECIDED = [Outcome.INCONCLUSIVE, Outcome.NO_DATA, Outcome.ERROR]


class Releasing(RuleBasedStateMachine):
    """One release in a world in which drivers die and people interfere."""

    world: World
    crashed: Release | None = None

    @initialize(plan=st.sampled_from(PLANS), checks_pass=st.booleans())
    def start(self, plan: dict[str, Any], checks_pass: bool) -> None:
        self.world = World(new_release(**plan))
        self.world.checks_pass = checks_pass
        self.forced = False

    @property
    def release(self) -> Release:
        return self.world.release

    @precondition(lambda self: self.release.pending)
    @rule()
    def act(self) -> None:
        action = self.release.pending[0]
        try:
            checks = self.world.carry_out(action)
        except NotReadyError as error:
            self.world.release = engine.stumbled(self.release, str(error))
            return
        except PromotionConflictError as error:
            step = engine.skipped if self.release.ending else engine.give_up
            self.world.take(step(self.release, str(error), self.world.now))
            return
        self.world.take(engine.done(self.release, self.world.now, checks=checks))

    @precondition(lambda self: self.release.pending)
    @rule()
    def act_and_die_before_saying_so(self) -> None:
        try:
            self.world.carry_out(self.release.pending[0])
        except (NotReadyError, PromotionConflictError):
            return

    @precondition(lambda self: not self.release.pending)
    @rule(outcome=st.sampled_from([Outcome.PASS, Outcome.PASS, *UNDECIDED, Outcome.FAIL]), seconds=st.integers(0, 100))
    def look(self, outcome: Outcome, seconds: int) -> None:
        before = self.world.route
        judged = self.release.watched and self.release.current.judged
        self.world.outcome = outcome
        self.world.look(seconds)
        if judged and outcome in UNDECIDED and self.release.state is State.RUNNING:
            assert not self.release.pending, f"{outcome} moved traffic"
        assert self.world.route == before, "deciding is not doing"

    @precondition(lambda self: self.release.state is State.RUNNING and self.release.ending is None)
    @rule()
    def promote(self) -> None:
        self.world.take(engine.promote(self.release, "ada", "now", self.world.now))
        self.forced = True

    @precondition(lambda self: not self.release.state.over and self.release.ending is None)
    @rule(to=st.sampled_from([State.ABORTED, State.ROLLED_BACK]))
    def end(self, to: State) -> None:
        self.world.take(engine.end(self.release, "ada", "no", self.world.now, to=to))

    @precondition(lambda self: not self.release.state.over and self.release.ending is None)
    @rule()
    def pause_or_resume(self) -> None:
        if self.release.paused or self.release.held:
            self.world.take(engine.resume(self.release, "ada", self.world.now))
        else:
            self.world.take(engine.pause(self.release, "ada"))

    @invariant()
    def weights_always_add_up(self) -> None:
        assert all(sum(weights.values()) == TOTAL_WEIGHT for weights in self.world.weights)

    @invariant()
    def the_champion_moves_forward_once_and_back_at_most_once(self) -> None:
        assert self.world.moves in ([], [2], [2, 1])

    @invariant()
    def traffic_goes_to_running_variants_only(self) -> None:
        live = {name for name, weight in (self.world.route.weights if self.world.route else {}).items() if weight}
        assert live <= self.world.running

    @invariant()
    def nothing_reaches_a_newcomer_that_failed_its_checks(self) -> None:
        if not self.world.checks_pass and self.release.spec.strategy != "rollback":
            assert all(not weights.get("v2") for weights in self.world.weights)

    @invariant()
    def the_end_is_whole(self) -> None:
        if self.release.state is State.PROMOTED:
            assert (self.world.route and self.world.route.weights) == {"v2": TOTAL_WEIGHT}
            assert (self.world.champion, self.world.running) == (2, {"v2"})
        elif self.release.state.over:
            assert (self.world.route and self.world.route.weights) == {"v1": TOTAL_WEIGHT}
            assert (self.world.champion, self.world.running) == (1, {"v1"})

    def teardown(self) -> None:
        """From wherever it was left, a release can always be ended."""
        if not hasattr(self, "world") or self.release.state.over:
            return
        if self.release.ending is None:
            self.end(State.ABORTED)
        while self.release.pending:
            self.act()
        assert self.release.state.over
        self.the_end_is_whole()


TestReleasing = Releasing.TestCase
TestReleasing.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)

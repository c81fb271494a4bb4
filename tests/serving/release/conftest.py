"""A release to start from, and a world that carries its actions out in memory."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headway.components.errors import NotReadyError, PromotionConflictError
from headway.serving.platform import Counts, Phase, Reading, Route, Variant, VariantState
from headway.serving.release import engine
from headway.serving.release.engine import Facts, Step
from headway.serving.release.plan import ReleaseSpec
from headway.serving.release.state import (
    Action,
    Check,
    EnsureVariant,
    Event,
    MoveChampion,
    MoveExperiment,
    Release,
    RemoveVariant,
    RunChecks,
    SetRoute,
    State,
)
from headway.serving.release.verdict import Evidence, Finding, Outcome, Verdict

START = datetime(2026, 11, 25, 12, tzinfo=UTC)
BEFORE = Route.parse({"salt": "old", "shares": [{"variant": "v1", "weight": 10_000}]})


def variant(number: int) -> Variant:
    """Version `number` as it is served."""
    return Variant(name=f"v{number}", model="m", version=number, digest=f"{number:064x}", storage_uri="file:///m")


def new_release(*, variants: int = 2, first: bool = False, **spec: Any) -> Release:
    """A release that has not begun, from version 1 to the last one."""
    if spec.get("strategy") == "ab":
        spec["decision"] = {"metric": "brier", "minimum_effect": 0.01}
    given = {"min_seconds": 10, "rollback_window_seconds": 60, "min_requests": 10, **spec}
    made = [variant(number) for number in range(1, variants + 1)]
    return Release(
        id="r1",
        endpoint="m",
        model="m",
        spec=ReleaseSpec.parse(given),
        variants=made[-1:] if first else made,
        salt="s1",
        before=None if first else BEFORE,
        champion=None if first else 1,
        actor="ada",
        reason="better",
        created=START,
        entered=START,
        clock=START,
    )


@dataclass
class World:
    """What the engine's actions change, and what it is told."""

    release: Release
    now: datetime = START
    ready: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    route: Route | None = BEFORE
    champion: int | None = 1
    checks_pass: bool = True
    outcome: Outcome = Outcome.PASS
    holds: bool = False
    events: list[Event] = field(default_factory=list)
    moves: list[int] = field(default_factory=list)
    """The champions, one after the other."""
    experiment: list[str] = field(default_factory=list)
    """The experiment's moves, each once."""

    def __post_init__(self) -> None:
        self.route = self.release.before
        self.champion = self.release.champion
        self.running = set(self.route.weights) if self.route else set()
        self.ready = set(self.running)
        self.take(engine.begin(self.release))

    def take(self, step: Step) -> None:
        """Store a step, as the driver would."""
        self.release = step.release
        self.events += step.events

    def carry_out(self, action: Action) -> list[Check] | None:
        """Do one action; twice is the same as once."""
        match action:
            case EnsureVariant():
                self.running.add(action.variant.name)
                if action.variant.name not in self.broken:
                    self.ready.add(action.variant.name)
            case RunChecks():
                return [Check(name="smoke", ok=self.checks_pass, text="")]
            case SetRoute():
                if missing := set(action.route.needed) - self.ready:
                    raise NotReadyError(f"{missing} not ready")
                self.route = action.route
            case MoveChampion():
                self.move_champion(action)
            case MoveExperiment() if self.experiment[-1:] != [action.move]:
                self.experiment.append(action.move)
            case RemoveVariant():
                assert not self.route or not self.route.weights.get(action.variant), "removed under traffic"
                self.running.discard(action.variant)
                self.ready.discard(action.variant)
        return None

    def move_champion(self, action: MoveChampion) -> None:
        """Move it, unless others have."""
        if self.champion == action.version:
            return
        if self.champion != action.expected:
            raise PromotionConflictError("moved")
        self.champion = action.version
        self.moves.append(action.version)

    def act(self) -> None:
        """Carry out all that is pending."""
        while self.release.pending:
            checks = self.carry_out(self.release.pending[0])
            self.take(engine.done(self.release, self.now, checks=checks))

    def look(self, seconds: float = 11) -> None:
        """Let time pass and let the engine decide, once."""
        self.now += timedelta(seconds=seconds)
        if self.release.watched:
            more = Reading(counts=Counts(requests=100), cursor="x")
            self.release = engine.count(self.release, {v.name: more for v in self.release.variants})
        states = {name: VariantState(phase=self.phase(name)) for name in self.running}
        self.take(engine.advance(self.release, Facts(states=states), self.now, self.judge))

    def phase(self, name: str) -> Phase:
        """A variant's phase."""
        if name in self.broken:
            return Phase.FAILED
        return Phase.READY if name in self.ready else Phase.STARTING

    def judge(self, evidence: Evidence, decides: bool) -> Verdict:
        """The verdict that the test wants."""
        finding = Finding(name="server_errors", outcome=self.outcome, text=str(self.outcome), holds=self.holds)
        return Verdict(outcome=self.outcome, findings=[finding], text=f"says {self.outcome}")

    def run(self, most: int = 60) -> Release:
        """Act and look until it is over."""
        for _ in range(most):
            self.act()
            if self.release.state.over:
                return self.release
            self.look()
        return self.release

    def reach(self, stage: int) -> Release:
        """Go on until a stage's route is in force."""
        while self.release.state is not State.RUNNING or self.release.stage < stage or self.release.pending:
            self.act()
            if self.release.state is State.RUNNING and self.release.stage >= stage:
                break
            self.look()
        return self.release

    @property
    def weights(self) -> list[dict[str, int]]:
        """All weights that were in force, in order."""
        return [event.body["weights"] for event in self.events if event.kind == "weights"]  # type: ignore[misc]


@pytest.fixture
def canary() -> World:
    """A canary from v1 to v2 that has begun."""
    return World(new_release())

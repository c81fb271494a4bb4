"""Any order of moves, assignments, outcomes and restarts: the experiment does what a model of ten lines does."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import settings as budget
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from headway.components.errors import ExperimentError
from headway.components.register.ledger import Ledger
from headway.components.settings import Settings
from headway.serving.experiment.assignment import bucket
from headway.serving.experiment.experiment import Experiments
from headway.serving.experiment.measure import measure

WAYS = {
    ("draft", "start"): "running",
    ("running", "pause"): "paused",
    ("paused", "resume"): "running",
    ("draft", "stop"): "stopped",
    ("running", "stop"): "stopped",
    ("paused", "stop"): "stopped",
    ("running", "complete"): "completed",
    ("paused", "complete"): "completed",
}
USERS = st.sampled_from([f"u{number}" for number in range(8)])


class Machine(RuleBasedStateMachine):
    settings: Settings
    clock: Any
    count = 0

    @initialize()
    def create(self) -> None:
        type(self).count += 1
        self.name = f"e{type(self).count}"
        self.state, self.moves, self.closes = "draft", 0, None
        self.exposed: dict[str, str] = {}
        self.seen: dict[str, Any] = {}
        self.converted: dict[str, Any] = {}
        self.revenue: dict[tuple[str, str], tuple[float, Any]] = {}
        self.experiments = Experiments(self.settings, now=self.clock)
        metrics = [{"name": "purchase"}, {"name": "revenue", "kind": "numeric"}]
        self.experiment = self.experiments.create(
            actor="ann", name=self.name, variants={"a": 0.3, "b": 0.7}, metrics=metrics, grace_hours=2
        )

    @rule(move=st.sampled_from(["start", "pause", "resume", "stop", "complete"]))
    def move(self, move: str) -> None:
        after = WAYS.get((self.state, move))
        if after is None:
            with pytest.raises(ExperimentError, match=f"is {self.state}: it cannot {move}"):
                getattr(self.experiment, move)(actor="ann")
            return
        assert getattr(self.experiment, move)(actor="ann").state == after
        self.state, self.moves = after, self.moves + 1
        if after in ("stopped", "completed"):
            self.closes = self.clock() if after == "stopped" else self.clock() + timedelta(hours=2)

    @rule(user=USERS)
    def see(self, user: str) -> None:
        own = "a" if bucket(self.name, user) < 3_000 else "b"
        running = self.state == "running"
        assert self.experiment.variant(user) == (own if running else "a")
        if running:
            self.exposed.setdefault(user, own)
            self.seen.setdefault(user, self.clock())

    @rule(user=USERS)
    def convert(self, user: str) -> None:
        if self.closed():
            with pytest.raises(ExperimentError):
                self.experiment.record_conversion(user)
            return
        assert self.experiment.record_conversion(user).new == (user not in self.converted)
        self.converted[user] = self.clock()

    @rule(user=USERS, event=st.sampled_from(["o1", "o2"]), value=st.integers(0, 3))
    def buy(self, user: str, event: str, value: int) -> None:
        before = self.revenue.get((user, event))
        # Two values at one time contradict each other, which test_outcomes.py looks at.
        if self.closed() or (before is not None and before[1] == self.clock() and before[0] != value):
            return
        assert self.experiment.record_metric(user, value, event=event).new == (before is None)
        self.revenue[user, event] = (value, self.clock())

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.clock.forward(hours=hours)

    @rule()
    def restart(self) -> None:
        self.experiments = Experiments(self.settings, now=self.clock)
        self.experiment = self.experiments.get(self.name)

    @rule()
    def look(self) -> None:
        results = self.experiment.results()
        counted = {name: list(self.exposed.values()).count(name) for name in ("a", "b")}
        assert results.split.users == counted
        assert results.winner is None
        measured = measure(self.experiments, self.experiment.standing()).now.metrics
        for name in ("a", "b"):
            users = {user for user, variant in self.exposed.items() if variant == name}
            counting = [user for user in users & set(self.converted) if self.converted[user] >= self.seen[user]]
            bought = sum(value for (user, _), (value, when) in self.revenue.items() if self.counts(name, user, when))
            if users:
                assert measured["purchase"][name].mean * len(users) == pytest.approx(len(counting))
                assert measured["revenue"][name].mean * len(users) == pytest.approx(bought)
        if not self.exposed:
            assert "No data" in results.headline

    @invariant()
    def stands_where_the_model_stands(self) -> None:
        assert self.experiment.state == self.state
        rows = Ledger(self.settings.resolved_database_url).rows()
        assert sum(row.body.get("experiment") == self.name for row in rows) == 1 + self.moves
        found = {row["user"]: row["variant"] for row in self.experiments.store.exposures(self.name).to_pylist()}
        assert found == self.exposed

    def counts(self, name: str, user: str, when: Any) -> bool:
        return self.exposed.get(user) == name and when >= self.seen[user]

    def closed(self) -> bool:
        return self.state == "draft" or (self.closes is not None and self.clock() > self.closes)


@pytest.mark.slow
def test_any_order(settings: Settings, clock: Any) -> None:
    machine = type("Machine", (Machine,), {"settings": settings, "clock": clock})
    examples = 3 if settings.database_url.get_secret_value() else 8
    run_state_machine_as_test(machine, settings=budget(max_examples=examples, stateful_step_count=20, deadline=None))
    assert Ledger(settings.resolved_database_url).verify().ok

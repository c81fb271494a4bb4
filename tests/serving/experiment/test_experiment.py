"""An experiment is sticky, lasts, and refuses what it cannot do with the state and what is allowed."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from headway.components.errors import ConfigError, ExperimentError, UnknownNameError
from headway.components.register.ledger import Ledger
from headway.components.settings import Settings
from headway.serving.experiment import experiment as module
from headway.serving.experiment.experiment import Experiment, Experiments
from headway.serving.experiment.outcome import Outcome, Recorded
from headway.serving.experiment.release_experiment import create_for_release, move_for_release
from headway.serving.experiment.spec import ExperimentMetric, ExperimentSpec, State

SPEC: dict[str, Any] = {
    "name": "checkout",
    "variants": {"model_v1": 0.5, "model_v2": 0.5},
    "metrics": [{"name": "purchase"}, {"name": "revenue", "kind": "numeric"}],
    "covariate": "spend_before",
}


@pytest.fixture
def experiments(settings: Settings, clock: Any) -> Experiments:
    return Experiments(settings, now=clock)


@pytest.fixture
def experiment(experiments: Experiments) -> Experiment:
    return experiments.create(actor="ann", auto_start=True, **SPEC)


def spec(**changes: Any) -> ExperimentSpec:
    return ExperimentSpec.parse({**SPEC, **changes})


class TestSpec:
    def test_equal_shares_by_default(self) -> None:
        assert spec(variants=["a", "b", "c"]).weights == {"a": 3334, "b": 3333, "c": 3333}

    def test_weights_always_add_up(self) -> None:
        for share in (0.1, 0.333, 0.0001, 0.12345):
            weights = spec(variants={"a": 1 - share, "b": share}).weights
            assert sum(weights.values()) == 10_000
            assert abs(weights["b"] - share * 10_000) <= 1

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"variants": {"a": 0.5, "b": 0.4}}, "add up to 0.9"),
            ({"variants": {"a": 50, "b": 50}}, "fractions, not percents"),
            ({"variants": {"a": 1.0, "b": 0.0}}, "must be above 0"),
            ({"variants": {"a": 0.99999, "b": 0.00001}}, "would get no user"),
            ({"variants": {"a": 1.0}}, "at least 2"),
            ({"variants": ["a", "a"]}, "a variant stands twice"),
            ({"variants": []}, "at least 2"),
            ({"metrics": []}, "at least 1"),
            ({"metrics": [{"name": "x"}, {"name": "x"}]}, "a name of its own"),
            ({"covariate": "purchase"}, "a name of its own"),
            ({"overrides": {"ann": "model_v3"}}, "did you mean 'model_v"),
            ({"metrics": [{"name": "accuracy", "kind": "numeric"}]}, "need an endpoint"),
            ({"metric": []}, "did you mean 'metrics'"),
            ({"name": "a b"}, "name"),
            ({"alpha": 0.7}, "alpha"),
        ],
    )
    def test_what_makes_no_sense(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            spec(**changes)


class TestCreating:
    def test_a_name_is_taken_once(self, experiments: Experiments, experiment: Experiment) -> None:
        with pytest.raises(ExperimentError, match=r"There is an experiment 'checkout'[\s\S]*another name"):
            experiments.create(actor="bob", **SPEC)
        assert [standing.spec for standing in experiments.all()] == [experiment.spec]

    def test_an_unknown_one_offers_the_near_ones(self, experiments: Experiments, experiment: Experiment) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'checkout'"):
            experiments.get("chekout")

    def test_it_is_the_same_after_a_restart(self, settings: Settings, experiment: Experiment) -> None:
        again = Experiments(settings).get("checkout")
        assert again.spec == experiment.spec
        assert again.state is State.RUNNING


class TestStates:
    MOVES = ("start", "pause", "resume", "stop", "complete")
    ALLOWED = {
        "draft": {"start": "running", "stop": "stopped"},
        "running": {"pause": "paused", "stop": "stopped", "complete": "completed"},
        "paused": {"resume": "running", "stop": "stopped", "complete": "completed"},
        "stopped": {},
        "completed": {},
    }
    WAYS = {
        "draft": (),
        "running": ("start",),
        "paused": ("start", "pause"),
        "stopped": ("stop",),
        "completed": ("start", "complete"),
    }

    @pytest.mark.parametrize("move", MOVES)
    @pytest.mark.parametrize("state", WAYS)
    def test_every_move_from_every_state(self, experiments: Experiments, state: str, move: str) -> None:
        experiment = experiments.create(actor="ann", **SPEC)
        for step in self.WAYS[state]:
            getattr(experiment, step)(actor="ann")
        allowed = self.ALLOWED[state]
        if move in allowed:
            assert getattr(experiment, move)(actor="ann", reason="because").state == allowed[move]
            assert experiment.standing().reason == "because"
            return
        with pytest.raises(ExperimentError, match=f"'checkout' is {state}: it cannot {move}") as raised:
            getattr(experiment, move)(actor="ann")
        assert experiment.state == state
        expected = raised.value.expected or ""
        assert all(name in expected for name in allowed) or "new experiment" in expected

    def test_each_move_is_in_the_ledger(self, settings: Settings, experiment: Experiment) -> None:
        experiment.pause(actor="bob", reason="odd numbers")
        experiment.resume(actor="bob")
        experiment.complete(actor="ann", reason="decided")
        ledger = Ledger(settings.resolved_database_url)
        assert [(row.kind, row.actor) for row in ledger.rows()] == [
            ("experiment_created", "ann"),
            ("experiment_started", "ann"),
            ("experiment_paused", "bob"),
            ("experiment_resumed", "bob"),
            ("experiment_completed", "ann"),
        ]
        assert ledger.rows()[2].body == {
            "experiment": "checkout",
            "before": "running",
            "state": "paused",
            "reason": "odd numbers",
        }
        assert ledger.verify().ok

    def test_of_two_processes_one_is_told_that_the_other_was_first(
        self, settings: Settings, experiments: Experiments
    ) -> None:
        experiments.create(actor="ann", **SPEC)
        script = (
            "import sys; from pathlib import Path; from pydantic import SecretStr\n"
            "from headway.components.errors import ExperimentError\n"
            "from headway.components.settings import Settings\n"
            "from headway.serving.experiment.experiment import Experiments\n"
            "settings = Settings(home=Path(sys.argv[1]), database_url=SecretStr(sys.argv[2]))\n"
            "experiment = Experiments(settings).get('checkout')\n"
            "won = 0\n"
            "for move in ('start', 'pause', 'resume', 'pause', 'complete'):\n"
            "    try: getattr(experiment, move)(actor=sys.argv[3]); won += 1\n"
            "    except ExperimentError: pass\n"
            "print(won)"
        )
        url = settings.database_url.get_secret_value()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(settings.home), url, who], stdout=subprocess.PIPE, text=True
            )
            for who in "ab"
        ]
        won = sum(int(process.communicate(timeout=60)[0]) for process in started)
        rows = [row for row in Ledger(settings.resolved_database_url).rows() if "before" in row.body]
        assert len(rows) == won
        chain = ["draft", *(row.body["state"] for row in rows)]
        assert [row.body["before"] for row in rows] == chain[:-1]


class TestVariants:
    def test_a_user_always_sees_the_same(self, settings: Settings, experiment: Experiment) -> None:
        users = [f"u{number}" for number in range(200)]
        seen = experiment.assign(users)
        assert set(seen.values()) == {"model_v1", "model_v2"}
        assert {user: experiment.variant(user) for user in users} == seen
        assert Experiments(settings).get("checkout").assign(users) == seen
        script = (
            "import sys; from pathlib import Path; from pydantic import SecretStr\n"
            "from headway.components.settings import Settings\n"
            "from headway.serving.experiment.experiment import Experiments\n"
            "settings = Settings(home=Path(sys.argv[1]), database_url=SecretStr(sys.argv[2]))\n"
            "print(Experiments(settings).get('checkout').assign(sys.argv[3:]))"
        )
        url = settings.database_url.get_secret_value()
        arguments = [sys.executable, "-c", script, str(settings.home), url, *users]
        printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        assert printed.strip() == str(seen)

    def test_an_exposure_is_recorded_once_with_its_first_time(
        self, experiments: Experiments, experiment: Experiment, clock: Any
    ) -> None:
        first = clock()
        experiment.variant("ann")
        clock.forward(hours=1)
        experiment.variant("ann")
        experiments.get("checkout").variant("ann")
        (row,) = experiments.store.exposures("checkout").to_pylist()
        assert (row["user"], row["time"]) == ("ann", first)

    def test_only_while_it_runs(self, experiments: Experiments, clock: Any) -> None:
        experiment = experiments.create(actor="ann", **SPEC)
        users = [f"u{number}" for number in range(50)]
        control = dict.fromkeys(users, "model_v1")
        assert experiment.assign(users) == control
        experiment.start(actor="ann")
        seen = experiment.assign(users)
        assert seen != control
        experiment.pause(actor="ann")
        assert experiment.assign([*users, "new"]) == {**control, "new": "model_v1"}
        experiment.resume(actor="ann")
        assert experiment.assign(users) == seen
        experiment.complete(actor="ann")
        assert experiment.assign(users) == control
        assert experiments.store.exposures("checkout").num_rows == 50

    def test_a_pause_by_another_process_is_noticed_soon(
        self, experiments: Experiments, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "FRESH_SECONDS", 0.05)
        user = next(f"u{n}" for n in range(100) if experiment.variant(f"u{n}") == "model_v2")
        experiments.get("checkout").pause(actor="bob")
        time.sleep(0.1)
        assert experiment.variant(user) == "model_v1"

    def test_who_tests_a_variant_counts_for_none(self, experiments: Experiments) -> None:
        overrides = {"tester": "model_v2"}
        experiment = experiments.create(spec(overrides=overrides), actor="ann", auto_start=True)
        assert experiment.variant("tester") == "model_v2"
        assert experiments.store.exposures("checkout").num_rows == 0

    @pytest.mark.parametrize("user", ["", "x" * 300, "a\0b"])
    def test_what_is_no_user(self, experiment: Experiment, user: str) -> None:
        with pytest.raises(ExperimentError, match="cannot be assigned"):
            experiment.variant(user)


class TestOutcomes:
    def test_twice_is_once(self, experiment: Experiment) -> None:
        assert experiment.record_conversion("ann") == Recorded(new=1)
        assert experiment.record_conversion("ann") == Recorded(same=1)
        assert experiment.record_metric("ann", 5, event="o1") == Recorded(new=1)
        assert experiment.record_metric("ann", 5, event="o1") == Recorded(same=1)
        assert experiment.record_metric("ann", 5, event="o2") == Recorded(new=1)

    def test_names_are_checked(self, experiment: Experiment) -> None:
        other = {"model_v1": "model_v2", "model_v2": "model_v1"}[experiment.variant("ann")]
        with pytest.raises(ExperimentError, match="no variant 'model_v3' - did you mean 'model_v"):
            experiment.record_conversion("ann", variant="model_v3")
        with pytest.raises(ExperimentError, match=f"is assigned to .*, not to '{other}'"):
            experiment.record_conversion("ann", variant=other)
        with pytest.raises(ExperimentError, match="no metric 'purchas' - did you mean 'purchase'"):
            experiment.record_conversion("ann", "purchas")
        with pytest.raises(ExperimentError, match=r"'revenue' is a numeric metric[\s\S]*record_metric"):
            experiment.record_conversion("ann", "revenue")
        with pytest.raises(ExperimentError, match="the value is nan"):
            experiment.record_metric("ann", float("nan"))
        assert experiment.record_conversion("ann", variant=experiment.variant("ann")).new == 1

    def test_a_metric_must_be_named_where_there_are_several(self, experiments: Experiments) -> None:
        experiment = experiments.create(spec(metrics=[{"name": "a"}, {"name": "b"}]), actor="ann", auto_start=True)
        with pytest.raises(ExperimentError, match="has 2 conversion metrics"):
            experiment.record_conversion("ann")
        assert experiment.record_conversion("ann", "b").new == 1

    def test_late_ones_count_after_completion_for_a_while(self, experiment: Experiment, clock: Any) -> None:
        seen = experiment.assign([f"u{number}" for number in range(20)])
        clock.forward(hours=1)
        experiment.complete(actor="ann")
        clock.forward(days=6)
        for user in seen:
            assert experiment.record_conversion(user).new == 1
        clock.forward(days=2)
        with pytest.raises(ExperimentError, match="was completed at 2026-11-25 11:00 UTC and has taken no outcomes"):
            experiment.record_conversion("bob")
        found = experiment.results().comparisons[0]
        assert (found.value, found.control_value, found.users + found.control_users) == (1.0, 1.0, 20)

    def test_what_happens_again_after_the_exposure_counts(self, experiment: Experiment, clock: Any) -> None:
        users = [f"u{number}" for number in range(20)]
        for user in users:
            experiment.record_conversion(user)
        clock.forward(hours=1)
        experiment.assign(users)
        clock.forward(hours=1)
        before = experiment.results().comparisons[0]
        assert (before.value, before.control_value) == (0.0, 0.0)
        for user in users:
            experiment.record_conversion(user)
        after = experiment.results().comparisons[0]
        assert (after.value, after.control_value) == (1.0, 1.0)

    def test_not_before_the_start_and_not_after_a_stop(self, experiments: Experiments, clock: Any) -> None:
        experiment = experiments.create(actor="ann", **SPEC)
        with pytest.raises(ExperimentError, match="is a draft"):
            experiment.record_conversion("ann")
        experiment.start(actor="ann")
        experiment.pause(actor="ann")
        assert experiment.record_conversion("ann").new == 1
        experiment.stop(actor="ann")
        clock.forward(seconds=1)
        with pytest.raises(ExperimentError, match="was stopped"):
            experiment.record_conversion("bob")
        with pytest.raises(ExperimentError, match="was stopped"):
            experiment.record_many([Outcome(metric="purchase", value=1, user="bob")])

    def test_many_are_checked_one_by_one(self, experiment: Experiment) -> None:
        good = Outcome(metric="purchase", value=1, user="ann")
        before = Outcome(metric="spend_before", value=3, user="ann")
        assert experiment.record_many([good, before]).new == 2
        with pytest.raises(ExperimentError, match="no metric 'label'"):
            experiment.record_many([Outcome(metric="label", value=1, prediction="p")])
        with pytest.raises(ExperimentError, match="Outcome of prediction 'p'"):
            experiment.record_many([Outcome(metric="purchase", value=1, prediction="p")])

    def test_covariates_need_one(self, experiments: Experiments, experiment: Experiment) -> None:
        assert experiment.record_covariate({"ann": 1.5, "bob": 2}).new == 2
        other = experiments.create(spec(name="other", covariate=None), actor="ann", auto_start=True)
        with pytest.raises(ExperimentError, match="has no covariate"):
            other.record_covariate({"ann": 1})


class TestReleases:
    def make(self, settings: Settings) -> Experiment:
        return create_for_release(
            settings,
            "flights-7",
            endpoint="flights",
            variants=["v1", "v2"],
            shares=[75, 25],
            salt="s7",
            metrics=[ExperimentMetric(name="converted"), ExperimentMetric(name="accuracy", kind="numeric")],
            actor="driver",
        )

    def test_making_it_again_changes_nothing(self, settings: Settings) -> None:
        first, again = self.make(settings), self.make(settings)
        assert first.spec == again.spec
        assert first.spec.weights == {"v1": 7_500, "v2": 2_500}
        assert again.state is State.RUNNING
        kinds = [row.kind for row in Ledger(settings.resolved_database_url).rows(model="flights")]
        assert kinds == ["experiment_created", "experiment_started"]

    def test_moving_it_again_changes_nothing(self, settings: Settings) -> None:
        self.make(settings)
        for move, state in (
            ("pause", "paused"),
            ("resume", "running"),
            ("complete", "completed"),
            ("stop", "completed"),
        ):
            for _ in range(2):
                standing = move_for_release(settings, "flights-7", move, actor="driver")  # type: ignore[arg-type]
                assert standing is not None
                assert standing.state == state
        assert move_for_release(settings, "other-1", "stop", actor="driver") is None

    def test_who_saw_what_comes_from_the_payload_log(
        self, settings: Settings, log: Callable[..., None], clock: Any
    ) -> None:
        clock.time = clock.forward(days=-1)
        self.make(settings)
        experiments = Experiments(settings)
        experiment = experiments.get("flights-7")
        start = experiment.standing().started
        assert start is not None
        answer = {"prediction": "true", "score": 0.9, "probability": 0.9}
        rows = [
            {"id": f"r{n}", "user": f"u{n}", "endpoint": "v2" if n % 4 == 0 else "v1", "time": start, **answer}
            for n in range(400)
        ]
        again = {"id": "x", "user": "u1", "endpoint": "v2", "time": start + timedelta(seconds=1), **answer}
        log([*rows, again, {**again, "id": "y", "user": None}])
        outcomes = [Outcome(metric="converted", value=1, user=f"u{n}") for n in range(0, 400, 2)]
        outcomes += [Outcome(metric="converted", value=1, prediction="r1")]
        outcomes += [Outcome(metric="label", value=n % 5 > 0, prediction=f"r{n}") for n in range(400)]
        experiment.record_many(outcomes)
        results = experiment.results()
        assert results.split.users == {"v1": 300, "v2": 100}
        converted, accuracy = results.comparisons
        assert (converted.users, converted.value, converted.control_users) == (100, 1.0, 300)
        assert converted.control_value == pytest.approx(101 / 300)
        assert (accuracy.users, accuracy.value) == (100, pytest.approx(0.8))
        assert any("saw more than one variant" in note for note in results.notes)

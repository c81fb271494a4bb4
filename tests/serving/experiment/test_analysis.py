"""What an experiment says: no data, undecided, equivalent, a winner, and when nothing can be trusted."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from headway.components.settings import Settings
from headway.serving.experiment.analysis import Finding, compare, conclude
from headway.serving.experiment.experiment import Experiment, Experiments
from headway.serving.experiment.means import Covariate, Moments
from headway.serving.experiment.measure import Look, Measured, measure
from headway.serving.experiment.outcome import Outcome
from headway.serving.experiment.report import render
from headway.serving.experiment.spec import ExperimentSpec, Standing, State

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)


def standing(**changes: Any) -> Standing:
    spec = {"name": "checkout", "variants": ["v1", "v2"], "metrics": [{"name": "purchase", "minimum_effect": 0.02}]}
    return Standing(spec=ExperimentSpec.parse({**spec, **changes}), state=State.RUNNING, created=NOW, started=NOW)


def share(n: int, rate: float) -> Moments:
    return Moments(np.asarray(float(n)), np.asarray(rate), np.asarray(rate * (1 - rate)))


def known(arms: dict[str, Moments], users: dict[str, int] | None = None, metric: str = "purchase") -> Measured:
    counts = users or {name: int(arm.n) for name, arm in arms.items()}
    return Measured(now=Look(None, counts, {metric: arms}), past=[], crossed=0, strangers=0, unfit={})


class TestConcluding:
    def test_nobody_has_seen_anything(self) -> None:
        found = conclude(standing(), known({}, {"v1": 0, "v2": 0}))
        assert found.headline == "No data: nobody has seen a variant yet."
        assert found.winner is None
        assert found.comparisons[0].finding is Finding.NO_DATA
        assert found.split.p_value == 1.0

    def test_one_arm_only(self) -> None:
        found = conclude(standing(), known({"v1": share(5, 0.2)}, {"v1": 5, "v2": 0}))
        assert found.headline.startswith("No data: purchase of v2: nothing is known of a user of v2")

    def test_a_winner(self) -> None:
        found = conclude(standing(), known({"v1": share(10_000, 0.1), "v2": share(10_000, 0.13)}))
        assert found.winner == "v2"
        assert "v2 wins on purchase" in found.headline
        (comparison,) = found.comparisons
        assert comparison.low is not None
        assert comparison.low > 0
        assert comparison.lift == pytest.approx(0.3)

    def test_the_control_wins_when_all_others_are_worse(self) -> None:
        found = conclude(standing(), known({"v1": share(10_000, 0.13), "v2": share(10_000, 0.1)}))
        assert found.winner == "v1"
        assert "v1 wins" in found.headline

    def test_lower_may_be_better(self) -> None:
        metrics = [{"name": "purchase", "higher_is_better": False}]
        found = conclude(standing(metrics=metrics), known({"v1": share(10_000, 0.13), "v2": share(10_000, 0.1)}))
        assert (found.winner, found.comparisons[0].finding) == ("v2", Finding.BETTER)

    def test_undecided(self) -> None:
        found = conclude(standing(), known({"v1": share(1_000, 0.10), "v2": share(1_000, 0.12)}))
        assert found.winner is None
        assert found.headline.startswith("Undecided: purchase of v2 is 0.12 against 0.1 of v1")

    def test_equivalent(self) -> None:
        found = conclude(standing(), known({"v1": share(50_000, 0.10), "v2": share(50_000, 0.101)}))
        assert found.headline == "Equivalent: no variant differs by 0.02 in purchase."

    def test_no_winner_below_the_minimum_of_users(self) -> None:
        arms = {"v1": share(90, 0.1), "v2": share(90, 0.9)}
        assert conclude(standing(), known(arms)).comparisons[0].finding is Finding.BETTER
        assert conclude(standing(), known(arms)).winner is None
        assert "fewer than 100 users of v1, v2" in conclude(standing(), known(arms)).headline
        assert conclude(standing(min_users=50), known(arms)).winner == "v2"

    def test_nobody_wins_when_users_are_not_split_as_asked(self) -> None:
        found = conclude(standing(), known({"v1": share(11_000, 0.1), "v2": share(10_000, 0.13)}))
        assert found.split.mismatch
        assert found.winner is None
        assert "not split as asked (11,000 of v1, 10,000 of v2)" in found.headline

    def test_many_comparisons_share_alpha(self) -> None:
        variants = ["v1", "v2", "v3"]
        arms = {name: share(5_000, 0.1) for name in variants}
        metrics = [{"name": "purchase"}, {"name": "signup"}]
        measured = Measured(
            now=Look(None, dict.fromkeys(variants, 5_000), {"purchase": arms, "signup": arms}),
            past=[],
            crossed=0,
            strangers=0,
            unfit={},
        )
        found = conclude(standing(variants=variants, metrics=metrics), measured)
        assert found.level == pytest.approx(1 - 0.05 / 4)
        assert len(found.comparisons) == 4
        alone = conclude(standing(), known({name: arms[name] for name in ("v1", "v2")})).comparisons[0]
        assert (found.comparisons[0].high or 0) > (alone.high or 0)

    def test_the_best_of_several_wins(self) -> None:
        arms = {"v1": share(10_000, 0.1), "v2": share(10_000, 0.13), "v3": share(10_000, 0.15)}
        assert conclude(standing(variants=list(arms)), known(arms)).winner == "v3"


class TestComparing:
    def test_few_conversions_are_exact_and_many_are_not(self) -> None:
        spec = standing().spec
        few = compare(spec, spec.metrics[0], "v2", share(1_000, 0.01), share(1_000, 0.02))
        many = compare(spec, spec.metrics[0], "v2", share(10_000, 0.01), share(10_000, 0.02))
        assert (few.method, many.method) == ("exact", "asymptotic")

    def test_numbers_wait_for_the_minimum_of_users(self) -> None:
        spec = standing(metrics=[{"name": "revenue", "kind": "numeric"}]).spec
        few = Moments(np.asarray(99.0), np.asarray(5.0), np.asarray(2.0))
        assert compare(spec, spec.metrics[0], "v2", few, few).finding is Finding.NO_DATA
        same = Moments(np.asarray(900.0), np.asarray(5.0), np.asarray(0.0))
        assert compare(spec, spec.metrics[0], "v2", same, same).finding is Finding.NO_DATA

    def test_a_covariate_that_helps_is_named(self) -> None:
        spec = standing(metrics=[{"name": "revenue", "kind": "numeric"}]).spec
        one = np.asarray(1.0)
        arm = Moments(np.asarray(900.0), np.asarray(5.0), one, None, Covariate(one, one, np.asarray(0.8)))
        found = compare(spec, spec.metrics[0], "v2", arm, arm)
        assert found.method == "asymptotic, CUPED"
        assert found.variance_reduction == pytest.approx(0.64)
        plain = compare(spec, spec.metrics[0], "v2", arm._replace(covariate=None), arm._replace(covariate=None))
        assert (found.high or 0) == pytest.approx((plain.high or 0) * 0.6)


@pytest.fixture
def experiment(settings: Settings, clock: Any) -> Experiment:
    """Three days of an experiment in which the second variant sells more and what users spent before explains most."""
    experiments = Experiments(settings, now=clock)
    experiment = experiments.create(
        actor="ann",
        auto_start=True,
        name="checkout",
        variants={"v1": 0.5, "v2": 0.5},
        metrics=[
            {"name": "purchase"},
            {"name": "revenue", "kind": "numeric"},
            {"name": "rating", "kind": "numeric", "missing": "skip"},
        ],
        covariate="before",
    )
    rng = np.random.default_rng(0)
    for day in range(3):
        seen = experiment.assign([f"d{day}-u{number}" for number in range(1_000)])
        spent = dict(zip(seen, rng.normal(10, 3, 1_000).tolist(), strict=True))
        experiment.record_covariate(spent)
        outcomes = []
        for user, variant in seen.items():
            effect = 0.5 if variant == "v2" else 0.0
            outcomes.append(Outcome(metric="revenue", value=spent[user] + effect, user=user, event="one"))
            outcomes.append(Outcome(metric="revenue", value=float(rng.normal()), user=user, event="two"))
            if rng.random() < 0.1 + effect / 5:
                outcomes.append(Outcome(metric="purchase", value=1, user=user))
            if rng.random() < 0.5:
                outcomes.append(Outcome(metric="rating", value=int(rng.integers(1, 6)), user=user))
        outcomes.append(Outcome(metric="purchase", value=1, user="stranger"))
        clock.forward(days=1)
        experiment.record_many(outcomes)
    return experiment


class TestMeasuring:
    def test_against_numpy(self, settings: Settings, clock: Any) -> None:
        experiments = Experiments(settings, now=clock)
        metrics = [{"name": "revenue", "kind": "numeric"}, {"name": "rating", "kind": "numeric", "missing": "skip"}]
        experiment = experiments.create(
            actor="ann", auto_start=True, name="x", variants=["v1", "v2"], metrics=metrics, covariate="before"
        )
        rng = np.random.default_rng(1)
        users = [f"u{number}" for number in range(300)]
        seen = experiment.assign(users)
        revenue, before = rng.normal(5, 2, 300), rng.normal(size=300)
        experiment.record_covariate(dict(zip(users[:250], before.tolist(), strict=False)))
        outcomes = []
        for user, value in zip(users[:200], revenue.tolist(), strict=False):
            outcomes.append(Outcome(metric="revenue", value=value - 1, user=user, event="a"))
            outcomes.append(Outcome(metric="revenue", value=1.0, user=user, event="b"))
            outcomes.append(Outcome(metric="rating", value=value, user=user))
        experiment.record_many(outcomes)
        found = measure(experiments, experiment.standing()).now
        whole = np.where(np.arange(300) < 200, revenue, 0.0)
        x = np.where(np.arange(300) < 250, before - before[:250].mean(), 0.0)
        for variant in ("v1", "v2"):
            mine = np.array([seen[user] == variant for user in users])
            arm = found.metrics["revenue"][variant]
            assert (int(arm.n), found.users[variant]) == (mine.sum(), mine.sum())
            assert arm.mean == pytest.approx(whole[mine].mean())
            assert arm.variance == pytest.approx(whole[mine].var())
            assert arm.covariate is not None
            assert arm.covariate.variance == pytest.approx(x[mine].var())
            assert arm.covariate.covariance == pytest.approx(np.cov(whole[mine], x[mine], ddof=0)[0, 1])
            rated = mine & (np.arange(300) < 200)
            assert (int(found.metrics["rating"][variant].n)) == rated.sum()
            assert found.metrics["rating"][variant].mean == pytest.approx(revenue[rated].mean())

    def test_from_the_first_exposure_to_the_answer(self, experiment: Experiment) -> None:
        found = experiment.results(over_time=True)
        assert found.winner == "v2"
        purchase, revenue, rating = found.comparisons
        assert purchase.finding is revenue.finding is Finding.BETTER
        assert rating.finding is Finding.UNDECIDED
        assert revenue.difference == pytest.approx(0.5, abs=0.15)
        assert (revenue.variance_reduction or 0) == pytest.approx(0.9, abs=0.03)
        assert rating.users + rating.control_users < 0.6 * 3_000
        assert any("1 users with outcomes never saw a variant" in note for note in found.notes)

    def test_the_past_is_what_was_known_then(self, experiment: Experiment) -> None:
        found = experiment.results(over_time=True)
        sizes = [sum(point.users.values()) for point in found.past]
        assert sizes == sorted(sizes)
        assert sizes[-1] == 3_000
        assert found.past[-1].comparisons == found.comparisons
        assert experiment.results().past == []


class TestReport:
    def test_it_says_what_was_found(self, experiment: Experiment) -> None:
        found = experiment.results(over_time=True)
        html = render(experiment.standing(), found)
        assert found.headline in html
        assert html.count("<svg") >= 4
        assert "as asked" in html
        for outside in ("http://", "https://", "<script"):
            assert outside not in html.replace("http://www.w3.org", "")

    def test_before_there_is_anything(self, settings: Settings, clock: Any) -> None:
        experiment = Experiments(settings, now=clock).create(
            actor="ann", name="empty", variants=["v1", "v2"], metrics=[{"name": "purchase"}], description="<b>&"
        )
        html = render(experiment.standing(), experiment.results(over_time=True))
        assert "No data: nobody has seen a variant yet." in html
        assert "&lt;b&gt;&amp;" in html

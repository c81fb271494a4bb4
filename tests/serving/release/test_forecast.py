"""The forecast: within a fifth of what then happens, in a simulation of its own that asks the real judge."""

from dataclasses import replace

import numpy as np
import pytest

from headway.components.errors import UsageError
from headway.serving.platform import Counts, Histogram
from headway.serving.release.forecast import Forecast, forecast
from headway.serving.release.plan import ReleaseSpec, stages
from headway.serving.release.simulation import Behaviour
from headway.serving.release.sprt import SequentialTest
from headway.serving.release.verdict import Evidence, Measured, Outcome, Sums, judge

EDGES = [round(1.25**step, 3) for step in range(8, 30)]
QUICK = {"rollback_window_seconds": 0, "min_seconds": 0}
NO_LATENCY = {"guards": {"latency": None, "prediction_shift": None}}


def latencies(n=100_000, spread=0.5):
    from scipy.stats import norm

    below = np.concatenate([[0], norm.cdf((np.log(EDGES) - np.log(30)) / spread), [1]])
    return Histogram(edges=EDGES, counts=np.round(n * np.diff(below)).astype(int).tolist())


def requests_until(spec, index, stable, newcomer, wanted, *, runs=40, seed=9):
    """The newcomer's requests in one stage until the judge says `wanted`; its own draws, its own looks."""
    rng = np.random.default_rng(seed)
    planned = stages(spec, 2)
    stage = planned[index]
    part = stage.weights[0] / stage.weights[1]
    ends = []
    for _ in range(runs):
        old, new = Counts(), Counts()
        while True:
            step = max(15, new.requests // 20)
            old, new = old + answers(stable, round(step * part), rng), new + answers(newcomer, step, rng)
            sides = [
                Measured(variant=name, weight=weight, counts=counts)
                for name, weight, counts in zip(("v1", "v2"), stage.weights, (old, new), strict=True)
            ]
            evidence = Evidence(stable=sides[0], canary=sides[1])
            if judge(spec, stage, evidence, stages=len(planned)).outcome is wanted:
                break
            assert new.requests < 200_000
        ends.append(new.requests)
    return float(np.mean(ends))


def answers(behaviour, n, rng):
    errors = int(rng.binomial(n, behaviour.error_rate))
    slow = Histogram(edges=[], counts=[n])
    if behaviour.latency:
        counts = rng.multinomial(n, np.asarray(behaviour.latency) / sum(behaviour.latency)).tolist()
        slow = Histogram(edges=list(behaviour.edges), counts=counts)
    return Counts(requests=n, server_errors=errors, latency_ms=slow)


def near(value):
    return pytest.approx(value, rel=0.2)


@pytest.mark.parametrize("error_rate", [0.0, 0.005])
def test_requests_of_a_stage_are_within_a_fifth(error_rate):
    spec = ReleaseSpec.parse({**QUICK, **NO_LATENCY, "steps": [10, 100]})
    found = forecast(spec, requests_per_hour=360_000, error_rate=error_rate, releases=400)
    good = Behaviour(error_rate=error_rate)
    assert found.stages[0].newcomer_requests == near(requests_until(spec, 0, good, good, Outcome.PASS))
    assert found.stages[0].passes == 1
    assert found.stages[0].requests == pytest.approx(10 * found.stages[0].newcomer_requests)
    assert found.stages[0].hours == pytest.approx(found.stages[0].requests / 360_000)


def test_with_latencies_too():
    guards = {"guards": {"server_errors": None, "rejected": None, "prediction_shift": None}}
    spec = ReleaseSpec.parse({**QUICK, **guards, "steps": [50, 100]})
    histogram = latencies()
    found = forecast(spec, requests_per_hour=360_000, latency_ms=histogram, releases=300)
    shares = [count / histogram.total for count in histogram.counts]
    good = Behaviour(edges=EDGES, latency=shares)
    assert found.stages[0].newcomer_requests == near(requests_until(spec, 0, good, good, Outcome.PASS))
    (slow,) = found.harms
    assert slow.name == "p99 latency x 1.5"
    assert slow.caught == 1


def test_harm_is_within_a_fifth():
    spec = ReleaseSpec.parse({**QUICK, **NO_LATENCY, "steps": [25, 100]})
    found = forecast(spec, requests_per_hour=360_000, error_rate=0.01, harm=2.0, releases=400)
    (harm,) = found.harms
    good = Behaviour(error_rate=0.01)
    bad = replace(good, error_rate=0.03)
    assert harm.newcomer_requests == near(requests_until(spec, 0, good, bad, Outcome.FAIL, runs=50))
    assert harm.caught == 1
    assert harm.extra_failures == pytest.approx(0.02 * harm.newcomer_requests)


@pytest.mark.parametrize(("goal", "good", "bad"), [("no_worse", 0.0, -0.05), ("better", 0.05, 0.0)])
def test_outcomes_of_the_decision_are_within_a_fifth(goal, good, bad):
    decision = {"metric": "accuracy", "minimum_effect": 0.05, "goal": goal, "min_outcomes": 20}
    spec = ReleaseSpec.parse({**QUICK, **NO_LATENCY, "steps": [50, 100], "decision": decision})
    found = forecast(spec, requests_per_hour=3_600, outcome_sd=0.5, outcomes_per_request=0.5, releases=20).decision
    for difference, forecasted in ((good, found.outcomes_if_good), (bad, found.outcomes_if_bad)):
        assert forecasted == near(outcomes_until_decided(spec.decision, 0.4, 0.4 + difference))
    assert found.hours_if_good == pytest.approx(found.outcomes_if_good / 1_800)
    assert max(found.outcomes_if_good, found.outcomes_if_bad) < found.outcomes_fixed
    assert found.newcomer_part == 0.5


def outcomes_until_decided(rule, old, new, *, runs=600, step=5):
    from headway.serving.release.sprt import information

    rng, test, ends = np.random.default_rng(5), SequentialTest.of(rule), []
    for _ in range(runs):
        sums = [0, 0]
        for n in range(step, 100_000, step):
            sums = [total + rng.binomial(step, share) for total, share in zip(sums, (old, new), strict=True)]
            if n < rule.min_outcomes:
                continue
            pair = [Sums(n=n, total=total, total_of_squares=total) for total in sums]
            ratio = test.log_ratio((sums[1] - sums[0]) / n, information(*pair))
            if not test.lower < ratio < test.upper:
                break
        ends.append(2 * n)
    return np.mean(ends)


def test_too_little_traffic_is_said():
    found = forecast(ReleaseSpec.parse(QUICK), requests_per_hour=200, error_rate=0.01, releases=20)
    assert found.stages[0].passes == 0
    assert found.rows[0][-1] == "timeout"
    assert "only 0 of 100 releases pass before the stage's timeout" in " ".join(found.sentences)


def test_users_who_see_it_are_counted_by_share():
    spec = ReleaseSpec.parse({**QUICK, **NO_LATENCY, "steps": [10, 100]})
    found = forecast(spec, requests_per_hour=36_000, users_per_hour=1_000, releases=50)
    stage = found.stages
    assert found.users == pytest.approx(1_000 * (0.1 * stage[0].hours + stage[1].hours))
    assert found.harms[0].users == pytest.approx(1_000 * 0.1 * found.harms[0].hours, rel=0.01)
    assert any("users see it" in sentence for sentence in found.sentences)


@pytest.mark.parametrize("strategy", ["canary", "blue_green", "shadow", "first"])
def test_every_strategy_has_a_forecast_that_can_be_shown_and_stored(strategy):
    spec = ReleaseSpec.parse({"strategy": strategy})
    found = forecast(spec, requests_per_hour=360_000, latency_ms=latencies(), releases=20)
    assert Forecast.model_validate_json(found.model_dump_json()) == found
    assert all(len(row) == len(found.headings) for row in found.rows)
    assert found.hours < 1
    assert all(found.sentences)


@pytest.mark.parametrize("wrong", [{"requests_per_hour": 0}, {"requests_per_hour": 9, "error_rate": 1.5}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        forecast(ReleaseSpec(), **wrong)


def test_it_says_the_same_twice():
    spec = ReleaseSpec.parse(QUICK)
    once, again = (forecast(spec, requests_per_hour=360_000, releases=20) for _ in range(2))
    assert once == again

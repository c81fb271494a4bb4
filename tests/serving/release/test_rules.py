"""The rules over whole releases: how often a good version is taken back, a bad one caught, a harmful one shipped.

Simulated with `simulation`, which must say what `judge` says of the same counts.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.serving.platform import Counts, Histogram
from headway.serving.release import rules
from headway.serving.release.findings import levels_of
from headway.serving.release.plan import ReleaseSpec, stages
from headway.serving.release.rules import Levels
from headway.serving.release.simulation import Behaviour, Tallies, _call, simulate
from headway.serving.release.verdict import Evidence, Measured, Outcome, judge

EDGES = [round(1.25**step, 3) for step in range(8, 36)]
"""From 6 ms to 2.5 s."""
SCORE_EDGES = [0.2, 0.4, 0.6, 0.8]
LEVELS = Levels(worse=0.003, harm=0.05)


def behaviour(error_rate=0.01, spread=0.6):
    from scipy.stats import norm

    below = np.concatenate([[0], norm.cdf((np.log(EDGES) - np.log(30)) / spread), [1]])
    return Behaviour(
        error_rate=error_rate,
        rejected_rate=0.005,
        edges=EDGES,
        latency=np.diff(below).tolist(),
        scores=[0.1, 0.2, 0.4, 0.2, 0.1],
    )


def go(spec, newcomer, *, stable=None, releases=300, rate=100, **more):
    spec = ReleaseSpec.parse(spec)
    return simulate(
        spec,
        stages(spec, 2),
        stable or behaviour(),
        newcomer,
        requests_per_second=rate,
        releases=releases,
        **{"look_seconds": 5, "growth": 0.01, **more},
    )


def within(alpha, releases):
    """Three standard deviations above."""
    return alpha + 3 * (alpha * (1 - alpha) / releases) ** 0.5


class TestGoodNewcomer:
    def test_is_hardly_ever_taken_back_in_four_stages_with_all_guards(self):
        runs = go({}, behaviour())
        assert runs.fails.mean() <= within(0.05, 300) / 2
        assert runs.passes.mean() > 0.98

    def test_at_no_allowance_at_all_at_most_one_in_twenty_is_taken_back(self):
        """The hardest case: whatever is surely worse fails, at looks of some ten requests each."""
        tiny = {"max_increase": 1e-6}
        guards = {"server_errors": tiny, "rejected": tiny, "latency": {**tiny, "floor_ms": 0}}
        spec = {"guards": guards, "stage_timeout_hours": 0.2}
        runs = go({**spec, "steps": [50, 100]}, behaviour(), releases=600, rate=10, look_seconds=5, growth=0.0)
        assert 0 < runs.fails.mean() <= within(0.05, 600)


class TestBadNewcomer:
    @pytest.mark.parametrize(
        ("newcomer", "most_requests"),
        [
            (behaviour(error_rate=0.03), 1_500),
            (behaviour(error_rate=0.2), 60),
            (behaviour().slower(2), 300),
        ],
    )
    def test_is_taken_back_in_the_first_stage(self, newcomer, most_requests):
        runs = go({}, newcomer, look_seconds=2)
        assert runs.fails.all()
        assert (runs.stage == 0).all()
        assert runs.canary_requests.mean() < most_requests

    def test_at_twice_the_allowance_it_hardly_ever_ships(self):
        spec = {"guards": {"latency": None, "prediction_shift": None}}
        assert go(spec, behaviour(error_rate=0.03), releases=1_000).passes.mean() == 0

    def test_at_the_allowance_it_ships_no_more_often_than_alpha(self):
        """One stage only, so that nothing but this stage's verdict stands between it and the users."""
        spec = {"guards": {"latency": None, "prediction_shift": None}, "strategy": "blue_green"}
        runs = go({**spec, "rollback_window_seconds": 0, "stage_timeout_hours": 0.5}, behaviour(error_rate=0.02))
        assert runs.passes.mean() <= within(0.05, 300)

    @pytest.mark.parametrize("slower", [1.5, 1.6])
    def test_at_the_allowed_latency_too(self, slower):
        guards = {"server_errors": None, "rejected": None, "prediction_shift": None, "latency": {"max_increase": 0.5}}
        runs = go({"guards": guards, "steps": [50, 100], "stage_timeout_hours": 0.2}, behaviour().slower(slower))
        assert runs.passes.mean() <= within(0.05, 300)


def test_waiting_for_a_sure_breach_of_the_allowance_would_take_many_times_the_requests():
    """Why `rise` fails on a sure rise that is measured beyond the allowance."""
    rng = np.random.default_rng(1)
    totals = np.arange(1, 601) * 20
    olds = rng.binomial(380, 0.01, (100, 600)).cumsum(axis=1)
    news = rng.binomial(20, 0.03, (100, 600)).cumsum(axis=1)
    counts = (olds, totals * 19, news, totals)
    fails = rules.rise(*counts, allowed=0.01, levels=LEVELS).fails
    strict = rules.rise_evidence(*counts, rise=0.01, typical=0.01) > -np.log(LEVELS.worse)
    strict &= news / totals > olds / (totals * 19) + 0.01
    first = [totals[found.argmax(axis=1)].mean() for found in (fails, strict)]
    print(f"{first[0]:.0f} requests, against {first[1]:.0f}")
    assert first[1] > 4 * first[0]


@st.composite
def counted(draw, largest):
    total = draw(st.integers(1, largest))
    return draw(st.integers(0, total)), total


@given(counted(10**6), counted(10**5), st.sampled_from([0.001, 0.01, 0.2]))
def test_the_quick_rule_for_a_rise_says_what_its_limits_say(old, new, allowed):
    counts = (*old, *new)
    quick = rules.rise(*counts, allowed=allowed, levels=LEVELS)
    limits = rules.rise_limits(*counts, allowed=allowed, levels=LEVELS)
    slow = rules.rise_within(limits, allowed)
    if abs(limits.low) > 1e-5:
        assert quick.fails == slow.fails
    if abs(limits.high - allowed) > 1e-5:
        assert quick.passes == slow.passes


@given(
    st.lists(st.integers(0, 10**6), min_size=6, max_size=6),
    st.lists(st.integers(0, 10**4), min_size=6, max_size=6),
    st.sampled_from([0.9, 0.99]),
)
def test_nothing_both_fails_and_passes(old, new, level):
    edges = [1.25**step for step in range(5)]
    call = rules.latency(edges, old, new, level=level, max_increase=0.5, floor=1.0, levels=LEVELS)
    assert not (call.fails and call.passes)
    limits = rules.shift_limits(old, new, LEVELS)
    assert 0 <= limits.low <= limits.high <= 1
    assert limits.low <= limits.measured + 1e-9 or not sum(old) or not sum(new)


def test_shift_limits_hold_for_equal_and_for_moved_predictions():
    rng, paths = np.random.default_rng(2), 500
    for shares, distance in (([0.1, 0.2, 0.4, 0.2, 0.1], 0.0), ([0.2, 0.3, 0.3, 0.1, 0.1], 0.2)):
        old = rng.multinomial(400, [0.1, 0.2, 0.4, 0.2, 0.1], (paths, 60)).cumsum(axis=1)
        new = rng.multinomial(40, shares, (paths, 60)).cumsum(axis=1)
        limits = rules.shift_limits(old, new, Levels(worse=0.05, harm=0.05))
        assert (limits.low > distance + 1e-9).any(axis=1).mean() <= within(0.05, paths)
        assert (limits.high < distance).any(axis=1).mean() <= within(0.05, paths)


@pytest.mark.parametrize("newcomer", [behaviour(), behaviour(error_rate=0.04), behaviour().slower(1.7)])
def test_the_simulation_calls_as_the_judge_does(newcomer):
    """The same counts, at eight sizes of the newcomer's traffic, through both."""
    spec = ReleaseSpec()
    stage = stages(spec, 2)[0]
    rng = np.random.default_rng(3)
    seen = set()
    for size in (5, 20, 80, 300, 1_000, 2_000, 4_000, 9_000):
        stable = Tallies.drawn(behaviour(), size * 19, 3, rng)
        canary = Tallies.drawn(newcomer, size, 3, rng)
        levels = levels_of(spec, stages=4)
        call = _call(spec, stage, levels, EDGES, stable, canary, np.ones(3, dtype=bool))
        for index in range(3):
            sides = [
                Measured(variant=name, weight=weight, counts=as_counts(tallies, index))
                for name, weight, tallies in (("v1", 9_500, stable), ("v2", 500, canary))
            ]
            outcome = judge(spec, stage, Evidence(stable=sides[0], canary=sides[1]), stages=4).outcome
            seen.add(outcome)
            assert (outcome is Outcome.FAIL) == call.fails[index]
            assert (outcome is Outcome.PASS) == (call.passes[index] and not call.fails[index])
    assert Outcome.INCONCLUSIVE in seen
    assert len(seen) > 1


def as_counts(tallies, index):
    rejected = int(tallies.rejected[index])
    return Counts(
        requests=int(tallies.answers[index]) + rejected,
        server_errors=int(tallies.errors[index]),
        client_errors=rejected,
        rejected=rejected,
        latency_ms=Histogram(edges=EDGES, counts=tallies.latency[index].tolist()),
        scores=Histogram(edges=SCORE_EDGES, counts=tallies.scores[index].tolist()),
    )

"""Intervals hold at every look: shown by simulation, at their stated error rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from headway.serving.experiment.analysis import EXACT_ALPHA, EXACT_BELOW
from headway.serving.experiment.means import Covariate, Moments, adjusted, difference, lift, radius
from headway.serving.release.statistics import rise_high, rise_low

Floats = NDArray[np.float64]
RUNS = 1_000


def looks(values: Floats, in_arm: NDArray[np.bool_], at: NDArray[np.int64], before: Floats | None = None) -> Moments:
    """Moments of an arm after so many users, at each look; `values` is (runs, users), the result (runs, looks)."""

    def total(x: Floats) -> Floats:
        return np.asarray(np.where(in_arm, x, 0.0).cumsum(axis=1)[:, at - 1])

    n = in_arm.cumsum(axis=1)[:, at - 1].astype(np.float64)
    mean = total(values) / n
    variance = total(values**2) / n - mean**2
    if before is None:
        return Moments(n, mean, variance)
    x_mean = total(before) / n
    covariate = Covariate(x_mean, total(before**2) / n - x_mean**2, total(before * values) / n - x_mean * mean)
    return Moments(n, mean, variance, covariate=covariate)


def allowed(rate: float, runs: int = RUNS) -> float:
    """The largest share of runs that a rate gives by chance, four standard deviations above it."""
    return float(rate + 4 * np.sqrt(rate * (1 - rate) / runs))


class TestCoverage:
    @pytest.mark.parametrize("share", [0.5, 0.1])
    @pytest.mark.parametrize("kind", ["normal", "lognormal", "spread"])
    def test_looking_after_every_hundred_users(self, kind: str, share: float) -> None:
        rng = np.random.default_rng(1)
        size = (RUNS, 4_000)
        in_new = rng.random(size) < share
        effect = 0.3
        noise = {
            "normal": lambda: rng.normal(size=size),
            "lognormal": lambda: rng.lognormal(0, 0.8, size=size),
            "spread": lambda: rng.normal(size=size) * np.where(in_new, 3.0, 1.0),
        }[kind]()
        values = noise + effect * in_new
        # From 100 users of the smaller arm on, as `min_users` asks.
        at = np.arange(round(130 / share), 4_001, 50)
        old, new = looks(values, ~in_new, at), looks(values, in_new, at)
        found = difference(old, new, alpha=0.05, planned=4_000)
        wrong = ((found.low > effect) | (found.high < effect)).any(axis=1).mean()
        assert wrong <= allowed(0.05), wrong

    def test_an_interval_for_one_look_would_not_do(self) -> None:
        rng = np.random.default_rng(2)
        size = (RUNS, 4_000)
        in_new = rng.random(size) < 0.5
        values = rng.normal(size=size)
        at = np.arange(200, 4_001, 50)
        old, new = looks(values, ~in_new, at), looks(values, in_new, at)
        naive = np.abs(new.mean - old.mean) > 1.96 * np.sqrt(old.variance / old.n + new.variance / new.n)
        assert naive.any(axis=1).mean() > 0.2

    @pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
    def test_conversions_exact_at_first_then_asymptotic(self, rate: float) -> None:
        """The rule of `compare`, over many runs at once."""
        rng = np.random.default_rng(3)
        size = (400, 8_000)
        in_new = rng.random(size) < 0.5
        values = (rng.random(size) < rate).astype(np.float64)
        at = np.unique(np.geomspace(50, 8_000, 40).astype(np.int64))
        old, new = looks(values, ~in_new, at), looks(values, in_new, at)
        rarer = np.minimum(*(arm.n * np.minimum(arm.mean, 1 - arm.mean) for arm in (old, new)))
        later = difference(old, new, alpha=0.05 * (1 - EXACT_ALPHA), planned=10_000)
        counts = (np.rint(old.n * old.mean), old.n, np.rint(new.n * new.mean), new.n)
        low, high = (limit(*counts, alpha=0.05 * EXACT_ALPHA / 2) for limit in (rise_low, rise_high))
        low, high = np.where(rarer < EXACT_BELOW, low, later.low), np.where(rarer < EXACT_BELOW, high, later.high)
        wrong = ((low > 0) | (high < 0)).any(axis=1).mean()
        assert wrong <= allowed(0.05, 400), wrong

    def test_with_a_covariate(self) -> None:
        rng = np.random.default_rng(4)
        size = (RUNS, 3_000)
        in_new = rng.random(size) < 0.5
        before = rng.normal(size=size)
        values = 0.8 * before + 0.6 * rng.normal(size=size) + 0.1 * in_new
        at = np.arange(250, 3_001, 50)
        old, new = adjusted(looks(values, ~in_new, at, before), looks(values, in_new, at, before))
        found = difference(old, new, alpha=0.05, planned=3_000)
        assert ((found.low > 0.1) | (found.high < 0.1)).any(axis=1).mean() <= allowed(0.05)

    def test_lift(self) -> None:
        rng = np.random.default_rng(5)
        size = (RUNS, 3_000)
        in_new = rng.random(size) < 0.5
        values = rng.gamma(4, 1, size=size) * np.where(in_new, 1.1, 1.0)
        at = np.arange(250, 3_001, 50)
        found = lift(looks(values, ~in_new, at), looks(values, in_new, at), alpha=0.05, planned=3_000)
        assert ((found.low > 0.1) | (found.high < 0.1)).any(axis=1).mean() <= allowed(0.05)
        assert found.value[:, -1].mean() == pytest.approx(0.1, abs=0.01)


class TestCuped:
    def test_it_takes_out_what_the_covariate_explains_and_adds_no_bias(self) -> None:
        rng = np.random.default_rng(6)
        size = (RUNS, 2_000)
        correlation = 0.8
        in_new = rng.random(size) < 0.5
        before = rng.normal(3, 2, size=size)
        values = correlation * (before - 3) / 2 + np.sqrt(1 - correlation**2) * rng.normal(size=size) + 0.2 * in_new
        at = np.array([2_000])
        plain = looks(values, ~in_new, at, before), looks(values, in_new, at, before)
        less = adjusted(*plain)
        without, within = ((new.mean - old.mean)[:, 0] for old, new in (plain, less))
        assert within.var() / without.var() == pytest.approx(1 - correlation**2, rel=0.15)
        assert (less[0].variance / plain[0].variance).mean() == pytest.approx(1 - correlation**2, rel=0.02)
        assert within.mean() == pytest.approx(0.2, abs=4 * within.std() / np.sqrt(RUNS))
        # The width says what the estimate does: the standard error is neither flattered nor inflated.
        claimed = np.sqrt(less[0].variance / less[0].n + less[1].variance / less[1].n)
        assert claimed.mean() == pytest.approx(within.std(), rel=0.1)

    def test_a_covariate_that_explains_nothing_changes_little(self) -> None:
        rng = np.random.default_rng(7)
        size = (50, 5_000)
        in_new = rng.random(size) < 0.5
        values, before = rng.normal(size=size), rng.normal(size=size)
        plain = [looks(values, arm, np.array([5_000]), before) for arm in (~in_new, in_new)]
        less = adjusted(*plain)
        assert less[0].variance == pytest.approx(plain[0].variance, rel=0.01)

    def test_a_constant_covariate_and_none(self) -> None:
        zero = np.asarray(0.0)
        arm = Moments(np.asarray(10.0), np.asarray(2.0), np.asarray(1.0), None, Covariate(zero, zero, zero))
        less, _ = adjusted(arm, arm)
        assert (float(less.mean), float(less.variance)) == (2.0, 1.0)
        bare = arm._replace(covariate=None)
        assert adjusted(bare, arm) == (bare, arm)


class TestShape:
    @given(st.floats(10, 1e7), st.floats(0.01, 0.3), st.floats(100, 1e6))
    def test_it_is_tightest_where_it_was_planned(self, users: float, alpha: float, planned: float) -> None:
        from scipy.stats import norm

        def width(at: float, plan: float) -> float:
            return float(radius(at, 1.0, alpha=alpha, planned=plan))

        assert width(planned, planned) <= 1.01 * min(width(planned, 0.25 * planned), width(planned, 4 * planned))
        assert width(2 * users, planned) < width(users, planned)
        # Never narrower than an interval for a single look.
        assert width(users, planned) > norm.isf(alpha / 2) / np.sqrt(users)

    def test_the_price_of_looking_all_the_time(self) -> None:
        """At the planned number the interval is about 1.55 times one for a single look."""
        assert float(radius(10_000, 1.0, alpha=0.05, planned=10_000)) / (1.96 / 100) == pytest.approx(1.55, abs=0.02)

    def test_lift_needs_a_control_above_zero(self) -> None:
        old, new = (Moments(np.asarray(1_000.0), np.asarray(mean), np.asarray(1.0)) for mean in (0.01, 0.2))
        assert np.isnan(lift(old, new, alpha=0.05, planned=2_000).value)

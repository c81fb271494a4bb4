"""The confidence sequences: wrong at some look no more often than they say, exact where one can count, and tight."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.serving.release.statistics import (
    allocation_evidence,
    rise_evidence,
    rise_high,
    rise_low,
    share_high,
    share_low,
)

PATHS = 2_000
ALPHA = 0.05


def most(alpha: float, paths: int) -> float:
    """The largest share of wrong paths that chance explains: three standard deviations above alpha."""
    return alpha + 3 * (alpha * (1 - alpha) / paths) ** 0.5


@st.composite
def counted(draw, largest=10**9):
    total = draw(st.one_of(st.integers(0, 50), st.integers(0, largest)))
    return draw(st.integers(0, total)), total


class TestShare:
    @pytest.mark.parametrize("share", [0.003, 0.03, 0.4])
    @pytest.mark.parametrize("typical", [0.01, 0.5])
    def test_is_wrong_at_some_of_five_hundred_looks_no_more_often_than_it_says(self, share, typical):
        looks = np.arange(1, 501)
        events = (np.random.default_rng(1).random((PATHS, 500)) < share).cumsum(axis=1)
        low = share_low(events, looks, alpha=ALPHA, typical=typical) > share
        high = share_high(events, looks, alpha=ALPHA, typical=typical) < share
        # Both sides come from one martingale, so together they have the budget of one.
        assert (low | high).any(axis=1).mean() <= most(ALPHA, PATHS)

    @pytest.mark.parametrize("share", [0.01, 0.2])
    def test_counted_out_over_all_paths_of_three_hundred_answers(self, share):
        """The exact chance to be wrong by then, by dynamic programming over the counts."""
        alive, wrong = np.array([1.0]), 0.0
        for total in range(1, 301):
            alive = np.append(alive * (1 - share), 0) + np.append(0, alive * share)
            events = np.arange(total + 1)
            out = (share_low(events, total, alpha=ALPHA, typical=0.01) > share) | (
                share_high(events, total, alpha=ALPHA, typical=0.01) < share
            )
            wrong += alive[out].sum()
            alive[out] = 0
        assert 0.001 < wrong <= ALPHA

    @given(counted(), st.sampled_from([1e-6, 0.003, 0.05, 0.5]), st.sampled_from([0.001, 0.01, 0.5, 0.9]))
    def test_holds_the_estimate_and_is_a_number(self, counts, alpha, typical):
        events, total = counts
        low = float(share_low(events, total, alpha=alpha, typical=typical))
        high = float(share_high(events, total, alpha=alpha, typical=typical))
        assert 0 <= low <= high <= 1
        if total:
            assert low <= events / total + 1e-9
            assert high >= events / total - 1e-9

    @given(counted(10**6), st.sampled_from([0.003, 0.05]))
    def test_more_events_never_lower_it(self, counts, alpha):
        events, total = counts
        assert share_low(events + 1, total + 1, alpha=alpha) >= share_low(events, total + 1, alpha=alpha) - 1e-9

    @given(counted(10**6))
    def test_is_symmetric(self, counts):
        events, total = counts
        low, high = share_low(events, total, alpha=ALPHA), share_high(total - events, total, alpha=ALPHA)
        assert low == pytest.approx(1 - high, abs=1e-9)

    def test_the_root_is_where_the_mixture_says(self):
        from scipy.special import betaln, xlog1py, xlogy

        low = float(share_low(30, 1_000, alpha=0.01, typical=0.02))
        ratio = betaln(30.5, 24.5 + 970) - betaln(0.5, 24.5) - xlogy(30, low) - xlog1py(970, -low)
        assert ratio == pytest.approx(np.log(100), abs=1e-6)


class TestRise:
    @pytest.mark.parametrize(
        ("old", "new", "part"), [(0.01, 0.01, 20), (0.01, 0.02, 20), (0.0, 0.0, 3), (0.2, 0.15, 1), (0.5, 0.5, 1)]
    )
    def test_is_wrong_at_some_look_no_more_often_than_it_says(self, old, new, part):
        paths, looks, step = 1_000, 100, 20
        rng = np.random.default_rng(2)
        totals = np.arange(1, looks + 1) * step
        olds = rng.binomial(step * part, old, (paths, looks)).cumsum(axis=1)
        news = rng.binomial(step, new, (paths, looks)).cumsum(axis=1)
        evidence = rise_evidence(olds, totals * part, news, totals, rise=new - old, typical=0.01)
        assert (evidence > -np.log(ALPHA)).any(axis=1).mean() <= most(ALPHA, paths)

    def test_an_outage_that_hits_both_is_no_rise(self):
        """Errors of both jump from 1 % to 40 % and back: the counts move together, whatever the hour."""
        paths, looks = 1_000, 150
        rng = np.random.default_rng(3)
        share = np.where((np.arange(looks) > 50) & (np.arange(looks) < 70), 0.4, 0.01)
        totals = np.arange(1, looks + 1) * 10
        olds = rng.binomial(190, share, (paths, looks)).cumsum(axis=1)
        news = rng.binomial(10, share, (paths, looks)).cumsum(axis=1)
        evidence = rise_evidence(olds, totals * 19, news, totals, typical=0.01)
        assert (evidence > -np.log(ALPHA)).any(axis=1).mean() <= most(ALPHA, paths)

    @pytest.mark.parametrize("counts", [(3, 50, 6, 30), (0, 20, 3, 9), (20, 20, 3, 9), (1, 3, 2, 4), (0, 0, 5, 9)])
    def test_equals_the_search_of_all_pairs(self, counts):
        lows, highs = _by_search(*counts, alpha=0.05, typical=0.1)
        assert float(rise_low(*counts, alpha=0.05, typical=0.1)) == pytest.approx(lows, abs=2e-3)
        assert float(rise_high(*counts, alpha=0.05, typical=0.1)) == pytest.approx(highs, abs=2e-3)

    @given(counted(), counted(), st.sampled_from([0.003, 0.05]), st.sampled_from([0.01, 0.5]))
    def test_holds_the_estimate_and_is_a_number(self, old, new, alpha, typical):
        low = float(rise_low(*old, *new, alpha=alpha, typical=typical))
        high = float(rise_high(*old, *new, alpha=alpha, typical=typical))
        assert -1 <= low <= high <= 1
        if old[1] and new[1]:
            measured = new[0] / new[1] - old[0] / old[1]
            assert low - 1e-7 <= measured <= high + 1e-7

    @given(counted(), counted())
    def test_the_other_way_round_it_is_the_negative(self, old, new):
        high = rise_high(*old, *new, alpha=ALPHA, typical=0.01)
        assert float(rise_low(*new, *old, alpha=ALPHA, typical=0.01)) == -float(high)

    @given(counted(10**5), counted(10**4))
    def test_another_failure_never_makes_a_rise_less_sure(self, old, new):
        less = rise_low(*old, new[0], new[1] + 1, alpha=ALPHA, typical=0.01)
        more = rise_low(*old, new[0] + 1, new[1] + 1, alpha=ALPHA, typical=0.01)
        assert less <= 0 or more >= less - 1e-6

    @given(counted(10**6), counted(10**5), st.sampled_from([0.0, 0.01, 0.2]))
    def test_the_evidence_says_the_same_as_the_limit(self, old, new, rise):
        measured = (new[0] / new[1] if new[1] else 0.0) - (old[0] / old[1] if old[1] else 0.0)
        low = float(rise_low(*old, *new, alpha=ALPHA, typical=0.01))
        evidence = float(rise_evidence(*old, *new, rise=rise, typical=0.01))
        if measured > rise and abs(evidence + np.log(ALPHA)) > 0.01:
            assert (low > rise) == (evidence > -np.log(ALPHA))

    def test_needs_fewer_requests_than_two_sequences_at_half_the_budget(self):
        rng, alpha = np.random.default_rng(4), 0.003
        needed = {}
        for part in (19, 1):
            totals = np.arange(1, 501) * 20
            olds = rng.binomial(20 * part, 0.01, (100, 500)).cumsum(axis=1)
            news = rng.binomial(20, 0.03, (100, 500)).cumsum(axis=1)
            joint = rise_evidence(olds, totals * part, news, totals, typical=0.01) > -np.log(alpha)
            joint &= news / totals > olds / (totals * part)
            box = share_low(news, totals, alpha=alpha / 2, typical=0.01) > share_high(
                olds, totals * part, alpha=alpha / 2, typical=0.01
            )
            needed[part] = [totals[found.argmax(axis=1)].mean() for found in (joint, box)]
        print({part: [round(value) for value in values] for part, values in needed.items()})
        assert needed[19][1] > 1.15 * needed[19][0]
        assert needed[1][1] > 1.4 * needed[1][0]


class TestAllocation:
    def test_is_wrong_at_some_look_no_more_often_than_it_says(self):
        paths, rng = 2_000, np.random.default_rng(5)
        users = rng.multinomial(20, [0.95, 0.05], (paths, 200)).cumsum(axis=1)
        evidence = allocation_evidence(users, [0.95, 0.05])
        for alpha in (0.05, 0.001):
            assert (evidence > -np.log(alpha)).any(axis=1).mean() <= most(alpha, paths)

    def test_finds_a_split_of_48_to_52(self):
        users = np.random.default_rng(6).multinomial(100, [0.48, 0.52], (200, 400)).cumsum(axis=1)
        found = (allocation_evidence(users, [0.5, 0.5]) > np.log(1_000)).any(axis=1)
        assert found.mean() > 0.99

    def test_finds_a_variant_that_gets_nothing_soon(self):
        assert allocation_evidence([400, 0], [0.95, 0.05]) > np.log(1_000)
        assert allocation_evidence([0, 0], [0.95, 0.05]) == 0

    @given(st.lists(st.integers(0, 10**9), min_size=3, max_size=3))
    def test_is_a_number_and_knows_no_order(self, counts):
        evidence = float(allocation_evidence(counts, [0.2, 0.3, 0.5]))
        assert np.isfinite(evidence)
        assert float(allocation_evidence(counts[::-1], [0.5, 0.3, 0.2])) == pytest.approx(evidence, rel=1e-9, abs=1e-6)


def _by_search(old, old_total, new, new_total, *, alpha, typical):
    """The extreme differences over a grid of all pairs that are not ruled out."""
    from scipy.stats import betabinom, binom

    shares = np.linspace(0.0005, 0.9995, 1_000)
    prior = (0.5, 0.5 / typical - 0.5)
    x, y = (
        betabinom.pmf(events, total, *prior) / binom.pmf(events, total, shares)
        for events, total in ((old, old_total), (new, new_total))
    )
    kept = [
        q - p
        for (p, one), (q, other) in product(zip(shares, x, strict=True), zip(shares, y, strict=True))
        if (one + other + one * other) / 3 < 1 / alpha
    ]
    return min(kept), max(kept)

"""Quantiles of histograms: limits that hold under heavy tails and ties, and an interpolation that fits tails."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.serving.release.quantiles import quantile, quantile_bins, quantile_high, quantile_low, shares_above

EDGES = np.array([1.25**step for step in range(42)])
ALPHA = 0.05
histograms = st.lists(st.integers(0, 10**6), min_size=5, max_size=5)


def paths_of(draw, paths, looks, step):
    """(paths, looks, bins) cumulated counts."""
    bins = np.searchsorted(EDGES, draw((paths, looks * step)), side="left")
    counts = np.zeros((paths, looks, len(EDGES) + 1), dtype=np.int64)
    rows, columns = np.arange(paths)[:, None], np.arange(looks * step) // step
    np.add.at(counts, (rows, np.broadcast_to(columns, bins.shape), bins), 1)
    return counts.cumsum(axis=1)


def heavy(rng):
    """Infinite mean: the share above x is (5 / x) ** 0.9."""
    return lambda shape: 5 * rng.random(shape) ** (-1 / 0.9)


def tied(rng):
    """A timer of whole steps, all values on edges."""
    return lambda shape: EDGES[np.minimum(10 + rng.geometric(0.3, shape), 41)]


@pytest.mark.parametrize("made", [heavy, tied])
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_limits_are_wrong_at_some_look_no_more_often_than_they_say(made, level):
    paths = 400
    rng = np.random.default_rng(1)
    counts = paths_of(made(rng), paths, 40, 50)
    true_bin = np.searchsorted(EDGES, np.quantile(made(rng)(2_000_000), level), side="left")
    below, above = np.append(EDGES, np.inf)[true_bin - 1], np.append(EDGES, np.inf)[true_bin]
    slack = ALPHA + 3 * (ALPHA * (1 - ALPHA) / paths) ** 0.5
    # Which side of its bin's edges the true quantile lies on is all that the counts can tell.
    assert (quantile_low(EDGES, counts, level, alpha=ALPHA) > above).any(axis=1).mean() <= slack
    assert (quantile_high(EDGES, counts, level, alpha=ALPHA) < below).any(axis=1).mean() <= slack
    assert (~quantile_bins(counts, level, alpha=ALPHA)[..., true_bin]).any(axis=1).mean() <= slack


def test_many_values_leave_a_bin_or_two():
    counts = paths_of(heavy(np.random.default_rng(2)), 1, 1, 200_000)[0, 0]
    assert quantile_bins(counts, 0.95, alpha=0.001).sum() <= 2


@pytest.mark.parametrize("spread", [0.3, 0.6, 1.2])
def test_a_tail_quantile_is_read_within_three_percent(spread):
    from scipy.stats import norm

    counts = 1e6 * np.diff(np.concatenate([[0], norm.cdf((np.log(EDGES) - 3) / spread), [1]]))
    assert float(quantile(EDGES, counts, 0.99)) == pytest.approx(np.exp(3 + spread * norm.ppf(0.99)), rel=0.03)


def test_coarse_bins_still_tell_a_stretch_by_a_half():
    """Envoy's default bins are 2 to 2.5 wide."""
    from scipy.stats import norm

    edges = np.array([1, 5, 10, 25, 50, 100, 250, 500, 1000])
    found = []
    for middle in (20.0, 30.0):
        below = norm.cdf((np.log(edges) - np.log(middle)) / 0.5)
        found.append(float(quantile(edges, 1e6 * np.diff(np.concatenate([[0], below, [1]])), 0.99)))
    assert found[1] / found[0] == pytest.approx(1.5, rel=0.1)


@given(histograms, st.sampled_from([0.6, 0.9, 0.99]), st.sampled_from([0.001, 0.05]))
def test_the_limits_hold_the_estimate(counts, level, alpha):
    edges = EDGES[:4]
    value = quantile(edges, counts, level)
    low, high = (limit(edges, counts, level, alpha=alpha) for limit in (quantile_low, quantile_high))
    assert 0 <= low <= high
    if sum(counts):
        assert low <= value * (1 + 1e-9)
        assert value <= high * (1 + 1e-9)
        assert quantile_bins(counts, level, alpha=alpha).any()
    else:
        assert np.isnan(value)
        assert (low, high) == (0, np.inf)


@given(histograms, st.sampled_from([0.6, 0.9, 0.99]))
def test_it_lies_in_the_bin_where_the_values_say(counts, level):
    if not sum(counts):
        return
    value = float(quantile(EDGES[:4], counts, level))
    above, total = shares_above(counts)
    bins = np.flatnonzero(above <= (1 - level) * total)
    if not len(bins):
        assert value == np.inf
        return
    upper = EDGES[bins[0]]
    lower = EDGES[bins[0] - 1] if bins[0] else 0.0
    assert lower * (1 - 1e-9) <= value <= upper * (1 + 1e-9)

"""Confidence sequences for shares: limits that hold at every look at once, so anybody may look as often as they like.

A 95 % interval is wrong for one in twenty looks; whoever looks every second soon sees one that is wrong. A *confidence
sequence* is wrong at no look at all, with 95 %. All here are exact for any sample size, need only the counts, not the
order in which they came, and come from one construction, the beta-binomial mixture:

    BF(p) = probability of the counts under a mixture of all shares / their probability under the share p

If p is the true share, BF(p) is a non-negative martingale that starts at 1, and exceeds 1/alpha at some time with
probability alpha at most (Ville 1939). The shares with BF(p) < 1/alpha are the sequence: Robbins, "Statistical methods
related to the law of the iterated logarithm", 1970; Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", 2021.

For the difference of two shares the two martingales x = BF(p) and y = BF(q) are joined to (x + y + x y) / 3: a mean of
martingales is one. Its three terms bet on the first share, on the second, and on both; with 5 % of the traffic on one
side, the many requests of the other then cost next to nothing. Every term's logarithm is convex in (p, q), so the pairs
that are not ruled out form a convex set, and the differences an interval. The intersection of two sequences at alpha/2
would need about a quarter more requests at 5 % of the traffic, and half as many again at equal shares; the tests'
simulation prints both.

Why not a library: `confseq` is a C++ source distribution last released in January 2023, and neither it nor `savvi` has
the difference of two shares from counts; `gbstats` and `statsmodels` are asymptotic or for one look.

Everything is vectorised: counts are arrays of any shapes that broadcast, so that a thousand simulated releases run
through the very code that judges the real ones.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Floats = NDArray[np.float64]

_STEPS = 60
_TINY = 1e-300
_GRID = np.linspace(0, 1, 13)


def share_low(events: ArrayLike, total: ArrayLike, *, alpha: float, typical: float = 0.5) -> Floats:
    """Lower limit of a share: the chance that it ever exceeds the true share is `alpha` at most.

    Args:
        events: How many of them had the property.
        total: How many there were.
        alpha: Error probability over all looks, from 0 to 1.
        typical: Share at which the limit shall be tightest; it is valid everywhere.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> answers = rng.random((2_000, 1_000)) < 0.03
        >>> low = share_low(answers.cumsum(axis=1), np.arange(1, 1_001), alpha=0.05, typical=0.03)
        >>> float((low > 0.03).any(axis=1).mean()) <= 0.05
        True
        >>> float(share_low(30, 1_000, alpha=0.05, typical=0.03).round(4))
        0.0157
    """
    good, bad = _split(events, total)
    before, after = _prior(typical)
    return _low_root(_log_mixture(good, bad, before, after), good, bad, np.asarray(-np.log(alpha)))


def share_high(events: ArrayLike, total: ArrayLike, *, alpha: float, typical: float = 0.5) -> Floats:
    """Upper limit of a share: the chance that it ever falls below the true share is `alpha` at most.

    Example:
        >>> float(share_high(0, 1_000, alpha=0.05, typical=0.01).round(4))
        0.0045
    """
    good, bad = _split(events, total)
    before, after = _prior(typical)
    return np.asarray(1 - _low_root(_log_mixture(good, bad, before, after), bad, good, np.asarray(-np.log(alpha))))


def rise_low(
    old_events: ArrayLike,
    old_total: ArrayLike,
    new_events: ArrayLike,
    new_total: ArrayLike,
    *,
    alpha: float,
    typical: float = 0.5,
) -> Floats:
    """Lower limit of new share minus old share: the chance that it ever exceeds the true rise is `alpha` at most.

    It holds whatever decides which of the two is asked next, so long as that does not foresee the answer: shares of
    the traffic may be unequal, unknown, or differ from what was asked for.

    Args:
        old_events: How many of the old one's answers had the property.
        old_total: How many answers the old one gave.
        new_events: The same of the new one.
        new_total: The same of the new one.
        alpha: Error probability over all looks, from 0 to 1.
        typical: Share at which the limit shall be tightest; it is valid everywhere.

    Example:
        >>> float(rise_low(190, 19_000, 30, 1_000, alpha=0.05, typical=0.01).round(4))
        0.0029
        >>> float(rise_low(0, 0, 0, 0, alpha=0.05))
        -1.0
    """
    prior = _prior(typical)
    return _least_rise(*_split(old_events, old_total), *_split(new_events, new_total), alpha, prior)


def rise_high(
    old_events: ArrayLike,
    old_total: ArrayLike,
    new_events: ArrayLike,
    new_total: ArrayLike,
    *,
    alpha: float,
    typical: float = 0.5,
) -> Floats:
    """Upper limit of new share minus old share: the chance that it ever falls below the true rise is `alpha` at most.

    Example:
        >>> float(rise_high(190, 19_000, 10, 1_000, alpha=0.05, typical=0.01).round(4))
        0.0156
    """
    prior = _prior(typical)
    return -_least_rise(*_split(new_events, new_total), *_split(old_events, old_total), alpha, prior)


def rise_evidence(
    old_events: ArrayLike,
    old_total: ArrayLike,
    new_events: ArrayLike,
    new_total: ArrayLike,
    *,
    rise: float = 0.0,
    typical: float = 0.5,
) -> Floats:
    """Evidence (natural logarithm) against a rise of exactly `rise`, from new share minus old share.

    The chance that it ever exceeds `-log(alpha)` is `alpha` at most if that is the rise, or, where the measured rise
    lies above it, if the rise is smaller. So `rise_low(..., alpha=a) > r` says the same as
    `rise_evidence(..., rise=r) > -log(a)` together with a measured rise above r, for a sixth of the time.

    Example:
        >>> float(rise_evidence(190, 19_000, 30, 1_000, typical=0.01).round(2))
        6.74
    """
    old_good, old_bad, new_good, new_bad = (
        part[..., None] for part in np.broadcast_arrays(*_split(old_events, old_total), *_split(new_events, new_total))
    )
    prior = _prior(typical)
    old_mixture, new_mixture = _log_mixture(old_good, old_bad, *prior), _log_mixture(new_good, new_bad, *prior)
    least, most = max(0.0, -rise), min(1.0, 1.0 - rise)
    # Each term falls up to one of the two estimates and rises from there on: the least lies between them.
    first = np.clip(_estimate(old_good, old_bad), least, most)
    second = np.clip(_estimate(new_good, new_bad) - rise, least, most)
    low, high = np.minimum(first, second), np.maximum(first, second)

    def evidence(angle: Floats) -> Floats:
        share = np.sin(angle) ** 2
        x = _log_bf(old_mixture, old_good, old_bad, share)
        y = _log_bf(new_mixture, new_good, new_bad, np.clip(share + rise, 0.0, 1.0))
        return np.asarray(np.logaddexp(np.logaddexp(x, y), x + y) - np.log(3))

    # On this scale a share is known equally well everywhere, so that no minimum is too narrow for the grid.
    return _least(evidence, np.arcsin(np.sqrt(low)), np.arcsin(np.sqrt(high)), rounds=3)


def allocation_evidence(counts: ArrayLike, shares: "Sequence[float]", *, concentration: float = 100.0) -> Floats:
    """Evidence (natural logarithm) that units were not assigned with the probabilities asked for.

    The sequential multinomial test of Lindon and Malek, "Anytime-valid inference for multinomial count data", 2022: a
    Dirichlet mixture around the asked shares against these shares. The chance that it ever exceeds `-log(alpha)` under
    the asked shares is `alpha` at most.

    Args:
        counts: (..., k) units by variant.
        shares: (k,) the asked shares, all above 0, of sum 1.
        concentration: How near the asked shares the mixture looks first: 100 finds a share that is off by 5 points
            soonest.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> users = rng.multinomial(1, [0.48, 0.52], size=30_000).cumsum(axis=0)
        >>> int((allocation_evidence(users, [0.5, 0.5]) > np.log(1_000)).argmax())
        13657
    """
    from scipy.special import gammaln, xlogy

    units = np.asarray(counts, dtype=np.float64)
    asked = np.asarray(shares, dtype=np.float64)
    prior = concentration * asked
    mixture = (gammaln(prior + units) - gammaln(prior)).sum(axis=-1)
    mixture += gammaln(concentration) - gammaln(concentration + units.sum(axis=-1))
    return np.asarray(mixture - xlogy(units, asked).sum(axis=-1))


def _split(events: ArrayLike, total: ArrayLike) -> tuple[Floats, Floats]:
    good, whole = np.broadcast_arrays(np.asarray(events, dtype=np.float64), np.asarray(total, dtype=np.float64))
    return good, whole - good


def _prior(typical: float) -> tuple[float, float]:
    """A beta distribution of mean `typical` that keeps Jeffreys' 1/2 towards zero, so that no share is far from it."""
    return 0.5, max(0.5, 0.5 / typical - 0.5)


def _log_mixture(good: Floats, bad: Floats, before: float, after: float) -> Floats:
    from scipy.special import betaln

    return np.asarray(betaln(before + good, after + bad) - betaln(before, after))


def _log_bf(mixture: Floats, good: Floats, bad: Floats, share: Floats) -> Floats:
    from scipy.special import xlog1py, xlogy

    return np.asarray(mixture - xlogy(good, share) - xlog1py(bad, -share))


def _low_root(mixture: Floats, good: Floats, bad: Floats, budget: Floats) -> Floats:
    """The share below the estimate at which log BF reaches the budget; 0 where nothing had the property.

    Newton's method on the logit, where log BF is convex: the first step ends left of the root wherever it began, and
    the following ones never overstep.
    """
    from scipy.special import expit

    some = good > 0
    events = np.where(some, good, 1.0)
    # Left of here log BF is above the budget whatever the rest.
    bound = (mixture - budget) / events
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.log(events) - np.log(bad)
        gap = budget - _log_bf(mixture, events, bad, events / (events + bad))
        guess = estimate - np.sqrt(2 * np.maximum(gap, 0) * (1 / events + 1 / bad))
    logit = np.minimum(np.fmax(guess, bound), estimate)
    least = bound
    for _ in range(_STEPS):
        inside = expit(logit)
        above = mixture - budget + events * np.logaddexp(0, -logit) + bad * np.logaddexp(0, logit)
        slope = np.minimum(bad * inside - events * (1 - inside), -_TINY)
        moved = np.clip(logit - above / slope, least, estimate)
        far = np.abs(moved - logit).max(initial=0.0)
        # From now on only to the right: what moves to the left is rounding.
        logit = least = moved
        if far < 1e-7:
            break
    return np.asarray(np.where(some, expit(logit), 0.0))


def _least_rise(
    old_good: Floats, old_bad: Floats, new_good: Floats, new_bad: Floats, alpha: float, prior: tuple[float, float]
) -> Floats:
    """The least q - p over all pairs (p, q) with (x + y + x y) / 3 < 1 / alpha.

    For each p above the old estimate the least q follows in one root; over p the difference is convex.
    """
    old_good, old_bad, new_good, new_bad = (
        part[..., None] for part in np.broadcast_arrays(old_good, old_bad, new_good, new_bad)
    )
    old_mixture, new_mixture = _log_mixture(old_good, old_bad, *prior), _log_mixture(new_good, new_bad, *prior)
    limit = 3 / alpha
    least_y = _log_bf(new_mixture, new_good, new_bad, _estimate(new_good, new_bad))
    most_x = np.log((limit - np.exp(least_y)) / (1 + np.exp(least_y)))
    low, high = _estimate(old_good, old_bad), 1 - _low_root(old_mixture, old_bad, old_good, most_x)

    def rise(old_share: Floats) -> Floats:
        x = np.exp(np.minimum(_log_bf(old_mixture, old_good, old_bad, old_share), most_x))
        # Never below what the new share's own estimate takes, whatever the rounding.
        left = np.maximum(np.log(np.maximum(limit - x, _TINY) / (1 + x)), least_y)
        return _low_root(new_mixture, new_good, new_bad, left) - old_share

    return _least(rise, low, high, rounds=3)


def _least(function: "Callable[[Floats], Floats]", low: Floats, high: Floats, *, rounds: int) -> Floats:
    """The minimum of a function that falls and then rises, between two arrays of shape (..., 1), on finer grids."""
    for _ in range(rounds):
        grid = low + (high - low) * _GRID
        values = function(grid)
        best = values.argmin(axis=-1, keepdims=True)
        low = np.take_along_axis(grid, np.maximum(best - 1, 0), axis=-1)
        high = np.take_along_axis(grid, np.minimum(best + 1, len(_GRID) - 1), axis=-1)
    return np.asarray(np.take_along_axis(values, best, axis=-1)[..., 0])


def _estimate(good: Floats, bad: Floats) -> Floats:
    total = good + bad
    return np.asarray(np.where(total > 0, good / np.where(total > 0, total, 1.0), 0.0))

"""The guards' rules: from counts of both variants to whether the newcomer must go, may go on, or neither yet.

Three questions, three error probabilities:

- *Must it go?* It goes if its errors (or slow answers) are surely more than the stable one's **and** measured beyond
  what is allowed. `Levels.worse` holds for the first part: a version that is no worse goes with that chance at most.
  To wait until a rise is surely *beyond the allowance* would take about five times the requests: with 1 % of errors
  and one point allowed, a version at 3 % would answer some 5,000 requests instead of 1,000 before it goes. The price: a
  version that is worse, but not by what is allowed, may go too; one at half the allowance does in one of ten releases.
- *Must it go, for predicting otherwise?* A new version may, so here the allowance itself is the hypothesis: it goes if
  its predictions are surely further off than allowed.
- *May it go on?* Only if it is surely within the allowance. `Levels.harm` is the chance to let one go on that is not.
  This one is split over neither guards nor stages: a harmful version ships only if the very guard that it offends
  passes, in every stage (Berger, "Multiparameter hypothesis testing and acceptance sampling", 1982).

`Levels.worse` is the release's alpha over the number of guards, of stages and of newcomers (Bonferroni), because any of
these tests alone takes a version back. Counts start anew in each stage: while the weights stand still both variants see
the same traffic, whatever the hour; were the counts added over stages, a bad hour during the first stage, when nearly
all went to the stable one, would make the stable one look worse (Simpson's paradox).

What the sequences assume is that answers are independent of each other once the traffic is given. A user who sends
many requests, all of which fail, breaks that: the rules then see many failures where there is one.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.serving.release.quantiles import quantile, quantile_bins, quantile_high, quantile_low, shares_above
from headway.serving.release.statistics import Floats, rise_evidence, rise_high, rise_low, share_high, share_low

Truths = NDArray[np.bool_]

_LEAST_TYPICAL = 0.005
"""Sequences are tightest about the allowance, where it matters, but for smaller ones not below this: the shares
themselves need not be small only because their rise must be."""
_BIN_PART = 0.1
"""The part of a latency guard's error budget that goes into knowing in which bin the stable quantile lies."""


class Levels(NamedTuple):
    """Error probabilities of one guard in one stage."""

    worse: float
    """Chance to take back a version that is no worse."""
    harm: float
    """Chance to let a version go on that is worse than allowed."""


class Call(NamedTuple):
    """What a rule says; arrays of one shape."""

    fails: Truths
    passes: Truths


class Limits(NamedTuple):
    """A measured number and its confidence sequence; arrays of one shape."""

    measured: Floats
    low: Floats
    """At `Levels.worse`."""
    high: Floats
    """At `Levels.harm`."""


class Latencies(NamedTuple):
    """What the rule for latencies says, and its numbers in milliseconds; arrays of one shape."""

    fails: Truths
    passes: Truths
    old: Floats
    """The stable variant's quantile."""
    new: Floats
    """The newcomer's."""
    low: Floats
    high: Floats
    allowed: Floats


def rise(
    old_events: ArrayLike,
    old_total: ArrayLike,
    new_events: ArrayLike,
    new_total: ArrayLike,
    *,
    allowed: float,
    levels: Levels,
) -> Call:
    """The rule for a share that must not rise: server errors, refused requests.

    It says the same as `rise_within(rise_limits(...))` and takes a sixth of the time, for simulations.

    Args:
        old_events: The stable variant's failures.
        old_total: Its answers.
        new_events: The newcomer's failures.
        new_total: Its answers.
        allowed: How much the share may rise.
        levels: Error probabilities.

    Example:
        >>> levels = Levels(worse=0.003, harm=0.05)
        >>> [bool(said) for said in rise(190, 19_000, 34, 1_000, allowed=0.01, levels=levels)]
        [True, False]
        >>> [bool(said) for said in rise(190, 19_000, 20, 2_500, allowed=0.01, levels=levels)]
        [False, True]
    """
    measured = _ratio(new_events, new_total) - _ratio(old_events, old_total)
    counts = (old_events, old_total, new_events, new_total)
    typical = max(allowed, _LEAST_TYPICAL)
    worse = rise_evidence(*counts, rise=0.0, typical=typical)
    within = rise_evidence(*counts, rise=allowed, typical=typical)
    return Call(
        fails=(measured > allowed) & (worse > -np.log(levels.worse)),
        passes=(measured < allowed) & (within > -np.log(levels.harm)),
    )


def rise_limits(
    old_events: ArrayLike,
    old_total: ArrayLike,
    new_events: ArrayLike,
    new_total: ArrayLike,
    *,
    allowed: float,
    levels: Levels,
) -> Limits:
    """The rise of a share and its limits; arguments as in `rise`."""
    counts = (old_events, old_total, new_events, new_total)
    typical = max(allowed, _LEAST_TYPICAL)
    return Limits(
        _ratio(new_events, new_total) - _ratio(old_events, old_total),
        rise_low(*counts, alpha=levels.worse, typical=typical),
        rise_high(*counts, alpha=levels.harm, typical=typical),
    )


def rise_within(found: Limits, allowed: float) -> Call:
    """The rule for a share that must not rise, from its limits."""
    return Call(fails=(found.measured > allowed) & (found.low > 0), passes=found.high < allowed)


def latency(
    edges: ArrayLike,
    old_counts: ArrayLike,
    new_counts: ArrayLike,
    *,
    level: float,
    max_increase: float,
    floor: float,
    levels: Levels,
) -> Latencies:
    """The rule for a quantile of the latency.

    Surely slower: at an edge next to the stable quantile, the newcomer's share above it is surely larger. Where the
    stable quantile's bin is not known yet, that must hold at every bin where it may lie.

    Args:
        edges: (k,) in milliseconds.
        old_counts: (..., k + 1) the stable variant's answers by duration.
        new_counts: (..., k + 1) the newcomer's.
        level: 0.99 for the 99th percentile.
        max_increase: How much the quantile may rise, as a share.
        floor: A rise below this many milliseconds never counts.
        levels: Error probabilities.
    """
    old, new = quantile(edges, old_counts, level), quantile(edges, new_counts, level)
    with np.errstate(invalid="ignore"):
        allowed = allowed_latency(old, max_increase, floor)
        # Both limits may be wrong.
        high = quantile_high(edges, new_counts, level, alpha=levels.harm / 2)
        least = quantile_low(edges, old_counts, level, alpha=levels.harm / 2)
        passes = np.isfinite(high) & (high <= allowed_latency(least, max_increase, floor))
        fails = new > allowed
        if fails.any():
            fails = fails & _surely_slower(old_counts, new_counts, level, levels.worse)
    low = quantile_low(edges, new_counts, level, alpha=levels.worse)
    return Latencies(fails, passes, old, new, low, high, allowed)


def allowed_latency(old: Floats, max_increase: float, floor: float) -> Floats:
    """The largest quantile that is allowed when the stable variant's is `old`, in milliseconds."""
    return np.maximum(old * (1 + max_increase), old + floor)


def shift_limits(old_counts: ArrayLike, new_counts: ArrayLike, levels: Levels) -> Limits:
    """Kolmogorov-Smirnov distance of two histograms, with its limits.

    A sequence for the share below each edge and each variant, and the largest distance over all edges. At a level of
    0.003 and 19 edges this is narrower than the time-uniform Dvoretzky-Kiefer-Wolfowitz inequality of Howard and
    Ramdas, 2022: at most 0.081 instead of 0.096 for 1,000 predictions.

    Args:
        old_counts: (..., k + 1) the stable variant's predictions by bin.
        new_counts: (..., k + 1) the newcomer's.
        levels: Error probabilities: `worse` of the lower limit, `harm` of the upper one.

    Example:
        >>> found = shift_limits([4_000, 4_000, 2_000], [150, 200, 650], Levels(worse=0.003, harm=0.05))
        >>> [float(value.round(2)) for value in found]
        [0.45, 0.36, 0.52]
    """
    above, total = shares_above(np.stack(np.broadcast_arrays(old_counts, new_counts)))
    total = total[..., None]
    # The lower limit is wrong if it is so at any edge, through either variant, whose martingale covers both directions;
    # the upper limit only if it is so at the one edge where the distance is largest.
    sure, likely = levels.worse / (2 * above.shape[-1]), levels.harm / 2
    least, most = share_low(above, total, alpha=sure), share_high(above, total, alpha=sure)
    lows = np.maximum(least[1] - most[0], least[0] - most[1])
    least, most = share_low(above, total, alpha=likely), share_high(above, total, alpha=likely)
    highs = np.maximum(most[1] - least[0], most[0] - least[1])
    old, new = _ratio(above, total)
    return Limits(np.abs(new - old).max(axis=-1), np.maximum(lows.max(axis=-1), 0.0), highs.max(axis=-1))


def shift_within(found: Limits, allowed: float) -> Call:
    """The rule for what may change up to a limit, from its limits."""
    return Call(fails=found.low > allowed, passes=found.high < allowed)


def _surely_slower(old_counts: ArrayLike, new_counts: ArrayLike, level: float, alpha: float) -> Truths:
    possible = quantile_bins(old_counts, level, alpha=alpha * _BIN_PART)
    (old, old_total), (new, new_total) = shares_above(old_counts), shares_above(new_counts)
    old_total, new_total = old_total[..., None], new_total[..., None]
    evidence = rise_evidence(old, old_total, new, new_total, typical=1 - level)
    # One of two edges decides, so each has half of what is left.
    surely = evidence > -np.log(alpha * (1 - _BIN_PART) / 2)
    surely &= _ratio(new, new_total) > _ratio(old, old_total)
    nowhere = np.zeros((*surely.shape[:-1], 1), dtype=np.bool_)
    beside = np.concatenate([nowhere, surely], axis=-1) | np.concatenate([surely, nowhere], axis=-1)
    return np.asarray((beside | ~possible).all(axis=-1))


def _ratio(events: ArrayLike, total: ArrayLike) -> Floats:
    whole = np.asarray(total, dtype=np.float64)
    return np.asarray(np.asarray(events) / np.maximum(whole, 1.0))

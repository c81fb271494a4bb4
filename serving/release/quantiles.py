"""Quantiles of a histogram, and confidence sequences for them.

A quantile lies above an edge exactly when more than its share of the values does, so sequences for the shares above the
edges are one for the quantile. No edge costs extra: if the limit is wrong at some edge, it is wrong at the edge next to
the true quantile, for counts only fall from edge to edge (Howard and Ramdas, "Sequential estimation of quantiles with
applications to A/B testing and best-arm identification", 2022).

Inside a bin the share above falls by a power of the value, as the tails of latencies roughly do: a straight line, as in
Prometheus's `histogram_quantile`, reads a tail quantile too high by up to half the bin. How sure a limit is rests on
the edges alone; the interpolation only says where between two of them it lies.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from headway.serving.release.statistics import Floats, share_high, share_low

_FLOOR = 0.01
"""Where nothing lies above the bin's upper edge, the share there counts as this part of the wanted one."""


def quantile(edges: ArrayLike, counts: ArrayLike, level: float) -> Floats:
    """A quantile; infinite where it lies above the last edge, NaN where nothing was counted.

    Args:
        edges: (k,) ascending, above 0.
        counts: (..., k + 1) values by bin, a value equal to an edge in the bin below it.
        level: 0.99 for the 99th percentile.

    Example:
        >>> float(quantile([10, 20, 40], [900, 80, 18, 2], 0.99).round(2))
        24.64
    """
    above, total = shares_above(counts)
    found = _crossing(np.asarray(edges, dtype=np.float64), above / np.maximum(total, 1)[..., None], 1 - level)
    return np.asarray(np.where(total > 0, found, np.nan))


def quantile_low(edges: ArrayLike, counts: ArrayLike, level: float, *, alpha: float) -> Floats:
    """Lower limit of a quantile: the chance that it ever exceeds the true one is `alpha` at most, at the edges.

    Example:
        >>> float(quantile_low([10, 20, 40], [900, 80, 18, 2], 0.99, alpha=0.05).round(2))
        19.2
    """
    above, total = shares_above(counts)
    lows = share_low(above, total[..., None], alpha=alpha, typical=1 - level)
    places = np.asarray(edges, dtype=np.float64)
    found = _crossing(places, lows, 1 - level)
    # Below the first edge nothing is known.
    return np.asarray(np.where(found > places[0], found, 0.0))


def quantile_high(edges: ArrayLike, counts: ArrayLike, level: float, *, alpha: float) -> Floats:
    """Upper limit of a quantile: the chance that it ever falls below the true one is `alpha` at most, at the edges.

    Example:
        >>> float(quantile_high([10, 20, 40], [900, 80, 18, 2], 0.99, alpha=0.05).round(2))
        38.69
    """
    above, total = shares_above(counts)
    highs = share_high(above, total[..., None], alpha=alpha, typical=1 - level)
    return _crossing(np.asarray(edges, dtype=np.float64), highs, 1 - level)


def quantile_bins(counts: ArrayLike, level: float, *, alpha: float) -> NDArray[np.bool_]:
    """The bins in which the quantile may lie: the chance that the true one is ever left out is `alpha` at most.

    Args:
        counts: (..., k + 1) values by bin.
        level: 0.99 for the 99th percentile.
        alpha: Error probability over all looks.

    Returns:
        (..., k + 1)

    Example:
        >>> quantile_bins([9_000, 800, 180, 20], 0.99, alpha=0.05).tolist()
        [False, False, True, False]
    """
    above, total = shares_above(counts)
    whole, typical = total[..., None], 1 - level
    # The two edges of the true bin can each be wrong once.
    over = share_low(above, whole, alpha=alpha / 2, typical=typical) > typical
    under = share_high(above, whole, alpha=alpha / 2, typical=typical) < typical
    nowhere = np.zeros((*above.shape[:-1], 1), dtype=np.bool_)
    left_out = np.concatenate([nowhere, under], axis=-1) | np.concatenate([over, nowhere], axis=-1)
    return np.asarray(~left_out)


def shares_above(counts: ArrayLike) -> tuple[Floats, Floats]:
    """How many values lie above each edge, (..., k), and how many there are, (...).

    Example:
        >>> [part.tolist() for part in shares_above([5, 3, 2])]
        [[5.0, 2.0], 10.0]
    """
    values = np.asarray(counts, dtype=np.float64)
    total = values.sum(axis=-1)
    return total[..., None] - values.cumsum(axis=-1)[..., :-1], total


def _crossing(edges: Floats, above: Floats, share: float) -> Floats:
    """Where a falling curve through (edge, share above it) comes down to a share."""
    under = above <= share
    index = under.argmax(axis=-1)[..., None]
    left = np.maximum(index - 1, 0)
    high = np.take_along_axis(above, left, axis=-1)
    low = np.maximum(np.take_along_axis(above, index, axis=-1), share * _FLOOR)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.log(high / share) / np.log(high / low)
        power = edges[left] * (edges[index] / edges[left]) ** part
    # The first bin begins at 0, where a power has no meaning.
    line = edges[index] * (1 - share) / np.maximum(1 - low, share)
    found = np.where(index > 0, power, np.minimum(line, edges[index]))[..., 0]
    return np.asarray(np.where(under.any(axis=-1), found, np.inf))

"""Differences of means that may be looked at as often as one likes: asymptotic confidence sequences, CUPED, lift.

The difference of two arms' means is the mean of one value per user (the influence of each user on it), so an
asymptotic confidence sequence for a mean serves. With N users, V the variance of that value and a constant r:

    difference ± sqrt(V) sqrt( 2 (N r² + 1) / (N² r²) · ln( sqrt(N r² + 1) / alpha ) )

Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences",
Annals of Statistics 52, 2024, which treats randomised experiments too. It is valid at all looks from some
number of users on, as a normal interval is valid at one look; r makes it tightest at a planned number of users.

Everything is vectorised: moments are arrays of shapes that broadcast, so that simulations run the very code.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Covariate(NamedTuple):
    """What is known of a covariate of one arm's users; each of shape (...)."""

    mean: Floats
    variance: Floats
    """Over n."""
    covariance: Floats
    """With the metric, over n."""


class Moments(NamedTuple):
    """What is known of one arm's users; each of any shape (...)."""

    n: Floats
    """Users."""
    mean: Floats
    """Of the metric."""
    variance: Floats
    """Of the metric, over n."""
    skewness: Floats | None = None
    """Of the metric."""
    covariate: Covariate | None = None


class Difference(NamedTuple):
    """The second arm's mean minus the first one's, each of shape (...)."""

    value: Floats
    low: Floats
    high: Floats


def radius(users: ArrayLike, variance: ArrayLike, *, alpha: float, planned: float) -> Floats:
    """Half the width of the confidence sequence of a mean.

    Args:
        users: How many values the mean is of.
        variance: Their variance.
        alpha: Error probability over all looks, both sides together.
        planned: The number of values at which it shall be tightest; it is valid at any.

    Example:
        >>> float(radius(10_000, 1.0, alpha=0.05, planned=10_000).round(4))
        0.0304
        >>> float(radius(10_000, 1.0, alpha=0.05, planned=100).round(4))
        0.0356
    """
    n = np.asarray(users, dtype=np.float64)
    # The paper's approximation of the best r for a planned number.
    r2 = (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))) / planned
    width = 2 * (n * r2 + 1) / (n**2 * r2) * (np.log(n * r2 + 1) / 2 - np.log(alpha))
    return np.asarray(np.sqrt(np.asarray(variance, dtype=np.float64) * width))


def difference(old: Moments, new: Moments, *, alpha: float, planned: float) -> Difference:
    """The difference of two means with its confidence sequence.

    Args:
        old: The control.
        new: The other arm.
        alpha: Chance that the interval is ever wrong, over all looks.
        planned: Users of both arms together at which it shall be tightest.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> arms = [rng.normal(mean, 1, 5_000) for mean in (0, 0.1)]
        >>> old, new = (Moments(np.asarray(5_000), arm.mean(), arm.var()) for arm in arms)
        >>> [float(part.round(3)) for part in difference(old, new, alpha=0.05, planned=10_000)]
        [0.122, 0.061, 0.182]
    """
    value = np.asarray(new.mean - old.mean)
    half = radius(old.n + new.n, influence_variance(old, new), alpha=alpha, planned=planned)
    return Difference(value, value - half, value + half)


def influence_variance(old: Moments, new: Moments) -> Floats:
    """Variance of one user's influence on the difference, N times the difference's own variance; shape (...)."""
    return np.asarray((old.n + new.n) * (old.variance / (old.n - 1) + new.variance / (new.n - 1)))


def adjusted(old: Moments, new: Moments) -> tuple[Moments, Moments]:
    """Both arms with the part of the metric taken out that the covariate explains: CUPED.

    Deng, Xu, Kohavi, Walker, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment
    data", WSDM 2013. The coefficient is pooled over the two arms; the expected difference stays as it is, because the
    covariate is from before the arms parted.

    Args:
        old: The control.
        new: The other arm. Without a covariate of both, both come back as they are.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> arms = []
        >>> for effect in (0, 0.1):
        ...     before = rng.normal(size=5_000)
        ...     after = 0.8 * before + 0.6 * rng.normal(size=5_000) + effect
        ...     (variance, both), (_, spread) = np.cov(after, before, ddof=0)
        ...     covariate = Covariate(before.mean(), spread, both)
        ...     arms.append(Moments(np.asarray(5_000), after.mean(), variance, covariate=covariate))
        >>> old, new = adjusted(*arms)
        >>> float((old.variance / arms[0].variance).round(2))
        0.36
    """
    if old.covariate is None or new.covariate is None:
        return old, new
    spread = old.n * old.covariate.variance + new.n * new.covariate.variance
    shared = old.n * old.covariate.covariance + new.n * new.covariate.covariance
    slope = np.where(spread > 0, shared / np.where(spread > 0, spread, 1.0), 0.0)
    center = (old.n * old.covariate.mean + new.n * new.covariate.mean) / (old.n + new.n)
    return _less(old, old.covariate, slope, center), _less(new, new.covariate, slope, center)


def lift(old: Moments, new: Moments, *, alpha: float, planned: float) -> Difference:
    """The difference relative to the control's mean, by the delta method; NaN where that mean is not surely above zero.

    Deng, Knoblich, Lu, "Applying the delta method in metric analytics", KDD 2018.

    Args:
        old: The control.
        new: The other arm.
        alpha: Chance that the interval is ever wrong, over all looks.
        planned: Users of both arms together at which it shall be tightest.

    Example:
        >>> old, new = (Moments(np.asarray(5_000), np.asarray(mean), np.asarray(1.0)) for mean in (2.0, 2.2))
        >>> [float(part.round(3)) for part in lift(old, new, alpha=0.05, planned=10_000)]
        [0.1, 0.068, 0.132]
    """
    users = old.n + new.n
    own = radius(users, users * old.variance / (old.n - 1), alpha=alpha, planned=planned)
    base = np.where(old.mean > own, old.mean, np.nan)
    ratio = new.mean / base
    spread = users * (new.variance / (new.n - 1) + ratio**2 * old.variance / (old.n - 1)) / base**2
    half = radius(users, spread, alpha=alpha, planned=planned)
    return Difference(ratio - 1, ratio - 1 - half, ratio - 1 + half)


def _less(arm: Moments, covariate: Covariate, slope: Floats, center: Floats) -> Moments:
    mean = np.asarray(arm.mean - slope * (covariate.mean - center))
    variance = arm.variance - 2 * slope * covariate.covariance + slope**2 * covariate.variance
    return Moments(arm.n, mean, np.asarray(np.maximum(variance, 0.0)), arm.skewness)

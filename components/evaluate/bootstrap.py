"""Confidence intervals by the bootstrap, for many metrics at once and for the difference of two models on one part.

A resample is a set of row weights (how often each row was drawn), so no row is copied and a metric values a block of
resamples in one call. The intervals are BCa: bias-corrected and accelerated (Efron & Tibshirani, 1993, chapter 14;
DiCiccio & Efron, 1996), the acceleration from a jackknife over at most 100 groups of rows. BCa matters here because
some metrics (calibration error, R²) are biased in resamples: a plain percentile interval may then miss the value.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from headway.components.config import Config
from headway.components.errors import UsageError
from headway.components.evaluate.metrics import METRICS, Codes, Floats, Measurement, Metric, Sample, Weighted, measure

JACKKNIFE_GROUPS = 100
MAX_UNDEFINED_SHARE = 0.05
"""More undefined resamples than this, and there is no interval: what remains would be a selection."""
_CELLS = 250_000
"""Weights in memory at once (2 MB): a block of resamples stays in the cache, which is worth a factor of two."""

Replicates = dict[str, Floats]
"""By metric, its value under each set of row weights."""


class Bootstrap(Config):
    """How intervals are made."""

    document: ClassVar[str] = "bootstrap section"

    resamples: int = Field(default=1_000, ge=100, le=100_000)
    """How many resamples; 1,000 put the ends of a 95 % interval about right in the second digit."""
    level: float = Field(default=0.95, ge=0.5, le=0.999)
    """Share of such intervals that hold the true value."""
    seed: int = Field(default=0, ge=0)
    """The same seed gives the same intervals."""
    max_rows: int = Field(default=200_000, ge=1_000)
    """Of more rows as many are drawn once and resampled; the interval shrinks with the root of the rows (`_shrunk`)."""


class Paired(NamedTuple):
    """Two models on the same rows, from the same resamples."""

    candidate: dict[str, Measurement]
    champion: dict[str, Measurement]
    difference: dict[str, Measurement]
    """Candidate minus champion."""


def with_intervals(sample: Sample, names: Iterable[str], how: Bootstrap | None = None) -> dict[str, Measurement]:
    """The values of metrics on a sample, each with its interval.

    Args:
        sample: n rows; with weights, rows are drawn alike and carry their weight.
        names: Metrics that fit the sample's task.
        how: Number of resamples, level, seed.

    Raises:
        UnknownNameError: A name is no metric.

    Example:
        >>> from headway.components.evaluate.metrics import regressed
        >>> truth = np.random.default_rng(1).normal(size=400)
        >>> sample = regressed(truth, truth + np.random.default_rng(2).normal(size=400))
        >>> found = with_intervals(sample, ["rmse"])["rmse"]
        >>> print(f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]")
        1.008 [0.948, 1.074]
    """
    how = how or Bootstrap()
    points = measure(sample, names)
    if sample.rows > how.max_rows:
        return _shrunk(points, with_intervals(sample.subset(_some_rows(sample, how)), points, how), sample, how)
    drawn, left_out = _replicates([sample], _resampled([points]), how)
    return _intervals(points, drawn[0], left_out[0], how.level)


def paired_intervals(candidate: Sample, champion: Sample, names: Iterable[str], how: Bootstrap | None = None) -> Paired:
    """The values of both models and their differences, each with its interval, from the same resamples.

    Two models err on the same hard rows, so the interval of the difference is far narrower than those of the values.

    Args:
        candidate: n rows as the candidate predicts them.
        champion: The same n rows as the champion predicts them.
        names: Metrics that fit the task.
        how: Number of resamples, level, seed.

    Raises:
        UsageError: The samples are not of the same rows.

    Example:
        >>> from headway.components.evaluate.metrics import regressed
        >>> random = np.random.default_rng(1)
        >>> truth, noise = random.normal(size=400), random.normal(size=400)
        >>> better, worse = regressed(truth, truth + 0.9 * noise), regressed(truth, truth + noise)
        >>> found = paired_intervals(better, worse, ["rmse"]).difference["rmse"]
        >>> print(f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]")
        -0.105 [-0.113, -0.099]
    """
    if not np.array_equal(candidate.truth, champion.truth):
        raise UsageError("The two samples are not of the same rows", expected="one validation part for both models")
    how, names = how or Bootstrap(), list(names)
    points = [measure(candidate, names), measure(champion, names)]
    differences = {name: _difference(points[0][name], points[1][name]) for name in names}
    if candidate.rows > how.max_rows:
        rows = _some_rows(candidate, how)
        few = paired_intervals(candidate.subset(rows), champion.subset(rows), names, how)
        return Paired(
            *(_shrunk(all_, one, candidate, how) for all_, one in zip((*points, differences), few, strict=True))
        )
    drawn, left_out = _replicates([candidate, champion], _resampled(points), how)
    return Paired(
        _intervals(points[0], drawn[0], left_out[0], how.level),
        _intervals(points[1], drawn[1], left_out[1], how.level),
        _intervals(differences, _minus(*drawn), _minus(*left_out), how.level),
    )


def _some_rows(sample: Sample, how: Bootstrap) -> Codes:
    return np.sort(np.random.default_rng(how.seed).permutation(sample.rows)[: how.max_rows])


def _shrunk(
    points: dict[str, Measurement], few: dict[str, Measurement], sample: Sample, how: Bootstrap
) -> dict[str, Measurement]:
    """The intervals of a part of the rows, moved to the values on all rows and shrunk to their number.

    The error of every resampled metric falls with the root of the rows, so what a part says about its spread holds for
    the whole after that factor (Politis & Romano, 1994).
    """
    shrink = float(np.sqrt(how.max_rows / sample.rows))
    found = dict(points)
    for name, point in points.items():
        part = few[name]
        if point.value is None or part.value is None or part.low is None or part.high is None:
            found[name] = point.model_copy(update={"reason": point.reason or part.reason})
        else:
            low, high = (point.value + shrink * (end - part.value) for end in (part.low, part.high))
            found[name] = Measurement(value=point.value, low=low, high=high)
    return found


def _difference(mine: Measurement, theirs: Measurement) -> Measurement:
    if mine.value is None:
        return Measurement(reason=f"candidate: {mine.reason}")
    if theirs.value is None:
        return Measurement(reason=f"champion: {theirs.reason}")
    return Measurement(value=mine.value - theirs.value)


def _minus(ours: Replicates, theirs: Replicates) -> Replicates:
    return {name: values - theirs[name] for name, values in ours.items()}


def _resampled(points: Sequence[dict[str, Measurement]]) -> list[Metric]:
    """The metrics that at least one of the models has a value of."""
    defined = dict.fromkeys(name for one in points for name, point in one.items() if point.value is not None)
    return [METRICS[name] for name in defined if METRICS[name].resampled]


def _replicates(
    samples: Sequence[Sample], chosen: Sequence[Metric], how: Bootstrap
) -> tuple[list[Replicates], list[Replicates]]:
    """For each sample: its metrics in the resamples, and in the jackknife's groups."""
    random = np.random.default_rng(how.seed)
    return (
        _values(samples, chosen, _resample_weights(samples[0], how.resamples, random)),
        _values(samples, chosen, _jackknife_weights(samples[0], random)),
    )


def _values(samples: Sequence[Sample], chosen: Sequence[Metric], blocks: Iterator[Floats]) -> list[Replicates]:
    parts: list[dict[str, list[Floats]]] = [{metric.name: [] for metric in chosen} for _ in samples]
    for weights in blocks if chosen else ():
        for sample, part in zip(samples, parts, strict=True):
            weighted = Weighted(sample, weights)
            for metric in chosen:
                part[metric.name].append(metric.values(weighted))
    return [{name: np.concatenate(found) for name, found in part.items()} for part in parts]


def _resample_weights(sample: Sample, resamples: int, random: np.random.Generator) -> Iterator[Floats]:
    """Blocks of (b, n): how often each row was drawn, times the row's own weight."""
    n = sample.rows
    block = max(1, _CELLS // n)
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        # 32 bits draw at three times the speed of 64; a row number with the block's offset may need more.
        drawn = random.integers(0, n, size=(b, n), dtype=np.int32) + np.arange(b)[:, None] * n
        weights = np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)
        yield weights if sample.weight is None else weights * sample.weight


def _jackknife_weights(sample: Sample, random: np.random.Generator) -> Iterator[Floats]:
    """Blocks of (b, n): all rows but one group."""
    n = sample.rows
    groups = min(n, JACKKNIFE_GROUPS)
    member = random.permutation(n) % groups
    base = np.ones(n) if sample.weight is None else sample.weight
    block = max(1, _CELLS // n)
    for start in range(0, groups, block):
        left_out = np.arange(start, min(groups, start + block))
        yield np.where(member == left_out[:, None], 0.0, base)


def _intervals(
    points: dict[str, Measurement], drawn: Replicates, left_out: Replicates, level: float
) -> dict[str, Measurement]:
    return {
        name: _interval(name, point.value, drawn, left_out, level) if point.value is not None else point
        for name, point in points.items()
    }


def _interval(name: str, value: float, drawn: Replicates, left_out: Replicates, level: float) -> Measurement:
    if name not in drawn:
        # Bootstrapping an extreme is inconsistent (Bickel & Freedman, 1981): it is a fact about these rows only.
        return Measurement(value=value, reason="an extreme has no bootstrap interval")
    defined = drawn[name][np.isfinite(drawn[name])]
    undefined = 1 - len(defined) / len(drawn[name])
    if undefined > MAX_UNDEFINED_SHARE:
        return Measurement(value=value, reason=f"undefined in {undefined:.0%} of the resamples")
    low, high = bca(value, defined, left_out[name][np.isfinite(left_out[name])], level)
    return Measurement(value=value, low=low, high=high)


def bca(value: float, drawn: Floats, left_out: Floats, level: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (DiCiccio & Efron, 1996, equation 2.3).

    Args:
        value: The statistic on the data.
        drawn: (B,) the statistic on the resamples.
        left_out: (g,) the statistic without each group of the jackknife.
        level: Share of intervals that hold the true value.

    Returns:
        Lower and upper end.

    Example:
        >>> random = np.random.default_rng(0)
        >>> data = random.exponential(size=50)
        >>> drawn = random.choice(data, size=(2000, 50)).mean(axis=1)
        >>> left_out = (data.sum() - data) / 49
        >>> low, high = bca(data.mean(), drawn, left_out, 0.95)
        >>> print(f"{data.mean():.3f} [{low:.3f}, {high:.3f}]")
        1.114 [0.846, 1.506]
    """
    normal = NormalDist()
    below = ((drawn < value).sum() + 0.5 * (drawn == value).sum()) / len(drawn)
    edge = 0.5 / len(drawn)
    correction = normal.inv_cdf(float(np.clip(below, edge, 1 - edge)))
    acceleration = _acceleration(left_out)
    quantiles = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = correction + normal.inv_cdf(share)
        quantiles.append(normal.cdf(correction + z / max(1 - acceleration * z, 1e-9)))
    low, high = np.quantile(drawn, quantiles)
    return float(low), float(high)


def _acceleration(left_out: Floats) -> float:
    if len(left_out) < 2:
        return 0.0
    away = left_out.mean() - left_out
    spread = float((away**2).sum() ** 1.5)
    return float((away**3).sum() / (6 * spread)) if spread > 0 else 0.0

"""What an experiment says: a difference with its interval for each metric and variant, and whether somebody has won.

All intervals are confidence sequences: they hold at every look at once, all comparisons together, with the chance
1 - alpha that the specification names. alpha is divided by the number of comparisons (Bonferroni 1936).

- A conversion's interval is exact (`headway.serving.release.statistics`) while an arm has fewer than 50 conversions or
  fewer than 50 users without one, and asymptotic from then on, where the exact one would be half as wide again. The
  exact one gets a fifth of alpha: both together are wrong with alpha at most.
- A number's interval is asymptotic, from `min_users` of each arm on, with what a covariate explains taken out (CUPED).
- Users who are not split as asked (`allocation_evidence`) make every number doubtful: then nobody wins.
- A winner's interval excludes zero, on the first metric, with `min_users` of every variant.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

import numpy as np

from headway.components.config import Config
from headway.serving.experiment.experiment import Experiments
from headway.serving.experiment.means import Difference, Moments, adjusted, difference, lift
from headway.serving.experiment.measure import Look, Measured, measure
from headway.serving.experiment.spec import ExperimentMetric, ExperimentSpec, Standing, State
from headway.serving.platform import TOTAL_WEIGHT

EXACT_BELOW = 50
"""Conversions, and users without one, of each arm from which on the normal approximation is good enough."""
EXACT_ALPHA = 0.2
"""The part of alpha that exact intervals get; the asymptotic ones get the rest."""
WORTHWHILE = 0.01
"""A covariate that explains less of the variance is left out."""
RATIO_ALPHA = 0.001
"""Chance to call a right split wrong: such an alarm stops the experiment, so it shall be rare."""
SKEW_USERS = 355
"""Users needed per squared skewness for a normal approximation (Kohavi, Deng, Longbotham, Xu, "Seven rules of thumb for
web site experimenters", KDD 2014)."""


class Finding(StrEnum):
    """What one comparison says of a variant, held against the control."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    """Surely no further apart than the minimum effect."""
    UNDECIDED = "undecided"
    NO_DATA = "no_data"
    """Too few users for an interval."""


class Comparison(Config):
    """One metric of one variant, held against the control's."""

    document: ClassVar[str] = "comparison"

    metric: str
    variant: str
    finding: Finding
    text: str
    """One sentence with the numbers."""
    method: str = ""
    """`exact` or `asymptotic`, the latter with `, CUPED` where a covariate helps."""
    users: int = 0
    """Users of the variant that count for the metric."""
    control_users: int = 0
    value: float | None = None
    control_value: float | None = None
    difference: float | None = None
    """With CUPED this is not exactly the difference of the two values: chance differences before the start are out."""
    low: float | None = None
    high: float | None = None
    lift: float | None = None
    """The difference as a share of the control's value."""
    lift_low: float | None = None
    lift_high: float | None = None
    variance_reduction: float | None = None
    """The part of the variance that the covariate took out."""


class Split(Config):
    """Whether users are split as asked."""

    document: ClassVar[str] = "split"

    users: dict[str, int]
    asked: dict[str, float]
    p_value: float
    """Valid at every look at once."""
    mismatch: bool


class Point(Config):
    """What was known at a moment of the past."""

    document: ClassVar[str] = "point"

    time: datetime
    users: dict[str, int]
    comparisons: list[Comparison]


class Results(Config):
    """What an experiment says."""

    document: ClassVar[str] = "results"

    experiment: str
    state: State
    headline: str
    winner: str | None = None
    control: str
    split: Split
    comparisons: list[Comparison]
    notes: list[str] = []
    level: float
    """Level of each interval: so high that all together hold with 1 - alpha."""
    past: list[Point] = []


def analyse(experiments: Experiments, standing: Standing, *, over_time: bool = False) -> Results:
    """Analyse an experiment as it stands.

    Args:
        experiments: All experiments.
        standing: This one.
        over_time: Whether to add what was known at moments of the past.

    Raises:
        MeasurementError: The payload log cannot be read.
    """
    return conclude(standing, measure(experiments, standing, over_time=over_time))


def conclude(standing: Standing, measured: Measured) -> Results:
    """What the measured numbers say."""
    spec = standing.spec
    split = _split(spec, measured.now)
    comparisons = _comparisons(spec, measured.now)
    winner = None if split.mismatch else _winner(spec, measured.now, comparisons)
    return Results(
        experiment=spec.name,
        state=standing.state,
        headline=_headline(spec, split, comparisons, winner),
        winner=winner,
        control=spec.control,
        split=split,
        comparisons=comparisons,
        notes=_notes(spec, measured),
        level=1 - _alpha(spec),
        past=[
            Point(time=look.time, users=dict(look.users), comparisons=_comparisons(spec, look))
            for look in measured.past
            if look.time is not None
        ],
    )


def compare(spec: ExperimentSpec, metric: ExperimentMetric, variant: str, old: Moments, new: Moments) -> Comparison:
    """Hold a variant against the control.

    Args:
        spec: The experiment.
        metric: What is compared.
        variant: The variant's name.
        old: The control's moments, of shape ().
        new: The variant's moments, of shape ().
    """
    alpha = _alpha(spec)
    facts: dict[str, Any] = {
        "metric": metric.name,
        "variant": variant,
        "users": int(new.n),
        "control_users": int(old.n),
    }
    if not old.n or not new.n:
        who = spec.control if not old.n else variant
        text = f"{metric.name} of {variant}: nothing is known of a user of {who}"
        return Comparison(**facts, finding=Finding.NO_DATA, text=text)
    facts |= {"value": float(new.mean), "control_value": float(old.mean)}
    if metric.kind == "conversion" and min(_rarer(old), _rarer(new)) < EXACT_BELOW:
        facts |= {"method": "exact", **_fields(_exact(old, new, alpha * EXACT_ALPHA))}
    elif min(old.n, new.n) < spec.min_users or not min(old.variance, new.variance) > 0:
        text = f"{metric.name} of {variant}: too few users for an interval ({int(old.n):,} and {int(new.n):,})"
        return Comparison(**facts, finding=Finding.NO_DATA, text=text)
    else:
        rest = alpha * (1 - EXACT_ALPHA) if metric.kind == "conversion" else alpha
        facts |= _asymptotic(old, new, alpha=rest, planned=spec.planned_users)
    finding = _finding(metric, facts["low"], facts["high"])
    return Comparison(**facts, finding=finding, text=_sentence(metric.name, variant, spec.control, facts, finding))


def _comparisons(spec: ExperimentSpec, look: Look) -> list[Comparison]:
    others = [variant for variant in spec.variants if variant != spec.control]
    return [
        compare(spec, metric, variant, arms.get(spec.control, _NOBODY), arms.get(variant, _NOBODY))
        for metric in spec.metrics
        for arms in (look.metrics[metric.name],)
        for variant in others
    ]


_NOBODY = Moments(np.asarray(0.0), np.asarray(np.nan), np.asarray(np.nan))


def _alpha(spec: ExperimentSpec) -> float:
    return spec.alpha / (len(spec.metrics) * (len(spec.variants) - 1))


def _rarer(arm: Moments) -> float:
    """Conversions or users without one, whichever are fewer."""
    return float(arm.n * min(arm.mean, 1 - arm.mean))


def _exact(old: Moments, new: Moments, alpha: float) -> Difference:
    from headway.serving.release.statistics import rise_high, rise_low

    counts = (np.rint(old.n * old.mean), old.n, np.rint(new.n * new.mean), new.n)
    low, high = rise_low(*counts, alpha=alpha / 2), rise_high(*counts, alpha=alpha / 2)
    return Difference(np.asarray(new.mean - old.mean), low, high)


def _asymptotic(old: Moments, new: Moments, *, alpha: float, planned: float) -> dict[str, Any]:
    method, reduction = "asymptotic", None
    less_old, less_new = adjusted(old, new)
    explained = 1 - float((less_old.variance + less_new.variance) / (old.variance + new.variance))
    if explained > WORTHWHILE:
        method, reduction = "asymptotic, CUPED", explained
        old, new = less_old, less_new
    found = {"method": method, "variance_reduction": reduction}
    found |= _fields(difference(old, new, alpha=alpha, planned=planned))
    relative = _fields(lift(old, new, alpha=alpha, planned=planned))
    if np.isfinite(relative["difference"]):
        found |= {"lift": relative["difference"], "lift_low": relative["low"], "lift_high": relative["high"]}
    return found


def _fields(found: Difference) -> dict[str, Any]:
    return {"difference": float(found.value), "low": float(found.low), "high": float(found.high)}


def _finding(metric: ExperimentMetric, low: float, high: float) -> Finding:
    if low > 0 or high < 0:
        return Finding.BETTER if (low > 0) is metric.higher_is_better else Finding.WORSE
    if metric.minimum_effect is not None and max(-low, high) < metric.minimum_effect:
        return Finding.EQUIVALENT
    return Finding.UNDECIDED


def _sentence(metric: str, variant: str, control: str, facts: dict[str, Any], finding: Finding) -> str:
    numbers = f"{facts['difference']:+.4g}, surely between {facts['low']:+.4g} and {facts['high']:+.4g}"
    values = f"{facts['value']:.4g} against {facts['control_value']:.4g} of {control}"
    return f"{metric} of {variant} is {values}: {numbers}, {finding}"


def _split(spec: ExperimentSpec, look: Look) -> Split:
    from headway.serving.release.statistics import allocation_evidence

    asked = {name: weight / TOTAL_WEIGHT for name, weight in spec.weights.items()}
    evidence = float(allocation_evidence(list(look.users.values()), list(asked.values())))
    p_value = float(np.exp(-max(evidence, 0.0)))
    return Split(users=dict(look.users), asked=asked, p_value=p_value, mismatch=p_value < RATIO_ALPHA)


def _winner(spec: ExperimentSpec, look: Look, comparisons: list[Comparison]) -> str | None:
    """The variant that has won on the first metric, if one has."""
    metric = spec.metrics[0]
    found = [comparison for comparison in comparisons if comparison.metric == metric.name]
    if min(look.users.values()) < spec.min_users:
        return None
    better = [comparison for comparison in found if comparison.finding is Finding.BETTER]
    if better:
        best = max(better, key=lambda comparison: abs(comparison.difference or 0.0))
        return best.variant
    return spec.control if all(comparison.finding is Finding.WORSE for comparison in found) else None


def _headline(spec: ExperimentSpec, split: Split, comparisons: list[Comparison], winner: str | None) -> str:
    first = [comparison for comparison in comparisons if comparison.metric == spec.metrics[0].name]
    if not any(split.users.values()):
        return "No data: nobody has seen a variant yet."
    if split.mismatch:
        counts = ", ".join(f"{users:,} of {name}" for name, users in split.users.items())
        return f"No winner: the users are not split as asked ({counts}), so no number here can be trusted."
    if winner is not None:
        return f"{winner} wins on {spec.metrics[0].name}: {_of(first, winner).text}."
    return _open(spec, split, first)


def _open(spec: ExperimentSpec, split: Split, first: list[Comparison]) -> str:
    """The headline while nobody has won, from the comparisons on the first metric."""
    if all(comparison.finding is Finding.NO_DATA for comparison in first):
        return f"No data: {first[0].text}."
    if all(comparison.finding is Finding.EQUIVALENT for comparison in first):
        return f"Equivalent: no variant differs by {spec.metrics[0].minimum_effect:g} in {spec.metrics[0].name}."
    short = [name for name, users in split.users.items() if users < spec.min_users]
    if short:
        return f"Undecided: fewer than {spec.min_users:,} users of {', '.join(short)}."
    return f"Undecided: {first[0].text}."


def _of(comparisons: list[Comparison], variant: str) -> Comparison:
    """A variant's comparison; the control's is the first, which it has won."""
    return next((found for found in comparisons if found.variant == variant), comparisons[0])


def _notes(spec: ExperimentSpec, measured: Measured) -> list[str]:
    notes = []
    if measured.crossed:
        notes.append(f"{measured.crossed:,} users saw more than one variant; they count for the first one.")
    if measured.strangers:
        notes.append(f"{measured.strangers:,} users with outcomes never saw a variant before them; they do not count.")
    for name, count in measured.unfit.items():
        notes.append(f"{count:,} predictions do not fit {name}; they do not count.")
    for metric in spec.metrics:
        if metric.kind == "conversion":
            continue
        for variant, arm in measured.now.metrics[metric.name].items():
            if arm.skewness is not None and arm.n < SKEW_USERS * arm.skewness**2:
                notes.append(
                    f"{metric.name} of {variant} is so skewed ({float(arm.skewness):.1f}) that its interval wants "
                    f"{SKEW_USERS * float(arm.skewness) ** 2:,.0f} users and has {int(arm.n):,}."
                )
    return notes

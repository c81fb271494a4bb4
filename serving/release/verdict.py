"""What live numbers say of a newcomer: one finding for each guard and for the decision, and a verdict over all.

pass           it is surely no worse than allowed, on enough requests
fail           it is surely worse, and by more than allowed (`rules` says what that means)
inconclusive   the numbers do not decide it yet
no_data        nothing was answered: says nothing, and is never a pass
error          the metrics could not be read: says nothing, and is never a fail
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from headway.components.config import Config
from headway.serving.platform import Counts

if TYPE_CHECKING:
    from headway.serving.release.plan import ReleaseSpec, Stage


class Outcome(StrEnum):
    """What a finding or a verdict says."""

    PASS = "pass"  # noqa: S105 - a word, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"
    ERROR = "error"


class Finding(Config):
    """What one guard, or the decision, found."""

    document: ClassVar[str] = "finding"

    name: str
    """`server_errors`, `rejected`, `latency`, `prediction_shift`, `sample_ratio`, `disagreement`, or the metric."""
    outcome: Outcome
    text: str
    """One sentence with the numbers."""
    variant: str = ""
    """The newcomer that it is about; empty where it is about all."""
    stable: float | None = None
    """The stable variant's value."""
    canary: float | None = None
    """The newcomer's value."""
    low: float | None = None
    """Lower end of the confidence sequence for the difference (latency: for the newcomer's quantile; disagreement: for
    its share; decision: where the measured difference would decide)."""
    high: float | None = None
    """Upper end of it."""
    bound: float | None = None
    """What the difference (latency: the quantile) is held against."""
    n_stable: int = 0
    n_canary: int = 0
    holds: bool = False
    """Whether it stops the release for a person: traffic that is not split as asked, a test that stays undecided."""


class Verdict(Config):
    """What all findings say together."""

    document: ClassVar[str] = "verdict"

    outcome: Outcome
    findings: list[Finding] = []
    text: str = ""
    """One sentence: the finding that decided."""


class Sums(Config):
    """A numeric outcome of one variant as sums, from which mean and variance follow."""

    n: int = 0
    total: float = 0.0
    total_of_squares: float = 0.0


class Measured(Config):
    """What is known of one variant in a stage."""

    variant: str
    weight: int
    """Its share of the traffic, of 10 000."""
    counts: Counts
    users: int | None = None
    """Distinct users, where they are known."""
    outcome: Sums | None = None
    """The decision's metric, where there are outcomes."""


class Evidence(Config):
    """All that is known of a stage."""

    stable: Measured
    canary: Measured
    others: list[Measured] = []
    """A/B with more than two variants: those between the first and the last."""
    disagreement: Sums | None = None
    """Shadow: 1 for each copied request on which the two answered differently, 0 where they agreed."""


def judge(spec: "ReleaseSpec", stage: "Stage", evidence: Evidence, *, stages: int, final: bool = True) -> Verdict:
    """What a stage's evidence says, at any number of looks.

    Where an A/B test has several newcomers, each is compared with the first variant, and the error budget is split over
    them. One that fails a guard fails the stage; of the decisions, once all are made, one that ships is enough.

    A stage without a stable variant beside it (100 %) is judged by the same rules against what the stable one did
    before. They then also see what changed with the hour: an outage in this stage looks like the newcomer's.

    Args:
        spec: What the release shall do.
        stage: The stage.
        evidence: What is known of it, counted since the stage began.
        stages: Judged stages of the release, over which `spec.alpha` is split.
        final: Whether the decision metric must have decided for this stage to pass; otherwise the guards are enough,
            unless it speaks against the newcomer already.

    Raises:
        ConfigError: The decision's metric is one of the user's own, without its good direction.

    Example:
        >>> from headway.serving.release.plan import ReleaseSpec, stages
        >>> from headway.serving.release.verdict import Counts, Evidence, Measured, judge
        >>> spec = ReleaseSpec.parse({"guards": {"latency": None, "rejected": None, "prediction_shift": None}})
        >>> old = Measured(variant="v1", weight=9_500, counts=Counts(requests=19_000, server_errors=190))
        >>> new = Measured(variant="v2", weight=500, counts=Counts(requests=1_000, server_errors=34))
        >>> found = judge(spec, stages(spec, 2)[0], Evidence(stable=old, canary=new), stages=4)
        >>> print(found.outcome, "-", found.text)
        fail - server errors: 3.4 % of 1,000 against 1.0 % of 19,000; the rise is between 0.42 and 5.1 points, allowed
        1.0: surely worse, and by more than allowed
    """
    from headway.serving.release import findings

    found: list[Finding] = []
    decisions: list[Finding] = []
    compared = findings.cases(spec, stage, evidence, stages)
    for case in compared:
        found += findings.guarded(spec, stage, case, evidence.disagreement)
        if spec.decision and (final or case.canary.outcome):
            decisions.append(findings.decision(spec.decision, case, len(compared)))
    split = findings.sample_ratio(spec, stage, evidence)
    found += [split] if split else []
    return _together(found, decisions, final)


_ORDER = (Outcome.FAIL, Outcome.ERROR, Outcome.NO_DATA, Outcome.INCONCLUSIVE, Outcome.PASS)
"""Of several findings the first of these stands for all."""


def _together(guards: Sequence[Finding], decisions: Sequence[Finding], final: bool) -> Verdict:
    telling = [_worst(guards)]
    if decisions:
        decided = _decided(decisions)
        if final or decided.outcome is Outcome.FAIL:
            telling.append(decided)
    worst = _worst(telling)
    text = worst.text
    if worst.outcome is Outcome.PASS:
        text = telling[-1].text if len(telling) > 1 else "all guards are surely within what is allowed"
    return Verdict(outcome=worst.outcome, findings=[*guards, *decisions], text=text)


def _decided(decisions: Sequence[Finding]) -> Finding:
    """What the decisions on one or more newcomers say together."""
    open_ = [one for one in decisions if one.outcome not in (Outcome.PASS, Outcome.FAIL)]
    ships = [one for one in decisions if one.outcome is Outcome.PASS]
    return _worst(open_) if open_ else (ships or decisions)[0]


def _worst(findings: Sequence[Finding]) -> Finding:
    return min(findings, key=lambda finding: _ORDER.index(finding.outcome))

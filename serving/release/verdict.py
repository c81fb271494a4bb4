"""What live numbers say of a newcomer: one finding for each guard and for the decision, and a verdict over all.

pass           it is surely no worse than allowed, on enough requests
fail           it is surely worse than allowed
inconclusive   the numbers do not decide it yet
no_data        nothing was answered: says nothing, and is never a pass
error          the metrics could not be read: says nothing, and is never a fail
"""

from enum import StrEnum
from typing import ClassVar

from headway.components.config import Config
from headway.serving.platform import Counts


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
    stable: float | None = None
    """The stable variant's value."""
    canary: float | None = None
    """The newcomer's value."""
    low: float | None = None
    """Lower end of the confidence sequence for the difference (latency: for the newcomer's quantile)."""
    high: float | None = None
    """Upper end of it."""
    bound: float | None = None
    """What the difference (latency: the quantile) is held against."""
    n_stable: int = 0
    n_canary: int = 0


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

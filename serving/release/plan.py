"""What a release shall do: strategy, steps, guards, decision. The `release` section of model.yaml.

    release:
      strategy: canary
      steps: [5, 25, 50, 100]
      guards:
        server_errors: {max_increase: 0.01}
        latency: {quantile: 0.99, max_increase: 0.25}
      decision: {metric: log_loss, minimum_effect: 0.01}

Every strategy becomes a list of *stages*, which the engine walks through without knowing the strategy:

    canary       one stage for each step
    blue_green   0 % while the checks run, then 100 %, judged against what the old one did before
    ab           one stage with fixed shares, until the experiment decides or is stopped
    shadow       one stage at 0 % in which the newcomer gets copies of the traffic
    first        100 % at once: the endpoint's first variant, which nothing can be compared with
    rollback     100 % at once, to a version that served before: no checks and no verdict stand in its way
"""

import itertools
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from headway.components.config import Config
from headway.serving.platform import TOTAL_WEIGHT, Route, Share, Variant

Percent = Annotated[float, Field(ge=0, le=100)]


class Strategy(StrEnum):
    """How traffic moves."""

    CANARY = "canary"
    BLUE_GREEN = "blue_green"
    AB = "ab"
    SHADOW = "shadow"
    FIRST = "first"
    ROLLBACK = "rollback"


class ErrorGuard(Config):
    """A share of requests that must not rise: server errors, or requests that the contract's check refuses."""

    document: ClassVar[str] = "guard"

    max_increase: float = Field(default=0.01, gt=0, lt=1)
    """How much the share may rise above the stable variant's: 0.01 is one request in a hundred."""


class LatencyGuard(Config):
    """A quantile of the latency that must not rise."""

    document: ClassVar[str] = "guard"

    quantile: float = Field(default=0.99, gt=0.5, lt=1)
    max_increase: float = Field(default=0.25, gt=0)
    """How much the quantile may rise, as a share of the stable variant's: 0.25 lets 100 ms become 125 ms."""
    floor_ms: float = Field(default=5.0, ge=0)
    """A rise below this many milliseconds never counts."""


class ShiftGuard(Config):
    """How far the distribution of predictions may move."""

    document: ClassVar[str] = "guard"

    max_distance: float = Field(default=0.2, gt=0, lt=1)
    """Kolmogorov-Smirnov distance between the two variants' predictions, over the bins' edges."""


class Guards(Config):
    """What must not get worse while traffic moves. `null` switches one off."""

    document: ClassVar[str] = "guards"

    server_errors: ErrorGuard | None = ErrorGuard()
    rejected: ErrorGuard | None = ErrorGuard()
    latency: LatencyGuard | None = LatencyGuard()
    prediction_shift: ShiftGuard | None = ShiftGuard()


class DecisionRule(Config):
    """The metric that decides whether to ship, and the smallest effect worth telling apart."""

    document: ClassVar[str] = "decision"

    metric: str
    """`accuracy`, `log_loss`, `brier`, `absolute_error` or `squared_error` of labels that come later, or the name of
    an outcome that is recorded, such as `converted`."""
    minimum_effect: float = Field(gt=0)
    """The minimum detectable effect, in units of the metric."""
    goal: Literal["no_worse", "better"] = "no_worse"
    """`no_worse` ships unless it is worse by the minimum effect; `better` ships only if better by it."""
    higher_is_better: bool | None = None
    """Known for the metrics named above; must be said of an outcome of one's own."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance to decide against the truth where nothing differs: to take back what is as good (`no_worse`), or to ship
    what is no better (`better`)."""
    power: float = Field(default=0.8, gt=0.5, lt=1)
    """Chance to notice the minimum effect: to take back what is worse by it (`no_worse`), or to ship what is better by
    it (`better`)."""
    min_outcomes: int = Field(default=100, ge=10)
    """Outcomes of each variant before it decides: the test's normal approximation needs some."""
    max_outcomes: int | None = Field(default=None, ge=20)
    """Outcomes of the newcomer after which an undecided test holds the release for a person; None waits on."""


class ReleaseSpec(Config):
    """How a version takes over the traffic of an endpoint."""

    document: ClassVar[str] = "release section"

    strategy: Strategy = Strategy.CANARY
    steps: list[Percent] = Field(default=[5, 25, 50, 100], min_length=1)
    """Canary: the newcomer's share in percent, rising, ending at 100."""
    shares: list[Percent] = []
    """A/B: one share in percent for each variant, the first one's first; equal by default."""
    mirror: Percent = 100
    """Shadow: the share of requests that is copied, in percent."""
    max_disagreement: float = Field(default=0.1, gt=0, le=1)
    """Shadow: the largest share of copied requests for which the newcomer may predict another label (for regression,
    a value further off than `disagreement_tolerance`)."""
    disagreement_tolerance: float = Field(default=0.1, gt=0)
    """Shadow, regression: relative difference up to which two values agree."""
    guards: Guards = Guards()
    decision: DecisionRule | None = None
    """What decides whether to ship; without it the guards do."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that the guards together take back a version that is no worse, over the whole release, however often
    they look."""
    min_requests: int = Field(default=200, ge=1)
    """Requests that the newcomer must answer in each stage before the stage may pass."""
    min_seconds: float = Field(default=10, ge=0)
    """How long each stage lasts at least."""
    stage_timeout_hours: float = Field(default=24, gt=0)
    """After this an undecided stage holds the release for a person."""
    ready_timeout_seconds: float = Field(default=300, gt=0)
    """How long the newcomer may take to become ready."""
    max_p95_ms: float = Field(default=1_000, gt=0)
    """Check at weight 0: the newcomer's 95th percentile over fifty requests, in milliseconds."""
    rollback_window_seconds: float = Field(default=600, ge=0)
    """How long the old variant is kept running after the newcomer has all traffic, still judged."""
    sticky: Literal["user", "request"] = "user"
    """What is assigned: the user that `x-user-id` names, or each request on its own."""

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        if any(low >= high for low, high in itertools.pairwise(self.steps)):
            raise ValueError(f"the steps must rise, got {_shown(self.steps)}")
        if self.steps[0] <= 0 or self.steps[-1] != 100:
            raise ValueError(f"the steps must start above 0 and end at 100, got {_shown(self.steps)}")
        if self.strategy is Strategy.CANARY and len(self.steps) == 1:
            raise ValueError("a canary needs a step below 100; `blue_green` moves all traffic at once")
        if self.shares and (len(self.shares) < 2 or abs(sum(self.shares) - 100) > 1e-9 or min(self.shares) <= 0):
            raise ValueError(f"the shares must be two or more above 0 that add up to 100, got {_shown(self.shares)}")
        if self.strategy is Strategy.AB and self.decision is None:
            raise ValueError("an A/B test needs a `decision`: the metric that it is about")
        fractions = [value for value in (*self.steps, *self.shares, self.mirror) if (value * 100) % 1]
        if fractions:
            raise ValueError(f"shares go down to 0.01 percent, got {_shown(fractions)}")
        return self


class Stage(Config):
    """One stretch of a release with fixed weights."""

    weights: list[int]
    """Of 10 000, one for each variant of the release."""
    mirror_weight: int = 0
    """Share of requests that is copied to the newcomer."""
    judged: bool = True
    """Whether it must pass a verdict; otherwise only time counts."""
    concurrent: bool = True
    """Whether the stable variant answers at the same time; otherwise the newcomer is compared with what the stable one
    did before."""

    def route(self, variants: list[Variant], salt: str) -> Route:
        """The route of this stage."""
        shares = [Share(variant=v.name, weight=w) for v, w in zip(variants, self.weights, strict=True)]
        mirror = variants[-1].name if self.mirror_weight else None
        return Route(salt=salt, shares=shares, mirror=mirror, mirror_weight=self.mirror_weight)


def stages(spec: ReleaseSpec, variants: int) -> list[Stage]:
    """The stages of a release.

    Args:
        spec: What it shall do.
        variants: How many variants it has, the stable one first.

    Example:
        >>> [stage.weights for stage in stages(ReleaseSpec(steps=[10, 100]), 2)]
        [[9000, 1000], [0, 10000]]
    """
    match spec.strategy:
        case Strategy.CANARY:
            return [_canary(step) for step in spec.steps]
        case Strategy.BLUE_GREEN:
            # 0 % first: what the old variant does just before the flip is what the new one is held against.
            return [Stage(weights=[TOTAL_WEIGHT, 0], judged=False), _canary(100)]
        case Strategy.AB:
            return [Stage(weights=_shares(spec.shares, variants))]
        case Strategy.SHADOW:
            return [Stage(weights=[TOTAL_WEIGHT, 0], mirror_weight=round(spec.mirror * 100))]
        case Strategy.FIRST | Strategy.ROLLBACK:
            alone = [0] * (variants - 1) + [TOTAL_WEIGHT]
            return [Stage(weights=alone, judged=False, concurrent=False)]


def _canary(percent: float) -> Stage:
    weight = round(percent * 100)
    return Stage(weights=[TOTAL_WEIGHT - weight, weight], concurrent=weight < TOTAL_WEIGHT)


def _shares(percents: list[float], variants: int) -> list[int]:
    if percents:
        return [round(percent * 100) for percent in percents]
    each, rest = divmod(TOTAL_WEIGHT, variants)
    return [each + (index < rest) for index in range(variants)]


def _shown(numbers: list[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)

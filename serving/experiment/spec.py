"""What an experiment is: variants with shares, metrics, and the states that it goes through.

    name: checkout
    variants: {model_v1: 0.5, model_v2: 0.5}
    metrics:
      - {name: purchase, minimum_effect: 0.01}
      - {name: revenue, kind: numeric}
    covariate: spend_before

The first variant is the control, the first metric decides.

    draft ──start──▶ running ◀──pause / resume──▶ paused          complete: it ran its course; late outcomes still count
      │                 │                           │             stop:     it was broken off; nothing more counts
      └──stop──▶ stopped◀──stop──┴──complete──▶ completed
"""

import itertools
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from headway.components.config import Config
from headway.components.errors import ExperimentError, did_you_mean
from headway.serving.experiment.losses import LOSSES
from headway.serving.platform import TOTAL_WEIGHT

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$")]
"""A name of an experiment, a variant or a metric."""


class State(StrEnum):
    """Where an experiment stands."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    COMPLETED = "completed"

    @property
    def over(self) -> bool:
        """Whether nothing leads out of it."""
        return self in (State.STOPPED, State.COMPLETED)


Move = Literal["start", "pause", "resume", "stop", "complete"]
MOVES: dict[Move, dict[State, State]] = {
    "start": {State.DRAFT: State.RUNNING},
    "pause": {State.RUNNING: State.PAUSED},
    "resume": {State.PAUSED: State.RUNNING},
    "stop": {State.DRAFT: State.STOPPED, State.RUNNING: State.STOPPED, State.PAUSED: State.STOPPED},
    "complete": {State.RUNNING: State.COMPLETED, State.PAUSED: State.COMPLETED},
}
"""The states that each move leads out of, and to what."""


class ExperimentMetric(Config):
    """What is measured."""

    document: ClassVar[str] = "metric"

    name: Word
    """As it is recorded, or a metric of an endpoint's labels: `accuracy`, `log_loss`, `brier`, `absolute_error`,
    `squared_error`."""
    kind: Literal["conversion", "numeric"] = "conversion"
    """`conversion`: whether it ever happened to a user. `numeric`: the sum of what was recorded of a user."""
    higher_is_better: bool = True
    minimum_effect: float | None = Field(default=None, gt=0)
    """The smallest difference worth telling apart, in units of the metric: when the whole interval is smaller, the
    variants are called equivalent."""
    missing: Literal["zero", "skip"] = "zero"
    """Numeric: whether an exposed user of whom nothing was recorded counts as 0, or not at all. `skip` compares only
    users who got that far, and their number may itself depend on the variant."""

    @property
    def of_labels(self) -> bool:
        """Whether it follows from labels."""
        return self.name in LOSSES

    @property
    def skips(self) -> bool:
        """Whether users of whom nothing was recorded are left out."""
        return self.of_labels or (self.kind == "numeric" and self.missing == "skip")


class ExperimentSpec(Config):
    """An experiment as it was created; nothing of it changes later."""

    document: ClassVar[str] = "experiment"

    name: Word
    description: str = ""
    variants: dict[Word, float] = Field(min_length=2)
    """Share of users by variant, in order, adding up to 1. A list of names gives each the same."""
    metrics: list[ExperimentMetric] = Field(min_length=1)
    """The first one decides."""
    salt: str = Field(default="", max_length=64, pattern=r"^[A-Za-z0-9._-]*$")
    """Mixed into each user's bucket; the experiment's name by default."""
    covariate: Word | None = None
    """A number that is known of users from before the experiment: it takes out the variance that it explains."""
    overrides: dict[str, str] = {}
    """Variant by user, for those who test it; they count for none."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that any interval of any comparison is ever wrong, however often one looks."""
    min_users: int = Field(default=100, ge=10)
    """Users of each variant before there is a winner."""
    planned_users: int = Field(default=10_000, ge=100)
    """Users of two variants together at which the intervals are tightest; they are valid at any number."""
    grace_hours: float = Field(default=168, ge=0)
    """How long after completion late outcomes still count."""
    endpoint: str = ""
    """The endpoint whose payload log says who saw what; empty when `variant()` does."""

    @field_validator("variants", mode="before")
    @classmethod
    def _equal_by_default(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            if len(set(map(str, value))) != len(value):
                raise ValueError("a variant stands twice")
            return dict.fromkeys(value, 1 / len(value)) if value else {}
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        total = sum(self.variants.values())
        if min(self.variants.values()) <= 0 or abs(total - 1) > 1e-6:
            hint = "; they are fractions, not percents" if abs(total - 100) < 1e-6 else ""
            raise ValueError(f"the shares must be above 0 and add up to 1, they add up to {total:g}{hint}")
        if min(self.weights.values()) < 1:
            raise ValueError("a share of less than 0.0001 would get no user")
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names) or self.covariate in names:
            raise ValueError("each metric, and the covariate, needs a name of its own")
        for variant in self.overrides.values():
            if variant not in self.variants:
                raise ValueError(f"overrides name {variant!r}{did_you_mean(variant, self.variants)}")
        if not self.endpoint and any(metric.of_labels for metric in self.metrics):
            raise ValueError("metrics of labels need an endpoint, whose payload log has the predictions")
        return self

    @property
    def weights(self) -> dict[str, int]:
        """Shares of 10 000, in order; what rounding leaves goes to the largest fractions."""
        exact = {name: share * TOTAL_WEIGHT for name, share in self.variants.items()}
        weights = {name: int(value + 1e-6) for name, value in exact.items()}
        rest = TOTAL_WEIGHT - sum(weights.values())
        by_fraction = sorted(exact, key=lambda name: weights[name] - exact[name])
        for name in itertools.islice(by_fraction, rest):
            weights[name] += 1
        return weights

    @property
    def control(self) -> str:
        """The first variant."""
        return next(iter(self.variants))

    @property
    def scope(self) -> str:
        """Where its outcomes are recorded."""
        return self.endpoint or f"experiment/{self.name}"

    def metric(self, name: str) -> ExperimentMetric:
        """One of its metrics.

        Raises:
            ExperimentError: It has no such metric.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise unknown(self.name, "metric", name, [metric.name for metric in self.metrics])


class Standing(Config):
    """An experiment and where it stands."""

    document: ClassVar[str] = "standing"

    spec: ExperimentSpec
    state: State = State.DRAFT
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    """When it was stopped or completed."""
    reason: str = ""
    """Why it is in this state, in the words of who put it there."""

    @property
    def closes(self) -> datetime | None:
        """Up to when outcomes count; None while that is open."""
        if self.ended is None:
            return None
        late = self.state is State.COMPLETED
        return self.ended + timedelta(hours=self.spec.grace_hours) if late else self.ended


def moved(standing: Standing, move: Move, now: datetime, reason: str = "") -> Standing:
    """Where an experiment stands after a move.

    Raises:
        ExperimentError: The move does not lead out of its state; says which ones do.
    """
    to = MOVES[move].get(standing.state)
    if to is None:
        allowed = [name for name, ways in MOVES.items() if standing.state in ways]
        raise ExperimentError(
            f"Experiment {standing.spec.name!r} is {standing.state}: it cannot {move}",
            expected=f"one of {', '.join(allowed)}" if allowed else "a new experiment: this one is over",
        )
    changes: dict[str, Any] = {"state": to, "reason": reason}
    if to is State.RUNNING and standing.started is None:
        changes["started"] = now
    if to.over:
        changes["ended"] = now
    return standing.model_copy(update=changes)


def nothing_left(state: State, move: Move) -> bool:
    """Whether an experiment in a state has the move behind it."""
    match move:
        case "start":
            return state is not State.DRAFT
        case "stop" | "complete":
            return state.over
    return state in MOVES[move].values()


def unknown(experiment: str, kind: str, name: str, choices: list[str]) -> ExperimentError:
    """The error for a name that an experiment does not know."""
    return ExperimentError(
        f"Experiment {experiment!r} has no {kind} {name!r}{did_you_mean(name, choices)}",
        expected=f"one of {', '.join(choices)}",
    )

"""The tuning section of a model.yaml: what is searched, by which measure, for how long.

tuning:
  space:
    parameters.learning_rate: {type: float, low: 0.01, high: 0.3, log: true}
    parameters.max_leaf_nodes: {type: int, low: 7, high: 127, log: true}
  metric: roc_auc
  trials: 50
  minutes: 30
  workers: 4
"""

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_serializer, model_validator

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.errors import ConfigError, UnknownNameError
from headway.components.evaluate.metrics import PRIMARY, Metric, metric, metrics_for
from headway.components.tune.space import Domain, Space

REDUCTION = 3
"""A rung gets three times the one below (Li et al., 2018, "Massively parallel hyperparameter tuning")."""


class Folds(Config):
    """How the training part is divided for cross-validation."""

    document: ClassVar[str] = "folds"

    count: int = Field(default=3, ge=2, le=20)
    """Parts; each is judged by a model that was fitted without it."""
    method: Literal["auto", "random", "stratified", "time", "group"] = "auto"
    """`time`: a fold is judged by what came before it. `group`: rows with one value of `column` stay together.
    `auto`: time where the contract names a time column, else stratified for classes and random for numbers."""
    column: str = ""
    """The group's or the time's column; for time by default the contract's."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.method == "group" and not self.column:
            raise ValueError("method group needs `column`, whose values stay together")
        if self.method in ("auto", "random", "stratified") and self.column:
            raise ValueError(f"method {self.method} uses no column; for {self.column!r} take time or group")
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict | Config) else value


class TuningSpec(Config):
    """What is searched, by which measure, for how long."""

    document: ClassVar[str] = "tuning section"

    space: dict[str, Annotated[list[Domain], BeforeValidator(_as_list)]] = Field(min_length=1)
    """For each varied key of the training section (`estimator`, `parameters.max_iter`) its domain: type `float` or
    `int` with low, high, log and step, or `categorical` with values; `when` makes it conditional."""
    metric: str = ""
    """The measure of a trial, a name of the evaluation's metrics; by default the primary metric."""
    trials: int = Field(default=50, ge=1, le=100_000)
    """Trials in all, failed ones included. A study that has fewer goes on when it is run again."""
    minutes: float | None = Field(default=None, gt=0)
    """Time budget of one run; what is running then ends at its next report."""
    workers: int = Field(default=1, ge=1, le=256)
    """Processes, or pods on a cluster. With one, the same seed gives the same trials; several share the cores."""
    sampler: Literal["tpe", "random"] = "tpe"
    """`tpe` learns from earlier trials (Bergstra et al., 2011), `random` does not."""
    startup: int = Field(default=10, ge=1)
    """Random trials before `tpe` begins to learn; half as many have to finish before anything is pruned."""
    pruner: Literal["percentile", "median", "halving", "none"] = "percentile"
    """What stops a trial that looks poor early: `percentile` outside the best two thirds at the same point, `median`
    below the median (Golovin et al., 2017), `halving` outside the best third of those that came as far (Li et al.,
    2018). The stricter, the sooner a trial that learns slowly and ends well is lost."""
    rungs: int = Field(default=2, ge=1, le=6)
    """Points at which a trial is looked at, its end among them: each has three times the iterations, or else rows, of
    the one before. Two look once, at a third; an earlier look favours what learns fast over what ends well."""
    evaluation: Literal["folds", "validation"] = "folds"
    """What judges a trial: cross-validation inside the training part, or the validation part. The gate judges on the
    validation part too, and flatters a model that was chosen there."""
    folds: Folds = Folds()
    """How the training part is divided, for `evaluation: folds`."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seeds sampler and folds."""
    objective: str = Field(default="estimator", min_length=1)
    """What a trial does: `estimator` fits a scikit-learn estimator, `network` trains one (`trainer: distributed`);
    `module:Class` names an Objective of your own."""

    @field_serializer("space")
    def _one_domain_alone(self, space: dict[str, list[Any]]) -> dict[str, Any]:
        """A key with one domain as people write it, without the list."""
        plain = {key: [each.model_dump(mode="json", exclude_defaults=True) for each in d] for key, d in space.items()}
        return {key: domains[0] if len(domains) == 1 else domains for key, domains in plain.items()}

    @model_validator(mode="after")
    def _space_is_sound(self) -> Self:
        _ = self.search_space
        return self

    @cached_property
    def search_space(self) -> Space:
        """The checked space."""
        return Space(self.space)

    @property
    def looks(self) -> list[tuple[int, float]]:
        """The points at which a trial is looked at, its end the last: a step for the report, and a share of the whole.

        Example:
            >>> space = {"max_iter": {"type": "int", "low": 1, "high": 9}}
            >>> TuningSpec(space=space, rungs=2).looks == [(1, 1 / 3), (3, 1.0)]
            True
        """
        count = self.rungs if self.pruner != "none" else 1
        return [(REDUCTION**rung, float(REDUCTION) ** (rung + 1 - count)) for rung in range(count)]

    def check(self, training: Config, task: Task | None) -> None:
        """Hold the section against the training section, before anything runs.

        Args:
            training: The training section that the trials vary.
            task: What is predicted; None where the data will decide.

        Raises:
            UsageError: A key of the space does not exist, a value is refused, or the metric does not fit; names it.
        """
        from headway.components.tune.objective import load_objective

        if task is not None:
            self.metric_for(task)
        elif self.metric:
            metric(self.metric)
        kind = load_objective(self.objective)
        if not isinstance(training, kind.section):
            raise ConfigError(
                f"tuning.objective is {self.objective!r}, which takes no {type(training).__name__}",
                expected="`network` with `trainer: distributed`, else `estimator`",
            )
        kind.check(self.search_space, training, task)

    def metric_for(self, task: Task) -> Metric:
        """The metric of a trial.

        Raises:
            UnknownNameError: It does not exist or does not fit the task; offers the near ones.
        """
        found = metric(self.metric or PRIMARY[task])
        if task not in found.tasks:
            raise UnknownNameError(f"metric of the task {task!r}", found.name, metrics_for(task))
        return found

    def with_metric(self, primary: str | None) -> "TuningSpec":
        """The same section, with a metric where it names none."""
        return self if self.metric or not primary else self.model_copy(update={"metric": primary})

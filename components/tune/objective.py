"""What a trial does, whatever is trained: the one interface between the search and a trainer.

A trainer takes part in tuning with one class:

    class NetworkObjective(Objective):
        section = NetworkSpec                       # the typed training section

        def __init__(self, job: Job) -> None:       # once in each worker: read the data here, not in a trial
            self.rows = read(job.train)

        def __call__(self, section: Values, report: Report) -> float:
            spec = NetworkSpec.parse(section)
            for epoch in range(1, spec.epochs + 1):
                value = fit_one_epoch(...)
                if report(epoch, value):            # True: this trial is stopped; return what there is
                    break
            return value                            # the metric that job.metric names, on rows that were not fitted on

`report` may be called from the launching process too, with values that rank 0 sends; with several ranks all of them
must take the answer of one. What raises makes the trial fail, and the study goes on.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Protocol

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, UnknownNameError, did_you_mean
from headway.components.tune.space import Dimension, Space, Values
from headway.components.tune.spec import TuningSpec

OBJECTIVES = {
    "estimator": "headway.components.tune.fitting:FitObjective",
    "network": "headway.components.train_distributed.objective:NetworkObjective",
}
"""The objectives that `tuning.objective` may name; any other is `module:Class`."""


MISSING = object()
"""What a key without a value has."""


class Report(Protocol):
    """Tells the search how a trial is getting on."""

    def __call__(self, step: int, value: float) -> bool:
        """Report the metric so far.

        Args:
            step: How far the trial has come: an epoch, a rung; rises from report to report.
            value: The metric on rows that were not fitted on, or the loss that `Objective.reported` names.

        Returns:
            Whether the trial should stop here: it looks poor, or the time is over.
        """


class Job(Config):
    """All that a worker needs to know of a study; a JSON file that holds no secret."""

    document: ClassVar[str] = "tuning job"

    study: str
    """The study's name in its storage."""
    storage: str
    """`journal:` and a path, or `database` for the installation's shared one."""
    model: str
    """The model's name."""
    contract: str
    """The contract, as YAML text."""
    training: str
    """The training section that the trials vary, as YAML text."""
    tuning: str
    """The tuning section, as YAML text."""
    task: Task
    metric: str
    train: str
    """The valid training part, a Parquet file."""
    validation: str = ""
    """The valid validation part; needed for `evaluation: validation`."""
    threads: int = 0
    """Threads of each worker; 0 means as many as there are cores for it."""
    deadline: float | None = None
    """When no trial may begin any more, in seconds since 1970."""
    run_id: str = ""
    """The MLflow run of the study."""

    @property
    def spec(self) -> TuningSpec:
        """The tuning section."""
        return TuningSpec.parse(self.tuning, where="tuning")


class Objective(ABC):
    """What a trial does; made once in each worker."""

    section: ClassVar[type[Config]]
    """The typed training section that the space's keys lead into."""
    reported: ClassVar[str] = ""
    """What a trial reports on its way, where that is a loss (lower is better) and not the metric: the loss's name."""

    @abstractmethod
    def __init__(self, job: Job) -> None:
        """Read what all trials of a worker share."""

    @abstractmethod
    def __call__(self, section: Values, report: Report) -> float:
        """Train with a training section, and return the metric.

        Args:
            section: The training section with the trial's values in their places, as plain data.
            report: To be called at every point where stopping early makes sense.
        """

    @classmethod
    @abstractmethod
    def task_of(cls, train: Path, contract: Contract, section: Config) -> Task:
        """What is predicted, after a look at the target."""

    @classmethod
    def compose(cls, base: Mapping[str, Any], values: Mapping[str, Any]) -> Values:
        """A training section with a trial's values put in their places."""
        return compose(base, values)

    @classmethod
    def current(cls, space: Space, section: Config, task: Task) -> Values:
        """What a training section says of the space's keys, defaults included; a key without a value is left out."""
        chosen: Values = {}
        for dimension in space:
            if dimension.exists(chosen):
                found = cls.value_at(dimension.key, section, task)
                chosen |= {} if found is MISSING else {dimension.key: found}
        return chosen

    @classmethod
    def value_at(cls, key: str, section: Config, task: Task) -> Any:
        """The value at a path of the training section; MISSING where there is none."""
        place: Any = section.model_dump(mode="json")
        for part in key.split("."):
            if not isinstance(place, dict) or part not in place:
                return MISSING
            place = place[part]
        return place

    @classmethod
    def check(cls, space: Space, section: Config, task: Task | None) -> None:
        """Hold a search space against the training section, before anything runs.

        Args:
            space: The search space.
            section: The training section that it varies.
            task: What is predicted; None where the data will decide.

        Raises:
            ConfigError: A key does not exist, or the section does not take a value of it; names the key and near ones.
        """
        base = section.model_dump(mode="json", exclude_defaults=True)
        for dimension in space:
            check_key(dimension, type(section))
            for value in dimension.domain.probes():
                changed = cls.compose(base, {dimension.key: value})
                type(section).parse(changed, where=f"tuning.space: {dimension.name}")


def load_objective(name: str) -> type[Objective]:
    """An objective's class by its name or by `module:Class`.

    Raises:
        UnknownNameError: A plain name that does not exist; offers the near ones.
        ConfigError: The class cannot be imported, or is no Objective.
    """
    path = OBJECTIVES.get(name, name)
    module, colon, attribute = path.partition(":")
    if not colon:
        raise UnknownNameError("objective", name, OBJECTIVES)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"tuning.objective: {path}: {error}", expected="module:Class that can be imported") from None
    if not (isinstance(found, type) and issubclass(found, Objective)):
        raise ConfigError(f"tuning.objective: {path} is no Objective", expected=f"a subclass of {__name__}.Objective")
    return found


def compose(base: Mapping[str, Any], values: Mapping[str, Any]) -> Values:
    """A nested mapping with values at dotted paths.

    Example:
        >>> compose({"seed": 1, "parameters": {"max_iter": 5}}, {"parameters.max_depth": 3})
        {'seed': 1, 'parameters': {'max_iter': 5, 'max_depth': 3}}
    """
    changed = deepcopy(dict(base))
    for key, value in values.items():
        *folders, last = key.split(".")
        place = changed
        for folder in folders:
            inner = place.get(folder)
            place[folder] = place = inner if isinstance(inner, dict) else {}
        place[last] = value
    return changed


def check_key(dimension: Dimension, section: type[Config]) -> None:
    """Check that a key's first part is a key of the training section.

    Raises:
        ConfigError: It is not; offers the near ones.
    """
    head, _, rest = dimension.key.partition(".")
    if head not in section.model_fields:
        raise ConfigError(
            f"tuning.space: {dimension.key!r} is no key of the training section"
            f"{did_you_mean(head, section.model_fields)}",
            expected=f"a path such as parameters.NAME; keys are {', '.join(section.model_fields)}",
        )
    if not rest and head == "parameters":
        raise ConfigError("tuning.space: 'parameters' is a section", expected="parameters.NAME for one of them")

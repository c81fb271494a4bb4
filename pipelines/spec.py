"""The model specification: one YAML file that says all about a model, `model.yaml`.

    name: flights
    contract: contract.yaml
    source: {uri: data/flights.parquet}
    split: {method: time, validation: 0.2}
    training: {estimator: hist_gradient_boosting}
    evaluation: {primary: roc_auc}

Each section is typed beside the component that owns it. A pipeline takes the sections as YAML texts, one parameter
each, so that a step's cache key holds what the step reads and nothing else.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Discriminator, Tag, field_validator

from headway.components.bundle import Task
from headway.components.config import Config, parse_yaml
from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import ConfigError, UsageError
from headway.components.evaluate.gate import EvaluationSpec
from headway.components.evaluate.metrics import metric
from headway.components.evaluate.slices import columns_of
from headway.components.ingest.sources import Source
from headway.components.ingest.split import Split
from headway.components.optimise.spec import OptimiseSpec
from headway.components.register.names import model_name
from headway.components.train.estimators import TrainSpec
from headway.components.train.estimators import find as find_estimator
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.tune.spec import TuningSpec
from headway.serving.release.plan import ReleaseSpec

_Section = TypeVar("_Section", bound=Config)


class RegistrySpec(Config):
    """What the registry does with a model that passed the gate."""

    document: ClassVar[str] = "registry section"

    promote_first: bool = True
    """Whether the first version becomes champion at once: there is nothing yet that it could harm."""


class ModelSpec(Config):
    """All about one model."""

    document: ClassVar[str] = "model specification"

    name: str
    """The model's name in the registry and later its service's: lower-case letters, digits and hyphens."""
    description: str = ""
    contract: Path = Path("contract.yaml")
    """The contract's file, beside this one."""
    source: Source
    """Where the data comes from."""
    split: Split = Split()
    """How it is split into train, validation and holdout."""
    training: Annotated[
        Annotated[TrainSpec, Tag("<estimator>")] | Annotated[DistributedSpec, Tag("<network>")],
        Discriminator(lambda given: "<network>" if _trainer(given) == "distributed" else "<estimator>"),
    ] = TrainSpec()
    """What is fitted, and how; with `trainer: distributed` a network, on one or many processes."""
    tuning: TuningSpec | None = None
    """What is searched before training; without it nothing is."""
    optimise: OptimiseSpec | None = None
    """What the model file may lose for speed; without it the file stays as training wrote it."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """What is measured, and what the gate demands."""
    registry: RegistrySpec = RegistrySpec()
    release: ReleaseSpec = ReleaseSpec()
    """How a version takes over live traffic."""

    def check(self, contract: Contract) -> None:
        """Hold the sections against each other and against the contract, before anything runs.

        Raises:
            UsageError: The contract has no target, or an estimator, a slice or a column does not exist.
            EvaluationError: A rule of the gate cannot be judged, or points the wrong way.
        """
        contract.require_target()
        columns_of(self.evaluation.slices, contract)
        task = self.task(contract)
        if isinstance(self.training, DistributedSpec):
            self.training.check()
        else:
            estimator = find_estimator(self.training.estimator)
            if task is not None:
                estimator.path(task)
        if self.tuning is not None:
            self.tuning.check(self.training, task)
        if task is not None:
            self.evaluation.check(task)
            return
        for name in filter(None, [self.evaluation.primary, *self.evaluation.metrics]):
            metric(name)

    @property
    def distributed(self) -> bool:
        """Whether a network is trained, by `train_distributed`."""
        return isinstance(self.training, DistributedSpec)

    @property
    def machines(self) -> int:
        """Machines that training takes."""
        return self.training.placement.nodes if isinstance(self.training, DistributedSpec) else 1

    def task(self, contract: Contract) -> Task | None:
        """What is predicted, as far as the documents alone say; None where the data will decide."""
        if self.training.task != "auto":
            return self.training.task
        target = contract.column(contract.require_target())
        if target.type is ColumnType.BOOLEAN:
            return "binary"
        if target.values:
            return "binary" if len(target.values.allowed) == 2 else "multiclass"
        return "regression" if target.type is ColumnType.NUMBER else None

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        try:
            return model_name(name)
        except UsageError as error:
            raise ValueError(str(error)) from None


def load_spec(path: Path, overrides: list[str] | None = None) -> ModelSpec:
    """Read `model.yaml`, with changes from the command line.

    Args:
        path: The file.
        overrides: `section.key=value` texts; the value is read as YAML.

    Raises:
        ConfigError: The file or an override is wrong; names the key and the near ones.
    """
    if not overrides:
        return ModelSpec.load(path)
    ModelSpec.load(path)
    data = parse_yaml(path.read_text(encoding="utf-8"), where=str(path))
    for override in overrides:
        _apply(data, override)
    return ModelSpec.parse(data, where=f"{path} with {' '.join(overrides)}")


def change(section: _Section, assignments: list[str]) -> _Section:
    """A document with `key.key=value` changes.

    Raises:
        ConfigError: A key does not exist or a value is wrong.

    Example:
        >>> change(ReleaseSpec(), ["steps=[10, 100]", "guards.latency.quantile=0.95"]).steps
        [10.0, 100.0]
    """
    data = section.model_dump(mode="json", exclude_defaults=True)
    for assignment in assignments:
        _apply(data, assignment)
    return section.parse(data, where=f"{section.document} with {' '.join(assignments)}")


def pipeline_arguments(spec: ModelSpec, contract: Contract) -> dict[str, str | bool]:
    """The specification as parameters of the training pipeline: YAML texts that say the same on every platform.

    A mapping would be shorter, but Kubeflow passes every number as a float, and `max_features: 1` is one feature where
    `1.0` is all of them.
    """
    return {
        "name": spec.name,
        "contract": contract.dump(),
        "source": spec.source.dump(),
        "split": spec.split.dump(),
        "training": spec.training.dump(),
        "evaluation": spec.evaluation.dump(),
        "promote_first": spec.registry.promote_first,
        **({"tuning": spec.tuning.with_metric(spec.evaluation.primary).dump()} if spec.tuning else {}),
        **({"optimisation": spec.optimise.dump()} if spec.optimise else {}),
    }


def _trainer(given: Any) -> Any:
    return given.get("trainer") if isinstance(given, dict) else getattr(given, "trainer", None)


def _apply(data: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in the raw document."""
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {override}: not of the form section.key=value", expected="such as training.seed=7")
    place = data
    for key in keys[:-1]:
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override}: {key} holds a value, not a section")
        place = inner
    place[keys[-1]] = parse_yaml(text, where=f"--set {path}")

"""What is fitted: the training section of a model.yaml, and the catalogue of estimators it may name.

training:
  estimator: hist_gradient_boosting     # a name below, or the dotted path of a scikit-learn compatible class
  parameters: {max_iter: 200, learning_rate: 0.05}
  class_weight: balanced
  early_stopping: {patience: 10, validation_share: 0.1}
"""

import importlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.errors import ConfigError, UnknownNameError, did_you_mean

_THREADLESS = {"sklearn.linear_model.LogisticRegression"}
"""Classes that still have `n_jobs` and warn that it does nothing."""
_SET_BY_THE_SECTION = {"random_state": "seed", "n_jobs": "threads", "class_weight": "class_weight"}


class EarlyStopping(Config):
    """When to stop adding iterations: once a held-back share of the training rows no longer improves."""

    document: ClassVar[str] = "early stopping section"

    patience: int = Field(default=10, ge=1)
    """Iterations without improvement after which the fit stops."""
    validation_share: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the training rows that judges each iteration and is not fitted on, 0 to 1."""


def _as_early_stopping(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


def _as_onnx(value: Any) -> Any:
    # YAML 1.1 reads a bare `off` as false.
    return "off" if value is False else value


def label_text(label: Any) -> str:
    """A class label as the key of `class_weight`: as YAML writes it, so that `true` and 1 come back from any document.

    Example:
        >>> [label_text(label) for label in (True, 3, "AA")]
        ['true', '3', 'AA']
    """
    return str(label).lower() if isinstance(label, bool) else str(label)


def _by_text(value: Any) -> Any:
    return {label_text(label): weight for label, weight in value.items()} if isinstance(value, dict) else value


class TrainSpec(Config):
    """The training section of a model.yaml: what is fitted, and how."""

    document: ClassVar[str] = "training section"

    estimator: str = Field(default="hist_gradient_boosting", min_length=1, max_length=300)
    """A name of the catalogue, or the dotted path of a scikit-learn compatible class."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The estimator's own parameters; what is not given keeps the catalogue's, then the library's default."""
    task: Task | Literal["auto"] = "auto"
    """`auto` reads it off the target: boolean, string and integer with allowed values are classes, a number is not."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seeds every random choice of the fit."""
    class_weight: Annotated[
        Literal["balanced"] | dict[str, Annotated[float, Field(gt=0)]] | None, BeforeValidator(_by_text)
    ] = None
    """`balanced` (inverse to a class's share), a weight by class label (others weigh 1), or none."""
    early_stopping: Annotated[EarlyStopping | None, BeforeValidator(_as_early_stopping)] = None
    """`true` for the defaults, a mapping for others; for the estimators that fit in iterations."""
    threads: int = Field(default=0, ge=0)
    """Threads of the fit; 0 means as many as there are cores for this process (affinity and cgroup respected)."""
    onnx: Annotated[Literal["auto", "require", "off"], BeforeValidator(_as_onnx)] = "auto"
    """Write an ONNX file too: `auto` where it converts and agrees, `require` or fail, `off`."""
    parity_tolerance: float = Field(default=1e-4, gt=0.0)
    """Largest difference allowed between the two files: of a probability, or as a share of the target's standard
    deviation in regression."""
    max_categories: int = Field(default=50, ge=2, le=10_000)
    """Where categories become columns of 0 and 1: how many a column may have before it is encoded otherwise."""


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """One entry of the catalogue, or a class that was found by its dotted path."""

    name: str
    classifier: str | None = None
    """Dotted path of the class for binary and multiclass."""
    regressor: str | None = None
    """Dotted path of the class for regression."""
    classifier_defaults: dict[str, Any] = field(default_factory=dict)
    """Parameters set unless the section sets them, where the library's default does not suit."""
    regressor_defaults: dict[str, Any] = field(default_factory=dict)
    scales: bool = False
    """Whether numbers are brought to mean 0 and standard deviation 1 first."""
    one_number: bool = False
    """Whether it does better with one number for a category than with a column of 0 and 1 for each: trees, which split
    one column at a time, and naive Bayes, which takes columns for independent and rare ones for certain."""
    takes_missing: bool = False
    """Whether it takes missing numbers as they are."""
    early_stopping: bool = False
    """Whether it can stop early."""

    def path(self, task: Task) -> str:
        """Dotted path of the class for a task.

        Raises:
            ConfigError: The estimator does not fit the task; names those that do.
        """
        path = self.regressor if task == "regression" else self.classifier
        if path is None:
            raise ConfigError(
                f"Estimator {self.name!r} does not fit the task {task!r}",
                expected=f"one of {', '.join(names(task))}",
            )
        return path

    def defaults(self, task: Task) -> dict[str, Any]:
        """The parameters that the catalogue sets for a task."""
        return self.regressor_defaults if task == "regression" else self.classifier_defaults


_CATALOGUE = (
    Estimator(
        name="logistic_regression",
        classifier="sklearn.linear_model.LogisticRegression",
        classifier_defaults={"max_iter": 1000},
        scales=True,
    ),
    Estimator(name="ridge", regressor="sklearn.linear_model.Ridge", scales=True),
    Estimator(name="lasso", regressor="sklearn.linear_model.Lasso", scales=True),
    Estimator(name="elastic_net", regressor="sklearn.linear_model.ElasticNet", scales=True),
    Estimator(
        name="sgd",
        classifier="sklearn.linear_model.SGDClassifier",
        regressor="sklearn.linear_model.SGDRegressor",
        classifier_defaults={"loss": "log_loss"},  # the default, hinge, has no probabilities
        scales=True,
        early_stopping=True,
    ),
    Estimator(
        name="random_forest",
        classifier="sklearn.ensemble.RandomForestClassifier",
        regressor="sklearn.ensemble.RandomForestRegressor",
        # Leaves of one row make files of hundreds of megabytes and probabilities of 0 and 1.
        classifier_defaults={"min_samples_leaf": 10},
        regressor_defaults={"min_samples_leaf": 10},
        one_number=True,
    ),
    Estimator(
        name="extra_trees",
        classifier="sklearn.ensemble.ExtraTreesClassifier",
        regressor="sklearn.ensemble.ExtraTreesRegressor",
        classifier_defaults={"min_samples_leaf": 10},
        regressor_defaults={"min_samples_leaf": 10},
        one_number=True,
    ),
    Estimator(
        name="gradient_boosting",
        classifier="sklearn.ensemble.GradientBoostingClassifier",
        regressor="sklearn.ensemble.GradientBoostingRegressor",
        one_number=True,
        early_stopping=True,
    ),
    Estimator(
        name="hist_gradient_boosting",
        classifier="sklearn.ensemble.HistGradientBoostingClassifier",
        regressor="sklearn.ensemble.HistGradientBoostingRegressor",
        # The library's "auto" holds rows back from 10,000 on; here only who asks for it loses them.
        classifier_defaults={"early_stopping": False},
        regressor_defaults={"early_stopping": False},
        one_number=True,
        takes_missing=True,
        early_stopping=True,
    ),
    Estimator(
        name="decision_tree",
        classifier="sklearn.tree.DecisionTreeClassifier",
        regressor="sklearn.tree.DecisionTreeRegressor",
        classifier_defaults={"min_samples_leaf": 10},
        regressor_defaults={"min_samples_leaf": 10},
        one_number=True,
    ),
    Estimator(
        name="mlp",
        classifier="sklearn.neural_network.MLPClassifier",
        regressor="sklearn.neural_network.MLPRegressor",
        scales=True,
        early_stopping=True,
    ),
    Estimator(
        name="knn",
        classifier="sklearn.neighbors.KNeighborsClassifier",
        regressor="sklearn.neighbors.KNeighborsRegressor",
        scales=True,
    ),
    Estimator(name="naive_bayes", classifier="sklearn.naive_bayes.GaussianNB", one_number=True),
    Estimator(
        name="dummy",
        classifier="sklearn.dummy.DummyClassifier",
        regressor="sklearn.dummy.DummyRegressor",
        one_number=True,
        takes_missing=True,
    ),
)
CATALOGUE: dict[str, Estimator] = {entry.name: entry for entry in _CATALOGUE}
"""Every estimator by name; `dummy` is the baseline that looks at no feature."""


def names(task: Task) -> list[str]:
    """The catalogue's names that fit a task.

    Example:
        >>> names("regression")[:3]
        ['decision_tree', 'dummy', 'elastic_net']
    """
    regression = task == "regression"
    return sorted(entry.name for entry in _CATALOGUE if (entry.regressor if regression else entry.classifier))


def find(name: str) -> Estimator:
    """An estimator by its name in the catalogue, or by the dotted path of its class.

    A class from outside the catalogue gets scaled numbers without gaps and categories as columns of 0 and 1, which
    every estimator takes.

    Raises:
        UnknownNameError: A plain name that the catalogue does not have; offers the near ones.
        ConfigError: A dotted path that leads to no class with `fit`, `predict` and `get_params`.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if "." not in name:
        raise UnknownNameError("estimator", name, CATALOGUE)
    known = next((entry for entry in _CATALOGUE if name in (entry.classifier, entry.regressor)), None)
    if known is not None:
        return known
    kind = _kind(name, _import(name))
    return Estimator(
        name=name,
        classifier=name if kind == "classifier" else None,
        regressor=name if kind == "regressor" else None,
        scales=True,
    )


def build(spec: TrainSpec, task: Task, *, threads: int) -> Any:
    """The unfitted estimator of a training section.

    Args:
        spec: The training section.
        task: What is predicted.
        threads: Threads that the estimator may use.

    Raises:
        UnknownNameError: The estimator does not exist.
        ConfigError: It does not fit the task, a parameter does not exist, or it cannot stop early.
    """
    entry = find(spec.estimator)
    path = entry.path(task)
    kind = _import(path)
    accepted = set(inspect.signature(kind).parameters) if path == entry.name else set(kind().get_params(deep=False))
    _check_parameters(entry.name, spec.parameters, accepted)
    values = entry.defaults(task) | spec.parameters
    if spec.early_stopping is not None:
        values |= _early_stopping(entry, spec.early_stopping, accepted, spec.parameters)
    if "random_state" in accepted:
        values["random_state"] = spec.seed
    if "n_jobs" in accepted and path not in _THREADLESS:
        values["n_jobs"] = threads
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Estimator {entry.name!r} refuses its parameters: {error}") from error


def _early_stopping(
    entry: Estimator, stopping: EarlyStopping, accepted: Iterable[str], given: dict[str, Any]
) -> dict[str, Any]:
    if not entry.early_stopping:
        able = sorted(other.name for other in _CATALOGUE if other.early_stopping)
        raise ConfigError(
            f"Estimator {entry.name!r} does not stop early", expected=f"one of {', '.join(able)}, or no early_stopping"
        )
    values: dict[str, Any] = {
        "n_iter_no_change": stopping.patience,
        "validation_fraction": stopping.validation_share,
    }
    if "early_stopping" in accepted:
        values["early_stopping"] = True
    twice = sorted(values.keys() & given.keys())
    if twice:
        raise ConfigError(
            f"Parameter {twice[0]!r} of {entry.name!r} is also set by early_stopping", fix="give it in one place"
        )
    return values


def _check_parameters(name: str, given: dict[str, Any], accepted: set[str]) -> None:
    for parameter in given:
        if parameter in _SET_BY_THE_SECTION:
            raise ConfigError(
                f"Parameter {parameter!r} of {name!r} is set by the training section",
                fix=f"give `{_SET_BY_THE_SECTION[parameter]}:` beside `parameters:`",
            )
        if parameter not in accepted:
            own = sorted(accepted - _SET_BY_THE_SECTION.keys())
            raise ConfigError(
                f"Estimator {name!r} has no parameter {parameter!r}{did_you_mean(parameter, own)}",
                expected=f"one of {', '.join(own)}" if own else "no parameters",
            )


def _import(path: str) -> Any:
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"Estimator {path!r}: {error}",
            expected="a name of the catalogue, or the dotted path of a class that can be imported",
            fix="install the package in the image and here, or correct the path",
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(f"Estimator {path!r}: {module_name} has no such class{did_you_mean(class_name, classes)}")
    return found


def _kind(path: str, found: Any) -> str:
    lacking = [method for method in ("fit", "predict", "get_params") if not callable(getattr(found, method, None))]
    if lacking:
        raise ConfigError(
            f"Estimator {path!r} has no {', '.join(lacking)}",
            expected="a scikit-learn compatible classifier or regressor",
        )
    from sklearn.base import is_classifier, is_regressor

    try:
        probe = found()
    except TypeError as error:
        raise ConfigError(f"Estimator {path!r}: {error}", expected="a class that needs no arguments") from error
    if is_classifier(probe):
        return "classifier"
    if is_regressor(probe):
        return "regressor"
    raise ConfigError(f"Estimator {path!r} is neither a classifier nor a regressor")

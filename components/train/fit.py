"""Fit one estimator on the valid training part; everything learnt from data is in the one pipeline that comes back.

    missing numbers    median of the training rows, where the estimator takes none; `[missing]` columns say where
    categories, trees  the mean of the target per category (cross-fitted), unseen ones the overall mean;
                       with more than two classes the category's rank, unseen ones -1
    categories, other  a column of 0 and 1 each, unseen ones all 0; above `max_categories` the mean of the target,
                       with more than two classes a column for the most frequent only, the others all 0

The estimator is fitted on class numbers 0 to k - 1; `Fitted.classes` has the labels in that order.
"""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Task
from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import ConfigError, SourceError, TrainingError, did_you_mean
from headway.components.train.estimators import Estimator, TrainSpec, build, find, label_text
from headway.components.train.features import Features

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MAX_CLASSES = 1_000
FOLDS = 5
"""Folds in which the mean of the target per category is learnt, so that no row sees its own target."""
MIN_ROWS = 2 * FOLDS
"""With fewer rows some fold has no row of any class."""
SAMPLE_ROWS = 5_000
"""Rows, evenly spaced over the training part, that training metrics and the comparison of the files use."""

Label = bool | int | str


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A fitted pipeline and what is known about the fit."""

    pipeline: Any
    """scikit-learn pipeline from `Features.frame` to class numbers, or to values in regression."""
    features: Features
    task: Task
    target: str
    classes: list[Label]
    """Class labels in the order of the probability columns; empty for regression."""
    rows: int
    seconds: float
    """Wall time of typing, preprocessing and fit."""
    target_scale: float
    """Standard deviation of the target in regression, else 1: what a difference of predictions is measured in."""
    metrics: dict[str, float]
    """Rows, features, seconds, iterations, and the error on a sample of the training rows (`training_…`)."""
    sample: "pa.Table"
    """At most 5,000 training rows, evenly spaced, features only."""
    packages: tuple[str, ...] = ()
    """Packages that the model needs beside those of every bundle."""


def fit(data: Path, contract: Contract, spec: TrainSpec, *, threads: int = 0) -> Fitted:
    """Fit the training section's estimator on a Parquet file.

    Args:
        data: The valid training part.
        contract: What its columns are; role weight becomes the sample weight.
        spec: The training section.
        threads: Threads where the section names none; 0 means as many as there are cores for this process.

    Raises:
        ConfigError: The section does not fit the contract or the estimator.
        SourceError: The file cannot be read or lacks a column.
        TrainingError: The rows cannot be learnt from: too few, one class, a constant or missing target.
    """
    wait_without_spinning()
    features = Features.of(contract)
    table = _read(data, contract)
    if table.num_rows < MIN_ROWS:
        raise TrainingError(f"{data}: {table.num_rows} rows to train on", expected=f"at least {MIN_ROWS}")
    task, target, classes = _target(table.column(contract.require_target()), contract, spec)
    weights = _weights(table, contract, target, spec, classes)
    count = spec.threads or threads or available_threads()
    entry = find(spec.estimator)
    model = build(spec, task, threads=count)
    start = time.perf_counter()
    frame = features.frame(table)
    pipeline = _pipeline(entry, model, task, features, frame, spec)
    with _limited(count), _explained(entry):
        pipeline.fit(frame, target, **_fit_arguments(entry, model, weights))
    seconds = time.perf_counter() - start
    _settle(pipeline)
    positions = np.linspace(0, table.num_rows - 1, min(SAMPLE_ROWS, table.num_rows)).astype(np.int64)
    error = _training_error(pipeline, frame.iloc[positions], target[positions], task)
    return Fitted(
        pipeline=pipeline,
        features=features,
        task=task,
        target=contract.require_target(),
        classes=classes,
        rows=table.num_rows,
        seconds=seconds,
        target_scale=float(np.std(target)) if task == "regression" else 1.0,
        metrics={"rows": table.num_rows, "features": len(features.names), "fit_seconds": seconds, **error},
        sample=table.select(list(features.columns)).take(positions),
    )


def available_threads() -> int:
    """Cores that this process may use, after its CPU affinity and its cgroup's limit."""
    import joblib  # type: ignore[import-untyped]

    return int(joblib.cpu_count())


def _read(data: Path, contract: Contract) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    needed = [*contract.features, contract.require_target(), *([contract.weight] if contract.weight else [])]
    try:
        present = set(pq.read_schema(data).names)
        optional = {name for name in contract.features if not contract.columns[name].required}
        absent = [name for name in needed if name not in present]
        lacking = [name for name in absent if name not in optional]
        if lacking:
            raise SourceError(f"{data}: no column {', '.join(map(repr, lacking))}", expected="the contract's columns")
        table = pq.read_table(data, columns=[name for name in needed if name in present])
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{data}: cannot be read as Parquet: {error}") from error
    for name in absent:
        table = table.append_column(name, pa.nulls(table.num_rows))
    return table


def _target(values: Any, contract: Contract, spec: TrainSpec) -> tuple[Task, NDArray[Any], list[Label]]:
    """The task, the target as class numbers or values of shape (n,), and the class labels."""
    import pyarrow.compute as pc

    name = contract.require_target()
    kind = contract.column(name).type
    missing = values.null_count + (int(pc.sum(pc.is_nan(values)).as_py() or 0) if _is_float(values) else 0)
    if missing:
        raise TrainingError(
            f"Target {name!r} is missing in {missing} rows",
            expected="a value in each row",
            fix="let the contract quarantine them: `missing: {max_share: 0, level: quarantine}`",
        )
    distinct = pc.unique(values)
    if len(distinct) < 2:
        raise TrainingError(
            f"Target {name!r} has one value, {distinct[0].as_py()!r}",
            expected="at least two, or there is nothing to learn",
        )
    task = task_of(spec.task, contract, len(distinct))
    if task == "regression":
        return task, _numbers(values, name, kind), []
    if len(distinct) > MAX_CLASSES:
        raise TrainingError(
            f"Target {name!r} has {len(distinct):,} classes",
            expected=f"at most {MAX_CLASSES:,}",
            fix="group the rare ones, or set `task: regression` for a number",
        )
    if task == "binary" and len(distinct) > 2:
        raise TrainingError(
            f"Target {name!r} has {len(distinct)} classes", expected="two", fix="set `task: multiclass`"
        )
    classes = sorted(label_of(value, name) for value in distinct.to_pylist())
    codes = {label: code for code, label in enumerate(classes)}
    return task, np.array([codes[value] for value in values.to_pylist()], dtype=np.int64), classes


def task_of(wanted: Task | Literal["auto"], contract: Contract, distinct: int) -> Task:
    """The task: as wanted, or read off the target.

    Args:
        wanted: What the training section says.
        contract: The data contract.
        distinct: How many values the target has in the data.

    Raises:
        ConfigError: The target cannot be predicted this way.
    """
    name = contract.require_target()
    kind = contract.column(name).type
    if kind is ColumnType.TIMESTAMP:
        raise ConfigError(f"Target {name!r} is a timestamp", expected="a boolean, integer, string or number")
    if wanted != "auto":
        if wanted == "regression" and kind is ColumnType.STRING:
            raise ConfigError(f"Target {name!r} is a string", expected="a number for the task 'regression'")
        return wanted
    if kind in (ColumnType.BOOLEAN, ColumnType.STRING):
        return "binary" if distinct == 2 else "multiclass"
    if kind is ColumnType.INTEGER and (distinct == 2 or contract.column(name).values):
        return "binary" if distinct == 2 else "multiclass"
    return "regression"


def label_of(value: Any, name: str) -> Label:
    """A value of the target as a class label.

    Raises:
        TrainingError: It is a number with a fraction.
    """
    if isinstance(value, float):
        if not value.is_integer():
            raise TrainingError(f"Target {name!r} has the class {value!r}", expected="classes that are whole numbers")
        return int(value)
    return value if isinstance(value, (bool, int)) else str(value)


def _numbers(values: Any, name: str, kind: ColumnType) -> NDArray[np.float64]:
    import pyarrow as pa

    try:
        found: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy()
    except pa.ArrowException as error:
        raise TrainingError(f"Target {name!r} is no {kind}: {error}") from error
    if not np.isfinite(found).all():
        raise TrainingError(f"Target {name!r} has infinite values", expected="finite numbers")
    return found


def _is_float(values: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_floating(values.type))


def _weights(
    table: "pa.Table", contract: Contract, target: NDArray[Any], spec: TrainSpec, classes: list[Label]
) -> NDArray[np.float64] | None:
    """Sample weights of shape (n,): the contract's column times the class's weight; None when all are 1."""
    weights: NDArray[np.float64] | None = None
    if contract.weight:
        weights = _numbers(table.column(contract.weight).fill_null(np.nan), contract.weight, ColumnType.NUMBER)
        if (weights < 0).any() or not (weights > 0).any():
            raise TrainingError(
                f"Weight {contract.weight!r} has negative values or only zeros",
                expected="zero or more, some above zero",
            )
    if spec.class_weight is None:
        return weights
    if not classes:
        raise ConfigError("class_weight is set, and the task is regression", expected="a task with classes")
    by_class = class_weights(spec.class_weight, classes, np.bincount(target, weights, minlength=len(classes)))
    weights = np.ones(len(target)) if weights is None else weights
    found: NDArray[np.float64] = by_class[target] * weights
    return found


def class_weights(wanted: Any, classes: list[Label], totals: NDArray[Any]) -> NDArray[np.float64]:
    """A weight for each class, shape (k,).

    Args:
        wanted: `balanced`, or weights by label.
        classes: The labels.
        totals: Rows of each class, or the sum of their weights, shape (k,).

    Raises:
        ConfigError: A label is no class.
    """
    if wanted == "balanced":
        balanced: NDArray[np.float64] = totals.sum() / (len(classes) * np.maximum(totals, np.finfo(float).tiny))
        return balanced
    names = [label_text(label) for label in classes]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(
            f"class_weight names the class {unknown[0]!r}{did_you_mean(unknown[0], names)}",
            expected=f"labels of the target: {', '.join(names)}",
        )
    return np.array([float(wanted.get(name, 1.0)) for name in names])


def _pipeline(
    entry: Estimator, model: Any, task: Task, features: Features, frame: "pd.DataFrame", spec: TrainSpec
) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    # There is nothing to learn from a column that is missing in every row, and histogram boosting fails on it.
    empty = frame.isna().all().to_numpy()
    flags = [position for position in features.flags if not entry.takes_missing]
    values = [at for at in range(len(features.numbers)) if at not in features.flags and not empty[at]]
    branches: list[tuple[str, Any, list[int]]] = []
    if values:
        branches.append(("numbers", _number_steps(entry), values))
    if flags:
        branches.append(("missing", "passthrough", flags))
    branches += _text_branches(entry, task, features, frame, spec)
    if not branches:
        raise TrainingError("Every feature is missing in all rows", expected="a feature with values")
    return Pipeline([("columns", ColumnTransformer(branches, sparse_threshold=0.0)), ("model", model)])


def _number_steps(entry: Estimator) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if entry.takes_missing:
        return "passthrough"
    imputer = SimpleImputer(strategy="median")
    return Pipeline([("impute", imputer), ("scale", StandardScaler())]) if entry.scales else imputer


def _text_branches(
    entry: Estimator, task: Task, features: Features, frame: "pd.DataFrame", spec: TrainSpec
) -> list[tuple[str, Any, list[int]]]:
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    positions = range(len(features.numbers), len(features.names))
    many_classes = task == "multiclass"
    if entry.one_number:
        rank = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.float64)
        encoder = rank if many_classes else _target_encoder(entry, task, spec)
        return [("categories", encoder, list(positions))] if positions else []
    many = [at for at in positions if frame.iloc[:, at].nunique() > spec.max_categories]
    few = [at for at in positions if at not in many]
    branches: list[tuple[str, Any, list[int]]] = []
    if few:
        branches.append(("categories", OneHotEncoder(handle_unknown="ignore", sparse_output=False), few))
    if many and many_classes:
        frequent = [_frequent(frame.iloc[:, at], spec.max_categories) for at in many]
        encoder = OneHotEncoder(categories=frequent, handle_unknown="ignore", sparse_output=False)
        branches.append(("many_categories", encoder, many))
    elif many:
        branches.append(("many_categories", _target_encoder(entry, task, spec), many))
    return branches


def _frequent(values: "pd.Series[str]", count: int) -> NDArray[np.object_]:
    """The most frequent categories, sorted by name; equally frequent ones are taken by name."""
    ranked = sorted(values.value_counts().items(), key=lambda entry: (-entry[1], str(entry[0])))
    return np.array(sorted(str(name) for name, _ in ranked[:count]), dtype=object)


def _target_encoder(entry: Estimator, task: Task, spec: TrainSpec) -> Any:
    from sklearn.model_selection import KFold, StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler, TargetEncoder

    regression = task == "regression"
    folds = (KFold if regression else StratifiedKFold)(FOLDS, shuffle=True, random_state=spec.seed)
    encoder = TargetEncoder(target_type="continuous" if regression else "binary", cv=folds)
    return Pipeline([("encode", encoder), ("scale", StandardScaler())]) if entry.scales else encoder


def _fit_arguments(entry: Estimator, model: Any, weights: NDArray[np.float64] | None) -> dict[str, Any]:
    if weights is None:
        return {}
    from sklearn.utils.validation import has_fit_parameter

    if not has_fit_parameter(model, "sample_weight"):
        raise ConfigError(
            f"Estimator {entry.name!r} takes no weights",
            fix="leave out class_weight and the contract's role weight, or take another estimator",
        )
    return {"model__sample_weight": weights}


def wait_without_spinning() -> None:
    """Let OpenMP's threads sleep while they wait, where nobody chose otherwise; before scikit-learn loads OpenMP.

    A thread that spins keeps the core from the one it waits for as soon as anything else wants it too, as in a pod
    whose limit is below its threads: histogram boosting on 164,000 rows took 6 to 8 s this way and 44 to 50 s with
    spinning, on two cores with two other processes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(limits=threads):
        yield


@contextmanager
def _explained(entry: Estimator) -> Iterator[None]:
    """Turn what a fit raises into our errors, and leave out warnings that say nothing to act on."""
    from sklearn.utils._param_validation import InvalidParameterError

    try:
        with warnings.catch_warnings():
            # Five folds over a class with fewer members: the encoder copes, and the class is in the report.
            warnings.filterwarnings("ignore", message="The least populated class in y", category=UserWarning)
            yield
    except InvalidParameterError as error:
        raise ConfigError(
            f"Estimator {entry.name!r}: {error}", fix="correct `parameters:` of the training section"
        ) from error
    except (ValueError, TypeError, FloatingPointError) as error:
        raise TrainingError(f"Estimator {entry.name!r} could not be fitted: {error}") from error
    except MemoryError as error:
        raise TrainingError(
            f"Estimator {entry.name!r} ran out of memory", fix="give the step more (`resources: large`)"
        ) from error


def _settle(pipeline: Any) -> None:
    """Take out what belongs to this machine, and round the learnt category means to the 32 bits that ONNX has."""
    from sklearn.preprocessing import TargetEncoder

    model = pipeline.named_steps["model"]
    if "n_jobs" in model.get_params(deep=False):
        model.set_params(n_jobs=None)
    columns = pipeline.named_steps["columns"]
    for _, branch, _ in [*columns.transformers, *columns.transformers_]:
        for step in getattr(branch, "named_steps", {"only": branch}).values():
            if isinstance(step, TargetEncoder):
                step.cv = FOLDS  # the folds are of the fit alone, and would be one more type to trust
            if isinstance(step, TargetEncoder) and hasattr(step, "encodings_"):
                step.encodings_ = [means.astype(np.float32).astype(np.float64) for means in step.encodings_]
                step.target_mean_ = float(np.float32(step.target_mean_))


def _training_error(pipeline: Any, frame: Any, target: NDArray[Any], task: Task) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error

    found: dict[str, float] = {}
    iterations = getattr(pipeline.named_steps["model"], "n_iter_", None)
    if iterations is not None:
        found["iterations"] = float(np.max(iterations))
    predicted = pipeline.predict(frame)
    if task == "regression":
        return found | {
            "training_rmse": float(root_mean_squared_error(target, predicted)),
            "training_r2": float(r2_score(target, predicted)),
        }
    found["training_accuracy"] = float(accuracy_score(target, predicted))
    if hasattr(pipeline, "predict_proba"):
        model_classes = list(pipeline.classes_)
        found["training_log_loss"] = float(log_loss(target, pipeline.predict_proba(frame), labels=model_classes))
    return found

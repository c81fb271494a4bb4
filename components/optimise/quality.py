"""Real rows with their truth, and what a file's answers are worth on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Task
from headway.components.errors import ConfigError, EvaluationError, SourceError
from headway.components.evaluate.bootstrap import paired_intervals
from headway.components.evaluate.metrics import PRIMARY, Sample, classified, measure, metric, metrics_for, regressed
from headway.components.train.features import Features

if TYPE_CHECKING:
    import pyarrow as pa

    from headway.components.trust import CheckedBundle

_WITHOUT_UNIT = {"r2", "mape"}
"""Metrics of a regression that do not grow with the target's unit."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Real rows as a model takes them, with their truth."""

    features: Features
    numbers: NDArray[np.float32]
    """Shape (n, p)."""
    texts: NDArray[np.object_]
    """Shape (n, q)."""
    truth: NDArray[Any] | None
    """Shape (n,); None where the data has no target."""
    weight: NDArray[np.float64] | None
    """Shape (n,); None when all rows count alike."""
    task: Task
    classes: list[Any]
    metric: str
    """The metric that quality means; empty without truth."""
    scale: float
    """What differences are measured in: the target's standard deviation in regression, else 1."""


def read_rows(checked: "CheckedBundle", data: Path, most: int, wanted: str) -> Rows:
    """Read evenly spaced rows of a Parquet file.

    Args:
        checked: The bundle whose contract says what the columns are.
        data: The file.
        most: How many rows at most.
        wanted: The metric; empty takes the one that the task leads with.

    Raises:
        ConfigError: The metric does not fit the task.
        SourceError: The file cannot be read, lacks a column or has no row.
        UnknownNameError: There is no such metric.
    """
    info, contract = checked.info, checked.contract
    name = metric(wanted or PRIMARY[info.task]).name
    if name not in metrics_for(info.task):
        raise ConfigError(
            f"Metric {name!r} does not fit a {info.task} model", expected=f"one of {', '.join(metrics_for(info.task))}"
        )
    features = Features.of(contract)
    required = [column for column in features.columns if contract.columns[column].required]
    optional = [column for column in features.columns if column not in required]
    extra = [info.target, *([contract.weight] if contract.weight else [])]
    table = _read(data, required, [*optional, *extra], most)
    numbers, texts = features.arrays(table)
    truth = _column(table, info.target)
    spread = float(np.std(truth)) if truth is not None and info.task == "regression" else 1.0
    return Rows(
        features=features,
        numbers=numbers,
        texts=texts,
        truth=truth,
        weight=_column(table, contract.weight) if contract.weight else None,
        task=info.task,
        classes=list(info.classes),
        metric=name if truth is not None else "",
        scale=spread or 1.0,
    )


def value_of(rows: Rows, answers: NDArray[np.float64]) -> float | None:
    """The metric's value for answers of shape (n, k) or (n, 1); None where it is undefined or nothing is known."""
    sample = _sample(rows, answers)
    return None if sample is None else measure(sample, [rows.metric])[rows.metric].value


def loss(rows: Rows, reference: NDArray[np.float64], answers: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The metric's value for some answers, and how much worse it is than for the reference, at worst.

    Both predict the same rows, so the interval is that of their paired difference, and its worse end counts. In the
    metric's unit; for errors in the target's unit as a share of its standard deviation.

    Args:
        rows: n real rows.
        reference: What the trained file says, shape (n, k).
        answers: What the other file says, shape (n, k).
    """
    ours, theirs = _sample(rows, answers), _sample(rows, reference)
    if ours is None or theirs is None:
        return None, None
    name, found = rows.metric, metric(rows.metric)
    paired = paired_intervals(ours, theirs, [name])
    value, before = paired.candidate[name].value, paired.champion[name].value
    if value is None or before is None:
        return value, None
    lost = found.goodness(before) - found.goodness(value)
    apart = paired.difference[name]
    if apart.low is not None and apart.high is not None and found.direction != "zero":
        lost = max(lost, -apart.low if found.direction == "higher" else apart.high)
    in_units = rows.task == "regression" and name not in _WITHOUT_UNIT
    return value, lost / rows.scale if in_units else lost


def _sample(rows: Rows, answers: NDArray[np.float64]) -> Sample | None:
    if rows.truth is None:
        return None
    if rows.task == "regression":
        return regressed(rows.truth, answers[:, 0], weight=rows.weight)
    labels = np.array(rows.classes, dtype=object if isinstance(rows.classes[0], str) else None)
    try:
        return classified(
            rows.task, rows.truth, labels[answers.argmax(axis=1)], answers, rows.classes, weight=rows.weight
        )
    except EvaluationError:
        return None


def _read(data: Path, required: list[str], optional: list[str], most: int) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = set(pq.read_schema(data).names)
        lacking = [name for name in required if name not in present]
        if lacking:
            raise SourceError(
                f"{data}: no column {', '.join(map(repr, lacking))}", expected="rows with the contract's columns"
            )
        table = pq.read_table(data, columns=[name for name in [*required, *optional] if name in present])
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{data}: {str(error).splitlines()[0]}", expected="a Parquet file") from None
    if not table.num_rows:
        raise SourceError(f"{data}: has no row", expected="rows to compare the model files on")
    places = np.linspace(0, table.num_rows - 1, min(most, table.num_rows)).astype(np.int64)
    return table.take(places)


def _column(table: "pa.Table", name: str) -> NDArray[Any] | None:
    """A column's values; None where it is absent or has gaps."""
    import pyarrow.compute as pc

    if name not in table.column_names or pc.any(pc.is_null(table.column(name), nan_is_null=True)).as_py():
        return None
    values: NDArray[Any] = table.column(name).to_numpy()
    return values

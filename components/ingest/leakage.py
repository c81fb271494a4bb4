"""Leakage checks: the answer hidden among the features, or the same row on both sides of the split.

overlap       one key in two parts; without a key, rows that a model cannot tell apart in two parts (a warning)
declared      a feature that is the target, or that the contract declares as known only with the outcome
strength      a single feature that almost determines the target, measured on rows it was not fitted on
"""

# ruff: noqa: S608 - SQL here is put together from our own text and from names that quote_name() and quote_text() quote.

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from headway.components.config import Config
from headway.components.data_validate.contract import Contract
from headway.components.errors import LeakageError
from headway.components.sql import quote_text

if TYPE_CHECKING:
    from headway.components.ingest.rows import RowIndex

Floats = NDArray[np.float64]
Action = Literal["block", "warn", "off"]

_MIN_ROWS = 10
"""Rows that a class (or a numeric target) needs in each half before anything is concluded."""
_MAX_CLASSES = 20
"""A target of whole numbers with more distinct values than this is a quantity."""
_SMOOTHING = 10.0
"""Rows of the average that a category is mixed with, so that a rare category says little."""
_COLUMNS_AT_ONCE = 50
_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution: a two-sided 95 % interval."""


class LeakageSettings(Config):
    """How strict the leakage checks are."""

    document: ClassVar[str] = "leakage section"

    warn: float = Field(default=0.85, gt=0.5, le=1.0)
    """Strength from which a feature is reported: R² of numbers, AUC of classes (the lowest of one against the rest)."""
    block: float = Field(default=0.98, gt=0.5, le=1.0)
    """Strength from which a feature stops the run."""
    strength: Action = "block"
    """`block` stops the run, `warn` only reports, `off` does not look."""
    overlap: Action = "block"
    """The same for one key in two parts."""
    sample: int = Field(default=50_000, ge=100)
    """Rows of the train part that strength is measured on."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.warn > self.block:
            raise ValueError(f"warn {self.warn} is above block {self.block}")
        return self


@dataclass(frozen=True, slots=True)
class Finding:
    """One sign of leakage.

    Args:
        name: The feature, or the key's columns.
        kind: `overlap`, `declared` or `strength`.
        level: `block` stops the run, `warn` does not.
        value: How strong it is: AUC or R² for `strength`, the number of shared keys or rows for `overlap`.
        threshold: The value from which it is a finding.
        message: One sentence for people.
    """

    name: str
    kind: Literal["overlap", "declared", "strength"]
    level: Literal["block", "warn"]
    value: float | None
    threshold: float | None
    message: str


@dataclass(frozen=True, slots=True)
class Strength:
    """How well one feature alone predicts the target, out of sample.

    Args:
        metric: `AUC` or `R²`.
        value: The estimate.
        low: The lower end of its 95 % interval.
        rows: Rows that it was measured on.
    """

    metric: Literal["AUC", "R²"]
    value: float
    low: float
    rows: int


def raise_for(findings: Sequence[Finding]) -> None:
    """Stop on blocking findings.

    Raises:
        LeakageError: Names every finding, blocking or not.
    """
    blocking = [finding for finding in findings if finding.level == "block"]
    if not blocking:
        return
    others = [finding for finding in findings if finding.level != "block"]
    lines = [f"- {finding.message}" for finding in blocking]
    lines += [f"- (a warning) {finding.message}" for finding in others]
    names = ", ".join(dict.fromkeys(finding.name for finding in blocking))
    raise LeakageError(
        f"Leakage in {names}:\n" + "\n".join(lines),
        expected="features that are known before the prediction, and each key in one part only",
        fix="declare what is known afterwards with `known: outcome` in the contract, split by group, "
        "or set `leakage` in the split once a person has looked",
    )


def suspicious_features(
    path: Path, contract: Contract, features: Sequence[str] | None = None, *, settings: LeakageSettings | None = None
) -> list[Finding]:
    """What is suspicious about features, by declaration and by strength.

    Args:
        path: A Parquet file of rows to measure on, usually the train part.
        contract: Names the target, and what is known only with the outcome.
        features: The features that a model is to use; the contract's by default.
        settings: How strict to be.

    Raises:
        UnknownNameError: The contract does not name a feature.
    """
    settings = settings or LeakageSettings()
    names = list(contract.features) if features is None else list(features)
    return declared_findings(contract, names) + strength_findings(path, contract, names, settings)


def declared_findings(contract: Contract, features: Sequence[str]) -> list[Finding]:
    """Features that cannot be features by what the contract says; they always block.

    Raises:
        UnknownNameError: The contract does not name a feature; offers the near ones.
    """
    findings = []
    for name in features:
        if name == contract.target:
            message = f"{name!r} is the target itself"
        elif contract.column(name).known == "outcome":
            message = f"{name!r} is known only with the outcome, as contract {contract.name!r} declares"
        else:
            continue
        findings.append(Finding(name, "declared", "block", None, None, message))
    return findings


def strength_findings(
    path: Path, contract: Contract, features: Sequence[str], settings: LeakageSettings
) -> list[Finding]:
    """Features that predict the target so well alone that they are likely to hold the answer.

    A feature is a finding when the lower end of the 95 % interval of its strength reaches the threshold, so that a
    handful of lucky rows stops nothing.
    """
    if settings.strength == "off" or contract.target is None:
        return []
    findings = []
    for name, strength in measure(path, contract.target, features, rows=settings.sample):
        blocks = strength.low >= settings.block and settings.strength == "block"
        threshold = settings.block if strength.low >= settings.block else settings.warn
        if strength.low < settings.warn:
            continue
        findings.append(
            Finding(
                name,
                "strength",
                "block" if blocks else "warn",
                strength.value,
                threshold,
                f"{name!r} alone predicts {contract.target!r} with {strength.metric} {strength.value:.3f} "
                f"(at least {strength.low:.3f}; {'blocks' if blocks else 'suspicious'} from {threshold:g}) "
                f"on {strength.rows:,} rows it was not fitted on",
            )
        )
    return findings


def overlap_findings(
    connection: Any, index: "RowIndex", assignment: Path, contract: Contract | None, settings: LeakageSettings
) -> list[Finding]:
    """Keys, or without a key whole feature rows, that lie in more than one part.

    Args:
        connection: An open DuckDB connection.
        index: The rows' hashes.
        assignment: The part of each row (`split.Assignment.path`).
        contract: Names the key.
        settings: How strict to be.
    """
    if settings.overlap == "off":
        return []
    lanes = "identity_0, identity_1" if index.keyed else "features_0, features_1"
    shared = connection.execute(
        f"SELECT count(*) FROM (SELECT {lanes} FROM {index.sql} AS rows "
        f"POSITIONAL JOIN read_parquet({quote_text(str(assignment))}) AS parts "
        f"GROUP BY {lanes} HAVING min(part) < max(part))"
    ).fetchone()[0]
    if not shared:
        return []
    if index.keyed and contract and contract.key:
        name = ", ".join(contract.key.columns)
        level: Literal["block", "warn"] = "block" if settings.overlap == "block" else "warn"
        message = f"{shared:,} values of the key ({name}) lie in more than one part"
        return [Finding(name, "overlap", level, float(shared), 1.0, message)]
    message = f"{shared:,} combinations of features lie in more than one part; a `key` in the contract tells rows apart"
    return [Finding("features", "overlap", "warn", float(shared), 1.0, message)]


def measure(path: Path, target: str, features: Sequence[str], *, rows: int) -> Iterator[tuple[str, Strength]]:
    """The strength of each feature that can be measured, on a sample of a Parquet file.

    Args:
        path: The file.
        target: The column that is predicted.
        features: Columns to measure; those that the file lacks are left out.
        rows: About how many rows to sample.
    """
    import pyarrow.parquet as pq

    present = set(pq.read_schema(path).names)
    names = [name for name in features if name in present and name != target]
    if target not in present:
        return
    for start in range(0, len(names), _COLUMNS_AT_ONCE):
        some = names[start : start + _COLUMNS_AT_ONCE]
        table = _sample(path, [target, *some], rows)
        table = table.filter(table.column(target).is_valid())
        for name in some:
            strength = feature_strength(table.column(name), table.column(target))
            if strength is not None:
                yield name, strength


def feature_strength(feature: Any, target: Any) -> Strength | None:
    """How well one column predicts another on rows that it was not fitted on.

    After a seeded shuffle one half of the rows fits and the other judges: a decision tree over a number or time (where
    a missing value is a value), smoothed averages of the target over a category. An identifier never repeats, so it
    predicts nothing this way.

    Args:
        feature: An Arrow column, shape (rows,).
        target: An Arrow column of the same length without nulls; classes, or numbers.

    Returns:
        None when there are too few rows to conclude anything.

    Example:
        >>> import numpy as np, pyarrow as pa
        >>> rng = np.random.default_rng(7)
        >>> delay = rng.normal(0, 30, 4_000)
        >>> late = pa.chunked_array([delay >= 15])
        >>> feature_strength(pa.chunked_array([delay]), late).value
        1.0
        >>> round(feature_strength(pa.chunked_array([rng.normal(size=4_000)]), late).value, 1)
        0.5
    """
    order = np.random.default_rng(0).permutation(len(target))
    fit, judge = order[::2], order[1::2]
    columns = _class_columns(target)
    if columns is None:
        values = _numbers(target)
        if len(judge) < _MIN_ROWS or not np.isfinite(values).all():
            return None
        tries = [_scores(feature, values[:, None], fit, judge)[:, 0], *_line(feature, values, fit, judge)]
        results = [result for scores in tries if (result := _r_squared(values[judge], scores)) is not None]
        return max(results, key=lambda result: result.value, default=None)
    enough = (columns[fit].sum(axis=0) >= _MIN_ROWS) & (columns[judge].sum(axis=0) >= _MIN_ROWS)
    if enough.sum() < 2:
        return None
    scores = _scores(feature, columns, fit, judge)
    found = [_auc(columns[judge, place], scores[:, place]) for place in np.flatnonzero(enough)]
    return min(found, key=lambda strength: strength.value)


def _sample(path: Path, columns: Sequence[str], rows: int) -> Any:
    """About so many rows, each as likely as any other; the same rows whichever columns are asked for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    with pq.ParquetFile(path, pre_buffer=False) as file:
        share = min(1.0, rows / max(file.metadata.num_rows, 1))
        taken = [
            batch.filter(pa.array(rng.random(batch.num_rows) < share))
            for batch in file.iter_batches(batch_size=65_536, columns=list(dict.fromkeys(columns)))
        ]
        return pa.Table.from_batches(taken, schema=None if taken else file.schema_arrow).select(list(columns))


def _class_columns(target: Any) -> Floats | None:
    """One indicator column a class, shape (rows, classes); None when the target is a quantity."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = target.type
    if not (pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_integer(kind)):
        return None
    counts = pc.value_counts(target.combine_chunks())
    if pa.types.is_integer(kind) and len(counts) > _MAX_CLASSES:
        return None
    by_count = counts.sort(order="descending", by="counts") if len(counts) > _MAX_CLASSES else counts
    classes = by_count.field("values")[:_MAX_CLASSES]
    codes = pc.index_in(target.combine_chunks(), value_set=classes).fill_null(-1).to_numpy(zero_copy_only=False)
    columns: Floats = (codes[:, None] == np.arange(len(classes))[None, :]).astype(np.float64)
    return columns


def _scores(feature: Any, targets: Floats, fit: NDArray[np.int64], judge: NDArray[np.int64]) -> Floats:
    """Predictions of each target column for the judging rows; shape (judging rows, targets)."""
    import pyarrow as pa

    kind = feature.type
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        codes = feature.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False) + 1
        return _category_means(codes.astype(np.int64), targets, fit, judge)
    from sklearn.tree import DecisionTreeRegressor

    # Over indicator columns a regression tree gives class shares, so one kind of tree serves both tasks.
    values = _numbers(feature)[:, None].astype(np.float32)
    leaf = max(5, len(fit) // 500)
    tree = DecisionTreeRegressor(max_leaf_nodes=128, min_samples_leaf=leaf, random_state=0).fit(
        values[fit], targets[fit]
    )
    scores: Floats = tree.predict(values[judge]).reshape(len(judge), -1)
    return scores


def _line(feature: Any, target: Floats, fit: NDArray[np.int64], judge: NDArray[np.int64]) -> list[Floats]:
    """Predictions of a straight line, which finds a rescaled copy of a target with long tails; none for a category."""
    import pyarrow as pa

    if pa.types.is_string(feature.type) or pa.types.is_boolean(feature.type):
        return []
    values = _numbers(feature)
    known = fit[np.isfinite(values[fit])]
    if len(known) < _MIN_ROWS or np.ptp(values[known]) == 0.0:
        return []
    centre = values[known].mean()
    offsets = values - centre
    slope = float(offsets[known] @ (target[known] - target[known].mean())) / float(offsets[known] @ offsets[known])
    line: Floats = target[known].mean() + slope * np.nan_to_num(offsets[judge])
    return [line]


def _category_means(
    codes: NDArray[np.int64], targets: Floats, fit: NDArray[np.int64], judge: NDArray[np.int64]
) -> Floats:
    size = int(codes.max(initial=0)) + 1
    overall = targets[fit].mean(axis=0)
    counts = np.bincount(codes[fit], minlength=size)[:, None]
    sums = np.stack([np.bincount(codes[fit], weights=column, minlength=size) for column in targets[fit].T], axis=1)
    means: Floats = (sums + _SMOOTHING * overall) / (counts + _SMOOTHING)
    return means[codes[judge]]


def _numbers(column: Any) -> Floats:
    """An Arrow column as floats, missing values as NaN; a time counts in microseconds from its first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
        first = pc.min(column).as_py()
        column = pc.subtract(column, first) if first is not None else column
    values: Floats = column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=True)
    values[np.isinf(values)] = np.nan
    return values


def _auc(truth: Floats, scores: Floats) -> Strength:
    """Area under the ROC curve with the interval of Hanley and McNeil (1982), Radiology 143(1)."""
    from sklearn.metrics import roc_auc_score

    area = float(roc_auc_score(truth, scores))
    positive, negative = truth.sum(), len(truth) - truth.sum()
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positive - 1) * (q1 - area**2) + (negative - 1) * (q2 - area**2)
    error = math.sqrt(max(spread, 0.0) / (positive * negative))
    return Strength("AUC", area, max(area - _Z * error, 0.0), len(truth))


def _r_squared(truth: Floats, scores: Floats) -> Strength | None:
    """Share of variance explained, with the interval of Olkin and Finn (1995), Psychological Bulletin 118(1)."""
    total = float(((truth - truth.mean()) ** 2).sum())
    if total == 0.0:
        return None
    value = 1.0 - float(((truth - scores) ** 2).sum()) / total
    rows = len(truth)
    kept = max(value, 0.0)
    error = math.sqrt(4 * kept * (1 - kept) ** 2 * (rows - 2) ** 2 / ((rows**2 - 1) * (rows + 3)))
    return Strength("R²", value, max(value - _Z * error, 0.0), rows)

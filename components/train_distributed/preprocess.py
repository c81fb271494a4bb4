"""Preprocessing: learnt once from the training part, kept in the bundle as JSON, the same in training and in serving.

    numbers     mean and standard deviation of each column of `Features`; the network standardises with them, puts 0
                where a value is missing (its `[missing]` column says so) and bounds outliers (networks.py)
    texts       the categories that are frequent enough, most frequent first: code 1, 2, …; all others are code 0
    target      class labels in order, or mean and standard deviation in regression

What a row group adds is a small mergeable `Summary`, so that ranks read different groups, and the groups are merged in
the table's order, so that the result is the same to the last bit whatever rank read what.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from headway.components.bundle import Task
from headway.components.config import Config
from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError, SourceError, TrainingError
from headway.components.train.features import MISSING, Features
from headway.components.train.fit import MAX_CLASSES, MIN_ROWS, class_weights, label_of, task_of
from headway.components.train_distributed.spec import DistributedSpec

if TYPE_CHECKING:
    import pyarrow as pa

BOUND = 10.0
"""Standard deviations beyond which a number counts as this far: a network extrapolates linearly, and wrongly."""


@dataclass
class Rows:
    """Rows ready for the network, as numpy arrays of equal length n."""

    numbers: NDArray[np.float32]
    """Shape (n, p), NaN where missing; not standardised yet."""
    codes: NDArray[np.int32]
    """Category codes, shape (n, q)."""
    target: NDArray[Any]
    """Class numbers (int64) or standardised values (float32), shape (n,)."""
    weights: NDArray[np.float32] | None
    """Mean 1 over the training rows, shape (n,); None where all are 1."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(array.nbytes for array in self._arrays())

    def take(self, positions: NDArray[np.int64] | slice) -> "Rows":
        """Some of the rows; a slice copies nothing."""
        weights = None if self.weights is None else self.weights[positions]
        return Rows(self.numbers[positions], self.codes[positions], self.target[positions], weights)

    @staticmethod
    def concat(parts: list["Rows"]) -> "Rows":
        """All rows of some parts, in order."""
        if len(parts) == 1:
            return parts[0]
        weights = None if parts[0].weights is None else np.concatenate([part.weights for part in parts])
        return Rows(
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.codes for part in parts]),
            np.concatenate([part.target for part in parts]),
            weights,
        )

    def _arrays(self) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = [self.numbers, self.codes, self.target]
        return found if self.weights is None else [*found, self.weights]


class Preprocess(Config):
    """What was learnt from the training part, as data."""

    document: ClassVar[str] = "preprocessing"

    means: list[float]
    """Of the number columns, shape (p,); 0 for the columns that say that a value is missing."""
    scales: list[float]
    """Their standard deviations, never 0, shape (p,); 1 for the columns that say that a value is missing."""
    categories: list[list[str]]
    """For each text column the categories in the order of their codes, which start at 1."""
    task: Task
    classes: list[bool | int | str] = []
    target_mean: float = 0.0
    target_scale: float = 1.0
    """Standard deviation of the target in regression, else 1."""
    class_weights: list[float] = []
    """In the order of the classes; empty where all weigh 1."""
    weight_scale: float = 1.0
    """What a row's weight is multiplied with, so that the mean over the training rows is 1."""

    @property
    def sizes(self) -> list[int]:
        """Codes of each text column, the one of all other categories included."""
        return [len(column) + 1 for column in self.categories]

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for one row: a logit for each class, one for two, or one value."""
        return len(self.classes) if self.task == "multiclass" else 1


class Encoder:
    """Tables to `Rows`, with everything that a table's rows share looked up once."""

    def __init__(self, contract: Contract, learnt: Preprocess) -> None:
        import pyarrow as pa

        self._contract = contract
        self._learnt = learnt
        self._features = Features.of(contract)
        self._numbers = replace(self._features, texts=[])
        self._vocabularies = [pa.array(column, pa.string()) for column in learnt.categories]
        self._weights = np.array(learnt.class_weights, dtype=np.float64)

    def __call__(self, table: "pa.Table") -> Rows:
        """Encode a table with the contract's columns.

        Raises:
            DataError: A value cannot be read as its type.
            TrainingError: The target is missing somewhere, or has a class that no other row of the training part has.
        """
        numbers, _ = self._numbers.arrays(table)
        codes = np.empty((len(numbers), len(self._vocabularies)), dtype=np.int32)
        for position, name in enumerate(self._features.texts):
            codes[:, position] = text_codes(table.column(name), self._vocabularies[position])
        target = self._target(table.column(self._contract.require_target()))
        return Rows(numbers, codes, target, self._row_weights(table, target))

    def _target(self, values: Any) -> NDArray[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        learnt = self._learnt
        if learnt.task == "regression":
            plain: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy()
            return ((plain - learnt.target_mean) / learnt.target_scale).astype(np.float32)
        found = pc.index_in(values, value_set=pa.array(learnt.classes).cast(values.type))
        if found.null_count:
            raise TrainingError(f"Target {self._contract.target!r} has a class that came after the first reading")
        codes: NDArray[np.int64] = found.to_numpy().astype(np.int64)
        return codes

    def _row_weights(self, table: "pa.Table", target: NDArray[Any]) -> NDArray[np.float32] | None:
        if not self._contract.weight and not len(self._weights):
            return None
        weights = np.ones(len(target))
        if self._contract.weight:
            weights = row_weights(table, self._contract.weight)
        if len(self._weights):
            weights = weights * self._weights[target]
        return (weights * self._learnt.weight_scale).astype(np.float32)


def text_codes(values: Any, vocabulary: "pa.Array") -> NDArray[np.int32]:
    """Codes of a text column, shape (n,): 1 for the vocabulary's first category, 0 for one that is not in it.

    Args:
        values: An Arrow column of any type; it becomes text as `Features` makes it.
        vocabulary: Categories, as an Arrow array of strings.

    Example:
        >>> import pyarrow as pa
        >>> text_codes(pa.chunked_array([["AA", None, "ZZ"]]), pa.array(["<missing>", "AA"])).tolist()
        [2, 1, 0]
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.fill_null(values.cast(pa.string()), MISSING)
    codes = pc.fill_null(pc.index_in(texts, value_set=vocabulary), -1)
    found: NDArray[np.int32] = codes.to_numpy().astype(np.int32) + np.int32(1)
    return found


def row_weights(table: "pa.Table", name: str) -> NDArray[np.float64]:
    """The contract's weights, shape (n,).

    Raises:
        TrainingError: One is missing, infinite or negative.
    """
    import pyarrow as pa

    column = table.column(name).cast(pa.float64(), safe=False)
    weights: NDArray[np.float64] = column.fill_null(np.nan).to_numpy()
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise TrainingError(f"Weight {name!r} has missing, infinite or negative values", expected="zero or more")
    return weights


@dataclass
class Summary:
    """What a part of the table adds to the preprocessing; two of them merge into that of both parts."""

    count: NDArray[np.float64]
    """Values of each number column that are not missing, shape (p,)."""
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    """Sum of squared distances from the mean, shape (p,)."""
    texts: list["Counter[str]"]
    """How often each category of each text column comes."""
    target: dict[Any, tuple[int, float]] | None
    """Rows and sum of weights of each value of the target; None once there are too many to be classes."""
    target_sums: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Count, mean and sum of squared distances of the target as a number."""
    rows: int = 0
    weight: float = 0.0
    """Sum of the contract's weights."""
    bad_targets: int = 0
    """Rows whose target is missing, or not finite."""
    decoded: int = field(default=0)
    """Bytes that these rows take as arrays."""

    def merge(self, other: "Summary") -> "Summary":
        """The summary of this part and, after it, the other."""
        count, mean, spread = merge_moments(
            (self.count, self.mean, self.spread), (other.count, other.mean, other.spread)
        )
        one, two = (tuple(map(np.float64, sums)) for sums in (self.target_sums, other.target_sums))
        sums = merge_moments(one, two)
        return Summary(
            count=count,
            mean=mean,
            spread=spread,
            texts=[a + b for a, b in zip(self.texts, other.texts, strict=True)],
            target=_merged_targets(self.target, other.target),
            target_sums=(float(sums[0]), float(sums[1]), float(sums[2])),
            rows=self.rows + other.rows,
            weight=self.weight + other.weight,
            bad_targets=self.bad_targets + other.bad_targets,
        )


def merge_moments(one: Any, two: Any) -> tuple[Any, Any, Any]:
    """Count, mean and sum of squared distances of two parts together (Chan, Golub and LeVeque 1983).

    Args:
        one: The three of the first part, scalars or arrays of one shape.
        two: The three of the second part.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(5, 2, 1000)
        >>> parts = [(np.float64(len(p)), p.mean(), ((p - p.mean()) ** 2).sum()) for p in (x[:10], x[10:])]
        >>> count, mean, spread = merge_moments(*parts)
        >>> bool(np.isclose(mean, x.mean()) and np.isclose(spread / count, x.var()))
        True
    """
    count = one[0] + two[0]
    safe = np.where(count > 0, count, 1.0)
    delta = two[1] - one[1]
    mean = one[1] + delta * two[0] / safe
    spread = one[2] + two[2] + delta * delta * one[0] * two[0] / safe
    return count, mean, spread


def summarise(table: "pa.Table", contract: Contract) -> Summary:
    """What one piece of the table adds.

    Raises:
        DataError: A value cannot be read as its type.
        TrainingError: A weight is no weight.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    features = Features.of(contract)
    numbers, _ = replace(features, texts=[]).arrays(table)
    there = ~np.isnan(numbers)
    wide = np.where(there, numbers, np.float32(0)).astype(np.float64)
    count = there.sum(axis=0).astype(np.float64)
    mean = wide.sum(axis=0) / np.maximum(count, 1)
    distances = np.where(there, wide - mean, 0.0)
    texts: list[Counter[str]] = []
    for name in features.texts:
        found = pc.value_counts(pc.fill_null(table.column(name).cast(pa.string()), MISSING))
        texts.append(Counter(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))))
    weights = row_weights(table, contract.weight) if contract.weight else None
    return Summary(
        count=count,
        mean=mean,
        spread=np.square(distances).sum(axis=0),
        texts=texts,
        rows=table.num_rows,
        weight=float(table.num_rows if weights is None else weights.sum()),
        decoded=numbers.nbytes + table.num_rows * (4 * len(texts) + 8 + (4 if weights is not None else 0)),
        **_target_summary(table.column(contract.require_target()), weights),
    )


def _target_summary(values: Any, weights: NDArray[np.float64] | None) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    numeric = not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type))
    valid = pc.is_valid(values)
    sums = (0.0, 0.0, 0.0)
    if numeric and not pa.types.is_temporal(values.type):
        plain = values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
        finite = np.isfinite(plain)
        kept = plain[finite]
        mean = float(kept.mean()) if len(kept) else 0.0
        sums = (float(len(kept)), mean, float(np.square(kept - mean).sum()))
        valid = pa.array(finite)
    bad = len(values) - int(pc.sum(valid).as_py() or 0)
    counts: dict[Any, tuple[int, float]] | None = None
    if pc.count_distinct(values).as_py() <= MAX_CLASSES + 1:
        weighed = pa.array(np.ones(len(values)) if weights is None else weights)
        grouped = pa.table({"value": values, "weight": weighed}).filter(valid).group_by("value")
        found = grouped.aggregate([("weight", "count"), ("weight", "sum")]).to_pydict()
        counts = {
            value: (int(rows), float(total))
            for value, rows, total in zip(found["value"], found["weight_count"], found["weight_sum"], strict=True)
        }
    return {"target": counts, "target_sums": sums, "bad_targets": bad}


def _merged_targets(one: Any, two: Any) -> Any:
    if one is None or two is None:
        return None
    found = dict(one)
    for value, (rows, weight) in two.items():
        before = found.get(value, (0, 0.0))
        found[value] = before[0] + rows, before[1] + weight
    return found if len(found) <= MAX_CLASSES + 1 else None


def learn(summaries: Iterable[Summary], contract: Contract, spec: DistributedSpec) -> Preprocess:
    """The preprocessing of a training part.

    Args:
        summaries: Of its pieces, in the table's order.
        contract: The data contract.
        spec: The training section.

    Raises:
        ConfigError: The section does not fit the contract.
        SourceError: The table is empty.
        TrainingError: The rows cannot be learnt from: too few, one class, a constant or missing target.
    """
    whole: Summary | None = None
    for summary in summaries:
        whole = summary if whole is None else whole.merge(summary)
    if whole is None or whole.rows == 0:
        raise SourceError("The training part has no rows", expected=f"at least {MIN_ROWS}")
    _check(whole, contract)
    task = task_of(spec.task, contract, MAX_CLASSES + 2 if whole.target is None else len(whole.target))
    features = Features.of(contract)
    flags = np.isin(np.arange(len(features.numbers)), features.flags)
    deviation = np.sqrt(whole.spread / np.maximum(whole.count, 1))
    learnt: dict[str, Any] = {
        "means": np.where(flags, 0.0, whole.mean).tolist(),
        "scales": np.where(flags | ~(deviation > 0), 1.0, deviation).tolist(),
        "categories": [_frequent(counts, spec) for counts in whole.texts],
        "task": task,
    }
    learnt |= _target_values(whole, task, contract, spec)
    return Preprocess(**learnt)


def _check(whole: Summary, contract: Contract) -> None:
    name = contract.require_target()
    if whole.rows < MIN_ROWS:
        raise TrainingError(f"{whole.rows} rows to train on", expected=f"at least {MIN_ROWS}")
    if whole.bad_targets:
        raise TrainingError(
            f"Target {name!r} is missing or infinite in {whole.bad_targets} rows",
            expected="a value in each row",
            fix="let the contract quarantine them: `missing: {max_share: 0, level: quarantine}`",
        )
    if whole.target is not None and len(whole.target) < 2:
        raise TrainingError(
            f"Target {name!r} has one value, {next(iter(whole.target))!r}",
            expected="at least two, or there is nothing to learn",
        )
    if not whole.weight > 0:
        raise TrainingError(f"Weight {contract.weight!r} is zero in every row", expected="some above zero")


def _target_values(whole: Summary, task: Task, contract: Contract, spec: DistributedSpec) -> dict[str, Any]:
    name = contract.require_target()
    if task == "regression":
        if spec.class_weight is not None:
            raise ConfigError("class_weight is set, and the task is regression", expected="a task with classes")
        count, mean, spread = whole.target_sums
        return {
            "target_mean": mean,
            "target_scale": float(np.sqrt(spread / count)),
            "weight_scale": whole.rows / whole.weight,
        }
    if whole.target is None or len(whole.target) > MAX_CLASSES:
        raise TrainingError(
            f"Target {name!r} has more than {MAX_CLASSES:,} classes",
            fix="group the rare ones, or set `task: regression` for a number",
        )
    if task == "binary" and len(whole.target) > 2:
        raise TrainingError(
            f"Target {name!r} has {len(whole.target)} classes", expected="two", fix="set `task: multiclass`"
        )
    by_label = {label_of(value, name): sums for value, sums in whole.target.items()}
    classes = sorted(by_label)
    totals = np.array([by_label[label][1] for label in classes])
    weights = np.ones(len(classes))
    if spec.class_weight is not None:
        weights = class_weights(spec.class_weight, list(classes), totals)
    return {
        "classes": classes,
        "class_weights": [] if spec.class_weight is None else weights.tolist(),
        "weight_scale": whole.rows / float(weights @ totals),
    }


def _frequent(counts: "Counter[str]", spec: DistributedSpec) -> list[str]:
    """The categories with an embedding of their own, most frequent first; equally frequent ones by name."""
    ranked = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [name for name, count in ranked[: spec.max_categories] if count >= spec.rare]


def training_columns(contract: Contract) -> tuple[list[str], list[str]]:
    """The columns that training reads, and those of them that a table may lack."""
    needed = [*contract.features, contract.require_target(), *([contract.weight] if contract.weight else [])]
    return needed, [name for name in contract.features if not contract.columns[name].required]


def as_requests(rows: "pa.Table", contract: Contract) -> "pa.Table":
    """The columns of a table that a request carries."""
    return rows.select(list(contract.features))

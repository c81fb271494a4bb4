"""Which columns a model leans on, by permutation: how much worse it gets when one column is shuffled.

Breiman (2001), "Random forests", section 10; model-agnostic as in Fisher, Rudin & Dominici (2019). It says what the
model uses, not what causes the target, and two columns that say the same share their importance.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from headway.components.evaluate.metrics import Metric, Sample, measure

if TYPE_CHECKING:
    import pyarrow as pa

SAMPLE_ROWS = 1_000
REPEATS = 3
MAX_COLUMNS = 60
"""Of wider tables the first 60 columns are shuffled: the report is no place to wait for."""


class Importance(NamedTuple):
    """One column."""

    column: str
    loss: float
    """How much worse the metric is with the column shuffled, mean over the repeats, in units of the metric."""


def importances(
    predict: "Callable[[pa.Table], Sample]", table: "pa.Table", columns: Sequence[str], metric: Metric, *, seed: int = 0
) -> list[Importance]:
    """The importance of columns on at most 1,000 rows, the largest first; none where the metric is undefined there.

    Args:
        predict: From rows to their truth and prediction.
        table: n rows with all that `predict` reads.
        columns: The columns to shuffle.
        metric: What is compared.
        seed: The same seed gives the same rows and shuffles.

    Example:
        >>> import pyarrow as pa
        >>> from headway.components.evaluate.metrics import METRICS, regressed
        >>> values = np.random.default_rng(0).normal(size=(500, 2))
        >>> table = pa.table({"truth": values[:, 0], "used": values[:, 0], "unused": values[:, 1]})
        >>> def predict(rows):
        ...     return regressed(rows["truth"].to_numpy(), rows["used"].to_numpy())
        >>> found = importances(predict, table, ["used", "unused"], METRICS["rmse"])
        >>> [column for column, _ in found], found[1].loss
        (['used', 'unused'], 0.0)
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(table.num_rows)[:SAMPLE_ROWS])
    sampled = table.take(rows)
    base = measure(predict(sampled), [metric.name])[metric.name].value
    if base is None:
        return []
    found = []
    for column in columns[:MAX_COLUMNS]:
        position = sampled.column_names.index(column)
        losses = []
        for _ in range(REPEATS):
            shuffled = sampled.set_column(position, column, sampled.column(column).take(random.permutation(len(rows))))
            value = measure(predict(shuffled), [metric.name])[metric.name].value
            losses.append(0.0 if value is None else metric.goodness(base) - metric.goodness(value))
        found.append(Importance(column, float(np.mean(losses))))
    return sorted(found, key=lambda one: -one.loss)

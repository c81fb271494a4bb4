"""Recorded traffic, as a rehearsal replays it and a plan counts it: requests with their outcomes."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from headway.components.errors import ReleaseError
from headway.components.settings import Settings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """Requests in the order in which they came. All arrays have shape (n,)."""

    seconds: Floats
    """When each came, from the first one on."""
    users: list[str]
    """Who asked; a text of its own for each request without a user."""
    latency_ms: Floats
    errors: NDArray[np.bool_]
    """Whether it was answered with 5xx."""
    scores: Floats
    """Predictions; NaN where there is none."""
    outcomes: Floats
    """The decision metric of each prediction; NaN where nothing is known of it."""

    def __post_init__(self) -> None:
        if len(self.seconds) < 2 or self.seconds[-1] <= 0:
            raise ReleaseError(
                f"The recording holds {len(self.seconds)} requests",
                expected="at least two, at different times",
                fix="serve some traffic first, or look further back",
            )

    @property
    def rate(self) -> float:
        """Requests a second."""
        return float(len(self.seconds) / self.seconds[-1])

    @property
    def has_outcomes(self) -> bool:
        """Whether the decision can be rehearsed."""
        return bool(np.isfinite(self.outcomes).any())


def record(settings: Settings, endpoint: str, *, hours: float, metric: str | None = None) -> Recording:
    """The last hours of an endpoint's payload log; copies and refused requests are left out.

    Args:
        settings: The installation.
        endpoint: The endpoint.
        hours: How far back.
        metric: The decision's metric, whose value each prediction gets where its outcome is known.

    Raises:
        ReleaseError: The log holds fewer than two requests.
        MeasurementError: The log cannot be read.
    """
    from headway.serving import payloads
    from headway.serving.experiment.losses import LOSSES
    from headway.serving.experiment.outcome import LABEL
    from headway.serving.experiment.outcome_store import Outcomes

    since = datetime.now(UTC) - timedelta(hours=hours)
    loss = LOSSES.get(metric or "")
    wanted = LABEL if loss else metric or LABEL
    outcomes, _ = Outcomes(settings).fetch(endpoint, wanted, since=since)
    value = f"CASE WHEN outcomes.subject IS NOT NULL AND {loss.needs} THEN {loss.value} END" if loss else "number"
    sql = _ROWS.format(value=value if metric else "NULL")

    def read(connection: Any, log: str) -> pa.Table:
        return connection.sql(sql).to_arrow_table()

    return _recording(payloads.query(settings, endpoint, read, since=since, tables={"outcomes": outcomes}))


_ROWS = """
SELECT epoch_us(time) / 1e6 AS moment, coalesce("user", log.id) AS who, latency_ms, code >= 500 AS failed, score,
  CAST({value} AS DOUBLE) AS outcome
FROM log LEFT JOIN (
  SELECT subject, any_value(value) AS label, sum(number) AS number
  FROM outcomes WHERE unit = 'prediction' GROUP BY subject
) AS outcomes ON log.id = outcomes.subject
WHERE NOT mirrored AND (code < 400 OR code >= 500)
ORDER BY time
"""


def _recording(table: pa.Table) -> Recording:
    moments = _floats(table, "moment")
    return Recording(
        seconds=moments - moments[0] if len(moments) else moments,
        users=table["who"].to_pylist(),
        latency_ms=_floats(table, "latency_ms"),
        errors=table["failed"].to_numpy().astype(bool),
        scores=_floats(table, "score"),
        outcomes=_floats(table, "outcome"),
    )


def _floats(table: pa.Table, name: str) -> Floats:
    """A column as floats, NaN where missing."""
    found: Floats = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found

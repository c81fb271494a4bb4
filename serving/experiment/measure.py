"""From exposures and outcomes to moments of each arm: the SQL of the analysis.

Who saw what comes from the experiment's own exposures, or from the payload log of its endpoint; a user counts for the
variant that they saw first, with what came of it from then on. All joins run in DuckDB, which spills to disk.
"""

# ruff: noqa: S608 - SQL made of our own constants, and of names that a specification has checked

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from headway.components.sql import quote_text
from headway.serving import payloads
from headway.serving.experiment.experiment import Experiments
from headway.serving.experiment.losses import LOSSES
from headway.serving.experiment.means import Covariate, Moments
from headway.serving.experiment.outcome import LABEL, moment
from headway.serving.experiment.spec import ExperimentMetric, ExperimentSpec, Standing

POINTS = 24
"""Moments of the past at which the report shows what was known."""

Arms = Mapping[str, Moments]
"""Moments by variant."""


@dataclass(frozen=True)
class Look:
    """What was known at one moment."""

    time: datetime | None
    """None is now."""
    users: Mapping[str, int]
    """Exposed users by variant."""
    metrics: Mapping[str, Arms]
    """Moments by metric and variant."""


@dataclass(frozen=True)
class Measured:
    """All that is known of an experiment."""

    now: Look
    past: Sequence[Look]
    crossed: int
    """Users who saw more than one variant."""
    strangers: int
    """Users with outcomes who never saw a variant, or only after the outcome."""
    unfit: Mapping[str, int]
    """By metric of labels: predictions that it does not fit."""


def measure(experiments: Experiments, standing: Standing, *, over_time: bool = False) -> Measured:
    """Measure an experiment.

    Args:
        experiments: All experiments.
        standing: This one.
        over_time: Whether to measure the past too.

    Raises:
        MeasurementError: The payload log cannot be read.
    """
    spec = standing.spec
    names = {LABEL if metric.of_labels else metric.name for metric in spec.metrics}
    names |= {spec.covariate} if spec.covariate else set()
    tables = {f"outcomes_{name}": experiments.outcomes.fetch(spec.scope, name)[0] for name in sorted(names)}

    def read(connection: Any, log: str) -> Measured:
        return _Reader(connection, standing).measured(over_time=over_time)

    if spec.endpoint:
        since = standing.started or experiments.now()
        return payloads.query(
            experiments.settings, spec.endpoint, read, since=since, until=standing.ended, tables=tables
        )
    return _query({**tables, "own_exposures": experiments.store.exposures(spec.name)}, read)


def _query(tables: Mapping[str, Any], read: Callable[[Any, str], Measured]) -> Measured:
    from headway.components.ingest.engine import connect

    with (
        tempfile.TemporaryDirectory(prefix="headway-") as workspace,
        contextlib.closing(connect(Path(workspace), memory=payloads.MEMORY)) as connection,
    ):
        for name, table in tables.items():
            connection.register(name, table)
        return read(connection, "")


class _Reader:
    """One DuckDB connection with an experiment's tables in it."""

    def __init__(self, connection: Any, standing: Standing) -> None:
        self._connection = connection
        self._spec: ExperimentSpec = standing.spec
        self._closes = standing.closes
        self._connection.execute(f"CREATE TABLE exposures AS {_exposures(standing.spec)}")
        for number, metric in enumerate(standing.spec.metrics):
            self._connection.execute(f"CREATE TABLE events_{number} AS {self._events(metric)}")
        covariate = standing.spec.covariate
        known = f'SELECT subject AS "user", sum(number) AS x FROM {_outcomes(covariate or "")} GROUP BY subject'
        nothing = "SELECT '' AS \"user\", 0.0 AS x LIMIT 0"
        self._connection.execute(f"CREATE TABLE covariates AS {known if covariate else nothing}")

    def measured(self, *, over_time: bool) -> Measured:
        """Everything."""
        crossed = self._connection.execute("SELECT count(*) FROM exposures WHERE variants > 1").fetchone()[0]
        times = self._times() if over_time else []
        return Measured(
            now=self._look(None),
            past=[self._look(time) for time in times],
            crossed=crossed,
            strangers=self._strangers(),
            unfit=self._unfit(),
        )

    def _events(self, metric: ExperimentMetric) -> str:
        """SQL: one row for each outcome of an exposed user since the exposure."""
        if metric.of_labels:
            found = _LABELS.format(
                value=LOSSES[metric.name].value, needs=LOSSES[metric.name].needs, outcomes=_outcomes(LABEL)
            )
        else:
            found = _RECORDED.format(outcomes=_outcomes(metric.name))
            if self._spec.endpoint:
                found += f" UNION ALL {_BY_PREDICTION.format(outcomes=_outcomes(metric.name))}"
        closes = f" AND found.time <= TIMESTAMPTZ {quote_text(self._closes.isoformat())}" if self._closes else ""
        return f"""
            SELECT "user", value, greatest(found.time, exposures.time) AS time, variant
            FROM ({found}) AS found JOIN exposures USING ("user")
            WHERE found.latest >= exposures.time{closes}
        """

    def _look(self, time: datetime | None) -> Look:
        until = f"time <= TIMESTAMPTZ {quote_text(time.isoformat())}" if time else "true"
        counted = f"SELECT variant, count(*) FROM exposures WHERE {until} GROUP BY variant"
        users = dict.fromkeys(self._spec.variants, 0) | dict(self._connection.execute(counted).fetchall())
        metrics = {metric.name: self._arms(number, metric, until) for number, metric in enumerate(self._spec.metrics)}
        return Look(time, {name: users[name] for name in self._spec.variants}, metrics)

    def _arms(self, number: int, metric: ExperimentMetric, until: str) -> Arms:
        query = _MOMENTS.format(
            value=_AGGREGATES["label" if metric.of_labels else metric.kind],
            filled="y" if metric.skips else "coalesce(y, 0)",
            events=f"events_{number}",
            until=until,
        )
        return {variant: _moments(row) for variant, *row in self._connection.execute(query).fetchall()}

    def _times(self) -> list[datetime]:
        query = "SELECT min(epoch_us(time)), max(epoch_us(time)) FROM (SELECT time FROM exposures"
        query += "".join(f" UNION ALL SELECT time FROM events_{n}" for n in range(len(self._spec.metrics))) + ")"
        first, last = self._connection.execute(query).fetchone()
        if first is None or first == last:
            return []
        return [moment(round(value)) for value in np.linspace(first, last, POINTS + 1)[1:]]

    def _strangers(self) -> int:
        users = [
            f"SELECT DISTINCT subject FROM {_outcomes(metric.name)} WHERE unit = 'user'"
            for metric in self._spec.metrics
            if not metric.of_labels
        ]
        known = [f'SELECT "user" FROM events_{number}' for number in range(len(self._spec.metrics))]
        query = f"SELECT count(*) FROM ({' UNION '.join(users)}) WHERE subject NOT IN ({' UNION '.join(known)})"
        return int(self._connection.execute(query).fetchone()[0]) if users else 0

    def _unfit(self) -> dict[str, int]:
        found = {}
        for number, metric in enumerate(self._spec.metrics):
            if metric.of_labels:
                query = f"SELECT count(*) FROM events_{number} WHERE value IS NULL"
                found[metric.name] = int(self._connection.execute(query).fetchone()[0])
        return {name: count for name, count in found.items() if count}


_AGGREGATES = {
    "conversion": "CAST(bool_or(value > 0) AS DOUBLE)",
    "numeric": "sum(value)",
    "label": "avg(value)",
}
_RECORDED = """SELECT subject AS "user", number AS value, time, latest FROM {outcomes} WHERE unit = 'user'"""
_BY_PREDICTION = """
SELECT answered."user", number AS value, outcomes.time, outcomes.latest
FROM {outcomes} AS outcomes JOIN (
    SELECT id, min_by("user", time) AS "user" FROM log
    WHERE NOT mirrored AND id IN (SELECT subject FROM {outcomes}) GROUP BY id
) AS answered ON answered.id = outcomes.subject
WHERE outcomes.unit = 'prediction'
"""
_LABELS = """
SELECT "user", CASE WHEN {needs} THEN {value} END AS value, time, time AS latest
FROM (
    SELECT log."user", prediction, score, probability, outcomes.value AS label, log.time
    FROM log JOIN {outcomes} AS outcomes ON log.id = outcomes.subject
    JOIN exposures AS first_seen ON first_seen."user" = log."user" AND first_seen.variant = log.endpoint
    WHERE NOT mirrored AND prediction IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY log.id ORDER BY log.time) = 1
)
"""
_MOMENTS = """
SELECT variant, count(*), avg(y), var_pop(y), skewness(y), avg(x), var_pop(x), covar_pop(y, x)
FROM (
    SELECT exposures.variant, {filled} AS y, coalesce(x - (SELECT avg(x) FROM covariates), 0) AS x
    FROM (SELECT * FROM exposures WHERE {until}) AS exposures
    LEFT JOIN (SELECT "user", {value} AS y FROM {events} WHERE {until} GROUP BY "user") USING ("user")
    LEFT JOIN covariates USING ("user")
)
WHERE y IS NOT NULL
GROUP BY variant
"""


def _exposures(spec: ExperimentSpec) -> str:
    """SQL: who saw which variant first, when, and how many they have seen since."""
    if not spec.endpoint:
        return "SELECT *, 1 AS variants FROM own_exposures"
    among = ", ".join(quote_text(name) for name in spec.variants)
    return f"""
        SELECT "user", min_by(endpoint, time) AS variant, min(time) AS time, count(DISTINCT endpoint) AS variants
        FROM log WHERE NOT mirrored AND "user" IS NOT NULL AND endpoint IN ({among}) GROUP BY "user"
    """


def _outcomes(name: str) -> str:
    return f'"outcomes_{name}"'


def _moments(row: Sequence[float | None]) -> Moments:
    n, mean, variance, skewness, x_mean, x_variance, covariance = (
        np.asarray(np.nan if value is None else value, dtype=np.float64) for value in row
    )
    return Moments(n, mean, variance, skewness, Covariate(x_mean, x_variance, covariance))

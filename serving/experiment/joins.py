"""The SQL that joins outcomes to the payload log: one value for each independent observation of each variant.

The queries read two relations, `log` (rows of the payload log) and `outcomes` (what `Outcomes.fetch` gives). The join
comes first, so that what is grouped is as small as the outcomes are.
"""

# ruff: noqa: S608 - SQL made of our own constants

from typing import Literal

from headway.serving.experiment.losses import LOSSES, same

Assigned = Literal["user", "request"]
"""What was assigned at random, and so is one independent observation."""

_SUMS = """
SELECT variant, count(*), sum(value), sum(value * value), sum(unfit)
FROM ({values}) GROUP BY variant
"""

# A client that tries again may leave two rows of one id: the first is the one that counts.
_LABELLED = """
SELECT variant, avg(value) AS value, count(*) FILTER (NOT fits) AS unfit
FROM (
    SELECT variant, unit, CASE WHEN {needs} THEN {value} END AS value, {needs} AS fits
    FROM (
        SELECT log.endpoint AS variant, {unit} AS unit, prediction, score, probability, outcomes.value AS label
        FROM log JOIN outcomes ON log.id = outcomes.subject
        WHERE prediction IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY log.endpoint, log.id ORDER BY log.time) = 1
    )
)
GROUP BY variant, unit
"""

_OF_PREDICTIONS = """
SELECT variant, avg(value) AS value, 0 AS unfit
FROM (
    SELECT log.endpoint AS variant, {unit} AS unit, recorded.value
    FROM log JOIN (
        SELECT subject, sum(number) AS value FROM outcomes WHERE unit = 'prediction' GROUP BY subject
    ) AS recorded ON log.id = recorded.subject
    WHERE NOT mirrored
    QUALIFY row_number() OVER (PARTITION BY log.id ORDER BY log.time) = 1
)
GROUP BY variant, unit
"""

_OF_USERS = """
SELECT variant, sum(number) AS value, 0 AS unfit
FROM (
    SELECT "user", min_by(log.endpoint, log.time) AS variant, min(log.time) AS first
    FROM log WHERE NOT mirrored AND "user" IN (SELECT subject FROM outcomes WHERE unit = 'user')
    GROUP BY "user"
) AS exposed JOIN outcomes ON outcomes.subject = exposed."user"
WHERE outcomes.unit = 'user' AND outcomes.latest >= exposed.first
GROUP BY variant, "user"
"""

_UNITS: dict[Assigned, str] = {"user": "coalesce('u' || \"user\", 'r' || log.id)", "request": "log.id"}


def sums_of(metric: str, assigned: Assigned) -> str:
    """SQL: variant, observations, their total, their squares' total, and predictions that the metric does not fit.

    Args:
        metric: A metric of labels, or one that was recorded.
        assigned: What is one observation.
    """
    unit = _UNITS[assigned]
    if metric in LOSSES:
        loss = LOSSES[metric]
        return _SUMS.format(values=_LABELLED.format(needs=loss.needs, value=loss.value, unit=unit))
    return _SUMS.format(values=f"{_OF_PREDICTIONS.format(unit=unit)} UNION ALL {_OF_USERS}")


def disagreement_of(stable: str, canary: str, tolerance: float) -> str:
    """SQL: how many copied requests both answered, and on how many of them the answers differ.

    Args:
        stable: The variant that answered the clients, quoted.
        canary: The variant that got the copies, quoted.
        tolerance: Relative difference up to which two values of a regression agree.
    """
    # Without a probability a number that is its own score is a value, not a class.
    value = "live.probability IS NULL AND live.score = TRY_CAST(live.prediction AS DOUBLE)"
    apart = "abs(live.score - copy.score) > {tolerance!r} * greatest(abs(live.score), abs(copy.score))"
    differs = f"CASE WHEN {value} THEN {apart} ELSE NOT {same('live.prediction', 'copy.prediction')} END"
    rows = """
        SELECT id, prediction, score, probability FROM log
        WHERE endpoint = {variant} AND mirrored = {mirrored} AND prediction IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY id ORDER BY time) = 1
    """
    live, copy = rows.format(variant=stable, mirrored="false"), rows.format(variant=canary, mirrored="true")
    differs = differs.format(tolerance=tolerance)
    return f"SELECT count(*), count(*) FILTER ({differs}) FROM ({live}) AS live JOIN ({copy}) AS copy USING (id)"

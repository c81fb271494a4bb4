"""One outcome: what it may be, and how two of one key are settled."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from headway.components.errors import ExperimentError
from headway.serving.experiment.losses import LOSSES

LABEL = "label"
"""The metric that holds the truth of a prediction: a class, or a number in regression."""
Unit = Literal["prediction", "user"]
Value = bool | int | float | str
Row = dict[str, Any]
"""A row of the table `outcomes`."""
Key = tuple[str, ...]

KEY = ("scope", "metric", "unit", "subject", "event")
MAX_TEXT = 256
"""Characters of an id, and of a label."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
_AHEAD = timedelta(days=1)
"""An outcome further in the future was written with another unit, or another clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One outcome. Give `prediction` or `user`, not both."""

    metric: str
    """`label`, or a name of one's own such as `converted` or `revenue`."""
    value: Value
    """A number or a boolean; a label may be a text too."""
    prediction: str = ""
    """The prediction's id, as the answer gave it."""
    user: str = ""
    """The user, as `x-user-id` named them."""
    event: str = ""
    """The event's id, where one prediction or user can have several: an order's number. They add up."""
    time: datetime | None = None
    """When it happened, now by default; a time without a zone is UTC."""


@dataclass(frozen=True)
class Recorded:
    """What became of recorded outcomes."""

    new: int = 0
    same: int = 0
    """Known already, with the same value."""
    corrected: int = 0
    """Took the place of an earlier value."""
    outdated: int = 0
    """Came after a later value, and changed nothing."""

    def __add__(self, other: "Recorded") -> "Recorded":
        """Both together."""
        return Recorded(
            self.new + other.new,
            self.same + other.same,
            self.corrected + other.corrected,
            self.outdated + other.outdated,
        )


def microseconds(time: datetime) -> int:
    """A moment as microseconds since 1970 in UTC; a time without a zone is UTC."""
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    return (time - _EPOCH) // timedelta(microseconds=1)


def moment(microseconds: int) -> datetime:
    """The moment of so many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def key_of(row: Any) -> Key:
    """What tells an outcome from every other."""
    return tuple(row[name] for name in KEY)


def settle(rows: Sequence[Row], known: dict[Key, Row]) -> tuple[list[Row], list[Row], Recorded]:
    """Sort outcomes that came into what is new, what corrects, and what changes nothing.

    Args:
        rows: Rows that came.
        known: Rows that are stored, by key; gets the latest row of each key.

    Returns:
        Rows to insert, rows to update, and the counts.

    Raises:
        ExperimentError: Two values of one key have one time.
    """
    before = dict(known)
    counts = Counter[str]()
    for row in rows:
        key = key_of(row)
        other = known.get(key)
        if other is None:
            known[key] = row
        elif _equal(row, other):
            counts["same"] += 1
            known[key] = _repeated(other, row)
        elif row["time"] > other["latest"]:
            counts["corrected"] += 1
            known[key] = row
        elif row["time"] < other["latest"]:
            counts["outdated"] += 1
        else:
            raise _contradiction(row, other)
    added = [row for key, row in known.items() if key not in before]
    changed = [row for key, row in known.items() if key in before and row is not before[key]]
    return added, changed, Recorded(new=len(added), **counts)


def _equal(row: Row, other: Row) -> bool:
    numbers = row["number"], other["number"]
    return row["value"] == other["value"] or (numbers[0] is not None and numbers[0] == numbers[1])


def _repeated(known: Row, row: Row) -> Row:
    """A known row to which its value came again: it happened at the first time, and holds up to the latest."""
    time, latest = min(known["time"], row["time"]), max(known["latest"], row["time"])
    if (time, latest) == (known["time"], known["latest"]):
        return known
    return {**known, "time": time, "latest": latest, "seen": max(known["seen"], row["seen"])}


def _contradiction(row: Row, other: Row) -> ExperimentError:
    return ExperimentError(
        f"Two values of {row['metric']!r} for {row['unit']} {row['subject']!r} at one time: "
        f"{other['value']} is recorded, {row['value']} came",
        expected="a correction has a later time than what it corrects; several events have an id each",
    )


def row_of(scope: str, outcome: Outcome, now: datetime, number: int) -> Row:
    """An outcome as a row of the table.

    Args:
        scope: Where it belongs.
        outcome: The outcome.
        now: The present.
        number: Counts the outcomes of one call, for the message.

    Raises:
        ExperimentError: It is no outcome: NaN, no subject, a name that is none, a time to come.
    """
    try:
        value = _value(outcome)
        unit, subject = _subject(outcome)
        time = microseconds(outcome.time or now)
        if time > microseconds(now + _AHEAD):
            raise ExperimentError(
                f"its time is {moment(time):%Y-%m-%d %H:%M} UTC, which is to come", expected="when it happened"
            )
    except ExperimentError as error:
        where = f"Outcome {number}, metric {outcome.metric[:80]!r}: "
        raise ExperimentError(where + error.problem, expected=error.expected, fix=error.fix) from None
    return {
        "scope": scope,
        "metric": outcome.metric,
        "unit": unit,
        "subject": subject,
        "event": outcome.event,
        "value": json.dumps(value, ensure_ascii=False),
        "number": None if isinstance(value, str) else float(value),
        "time": time,
        "latest": time,
        "seen": max(time, microseconds(now)),
    }


def _value(outcome: Outcome) -> Value:
    metric, value = outcome.metric, outcome.value
    if metric in LOSSES:
        raise ExperimentError("it is computed from labels and cannot be recorded", fix=f"record the truth as {LABEL!r}")
    if not _METRIC.fullmatch(metric):
        raise ExperimentError("refused name", expected="at most 63 letters, digits, `_`, `.` and `-`, a letter first")
    if isinstance(value, str) and metric == LABEL and _storable(value):
        return value
    if not isinstance(value, (bool, int, float)) or not _finite(value):
        expected = f"a class of at most {MAX_TEXT} characters, or a finite number"
        raise ExperimentError(
            f"the value is {value!r:.80}", expected=expected if metric == LABEL else "a finite number or a boolean"
        )
    return value


def _subject(outcome: Outcome) -> tuple[Unit, str]:
    if bool(outcome.prediction) is bool(outcome.user):
        got = "both" if outcome.user else "neither"
        raise ExperimentError(f"{got} of `prediction` and `user` came", expected="one of them")
    if outcome.metric == LABEL and not outcome.prediction:
        raise ExperimentError("a label came for a user", expected="the id of the prediction whose truth it is")
    subject = outcome.prediction or outcome.user
    if not _storable(subject) or not _storable(outcome.event):
        raise ExperimentError(f"the id is {subject!r:.80}", expected=f"a text of at most {MAX_TEXT} characters")
    return ("prediction" if outcome.prediction else "user"), subject


def _storable(text: str) -> bool:
    """Whether every database stores the text."""
    return isinstance(text, str) and len(text) <= MAX_TEXT and "\0" not in text


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all doubles
        return False

"""The contract: what a table's columns must be, with a level for each rule.

A contract is a YAML file in the repository, inferred from data (`headway contract infer`), then reviewed by a person.
The same contract checks a whole table (checks.py), one request (request.py) and live traffic.

    name: flights
    target: late
    key: [carrier, flight, scheduled_departure]
    time: scheduled_departure
    columns:
      carrier:
        type: string
        values: {allowed: [AA, B6, UA], level: warn}
      distance:
        type: number
        unit: miles
        range: {min: 17, max: 5000, level: quarantine}
      departure_delay:
        type: number
        known: outcome          # known only afterwards: never a feature
    rules:
      - {name: positive speed, expression: "distance > 0", level: block}
    rows: {min: 1000}
"""

import hashlib
import json
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from headway.components.config import Config
from headway.components.data_validate import patterns
from headway.components.errors import UnknownNameError, UsageError, did_you_mean

Scalar = bool | int | float | str
MAX_COLUMNS = 10_000
MAX_PATTERN_LENGTH = 1_000


class Level(StrEnum):
    """What happens to data that breaks a rule."""

    BLOCK = "block"
    """The whole table is refused; the run stops."""
    QUARANTINE = "quarantine"
    """The bad rows go to a file of their own, with the reason; the rest goes on."""
    WARN = "warn"
    """It is reported, and the data goes on."""


class ColumnType(StrEnum):
    """What a value is, whatever file it came in."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    STRING = "string"
    TIMESTAMP = "timestamp"


class Role(StrEnum):
    """What a column is for."""

    FEATURE = "feature"
    TARGET = "target"
    WEIGHT = "weight"
    """The sample weight of a row in training."""
    INFO = "info"
    """Kept with the row, never shown to a model: keys, times, free text."""


class Rule(Config):
    """The part that every rule shares."""

    level: Level = Level.BLOCK
    """What happens to data that breaks the rule."""


class Missing(Rule):
    """How many values of the column may be missing (null, and NaN for numbers)."""

    max_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of rows, 0 to 1. With level `quarantine` each missing row leaves once the share is passed."""


def read_moment(text: str) -> datetime:
    """A moment in ISO 8601, in UTC and without a zone: a text with an offset is converted, one without is taken as UTC.

    Raises:
        ValueError: It is not ISO 8601.

    Example:
        >>> read_moment("2026-03-01T12:00+02:00")
        datetime.datetime(2026, 3, 1, 10, 0)
    """
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is not a time in ISO 8601, such as 2026-03-01T12:00:00") from None


def _bound(value: Any) -> Any:
    """One spelling for one bound: YAML reads an unquoted date as a date, and 17.0 is 17."""
    if isinstance(value, bool):
        raise ValueError("a bound is a number or an ISO 8601 text, not true or false")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return int(value)
    return value


_EXACT = 2**53
Bound = Annotated[int | float | str, BeforeValidator(_bound)]


def _position(bound: float | str) -> Any:
    return read_moment(bound) if isinstance(bound, str) else bound


class Range(Rule):
    """Smallest and largest allowed value, both included; numbers, or ISO 8601 texts for a timestamp."""

    min: Bound | None = None
    max: Bound | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        if self.min is not None and self.max is not None:
            if isinstance(self.min, str) != isinstance(self.max, str):
                raise ValueError(f"min {self.min!r} and max {self.max!r} must be of one type")
            if _position(self.min) > _position(self.max):
                raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Values(Rule):
    """The categories that the column may hold; any other is an unseen category."""

    allowed: list[Scalar] = Field(min_length=1, max_length=100_000)

    @field_validator("allowed")
    @classmethod
    def _distinct(cls, allowed: list[Scalar]) -> list[Scalar]:
        if len({(isinstance(value, bool), value) for value in allowed}) != len(allowed):
            raise ValueError("a value stands twice in allowed")
        return allowed


class Pattern(Rule):
    """A regular expression that the whole value must match, limited to what RE2 and Python read alike (patterns.py)."""

    regex: str = Field(min_length=1, max_length=MAX_PATTERN_LENGTH)

    @field_validator("regex")
    @classmethod
    def _compiles(cls, regex: str) -> str:
        patterns.parse(regex)
        return regex


class Unique(Rule):
    """No value (for `key`: no combination of values) stands twice. Later rows are the bad ones."""


class Monotone(Rule):
    """Timestamps (or numbers) never decrease from row to row; `strict` forbids equal neighbours too."""

    strict: bool = False


class Freshness(Rule):
    """The newest value of the time column is at most this old when the check runs."""

    max_age: Annotated[str, Field(pattern=r"^\d+(\.\d+)?[smhdw]$")]
    """A number and a unit: s, m, h, d or w, such as `36h`."""

    @property
    def seconds(self) -> float:
        """The age in seconds."""
        return float(self.max_age[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[self.max_age[-1]]


class Rows(Rule):
    """How many rows the table may have."""

    min: int = Field(default=1, ge=0)
    max: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Expression(Rule):
    """A condition over several columns that each row must meet, in SQL as DuckDB reads it.

    A row where it is NULL (because an operand is missing) passes: missing values have a rule of their own.
    """

    name: str = Field(min_length=1, max_length=200)
    expression: str = Field(min_length=1, max_length=4_000)


def _known(value: Any) -> Any:
    return {"before": "prediction", "after": "outcome"}.get(value, value) if isinstance(value, str) else value


class Column(Config):
    """What one column must be."""

    type: ColumnType
    """What a value is: integer, number, boolean, string or timestamp."""
    role: Role = Role.FEATURE
    """What the column is for: feature, target, weight or info."""
    known: Annotated[Literal["prediction", "outcome"], BeforeValidator(_known)] = "prediction"
    """When the value is known: before the `prediction`, or only with the `outcome` (then it is never a feature)."""
    required: bool = True
    """Whether the table and the request must have the column at all."""
    missing: Missing = Missing()
    """How many values may be missing; none by default."""
    range: Range | None = None
    values: Values | None = None
    pattern: Pattern | None = None
    unique: Unique | None = None
    monotone: Monotone | None = None
    type_level: Level = Level.BLOCK
    """What happens to a value that cannot be read as the type."""
    unit: str = ""
    """The unit of a number, for people."""
    description: str = ""
    """What the column means, for people."""

    @model_validator(mode="after")
    def _rules_fit_the_type(self) -> Self:
        numeric = self.type in (ColumnType.INTEGER, ColumnType.NUMBER)
        if self.range and not (numeric or self.type is ColumnType.TIMESTAMP):
            raise ValueError(f"a range does not fit a {self.type} column")
        if self.range:
            bounds = [bound for bound in (self.range.min, self.range.max) if bound is not None]
            if any(isinstance(bound, str) is numeric for bound in bounds):
                raise ValueError(
                    f"the bounds of a {self.type} column must be {'numbers' if numeric else 'ISO 8601 texts'}"
                )
            for bound in bounds:
                _position(bound)
        if self.pattern and self.type is not ColumnType.STRING:
            raise ValueError(f"a pattern does not fit a {self.type} column")
        if self.monotone and not (numeric or self.type is ColumnType.TIMESTAMP):
            raise ValueError(f"monotone does not fit a {self.type} column")
        if self.role is Role.WEIGHT and not numeric:
            raise ValueError(f"a sample weight is a number, not a {self.type}")
        if self.values:
            self._values_fit_the_type(self.values)
        if self.known == "outcome" and self.role is Role.FEATURE:
            # Declared, kept in the table, and never shown to a model: what `known: outcome` is for.
            object.__setattr__(self, "role", Role.INFO)
        return self

    def _values_fit_the_type(self, values: Values) -> None:
        fits: dict[ColumnType, tuple[type, ...]] = {
            ColumnType.INTEGER: (int,),
            ColumnType.NUMBER: (int, float),
            ColumnType.BOOLEAN: (bool,),
            ColumnType.STRING: (str,),
        }
        if self.type not in fits:
            raise ValueError(f"values do not fit a {self.type} column")
        for value in values.allowed:
            if not isinstance(value, fits[self.type]) or isinstance(value, bool) is not (
                self.type is ColumnType.BOOLEAN
            ):
                hint = "; put it in quotes" if self.type is ColumnType.STRING else ""
                raise ValueError(f"the allowed value {value!r} is not of type {self.type}{hint}")

    @property
    def nullable(self) -> bool:
        """Whether one request may leave the value out."""
        return self.missing.max_share > 0 or self.missing.level is Level.WARN


ColumnName = Annotated[str, Field(min_length=1, max_length=1_000)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Key(Unique):
    """The columns whose combination names a row."""

    columns: Annotated[list[str], BeforeValidator(_as_list)] = Field(min_length=1)

    @field_validator("columns")
    @classmethod
    def _distinct(cls, columns: list[str]) -> list[str]:
        if len(set(columns)) != len(columns):
            raise ValueError("a column stands twice in the key")
        return columns


def _as_key(value: Any) -> Any:
    return {"columns": value} if isinstance(value, (str, list)) else value


def _from_key(key: Key | None) -> Any:
    if key is None:
        return None
    return key.columns if key.level is Level.BLOCK else key.model_dump(mode="json")


class Contract(Config):
    """What a table must be, what a request must be, and what a monitor watches."""

    document: ClassVar[str] = "contract"

    name: str = Field(min_length=1, max_length=200)
    """What messages and reports call it, usually the model's name."""
    description: str = ""
    """What the table is, for people."""
    columns: dict[ColumnName, Column] = Field(min_length=1, max_length=MAX_COLUMNS)
    """The columns by name, in the order in which the model takes them."""
    target: str | None = None
    """The column that is predicted."""
    key: Annotated[Key | None, BeforeValidator(_as_key), PlainSerializer(_from_key)] = None
    """The columns whose combination names a row; a list, or a mapping with a level."""
    time: str | None = None
    """The column that says when the row happened."""
    rules: list[Expression] = Field(default=[])
    """Conditions over several columns."""
    rows: Rows | None = None
    freshness: Freshness | None = None
    """How old the newest row may be; needs `time`."""
    extra_columns: Literal["ignore", "warn", "block"] = "ignore"
    """What happens to a column that the contract does not name. A request with an unknown field is always refused."""

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for where, name in self._references():
            if name not in self.columns:
                raise ValueError(
                    f"{where} names the column {name!r}, which is not declared{did_you_mean(name, self.columns)}"
                )
        if self.freshness and not self.time:
            raise ValueError("freshness needs `time`, the column that says when a row happened")
        if self.time and self.columns[self.time].type is not ColumnType.TIMESTAMP:
            raise ValueError(f"time is {self.time!r}, which is a {self.columns[self.time].type}, not a timestamp")
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError("two rules have one name")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        seen: dict[str, str] = {}
        for name in self.columns:
            other = seen.setdefault(name.casefold(), name)
            if other != name:
                raise ValueError(f"the columns {other!r} and {name!r} differ only in case, which SQL does not see")
        return self

    @model_validator(mode="after")
    def _one_target_one_weight(self) -> Self:
        targets = self._with_role(Role.TARGET)
        if self.target is None and len(targets) == 1:
            object.__setattr__(self, "target", targets[0])
        elif self.target is not None and targets not in ([], [self.target]):
            raise ValueError(f"target is {self.target!r}, but the role target is given to {', '.join(targets)}")
        elif len(targets) > 1:
            raise ValueError(f"the role target is given to {', '.join(targets)}; a contract has one")
        if len(self._with_role(Role.WEIGHT)) > 1:
            raise ValueError("the role weight is given to more than one column")
        if self.target is not None and not targets:
            self._give_target_its_role(self.target)
        return self

    def _with_role(self, role: Role) -> list[str]:
        return [name for name, column in self.columns.items() if column.role is role]

    def _give_target_its_role(self, target: str) -> None:
        """`target: late` and `role: target` say the same, so both spellings become one contract with one digest."""
        column = self.columns[target]
        if column.role is Role.WEIGHT:
            raise ValueError(f"{target!r} cannot be both the target and the sample weight")
        columns = {**self.columns, target: column.model_copy(update={"role": Role.TARGET})}
        object.__setattr__(self, "columns", columns)

    def _references(self) -> list[tuple[str, str]]:
        found = [("key", name) for name in (self.key.columns if self.key else [])]
        found += [(where, name) for where, name in (("target", self.target), ("time", self.time)) if name]
        return found

    @cached_property
    def features(self) -> dict[str, Column]:
        """The columns that a model may see, in its order: those with the role, none known only afterwards."""
        return {name: column for name, column in self.columns.items() if column.role is Role.FEATURE}

    @cached_property
    def weight(self) -> str | None:
        """The column of sample weights, if there is one."""
        return next((name for name, column in self.columns.items() if column.role is Role.WEIGHT), None)

    @cached_property
    def known_after(self) -> list[str]:
        """The columns that are known only with the outcome."""
        return [name for name, column in self.columns.items() if column.known == "outcome"]

    def column(self, name: str) -> Column:
        """One column by name.

        Raises:
            UnknownNameError: The contract does not name it; offers the near ones.
        """
        if name not in self.columns:
            raise UnknownNameError("column", name, self.columns)
        return self.columns[name]

    def require_target(self) -> str:
        """The target's name.

        Raises:
            UsageError: The contract names none.
        """
        if self.target is None:
            raise UsageError(f"Contract {self.name!r} names no target", fix="add `target: COLUMN` to the contract")
        return self.target

    def digest(self) -> str:
        """SHA-256 of what the contract says.

        The order of the columns counts, because the model takes them in it; comments, the order of other keys and
        defaults spelled out do not.
        """
        data = self.model_dump(mode="json")
        data["columns"] = list(data["columns"].items())
        return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

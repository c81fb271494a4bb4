"""The search space: which keys of the training section vary, over which values, and when each of them exists.

    space:
      estimator: {type: categorical, values: [hist_gradient_boosting, random_forest]}
      class_weight: {type: categorical, values: [balanced, null]}
      parameters.min_samples_leaf: {type: int, low: 5, high: 500, log: true}
      parameters.learning_rate:
        {type: float, low: 0.01, high: 0.3, log: true, when: {estimator: hist_gradient_boosting}}
      parameters.max_depth:
        - {type: int, low: 2, high: 10, when: {estimator: hist_gradient_boosting}}
        - {type: int, low: 4, high: 30, when: {estimator: random_forest}}

A key is a path inside the training section. `when` makes a parameter conditional: it exists only where each of the
parameters it names has one of the values. A list gives one key another domain under each condition.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from headway.components.config import Config
from headway.components.errors import ConfigError, did_you_mean

Scalar = bool | int | float | str | None
Conditions = dict[str, Scalar | list[Scalar]]
Values = dict[str, Any]
"""A value by key."""

_SLACK = 1e-9
"""How far, as a share of the range, a number may be off after it has been written as text and read again."""


class Float(Config):
    """A real number between two bounds, both of them possible."""

    document: ClassVar[str] = "search space"

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    """Whether equal ratios are equally likely, as suits rates and penalties; else equal distances are."""
    step: float | None = Field(default=None, gt=0)
    """Distance between possible values, counted from `low`."""
    when: Conditions = {}
    """Values of other parameters without which this one does not exist."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _check_range(self.low, self.high, log=self.log)
        if self.step is not None:
            if self.log:
                raise ValueError("a step and log exclude each other")
            count = (self.high - self.low) / self.step
            if abs(count - round(count)) > 1e-6 or round(count) < 1:
                last = self.low + math.floor(count + 1e-6) * self.step
                raise ValueError(f"high {self.high} is no whole number of steps above low; the last value is {last:g}")
        return self

    def suggest(self, trial: Any, name: str) -> float:
        """A value from an Optuna trial."""
        return float(trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step))

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the possible ones."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or abs(value - self._on_grid(value)) <= _SLACK * (self.high - self.low)

    def cast(self, text: str) -> float:
        """A value that was written as text; off by a rounding or by less than half a step, it is put right.

        Raises:
            ValueError: It is none of the possible values.
        """
        value = float(text)
        slack = self.step / 2 if self.step else _SLACK * (self.high - self.low)
        if not self.low - slack <= value <= self.high + slack:  # written the other way round, NaN would pass
            raise ValueError(f"{text} is not between {self.low:g} and {self.high:g}")
        value = min(max(value, self.low), self.high)
        return value if self.step is None else self._on_grid(value)

    def probes(self) -> list[Any]:
        """The values that show whether a section takes them: both ends."""
        return [self.low, self.high]

    def _on_grid(self, value: float) -> float:
        step = self.step or 1.0
        return min(self.low + round((value - self.low) / step) * step, self.high)


class Int(Config):
    """A whole number between two bounds, both of them possible."""

    document: ClassVar[str] = "search space"

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    """Whether equal ratios are equally likely, as suits sizes and counts; else equal distances are."""
    step: int = Field(default=1, ge=1)
    """Distance between possible values, counted from `low`."""
    when: Conditions = {}
    """Values of other parameters without which this one does not exist."""

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        _check_range(self.low, self.high, log=self.log)
        if self.log and self.step != 1:
            raise ValueError("a step and log exclude each other")
        if (self.high - self.low) % self.step:
            last = self.high - (self.high - self.low) % self.step
            raise ValueError(f"high {self.high} is no whole number of steps above low; the last value is {last}")
        return self

    def suggest(self, trial: Any, name: str) -> int:
        """A value from an Optuna trial."""
        return int(trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step))

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the possible ones."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def cast(self, text: str) -> int:
        """A value that was written as text; off by less than a step, as Katib's samplers are, it is put right.

        Raises:
            ValueError: It is none of the possible values.
        """
        number = float(text)
        if not number.is_integer():
            raise ValueError(f"{text} is no whole number")
        value = int(text) if text.lstrip("+-").isdigit() else int(number)
        if not self.low - self.step < value < self.high + self.step:
            raise ValueError(f"{text} is not between {self.low} and {self.high}")
        steps = round((min(max(value, self.low), self.high) - self.low) / self.step)
        return self.low + steps * self.step

    def probes(self) -> list[Any]:
        """The values that show whether a section takes them: both ends."""
        return [self.low, self.high]


class Categorical(Config):
    """One of some values."""

    document: ClassVar[str] = "search space"

    type: Literal["categorical"]
    values: list[Scalar] = Field(min_length=2)
    """Texts, numbers, true, false or null."""
    when: Conditions = {}
    """Values of other parameters without which this one does not exist."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for at, value in enumerate(self.values):
            for earlier in self.values[:at]:
                if value == earlier or scalar_text(value) == scalar_text(earlier):
                    raise ValueError(f"the values {earlier!r} and {value!r} cannot be told apart as text")
        return self

    def suggest(self, trial: Any, name: str) -> Scalar:
        """A value from an Optuna trial."""
        chosen: Scalar = trial.suggest_categorical(name, self.values)
        return chosen

    def contains(self, value: Any) -> bool:
        """Whether a value is one of the possible ones."""
        return any(value is each or (type(value) is type(each) and value == each) for each in self.values)

    def cast(self, text: str) -> Scalar:
        """The value that is written as this text.

        Raises:
            ValueError: It is none of the possible values.
        """
        found = {scalar_text(value): value for value in self.values}
        if text not in found:
            raise ValueError(f"{text!r} is none of {', '.join(found)}{did_you_mean(text, found)}")
        return found[text]

    def probes(self) -> list[Any]:
        """The values that show whether a section takes them: all."""
        return list(self.values)


def _type(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


Domain = Annotated[
    Annotated[Float, Tag("float")] | Annotated[Int, Tag("int")] | Annotated[Categorical, Tag("categorical")],
    Discriminator(_type, custom_error_type="domain", custom_error_message="`type` must be float, int or categorical"),
]


@dataclass(frozen=True)
class Dimension:
    """One parameter of the search, as Optuna and Katib see it."""

    name: str
    """Unique; the key, and where the key has several domains also the condition."""
    key: str
    """The path inside the training section."""
    domain: Float | Int | Categorical
    when: dict[str, tuple[Scalar, ...]]
    """For each parent's key the values under which this dimension exists."""

    def exists(self, chosen: Mapping[str, Any]) -> bool:
        """Whether it exists beside these values of other parameters."""
        return all(
            key in chosen and any(_same(chosen[key], value) for value in values) for key, values in self.when.items()
        )


class Space:
    """A checked search space; a parameter stands behind those that decide whether it exists.

    Args:
        section: For each key its domain, or several with conditions that exclude each other.

    Raises:
        ValueError: A condition names what is not there, goes in a circle, or two domains of a key overlap.
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        found = [each for key, domains in section.items() for each in _dimensions(key, domains)]
        keys = set(section)
        for dimension in found:
            for parent, values in dimension.when.items():
                _check_condition(dimension, parent, values, section, keys)
        for key in keys:
            _check_exclusive([each for each in found if each.key == key])
        self.dimensions = _parents_first(found)

    def __iter__(self) -> Iterator[Dimension]:
        return iter(self.dimensions)

    @property
    def conditional(self) -> list[str]:
        """Names of the dimensions that do not always exist."""
        return [each.name for each in self.dimensions if each.when]

    def suggest(self, trial: Any) -> Values:
        """One value for each key that exists, from an Optuna trial.

        Args:
            trial: Anything with Optuna's `suggest_float`, `suggest_int` and `suggest_categorical`.

        Example:
            >>> import optuna
            >>> space = Space({"parameters.alpha": Float(type="float", low=0.1, high=10, log=True)})
            >>> space.suggest(optuna.trial.FixedTrial({"parameters.alpha": 0.5}))
            {'parameters.alpha': 0.5}
        """
        chosen: Values = {}
        for each in self.dimensions:
            if each.exists(chosen):
                chosen[each.key] = each.domain.suggest(trial, each.name)
        return chosen

    def named(self, values: Mapping[str, Any]) -> Values | None:
        """Values by key as values by dimension; None where they are not exactly one point of the space."""
        found: Values = {}
        chosen: Values = {}
        for each in self.dimensions:
            if not each.exists(chosen):
                continue
            if each.key not in values or not each.domain.contains(values[each.key]):
                return None
            found[each.name] = chosen[each.key] = values[each.key]
        return found if chosen.keys() == values.keys() else None

    def keyed(self, parameters: Mapping[str, Any]) -> Values:
        """Values by dimension as values by key."""
        return {each.key: parameters[each.name] for each in self.dimensions if each.name in parameters}

    def cast(self, texts: Mapping[str, str]) -> Values:
        """Values by dimension that another system hands on as texts, as values by key with their own types.

        Raises:
            ConfigError: A name is unknown or missing, or a value is not possible; says which.

        Example:
            >>> Space({"parameters.max_iter": Int(type="int", low=10, high=100, step=10)}).cast(
            ...     {"parameters.max_iter": "50"}
            ... )
            {'parameters.max_iter': 50}
        """
        names = [each.name for each in self.dimensions]
        for name in texts:
            if name not in names:
                raise ConfigError(f"{name!r} is no parameter of the search{did_you_mean(name, names)}")
        chosen: Values = {}
        for each in self.dimensions:
            if not each.exists(chosen):
                continue
            if each.name not in texts:
                raise ConfigError(f"The parameter {each.name!r} is missing")
            try:
                chosen[each.key] = each.domain.cast(texts[each.name])
            except ValueError as error:
                raise ConfigError(f"The parameter {each.name!r}: {error}") from None
        return chosen


def scalar_text(value: Scalar) -> str:
    """A scalar as YAML writes it, so that `cast` finds it again.

    Example:
        >>> [scalar_text(value) for value in (True, None, 3, 0.1, "balanced")]
        ['true', 'null', '3', '0.1', 'balanced']
    """
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _same(value: Any, other: Any) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _check_range(low: float, high: float, *, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low {low:g} must be below high {high:g}; a fixed value belongs into `training`")
    if log and low <= 0:
        raise ValueError(f"log needs a low above 0, got {low:g}")


def _dimensions(key: str, domains: Any) -> list[Dimension]:
    several = domains if isinstance(domains, list) else [domains]
    if not several:
        raise ValueError(f"{key} has no domain")
    found = []
    for domain in several:
        when = {parent: tuple(v if isinstance(v, list) else [v]) for parent, v in domain.when.items()}
        name = key
        if len(several) > 1:
            if not when:
                raise ValueError(f"{key} has {len(several)} domains: each needs a `when`")
            told = ", ".join(f"{parent}={'/'.join(map(scalar_text, values))}" for parent, values in when.items())
            name = f"{key} ({told})"
        found.append(Dimension(name=name, key=key, domain=domain, when=when))
    return found


def _check_condition(
    dimension: Dimension, parent: str, values: tuple[Scalar, ...], section: Mapping[str, Any], keys: Iterable[str]
) -> None:
    if parent not in section:
        raise ValueError(
            f"{dimension.key}: `when` names {parent!r}, which is not in the space{did_you_mean(parent, keys)}"
        )
    domains = section[parent] if isinstance(section[parent], list) else [section[parent]]
    if not all(isinstance(domain, Categorical) for domain in domains):
        raise ValueError(f"{dimension.key}: `when` names {parent!r}, which is not categorical")
    possible = [value for domain in domains for value in domain.values]
    for value in values:
        if not any(_same(value, each) for each in possible):
            texts = [scalar_text(each) for each in possible]
            raise ValueError(
                f"{dimension.key}: {parent} is never {scalar_text(value)!r}{did_you_mean(scalar_text(value), texts)}"
            )


def _check_exclusive(alternatives: list[Dimension]) -> None:
    for at, one in enumerate(alternatives):
        for other in alternatives[:at]:
            shared = one.when.keys() & other.when.keys()
            if not any(_disjoint(one.when[parent], other.when[parent]) for parent in shared):
                raise ValueError(f"{one.key}: two of its domains can hold at once; their conditions must differ")


def _disjoint(one: tuple[Scalar, ...], other: tuple[Scalar, ...]) -> bool:
    return not any(_same(a, b) for a in one for b in other)


def _parents_first(found: list[Dimension]) -> list[Dimension]:
    ordered: list[Dimension] = []
    waiting = list(found)
    while waiting:
        pending = {each.key for each in waiting}
        ready = [each for each in waiting if not pending & each.when.keys()]
        if not ready:
            raise ValueError(f"the conditions of {', '.join(sorted(pending))} go in a circle")
        ordered += ready
        waiting = [each for each in waiting if each not in ready]
    return ordered

"""The summary of one column: what a profile keeps of numbers, texts, booleans and moments, and how two add up."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from headway.components.config import Config
from headway.components.data_validate import sketch
from headway.components.errors import UsageError

MOST_LISTED = 1_000
"""A column with at most this many different values has them all counted."""
BINS = 128
"""Bins of equal width between the bounds that the contract gives a number."""
MOST_PERIODS = 1_000
"""A timestamp is counted in the shortest period that gives at most this many."""
Period = Literal["hour", "day", "month", "year"]
_PERIOD_LENGTHS: dict[str, int] = {"hour": 13, "day": 10, "month": 7, "year": 4}


class Bins(Config):
    """Counts between fixed edges of equal distance."""

    low: float
    high: float
    counts: list[int] = Field(min_length=BINS, max_length=BINS)
    below: int = 0
    above: int = 0

    @property
    def width(self) -> float:
        """The distance between two edges."""
        return (self.high - self.low) / BINS


class NumberProfile(Config):
    """A column of numbers, each taken as a 64-bit float."""

    kind: Literal["number"] = "number"
    count: int
    """Values that are there, infinite ones included."""
    missing: int
    infinite: tuple[int, int] = (0, 0)
    """How many values are minus and plus infinity."""
    min: float | None = None
    """The smallest finite value."""
    max: float | None = None
    sum: str = "0"
    """The exact sum of the finite values, as a fraction."""
    squares: str = "0"
    """The exact sum of their squares, as a fraction."""
    zeros: int = 0
    positive: dict[int, int] = Field(default_factory=dict)
    """Counts by bucket of the quantile sketch."""
    negative: dict[int, int] = Field(default_factory=dict)
    """The same for the magnitudes of the negative values."""
    bins: Bins | None = None
    """Counts between the bounds of the contract's range, where it gives both."""
    values: dict[float, int] | None = None
    """Every finite value with its count, where there are at most 1 000 different ones."""

    @property
    def finite(self) -> int:
        """How many values are finite."""
        return self.count - sum(self.infinite)

    @property
    def mean(self) -> float | None:
        """The mean of the finite values, correctly rounded."""
        return float(Fraction(self.sum) / self.finite) if self.finite else None

    @property
    def standard_deviation(self) -> float | None:
        """The standard deviation of the finite values (divisor n - 1), from exact sums."""
        n = self.finite
        if n < 2:
            return None
        variance = (Fraction(self.squares) - Fraction(self.sum) ** 2 / n) / (n - 1)
        return math.sqrt(variance)

    def cells(self) -> list[tuple[float, float, int]]:
        """Where the finite values lie, as (low, high, count) in rising order: the finest description there is.

        Single values where they are listed; else the bins of the contract's range or the buckets of the sketch,
        whichever are narrower where the data is.
        """
        if self.values is not None:
            return [(value, value, self.values[value]) for value in sorted(self.values)]
        choices = [self._sketch_cells()] + ([self._bin_cells(self.bins)] if self.bins else [])
        return min(choices, key=lambda cells: sum((high - low) * count for low, high, count in cells))

    def _sketch_cells(self) -> list[tuple[float, float, int]]:
        cells = [
            (-sketch.bucket_bounds(index)[1], -sketch.bucket_bounds(index)[0], self.negative[index])
            for index in sorted(self.negative, reverse=True)
        ]
        cells += [(0.0, 0.0, self.zeros)] if self.zeros else []
        cells += [(*sketch.bucket_bounds(index), self.positive[index]) for index in sorted(self.positive)]
        return [self._inside(cell) for cell in cells]

    def _bin_cells(self, bins: Bins) -> list[tuple[float, float, int]]:
        lowest, highest = self.min or 0.0, self.max or 0.0
        cells = [(lowest, bins.low, bins.below)]
        for i, count in enumerate(bins.counts):
            cells.append((bins.low + i * bins.width, bins.low + (i + 1) * bins.width, count))
        cells.append((bins.high, highest, bins.above))
        return [self._inside(cell) for cell in cells if cell[2]]

    def _inside(self, cell: tuple[float, float, int]) -> tuple[float, float, int]:
        """A cell without the part in which no value can lie."""
        lowest, highest = self.min or 0.0, self.max or 0.0
        return min(max(cell[0], lowest), highest), max(min(cell[1], highest), lowest), cell[2]

    def quantile(self, q: float) -> float | None:
        """The smallest value that at least a share q of the finite values does not exceed.

        Exact where the values are listed. Otherwise off by at most 1 % of the value, or by at most a 128th of the
        contract's range where that is how `cells` describes the column.

        Args:
            q: 0 to 1.

        Returns:
            None for a column without a finite value.

        Raises:
            UsageError: q is outside 0 to 1.

        Example:
            >>> import tempfile, numpy as np, pyarrow as pa, pyarrow.parquet as pq
            >>> from pathlib import Path
            >>> from headway.components.data_validate.contract import Contract
            >>> from headway.components.data_validate.profile import profile_table
            >>> contract = Contract.parse({"name": "c", "columns": {"x": {"type": "number"}}})
            >>> x = np.random.default_rng(0).lognormal(size=20_000)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     pq.write_table(pa.table({"x": x}), Path(folder) / "x.parquet")
            ...     column = profile_table(contract, Path(folder) / "x.parquet").columns["x"]
            >>> exact = float(np.quantile(x, 0.9))
            >>> round(exact, 3), abs(column.quantile(0.9) / exact - 1) < 0.01
            (3.584, True)
        """
        if not 0 <= q <= 1:
            raise UsageError(f"The quantile {q} does not exist", expected="a share of the values, 0 to 1")
        cells = self.cells()
        rank = max(math.ceil(q * self.finite), 1)
        for low, high, count in cells:
            if rank <= count:
                # The harmonic mean of a bucket's ends has the smallest relative error; of a bin's any point does.
                middle = 2 * low * high / (low + high) if low * high > 0 else (low + high) / 2
                return low if low == high else middle
            rank -= count
        return None

    def histogram(self, edges: Sequence[float]) -> list[float]:
        """Counts between edges, shape (len(edges) - 1,), the last bin closed; a cell across an edge is shared out."""
        counts = [0.0] * (len(edges) - 1)
        for low, high, count in self.cells():
            first = max(bisect_right(edges, low) - 1, 0)
            if low == high:
                if edges[0] <= low <= edges[-1]:
                    counts[min(first, len(counts) - 1)] += count
                continue
            for i in range(first, min(bisect_left(edges, high), len(counts))):
                counts[i] += count * max(min(high, edges[i + 1]) - max(low, edges[i]), 0.0) / (high - low)
        return counts


class StringProfile(Config):
    """A column of texts."""

    kind: Literal["string"] = "string"
    count: int
    missing: int
    lengths: dict[int, int] = Field(default_factory=dict)
    """Counts by number of characters; 1 000 stands for all longer ones too."""
    values: dict[str, int] | None = None
    """Every text with its count, where there are at most 1 000 different ones, none longer than 200 characters."""
    registers: str | None = None
    """What counts the different texts where they are not listed."""
    allowed: dict[str, int] | None = None
    """Counts of the categories that the contract allows, where it lists them."""

    @property
    def distinct(self) -> int:
        """How many different texts there are: exact where they are listed, else within about 2.3 %."""
        if self.values is not None:
            return len(self.values)
        return sketch.distinct(sketch.from_text(self.registers)) if self.registers else 0

    @property
    def unseen(self) -> int:
        """How many values are none of the contract's categories."""
        return self.count - sum(self.allowed.values()) if self.allowed is not None else 0

    @model_validator(mode="after")
    def _registers_or_values(self) -> Self:
        if (self.values is None) is (self.registers is None):
            raise ValueError("a text column has either values or registers")
        if self.registers is not None:
            sketch.from_text(self.registers)
        return self


class BooleanProfile(Config):
    """A column of true and false."""

    kind: Literal["boolean"] = "boolean"
    count: int
    missing: int
    true: int
    """How many values are true."""


class TimestampProfile(Config):
    """A column of moments, in UTC."""

    kind: Literal["timestamp"] = "timestamp"
    count: int
    missing: int
    outside: int = 0
    """Values before the year 1000 or after 9999, which are in no period."""
    min: str | None = None
    """The first moment inside those years, in ISO 8601."""
    max: str | None = None
    period: Period = "hour"
    periods: dict[str, int] = Field(default_factory=dict)
    """Counts by period, such as `2013-01` for a month."""


ColumnProfile = Annotated[
    NumberProfile | StringProfile | BooleanProfile | TimestampProfile, Field(discriminator="kind")
]


def merge_columns(name: str, one: Any, other: Any) -> Any:
    """The summary of two columns together.

    Raises:
        UsageError: They count in different bins.
    """
    merged = {"count": one.count + other.count, "missing": one.missing + other.missing}
    if isinstance(one, NumberProfile):
        return _merge_numbers(name, one, other, merged)
    if isinstance(one, StringProfile):
        return _merge_strings(one, other, merged)
    if isinstance(one, TimestampProfile):
        return _merge_timestamps(one, other, merged)
    return BooleanProfile(**merged, true=one.true + other.true)


def _merge_numbers(name: str, one: NumberProfile, other: NumberProfile, merged: dict[str, int]) -> NumberProfile:
    return NumberProfile(
        **merged,
        infinite=(one.infinite[0] + other.infinite[0], one.infinite[1] + other.infinite[1]),
        min=min((x for x in (one.min, other.min) if x is not None), default=None),
        max=max((x for x in (one.max, other.max) if x is not None), default=None),
        sum=str(Fraction(one.sum) + Fraction(other.sum)),
        squares=str(Fraction(one.squares) + Fraction(other.squares)),
        zeros=one.zeros + other.zeros,
        positive=sketch.add(one.positive, other.positive),
        negative=sketch.add(one.negative, other.negative),
        bins=_merge_bins(name, one.bins, other.bins),
        values=_merge_listed(one.values, other.values),
    )


def _merge_bins(name: str, one: Bins | None, other: Bins | None) -> Bins | None:
    if one is None and other is None:
        return None
    if one is None or other is None or (one.low, one.high) != (other.low, other.high):
        raise UsageError(
            f"Two profiles of the column {name!r} have different bins", expected="profiles under one contract"
        )
    return Bins(
        low=one.low,
        high=one.high,
        counts=[a + b for a, b in zip(one.counts, other.counts, strict=True)],
        below=one.below + other.below,
        above=one.above + other.above,
    )


def _merge_listed(one: dict[Any, int] | None, other: dict[Any, int] | None) -> dict[Any, int] | None:
    """The values of both, where they are few enough to be listed: as if both had been counted together."""
    if one is None or other is None or len(one.keys() | other.keys()) > MOST_LISTED:
        return None
    return {value: one.get(value, 0) + other.get(value, 0) for value in sorted(one.keys() | other.keys())}


def _merge_strings(one: StringProfile, other: StringProfile, merged: dict[str, int]) -> StringProfile:
    values = _merge_listed(one.values, other.values)
    allowed = None
    if one.allowed is not None and other.allowed is not None:
        allowed = {key: one.allowed.get(key, 0) + other.allowed.get(key, 0) for key in {**one.allowed, **other.allowed}}
    return StringProfile(
        **merged,
        lengths=sketch.add(one.lengths, other.lengths),
        values=values,
        registers=sketch.to_text(sketch.larger(_registers(one), _registers(other))) if values is None else None,
        allowed=allowed,
    )


def _registers(column: StringProfile) -> bytes:
    if column.registers is not None:
        return sketch.from_text(column.registers)
    return sketch.registers(column.values or [])


def _merge_timestamps(one: TimestampProfile, other: TimestampProfile, merged: dict[str, int]) -> TimestampProfile:
    first = min((x for x in (one.min, other.min) if x is not None), default=None)
    last = max((x for x in (one.max, other.max) if x is not None), default=None)
    period = period_of(first, last)
    length = _PERIOD_LENGTHS[period]
    periods: dict[str, int] = {}
    for source in (one.periods, other.periods):
        for start, count in source.items():
            periods[start[:length]] = periods.get(start[:length], 0) + count
    return TimestampProfile.model_validate(
        merged
        | {"outside": one.outside + other.outside, "min": first, "max": last, "period": period}
        | {"periods": dict(sorted(periods.items()))}
    )


def period_of(first: str | None, last: str | None) -> Period:
    """The shortest period of which at most MOST_PERIODS lie between two moments."""
    if first is None or last is None:
        return "hour"
    start, end = datetime.fromisoformat(first), datetime.fromisoformat(last)
    days = end.toordinal() - start.toordinal()
    months = (end.year - start.year) * 12 + end.month - start.month
    spans: dict[Period, int] = {"hour": days * 24 + end.hour - start.hour, "day": days, "month": months}
    return next((period for period, span in spans.items() if span < MOST_PERIODS), "year")

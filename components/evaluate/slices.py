"""Slices: parts of the validation data that are judged on their own, because a good mean hides a bad part.

slices:
  - {name: origin, column: origin}                        # one slice for each value
  - {name: night, where: "hour < 6", min_rows: 200}       # the rows that meet a condition (DuckDB SQL)
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from headway.components.config import Config
from headway.components.data_validate.contract import ColumnType, Contract, Expression
from headway.components.errors import ConfigError
from headway.components.evaluate.metrics import Measurement, Sample
from headway.components.sql import quote_name

if TYPE_CHECKING:
    import pyarrow as pa

OTHER_VALUES = "other values"
_ROW = "headway_row_number"
_FRAME = "validation"


class Slice(Config):
    """A part of the validation data, by a column's values or by a condition."""

    document: ClassVar[str] = "slice"

    name: str = Field(min_length=1, max_length=100)
    """What thresholds and reports call it."""
    column: str | None = None
    """One slice for each value of this column."""
    where: str | None = Field(default=None, min_length=1, max_length=4_000)
    """The rows for which this condition is true, in SQL as DuckDB reads it; NULL is not true."""
    max_values: int = Field(default=20, ge=1, le=1_000)
    """With `column`: the most frequent values; the rest is one slice, `other values`."""
    min_rows: int = Field(default=100, ge=1)
    """A slice of fewer rows is not judged."""
    min_positives: int = Field(default=10, ge=0)
    """A slice of a binary task with fewer rows of either class is not judged."""
    too_small: Literal["hold", "note"] = "hold"
    """What a slice that is not judged does to the decision; never does it count as passed."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.column is None) is (self.where is None):
            raise ValueError(f"slice {self.name!r} needs either `column` or `where`")
        return self


class Part(NamedTuple):
    """The rows of one slice."""

    slice: Slice
    label: str
    """What people call it: `origin = JFK`, or the name of a slice with a condition."""
    rows: NDArray[np.int64]
    """(m,) row numbers, ascending."""


class SliceResult(Config):
    """One slice, measured."""

    slice: str
    """The name under which the document declares it."""
    label: str
    """The slice itself: `origin = JFK`."""
    rows: int
    metrics: dict[str, Measurement] = Field(default_factory=dict)
    unjudged: str = ""
    """Why it is not judged; empty when it is."""
    too_small: Literal["hold", "note"] = "hold"


def check_names(slices: Sequence[Slice]) -> None:
    """Refuse two slices of one name.

    Raises:
        ConfigError: A name stands twice.
    """
    names = [one.name for one in slices]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"Slices have one name: {', '.join(twice)}", expected="a name of its own for each slice")


def columns_of(slices: Sequence[Slice], contract: Contract) -> list[str]:
    """The columns that slices read, so that no other is loaded.

    Raises:
        UnknownNameError: A slice names a column that the contract does not declare; offers the near ones.
        ConfigError: A condition is not one, or holds what a condition must not.
    """
    from headway.components.data_validate import expressions

    found: dict[str, None] = {}
    with _closed_connection() as connection:
        for one in slices:
            if one.column is not None:
                contract.column(one.column)
                found[one.column] = None
            else:
                found.update(dict.fromkeys(expressions.columns_of(connection, contract, _condition(one))))
    return list(found)


def split(slices: Sequence[Slice], table: "pa.Table", contract: Contract) -> list[Part]:
    """The rows of each slice; a declared slice that nothing falls into is there with no rows.

    Args:
        slices: The slices as declared.
        table: n rows with the columns that `columns_of` names.
        contract: Declares the columns.

    Raises:
        ConfigError: A condition is not one.

    Example:
        >>> import pyarrow as pa
        >>> columns = {"origin": {"type": "string"}, "hour": {"type": "integer"}}
        >>> contract = Contract.parse({"name": "flights", "columns": columns})
        >>> table = pa.table({"origin": ["JFK", "EWR", "JFK"], "hour": [5, 12, None]})
        >>> slices = [Slice(name="origin", column="origin"), Slice(name="night", where="hour < 6")]
        >>> [(part.label, part.rows.tolist()) for part in split(slices, table, contract)]
        [('origin = JFK', [0, 2]), ('origin = EWR', [1]), ('night', [0])]
    """
    parts: list[Part] = []
    for one in slices:
        parts += _by_value(one, table) if one.column is not None else [_by_condition(one, table, contract)]
    return parts


def unjudged(one: Slice, sample: Sample) -> str:
    """Why a slice is not judged; empty when it is large enough.

    Args:
        one: The slice as declared.
        sample: Its rows.
    """
    if sample.rows < one.min_rows:
        return f"{sample.rows:,} rows, fewer than {one.min_rows:,}"
    if sample.task == "binary":
        positives = int((sample.truth == 1).sum())
        for count, kind in ((positives, "positive"), (sample.rows - positives, "negative")):
            if count < one.min_positives:
                return f"{count:,} {kind} rows of {sample.rows:,}, fewer than {one.min_positives:,}"
    return ""


def _by_value(one: Slice, table: "pa.Table") -> Iterator[Part]:
    import pyarrow.compute as pc

    encoded = pc.dictionary_encode(table.column(one.column).combine_chunks(), null_encoding="encode")
    if hasattr(encoded, "combine_chunks"):
        encoded = encoded.combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    values = encoded.dictionary.to_pylist()
    by_size = np.argsort(-np.bincount(codes, minlength=len(values)), kind="stable")
    rank = np.empty(len(values), dtype=np.int64)
    rank[by_size] = np.arange(len(values))
    group = np.minimum(rank[codes], one.max_values)
    rows = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[rows], np.arange(min(len(values), one.max_values + 1) + 1))
    for number, (start, end) in enumerate(pairwise(starts)):
        value = values[by_size[number]] if number < one.max_values else None
        named = OTHER_VALUES if number >= one.max_values else "(missing)" if value is None else str(value)
        yield Part(one, f"{one.name} = {named}", rows[start:end])


def _by_condition(one: Slice, table: "pa.Table", contract: Contract) -> Part:
    import pyarrow as pa

    from headway.components.data_validate import expressions
    from headway.components.data_validate.table import CANONICAL, without_nan

    with _closed_connection() as connection:
        # The guard leaves a result open, and DuckDB wants none open on a connection that registers a table.
        condition = expressions.compile_expression(connection.cursor(), contract, _condition(one))
        columns = [_ROW]
        for number, (name, column) in enumerate(contract.columns.items()):
            if name in table.column_names:
                value = f"CAST({quote_name(name)} AS {CANONICAL[column.type]})"
                if column.type is ColumnType.NUMBER:
                    value = without_nan(value)
                columns.append(f"{value} AS v{number}")
        connection.register(_FRAME, table.append_column(_ROW, pa.array(np.arange(table.num_rows))))
        typed = f"(SELECT {', '.join(columns)} FROM {_FRAME})"  # noqa: S608 - quoted names only
        query = f"SELECT {_ROW} FROM {typed} WHERE {condition} ORDER BY 1"  # noqa: S608 - written anew by the guard
        rows = connection.execute(query).fetchnumpy()[_ROW]
    return Part(one, one.name, np.asarray(rows, dtype=np.int64))


def _condition(one: Slice) -> Expression:
    return Expression(name=f"slice {one.name}", expression=one.where or "true")


def _closed_connection() -> Any:
    """DuckDB without files, network and extensions, and without a way to switch them on again."""
    import duckdb

    return duckdb.connect(config={"enable_external_access": "false", "lock_configuration": "true"})

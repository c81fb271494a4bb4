"""The contract's check of requests in every form they come in, and checked rows as the arrays that a model takes.

The rules are those of `components.data_validate.request`, and the arrays those of `components.train.features`. What
is here besides are short cuts for the usual cases, each of which either gives the very same result or gives way: a
row of plain values without a detour over columns, and a numeric matrix compared with all ranges at once.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headway.components.data_validate.contract import Column, ColumnType, Contract
from headway.components.data_validate.readers import REFUSING
from headway.components.data_validate.request import compile_request
from headway.components.errors import RequestError
from headway.components.train.features import MISSING, Features, may_be_missing
from headway.serving.server.refusal import ContractRefusal, bad

Kept = dict[str, Any] | list[dict[str, Any]] | dict[str, list[Any]] | NDArray[np.float64]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_FLOAT64_MAX = float(np.finfo(np.float64).max)
_EXACT = 2**53
"""Integers beyond it are not all 64-bit floating point numbers."""
_NUMERIC = (ColumnType.INTEGER, ColumnType.NUMBER)


@dataclass(slots=True)
class Rows:
    """Checked rows, ready for the model."""

    count: int
    numbers: NDArray[np.float32]
    """Shape (count, numbers of `Features`)."""
    texts: NDArray[np.object_]
    """Shape (count, texts of `Features`)."""
    kept: Kept
    """The checked features as they came: one record, a list of records, a list by column, or a matrix of shape
    (count, features) in the contract's order."""


class Checker:
    """The check of requests under one contract, compiled once.

    Args:
        contract: What a request must be.
    """

    def __init__(self, contract: Contract) -> None:
        self.names = list(contract.features)
        self._check = compile_request(contract)
        self._features = Features.of(contract)
        self._matrix = _MatrixCheck(contract) if _all_numeric(contract) else None
        columns = contract.features
        self._calendar = any(column.type is ColumnType.TIMESTAMP for column in columns.values())
        self._flagged = any(may_be_missing(column) for column in columns.values())
        self._fits = not any(_may_overflow(column) for column in columns.values() if column.type in _NUMERIC)
        self._number_names = [(name, may_be_missing(columns[name])) for name in self._features.starts]
        self._plain_names = [name for name, _ in self._number_names]
        self._text_names = self._features.texts
        self._no_texts = np.empty((1, 0), dtype=object)

    @property
    def takes_matrix(self) -> bool:
        """Whether one numeric matrix, a column for each feature, is a request."""
        return self._matrix is not None

    def record(self, record: Any) -> Rows:
        """Check one row given as an object.

        Raises:
            RequestError: It breaks the contract.
        """
        clean = self._check.check(record)
        return Rows(1, *self._row_arrays(clean), clean)

    def records(self, records: Sequence[Any]) -> Rows:
        """Check rows given as a list of objects; failures carry their `row`.

        Raises:
            RequestError: A row breaks the contract.
        """
        clean = self._check.check_many(records)
        columns = {name: [row[name] for row in clean] for name in self.names}
        return Rows(len(clean), *self._features.arrays(columns), clean)

    def lists(self, rows: Sequence[Any]) -> Rows:
        """Check rows given as lists of values in the contract's order.

        Raises:
            RequestError: A row breaks the contract, or is no list of as many values as there are features.
        """
        width = len(self.names)
        for number, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != width:
                got = f"a list of {len(row)} items" if isinstance(row, list) else "something else"
                expected = f"a list of {width} values, in the order {', '.join(self.names[:20])}"
                raise RequestError([{"field": "", "expected": expected, "got": got, "row": number}])
        if len(rows) == 1:
            return self.record(dict(zip(self.names, rows[0], strict=True)))
        return self.columns({name: [row[place] for row in rows] for place, name in enumerate(self.names)})

    def columns(self, columns: dict[str, Any]) -> Rows:
        """Check rows given by column.

        Raises:
            RequestError: A value or a column breaks the contract.
        """
        clean = self._check.check_batch(columns)
        count = len(next(iter(clean.values())))
        if count == 1:
            record = {name: values[0] for name, values in clean.items()}
            return Rows(1, *self._row_arrays(record), record)
        return Rows(count, *self._features.arrays(clean), clean)

    def flat(self, values: Any, count: int) -> Rows:
        """Check rows given as one matrix, row by row: a flat list or array of `count` times as many as features.

        Raises:
            RequestError: A value breaks the contract.
            Refusal: The contract has features that are not numbers.
        """
        if self._matrix is None:
            raise bad(
                "One tensor for all features needs a contract whose features are all numbers",
                expected=f"one tensor for each of {', '.join(self.names[:20])}",
                got="one tensor with two dimensions",
            )
        if count == 1:
            row = values.tolist() if isinstance(values, np.ndarray) else values
            return self.record(dict(zip(self.names, row, strict=True)))
        matrix = self._matrix.read(values, count)
        if matrix is not None:
            return Rows(count, self._matrix_numbers(matrix), np.empty((count, 0), dtype=object), matrix)
        width = len(self.names)
        return self.columns({name: values[place::width] for place, name in enumerate(self.names)})

    def _row_arrays(self, clean: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
        """One checked record as `Features.arrays` gives it, several times as fast."""
        if self._calendar:
            return self._slow_arrays(clean)
        if self._flagged:
            found: list[Any] = []
            for name, may_miss in self._number_names:
                value = clean[name]
                missing = value is None
                found.append(np.nan if missing else value)
                if may_miss:
                    found.append(missing)
        else:
            found = [clean[name] for name in self._plain_names]
        if self._fits:
            numbers = np.array([found], dtype=np.float32)
        else:
            wide = np.array([found], dtype=np.float64)
            if not _holds(wide):
                return self._slow_arrays(clean)
            numbers = wide.astype(np.float32)
        if not self._text_names:
            return numbers, self._no_texts
        texts = [MISSING if clean[name] is None else clean[name] for name in self._text_names]
        return numbers, np.array([texts], dtype=object)

    def _slow_arrays(self, clean: dict[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
        return self._features.arrays({name: [value] for name, value in clean.items()})

    def _matrix_numbers(self, matrix: NDArray[np.float64]) -> NDArray[np.float32]:
        if not self._flagged and (self._fits or _holds(matrix)):
            return matrix.astype(np.float32)
        columns = dict(zip(self.names, matrix.T, strict=True))
        return self._features.arrays(columns)[0]


class _MatrixCheck:
    """All ranges of an all-numeric contract, compared with a matrix at once.

    It says yes only to a matrix that the contract's own check takes; for any other the caller asks that one, which
    also has the words.
    """

    def __init__(self, contract: Contract) -> None:
        columns = list(contract.features.values())
        self._plain = not any(_refuses_by_values(column) or _has_inexact_bound(column) for column in columns)
        bounds = [_bounds(column) for column in columns]
        self._low = np.array([low for low, _ in bounds])
        self._high = np.array([high for _, high in bounds])
        self._integers = np.array([column.type is ColumnType.INTEGER for column in columns])
        self._any_integer = bool(self._integers.any())

    def read(self, values: Any, count: int) -> NDArray[np.float64] | None:
        """The matrix, shape (count, features), or None when the contract's check must look closer."""
        if not self._plain:
            return None
        if isinstance(values, list):
            values = _real(values)
        if values is None or values.dtype.kind not in "iuf":
            return None
        matrix: NDArray[np.float64] = values.astype(np.float64, copy=False).reshape(count, -1)
        # NaN fails every comparison, and the bounds are finite.
        if not bool(((matrix >= self._low) & (matrix <= self._high)).all()):
            return None
        if self._any_integer:
            whole = matrix[:, self._integers]
            if not bool((whole == np.trunc(whole)).all()):
                return None
        return matrix


def _real(values: list[Any]) -> NDArray[np.float64] | None:
    """A list of numbers as an array, in half the time that NumPy takes; None when one is no number."""
    try:
        found = np.frombuffer(array("d", values))
    except (TypeError, OverflowError):
        return None
    # Here true is 1 and false is 0, so a boolean can only be where one of these stands.
    doubtful = np.flatnonzero((found == 0) | (found == 1)).tolist()
    return None if any(type(values[place]) is bool for place in doubtful) else found


def _all_numeric(contract: Contract) -> bool:
    return all(column.type in _NUMERIC for column in contract.features.values())


def _refuses_by_values(column: Column) -> bool:
    return column.values is not None and column.values.level in REFUSING


def _has_inexact_bound(column: Column) -> bool:
    """Whether a bound is an integer that no 64-bit floating point number equals."""
    bounds = [column.range.min, column.range.max] if column.range else []
    return any(bound is not None and float(bound) != bound for bound in bounds)


def _bounds(column: Column) -> tuple[float, float]:
    widest = _EXACT - 1 if column.type is ColumnType.INTEGER else _FLOAT64_MAX
    rule = column.range
    if rule is None or rule.level not in REFUSING:
        return -widest, widest
    low = -widest if rule.min is None else max(-widest, float(rule.min))
    high = widest if rule.max is None else min(widest, float(rule.max))
    return low, high


def _holds(wide: NDArray[np.float64]) -> bool:
    """Whether 32 bits hold each of the numbers, as far as it is one."""
    return not bool((np.abs(wide) > _FLOAT32_MAX).any())


def _may_overflow(column: Column) -> bool:
    """Whether the contract lets a number through that no 32-bit one holds."""
    if column.type is ColumnType.INTEGER:
        return False
    low, high = _bounds(column)
    return low < -_FLOAT32_MAX or high > _FLOAT32_MAX


def checked(call: Any, *arguments: Any) -> Rows:
    """Make a failed check the answer that the client gets.

    Raises:
        Refusal: The contract's check refused the rows.
    """
    try:
        rows: Rows = call(*arguments)
    except RequestError as error:
        raise ContractRefusal.of(error) from None
    return rows

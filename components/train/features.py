"""From a contract's columns to the matrix that an estimator sees; the same code in training and in prediction.

Nothing here is fitted: the contract alone decides the columns, so a request and a training row that hold the same
values become the same numbers. What must be learnt from data (medians, categories) is in the pipeline (fit.py).

    number, integer    one column; a missing, infinite or too large value (over 3.4e38) is NaN
    boolean            one column of 0 and 1, NaN when missing
    timestamp          hour of the day (with its fraction), weekday (Monday 0), month, day of the year; for any but the
                       contract's `time` also days since 1970. In UTC; a time without a zone is taken as it stands
    string             one column of text; a missing value is the text `<missing>`, a category like any other
    may be missing     numbers, booleans and timestamps get one more column: 1 where the value is missing

Numbers are rounded to 32 bits, which is what an ONNX graph computes with: both files of a model then see equal values.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headway.components.data_validate.contract import Column, ColumnType, Contract
from headway.components.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas
    import pyarrow

MISSING = "<missing>"
"""The text that stands for a missing category."""

Data: TypeAlias = "pandas.DataFrame | pyarrow.Table | Mapping[str, Any]"
"""Rows by column: a pandas frame, an Arrow table, or a mapping from name to a sequence of values."""

_CALENDAR = ("hour", "weekday", "month", "day of year")
_EPOCH = "days since 1970"
_UNREADABLE = (TypeError, ValueError, NotImplementedError)
"""What Python, numpy, pandas and Arrow raise for a value that does not convert."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """The columns that an estimator sees, as a contract declares them."""

    columns: dict[str, Column]
    """The contract's features by name."""
    numbers: list[str]
    """Names of the number columns, in order."""
    flags: list[int]
    """Positions in `numbers` of the columns that say that a value is missing."""
    starts: dict[str, int]
    """For each feature that becomes numbers, where they start in `numbers`."""
    texts: list[str]
    """Names of the text columns, in order."""
    time: str | None
    """The contract's time column."""

    @classmethod
    def of(cls, contract: Contract) -> "Features":
        """The columns of a contract.

        Raises:
            ConfigError: The contract has no feature.
        """
        if not contract.features:
            raise ConfigError(
                f"Contract {contract.name!r} has no feature",
                expected="a column with the role feature besides the target",
            )
        numbers: list[str] = []
        flags: list[int] = []
        starts: dict[str, int] = {}
        for name, column in contract.features.items():
            if column.type is ColumnType.STRING:
                continue
            starts[name] = len(numbers)
            numbers += _names(name, column, is_time=name == contract.time)
            if may_be_missing(column):
                flags.append(len(numbers))
                numbers.append(f"{name}[missing]")
        return cls(
            columns=dict(contract.features),
            numbers=numbers,
            flags=flags,
            starts=starts,
            texts=[name for name in contract.features if name not in starts],
            time=contract.time,
        )

    @property
    def names(self) -> list[str]:
        """All column names, numbers first."""
        return self.numbers + self.texts

    def arrays(self, data: Data) -> tuple[NDArray[np.float32], NDArray[np.object_]]:
        """Rows as two matrices.

        Args:
            data: Rows with the contract's columns; others are ignored.

        Returns:
            Numbers of shape (n, `len(numbers)`) with NaN where missing, and texts of shape (n, `len(texts)`).

        Raises:
            DataError: A column is missing, or a value cannot be read as its type.
        """
        rows = _row_count(data)
        numbers = np.empty((rows, len(self.numbers)), dtype=np.float32)
        # Values beyond 32 bits become infinite, and infinite ones missing: no estimator takes them.
        with np.errstate(over="ignore"):
            for name, start in self.starts.items():
                for offset, values in enumerate(self._number_columns(name, data, rows)):
                    numbers[:, start + offset] = values
        infinite = np.isinf(numbers)
        if infinite.any():
            numbers[infinite] = np.nan
        for position in self.flags:
            numbers[:, position] = np.isnan(numbers[:, position - 1])
        texts = np.empty((rows, len(self.texts)), dtype=object)
        for position, name in enumerate(self.texts):
            column = self.columns[name]
            try:
                texts[:, position] = _texts(_values(data, name, column, rows))
            except _UNREADABLE as error:
                raise _unreadable(name, column, error) from error
        return numbers, texts

    def frame(self, data: Data) -> "pandas.DataFrame":
        """Rows as the pandas frame that the scikit-learn pipeline takes: 64-bit numbers first, then texts."""
        return self.join(*self.arrays(data))

    def join(self, numbers: NDArray[np.float32], texts: NDArray[np.object_]) -> "pandas.DataFrame":
        """The two matrices of `arrays` as one pandas frame."""
        import pandas as pd

        left = pd.DataFrame(numbers.astype(np.float64), columns=self.numbers)
        return pd.concat([left, pd.DataFrame(texts, columns=self.texts, dtype=object)], axis=1) if self.texts else left

    def _number_columns(self, name: str, data: Data, rows: int) -> list[NDArray[np.float64]]:
        column = self.columns[name]
        try:
            values = _values(data, name, column, rows)
            if column.type is ColumnType.TIMESTAMP:
                return _calendar(_instants(values), is_time=name == self.time)
            return [_floats(values)]
        except _UNREADABLE as error:
            raise _unreadable(name, column, error) from error


def model_frame(contract: Contract, data: Data) -> "pandas.DataFrame":
    """Rows as an estimator sees them, in training and in prediction.

    Args:
        contract: What the columns are.
        data: Rows with the contract's columns; others are ignored.

    Returns:
        Number columns (float64), then text columns (object).

    Raises:
        DataError: A column is missing, or a value cannot be read as its type.

    Example:
        >>> columns = {"day": {"type": "timestamp"}, "tail": {"type": "string"}}
        >>> contract = Contract.parse({"name": "flights", "columns": columns})
        >>> model_frame(contract, {"day": ["2013-01-01T06:30:00"], "tail": [None]}).to_dict("records")
        [{'day[hour]': 6.5, 'day[weekday]': 1.0, 'day[month]': 1.0, 'day[day of year]': 1.0,
          'day[days since 1970]': 15706.0, 'tail': '<missing>'}]
    """
    return Features.of(contract).frame(data)


def may_be_missing(column: Column) -> bool:
    """Whether the contract lets values of a column be missing, in a table or in a request."""
    return column.nullable or not column.required


def _names(name: str, column: Column, *, is_time: bool) -> list[str]:
    if column.type is not ColumnType.TIMESTAMP:
        return [name]
    parts = _CALENDAR if is_time else (*_CALENDAR, _EPOCH)
    return [f"{name}[{part}]" for part in parts]


def _row_count(data: Any) -> int:
    if hasattr(data, "num_rows"):
        return int(data.num_rows)
    if hasattr(data, "shape"):
        return int(data.shape[0])
    return len(next(iter(data.values()))) if data else 0


def _values(data: Data, name: str, column: Column, rows: int) -> Any:
    """One column as a numpy array or a list, None or NaN where missing."""
    present = data.column_names if hasattr(data, "column_names") else data
    if name not in present:
        if column.required:
            raise DataError(f"Column {name!r} is missing", expected=f"a {column.type} column")
        return [None] * rows
    values = data[name]
    if isinstance(values, list):
        return _of_length(values, name, rows)
    if hasattr(values, "combine_chunks"):
        return _from_arrow(values, column.type)
    if hasattr(values, "to_numpy"):
        return _from_pandas(values, column.type)
    return _of_length(values, name, rows)


def _of_length(values: Any, name: str, rows: int) -> Any:
    if len(values) != rows:
        raise DataError(f"Column {name!r} has {len(values)} values", expected=f"{rows}, as the first column has")
    return values


def _from_arrow(values: Any, kind: ColumnType) -> Any:
    import pyarrow as pa

    target = {ColumnType.STRING: pa.string(), ColumnType.TIMESTAMP: pa.timestamp("us")}.get(kind, pa.float64())
    if kind is ColumnType.TIMESTAMP and pa.types.is_string(values.type):
        return values.to_pylist()
    if kind is ColumnType.TIMESTAMP and pa.types.is_timestamp(values.type) and values.type.tz is not None:
        target = pa.timestamp("us", tz="UTC")
    if kind is ColumnType.BOOLEAN and not pa.types.is_boolean(values.type):
        target = pa.float64()
    # Unsafe only in that large integers may round, which 32 bits do anyway.
    return values.cast(target, safe=False).to_numpy(zero_copy_only=False)


def _from_pandas(values: Any, kind: ColumnType) -> Any:
    if kind is ColumnType.TIMESTAMP and getattr(values.dtype, "tz", None) is not None:
        values = values.dt.tz_convert("UTC").dt.tz_localize(None)
    if kind in (ColumnType.STRING, ColumnType.TIMESTAMP) and values.dtype.kind != "M":
        return values.to_numpy(dtype=object, na_value=None)
    if kind is ColumnType.TIMESTAMP:
        return values.to_numpy()
    return values.to_numpy(dtype=np.float64, na_value=np.nan)


def _floats(values: Any) -> NDArray[np.float64]:
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.astype(np.float64)
    # float() would read "1.5" and dates; only numbers, booleans and None are numbers.
    wrong = next((value for value in values if isinstance(value, (str, bytes, datetime))), None)
    if wrong is not None:
        raise ValueError(f"got {wrong!r}")
    found: NDArray[np.float64] = np.array(values, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError("got a list")
    return found


def _unreadable(name: str, column: Column, error: Exception) -> DataError:
    return DataError(f"Column {name!r} has a value that is no {column.type}: {error}")


def _texts(values: Any) -> list[str]:
    return [MISSING if _is_missing(value) else str(value) for value in values]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.datetime64)) and bool(np.isnan(value)))


def _instants(values: Any) -> NDArray[np.datetime64]:
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return values.astype("datetime64[us]")
    return np.array([_instant(value) for value in values], dtype="datetime64[us]")


def _instant(value: Any) -> datetime | np.datetime64 | None:
    if _is_missing(value):
        return None
    if isinstance(value, np.datetime64):
        return value
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _calendar(instants: NDArray[np.datetime64], *, is_time: bool) -> list[NDArray[np.float64]]:
    days = instants.astype("datetime64[D]")
    months = instants.astype("datetime64[M]")
    missing = np.isnat(instants)
    day_number = days.astype(np.int64)
    hour = (instants - days).astype("timedelta64[us]").astype(np.int64) / 3.6e9
    found = [
        hour,
        (day_number + 3) % 7,  # 1970-01-01 was a Thursday
        months.astype(np.int64) % 12 + 1,
        (days - instants.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) + 1,
    ]
    if not is_time:
        # A trend over the time of the rows themselves always lies outside what was learnt; an age does not.
        found.append(day_number)
    return [np.where(missing, np.nan, column.astype(np.float64)) for column in found]

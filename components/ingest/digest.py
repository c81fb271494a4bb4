"""The content digest: a table's identity by what it holds, whatever file it came from.

Each cell becomes two 64-bit numbers that depend on its value, its canonical type and its column's name; a row is the
mixed sum of its cells; a table is the sum of its rows modulo 2^64, in both lanes. Sums commute, so the digest
does not depend on the order of rows or columns, on the row groups, on the file format or on the width of a number type,
and the digests of two parts add up to the digest of their union. A duplicate row, an exchanged pair of cells, an empty
text in the place of a missing one, a renamed column: each gives another digest.

Values are hashed by xxHash3 (texts) and by the finaliser of SplitMix64 (numbers; Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators"), both defined bit by bit, so that no version of a library moves a digest.
It tells tables apart; it is no proof against somebody who builds two tables with one digest on purpose.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from headway.components.data_validate.contract import ColumnType
from headway.components.errors import SourceError
from headway.components.ingest.walk import BATCH_ROWS, walk

Lanes = NDArray[np.uint64]
"""Hashes of shape (rows, 2)."""

_NULL: Lanes = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], dtype=np.uint64)
_ARROW_TYPES: dict[ColumnType, Any] = {
    ColumnType.INTEGER: pa.int64(),
    ColumnType.NUMBER: pa.float64(),
    ColumnType.BOOLEAN: pa.bool_(),
    ColumnType.STRING: pa.string(),
    ColumnType.TIMESTAMP: pa.timestamp("us"),
}


@dataclass(frozen=True, slots=True)
class Digest:
    """The content of a table as frozen sums; `a + b` is the digest of the rows of both."""

    columns: tuple[tuple[str, str], ...]
    """Name and canonical type of each column, by name."""
    rows: int = 0
    lanes: tuple[int, int] = (0, 0)

    def __add__(self, other: Self) -> Self:
        if self.columns != other.columns:
            raise ValueError("digests of tables with different columns do not add up")
        lanes = tuple((mine + theirs) % 2**64 for mine, theirs in zip(self.lanes, other.lanes, strict=True))
        return type(self)(self.columns, self.rows + other.rows, (lanes[0], lanes[1]))

    def add(self, hashes: Lanes) -> Self:
        """The digest with more rows.

        Args:
            hashes: Row hashes, shape (rows, 2), as `RowHasher.hash` gives them.
        """
        sums = hashes.sum(axis=0, dtype=np.uint64)
        return self + type(self)(self.columns, len(hashes), (int(sums[0]), int(sums[1])))

    @property
    def hex(self) -> str:
        """SHA-256 over the columns, the number of rows and the sums, 64 hexadecimal digits."""
        text = json.dumps([self.columns, self.rows, self.lanes], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


class RowHasher:
    """Hashes rows of one schema.

    Args:
        schema: The table's columns.
        columns: The columns that count; all by default.

    Raises:
        SourceError: A column is nested or binary.
    """

    def __init__(self, schema: Any, columns: Sequence[str] | None = None) -> None:
        names = sorted(schema.names if columns is None else columns)
        self.types = {name: canonical_type(schema.field(name).type, name) for name in names}
        self._salts = {name: _salt(f"{name}\0{kind}") for name, kind in self.types.items()}

    @property
    def empty(self) -> Digest:
        """The digest of no rows."""
        return Digest(tuple((name, str(kind)) for name, kind in self.types.items()))

    def hash(self, batch: Any) -> Lanes:
        """Hash each row of a record batch or table; shape (rows, 2)."""
        total = np.zeros((2, batch.num_rows), dtype=np.uint64)
        for name, kind in self.types.items():
            column = batch.column(name)
            if isinstance(column, pa.ChunkedArray):
                column = column.combine_chunks()
            cells = _cells(column, kind)
            for lane in (0, 1):
                total[lane] += _mix(cells[lane] ^ self._salts[name][lane])
        return np.ascontiguousarray(np.stack([_mix(total[0]), _mix(total[1])], axis=1))


def table_digest(table: Any) -> Digest:
    """The digest of an Arrow table in memory.

    Example:
        >>> import pyarrow as pa
        >>> rows = pa.table({"city": ["Ulm", None], "size": [126_000, 7]})
        >>> table_digest(rows).hex[:16]
        '049d8630fb213374'
        >>> table_digest(rows.slice(1)) + table_digest(rows.slice(0, 1)) == table_digest(rows)
        True
    """
    hasher = RowHasher(table.schema)
    digest = hasher.empty
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        digest = digest.add(hasher.hash(batch))
    return digest


def file_digest(path: str | Path) -> Digest:
    """The digest of a Parquet file, one batch in memory at a time."""
    hasher = RowHasher(pq.read_schema(path))
    digest = hasher.empty
    for batch in walk(path):
        digest = digest.add(hasher.hash(batch))
    return digest


def canonical_type(arrow_type: Any, name: str) -> ColumnType:
    """What a column is, whatever width or encoding it has.

    Raises:
        SourceError: It is nested or binary.
    """
    kinds = pa.types
    if kinds.is_dictionary(arrow_type):
        return canonical_type(arrow_type.value_type, name)
    tests: list[tuple[Any, ColumnType]] = [
        (kinds.is_boolean, ColumnType.BOOLEAN),
        (kinds.is_integer, ColumnType.INTEGER),
        (kinds.is_floating, ColumnType.NUMBER),
        (kinds.is_decimal, ColumnType.NUMBER),
        (kinds.is_timestamp, ColumnType.TIMESTAMP),
        (kinds.is_date, ColumnType.TIMESTAMP),
        (kinds.is_string, ColumnType.STRING),
        (kinds.is_large_string, ColumnType.STRING),
        (kinds.is_string_view, ColumnType.STRING),
        (kinds.is_time, ColumnType.STRING),
        (kinds.is_null, ColumnType.STRING),
    ]
    for test, kind in tests:
        if test(arrow_type):
            return kind
    raise SourceError(
        f"Column {name!r} is of type {arrow_type}",
        expected="numbers, texts, booleans or times, one value a cell",
        fix="unfold or leave out the column in a `query`",
    )


def _salt(text: str) -> tuple[np.uint64, np.uint64]:
    value = xxhash.xxh3_128_intdigest(text.encode())
    return np.uint64(value >> 64), np.uint64(value & (2**64 - 1))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, a bijection of 64-bit numbers."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _cells(column: Any, kind: ColumnType) -> Lanes:
    """Each value as two 64-bit numbers; shape (2, rows)."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    missing = np.asarray(column.is_null(nan_is_null=False).to_numpy(zero_copy_only=False), dtype=bool)
    if kind is ColumnType.STRING:
        cells = _text_cells(column)
    else:
        bits = _bits(column, kind)
        cells = np.stack([bits, _mix(bits + np.uint64(0x9E3779B97F4A7C15))])
    if missing.any():
        cells[:, missing] = _NULL[:, None]
    return cells


def _bits(column: Any, kind: ColumnType) -> NDArray[np.uint64]:
    if pa.types.is_uint64(column.type):
        return np.array(column.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.uint64)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    column = column.cast(_ARROW_TYPES[kind], safe=False)
    if kind is ColumnType.TIMESTAMP:
        column = column.cast(pa.int64())
    values = column.fill_null(False if kind is ColumnType.BOOLEAN else 0).to_numpy(zero_copy_only=False)
    if kind is ColumnType.BOOLEAN:
        return np.array(values, dtype=np.uint64)
    if kind is ColumnType.NUMBER:
        values = values + 0.0  # one zero: -0.0 becomes 0.0
        values[np.isnan(values)] = np.nan  # one NaN, whatever its payload was
    return np.array(values).view(np.uint64)


def _text_cells(column: Any) -> Lanes:
    encoded = pc.dictionary_encode(column.cast(pa.string()))
    distinct = encoded.dictionary.cast(pa.binary()).to_pylist()
    if not distinct:
        return np.zeros((2, len(column)), dtype=np.uint64)
    digests = b"".join([xxhash.xxh3_128_digest(text) for text in distinct])
    hashes = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(hashes[codes].T)

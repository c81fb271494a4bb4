"""Walking through Parquet files in step: batches of one size, whatever row groups the files have."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

BATCH_ROWS = 32_768
"""Rows worked on at a time: small enough that the arrays of a column stay in the processor's cache."""

_READ_BYTES = 1_048_576
"""Bytes read of a column at a time. Arrow's default reads whole row groups ahead, and holds all of a large file."""


def walk(path: Path | str, columns: Sequence[str] | None = None, *, rows: int = BATCH_ROWS) -> Iterator[Any]:
    """Tables of exactly `rows` rows, the last of fewer; two files of one length can so be read side by side.

    Args:
        path: A Parquet file.
        columns: The columns to read; all by default.
        rows: The rows of each table.
    """
    names = None if columns is None else list(columns)
    with pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
        held: list[Any] = []
        size = 0
        for batch in file.iter_batches(batch_size=rows, columns=names, use_threads=False):
            held.append(batch)
            size += batch.num_rows
            while size >= rows:
                joined = pa.Table.from_batches(held)
                yield joined.slice(0, rows).combine_chunks()
                held, size = joined.slice(rows).to_batches(), size - rows
        if size:
            yield pa.Table.from_batches(held).combine_chunks()


def side_by_side(paths: Sequence[Path], target: Path, *, row_group: int) -> None:
    """Write one file with the columns of several files of one length.

    Args:
        paths: Parquet files with the same rows in the same order.
        target: The file to write.
        row_group: The rows of a row group.
    """
    fields = [field for path in paths for field in pq.read_schema(path)]
    with pq.ParquetWriter(target, pa.schema(fields), compression="snappy") as writer:
        for tables in zip(*(walk(path, rows=row_group) for path in paths), strict=True):
            arrays = [column for table in tables for column in table.columns]
            writer.write_table(pa.table(arrays, schema=writer.schema))

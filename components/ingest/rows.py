"""The row index: a narrow file, each row's hashes beside its value of the split's column, for splits and checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from headway.components.data_validate.contract import Contract
from headway.components.ingest.digest import Digest, RowHasher
from headway.components.ingest.sources import Staged
from headway.components.ingest.walk import walk
from headway.components.sql import quote_text


@dataclass(frozen=True, slots=True)
class RowIndex:
    """One narrow row for each row of a table, in its order.

    Args:
        path: A Parquet file with `content_*`, `identity_*` and `features_*` (two 64-bit hashes each: of the whole row,
            of its key, of what a model sees) and `value` (the split's column, null without one).
        rows: The number of rows.
        digest: The table's content.
        column: The name of the split's column, or None.
        keyed: Whether the identity is the contract's key rather than the whole row.
    """

    path: Path
    rows: int
    digest: Digest
    column: str | None
    keyed: bool

    @property
    def sql(self) -> str:
        """What stands behind FROM; with `file_row_number`, a row's place in the table from 0."""
        return f"read_parquet({quote_text(str(self.path))}, file_row_number = true)"


def build_index(table: Staged, contract: Contract | None, column: str | None, *, workspace: Path) -> RowIndex:
    """Hash each row of a table, one batch in memory at a time.

    Args:
        table: The table.
        contract: Names the key and the features.
        column: The column that the split reads.
        workspace: An existing folder.
    """
    key = contract.key.columns if contract and contract.key else []
    keyed = bool(key) and all(name in table.columns for name in key)
    features = [name for name in (contract.features if contract else table.columns) if name in table.columns]
    path = workspace / "index.parquet"
    schema = pq.read_schema(table.path)
    content = RowHasher(schema)
    identity = RowHasher(schema, key) if keyed else content
    seen = RowHasher(schema, features) if features and set(features) != set(schema.names) else content
    digest = content.empty
    with pq.ParquetWriter(path, _schema(schema, column), compression="snappy") as writer:
        for batch in walk(table.path):
            hashes = {hasher: hasher.hash(batch) for hasher in {content, identity, seen}}
            digest = digest.add(hashes[content])
            lanes = [pa.array(hashes[hasher][:, lane]) for hasher in (content, identity, seen) for lane in (0, 1)]
            value = batch.column(column) if column else pa.nulls(batch.num_rows, pa.bool_())
            writer.write_table(pa.table([*lanes, value], schema=writer.schema))
    return RowIndex(path, digest.rows, digest, column, keyed)


def _schema(table: pa.Schema, column: str | None) -> pa.Schema:
    names: Sequence[str] = [f"{name}_{lane}" for name in ("content", "identity", "features") for lane in (0, 1)]
    value = table.field(column).type if column else pa.bool_()
    return pa.schema([*((name, pa.uint64()) for name in names), ("value", value)])

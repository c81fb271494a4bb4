"""Ingest: read a source, split it, look for leakage, write three Parquet files with their content digests."""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headway.components.data_validate.contract import ColumnType, Contract
from headway.components.errors import SourceError
from headway.components.ingest import engine
from headway.components.ingest.digest import Digest
from headway.components.ingest.leakage import Finding, overlap_findings, raise_for, suspicious_features
from headway.components.ingest.rows import RowIndex, build_index
from headway.components.ingest.sources import Source, Staged, stage
from headway.components.ingest.split import PARTS, Assignment, Split, assign, check_column
from headway.components.ingest.walk import walk
from headway.components.run_page import log_metrics, write_text
from headway.components.settings import PROJECT_ENV


@dataclass(frozen=True, slots=True)
class PartInfo:
    """One part as it was written.

    Args:
        rows: The number of rows.
        digest: Its content digest, 64 hexadecimal digits; see digest.py.
        path: The Parquet file.
    """

    rows: int
    digest: str
    path: Path


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What ingest read and wrote.

    Args:
        source: What the source is, in one line without secrets.
        rows: Rows of the whole table.
        columns: The type of each column, in order.
        digest: The content digest of the whole table.
        parts: `train`, `validation` and `holdout`.
        findings: What the leakage checks noticed and let pass.
        seconds: Wall time.
    """

    source: str
    rows: int
    columns: Mapping[str, ColumnType]
    digest: str
    parts: Mapping[str, PartInfo]
    findings: tuple[Finding, ...]
    seconds: float

    def show(self, *, metrics: Any, summary: Any, **datasets: Any) -> None:
        """Fill the step's artifacts: metadata of the parts, metrics and the Markdown summary.

        Args:
            metrics: A `dsl.Metrics`.
            summary: A `dsl.Markdown`.
            **datasets: A `dsl.Dataset` for each part, by its name.
        """
        for name, dataset in datasets.items():
            part = self.parts[name]
            dataset.metadata.update({"rows": part.rows, "columns": len(self.columns), "digest": part.digest})
        numbers = {"rows": self.rows, "columns": len(self.columns), "leakage_warnings": len(self.findings)}
        numbers |= {f"{name}_rows": part.rows for name, part in self.parts.items()}
        log_metrics(metrics, numbers | {"seconds": self.seconds})
        write_text(summary, markdown(self))


def ingest(
    source: Source,
    split: Split,
    contract: Contract | None,
    *,
    train: Path,
    validation: Path,
    holdout: Path,
    base: Path = Path(),
    memory: str = engine.MEMORY,
) -> IngestResult:
    """Read a table, divide it and write its parts; tables may be larger than memory.

    Args:
        source: Where the table comes from.
        split: How to divide it.
        contract: Gives the types, the key, the target and what is known when; None takes the table as it comes.
        train: The Parquet file to write the train part to; its folder is made.
        validation: The same for validation.
        holdout: The same for the holdout; without rows it still has the columns.
        base: The folder that relative paths of the source start at.
        memory: What the query engine may hold in memory, such as `512MiB`.

    Raises:
        SourceError: The source cannot be read, or has no rows.
        SplitError: It cannot be divided as asked.
        LeakageError: The target leaks, so far as the split's `leakage` says to stop; no part is left behind.
    """
    started = time.monotonic()
    paths = dict(zip(PARTS, (train, validation, holdout), strict=True))
    with _workspace() as workspace, _all_or_nothing(paths.values()):
        table = stage(source, contract, base=base, workspace=workspace, memory=memory)
        if not table.rows:
            raise SourceError(f"{source.label}: has columns but no rows", expected="at least one row")
        index = build_index(table, contract, check_column(split, contract, table), workspace=workspace)
        assignment, findings = _divide(index, split, contract, workspace=workspace, memory=memory, label=source.label)
        parts = _write_parts(table, index, assignment, paths)
        if contract is not None:
            findings += suspicious_features(train, contract, settings=split.leakage)
        raise_for(findings)
    return IngestResult(
        source=source.label,
        rows=table.rows,
        columns=table.columns,
        digest=index.digest.hex,
        parts=parts,
        findings=tuple(findings),
        seconds=time.monotonic() - started,
    )


def _divide(
    index: RowIndex, split: Split, contract: Contract | None, *, workspace: Path, memory: str, label: str
) -> tuple[Assignment, list[Finding]]:
    """Assign each row to a part, and look for rows on both sides."""
    connection = engine.connect(workspace, memory=memory)
    try:
        with engine.memory_errors(label):
            assignment = assign(connection, index, split, workspace=workspace)
            return assignment, overlap_findings(connection, index, assignment.path, contract, split.leakage)
    finally:
        connection.close()


def run(source: str, split: str, contract: str, *, train: str, validation: str, holdout: str) -> IngestResult:
    """Ingest as a step: documents as YAML text; relative paths start at HEADWAY_PROJECT, else at the current folder.

    Args:
        source: A `Source`.
        split: A `Split`; empty for the defaults.
        contract: A `Contract`; empty for none.
        train: The file to write the train part to.
        validation: The same for validation.
        holdout: The same for the holdout.

    Raises:
        ConfigError: A document is wrong.
        SourceError: The source cannot be read.
        SplitError: It cannot be divided as asked.
        LeakageError: The target leaks.
    """
    return ingest(
        Source.parse(source, where="source"),
        Split.parse(split, where="split"),
        Contract.parse(contract, where="contract") if contract.strip() else None,
        train=Path(train),
        validation=Path(validation),
        holdout=Path(holdout),
        base=Path(os.environ.get(PROJECT_ENV) or "."),
    )


def markdown(result: IngestResult) -> str:
    """What ingest did, as Markdown for the run page."""
    columns = len(result.columns)
    lines = [
        "# Ingest",
        "",
        f"Source: `{_cell(result.source)}`  ",
        f"{result.rows:,} rows, {columns:,} column{'s' if columns != 1 else ''}, {result.seconds:.1f} s  ",
        f"Content digest: `{result.digest}`",
        "",
        "| Part | Rows | Share | Digest |",
        "|:--|--:|--:|:--|",
    ]
    for name, part in result.parts.items():
        lines.append(f"| {name} | {part.rows:,} | {part.rows / max(result.rows, 1):.1%} | `{part.digest[:16]}` |")
    lines += ["", "## Leakage", ""]
    if not result.findings:
        return "\n".join([*lines, "No finding.", ""])
    lines += ["| Name | Check | Value | Threshold | Finding |", "|:--|:--|--:|--:|:--|"]
    for finding in result.findings:
        cells = [finding.name, finding.kind, _number(finding.value), _number(finding.threshold), finding.message]
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("`", "'")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


@contextmanager
def _workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="headway-ingest-", ignore_cleanup_errors=True) as folder:
        yield Path(folder).resolve()


@contextmanager
def _all_or_nothing(paths: Iterable[Path]) -> Iterator[None]:
    """Remove what was written when anything goes wrong: half a table must not be mistaken for one."""
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _write_parts(
    table: Staged, index: RowIndex, assignment: Assignment, paths: Mapping[str, Path]
) -> dict[str, PartInfo]:
    """Walk the table, its hashes and its assignment side by side; each part keeps the table's order."""
    schema = pq.read_schema(table.path)
    parts = [_Part(path, schema, index.digest) for path in paths.values()]
    try:
        columns = ["content_0", "content_1"]
        walks = zip(walk(table.path, None), walk(index.path, columns), walk(assignment.path, ["part"]), strict=True)
        for rows, hashes, numbers in walks:
            lanes = np.stack([hashes.column(name).to_numpy() for name in columns], axis=1)
            numbered = numbers.column("part").to_numpy()
            for number, part in enumerate(parts):
                mask = numbered == number
                if mask.any():
                    part.add(rows.filter(pa.array(mask)), lanes[mask])
    finally:
        for part in parts:
            part.close()
    return {name: part.info for name, part in zip(paths, parts, strict=True)}


class _Part:
    """Writes one part in row groups of even size, and keeps its digest."""

    def __init__(self, path: Path, schema: pa.Schema, digest: Digest) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._digest = Digest(digest.columns)
        self._held: list[Any] = []
        self._size = 0
        self._group = engine.row_group(len(schema.names))
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, rows: Any, lanes: Any) -> None:
        self._digest = self._digest.add(lanes)
        self._held.append(rows)
        self._size += rows.num_rows
        if self._size >= self._group:
            self._flush(everything=False)

    def _flush(self, *, everything: bool) -> None:
        table = pa.concat_tables(self._held)
        whole = self._size if everything else self._size // self._group * self._group
        self._writer.write_table(table.slice(0, whole), row_group_size=self._group)
        rest = table.slice(whole).combine_chunks()
        self._held, self._size = ([rest] if rest.num_rows else []), rest.num_rows

    def close(self) -> None:
        if self._held:
            self._flush(everything=True)
        self._writer.close()

    @property
    def info(self) -> PartInfo:
        return PartInfo(self._digest.rows, self._digest.hex, self._path)

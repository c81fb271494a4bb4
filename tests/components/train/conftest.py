"""A small table with everything that is awkward: gaps, non-ASCII names, many categories, three kinds of target."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.data_validate.contract import Contract

COLUMNS = {
    "heure de départ": {"type": "number", "missing": {"max_share": 1.0}},
    "distance km": {"type": "number"},
    "seats": {"type": "integer", "missing": {"max_share": 1.0}},
    "is holiday": {"type": "boolean", "missing": {"max_share": 1.0}},
    "carrier": {"type": "string", "missing": {"max_share": 1.0}},
    "n° de queue": {"type": "string"},
    "when": {"type": "timestamp"},
    "signed up": {"type": "timestamp", "missing": {"max_share": 1.0}},
}
TARGETS = {
    "binary": {"late": {"type": "boolean"}},
    "multiclass": {"class": {"type": "string"}},
    "regression": {"delay": {"type": "number"}},
}


def make_contract(task: Any, **more: Any) -> Any:
    columns = {**COLUMNS, **TARGETS[task], **more}
    return Contract.parse({"name": "trips", "target": next(iter(TARGETS[task])), "time": "when", "columns": columns})


def make_table(rows: Any = 400, seed: Any = 0) -> Any:
    random = np.random.default_rng(seed)
    distance = random.normal(900, 300, rows)
    hour = random.uniform(5, 23, rows)
    carrier = random.choice(["AA", "B6", "日航", "UA"], rows)
    signal = distance / 300 + hour / 6 + (carrier == "B6") * 2 + random.normal(0, 0.5, rows)
    gap = random.random((rows, 5)) < 0.1

    def holes(values: Any, column: Any) -> Any:
        return [None if gap[row, column] else value for row, value in enumerate(values)]

    start = np.datetime64("2013-01-01T00:00:00", "us")
    return pa.table(
        {
            "heure de départ": pa.array(holes(hour.tolist(), 0), pa.float64()),
            "distance km": distance,
            "seats": pa.array(holes(random.integers(50, 300, rows).tolist(), 1), pa.int64()),
            "is holiday": pa.array(holes((random.random(rows) < 0.1).tolist(), 2), pa.bool_()),
            "carrier": pa.array(holes(carrier.tolist(), 3), pa.string()),
            "n° de queue": [f"N{number}" for number in random.integers(0, 80, rows)],
            "when": start + np.arange(rows).astype("timedelta64[h]"),
            "signed up": pa.array(holes((start - np.arange(rows).astype("timedelta64[D]")).tolist(), 4)),
            "late": signal > np.quantile(signal, 0.7),
            "class": np.array(["klein", "größer", "groß"])[np.digitize(signal, np.quantile(signal, [0.4, 0.8]))],
            "delay": signal * 10,
            "weight": random.uniform(0.5, 2.0, rows),
        }
    )


@pytest.fixture(scope="session")
def table() -> Any:
    return make_table()


@pytest.fixture(scope="session")
def data(table: Any, tmp_path_factory: Any) -> Any:
    path = tmp_path_factory.mktemp("data") / "train.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="session")
def contracts() -> Any:
    return {task: make_contract(task) for task in TARGETS}


@pytest.fixture
def contract_with() -> Any:
    return make_contract

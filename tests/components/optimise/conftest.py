"""Bundles of a small table with everything that is awkward: gaps, unseen and non-ASCII categories, two timestamps."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.bundle import Lineage
from headway.components.data_validate.contract import Contract
from headway.components.train.estimators import TrainSpec
from headway.components.train.files import write_bundle
from headway.components.train.fit import fit

COLUMNS: dict[str, Any] = {
    "heure de départ": {"type": "number", "missing": {"max_share": 1.0}},
    "distance km": {"type": "number"},
    "seats": {"type": "integer", "missing": {"max_share": 1.0}},
    "is holiday": {"type": "boolean", "missing": {"max_share": 1.0}},
    "carrier": {"type": "string", "missing": {"max_share": 1.0}},
    "n° de queue": {"type": "string"},
    "when": {"type": "timestamp"},
    "signed up": {"type": "timestamp", "missing": {"max_share": 1.0}},
}
TARGETS: dict[str, Any] = {
    "binary": {"late": {"type": "boolean"}},
    "multiclass": {"class": {"type": "string"}},
    "regression": {"delay": {"type": "number"}},
}
FEW: dict[str, dict[str, Any]] = {
    "hist_gradient_boosting": {"max_iter": 20},
    "gradient_boosting": {"n_estimators": 10},
    "random_forest": {"n_estimators": 10},
    "extra_trees": {"n_estimators": 10},
    "mlp": {"hidden_layer_sizes": [16], "max_iter": 20},
}
"""Parameters that make a small fit of an estimator."""


def make_contract(task: str) -> Contract:
    columns = {**COLUMNS, **TARGETS[task]}
    return Contract.parse({"name": "trips", "target": next(iter(TARGETS[task])), "time": "when", "columns": columns})


def make_table(rows: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    distance, hour = random.normal(900, 300, rows), random.uniform(5, 23, rows)
    carrier = random.choice(["AA", "B6", "日航", "UA"], rows)
    signal = distance / 300 + hour / 6 + (carrier == "B6") * 2 + random.normal(0, 0.5, rows)
    gap = random.random((rows, 5)) < 0.1

    def holes(values: Any, column: int) -> list[Any]:
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
            "when": start + random.integers(0, 8_000, rows).astype("timedelta64[h]"),
            "signed up": pa.array(holes((start - random.integers(0, 900, rows).astype("timedelta64[D]")).tolist(), 4)),
            "late": signal > 7.5,
            "class": np.array(["klein", "größer", "groß"])[np.digitize(signal, [6.0, 7.5])],
            "delay": signal * 10,
        }
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: Any) -> Path:
    return Path(tmp_path_factory.mktemp("optimise"))


@pytest.fixture(scope="session")
def validation(folder: Path) -> Path:
    """Rows that no bundle was fitted on."""
    path = folder / "validation.parquet"
    pq.write_table(make_table(600, seed=1), path)
    return path


@pytest.fixture(scope="session")
def bundle_of(folder: Path) -> Any:
    """A bundle: `bundle_of(task, estimator, parameters=None, onnx="auto")`; shared, so never change it."""
    made: dict[str, Path] = {}
    train = folder / "train.parquet"
    pq.write_table(make_table(800, seed=0), train)

    def make(task: str, estimator: str, parameters: dict[str, Any] | None = None, onnx: str = "auto") -> Path:
        key = repr((task, estimator, parameters, onnx))
        if key not in made:
            document = {"estimator": estimator, "parameters": parameters or FEW.get(estimator, {}), "onnx": onnx}
            spec, contract = TrainSpec.parse(document), make_contract(task)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a network that has not converged
                fitted = fit(train, contract, spec, threads=1)
            lineage = Lineage(data_digest="d", contract_digest="c")
            place = folder / f"bundle-{len(made)}"
            write_bundle(fitted, place, name="trips", contract=contract, spec=spec, lineage=lineage)
            made[key] = place
        return made[key]

    return make


@pytest.fixture(scope="session")
def wide(bundle_of: Any) -> Path:
    """A network with one wide inner layer, the only kind that 8 bits are for."""
    return bundle_of("binary", "mlp", {"hidden_layer_sizes": [256, 256], "max_iter": 15})

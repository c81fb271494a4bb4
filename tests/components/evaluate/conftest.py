"""A trained model of each task and its validation part, real and small."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.bundle import Lineage
from headway.components.data_validate.contract import Contract
from headway.components.train.estimators import TrainSpec
from headway.components.train.files import write_bundle
from headway.components.train.fit import fit

TARGETS = {"binary": "late", "multiclass": "class", "regression": "delay"}
_TYPES = {"late": "boolean", "class": "string", "delay": "number"}


def make_contract(task, without=""):
    target = TARGETS[task]
    columns = {
        "distance": {"type": "number"},
        "hour": {"type": "number"},
        "origin": {"type": "string"},
        "aircraft": {"type": "string", "role": "info"},
        target: {"type": _TYPES[target], "role": "target"},
    }
    columns.pop(without, None)
    return Contract.parse({"name": "trips", "columns": columns})


def make_table(rows, seed):
    random = np.random.default_rng(seed)
    distance, hour = random.normal(0, 1, rows), random.uniform(0, 24, rows)
    origin = random.choice(["JFK", "EWR", "LGA"], rows, p=[0.5, 0.3, 0.2])
    signal = distance + (hour - 12) / 6 + (origin == "JFK") + random.normal(0, 1, rows)
    return pa.table(
        {
            "distance": distance,
            "hour": hour,
            "origin": origin,
            "aircraft": [f"N{number}" for number in range(rows)],
            "late": signal > 1,
            "class": np.array(["early", "on time", "late"])[np.digitize(signal, [-0.5, 1.5])],
            "delay": signal * 10 + 50,
        }
    )


def write(table, path):
    pq.write_table(table, path)
    return path


class World:
    """A folder with data, and bundles made on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.train = write(make_table(1500, 1), folder / "train.parquet")
        self.validation = write(make_table(1200, 2), folder / "validation.parquet")

    def bundle(self, task="binary", *, name="trips", label="good", estimator=None, train=None, contract=None):
        """A bundle; the same arguments give the same one."""
        path = self.folder / f"{name}-{task}-{label}"
        if not path.exists():
            contract = contract or make_contract(task)
            linear = "ridge" if task == "regression" else "logistic_regression"
            spec = TrainSpec(estimator=estimator or linear, task=task, onnx="off")
            lineage = Lineage(data_digest="d" * 64, contract_digest=contract.digest())
            fitted = fit(train or self.train, contract, spec, threads=1)
            write_bundle(fitted, path, name=name, contract=contract, spec=spec, lineage=lineage)
        return path

    def contract(self, task, without=""):
        """The contract of a task's model."""
        return make_contract(task, without)

    def weak_bundle(self, task="binary"):
        """A bundle that learnt from shuffled hours, so it is clearly worse."""
        table = make_table(1500, 1)
        order = np.random.default_rng(0).permutation(1500)
        shuffled = table.set_column(1, "hour", table.column("hour").take(order))
        return self.bundle(task, label="weak", train=write(shuffled, self.folder / "shuffled.parquet"))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("evaluate"))

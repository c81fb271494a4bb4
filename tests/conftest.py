"""Fixtures that several packages share: a small real bundle, and an installation in a temporary folder."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.settings import Settings

# A busy machine is not a failure: no example has a deadline of its own.
hypothesis.settings.register_profile("headway", deadline=None)
hypothesis.settings.load_profile("headway")

FLIGHTS: dict[str, Any] = {
    "name": "flights",
    "target": "late",
    "columns": {
        "distance": {"type": "number", "range": {"min": 0, "max": 5000}},
        "carrier": {"type": "string", "values": {"allowed": ["AA", "B6", "UA"]}},
        "late": {"type": "boolean"},
    },
}

BundleMaker = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_in_one_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what libraries drop into the system's temporary folder (MLflow's lock files) with the tests' own files."""
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    folder = str(tmp_path_factory.mktemp("t"))
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    yield
    tempfile.tempdir = before[1]
    if before[0] is None:
        del os.environ["TMPDIR"]
    else:
        os.environ["TMPDIR"] = before[0]


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleMaker:
    """Train and write a bundle: `make_bundle(seed=0, contract={...}, estimator=..., parameters={...}, name=...)`.

    The folder is shared between tests; copy it before changing it.
    """
    made: dict[str, Path] = {}

    def make(
        seed: int = 0,
        *,
        contract: dict[str, Any] | None = None,
        estimator: str = "logistic_regression",
        parameters: dict[str, Any] | None = None,
        name: str = "flights",
        onnx: str = "auto",
    ) -> Path:
        key = repr((seed, contract, estimator, parameters, name, onnx))
        if key not in made:
            folder = tmp_path_factory.mktemp("bundle") / "bundle"
            document = Contract.parse(contract or FLIGHTS)
            spec = {"estimator": estimator, "parameters": parameters or {}, "seed": 7, "threads": 1, "onnx": onnx}
            made[key] = _train(folder, document, spec, seed, name)
        return made[key]

    return make


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, copying one does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    uri = f"sqlite:///{path}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models()
    return path


@pytest.fixture
def installation(tmp_path: Path, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An embedded installation of its own: home, MLflow, ledger, keys and policy."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copyfile(mlflow_database, home / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HEADWAY_HOME", str(home))
    return Settings(home=home)


def _train(folder: Path, contract: Contract, spec: dict[str, Any], seed: int, name: str) -> Path:
    import warnings

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from headway.components.bundle import Lineage
    from headway.components.train.estimators import TrainSpec
    from headway.components.train.files import write_bundle
    from headway.components.train.fit import fit

    random = np.random.default_rng(seed)
    distance = random.uniform(0, 5000, 200)
    carrier = random.choice(["AA", "B6", "UA"], 200)
    late = distance / 2500 + (carrier == "AA") + random.normal(size=200) > 1.5
    columns = {"distance": distance, "carrier": carrier, "late": late, "speed": random.uniform(300, 500, 200)}
    data = folder.parent / "train.parquet"
    pq.write_table(pa.table({column: columns[column] for column in contract.columns}), data)
    lineage = Lineage(data_digest=f"{seed:064x}", contract_digest=contract.digest(), seed=7)
    parsed = TrainSpec.parse(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = fit(data, contract, parsed, threads=1)
    write_bundle(fitted, folder, name=name, contract=contract, spec=parsed, lineage=lineage)
    return folder

"""Small jobs on the awkward table of the training tests, and ranks that start without loading torch anew."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from headway.components.bundle import Lineage
from headway.components.train_distributed.job import Job
from tests.components.train.conftest import make_contract, make_table

JobMaker = Callable[..., Job]
ROWS, GROUP = 2_000, 300


@pytest.fixture(scope="session")
def table() -> Any:
    return make_table(ROWS)


@pytest.fixture(scope="session")
def data(table: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of several row groups each."""
    folder = tmp_path_factory.mktemp("shards")
    pq.write_table(table.slice(0, 1_234), folder / "part-0.parquet", row_group_size=GROUP)
    pq.write_table(table.slice(1_234), folder / "part-1.parquet", row_group_size=GROUP)
    return folder


@pytest.fixture
def make_job(data: Path, tmp_path: Path) -> JobMaker:
    """A small job: `make_job("binary", name="a", data=..., epochs=3, ...)`."""

    def make(task: str = "binary", *, name: str = "job", data: Path = data, **training: Any) -> Job:
        contract = make_contract(task)
        section = {
            "trainer": "distributed",
            "parameters": {"hidden": [32, 32]} if "network" not in training else {},
            "epochs": 3,
            "batch_size": 128,
            "onnx": "off",
            "seed": 5,
            **training,
        }
        return Job.parse(
            {
                "name": "trips",
                "contract": contract.dump(),
                "training": section,
                "data": str(data),
                "output": str(tmp_path / name / "bundle"),
                "folder": str(tmp_path / name / "work"),
                "lineage": Lineage(data_digest="abc", contract_digest=contract.digest()).model_dump(mode="json"),
            }
        )

    return make

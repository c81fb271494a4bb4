"""Studies that need no model, and a small table for those that do."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.settings import Settings
from headway.components.tune.objective import Job
from headway.components.tune.spec import TuningSpec
from headway.components.tune.study import make_study

SPACE = {"x": {"type": "float", "low": 0.0, "high": 1.0}}
CONTRACT = {
    "name": "shops",
    "target": "bought",
    "columns": {
        "price": {"type": "number"},
        "visits": {"type": "integer", "missing": {"max_share": 1.0}},
        "city": {"type": "string"},
        "shop": {"type": "string", "role": "info"},
        "day": {"type": "timestamp", "role": "info"},
        "bought": {"type": "boolean"},
    },
}


def _shops(rows: int = 600, seed: int = 0) -> pa.Table:
    """Two numbers, a text, a group and a time; the target follows the first three."""
    random = np.random.default_rng(seed)
    price = random.normal(size=rows)
    city = random.choice(["Bern", "Basel", "Genève"], rows)
    visits = random.integers(0, 9, rows)
    score = price + (city == "Bern") + visits / 5 + random.normal(scale=0.7, size=rows)
    return pa.table(
        {
            "price": price,
            "visits": pa.array([None if each == 8 else int(each) for each in visits], pa.int64()),
            "city": city,
            "shop": [f"s{each}" for each in random.integers(0, 20, rows)],
            "day": np.datetime64("2024-01-01", "us") + random.permutation(rows).astype("timedelta64[h]"),
            "bought": score > np.median(score),
        }
    )


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The valid training part and the valid validation part."""
    folder = tmp_path_factory.mktemp("shops")
    pq.write_table(_shops(), folder / "train.parquet")
    pq.write_table(_shops(300, seed=1), folder / "validation.parquet")
    return folder / "train.parquet", folder / "validation.parquet"


@pytest.fixture(scope="session")
def shops() -> Callable[..., pa.Table]:
    """Makes the table: `shops(rows, seed)`."""
    return _shops


@pytest.fixture
def contract() -> Contract:
    return Contract.parse(CONTRACT)


@pytest.fixture
def own_objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and its workers import objectives.py."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", here)
    yield
    sys.modules.pop("objectives", None)


@pytest.fixture
def plain_job(tmp_path: Path, own_objectives: None) -> Callable[..., Job]:
    """A job without a model: `plain_job(trials=10, training="kind: fails")`."""

    def make(training: str = "", *, space: Any = None, model: str = "parabola", study: str = "s", **more: Any) -> Job:
        spec = TuningSpec.parse({"space": space or SPACE, "objective": "objectives:Parabola", "pruner": "none", **more})
        return Job(
            study=study,
            storage=f"journal:{tmp_path / study}.log",
            model=model,
            contract="name: none",
            training=training or "{}",
            tuning=spec.dump(),
            task="binary",
            metric=more.get("metric", "roc_auc"),
            train=str(tmp_path / "none.parquet"),
            threads=1,
        )

    return make


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def made(plain_job: Callable[..., Job], settings: Settings) -> Callable[..., Job]:
    """A job whose study exists."""

    def make(training: str = "", **more: Any) -> Job:
        job = plain_job(training, **more)
        make_study(job, settings)
        return job

    return make

"""Searching for a network's settings, as for an estimator's."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headway.components.data_validate.contract import Contract
from headway.components.errors import ConfigError
from headway.components.settings import Settings
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.tune.search import plan, search
from headway.components.tune.spec import TuningSpec

pytest.importorskip("torch")

CONTRACT = Contract.parse(
    {
        "name": "toy",
        "target": "y",
        "columns": {"x": {"type": "number"}, "z": {"type": "number"}, "y": {"type": "boolean"}},
    }
)
TRAINING = "trainer: distributed\nepochs: 2\nbatch_size: 64\nplacement: {processes: 1}\n"
SPACE = {"learning_rate": {"type": "float", "low": 0.00001, "high": 0.03, "log": True}}
TUNING = {"space": SPACE, "objective": "network", "evaluation": "validation", "trials": 3, "metric": "roc_auc"}


def part(path: Path, seed: int) -> Path:
    random = np.random.default_rng(seed)
    x, z = random.normal(size=(2, 600))
    y = random.random(600) < 1 / (1 + np.exp(-2 * x + z))
    pq.write_table(pa.table({"x": x, "z": z, "y": y}), path)
    return path


@pytest.mark.slow
def test_a_search_finds_a_learning_rate_that_learns(tmp_path: Path, installation: Settings) -> None:
    train, validation = part(tmp_path / "train.parquet", 0), part(tmp_path / "validation.parquet", 1)
    job = plan("toy", CONTRACT, TRAINING, TuningSpec.parse(TUNING), train=train, validation=validation)
    outcome = search(job, installation, in_process=True)
    best = outcome.require_best()
    assert best.value is not None
    assert best.value > 0.75
    assert DistributedSpec.parse(outcome.training).learning_rate != 0.001 or best.number == 0
    assert len(outcome.rows) == 3


@pytest.mark.slow
def test_a_trial_whose_loss_looks_poor_is_stopped_at_a_third_of_its_epochs(
    tmp_path: Path, installation: Settings
) -> None:
    train, validation = part(tmp_path / "train.parquet", 0), part(tmp_path / "validation.parquet", 1)
    training = TRAINING.replace("epochs: 2", "epochs: 6").replace("trainer:", "learning_rate: 0.03\ntrainer:")
    rates = {"learning_rate": {"type": "categorical", "values": [0.03, 1e-7]}}
    spec = TuningSpec.parse(
        {**TUNING, "space": rates, "pruner": "median", "startup": 2, "sampler": "random", "trials": 4}
    )
    job = plan("toy", CONTRACT, training, spec, train=train, validation=validation)
    outcome = search(job, installation, in_process=True)
    pruned = [row for row in outcome.rows if row.state == "pruned"]
    assert pruned
    for row in pruned:
        assert row.values == {"learning_rate": 1e-7}
        assert row.value is None, "it has reported a loss, which is no roc_auc"
        assert list(row.reports) == [1]
    losses = [row.reports[1] for row in outcome.rows if row.reports]
    assert min(losses) > 0, "losses keep their sign, though the metric is maximised"
    assert outcome.require_best().values == {"learning_rate": 0.03}


def test_an_objective_of_another_trainer_is_refused() -> None:
    spec = TuningSpec.parse({**TUNING, "objective": "estimator"})
    with pytest.raises(ConfigError, match="takes no DistributedSpec") as told:
        spec.check(DistributedSpec.parse(TRAINING), "binary")
    assert "network" in str(told.value)


def test_a_key_that_no_network_has_is_named() -> None:
    spec = TuningSpec.parse({**TUNING, "space": {"learning_rat": SPACE["learning_rate"]}})
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        spec.check(DistributedSpec.parse(TRAINING), "binary")

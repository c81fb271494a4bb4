"""What one process knows of the job before it trains: hardware, locks, the learning rate, sizes."""

import fcntl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="the trainer needs torch (headway[torch])")

import torch

from headway.components.errors import ConfigError, TrainingError
from headway.components.train_distributed import scan, world
from headway.components.train_distributed.checkpoint import State, weights_digest
from headway.components.train_distributed.job import Epoch, Job
from headway.components.train_distributed.meter import Meter
from headway.components.train_distributed.spec import DistributedSpec
from headway.components.train_distributed.trainer import distribute, learning_rate

CPU = torch.device("cpu")


def spec(**settings: Any) -> DistributedSpec:
    return DistributedSpec.parse({"trainer": "distributed", **settings})


class TestPrecision:
    @pytest.fixture
    def without_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    def test_emulation_is_refused(self, without_bfloat16: None) -> None:
        with pytest.raises(ConfigError, match="has no bfloat16"):
            world.precision(spec(precision="bfloat16"), CPU)

    def test_cpu_keeps_its_answers_unless_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
        assert world.precision(spec(), CPU) is None
        assert world.precision(spec(precision="bfloat16"), CPU) is torch.bfloat16


class TestOnlyRun:
    def test_second_run_is_kept_away(self, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
        job, first = make_job(), SimpleNamespace(first=True)
        monkeypatch.setattr(scan, "_PATIENCE", 0.3)
        job.state.mkdir(parents=True)
        with (job.state / scan.LOCK).open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(TrainingError, match="another run of the same training"), scan.only_run(job, first):  # type: ignore[arg-type]
                pass
        with scan.only_run(job, first), scan.only_run(job, SimpleNamespace(first=False)):  # type: ignore[arg-type]
            pass

    def test_what_is_learnt_names_the_state(self, make_job: Callable[..., Job]) -> None:
        job = make_job()
        same = make_job(placement={"processes": 2}, cache=1, checkpoint={"every": 9}, parallel="fsdp", micro_batch=3)
        assert job.fingerprint == same.fingerprint
        others = [make_job(seed=6), make_job("multiclass"), make_job(epochs=4), make_job(learning_rate=0.5)]
        assert len({other.fingerprint for other in [job, *others]}) == 5


class TestParallel:
    def test_one_process_has_no_wrapper(self) -> None:
        one = SimpleNamespace(size=1, device=CPU, local_rank=0)
        model = torch.nn.Linear(2, 2)
        assert distribute(model, spec(), one, 6) == (model, "single")  # type: ignore[arg-type]


class TestLearningRate:
    def test_constant_after_the_warm_up(self) -> None:
        rates = [learning_rate(spec(schedule="constant", warmup=0.5), step, 10) for step in range(10)]
        assert rates[:5] == pytest.approx([0.0002, 0.0004, 0.0006, 0.0008, 0.001])
        assert set(rates[5:]) == {0.001}

    def test_no_warm_up(self) -> None:
        assert learning_rate(spec(warmup=0.0), 0, 10) == 0.001


class TestMeter:
    def test_warm_up_and_pauses_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from headway.components.train_distributed import meter as module

        clock = [0.0]
        monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
        meter = Meter(SimpleNamespace(size=1, device=CPU))  # type: ignore[arg-type]
        assert meter.speed(1.0, None) is None
        for number in range(25):
            clock[0] += 100.0 if number < 5 else 0.5
            meter.step(10, 0.1, 0.05)
        clock[0] += 1_000
        meter.skip()
        clock[0] += 0.5
        meter.step(10, 0.1, 0.05)
        assert meter.rows_per_second == pytest.approx(20.0)
        assert meter.data_share == pytest.approx(0.2)


class TestState:
    def test_best_of_epochs_that_were_judged(self) -> None:
        assert State().best == float("inf")
        epochs = [
            Epoch(epoch=number, step=number, loss=1.0, validation_loss=loss, learning_rate=0.1, rows_per_second=1.0)
            for number, loss in enumerate((0.5, 0.3, 0.4), start=1)
        ]
        assert State(epochs=epochs, best_epoch=2).best == 0.3

    def test_digest_is_of_names_shapes_and_values(self) -> None:
        weights = {"a": torch.arange(6.0)}
        assert weights_digest(weights) == weights_digest({"a": torch.arange(6.0)})
        assert weights_digest(weights) != weights_digest({"a": torch.arange(6.0).reshape(2, 3)})
        assert weights_digest(weights) != weights_digest({"b": torch.arange(6.0)})


def test_gpu_that_is_not_there(make_job: Callable[..., Job], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match="torch finds none"), world.join(spec(placement={"accelerator": "gpu"})):
        pass

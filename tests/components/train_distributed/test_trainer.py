"""The trainer as ranks run it: the result does not depend on how many there are, nor on what happened on the way."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the trainer needs torch (headway[torch])")

from headway.components.bundle import read_info, verify_manifest
from headway.components.train_distributed.job import STOPPED, Result
from headway.components.train_distributed.network_file import read_weights
from tests.components.train_distributed import ranks

Weights = dict[str, Any]
LONG = {"epochs": 6, "batch_size": 64, "checkpoint": {"every": 7}}
"""Some 170 steps, so that a signal comes in the middle."""


def curve(result: Result) -> list[tuple[float, float | None]]:
    return [(epoch.loss, epoch.validation_loss) for epoch in result.epochs]


def weights(job: Any) -> Weights:
    return read_weights(Path(job.output) / "model.npz")


def assert_alike(one: Weights, two: Weights) -> None:
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], rtol=2e-3, atol=2e-4, err_msg=name)


def assert_same_curve(one: Result, two: Result) -> None:
    np.testing.assert_allclose(np.array(curve(one), float), np.array(curve(two), float), rtol=1e-4)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_learns_every_task(make_job: Callable[..., Any], task: str) -> None:
    job = make_job(task, epochs=8, learning_rate=0.01)
    result = ranks.run(job)
    losses = [epoch.validation_loss for epoch in result.epochs]
    assert result.task == task
    assert min(losses) == result.metrics["validation_loss"] < 0.8 * losses[0]
    assert result.best_epoch == 1 + losses.index(min(losses))
    verify_manifest(Path(job.output))
    assert read_info(Path(job.output)).formats == ["torch"]
    better = {"binary": 0.8, "multiclass": 0.7, "regression": 0.8}[task]
    assert result.metrics["training_r2" if task == "regression" else "training_accuracy"] > better


@pytest.fixture(scope="module")
def uninterrupted() -> dict[int, Result]:
    return {}


@pytest.fixture
def reference(make_job: Callable[..., Any], uninterrupted: dict[int, Result]) -> Callable[[int], Result]:
    """What a long run by so many processes gives when nothing comes between; run once."""

    def run(count: int) -> Result:
        if count not in uninterrupted:
            uninterrupted[count] = ranks.run(make_job(name=f"reference-{count}", **LONG), count)
        return uninterrupted[count]

    return run


class TestNumberOfProcesses:
    """One and two processes learn the same from the same global batch."""

    @pytest.mark.parametrize("network", ["embedding_mlp", "tabular_resnet"])
    def test_same_curve_and_weights(self, make_job: Callable[..., Any], network: str) -> None:
        parameters = {"embedding_mlp": {"hidden": [32]}, "tabular_resnet": {"width": 16, "blocks": 2, "dropout": 0.0}}
        settings = {"network": network, "parameters": parameters[network], "class_weight": "balanced"}
        one, two = make_job(name="one", **settings), make_job(name="two", **settings)
        first, second = ranks.run(one, 1), ranks.run(two, 2)
        assert (first.processes, second.processes) == (1, 2)
        assert (first.parallel, second.parallel) == ("single", "ddp")
        assert_same_curve(first, second)
        assert_alike(weights(one), weights(two))

    def test_accumulation_changes_nothing(self, make_job: Callable[..., Any]) -> None:
        whole, pieces = make_job(name="whole"), make_job(name="pieces", micro_batch=17)
        assert whole.fingerprint == pieces.fingerprint
        first, second = ranks.run(whole, 2), ranks.run(pieces, 2)
        assert_same_curve(first, second)
        assert_alike(weights(whole), weights(pieces))

    def test_divided_network_learns_the_same(self, make_job: Callable[..., Any]) -> None:
        copied, divided = make_job(name="ddp"), make_job(name="fsdp", parallel="fsdp")
        first, second = ranks.run(copied, 2), ranks.run(divided, 2)
        assert second.parallel == "fsdp"
        assert_same_curve(first, second)
        assert_alike(weights(copied), weights(divided))

    def test_same_seed_same_bytes(self, make_job: Callable[..., Any]) -> None:
        one, two, other = make_job(name="one"), make_job(name="two"), make_job(name="other", seed=6)
        first, second, third = ranks.run(one, 1), ranks.run(two, 1), ranks.run(other, 1)
        assert first.digest == second.digest
        assert first.weights != third.weights


class TestResuming:
    """A run that was ended goes on as if it had not been."""

    @pytest.mark.parametrize(("number", "count"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGTERM, 2)])
    def test_killed_anywhere(
        self, make_job: Callable[..., Any], reference: Callable[[int], Result], number: signal.Signals, count: int
    ) -> None:
        wanted = reference(count)
        job = make_job(name="killed", **LONG)
        processes = ranks.start(job, count)
        ranks.wait_for_checkpoints(job, random.randint(1, 9))
        codes = ranks.stop(processes, number)
        assert codes == [STOPPED if number is signal.SIGTERM else -signal.SIGKILL] * count
        assert not (Path(job.folder) / "result.json").exists(), "it ended before it was killed"
        result = ranks.run(job, count)
        assert 0 < result.resumed_at < wanted.steps
        assert result.weights == wanted.weights
        assert_same_curve(result, wanted)

    @pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
    def test_on_another_number_of_processes(
        self, make_job: Callable[..., Any], reference: Callable[[int], Result], before: int, after: int
    ) -> None:
        job = make_job(name="moved", **LONG)
        processes = ranks.start(job, before)
        ranks.wait_for_checkpoints(job, 3)
        ranks.stop(processes, signal.SIGTERM)
        result = ranks.run(job, after)
        assert result.resumed_at > 0
        assert_same_curve(result, reference(before))

    def test_dropout_goes_on_where_it_was(self, make_job: Callable[..., Any]) -> None:
        settings = LONG | {"parameters": {"hidden": [32], "dropout": 0.3}, "epochs": 3}
        wanted = ranks.run(make_job(name="reference", **settings), 1)
        job = make_job(name="killed", **settings)
        processes = ranks.start(job, 1)
        ranks.wait_for_checkpoints(job)
        ranks.stop(processes, signal.SIGKILL)
        assert ranks.run(job, 1).weights == wanted.weights

    def test_finished_run_only_judges_again(self, make_job: Callable[..., Any]) -> None:
        job = make_job()
        first = ranks.run(job, 1)
        again = ranks.run(job, 1)
        assert again.resumed_at == again.steps == first.steps
        assert again.speed is None
        assert again.digest == first.digest

    def test_divided_checkpoint_goes_on_copied(self, make_job: Callable[..., Any]) -> None:
        job = make_job(name="moved", **LONG)
        divided = job.model_copy(update={"training": job.training.model_copy(update={"parallel": "fsdp"})})
        assert divided.fingerprint == job.fingerprint
        processes = ranks.start(divided, 2)
        ranks.wait_for_checkpoints(divided, 2)
        ranks.stop(processes, signal.SIGTERM)
        result = ranks.run(job, 2)
        assert result.parallel == "ddp"
        assert 0 < result.resumed_at < result.steps

    def test_keeps_as_many_as_wanted(self, make_job: Callable[..., Any]) -> None:
        job = make_job(epochs=4, checkpoint={"every": 3, "keep": 2})
        result = ranks.run(job, 1)
        kept = sorted(path.name for path in job.state.glob("step-*"))
        assert len(kept) == 2
        assert kept[-1] == f"step-{result.steps:09d}"

    def test_incomplete_checkpoint_does_not_count(self, make_job: Callable[..., Any]) -> None:
        job = make_job(epochs=2)
        ranks.run(job, 1)
        half = job.state / "step-000009999"
        half.mkdir()
        (half / "__0_0.distcp").write_bytes(b"half")
        assert ranks.run(job, 1).resumed_at < 9999


class TestEarlyStopping:
    def test_keeps_the_best_epoch(self, make_job: Callable[..., Any]) -> None:
        job = make_job(
            epochs=40, learning_rate=0.03, warmup=0.0, early_stopping={"patience": 2, "validation_share": 0.3}
        )
        result = ranks.run(job, 2)
        losses = [epoch.validation_loss for epoch in result.epochs]
        assert len(losses) == result.best_epoch + 2 < 40
        assert losses[result.best_epoch - 1] == min(losses)
        assert result.held_back + result.rows == 2_000

    def test_off_trains_on_all_rows(self, make_job: Callable[..., Any]) -> None:
        result = ranks.run(make_job(early_stopping=False), 1)
        assert (result.rows, result.held_back, len(result.epochs)) == (2_000, 0, 3)
        assert "validation_loss" not in result.metrics

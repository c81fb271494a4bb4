"""The whole training pipeline on this machine, from a file to a registered model."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from headway.components.errors import StepFailedError, UsageError
from headway.components.register.ledger import Ledger
from headway.components.register.registry import Registry
from headway.components.settings import load_settings
from headway.pipelines.arguments import parameters_of
from headway.pipelines.compile import compile_pipeline, load_spec
from headway.pipelines.run import RunResult, run
from tests.pipelines import samples


def states(result: RunResult) -> dict[str, str]:
    return {step.name: step.state for step in result.steps}


@pytest.mark.slow
class TestTheTrainingPipeline:
    def test_registers_a_judged_model_and_the_next_run_takes_all_of_it_from_the_cache(self, toy: Path) -> None:
        first = run("toy")
        assert first.raise_if_failed().decision == "promote"
        assert (first.version, first.exit_code) == ("1", 0)
        assert set(states(first).values()) == {"succeeded"}
        assert first.metrics["roc_auc"] > 0.7
        assert set(first.reports) == {"data-validate", "evaluate"}
        champion = Registry(load_settings()).find_champion("toy")
        assert champion is not None
        assert champion.semver == "1.0.0"

        again = run("toy")
        found = states(again)
        assert [found[name] for name in ("ingest", "data-validate", "train")] == ["cached"] * 3
        assert again.version == "1"
        assert len(Registry(load_settings()).versions("toy")) == 1

        ledger = Ledger(load_settings().resolved_database_url)
        assert ledger.verify().ok
        kinds = [row.kind for row in ledger.rows()]
        assert kinds.count("registered") == 1
        assert kinds.count("run") == 2

        third = run("toy")
        assert {states(third)[name] for name in ("ingest", "data-validate", "train", "evaluate")} == {"cached"}

    def test_says_what_changed(self, toy: Path) -> None:
        run("toy").raise_if_failed()
        changed = run("toy", set=["training.seed=9", "training.parameters.C=0.5"]).raise_if_failed()
        reasons = {step.name: step.reason for step in changed.steps}
        assert states(changed)["data-validate"] == "cached"
        assert reasons["train"] == "changed: training"
        data = pd.read_csv(toy / "data.csv")
        data.loc[0, "x"] += 0.25
        data.to_csv(toy / "data.csv", index=False)
        assert {step.name: step.reason for step in run("toy").steps}["ingest"] == "changed: the data or the champion"

    def test_a_gate_that_says_reject_registers_nothing(self, toy: Path) -> None:
        result = run("toy", set=["evaluation.thresholds=[{metric: roc_auc, min: 0.999}]"])
        assert (result.decision, result.exit_code, result.version) == ("reject", 1, "")
        assert states(result)["register"] == "skipped"
        assert Registry(load_settings()).find_champion("toy") is None

    def test_data_that_breaks_the_contract_stops_the_run_with_the_rule_and_the_count(self, toy: Path) -> None:
        data = pd.read_csv(toy / "data.csv")
        data["y"] = data["y"].astype(object).where(data.index > 4, None)
        data.to_csv(toy / "data.csv", index=False)
        result = run("toy", set=["split.method=random"])
        assert states(result)["data-validate"] == "failed"
        with pytest.raises(StepFailedError, match=r"(?s)Step 'data-validate' failed.*y.*5"):
            result.raise_if_failed()
        assert result.exit_code == 1
        assert [row.body["state"] for row in Ledger(load_settings().resolved_database_url).rows(kind="run")] == [
            "FAILED"
        ]


def test_a_compiled_pipeline_of_ones_own_runs_too(toy: Path) -> None:
    compile_pipeline(samples.plain, output=toy.parent / "own.yaml")
    name = next(iter(parameters_of(load_spec(toy.parent / "own.yaml")[0])))
    result = run("own.yaml", set=[f"{name}=other"]).raise_if_failed()
    assert (result.state, result.decision, result.exit_code) == ("succeeded", "", 0)
    with pytest.raises(UsageError, match="nothing"):
        run("own.yaml", set=["nothing=7"])


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_half_registered_and_the_next_one_goes_on(toy: Path) -> None:
    command = [sys.executable, "-c", "from headway.pipelines.cli import main; main()", "run", "toy"]
    home = toy.parent / ".headway"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(home.glob("runs/*/*/train/log.txt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert Registry(load_settings()).find_champion("toy") is None

    result = run("toy").raise_if_failed()
    assert states(result)["ingest"] == "cached"
    assert result.version == "1"
    assert Ledger(load_settings().resolved_database_url).verify().ok

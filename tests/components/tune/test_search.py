"""A study by worker processes: shared without loss, killed and resumed, in time, with its record and its report."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from headway.components.errors import ConfigError, PlatformError, SourceError, TrainingError
from headway.components.settings import Settings
from headway.components.tune.objective import Job
from headway.components.tune.outcome import Outcome
from headway.components.tune.search import plan, search, study_folder
from headway.components.tune.spec import TuningSpec

DRIVER = """
import json, sys
from headway.components.settings import Settings
from headway.components.tune.objective import Job
from headway.components.tune.search import search
outcome = search(Job.parse(sys.argv[1]), on_progress=lambda p: p.last and print(p.last.number, flush=True))
print(json.dumps(outcome.to_dict(), default=str))
"""


def log_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(holds: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def drive(job: Job) -> Any:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, job.model_dump_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_workers_share_a_study_without_loss(plain_job: Any, installation: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = plain_job(f"{{seconds: 0.05, log: {log}}}", trials=24, workers=3)
    seen: list[int] = []
    outcome = search(job, installation, on_progress=lambda p: seen.append(p.last.number) if p.last else None)
    assert outcome.counts == {"finished": 24}
    assert outcome.ended == "trials"
    assert sorted(seen) == list(range(24))
    began = Counter(entry["x"] for entry in log_of(log) if entry["what"] == "began")
    assert sorted(began) == sorted(row.values["x"] for row in outcome.rows)
    assert set(began.values()) == {1}
    assert len({entry["pid"] for entry in log_of(log)}) == 3
    assert outcome.best.value > 0.99
    assert (outcome.folder / "report.html").read_text().startswith("<!doctype html>")
    assert not children()


def children() -> list[Any]:
    return [p for p in psutil.Process().children(recursive=True) if "tune.worker" in " ".join(p.cmdline())]


class TestKilled:
    def test_a_worker_that_is_killed_is_replaced_and_its_trial_made_again(
        self, plain_job: Any, installation: Settings, tmp_path: Path
    ) -> None:
        job = plain_job(f"{{kind: kills once, log: {tmp_path / 'log'}}}", trials=3, space=WITH_KIND)
        outcome = search(job, installation)
        assert outcome.counts == {"finished": 3}
        assert outcome.abandoned >= 1
        assert outcome.rows[0].attempt == 2
        assert outcome.rows[0].baseline

    def test_values_that_always_kill_fail_and_the_others_go_on(
        self, plain_job: Any, installation: Settings, tmp_path: Path
    ) -> None:
        job = plain_job("kind: kills", trials=6, space={"x": {"type": "float", "low": 0, "high": 1}, "kind": KINDS})
        outcome = search(job, installation)
        assert outcome.rows[0].state == "failed"
        assert outcome.rows[0].error.startswith("its worker was killed by signal 9 (out of memory?), 2 times")
        assert {row.state for row in outcome.rows if row.values["kind"] == "kills"} == {"failed"}
        assert {row.state for row in outcome.rows if row.values["kind"] == "plain"} == {"finished"}
        assert len(outcome.rows) == 6

    def test_workers_that_die_for_no_trial_end_the_search(
        self, plain_job: Any, installation: Settings, monkeypatch: Any
    ) -> None:
        monkeypatch.setenv("PYTHONPATH", "/nowhere")  # the workers cannot import the objective
        monkeypatch.setattr("headway.components.tune.search.error_file", lambda job, name: job.with_name("unseen"))
        with pytest.raises(
            TrainingError, match=r"3 workers died without a trial, the last one code 1(.|\n)*objectives"
        ):
            search(plain_job(trials=2), installation)

    def test_the_whole_study_killed_goes_on_where_it_was(
        self, plain_job: Any, installation: Settings, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        training = f"{{seconds: 0.5, log: {log}}}"
        job = plain_job(training, trials=8, workers=2)
        first = drive(job)
        wait_for(lambda: sum(entry["what"] == "ended" for entry in log_of(log)) >= 3)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        workers = {entry["pid"] for entry in log_of(log)}
        wait_for(lambda: not any(psutil.pid_exists(pid) and alive(pid) for pid in workers), 10)
        outcome = search(job, installation)
        assert outcome.counts == {"finished": 8}
        ended = Counter(entry["x"] for entry in log_of(log) if entry["what"] == "ended")
        assert set(ended.values()) == {1}  # what was finished is not done again
        assert len(ended) == 8
        assert outcome.abandoned >= 1


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


KINDS = {"type": "categorical", "values": ["kills", "plain"]}
WITH_KIND = {"x": {"type": "float", "low": 0, "high": 1}}


def test_ctrl_c_keeps_what_is_done(plain_job: Any, installation: Settings, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = plain_job(f"{{seconds: 0.4, log: {log}}}", trials=50)
    running = drive(job)
    wait_for(lambda: sum(entry["what"] == "ended" for entry in log_of(log)) >= 2)
    os.kill(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    told = json.loads(out.splitlines()[-1])
    assert told["ended"] == "cancelled"
    assert told["counts"]["finished"] >= 2
    assert Path(told["report"]).exists()
    assert not any(alive(entry["pid"]) for entry in log_of(log))


def test_time_budget(plain_job: Any, installation: Settings) -> None:
    job = plain_job("seconds: 0.3", trials=10_000, minutes=0.1)
    began = time.perf_counter()
    outcome = search(job, installation)
    assert time.perf_counter() - began < 25
    assert outcome.ended == "time"
    assert outcome.counts["finished"] >= 1
    assert outcome.seconds < 6 + 10


def test_a_trial_that_never_reports_is_ended_after_the_time(
    plain_job: Any, installation: Settings, monkeypatch: Any
) -> None:
    from headway.components.tune import search as module

    monkeypatch.setattr(module, "GRACE_SECONDS", 0.5)
    job = plain_job("{seconds: 300, epochs: 1}", trials=2, minutes=0.08)
    outcome = search(job, installation)
    assert outcome.ended == "time"
    assert outcome.counts == {"waiting": 1}
    with pytest.raises(TrainingError, match=r"1 waiting(.|\n)*raise `minutes`"):
        outcome.require_best()
    assert not children()


def test_what_no_worker_can_do_is_said_in_the_workers_words(plain_job: Any, installation: Settings) -> None:
    with pytest.raises(SourceError, match="no such table") as caught:
        search(plain_job(model="broken"), installation)
    assert caught.value.fix == "make one"
    assert not children()


def test_in_this_process_it_finds_the_same(plain_job: Any, installation: Settings) -> None:
    alone = search(plain_job(trials=6), installation, in_process=True)
    fresh = search(plain_job(trials=6), installation, fresh=True)
    assert [row.values for row in alone.rows] == [row.values for row in fresh.rows]
    assert alone.best.value == fresh.best.value
    again = search(plain_job(trials=6), installation)
    assert len(again.rows) == 6  # there was nothing left to do


class TestRecord:
    def runs(self, settings: Settings, outcome: Outcome) -> tuple[Any, list[Any]]:
        from mlflow import MlflowClient

        client = MlflowClient(settings.resolved_tracking_uri)
        experiment = client.get_experiment_by_name(outcome.job.model)
        found = client.search_runs([experiment.experiment_id], order_by=["start_time"])
        parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        assert len(parents) == 1
        children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
        assert len(found) == 1 + len(children)
        return parents[0], children

    def test_one_run_for_the_study_and_one_for_each_trial(self, plain_job: Any, installation: Settings) -> None:
        space = {
            "x": {"type": "float", "low": 0, "high": 1},
            "kind": {"type": "categorical", "values": ["plain", "fails"]},
        }
        outcome = search(plain_job(trials=6, space=space), installation, in_process=True)
        parent, children = self.runs(installation, outcome)
        assert parent.info.status == "FINISHED"
        assert parent.data.metrics["best_roc_auc"] == outcome.best.value
        assert {run.data.tags["headway.trial"] for run in children} == {str(number) for number in range(6)}
        for run in children:
            row = outcome.rows[int(run.data.tags["headway.trial"])]
            assert run.info.status == {"finished": "FINISHED", "failed": "FAILED"}[row.state]
            assert run.data.params["x"] == str(row.values["x"])
            assert ("ValueError" in run.data.tags.get("headway.error", "")) is (row.state == "failed")
            if row.state == "finished":
                assert run.data.metrics["roc_auc"] == row.value

    def test_the_same_run_goes_on(self, plain_job: Any, installation: Settings) -> None:
        search(plain_job(trials=2), installation, in_process=True)
        outcome = search(plain_job(trials=5), installation, in_process=True)
        _, children = self.runs(installation, outcome)
        assert len(children) == 5

    def test_a_deleted_run_is_made_anew(self, plain_job: Any, installation: Settings) -> None:
        from mlflow import MlflowClient

        outcome = search(plain_job(trials=1), installation, in_process=True)
        parent, _ = self.runs(installation, outcome)
        MlflowClient(installation.resolved_tracking_uri).delete_run(parent.info.run_id)
        outcome = search(plain_job(trials=2), installation, in_process=True)
        parent, children = self.runs_alive(installation, outcome)
        assert parent.info.status == "FINISHED"
        assert {run.data.tags["headway.trial"] for run in children} == {"0", "1"}

    def runs_alive(self, settings: Settings, outcome: Outcome) -> tuple[Any, list[Any]]:
        from mlflow import MlflowClient

        client = MlflowClient(settings.resolved_tracking_uri)
        parent = client.get_run(outcome.job.run_id)
        found = client.search_runs([parent.info.experiment_id])
        return parent, [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]

    def test_mlflow_that_does_not_answer_costs_no_trial(
        self, plain_job: Any, installation: Settings, monkeypatch: Any
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with pytest.raises(PlatformError, match=r"MLflow at http://127\.0\.0\.1:9"):
            search(plain_job(trials=1), installation, in_process=True)

    def test_mlflow_that_goes_away_is_told_later(
        self, plain_job: Any, installation: Settings, monkeypatch: Any
    ) -> None:
        from headway.components.tune.tracking import StudyRun

        own, calls = StudyRun._write, []

        def moody(self: Any, row: Any) -> None:
            calls.append(row.number)
            if len(calls) <= 3:
                raise PlatformError("MLflow is away")
            own(self, row)

        monkeypatch.setattr(StudyRun, "_write", moody)
        outcome = search(plain_job(trials=3), installation, in_process=True)
        _, children = self.runs(installation, outcome)
        assert {run.data.tags["headway.trial"] for run in children} == {"0", "1", "2"}


class TestPlan:
    SPACE = {"parameters.max_iter": {"type": "int", "low": 5, "high": 20}}

    def make(self, parts: Any, contract: Any, training: str = "{}", validation: Any = None, **more: Any) -> Job:
        spec = TuningSpec.parse({"space": self.SPACE, **more})
        return plan("shops", contract, training, spec, train=parts[0], validation=validation or parts[1], threads=4)

    def test_the_name_says_what_a_trial_depends_on(self, parts: Any, contract: Any) -> None:
        names = {
            what: self.make(parts, contract, **more).study
            for what, more in {
                "as it is": {},
                "more of it": {"trials": 99, "minutes": 3, "workers": 2},
                "another seed": {"seed": 1},
                "another section": {"training": "seed: 3"},
                "another metric": {"metric": "log_loss"},
                "the metric named": {"metric": "roc_auc"},
            }.items()
        }
        assert names["as it is"] == names["more of it"]
        assert len(set(names.values())) >= 4

    def test_threads_are_shared(self, parts: Any, contract: Any) -> None:
        assert self.make(parts, contract).threads == 4
        assert self.make(parts, contract, workers=3).threads == 1
        assert self.make(parts, contract, workers=9).threads == 1

    def test_refused(self, parts: Any, contract: Any, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="no such file"):
            self.make((tmp_path / "none.parquet", parts[1]), contract)
        with pytest.raises(SourceError, match="no such file"):
            self.make(parts, contract, validation=tmp_path / "none.parquet", evaluation="validation")
        with pytest.raises(ConfigError, match="has no parameter 'max_iter'"):
            self.make(parts, contract, training="estimator: naive_bayes")


def test_a_real_estimator_is_tuned(parts: Any, contract: Any, installation: Settings) -> None:
    spec = TuningSpec.parse(
        {
            "space": {
                **TestPlan.SPACE,
                "parameters.learning_rate": {"type": "float", "low": 0.01, "high": 1, "log": True},
            },
            "trials": 6,
        }
    )
    job = plan("shops", contract, "parameters: {max_iter: 10}", spec, train=parts[0], validation=parts[1], threads=1)
    outcome = search(job, installation)
    assert outcome.counts["finished"] + outcome.counts.get("pruned", 0) == 6
    assert outcome.baseline is not None
    assert outcome.best.value >= outcome.baseline.value
    assert study_folder(job, installation) == outcome.folder
    from headway.components.train.estimators import TrainSpec

    best = TrainSpec.load(outcome.folder / "training.yaml")
    assert best.parameters == {key.removeprefix("parameters."): value for key, value in outcome.best.values.items()}

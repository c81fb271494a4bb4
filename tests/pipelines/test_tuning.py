"""Tuning a project: the pipeline for a cluster under kfp.local, and `headway tune` with its mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from headway.components.bundle import read_info
from headway.components.settings import Settings
from headway.components.train.estimators import TrainSpec
from headway.components.tune.spec import TuningSpec
from headway.pipelines.cli import app
from headway.pipelines.compile import all_tasks, compile_text, load_spec
from headway.pipelines.lint import errors_in, lint_spec
from headway.pipelines.project import resolve
from headway.pipelines.run import run
from headway.pipelines.tune import TuningProject, tune, tuning_of
from headway.pipelines.tuning import tuning

TUNING = """\
tuning:
  space:
    parameters.C: {type: float, low: 0.001, high: 100, log: true}
    class_weight: {type: categorical, values: [balanced, null]}
  trials: 6
"""


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process where OpenMP is loaded already its threads spin while they wait."""
    monkeypatch.setenv("HEADWAY_THREADS", "1")


@pytest.fixture
def project(toy: Path) -> Path:
    with (toy / "model.yaml").open("a") as file:
        file.write(TUNING)
    return toy


@pytest.fixture
def invoke() -> Any:
    return lambda *arguments: CliRunner().invoke(app, ["tune", *map(str, arguments)])


class TestPipeline:
    def test_compiled(self) -> None:
        text = compile_text(tuning)
        assert text == compile_text(tuning)
        spec, platform = load_spec(text)
        assert errors_in(lint_spec((spec, platform))) == []
        tasks = {place.rpartition("/")[2]: task for place, task in all_tasks(spec)}
        assert {"ingest", "data-validate", "tune-start", "tune-worker", "tune-best"} <= tasks.keys()
        assert tasks["tune-worker"]["retryPolicy"]["maxRetryCount"] == 2
        for name in ("tune-start", "tune-worker", "tune-best"):
            assert not tasks[name].get("cachingOptions", {}).get("enableCache")

    @pytest.mark.slow
    def test_workers_share_one_study_under_kfp_local(self, project: Path) -> None:
        """The compiled pipeline, from its file: two workers at once, and the section that `headway tune` finds too."""
        found = tuning_of(resolve(str(project)), {"workers": 2, "trials": 8})
        cluster = TuningProject(project, (), tuning=found)
        compiled = project / "tuning.yaml"
        compiled.write_text(
            compile_text(cluster.pipeline(), name=cluster.pipeline_name, parameters=cluster.arguments())
        )
        result = run(str(compiled)).raise_if_failed()
        steps = {step.name: step for step in result.steps}
        assert sum(step.name == "tune-worker" for step in result.steps) == 2
        best = json.loads(Path(steps["tune-best"].outputs["best"]).read_text())
        assert best["counts"] == {"finished": 8}
        assert {row["worker"] for row in [best["best"]]} <= {"worker-1", "worker-2"}
        section = yaml.safe_load(steps["tune-best"].value)
        assert section["parameters"]["C"] == best["best"]["values"]["parameters.C"]
        # What train takes, as it is.
        assert TrainSpec.parse(steps["tune-best"].value).task == "binary"


@pytest.mark.slow
def test_the_best_values_flow_into_the_model(project: Path) -> None:
    """`headway run` of a project with a tuning section: the bundle holds the estimator that the search found."""
    result = run(str(project), set=["tuning.trials=4", "tuning.workers=2"]).raise_if_failed()
    steps = {step.name: step for step in result.steps}
    best = json.loads(Path(steps["tune"].outputs["best"]).read_text())
    info = read_info(Path(steps["train"].outputs["bundle"]))
    assert info.parameters == {"C": best["best"]["values"]["parameters.C"]}
    assert result.decision == "promote"
    assert "tune" in result.reports


class TestCommand:
    @pytest.mark.slow
    def test_tunes_and_goes_on(self, project: Path, invoke: Any) -> None:
        out = project / "best.yaml"
        done = invoke(project, "--json", "--output", out)
        assert done.exit_code == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["counts"] == {"finished": 6}
        assert told["best"]["value"] >= told["baseline"]
        assert told["training"] == out.read_text()
        best = TrainSpec.load(out)
        assert (best.estimator, best.seed) == ("logistic_regression", 3)
        assert f"trial {told['best']['number']}" in done.stderr
        assert "6/6 trials" in done.stderr
        more = invoke(project, "--trials", 8)
        assert more.exit_code == 0
        assert "8 finished" in more.stdout
        assert "in trial" in more.stdout
        assert more.stderr.count("trial ") >= 2
        assert "= data-validate" in more.stderr  # from the cache
        # The same from Python, from the beginning: the same seed finds the same.
        again = tune(str(project), set=["tuning.trials=8"], fresh=True)
        assert f"{again.best.value:.6g}" in more.stdout
        assert len(again.rows) == 8

    def test_compile(self, project: Path, invoke: Any) -> None:
        path = project / "tuning.yaml"
        done = invoke(project, "--compile", path, "--workers", 7)
        assert done.exit_code == 0
        assert "toy-tuning" in done.stdout
        spec, _ = load_spec(path)
        defaults = spec["root"]["inputDefinitions"]["parameters"]
        section = TuningSpec.parse(defaults["tuning"]["defaultValue"])
        assert (section.workers, section.metric) == (7, "roc_auc")
        assert not Settings().home.exists()  # nothing was searched

    def test_katib(self, project: Path, invoke: Any) -> None:
        path = project / "experiment.yaml"
        done = invoke(project, "--katib", path, "--claim", "toy-data")
        assert done.exit_code == 0, done.stderr
        config_map, experiment = yaml.safe_load_all(path.read_text())
        assert experiment["kind"] == "Experiment"
        assert config_map["metadata"]["name"] == experiment["metadata"]["name"]
        assert "The claim needs" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["toi"], "Unknown pipeline 'toi' - did you mean 'toy'?"),
            (["toy", "--set", "tuning.trails=3"], "tuning.trails is not a known key - did you mean 'trials'?"),
            (["toy", "--set", "training.estimator=naive_bayes"], "'naive_bayes' has no parameter 'C'"),
            (["toy", "--set", "tuning.metric=roc_acu"], "Unknown metric 'roc_acu' - did you mean 'roc_auc'"),
            (["toy", "--set", "tuning={space: {parameters.D: {type: float, low: 1, high: 2}}}"], "no parameter 'D'"),
            (["toy", "--minutes", "0"], "minutes: Input should be greater than 0"),
            (["toy", "--katib", "x.yaml"], "--katib and --claim go together"),
            (["toy", "--katib", "x.yaml", "--claim", "c", "--compile", "y.yaml"], "exclude each other"),
            (["toy", "--trials", "0"], "trials"),
            (["toy", "--workers", "many"], "workers"),
        ],
    )
    def test_a_wrong_call_is_told(self, project: Path, invoke: Any, arguments: list[str], message: str) -> None:
        done = invoke(*arguments)
        assert done.exit_code == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not Settings().home.exists()

    def test_without_a_tuning_section(self, toy: Path, invoke: Any) -> None:
        done = invoke(toy)
        assert done.exit_code == 2
        assert "there is no `tuning` section" in done.stderr

    def test_nothing_but_failures(self, project: Path, invoke: Any) -> None:
        """Each value is taken by itself, and no fit takes them together: only the trials can find out."""
        section = "tuning={space: {parameters.solver: {type: categorical, values: [lbfgs, newton-cg]}}, trials: 2}"
        done = invoke(project, "--set", section, "--set", "training.parameters={l1_ratio: 0.5}", "--in-process")
        assert done.exit_code == 1, done.stderr
        assert "No trial of the study toy-" in done.stderr
        assert "trial 0: Estimator 'logistic_regression' could not be fitted" in done.stderr
        assert "got elasticnet penalty" in done.stderr

    @pytest.mark.slow
    def test_ctrl_c(self, project: Path) -> None:
        command = [sys.executable, "-c", "from headway.pipelines.cli import main; main()", "tune", str(project)]
        running = subprocess.Popen(
            [*command, "--trials", "5000", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert running.stderr is not None
        for text in running.stderr:
            if text.startswith("trial 2"):
                break
        os.kill(running.pid, signal.SIGINT)
        began = time.monotonic()
        out, err = running.communicate(timeout=60)
        assert running.returncode == 130, err
        assert time.monotonic() - began < 30
        told = json.loads(out)
        assert told["ended"] == "cancelled"
        assert told["counts"]["finished"] >= 3
        assert Path(told["report"]).exists()

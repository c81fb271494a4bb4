"""The embedded engine: kfp.local with our workers and our cache, on real compiled pipelines."""

import importlib.util
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from kfp import compiler
from kfp.local import cache as kfp_cache
from kfp.local import subprocess_task_handler

from headway.components.errors import PipelineError
from headway.pipelines.embedded.cache import ContentCache
from headway.pipelines.embedded.engine import run_compiled
from headway.pipelines.embedded.steps import Step, Steps
from headway.pipelines.embedded.workers import FreshInterpreters, InProcess, WarmForks, Workers

PIPELINES = Path(__file__).parent / "small_pipelines.py"


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("small_pipelines", PIPELINES)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    module, found = _module(), {}
    for name in ("conditions", "failing", "loop"):
        path = tmp_path_factory.mktemp("compiled") / f"{name}.yaml"
        compiler.Compiler().compile(getattr(module, name), str(path))
        found[name] = yaml.safe_load(path.read_text())
    return found


class Engine:
    """Runs of one folder, cached between them."""

    def __init__(self, folder: Path, workers: Workers, compiled: dict[str, dict[str, Any]]) -> None:
        self.folder, self.workers, self.compiled = folder, workers, compiled
        self.runs = 0

    def __call__(
        self, name: str, *, cached: bool = True, on_change: Any = None, **arguments: Any
    ) -> dict[str, list[Step]]:
        self.runs += 1
        cache = ContentCache(self.folder / "cache", run=f"run-{self.runs}") if cached else None
        self.steps = Steps([], on_change or (lambda step: None))
        run_compiled(
            self.compiled[name],
            arguments,
            root=self.folder / f"run-{self.runs}",
            cache=cache,
            workers=self.workers,
            steps=self.steps,
            environment={"HEADWAY_TEST": "yes"},
            folder=self.folder,
        )
        return self.by_name()

    def by_name(self) -> dict[str, list[Step]]:
        found: dict[str, list[Step]] = {}
        for step in self.steps:
            found.setdefault(step.name, []).append(step)
        return found


@pytest.fixture(scope="module")
def forks() -> Any:
    with WarmForks(preload=("kfp.dsl.executor_main",)) as workers:
        yield workers


@pytest.fixture
def engine(tmp_path: Path, forks: WarmForks, compiled: dict[str, dict[str, Any]]) -> Engine:
    return Engine(tmp_path, forks, compiled)


class TestARunThatSucceeds:
    def test_tells_metrics_outputs_and_the_value_of_a_gate(self, engine: Engine) -> None:
        steps = engine("conditions", text="hello")
        (made,) = steps["make"]
        assert made.state == "succeeded"
        assert made.metrics == {"length": 5}
        assert made.metadata["table"] == {"rows": 5}
        assert Path(made.outputs["table"]).read_text() == "hello"
        assert steps["read"][0].value == "long"
        assert "making 5" in made.log.read_text()

    def test_takes_only_the_branch_of_the_condition(self, engine: Engine) -> None:
        assert "praise" in engine("conditions", text="hello")
        long, short = engine("conditions", text="hello"), engine("conditions", text="no")
        assert len([step for name in long for step in long[name] if name.startswith("praise")]) == 1
        assert len([step for name in short for step in short[name] if name.startswith("praise")]) == 1
        assert set(long) != set(short)

    def test_runs_every_turn_of_a_loop(self, engine: Engine) -> None:
        made = engine("loop", cached=False)["make"]
        assert sorted(step.metrics["length"] for step in made) == [1, 2, 3]

    @pytest.mark.parametrize("workers", [InProcess(), FreshInterpreters()], ids=["in process", "fresh interpreters"])
    def test_gives_the_same_with_every_kind_of_worker(self, engine: Engine, workers: Workers) -> None:
        expected = engine("conditions", cached=False, text="hello")
        environment = dict(os.environ)
        engine.workers = workers
        found = engine("conditions", cached=False, text="hello")
        assert {name: [s.value for s in steps] for name, steps in found.items()} == {
            name: [s.value for s in steps] for name, steps in expected.items()
        }
        assert dict(os.environ) == environment

    def test_passes_a_parameter_larger_than_the_kernel_allows_on_a_command_line(self, engine: Engine) -> None:
        assert engine("conditions", text="x" * 300_000)["make"][0].metrics == {"length": 300_000}

    def test_does_not_rewrite_a_parameter_that_names_an_interpreter(self, engine: Engine) -> None:
        (made,) = engine("conditions", text="use python3 now")["make"]
        assert Path(made.outputs["table"]).read_text() == "use python3 now"

    def test_puts_kfp_back_as_it_was(self, engine: Engine) -> None:
        launch, cache = subprocess_task_handler.run_local_subprocess, kfp_cache.get_local_cache
        engine("conditions", text="hello")
        assert subprocess_task_handler.run_local_subprocess is launch
        assert kfp_cache.get_local_cache is cache


class TestARunThatFails:
    def test_tells_the_steps_own_error(self, engine: Engine) -> None:
        with pytest.raises(PipelineError, match="Inner task failed: 'fail'"):
            engine("failing", kind="error")
        (failed,) = engine.by_name()["fail"]
        assert failed.state == "failed"
        assert failed.error is not None
        assert failed.error["type"] == "SourceError"
        assert failed.error["code"] == "HW200"
        assert failed.error["message"] == "data.csv: no such file\nFix: check the path"

    def test_tells_a_bugs_traceback_from_the_components_body_on(self, engine: Engine) -> None:
        with pytest.raises(PipelineError):
            engine("failing", kind="bug")
        error = engine.by_name()["fail"][0].error
        assert error is not None
        assert "KeyError: 'missing key'" in error["traceback"]
        assert "executor_main" not in error["traceback"]

    @pytest.mark.parametrize(
        ("kind", "message"),
        [("killed", "the step was killed by signal 9 (out of memory?)"), ("exit", "the step ended with exit code 7")],
    )
    def test_tells_how_a_step_ended_that_left_no_error(self, engine: Engine, kind: str, message: str) -> None:
        with pytest.raises(PipelineError):
            engine("failing", kind=kind)
        error = engine.by_name()["fail"][0].error
        assert error is not None
        assert error["message"] == message

    def test_runs_the_exit_step_and_caches_what_succeeded(self, engine: Engine) -> None:
        with pytest.raises(PipelineError):
            engine("failing", kind="error")
        assert "ended FAILED" in engine.by_name()["last-words"][0].log.read_text()
        with pytest.raises(PipelineError):
            engine("failing", kind="bug")
        assert engine.by_name()["make"][0].state == "cached"


class TestTheCache:
    def test_finds_a_step_whose_inputs_did_not_change(self, engine: Engine) -> None:
        engine("conditions", text="hello")
        steps = engine("conditions", text="hello")
        assert {step.state for found in steps.values() for step in found} == {"cached"}
        assert steps["make"][0].reason == "unchanged since run-1"
        assert steps["make"][0].metrics == {"length": 5}

    def test_says_what_changed(self, engine: Engine) -> None:
        engine("conditions", text="hello")
        cache = ContentCache(engine.folder / "cache", run="x")
        cache.get(cache.compute_key("comp-make", "", ["code"], {"text": "other"}))
        found = cache.reason_for("make")
        assert found is not None
        assert not found.hit
        assert found.reason == "changed: text, the step's own code"

    def test_finds_a_later_step_when_an_earlier_one_ran_again_with_the_same_result(self, engine: Engine) -> None:
        engine("conditions", text="hello")
        for entry in (engine.folder / "cache").glob("*.json"):
            if '"making"' in entry.read_text() or "/make/" in entry.read_text():
                entry.unlink()
        steps = engine("conditions", text="hello")
        assert steps["make"][0].state == "succeeded"
        assert steps["read"][0].state == "cached"

    def test_runs_a_step_again_whose_result_was_changed_on_disk(self, engine: Engine) -> None:
        (made,) = engine("conditions", text="hello")["make"]
        Path(made.outputs["table"]).write_text("tampered")
        (again,) = engine("conditions", text="hello")["make"]
        assert again.state == "succeeded"
        assert Path(again.outputs["table"]).read_text() == "hello"

    def test_survives_an_entry_that_a_kill_cut_off(self, engine: Engine) -> None:
        engine("conditions", text="hello")
        for entry in (engine.folder / "cache").glob("*.entry.json"):
            entry.write_text(entry.read_text()[:10])
        assert engine("conditions", text="hello")["make"][0].state == "succeeded"


class TestCancelling:
    def test_closing_the_connection_ends_the_step_and_all_it_started(self, engine: Engine) -> None:
        children: list[int] = []

        def on_change(step: Step) -> None:
            if step.last_line.startswith("child "):
                children.append(int(step.last_line.split()[1]))
                raise KeyboardInterrupt

        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            engine("failing", kind="slow", cached=False, on_change=on_change)
        deadline = time.monotonic() + 10
        while psutil.pid_exists(children[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not psutil.pid_exists(children[0])
        assert time.monotonic() - started < 30

    def test_the_server_ends_with_its_owner(self) -> None:
        with WarmForks(preload=()) as workers:
            server = workers._server
            assert server is not None
        assert server.poll() is not None

    def test_two_runs_in_two_threads_take_turns(self, engine: Engine) -> None:
        errors: list[BaseException] = []
        other = Engine(engine.folder / "other", engine.workers, engine.compiled)
        other.folder.mkdir()

        def run(which: Engine) -> None:
            try:
                which("conditions", text="hello")
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(which,)) for which in (engine, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert json.loads((Path(engine.by_name()["make"][0].folder) / "executor_output.json").read_text())
